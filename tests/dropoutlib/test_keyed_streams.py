"""Keyed masks: no two alike, no sign of dependence, and any step without the steps before it.

Distinct: at p = .5 an element is kept where the highest bit of its lane is 0. Masks are compared whole; those whose
first 64 elements agree with nobody else's are different, the others are drawn again and compared in full. For masks
of fair bits the probability of a single equal pair among 4 * 10**6 of 256 elements is below 1e-64.

Independent: two independent masks agree on an element with probability q**2 + p**2. Pairs (step, step + lag), pairs of
layers and pairs of positions are taken disjoint, so the agreements are independent draws, and their number is binomial
exactly. All 318 comparisons of a test together have the false-alarm rate of one, that of tests/statistics.py: each has
its share of it.

Defective schemes, in `DEFECTS`, are held against the same comparisons and have to fail one of them.
"""

from __future__ import annotations

import hashlib
import os
import pickle
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import combinations, permutations
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dropoutlib.layers import KeyedDropout
from dropoutlib.masks import bernoulli_mask, keyed_mask
from tests.statistics import RATE, Alarm

ROOT = Path(__file__).resolve().parents[2]
LAYERS = range(4)
SIZE = 256
WORDS = SIZE // 4
PS = (0.5, 0.3, 0.8)
LAGS = (1, 2, 3, 16, 100, 1000)
Bools = np.ndarray[Any, np.dtype[np.bool_]]
Mask = Callable[[int, float, int, int, int], Bools]


# --- fast: the masks of many steps from one generator whose counter is set -----------------------------------------


def raw_words(seed: int, layer: int, steps: range) -> np.ndarray[Any, np.dtype[np.uint64]]:
    """Return the first words of each step, one row a step, as `keyed_mask` draws them."""
    counter = np.zeros(4, np.uint64)
    philox = np.random.Philox(key=np.array([seed, layer], np.uint64))
    state: Any = philox.state
    state["state"]["counter"] = counter
    words = np.empty((len(steps), WORDS), np.uint64)
    for row, step in enumerate(steps):
        counter[3] = step
        philox.state = state
        words[row] = philox.random_raw(WORDS)
    return words


def half_masks(seed: int, layer: int, steps: range) -> np.ndarray[Any, np.dtype[np.uint64]]:
    """Return the masks at p = .5, one row of four 64-bit words a step."""
    lanes = raw_words(seed, layer, steps).astype("<u8", copy=False).view("<u2")
    return np.packbits(lanes < 2**15, axis=1).view(np.uint64)


def chunks(steps: int, size: int = 100_000) -> Iterator[range]:
    for start in range(0, steps, size):
        yield range(start, min(start + size, steps))


def equal_masks(seed: int, steps: int, fast: Callable[..., Any] = half_masks, mask: Mask = keyed_mask) -> int:
    """Return how many masks of 4 layers and `steps` steps at p = .5 are equal to an earlier one."""
    first = np.concatenate([fast(seed, layer, part)[:, 0] for layer in LAYERS for part in chunks(steps)])
    values, counts = np.unique(first, return_counts=True)
    suspects = np.flatnonzero(np.isin(first, values[counts > 1]))
    whole = {mask(SIZE, 0.5, seed, int(k) // steps, int(k) % steps).tobytes() for k in suspects}
    return suspects.size - len(whole)


def check_the_short_cut(seed: int, steps: int) -> None:
    """Compare rows of `half_masks` with `keyed_mask`, the first and the last steps among them."""
    chosen = np.unique(np.r_[0, 1, 2, steps - 1, np.random.default_rng(0).integers(0, steps, 50)])
    for layer in LAYERS:
        for step in map(int, chosen):
            fast = half_masks(seed, layer, range(step, step + 1))[0]
            slow = np.packbits(keyed_mask(SIZE, 0.5, seed, layer, step)).view(np.uint64)
            np.testing.assert_array_equal(fast, slow, f"layer {layer}, step {step}")


@pytest.mark.claim("keyed-masks-distinct")
def test_no_two_of_400_000_masks_are_equal(seed: int) -> None:
    check_the_short_cut(seed, 10**5)
    assert equal_masks(seed, 10**5) == 0


@pytest.mark.long
def test_no_two_of_four_million_masks_are_equal(seed: int) -> None:
    check_the_short_cut(seed, 10**6)
    assert equal_masks(seed, 10**6) == 0


# --- independence ---------------------------------------------------------------------------------------------------


def table(mask: Mask, seed: int, p: float, steps: int) -> Bools:
    """Return masks of shape (layers, steps, elements)."""
    return np.array([[mask(SIZE, p, seed, layer, step) for step in range(steps)] for layer in LAYERS])


def disjoint_pairs(values: Bools, lag: int) -> tuple[Bools, Bools]:
    """Return the rows (t, t + lag) of axis 0, no row in two pairs."""
    blocks = len(values) // (2 * lag)
    cut = values[: 2 * lag * blocks].reshape(blocks, 2, lag, *values.shape[1:])
    return cut[:, 0], cut[:, 1]


def comparisons(masks: Bools, p: float) -> Iterator[tuple[Any, int, float, str]]:
    """Yield what to hold against chance: a count, of how many, its probability, and its name."""
    q, agree = 1 - p, (1 - p) ** 2 + p**2
    yield masks.sum(), masks.size, q, "kept"
    kept = masks.reshape(-1, SIZE).sum(axis=0)
    for position in range(SIZE):
        yield kept[position], masks[..., 0].size, q, f"kept at position {position}"
    pairs = {f"layers {i} and {k}": (masks[i], masks[k]) for i, k in combinations(LAYERS, 2)}
    for i, k in permutations(LAYERS, 2):
        pairs[f"layer {i} and layer {k} a step later"] = masks[i, :-1], masks[k, 1:]
    for layer in LAYERS:
        for lag in LAGS:
            pairs[f"layer {layer}, {lag} steps apart"] = disjoint_pairs(masks[layer], lag)
        for shift in (1, 4, 16, 64):
            pairs[f"layer {layer}, {shift} elements apart"] = disjoint_pairs(np.moveaxis(masks[layer], -1, 0), shift)
    # Streams that overlap: a step's mask is the one before it, moved on.
    for shift in (4, 16, 64):
        pairs[f"the next step, {shift} elements on"] = masks[:, :-1:2, shift:], masks[:, 1::2, :-shift]
    for what, (one, other) in pairs.items():
        yield (one == other).sum(), one.size, agree, what


def compare(masks: Bools, p: float, rate: float) -> None:
    """Fail if a count cannot be chance; all of them together raise a false alarm with probability `rate` at most."""
    rows = list(comparisons(masks, p))
    each = Alarm(len(rows), rate / len(rows))
    for row in rows:
        each.binomial(*row)
    assert each.used > 300


@pytest.mark.claim("keyed-masks-independent")
@pytest.mark.statistical(comparisons=1)
@pytest.mark.parametrize("p", PS)
def test_balance_lags_layers_and_positions(p: float, seed: int) -> None:
    compare(table(keyed_mask, seed, p, 4000), p, RATE)


@pytest.mark.long
@pytest.mark.statistical(comparisons=1)
def test_balance_lags_layers_and_positions_over_many_steps(seed: int) -> None:
    rows = [[half_masks(seed, layer, part) for part in chunks(10**5)] for layer in LAYERS]
    packed = np.array([np.concatenate(row) for row in rows])
    compare(np.unpackbits(packed.view(np.uint8), axis=-1).view(np.bool_), 0.5, RATE)


@pytest.mark.claim("keyed-masks-independent")
@pytest.mark.statistical(comparisons=1)
def test_the_same_key_at_another_seed_is_independent(seed: int, alarm: Alarm) -> None:
    one, other = table(keyed_mask, seed, 0.3, 1000), table(keyed_mask, seed + 1, 0.3, 1000)
    alarm.binomial((one == other).sum(), one.size, 0.7**2 + 0.3**2, "two neighbouring seeds")


# --- the same comparisons see what is wrong with other schemes -----------------------------------------------------


def from_seed(seed: int, size: int, p: float) -> Bools:
    return np.random.default_rng(seed).random(size) >= p


def md5_seed(text: str) -> int:
    return int(hashlib.md5(text.encode()).hexdigest()[:8], 16)


def philox(size: int, p: float, key: list[int], counter: list[int]) -> Bools:
    words = np.random.Philox(key=np.array(key, np.uint64), counter=np.array(counter, np.uint64))
    return bernoulli_mask(size, p, words)


DEFECTS: dict[str, Mask] = {
    "layers share": lambda n, p, seed, layer, step: from_seed(md5_seed(f"{seed}_{step}"), n, p),
    "steps repeat": lambda n, p, seed, layer, step: keyed_mask(n, p, seed, layer, step % 100),
    "sum of layer and step": lambda n, p, seed, layer, step: from_seed(layer + step, n, p),
    "low counter": lambda n, p, seed, layer, step: philox(n, p, [seed, layer], [step, 0, 0, 0]),
    "keep and drop exchanged": lambda n, p, seed, layer, step: ~keyed_mask(n, p, seed, layer, step),
    "one element stuck": lambda n, p, seed, layer, step: keyed_mask(n, p, seed, layer, step) | (np.arange(n) == 200),
    "fewer kept": lambda n, p, seed, layer, step: keyed_mask(n, p + 0.005, seed, layer, step),
}


@pytest.mark.parametrize("name", DEFECTS)
def test_a_defective_scheme_is_seen(name: str, seed: int) -> None:
    masks = table(DEFECTS[name], seed, 0.3, 2500)
    with pytest.raises(AssertionError, match="chance"):
        compare(masks, 0.3, RATE)


def test_equal_masks_are_counted() -> None:
    """A step that repeats another one is found in each layer; equal first elements alone are no equal mask."""

    def fast(seed: int, layer: int, steps: range) -> Any:
        rows = half_masks(seed, layer, steps)
        rows[17] = rows[5]
        return rows

    def replaying(size: int, p: float, seed: int, layer: int, step: int) -> Bools:
        return keyed_mask(size, p, seed, layer, 5 if step == 17 else step)

    assert equal_masks(3, 1000, fast, replaying) == len(LAYERS)
    assert equal_masks(3, 1000, fast, keyed_mask) == 0


# --- any step without the others -----------------------------------------------------------------------------------

CASES = [(p, dtype) for p in (0.0, 0.3, 0.5, 0.8, 1.0) for dtype in (np.float16, np.float32, np.float64)]
STEP = 37


def data(dtype: Any) -> tuple[Any, Any]:
    rng = np.random.default_rng(0)
    return rng.standard_normal((33, 17)).astype(dtype), rng.standard_normal((33, 17)).astype(dtype)


def step_of(layer: KeyedDropout, x: Any, dy: Any, step: int) -> tuple[bytes, bytes]:
    return layer.forward(x, step).tobytes(), layer.backward(dy, step).tobytes()


@pytest.mark.claim("keyed-step-alone")
@pytest.mark.parametrize(("p", "dtype"), CASES)
def test_a_step_needs_no_step_before_it(p: float, dtype: Any) -> None:
    x, dy = data(dtype)
    run = KeyedDropout(p, seed=5, layer=2)
    in_order = [step_of(run, x, dy, step) for step in range(STEP + 1)]
    assert step_of(KeyedDropout(p, seed=5, layer=2), x, dy, STEP) == in_order[STEP]
    # The backward pass alone, in a layer that never went forward.
    assert KeyedDropout(p, seed=5, layer=2).backward(dy, STEP).tobytes() == in_order[STEP][1]
    backwards = [step_of(run, x, dy, step) for step in reversed(range(STEP + 1))]
    assert backwards[::-1] == in_order
    assert len(set(in_order)) == (1 if p in (0.0, 1.0) else STEP + 1)


@pytest.mark.claim("keyed-step-alone")
@pytest.mark.parametrize(("p", "dtype"), CASES)
def test_after_a_pickle_round_trip(p: float, dtype: Any) -> None:
    x, dy = data(dtype)
    layer = KeyedDropout(p, seed=5, layer=2)
    expected = step_of(layer, x, dy, STEP)
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        assert step_of(pickle.loads(pickle.dumps(layer, protocol)), x, dy, STEP) == expected
    assert len(pickle.dumps(layer)) < 300, "nothing of the size of a mask is stored"


def test_training_and_evaluation_survive_the_round_trip() -> None:
    x, dy = data(np.float64)
    layer = pickle.loads(pickle.dumps(KeyedDropout(0.3, seed=5, layer=2).eval()))
    assert step_of(layer, x, dy, STEP) == (x.tobytes(), dy.tobytes())


PROGRAM = """
import hashlib, sys
import numpy as np
from dropoutlib import KeyedDropout
rng = np.random.default_rng(0)
x, dy = rng.standard_normal((33, 17)), rng.standard_normal((33, 17))
for p in (0.3, 0.5, 0.8):
    layer = KeyedDropout(p, seed=5, layer=2)
    print(hashlib.sha256(layer.forward(x, 37).tobytes() + layer.backward(dy, 37).tobytes()).hexdigest())
"""


@pytest.mark.claim("keyed-step-alone")
@pytest.mark.parametrize("hash_seed", ["0", "12345"])
def test_in_another_process(hash_seed: str) -> None:
    x, dy = data(np.float64)
    here = [hashlib.sha256(b"".join(step_of(KeyedDropout(p, 5, 2), x, dy, STEP))).hexdigest() for p in (0.3, 0.5, 0.8)]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "PYTHONHASHSEED": hash_seed}
    there = subprocess.run(
        [sys.executable, "-c", PROGRAM], env=environment, capture_output=True, text=True, check=True, timeout=120
    ).stdout.split()
    assert there == here


@pytest.mark.claim("keyed-step-alone")
def test_in_many_threads_at_once() -> None:
    x, dy = data(np.float64)
    layer = KeyedDropout(0.3, seed=5, layer=2)
    expected = [step_of(layer, x, dy, step) for step in range(200)]
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(lambda step: step_of(layer, x, dy, step), range(200))) == expected
