"""What dropout does to networks with BatchNorm: placement, width, rate, convolutions, only one of the two, repair.

`python -m studies.batch_norm` trains every case of `batch_norm_mlp` and `batch_norm_conv` (PyTorch, MNIST) and of
`batch_norm_digits` (NumPy) under two blocks of eight seeds and stores scores, variance ratios and conclusions; name one
or more of mlp, conv and digits to run these alone, and give --judge to judge the stored scores again without training.
All three take about twelve minutes on two free cores.

Cases with the same seed share training rows, initial weights (where sizes agree) and batches; all differences are
taken seed by seed. `CONCLUSIONS` and their rules were written down before any result of the two blocks was seen, after
a look at seeds 70 and 71, which belong to neither. A conclusion is robust if its rule holds in both blocks. Nothing is
chosen on test rows: where a case says "chosen", each seed takes the setting with the lowest validation NLL.
"""

from __future__ import annotations

import argparse
import itertools
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from dropoutlib.stored import load
from studies import batch_norm_conv as conv
from studies import batch_norm_digits as small
from studies import batch_norm_mlp as mlp
from studies.learning_rate import Interval, above, below, interval
from studies.store import code_digest, parallel, progress, save, versions
from studies.torch_training import COLUMNS

BLOCKS = {"first": range(8), "second": range(1000, 1008)}
STUDIES = {"mlp": mlp, "conv": conv, "digits": small}
PACKAGES = {"mlp": ("numpy", "torch"), "conv": ("numpy", "torch"), "digits": ("numpy",)}

Values = npt.NDArray[np.float64]
Case = mlp.Case | conv.Case | small.Case
Cases = Case | Sequence[Case]


class Block:
    """Scores and ratios of one block of seeds, an array of shape (seeds, columns or norms) for each case."""

    def __init__(self, scores: Mapping[str, Any], ratios: Mapping[str, Any]) -> None:
        self._scores = {name: np.array(values) for name, values in scores.items()}
        self._ratios = {name: np.array(values) for name, values in ratios.items()}

    def score(self, case: Cases, column: str) -> Values:
        """Return one score a seed; of several cases, that with the lowest validation NLL for the seed."""
        cases = [case] if isinstance(case, Case) else case
        scores = np.array([self._scores[c.name] for c in cases])
        chosen = scores[:, :, COLUMNS.index("validation NLL")].argmin(axis=0)
        values: Values = scores[chosen, np.arange(chosen.size), COLUMNS.index(column)]
        return values

    def ratio(self, case: Case) -> Values:
        """Return running variance / evaluation variance, shape (seeds, norms)."""
        return self._ratios[case.name]


Measure = Callable[[Block], Values]


def gain(case: Cases, other: Cases, column: str = "test accuracy") -> Measure:
    """Return how much higher the score of a case is than that of another."""
    return lambda block: block.score(case, column) - block.score(other, column)


def repair(case: Case, what: str = "accuracy") -> Measure:
    """Return what re-estimating the running statistics with dropout off adds to a score."""
    return lambda block: block.score(case, f"re-estimated test {what}") - block.score(case, f"test {what}")


def difference(measure: Measure, other: Measure, share: float = 1.0) -> Measure:
    """Return a measure less a share of another."""
    return lambda block: measure(block) - share * other(block)


def least_ratio(case: Case, norms: slice = slice(1, None)) -> Measure:
    """Return the smallest ratio among some norms, by default all that follow the first block."""
    return lambda block: block.ratio(case)[:, norms].min(axis=1)


def largest_ratio(case: Case, norms: slice = slice(1, None)) -> Measure:
    """Return the largest ratio among some norms."""
    return lambda block: block.ratio(case)[:, norms].max(axis=1)


def mean_ratio(case: Case) -> Measure:
    """Return the mean ratio of all norms that follow the first block."""
    return lambda block: block.ratio(case)[:, 1:].mean(axis=1)


def off_one(case: Case) -> Measure:
    """Return the largest |ratio - 1| among all norms."""
    return lambda block: np.abs(block.ratio(case) - 1).max(axis=1)


def smallest_rise(measures: Sequence[Measure]) -> Measure:
    """Return the smallest difference between neighbours."""
    return lambda block: np.min([b(block) - a(block) for a, b in itertools.pairwise(measures)], axis=0)


class Rule(NamedTuple):
    """What the 95 % interval of the mean over seeds must fulfil."""

    words: str
    holds: Callable[[Interval], bool]


ABOVE_0, BELOW_0 = Rule("interval above 0", above), Rule("interval below 0", below)
NOT_ABOVE_0 = Rule("interval not above 0", lambda i: not above(i))
NOT_BELOW_0 = Rule("interval not below 0", lambda i: not below(i))


def above_(bound: float) -> Rule:
    """Return the rule that the interval lies above a bound."""
    return Rule(f"interval above {bound:g}", lambda i: i.low > bound)


def below_(bound: float) -> Rule:
    """Return the rule that the interval lies below a bound."""
    return Rule(f"interval below {bound:g}", lambda i: i.high < bound)


def within(bound: float) -> Rule:
    """Return the rule that the interval lies within a bound of 0."""
    return Rule(f"interval within ±{bound:g}", lambda i: -bound < i.low and i.high < bound)


class Conclusion(NamedTuple):
    """A sentence, what is measured for it, and the rule by which a block of seeds decides it."""

    id: str
    statement: str
    measured: str
    measure: Measure
    rule: Rule


NONE, MID, PRE, LAST = mlp.PLACEMENT
RATE = {case.p: case for case in mlp.RATES}
AT = {(case.placement, case.width): case for case in [*mlp.WIDTHS, NONE, MID] if case.batch_norm and case.p in (0, 0.5)}
AT_2 = {case.width: case for case in [*mlp.WIDTHS, RATE[0.2]] if case.p == 0.2}
COST = {w: gain(AT["bn-relu-dropout", w], AT["none", w]) for w in (32, 64, 128, 256, 512)}
NARROW, NARROW_DROPOUT = (case for case in mlp.WIDTHS if not case.batch_norm)
LONG, LONG_DROPOUT = mlp.BUDGETS
QUARTER, GAUSSIAN, SMALL_UNIFORM, UNIFORM = mlp.NOISES
BOTH = [case for name, cases in mlp.ALONE.items() if name.startswith("BN and") for case in cases]
ACC, NLL, RE, RATIO = (
    "test accuracy",
    "test NLL",
    "accuracy gained by re-estimation",
    "running / evaluation variance",
)

MLP = (
    # placement
    Conclusion(
        "bn-relu-dropout-costs",
        "BN→ReLU→Dropout in each block (p = .5) is less accurate than no dropout",
        f"{ACC}, difference",
        gain(MID, NONE),
        BELOW_0,
    ),
    Conclusion(
        "dropout-bn-relu-costs",
        "Dropout→BN→ReLU in each block (p = .5) is less accurate than no dropout",
        f"{ACC}, difference",
        gain(PRE, NONE),
        BELOW_0,
    ),
    Conclusion(
        "dropout-first-costs-more",
        "Dropout→BN→ReLU is less accurate than BN→ReLU→Dropout (p = .5)",
        f"{ACC}, difference",
        gain(PRE, MID),
        BELOW_0,
    ),
    Conclusion(
        "last-is-free",
        "dropout after the last BN only (p = .5) is as accurate as no dropout to .01",
        f"{ACC}, difference",
        gain(LAST, NONE),
        within(0.01),
    ),
    Conclusion(
        "last-gains-nothing",
        "dropout after the last BN only (p = .5) is not seen to be more accurate than no dropout",
        f"{ACC}, difference",
        gain(LAST, NONE),
        NOT_ABOVE_0,
    ),
    Conclusion(
        "last-lowers-nll",
        "dropout after the last BN only (p = .5) has a lower NLL than no dropout",
        f"{NLL}, difference",
        gain(LAST, NONE, NLL),
        BELOW_0,
    ),
    Conclusion(
        "bn-relu-dropout-lowers-nll",
        "BN→ReLU→Dropout in each block (p = .5) has a lower NLL than no dropout",
        f"{NLL}, difference",
        gain(MID, NONE, NLL),
        BELOW_0,
    ),
    Conclusion(
        "shift-in-the-next-norm",
        "BN→ReLU→Dropout (p = .5): every BN after the first has a running variance at least 1.2 times too large",
        f"{RATIO}, smallest of blocks 2 to 5",
        least_ratio(MID),
        above_(1.2),
    ),
    Conclusion(
        "no-shift-in-the-first-norm",
        "BN→ReLU→Dropout (p = .5): the first BN, which no dropout precedes, is right to 5 %",
        f"{RATIO} - 1, first block",
        lambda block: block.ratio(MID)[:, 0] - 1,
        within(0.05),
    ),
    Conclusion(
        "shift-of-dropout-first",
        "Dropout→BN→ReLU (p = .5): the first BN's running variance is more than 1/q = 2 times too large",
        f"{RATIO}, first block",
        lambda block: block.ratio(PRE)[:, 0],
        above_(2.0),
    ),
    Conclusion(
        "shift-of-dropout-first-falls-with-depth",
        "Dropout→BN→ReLU (p = .5): the ratio is larger in the first BN than in the last",
        f"{RATIO}, first block less last block",
        lambda block: block.ratio(PRE)[:, 0] - block.ratio(PRE)[:, -1],
        ABOVE_0,
    ),
    Conclusion(
        "no-shift-after-the-last-norm",
        "dropout after the last BN only (p = .5): every BN is right to 10 %",
        f"|{RATIO} - 1|, largest of the blocks",
        off_one(LAST),
        below_(0.1),
    ),
    # re-estimation
    Conclusion(
        "repair-of-bn-relu-dropout",
        "BN→ReLU→Dropout (p = .5): re-estimation makes it more accurate",
        RE,
        repair(MID),
        ABOVE_0,
    ),
    Conclusion(
        "repair-of-dropout-bn-relu",
        "Dropout→BN→ReLU (p = .5): re-estimation makes it more accurate",
        RE,
        repair(PRE),
        ABOVE_0,
    ),
    Conclusion(
        "no-repair-of-last",
        "dropout after the last BN only (p = .5): no gain from re-estimation is seen",
        RE,
        repair(LAST),
        NOT_ABOVE_0,
    ),
    Conclusion("no-repair-of-none", "no dropout: no gain from re-estimation is seen", RE, repair(NONE), NOT_ABOVE_0),
    Conclusion(
        "repair-beyond-none-bn-relu-dropout",
        "BN→ReLU→Dropout (p = .5) gains more from re-estimation than no dropout",
        f"{RE}, difference",
        difference(repair(MID), repair(NONE)),
        ABOVE_0,
    ),
    Conclusion(
        "repair-beyond-none-dropout-bn-relu",
        "Dropout→BN→ReLU (p = .5) gains more from re-estimation than no dropout",
        f"{RE}, difference",
        difference(repair(PRE), repair(NONE)),
        ABOVE_0,
    ),
    Conclusion(
        "repair-larger-for-dropout-first",
        "Dropout→BN→ReLU (p = .5) gains more from re-estimation than BN→ReLU→Dropout",
        f"{RE}, difference",
        difference(repair(PRE), repair(MID)),
        ABOVE_0,
    ),
    Conclusion(
        "repair-is-not-all",
        "BN→ReLU→Dropout (p = .5) is less accurate than no dropout after both were re-estimated",
        f"re-estimated {ACC}, difference",
        gain(MID, NONE, "re-estimated test accuracy"),
        BELOW_0,
    ),
    Conclusion(
        "repair-is-less-than-half",
        "BN→ReLU→Dropout (p = .5): re-estimation gives back less than half of what dropout cost",
        f"{RE} less half of the {ACC} lost",
        difference(repair(MID), gain(NONE, MID), 0.5),
        BELOW_0,
    ),
    Conclusion(
        "repair-lowers-nll-bn-relu-dropout",
        "BN→ReLU→Dropout (p = .5): re-estimation lowers the NLL",
        f"{NLL}, difference",
        repair(MID, "NLL"),
        BELOW_0,
    ),
    Conclusion(
        "repair-lowers-nll-dropout-bn-relu",
        "Dropout→BN→ReLU (p = .5): re-estimation lowers the NLL",
        f"{NLL}, difference",
        repair(PRE, "NLL"),
        BELOW_0,
    ),
    Conclusion(
        "repair-falls-with-training",
        "BN→ReLU→Dropout (p = .5): re-estimation gains less after 100 epochs than after 30",
        f"{RE}, difference",
        difference(repair(LONG_DROPOUT), repair(MID)),
        BELOW_0,
    ),
    Conclusion(
        "repair-larger-if-narrow",
        "BN→ReLU→Dropout (p = .5): re-estimation gains more at width 32 than at width 128",
        f"{RE}, difference",
        difference(repair(AT["bn-relu-dropout", 32]), repair(MID)),
        ABOVE_0,
    ),
    Conclusion(
        "no-repair-if-wide",
        "BN→ReLU→Dropout (p = .5): no gain from re-estimation is seen at width 512",
        RE,
        repair(AT["bn-relu-dropout", 512]),
        NOT_ABOVE_0,
    ),
    # rate
    Conclusion(
        "ratio-rises-with-p",
        "BN→ReLU→Dropout: the mean ratio rises from each p of .1, .2, .3, .5, .7 to the next",
        f"{RATIO}, mean of blocks 2 to 5, smallest rise",
        smallest_rise([mean_ratio(RATE[p]) for p in (0.1, 0.2, 0.3, 0.5, 0.7)]),
        ABOVE_0,
    ),
    Conclusion(
        "low-p-beats-half",
        "BN→ReLU→Dropout: p = .2 is more accurate than p = .5",
        f"{ACC}, difference",
        gain(RATE[0.2], RATE[0.5]),
        ABOVE_0,
    ),
    Conclusion(
        "high-p-loses-to-half",
        "BN→ReLU→Dropout: p = .7 is less accurate than p = .5",
        f"{ACC}, difference",
        gain(RATE[0.7], RATE[0.5]),
        BELOW_0,
    ),
    Conclusion(
        "high-p-loses-beyond-repair",
        "BN→ReLU→Dropout: p = .7 is, re-estimated, more than .05 less accurate than no dropout",
        f"re-estimated {ACC}, difference",
        gain(RATE[0.7], NONE, "re-estimated test accuracy"),
        below_(-0.05),
    ),
    Conclusion(
        "low-p-is-free",
        "BN→ReLU→Dropout: p = .2 is as accurate as no dropout to .01",
        f"{ACC}, difference",
        gain(RATE[0.2], NONE),
        within(0.01),
    ),
    Conclusion(
        "lowest-p-is-free",
        "BN→ReLU→Dropout: p = .1 is as accurate as no dropout to .01",
        f"{ACC}, difference",
        gain(RATE[0.1], NONE),
        within(0.01),
    ),
    Conclusion(
        "low-p-gains",
        "BN→ReLU→Dropout: p = .2 is more accurate than no dropout",
        f"{ACC}, difference",
        gain(RATE[0.2], NONE),
        ABOVE_0,
    ),
    Conclusion(
        "low-p-shifts-little",
        "BN→ReLU→Dropout: at p = .2 no BN's running variance is more than 1.25 times too large",
        f"{RATIO}, largest of blocks 2 to 5",
        largest_ratio(RATE[0.2]),
        below_(1.25),
    ),
    Conclusion(
        "low-p-beats-half-dropout-first",
        "Dropout→BN→ReLU: p = .2 is more accurate than p = .5",
        f"{ACC}, difference",
        gain(mlp.Case("dropout-bn-relu", 0.2), PRE),
        ABOVE_0,
    ),
    # width
    Conclusion(
        "width-lowers-ratio",
        "BN→ReLU→Dropout (p = .5): the mean ratio is lower at width 512 than at width 32",
        f"{RATIO}, mean of blocks 2 to 5, difference",
        difference(mean_ratio(AT["bn-relu-dropout", 512]), mean_ratio(AT["bn-relu-dropout", 32])),
        BELOW_0,
    ),
    Conclusion(
        "width-lowers-ratio-from-128",
        "BN→ReLU→Dropout (p = .5): the mean ratio is lower at width 512 than at width 128",
        f"{RATIO}, mean of blocks 2 to 5, difference",
        difference(mean_ratio(AT["bn-relu-dropout", 512]), mean_ratio(MID)),
        BELOW_0,
    ),
    Conclusion(
        "width-lowers-ratio-at-low-p",
        "BN→ReLU→Dropout (p = .2): the mean ratio is lower at width 256 than at width 32",
        f"{RATIO}, mean of blocks 2 to 5, difference",
        difference(mean_ratio(AT_2[256]), mean_ratio(AT_2[32])),
        BELOW_0,
    ),
    Conclusion(
        "width-lowers-cost",
        "BN→ReLU→Dropout (p = .5) costs less accuracy at width 512 than at width 32",
        f"{ACC} above no dropout, difference",
        difference(COST[512], COST[32]),
        ABOVE_0,
    ),
    Conclusion(
        "width-lowers-cost-from-128",
        "BN→ReLU→Dropout (p = .5) costs less accuracy at width 512 than at width 128",
        f"{ACC} above no dropout, difference",
        difference(COST[512], COST[128]),
        ABOVE_0,
    ),
    Conclusion(
        "wide-wins",
        "BN→ReLU→Dropout (p = .5) is more accurate than no dropout at width 512",
        f"{ACC}, difference",
        COST[512],
        ABOVE_0,
    ),
    Conclusion(
        "wide-does-not-lose",
        "BN→ReLU→Dropout (p = .5) is not seen to be less accurate than no dropout at width 512",
        f"{ACC}, difference",
        COST[512],
        NOT_BELOW_0,
    ),
    Conclusion(
        "wide-wins-nll",
        "BN→ReLU→Dropout (p = .5) has a lower NLL than no dropout at width 512",
        f"{NLL}, difference",
        gain(AT["bn-relu-dropout", 512], AT["none", 512], NLL),
        BELOW_0,
    ),
    Conclusion(
        "narrow-collapses",
        "BN→ReLU→Dropout (p = .5) costs more than .1 of accuracy at width 32",
        f"{ACC}, difference",
        COST[32],
        below_(-0.1),
    ),
    Conclusion(
        "narrow-collapses-beyond-repair",
        "BN→ReLU→Dropout (p = .5) is, re-estimated, still more than .1 less accurate than no dropout at width 32",
        f"re-estimated {ACC}, difference",
        gain(AT["bn-relu-dropout", 32], AT["none", 32], "re-estimated test accuracy"),
        below_(-0.1),
    ),
    Conclusion(
        "narrow-collapses-without-bn",
        "without BN, dropout (p = .5) in each block costs more than .1 of accuracy at width 32 too",
        f"{ACC}, difference",
        gain(NARROW_DROPOUT, NARROW),
        below_(-0.1),
    ),
    # budget
    Conclusion(
        "longer-training-lowers-cost",
        "BN→ReLU→Dropout (p = .5) costs less accuracy after 100 epochs than after 30",
        f"{ACC} above no dropout, difference",
        difference(gain(LONG_DROPOUT, LONG), gain(MID, NONE)),
        ABOVE_0,
    ),
    Conclusion(
        "longer-training-still-costs",
        "BN→ReLU→Dropout (p = .5) is less accurate than no dropout after 100 epochs too",
        f"{ACC}, difference",
        gain(LONG_DROPOUT, LONG),
        BELOW_0,
    ),
    # other noise
    Conclusion(
        "gaussian-shifts-alike",
        "in each block, Gaussian noise of dropout's variance (p = .5) gives dropout's ratio to .1",
        f"{RATIO}, mean of blocks 2 to 5, difference",
        difference(mean_ratio(GAUSSIAN), mean_ratio(MID)),
        within(0.1),
    ),
    Conclusion(
        "gaussian-costs",
        "in each block, Gaussian noise of dropout's variance (p = .5) is less accurate than no noise",
        f"{ACC}, difference",
        gain(GAUSSIAN, NONE),
        BELOW_0,
    ),
    Conclusion(
        "gaussian-milder",
        "in each block, Gaussian noise of dropout's variance (p = .5) is more accurate than dropout",
        f"{ACC}, difference",
        gain(GAUSSIAN, MID),
        ABOVE_0,
    ),
    Conclusion(
        "small-uniform-shifts-nothing",
        "in each block, uniform noise 1 + U(-.1, .1): every BN is right to 10 %",
        f"|{RATIO} - 1|, largest of the blocks",
        off_one(SMALL_UNIFORM),
        below_(0.1),
    ),
    Conclusion(
        "small-uniform-changes-nothing",
        "in each block, uniform noise 1 + U(-.1, .1) is as accurate as no noise to .01",
        f"{ACC}, difference",
        gain(SMALL_UNIFORM, NONE),
        within(0.01),
    ),
    Conclusion(
        "uniform-shifts-like-a-quarter",
        "in each block, noise 1 + U(-1, 1), whose variance is that of dropout at p = .25, gives its ratio to .05",
        f"{RATIO}, mean of blocks 2 to 5, difference",
        difference(mean_ratio(UNIFORM), mean_ratio(QUARTER)),
        within(0.05),
    ),
    Conclusion(
        "uniform-scores-like-a-quarter",
        "in each block, noise 1 + U(-1, 1) is as accurate as dropout at p = .25 to .01",
        f"{ACC}, difference",
        gain(UNIFORM, QUARTER),
        within(0.01),
    ),
    # only one of the two; p and learning rate chosen for each seed by validation NLL
    Conclusion(
        "bn-alone-gains",
        "BN alone is more accurate than nothing, each chosen on validation",
        f"{ACC}, difference",
        gain(mlp.ALONE["BN"], mlp.ALONE["nothing"]),
        ABOVE_0,
    ),
    Conclusion(
        "dropout-alone-gains",
        "dropout alone is more accurate than nothing, each chosen on validation",
        f"{ACC}, difference",
        gain(mlp.ALONE["dropout"], mlp.ALONE["nothing"]),
        ABOVE_0,
    ),
    Conclusion(
        "bn-alone-beats-dropout-alone",
        "BN alone is more accurate than dropout alone, each chosen on validation",
        f"{ACC}, difference",
        gain(mlp.ALONE["BN"], mlp.ALONE["dropout"]),
        ABOVE_0,
    ),
    Conclusion(
        "both-in-each-block-not-worse",
        "BN→ReLU→Dropout with p chosen on validation is not seen to be less accurate than BN alone",
        f"{ACC}, difference",
        gain(mlp.ALONE["BN and bn-relu-dropout"], mlp.ALONE["BN"]),
        NOT_BELOW_0,
    ),
    Conclusion(
        "both-dropout-first-worse",
        "Dropout→BN→ReLU with p chosen on validation is less accurate than BN alone",
        f"{ACC}, difference",
        gain(mlp.ALONE["BN and dropout-bn-relu"], mlp.ALONE["BN"]),
        BELOW_0,
    ),
    Conclusion(
        "both-last-same",
        "dropout after the last BN with p chosen on validation is as accurate as BN alone to .01",
        f"{ACC}, difference",
        gain(mlp.ALONE["BN and last"], mlp.ALONE["BN"]),
        within(0.01),
    ),
    Conclusion(
        "both-in-each-block-lower-nll",
        "BN→ReLU→Dropout with p chosen on validation has a lower NLL than BN alone",
        f"{NLL}, difference",
        gain(mlp.ALONE["BN and bn-relu-dropout"], mlp.ALONE["BN"], NLL),
        BELOW_0,
    ),
    Conclusion(
        "both-gain-little",
        "BN and dropout, placement and p chosen on validation, gain less than .01 of accuracy over BN alone",
        f"{ACC}, difference",
        gain(BOTH, mlp.ALONE["BN"]),
        below_(0.01),
    ),
    Conclusion(
        "both-beat-bn-alone",
        "BN and dropout, placement and p chosen on validation, are more accurate than BN alone",
        f"{ACC}, difference",
        gain(BOTH, mlp.ALONE["BN"]),
        ABOVE_0,
    ),
    Conclusion(
        "both-beat-dropout-alone",
        "BN and dropout, placement and p chosen on validation, are more accurate than dropout alone",
        f"{ACC}, difference",
        gain(BOTH, mlp.ALONE["dropout"]),
        ABOVE_0,
    ),
)


def _conv(placement: str, batch_norm: bool) -> list[conv.Case]:
    """Return the cases of a placement, one for each p."""
    return [case for case in conv.CASES if (case.placement, case.batch_norm) == (placement, batch_norm)]


WITH, WITHOUT = (
    {placement: _conv(placement, batch_norm) for placement in ("none", *conv.PLACEMENTS)}
    for batch_norm in (True, False)
)
CONV_2, CONV_5 = WITH["conv"]
SPATIAL_5, DENSE_5 = WITH["spatial"][1], WITH["dense"][1]

CONV = (
    Conclusion(
        "conv-gains-without-bn",
        "without BN, dropout after the convolutions (p chosen) is more accurate than none",
        f"{ACC}, difference",
        gain(WITHOUT["conv"], WITHOUT["none"]),
        ABOVE_0,
    ),
    Conclusion(
        "dense-gains-without-bn",
        "without BN, dropout after the dense layer (p chosen) is more accurate than none",
        f"{ACC}, difference",
        gain(WITHOUT["dense"], WITHOUT["none"]),
        ABOVE_0,
    ),
    Conclusion(
        "conv-gains-less-without-bn",
        "without BN, dropout after the dense layer gains more than after the convolutions (p chosen)",
        f"{ACC}, difference",
        gain(WITHOUT["dense"], WITHOUT["conv"]),
        ABOVE_0,
    ),
    Conclusion(
        "conv-gains-nothing-with-bn",
        "with BN, dropout after the convolutions (p chosen) is not seen to be more accurate than none",
        f"{ACC}, difference",
        gain(WITH["conv"], WITH["none"]),
        NOT_ABOVE_0,
    ),
    Conclusion(
        "dense-gains-nothing-with-bn",
        "with BN, dropout after the dense layer (p chosen) is not seen to be more accurate than none",
        f"{ACC}, difference",
        gain(WITH["dense"], WITH["none"]),
        NOT_ABOVE_0,
    ),
    Conclusion(
        "conv-gains-less-with-bn",
        "with BN, dropout after the dense layer is more accurate than after the convolutions (p chosen)",
        f"{ACC}, difference",
        gain(WITH["dense"], WITH["conv"]),
        ABOVE_0,
    ),
    Conclusion(
        "conv-half-costs-with-bn",
        "with BN, dropout at p = .5 after the convolutions is less accurate than none",
        f"{ACC}, difference",
        gain(CONV_5, WITH["none"]),
        BELOW_0,
    ),
    Conclusion(
        "conv-half-costs-without-bn",
        "without BN, dropout at p = .5 after the convolutions is less accurate than none",
        f"{ACC}, difference",
        gain(WITHOUT["conv"][1], WITHOUT["none"]),
        BELOW_0,
    ),
    Conclusion(
        "spatial-worse-without-bn",
        "without BN, spatial dropout is less accurate than dropout of elements after the convolutions (p chosen)",
        f"{ACC}, difference",
        gain(WITHOUT["spatial"], WITHOUT["conv"]),
        BELOW_0,
    ),
    Conclusion(
        "spatial-gains-nothing-with-bn",
        "with BN, spatial dropout (p chosen) is not seen to be more accurate than none",
        f"{ACC}, difference",
        gain(WITH["spatial"], WITH["none"]),
        NOT_ABOVE_0,
    ),
    Conclusion(
        "bn-is-sufficient",
        "BN alone is more accurate than dropout alone, its placement and p chosen on validation",
        f"{ACC}, difference",
        gain(WITH["none"], [case for placement in conv.PLACEMENTS for case in WITHOUT[placement]]),
        ABOVE_0,
    ),
    Conclusion(
        "conv-shifts",
        "with BN, dropout at p = .5 after the convolutions: both following BNs are at least 1.3 times too large",
        f"{RATIO}, smallest of the two",
        least_ratio(CONV_5),
        above_(1.3),
    ),
    Conclusion(
        "spatial-shifts",
        "with BN, spatial dropout at p = .5: both following BNs are at least 1.3 times too large",
        f"{RATIO}, smallest of the two",
        least_ratio(SPATIAL_5),
        above_(1.3),
    ),
    Conclusion(
        "dense-shifts-nothing",
        "with BN, dropout at p = .5 after the dense layer, which is after the last BN: every BN is right to 10 %",
        f"|{RATIO} - 1|, largest",
        off_one(DENSE_5),
        below_(0.1),
    ),
    Conclusion(
        "conv-repair",
        "with BN, p = .5 after the convolutions: re-estimation gains accuracy",
        RE,
        repair(CONV_5),
        ABOVE_0,
    ),
    Conclusion(
        "conv-repair-is-not-all",
        "with BN, p = .5 after the convolutions is, both re-estimated, less accurate than none",
        f"re-estimated {ACC}, difference",
        gain(CONV_5, WITH["none"], "re-estimated test accuracy"),
        BELOW_0,
    ),
    Conclusion(
        "conv-repair-more-than-half",
        "with BN, p = .5 after the convolutions: re-estimation gives back more than half of what dropout cost",
        f"{RE} less half of the {ACC} lost",
        difference(repair(CONV_5), gain(WITH["none"], CONV_5), 0.5),
        ABOVE_0,
    ),
    Conclusion(
        "conv-repaired-wins",
        "with BN, p = .2 after the convolutions is, both re-estimated, more accurate than none",
        f"re-estimated {ACC}, difference",
        gain(CONV_2, WITH["none"], "re-estimated test accuracy"),
        ABOVE_0,
    ),
    Conclusion(
        "spatial-repair",
        "with BN, spatial dropout at p = .5: re-estimation gains accuracy",
        RE,
        repair(SPATIAL_5),
        ABOVE_0,
    ),
    Conclusion(
        "dense-no-repair",
        "with BN, dropout at p = .5 after the dense layer: no gain from re-estimation is seen",
        RE,
        repair(DENSE_5),
        NOT_ABOVE_0,
    ),
)

D_NONE, D_MID, D_PRE, D_LAST = small.CASES[:4]
L_NONE, L_MID, L_PRE, _ = small.CASES[4:8]
_, S_MID, S_PRE, _ = small.CASES[8:12]
_, N_MID, N_PRE, _ = small.CASES[12:]

DIGITS = (
    Conclusion(
        "digits-bn-relu-dropout-costs",
        "5 x 128, 30 epochs: BN→ReLU→Dropout is less accurate than no dropout",
        f"{ACC}, difference",
        gain(D_MID, D_NONE),
        BELOW_0,
    ),
    Conclusion(
        "digits-dropout-bn-relu-costs",
        "5 x 128, 30 epochs: Dropout→BN→ReLU is less accurate than no dropout",
        f"{ACC}, difference",
        gain(D_PRE, D_NONE),
        BELOW_0,
    ),
    Conclusion(
        "digits-dropout-first-costs-more",
        "5 x 128, 30 epochs: Dropout→BN→ReLU is less accurate than BN→ReLU→Dropout",
        f"{ACC}, difference",
        gain(D_PRE, D_MID),
        BELOW_0,
    ),
    Conclusion(
        "digits-last-is-free",
        "5 x 128, 30 epochs: dropout after the last BN only is as accurate as no dropout to .01",
        f"{ACC}, difference",
        gain(D_LAST, D_NONE),
        within(0.01),
    ),
    Conclusion(
        "digits-longer-training-lowers-cost",
        "5 x 128: BN→ReLU→Dropout costs less accuracy after 60 epochs than after 30",
        f"{ACC} above no dropout, difference",
        difference(gain(L_MID, L_NONE), gain(D_MID, D_NONE)),
        ABOVE_0,
    ),
    Conclusion(
        "digits-longer-training-still-costs",
        "5 x 128, 60 epochs: BN→ReLU→Dropout is less accurate than no dropout",
        f"{ACC}, difference",
        gain(L_MID, L_NONE),
        BELOW_0,
    ),
    *(
        Conclusion(f"digits-repair-{key}", f"{words}: re-estimation makes it more accurate", RE, repair(case), ABOVE_0)
        for key, words, case in (
            ("bn-relu-dropout", "5 x 128, 30 epochs, BN→ReLU→Dropout", D_MID),
            ("dropout-bn-relu", "5 x 128, 30 epochs, Dropout→BN→ReLU", D_PRE),
            ("bn-relu-dropout-long", "5 x 128, 60 epochs, BN→ReLU→Dropout", L_MID),
            ("dropout-bn-relu-long", "5 x 128, 60 epochs, Dropout→BN→ReLU", L_PRE),
            ("bn-relu-dropout-shallow", "3 x 100, BN→ReLU→Dropout", S_MID),
            ("dropout-bn-relu-shallow", "3 x 100, Dropout→BN→ReLU", S_PRE),
            ("bn-relu-dropout-narrow", "5 x 64, BN→ReLU→Dropout", N_MID),
            ("dropout-bn-relu-narrow", "5 x 64, Dropout→BN→ReLU", N_PRE),
        )
    ),
    Conclusion(
        "digits-repair-falls-with-training",
        "5 x 128, BN→ReLU→Dropout: re-estimation gains less after 60 epochs than after 30",
        f"{RE}, difference",
        difference(repair(L_MID), repair(D_MID)),
        BELOW_0,
    ),
    Conclusion(
        "digits-no-repair-of-last",
        "5 x 128, 30 epochs, dropout after the last BN only: no gain from re-estimation is seen",
        RE,
        repair(D_LAST),
        NOT_ABOVE_0,
    ),
    Conclusion(
        "digits-narrow-shifts-more",
        "BN→ReLU→Dropout, 30 epochs: the mean ratio is higher at 5 x 64 than at 5 x 128",
        f"{RATIO}, mean of blocks 2 to 5, difference",
        difference(mean_ratio(N_MID), mean_ratio(D_MID)),
        ABOVE_0,
    ),
)
CONCLUSIONS = {"mlp": MLP, "conv": CONV, "digits": DIGITS}


def judge(conclusion: Conclusion, block: Block) -> dict[str, Any]:
    """Return the interval of what is measured, how many seeds are above 0, and whether the rule holds."""
    values = conclusion.measure(block)
    found = interval(values)
    return {
        "interval": [round(bound, 4) for bound in found],
        "positive": int((values > 0).sum()),
        "holds": bool(conclusion.rule.holds(found)),
    }


def run(
    study: ModuleType,
    cases: Iterable[Any],
    seeds: Sequence[int],
    workers: int = 1,
    bar: Callable[[Iterable[Any], int], Iterator[Any]] = lambda items, total: iter(items),
) -> tuple[dict[str, list[list[float]]], dict[str, list[list[float]]]]:
    """Return, for each case, scores and ratios, a list for each seed."""
    cases = list(cases)
    jobs = [(case, seed) for case in cases for seed in seeds]
    found = iter(list(bar(parallel(study.run, jobs, workers), len(jobs))))
    results = {case.name: [next(found) for _ in seeds] for case in cases}
    scores = {name: [result.scores for result in rows] for name, rows in results.items()}
    return scores, {name: [result.ratios for result in rows] for name, rows in results.items()}


def conclusions(name: str, results: Mapping[str, Any]) -> dict[str, Any]:
    """Return what each block's scores say about each conclusion of a study."""
    blocks = {block: Block(results["scores"][block], results["ratios"][block]) for block in BLOCKS}
    return {
        c.id: {
            "statement": c.statement,
            "rule": f"{c.measured}: {c.rule.words}",
            **{block: judge(c, values) for block, values in blocks.items()},
        }
        for c in CONCLUSIONS[name]
    }


def train_all(name: str) -> dict[str, Any]:
    """Run both blocks of a study and return all but the conclusions."""
    study = STUDIES[name]
    code = code_digest(study.__name__)  # before the run: the code may change while it lasts
    cases = study.CASES
    blocks = {}
    for block, seeds in BLOCKS.items():
        print(f"{name}, {block} block of seeds", file=sys.stderr)
        blocks[block] = run(study, cases, seeds, workers=2, bar=progress)
    return {
        "code_sha256": code,
        "versions": versions(*PACKAGES[name]),
        "seeds": {block: list(seeds) for block, seeds in BLOCKS.items()},
        "columns": COLUMNS,
        "cases": {case.name: case._asdict() for case in cases},
        "scores": {block: scores for block, (scores, _) in blocks.items()},
        "ratios": {block: ratios for block, (_, ratios) in blocks.items()},
    }


def main() -> None:
    """Run the studies named on the command line, all by default, and store scores, ratios and conclusions."""
    parser = argparse.ArgumentParser(description="Run the studies of dropout and BatchNorm and store their results.")
    parser.add_argument("studies", nargs="*", help=f"some of {', '.join(STUDIES)}; all by default")
    parser.add_argument("--judge", action="store_true", help="judge the stored scores again, without training")
    options = parser.parse_args()
    unknown = set(options.studies) - set(STUDIES)
    if unknown:
        parser.error(f"unknown study {min(unknown)}; known are {', '.join(STUDIES)}")
    for name in options.studies or STUDIES:
        stored = f"batch_norm_{name}"
        results = load(stored) if options.judge else train_all(name)
        save(stored, {**results, "conclusions": conclusions(name, results)})


if __name__ == "__main__":
    main()
