"""The code questions of the assignment "placement"."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from dropoutlib.checks.assignments.tools import Array, Rules, array, by_hand, matching, rates, signed
from dropoutlib.checks.exercises import Answer, Mistake, exercise, number, short

_MOMENTUM, _EPS = 0.1, 1e-5

# --- 1: batch normalisation ----------------------------------------------------------------------------------------

_NORMALISED: dict[bool, Rules] = {
    True: (
        (
            lambda x, m, v: (x - m) / np.sqrt(v + _EPS),
            "In training BatchNorm normalises by the batch. The running statistics are for evaluation.",
        ),
        (
            lambda x, m, v: (x - x.mean(0)) / np.sqrt(x.var(0, ddof=1) + _EPS),
            "To normalise, the variance divides by n. Dividing by n - 1 is for the running variance.",
        ),
        (
            lambda x, m, v: (x - x.mean(1, keepdims=True)) / np.sqrt(x.var(1, keepdims=True) + _EPS),
            "You average over the features of a row. Each feature is normalised over the rows of the batch: axis 0.",
        ),
        (
            lambda x, m, v: (x - x.mean()) / np.sqrt(x.var() + _EPS),
            "You use one mean and one variance for all features. Each feature has its own.",
        ),
        (
            lambda x, m, v: (x - x.mean(0)) / (x.std(0) + _EPS),
            "eps is added to the variance, under the root. For features that hardly vary this makes a difference.",
        ),
        (
            lambda x, m, v: (x - x.mean(0)) / x.std(0),
            "eps is missing. It is added to the variance, under the root.",
        ),
        (
            lambda x, m, v: (x - x.mean(0)) / (x.var(0) + _EPS),
            "You divide by the variance. Its root has the units of x.",
        ),
        (lambda x, m, v: x / np.sqrt(x.var(0) + _EPS), "The mean is not taken away."),
    ),
    False: (
        (
            lambda x, m, v: (x - x.mean(0)) / np.sqrt(x.var(0) + _EPS),
            "In evaluation BatchNorm normalises by the running statistics, so that a row's output does not depend on "
            "the other rows.",
        ),
        (lambda x, m, v: (x - m) / (v + _EPS), "You divide by the variance. Its root has the units of x."),
        (lambda x, m, v: (x - m) / (np.sqrt(v) + _EPS), "eps is added to the variance, under the root."),
        (lambda x, m, v: x.copy(), "In evaluation BatchNorm still normalises, by the running statistics."),
    ),
}
_RUNNING_MEAN: Rules = (
    (lambda x, m, v: m, "In training the running mean moves towards the batch's."),
    (
        lambda x, m, v: _MOMENTUM * m + (1 - _MOMENTUM) * x.mean(0),
        "momentum is the share of the newest batch, here a tenth. You give it to the old value.",
    ),
    (lambda x, m, v: x.mean(0), "The running mean moves a tenth of the way; it does not jump to the batch's."),
    (
        lambda x, m, v: m + _MOMENTUM * x.mean(0),
        "The old value keeps the share 1 - momentum, or the mean grows for ever.",
    ),
)
_RUNNING_VAR: Rules = (
    (lambda x, m, v: v, "In training the running variance moves towards the batch's."),
    (
        lambda x, m, v: (1 - _MOMENTUM) * v + _MOMENTUM * x.var(0),
        "The running variance estimates that of all data, so the batch's divides by n - 1 here.",
    ),
    (
        lambda x, m, v: _MOMENTUM * v + (1 - _MOMENTUM) * x.var(0, ddof=1),
        "momentum is the share of the newest batch, here a tenth. You give it to the old value.",
    ),
    (
        lambda x, m, v: ((1 - _MOMENTUM) * np.sqrt(v) + _MOMENTUM * x.std(0, ddof=1)) ** 2,
        "You average standard deviations. It is the variances that are averaged.",
    ),
    (
        lambda x, m, v: (1 - _MOMENTUM) * v + _MOMENTUM * x.std(0, ddof=1),
        "You mix a standard deviation into a variance.",
    ),
    (lambda x, m, v: x.var(0, ddof=1), "The running variance moves a tenth of the way; it does not jump."),
)


@exercise("placement.1")
def batch_norm(answer: Answer, seed: int) -> str:
    """Check batch_norm(x, running_mean, running_var, training) -> (y, running_mean, running_var).

    momentum .1, eps 1e-5, no weight and bias. In training y is normalised by the batch (variance over n), and the
    running statistics move a tenth of the way to the batch's (variance over n - 1); in evaluation y is normalised by
    the running statistics, which stay. One feature hardly varies, so that eps shows. No array is changed. Nothing is
    random in a right answer.
    """
    rng = np.random.default_rng(seed)
    for rows, features in ((int(rng.integers(6, 12)), 5), (2, 3)):
        x = rng.uniform(1, 4) + signed(rng, (rows, features)) * rng.uniform(0.5, 2, features)
        x[:, 1] = 1 + 0.003 * np.arange(rows)
        mean, var = rng.uniform(3, 5, features), rng.uniform(2, 4, features)
        for training in (True, False):
            text = f"{answer.name}(x, running_mean, running_var, training={training}) with x of shape {x.shape}"
            value = answer.call(text, x, mean, var, training, pure=True)
            if not isinstance(value, list | tuple) or len(value) != 3:
                raise Mistake(f"{text} returned {short(repr(value))}, expected y and two running statistics")
            y = array(value[0], f"{text}: y", x.shape)
            new_mean = array(value[1], f"{text}: running_mean", mean.shape)
            new_var = array(value[2], f"{text}: running_var", var.shape)
            m, v = (x.mean(0), x.var(0)) if training else (mean, var)
            _same(y, (x - m) / np.sqrt(v + _EPS), f"{text}: y", matching(_NORMALISED[training], y, x, mean, var))
            if not training:
                stays = "In evaluation nothing is learned: the running statistics stay as they are."
                _same(new_mean, mean, f"{text}: running_mean", stays)
                _same(new_var, var, f"{text}: running_var", stays)
                continue
            expected = (1 - _MOMENTUM) * mean + _MOMENTUM * x.mean(0)
            _same(new_mean, expected, f"{text}: running_mean", matching(_RUNNING_MEAN, new_mean, x, mean, var))
            expected = (1 - _MOMENTUM) * var + _MOMENTUM * x.var(0, ddof=1)
            _same(new_var, expected, f"{text}: running_var", matching(_RUNNING_VAR, new_var, x, mean, var))
    return "Output and running statistics are right in both modes."


def _same(value: Array, expected: Array, text: str, hint: str) -> None:
    if not np.allclose(value, expected, rtol=1e-6, atol=1e-9):
        at = tuple(map(int, np.unravel_index(np.argmax(np.abs(value - expected)), expected.shape)))
        raise Mistake(f"{text} is {value[at]:.6g} in entry {at}, expected {expected[at]:.6g}", hint)


# --- 2: the variance shift -----------------------------------------------------------------------------------------

_RATIOS: Rules = (
    (
        lambda m, v, p: np.broadcast_to(1 / (1 - p), np.shape(m)),
        "That is right for a mean of 0. A dropped element is 0, and that is far away from a mean that is not.",
    ),
    (
        lambda m, v, p: 1 / (1 - p) + m**2 * p / (1 - p),
        "The squared mean is not yet compared with the variance: divide it by var.",
    ),
    (
        lambda m, v, p: v / (1 - p) + m**2 * p / (1 - p),
        "That is the variance in training. The ratio to the variance in evaluation is asked for.",
    ),
    (
        lambda m, v, p: 1 / (1 / (1 - p) + m**2 / v * p / (1 - p)),
        "That is the inverse: training goes on top, and it is the larger one.",
    ),
    (
        lambda m, v, p: (1 / (1 - p) + m**2 / v * p / (1 - p)) ** 0.5,
        "That is the ratio of the standard deviations. Square it.",
    ),
    (
        lambda m, v, p: 1 / p + m**2 / v * (1 - p) / p,
        "p is the probability of dropping. Which share is left?",
    ),
    (
        lambda m, v, p: 1 + m**2 / v * p / (1 - p),
        "A part is missing: the mask also spreads what varies already. E[x^2] grows by 1/(1-p), all of it.",
    ),
    (
        lambda m, v, p: (1 + m**2 / v) / (1 - p),
        "That is E[y^2] / var. The squared mean is to be taken away: the mean of y is that of x.",
    ),
    (
        lambda m, v, p: 1 / (1 - p) + m / v * p / (1 - p),
        "The mean comes in squared.",
    ),
    (
        lambda m, v, p: (1 - p) + m**2 / v * p * (1 - p),
        "You compare standard dropout's training with x itself. Its evaluation is (1-p) x; or take inverted dropout.",
    ),
)


@exercise("placement.2")
def variance_ratio(answer: Answer, seed: int) -> str:
    """Check variance_ratio(mean, var, p): the variance after dropout in training over that in evaluation.

    1/(1-p) + mean^2/var * p/(1-p), entry by entry, at two rates. Nothing is random in a right answer.
    """
    rng = np.random.default_rng(seed)
    pair = rates(rng)
    for p in pair:
        mean, var = signed(rng, (6,)), rng.uniform(0.3, 3, 6)
        text = f"{answer.name}(mean, var, {p})"
        value = array(answer.call(text, mean, var, p, pure=True), text, mean.shape, hint="One ratio for each feature.")
        expected = 1 / (1 - p) + mean**2 / var * p / (1 - p)
        hint = matching(_RATIOS, value, mean, var, p)
        _same(value, expected, text, hint or "Var[y] = E[y^2] - E[y]^2, and y is x/(1-p) with probability 1-p.")
    return f"The ratios are right at p = {pair[0]} and {pair[1]}."


# --- 3: by hand ----------------------------------------------------------------------------------------------------


@exercise("placement.3")
def shift_by_hand(answer: Answer, seed: int) -> str:
    """Check shift_by_hand(): for x of mean MU and standard deviation SIGMA, dropped at rate P, before a BatchNorm.

    Its running variance SIGMA^2/(1-P) + MU^2 P/(1-P), the ratio to the variance in evaluation, and the standard
    deviation of BatchNorm's output in evaluation, 1/sqrt(ratio), each to three digits. Nothing is random.
    """
    p, mu, sigma = (float(answer.given(name)) for name in ("P", "MU", "SIGMA"))
    q = 1 - p
    var = sigma**2 / q + mu**2 * p / q
    ratio = var / sigma**2
    rules: tuple[Rules, ...] = (
        (
            (lambda: sigma**2, "That is the variance without dropout. In training the mask adds to it."),
            (lambda: sigma**2 / q, "A dropped element is 0, and that is far from a mean that is not: MU counts too."),
            (lambda: (sigma**2 + mu**2) / q, "That is the mean of the square. Take away the square of the mean."),
            (lambda: q * sigma**2 + mu**2 * p * q, "That is standard dropout. Inverted dropout also divides by 1 - P."),
            (lambda: var**0.5, "That is the standard deviation. Square it."),
            (lambda: ratio, "That is already the ratio. The variance itself comes first."),
            (lambda: sigma / q + mu**2 * p / q, "SIGMA is a standard deviation. The variance is its square."),
        ),
        (
            (lambda: 1 / q, "That is right for MU = 0 only."),
            (lambda: 1 / ratio, "That is the inverse: the running variance goes on top."),
            (lambda: ratio**0.5, "That is the ratio of standard deviations."),
            (lambda: var, "That is the running variance. Divide it by the variance in evaluation."),
        ),
        (
            (lambda: 1.0, "It would be 1 if the running variance were that of evaluation."),
            (lambda: ratio**0.5, "BatchNorm divides by the root of the running variance, which is too large here."),
            (lambda: 1 / ratio, "That is the variance of the output. Its root is asked for."),
            (lambda: sigma, "That is the standard deviation before BatchNorm."),
        ),
    )
    names = ("the running variance", "the ratio", "the standard deviation in evaluation")
    by_hand(answer, names, (var, ratio, ratio**-0.5), rules)
    return "All three numbers are right."


# --- 4: statistics from batches ------------------------------------------------------------------------------------


def _mean_rules(batches: list[Array]) -> Rules:
    return (
        (
            lambda: np.mean([b.mean(0) for b in batches], axis=0),
            "The batches have different sizes: the mean of their means gives each the same weight.",
        ),
        (lambda: batches[-1].mean(0), "That is the last batch alone. All of them count."),
        (lambda: batches[0].mean(0), "That is the first batch alone. All of them count."),
        (
            lambda: np.full(batches[0].shape[1], np.concatenate(batches).mean()),
            "You average over the features too. Each feature has its own mean.",
        ),
        (
            lambda: _moving([b.mean(0) for b in batches], 0.0),
            "A moving average forgets the first batches and begins with a made-up value. Here all rows count alike.",
        ),
    )


def _var_rules(batches: list[Array]) -> Rules:
    rows = np.concatenate(batches)
    several = [b for b in batches if len(b) > 1]
    return (
        (lambda: rows.var(0), "Divide by n - 1: the mean was estimated from the same rows."),
        (
            lambda: np.mean([b.var(0) for b in batches], axis=0),
            "The mean of the batches' variances leaves out how their means differ, and ignores their sizes.",
        ),
        (
            lambda: np.mean([b.var(0, ddof=1) for b in several], axis=0),
            "The mean of the batches' variances leaves out how their means differ, and ignores their sizes.",
        ),
        (
            lambda: sum(len(b) * b.var(0) for b in batches) / len(rows),
            "You average the variances inside the batches. The batches' means differ too: add their variance.",
        ),
        (
            lambda: sum(len(b) * b.var(0) for b in batches) / (len(rows) - 1),
            "You average the variances inside the batches. The batches' means differ too: add their variance.",
        ),
        (lambda: batches[-1].var(0, ddof=1), "That is the last batch alone. All of them count."),
        (lambda: rows.std(0, ddof=1), "That is the standard deviation. Square it."),
        (
            lambda: np.full(rows.shape[1], rows.var(ddof=1)),
            "You average over the features too. Each feature has its own variance.",
        ),
    )


def _moving(values: list[Array], start: float) -> Array:
    running = np.full(values[0].shape, start)
    for value in values:
        running = (1 - _MOMENTUM) * running + _MOMENTUM * value
    return running


@exercise("placement.4")
def combined_statistics(answer: Answer, seed: int) -> str:
    """Check combined_statistics(batches) -> (mean, var): those of all rows together, var over n - 1.

    Batches of different sizes, one of a single row, whose means differ; then data far away from 0, where the mean of
    the squares minus the square of the mean has no digits left. No batch is changed. Nothing is random in a right
    answer.
    """
    rng = np.random.default_rng(seed)
    for offset in (0.0, 1e7):
        sizes = [int(n) for n in rng.permuted([1, 3, 5, 9, 14])]
        batches = [offset + rng.normal(2 * k, rng.uniform(0.5, 2, 4), (n, 4)) for k, n in enumerate(sizes)]
        if len(batches[-1]) == 1:
            batches = batches[1:] + batches[:1]
        rows = np.concatenate(batches)
        text = f"{answer.name}(batches) with {len(batches)} batches of {', '.join(str(len(b)) for b in batches)} rows"
        value = answer.call(text, batches, pure=True)
        if not isinstance(value, list | tuple) or len(value) != 2:
            raise Mistake(f"{text} returned {short(repr(value))}, expected mean and var")
        mean = array(value[0], f"{text}: mean", (4,))
        var = array(value[1], f"{text}: var", (4,))
        far = offset and "The data are far away from 0: subtract the mean before you square, or no digit is left."
        if not np.allclose(mean, rows.mean(0), rtol=1e-9, atol=0):
            hint = "" if offset else _first_hint(_mean_rules(batches), mean)
            raise Mistake(f"{text}: mean is {mean[0]:.8g} in entry 0, expected {rows.mean(0)[0]:.8g}", hint)
        if not np.allclose(var, rows.var(0, ddof=1), rtol=1e-4, atol=0):
            hint = far or _first_hint(_var_rules(batches), var)
            raise Mistake(f"{text}: var is {var[0]:.8g} in entry 0, expected {rows.var(0, ddof=1)[0]:.8g}", hint)
    return "Mean and variance of all rows are right, also far away from 0."


def _first_hint(rules: Rules, value: Array) -> str:
    return matching(rules, value) or "All rows of all batches together have one mean and one variance."


# --- 5: which rate was it? -----------------------------------------------------------------------------------------


@exercise("placement.5")
def hidden_rate(answer: Answer, seed: int) -> str:
    """Check hidden_rate(running_var, mean, var): the rate of the dropout in front of a BatchNorm, to .03.

    running_var is what the layer holds for 60 features, mean and var are those of evaluation; running_var has random
    deviations of 1 %. Three rates between .15 and .84. An estimate that uses all features, in any sensible way, is
    rejected with a probability of at most 1e-9.
    """
    rng = np.random.default_rng(seed)
    three = (*rates(rng), float(rng.integers(42, 48)) / 100)
    values, texts, inputs = [], [], []
    for p in three:
        mean, var = np.abs(signed(rng, (60,))) * rng.uniform(0.2, 1.5), rng.uniform(0.5, 2, 60)
        running = (var / (1 - p) + mean**2 * p / (1 - p)) * (1 + 0.01 * np.clip(rng.standard_normal(60), -3, 3))
        text = f"{answer.name}(running_var, mean, var)"
        values.append(number(answer.call(text, running, mean, var, pure=True), text))
        texts.append(text)
        inputs.append((running, mean, var))
    if all(abs(value - p) <= 0.03 for p, value in zip(three, values, strict=True)):
        return f"The rates {three[0]}, {three[1]} and {three[2]} were found."
    at = max(range(3), key=lambda i: abs(values[i] - three[i]))
    raise Mistake(f"{texts[at]} returned {values[at]:.3g}, the rate was {three[at]}", _rate_hint(values, three, inputs))


_ZERO_MEAN = "That would be right for a mean of 0. The squared mean over the variance comes in too."
_SOLVE = "Solve again: the rate stands in the denominator 1 - p of both terms."
_WRONG_RATES: tuple[tuple[Callable[[float, Array, Array], Any], str], ...] = (
    (lambda p, r, k: 1 - p, "That is the probability of keeping."),
    (lambda p, r, k: 1 - 1 / np.mean(r), _ZERO_MEAN),
    (lambda p, r, k: 1 - float(np.mean(1 / r)), _ZERO_MEAN),
    (lambda p, r, k: float(np.mean(r)), "That is the ratio itself. Which rate gives this ratio?"),
    (lambda p, r, k: 1 / np.mean(r), "That is a ratio of variances. Which rate gives it?"),
    (lambda p, r, k: (np.mean(r) - 1) / (1 + np.mean(k)), _SOLVE),
    (lambda p, r, k: float(np.mean(r)) - 1, _SOLVE),
    (lambda p, r, k: 0.5, "The rate follows from the numbers given; it is not always one half."),
)


def _rate_hint(values: Sequence[float], three: Sequence[float], inputs: Sequence[tuple[Array, Array, Array]]) -> str:
    """Return the hint of the wrong rule that gives all three values."""
    given = [(p, running / var, mean**2 / var) for p, (running, mean, var) in zip(three, inputs, strict=True)]
    for rule, hint in _WRONG_RATES:
        if all(abs(value - rule(*numbers)) < 0.01 for value, numbers in zip(values, given, strict=True)):
            return hint
    if not all(0 <= value <= 1 for value in values):
        return "A rate lies between 0 and 1. Solve running_var / var = 1/(1-p) + mean^2/var * p/(1-p) for p."
    return "Solve running_var / var = 1/(1-p) + mean^2/var * p/(1-p) for p, for all features together."
