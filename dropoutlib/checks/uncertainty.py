"""The exercises of the chapter "uncertainty"."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from dropoutlib.batchnorm import BatchNorm1d
from dropoutlib.checks.exercises import Answer, Mistake, exercise, number, short
from dropoutlib.layers import InvertedDropout
from dropoutlib.network import Layer, Linear, ReLU, Sequential, softmax
from dropoutlib.uncertainty import entropy, nwgm

Array = npt.NDArray[Any]


def _array(value: object, text: str, shape: tuple[int, ...]) -> Array:
    """Return `value` as an array of numbers of a shape, or say what it is."""
    try:
        found = np.asarray(value, dtype=np.float64)
    except (TypeError, ValueError):
        raise Mistake(f"{text} returned {short(repr(value))}, expected an array of shape {shape}") from None
    if found.shape != shape:
        raise Mistake(f"{text} returned an array of shape {found.shape}, expected {shape}")
    if not np.isfinite(found).all():
        raise Mistake(f"{text} returned {short(repr(value))}, expected finite numbers", "Take 0 log 0 as 0.")
    return found


def _hint(found: Array, wrong: tuple[tuple[Callable[..., Any], str], ...], given: tuple[Any, ...], other: str) -> str:
    """Return the hint of the rule that gives what was found."""
    for rule, hint in wrong:
        with np.errstate(all="ignore"):
            value = np.asarray(rule(*given))
        if value.shape == found.shape and np.allclose(found, value, rtol=1e-6, atol=1e-9):
            return hint
    return other


# --- 1: what passes say --------------------------------------------------------------------------------------------


def _information(passes: Array) -> Array:
    result: Array = entropy(passes.mean(axis=0)) - entropy(passes).mean(axis=0)
    return result


_WRONG_INFORMATION: tuple[tuple[Callable[[Array], Any], str], ...] = (
    (
        lambda passes: entropy(passes.mean(axis=0)),
        "That is the entropy of the mean: all the uncertainty. Take away what each pass has by itself.",
    ),
    (
        lambda passes: entropy(passes).mean(axis=0),
        "That is the mean entropy of the passes, the part on which they agree. It is what you take away.",
    ),
    (
        lambda passes: -_information(passes),
        "The sign is the other way round: the mean of the passes is the more uncertain one.",
    ),
    (
        lambda passes: _information(passes) / np.log(2),
        "You measure in bits. Here it is nats: the natural logarithm.",
    ),
    (
        lambda passes: passes.var(axis=0).sum(axis=-1),
        "That is the variance over passes, summed over classes. It also tells disagreement, on another scale.",
    ),
    (
        lambda passes: entropy(nwgm(passes)) - entropy(passes).mean(axis=0),
        "You average the logarithms. The mean prediction is the mean of the probabilities.",
    ),
    (
        lambda passes: entropy(passes.mean(axis=0)) - entropy(passes).sum(axis=0),
        "You take away the sum of the passes' entropies. Take away their mean.",
    ),
)


@exercise("uncertainty.1")
def information(answer: Answer, seed: int) -> str:
    """Check information(passes): the mutual information of each row, from probabilities of shape (T, n, classes).

    Entropy of the mean prediction less the mean entropy of single passes, in nats.
    """
    rng = np.random.default_rng(seed)
    for shape in ((6, 4, 3), (3, 5, 10)):
        passes = softmax(3 * rng.standard_normal(shape))
        text = f"information(passes of shape {shape})"
        found = _array(answer.call(text, passes, pure=True), text, (shape[1],))
        expected = _information(passes)
        if not np.allclose(found, expected, atol=1e-7):
            hint = _hint(found, _WRONG_INFORMATION, (passes,), "H(mean of the passes) - mean of H(pass).")
            raise Mistake(f"{text} starts with {found[0]:.6g}, expected {expected[0]:.6g}", hint)
    certain = np.eye(3)[[[0, 1], [1, 1], [2, 1]]]
    text = "information(passes with zeros)"
    found = _array(answer.call(text, certain, pure=True), text, (2,))
    if not np.allclose(found, [np.log(3), 0], atol=1e-6):
        raise Mistake(f"{text} returned {found}, expected [log 3, 0]", "Take 0 log 0 as 0.")
    return "The mutual information is right for 3 sets of passes, one with zeros."


# --- 2: an interval for a new observation --------------------------------------------------------------------------


def _interval(passes: Array, noise: float, ddof: int = 0) -> Array:
    half = 1.96 * np.sqrt(passes.var(axis=0, ddof=ddof) + noise)
    return np.stack([passes.mean(axis=0) - half, passes.mean(axis=0) + half])


def _around(half: Callable[[Array, float], Any]) -> Callable[[Array, float], Any]:
    return lambda passes, noise: np.stack([passes.mean(axis=0) + s * 1.96 * half(passes, noise) for s in (-1, 1)])


_WRONG_INTERVALS: tuple[tuple[Callable[[Array, float], Any], str], ...] = (
    (
        _around(lambda passes, noise: passes.std(axis=0)),
        "You leave the noise out. The spread tells where the mean of new observations may lie, not the observations.",
    ),
    (
        _around(lambda passes, noise: passes.std(axis=0) / np.sqrt(len(passes))),
        "That is how exactly the mean of the passes is known; it shrinks with every pass. Spread and noise do not.",
    ),
    (
        _around(lambda passes, noise: np.sqrt(passes.var(axis=0) / len(passes) + noise)),
        "Do not divide the spread by the number of passes: each pass is one network that might be the right one.",
    ),
    (
        _around(lambda passes, noise: passes.std(axis=0) + np.sqrt(noise)),
        "You add standard deviations. Spread and noise are independent, so that variances add.",
    ),
    (
        _around(lambda passes, noise: np.sqrt(passes.var(axis=0) + noise**2)),
        "noise_variance is a variance already. You square it again.",
    ),
    (
        _around(lambda passes, noise: passes.var(axis=0) + noise),
        "That is the variance. The interval reaches 1.96 standard deviations to each side.",
    ),
    (
        _around(lambda passes, noise: np.full(passes.shape[1], np.sqrt(noise))),
        "You leave out the spread of the passes. Each row has its own.",
    ),
    (
        _around(lambda passes, noise: np.sqrt(passes.var(axis=0) + noise) / 1.96),
        "You take one standard deviation. For 95 % it is 1.96 of them.",
    ),
    (
        lambda passes, noise: np.quantile(passes, [0.025, 0.975], axis=0),
        "Quantiles of the passes leave the noise out. The interval is for a new observation.",
    ),
)


@exercise("uncertainty.2")
def interval(answer: Answer, seed: int) -> str:
    """Check interval(passes, noise_variance): (low, high), the 95 % interval of a new observation of each row.

    `passes` has shape (T, n): T predictions of n rows. Both are taken as normal, so that the interval is the mean of
    the passes and 1.96 standard deviations to each side. The divisor of the variance over passes may be T or T - 1.
    """
    rng = np.random.default_rng(seed)
    for noise in (0.3, 2.0):
        passes = rng.normal(0, rng.uniform(0.5, 2, 4), (7, 4)) + rng.normal(0, 3, 4)
        text = f"interval(passes, {noise})"
        found = _array(answer.call(text, passes, noise, pure=True), text, (2, 4))
        close = 1e-3 * float(np.ptp(_interval(passes, noise), axis=0).min())  # 1.96 or 1.959964
        if not any(np.allclose(found, _interval(passes, noise, ddof), atol=close) for ddof in (0, 1)):
            low, high = _interval(passes, noise)[:, 0]
            other = "The variance of a new observation is the variance over passes plus the noise variance."
            if np.allclose(found[::-1], _interval(passes, noise), atol=close):
                other = "The lower bound comes first."
            hint = _hint(found, _WRONG_INTERVALS, (passes, noise), other)
            shown = f"({found[0, 0]:.4g}, {found[1, 0]:.4g})"
            raise Mistake(f"{text} starts with {shown}, expected ({low:.4g}, {high:.4g})", hint)
    return "The intervals are right for 2 noise variances."


# --- 3: without storing the passes ---------------------------------------------------------------------------------

# Each with the numbers that have been seen before; with one number seen, several mistakes look alike.
_STREAMS = (((3.0, 5.0, 10.0), (4.0, -2.0, 9.0)), ((), (1e8 + 4, 1e8 + 7, 1e8 + 13, 1e8 + 16)))


@exercise("uncertainty.3")
def update(answer: Answer, seed: int) -> str:
    """Check update(count, mean, squares, x): the three after one more number x.

    count numbers so far, their mean, and the sum of their squared distances to that mean; all 0 at the beginning.
    """
    for before, stream in _STREAMS:
        for position, x in enumerate(stream):
            state, expected = (_state((*before, *stream[:end])) for end in (position, position + 1))
            count, mean, squares = state
            text = f"update({count:g}, {mean:.10g}, {squares:.10g}, {x:.10g})"
            value = answer.call(text, int(count), mean, squares, x)
            if not isinstance(value, tuple | list | np.ndarray) or len(value) != 3:
                raise Mistake(f"{text} returned {short(repr(value))}, expected (count, mean, squares)")
            found = tuple(number(part, text) for part in value)
            for name, u, v in zip(("count", "mean", "squares"), found, expected, strict=True):
                if not np.isclose(u, v, rtol=1e-9, atol=1e-6):
                    hint = _update_hint(name, state, x, found, expected)
                    raise Mistake(f"{text} returned the {name} {u:.10g}, expected {v:.10g}", hint)
    return "Mean and squares are right after each of 7 numbers, also for numbers near 100 million."


def _state(seen: tuple[float, ...]) -> tuple[float, float, float]:
    values = np.array(seen)
    return (float(values.size), float(values.mean()), float(values.size * values.var())) if seen else (0.0, 0.0, 0.0)


def _update_hint(
    name: str, state: tuple[float, ...], x: float, found: tuple[float, ...], expected: tuple[float, ...]
) -> str:
    count, mean, squares = state
    new = expected[1]
    if name == "count":
        return "One more number has been seen."
    if name == "mean":
        if count and np.isclose(found[1], mean + (x - mean) / count):
            return "Divide by the new count, which has x in it."
        return "The mean moves towards x by the distance divided by the new count."
    if x > 1e6:
        return (
            "The formula is right on paper; near 100 million, x * x has no digits left for the distances. Add "
            "(x - old mean) * (x - new mean)."
        )
    for part, hint in (
        ((x - mean) ** 2, "You take the old mean twice, which adds too much. One distance is to the new mean."),
        ((x - new) ** 2, "You take the new mean twice, which adds too little. One distance is to the old mean."),
        (0.0, "squares does not change. Every number adds (x - old mean) * (x - new mean)."),
    ):
        if np.isclose(found[2], squares + part):
            return hint
    if np.isclose(found[2], expected[2] / expected[0]):
        return "That is the variance. squares is the sum, not yet divided by the count."
    return "squares grows by (x - old mean) * (x - new mean)."


# --- 4: dropout on, and nothing else -------------------------------------------------------------------------------

_PASSES = 2000
_FAR = 0.03  # 30 x 4 entries whose standard errors are below .019 have a mean distance below .015


@exercise("uncertainty.4")
def monte_carlo(answer: Answer, seed: int) -> str:
    """Check monte_carlo(network, x, passes): the mean probabilities of as many passes with dropout on.

    `network` is a Sequential of Linear, BatchNorm1d, ReLU and InvertedDropout in evaluation mode that ends in logits.
    It must be as it was afterwards: every layer in evaluation mode, running statistics untouched.
    """
    network, x = _network(seed)
    text = f"monte_carlo(network, x, {_PASSES})"
    given = copy.deepcopy(network)
    found = _array(answer.call(text, given, x.copy(), _PASSES), text, (len(x), 4))
    for before, after in zip(_norms(network), _norms(given), strict=True):
        if not np.array_equal(before.running_var, after.running_var):
            raise Mistake(
                f"{text} changed the running variance of a BatchNorm1d",
                "network.train() puts BatchNorm into training mode too. Put the InvertedDropout layers alone into it.",
            )
    left = [type(layer).__name__ for layer in given.layers if getattr(layer, "training", False)]
    if left:
        raise Mistake(f"{text} left {left[0]} in training mode", "Put every layer back into evaluation mode.")
    if np.any(found < 0) or not np.allclose(found.sum(axis=1), 1, atol=1e-6):
        raise Mistake(
            f"{text} returned rows that sum to {found[0].sum():.4g}, expected 1", "The network returns logits."
        )
    right, wrong = _answers(network, x)
    if (distance := np.abs(found - right).mean()) > _FAR:
        hint = next(
            (hint for rule, within, hint in wrong if np.abs(found - rule).mean() < within * distance),
            "In each pass: dropout on, BatchNorm in evaluation mode, softmax. Then the mean of the probabilities.",
        )
        raise Mistake(f"{text} is off by {distance:.2g} on average, expected less than {_FAR}", hint)
    other = _array(answer.call("monte_carlo(network, x, 1)", given, x.copy(), 1), text, (len(x), 4))
    if np.abs(other - right).mean() < _FAR:
        raise Mistake("monte_carlo(network, x, 1) is the mean of many passes", "Run as many passes as the caller says.")
    return f"The mean of {_PASSES} passes is right, and the network is as it was."


def _network(seed: int) -> tuple[Sequential, Array]:
    """Return a network in evaluation mode whose statistics are not those of x, and x."""
    rng = np.random.default_rng(seed)
    layers: list[Layer] = [Linear(6, 12, rng), BatchNorm1d(12), ReLU(), InvertedDropout(0.6, rng), Linear(12, 4, rng)]
    network = Sequential(*layers)
    for _ in range(40):
        network(rng.standard_normal((50, 6)))
    network.parameters()[-2].value[:] *= 3  # sharp, so that means of logits and of probabilities lie apart
    return network.eval(), 2 + 3 * rng.standard_normal((30, 6))


def _norms(network: Sequential) -> list[BatchNorm1d]:
    return [layer for layer in network.layers if isinstance(layer, BatchNorm1d)]


def _logits(network: Sequential, x: Array, passes: int, batch_statistics: bool = False) -> Array:
    """Return the logits of passes with dropout on, of a copy."""
    net = copy.deepcopy(network)
    for layer in net.layers:
        if isinstance(layer, InvertedDropout) or (batch_statistics and isinstance(layer, BatchNorm1d)):
            layer.train()
    return np.stack([net(x) for _ in range(passes)])


def _answers(network: Sequential, x: Array) -> tuple[Array, list[tuple[Array, float, str]]]:
    """Return the right prediction, and wrong ones with how near to them counts and their hints.

    With one dropout and a linear layer behind it, the mean of logits is the prediction with dropout off up to chance.
    """
    logits = _logits(network, x, 2 * _PASSES)
    return softmax(logits).mean(axis=0), [
        (
            softmax(network(x)),
            1e-6,
            "That is the prediction with dropout off. Put the InvertedDropout layers into training mode.",
        ),
        (
            softmax(logits.mean(axis=0)),
            1 / 3,
            "You average the logits and take the softmax afterwards. Take the softmax of each pass, then the mean.",
        ),
        (
            softmax(_logits(network, x, _PASSES, batch_statistics=True)).mean(axis=0),
            1 / 3,
            "BatchNorm normalises by the batch here. Put the InvertedDropout layers alone into training mode.",
        ),
    ]
