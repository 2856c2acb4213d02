"""BatchNorm1d against PyTorch and differences, the re-estimation, and the closed forms of the variance shift.

The closed forms are held against simulation. Let y be x after dropout and mu the mean of x: then n terms (y - mu)^2 sum
up to n Var[y] on average. The terms are independent, their variance follows from the fourth moment of y, which is known
exactly, and every law here is bounded: normal draws are cut off at 12 standard deviations, which moves no moment in
double precision (one draw in 1e32 lies further out). So Bernstein's inequality bounds the sum at the rate of
`tests.statistics` for any sample size. No normal approximation is made of a sample variance, whose law has a heavy
tail.
The same inequality proves the power: a wrong formula is rejected with a probability of at least .99 wherever the wrong
expectation lies further from the right one than its bound at the rate and the right one's at .01 together.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dropoutlib.batchnorm import (
    BatchNorm1d,
    reestimate_running_stats,
    running_variance_ratios,
    variance_shift,
    variance_shift_linear,
)
from dropoutlib.data import digits
from dropoutlib.gradients import check_gradient
from dropoutlib.layers import InvertedDropout, StandardDropout
from dropoutlib.network import SGD, Linear, ReLU, Sequential, softmax_cross_entropy
from tests.statistics import RATE, Alarm, bernstein, seeds, shown_power

Array = np.ndarray[Any, Any]


def batch(rows: int = 12, features: int = 5, seed: int = 0) -> Array:
    rng = np.random.default_rng(seed)
    return rng.standard_normal((rows, features)) * np.arange(1, features + 1) + 3


# --- against PyTorch -----------------------------------------------------------------------------------------------


@pytest.mark.claim("batchnorm-two-variances")
@given(
    rows=st.integers(2, 40),
    features=st.integers(1, 9),
    momentum=st.one_of(st.sampled_from([0.0, 0.1, 1.0]), st.floats(0, 1)),
    eps=st.one_of(st.sampled_from([1e-5, 1e-12]), st.floats(1e-12, 1)),
    seed=st.integers(0, 2**32),
)
def test_outputs_gradients_and_running_statistics_equal_pytorch(
    rows: int, features: int, momentum: float, eps: float, seed: int
) -> None:
    """Three batches in training and one in evaluation, of several scales, to 1e-10 in float64."""
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(seed)
    ours = BatchNorm1d(features, momentum, eps)
    theirs = torch.nn.BatchNorm1d(features, eps=eps, momentum=momentum, dtype=torch.float64)
    ours.weight.value[:], ours.bias.value[:] = rng.standard_normal((2, features))
    with torch.no_grad():
        theirs.weight.copy_(torch.tensor(ours.weight.value))
        theirs.bias.copy_(torch.tensor(ours.bias.value))
    scale, shift = 10 ** rng.uniform(-1, 2, features), rng.uniform(-10, 10, features)
    close = {"rtol": 1e-10, "atol": 1e-10}
    for training in (True, True, True, False):
        (ours.train if training else ours.eval)()
        theirs.train(training)
        x = rng.standard_normal((rows, features)) * scale + shift
        dy = rng.standard_normal((rows, features))
        x_torch = torch.tensor(x, requires_grad=True)
        y_torch = theirs(x_torch)
        theirs.zero_grad()
        y_torch.backward(torch.tensor(dy))
        np.testing.assert_allclose(ours(x), y_torch.detach().numpy(), **close)
        np.testing.assert_allclose(ours.backward(dy), x_torch.grad.numpy(), **close)
        np.testing.assert_allclose(ours.weight.grad, theirs.weight.grad.numpy(), **close)
        np.testing.assert_allclose(ours.bias.grad, theirs.bias.grad.numpy(), **close)
        np.testing.assert_allclose(ours.running_mean, theirs.running_mean.numpy(), **close)
        np.testing.assert_allclose(ours.running_var, theirs.running_var.numpy(), **close)


@pytest.mark.claim("batchnorm-two-variances")
def test_a_network_with_batchnorm_and_dropout_trains_as_in_pytorch() -> None:
    """Twenty steps of SGD with the same masks; parameters and running statistics to 1e-10."""
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(0)
    drop = InvertedDropout(0.3, seed=1)
    net = Sequential(Linear(64, 20, rng), BatchNorm1d(20), ReLU(), drop, Linear(20, 15, rng), BatchNorm1d(15), ReLU())
    net = Sequential(net, Linear(15, 10, rng))
    first, second = torch.nn.BatchNorm1d(20, dtype=torch.float64), torch.nn.BatchNorm1d(15, dtype=torch.float64)
    parts = [torch.nn.Linear(64, 20), first, torch.nn.Linear(20, 15), second, torch.nn.Linear(15, 10)]
    parameters = [p for part in parts for p in part.double().parameters()]
    for mine, other in zip(net.parameters(), parameters, strict=True):
        other.data = torch.tensor(mine.value)
    data = digits().train
    ours, theirs = SGD(net.parameters(), lr=0.1), torch.optim.SGD(parameters, lr=0.1)
    for step in range(20):
        x, y = data.x[40 * step : 40 * step + 40], data.y[40 * step : 40 * step + 40]
        net.backward(softmax_cross_entropy(net(x), y)[1])
        ours.step()
        h = torch.relu(first(parts[0](torch.tensor(x))))
        assert drop.mask is not None
        h = h * torch.tensor(drop.mask.copy()) / 0.7
        loss = torch.nn.functional.cross_entropy(parts[4](torch.relu(second(parts[2](h)))), torch.tensor(y))
        theirs.zero_grad()
        loss.backward()
        theirs.step()
    for mine, other in zip(net.parameters(), parameters, strict=True):
        np.testing.assert_allclose(mine.value, other.detach().numpy(), rtol=1e-10, atol=1e-10)
    inner = net.layers[0]
    assert isinstance(inner, Sequential)
    for layer, module in ((inner.layers[1], first), (inner.layers[5], second)):
        assert isinstance(layer, BatchNorm1d)
        np.testing.assert_allclose(layer.running_var, module.running_var.numpy(), rtol=1e-10)
        np.testing.assert_allclose(layer.running_mean, module.running_mean.numpy(), rtol=1e-10, atol=1e-10)


# --- the layer by itself -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["train", "eval"])
def test_gradients_by_finite_differences(mode: str) -> None:
    layer = BatchNorm1d(5)
    layer(batch(seed=1))
    layer.weight.value[:] = [1.0, -2.0, 0.5, 3.0, 0.1]
    getattr(layer, mode)()
    assert check_gradient(layer, batch(), batch(seed=2)) < 1e-6


def test_training_normalises_and_keeps_half_of_each_statistic() -> None:
    layer, x = BatchNorm1d(5, momentum=0.5, eps=0.0), batch()
    y = layer(x)
    np.testing.assert_allclose(y.mean(axis=0), 0, atol=1e-14)
    np.testing.assert_allclose(y.var(axis=0), 1, rtol=1e-13)
    np.testing.assert_allclose(layer.running_mean, 0.5 * x.mean(axis=0), rtol=1e-14)
    np.testing.assert_allclose(layer.running_var, 0.5 + 0.5 * x.var(axis=0, ddof=1), rtol=1e-14)


def test_evaluation_uses_the_running_statistics_and_leaves_them() -> None:
    layer, x = BatchNorm1d(5, eps=0.25), batch()
    layer(x)
    mean, var = layer.running_mean.copy(), layer.running_var.copy()
    layer.eval()
    np.testing.assert_allclose(layer(x[:1]), (x[:1] - mean) / np.sqrt(var + 0.25), rtol=1e-14)
    assert layer(x[:0]).shape == (0, 5)
    np.testing.assert_array_equal(layer.running_mean, mean)
    np.testing.assert_array_equal(layer.running_var, var)


def test_backward_belongs_to_the_last_forward_whatever_the_mode_is_now() -> None:
    x, dy = batch(), batch(seed=1)
    layer, flipped = BatchNorm1d(5), BatchNorm1d(5)
    layer(x)
    flipped(x)
    np.testing.assert_array_equal(flipped.eval().backward(dy), layer.backward(dy))
    layer.eval()(x)
    flipped(x)
    np.testing.assert_array_equal(flipped.train().backward(dy), layer.backward(dy))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_dtypes_are_kept(dtype: type) -> None:
    layer, x = BatchNorm1d(5, dtype=dtype), batch().astype(dtype)
    for _ in range(2):
        assert layer(x).dtype == layer.backward(x).dtype == layer.running_var.dtype == layer.running_mean.dtype == dtype
        assert {p.grad.dtype for p in layer.parameters()} == {np.dtype(dtype)}
        layer.eval()
    reestimate_running_stats(Sequential(layer), x)
    assert layer.running_var.dtype == layer.running_mean.dtype == dtype


def test_inputs_are_not_written_to_and_lists_are_taken() -> None:
    layer, x = BatchNorm1d(5), batch()
    before = x.copy()
    np.testing.assert_array_equal(layer(x), layer(x.tolist()))
    layer.backward(x)
    np.testing.assert_array_equal(x, before)


def test_modes_and_parameters() -> None:
    layer = BatchNorm1d(3)
    assert layer.training
    assert layer.eval() is layer
    assert not layer.training
    assert layer.train() is layer
    assert layer.training
    assert layer.parameters() == [layer.weight, layer.bias]
    for array, value in ((layer.weight.value, 1), (layer.bias.value, 0), (layer.running_mean, 0)):
        np.testing.assert_array_equal(array, np.full(3, value))
    np.testing.assert_array_equal(layer.running_var, np.ones(3))


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: BatchNorm1d(0), ValueError, "features must be at least 1"),
        (lambda: BatchNorm1d(2.0), TypeError, "features must be an integer"),  # type: ignore[arg-type]
        (lambda: BatchNorm1d(2, momentum=1.5), ValueError, "momentum must be at most 1.*got 1.5"),
        (lambda: BatchNorm1d(2, momentum=None), TypeError, "momentum must be"),  # type: ignore[arg-type]
        (lambda: BatchNorm1d(2, eps=-1e-5), ValueError, "eps must be finite and not negative"),
        (lambda: BatchNorm1d(2)(np.ones((1, 2))), ValueError, "at least 2 rows in training.*got 1.*call eval"),
        (lambda: BatchNorm1d(2)(np.ones((0, 2))), ValueError, "at least 2 rows in training.*got 0"),
        (lambda: BatchNorm1d(2)(np.ones((4, 3))), ValueError, r"shape \(n, 2\), got \(4, 3\)"),
        (lambda: BatchNorm1d(2)(np.ones(2)), ValueError, r"shape \(n, 2\), got \(2,\)"),
        (lambda: BatchNorm1d(2)(np.ones((2, 2, 2))), ValueError, r"got \(2, 2, 2\)"),
        (lambda: BatchNorm1d(2)(np.ones((4, 2), int)), TypeError, r"astype\(np.float32\)"),
        (lambda: BatchNorm1d(2).backward(np.ones((4, 2))), RuntimeError, "call forward"),
        (lambda: applied().backward(np.ones((3, 2))), ValueError, r"\(4, 2\), got \(3, 2\)"),
        (lambda: applied().backward(np.ones((4, 2), int)), TypeError, "dy must be float16"),
        (lambda: reestimate_running_stats(Sequential(BatchNorm1d(2)), np.ones((1, 2))), ValueError, "at least 2 rows"),
        (lambda: running_variance_ratios(Sequential(BatchNorm1d(2)), np.ones(())), ValueError, "at least 2 rows"),
        (lambda: variance_shift(0, 1, 1.0), ValueError, "p must be below 1"),
        (lambda: variance_shift(0, 1, -0.1), ValueError, "p must lie in"),
        (lambda: variance_shift(0, [1.0, 0.0], 0.5), ValueError, "var must be positive.*got 0"),
        (lambda: variance_shift(0, np.nan, 0.5), ValueError, "var must be positive.*got nan"),
        (lambda: variance_shift_linear([0], [[1]], [1], 1), ValueError, "p must be below 1"),
        (lambda: variance_shift_linear([0, 0], np.eye(3), np.ones(3), 0.5), ValueError, r"got \(2,\), \(3, 3\)"),
        (lambda: variance_shift_linear([0, 0], np.eye(2), np.ones((1, 1, 2)), 0.5), ValueError, r"and \(1, 1, 2\)"),
        (lambda: variance_shift_linear([0, 0], np.ones((2, 2)), [1, -1], 0.5), ValueError, "w' cov w must be positive"),
    ],
)
def test_bad_input_gets_one_clear_error(call: Callable[[], object], error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        call()


def applied() -> BatchNorm1d:
    layer = BatchNorm1d(2)
    layer(batch(4, 2))
    return layer


# --- re-estimation and diagnosis -----------------------------------------------------------------------------------


def normalised_network(p: float = 0.3, dropout: Any = InvertedDropout) -> Sequential:
    """Return a network with nested parts that has run a few training batches."""
    rng = np.random.default_rng(3)
    block = Sequential(Linear(8, 7, rng), BatchNorm1d(7), ReLU(), dropout(p, seed=2))
    net = Sequential(Linear(5, 8, rng), BatchNorm1d(8), ReLU(), dropout(p, seed=1), block, Linear(7, 4, rng))
    for seed in range(30):
        net(batch(50, 5, seed))
    return net


def norms(net: Sequential) -> list[BatchNorm1d]:
    return [net.layers[1], net.layers[4].layers[1]]  # type: ignore[list-item, attr-defined]


def inputs_of_norms(net: Sequential, x: Array) -> list[Array]:
    """Return what the two BatchNorms receive in evaluation mode, step by step by hand."""
    one, bn, relu, drop, block, _ = (layer for layer in copy.deepcopy(net).eval().layers)
    first = one.forward(x)
    second = block.layers[0].forward(drop.forward(relu.forward(bn.forward(first))))  # type: ignore[attr-defined]
    return [first, second]


@pytest.mark.parametrize("dropout", [InvertedDropout, StandardDropout])
@pytest.mark.parametrize("p", [0.0, 0.3, 0.8])
def test_reestimation_stores_what_each_layer_sees_in_evaluation(p: float, dropout: Any) -> None:
    net, x = normalised_network(p, dropout), batch(200)
    reestimate_running_stats(net, x)
    # After the pass: the second layer's input already passes through the first one's new statistics.
    for layer, inputs in zip(norms(net), inputs_of_norms(net, x), strict=True):
        np.testing.assert_allclose(layer.running_mean, inputs.mean(axis=0), rtol=1e-12)
        np.testing.assert_allclose(layer.running_var, inputs.var(axis=0, ddof=1), rtol=1e-12)
    for ratio in running_variance_ratios(net, x):
        np.testing.assert_allclose(ratio, 1, rtol=1e-12)
    before = [layer.running_var.copy() for layer in norms(net)]
    reestimate_running_stats(net, x)
    for layer, var in zip(norms(net), before, strict=True):
        np.testing.assert_allclose(layer.running_var, var, rtol=1e-12)


def test_reestimation_of_the_first_layer_is_one_pytorch_pass_with_momentum_1() -> None:
    torch = pytest.importorskip("torch")
    net, x = normalised_network(), batch(60)
    module = torch.nn.BatchNorm1d(8, momentum=1.0, dtype=torch.float64)
    module(torch.tensor(net.layers[0].forward(x)))
    reestimate_running_stats(net, x)
    np.testing.assert_allclose(norms(net)[0].running_var, module.running_var.numpy(), rtol=1e-12)
    np.testing.assert_allclose(norms(net)[0].running_mean, module.running_mean.numpy(), rtol=1e-12)


def test_ratios_are_running_over_evaluation_variance() -> None:
    net, x = normalised_network(0.8), batch(200)
    ratios = running_variance_ratios(net, x)
    for ratio, layer, inputs in zip(ratios, norms(net), inputs_of_norms(net, x), strict=True):
        np.testing.assert_allclose(ratio, layer.running_var / inputs.var(axis=0, ddof=1), rtol=1e-12)
    assert np.median(ratios[0]) < 1.5
    assert np.median(ratios[1]) > 2, "dropout stands before the second layer only"


def test_a_constant_feature_gives_inf_without_a_warning() -> None:
    ratios = running_variance_ratios(Sequential(BatchNorm1d(2)), np.c_[np.ones(4), np.arange(4.0)])
    assert np.isinf(ratios[0][0])
    assert np.isfinite(ratios[0][1])


@pytest.mark.parametrize("function", [reestimate_running_stats, running_variance_ratios])
@pytest.mark.parametrize("modes", ["train", "eval", "mixed"])
def test_modes_streams_and_weights_stay(function: Any, modes: str) -> None:
    net, x = normalised_network(), batch(20)
    if modes == "eval":
        net.eval()
    elif modes == "mixed":
        norms(net)[1].eval()
        net.layers[3].eval()
    twin = copy.deepcopy(net)
    function(net, x)
    for mine, other in zip(net.parameters(), twin.parameters(), strict=True):
        np.testing.assert_array_equal(mine.value, other.value)
    for mine, other in zip(norms(net), norms(twin), strict=True):
        assert mine.training == other.training
        if function is running_variance_ratios:
            np.testing.assert_array_equal(mine.running_var, other.running_var)
        mine.running_mean, mine.running_var = other.running_mean, other.running_var
    np.testing.assert_array_equal(net(x), twin(x), err_msg="the next masks are drawn as if nothing had happened")


def test_modes_are_restored_after_an_error() -> None:
    net = normalised_network()
    with pytest.raises(ValueError, match="matmul"):
        reestimate_running_stats(net, np.ones((3, 4)))
    assert norms(net)[0].training
    assert norms(net)[1].training


def test_networks_without_batchnorm_are_fine() -> None:
    net = Sequential(Linear(5, 2, np.random.default_rng(0)), ReLU())
    reestimate_running_stats(net, batch())
    assert running_variance_ratios(net, batch()) == []


# --- closed forms --------------------------------------------------------------------------------------------------


def test_shift_broadcasts_and_gives_numbers_for_numbers() -> None:
    assert variance_shift(0.0, 1.0, 0.2) == 1.25
    assert isinstance(variance_shift(0.0, 1.0, 0.2), float)
    np.testing.assert_allclose(variance_shift([0.0, 2.0], 1.0, 0.5), [2.0, 6.0])
    assert variance_shift(3.0, 2.0, 0.0) == 1.0
    assert isinstance(variance_shift_linear([0.0], [[1.0]], [2.0], 0.2), float)


@pytest.mark.parametrize("p", [0.1, 0.3, 0.8])
def test_one_feature_through_a_weight_is_the_feature(p: float) -> None:
    assert variance_shift_linear([3.0], [[2.0]], [-0.7], p) == pytest.approx(variance_shift(3.0, 2.0, p), rel=1e-14)


@pytest.mark.parametrize("p", [0.0, 0.1, 0.3, 0.8])
@pytest.mark.parametrize("scale", ["inverted", "standard"])
def test_linear_shift_equals_the_average_over_all_masks_and_rows(p: float, scale: str) -> None:
    """Exact: six correlated pixels, every row of the digits, every one of 64 masks; the oracle has no formula in it."""
    rows = digits().train.x[:, PIXELS]
    w = np.random.default_rng(0).standard_normal((3, 6))
    masks = np.array(list(np.ndindex(*[2] * 6)))
    chance = np.prod(np.where(masks, 1 - p, p), axis=1)
    factor = 1 / (1 - p) if scale == "inverted" else 1.0
    outputs = factor * np.einsum("kj,nj,oj->kno", masks, rows, w)
    mean = np.einsum("k,kno->o", chance, outputs) / len(rows)
    training = np.einsum("k,kno->o", chance, (outputs - mean) ** 2) / len(rows)
    evaluation = ((1.0 if scale == "inverted" else 1 - p) * rows @ w.T).var(axis=0)
    found = variance_shift_linear(rows.mean(axis=0), np.cov(rows.T, bias=True), w, p)
    np.testing.assert_allclose(found, training / evaluation, rtol=1e-12)


# --- closed forms against simulation -------------------------------------------------------------------------------


class Law(NamedTuple):
    """An input law: its draws, its raw moments E[x^k] for k = 1 to 4, and a bound on |x|."""

    draw: Callable[[np.random.Generator, int], Array]
    moments: tuple[float, float, float, float]
    bound: float


def _normal(rng: np.random.Generator, n: int) -> Array:
    return np.clip(rng.standard_normal(n), -12, 12)


def _pixels() -> Law:
    values = digits().train.x.ravel()
    first, second, third, fourth = (float(np.mean(values**k)) for k in (1, 2, 3, 4))
    return Law(lambda rng, n: values[rng.integers(values.size, size=n)], (first, second, third, fourth), 1.0)


LAWS: dict[str, Law] = {
    "N(0,1)": Law(_normal, (0, 1, 0, 3), 12),
    "N(2,1)": Law(lambda rng, n: 2 + _normal(rng, n), (2, 5, 14, 43), 14),
    "ReLU of N(0,1)": Law(
        lambda rng, n: np.maximum(_normal(rng, n), 0), (1 / np.sqrt(2 * np.pi), 0.5, np.sqrt(2 / np.pi), 1.5), 12
    ),
    "uniform(0,1)": Law(lambda rng, n: rng.random(n), (1 / 2, 1 / 3, 1 / 4, 1 / 5), 1),
    "pixels of the digits": _pixels(),
}
DROPS = (0.1, 0.3, 0.5, 0.8)
N = 2_000_000

WRONG: dict[str, Callable[[float, float, float], float]] = {
    "without the mean term": lambda mean, var, p: 1 / (1 - p),
    "squared q": lambda mean, var, p: 1 / (1 - p) ** 2 + mean**2 / var * p / (1 - p) ** 2,
    "1/p": lambda mean, var, p: 1 / p + mean**2 / var * (1 - p) / p,
}


class Comparison(NamedTuple):
    """What the sum of n terms (y - mu)^2 is held against: Var_eval of one draw, variance and bound of one term."""

    mean: float
    evaluation: float
    term_variance: float
    term_bound: float


def comparison(law: Law, p: float) -> Comparison:
    """Return the exact moments for inverted dropout: E[y^k] = E[x^k] / q^(k-1)."""
    q = 1 - p
    mu = law.moments[0]
    y1, y2, y3, y4 = (moment / q**k for k, moment in enumerate(law.moments))
    second = y2 - mu**2
    fourth = y4 - 4 * mu * y3 + 6 * mu**2 * y2 - 3 * mu**4
    assert y1 == mu
    return Comparison(mu, law.moments[1] - mu**2, fourth - second**2, (law.bound / q + abs(mu)) ** 2)


def total(law: Law, p: float, seed: int) -> float:
    x = law.draw(np.random.default_rng(seed), N)
    y = InvertedDropout(p, seed)(x)
    return float(np.sum((y - law.moments[0]) ** 2))


@pytest.mark.claim("dropout-shifts-variance")
@pytest.mark.statistical(comparisons=20)
@pytest.mark.parametrize("p", DROPS)
@pytest.mark.parametrize("name", LAWS)
def test_shift_agrees_with_simulation_for_five_laws(name: str, p: float, seed: int, alarm: Alarm) -> None:
    law = LAWS[name]
    mean, evaluation, term_variance, term_bound = comparison(law, p)
    expected = N * evaluation * variance_shift(mean, evaluation, p)
    alarm.total(total(law, p, seed), expected, N * term_variance, term_bound, f"{name} at p = {p}")


@pytest.mark.claim("dropout-shifts-variance")
@pytest.mark.statistical(comparisons=20)
@pytest.mark.parametrize("p", DROPS)
@pytest.mark.parametrize("name", LAWS)
def test_shift_is_the_same_for_standard_dropout(name: str, p: float, seed: int, alarm: Alarm) -> None:
    """Standard dropout multiplies both y and its evaluation by q, and so leaves the ratio."""
    law, q = LAWS[name], 1 - p
    mean, evaluation, term_variance, term_bound = comparison(law, p)
    y = StandardDropout(p, seed)(law.draw(np.random.default_rng(seed), N))
    seen = float(np.sum((y - q * mean) ** 2))
    expected = N * q**2 * evaluation * variance_shift(mean, evaluation, p)
    alarm.total(seen, expected, N * q**4 * term_variance, q**2 * term_bound, f"{name} at p = {p}")


def differs(wrong: str, law: Law, p: float) -> bool:
    """Say whether the formula is another one: 1/p is not at p = .5, the mean term vanishes with the mean."""
    return not (wrong == "1/p" and p == 0.5) and not (wrong == "without the mean term" and law.moments[0] == 0)


CASES = [(w, name, p) for w in WRONG for name, law in LAWS.items() for p in DROPS if differs(w, law, p)]


def margin(wrong: str, name: str, p: float, confidence: float = 0.99) -> float:
    """Return how far the wrong expectation lies beyond what its rejection with this confidence needs, as a factor."""
    mean, evaluation, term_variance, term_bound = comparison(LAWS[name], p)
    gap = abs(WRONG[wrong](mean, evaluation, p) - variance_shift(mean, evaluation, p)) * N * evaluation
    slack = 1e-6 * N * evaluation * (1 + WRONG[wrong](mean, evaluation, p)) + 1e-6 * term_bound
    needed = sum(bernstein(N * term_variance, term_bound, rate) for rate in (RATE, 1 - confidence))
    return float(gap / (needed + slack))


@pytest.mark.parametrize(("wrong", "name", "p"), CASES)
def test_wrong_formulas_are_rejected_with_power_99(wrong: str, name: str, p: float) -> None:
    """Proved by Bernstein's inequality, no draw needed; see the docstring of this file."""
    assert margin(wrong, name, p) > 1


def fires(wrong: str, name: str, p: float, seed: int) -> bool:
    law = LAWS[name]
    mean, evaluation, term_variance, term_bound = comparison(law, p)
    try:
        expected = N * evaluation * WRONG[wrong](mean, evaluation, p)
        Alarm(1).total(total(law, p, seed), expected, N * term_variance, term_bound, wrong)
    except AssertionError:
        return True
    return False


@pytest.mark.parametrize(("wrong", "name", "p"), CASES)
def test_wrong_formulas_are_rejected_here(wrong: str, name: str, p: float, seed: int) -> None:
    assert fires(wrong, name, p, seed)


@pytest.mark.long
@pytest.mark.parametrize("wrong", WRONG)
def test_power_over_many_seeds_where_it_is_weakest(wrong: str) -> None:
    """No miss in 500 seeds shows a power of at least .99 at 99 % confidence."""
    count = 500
    assert shown_power(count) >= 0.99
    _, name, p = min((case for case in CASES if case[0] == wrong), key=lambda case: margin(*case))
    assert all(fires(wrong, name, p, seed) for seed in seeds(count))


# --- through a linear layer: six correlated pixels of the digits, rows drawn with replacement -----------------------

PIXELS = [26, 27, 28, 34, 35, 36]
WEIGHTS = {
    "sum": np.ones(6),
    "upper row against lower": np.r_[np.ones(3), -np.ones(3)],
    "random": np.random.default_rng(5).standard_normal(6),
}


def linear_comparison(x: Array, w: Array, p: float) -> Comparison:
    """Return exact moments of (s - E s)^2 for s = w'(m * x) / q with a row x of the data, each equally likely.

    Given the row, s is a sum of independent terms a m with a = w x / q; its third and fourth central moments follow
    from the cumulants of m: q p, q p (p - q) and q p (1 - 6 q p).
    """
    q = 1 - p
    a = w * x / q
    offset = x @ w - np.mean(x @ w)
    second = q * p * np.sum(a**2, axis=1)
    third = q * p * (p - q) * np.sum(a**3, axis=1)
    fourth = q * p * (1 - 6 * q * p) * np.sum(a**4, axis=1) + 3 * second**2
    square = np.mean(offset**2 + second)
    power4 = np.mean(offset**4 + 6 * offset**2 * second + 4 * offset * third + fourth)
    bound = np.max(np.maximum(a, 0).sum(axis=1)) + np.max(np.maximum(-a, 0).sum(axis=1)) + abs(np.mean(x @ w))
    return Comparison(float(np.mean(x @ w)), float(np.var(x @ w)), float(power4 - square**2), float(bound**2))


LINEAR_WRONG: dict[str, Callable[[Array, Array, Array, float], float]] = {
    "without the mean term": lambda mean, cov, w, p: 1 + p / (1 - p) * (w**2 @ np.diag(cov)) / (w @ cov @ w),
    "squared q": lambda mean, cov, w, p: 1 + p / (1 - p) ** 2 * (w**2 @ (np.diag(cov) + mean**2)) / (w @ cov @ w),
    "1/p": lambda mean, cov, w, p: 1 + (1 - p) / p * (w**2 @ (np.diag(cov) + mean**2)) / (w @ cov @ w),
    "as if uncorrelated": lambda mean, cov, w, p: (
        1 + p / (1 - p) * (w**2 @ (np.diag(cov) + mean**2)) / (w**2 @ np.diag(cov))
    ),
}


def linear_total(x: Array, w: Array, mean: float, p: float, seed: int) -> float:
    rng, result = np.random.default_rng(seed), 0.0
    layer = InvertedDropout(p, seed)
    for _ in range(4):
        s = layer(x[rng.integers(len(x), size=N // 4)]) @ w
        result += float(np.sum((s - mean) ** 2))
    return result


@pytest.mark.claim("shift-through-linear")
@pytest.mark.statistical(comparisons=12)
@pytest.mark.parametrize("p", DROPS)
@pytest.mark.parametrize("name", WEIGHTS)
def test_linear_shift_agrees_with_simulation_and_wrong_ones_do_not(
    name: str, p: float, seed: int, alarm: Alarm
) -> None:
    x, w = digits().train.x[:, PIXELS], WEIGHTS[name]
    mu, cov = x.mean(axis=0), np.cov(x.T, bias=True)
    mean, evaluation, term_variance, term_bound = linear_comparison(x, w, p)
    seen, right = linear_total(x, w, mean, p, seed), variance_shift_linear(mu, cov, w, p)
    scale = N * evaluation
    alarm.total(seen, scale * right, N * term_variance, term_bound, f"{name} at p = {p}")
    needed = sum(bernstein(N * term_variance, term_bound, rate) for rate in (RATE, 0.01))
    for wrong, formula in LINEAR_WRONG.items():
        if wrong == "1/p" and p == 0.5:
            assert formula(mu, cov, w, p) == pytest.approx(right, rel=1e-12)
            continue
        expected = formula(mu, cov, w, p)
        assert abs(expected - right) * scale > 1.001 * needed, f"the power against {wrong!r} is not proved to be .99"
        with pytest.raises(AssertionError, match="expected"):
            Alarm(1).total(seen, scale * expected, N * term_variance, term_bound, wrong)
