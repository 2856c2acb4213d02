"""The checks of the built pages: each planted defect is found, and nothing is found where there is none."""

from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from book import checks

GOOD = """<!DOCTYPE html>
<html lang="en"><head><title>Scale</title><link rel="stylesheet" href="_static/a.css"></head><body>
<img src="_static/a.png" alt="">
<article>
<h1 id="top">Scale</h1>
<p>It is <span class="math notranslate">\\(1/(1-p)\\)</span>, or <code>{claim}`x` $a$ **b**</code>, for $5 or so.</p>
<a href="#top">up</a> <a href="other.html#there">there</a> <a href="other.html">other</a> <a href="https://example.org/x">far</a>
<div class="cell_output"><pre>ValueError was raised, as it must be</pre></div>
<img src="_static/a.png" alt="The mean stays at one for every p.">
</article></body></html>
"""


@pytest.fixture
def built(tmp_path: Path) -> Path:
    (tmp_path / "_static").mkdir()
    (tmp_path / "_static" / "a.css").touch()
    (tmp_path / "_static" / "a.png").touch()
    (tmp_path / "other.html").write_text('<p id="there">There.</p>')
    (tmp_path / "index.html").write_text(GOOD)
    return tmp_path


def plant(built: Path, old: str, new: str) -> None:
    assert old in GOOD
    (built / "index.html").write_text(GOOD.replace(old, new, 1))


@pytest.mark.parametrize("check", checks.CHECKS, ids=lambda check: check.__name__)
def test_a_good_page_has_no_problem(built: Path, check: Callable[[checks.Pages], list[str]]) -> None:
    assert check(checks.pages(built)) == []


@pytest.mark.parametrize(
    ("check", "old", "new", "message"),
    [
        (checks.broken_links, 'href="other.html"', 'href="gone.html"', "gone.html leads to no file"),
        (checks.broken_links, "#there", "#gone", "other.html#gone leads to no anchor"),
        (checks.broken_links, 'href="#top"', 'href="#gone"', "#gone leads to no anchor"),
        (checks.broken_links, 'src="_static/a.png"', 'src="_static/gone.png"', "_static/gone.png leads to no file"),
        (checks.broken_links, 'href="_static/a.css"', 'href="_static/b.css"', "_static/b.css leads to no file"),
        (
            checks.foreign_resources,
            'href="_static/a.css"',
            'href="//fonts.example.org/a.css"',
            "loads //fonts.example.org/a.css from another host",
        ),
        (
            checks.foreign_resources,
            "<article>",
            '<article><script src="https://cdn.example.org/x.js"></script>',
            "loads https://cdn.example.org/x.js",
        ),
        (checks.raw_markup, "It is", "It is $p$", "TeX between dollars"),
        (checks.raw_markup, "It is", "$$", "TeX between dollars"),
        (checks.raw_markup, "It is", r"It is \frac12", "a TeX command"),
        (checks.raw_markup, "It is", r"It is \(p\)", "a TeX command"),
        (checks.raw_markup, "It is", "It is {claim}`x`", "a MyST role"),
        (checks.raw_markup, "It is", ":::{note}", "a fence"),
        (checks.raw_markup, "It is", "```", "a fence"),
        (checks.raw_markup, "It is", "\n(my-label)=\n", "a MyST target"),
        (checks.raw_markup, "It is", "See [this](other.md)", "a Markdown link"),
        (checks.raw_markup, "It is", "It **is**", "Markdown bold"),
        (checks.raw_markup, "<title>Scale", "<title>Scale $p$", "TeX between dollars"),
        (checks.bad_outputs, "ValueError was", "Traceback (most recent call last):\n", "a traceback"),
        (checks.bad_outputs, "ValueError was", "x.py:1: UserWarning: old", "a warning"),
        (checks.bad_outputs, "ValueError was", "2026-01-01 10:00:00.1: I tensorflow", "a log line"),
        (checks.bad_outputs, "<pre>", '<pre class="stderr">', "stderr"),
        (checks.alt_texts, ' alt="The mean stays at one for every p."', "", "has no alt text"),
        (checks.alt_texts, "The mean stays at one for every p.", "", "no sentence"),
        (checks.alt_texts, "The mean stays at one for every p.", "Mean over p", "no sentence"),
        (checks.alt_texts, "The mean stays at one", "a picture in scale.png drawn", "no sentence"),
        (checks.alt_texts, ' alt="">', ">", "has no alt text"),
    ],
)
def test_a_planted_defect_is_found(
    built: Path, check: Callable[[checks.Pages], list[str]], old: str, new: str, message: str
) -> None:
    plant(built, old, new)
    found = check(checks.pages(built))
    assert len(found) == 1, found
    assert found[0].startswith("index.html: ")
    assert message in found[0]


def test_a_page_of_the_contents_that_was_not_built(built: Path) -> None:
    toc = built / "_toc.yml"
    sections = [{"file": "gone", "sections": [{"file": "lost"}]}]
    toc.write_text(yaml.safe_dump({"root": "index", "parts": [{"chapters": [{"file": "other"}, *sections]}]}))
    assert checks.missing_pages(built, toc) == [
        "gone.html: in _toc.yml, but not built",
        "lost.html: in _toc.yml, but not built",
    ]
