"""The exercises of the chapter "deployment": right answers pass, wrong ones get the hint that is meant for them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from dropoutlib.checks import check
from tests.dropoutlib.checking import passed, rejected

FOLD, ALIVE, DIAGNOSE = (f"deployment.{i}" for i in (1, 2, 3))
Arrays = dict[str, np.ndarray]
Layers = list[tuple[str, Any]]
Program = list[tuple[str, dict[str, Any]]]
Function = Callable[[np.ndarray], np.ndarray]


# 1


def folding(
    weight: Callable[[float], float] = lambda q: q,
    bias: Callable[[float], float] = lambda q: 1.0,
    keep: Callable[[float], float] = lambda p: 1 - p,
    several: Callable[[float, float], float] = lambda old, new: old * new,
    spent: bool = True,
) -> Callable[[Layers, Arrays], Arrays]:
    """Return a fold with its parts to be spoiled."""

    def fold(layers: Layers, checkpoint: Arrays) -> Arrays:
        result, factor = dict(checkpoint), 1.0
        for kind, value in layers:
            if kind == "dropout":
                factor = several(factor, keep(value))
            elif kind == "dense":
                result[f"{value}.weight"] = weight(factor) * checkpoint[f"{value}.weight"]
                result[f"{value}.bias"] = bias(factor) * checkpoint[f"{value}.bias"]
                factor = 1.0 if spent else factor
        return result

    return fold


def from_the_back(layers: Layers, checkpoint: Arrays) -> Arrays:
    """Walk the other way and look ahead, in double precision."""
    result = {name: array.astype(np.float64) for name, array in checkpoint.items()}
    follower = None
    for kind, value in reversed(layers):
        if kind == "dense":
            follower = f"{value}.weight"
        elif kind == "dropout" and follower:
            result[follower] *= 1 - value
    return result


def into_the_layer_before(biases: bool) -> Callable[[Layers, Arrays], Arrays]:
    def fold(layers: Layers, checkpoint: Arrays) -> Arrays:
        result, last = dict(checkpoint), None
        for kind, value in layers:
            if kind == "dense":
                last = value
            elif kind == "dropout" and last:
                for part in ("weight", "bias")[: 1 + biases]:
                    result[f"{last}.{part}"] = (1 - value) * result[f"{last}.{part}"]
        return result

    return fold


def in_place(layers: Layers, checkpoint: Arrays) -> Arrays:
    for name, array in folding()(layers, checkpoint).items():
        checkpoint[name][...] = array
    return checkpoint


def everywhere(layers: Layers, checkpoint: Arrays) -> Arrays:
    q = np.prod([1 - value for kind, value in layers if kind == "dropout"])
    return {name: array * (q if name.endswith("weight") else 1) for name, array in checkpoint.items()}


@pytest.mark.parametrize(
    ("answer", "part"),
    [
        (lambda layers, checkpoint: checkpoint, "Nothing was folded"),
        (folding(bias=lambda q: q), "scaled biases too"),
        (folding(weight=lambda q: q * q), "in it twice"),
        (folding(weight=lambda q: 1 / q), "divided by q"),
        (folding(keep=lambda p: p), "multiplied by p"),
        (into_the_layer_before(biases=False), "Forward means the layer behind it"),
        (into_the_layer_before(biases=True), "not by folding forward"),
        (folding(several=lambda old, new: new), "q1 times q2"),
        (everywhere, "Every matrix got all factors"),
        (folding(weight=lambda q: q**3), "Walk through the layers"),
        (in_place, "changed the checkpoint"),
        (lambda layers, checkpoint: {"one.weight": checkpoint["one.weight"]}, "returned no 'one.bias'"),
        (lambda layers, checkpoint: {name: array.T for name, array in checkpoint.items()}, "of shape"),
        (lambda layers, checkpoint: {name: array.astype(int) for name, array in checkpoint.items()}, "of shape"),
    ],
)
def test_fold_hints(answer: object, part: str) -> None:
    rejected(FOLD, answer, part)


# 2


def reading(
    drop: Callable[[dict[str, Any]], bool] = lambda s: bool(
        s.get("train", s.get("training_mode", False)) and s.get("p", s.get("ratio")) > 0
    ),
    draws: tuple[str, ...] = ("random", "bernoulli", "threefry", "rng"),
) -> Callable[[Program], bool]:
    """Return a reader of graphs with its parts to be spoiled."""

    def alive(program: Program) -> bool:
        return any(
            drop(settings) if "dropout" in name.lower() else any(word in name.lower() for word in draws)
            for name, settings in program
        )

    return alive


def by_list(program: Program) -> np.bool_:
    on = [s.get("train") or s.get("training_mode") for name, s in program if s.get("p", s.get("ratio", 0))]
    drawn = [name in ("StatelessRandomUniformV2", "call @_bernoulli") for name, _ in program]
    return np.bool_(any(on) or any(drawn))


def first_only(program: Program) -> bool:
    for name, settings in program:
        if "dropout" in name.lower():
            return reading()([(name, settings)])
    return reading()(program)


@pytest.mark.parametrize(
    ("answer", "parts"),
    [
        (reading(drop=lambda s: True), ["evaluation mode", "The name alone says nothing"]),
        (reading(drop=lambda s: False), ["training mode", "Its flag is on"]),
        (reading(drop=lambda s: bool(s.get("train", False))), ["ONNX file that was exported for training"]),
        (reading(drop=lambda s: bool(s.get("train", s.get("training_mode", True)))), ["where it is not given"]),
        (reading(drop=lambda s: bool(s.get("train")) or "training_mode" in s), ["may still be False"]),
        (reading(drop=lambda s: bool(s.get("train", s.get("training_mode")))), ["at rate 0"]),
        (reading(draws=("bernoulli",)), ["SavedModel in training mode", "What draws the random numbers"]),
        (reading(draws=("random", "bernoulli", "select")), ["comparing and selecting", "it draws nothing"]),
        (reading(draws=("random",)), ["JAX program in training mode"]),
        (reading(draws=("random", "bernoulli", "maximum")), ["JAX program in evaluation mode"]),
        (first_only, ["not at the first one"]),
        (lambda program: 1, ["returned 1, expected True or False"]),
    ],
)
def test_graph_hints(answer: object, parts: list[str]) -> None:
    rejected(ALIVE, answer, *parts)


# 3


def diagnosing(**changed: Callable[[str], str]) -> Callable[[Function, Function, np.ndarray], str]:
    """Return a diagnosis whose verdicts go through `changed`."""

    def diagnose(served: Function, trained: Function, x: np.ndarray) -> str:
        verdict = by_calls(served, trained, x)
        return changed["verdict"](verdict) if changed else verdict

    return diagnose


def by_calls(served: Function, trained: Function, x: np.ndarray) -> str:
    once = served(x)
    if not np.array_equal(once, served(x)):
        return "random masks"
    equal = served(np.repeat(x[:1], len(x), axis=0))
    if np.abs(equal - equal[0]).max() > 1e-4:
        return "frozen mask"
    if np.abs(served(x[:2]) - once[:2]).max() > 1e-4:
        return "batch statistics"
    return "nothing" if np.abs(once - trained(x)).max() < 1e-4 else "other weights"


def by_reference(served: Function, trained: Function, x: np.ndarray) -> str:
    """Ask the trained model first, and one row at a time."""
    alone = np.concatenate([served(row[None]) for row in x])
    if np.allclose(served(x), trained(x), atol=1e-4):
        return "nothing"
    if not np.allclose(served(x), served(x), atol=1e-4):
        return "random masks"
    if np.allclose(alone, served(x), atol=1e-4):
        return "other weights"
    twice = served(np.concatenate([x, x]))
    return "batch statistics" if np.allclose(twice[: len(x)], twice[len(x) :], atol=1e-9) else "frozen mask"


def exact(served: Function, trained: Function, x: np.ndarray) -> str:
    verdict = by_calls(served, trained, x)
    return verdict if np.array_equal(served(x), trained(x)) or verdict != "nothing" else "other weights"


def renaming(old: str, new: str) -> Callable[[Function, Function, np.ndarray], str]:
    return diagnosing(verdict=lambda found: new if found == old else found)


@pytest.mark.parametrize(
    ("answer", "part"),
    [
        (exact, "Allow for that"),
        (renaming("nothing", "batch statistics"), "last bits may depend on its batch"),
        (renaming("nothing", "frozen mask"), "Equal rows may differ in their last bits"),
        (renaming("nothing", "random masks"), "Two calls agree"),
        (renaming("random masks", "nothing"), "Call it twice"),
        (renaming("random masks", "frozen mask"), "a frozen mask repeats itself"),
        (renaming("random masks", "batch statistics"), "batch statistics repeat themselves"),
        (renaming("random masks", "other weights"), "weights do not change"),
        (renaming("frozen mask", "batch statistics"), "Send a batch of equal rows"),
        (renaming("frozen mask", "other weights"), "Weights treat them alike"),
        (renaming("frozen mask", "random masks"), "repeats itself exactly"),
        (renaming("frozen mask", "nothing"), "Compare with trained(x)"),
        (renaming("batch statistics", "frozen mask"), "It depends on the company"),
        (renaming("batch statistics", "other weights"), "Send a row alone"),
        (renaming("other weights", "batch statistics"), "in any company"),
        (renaming("other weights", "frozen mask"), "gives equal rows equal outputs"),
        (lambda served, trained, x: "dropout", "expected one of 'nothing'"),
    ],
)
def test_diagnosis_hints(answer: object, part: str) -> None:
    rejected(DIAGNOSE, answer, part)


# Right answers.

RIGHT: dict[str, list[Any]] = {
    FOLD: [folding(), from_the_back],
    ALIVE: [reading(), by_list],
    DIAGNOSE: [by_calls, by_reference],
}


@pytest.mark.parametrize(("exercise", "answer"), [(name, answer) for name in RIGHT for answer in RIGHT[name]])
def test_right_answers_pass_and_the_verdict_repeats(exercise: str, answer: object) -> None:
    for seed in range(50):
        passed(exercise, answer, seed)
    assert check(exercise, answer) == check(exercise, answer)
