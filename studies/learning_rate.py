"""Which learning rate suits which p? Standard and inverted dropout, SGD and Adam, on the digits.

`python -m studies.learning_rate` trains 64-100-100-10 with dropout after each hidden ReLU from the same initial weights
and the same batches with every learning rate of a grid, and stores the scores after 200 and after 1,000 steps of 50
rows. The learning rate is chosen, for each seed, by the negative log-likelihood (NLL) of the 297 validation rows;
test accuracies are those at the chosen one. It takes just under four minutes on two free cores.

`CONCLUSIONS` and their rules were written down before the two blocks of eight seeds ran. A conclusion counts as robust
if its rule holds in both blocks, after 200 and after 1,000 steps alike, unless it names one of the two.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import Any, NamedTuple, TypedDict

import numpy as np
import numpy.typing as npt

from dropoutlib.data import Dataset, digits
from dropoutlib.layers import InvertedDropout, StandardDropout
from dropoutlib.network import SGD, Adam, Parameter, Sequential, softmax_cross_entropy
from dropoutlib.twins import multilayer_perceptron
from studies.store import code_digest, progress, save

BLOCKS = {"first": range(8), "second": range(1000, 1008)}
CHECKPOINTS = (200, 1000)
BATCH = 50
DROPOUTS: dict[str, type[InvertedDropout | StandardDropout]] = {
    "inverted": InvertedDropout,
    "standard": StandardDropout,
}
OPTIMIZERS: dict[str, Callable[[list[Parameter], float], SGD | Adam]] = {
    "SGD": SGD,
    "momentum": functools.partial(SGD, momentum=0.9),
    "Adam": Adam,
}
RATES = {
    ("SGD", "inverted"): (0.05, 0.1, 0.2, 0.5, 1.0),
    ("SGD", "standard"): (0.2, 0.5, 1.0, 2.0, 5.0),
    ("momentum", "inverted"): (0.005, 0.01, 0.02, 0.05, 0.1, 0.2),
    ("Adam", "inverted"): (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02),
    ("Adam", "standard"): (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05),
}
DROP = {"SGD": (0.0, 0.2, 0.5, 0.8), "momentum": (0.8,), "Adam": (0.0, 0.2, 0.5, 0.8)}
DIVERGED = 99.0

Scores = npt.NDArray[np.float64]


class Case(NamedTuple):
    """What one curve over learning rates belongs to; with p = 0 both conventions are the same."""

    optimizer: str
    convention: str
    p: float

    @property
    def name(self) -> str:
        return f"{self.optimizer} {self.convention} {self.p}"

    @property
    def rates(self) -> tuple[float, ...]:
        return RATES[self.optimizer, self.convention]


CASES = [
    Case(optimizer, convention, p)
    for optimizer, convention in RATES
    for p in DROP[optimizer]
    if p > 0 or convention == "inverted"
]


def train(case: Case, lr: float, seed: int, checkpoints: Sequence[int] = CHECKPOINTS) -> list[list[float]]:
    """Return [validation NLL, test NLL, test accuracy] at each checkpoint."""
    data = _data()
    net = multilayer_perceptron(DROPOUTS[case.convention], case.p, seed).net
    optimizer = OPTIMIZERS[case.optimizer](net.parameters(), lr)
    rng = np.random.default_rng(np.random.PCG64([seed, 1]))
    found = []
    with np.errstate(all="ignore"):
        for step in range(1, max(checkpoints) + 1):
            rows = rng.integers(0, data.train.y.size, BATCH)
            _, gradient = softmax_cross_entropy(net(data.train.x[rows]), data.train.y[rows])
            net.backward(gradient)
            optimizer.step()
            if step in checkpoints:
                found.append(_scores(net.eval(), data))
                net.train()
    return found


def run(
    cases: Iterable[Case] = CASES,
    seeds: Sequence[int] = BLOCKS["first"],
    checkpoints: Sequence[int] = CHECKPOINTS,
    workers: int = 1,
    bar: Callable[[Iterable[Any], int], Iterator[Any]] = lambda items, total: iter(items),
) -> dict[str, Scores]:
    """Return, for each case, scores of shape (learning rates, seeds, checkpoints, 3)."""
    cases = list(cases)
    jobs = [(case, lr, seed, checkpoints) for case in cases for lr in case.rates for seed in seeds]
    if workers == 1:
        flat = list(bar(itertools.starmap(train, jobs), len(jobs)))
    else:
        with ProcessPoolExecutor(workers, get_context("spawn"), _one_thread) as pool:
            flat = list(bar(pool.map(train, *zip(*jobs, strict=True), chunksize=4), len(jobs)))
    scores = iter(flat)
    return {case.name: np.array([[next(scores) for _ in seeds] for _ in case.rates]).round(4) for case in cases}


class Interval(NamedTuple):
    """A mean over seeds with its 95 % interval, by Student's t."""

    low: float
    mean: float
    high: float


class Block:
    """What one block of seeds says: the best learning rate of each seed, and the test accuracy there."""

    def __init__(self, scores: Mapping[str, Scores]) -> None:
        self._scores = scores

    def chosen(self, case: Case, checkpoint: int) -> npt.NDArray[np.intp]:
        """Return, for each seed, the index of the rate with the lowest validation NLL."""
        chosen: npt.NDArray[np.intp] = self._at(case, checkpoint)[:, :, 0].argmin(axis=0)
        return chosen

    def log_rate(self, case: Case, checkpoint: int) -> npt.NDArray[np.float64]:
        """Return log10 of each seed's best learning rate."""
        rates: npt.NDArray[np.float64] = np.log10(np.array(case.rates)[self.chosen(case, checkpoint)])
        return rates

    def accuracy(self, case: Case, checkpoint: int, chosen_for: Case | None = None) -> npt.NDArray[np.float64]:
        """Return each seed's test accuracy at its best rate, or at the rate that was best for another case."""
        chosen = self.chosen(chosen_for or case, checkpoint)
        accuracies: npt.NDArray[np.float64] = self._at(case, checkpoint)[chosen, np.arange(chosen.size), 2]
        return accuracies

    def _at(self, case: Case, checkpoint: int) -> Scores:
        scores: Scores = self._scores[case.name][:, :, CHECKPOINTS.index(checkpoint)]
        return scores


def interval(values: npt.NDArray[np.float64]) -> Interval:
    """Return the mean of one value a seed, with its 95 % interval."""
    from scipy.stats import t  # type: ignore[import-untyped]

    half = float(t.ppf(0.975, values.size - 1) * values.std(ddof=1) / np.sqrt(values.size))
    mean = float(values.mean())
    return Interval(mean - half, mean, mean + half)


Measure = Callable[[Block, int], npt.NDArray[np.float64]]
SGD_0, SGD_2, SGD_5, SGD_8 = (Case("SGD", "inverted", p) for p in DROP["SGD"])
ADAM_0, ADAM_2, ADAM_8 = (Case("Adam", "inverted", p) for p in (0.0, 0.2, 0.8))
STANDARD_5, STANDARD_8 = (Case("SGD", "standard", p) for p in (0.5, 0.8))
ADAM_STANDARD_8, MOMENTUM_8 = Case("Adam", "standard", 0.8), Case("momentum", "inverted", 0.8)


def change_of_rate(case: Case, other: Case) -> Measure:
    """Return log10(best rate of a case / best rate of another), one value a seed."""
    return lambda block, at: block.log_rate(case, at) - block.log_rate(other, at)


def gain(case: Case, other: Case) -> Measure:
    """Return the test accuracy of a case above that of another, each at its own best rate, one value a seed."""
    return lambda block, at: block.accuracy(case, at) - block.accuracy(other, at)


def cost_of_keeping(case: Case, other: Case) -> Measure:
    """Return the test accuracy that a case loses at the rate that was best for another, one value a seed."""
    return lambda block, at: block.accuracy(case, at) - block.accuracy(case, at, chosen_for=other)


def gain_over(pair: tuple[Case, Case], other: tuple[Case, Case]) -> Measure:
    """Return how much larger one gain is than another, one value a seed."""
    return lambda block, at: gain(*pair)(block, at) - gain(*other)(block, at)


class Conclusion(NamedTuple):
    """A sentence, what is measured for it, and the rule by which a block of seeds decides it."""

    id: str
    statement: str
    measure: Measure
    rule: str
    holds: Callable[[Interval], bool]
    checkpoints: tuple[int, ...] = CHECKPOINTS


def below(i: Interval) -> bool:
    """Return whether the interval lies below 0."""
    return i.high < 0


def above(i: Interval) -> bool:
    """Return whether the interval lies above 0."""
    return i.low > 0


RATE, SCORE = "log10 of the ratio of best rates", "difference of test accuracies"
CONCLUSIONS = (
    Conclusion(
        "sgd-inverted-falls",
        "SGD, inverted: the best rate at p = .8 is below that without dropout",
        change_of_rate(SGD_8, SGD_0),
        f"{RATE}: interval below 0",
        below,
    ),
    Conclusion(
        "sgd-inverted-same-at-2",
        "SGD, inverted: the best rate at p = .2 is within a factor 2 of that without dropout",
        change_of_rate(SGD_2, SGD_0),
        f"{RATE}: mean within ±.3",
        lambda i: abs(i.mean) <= 0.3,
    ),
    Conclusion(
        "sgd-inverted-falls-at-5-if-long",
        "SGD, inverted: after 1,000 steps the best rate at p = .5 is below that without dropout",
        change_of_rate(SGD_5, SGD_0),
        f"{RATE}: interval below 0",
        below,
        CHECKPOINTS[1:],
    ),
    Conclusion(
        "sgd-inverted-same-at-5-if-short",
        "SGD, inverted: after 200 steps the best rate at p = .5 is within a factor 2 of that without dropout",
        change_of_rate(SGD_5, SGD_0),
        f"{RATE}: mean within ±.3",
        lambda i: abs(i.mean) <= 0.3,
        CHECKPOINTS[:1],
    ),
    Conclusion(
        "sgd-standard-rises",
        "SGD, standard: the best rate at p = .8 is above that without dropout",
        change_of_rate(STANDARD_8, SGD_0),
        f"{RATE}: interval above 0",
        above,
    ),
    Conclusion(
        "sgd-standard-above-inverted",
        "SGD, p = .5: the best rate of standard is above that of inverted dropout",
        change_of_rate(STANDARD_5, SGD_5),
        f"{RATE}: interval above 0",
        above,
    ),
    Conclusion(
        "sgd-standard-below-ten-times",
        "SGD, standard: the best rate at p = .8 is less than ten times that without dropout",
        change_of_rate(STANDARD_8, SGD_0),
        f"{RATE}: mean below 1",
        lambda i: i.mean < 1,
    ),
    Conclusion(
        "keeping-the-rate-costs",
        "SGD, inverted, p = .8: keeping the rate that was best without dropout costs accuracy",
        cost_of_keeping(SGD_8, SGD_0),
        f"{SCORE}: interval above 0",
        above,
    ),
    Conclusion(
        "keeping-the-rate-is-free-at-2",
        "SGD, inverted, p = .2: keeping the rate that was best without dropout costs less than .01",
        cost_of_keeping(SGD_2, SGD_0),
        f"{SCORE}: mean below .01",
        lambda i: i.mean < 0.01,
    ),
    Conclusion(
        "adam-inverted-does-not-fall",
        "Adam, inverted: no lower best rate is seen at p = .8 than without dropout",
        change_of_rate(ADAM_8, ADAM_0),
        f"{RATE}: interval not below 0",
        lambda i: not below(i),
    ),
    Conclusion(
        "adam-better-at-8",
        "Inverted, p = .8: Adam is more accurate than SGD, each at its best rate",
        gain(ADAM_8, SGD_8),
        f"{SCORE}: interval above 0",
        above,
    ),
    Conclusion(
        "adam-better-at-8-standard",
        "Standard, p = .8: Adam is more accurate than SGD, each at its best rate",
        gain(ADAM_STANDARD_8, STANDARD_8),
        f"{SCORE}: interval above 0",
        above,
    ),
    Conclusion(
        "adam-same-at-2",
        "Inverted, p = .2: Adam and SGD are within .01 of each other",
        gain(ADAM_2, SGD_2),
        f"{SCORE}: mean within ±.01",
        lambda i: abs(i.mean) < 0.01,
    ),
    Conclusion(
        "adam-gain-grows",
        "Inverted: Adam's gain over SGD at p = .8 is larger than without dropout",
        gain_over((ADAM_8, SGD_8), (ADAM_0, SGD_0)),
        f"{SCORE}: interval above 0",
        above,
    ),
    Conclusion(
        "not-by-momentum",
        "Inverted, p = .8: SGD with momentum .9 is not more accurate than SGD",
        gain(MOMENTUM_8, SGD_8),
        f"{SCORE}: interval not above 0",
        lambda i: not above(i),
    ),
    Conclusion(
        "adam-does-not-undo-it",
        "Inverted: Adam at p = .8 is less accurate than Adam without dropout",
        gain(ADAM_8, ADAM_0),
        f"{SCORE}: interval below 0",
        below,
    ),
)


class Judgement(TypedDict):
    """A conclusion as one block decides it: an interval for each number of steps, and whether the rule held in all."""

    intervals: dict[str, list[float]]
    holds: bool


def judge(conclusion: Conclusion, scores: Mapping[str, Scores]) -> Judgement:
    """Return what a block's scores say about a conclusion."""
    found = {at: interval(conclusion.measure(Block(scores), at)) for at in conclusion.checkpoints}
    return {
        "intervals": {str(at): [round(value, 4) for value in i] for at, i in found.items()},
        "holds": all(conclusion.holds(i) for i in found.values()),
    }


@functools.cache
def _data() -> Dataset:
    return digits()


def _scores(net: Sequential, data: Dataset) -> list[float]:
    validation, _ = softmax_cross_entropy(net(data.validation.x), data.validation.y)
    logits = net(data.test.x)
    test, _ = softmax_cross_entropy(logits, data.test.y)
    losses = (min(float(np.nan_to_num(loss, nan=DIVERGED)), DIVERGED) for loss in (validation, test))
    return [*losses, float(np.mean(logits.argmax(axis=1) == data.test.y))]


def _one_thread() -> None:
    """Leave each process one thread: the arrays are small and the processes are many."""
    from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

    threadpool_limits(1)


def main() -> None:
    """Run both blocks and store scores and conclusions."""
    code = code_digest("studies.learning_rate")  # before the run: the code may change while it lasts
    blocks = {name: run(seeds=seeds, workers=2, bar=progress) for name, seeds in BLOCKS.items()}
    save(
        "learning_rate",
        {
            "code_sha256": code,
            "seeds": {name: list(seeds) for name, seeds in BLOCKS.items()},
            "steps": list(CHECKPOINTS),
            "columns": ["validation NLL", "test NLL", "test accuracy"],
            "rates": {case.name: list(case.rates) for case in CASES},
            "scores": {name: {case: a.tolist() for case, a in scores.items()} for name, scores in blocks.items()},
            "conclusions": {
                c.id: {
                    "statement": c.statement,
                    "rule": c.rule,
                    **{name: judge(c, scores) for name, scores in blocks.items()},
                }
                for c in CONCLUSIONS
            },
        },
    )


if __name__ == "__main__":
    main()
