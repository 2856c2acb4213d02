"""Checks of the built book: what a reader must not meet in its HTML pages. Each returns a line for each defect."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from urllib.parse import unquote, urlsplit

import yaml
from bs4 import BeautifulSoup
from bs4.element import NavigableString, PreformattedString, Tag

from book.notebooks import LEAST_ALT_WORDS, toc_files

RAW = {
    "TeX between dollars": re.compile(r"\$[^\s$][^$\n]*\$|\$\$"),
    "a TeX command": re.compile(r"\\(?:[a-zA-Z]{2,}|[()\[\]])"),
    "a MyST role": re.compile(r"\{[a-zA-Z][\w:.+-]*\}`"),
    "a fence": re.compile(r"`{3}|:{3}"),
    "a MyST target": re.compile(r"^\([\w-]+\)=", re.MULTILINE),
    "a Markdown link": re.compile(r"\]\([^)\s]+\)"),
    "Markdown bold": re.compile(r"\*\*\w"),
}
_NO_PROSE = ("code", "pre", "script", "style", "kbd", "samp", "svg", "textarea")
_OBJECT = "\N{OBJECT REPLACEMENT CHARACTER}"
_BAD_OUTPUT = {
    "a traceback": re.compile(r"Traceback \(most recent call last\)"),
    "a warning": re.compile(r"\b\w*Warning\b:|^WARNING\b|\bWARNING:", re.MULTILINE),
    "a log line": re.compile(r"^(?:[IWEF]\d{4} \d\d:\d\d|\d{4}-\d\d-\d\d \d\d:\d\d:\d\d)", re.MULTILINE),
}
_FILE_NAME = re.compile(r"\.(?:png|svg|jpe?g|gif|webp)\b", re.IGNORECASE)
_LOADS = (("script", "src"), ("img", "src"), ("link", "href"), ("iframe", "src"), ("source", "src"))


@dataclass(frozen=True)
class Page:
    """A page of the built book."""

    root: Path
    path: Path

    @property
    def name(self) -> str:
        """Path of the page inside the book."""
        return self.path.relative_to(self.root).as_posix()

    @cached_property
    def soup(self) -> BeautifulSoup:
        """The parsed page."""
        return BeautifulSoup(self.path.read_text(encoding="utf-8"), "html.parser")

    @cached_property
    def prose(self) -> str:
        """The text that a reader sees as prose, with a sign in the place of code and mathematics."""
        return "".join(_OBJECT if _is_object(string) else string for string in self.soup.find_all(string=True))

    @cached_property
    def anchors(self) -> set[str]:
        """Every name that a link into this page may have."""
        return {str(tag[key]) for tag in self.soup.find_all(True) for key in ("id", "name") if tag.has_attr(key)}


Pages = dict[Path, Page]


def pages(root: Path) -> Pages:
    """Return the pages of a built book by path."""
    root = root.resolve()
    return {path: Page(root, path) for path in sorted(root.rglob("*.html")) if "_static" not in path.parts}


def missing_pages(root: Path, toc: Path) -> list[str]:
    """Every document of the table of contents has a page."""
    names = toc_files(yaml.safe_load(toc.read_text(encoding="utf-8")))
    return [f"{name}.html: in {toc.name}, but not built" for name in names if not (root / f"{name}.html").is_file()]


def broken_links(book: Pages) -> list[str]:
    """Every internal link leads to a file, and to an anchor in it."""
    return [problem for page in book.values() for problem in _broken_links(page, book)]


def foreign_resources(book: Pages) -> list[str]:
    """No page loads anything from another host."""
    return [
        f"{page.name}: loads {tag[key]} from another host"
        for page in book.values()
        for name, key in _LOADS
        for tag in page.soup.find_all(name, attrs={key: True})
        if urlsplit(str(tag[key])).netloc
    ]


def raw_markup(book: Pages) -> list[str]:
    """No TeX or MyST is left in the text."""
    return [
        f"{page.name}: shows {what} as text: {match[0]!r}"
        for page in book.values()
        for what, pattern in RAW.items()
        if (match := pattern.search(page.prose))
    ]


def bad_outputs(book: Pages) -> list[str]:
    """No output is a traceback, a warning or a log line."""
    problems = []
    for page in book.values():
        for output in page.soup.select(".cell_output"):
            text = output.get_text()
            problems += [
                f"{page.name}: an output shows {what}" for what, bad in _BAD_OUTPUT.items() if bad.search(text)
            ]
            if output.select(".stderr, .traceback"):
                problems.append(f"{page.name}: an output shows what was written to stderr")
    return problems


def alt_texts(book: Pages) -> list[str]:
    """Every image in the text has a sentence, and every other one some text or none on purpose."""
    problems = []
    for page in book.values():
        for image in page.soup.find_all("img"):
            alt, source = image.get("alt"), image.get("src")
            if alt is None:
                problems.append(f"{page.name}: {source} has no alt text")
            elif image.find_parent("article") and (
                len(str(alt).split()) < LEAST_ALT_WORDS or _FILE_NAME.search(str(alt))
            ):
                problems.append(f"{page.name}: {source} has the alt text {alt!r}, which is no sentence")
    return problems


CHECKS = (broken_links, foreign_resources, raw_markup, bad_outputs, alt_texts)


def _broken_links(page: Page, known: Pages) -> Iterator[str]:
    for tag, key in _links(page.soup):
        url = urlsplit(str(tag[key]))
        if url.scheme or url.netloc:
            continue
        target = (page.path.parent / unquote(url.path)).resolve() if url.path else page.path
        if target.is_dir():
            target /= "index.html"
        if not target.is_file():
            yield f"{page.name}: {tag[key]} leads to no file"
        elif url.fragment and target in known and unquote(url.fragment) not in known[target].anchors:
            yield f"{page.name}: {tag[key]} leads to no anchor"


def _links(soup: BeautifulSoup) -> Iterator[tuple[Tag, str]]:
    kinds = (("a", "href"), *_LOADS)
    for tag in soup.find_all([name for name, _ in kinds]):
        yield from ((tag, key) for name, key in kinds if tag.name == name and tag.has_attr(key))


def _is_object(string: NavigableString) -> bool:
    return isinstance(string, PreformattedString) or any(
        parent.name in _NO_PROSE or "math" in (parent.get("class") or []) for parent in string.parents
    )
