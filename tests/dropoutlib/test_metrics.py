"""The scores against closed forms, scikit-learn, and a slow loop."""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dropoutlib.metrics import accuracy, brier, expected_calibration_error, nll

METRICS: list[Callable[..., float]] = [accuracy, nll, brier, expected_calibration_error]


def predictions(seed: int, n: int, classes: int, sharpness: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    weights = np.exp(sharpness * rng.standard_normal((n, classes)))
    return weights / weights.sum(axis=1, keepdims=True), rng.integers(0, classes, n)


def slow_ece(probs: np.ndarray, labels: np.ndarray, bins: int) -> float:
    """Return the expected calibration error by the definition, bin by bin and row by row, with edges (b-1)/B, b/B."""
    total = 0.0
    for b in range(1, bins + 1):
        rows = [
            (max(row), row.index(max(row)) == label)
            for row, label in zip(probs.tolist(), labels.tolist(), strict=True)
            if (b - 1) / bins < max(row) <= b / bins
        ]
        if rows:
            confidence = math.fsum(c for c, _ in rows) / len(rows)
            hits = sum(hit for _, hit in rows) / len(rows)
            total += len(rows) / len(labels) * abs(hits - confidence)
    return total


# Closed forms.


@pytest.mark.parametrize("classes", [2, 3, 10])
def test_uniform_predictions(classes: int) -> None:
    labels = np.arange(4 * classes) % classes
    probs = np.full((labels.size, classes), 1 / classes)
    assert accuracy(probs, labels) == pytest.approx(1 / classes)  # ties go to class 0
    assert nll(probs, labels) == pytest.approx(math.log(classes))
    assert brier(probs, labels) == pytest.approx(1 - 1 / classes)
    assert expected_calibration_error(probs, labels) == pytest.approx(0, abs=1e-15)


def test_certain_predictions() -> None:
    labels = np.array([0, 1, 2, 1])
    right = np.eye(3)[labels]
    assert [metric(right, labels) for metric in METRICS] == [1.0, 0.0, 0.0, 0.0]
    wrong = np.eye(3)[(labels + 1) % 3]
    assert [metric(wrong, labels) for metric in METRICS] == [0.0, math.inf, 2.0, 1.0]


def test_one_row() -> None:
    probs, labels = [[0.7, 0.2, 0.1]], [1]
    assert accuracy(probs, labels) == 0.0
    assert nll(probs, labels) == pytest.approx(-math.log(0.2))
    assert brier(probs, labels) == pytest.approx(0.49 + 0.64 + 0.01)
    assert expected_calibration_error(probs, labels) == pytest.approx(0.7)


def test_lists_and_other_dtypes() -> None:
    probs, labels = predictions(0, 30, 4)
    for metric in METRICS:
        value = metric(probs, labels)
        assert type(value) is float
        assert metric(probs.tolist(), labels.tolist()) == value
        assert metric(probs.astype(np.float32), labels.astype(np.uint8)) == pytest.approx(value, abs=1e-6)


def test_a_float32_softmax_is_accepted() -> None:
    z = np.random.default_rng(0).standard_normal((1000, 10)).astype(np.float32) * 10
    e = np.exp(z - z.max(axis=1, keepdims=True))
    probs = e / e.sum(axis=1, keepdims=True)
    assert np.isfinite(nll(probs, probs.argmax(axis=1)))


# scikit-learn.


@pytest.mark.parametrize("case", range(5))
@pytest.mark.parametrize(("n", "classes", "sharpness"), [(1, 2, 1), (200, 2, 0.3), (200, 3, 3), (500, 10, 1)])
def test_scores_equal_scikit_learn(case: int, n: int, classes: int, sharpness: float) -> None:
    sklearn = pytest.importorskip("sklearn.metrics")
    probs, labels = predictions(case, n, classes, sharpness)
    names = np.arange(classes)
    assert accuracy(probs, labels) == sklearn.accuracy_score(labels, probs.argmax(axis=1))
    assert nll(probs, labels) == pytest.approx(sklearn.log_loss(labels, probs, labels=names), rel=1e-12)
    expected = sklearn.brier_score_loss(labels, probs, labels=names, scale_by_half=False)
    assert brier(probs, labels) == pytest.approx(expected, rel=1e-12)


# Calibration.


@given(
    seed_of_draw=st.integers(0, 10_000),
    n=st.integers(1, 60),
    classes=st.integers(1, 6),
    bins=st.integers(1, 40),
    sharpness=st.sampled_from([0.1, 1.0, 5.0]),
)
def test_calibration_error_equals_the_slow_loop(
    seed_of_draw: int, n: int, classes: int, bins: int, sharpness: float
) -> None:
    probs, labels = predictions(seed_of_draw, n, classes, sharpness)
    assert expected_calibration_error(probs, labels, bins) == pytest.approx(slow_ece(probs, labels, bins), abs=1e-12)


@pytest.mark.parametrize("bins", [2, 3, 7, 10, 15, 20, 49])
def test_a_confidence_at_an_edge_belongs_to_the_bin_below(bins: int) -> None:
    # Two rows a bin edge: one at the edge, right, and one a little above, wrong. Were both in one bin, errors would
    # cancel; apart, they add.
    for b in range(1, bins):
        edge = b / bins
        if edge <= 0.5:
            continue
        above = min(edge + 0.25 / bins, 1.0)
        probs = np.array([[edge, 1 - edge], [above, 1 - above]])
        error = expected_calibration_error(probs, [0, 1], bins)
        assert error == pytest.approx((abs(1 - edge) + abs(0 - above)) / 2, abs=1e-12)
        assert error == pytest.approx(slow_ece(probs, np.array([0, 1]), bins), abs=1e-12)


def test_confidence_one_belongs_to_the_last_bin() -> None:
    probs = np.array([[1.0, 0.0], [0.95, 0.05]])
    # One bin of two rows: accuracy 1/2, mean confidence .975.
    assert expected_calibration_error(probs, [0, 1], bins=10) == pytest.approx(0.475)
    assert expected_calibration_error(np.array([[1.0, 0.0]]), [0]) == 0.0


def test_bins_change_the_result_as_they_should() -> None:
    probs = np.array([[0.9, 0.1], [0.6, 0.4]])
    labels = [0, 1]
    assert expected_calibration_error(probs, labels, bins=1) == pytest.approx(abs(0.5 - 0.75))
    assert expected_calibration_error(probs, labels, bins=2) == pytest.approx(abs(0.5 - 0.75))
    assert expected_calibration_error(probs, labels, bins=10) == pytest.approx((0.1 + 0.6) / 2)


def test_fifteen_bins_are_the_default() -> None:
    # Right below .75 and wrong above: bins of other widths mix the two in other ways.
    confidence = np.linspace(0.51, 0.99, 400)
    probs = np.column_stack([confidence, 1 - confidence])
    labels = (confidence > 0.75).astype(int)
    errors = {bins: expected_calibration_error(probs, labels, bins=bins) for bins in (10, 14, 15, 20)}
    default = expected_calibration_error(probs, labels)
    assert default == errors.pop(15)
    assert all(abs(default - error) > 1e-3 for error in errors.values())


def test_a_calibrated_predictor_has_no_error_in_expectation() -> None:
    # 8 of 10 right at confidence .8, exactly.
    share = Fraction(8, 10)
    probs = np.tile([float(share), 1 - float(share)], (10, 1))
    labels = np.array([0] * 8 + [1] * 2)
    assert expected_calibration_error(probs, labels) == pytest.approx(0, abs=1e-15)


# Bad input.

GOOD = np.array([[0.5, 0.5], [0.2, 0.8]])


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize(
    ("probs", "labels", "error", "message"),
    [
        (GOOD[0], [0], ValueError, r"\(2,\)"),
        (GOOD[None], [0, 1], ValueError, r"\(1, 2, 2\)"),
        (0.5, 0, ValueError, r"\(\)"),
        (GOOD, [0], ValueError, r"\(1,\)"),
        (GOOD, [0, 1, 1], ValueError, r"\(3,\)"),
        (GOOD, [[0], [1]], ValueError, r"\(2, 1\)"),
        (GOOD, 0, ValueError, r"\(\)"),
        (np.ones((0, 2)), np.zeros(0, int), ValueError, "n > 0"),
        (GOOD, [0, 2], ValueError, "got 0 to 2"),
        (GOOD, [-1, 1], ValueError, "got -1 to 1"),
        (GOOD, [0.0, 1.0], TypeError, "float64"),
        (GOOD, [False, True], TypeError, "bool"),
        (GOOD, ["a", "b"], TypeError, "<U1"),
        ([[0.5, 0.5], [0.5, 0.6]], [0, 1], ValueError, "row 1"),
        ([[0.5, 0.49], [0.5, 0.5]], [0, 1], ValueError, "row 0"),
        ([[0.5, 0.5], [-0.1, 1.1]], [0, 1], ValueError, "row 1"),
        ([[0.5, 0.5], [math.nan, 1.0]], [0, 1], ValueError, "row 1"),
        ([[0.5, 0.5], [math.inf, 0.0]], [0, 1], ValueError, "row 1"),
        ([[3.0, -2.0], [0.5, 0.5]], [0, 1], ValueError, "row 0"),
    ],
)
def test_bad_input_is_refused(
    metric: Callable[..., float], probs: Any, labels: Any, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        metric(probs, labels)


@pytest.mark.parametrize("bins", [0, -3])
def test_bins_below_one_are_refused(bins: int) -> None:
    with pytest.raises(ValueError, match=f"bins must be at least 1, got {bins}"):
        expected_calibration_error(GOOD, [0, 1], bins)


@pytest.mark.parametrize("metric", METRICS)
def test_inputs_are_not_written_to(metric: Callable[..., float]) -> None:
    probs, labels = predictions(1, 20, 3)
    before = probs.copy(), labels.copy()
    metric(probs, labels)
    np.testing.assert_array_equal(probs, before[0])
    np.testing.assert_array_equal(labels, before[1])
