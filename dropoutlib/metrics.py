"""Scores of predicted class probabilities."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from dropoutlib._validation import whole

Probabilities = npt.NDArray[np.float64]
Labels = npt.NDArray[np.int64]


def accuracy(probs: npt.ArrayLike, labels: npt.ArrayLike) -> float:
    """Return the share of rows whose largest probability is at the label.

    Parameters
    ----------
    probs : array_like, shape (n, classes)
        Rows of probabilities; each sums to 1.
    labels : array_like of int, shape (n,)
        0 <= label < classes.

    Raises
    ------
    TypeError, ValueError
        If shapes, dtype, sums or labels are wrong.
    """
    p, y = _checked(probs, labels)
    return float(np.mean(p.argmax(axis=1) == y))


def nll(probs: npt.ArrayLike, labels: npt.ArrayLike) -> float:
    """Return the mean negative log-likelihood -log p(label) in nats.

    It is inf where a label has probability 0. Parameters and errors as in `accuracy`.
    """
    p, y = _checked(probs, labels)
    with np.errstate(divide="ignore"):
        return float(-np.mean(np.log(p[np.arange(y.size), y])))


def brier(probs: npt.ArrayLike, labels: npt.ArrayLike) -> float:
    """Return the Brier score: squared distance to the one-hot label, summed over classes, mean over rows, 0 to 2.

    Parameters and errors as in `accuracy`.

    References
    ----------
    Brier, "Verification of forecasts expressed in terms of probability", Monthly Weather Review 78 (1950).
    """
    p, y = _checked(probs, labels)
    one_hot = np.eye(p.shape[1])[y]
    return float(np.mean(np.sum((p - one_hot) ** 2, axis=1)))


def expected_calibration_error(probs: npt.ArrayLike, labels: npt.ArrayLike, bins: int = 15) -> float:
    """Return the expected calibration error, 0 to 1.

    Rows are put by their confidence (the largest probability) into `bins` intervals of equal width, ((b - 1)/bins,
    b/bins]. ECE = sum over bins of (rows in bin / n) * |accuracy in bin - mean confidence in bin|.

    Parameters
    ----------
    probs, labels
        As in `accuracy`.
    bins : int
        Number of intervals, at least 1.

    Raises
    ------
    TypeError, ValueError
        As in `accuracy`, and if `bins` is below 1.

    References
    ----------
    Guo, Pleiss, Sun and Weinberger, "On calibration of modern neural networks", ICML 2017, section 2.
    """
    bins = whole(bins, "bins", least=1)
    p, y = _checked(probs, labels)
    confidence = p.max(axis=1)
    correct = p.argmax(axis=1) == y
    edges = np.arange(1, bins) / bins
    index = np.digitize(confidence, edges, right=True)
    gaps = np.bincount(index, weights=correct - confidence, minlength=bins)
    return float(np.abs(gaps).sum() / y.size)


def _checked(probs: npt.ArrayLike, labels: npt.ArrayLike) -> tuple[Probabilities, Labels]:
    """Return both as arrays after checking shapes, sums and range."""
    p = np.asarray(probs, dtype=np.float64)
    y = np.asarray(labels)
    if p.ndim != 2 or y.shape != p.shape[:1] or y.size == 0:
        raise ValueError(f"probs must be (n, classes) and labels (n,) with n > 0, got {p.shape} and {y.shape}")
    if not np.issubdtype(y.dtype, np.integer):
        raise TypeError(f"labels must be integers, got {y.dtype}")
    # A float32 softmax sums to 1 within about 1e-6; nan fails the comparison too.
    off = np.abs(p.sum(axis=1) - 1)
    if not (np.all(off <= 1e-4) and np.all(p >= 0)):
        raise ValueError(f"each row of probs must be non-negative and sum to 1; row {_first_bad(p, off)} does not")
    if y.min() < 0 or y.max() >= p.shape[1]:
        raise ValueError(f"labels must lie in 0 <= label < {p.shape[1]}, got {y.min()} to {y.max()}")
    return p, y.astype(np.int64)


def _first_bad(p: Probabilities, off: npt.NDArray[np.float64]) -> int:
    return int(np.argmax(~((off <= 1e-4) & np.all(p >= 0, axis=1))))
