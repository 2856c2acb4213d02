"""Bernoulli masks from the raw words of a bit generator.

NumPy promises that `BitGenerator.random_raw` keeps its stream for ever and promises nothing of the kind for the
methods of `Generator`. Masks are therefore made from raw 64-bit words, and the way from words to mask is frozen:

1. n elements take ceil(n / 4) words, read as little-endian 16-bit lanes, one lane an element in C order.
2. Write (1 - p) * 65536 = a + f with a whole `a` and 0 <= f < 1. A lane below `a` keeps its element, a lane above
   drops it.
3. If f > 0, each lane equal to `a` takes, in order of position, one more word w and keeps its element if w < f * 2**64.

The first sixteen bits settle all but one element in 65,536; the rare ties settle the rest, so that the probability of
keeping is 1 - p to better than 2**-48.
"""

from __future__ import annotations

import functools
import math
import operator
from collections.abc import Sequence
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt

from dropoutlib._validation import probability, word

BoolArray = npt.NDArray[np.bool_]
Shape = int | Sequence[int]

LANE_BITS = 16
LANES_PER_WORD = 4
# Elements whose lanes, mask and products stay in the second cache together.
CHUNK = 1 << 17
# From this size on compiled code gains more than a call of it costs.
COMPILED_FROM = 1 << 16
_WORD, _LANE = np.dtype("<u8"), np.dtype("<u2")


def bernoulli_mask(shape: Shape, p: float, bit_generator: np.random.BitGenerator) -> BoolArray:
    """Draw a mask whose elements are independently True (kept) with probability 1 - p.

    m ~ Bernoulli(1 - p). The bit generator advances by ceil(n / 4) words for n elements, whatever p is, and by one
    word for each of the rare ties.

    Parameters
    ----------
    shape : int or sequence of int
        Shape of the mask; () gives a 0-d array.
    p : float
        Probability of dropping, 0 <= p <= 1.
    bit_generator : numpy.random.BitGenerator
        Any with 64-bit raw words: SFC64, PCG64, PCG64DXSM or Philox.

    Returns
    -------
    ndarray of bool
        True where the element is kept.

    Raises
    ------
    TypeError
        If p is not a real number or `bit_generator` is not a bit generator.
    ValueError
        If p is outside [0, 1], the shape is negative, or the generator is MT19937, whose raw words have 32 bits.

    References
    ----------
    NumPy, "Compatibility policy" (NEP 19): the stream of `random_raw` is stable, that of `Generator` is not.
    """
    p = probability(p)
    dimensions = _dimensions(shape)
    return draw(math.prod(dimensions), p, require_64_bit(bit_generator)).reshape(dimensions)


def draw(size: int, p: float, bit_generator: np.random.BitGenerator) -> BoolArray:
    """Draw the mask of `size` elements in a row, for arguments that were checked before.

    The lanes live for one chunk of elements at a time, so that they stay in the processor's cache.
    """
    lane, limit = threshold(p)
    kept = np.empty(size, np.bool_)
    ties: list[npt.NDArray[np.intp]] = []
    for start in range(0, size, CHUNK):
        part = kept[start : start + CHUNK] if size > CHUNK else kept
        words = bit_generator.random_raw(-(-part.size // LANES_PER_WORD))
        lanes = words.astype(_WORD, copy=False).view(_LANE)
        if lanes.size > part.size:
            lanes = lanes[: part.size]
        np.less(lanes, lane, out=part)
        if limit is not None:
            equal = np.equal(lanes, lane)
            if np.count_nonzero(equal):
                ties.append(np.flatnonzero(equal) + start)
    if limit is not None and ties:
        tied = np.concatenate(ties)
        kept[tied] = bit_generator.random_raw(tied.size) < limit
    return kept


@functools.lru_cache(maxsize=256)
def threshold(p: float) -> tuple[npt.NDArray[np.unsignedinteger], np.uint64 | None]:
    """Return the lane `a` of p, as an array of one, and the word below which a tie keeps its element.

    The second is None where no tie is settled.
    """
    threshold = (1.0 - p) * 2**LANE_BITS
    whole = int(threshold)
    fraction = threshold - whole
    # NumPy compares with an array faster than with a scalar.
    lane: npt.NDArray[Any] = np.array(whole, np.uint16 if whole < 2**LANE_BITS else np.uint32)
    lane.flags.writeable = False
    # w < t holds for a whole w exactly when w < ceil(t), and ldexp is exact.
    return lane, np.uint64(math.ceil(math.ldexp(fraction, 64))) if fraction else None


def keyed_mask(shape: Shape, p: float, seed: int, layer: int, step: int) -> BoolArray:
    """Draw the mask that belongs to (seed, layer, step), without any stored state.

    The words are those of Philox, a counter-based generator, with key (seed, layer) and counter (0, 0, 0, step). Two
    different triples never share a word for arrays of up to 2**40 elements. Large masks are made by compiled code where
    numba is installed; they have the same bits.

    Parameters
    ----------
    shape : int or sequence of int
        Shape of the mask.
    p : float
        Probability of dropping, 0 <= p <= 1.
    seed, layer, step : int
        0 <= seed < 2**64, 0 <= layer < 2**32, 0 <= step < 2**64.

    Returns
    -------
    ndarray of bool
        True where the element is kept.

    Raises
    ------
    TypeError
        If p is not a real number or a key is not an integer.
    ValueError
        If p or a key is out of range.

    References
    ----------
    Salmon, Moraes, Dror and Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC 2011.
    """
    p, dimensions = probability(p), _dimensions(shape)
    key = word(seed, "seed"), word(layer, "layer", bits=32), word(step, "step")
    size = math.prod(dimensions)
    if size >= COMPILED_FROM and (fast := compiled()) is not None:
        mask: BoolArray = fast.mask(size, *threshold(p), *key)
    else:
        mask = draw(size, p, philox(*key))
    return mask.reshape(dimensions)


def philox(seed: int, layer: int, step: int) -> np.random.Philox:
    """Return the generator of the words that belong to (seed, layer, step), for arguments that were checked before."""
    key, counter = np.array([seed, layer], np.uint64), np.array([0, 0, 0, step], np.uint64)
    return np.random.Philox(key=key, counter=counter)


@functools.cache
def compiled() -> ModuleType | None:
    """Return `dropoutlib.fast`, or None where numba is not installed."""
    try:
        from dropoutlib import fast
    except ImportError:
        return None
    return fast


def pack(mask: npt.ArrayLike) -> npt.NDArray[np.uint8]:
    """Store a mask in one bit an element.

    Parameters
    ----------
    mask : array of bool
        Any shape; read in C order, the first element in the highest bit of the first byte.

    Returns
    -------
    ndarray of uint8, 1-d
        ceil(n / 8) bytes for n elements.

    Raises
    ------
    TypeError
        If `mask` is not bool.
    """
    array = np.asarray(mask)
    if array.dtype != np.bool_:
        raise TypeError(f"mask must be an array of bool, got {array.dtype}; compare first, for example values > 0")
    return np.packbits(array)


def unpack(packed: npt.NDArray[np.uint8], shape: Shape) -> BoolArray:
    """Restore a mask from the bytes that `pack` made.

    Parameters
    ----------
    packed : ndarray of uint8, 1-d
        What `pack` returned.
    shape : int or sequence of int
        The shape of the mask.

    Returns
    -------
    ndarray of bool
        The mask.

    Raises
    ------
    TypeError
        If `packed` is not uint8.
    ValueError
        If the number of bytes does not fit the shape.
    """
    array = np.asarray(packed)
    if array.dtype != np.uint8:
        raise TypeError(f"packed must be an array of uint8 as made by pack, got {array.dtype}")
    dimensions = _dimensions(shape)
    size = math.prod(dimensions)
    if array.shape != (-(-size // 8),):
        raise ValueError(
            f"packed must have shape ({-(-size // 8)},) for a mask of shape {dimensions}, got {array.shape}"
        )
    return np.unpackbits(array, count=size).view(np.bool_).reshape(dimensions)


def require_64_bit(bit_generator: object) -> np.random.BitGenerator:
    """Return `bit_generator` if its raw words have 64 bits, else raise TypeError or ValueError."""
    if not isinstance(bit_generator, np.random.BitGenerator):
        raise TypeError(
            f"bit_generator must be a numpy.random.BitGenerator such as SFC64(0), got {type(bit_generator).__name__}"
        )
    if isinstance(bit_generator, np.random.MT19937):
        raise ValueError("MT19937 has raw words of 32 bits, and masks need 64; use SFC64, PCG64 or Philox")
    return bit_generator


def _dimensions(shape: Shape) -> tuple[int, ...]:
    """Return `shape` as a tuple of sizes."""
    dimensions = tuple(operator.index(n) for n in shape) if isinstance(shape, Sequence) else (operator.index(shape),)
    if any(n < 0 for n in dimensions):
        raise ValueError(f"shape must have no negative size, got {dimensions}")
    return dimensions
