"""Answers to the code questions of "placement"."""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np

from dropoutlib.batchnorm import BatchNorm1d
from tests.grading.proof import Proof, returns

Array = np.ndarray[Any, Any]
M, EPS = 0.1, 1e-5

# 1


def batch_norm(
    y_train: Callable[[Array, Array, Array], Any] | None = None,
    y_eval: Callable[[Array, Array, Array], Any] | None = None,
    new_mean: Callable[[Array, Array, Array], Any] | None = None,
    new_var: Callable[[Array, Array, Array], Any] | None = None,
    moves_in_evaluation: bool = False,
) -> Callable[..., Any]:
    """Return a right answer but for the changed parts."""

    def answer(x: Array, mean: Array, var: Array, training: bool) -> Any:
        use_mean, use_var = (x.mean(0), x.var(0)) if training else (mean, var)
        y = (x - use_mean) / np.sqrt(use_var + EPS)
        changed = y_train if training else y_eval
        y = changed(x, mean, var) if changed else y
        if not training and not moves_in_evaluation:
            return y, mean, var
        moved = (1 - M) * mean + M * x.mean(0), (1 - M) * var + M * x.var(0, ddof=1)
        return (
            y,
            new_mean(x, mean, var) if new_mean else moved[0],
            new_var(x, mean, var) if new_var else moved[1],
        )

    return answer


def by_layer(x: Array, mean: Array, var: Array, training: bool) -> Any:
    layer = BatchNorm1d(x.shape[1])
    layer.running_mean, layer.running_var, layer.training = mean.copy(), var.copy(), training
    return layer.forward(x), layer.running_mean, layer.running_var


def by_loop(x: Array, mean: Array, var: Array, training: bool) -> Any:
    n, d = x.shape
    y, new_mean, new_var = np.empty_like(x), mean.copy(), var.copy()
    for j in range(d):
        column = x[:, j].tolist()
        m, v = float(mean[j]), float(var[j])
        if training:
            m = math.fsum(column) / n
            v = math.fsum((u - m) ** 2 for u in column) / n
            new_mean[j] += M * (m - mean[j])
            new_var[j] += M * (v * n / (n - 1) - var[j])
        for i, u in enumerate(column):
            y[i, j] = (u - m) / (v + EPS) ** 0.5
    return y, new_mean, new_var


def by_einsum(x: Array, mean: Array, var: Array, training: bool) -> Any:
    if not training:
        return [np.einsum("ij,j->ij", x - mean, (var + EPS) ** -0.5), mean, var]
    m = np.einsum("ij->j", x) / len(x)
    centred = x - m
    squares = np.einsum("ij,ij->j", centred, centred)
    y = centred * (squares / len(x) + EPS) ** -0.5
    return [y, mean + (m - mean) / 10, var + (squares / (len(x) - 1) - var) / 10]


def in_place(x: Array, mean: Array, var: Array, training: bool) -> Any:
    y, mean, var = x.copy(), mean.copy(), var.copy()
    m, v = (y.mean(axis=0), y.var(axis=0)) if training else (mean, var)
    y -= m
    y /= np.sqrt(v + EPS)
    if training:
        mean *= 0.9
        mean += 0.1 * m
        var *= 0.9
        var += 0.1 * v * len(x) / (len(x) - 1)
    return y, mean, var


def by_covariance(x: Array, mean: Array, var: Array, training: bool) -> Any:
    if training:
        unbiased = np.atleast_1d(np.diag(np.cov(x.T)))
        y = (x - np.average(x, axis=0)) / np.sqrt(unbiased * (1 - 1 / len(x)) + EPS)
        return y, np.average([mean, x.mean(0)], axis=0, weights=[9, 1]), 0.9 * var + 0.1 * unbiased
    return (x - mean) / np.sqrt(var + EPS), mean.copy(), var.copy()


def overwrites(x: Array, mean: Array, var: Array, training: bool) -> Any:
    result = by_layer(x, mean, var, training)
    if training:
        mean[:] = result[1]
    return result


BATCH_NORM = Proof(
    right={
        "by parts": batch_norm(),
        "the package's own layer": by_layer,
        "a loop": by_loop,
        "einsum": by_einsum,
        "in place, on copies": in_place,
        "from the covariance": by_covariance,
    },
    wrong=(
        (batch_norm(lambda x, m, v: (x - m) / np.sqrt(v + EPS)), "In training BatchNorm normalises by the batch"),
        (batch_norm(lambda x, m, v: (x - x.mean(0)) / np.sqrt(x.var(0, ddof=1) + EPS)), "the variance divides by n"),
        (
            batch_norm(lambda x, m, v: (x - x.mean(1)[:, None]) / np.sqrt(x.var(1)[:, None] + EPS)),
            "over the rows of the batch: axis 0",
        ),
        (batch_norm(lambda x, m, v: (x - x.mean()) / np.sqrt(x.var() + EPS)), "Each feature has its own"),
        (batch_norm(lambda x, m, v: (x - x.mean(0)) / (x.std(0) + EPS)), "under the root"),
        (batch_norm(lambda x, m, v: (x - x.mean(0)) / x.std(0)), "eps is missing"),
        (batch_norm(lambda x, m, v: (x - x.mean(0)) / (x.var(0) + EPS)), "Its root has the units of x"),
        (batch_norm(lambda x, m, v: x / np.sqrt(x.var(0) + EPS)), "The mean is not taken away"),
        (
            batch_norm(y_eval=lambda x, m, v: (x - x.mean(0)) / np.sqrt(x.var(0) + EPS)),
            "does not depend on the other rows",
        ),
        (batch_norm(y_eval=lambda x, m, v: (x - m) / (v + EPS)), "Its root has the units of x"),
        (batch_norm(y_eval=lambda x, m, v: (x - m) / (np.sqrt(v) + EPS)), "under the root"),
        (batch_norm(y_eval=lambda x, m, v: x.copy()), "still normalises"),
        (batch_norm(moves_in_evaluation=True), "In evaluation nothing is learned"),
        (batch_norm(new_mean=lambda x, m, v: m), "moves towards the batch's"),
        (batch_norm(new_mean=lambda x, m, v: M * m + (1 - M) * x.mean(0)), "You give it to the old value"),
        (batch_norm(new_mean=lambda x, m, v: x.mean(0)), "it does not jump"),
        (batch_norm(new_mean=lambda x, m, v: m + M * x.mean(0)), "grows for ever"),
        (batch_norm(new_var=lambda x, m, v: (1 - M) * v + M * x.var(0)), "divides by n - 1 here"),
        (batch_norm(new_var=lambda x, m, v: M * v + (1 - M) * x.var(0, ddof=1)), "You give it to the old value"),
        (
            batch_norm(new_var=lambda x, m, v: ((1 - M) * np.sqrt(v) + M * x.std(0, ddof=1)) ** 2),
            "It is the variances that are averaged",
        ),
        (
            batch_norm(new_var=lambda x, m, v: (1 - M) * v + M * x.std(0, ddof=1)),
            "a standard deviation into a variance",
        ),
        (overwrites, "Make a new array"),
    ),
)

# 2


def ratio(m: Array, v: Array, p: float) -> Any:
    return 1 / (1 - p) + m**2 / v * p / (1 - p)


def ratio_by_moments(m: Array, v: Array, p: float) -> Any:
    square = (v + m**2) / (1 - p)
    return (square - m**2) / v


def ratio_by_loop(m: Array, v: Array, p: float) -> list[float]:
    return [float((b + p * a * a) / ((1 - p) * b)) for a, b in zip(m, v, strict=True)]


def ratio_of_standard(m: Array, v: Array, p: float) -> Any:
    q = 1 - p
    return (q * (v + m**2) - (q * m) ** 2) / (q**2 * v)


def ratio_by_einsum(m: Array, v: Array, p: float) -> Any:
    return (1 + np.einsum("i,i,i->i", m, m, 1 / v) * p) / (1 - p)


def ratio_in_place(m: Array, v: Array, p: float) -> Any:
    result = m * m
    result *= p
    result += v
    result /= v * (1 - p)
    return result


def ratio_by_total_variance(m: Array, v: Array, p: float) -> Any:
    # Variance of the mean given the mask, plus mean of the variance given the mask.
    given_kept = np.stack([np.zeros_like(m), m / (1 - p)])
    between = p * (given_kept[0] - m) ** 2 + (1 - p) * (given_kept[1] - m) ** 2
    return (between + (1 - p) * v / (1 - p) ** 2) / v


RATIO = Proof(
    right={
        "the formula": ratio,
        "from the moments": ratio_by_moments,
        "a loop, as a list": ratio_by_loop,
        "with standard dropout": ratio_of_standard,
        "einsum": ratio_by_einsum,
        "in place": ratio_in_place,
        "the law of total variance": ratio_by_total_variance,
    },
    wrong=(
        (lambda m, v, p: np.full(m.shape, 1 / (1 - p)), "right for a mean of 0"),
        (lambda m, v, p: 1 / (1 - p) + m**2 * p / (1 - p), "divide it by var"),
        (lambda m, v, p: v * ratio(m, v, p), "the variance in training"),
        (lambda m, v, p: 1 / ratio(m, v, p), "training goes on top"),
        (lambda m, v, p: np.sqrt(ratio(m, v, p)), "the ratio of the standard deviations"),
        (lambda m, v, p: ratio(m, v, 1 - p), "Which share is left"),
        (lambda m, v, p: 1 + m**2 / v * p / (1 - p), "A part is missing"),
        (lambda m, v, p: (1 + m**2 / v) / (1 - p), "The squared mean is to be taken away"),
        (lambda m, v, p: 1 / (1 - p) + m / v * p / (1 - p), "The mean comes in squared"),
        (lambda m, v, p: (1 - p) + m**2 / v * p * (1 - p), "Its evaluation is (1-p) x"),
        (lambda m, v, p: 3 * ratio(m, v, p), "with probability 1-p"),
        (lambda m, v, p: float(np.mean(ratio(m, v, p))), "One ratio for each feature"),
    ),
)

# 3

P, MU, SIGMA = 0.3, 1.2, 0.8
Q = 1 - P
VAR = SIGMA**2 / Q + MU**2 * P / Q
R = VAR / SIGMA**2


def exactly() -> list[Any]:
    p, mu, var = Fraction(3, 10), Fraction(12, 10), Fraction(64, 100)
    train = (var + p * mu**2) / (1 - p)
    return [train, train / var, float(var / train) ** 0.5]


def sampled() -> Array:
    rng = np.random.default_rng(5)
    x = MU + SIGMA * rng.standard_normal(1_000_000)
    y = x * (rng.random(x.shape) >= P) / Q
    return np.array([y.var(), y.var() / x.var(), (x / y.std()).std()])


SHIFT = Proof(
    given={"P": P, "MU": MU, "SIGMA": SIGMA},
    right={
        "formulas": returns(VAR, R, R**-0.5),
        "rounded to three digits": returns(1.53, 2.39, 0.647),
        "fractions, as a list": exactly,
        "a million draws, as an array": sampled,
        "from the package": lambda: (VAR, float(ratio(np.array(MU), np.array(SIGMA**2), P)), SIGMA / VAR**0.5),
    },
    wrong=(
        (returns(SIGMA**2, R, R**-0.5), "without dropout"),
        (returns(SIGMA**2 / Q, R, R**-0.5), "MU counts too"),
        (returns((SIGMA**2 + MU**2) / Q, R, R**-0.5), "Take away the square of the mean"),
        (returns(Q * SIGMA**2 + MU**2 * P * Q, R, R**-0.5), "That is standard dropout"),
        (returns(VAR**0.5, R, R**-0.5), "That is the standard deviation"),
        (returns(R, R, R**-0.5), "already the ratio"),
        (returns(SIGMA / Q + MU**2 * P / Q, R, R**-0.5), "SIGMA is a standard deviation"),
        (returns(VAR, 1 / Q, R**-0.5), "MU = 0 only"),
        (returns(VAR, 1 / R, R**-0.5), "the running variance goes on top"),
        (returns(VAR, R**0.5, R**-0.5), "ratio of standard deviations"),
        (returns(VAR, VAR, R**-0.5), "Divide it by the variance in evaluation"),
        (returns(VAR, R, 1.0), "It would be 1"),
        (returns(VAR, R, R**0.5), "which is too large here"),
        (returns(VAR, R, 1 / R), "Its root is asked for"),
        (returns(VAR, R, SIGMA), "before BatchNorm"),
    ),
)

# 4


def together(batches: list[Array]) -> Any:
    rows = np.concatenate(batches)
    return rows.mean(0), rows.var(0, ddof=1)


def welford(batches: list[Array]) -> Any:
    n, mean, squares = 0, np.zeros(batches[0].shape[1]), np.zeros(batches[0].shape[1])
    for batch in batches:
        for row in batch:
            n += 1
            delta = row - mean
            mean = mean + delta / n
            squares = squares + delta * (row - mean)
    return mean, squares / (n - 1)


def merged(batches: list[Array]) -> Any:
    n, mean, squares = len(batches[0]), batches[0].mean(0), batches[0].var(0) * len(batches[0])
    for batch in batches[1:]:
        k, delta = len(batch), batch.mean(0) - mean
        squares += batch.var(0) * k + delta**2 * n * k / (n + k)
        mean += delta * k / (n + k)
        n += k
    return [mean, squares / (n - 1)]


def two_passes(batches: list[Array]) -> Any:
    n = sum(map(len, batches))
    mean = sum(np.einsum("ij->j", b) for b in batches) / n
    return mean, sum(np.einsum("ij,ij->j", b - mean, b - mean) for b in batches) / (n - 1)


def by_fsum(batches: list[Array]) -> Any:
    columns = [[float(row[j]) for b in batches for row in b] for j in range(batches[0].shape[1])]
    means = [math.fsum(c) / len(c) for c in columns]
    squares = [math.fsum((u - m) ** 2 for u in c) for c, m in zip(columns, means, strict=True)]
    return means, [s / (len(c) - 1) for s, c in zip(squares, columns, strict=True)]


def shifted_in_place(batches: list[Array]) -> Any:
    shift, rows = batches[0][0].copy(), np.vstack(batches)
    rows -= shift
    n = len(rows)
    return rows.mean(0) + shift, ((rows**2).sum(0) - rows.sum(0) ** 2 / n) / (n - 1)


def inside(batches: list[Array], ddof: int = 0) -> Any:
    return sum(len(b) * b.var(0) for b in batches) / (sum(map(len, batches)) - ddof)


def moving(values: list[Array]) -> Any:
    running = np.zeros(values[0].shape)
    for value in values:
        running = (1 - M) * running + M * value
    return running


def changed(mean: Callable[[list[Array]], Any] | None = None, var: Callable[[list[Array]], Any] | None = None) -> Any:
    """Return a right answer but for one of the two."""

    def answer(batches: list[Array]) -> Any:
        right = together(batches)
        return mean(batches) if mean else right[0], var(batches) if var else right[1]

    return answer


def from_squares(batches: list[Array]) -> Any:
    rows = np.concatenate(batches)
    n = len(rows)
    return (np.mean(rows**2, axis=0) - rows.mean(0) ** 2) * n / (n - 1)


def centres_in_place(batches: list[Array]) -> Any:
    result = together(batches)
    batches[0] -= result[0]
    return result


COMBINED = Proof(
    right={
        "all rows together": together,
        "row after row": welford,
        "batch after batch": merged,
        "two passes, einsum": two_passes,
        "loops and fsum, as lists": by_fsum,
        "shifted, in place": shifted_in_place,
    },
    wrong=(
        (changed(lambda bs: np.mean([b.mean(0) for b in bs], axis=0)), "different sizes"),
        (changed(lambda bs: bs[-1].mean(0)), "the last batch alone"),
        (changed(lambda bs: bs[0].mean(0)), "the first batch alone"),
        (changed(lambda bs: np.full(4, np.concatenate(bs).mean())), "Each feature has its own mean"),
        (changed(lambda bs: moving([b.mean(0) for b in bs])), "forgets the first batches"),
        (changed(var=lambda bs: np.concatenate(bs).var(0)), "Divide by n - 1"),
        (changed(var=lambda bs: np.mean([b.var(0) for b in bs], axis=0)), "ignores their sizes"),
        (changed(var=lambda bs: np.mean([b.var(0, ddof=1) for b in bs if len(b) > 1], axis=0)), "ignores their sizes"),
        (changed(var=inside), "add their variance"),
        (changed(var=lambda bs: inside(bs, 1)), "add their variance"),
        (changed(var=lambda bs: bs[-1].var(0, ddof=1)), "the last batch alone"),
        (changed(var=lambda bs: np.concatenate(bs).std(0, ddof=1)), "Square it"),
        (changed(var=lambda bs: np.full(4, np.concatenate(bs).var(ddof=1))), "Each feature has its own variance"),
        (changed(var=from_squares), "subtract the mean before you square"),
        (changed(var=lambda bs: 7.0 * np.ones(4)), "have one mean and one variance"),
        (centres_in_place, "Make a new array"),
    ),
)

# 5


def rate_of(running: Array, mean: Array, var: Array) -> Array:
    r, k = running / var, mean**2 / var
    return (r - 1) / (r + k)


def by_least_squares(running: Array, mean: Array, var: Array) -> Any:
    # r (1 - p) = 1 + k p, so r - 1 = p (r + k).
    r, k = running / var, mean**2 / var
    return np.einsum("i,i->", r - 1, r + k) / np.einsum("i,i->", r + k, r + k)


def by_totals(running: Array, mean: Array, var: Array) -> float:
    return float((running - var).sum() / (running + mean**2).sum())


def by_grid(running: Array, mean: Array, var: Array) -> Any:
    grid = np.linspace(0.01, 0.95, 941)
    errors = [np.abs(np.log(ratio(mean, var, p) * var / running)).sum() for p in grid]
    return grid[int(np.argmin(errors))]


def by_halving(running: Array, mean: Array, var: Array) -> float:
    low, high = 0.0, 0.999
    for _ in range(40):
        middle = (low + high) / 2
        too_small = sum(float(u) for u in ratio(mean, var, middle) * var / running) < len(mean)
        low, high = (middle, high) if too_small else (low, middle)
    return low


HIDDEN_RATE = Proof(
    right={
        "the median": lambda running, mean, var: float(np.median(rate_of(running, mean, var))),
        "the mean": lambda running, mean, var: rate_of(running, mean, var).mean(),
        "least squares, einsum": by_least_squares,
        "totals": by_totals,
        "a grid": by_grid,
        "halving, a loop": by_halving,
    },
    wrong=(
        (lambda running, mean, var: 1 - np.median(rate_of(running, mean, var)), "the probability of keeping"),
        (lambda running, mean, var: 1 - 1 / np.mean(running / var), "right for a mean of 0"),
        (lambda running, mean, var: 1 - np.mean(var / running), "right for a mean of 0"),
        (lambda running, mean, var: np.mean(running / var), "the ratio itself"),
        (lambda running, mean, var: 1 / np.mean(running / var), "a ratio of variances"),
        (
            lambda running, mean, var: (np.mean(running / var) - 1) / (1 + np.mean(mean**2 / var)),
            "Solve again",
        ),
        (lambda running, mean, var: np.mean(running / var) - 1, "Solve again"),
        (lambda running, mean, var: 0.5, "not always one half"),
        (lambda running, mean, var: -3.0, "between 0 and 1"),
        (lambda running, mean, var: 0.01, "for all features together"),
    ),
)

QUESTIONS = {
    "placement.1": BATCH_NORM,
    "placement.2": RATIO,
    "placement.3": SHIFT,
    "placement.4": COMBINED,
    "placement.5": HIDDEN_RATE,
}
