"""What dropout left on at prediction improves, and what not: classification under shift, ensembles, regression.

`python -m studies.uncertainty` trains every case of `uncertainty_classification` and `uncertainty_regression` under two
blocks of eight seeds and stores scores and conclusions; name one of the two to run it alone, and give --judge to judge
the stored scores again without training. Both take about three minutes on two free cores.

Differences are taken seed by seed. `CONCLUSIONS` and their rules were written down before any result of the two blocks
was seen, after a look at seeds 70 and 71 (regression: 70 to 77), which belong to neither. A conclusion is robust if its
rule holds in both blocks. No network is chosen; where a number is fitted (temperature, noise variance, quantile) it is
fitted on validation rows.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from dropoutlib.stored import load
from studies import uncertainty_classification as classification
from studies import uncertainty_regression as regression
from studies.learning_rate import Interval, above, below, interval
from studies.store import code_digest, parallel, progress, save, versions

BLOCKS = {"first": range(8), "second": range(1000, 1008)}
STUDIES: dict[str, ModuleType] = {"classification": classification, "regression": regression}
PACKAGES = {"classification": ("numpy", "scikit-learn"), "regression": ("numpy", "scikit-learn", "scipy")}

Values = npt.NDArray[np.float64]
Scores = Mapping[str, Mapping[str, Sequence[float]]]
Measure = Callable[[Scores], Values]


def score(case: str, name: str) -> Measure:
    """Return one score a seed."""
    return lambda scores: np.array(scores[case][name])


def less(first: Measure, second: Measure, share: float = 1.0) -> Measure:
    """Return a measure less a share of another."""
    return lambda scores: first(scores) - share * second(scores)


def largest(measures: Sequence[Measure]) -> Measure:
    """Return the largest of several measures, seed by seed."""
    return lambda scores: np.max([measure(scores) for measure in measures], axis=0)


def average(measures: Sequence[Measure]) -> Measure:
    """Return the mean of several measures, seed by seed."""
    return lambda scores: np.mean([measure(scores) for measure in measures], axis=0)


class Rule(NamedTuple):
    """What the 95 % interval of the mean over seeds must fulfil."""

    words: str
    holds: Callable[[Interval], bool]


ABOVE_0, BELOW_0 = Rule("interval above 0", above), Rule("interval below 0", below)
NOT_ABOVE_0 = Rule("interval not above 0", lambda i: not above(i))
NOT_BELOW_0 = Rule("interval not below 0", lambda i: not below(i))


def below_(bound: float) -> Rule:
    """Return the rule that the interval lies below a bound."""
    return Rule(f"interval below {bound:g}", lambda i: i.high < bound)


def within(bound: float, centre: float = 0.0) -> Rule:
    """Return the rule that the interval lies within a bound of a number."""
    words = f"interval within {centre:g} ± {bound:g}"
    return Rule(words, lambda i: centre - bound < i.low and i.high < centre + bound)


class Conclusion(NamedTuple):
    """A sentence, what is measured for it, and the rule by which a block of seeds decides it."""

    id: str
    statement: str
    measured: str
    measure: Measure
    rule: Rule


# --- classification: MC is the mean of 50 passes, off is the same network with dropout off

NONE, SMALL, SHORT, _, LONG, D_NONE, D_SMALL, D_HALF = (case.name for case in classification.CASES)
WITH_DROPOUT = (SMALL, SHORT, LONG, D_SMALL, D_HALF)
WORDS = {
    SMALL: "MNIST, p = .2, 30 epochs",
    SHORT: "MNIST, p = .5, 30 epochs",
    LONG: "MNIST, p = .5, 90 epochs",
    D_SMALL: "digits, p = .2",
    D_HALF: "digits, p = .5",
}
KEYS = {SMALL: "mnist-low-p", SHORT: "mnist-short", LONG: "mnist-long", D_SMALL: "digits-low-p", D_HALF: "digits"}


def gain(case: str, what: str, method: str = "MC 50", other: str = "off", other_case: str = "") -> Measure:
    """Return a method's score less another's."""
    return less(score(case, f"{method}, {what}"), score(other_case or case, f"{other}, {what}"))


def mc(case: str, what: str, says: str, rule: Rule) -> Conclusion:
    """Return a conclusion on 50 passes against dropout off."""
    metric = what.split(", ")[1] if "foreign" not in what else "detection of foreign rows"
    where = {"clean": "", "noise": " under noise", "moved": " on moved images", "foreign": ""}[what.split(", ")[0]]
    name = f"{KEYS[case]}-{what.replace(', ', '-').replace(' ', '-').lower()}"
    return Conclusion(
        f"mc-{name}", f"{WORDS[case]}: MC {says}{where}", f"{metric}, MC less off", gain(case, what), rule
    )


CLASSIFICATION = (
    # calibration and likelihood
    mc(LONG, "clean, NLL", "lowers the NLL", BELOW_0),
    mc(LONG, "clean, ECE", "lowers the ECE", BELOW_0),
    mc(SMALL, "clean, NLL", "lowers the NLL", BELOW_0),
    mc(SMALL, "clean, ECE", "lowers the ECE", BELOW_0),
    mc(SHORT, "clean, NLL", "is not seen to lower the NLL", NOT_BELOW_0),
    mc(SHORT, "clean, ECE", "raises the ECE", ABOVE_0),
    mc(D_HALF, "clean, NLL", "raises the NLL", ABOVE_0),
    mc(D_HALF, "clean, ECE", "raises the ECE", ABOVE_0),
    mc(D_SMALL, "clean, NLL", "raises the NLL", ABOVE_0),
    mc(D_SMALL, "clean, ECE", "raises the ECE", ABOVE_0),
    Conclusion(
        "mc-lowers-confidence",
        "MC lowers the mean confidence, in each of the five cases",
        "mean confidence, MC less off, largest of the cases",
        largest([gain(case, "clean, confidence") for case in WITH_DROPOUT]),
        BELOW_0,
    ),
    # shift
    mc(LONG, "noise, NLL", "lowers the NLL", BELOW_0),
    mc(LONG, "noise, ECE", "lowers the ECE", BELOW_0),
    mc(SHORT, "noise, NLL", "lowers the NLL", BELOW_0),
    mc(SHORT, "noise, ECE", "is not seen to lower the ECE", NOT_BELOW_0),
    mc(D_HALF, "noise, NLL", "raises the NLL", ABOVE_0),
    mc(D_HALF, "noise, ECE", "raises the ECE", ABOVE_0),
    *(
        Conclusion(
            f"mc-moved-{metric.lower()}",
            f"on moved images MC lowers the {metric}, in each of the five cases",
            f"{metric}, MC less off, largest of the cases",
            largest([gain(case, f"moved, {metric}") for case in WITH_DROPOUT]),
            BELOW_0,
        )
        for metric in ("NLL", "ECE")
    ),
    # accuracy and error detection
    *(mc(case, "clean, accuracy", "is not seen to raise the accuracy", NOT_ABOVE_0) for case in WITH_DROPOUT),
    Conclusion(
        "mc-accuracy-everywhere",
        "MC changes the accuracy by less than .005 on average over the five cases",
        "accuracy, MC less off, mean of the cases",
        average([gain(case, "clean, accuracy") for case in WITH_DROPOUT]),
        within(0.005),
    ),
    *(
        mc(case, "clean, error detection", "is not seen to detect errors better", NOT_ABOVE_0)
        for case in (LONG, SHORT, D_HALF)
    ),
    # foreign rows
    *(mc(case, "foreign, entropy", "detects foreign rows better", ABOVE_0) for case in (LONG, SHORT, D_HALF)),
    Conclusion(
        "off-digits-foreign",
        "digits, p = .5: with dropout off, turned digits have less entropy than real ones",
        "detection of foreign rows by entropy less .5, off",
        lambda scores: score(D_HALF, "off, foreign, entropy")(scores) - 0.5,
        BELOW_0,
    ),
    Conclusion(
        "mutual-information-digits",
        "digits, p = .5: mutual information detects foreign rows better than the entropy of the same passes",
        "detection of foreign rows, mutual information less entropy",
        less(score(D_HALF, "MC 50, foreign, mutual information"), score(D_HALF, "MC 50, foreign, entropy")),
        ABOVE_0,
    ),
    Conclusion(
        "mutual-information-mnist",
        "MNIST, p = .5, 90 epochs: mutual information is not seen to detect foreign rows better than the entropy",
        "detection of foreign rows, mutual information less entropy",
        less(score(LONG, "MC 50, foreign, mutual information"), score(LONG, "MC 50, foreign, entropy")),
        NOT_ABOVE_0,
    ),
    # how many passes
    *(
        Conclusion(
            f"five-passes-{KEYS[case]}",
            f"{WORDS[case]}: 5 passes have a higher NLL than 50",
            "NLL, 5 passes less 50",
            less(score(case, "NLL of 5 passes"), score(case, "NLL of 50 passes")),
            ABOVE_0,
        )
        for case in (LONG, SHORT)
    ),
    Conclusion(
        "five-passes-help",
        "MNIST, p = .5, 90 epochs: 5 passes have a lower NLL than dropout off",
        "NLL, MC 5 less off",
        gain(LONG, "clean, NLL", "MC 5"),
        BELOW_0,
    ),
    Conclusion(
        "five-passes-cost-accuracy",
        "MNIST, p = .5, 90 epochs: 5 passes are less accurate than dropout off",
        "accuracy, MC 5 less off",
        gain(LONG, "clean, accuracy", "MC 5"),
        BELOW_0,
    ),
    Conclusion(
        "one-pass",
        "MNIST, p = .5, 30 epochs: one pass has a higher NLL than dropout off",
        "NLL, 1 pass less off",
        less(score(SHORT, "NLL of 1 passes"), score(SHORT, "off, clean, NLL")),
        ABOVE_0,
    ),
    Conclusion(
        "excess-falls-faster-than-root",
        "MNIST, p = .5, 30 epochs: the excess NLL of few passes falls faster than 1/sqrt(T)",
        "excess over 100 passes, at 5 passes less 2.81 times that at 20",
        less(
            less(score(SHORT, "NLL of 5 passes"), score(SHORT, "NLL of 100 passes")),
            less(score(SHORT, "NLL of 20 passes"), score(SHORT, "NLL of 100 passes")),
            2.81,
        ),
        ABOVE_0,
    ),
    # probabilities or logits
    Conclusion(
        "logits-are-nearly-off",
        "MNIST, p = .5, 90 epochs: averaging logits changes the NLL by less than a third of what averaging "
        "probabilities does",
        "NLL lowered by averaging logits less a third of that by averaging probabilities",
        less(gain(LONG, "clean, NLL", "off", "logits"), gain(LONG, "clean, NLL", "off", "MC 50"), 1 / 3),
        BELOW_0,
    ),
    Conclusion(
        "probabilities-beat-logits",
        "MNIST, p = .5, 90 epochs: averaging probabilities gives a lower NLL than averaging logits",
        "NLL, probabilities less logits",
        gain(LONG, "clean, NLL", "MC 50", "logits"),
        BELOW_0,
    ),
    Conclusion(
        "logits-beat-probabilities",
        "digits, p = .5: averaging logits gives a lower NLL than averaging probabilities",
        "NLL, probabilities less logits",
        gain(D_HALF, "clean, NLL", "MC 50", "logits"),
        ABOVE_0,
    ),
    Conclusion(
        "logits-are-more-confident",
        "averaging logits gives a higher confidence than averaging probabilities, in each of the five cases",
        "mean confidence, probabilities less logits, largest of the cases",
        largest([gain(case, "clean, confidence", "MC 50", "logits") for case in WITH_DROPOUT]),
        BELOW_0,
    ),
    # against one number fitted on validation rows
    Conclusion(
        "temperature-lowers-nll",
        "MNIST, p = .5, 90 epochs: a temperature fitted on validation rows lowers the NLL too",
        "NLL, temperature less off",
        gain(LONG, "clean, NLL", "temperature"),
        BELOW_0,
    ),
    *(
        Conclusion(
            f"mc-against-temperature-{key}",
            f"MNIST, p = .5, 90 epochs: MC is not seen to have a lower NLL than a fitted temperature{where}",
            "NLL, MC less temperature",
            gain(LONG, f"{key}, NLL", "MC 50", "temperature"),
            NOT_BELOW_0,
        )
        for key, where in (("clean", ""), ("noise", " under noise"), ("moved", " on moved images"))
    ),
    Conclusion(
        "mc-against-temperature-digits",
        "digits, p = .5: MC has a higher NLL than a fitted temperature",
        "NLL, MC less temperature",
        gain(D_HALF, "clean, NLL", "MC 50", "temperature"),
        ABOVE_0,
    ),
    Conclusion(
        "mc-against-temperature-foreign",
        "MNIST, p = .5, 90 epochs: MC detects foreign rows better than a fitted temperature",
        "detection of foreign rows by entropy, MC less temperature",
        gain(LONG, "foreign, entropy", "MC 50", "temperature"),
        ABOVE_0,
    ),
    # against ensembles, 30 epochs on MNIST: as many predictions (5), or as much training (short: 5 x 6 epochs)
    *(
        Conclusion(
            f"ensemble-{key}-{metric.lower()}",
            f"MNIST, 30 epochs: five networks without dropout have {says} than 5 passes of one (p = .5){where}",
            f"{metric}, ensemble less MC 5",
            gain(NONE, f"{key}, {metric}", "ensemble", "MC 5", SHORT),
            rule,
        )
        for key, where, metric, says, rule in (
            ("clean", "", "accuracy", "a higher accuracy", ABOVE_0),
            ("clean", "", "NLL", "a lower NLL", BELOW_0),
            ("clean", "", "ECE", "a lower ECE", BELOW_0),
            ("noise", " under noise", "NLL", "a lower NLL", BELOW_0),
            ("moved", " on moved images", "NLL", "a higher NLL", ABOVE_0),
            ("moved", " on moved images", "ECE", "a higher ECE", ABOVE_0),
        )
    ),
    Conclusion(
        "ensemble-digits-nll",
        "digits: five networks without dropout have a lower NLL than 5 passes of one (p = .5)",
        "NLL, ensemble less MC 5",
        gain(D_NONE, "clean, NLL", "ensemble", "MC 5", D_HALF),
        BELOW_0,
    ),
    *(
        Conclusion(
            f"short-ensemble-{key}-nll",
            f"MNIST: five networks of 6 epochs without dropout have a lower NLL than 5 passes of one of 30 (p = .5){w}",
            "NLL, short ensemble less MC 5",
            gain(NONE, f"{key}, NLL", "short ensemble", "MC 5", SHORT),
            BELOW_0,
        )
        for key, w in (("clean", ""), ("noise", " under noise"), ("moved", " on moved images"))
    ),
    *(
        Conclusion(
            f"dropout-ensemble-{key}-nll",
            f"MNIST, 30 epochs: five networks with dropout (p = .5), off, have a lower NLL than {words}",
            f"NLL, dropout ensemble less {other}",
            gain(SHORT, "clean, NLL", "ensemble", other, case),
            BELOW_0,
        )
        for key, words, other, case in (
            ("mc", "50 passes of one", "MC 50", SHORT),
            ("plain", "five without", "ensemble", NONE),
        )
    ),
    *(
        Conclusion(
            f"ensemble-foreign-{key}",
            f"{words}: mutual information detects foreign rows {says} in five networks without dropout than in 50 "
            "passes of one (p = .5)",
            "detection of foreign rows by mutual information, ensemble less MC",
            less(
                score(none, "ensemble, foreign, mutual information"), score(half, "MC 50, foreign, mutual information")
            ),
            rule,
        )
        for key, words, says, none, half, rule in (
            ("mnist", "MNIST, 30 epochs", "better", NONE, SHORT, ABOVE_0),
            ("digits", "digits", "worse", D_NONE, D_HALF, BELOW_0),
        )
    ),
)

# --- regression: intervals that are meant to hold 95 %

R_LOW, R_MID, R_HALF, R_LONG = (case.name for case in regression.CASES)


def covers(case: str, name: str, p: str) -> Conclusion:
    """Return the conclusion that an interval's real coverage is near 95 %."""
    words = {"spread and noise": "spread and noise together", "constant": "an interval of constant width"}
    return Conclusion(
        f"{name.replace(' ', '-')}-covers-p{p}",
        f"p = .{p}: {words.get(name, 'the conformal interval')} covers 95 % to 3 points",
        f"coverage, {name}",
        score(case, f"{name}, coverage"),
        within(0.03, 0.95),
    )


REGRESSION = (
    *(
        Conclusion(
            f"spread-undercovers-p{p}",
            f"p = .{p}: the spread of the passes alone covers less than {bound:.0%}",
            "coverage, spread",
            score(case, "spread, coverage"),
            below_(bound),
        )
        for case, p, bound in ((R_LOW, 1, 0.7), (R_MID, 2, 0.7), (R_HALF, 5, 0.85))
    ),
    *(covers(R_MID, name, "2") for name in regression.INTERVALS[1:]),
    covers(R_HALF, "spread and noise", "5"),
    Conclusion(
        "spread-grows-with-p",
        "the spread is wider at p = .5 than at p = .2",
        "width of the spread's interval, p = .5 less p = .2",
        less(score(R_HALF, "spread, width"), score(R_MID, "spread, width")),
        ABOVE_0,
    ),
    Conclusion(
        "spread-is-the-smaller-part",
        "p = .2: the spread is less than a third of the predictive variance",
        "share of the spread in the variance",
        score(R_MID, "share of spread"),
        below_(1 / 3),
    ),
    Conclusion(
        "no-narrower-than-constant",
        "p = .2: spread and noise together are not seen to be narrower than an interval of constant width",
        "width, spread and noise less constant",
        less(score(R_MID, "spread and noise, width"), score(R_MID, "constant, width")),
        NOT_BELOW_0,
    ),
    *(
        Conclusion(
            f"spread-does-not-rank-errors-p{p}",
            f"p = .{p}: rows with more spread are not seen to have larger errors",
            "rank correlation of spread and error",
            score(case, "rank correlation"),
            NOT_ABOVE_0,
        )
        for case, p in ((R_MID, 2), (R_HALF, 5))
    ),
    *(
        Conclusion(
            f"mc-lowers-rmse-p{p}",
            f"p = .{p}: the mean of the passes has a lower RMSE than dropout off",
            "RMSE, MC less off",
            less(score(case, "MC, RMSE"), score(case, "off, RMSE")),
            BELOW_0,
        )
        for case, p in ((R_MID, 2), (R_HALF, 5))
    ),
    *(
        Conclusion(
            f"spread-and-noise-nll-p{p}",
            f"p = .{p}: spread and noise together have a lower NLL than dropout off with a constant variance",
            "NLL, spread and noise less constant",
            less(score(case, "spread and noise, NLL"), score(case, "constant, NLL")),
            BELOW_0,
        )
        for case, p in ((R_MID, 2), (R_HALF, 5))
    ),
)
CONCLUSIONS = {"classification": CLASSIFICATION, "regression": REGRESSION}


def judge(conclusion: Conclusion, scores: Scores) -> dict[str, Any]:
    """Return the interval of what is measured, how many seeds are above 0, and whether the rule holds."""
    values = conclusion.measure(scores)
    found = interval(values)
    return {
        "interval": [round(bound, 4) for bound in found],
        "positive": int((values > 0).sum()),
        "holds": bool(conclusion.rule.holds(found)),
    }


def conclusions(name: str, results: Mapping[str, Any]) -> dict[str, Any]:
    """Return what each block's scores say about each conclusion of a study."""
    return {
        c.id: {
            "statement": c.statement,
            "rule": f"{c.measured}: {c.rule.words}",
            **{block: judge(c, results["scores"][block]) for block in BLOCKS},
        }
        for c in CONCLUSIONS[name]
    }


def run(name: str, seeds: Sequence[int], workers: int) -> dict[str, dict[str, list[float]]]:
    """Return, for each case and score, one value a seed."""
    study = STUDIES[name]
    jobs = [(case, seed) for case in study.CASES for seed in seeds]
    found = iter(list(progress(parallel(study.run, jobs, workers), len(jobs))))
    rows = {case.name: [next(found) for _ in seeds] for case in study.CASES}
    return {case: {key: [row[key] for row in rows[case]] for key in rows[case][0]} for case in rows}


def train_all(name: str) -> dict[str, Any]:
    """Run both blocks of a study and return all but the conclusions."""
    study = STUDIES[name]
    code = code_digest(study.__name__)  # before the run: the code may change while it lasts
    blocks = {}
    for block, seeds in BLOCKS.items():
        print(f"{name}, {block} block of seeds", file=sys.stderr)
        blocks[block] = run(name, seeds, workers=2)
    return {
        "code_sha256": code,
        "versions": versions(*PACKAGES[name]),
        "seeds": {block: list(seeds) for block, seeds in BLOCKS.items()},
        "cases": {case.name: case._asdict() for case in study.CASES},
        "scores": blocks,
    }


def main() -> None:
    """Run the studies named on the command line, both by default, and store scores and conclusions."""
    parser = argparse.ArgumentParser(description="Run the studies of dropout left on and store their results.")
    parser.add_argument("studies", nargs="*", help=f"some of {', '.join(STUDIES)}; both by default")
    parser.add_argument("--judge", action="store_true", help="judge the stored scores again, without training")
    options = parser.parse_args()
    if unknown := set(options.studies) - set(STUDIES):
        parser.error(f"unknown study {min(unknown)}; known are {', '.join(STUDIES)}")
    for name in options.studies or STUDIES:
        stored = f"uncertainty_{name}"
        results = load(stored) if options.judge else train_all(name)
        save(stored, {**results, "conclusions": conclusions(name, results)})


if __name__ == "__main__":
    main()
