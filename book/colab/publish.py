"""Publishes the notebooks, and keeps every wheel that a published notebook may ask for.

The branch `colab` of the repository holds both: the notebooks that the buttons open, and all wheels published so far;
and what Binder needs to open the notebooks there.
The pages are replaced as a whole each time, so the wheels go from the branch into the next site.

`python -m book.colab.publish fetch`, before the build, gets the published wheels; the site then serves them too.
`python -m book.colab.publish push`, when the site is up, makes notebooks and wheels the branch's next commit.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from book.colab import binder
from book.colab.site import BRANCH, Site

ROOT = Path(__file__).resolve().parents[2]
_REF = f"refs/heads/{BRANCH}"
_IDENTITY = {
    f"GIT_{role}_{key}": value
    for role in ("AUTHOR", "COMMITTER")
    for key, value in (("NAME", "publish"), ("EMAIL", "publish@localhost"))
}


def fetch(root: Path = ROOT) -> str:
    """Put the published wheels in _build/published and return what was found, for the reader."""
    published = root / "_build" / "published"
    shutil.rmtree(published, ignore_errors=True)
    (published / "wheels").mkdir(parents=True)
    if not _git(root, "ls-remote", "origin", _REF):
        return f"there is no branch {BRANCH} yet"
    _git(root, "fetch", "--quiet", "--depth=1", "origin", _REF)
    parent = _git(root, "rev-parse", "FETCH_HEAD")
    (published / "parent").write_text(parent, encoding="utf-8")
    names = _git(root, "ls-tree", "--name-only", parent, "wheels/").splitlines()
    for name in names:
        (published / name).write_bytes(_run(root, "cat-file", "blob", f"{parent}:{name}"))
    return f"{len(names)} published wheels"


def push(root: Path = ROOT) -> str:
    """Make what was built the next commit of the branch and return what was done, for the reader.

    Raises
    ------
    RuntimeError
        If the notebooks were made for no site, or git refuses, for one if another publication came between.
    """
    site = Site.from_environment()
    if not (site.repository and site.url):
        raise RuntimeError(
            "set BOOK_REPOSITORY and BOOK_URL, for the build too; without them the notebooks are nobody's"
        )
    build = root / "_build"
    stage, index, parent_file = build / "branch", build / "branch.index", build / "published" / "parent"
    shutil.rmtree(stage, ignore_errors=True)
    index.unlink(missing_ok=True)
    shutil.copytree(build / "html" / "wheels", stage / "wheels")
    notebooks = sorted((build / BRANCH).glob("*.ipynb"))
    for notebook in notebooks:
        shutil.copyfile(notebook, stage / notebook.name)
    binder.stage(root, stage)
    own_index = {"GIT_INDEX_FILE": str(index), "GIT_DIR": _git(root, "rev-parse", "--absolute-git-dir")}
    _git(stage, "--work-tree=.", "add", "--all", "--force", ".", **own_index)
    tree = _git(root, "write-tree", **own_index)
    parent = parent_file.read_text(encoding="utf-8") if parent_file.exists() else ""
    if parent and _git(root, "rev-parse", f"{parent}^{{tree}}") == tree:
        return "nothing has changed since the last publication"
    message = f"Notebooks and wheels of {_git(root, 'rev-parse', 'HEAD')}"
    ancestry = ["-p", parent] if parent else []
    commit = _git(root, "commit-tree", tree, *ancestry, "-m", message, **_IDENTITY)
    _git(root, "push", "--quiet", "origin", f"{commit}:{_REF}")
    return f"{len(notebooks)} notebooks are on the branch {BRANCH} of {site.repository}"


def _git(folder: Path, *arguments: str, **environment: str) -> str:
    return _run(folder, *arguments, **environment).decode().strip()


def _run(folder: Path, *arguments: str, **environment: str) -> bytes:
    done = subprocess.run(
        ["git", *arguments], cwd=folder, env=os.environ | environment, capture_output=True, check=False
    )
    if done.returncode:
        raise RuntimeError(f"git {' '.join(arguments)} failed: {done.stderr.decode().strip()}")
    return done.stdout


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one of the two steps; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m book.colab.publish", description="publish notebooks and wheels")
    parser.add_argument("step", choices=("fetch", "push"))
    step = {"fetch": fetch, "push": push}[parser.parse_args(arguments).step]
    try:
        print(step())
    except RuntimeError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
