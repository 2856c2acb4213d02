"""Means and variances of x @ W behind inverted dropout: by sampling in constant memory, and in closed form.

Whatever the number of trials, memory holds one chunk of masks and sums. Sampling shows what the closed form says, and
says it also where no closed form is known.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from dropoutlib._validation import probability, whole
from dropoutlib.masks import bernoulli_mask

Array = npt.NDArray[np.float64]

# Masks of one chunk are summed in single bytes.
TRIALS_AT_ONCE = 255


class OutputMoments(NamedTuple):
    """Mean and variance over masks, of the shape (n, outputs)."""

    mean: Array
    variance: Array


def exact_moments(x: npt.ArrayLike, weight: npt.ArrayLike, p: float) -> OutputMoments:
    """Return mean and variance of (x * m / q) @ W over all masks m.

    E = x @ W, and with independent elements Var = p/q (x * x) @ (W * W).

    Parameters
    ----------
    x : array_like, shape (n, inputs)
        What dropout is applied to.
    weight : array_like, shape (inputs, outputs)
        W.
    p : float
        Probability of dropping, 0 <= p < 1.

    Raises
    ------
    TypeError, ValueError
        If p is no probability or 1, or the shapes do not fit.
    """
    values, matrix, p = _checked(x, weight, p)
    return OutputMoments(values @ matrix, p / (1 - p) * (values * values) @ (matrix * matrix))


def sampled_mean(
    x: npt.ArrayLike, weight: npt.ArrayLike, p: float, trials: int, bit_generator: np.random.BitGenerator
) -> Array:
    """Return the mean of (x * m_t / q) @ W over `trials` masks m_t.

    The mean of the products is one product, (x * c / (q trials)) @ W, where c counts how often each element was kept.

    Parameters
    ----------
    x, weight, p
        As in `exact_moments`.
    trials : int
        Number of masks, at least 1.
    bit_generator : numpy.random.BitGenerator
        Where the masks come from; the stream is that of one mask of shape (trials, n, inputs), up to its ties.

    Raises
    ------
    TypeError, ValueError
        As in `exact_moments`, or if `trials` or the generator is of a wrong kind.
    """
    values, matrix, p = _checked(x, weight, p)
    counts = np.zeros(values.shape, np.int64)
    for size in _chunks(trials):
        masks = bernoulli_mask((size, *values.shape), p, bit_generator)
        counts += np.add.reduce(masks.view(np.uint8), axis=0, dtype=np.uint8)
    mean: Array = (values * counts / ((1 - p) * trials)) @ matrix
    return mean


def sampled_moments(
    x: npt.ArrayLike, weight: npt.ArrayLike, p: float, trials: int, bit_generator: np.random.BitGenerator
) -> OutputMoments:
    """Return mean and variance (divisor `trials`) of (x * m_t / q) @ W over `trials` masks.

    Every output is formed, a chunk at a time and in float32, and its distance from x @ W is summed in float64.
    Arguments and errors are those of `sampled_mean`.
    """
    values, matrix, p = _checked(x, weight, p)
    centre = values @ matrix
    scaled, narrow = (values / (1 - p)).astype(np.float32), matrix.astype(np.float32)
    first, second = np.zeros_like(centre), np.zeros_like(centre)
    for size in _chunks(trials):
        masks = bernoulli_mask((size, *values.shape), p, bit_generator)
        distance = (masks * scaled).reshape(-1, values.shape[1]) @ narrow
        distance = distance.reshape(size, *centre.shape) - centre.astype(np.float32)
        first += distance.sum(axis=0)
        second += np.einsum("tij,tij->ij", distance, distance)
    shift = first / trials
    return OutputMoments(centre + shift, second / trials - shift * shift)


def _chunks(trials: int) -> list[int]:
    """Return the sizes of the chunks that make up the trials."""
    full, rest = divmod(whole(trials, "trials", least=1), TRIALS_AT_ONCE)
    return [TRIALS_AT_ONCE] * full + [rest] * (rest > 0)


def _checked(x: npt.ArrayLike, weight: npt.ArrayLike, p: float) -> tuple[Array, Array, float]:
    p = probability(p)
    if p == 1.0:
        raise ValueError("p must be below 1, got 1.0: at p = 1 nothing is kept and 1/(1-p) has no value")
    values, matrix = np.asarray(x, np.float64), np.asarray(weight, np.float64)
    if values.ndim != 2 or matrix.ndim != 2 or values.shape[1] != matrix.shape[0]:
        raise ValueError(f"x and weight must have shapes (n, k) and (k, m), got {values.shape} and {matrix.shape}")
    return values, matrix, p
