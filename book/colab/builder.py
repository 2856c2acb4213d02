"""Sphinx builder that writes each chapter as a notebook of plain Markdown, code and stored outputs."""

from __future__ import annotations

import copy
import itertools
import posixpath
from collections.abc import Iterable
from pathlib import Path
from typing import TypeGuard

import nbformat
from docutils import nodes
from nbformat import NotebookNode
from sphinx.builders import Builder
from sphinx.environment import BuildEnvironment
from sphinx.errors import SphinxError

from book.colab import wheel
from book.colab.markdown import Markdown, folded, lead
from book.colab.site import Site

# A page of the book in a resolved reference, before it is known whether there is a site.
_PAGE = "book:"
_FOLDED_TAGS = {"hide-input", "hide-cell", "remove-input", "remove-cell"}
INSTALL_CELL = """\
# Installs dropoutlib {version}, the package of this course, from the site that serves the book.
# pip checks its hash and installs nothing else: no package that is here changes.
# Where this version is here already, nothing happens.
import importlib
import subprocess
import sys

wheel = "{address}"
try:
    import dropoutlib
except ImportError:
    dropoutlib = None
if getattr(dropoutlib, "__version__", None) != "{version}":
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    subprocess.run([*pip, "install", "--quiet", "--no-deps", wheel], check=True)
    for name in [name for name in sys.modules if name.split(".")[0] == "dropoutlib"]:
        del sys.modules[name]
    importlib.invalidate_caches()"""


def chapters(env: BuildEnvironment) -> list[str]:
    """Return the documents that are notebooks."""
    return sorted(name for name in env.found_docs if env.doc2path(name).endswith(".ipynb"))


def notebook_name(docname: str) -> str:
    """Return the file name of a chapter's notebook."""
    return f"{posixpath.basename(docname)}.ipynb"


class ColabBuilder(Builder):
    """One notebook for each chapter, all in one folder."""

    name = "colab"
    format = "colab"
    epilog = "The notebooks are in %(outdir)s."
    allow_parallel = True
    supported_image_types = ["image/svg+xml", "image/png", "image/gif", "image/jpeg"]  # noqa: RUF012

    def init(self) -> None:
        self.site = Site.of(self.config)

    def get_outdated_docs(self) -> list[str]:
        names = chapters(self.env)
        if len(set(map(notebook_name, names))) != len(names):
            raise SphinxError(f"two chapters have one name, so their notebooks would be one file: {', '.join(names)}")
        return names

    def get_target_uri(self, docname: str, typ: str | None = None) -> str:
        return f"{_PAGE}{docname}.html"

    def get_relative_uri(self, from_: str, to: str, typ: str | None = None) -> str:
        return self.get_target_uri(to, typ)

    def prepare_writing(self, docnames: set[str]) -> None:
        out = Path(self.outdir)
        for stale in {path.name for path in out.glob("*.ipynb")} - set(map(notebook_name, chapters(self.env))):
            (out / stale).unlink()
        self._wheel = wheel.provide(Path(self.srcdir), out.parent)

    def write_doc(self, docname: str, doctree: nodes.document) -> None:
        if docname not in chapters(self.env):
            return
        stored = nbformat.read(self.env.doc2path(docname), as_version=4)
        addresses, numbers = _Addresses(self.site, docname, doctree), Numbers(self.env, docname)
        cells = _Cells(stored, Markdown(addresses, numbers, Path(self.srcdir)), numbers)
        cells.add(doctree.children)
        notebook = nbformat.v4.new_notebook(
            metadata={
                **{key: stored.metadata[key] for key in stored.metadata if key != "mystnb"},
                "colab": {"name": notebook_name(docname), "provenance": [], "toc_visible": True},
            },
            cells=[self.install_cell(), *cells.finished()],
        )
        nbformat.validate(notebook)
        nbformat.write(notebook, Path(self.outdir) / notebook_name(docname))

    def install_cell(self) -> NotebookNode:
        """Return the first cell, which gives the others their package."""
        address = self.site.wheel(self._wheel.name, wheel.sha256(self._wheel))
        source = INSTALL_CELL.format(version=wheel.version(self._wheel), address=address)
        cell: NotebookNode = nbformat.v4.new_code_cell(source, id="install", metadata={"tags": ["install"]})
        return cell


class _Addresses:
    """Where the references of a document lead: a cited work to where it can be read, all else to the book's pages."""

    def __init__(self, site: Site, docname: str, doctree: nodes.document) -> None:
        self._site = site
        self._here = f"{docname}.html"
        self._works = {
            anchor: str(link["refuri"])
            for citation in doctree.findall(nodes.citation)
            for link in list(citation.findall(nodes.reference))[:1]
            for anchor in citation["ids"]
        }

    def __call__(self, reference: nodes.Element) -> str:
        uri = str(reference.get("refuri", ""))
        anchor = str(reference.get("refid", "")) or uri.removeprefix("#")
        if uri.startswith(_PAGE):
            return self._site.page(uri.removeprefix(_PAGE))
        if uri and not uri.startswith("#"):
            return uri
        return self._works.get(anchor) or self._site.page(f"{self._here}#{anchor}")


class Numbers:
    """The numbers that the book gives to figures, theorems and exercises of a document."""

    def __init__(self, env: BuildEnvironment, docname: str) -> None:
        self._of = env.toc_fignumbers.get(docname, {})

    def __call__(self, kind: str, node: nodes.Element) -> str:
        numbers = self._of.get(kind, {})
        return next((".".join(map(str, numbers[anchor])) for anchor in node["ids"] if anchor in numbers), "")


class _Cells:
    """The cells of a chapter's second rendering, made in reading order."""

    def __init__(self, stored: NotebookNode, markdown: Markdown, numbers: Numbers) -> None:
        self._stored = stored
        self._markdown = markdown
        self._numbers = numbers
        self._next = 0
        self._text: list[str] = []
        self._cells: list[NotebookNode] = []

    def finished(self) -> list[NotebookNode]:
        """Return all cells."""
        self._add_hidden_code(len(self._stored.cells))
        self._end_text()
        return self._cells

    def add(self, elements: Iterable[nodes.Node], level: int = 0) -> None:
        """Add the elements of a document, a section or an exercise."""
        for node in elements:
            if not isinstance(node, nodes.Element):
                continue
            if isinstance(node, nodes.title):
                self._end_text()
                self._text.append(f"{'#' * min(level, 6)} {self._markdown.inline(node.children).strip()}")
            elif isinstance(node, nodes.section):
                self.add(node.children, level + 1)
            elif is_code_cell(node):
                self._add_code(node)
            elif type(node).__name__ in ("exercise_node", "exercise_enumerable_node"):
                self._add_exercise(node)
            elif type(node).__name__ == "solution_node":
                self._add_solution(node)
            elif any(map(is_code_cell, node.findall(nodes.container))):
                self.add(node.children, level)
            else:
                self._text.append(self._markdown.block(node))
                if self._text[-1].endswith("</details>"):
                    # The next cell keeps its distance; the next paragraph does not.
                    self._end_text()

    def _add_exercise(self, node: nodes.Element) -> None:
        self._end_text()
        title, content = node.children
        # A numbered exercise's title holds what comes after the number.
        number = self._numbers("exercise", node)
        name = (f"Exercise {number}" if number else "") + self._markdown.inline(title.children).rstrip()
        text = list(itertools.takewhile(lambda child: not is_code_cell(child), content.children))
        self._text.append(lead(f"**{name}.**", self._markdown.blocks(text)))
        self.add(content.children[len(text) :])

    def _add_solution(self, node: nodes.Element) -> None:
        self._end_text()
        title, content = node.children
        name = " ".join(title.astext().split())
        if any(map(is_code_cell, content.children)):
            name += " (its code is in the folded cell below)"
        for is_code, elements in itertools.groupby(content.children, is_code_cell):
            if is_code:
                if not self._text:
                    self._text.append(f"**{name}**")
                for cell in filter(is_code_cell, elements):
                    self._add_code(cell, hidden=True)
            else:
                self._text.append(folded(name, self._markdown.blocks(elements)))

    def _add_code(self, node: nodes.Element, hidden: bool = False) -> None:
        self._add_hidden_code(node["cell_index"])
        self._copy(hidden)
        self._text += [self._markdown.block(caption) for caption in node.findall(nodes.caption)]
        if alt := self._alt(node["cell_index"]):
            self._text.append(folded("The figure in words", alt))

    def _add_hidden_code(self, end: int) -> None:
        """Add the code cells that no page shows; the others may need them."""
        while self._next < end:
            self._copy(hidden=True)

    def _copy(self, hidden: bool) -> None:
        """Add the next stored cell if it holds code; text comes from the pages."""
        index, self._next = self._next, self._next + 1
        stored = self._stored.cells[index]
        if stored.cell_type != "code":
            return
        self._end_text()
        cell = copy.deepcopy(stored)
        cell.metadata.pop("mystnb", None)
        if hidden or _FOLDED_TAGS & set(cell.metadata.get("tags", [])):
            cell.metadata.update({"cellView": "form", "jupyter": {"source_hidden": True}})
        for output in cell.outputs:
            for kind in output.get("data", {}):
                if kind.startswith("image/"):
                    output.metadata.setdefault(kind, {})["alt"] = self._alt(index)
        self._cells.append(cell)

    def _alt(self, index: int) -> str:
        return str(self._stored.cells[index].metadata.get("mystnb", {}).get("image", {}).get("alt", ""))

    def _end_text(self) -> None:
        text = "\n\n".join(filter(None, self._text))
        if text:
            name = f"text-{len(self._cells):02}"
            self._cells.append(nbformat.v4.new_markdown_cell(text, id=name))
        self._text = []


def is_code_cell(node: nodes.Node) -> TypeGuard[nodes.container]:
    """Return whether a node is a code cell with its outputs."""
    return isinstance(node, nodes.container) and node.get("nb_element") == "cell_code"
