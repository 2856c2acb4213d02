"""The exercises of the chapter "deployment"."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from dropoutlib.checks.exercises import Answer, Mistake, exercise

Array = npt.NDArray[Any]
Checkpoint = dict[str, Array]
Layers = list[tuple[str, Any]]
Function = Callable[[npt.ArrayLike], Array]


# --- 1: folding a standard checkpoint ------------------------------------------------------------------------------

# Each network has its dropout somewhere else, and no rate is one half, where p and q coincide.
_NETWORKS: tuple[Layers, ...] = (
    [("dense", "one"), ("relu", None), ("dropout", 0.3), ("dense", "two")],
    [("dropout", 0.2), ("dense", "one"), ("relu", None), ("dense", "two"), ("dropout", 0.6), ("dense", "three")],
    [("dense", "one"), ("dropout", 0.3), ("relu", None), ("dropout", 0.6), ("dense", "two"), ("dense", "three")],
)


def _followers(layers: Layers) -> dict[str, list[float]]:
    """Return the rates of the dropouts in front of each dense layer and behind the one before it."""
    rates: dict[str, list[float]] = {}
    waiting: list[float] = []
    for kind, value in layers:
        if kind == "dropout":
            waiting.append(value)
        elif kind == "dense":
            rates[value], waiting = waiting, []
    return rates


def _product(factors: list[float]) -> float:
    return float(np.prod(factors))


def _predecessors(layers: Layers) -> dict[str, list[float]]:
    """Return the rates of the dropouts behind each dense layer, up to the next."""
    rates: dict[str, list[float]] = {}
    last = None
    for kind, value in layers:
        if kind == "dense":
            rates[value], last = [], value
        elif kind == "dropout" and last is not None:
            rates[last].append(value)
    return rates


def _scaled(checkpoint: Checkpoint, weights: Mapping[str, float], biases: Mapping[str, float]) -> Checkpoint:
    result = {}
    for name, array in checkpoint.items():
        layer, _, part = name.rpartition(".")
        result[name] = array * (weights if part == "weight" else biases).get(layer, 1.0)
    return result


def _wrong_folds(layers: Layers, checkpoint: Checkpoint) -> list[tuple[Checkpoint, str]]:
    rates = _followers(layers)
    q = {layer: _product([1 - p for p in ps]) for layer, ps in rates.items()}
    behind = {layer: _product([1 - p for p in ps]) for layer, ps in _predecessors(layers).items()}
    last_only = {layer: 1 - ps[-1] if ps else 1.0 for layer, ps in rates.items()}
    whole = _product(list(q.values()))
    return [
        (dict(checkpoint), "Nothing was folded. Which matrices follow a dropout?"),
        (_scaled(checkpoint, q, q), "You scaled biases too. In W(qx) + b the factor meets W only."),
        (
            _scaled(checkpoint, {k: v**2 for k, v in q.items()}, {}),
            "Each factor is in it twice. Fold once.",
        ),
        (
            _scaled(checkpoint, {k: 1 / v for k, v in q.items()}, {}),
            "You divided by q. That is the way from an inverted checkpoint to a standard one.",
        ),
        (
            _scaled(checkpoint, {k: _product(ps) if ps else 1.0 for k, ps in rates.items()}, {}),
            "You multiplied by p, the share that is dropped. What is left is q = 1-p.",
        ),
        (
            _scaled(checkpoint, behind, {}),
            "You scaled the layer in front of the dropout. Forward means the layer behind it.",
        ),
        (
            _scaled(checkpoint, last_only, {}),
            "Two dropouts without a dense layer between them multiply: q1 times q2.",
        ),
        (
            _scaled(checkpoint, dict.fromkeys(q, whole), {}),
            "Every matrix got all factors. Each has its own, that of the dropout just before it.",
        ),
    ]


def _network(layers: Layers, checkpoint: Checkpoint, x: Array, scale: bool) -> Array:
    for kind, value in layers:
        if kind == "dense":
            x = x @ checkpoint[f"{value}.weight"].T + checkpoint[f"{value}.bias"]
        elif kind == "relu":
            x = np.maximum(x, 0)
        elif scale:
            x = (1 - value) * x
    return x


@exercise("deployment.1")
def fold(answer: Answer, seed: int) -> str:
    """Check fold(layers, checkpoint): the weights of a standard network with the factors of its dropouts folded in.

    `layers` is a list of ("dense", name), ("relu", None) and ("dropout", p). `checkpoint` holds "name.weight" of shape
    (outputs, inputs) and "name.bias".
    """
    rng = np.random.default_rng(seed)
    for layers in _NETWORKS:
        names = [value for kind, value in layers if kind == "dense"]
        sizes = (5, 6, 4, 3)
        checkpoint: Checkpoint = {}
        for i, name in enumerate(names):
            checkpoint[f"{name}.weight"] = rng.uniform(0.5, 1.5, (sizes[i + 1], sizes[i])).astype(np.float32)
            checkpoint[f"{name}.bias"] = rng.uniform(0.5, 1.5, sizes[i + 1]).astype(np.float32)
        given = {name: array.copy() for name, array in checkpoint.items()}
        text = "fold(layers, checkpoint)"
        value = answer.call(text, [tuple(layer) for layer in layers], given)
        drawn = ", ".join(f"{kind} {value}" if value is not None else kind for kind, value in layers)
        folded = _arrays(value, checkpoint, text)
        q = {layer: _product([1 - p for p in ps]) for layer, ps in _followers(layers).items()}
        if not _alike(folded, _scaled(checkpoint, q, {})):
            x = rng.uniform(0.5, 1.5, (4, sizes[0]))
            wanted = _network(layers, checkpoint, x, scale=True)
            if np.allclose(_network(layers, folded, x, scale=False), wanted, rtol=1e-4):
                raise Mistake(
                    f"{text} computes the right thing for {drawn}, but not by folding forward",
                    "Leave the layer in front of a dropout, and all biases, as they are.",
                )
            hints = (hint for wrong, hint in _wrong_folds(layers, checkpoint) if _alike(folded, wrong))
            raise Mistake(
                f"{text} gives a network that computes something else, for {drawn}",
                next(hints, "Walk through the layers, collect q = 1-p, and spend it on the next dense layer."),
            )
        if not all(np.array_equal(given[name], checkpoint[name]) for name in checkpoint):
            raise Mistake(f"{text} changed the checkpoint", "Run twice, it would fold twice. Return new arrays.")
    return f"{len(_NETWORKS)} networks without their dropout layers compute what they did with them."


def _arrays(value: object, checkpoint: Checkpoint, text: str) -> Checkpoint:
    if not isinstance(value, Mapping):
        raise Mistake(f"{text} returned {type(value).__name__}, expected a dictionary of arrays")
    if absent := [name for name in checkpoint if name not in value]:
        raise Mistake(f"{text} returned no {absent[0]!r}", "Arrays that are not scaled belong into the result too.")
    result = {}
    for name, array in checkpoint.items():
        found = np.asarray(value[name])
        if found.shape != array.shape or found.dtype.kind != "f":
            raise Mistake(f"{text} returned {name!r} of shape {found.shape}, expected {array.shape}")
        result[name] = found
    return result


def _alike(a: Checkpoint, b: Checkpoint) -> bool:
    return all(np.allclose(a[name], b[name], rtol=1e-5) for name in b)


# --- 2: reading a graph --------------------------------------------------------------------------------------------

Program = list[tuple[str, dict[str, Any]]]

_PROGRAMS: tuple[tuple[str, Program, bool, str], ...] = (
    (
        "a PyTorch program in evaluation mode",
        [("aten.linear", {}), ("aten.relu", {}), ("aten.dropout", {"p": 0.3, "train": False}), ("aten.linear", {})],
        False,
        "The name alone says nothing. Its flag is off, so it returns its input.",
    ),
    (
        "a PyTorch program in training mode",
        [("aten.linear", {}), ("aten.relu", {}), ("aten.dropout", {"p": 0.3, "train": True}), ("aten.linear", {})],
        True,
        "Its flag is on.",
    ),
    (
        "a PyTorch program whose second dropout alone is on",
        [("aten.dropout", {"p": 0.3, "train": False}), ("aten.dropout", {"p": 0.6, "train": True})],
        True,
        "Look at every operator, not at the first one that is called dropout.",
    ),
    (
        "an ONNX file that was exported for training",
        [("Gemm", {}), ("Relu", {}), ("Dropout", {"ratio": 0.3, "training_mode": True}), ("Gemm", {})],
        True,
        "A runtime may remove it. The file still has it.",
    ),
    (
        "an ONNX file with a Dropout that is not told to train",
        [("Gemm", {}), ("Dropout", {"ratio": 0.3}), ("Gemm", {})],
        False,
        "ONNX' training_mode is False where it is not given.",
    ),
    (
        "an ONNX file with a Dropout whose training_mode is False",
        [("Gemm", {}), ("Dropout", {"ratio": 0.3, "training_mode": False}), ("Gemm", {})],
        False,
        "A setting that is there may still be False.",
    ),
    (
        "a program with a dropout of rate 0 in training mode",
        [("aten.linear", {}), ("aten.dropout", {"p": 0.0, "train": True}), ("aten.linear", {})],
        False,
        "It is told to train, but at rate 0 there is nothing to drop.",
    ),
    (
        "a SavedModel in training mode",
        [("MatMul", {}), ("StatelessRandomUniformV2", {}), ("GreaterEqual", {}), ("SelectV2", {}), ("MatMul", {})],
        True,
        "Nothing in it is called dropout. What draws the random numbers?",
    ),
    (
        "a SavedModel in evaluation mode that clips its activations by comparing and selecting",
        [("MatMul", {}), ("GreaterEqual", {}), ("SelectV2", {}), ("MatMul", {})],
        False,
        "It compares and selects, but it draws nothing.",
    ),
    (
        "a JAX program in training mode",
        [("stablehlo.dot_general", {}), ("call @_bernoulli", {}), ("stablehlo.select", {})],
        True,
        "Nothing in it is called dropout. What draws the random numbers?",
    ),
    (
        "a JAX program in evaluation mode",
        [("stablehlo.dot_general", {}), ("stablehlo.maximum", {}), ("stablehlo.dot_general", {})],
        False,
        "There is nothing random in it.",
    ),
)


@exercise("deployment.2")
def alive(answer: Answer, seed: int) -> str:
    """Check alive(program): whether a list of operators, pairs of name and settings, can drop anything."""
    del seed
    text = "alive(program)"
    for title, program, expected, hint in _PROGRAMS:
        value = answer.call(text, [(name, dict(settings)) for name, settings in program])
        if not isinstance(value, bool | np.bool_):
            raise Mistake(f"{text} returned {value!r}, expected True or False")
        if value != expected:
            raise Mistake(f"{text} returned {bool(value)} for {title}", hint)
    return f"All {len(_PROGRAMS)} programs were read rightly."


# --- 3: diagnosing from outputs ------------------------------------------------------------------------------------

_VERDICTS = ("nothing", "random masks", "frozen mask", "batch statistics", "other weights")
_DIAGNOSES: dict[tuple[str, str], str] = {
    ("nothing", "other weights"): "Its outputs are equal up to rounding, 1e-6 here. Allow for that.",
    ("nothing", "batch statistics"): "A row's last bits may depend on its batch. Allow for rounding, 1e-6 here.",
    ("nothing", "frozen mask"): "Equal rows may differ in their last bits. Allow for rounding, 1e-6 here.",
    ("nothing", "random masks"): "Two calls agree up to rounding, 1e-6 here.",
    ("random masks", "nothing"): "Call it twice with the same rows.",
    ("random masks", "frozen mask"): "Call it twice with the same rows: a frozen mask repeats itself.",
    ("random masks", "batch statistics"): "Call it twice with the same rows: batch statistics repeat themselves.",
    ("random masks", "other weights"): "Call it twice with the same rows: weights do not change.",
    (
        "frozen mask",
        "batch statistics",
    ): "Send a batch of equal rows. Batch statistics treat them alike, a mask does not.",
    ("frozen mask", "other weights"): "Send a batch of equal rows. Weights treat them alike, a mask does not.",
    ("frozen mask", "random masks"): "It repeats itself exactly. A mask need not be random at each call.",
    ("batch statistics", "frozen mask"): "It treats equal rows alike, so there is no mask. It depends on the company.",
    ("batch statistics", "other weights"): "Send a row alone, and among others. Weights do not care.",
    ("other weights", "batch statistics"): "It gives a row the same output in any company.",
    ("other weights", "frozen mask"): "It gives equal rows equal outputs.",
}


@exercise("deployment.3")
def diagnose(answer: Answer, seed: int) -> str:
    """Check diagnose(served, trained, x): what is wrong with a served model, seen from outputs alone."""
    rng = np.random.default_rng(seed)
    text = "diagnose(served, trained, x)"
    for rows in (8, 6):
        W, V = rng.standard_normal((16, 40)), rng.standard_normal((40, 3))
        for expected in _VERDICTS:
            served, trained = _served(expected, W, V, rng), _served("trained", W, V, rng)
            x = rng.standard_normal((rows, 16))
            value = answer.call(text, served, trained, x)
            if not isinstance(value, str) or value not in _VERDICTS:
                raise Mistake(f"{text} returned {value!r}, expected one of {', '.join(map(repr, _VERDICTS))}")
            if value != expected:
                what = "a healthy model" if expected == "nothing" else f"a model with {expected}"
                hint = _DIAGNOSES.get((expected, value), "Compare with trained(x), row by row.")
                raise Mistake(f"{text} returned {value!r} for {what}, expected {expected!r}", hint)
    return f"All {2 * len(_VERDICTS)} models were diagnosed rightly."


def _served(kind: str, W: Array, V: Array, rng: np.random.Generator) -> Function:
    """Return a model of three outputs: two matrices, with something wrong in between."""
    # One pattern for each row of a batch, as a program has that was compiled together with its key.
    pattern = rng.random((4096, W.shape[1])) >= 0.4

    def model(x: npt.ArrayLike) -> Array:
        h = np.maximum(np.asarray(x, dtype=np.float64).reshape(-1, W.shape[0]) @ W, 0)
        if kind == "batch statistics":
            h = (h - h.mean(axis=0)) / np.sqrt(h.var(axis=0) + 1e-5)
        elif kind == "random masks":
            h = h * (rng.random(h.shape) >= 0.4) / 0.6
        elif kind == "frozen mask":
            h = h * np.resize(pattern, h.shape) / 0.6
        y = np.asarray(h @ V)
        if kind == "nothing":
            y += 1e-6 * np.sin(1e3 * len(h) + y)  # what another runtime and another batch size do
        return 0.6 * y if kind == "other weights" else y

    return model
