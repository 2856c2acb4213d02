"""Sphinx extension: mends what the usual HTML of lists of references and of tables tells assistive techniques.

The role that Docutils gives a reference, doc-biblioentry, is deprecated; and the empty corner of a table is no header.
"""

from __future__ import annotations

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.typing import ExtensionMetadata
from sphinx.writers.html5 import HTML5Translator


def visit_citation(self: HTML5Translator, node: nodes.citation) -> None:
    """Open a reference, and the list before its first one."""
    if not isinstance(node.previous_sibling(), nodes.citation):
        self.body.append('<div role="list" class="citation-list">\n')
    self.body.append(self.starttag(node, "div", CLASS="citation", role="listitem"))


def depart_citation(self: HTML5Translator, node: nodes.citation) -> None:
    """Close a reference, and the list after its last one."""
    HTML5Translator.depart_citation(self, node)


def visit_entry(self: HTML5Translator, node: nodes.entry) -> None:
    """Open a cell, an empty one as a cell without a header's meaning."""
    HTML5Translator.visit_entry(self, node)
    if not node.astext().strip():
        self.body[-1] = self.body[-1].replace("<th", "<td", 1)
        self.context[-1] = self.context[-1].replace("</th", "</td", 1)


def depart_entry(self: HTML5Translator, node: nodes.entry) -> None:
    """Close a cell."""
    HTML5Translator.depart_entry(self, node)


def setup(app: Sphinx) -> ExtensionMetadata:
    app.add_node(nodes.citation, override=True, html=(visit_citation, depart_citation))
    app.add_node(nodes.entry, override=True, html=(visit_entry, depart_entry))
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
