"""What the checkers of the assignments share."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from dropoutlib.checks.exercises import Answer, Mistake, number, short

Array = npt.NDArray[Any]
# What a wrong rule gives, and the hint for it.
Rules = Iterable[tuple[Callable[..., Any], str]]


def rates(rng: np.random.Generator) -> tuple[float, float]:
    """Return a low and a high rate, never near one half, where p and 1 - p coincide."""
    low, high = rng.integers(15, 40), rng.integers(60, 85)
    return float(low) / 100, float(high) / 100


def seeds(rng: np.random.Generator, count: int) -> list[int]:
    """Return different seeds to hand to an answer."""
    start = int(rng.integers(1, 2**20))
    return [start + 1009 * i for i in range(count)]


def signed(rng: np.random.Generator, shape: tuple[int, ...]) -> Array:
    """Return numbers of both signs, none of them near 0."""
    return np.asarray(rng.uniform(1, 2, shape) * rng.choice([-1.0, 1.0], shape))


def array(value: object, text: str, shape: tuple[int, ...], kinds: str = "f", hint: str = "") -> Array:
    """Return an answer's value as an array, after checking its shape and its kind of numbers."""
    result = np.asarray(value) if isinstance(value, np.ndarray | np.generic | float | int | list | tuple) else None
    names = {"b": "bool", "f": "floating-point numbers", "biuf": "numbers"}
    if result is None or result.dtype.kind not in kinds:
        got = short(repr(value)) if result is None else result.dtype
        raise Mistake(f"{text} returned {got}, expected an array of {names[kinds]}", hint)
    if result.shape != shape:
        raise Mistake(f"{text} returned an array of shape {result.shape}, expected {shape}", hint)
    return result


def matching(rules: Rules, value: Any, *arguments: Any, rtol: float = 1e-6) -> str:
    """Return the hint of the first wrong rule that gives this value, or an empty string."""
    got = np.asarray(value)
    for rule, hint in rules:
        with np.errstate(all="ignore"):
            wrong = np.asarray(rule(*arguments))
        if wrong.shape == got.shape and np.allclose(got, wrong, rtol=rtol, atol=1e-12):
            return hint
    return ""


def several(value: object, text: str, names: Sequence[str]) -> list[float]:
    """Return an answer's value as so many numbers."""
    items = value.tolist() if isinstance(value, np.ndarray) and value.ndim == 1 else value
    if not isinstance(items, list | tuple) or len(items) != len(names):
        raise Mistake(f"{text} returned {short(repr(value))}, expected {len(names)} numbers: {', '.join(names)}")
    return [number(item, f"{text}: {name}") for item, name in zip(items, names, strict=True)]


def by_hand(
    answer: Answer,
    names: Sequence[str],
    expected: Sequence[float],
    rules: Sequence[Rules],
    *arguments: Any,
    rtol: float = 5e-3,
) -> None:
    """Check the numbers that an answer without arguments returns, each to three digits or `rtol`.

    `arguments` are those of the wrong rules; the expected number is not told.
    """
    text = f"{answer.name}()"
    values = several(answer.call(text), text, names)
    for name, value, right, wrong in zip(names, values, expected, rules, strict=True):
        if not np.isclose(value, right, rtol=rtol, atol=0):
            hint = matching(wrong, value, *arguments, rtol=rtol)
            raise Mistake(f"{text}: {name} is not {value:.6g}", hint or "Work it out again.")


def spread(ratios: Array) -> str:
    """Return one number, or the range of several."""
    low, high = float(np.min(ratios)), float(np.max(ratios))
    return f"{low:.6g}" if np.isclose(low, high) else f"{low:.6g} to {high:.6g}"


def common(ratios: Array) -> float:
    """Return the common value of all ratios, or nan if they differ."""
    same = ratios.size > 0 and np.allclose(ratios, ratios.flat[0], rtol=1e-6, equal_nan=True)
    return float(ratios.flat[0]) if same else float("nan")
