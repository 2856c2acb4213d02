"""Interleaved timing: all cases take turns, so that what disturbs one round disturbs every case of it."""

from __future__ import annotations

import gc
import math
import statistics
import time
import tracemalloc
from collections.abc import Callable, Mapping, Sequence

Step = Callable[[], object]

# A sample lasts this long at least, so that short calls are timed in their own warm caches.
SAMPLE_SECONDS = 5e-3
LOW, HIGH = 0.1, 0.9


def interleave(steps: Mapping[str, Step], seconds: float, least: int = 7, most: int = 200) -> dict[str, list[float]]:
    """Return the seconds a call takes, one figure a round and case.

    Every round times each step once, the order turning by one from round to round; rounds go on for about `seconds`.
    """
    calls = {name: _calls(step) for name, step in steps.items()}
    names, samples = list(steps), {name: [] for name in steps}  # type: dict[str, list[float]]
    gc.collect()
    gc.disable()
    try:
        start = time.perf_counter()
        for turn in range(most):
            for name in names[turn % len(names) :] + names[: turn % len(names)]:
                samples[name].append(_time(steps[name], calls[name]))
            if turn + 1 >= least and time.perf_counter() - start > seconds:
                break
    finally:
        gc.enable()
    return samples


def spread(values: Sequence[float], digits: int = 4) -> dict[str, float]:
    """Return the median and the 10 % and 90 % quantiles, to some significant digits."""
    ordered = sorted(values)
    quantile = {q: ordered[round(q * (len(ordered) - 1))] for q in (LOW, HIGH)}
    found = {"low": quantile[LOW], "median": statistics.median(ordered), "high": quantile[HIGH]}
    return {name: float(f"{value:.{digits}g}") for name, value in found.items()}


def ratios(samples: Mapping[str, Sequence[float]], to: str) -> dict[str, dict[str, float]]:
    """Return how many times longer `to` takes than each case, round by round."""
    return {
        name: spread([other / own for other, own in zip(samples[to], values, strict=True)], digits=3)
        for name, values in samples.items()
    }


def peak_bytes(step: Step) -> int:
    """Return the peak of memory that NumPy and Python ask for while the step runs, beyond what was there before."""
    step()
    tracemalloc.start()
    try:
        step()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def _calls(step: Step) -> int:
    """Return how many calls make a sample, after a warm-up."""
    step()
    taken = min(_time(step, 1) for _ in range(3))
    return max(1, math.ceil(SAMPLE_SECONDS / taken))


def _time(step: Step, calls: int) -> float:
    start = time.perf_counter()
    for _ in range(calls):
        step()
    return (time.perf_counter() - start) / calls
