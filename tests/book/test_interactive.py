"""Interactive figures in headless Chromium: each is moved, and what it says is compared with dropoutlib."""

import gzip
import itertools
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Locator, Page, expect, sync_playwright

from book import interactive as extension
from book.notebooks import chapters
from dropoutlib import interactive
from dropoutlib.batchnorm import variance_shift
from dropoutlib.gradients import moments
from dropoutlib.layers import InvertedDropout, StandardDropout
from dropoutlib.masks import keyed_mask
from dropoutlib.uncertainty import mc_predict
from tests.book.building import chromium, served
from tests.book.test_browser import NARROW, CompressingHandler, Site, Visit

Settings = dict[str, Any]

# What a page with all its interactive figures may cost, in bytes as they are sent.
HEAVIEST = 850_000


class Case(NamedTuple):
    """A figure: where it is, settings of its controls, and the numbers that it should then say."""

    page: str
    name: str
    settings: list[Settings]
    numbers: Callable[..., list[float]]


def shift_numbers(p: float, mu: float, sigma: float) -> list[float]:
    ratio = variance_shift(mu, sigma**2, p)
    return [ratio, ratio**-0.5]


def conventions_numbers(p: float) -> list[float]:
    numbers = []
    for layer in (StandardDropout(p, seed=0), InvertedDropout(p, seed=0)):
        kept, mean = layer.train()(np.ones(1000)).max(), layer.eval()(1.0)
        assert (1 - p) * kept == pytest.approx(mean)
        numbers += [float(mean), (1 - p) * kept**2 - float(mean) ** 2]
    return numbers


def masks_numbers(p: float, seed: int) -> list[float]:
    y = InvertedDropout(p, seed)(np.ones(400))
    return [np.count_nonzero(y), 400, 1 / (1 - p), y.mean(), 1, y.var(), p / (1 - p)]


def gradient_numbers(p: float, convention: Literal["inverted", "standard"]) -> list[float]:
    g = np.arange(1, 6) / 10
    masks = np.array(list(itertools.product([0, 1], repeat=5)))
    chance = np.prod(np.where(masks, 1 - p, p), axis=1)
    cosine = np.sqrt(masks @ g**2) / np.linalg.norm(g)
    norm = np.linalg.norm(masks * g, axis=1) / (1 - p if convention == "inverted" else 1)
    low, high = moments(g, p, convention).norm_bounds
    return [chance @ norm, low, high, np.linalg.norm(g), chance @ cosine, (1 - p) ** 0.5]


def keyed_numbers(p: float, seed: int, layer: int, step: int) -> list[float]:
    return [seed, layer, step, keyed_mask(32, p, seed, layer, step).sum(), 32]


def passes_numbers(p: float, doublings: int) -> list[float]:
    layer, weights = InvertedDropout(p, seed=0), np.array([1.5, -1, 0.8, 0.6, -0.5, 0.4, 0.3, 0.2])
    found = mc_predict(lambda x: layer(x) @ weights, np.ones(8), 2**doublings, "values")
    masks = np.array(list(itertools.product([0, 1], repeat=8)))
    chance = np.prod(np.where(masks, 1 - p, p), axis=1)
    exact = masks @ weights / (1 - p)
    mean = chance @ exact
    return [2**doublings, float(found.mean), float(found.variance) ** 0.5, mean, (chance @ (exact - mean) ** 2) ** 0.5]


CASES = [
    Case(
        "chapters/uncertainty",
        "fig-passes-move",
        [{"p": p, "doublings": k} for p, k in ((0.1, 0), (0.6, 8), (0.2, 5))],
        passes_numbers,
    ),
    Case(
        "chapters/standard-vs-inverted", "fig-conventions-move", [{"p": p} for p in (0, 0.37, 0.8)], conventions_numbers
    ),
    Case(
        "chapters/standard-vs-inverted",
        "fig-masks-move",
        [{"p": p, "seed": seed} for p, seed in ((0, 0), (0.35, 4), (0.9, 2))],
        masks_numbers,
    ),
    Case(
        "chapters/gradient-flow",
        "fig-gf-move",
        [{"p": p, "convention": c} for p, c in ((0.2, "standard"), (0.75, "inverted"), (0, "inverted"))],
        gradient_numbers,
    ),
    Case(
        "chapters/determinism",
        "fig-keyed-move",
        [
            {"p": p, "seed": s, "layer": k, "step": t}
            for p, s, k, t in ((0.1, 0, 2, 7), (0.65, 2, 1, 0), (0.3, 1, 1, 5))
        ],
        keyed_numbers,
    ),
    Case(
        "chapters/batch-norm",
        "fig-bn-move",
        [{"p": p, "mu": mu, "sigma": sigma} for p, mu, sigma in ((0, 2, 1), (0.2, -1.5, 0.5), (0.81, 0, 3))],
        shift_numbers,
    ),
]
PAGES = sorted({case.page for case in CASES})


@pytest.fixture(scope="module")
def site(built: Path) -> Iterator[Site]:
    with served(built) as address, sync_playwright() as playwright:
        browser = chromium(playwright)
        yield Site(browser, address)
        browser.close()


def live(page: Page, name: str) -> Locator:
    """Scroll to a figure and wait for its drawing."""
    figure = page.locator(f"#{name}")
    figure.scroll_into_view_if_needed()
    expect(figure).to_have_class(re.compile(r"\blive\b"), timeout=60_000)
    return figure


def move(figure: Locator, settings: Settings) -> None:
    for name, value in settings.items():
        control = figure.locator(f"[name={name}]")
        if control.evaluate("e => e.tagName") == "SELECT":
            control.select_option(str(value))
        else:
            control.fill(str(value))


def said(figure: Locator) -> list[float]:
    """Return the numbers of the figure's sentence."""
    text = figure.locator(".vega-readout").text_content() or ""
    return [float(number) for number in re.findall(r"\d+\.\d+|\d+", text.replace("−", "-"))]


def test_every_figure_has_a_case() -> None:
    names = [
        (f"chapters/{path.stem}", cell["metadata"]["mystnb"]["figure"]["name"])
        for path in chapters()
        for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]
        if any(interactive.KIND in output.get("data", {}) for output in cell.get("outputs", []))
    ]
    assert sorted(names) == sorted((case.page, case.name) for case in CASES)


@pytest.fixture(scope="module")
def bare_pages(site: Site) -> Iterator[Callable[[str], Page]]:
    """Give pages without their formulas, which cost most of the time, and fail on any error."""
    opened: dict[str, Page] = {}
    failures: list[str] = []

    def open_page(name: str) -> Page:
        if name not in opened:
            page = opened[name] = site.browser.new_page()
            page.route("**/mathematics.js*", lambda route: route.fulfill(body="", content_type="text/javascript"))
            page.on("pageerror", lambda error: failures.append(str(error)))
            page.on("console", lambda message: message.type in ("error", "warning") and failures.append(message.text))
            page.goto(f"{site.origin}/{name}.html", wait_until="domcontentloaded")
        return opened[name]

    yield open_page
    for page in opened.values():
        page.close()
    assert failures == []


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_figure_says_what_dropoutlib_computes(bare_pages: Callable[[str], Page], case: Case) -> None:
    figure = live(bare_pages(case.page), case.name)
    for settings in case.settings:
        before = figure.locator(".vega-chart svg").inner_html()
        move(figure, settings)
        expected, found = case.numbers(**settings), said(figure)
        assert len(found) == len(expected), figure.locator(".vega-readout").text_content()
        assert found == pytest.approx(expected, abs=6e-4), settings
        assert figure.locator(".vega-chart svg").inner_html() != before, "the drawing stood still"
    drawn, whole = (box.evaluate("e => e.clientWidth") for box in (figure.locator(".vega-chart svg"), figure))
    assert drawn > 0.9 * whole, "the drawing is not as wide as its figure"


def drawn_mask(figure: Locator) -> list[bool]:
    """Return which units of a drawn grid are kept, in their order."""
    fills = "all => all.map(e => getComputedStyle(e).fill).filter(fill => fill !== 'none')"
    found = figure.locator(".vega-chart .mark-rect.role-mark path").evaluate_all(fills)
    assert set(found) <= {"rgb(0, 114, 178)", "rgb(196, 196, 196)"}
    return [fill == "rgb(0, 114, 178)" for fill in found]


@pytest.mark.parametrize(("p", "seed"), [(0, 1), (0.15, 3), (0.6, 0), (0.9, 4)])
def test_the_drawn_mask_is_that_of_the_layer(bare_pages: Callable[[str], Page], p: float, seed: int) -> None:
    figure = live(bare_pages("chapters/standard-vs-inverted"), "fig-masks-move")
    move(figure, {"p": p, "seed": seed})
    assert drawn_mask(figure) == (InvertedDropout(p, seed)(np.ones(400)) > 0).tolist()


@pytest.mark.parametrize(("p", "seed", "layer"), [(0, 0, 1), (0.05, 1, 2), (0.45, 2, 0), (0.8, 1, 1)])
def test_the_drawn_masks_are_those_of_their_keys(
    bare_pages: Callable[[str], Page], p: float, seed: int, layer: int
) -> None:
    figure = live(bare_pages("chapters/determinism"), "fig-keyed-move")
    move(figure, {"p": p, "seed": seed, "layer": layer})
    expected = np.concatenate([keyed_mask(32, p, seed, layer, step) for step in range(8)])
    assert drawn_mask(figure) == expected.tolist()


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_figure_is_moved_by_keyboard(bare_pages: Callable[[str], Page], case: Case) -> None:
    page = bare_pages(case.page)
    figure = live(page, case.name)
    controls = figure.locator(".vega-controls :is(input, select)")
    controls.first.focus()
    for number in range(controls.count()):
        control = controls.nth(number)
        expect(control).to_be_focused()
        value, drawn = control.input_value(), figure.locator(".vega-chart svg").inner_html()
        page.keyboard.press("ArrowDown")
        if control.input_value() == value:
            page.keyboard.press("ArrowUp")
        assert control.evaluate("e => getComputedStyle(e).outlineStyle") == "solid"
        assert control.input_value() != value
        assert figure.locator(".vega-chart svg").inner_html() != drawn
        page.keyboard.press("Tab")


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_on_paper_there_is_a_picture(bare_pages: Callable[[str], Page], case: Case) -> None:
    page = bare_pages(case.page)
    figure = live(page, case.name)
    expect(figure.locator("img")).not_to_be_visible()
    page.emulate_media(media="print")
    expect(figure.locator("img")).to_be_visible()
    for part in (".vega-chart", ".vega-controls", ".vega-readout"):
        expect(figure.locator(part)).not_to_be_visible()
    page.emulate_media(media="screen")


@pytest.mark.long
def test_the_figures_work_from_a_folder_without_a_network(site: Site, built: Path) -> None:
    for page_name in PAGES:
        with site.open(page_name, origin=built.as_uri(), offline=True) as page:
            for case in CASES:
                if case.page == page_name:
                    figure = live(page, case.name)
                    move(figure, case.settings[-1])
                    assert said(figure) == pytest.approx(case.numbers(**case.settings[-1]), abs=6e-4)


@pytest.mark.long
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("name", PAGES)
def test_live_figures_are_accessible(site: Site, name: str, scheme: str) -> None:
    with site.open(name, color_scheme=scheme) as page:
        for case in CASES:
            if case.page == name:
                figure = live(page, case.name)
                chart = figure.get_by_role("img")
                assert len((chart.get_attribute("aria-label") or "").split()) > 15
                for control in figure.locator(".vega-controls :is(input, select)").all():
                    assert control.evaluate("e => e.labels[0].innerText").strip()
        context = {"include": [[".interactive"]], "exclude": [["mjx-container"]]}
        found = Axe().run(page, context=context, options={"preload": False}).response["violations"]
        assert [(item["id"], [node["html"][:200] for node in item["nodes"]][:5]) for item in found] == []
        filters = page.locator(".vega-chart svg").evaluate_all("all => all.map(e => getComputedStyle(e).filter)")
        assert all(("invert(1)" in filter) == (scheme == "dark") for filter in filters)


@pytest.mark.long
@pytest.mark.parametrize("name", PAGES)
def test_live_figures_fit_a_telephone(site: Site, name: str) -> None:
    with site.open(name, viewport=NARROW) as page:
        for case in CASES:
            if case.page == name:
                figure = live(page, case.name)
                wide = """f => [...f.querySelectorAll('*')].filter(e => {
                    const box = e.getBoundingClientRect()
                    return box.right > innerWidth + 1 || box.left < -1
                }).map(e => e.outerHTML.slice(0, 100))"""
                assert figure.locator(".vega-chart").evaluate(wide) == []
        assert page.evaluate("document.documentElement.scrollWidth") == NARROW["width"]


@pytest.mark.long
@pytest.mark.parametrize("name", PAGES)
def test_without_scripts_there_is_a_picture(site: Site, name: str) -> None:
    with site.open(name, java_script_enabled=False) as page:
        for case in CASES:
            if case.page == name:
                expect(page.locator(f"#{case.name} img")).to_be_visible()


@pytest.mark.long
def test_when_vega_is_out_of_reach_the_picture_stays(site: Site) -> None:
    case = CASES[0]
    context = site.browser.new_context()
    page = context.new_page()
    page.route("**/vega.js", lambda route: route.abort())
    page.goto(f"{site.origin}/{case.page}.html")
    figure = page.locator(f"#{case.name}")
    figure.scroll_into_view_if_needed()
    expect(figure.locator(".vega-controls")).to_have_count(0)
    expect(figure.locator("img")).to_be_visible()
    context.close()


def test_only_pages_with_a_figure_load_the_script(built: Path) -> None:
    for path in built.rglob("*.html"):
        text, has_figure = path.read_text(encoding="utf-8"), path.relative_to(built).with_suffix("").as_posix() in PAGES
        assert (extension.SCRIPT in text) == has_figure, path
        assert f'src="../_static/{extension.VEGA}' not in text


@pytest.mark.long
@pytest.mark.parametrize("name", PAGES)
def test_vega_is_loaded_when_the_reader_comes_near(site: Site, name: str) -> None:
    asked: list[str] = []
    page = site.browser.new_page()
    page.on("request", lambda request: asked.append(request.url))
    page.goto(f"{site.origin}/{name}.html", wait_until="networkidle")
    assert not any(extension.VEGA in url for url in asked)
    live(page, next(case.name for case in CASES if case.page == name))
    assert any(extension.VEGA in url for url in asked)
    page.close()


@pytest.mark.long
@pytest.mark.parametrize("name", PAGES)
def test_a_page_with_its_figures_is_light(
    compressed: Site, name: str, record_property: Callable[[str, object], None]
) -> None:
    """What a reader gets who comes to every interactive figure of a page, and so to the pictures on the way."""
    visit = Visit()
    with compressed.open(name, visit=visit) as page:
        for case in CASES:
            if case.page == name:
                live(page, case.name)
        visit.settle(page)
        assert any(extension.VEGA in address for address in visit.bytes_by_address)
        record_property("page weight with interactive figures", f"{visit.bytes / 1000:4.0f} kB  {name}")
        assert visit.bytes <= HEAVIEST, sorted(visit.bytes_by_address.items(), key=lambda item: -item[1])[:8]


@pytest.fixture(scope="module")
def compressed(built: Path, site: Site) -> Iterator[Site]:
    """The book as a host sends it."""
    with served(built, handler=CompressingHandler) as address:
        yield Site(site.browser, address)


def test_what_the_figures_load_is_small(built: Path) -> None:
    static = built / "_static"
    sizes = [len(gzip.compress((static / name).read_bytes())) for name in (extension.SCRIPT, extension.VEGA)]
    assert sum(sizes) < 320_000


# --- the extension


def notebook(*outputs: dict[str, Any]) -> dict[str, Any]:
    return {
        "cells": [{"cell_type": "markdown"}, {"cell_type": "code", "outputs": [{"data": data} for data in outputs]}]
    }


def test_specifications_are_found_by_cell() -> None:
    assert extension.specifications(notebook({extension.KIND: {"mark": "bar"}})) == {1: {"mark": "bar"}}
    assert extension.specifications(notebook({"image/png": ""})) == {}


def test_the_package_and_the_book_speak_of_one_kind_and_version() -> None:
    assert (extension.KIND, extension.VERSION) == (interactive.KIND, interactive.VERSION)


def test_no_specification_ends_its_script(built: Path) -> None:
    for name in PAGES:
        scripts = (built / f"{name}.html").read_text(encoding="utf-8").split('<script type="application/json"')[1:]
        assert scripts
        for script in scripts:
            json.loads(script.partition(">")[2].partition("</script>")[0])
