"""The frozen streams: an independent slow reference, word by word, and golden digests.

With a + f = (1 - p) * 65536, an element is kept where its 16-bit lane is below a; a lane equal to a takes, if f > 0,
one more word w and is kept where w < f * 2**64. Here 1 - p is what float64 makes of it, and everything after that is
exact arithmetic with fractions and whole numbers.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import dropoutlib.masks
from dropoutlib.layers import InvertedDropout, KeyedDropout, StandardDropout
from dropoutlib.masks import CHUNK, bernoulli_mask, keyed_mask
from tests.dropoutlib.contract import mask_of, same
from tests.dropoutlib.reference import WORD, lanes_of, philox, split, whole_mask
from tests.dropoutlib.scripted import scripted, word
from tests.stream_digests import GENERATORS, KEYS, RATES, digest, digests, rows

GOLDEN = Path(__file__).resolve().parents[1] / "stream_digests.json"
CHUNKED = (2 * CHUNK + 5, CHUNK + 1, CHUNK, CHUNK - 1, 5, 4, 3)


def slow_mask(size: int, p: float, draw: Callable[[], int]) -> list[bool]:
    """Return the mask that the definition gives, element by element."""
    whole, fraction = split(p)
    lanes: list[int] = []
    for _ in range((size + 3) // 4):
        w = draw()
        lanes += [w & 0xFFFF, w >> 16 & 0xFFFF, w >> 32 & 0xFFFF, w >> 48]
    kept = []
    for lane in lanes[:size]:
        if lane == whole and fraction > 0:
            kept.append(draw() < fraction * WORD)
        else:
            kept.append(lane < whole)
    return kept


def words(bit_generator: np.random.BitGenerator) -> Callable[[], int]:
    """Return a function that draws one raw word."""
    return lambda: int(bit_generator.random_raw())


def ties(size: int, p: float, bit_generator: np.random.BitGenerator) -> int:
    """Return how many lanes of the next `size` equal the threshold and take a word more."""
    whole, fraction = split(p)
    lanes = [w >> 16 * i & 0xFFFF for w in map(int, bit_generator.random_raw((size + 3) // 4)) for i in range(4)]
    return lanes[:size].count(whole) if fraction else 0


@pytest.mark.parametrize("make", GENERATORS)
@pytest.mark.parametrize("p", RATES)
def test_bernoulli_mask_is_the_reference(p: float, make: Any) -> None:
    fast, slow = make(42), make(42)
    for size in (0, 1, 2, 3, 4, 5, 8, 1001, 30_000):
        same(bernoulli_mask(size, p, fast), np.array(slow_mask(size, p, words(slow)), bool), f"p={p!r} size={size}")
        assert fast.random_raw() == slow.random_raw(), f"p={p!r} size={size}: words consumed"


@given(p=st.floats(0, 1), size=st.integers(0, 300), seed=st.integers(0, 2**40))
def test_bernoulli_mask_is_the_reference_for_any_p(p: float, size: int, seed: int) -> None:
    fast, slow = np.random.SFC64(seed), np.random.SFC64(seed)
    same(bernoulli_mask(size, p, fast), np.array(slow_mask(size, p, words(slow)), bool), f"p={p!r}")
    assert fast.random_raw() == slow.random_raw()


@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize("p", RATES)
def test_keyed_mask_is_the_reference(p: float, key: tuple[int, int, int]) -> None:
    for size in (0, 5, 3000):
        same(keyed_mask(size, p, *key), np.array(slow_mask(size, p, words(philox(*key))), bool), f"{key} size={size}")


@pytest.mark.parametrize("cls", [StandardDropout, InvertedDropout])
@pytest.mark.parametrize("seed", [0, 7, 2**90])
@pytest.mark.parametrize("p", [0.0, 0.3, 1 / 3, 1.0])
def test_layers_draw_the_reference_stream(cls: Any, seed: int, p: float) -> None:
    for given_seed, stream in (
        (seed, np.random.SFC64(np.random.SeedSequence(seed))),
        (np.random.SeedSequence(seed, spawn_key=(1,)), np.random.SFC64(np.random.SeedSequence(seed, spawn_key=(1,)))),
        (np.random.Generator(np.random.PCG64(seed)), np.random.PCG64(seed)),
    ):
        layer = cls(p, given_seed)
        for shape in ((9,), (50, 41), (), (3, 3)):
            layer.forward(np.ones(shape, np.float32))
            expected = np.array(slow_mask(int(np.prod(shape)), p, words(stream)), bool).reshape(shape)
            same(mask_of(layer), expected, f"{given_seed}")


def test_keyed_layer_draws_the_reference_stream() -> None:
    for seed, layer, step in KEYS:
        y = KeyedDropout(0.3, seed, layer).forward(np.ones(999), step)
        same(y != 0, np.array(slow_mask(999, 0.3, words(philox(seed, layer, step))), bool), "keyed layer")


def test_the_reference_meets_ties() -> None:
    """With thresholds that settle nothing by lanes, the sizes above hold ties, several of them in one mask."""
    many = {p: ties(30_000, p, np.random.SFC64(42)) for p in RATES}
    assert all(many[p] == 0 for p in (0.0, 1.0, 0.5, 1 - 3 / 65536, 1 - 2.0**-16))
    assert sum(ties(200_003, p, np.random.SFC64(42)) >= 2 for p in RATES) >= 8
    assert sum(count > 0 for count in many.values()) >= 3


@pytest.mark.parametrize("p", [0.3, 1 / 3, 2 / 3, 1e-12, 2.0**-40, 1 - 2.0**-17, 1 - 2.0**-40, 1 - 2.0**-53])
def test_edges_of_the_thresholds(p: float) -> None:
    """Lanes around a, and deciding words around f * 2**64, in order of position."""
    whole, fraction = split(p)
    exact = fraction * WORD
    first_dropped = -(-exact.numerator // exact.denominator)
    around = [lane % 65536 for lane in (whole - 1, whole, whole + 1, whole)]
    generator = scripted([word(around), word(around), first_dropped - 1, first_dropped, 0, WORD - 1, 99])
    kept = [lane < whole for lane in around]
    expected = [kept[0], True, kept[2], False, kept[0], True, kept[2], False]
    same(bernoulli_mask(8, p, generator), np.array(expected), f"p={p!r}")
    assert next(generator.script) == 99, "words consumed"


@pytest.mark.parametrize("p", [0.0, 0.25, 0.5, 1 - 3 / 65536, 1.0])
def test_no_tie_without_a_fraction(p: float) -> None:
    whole, fraction = split(p)
    assert fraction == 0
    around = [lane % 65536 for lane in (whole - 1, whole, whole + 1, whole)]
    generator = scripted([word(around), 99])
    same(bernoulli_mask(4, p, generator), np.array([lane < whole for lane in around]), f"p={p!r}")
    assert next(generator.script) == 99, "words consumed"


@given(p=st.one_of(st.floats(0, 1), st.floats(0, 2**-10), st.sampled_from(RATES)))
def test_probability_of_keeping_is_exact(p: float) -> None:
    """P(kept) = (a + ceil(f * 2**64) / 2**64) / 65536 differs from 1 - p by less than 2**-48."""
    whole, fraction = split(p)
    below = fraction * WORD
    kept = (whole + Fraction(-(-below.numerator // below.denominator), WORD)) / 65536
    assert abs(kept - (1 - Fraction(p))) < Fraction(1, 2**48)


def test_the_threshold_alone_would_not_be_exact() -> None:
    whole, _ = split(0.9)
    assert abs(Fraction(whole, 65536) - (1 - Fraction(0.9))) > Fraction(1, 2**48)


# --- in chunks ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("p", [0.0, 1e-9, 0.05, 0.3, 0.5, 2 / 3, 0.9, 1 - 2.0**-17, 1.0])
def test_chunks_are_the_reference(p: float) -> None:
    for make in (np.random.SFC64, np.random.Philox):
        fast, whole = make(42), make(42)
        for size in CHUNKED:
            same(bernoulli_mask(size, p, fast), whole_mask(size, p, whole), f"p={p!r} size={size}")
            assert fast.random_raw() == whole.random_raw(), f"p={p!r} size={size}: words consumed"


def test_the_chunks_meet_ties() -> None:
    """The first mask of each stream above has ties in more than one chunk for half of the p that can have ties."""
    for make in (np.random.SFC64, np.random.Philox):
        lanes = lanes_of(make(42).random_raw(CHUNKED[0] // 4 + 1), CHUNKED[0])
        ties = [np.flatnonzero(lanes == split(p)[0]) for p in (1e-9, 0.05, 0.3, 2 / 3, 0.9, 1 - 2.0**-17)]
        assert sum(len(set(found // CHUNK)) > 1 for found in ties) >= 3


@pytest.mark.parametrize("p", [1e-9, 0.05, 0.3, 2 / 3, 0.9, 1 - 2.0**-17])
def test_ties_of_all_chunks_come_after_all_lanes(p: float) -> None:
    """Each tie takes its own word, in order of position over all chunks, when the last lane has been read."""
    size = 2 * CHUNK + 5
    whole, fraction = split(p)
    at = [0, 3, 1000, CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK - 1, 2 * CHUNK, size - 1]
    kept = [True, False, False, True, False, True, True, False, False]
    lanes = np.random.default_rng(3).integers(0, 65536, size + 3)
    lanes[lanes == whole] = 65535 if whole < 65535 else 0
    expected = lanes[:size] < whole
    lanes[at], expected[at] = whole, kept
    exact = fraction * WORD
    first_dropped = -(-exact.numerator // exact.denominator)
    deciding = [first_dropped - 1 if keep else first_dropped for keep in kept]
    generator = scripted([*lanes.astype("<u2").view("<u8").tolist(), *deciding, 99])
    same(bernoulli_mask(size, p, generator), expected, f"p={p!r}")
    assert next(generator.script) == 99, "words consumed"


@given(
    p=st.floats(0, 1),
    size=st.integers(0, 70),
    chunk=st.sampled_from([4, 8, 20]),
    tied=st.lists(st.booleans(), min_size=72, max_size=72),
    seed=st.integers(0, 2**32),
)
def test_chunks_of_a_few_elements(p: float, size: int, chunk: int, tied: list[bool], seed: int) -> None:
    """The definition knows no chunks, and so their size is nowhere in the stream, however many ties there are."""
    rng = np.random.default_rng(seed)
    lanes = np.where(tied, min(split(p)[0], 65535), rng.integers(0, 65536, 72))[: -(-size // 4) * 4]
    script = [*map(int, lanes.astype("<u2").view("<u8")), *map(int, rng.integers(0, WORD, 73, np.uint64))]
    fast, slow = scripted(script), scripted(script)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dropoutlib.masks, "CHUNK", chunk)
        found = bernoulli_mask(size, p, fast)
    same(found, np.array(slow_mask(size, p, words(slow)), bool), f"p={p!r}")
    assert next(fast.script) == next(slow.script), "words consumed"


class BigEndian(np.random.SFC64):
    """Hands out its words in the byte order of a big-endian machine."""

    def random_raw(self, size: Any = None, output: bool = True) -> Any:
        drawn = super().random_raw(size)
        return drawn if size is None else drawn.astype(">u8")


@pytest.mark.parametrize("p", [0.0, 0.3, 2 / 3, 1 - 2.0**-17, 1.0])
def test_words_in_the_other_byte_order(p: float) -> None:
    assert BigEndian(6).random_raw(2).tobytes() == np.random.SFC64(6).random_raw(2).byteswap().tobytes()
    swapped, stream = BigEndian(6), np.random.SFC64(6)
    for size in (1, 5, CHUNK, 2 * CHUNK + 5):
        same(bernoulli_mask(size, p, swapped), whole_mask(size, p, stream), f"p={p!r} size={size}")
        assert swapped.random_raw() == stream.random_raw(), "words consumed"


# --- golden digests -----------------------------------------------------------------------------------------------


def test_golden_digests() -> None:
    assert digests() == json.loads(GOLDEN.read_text())


@pytest.mark.long
def test_golden_digests_are_those_of_the_reference() -> None:
    golden = json.loads(GOLDEN.read_text())
    for name, masks in rows():
        kind, _, rest = name.partition(" ")
        p = float(rest.split("p=")[1].split()[0])
        if kind == "layer":
            stream: np.random.BitGenerator = np.random.SFC64(np.random.SeedSequence(int(rest.split("seed=")[1])))
        elif kind != "keyed":
            stream = getattr(np.random, kind)(5)
        slow = []
        for mask in masks:
            if kind == "keyed":
                stream = philox(*json.loads(rest.split("key=")[1].replace("(", "[").replace(")", "]")))
            slow.append(np.array(slow_mask(mask.size, p, words(stream)), bool).reshape(mask.shape))
        assert digest(slow) == golden[name], name


# --- keys ---------------------------------------------------------------------------------------------------------


def test_distinct_keys_have_distinct_words() -> None:
    """Two blocks of Philox under one key never agree, and neighbouring keys share no word among the first 64."""
    edge = (0, 1, 2, 2**32 - 1)
    keys = [(s, layer, t) for s in (*edge, 2**64 - 1) for layer in edge for t in (*edge, 2**63, 2**64 - 1)]
    drawn = np.concatenate([philox(*key).random_raw(64) for key in keys])
    assert len(np.unique(drawn)) == drawn.size


@pytest.mark.parametrize("step", [0, 1, 2**40, 2**64 - 2])
def test_a_step_never_runs_into_the_next(step: int) -> None:
    """2**40 elements take at most 2**38 words and a word more for each tie, fewer than 2**41 in all.

    A Philox block holds 4 words and raises the counter by one, so a step uses fewer than 2**39 counters of the 2**192
    that lie between two steps: the first words after that many blocks are still none of the next step's.
    """
    far = philox(9, 9, step)
    far.advance(2**39)
    counter = far.state["state"]["counter"]
    assert [int(c) for c in counter] == [2**39, 0, 0, step]
    assert not set(map(int, far.random_raw(64))) & set(map(int, philox(9, 9, step + 1).random_raw(64)))


def test_order_of_steps_is_irrelevant() -> None:
    steps = list(range(20))
    forwards = {step: keyed_mask((9, 9), 0.3, 5, 6, step) for step in steps}
    for step in reversed(steps):
        same(keyed_mask((9, 9), 0.3, 5, 6, step), forwards[step], f"step {step}")
