"""Dropout left on at prediction: Monte-Carlo means with their spread, in constant memory, and geometric means.

`mc_predict` asks for many predictions and keeps running sums alone. What is averaged may be anything that draws:
passes of a network with dropout on, or the members of an ensemble.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, NamedTuple, cast

import numpy as np
import numpy.typing as npt

from dropoutlib._validation import whole
from dropoutlib.network import log_softmax, softmax

Array = npt.NDArray[np.float64]
Outputs = Literal["probabilities", "logits", "values"]


class Prediction(NamedTuple):
    """What many passes say together; of regression, entropy and mutual information are None.

    Attributes
    ----------
    mean : ndarray
        Mean output; for a classifier, the predicted probabilities.
    variance : ndarray
        Variance of the outputs over passes, with the divisor T, in the shape of the mean.
    entropy : ndarray or None
        Entropy of the mean in nats, one a row, 0 to log(classes): how uncertain the prediction is.
    mutual_information : ndarray or None
        Entropy of the mean less the mean entropy of single passes, one a row, 0 to the entropy: how far the passes
        disagree.
    passes : int
        T, the number of passes.
    """

    mean: Array
    variance: Array
    entropy: Array | None
    mutual_information: Array | None
    passes: int


class Moments:
    """Running mean and variance of arrays of one shape, in the memory of two of them.

    mean_T = mean_(T-1) + (x_T - mean_(T-1)) / T, and the sum of squares grows by (x_T - mean_(T-1)) (x_T - mean_T).

    References
    ----------
    Welford, "Note on a method for calculating corrected sums of squares and products", Technometrics 4 (1962).
    """

    def __init__(self) -> None:
        self.count = 0
        self.mean: Array = np.zeros(())
        self._squares: Array = np.zeros(())

    def add(self, value: npt.ArrayLike) -> None:
        """Take in one array.

        Raises
        ------
        ValueError
            If its shape is not that of the arrays before it.
        """
        x = np.asarray(value, dtype=np.float64)
        if self.count and x.shape != self.mean.shape:
            raise ValueError(f"every pass must give the same shape, got {x.shape} after {self.mean.shape}")
        self.count += 1
        away = x - self.mean
        self.mean = self.mean + away / self.count
        self._squares = self._squares + away * (x - self.mean)

    @property
    def variance(self) -> Array:
        """Variance of the arrays so far, with the divisor `count`; ValueError before the first."""
        if not self.count:
            raise ValueError("there is no variance of no arrays; call add(value) first")
        return self._squares / self.count


def mc_predict(predict: Any, x: Any, passes: int, outputs: Outputs = "probabilities", seed: int = 0) -> Prediction:
    """Return mean, variance, entropy and mutual information of T predictions of the same rows.

    With p_t the probabilities of pass t and H(p) = -sum_k p_k log p_k, they are p = mean_t p_t, the variance of p_t,
    H(p), and H(p) - mean_t H(p_t). Memory does not grow with the number of passes.

    Parameters
    ----------
    predict : callable, or a model of PyTorch, Keras or Flax
        A callable is called T times with x and must draw for itself. Of a model, dropout and nothing else is turned
        on for the length of this call (`dropoutlib.frameworks`, `mc_mode`); everything is put back afterwards.
    x : array
        The rows, as `predict` takes them.
    passes : int
        T, at least 1.
    outputs : {"probabilities", "logits", "values"}
        What a pass gives: rows that sum to 1, rows to be put through a softmax first, or the values of a regression.
    seed : int
        Of a model's masks; pass t draws from SeedSequence([seed, t]). A callable does not see it.

    Raises
    ------
    ValueError
        If `passes` is below 1, `outputs` is none of the three, or a pass gives another shape or no probabilities.
    TypeError
        If `predict` is neither a callable nor a model.

    References
    ----------
    Gal and Ghahramani, "Dropout as a Bayesian approximation", ICML 2016, section 4. Houlsby, Huszár, Ghahramani and
    Lengyel, "Bayesian active learning for classification and preference learning", arXiv:1112.5745, section 2, for the
    mutual information.
    """
    if outputs not in ("probabilities", "logits", "values"):
        raise ValueError(f'outputs must be "probabilities", "logits" or "values", got {outputs!r}')
    values, entropies = Moments(), Moments()
    passes = whole(passes, "passes", least=1)
    for value in _draws(predict, x, passes, whole(seed, "seed")):
        y = np.asarray(value, dtype=np.float64)
        if outputs == "values":
            values.add(y)
            continue
        probs = softmax(y) if outputs == "logits" else _probabilities(y)
        values.add(probs)
        entropies.add(entropy(probs))
    if outputs == "values":
        return Prediction(values.mean, values.variance, None, None, passes)
    total = entropy(values.mean)
    return Prediction(values.mean, values.variance, total, np.maximum(total - entropies.mean, 0.0), passes)


def entropy(probs: npt.ArrayLike) -> Array:
    """Return -sum_k p_k log p_k along the last axis, in nats, with 0 log 0 = 0."""
    p = np.asarray(probs, dtype=np.float64)
    result: Array = -np.sum(p * np.log(np.where(p > 0, p, 1.0)), axis=-1)
    return result


def nwgm(probs: npt.ArrayLike, weights: npt.ArrayLike | None = None) -> Array:
    """Return the normalised weighted geometric mean of predictions.

    NWGM(k) = prod_m P_m(k)^w_m / sum_j prod_m P_m(j)^w_m. It is the softmax of the mean logits.

    Parameters
    ----------
    probs : array_like, shape (masks, ..., classes)
        One prediction a mask.
    weights : array_like, shape (masks,), optional
        Probabilities of the masks; equal by default. Masks of weight 0 do not count.

    Returns
    -------
    ndarray, shape (..., classes)
        A class to which some mask gives 0 gets 0. If every class gets 0 there is no such mean, and it is nan.

    Raises
    ------
    ValueError
        If rows are no probabilities, or the weights are not non-negative with sum 1.

    References
    ----------
    Baldi and Sadowski, "Understanding dropout", NIPS 2013. Goodfellow, Bengio and Courville, "Deep learning", MIT
    Press 2016, section 7.12.
    """
    p = _probabilities(np.asarray(probs, dtype=np.float64))
    count = p.shape[0] if p.ndim > 1 else 0
    w = np.full(count, 1 / max(count, 1)) if weights is None else np.asarray(weights, dtype=np.float64)
    if count == 0 or w.shape != (count,) or not (np.all(w >= 0) and abs(w.sum() - 1) <= 1e-6):
        raise ValueError(f"probs must be (masks, ..., classes), weights (masks,) with sum 1; got {p.shape}, {w.shape}")
    used = w > 0
    with np.errstate(divide="ignore", invalid="ignore"):
        return cast(Array, np.exp(log_softmax(np.tensordot(w[used], np.log(p[used]), axes=1))))


def _draws(predict: Any, x: Any, passes: int, seed: int) -> Any:
    """Yield T outputs, of a model with its dropout on."""
    from dropoutlib.frameworks import adapter

    try:
        framework = adapter(predict)
    except TypeError:
        if not callable(predict):
            raise
        yield from (cast(Callable[[Any], Any], predict)(x) for _ in range(passes))
        return
    with framework.mc_mode(predict):
        for t in range(passes):
            yield framework.predict(predict, x, int(np.random.SeedSequence([seed, t]).generate_state(1)[0]))


def _probabilities(y: Array) -> Array:
    """Return rows after checking that they are probabilities."""
    if not (y.ndim and np.all(y >= 0) and np.all(np.abs(y.sum(axis=-1) - 1) <= 1e-4)):
        raise ValueError(
            "each row must be non-negative and sum to 1; for logits say outputs='logits', for a regression 'values'"
        )
    return y
