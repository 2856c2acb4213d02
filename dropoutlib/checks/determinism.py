"""The exercises of the chapter "determinism", and the training run that its third one resumes."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from dropoutlib.checks.exercises import Answer, Mistake, exercise, fits_binomial
from dropoutlib.masks import bernoulli_mask, keyed_mask

BoolArray = npt.NDArray[np.bool_]
Draw = Callable[[int, int], BoolArray]


# --- 1: a mask for each seed, layer and step -----------------------------------------------------------------------

# A multiple of 2**18 and of a million.
_ROUND = 4_096_000_000
_FOLDED = "Large {} numbers fold onto small ones. Keep all the bits."
# Two different keys, and what a reader has done whose masks are equal for both.
_PAIRS: tuple[tuple[tuple[int, int, int], tuple[int, int, int], str], ...] = (
    ((7, 0, 5), (7, 1, 5), "The layer is not part of your key, so all layers of a step share one mask."),
    ((7, 1, 5), (7, 1, 6), "The step is not part of your key, so each step draws the same mask again."),
    ((7, 1, 5), (8, 1, 5), "The seed is not part of your key, so all runs have the same masks."),
    ((7, 0, 5), (7, 2**31, 5), _FOLDED.format("layer")),
    ((7, 0, 5), (7, _ROUND, 5), _FOLDED.format("layer")),
    ((7, 1, 0), (7, 1, 2**31), _FOLDED.format("step")),
    ((7, 1, 0), (7, 1, _ROUND), _FOLDED.format("step")),
    (
        (7, 1, 5),
        (7, 2, 4),
        "Layer 1 at step 5 and layer 2 at step 4 have one key. A sum does not tell its terms apart: "
        "hand the three numbers over separately.",
    ),
    (
        (7, 1, 5),
        (5, 1, 7),
        "Exchanging two of the numbers changes nothing. A sum or product does not know their order: "
        "hand the three numbers over separately.",
    ),
    (
        (1, 12, 3),
        (11, 2, 3),
        'Written side by side without a sign between them, "1", "12" and "11", "2" are the same text.',
    ),
)
_ONE_STREAM = (
    "They are parts of one stream, and it moves on by less than a mask takes. Give each step a stream, or a part of "
    "the counter, of its own."
)


@exercise("determinism.1")
def mask_of_a_key(answer: Answer, seed: int) -> str:
    """Check mask(shape, p, seed, layer, step): a mask that is a function of its arguments alone.

    True where kept, with probability 1 - p; seed, layer and step are below 2**32. Any two different triples have
    masks that look independent.
    """
    rng = np.random.default_rng(seed)
    first = int(rng.integers(1000, 2**31))
    size = 20_000
    before = np.random.get_state()
    masks = {step: _mask(answer, (size,), 0.3, first, 1, step) for step in (0, 1, 2)}
    if not np.array_equal(_mask(answer, (size,), 0.3, first, 1, 0), masks[0]):
        raise Mistake(
            f"mask({size}, 0.3, {first}, 1, 0) gave two masks, before and after other steps were drawn",
            "Something remembers how often it was called. Make a new generator inside the function, from the key.",
        )
    after = np.random.get_state()
    if not _same_state(before, after):
        raise Mistake(
            "mask(...) changes NumPy's global random state",
            "np.random.seed resets a stream that other code draws from. Make a generator of your own.",
        )
    for one, other, hint in _PAIRS:
        if np.array_equal(_mask(answer, (256,), 0.5, *one), _mask(answer, (256,), 0.5, *other)):
            raise Mistake(f"(seed, layer, step) = {one} and {other} have the same mask", hint)
    _check_balance(int(masks[0].sum()), size, first)
    _check_overlap(masks[0], masks[1])
    others = {"step 1": masks[1], "layer 2": _mask(answer, (size,), 0.3, first, 2, 0)}
    others["another seed"] = _mask(answer, (size,), 0.3, first + 1, 1, 0)
    for name, mask in others.items():
        agree = int((mask == masks[0]).sum())
        if not fits_binomial(agree, size, 0.7**2 + 0.3**2):
            raise Mistake(
                f"at p = 0.3 the mask of layer 1 at step 0 and that of {name} agree on {agree / size:.1%} of the "
                "elements; independent masks agree on 58 %",
                "Do not build one mask from another, nor from a part of the same numbers.",
            )
    for shape in ((3, 0, 5), (2, 3, 4)):
        _mask(answer, shape, 0.3, first, 1, 0)
    return "The mask depends on seed, layer and step alone, whatever was drawn before."


def _mask(answer: Answer, shape: tuple[int, ...], p: float, seed: int, layer: int, step: int) -> BoolArray:
    """Return the answer's mask after checking that it is one."""
    text = f"mask({shape}, {p}, {seed}, {layer}, {step})"
    value = answer.call(text, shape, p, seed, layer, step, hint="seed, layer and step are whole numbers below 2**32.")
    if not isinstance(value, np.ndarray) or value.dtype != np.bool_:
        what = f"an array of {value.dtype}" if isinstance(value, np.ndarray) else repr(value)[:60]
        raise Mistake(f"{text} returned {what}, expected an array of bool", "Compare, for example random numbers >= p.")
    if value.shape != shape:
        raise Mistake(f"{text} returned an array of shape {value.shape}, expected {shape}")
    return value


def _check_balance(kept: int, size: int, seed: int) -> None:
    if not fits_binomial(kept, size, 0.7):
        hint = "p is the probability of dropping; True means kept." if fits_binomial(kept, size, 0.3) else ""
        raise Mistake(f"mask({size}, 0.3, {seed}, 1, 0) keeps {kept / size:.1%}, expected about 70 %", hint)


def _check_overlap(one: BoolArray, other: BoolArray, longest: int = 4096, window: int = 512) -> None:
    """Raise if one mask is the other, moved on."""
    for shift in range(1, longest):
        pairs = ((one[shift : shift + window], other[:window]), (other[shift : shift + window], one[:window]))
        if any(np.array_equal(a, b) for a, b in pairs):
            raise Mistake(f"the masks of steps 0 and 1 are the same, {shift} elements apart", _ONE_STREAM)


def _same_state(one: Any, other: Any) -> bool:
    return bool(np.array_equal(one[1], other[1])) and one[2:] == other[2:]


# --- 2: an audit of somebody's masks -------------------------------------------------------------------------------

_VERDICTS = ("right", "layers share masks", "steps repeat", "not reproducible", "keys collide")


def _with_key(*key: int) -> np.random.Generator:
    return np.random.default_rng(np.random.SeedSequence(list(key)))


def _md5(text: str) -> np.random.Generator:
    return np.random.default_rng(int(hashlib.md5(text.encode()).hexdigest(), 16))


def _layers(seed: int, p: float) -> list[tuple[str, str, Draw]]:
    """Return (verdict, description, draw) for each layer of the audit."""
    shape = (8, 64)
    shared = np.random.SFC64(seed)
    return [
        ("right", "keyed masks", lambda layer, step: keyed_mask(shape, p, seed, layer, step)),
        (
            "layers share masks",
            "base and step only",
            lambda layer, step: _md5(f"{seed}_{step}").random(shape) >= p,
        ),
        ("steps repeat", "base and layer only", lambda layer, step: _with_key(seed, layer).random(shape) >= p),
        ("not reproducible", "one stream for all", lambda layer, step: bernoulli_mask(shape, p, shared)),
        (
            "keys collide",
            "the seed base + layer + step",
            lambda layer, step: _with_key(seed + layer + step).random(shape) >= p,
        ),
        ("right", "a SeedSequence a key", lambda layer, step: _with_key(seed, layer, step).random(shape) >= p),
        ("right", "a text a key", lambda layer, step: _md5(f"{seed}_{layer}_{step}").random(shape) >= p),
    ]


_MISSED = {
    "layers share masks": "Compare two layers at one step.",
    "steps repeat": "Compare two steps of one layer.",
    "not reproducible": "Ask for the same layer and step twice.",
    "keys collide": "Layer 1 at step 0 has the mask of layer 0 at step 1: their sums are equal.",
}
_FALSELY = {
    "not reproducible": "This one gives the same mask whenever it is asked for the same layer and step.",
    "layers share masks": "Two layers at the same step differ here.",
    "steps repeat": "Two steps of the same layer differ here.",
    "keys collide": "All masks are different here. Compare whole masks, not their means.",
}


@exercise("determinism.2")
def audit(answer: Answer, seed: int) -> str:
    """Check audit(draw): what is wrong with the masks of draw(layer, step), or "right".

    Exactly one holds of each: "right", "layers share masks" (at a step), "steps repeat" (in a layer), "not
    reproducible" (two calls, two masks), "keys collide" (another layer at another step).
    """
    base = int(np.random.default_rng(seed).integers(1, 2**31))
    cases = [case for p in (0.3, 0.5) for case in _layers(base, p)]
    for expected, described, draw in cases:
        value = answer.call("audit(draw)", draw)
        if not isinstance(value, str) or value not in _VERDICTS:
            raise Mistake(f"audit(draw) returned {value!r}, expected one of {', '.join(map(repr, _VERDICTS))}")
        if value != expected:
            hint = _FALSELY[value] if value in _FALSELY and expected == "right" else _MISSED.get(expected, "")
            raise Mistake(f"audit(draw) returned {value!r} for {described}, expected {expected!r}", hint)
    return f"All {len(cases)} were named rightly."


# --- 3: the checkpoint of a run ------------------------------------------------------------------------------------


class Run:
    """A training run: linear regression on fixed data with dropout on its inputs, momentum and a falling step size.

    Everything that changes while it runs is in four attributes: `weights`, `velocity`, `rng` (a Generator, for batches
    and masks) and `step`. The arrays are changed in place.
    """

    def __init__(self, seed: int) -> None:
        data = np.random.default_rng(0)
        self.x = data.standard_normal((64, 8))
        self.y = self.x @ np.arange(8.0)
        self.weights = np.zeros(8)
        self.velocity = np.zeros(8)
        self.rng = np.random.Generator(np.random.SFC64(seed))
        self.step = 0

    def advance(self, steps: int) -> None:
        """Train for `steps` steps."""
        for _ in range(steps):
            rows = self.rng.integers(0, 64, 16)
            dropped = self.x[rows] * (self.rng.random((16, 8)) >= 0.2) / 0.8
            gradient = dropped.T @ (dropped @ self.weights - self.y[rows]) / 16
            self.velocity *= 0.9
            self.velocity += gradient
            self.weights -= 0.02 / (1 + self.step) ** 0.5 * self.velocity
            self.step += 1

    @classmethod
    def resume(cls, saved: Mapping[str, Any]) -> Run:
        """Return a new run whose attributes are the saved ones."""
        run = cls(seed=2**31)
        for name, value in saved.items():
            setattr(run, name, value)
        return run


_NEEDED = {
    "weights": "Without the weights it starts over.",
    "velocity": "The optimiser has a state too: without its momentum the next steps are shorter.",
    "rng": "Without the generator the resumed run draws other batches and masks, or its first ones again.",
    "step": "The step size depends on the number of steps done.",
}


@exercise("determinism.3")
def checkpoint(answer: Answer, seed: int) -> str:
    """Check checkpoint(run): a dict from which `Run.resume` goes on bit for bit as the uninterrupted run does."""
    text = "checkpoint(run)"
    for done, more in ((10, 15), (1, 3)):
        run = Run(seed + done)
        run.advance(done)
        truth = copy.deepcopy({name: getattr(run, name) for name in _NEEDED})
        saved = answer.call(text, run)
        if not isinstance(saved, dict):
            raise Mistake(f"{text} returned {type(saved).__name__}, expected a dict", "Keys are the attributes' names.")
        for name in _NEEDED:
            if name not in saved:
                raise Mistake(f"{text} does not hold {name!r}", _NEEDED[name])
            if not _equal(getattr(run, name), truth[name]):
                raise Mistake(f"{text} changed run.{name}", "A checkpoint must not disturb the run.")
            if not _equal(saved[name], truth[name]):
                raise Mistake(f"{text}[{name!r}] is not run.{name}", _NEEDED[name])
        run.advance(more)
        for name in _NEEDED:
            if not _equal(saved[name], truth[name]):
                raise Mistake(
                    f"{text}[{name!r}] went on changing with the run",
                    "It is the same object, not a copy. copy.deepcopy copies arrays and generators.",
                )
        resumed = Run.resume(saved)
        resumed.advance(more)
        if not np.array_equal(resumed.weights, run.weights):
            raise Mistake(f"the run resumed after {done} steps ends elsewhere", "Save the four attributes, no others.")
    return "Two resumed runs end bit for bit where the uninterrupted ones do."


def _equal(one: Any, other: Any) -> bool:
    """Return whether two attributes of a run hold the same; generators by their state."""
    if isinstance(other, np.random.Generator):
        return isinstance(one, np.random.Generator) and repr(one.bit_generator.state) == repr(other.bit_generator.state)
    return type(one) is type(other) and np.array_equal(one, other)
