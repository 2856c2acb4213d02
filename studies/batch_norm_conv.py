"""A small convolutional network on MNIST: two blocks of 8 and 16 channels and a dense layer of 64, on 1,000 rows."""

from __future__ import annotations

from typing import NamedTuple

from torch import nn

from studies.torch_training import Result, train

CHANNELS = (8, 16)
DENSE = 64
EPOCHS = 20
PLACEMENTS = ("conv", "spatial", "dense")


class Case(NamedTuple):
    """Where the dropout is: "none"; "conv" drops elements after both convolutional blocks, "spatial" whole channels
    there (Dropout2d); "dense" drops after the dense layer's ReLU."""

    placement: str
    p: float = 0.0
    batch_norm: bool = True

    @property
    def name(self) -> str:
        word = self.placement if self.placement == "none" else f"{self.placement} {self.p}"
        return word if self.batch_norm else f"{word}, without BN"


RATES = (0.2, 0.5)
CASES = [
    Case(placement, p, batch_norm)
    for batch_norm in (False, True)
    for placement, p in (("none", 0.0), *((placement, p) for placement in PLACEMENTS for p in RATES))
]


def network(case: Case) -> nn.Sequential:
    """Return the network of a case; torch.manual_seed decides its weights."""
    layers: list[nn.Module] = [nn.Unflatten(1, (1, 28, 28))]
    inputs = 1
    for channels in CHANNELS:
        layers.append(nn.Conv2d(inputs, channels, 3, padding=1))
        layers += [nn.BatchNorm2d(channels)] if case.batch_norm else []
        layers += [nn.ReLU(), nn.MaxPool2d(2)]
        layers += [nn.Dropout(case.p)] if case.placement == "conv" else []
        layers += [nn.Dropout2d(case.p)] if case.placement == "spatial" else []
        inputs = channels
    layers += [nn.Flatten(), nn.Linear(inputs * 7 * 7, DENSE)]
    layers += [nn.BatchNorm1d(DENSE)] if case.batch_norm else []
    layers.append(nn.ReLU())
    layers += [nn.Dropout(case.p)] if case.placement == "dense" else []
    return nn.Sequential(*layers, nn.Linear(DENSE, 10))


def run(case: Case, seed: int) -> Result:
    """Train a case under a seed."""
    return train(lambda: network(case), seed, EPOCHS, lr=1e-3)
