"""The layers' contract, line by line, on every layer; and what is `KeyedDropout`'s alone."""

from __future__ import annotations

import itertools
import pickle
import tracemalloc
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from dropoutlib import layers, masks
from dropoutlib.layers import InvertedDropout, KeyedDropout, StandardDropout
from dropoutlib.masks import CHUNK, bernoulli_mask, keyed_mask, pack
from tests.dropoutlib.contract import CHECKS, FLOATS, LAYER_RATES, SUBJECTS, Entry, Layer, mask_of, refused, same
from tests.dropoutlib.samples import bits, hostile
from tests.statistics import Alarm


def cases(statistical: bool) -> list[Any]:
    return [
        pytest.param(
            name,
            entry,
            id=f"{name}-{entry.name}",
            marks=[pytest.mark.statistical(comparisons=entry.comparisons)] if statistical else [],
        )
        for name, subject in SUBJECTS.items()
        for entry in CHECKS
        if (entry.comparisons > 0) is statistical and (subject.remembers or not entry.memory)
    ]


@pytest.mark.parametrize(("name", "entry"), cases(statistical=False))
def test_contract(name: str, entry: Entry, seed: int) -> None:
    entry.run(SUBJECTS[name], seed, Alarm(0))


@pytest.mark.parametrize(("name", "entry"), cases(statistical=True))
def test_contract_by_chance(name: str, entry: Entry, seed: int, alarm: Alarm) -> None:
    entry.run(SUBJECTS[name], seed, alarm)
    assert alarm.used == entry.comparisons


@pytest.mark.parametrize("layer", [StandardDropout(), InvertedDropout()])
def test_defaults(layer: Layer) -> None:
    assert layer.p == 0.5
    assert layer.training is True
    assert layer.mask is None


@given(
    x=st.sampled_from(FLOATS).flatmap(
        lambda dtype: hnp.arrays(
            dtype,
            hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=9),
            elements=st.floats(-64, 64, width=np.dtype(dtype).itemsize * 8),
        )
    ),
    p=st.floats(0, 0.999),
    seed=st.integers(0, 2**70),
    name=st.sampled_from(sorted(SUBJECTS)),
)
def test_any_array_any_p_any_seed(x: np.ndarray[Any, Any], p: float, seed: int, name: str) -> None:
    subject = SUBJECTS[name]
    layer = subject.make(p, seed % 2**64 if name == "keyed" else seed)
    before = x.copy()
    y = layer.forward(x)
    mask = mask_of(layer)
    same(y, subject.masked(x, mask, p), "forward")
    same(layer.backward(x), subject.masked(x, mask, p), "backward")
    held = np.asarray(x * subject.scale(p, x.dtype, training=False))
    layer.eval()
    same(layer.forward(x), held, "evaluation")
    same(layer.backward(x), held, "evaluation, backward")
    same(x, before, "the input was written to")


@given(p=st.floats(0, 1), sizes=st.lists(st.integers(0, 40), min_size=1, max_size=6), seed=st.integers(0, 2**32))
def test_a_stream_goes_on_from_call_to_call(p: float, sizes: list[int], seed: int) -> None:
    layer, stream = InvertedDropout(p, seed), np.random.SFC64(np.random.SeedSequence(seed))
    for size in sizes:
        layer.forward(np.ones(size))
        same(mask_of(layer), bernoulli_mask(size, p, stream), "mask")


@given(
    x=hnp.arrays(np.float64, (6, 5), elements=st.floats(-1e3, 1e3)),
    dy=hnp.arrays(np.float64, (6, 5), elements=st.floats(-1e3, 1e3)),
    p=st.floats(0, 0.99),
    name=st.sampled_from(sorted(SUBJECTS)),
    training=st.booleans(),
)
def test_backward_is_the_adjoint_of_forward(
    x: np.ndarray[Any, Any], dy: np.ndarray[Any, Any], p: float, name: str, training: bool
) -> None:
    """<forward(x), dy> = <x, backward(dy)>, because a drawn mask makes the layer linear."""
    layer = SUBJECTS[name].make(p, 5)
    layer.train() if training else layer.eval()
    left, right = np.sum(layer.forward(x) * dy), np.sum(x * layer.backward(dy))
    assert left == pytest.approx(right, rel=1e-12, abs=1e-6)


# --- in pieces ----------------------------------------------------------------------------------------------------

SIZES = (1, 7, CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK + 5)
FACTORS = (None, 1.0, 1 / 0.7, 3.0, 10.0, 2.0**12)


def product(x: Any, mask: Any, factor: float | None) -> Any:
    """Return x * mask, then times the factor, over whole arrays."""
    with np.errstate(all="ignore"):
        y = x * mask.astype(x.dtype)
        return y if factor is None else y * x.dtype.type(factor)


def drop(size: int, p: float = 0.4) -> Any:
    return np.random.default_rng(size).random(size) >= p


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("factor", FACTORS)
def test_pieces_are_the_product(dtype: Any, factor: float | None) -> None:
    for size in SIZES:
        x, mask = hostile(size, dtype), drop(size)
        with np.errstate(over="ignore"):
            y = layers._multiply(x, mask, factor)
        assert y.dtype == x.dtype
        assert bits(y) == bits(product(x, mask, factor)), f"size {size}"


def arrangements(array: Any) -> dict[str, Any]:
    """Return an array of two dimensions as it may lie in memory, with equal elements."""
    rows, columns = array.shape
    wide = np.repeat(array, 2, axis=1)
    read_only = array.copy()
    read_only.flags.writeable = False
    unaligned = np.frombuffer(b"-" + array.tobytes(), array.dtype, offset=1).reshape(rows, columns)
    return {
        "C": array,
        "Fortran": np.asfortranarray(array),
        "strided": wide[:, ::2],
        "backwards": array[::-1, ::-1].copy()[::-1, ::-1],
        "read-only": read_only,
        "unaligned": unaligned,
    }


@pytest.mark.parametrize("shape", [(40, 50), (371, 709)], ids=["one piece", "several pieces"])
@pytest.mark.parametrize("dtype", FLOATS)
def test_pieces_of_arrays_that_lie_otherwise(dtype: Any, shape: tuple[int, int]) -> None:
    rows, columns = shape
    array, mask = hostile(rows * columns, dtype).reshape(shape), drop(rows * columns).reshape(shape)
    expected = bits(product(array, mask, 1 / 0.7))
    for name, x in arrangements(array).items():
        for other, m in arrangements(mask).items():
            with np.errstate(over="ignore"):
                y = layers._multiply(x, m, 1 / 0.7)
            assert bits(y) == expected, f"x {name}, mask {other}"
            assert y.flags.c_contiguous
            assert not np.shares_memory(x, y)


@pytest.mark.parametrize("shape", [(40, 50), (371, 709)], ids=["one piece", "several pieces"])
@pytest.mark.parametrize("factor", [None, 1 / 0.7])
def test_pieces_of_a_mask_for_whole_rows_or_columns(shape: tuple[int, int], factor: float | None) -> None:
    """The mask of a whole row or channel may have fewer elements than x, or its own more than once."""
    x = hostile(shape[0] * shape[1], np.float32).reshape(shape)
    for small in ((shape[0], 1), (1, shape[1]), (shape[1],), (1, 1), ()):
        mask = np.asarray(drop(int(np.prod(small)))).reshape(small)
        with np.errstate(over="ignore"):
            for m in (mask, np.broadcast_to(mask, shape)):
                y = layers._multiply(x, m, factor)
                assert bits(y) == bits(product(x, mask, factor)), f"mask of shape {small}"


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("size", [9, 2 * CHUNK + 5])
def test_a_dropped_value_does_not_overflow_on_its_way_to_zero(dtype: Any, size: int) -> None:
    """A warning is an error here, and inf times 0 would be nan."""
    x = np.full(size, np.finfo(dtype).max, dtype)
    x[::2] *= -1
    zeros = layers._multiply(x, np.zeros(size, bool), 2.0**12)
    assert bits(zeros) == bits(x * 0)
    with pytest.warns(RuntimeWarning, match="overflow"):
        kept = layers._multiply(x, np.ones(size, bool), 2.0**12)
    same(kept, np.where(x > 0, np.inf, -np.inf).astype(dtype), "kept")


# --- memory -------------------------------------------------------------------------------------------------------

MANY = 2**20
# Small things of Python's own.
SLACK = 2**14


def peak(call: Callable[[], Any]) -> int:
    """Return how many bytes more than before are in use at most during a call."""
    call()
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        result = call()
        found = tracemalloc.get_traced_memory()[1] - before
        del result
    finally:
        tracemalloc.stop()
    return found


def test_a_mask_takes_its_own_bytes_and_a_chunk_of_lanes() -> None:
    """For each element of a chunk two bytes of words and one that looks for ties, and two of the next chunk's words."""
    for found in (
        peak(lambda: bernoulli_mask(MANY, 0.3, np.random.SFC64(1))),
        peak(lambda: masks.draw(MANY, 0.3, masks.philox(1, 2, 3))),
    ):
        assert MANY + 3 * CHUNK <= found <= MANY + 5 * CHUNK + SLACK


@pytest.mark.parametrize("make", [InvertedDropout, StandardDropout])
@pytest.mark.parametrize("dtype", FLOATS)
def test_memory_of_a_stored_mask(make: Any, dtype: Any) -> None:
    """The output, a byte an element for the mask, and at most a chunk beside them."""
    x = np.ones((MANY // 1024, 1024), dtype)
    layer = make(0.3, 1)

    def forward() -> Any:
        layer._mask = None
        return layer.forward(x)

    def both() -> Any:
        return forward(), layer.backward(x)

    room = CHUNK + SLACK
    assert x.nbytes + MANY <= peak(forward) <= x.nbytes + MANY + room
    assert 2 * x.nbytes + MANY <= peak(both) <= 2 * x.nbytes + MANY + room
    assert layer.mask.nbytes == MANY
    assert pack(layer.mask).nbytes == MANY // 8
    assert MANY // 8 <= peak(lambda: pack(layer.mask)) <= MANY // 8 + SLACK


@pytest.mark.parametrize("dtype", FLOATS)
def test_memory_without_a_stored_mask(dtype: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """In NumPy the mask lives as long as the call; afterwards there is the output and nothing else."""
    monkeypatch.setattr(layers, "compiled", lambda: None)
    x = np.ones((MANY // 1024, 1024), dtype)
    layer = KeyedDropout(0.3, 1, 2)
    room = CHUNK + SLACK
    assert x.nbytes + MANY <= peak(lambda: layer.forward(x, 3)) <= x.nbytes + MANY + room
    both = peak(lambda: (layer.forward(x, 3), layer.backward(x, 3)))
    assert 2 * x.nbytes + MANY <= both <= 2 * x.nbytes + MANY + room
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        y = layer.forward(x, 3)
        assert tracemalloc.get_traced_memory()[0] - before - y.nbytes <= SLACK
    finally:
        tracemalloc.stop()


# --- KeyedDropout -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("p", LAYER_RATES)
def test_keyed_is_a_function_of_its_keys(p: float) -> None:
    x = np.random.default_rng(1).standard_normal((30, 40)) + 9
    steps = [3, 0, 2**64 - 1, 7, 3, 0]
    layer = KeyedDropout(p, 11, 4)
    seen = [layer.forward(x, step) for step in steps]
    for step, y in zip(steps, seen, strict=True):
        same(y, KeyedDropout(p, 11, 4)(x, step), f"step {step}")
        same(y != 0, keyed_mask(x.shape, p, 11, 4, step), f"mask of step {step}")
        same(layer.backward(x, step), y, f"backward of step {step}")
        same(KeyedDropout(p, 11, 4).backward(x, step), y, "backward without a forward")
    assert len({y.tobytes() for y in seen}) == len(set(steps))


def test_keyed_stores_nothing() -> None:
    layer = KeyedDropout(0.3, 1, 2)
    before = pickle.dumps(layer)
    layer.backward(layer.forward(np.ones((50, 50)), 3), 3)
    assert pickle.dumps(layer) == before
    assert not hasattr(layer, "mask")
    assert not hasattr(layer, "reset")


def test_keyed_follows_the_mode_now() -> None:
    layer = KeyedDropout(0.3, 1, 2)
    x = np.ones((20, 30))
    y = layer.forward(x, 0)
    same(layer.eval().backward(x, 0), x, "evaluation after a training forward")
    layer.forward(x, 0)
    same(layer.train().backward(x, 0), y, "training after an evaluation forward")


def test_keyed_allows_another_shape_in_backward() -> None:
    """Nothing is remembered, so nothing can contradict; a prefix gets a prefix of the mask at p without ties."""
    layer = KeyedDropout(0.25, 1, 2)
    same(layer.backward(np.ones(10), 0), layer.forward(np.ones(40), 0)[:10], "prefix")


@pytest.mark.parametrize(
    ("key", "top"), [("seed", 2**64), ("layer", 2**32), ("step", 2**64)], ids=["seed", "layer", "step"]
)
@pytest.mark.parametrize("training", [True, False])
def test_keyed_bounds(key: str, top: int, training: bool) -> None:
    def call(value: Any) -> Any:
        keys = {"seed": 1, "layer": 2, "step": 3, key: value}
        layer = KeyedDropout(0.3, keys["seed"], keys["layer"])
        layer.training = training
        return layer.forward(np.ones(64), keys["step"]), layer.backward(np.ones(64), keys["step"])

    for bad in (-1, top, top + 1, 2**200):
        with refused(ValueError, key, str(bad)):
            call(bad)
    for mistyped in (True, np.True_, 1.0, np.float32(1), "1", None, np.array(1), [1]):
        with refused(TypeError, key):
            call(mistyped)
    for good in (0, top - 1, np.int64(3), np.uint8(3), np.uint64(top - 1)):
        same(call(good)[0], call(int(good))[0], f"{key}={good!r}")


def test_keyed_neighbours_differ() -> None:
    x = np.ones(400)
    keys = list(itertools.product((0, 1, 2**32, 2**64 - 1), (0, 1, 2**32 - 1), (0, 1, 2**32, 2**64 - 1)))
    masks = {KeyedDropout(0.5, seed, layer).forward(x, step).tobytes() for seed, layer, step in keys}
    assert len(masks) == len(keys)
