"""What the site has beside its pages."""

from pathlib import Path
from xml.etree import ElementTree

import pytest
from bs4 import BeautifulSoup
from sphinx.testing.util import SphinxTestApp

from book.notebooks import ROOT

ADDRESS = "https://owner.github.io/name"
CONF = f"""
extensions = ["myst_nb", "book.colab", "book.site_files"]
html_title = "The book"
templates_path = [{str(ROOT / "book" / "templates")!r}]
html_theme = "sphinx_book_theme"
"""


@pytest.fixture
def made(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    (tmp_path / "conf.py").write_text(CONF, encoding="utf-8")
    text = '# "A" & `b`\n\nThe first <sentence>, "quoted".\n\nThe second.\n'
    (tmp_path / "index.md").write_text(text, encoding="utf-8")
    app = SphinxTestApp("html", srcdir=tmp_path, confoverrides={"book_url": request.param})
    # Wheels are another test's.
    app.events.listeners["build-finished"] = [
        listener for listener in app.events.listeners["build-finished"] if listener.handler.__name__ == "write_map"
    ]
    app.build()
    app.cleanup()
    return Path(app.outdir)


def head(made: Path) -> dict[str, str]:
    soup = BeautifulSoup((made / "index.html").read_text(encoding="utf-8"), "html.parser")
    return {str(tag.get("property") or tag.get("name")): str(tag["content"]) for tag in soup.select("meta[content]")}


@pytest.mark.parametrize("made", [ADDRESS, ADDRESS + "/"], indirect=True)
def test_a_published_site_has_a_map_and_cards(made: Path) -> None:
    urls = ElementTree.parse(made / "sitemap.xml").getroot()
    assert [loc.text for loc in urls.iter("{http://www.sitemaps.org/schemas/sitemap/0.9}loc")] == [
        f"{ADDRESS}/index.html"
    ]
    assert f"Sitemap: {ADDRESS}/sitemap.xml" in (made / "robots.txt").read_text(encoding="utf-8")
    card = head(made)
    assert card["og:title"] == "“A” & b"
    assert card["description"] == card["og:description"] == "The first <sentence>, “quoted”."
    assert card["og:site_name"] == "The book"
    assert card["og:url"] == f"{ADDRESS}/index.html"
    assert card["og:image"].startswith(ADDRESS)
    assert 'href="/name/index.html"' in (made / "404.html").read_text(encoding="utf-8")


@pytest.mark.parametrize("made", [""], indirect=True)
def test_a_site_without_an_address_names_none(made: Path) -> None:
    assert not (made / "sitemap.xml").exists()
    assert not {"og:url", "og:image"} & set(head(made))
    assert 'href="index.html"' in (made / "404.html").read_text(encoding="utf-8")
