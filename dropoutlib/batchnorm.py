"""Batch normalisation, and how dropout shifts the variance that it has learned to divide by.

In training BatchNorm divides by the standard deviation of the batch; in evaluation by a running mean of those. Dropout
changes the variance in training only, so that the running mean is wrong for evaluation wherever a dropout comes before.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from dropoutlib._validation import FloatArray, float_array, probability, real, whole
from dropoutlib.network import Layer, Parameter, Sequential


class BatchNorm1d:
    """Batch normalisation of features: y = weight * (x - mean) / sqrt(var + eps) + bias.

    In training, mean and var are those of the batch's n rows, var with the divisor n, and the running statistics move:
    running_mean = (1 - momentum) * running_mean + momentum * mean, and running_var likewise by the batch's variance
    with the divisor n - 1. In evaluation, mean and var are the running statistics. All as in PyTorch.

    With h = (x - mean) / sqrt(var + eps), gradients in training are
    dx = weight / sqrt(var + eps) * (dy - mean(dy) - h * mean(dy * h)), and in evaluation
    dx = weight / sqrt(var + eps) * dy; the weight's is sum(dy * h), the bias's sum(dy), means and sums over rows.

    Parameters
    ----------
    features : int
        Number of columns, at least 1.
    momentum : float
        0 <= momentum <= 1, the share of the newest batch in the running statistics.
    eps : float
        Added to the variance, eps >= 0.
    dtype : dtype
        Of parameters and running statistics.

    Attributes
    ----------
    weight, bias : Parameter
        Shape (features,); they start at 1 and 0.
    running_mean, running_var : ndarray
        Shape (features,); they start at 0 and 1.
    training : bool
        The mode.

    Raises
    ------
    TypeError, ValueError
        If an argument is of a wrong type or out of range.

    References
    ----------
    Ioffe and Szegedy, "Batch normalization", ICML 2015, algorithms 1 and 2.
    """

    def __init__(
        self, features: int, momentum: float = 0.1, eps: float = 1e-5, dtype: npt.DTypeLike = np.float64
    ) -> None:
        self.features = whole(features, "features", least=1)
        self.momentum = real(momentum, "momentum")
        if self.momentum > 1:
            raise ValueError(f"momentum must be at most 1 (it is the share of the newest batch), got {momentum!r}")
        self.eps = real(eps, "eps")
        self.weight = Parameter(np.ones(self.features, dtype))
        self.bias = Parameter(np.zeros(self.features, dtype))
        self.running_mean: FloatArray = np.zeros(self.features, dtype)
        self.running_var: FloatArray = np.ones(self.features, dtype)
        self.training = True
        self._last: tuple[FloatArray, FloatArray, bool] | None = None

    def train(self) -> Self:
        """Switch to training mode and return the layer."""
        self.training = True
        return self

    def eval(self) -> Self:
        """Switch to evaluation mode and return the layer."""
        self.training = False
        return self

    def parameters(self) -> list[Parameter]:
        """Return weight and bias."""
        return [self.weight, self.bias]

    def forward(self, x: npt.ArrayLike) -> FloatArray:
        """Normalise x of shape (n, features); in training, n >= 2 and the running statistics move.

        Raises
        ------
        TypeError
            If `x` is not float16, float32 or float64.
        ValueError
            If `x` has another shape, or fewer than 2 rows in training.
        """
        array = _rows(x, self.features, least=2 if self.training else 0)
        if self.training:
            rows = len(array)
            mean, var = array.mean(axis=0), array.var(axis=0)
            keep = 1 - self.momentum
            self.running_mean = keep * self.running_mean + self.momentum * mean
            self.running_var = keep * self.running_var + self.momentum * (var * (rows / (rows - 1)))
        else:
            mean, var = self.running_mean, self.running_var
        inverse_std: FloatArray = 1 / np.sqrt(var + self.eps)
        normalised: FloatArray = (array - mean) * inverse_std
        self._last = normalised, inverse_std, self.training
        y: FloatArray = self.weight.value * normalised + self.bias.value
        return y

    __call__ = forward

    def backward(self, dy: npt.ArrayLike) -> FloatArray:
        """Set the gradients of weight and bias and return dx of the last forward, whatever the mode is now.

        Raises
        ------
        RuntimeError
            If there was no forward yet.
        ValueError
            If `dy` has another shape than the last forward's input.
        """
        if self._last is None:
            raise RuntimeError("backward belongs to a forward, and there was none yet; call forward(x) first")
        normalised, inverse_std, by_batch = self._last
        gradient = float_array(dy, "dy")
        if gradient.shape != normalised.shape:
            raise ValueError(
                f"dy must have the shape of the last forward's input, {normalised.shape}, got {gradient.shape}"
            )
        self.weight.grad = (gradient * normalised).sum(axis=0)
        self.bias.grad = gradient.sum(axis=0)
        dx = gradient
        if by_batch:
            rows = len(gradient)
            dx = dx - self.bias.grad / rows - normalised * (self.weight.grad / rows)
        dx = self.weight.value * inverse_std * dx
        return dx


def variance_shift(mean: npt.ArrayLike, var: npt.ArrayLike, p: float) -> Any:
    """Return Var_train / Var_eval of an activation that dropout follows.

    For x with this mean and variance and an independent mask, 1 / q + (mean^2 / var) * (p / q) with q = 1 - p. The
    ratio is the same for standard and inverted dropout.

    Parameters
    ----------
    mean, var : array_like
        Of the activation without dropout; var > 0. They broadcast.
    p : float
        Probability of dropping, 0 <= p < 1.

    Returns
    -------
    float or ndarray
        At least 1 / q.

    Raises
    ------
    ValueError
        If p = 1 or out of range, or a variance is not positive.

    References
    ----------
    Li, Chen, Hu and Yang, "Understanding the disharmony between dropout and batch normalization by variance shift",
    CVPR 2019, section 3. There p is the probability of keeping.
    """
    drop = _below_one(p)
    mu, variance = np.asarray(mean, float), np.asarray(var, float)
    if not np.all(variance > 0):
        raise ValueError(f"var must be positive, for the ratio divides by it, got {np.min(variance):g}")
    return (1 / (1 - drop) + mu**2 / variance * (drop / (1 - drop)))[()]


def variance_shift_linear(mean: npt.ArrayLike, cov: npt.ArrayLike, w: npt.ArrayLike, p: float) -> Any:
    """Return Var_train / Var_eval of w'x where dropout, with one mask element for each feature, comes before w.

    With q = 1 - p, Var_eval = w' cov w and Var_train = w' cov w + (p / q) * sum_j w_j^2 (cov_jj + mean_j^2), in the
    inverted form; the ratio is that of the standard form too. A constant added to w'x changes nothing.

    Parameters
    ----------
    mean : array_like, shape (d,)
        Of the features without dropout.
    cov : array_like, shape (d, d)
        Their covariance matrix.
    w : array_like, shape (d,) or (outputs, d)
        One weight vector, or one in each row as in `Linear.weight`.
    p : float
        Probability of dropping, 0 <= p < 1.

    Returns
    -------
    float or ndarray of shape (outputs,)

    Raises
    ------
    ValueError
        If p = 1 or out of range, the shapes do not fit, or w' cov w is not positive.
    """
    drop = _below_one(p)
    mu, sigma, weight = np.asarray(mean, float), np.asarray(cov, float), np.asarray(w, float)
    d = mu.size
    if mu.ndim != 1 or sigma.shape != (d, d) or weight.ndim not in (1, 2) or weight.shape[-1] != d:
        raise ValueError(
            "mean must be (d,), cov (d, d) and w (d,) or (outputs, d), "
            f"got {mu.shape}, {sigma.shape} and {weight.shape}"
        )
    evaluation = np.einsum("...i,ij,...j->...", weight, sigma, weight)
    if not np.all(evaluation > 0):
        raise ValueError(f"w' cov w must be positive, for the ratio divides by it, got {np.min(evaluation):g}")
    noise = drop / (1 - drop) * (weight**2 @ (np.diag(sigma) + mu**2))
    return (1 + noise / evaluation)[()]


def reestimate_running_stats(network: Sequential, x: npt.ArrayLike) -> None:
    """Set every BatchNorm's running statistics to those of its inputs over `x` with dropout off.

    One pass in evaluation mode, layer after layer: at a `BatchNorm1d` running_mean becomes the mean of its input's
    rows and running_var their variance with the divisor n - 1; the layer then normalises by these, so that the layers
    behind it see what they will see in evaluation. Nothing is averaged with the old values, and momentum plays no
    part. Weights, modes and the streams of masks stay as they were. Layers remember this pass as their last forward.

    Parameters
    ----------
    network : Sequential
        Its parts may be `Sequential` themselves.
    x : array_like, shape (n, features)
        Inputs, n >= 2: all of the training set, if it fits into memory.

    Raises
    ------
    ValueError
        If there are fewer than 2 rows.

    References
    ----------
    Hendrycks and Gimpel, "Adjusting for dropout variance in batch normalization and weight initialization", 2016.
    """
    for layer, inputs in _evaluation_inputs(network, x):
        layer.running_mean, layer.running_var = _statistics(inputs, layer)


def running_variance_ratios(network: Sequential, x: npt.ArrayLike) -> list[FloatArray]:
    """Return running_var / evaluation variance of each BatchNorm, in order: 1 where the two agree.

    The evaluation variance of a feature is that of the layer's input over the rows of `x` in evaluation mode, with the
    divisor n - 1. The network keeps its modes, weights, statistics and streams of masks.

    Parameters
    ----------
    network : Sequential
        Its parts may be `Sequential` themselves.
    x : array_like, shape (n, features)
        Inputs of the distribution that the network was trained on, n >= 2.

    Returns
    -------
    list of ndarray
        One array of shape (features,) for each `BatchNorm1d`; inf or nan where a feature is constant.

    Raises
    ------
    ValueError
        If there are fewer than 2 rows.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        return [
            np.divide(layer.running_var, _statistics(inputs, layer)[1])
            for layer, inputs in _evaluation_inputs(network, x)
        ]


def _evaluation_inputs(network: Sequential, x: npt.ArrayLike) -> Iterator[tuple[BatchNorm1d, FloatArray]]:
    """Walk the layers in evaluation mode and yield each BatchNorm with its input, before it is applied."""
    array = float_array(x, "x")
    if array.ndim == 0 or len(array) < 2:
        raise ValueError(f"x must have at least 2 rows to have a variance, got shape {array.shape}")
    layers = list(_leaves(network))
    with _evaluation_mode(layers):
        for layer in layers:
            if isinstance(layer, BatchNorm1d):
                yield layer, array
            array = layer.forward(array)


def _leaves(network: Sequential) -> Iterator[Layer]:
    for layer in network.layers:
        if isinstance(layer, Sequential):
            yield from _leaves(layer)
        else:
            yield layer


@contextmanager
def _evaluation_mode(layers: list[Layer]) -> Iterator[None]:
    modes = [getattr(layer, "training", None) for layer in layers]
    try:
        for layer in layers:
            layer.eval()
        yield
    finally:
        for layer, training in zip(layers, modes, strict=True):
            if training:
                layer.train()


def _statistics(inputs: FloatArray, layer: BatchNorm1d) -> tuple[FloatArray, FloatArray]:
    dtype = layer.running_var.dtype
    return inputs.mean(axis=0).astype(dtype), inputs.var(axis=0, ddof=1).astype(dtype)


def _rows(x: npt.ArrayLike, features: int, least: int) -> FloatArray:
    array = float_array(x, "x")
    if array.ndim != 2 or array.shape[1] != features:
        raise ValueError(f"x must have shape (n, {features}), got {array.shape}")
    if len(array) < least:
        raise ValueError(
            f"x must have at least 2 rows in training, for one row has no variance, got {len(array)}; "
            "use larger batches, leave out the last short one, or call eval()"
        )
    return array


def _below_one(p: float) -> float:
    drop = probability(p)
    if drop == 1.0:
        raise ValueError("p must be below 1: dropout that drops everything leaves no variance, got 1")
    return drop
