"""Sphinx extension: marks claims in the text and shows the ledger.

The role {claim}`id` puts a small mark behind a sentence. It shows the verdict and links to the claim's row in the
table that the directive `ledger` makes from claims.yml. A warning (an error under -W) says where a role has no row,
or a row has no role in its chapter or no test.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from docutils import nodes
from sphinx.addnodes import pending_xref
from sphinx.application import Sphinx
from sphinx.domains.std import StandardDomain
from sphinx.environment import BuildEnvironment
from sphinx.util import logging
from sphinx.util.docutils import SphinxDirective, SphinxRole
from sphinx.util.nodes import make_refnode
from sphinx.util.typing import ExtensionMetadata

from book import code_digest
from book.ledger import Claim, read

_LOGGER = logging.getLogger(__name__)
_HEADINGS = ("Claim", "Verdict", "Said by", "Decided by")
_WIDTHS = (42, 10, 16, 32)


class ClaimRole(SphinxRole):
    """{claim}`id`: the verdict on a claim, linked to its row."""

    def run(self) -> tuple[list[nodes.Node], list[nodes.system_message]]:
        claim = next((claim for claim in _ledger(self.env) if claim.id == self.text), None)
        if claim is None:
            _LOGGER.warning(
                "claim %r has no row in claims.yml; add the row or correct the role",
                self.text,
                location=self.get_location(),
                type="claim",
            )
            return [], []
        marks = _marks(self.env).setdefault(self.env.docname, {})
        first = claim.id not in marks
        anchor = marks.setdefault(claim.id, f"mark-of-claim-{claim.id}")
        reference = pending_xref(
            "",
            nodes.inline("", f"(claim: {claim.verdict})"),
            refdomain="std",
            reftype="ref",
            refexplicit=True,
            refwarn=True,
            reftarget=_label(claim),
            refdoc=self.env.docname,
        )
        self.set_source_info(reference)
        target = nodes.inline("", "", reference, ids=[anchor] if first else [], classes=_mark_classes(claim))
        return [target], []


class LedgerDirective(SphinxDirective):
    """Table of the whole ledger."""

    has_content = False

    def run(self) -> list[nodes.Node]:
        self.env.note_dependency(str(_path(self.env)))
        claims = _ledger(self.env)
        if not claims:
            return [nodes.paragraph("", "No claim has been entered yet.")]
        table = nodes.table(classes=["ledger"])
        group = nodes.tgroup(cols=len(_HEADINGS))
        table += group
        group += [nodes.colspec(colwidth=width) for width in _WIDTHS]
        group += nodes.thead("", _row([nodes.paragraph("", heading)] for heading in _HEADINGS))
        group += nodes.tbody("", *(self._claim_row(claim) for claim in claims))
        return [table]

    def _claim_row(self, claim: Claim) -> nodes.row:
        statement = self._parse(claim.statement)
        if claim.correction:
            correction = nodes.container(classes=["claim-correction"])
            correction += self._parse(claim.correction)
            statement.append(correction)
        verdict = nodes.inline("", claim.verdict, classes=["claim-verdict", f"claim-{claim.verdict}"])
        chapter = pending_xref(
            "",
            nodes.inline("", claim.chapter),
            refdomain="",
            reftype="claim-chapter",
            reftarget=claim.id,
            refdoc=self.env.docname,
            chapter=claim.docname,
        )
        tests = nodes.bullet_list(
            "", *(nodes.list_item("", nodes.paragraph("", "", nodes.literal("", test))) for test in claim.tests)
        )
        row = _row(
            [
                statement,
                [nodes.paragraph("", "", verdict)],
                [node for name in claim.said_by for node in self._parse(name)],
                [nodes.paragraph("", "", chapter), tests],
            ]
        )
        row["ids"] = [_label(claim)]
        row["classes"].append("claim-row")
        domain = self.env.get_domain("std")
        assert isinstance(domain, StandardDomain)
        domain.note_hyperlink_target(_label(claim), self.env.docname, _label(claim), claim.statement)
        return row

    def _parse(self, markdown: str) -> list[nodes.Node]:
        return self.parse_text_to_nodes(markdown)


def resolve_chapter(
    app: Sphinx, env: BuildEnvironment, node: pending_xref, content: nodes.TextElement
) -> nodes.reference | None:
    """Link a row of the ledger to the place in its chapter where the claim is marked."""
    if node["reftype"] != "claim-chapter" or node["chapter"] not in env.found_docs:
        return None
    anchor = _marks(env).get(node["chapter"], {}).get(node["reftarget"], "")
    return make_refnode(app.builder, node["refdoc"], node["chapter"], anchor, content)


def check_ledger(app: Sphinx, env: BuildEnvironment) -> None:
    """Warn about what is wrong in claims.yml, and about rows that their chapter does not mark."""
    claims, problems = read(_path(env))
    for problem in problems:
        _LOGGER.warning("%s", problem, type="claim")
    for claim in claims:
        if claim.docname not in env.found_docs:
            _LOGGER.warning("claim %s: its chapter %s is not in _toc.yml", claim.id, claim.chapter, type="claim")
        elif claim.id not in _marks(env).get(claim.docname, {}):
            _LOGGER.warning(
                "claim %s: no {claim}`%s` marks it in its chapter %s; add the role or drop the row",
                claim.id,
                claim.id,
                claim.chapter,
                type="claim",
            )


def purge(app: Sphinx, env: BuildEnvironment, docname: str) -> None:
    """Forget the marks of a document that is read anew."""
    _marks(env).pop(docname, None)


def merge(app: Sphinx, env: BuildEnvironment, docnames: Iterable[str], other: BuildEnvironment) -> None:
    """Take over the marks that another process has read."""
    _marks(env).update({docname: marks for docname, marks in _marks(other).items() if docname in set(docnames)})


def outdated(
    app: Sphinx, env: BuildEnvironment, added: set[str], changed: set[str], removed: set[str]
) -> Iterable[str]:
    """Read the marked documents anew when the ledger has changed."""
    claims, _ = read(_path(env))
    before: tuple[Claim, ...] | None = getattr(env, "ledger_claims", None)
    env.ledger_claims = claims  # type: ignore[attr-defined]
    return set() if before in (None, claims) else set(env.found_docs) - added - removed


def _path(env: BuildEnvironment) -> Path:
    return Path(env.srcdir) / "claims.yml"


def _ledger(env: BuildEnvironment) -> tuple[Claim, ...]:
    claims: tuple[Claim, ...] = env.ledger_claims  # type: ignore[attr-defined]
    return claims


def _marks(env: BuildEnvironment) -> dict[str, dict[str, str]]:
    """Return the anchor of each claim's first mark, by document."""
    if not hasattr(env, "claim_marks"):
        env.claim_marks = {}  # type: ignore[attr-defined]
    marks: dict[str, dict[str, str]] = env.claim_marks  # type: ignore[attr-defined]
    return marks


def _mark_classes(claim: Claim) -> list[str]:
    return ["claim-mark", f"claim-{claim.verdict}"]


def _label(claim: Claim) -> str:
    return f"claim-{claim.id}"


def _row(cells: Iterable[Iterable[nodes.Node]]) -> nodes.row:
    return nodes.row("", *(nodes.entry("", *cell) for cell in cells))


def setup(app: Sphinx) -> ExtensionMetadata:
    app.add_config_value("book_code", code_digest(), "env", str)
    app.add_role("claim", ClaimRole())
    app.add_directive("ledger", LedgerDirective)
    app.connect("env-get-outdated", outdated)
    app.connect("env-purge-doc", purge)
    app.connect("env-merge-info", merge)
    app.connect("env-check-consistency", check_ledger)
    app.connect("missing-reference", resolve_chapter)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
