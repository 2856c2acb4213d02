"""Which networks the study of dropout's use trains, and what it measures in each.

A network's scores are taken at the end of training and at two checkpoints that its validation rows choose: that with
the lowest NLL, for the NLL, and that with the highest accuracy (the lower NLL decides between equals), for the
accuracy. So every network, with dropout or without, has early stopping.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from studies.does_it_help_training import Case, Networks, load, scores, train

COLUMNS = [
    "final test NLL",
    "final test accuracy",
    "final training NLL",
    "final training accuracy",
    "validation NLL",
    "test NLL",
    "validation accuracy",
    "validation NLL where most accurate",
    "test accuracy",
]
ABLATED = (0.1, 0.25, 0.5, 0.75)
MASKS = 50
CONTEXTS = 10
MEMBERS = 16

BASE = {"digits": Case("digits", 300), "mnist": Case("mnist", 1000), "cancer": Case("cancer", 300)}
DROPS: list[dict[str, Any]] = [{"p": 0.0}, {"p": 0.2}, {"p": 0.5}, {"p": 0.5, "p_input": 0.2}]
LRS = (2e-3, 5e-3)
PAIRS = ((0.2, 0.0), (0.5, 0.0), (0.3, 0.1), (0.5, 0.2))

# One room for each question; a case that answers two of them is trained once.
SIZES = {
    "digits": [
        Case("digits", rows, p, width=width)
        for rows in (100, 300, 1000)
        for width in (16, 64, 128, 256)
        for p in (0.0, 0.2, 0.5)
    ],
    "mnist": [
        *(Case("mnist", rows, **drop) for rows in (100, 300, 1000, 3000) for drop in DROPS),
        *(Case("mnist", 1000, p, width=width) for width in (16, 256) for p in (0.0, 0.5)),
    ],
    "cancer": [Case("cancer", rows, p) for rows in (50, 300) for p in (0.0, 0.2, 0.5)],
}
RATES = {
    "digits": [BASE["digits"]._replace(p=p, p_input=u) for u in (0.0, 0.1, 0.2, 0.5) for p in (0.0, 0.2, 0.5, 0.8)],
    "mnist": [BASE["mnist"]._replace(p=p, p_input=u) for u in (0.0, 0.2, 0.5) for p in (0.0, 0.5)],
    "cancer": [BASE["cancer"]._replace(p=p, p_input=u) for u in (0.0, 0.2) for p in (0.0, 0.5)],
}
DEPTHS = {"digits": [BASE["digits"]._replace(p=p, depth=depth) for depth in (1, 2, 4) for p in (0.0, 0.2, 0.5)]}
# Each seed chooses from eight settings an arm by its validation rows, and the checkpoint besides.
ARMS: dict[str, dict[str, list[Case]]] = {
    data: {
        "weight decay": [base._replace(lr=lr, weight_decay=w) for lr in LRS for w in (0.0, 0.3, 1.0, 3.0)],
        "dropout": [base._replace(lr=lr, p=p, p_input=u) for lr in LRS for p, u in PAIRS],
        "both": [base._replace(lr=lr, p=p, p_input=u, weight_decay=0.3) for lr in LRS for p, u in PAIRS],
    }
    for data, base in BASE.items()
}
BUDGETS = {
    "digits": [Case("digits", 1000, p, steps=steps) for steps in (60, 3000) for p in (0.0, 0.5)],
    "mnist": [
        Case("mnist", rows, **drop, steps=2000) for rows in (1000, 3000) for drop in (DROPS[0], DROPS[2], DROPS[3])
    ],
}
NOISES = {data: [base._replace(p=0.5, noise="gaussian")] for data, base in BASE.items()}
MEASURED = {
    data: [
        base,
        base._replace(weight_decay=1.0),
        base._replace(p=0.5),
        base._replace(p=0.5, noise="gaussian"),
    ]
    for data, base in BASE.items()
    if data != "cancer"
}
ENSEMBLES = {"digits": [BASE["digits"]._replace(width=64)]}
CASES = {
    data: list(
        dict.fromkeys(
            [
                *(case for room in (SIZES, RATES, DEPTHS, BUDGETS, NOISES, MEASURED) for case in room.get(data, [])),
                *(case for arm in ARMS[data].values() for case in arm),
            ]
        )
    )
    for data in BASE
}


class Result(NamedTuple):
    """Scores, for each seed in the order of COLUMNS; and by name what else was measured, for each seed."""

    scores: list[list[float]]
    measures: dict[str, list[float]]


def run(case: Case, seeds: Sequence[int]) -> Result:
    """Train a case under several seeds, score it, and measure what it is measured for."""
    networks, checkpoints = train(case, seeds)
    rows = load(case.data, case.rows, tuple(seeds))
    found = torch.stack(checkpoints).double()
    each = torch.arange(len(seeds))
    by_nll = found[:, :, 0].argmin(dim=0)
    by_accuracy = (found[:, :, 1] - 1e-6 * found[:, :, 0]).argmax(dim=0)
    with torch.no_grad():
        table = torch.cat(
            [
                found[-1][:, 2:],
                scores(networks.logits(rows.train[0]), rows.train[1]),
                found[by_nll, each][:, [0, 2]],
                found[by_accuracy, each][:, [1, 0, 3]],
            ],
            dim=1,
        )
        measures: dict[str, Tensor] = {}
        if case in MEASURED.get(case.data, []):
            measures |= hidden_units(networks, rows.test[0])
            measures |= usefulness(networks, *rows.train)
            measures |= sub_networks(networks, *rows.test)
    if case in ENSEMBLES.get(case.data, []):
        measures |= ensemble(case, seeds)
    return Result(_rounded(table), {name: _rounded(values) for name, values in measures.items()})


def hidden_units(networks: Networks, x: Tensor) -> dict[str, Tensor]:
    """Return, of the last hidden layer, how much its units say the same, and how many of them speak at all.

    correlation: mean of |correlation| over pairs of units that are not constant. effective units: (sum of l)² / sum
    of l², with l the eigenvalues of the correlation matrix: between 1 and the number of units. active: share of
    activations above 0.
    """
    correlation, effective = [], []
    hidden = networks.layers(x)[-2]
    for units in hidden:
        matrix = torch.corrcoef(units[:, units.std(dim=0) > 1e-6].T)
        size = len(matrix)
        correlation.append((matrix.abs().sum() - size) / (size * (size - 1)))
        effective.append(size**2 / (matrix**2).sum())
    return {
        "correlation": torch.stack(correlation),
        "effective units": torch.stack(effective),
        "active": (hidden > 0).float().mean(dim=(1, 2)),
    }


def usefulness(networks: Networks, x: Tensor, y: Tensor) -> dict[str, Tensor]:
    """Return in how many contexts a unit of the last hidden layer is helpful, on average over units.

    A unit is helpful in a context if adding it there lowers the mean NLL of the rows. The contexts are random halves
    of all the other hidden units, scaled by 2 as in training with p = .5, or all of them. Constant units are left out.
    """
    layer = len(networks.weights) - 1
    weight, bias = networks.weights[layer], networks.biases[layer]
    bits = np.random.SFC64(0)
    found = {}
    for name, contexts, scale in (("helpful in halves", CONTEXTS, 2.0), ("helpful in all", 1, 1.0)):
        shares = []
        for _ in range(contexts):
            if scale == 2.0:
                hidden = networks.thinned(x, 0.5, bits)[-2]
                kept = networks.draw(bits, 1, hidden.shape[2], 0.5)
            else:
                hidden, kept = networks.layers(x)[-2], torch.ones(len(x), 1, weight.shape[1])
            part = hidden * scale  # what each unit adds if it is there
            base = torch.baddbmm(bias, hidden * kept, weight)
            helps = []
            for unit in range(weight.shape[1]):
                there = kept[:, :, unit : unit + 1] > 0
                addition = part[:, :, unit : unit + 1] * weight[:, unit : unit + 1]
                with_it = torch.where(there, base, base + addition)
                without = torch.where(there, base - addition, base)
                helps.append(scores(with_it, y)[:, 0] < scores(without, y)[:, 0])
            speaks = hidden.std(dim=1) > 1e-6
            helpful = torch.stack(helps, dim=1)
            shares.append((helpful & speaks).sum(dim=1) / speaks.sum(dim=1))
        found[name] = torch.stack(shares).mean(dim=0)
    return found


def sub_networks(networks: Networks, x: Tensor, y: Tensor) -> dict[str, Tensor]:
    """Return scores of sub-networks without a random share of all hidden units, the others scaled by 1/(1 - share).

    "without s": mean accuracy of MASKS sub-networks without that share. For a share of one half also their mean NLL,
    and the scores of the arithmetic mean of their probabilities and of their normalised geometric mean.
    """
    found = {}
    bits = np.random.SFC64(1)
    for share in ABLATED:
        logits = torch.stack([networks.thinned(x, share, bits)[-1] for _ in range(MASKS)])
        single = torch.stack([scores(each, y) for each in logits]).mean(dim=0)
        found[f"accuracy without {share}"] = single[:, 1]
        if share == 0.5:
            found["NLL without 0.5"] = single[:, 0]
            log = logits.log_softmax(dim=-1)
            for name, mean in (("arithmetic", log.exp().mean(dim=0).log()), ("geometric", log.mean(dim=0))):
                score = scores(mean, y)
                found[f"{name} mean NLL"], found[f"{name} mean accuracy"] = score[:, 0], score[:, 1]
    return found


def ensemble(case: Case, seeds: Sequence[int]) -> dict[str, Tensor]:
    """Return scores of MEMBERS networks, trained apart on the same rows: of one on average, and of their mean."""
    _, y = load(case.data, case.rows, tuple(seeds)).test
    log = torch.stack([_member(case, seeds, member) for member in range(MEMBERS)])
    single = torch.stack([scores(each, y) for each in log]).mean(dim=0)
    mean = scores(log.exp().mean(dim=0).log(), y)
    return {
        "one member NLL": single[:, 0],
        "one member accuracy": single[:, 1],
        "ensemble NLL": mean[:, 0],
        "ensemble accuracy": mean[:, 1],
    }


def _member(case: Case, seeds: Sequence[int], member: int) -> Tensor:
    networks, _ = train(case, seeds, member)
    with torch.no_grad():
        return networks.logits(load(case.data, case.rows, tuple(seeds)).test[0]).log_softmax(dim=-1)


def _rounded(values: Tensor) -> Any:
    return np.round(values.double().numpy(), 4).tolist()
