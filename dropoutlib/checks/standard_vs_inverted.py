"""The exercises of the chapter "standard-vs-inverted"."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from dropoutlib.checks.exercises import Answer, Mistake, exercise, fits_binomial, number

Array = npt.NDArray[Any]
Weights = list[tuple[Array, Array]]
# What a wrong rule gives for p, and the hint for it.
Rules = tuple[tuple[Callable[[float], float], str], ...]

# Never 0.5 first: there 1/p and 1/(1-p) coincide.
_RATES = (0.2, 0.7, 0.1, 0.5, 0.9)


# --- 1: the factor of the kept activations -------------------------------------------------------------------------

_WRONG_SCALES: Rules = (
    (
        lambda p: 1 / p,
        "Of 10 elements at p = 0.2, how many are left? You divide by the share of the others. At p = 0.5 the two "
        "shares are equal, and the mistake cannot be seen.",
    ),
    (
        lambda p: 1 - p,
        "That is what standard dropout multiplies by in evaluation. Here the elements that are left must make up for "
        "those that are gone: should they shrink or grow?",
    ),
    (
        lambda p: 1.0,
        "Without a factor the mean over all masks is smaller than x. By how much?",
    ),
    (
        lambda p: p / (1 - p),
        "That is the variance of mask times factor. Which factor makes the mean 1?",
    ),
    (
        lambda p: 1 / (1 - p) ** 2,
        "You make up for the loss twice. What is the mean of mask times factor?",
    ),
    (
        lambda p: 2.0,
        "That is right for p = 0.5 only. How does the factor depend on p?",
    ),
)


@exercise("standard-vs-inverted.1")
def scale(answer: Answer, seed: int) -> str:
    """Check scale(p): the factor that inverted dropout gives to kept activations in training, 0 <= p < 1."""
    values = {p: number(answer.call(f"scale({p})", p), f"scale({p})") for p in _RATES}
    for p, value in values.items():
        if not _close(value, 1 / (1 - p)):
            hint = _matching(_WRONG_SCALES, values) or "The mean of mask times factor should be 1."
            raise Mistake(f"scale({p}) returned {value:.6g}, expected {1 / (1 - p):.6g}", hint)
    hint = "With p = 0 nothing is dropped, so there is nothing to make up for."
    value = number(answer.call("scale(0.0)", 0.0, hint=hint), "scale(0.0)")
    if not _close(value, 1.0):
        raise Mistake(f"scale(0.0) returned {value:.6g}, expected 1", hint)
    return f"scale(p) is right for p = 0, {', '.join(map(str, sorted(_RATES)))}."


# --- 2: inverted dropout -------------------------------------------------------------------------------------------

_SHAPE = (128, 256)


@exercise("standard-vs-inverted.2")
def inverted_dropout(answer: Answer, seed: int) -> str:
    """Check inverted_dropout(x, p, rng, training) -> (y, mask), with mask true (or 1) where an element is kept.

    In evaluation y is x, and the mask is not looked at. A right answer is rejected with a probability of at most
    1e-9: two counts of kept elements are held against Chernoff's bound at 1e-10 each. Once every y/x is 0 or 1/(1-p),
    the bound on the count is a bound on the mean and on the variance of y/x too, since these are functions of the
    count. Everything else that a right answer could fail by chance (equal rows, columns or masks, eight equal counts)
    has a probability below 1e-15.
    """
    x = np.linspace(1.0, 2.0, _SHAPE[0] * _SHAPE[1]).reshape(_SHAPE)
    x[::2] *= -1
    for p in (0.2, 0.7):
        _check_training(answer, x, p, seed)
    _check_draws(answer, x, seed)
    for p in (0.2, 0.7):
        _check_evaluation(answer, x, p, seed)
    _check_dtypes(answer, x, seed)
    _check_shapes(answer, seed)
    _check_extremes(answer, x[:4, :8], seed)
    return (
        "Kept share, factor, fresh masks, evaluation, dtype, shapes, p = 0 and p = 1 are right "
        f"(tested on arrays of {_SHAPE[0]} x {_SHAPE[1]})."
    )


def _call(
    answer: Answer, x: Array, p: float, rng: np.random.Generator, training: bool, hint: str = ""
) -> tuple[Array, object, str]:
    """Return y, the mask as it came, and the call as text, after checking what holds for every call."""
    text = f"inverted_dropout(x, {p}, rng, training={training}) with x of shape {x.shape} and dtype {x.dtype}"
    before = x.copy()
    value = answer.call(text, x, p, rng, training, hint=hint)
    if not (isinstance(value, tuple) and len(value) == 2):
        raise Mistake(f"{text} returned {type(value).__name__}, expected a pair (y, mask)", "End with: return y, mask")
    if not np.array_equal(x, before):
        raise Mistake(
            f"{text} changed x", "Make a new array (y = x * ...) and leave the old one as it is (no x *= ...)."
        )
    y = np.asarray(value[0])
    if y.shape != x.shape:
        raise Mistake(f"{text} returned y of shape {y.shape}, expected {x.shape}")
    if y.dtype.kind != "f":
        raise Mistake(f"{text} returned y of dtype {y.dtype}, expected {x.dtype}")
    return y, value[1], text


def _draw(
    answer: Answer, x: Array, p: float, rng: np.random.Generator, hint: str = ""
) -> tuple[Array, npt.NDArray[np.bool_], str]:
    """Call the answer in training and return y, the mask as bool, and the call as text."""
    y, raw, text = _call(answer, x, p, rng, True, hint)
    mask = np.asarray(raw)
    if mask.shape != x.shape:
        raise Mistake(
            f"{text} returned a mask of shape {mask.shape}, expected {x.shape}",
            "Each element of x needs a draw of its own: one mask must not serve the whole batch.",
        )
    if mask.dtype.kind not in "biuf" or not np.isin(mask, (0, 1)).all():
        raise Mistake(
            f"{text} returned a mask with other values than 0 and 1",
            "The mask says what is kept; the factor is applied to y.",
        )
    return y, mask.astype(np.bool_), text


def _check_training(answer: Answer, x: Array, p: float, seed: int) -> None:
    y, mask, text = _draw(answer, x, p, np.random.default_rng(seed))
    kept, q = int(mask.sum()), 1 - p
    if kept == 0 or kept == mask.size:
        raise Mistake(f"{text} {'dropped' if kept == 0 else 'kept'} every element, expected {q:.0%} kept")
    different = [np.unique(mask, axis=axis).shape[axis] for axis in (0, 1)]
    if different != list(mask.shape):
        name, other = ("rows", "batch") if different[0] < different[1] else ("columns", "row")
        raise Mistake(
            f"{text} drew the same mask for several {name}, expected another for each",
            f"Each element of x needs a draw of its own: one mask must not serve the whole {other}.",
        )
    if not fits_binomial(kept, mask.size, q):
        swapped = fits_binomial(kept, mask.size, p)
        raise Mistake(
            f"{text} kept {kept / mask.size:.1%} of the elements, expected {q:.0%}",
            "Here p is the probability of dropping. Which of the two does your comparison with p select?"
            if swapped
            else "",
        )
    if np.any(y[~mask] != 0) or np.any(y[mask] == 0):
        raise Mistake(
            f"{text} returned a y that is not 0 exactly where mask is false",
            "y and mask must come from one draw, and mask is true where the element is kept.",
        )
    ratios = y[mask] / x[mask]
    if not np.allclose(ratios, 1 / q, rtol=1e-6):
        raise Mistake(
            f"{text} multiplied kept elements by {_range(ratios)}, expected {1 / q:.6g}",
            _scale_hint(answer, x, p, ratios, seed),
        )


def _scale_hint(answer: Answer, x: Array, p: float, ratios: Array, seed: int) -> str:
    """Return the hint for a wrong factor in training."""
    if np.allclose(ratios, 1.0):
        evaluated, _, _ = _call(answer, x, p, np.random.default_rng(seed), False)
        if np.allclose(evaluated / x, 1 - p):
            return "This is standard dropout: it scales in evaluation. Where does inverted dropout scale?"
        return (
            "Nothing makes up for what was dropped: the mean of y is smaller than x. Give the kept elements a factor."
        )
    return _matching(_WRONG_SCALES, {p: float(np.median(ratios))}) or "Which factor makes the mean of y equal to x?"


def _check_draws(answer: Answer, x: Array, seed: int) -> None:
    p = 0.2
    rng = np.random.default_rng(seed)
    first, *others = (_draw(answer, x, p, rng)[1] for _ in range(8))
    if all(np.array_equal(first, mask) for mask in others):
        raise Mistake(
            "eight calls in training with one rng drew the same mask",
            "Draw inside the function and from the rng that is handed over; do not make or seed one there.",
        )
    if all(mask.sum() == first.sum() for mask in others):
        raise Mistake(
            f"eight calls in training each kept exactly {first.sum()} elements",
            "Each element is kept or dropped by a draw of its own; the number of kept ones is random too.",
        )
    if not np.array_equal(first, _draw(answer, x, p, np.random.default_rng(seed))[1]):
        raise Mistake(
            "two generators with the same seed gave two masks",
            "Take all random numbers from the rng that is handed over.",
        )


def _check_evaluation(answer: Answer, x: Array, p: float, seed: int, hint: str = "") -> None:
    y, _, text = _call(answer, x, p, np.random.default_rng(seed), False, hint)
    if np.array_equal(y, x):
        return
    zeros = np.mean(y == 0)
    if zeros > 0:
        raise Mistake(
            f"{text} set {zeros:.0%} of the elements to 0, expected y equal to x",
            hint or "Dropout must be off in evaluation. Does the function look at training?",
        )
    raise Mistake(
        f"{text} multiplied x by {_range(y / x)}, expected y equal to x",
        "Training has already made up for the loss, so evaluation must not scale too.",
    )


def _check_dtypes(answer: Answer, x: Array, seed: int) -> None:
    for dtype in (np.float32, np.float16):
        for training in (True, False):
            y, _, text = _call(answer, x.astype(dtype), 0.2, np.random.default_rng(seed), training)
            if y.dtype != dtype:
                raise Mistake(
                    f"{text} returned {y.dtype}, expected {np.dtype(dtype)}",
                    "Which operand has the wider dtype? A float64 array turns the whole product into float64; "
                    "a Python float does not.",
                )


def _check_shapes(answer: Answer, seed: int) -> None:
    for x in (np.ones(()), np.ones(0), np.ones(3), np.ones((2, 3, 4)), np.ones((6, 4))[::2].T):
        _draw(answer, x, 0.2, np.random.default_rng(seed), "x may have any shape.")
        _call(answer, x, 0.2, np.random.default_rng(seed), False, "x may have any shape.")


def _check_extremes(answer: Answer, x: Array, seed: int) -> None:
    y, mask, text = _draw(answer, x, 0.0, np.random.default_rng(seed))
    if not (np.array_equal(y, x) and mask.all()):
        raise Mistake(f"{text} changed some elements, expected y equal to x and all kept", "p = 0 drops nothing.")
    hint = "At p = 1 nothing is kept and 1 - p is 0. Give zeros there without dividing."
    y, mask, text = _draw(answer, x, 1.0, np.random.default_rng(seed), hint)
    if np.any(y != 0):
        raise Mistake(f"{text} returned {'nan' if np.isnan(y).any() else 'other values'}, expected zeros", hint)
    if mask.any():
        raise Mistake(f"{text} kept {mask.sum()} of {mask.size} elements, expected none", "p = 1 drops everything.")
    for p in (0.0, 1.0):
        _check_evaluation(answer, x, p, seed, "In evaluation p plays no part, so look at training first.")


# --- 3: folding a standard network for inference -------------------------------------------------------------------

_NETWORKS: tuple[tuple[tuple[int, ...], tuple[float, ...]], ...] = (
    ((4, 6, 5, 3), (0.2, 0.5, 0.3)),
    ((4, 6, 5, 3), (0.0, 0.7, 0.4)),
    ((7, 2), (0.9,)),
)

_Fold = Callable[[Array, Array, int, Sequence[float]], tuple[Array, Array]]

_ONE_RATE = "You use one rate for all layers. Each matrix has its own."

_WRONG_FOLDS: tuple[tuple[_Fold, str], ...] = (
    (
        lambda W, b, i, p: (W, b),
        "Nothing was folded. In training a unit's input was present only part of the time; at inference it always is.",
    ),
    (
        lambda W, b, i, p: (W * (1 - p[i]), b * (1 - p[i])),
        "A bias is added after the dropout and is never dropped. Should it shrink?",
    ),
    (
        lambda W, b, i, p: (W / (1 - p[i]), b),
        "That is the way from an inverted network to a standard one. Standard training saw a part of the inputs; "
        "inference sees all of them. Should the weights grow or shrink?",
    ),
    (
        lambda W, b, i, p: (W * (1 - (*p, 0.0)[i + 1]), b),
        "You use the rate of the next layer. rates[i] is the dropout just before weights[i], and it is the weights "
        "that leave the dropped units which shrink.",
    ),
    (
        lambda W, b, i, p: (W * (1 - (0.0, *p)[i]), b),
        "You use the rate of the layer before. rates[i] is the dropout just before weights[i].",
    ),
    (
        lambda W, b, i, p: (W * p[i], b),
        "Here p is the probability of dropping. How often was an input present?",
    ),
    (
        lambda W, b, i, p: (W * (1 - p[i]) ** 2, b),
        "You have folded twice. Once is enough.",
    ),
    (lambda W, b, i, p: (W * (1 - p[0]), b), _ONE_RATE),
    (lambda W, b, i, p: (W * (1 - p[-1]), b), _ONE_RATE),
    (lambda W, b, i, p: (W * (1 - max(p)), b), _ONE_RATE),
    (lambda W, b, i, p: (W * (1 - np.mean(p)), b), _ONE_RATE),
    (
        lambda W, b, i, p: (W * np.prod([1 - r for r in p[: i + 1]]), b),
        "You multiply by all the rates so far. Each matrix has only its own: the earlier ones are already folded "
        "into what comes in.",
    ),
)


@exercise("standard-vs-inverted.3")
def fold(answer: Answer, seed: int) -> str:
    """Check fold(weights, rates): the weights with which a standard-dropout network predicts without dropout.

    `weights` is a list of (W, b) with W of shape (outputs, inputs); rates[i] is the rate of the dropout just before
    weights[i], 0 for none. The result is a new list of (W, b).
    """
    rng = np.random.default_rng(seed)
    for sizes, rates in _NETWORKS:
        weights = [
            (rng.uniform(1, 2, (outputs, inputs)), rng.uniform(1, 2, outputs)) for inputs, outputs in pairwise(sizes)
        ]
        _check_fold(answer, weights, rates)
    _check_fold(answer, [(W.astype(np.float32), b.astype(np.float32)) for W, b in weights], rates)
    return f"All weights and biases are right in {len(_NETWORKS)} networks, and the checkpoint is unchanged."


def _check_fold(answer: Answer, weights: Weights, rates: Sequence[float]) -> None:
    text = f"fold(weights, {list(rates)})"
    given = [(W.copy(), b.copy()) for W, b in weights]
    originals = list(given)
    value = answer.call(text, given, list(rates))
    folded = _pairs(value, weights, text)
    for i, (W, b) in enumerate(weights):
        for name, got, expected in (("W", folded[i][0], W * (1 - rates[i])), ("b", folded[i][1], b)):
            if not np.allclose(got, expected, rtol=1e-5):
                raise Mistake(
                    f"{text}: {name} of layer {i} came back multiplied by {_range(got / (W if name == 'W' else b))}, "
                    f"expected {(1 - rates[i]) if name == 'W' else 1:.6g}",
                    _fold_hint(folded, weights, rates),
                )
            if got.dtype != expected.dtype:
                raise Mistake(f"{text}: {name} of layer {i} came back as {got.dtype}, expected {expected.dtype}")
    replaced = len(given) != len(originals) or any(u is not v for u, v in zip(given, originals, strict=True))
    if replaced or not all(np.array_equal(u, v) for u, v in zip(_flat(originals), _flat(weights), strict=True)):
        raise Mistake(
            f"{text} changed the weights that it was given",
            "The checkpoint is still needed, and a second call would fold again. Build a new list of new arrays.",
        )


def _pairs(value: object, weights: Weights, text: str) -> Weights:
    """Return the answer's list of (W, b) as arrays after checking lengths and shapes."""
    expected = f"expected a list of {len(weights)} pairs (W, b)"
    if not isinstance(value, list | tuple):
        raise Mistake(f"{text} returned {type(value).__name__}, {expected}")
    if len(value) != len(weights) or any(not isinstance(pair, list | tuple) or len(pair) != 2 for pair in value):
        raise Mistake(f"{text} returned {len(value)} items, {expected}")
    folded = [(np.asarray(W), np.asarray(b)) for W, b in value]
    for i, (new, old) in enumerate(zip(folded, weights, strict=True)):
        for u, v in zip(new, old, strict=True):
            if u.shape != v.shape or u.dtype.kind != "f":
                raise Mistake(f"{text}: layer {i} has an array of shape {u.shape}, expected {v.shape}")
    return folded


def _fold_hint(folded: Weights, weights: Weights, rates: Sequence[float]) -> str:
    """Return the hint of the wrong rule that gives exactly this result."""
    for rule, hint in _WRONG_FOLDS:
        wrong = [rule(W, b, i, rates) for i, (W, b) in enumerate(weights)]
        if all(np.allclose(u, v, rtol=1e-5) for u, v in zip(_flat(folded), _flat(wrong), strict=True)):
            return hint
    return "How often was each input of this matrix present in training, and was the bias ever absent?"


def _flat(weights: Weights) -> list[Array]:
    return [array for pair in weights for array in pair]


# --- 4: the learning rate of the standard network ------------------------------------------------------------------

_LEARNING_RATE_POWERS = {"SGD": -2, "Adam": -1}

_WRONG_WAY = "The standard network's weights are the larger ones, so its steps must be larger too. Which way do you go?"
_SHARE = "Your factor is built from p, the share that is dropped. Which share is left?"

_WRONG_LEARNING_RATES: dict[str, Rules] = {
    "SGD": (
        (
            lambda p: 1 / (1 - p),
            "A step of W_s must be 1/q times a step of W_i. But SGD's step also contains the gradient, and dL/dW_s is "
            "not dL/dW_i: how do they differ?",
        ),
    ),
    "Adam": (
        (
            lambda p: 1 / (1 - p) ** 2,
            "That is SGD's map. Adam divides the gradient by its own size: what is left of a factor in the gradient?",
        ),
    ),
}
_WRONG_FOR_BOTH: Rules = (
    (
        lambda p: 1.0,
        "With the same learning rate the trainings part: W_s is 1/q times W_i, and so each of its steps must be.",
    ),
    (lambda p: 1 - p, _WRONG_WAY),
    (lambda p: (1 - p) ** 2, _WRONG_WAY),
    (lambda p: 1 / p, _SHARE),
    (lambda p: 1 / p**2, _SHARE),
    (lambda p: p, _SHARE),
    (lambda p: p**2, _SHARE),
)


@exercise("standard-vs-inverted.4")
def lr_map(answer: Answer, seed: int) -> str:
    """Check lr_map(lr_inverted, p, optimizer) -> learning rate of the standard network's weights after a dropout."""
    for optimizer, power in _LEARNING_RATE_POWERS.items():
        for p, lr in ((0.2, 0.1), (0.7, 0.1), (0.5, 0.03)):
            text = f'lr_map({lr}, {p}, "{optimizer}")'
            value = number(answer.call(text, lr, p, optimizer), text)
            expected = lr * (1 - p) ** power
            if not _close(value, expected):
                hint = _matching(_WRONG_LEARNING_RATES[optimizer] + _WRONG_FOR_BOTH, {p: value / lr}) or (
                    "Write W_s = W_i / q and ask how dL/dW_s follows from dL/dW_i. One step of W_s must be 1/q times "
                    "one of W_i."
                )
                raise Mistake(f"{text} returned {value:.6g}, expected {expected:.6g}", hint)
    return "The learning rates are right for SGD and Adam at p = 0.2, 0.5 and 0.7."


# --- shared --------------------------------------------------------------------------------------------------------


def _close(value: float, expected: float) -> bool:
    return abs(value - expected) <= 1e-6 * abs(expected)


def _matching(rules: Rules, values: dict[float, float]) -> str:
    """Return the hint of the first wrong rule that gives all `values`, or an empty string."""
    matches = (hint for rule, hint in rules if all(_close(value, rule(p)) for p, value in values.items()))
    return next(matches, "")


def _range(ratios: Array) -> str:
    """Return one number, or the range of several."""
    low, high = float(np.min(ratios)), float(np.max(ratios))
    return f"{low:.6g}" if low == high or _close(low, high) else f"{low:.6g} to {high:.6g}"
