"""The frozen digests on every supported Python, with the oldest and the newest NumPy that exists for it.

Each case makes a virtual environment of its own, so this installs NumPy and is part of the long run only. An absent
interpreter is skipped, unless the environment variable REQUIRE_ALL is 1.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SCRIPT = ROOT / "tests" / "stream_digests.py"
GOLDEN = ROOT / "tests" / "stream_digests.json"
OLDEST_NUMPY = {"3.11": "1.26", "3.12": "1.26", "3.13": "2.1"}
NEWEST = "newest"
CASES = [(python, numpy) for python, oldest in OLDEST_NUMPY.items() for numpy in (oldest, NEWEST)]


def run(*command: str | Path, **environment: str) -> str:
    """Run a command to its end and return what it printed."""
    done = subprocess.run(
        [str(part) for part in command],
        capture_output=True,
        text=True,
        check=False,
        env={**{k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "PYTHONHOME")}, **environment},
    )
    assert done.returncode == 0, f"{command} ended with {done.returncode}:\n{done.stdout}{done.stderr}"
    return done.stdout


def interpreter(version: str) -> Path | None:
    """Return a Python of this version from the path or from pyenv; one that does not start is none."""
    pyenv = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv") / "versions"
    found = shutil.which(f"python{version}")
    candidates = [Path(sys.executable)] + ([Path(found)] if found else [])
    candidates += sorted(pyenv.glob(f"{version}.*/bin/python"))
    for candidate in candidates:
        told = subprocess.run(
            [str(candidate), "-c", "import ensurepip, sys, venv; print('%d.%d' % sys.version_info[:2])"],
            capture_output=True,
            text=True,
            check=False,
        )
        if told.returncode == 0 and told.stdout.strip() == version:
            return candidate
    return None


def pip_install(python: Path, requirement: str) -> None:
    """Install a wheel from pip's cache or index; a busy machine gets pip's own retries."""
    run(python, "-m", "pip", "install", "--quiet", "--only-binary=:all:", "--disable-pip-version-check", requirement)


@pytest.mark.long
@pytest.mark.parametrize(("python", "numpy"), CASES, ids=[f"python{python}-numpy-{numpy}" for python, numpy in CASES])
def test_digests_on(python: str, numpy: str, tmp_path: Path) -> None:
    base = interpreter(python)
    if base is None:
        message = f"Python {python} is neither on the path nor under pyenv; install it to check its streams"
        if os.environ.get("REQUIRE_ALL") == "1":
            pytest.fail(message)
        pytest.skip(message)
    run(base, "-m", "venv", tmp_path / "venv")
    own = tmp_path / "venv" / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    pip_install(own, "numpy" if numpy == NEWEST else f"numpy=={numpy}.*")
    versions = run(own, "-c", "import sys, numpy; print('%d.%d' % sys.version_info[:2], numpy.__version__)").split()
    assert versions[0] == python
    assert numpy == NEWEST or versions[1].startswith(numpy + ".")
    digests = json.loads(run(own, "-P", SCRIPT, PYTHONPATH=str(ROOT), PYTHONDONTWRITEBYTECODE="1"))
    assert digests == json.loads(GOLDEN.read_text()), f"Python {versions[0]}, NumPy {versions[1]}"


def test_the_matrix_starts_at_the_declared_lower_bounds() -> None:
    """The oldest NumPy of the oldest Python is the lower bound of the package."""
    project = (ROOT / "pyproject.toml").read_text()
    assert re.search(r'requires-python = ">=3\.11"', project)
    bound = re.search(r'"numpy>=([0-9.]+)"', project)
    assert bound
    assert bound.group(1) == OLDEST_NUMPY["3.11"]
    assert len(OLDEST_NUMPY) == 3
