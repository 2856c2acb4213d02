"""Sphinx extension: a word's definition where the word is used.

A `{term}` is a link to the glossary. On HTML pages it also carries the first paragraph of its definition, which a small
script shows on hover and on focus. Only pages with such a word load that script.
"""

from __future__ import annotations

from collections.abc import Iterable
from html import escape
from typing import Any

from docutils import nodes
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.transforms.post_transforms import SphinxPostTransform
from sphinx.util import logging
from sphinx.util.typing import ExtensionMetadata
from sphinx.writers.html5 import HTML5Translator

_LOGGER = logging.getLogger(__name__)

SCRIPT = "glossary.js"
_NOT_PLAIN = (nodes.math, nodes.reference, addnodes.pending_xref)


class defined(nodes.inline):
    """A link to the glossary, with the definition that it leads to."""


def definitions(doctree: nodes.document) -> dict[str, str]:
    """Return the first paragraph of each definition in a document by the anchors of its words."""
    found: dict[str, str] = {}
    for glossary in doctree.findall(addnodes.glossary):
        for item in glossary.findall(nodes.definition_list_item):
            first = next(item.findall(nodes.paragraph))
            if any(isinstance(node, _NOT_PLAIN) for node in first.findall()):
                _LOGGER.warning(
                    "the first paragraph of a definition is shown as plain text; put formulas and links into a second",
                    location=first,
                    type="glossary",
                )
            text = " ".join(first.astext().split())
            found |= {anchor: text for word in item.findall(nodes.term) for anchor in word["ids"]}
    return found


def collect(app: Sphinx, env: BuildEnvironment) -> Iterable[str]:
    """Collect the definitions; when one has changed, all pages are written again."""
    documents = {docname for (kind, _), (docname, _) in env.get_domain("std").objects.items() if kind == "term"}  # type: ignore[attr-defined]
    found = {anchor: text for name in sorted(documents) for anchor, text in definitions(env.get_doctree(name)).items()}
    changed = found != getattr(env, "definitions", found)
    env.definitions = found  # type: ignore[attr-defined]
    return env.found_docs if changed else ()


class AddDefinitions(SphinxPostTransform):
    """Give the links to the glossary their definitions, on HTML pages only."""

    default_priority = 200
    formats = ("html",)

    def run(self, **kwargs: Any) -> None:
        if self.app.builder.name != "html":
            return
        for link in list(self.document.findall(nodes.reference)):
            anchor = str(link.get("refid", "")) or str(link.get("refuri", "")).partition("#")[2]
            if any("std-term" in word["classes"] for word in link.findall(nodes.inline)):
                word = defined("", definition=self.env.definitions[anchor])  # type: ignore[attr-defined]
                link.replace_self(word)
                word += link
                self.document["definitions"] = True


def load_script(
    app: Sphinx, pagename: str, templatename: str, context: dict[str, Any], doctree: nodes.document | None
) -> None:
    """Load the script on pages that use a word of the glossary."""
    if doctree is not None and doctree.get("definitions"):
        app.add_js_file(SCRIPT, loading_method="defer")


def visit_defined(self: HTML5Translator, node: defined) -> None:
    """Open the element that holds the link and its definition."""
    self.body.append(f'<span class="term" data-definition="{escape(node["definition"])}">')


def depart_defined(self: HTML5Translator, node: defined) -> None:
    """Close it."""
    self.body.append("</span>")


def setup(app: Sphinx) -> ExtensionMetadata:
    app.add_node(defined, html=(visit_defined, depart_defined))
    app.add_post_transform(AddDefinitions)
    app.connect("env-updated", collect)
    app.connect("html-page-context", load_script)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
