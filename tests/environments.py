"""Virtual environments that long tests make: a Python of some version, some packages, and nothing of this project."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
COLAB_PYTHON = "3.13"
COLAB_PACKAGES = Path(__file__).with_name("colab-requirements.txt")
# A hidden folder, as each build of the book looks through all others.
KEPT = ROOT / "_build" / ".environments"
# In an environment that is made here, what is imported is compiled once, by the first process that imports it.
NOT_INHERITED = ("PYTHONPATH", "PYTHONHOME", "PYTHONDONTWRITEBYTECODE")


def run(*command: str | Path, cwd: Path | None = None, **environment: str) -> str:
    """Run a command to its end and return what it printed."""
    done = subprocess.run(
        [str(part) for part in command],
        capture_output=True,
        text=True,
        check=False,
        cwd=cwd,
        env={**{k: v for k, v in os.environ.items() if k not in NOT_INHERITED}, **environment},
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
    python = _python(folder)
    # Compiling every module of TensorFlow takes longer than installing it.
    run(python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-compile", *requirements)
    assert_nothing_of_this_project(python, folder)
    return python


def kept(name: str, base: Path, *requirements: str | Path) -> Path:
    """Return the Python of an environment that every test and run may share, and that none changes.

    Whoever comes first makes it, while others wait; it stays in `_build` until its Python or its requirements (or a
    file that these name) change. One that was not made to its end is made anew.
    """
    import fcntl

    folder, wanted = KEPT / name, _described(base, requirements)
    folder.mkdir(parents=True, exist_ok=True)
    mark = folder / "made.txt"
    with (KEPT / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not mark.is_file() or mark.read_text(encoding="utf-8") != wanted:
            mark.unlink(missing_ok=True)
            shutil.rmtree(folder / "venv", ignore_errors=True)
            make(folder, base, *requirements)
            mark.write_text(wanted, encoding="utf-8")
    assert_nothing_of_this_project(_python(folder), folder)
    return _python(folder)


def over(folder: Path, below: Path) -> Path:
    """Make an empty environment that sees the packages of another, and return its Python.

    What pip installs or removes here leaves the other as it is.
    """
    paths = "import sysconfig; print(sysconfig.get_path('purelib'))"
    packages = run(below, "-c", paths).strip()
    run(below, "-m", "venv", "--without-pip", folder / "venv")
    python = _python(folder)
    own = Path(run(python, "-c", paths).strip())
    # Unlike a plain line, this reads the path files of the other too.
    (own / "below.pth").write_text(f"import site; site.addsitedir({packages!r})\n", encoding="utf-8")
    return python


def assert_nothing_of_this_project(python: Path, folder: Path) -> None:
    absent = subprocess.run([python, "-c", "import dropoutlib"], cwd=folder, capture_output=True, check=False)
    assert absent.returncode != 0


def _python(folder: Path) -> Path:
    return folder / "venv" / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


def _described(base: Path, requirements: tuple[str | Path, ...]) -> str:
    """Return the Python, and each requirement with the digest of the file that it names, if it does."""
    lines = [f"{base} {run(base, '-c', 'import sys; print(sys.version)').strip()}"]
    for requirement in requirements:
        digest = hashlib.sha256(requirement.read_bytes()).hexdigest() if isinstance(requirement, Path) else ""
        lines.append(f"{requirement} {digest}".rstrip())
    return "\n".join(lines)
