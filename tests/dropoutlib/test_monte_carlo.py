"""Moments of x @ W behind dropout: the closed form against enumeration, the samples against the closed form."""

from __future__ import annotations

import itertools
import tracemalloc
from typing import Any

import numpy as np
import pytest

from dropoutlib import monte_carlo
from dropoutlib.masks import bernoulli_mask
from dropoutlib.monte_carlo import exact_moments, sampled_mean, sampled_moments
from tests.dropoutlib.contract import refused
from tests.statistics import Alarm

RATES = (0.0, 0.1, 0.3, 0.8)


def example(rows: int = 2, inputs: int = 4, outputs: int = 3, seed: int = 11) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.uniform(-1, 1, (rows, inputs)), rng.uniform(-1, 1, (inputs, outputs))


@pytest.mark.parametrize("p", RATES)
def test_the_closed_form_is_the_sum_over_all_masks(p: float) -> None:
    x, weight = example(1)
    mean, square = np.zeros((1, 3)), np.zeros((1, 3))
    for mask in itertools.product((0, 1), repeat=4):
        chance = np.prod([1 - p if kept else p for kept in mask])
        y = (x * mask / (1 - p)) @ weight
        mean, square = mean + chance * y, square + chance * y**2
    found = exact_moments(x, weight, p)
    np.testing.assert_allclose(found.mean, mean, atol=1e-12)
    np.testing.assert_allclose(found.variance, square - mean**2, atol=1e-12)


@pytest.mark.parametrize("trials", [1, 254, 255, 256, 600])
@pytest.mark.parametrize("p", [0.3, 0.8])
def test_samples_are_the_moments_of_the_masks_that_were_drawn(p: float, trials: int) -> None:
    x, weight = example()
    words = np.random.SFC64(3)
    masks = [bernoulli_mask((min(255, trials - start), *x.shape), p, words) for start in range(0, trials, 255)]
    y = (x * np.concatenate(masks) / (1 - p)) @ weight
    np.testing.assert_allclose(sampled_mean(x, weight, p, trials, np.random.SFC64(3)), y.mean(axis=0), rtol=1e-12)
    found = sampled_moments(x, weight, p, trials, np.random.SFC64(3))
    # Outputs are formed in float32: four products and sums, each off by at most 2**-24 of its size.
    np.testing.assert_allclose(found.mean, y.mean(axis=0), rtol=4e-6, atol=1e-6)
    np.testing.assert_allclose(found.variance, y.var(axis=0), rtol=4e-6, atol=1e-6)


@pytest.mark.statistical(comparisons=6 * 3)
def test_sampled_means_are_around_the_closed_form(seed: int, alarm: Alarm) -> None:
    x, weight = example()
    trials = 20_000
    for p in RATES[1:]:
        exact = exact_moments(x, weight, p)
        mean = sampled_mean(x, weight, p, trials, np.random.SFC64(seed))
        # No output is further from its mean than the sum of what its terms may be.
        furthest = np.abs(x) @ np.abs(weight) * max(1.0, p / (1 - p))
        for at in np.ndindex(mean.shape):
            alarm.total(
                mean[at] * trials, exact.mean[at] * trials, exact.variance[at] * trials, furthest[at], f"p={p}, {at}"
            )


@pytest.mark.parametrize("sample", [sampled_mean, sampled_moments])
def test_memory_does_not_grow_with_the_trials(sample: Any) -> None:
    x, weight = example(32, 100, 64)

    def peak(trials: int) -> int:
        tracemalloc.start()
        sample(x, weight, 0.3, trials, np.random.SFC64(1))
        try:
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    assert peak(6000) < 1.05 * peak(1000) < 20e6


def test_no_dropout_has_no_variance() -> None:
    x, weight = example()
    assert not exact_moments(x, weight, 0).variance.any()
    np.testing.assert_allclose(sampled_mean(x, weight, 0, 5, np.random.SFC64(0)), x @ weight)


@pytest.mark.parametrize("p", [1, 1.0])
def test_nothing_kept_has_no_scale(p: float) -> None:
    for call in (exact_moments, lambda *a: sampled_mean(*a, 3, np.random.SFC64(0))):
        with refused(ValueError, "p must be below 1", "1.0"):
            call(*example(), p)


@pytest.mark.parametrize(("x", "weight"), [((3,), (3, 2)), ((2, 3), (3,)), ((2, 3), (2, 3)), ((2, 0), (3, 2))])
def test_shapes_that_do_not_fit(x: tuple[int, ...], weight: tuple[int, ...]) -> None:
    with refused(ValueError, str(x), str(weight)):
        exact_moments(np.ones(x), np.ones(weight), 0.3)


@pytest.mark.parametrize("sample", [sampled_mean, sampled_moments])
def test_trials_and_generator_are_checked(sample: Any) -> None:
    x, weight = example()
    with refused(ValueError, "trials", "0"):
        sample(x, weight, 0.3, 0, np.random.SFC64(0))
    with refused(TypeError, "trials", "2.5"):
        sample(x, weight, 0.3, 2.5, np.random.SFC64(0))
    with refused(TypeError, "BitGenerator"):
        sample(x, weight, 0.3, 5, np.random.default_rng(0))


def test_chunks_fit_into_a_byte() -> None:
    assert monte_carlo.TRIALS_AT_ONCE < 2**8
