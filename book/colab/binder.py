"""Which chapters run on Binder, and what it needs to run them.

Binder makes its environment from the folder `binder` of a branch. The branch that is published gets the repository's
own folder, with the published wheel in the place of the package's sources. Frameworks are too large for it, so the
chapters that import one have no button.
"""

from __future__ import annotations

import ast
import shutil
import sys
from pathlib import Path

from packaging.version import Version

from book.colab.wheel import version
from book.notebooks import code_cells, read

FOLDER = "binder"
_OWN = "."
# What `binder/requirements.txt` brings, with what that needs.
_MODULES = {"IPython", "dropoutlib", "matplotlib", "mlxtend", "numpy", "scipy", "sklearn"}
_FRAMEWORKS = "dropoutlib.frameworks"


def runs(chapter: Path) -> bool:
    """Return whether all that a chapter imports is there."""
    imported: set[str] = set()
    for _, cell in code_cells(read(chapter)):
        for node in ast.walk(ast.parse(cell.source)):
            if isinstance(node, ast.Import):
                imported.update(alias.name for alias in node.names)
            elif isinstance(node, ast.ImportFrom) and node.module:
                imported.add(node.module)
    known = _MODULES | sys.stdlib_module_names
    return all(name.split(".")[0] in known and not name.startswith(_FRAMEWORKS) for name in imported)


def stage(root: Path, branch: Path) -> None:
    """Put Binder's files into the folder of a branch, which has its wheels already."""
    newest = max((branch / "wheels").glob("*.whl"), key=lambda wheel: Version(version(wheel)))
    shutil.copytree(root / FOLDER, branch / FOLDER)
    requirements = branch / FOLDER / "requirements.txt"
    lines = requirements.read_text(encoding="utf-8").splitlines()
    text = "\n".join(f"./wheels/{newest.name}" if line == _OWN else line for line in lines)
    requirements.write_text(text + "\n", encoding="utf-8")
