"""The exercises of "variants": wrong answers with the hint that is meant for them, and right ones."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from scipy.optimize import brentq  # type: ignore[import-untyped]

from dropoutlib.checks import check
from dropoutlib.variants import DropBlock
from tests.dropoutlib.checking import hinted, rejected

Array = np.ndarray[Any, Any]
SHAPE, NOISE, CONSTANTS, GAMMA = (f"variants.{i}" for i in (1, 2, 3, 4))


# 1


def shape_by_axes(variant: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    own = {"dropout": range(9), "spatial": (0, 1), "stochastic depth": (0,), "recurrent": (0, 2)}[variant]
    return tuple(size if axis in own else 1 for axis, size in enumerate(shape))


def shape_by_branch(variant: str, shape: tuple[int, ...]) -> list[int]:
    n, *rest = shape
    if variant == "recurrent":
        return [n, 1, rest[1]]
    kept = {"dropout": len(rest), "spatial": 1, "stochastic depth": 0}[variant]
    return [n, *rest[:kept], *[1] * (len(rest) - kept)]


@pytest.mark.parametrize(
    ("answer", "hint"),
    [
        (lambda variant, shape: shape, "Which elements are dropped together"),
        (lambda variant, shape: shape[:2], "Keep every axis"),
        (lambda variant, shape: (1, *shape_by_axes(variant, shape)[1:]), "share one draw among the examples"),
        (lambda variant, shape: (*shape_by_axes(variant, shape)[:-1], 1), "Put 1 on the axes"),
        (lambda variant, shape: (shape[0], 2, *shape[2:]) if variant == "dropout" else shape, "dropped together"),
        (lambda variant, shape: (shape[0], 1, *[9 for _ in shape[2:]]), "A size is that of x, or 1"),
        (lambda variant, shape: shape[0], "Return a tuple"),
        (lambda variant, shape: (8.0, 3.0), "Return a tuple"),
        (lambda variant, shape: (True, 3), "Return a tuple"),
    ],
)
def test_shape_hints(answer: object, hint: str) -> None:
    hinted(SHAPE, answer, hint)


# 2


def by_group(x: Array, groups: Array) -> float:
    return float(sum(x[groups == g].sum() ** 2 for g in set(groups.tolist())))


def sorts_x(x: Array, p: float, groups: Array) -> float:
    x.sort()
    return 0.0


@pytest.mark.parametrize(
    ("answer", "hint"),
    [
        (lambda x, p, groups: p / (1 - p) * np.sum(x**2), "add them up first"),
        (lambda x, p, groups: p / (1 - p) * np.sum(x) ** 2, "one draw for everything"),
        (lambda x, p, groups: p * (1 - p) * by_group(x, groups), "without the scale"),
        (lambda x, p, groups: p * by_group(x, groups), "is not p"),
        (lambda x, p, groups: (1 - p) / p * by_group(x, groups), "probability of dropping"),
        (lambda x, p, groups: (p / (1 - p) * by_group(x, groups)) ** 0.5, "standard deviation"),
        (lambda x, p, groups: 3.0, "contributes its sum"),
    ],
)
def test_noise_hints(answer: object, hint: str) -> None:
    hinted(NOISE, answer, hint)


def test_noise_must_not_change_x() -> None:
    rejected(NOISE, lambda x, p, groups: sorts_x(x[::-1], p, groups), "changed an array")


# 3


def alpha(p: float, f: float) -> tuple[float, float]:
    a = ((1 - p) * (1 + p * f**2)) ** -0.5
    return a, -a * p * f


@pytest.mark.parametrize(
    ("answer", "hint"),
    [
        (lambda p, f: (1 / (1 - p), 0.0), "That is inverted dropout"),
        (lambda p, f: (alpha(p, f)[0], 0.0), "what must b be"),
        (lambda p, f: (alpha(p, f)[0], -alpha(p, f)[1]), "sign of b"),
        (lambda p, f: ((1 - p + p * f * f) ** -0.5, -p * f * (1 - p + p * f * f) ** -0.5), "less the squared mean"),
        (lambda p, f: (alpha(p, f)[0] ** 2, -p * f * alpha(p, f)[0] ** 2), "multiplies it by a^2"),
        (lambda p, f: alpha(1 - p, f), "exchanged keeping and dropping"),
        (lambda p, f: (alpha(p, f)[0], -p * f), "after the multiplication"),
        (lambda p, f: (1.0, 2.0), "Write down mean and variance"),
        (lambda p, f: alpha(p, f)[0], "return a, b"),
        (lambda p, f: (*alpha(p, f), 0.0), "return a, b"),
    ],
)
def test_constants_hints(answer: object, hint: str) -> None:
    hinted(CONSTANTS, answer, hint)


def test_a_pair_of_no_numbers() -> None:
    for pair in (("a", "b"), (1.0, float("nan")), (True, 1.0)):
        rejected(CONSTANTS, lambda p, f, pair=pair: pair, "returned", "expected a")


# 4


def kept(gamma: float, size: int, b: int) -> float:
    n = np.array([min(i + 1, b, size - i, size - b + 1) for i in range(size)])
    return float(((1 - gamma) ** np.outer(n, n)).mean())


def by_halving(size: int, block_size: int, p: float) -> float:
    low, high = 0.0, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (low, middle) if kept(middle, size, block_size) < 1 - p else (middle, high)
    return low


def by_brent(size: int, block_size: int, p: float) -> float:
    return float(brentq(lambda gamma: kept(gamma, size, block_size) - 1 + p, 0, 1, xtol=1e-12))


@pytest.mark.parametrize(
    ("answer", "hint"),
    [
        (lambda size, b, p: DropBlock(p, block_size=b).gamma(size, size), "the paper's formula"),
        (lambda size, b, p: p / b**2, "where they fit"),
        (lambda size, b, p: 1 - (1 - p) ** (1 / b**2), "right in the middle"),
        (lambda size, b, p: p, "a block drops b^2"),
        (lambda size, b, p: 0.5, "halve an interval"),
        (lambda size, b, p: -0.1, "between 0 and 1"),
        (lambda size, b, p: 1.5, "between 0 and 1"),
    ],
)
def test_gamma_hints(answer: object, hint: str) -> None:
    hinted(GAMMA, answer, hint)


def test_the_check_agrees_with_the_layer() -> None:
    """The share that the check expects is that of `DropBlock.keep_probability`."""
    layer = DropBlock(0.3, block_size=3)
    gamma = layer.gamma(8, 8)
    assert kept(gamma, 8, 3) == pytest.approx(layer.keep_probability(8, 8).mean(), rel=1e-12)


# Right answers.

RIGHT: dict[str, list[Callable[..., Any]]] = {
    SHAPE: [shape_by_axes, shape_by_branch],
    NOISE: [
        lambda x, p, groups: p / (1 - p) * by_group(x, groups),
        lambda x, p, groups: np.array(p / (1 - p) * (x @ (groups[:, None] == groups) @ x)),
    ],
    CONSTANTS: [alpha, lambda p, f: np.array(alpha(p, f)), lambda p, f: list(alpha(p, f))],
    GAMMA: [by_halving, by_brent],
}


@pytest.mark.parametrize(("name", "answer"), [(name, answer) for name in RIGHT for answer in RIGHT[name]])
def test_right_answers_pass_under_many_seeds(name: str, answer: object) -> None:
    for seed in range(20):
        result = check(name, answer, seed=seed)
        assert result, result.message


@pytest.mark.parametrize("name", RIGHT)
def test_the_check_is_deterministic(name: str) -> None:
    assert check(name, RIGHT[name][0]) == check(name, RIGHT[name][0])
