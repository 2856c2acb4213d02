"""The one style sheet of all pages: what it keeps, what it leaves out, and that pages look the same."""

from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest
from sphinx.application import Sphinx

from book.style_sheets import OneSheet, names_on, parse, used, write

NAMES = {"box", "title", "w-33.3"}


def kept(style_sheet: str) -> str:
    return write(list(used(parse(style_sheet), NAMES))).replace("\n", "")


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("p{color:red}", "p{color:red}"),
        (".box{a:b}.gone{a:b}#gone{a:b}", ".box{a:b}"),
        (".box, .gone , .title > em{a:b}", ".box,.title > em{a:b}"),
        (".box .gone{a:b}.box.gone{a:b}.gone>.box{a:b}", ""),
        (".box:not(.gone){a:b}", ".box:not(.gone){a:b}"),
        (".box:not(:is(.gone,.x):not(.y)){a:b}", ".box:not(:is(.gone,.x):not(.y)){a:b}"),
        (":is(.gone, .box) p{a:b}", ":is(.gone, .box) p{a:b}"),
        ('[href*=".gone"] .box{a:b}', '[href*=".gone"] .box{a:b}'),
        (r".w-33\.3{a:b}.w-66\.6{a:b}", r".w-33\.3{a:b}"),
        ("@media print{.gone{a:b}}@media print{.gone{a:b}.box{a:b}}", "@media print{.box{a:b}}"),
        ("@supports (a:b){@media print{.box{a:b}}}", "@supports (a:b){@media print{.box{a:b}}}"),
        ("@keyframes turn{from{a:b}to{a:c}}", "@keyframes turn{from{a:b}to{a:c}}"),
        ('.box{content:"}.gone{"}/* .x{ */p{a:b}', '.box{content:"}.gone{"}p{a:b}'),
        ('.box{a:url("data:x;{}")}.gone{a:b}', '.box{a:url("data:x;{}")}'),
        ("@layer a;.gone{a:b}", "@layer a;"),
    ],
)
def test_a_rule_stays_where_its_names_exist(before: str, after: str) -> None:
    assert kept(before) == after


def test_names_are_those_of_pages_and_scripts(tmp_path: Path) -> None:
    (tmp_path / "_static" / "mathjax").mkdir(parents=True)
    (tmp_path / "a.html").write_text('<p class="one two&amp;" id="three">four</p>', encoding="utf-8")
    (tmp_path / "_static" / "b.js").write_text('e.classList.add("five-six")', encoding="utf-8")
    (tmp_path / "_static" / "mathjax" / "c.js").write_text('"seven"', encoding="utf-8")
    found = names_on(tmp_path)
    assert {"one", "two&", "three", "five-six", "fa-bars"} <= found
    assert not {"four", "seven"} & found


def test_sheets_that_no_page_asks_for_are_removed(tmp_path: Path) -> None:
    """Sphinx copies them at every build, also at one that writes no page."""
    static = tmp_path / "_static"
    (static / "styles").mkdir(parents=True)
    names = ("pages.css", "print.css", "theme.css", "styles/theme.css")
    for name in names:
        (static / name).write_text("p{a:b}", encoding="utf-8")
    links = '<link href="_static/pages.css" rel="stylesheet" /><link media="print" href="../_static/print.css?v=1a" />'
    (tmp_path / "index.html").write_text(links, encoding="utf-8")
    app = SimpleNamespace(outdir=tmp_path, builder=SimpleNamespace(name="html"))
    OneSheet().write(cast(Sphinx, app), None)
    assert {path.relative_to(static).as_posix() for path in static.rglob("*.css")} == {"pages.css", "print.css"}
