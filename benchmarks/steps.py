"""The parts of a layer: ways to make a mask, ways to apply one, and the demonstration of 10,000 masks.

Each way of making a mask keeps its elements with probability q, some of them not exactly; each way of applying writes
x * mask / q for finite x.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from benchmarks.timing import Step
from dropoutlib import layers, masks, monte_carlo

Array = npt.NDArray[np.floating]
Mask = npt.NDArray[np.bool_]

PLANES = 16


def makers(size: int, p: float, seed: int = 0) -> dict[str, Step]:
    """Return the ways to make a mask of `size` elements; compiled code is among them where numba is installed."""
    q, rng, words = 1.0 - p, np.random.default_rng(seed), np.random.SFC64(seed)
    philox = np.random.Philox(seed)
    found: dict[str, Step] = {
        "binomial": lambda: rng.binomial(1, q, size),
        "random < q, float64": lambda: rng.random(size) < q,
        "random < q, float32": lambda: rng.random(size, np.float32) < np.float32(q),
        "integers, 16 bits": lambda: rng.integers(0, 2**16, size, np.uint16) < np.uint16(round(q * 2**16)),
        "bytes, 16 bits": lambda: np.frombuffer(rng.bytes(2 * size), np.uint16) < np.uint16(round(q * 2**16)),
        "bit planes, packed": lambda: bit_planes(size, q, words),
        "lanes of SFC64": lambda: masks.draw(size, p, words),
        "lanes of Philox": lambda: masks.draw(size, p, philox),
    }
    if (fast := masks.compiled()) is not None:
        found["lanes of Philox, compiled"] = lambda: fast.mask(size, *masks.threshold(p), seed, 0, 0)
    return found


def bit_planes(size: int, q: float, bit_generator: np.random.BitGenerator) -> npt.NDArray[np.uint64]:
    """Return words whose bits are 1 with probability q, rounded to PLANES binary digits.

    With q = 0.b1 b2 ... bk, start from no bit set and take the digits from the last to the first: OR with random bits
    for a 1, AND for a 0. Each step halves the probability and adds half the digit.
    """
    digits = round(q * 2**PLANES)
    bits = np.zeros(-(-size // 64), np.uint64)
    for place in range(PLANES):
        # Digits after the last 1 would leave all bits 0.
        if digits & ((2 << place) - 1):
            plane = bit_generator.random_raw(bits.size)
            (np.bitwise_or if digits >> place & 1 else np.bitwise_and)(bits, plane, out=bits)
    return bits


def appliers(x: Array, mask: Mask, p: float) -> dict[str, Step]:
    """Return the ways to apply a mask of bool to x."""
    scale = x.dtype.type(1.0 / (1.0 - p))
    integers, out = mask.astype(np.int64), np.empty_like(x)

    def index() -> Array:
        y = x * scale
        y[~mask] = 0
        return y

    def put() -> Array:
        y = x * scale
        np.putmask(y, ~mask, x.dtype.type(0))
        return y

    def where_argument() -> Array:
        y = np.zeros_like(x)
        np.multiply(x, scale, out=y, where=mask)
        return y

    return {
        "x * integers * scale": lambda: x * integers * (1.0 / (1.0 - p)),
        "x * mask * scale": lambda: x * mask * scale,
        "np.where": lambda: np.where(mask, x * scale, x.dtype.type(0)),
        "y[~mask] = 0": index,
        "putmask": put,
        "multiply(where=mask)": where_argument,
        "in pieces, as the layers do": lambda: layers._multiply(x, mask, 1.0 / (1.0 - p)),
        "memory bound": lambda: np.multiply(x, scale, out=out),
    }


def demonstration(
    trials: int, p: float = 0.5, shape: tuple[int, int] = (32, 100), outputs: int = 64
) -> dict[str, Step]:
    """Return the ways to the mean of (x * m / q) @ W over `trials` masks."""
    rng = np.random.default_rng(0)
    x, weight = rng.standard_normal(shape), 0.1 * rng.standard_normal((shape[1], outputs))
    words = np.random.SFC64(0)

    def loop() -> Array:
        found = []
        for _ in range(trials):
            mask = rng.binomial(1, 1.0 - p, size=x.shape)
            found.append((x * mask * (1.0 / (1.0 - p))) @ weight)
        mean: Array = np.mean(found, axis=0)
        return mean

    def counts() -> Array:
        kept = rng.binomial(trials, 1.0 - p, size=x.shape)
        mean: Array = (x * kept / (trials * (1.0 - p))) @ weight
        return mean

    return {
        "textbook loop": loop,
        "all outputs, in chunks": lambda: monte_carlo.sampled_moments(x, weight, p, trials, words),
        "masks counted": lambda: monte_carlo.sampled_mean(x, weight, p, trials, words),
        "counts drawn": counts,
        "closed form": lambda: monte_carlo.exact_moments(x, weight, p),
    }


WAYS: dict[str, Callable[..., dict[str, Step]]] = {"make": makers, "apply": appliers, "monte_carlo": demonstration}
