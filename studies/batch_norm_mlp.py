"""A multilayer perceptron with BatchNorm and dropout on MNIST: 784-[width] x 5-10 in PyTorch, on 1,000 rows."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn

from studies.torch_training import Result, train

LAYERS = 5
PLACEMENTS = ("bn-relu-dropout", "dropout-bn-relu", "last")


class Case(NamedTuple):
    """Where the dropout is, and of what kind.

    placement: "none"; "bn-relu-dropout" and "dropout-bn-relu", in each block; "last", after the last block's ReLU.
    noise: "bernoulli" is dropout; "gaussian" multiplies by N(1, p/q), which has dropout's variance; "uniform"
    multiplies by 1 + U(-p, p). Without BatchNorm a block is Linear, ReLU and, by placement, dropout.
    """

    placement: str
    p: float = 0.0
    noise: str = "bernoulli"
    batch_norm: bool = True
    width: int = 128
    epochs: int = 30
    lr: float = 1e-3

    @property
    def name(self) -> str:
        words = [self.placement if self.placement == "none" else f"{self.placement} {self.p}"]
        words += [] if self.noise == "bernoulli" else [self.noise]
        words += [] if self.batch_norm else ["without BN"]
        words += [] if self.width == 128 else [f"width {self.width}"]
        words += [] if self.epochs == 30 else [f"{self.epochs} epochs"]
        words += [] if self.lr == 1e-3 else [f"lr {self.lr}"]
        return ", ".join(words)


# One room for each question; a case that answers two of them is trained once.
PLACEMENT = [Case("none"), *(Case(placement, 0.5) for placement in PLACEMENTS)]
RATES = [Case("bn-relu-dropout", p) for p in (0.1, 0.2, 0.3, 0.5, 0.7)]
WIDTHS = [
    *(
        Case(placement, p, width=w)
        for w in (32, 64, 256, 512)
        for placement, p in (("none", 0.0), (PLACEMENTS[0], 0.5))
    ),
    *(Case("bn-relu-dropout", 0.2, width=w) for w in (32, 64, 256)),
    *(Case(placement, p, width=32, batch_norm=False) for placement, p in (("none", 0.0), (PLACEMENTS[0], 0.5))),
]
BUDGETS = [Case(placement, p, epochs=100) for placement, p in (("none", 0.0), ("bn-relu-dropout", 0.5))]
NOISES = [
    Case("bn-relu-dropout", 0.25),
    Case("bn-relu-dropout", 0.5, "gaussian"),
    Case("bn-relu-dropout", 0.1, "uniform"),
    Case("bn-relu-dropout", 1.0, "uniform"),
]
# "Use only one": each of these is chosen from by the validation NLL of the seed.
ALONE = {
    "nothing": [Case("none", batch_norm=False, lr=lr) for lr in (1e-3, 3e-3)],
    "BN": [Case("none", lr=lr) for lr in (1e-3, 3e-3)],
    "dropout": [
        Case(placement, p, batch_norm=False, lr=lr)
        for placement in ("bn-relu-dropout", "last")
        for p in (0.2, 0.5)
        for lr in (1e-3, 3e-3)
    ],
    **{
        f"BN and {placement}": [Case(placement, p, lr=lr) for p in (0.2, 0.5) for lr in (1e-3, 3e-3)]
        for placement in PLACEMENTS
    },
}
CASES = list(
    dict.fromkeys(
        [*PLACEMENT, *RATES, *WIDTHS, *BUDGETS, *NOISES, *(case for cases in ALONE.values() for case in cases)]
    )
)


class Noise(nn.Module):
    """Multiplies by 1 + noise in training: Gaussian of variance p/q, or uniform on (-p, p)."""

    def __init__(self, p: float, law: str) -> None:
        super().__init__()
        self.p, self.law = p, law

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return x
        if self.law == "gaussian":
            noise = math.sqrt(self.p / (1 - self.p)) * torch.randn_like(x)
        else:
            noise = self.p * (2 * torch.rand_like(x) - 1)
        return x * (1 + noise)


def network(case: Case) -> nn.Sequential:
    """Return the network of a case; torch.manual_seed decides its weights."""
    layers: list[nn.Module] = []
    inputs = 784
    for block in range(LAYERS):
        layers.append(nn.Linear(inputs, case.width))
        layers += [_dropout(case)] if case.placement == "dropout-bn-relu" else []
        layers += [nn.BatchNorm1d(case.width)] if case.batch_norm else []
        layers.append(nn.ReLU())
        after = case.placement == "bn-relu-dropout" or (case.placement == "last" and block == LAYERS - 1)
        layers += [_dropout(case)] if after else []
        inputs = case.width
    return nn.Sequential(*layers, nn.Linear(inputs, 10))


def run(case: Case, seed: int) -> Result:
    """Train a case under a seed."""
    return train(lambda: network(case), seed, case.epochs, case.lr)


def _dropout(case: Case) -> nn.Module:
    return nn.Dropout(case.p) if case.noise == "bernoulli" else Noise(case.p, case.noise)
