"""Standard, inverted and keyed dropout: forward, backward, and what each promises.

With m ~ Bernoulli(q) elementwise, q = 1 - p:

=========  =====================  ==========  ======================
layer      training forward       evaluation  training backward
=========  =====================  ==========  ======================
standard   x * m                  q * x       dy * m
inverted   x * m / q              x           dy * m / q
=========  =====================  ==========  ======================

A dropped slot is multiplied by zero, as in PyTorch, and not overwritten: inf and nan in a dropped slot give nan, and a
dropped negative number gives -0.0. p = 1 gives zeros for every input.
"""

from __future__ import annotations

import copy
import functools
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from dropoutlib._validation import FloatArray, float_array, probability, word
from dropoutlib.masks import CHUNK, COMPILED_FROM, BoolArray, compiled, draw, philox, require_64_bit, threshold

COMPILED_TYPES = tuple(np.dtype(name).str for name in ("float32", "float64"))
Seed = int | np.random.SeedSequence | np.random.Generator | None


class _Layer:
    """What all dropout layers share: p and the mode."""

    def __init__(self, p: float) -> None:
        self._p = probability(p)
        self.training = True

    @property
    def p(self) -> float:
        """Probability of dropping."""
        return self._p

    def train(self) -> Self:
        """Switch to training mode and return the layer."""
        self.training = True
        return self

    def eval(self) -> Self:
        """Switch to evaluation mode and return the layer."""
        self.training = False
        return self


class _StreamDropout(_Layer):
    """A dropout layer that draws its masks from a stream of its own and remembers the last one."""

    def __init__(self, p: float = 0.5, seed: Seed = None) -> None:
        super().__init__(p)
        self._bit_generator = _bit_generator(seed)
        self._start: Any = copy.deepcopy(self._bit_generator.state)
        self._mask: BoolArray | None = None
        self._shape: tuple[int, ...] | None = None

    @property
    def mask(self) -> BoolArray | None:
        """Read-only mask of the last training forward, True where kept; None after an evaluation forward."""
        if self._mask is None:
            return None
        # A copied or unpickled layer's own array is writable again.
        view = self._mask.view()
        view.flags.writeable = False
        return view

    def reset(self) -> None:
        """Restart the stream where it was at construction; the last forward stays remembered.

        With a Generator as seed, this rewinds that generator for everybody who uses it.
        """
        self._bit_generator.state = self._start

    def forward(self, x: npt.ArrayLike) -> FloatArray:
        """Apply the layer in its present mode.

        Parameters
        ----------
        x : array_like of float16, float32 or float64
            Any shape. It is never written to.

        Returns
        -------
        ndarray
            Of the shape and dtype of `x`, in memory of its own.

        Raises
        ------
        TypeError
            If `x` has another dtype.
        ValueError
            If the scale overflows the dtype of `x`.
        """
        array = float_array(x, "x")
        if not self.training:
            y = self._scaled(array, None)
            self._mask = None
        else:
            factor = self._factor(array.dtype, training=True)
            mask = draw(array.size, self._p, self._bit_generator).reshape(array.shape)
            mask.flags.writeable = False
            y = _multiply(array, mask, factor)
            self._mask = mask
        self._shape = array.shape
        return y

    __call__ = forward

    def backward(self, dy: npt.ArrayLike) -> FloatArray:
        """Return the gradient with respect to the input of the last forward, whatever the mode is now.

        Parameters
        ----------
        dy : array_like of float16, float32 or float64
            Gradient with respect to the output, of the shape of the last forward.

        Returns
        -------
        ndarray
            Of the shape and dtype of `dy`.

        Raises
        ------
        RuntimeError
            If there was no forward yet.
        TypeError
            If `dy` has another dtype.
        ValueError
            If `dy` has another shape than the last forward, or the scale overflows its dtype.
        """
        if self._shape is None:
            raise RuntimeError("backward belongs to a forward, and there was none yet; call forward(x) first")
        gradient = float_array(dy, "dy")
        if gradient.shape != self._shape:
            raise ValueError(f"dy must have the shape of the last forward's input, {self._shape}, got {gradient.shape}")
        return self._scaled(gradient, self._mask)

    def _scaled(self, x: FloatArray, mask: BoolArray | None) -> FloatArray:
        return _multiply(x, mask, self._factor(x.dtype, training=mask is not None))

    def _factor(self, dtype: np.dtype[Any], training: bool) -> float | None:
        """Return the factor of this convention in this mode: None for no factor, 0 where nothing is kept."""
        raise NotImplementedError


class StandardDropout(_StreamDropout):
    """Standard dropout: mask in training, scale by q = 1 - p in evaluation.

    Training: y = x * m with m ~ Bernoulli(q), dx = dy * m. Evaluation: y = q x, dx = q dy. So E[y] in training
    equals y in evaluation, and both are q x.

    Parameters
    ----------
    p : float
        Probability of dropping, 0 <= p <= 1.
    seed : int >= 0, SeedSequence, Generator or None
        Where the stream of masks begins; None takes fresh entropy. A Generator is shared, not copied. Two layers with
        the same integer draw the same masks.

    Raises
    ------
    TypeError, ValueError
        If p or seed is of a wrong type or out of range.

    References
    ----------
    Srivastava, Hinton, Krizhevsky, Sutskever and Salakhutdinov, "Dropout", JMLR 15 (2014), section 4. There p is the
    probability of keeping.
    """

    def _factor(self, dtype: np.dtype[Any], training: bool) -> float | None:
        return None if training and self.p < 1.0 else 1.0 - self.p


class InvertedDropout(_StreamDropout):
    """Inverted dropout: mask and scale by 1/q = 1/(1 - p) in training, do nothing in evaluation.

    Training: y = x * m / q with m ~ Bernoulli(q), dx = dy * m / q. Evaluation: y = x, dx = dy. So E[y] = x in both
    modes.

    Parameters
    ----------
    p : float
        Probability of dropping, 0 <= p <= 1.
    seed : int >= 0, SeedSequence, Generator or None
        Where the stream of masks begins; None takes fresh entropy. A Generator is shared, not copied. Two layers with
        the same integer draw the same masks.

    Raises
    ------
    TypeError, ValueError
        If p or seed is of a wrong type or out of range.

    References
    ----------
    Srivastava, Hinton, Krizhevsky, Sutskever and Salakhutdinov, "Dropout", JMLR 15 (2014), section 10, on scaling up
    the retained activations in training.
    """

    def _factor(self, dtype: np.dtype[Any], training: bool) -> float | None:
        return _inverse_keep(dtype, self.p) if training else None


class KeyedDropout(_Layer):
    """Inverted dropout whose masks are recomputed from (seed, layer, step) and never stored.

    Training: y = x * m / q and dx = dy * m / q with m = keyed_mask(shape, p, seed, layer, step), so the backward
    pass of a step needs neither its forward pass nor the steps before it. Evaluation: both are the identity.

    Where numba is installed, arrays of float32 or float64 with at least 65,536 elements go through `dropoutlib.fast`:
    the same bits, in one pass. A product that overflows is infinite there too, but NumPy's warning of it is missing.

    Parameters
    ----------
    p : float
        Probability of dropping, 0 <= p <= 1.
    seed : int
        0 <= seed < 2**64; one for the whole network.
    layer : int
        0 <= layer < 2**32; another for each layer.

    Raises
    ------
    TypeError, ValueError
        If p, seed or layer is of a wrong type or out of range.
    """

    def __init__(self, p: float, seed: int, layer: int) -> None:
        super().__init__(p)
        self.seed = word(seed, "seed")
        self.layer = word(layer, "layer", bits=32)

    def forward(self, x: npt.ArrayLike, step: int) -> FloatArray:
        """Apply the layer at `step` (0 <= step < 2**64); shape and dtype of `x` are kept.

        Raises
        ------
        TypeError
            If `x` is not float16, float32 or float64, or `step` is not an integer.
        ValueError
            If `step` is out of range or the scale overflows the dtype.
        """
        return self._apply(float_array(x, "x"), step)

    __call__ = forward

    def backward(self, dy: npt.ArrayLike, step: int) -> FloatArray:
        """Return the gradient with respect to the input of `forward(x, step)`; errors as in `forward`."""
        return self._apply(float_array(dy, "dy"), step)

    def _apply(self, array: FloatArray, step: int) -> FloatArray:
        step = word(step, "step")
        if not self.training:
            return _multiply(array, None, None)
        factor = _inverse_keep(array.dtype, self.p)
        key = self.seed, self.layer, step
        if (
            factor
            and array.size >= COMPILED_FROM
            and array.dtype.str in COMPILED_TYPES
            and (fast := compiled()) is not None
        ):
            y: FloatArray = fast.multiply(array, array.dtype.type(factor), *threshold(self.p), *key)
            return y
        return _multiply(array, draw(array.size, self.p, philox(*key)).reshape(array.shape), factor)


def _bit_generator(seed: Seed) -> np.random.BitGenerator:
    """Return the bit generator that `seed` stands for."""
    if isinstance(seed, np.random.Generator):
        return require_64_bit(seed.bit_generator)
    if seed is None or isinstance(seed, np.random.SeedSequence):
        return np.random.SFC64(seed)
    if isinstance(seed, bool | np.bool_) or not isinstance(seed, int | np.integer):
        raise TypeError(
            "seed must be an integer >= 0, a SeedSequence, a Generator or None, "
            f"got {seed!r} of type {type(seed).__name__}"
        )
    if seed < 0:
        raise ValueError(f"seed must be >= 0, got {seed}")
    return np.random.SFC64(np.random.SeedSequence(int(seed)))


@functools.lru_cache(maxsize=256)
def _inverse_keep(dtype: np.dtype[Any], p: float) -> float:
    """Return 1/(1 - p) after checking that `dtype` holds it; 0 for p = 1, where nothing is kept."""
    if p == 1.0:
        return 0.0
    factor = 1.0 / (1.0 - p)
    with np.errstate(over="ignore"):
        rounded = dtype.type(factor)
    if not np.isfinite(rounded):
        raise ValueError(
            f"the scale 1/(1-p) = {factor:.6g} for p={p!r} overflows {dtype}; use a smaller p or a wider dtype"
        )
    return factor


@np.errstate(invalid="ignore")
def _multiply(x: FloatArray, mask: BoolArray | None, factor: float | None) -> FloatArray:
    """Return x * mask * factor in memory of its own; a factor of 0, which only p = 1 has, gives zeros for any x."""
    if factor == 0.0:
        return np.zeros(x.shape, x.dtype)
    scale = None if factor is None else _number(x.dtype, factor)
    if mask is None:
        y = np.array(x, order="C")
        return y if scale is None else np.multiply(y, scale, out=y)
    if x.size <= CHUNK and mask.shape == x.shape:
        return _times(x, mask.astype(x.dtype, order="C"), scale)
    y = np.empty(x.shape, x.dtype)
    if mask.shape != x.shape:
        np.copyto(y, mask)
        return _times(x, y, scale)
    values, kept, products = x.reshape(-1), mask.reshape(-1), y.reshape(-1)
    # A piece stays in the processor's cache from one operation to the next.
    for i in range(0, x.size, CHUNK):
        piece = slice(i, i + CHUNK)
        np.copyto(products[piece], kept[piece])
        _times(values[piece], products[piece], scale)
    return y


def _times(x: FloatArray, kept: FloatArray, scale: FloatArray | None) -> FloatArray:
    """Turn `kept`, which holds 0 and 1, into x * kept * scale, and return it."""
    # The scale meets the mask first: a dropped value must not overflow on its way to zero.
    if scale is not None:
        np.multiply(kept, scale, out=kept)
    return np.multiply(x, kept, out=kept)


@functools.lru_cache(maxsize=256)
def _number(dtype: np.dtype[Any], value: float) -> FloatArray:
    """Return the number as an array, with which NumPy computes faster than with a scalar."""
    number: FloatArray = np.array(value, dtype)
    number.flags.writeable = False
    return number
