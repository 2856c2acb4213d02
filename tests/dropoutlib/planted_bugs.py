"""Ten bugs that dropout layers really have, each planted in a copy of the layer.

A copy is a subclass that keeps everything else right: its errors, dtypes, streams and state are those of the real
layer, so that a check can only catch it through the bug itself.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from dropoutlib.layers import InvertedDropout, StandardDropout
from tests.dropoutlib.contract import Array, Subject


def times(y: Array, factor: float) -> Array:
    """Return the product in y's dtype, and no warning."""
    with np.errstate(over="ignore", invalid="ignore"):
        return np.asarray(y * y.dtype.type(factor), y.dtype)


class NoRescale(InvertedDropout):
    """Masks, and leaves out the scale."""

    def forward(self, x: Any) -> Array:
        y = super().forward(x)
        return y if self.mask is None else np.asarray(np.where(self.mask, x, 0), y.dtype)

    __call__ = forward

    def backward(self, dy: Any) -> Array:
        dx = super().backward(dy)
        return dx if self.mask is None else np.asarray(np.where(self.mask, dy, 0), dx.dtype)


class StandardWithoutRescale(StandardDropout):
    """Forgets the factor q of evaluation."""

    def forward(self, x: Any) -> Array:
        y = super().forward(x)
        return np.array(x, y.dtype) if self.mask is None else y

    __call__ = forward


class ScaleByP(InvertedDropout):
    """Scales by 1/p instead of 1/(1 - p)."""

    def _by_p(self, y: Array) -> Array:
        return y if self.mask is None or self.p == 0 else times(y, (1 - self.p) / self.p)

    def forward(self, x: Any) -> Array:
        return self._by_p(super().forward(x))

    __call__ = forward

    def backward(self, dy: Any) -> Array:
        return self._by_p(super().backward(dy))


class StandardScaleByP(StandardDropout):
    """Scales by p instead of 1 - p in evaluation."""

    def forward(self, x: Any) -> Array:
        y = super().forward(x)
        return times(np.array(x, y.dtype), self.p) if self.mask is None else y

    __call__ = forward


class KeepAndDropSwapped(InvertedDropout):
    """Keeps what should be dropped: keeps with probability p, while the scale is still 1/(1 - p)."""

    def _swap(self, x: Any, y: Array) -> Array:
        if self.mask is None or self.p == 1:
            return y
        return np.asarray(np.where(self.mask, times(np.asarray(x, y.dtype), 1 / (1 - self.p)), 0), y.dtype)

    @property
    def mask(self) -> Any:
        mask = super().mask
        return None if mask is None else np.broadcast_to(np.logical_not(mask), mask.shape)

    def forward(self, x: Any) -> Array:
        return self._swap(x, super().forward(x))

    __call__ = forward

    def backward(self, dy: Any) -> Array:
        return self._swap(dy, super().backward(dy))


class FreshMaskInBackward(InvertedDropout):
    """Draws another mask for the gradient."""

    def backward(self, dy: Any) -> Array:
        dx = super().backward(dy)
        return dx if self.mask is None else InvertedDropout(self.p).forward(np.asarray(dy, dx.dtype))


class OneMaskForTheBatch(InvertedDropout):
    """Draws a mask for one row and repeats it for all rows."""

    row: Any = None

    def forward(self, x: Any) -> Array:
        y = super().forward(x)
        self.row = None
        if self.mask is None or np.ndim(x) < 2 or len(y) == 0 or self.p == 1:
            return y
        self.row = np.broadcast_to(self.mask[:1], y.shape)
        return self._repeat(x, y)

    __call__ = forward

    def backward(self, dy: Any) -> Array:
        dx = super().backward(dy)
        return dx if self.row is None else self._repeat(dy, dx)

    @property
    def mask(self) -> Any:
        return super().mask if self.row is None else np.broadcast_to(self.row, self.row.shape)

    def _repeat(self, x: Any, y: Array) -> Array:
        return np.asarray(np.where(self.row, times(np.asarray(x, y.dtype), 1 / (1 - self.p)), 0), y.dtype)


class ActiveInEvaluation(InvertedDropout):
    """Drops in evaluation too."""

    def forward(self, x: Any) -> Array:
        training, self.training = self.training, True
        try:
            return super().forward(x)
        finally:
            self.training = training

    __call__ = forward


class ScaledTwice(InvertedDropout):
    """Scales in training by 1/q, and in evaluation by q as well."""

    def _again(self, y: Array) -> Array:
        return times(y, 1 - self.p) if self.mask is None else y

    def forward(self, x: Any) -> Array:
        return self._again(super().forward(x))

    __call__ = forward

    def backward(self, dy: Any) -> Array:
        return self._again(super().backward(dy))


class ScaledTwiceInTraining(InvertedDropout):
    """Scales by 1/q twice in training."""

    def _again(self, y: Array) -> Array:
        return y if self.mask is None or self.p == 1 else times(y, 1 / (1 - self.p))

    def forward(self, x: Any) -> Array:
        return self._again(super().forward(x))

    __call__ = forward

    def backward(self, dy: Any) -> Array:
        return self._again(super().backward(dy))


class Float64OutOfFloat32(InvertedDropout):
    """Multiplies by a float64 array in training, so every result is float64."""

    def forward(self, x: Any) -> Array:
        y = super().forward(x)
        return y if self.mask is None else np.asarray(y * np.ones(y.shape))

    __call__ = forward


class NanAtOne(InvertedDropout):
    """Multiplies zeros by 1/0 at p = 1."""

    def forward(self, x: Any) -> Array:
        y = super().forward(x)
        return times(y, np.inf) if self.p == 1 and self.mask is not None else y

    __call__ = forward


class BackwardKeepsAnOlderMask(InvertedDropout):
    """Goes on using the mask of the last training forward after an evaluation forward."""

    older: Any = None

    def forward(self, x: Any) -> Array:
        y = super().forward(x)
        self.older = self.older if self.mask is None else self.mask
        return y

    __call__ = forward

    def backward(self, dy: Any) -> Array:
        dx = super().backward(dy)
        if self.mask is not None or self.older is None or self.older.shape != dx.shape or self.p == 1:
            return dx
        return np.asarray(np.where(self.older, times(dx, 1 / (1 - self.p)), 0), dx.dtype)


class ForwardKeepsAnOlderMask(InvertedDropout):
    """Draws a mask only when the shape changes."""

    def forward(self, x: Any) -> Array:
        if self.training and self.mask is not None and self.mask.shape == np.shape(x):
            return super().backward(x)
        return super().forward(x)

    __call__ = forward


@dataclass(frozen=True)
class Bug:
    """A planted bug, and the checks that are sure to catch it."""

    name: str
    subject: Subject
    caught_by: tuple[str, ...]


def inverted(cls: Any) -> Subject:
    return Subject(cls, "inverted")


def standard(cls: Any) -> Subject:
    return Subject(cls, "standard")


BUGS = (
    Bug("no rescale", inverted(NoRescale), ("support", "mean", "backward_reuses_the_mask")),
    Bug("no rescale", standard(StandardWithoutRescale), ("evaluation", "mean")),
    Bug("1/p", inverted(ScaleByP), ("support", "mean", "backward_reuses_the_mask")),
    Bug("1/p", standard(StandardScaleByP), ("evaluation", "mean")),
    Bug("keep and drop swapped", inverted(KeepAndDropSwapped), ("keep_frequency", "mean")),
    Bug("fresh mask in backward", inverted(FreshMaskInBackward), ("backward_reuses_the_mask",)),
    Bug("one mask for the whole batch", inverted(OneMaskForTheBatch), ("elements_are_independent",)),
    Bug("active in evaluation", inverted(ActiveInEvaluation), ("evaluation", "mode_flips")),
    Bug("scaled twice", inverted(ScaledTwice), ("evaluation", "mean")),
    Bug("scaled twice", inverted(ScaledTwiceInTraining), ("support", "mean")),
    Bug("float64 out of float32", inverted(Float64OutOfFloat32), ("dtype_is_kept",)),
    Bug("NaN at p = 1", inverted(NanAtOne), ("zeros_at_1",)),
    Bug("mask kept from an older forward", inverted(BackwardKeepsAnOlderMask), ("mode_flips",)),
    Bug("mask kept from an older forward", inverted(ForwardKeepsAnOlderMask), ("each_call_draws_anew",)),
)
