"""Argument checks shared by the modules: one clear error that names the value and the mend."""

from __future__ import annotations

import numbers

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.floating]

FLOAT_TYPES = (np.float16, np.float32, np.float64)


def probability(p: object, name: str = "p") -> float:
    """Return `p` as a float after checking 0 <= p <= 1.

    Raises
    ------
    TypeError
        If `p` is not a real number (bool, str, None and arrays are refused).
    ValueError
        If `p` is nan or outside [0, 1].
    """
    if isinstance(p, bool | np.bool_) or not isinstance(p, numbers.Real):
        raise TypeError(f"{name} must be a real number from 0 to 1, got {p!r} of type {type(p).__name__}")
    try:
        value = float(p)
    except OverflowError:
        value = float("inf")
    if not 0.0 <= value <= 1.0:
        raise ValueError(f"{name} must lie in 0 <= {name} <= 1 (it is the probability of dropping), got {p!r}")
    return value


def whole(value: object, name: str, least: int = 0) -> int:
    """Return `value` as an int after checking that it is at least `least`.

    Raises
    ------
    TypeError
        If `value` is not an integer (bool is refused).
    ValueError
        If it is below `least`.
    """
    if isinstance(value, bool | np.bool_) or not isinstance(value, numbers.Integral):
        raise TypeError(f"{name} must be an integer, got {value!r} of type {type(value).__name__}")
    number = int(value)
    if number < least:
        raise ValueError(f"{name} must be at least {least}, got {number}")
    return number


def word(value: object, name: str, bits: int = 64) -> int:
    """Return `value` as an int after checking 0 <= value < 2**bits; errors as in `whole`."""
    number = whole(value, name)
    if number >= 1 << bits:
        raise ValueError(f"{name} must lie in 0 <= {name} < 2**{bits}, got {number}")
    return number


def real(value: object, name: str) -> float:
    """Return `value` as a float after checking that it is a finite number >= 0.

    Raises
    ------
    TypeError
        If `value` is not a real number (bool is refused).
    ValueError
        If it is negative, infinite or nan.
    """
    if isinstance(value, bool | np.bool_) or not isinstance(value, numbers.Real):
        raise TypeError(f"{name} must be a number, got {value!r} of type {type(value).__name__}")
    if not 0.0 <= float(value) < float("inf"):
        raise ValueError(f"{name} must be finite and not negative, got {value!r}")
    return float(value)


def float_array(x: npt.ArrayLike, name: str) -> FloatArray:
    """Return `x` as a plain array, or say how to convert it when it is not float16, float32 or float64."""
    array = np.asarray(x)
    if array.dtype.type not in FLOAT_TYPES:
        raise TypeError(
            f"{name} must be float16, float32 or float64, got {array.dtype}; "
            f"convert it first, for example with {name}.astype(np.float32)"
        )
    return array
