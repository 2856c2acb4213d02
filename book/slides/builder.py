"""Sphinx builder that writes the slides of each chapter as one HTML file."""

from __future__ import annotations

import base64
import importlib.util
import mimetypes
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from docutils import nodes
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from pygments.formatters import HtmlFormatter  # type: ignore[import-untyped]
from sphinx.builders.html import StandaloneHTMLBuilder

from book.colab.builder import Numbers, chapters
from book.slides.selection import Slide, slides

_HERE = Path(__file__).parent
_STYLES = {"light": "a11y-high-contrast-light", "dark": "a11y-high-contrast-dark"}


class SlidesBuilder(StandaloneHTMLBuilder):
    """One file for each chapter, all in one folder."""

    name = "slides"
    epilog = "The slides are in %(outdir)s."
    search = False
    add_permalinks = False
    allow_parallel = False

    def get_outdated_docs(self) -> list[str]:  # type: ignore[override]
        return chapters(self.env)

    def prepare_writing(self, docnames: set[str]) -> None:
        super().prepare_writing(docnames)
        self._made: dict[str, tuple[str, int]] = {}
        environment = Environment(loader=FileSystemLoader(_HERE), autoescape=True, undefined=StrictUndefined)
        self._deck, self._list = environment.get_template("deck.html"), environment.get_template("list.html")
        code = [
            f"{rule} .highlight {{ background: none }}\n"
            + HtmlFormatter(style=style).get_style_defs(f"{rule} .highlight")
            for rule, style in (("html", _STYLES["light"]), ("html[data-theme=dark]", _STYLES["dark"]))
        ]
        self._shared = {
            "course": self.config.html_title,
            "author": self.config.author,
            "css": (_HERE / "deck.css").read_text(encoding="utf-8"),
            # Dark only on a screen: paper stays white.
            "book_css": (Path(self.srcdir) / "book/static/book.css").read_text(encoding="utf-8") + code[1],
            "code_css": code[0],
            "script": (_HERE / "deck.js").read_text(encoding="utf-8"),
            "mathjax": _mathjax(),
        }

    def write_doc(self, docname: str, doctree: nodes.document) -> None:
        if docname not in chapters(self.env):
            return
        doctree.settings = self.docsettings
        self.secnumbers = {}
        self.fignumbers = self.env.toc_fignumbers.get(docname, {})
        self.current_docname = docname
        _simplify(doctree, Path(self.srcdir))
        made = slides(doctree, Numbers(self.env, docname))
        name = Path(docname).name
        title = self._plain(made[0])
        shown = [
            {
                "kind": slide.kind,
                "title": self._html(slide.title, doctree),
                "plain": self._plain(slide),
                "body": self._html(slide.body, doctree),
                "notes": self._html(slide.notes, doctree),
            }
            for slide in made
        ]
        text = self._deck.render(title=title, slides=shown, **self._shared)
        Path(self.outdir, f"{name}.html").write_text(text, encoding="utf-8")
        self._made[name] = title, len(made)

    def write_doc_serialized(self, docname: str, doctree: nodes.document) -> None:
        """Leave images where they are: the slides hold them."""

    def finish(self) -> None:
        names = [Path(name).name for name in self.env.toctree_includes.get(self.config.root_doc, [])]
        decks = [(name, *self._made[name]) for name in names if name in self._made]
        assert len(decks) == len(self._made)
        text = self._list.render(decks=decks, **self._shared)
        Path(self.outdir, "index.html").write_text(text, encoding="utf-8")
        for stale in Path(self.outdir).glob("*.html"):
            if stale.stem not in {*self._made, "index"}:
                stale.unlink()

    def _html(self, elements: Sequence[nodes.Node], document: nodes.document) -> str:
        translator: Any = self.create_translator(document, self)
        for element in elements:
            element.walkabout(translator)
        return "".join(translator.body)

    @staticmethod
    def _plain(slide: Slide) -> str:
        return " ".join("".join(node.astext() for node in slide.title).split())


def _simplify(doctree: nodes.document, folder: Path) -> None:
    """Take out what is for pages of a book: marks of claims, links inside the book, files of images."""
    for mark in [node for node in doctree.findall(nodes.inline) if "claim-mark" in node["classes"]]:
        _remove(mark)
    for link in list(doctree.findall(nodes.reference)):
        if not re.match(r"https?:", str(link.get("refuri", ""))):
            link.replace_self(nodes.inline("", "", *link.children))
    for image in doctree.findall(nodes.image):
        path = folder / image["uri"]
        kind = mimetypes.guess_type(path.name)[0] or "image/png"
        image["uri"] = f"data:{kind};base64,{base64.b64encode(path.read_bytes()).decode()}"


def _remove(mark: nodes.Element) -> None:
    """Remove a mark and the space before it."""
    parent, place = mark.parent, mark.parent.index(mark)
    if place and isinstance(before := parent[place - 1], nodes.Text):
        parent[place - 1] = nodes.Text(before.rstrip())
    parent.remove(mark)


def _mathjax() -> str:
    """Return MathJax with everything that it might load later, as it can stand inside of a page."""
    # The package's name is no identifier, so it cannot be imported by a statement.
    package = importlib.util.find_spec("sphinx-mathjax-offline")
    assert package is not None
    assert package.origin is not None
    script = Path(package.origin).parent / "static" / "mathjax" / "tex-svg-full.js"
    return script.read_text(encoding="utf-8").replace("</script", "<\\/script").replace("<!--", "<\\!--")
