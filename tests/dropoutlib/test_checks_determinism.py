"""The exercises of "determinism": wrong answers with the hint that is meant for them, and right ones."""

from __future__ import annotations

import copy
import hashlib
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from dropoutlib import keyed_mask
from dropoutlib.checks import check
from dropoutlib.checks.determinism import Run
from tests.dropoutlib.checking import hinted, passed

MASK, AUDIT, CHECKPOINT = (f"determinism.{i}" for i in (1, 2, 3))
ALL = [MASK, AUDIT, CHECKPOINT]
Shape = tuple[int, ...]
Mask = np.ndarray[Any, np.dtype[np.bool_]]
Rng = np.random.Generator


# 1


def seeded(entropy: Callable[[int, int, int], Any]) -> Callable[[Shape, float, int, int, int], Mask]:
    """Return masks of a generator seeded by a function of the key."""

    def mask(shape: Shape, p: float, seed: int, layer: int, step: int) -> Mask:
        result: Mask = np.random.default_rng(entropy(seed, layer, step)).random(shape) >= p
        return result

    return mask


def md5(text: str) -> int:
    return int(hashlib.md5(text.encode()).hexdigest(), 16)


def with_philox(shape: Shape, p: float, seed: int, layer: int, step: int) -> Mask:
    bits = np.random.Philox(key=np.array([seed, layer], np.uint64), counter=np.array([0, 0, 0, step], np.uint64))
    result: Mask = np.random.Generator(bits).random(shape) >= p
    return result


STREAM = np.random.default_rng(0)


def with_a_stream(shape: Shape, p: float, seed: int, layer: int, step: int) -> Mask:
    result: Mask = STREAM.random(shape) >= p
    return result


def with_the_global_stream(shape: Shape, p: float, seed: int, layer: int, step: int) -> Mask:
    np.random.seed([seed, layer, step])
    result: Mask = np.random.random(shape) >= p
    return result


def advanced(shape: Shape, p: float, seed: int, layer: int, step: int) -> Mask:
    bits = np.random.Philox(key=np.array([seed, layer], np.uint64)).advance(step)
    result: Mask = np.random.Generator(bits).random(shape) >= p
    return result


def derived(shape: Shape, p: float, seed: int, layer: int, step: int) -> Mask:
    """Masks of later steps share three quarters of their numbers with the first one."""
    u = np.random.default_rng([9, seed, layer]).random(shape)
    own = np.random.default_rng([seed, layer, step])
    result: Mask = np.where(own.random(shape) < 0.25, own.random(shape), u) >= p
    return result


@pytest.mark.parametrize(
    ("answer", "parts"),
    [
        (seeded(lambda s, layer, t: [s, t]), ["The layer is not part of your key"]),
        (seeded(lambda s, layer, t: [s, layer]), ["The step is not part of your key"]),
        (seeded(lambda s, layer, t: [layer, t]), ["The seed is not part of your key"]),
        (seeded(lambda s, layer, t: s + layer + t), ["(7, 1, 5) and (7, 2, 4)", "A sum does not tell its terms apart"]),
        (seeded(lambda s, layer, t: [s, layer + t]), ["A sum does not tell its terms apart"]),
        (seeded(lambda s, layer, t: [s + t, layer]), ["Exchanging two of the numbers"]),
        (seeded(lambda s, layer, t: md5(f"{s}{layer}{t}")), ["Written side by side"]),
        (seeded(lambda s, layer, t: [s, layer, t % 1000]), ["Large step numbers fold"]),
        (seeded(lambda s, layer, t: [s, layer % 2**16, t]), ["Large layer numbers fold"]),
        (with_a_stream, ["gave two masks", "Make a new generator inside"]),
        (with_the_global_stream, ["changes NumPy's global random state"]),
        (advanced, ["4 elements apart", "parts of one stream"]),
        (derived, ["independent masks agree on 58 %"]),
        (lambda shape, p, s, layer, t: ~keyed_mask(shape, p, s, layer, t), ["expected about 70 %", "True means kept"]),
        (lambda shape, p, s, layer, t: keyed_mask(shape, p, s, layer, t) * 1.0, ["float64", "Compare, for example"]),
    ],
)
def test_mask_hints(answer: object, parts: list[str]) -> None:
    state = np.random.get_state()
    try:
        hinted(MASK, answer, *parts)
    finally:
        np.random.set_state(state)


def test_a_mask_of_another_shape_is_reported() -> None:
    result = check(MASK, lambda shape, p, s, layer, t: keyed_mask(7, p, s, layer, t))
    assert "returned an array of shape (7,), expected (20000,)" in result.message


def test_a_constant_mask_is_out_of_balance_or_repeats() -> None:
    assert not check(MASK, lambda shape, *rest: np.ones(shape, bool))


# 2

Draw = Callable[[int, int], Mask]


def honest(draw: Draw) -> str:
    if not np.array_equal(draw(0, 0), draw(0, 0)):
        return "not reproducible"
    if np.array_equal(draw(0, 0), draw(1, 0)):
        return "layers share masks"
    if np.array_equal(draw(0, 0), draw(0, 1)):
        return "steps repeat"
    if np.array_equal(draw(0, 1), draw(1, 0)):
        return "keys collide"
    return "right"


def by_table(draw: Draw) -> str:
    """Look at all pairs of a table of masks, drawn twice."""
    first, again = ({(i, j): draw(i, j).tobytes() for i in range(3) for j in range(3)} for _ in range(2))
    if first != again:
        return "not reproducible"
    equal = {(a[0] == b[0], a[1] == b[1]) for a in first for b in first if a < b and first[a] == first[b]}
    if (False, True) in equal:
        return "layers share masks"
    if (True, False) in equal:
        return "steps repeat"
    return "keys collide" if equal else "right"


def blind_to(verdict: str) -> Callable[[Draw], str]:
    return lambda draw: "right" if honest(draw) == verdict else honest(draw)


def by_mean(draw: Draw) -> str:
    return "keys collide" if honest(draw) == "right" else honest(draw)


def by_two_calls_of_a_pair(draw: Draw) -> str:
    return "not reproducible" if not np.array_equal(draw(0, 0), draw(0, 1)) else honest(draw)


@pytest.mark.parametrize(
    ("answer", "parts"),
    [
        (blind_to("layers share masks"), ["for base and step only", "Compare two layers at one step"]),
        (blind_to("steps repeat"), ["for base and layer only", "Compare two steps of one layer"]),
        (blind_to("not reproducible"), ["for one stream for all", "the same layer and step twice"]),
        (blind_to("keys collide"), ["the seed base + layer + step", "Layer 1 at step 0"]),
        (by_mean, ["'keys collide' for keyed masks", "not their means"]),
        (by_two_calls_of_a_pair, ["'not reproducible' for keyed masks", "whenever it is asked"]),
        (lambda draw: "layers share masks", ["Two layers at the same step differ"]),
        (lambda draw: "steps repeat", ["Two steps of the same layer differ"]),
    ],
)
def test_audit_hints(answer: object, parts: list[str]) -> None:
    hinted(AUDIT, answer, *parts)


# 3

NAMES = ("weights", "velocity", "rng", "step")


def saving(*names: str) -> Callable[[Run], dict[str, Any]]:
    return lambda run: copy.deepcopy({name: getattr(run, name) for name in names})


def shallow(run: Run) -> dict[str, Any]:
    return {name: getattr(run, name) for name in NAMES}


def by_hand(run: Run) -> dict[str, Any]:
    rng = np.random.Generator(np.random.SFC64(0))
    rng.bit_generator.state = run.rng.bit_generator.state
    return {"weights": run.weights.copy(), "velocity": run.velocity.copy(), "rng": rng, "step": run.step}


def by_pickle(run: Run) -> dict[str, Any]:
    result: dict[str, Any] = pickle.loads(pickle.dumps(vars(run)))
    return result


def reseeded(run: Run) -> dict[str, Any]:
    return by_hand(run) | {"rng": np.random.Generator(np.random.SFC64(0))}


def drawing(run: Run) -> dict[str, Any]:
    run.rng.random()
    return by_hand(run)


@pytest.mark.parametrize(
    ("answer", "parts"),
    [
        (saving("velocity", "rng", "step"), ["does not hold 'weights'", "starts over"]),
        (saving("weights", "rng", "step"), ["does not hold 'velocity'", "The optimiser has a state"]),
        (saving("weights", "velocity", "step"), ["does not hold 'rng'", "its first ones again"]),
        (saving("weights", "velocity", "rng"), ["does not hold 'step'", "number of steps done"]),
        (shallow, ["['weights'] went on changing", "not a copy"]),
        (lambda run: by_hand(run) | {"rng": run.rng}, ["['rng'] went on changing"]),
        (reseeded, ["['rng'] is not run.rng", "its first ones again"]),
        (drawing, ["changed run.rng", "must not disturb"]),
        (lambda run: by_hand(run) | {"step": 0}, ["['step'] is not run.step"]),
        (lambda run: by_hand(run) | {"rng": run.rng.bit_generator.state}, ["['rng'] is not run.rng"]),
        (lambda run: by_hand(run) | {"x": run.x + 1}, ["ends elsewhere", "no others"]),
        (lambda run: list(by_hand(run)), ["returned list, expected a dict"]),
    ],
)
def test_checkpoint_hints(answer: object, parts: list[str]) -> None:
    hinted(CHECKPOINT, answer, *parts)


def test_the_run_learns() -> None:
    run = Run(0)
    run.advance(300)
    assert np.abs(run.weights - np.arange(8.0)).max() < 2.5


# Right answers.

RIGHT: dict[str, list[Any]] = {
    MASK: [
        keyed_mask,
        seeded(lambda s, layer, t: [s, layer, t]),
        seeded(lambda s, layer, t: np.random.SeedSequence(s, spawn_key=(layer, t))),
        seeded(lambda s, layer, t: md5(f"{s}_{layer}_{t}")),
        with_philox,
    ],
    AUDIT: [honest, by_table],
    CHECKPOINT: [saving(*NAMES), by_hand, by_pickle],
}


@pytest.mark.parametrize(("exercise", "answer"), [(name, answer) for name in RIGHT for answer in RIGHT[name]])
def test_right_answers_pass_and_the_verdict_repeats(exercise: str, answer: object) -> None:
    for seed in range(5):
        passed(exercise, answer, seed)
    assert check(exercise, answer) == check(exercise, answer)


@pytest.mark.long
@pytest.mark.parametrize(("exercise", "answer"), [(name, answer) for name in RIGHT for answer in RIGHT[name]])
def test_right_answers_pass_under_many_seeds(exercise: str, answer: object) -> None:
    for seed in range(5, 100):
        passed(exercise, answer, seed)
