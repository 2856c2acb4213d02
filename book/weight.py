"""Sphinx extension: what no page needs is not loaded, and what is far below is loaded when it comes near.

Of the theme stays what its pages show: no icon script, no icon fonts but our own (`book.icons`), and a style sheet
without the two thousand icons. Of MathJax stays what sets TeX in its own fonts, with the MathML that screen readers
speak, and without its menu. Images have their size, so that nothing moves when they arrive; those after the first
heading of a section wait until the reader comes near.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.config import Config
from sphinx.util.images import get_image_size
from sphinx.util.typing import ExtensionMetadata
from sphinx.writers.html5 import HTML5Translator

from book import icons

# The parts of MathJax that pages run; `book/static/mathematics.js` loads them.
MATHJAX = ("startup", "core", "input/tex", "output/chtml", "output/chtml/fonts/tex", "a11y/assistive-mml")
_MATHJAX_KEPT = (*(f"{part}.js" for part in MATHJAX), "input/tex/extensions/", "output/chtml/fonts/woff-v2/")
_UNUSED = (
    "scripts/fontawesome.js",
    "scripts/*.map",
    "scripts/*.LICENSE.txt",
    "styles/theme.css",
    "styles/*.map",
    "vendor/fontawesome/webfonts/*",
)


def choose_mathjax(app: Sphinx, config: Config) -> None:
    """Load our own choice of its parts, when the text is there."""
    config.mathjax_path = "mathematics.js"


def visit_image(self: HTML5Translator, node: nodes.image) -> None:
    """Write an image with its size; one on the first screen comes first, one below it is lazy."""
    path = Path(self.builder.srcdir) / node["uri"]
    HTML5Translator.visit_image(self, node)
    attributes = ' loading="lazy"' if _is_below(node) else ' fetchpriority="high"'
    if "width" not in node and "height" not in node and (size := get_image_size(str(path))):
        attributes += f' width="{size[0]}" height="{size[1]}"'
    self.body[-1] = self.body[-1].replace("<img ", f"<img{attributes} ", 1)


def depart_image(self: HTML5Translator, node: nodes.image) -> None:
    """Close an image."""
    HTML5Translator.depart_image(self, node)


def _is_below(node: nodes.Node) -> bool:
    """Tell whether an image stands in a section of the page and not before the first one."""
    sections = 0
    while node.parent is not None:
        node = node.parent
        sections += isinstance(node, nodes.section)
    return sections > 1


def defer_scripts(
    app: Sphinx, pagename: str, templatename: str, context: dict[str, Any], doctree: nodes.document | None
) -> None:
    """Let a page appear before its scripts run, in their order; on the search page others wait for them."""
    if doctree is not None:
        context["script_files"] = [_deferred(script) for script in context["script_files"]]


def _deferred(script: Any) -> Any:
    # What a page says in the page itself needs the options.
    if not script.filename or str(script.filename).endswith("documentation_options.js"):
        return script
    return type(script)(script.filename, priority=script.priority, **({"defer": "defer"} | script.attributes))


def remove_unused(app: Sphinx, exception: Exception | None) -> None:
    """Remove what the theme and MathJax bring along and no page asks for."""
    if exception is not None or app.builder.name != "html":
        return
    static = Path(app.outdir) / "_static"
    for pattern in _UNUSED:
        for path in static.glob(pattern):
            path.unlink()
    mathjax = static / "mathjax"
    for path in [path for path in mathjax.rglob("*") if path.is_file()]:
        if not path.relative_to(mathjax).as_posix().startswith(_MATHJAX_KEPT):
            path.unlink()
    for folder in sorted((path for path in mathjax.rglob("*") if path.is_dir()), reverse=True):
        if not any(folder.iterdir()):
            folder.rmdir()
    shutil.rmtree(static / "vendor", ignore_errors=True)
    sheet = static / "styles" / "pydata-sphinx-theme.css"
    if sheet.is_file():
        sheet.write_text(icons.strip(sheet.read_text(encoding="utf-8")), encoding="utf-8")


def setup(app: Sphinx) -> ExtensionMetadata:
    app.add_node(nodes.image, override=True, html=(visit_image, depart_image))
    app.connect("config-inited", choose_mathjax)
    app.connect("html-page-context", defer_scripts, priority=900)
    app.connect("build-finished", remove_unused, priority=900)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
