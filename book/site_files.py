"""Sphinx extension: what a site has beside its pages: a page for wrong addresses, a map, and cards for links.

Pages that have moved leave a page that leads on. The configuration's `redirects` names them: old to new, as documents.

The map and the absolute addresses in cards need the address of the site (`book.colab.site`); without it there are none.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from html import escape, unescape
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.config import Config
from sphinx.util import logging
from sphinx.util.typing import ExtensionMetadata

from book.colab.site import Site

_LOGGER = logging.getLogger(__name__)

CARD = "_static/two-conventions.png"
CARD_ALT = "Bar charts of a row of activations under standard and inverted dropout, in training and in evaluation."
_LONGEST_DESCRIPTION = 200


def digest_static_files(app: Sphinx, config: Config) -> None:
    """Have every page written again when a style sheet or script has changed: its links carry their checksums."""
    digest = hashlib.sha256()
    for folder in config.html_static_path:
        for path in sorted(Path(app.confdir, folder).rglob("*")):
            if path.is_file():
                digest.update(path.name.encode() + path.read_bytes())
    config.book_static = digest.hexdigest()


def description(doctree: nodes.document) -> str:
    """Return the first sentences of a page, as plain text."""
    for paragraph in doctree.findall(nodes.paragraph):
        text = " ".join(paragraph.astext().split())
        if len(text) > _LONGEST_DESCRIPTION:
            text = text[:_LONGEST_DESCRIPTION].rsplit(" ", 1)[0] + " …"
        return text
    return ""


def add_card(
    app: Sphinx, pagename: str, templatename: str, context: dict[str, Any], doctree: nodes.document | None
) -> None:
    """Say in a page's head what a link to it shows."""
    if doctree is None:
        return
    site = Site.of(app.config)
    text = description(doctree)
    tags = {"description": text}
    properties = {
        "og:type": "article" if pagename.startswith("chapters/") else "website",
        "og:title": unescape(re.sub(r"<[^>]*>", "", context["title"])),
        "og:site_name": app.config.html_title,
        "og:description": text,
    }
    if site.url:
        properties |= {
            "og:url": site.page(f"{pagename}.html"),
            "og:image": site.page(CARD),
            "og:image:alt": CARD_ALT,
        }
        tags["twitter:card"] = "summary_large_image"
    lines = [f'<meta name="{name}" content="{escape(value)}" />' for name, value in tags.items()]
    lines += [f'<meta property="{name}" content="{escape(value)}" />' for name, value in properties.items()]
    if site.url:
        lines.append(f'<link rel="canonical" href="{escape(site.page(f"{pagename}.html"))}" />')
    context["metatags"] = context.get("metatags", "") + "\n".join(lines)


def pages_of_their_own(app: Sphinx) -> list[tuple[str, dict[str, Any], str]]:
    """Give the page that a wrong address shows; it may stand at any depth, so its links start at the site's root."""
    url = Site.of(app.config).url
    root = urlsplit(url).path.rstrip("/") + "/" if url else ""
    return [("404", {"title": "Page not found", "site_root": root}, "404.html"), *moved_pages(app)]


def moved_pages(app: Sphinx) -> Iterator[tuple[str, dict[str, Any], str]]:
    """Give a page that leads on for each page that has moved."""
    for old, new in app.config.redirects.items():
        if new not in app.env.found_docs:
            _LOGGER.warning("redirects: %s is to lead to %s, which is no page", old, new, type="redirects")
        elif old in app.env.found_docs:
            _LOGGER.warning("redirects: %s is a page, and cannot lead to %s", old, new, type="redirects")
        else:
            canonical = Site.of(app.config).page(f"{new}.html")
            title = app.env.titles[new].astext()
            yield old, {"title": escape(title), "target": new, "canonical": canonical}, "redirect.html"


def write_map(app: Sphinx, exception: Exception | None) -> None:
    """Write sitemap.xml, and robots.txt that names it; without a site, remove those of another."""
    site = Site.of(app.config)
    if exception is not None or app.builder.name != "html":
        return
    out = Path(app.outdir)
    if not site.url:
        for name in ("sitemap.xml", "robots.txt"):
            out.joinpath(name).unlink(missing_ok=True)
        return
    addresses = [site.page(f"{name}.html") for name in sorted(app.env.found_docs)]
    urls = "\n".join(f"  <url><loc>{escape(address)}</loc></url>" for address in addresses)
    out.joinpath("sitemap.xml").write_text(
        '<?xml version="1.0" encoding="UTF-8"?>\n'
        f'<urlset xmlns="http://www.sitemaps.org/schemas/sitemap/0.9">\n{urls}\n</urlset>\n',
        encoding="utf-8",
    )
    out.joinpath("robots.txt").write_text(
        f"User-agent: *\nAllow: /\nSitemap: {site.page('sitemap.xml')}\n", encoding="utf-8"
    )


def setup(app: Sphinx) -> ExtensionMetadata:
    app.add_config_value("redirects", {}, "html", dict)
    app.add_config_value("book_static", "", "html", str)
    app.connect("config-inited", digest_static_files)
    app.connect("html-page-context", add_card)
    app.connect("html-collect-pages", pages_of_their_own)
    app.connect("build-finished", write_map)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
