"""The exercises of the chapter "uncertainty": right answers pass, wrong ones get the hint that is meant for them.

The answers to `monte_carlo` below average 2,000 passes; that a right one is refused has a probability far below 1e-9,
as its 120 entries, each with a standard error below .019, would have to be off by .03 on average.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from dropoutlib.batchnorm import BatchNorm1d
from dropoutlib.checks import check
from dropoutlib.layers import InvertedDropout
from dropoutlib.network import Sequential, softmax
from dropoutlib.uncertainty import entropy, mc_predict, nwgm
from tests.dropoutlib.checking import hinted, passed, rejected

INFORMATION, INTERVAL, UPDATE, MONTE_CARLO = (f"uncertainty.{i}" for i in (1, 2, 3, 4))
Array = np.ndarray[Any, Any]


# 1


def plain_entropy(p: Array) -> Array:
    result: Array = -(p * np.log(np.maximum(p, 1e-300))).sum(axis=-1)
    return result


def information(passes: Array) -> Array:
    result: Array = plain_entropy(passes.mean(axis=0)) - plain_entropy(passes).mean(axis=0)
    return result


def by_divergence(passes: Array) -> Array:
    """Return the mean Kullback-Leibler divergence of the passes from their mean."""
    mean = passes.mean(axis=0)
    with np.errstate(divide="ignore", invalid="ignore"):
        terms = np.where(passes > 0, passes * np.log(passes / mean), 0)
    result: Array = terms.sum(axis=-1).mean(axis=0)
    return result


def with_nan(passes: Array) -> Array:
    def h(p: Array) -> Array:
        result: Array = -(p * np.log(p)).sum(axis=-1)
        return result

    return np.asarray(h(passes.mean(axis=0)) - h(passes).mean(axis=0))


@pytest.mark.parametrize(
    ("answer", "hint"),
    [
        (lambda v: entropy(v.mean(axis=0)), "all the uncertainty"),
        (lambda v: entropy(v).mean(axis=0), "the part on which they agree"),
        (lambda v: -information(v), "the other way round"),
        (lambda v: information(v) / np.log(2), "in bits"),
        (lambda v: v.var(axis=0).sum(axis=-1), "on another scale"),
        (lambda v: entropy(nwgm(v)) - entropy(v).mean(axis=0), "average the logarithms"),
        (lambda v: entropy(v.mean(axis=0)) - entropy(v).sum(axis=0), "Take away their mean"),
        (lambda v: information(v) + 1, "H(mean of the passes)"),
        (with_nan, "0 log 0"),
    ],
)
def test_hints_on_the_information(answer: object, hint: str) -> None:
    hinted(INFORMATION, answer, hint)


@pytest.mark.parametrize(
    ("answer", "part"),
    [
        (lambda v: information(v).mean(), "shape (), expected (4,)"),
        (lambda v: information(v.transpose(1, 0, 2)), "expected (4,)"),
        (lambda v: "none", "expected an array"),
    ],
)
def test_other_shapes_of_information(answer: object, part: str) -> None:
    rejected(INFORMATION, answer, part)


# 2


def interval(half: Callable[[Array, float], Any], center: Callable[[Array], Any] = lambda v: v.mean(axis=0)) -> Any:
    """Return an answer with its half width to be spoiled."""
    return lambda passes, noise: (center(passes) - half(passes, noise), center(passes) + half(passes, noise))


@pytest.mark.parametrize(
    ("answer", "hint"),
    [
        (interval(lambda v, s: 1.96 * v.std(axis=0)), "You leave the noise out"),
        (interval(lambda v, s: 1.96 * v.std(axis=0) / np.sqrt(len(v))), "shrinks with every pass"),
        (interval(lambda v, s: 1.96 * np.sqrt(v.var(axis=0) / len(v) + s)), "Do not divide the spread"),
        (interval(lambda v, s: 1.96 * (v.std(axis=0) + np.sqrt(s))), "variances add"),
        (interval(lambda v, s: 1.96 * np.sqrt(v.var(axis=0) + s**2)), "You square it again"),
        (interval(lambda v, s: 1.96 * (v.var(axis=0) + s)), "That is the variance"),
        (interval(lambda v, s: np.full(v.shape[1], 1.96 * np.sqrt(s))), "Each row has its own"),
        (interval(lambda v, s: np.sqrt(v.var(axis=0) + s)), "one standard deviation"),
        (lambda v, s: np.quantile(v, [0.025, 0.975], axis=0), "Quantiles of the passes"),
        (lambda v, s: interval(lambda v, s: 1.96 * np.sqrt(v.var(axis=0) + s))(v, s)[::-1], "lower bound comes first"),
        (interval(lambda v, s: 3 * np.sqrt(v.var(axis=0) + s)), "plus the noise variance"),
    ],
)
def test_hints_on_the_interval(answer: object, hint: str) -> None:
    hinted(INTERVAL, answer, hint)


# 3


def update(count: int, mean: float, squares: float, x: float) -> tuple[float, float, float]:
    new = mean + (x - mean) / (count + 1)
    return count + 1, new, squares + (x - mean) * (x - new)


def by_chan(count: int, mean: float, squares: float, x: float) -> list[float]:
    return [count + 1, (count * mean + x) / (count + 1), squares + (x - mean) ** 2 * count / (count + 1)]


def by_squares(count: int, mean: float, squares: float, x: float) -> tuple[float, float, float]:
    """Add up x^2, which loses all digits far from 0."""
    total = squares + count * mean**2 + x**2
    new = (count * mean + x) / (count + 1)
    return count + 1, new, total - (count + 1) * new**2


def spoiled(part: Callable[[float, float, float], float]) -> Callable[..., tuple[float, float, float]]:
    """Return an update that adds part(x, old mean, new mean) to the squares."""

    def answer(count: int, mean: float, squares: float, x: float) -> tuple[float, float, float]:
        n, new, _ = update(count, mean, squares, x)
        return n, new, squares + part(x, mean, new)

    return answer


@pytest.mark.parametrize(
    ("answer", "hint"),
    [
        (by_squares, "no digits left"),
        (spoiled(lambda x, old, new: (x - old) ** 2), "old mean twice"),
        (spoiled(lambda x, old, new: (x - new) ** 2), "new mean twice"),
        (spoiled(lambda x, old, new: 0.0), "squares does not change"),
        (spoiled(lambda x, old, new: abs(x) + 1), "squares grows by"),
        (lambda c, m, s, x: (c, *update(c, m, s, x)[1:]), "One more number"),
        (lambda c, m, s, x: (c + 1, m + (x - m) / max(c, 1), s), "Divide by the new count"),
        (lambda c, m, s, x: (c + 1, m, s), "The mean moves towards x"),
        (lambda c, m, s, x: (c + 1, update(c, m, s, x)[1], update(c, m, s, x)[2] / (c + 1)), "not yet divided"),
    ],
)
def test_hints_on_the_update(answer: object, hint: str) -> None:
    hinted(UPDATE, answer, hint)


def test_an_update_of_two_things() -> None:
    rejected(UPDATE, lambda c, m, s, x: (c, m), "expected (count, mean, squares)")


# 4


def monte_carlo(network: Sequential, x: Array, passes: int) -> Array:
    dropouts = [layer for layer in network.layers if isinstance(layer, InvertedDropout)]
    for layer in dropouts:
        layer.train()
    mean = sum(softmax(network(x)) for _ in range(passes)) / passes
    for layer in dropouts:
        layer.eval()
    return np.asarray(mean)


def by_library(network: Sequential, x: Array, passes: int) -> Array:
    other = copy.deepcopy(network)
    for layer in other.layers:
        if isinstance(layer, InvertedDropout):
            layer.train()
    return mc_predict(other, x, passes, "logits").mean


def by_one_large_batch(network: Sequential, x: Array, passes: int) -> Array:
    probs = monte_carlo(network, np.tile(x, (passes, 1)), 1)
    return np.asarray(probs.reshape(passes, len(x), -1).mean(axis=0))


def by_train(network: Sequential, x: Array, passes: int) -> Array:
    network.train()
    mean = sum(softmax(network(x)) for _ in range(passes)) / passes
    network.eval()
    return np.asarray(mean)


def by_train_of_a_copy(network: Sequential, x: Array, passes: int) -> Array:
    return by_train(copy.deepcopy(network), x, passes)


def restoring_statistics(network: Sequential, x: Array, passes: int) -> Array:
    norms = [layer for layer in network.layers if isinstance(layer, BatchNorm1d)]
    kept = [(norm.running_mean.copy(), norm.running_var.copy()) for norm in norms]
    mean = by_train(network, x, passes)
    for norm, (m, v) in zip(norms, kept, strict=True):
        norm.running_mean, norm.running_var = m, v
    return mean


def leaves_it_on(network: Sequential, x: Array, passes: int) -> Array:
    for layer in network.layers:
        if isinstance(layer, InvertedDropout):
            layer.train()
    return np.asarray(sum(softmax(network(x)) for _ in range(passes)) / passes)


def of_logits(network: Sequential, x: Array, passes: int, last: Callable[[Array], Array] = softmax) -> Array:
    other = copy.deepcopy(network)
    for layer in other.layers:
        if isinstance(layer, InvertedDropout):
            layer.train()
    return last(np.asarray(sum(other(x) for _ in range(passes)) / passes))


@pytest.mark.parametrize(
    ("answer", "hint"),
    [
        (by_train, "puts BatchNorm into training mode too"),
        (by_train_of_a_copy, "normalises by the batch"),
        (restoring_statistics, "normalises by the batch"),
        (leaves_it_on, "Put every layer back"),
        (of_logits, "average the logits"),
        (lambda n, x, t: of_logits(n, x, t, lambda z: z), "returns logits"),
        (lambda n, x, t: softmax(n(x)), "dropout off"),
        (lambda n, x, t: monte_carlo(n, x, 1), "In each pass"),
        (lambda n, x, t: monte_carlo(n, x, 2000), "as many passes as the caller says"),
    ],
)
def test_hints_on_monte_carlo(answer: object, hint: str) -> None:
    hinted(MONTE_CARLO, answer, hint)


# Right answers.

RIGHT: dict[str, list[Any]] = {
    INFORMATION: [information, by_divergence, lambda v: list(information(v))],
    INTERVAL: [
        interval(lambda v, s: 1.96 * np.sqrt(v.var(axis=0) + s)),
        interval(lambda v, s: 1.96 * np.sqrt(v.var(axis=0, ddof=1) + s)),
        interval(lambda v, s: 1.959964 * np.sqrt(v.var(axis=0) + s)),
    ],
    UPDATE: [update, by_chan],
    MONTE_CARLO: [monte_carlo, by_library, by_one_large_batch],
}


@pytest.mark.parametrize(("exercise", "answer"), [(name, answer) for name in RIGHT for answer in RIGHT[name]])
def test_right_answers_pass_and_the_verdict_repeats(exercise: str, answer: object) -> None:
    for seed in range(2 if exercise == MONTE_CARLO else 30):
        passed(exercise, answer, seed)
    if exercise != MONTE_CARLO:
        assert check(exercise, answer) == check(exercise, answer)


@pytest.mark.long
def test_right_monte_carlo_passes_and_means_of_logits_fail_under_many_seeds() -> None:
    for seed in range(10):
        passed(MONTE_CARLO, monte_carlo, seed)
        assert not check(MONTE_CARLO, of_logits, seed=seed)
        assert not check(MONTE_CARLO, by_train_of_a_copy, seed=seed)
