"""The exercises of the chapter "inference": right answers pass, wrong ones get the hint that is meant for them.

The answers to `diagnose` below average 100,000 elements or more; the ratio of two such means is off by 7 % or more with
a probability far below 1e-9 at p <= 0.7.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from dropoutlib.checks import check
from dropoutlib.checks.inference import Layer
from dropoutlib.network import softmax
from tests.dropoutlib.checking import hinted, passed

PREDICT, RATIO, DIAGNOSE = (f"inference.{i}" for i in (1, 2, 3))
FACTORS: dict[str, Callable[[float], float]] = {
    "1/p": lambda p: p / (1 - p),
    "scaled as well": lambda p: 1 - p,
    "forgotten": lambda p: 1 / (1 - p),
    "left on": lambda p: 1.0,
}
Weights = list[np.ndarray]


# 1


def network(
    unit: Callable[[np.ndarray], np.ndarray] = lambda z: np.maximum(z, 0),
    last: Callable[[np.ndarray], np.ndarray] = softmax,
    bias: float = 1.0,
) -> Callable[[np.ndarray, Weights], np.ndarray]:
    """Return a prediction with its parts to be spoiled."""
    return lambda x, w: last(unit(x @ w[0] + w[1]) @ w[2] + bias * w[3])


def by_matrix(x: np.ndarray, weights: Weights) -> np.ndarray:
    W1, b1, W2, b2 = weights
    h = x @ W1 + b1
    h[h < 0] = 0
    z = h @ W2 + b2
    e = np.exp(z - z.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


def by_loop(x: np.ndarray, weights: Weights) -> np.ndarray:
    rows = []
    for row in x:
        h = [max(0.0, float(row @ column + b)) for column, b in zip(weights[0].T, weights[1], strict=True)]
        z = np.array([np.dot(h, column) + b for column, b in zip(weights[2].T, weights[3], strict=True)])
        rows.append(np.exp(z - np.logaddexp.reduce(z)))
    return np.array(rows)


def overflowing(z: np.ndarray) -> np.ndarray:
    result: np.ndarray = np.exp(z) / np.exp(z).sum(axis=1, keepdims=True)
    return result


RNG = np.random.default_rng(0)


def in_place(x: np.ndarray, weights: Weights) -> np.ndarray:
    probs = by_matrix(x, weights)
    weights[2] *= 0.5
    return probs


@pytest.mark.parametrize(
    ("answer", "hint"),
    [
        (network(lambda z: np.maximum(z, 0) * 0.5), "already made up for the loss"),
        (network(lambda z: np.maximum(z, 0) * 2), "belongs to training"),
        (network(lambda z: z), "ends with a ReLU"),
        (network(last=lambda z: z), "These are the logits"),
        (network(bias=0.0), "last bias is missing"),
        (network(last=lambda z: softmax(z.T).T), "wrong axis"),
        (network(lambda z: np.maximum(z, 0) * (RNG.random(z.shape) >= 0.5) * 2), "Two calls gave two results"),
        (network(np.tanh), "What is left of the network"),
        (network(last=overflowing), "Subtract each row's largest"),
        (in_place, "work on copies"),
    ],
)
def test_prediction_hints(answer: object, hint: str) -> None:
    hinted(PREDICT, answer, hint)


# 2


def ratios(**changed: Callable[[float], float]) -> Callable[[float, str], float]:
    """Return the right ratios but for those of one mistake."""
    names = {"one_over_p": "1/p", "as_well": "scaled as well", "forgotten": "forgotten", "left_on": "left on"}
    rules = FACTORS | {names[key]: rule for key, rule in changed.items()}
    return lambda p, mistake: rules[mistake](p)


def by_sampling(p: float, mistake: str) -> float:
    """Average over the two values of one mask element."""
    kept = {"1/p": 1 / p, "forgotten": 1.0}.get(mistake, 1 / (1 - p))
    training = np.average([0.0, kept], weights=[p, 1 - p])
    return float({"scaled as well": 1 - p}.get(mistake, 1.0) / training)


@pytest.mark.parametrize(
    ("answer", "parts"),
    [
        (
            ratios(one_over_p=lambda p: (1 - p) / p),
            ['output_ratio(0.2, "1/p") returned 4, expected 0.25', "training over"],
        ),
        (ratios(one_over_p=lambda p: p), ["how often is it kept"]),
        (ratios(one_over_p=lambda p: 1 / p), ["the dropped ones too"]),
        (ratios(one_over_p=lambda p: 1.0), ["mask and factor 1/p together"]),
        (ratios(as_well=lambda p: 1 / (1 - p)), ["training over inference"]),
        (ratios(as_well=lambda p: (1 - p) ** 2), ["one factor only"]),
        (ratios(as_well=lambda p: 1.0), ["multiplies x once more"]),
        (ratios(as_well=lambda p: p), ["the share that is kept"]),
        (ratios(forgotten=lambda p: 1 - p), ["training over inference"]),
        (ratios(forgotten=lambda p: 1 / p), ["how many are left"]),
        (ratios(forgotten=lambda p: 1.0), ["at inference none is"]),
        (ratios(left_on=lambda p: 1 - p), ["scaled up as in training"]),
        (ratios(left_on=lambda p: 1 / (1 - p)), ["have the mean 1"]),
        (ratios(left_on=lambda p: 0.0), ["kept and dropped ones"]),
        (ratios(forgotten=lambda p: 1 + p), ["take its mean over the masks"]),
    ],
)
def test_ratio_hints(answer: object, parts: list[str]) -> None:
    hinted(RATIO, answer, *parts)


# 3


def by_means(layer: Layer, p: float) -> str:
    x = np.ones((1000, 500))
    if not np.array_equal(layer(x, False), layer(x, False)):
        return "left on"
    ratio = layer(x, False).mean() / layer(x, True).mean()
    if abs(ratio - 1) < 0.05:
        return "right"
    names = {"1/p": p / (1 - p), "scaled as well": 1 - p, "forgotten": 1 / (1 - p)}
    return min(names, key=lambda name: abs(np.log(ratio / names[name])))


def by_values(layer: Layer, p: float) -> str:
    x = np.full(100_000, 3.0)
    training, inference = layer(x, True) / 3, layer(x, False) / 3
    if inference.min() == 0:
        return "left on"
    scale, factor = training.max(), inference.max()
    if np.isclose(scale * (1 - p), factor):
        return "right"
    if not np.isclose(factor, 1):
        return "scaled as well"
    return "forgotten" if np.isclose(scale, 1) else "1/p"


def spoiled(rule: Callable[[Layer, float, str], str]) -> Callable[[Layer, float], str]:
    """Return a right answer whose verdict goes through `rule`."""
    return lambda layer, p: rule(layer, p, by_means(layer, p))


def training_factor(layer: Layer, p: float) -> float:
    return float(layer(np.ones(100_000), True).max())


def inference_only(layer: Layer, p: float) -> str:
    y = layer(np.ones(100_000), False)
    if y.min() == 0:
        return "left on"
    return "right" if np.isclose(y.max(), 1) else "scaled as well"


@pytest.mark.parametrize(
    ("answer", "parts"),
    [
        (inference_only, ["returned 'right' for the mistake '1/p'", "looks perfect"]),
        (
            spoiled(lambda layer, p, v: "1/p" if training_factor(layer, p) == 1 / p else v),
            ["diagnose(layer, 0.5)", "At p = 0.5"],
        ),
        (spoiled(lambda layer, p, v: "right" if v == "left on" else v), ["Call it twice"]),
        (
            spoiled(lambda layer, p, v: "forgotten" if v == "right" and training_factor(layer, p) == 1 else v),
            ["for standard dropout, expected 'right'", "Its two means agree"],
        ),
        (spoiled(lambda layer, p, v: "1/p" if v == "forgotten" else v), ["kept elements keep their size"]),
        (spoiled(lambda layer, p, v: "forgotten" if v == "scaled as well" else v), ["a ratio of its own"]),
        (spoiled(lambda layer, p, v: "scaled as well" if v == "right" else v), ["allow a few per cent"]),
    ],
)
def test_diagnosis_hints(answer: object, parts: list[str]) -> None:
    hinted(DIAGNOSE, answer, *parts)


# Right answers.

RIGHT: dict[str, list[Any]] = {
    PREDICT: [network(), by_matrix, by_loop],
    RATIO: [ratios(), by_sampling],
    DIAGNOSE: [by_means, by_values],
}


@pytest.mark.parametrize(("exercise", "answer"), [(name, answer) for name in RIGHT for answer in RIGHT[name]])
def test_right_answers_pass_and_the_verdict_repeats(exercise: str, answer: object) -> None:
    for seed in range(3 if exercise == DIAGNOSE else 50):
        passed(exercise, answer, seed)
    assert check(exercise, answer) == check(exercise, answer)


@pytest.mark.long
@pytest.mark.parametrize("answer", RIGHT[DIAGNOSE])
def test_right_diagnoses_pass_under_many_seeds(answer: object) -> None:
    for seed in range(20):
        passed(DIAGNOSE, answer, seed)
