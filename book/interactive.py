"""Sphinx extension: figures that a reader moves, on the pages of the book.

A cell that shows a `dropoutlib.interactive.Figure` stores a picture and a Vega-Lite specification. The page shows the
picture. Its specification lies beside it, and a small script puts sliders and a live drawing in the picture's place
when the reader comes near. Only pages with such a figure load that script. It loads Vega, which the book serves.
Without scripts, and on paper, the picture stays.
"""

from __future__ import annotations

import json
from importlib.metadata import version
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.transforms.post_transforms import SphinxPostTransform
from sphinx.util.typing import ExtensionMetadata

KIND = "application/vnd.vegalite.v5+json"
VERSION = "6.4"
SCRIPT = "interactive.js"
VEGA = "vega.js"


def specifications(notebook: dict[str, Any]) -> dict[int, dict[str, Any]]:
    """Return the stored specifications of a notebook by the index of their cells."""
    return {
        index: output["data"][KIND]
        for index, cell in enumerate(notebook["cells"])
        for output in cell.get("outputs", [])
        if KIND in output.get("data", {})
    }


def hide_specifications(app: Sphinx, docname: str, source: list[str]) -> None:
    """Leave the picture of each figure to myst-nb, which does not know specifications."""
    if not app.env.doc2path(docname).endswith(".ipynb"):
        return
    notebook = json.loads(source[0])
    if specifications(notebook):
        for cell in notebook["cells"]:
            for output in cell.get("outputs", []):
                output.get("data", {}).pop(KIND, None)
        source[0] = json.dumps(notebook)


class AddSpecifications(SphinxPostTransform):
    """Put the specification of each figure beside its picture, for HTML only."""

    default_priority = 200
    formats = ("html",)

    def run(self, **kwargs: Any) -> None:
        path = Path(self.env.doc2path(self.env.docname))
        if path.suffix != ".ipynb":
            return
        found = specifications(json.loads(path.read_text(encoding="utf-8")))
        for cell in list(self.document.findall(nodes.container)):
            if cell.get("nb_element") == "cell_code" and (spec := found.get(cell["cell_index"])):
                image = next(cell.findall(nodes.image))
                # The only sign that could end the script before its end.
                text = json.dumps(spec, separators=(",", ":"), ensure_ascii=False).replace("<", "\\u003c")
                script = nodes.raw(
                    "", f'<script type="application/json" class="vega-lite">{text}</script>', format="html"
                )
                image.parent.insert(image.parent.index(image) + 1, script)
                self.document["interactive"] = True


def load_script(
    app: Sphinx, pagename: str, templatename: str, context: dict[str, Any], doctree: nodes.document | None
) -> None:
    """Load the script on pages that hold a figure."""
    if doctree is not None and doctree.get("interactive"):
        app.add_js_file(SCRIPT, loading_method="defer")


def put_vega_on_site(app: Sphinx, exception: Exception | None) -> None:
    """Bundle Vega, Vega-Lite and their embedding into one script."""
    if exception is None and app.builder.name == "html":
        import vl_convert

        target = Path(app.outdir) / "_static" / VEGA
        target.parent.mkdir(exist_ok=True)
        made_by = f"// vl-convert {version('vl-convert-python')}, Vega-Lite {VERSION}\n"
        if target.is_file():
            with target.open(encoding="utf-8") as file:
                if file.readline() == made_by:
                    return
        # In a function of its own, its hundreds of names are no names of the page.
        bundle = vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed", vl_version=VERSION)
        target.write_text(f"{made_by}(() => {{{bundle}}})();", encoding="utf-8")


def setup(app: Sphinx) -> ExtensionMetadata:
    app.connect("source-read", hide_specifications)
    app.add_post_transform(AddSpecifications)
    app.connect("html-page-context", load_script)
    app.connect("build-finished", put_vega_on_site)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
