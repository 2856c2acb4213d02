"""Masks: arguments, shapes, packing, and the frequencies of keeping."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from dropoutlib.masks import bernoulli_mask, keyed_mask, pack, unpack
from tests.dropoutlib.contract import refused, same
from tests.statistics import Alarm

RATES = (0.05, 0.3, 2 / 3, 0.9)
GENERATORS = (np.random.SFC64, np.random.PCG64, np.random.PCG64DXSM, np.random.Philox)


@pytest.mark.parametrize("shape", [(), (0,), 0, 5, (5,), (3, 4), [3, 4], (2, 0, 3), np.int64(6), (np.int64(2), 3)])
@pytest.mark.parametrize("p", [0, 0.3, 0.75, 1])
def test_shape_and_dtype(shape: Any, p: float) -> None:
    expected = (int(shape),) if isinstance(shape, int | np.integer) else tuple(int(n) for n in shape)
    for mask in (bernoulli_mask(shape, p, np.random.SFC64(1)), keyed_mask(shape, p, 1, 2, 3)):
        assert type(mask) is np.ndarray
        assert mask.dtype == np.bool_
        assert mask.shape == expected
        assert mask.flags.c_contiguous


@pytest.mark.parametrize("shape", [(3, 4, 5), (60,), (60, 1)])
def test_elements_come_in_c_order(shape: tuple[int, ...]) -> None:
    flat = bernoulli_mask(60, 0.3, np.random.SFC64(4))
    same(bernoulli_mask(shape, 0.3, np.random.SFC64(4)), flat.reshape(shape), "C order")


@pytest.mark.parametrize("p", [-0.1, 1.1, 3, float("nan"), float("inf")])
def test_rate_out_of_range(p: float) -> None:
    generator = np.random.SFC64(1)
    with refused(ValueError, "p", str(p)):
        bernoulli_mask(3, p, generator)
    with refused(ValueError, "p", str(p)):
        keyed_mask(3, p, 1, 2, 3)
    assert generator.random_raw() == np.random.SFC64(1).random_raw()


@pytest.mark.parametrize("p", [True, "0.3", None, 0.3j, np.array(0.3), [0.3]])
def test_rate_of_wrong_type(p: Any) -> None:
    with refused(TypeError, "p", str(p)):
        bernoulli_mask(3, p, np.random.SFC64(1))
    with refused(TypeError, "p", str(p)):
        keyed_mask(3, p, 1, 2, 3)


@pytest.mark.parametrize("wrong", [0, None, np.random.default_rng(0), np.random.RandomState(0), np.random.SFC64])
def test_bit_generator_of_wrong_type(wrong: Any) -> None:
    with refused(TypeError, "BitGenerator"):
        bernoulli_mask(3, 0.5, wrong)


@pytest.mark.parametrize("p", [0, 0.3, 1])
@pytest.mark.parametrize("shape", [0, 5])
def test_mt19937_is_refused(p: float, shape: int) -> None:
    with refused(ValueError, "MT19937"):
        bernoulli_mask(shape, p, np.random.MT19937(0))


@pytest.mark.parametrize("shape", [-1, (3, -2), (-1, 0)])
def test_negative_shape(shape: Any) -> None:
    with refused(ValueError, "-"):
        bernoulli_mask(shape, 0.3, np.random.SFC64(1))


@pytest.mark.parametrize("shape", [2.0, (2.0, 3), "3", None])
def test_shape_of_wrong_type(shape: Any) -> None:
    generator = np.random.SFC64(1)
    with pytest.raises(TypeError):
        bernoulli_mask(shape, 0.3, generator)
    assert generator.random_raw() == np.random.SFC64(1).random_raw()


@pytest.mark.parametrize(
    ("position", "name", "top"), [(0, "seed", 2**64), (1, "layer", 2**32), (2, "step", 2**64)], ids=str
)
def test_bounds_of_the_keys(position: int, name: str, top: int) -> None:
    def draw(value: Any) -> Any:
        keys: list[Any] = [1, 2, 3]
        keys[position] = value
        return keyed_mask(64, 0.3, *keys)

    for bad in (-1, top, 2**100):
        with refused(ValueError, name, str(bad)):
            draw(bad)
    for mistyped in (True, np.True_, 1.0, np.float64(1), "1", None, [1]):
        with refused(TypeError, name, str(mistyped)):
            draw(mistyped)
    for good in (0, top - 1):
        same(draw(np.uint64(good)), draw(good), name)


@pytest.mark.parametrize(("p", "kept"), [(0, True), (0.0, True), (1, False), (1.0, False)])
def test_certain_rates(p: float, kept: bool) -> None:
    assert np.all(bernoulli_mask((50, 50), p, np.random.SFC64(3)) == kept)
    assert np.all(keyed_mask((50, 50), p, 1, 2, 3) == kept)


def test_raising_p_only_drops_more() -> None:
    """One stream without ties decides by lanes alone, so the kept sets are nested."""
    masks = [bernoulli_mask(4096, k / 64, np.random.SFC64(8)) for k in range(65)]
    assert all(not np.any(more & ~less) for less, more in itertools.pairwise(masks))


@pytest.mark.statistical(comparisons=len(RATES) * len(GENERATORS))
def test_keep_frequency_of_every_bit_generator(seed: int, alarm: Alarm) -> None:
    for p in RATES:
        for make in GENERATORS:
            kept = np.count_nonzero(bernoulli_mask(200_000, p, make(seed)))
            alarm.binomial(kept, 200_000, 1 - p, f"p={p} {make.__name__}")


@pytest.mark.statistical(comparisons=len(RATES))
def test_keep_frequency_over_many_small_keyed_masks(seed: int, alarm: Alarm) -> None:
    for p in RATES:
        kept = sum(np.count_nonzero(keyed_mask(7, p, seed, layer, step)) for layer in range(10) for step in range(100))
        alarm.binomial(kept, 7000, 1 - p, f"p={p}")


@pytest.mark.statistical(comparisons=3 * len(RATES))
def test_keyed_neighbours_are_independent(seed: int, alarm: Alarm) -> None:
    for p in RATES:
        here = keyed_mask(4000, p, seed, 5, 9)
        for what, keys in {"seed": (seed + 1, 5, 9), "layer": (seed, 6, 9), "step": (seed, 5, 10)}.items():
            equal = np.count_nonzero(here == keyed_mask(4000, p, *keys))
            alarm.binomial(equal, 4000, p**2 + (1 - p) ** 2, f"p={p}: next {what}")


# --- packing ------------------------------------------------------------------------------------------------------


@given(
    mask=hnp.arrays(np.bool_, hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=11)), order=st.booleans()
)
def test_unpack_undoes_pack(mask: np.ndarray[Any, Any], order: bool) -> None:
    if order:
        mask = np.asarray(mask, order="F")
    packed = pack(mask)
    assert packed.dtype == np.uint8
    assert packed.shape == (-(-mask.size // 8),)
    same(unpack(packed, mask.shape), mask, "unpacked")


def test_pack_is_c_order_with_the_first_element_in_the_highest_bit() -> None:
    mask = np.zeros((3, 4), bool)
    mask[0, 0] = mask[1, 1] = mask[2, 3] = True  # elements 0, 5 and 11
    same(pack(mask), np.array([0b10000100, 0b00010000], np.uint8), "bytes")
    same(pack(np.asfortranarray(mask)), pack(mask), "Fortran order")


def test_pack_takes_one_bit_an_element() -> None:
    assert pack(np.ones((4096, 1024), bool)).nbytes == 4096 * 1024 // 8


@pytest.mark.parametrize("wrong", [np.ones(3), np.ones(3, np.uint8), [1, 0], None])
def test_pack_refuses_other_dtypes(wrong: Any) -> None:
    with refused(TypeError, str(np.asarray(wrong).dtype)):
        pack(wrong)


@pytest.mark.parametrize("wrong", [np.ones(1), np.ones(1, bool), np.ones(1, np.int64)])
def test_unpack_refuses_other_dtypes(wrong: Any) -> None:
    with refused(TypeError, str(wrong.dtype)):
        unpack(wrong, 3)


@pytest.mark.parametrize("shape", [(4, 4), (17,), (8,), (0,), ()])
def test_unpack_refuses_a_shape_that_does_not_fit(shape: tuple[int, ...]) -> None:
    packed = np.zeros(2 if shape != (4, 4) else 3, np.uint8)
    with refused(ValueError, str(shape)):
        unpack(packed, shape)


def test_unpack_refuses_bytes_in_two_dimensions() -> None:
    with refused(ValueError, "(2, 1)"):
        unpack(np.zeros((2, 1), np.uint8), (16,))


def test_unpacked_memory_is_its_own() -> None:
    packed = pack(np.ones(20, bool))
    mask = unpack(packed, 20)
    mask[:] = False
    assert unpack(packed, 20).all()
