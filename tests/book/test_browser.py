"""The built book in headless Chromium, without a network: in light and dark, wide and narrow, by keyboard."""

import contextlib
import functools
import gzip
import http.server
import io
import re
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, BrowserContext, Page, Request, Route, expect, sync_playwright

from book import checks
from tests.book.building import chromium
from tests.book.conftest import DOCUMENTS

WIDE, NARROW = {"width": 1280, "height": 900}, {"width": 390, "height": 844}
MODES = {"1280 light": (WIDE, "light"), "1280 dark": (WIDE, "dark"), "390 light": (NARROW, "light")}
CHAPTER = "chapters/standard-vs-inverted"
# Between them they have every element; the audits of the others are long.
MAIN = ("index", CHAPTER, "chapters/frameworks", "appendix/claims", "search")
# A colour that is still fading in has less contrast than it will have.
SETTLED = """async () => {
    await new Promise(drawn => requestAnimationFrame(() => requestAnimationFrame(drawn)))
    const ends = document.getAnimations().filter(a => a.effect.getComputedTiming().endTime < Infinity)
    await Promise.allSettled(ends.map(a => a.finished))
}"""

NO_FORMULAS = "(window.MathJax ??= {}).startup = { promise: Promise.resolve() }"


# What a first visit may cost, in bytes as they are sent; hosts of pages compress text.
HEAVIEST = 500_000
COMPRESSED = (".html", ".css", ".js", ".svg", ".xml", ".json")


@functools.cache
def compressed(path: Path) -> bytes:
    return gzip.compress(path.read_bytes())


class CompressingHandler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *args: object) -> None:
        pass

    def send_head(self) -> Any:
        path = Path(self.translate_path(self.path))
        if path.suffix not in COMPRESSED or not path.is_file():
            return super().send_head()
        content = compressed(path)
        self.send_response(200)
        self.send_header("Content-Type", self.guess_type(str(path)))
        self.send_header("Content-Encoding", "gzip")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        return io.BytesIO(content)


@dataclass
class Visit:
    """What a page has asked for, and what arrived."""

    bytes_by_address: dict[str, int] = field(default_factory=dict)
    awaited: set[str] = field(default_factory=set)

    @property
    def bytes(self) -> int:
        """Bytes of all that arrived, with their headers, as they were sent."""
        return sum(self.bytes_by_address.values())

    def watch(self, page: Page) -> None:
        """Count what arrives from now on."""
        addresses: dict[str, str] = {}
        network = page.context.new_cdp_session(page)
        network.send("Network.enable")

        def ask(event: dict[str, Any]) -> None:
            addresses[event["requestId"]] = event["request"]["url"]
            self.awaited.add(event["requestId"])

        def arrive(event: dict[str, Any]) -> None:
            self.bytes_by_address[addresses[event["requestId"]]] = int(event["encodedDataLength"])
            self.awaited.discard(event["requestId"])

        network.on("Network.requestWillBeSent", ask)
        network.on("Network.loadingFinished", arrive)

    def settle(self, page: Page) -> None:
        """Wait until all that was asked for is there."""
        page.evaluate("async () => { await document.fonts.ready }")
        while self.awaited:
            page.wait_for_timeout(20)


@dataclass
class Site:
    """The book at an address, and a browser that can reach nothing else."""

    browser: Browser
    origin: str

    @contextlib.contextmanager
    def open(
        self,
        name: str,
        origin: str | None = None,
        visit: Visit | None = None,
        before: str = "",
        formulas: bool = True,
        **options: Any,
    ) -> Iterator[Page]:
        """Open a page; fail at the end if it asked another host, a request failed, or an error was logged.

        `before` is a function in JavaScript that the page calls before all others. Without `formulas` it sets none: for
        questions that have nothing to do with them, as to set those of a chapter takes longer than all else.
        """
        origin = origin or self.origin
        failures: list[str] = []

        def refuse_foreign(route: Route) -> None:
            if not formulas and "/mathematics.js" in route.request.url:
                route.fulfill(content_type="text/javascript", body=NO_FORMULAS)
            elif route.request.url.startswith(origin):
                route.continue_()
            else:
                failures.append(f"asked for {route.request.url}")
                route.abort()

        def note_failure(request: Request) -> None:
            # A page that is left gives up what it was still loading.
            if request.failure != "net::ERR_ABORTED":
                failures.append(f"could not load {request.url}: {request.failure}")

        defaults = {"viewport": WIDE, "reduced_motion": "reduce"}
        context: BrowserContext = self.browser.new_context(**(defaults | options))
        context.route("**/*", refuse_foreign)
        page = context.new_page()
        if before:
            page.add_init_script(f"({before})()")
        if visit is not None:
            visit.watch(page)
        page.on("pageerror", lambda error: failures.append(f"raised {error}"))
        page.on("console", lambda message: message.type == "error" and failures.append(f"logged {message.text}"))
        if scripts := options.get("java_script_enabled", True):
            page.on("requestfailed", note_failure)
        page.on("response", lambda answer: answer.status >= 400 and failures.append(f"{answer.status} {answer.url}"))
        try:
            page.goto(f"{origin}/{name}.html")
            if scripts:
                page.evaluate("async () => { if (window.MathJax) await MathJax.startup.promise }")
                page.evaluate(SETTLED)
            yield page
            assert failures == []
        finally:
            context.close()


@pytest.fixture(scope="module")
def site(built: Path) -> Iterator[Site]:
    server = http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), functools.partial(CompressingHandler, directory=str(built))
    )
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    with sync_playwright() as playwright:
        browser = chromium(playwright)
        yield Site(browser, f"http://127.0.0.1:{server.server_port}")
        browser.close()
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.mark.parametrize("name", [*DOCUMENTS, "search"])
def test_a_page_loads_whole(site: Site, name: str, record_property: Callable[[str, object], None]) -> None:
    visit = Visit()
    with site.open(name, visit=visit) as page:
        visit.settle(page)
        weight = visit.bytes
        record_property("page weight", f"{weight / 1000:4.0f} kB  {name}")
        assert weight <= HEAVIEST, sorted(visit.bytes_by_address.items(), key=lambda item: -item[1])[:8]
        assert_rendered(page)


def test_what_no_page_needs_is_not_loaded(site: Site) -> None:
    visit = Visit()
    with site.open(CHAPTER, visit=visit) as page:
        visit.settle(page)
        loaded = [address.removeprefix(site.origin) for address in visit.bytes_by_address]
        assert [
            address
            for address in loaded
            if re.search(r"fontawesome|searchindex|mathjax/.*extensions|theme.css", address)
        ] == []
        assert page.evaluate("[...document.fonts].filter(f => /Awesome/.test(f.family)).map(f => f.status)") == [
            "loaded"
        ]
        figures = page.locator("article .cell_output img")
        assert figures.count() > 1
        figures.last.scroll_into_view_if_needed()
        expect(figures.last).to_have_js_property("complete", True)
        assert len(visit.bytes_by_address) > len(loaded)


def test_the_book_opens_from_a_folder(site: Site, built: Path) -> None:
    with site.open(CHAPTER, origin=built.as_uri(), offline=True) as page:
        assert_rendered(page)
        assert page.locator("mjx-container").count() > 0


def test_a_word_is_found_in_a_folder(site: Site, built: Path) -> None:
    with site.open("search", origin=built.as_uri(), offline=True) as page:
        page.locator("main input[name=q]").fill("inverted")
        page.keyboard.press("Enter")
        expect(page.locator("#search-results li a[href*=standard-vs-inverted]").first).to_be_visible()
        expect(page.locator("#search-results")).to_contain_text("Search finished")


def assert_rendered(page: Page) -> None:
    """Assert that mathematics is set in MathJax's own fonts, and that every image is there."""
    formulas = page.locator("article .math").count()
    assert page.locator("article mjx-container").count() >= formulas
    assert page.locator("mjx-merror, [data-mjx-error]").count() == 0
    if formulas:
        page.wait_for_function("[...document.fonts].some(f => /MJX/.test(f.family) && f.status === 'loaded')")
        assert page.evaluate("[...document.fonts].filter(f => f.status === 'error').map(f => f.family)") == []
    # Those below the first screen would wait for the reader.
    page.evaluate("[...document.images].forEach(image => { image.loading = 'eager' })")
    page.wait_for_function("[...document.images].every(image => image.complete)")
    missing = "[...document.images].filter(image => image.naturalWidth === 0).map(image => image.src)"
    assert page.evaluate(missing) == []


@pytest.mark.parametrize("name", MAIN)
def test_a_page_does_not_scroll_sideways_on_a_telephone(site: Site, name: str) -> None:
    """The main pages; `test_a_page_is_right_in_every_mode` looks at all of them."""
    with site.open(name, viewport=NARROW) as page:
        assert sideways(page, NARROW["width"]) == []


def sideways(page: Page, width: int) -> list[str]:
    """Return what is wider than the screen and not in a box of its own that scrolls."""
    found: list[str] = page.evaluate("""() => {
        const known = new Map([[null, false]])
        const boxed = x => {
            if (!known.has(x)) known.set(x, getComputedStyle(x).overflowX !== 'visible' || boxed(x.parentElement))
            return known.get(x)
        }
        return [...document.querySelectorAll('article *')]
            .filter(e => e.getBoundingClientRect().right > innerWidth + 1 && !boxed(e))
            .map(e => e.outerHTML.slice(0, 200))
    }""")
    if (whole := page.evaluate("document.documentElement.scrollWidth")) > width:
        found.append(f"the page is {whole} pixels wide")
    return found


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("name", MAIN)
def test_a_page_is_accessible(
    site: Site, name: str, scheme: str, record_property: Callable[[str, object], None]
) -> None:
    with site.open(name, color_scheme=scheme, formulas=scheme == "light") as page:
        assert page.evaluate("document.documentElement.dataset.theme") == scheme
        # Of many words that look the same, the first tell whether they can be read; axe takes long for each.
        page.evaluate(MARK_AGAIN)
        # Colours alone differ between the two.
        alone = {"runOnly": ["color-contrast"]} if scheme == "dark" else {}
        assert violations(page, {"color-contrast": ":not([data-again])"}, **alone) == []
    record_property("page checks", f"{name:32} 1280 {scheme:5}  axe{' contrast' if scheme == 'dark' else ''}")


@pytest.mark.long
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", [*DOCUMENTS, "search"])
def test_a_page_is_right_in_every_mode(
    site: Site, name: str, mode: str, record_property: Callable[[str, object], None]
) -> None:
    """Everything that one look at a page can tell; `Site.open` watches console and network."""
    viewport, scheme = MODES[mode]
    with site.open(name, viewport=viewport, color_scheme=scheme) as page:
        assert page.evaluate("document.documentElement.dataset.theme") == scheme
        assert_rendered(page)
        assert sideways(page, viewport["width"]) == []
        assert [what for what, raw in checks.RAW.items() if raw.search(shown_prose(page))] == []
        assert violations(page) == []
    record_property(
        "page checks",
        f"{name:32} {mode:10}  axe, console, requests, images, mathematics, raw TeX and MyST, width",
    )


def violations(page: Page, selectors: dict[str, str] | None = None, **options: Any) -> list[tuple[str, list[str]]]:
    """Return what axe finds against WCAG and good practice; `selectors` say what a rule looks at, if not at all."""
    # Preloading makes axe ask for style sheets at addresses of its own making; nobody reads the other results.
    options = {"preload": False, "resultTypes": ["violations"]} | options
    page.evaluate(Axe().axe_script)
    rules = [{"id": name, "selector": selector} for name, selector in (selectors or {}).items()]
    found = page.evaluate(RUN_AXE, [rules, {"exclude": [["mjx-container"]]}, options])
    return [(item["id"], [node["html"][:200] for node in item["nodes"]][:5]) for item in found]


RUN_AXE = """async ([rules, context, options]) => {
    axe.configure({rules})
    return (await axe.run(context, options)).violations
}"""

# Marks what has the name, the classes and the style of three others before it, as has all that is inside of it, and as
# have all boxes around it: most words of code and cells of tables.
MARK_AGAIN = """() => {
    const STYLE = ["color", "opacity", "fontSize", "fontWeight", "backgroundColor", "backgroundImage", "filter",
                   "textShadow", "textDecorationLine", "mixBlendMode", "position", "visibility"]
    const kinds = new Map()
    const isAgain = (e, around) => {
        const style = getComputedStyle(e), shown = e.checkVisibility({visibilityProperty: true})
        const key = [around, e.localName, e.getAttribute("class"), shown, ...STYLE.map(name => style[name])].join("|")
        const kind = kinds.get(key) ?? {number: kinds.size, count: 0}
        kinds.set(key, kind)
        kind.count += 1
        const inside = [...e.children].map(child => isAgain(child, kind.number))
        const again = kind.count > 3 && inside.every(Boolean)
        e.toggleAttribute("data-again", again)
        return again
    }
    isAgain(document.body, -1)
}"""


def shown_prose(page: Page) -> str:
    """Return the text that is shown, without code and set mathematics."""
    return str(
        page.evaluate("""() => {
            const copy = (document.querySelector('article') || document.querySelector('main')).cloneNode(true)
            copy.querySelectorAll('code, pre, script, style, kbd, svg, mjx-container').forEach(e => e.remove())
            return copy.textContent
        }""")
    )


def test_figures_are_dark_in_dark_mode(site: Site) -> None:
    with site.open(CHAPTER, color_scheme="dark", formulas=False) as page:
        figures = page.locator("article .cell_output img").all()
        assert figures
        for figure in figures:
            assert "invert(1)" in figure.evaluate("e => getComputedStyle(e).filter")


def test_a_table_that_a_cell_draws_is_dark_in_dark_mode(site: Site) -> None:
    with site.open("chapters/frameworks", color_scheme="dark", formulas=False) as page:
        table = page.locator(".cell_output .text_html:has(table)").first
        assert table.evaluate("box => getComputedStyle(box).backgroundColor") == "rgba(0, 0, 0, 0)"


@pytest.mark.parametrize("scripts", [True, False], ids=["with scripts", "without scripts"])
def test_a_prediction_is_made_by_keyboard(site: Site, scripts: bool) -> None:
    with site.open(CHAPTER, java_script_enabled=scripts, formulas=False) as page:
        prediction = page.locator(".prediction").first
        answers = prediction.locator(".answer")
        choices = prediction.get_by_role("radio")
        assert prediction.get_by_role("group").count() >= 1
        for answer in answers.all():
            expect(answer).not_to_be_visible()
        choices.first.focus()
        page.keyboard.press("Space")
        expect(choices.first).to_be_checked()
        for chosen in range(choices.count()):
            for number, answer in enumerate(answers.all()):
                expect(answer).to_be_visible(visible=number == chosen)
            assert answers.nth(chosen).evaluate("e => e.getBoundingClientRect().height") > 20
            page.keyboard.press("ArrowDown")
        page.keyboard.press("Tab")
        page.keyboard.press("Enter")
        for answer in answers.all():
            expect(answer).to_be_visible()


def test_a_prediction_tells_its_answer_to_a_screen_reader(site: Site) -> None:
    with site.open(CHAPTER, formulas=False) as page:
        prediction = page.locator(".prediction").first
        answer = (prediction.locator(".answer p").last.text_content() or "")[:30]
        assert answer
        assert answer not in prediction.aria_snapshot()
        prediction.get_by_role("radio").last.check()
        assert answer in prediction.aria_snapshot()
        assert prediction.locator("[aria-live=polite]").locator(".answer").count() > 0


def test_without_style_sheets_the_answers_stay_closed(site: Site) -> None:
    with site.open(CHAPTER, formulas=False) as page:
        page.evaluate("document.querySelectorAll('link[rel=stylesheet], style').forEach(e => e.remove())")
        prediction = page.locator(".prediction").first
        expect(prediction.locator(".answer").first).not_to_be_visible()
        prediction.locator("summary").click()
        for answer in prediction.locator(".answer").all():
            expect(answer).to_be_visible()


def test_a_definition_shows_on_hover_and_focus_until_escape(site: Site) -> None:
    with site.open(CHAPTER, formulas=False) as page:
        words, boxes = page.locator(".term > a"), page.locator("[role=tooltip]")
        shown = page.locator("[role=tooltip]:visible")
        first, second = (box.text_content() or "" for box in (boxes.nth(0), boxes.nth(1)))
        assert page.locator("article").get_by_role("link", description=first).count() == 1
        words.nth(0).hover()
        expect(shown).to_have_text(first)
        box = shown.bounding_box()
        assert box is not None
        # Slowly: between the two there is no gap in which it would vanish.
        page.mouse.move(box["x"] + box["width"] - 40, box["y"] + box["height"] - 8, steps=40)
        expect(shown).to_have_text(first)
        page.keyboard.press("Escape")
        expect(shown).to_have_count(0)
        words.nth(0).focus()
        expect(shown).to_have_text(first)
        words.nth(1).focus()
        expect(shown).to_have_text(second)
        expect(shown).to_be_in_viewport(ratio=1)
        page.keyboard.press("Escape")
        expect(shown).to_have_count(0)
        assert page.url.endswith(f"{CHAPTER}.html")


@pytest.mark.long
def test_a_word_is_tapped_for_its_definition_and_again_for_the_glossary(site: Site) -> None:
    with site.open(CHAPTER, viewport=NARROW, has_touch=True) as page:
        word, shown = page.locator(".term > a").first, page.locator("[role=tooltip]:visible")
        word.tap()
        expect(shown).to_be_in_viewport(ratio=1)
        assert sideways(page, NARROW["width"]) == []
        page.locator("article h1").tap()
        expect(shown).to_have_count(0)
        word.tap()
        word.tap()
        page.wait_for_url("**/appendix/glossary.html#term-*")


def test_a_claim_leads_to_its_row(site: Site) -> None:
    with site.open(CHAPTER, formulas=False) as page:
        mark = page.locator(".claim-mark a").first
        assert mark.inner_text().strip() or mark.text_content()
        assert mark.evaluate("e => getComputedStyle(e, '::before').content").startswith('"')
        mark.click()
        page.wait_for_url("**/appendix/claims.html#claim-*")
        expect(page.locator("tr:target")).to_be_visible()


def test_the_skip_link_leads_to_the_text(site: Site) -> None:
    with site.open(CHAPTER, formulas=False) as page:
        page.keyboard.press("Tab")
        expect(page.locator(":focus")).to_have_text("Skip to main content")
        expect(page.locator(":focus")).to_be_in_viewport()
        page.keyboard.press("Enter")
        page.keyboard.press("Tab")
        assert page.evaluate("document.querySelector('main').contains(document.activeElement)")


# The style of what has the focus, of the label that shows it, and of the box around it.
FOCUS_IS_SHOWN = """() => {
    const looks = e => [e, e.nextElementSibling, e.labels?.[0], e.parentElement].filter(Boolean).map(x => {
        const s = getComputedStyle(x)
        return [s.outlineStyle === 'none' || s.outlineWidth === '0px' ? '' : s.outline, s.boxShadow, s.borderColor,
                s.backgroundColor].join()
    }).join('|')
    const all = [...document.querySelectorAll('a[href], button, input, summary, [tabindex="0"]')]
        .filter(e => e.checkVisibility({visibilityProperty: true}) && !e.closest('dialog:not([open])'))
    return all.filter(e => {
        document.activeElement.blur()
        const before = looks(e)
        e.focus({preventScroll: true})
        return document.activeElement === e && looks(e) === before
    }).map(e => e.outerHTML.slice(0, 150))
}"""


@pytest.mark.parametrize("name", ["index", "chapters/frameworks"])
def test_the_focus_is_seen_wherever_it_is(site: Site, name: str) -> None:
    with site.open(name) as page:
        page.keyboard.press("Tab")  # From here on the browser takes the reader for one who uses the keyboard.
        page.add_style_tag(content="* { transition: none !important }")
        assert page.evaluate(FOCUS_IS_SHOWN) == []


@pytest.mark.long
def test_a_formula_is_a_stop_only_where_it_scrolls(site: Site) -> None:
    with site.open(CHAPTER, viewport=NARROW) as page:
        assert page.locator("mjx-container").count() > 100
        stops = []
        for _ in range(40):
            page.keyboard.press("Tab")
            stops.append(page.evaluate("(e => [e.localName, e.scrollWidth - e.clientWidth])(document.activeElement)"))
        assert [room for name, room in stops if name == "mjx-container" and room < 10] == []


def test_a_button_that_is_pressed_by_keyboard_keeps_the_focus(site: Site) -> None:
    with site.open("index", viewport=NARROW) as page:
        for name in ("Color mode", "Search", "Toggle primary sidebar"):
            button = page.get_by_role("button", name=name, exact=True)
            button.focus()
            page.keyboard.press("Enter")
            page.keyboard.press("Escape")
            expect(button).to_be_focused()


def test_after_the_contents_of_a_page_the_focus_goes_on_from_the_chosen_section(site: Site) -> None:
    with site.open(CHAPTER, viewport=NARROW, formulas=False) as page:
        page.get_by_role("button", name="Toggle secondary sidebar").focus()
        page.keyboard.press("Enter")
        page.locator("dialog[open] a[href='#exercises']").focus()
        page.keyboard.press("Enter")
        page.wait_for_url("**#exercises")
        page.keyboard.press("Tab")
        assert page.evaluate("document.querySelector('#exercises').contains(document.activeElement)")


def test_a_hidden_cell_is_named_by_what_is_written_on_it(site: Site) -> None:
    with site.open(CHAPTER, formulas=False) as page:
        assert page.locator("details.hide > summary").count() > 0
        assert page.locator("summary[aria-label]").count() == 0


def test_a_solution_is_opened_by_keyboard(site: Site) -> None:
    with site.open(CHAPTER, formulas=False) as page:
        solution = page.locator(".solution.dropdown").first
        answer = solution.locator(".admonition-title ~ *").first
        button = solution.get_by_role("button", name=re.compile(r"^Solution to Exercise \d+$"))
        expect(answer).to_be_hidden()
        button.focus()
        for open_, key in ((True, "Enter"), (False, "Space")):
            page.keyboard.press(key)
            expect(answer).to_be_visible(visible=open_)
            expect(button).to_have_attribute("aria-expanded", "true" if open_ else "false")


def test_a_tab_is_chosen_once_for_all_by_keyboard(site: Site) -> None:
    shown = "[...document.querySelectorAll('.sd-tab-set > input:checked + label')].map(e => e.dataset.syncId)"
    with site.open("chapters/frameworks", formulas=False) as page:
        assert set(page.evaluate(shown)) == {"pytorch"}
        page.locator(".sd-tab-set > input").first.focus()
        page.keyboard.press("ArrowRight")
        assert set(page.evaluate(shown)) == {"keras"}
        page.reload()
        assert set(page.evaluate(shown)) == {"keras"}
        # On other pages too: the choice belongs to the visit.
        page.goto(f"{site.origin}/index.html")
        page.goto(f"{site.origin}/chapters/frameworks.html")
        assert set(page.evaluate(shown)) == {"keras"}


def test_a_page_that_has_moved_leads_on_to_the_same_place(site: Site) -> None:
    with site.open("questions", formulas=False) as page:
        page.goto(f"{site.origin}/glossary.html#term-mask")
        page.wait_for_url("**/appendix/glossary.html#term-mask")


def test_a_word_is_found_by_keyboard(site: Site) -> None:
    with site.open("index", formulas=False) as page:
        page.keyboard.press("Control+k")
        expect(page.locator("#pst-search-dialog")).to_be_visible()
        page.keyboard.type("inverted")
        page.keyboard.press("Enter")
        page.wait_for_url("**/search.html?q=inverted*")
        found = page.locator("#search-results li a")
        expect(page.locator("#search-results li a[href*=standard-vs-inverted]").first).to_be_visible()
        found.first.focus()
        page.keyboard.press("Enter")
        page.wait_for_url(re.compile(r"/(index|chapters/.*|appendix/.*)\.html"))


@pytest.mark.parametrize("name", ["index", "chapters/frameworks"])
def test_nothing_moves_for_those_who_asked_for_less_motion(site: Site, name: str) -> None:
    moving = """[...document.querySelectorAll('*')].filter(e => {
        const s = getComputedStyle(e), seconds = list => list.split(',').some(t => parseFloat(t) > 0.01)
        return seconds(s.transitionDuration) || (s.animationName !== 'none' && seconds(s.animationDuration))
    }).length + (getComputedStyle(document.documentElement).scrollBehavior === 'smooth')"""
    with site.open(name, reduced_motion="reduce", formulas=False) as page:
        assert page.evaluate(moving) == 0


# Which formulas are set, in their order; at the first one the reader goes to the last, and sees it two frames later.
NOTE_ORDER = """() => {
    window.order = []
    let formulas
    new MutationObserver(records => {
        for (const added of records.flatMap(record => [...record.addedNodes])) {
            if (added.localName !== 'mjx-container') continue
            formulas ??= [...document.querySelectorAll('article .math')]
            window.last ??= formulas.findLastIndex(e => e.checkVisibility())
            if (!order.length) {
                formulas[last].scrollIntoView({behavior: 'instant'})
                requestAnimationFrame(() => requestAnimationFrame(() => { window.before = order.length }))
            }
            order.push(formulas.indexOf(added.closest('.math')))
        }
    }).observe(document, {childList: true, subtree: true})
}"""


def test_who_jumps_far_down_a_page_waits_for_no_formula_between(site: Site) -> None:
    with site.open("chapters/uncertainty", before=NOTE_ORDER) as page:
        order, last, before = page.evaluate("[order, last, before]")
        assert sorted(order) == list(range(len(order)))
        assert last > 100
        assert order.index(last) < before + len(order) / 4


def test_a_screen_reader_gets_the_mathematics(site: Site) -> None:
    with site.open(CHAPTER) as page:
        formulas = page.locator("article mjx-container")
        assert formulas.count() > 20
        assert page.locator("article mjx-container > mjx-assistive-mml > math").count() == formulas.count()
        assert page.locator("article mjx-container > mjx-math[aria-hidden=true]").count() == formulas.count()
        assert page.locator("mjx-assistive-mml").first.evaluate("e => getComputedStyle(e).display") != "none"
