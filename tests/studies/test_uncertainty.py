"""The studies of dropout left on: their conclusions, the stored results, and that the code still gives them.

The conclusions below and their rules were written before any result of the two blocks of eight seeds (0 to 7, 1000
to 1007) was seen. Intervals are 95 % intervals by Student's t of the mean over seeds, differences are taken seed by
seed. MC is the mean of 50 passes, off the same network with dropout off. A conclusion is robust if its rule holds in
both blocks; what both blocks found is stored with the scores, in `dropoutlib/stored/uncertainty_*.json`. A test holds
this list against the code.

Classification, MNIST and the digits:

- mc-mnist-long-clean-nll: MNIST, p = .5, 90 epochs: MC lowers the NLL. Rule: NLL, MC less off: interval below 0
- mc-mnist-long-clean-ece: MNIST, p = .5, 90 epochs: MC lowers the ECE. Rule: ECE, MC less off: interval below 0
- mc-mnist-low-p-clean-nll: MNIST, p = .2, 30 epochs: MC lowers the NLL. Rule: NLL, MC less off: interval below 0
- mc-mnist-low-p-clean-ece: MNIST, p = .2, 30 epochs: MC lowers the ECE. Rule: ECE, MC less off: interval below 0
- mc-mnist-short-clean-nll: MNIST, p = .5, 30 epochs: MC is not seen to lower the NLL. Rule: NLL, MC less off:
  interval not below 0
- mc-mnist-short-clean-ece: MNIST, p = .5, 30 epochs: MC raises the ECE. Rule: ECE, MC less off: interval above 0
- mc-digits-clean-nll: digits, p = .5: MC raises the NLL. Rule: NLL, MC less off: interval above 0
- mc-digits-clean-ece: digits, p = .5: MC raises the ECE. Rule: ECE, MC less off: interval above 0
- mc-digits-low-p-clean-nll: digits, p = .2: MC raises the NLL. Rule: NLL, MC less off: interval above 0
- mc-digits-low-p-clean-ece: digits, p = .2: MC raises the ECE. Rule: ECE, MC less off: interval above 0
- mc-lowers-confidence: MC lowers the mean confidence, in each of the five cases. Rule: mean confidence, MC less off,
  largest of the cases: interval below 0
- mc-mnist-long-noise-nll: MNIST, p = .5, 90 epochs: MC lowers the NLL under noise. Rule: NLL, MC less off: interval
  below 0
- mc-mnist-long-noise-ece: MNIST, p = .5, 90 epochs: MC lowers the ECE under noise. Rule: ECE, MC less off: interval
  below 0
- mc-mnist-short-noise-nll: MNIST, p = .5, 30 epochs: MC lowers the NLL under noise. Rule: NLL, MC less off: interval
  below 0
- mc-mnist-short-noise-ece: MNIST, p = .5, 30 epochs: MC is not seen to lower the ECE under noise. Rule: ECE, MC less
  off: interval not below 0
- mc-digits-noise-nll: digits, p = .5: MC raises the NLL under noise. Rule: NLL, MC less off: interval above 0
- mc-digits-noise-ece: digits, p = .5: MC raises the ECE under noise. Rule: ECE, MC less off: interval above 0
- mc-moved-nll: on moved images MC lowers the NLL, in each of the five cases. Rule: NLL, MC less off, largest of the
  cases: interval below 0
- mc-moved-ece: on moved images MC lowers the ECE, in each of the five cases. Rule: ECE, MC less off, largest of the
  cases: interval below 0
- mc-mnist-low-p-clean-accuracy: MNIST, p = .2, 30 epochs: MC is not seen to raise the accuracy. Rule: accuracy, MC
  less off: interval not above 0
- mc-mnist-short-clean-accuracy: MNIST, p = .5, 30 epochs: MC is not seen to raise the accuracy. Rule: accuracy, MC
  less off: interval not above 0
- mc-mnist-long-clean-accuracy: MNIST, p = .5, 90 epochs: MC is not seen to raise the accuracy. Rule: accuracy, MC
  less off: interval not above 0
- mc-digits-low-p-clean-accuracy: digits, p = .2: MC is not seen to raise the accuracy. Rule: accuracy, MC less off:
  interval not above 0
- mc-digits-clean-accuracy: digits, p = .5: MC is not seen to raise the accuracy. Rule: accuracy, MC less off:
  interval not above 0
- mc-accuracy-everywhere: MC changes the accuracy by less than .005 on average over the five cases. Rule: accuracy, MC
  less off, mean of the cases: interval within 0 ± 0.005
- mc-mnist-long-clean-error-detection: MNIST, p = .5, 90 epochs: MC is not seen to detect errors better. Rule: error
  detection, MC less off: interval not above 0
- mc-mnist-short-clean-error-detection: MNIST, p = .5, 30 epochs: MC is not seen to detect errors better. Rule: error
  detection, MC less off: interval not above 0
- mc-digits-clean-error-detection: digits, p = .5: MC is not seen to detect errors better. Rule: error detection, MC
  less off: interval not above 0
- mc-mnist-long-foreign-entropy: MNIST, p = .5, 90 epochs: MC detects foreign rows better. Rule: detection of foreign
  rows, MC less off: interval above 0
- mc-mnist-short-foreign-entropy: MNIST, p = .5, 30 epochs: MC detects foreign rows better. Rule: detection of foreign
  rows, MC less off: interval above 0
- mc-digits-foreign-entropy: digits, p = .5: MC detects foreign rows better. Rule: detection of foreign rows, MC less
  off: interval above 0
- off-digits-foreign: digits, p = .5: with dropout off, turned digits have less entropy than real ones. Rule:
  detection of foreign rows by entropy less .5, off: interval below 0
- mutual-information-digits: digits, p = .5: mutual information detects foreign rows better than the entropy of the
  same passes. Rule: detection of foreign rows, mutual information less entropy: interval above 0
- mutual-information-mnist: MNIST, p = .5, 90 epochs: mutual information is not seen to detect foreign rows better
  than the entropy. Rule: detection of foreign rows, mutual information less entropy: interval not above 0
- five-passes-mnist-long: MNIST, p = .5, 90 epochs: 5 passes have a higher NLL than 50. Rule: NLL, 5 passes less 50:
  interval above 0
- five-passes-mnist-short: MNIST, p = .5, 30 epochs: 5 passes have a higher NLL than 50. Rule: NLL, 5 passes less 50:
  interval above 0
- five-passes-help: MNIST, p = .5, 90 epochs: 5 passes have a lower NLL than dropout off. Rule: NLL, MC 5 less off:
  interval below 0
- five-passes-cost-accuracy: MNIST, p = .5, 90 epochs: 5 passes are less accurate than dropout off. Rule: accuracy, MC
  5 less off: interval below 0
- one-pass: MNIST, p = .5, 30 epochs: one pass has a higher NLL than dropout off. Rule: NLL, 1 pass less off: interval
  above 0
- excess-falls-faster-than-root: MNIST, p = .5, 30 epochs: the excess NLL of few passes falls faster than 1/sqrt(T).
  Rule: excess over 100 passes, at 5 passes less 2.81 times that at 20: interval above 0
- logits-are-nearly-off: MNIST, p = .5, 90 epochs: averaging logits changes the NLL by less than a third of what
  averaging probabilities does. Rule: NLL lowered by averaging logits less a third of that by averaging probabilities:
  interval below 0
- probabilities-beat-logits: MNIST, p = .5, 90 epochs: averaging probabilities gives a lower NLL than averaging
  logits. Rule: NLL, probabilities less logits: interval below 0
- logits-beat-probabilities: digits, p = .5: averaging logits gives a lower NLL than averaging probabilities. Rule:
  NLL, probabilities less logits: interval above 0
- logits-are-more-confident: averaging logits gives a higher confidence than averaging probabilities, in each of the
  five cases. Rule: mean confidence, probabilities less logits, largest of the cases: interval below 0
- temperature-lowers-nll: MNIST, p = .5, 90 epochs: a temperature fitted on validation rows lowers the NLL too. Rule:
  NLL, temperature less off: interval below 0
- mc-against-temperature-clean: MNIST, p = .5, 90 epochs: MC is not seen to have a lower NLL than a fitted
  temperature. Rule: NLL, MC less temperature: interval not below 0
- mc-against-temperature-noise: MNIST, p = .5, 90 epochs: MC is not seen to have a lower NLL than a fitted temperature
  under noise. Rule: NLL, MC less temperature: interval not below 0
- mc-against-temperature-moved: MNIST, p = .5, 90 epochs: MC is not seen to have a lower NLL than a fitted temperature
  on moved images. Rule: NLL, MC less temperature: interval not below 0
- mc-against-temperature-digits: digits, p = .5: MC has a higher NLL than a fitted temperature. Rule: NLL, MC less
  temperature: interval above 0
- mc-against-temperature-foreign: MNIST, p = .5, 90 epochs: MC detects foreign rows better than a fitted temperature.
  Rule: detection of foreign rows by entropy, MC less temperature: interval above 0
- ensemble-clean-accuracy: MNIST, 30 epochs: five networks without dropout have a higher accuracy than 5 passes of one
  (p = .5). Rule: accuracy, ensemble less MC 5: interval above 0
- ensemble-clean-nll: MNIST, 30 epochs: five networks without dropout have a lower NLL than 5 passes of one (p = .5).
  Rule: NLL, ensemble less MC 5: interval below 0
- ensemble-clean-ece: MNIST, 30 epochs: five networks without dropout have a lower ECE than 5 passes of one (p = .5).
  Rule: ECE, ensemble less MC 5: interval below 0
- ensemble-noise-nll: MNIST, 30 epochs: five networks without dropout have a lower NLL than 5 passes of one (p = .5)
  under noise. Rule: NLL, ensemble less MC 5: interval below 0
- ensemble-moved-nll: MNIST, 30 epochs: five networks without dropout have a higher NLL than 5 passes of one (p = .5)
  on moved images. Rule: NLL, ensemble less MC 5: interval above 0
- ensemble-moved-ece: MNIST, 30 epochs: five networks without dropout have a higher ECE than 5 passes of one (p = .5)
  on moved images. Rule: ECE, ensemble less MC 5: interval above 0
- ensemble-digits-nll: digits: five networks without dropout have a lower NLL than 5 passes of one (p = .5). Rule:
  NLL, ensemble less MC 5: interval below 0
- short-ensemble-clean-nll: MNIST: five networks of 6 epochs without dropout have a lower NLL than 5 passes of one of
  30 (p = .5). Rule: NLL, short ensemble less MC 5: interval below 0
- short-ensemble-noise-nll: MNIST: five networks of 6 epochs without dropout have a lower NLL than 5 passes of one of
  30 (p = .5) under noise. Rule: NLL, short ensemble less MC 5: interval below 0
- short-ensemble-moved-nll: MNIST: five networks of 6 epochs without dropout have a lower NLL than 5 passes of one of
  30 (p = .5) on moved images. Rule: NLL, short ensemble less MC 5: interval below 0
- dropout-ensemble-mc-nll: MNIST, 30 epochs: five networks with dropout (p = .5), off, have a lower NLL than 50 passes
  of one. Rule: NLL, dropout ensemble less MC 50: interval below 0
- dropout-ensemble-plain-nll: MNIST, 30 epochs: five networks with dropout (p = .5), off, have a lower NLL than five
  without. Rule: NLL, dropout ensemble less ensemble: interval below 0
- ensemble-foreign-mnist: MNIST, 30 epochs: mutual information detects foreign rows better in five networks without
  dropout than in 50 passes of one (p = .5). Rule: detection of foreign rows by mutual information, ensemble less MC:
  interval above 0
- ensemble-foreign-digits: digits: mutual information detects foreign rows worse in five networks without dropout than
  in 50 passes of one (p = .5). Rule: detection of foreign rows by mutual information, ensemble less MC: interval
  below 0

Regression, the diabetes data:

- spread-undercovers-p1: p = .1: the spread of the passes alone covers less than 70%. Rule: coverage, spread: interval
  below 0.7
- spread-undercovers-p2: p = .2: the spread of the passes alone covers less than 70%. Rule: coverage, spread: interval
  below 0.7
- spread-undercovers-p5: p = .5: the spread of the passes alone covers less than 85%. Rule: coverage, spread: interval
  below 0.85
- spread-and-noise-covers-p2: p = .2: spread and noise together covers 95 % to 3 points. Rule: coverage, spread and
  noise: interval within 0.95 ± 0.03
- constant-covers-p2: p = .2: an interval of constant width covers 95 % to 3 points. Rule: coverage, constant:
  interval within 0.95 ± 0.03
- conformal-covers-p2: p = .2: the conformal interval covers 95 % to 3 points. Rule: coverage, conformal: interval
  within 0.95 ± 0.03
- spread-and-noise-covers-p5: p = .5: spread and noise together covers 95 % to 3 points. Rule: coverage, spread and
  noise: interval within 0.95 ± 0.03
- spread-grows-with-p: the spread is wider at p = .5 than at p = .2. Rule: width of the spread's interval, p = .5 less
  p = .2: interval above 0
- spread-is-the-smaller-part: p = .2: the spread is less than a third of the predictive variance. Rule: share of the
  spread in the variance: interval below 0.333333
- no-narrower-than-constant: p = .2: spread and noise together are not seen to be narrower than an interval of
  constant width. Rule: width, spread and noise less constant: interval not below 0
- spread-does-not-rank-errors-p2: p = .2: rows with more spread are not seen to have larger errors. Rule: rank
  correlation of spread and error: interval not above 0
- spread-does-not-rank-errors-p5: p = .5: rows with more spread are not seen to have larger errors. Rule: rank
  correlation of spread and error: interval not above 0
- mc-lowers-rmse-p2: p = .2: the mean of the passes has a lower RMSE than dropout off. Rule: RMSE, MC less off:
  interval below 0
- mc-lowers-rmse-p5: p = .5: the mean of the passes has a lower RMSE than dropout off. Rule: RMSE, MC less off:
  interval below 0
- spread-and-noise-nll-p2: p = .2: spread and noise together have a lower NLL than dropout off with a constant
  variance. Rule: NLL, spread and noise less constant: interval below 0
- spread-and-noise-nll-p5: p = .5: spread and noise together have a lower NLL than dropout off with a constant
  variance. Rule: NLL, spread and noise less constant: interval below 0
"""

from __future__ import annotations

import itertools
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dropoutlib.data import Split
from dropoutlib.network import Linear, Sequential, softmax
from dropoutlib.stored import load
from studies import store, uncertainty
from studies import uncertainty_classification as classification
from studies import uncertainty_regression as regression
from studies.learning_rate import Interval
from studies.store import code_digest
from studies.uncertainty import (
    ABOVE_0,
    BELOW_0,
    BLOCKS,
    CONCLUSIONS,
    NOT_ABOVE_0,
    NOT_BELOW_0,
    PACKAGES,
    STUDIES,
    Conclusion,
    average,
    below_,
    conclusions,
    judge,
    largest,
    less,
    score,
    within,
)

NAMES = tuple(STUDIES)
Array = np.ndarray[Any, Any]


@pytest.mark.parametrize("name", NAMES)
def test_the_stored_results_belong_to_this_code(name: str) -> None:
    stored = load(f"uncertainty_{name}")["code_sha256"]
    assert stored == code_digest(STUDIES[name].__name__), f"run python -m studies.uncertainty {name} (some minutes)"


@pytest.mark.parametrize("name", NAMES)
def test_the_stored_results_are_complete(name: str) -> None:
    stored, cases = load(f"uncertainty_{name}"), STUDIES[name].CASES
    assert {block: list(seeds) for block, seeds in BLOCKS.items()} == stored["seeds"]
    assert not set(stored["seeds"]["first"]) & set(stored["seeds"]["second"])
    assert list(stored["versions"]) == ["python", *PACKAGES[name]]
    assert stored["cases"] == {case.name: case._asdict() for case in cases}
    assert len(stored["cases"]) == len(cases), "two cases share a name"
    for case in cases:
        first, second = (stored["scores"][block][case.name] for block in BLOCKS)
        assert list(first) == list(second)
        assert all(len(values) == 8 and np.isfinite(values).all() for values in [*first.values(), *second.values()])


def test_the_stored_results_are_small() -> None:
    assert sum((store.STORED / f"uncertainty_{name}.json").stat().st_size for name in NAMES) < 200_000


@pytest.mark.parametrize("name", NAMES)
def test_the_stored_conclusions_follow_from_the_stored_scores(name: str) -> None:
    stored = load(f"uncertainty_{name}")
    assert stored["conclusions"] == conclusions(name, stored)


def test_the_docstring_lists_every_conclusion_and_its_rule() -> None:
    listed = re.findall(r"^- (\S+): ((?:.|\n  )+)", str(__doc__), flags=re.MULTILINE)
    found = {key: re.sub(r"\s+", " ", text) for key, text in listed}
    every = [c for cs in CONCLUSIONS.values() for c in cs]
    assert found == {c.id: f"{c.statement}. Rule: {c.measured}: {c.rule.words}" for c in every}
    assert len(found) == len(every), "two conclusions share an id"


@pytest.mark.parametrize(
    ("name", "case", "block", "seed"),
    [
        ("regression", regression.Case(0.2), "first", 3),
        ("regression", regression.Case(0.5), "second", 1006),
        ("classification", classification.Case("digits", 0.2, 50), "second", 1001),
    ],
)
def test_training_anew_gives_the_stored_scores(name: str, case: Any, block: str, seed: int) -> None:
    stored, index = load(f"uncertainty_{name}")["scores"][block][case.name], BLOCKS[block].index(seed)
    found = STUDIES[name].run(case, seed)
    assert list(found) == list(stored)
    # Rounding differs between machines, and hundreds of steps let it grow.
    for key, value in found.items():
        assert value == pytest.approx(stored[key][index], rel=0.1, abs=0.05), key


@pytest.mark.long
@pytest.mark.parametrize("case", [c for c in classification.CASES if c.epochs == 30], ids=lambda case: case.name)
def test_training_anew_gives_the_stored_scores_of_mnist(case: classification.Case) -> None:
    test_training_anew_gives_the_stored_scores("classification", case, "first", 5)


# --- classification


def tiny(p: float) -> tuple[Sequential, Split]:
    rows = classification._data("digits").test
    return classification.fit(Split(rows.x[:100], rows.y[:100]), p, 3, 1, 0), rows


def test_members_share_rows_and_differ_in_weights() -> None:
    rows = Split(np.ones((50, 64), np.float32), np.zeros(50, np.int64))
    first, second = (classification.fit(rows, 0.0, 0, 7, member).parameters() for member in (0, 1))
    assert all(np.abs(a.value - b.value).max() > 0.1 for a, b in zip(first[::2], second[::2], strict=True))
    with_dropout = classification.fit(rows, 0.5, 0, 7, 0).parameters()
    assert all(np.array_equal(a.value, b.value) for a, b in zip(first, with_dropout, strict=True))
    assert [p.value.shape for p in first[::2]] == [(100, 64), (100, 100), (10, 100)]
    wide = classification.fit(Split(np.ones((50, 784), np.float32), rows.y), 0.0, 0, 7, 0).parameters()
    assert [p.value.shape for p in wide[::2]] == [(128, 784), (128, 128), (10, 128)]


def test_one_prediction_is_off_and_a_temperature_flattens_it() -> None:
    net, rows = tiny(0.5)
    off = softmax(net.eval().forward(rows.x))
    np.testing.assert_allclose(classification.one(net, rows.x).mean, off, atol=1e-6)
    flat = classification.one(net, rows.x, 2.0).mean
    np.testing.assert_allclose(flat, softmax(net.eval().forward(rows.x) / 2), atol=1e-6)
    assert flat.max(axis=1).mean() < off.max(axis=1).mean()


def test_an_ensemble_averages_the_probabilities_of_each_member() -> None:
    nets, rows = [tiny(p)[0] for p in (0.2, 0.5)], tiny(0.2)[1]
    found = classification.ensemble(nets, rows.x)
    each = np.stack([softmax(net.eval().forward(rows.x)) for net in nets])
    np.testing.assert_allclose(found.mean, each.mean(axis=0), atol=1e-6)
    assert found.passes == 2


def test_monte_carlo_draws_as_the_whole_network_would() -> None:
    (net, rows), (again, _) = tiny(0.5), tiny(0.5)
    found = classification.monte_carlo(net, rows.x, 7)
    whole = np.stack([softmax(again.train().forward(rows.x)) for _ in range(7)])
    np.testing.assert_allclose(found.mean, whole.mean(axis=0), atol=1e-6)
    assert found.passes == 7


def test_mean_logits_are_put_through_one_softmax() -> None:
    (net, rows), (again, _) = tiny(0.5), tiny(0.5)
    mean = np.mean([again.train().forward(rows.x) for _ in range(classification.PASSES)], axis=0)
    np.testing.assert_allclose(classification.mean_logits(net, rows.x).mean, softmax(mean), atol=1e-6)


@pytest.mark.parametrize("truth", [0.5, 1.0, 2.5])
def test_the_temperature_is_found(truth: float) -> None:
    """Labels drawn from softmax(z): of logits truth * z the best divisor is truth."""
    rng = np.random.default_rng(0)
    z = 2 * rng.standard_normal((20_000, 4))
    labels = np.array((softmax(z).cumsum(axis=1) < rng.random((len(z), 1))).sum(axis=1))
    assert classification.fitted_temperature(truth * z, labels) == pytest.approx(truth, rel=0.06)


@pytest.mark.parametrize(("pixels", "by"), [(64, 1), (784, 2)])
def test_images_move_to_the_right_and_turn_by_a_quarter(pixels: int, by: int) -> None:
    side = int(pixels**0.5)
    x = np.random.default_rng(0).random((3, pixels)).astype(np.float32)
    images, found = x.reshape(3, side, side), classification.shifted(x, 0)
    moved = found["moved"].reshape(3, side, side)
    np.testing.assert_array_equal(moved[:, :, by:], images[:, :, :-by])
    assert not moved[:, :, :by].any()
    noise = found["noise"] - x
    assert noise.std() == pytest.approx(0.3, rel=0.15)
    assert np.array_equal(found["noise"], classification.shifted(x, 0)["noise"])
    assert not np.array_equal(found["noise"], classification.shifted(x, 1)["noise"])
    turned = classification.turned(x).reshape(3, side, side)
    np.testing.assert_array_equal(turned[0], np.rot90(images[0]))


def test_scores_by_hand() -> None:
    probs = np.array([[0.9, 0.1], [0.6, 0.4], [0.2, 0.8]])
    found = dict(zip(classification.METRICS, classification.scores(probs, np.array([0, 1, 1])), strict=True))
    assert found["accuracy"] == pytest.approx(2 / 3)
    assert found["confidence"] == pytest.approx(2.3 / 3)
    assert found["error detection"] == 1.0, "the wrong row has the lowest confidence"
    assert found["NLL"] == pytest.approx(-np.log([0.9, 0.4, 0.8]).mean())


def test_detection_is_the_chance_that_a_foreign_row_is_more_uncertain() -> None:
    known, foreign = np.array([0.1, 0.2, 0.4]), np.array([0.3, 0.5])
    assert classification.detection(known, foreign) == pytest.approx(5 / 6)
    assert classification.detection(foreign, known) == pytest.approx(1 / 6)


# --- regression


def test_the_splits_are_apart_and_scaled_by_training_rows() -> None:
    for seed in (0, 1000):
        parts = regression.split(seed)
        assert [len(y) for _, y in parts] == list(regression.SIZES)
        rows = {tuple(row) for x, _ in parts for row in x.round(9)}
        assert len(rows) == sum(regression.SIZES)
        x, y = parts[0]
        np.testing.assert_allclose(x.mean(axis=0), 0, atol=1e-12)
        assert y.std() == pytest.approx(1)


def test_gaussian_likelihood() -> None:
    from scipy.stats import norm  # type: ignore[import-untyped]

    y, mean, variance = np.array([1.0, 2.0]), np.array([0.5, 2.5]), np.array([0.25, 4.0])
    expected = -norm.logpdf(y, mean, variance**0.5).mean()
    assert regression.gaussian_nll(y, mean, variance) == pytest.approx(expected)


def test_moments_of_a_network_without_dropout() -> None:
    net = Sequential(Linear(3, 1, np.random.default_rng(0)))
    x = np.ones((4, 3))
    mean, variance = regression.moments(net, x)
    np.testing.assert_allclose(mean, net(x)[:, 0])
    np.testing.assert_allclose(variance, 0, atol=1e-15)


def test_training_lowers_the_error() -> None:
    x, y = regression.split(0)[0]
    errors = [
        float(np.mean((regression.fit(x, y, regression.Case(0.0, epochs), 0)(x)[:, 0] - y) ** 2)) for epochs in (0, 20)
    ]
    assert errors[1] < 0.6 < errors[0]


# --- judging


def test_measures() -> None:
    scores = {"a": {"x": [1.0, 2.0], "y": [0.5, 3.0]}, "b": {"x": [2.0, 1.0], "y": [0.0, 0.0]}}
    np.testing.assert_allclose(score("a", "y")(scores), [0.5, 3.0])
    np.testing.assert_allclose(less(score("a", "x"), score("b", "x"), 0.5)(scores), [0.0, 1.5])
    np.testing.assert_allclose(largest([score("a", "x"), score("b", "x")])(scores), [2.0, 2.0])
    np.testing.assert_allclose(average([score("a", "x"), score("a", "y")])(scores), [0.75, 2.5])
    found = judge(Conclusion("id", "text", "measured", less(score("a", "x"), score("a", "y")), NOT_ABOVE_0), scores)
    assert found["positive"] == 1
    assert found["holds"]


def test_rules() -> None:
    up, down, across = Interval(0.1, 0.2, 0.3), Interval(-0.3, -0.2, -0.1), Interval(-0.1, 0.1, 0.3)
    truth = {
        ABOVE_0: (True, False, False),
        BELOW_0: (False, True, False),
        NOT_ABOVE_0: (False, True, True),
        NOT_BELOW_0: (True, False, True),
        within(0.31): (True, True, True),
        within(0.2): (False, False, False),
        within(0.11, 0.2): (True, False, False),
        below_(0.31): (True, True, True),
        below_(-0.2): (False, False, False),
    }
    for rule, expected in truth.items():
        assert tuple(rule.holds(i) for i in (up, down, across)) == expected, rule.words


def test_judging_again_stores_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(uncertainty, "save", lambda name, results: store.save(name, results, tmp_path))
    monkeypatch.setattr(sys, "argv", ["uncertainty", "--judge"])
    uncertainty.main()
    for name in NAMES:
        file = f"uncertainty_{name}.json"
        assert (tmp_path / file).read_text() == (store.STORED / file).read_text()


def test_an_unknown_study(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["uncertainty", "images"])
    with pytest.raises(SystemExit):
        uncertainty.main()
    assert "unknown study images; known are classification, regression" in capsys.readouterr().err


def test_a_whole_run_in_small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(regression, "CASES", [regression.Case(0.2, 2)])
    monkeypatch.setattr(uncertainty, "BLOCKS", {"first": range(2), "second": range(5, 7)})
    monkeypatch.setattr(uncertainty, "parallel", lambda function, jobs, workers: itertools.starmap(function, jobs))
    found = uncertainty.train_all("regression")
    assert found["seeds"] == {"first": [0, 1], "second": [5, 6]}
    assert list(found["scores"]["second"]) == ["p 0.2, 2 epochs"]
    assert all(len(values) == 2 for values in found["scores"]["first"]["p 0.2, 2 epochs"].values())
