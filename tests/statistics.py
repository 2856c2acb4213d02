"""Exact alarms for statistical tests, and the false-alarm rate of a run.

A statistical test compares what it saw with what must happen by chance. Each single comparison raises a false alarm
with a probability of at most 1e-11 (`RATE`). A test declares how many comparisons it makes at most,
`@pytest.mark.statistical(comparisons=K)`, and the fixture `alarm` holds it to that. The comparisons declared in one
run, all seeds included, may not exceed 100,000 (`BUDGET`), or the run does not start: by the union bound a whole run of
right code turns red by chance with a probability of at most 1e-6. This is the family-wise false-alarm rate. When the
budget is used up, lower `RATE`: the bounds stay exact and grow by a few per cent.

Both comparisons hold for any sample size, without a normal approximation: counts are held against the tails of the
binomial distribution, sums against Bernstein's inequality, which is the z-bound plus what it takes to make it strict.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from scipy.stats import binom  # type: ignore[import-untyped]

RATE = 1e-11
FAMILY_RATE = 1e-6
BUDGET = round(FAMILY_RATE / RATE)
DEFAULT_SEED = 20260901
OTHER_SEEDS_FROM = 1


def seeds(count: int) -> list[int]:
    """Return the seed of an ordinary run, or `count` others."""
    return [DEFAULT_SEED] if count == 1 else list(range(OTHER_SEEDS_FROM, OTHER_SEEDS_FROM + count))


def two_sided(count: Any, trials: int, probability: float) -> Any:
    """Return twice the smaller tail of Binomial(trials, probability) at `count`, a number or an array."""
    smaller = np.minimum(binom.cdf(count, trials, probability), binom.sf(count - 1, trials, probability))
    return np.minimum(1.0, 2.0 * smaller)


def bernstein(variance: float, bound: float, rate: float) -> float:
    """Return t with P(|S| >= t) <= rate for a sum S of independent terms of mean 0, each at most `bound` in size.

    P(|S| >= t) <= 2 exp(-t**2 / (2 (variance + bound t / 3))), with the variance of the whole sum.
    """
    log = math.log(2.0 / rate)
    linear = log * bound / 3.0
    return linear + math.sqrt(linear**2 + 2.0 * log * variance)


@dataclass
class Alarm:
    """Comparisons with chance, counted against what the test declared."""

    comparisons: int
    rate: float = RATE
    used: int = 0

    def _count(self) -> None:
        self.used += 1
        if self.used > self.comparisons:
            pytest.fail(f"the test declares {self.comparisons} comparisons and makes more; raise comparisons=")

    def binomial(self, count: int | np.integer, trials: int, probability: float, what: str) -> None:
        """Fail if `count` cannot come from Binomial(trials, probability)."""
        self._count()
        chance = float(two_sided(int(count), trials, probability))
        assert chance >= self.rate, (
            f"{what}: {count} of {trials}, expected about {trials * probability:.1f}; "
            f"chance {chance:.1e} is below {self.rate:.0e}"
        )

    def total(self, observed: float, expected: float, variance: float, bound: float, what: str) -> None:
        """Fail if `observed` cannot be a sum of independent terms with this mean and variance.

        `variance` is that of the whole sum; no term differs from its mean by more than `bound`.
        """
        self._count()
        limit = bernstein(variance, bound, self.rate) + 1e-9 * (abs(expected) + bound)
        assert abs(observed - expected) <= limit, (
            f"{what}: {observed:.6g}, expected {expected:.6g} within {limit:.3g} (chance below {self.rate:.0e})"
        )


def binomial_power(trials: int, supposed: float, true: float, rate: float = RATE) -> float:
    """Return the exact probability that `Alarm.binomial` fires for `supposed` when the probability is `true`."""
    counts = np.arange(trials + 1)
    return float(binom.pmf(counts, trials, true)[two_sided(counts, trials, supposed) < rate].sum())


def shown_power(trials: int, confidence: float = 0.99) -> float:
    """Return the power that `trials` catches without a miss prove at this confidence (Clopper-Pearson)."""
    return float((1.0 - confidence) ** (1.0 / trials))
