"""The exercises of the chapter "frameworks"."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from dropoutlib.checks.exercises import Answer, Mistake, exercise, fits_binomial, number

Array = npt.NDArray[Any]
Layer = Callable[[npt.ArrayLike, bool], Array]


# --- 1: what the number means --------------------------------------------------------------------------------------

# Whether the number keeps, and a hint for who reads it the other way.
_MEANINGS: dict[str, tuple[bool, str]] = {
    "torch.nn.functional.dropout": (False, "PyTorch's p is the probability of an element to be zeroed."),
    "keras.layers.Dropout": (False, "Keras' rate is the fraction to drop."),
    "tf.nn.dropout": (False, "TensorFlow 2's rate is the probability of being set to 0."),
    "tf.compat.v1.nn.dropout": (True, "The second argument of TensorFlow 1's function is keep_prob, not rate."),
    "flax.nnx.Dropout": (False, 'Flax says it itself: "not the keep rate!"'),
    "jax.example_libraries.stax.Dropout": (True, "It is called rate, but the table shows what stax does with .9."),
    "Srivastava et al. (2014)": (True, "The paper retains a unit with probability p."),
}


@exercise("frameworks.1")
def dropped(answer: Answer, seed: int) -> str:
    """Check dropped(api, number): the probability of a zero where `api` is given `number` as its first number."""
    numbers = (0.1, 0.7, 0.5)
    for api, (keeps, hint) in _MEANINGS.items():
        for given in numbers:
            text = f'dropped("{api}", {given})'
            value = number(answer.call(text, api, given), text)
            expected = 1 - given if keeps else given
            if not np.isclose(value, expected, rtol=1e-9):
                other = np.isclose(value, given if keeps else 1 - given, rtol=1e-9)
                raise Mistake(
                    f"{text} returned {value:.6g}, expected {expected:.6g}",
                    hint if other else "It is the number itself, or one minus it.",
                )
    return f"All {len(_MEANINGS)} readings are right."


# --- 2: the row sums of attention ----------------------------------------------------------------------------------

_WRONG_VARIANCES: tuple[tuple[Callable[[Array, float], float], str], ...] = (
    (lambda a, p: p * (1 - p) * float(a @ a), "That is without the scale: what is kept is also multiplied by 1/(1-p)."),
    (lambda a, p: (1 - p) / p * float(a @ a), "p and 1-p have changed places: at p = 0 nothing varies."),
    (lambda a, p: p / (1 - p), "That is of a row with one single weight of 1. Each weight contributes its square."),
    (lambda a, p: p / (1 - p) / a.size, "That is of a flat row, where all weights are equal. This one is not."),
    (lambda a, p: float(np.sqrt(p / (1 - p) * float(a @ a))), "That is the standard deviation. Its square is asked."),
)


@exercise("frameworks.2")
def row_sum_variance(answer: Answer, seed: int) -> str:
    """Check row_sum_variance(a, p): the variance of the sum of a row of attention weights after inverted dropout."""
    rng = np.random.default_rng(seed)
    rates = (0.1, 0.6, 0.5)
    for p in rates:
        a = rng.dirichlet(np.ones(6))
        text = f"row_sum_variance(a, {p})"
        value = number(answer.call(text, a.copy(), p), text)
        expected = p / (1 - p) * float(a @ a)
        if not np.isclose(value, expected, rtol=1e-9):
            hint = next(
                (hint for rule, hint in _WRONG_VARIANCES if np.isclose(value, rule(a, p), rtol=1e-9)),
                "The sum is that of m_j a_j / q with independent m_j. Add up the variances of its terms.",
            )
            raise Mistake(
                f"{text} returned {value:.6g} for the weights {np.round(a, 3)}, expected {expected:.6g}", hint
            )
    return f"The variance is right for three rows, at p = {', '.join(map(str, sorted(rates)))}."


# --- 3: a mask with a shape of its own -----------------------------------------------------------------------------


@exercise("frameworks.3")
def noise_shape_dropout(answer: Answer, seed: int) -> str:
    """Check dropout(x, p, noise_shape, rng): inverted dropout in training, with one draw along axes marked 1.

    An entry of `noise_shape` is 1 (one draw for the whole axis), the size of the axis, or None, which means the size.
    """
    cases: tuple[tuple[tuple[int, ...], tuple[int | None, ...], float], ...] = (
        ((600, 500), (600, 500), 0.2),
        ((40, 3000), (1, 3000), 0.2),
        ((3000, 40), (3000, 1), 0.7),
        ((100, 20, 30), (None, 1, None), 0.7),
    )
    for shape, noise_shape, p in cases:
        text = f"dropout(x, {p}, {noise_shape}, rng) with x of shape {shape}"
        x = np.linspace(1, 2, int(np.prod(shape)), dtype=np.float32).reshape(shape)
        value = answer.call(text, x.copy(), p, noise_shape, np.random.default_rng(seed), hint=_NONE_HINT)
        _check_noise(np.asarray(value), x, p, noise_shape, text)
    x = np.ones((3, 2), np.float32)
    text = "dropout(x, 0.0, (3, 2), rng)"
    if not np.array_equal(np.asarray(answer.call(text, x.copy(), 0.0, (3, 2), np.random.default_rng(seed))), x):
        raise Mistake(f"{text} did not return x", "At p = 0 everything is kept, and the scale is 1.")
    return "Masks, shared axes and scale are right for four noise shapes, at p = 0.2 and 0.7."


_NONE_HINT = "Draw a mask of noise_shape, with the size of the axis in place of None, and let NumPy broadcast it."


def _check_noise(y: Array, x: Array, p: float, noise_shape: tuple[int | None, ...], text: str) -> None:
    if y.shape != x.shape or y.dtype.kind != "f":
        raise Mistake(f"{text} returned {y.dtype} of shape {y.shape}, expected floats of shape {x.shape}", _NONE_HINT)
    zeros = y == 0
    shared = tuple(k for k, size in enumerate(noise_shape) if size == 1)
    for axis in range(x.ndim):
        one_draw = bool((zeros == zeros.take([0], axis=axis)).all())
        if one_draw and axis not in shared:
            raise Mistake(f"{text} used one draw along axis {axis}", "Only an axis whose entry is 1 shares its draw.")
        if not one_draw and axis in shared:
            raise Mistake(
                f"{text} used more than one draw along axis {axis}",
                "The mask has the shape noise_shape, not that of x; broadcasting makes it as large as x.",
            )
    draws = zeros.take([0], axis=shared[0]) if shared else zeros
    count = int(np.count_nonzero(draws))
    if not fits_binomial(count, draws.size, p):
        swapped = fits_binomial(count, draws.size, 1 - p)
        raise Mistake(
            f"{text} dropped {count / draws.size:.2f} of its draws, expected about {p}",
            "p is the probability of dropping here." if swapped else "Each draw is 0 with probability p.",
        )
    factor = float(np.median((y / x)[~zeros]))
    if not np.allclose((y / x)[~zeros], 1 / (1 - p), rtol=1e-4):
        hints = {1 / p: "1/p is right only where p keeps.", 1.0: "The kept elements are not scaled up."}
        hint = next((hint for wrong, hint in hints.items() if np.isclose(factor, wrong, rtol=1e-4)), "")
        raise Mistake(
            f"{text} multiplied the kept elements by {factor:.4g}, expected {1 / (1 - p):.4g}",
            hint or "The scale does not depend on the shape of the mask: an element is kept with probability 1-p.",
        )


# --- 4: whose trap is it? ------------------------------------------------------------------------------------------

_NAMES = ("right", "ignores the mode", "keeps with p", "one mask for all rows", "drops whole rows")
_LOOK = {
    "right": "Look at a large x of ones, in both modes: where are the zeros, and how many?",
    "ignores the mode": "Call it with training=False. Does it return x?",
    "keeps with p": "Count the zeros in training, and compare their share with p.",
    "one mask for all rows": "Compare the zeros of the first row with those of the second.",
    "drops whole rows": "Compare the zeros of the first column with those of the second.",
}


@exercise("frameworks.4")
def name_the_trap(answer: Answer, seed: int) -> str:
    """Check name_the_trap(layer, p): which trap a layer has, or "right".

    `layer(x, training)` takes a matrix, one example a row. The names are "right", "ignores the mode", "keeps with p",
    "one mask for all rows" and "drops whole rows". At p = 0.5 a layer that keeps with p is right.
    """
    rng = np.random.default_rng(seed)
    cases = [(name, p) for p in (0.2, 0.7) for name in _NAMES] + [("keeps with p", 0.5)]
    for name, p in cases:
        expected = "right" if p == 0.5 else name
        text = f"name_the_trap(layer, {p})"
        value = answer.call(text, _layer(name, p, rng), p)
        if not isinstance(value, str) or value not in _NAMES:
            raise Mistake(f"{text} returned {value!r}, expected one of {', '.join(map(repr, _NAMES))}")
        if value != expected:
            hint = _LOOK[expected]
            if p == 0.5:
                hint = "At p = 0.5 keeping and dropping are the same, so this layer does nothing wrong."
            elif expected == "keeps with p" and value == "right":
                hint = "In evaluation this layer looks perfect, and each element has its own draw. " + hint
            raise Mistake(f"{text} returned {value!r} for a layer that is {name!r}, expected {expected!r}", hint)
    return f"All {len(cases)} layers were named rightly, at p = 0.2, 0.5 and 0.7."


def _layer(name: str, p: float, rng: np.random.Generator) -> Layer:
    if name == "keeps with p":
        p = 1 - p

    def layer(x: npt.ArrayLike, training: bool) -> Array:
        array = np.asarray(x, dtype=np.float64)
        if not training and name != "ignores the mode":
            return array.copy()
        rows, columns = array.shape
        shape = {"one mask for all rows": (1, columns), "drops whole rows": (rows, 1)}.get(name, (rows, columns))
        return np.asarray(array * (rng.random(shape) >= p) / (1 - p))

    return layer
