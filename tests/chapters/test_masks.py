"""The claims of the chapter "masks". Probabilities are counted over all values that the bits can take, never drawn.

The functions under test are those of the page itself, read from its cells.
"""

from __future__ import annotations

import ast
import math
import tracemalloc
from collections.abc import Callable
from fractions import Fraction
from functools import lru_cache
from pathlib import Path
from typing import Any

import nbformat
import numpy as np
import pytest

from dropoutlib import InvertedDropout, KeyedDropout, bernoulli_mask, keyed_mask
from dropoutlib.masks import pack, unpack
from dropoutlib.stored import load
from tests.dropoutlib.scripted import scripted

CHAPTER = Path(__file__).parents[2] / "chapters" / "masks.ipynb"
RATES = (0.1, 0.2, 0.3, 0.5, 0.77, 0.9)


@lru_cache
def page() -> dict[str, Any]:
    """Return the names that the chapter defines before its exercises: imports, constants and functions."""
    names: dict[str, Any] = {}
    for cell in nbformat.read(CHAPTER, as_version=4).cells:
        if "## Exercises" in cell.source:
            break
        if cell.cell_type == "code":
            for node in ast.parse(cell.source).body:
                constant = isinstance(node, ast.Assign) and ast.unparse(node.targets[0]).strip("()").isupper()
                if constant or isinstance(node, ast.Import | ast.ImportFrom | ast.FunctionDef):
                    exec(compile(ast.Module([node], []), str(CHAPTER), "exec"), names)
    return names


def nearest(p: float, bits: int) -> Fraction:
    """Return the probability of "lane < t" for the t nearest to 2**bits (1 - p), by counting for up to 16 bits."""
    t = round(Fraction(1 - p) * 2**bits)
    if bits <= 16:
        return Fraction(int(np.count_nonzero(np.arange(2**bits) < t)), 2**bits)
    return Fraction(t, 2**bits)


def error_of_mean(p: float, bits: int) -> float:
    return float(nearest(p, bits) / Fraction(1 - p) - 1)


# --- which p it is -------------------------------------------------------------------------------------------------


@pytest.mark.claim("eight-bits-miss-the-mean")
def test_eight_bits_miss_the_mean() -> None:
    assert round(error_of_mean(0.9, 8), 4) == 0.0156
    assert round(error_of_mean(0.3, 8), 4) == -0.0011
    assert all(error_of_mean(k / 256, 8) == 0 for k in range(256))


@pytest.mark.claim("eight-bits-miss-the-mean")
@pytest.mark.claim("sixteen-bits-miss-the-mean")
def test_no_threshold_is_nearer_than_half_a_step() -> None:
    for bits in (1, 3, 8, 16):
        for p in (*RATES, 1 / 3):
            q, near = Fraction(1 - p), nearest(p, bits)
            assert abs(near - q) <= Fraction(1, 2 ** (bits + 1))
            if bits <= 8:
                others = [Fraction(t, 2**bits) for t in range(2**bits + 1)]
                assert min(abs(other - q) for other in others) == abs(near - q)
            assert page()["error_of_mean"](p, bits) == error_of_mean(p, bits)


@pytest.mark.claim("sixteen-bits-miss-the-mean")
def test_sixteen_bits_miss_the_mean_by_less_than_a_test_can_see() -> None:
    error = error_of_mean(0.9, 16)
    assert round(error, 6) == 6.1e-5
    assert f"{25 * 0.9 * 0.1 / (0.1 * error) ** 2:.0e}" == "6e+10"
    off = [abs(nearest(p, 16) - Fraction(1 - p)) for p in np.linspace(0, 1, 1001).tolist()]
    assert 2**-18 < max(off) <= 2**-17


@pytest.mark.claim("float32-uniform-is-24-bits")
def test_float32_uniform_numbers_are_multiples_of_2_to_the_minus_24() -> None:
    u = np.random.Generator(np.random.SFC64(1)).random(300_000, np.float32).astype(np.float64)
    assert np.all(u * 2**24 == np.floor(u * 2**24))
    assert not np.all(u * 2**23 == np.floor(u * 2**23)), "and of nothing coarser"
    assert 0 <= u.min() < u.max() < 1
    for p, off in ((0.9, 2.4e-7), (0.3, -1.7e-8)):
        # Of the 2**24 numbers, those below p are dropped.
        dropped = math.ceil(Fraction(float(np.float32(p))) * 2**24)
        kept = 1 - Fraction(dropped, 2**24)
        assert math.isclose(float(kept / Fraction(1 - p) - 1), off, rel_tol=0.05)


@pytest.mark.claim("ties-settled-are-exact")
@pytest.mark.parametrize("p", [0.1, 0.3, 2 / 3, 0.9, 1e-6, 1 - 1e-9, 0.25])
def test_settled_ties_meet_q(p: float) -> None:
    """Every lane is tried, and those that are in doubt with words on both sides of the threshold."""
    lanes = np.arange(2**16, dtype="<u2").view("<u8").tolist()

    def kept(word: int) -> int:
        return int(bernoulli_mask(2**16, p, scripted([*lanes, word])).sum())

    fraction = Fraction(1 - p) * 2**16 % 1
    limit = math.ceil(fraction * 2**64)
    whole = kept(2**64 - 1)
    if fraction:
        assert (kept(limit - 1), kept(limit)) == (whole + 1, whole), "one lane is in doubt, below the limit it is kept"
    probability = Fraction(whole, 2**16) + Fraction(limit, 2**80)
    assert abs(probability - (1 - Fraction(p))) < Fraction(1, 2**48)


@pytest.mark.claim("ties-settled-are-exact")
def test_the_masks_of_the_page_are_those_of_the_package() -> None:
    for p in (0.0, *RATES, 1.0):
        for n in (1, 7, 200_003):
            mine = page()["mask_from"](np.random.SFC64(9), n, p)
            np.testing.assert_array_equal(mine, bernoulli_mask(n, p, np.random.SFC64(9)))


@pytest.mark.claim("flash-attention-uses-bytes")
def test_the_byte_rule_keeps_what_the_page_says() -> None:
    kept = {}
    for p in (0.0, 0.1, 0.3, 0.5):
        threshold = np.uint8(math.floor(float(1 - np.float32(p)) * 255.0))
        kept[p] = np.mean(np.arange(256, dtype=np.uint8) <= threshold)
    assert kept[0.0] == 1
    assert kept[0.1] == 230 / 256
    assert round(kept[0.1], 4) == 0.8984
    assert round(kept[0.1] / 0.9 - 1, 4) == -0.0017
    assert kept[0.3] == 179 / 256
    assert kept[0.5] == 0.5


@pytest.mark.claim("at-most-keeps-one-more")
def test_at_most_keeps_one_value_more() -> None:
    lanes = np.arange(256)
    for t in range(256):
        assert np.count_nonzero(lanes <= t) == np.count_nonzero(lanes < t) + 1 == t + 1
    assert np.array(256).astype(np.uint8) == 0, "the threshold of p = 0 does not fit"
    for p, kept in ((0.0, True), (1.0, False)):
        assert np.all(bernoulli_mask(256, p, scripted([0, 2**64 - 1] * 32)) == kept)


@pytest.mark.claim("at-most-keeps-one-more")
def test_zero_is_dropped_at_rate_zero_by_a_strict_comparison() -> None:
    u = np.array([0.0, 2.0**-24, 1 - 2.0**-24], np.float32)
    assert (u > 0.0).tolist() == [False, True, True]
    assert (u >= 0.0).all()
    assert not (u >= 1.0).any()


# --- dtypes, and how a mask is applied -----------------------------------------------------------------------------


@pytest.mark.claim("mask-dtype-widens")
def test_a_wide_mask_widens_and_a_boolean_one_does_not() -> None:
    x, rng = np.ones(100, np.float32), np.random.default_rng(0)
    for mask in (rng.binomial(1, 0.7, 100).astype(np.int64), (rng.random(100) < 0.7).astype(float)):
        assert mask.itemsize == 8
        assert (x * mask / 0.7).dtype == np.float64
    mask = rng.random(100) < 0.7
    assert mask.itemsize == 1
    for dtype in (np.float16, np.float32, np.float64):
        assert (x.astype(dtype) * mask).dtype == dtype


@pytest.mark.claim("float64-scalar-widens")
def test_a_python_number_keeps_float32_and_a_float64_scalar_does_not() -> None:
    x = np.ones(3, np.float32)
    assert (x * (1 / 0.7)).dtype == np.float32
    widened = np.float64 if np.lib.NumpyVersion(np.__version__) >= "2.0.0" else np.float32
    assert (x * np.float64(1 / 0.7)).dtype == widened


@pytest.mark.claim("one-minus-p-in-low-precision")
def test_one_minus_p_loses_digits_in_low_precision() -> None:
    errors = {}
    for dtype in (np.float16, np.float32):
        early = float(dtype(1) / (dtype(1) - dtype(0.9)))
        errors[dtype] = early / 10 - 1
        assert dtype(1 / (1 - 0.9)) == 10
    assert round(errors[np.float32], 8) == -1.9e-7
    assert round(errors[np.float16], 4) == -8e-4


@pytest.mark.claim("mask-before-scale")
def test_a_dropped_value_overflows_only_if_it_is_scaled_first() -> None:
    x, scale = np.array([50_000, 1], np.float16), np.float16(1 / 0.7)
    mask = np.array([False, True])
    with np.errstate(over="ignore", invalid="ignore"):
        scaled_first = x * scale * mask
    masked_first = x * mask * scale
    assert np.isnan(scaled_first[0])
    assert masked_first[0] == 0
    assert scaled_first[1] == masked_first[1]
    assert np.isfinite(InvertedDropout(0.9, seed=0)(np.full(100, 6000, np.float16))).all()


@pytest.mark.claim("multiply-or-choose")
def test_multiplying_and_choosing_differ_for_inf_nan_and_the_sign_of_zero() -> None:
    rng = np.random.default_rng(0)
    x, mask = rng.standard_normal(1000), rng.random(1000) < 0.7
    np.testing.assert_array_equal(x * mask, np.where(mask, x, 0))
    differ = np.signbit(x * mask) != np.signbit(np.where(mask, x, 0))
    np.testing.assert_array_equal(differ, ~mask & (x < 0))
    special = np.array([np.inf, -np.inf, np.nan])
    with np.errstate(invalid="ignore"):
        assert np.isnan(special * np.zeros(3, bool)).all()
    assert not np.where(np.zeros(3, bool), special, 0).any()


# --- bit planes ----------------------------------------------------------------------------------------------------


def all_combinations(n: int) -> np.ndarray:
    """Return n planes of bytes that run through all 2**n combinations, for n >= 3."""
    bits = [[(i >> (n - 1 - j)) & 1 for i in range(2**n)] for j in range(n)]
    return np.packbits(np.array(bits, np.uint8), axis=1)


@pytest.mark.claim("bit-planes-are-exact")
@pytest.mark.parametrize("n", [3, 5, 8])
def test_bit_planes_keep_k_of_all_combinations(n: int) -> None:
    planes, combine = all_combinations(n), page()["combine"]
    for k in range(2**n):
        assert np.unpackbits(combine(planes, f"{k:0{n}b}")).sum() == k


@pytest.mark.claim("bit-planes-are-exact")
def test_a_place_of_a_bit_plane_mask_depends_on_that_place_alone() -> None:
    combine, rng = page()["combine"], np.random.default_rng(0)
    planes, order = rng.integers(0, 256, (5, 200), np.uint8), rng.permutation(200)
    np.testing.assert_array_equal(combine(planes, "10110")[order], combine(planes[:, order], "10110"))


@pytest.mark.claim("two-bits-are-enough")
@pytest.mark.parametrize("q", [0.7, 0.25, 0.999])
def test_two_digits_decide_on_average(q: float) -> None:
    t = f"{round(q * 2**12):012b}"
    looked = []
    for lane in range(2**12):
        same = [a == b for a, b in zip(f"{lane:012b}", t, strict=True)]
        looked.append(same.index(False) + 1 if False in same else 12)
    assert abs(np.mean(looked) - 2) <= 2**-11


# --- what backward needs -------------------------------------------------------------------------------------------


@pytest.mark.claim("mask-read-off-the-output")
def test_the_mask_is_not_to_be_read_off_the_output() -> None:
    rng = np.random.default_rng(3)
    x, g = np.maximum(rng.standard_normal(20_000), 0), rng.standard_normal(20_000)
    layer = InvertedDropout(0.3, seed=1)
    y = layer(x)
    wrong = layer.backward(g) != g * (y != 0) * (1 / 0.7)
    assert abs(wrong.mean() - 0.35) < 0.02
    assert not wrong[x > 0].any()
    assert wrong[(x == 0) & layer.mask].all()


def traced(call: Callable[[], Any]) -> tuple[int, int]:
    """Return what `call` leaves allocated while its result lives, and the peak."""
    tracemalloc.start()
    result = call()
    found = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert result is not None
    return found


@pytest.mark.claim("bytes-of-a-mask")
def test_bytes_of_a_mask() -> None:
    size = 2**20
    mask = bernoulli_mask(size, 0.3, np.random.SFC64(0))
    ways: dict[float, Callable[[], Any]] = {
        8: lambda: np.random.default_rng(0).binomial(1, 0.7, size).astype(np.int64, copy=False),
        4: lambda: mask.astype(np.float32),
        1: lambda: bernoulli_mask(size, 0.3, np.random.SFC64(0)),
        0.125: lambda: pack(mask),
        0: lambda: (42, 1, 7),
    }
    for expected, make in ways.items():
        assert abs(traced(make)[0] / size - expected) < 0.02
    np.testing.assert_array_equal(unpack(pack(mask), size), mask)


@pytest.mark.claim("bytes-of-a-mask")
def test_the_layers_hold_a_byte_or_nothing() -> None:
    x = np.ones(2**18, np.float32)
    stored, keyed = InvertedDropout(0.3, seed=0), KeyedDropout(0.3, 0, 0)
    keyed(x, 1)  # what is compiled or imported is no mask
    assert abs(traced(lambda: stored(x))[0] / x.size - 4 - 1) < 0.03
    assert abs(traced(lambda: keyed(x, 1))[0] / x.size - 4) < 0.03


@pytest.mark.claim("pytorch-cpu-stores-numbers")
def test_pytorch_keeps_numbers_on_the_cpu_and_booleans_in_native_dropout() -> None:
    import torch

    saved: list[Any] = []

    def keep(tensor: Any) -> Any:
        saved.append(tensor)
        return tensor

    for dtype in (torch.float32, torch.float64, torch.bfloat16):
        x = torch.ones(50, 20, dtype=dtype, requires_grad=True)
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            torch.nn.functional.dropout(x, 0.3)
            torch.native_dropout(x, 0.3, True)
        assert [tensor.dtype for tensor in saved] == [dtype, torch.bool]
        assert [tensor.nbytes for tensor in saved] == [1000 * x.element_size(), 1000]
        saved.clear()


# --- Philox --------------------------------------------------------------------------------------------------------


def words(seed: int, layer: int, step: int, count: int, first: int = 0) -> np.ndarray:
    key, counter = np.array([seed, layer], np.uint64), np.array([first, 0, 0, step], np.uint64)
    result: np.ndarray = np.random.Philox(key=key, counter=counter).random_raw(count)
    return result


@pytest.mark.claim("philox-in-ten-lines")
@pytest.mark.parametrize(("seed", "layer", "step"), [(42, 1, 7), (0, 0, 0), (2**64 - 1, 2**32 - 1, 2**64 - 1)])
def test_philox_of_the_page_is_numpys(seed: int, layer: int, step: int) -> None:
    philox = page()["philox"]
    mine = [word for i in range(1, 26) for word in philox((i, 0, 0, step), (seed, layer))]
    assert mine == words(seed, layer, step, 100).tolist()
    np.testing.assert_array_equal(page()["philox_blocks"](0, 25, seed, layer, step), mine)


@pytest.mark.claim("one-bit-changes-half")
def test_one_bit_of_the_counter_changes_half_of_the_output() -> None:
    pairs = [(step, bit) for step in range(64) for bit in (0, 17, 40, 63)]
    means = [np.mean([page()["flipped"](rounds, *pair) for pair in pairs]) for rounds in range(11)]
    assert np.all(np.diff(means[:6]) > 2), "each of the first five rounds mixes"
    assert round(means[4]) == 125
    assert np.all(np.abs(np.array(means[5:]) - 128) < 2)


@pytest.mark.claim("any-block-alone")
@pytest.mark.parametrize("first", [0, 1, 9000, 10**12, 2**63])
def test_any_block_alone(first: int) -> None:
    np.testing.assert_array_equal(page()["philox_blocks"](first, 3, 42, 1, 7), words(42, 1, 7, 12, first))
    if first <= 9000:
        np.testing.assert_array_equal(words(42, 1, 7, 4 * first + 12)[4 * first :], words(42, 1, 7, 12, first))


@pytest.mark.claim("philox-advance-counts-blocks")
def test_advance_counts_blocks_of_four_words() -> None:
    stream = words(42, 1, 7, 200).tolist()
    for delta in (1, 5, 30):
        moved = np.random.Philox(key=[42, 1], counter=[0, 0, 0, 7]).advance(delta)
        assert stream.index(moved.random_raw()) == 4 * delta
    assert "as-if delta draws have occurred" in str(np.random.Philox.advance.__doc__)


@pytest.mark.claim("tiles-in-any-order")
@pytest.mark.parametrize("p", [0.25, 0.5, 45 / 64])
def test_tiles_in_any_order_give_the_same_bits(p: float) -> None:
    x = np.random.default_rng(0).standard_normal((512, 1024), dtype=np.float32)
    expected = KeyedDropout(p, 42, 1)(x, 7)
    for tiles in (1, 4, 512):
        for backwards in (False, True):
            found = page()["fused"](x, p, 42, 1, 7, tiles=tiles, backwards=backwards)
            np.testing.assert_array_equal(found, expected)


@pytest.mark.claim("tiles-in-any-order")
def test_a_tile_with_a_tie_needs_the_ties_before_it() -> None:
    """The one mask differs from its lanes where they are in doubt, and nowhere else."""
    n, q = 2**20, 1 - 0.3
    lanes = words(42, 1, 7, n // 4).astype("<u8").view("<u2")
    mask = keyed_mask(n, 0.3, seed=42, layer=1, step=7)
    doubtful = lanes == int(q * 2**16)
    assert 0 < doubtful.sum() < 100
    np.testing.assert_array_equal(mask[~doubtful], (lanes < int(q * 2**16))[~doubtful])
    assert mask[doubtful].any()


@pytest.mark.claim("tiles-need-no-memory")
def test_tiles_need_no_memory() -> None:
    x = np.random.default_rng(0).standard_normal((1024, 1024), dtype=np.float32)
    stored, fused = InvertedDropout(0.25, seed=0), page()["fused"]
    assert 0.95 < traced(lambda: stored(x))[1] / x.size - 4 < 1.15
    assert 2.95 < traced(lambda: fused(x, 0.25, 42, 1, 7))[1] / x.size - 4 < 3.15
    assert 0 < traced(lambda: fused(x, 0.25, 42, 1, 7, tiles=64))[1] / x.size - 4 < 0.15


# --- what it costs: read from the stored benchmark -----------------------------------------------------------------


@lru_cache
def bench() -> dict[str, Any]:
    return load("benchmark")


def faster(to: str, case: str, shape: str = "4096x1024", p: float = 0.3) -> float:
    """Return how many times faster a case is than another, forward and backward, in float32."""
    ratio: float = bench()["layers"][f"{shape} float32 {p}"]["times_faster_than"][to][case]["median"]
    return ratio


def milliseconds(part: str) -> dict[str, float]:
    return {way: ms["median"] for way, ms in bench()[part]["milliseconds"].items()}


@pytest.mark.claim("choosing-is-slower")
def test_choosing_is_slower_than_multiplying() -> None:
    ms = milliseconds("apply")
    choices = ("np.where", "y[~mask] = 0", "putmask", "multiply(where=mask)")
    assert min(ms[way] for way in choices) > 2 * ms["x * mask * scale"]
    assert ms["x * integers * scale"] > 2 * ms["x * mask * scale"]
    assert ms["memory bound"] < min(ms[way] for way in ms if way != "memory bound")


@pytest.mark.claim("lanes-beat-uniform-numbers")
def test_lanes_are_made_faster_than_uniform_numbers() -> None:
    ms = milliseconds("make")
    assert min(ms["random < q, float32"], ms["random < q, float64"]) > 2 * ms["lanes of SFC64"]
    assert ms["binomial"] > 8 * ms["lanes of SFC64"]
    in_numpy = {way: time for way, time in ms.items() if "compiled" not in way}
    assert min(in_numpy, key=lambda way: in_numpy[way]) == "bit planes, packed"


@pytest.mark.claim("default-layer-speed")
def test_the_default_layer_is_faster_than_pytorch_and_the_textbook() -> None:
    assert faster("pytorch", "inverted") > 5
    assert faster("textbook", "inverted") > 7
    assert faster("pytorch", "inverted", p=0.5) > 6
    assert faster("textbook", "inverted", p=0.5) > 8


@pytest.mark.claim("recomputing-costs-time")
def test_recomputing_costs_time_unless_it_is_compiled() -> None:
    ms = {case: ms["median"] for case, ms in bench()["layers"]["4096x1024 float32 0.3"]["milliseconds"].items()}
    assert ms["inverted"] < ms["keyed"] < 3 * ms["inverted"]
    assert ms["keyed_compiled"] < ms["inverted"]


@pytest.mark.claim("compiled-keyed-speed")
def test_compiled_and_unstored_is_near_the_bound() -> None:
    assert faster("pytorch", "keyed_compiled") > 9
    assert 1 / faster("bound", "keyed_compiled") < 3
    assert bench()["memory"]["bytes_an_element"]["keyed_compiled"]["mask"] == 0


@pytest.mark.claim("small-layer-speed")
def test_a_small_layer_is_faster_than_any_other_library() -> None:
    row = bench()["layers"]["32x100 float32 0.3"]["milliseconds"]
    for other in ("pytorch", "jax", "tensorflow"):
        assert row[other]["median"] > 2 * row["inverted"]["median"]
    assert faster("textbook", "inverted", shape="32x100") > 3


@pytest.mark.claim("counted-masks-speed")
def test_counted_masks_are_faster_than_the_loop() -> None:
    part = bench()["monte_carlo"]
    assert part["trials"] == 10_000
    assert part["times_faster_than"]["textbook loop"]["masks counted"]["median"] > 15
    assert part["peak_megabytes"]["masks counted"] < 60
