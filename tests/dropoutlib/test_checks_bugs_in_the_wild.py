"""The exercises of the chapter "bugs-in-the-wild": right answers pass, wrong ones get the hint meant for them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from dropoutlib.checks import bugs_in_the_wild, check, wild
from tests.dropoutlib.checking import passed, rejected

EDGES, VALIDATE, TEST = (f"bugs-in-the-wild.{i}" for i in (1, 2, 3))
Dropout = Callable[[np.ndarray, float, np.random.Generator, bool], np.ndarray]
Rng = np.random.Generator


# 1


def inverted(x: np.ndarray, p: float, rng: Rng, training: bool) -> np.ndarray:
    if not training:
        return x
    if p == 1:
        return np.zeros_like(x)
    return np.asarray(x * (rng.random(x.shape) >= p) / x.dtype.type(1 - p))


def standard(x: np.ndarray, p: float, rng: Rng, training: bool) -> np.ndarray:
    return np.asarray(x * (rng.random(x.shape) >= p) if training else x * x.dtype.type(1 - p))


def by_where(x: np.ndarray, p: float, rng: Rng, training: bool) -> np.ndarray:
    rate = p if training else 0.0
    scale = 1 / (1 - rate) if rate < 1 else 0.0
    return np.asarray(np.where(rng.random(x.shape) < rate, 0, x * np.float32(scale)), x.dtype)


def page(x: np.ndarray, p: float, rng: Rng, training: bool) -> np.ndarray:
    if p == 1:
        return np.zeros_like(x)
    return np.asarray(x * (rng.integers(256, size=x.shape) / 256 > p * training) / (1 - p * training))


def wrong(
    uniform: Callable[[Rng, Any], Any] = lambda rng, shape: rng.random(shape),
    keeps: Callable[[Any, float], Any] = lambda u, p: u >= p,
    factor: Callable[[float], float] = lambda p: 1 / (1 - p) if p < 1 else 0.0,
    evaluation: Callable[[np.ndarray, float], Any] = lambda x, p: x,
) -> Dropout:
    """Return inverted dropout with one part spoiled."""

    def dropout(x: np.ndarray, p: float, rng: Rng, training: bool) -> np.ndarray:
        if not training:
            return np.asarray(evaluation(x, p))
        return np.asarray(x * keeps(uniform(rng, x.shape), p) * np.float64(factor(p)), x.dtype)

    return dropout


def eight_bits(rng: Rng, shape: Any) -> Any:
    return rng.integers(256, size=shape) / 256


@pytest.mark.parametrize(
    ("answer", "parts"),
    [
        (page, ["How many different numbers"]),
        (wrong(factor=lambda p: 1 / p if p else 1.0), ["by 4, expected 1.333", "What makes up for it"]),
        (wrong(factor=lambda p: p), ["by 0.25, expected 1.333"]),
        (wrong(uniform=eight_bits), ["expected 0.2%", "How many different numbers"]),
        (wrong(keeps=lambda u, p: u < p), ["dropped 75", "expected 25.0%"]),
        (wrong(keeps=lambda u, p: u >= max(p, 1e-3)), ["training=True) is not x", "not even rarely"]),
        (wrong(factor=lambda p: np.float64(1) / (1 - p)), ["returned nan, expected zeros", "1/0"]),
        (wrong(keeps=lambda u, p: (u >= p) | (p == 1), factor=lambda p: 1 / (1 - p) if p < 1 else 1.0),
         ["returned numbers other than 0, expected zeros"]),
        (wrong(factor=lambda p: 1 / (1 - float(p))), ["raised ZeroDivisionError", "1/0"]),
        (wrong(evaluation=lambda x, p: np.zeros_like(x) if p == 1 else x), ["100.00% zeros", "Ask for the mode first"]),
        (wrong(evaluation=lambda x, p: x * (1 - p / 2)), ["other values, expected x"]),
        (wrong(evaluation=lambda x, p: x.astype(float)), ["returned float64, expected float32", "wider dtype"]),
        (lambda x, p, rng, training: standard(x, p, rng, training) if p < 1 or training else x, ["expected 0 x"]),
        (lambda x, p, rng, training: list(x), ["returned list, expected an array"]),
        (lambda x, p, rng, training: x[:3], ["of shape (3,)"]),
    ],
)  # fmt: skip
def test_edges_hints(answer: object, parts: list[str]) -> None:
    rejected(EDGES, answer, *parts)


# 2


def by_try(network: Any, x: np.ndarray) -> np.ndarray:
    modes = [layer.training for layer in network.layers]
    network.eval()
    try:
        return np.asarray(network.forward(x))
    finally:
        for layer, training in zip(network.layers, modes, strict=True):
            layer.training = training


def by_calls(network: Any, x: np.ndarray) -> np.ndarray:
    were_on = [layer for layer in network.layers if layer.training]
    try:
        network.eval()
        return np.asarray(network.forward(x))
    finally:
        for layer in were_on:
            layer.train()


def and_train(network: Any, x: np.ndarray) -> np.ndarray:
    y = wild.validated(network, x)
    network.train()
    return y


def without_finally(network: Any, x: np.ndarray) -> np.ndarray:
    modes = [layer.training for layer in network.layers]
    y = wild.validated(network, x)
    for layer, training in zip(network.layers, modes, strict=True):
        layer.training = training
    return y


def of_the_first(network: Any, x: np.ndarray) -> np.ndarray:
    first = network.layers[0].training
    y = wild.validated(network, x)
    network.train() if first else network.eval()
    return y


def reversed_modes(network: Any, x: np.ndarray) -> np.ndarray:
    modes = [layer.training for layer in network.layers]
    y = wild.validated(network, x)
    for layer, training in zip(network.layers, modes[::-1], strict=True):
        layer.training = training
    return y


def swallows(network: Any, x: np.ndarray) -> np.ndarray:
    try:
        return by_try(network, x)
    except MemoryError:
        return x


@pytest.mark.parametrize(
    ("answer", "parts"),
    [
        (wild.validated, ["in training mode left the layers in evaluation and evaluation", "Who switches dropout on"]),
        (and_train, ["in evaluation mode left the layers in training and training", "Remember the mode of each"]),
        (of_the_first, ["with its second layer frozen", "switches all layers on"]),
        (reversed_modes, ["left the layers in evaluation and training", "before you change it"]),
        (without_finally, ["when forward raises", "Use try ... finally"]),
        (swallows, ["swallowed the error", "without except"]),
        (lambda network, x: network.forward(x), ["something else than the output in evaluation", "in every layer"]),
        (lambda network, x: 1.5, ["returned float, expected an array"]),
    ],
)
def test_validate_hints(answer: object, parts: list[str]) -> None:
    rejected(VALIDATE, answer, *parts)


# 3


def training_is_right(layer: Any, x: np.ndarray, z: np.ndarray, p: float) -> bool:
    y = layer.train().forward(x)
    if not np.array_equal(layer.backward(x), y):
        return False
    if p in (0, 1):
        return np.array_equal(y, (1 - p) * x)
    return not np.array_equal(y, layer.forward(x)) and abs(y.mean() / z.mean() - 1) < 0.05


def of_the_page(make: Any, rates: tuple[float, ...] = (0.0, 0.2, 0.7, 1.0)) -> bool:
    x, conventions = np.linspace(1, 2, 100_000), set()
    for p in rates:
        layer = make(p)
        z = layer.eval().forward(x)
        fits = [np.allclose(z, factor * x) for factor in (1, 1 - p)]
        conventions.add(tuple(fits) if p else (True, True))
        if not any(fits) or not training_is_right(layer, x, z, p):
            return False
    return len(conventions - {(True, True)}) == 1


def of_the_page_below_one(make: Any) -> bool:
    return of_the_page(make, (0.0, 0.2, 0.7))


def by_the_tests(make: Any) -> np.bool_:
    """The tests of the page, with evaluation asked to be exact."""
    x = np.ones(5000)
    exact = all(
        np.unique(make(p).eval().forward(x)).size == 1 and np.any(make(p).train().forward(x) == 0) for p in (0.3, 0.6)
    )
    tests = (wild.modes_agree, wild.backward_is_forward, wild.masks_change, wild.edges_are_exact)
    return np.bool_(exact and all(test(make) for test in tests))


def without(*names: str) -> Callable[[Any], bool]:
    """Return a test that leaves out some of the page's."""
    tests = {
        "modes": wild.modes_agree,
        "backward": wild.backward_is_forward,
        "masks": wild.masks_change,
        "edges": wild.edges_are_exact,
    }
    return lambda make: all(test(make) for name, test in tests.items() if name not in names)


def at_one_half(make: Any) -> bool:
    x = np.linspace(1, 2, 100_000)
    layer = make(0.5)
    z = layer.eval().forward(x)
    return np.array_equal(z, layer.forward(x)) and training_is_right(layer, x, z, 0.5)


@pytest.mark.parametrize(
    ("answer", "parts"),
    [
        (lambda make: False, ["False for inverted dropout, which is right", "Means of random numbers need"]),
        (lambda make: not np.any(make(0.3).eval().forward(np.ones(9)) != 1), ["False for standard dropout"]),
        (lambda make: True, ["on in evaluation too", "Call it twice in evaluation"]),
        (without("modes", "edges"), ["on in evaluation too"]),
        (without("backward"), ["whose backward multiplies by p"]),
        (without("masks"), ["draws the same mask at each call", "Call it twice in training"]),
        (at_one_half, ["whose evaluation multiplies by p", "Compare the means"]),
        (of_the_page_below_one, ["returns nan at p = 1", "Try p = 1, in training"]),
        (lambda make: "passed", ["returned 'passed', expected True or False"]),
    ],
)
def test_test_hints(answer: object, parts: list[str]) -> None:
    rejected(TEST, answer, *parts)


def test_the_layers_that_are_handed_over_are_what_they_are_said_to_be() -> None:
    """The page's solution is no judge of them; the contract of the healthy class is."""
    assert len(bugs_in_the_wild._RIGHT) == 4
    assert len(bugs_in_the_wild._WRONG) == 12
    for _, make in bugs_in_the_wild._RIGHT:
        assert all(test(make) for test in (wild.modes_agree, wild.backward_is_forward, wild.masks_change))
    for _, make, _ in bugs_in_the_wild._WRONG:
        assert not by_the_tests(make)


# Right answers.

RIGHT: dict[str, list[Any]] = {
    EDGES: [inverted, standard, by_where],
    VALIDATE: [by_try, by_calls],
    TEST: [of_the_page, by_the_tests],
}


@pytest.mark.parametrize(("exercise", "answer"), [(name, answer) for name in RIGHT for answer in RIGHT[name]])
def test_right_answers_pass_and_the_verdict_repeats(exercise: str, answer: object) -> None:
    for seed in range(5):
        passed(exercise, answer, seed)
    assert check(exercise, answer) == check(exercise, answer)


@pytest.mark.long
@pytest.mark.parametrize(("exercise", "answer"), [(name, answer) for name in RIGHT for answer in RIGHT[name]])
def test_right_answers_pass_under_many_seeds(exercise: str, answer: object) -> None:
    for seed in range(5, 60):
        passed(exercise, answer, seed)
