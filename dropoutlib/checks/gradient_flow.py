"""The exercises of the chapter "gradient-flow"."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from dropoutlib.checks.exercises import Answer, Mistake, exercise, number
from dropoutlib.layers import InvertedDropout, StandardDropout

Array = npt.NDArray[Any]

# Never 0.5 first: there p and 1 - p coincide.
_RATES = (0.2, 0.7, 0.5)


# --- 1: the gradient -----------------------------------------------------------------------------------------------

_Gradient = Callable[[Array, Array, float], Array]

_WRONG_GRADIENTS: tuple[tuple[_Gradient, str], ...] = (
    (
        lambda dy, m, p: dy * m,
        "That is the gradient of standard dropout. Inverted dropout also multiplied by a constant on the way forward; "
        "what does the chain rule do with a constant?",
    ),
    (
        lambda dy, m, p: dy * m / p,
        "You divide by the share that is dropped. On the way forward the kept elements were multiplied by 1/(1-p).",
    ),
    (
        lambda dy, m, p: dy * m * (1 - p),
        "The derivative of x * m / (1-p) with respect to x is m / (1-p): the same factor as on the way forward, not "
        "its inverse.",
    ),
    (
        lambda dy, m, p: dy / (1 - p),
        "Dropped elements did not reach the output. What does the output do when such an x moves?",
    ),
    (lambda dy, m, p: dy, "That is the gradient in evaluation. In training there is a mask and a factor."),
    (
        lambda dy, m, p: dy * (1 - m) / (1 - p),
        "Your gradient flows through the dropped elements. The mask is true where an element is kept.",
    ),
    (lambda dy, m, p: dy * m / (1 - p) ** 2, "You have scaled twice. Once is enough."),
)


@exercise("gradient-flow.1")
def dropout_gradient(answer: Answer, seed: int) -> str:
    """Check dropout_gradient(dy, mask, p): the gradient of inverted dropout with respect to x, in training."""
    rng = np.random.default_rng(seed)
    for p in _RATES:
        dy = rng.uniform(1, 2, (3, 4)) * rng.choice([-1, 1], (3, 4))
        mask = rng.permuted(np.arange(12) % 3 > 0).reshape(3, 4)
        text = f"dropout_gradient(dy, mask, {p})"
        value = _array(answer, text, dy, mask, p, like=dy)
        expected = dy * mask / (1 - p)
        if not np.allclose(value, expected, rtol=1e-6):
            entry = np.unravel_index(np.argmax(np.abs(value - expected)), dy.shape)
            hint = _hint(_WRONG_GRADIENTS, value, dy, mask, p) or "Write y = x * m / (1-p) and differentiate by x."
            raise Mistake(
                f"{text} returned {value[entry]:.6g} where dy is {dy[entry]:.6g} and mask is {mask[entry]}, "
                f"expected {expected[entry]:.6g}",
                hint,
            )
    return f"The gradient is right for p = {', '.join(map(str, sorted(_RATES)))}."


# --- 2: the norm ---------------------------------------------------------------------------------------------------

_Norm = Callable[[float, float], float]

_WRONG_NORMS: tuple[tuple[_Norm, str], ...] = (
    (
        lambda n, p: n,
        "The mean vector is preserved, and its norm is that of g. But the mean of the norms is not the norm of the "
        "mean: add up q (g_j / q)^2.",
    ),
    (lambda n, p: n / (1 - p), "One entry is kept with probability q, and then its square is g_j^2 / q^2. Average."),
    (lambda n, p: n * (1 - p) ** 0.5, "That is standard dropout, without the factor 1/q."),
    (lambda n, p: n**2 / (1 - p), "That is the mean of the squared norm. Take the root."),
    (
        lambda n, p: n * (p / (1 - p)) ** 0.5,
        "That is the variance alone. The mean square is variance plus mean squared.",
    ),
    (lambda n, p: n / p**0.5, "You divide by the share that is dropped. Which share is left?"),
)


@exercise("gradient-flow.2")
def rms_norm(answer: Answer, seed: int) -> str:
    """Check rms_norm(g, p): the root of the mean, over all masks, of the squared norm of g * mask / (1-p)."""
    rng = np.random.default_rng(seed)
    for p in _RATES:
        g = rng.uniform(1, 2, 7) * rng.choice([-1, 1], 7)
        norm = float(np.linalg.norm(g))
        text = f"rms_norm(g, {p}) with |g| = {norm:.6g}"
        value = number(answer.call(text, g, p), text)
        expected = norm / (1 - p) ** 0.5
        if not np.isclose(value, expected, rtol=1e-6):
            wrong = (hint for rule, hint in _WRONG_NORMS if np.isclose(value, rule(norm, p), rtol=1e-6))
            hint = next(wrong, "Sum E[g_hat_j^2] over the entries; each is q times a square.")
            raise Mistake(f"{text} returned {value:.6g}, expected {expected:.6g}", hint)
    return f"The root mean square of the norm is right for p = {', '.join(map(str, sorted(_RATES)))}."


# --- 3: the penalty ------------------------------------------------------------------------------------------------

_Penalty = Callable[[Array, Array, float], Any]

_WRONG_PENALTIES: tuple[tuple[_Penalty, str], ...] = (
    (
        lambda w, X, p: p / (1 - p) * np.sum(w**2),
        "That is plain L2. A dropped feature takes away w_j x_j, so the size of the feature matters too.",
    ),
    (
        lambda w, X, p: p / (1 - p) * np.sum(w**2 * X.var(axis=0)),
        "You use the variance of the features. Dropout takes away all of x_j, its mean included.",
    ),
    (
        lambda w, X, p: p / (1 - p) * np.sum(w**2 * X.mean(axis=0) ** 2),
        "You square the mean of the features. The mean of the squares is asked for.",
    ),
    (
        lambda w, X, p: p * (1 - p) * np.sum(w**2 * np.mean(X**2, axis=0)),
        "That is standard dropout: the variance of a mask is p q. Here the mask is divided by q; what does that do to "
        "its variance?",
    ),
    (
        lambda w, X, p: p * np.sum(w**2 * np.mean(X**2, axis=0)),
        "The variance of m/q is not p. It is p q / q^2.",
    ),
    (
        lambda w, X, p: (1 - p) / p * np.sum(w**2 * np.mean(X**2, axis=0)),
        "With small p there is little noise, so the penalty must be small. Here p is the probability of dropping.",
    ),
    (
        lambda w, X, p: p / (1 - p) * np.sum(w**2 * np.sum(X**2, axis=0)),
        "The loss is a mean over rows, and so is the penalty. You add the rows up.",
    ),
    (
        lambda w, X, p: p / (1 - p) * np.mean((X @ w) ** 2),
        "You square the whole prediction. The masks of two features are independent, so only the squares of single "
        "terms are left: sum over j of w_j^2 x_j^2.",
    ),
    (
        lambda w, X, p: p / (1 - p) * w**2 * np.mean(X**2, axis=0),
        "Those are the terms of single features. Add them up.",
    ),
)


@exercise("gradient-flow.3")
def penalty(answer: Answer, seed: int) -> str:
    """Check penalty(w, X, p): what inverted dropout on the rows of X adds to the mean squared error, on average.

    The squared error is not halved; the penalty is p/(1-p) * sum over j of w_j^2 * mean(X_j^2).
    """
    rng = np.random.default_rng(seed)
    for p in _RATES:
        w, X = rng.uniform(0.5, 2, 5), rng.uniform(0, 3, (9, 5))
        text = f"penalty(w, X, {p})"
        got = answer.call(text, w, X, p)
        hint = _hint(_WRONG_PENALTIES, got, w, X, p)
        if hint and isinstance(got, np.ndarray) and got.ndim:
            raise Mistake(f"{text} returned an array of shape {got.shape}, expected a number", hint)
        value = number(got, text)
        expected = float(p / (1 - p) * np.sum(w**2 * np.mean(X**2, axis=0)))
        if not np.isclose(value, expected, rtol=1e-6):
            raise Mistake(
                f"{text} returned {value:.6g}, expected {expected:.6g}",
                hint or "E[error^2] is the square of the mean plus the variance, and only the variance is new.",
            )
    return f"The penalty is right for p = {', '.join(map(str, sorted(_RATES)))}."


# --- 4: a gradient by differences ----------------------------------------------------------------------------------


class _ForwardOnly:
    """A layer that draws a mask, with nothing to help but its forward: y = dropout(x)**power."""

    def __init__(self, dropout: InvertedDropout | StandardDropout, power: int) -> None:
        self._dropout, self._power = dropout, power

    def forward(self, x: npt.ArrayLike) -> Array:
        return np.asarray(self._dropout.forward(x) ** self._power)

    __call__ = forward


@exercise("gradient-flow.4")
def numerical_gradient(answer: Answer, seed: int) -> str:
    """Check numerical_gradient(layer, x, dy): the gradient of sum(dy * layer.forward(x)) by differences.

    The layer draws a new mask at each forward; the mask that it would draw next is to be held fixed. It has a forward
    only, and can be copied by copy.deepcopy.
    """
    rng = np.random.default_rng(seed)
    cases = ((InvertedDropout, 0.2, 1), (StandardDropout, 0.7, 1), (InvertedDropout, 0.5, 2))
    for cls, p, power in cases:
        x, dy = rng.uniform(1, 2, (4, 5)), rng.uniform(1, 2, (4, 5))
        dropout = cls(p, np.random.default_rng(seed))
        layer = _ForwardOnly(copy.deepcopy(dropout), power)
        text = f"numerical_gradient(layer, x, dy), {cls.__name__} at p = {p}"
        y = dropout.forward(x)
        expected = dropout.backward(dy * power * y ** (power - 1))
        value = _array(
            answer, text, layer, x, dy, like=x, hint="The layer has forward(x) and nothing else; copy.deepcopy works."
        )
        if not np.allclose(value, expected, rtol=1e-3, atol=1e-3):
            raise Mistake(f"{text}: {_difference(value, expected)}", _difference_hint(value, expected, dy))
    return f"The differences are right for {len(cases)} layers, with the mask held fixed."


def _difference(value: Array, expected: Array) -> str:
    entry = tuple(map(int, np.unravel_index(np.argmax(np.abs(value - expected)), expected.shape)))
    return f"entry {entry} is {value[entry]:.6g}, expected {expected[entry]:.6g}"


def _difference_hint(value: Array, expected: Array, dy: Array) -> str:
    if np.abs(value).max() > 30 * np.abs(expected).max():
        return (
            "Two forward passes draw two masks, and the difference of two masks is divided by a tiny step. Let both go "
            "through a copy of the layer, made before anything is drawn."
        )
    if np.allclose(value, expected / dy, rtol=1e-3, atol=1e-3):
        return "You have left out dy: the gradient of sum(dy * y) is asked for."
    for factor, words in ((2.0, "2 h, not h"), (0.5, "their distance, once")):
        if np.allclose(value, factor * expected, rtol=1e-3, atol=1e-3):
            return f"You are off by a factor {factor:g}. The two places are 2 h apart: divide by {words}."
    if np.allclose(value, 0):
        return "Nothing changed between the two forward passes. Does the copy of x that you move go through the layer?"
    return "Move one entry of x up and down, let both go through copies of the layer, and divide by the distance."


# --- shared --------------------------------------------------------------------------------------------------------


def _array(answer: Answer, text: str, *arguments: Any, like: Array, hint: str = "") -> Array:
    """Return the answer's array after checking its shape and that no argument was changed."""
    before = copy.deepcopy([argument for argument in arguments if isinstance(argument, np.ndarray)])
    value = np.asarray(answer.call(text, *arguments, hint=hint))
    after = [argument for argument in arguments if isinstance(argument, np.ndarray)]
    if not all(np.array_equal(u, v) for u, v in zip(before, after, strict=True)):
        raise Mistake(f"{text} changed an array that it was given", "Work on a copy: x = x.copy().")
    if value.shape != like.shape or value.dtype.kind != "f":
        raise Mistake(f"{text} returned {value.dtype} of shape {value.shape}, expected numbers of shape {like.shape}")
    return value


def _hint(rules: Any, value: Any, *arguments: Any) -> str:
    """Return the hint of the first wrong rule that gives this value, or an empty string."""
    array = np.asarray(value)
    if array.dtype.kind not in "fiu":
        return ""
    for rule, hint in rules:
        wrong = np.asarray(rule(*arguments))
        if wrong.shape == array.shape and np.allclose(array, wrong, rtol=1e-6):
            return str(hint)
    return ""
