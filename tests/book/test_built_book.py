"""The book as it was built."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from fontTools.ttLib import TTFont
from PIL import Image

from book import checks, icons, landing_figure, site_files
from book.notebooks import ROOT

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
    assert (built / "_static" / "mathjax" / "book.js").is_file()
    assert len(list(built.glob("_static/mathjax/output/chtml/fonts/woff-v2/*.woff"))) >= 20


def test_the_book_holds_nothing_of_the_theme_that_no_page_asks_for(built: Path) -> None:
    static = built / "_static"
    assert [path.name for path in static.rglob("*.map")] == []
    assert [path.name for path in static.rglob("*") if "awesome" in path.name or path.name.startswith("fa-")] == []
    assert sum(path.stat().st_size for path in static.rglob("*") if path.is_file()) < 4e6
    assert "Font Awesome" not in "".join(re.findall(r"@font-face\{[^}]*\}", sheet(static)))


def sheet(static: Path) -> str:
    return (static / "styles" / "pydata-sphinx-theme.css").read_text(encoding="utf-8")


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
    assert set(known) >= set(icons.NAMES)
    assert len(known) < 2 * len(icons.NAMES)


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
