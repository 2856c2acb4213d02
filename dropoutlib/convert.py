"""Exact maps between a network with standard dropout and the same network with inverted dropout.

Let q = 1 - p > 0 and W_s = W_i / q for every weight matrix that directly follows a dropout. Then both networks
compute the same function, and dL/dW_i = (1/q) dL/dW_s while the gradients of biases and of all earlier layers are
equal. The two trainings stay equal if those matrices, and only those, get the settings that `optimizer_settings`
returns.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from dropoutlib._validation import FloatArray, float_array, probability, real

# The power of q by which an inverted network's setting is multiplied to give the standard network's.
_POWERS: dict[str, dict[str, int]] = {
    "SGD": {"lr": -2, "momentum": 0, "dampening": 0, "nesterov": 0, "weight_decay": 2, "max_norm": -1},
    "Adam": {"lr": -1, "betas": 0, "eps": 1, "weight_decay": 2, "max_norm": -1},
    "AdamW": {"lr": -1, "betas": 0, "eps": 1, "weight_decay": 1, "decay_times_lr": 0, "max_norm": -1},
}
# PyTorch's defaults that do not map to themselves.
_DEFAULTS: dict[str, dict[str, float]] = {
    "SGD": {},
    "Adam": {"lr": 1e-3, "eps": 1e-8},
    "AdamW": {"lr": 1e-3, "eps": 1e-8, "weight_decay": 0.01},
}
_GLOBAL_CLIPPING = ("clip_grad_norm", "clip_norm", "global_clipnorm")


def standard_weights(W: npt.ArrayLike, p: float) -> FloatArray:
    """Return W_s = W_i / (1 - p): the standard network's weights from the inverted network's.

    Parameters
    ----------
    W : array_like of float16, float32 or float64
        Weights that directly follow a dropout, of any shape; never biases.
    p : float
        Probability of dropping just before those weights, 0 <= p < 1.

    Raises
    ------
    TypeError, ValueError
        If W has another dtype, or p is not a number or outside [0, 1).
    """
    return np.asarray(float_array(W, "W") / _keep(p))


def inverted_weights(W: npt.ArrayLike, p: float) -> FloatArray:
    """Return W_i = (1 - p) W_s: the inverted network's weights from the standard network's.

    This is the folding at test time of Srivastava et al. (2014), section 4. It is done once, for each matrix with
    the p of the dropout just before it.

    Parameters
    ----------
    W : array_like of float16, float32 or float64
        Weights that directly follow a dropout, of any shape; never biases.
    p : float
        Probability of dropping just before those weights, 0 <= p < 1.

    Raises
    ------
    TypeError, ValueError
        If W has another dtype, or p is not a number or outside [0, 1).
    """
    return np.asarray(float_array(W, "W") * _keep(p))


def optimizer_settings(
    settings: Mapping[str, Any], p: float, to: Literal["standard", "inverted"] = "standard"
) -> dict[str, Any]:
    """Map an optimiser's settings so that standard and inverted dropout give the same training.

    The result belongs to the weight matrices that directly follow a dropout with this p; biases and all other layers
    keep the settings they have. From inverted to standard, with q = 1 - p:

    ============================  ========================================
    SGD, with or without momentum lr / q**2
    weight_decay (L2) in SGD      weight_decay * q**2
    Adam                          lr / q, eps * q, weight_decay (L2) * q**2
    AdamW                         lr / q, eps * q, weight_decay * q
    max_norm                      max_norm / q
    ============================  ========================================

    Parameters
    ----------
    settings : mapping
        "optimizer" is "SGD", "Adam" or "AdamW"; others as in PyTorch: lr, momentum, dampening, nesterov, betas, eps,
        weight_decay; and max_norm, the radius of a max-norm constraint on the rows of W. AdamW takes "decay_times_lr":
        True (the default; PyTorch, Keras) where lr multiplies the decay, False where the decay is independent of lr.
    p : float
        Probability of dropping, 0 <= p < 1.
    to : {"standard", "inverted"}
        The convention that the result is for; `settings` are the other one's.

    Returns
    -------
    dict
        New settings, with the same keys and those of PyTorch's defaults that do not map to themselves (lr and eps of
        Adam and AdamW, weight_decay of AdamW).

    Raises
    ------
    ValueError
        If an optimiser or a key is unknown, p is outside [0, 1), or the settings clip by a global norm: that norm
        mixes gradients which scale by q with gradients which do not, so no setting makes the two clip alike.
    TypeError
        If p or a mapped setting is not a number.
    """
    q = _keep(p)
    if to not in ("standard", "inverted"):
        raise ValueError(f'to must be "standard" or "inverted", got {to!r}')
    name = settings.get("optimizer")
    if not isinstance(name, str) or name not in _POWERS:
        raise ValueError(f'settings["optimizer"] must be one of {", ".join(_POWERS)}, got {name!r}')
    powers = dict(_POWERS[name])
    mapped = {**_DEFAULTS[name], **{key: value for key, value in settings.items() if key != "optimizer"}}
    if "lr" not in mapped:
        raise ValueError(f'settings must have "lr" for {name}, got {sorted(settings)}')
    if not mapped.get("decay_times_lr", True):
        powers["weight_decay"] = 0
    sign = 1 if to == "standard" else -1
    result: dict[str, Any] = {"optimizer": name}
    for key, value in mapped.items():
        if key in _GLOBAL_CLIPPING:
            raise ValueError(
                f"{key}={value!r} has no exact map: the global norm mixes gradients that scale by 1-p with gradients "
                "that do not, so the two networks are clipped by different factors; train without it"
            )
        if key not in powers:
            raise ValueError(f"unknown setting {key}={value!r} for {name}; known are {', '.join(powers)}")
        result[key] = real(value, key) * q ** (sign * powers[key]) if powers[key] else value
    return result


def _keep(p: float) -> float:
    """Return q = 1 - p, refusing p = 1, where there is nothing to convert."""
    q = 1.0 - probability(p)
    if q == 0.0:
        raise ValueError(f"p must be below 1, got {p!r}: nothing is kept, so no weights correspond")
    return q
