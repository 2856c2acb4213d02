"""The exercises of the chapter "frameworks": right answers pass, wrong ones get the hint that is meant for them.

The answers to `name_the_trap` below count the zeros of 40,000 elements, or of 200 rows; that such a share is off by
more than .2 has a probability far below 1e-9.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from dropoutlib.checks import check
from dropoutlib.checks.frameworks import Layer
from tests.dropoutlib.checking import hinted

READ, VARIANCE, NOISE, TRAP = (f"frameworks.{i}" for i in (1, 2, 3, 4))
EXERCISES = [READ, VARIANCE, NOISE, TRAP]
KEEPERS = ("tf.compat.v1.nn.dropout", "jax.example_libraries.stax.Dropout", "Srivastava et al. (2014)")


# 1


def dropped(api: str, number: float) -> float:
    return 1 - number if api in KEEPERS else number


def reading(**changed: Callable[[float], float]) -> Callable[[str, float], float]:
    """Return the right reading but for APIs whose name contains a key."""
    return lambda api, number: next(
        (rule(number) for part, rule in changed.items() if part in api), dropped(api, number)
    )


def keep(number: float) -> float:
    return 1 - number


def drop(number: float) -> float:
    return number


@pytest.mark.parametrize(
    ("answer", "parts"),
    [
        (reading(torch=keep), ['dropped("torch.nn.functional.dropout", 0.1) returned 0.9, expected 0.1', "zeroed"]),
        (reading(keras=keep), ["Keras' rate"]),
        (lambda api, number: keep(number) if api == "tf.nn.dropout" else dropped(api, number), ["TensorFlow 2"]),
        (reading(compat=drop), ["keep_prob, not rate"]),
        (reading(flax=keep), ["not the keep rate"]),
        (reading(stax=drop), ["called rate"]),
        (reading(Srivastava=drop), ["retains"]),
        (reading(Srivastava=lambda number: number**2), ["the number itself, or one minus it"]),
    ],
)
def test_reading_hints(answer: object, parts: list[str]) -> None:
    hinted(READ, answer, *parts)


# 2


def variance(a: np.ndarray, p: float) -> float:
    return float(p / (1 - p) * (a**2).sum())


def by_enumeration(a: np.ndarray, p: float) -> float:
    """Go through all masks."""
    total = square = 0.0
    for bits in range(2**a.size):
        mask = np.array([bits >> k & 1 for k in range(a.size)])
        chance = float(np.prod(np.where(mask == 1, 1 - p, p)))
        value = float((mask * a).sum() / (1 - p))
        total += chance * value
        square += chance * value**2
    return square - total**2


@pytest.mark.parametrize(
    ("answer", "hint"),
    [
        (lambda a, p: p * (1 - p) * (a**2).sum(), "without the scale"),
        (lambda a, p: (1 - p) / p * (a**2).sum(), "changed places"),
        (lambda a, p: p / (1 - p), "one single weight"),
        (lambda a, p: p / (1 - p) / a.size, "flat row"),
        (lambda a, p: np.sqrt(variance(a, p)), "standard deviation"),
        (lambda a, p: 7.0, "Add up the variances"),
    ],
)
def test_variance_hints(answer: object, hint: str) -> None:
    hinted(VARIANCE, answer, hint)


# 3

NoiseShape = tuple[int | None, ...]


def full(x: np.ndarray, noise_shape: NoiseShape) -> tuple[int, ...]:
    return tuple(size if n is None else n for n, size in zip(noise_shape, x.shape, strict=True))


def noisy(x: np.ndarray, p: float, noise_shape: NoiseShape, rng: np.random.Generator) -> np.ndarray:
    result: np.ndarray = x * (rng.random(full(x, noise_shape)) >= p) / np.float32(1 - p)
    return result


def by_where(x: np.ndarray, p: float, noise_shape: NoiseShape, rng: np.random.Generator) -> np.ndarray:
    kept = rng.binomial(1, 1 - p, size=full(x, noise_shape)).astype(bool)
    return np.where(kept, x / (1 - p), 0)


def elementwise(x: np.ndarray, p: float, noise_shape: NoiseShape, rng: np.random.Generator) -> np.ndarray:
    return noisy(x, p, x.shape, rng)


def scaled(factor: Callable[[float], float]) -> Callable[..., np.ndarray]:
    def answer(x: np.ndarray, p: float, noise_shape: NoiseShape, rng: np.random.Generator) -> np.ndarray:
        result: np.ndarray = x * (rng.random(full(x, noise_shape)) >= p) * np.float32(factor(p))
        return result

    return answer


def swapped(x: np.ndarray, p: float, noise_shape: NoiseShape, rng: np.random.Generator) -> np.ndarray:
    return noisy(x, 1 - p if p else 0.0, noise_shape, rng)


def another_share(x: np.ndarray, p: float, noise_shape: NoiseShape, rng: np.random.Generator) -> np.ndarray:
    return noisy(x, p / 2, noise_shape, rng)


def only_numbers(x: np.ndarray, p: float, noise_shape: Any, rng: np.random.Generator) -> np.ndarray:
    result: np.ndarray = x * (rng.random(noise_shape) >= p) / (1 - p)
    return result


def all_shared(x: np.ndarray, p: float, noise_shape: NoiseShape, rng: np.random.Generator) -> np.ndarray:
    return noisy(x, p, (1, *x.shape[1:]), rng)


def zero_at_zero(x: np.ndarray, p: float, noise_shape: NoiseShape, rng: np.random.Generator) -> np.ndarray:
    return np.zeros_like(x) if p == 0 else noisy(x, p, noise_shape, rng)


@pytest.mark.parametrize(
    ("answer", "hint"),
    [
        (elementwise, "has the shape noise_shape"),
        (all_shared, "Only an axis whose entry is 1"),
        (scaled(lambda p: 1 / p if p else 1.0), "1/p is right only where p keeps"),
        (scaled(lambda p: 1.0), "not scaled up"),
        (scaled(lambda p: 3.0), "does not depend on the shape"),
        (swapped, "p is the probability of dropping here"),
        (another_share, "0 with probability p"),
        (only_numbers, "in place of None"),
        (lambda x, p, noise_shape, rng: noisy(x, p, noise_shape, rng)[:1], "in place of None"),
        (zero_at_zero, "everything is kept"),
    ],
)
def test_noise_hints(answer: object, hint: str) -> None:
    hinted(NOISE, answer, hint)


# 4


def trap(layer: Layer, p: float) -> str:
    x = np.ones((200, 200))
    if not np.array_equal(layer(x, False), x):
        return "ignores the mode"
    zeros = layer(x, True) == 0
    if (zeros == zeros[0]).all():
        return "one mask for all rows"
    if (zeros == zeros[:, :1]).all():
        return "drops whole rows"
    return "right" if abs(zeros.mean() - p) < 0.1 else "keeps with p"


def by_factor(layer: Layer, p: float) -> str:
    x = np.full((300, 100), 3.0)
    if (layer(x, False) != x).any():
        return "ignores the mode"
    y = layer(x, True)
    if (y.std(axis=0) == 0).all():
        return "one mask for all rows"
    if (y.std(axis=1) == 0).all():
        return "drops whole rows"
    return "right" if np.isclose(y.max(), 3 / (1 - p)) else "keeps with p"


def spoiled(rule: Callable[[float, str], str]) -> Callable[[Layer, float], str]:
    """Return a right answer whose verdict goes through `rule`."""
    return lambda layer, p: rule(p, trap(layer, p))


@pytest.mark.parametrize(
    ("answer", "parts"),
    [
        (spoiled(lambda p, v: "right" if v == "ignores the mode" else v), ["training=False"]),
        (spoiled(lambda p, v: "right" if v == "keeps with p" else v), ["looks perfect", "Count the zeros"]),
        (spoiled(lambda p, v: "drops whole rows" if v == "keeps with p" else v), ["Count the zeros"]),
        (spoiled(lambda p, v: "right" if v == "one mask for all rows" else v), ["the first row"]),
        (spoiled(lambda p, v: "right" if v == "drops whole rows" else v), ["the first column"]),
        (spoiled(lambda p, v: "keeps with p" if p == 0.5 else v), ["keeping and dropping are the same"]),
        (spoiled(lambda p, v: "keeps with p" if v == "right" else v), ["Look at a large x of ones"]),
    ],
)
def test_trap_hints(answer: object, parts: list[str]) -> None:
    hinted(TRAP, answer, *parts)


# Right answers.

RIGHT: dict[str, list[Any]] = {
    READ: [dropped],
    VARIANCE: [variance, by_enumeration],
    NOISE: [noisy, by_where],
    TRAP: [trap, by_factor],
}


@pytest.mark.parametrize(("exercise", "answer"), [(name, answer) for name in RIGHT for answer in RIGHT[name]])
def test_right_answers_pass_and_the_verdict_repeats(exercise: str, answer: object) -> None:
    for seed in range(5):
        result = check(exercise, answer, seed=seed)
        assert result, result.message
    assert check(exercise, answer) == check(exercise, answer)
