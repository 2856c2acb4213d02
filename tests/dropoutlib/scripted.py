"""A bit generator that says what it is told, so that a test can put any words, or any mask, into a layer."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

KEPT, DROPPED = 0, 65535


class Scripted(np.random.SFC64):
    """Hands out the given raw words and no others."""

    script: Iterator[int]

    def random_raw(self, size: Any = None, output: bool = True) -> Any:
        if size is None:
            return next(self.script)
        return np.array([next(self.script) for _ in range(int(np.prod(size)))], np.uint64).reshape(size)


def scripted(words: Iterable[int]) -> Scripted:
    """Return a bit generator with these words."""
    generator = Scripted(0)
    generator.script = iter(words)
    return generator


def word(lanes: Iterable[int]) -> int:
    """Return the word of up to four lanes, the first in the lowest bits."""
    return sum(lane << 16 * i for i, lane in enumerate(lanes))


def generator_of(*masks: Any) -> np.random.Generator:
    """Return a Generator from which a layer with 2**-16 < p < 1 - 2**-16 draws these masks, in this order."""
    lanes = [[KEPT if kept else DROPPED for kept in np.ravel(mask)] for mask in masks]
    return np.random.Generator(scripted(word(row[i : i + 4]) for row in lanes for i in range(0, len(row), 4)))
