"""Forward and backward of one dropout layer: here, as on the page this course began from, and in other libraries.

Each case is a function of x, dy and p that returns a step; a step runs a training forward and its backward with a new
mask, and returns (y, dx).
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
import numpy.typing as npt
import tensorflow as tf
import torch
from torch.nn import functional as F

from benchmarks.timing import Step
from dropoutlib import layers, masks
from dropoutlib.layers import InvertedDropout, KeyedDropout

Array = npt.NDArray[np.floating]


@dataclass(frozen=True)
class Case:
    """What is timed: `mask_bytes` is what the forward keeps of the mask for the backward, in bytes an element."""

    label: str
    start: Callable[[Array, Array, float], Step]
    mask_bytes: Callable[[Array, float], float] | None
    in_numpy: bool = False


class TextbookDropout:
    """The formulation of most tutorials: an integer mask from `binomial`, times the mask, times the scale."""

    def __init__(self, p: float) -> None:
        self.p, self.scale = p, 1.0 / (1.0 - p)
        self.rng = np.random.default_rng(0)

    def forward(self, x: Array) -> Array:
        self.mask = self.rng.binomial(1, 1.0 - self.p, size=x.shape)
        return x * self.mask * self.scale

    def backward(self, dy: Array) -> Array:
        return dy * self.mask * self.scale


def textbook(x: Array, dy: Array, p: float) -> Step:
    layer = TextbookDropout(p)
    return lambda: (layer.forward(x), layer.backward(dy))


def inverted(x: Array, dy: Array, p: float) -> Step:
    layer = InvertedDropout(p, seed=0)
    return lambda: (layer(x), layer.backward(dy))


def packed(x: Array, dy: Array, p: float) -> Step:
    layer = InvertedDropout(p, seed=0)

    def step() -> tuple[Array, Array]:
        y = layer(x)
        assert layer.mask is not None
        bits = masks.pack(layer.mask)
        return y, layers._multiply(dy, masks.unpack(bits, dy.shape), 1.0 / (1.0 - p))

    return step


def keyed(x: Array, dy: Array, p: float) -> Step:
    layer, numbers = KeyedDropout(p, seed=0, layer=0), itertools.count()

    def step() -> tuple[Array, Array]:
        number = next(numbers)
        layers.compiled = lambda: None
        try:
            return layer(x, number), layer.backward(dy, number)
        finally:
            layers.compiled = masks.compiled

    return step


def keyed_compiled(x: Array, dy: Array, p: float) -> Step:
    if masks.compiled() is None:
        raise RuntimeError('the compiled case needs numba; install it with pip install "dropoutlib[fast]"')
    layer, numbers = KeyedDropout(p, seed=0, layer=0), itertools.count()

    def step() -> tuple[Array, Array]:
        number = next(numbers)
        return layer(x, number), layer.backward(dy, number)

    return step


def pytorch(x: Array, dy: Array, p: float) -> Step:
    inputs, gradient = torch.from_numpy(x).requires_grad_(), torch.from_numpy(dy)

    def step() -> tuple[Any, Any]:
        y = F.dropout(inputs, p, training=True)
        return y, torch.autograd.grad(y, inputs, gradient)[0]

    return step


def pytorch_mask_bytes(x: Array, p: float) -> float:
    kept = 0

    def count(tensor: torch.Tensor) -> torch.Tensor:
        nonlocal kept
        kept += tensor.nbytes
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
        F.dropout(torch.from_numpy(x).requires_grad_(), p, training=True)
    return kept / x.size


def _jax_dropout(x: Any, key: Any, p: float) -> Any:
    return jax.numpy.where(jax.random.bernoulli(key, 1.0 - p, x.shape), x / (1.0 - p), 0)


def jax_compiled(x: Array, dy: Array, p: float) -> Step:
    values, gradient, key = jax.numpy.asarray(x), jax.numpy.asarray(dy), jax.random.key(0)

    @jax.jit
    def both(values: Any, gradient: Any, key: Any) -> Any:
        key, own = jax.random.split(key)
        y, back = jax.vjp(lambda v: _jax_dropout(v, own, p), values)
        return y, back(gradient)[0], key

    def step() -> tuple[Any, Any]:
        nonlocal key
        y, dx, key = jax.block_until_ready(both(values, gradient, key))
        return y, dx

    return step


def jax_mask_bytes(x: Array, p: float) -> float:
    back = jax.vjp(lambda v: _jax_dropout(v, jax.random.key(0), p), jax.numpy.asarray(x))[1]
    kept = [leaf for leaf in jax.tree.leaves(back) if leaf.size == x.size]
    return float(sum(leaf.nbytes for leaf in kept)) / x.size


def tensorflow(x: Array, dy: Array, p: float) -> Step:
    values, gradient = tf.constant(x), tf.constant(dy)

    @tf.function
    def both() -> Any:
        with tf.GradientTape() as tape:
            tape.watch(values)
            y = tf.nn.dropout(values, p)
        return y, tape.gradient(y, values, output_gradients=gradient)

    return both


def bound(x: Array, dy: Array, p: float) -> Step:
    """Two multiplications of an array by a number: what moving the values through memory takes, with no mask at all."""
    y, dx, scale = np.empty_like(x), np.empty_like(dy), x.dtype.type(1.0 / (1.0 - p))
    return lambda: (np.multiply(x, scale, out=y), np.multiply(dy, scale, out=dx))


CASES = {
    "bound": Case("memory bound", bound, lambda x, p: 0.0, in_numpy=True),
    "textbook": Case("textbook NumPy", textbook, lambda x, p: 8.0, in_numpy=True),
    "inverted": Case("InvertedDropout", inverted, lambda x, p: 1.0, in_numpy=True),
    "packed": Case("InvertedDropout, mask packed", packed, lambda x, p: 1 / 8, in_numpy=True),
    "keyed": Case("KeyedDropout", keyed, lambda x, p: 0.0, in_numpy=True),
    "keyed_compiled": Case("KeyedDropout, compiled", keyed_compiled, lambda x, p: 0.0, in_numpy=True),
    "pytorch": Case("PyTorch", pytorch, pytorch_mask_bytes),
    "jax": Case("JAX", jax_compiled, jax_mask_bytes),
    "tensorflow": Case("TensorFlow", tensorflow, None),
}
