"""The lecture slides: nothing of a chapter is lost, nothing is raw, and they work in a browser without a network."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from bs4 import BeautifulSoup
from docutils import nodes
from docutils.utils import new_document
from nbformat import NotebookNode
from playwright.sync_api import Browser, Page, expect, sync_playwright

from book import checks
from book.notebooks import chapters, code_cells, is_receipt, read
from book.slides.selection import MOST_CHARACTERS, MOST_LINES, Slide, slides
from tests.book.building import build, chromium

CHAPTERS = {path.stem: path for path in chapters()}
DECK = "standard-vs-inverted"
one = pytest.mark.parametrize(
    "name", [name if name == DECK else pytest.param(name, marks=pytest.mark.long) for name in CHAPTERS]
)
each = pytest.mark.parametrize("name", CHAPTERS)


@pytest.fixture(scope="module")
def decks(built: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("slides"), "slides") / "slides"


@pytest.fixture(scope="module")
def texts(decks: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The decks without MathJax, which is most of them."""
    folder = tmp_path_factory.mktemp("texts")
    for path in decks.iterdir():
        page, mathjax, script = path.read_text(encoding="utf-8").rpartition("<script>")
        assert path.stem == "index" or len(script) > 2_000_000
        page = page if len(script) > 2_000_000 else page + mathjax + script
        (folder / path.name).write_text(page, encoding="utf-8")
    return folder


@cache
def soup(path: Path) -> BeautifulSoup:
    return BeautifulSoup(path.read_text(encoding="utf-8"), "html.parser")


def text(element: Any) -> str:
    return " ".join(element.get_text().split())


def markdown(notebook: NotebookNode) -> str:
    return "\n\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")


# --- what is in them


def test_there_is_a_deck_for_each_chapter_and_a_list_of_them(texts: Path) -> None:
    assert {path.name for path in texts.iterdir()} == {"index.html", *(f"{name}.html" for name in CHAPTERS)}
    links = [link["href"] for link in soup(texts / "index.html").select("li a")]
    assert links == [f"{name}.html" for name in CHAPTERS]


def test_no_deck_has_a_defect(texts: Path) -> None:
    pages = checks.pages(texts)
    for check in (
        checks.broken_links,
        checks.foreign_resources,
        checks.raw_markup,
        checks.bad_outputs,
        checks.alt_texts,
    ):
        assert check(pages) == []


@each
def test_a_deck_shows_what_the_chapter_has(texts: Path, name: str) -> None:
    notebook, deck = read(CHAPTERS[name]), soup(texts / f"{name}.html")
    source = markdown(notebook)
    kinds = {kind: deck.select(f".slide.{kind}") for kind in ("title", "objectives", "remember")}
    assert text(kinds["title"][0].h2) == re.sub(r"[*`$]", "", source.splitlines()[0].removeprefix("# "))
    assert kinds["objectives"]
    assert kinds["remember"]
    for shown, marked in (
        ("prediction", r"\{prediction\}"),
        ("theorem", r"\{prf:(theorem|lemma|proposition|corollary|definition)\}"),
        ("exercise", r"\{exercise-start\}"),
    ):
        assert len(deck.select(f".slide.{shown}")) == len(re.findall(marked, source)), shown
    figures = {
        cell.metadata["mystnb"]["image"]["alt"]
        for _, cell in code_cells(notebook)
        if any("image/png" in output.get("data", {}) for output in cell.outputs) and cell.metadata.get("slide", True)
    }
    assert {image["alt"] for image in deck.select(".slide > article img")} >= figures
    assert not deck.find_all(string=re.compile(r"promise  : on this machine|\(claim: "))
    assert not deck.select("a[href^='#'], a:not([href])")
    assert is_receipt(code_cells(notebook)[-1][1])


@each
def test_no_paragraph_of_a_chapter_is_lost_or_there_twice(texts: Path, name: str) -> None:
    deck = text(soup(texts / f"{name}.html").main)
    plain = [
        " ".join(paragraph.split())
        for paragraph in re.split(r"\n\s*\n", markdown(read(CHAPTERS[name])))
        if re.fullmatch(r"[A-Z][\w ,.:;()/=+-]*", paragraph)
    ]
    assert len(plain) >= 3
    assert {paragraph: deck.count(paragraph) for paragraph in plain if deck.count(paragraph) != 1} == {}


@each
def test_most_slides_have_notes(texts: Path, name: str) -> None:
    deck = soup(texts / f"{name}.html")
    shown = [slide for slide in deck.select(".slide") if not {"list", "remember", "table"} & set(slide["class"])]
    with_notes = [slide for slide in shown if slide.select_one(".notes")]
    assert len(with_notes) > 0.7 * len(shown)
    for exercise in deck.select(".slide.exercise"):
        assert "Solution" in text(exercise.select_one(".notes"))
        assert "Solution" not in text(exercise.article)


# --- what is chosen


def document(*elements: nodes.Node) -> nodes.document:
    made = new_document("chapter")
    section = nodes.section("", nodes.title("", "What?"), nodes.paragraph("", "That."))
    section += nodes.section("", nodes.title("", "Part"), *elements)
    made += section
    return made


def cell(code: str, printed: str = "", html: str = "", **metadata: Any) -> nodes.container:
    made = nodes.container(nb_element="cell_code", cell_index=0)
    if metadata:
        made["cell_metadata"] = metadata
    source = nodes.container("", nodes.literal_block(code, code), nb_element="cell_code_source")
    made += source
    if printed or html:
        inside = nodes.literal_block(printed, printed) if printed else nodes.raw("", html, format="html")
        made += nodes.container("", inside, nb_element="cell_code_output")
    return made


def chosen(*elements: nodes.Node) -> list[Slide]:
    first, *rest = slides(document(*elements), lambda kind, node: "")
    assert (first.kind, [node.astext() for node in first.notes]) == ("title", ["That."])
    return rest


def paragraph(text: str) -> nodes.paragraph:
    return nodes.paragraph("", text)


def test_a_section_with_nothing_to_show_shows_what_it_prints_last_or_says_first() -> None:
    [slide] = chosen(paragraph("One."), cell("a", "1"), paragraph("Two."), cell("b", "2"), cell("c"))
    assert slide.kind == "code"
    assert [node.astext() for node in slide.body] == ["b\n\n2"]
    assert [node.astext() for node in slide.notes] == ["One.", "1", "Two."]
    [slide] = chosen(paragraph("One."), cell("a"), paragraph("Two."))
    assert ([node.astext() for node in slide.body], [node.astext() for node in slide.notes]) == (["One."], ["Two."])


def test_a_formula_takes_the_paragraph_before_it_and_what_follows_is_its_notes() -> None:
    formula = nodes.math_block("", "x")
    elements = [paragraph("So"), formula, paragraph("Then."), cell("a", "1")]
    first, slide = chosen(nodes.math_block("", "y"), *elements)
    assert (first.notes, slide.kind) == ([], "formula")
    [slide] = chosen(*elements)
    assert (slide.kind, [node.astext() for node in slide.body]) == ("formula", ["So", "x"])
    assert [node.astext() for node in slide.notes] == ["Then.", "1"]


def test_a_prediction_is_followed_by_its_result() -> None:
    prediction = nodes.container("", paragraph("Which?"), is_prediction=True)
    made = chosen(prediction, cell("a"), paragraph("See:"), cell("b", "1"), cell("c", "2"))
    assert [slide.kind for slide in made] == ["prediction", "code"]
    assert made[1].body[0].astext() == "b\n\n1"


def test_a_cell_may_be_asked_for_or_left_out() -> None:
    table = "<table><tr><td>1</td></tr></table>"
    assert [slide.kind for slide in chosen(cell("a", html=table), cell("b", "1", slide=True))] == ["table", "code"]
    assert [slide.kind for slide in chosen(cell("a", html=table, slide=False), paragraph("x"))] == ["text"]


def test_what_is_long_goes_on_or_is_cut() -> None:
    items = [nodes.list_item("", paragraph("word " * 40)) for _ in range(10)]
    lists = chosen(nodes.bullet_list("", *items))
    assert [len(slide.body[0].children) for slide in lists] == [3, 4, 3]
    assert all(len(slide.body[0].astext()) < 1.5 * MOST_CHARACTERS for slide in lists)
    assert [node.astext() for node in lists[1].title] == ["Part", " (continued)"]
    [short] = chosen(cell("line\n" * MOST_LINES, "result"))
    assert [node.astext() for node in short.body] == ["result"]
    assert "line" in short.notes[0].astext()
    lead, rest = paragraph("Lead."), paragraph("Rest.")
    [short] = chosen(rest, cell("a", "1"), lead, cell("line\n" * MOST_LINES, "result"))
    assert [node.astext() for node in short.body] == ["Lead.", "result"]
    assert [node.astext() for node in short.notes][:2] == ["Rest.", "1"]
    assert len(short.notes) == 3
    many = chosen(cell("a", "line\n" * 30))
    assert [len(slide.body[0].astext().splitlines()) for slide in many] == [15, 15]
    rows = "".join(f"<tr><td>{'word ' * 20}{k}</td></tr>" for k in range(15))
    tables = chosen(cell("a", html=f"<table><tr><th>head</th></tr>{rows}</table>"))
    assert len(tables) == 3
    assert all("head" in slide.body[0].astext() for slide in tables)
    assert (
        "".join(re.findall(r" (\d+)<", "".join(slide.body[0].astext() for slide in tables))) == "01234567891011121314"
    )
    for_readers = "".join(f"<tr><td>{'word ' * 20}</td></tr>" for _ in range(60))
    assert [slide.kind for slide in chosen(cell("a", html=f"<table>{for_readers}</table>"), paragraph("x"))] == ["text"]


# --- in a browser


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        made = chromium(playwright)
        yield made
        made.close()


@contextmanager
def opened(browser: Browser, path: Path, **options: Any) -> Iterator[Page]:
    """Open a deck from a file, without a network; fail if it asks for anything else or logs an error."""
    failures: list[str] = []
    defaults = {"viewport": {"width": 1280, "height": 720}, "reduced_motion": "reduce", "offline": True}
    context = browser.new_context(**(defaults | options))
    page = context.new_page()
    page.on("request", lambda request: request.url.startswith(("file:", "data:")) or failures.append(request.url))
    page.on("pageerror", lambda error: failures.append(f"raised {error}"))
    page.on("console", lambda message: message.type == "error" and failures.append(message.text))
    try:
        page.goto(path.as_uri())
        if options.get("java_script_enabled", True):
            page.evaluate("async () => { if (window.MathJax) await MathJax.startup.promise }")
        yield page
        assert failures == []
    finally:
        context.close()


def place(page: Page) -> int:
    return int(page.locator(".slide.shown").get_attribute("id") or 0)


@one
def test_all_slides_fit_and_all_formulas_are_set(browser: Browser, decks: Path, name: str) -> None:
    with opened(browser, decks / f"{name}.html") as page:
        formulas = page.locator("span.math, div.math").count()
        assert page.locator("mjx-container").count() >= formulas > 0
        assert page.locator("mjx-merror, [data-mjx-error]").count() == 0
        assert page.evaluate("[...document.images].every(i => i.complete && i.naturalWidth > 0)")
        for number in range(1, page.locator(".slide").count() + 1):
            assert place(page) == number
            body = page.locator(".slide.shown > article")
            left_over = body.evaluate(
                "e => [e, ...e.querySelectorAll('pre, div.math')]"
                ".filter(b => b.scrollHeight > b.clientHeight + 1 || b.scrollWidth > b.clientWidth + 1).length"
            )
            size = float(body.evaluate("e => getComputedStyle(e).getPropertyValue('--fit')") or 1)
            assert (left_over, size >= 0.6) == (0, True), body.inner_text()
            page.keyboard.press("PageDown")


@one
@pytest.mark.parametrize("scheme", ["light", pytest.param("dark", marks=pytest.mark.long)])
def test_a_deck_is_accessible(browser: Browser, decks: Path, name: str, scheme: str) -> None:
    with opened(browser, decks / f"{name}.html", color_scheme=scheme) as page:
        assert page.evaluate("document.documentElement.dataset.theme") == scheme
        page.keyboard.press("n")
        every = 7
        for _ in range(0, page.locator(".slide").count(), every):
            options = {"preload": False, "resultTypes": ["violations"]}
            found = Axe().run(page, context={"exclude": ["mjx-container"]}, options=options).response["violations"]
            assert [(item["id"], [node["html"][:200] for node in item["nodes"]][:5]) for item in found] == []
            for _ in range(every):
                page.keyboard.press("ArrowRight")


def test_a_deck_is_turned_by_keyboard(browser: Browser, decks: Path) -> None:
    with opened(browser, decks / f"{DECK}.html") as page:
        count = page.locator(".slide").count()
        seen = [place(page)]
        for key in (
            "ArrowRight",
            "Space",
            "PageDown",
            "ArrowLeft",
            "Shift+Space",
            "End",
            "ArrowRight",
            "Home",
            "PageUp",
        ):
            page.keyboard.press(key)
            seen.append(place(page))
        assert seen == [1, 2, 3, 4, 3, 2, count, count, 1, 1]
        assert page.locator(".slide.shown").count() == 1
        assert page.locator(".slide:not([inert])").count() == 1
        page.keyboard.press("ArrowRight")
        assert page.url.endswith("#2")
        assert page.evaluate("document.activeElement.textContent") == "What you will be able to do"
        page.reload()
        assert place(page) == 2
        expect(page.locator("output.place")).to_have_text(f"2 / {count}")


def test_a_prediction_keeps_its_own_keys(browser: Browser, decks: Path) -> None:
    with opened(browser, decks / f"{DECK}.html") as page:
        number = page.locator(".slide.prediction").first.get_attribute("id")
        page.goto(f"{page.url.split('#')[0]}#{number}")
        expect(page.locator(".slide.shown .answer").first).not_to_be_visible()
        page.keyboard.press("Tab")
        page.keyboard.press("Space")
        page.keyboard.press("ArrowDown")
        assert str(place(page)) == number
        expect(page.locator(".slide.shown .answer").nth(1)).to_be_visible()
        body = page.locator(".slide.shown > article")
        assert body.evaluate("e => e.scrollHeight <= e.clientHeight + 1")


def test_notes_and_colours_are_a_key_away(browser: Browser, decks: Path) -> None:
    with opened(browser, decks / f"{DECK}.html") as page:
        notes = page.locator(".slide.shown .notes")
        expect(notes).not_to_be_visible()
        page.keyboard.press("n")
        expect(notes).to_be_visible()
        expect(page.get_by_role("button", name="Notes")).to_have_attribute("aria-pressed", "true")
        box, beside = page.locator(".slide.shown > article").bounding_box(), notes.bounding_box()
        assert box is not None
        assert beside is not None
        assert box["x"] + box["width"] <= beside["x"] + 1
        page.keyboard.press("d")
        assert page.evaluate("document.documentElement.dataset.theme") == "dark"
        ground = "getComputedStyle(document.documentElement).backgroundColor"
        assert page.evaluate(ground) == "rgb(20, 24, 30)"


def test_the_speakers_window_follows_and_leads(browser: Browser, decks: Path) -> None:
    with opened(browser, decks / f"{DECK}.html") as page:
        page.keyboard.press("ArrowRight")
        with page.expect_popup() as opening:
            page.keyboard.press("s")
        speaker = opening.value
        speaker.wait_for_load_state()
        assert place(speaker) == 2
        expect(speaker.locator(".slide.shown .notes")).to_be_visible()
        expect(speaker.locator(".clock")).to_have_text("0 min")
        expect(speaker.locator(".next")).to_contain_text("Next: ")
        expect(page.locator(".slide.shown .notes")).not_to_be_visible()
        speaker.keyboard.press("ArrowRight")
        page.wait_for_url("**#3")
        assert place(page) == 3
        page.keyboard.press("End")
        speaker.wait_for_url(f"**#{page.locator('.slide').count()}")


def test_paper_has_a_slide_a_page_and_is_white(browser: Browser, decks: Path) -> None:
    with opened(browser, decks / f"{DECK}.html", color_scheme="dark") as page:
        count = page.locator(".slide").count()
        paper = page.pdf(prefer_css_page_size=True)
        assert len(re.findall(rb"/Type\s*/Page\b", paper)) == count
        page.emulate_media(media="print")
        assert page.evaluate("getComputedStyle(document.documentElement).backgroundColor") == "rgb(255, 255, 255)"
        expect(page.locator(".notes").first).not_to_be_visible()
        page.keyboard.press("n")
        expect(page.locator(".notes").first).to_be_visible()


def test_without_a_script_the_slides_stand_below_one_another(browser: Browser, decks: Path) -> None:
    with opened(browser, decks / f"{DECK}.html", java_script_enabled=False) as page:
        for slide in page.locator(".slide").all():
            expect(slide).to_be_visible()
        expect(page.locator(".bar")).not_to_be_visible()
        page.locator(".notes summary").first.click()
        expect(page.locator(".notes p").first).to_be_visible()


@pytest.mark.long
def test_a_telephone_is_wide_enough(browser: Browser, decks: Path) -> None:
    with opened(browser, decks / f"{DECK}.html", viewport={"width": 390, "height": 844}) as page:
        for _ in range(page.locator(".slide").count()):
            assert page.evaluate("document.documentElement.scrollWidth") == 390
            page.keyboard.press("ArrowRight")
