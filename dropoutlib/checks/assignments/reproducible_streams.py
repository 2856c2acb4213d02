"""The code questions of the assignment "reproducible-streams"."""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from typing import Any

import numpy as np

from dropoutlib.checks.assignments.tools import Array, Rules, array, by_hand, rates, seeds
from dropoutlib.checks.exercises import Answer, Handle, Mistake, exercise, fits_binomial, short

_COMPARE = "Here p is the probability of dropping. Which of the two does your comparison with p select?"

_WEIGHTS = (
    "Two different keys share a mask. If you weigh the numbers and add them, each weight must be larger than anything "
    "that can come below it."
)

# --- 1: a mask from a key ------------------------------------------------------------------------------------------

_KEYS: tuple[tuple[str, tuple[int, int, int], tuple[int, int, int], str], ...] = (
    ("another seed", (0, 3, 5), (1, 3, 5), "The seed is not used."),
    (
        "another layer",
        (0, 3, 5),
        (0, 4, 5),
        "The layer is not used: two layers of one network would share their masks.",
    ),
    ("another step", (0, 3, 5), (0, 3, 6), "The step is not used: every step of the training would draw one mask."),
    (
        "one layer on and one step back",
        (0, 3, 5),
        (0, 4, 4),
        "Adding the numbers up gives the same sum for different keys. Keep them apart: a sequence of three numbers.",
    ),
    (
        "one seed on and one step back",
        (0, 3, 5),
        (1, 3, 4),
        "Adding the numbers up gives the same sum for different keys. Keep them apart: a sequence of three numbers.",
    ),
    (
        "layer and step exchanged",
        (0, 3, 5),
        (0, 5, 3),
        "Layer and step are exchangeable in your key. In a sequence of three numbers each has its place.",
    ),
    (
        "layer 1, step 11 and layer 11, step 1",
        (0, 1, 11),
        (0, 11, 1),
        "Written one after the other, 1 and 11 look like 11 and 1. Put something between them, or keep the numbers.",
    ),
    (
        "layer 0 at two steps",
        (0, 0, 2),
        (0, 0, 3),
        "A product is 0 as soon as one factor is. Keep the three numbers apart.",
    ),
    (
        "layer 2, step 6 and layer 3, step 4",
        (0, 2, 6),
        (0, 3, 4),
        "Different numbers have the same product. Keep the three numbers apart.",
    ),
    (
        "a step that is larger by 2^32",
        (0, 3, 5),
        (0, 3, 5 + 2**32),
        "Two keys that differ above the 32nd bit share a mask. Something cuts the key to 32 bits.",
    ),
    ("layer 3, step 1005 and layer 4, step 5", (0, 3, 1005), (0, 4, 5), _WEIGHTS),
    ("layer 3, step 65541 and layer 4, step 5", (0, 3, 5 + 2**16), (0, 4, 5), _WEIGHTS),
)


@exercise("reproducible-streams.1")
def keyed_mask(answer: Answer, seed: int) -> str:
    """Check keyed_mask(shape, p, seed, layer, step): a mask that depends on its arguments only, and on all of them.

    Dtype, shapes, share of kept elements (Chernoff's bound at 1e-10, at two rates); the same arguments give the same
    mask again, whatever was drawn between; pairs of keys that sums, products, exchanged places, joined digits, 32 bits
    and weights confuse; masks of neighbouring steps must not be shifted copies of one stream, and must agree as often
    as independent ones do (Chernoff's bound at 1e-10, for six pairs). A right answer is rejected with a probability of
    at most 1e-9.
    """
    rng = np.random.default_rng(seed)
    shape, pair, base = (int(rng.integers(30, 45)), int(rng.integers(40, 60))), rates(rng), seeds(rng, 1)[0]
    first: dict[float, Array] = {}
    for p in pair:
        key = (base, 3, 5)
        mask = first[p] = _keyed(answer, shape, p, key)
        text = _call(answer, shape, p, key)
        for rows, name in ((mask, "batch"), (mask.T, "row")):
            if np.all(rows == rows[0]):
                raise Mistake(
                    f"{text} used one mask for the whole {name}", "Each element of the shape needs a draw of its own."
                )
        if not fits_binomial(int(mask.sum()), mask.size, 1 - p):
            swapped = fits_binomial(int(mask.sum()), mask.size, p)
            raise Mistake(f"{text} kept {mask.mean():.1%}, expected {1 - p:.0%}", _COMPARE if swapped else "")
    p = pair[0]
    for name, one, other, hint in _KEYS:
        keys = [(base + s, layer, step) for s, layer, step in (one, other)]
        masks = [_keyed(answer, shape, p, key) for key in keys]
        if np.array_equal(masks[0], masks[1]):
            raise Mistake(
                f"{answer.name} drew the same mask for (seed, layer, step) = {keys[0]} and {keys[1]}: {name}", hint
            )
    for p in pair:
        if not np.array_equal(first[p], _keyed(answer, shape, p, (base, 3, 5))):
            raise Mistake(
                f"{_call(answer, shape, p, (base, 3, 5))} gave another mask when it was called again, after others",
                "The mask must follow from the arguments alone. Make a new generator of them in each call, and use no "
                "generator, counter or clock from outside.",
            )
    p = pair[0]
    _check_overlap(answer, shape, p, base)
    for shape_ in ((), (0,), (7,), (2, 3, 4)):
        _keyed(answer, shape_, p, (base, 0, 0))
    for edge, kept in ((0.0, True), (1.0, False)):
        mask = _keyed(answer, shape, edge, (base, 0, 0))
        if np.any(mask != kept):
            raise Mistake(
                f"{_call(answer, shape, edge, (base, 0, 0))} kept {mask.mean():.1%}",
                f"p = {edge:g} drops {'nothing' if kept else 'everything'}.",
            )
    return f"{len(_KEYS)} pairs of keys have masks of their own, and each comes again when it is asked for again."


def _check_overlap(answer: Answer, shape: tuple[int, int], p: float, base: int) -> None:
    """Compare masks whose keys differ by one: no shifted copies, and agreement as by chance (six comparisons)."""
    keys = [(base, 3, 5), (base, 3, 6), (base, 4, 5), (base + 1, 3, 5)]
    masks = [_keyed(answer, shape, p, key).ravel() for key in keys]
    for (i, u), (j, v) in itertools.combinations(enumerate(masks), 2):
        for shift in (1, 2, 4, 8, *shape):
            if np.array_equal(u[shift:], v[:-shift]) or np.array_equal(u[:-shift], v[shift:]):
                raise Mistake(
                    f"{answer.name}: the masks of {keys[i]} and {keys[j]} are the same but for a shift by {shift}",
                    "Two keys read the same stream from different places, so their masks overlap. Each key needs a "
                    "stream of its own.",
                )
        if not fits_binomial(int(np.sum(u == v)), u.size, p * p + (1 - p) ** 2):
            raise Mistake(
                f"{answer.name}: the masks of {keys[i]} and {keys[j]} agree in {np.mean(u == v):.1%}, expected "
                f"{p * p + (1 - p) ** 2:.0%}",
                "The masks of two keys are not independent: they have a part in common.",
            )


def _call(answer: Answer, shape: tuple[int, ...], p: float, key: tuple[int, int, int]) -> str:
    return f"{answer.name}({shape}, {p}, seed={key[0]}, layer={key[1]}, step={key[2]})"


def _keyed(answer: Answer, shape: tuple[int, ...], p: float, key: tuple[int, int, int]) -> Array:
    text = _call(answer, shape, p, key)
    value = answer.call(text, shape, p, *key)
    if isinstance(value, bool) and shape == ():
        return np.asarray(value)
    return array(value, text, shape, "b", "One True or False for each element of the shape, which is any tuple.")


# --- 2: stop and resume --------------------------------------------------------------------------------------------


@exercise("reproducible-streams.2")
def mask_stream(answer: Answer, seed: int) -> str:
    """Check MaskStream(p, seed) with draw(shape), state() and restore(state): masks that go on after a break.

    A run of six masks of different shapes is broken after each of them; a new object with another p and seed takes the
    state, as JSON gives it back, and must draw the rest. Taking the state draws nothing, and a state stays what it was
    while the stream goes on. Share (Chernoff's bound at 1e-10, twice), new masks at each draw, seeds. A right answer
    is rejected with a probability of at most 1e-9.
    """
    rng = np.random.default_rng(seed)
    shapes: list[tuple[int, ...]] = [(int(rng.integers(3, 9)), int(rng.integers(20, 40))) for _ in range(5)]
    shapes.insert(2, (7,))
    first, other = seeds(rng, 2)
    for p in rates(rng):
        stream = _Stream(answer, p, first)
        large = stream.draw((60, 70))
        if not fits_binomial(int(large.sum()), large.size, 1 - p):
            swapped = fits_binomial(int(large.sum()), large.size, p)
            raise Mistake(
                f"{stream.text}.draw kept {large.mean():.1%}, expected {1 - p:.0%}", _COMPARE if swapped else ""
            )
        if np.array_equal(large, stream.draw((60, 70))):
            raise Mistake(
                f"{stream.text}.draw gave the same mask twice",
                "A stream goes on: make the generator once, in __init__, and draw from it each time.",
            )
        if not np.array_equal(large, _Stream(answer, p, first).draw((60, 70))):
            raise Mistake(f"two streams {stream.text} drew different masks", "The seed decides the whole stream.")
        if np.array_equal(large, _Stream(answer, p, other).draw((60, 70))):
            raise Mistake(f"{stream.text} and seed={other} drew the same mask", "The seed is not used.")
    low, high = rates(rng)
    run = [_Stream(answer, low, first)]
    whole = [run[0].draw(shape) for shape in shapes]
    for stop in (4, 1, 0, 3, 6):
        _check_break(answer, (low, high), (first, other), shapes, whole, stop)
    _check_snapshot(answer, low, first, shapes)
    return f"A run of {len(shapes)} masks may be broken anywhere."


def _check_break(
    answer: Answer,
    two_rates: tuple[float, float],
    two_seeds: tuple[int, int],
    shapes: Sequence[tuple[int, ...]],
    whole: list[Array],
    stop: int,
) -> None:
    low, high = two_rates
    before = _Stream(answer, low, two_seeds[0])
    for shape in shapes[:stop]:
        before.draw(shape)
    state = before.state()
    peeked = [before.draw(shape) for shape in shapes[stop:]]
    if not all(map(np.array_equal, peeked, whole[stop:])):
        raise Mistake(
            f"{before.text}: the masks after state() are not those of a run without it",
            "Looking at the state must not change the stream: state() draws nothing and rewinds nothing.",
        )
    for rate, seed, what in ((low, two_seeds[1], "seed"), (high, two_seeds[0], "p")):
        after = _Stream(answer, rate, seed)
        after.draw((5,))
        after.restore(state)
        rest = [after.draw(shape) for shape in shapes[stop:]]
        if all(map(np.array_equal, rest, whole[stop:])):
            continue
        text = f"{after.text}.restore(state), with the state of {before.text} after {stop} masks, drew other masks"
        raise Mistake(text, _resume_hint(rest, whole, shapes, stop, what))


def _resume_hint(rest: list[Array], whole: list[Array], shapes: Sequence[tuple[int, ...]], stop: int, what: str) -> str:
    """Return the hint for masks that do not go on where the run stopped."""
    start = np.concatenate([m.ravel() for m in whole])
    got = np.concatenate([m.ravel() for m in rest]) if rest else np.zeros(0, bool)
    at = sum(int(np.prod(shape)) for shape in shapes[:stop])
    if stop and got.size > 40 and np.array_equal(got[:40], start[:40]):
        return "The masks begin again from the start: a seed alone does not say how far the run had come."
    for shift in range(-40, 41):
        low = at + shift
        if shift and low >= 0 and got.size > 120 and np.array_equal(got[:60], start[low : low + 60]):
            return f"The masks go on {abs(shift)} numbers too {'late' if shift > 0 else 'early'}. Count what draws."
    if what == "p":
        return "The rate belongs to the state too: the new object was made with another p."
    return "What decides the next mask? All of that belongs to the state, and restore must put all of it back."


def _check_snapshot(answer: Answer, p: float, seed: int, shapes: Sequence[tuple[int, ...]]) -> None:
    stream = _Stream(answer, p, seed)
    stream.draw(shapes[0])
    early = stream.state()
    expected = stream.draw(shapes[1])
    stream.draw(shapes[2])
    stream.restore(early)
    if not np.array_equal(stream.draw(shapes[1]), expected):
        raise Mistake(
            f"{stream.text}: restoring an earlier state does not bring back the masks after it",
            "restore puts the stream where it was, also on the same object and after more draws.",
        )


class _Stream:
    """A stream that the answer made."""

    def __init__(self, answer: Answer, p: float, seed: int) -> None:
        self.text = f"{answer.name}({p}, seed={seed})"
        self._answer = answer
        self._handle: Handle = answer.make(self.text, p, seed)

    def draw(self, shape: tuple[int, ...]) -> Array:
        text = f"{self.text}.draw({shape})"
        return array(self._answer.method(text, self._handle, "draw", shape), text, shape, "b", "A mask is bool.")

    def state(self) -> Any:
        """Return the state after a journey through JSON."""
        value = self._answer.method(f"{self.text}.state()", self._handle, "state")
        try:
            return json.loads(json.dumps(value))
        except (TypeError, ValueError):
            raise Mistake(
                f"{self.text}.state() returned {short(repr(value))}, which JSON cannot hold",
                "A checkpoint is read by another program on another day. Numbers, text, lists and dictionaries travel; "
                "generators and NumPy's values do not, but int(...) and tolist() do.",
            ) from None

    def restore(self, state: Any) -> None:
        text = f"{self.text}.restore(state)"
        hint = "The state comes back from JSON: tuples have become lists, and keys are text."
        self._answer.method(text, self._handle, "restore", state, hint=hint, nothing=True)


# --- 3: seeds for workers ------------------------------------------------------------------------------------------


@exercise("reproducible-streams.3")
def worker_seeds(answer: Answer, seed: int) -> str:
    """Check worker_seeds(seed, workers): a list of as many whole numbers, one for each worker.

    At least 0 and below 2^128; all different, also from those of the next and of distant seeds, for up to 1,500
    workers; the same again for the same arguments; a worker's seed does not depend on how many there are; large enough
    that a chance collision is out of the question. A right answer, with numbers of 60 bits or more, is rejected with a
    probability of at most 1e-9.
    """
    rng = np.random.default_rng(seed)
    base, few, many = seeds(rng, 1)[0], int(rng.integers(4, 9)), 1500
    text = f"{answer.name}({base}, {few})"
    short_list, long_list = _seed_list(answer, base, few), _seed_list(answer, base, many)
    if len(set(short_list)) < few:
        raise Mistake(
            f"{text} gave the same number to two workers", "Two workers with one seed do the same work twice."
        )
    if short_list != _seed_list(answer, base, few):
        raise Mistake(
            f"{text} gave other numbers the second time",
            "A run that cannot be repeated cannot be debugged. All numbers must follow from the seed.",
        )
    lists = [_seed_list(answer, base + step, few) for step in range(4)]
    for (i, one), (j, other) in itertools.combinations(enumerate(lists), 2):
        if shared := set(one) & set(other):
            raise Mistake(
                f"{answer.name}({base + i}, {few}) and {answer.name}({base + j}, {few}) share {min(shared)}",
                "Neighbouring seeds are what people use: 0, 1, 2, ... Adding the worker's number to the seed makes "
                "worker 1 of one run worker 0 of the next.",
            )
    if long_list[:few] != short_list:
        raise Mistake(
            f"{text} is not the beginning of {answer.name}({base}, {many})",
            "A worker's seed must not depend on how many workers there are, or adding one changes all runs.",
        )
    if max(long_list) < 2**56:
        raise Mistake(
            f"the largest of {many} seeds is {max(long_list)}",
            "The numbers are small, and among n of them about n^2 / 2 pairs can collide: use 60 bits or more.",
        )
    neighbours = [set(_seed_list(answer, base + step, many)) for step in (1, 7, 1000)]
    if len(set(long_list)) < many or any(set(long_list) & other for other in neighbours):
        raise Mistake(
            f"{answer.name}: with {many} workers, two of them share a seed, in one run or in two",
            "The numbers of two seeds lie on ranges that meet. Mix them: SeedSequence, a hash, or a generator.",
        )
    return "The seeds of 1,500 workers differ, within a run and between runs, and stay when workers are added."


def _seed_list(answer: Answer, seed: int, workers: int) -> list[int]:
    text = f"{answer.name}({seed}, {workers})"
    value = answer.call(text, seed, workers)
    items = value.tolist() if isinstance(value, np.ndarray) and value.ndim == 1 else value
    if not isinstance(items, list | tuple) or len(items) != workers:
        raise Mistake(f"{text} returned {short(repr(value))}, expected a list of {workers} whole numbers")
    if any(isinstance(item, bool) or not isinstance(item, int | np.integer) for item in items):
        raise Mistake(f"{text} returned {short(repr(value))}, expected whole numbers", "A seed is a whole number: int.")
    if any(not 0 <= item < 2**128 for item in items):
        raise Mistake(
            f"{text} returned {short(repr(value))}, expected numbers from 0 to 2^128", "Seeds are not negative."
        )
    return [int(item) for item in items]


# --- 4: are two masks independent? ---------------------------------------------------------------------------------

_PAIRS: dict[str, tuple[bool, str, str]] = {
    "independent": (
        True,
        "two independent masks",
        "Two independent masks were suspected. How often do they agree by chance? That depends on p, and it is never "
        "exact.",
    ),
    "identical": (False, "one mask twice", "The two are equal in every element."),
    "complement": (
        False,
        "a mask and its opposite",
        "They agree nowhere, and chance would have them agree often. Too little agreement is suspicious too.",
    ),
    "antithetic": (
        False,
        "two masks made of u and 1 - u",
        "They agree less often than chance would have it. Too little agreement is suspicious too.",
    ),
    "tenth redrawn": (False, "a mask of which a tenth was drawn anew", "Equal in most elements is not independent."),
    "half shared": (
        False,
        "two masks that share every second row",
        "They agree more often than chance would have it. How often would that be? Not half the time.",
    ),
    "fifth shared": (
        False,
        "two masks that share a fifth of their elements",
        "They agree a little too often. Compare the excess with its standard error, not with a fixed share.",
    ),
}


@exercise("reproducible-streams.4")
def look_independent(answer: Answer, seed: int) -> str:
    """Check look_independent(first, second, p): whether two masks of rate p agree as often as independent ones do.

    Masks of 100 x 150 elements at three rates: independent ones must be accepted; equal, opposite, antithetic and
    partly shared ones rejected, in an order drawn from the seed. Independent masks agree with probability
    p^2 + (1-p)^2. An answer that allows between six and ten standard errors is rejected with a probability of at most
    1e-7; nothing else is random.
    """
    rng = np.random.default_rng(seed)
    three = (*rates(rng), float(rng.integers(42, 48)) / 100)
    cases = [(name, p) for name in _PAIRS for p in three if not (name == "complement" and p != three[2])]
    misjudged = []
    for i in rng.permutation(len(cases)):
        name, p = cases[i]
        first, second = _pair_of_masks(name, p, rng)
        text = f"{answer.name}(first, second, {p})"
        value = answer.call(text, first, second, p, pure=True)
        if not isinstance(value, bool | np.bool_):
            raise Mistake(f"{text} returned {short(repr(value))}, expected True or False")
        if bool(value) != _PAIRS[name][0]:
            misjudged.append((i, text, bool(value)))
    if misjudged:
        i, text, given = min(misjudged)
        _, described, hint = _PAIRS[cases[i][0]]
        raise Mistake(f"{text} returned {given} for {described}", hint)
    return f"{len(cases)} pairs of masks are judged rightly."


def _pair_of_masks(name: str, p: float, rng: np.random.Generator) -> tuple[Array, Array]:
    shape = (100, 150)
    u, v = rng.random(shape), rng.random(shape)
    first, second = u >= p, v >= p
    if name == "identical":
        second = first.copy()
    elif name == "complement":
        second = ~first
    elif name == "antithetic":
        second = 1 - u >= p
    elif name == "tenth redrawn":
        second = np.where(rng.random(shape) < 0.1, second, first)
    elif name == "half shared":
        second[::2] = first[::2]
    elif name == "fifth shared":
        second[:, ::5] = first[:, ::5]
    return first, second


# --- 5: by hand ----------------------------------------------------------------------------------------------------


@exercise("reproducible-streams.5")
def collisions(answer: Answer, seed: int) -> str:
    """Check collisions(): expected colliding pairs of N 32-bit seeds, and how often two masks of rate P agree.

    They are N (N-1) / 2 / 2^32 and P^2 + (1-P)^2, each to three digits. Nothing is random.
    """
    n, p = float(answer.given("N")), float(answer.given("P"))
    q, pairs = 1 - p, n * (n - 1) / 2
    rules: tuple[Rules, ...] = (
        (
            (
                lambda: n / 2**32,
                "That is the chance that one new step meets one old seed, N times. How many pairs are there?",
            ),
            (lambda: n * n / 2**32, "Each pair is counted twice: there are N (N-1) / 2 of them."),
            (lambda: pairs / 2**64, "The chance that two seeds are equal is one in 2^32: the first may be anything."),
            (lambda: pairs / 32, "32 bits have 2^32 values."),
            (lambda: pairs, "That is the number of pairs. How likely is it that a pair collides?"),
            (lambda: 1.0, "The expected number is asked for, not the probability of at least one."),
        ),
        (
            (lambda: 0.5, "One half is right at p = .5 only. When do two masks agree? Both keep, or both drop."),
            (lambda: q * q, "They also agree where both drop."),
            (lambda: p * p, "They also agree where both keep."),
            (lambda: 2 * p * q, "That is how often they differ."),
            (lambda: q, "That is how often one of them keeps. Agreement takes two."),
        ),
    )
    names = ("the number of colliding pairs", "the share that agrees")
    by_hand(answer, names, (pairs / 2**32, p * p + q * q), rules)
    return "Both numbers are right."
