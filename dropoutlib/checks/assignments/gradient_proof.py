"""The code questions of the assignment "gradient-proof"."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np

from dropoutlib.checks.assignments.tools import Array, Rules, array, by_hand, matching, rates, seeds, signed
from dropoutlib.checks.exercises import Answer, Mistake, exercise, number, short

# --- 1: backward ---------------------------------------------------------------------------------------------------

_GRADIENT_RULES: dict[str, Rules] = {
    "inverted": (
        (
            lambda dy, m, p: dy * m,
            "Forward also multiplied by a constant. What does the chain rule do with a constant?",
        ),
        (lambda dy, m, p: dy * m / p, "You divide by the share that is dropped. Forward divided by the other one."),
        (
            lambda dy, m, p: dy * m * (1 - p),
            "The derivative of x m / (1-p) is m / (1-p): the same factor as forward, not its inverse.",
        ),
        (lambda dy, m, p: dy / (1 - p), "Dropped elements did not reach y. What does y do when such an x moves?"),
        (lambda dy, m, p: dy, "That is the gradient in evaluation. In training there are a mask and a factor."),
        (
            lambda dy, m, p: dy * ~m / (1 - p),
            "Your gradient goes through the dropped elements. The mask is True where an element is kept.",
        ),
        (lambda dy, m, p: dy * m / (1 - p) ** 2, "You have scaled twice. Once is enough."),
    ),
    "standard": (
        (lambda dy, m, p: dy * m / (1 - p), "That is inverted dropout. The standard one has no factor in training."),
        (
            lambda dy, m, p: dy * m * (1 - p),
            "Standard dropout's factor belongs to evaluation. This is the gradient in training.",
        ),
        (lambda dy, m, p: dy, "Dropped elements did not reach y. What does y do when such an x moves?"),
        (lambda dy, m, p: dy * ~m, "Your gradient goes through the dropped elements."),
    ),
}


@exercise("gradient-proof.1")
def dropout_gradient(answer: Answer, seed: int) -> str:
    """Check dropout_gradient(dy, mask, p, convention): the gradient in training with respect to x.

    dy * mask / (1-p) for "inverted", dy * mask for "standard", at two rates and in two shapes; dy is not changed and
    float32 stays float32. Nothing is random in a right answer.
    """
    rng = np.random.default_rng(seed)
    pair = rates(rng)
    for convention in ("inverted", "standard"):
        for p, shape in zip(pair, ((3, 4), (2, 3, 2)), strict=True):
            dy, mask = signed(rng, shape), rng.permuted(np.arange(12) % 3 > 0).reshape(shape)
            text = f'{answer.name}(dy, mask, {p}, "{convention}")'
            expected = dy * mask / (1 - p) if convention == "inverted" else dy * mask
            value = array(answer.call(text, dy, mask, p, convention, pure=True), text, shape)
            if not np.allclose(value, expected, rtol=1e-9):
                at = np.unravel_index(np.argmax(np.abs(value - expected)), shape)
                raise Mistake(
                    f"{text} returned {value[at]:.6g} where dy is {dy[at]:.6g} and mask is {mask[at]}, "
                    f"expected {expected[at]:.6g}",
                    matching(_GRADIENT_RULES[convention], value, dy, mask, p)
                    or "Differentiate y by x, entry by entry.",
                )
            narrow = array(answer.call(text, dy.astype(np.float32), mask, p, convention), text, shape)
            if narrow.dtype != np.float32:
                raise Mistake(
                    f"{text} returned {narrow.dtype} for float32",
                    "Which operand has the wider dtype? A float64 array turns the product into float64; a Python "
                    "float does not.",
                )
    return f"Both conventions are right at p = {pair[0]} and {pair[1]}."


# --- 2: differences ------------------------------------------------------------------------------------------------


class _Curved:
    """f(x) = sum a sin(b x) + (c.x)^2: curved in each entry and between entries. Counts its calls."""

    def __init__(self, rng: np.random.Generator, shape: tuple[int, ...]) -> None:
        self._a, self._b, self._c = rng.uniform(1, 2, shape), rng.uniform(2, 3, shape), signed(rng, shape)
        self.calls = 0

    def __call__(self, x: Any) -> float:
        self.calls += 1
        point = np.asarray(x)
        if point.shape != self._a.shape:
            raise ValueError(f"f takes an array of shape {self._a.shape}, got {point.shape}")
        if point.dtype.kind != "f":
            raise TypeError(f"f takes floating-point numbers, got {point.dtype}")
        return float(np.sum(self._a * np.sin(self._b * point)) + np.sum(self._c * point) ** 2)

    def gradient(self, x: Array) -> Array:
        return np.asarray(self._a * self._b * np.cos(self._b * x) + 2 * np.sum(self._c * x) * self._c)


@exercise("gradient-proof.2")
def numerical_gradient(answer: Answer, seed: int) -> str:
    """Check numerical_gradient(f, x): the gradient of a function f of an array, by differences.

    Curved functions of arrays of one to three dimensions; each entry must be right to 1e-4 of the largest. x is not
    changed. Nothing is random in a right answer.
    """
    rng = np.random.default_rng(seed)
    shapes = ((4,), (3, 2), (2, 1, 3))
    for shape in shapes:
        f, x = _Curved(rng, shape), signed(rng, shape)
        text = f"{answer.name}(f, x) with x of shape {shape}"
        value = array(
            answer.call(text, f, x, hint="f takes an array of the shape of x and returns a number.", pure=True),
            text,
            shape,
            hint="The gradient has one number for each entry of x, in the same place.",
        )
        expected = f.gradient(x)
        if not np.all(np.abs(value - expected) <= 1e-4 * np.abs(expected).max()):
            at = tuple(map(int, np.unravel_index(np.argmax(np.abs(value - expected)), shape)))
            raise Mistake(
                f"{text}: entry {at} is {value[at]:.8g}, expected {expected[at]:.8g}",
                _difference_hint(value, expected, f.calls),
            )
    return f"The differences are right for {len(shapes)} functions."


def _difference_hint(value: Array, expected: Array, calls: int) -> str:
    size = float(np.abs(expected).max())

    def near(other: Array, tolerance: float = 1e-3) -> bool:
        return bool(np.all(np.abs(value - other) <= tolerance * size))

    if not np.all(np.isfinite(value)):
        return "Something was divided by zero. Is x + h different from x?"
    for factor, words in ((2.0, "2 h, not h"), (0.5, "their distance, once")):
        if near(factor * expected):
            return f"You are off by a factor {factor:g}. The two places are 2 h apart: divide by {words}."
    if near(-expected):
        return "The sign is wrong: it is f further up minus f further down."
    if near(0 * expected, 1e-9):
        return "Nothing changed between the two calls of f. Does the array that you move go into f?"
    if value.size > 1 and np.ptp(value) <= 1e-6 * size:
        return "All entries are the same: you move all of x at once. Move one entry, and leave the others."
    if np.any(value == 0) and np.sum(value == 0) < value.size and np.all(expected != 0):
        return "Some entries were never moved. Go through all of them: np.ndindex(x.shape)."
    if near(expected, 0.5):
        return (
            "Close, but not close enough. With a large step the curvature of f comes in, with a tiny one the rounding "
            "of f; and a step to one side needs a smaller h than one to both. float32 has too few digits here."
        )
    return "Move one entry up and down by h, take the difference of f, divide by 2 h, and put the entry back."


# --- 3: is a gradient right? ---------------------------------------------------------------------------------------

_Forward = Callable[[Array, Array, float], Array]

# name: (factor of forward, how backward goes wrong, whether the gradient is right, what to say of it)
_LAYERS: dict[str, tuple[bool, str, str]] = {
    "inverted": (
        True,
        "inverted dropout",
        "A right gradient was turned away. Both forward passes of a difference must use one seed, or they draw two "
        "masks; and differences are never exact.",
    ),
    "standard": (
        True,
        "standard dropout",
        "A right gradient was turned away. Does your test assume a certain factor, in place of measuring?",
    ),
    "curved": (
        True,
        "inverted dropout followed by a cube",
        "A right gradient was turned away. The layer need not be linear: move one entry of x by a small h.",
    ),
    "unscaled": (
        True,
        "a layer that forgets the factor in both passes",
        "This gradient belongs to its forward. That forward is wrong is another question, and no gradient check sees "
        "it.",
    ),
    "no factor": (False, "a backward that forgets the factor", "Compare each entry with differences of forward."),
    "one entry": (
        False,
        "a backward that is wrong in one entry",
        "Only one entry is wrong. A sum, a mean or a few entries do not show it: take the largest difference.",
    ),
    "another mask": (
        False,
        "a backward that draws another mask",
        "Compare each entry with differences of forward, at the seed of that forward.",
    ),
    "no mask": (False, "a backward without the mask", "What must the gradient be where forward has dropped?"),
    "inverse": (False, "a backward that multiplies by 1 - p", "Compare each entry with differences of forward."),
    "compensating": (
        False,
        "a backward whose entries are right but in another order",
        "The sum of the gradient is right, its entries are not.",
    ),
    "3 per cent": (
        False,
        "a backward that is 3 % too large",
        "Your tolerance is too wide: differences are right to many digits. How large is the error relative to the "
        "gradient?",
    ),
    "small": (
        False,
        "a backward that is twice too large, for a small dy",
        "The gradient is small here, and so is its error. Compare it with the gradient's size, not with a fixed "
        "number.",
    ),
    "ignores dy": (
        False,
        "a backward that ignores dy",
        "dy holds the weights of the outputs: it is the gradient of sum(dy * forward(x)) that is asked for.",
    ),
}


@exercise("gradient-proof.3")
def gradient_is_right(answer: Answer, seed: int) -> str:
    """Check gradient_is_right(forward, backward, x, dy, seed): whether backward is the gradient of forward.

    forward(x, seed) draws its mask from the seed, backward(x, dy, seed) claims to be the gradient of
    sum(dy * forward(x, seed)). Four right pairs (inverted, standard, curved, and one that forgets the factor in both
    passes) and nine wrong ones, in an order drawn from the seed. Nothing is random in a right answer.
    """
    rng = np.random.default_rng(seed)
    p, shape = rates(rng)[0], (3, 4)
    misjudged = []
    names = list(_LAYERS)
    for i, k in zip(rng.permutation(len(names)), seeds(rng, len(names)), strict=True):
        name = names[i]
        # Each row of x has its own size, so that no two entries of a right gradient are exchangeable.
        x, dy = signed(rng, shape), signed(rng, shape) * np.arange(1, 13).reshape(shape) / 6
        if name == "small":
            dy *= 1e-7
        forward, backward = _pair(name, p, shape)
        text = f"{answer.name}(forward, backward, x, dy, seed={k})"
        value = answer.call(text, forward, backward, x, dy, k, hint="forward(x, seed) and backward(x, dy, seed).")
        if not isinstance(value, bool | np.bool_):
            raise Mistake(f"{text} returned {short(repr(value))}, expected True or False")
        if bool(value) != _LAYERS[name][0]:
            misjudged.append((i, text, bool(value)))
    if misjudged:
        i, text, given = min(misjudged)
        _, described, hint = _LAYERS[names[i]]
        raise Mistake(f"{text} returned {given} for {described}", hint)
    return f"{len(names)} pairs of forward and backward are told apart."


def _pair(name: str, p: float, shape: tuple[int, ...]) -> tuple[Callable[..., Array], Callable[..., Array]]:
    """Return forward and backward of a layer."""
    factor = 1.0 if name in ("standard", "unscaled") else 1 / (1 - p)
    power = 3 if name == "curved" else 1

    def draw(seed: int) -> Array:
        # Two of twelve are dropped at least, two are kept at least.
        order = np.random.default_rng(int(seed)).permutation(12).reshape(shape)
        return np.asarray(order >= min(max(round(12 * p), 2), 10))

    def forward(x: Any, seed: Any) -> Array:
        return np.asarray((np.asarray(x, float) * draw(seed) * factor) ** power)

    def backward(x: Any, dy: Any, seed: Any) -> Array:
        mask, g = draw(seed), np.asarray(dy, float)
        if name == "another mask":
            mask = np.roll(mask, 1) if not np.array_equal(np.roll(mask, 1), mask) else ~mask
        if name == "no mask":
            mask = np.ones(shape, bool)
        if name == "ignores dy":
            g = np.ones(shape)
        dx = g * mask * factor * power * (np.asarray(x, float) * factor) ** (power - 1)
        changes = {"no factor": 1 / factor, "inverse": (1 - p) / factor, "3 per cent": 1.03, "small": 2.0}
        dx = dx * changes.get(name, 1.0)
        if name == "one entry":
            dx[tuple(np.argwhere(mask)[-1])] *= 1.5
        if name == "compensating":
            kept = tuple(np.argwhere(mask).T)
            dx[kept] = np.roll(dx[kept], 1)
        return np.asarray(dx)

    return forward, backward


# --- 4: moments ----------------------------------------------------------------------------------------------------

_SQUARED_NORM = "the mean squared norm"
_MOMENT_RULES: dict[str, dict[str, Rules]] = {
    "inverted": {
        "the mean": (
            (lambda g, p: (1 - p) * g, "That is the mean without the factor. What does 1/(1-p) make of it?"),
            (lambda g, p: g / (1 - p), "That is the value of a kept entry. How often is it kept?"),
        ),
        "the variance": (
            (
                lambda g, p: g**2 * p * (1 - p),
                "That is the variance of standard dropout. A factor comes out of a variance squared.",
            ),
            (lambda g, p: g**2 / (1 - p), "That is the mean of the square. Take away the square of the mean."),
            (lambda g, p: g**2 * p, "The factor comes out of a variance squared: divide by it twice."),
            (lambda g, p: np.abs(g) * (p / (1 - p)) ** 0.5, "That is the standard deviation. Square it."),
            (lambda g, p: g**2 * (1 - p) / p, "With small p there is little noise. Which of p and 1-p goes on top?"),
        ),
        _SQUARED_NORM: (
            (
                lambda g, p: np.sum(g**2),
                "That is the squared norm of the mean. The mean of a square is larger: add the variance.",
            ),
            (lambda g, p: np.sum(g**2) / (1 - p) ** 2, "That is its value when all entries are kept. Average."),
            (lambda g, p: np.sum(g**2) * p / (1 - p), "That is the variance alone. Add the square of the mean."),
            (lambda g, p: np.sum(g**2) * (1 - p), "That is standard dropout. Here the factor comes in squared."),
            (lambda g, p: (np.sum(g**2) / (1 - p)) ** 0.5, "That is its root. The squared norm is asked for."),
        ),
    },
    "standard": {
        "the mean": (
            (lambda g, p: g, "Standard dropout has no factor in training: how often is an entry kept?"),
            (lambda g, p: p * g, "p is the probability of dropping. How often is an entry kept?"),
        ),
        "the variance": (
            (lambda g, p: g**2 * p / (1 - p), "That is inverted dropout. Here the kept entry is g itself."),
            (lambda g, p: g**2 * (1 - p), "That is the mean of the square. Take away the square of the mean."),
        ),
        _SQUARED_NORM: (
            (lambda g, p: np.sum(g**2) / (1 - p), "That is inverted dropout. Here the kept entry is g itself."),
            (
                lambda g, p: np.sum(g**2) * (1 - p) ** 2,
                "That is the squared norm of the mean. The mean of a square is larger: add the variance.",
            ),
            (lambda g, p: np.sum(g**2) * p * (1 - p), "That is the variance alone. Add the square of the mean."),
        ),
    },
}


@exercise("gradient-proof.4")
def gradient_moments(answer: Answer, seed: int) -> str:
    """Check gradient_moments(g, p, convention): mean, variance and mean squared norm of g after dropout.

    They are taken over all masks. Inverted: g, g^2 p/(1-p), |g|^2 / (1-p); standard: (1-p) g, g^2 p (1-p),
    (1-p) |g|^2. Two rates, two shapes. Nothing is random in a right answer.
    """
    rng = np.random.default_rng(seed)
    pair = rates(rng)
    for convention, rules in _MOMENT_RULES.items():
        for p, shape in zip(pair, ((6,), (2, 4)), strict=True):
            g = signed(rng, shape)
            text = f'{answer.name}(g, {p}, "{convention}")'
            value = answer.call(text, g, p, convention, pure=True)
            if not isinstance(value, list | tuple) or len(value) != 3:
                raise Mistake(f"{text} returned {short(repr(value))}, expected mean, variance, mean squared norm")
            scale = 1 / (1 - p) if convention == "inverted" else 1.0
            right = (scale * (1 - p) * g, scale**2 * p * (1 - p) * g**2, scale**2 * (1 - p) * np.sum(g**2))
            for (name, wrong), got, expected in zip(rules.items(), value, right, strict=True):
                where = f"{text}: {name}"
                checked = number(got, where) if name == _SQUARED_NORM else array(got, where, shape)
                if not np.allclose(checked, expected, rtol=1e-6):
                    raise Mistake(
                        f"{where} is {_first(checked):.6g}, expected {_first(expected):.6g}",
                        matching(wrong, checked, g, p) or "Each entry is 0 or its kept value, with two probabilities.",
                    )
    return f"The moments of both conventions are right at p = {pair[0]} and {pair[1]}."


def _first(value: Any) -> float:
    return float(np.asarray(value).flat[0])


# --- 5: the mean norm ----------------------------------------------------------------------------------------------


def _mean_norm(g: Array, p: float) -> float:
    masks = np.array(list(itertools.product((0, 1), repeat=g.size)))
    weights = np.prod(np.where(masks, 1 - p, p), axis=1)
    return float(weights @ np.linalg.norm(masks * g, axis=1)) / (1 - p)


_NORM_RULES: Rules = (
    (
        lambda g, p: _uniform(g, p),
        "You give all masks the same weight. A mask with k kept entries of n has the probability (1-p)^k p^(n-k).",
    ),
    (
        lambda g, p: _mean_norm(g, 1 - p) * p / (1 - p),
        "The weights are the wrong way round: an entry is kept with probability 1 - p.",
    ),
    (
        lambda g, p: _mean_norm(g, 1 - p),
        "p is the probability of dropping, for the weights and for the factor.",
    ),
    (
        lambda g, p: np.linalg.norm(g),
        "That is the norm of the mean. The mean of the norms is asked for, and a norm is not linear.",
    ),
    (
        lambda g, p: np.linalg.norm(g) / (1 - p) ** 0.5,
        "That is the root of the mean squared norm, the upper bound. Take the root before you average.",
    ),
    (lambda g, p: np.sum(g**2) / (1 - p), "That is the mean of the squared norm. Take the root before you average."),
    (lambda g, p: _mean_norm(g, p) * (1 - p), "That is standard dropout. Inverted dropout divides by 1 - p."),
    (
        lambda g, p: _mean_norm(g, p) / (1 - p ** len(g)),
        "The mask that drops everything counts too: its norm is 0, and its probability p^n.",
    ),
    (lambda g, p: _mean_norm(g, p) * (1 - p) / p, "You scale by 1/p. Which share is left?"),
    (lambda g, p: _uniform(g, p) * 2 ** len(g), "You add the norms of all masks up. Weigh each by its probability."),
)


def _uniform(g: Array, p: float) -> float:
    return _mean_norm(g, 0.5) * 0.5 / (1 - p)


@exercise("gradient-proof.5")
def mean_norm(answer: Answer, seed: int) -> str:
    """Check mean_norm(g, p): the exact mean, over all masks, of the norm of g * mask / (1-p).

    Vectors of one to eight entries at three rates, each right to 1e-9, which no sampling reaches. Nothing is random in
    a right answer.
    """
    rng = np.random.default_rng(seed)
    cases = [(size, p) for size in (2, 5, 8, 1) for p in rates(rng)]
    for size, p in cases:
        g = signed(rng, (size,))
        text = f"{answer.name}(g, {p}) with {size} entries"
        value = number(answer.call(text, g, p, pure=True), text)
        expected = _mean_norm(g, p)
        if not np.isclose(value, expected, rtol=1e-9, atol=0):
            hint = matching(_NORM_RULES, value, g, p)
            if not hint and np.isclose(value, expected, rtol=0.1):
                hint = "Close, but not exact. There are only 2^n masks: go through all of them in place of sampling."
            raise Mistake(
                f"{text} returned {value:.9g}, expected {expected:.9g}",
                hint or "Go through all 2^n masks: the norm that each leaves, times its probability, added up.",
            )
    return f"The mean norm is exact in {len(cases)} cases."


# --- 6: by hand ----------------------------------------------------------------------------------------------------


@exercise("gradient-proof.6")
def two_entries(answer: Answer, seed: int) -> str:
    """Check two_entries(): mean norm and root mean squared norm of (A, B) after inverted dropout at rate P.

    They are (1-P) sqrt(A^2 + B^2) + P (A + B) and sqrt((A^2 + B^2) / (1-P)), each to three digits. Nothing is random.
    """
    p, a, b = (float(answer.given(name)) for name in ("P", "A", "B"))
    q, norm = 1 - p, (a * a + b * b) ** 0.5
    rules: tuple[Rules, ...] = (
        (
            (lambda: norm, "That is the norm of the mean. List the four masks, their probabilities and their norms."),
            (lambda: norm / q**0.5, "That is the root mean square. Average the norms themselves."),
            (lambda: q * q * norm + p * q * (a + b), "That is standard dropout. Each kept entry is divided by 1 - p."),
            (
                lambda: (norm + a + b) / (4 * q),
                "The four masks are not equally likely. How likely is it that both entries are kept?",
            ),
            (lambda: q * norm, "You count the mask that keeps both. What do the two masks that keep one leave?"),
            (lambda: norm / q, "That is the norm when both are kept. How likely is that, and what else can happen?"),
            (lambda: p * norm + q * (a + b), "An entry is dropped with probability P, and kept with 1 - P."),
        ),
        (
            (lambda: norm / q, "That is the norm when both are kept. Average the square over the four masks."),
            (lambda: norm, "The mean squared norm is larger than the squared norm of the mean: add the variances."),
            (lambda: norm * norm / q, "That is the mean squared norm. Take its root."),
            (lambda: norm * q**0.5, "That is standard dropout. The factor comes in squared."),
            (lambda: q * norm + p * (a + b), "That is the mean norm again. Square before you average."),
            (lambda: norm / p**0.5, "You divide by the share that is dropped."),
        ),
    )
    by_hand(
        answer,
        ("the mean norm", "the root mean squared norm"),
        (q * norm + p * (a + b), norm / q**0.5),
        rules,
    )
    return "Both numbers are right."
