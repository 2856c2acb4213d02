"""The exercises of the chapter "batch-norm": right answers pass, wrong ones get the hint that is meant for them.

The networks of exercise 4 have medians, over 64 features and 600 rows, that lie more than 30 % off where something is
wrong and within 4 % where nothing is; the verdict is asked for at 10 %.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from dropoutlib.batchnorm import BatchNorm1d, reestimate_running_stats, running_variance_ratios
from dropoutlib.checks import batch_norm, check
from dropoutlib.layers import InvertedDropout
from dropoutlib.network import Sequential
from tests.dropoutlib.checking import hinted, passed

SHIFTED, SHIFT, REESTIMATE, DIAGNOSE = (f"batch-norm.{i}" for i in (1, 2, 3, 4))
ALL = [SHIFTED, SHIFT, REESTIMATE, DIAGNOSE]
Array = np.ndarray[Any, Any]
Pairs = list[tuple[Array, Array]]


# 1


def by_search(names: list[str]) -> list[int]:
    return [i for i, name in enumerate(names) if name == "BatchNorm" and "Dropout" in names[:i]]


def by_flag(names: list[str]) -> list[int]:
    noisy, found = False, []
    for i, name in enumerate(names):
        noisy = noisy or name == "Dropout"
        if noisy and name == "BatchNorm":
            found.append(i)
    return found


def norms(names: list[str]) -> list[int]:
    return [i for i, name in enumerate(names) if name == "BatchNorm"]


@pytest.mark.parametrize(
    ("answer", "hint"),
    [
        (norms, "sees the same inputs in training and in evaluation"),
        (lambda names: [i for i in norms(names) if names[i - 1] == "Dropout"], "let the noise through"),
        (lambda names: [i for i in norms(names) if "Dropout" in names[i:]], "from left to right"),
        (
            lambda names: [i for i in norms(names) if names[i + 1 : i + 3] == ["ReLU", "Dropout"]],
            "which BatchNorm is next",
        ),
        (
            lambda names: [i for i in by_search(names) if names[:i].count("BatchNorm") == names[:i].count("Dropout")],
            "does not take the noise away",
        ),
        (lambda names: by_search(names)[:1], "You stop at the first"),
        (lambda names: [norms(names).index(i) for i in by_search(names)], "places in the list of all layers"),
        (lambda names: [i + 1 for i in by_search(names)], "You count from 1"),
        (lambda names: [], "Go through the layers from the left"),
    ],
)
def test_hints_on_layers(answer: object, hint: str) -> None:
    hinted(SHIFTED, answer, hint)


# 2


def linear_shift(X: Array, w: Array, p: float) -> float:
    noise = p / (1 - p) * np.mean(X**2 @ w**2)
    return float(1 + noise / np.var(X @ w))


def by_enumeration(X: Array, w: Array, p: float) -> float:
    masks = np.array(list(np.ndindex(*[2] * w.size)))
    chance = np.prod(np.where(masks, 1 - p, p), axis=1)
    y = (masks * w / (1 - p)) @ X.T
    mean = np.mean(chance @ y)
    return float(np.mean(chance @ (y - mean) ** 2) / np.var(X @ w))


def of(ratio: Callable[[Array, float, float, Array], float]) -> Callable[[Array, Array, float], float]:
    """Return an answer made from the squared features' means, p, and the evaluation variance."""
    return lambda X, w, p: ratio(w**2 * np.mean(X**2, axis=0), p, float(np.var(X @ w)), X @ w)


@pytest.mark.parametrize(
    ("answer", "hint"),
    [
        (lambda X, w, p: 1 + p / (1 - p) * np.sum(w**2 * X.var(axis=0)) / np.var(X @ w), "its mean included"),
        (
            lambda X, w, p: 1 + p / (1 - p) * np.mean(X**2 @ w**2) / (w**2 @ X.var(axis=0)),
            "as if they were uncorrelated",
        ),
        (of(lambda terms, p, var, y: p / (1 - p) * terms.sum() / var), "the sum of both"),
        (of(lambda terms, p, var, y: var / (var + p / (1 - p) * terms.sum())), "evaluation over training"),
        (of(lambda terms, p, var, y: 1 + (1 - p) / p * terms.sum() / var), "With small p there is little noise"),
        (of(lambda terms, p, var, y: 1 + p * (1 - p) * terms.sum() / var), "so that the ratio is the same"),
        (of(lambda terms, p, var, y: 1 + p / (1 - p) ** 2 * terms.sum() / var), "once too often"),
        (of(lambda terms, p, var, y: 1 + p / (1 - p) * np.mean(y**2) / var), "drop the whole sum"),
        (of(lambda terms, p, var, y: (1 + p * np.mean(y) ** 2 / var) / (1 - p)), "drop the whole sum"),
        (of(lambda terms, p, var, y: 1 / (1 - p)), "one feature of mean 0"),
        (of(lambda terms, p, var, y: 1 + p / (1 - p) * terms.sum() / np.var(y, ddof=1)), "n - 1"),
        (of(lambda terms, p, var, y: 1.0), "what the masks add"),
    ],
)
def test_hints_on_the_ratio(answer: object, hint: str) -> None:
    hinted(SHIFT, answer, hint)


# 3


def reestimate(layers: list[Any], x: Array) -> Pairs:
    found = []
    for layer in layers:
        if isinstance(layer, BatchNorm1d):
            layer.running_mean, layer.running_var = x.mean(axis=0), x.var(axis=0, ddof=1)
            found.append((layer.running_mean, layer.running_var))
        x = layer.forward(x)
    return found


def by_library(layers: list[Any], x: Array) -> Pairs:
    reestimate_running_stats(Sequential(*layers), x)
    return [(layer.running_mean, layer.running_var) for layer in layers if isinstance(layer, BatchNorm1d)]


def by_batch_statistics(layers: list[Any], x: Array) -> Pairs:
    """Use training mode of the BatchNorms, which normalises by n in place of n - 1."""
    found = []
    for layer in layers:
        if isinstance(layer, BatchNorm1d):
            layer.train().momentum = 1.0
        x = layer.forward(x)
        if isinstance(layer, BatchNorm1d):
            found.append((layer.running_mean, layer.running_var))
    return found


def spoiled(
    statistics: Callable[[Array, Array, BatchNorm1d], tuple[Array, Array]] = lambda x, y, bn: (x.mean(0), x.var(0)),
    store: bool = True,
    dropout: bool = False,
) -> Callable[[list[Any], Array], Pairs]:
    """Return a re-estimation with its parts to be spoiled; `statistics` sees input and output of a BatchNorm."""

    def answer(layers: list[Any], x: Array) -> Pairs:
        found = []
        for layer in layers:
            if dropout and isinstance(layer, InvertedDropout):
                layer.train()
            if isinstance(layer, BatchNorm1d):
                pair = statistics(x, copy.deepcopy(layer).forward(x), layer)
                found.append(pair)
                if store:
                    layer.running_mean, layer.running_var = x.mean(axis=0), x.var(axis=0)
            x = layer.forward(x)
        return found

    return answer


@pytest.mark.parametrize(
    ("answer", "hint"),
    [
        (spoiled(lambda x, y, bn: (bn.running_mean, bn.running_var), store=False), "the old statistics"),
        (spoiled(lambda x, y, bn: (x.mean(0), x.var(0, ddof=1)), store=False), "still divides by its old statistics"),
        (spoiled(lambda x, y, bn: (y.mean(0), y.var(0, ddof=1)), store=False), "of the BatchNorm's output"),
        (spoiled(lambda x, y, bn: (x.mean(0), x.std(0, ddof=1))), "the standard deviation"),
        (spoiled(lambda x, y, bn: (x.mean(0), bn.running_var)), "still the old ones"),
        (spoiled(dropout=True), "Is dropout off?"),
        (spoiled(lambda x, y, bn: (np.zeros(8), x.var(0))), "Go from layer to layer"),
        (lambda layers, x: reestimate(layers, x)[:1], "One pair for each BatchNorm"),
        (lambda layers, x: [(mean, var[:3]) for mean, var in reestimate(layers, x)], "one entry for each feature"),
        (lambda layers, x: ["ab", "cd", "ef"][: sum(isinstance(v, BatchNorm1d) for v in layers)], "are arrays"),
    ],
)
def test_hints_on_reestimation(answer: object, hint: str) -> None:
    hinted(REESTIMATE, answer, hint)


# 4


def by_looking_at_outputs(network: Sequential, x: Array) -> str:
    training = copy.deepcopy(network).train().forward(x)
    evaluation = copy.deepcopy(network).eval().forward(x)
    return "variance shift" if np.mean((training - evaluation) ** 2) > 0.01 * evaluation.var() else "healthy"


def by_ratio_alone(network: Sequential, x: Array) -> str:
    bad = any(abs(np.median(ratio) - 1) > 0.1 for ratio in running_variance_ratios(network, x))
    return "variance shift" if bad else "healthy"


def by_training_mode(network: Sequential, x: Array) -> str:
    """Compare with the variance in training mode only."""
    verdict = batch_norm.right_diagnosis(network, x)
    return "stale statistics" if verdict == "variance shift" else verdict


@pytest.mark.parametrize(
    ("answer", "parts"),
    [
        (by_looking_at_outputs, ["after the last BatchNorm only, expected 'healthy'", "no fault of BatchNorm"]),
        (by_ratio_alone, ["expected 'stale statistics'", "compare it with that as well"]),
        (by_training_mode, ["expected 'variance shift'", "With dropout on, they are right"]),
        (lambda network, x: "healthy", ["look at each layer's median"]),
    ],
)
def test_hints_on_the_diagnosis(answer: object, parts: list[str]) -> None:
    hinted(DIAGNOSE, answer, *parts)


def by_hand(network: Sequential, x: Array) -> str:
    """Walk through the layers, in both modes, with a running copy for each."""
    training, evaluation = copy.deepcopy(network).train(), copy.deepcopy(network).eval()
    u, v = x, x
    off = {"training": False, "evaluation": False}
    for layer, noisy, quiet in zip(network.layers, training.layers, evaluation.layers, strict=True):
        if isinstance(layer, BatchNorm1d):
            for mode, z in (("training", u), ("evaluation", v)):
                off[mode] |= bool(abs(np.median(layer.running_var / z.var(axis=0)) - 1) > 0.1)
        u, v = noisy.forward(u), quiet.forward(v)
    if not off["evaluation"]:
        return "healthy"
    return "stale statistics" if off["training"] else "variance shift"


# Right answers.

RIGHT: dict[str, list[Any]] = {
    SHIFTED: [by_search, by_flag, lambda names: tuple(by_search(names)), lambda names: np.array(by_search(names), int)],
    SHIFT: [linear_shift, by_enumeration],
    REESTIMATE: [reestimate, by_library, by_batch_statistics, spoiled()],
    DIAGNOSE: [batch_norm.right_diagnosis, by_hand],
}


@pytest.mark.parametrize(("exercise", "answer"), [(name, answer) for name in RIGHT for answer in RIGHT[name]])
def test_right_answers_pass_and_the_verdict_repeats(exercise: str, answer: object) -> None:
    for seed in range(2 if exercise == DIAGNOSE else 30):
        passed(exercise, answer, seed)
    assert check(exercise, answer) == check(exercise, answer)


@pytest.mark.long
@pytest.mark.parametrize("answer", RIGHT[DIAGNOSE])
def test_right_diagnoses_pass_under_many_seeds(answer: object) -> None:
    for seed in range(20):
        passed(DIAGNOSE, answer, seed)


def test_patients_lie_far_from_the_threshold() -> None:
    for network, x, verdict in batch_norm._patients(3).values():
        medians = [float(np.median(ratio)) for ratio in running_variance_ratios(network, x)]
        worst = max((abs(median - 1) for median in medians), default=0.0)
        assert worst < 0.04 if verdict == "healthy" else worst > 0.3
