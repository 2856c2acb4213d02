"""The exercises of the chapter "does-it-help"."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from dropoutlib.checks.exercises import Answer, Mistake, exercise, number, short

Array = npt.NDArray[Any]


# --- 1: a paired interval ------------------------------------------------------------------------------------------


def _around(mean: Any, half: Any) -> tuple[float, float, float]:
    return float(mean - half), float(mean), float(mean + half)


def _interval(a: Array, b: Array, t: float) -> tuple[float, float, float]:
    d = a - b
    return _around(d.mean(), t * d.std(ddof=1) / np.sqrt(d.size))


_WRONG_INTERVALS: tuple[tuple[Callable[[Array, Array, float], tuple[float, float, float]], str], ...] = (
    (
        lambda a, b, t: _around(a.mean() - b.mean(), t * np.sqrt((a.var(ddof=1) + b.var(ddof=1)) / a.size)),
        "You add up the two variances, as if a and b had nothing in common. Take the difference seed by seed first.",
    ),
    (
        lambda a, b, t: _interval(b, a, t),
        "The sign: how much higher is a than b?",
    ),
    (
        lambda a, b, t: _around((a - b).mean(), t * (a - b).std() / np.sqrt(a.size)),
        "np.std divides by n by itself; the mean was estimated from the same seeds, so divide by n - 1: ddof=1.",
    ),
    (
        lambda a, b, t: _around((a - b).mean(), t * (a - b).std(ddof=1)),
        "That says where one more seed would fall. The mean of n seeds is known better, by sqrt(n).",
    ),
    (
        lambda a, b, t: _around((a - b).mean(), (a - b).std(ddof=1) / np.sqrt(a.size)),
        "That is one standard error to either side. Multiply it by t.",
    ),
    (
        lambda a, b, t: _around((a - b).mean(), t * (a - b).var(ddof=1) / np.sqrt(a.size)),
        "You use the variance. Its root has the unit of an accuracy.",
    ),
    (
        lambda a, b, t: _around((a - b).mean(), t * (a - b).std(ddof=1) / a.size),
        "The standard error falls with the root of the number of seeds.",
    ),
    (
        lambda a, b, t: _around((a - b).mean(), 1.96 * (a - b).std(ddof=1) / np.sqrt(a.size)),
        "1.96 is for a spread that is known. Yours is estimated from few seeds; use t.",
    ),
    (
        lambda a, b, t: _interval(a, np.zeros_like(a), t),
        "That is an interval for a alone.",
    ),
)


@exercise("does-it-help.1")
def paired_interval(answer: Answer, seed: int) -> str:
    """Check paired_interval(a, b, t): low end, mean, and high end of the interval for the mean of a - b.

    `a` and `b` hold one accuracy for each seed, the same seeds in the same order; `t` is the quantile of Student's law.
    """
    rng = np.random.default_rng(seed)
    for seeds, t in ((8, 2.365), (5, 2.776)):
        common = rng.normal(0.9, 0.05, seeds)
        a, b = common + rng.normal(0.02, 0.01, seeds), common + rng.normal(0, 0.01, seeds)
        text = f"paired_interval(a, b, {t}) for {seeds} seeds"
        value = _triple(answer.call(text, a, b, t, pure=True), text)
        expected = _interval(a, b, t)
        if not np.allclose(value, expected, rtol=1e-6):
            wrong = (hint for rule, hint in _WRONG_INTERVALS if np.allclose(value, rule(a, b, t), rtol=1e-6))
            hint = next(wrong, "Mean of the differences, plus and minus t times their standard deviation / sqrt(n).")
            raise Mistake(f"{text} returned {_shown(value)}, expected {_shown(expected)}", hint)
    return "The interval is right for 8 and for 5 seeds."


def _shown(values: tuple[float, float, float]) -> str:
    return f"({', '.join(f'{value:.4f}' for value in values)})"


def _triple(value: object, text: str) -> tuple[float, float, float]:
    if not isinstance(value, tuple | list | np.ndarray) or np.ndim(value) != 1 or len(value) != 3:
        raise Mistake(f"{text} returned {short(repr(value))}, expected three numbers: low, mean, high")
    low, mean, high = (number(part, text) for part in value)
    return low, mean, high


# --- 2: choosing honestly ------------------------------------------------------------------------------------------


def _chosen(validation: Array, test: Array) -> float:
    return float(test[validation.argmax(axis=0), np.arange(test.shape[1])].mean())


_WRONG_CHOICES: tuple[tuple[Callable[[Array, Array], Any], str], ...] = (
    (
        lambda v, t: t.max(axis=0).mean(),
        "You choose on the test rows. What was chosen for its test accuracy has, in part, been lucky on these rows.",
    ),
    (
        lambda v, t: t.mean(axis=1).max(),
        "You choose on the test rows: the setting with the best mean there.",
    ),
    (
        lambda v, t: v.max(axis=0).mean(),
        "That is the validation accuracy of the chosen ones. They were chosen for it; report the test accuracy.",
    ),
    (
        lambda v, t: t[v.mean(axis=1).argmax()].mean(),
        "You choose one setting for all seeds. Here each seed is an experiment of its own, and chooses for itself.",
    ),
    (
        lambda v, t: t[v.argmin(axis=0), np.arange(t.shape[1])].mean(),
        "You take the setting with the lowest validation accuracy.",
    ),
    (
        lambda v, t: t.mean(),
        "That is the mean over all settings. Nobody would use most of them.",
    ),
    (
        lambda v, t: t[v.argmax(axis=0)].mean(),
        "For each choice you average over all seeds. A seed's choice goes with that seed's test accuracy only.",
    ),
)


@exercise("does-it-help.2")
def tuned(answer: Answer, seed: int) -> str:
    """Check tuned(validation, test): the mean test accuracy of the settings that the validation rows choose.

    Both arrays have the shape (settings, seeds). Each seed takes the setting with its highest validation accuracy.
    """
    rng = np.random.default_rng(seed)
    for settings, seeds in ((5, 8), (8, 5)):
        validation, test = rng.uniform(0.8, 1, (2, settings, seeds))
        text = f"tuned(validation, test) for {settings} settings and {seeds} seeds"
        value = number(answer.call(text, validation, test, pure=True), text)
        expected = _chosen(validation, test)
        if not np.isclose(value, expected, rtol=1e-9):
            wrong = (hint for rule, hint in _WRONG_CHOICES if np.isclose(value, rule(validation, test), rtol=1e-9))
            hint = next(
                wrong, "For each seed: which setting is best on validation rows, and what is its test accuracy?"
            )
            raise Mistake(f"{text} returned {value:.4f}, expected {expected:.4f}", hint)
    return "Each seed's choice is made on its validation rows, and scored on test rows."


# --- 3: how many test rows -----------------------------------------------------------------------------------------


def _rows(variance: Any, gain: float, errors: float = 2.0) -> float:
    return float(errors**2 * variance / gain**2)


def _alone(right: Array) -> Any:
    return right.mean() * (1 - right.mean())


_WRONG_ROWS: tuple[tuple[Callable[[Array, Array, float], Any], str], ...] = (
    (
        lambda a, b, gain: _rows(_alone(a) + _alone(b), gain),
        "You add the variances of two accuracies, as if the two were tested on different rows. Where both are right or "
        "both are wrong, the difference is 0.",
    ),
    (
        lambda a, b, gain: _rows(_alone(a), gain),
        "That is for one accuracy alone. What varies from row to row is the difference: -1, 0 or 1.",
    ),
    (
        lambda a, b, gain: _rows(np.var(1.0 * a - b), gain, 1.0),
        "At that number the gain is one standard error. Two are asked for; the errors fall with the root of the rows.",
    ),
    (
        lambda a, b, gain: _rows(np.var(1.0 * a - b), gain, 2**0.5),
        "Twice the error takes four times the rows.",
    ),
    (
        lambda a, b, gain: 2 * np.std(1.0 * a - b) / gain,
        "That is the root of the number of rows.",
    ),
    (
        lambda a, b, gain: _rows(np.mean(a != b), gain),
        "The share of rows on which one alone is right is the mean of the squares. Take the square of the mean off.",
    ),
    (
        lambda a, b, gain: _rows(np.var(1.0 * (a != b)), gain),
        "You have lost the sign: one row that only a gets right and one that only b gets right cancel.",
    ),
)


@exercise("does-it-help.3")
def rows_needed(answer: Answer, seed: int) -> str:
    """Check rows_needed(a, b, gain): how many test rows it takes for `gain` to be two standard errors.

    `a` and `b` say for each row of a pilot whether the one and the other network is right. The variance of a row's
    difference is taken from there, with the divisor n; a result within 1 of the exact number passes.
    """
    rng = np.random.default_rng(seed)
    for chances, gain in (((0.6, 0.25, 0.05, 0.1), 0.02), ((0.7, 0.05, 0.2, 0.05), 0.05)):
        kind = rng.choice(4, 300, p=chances)
        a, b = (kind == 0) | (kind == 1), (kind == 0) | (kind == 2)
        text = f"rows_needed(a, b, {gain})"
        value = number(answer.call(text, a, b, gain, pure=True), text)
        expected = _rows(np.var(1.0 * a - b), gain)
        if abs(value - expected) > 1.000001:
            wrong = (hint for rule, hint in _WRONG_ROWS if abs(value - rule(a, b, gain)) < 1.000001)
            hint = next(wrong, "Write the difference as a mean of numbers -1, 0 and 1. What is its standard error?")
            raise Mistake(f"{text} returned {value:.6g}, expected {expected:.6g}", hint)
    return "The number of rows is right for two pairs of networks."
