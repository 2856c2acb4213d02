"""What the site has beside its pages."""

from io import StringIO
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
    redirects = {"old": "index", "part/old": "index", "lost": "nowhere", "index": "index"}
    warnings = StringIO()
    settings = {"book_url": request.param, "redirects": redirects}
    app = SphinxTestApp("html", srcdir=tmp_path, confoverrides=settings, warning=warnings)
    # Wheels are another test's.
    app.events.listeners["build-finished"] = [
        listener for listener in app.events.listeners["build-finished"] if listener.handler.__name__ == "write_map"
    ]
    app.build()
    app.cleanup()
    Path(app.outdir, "warnings").write_text(warnings.getvalue(), encoding="utf-8")
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


@pytest.mark.parametrize(("made", "site"), [(ADDRESS, f"{ADDRESS}/"), ("", "")], indirect=["made"])
def test_a_page_that_has_moved_leads_on(made: Path, site: str) -> None:
    for name, target in (("old", "index.html"), ("part/old", "../index.html")):
        soup = BeautifulSoup((made / f"{name}.html").read_text(encoding="utf-8"), "html.parser")
        assert [str(tag["content"]) for tag in soup.select("noscript > meta[http-equiv=refresh]")] == [
            f"0; url={target}"
        ]
        assert [str(tag["href"]) for tag in soup.select("link[rel=canonical]")] == [
            f"{site}index.html" if site else target
        ]
        assert [str(tag["content"]) for tag in soup.select("meta[name=robots]")] == ["noindex"]
        assert [(tag["href"], tag.text) for tag in soup.select("a")] == [(target, "“A” & b")]
        assert f'location.replace("{target}" + location.hash)' in str(soup.script)
        assert (made / name).parent.joinpath(target).is_file()


@pytest.mark.parametrize("made", [""], indirect=True)
def test_a_redirect_that_leads_nowhere_or_hides_a_page_is_refused(made: Path) -> None:
    warnings = (made / "warnings").read_text(encoding="utf-8")
    assert "lost is to lead to nowhere, which is no page" in warnings
    assert "index is a page, and cannot lead to index" in warnings
    assert not (made / "lost.html").exists()
