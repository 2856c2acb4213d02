"""The same placements in NumPy on the digits, with `dropoutlib`'s own layers: all 1,000 training rows, Adam."""

from __future__ import annotations

import functools
from typing import NamedTuple

import numpy as np

from dropoutlib.batchnorm import BatchNorm1d, reestimate_running_stats, running_variance_ratios
from dropoutlib.data import Dataset, Split, digits
from dropoutlib.layers import InvertedDropout
from dropoutlib.network import Adam, Layer, Linear, ReLU, Sequential, softmax_cross_entropy

BATCH = 50
PLACEMENTS = ("bn-relu-dropout", "dropout-bn-relu", "last")


class Case(NamedTuple):
    """Where the dropout is, as for MNIST, and the size of the network."""

    placement: str
    p: float = 0.0
    layers: int = 5
    width: int = 128
    epochs: int = 30

    @property
    def name(self) -> str:
        word = self.placement if self.placement == "none" else f"{self.placement} {self.p}"
        size = "" if (self.layers, self.width) == (5, 128) else f", {self.layers} x {self.width}"
        return word + size + ("" if self.epochs == 30 else f", {self.epochs} epochs")


CASES = [
    Case(placement, p, *size)
    for size in ((5, 128, 30), (5, 128, 60), (3, 100, 30), (5, 64, 30))
    for placement, p in (("none", 0.0), *((placement, 0.5) for placement in PLACEMENTS))
]


class Result(NamedTuple):
    """Scores in the order of the other studies, and for each BatchNorm running variance / evaluation variance."""

    scores: list[float]
    ratios: list[float]


def network(case: Case, seed: int) -> Sequential:
    """Return the network of a case under a seed; the weights do not depend on the placement."""
    rng = np.random.default_rng(np.random.PCG64([seed, 0]))
    streams = np.random.SeedSequence([seed, 1]).spawn(case.layers)
    layers: list[Layer] = []
    inputs = 64
    for block, stream in enumerate(streams):
        dropout = [InvertedDropout(case.p, stream)]
        layers.append(Linear(inputs, case.width, rng))
        layers += dropout if case.placement == "dropout-bn-relu" else []
        layers += [BatchNorm1d(case.width), ReLU()]
        after = case.placement == "bn-relu-dropout" or (case.placement == "last" and block == case.layers - 1)
        layers += dropout if after else []
        inputs = case.width
    return Sequential(*layers, Linear(inputs, 10, rng))


def run(case: Case, seed: int) -> Result:
    """Train a case under a seed and return scores with dropout off, before and after re-estimation."""
    data = _data()
    net = network(case, seed)
    optimizer = Adam(net.parameters())
    order = np.random.default_rng(np.random.PCG64([seed, 2]))
    for _ in range(case.epochs):
        for rows in order.permutation(data.train.y.size).reshape(-1, BATCH):
            _, gradient = softmax_cross_entropy(net(data.train.x[rows]), data.train.y[rows])
            net.backward(gradient)
            optimizer.step()
    scores = _scores(net, data.validation) + _scores(net, data.test)
    ratios = [float(ratio.mean()) for ratio in running_variance_ratios(net, data.train.x)]
    reestimate_running_stats(net, data.train.x)
    return Result([round(score, 4) for score in scores + _scores(net, data.test)], [round(r, 3) for r in ratios])


def _scores(net: Sequential, split: Split) -> list[float]:
    logits = net.eval().forward(split.x)
    loss, _ = softmax_cross_entropy(logits, split.y)
    return [loss, float(np.mean(logits.argmax(axis=1) == split.y))]


@functools.cache
def _data() -> Dataset:
    return digits()
