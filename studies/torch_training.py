"""Train a PyTorch classifier on MNIST images, and measure what BatchNorm has learned to divide by.

One seed fixes the training rows, the initial weights, the order of the batches and the masks, so that two networks with
the same linear layers differ in their dropout alone and can be compared seed by seed. Torch computes in one thread.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from dropoutlib.data import mnist5k

COLUMNS = [
    "validation NLL",
    "validation accuracy",
    "test NLL",
    "test accuracy",
    "re-estimated test NLL",
    "re-estimated test accuracy",
]
ROWS = 1000
BATCH = 50
NORMS = (nn.BatchNorm1d, nn.BatchNorm2d)


class Result(NamedTuple):
    """Scores in the order of COLUMNS, and for each BatchNorm running variance / evaluation variance."""

    scores: list[float]
    ratios: list[float]


class Rows(NamedTuple):
    """Images of shape (n, 784) and their labels."""

    x: Tensor
    y: Tensor


def train(build: Callable[[], nn.Module], seed: int, epochs: int, lr: float) -> Result:
    """Train on 1,000 rows with Adam and return scores with dropout off, before and after re-estimation."""
    training, validation, test = _data()
    draws = torch.Generator().manual_seed(seed)
    chosen = torch.randperm(len(training.y), generator=draws)[:ROWS]
    x, y = training.x[chosen], training.y[chosen]
    torch.manual_seed(seed)
    network = build()
    optimizer = torch.optim.Adam(network.parameters(), lr=lr, fused=True)
    for _ in range(epochs):
        for batch in torch.split(torch.randperm(ROWS, generator=draws), BATCH):
            optimizer.zero_grad()
            loss = cross_entropy(network(x[batch]), y[batch])
            loss.backward()
            optimizer.step()
    network.eval()
    scores = _scores(network, validation) + _scores(network, test)
    ratios = variance_ratios(network, x)
    reestimate(network, x)
    return Result([round(score, 4) for score in scores + _scores(network, test)], [round(r, 3) for r in ratios])


@torch.no_grad()
def variance_ratios(network: nn.Module, x: Tensor) -> list[float]:
    """Return, for each BatchNorm in order, running variance / variance of its input over x, mean over its channels."""
    found: list[float] = []

    def measure(norm: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        variance = inputs[0].transpose(0, 1).flatten(1).var(dim=1)
        found.append(float((norm.get_buffer("running_var") / variance).mean()))

    hooks = [norm.register_forward_pre_hook(measure) for norm in network.modules() if isinstance(norm, NORMS)]
    network.eval()(x)
    for hook in hooks:
        hook.remove()
    return found


@torch.no_grad()
def reestimate(network: nn.Module, x: Tensor) -> None:
    """Replace all running statistics by those of x with dropout off."""
    network.eval()
    for norm in network.modules():
        if isinstance(norm, NORMS):
            norm.reset_running_stats()
            norm.momentum = None  # a plain mean over the batches seen, here one
            norm.train()
    network(x)
    network.eval()


@torch.no_grad()
def _scores(network: nn.Module, rows: Rows) -> list[float]:
    logits = network(rows.x)
    return [float(cross_entropy(logits, rows.y)), float((logits.argmax(dim=1) == rows.y).double().mean())]


@functools.cache
def _data() -> tuple[Rows, Rows, Rows]:
    torch.set_num_threads(1)
    data = mnist5k(np.float32)
    training, validation, test = (
        Rows(torch.from_numpy(split.x), torch.from_numpy(split.y)) for split in (data.train, data.validation, data.test)
    )
    return training, validation, test
