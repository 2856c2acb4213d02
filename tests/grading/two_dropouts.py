"""Answers to the code questions of "two-dropouts"."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np

from dropoutlib.layers import InvertedDropout
from dropoutlib.masks import bernoulli_mask
from tests.dropoutlib import planted_bugs as bugs
from tests.grading.proof import Proof, returns

Array = np.ndarray[Any, Any]


# 1


def uniform(shape: Any, p: float, seed: int) -> Any:
    return np.random.default_rng(seed).random(shape) >= p


def philox(shape: Any, p: float, seed: int) -> Any:
    return np.random.Generator(np.random.Philox(seed)).uniform(size=shape) > p if 0 < p < 1 else np.full(shape, p == 0)


def loop(shape: Any, p: float, seed: int) -> Any:
    rng = np.random.default_rng(seed)
    mask = np.zeros(shape, bool)
    for index in np.ndindex(shape):
        mask[index] = rng.random() >= p
    return mask


def old_generator(shape: Any, p: float, seed: int) -> Any:
    return np.array(np.random.RandomState(seed).binomial(1, 1 - p, shape), bool)


def raw_bits(shape: Any, p: float, seed: int) -> Any:
    return bernoulli_mask(shape, p, np.random.SFC64(seed))


def packed(shape: Any, p: float, seed: int) -> Any:
    n = int(np.prod(shape))
    bits = np.packbits(np.random.default_rng(seed).random(n) >= p)
    return np.unpackbits(bits, count=n).astype(bool).reshape(shape)


def choice(shape: Any, p: float, seed: int) -> Any:
    return np.random.default_rng(seed).choice([True, False], size=shape, p=[1 - p, p])


def in_place(shape: Any, p: float, seed: int) -> Any:
    draws = np.empty(shape)
    np.random.default_rng(seed).random(out=draws)
    return np.greater_equal(draws, p)


def two_dimensional_only(shape: Any, p: float, seed: int) -> Any:
    rows, columns = shape
    return np.random.default_rng(seed).random((rows, columns)) >= p


def exact_count(shape: Any, p: float, seed: int) -> Any:
    n = int(np.prod(shape))
    order = np.random.default_rng(seed).permutation(n)
    return (order >= round(p * n)).reshape(shape)


def fresh(shape: Any, p: float, seed: int) -> Any:
    return np.random.default_rng().random(shape) >= p


DRAW_MASK = Proof(
    right={
        "uniform numbers": uniform,
        "another generator": philox,
        "a loop": loop,
        "binomial numbers of the old generator": old_generator,
        "raw bits": raw_bits,
        "packed": packed,
        "choice": choice,
        "in place": in_place,
    },
    wrong=(
        (lambda shape, p, seed: np.random.default_rng(seed).random(shape) < p, "does your comparison with p select"),
        (lambda shape, p, seed: np.random.default_rng(seed).random(shape) >= 0.5, "Where does p enter?"),
        (lambda shape, p, seed: np.random.default_rng(seed).integers(0, 2, shape) == 1, "Where does p enter?"),
        (lambda shape, p, seed: uniform(shape, p, seed).astype(float), "The factor comes later"),
        (lambda shape, p, seed: uniform(shape, p, seed) / (1 - p), "The factor comes later"),
        (lambda shape, p, seed: np.broadcast_to(uniform(shape[-1:], p, seed), shape), "must not serve a whole batch"),
        (
            lambda shape, p, seed: np.broadcast_to(uniform((*shape[:-1], 1), p, seed), shape),
            "must not serve a whole row",
        ),
        (lambda shape, p, seed: uniform(shape[-1:], p, seed), "One True or False for each element"),
        (lambda shape, p, seed: uniform(shape, p, 0), "The seed is not used"),
        (fresh, "a generator that you make of the seed"),
        (exact_count, "random too"),
        (two_dimensional_only, "may be any tuple"),
        (lambda shape, p, seed: uniform(shape, p, seed) if p < 1 else np.ones(shape, bool), "p = 1 drops everything"),
        (lambda shape, p, seed: uniform(shape, p or 0.1, seed), "p = 0 drops nothing"),
    ),
)


# 2


def both(x: Array, p: float, seed: int, training: bool, convention: str) -> Any:
    q = 1 - p
    if not training:
        return x * x.dtype.type(q) if convention == "standard" else x.copy()
    y = np.where(uniform(x.shape, p, seed), x, 0)
    if convention == "inverted" and p < 1:
        y = y / q
    return np.asarray(y, x.dtype)


def both_by_loop(x: Array, p: float, seed: int, training: bool, convention: str) -> Any:
    y = np.array(x)
    rng = np.random.Generator(np.random.MT19937(seed))
    for i in np.ndindex(x.shape):
        if training:
            kept = rng.random() >= p
            y[i] = 0 if not kept else x[i] / (1 - p) if convention == "inverted" else x[i]
        elif convention == "standard":
            y[i] = x[i] * (1 - p)
    return y


def both_by_layers(x: Array, p: float, seed: int, training: bool, convention: str) -> Any:
    y = np.asarray(x) if not training else InvertedDropout(p, seed).forward(x)
    wanted = 1 - p if convention == "standard" else 1
    return (y * y.dtype.type(wanted)).astype(x.dtype)


def both_by_einsum(x: Array, p: float, seed: int, training: bool, convention: str) -> Any:
    factor = np.full(x.shape, 1.0 if convention == "inverted" else 1 - p)
    if training:
        factor = packed(x.shape, p, seed) * (1.0 if convention == "standard" or p == 1 else 1 / (1 - p))
    return np.einsum("...,...->...", x.astype(float), factor).astype(x.dtype)


def both_in_place(x: Array, p: float, seed: int, training: bool, convention: str) -> Any:
    y = x.copy()
    if training:
        y[...] *= uniform(x.shape, p, seed)
        if convention == "inverted":
            y /= max(1 - p, np.finfo(np.float16).tiny)
    elif convention == "standard":
        y *= 1 - p
    return y


def dropout(**changed: Any) -> Callable[..., Any]:
    """Return a right answer but for the changed parts."""
    parts: dict[str, Any] = {
        "mask": uniform,
        "train_inverted": lambda q: 1 / q if q else 0,
        "train_standard": lambda q: 1.0,
        "eval_inverted": lambda q: 1.0,
        "eval_standard": lambda q: q,
        **changed,
    }

    def answer(x: Array, p: float, seed: int, training: bool, convention: str) -> Any:
        if parts.get("in_place") and training:
            x *= uniform(x.shape, p, seed)
        mode = "train" if training or parts.get("always") else "eval"
        factor = parts[f"{mode}_{convention}"](1 - p)
        y = x * np.asarray(factor)
        if mode == "train":
            y = y * parts["mask"](x.shape, p, seed)
        return y if parts.get("wide") else np.asarray(y, x.dtype)

    return answer


def zero_over_zero(x: Array, p: float, seed: int, training: bool, convention: str) -> Any:
    y = both(x, min(p, 0.999), seed, training, convention)
    return y * np.nan if p == 1 and training and convention == "inverted" else y


DROPOUT = Proof(
    right={
        "where": both,
        "a loop and another generator": both_by_loop,
        "through a layer": both_by_layers,
        "einsum and packed masks": both_by_einsum,
        "in place, on a copy": both_in_place,
        "by parts": dropout(),
    },
    wrong=(
        (dropout(train_inverted=lambda q: 1.0), "Nothing makes up for what was dropped"),
        (dropout(train_inverted=lambda q: 1 / (1 - q) if q < 1 else 1), "the share that is dropped"),
        (dropout(train_inverted=lambda q: 1 / q**2 if q else 0), "twice"),
        (dropout(train_inverted=lambda q: q), "shrink or grow"),
        (dropout(train_inverted=lambda q: 2.0), "p = 0.5 only"),
        (dropout(train_inverted=lambda q: 3.0), "Which factor makes the mean"),
        (dropout(mask=lambda shape, p, seed: ~uniform(shape, p, seed)), "does your comparison with p select"),
        (
            dropout(mask=lambda *a: ~uniform(*a), train_inverted=lambda q: 1 / (1 - q) if q < 1 else 1),
            "does your comparison with p select",
        ),
        (dropout(mask=lambda shape, p, seed: uniform(shape, 0.5, seed)), "Where does p enter?"),
        (dropout(mask=lambda shape, p, seed: uniform(shape[-1:], p, seed)), "must not serve a whole batch"),
        (
            dropout(mask=lambda shape, p, seed: uniform((*shape[:-1], 1), p, seed)),
            "must not serve a whole row",
        ),
        (dropout(mask=fresh), "a generator that you make of the seed"),
        (dropout(mask=lambda shape, p, seed: uniform(shape, p, 7)), "The seed is not used"),
        (dropout(train_standard=lambda q: 1 / q if q else 0), "That is inverted dropout"),
        (dropout(train_standard=lambda q: q), "factor belongs to evaluation"),
        (dropout(eval_inverted=lambda q: q), "it is done twice"),
        (dropout(eval_inverted=lambda q: 1 / q if q else 1), "nothing to make up for"),
        (dropout(eval_standard=lambda q: 1.0), "Evaluation must show its mean"),
        (dropout(eval_standard=lambda q: 1 - q), "the share of the others"),
        (dropout(eval_standard=lambda q: 1 / q if q else 1), "smaller than x, not larger"),
        (dropout(eval_standard=lambda q: q * q), "One factor is enough"),
        (dropout(always=True), "Does the function look at training?"),
        (dropout(wide=True), "Which operand has the wider dtype"),
        (dropout(in_place=True), "Make a new array"),
        (zero_over_zero, "At p = 1 nothing is kept"),
    ),
)


# 3

P, X = 0.3, 2.4
Q = 1 - P


def exactly() -> tuple[Fraction, ...]:
    p, x = Fraction(3, 10), Fraction(24, 10)
    return (1 - p) * x, p * (1 - p) * x**2, x, p / (1 - p) * x**2


def by_definition() -> Array:
    values = []
    for kept in (X, X / Q):
        mean = P * 0 + Q * kept
        values += [mean, P * mean**2 + Q * (kept - mean) ** 2]
    return np.array(values)


def by_sampling() -> list[float]:
    mask = np.random.default_rng(0).random(1_000_000) >= P
    return [float(v) for y in (X * mask, X * mask / Q) for v in (y.mean(), y.var())]


RIGHT_MOMENTS = (Q * X, P * Q * X**2, X, P / Q * X**2)


def moments(k: int, value: float) -> Callable[[], tuple[float, ...]]:
    """Return the four right numbers but for one."""
    return returns(*RIGHT_MOMENTS[:k], value, *RIGHT_MOMENTS[k + 1 :])


MOMENTS = Proof(
    given={"P": P, "X": X},
    right={
        "formulas": returns(*RIGHT_MOMENTS),
        "rounded to three digits": returns(1.68, 1.21, 2.40, 2.47),
        "fractions": exactly,
        "from the definition, as an array": by_definition,
        "a million draws, as a list": by_sampling,
    },
    wrong=(
        (moments(0, X), "does not make up for what it drops"),
        (moments(0, P * X), "How often is y equal to X?"),
        (moments(0, X / Q), "Average X and 0"),
        (moments(1, P / Q * X**2), "the variance of inverted dropout"),
        (moments(1, Q * X**2), "Take away the square of the mean"),
        (moments(1, P * Q * X), "A factor comes out of a variance squared"),
        (moments(1, P * Q), "left out X"),
        (moments(1, (P * Q) ** 0.5 * X), "the standard deviation"),
        (moments(2, Q * X), "the mean without the factor"),
        (moments(2, X / Q), "the value of a kept element"),
        (moments(2, X * Q / P), "You scale by 1/p"),
        (moments(3, P * Q * X**2), "the variance of standard dropout"),
        (moments(3, X**2 / Q), "Take away the square of the mean"),
        (moments(3, P * X**2), "divide by it twice"),
        (moments(3, (P / Q) ** 0.5 * X), "the standard deviation"),
        (moments(3, 17.0), "Work it out again"),
    ),
)


# 5


def layer(cls: Any) -> Any:
    """Return a layer of the contract with the assignment's interface."""

    class Layer:
        def __init__(self, p: float, seed: int) -> None:
            self.layer = cls(p, seed)

        def forward(self, x: Array, training: bool) -> Any:
            self.layer.training = training
            return self.layer.forward(x)

        def backward(self, dy: Array) -> Any:
            return self.layer.backward(dy)

    return Layer


class Remembers:
    """Keeps the mask as bools, and can be given every mistake by overriding."""

    def __init__(self, p: float, seed: int) -> None:
        self.p, self.rng, self.mask = p, np.random.default_rng(seed), None

    def draw(self, shape: Any) -> Any:
        return self.rng.random(shape) >= self.p

    def scale(self) -> float:
        return 1 / (1 - self.p) if self.p < 1 else 0.0

    def forward(self, x: Array, training: bool) -> Any:
        self.mask = self.draw(x.shape) if training else None
        return x.copy() if self.mask is None else self.times(x, self.mask)

    def backward(self, dy: Array) -> Any:
        return dy.copy() if self.mask is None else self.times(dy, self.mask)

    def times(self, x: Array, mask: Any) -> Any:
        return np.asarray(x * mask * self.scale(), x.dtype)


class Packed(Remembers):
    def draw(self, shape: Any) -> Any:
        return np.packbits(super().draw(shape))

    def times(self, x: Array, mask: Any) -> Any:
        return super().times(x, np.unpackbits(mask, count=x.size).reshape(x.shape))


class Recomputes:
    """Stores a counter and no mask, and draws the mask again in backward."""

    def __init__(self, p: float, seed: int) -> None:
        self.p, self.seed, self.step, self.training = p, seed, 0, False

    def apply(self, x: Array) -> Any:
        if not self.training or self.p == 0:
            return 1.0 * x
        rng = np.random.Generator(np.random.Philox(key=self.seed, counter=[0, 0, 0, self.step]))
        kept = rng.random(x.shape, dtype=np.float32) >= self.p
        return np.where(kept, x / x.dtype.type(1 - self.p or 1), 0).astype(x.dtype)

    def forward(self, x: Array, training: bool) -> Any:
        self.training, self.step = training, self.step + 1
        return self.apply(x)

    def backward(self, dy: Array) -> Any:
        return self.apply(dy)


class Loops(Remembers):
    def draw(self, shape: Any) -> Any:
        return np.array([self.rng.random() >= self.p for _ in range(int(np.prod(shape)))]).reshape(shape)


class Einsum(Remembers):
    def times(self, x: Array, mask: Any) -> Any:
        return np.einsum("...,...,->...", x, mask.astype(x.dtype), x.dtype.type(self.scale()))


class WorksOnItsCopy(Remembers):
    def times(self, x: Array, mask: Any) -> Any:
        y = x.copy()
        y[~mask] = 0
        y *= self.scale()
        return y


class GradientWithoutFactor(Remembers):
    def backward(self, dy: Array) -> Any:
        return dy if self.mask is None else dy * self.mask


class GradientInverseFactor(Remembers):
    def backward(self, dy: Array) -> Any:
        return dy if self.mask is None else np.asarray(dy * self.mask * (1 - self.p), dy.dtype)


class GradientByP(Remembers):
    def backward(self, dy: Array) -> Any:
        return dy if self.mask is None or not self.p else np.asarray(dy * self.mask / self.p, dy.dtype)


class GradientOfTheOutput(Remembers):
    def backward(self, dy: Array) -> Any:
        return dy if self.mask is None else self.times(super().backward(dy), self.mask)


class GradientThroughAll(Remembers):
    def backward(self, dy: Array) -> Any:
        return dy if self.mask is None else np.asarray(dy * self.scale(), dy.dtype)


class SeedAtEachCall(Remembers):
    def __init__(self, p: float, seed: int) -> None:
        super().__init__(p, seed)
        self.seed = seed

    def draw(self, shape: Any) -> Any:
        return np.random.default_rng(self.seed).random(shape) >= self.p


class NoSeed(Remembers):
    def __init__(self, p: float, seed: int) -> None:
        super().__init__(p, None)  # type: ignore[arg-type]


class OneSeed(Remembers):
    def __init__(self, p: float, seed: int) -> None:
        super().__init__(p, 0)


class OneMaskForRows(Remembers):
    def draw(self, shape: Any) -> Any:
        return np.broadcast_to(super().draw((*shape[:-1], 1)), shape)


class Overwrites(Remembers):
    def times(self, x: Array, mask: Any) -> Any:
        x *= np.asarray(mask * self.scale(), x.dtype)
        return x


class DividesByZero(Remembers):
    def scale(self) -> float:
        return float(np.float64(1) / np.float64(1 - self.p))


LAYER = Proof(
    right={
        "the mask as bools": Remembers,
        "packed masks": Packed,
        "no mask, drawn again": Recomputes,
        "a loop": Loops,
        "einsum": Einsum,
        "in place, on a copy": WorksOnItsCopy,
        "the package's own layer": layer(InvertedDropout),
    },
    wrong=(
        (layer(bugs.NoRescale), "Nothing makes up"),
        (layer(bugs.ScaleByP), "the share that is dropped"),
        (layer(bugs.KeepAndDropSwapped), "does your comparison with p select"),
        (layer(bugs.FreshMaskInBackward), "Backward draws nothing"),
        (layer(bugs.OneMaskForTheBatch), "must not serve a whole batch"),
        (layer(bugs.ActiveInEvaluation), "Does forward look at training?"),
        (layer(bugs.ScaledTwice), "it is done twice"),
        (layer(bugs.ScaledTwiceInTraining), "twice"),
        (layer(bugs.Float64OutOfFloat32), "Which operand has the wider dtype"),
        (layer(bugs.NanAtOne), "At p = 1 nothing is kept"),
        (layer(bugs.BackwardKeepsAnOlderMask), "Is an older mask still there?"),
        (layer(bugs.ForwardKeepsAnOlderMask), "draws a new mask"),
        (GradientWithoutFactor, "chain rule do with a constant"),
        (GradientInverseFactor, "not its inverse"),
        (GradientByP, "You divide by the share that is dropped"),
        (GradientOfTheOutput, "came in twice"),
        (GradientThroughAll, "Dropped elements did not reach y"),
        (SeedAtEachCall, "draws a new mask"),
        (NoSeed, "a generator that you make of the seed"),
        (OneSeed, "The seed is not used"),
        (OneMaskForRows, "must not serve a whole row"),
        (Overwrites, "Make a new array"),
        (DividesByZero, "At p = 1 nothing is kept"),
    ),
)


# 6


def looks(outputs: Array, evaluation: Array, x: Array, p: float, **changed: Any) -> bool:
    """Return the verdict of a right test, of which parts can be left out or replaced."""
    n, q = len(outputs), 1 - p
    kept = outputs != 0
    both_kept = (kept[:, :1] & kept[:, 1:]).mean(axis=0)
    sigmas = changed.get("sigmas", 6)
    means = abs(outputs.mean(axis=0) - x) < sigmas * abs(x) * np.sqrt(p / q / n)
    parts = {
        "values": np.allclose(outputs, kept * x / q),
        "share": bool(np.all(abs(kept.mean(axis=0) - q) < sigmas * np.sqrt(p * q / n))),
        "means": bool(np.all(means)),
        "together": bool(np.all(abs(both_kept - q * q) < sigmas * np.sqrt(q * q * (1 - q * q) / n))),
        "evaluation": np.array_equal(evaluation, x),
    }
    return all(parts[name] for name in changed.get("only", parts))


def part(*only: str, sigmas: float = 6) -> Callable[..., bool]:
    return lambda outputs, evaluation, x, p: looks(outputs, evaluation, x, p, only=only, sigmas=sigmas)


def moments_only(outputs: Array, evaluation: Array, x: Array, p: float) -> Any:
    q = 1 - p
    if not np.allclose(evaluation, x):
        return False
    ratios, error = outputs / x, (p / q / len(outputs)) ** 0.5
    matrix = np.cov(ratios.T)
    pairs = matrix[~np.eye(len(x), dtype=bool)]
    if abs(np.diag(matrix) / (p / q) - 1).max() > 0.45:
        return False
    return abs(pairs).max() < 8 * p / q / len(outputs) ** 0.5 and abs(ratios.mean(axis=0) - 1).max() < 7 * error


def by_covariance(outputs: Array, evaluation: Array, x: Array, p: float) -> Any:
    two_values = np.all(np.isclose(outputs * (1 - p), x) | (outputs == 0))
    return two_values and moments_only(outputs, evaluation, x, p)


def by_counts(outputs: Array, evaluation: Array, x: Array, p: float) -> Any:
    n, k = outputs.shape
    zeros = 0
    for row in outputs:
        for value, given in zip(row, x, strict=True):
            if value == 0:
                zeros += 1
            elif abs(value * (1 - p) - given) > 1e-6:
                return False
    if abs(zeros / (n * k) - p) > 0.02 or max(abs(evaluation - x)) > 1e-9:
        return False
    per_row, per_column = (outputs == 0).sum(axis=1), (outputs == 0).sum(axis=0)
    # Counts of independent zeros have the variance of a binomial.
    return abs(per_row.var() / (k * p * (1 - p)) - 1) < 0.3 and per_column.var() < 4 * n * p * (1 - p)


def by_einsum(outputs: Array, evaluation: Array, x: Array, p: float) -> Any:
    ratios, q = outputs * (1 - p) / x, 1 - p
    if not (np.allclose(ratios * (1 - ratios), 0) and np.allclose(evaluation / x, 1)):
        return np.False_
    pairs = np.einsum("ni,nj->ij", ratios, ratios) / len(ratios)
    expected = np.full(pairs.shape, q * q) + np.eye(len(pairs)) * p * q
    return np.all(abs(pairs - expected) < 0.08)


def fixed_tolerance(outputs: Array, evaluation: Array, x: Array, p: float) -> bool:
    mask = (outputs != 0).astype(np.int8)
    values = set(np.unique(np.round(outputs / x, 6)).tolist())
    return (
        values == {0.0, round(1 / (1 - p), 6)}
        and bool(np.all(abs(mask.mean(0) - (1 - p)) < 0.07))
        and abs(np.corrcoef(mask[:, 0], mask[:, 1])[0, 1]) < 0.15
        and np.allclose(evaluation, x, rtol=1e-12)
    )


LOOKS = Proof(
    right={
        "values, share, pairs": part("values", "share", "together", "evaluation"),
        "values, means, pairs": part("values", "means", "together", "evaluation"),
        "all parts at eight standard errors": lambda *a: looks(*a, sigmas=8),
        "the covariance matrix": by_covariance,
        "loops and counts": by_counts,
        "einsum": by_einsum,
        "fixed tolerances": fixed_tolerance,
    },
    wrong=(
        (lambda *a: False, "how large is its standard error"),
        (lambda *a: looks(*a, sigmas=1), "how large is its standard error"),
        (
            lambda outputs, evaluation, x, p: np.allclose(outputs.mean(axis=0), x) and np.allclose(evaluation, x),
            "how large is its standard error",
        ),
        (part("share", "together", "evaluation"), "equal to x"),
        (part("means", "share", "together"), "What must the evaluation output be?"),
        (moments_only, "two values only"),
        (part("means", "evaluation"), "How many zeros"),
        (part("means", "share", "evaluation"), "do they fall independently"),
        (part("values", "share", "evaluation"), "do they fall independently"),
        (part("values", "share", "together", "evaluation", sigmas=1e9), "do they fall independently"),
        (
            lambda outputs, evaluation, x, p: bool(
                abs((outputs / x).mean() - 1) < 0.1 and np.allclose(evaluation, x) and np.ptp(outputs) > 0
            ),
            "How many zeros",
        ),
        (lambda outputs, evaluation, x, p: np.allclose(evaluation, x), "equal to x"),
        (lambda outputs, evaluation, x, p: looks(outputs, evaluation, x, 1 - p), "how large is its standard error"),
    ),
)

QUESTIONS = {
    "two-dropouts.1": DRAW_MASK,
    "two-dropouts.2": DROPOUT,
    "two-dropouts.3": MOMENTS,
    "two-dropouts.5": LAYER,
    "two-dropouts.6": LOOKS,
}
