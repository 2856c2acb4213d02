"""Predictive intervals by dropout left on, and their real coverage, on scikit-learn's diabetes data.

442 patients, ten features, a measure of disease progression, split anew by each seed into 262 training, 90 validation
and 90 test rows; everything is scaled by the training rows. 10-50-50-1, ReLU, dropout after each hidden layer, Adam on
the mean squared error. All intervals are meant to hold 95 %; noise variance and quantile come from validation rows.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.stats import spearmanr  # type: ignore[import-untyped]
from sklearn.datasets import load_diabetes

from dropoutlib.layers import InvertedDropout
from dropoutlib.network import Adam, Layer, Linear, ReLU, Sequential
from dropoutlib.uncertainty import mc_predict

SIZES = (262, 90, 90)
BATCH = 50
PASSES = 200
Z = 1.96
NOISE = np.exp(np.linspace(np.log(1e-3), np.log(4), 200))
INTERVALS = ("spread", "spread and noise", "constant", "conformal")

Array = npt.NDArray[np.float64]


class Case(NamedTuple):
    """The dropout rate and the number of epochs."""

    p: float
    epochs: int = 100

    @property
    def name(self) -> str:
        return f"p {self.p}, {self.epochs} epochs"


CASES = [Case(p) for p in (0.1, 0.2, 0.5)] + [Case(0.2, 400)]


def run(case: Case, seed: int) -> dict[str, float]:
    """Return coverage and mean width of every interval, and the other scores, by name."""
    (x, y), (xv, yv), (xt, yt) = split(seed)
    net = fit(x, y, case, seed)
    off_v, off_t = (np.asarray(net.eval().forward(rows)[:, 0], np.float64) for rows in (xv, xt))
    (mean_v, spread_v), (mean_t, spread_t) = (moments(net, rows) for rows in (xv, xt))
    noise = float(min(NOISE, key=lambda s: gaussian_nll(yv, mean_v, spread_v + s)))
    constant = np.full(yt.size, np.mean((yv - off_v) ** 2))
    rank = int(np.ceil(0.95 * (yv.size + 1))) - 1
    quantile = np.full(yt.size, np.sort(np.abs(yv - off_v))[rank])
    intervals = {
        "spread": (mean_t, Z * np.sqrt(spread_t)),
        "spread and noise": (mean_t, Z * np.sqrt(spread_t + noise)),
        "constant": (off_t, Z * np.sqrt(constant)),
        "conformal": (off_t, quantile),
    }
    found: dict[str, float] = {}
    for name, (centre, half) in intervals.items():
        found[f"{name}, coverage"] = float(np.mean(np.abs(yt - centre) <= half))
        found[f"{name}, width"] = float(2 * half.mean())
    found |= {
        "off, RMSE": float(np.sqrt(np.mean((yt - off_t) ** 2))),
        "MC, RMSE": float(np.sqrt(np.mean((yt - mean_t) ** 2))),
        "spread, NLL": gaussian_nll(yt, mean_t, spread_t),
        "spread and noise, NLL": gaussian_nll(yt, mean_t, spread_t + noise),
        "constant, NLL": gaussian_nll(yt, off_t, constant),
        "share of spread": float(np.mean(spread_t / (spread_t + noise))),
        "widest / narrowest": float(np.sqrt(np.max(spread_t + noise) / np.min(spread_t + noise))),
        "rank correlation": float(spearmanr(spread_t, np.abs(yt - mean_t)).statistic),
    }
    return {name: round(value, 4) for name, value in found.items()}


def moments(net: Sequential, x: Array) -> tuple[Array, Array]:
    """Return mean and variance of many passes."""
    prediction = mc_predict(net.train(), x, PASSES, "values")
    return prediction.mean[:, 0], prediction.variance[:, 0]


def fit(x: Array, y: Array, case: Case, seed: int) -> Sequential:
    """Train a network on the mean squared error."""
    rng, order = (np.random.default_rng(np.random.PCG64([seed, stream])) for stream in (0, 2))
    layers: list[Layer] = []
    inputs = x.shape[1]
    for stream in np.random.SeedSequence([seed, 1]).spawn(2):
        layers += [Linear(inputs, 50, rng), ReLU(), InvertedDropout(case.p, stream)]
        inputs = 50
    net = Sequential(*layers, Linear(inputs, 1, rng))
    optimizer = Adam(net.parameters())
    for _ in range(case.epochs):
        for batch in np.array_split(order.permutation(y.size), y.size // BATCH):
            error = net(x[batch])[:, 0] - y[batch]
            net.backward(2 * error[:, None] / batch.size)
            optimizer.step()
    return net


def split(seed: int) -> list[tuple[Array, Array]]:
    """Return training, validation and test rows, scaled by the mean and standard deviation of the training rows."""
    x, y = _data()
    order = np.random.default_rng(np.random.PCG64([seed, 3])).permutation(y.size)
    parts = np.split(order, np.cumsum(SIZES)[:-1])
    first = parts[0]
    x = (x - x[first].mean(axis=0)) / x[first].std(axis=0)
    y = (y - y[first].mean()) / y[first].std()
    return [(x[part], y[part]) for part in parts]


def gaussian_nll(y: Array, mean: Array, variance: Array) -> float:
    """Return the mean negative log-likelihood of normal predictions, in nats."""
    return float(np.mean(0.5 * (np.log(2 * np.pi * variance) + (y - mean) ** 2 / variance)))


@functools.cache
def _data() -> tuple[Array, Array]:
    x, y = load_diabetes(return_X_y=True)
    return x, y
