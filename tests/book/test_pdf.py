"""The PDF of the book, and a page of the site on paper."""

import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pikepdf
import pypdfium2
import pytest
import yaml
from bs4 import BeautifulSoup
from bs4.element import Tag
from playwright.sync_api import Browser, sync_playwright

from book import pdf
from book.notebooks import ROOT
from tests.book.building import chromium

TOC = list(pdf.documents(yaml.safe_load((ROOT / "_toc.yml").read_text(encoding="utf-8"))))
CHAPTER = "chapters/standard-vs-inverted"
SOME = [("", ["index"]), ("The course", [CHAPTER]), ("Appendix", ["appendix/notation"])]
# Millimetres of white at the left and the right, and as much for the hair of a letter, in points of 1/72 inch.
MARGIN, HAIR = 20 * 72 / 25.4, 1.5
RAW = re.compile(r"\\(?:[a-zA-Z]{2,}|[()\[\]])|\{[a-zA-Z][\w:.+-]*\}`|`{3}|:{3}")
# As a reader's eye takes it: only what is seen counts, not how a PDF cuts it into pieces.
LETTERS = re.compile(r"[^\w]+")


@dataclass
class Book:
    """A PDF, and the pages of the site that it was made of."""

    path: Path
    articles: dict[str, Tag]

    @cached_property
    def pages(self) -> list[str]:
        """The text of each page."""
        with pypdfium2.PdfDocument(self.path) as document:
            return [page.get_textpage().get_text_range() for page in document]

    @cached_property
    def letters(self) -> str:
        """The letters and digits of the whole book."""
        return letters(" ".join(self.pages))

    @cached_property
    def structure(self) -> pikepdf.Pdf:
        """Its links, fonts and other parts."""
        return pikepdf.open(self.path)

    @cached_property
    def starts(self) -> dict[str, int]:
        """The page, from 0, to which each bookmark of the first level leads."""
        numbers = {page.objgen: number for number, page in enumerate(self.structure.pages)}
        with self.structure.open_outline() as outline:
            return {item.title: numbers[self.destination(item.destination)[0].objgen] for item in outline.root}

    def destination(self, place: Any) -> Any:
        """Return where a place is, by its name or as it is."""
        return self.structure.Root.Dests[place] if isinstance(place, pikepdf.Name) else place

    def select(self, selector: str) -> list[Tag]:
        """Return elements of all pages of the site."""
        return [element for article in self.articles.values() for element in article.select(selector)]


def letters(text: str) -> str:
    return LETTERS.sub("", text)


def title(article: Tag) -> str:
    heading = article.select_one("h1")
    assert heading is not None
    return " ".join(heading.get_text().split()).removesuffix("#")


def outside(path: Path) -> list[str]:
    """Return the letters of a PDF that stand in a margin at the left or the right, by page."""
    found = []
    with pypdfium2.PdfDocument(path) as document:
        for number, page in enumerate(document, start=1):
            text, right = page.get_textpage(), page.get_width() - MARGIN + HAIR
            for place in range(text.count_chars()):
                from_left, _, to_right, _ = text.get_charbox(place)
                # White space has no ink, and the pieces of a long brace, of a private area, are cut where they end.
                if (from_left < MARGIN - HAIR or to_right > right) and re.match(
                    r"[^\s\ue000-\uf8ff]", text.get_text_range(place, 1)
                ):
                    found.append(f"page {number}: {text.get_text_range(place, 20)!r}")
                    break
    return found


def images(path: Path) -> int:
    """Return how many images a PDF shows."""
    with pypdfium2.PdfDocument(path) as document:
        return sum(isinstance(thing, pypdfium2.PdfImage) for page in document for thing in page.get_objects())


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        made = chromium(playwright)
        yield made
        made.close()


@pytest.fixture(
    scope="module", params=[pytest.param(SOME, id="a part"), pytest.param(TOC, id="the book", marks=pytest.mark.long)]
)
def book(
    built: Path, browser: Browser, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Book:
    path = tmp_path_factory.mktemp("pdf") / "book.pdf"
    pdf.write(browser, built, request.param, path)
    articles = {}
    for name in [name for _, names in request.param for name in names]:
        page = BeautifulSoup((built / f"{name}.html").read_text(encoding="utf-8"), "html.parser")
        article = page.select_one("article.bd-article")
        assert article is not None
        articles[name] = article
    return Book(path, articles)


def test_each_chapter_has_a_bookmark_that_leads_to_its_first_page(book: Book) -> None:
    assert list(book.starts) == ["Contents", *(title(article) for article in book.articles.values())]
    for name, page in book.starts.items():
        assert letters(name) in letters(book.pages[page])


def test_the_contents_name_the_page_of_each_chapter_and_section(book: Book) -> None:
    contents = letters(" ".join(book.pages[book.starts["Contents"] : book.starts["Inverted dropout"]]))
    for name, page in list(book.starts.items())[1:]:
        assert f"{letters(name)}{page + 1}" in contents
        # The number on the page itself, beside or below its text.
        assert re.search(rf"(?m)^{page + 1}\r?$", book.pages[page])
    for section in book.select("h2"):
        if section.get_text() != "In this book#":
            assert letters(section.get_text().removesuffix("#")) in contents


def test_the_title_page_says_what_this_is(book: Book) -> None:
    assert book.pages[0].startswith("Inverted dropout")
    assert "CC BY 4.0" in book.pages[0]
    assert book.structure.docinfo["/Title"] == "Inverted dropout"
    assert book.structure.docinfo["/Author"]
    assert book.structure.Root.Lang == "en"


def test_every_paragraph_line_of_code_and_answer_is_there(book: Book) -> None:
    for button in book.select("summary, .ledger thead"):
        button.decompose()
    for element in book.select("pre, .prediction label, .prediction .answer, .solution, .theorem, td, figcaption, p"):
        for formula in element.select(".math, .headerlink, .claim-mark"):
            formula.replace_with("\n")
        for piece in element.get_text().split("\n"):
            # A page may end in between.
            text = letters(piece)
            parts = ((text[:k], text[k:]) for k in range(len(text) + 1))
            assert any(one in book.letters and other in book.letters for one, other in parts), piece


def test_every_figure_is_there(book: Book) -> None:
    assert images(book.path) == len(book.select("img:not([src$='.svg'])")) > 0


def test_no_tex_or_markup_is_left(book: Book) -> None:
    code = {letters(line) for block in book.select("pre, code") for line in block.get_text().splitlines()}
    for page in book.pages:
        for line in page.splitlines():
            if match := RAW.search(line):
                assert any(letters(line) in known for known in code), match[0]


def test_nothing_is_outside_of_the_margins(book: Book) -> None:
    assert outside(book.path) == []


def test_every_font_is_embedded(book: Book) -> None:
    names = set()
    for page in book.structure.pages:
        for font in page.Resources.get("/Font", pikepdf.Dictionary()).values():
            # A font of Type 3 consists of drawings, and so does not need a file.
            if font.Subtype != "/Type3":
                names.add(str(font.BaseFont))
                [inner] = font.DescendantFonts
                assert {"/FontFile2", "/FontFile3"} & set(inner.FontDescriptor), font.BaseFont
    assert any("Mono" in name for name in names)


def test_links_lead_to_places_in_the_book_or_to_the_web(book: Book) -> None:
    inside, web = 0, 0
    for page in book.structure.pages:
        for link in page.get("/Annots", []):
            if "/Dest" in link:
                assert book.destination(link.Dest)[0].objgen in {page.objgen for page in book.structure.pages}
                inside += 1
            else:
                assert re.match("https?:", str(link.A.URI))
                web += 1
    assert inside > 20
    assert web > 0


# --- what is wrong is found


@pytest.fixture
def site(tmp_path: Path) -> Callable[[str], Path]:
    """Return what makes a site of one page."""

    def make(content: str) -> Path:
        text = f"""<!doctype html><head><link rel="stylesheet" href="_static/print.css"></head>
            <body><article class="bd-article"><section id="one"><h1>One</h1>{content}</section></article></body>"""
        (tmp_path / "index.html").write_text(text, encoding="utf-8")
        shutil.copytree(ROOT / "book" / "static", tmp_path / "_static", dirs_exist_ok=True)
        return tmp_path

    return make


LONG = "overfull" * 20


@pytest.mark.parametrize(
    "content",
    [
        f"<p>Short.</p><p>{LONG}</p>",
        f"<table><tr><td>{LONG}</td><td>{LONG}</td></tr></table>",
        f'<div style="overflow: hidden"><p>{LONG}</p></div>',
        '<div style="width: 800px; height: 9px">overfull</div>',
    ],
    ids=["line", "table", "cut", "box"],
)
def test_what_is_wider_than_a_page_is_named(browser: Browser, site: Callable[[str], Path], content: str) -> None:
    with pytest.raises(pdf.PdfError, match=r"wider than a page.*overfull"):
        pdf.write(browser, site(content), [("", ["index"])], Path("nowhere.pdf"))
    assert not Path("nowhere.pdf").exists()


def test_a_formula_that_is_not_typeset_is_named(browser: Browser, site: Callable[[str], Path], tmp_path: Path) -> None:
    folder = site(r'<p><span class="math">\(\frac12\)</span></p>')
    with pytest.raises(pdf.PdfError, match=r"not typeset.*frac"):
        pdf.write(browser, folder, [("", ["index"])], tmp_path / "book.pdf")


def test_text_in_a_margin_is_found_in_a_pdf(browser: Browser, site: Callable[[str], Path], tmp_path: Path) -> None:
    joined = tmp_path / "book.html"
    for content, wrong in ((f"<p>{LONG}</p>", True), ("<p>Short.</p>", False)):
        shutil.rmtree(tmp_path / "_static", ignore_errors=True)
        joined.write_text(pdf.join(site(content), [("", ["index"])]), encoding="utf-8")
        with pdf.opened(browser, joined) as page:
            page.pdf(path=tmp_path / "book.pdf", prefer_css_page_size=True)
        assert bool(outside(tmp_path / "book.pdf")) == wrong


def test_code_with_long_lines_is_printed_whole(browser: Browser, site: Callable[[str], Path], tmp_path: Path) -> None:
    code = [f"{k} {'word ' * (24 + 8 * k)}end" for k in range(4)]
    pdf.write(browser, site("".join(f"<pre>{line}</pre>" for line in code)), [("", ["index"])], tmp_path / "book.pdf")
    text = letters(Book(tmp_path / "book.pdf", {}).letters)
    assert all(letters(line) in text for line in code)
    assert outside(tmp_path / "book.pdf") == []


def test_what_belongs_together_is_on_one_page(browser: Browser, site: Callable[[str], Path], tmp_path: Path) -> None:
    rows = "".join(f"<tr><td>row {k}</td></tr>" for k in range(80))
    table = f"<details><summary>some rows</summary><table><tr><th>head</th></tr>{rows}</table></details>"
    # One of these words would be the last on its page.
    spaces = (f'<div style="break-before: page; height: {height}px"></div>' for height in range(880, 960, 5))
    words = "".join(f"{space}<dl><dt>word</dt><dd>meaning</dd></dl>" for space in spaces)
    folder = site(f'<div class="cell_output">{table}</div>{words}')
    pdf.write(browser, folder, [("", ["index"])], tmp_path / "book.pdf")
    pages = [letters(page) for page in Book(tmp_path / "book.pdf", {}).pages[2:]]
    assert len([page for page in pages if "row" in page]) > 1
    assert "somerows" in pages[0]
    assert all(page.count("head") == ("row" in page) for page in pages)
    assert all(page.count("word") == page.count("meaning") for page in pages)


def test_without_chromium_the_command_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pdf, "shutil", SimpleNamespace(which=lambda name: None))
    with pytest.raises(SystemExit, match="apt-get install chromium"):
        pdf.main()


# --- one page of the site


def test_a_page_is_printed_open_light_and_without_the_site_around_it(
    built: Path, browser: Browser, tmp_path: Path
) -> None:
    page = browser.new_page(color_scheme="dark")
    page.goto((built / f"{CHAPTER}.html").as_uri())
    page.evaluate("async () => { await MathJax.startup.promise }")
    assert page.evaluate("document.documentElement.dataset.theme") == "dark"
    page.pdf(path=tmp_path / "page.pdf", prefer_css_page_size=True, print_background=True)
    assert page.evaluate("document.documentElement.dataset.theme") == "dark"
    for answer in page.locator(".prediction .answer").all():
        assert answer.is_visible() is False
    printed = Book(tmp_path / "page.pdf", {})
    for element in page.locator(".prediction .answer p:last-child, .solution p").all():
        for piece in (element.text_content() or "").split("\n"):
            if not element.locator("mjx-container").count():
                assert letters(piece) in printed.letters
    assert not re.search("Search|Show all answers|Click to|Show code|Next", " ".join(printed.pages))
    assert outside(tmp_path / "page.pdf") == []
    assert images(tmp_path / "page.pdf") == page.locator("article img").count()
    page.close()
    with pypdfium2.PdfDocument(tmp_path / "page.pdf") as document:
        for number in range(len(document)):
            # Of a dark page next to nothing is light; a figure of coloured tiles may fill a third of a light one.
            image = document[number].render(scale=0.5, grayscale=True).to_numpy()
            assert (image > 200).mean() > 0.5
