"""Pooled mean and variance over batches, and the checks that the adapters share."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from dropoutlib.frameworks.protocol import Array, NormalisationGap

Reader = Callable[[Any], Array]


class Moments:
    """Mean and variance of every channel over all batches, exact up to rounding; keeps two numbers a channel."""

    def __init__(self) -> None:
        self.count = 0
        self.mean: Array = np.zeros(())
        self._squares: Array = np.zeros(())

    def add(self, values: Array, axis: int) -> None:
        """Add a batch whose channels lie along `axis` (Chan, Golub and LeVeque 1983, equation 2.1)."""
        rows = np.moveaxis(values, axis, -1).reshape(-1, values.shape[axis]).astype(np.float64)
        if not len(rows):
            return
        mean = rows.mean(axis=0)
        total = self.count + len(rows)
        away = mean - self.mean
        self._squares = self._squares + ((rows - mean) ** 2).sum(axis=0) + away**2 * (self.count * len(rows) / total)
        self.mean = self.mean + away * (len(rows) / total)
        self.count = total

    def var(self, ddof: int) -> Array:
        """Return the variance with the divisor count - ddof."""
        if self.count <= ddof:
            raise ValueError(f"batches must give at least {ddof + 1} values a channel, got {self.count}")
        return self._squares / (self.count - ddof)


def gap(path: str, mean: Array, var: Array, moments: Moments, ddof: int) -> NormalisationGap:
    """Return the gap of one layer."""
    return NormalisationGap(path, mean.copy(), var.copy(), moments.mean, moments.var(ddof))


def several_times(batches: Iterable[Any]) -> Iterable[Any]:
    """Return batches that can be read again, or say why they cannot."""
    each(batches)
    if isinstance(batches, Iterator):
        raise TypeError(
            "batches is read once for each normalisation layer, and an iterator can be read only once; "
            "give a list or a data loader"
        )
    return batches


def each(batches: Iterable[Any]) -> Iterable[Any]:
    """Return batches after checking that they are many, not one array."""
    if hasattr(batches, "shape") or isinstance(batches, str | bytes | dict) or not isinstance(batches, Iterable):
        raise TypeError(
            f"batches must be an iterable of inputs, such as [x], got {type(batches).__name__}; put one array in a list"
        )
    return batches


def inputs(x: Any) -> tuple[Any, ...]:
    """Return the arguments of one call: a tuple or list holds several inputs, anything else is the only one."""
    if x is None:
        raise TypeError("an input must be an array, or a tuple of arrays for a model with several inputs, got None")
    return tuple(x) if isinstance(x, tuple | list) else (x,)


def cannot_run(what: str, error: Exception) -> ValueError:
    """Return the one error for inputs that a model does not take."""
    reason = str(error).strip().split("\n")[0] or type(error).__name__
    return ValueError(f"the model cannot run on {what}: {reason}")


def known(also: Sequence[str], paths: Iterable[str]) -> None:
    """Check that every path of `also` names a module."""
    if isinstance(also, str):
        raise TypeError(f"also must be a list of paths, got the string {also!r}; write [{also!r}]")
    unknown = sorted(set(also) - set(paths))
    if unknown:
        raise ValueError(f"the model has no module with the path {unknown[0]!r}; also takes paths of its modules")
