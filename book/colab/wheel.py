"""The wheels that the site serves: this version's, and those of the versions published before.

A notebook names its wheel by file name and hash, so a wheel that was published stays as it is. What has been published
lies in BUILD/published (see `book.colab.publish`); everything that goes on the site is collected in BUILD/wheels.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

# The same source gives the same bytes, whenever it is built.
_EPOCH = "1767225600"


class PublishedError(RuntimeError):
    """A version that was published before has other modules now."""


def provide(root: Path, build: Path) -> Path:
    """Collect all wheels in `build`/wheels and return this version's.

    Raises
    ------
    PublishedError
        If this version was published with other modules.
    """
    published, wheels = build / "published" / "wheels", build / "wheels"
    with tempfile.TemporaryDirectory() as folder:
        fresh = make(root, Path(folder))
        earlier = published / fresh.name
        if earlier.exists() and modules(earlier) != modules(fresh):
            raise PublishedError(
                f"{fresh.name} is published, and dropoutlib has changed since; notebooks rely on its hash, so raise "
                "the version in pyproject.toml and dropoutlib/__init__.py"
            )
        shutil.rmtree(wheels, ignore_errors=True)
        wheels.mkdir(parents=True)
        # A published wheel replaces a fresh one that differs in nothing but, say, the readme.
        for source in (fresh, *sorted(published.glob("*.whl"))):
            shutil.copyfile(source, wheels / source.name)
    return wheels / fresh.name


def make(root: Path, folder: Path) -> Path:
    """Build the wheel of a source tree in an empty folder and return it."""
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    done = subprocess.run(
        command,
        cwd=root,
        env=os.environ | {"SOURCE_DATE_EPOCH": _EPOCH},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"the wheel could not be built:\n{done.stdout}{done.stderr}")
    [built] = folder.glob("*.whl")
    return built


def modules(wheel: Path) -> dict[str, int]:
    """Return the files of the package in a wheel, with their checksums."""
    with zipfile.ZipFile(wheel) as archive:
        return {entry.filename: entry.CRC for entry in archive.infolist() if ".dist-info/" not in entry.filename}


def version(wheel: Path) -> str:
    """Return the version in a wheel's file name."""
    return wheel.name.split("-")[1]


def sha256(wheel: Path) -> str:
    """Return a wheel's hash."""
    return hashlib.sha256(wheel.read_bytes()).hexdigest()
