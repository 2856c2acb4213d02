"""What a second build of the book writes."""

import re
from pathlib import Path

import pytest
from sphinx.testing.util import SphinxTestApp

from book import interactive

CONF = """
extensions = ["myst_nb", "book.site_files"]
html_theme = "basic"
html_static_path = ["static"]
html_css_files = ["own.css"]
"""


def build(folder: Path) -> Path:
    app = SphinxTestApp("html", srcdir=folder)
    # Cards, the map and the page for wrong addresses are another test's.
    for event in ("html-page-context", "html-collect-pages", "build-finished"):
        app.events.listeners[event] = []
    app.build()
    app.cleanup()
    return Path(app.outdir)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    (tmp_path / "static").mkdir()
    (tmp_path / "static" / "own.css").write_text("p { color: red }", encoding="utf-8")
    (tmp_path / "conf.py").write_text(CONF, encoding="utf-8")
    (tmp_path / "index.md").write_text("# Book\n\nText.\n\n```{toctree}\nother\n```\n", encoding="utf-8")
    (tmp_path / "other.md").write_text("# Other\n\nText.\n", encoding="utf-8")
    return tmp_path


def addresses(out: Path) -> set[str]:
    """Return how the pages name the style sheet."""
    pages = [(out / f"{name}.html").read_text(encoding="utf-8") for name in ("index", "other")]
    return {match for page in pages for match in re.findall(r"_static/own\.css[^\"]*", page)}


def test_a_changed_style_sheet_reaches_the_site_and_every_page(source: Path) -> None:
    out = build(source)
    before = addresses(out)
    (source / "static" / "own.css").write_text("p { color: blue }", encoding="utf-8")
    build(source)
    assert "blue" in (out / "_static" / "own.css").read_text(encoding="utf-8")
    after = addresses(out)
    assert len(before) == len(after) == 1
    assert before.isdisjoint(after)


def test_an_unchanged_book_is_not_written_again(source: Path) -> None:
    out = build(source)
    before = {path: path.stat().st_mtime_ns for path in out.glob("*.html")}
    build(source)
    assert {path: path.stat().st_mtime_ns for path in out.glob("*.html")} == before


def test_vega_is_bundled_once_for_each_version(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import vl_convert

    made: list[str] = []
    monkeypatch.setattr(vl_convert, "javascript_bundle", lambda *_, vl_version: made.append(vl_version) or "vega()")
    builder = type("Builder", (), {"name": "html"})
    app = type("App", (), {"builder": builder, "outdir": tmp_path})
    for version in ("6.4", "6.4", "6.5", "6.5"):
        monkeypatch.setattr(interactive, "VERSION", version)
        interactive.put_vega_on_site(app, None)  # type: ignore[arg-type]
        assert "vega()" in (tmp_path / "_static" / interactive.VEGA).read_text(encoding="utf-8")
    assert made == ["6.4", "6.5"]
