"""What the definition of the streams says, in exact arithmetic and without the package's own code."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np

WORD = 2**64


def split(p: float) -> tuple[int, Fraction]:
    """Return a and f of a + f = (1 - p) * 65536."""
    threshold = Fraction(1.0 - p) * 65536
    whole = threshold.numerator // threshold.denominator
    return whole, threshold - whole


def lanes_of(words: Any, size: int) -> Any:
    """Return the first `size` lanes of 64-bit words, the lowest bits first."""
    shifts = np.arange(0, 64, 16, dtype=np.uint64)
    return (words.astype(np.uint64)[:, None] >> shifts & np.uint64(0xFFFF)).reshape(-1)[:size].astype(np.int64)


def whole_mask(size: int, p: float, bit_generator: Any) -> Any:
    """Return the mask from all lanes at once, then a word for each tie, one after the other."""
    whole, fraction = split(p)
    lanes = lanes_of(bit_generator.random_raw((size + 3) // 4), size)
    kept = lanes < whole
    if fraction:
        for tie in np.flatnonzero(lanes == whole):
            kept[tie] = int(bit_generator.random_raw()) < fraction * WORD
    return kept


def philox(seed: int, layer: int, step: int) -> np.random.Philox:
    """Return the bit generator of a key, as the definition has it."""
    return np.random.Philox(key=np.array([seed, layer], np.uint64), counter=np.array([0, 0, 0, step], np.uint64))
