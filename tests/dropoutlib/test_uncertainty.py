"""Dropout left on: moments against stored passes, entropies and NWGM against closed forms, memory, and the frameworks.

The scores that the course judges predictions by are held against torchmetrics here; those of scikit-learn are in
test_metrics.py.
"""

from __future__ import annotations

import itertools
import math
import tracemalloc
from collections.abc import Callable
from typing import Any

import matplotlib.figure
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dropoutlib.figures import reliability, reliability_diagram, risk_coverage, risk_coverage_curve
from dropoutlib.layers import InvertedDropout
from dropoutlib.metrics import accuracy, brier, expected_calibration_error, nll
from dropoutlib.network import Linear, ReLU, Sequential, log_softmax, softmax
from dropoutlib.uncertainty import Moments, entropy, mc_predict, nwgm
from tests.statistics import Alarm

Array = np.ndarray[Any, Any]
RATES = (0.1, 0.3, 0.5, 0.8)


def replay(passes: Array) -> Callable[[Any], Array]:
    """Return a callable that gives one stored pass after the other."""
    turn = iter(passes)
    return lambda x: next(turn)


def probabilities(seed: int, *shape: int, sharpness: float = 2.0) -> Array:
    return softmax(sharpness * np.random.default_rng(seed).standard_normal(shape))


def network(p: float, seed: int = 0, dtype: Any = np.float64) -> Sequential:
    rng = np.random.default_rng(seed)
    return Sequential(
        Linear(6, 16, rng, dtype), ReLU(), InvertedDropout(p, seed), Linear(16, 4, rng, dtype), InvertedDropout(0.0)
    )


# --- streaming moments


@given(
    seed=st.integers(0, 10_000),
    passes=st.integers(1, 60),
    offset=st.sampled_from([0.0, 1.0, -1e6, 1e8]),
    scale=st.sampled_from([1e-3, 1.0, 1e4]),
)
def test_streaming_moments_equal_the_stored_ones(seed: int, passes: int, offset: float, scale: float) -> None:
    stored = offset + scale * np.random.default_rng(seed).standard_normal((passes, 3, 2))
    moments = Moments()
    for value in stored:
        moments.add(value)
    assert moments.count == passes
    np.testing.assert_allclose(moments.mean, stored.mean(axis=0), rtol=1e-12, atol=1e-12 * scale)
    # An offset of 1e8 leaves 8 digits of the deviations themselves.
    digits = 1e-12 + 4e-16 * abs(offset) / scale * 60
    np.testing.assert_allclose(moments.variance, stored.var(axis=0), rtol=digits, atol=1e-12 * scale**2)


@pytest.mark.claim("spread-in-constant-memory")
@pytest.mark.parametrize("p", RATES)
def test_prediction_equals_the_moments_of_stored_passes(p: float) -> None:
    x = np.random.default_rng(1).standard_normal((50, 6))
    first, second = network(p), network(p)
    stored = np.stack([softmax(first(x)) for _ in range(200)])
    found = mc_predict(second, x, 200, "logits")
    assert np.abs(found.mean - stored.mean(axis=0)).max() <= 1e-12
    assert np.abs(found.variance - stored.var(axis=0)).max() <= 1e-12
    single = -(stored * np.log(stored)).sum(axis=-1)
    mean = stored.mean(axis=0)
    total = -(mean * np.log(mean)).sum(axis=-1)
    assert found.entropy is not None
    assert found.mutual_information is not None
    np.testing.assert_allclose(found.entropy, total, atol=1e-12)
    np.testing.assert_allclose(found.mutual_information, total - single.mean(axis=0), atol=1e-12)
    assert found.passes == 200


def peak(passes: int) -> int:
    """Return the largest memory in use during a prediction, in bytes."""
    rng = np.random.default_rng(0)
    x = np.zeros(2000)
    mc_predict(lambda x: softmax(rng.standard_normal((2000, 10))), x, 2)
    tracemalloc.start()
    mc_predict(lambda x: softmax(rng.standard_normal((2000, 10))), x, passes)
    found = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return found


@pytest.mark.claim("spread-in-constant-memory")
def test_memory_does_not_grow_with_the_number_of_passes() -> None:
    one = 2000 * 10 * 8
    few, many = peak(5), peak(200)
    assert many < few + one / 10
    assert many < 12 * one, "200 stored passes would take 200"


def test_moments_of_different_shapes_are_refused() -> None:
    moments = Moments()
    moments.add([1.0, 2.0])
    with pytest.raises(ValueError, match=r"got \(3,\) after \(2,\)"):
        moments.add([1.0, 2.0, 3.0])


def test_there_is_no_variance_of_nothing() -> None:
    with pytest.raises(ValueError, match="no arrays"):
        _ = Moments().variance


# --- entropy and mutual information


@pytest.mark.parametrize("classes", [2, 3, 10])
def test_entropy_of_certainty_is_0_and_of_ignorance_log_k(classes: int) -> None:
    rows = np.stack([np.eye(classes)[0], np.full(classes, 1 / classes)])
    np.testing.assert_allclose(entropy(rows), [0, math.log(classes)], atol=1e-15)
    assert entropy([0.25, 0.75]) == pytest.approx(0.25 * math.log(4) + 0.75 * math.log(4 / 3))


def test_mutual_information_is_0_for_passes_that_agree() -> None:
    p = probabilities(0, 20, 5)
    found = mc_predict(lambda x: p, None, 7)
    assert found.mutual_information is not None
    np.testing.assert_allclose(found.mutual_information, 0, atol=1e-12)
    assert (found.mutual_information >= 0).all()
    np.testing.assert_allclose(found.variance, 0, atol=1e-15)


def test_mutual_information_is_all_for_certain_passes_that_contradict() -> None:
    found = mc_predict(replay(np.eye(4)[:, None, :]), None, 4)
    assert found.mutual_information is not None
    np.testing.assert_allclose(found.mutual_information, math.log(4))
    assert found.entropy == pytest.approx(math.log(4))
    np.testing.assert_allclose(found.variance, 0.25 * 0.75)


@given(seed=st.integers(0, 1000), passes=st.integers(1, 20), classes=st.integers(2, 6))
def test_mutual_information_lies_between_0_and_the_entropy(seed: int, passes: int, classes: int) -> None:
    found = mc_predict(replay(probabilities(seed, passes, 8, classes)), None, passes)
    assert found.entropy is not None
    assert found.mutual_information is not None
    assert (found.mutual_information >= 0).all()
    assert (found.mutual_information <= found.entropy + 1e-12).all()


# --- outputs


def test_logits_are_put_through_a_softmax_pass_by_pass() -> None:
    logits = np.random.default_rng(0).standard_normal((9, 5, 3))
    np.testing.assert_allclose(
        mc_predict(replay(logits), None, 9, "logits").mean, softmax(logits).mean(axis=0), atol=1e-12
    )


@pytest.mark.parametrize("shape", [(), (4,), (4, 1), (4, 2)])
def test_regression_has_moments_and_no_entropy(shape: tuple[int, ...]) -> None:
    values = np.random.default_rng(0).normal(3, 2, (11, *shape))
    found = mc_predict(replay(values), None, 11, "values")
    np.testing.assert_allclose(found.mean, values.mean(axis=0), atol=1e-12)
    np.testing.assert_allclose(found.variance, values.var(axis=0), atol=1e-12)
    assert found.entropy is None
    assert found.mutual_information is None


def test_float32_passes_are_summed_in_float64() -> None:
    values = np.full((3, 2), 0.1, np.float32)
    assert mc_predict(replay(values), None, 3, "values").mean.dtype == np.float64


@pytest.mark.statistical(comparisons=3)
@pytest.mark.parametrize("p", [0.2, 0.5, 0.8])
def test_mean_and_variance_are_those_of_dropout(p: float, seed: int, alarm: Alarm) -> None:
    """One linear unit: mean x'w, variance p/q sum (x_j w_j)^2; the sum of T passes is one of independent terms."""
    w, passes = np.array([1.0, -2.0, 0.5, 3.0]), 4000
    layer = InvertedDropout(p, seed)
    found = mc_predict(lambda x: layer(x) @ w, np.ones(4), passes, "values")
    variance = p / (1 - p) * float(w @ w)
    bound = float(np.abs(w).sum()) / (1 - p)
    alarm.total(float(found.mean) * passes, float(w.sum()) * passes, variance * passes, bound, "mean")
    values = [sum(w * np.array(m)) / (1 - p) for m in itertools.product((0, 1), repeat=4)]
    square = max((v - w.sum()) ** 2 for v in values)
    spread = (float(found.variance) + float(found.mean - w.sum()) ** 2) * passes
    alarm.total(spread, variance * passes, passes * square * variance, square, "variance")


@pytest.mark.parametrize("passes", [0, -1])
def test_no_passes_are_refused(passes: int) -> None:
    with pytest.raises(ValueError, match=f"passes must be at least 1, got {passes}"):
        mc_predict(lambda x: x, np.ones(2), passes)


@pytest.mark.parametrize("passes", [2.0, True, "3"])
def test_passes_are_whole(passes: Any) -> None:
    with pytest.raises(TypeError, match="passes must be an integer"):
        mc_predict(lambda x: x, np.ones(2), passes)


@pytest.mark.parametrize("y", [[[0.5, 0.6]], [[-0.1, 1.1]], [[1.0, np.nan]], [[3.0, -2.0]], 1.0, [[2.0, 0.0]]])
def test_a_pass_without_probabilities_is_refused(y: Any) -> None:
    with pytest.raises(ValueError, match="outputs='logits'"):
        mc_predict(lambda x: y, None, 2)


def test_other_outputs_are_refused() -> None:
    with pytest.raises(ValueError, match="'classes'"):
        mc_predict(lambda x: x, None, 2, "classes")  # type: ignore[arg-type]


@pytest.mark.parametrize("predict", [3, None, "model", np.ones(3)])
def test_what_cannot_predict_is_refused(predict: Any) -> None:
    with pytest.raises(TypeError, match=r"torch\.nn\.Module"):
        mc_predict(predict, None, 2)


def test_an_error_of_the_callable_is_its_own() -> None:
    def broken(x: Any) -> Any:
        raise TypeError("no rows today")

    with pytest.raises(TypeError, match="no rows today"):
        mc_predict(broken, None, 2)


# --- geometric means


def masks(units: int, p: float) -> tuple[Array, Array]:
    """Return all masks and their probabilities."""
    kept = np.array(list(itertools.product((0, 1), repeat=units)))
    return kept, np.prod(np.where(kept, 1 - p, p), axis=1)


@pytest.mark.parametrize("p", RATES)
def test_nwgm_over_all_masks_is_the_evaluation_pass_of_one_softmax_layer(p: float) -> None:
    rng = np.random.default_rng(0)
    x, W, b = rng.standard_normal((5, 8)), rng.standard_normal((3, 8)), rng.standard_normal(3)
    kept, chance = masks(8, p)
    passes = softmax((kept[:, None] * x / (1 - p)) @ W.T + b)
    np.testing.assert_allclose(nwgm(passes, chance), softmax(x @ W.T + b), atol=1e-13)
    arithmetic = np.tensordot(chance, passes, axes=1)
    assert np.abs(arithmetic - softmax(x @ W.T + b)).max() > 0.03


@pytest.mark.parametrize("p", [0.2, 0.5])
def test_nwgm_is_not_exact_behind_a_hidden_layer(p: float) -> None:
    rng = np.random.default_rng(0)
    x, W, V = rng.standard_normal((5, 8)), rng.standard_normal((6, 8)), rng.standard_normal((3, 6))
    kept, chance = masks(8, p)
    passes = softmax(np.maximum((kept[:, None] * x / (1 - p)) @ W.T, 0) @ V.T)
    assert np.abs(nwgm(passes, chance) - softmax(np.maximum(x @ W.T, 0) @ V.T)).max() > 0.01


@pytest.mark.claim("mean-of-logits-is-the-geometric-mean")
@given(seed=st.integers(0, 1000), passes=st.integers(1, 12), classes=st.integers(2, 6), equal=st.booleans())
def test_nwgm_is_the_softmax_of_the_mean_logits(seed: int, passes: int, classes: int, equal: bool) -> None:
    rng = np.random.default_rng(seed)
    logits, weights = 4 * rng.standard_normal((passes, 7, classes)), rng.dirichlet(np.ones(passes))
    if equal:
        np.testing.assert_allclose(nwgm(softmax(logits)), softmax(logits.mean(axis=0)), atol=1e-12)
    else:
        mean = np.tensordot(weights, logits, axes=1)
        np.testing.assert_allclose(nwgm(softmax(logits), weights), softmax(mean), atol=1e-12)


def test_nwgm_by_hand() -> None:
    # sqrt(.9 * .5), sqrt(.1 * .5)
    a, b = math.sqrt(0.45), math.sqrt(0.05)
    np.testing.assert_allclose(nwgm([[0.9, 0.1], [0.5, 0.5]]), [a / (a + b), b / (a + b)])
    np.testing.assert_allclose(nwgm([[0.9, 0.1], [0.5, 0.5]], [1, 0]), [0.9, 0.1])


def test_a_class_that_one_mask_rules_out_gets_0() -> None:
    np.testing.assert_array_equal(nwgm([[1.0, 0.0], [0.5, 0.5]]), [1, 0])
    np.testing.assert_allclose(nwgm([[0.2, 0.8], [1.0, 0.0]], [1, 0]), [0.2, 0.8])
    assert np.isnan(nwgm([[1.0, 0.0], [0.0, 1.0]])).all()


@pytest.mark.parametrize(
    ("probs", "weights"),
    [
        ([[0.5, 0.5]], [0.5]),
        ([[0.5, 0.5]], [0.5, 0.5]),
        ([[0.5, 0.5], [0.5, 0.5]], [1.5, -0.5]),
        ([[0.5, 0.5], [0.5, 0.5]], [np.nan, 1.0]),
        ([0.5, 0.5], None),
        (np.ones((0, 1)), None),
    ],
)
def test_nwgm_refuses_weights_that_are_no_distribution(probs: Any, weights: Any) -> None:
    with pytest.raises(ValueError, match="with sum 1"):
        nwgm(probs, weights)


def test_nwgm_refuses_logits() -> None:
    with pytest.raises(ValueError, match="sum to 1"):
        nwgm([[2.0, 1.0]])


# --- models of the frameworks


@pytest.fixture(params=["pytorch", "keras", "flax"])
def framework(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def model_with_norm(framework: str) -> tuple[Any, Array]:
    """Return a healthy network with BatchNorm and dropout, and images for it."""
    from tests.frameworks.models import healthy, images

    return healthy(framework, "cnn"), images(framework, "cnn", rows=8)


@pytest.mark.claim("train-mode-for-monte-carlo")
def test_a_framework_model_keeps_its_modes_and_its_running_statistics(framework: str) -> None:
    from dropoutlib.frameworks import adapter

    model, x = model_with_norm(framework)
    backend = adapter(model)
    before, modes = backend.parameters(model), backend.training_modules(model)
    once = backend.predict(model, x)
    found = mc_predict(model, x, 6, "logits")
    assert found.variance.max() > 1e-8, "dropout was off"
    assert found.mean.shape == (8, 10)
    assert backend.training_modules(model) == modes
    for name, value in backend.parameters(model).items():
        np.testing.assert_array_equal(value, before[name])
    np.testing.assert_array_equal(backend.predict(model, x), once)


def test_a_seed_fixes_the_masks_of_a_framework_model(framework: str) -> None:
    model, x = model_with_norm(framework)
    first, again, other = (mc_predict(model, x, 3, "logits", seed=seed).mean for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - other).max() > 1e-6


@pytest.mark.claim("train-mode-for-monte-carlo")
def test_rows_do_not_see_each_other() -> None:
    """In training mode BatchNorm lets them."""
    import torch

    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4), torch.nn.Dropout(0.0)).eval()
    x = np.random.default_rng(0).normal(5, 3, (6, 3)).astype(np.float32)
    together = mc_predict(model, x, 2, "values").mean
    alone = np.concatenate([mc_predict(model, x[i : i + 1], 2, "values").mean for i in range(6)])
    np.testing.assert_allclose(together, alone, atol=1e-6)
    with torch.no_grad():
        trained = model.train()(torch.from_numpy(x)).numpy()
    assert np.abs(trained - together).max() > 0.1


# --- the scores against torchmetrics


@pytest.fixture(scope="module")
def torchmetrics() -> Any:
    return pytest.importorskip("torchmetrics.functional.classification")


@pytest.mark.parametrize("sharpness", [0.3, 1.0, 4.0])
@pytest.mark.parametrize(("n", "classes"), [(1, 2), (300, 2), (300, 3), (1000, 10)])
def test_calibration_error_equals_torchmetrics(torchmetrics: Any, n: int, classes: int, sharpness: float) -> None:
    import torch

    probs = probabilities(n + classes, n, classes, sharpness=sharpness)
    labels = np.random.default_rng(1).integers(0, classes, n)
    for bins in (1, 7, 10, 15, 30):
        theirs = torchmetrics.multiclass_calibration_error(
            torch.from_numpy(probs), torch.from_numpy(labels), num_classes=classes, n_bins=bins, norm="l1"
        )
        # It computes in float32.
        assert expected_calibration_error(probs, labels, bins) == pytest.approx(float(theirs), abs=2e-6)


@pytest.mark.parametrize(("n", "classes"), [(1, 2), (300, 3), (1000, 10)])
def test_accuracy_nll_and_brier_equal_torch(torchmetrics: Any, n: int, classes: int) -> None:
    import torch

    logits = np.random.default_rng(n).standard_normal((n, classes))
    labels = np.random.default_rng(1).integers(0, classes, n)
    probs, y = softmax(logits), torch.from_numpy(labels)
    share = torchmetrics.multiclass_accuracy(torch.from_numpy(probs), y, num_classes=classes, average="micro")
    assert accuracy(probs, labels) == pytest.approx(float(share), abs=1e-6)
    loss = torch.nn.functional.cross_entropy(torch.from_numpy(logits), y)
    assert nll(probs, labels) == pytest.approx(float(loss), abs=1e-12)
    assert nll(probs, labels) == pytest.approx(-log_softmax(logits)[np.arange(n), labels].mean(), abs=1e-12)
    squared = torch.nn.functional.mse_loss(
        torch.from_numpy(probs), torch.nn.functional.one_hot(y, classes).double(), reduction="sum"
    )
    assert brier(probs, labels) == pytest.approx(float(squared) / n, abs=1e-12)


# --- figures


@given(seed=st.integers(0, 5000), n=st.integers(1, 80), classes=st.integers(1, 5), bins=st.integers(1, 20))
def test_a_reliability_diagram_adds_up_to_the_calibration_error(seed: int, n: int, classes: int, bins: int) -> None:
    probs, labels = probabilities(seed, n, classes), np.random.default_rng(seed).integers(0, classes, n)
    found = reliability(probs, labels, bins)
    gap = float(np.sum(found.share * np.abs(found.accuracy - found.confidence)))
    assert gap == pytest.approx(expected_calibration_error(probs, labels, bins), abs=1e-12)
    assert found.share.sum() == pytest.approx(1)
    assert (found.share > 0).all()
    assert float(found.share @ found.accuracy) == pytest.approx(accuracy(probs, labels))


def test_a_reliability_diagram_by_hand() -> None:
    probs = np.array([[0.6, 0.4], [0.58, 0.42], [0.05, 0.95]])
    found = reliability(probs, [0, 1, 1], 10)
    np.testing.assert_allclose(found.confidence, [0.59, 0.95])
    np.testing.assert_allclose(found.accuracy, [0.5, 1.0])
    np.testing.assert_allclose(found.share, [2 / 3, 1 / 3])


def test_risk_and_coverage_by_hand() -> None:
    coverage, risk = risk_coverage([0.3, 0.1, 0.2, 0.9], [False, False, True, True])
    np.testing.assert_allclose(coverage, [0.25, 0.5, 0.75, 1.0])
    np.testing.assert_allclose(risk, [0, 1 / 2, 1 / 3, 1 / 2])


def test_rows_of_equal_uncertainty_are_kept_together() -> None:
    for order in itertools.permutations(range(4)):
        u, w = np.array([0.1, 0.5, 0.5, 0.5]), np.array([0, 1, 0, 0])
        coverage, risk = risk_coverage(u[list(order)], w[list(order)])
        np.testing.assert_allclose(coverage, [0.25, 1.0])
        np.testing.assert_allclose(risk, [0, 0.25])


@pytest.mark.parametrize(
    ("draw", "arguments", "message"),
    [
        (reliability, ([[0.5, 0.5]], [0, 1]), r"got \(1, 2\) and \(2,\)"),
        (reliability, ([0.5, 0.5], [0, 1]), r"got \(2,\)"),
        (reliability, ([[0.5, 0.5]], [0], 0), "bins must be at least 1"),
        (risk_coverage, ([0.1], [True, False]), r"got \(1,\) and \(2,\)"),
        (risk_coverage, ([], []), "n > 0"),
    ],
)
def test_figures_of_bad_input_are_refused(draw: Callable[..., Any], arguments: tuple[Any, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        draw(*arguments)


def test_the_figures_are_drawn_in_the_style_that_is_asked_for() -> None:
    figure = matplotlib.figure.Figure()
    left, right = figure.subplots(1, 2)
    probs, labels = probabilities(0, 50, 3), np.zeros(50, int)
    reliability_diagram(left, probs, labels, bins=5, color="#123456", label="off")
    found = reliability(probs, labels, 5)
    diagonal, line = left.lines
    np.testing.assert_array_equal(diagonal.get_xdata(), diagonal.get_ydata())
    np.testing.assert_allclose(line.get_xdata(), found.confidence)
    np.testing.assert_allclose(line.get_ydata(), found.accuracy)
    assert (line.get_color(), line.get_label()) == ("#123456", "off")
    (dots,) = left.collections
    np.testing.assert_allclose(np.diff(dots.get_sizes()), 300 * np.diff(found.share))
    assert left.get_xlabel() == "confidence"
    risk_coverage_curve(right, entropy(probs), probs.argmax(axis=1) != labels, color="#654321")
    (curve,) = right.lines
    np.testing.assert_allclose(np.asarray(curve.get_xdata())[-1], 1)
    assert curve.get_color() == "#654321"
    assert "coverage" in right.get_xlabel()
