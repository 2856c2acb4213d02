"""The exercises of "gradient-flow": wrong answers with the hint that is meant for them, and right ones."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from dropoutlib.checks import check
from tests.dropoutlib.checking import hinted

Array = np.ndarray[Any, Any]
GRADIENT, NORM, PENALTY, NUMERICAL = (f"gradient-flow.{i}" for i in (1, 2, 3, 4))


# 1


def in_place(dy: Array, mask: Array, p: float) -> Array:
    dy *= mask / (1 - p)
    return dy


@pytest.mark.parametrize(
    ("answer", "hint"),
    [
        (lambda dy, mask, p: dy * mask, "gradient of standard dropout"),
        (lambda dy, mask, p: dy * mask / p, "the share that is dropped"),
        (lambda dy, mask, p: dy * mask * (1 - p), "not its inverse"),
        (lambda dy, mask, p: dy / (1 - p), "Dropped elements did not reach"),
        (lambda dy, mask, p: dy, "gradient in evaluation"),
        (lambda dy, mask, p: dy * ~mask / (1 - p), "flows through the dropped"),
        (lambda dy, mask, p: dy * mask / (1 - p) ** 2, "scaled twice"),
        (lambda dy, mask, p: dy * mask * 7, "differentiate by x"),
        (in_place, "Work on a copy"),
    ],
)
def test_gradient_hints(answer: object, hint: str) -> None:
    hinted(GRADIENT, answer, hint)


def test_gradient_of_a_wrong_kind_is_reported() -> None:
    for answer in (lambda dy, mask, p: dy.sum(), lambda dy, mask, p: dy > 0, lambda dy, mask, p: "dx"):
        assert "expected numbers of shape (3, 4)" in check(GRADIENT, answer).message


# 2


def squares(g: Array) -> float:
    return float(np.sum(g**2))


@pytest.mark.parametrize(
    ("answer", "hint"),
    [
        (lambda g, p: np.linalg.norm(g), "mean of the norms is not the norm of the mean"),
        (lambda g, p: np.linalg.norm(g) / (1 - p), "Average."),
        (lambda g, p: np.linalg.norm(g) * (1 - p) ** 0.5, "standard dropout"),
        (lambda g, p: squares(g) / (1 - p), "Take the root"),
        (lambda g, p: (squares(g) * p / (1 - p)) ** 0.5, "variance alone"),
        (lambda g, p: (squares(g) / p) ** 0.5, "the share that is dropped"),
        (lambda g, p: 3.0, "each is q times a square"),
    ],
)
def test_norm_hints(answer: object, hint: str) -> None:
    hinted(NORM, answer, hint)


# 3


@pytest.mark.parametrize(
    ("answer", "hint"),
    [
        (lambda w, X, p: p / (1 - p) * np.sum(w**2), "plain L2"),
        (lambda w, X, p: p / (1 - p) * np.sum(w**2 * X.var(axis=0)), "its mean included"),
        (lambda w, X, p: p / (1 - p) * np.sum((w * X.mean(axis=0)) ** 2), "mean of the squares"),
        (lambda w, X, p: p * (1 - p) * np.mean(X**2 @ w**2), "what does that do to its variance"),
        (lambda w, X, p: p * np.mean(X**2 @ w**2), "is not p"),
        (lambda w, X, p: (1 - p) / p * np.mean(X**2 @ w**2), "probability of dropping"),
        (lambda w, X, p: p / (1 - p) * np.sum(X**2 @ w**2), "add the rows up"),
        (lambda w, X, p: p / (1 - p) * np.mean((X @ w) ** 2), "square the whole prediction"),
        (lambda w, X, p: p / (1 - p) * w**2 * np.mean(X**2, axis=0), "Add them up"),
        (lambda w, X, p: 3.0, "only the variance is new"),
    ],
)
def test_penalty_hints(answer: object, hint: str) -> None:
    hinted(PENALTY, answer, hint)


# 4


def differences(layer: Any, x: Array, dy: Array, h: float = 1e-5, hold: Callable[[Any], Any] = copy.deepcopy) -> Array:
    gradient = np.empty_like(x)
    for i in np.ndindex(x.shape):
        up, down = x.copy(), x.copy()
        up[i] += h
        down[i] -= h
        gradient[i] = np.sum(dy * (hold(layer).forward(up) - hold(layer).forward(down))) / (2 * h)
    return gradient


def one_sided(layer: Any, x: Array, dy: Array) -> Array:
    start = copy.deepcopy(layer)
    base, flat = copy.deepcopy(start)(x), []
    for k in range(x.size):
        moved = x.ravel().copy()
        moved[k] += 1e-6
        flat.append((dy * (copy.deepcopy(start)(moved.reshape(x.shape)) - base)).sum() / 1e-6)
    return np.array(flat).reshape(x.shape)


def moves_x_itself(layer: Any, x: Array, dy: Array) -> Array:
    x += 1e-9
    return differences(layer, x, dy)


def forgets_to_move(layer: Any, x: Array, dy: Array) -> Array:
    return np.zeros_like(x)


@pytest.mark.parametrize(
    ("answer", "hint"),
    [
        (lambda layer, x, dy: differences(layer, x, dy, hold=lambda same: same), "Two forward passes draw two masks"),
        (lambda layer, x, dy: differences(layer, x, np.ones_like(dy)), "left out dy"),
        (lambda layer, x, dy: 2 * differences(layer, x, dy), "divide by 2 h, not h"),
        (lambda layer, x, dy: differences(layer, x, dy) / 2, "divide by their distance, once"),
        (lambda layer, x, dy: layer.backward(dy), "forward(x) and nothing else"),
        (lambda layer, x, dy: dy * layer.mask, "forward(x) and nothing else"),
        (forgets_to_move, "Nothing changed"),
        (moves_x_itself, "Work on a copy"),
        (lambda layer, x, dy: 1.2 * differences(layer, x, dy), "Move one entry of x"),
    ],
)
def test_numerical_hints(answer: object, hint: str) -> None:
    hinted(NUMERICAL, answer, hint)


# Right answers.

RIGHT: dict[str, list[Any]] = {
    GRADIENT: [
        lambda dy, mask, p: dy * mask / (1 - p),
        lambda dy, mask, p: np.where(mask, dy * (1 / (1 - p)), 0.0),
        lambda dy, mask, p: (mask * np.float64(1) / (1 - p)).astype(np.float64) * dy,
    ],
    NORM: [
        lambda g, p: np.linalg.norm(g) / np.sqrt(1 - p),
        lambda g, p: float(sum((1 - p) * (u / (1 - p)) ** 2 for u in g)) ** 0.5,
    ],
    PENALTY: [
        lambda w, X, p: p / (1 - p) * np.sum(w**2 * np.mean(X**2, axis=0)),
        lambda w, X, p: p / (1 - p) * float(((X * w) ** 2).sum(axis=1).mean()),
        lambda w, X, p: np.array((1 / (1 - p) - 1) * (np.einsum("ij,ij,j->", X, X, w * w) / len(X))),
    ],
    NUMERICAL: [differences, one_sided, lambda layer, x, dy: differences(layer, x, dy, h=1e-3)],
}


@pytest.mark.parametrize(("name", "answer"), [(name, answer) for name in RIGHT for answer in RIGHT[name]])
def test_right_answers_pass_under_many_seeds(name: str, answer: object) -> None:
    for seed in range(20):
        result = check(name, answer, seed=seed)
        assert result, result.message


@pytest.mark.parametrize("name", RIGHT)
def test_the_check_is_deterministic(name: str) -> None:
    assert check(name, RIGHT[name][0]) == check(name, RIGHT[name][0])
