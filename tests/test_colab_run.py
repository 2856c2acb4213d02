"""Every notebook for Colab, run from top to bottom where nothing of this project is: only its site, on this machine.

Two environments are made with pip, and kept: one with the packages of this book's own lock file, one with the versions
that Google Colab has. Each notebook runs in an empty environment of its own on top of one of them, and finds there the
wheel that is served at an address on this machine, for which the notebooks are built. Other tests say that the pages'
site serves this same wheel.
"""

from __future__ import annotations

import ast
import json
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import pytest
from nbclient import NotebookClient

import dropoutlib
from book import notebooks
from tests.book.building import build, served
from tests.environments import (
    COLAB_PACKAGES,
    COLAB_PYTHON,
    NOT_INHERITED,
    assert_nothing_of_this_project,
    interpreter,
    kept,
    over,
    run,
)

CHAPTERS = notebooks.chapters()
# What the kernel and every chapter need, and what some import.
ALWAYS = ("ipykernel", "matplotlib", "mlxtend", "numpy", "scikit-learn")
TENSORFLOW = "tensorflow-cpu" if sys.platform == "linux" else "tensorflow"
FRAMEWORKS = {
    "torch": ("torch",),
    "pytorch": ("torch",),
    "tensorflow": (TENSORFLOW,),
    "keras": ("keras", TENSORFLOW),
    "jax": ("jax",),
    "flax": ("flax",),
    "onnx": ("onnx",),
}
NOT_OF_THIS_PROJECT = (*NOT_INHERITED, "VIRTUAL_ENV", "IPYTHONDIR", "JUPYTER_PATH")

pytestmark = pytest.mark.long


def imports(chapter: Path) -> set[str]:
    """Return every name on the way to a module that a chapter's code imports."""
    found: set[str] = set()
    for _, cell in notebooks.code_cells(notebooks.read(chapter)):
        for node in ast.walk(ast.parse(cell.source)):
            if isinstance(node, ast.Import):
                found.update(*(alias.name.split(".") for alias in node.names))
            elif isinstance(node, ast.ImportFrom) and node.module:
                found.update(node.module.split("."))
    return found


@dataclass
class Environment:
    """A virtual environment, with what pip says that it holds, and the folder where Jupyter finds its kernel."""

    python: Path
    jupyter: Path

    @cached_property
    def frozen(self) -> set[str]:
        return set(run(self.python, "-m", "pip", "freeze", "--disable-pip-version-check").splitlines())

    def has(self, package: str) -> bool:
        return any(line.startswith(f"{package}==") for line in self.frozen)

    def run(self, path: Path, folder: Path) -> list[str]:
        """Run a notebook in a folder and return what its cells print."""
        notebook = notebooks.read(path)
        client = NotebookClient(
            notebook, kernel_name="here", timeout=900, resources={"metadata": {"path": str(folder)}}
        )
        environment = {name: value for name, value in os.environ.items() if name not in NOT_OF_THIS_PROJECT}
        client.execute(env=environment | {"TF_CPP_MIN_LOG_LEVEL": "3", "IPYTHONDIR": str(self.jupyter / "ipython")})
        return [output.get("text", "") for cell in notebook.cells for output in cell.get("outputs", [])]


def with_kernel(folder: Path, python: Path) -> Environment:
    """Return an environment with a kernel in it."""
    spec = folder / "jupyter" / "kernels" / "here"
    spec.mkdir(parents=True)
    argv = [str(python), "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    (spec / "kernel.json").write_text(json.dumps({"argv": argv, "display_name": "Here", "language": "python"}))
    return Environment(python, folder / "jupyter")


def locked() -> Path:
    """The packages of the chapters at the versions of the lock file."""
    frameworks = {name for chapter in CHAPTERS for key in imports(chapter) for name in FRAMEWORKS.get(key, ())}
    constraints = notebooks.ROOT / "constraints.txt"
    return kept("locked", Path(sys.executable), "-c", constraints, *ALWAYS, *sorted(frameworks))


def colab() -> Path:
    """Colab's Python and the versions of its packages, without PyTorch."""
    return kept("colab", interpreter(COLAB_PYTHON), "-r", COLAB_PACKAGES)


@pytest.fixture(scope="module", params=(locked, colab), ids=lambda make_environment: make_environment.__name__)
def packages(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Environment:
    """An environment that each notebook sees, and that none changes."""
    return with_kernel(tmp_path_factory.mktemp("packages"), request.param())


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """Address of the served site, and the folder of the notebooks that were made for it."""
    folder = tmp_path_factory.mktemp("site")
    with served(folder / "_build") as address:
        yield address, build(folder, "colab", url=address) / "colab"


@pytest.mark.parametrize("chapter", CHAPTERS, ids=lambda path: path.stem)
def test_a_notebook_runs_where_nothing_of_this_project_is(
    packages: Environment,
    site: tuple[str, Path],
    chapter: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if {"torch", "pytorch"} & imports(chapter) and not packages.has("torch"):
        pytest.skip("needs PyTorch, whose wheel of Colab's version is gigabytes; run in the other environment only")
    own = with_kernel(tmp_path, over(tmp_path, packages.python))
    assert_nothing_of_this_project(own.python, tmp_path)
    monkeypatch.setenv("JUPYTER_PATH", str(own.jupyter))
    address, folder = site
    printed = own.run(folder / chapter.name, tmp_path)
    before, after = packages.frozen, own.frozen
    assert before - after == set()
    [installed] = after - before
    name = f"dropoutlib-{dropoutlib.__version__}-py3-none-any.whl"
    assert installed.startswith(f"dropoutlib @ {address}/wheels/{name}#sha256=")
    assert any(f"dropoutlib {dropoutlib.__version__}" in text for text in printed)
