"""What adapters and checks give back: reports that put causes first, and texts that say how something was searched."""

from __future__ import annotations

import json

import numpy as np
import pytest

from dropoutlib.frameworks import DropoutLayer, DropoutLayers, Finding, Gaps, NormalisationGap, Report

PASS = Finding("evaluation-mode", "pass", "no module trains")
CAUSE = Finding("evaluation-mode", "fail", "in training mode: head")
DROPS = Finding("no-active-dropout", "fail", "active: head.drop\ntwo runs differ", "evaluation-mode")
ROWS = Finding("rows-independent", "fail", "outputs move by 0.5", "no-active-dropout")
OPEN = Finding("parameters", "cannot tell", "no reference was given")
SHIFTED = Finding("normalisation-statistics", "fail", "norm: 1.8")


def test_a_cause_stands_before_its_consequences_and_failures_before_the_rest() -> None:
    report = Report((ROWS, OPEN, DROPS, SHIFTED, CAUSE))
    assert (
        str(report)
        == """fail: normalisation-statistics
    norm: 1.8
fail: evaluation-mode
    in training mode: head
    fail: no-active-dropout (because of evaluation-mode)
        active: head.drop
        two runs differ
        fail: rows-independent (because of no-active-dropout)
            outputs move by 0.5
cannot tell: parameters
    no reference was given"""
    )
    assert report.first is SHIFTED
    assert report.failed == (SHIFTED, CAUSE, DROPS, ROWS)
    assert not report.passed


def test_a_consequence_without_its_cause_stands_by_itself() -> None:
    report = Report((PASS, ROWS))
    assert report.first is ROWS
    assert str(report).startswith("fail: rows-independent (because of no-active-dropout)")


def test_causes_in_a_circle_lose_no_finding() -> None:
    first, second = (
        Finding("parameters", "fail", "", "rows-independent"),
        Finding("rows-independent", "fail", "", "parameters"),
    )
    own = Finding("exported-program", "fail", "", "exported-program")
    report = Report((first, second, own))
    assert set(report.failed) == {first, second, own}
    assert report.first is own
    assert str(report).count("fail:") == 3


def test_only_what_passed_everywhere_passed() -> None:
    assert Report((PASS,)).passed
    assert Report((PASS,)).first is None
    assert not Report((PASS, OPEN)).passed
    assert Report((PASS, OPEN)).failed == ()


def test_a_report_is_the_same_in_json() -> None:
    told = json.loads(Report((ROWS, DROPS, CAUSE, OPEN)).to_json())
    assert (told["passed"], told["first"]) == (False, "evaluation-mode")
    checks = [finding["check"] for finding in told["findings"]]
    assert checks == ["evaluation-mode", "no-active-dropout", "rows-independent", "parameters"]
    assert told["findings"][1]["because"] == "evaluation-mode"
    assert told["findings"][0]["because"] is None


def test_dropout_says_how_it_was_searched() -> None:
    layer, place = DropoutLayer("head.drop", 0.3, "Dropout", False), DropoutLayer("", None, "random draw", True)
    found = DropoutLayers((layer,), (place,), "tracing")
    assert list(found) == [layer, place]
    assert len(found) == 2
    assert found.active == (place,)
    assert str(found).split("\n")[:2] == ["head.drop: Dropout, rate 0.3", "(model): random draw, active"]
    texts = {str(DropoutLayers((), (), method)) for method in ("modules only", "tracing", "running twice")}
    assert len(texts) == 3
    assert all(text.startswith("no dropout found\nfunctional dropout was") for text in texts)


def test_channels_that_never_vary_do_not_count_as_a_gap() -> None:
    gap = NormalisationGap(
        "norm", np.array([0.0, 5.0]), np.array([2.0, 1.0]), np.array([1.0, 0.0]), np.array([4.0, 0.0])
    )
    assert gap.ratio == 0.5
    assert gap.shift == 0.5
    silent = NormalisationGap("norm", *(np.zeros(2) for _ in range(4)))
    assert np.isnan(silent.ratio)
    assert np.isnan(silent.shift)
    assert str(Gaps((gap,))) == "norm: running/evaluation variance 0.500, mean off by 0.500"
    pytest.importorskip("matplotlib")
    assert len(Gaps((gap, silent)).figure().axes[0].lines) == 5
