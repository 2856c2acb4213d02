"""The models of the assignment "sick-model": one trained network, and six PyTorch models made of it."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import numpy.typing as npt

from dropoutlib.batchnorm import BatchNorm1d
from dropoutlib.data import digits
from dropoutlib.layers import InvertedDropout
from dropoutlib.network import Adam, Linear, ReLU, Sequential, softmax_cross_entropy

Array = npt.NDArray[Any]

RATE = 0.4
ROWS, UNITS, EPS = 600, 32, 1e-5
LETTERS = "ABCDEF"
# What is done to the model, and the first check of `deployment_check` that fails.
SICKNESSES: dict[str, str] = {
    "healthy": "healthy",
    "left in training mode": "evaluation-mode",
    "functional dropout": "no-active-dropout",
    "normalises by the batch": "rows-independent",
    "folded twice": "parameters",
    "statistics of training with dropout": "normalisation-statistics",
}


def training_rows(split: int) -> tuple[Array, Array]:
    """Return the 600 images and labels that the network of a class was trained on."""
    train = digits().train
    rows = np.random.default_rng(split).permutation(len(train.x))[:ROWS]
    return train.x[rows].astype(np.float32), train.y[rows]


@functools.cache
def parameters(split: int) -> dict[str, Array]:
    """Train the network of a class in NumPy and return its arrays by PyTorch's names, in float32.

    It is Linear(64, 32), BatchNorm, ReLU, Dropout(.4), Linear(32, 10).
    """
    x, y = training_rows(split)
    rng = np.random.default_rng([split, 1])
    dense, norm, output = Linear(64, UNITS, rng), BatchNorm1d(UNITS, eps=EPS), Linear(UNITS, 10, rng)
    network = Sequential(dense, norm, ReLU(), InvertedDropout(RATE, rng), output)
    adam = Adam(network.parameters(), lr=3e-3)
    for _ in range(25):
        for rows in np.split(rng.permutation(ROWS), 12):
            _, gradient = softmax_cross_entropy(network(x[rows].astype(np.float64)), y[rows])
            network.backward(gradient)
            adam.step()
    arrays = {
        "dense.weight": dense.weight.value,
        "dense.bias": dense.bias.value,
        "norm.weight": norm.weight.value,
        "norm.bias": norm.bias.value,
        "norm.running_mean": norm.running_mean,
        "norm.running_var": norm.running_var,
        "output.weight": output.weight.value,
        "output.bias": output.bias.value,
    }
    return {name: array.astype(np.float32) for name, array in arrays.items()}


def patients(sick: int, split: int) -> dict[str, Any]:
    """Return six PyTorch models, one healthy and five sick, as A to F in an order that follows from `sick`."""
    return {letter: _model(kind, parameters(split)) for letter, kind in zip(LETTERS, _order(sick), strict=True)}


def right_findings(sick: int) -> dict[str, str]:
    """Return for each letter the first check that fails, or "healthy"."""
    return {letter: SICKNESSES[kind] for letter, kind in zip(LETTERS, _order(sick), strict=True)}


def _order(sick: int) -> list[str]:
    return [list(SICKNESSES)[i] for i in np.random.default_rng(sick).permutation(len(SICKNESSES))]


def _model(kind: str, arrays: dict[str, Array]) -> Any:
    import torch
    from torch import nn

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.dense = nn.Linear(64, UNITS)
            self.norm = nn.BatchNorm1d(UNITS, eps=EPS, track_running_stats=kind != "normalises by the batch")
            self.dropout = nn.Dropout(RATE)
            self.output = nn.Linear(UNITS, 10)

        def forward(self, x: Any) -> Any:
            hidden = torch.relu(self.norm(self.dense(x)))
            if kind == "functional dropout":
                return self.output(nn.functional.dropout(hidden, RATE))
            return self.output(self.dropout(hidden))

    model = Model()
    state = model.state_dict()
    state.update({name: torch.from_numpy(array.copy()) for name, array in arrays.items() if name in state})
    model.load_state_dict(state)
    with torch.no_grad():
        if kind == "folded twice":
            model.output.weight.mul_(1 - RATE)
        if kind == "statistics of training with dropout":
            model.norm.running_var.mul_(1 / (1 - RATE) + 0.2)  # type: ignore[union-attr]
    return model.train(kind == "left in training mode")
