"""The exercises of the chapter "batch-norm"."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from dropoutlib.batchnorm import BatchNorm1d, reestimate_running_stats, running_variance_ratios
from dropoutlib.checks.exercises import Answer, Mistake, exercise, number, short
from dropoutlib.layers import InvertedDropout
from dropoutlib.network import Layer, Linear, ReLU, Sequential

Array = npt.NDArray[Any]

# Never 0.5 first: there p and 1 - p coincide.
_RATES = (0.2, 0.7, 0.5)


# --- 1: which layers are wrong -------------------------------------------------------------------------------------

_LETTERS = {"L": "Linear", "B": "BatchNorm", "R": "ReLU", "D": "Dropout"}
_NETWORKS = ("LBRDLBRDL", "LDBRLDBRL", "LBRLBRDL", "LBRLBRL", "LBRDLRLBRLBRL", "LRDLRDL")


def _norms(names: list[str]) -> list[int]:
    return [i for i, name in enumerate(names) if name == "BatchNorm"]


def _shifted(names: list[str]) -> list[int]:
    return [i for i in _norms(names) if "Dropout" in names[:i]]


_WRONG_LAYERS: tuple[tuple[Callable[[list[str]], list[int]], str], ...] = (
    (
        _norms,
        "You list every BatchNorm. One with no dropout before it sees the same inputs in training and in evaluation.",
    ),
    (
        lambda names: [i for i in _norms(names) if names[i - 1] == "Dropout"],
        "You list those that directly follow a dropout. A linear layer and a ReLU between them let the noise through.",
    ),
    (
        lambda names: [i for i in _norms(names) if "Dropout" in names[i:]],
        "You list those that stand before a dropout. Data flows from left to right: which layers see the noise?",
    ),
    (
        lambda names: [i for i in _norms(names) if names[i + 1 : i + 3] == ["ReLU", "Dropout"]],
        "You list those of a block with dropout at its end. That dropout is behind them; which BatchNorm is next?",
    ),
    (
        lambda names: [i for i in _shifted(names) if names[:i].count("BatchNorm") == names[:i].count("Dropout")],
        "A BatchNorm further back is wrong too: another BatchNorm in between does not take the noise away.",
    ),
    (
        lambda names: [i for i in _shifted(names) if not any(j in _shifted(names) for j in range(i))],
        "You stop at the first. A BatchNorm does not take the noise away, so those behind it are wrong too.",
    ),
    (
        lambda names: [k for k, i in enumerate(_norms(names)) if i in _shifted(names)],
        "You number the BatchNorms among themselves. Give their places in the list of all layers, from 0.",
    ),
    (
        lambda names: [i + 1 for i in _shifted(names)],
        "You count from 1. Give the places as Python counts them, from 0.",
    ),
)


@exercise("batch-norm.1")
def shifted(answer: Answer, seed: int) -> str:
    """Check shifted(names): the places of the BatchNorms whose running variance is wrong for evaluation.

    `names` lists the layers in order, each "Linear", "BatchNorm", "ReLU" or "Dropout"; places count from 0.
    """
    cases = [[_LETTERS[letter] for letter in network] for network in _NETWORKS]
    given = {}
    for names in cases:
        text = f"shifted({names})"
        value = answer.call(text, list(names))
        given[tuple(names)] = _places(value, text)
    for names in cases:
        found, expected = given[tuple(names)], _shifted(names)
        if found != expected:
            hint = next(
                (hint for rule, hint in _WRONG_LAYERS if all(given[tuple(n)] == sorted(rule(n)) for n in cases)),
                "Go through the layers from the left. From which layer on do the inputs differ between the modes?",
            )
            raise Mistake(f"shifted({names}) returned {found}, expected {expected}", hint)
    return f"The layers are right for {len(cases)} networks."


def _places(value: object, text: str) -> list[int]:
    if not isinstance(value, list | tuple | set | np.ndarray) or not all(
        isinstance(i, int | np.integer) and not isinstance(i, bool) for i in value
    ):
        raise Mistake(f"{text} returned {short(repr(value))}, expected a list of whole numbers")
    return sorted(int(i) for i in value)


# --- 2: the ratio through a linear layer ---------------------------------------------------------------------------


def _noise(X: Array, w: Array, p: float) -> Any:
    return p / (1 - p) * np.sum(w**2 * np.mean(X**2, axis=0))


_WRONG_SHIFTS: tuple[tuple[Callable[[Array, Array, float], Any], str], ...] = (
    (
        lambda X, w, p: 1 + p / (1 - p) * np.sum(w**2 * X.var(axis=0)) / np.var(X @ w),
        "You use the variance of the features. Dropout takes away all of a feature, its mean included.",
    ),
    (
        lambda X, w, p: 1 + _noise(X, w, p) / np.sum(w**2 * X.var(axis=0)),
        "Your variance in evaluation adds up single features, as if they were uncorrelated. Take that of X @ w.",
    ),
    (
        lambda X, w, p: _noise(X, w, p) / np.var(X @ w),
        "That is what dropout adds, over the variance in evaluation. The variance in training is the sum of both.",
    ),
    (
        lambda X, w, p: np.var(X @ w) / (np.var(X @ w) + _noise(X, w, p)),
        "That is evaluation over training. The question is training over evaluation.",
    ),
    (
        lambda X, w, p: 1 + _noise(X, w, 1 - p) / np.var(X @ w),
        "With small p there is little noise. Here p is the probability of dropping.",
    ),
    (
        lambda X, w, p: 1 + (1 - p) ** 2 * _noise(X, w, p) / np.var(X @ w),
        "The variance of a mask is p q; that of mask / q is p q / q^2. If you mean standard dropout: its variance in "
        "evaluation has a factor q^2, so that the ratio is the same.",
    ),
    (
        lambda X, w, p: 1 + _noise(X, w, p) / (1 - p) / np.var(X @ w),
        "The variance of mask / q is p q / q^2. You have divided by q once too often.",
    ),
    (
        lambda X, w, p: 1 + p / (1 - p) * np.mean((X @ w) ** 2) / np.var(X @ w),
        "You let one mask element drop the whole sum, as if dropout came after the linear layer. It comes before, and "
        "each feature has a draw of its own, so that only the squares of single terms are left.",
    ),
    (
        lambda X, w, p: 1 / (1 - p),
        "1/q is the ratio of one feature of mean 0. Here features have means, and correlated ones are added up.",
    ),
    (
        lambda X, w, p: 1 + _noise(X, w, p) / np.var(X @ w, ddof=1),
        "You divide by n - 1. The rows are the whole distribution here: take np.var as it is.",
    ),
)


@exercise("batch-norm.2")
def linear_shift(answer: Answer, seed: int) -> str:
    """Check linear_shift(X, w, p): variance of (dropout(x) @ w) in training over that in evaluation, x a row of X.

    Each row of X is equally likely, and each feature has a mask element of its own. The variance is over rows and
    masks, with the divisor n.
    """
    rng = np.random.default_rng(seed)
    for p in _RATES:
        common = rng.uniform(0, 2, (9, 1))
        X, w = common + rng.uniform(0, 1, (9, 5)), rng.uniform(0.5, 2, 5)
        text = f"linear_shift(X, w, {p})"
        value = number(answer.call(text, X, w, p, pure=True), text)
        expected = float(1 + _noise(X, w, p) / np.var(X @ w))
        if not np.isclose(value, expected, rtol=1e-6):
            wrong = (hint for rule, hint in _WRONG_SHIFTS if np.isclose(value, rule(X, w, p), rtol=1e-6))
            hint = next(wrong, "Variance in training = variance of X @ w + what the masks add, averaged over rows.")
            raise Mistake(f"{text} returned {value:.6g}, expected {expected:.6g}", hint)
    return f"The ratio is right for p = {', '.join(map(str, sorted(_RATES)))}."


# --- 3: re-estimation ----------------------------------------------------------------------------------------------

Statistics = list[tuple[Array, Array]]

_CLOSE = 0.01  # so that n and n - 1, and eps, may be taken either way


@exercise("batch-norm.3")
def reestimate(answer: Answer, seed: int) -> str:
    """Check reestimate(layers, x): a list with the pair (mean, variance) that each BatchNorm needs in evaluation.

    `layers` are those of a network, in order and in evaluation mode, each with forward(x); a BatchNorm1d normalises by
    its running_mean and running_var, which may be set. Results within 1 % pass, so that the divisor may be n or n - 1.
    """
    for number_of_norms in (2, 3):
        layers, x = _trained(seed, number_of_norms)
        expected = _reestimated(layers, x)
        text = f"reestimate(layers, x) with {number_of_norms} BatchNorms"
        value = _pairs(answer.call(text, copy.deepcopy(layers), x.copy()), text, expected)
        for k, (found, right) in enumerate(zip(value, expected, strict=True)):
            for name, u, v in zip(("mean", "variance"), found, right, strict=True):
                if not np.allclose(u, v, rtol=_CLOSE, atol=_CLOSE * np.abs(v).mean()):
                    raise Mistake(
                        f"{text}: the {name} of BatchNorm {k + 1} starts with {u[0]:.4g}, expected {v[0]:.4g}",
                        _statistics_hint(layers, x, value, expected),
                    )
    return "The statistics are right for networks with 2 and 3 BatchNorms."


def _trained(seed: int, blocks: int) -> tuple[list[Layer], Array]:
    """Return a network whose running statistics are those of passes with dropout on, in evaluation mode, and x."""
    rng = np.random.default_rng(seed)
    x = rng.uniform(0, 1, (200, 6))
    layers: list[Layer] = []
    for block in range(blocks):
        norm = BatchNorm1d(8)
        norm.weight.value[:], norm.bias.value[:] = rng.uniform(0.5, 1.5, 8), rng.uniform(-0.5, 0.5, 8)
        layers += [Linear(8 if block else 6, 8, rng), norm, ReLU(), InvertedDropout(0.6, rng)]
    network = Sequential(*layers)
    for _ in range(30):
        network(x)
    network.eval()
    return list(network.layers), x


def _reestimated(layers: list[Layer], x: Array) -> Statistics:
    network = Sequential(*copy.deepcopy(layers))
    reestimate_running_stats(network, x)
    return [(norm.running_mean, norm.running_var) for norm in network.layers if isinstance(norm, BatchNorm1d)]


def _pairs(value: object, text: str, like: Statistics) -> Statistics:
    message = f"{text} returned {short(repr(value))}, expected a list of {len(like)} pairs (mean, variance)"
    if not isinstance(value, list | tuple) or len(value) != len(like):
        raise Mistake(message, "One pair for each BatchNorm, in the order of the layers.")
    pairs = []
    for pair, (mean, _) in zip(value, like, strict=True):
        try:
            found = [np.asarray(part, float) for part in pair]
        except (TypeError, ValueError):
            raise Mistake(message, "Mean and variance are arrays with one entry for each feature.") from None
        if len(found) != 2 or any(part.shape != mean.shape for part in found):
            raise Mistake(message, f"Mean and variance are arrays of shape {mean.shape}: one entry for each feature.")
        pairs.append((found[0], found[1]))
    return pairs


def _at_once(layers: list[Layer], x: Array, of_outputs: bool = False) -> Statistics:
    """Return statistics of the inputs, or outputs, of each BatchNorm under the old statistics."""
    found: Statistics = []
    for layer in copy.deepcopy(layers):
        before, x = x, layer.forward(x)
        if isinstance(layer, BatchNorm1d):
            seen = x if of_outputs else before
            found.append((seen.mean(axis=0), seen.var(axis=0, ddof=1)))
    return found


def _statistics_hint(layers: list[Layer], x: Array, value: Statistics, expected: Statistics) -> str:
    old = [(norm.running_mean, norm.running_var) for norm in layers if isinstance(norm, BatchNorm1d)]

    def given(rule: Statistics, part: slice = slice(None)) -> bool:
        pairs = zip(value, rule, strict=True)
        return all(
            np.allclose(u, v, rtol=_CLOSE, atol=_CLOSE / 10)
            for f, r in pairs
            for u, v in zip(f[part], r[part], strict=True)
        )

    if given(old):
        return "Those are the old statistics. Collect the mean and the variance of what reaches each BatchNorm."
    if given(_at_once(layers, x)):
        return (
            "Your later layers see the output of a BatchNorm that still divides by its old statistics. Set the new "
            "ones before you apply the layer, then go on."
        )
    if given(_at_once(layers, x, of_outputs=True)):
        return "Those are the statistics of the BatchNorm's output. It divides by those of its input."
    if given([(mean, np.sqrt(var)) for mean, var in expected]):
        return "Your second entry is the standard deviation. running_var is the variance."
    if given(expected, slice(0, 1)) and given(old, slice(1, 2)):
        return "The means are right and the variances are still the old ones. It is the variance that dropout shifts."
    if np.median(value[-1][1] / expected[-1][1]) > 1.3:
        return "Your last variance is too large. Is dropout off? The layers come in evaluation mode; leave them in it."
    return "Go from layer to layer: at a BatchNorm take mean and variance of its input, set them, and apply it."


# --- 4: the diagnosis ----------------------------------------------------------------------------------------------

_VERDICTS = ("healthy", "variance shift", "stale statistics")


@exercise("batch-norm.4")
def diagnose(answer: Answer, seed: int) -> str:
    """Check diagnose(network, x): "healthy", "variance shift" or "stale statistics"; x are 600 training rows.

    healthy: each BatchNorm's running variance is that of its input in evaluation mode, within 10 % for most features.
    variance shift: it is not, but it is that of its input in training mode. stale statistics: it is neither.
    """
    cases = _patients(seed)
    verdicts: dict[str, str] = {}
    for name, (network, x, _) in cases.items():
        text = "diagnose(network, x)"
        value = answer.call(text, copy.deepcopy(network), x.copy())
        if not isinstance(value, str) or value not in _VERDICTS:
            raise Mistake(f"{text} returned {short(repr(value))}, expected one of {', '.join(map(repr, _VERDICTS))}")
        verdicts[name] = value
    for name, (_, _, expected) in cases.items():
        if verdicts[name] != expected:
            raise Mistake(
                f"diagnose(network, x) returned {verdicts[name]!r} for a network {name}, expected {expected!r}",
                _diagnosis_hint(verdicts, name),
            )
    return f"All {len(cases)} networks were diagnosed rightly."


def _patients(seed: int) -> dict[str, tuple[Sequential, Array, str]]:
    """Return networks by what was done to them, with rows and the right verdict."""
    rng = np.random.default_rng(seed)
    x = rng.uniform(0, 1, (600, 20))

    def network(kinds: str, p: float = 0.5, passes: int = 16) -> Sequential:
        make: dict[str, Callable[[], Layer]] = {
            "B": lambda: BatchNorm1d(64, momentum=0.3),
            "R": ReLU,
            "D": lambda: InvertedDropout(p, rng),
        }
        layers = [make[kind]() if kind in make else Linear(64 if i else 20, 64, rng) for i, kind in enumerate(kinds)]
        made = Sequential(*layers)
        for _ in range(passes):
            made(x)
        return made

    repaired = network("LBRDLBRDL")
    reestimate_running_stats(repaired, x)
    moved = network("LBRLBRL", passes=0)
    reestimate_running_stats(moved, x)
    for layer in moved.layers:
        if isinstance(layer, Linear):
            layer.weight.value *= 2
    return {
        "with dropout in each block": (network("LBRDLBRDL"), x, "variance shift"),
        "with dropout at p = 0.2 before BatchNorm": (network("LDBRLDBRL", p=0.2), x, "variance shift"),
        "with dropout after the last BatchNorm only": (network("LBRLBRDL"), x, "healthy"),
        "without BatchNorm": (network("LRDLRDL"), x, "healthy"),
        "with dropout in each block, re-estimated": (repaired, x, "healthy"),
        "without dropout": (network("LBRLBRL"), x, "healthy"),
        "without dropout, run on one batch only": (network("LBRLBRL", passes=1), x, "stale statistics"),
        "whose weights changed after its statistics were taken": (moved, x, "stale statistics"),
    }


def _diagnosis_hint(verdicts: dict[str, str], name: str) -> str:
    expected_healthy = name in (
        "with dropout after the last BatchNorm only",
        "without BatchNorm",
        "with dropout in each block, re-estimated",
    )
    if expected_healthy and verdicts[name] == "variance shift":
        return (
            "Dropout alone makes the outputs of the two modes differ, and is no fault of BatchNorm. Compare the "
            "running variance with the variance that the layer sees in evaluation mode."
        )
    if verdicts[name] == "variance shift":
        return (
            "The statistics are off, but not by dropout. A shifted running variance is right for training mode: "
            "compare it with that as well."
        )
    if verdicts[name] == "stale statistics":
        return "Which mode do these statistics belong to? With dropout on, they are right."
    return (
        "running_variance_ratios(network, x) gives running variance / evaluation variance; look at each layer's median."
    )


def right_diagnosis(network: Sequential, x: Array) -> str:
    """Return the verdict as the exercise defines it."""

    def off(ratios: list[Array], tolerance: float) -> bool:
        return any(abs(np.median(ratio) - 1) > tolerance for ratio in ratios)

    if not off(list(running_variance_ratios(network, x)), 0.1):
        return "healthy"
    fresh = copy.deepcopy(network).train()
    old = [layer for layer in network.layers if isinstance(layer, BatchNorm1d)]
    new = [layer for layer in fresh.layers if isinstance(layer, BatchNorm1d)]
    for layer in new:
        layer.momentum = 1.0
    fresh(x)
    ratios = [u.running_var / v.running_var for u, v in zip(old, new, strict=True)]
    return "stale statistics" if off(ratios, 0.1) else "variance shift"
