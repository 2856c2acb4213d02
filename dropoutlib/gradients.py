"""Two looks at the gradient of a dropout layer: is it right, and what does the mask do to it?

`check_gradient` compares a layer's backward pass with difference quotients of its forward pass. `moments` gives mean,
variance and norms of a masked gradient in closed form.
"""

from __future__ import annotations

import copy
import math
from typing import Any, Literal, NamedTuple, Self

import numpy as np
import numpy.typing as npt

from dropoutlib._validation import float_array, probability
from dropoutlib.layers import KeyedDropout

Array = npt.NDArray[np.float64]

# A power of two, so that x + h and x - h are exact for x of size 1. It is small enough to step over few kinks of a
# ReLU, and large enough for rounding errors of about eps / h = 3e-11.
_STEP = 2.0**-17
# Entries below this share of the largest one are compared with that share, so that rounding errors stay small.
_FLOOR = 1e-4


class Moments(NamedTuple):
    """Moments over all masks of a masked gradient g_hat; arrays have the shape of g."""

    mean: Array
    variance: Array
    mean_square_norm: float
    norm_bounds: tuple[float, float]


def moments(g: npt.ArrayLike, p: float, convention: Literal["inverted", "standard"]) -> Moments:
    """Return mean, variance and norms, over all masks, of the gradient that a dropout layer passes on.

    With m ~ Bernoulli(q) elementwise, q = 1 - p, and g held fixed:

    ==========  =============  =========  ===========  ===============  ==================================
    convention  g_hat          E[g_hat]   Var[g_hat]   E[|g_hat|^2]     bounds of E[|g_hat|]
    ==========  =============  =========  ===========  ===============  ==================================
    inverted    m * g / q      g          g^2 p / q    |g|^2 / q        |g| to |g| / sqrt(q)
    standard    m * g          q g        g^2 p q      q |g|^2          q |g| to sqrt(q) |g|
    ==========  =============  =========  ===========  ===============  ==================================

    Both bounds are Jensen's inequality: |E[g_hat]| <= E[|g_hat|] <= sqrt(E[|g_hat|^2]).

    Parameters
    ----------
    g : array_like of float16, float32 or float64
        Gradient with respect to the layer's output, any shape; it does not depend on the mask.
    p : float
        Probability of dropping; 0 <= p < 1 for "inverted", 0 <= p <= 1 for "standard".
    convention : {"inverted", "standard"}
        Where the scale goes.

    Returns
    -------
    Moments
        `mean` and `variance` (elementwise), `mean_square_norm` and `norm_bounds` (lower, upper), all in float64.

    Raises
    ------
    TypeError
        If `g` has another dtype or `p` is no real number.
    ValueError
        If `g` has an inf or nan, `p` is out of range, or `convention` is neither of the two.
    """
    gradient = _finite(g, "g")
    p = probability(p)
    if convention not in ("inverted", "standard"):
        raise ValueError(f'convention must be "inverted" or "standard", got {convention!r}')
    if convention == "inverted" and p == 1.0:
        raise ValueError("p must be below 1 for inverted dropout, which divides by 1 - p, got 1")
    q = 1.0 - p
    # E[g_hat] = mean * g and E[g_hat^2] = square * g^2; the variance is their difference, p * square * g^2 in both.
    mean, square = (1.0, 1.0 / q) if convention == "inverted" else (q, q)
    norm = float(np.linalg.norm(gradient))
    return Moments(
        mean=mean * gradient,
        variance=p * square * gradient**2,
        mean_square_norm=square * norm**2,
        norm_bounds=(mean * norm, math.sqrt(square) * norm),
    )


class AtStep:
    """A `KeyedDropout` at one step, as a layer whose forward and backward take no step.

    forward(x) = layer.forward(x, step) and backward(dy) = layer.backward(dy, step).

    Parameters
    ----------
    layer : KeyedDropout
        The layer; its mode is shared.
    step : int
        0 <= step < 2**64.
    """

    def __init__(self, layer: KeyedDropout, step: int) -> None:
        self.layer = layer
        self.step = step

    def forward(self, x: npt.ArrayLike) -> npt.NDArray[np.floating]:
        """Return the layer's output at this step."""
        return self.layer.forward(x, self.step)

    __call__ = forward

    def backward(self, dy: npt.ArrayLike) -> npt.NDArray[np.floating]:
        """Return the layer's gradient at this step."""
        return self.layer.backward(dy, self.step)

    def train(self) -> Self:
        """Switch the layer to training mode and return self."""
        self.layer.train()
        return self

    def eval(self) -> Self:
        """Switch the layer to evaluation mode and return self."""
        self.layer.eval()
        return self


def check_gradient(layer: Any, x: npt.ArrayLike, dy: npt.ArrayLike) -> float:
    """Return the largest relative error of a layer's backward pass, with its mask held fixed.

    For f(x) = sum(dy * forward(x)), the entry i of backward(dy) is compared with the central difference

        n_i = (f(x + h e_i) - f(x - h e_i)) / (2 h),
        error_i = |backward(dy)_i - n_i| / max(|backward(dy)_i|, |n_i|, 1e-4 of the largest of all),

    and likewise each entry of the gradients of `layer.parameters()`, if the layer has that method.

    A layer that draws must draw the same mask each time, or f is another function at each call and the quotient is a
    difference of two masks, divided by a tiny 2 h. So every forward pass runs on a deep copy of the layer as it was
    handed over: all copies have the same stream at the same place, and draw the same mask. The backward pass runs on
    the copy that went forward. The layer itself neither moves on nor changes.

    At a kink the quotients to the left and to the right differ, and any value between them is right. Half their
    difference is forgiven. A ReLU behind dropout does get exactly 0 as input: where a bias is 0 and all its row is
    dropped.

    Parameters
    ----------
    layer : object
        With forward(x) and backward(dy), in the mode to be checked; `copy.deepcopy` must copy its stream. All layers of
        `dropoutlib` are such; a `KeyedDropout` is passed as `AtStep(layer, step)`.
    x : array_like of float16, float32 or float64
        Where to check; computed in float64.
    dy : array_like of float16, float32 or float64
        Gradient with respect to the output, of its shape.

    Returns
    -------
    float
        Below 1e-6 for a right gradient, .01 for one with an entry that is wrong by 1 %, inf if the backward pass gave
        inf or nan.

    Raises
    ------
    TypeError
        If `x` or `dy` has another dtype, or the layer has no forward(x) and backward(dy).
    ValueError
        If `x` or `dy` has an inf or nan, `dy` or the gradient has a wrong shape, the layer does not compute in float64,
        or two copies draw two masks.

    References
    ----------
    Stanford's CS231n course notes, "Gradient Checks" (cs231n.github.io/neural-networks-3): they force one random seed
    before each evaluation.
    """
    x, dy = _finite(x, "x"), _finite(dy, "dy")
    if isinstance(layer, KeyedDropout):
        raise TypeError("a KeyedDropout needs a step; pass AtStep(layer, step)")
    if not all(callable(getattr(layer, name, None)) for name in ("forward", "backward")):
        raise TypeError(f"layer must have forward(x) and backward(dy), got {layer!r}")
    candidate = copy.deepcopy(layer)
    y = np.asarray(candidate.forward(x.copy()))
    _require(y.shape == dy.shape, f"dy must have the output's shape {y.shape}, got {dy.shape}")
    _require(y.dtype == np.float64, f"the layer must compute in float64 when x is float64, got {y.dtype}")
    _require(
        np.array_equal(y, copy.deepcopy(layer).forward(x.copy()), equal_nan=True),
        "two copies of the layer drew two masks, so the mask cannot be held fixed; "
        "let the layer own its generator, as an attribute, and not share a global one",
    )
    dx = np.asarray(candidate.backward(dy.copy()))
    _require(dx.shape == x.shape, f"backward must return the shape of x, {x.shape}, got {dx.shape}")
    errors = [_largest_error(layer, x, y, dy, dx, None)]
    for index, parameter in enumerate(_parameters(candidate)):
        errors.append(_largest_error(layer, x, y, dy, np.asarray(parameter.grad), index))
    return max(errors)


def _largest_error(layer: Any, x: Array, y: Array, dy: Array, analytic: Array, parameter: int | None) -> float:
    """Return the largest relative error with respect to x, or to one of the layer's parameters."""
    shape = (x if parameter is None else _parameters(layer)[parameter].value).shape
    if analytic.shape != shape or not np.all(np.isfinite(analytic)):
        return math.inf
    numeric, slack = np.empty(shape), np.empty(shape)
    for entry in np.ndindex(shape):
        right, left = (_quotient(layer, x, y, parameter, entry, sign) for sign in (1.0, -1.0))
        numeric[entry] = np.sum(dy * (right + left)) / 2
        slack[entry] = np.sum(np.abs(dy * (right - left))) / 2
    size = np.maximum(np.abs(analytic), np.abs(numeric))
    if size.size == 0 or size.max() == 0:
        return 0.0
    error = np.maximum(np.abs(analytic - numeric) - slack, 0)
    return float(np.max(error / np.maximum(size, _FLOOR * size.max())))


def _quotient(layer: Any, x: Array, y: Array, parameter: int | None, entry: tuple[int, ...], sign: float) -> Array:
    """Return the change of each output over the change of one entry, to one side."""
    replay, at = copy.deepcopy(layer), x.copy()
    moved = at if parameter is None else _parameters(replay)[parameter].value
    start = float(moved[entry])
    moved[entry] += sign * _STEP * max(1.0, abs(start))
    change: Array = (replay.forward(at) - y) / (float(moved[entry]) - start)
    return change


def _parameters(layer: Any) -> list[Any]:
    return list(layer.parameters()) if hasattr(layer, "parameters") else []


def _finite(values: npt.ArrayLike, name: str) -> Array:
    array = float_array(values, name).astype(np.float64)
    _require(bool(np.all(np.isfinite(array))), f"{name} must be finite, got an inf or nan")
    return array


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ValueError(message)
