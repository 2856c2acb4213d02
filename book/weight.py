"""Sphinx extension: what no page needs is not loaded, and what is far below is loaded when it comes near.

Of the theme stays what its pages show: no icon script, no icon fonts but our own (`book.icons`), and a style sheet
without the two thousand icons. Of MathJax stays what sets TeX in its own fonts, with the MathML that screen readers
speak, and without its menu. Images have their size, so that nothing moves when they arrive; those after the first
heading of a section wait until the reader comes near.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.config import Config
from sphinx.util.images import get_image_size
from sphinx.util.typing import ExtensionMetadata
from sphinx.writers.html5 import HTML5Translator

from book import icons

# The parts of MathJax that pages run, in the order in which they build on each other.
MATHJAX = ("startup", "core", "input/tex", "output/chtml", "output/chtml/fonts/tex", "a11y/assistive-mml")
_MATHJAX_KEPT = ("book.js", "input/tex/extensions/", "output/chtml/fonts/woff-v2/")
_UNUSED = (
    "scripts/fontawesome.js",
    "scripts/*.map",
    "scripts/*.LICENSE.txt",
    "styles/*.map",
    "vendor/fontawesome/webfonts/*",
)


def choose_mathjax(app: Sphinx, config: Config) -> None:
    """Load our own choice of its parts; `startup` waits for what follows it in the same file."""
    config.mathjax_path = "mathjax/book.js"


def visit_image(self: HTML5Translator, node: nodes.image) -> None:
    """Write an image with its size; one below the first screen is lazy."""
    path = Path(self.builder.srcdir) / node["uri"]
    HTML5Translator.visit_image(self, node)
    attributes = ""
    if _is_below(node):
        attributes += ' loading="lazy"'
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


def remove_unused(app: Sphinx, exception: Exception | None) -> None:
    """Remove what the theme and MathJax bring along and no page asks for."""
    if exception is not None or app.builder.name != "html":
        return
    static = Path(app.outdir) / "_static"
    for pattern in _UNUSED:
        for path in static.glob(pattern):
            path.unlink()
    mathjax = static / "mathjax"
    parts = [(mathjax / f"{name}.js").read_text(encoding="utf-8") for name in MATHJAX]
    parts.append(f"MathJax.loader.preLoad({', '.join(map(repr, MATHJAX))});\n")
    (mathjax / "book.js").write_text("\n".join(parts), encoding="utf-8")
    for path in [path for path in mathjax.rglob("*") if path.is_file()]:
        if not path.relative_to(mathjax).as_posix().startswith(_MATHJAX_KEPT):
            path.unlink()
    for folder in sorted((path for path in mathjax.rglob("*") if path.is_dir()), reverse=True):
        if not any(folder.iterdir()):
            folder.rmdir()
    shutil.rmtree(static / "vendor", ignore_errors=True)
    sheet = static / "styles" / "pydata-sphinx-theme.css"
    sheet.write_text(icons.strip(sheet.read_text(encoding="utf-8")), encoding="utf-8")


def setup(app: Sphinx) -> ExtensionMetadata:
    app.add_node(nodes.image, override=True, html=(visit_image, depart_image))
    app.connect("config-inited", choose_mathjax)
    app.connect("build-finished", remove_unused, priority=900)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
