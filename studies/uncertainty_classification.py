"""Classifiers with and without dropout, alone and in ensembles, on test rows as they are, shifted, and foreign.

784-128-128-10 on 1,000 images of MNIST, and 64-100-100-10 on the 1,000 training rows of the digits; ReLU, dropout after
each hidden layer, Adam, batches of 50; in NumPy, with `dropoutlib`'s own layers. A seed fixes the training rows, which
members of an ensemble share; they differ in initial weights, batches and masks.

Shifts: noise N(0, .3^2) on every pixel; images moved to the right by 2 pixels (digits: 1). Foreign rows: the test
images turned by a quarter.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from sklearn.metrics import roc_auc_score

from dropoutlib.data import Dataset, Split, digits, mnist5k
from dropoutlib.layers import InvertedDropout
from dropoutlib.metrics import accuracy, brier, expected_calibration_error, nll
from dropoutlib.network import Adam, Layer, Linear, ReLU, Sequential, softmax_cross_entropy
from dropoutlib.uncertainty import Outputs, Prediction, mc_predict

ROWS = 1000
BATCH = 50
MEMBERS = 5
PASSES = 50
CURVE = (1, 2, 5, 10, 20, 50, 100)
REPEATS = 5
TEMPERATURES = np.exp(np.linspace(np.log(0.25), np.log(4), 81))
METRICS = ("accuracy", "NLL", "Brier", "ECE", "confidence", "error detection")

Rows = npt.NDArray[np.floating]
Labels = npt.NDArray[np.int64]
Array = npt.NDArray[np.float64]
Predictor = Callable[[Rows], Prediction]


class Case(NamedTuple):
    """Which data, the dropout rate, for how long, and how many networks."""

    data: str
    p: float
    epochs: int
    members: int = 1

    @property
    def name(self) -> str:
        return f"{self.data}, p {self.p}, {self.epochs} epochs"


CASES = [
    Case("mnist", 0.0, 30, MEMBERS),
    Case("mnist", 0.2, 30),
    Case("mnist", 0.5, 30, MEMBERS),
    Case("mnist", 0.0, 90),
    Case("mnist", 0.5, 90),
    Case("digits", 0.0, 50, MEMBERS),
    Case("digits", 0.2, 50),
    Case("digits", 0.5, 50, MEMBERS),
]


def run(case: Case, seed: int) -> dict[str, float]:
    """Train the networks of a case under a seed and return every score of every method, by name."""
    data = _data(case.data)
    chosen = np.random.default_rng(np.random.PCG64([seed, 3])).permutation(data.train.y.size)[:ROWS]
    train = functools.partial(fit, Split(data.train.x[chosen], data.train.y[chosen]), case.p, seed=seed)
    members = [train(epochs=case.epochs, member=k) for k in range(case.members)]
    short = [train(epochs=case.epochs // MEMBERS, member=k) for k in range(MEMBERS * (case.p == 0 < case.members - 1))]
    found: dict[str, float] = {}
    methods: dict[str, Predictor] = {"off": functools.partial(one, members[0])}
    if case.members > 1:
        methods["ensemble"] = functools.partial(ensemble, members)
    if short:
        methods["short ensemble"] = functools.partial(ensemble, short)
    if case.p > 0:
        temperature = fitted_temperature(members[0].eval().forward(data.validation.x), data.validation.y)
        found["temperature"] = temperature
        methods["temperature"] = functools.partial(one, members[0], temperature=temperature)
        for passes in (MEMBERS, PASSES):
            methods[f"MC {passes}"] = functools.partial(monte_carlo, members[0], passes=passes)
        methods["logits"] = functools.partial(mean_logits, members[0])
        found |= passes_curve(members[0], data.test)
    rows = {"clean": data.test.x, **shifted(data.test.x, seed)}
    foreign = turned(data.test.x)
    for name, method in methods.items():
        seen = {condition: method(x) for condition, x in rows.items()}
        for condition, prediction in seen.items():
            found |= {
                f"{name}, {condition}, {metric}": score
                for metric, score in zip(METRICS, scores(prediction.mean, data.test.y), strict=True)
            }
        strange = method(foreign)
        found[f"{name}, foreign, entropy"] = detection(seen["clean"].entropy, strange.entropy)
        if name in (f"MC {PASSES}", "ensemble"):
            found[f"{name}, foreign, mutual information"] = detection(
                seen["clean"].mutual_information, strange.mutual_information
            )
    return {name: round(value, 4) for name, value in found.items()}


def fit(rows: Split, p: float, epochs: int, seed: int, member: int) -> Sequential:
    """Train a network; weights and batches do not depend on p."""
    rng, order = (np.random.default_rng(np.random.PCG64([seed, stream, member])) for stream in (0, 2))
    inputs = rows.x.shape[1]
    width = 100 if inputs == 64 else 128
    layers: list[Layer] = []
    for stream in np.random.SeedSequence([seed, 1, member]).spawn(2):
        layers += [Linear(inputs, width, rng, np.float32), ReLU(), InvertedDropout(p, stream)]
        inputs = width
    net = Sequential(*layers, Linear(inputs, 10, rng, np.float32))
    optimizer = Adam(net.parameters())
    for _ in range(epochs):
        for batch in order.permutation(rows.y.size).reshape(-1, BATCH):
            _, gradient = softmax_cross_entropy(net(rows.x[batch]), rows.y[batch])
            net.backward(gradient)
            optimizer.step()
    return net


def one(net: Sequential, x: Rows, temperature: float = 1.0) -> Prediction:
    """Return the prediction with dropout off."""
    return mc_predict(lambda x: net.eval().forward(x) / np.float32(temperature), x, 1, "logits")


def ensemble(members: Sequence[Sequential], x: Rows) -> Prediction:
    """Return the prediction of all members, with dropout off."""
    turn = iter(members)
    return mc_predict(lambda x: next(turn).eval().forward(x), x, len(members), "logits")


def monte_carlo(net: Sequential, x: Rows, passes: int, outputs: Outputs = "logits") -> Prediction:
    """Return the prediction with dropout left on; what comes before the first dropout is computed once."""
    hidden = Sequential(*net.train().layers[:2]).forward(x)
    return mc_predict(Sequential(*net.layers[2:]), hidden, passes, outputs)


def mean_logits(net: Sequential, x: Rows) -> Prediction:
    """Return the softmax of the mean logits of many passes."""
    mean = monte_carlo(net, x, PASSES, "values").mean
    return mc_predict(lambda x: mean, x, 1, "logits")


def fitted_temperature(logits: Rows, labels: Labels) -> float:
    """Return the divisor of the logits, among TEMPERATURES, with the lowest NLL."""
    return float(min(TEMPERATURES, key=lambda t: softmax_cross_entropy(logits / t, labels)[0]))


def shifted(x: Rows, seed: int) -> dict[str, Rows]:
    """Return the rows with noise, and moved to the right."""
    noise = np.random.default_rng(np.random.PCG64([seed, 4])).standard_normal(x.shape)
    images = _images(x)
    by = 2 if images.shape[1] == 28 else 1
    moved = np.pad(images, ((0, 0), (0, 0), (by, 0)))[:, :, :-by]
    return {"noise": (x + 0.3 * noise).astype(x.dtype), "moved": moved.reshape(x.shape)}


def turned(x: Rows) -> Rows:
    """Return the images turned by a quarter."""
    return np.rot90(_images(x), axes=(1, 2)).reshape(x.shape)


def scores(probs: Array, labels: Labels) -> list[float]:
    """Return the scores in the order of METRICS; the last is the area under the ROC curve of confidence for errors."""
    confidence, wrong = probs.max(axis=1), probs.argmax(axis=1) != labels
    plain = [metric(probs, labels) for metric in (accuracy, nll, brier, expected_calibration_error)]
    return [*plain, float(confidence.mean()), float(roc_auc_score(wrong, -confidence))]


def detection(known: Array | None, foreign: Array | None) -> float:
    """Return the probability that a foreign row is more uncertain than a known one (the area under the ROC curve)."""
    assert known is not None
    assert foreign is not None
    label = np.repeat([0, 1], [known.size, foreign.size])
    return float(roc_auc_score(label, np.concatenate([known, foreign])))


def passes_curve(net: Sequential, rows: Split) -> dict[str, float]:
    """Return the NLL of the mean of T passes for each T of CURVE, a mean over REPEATS draws."""
    return {
        f"NLL of {passes} passes": float(
            np.mean([nll(monte_carlo(net, rows.x, passes).mean, rows.y) for _ in range(REPEATS)])
        )
        for passes in CURVE
    }


def _images(x: Rows) -> Rows:
    side = int(np.sqrt(x.shape[1]))
    return x.reshape(-1, side, side)


@functools.cache
def _data(name: str) -> Dataset:
    return mnist5k(np.float32) if name == "mnist" else digits(np.float32)
