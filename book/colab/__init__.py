"""Sphinx extension: a second rendering of each chapter, as a notebook for Google Colab and plain Jupyter.

`jupyter-book build . --builder custom --custom-builder colab` writes one notebook for each chapter. Its code cells and
outputs are the chapter's own; its text is plain Markdown made from what the book has resolved, so numbers, references
and links are the book's. The first cell installs dropoutlib's wheel from the site that serves the book. The HTML build
puts that wheel on the site, and at the head of each chapter the buttons that open or download the notebook.

Whose site and whose repository: see `book.colab.site`.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from docutils import nodes
from myst_nb.core.render import base_render_priority
from sphinx.application import Sphinx
from sphinx.config import Config
from sphinx.errors import ConfigError
from sphinx.util.typing import ExtensionMetadata

from book.colab import binder, wheel
from book.colab.builder import ColabBuilder, chapters, notebook_name
from book.colab.site import Site

NOTEBOOKS = "notebooks"


def add_launch_buttons(
    app: Sphinx, pagename: str, templatename: str, context: dict[str, Any], doctree: nodes.document | None
) -> None:
    """Put the buttons that open or download a chapter's notebook at the head of its page."""
    site, name = Site.of(app.config), notebook_name(pagename)
    if pagename not in chapters(app.env) or not site.repository:
        return
    # On a telephone there is place for a word each.
    buttons = [{"url": site.launch(name), "text": "Colab", "label": "launch-colab"}]
    if binder.runs(Path(app.env.doc2path(pagename))):
        buttons.append({"url": site.binder(name), "text": "Binder", "label": "launch-binder"})
    download = {"url": context["pathto"](f"{NOTEBOOKS}/{name}", 1), "icon": "fas fa-download"}
    buttons.append(download | {"tooltip": "Download this chapter as a notebook", "label": "download-notebook"})
    context["header_buttons"][:0] = [{"type": "link", "classes": "fs-6"} | button for button in buttons]


def put_wheels_on_site(app: Sphinx, exception: Exception | None) -> None:
    """Put the wheels of this and of the published versions where the install cells look for them."""
    if exception is None and app.builder.name == "html":
        out = Path(app.outdir)
        wheels = wheel.provide(Path(app.srcdir), out.parent).parent
        shutil.rmtree(out / "wheels", ignore_errors=True)
        shutil.copytree(wheels, out / "wheels")


def put_notebooks_on_site(app: Sphinx, exception: Exception | None) -> None:
    """Put the notebooks beside the pages that offer them."""
    site = Path(app.outdir).parent / "html"
    if exception is None and app.builder.name == ColabBuilder.name and site.is_dir():
        shutil.rmtree(site / NOTEBOOKS, ignore_errors=True)
        (site / NOTEBOOKS).mkdir()
        for notebook in Path(app.outdir).glob("*.ipynb"):
            shutil.copyfile(notebook, site / NOTEBOOKS / notebook.name)


def remove_page_files(app: Sphinx, exception: Exception | None) -> None:
    """Remove the style sheets and scripts that other extensions copy into every output folder."""
    if app.builder.name == ColabBuilder.name:
        shutil.rmtree(Path(app.outdir) / "_static", ignore_errors=True)


def check_site(app: Sphinx, config: Config) -> None:
    """Refuse a repository or an address that cannot be meant."""
    try:
        Site.of(config)
    except ValueError as error:
        raise ConfigError(str(error)) from error


def accept_outputs(app: Sphinx, config: Config) -> None:
    """Tell myst-nb that the notebooks take every kind of output that the pages take."""
    formats = base_render_priority()["html"].items()
    config.nb_mime_priority_overrides = [
        *config.nb_mime_priority_overrides,
        *((ColabBuilder.name, kind, priority) for kind, priority in formats),
    ]


def setup(app: Sphinx) -> ExtensionMetadata:
    here = Site.from_environment()
    # The pages hold the repository alone, and are written again when it changes.
    app.add_config_value("book_repository", here.repository, "html", str)
    app.add_config_value("book_url", here.url, "", str)
    app.add_builder(ColabBuilder)
    app.connect("config-inited", check_site)
    app.connect("config-inited", accept_outputs)
    app.connect("html-page-context", add_launch_buttons, priority=600)
    app.connect("build-finished", put_wheels_on_site)
    app.connect("build-finished", remove_page_files, priority=900)
    app.connect("build-finished", put_notebooks_on_site)
    metadata: dict[str, Any] = {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
    return metadata  # type: ignore[return-value]
