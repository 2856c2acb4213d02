"""Train the networks of several seeds at once, side by side in one batched PyTorch network, with or without dropout.

One seed fixes the training rows, the initial weights, the batches and the masks of its network, whatever other seeds
are trained beside it; networks of the same sizes under the same seed differ in what the case says alone. Each network
is d-[width] x depth-classes with ReLUs, with dropout before its first layer (p_input) and after each ReLU (p), in
float32, trained with AdamW on batches of 50 rows drawn with replacement. Torch computes in one thread.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from dropoutlib.data import Dataset, Split, digits, mnist5k
from dropoutlib.masks import bernoulli_mask

BATCH = 50
CHECKPOINTS = (0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.65, 0.8, 1.0)  # shares of the steps, for early stopping
STEPS = {"digits": 1000, "mnist": 600, "cancer": 400}
CLASSES = {"digits": 10, "mnist": 10, "cancer": 2}
CANCER = (300, 119, 150)  # training, validation and test rows

Floats = npt.NDArray[np.float32]


class Case(NamedTuple):
    """What is trained on what.

    noise: "bernoulli" is dropout; "gaussian" multiplies by N(1, p/q), which has dropout's mean and variance.
    weight_decay is AdamW's; steps 0 means those of STEPS.
    """

    data: str
    rows: int
    p: float = 0.0
    p_input: float = 0.0
    width: int = 128
    depth: int = 2
    lr: float = 2e-3
    weight_decay: float = 0.0
    noise: str = "bernoulli"
    steps: int = 0

    @property
    def name(self) -> str:
        words = [f"{self.data} {self.rows}"]
        words += [
            f"{key} {value}"
            for key, value in self._asdict().items()
            if key not in ("data", "rows") and value != Case._field_defaults[key]
        ]
        return ", ".join(words)


class Rows(NamedTuple):
    """Training, validation and test rows of several seeds: x of shape (seeds, n, d), y of shape (seeds, n)."""

    train: tuple[Tensor, Tensor]
    validation: tuple[Tensor, Tensor]
    test: tuple[Tensor, Tensor]


class Networks:
    """The networks of one case, one for each seed.

    weights: shapes (seeds, inputs, outputs); biases: (seeds, 1, outputs).
    """

    def __init__(self, case: Case, inputs: int, seeds: Sequence[int], member: int) -> None:
        sizes = [inputs, *[case.width] * case.depth, CLASSES[case.data]]
        self.case = case
        self.bits = [np.random.SFC64(np.random.SeedSequence([seed, 2, member])) for seed in seeds]
        self.weights: list[Tensor] = []
        self.biases: list[Tensor] = []
        draws = [np.random.Generator(np.random.PCG64([seed, 1, member])) for seed in seeds]
        for before, after in itertools.pairwise(sizes):
            initial = np.stack([math.sqrt(2 / before) * draw.standard_normal((before, after)) for draw in draws])
            self.weights.append(torch.from_numpy(initial.astype(np.float32)).requires_grad_())
            self.biases.append(torch.zeros(len(seeds), 1, after).requires_grad_())
        self.rates = [case.p_input, *[case.p] * case.depth]

    def logits(self, x: Tensor) -> Tensor:
        """Return the logits with dropout off, shape (seeds, rows, classes)."""
        return self.layers(x)[-1]

    def layers(self, x: Tensor) -> list[Tensor]:
        """Return the hidden layers, after their ReLU, and the logits, with dropout off."""
        return self._forward(x, lambda x, layer: x)

    def training(self, x: Tensor) -> Tensor:
        """Return the logits with the case's noise on."""
        return self._forward(x, self._noisy)[-1]

    def thinned(self, x: Tensor, p: float, bits: np.random.BitGenerator) -> list[Tensor]:
        """Return what `layers` returns, for sub-networks: each hidden unit is dropped with probability p, for all rows.

        The last hidden layer itself is returned whole.
        """
        return self._forward(x, lambda x, layer: x * self.draw(bits, 1, x.shape[2], p) if layer else x)

    def draw(self, bits: np.random.BitGenerator, rows: int, units: int, p: float) -> Tensor:
        """Return masks over q, shape (seeds, rows, units), from one stream."""
        masks = bernoulli_mask((len(self.bits), rows, units), p, bits)
        return torch.from_numpy(masks).float().mul_(1 / (1 - p))

    def _forward(self, x: Tensor, drop: Callable[[Tensor, int], Tensor]) -> list[Tensor]:
        found = []
        for layer, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            x = torch.baddbmm(bias, drop(x, layer), weight)
            if layer < len(self.weights) - 1:
                x = torch.relu(x)
            found.append(x)
        return found

    def _noisy(self, x: Tensor, layer: int) -> Tensor:
        p = self.rates[layer]
        if p == 0:
            return x
        if self.case.noise == "gaussian":
            draws = [np.random.Generator(bits).standard_normal(x.shape[1:], np.float32) for bits in self.bits]
            return x * torch.from_numpy(np.stack(draws)).mul_(math.sqrt(p / (1 - p))).add_(1)
        masks = np.stack([bernoulli_mask(x.shape[1:], p, bits) for bits in self.bits])
        return x * torch.from_numpy(masks).float().mul_(1 / (1 - p))


def train(case: Case, seeds: Sequence[int], member: int = 0) -> tuple[Networks, list[Tensor]]:
    """Return the trained networks of a case, and at each checkpoint scores of shape (seeds, 4).

    The scores are validation NLL, validation accuracy, test NLL and test accuracy, with dropout off.
    """
    torch.set_num_threads(1)
    rows = load(case.data, case.rows, tuple(seeds))
    networks = Networks(case, rows.train[0].shape[2], seeds, member)
    optimizer = torch.optim.AdamW(
        [*networks.weights, *networks.biases], lr=case.lr, weight_decay=case.weight_decay, fused=True
    )
    steps = case.steps or STEPS[case.data]
    draws = [np.random.Generator(np.random.PCG64([seed, 3, member])) for seed in seeds]
    batches = torch.from_numpy(np.stack([draw.integers(0, case.rows, (steps, BATCH)) for draw in draws]))
    each = torch.arange(len(seeds))[:, None]
    stops = {round(share * steps) for share in CHECKPOINTS}
    x, y = rows.train
    found = []
    for step in range(steps):
        chosen = batches[:, step]
        optimizer.zero_grad()
        logits = networks.training(x[each, chosen])
        loss = cross_entropy(logits.flatten(0, 1), y[each, chosen].flatten(), reduction="sum") / BATCH
        loss.backward()
        optimizer.step()
        if step + 1 in stops:
            with torch.no_grad():
                pairs = [scores(networks.logits(x_), y_) for x_, y_ in (rows.validation, rows.test)]
            found.append(torch.cat(pairs, dim=1))
    return networks, found


def scores(logits: Tensor, y: Tensor) -> Tensor:
    """Return NLL and accuracy of each network, shape (seeds, 2)."""
    nll = cross_entropy(logits.transpose(1, 2), y, reduction="none").mean(dim=1)
    return torch.stack([nll, (logits.argmax(dim=2) == y).float().mean(dim=1)], dim=1)


@functools.lru_cache(maxsize=4)
def load(data: str, rows: int, seeds: tuple[int, ...]) -> Rows:
    """Return the rows of each seed.

    Of the digits and MNIST a seed draws its training rows; of the tabular set it draws a split of its own.
    """
    splits = [_cancer(rows, seed) if data == "cancer" else _images(data, rows, seed) for seed in seeds]
    parts = [
        (
            torch.from_numpy(np.stack([part.x for part in same]).astype(np.float32)),
            torch.from_numpy(np.stack([part.y for part in same])),
        )
        for same in zip(*splits, strict=True)
    ]
    return Rows(*parts)


def _images(data: str, rows: int, seed: int) -> tuple[Split, Split, Split]:
    source = _source(data)
    chosen = _order(seed, source.train.y.size)[:rows]
    return Split(source.train.x[chosen], source.train.y[chosen]), source.validation, source.test


@functools.cache
def _source(data: str) -> Dataset:
    return digits(np.float32) if data == "digits" else mnist5k(np.float32)


def _cancer(rows: int, seed: int) -> tuple[Split, Split, Split]:
    """Return a split of scikit-learn's breast_cancer, features standardised by its training rows."""
    from sklearn.datasets import load_breast_cancer

    x, y = load_breast_cancer(return_X_y=True)
    pool, *others = np.split(_order(seed, y.size), np.cumsum(CANCER)[:-1])
    chosen = pool[:rows]
    mean, sd = x[chosen].mean(axis=0), x[chosen].std(axis=0)
    train, validation, test = (Split((x[part] - mean) / sd, y[part].astype(np.int64)) for part in (chosen, *others))
    return train, validation, test


def _order(seed: int, size: int) -> npt.NDArray[np.intp]:
    words = np.random.SFC64(np.random.SeedSequence([seed, 0])).random_raw(size)
    order: npt.NDArray[np.intp] = np.argsort(words, kind="stable")
    return order
