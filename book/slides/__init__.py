"""Sphinx extension: lecture slides with speaker notes, made from the chapters.

`jupyter-book build . --builder custom --custom-builder slides` writes one HTML file for each chapter, and one that
lists them. A file holds all that it needs, figures and MathJax included. `book.slides.selection` says what becomes a
slide; the rest of a chapter's text becomes the notes of the slide that it belongs to. No text is there twice.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from myst_nb.core.render import base_render_priority
from sphinx.application import Sphinx
from sphinx.config import Config
from sphinx.util.typing import ExtensionMetadata

from book.slides.builder import SlidesBuilder


def accept_outputs(app: Sphinx, config: Config) -> None:
    """Tell myst-nb that the slides take every kind of output that the pages take."""
    formats = base_render_priority()["html"].items()
    config.nb_mime_priority_overrides = [
        *config.nb_mime_priority_overrides,
        *((SlidesBuilder.name, kind, priority) for kind, priority in formats),
    ]


def remove_page_files(app: Sphinx, exception: Exception | None) -> None:
    """Remove the style sheets and scripts that other extensions copy into every output folder."""
    if app.builder.name == SlidesBuilder.name:
        shutil.rmtree(Path(app.outdir) / "_static", ignore_errors=True)


def setup(app: Sphinx) -> ExtensionMetadata:
    app.add_builder(SlidesBuilder)
    app.connect("config-inited", accept_outputs)
    app.connect("build-finished", remove_page_files, priority=900)
    metadata: dict[str, Any] = {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
    return metadata  # type: ignore[return-value]
