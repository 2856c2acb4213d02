"""The code questions of the assignment "two-dropouts"."""

from __future__ import annotations

from typing import Any

import numpy as np

from dropoutlib.checks.assignments.tools import (
    Array,
    Rules,
    array,
    by_hand,
    common,
    matching,
    rates,
    seeds,
    signed,
    spread,
)
from dropoutlib.checks.exercises import Answer, Handle, Mistake, exercise, fits_binomial, short

_EACH_ITS_OWN = "Each element needs a draw of its own: one draw must not serve a whole {}."
_COMPARE = "Here p is the probability of dropping. Which of the two does your comparison with p select?"
_SEED = "All random numbers come from a generator that you make of the seed: np.random.default_rng(seed)."
_IGNORED = "The seed is not used. The same seed gives the same mask again, another seed gives another mask."


def _check_share(kept: Array, p: float, text: str) -> None:
    """Compare the share of kept elements with 1 - p; one random comparison."""
    count, q = int(kept.sum()), 1 - p
    if fits_binomial(count, kept.size, q):
        return
    hint = ""
    if fits_binomial(count, kept.size, p):
        hint = _COMPARE
    elif fits_binomial(count, kept.size, 0.5):
        hint = "About half are kept, whatever p is. Where does p enter?"
    raise Mistake(f"{text} kept {kept.mean():.1%} of {kept.size} elements, expected {q:.0%}", hint)


def _check_own_draws(kept: Array, text: str) -> None:
    """A right mask has two equal neighbours all along with a probability below 1e-100."""
    for rows, name in ((kept, "batch"), (kept.T, "row")):
        if np.all(rows == rows[0]):
            raise Mistake(f"{text} used one mask for the whole {name}", _EACH_ITS_OWN.format(name))


# --- 1: a mask -----------------------------------------------------------------------------------------------------


@exercise("two-dropouts.1")
def draw_mask(answer: Answer, seed: int) -> str:
    """Check draw_mask(shape, p, seed): an array of bool, True where an element is kept.

    Two rates on about 4,000 elements each: dtype, shape, share of kept elements (Chernoff's bound at 1e-10 each), a
    draw for each element, a number of kept elements that is random too, the same seed twice and other seeds; then
    other shapes, p = 0 and p = 1. A right answer is rejected with a probability of at most 1e-9: the two shares, and
    below 1e-12 that eight masks keep equally many.
    """
    rng = np.random.default_rng(seed)
    shape = (int(rng.integers(40, 60)), int(rng.integers(60, 90)))
    first, other, *more = seeds(rng, 10)
    pair = rates(rng)
    for p in pair:
        text = f"{answer.name}({shape}, {p}, seed={first})"
        mask = _mask(answer, shape, p, first)
        _check_own_draws(mask, text)
        _check_share(mask, p, text)
        if not np.array_equal(mask, _mask(answer, shape, p, first)):
            raise Mistake(f"{text} gave another mask the second time", _SEED)
        others = [_mask(answer, shape, p, s) for s in (other, *more[:7])]
        if any(np.array_equal(mask, drawn) for drawn in others):
            raise Mistake(f"{text} and seed={other} gave the same mask", _IGNORED)
        if len({int(drawn.sum()) for drawn in others}) == 1:
            raise Mistake(
                f"{answer.name}({shape}, {p}, ...) kept exactly {others[0].sum()} elements for eight seeds",
                "Each element is kept or dropped by itself, so the number of kept ones is random too.",
            )
    hint = "The shape may be any tuple: () is a single number, (0,) is empty."
    for shape_ in ((), (0,), (7,), (2, 3, 4)):
        _mask(answer, shape_, p, first, hint)
    for edge, kept in ((0.0, True), (1.0, False)):
        text = f"{answer.name}({shape}, {edge}, seed={first})"
        mask = _mask(answer, shape, edge, first)
        if np.any(mask != kept):
            raise Mistake(
                f"{text} kept {mask.mean():.1%}", f"p = {edge:g} drops {'nothing' if kept else 'everything'}."
            )
    return f"Share, dtype, shapes and seeds are right, at p = {pair[0]}, {pair[1]}, 0 and 1."


def _mask(answer: Answer, shape: tuple[int, ...], p: float, seed: int, hint: str = "") -> Array:
    text = f"{answer.name}({shape}, {p}, seed={seed})"
    value = answer.call(text, shape, p, seed, hint=hint)
    if isinstance(value, bool) and shape == ():
        return np.asarray(value)
    if isinstance(value, np.ndarray | np.generic) and value.dtype.kind in "iuf":
        raise Mistake(
            f"{text} returned {value.dtype}, expected bool",
            "A mask says which elements are kept: True or False. A comparison gives that. The factor comes later.",
        )
    return array(value, text, shape, "b", hint or "One True or False for each element of the shape.")


# --- 2: both conventions, both modes -------------------------------------------------------------------------------

_TRAINING_RULES: dict[str, Rules] = {
    "inverted": (
        (lambda p: 1.0, "Nothing makes up for what was dropped, so the mean of y is smaller than x. By how much?"),
        (
            lambda p: 1 / p,
            "You divide by the share that is dropped. Of 10 elements at p = 0.2, how many are left to make up for the "
            "others?",
        ),
        (lambda p: 1 / (1 - p) ** 2, "You make up for the loss twice. What is the mean of mask times factor?"),
        (lambda p: 1 - p, "Should the elements that are left shrink or grow, to make up for the others?"),
        (lambda p: 2.0, "That is right for p = 0.5 only. How does the factor depend on p?"),
    ),
    "standard": (
        (
            lambda p: 1 / (1 - p),
            "That is inverted dropout. The standard one only masks in training; where does its factor belong?",
        ),
        (lambda p: 1 - p, "Standard dropout's factor belongs to evaluation. In training it only masks."),
        (lambda p: 1 / p, "Standard dropout only masks in training, without any factor."),
    ),
}
_EVALUATION_RULES: dict[str, Rules] = {
    "inverted": (
        (lambda p: 1 - p, "Training has made up for the loss already. If evaluation scales too, it is done twice."),
        (lambda p: 1 / (1 - p), "Nothing is dropped in evaluation, so there is nothing to make up for."),
        (lambda p: p, "Training has made up for the loss already; evaluation returns x."),
    ),
    "standard": (
        (lambda p: 1.0, "In training an element was there only part of the time. Evaluation must show its mean."),
        (
            lambda p: p,
            "Of 10 elements at p = 0.2, how many were there in training? You multiply by the share of the others.",
        ),
        (lambda p: 1 / (1 - p), "In training a part was missing, so evaluation has to be smaller than x, not larger."),
        (lambda p: (1 - p) ** 2, "One factor is enough: what is the mean of the mask?"),
    ),
}


@exercise("two-dropouts.2")
def dropout(answer: Answer, seed: int) -> str:
    """Check dropout(x, p, seed, training, convention) -> y for "standard" and "inverted" dropout.

    Both conventions at two rates: in training the values of y/x, the share of zeros (Chernoff's bound at 1e-10, four
    times), a draw for each element, the seed; in evaluation the factor; float32 and float16 come back as they are; x
    is not changed; any shape; p = 0 and p = 1. A right answer is rejected with a probability of at most 1e-9.
    """
    rng = np.random.default_rng(seed)
    shape = (int(rng.integers(40, 60)), int(rng.integers(60, 90)))
    x, (first, other) = signed(rng, shape), seeds(rng, 2)
    pair = rates(rng)
    for convention in ("inverted", "standard"):
        for p in pair:
            _check_training(answer, x, p, (first, other), convention)
            _check_evaluation(answer, x, p, first, convention)
        for dtype in (np.float32, np.float16):
            for training in (True, False):
                y, text = _apply(answer, x.astype(dtype), p, first, training, convention)
                if y.dtype != dtype:
                    raise Mistake(
                        f"{text} returned {y.dtype} for {np.dtype(dtype)}",
                        "Which operand has the wider dtype? A float64 array turns the product into float64; "
                        "a Python float does not.",
                    )
        _check_edges(answer, x[:8, :9], first, convention)
    return f"Both conventions are right in both modes, at p = {pair[0]} and {pair[1]}, and at 0 and 1."


def _apply(
    answer: Answer, x: Array, p: float, seed: int, training: bool, convention: str, hint: str = ""
) -> tuple[Array, str]:
    text = f'{answer.name}(x, {p}, seed={seed}, training={training}, "{convention}")'
    value = answer.call(text, x, p, seed, training, convention, hint=hint, pure=True)
    return array(value, text, x.shape, hint=hint or "y has the shape of x."), text


def _check_training(answer: Answer, x: Array, p: float, two_seeds: tuple[int, int], convention: str) -> None:
    first, other = two_seeds
    y, text = _apply(answer, x, p, first, True, convention)
    factor = 1 / (1 - p) if convention == "inverted" else 1.0
    kept = y != 0
    if not kept.any() or kept.all():
        raise Mistake(f"{text} {'kept' if kept.any() else 'dropped'} every element, expected {1 - p:.0%} kept")
    ratios = y[kept] / x[kept]
    swapped = fits_binomial(int(kept.sum()), kept.size, p)
    if not np.allclose(ratios, factor, rtol=1e-6):
        hint = matching(_TRAINING_RULES[convention], common(ratios), p)
        if hint == "" and convention == "inverted":
            hint = "Which factor makes the mean of y equal to x?"
        if swapped:
            hint = _COMPARE
        raise Mistake(f"{text} multiplied kept elements by {spread(ratios)}, expected {factor:.6g}", hint)
    _check_own_draws(kept, text)
    _check_share(kept, p, text)
    if not np.array_equal(y, _apply(answer, x, p, first, True, convention)[0]):
        raise Mistake(f"{text} gave something else the second time", _SEED)
    if np.array_equal(y, _apply(answer, x, p, other, True, convention)[0]):
        raise Mistake(f"{text} and seed={other} used the same mask", _IGNORED)


def _check_evaluation(answer: Answer, x: Array, p: float, seed: int, convention: str) -> None:
    y, text = _apply(answer, x, p, seed, False, convention)
    factor = 1.0 if convention == "inverted" else 1 - p
    if np.any(y == 0):
        raise Mistake(
            f"{text} set {np.mean(y == 0):.0%} of the elements to 0",
            "Dropout must be off in evaluation. Does the function look at training?",
        )
    ratios = y / x
    if not np.allclose(ratios, factor, rtol=1e-9):
        hint = matching(_EVALUATION_RULES[convention], common(ratios), p)
        raise Mistake(f"{text} multiplied x by {spread(ratios)}, expected {factor:.6g}", hint)


def _check_edges(answer: Answer, x: Array, seed: int, convention: str) -> None:
    for small in (np.ones(()), np.ones(0), np.ones(5), np.ones((2, 3, 4))):
        for training in (True, False):
            _apply(answer, small, 0.3, seed, training, convention, "x may have any shape.")
    one = "At p = 1 nothing is kept and 1 - p is 0. Give zeros there without dividing."
    for p, training, expected in (
        (0.0, True, x),
        (0.0, False, x),
        (1.0, True, 0 * x),
        (1.0, False, x if convention == "inverted" else 0 * x),
    ):
        hint = one if p == 1 else "p = 0 drops nothing, so y is x in both modes."
        y, text = _apply(answer, x, p, seed, training, convention, hint)
        if not np.array_equal(y, expected):
            got = "nan" if np.isnan(y).any() else "other values"
            raise Mistake(f"{text} returned {got}, expected {'x' if expected is x else 'zeros'}", hint)


# --- 3: by hand ----------------------------------------------------------------------------------------------------

_MOMENTS = ("the standard mean", "the standard variance", "the inverted mean", "the inverted variance")
_ROOT = "That is the standard deviation. Square it."
_NO_X = "You have left out X: a factor comes out of a variance squared, and out of a mean as it is."
_MOMENT_RULES: tuple[Rules, ...] = (
    (
        (lambda p, x: x, "Standard dropout does not make up for what it drops: how often is y equal to X?"),
        (lambda p, x: p * x, "p is the probability of dropping. How often is y equal to X?"),
        (lambda p, x: x / (1 - p), "That divides by 1 - p. Average X and 0 with their probabilities."),
        (lambda p, x: 1 - p, _NO_X),
    ),
    (
        (
            lambda p, x: x * x * p / (1 - p),
            "That is the variance of inverted dropout. Here the kept value is X itself.",
        ),
        (lambda p, x: x * x * (1 - p), "That is the mean of the square. Take away the square of the mean."),
        (lambda p, x: x * p * (1 - p), "A factor comes out of a variance squared."),
        (lambda p, x: p * (1 - p), _NO_X),
        (lambda p, x: x * (p * (1 - p)) ** 0.5, _ROOT),
    ),
    (
        (lambda p, x: (1 - p) * x, "That is the mean without the factor. What does 1/(1-p) make of it?"),
        (lambda p, x: x / (1 - p), "That is the value of a kept element. How often is it kept?"),
        (lambda p, x: 1.0, _NO_X),
        (lambda p, x: x * (1 - p) / p, "You scale by 1/p. Which share is left?"),
    ),
    (
        (lambda p, x: x * x * p * (1 - p), "That is the variance of standard dropout. The factor comes out squared."),
        (lambda p, x: x * x / (1 - p), "That is the mean of the square. Take away the square of the mean."),
        (lambda p, x: x * x * p, "The factor comes out of a variance squared: divide by it twice."),
        (lambda p, x: x * x * (1 - p) / p, "You scale by 1/p. Which share is left?"),
        (lambda p, x: p / (1 - p), _NO_X),
        (lambda p, x: x * p / (1 - p), "A factor comes out of a variance squared."),
        (lambda p, x: x * (p / (1 - p)) ** 0.5, _ROOT),
    ),
)


@exercise("two-dropouts.3")
def moments_by_hand(answer: Answer, seed: int) -> str:
    """Check moments_by_hand(): mean and variance of y in training, standard then inverted, at x = X and rate P.

    The four numbers are (1-P) X, X^2 P (1-P), X, X^2 P / (1-P), each to three digits. Nothing is random.
    """
    p, x = float(answer.given("P")), float(answer.given("X"))
    by_hand(
        answer,
        _MOMENTS,
        ((1 - p) * x, x * x * p * (1 - p), x, x * x * p / (1 - p)),
        _MOMENT_RULES,
        p,
        x,
    )
    return "All four numbers are right."


# --- 5: a layer that remembers -------------------------------------------------------------------------------------


@exercise("two-dropouts.5")
def layer(answer: Answer, seed: int) -> str:
    """Check Dropout(p, seed) with forward(x, training) and backward(dy): inverted dropout as a layer.

    At two rates: values and share of forward (Chernoff's bound at 1e-10, twice), a new mask at each training forward,
    the gradient dy * mask / (1-p) with the mask of the last forward, also when one of the two ran in evaluation; the
    seed decides the masks; no array is changed; float32 stays; p = 0 and p = 1. A right answer is rejected with a
    probability of at most 1e-9.
    """
    rng = np.random.default_rng(seed)
    shape = (int(rng.integers(40, 60)), int(rng.integers(60, 90)))
    x, dy, (first, other) = signed(rng, shape), signed(rng, shape), seeds(rng, 2)
    pair = rates(rng)
    for p in pair:
        _check_layer(answer, x, dy, p, (first, other))
    p = pair[0]
    narrow = _Layer(answer, p, first)
    y, text = narrow.forward(x.astype(np.float32), True)
    dx, back = narrow.backward(dy.astype(np.float32))
    for result, where in ((y, text), (dx, back)):
        if result.dtype != np.float32:
            raise Mistake(
                f"{where} returned {result.dtype} for float32",
                "Which operand has the wider dtype? A float64 array turns the product into float64; a Python float "
                "does not.",
            )
    for edge, factor in ((0.0, 1.0), (1.0, 0.0)):
        hint = "p = 0 changes nothing." if factor else "At p = 1 nothing is kept. Give zeros without dividing by 1 - p."
        at_edge = _Layer(answer, edge, first, hint)
        y, text = at_edge.forward(x[:4], True)
        dx, back = at_edge.backward(dy[:4])
        for result, given, where in ((y, x[:4], text), (dx, dy[:4], back)):
            if not np.array_equal(result, factor * given):
                raise Mistake(f"{where} at p = {edge:g} is not {'its input' if factor else 'all zeros'}", hint)
    return f"Forward, backward, modes, seeds and dtypes are right at p = {pair[0]}, {pair[1]}, 0 and 1."


class _Layer:
    """A layer that the answer made."""

    def __init__(self, answer: Answer, p: float, seed: int, hint: str = "") -> None:
        self._answer, self._p, self._seed, self._hint = answer, p, seed, hint
        self._handle: Handle = answer.make(f"{answer.name}({p}, seed={seed})", p, seed, hint=hint)

    def forward(self, x: Array, training: bool) -> tuple[Array, str]:
        text = f"{self._answer.name}({self._p}, seed={self._seed}).forward(x, training={training})"
        value = self._answer.method(text, self._handle, "forward", x, training, hint=self._hint, pure=True)
        return array(value, text, x.shape), text

    def backward(self, dy: Array) -> tuple[Array, str]:
        text = f"{self._answer.name}({self._p}, seed={self._seed}).backward(dy)"
        value = self._answer.method(text, self._handle, "backward", dy, hint=self._hint, pure=True)
        return array(value, text, dy.shape), text


def _check_layer(answer: Answer, x: Array, dy: Array, p: float, two_seeds: tuple[int, int]) -> None:
    one = _Layer(answer, p, two_seeds[0])
    y, text = one.forward(x, True)
    kept = y != 0
    if not kept.any() or kept.all():
        raise Mistake(f"{text} {'kept' if kept.any() else 'dropped'} every element, expected {1 - p:.0%} kept")
    ratios = y[kept] / x[kept]
    if not np.allclose(ratios, 1 / (1 - p), rtol=1e-6):
        hint = matching(_TRAINING_RULES["inverted"], common(ratios), p)
        raise Mistake(f"{text} multiplied kept elements by {spread(ratios)}, expected {1 / (1 - p):.6g}", hint)
    _check_own_draws(kept, text)
    _check_share(kept, p, text)
    _check_gradient(one, dy, kept, p)
    again, _ = one.forward(x, True)
    if np.array_equal(y, again):
        raise Mistake(
            f"{text} used the same mask a second time",
            "Each training forward draws a new mask; the generator is made once, the mask each time.",
        )
    _check_gradient(one, dy, again != 0, p)
    passed, text = one.forward(x, False)
    if not np.allclose(passed, x, rtol=1e-9):
        zeros = bool(np.any(passed == 0))
        hint = (
            "Dropout must be off in evaluation. Does forward look at training?"
            if zeros
            else matching(_EVALUATION_RULES["inverted"], common(passed / x), p)
        )
        raise Mistake(f"{text} is not x", hint)
    dx, text = one.backward(dy)
    if not np.allclose(dx, dy, rtol=1e-9):
        raise Mistake(
            f"{text} after an evaluation forward is not dy",
            "Backward belongs to the last forward, and that one had no mask. Is an older mask still there?",
        )
    same, different = _Layer(answer, p, two_seeds[0]), _Layer(answer, p, two_seeds[1])
    if not np.array_equal(same.forward(x, True)[0], y):
        raise Mistake(f"two layers {answer.name}({p}, seed={two_seeds[0]}) drew different masks", _SEED)
    if np.array_equal(different.forward(x, True)[0], y):
        raise Mistake(f"seeds {two_seeds[0]} and {two_seeds[1]} gave the same mask", _IGNORED)


def _check_gradient(layer: _Layer, dy: Array, kept: Array, p: float) -> None:
    dx, text = layer.backward(dy)
    if np.any(dx[~kept] != 0):
        nowhere = np.allclose(dx, dy) or np.allclose(dx, dy / (1 - p))
        raise Mistake(
            f"{text} lets a gradient through where forward has dropped",
            "Dropped elements did not reach y. What does y do when such an x moves?"
            if nowhere
            else "Is it the mask of the last forward? Backward draws nothing: forward has to remember.",
        )
    ratios = dx[kept] / dy[kept]
    if not np.allclose(ratios, 1 / (1 - p), rtol=1e-6):
        rules: Rules = (
            (lambda p: 1.0, "Forward multiplied by a constant. What does the chain rule do with a constant?"),
            (lambda p: 1 - p, "The derivative of x/(1-p) is 1/(1-p): the factor of forward, not its inverse."),
            (lambda p: 1 / (1 - p) ** 2, "The factor came in twice. Once is enough."),
            (
                lambda p: 1 / p,
                "You divide by the share that is dropped, and forward divided by the share that is kept.",
            ),
        )
        hint = matching(rules, common(ratios), p) or "Backward multiplies by what forward multiplied by."
        raise Mistake(f"{text} multiplied by {spread(ratios)}, expected {1 / (1 - p):.6g}", hint)


# --- 6: a test for other people's layers ---------------------------------------------------------------------------

_PASSES, _UNITS = 2000, 12

_VERDICTS: dict[str, tuple[str, str]] = {
    "right": (
        "a right layer",
        "A right layer was turned away. A mean over 2,000 passes is never exact: how large is its standard error?",
    ),
    "1/p": (
        "a layer that scales by 1/p",
        "Is the mean over the passes equal to x? Look at each element, and at p other than one half.",
    ),
    "unscaled": ("a layer without any factor", "Is the mean over the passes equal to x?"),
    "standard": (
        "standard dropout",
        "Its training has no factor, and its evaluation is not x. The question is about inverted dropout.",
    ),
    "swapped": (
        "a layer that keeps with probability p, and scales so that the mean is right",
        "Its mean is right: it keeps with probability p and divides by p. How many zeros should there be?",
    ),
    "one mask for all": (
        "a layer that drops all elements of x together, or none",
        "Each element has the right mean and the right share. Look at two elements together: do they fall "
        "independently?",
    ),
    "noisy": (
        "a layer that multiplies by a normal number with the right mean and variance",
        "Mean and variance are right, but dropout knows two values only. Which?",
    ),
    "on in evaluation": ("a layer that drops in evaluation too", "What must the evaluation output be?"),
    "scaled in evaluation": ("a layer that also scales in evaluation", "What must the evaluation output be?"),
    "same mask always": (
        "a layer that draws one mask and keeps it for all passes",
        "The same elements are zero in every pass. What is the mean of each element over the passes?",
    ),
}


@exercise("two-dropouts.6")
def looks_right(answer: Answer, seed: int) -> str:
    """Check looks_right(outputs, evaluation, x, p) -> True for inverted dropout, False for anything else.

    `outputs` holds 2,000 training passes of one x with 12 elements, `evaluation` one evaluation pass. Three right
    layers at different rates must be accepted and nine wrong ones rejected: 1/p, no factor, standard, keep and drop
    swapped with a matching factor, one draw for all elements, normal noise, on in evaluation, scaled in evaluation,
    one mask for all passes. An answer that allows six standard errors or more (or 10 %) and looks at values, share,
    means, independence and evaluation is rejected with a probability of at most 1e-6; nothing else is random.
    """
    rng = np.random.default_rng(seed)
    pair = rates(rng)
    cases = [("right", p) for p in (*pair, float(rng.integers(42, 48)) / 100)]
    cases += [(name, p) for name in _VERDICTS if name != "right" for p in pair]
    misjudged = []
    for i in rng.permutation(len(cases)):
        name, p = cases[i]
        x = signed(rng, (_UNITS,))
        outputs, evaluation = _passes(name, x, p, rng)
        text = f"{answer.name}(outputs, evaluation, x, {p})"
        value = answer.call(text, outputs, evaluation, x, p, pure=True)
        if not isinstance(value, bool | np.bool_):
            raise Mistake(f"{text} returned {short(repr(value))}, expected True or False")
        if bool(value) != (name == "right"):
            misjudged.append((i, text, bool(value)))
    if misjudged:
        i, text, given = min(misjudged)
        described, hint = _VERDICTS[cases[i][0]]
        raise Mistake(f"{text} returned {given} for {described}", hint)
    return f"{len(cases)} layers are told apart."


def _passes(name: str, x: Array, p: float, rng: np.random.Generator) -> tuple[Array, Array]:
    """Return the training passes and the evaluation pass of a right or wrong layer."""
    q, shape = 1 - p, (_PASSES, _UNITS)
    kept = rng.random(shape) >= p
    factor: Any = {"1/p": 1 / p, "unscaled": 1.0, "standard": 1.0, "swapped": 1 / p}.get(name, 1 / q)
    if name == "swapped":
        kept = ~kept
    elif name == "one mask for all":
        kept = np.broadcast_to(kept[:, :1], shape)
    elif name == "same mask always":
        kept = np.broadcast_to(np.arange(_UNITS) >= round(p * _UNITS), shape)
    if name == "noisy":
        return x * rng.normal(1, (p / q) ** 0.5, shape), x.copy()
    evaluation = {"standard": q * x, "scaled in evaluation": q * x}.get(name, x.copy())
    if name == "on in evaluation":
        # Some element is dropped for sure.
        evaluation = x * (rng.permuted(np.arange(_UNITS)) >= max(1, round(p * _UNITS))) / q
    return np.asarray(x * kept * factor), np.asarray(evaluation)
