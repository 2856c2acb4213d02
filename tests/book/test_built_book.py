"""The book as it was built."""

import copy
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from bs4 import Tag
from fontTools.ttLib import TTFont
from PIL import Image

from book import checks, icons, landing_figure, site_files, style_sheets, weight
from book.notebooks import ROOT, chapters

FRAMEWORKS = ("torch", "tensorflow", "keras", "jax", "flax")


def test_every_page_of_the_contents_is_there(built: Path) -> None:
    assert checks.missing_pages(built, ROOT / "_toc.yml") == []


@pytest.fixture(scope="module")
def book(built: Path) -> checks.Pages:
    return checks.pages(built)


@pytest.mark.parametrize("check", checks.CHECKS, ids=lambda check: check.__name__)
def test_no_page_has_a_defect(book: checks.Pages, check: Callable[[checks.Pages], list[str]]) -> None:
    assert book
    assert check(book) == []


def test_mathjax_and_its_fonts_are_served_by_the_book(built: Path) -> None:
    served = [part for part in weight.MATHJAX if (built / "_static" / "mathjax" / f"{part}.js").is_file()]
    assert served == list(weight.MATHJAX)
    wanted = (built / "_static" / "mathematics.js").read_text(encoding="utf-8")
    assert [part for part in weight.MATHJAX if f'"{part}"' not in wanted] == []
    assert len(list(built.glob("_static/mathjax/output/chtml/fonts/woff-v2/*.woff"))) >= 20


def test_the_book_holds_nothing_of_the_theme_that_no_page_asks_for(built: Path) -> None:
    static = built / "_static"
    assert [path.name for path in static.rglob("*.map")] == []
    assert [path.name for path in static.rglob("*") if "awesome" in path.name or path.name.startswith("fa-")] == []
    assert sum(path.stat().st_size for path in static.rglob("*") if path.is_file()) < 4e6
    assert re.findall(r"url\(([^)]*)\)", "".join(re.findall(r"@font-face\{[^}]*\}", sheet(static)))) == ['"icons.woff"']
    assert {path.name for path in static.rglob("*.css")} == {"pages.css", "print.css"}


def sheet(static: Path) -> str:
    return (static.parent / style_sheets.SHEET).read_text(encoding="utf-8")


def test_every_icon_that_a_page_shows_is_in_the_font(built: Path, book: checks.Pages) -> None:
    shapes = set(TTFont(icons.PATH).getBestCmap())
    known = icons.codes(sheet(built / "_static"))
    shown = {
        name.removeprefix("fa-")
        for page in book.values()
        for tag in page.soup.select(".fa-solid, .fas")
        for name in tag.get_attribute_list("class")
        if re.fullmatch(r"fa-(?!solid|lg|fw)[\w-]+", str(name))
    }
    assert {"bars", "sun", "list"} <= shown <= set(icons.NAMES)
    assert [name for name in icons.NAMES if ord(known[name]) not in shapes] == []
    assert sorted(code for code in icons.BY_CODE if ord(code) not in shapes) == []
    assert set(known) == set(icons.NAMES)


def test_a_figure_keeps_its_place_before_it_arrives(book: checks.Pages) -> None:
    figures = [image for page in book.values() for image in page.soup.select("article .cell_output img")]
    assert figures
    for image in figures:
        assert image.get("loading") == "lazy"
        assert int(str(image["width"])) > 0
        assert int(str(image["height"])) > 0
    # What the first screen shows does not wait.
    assert all(
        "loading" not in page.soup.select("article img")[0].attrs for page in book.values() if page.name == "index.html"
    )


def test_every_page_says_what_it_is_about(built: Path, book: checks.Pages) -> None:
    assert (built / site_files.CARD).is_file()
    for page in book.values():
        about = page.soup.select("meta[name=description]")
        assert len(about) == (page.name not in ("404.html", "search.html")), page.name
        assert all(len(str(tag["content"])) > 20 for tag in about), page.name


@pytest.fixture(scope="module")
def questions(book: checks.Pages) -> list[Tag]:
    """The sections of the page, one for each question."""
    [page] = [page for page in book.values() if page.name == "questions.html"]
    found = page.soup.select("section:has(> h3)")
    assert len(found) >= 40
    return found


def leads_to(question: Tag) -> tuple[str, str]:
    """Return the page and the section that a question leads to."""
    [link] = question.select("a.reference.internal:not(.claim-mark *)")
    page, _, section = str(link["href"]).partition("#")
    return page, section


def marks(place: Tag) -> Iterator[str]:
    """Yield the claims that a place marks."""
    for link in place.select(".claim-mark a"):
        yield str(link["href"]).partition("#")[2]


def test_each_question_has_one_sentence(questions: list[Tag]) -> None:
    for question in questions:
        title, *paragraphs = copy.copy(question).find_all(["h3", "p"])
        assert title.get_text().rstrip("#").endswith("?")
        [paragraph] = paragraphs
        for unread in paragraph.select(".claim-mark, code"):
            unread.replace_with("x")
        answer, see, _ = re.split(r"\. (See )", paragraph.get_text())
        assert see
        assert re.findall(r"[.?!](?= [A-Z])", answer) == []
        assert 5 <= len(answer.split()) <= 40


def test_each_answer_is_decided_where_it_leads_to(book: checks.Pages, questions: list[Tag]) -> None:
    by_name = {page.name: page for page in book.values()}
    for question in questions:
        page, section = leads_to(question)
        there = by_name[page].soup.find(id=section)
        assert isinstance(there, Tag), (page, section)
        assert there.name == "section"
        assert set(marks(question)) & set(marks(there)), question.h3


def test_the_questions_reach_every_chapter(questions: list[Tag]) -> None:
    reached = {leads_to(question)[0] for question in questions}
    assert reached == {f"{path.parent.name}/{path.stem}.html" for path in chapters(ROOT)}


def test_the_builders_environment_has_no_framework(built: Path) -> None:
    environment = ROOT / ".venv-book"
    if not environment.is_dir():
        pytest.skip("the book was built from another environment; make book makes .venv-book")
    installed = {path.name for path in environment.glob("lib/python*/site-packages/*")}
    assert "sphinx" in installed
    assert installed.isdisjoint(FRAMEWORKS)


def test_the_landing_figure_is_the_one_that_its_code_draws() -> None:
    with Image.open(landing_figure.PATH) as image:
        drawn_by = image.info[landing_figure.DIGEST_KEY]
    assert drawn_by == landing_figure.source_digest(), "run python -m book.landing_figure"


def test_the_landing_figure_shows_both_conventions() -> None:
    outputs, x, q = landing_figure.outputs(), landing_figure.activations(), 1 - landing_figure.P
    kept = outputs["standard", "training"] != 0
    assert 0 < kept.sum() < x.size
    assert outputs["standard", "training"] == pytest.approx(x * kept)
    assert outputs["inverted", "training"] == pytest.approx(x * kept / q)
    assert outputs["standard", "evaluation"] == pytest.approx(x * q)
    assert outputs["inverted", "evaluation"] == pytest.approx(x)


def test_the_landing_figure_can_be_drawn(tmp_path: Path) -> None:
    landing_figure.draw(tmp_path / "figure.png")
    with Image.open(tmp_path / "figure.png") as image:
        assert image.info[landing_figure.DIGEST_KEY] == landing_figure.source_digest()
