"""The whole book as one PDF, from the built pages.

`python -m book.pdf` joins the pages of `_build/html` in the order of `_toc.yml`, behind a title page and a table of
contents, and lets headless Chromium print them with the style of `book/static/print.css`. The page numbers of the
contents come from a first printing. Code with long lines is set smaller or wrapped. If anything else is wider than a
page, nothing is printed and the command names it.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from html import escape
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pikepdf
import yaml
from bs4 import BeautifulSoup
from bs4.element import NavigableString, Tag
from playwright.sync_api import Browser, Page, ViewportSize, sync_playwright

import dropoutlib
from book.notebooks import ROOT

HTML, PDF = ROOT / "_build" / "html", ROOT / "_build" / "pdf" / "inverted-dropout.pdf"
# The paper, in CSS pixels of 1/96 inch: A4 less the margins of print.css.
PAPER = ViewportSize(width=642, height=956)
# A long line of code is set smaller, down to this part of its size.
SMALLEST = 0.75
_NAMING = ("id", "name", "for", "aria-labelledby", "aria-describedby", "aria-controls")

# The script that loads MathJax, and what it is told.
_SETTING = re.compile(r"\bmathematics\.js|\bMathJax\b")
_OPENING, _CLOSING = re.compile(r"[(\[“]+$"), re.compile(r"[,.;:!?)\]”%]+")

_READY = """async () => {
    if (window.MathJax) await MathJax.startup.promise
    await document.fonts.ready
    const missing = []
    for (const image of document.images) await image.decode().catch(() => missing.push(image.src))
    return missing
}"""
# Sets long lines of code smaller, or wraps them, and returns the beginning of each thing that is still too wide.
# Inside of a formula, parts stick out of their boxes on purpose.
_FIT = """smallest => {
    const unseen = document.head.appendChild(document.createElement('style'))
    unseen.textContent = 'mjx-assistive-mml { display: none !important }'
    const full = element => element.scrollWidth > element.clientWidth + 1
    for (const code of document.querySelectorAll('pre')) {
        const size = parseFloat(getComputedStyle(code).fontSize)
        code.style.whiteSpace = 'pre'
        for (let part = 1; full(code) && part > smallest; part -= 0.02) code.style.fontSize = `${size * part}px`
        if (full(code)) code.style.whiteSpace = code.style.fontSize = ''
    }
    const edge = document.body.getBoundingClientRect()
    const found = []
    for (const element of document.body.querySelectorAll('*')) {
        if (element.parentElement.closest('mjx-container, svg') || !element.checkVisibility()) continue
        const formula = element.querySelector(':scope > mjx-math')
        const box = (formula || element).getBoundingClientRect()
        const out = box.width > 0 && (box.right > edge.right + 1 || box.left < edge.left - 1)
        // An accent may be wider than its formula; what counts is where the formula itself lies.
        const block = !formula && !element.matches('span.math') && getComputedStyle(element).display !== 'inline'
        if (out || (block && full(element))) found.push(element)
    }
    unseen.remove()
    const inmost = found.filter(one => !found.some(other => other !== one && one.contains(other)))
    return inmost.map(element => (element.innerText || element.outerHTML).slice(0, 100))
}"""


class PdfError(Exception):
    """The PDF cannot be made; the message says what to do."""


def documents(toc: Mapping[str, Any]) -> Iterator[tuple[str, list[str]]]:
    """Yield the caption of each part of a table of contents and its documents; the landing page comes first."""
    yield "", [toc["root"]]
    for part in toc.get("parts", [toc]):
        yield part.get("caption", ""), [chapter["file"] for chapter in part["chapters"]]


def join(html: Path, parts: list[tuple[str, list[str]]]) -> str:
    """Return one HTML page with all documents, whose links lead to places in it.

    Parameters
    ----------
    html : Path
        Folder of the built book.
    parts : list of tuple
        Captions, and names of documents.
    """
    names = [name for _, part in parts for name in part]
    soups = {name: BeautifulSoup((html / f"{name}.html").read_text(encoding="utf-8"), "html.parser") for name in names}
    contents, chapters, running = [], [], []
    for caption, part in parts:
        if caption:
            contents.append(f'<li class="part">{escape(caption)}</li>')
        for name in part:
            article = _article(soups[name], name, html, names)
            title, *sections = article.select("h1, h2")
            place = _place(name)
            running.append(f"@page {place} {{ @top-left {{ content: {_css_string(title.get_text())} }} }}")
            running.append(f"#{place} {{ page: {place} }}")
            contents.append(_entry("chapter", title, place))
            contents += [_entry("section", section, _anchor(section)) for section in sections]
            chapters.append(f'<div class="chapter" id="{place}">{article}</div>')
    first = soups[names[0]]
    head = [str(link) for link in first.head.select("link[rel=stylesheet]")] if first.head else []
    head += [str(script) for script in _formulas(soups.values())]
    book = first.select_one("h1")
    assert book is not None
    config = _config()
    return _PAGE.format(
        title=escape(_text(book)),
        author=escape(str(config["author"])),
        year=escape(str(config["copyright"])),
        version=escape(dropoutlib.__version__),
        logo=(html.resolve() / "_static" / Path(config["logo"]).name).as_uri(),
        head=_relative("\n".join(head), html),
        running="\n".join(running),
        contents="\n".join(contents),
        chapters="\n".join(chapters),
    )


def write(browser: Browser, html: Path, parts: list[tuple[str, list[str]]], target: Path) -> None:
    """Print documents of a built book into a PDF.

    Raises
    ------
    PdfError
        If a formula is not typeset, or something is wider than a page.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    pages: dict[str, int] = {}
    with tempfile.TemporaryDirectory() as folder:
        joined = Path(folder, "book.html")
        joined.write_text(join(html, parts), encoding="utf-8")
        with opened(browser, joined) as page:
            fit(page)
            headings = page.eval_on_selector_all("h1, h2, h3, h4, h5, h6", "e => e.map(h => h.textContent)")
            links = page.locator("nav a")
            places = links.evaluate_all("links => links.map(a => a.hash.slice(1))")
            while True:
                page.pdf(path=target, prefer_css_page_size=True, print_background=True, outline=True, tagged=True)
                found = page_numbers(target, places)
                if found == pages:
                    break
                pages = found
                links.evaluate_all(
                    "(links, pages) => links.forEach(a => a.lastChild.textContent = pages[a.hash.slice(1)])", pages
                )
    finish(target, headings, str(_config()["author"]))


@contextmanager
def opened(browser: Browser, path: Path) -> Iterator[Page]:
    """Open a file as it will be on paper, with its formulas set."""
    page = browser.new_page(viewport=PAPER, color_scheme="light", reduced_motion="reduce", offline=True)
    page.set_default_timeout(0)
    try:
        page.emulate_media(media="print")
        page.goto(path.as_uri())
        if missing := page.evaluate(_READY):
            raise PdfError(f"these images cannot be shown: {missing}")
        yield page
    finally:
        page.close()


def fit(page: Page) -> None:
    """Make long lines of code fit the paper.

    Raises
    ------
    PdfError
        If a formula is not typeset, or something else is too wide.
    """
    raw = "e => e.filter(m => !m.querySelector('mjx-container')).map(m => m.innerText.slice(0, 100))"
    if left := page.eval_on_selector_all("span.math, div.math", raw):
        raise PdfError(f"these formulas are not typeset: {left}")
    if wrong := page.eval_on_selector_all("mjx-merror", "e => e.map(m => m.textContent)"):
        raise PdfError(f"MathJax cannot read these formulas: {wrong}")
    if wide := page.evaluate(_FIT, SMALLEST):
        raise PdfError(f"these are wider than a page; break or shorten them: {wide}")


def page_numbers(path: Path, places: list[str]) -> dict[str, int]:
    """Return the page on which each place is that something in a PDF links to."""
    with pikepdf.open(path) as document:
        numbers = {page.objgen: number for number, page in enumerate(document.pages, start=1)}
        found: dict[str, Any] = {str(name).removeprefix("/"): there for name, there in document.Root.Dests.items()}
        if missing := [place for place in places if place not in found]:
            raise PdfError(f"the PDF has no such places: {missing}")
        return {place: numbers[found[place][0].objgen] for place in places}


def finish(path: Path, titles: list[str], author: str) -> None:
    """Name the author of a PDF, give each bookmark the text of its heading, and pack it.

    Chromium writes a bookmark for each, in order, but repeats the words of some and joins their lines without a space.
    """
    with pikepdf.open(path, allow_overwriting_input=True) as document:
        bookmarks = list(_bookmarks(document.Root.Outlines))
        if len(bookmarks) != len(titles):
            raise PdfError(f"the PDF has {len(bookmarks)} bookmarks for {len(titles)} headings")
        for bookmark, title in zip(bookmarks, titles, strict=True):
            bookmark.Title = pikepdf.String(" ".join(title.split()))
        document.docinfo["/Author"] = pikepdf.String(author)
        document.save(path, object_stream_mode=pikepdf.ObjectStreamMode.generate)


def _bookmarks(parent: pikepdf.Object) -> Iterator[pikepdf.Object]:
    """Yield the bookmarks below one, in reading order."""
    bookmark = parent.get("/First")
    while bookmark is not None:
        yield bookmark
        yield from _bookmarks(bookmark)
        bookmark = bookmark.get("/Next")


def _article(soup: BeautifulSoup, name: str, html: Path, names: list[str]) -> Tag:
    """Return the text of a page, its names made unique in the book and its links bent to places in the book."""
    article = soup.select_one("article.bd-article")
    if article is None:
        raise PdfError(f"{name}.html has no article; run make book")
    for useless in article.select("a.headerlink, script, button, .toctree-wrapper"):
        useless.decompose()
    for section in article.select("section:not(:has(> :not(h2)))"):
        section.decompose()
    for formula in article.select("span.math"):
        _hold(formula)
    for details in article.select("details"):
        details["open"] = ""
    for row in article.select("table > tr:first-child:not(:has(td))"):
        row.wrap(Tag(name="thead"))
    for key in _NAMING:
        for tag in article.select(f"[{key}]"):
            tag[key] = " ".join(f"{_place(name)}--{one}" for one in str(tag[key]).split())
    folder = (html / name).parent
    for image in article.select("img[src]"):
        image.attrs.pop("loading", None)
        if not urlsplit(str(image["src"])).scheme:
            image["src"] = (folder / unquote(str(image["src"]))).resolve().as_uri()
    for link in article.select("a[href]"):
        url = urlsplit(str(link["href"]))
        if url.scheme or url.netloc:
            continue
        path = (folder / unquote(url.path)).resolve() if url.path else html.resolve() / f"{name}.html"
        try:
            there = path.relative_to(html.resolve()).with_suffix("").as_posix()
        except ValueError:
            there = ""
        if there in names and path.suffix == ".html":
            link["href"] = f"#{_place(there)}" + (f"--{unquote(url.fragment)}" if url.fragment else "")
        else:
            link.unwrap()
    return article


def _hold(formula: Tag) -> None:
    """Keep the punctuation beside a formula on its line."""
    box = Tag(name="span", attrs={"style": "white-space: nowrap"})
    before, after = formula.previous_sibling, formula.next_sibling
    formula.wrap(box)
    if isinstance(before, NavigableString) and (opening := _OPENING.search(before)):
        before.replace_with(before[: opening.start()])
        box.insert(0, opening[0])
    if isinstance(after, NavigableString) and (closing := _CLOSING.match(after)):
        after.replace_with(after[closing.end() :])
        box.append(closing[0])


def _formulas(soups: Iterable[BeautifulSoup]) -> list[Tag]:
    """Return the scripts of the first page that has formulas: those that set them."""
    for soup in soups:
        scripts = [tag for tag in soup.select("script") if _SETTING.search(f"{tag.get('src', '')}{tag.string}")]
        if any(tag.get("src") for tag in scripts):
            return scripts
    return []


def _relative(head: str, html: Path) -> str:
    """Return style sheets and scripts with the addresses of their files."""
    static = f"{html.resolve().as_uri()}/_static/"
    return re.sub(r'(href|src)="(?:\.\./)*_static/([^"?]*)[^"]*"', rf'\1="{static}\2"', head)


def _entry(kind: str, heading: Tag, place: str) -> str:
    return f'<li class="entry-{kind}"><a href="#{place}"><span>{heading.decode_contents()}</span><b></b></a></li>'


def _anchor(heading: Tag) -> str:
    section = heading.find_parent("section")
    assert section is not None
    return str(section["id"])


def _place(name: str) -> str:
    return name.replace("/", "--")


def _text(tag: Tag) -> str:
    return " ".join(tag.get_text().split()).removesuffix("#")


def _css_string(text: str) -> str:
    return json.dumps(" ".join(text.split()), ensure_ascii=False)


def _config() -> dict[str, Any]:
    config: dict[str, Any] = yaml.safe_load((ROOT / "_config.yml").read_text(encoding="utf-8"))
    return config


_PAGE = """<!doctype html>
<html lang="en" data-theme="light" class="whole-book">
<head>
<meta charset="utf-8">
<title>{title}</title>
{head}
<style>
{running}
</style>
</head>
<body>
<div class="title-page">
<img class="logo" src="{logo}" alt="">
<p class="title">{title}</p>
<p>A course that you can run</p>
<p class="author">{author}<br>{year}</p>
<p class="licence">Version {version}. Text and figures: CC BY 4.0. Code: BSD 3-Clause License.</p>
</div>
<nav class="book-contents">
<h1>Contents</h1>
<ul>
{contents}
</ul>
</nav>
<main class="bd-article-container">
{chapters}
</main>
</body>
</html>
"""


def chromium() -> str:
    """Return the browser's program.

    Raises
    ------
    PdfError
        If there is none.
    """
    program = shutil.which("chromium") or shutil.which("google-chrome")
    if program is None:
        raise PdfError("Chromium is missing; on Debian: apt-get install chromium")
    return program


def main() -> None:
    """Write the PDF of the book."""
    os.chdir(ROOT)
    parts = list(documents(yaml.safe_load((ROOT / "_toc.yml").read_text(encoding="utf-8"))))
    try:
        program = chromium()
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox", "--disable-gpu"])
            write(browser, HTML, parts, PDF)
            browser.close()
    except PdfError as error:
        sys.exit(f"make pdf: {error}")
    with pikepdf.open(PDF) as document:
        print(f"{PDF.relative_to(ROOT)}: {len(document.pages)} pages, {PDF.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
