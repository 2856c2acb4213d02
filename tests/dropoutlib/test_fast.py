"""The compiled path of keyed masks: the bits of the NumPy path, used where it helps, and never needed."""

from __future__ import annotations

import hashlib
import importlib
import os
import shutil
import subprocess
import sys
import tracemalloc
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import dropoutlib
from dropoutlib import layers, masks
from dropoutlib.layers import KeyedDropout
from dropoutlib.masks import COMPILED_FROM, compiled, draw, keyed_mask, philox, threshold
from tests.dropoutlib import reference
from tests.dropoutlib.contract import same
from tests.dropoutlib.samples import bits, hostile

ROOT = Path(__file__).resolve().parents[2]
PS = (0.0, 1e-9, 0.05, 0.25, 0.3, 0.5, 2 / 3, 0.9, 1 - 3 / 65536, 1 - 2.0**-17, 1.0)
KEYS = ((0, 0, 0), (119, 2, 3), (2**64 - 1, 2**32 - 1, 2**64 - 1))
# What one pass of the compiled loops makes.
PART = 2048
SIZES = (*(COMPILED_FROM + n for n in (0, 1, 3, 17, PART - 1, PART, PART + 1)), 100_003)
SMALL = (*range(19), 31, 33, PART - 1, PART, PART + 1, 2 * PART + 5)
DTYPES = (np.float32, np.float64)
# (p, key, size): several ties, two of them in one part, more of them than a block of Philox has words.
TIED = (0.3, (119, 2, 3), COMPILED_FROM + 1)


@pytest.fixture(scope="module")
def fast() -> ModuleType:
    """Return the compiled path; skip the test without it, unless the environment variable REQUIRE_ALL is 1."""
    module = compiled()
    if module is None:
        message = 'needs numba, and numba that may compile: pip install "dropoutlib[fast]", unset NUMBA_DISABLE_JIT'
        if os.environ.get("REQUIRE_ALL") == "1":
            pytest.fail(message)
        pytest.skip(message)
    return module


@pytest.fixture
def numpy_only(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Return a function that calls another one as if numba were not there."""

    def call(function: Callable[..., Any], *arguments: Any) -> Any:
        with monkeypatch.context() as patch, np.errstate(over="ignore"):
            patch.setattr(masks, "compiled", lambda: None)
            patch.setattr(layers, "compiled", lambda: None)
            return function(*arguments)

    return call


@pytest.fixture
def calls(fast: ModuleType, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return a list that grows by a name with each call of the compiled path."""
    seen: list[str] = []

    def spy(name: str) -> Callable[..., Any]:
        real = getattr(fast, name)

        def called(*arguments: Any) -> Any:
            seen.append(name)
            return real(*arguments)

        return called

    for name in ("mask", "multiply"):
        monkeypatch.setattr(fast, name, spy(name))
    return seen


def tied_rate(size: int, key: tuple[int, int, int], position: int) -> float:
    """Return a p, exact in float64, at which the element at this position is a tie."""
    lane = int(reference.lanes_of(philox(*key).random_raw((size + 3) // 4), size)[position])
    return 1 - (lane + 0.5) / 65536


# --- the same bits ------------------------------------------------------------------------------------------------


def test_the_kernel_and_these_sizes_have_the_same_parts(fast: ModuleType) -> None:
    assert fast.CHUNK == PART


def test_the_tied_key_has_two_ties_in_one_part_and_more_than_a_block() -> None:
    p, key, size = TIED
    lanes = reference.lanes_of(philox(*key).random_raw((size + 3) // 4), size)
    parts = (np.flatnonzero(lanes == reference.split(p)[0]) // PART).tolist()
    assert len(parts) > 4
    assert max(map(parts.count, parts)) == 2
    assert len(set(parts)) > 2


@pytest.mark.parametrize("p", PS)
@pytest.mark.parametrize("key", KEYS)
def test_keyed_mask_is_the_same(p: float, key: tuple[int, int, int], calls: list[str], numpy_only: Any) -> None:
    for size in SIZES:
        same(keyed_mask(size, p, *key), numpy_only(keyed_mask, size, p, *key), f"{size} elements")
    assert calls == ["mask"] * len(SIZES), "one call for each mask, and none for those of NumPy"
    same(keyed_mask(SIZES[-1], p, *key), reference.whole_mask(SIZES[-1], p, reference.philox(*key)), "reference")


@pytest.mark.parametrize("p", PS)
def test_masks_of_a_few_elements(p: float, fast: ModuleType) -> None:
    """The package leaves these sizes to NumPy; the loops are right for them too."""
    for key in KEYS:
        for size in SMALL:
            same(fast.mask(size, *threshold(p), *key), draw(size, p, philox(*key)), f"{key}, {size} elements")


@pytest.mark.parametrize("key", KEYS)
def test_a_tie_at_every_position(key: tuple[int, int, int], fast: ModuleType) -> None:
    """Its word is the first after all lanes, wherever that lies in a block."""
    for size, positions in ((1, [0]), (37, range(37)), (38, [0, 37]), (44, [43]), (4099, [0, 2047, 2048, 4096, 4098])):
        for position in positions:
            p = tied_rate(size, key, position)
            expected = reference.whole_mask(size, p, reference.philox(*key))
            same(fast.mask(size, *threshold(p), *key), expected, f"tie {position} of {size}")
            x = np.full(size, 3.0)
            y = fast.multiply(x, np.float64(2.0), *threshold(p), *key)
            same(y, 6.0 * expected, f"tie {position} of {size}, product")


@given(
    size=st.integers(0, 5000),
    p=st.floats(0, 1),
    seed=st.integers(0, 2**64 - 1),
    layer=st.integers(0, 2**32 - 1),
    step=st.integers(0, 2**64 - 1),
)
def test_any_p_and_any_key(size: int, p: float, seed: int, layer: int, step: int, fast: ModuleType) -> None:
    expected = reference.whole_mask(size, p, reference.philox(seed, layer, step))
    same(fast.mask(size, *threshold(p), seed, layer, step), expected, "mask")


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("p", PS)
def test_keyed_dropout_is_the_same(p: float, dtype: Any, calls: list[str], numpy_only: Any) -> None:
    """Forward and backward, on infinities, nan, both zeros, subnormals, and numbers that overflow when kept."""
    for seed, layer, step in KEYS:
        keyed = KeyedDropout(p, seed, layer)
        for size in SIZES:
            x = hostile(size, dtype)
            before = bits(x)
            expected = bits(numpy_only(keyed.forward, x, step))
            for direction in (keyed.forward, keyed.backward):
                y = direction(x, step)
                assert type(y) is np.ndarray
                assert y.dtype == x.dtype
                assert bits(y) == expected, f"{direction.__name__}, {size} elements"
            assert bits(x) == before, "the input was written to"
    assert calls == ["multiply"] * (2 * len(KEYS) * len(SIZES) if p < 1 else 0)


def test_ties_in_the_product(calls: list[str]) -> None:
    p, key, size = TIED
    expected = reference.whole_mask(size, p, reference.philox(*key))
    y = KeyedDropout(p, *key[:2]).forward(np.ones(size), key[2])
    same(y != 0, expected, "product")
    same(keyed_mask(size, p, *key), expected, "mask")
    assert calls == ["multiply", "mask"]


@pytest.mark.parametrize("shape", [(COMPILED_FROM,), (1, COMPILED_FROM + 3), (257, 259), (41, 43, 47), (3, 1, 5, 4999)])
def test_shapes(shape: tuple[int, ...], calls: list[str], numpy_only: Any) -> None:
    x = hostile(int(np.prod(shape)), np.float32).reshape(shape)
    layer = KeyedDropout(0.3, 119, 2)
    y = layer.forward(x, 3)
    assert y.shape == shape
    assert bits(y) == bits(numpy_only(layer.forward, x, 3))
    same(keyed_mask(shape, 0.3, 119, 2, 3), numpy_only(keyed_mask, shape, 0.3, 119, 2, 3), "mask")
    assert calls == ["multiply", "mask"]


def test_arrays_that_lie_otherwise(calls: list[str]) -> None:
    """Fortran order, steps, backwards, repeated, read-only, unaligned: C order counts, and nothing is written to."""
    size = COMPILED_FROM + 2 * PART
    array = hostile(size, np.float32)
    square = array.reshape(-1, PART)
    read_only = array.copy()
    read_only.flags.writeable = False
    layer = KeyedDropout(0.3, 119, 2)
    with np.errstate(over="ignore"):
        expected = layers._multiply(array, draw(size, 0.3, philox(119, 2, 3)), 1 / 0.7)
    for name, x in {
        "Fortran": np.asfortranarray(square),
        "a column of two": np.repeat(array, 2)[::2],
        "columns of two": np.repeat(square, 2, axis=1)[:, ::2],
        "backwards": array[::-1].copy()[::-1],
        "read-only": read_only,
        "unaligned": np.frombuffer(b"-" + array.tobytes(), np.float32, offset=1),
    }.items():
        before = bits(x)
        y = layer.forward(x, 3)
        assert bits(y) == bits(expected), name
        assert y.flags.c_contiguous, name
        assert y.flags.writeable, name
        assert not np.shares_memory(x, y), name
        assert bits(x) == before, name
    repeated = np.broadcast_to(np.float32(-2.5), size)
    same(layer.forward(repeated, 3), layer.forward(repeated.copy(), 3), "repeated")
    assert calls == ["multiply"] * 8


def test_a_dropped_value_does_not_overflow_on_its_way_to_zero(calls: list[str]) -> None:
    x = np.full(COMPILED_FROM, np.finfo(np.float32).max)
    x[::2] *= -1
    p = 1 - 2.0**-40
    y = KeyedDropout(p, 1, 2).forward(x, 3)
    assert not keyed_mask(x.shape, p, 1, 2, 3).any()
    assert bits(y) == bits(x * 0)
    assert calls == ["multiply", "mask"]


def test_in_many_threads_at_once(fast: ModuleType) -> None:
    x = hostile(COMPILED_FROM, np.float32)
    layer = KeyedDropout(0.3, 5, 2)
    expected = [bits(layer.forward(x, step)) for step in range(40)]
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(lambda step: bits(layer.forward(x, step)), range(40))) == expected


@pytest.mark.long
@pytest.mark.parametrize("p", [0.05, 0.3, 0.5, 2 / 3, 0.9, 1 - 2.0**-17])
@pytest.mark.parametrize("key", [(119, 2), KEYS[-1][:2]])
def test_a_hundred_million_draws(p: float, key: tuple[int, int], calls: list[str]) -> None:
    size, steps = 2**21 - 3, 48
    for step in range(2**64 - steps, 2**64):
        slow = draw(size, p, philox(*key, step))
        assert np.array_equal(keyed_mask(size, p, *key, step), slow), f"step {step}"
    assert len(calls) * size > 10**8


# --- used where it helps ------------------------------------------------------------------------------------------


def test_numpy_does_what_is_small(calls: list[str], numpy_only: Any) -> None:
    size = COMPILED_FROM - 1
    for dtype in DTYPES:
        x = hostile(size, dtype)
        with np.errstate(over="ignore"):
            y = KeyedDropout(0.3, 1, 2).forward(x, 3)
        assert bits(y) == bits(numpy_only(KeyedDropout(0.3, 1, 2).forward, x, 3))
    same(keyed_mask(size, 0.3, 1, 2, 3), reference.whole_mask(size, 0.3, reference.philox(1, 2, 3)), "mask")
    assert calls == []


@pytest.mark.parametrize("dtype", ["=f2", "S f2", "S f4", "S f8"])
def test_numpy_does_float16_and_the_other_byte_order(dtype: str, calls: list[str]) -> None:
    swapped = dtype.startswith("S")
    kind = np.dtype(dtype[-2:])
    x = hostile(COMPILED_FROM, kind.type).astype(kind.newbyteorder("S") if swapped else kind)
    with np.errstate(over="ignore"):
        y = KeyedDropout(0.3, 119, 2).forward(x, 3)
        expected = layers._multiply(x.astype(kind), draw(x.size, 0.3, philox(119, 2, 3)), 1 / 0.7)
    assert y.dtype == x.dtype
    assert bits(y.astype(kind)) == bits(expected)
    assert calls == []


def test_evaluation_and_p_1_need_no_mask(calls: list[str]) -> None:
    x = hostile(COMPILED_FROM, np.float32)
    assert bits(KeyedDropout(0.3, 1, 2).eval().forward(x, 3)) == bits(x)
    assert bits(KeyedDropout(1.0, 1, 2).forward(x, 3)) == bits(np.zeros_like(x))
    assert calls == []


@pytest.mark.parametrize("dtype", DTYPES)
def test_memory_is_that_of_the_output(dtype: Any, calls: list[str]) -> None:
    """No mask is in memory, neither in the call nor after it; a keyed mask takes its own bytes."""
    x = np.ones(2**20, dtype)
    layer = KeyedDropout(0.3, 1, 2)
    for times, call in (
        (1, lambda: (layer.forward(x, 3),)),
        (2, lambda: (layer.forward(x, 3), layer.backward(x, 3))),
    ):
        call()
        tracemalloc.start()
        try:
            kept: Any = call()
            assert times * x.nbytes <= tracemalloc.get_traced_memory()[1] <= times * x.nbytes + 2**14
            del kept
            before = tracemalloc.get_traced_memory()[0]
            tracemalloc.reset_peak()
            keyed_mask(x.shape, 0.3, 1, 2, 3)
            assert x.size <= tracemalloc.get_traced_memory()[1] - before <= x.size + 2**14
        finally:
            tracemalloc.stop()
    assert {"mask", "multiply"} == set(calls)


# --- never needed -------------------------------------------------------------------------------------------------


@pytest.fixture
def afresh(monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    """Let the compiled path be looked for again, now and after the test."""
    compiled()
    monkeypatch.delitem(sys.modules, "dropoutlib.fast", raising=False)
    monkeypatch.delattr(dropoutlib, "fast", raising=False)
    compiled.cache_clear()
    yield monkeypatch
    compiled.cache_clear()


def by_numpy() -> None:
    """Require that nothing compiled is found, and that the masks and products are there all the same."""
    assert compiled() is None
    p, key, size = TIED
    expected = reference.whole_mask(size, p, reference.philox(*key))
    same(keyed_mask(size, p, *key), expected, "mask")
    layer = KeyedDropout(p, *key[:2])
    x = np.ones(size, np.float32)
    for y in (layer.forward(x, key[2]), layer.backward(x, key[2])):
        same(y, expected * np.float32(1 / (1 - p)), "product")


def test_without_numba(afresh: pytest.MonkeyPatch) -> None:
    afresh.setitem(sys.modules, "numba", None)
    with pytest.raises(ImportError, match="numba"):
        importlib.import_module("dropoutlib.fast")
    by_numpy()


def test_with_numba_told_not_to_compile(fast: ModuleType, afresh: pytest.MonkeyPatch) -> None:
    import numba

    afresh.setattr(numba.config, "DISABLE_JIT", 1)
    with pytest.raises(ImportError, match="NUMBA_DISABLE_JIT"):
        importlib.import_module("dropoutlib.fast")
    by_numpy()


def test_on_a_big_endian_machine(fast: ModuleType, afresh: pytest.MonkeyPatch) -> None:
    afresh.setattr(sys, "byteorder", "big")
    with pytest.raises(ImportError, match="big-endian"):
        importlib.import_module("dropoutlib.fast")
    by_numpy()


def test_it_is_looked_for_once(afresh: pytest.MonkeyPatch) -> None:
    afresh.setitem(sys.modules, "numba", None)
    assert compiled() is None
    afresh.delitem(sys.modules, "numba")
    by_numpy()


def test_where_nothing_can_be_kept_on_disk(fast: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """Numba then refuses to make a function whose result it is to keep."""
    import numba

    real, asked = numba.njit, []

    def refusing(*arguments: Any, **options: Any) -> Any:
        asked.append(options)
        if options.get("cache"):
            raise RuntimeError("cannot cache function 'f': no locator available for file 'f.py'")
        return real(*arguments, **options)

    monkeypatch.setattr(numba, "njit", refusing)
    assert fast._compiled(lambda x: x + 1)(2) == 3
    assert asked == [{"cache": True, "nogil": True}, {"nogil": True}]


PROGRAM = f"""
import hashlib, sys
import numpy as np
import dropoutlib
from dropoutlib import masks
dropoutlib.keyed_mask({COMPILED_FROM - 1}, 0.3, 119, 2, 3)
dropoutlib.InvertedDropout(0.3, 1)(np.ones({COMPILED_FROM}))
small = "numba" in sys.modules
y = dropoutlib.KeyedDropout(0.3, 119, 2)(np.ones({COMPILED_FROM}, np.float32), 3)
print(small, masks.compiled() is not None, hashlib.sha256(y.tobytes()).hexdigest())
"""


def in_a_process(folder: Path, **environment: str) -> list[str]:
    """Run the program with the package in a folder, warnings being errors, and return what it printed."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", PROGRAM],
        env={**os.environ, "PYTHONPATH": str(folder), "PYTHONDONTWRITEBYTECODE": "1", **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    return done.stdout.split()


def expected_digest() -> str:
    y = layers._multiply(np.ones(COMPILED_FROM, np.float32), draw(COMPILED_FROM, 0.3, philox(119, 2, 3)), 1 / 0.7)
    return hashlib.sha256(y.tobytes()).hexdigest()


def test_numba_is_loaded_where_it_is_used_and_not_before(fast: ModuleType) -> None:
    assert in_a_process(ROOT) == ["False", "True", expected_digest()]


def test_a_process_told_not_to_compile() -> None:
    assert in_a_process(ROOT, NUMBA_DISABLE_JIT="1") == ["False", "False", expected_digest()]


@pytest.mark.long
def test_a_process_that_can_keep_nothing_on_disk(fast: ModuleType, tmp_path: Path) -> None:
    """Plain files stand where the folders would be made, which stops the superuser too."""
    shutil.copytree(ROOT / "dropoutlib", tmp_path / "dropoutlib", ignore=shutil.ignore_patterns("__pycache__"))
    taken = tmp_path / "dropoutlib" / "fast" / "__pycache__"
    taken.write_text("")
    home = str(taken / "home")
    places = {name: home for name in ("HOME", "XDG_CACHE_HOME", "LOCALAPPDATA", "IPYTHONDIR")}
    assert in_a_process(tmp_path, **places, NUMBA_CACHE_DIR="") == ["False", "True", expected_digest()]
    assert taken.is_file()
