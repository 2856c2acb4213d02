"""The exercises of the chapter "variants"."""

from __future__ import annotations

import numbers
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from dropoutlib.checks.exercises import Answer, Mistake, exercise, number, short

Array = npt.NDArray[Any]
Shape = tuple[int, ...]


# --- 1: whose draw is it? ------------------------------------------------------------------------------------------

# Variant, shape of x, shape of the mask.
_SHAPES: tuple[tuple[str, Shape, Shape], ...] = (
    ("dropout", (8, 3, 5, 6), (8, 3, 5, 6)),
    ("spatial", (8, 3, 5, 6), (8, 3, 1, 1)),
    ("stochastic depth", (8, 3, 5, 6), (8, 1, 1, 1)),
    ("recurrent", (8, 20, 4), (8, 1, 4)),
    ("dropout", (7, 9), (7, 9)),
    ("spatial", (2, 4, 9), (2, 4, 1)),
    ("stochastic depth", (5, 6), (5, 1)),
    ("recurrent", (3, 6, 6), (3, 1, 6)),
)


@exercise("variants.1")
def mask_shape(answer: Answer, seed: int) -> str:
    """Check mask_shape(variant, shape): the smallest mask that broadcasts to x, with 1 where a draw is shared.

    The variant is "dropout", "spatial" (channels on axis 1), "stochastic depth" or "recurrent" (x is examples, time,
    units, and one mask serves all steps of an example).
    """
    for variant, shape, expected in _SHAPES:
        text = f'mask_shape("{variant}", {shape})'
        value = answer.call(text, variant, shape)
        if not isinstance(value, tuple | list) or not all(_is_whole(size) for size in value):
            raise Mistake(f"{text} returned {short(repr(value))}, expected {expected}", "Return a tuple of sizes.")
        if tuple(value) != expected:
            raise Mistake(f"{text} returned {tuple(map(int, value))}, expected {expected}", _shape_hint(value, shape))
    return f"All {len(_SHAPES)} shapes are right."


def _is_whole(size: object) -> bool:
    return isinstance(size, numbers.Integral) and not isinstance(size, bool)


def _shape_hint(value: tuple[int, ...] | list[int], shape: Shape) -> str:
    if len(value) != len(shape):
        return "Keep every axis, with size 1 where one draw serves the whole axis; then the mask broadcasts."
    if not any(size == 1 for size in value):
        return "You have a draw for each element. Which elements are dropped together here?"
    if value[0] == 1:
        return "You share one draw among the examples. Each example has its own."
    if any(size not in (1, full) for size, full in zip(value, shape, strict=True)):
        return "A size is that of x, or 1."
    return "Put 1 on the axes along which all is dropped together, and the size of x on the others."


# --- 2: the noise of a sum -----------------------------------------------------------------------------------------

_Noise = Callable[[Array, float, Array], float]


def _by_group(x: Array, groups: Array) -> float:
    return float(sum(x[groups == label].sum() ** 2 for label in np.unique(groups)))


_WRONG_NOISES: tuple[tuple[_Noise, str], ...] = (
    (
        lambda x, p, groups: p / (1 - p) * float(np.sum(x**2)),
        "That holds if each element has a draw of its own. Elements of one group are dropped together: add them up "
        "first, then square.",
    ),
    (
        lambda x, p, groups: p / (1 - p) * float(np.sum(x)) ** 2,
        "That is one draw for everything. Groups are independent: their variances add up.",
    ),
    (
        lambda x, p, groups: p * (1 - p) * _by_group(x, groups),
        "That is without the scale. The variance of m/q is p q / q^2.",
    ),
    (lambda x, p, groups: p * _by_group(x, groups), "The variance of m/q is not p. It is p q / q^2."),
    (
        lambda x, p, groups: (1 - p) / p * _by_group(x, groups),
        "With small p there is little noise. Here p is the probability of dropping.",
    ),
    (
        lambda x, p, groups: (p / (1 - p) * _by_group(x, groups)) ** 0.5,
        "That is the standard deviation. The variance is asked for.",
    ),
)


@exercise("variants.2")
def noise_of_sum(answer: Answer, seed: int) -> str:
    """Check noise_of_sum(x, p, groups): the variance of sum(y), where y is x after inverted dropout with shared draws.

    Elements of x with the same label in groups are kept or dropped together; groups are independent.
    """
    rng = np.random.default_rng(seed)
    for p, labels in ((0.2, [0, 0, 1, 1, 1, 2]), (0.7, [3, 1, 3, 1, 3]), (0.5, [4, 5, 6, 7])):
        groups = np.array(labels)
        x = rng.uniform(1, 2, groups.size)
        text = f"noise_of_sum(x, {p}, {groups.tolist()})"
        value = number(answer.call(text, x, p, groups, pure=True), text)
        expected = p / (1 - p) * _by_group(x, groups)
        if not np.isclose(value, expected, rtol=1e-6):
            wrong = (hint for rule, hint in _WRONG_NOISES if np.isclose(value, rule(x, p, groups), rtol=1e-6))
            hint = next(wrong, "A group contributes its sum times m/q. Take the variance of that, and add up.")
            raise Mistake(f"{text} returned {value:.6g}, expected {expected:.6g}", hint)
    return "The variance is right for 3 groupings, at p = 0.2, 0.5 and 0.7."


# --- 3: two moments ------------------------------------------------------------------------------------------------

_Constants = Callable[[float, float], tuple[float, float]]

_WRONG_CONSTANTS: tuple[tuple[_Constants, str], ...] = (
    (
        lambda p, f: (1 / (1 - p), 0.0),
        "That is inverted dropout. It keeps the mean if dropped elements become 0; here they become something else.",
    ),
    (
        lambda p, f: _alpha(p, f, shift=0.0),
        "The variance is right. With b = 0 the mean is a p times the floor; what must b be?",
    ),
    (
        lambda p, f: _alpha(p, f, shift=1.0),
        "The mean is off by twice a p floor: look at the sign of b.",
    ),
    (
        lambda p, f: ((1 - p + p * f * f) ** -0.5, -p * f * (1 - p + p * f * f) ** -0.5),
        "You divide by the root of the mean square. The variance is the mean square less the squared mean.",
    ),
    (
        lambda p, f: (1 / ((1 - p) * (1 + p * f * f)), -p * f / ((1 - p) * (1 + p * f * f))),
        "You divide by the variance. A factor a multiplies it by a^2.",
    ),
    (
        lambda p, f: _alpha(1 - p, f),
        "You have exchanged keeping and dropping: an element becomes the floor with probability p.",
    ),
    (
        lambda p, f: (_alpha(p, f)[0], -p * f),
        "b is added after the multiplication by a, and so must make up for a times the mean.",
    ),
)


def _alpha(p: float, floor: float, shift: float = -1.0) -> tuple[float, float]:
    a = ((1 - p) * (1 + p * floor**2)) ** -0.5
    return a, shift * a * p * floor


@exercise("variants.3")
def constants(answer: Answer, seed: int) -> str:
    """Check constants(p, floor): the pair (a, b) that keeps mean 0 and variance 1.

    An element x of a population with mean 0 and variance 1 becomes floor with probability p and stays x otherwise;
    then it is multiplied by a > 0, and b is added.
    """
    rng = np.random.default_rng(seed)
    for p in (0.2, 0.7, 0.5):
        floor = float(rng.uniform(-3, -1))
        text = f"constants({p}, {floor:.4f})"
        value = answer.call(text, p, floor)
        if not isinstance(value, tuple | list | np.ndarray) or len(value) != 2:
            raise Mistake(f"{text} returned {short(repr(value))}, expected a pair (a, b)", "Write return a, b.")
        got = tuple(number(part, text) for part in value)
        expected = _alpha(p, floor)
        if not np.allclose(got, expected, rtol=1e-6):
            wrong = (hint for rule, hint in _WRONG_CONSTANTS if np.allclose(got, rule(p, floor), rtol=1e-6))
            hint = next(
                wrong,
                "Before a and b the mean is p floor, and the mean square is q + p floor^2. Write down mean and "
                "variance after them.",
            )
            raise Mistake(
                f"{text} returned ({got[0]:.6g}, {got[1]:.6g}), expected ({expected[0]:.6g}, {expected[1]:.6g})", hint
            )
    return "Mean and variance are kept for three floors, at p = 0.2, 0.5 and 0.7."


# --- 4: the right gamma --------------------------------------------------------------------------------------------


def _kept_share(gamma: float, size: int, block_size: int) -> float:
    row = np.convolve(np.ones(size - block_size + 1), np.ones(block_size))
    return float(np.mean((1 - gamma) ** np.outer(row, row)))


@exercise("variants.4")
def exact_gamma(answer: Answer, seed: int) -> str:
    """Check exact_gamma(size, block_size, p): with it, DropBlock drops the share p of a square map on average.

    A block of side block_size begins with probability gamma at each place where it fits into a map of side size. The
    mean share that is kept must be 1 - p to 1e-6.
    """
    cases = ((14, 7, 0.2), (8, 3, 0.7), (10, 1, 0.5), (5, 5, 0.3))
    for size, b, p in cases:
        text = f"exact_gamma({size}, {b}, {p})"
        gamma = number(answer.call(text, size, b, p), text)
        if not 0 <= gamma <= 1:
            raise Mistake(f"{text} returned {gamma:.6g}, which is no probability", "gamma lies between 0 and 1.")
        dropped = 1 - _kept_share(gamma, size, b)
        if abs(dropped - p) > 1e-6:
            raise Mistake(
                f"{text} returned {gamma:.6g}, which drops the share {dropped:.6f}, expected {p}",
                _gamma_hint(gamma, size, b, p),
            )
    return f"The share that is dropped is right for {len(cases)} maps."


def _gamma_hint(gamma: float, size: int, b: int, p: float) -> str:
    places = (size - b + 1) ** 2
    if np.isclose(gamma, p * size**2 / (b**2 * places), rtol=1e-6):
        return "That is the paper's formula. It counts an element twice where two blocks overlap, and drops too little."
    if np.isclose(gamma, p / b**2, rtol=1e-6):
        return "Blocks begin only where they fit, so fewer cover the border; and they overlap."
    if np.isclose(gamma, 1 - (1 - p) ** (1 / b**2), rtol=1e-6):
        return (
            "That is right in the middle, where b^2 blocks cover an element. Near the border fewer do; take the mean."
        )
    if np.isclose(gamma, p, rtol=1e-6):
        return "gamma is the chance that a block begins at a place, and a block drops b^2 elements."
    return (
        "An element that n blocks can cover is kept with probability (1 - gamma)^n. The mean over the map falls as "
        "gamma grows: halve an interval until it is 1 - p."
    )
