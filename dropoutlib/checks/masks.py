"""The exercises of the chapter "masks"."""

from __future__ import annotations

import math
import tracemalloc
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from dropoutlib.checks.exercises import Answer, Handle, Mistake, exercise, fits_binomial, short

Array = npt.NDArray[Any]
BoolArray = npt.NDArray[np.bool_]


# --- 1: a mask from bytes, exact -----------------------------------------------------------------------------------

_Rule = Callable[[Array, Array, float], Any]
_TIES = "A byte that is equal to the whole part of 256 q is undecided: let the word decide it."


def _complement_in_ties(lanes: Array, words: Array, q: float) -> Any:
    whole = int(256 * q)
    return (lanes < whole) | ((lanes == whole) & (words >= (256 * q - whole) * 2.0**32))


def _exact(lanes: Array, words: Array, q: float) -> Any:
    whole = int(256 * q)
    return (lanes < whole) | ((lanes == whole) & (words < (256 * q - whole) * 2.0**32))


_WRONG_RULES: tuple[tuple[_Rule, str], ...] = (
    (lambda lanes, words, q: lanes < int(256 * q), f"You always drop where the byte is equal. {_TIES}"),
    (lambda lanes, words, q: lanes < round(256 * q), f"You round the threshold, so the byte alone decides. {_TIES}"),
    (lambda lanes, words, q: lanes <= int(256 * q), f"You always keep where the byte is equal. {_TIES}"),
    (lambda lanes, words, q: lanes < math.ceil(256 * q), f"You always keep where the byte is equal. {_TIES}"),
    (lambda lanes, words, q: _exact(lanes, words, 1 - q), "You keep with probability p. True means kept."),
    (lambda lanes, words, q: ~_exact(lanes, words, q), "True means kept; you return what is dropped."),
    (lambda lanes, words, q: words < q * 2.0**32, "That uses the words alone, and is good to 32 bits only."),
    (_complement_in_ties, "Where the byte is equal, keep if the word is below f * 2**32, not above."),
)


@exercise("masks.1")
def exact_mask(answer: Answer, seed: int) -> str:
    """Check exact_mask(lanes, words, p): bytes decide, and 32 more bits where a byte leaves it open.

    `lanes` is an array of uint8 and `words` one of uint32, of the same shape. The boolean mask keeps with probability
    1 - p to 2**-39. All 256 bytes are tried, with words on both sides of the threshold.
    """
    rates = [0.3, 0.9, 0.5, float(np.random.default_rng(seed).uniform(0.1, 0.9)), 1e-6, 0.0, 1.0]
    for p in rates:
        q = 1.0 - p
        limit = int((256 * q - int(256 * q)) * 2.0**32)
        probes = sorted({w for w in (limit - 2, limit + 2, 2**31, 2**32 - 1) if 0 <= w < 2**32 and abs(w - limit) > 1})
        lanes = np.repeat(np.arange(256, dtype=np.uint8), len(probes))
        words = np.tile(np.array(probes, np.uint32), 256)
        text = f"exact_mask(lanes, words, {p:.6g})"
        value = answer.call(text, lanes, words, p, pure=True)
        mask = _bool_array(value, text, lanes.shape)
        expected = _exact(lanes, words, q)
        if not np.array_equal(mask, expected):
            i = int(np.flatnonzero(mask != expected)[0])
            wrong, right = ("keeps", "drop") if mask[i] else ("drops", "keep")
            raise Mistake(
                f"{text} {wrong} where the byte is {lanes[i]} and the word {words[i]}, and should {right} it",
                _rule_hint(mask, lanes, words, q),
            )
    return f"All 256 bytes are decided rightly at {len(rates)} rates, and ties to 32 bits."


def _rule_hint(mask: BoolArray, lanes: Array, words: Array, q: float) -> str:
    if q in (0.0, 1.0):
        return "256 q is 0 or 256 here. A byte is never 256; take care that 256 does not turn into 0."
    for rule, hint in _WRONG_RULES:
        if np.array_equal(mask, rule(lanes, words, q)):
            return hint
    return "Write 256 q = a + f with a whole number a. Below a keep, above a drop; at a keep if word < f * 2**32."


def _bool_array(value: object, text: str, shape: tuple[int, ...]) -> BoolArray:
    array = _array(value, text, shape)
    if array.dtype != np.bool_:
        raise Mistake(f"{text} returned an array of {array.dtype}, expected bool", "Comparisons give booleans.")
    return array


def _array(value: object, text: str, shape: tuple[int, ...]) -> Array:
    if not isinstance(value, np.ndarray):
        raise Mistake(f"{text} returned {short(repr(value))}, expected an array of shape {shape}")
    if value.shape != shape:
        raise Mistake(f"{text} returned an array of shape {value.shape}, expected {shape}")
    return value


# --- 2: the dtype of a layer ---------------------------------------------------------------------------------------


@exercise("masks.2")
def apply(answer: Answer, seed: int) -> str:
    """Check apply(x, mask, p): x * mask / (1 - p) in the dtype of x, 0 <= p < 1.

    The scale is 1/(1 - p) rounded once to that dtype; where a finite number was dropped the result is zero. The mask
    holds booleans, whole numbers or floats, and stays as it is. Values may be off by two units of rounding.
    """
    rng = np.random.default_rng(seed)
    cases = 0
    for dtype in (np.float64, np.float32, np.float16):
        for p in (0.3, 0.99, 0.0):
            mask = rng.random(60) >= 0.5
            large = np.where(mask, 1.0, float(np.finfo(dtype).max) / 4)
            x: Array = (rng.uniform(0.5, 2.0, 60) * large).astype(dtype)
            for kind in (np.bool_, np.int64, np.float64):
                text = f"apply(x, mask, {p}) with x of {np.dtype(dtype)} and mask of {np.dtype(kind)}"
                value = answer.call(text, x, mask.astype(kind), p, pure=True)
                _check_applied(_array(value, text, x.shape), x, mask, p, text)
                cases += 1
    return f"Dtype, scale and dropped elements are right in {cases} cases."


def _check_applied(y: Array, x: Array, mask: BoolArray, p: float, text: str) -> None:
    if y.dtype != x.dtype:
        raise Mistake(
            f"{text} returned {y.dtype}",
            "NumPy takes the wider dtype. Turn the mask into booleans, and the scale into a scalar of x's dtype.",
        )
    if not np.all(y[~mask] == 0):
        bad = y[~mask][y[~mask] != 0][0]
        if np.isnan(bad):
            hint = "A large number times the scale is infinite, and infinity times 0 is nan. Put the mask first."
        else:
            hint = "Is True taken for kept? Where the mask is False or 0, the result is 0."
        raise Mistake(f"{text} gives {bad} where a finite number was dropped, expected 0", hint)
    with np.errstate(all="ignore"):
        ratio = float(np.median(y[mask].astype(float) / x[mask].astype(float)))
        one = x.dtype.type(1)
        early = float(one / (one - x.dtype.type(p)))
    scale, eps = 1 / (1 - p), float(np.finfo(x.dtype).eps)
    if abs(ratio / scale - 1) <= eps and np.allclose(y[mask], x[mask].astype(float) * scale, rtol=2 * eps, atol=0):
        return
    hint = "Multiply what is kept by 1/(1 - p)."
    if abs(ratio / early - 1) <= 2 * eps:
        hint = f"In {x.dtype}, 1 - p has lost its digits. Compute 1/(1 - p) with Python's numbers, and round once."
    elif p and abs(ratio * p - 1) <= 2 * eps:
        hint = "p is the probability of dropping: the scale is 1/(1 - p), not 1/p."
    elif abs(ratio / scale**2 - 1) <= 4 * eps:
        hint = "The scale is applied twice."
    raise Mistake(f"{text} multiplies what is kept by {ratio:.7g}, expected {scale:.7g}", hint)


# --- 3: bit planes -------------------------------------------------------------------------------------------------


@exercise("masks.3")
def mask_of_planes(answer: Answer, seed: int) -> str:
    """Check mask_of_planes(planes, k): bytes whose bits are 1 with probability k / 2**n, from n planes of bytes.

    For n up to 6 and each k from 0 to 2**n, the planes run through all 2**n combinations of their bits, and the ones
    are counted.
    """
    tried = 0
    for n in (3, 1, 2, 4, 5, 6):
        planes, copies = _all_combinations(n)
        for k in sorted(range(2**n + 1), key=lambda k: (n, k) != (3, 5)):
            text = f"mask_of_planes(planes, {k}) with {n} plane{'s' * (n > 1)}"
            kept = _bytes(answer.call(text, planes, k, pure=True), text, planes.shape[1:])
            ones = int(np.unpackbits(kept).sum())
            if ones != k * copies:
                raise Mistake(
                    f"{text}: of {2**n * copies} combinations {ones} are kept, expected {k * copies}",
                    _plane_hint(ones / copies, k, n),
                )
            tried += 1
    planes = np.random.default_rng(seed).integers(0, 256, (4, 3, 5), np.uint8)
    text = "mask_of_planes(planes, 11) with planes of shape (4, 3, 5)"
    _bytes(answer.call(text, planes, 11, pure=True), text, (3, 5))
    return f"Exact in all {tried} cases, by counting."


def _all_combinations(n: int) -> tuple[Array, int]:
    """Return n planes that run through all combinations of n bits, and how often each occurs."""
    size = max(2**n, 8)
    bits = [[(i >> (n - 1 - j)) & 1 for i in range(size)] for j in range(n)]
    return np.packbits(np.array(bits, np.uint8), axis=1), size // 2**n


def _bytes(value: object, text: str, shape: tuple[int, ...]) -> Array:
    array = _array(value, text, shape)
    if array.dtype != np.uint8:
        raise Mistake(
            f"{text} returned an array of {array.dtype}, expected uint8",
            "Work on whole bytes with & and |; do not unpack them.",
        )
    return array


def _plane_hint(ones: float, k: int, n: int) -> str:
    if k == 2**n:
        return "At q = 1 there is a digit before the point, and n digits after it do not hold it: return all ones."
    if ones == int(f"{k:0{n}b}"[::-1], 2):
        return "The digits come in the wrong order. The last digit of q, the lowest bit of k, is the first step."
    if ones == 2**n - 1 - k:
        return "The digit 1 is an OR, the digit 0 an AND."
    if ones == 2**n - k:
        return "You keep with probability 1 - k/2**n. A bit that is 1 is kept."
    if ones == k + 1:
        return "Begin with zeros: before the last digit there is nothing."
    if ones in (k - k % 2, 2 * (k % 2 ** (n - 1))):
        return "One digit is missing, or one plane: there is a step for each."
    return "Begin with zeros. From the lowest bit of k on: plane | kept for a 1, plane & kept for a 0."


# --- 4: a layer that stores nothing --------------------------------------------------------------------------------

_P, _Q = 0.3, 0.7


@exercise("masks.4")
def recomputed(answer: Answer, seed: int) -> str:
    """Check Recomputed(p, seed, layer): forward(x, step) and backward(g, step), inverted dropout, nothing stored.

    backward may come for any step, in any order, also on a new object. Masks of other steps, layers and seeds look
    independent. What the object holds after a forward pass does not grow with x.
    """
    rng = np.random.default_rng(seed)
    base = int(rng.integers(1, 2**31))
    x, g = rng.uniform(1.0, 2.0, (2, 64, 1024))
    name = f"Recomputed({_P}, {base}, 1)"
    layer = answer.make(name, _P, base, 1)
    try:
        masks = [_mask_of(answer, layer, "forward", x, step) for step in (0, 1)]
    except Mistake as mistake:
        if "no attribute 'forward'" not in mistake.message:
            raise
        raise Mistake(f"{name} returned an object without a method forward", "Pass the class itself.") from None
    if np.array_equal(masks[0], masks[1]):
        raise Mistake("steps 0 and 1 have the same mask", "The step belongs in the key or in the counter.")
    _check_shifts(*masks)
    for step in (0, 1):
        _check_backward(answer, layer, g, step, masks, "after forward passes at the steps 0 and 1")
    fresh = answer.make(name, _P, base, 1)
    _check_backward(answer, fresh, g, 1, masks, "on a new object")
    second = answer.make(f"Recomputed({_P}, {base}, 2)", _P, base, 2)
    reseeded = answer.make(f"Recomputed({_P}, {base + 1}, 1)", _P, base + 1, 1)
    others = {
        "step 1": masks[1],
        "layer 2": _mask_of(answer, second, "forward", x, 0),
        "another seed": _mask_of(answer, reseeded, "forward", x, 0),
    }
    for other, mask in others.items():
        agree = int((mask == masks[0]).sum())
        if agree == mask.size:
            raise Mistake(f"layer 1 at step 0 and {other} have the same mask", "Seed and layer both belong in the key.")
        if not fits_binomial(agree, mask.size, _Q**2 + _P**2):
            raise Mistake(
                f"the masks of layer 1 at step 0 and of {other} agree on {agree / mask.size:.1%} of the elements; "
                "independent masks agree on 58 %",
                "Do not build one mask from the words of another.",
            )
    _check_held(answer, answer.make(name, _P, base, 1), x)
    return "Each mask comes back from its key, in any order, and the object holds nothing that grows."


def _mask_of(answer: Answer, layer: Handle, method: str, array: Array, step: int) -> BoolArray:
    """Return the mask that a method applies, after checking that it is inverted dropout."""
    text = f"{method}(array, {step})"
    value = answer.method(text, layer, method, array, step, hint="It takes an array and a step.", pure=True)
    y = _array(value, text, array.shape)
    if y.dtype != array.dtype:
        raise Mistake(f"{text} returned {y.dtype} for {array.dtype}", "Keep the dtype.")
    mask: BoolArray = y != 0
    kept = int(mask.sum())
    if kept == 0:
        raise Mistake(f"{text} keeps nothing at p = {_P}", "True means kept.")
    ratio = float(np.median(y[mask] / array[mask]))
    if not np.allclose(y, array * mask * ratio):
        raise Mistake(f"{text} is not a mask times one number times the array", "y = x * mask / (1 - p).")
    if not math.isclose(ratio, 1 / _Q, rel_tol=1e-9):
        hint = "The scale is 1/(1 - p), in forward and in backward."
        raise Mistake(f"{text} multiplies what is kept by {ratio:.4g}, expected {1 / _Q:.4g}", hint)
    if not fits_binomial(kept, mask.size, _Q):
        hint = "p is the probability of dropping." if fits_binomial(kept, mask.size, _P) else ""
        raise Mistake(f"{text} keeps {kept / mask.size:.1%}, expected about 70 %", hint)
    return mask


def _check_shifts(one: BoolArray, other: BoolArray) -> None:
    a, b = one.ravel(), other.ravel()
    for shift in range(1, 257):
        if np.array_equal(a[shift : shift + 512], b[:512]) or np.array_equal(b[shift : shift + 512], a[:512]):
            raise Mistake(
                f"the masks of steps 0 and 1 are the same, {shift} elements apart",
                "Both are parts of one stream. Give each step a part of the counter of its own, such as its last word.",
            )


def _check_backward(answer: Answer, layer: Handle, g: Array, step: int, masks: list[BoolArray], when: str) -> None:
    mask = _mask_of(answer, layer, "backward", g, step)
    if np.array_equal(mask, masks[step]):
        return
    if np.array_equal(mask, masks[1 - step]):
        hint = "Your object remembers the last mask. Make it anew from the step that backward is given."
    else:
        hint = "Backward draws other words. Make the generator inside, from seed, layer and step, each time."
    raise Mistake(f"backward(g, {step}) {when} has not the mask of forward(x, {step})", hint)


def _check_held(answer: Answer, layer: Handle, x: Array) -> None:
    """Raise if a forward pass leaves memory behind that grows with its input."""
    tracing = tracemalloc.is_tracing()
    if not tracing:
        tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        answer.method("forward(x, 2)", layer, "forward", x, 2)
        after, _ = tracemalloc.get_traced_memory()
    finally:
        if not tracing:
            tracemalloc.stop()
    held = after - before
    if held > x.size // 16:
        raise Mistake(
            f"after forward(x, 2) a new object holds about {held / x.size:.2f} bytes for each element of x",
            "Keep p, seed and layer; make the mask from them, use it and let it go.",
        )
