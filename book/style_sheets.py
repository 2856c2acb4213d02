"""Sphinx extension: one style sheet for all pages, of the rules that they use.

The theme and the extensions bring eleven style sheets, more than half of them for what no page of this book shows. A
rule stays if every class and id in it stands on a page or in a script; so what a script adds keeps its looks.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from html import unescape
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.typing import ExtensionMetadata

from book import icons

SHEET = "_static/pages.css"
# What every page of the theme loads (its templates name them), before what the extensions add.
THEME = ("basic.css", "styles/pydata-sphinx-theme.css")
# Names that scripts put together, and so stand nowhere as a whole.
_PUT_TOGETHER = frozenset(f"fa-{name}" for name in icons.NAMES)
_UNREAD = ("mathjax", "vega.js")

_TOKEN = re.compile(r"""/\*.*?\*/|"(?:\\.|[^"\\])*"|'(?:\\.|[^'\\])*'|\\.|[{};]|[^{};"'\\/]+|/""", re.DOTALL)
_CALL = re.compile(r":(?:is|not|where|has)\((?:[^()]|\([^()]*\))*\)")
_NAME = re.compile(r"[.#]((?:[\w-]|\\.)+)")
_WORD = re.compile(r"[\w-]+")
_SHEET_NAME = re.compile(r'<link[^>]* href="[^"]*?([^"/?]+\.css)[^"]*"')
_MARKUP_NAMES = re.compile(r'\b(?:class|id)="([^"]*)"')


class Rule(NamedTuple):
    """What stands before a block, and the block: other rules, or declarations as they are; None without a block."""

    prelude: str
    block: list[Rule] | str | None


def parse(style_sheet: str) -> list[Rule]:
    """Return the rules of a style sheet, without its comments."""
    tokens = (token for token in _TOKEN.findall(style_sheet) if not token.startswith("/*"))
    return list(_rules(tokens))


def _rules(tokens: Iterator[str]) -> Iterator[Rule]:
    prelude: list[str] = []
    for token in tokens:
        if token == "}":
            return
        if token not in "{;":
            prelude.append(token)
            continue
        head = " ".join("".join(prelude).split())
        prelude = []
        if token == ";":
            yield Rule(head, None)
        elif head.startswith(("@media", "@supports", "@layer", "@container")):
            yield Rule(head, list(_rules(tokens)))
        else:
            yield Rule(head, _declarations(tokens))


def _declarations(tokens: Iterator[str]) -> str:
    text, depth = [], 1
    for token in tokens:
        depth += (token == "{") - (token == "}")
        if not depth:
            break
        text.append(token)
    return " ".join("".join(text).split())


def used(rules: list[Rule], names: set[str]) -> Iterator[Rule]:
    """Yield the rules that can apply where only these classes and ids exist."""
    for rule in rules:
        if isinstance(rule.block, list):
            if inner := list(used(rule.block, names)):
                yield Rule(rule.prelude, inner)
        elif rule.block is None or rule.prelude.startswith("@"):
            yield rule
        elif kept := [selector for selector in _selectors(rule.prelude) if _can_apply(selector, names)]:
            yield Rule(",".join(kept), rule.block)


def _selectors(prelude: str) -> list[str]:
    """Split a list of selectors at the commas that stand in no brackets."""
    return [part.strip() for part in re.split(r",(?![^(]*\))(?![^\[]*\])", prelude)]


def _can_apply(selector: str, names: set[str]) -> bool:
    """Tell whether all names exist that a selector asks for; what it excludes or offers as a choice need not."""
    plain = re.sub(r"\[[^\]]*\]", "", selector)
    while plain != (plain := _CALL.sub("", plain)):
        pass
    return all(re.sub(r"\\(.)", r"\1", name) in names for name in _NAME.findall(plain))


def write(rules: list[Rule]) -> str:
    """Return a style sheet of these rules, one a line."""
    return "".join(
        f"{rule.prelude};\n"
        if rule.block is None
        else f"{rule.prelude}{{{write(rule.block) if isinstance(rule.block, list) else rule.block}}}\n"
        for rule in rules
    )


def names_on(site: Path) -> set[str]:
    """Return every class and id on the pages of a site, and every word in its scripts."""
    found = set(_PUT_TOGETHER)
    for path in site.rglob("*.html"):
        text = path.read_text(encoding="utf-8")
        found.update(*(unescape(value).split() for value in _MARKUP_NAMES.findall(text)))
    for path in (site / "_static").rglob("*.js"):
        if path.relative_to(site / "_static").parts[0] not in _UNREAD:
            found.update(_WORD.findall(path.read_text(encoding="utf-8")))
    return found


class OneSheet:
    """Takes the style sheets for screens from the pages, and puts one in their place."""

    def __init__(self) -> None:
        self.files: list[str] = []

    def replace(
        self, app: Sphinx, pagename: str, templatename: str, context: dict[str, Any], doctree: nodes.document | None
    ) -> None:
        """Note what a page would load; what is for paper alone stays a file of its own."""
        sheets = sorted(context["css_files"], key=lambda sheet: sheet.priority)
        for_paper = [sheet for sheet in sheets if "media" in sheet.attributes]
        self.files += [
            name for sheet in sheets if sheet not in for_paper and (name := str(sheet.filename)) not in self.files
        ]
        context["css_files"] = for_paper

    def write(self, app: Sphinx, exception: Exception | None) -> None:
        """Write the one style sheet, unless no page was written, and remove those that no page asks for now."""
        if exception is not None or app.builder.name != "html":
            return
        site = Path(app.outdir)
        if self.files:
            paths = [site / "_static" / name.removeprefix("_static/") for name in chain(THEME, self.files)]
            rules = [rule for path in paths for rule in parse(path.read_text(encoding="utf-8"))]
            rules = [rule for rule in rules if not rule.prelude.startswith(("@charset", "@import"))]
            text = '@charset "UTF-8";\n' + write(list(used(rules, names_on(site))))
            (site / SHEET).write_text(text, encoding="utf-8")
        wanted = set(_SHEET_NAME.findall((site / "index.html").read_text(encoding="utf-8")))
        for path in (site / "_static").rglob("*.css"):
            if path.name not in wanted:
                path.unlink()


def setup(app: Sphinx) -> ExtensionMetadata:
    sheet = OneSheet()
    app.connect("html-page-context", sheet.replace, priority=900)
    app.connect("build-finished", sheet.write, priority=950)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": False}
