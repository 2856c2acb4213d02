"""The study of learning rates: its stored results belong to its code, and the code still gives them."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest

from dropoutlib.stored import load
from studies.learning_rate import (
    BLOCKS,
    CASES,
    CHECKPOINTS,
    CONCLUSIONS,
    DIVERGED,
    Block,
    Case,
    Interval,
    Scores,
    above,
    below,
    interval,
    judge,
    run,
    train,
)
from studies.store import code_digest, progress


def test_the_stored_results_belong_to_this_code() -> None:
    stored = load("learning_rate")["code_sha256"]
    assert stored == code_digest("studies.learning_rate"), "run python -m studies.learning_rate (about 4 minutes)"


def test_the_stored_results_are_complete() -> None:
    stored = load("learning_rate")
    assert stored["steps"] == list(CHECKPOINTS)
    assert {name: list(seeds) for name, seeds in BLOCKS.items()} == stored["seeds"]
    assert not set(stored["seeds"]["first"]) & set(stored["seeds"]["second"])
    for scores in stored["scores"].values():
        assert set(scores) == {case.name for case in CASES}
        for case in CASES:
            assert np.shape(scores[case.name]) == (len(case.rates), 8, 2, 3)
            assert stored["rates"][case.name] == list(case.rates)


def test_the_stored_conclusions_follow_from_the_stored_scores() -> None:
    stored = load("learning_rate")
    assert list(stored["conclusions"]) == [c.id for c in CONCLUSIONS]
    for block, scores in stored["scores"].items():
        arrays = {case: np.array(values) for case, values in scores.items()}
        for c in CONCLUSIONS:
            row = stored["conclusions"][c.id]
            assert row[block] == judge(c, arrays)
            assert (row["statement"], row["rule"]) == (c.statement, c.rule)


@pytest.mark.parametrize(
    ("case", "rate", "block", "seed"),
    [
        (Case("SGD", "standard", 0.8), 3, "first", 5),
        (Case("Adam", "inverted", 0.5), 2, "second", 1002),
        (Case("momentum", "inverted", 0.8), 0, "first", 0),
    ],
)
def test_training_anew_gives_the_stored_scores(case: Case, rate: int, block: str, seed: int) -> None:
    stored = np.array(load("learning_rate")["scores"][block][case.name])[rate, BLOCKS[block].index(seed)]
    # Rounding differs between machines, and 1,000 steps let it grow.
    np.testing.assert_allclose(train(case, case.rates[rate], seed), stored, rtol=0.05, atol=0.01)


def test_a_tiny_run(capsys: pytest.CaptureFixture[str]) -> None:
    cases = [Case("SGD", "inverted", 0.0), Case("Adam", "standard", 0.8)]
    scores = run(cases, seeds=[3, 4], checkpoints=(5, 20), bar=progress)
    assert "24/24" in capsys.readouterr().err
    for case in cases:
        found = scores[case.name]
        assert found.shape == (len(case.rates), 2, 2, 3)
        assert np.all((found[..., :2] > 0) & (found[..., :2] <= DIVERGED))
        assert np.all((found[..., 2] >= 0) & (found[..., 2] <= 1))
    plain = scores[cases[0].name]
    assert plain[2, :, 1, 0].mean() < plain[2, :, 0, 0].mean() - 0.1, "it learns"
    np.testing.assert_array_equal(plain[1, 1], np.round(train(cases[0], cases[0].rates[1], 4, (5, 20)), 4))


def test_a_run_that_diverges_scores_badly_and_finitely() -> None:
    scores = np.array(train(Case("SGD", "inverted", 0.5), 1e6, 0, (30,)))
    assert np.all(np.isfinite(scores))
    assert scores[0, 0] > 2


def test_the_rate_is_chosen_on_validation_rows_and_scored_on_test_rows() -> None:
    case = Case("SGD", "inverted", 0.2)
    scores = np.full((len(case.rates), 2, 2, 3), 1.0)
    scores[3, 0, 1, 0] = scores[1, 1, 1, 0] = 0.5
    scores[0, :, 1, 1:] = 0.0  # the best test loss, and the worst accuracy: neither may decide
    scores[3, 0, 1, 2], scores[1, 1, 1, 2] = 0.7, 0.8
    block = Block({case.name: scores})
    np.testing.assert_array_equal(block.chosen(case, 1000), [3, 1])
    np.testing.assert_allclose(10 ** block.log_rate(case, 1000), [case.rates[3], case.rates[1]])
    np.testing.assert_array_equal(block.accuracy(case, 1000), [0.7, 0.8])


def test_interval_is_students() -> None:
    found = interval(np.array([1.0, 2.0, 3.0, 4.0]))
    assert found == pytest.approx((0.4457, 2.5, 4.5543), abs=1e-4)
    assert above(found)
    assert not below(found)
    assert below(Interval(-2, -1, -0.1))
    assert not above(Interval(-1, 1, 2))


class Reading(dict[str, Scores]):
    """Scores that remember the cases that were asked for."""

    def __init__(self, scores: Mapping[str, Scores]) -> None:
        super().__init__(scores)
        self.read: set[str] = set()

    def __getitem__(self, name: str) -> Scores:
        self.read.add(name)
        return super().__getitem__(name)


@pytest.mark.long
def test_the_second_block_anew_decides_as_stored() -> None:
    """The nine robust conclusions; where an interval nearly touches its bound, another machine may decide otherwise.

    Cases that none of them asks for are not trained.
    """
    study = load("learning_rate")
    stored = study["conclusions"]
    robust = [c for c in CONCLUSIONS if stored[c.id]["first"]["holds"] and stored[c.id]["second"]["holds"]]
    assert len(robust) == 9
    known = Reading({name: np.array(values) for name, values in study["scores"]["second"].items()})
    for c in robust:
        judge(c, known)
    scores = run([case for case in CASES if case.name in known.read], BLOCKS["second"], workers=2, bar=progress)
    for c in robust:
        print(c.id, stored[c.id]["second"]["intervals"], judge(c, scores)["intervals"])
        assert judge(c, scores)["holds"], c.id
