"""The exercises of the chapter "does-it-help": right answers pass, wrong ones get the hint that is meant for them."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from dropoutlib.checks import check
from tests.dropoutlib.checking import hinted, passed, rejected

INTERVAL, TUNED, ROWS = (f"does-it-help.{i}" for i in (1, 2, 3))
Array = np.ndarray[Any, Any]
Interval = tuple[float, float, float]


# 1


def around(mean: float, half: float) -> Interval:
    return mean - half, mean, mean + half


def by_hand(a: Array, b: Array, t: float) -> list[float]:
    d = [float(x - y) for x, y in zip(a, b, strict=True)]
    mean = sum(d) / len(d)
    error = math.sqrt(sum((x - mean) ** 2 for x in d) / (len(d) - 1) / len(d))
    return [mean - t * error, mean, mean + t * error]


def by_covariance(a: Array, b: Array, t: float) -> Array:
    (va, c), (_, vb) = np.cov(a, b)
    mean, error = a.mean() - b.mean(), np.sqrt((va + vb - 2 * c) / len(a))
    return np.array([mean - t * error, mean, mean + t * error])


def spread(a: Array, b: Array) -> float:
    return float((a - b).std(ddof=1))


@pytest.mark.parametrize(
    ("answer", "hint"),
    [
        (
            lambda a, b, t: around(a.mean() - b.mean(), t * np.sqrt((a.var(ddof=1) + b.var(ddof=1)) / len(a))),
            "as if a and b had nothing in common",
        ),
        (lambda a, b, t: by_hand(b, a, t), "how much higher is a than b"),
        (lambda a, b, t: around((a - b).mean(), t * (a - b).std() / len(a) ** 0.5), "ddof=1"),
        (lambda a, b, t: around((a - b).mean(), t * spread(a, b)), "known better, by sqrt(n)"),
        (lambda a, b, t: around((a - b).mean(), spread(a, b) / len(a) ** 0.5), "Multiply it by t"),
        (lambda a, b, t: around((a - b).mean(), t * spread(a, b) ** 2 / len(a) ** 0.5), "You use the variance"),
        (lambda a, b, t: around((a - b).mean(), t * spread(a, b) / len(a)), "falls with the root"),
        (lambda a, b, t: around((a - b).mean(), 1.96 * spread(a, b) / len(a) ** 0.5), "from few seeds"),
        (lambda a, b, t: by_hand(a, 0 * a, t), "for a alone"),
        (lambda a, b, t: (0.0, 0.0, 0.0), "Mean of the differences"),
    ],
)
def test_hints_on_the_interval(answer: object, hint: str) -> None:
    hinted(INTERVAL, answer, hint)


@pytest.mark.parametrize("value", [0.5, (1, 2), [1, 2, 3, 4], np.ones((3, 1)), ("a", 1, 2), (1, None, 2)])
def test_an_interval_is_three_numbers(value: object) -> None:
    rejected(INTERVAL, lambda a, b, t: value, "returned", "expected")


# 2


def by_loop(validation: Array, test: Array) -> float:
    total = 0.0
    for seed in range(test.shape[1]):
        best = max(range(len(test)), key=lambda setting: validation[setting, seed])
        total += test[best, seed]
    return float(total / test.shape[1])


def by_take(validation: Array, test: Array) -> np.float64:
    return np.float64(np.take_along_axis(test, validation.argmax(axis=0)[None], axis=0).mean())


@pytest.mark.parametrize(
    ("answer", "hint"),
    [
        (lambda v, t: t.max(axis=0).mean(), "been lucky on these rows"),
        (lambda v, t: t.mean(axis=1).max(), "best mean there"),
        (lambda v, t: v.max(axis=0).mean(), "report the test accuracy"),
        (lambda v, t: t[v.mean(axis=1).argmax()].mean(), "one setting for all seeds"),
        (lambda v, t: by_loop(-v, t), "lowest validation accuracy"),
        (lambda v, t: t.mean(), "mean over all settings"),
        (lambda v, t: t[v.argmax(axis=0)].mean(), "goes with that seed's test accuracy"),
        (lambda v, t: 0.5, "which setting is best on validation rows"),
    ],
)
def test_hints_on_the_choice(answer: object, hint: str) -> None:
    hinted(TUNED, answer, hint)


# 3


def disagreement(a: Array, b: Array, gain: float) -> float:
    u, v = np.mean(a & ~b), np.mean(b & ~a)
    return float(4 * (u + v - (u - v) ** 2) / gain**2)


def by_search(a: Array, b: Array, gain: float) -> int:
    d = a.astype(float) - b
    n = 1
    while gain < 2 * d.std() / math.sqrt(n):
        n += 1
    return n


def alone(right: Array) -> float:
    return float(right.mean() * (1 - right.mean()))


@pytest.mark.parametrize(
    ("answer", "hint"),
    [
        (lambda a, b, g: 4 * (alone(a) + alone(b)) / g**2, "tested on different rows"),
        (lambda a, b, g: 4 * alone(a) / g**2, "one accuracy alone"),
        (lambda a, b, g: disagreement(a, b, g) / 4, "Two are asked for"),
        (lambda a, b, g: disagreement(a, b, g) / 2, "four times the rows"),
        (lambda a, b, g: disagreement(a, b, g) ** 0.5, "the root of the number of rows"),
        (lambda a, b, g: 4 * np.mean(a != b) / g**2, "Take the square of the mean off"),
        (lambda a, b, g: 4 * np.var(1.0 * (a != b)) / g**2, "lost the sign"),
        (lambda a, b, g: 10, "numbers -1, 0 and 1"),
    ],
)
def test_hints_on_the_number_of_rows(answer: object, hint: str) -> None:
    hinted(ROWS, answer, hint)


# Right answers.

RIGHT: dict[str, list[Any]] = {
    INTERVAL: [by_hand, by_covariance],
    TUNED: [by_loop, by_take],
    ROWS: [disagreement, by_search, lambda *arguments: math.ceil(disagreement(*arguments))],
}


@pytest.mark.parametrize(("exercise", "answer"), [(name, answer) for name in RIGHT for answer in RIGHT[name]])
def test_right_answers_pass_and_the_verdict_repeats(exercise: str, answer: object) -> None:
    for seed in range(20):
        passed(exercise, answer, seed)
    assert check(exercise, answer) == check(exercise, answer)


def test_wrong_answers_differ_from_the_right_one_under_every_seed() -> None:
    """No wrong rule may pass by chance; the nearest is the share of rows that differ, in the third exercise."""
    for seed in range(50):
        for answer in (
            lambda a, b, g: 4 * np.mean(a != b) / g**2,
            lambda a, b, g: 4 * np.var(1.0 * (a != b)) / g**2,
        ):
            assert check(ROWS, answer, seed=seed).status == "failed"
        assert check(TUNED, lambda v, t: t[v.mean(axis=1).argmax()].mean(), seed=seed).status == "failed"
