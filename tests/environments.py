"""Virtual environments that long tests make: a Python of some version, some packages, and nothing of this project."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
COLAB_PYTHON = "3.13"
COLAB_PACKAGES = Path(__file__).with_name("colab-requirements.txt")


def run(*command: str | Path, cwd: Path | None = None, **environment: str) -> str:
    """Run a command to its end and return what it printed."""
    done = subprocess.run(
        [str(part) for part in command],
        capture_output=True,
        text=True,
        check=False,
        cwd=cwd,
        env={**{k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "PYTHONHOME")}, **environment},
    )
    assert done.returncode == 0, f"{command} ended with {done.returncode}:\n{done.stdout}{done.stderr}"
    return done.stdout


def interpreter(version: str) -> Path:
    """Return a Python of this version from the path or from pyenv; one that does not start is none.

    Without one the test is skipped, unless the environment variable REQUIRE_ALL is 1.
    """
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
    message = f"Python {version} is neither on the path nor under pyenv; install it to run this"
    if os.environ.get("REQUIRE_ALL") == "1":
        pytest.fail(message)
    pytest.skip(message)


def make(folder: Path, base: Path, *requirements: str | Path) -> Path:
    """Make an environment with these packages (or options of pip) and what they need, and return its Python.

    Wheels come from pip's cache or index; a busy machine gets pip's own retries.
    """
    run(base, "-m", "venv", folder / "venv")
    python = folder / "venv" / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    run(python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *requirements)
    absent = subprocess.run([python, "-c", "import dropoutlib"], cwd=folder, capture_output=True, check=False)
    assert absent.returncode != 0
    return python
