"""Two networks, one with standard and one with inverted dropout, trained side by side on the same masks.

They answer one question: under which settings are the two trainings the same training?
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from dropoutlib.convert import optimizer_settings, standard_weights
from dropoutlib.data import Dataset
from dropoutlib.layers import InvertedDropout, StandardDropout
from dropoutlib.metrics import accuracy
from dropoutlib.network import (
    SGD,
    Adam,
    AdamW,
    Linear,
    Parameter,
    ReLU,
    Sequential,
    softmax,
    softmax_cross_entropy,
)

_OPTIMIZERS = {"SGD": SGD, "Adam": Adam, "AdamW": AdamW}


class Network(NamedTuple):
    """A network with dropout, and its parameters in two parts."""

    net: Sequential
    after_dropout: list[Parameter]
    others: list[Parameter]


class TwinRun(NamedTuple):
    """What training two networks side by side gave.

    `gaps` holds max|q W_s - W_i| over weights that follow a dropout and max|w_s - w_i| over all other parameters,
    whichever is larger, after each step; the accuracies are those of the test split at the end, dropout off.
    """

    gaps: npt.NDArray[np.float64]
    accuracy_inverted: float
    accuracy_standard: float


def multilayer_perceptron(
    dropout: type[StandardDropout | InvertedDropout], p: float, seed: int, sizes: tuple[int, ...] = (64, 100, 100, 10)
) -> Network:
    """Return a float64 multilayer perceptron with dropout after each hidden ReLU.

    Parameters
    ----------
    dropout : StandardDropout or InvertedDropout
        The class of its dropout layers.
    p : float
        Probability of dropping, 0 <= p <= 1.
    seed : int
        Of the initial weights and, another stream a layer, of the masks.
    sizes : tuple of int
        Features in, hidden widths, classes.
    """
    rng = np.random.default_rng(np.random.PCG64(seed))
    linears = [Linear(inputs, outputs, rng) for inputs, outputs in itertools.pairwise(sizes)]
    streams = np.random.SeedSequence(seed).spawn(len(linears) - 1)
    hidden = [
        layer
        for linear, stream in zip(linears, streams, strict=False)
        for layer in (linear, ReLU(), dropout(p, stream))
    ]
    after = [linear.weight for linear in linears[1:]]
    return Network(Sequential(*hidden, linears[-1]), after, [linears[0].weight, *(linear.bias for linear in linears)])


def train_twins(
    data: Dataset,
    settings: Mapping[str, Any],
    p: float,
    *,
    initial: Literal["mapped", "same"] = "mapped",
    after_dropout: Mapping[str, Any] | None = None,
    others: Mapping[str, Any] | None = None,
    clip_grad_norm: float | None = None,
    steps: int = 300,
    batch: int = 100,
    seed: int = 0,
) -> TwinRun:
    """Train an inverted and a standard network on the same batches and masks, and follow how far they drift apart.

    By default the standard network starts from W_s = W_i / q and takes the exact map's settings, so that the gap is
    rounding error. Each keyword spoils one part of the map.

    Parameters
    ----------
    data : Dataset
        Trained on its training split, scored on its test split.
    settings : mapping
        The inverted network's optimiser, as `optimizer_settings` takes it.
    p : float
        Probability of dropping, 0 <= p < 1.
    initial : {"mapped", "same"}
        Start the standard network from W_i / q, or from W_i itself.
    after_dropout, others : mapping, optional
        The standard network's settings for weights that follow a dropout, and for all other parameters. By default the
        exact map, and `settings`.
    clip_grad_norm : float, optional
        Clip the gradient of each network to this global norm before each step.
    steps, batch, seed : int
        Number of steps, rows a step, and the seed of weights, masks and batches.

    Raises
    ------
    ValueError
        If the settings have no exact map.
    """
    q = 1.0 - p
    inverted = multilayer_perceptron(InvertedDropout, p, seed)
    standard = multilayer_perceptron(StandardDropout, p, seed)
    if initial == "mapped":
        for weight in standard.after_dropout:
            weight.value = standard_weights(weight.value, p)
    mapped = optimizer_settings(settings, p) if after_dropout is None else after_dropout
    optimizers = (
        (inverted, _optimizer(inverted, settings, settings)),
        (standard, _optimizer(standard, mapped, settings if others is None else others)),
    )
    rng = np.random.default_rng(np.random.PCG64(seed + 1))
    gaps = np.empty(steps)
    for step in range(steps):
        rows = rng.integers(0, data.train.y.size, batch)
        for network, optimizer in optimizers:
            _, gradient = softmax_cross_entropy(network.net(data.train.x[rows]), data.train.y[rows])
            network.net.backward(gradient)
            if clip_grad_norm is not None:
                _clip(network.net.parameters(), clip_grad_norm)
            optimizer.step()
        gaps[step] = _gap(inverted, standard, q)
    scores = (
        accuracy(softmax(network.net.eval().forward(data.test.x)), data.test.y) for network in (inverted, standard)
    )
    return TwinRun(gaps, *scores)


def _optimizer(network: Network, after_dropout: Mapping[str, Any], others: Mapping[str, Any]) -> SGD | Adam:
    """Return one optimiser with two groups."""
    groups = [
        {"params": params, **{key: value for key, value in settings.items() if key != "optimizer"}}
        for params, settings in ((network.after_dropout, after_dropout), (network.others, others))
    ]
    optimizer: SGD | Adam = _OPTIMIZERS[others["optimizer"]](groups, lr=others["lr"])
    return optimizer


def _clip(parameters: list[Parameter], norm: float) -> None:
    """Scale all gradients by one factor so that their joint norm is at most `norm`."""
    total = np.sqrt(sum(float(np.sum(p.grad**2)) for p in parameters))
    if total > norm:
        for parameter in parameters:
            parameter.grad = parameter.grad * (norm / total)


def _gap(inverted: Network, standard: Network, q: float) -> float:
    pairs = [
        (w_i.value, q * w_s.value) for w_i, w_s in zip(inverted.after_dropout, standard.after_dropout, strict=True)
    ]
    pairs += [(w_i.value, w_s.value) for w_i, w_s in zip(inverted.others, standard.others, strict=True)]
    return max(float(np.abs(a - b).max()) for a, b in pairs)
