"""Pytest plugin that holds the tests against the claims ledger.

A test that decides a claim carries `@pytest.mark.claim("id")`. With `--ledger`, the run fails at its end unless every
test named in claims.yml ran and passed, carries its row's mark, and every mark names a row. Without `--ledger`, what a
partial run shows to be wrong is only reported.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import pytest

from book.ledger import Claim, LedgerError, load

_CLAIM = "claim"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.getgroup("ledger").addoption(
        "--ledger", action="store_true", help="fail unless every test named in claims.yml ran and passed"
    )


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "claim(id): decides the row of claims.yml with this id")
    # Workers of pytest-xdist only pass their reports on; the controller judges them.
    if not hasattr(config, "workerinput"):
        config.pluginmanager.register(LedgerPlugin(config), "ledger-judge")


def pytest_itemcollected(item: pytest.Item) -> None:
    # User properties are part of the report, so they reach the controller of pytest-xdist.
    for mark in item.iter_markers(_CLAIM):
        if len(mark.args) != 1 or mark.kwargs or not isinstance(mark.args[0], str):
            raise pytest.UsageError(f'{item.nodeid}: write one id, as in @pytest.mark.claim("scale-one-over-p")')
        item.user_properties.append((_CLAIM, mark.args[0]))


class LedgerPlugin:
    """Collects what ran, under which marks and with which outcome, and judges it at the end."""

    def __init__(self, config: pytest.Config) -> None:
        self.strict = bool(config.getoption("--ledger"))
        self.path = Path(config.rootpath) / "claims.yml"
        self.claims: tuple[Claim, ...] | None = None
        self.outcomes: dict[str, str] = {}
        self.marks: dict[str, set[str]] = {}
        self.problems: list[str] = []
        try:
            self.claims = load(self.path)
        except LedgerError as error:
            if self.strict:
                raise pytest.UsageError(str(error)) from error
            self.problems = str(error).splitlines()

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self.marks.setdefault(report.nodeid, set()).update(
            str(value) for key, value in report.user_properties if key == _CLAIM
        )
        outcome = "expected to fail" if hasattr(report, "wasxfail") else str(report.outcome)
        # A test is as good as its worst phase.
        if self.outcomes.get(report.nodeid, "passed") == "passed":
            self.outcomes[report.nodeid] = outcome

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        if self.claims is None or session.config.getoption("collectonly"):
            return
        self.problems += judge(self.claims, self.outcomes, self.marks, complete=self.strict)
        if (
            self.strict
            and self.problems
            and session.exitstatus in (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED)
        ):
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        if not self.problems:
            if self.strict and self.claims is not None:
                terminalreporter.write_line(f"ledger: every test of {len(self.claims)} claims passed")
            return
        terminalreporter.section("claims ledger")
        for problem in self.problems:
            terminalreporter.write_line(f"{'ERROR' if self.strict else 'warning'}: {problem}")


def judge(
    claims: Iterable[Claim], outcomes: dict[str, str], marks: dict[str, set[str]], *, complete: bool
) -> list[str]:
    """Return a line for each way in which a run and the ledger disagree.

    Parameters
    ----------
    claims : iterable of Claim
        Rows of the ledger.
    outcomes, marks : dict from node id
        Outcome of each test that ran, and the claims that it is marked with.
    complete : bool
        Whether the run was to contain every test that the ledger names.
    """
    problems = []
    runs: dict[str, list[str]] = {}
    for nodeid in outcomes:
        runs.setdefault(nodeid.partition("[")[0], []).append(nodeid)
    ids = set()
    for claim in claims:
        ids.add(claim.id)
        for test in claim.tests:
            if test not in runs and complete:
                problems.append(f"claim {claim.id}: {test} did not run; it is missing or deselected")
            for nodeid in runs.get(test, []):
                if complete and outcomes[nodeid] != "passed":
                    problems.append(f"claim {claim.id}: {nodeid} {outcomes[nodeid]}")
                if claim.id not in marks[nodeid]:
                    problems.append(f'claim {claim.id}: {nodeid} lacks the mark @pytest.mark.claim("{claim.id}")')
    named = {(nodeid.partition("[")[0], id) for nodeid, ids_of_test in marks.items() for id in ids_of_test}
    problems += [
        f"{test}: its mark names no row of claims.yml: {id}; add the row or drop the mark"
        for test, id in sorted(named)
        if id not in ids
    ]
    return problems
