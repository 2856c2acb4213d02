"""Keyed masks in compiled code: NumPy's Philox bit for bit, and the multiplication in the same pass over memory.

Nothing needs this package. `KeyedDropout` and `keyed_mask` use it for large arrays where numba is installed
(`pip install "dropoutlib[fast]"`) and do the same with NumPy where it is not; importing it without numba raises
ImportError.

Philox encrypts a counter, so that any word can be made without those before it. One pass makes the words of 2,048
elements, compares and multiplies while they are in the processor's first cache, and goes on; no mask is ever in memory.

References
----------
Salmon, Moraes, Dror and Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC 2011.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import numba
import numpy as np
import numpy.typing as npt

if numba.config.DISABLE_JIT:  # type: ignore[attr-defined]
    raise ImportError("numba is told not to compile (NUMBA_DISABLE_JIT), and without it these loops would crawl")
if sys.byteorder != "little":
    raise ImportError("the compiled code reads its words as little-endian lanes, and this machine is big-endian")

BoolArray = npt.NDArray[np.bool_]
Lane = npt.NDArray[np.unsignedinteger]
FloatArray = npt.NDArray[np.floating]

# Philox 4x64 has ten rounds; a block is four words, and so sixteen elements.
ROUNDS, BLOCK = 10, 16
CHUNK = 128 * BLOCK
MULTIPLIERS = np.uint64(0xD2E7470EE14C6C93), np.uint64(0xCA5A826395121157)
KEY_STEPS = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xBB67AE8584CAA73B)
LOW, HALF = np.uint64(0xFFFFFFFF), np.uint64(32)


def multiply(
    x: FloatArray, scale: np.floating, lane: Lane, limit: np.uint64 | None, seed: int, layer: int, step: int
) -> FloatArray:
    """Return x * m * scale with the mask m of (seed, layer, step), which is made on the way and not stored.

    Parameters
    ----------
    x : ndarray of float32 or float64, in the machine's byte order
        Any shape.
    scale : float32 or float64
        Of the dtype of `x`.
    lane, limit : unsigned integers, or None
        What `dropoutlib.masks.threshold` says of p.
    seed, layer, step : int
        As in `dropoutlib.masks.keyed_mask`.

    Returns
    -------
    ndarray
        Of the shape and dtype of `x`, in C order.
    """
    y = np.empty(x.shape, x.dtype)
    _multiply(x.reshape(-1), y.reshape(-1), scale, lane[()], *_words(limit, seed, layer, step))
    return y


def mask(size: int, lane: Lane, limit: np.uint64 | None, seed: int, layer: int, step: int) -> BoolArray:
    """Return the mask of `size` elements in a row; the other arguments are those of `multiply`."""
    kept = np.empty(size, np.bool_)
    _mask(kept, lane[()], *_words(limit, seed, layer, step))
    return kept


def _words(limit: np.uint64 | None, *key: int) -> tuple[np.uint64, ...]:
    """Return the limit, 0 where no tie is settled, and the key as words."""
    return limit or np.uint64(0), *map(np.uint64, key)


def _compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile at the first call, and keep the result on disk where a place for it can be written."""
    try:
        compiled: Callable[..., Any] = numba.njit(cache=True, nogil=True)(function)
    except RuntimeError:
        compiled = numba.njit(nogil=True)(function)
    return compiled


@_compiled
def _high(x, low, high):  # type: ignore[no-untyped-def]
    """Return the upper 64 bits of x times a constant given in halves; vector units multiply 32 bits at a time."""
    below, above = x & LOW, x >> HALF
    middle = above * low + ((below * low) >> HALF)
    return above * high + (middle >> HALF) + ((below * high + (middle & LOW)) >> HALF)


@_compiled
def _fill(state, words, first, seed, layer, step):  # type: ignore[no-untyped-def]
    """Write the blocks from counter `first` on; each round goes over all of them, which vectorises."""
    a, b, c, d = state[0], state[1], state[2], state[3]
    for i in range(a.size):
        a[i], b[i], c[i], d[i] = first + np.uint64(i), np.uint64(0), np.uint64(0), step
    key, other = seed, layer
    m, n = MULTIPLIERS
    for _ in range(ROUNDS):
        for i in range(a.size):
            x, y = a[i], c[i]
            a[i] = _high(y, n & LOW, n >> HALF) ^ b[i] ^ key
            c[i] = _high(x, m & LOW, m >> HALF) ^ d[i] ^ other
            b[i], d[i] = n * y, m * x
        key, other = key + KEY_STEPS[0], other + KEY_STEPS[1]
    for i in range(a.size):
        words[4 * i], words[4 * i + 1], words[4 * i + 2], words[4 * i + 3] = a[i], b[i], c[i], d[i]


@_compiled
def _has(lanes, lane):  # type: ignore[no-untyped-def]
    """Return whether a lane needs more words; without an early end this vectorises."""
    found = False
    for i in range(lanes.size):
        found = found | (lanes[i] == lane)
    return found


@_compiled
def _settled(state, words, size, tied, limit, seed, layer, step):  # type: ignore[no-untyped-def]
    """Return whether the tie after `tied` others keeps its element: words for ties follow those of all lanes."""
    word = (size + 3) // 4 + tied
    _fill(state, words, np.uint64(word // 4 + 1), seed, layer, step)
    return words[word % 4] < limit


@_compiled
def _mask(kept, lane, limit, seed, layer, step):  # type: ignore[no-untyped-def]
    state, words = np.empty((4, CHUNK // BLOCK), np.uint64), np.empty(CHUNK // 4, np.uint64)
    tied = 0
    for start in range(0, kept.size, CHUNK):
        part = kept[start : start + CHUNK]
        _fill(state, words, np.uint64(start // BLOCK + 1), seed, layer, step)
        lanes = words.view(np.uint16)[: part.size]
        for i in range(part.size):
            part[i] = lanes[i] < lane
        if limit and _has(lanes, lane):
            for tie in np.flatnonzero(lanes == lane):
                part[tie] = _settled(state, words, kept.size, tied, limit, seed, layer, step)
                tied += 1


@_compiled
def _multiply(x, y, scale, lane, limit, seed, layer, step):  # type: ignore[no-untyped-def]
    state, words = np.empty((4, CHUNK // BLOCK), np.uint64), np.empty(CHUNK // 4, np.uint64)
    zero, tied = x.dtype.type(0), 0
    for start in range(0, x.size, CHUNK):
        values, products = x[start : start + CHUNK], y[start : start + CHUNK]
        _fill(state, words, np.uint64(start // BLOCK + 1), seed, layer, step)
        lanes = words.view(np.uint16)[: values.size]
        for i in range(values.size):
            products[i] = values[i] * (scale if lanes[i] < lane else zero)
        if limit and _has(lanes, lane):
            for tie in np.flatnonzero(lanes == lane):
                kept = _settled(state, words, x.size, tied, limit, seed, layer, step)
                products[tie] = values[tie] * (scale if kept else zero)
                tied += 1
