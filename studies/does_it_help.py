"""Does dropout help, and why? Sizes of data and network, rates, depth, training time, against tuned weight decay.

`python -m studies.does_it_help` trains every case of `does_it_help_cases` on the digits, MNIST and a tabular set under
two blocks of eight seeds and stores scores, measures and conclusions; name one or more of digits, mnist and cancer to
run these alone, and give --judge to judge the stored scores again without training. All takes about ten minutes on two
free cores.

Networks of the same sizes under the same seed share training rows, initial weights and batches; all differences are
taken seed by seed. `CONCLUSIONS` and their rules were written down before any result of the two blocks was seen, after
a look at seeds 70 to 75, which belong to neither. A conclusion is robust if its rule holds in both blocks. Nothing is
chosen on test rows: checkpoints and, where a case says "tuned", one of eight settings are chosen for each seed on its
validation rows, by accuracy where accuracy is compared and by NLL where NLL is.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from dropoutlib.stored import load
from studies import does_it_help_cases as study
from studies.batch_norm import ABOVE_0, BELOW_0, NOT_ABOVE_0, NOT_BELOW_0, Rule, above_, below_, within
from studies.does_it_help_cases import ARMS, BASE, COLUMNS, LRS
from studies.does_it_help_training import Case
from studies.learning_rate import interval
from studies.store import code_digest, parallel, progress, save, versions

BLOCKS = {"first": range(8), "second": range(1000, 1008)}
PACKAGES = ("numpy", "torch", "scikit-learn")
ACC, NLL = "test accuracy", "test NLL"

Values = npt.NDArray[np.float64]
Cases = Case | Sequence[Case]


class Block:
    """Scores of one block of seeds, (seeds, columns) for each case; and measures, (seeds,), by case and name."""

    def __init__(self, scores: Mapping[str, Any], measures: Mapping[str, Mapping[str, Any]]) -> None:
        self._scores = {name: np.array(values) for name, values in scores.items()}
        self._measures = measures

    def score(self, cases: Cases, column: str) -> Values:
        """Return one score a seed; of several cases, that of the case which the seed's validation rows choose.

        They choose by NLL where the column is an NLL, otherwise by accuracy, and by NLL between equals.
        """
        cases = [cases] if isinstance(cases, Case) else cases
        scores = np.array([self._scores[case.name] for case in cases])
        chosen = self.chosen(cases, column)
        values: Values = scores[chosen, np.arange(chosen.size), COLUMNS.index(column)]
        return values

    def chosen(self, cases: Sequence[Case], column: str) -> npt.NDArray[np.intp]:
        """Return for each seed the index of the case that its validation rows choose."""
        by = {name: np.array([self._scores[c.name][:, i] for c in cases]) for i, name in enumerate(COLUMNS)}
        worse = by["validation NLL"]
        if not column.endswith("NLL"):
            worse = 1e-6 * by["validation NLL where most accurate"] - by["validation accuracy"]
        chosen: npt.NDArray[np.intp] = worse.argmin(axis=0)
        return chosen

    def measure(self, case: Case, name: str) -> Values:
        """Return what was measured in a case's networks, one number a seed; a column of scores is a measure too."""
        if name in COLUMNS:
            return self.score(case, name)
        return np.array(self._measures[case.name][name])


Measure = Callable[[Block], Values]


def gain(cases: Cases, others: Cases, column: str = ACC) -> Measure:
    """Return how much higher the score of a case is than that of another, of several: of the chosen ones."""
    return lambda block: block.score(cases, column) - block.score(others, column)


def difference(measure: Measure, other: Measure) -> Measure:
    """Return a measure less another."""
    return lambda block: measure(block) - other(block)


def between(case: Case, name: str, other: Case, other_name: str = "") -> Measure:
    """Return how much more was measured in one case than, perhaps something else, in another."""
    return lambda block: block.measure(case, name) - block.measure(other, other_name or name)


class Conclusion(NamedTuple):
    """A sentence, what is measured for it, and the rule by which a block of seeds decides it."""

    id: str
    statement: str
    measured: str
    measure: Measure
    rule: Rule


def _help(name: str, words: str, case: Case, column: str, rule: Rule) -> Conclusion:
    """Return a conclusion on one case against the same without any noise."""
    plain = case._replace(p=0.0, p_input=0.0, noise="bernoulli")
    return Conclusion(name, words, f"{column}, difference from no dropout", gain(case, plain, column), rule)


def _tuned(data: str) -> list[Conclusion]:
    """Return the conclusions on arms with equal budgets that are the same for the two sets of images."""
    arms = ARMS[data]
    none = [BASE[data]._replace(lr=lr) for lr in LRS]

    def row(name: str, words: str, arm: str, other: str, column: str, rule: Rule) -> Conclusion:
        cases = {"nothing": none, **arms}
        measure = gain(cases[arm], cases[other], column)
        return Conclusion(f"{data}-tuned-{name}", f"tuned: {words}", f"{column}, difference", measure, rule)

    return [
        row("dropout-gains", "dropout is more accurate than neither", "dropout", "nothing", ACC, ABOVE_0),
        row("dropout-lowers-nll", "dropout has a lower NLL than neither", "dropout", "nothing", NLL, BELOW_0),
        row("decay-gains", "weight decay is more accurate than neither", "weight decay", "nothing", ACC, ABOVE_0),
        row("decay-lowers-nll", "weight decay has a lower NLL than neither", "weight decay", "nothing", NLL, BELOW_0),
        row("same", "dropout is as accurate as weight decay to .01", "dropout", "weight decay", ACC, within(0.01)),
        row(
            "not-above",
            "dropout is not seen to be more accurate than weight decay",
            "dropout",
            "weight decay",
            ACC,
            NOT_ABOVE_0,
        ),
        row("lower-nll", "dropout has a lower NLL than weight decay", "dropout", "weight decay", NLL, BELOW_0),
        row(
            "both-gain-nothing",
            "both are not seen to be more accurate than weight decay alone",
            "both",
            "weight decay",
            ACC,
            NOT_ABOVE_0,
        ),
        row("both-lower-nll", "both have a lower NLL than weight decay alone", "both", "weight decay", NLL, BELOW_0),
    ]


def _why(data: str) -> list[Conclusion]:
    """Return the conclusions on what dropout does to the hidden units and on sub-networks."""
    plain, decay, dropout, gaussian = study.MEASURED[data]
    half = "accuracy without 0.5"
    final_acc, final_nll = f"final {ACC}", f"final {NLL}"

    def row(name: str, words: str, measure: Measure, measured: str, rule: Rule) -> Conclusion:
        return Conclusion(f"{data}-{name}", words, measured, measure, rule)

    return [
        row(
            "survives-removal",
            "without half of its hidden units the dropout network is more than .1 more accurate "
            "than the plain one without half of its",
            between(dropout, half, plain),
            half,
            above_(0.1),
        ),
        row(
            "decay-does-not-survive",
            "weight decay gains less than half of that",
            lambda block: (
                (block.measure(decay, half) - block.measure(plain, half))
                - 0.5 * (block.measure(dropout, half) - block.measure(plain, half))
            ),
            f"{half}, gain less half of dropout's",
            BELOW_0,
        ),
        row(
            "helpful-in-more-contexts",
            "dropout raises the share of random contexts in which a unit is helpful by more than .05",
            between(dropout, "helpful in halves", plain),
            "helpful in halves, difference",
            above_(0.05),
        ),
        row(
            "decay-not-helpful-in-more",
            "weight decay raises that share by less than .05",
            between(decay, "helpful in halves", plain),
            "helpful in halves, difference",
            below_(0.05),
        ),
        row(
            "less-correlated",
            "dropout makes hidden units less correlated",
            between(dropout, "correlation", plain),
            "mean |correlation|, difference",
            BELOW_0,
        ),
        row(
            "hardly-less-correlated",
            "dropout changes their mean |correlation| by less than .05",
            between(dropout, "correlation", plain),
            "mean |correlation|, difference",
            within(0.05),
        ),
        row(
            "decay-more-correlated",
            "weight decay makes hidden units more correlated",
            between(decay, "correlation", plain),
            "mean |correlation|, difference",
            ABOVE_0,
        ),
        row(
            "sparser",
            "under dropout fewer hidden units are active",
            between(dropout, "active", plain),
            "share of active units, difference",
            BELOW_0,
        ),
        row(
            "gaussian-as-accurate",
            "Gaussian noise of the same variance, which has no sub-networks, is as accurate as dropout to .01",
            gain(gaussian, dropout, final_acc),
            f"{final_acc}, difference",
            within(0.01),
        ),
        row(
            "gaussian-nll",
            "Gaussian noise is not seen to have a higher NLL than dropout",
            gain(gaussian, dropout, final_nll),
            f"{final_nll}, difference",
            NOT_ABOVE_0,
        ),
        row(
            "gaussian-survives",
            "networks trained with Gaussian noise survive the removal of half of their units as well, to .03",
            between(gaussian, half, dropout),
            f"{half}, difference",
            within(0.03),
        ),
        row(
            "one-sub-network",
            "one sub-network is more than .02 less accurate than the whole network",
            between(dropout, half, dropout, final_acc),
            f"{half}, difference from the whole",
            below_(-0.02),
        ),
        row(
            "average-is-the-whole",
            "the average of 50 sub-networks is as accurate as the whole network to .01",
            between(dropout, "arithmetic mean accuracy", dropout, final_acc),
            "accuracy, difference",
            within(0.01),
        ),
        row(
            "average-gains-nothing",
            "the average of 50 sub-networks is not seen to be more accurate than the whole",
            between(dropout, "arithmetic mean accuracy", dropout, final_acc),
            "accuracy, difference",
            NOT_ABOVE_0,
        ),
        row(
            "geometric-is-the-whole",
            "the geometric mean of 50 sub-networks has the whole network's NLL to .02",
            between(dropout, "geometric mean NLL", dropout, final_nll),
            "NLL, difference",
            within(0.02),
        ),
        row(
            "plain-average-recovers",
            "averaged, 50 sub-networks of the plain network gain more than .1 over one of them",
            between(plain, "arithmetic mean accuracy", plain, half),
            "accuracy, difference",
            above_(0.1),
        ),
    ]


def digits(rows: int = 300, p: float = 0.0, p_input: float = 0.0, **other: Any) -> Case:
    """Return a case on the digits."""
    return Case("digits", rows, p, p_input, **other)


def mnist(rows: int = 1000, p: float = 0.0, p_input: float = 0.0, **other: Any) -> Case:
    """Return a case on MNIST."""
    return Case("mnist", rows, p, p_input, **other)


def cancer(rows: int = 300, p: float = 0.0, p_input: float = 0.0, **other: Any) -> Case:
    """Return a case on the tabular set."""
    return Case("cancer", rows, p, p_input, **other)


TRAIN = "final training accuracy"
HALF_WIDTH = study.ENSEMBLES["digits"][0]

DIGITS = [
    # rows
    _help("digits-100-half-gains", "n = 100: p = .5 is more accurate than none", digits(100, 0.5), ACC, ABOVE_0),
    _help("digits-100-half-lowers-nll", "n = 100: p = .5 has a lower NLL", digits(100, 0.5), NLL, BELOW_0),
    _help("digits-300-half-gains", "n = 300: p = .5 is more accurate than none", digits(300, 0.5), ACC, ABOVE_0),
    _help("digits-300-half-lowers-nll", "n = 300: p = .5 has a lower NLL", digits(300, 0.5), NLL, BELOW_0),
    _help("digits-300-fifth-gains", "n = 300: p = .2 is more accurate than none", digits(300, 0.2), ACC, ABOVE_0),
    _help("digits-300-fifth-lowers-nll", "n = 300: p = .2 has a lower NLL", digits(300, 0.2), NLL, BELOW_0),
    _help(
        "digits-1000-half-gains-nothing",
        "n = 1,000: p = .5 is not seen to be more accurate than none",
        digits(1000, 0.5),
        ACC,
        NOT_ABOVE_0,
    ),
    _help("digits-1000-fifth-lowers-nll", "n = 1,000: p = .2 has a lower NLL", digits(1000, 0.2), NLL, BELOW_0),
    Conclusion(
        "digits-gain-falls-with-rows",
        "p = .5 gains more accuracy at n = 100 than at n = 1,000",
        f"{ACC} above no dropout, difference",
        difference(gain(digits(100, 0.5), digits(100)), gain(digits(1000, 0.5), digits(1000))),
        ABOVE_0,
    ),
    # width
    _help(
        "digits-narrow-half-loses",
        "width 16, n = 300: p = .5 costs more than .02",
        digits(300, 0.5, width=16),
        ACC,
        below_(-0.02),
    ),
    _help(
        "digits-narrow-fifth-loses",
        "width 16, n = 300: p = .2 is less accurate than none",
        digits(300, 0.2, width=16),
        ACC,
        BELOW_0,
    ),
    _help(
        "digits-narrow-fifth-raises-nll",
        "width 16, n = 300: p = .2 has a higher NLL",
        digits(300, 0.2, width=16),
        NLL,
        ABOVE_0,
    ),
    _help(
        "digits-narrow-underfits",
        "width 16, n = 300: p = .5 costs more than .03 of the training accuracy",
        digits(300, 0.5, width=16),
        TRAIN,
        below_(-0.03),
    ),
    Conclusion(
        "digits-width-raises-gain",
        "n = 300: p = .5 gains more at width 256 than at width 16",
        f"{ACC} above no dropout, difference",
        difference(
            gain(digits(300, 0.5, width=256), digits(300, width=256)),
            gain(digits(300, 0.5, width=16), digits(300, width=16)),
        ),
        ABOVE_0,
    ),
    Conclusion(
        "digits-width-raises-gain-from-64",
        "n = 300: p = .5 gains more at width 256 than at width 64",
        f"{ACC} above no dropout, difference",
        difference(
            gain(digits(300, 0.5, width=256), digits(300, width=256)),
            gain(digits(300, 0.5, width=64), digits(300, width=64)),
        ),
        ABOVE_0,
    ),
    Conclusion(
        "digits-doubling-pays",
        "n = 300: p = .5 at width 128 is more accurate than none at width 64",
        f"{ACC}, difference",
        gain(digits(300, 0.5), digits(300, width=64)),
        ABOVE_0,
    ),
    Conclusion(
        "digits-doubling-alone",
        "n = 300: without dropout, width 128 is as accurate as width 64 to .01",
        f"{ACC}, difference",
        gain(digits(300), digits(300, width=64)),
        within(0.01),
    ),
    # rates
    Conclusion(
        "digits-rates-flat",
        "n = 300: p = .2 is as accurate as p = .5 to .01",
        f"{ACC}, difference",
        gain(digits(300, 0.2), digits(300, 0.5)),
        within(0.01),
    ),
    _help("digits-high-p-raises-nll", "n = 300: p = .8 has a higher NLL than none", digits(300, 0.8), NLL, ABOVE_0),
    _help("digits-high-p-loses", "n = 300: p = .8 is less accurate than none", digits(300, 0.8), ACC, BELOW_0),
    _help(
        "digits-input-half-loses",
        "n = 300: input p = .5 alone is less accurate than none",
        digits(300, 0.0, 0.5),
        ACC,
        BELOW_0,
    ),
    _help(
        "digits-input-fifth-gains-nothing",
        "n = 300: input p = .2 alone is not seen to be more accurate than none",
        digits(300, 0.0, 0.2),
        ACC,
        NOT_ABOVE_0,
    ),
    Conclusion(
        "digits-input-spoils-half",
        "n = 300: p = .5 with input p = .2 has a higher NLL than p = .5 alone",
        f"{NLL}, difference",
        gain(digits(300, 0.5, 0.2), digits(300, 0.5), NLL),
        ABOVE_0,
    ),
    Conclusion(
        "digits-low-pair",
        "n = 300: p = .2 with input p = .1 has a lower NLL than p = .5 alone",
        f"{NLL}, difference",
        gain(digits(300, 0.2, 0.1), digits(300, 0.5), NLL),
        BELOW_0,
    ),
    # depth
    _help(
        "digits-shallow-lowers-nll",
        "one hidden layer, n = 300: p = .5 has a lower NLL",
        digits(300, 0.5, depth=1),
        NLL,
        BELOW_0,
    ),
    _help(
        "digits-deep-gains-nothing",
        "four hidden layers, n = 300: p = .5 is not seen to be more accurate than none",
        digits(300, 0.5, depth=4),
        ACC,
        NOT_ABOVE_0,
    ),
    Conclusion(
        "digits-depth-spoils",
        "n = 300: p = .5 lowers the NLL less with four hidden layers than with one",
        f"{NLL} above no dropout, difference",
        difference(
            gain(digits(300, 0.5, depth=4), digits(300, depth=4), NLL),
            gain(digits(300, 0.5, depth=1), digits(300, depth=1), NLL),
        ),
        ABOVE_0,
    ),
    # training time
    _help(
        "digits-short-loses",
        "n = 1,000, 60 steps: p = .5 costs more than .02",
        digits(1000, 0.5, steps=60),
        ACC,
        below_(-0.02),
    ),
    _help(
        "digits-long-same",
        "n = 1,000, 3,000 steps: p = .5 is as accurate as none to .01",
        digits(1000, 0.5, steps=3000),
        ACC,
        within(0.01),
    ),
    *_tuned("digits"),
    *_why("digits"),
    # sub-networks with weights of their own
    Conclusion(
        "digits-alone-beats-shared",
        "a network of half the width, trained alone, is more accurate than one sub-network of the dropout network",
        "accuracy, difference",
        between(HALF_WIDTH, "one member accuracy", digits(300, 0.5), "accuracy without 0.5"),
        ABOVE_0,
    ),
    Conclusion(
        "digits-averaging-gains",
        "the average of 16 such networks has a lower NLL than one of them",
        "NLL, difference",
        between(HALF_WIDTH, "ensemble NLL", HALF_WIDTH, "one member NLL"),
        BELOW_0,
    ),
    Conclusion(
        "digits-ensemble-same",
        "the average of 16 such networks is as accurate as the dropout network to .01",
        "accuracy, difference",
        between(HALF_WIDTH, "ensemble accuracy", digits(300, 0.5), f"final {ACC}"),
        within(0.01),
    ),
    Conclusion(
        "digits-ensemble-nll",
        "the average of 16 such networks has a lower NLL than the dropout network",
        "NLL, difference",
        between(HALF_WIDTH, "ensemble NLL", digits(300, 0.5), f"final {NLL}"),
        BELOW_0,
    ),
]

MNIST = [
    _help(
        "mnist-100-half-gains-nothing",
        "n = 100: p = .5 is not seen to be more accurate than none",
        mnist(100, 0.5),
        ACC,
        NOT_ABOVE_0,
    ),
    _help(
        "mnist-100-half-raises-final-nll",
        "n = 100, without early stopping: p = .5 has a higher NLL",
        mnist(100, 0.5),
        f"final {NLL}",
        ABOVE_0,
    ),
    _help(
        "mnist-100-both-gain",
        "n = 100: p = .5 with input p = .2 is more accurate than none",
        mnist(100, 0.5, 0.2),
        ACC,
        ABOVE_0,
    ),
    _help(
        "mnist-300-both-gain",
        "n = 300: p = .5 with input p = .2 is more accurate than none",
        mnist(300, 0.5, 0.2),
        ACC,
        ABOVE_0,
    ),
    _help(
        "mnist-1000-fifth-gains-nothing",
        "n = 1,000: p = .2 is not seen to be more accurate than none",
        mnist(1000, 0.2),
        ACC,
        NOT_ABOVE_0,
    ),
    _help(
        "mnist-1000-half-gains-nothing",
        "n = 1,000: p = .5 is not seen to be more accurate than none",
        mnist(1000, 0.5),
        ACC,
        NOT_ABOVE_0,
    ),
    _help("mnist-1000-half-lowers-nll", "n = 1,000: p = .5 has a lower NLL", mnist(1000, 0.5), NLL, BELOW_0),
    _help(
        "mnist-1000-both-gain",
        "n = 1,000: p = .5 with input p = .2 is more accurate than none",
        mnist(1000, 0.5, 0.2),
        ACC,
        ABOVE_0,
    ),
    _help(
        "mnist-1000-both-lower-nll",
        "n = 1,000: p = .5 with input p = .2 has a lower NLL",
        mnist(1000, 0.5, 0.2),
        NLL,
        BELOW_0,
    ),
    Conclusion(
        "mnist-early-stopping-shares",
        "n = 1,000: p = .5 with input p = .2 lowers the NLL less if both are stopped early",
        f"{NLL} above no dropout, difference",
        difference(
            gain(mnist(1000, 0.5, 0.2), mnist(1000), NLL), gain(mnist(1000, 0.5, 0.2), mnist(1000), f"final {NLL}")
        ),
        ABOVE_0,
    ),
    _help(
        "mnist-3000-short-loses",
        "n = 3,000, 600 steps: p = .5 is less accurate than none",
        mnist(3000, 0.5),
        ACC,
        BELOW_0,
    ),
    _help(
        "mnist-3000-short-underfits",
        "n = 3,000, 600 steps: p = .5 costs more than .01 of the training accuracy",
        mnist(3000, 0.5),
        TRAIN,
        below_(-0.01),
    ),
    _help(
        "mnist-3000-long-both-gain-nothing",
        "n = 3,000, 2,000 steps: p = .5 with input p = .2 is not seen to be more accurate than none",
        mnist(3000, 0.5, 0.2, steps=2000),
        ACC,
        NOT_ABOVE_0,
    ),
    _help(
        "mnist-3000-long-both-lower-nll",
        "n = 3,000, 2,000 steps: p = .5 with input p = .2 has a lower NLL",
        mnist(3000, 0.5, 0.2, steps=2000),
        NLL,
        BELOW_0,
    ),
    _help(
        "mnist-1000-long-both-gain",
        "n = 1,000, 2,000 steps: p = .5 with input p = .2 is more accurate than none",
        mnist(1000, 0.5, 0.2, steps=2000),
        ACC,
        ABOVE_0,
    ),
    _help(
        "mnist-narrow-loses",
        "width 16, n = 1,000: p = .5 costs more than .02",
        mnist(1000, 0.5, width=16),
        ACC,
        below_(-0.02),
    ),
    _help(
        "mnist-wide-lowers-nll",
        "width 256, n = 1,000: p = .5 has a lower NLL",
        mnist(1000, 0.5, width=256),
        NLL,
        BELOW_0,
    ),
    _help(
        "mnist-input-fifth-gains",
        "n = 1,000: input p = .2 alone is more accurate than none",
        mnist(1000, 0.0, 0.2),
        ACC,
        ABOVE_0,
    ),
    _help(
        "mnist-input-half-does-not-lose",
        "n = 1,000: input p = .5 alone is not seen to be less accurate than none",
        mnist(1000, 0.0, 0.5),
        ACC,
        NOT_BELOW_0,
    ),
    *_tuned("mnist"),
    *_why("mnist"),
]

CANCER_NONE = [cancer(lr=lr) for lr in LRS]
CANCER = [
    _help(
        "cancer-50-gains-nothing",
        "n = 50: p = .5 is not seen to be more accurate than none",
        cancer(50, 0.5),
        ACC,
        NOT_ABOVE_0,
    ),
    _help(
        "cancer-300-gains-nothing",
        "n = 300: p = .5 is not seen to be more accurate than none",
        cancer(300, 0.5),
        ACC,
        NOT_ABOVE_0,
    ),
    _help("cancer-300-same", "n = 300: p = .5 is as accurate as none to .01", cancer(300, 0.5), ACC, within(0.01)),
    _help("cancer-300-nll", "n = 300: p = .5 is not seen to have a lower NLL", cancer(300, 0.5), NLL, NOT_BELOW_0),
    _help(
        "cancer-300-final-nll",
        "n = 300, without early stopping: p = .5 has a lower NLL",
        cancer(300, 0.5),
        f"final {NLL}",
        BELOW_0,
    ),
    Conclusion(
        "cancer-tuned-gains-nothing",
        "tuned: dropout is not seen to be more accurate than neither",
        f"{ACC}, difference",
        gain(ARMS["cancer"]["dropout"], CANCER_NONE),
        NOT_ABOVE_0,
    ),
    Conclusion(
        "cancer-tuned-not-above",
        "tuned: dropout is not seen to be more accurate than weight decay",
        f"{ACC}, difference",
        gain(ARMS["cancer"]["dropout"], ARMS["cancer"]["weight decay"]),
        NOT_ABOVE_0,
    ),
    Conclusion(
        "cancer-tuned-nll",
        "tuned: dropout is not seen to have a lower NLL than weight decay",
        f"{NLL}, difference",
        gain(ARMS["cancer"]["dropout"], ARMS["cancer"]["weight decay"], NLL),
        NOT_BELOW_0,
    ),
]
CONCLUSIONS = {"digits": DIGITS, "mnist": MNIST, "cancer": CANCER}


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
    cases: Iterable[Case],
    seeds: Sequence[int],
    workers: int = 1,
    bar: Callable[[Iterable[Any], int], Iterator[Any]] = lambda items, total: iter(items),
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return scores and measures by the names of the cases."""
    cases = list(cases)
    jobs = [(case, tuple(seeds)) for case in cases]
    found = list(bar(parallel(study.run, jobs, workers), len(jobs)))
    scores = {case.name: result.scores for case, result in zip(cases, found, strict=True)}
    return scores, {case.name: result.measures for case, result in zip(cases, found, strict=True) if result.measures}


def conclusions(data: str, results: Mapping[str, Any]) -> dict[str, Any]:
    """Return what each block's scores say about each conclusion on a data set."""
    blocks = {block: Block(results["scores"][block], results["measures"][block]) for block in BLOCKS}
    return {
        c.id: {
            "statement": c.statement,
            "rule": f"{c.measured}: {c.rule.words}",
            **{block: judge(c, values) for block, values in blocks.items()},
        }
        for c in CONCLUSIONS[data]
    }


def train_all(data: str) -> dict[str, Any]:
    """Run both blocks on a data set and return all but the conclusions."""
    code = code_digest(study.__name__)  # before the run: the code may change while it lasts
    cases = study.CASES[data]
    blocks = {}
    for block, seeds in BLOCKS.items():
        print(f"{data}, {block} block of seeds", file=sys.stderr)
        blocks[block] = run(cases, seeds, workers=2, bar=progress)
    return {
        "code_sha256": code,
        "versions": versions(*PACKAGES),
        "seeds": {block: list(seeds) for block, seeds in BLOCKS.items()},
        "columns": COLUMNS,
        "cases": {case.name: case._asdict() for case in cases},
        "scores": {block: scores for block, (scores, _) in blocks.items()},
        "measures": {block: measures for block, (_, measures) in blocks.items()},
    }


def main() -> None:
    """Run the study on the data sets named on the command line, all by default, and store what came out."""
    parser = argparse.ArgumentParser(description="Run the study of dropout's use and store its results.")
    parser.add_argument("data", nargs="*", help=f"some of {', '.join(CONCLUSIONS)}; all by default")
    parser.add_argument("--judge", action="store_true", help="judge the stored scores again, without training")
    options = parser.parse_args()
    unknown = set(options.data) - set(CONCLUSIONS)
    if unknown:
        parser.error(f"unknown data {min(unknown)}; known are {', '.join(CONCLUSIONS)}")
    for data in options.data or CONCLUSIONS:
        stored = f"does_it_help_{data}"
        results = load(stored) if options.judge else train_all(data)
        save(stored, {**results, "conclusions": conclusions(data, results)})


if __name__ == "__main__":
    main()
