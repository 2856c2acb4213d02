"""The exercises of "masks": wrong answers with the hint that is meant for them, and right ones."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from dropoutlib import KeyedDropout, bernoulli_mask, keyed_mask
from tests.dropoutlib.checking import hinted, passed, rejected

EXACT, APPLY, PLANES, RECOMPUTED = (f"masks.{i}" for i in (1, 2, 3, 4))
Array = np.ndarray[Any, Any]


# 1


def exact(lanes: Array, words: Array, p: float) -> Any:
    q = 1 - p
    a = int(256 * q)
    wide = lanes.astype(np.int64)
    return (wide < a) | ((wide == a) & (words < (256 * q - a) * 2**32))


def by_one_number(lanes: Array, words: Array, p: float) -> Any:
    return lanes.astype(np.uint64) * np.uint64(2**32) + words < (1 - p) * 2.0**40


def swapped_ties(lanes: Array, words: Array, p: float) -> Any:
    q = 1 - p
    a = int(256 * q)
    return (lanes < a) | ((lanes == a) & (words >= (256 * q - a) * 2**32))


def wrapped(lanes: Array, words: Array, p: float) -> Any:
    """At p = 0 the threshold 256 turns into the byte 0."""
    q = 1 - p
    a = np.array(int(256 * q)).astype(np.uint8)
    return (lanes < a) | ((lanes == a) & (words < (256 * q - int(256 * q)) * 2**32))


def coarse_ties(lanes: Array, words: Array, p: float) -> Any:
    """Ties are settled by eight more bits only."""
    return lanes.astype(int) * 256 + (words >> 24) < (1 - p) * 2**16


@pytest.mark.parametrize("answer", [exact, by_one_number])
@pytest.mark.parametrize("seed", [0, 1, 7])
def test_exact_masks_pass(answer: object, seed: int) -> None:
    passed(EXACT, answer, seed)


@pytest.mark.parametrize(
    ("answer", "parts"),
    [
        (lambda lanes, words, p: lanes < int(256 * (1 - p)), ["where the byte is 179", "always drop"]),
        (lambda lanes, words, p: lanes < round(256 * (1 - p) + 0.3), ["always keep where the byte is equal"]),
        (lambda lanes, words, p: lanes <= int(256 * (1 - p)), ["always keep where the byte is equal"]),
        (lambda lanes, words, p: lanes < 255 * (1 - p), ["always drop"]),
        (lambda lanes, words, p: exact(lanes, words, 1 - p), ["You keep with probability p"]),
        (lambda lanes, words, p: ~exact(lanes, words, p), ["what is dropped"]),
        (lambda lanes, words, p: words < (1 - p) * 2**32, ["words alone"]),
        (swapped_ties, ["below f * 2**32, not above"]),
        (wrapped, ["A byte is never 256"]),
        (coarse_ties, ["256 q = a + f"]),
        (lambda lanes, words, p: exact(lanes, words, p) * 1.0, ["float64, expected bool"]),
    ],
)
def test_exact_hints(answer: object, parts: list[str]) -> None:
    hinted(EXACT, answer, *parts)


def test_exact_masks_of_another_shape_or_kind() -> None:
    rejected(EXACT, lambda lanes, words, p: np.ones(3, bool), "shape (3,)")
    rejected(EXACT, lambda lanes, words, p: 5, "expected an array")


def test_the_lanes_stay_as_they_are() -> None:
    def answer(lanes: Array, words: Array, p: float) -> Any:
        found = exact(lanes, words, p)
        lanes[:] = 0
        return found

    hinted(EXACT, answer, "changed an array")


# 2


def apply(x: Array, mask: Array, p: float) -> Any:
    return x * mask.astype(bool) * x.dtype.type(1 / (1 - p))


def in_double(x: Array, mask: Array, p: float) -> Any:
    return (x.astype(float) * mask / (1 - p)).astype(x.dtype)


def divided(x: Array, mask: Array, p: float) -> Any:
    return (x * mask.astype(x.dtype) / (1 - p)).astype(x.dtype)


def chosen(x: Array, mask: Array, p: float) -> Any:
    return np.where(mask, x * x.dtype.type(1 / (1 - p)), x.dtype.type(0))


@pytest.mark.parametrize("answer", [apply, in_double, divided, chosen])
@pytest.mark.parametrize("seed", [0, 5])
def test_right_layers_pass(answer: object, seed: int) -> None:
    passed(APPLY, answer, seed)


def as_printed(x: Array, mask: Array, p: float) -> Any:
    scale = 1 / (1 - x.dtype.type(p))
    return x * scale * mask.astype(float)


@pytest.mark.parametrize(
    ("answer", "parts"),
    [
        (as_printed, ["Put the mask first"]),
        (lambda x, mask, p: (x * mask / (1 - p)).astype(float), ["returned float64", "wider dtype"]),
        (lambda x, mask, p: x * mask * (1 / (1 - p)), ["returned float64", "wider dtype"]),
        (lambda x, mask, p: x * (x.dtype.type(1 / (1 - p))) * mask.astype(bool), ["infinity times 0 is nan"]),
        (lambda x, mask, p: x * mask.astype(bool) * (1 / (1 - x.dtype.type(p))), ["has lost its digits"]),
        (lambda x, mask, p: x * ~mask.astype(bool), ["Is True taken for kept?"]),
        (lambda x, mask, p: x * mask.astype(bool), ["Multiply what is kept"]),
        (lambda x, mask, p: x * mask.astype(bool) * x.dtype.type(1 / p if p else 1), ["not 1/p"]),
        (lambda x, mask, p: apply(apply(x, mask, p), mask, p), ["applied twice"]),
    ],
)
def test_apply_hints(answer: object, parts: list[str]) -> None:
    hinted(APPLY, answer, *parts)


def test_a_layer_that_writes_into_its_input_is_told() -> None:
    def answer(x: Array, mask: Array, p: float) -> Any:
        x *= mask.astype(bool)
        return x * x.dtype.type(1 / (1 - p))

    hinted(APPLY, answer, "changed an array")


# 3


def mask_of_planes(planes: Array, k: int) -> Any:
    if k == 2 ** len(planes):
        return np.full_like(planes[0], 255)
    kept = np.zeros_like(planes[0])
    for i, plane in enumerate(planes):
        kept = plane | kept if k >> i & 1 else plane & kept
    return kept


def by_numbers(planes: Array, k: int) -> Any:
    """A right answer of another kind: each place's bits are read as a number and compared."""
    bits = np.unpackbits(planes[..., None], axis=-1)
    numbers = sum(plane.astype(int) << i for i, plane in enumerate(bits))
    return np.packbits(numbers < k, axis=-1)[..., 0]


@pytest.mark.parametrize("answer", [mask_of_planes, by_numbers])
def test_right_planes_pass(answer: object) -> None:
    passed(PLANES, answer)


def reversed_digits(planes: Array, k: int) -> Any:
    return mask_of_planes(planes, int(f"{k:0{len(planes)}b}"[::-1], 2))


def begun_with_ones(planes: Array, k: int) -> Any:
    kept = np.full_like(planes[0], 255)
    for i, plane in enumerate(planes):
        kept = plane | kept if k >> i & 1 else plane & kept
    return kept


def exchanged(planes: Array, k: int) -> Any:
    kept = np.zeros_like(planes[0])
    for i, plane in enumerate(planes):
        kept = plane & kept if k >> i & 1 else plane | kept
    return kept


def without_the_end(planes: Array, k: int) -> Any:
    return mask_of_planes(planes, k % 2 ** len(planes))


def in_place(planes: Array, k: int) -> Any:
    kept = mask_of_planes(planes, k)
    planes[0] = kept
    return kept


@pytest.mark.parametrize(
    ("answer", "parts"),
    [
        (lambda planes, k: mask_of_planes(planes, 2 ** len(planes) - k), ["probability 1 - k/2**n"]),
        (begun_with_ones, ["Begin with zeros"]),
        (exchanged, ["2 are kept, expected 5", "The digit 1 is an OR"]),
        (without_the_end, ["a digit before the point"]),
        (lambda planes, k: mask_of_planes(planes[:-1], k >> 1), ["One digit is missing"]),
        (lambda planes, k: np.unpackbits(mask_of_planes(planes, k)), ["shape"]),
        (lambda planes, k: mask_of_planes(planes, k).astype(int), ["int64, expected uint8", "Work on whole bytes"]),
        (in_place, ["changed an array"]),
    ],
)
def test_plane_hints(answer: object, parts: list[str]) -> None:
    rejected(PLANES, answer, *parts)


def test_digits_in_the_wrong_order() -> None:
    """5/8 is a palindrome, so another number of planes finds it."""
    hinted(PLANES, reversed_digits, "wrong order")


# 4


class Recomputed:
    def __init__(self, p: float, seed: int, layer: int) -> None:
        self.p, self.key = p, [seed, layer]

    def mask(self, shape: tuple[int, ...], step: int) -> Any:
        return bernoulli_mask(shape, self.p, np.random.Philox(key=self.key, counter=[0, 0, 0, step]))

    def forward(self, array: Array, step: int) -> Any:
        return array * self.mask(array.shape, step) / (1 - self.p)

    def backward(self, g: Array, step: int) -> Any:
        return self.forward(g, step)


class Seeded(Recomputed):
    def mask(self, shape: tuple[int, ...], step: int) -> Any:
        return np.random.default_rng([*self.key, step]).random(shape) >= self.p


class Remembering(Recomputed):
    def forward(self, array: Array, step: int) -> Any:
        self.last = self.mask(array.shape, step)
        return array * self.last / (1 - self.p)

    def backward(self, g: Array, step: int) -> Any:
        return g * self.last / (1 - self.p)


class Hoarding(Recomputed):
    def forward(self, array: Array, step: int) -> Any:
        self.kept = {**getattr(self, "kept", {}), step: self.mask(array.shape, step)}
        return array * self.kept[step] / (1 - self.p)

    def backward(self, g: Array, step: int) -> Any:
        return Recomputed.forward(self, g, step)


class Streaming(Recomputed):
    def __init__(self, p: float, seed: int, layer: int) -> None:
        super().__init__(p, seed, layer)
        self.bits = np.random.Philox(key=self.key)

    def mask(self, shape: tuple[int, ...], step: int) -> Any:
        return bernoulli_mask(shape, self.p, self.bits)


class Stepless(Recomputed):
    def mask(self, shape: tuple[int, ...], step: int) -> Any:
        return super().mask(shape, 0)


class Layerless(Recomputed):
    def __init__(self, p: float, seed: int, layer: int) -> None:
        super().__init__(p, seed, 0)


class Seedless(Recomputed):
    def __init__(self, p: float, seed: int, layer: int) -> None:
        super().__init__(p, 0, layer)


class Overlapping(Recomputed):
    def mask(self, shape: tuple[int, ...], step: int) -> Any:
        return bernoulli_mask(shape, self.p, np.random.Philox(key=self.key, counter=[step, 0, 0, 0]))


class Unscaled(Recomputed):
    def backward(self, g: Array, step: int) -> Any:
        return g * self.mask(g.shape, step)


class Keeping(Recomputed):
    def mask(self, shape: tuple[int, ...], step: int) -> Any:
        return ~super().mask(shape, step)


class Related(Recomputed):
    """Half of each later mask is that of step 0."""

    def mask(self, shape: tuple[int, ...], step: int) -> Any:
        seed, layer = self.key
        first, coin = keyed_mask(shape, self.p, seed, layer, 0), keyed_mask(shape, 0.5, seed, layer, step + 1000)
        return first if step == 0 else np.where(coin, first, super().mask(shape, step))


class Narrowing(Recomputed):
    def forward(self, array: Array, step: int) -> Any:
        return super().forward(array, step).astype(np.float32)


@pytest.mark.parametrize("answer", [Recomputed, Seeded, KeyedDropout])
@pytest.mark.parametrize("seed", [0, 3])
def test_layers_that_store_nothing_pass(answer: object, seed: int) -> None:
    passed(RECOMPUTED, answer, seed)


@pytest.mark.parametrize(
    ("answer", "parts"),
    [
        (Remembering, ["backward(g, 0) after forward passes", "remembers the last mask"]),
        (Hoarding, ["bytes for each element", "let it go"]),
        (Streaming, ["draws other words"]),
        (Stepless, ["steps 0 and 1 have the same mask"]),
        (Layerless, ["layer 2 have the same mask", "both belong in the key"]),
        (Seedless, ["another seed have the same mask", "both belong in the key"]),
        (Overlapping, ["16 elements apart", "parts of one stream"]),
        (Unscaled, ["backward(array, 0) multiplies what is kept by 1"]),
        (Keeping, ["expected about 70 %", "probability of dropping"]),
        (Related, ["independent masks agree on 58 %"]),
        (Narrowing, ["returned float32", "Keep the dtype"]),
    ],
)
def test_recomputed_hints(answer: object, parts: list[str]) -> None:
    hinted(RECOMPUTED, answer, *parts)


def test_a_new_object_must_do() -> None:
    class Needy(Recomputed):
        def forward(self, array: Array, step: int) -> Any:
            self.ready = True
            return super().forward(array, step)

        def backward(self, g: Array, step: int) -> Any:
            assert self.ready
            return super().forward(g, step)

    rejected(RECOMPUTED, Needy, "backward(array, 1) raised AttributeError")


def test_a_layer_that_keeps_nothing_or_adds_is_reported() -> None:
    class Zero(Recomputed):
        def forward(self, array: Array, step: int) -> Any:
            return array * 0.0

    class Adding(Recomputed):
        def forward(self, array: Array, step: int) -> Any:
            return super().forward(array, step) + 1

    hinted(RECOMPUTED, Zero, "keeps nothing")
    rejected(RECOMPUTED, Adding, "is not a mask times one number")
