"""Answers to the code questions of "gradient-proof"."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np

from tests.grading.proof import Proof, returns

Array = np.ndarray[Any, Any]


# 1


def by_where(dy: Array, mask: Array, p: float, convention: str) -> Any:
    factor = 1 / (1 - p) if convention == "inverted" else 1.0
    return np.where(mask, dy * factor, 0).astype(dy.dtype)


def gradient_by_loop(dy: Array, mask: Array, p: float, convention: str) -> Any:
    dx = np.zeros(dy.shape, dy.dtype)
    for i in np.ndindex(dy.shape):
        if mask[i]:
            dx[i] = dy[i] / (1 - p) if convention == "inverted" else dy[i]
    return dx


def gradient_by_einsum(dy: Array, mask: Array, p: float, convention: str) -> Any:
    q = dy.dtype.type(1 if convention == "standard" else 1 - p)
    return np.einsum("...,...->...", dy, mask.astype(dy.dtype)) / q


def gradient_in_place(dy: Array, mask: Array, p: float, convention: str) -> Any:
    dx = dy.copy()
    dx[~mask] = 0
    if convention == "inverted":
        dx /= 1 - p
    return dx


def gradient_by_jacobian(dy: Array, mask: Array, p: float, convention: str) -> Any:
    jacobian = np.diag(mask.ravel().astype(dy.dtype)) / dy.dtype.type(1 - p if convention == "inverted" else 1)
    return (jacobian.T @ dy.ravel()).reshape(dy.shape)


def gradient_by_packed(dy: Array, mask: Array, p: float, convention: str) -> Any:
    bits = np.unpackbits(np.packbits(mask), count=mask.size).reshape(mask.shape)
    return by_where(dy, bits.astype(bool), p, convention)


def gradient(
    inverted: Callable[..., Any] | None = None, standard: Callable[..., Any] | None = None
) -> Callable[..., Any]:
    """Return a right answer but for one convention."""
    wrong = {"inverted": inverted, "standard": standard}

    def answer(dy: Array, mask: Array, p: float, convention: str) -> Any:
        rule = wrong[convention]
        return np.asarray(rule(dy, mask, p), dy.dtype) if rule else by_where(dy, mask, p, convention)

    return answer


def overwrites(dy: Array, mask: Array, p: float, convention: str) -> Any:
    dy *= mask / (1 - p if convention == "inverted" else 1)
    return dy


GRADIENT = Proof(
    right={
        "where": by_where,
        "a loop": gradient_by_loop,
        "einsum": gradient_by_einsum,
        "in place, on a copy": gradient_in_place,
        "the whole Jacobian": gradient_by_jacobian,
        "packed masks": gradient_by_packed,
    },
    wrong=(
        (gradient(lambda dy, m, p: dy * m), "chain rule do with a constant"),
        (gradient(lambda dy, m, p: dy * m / p), "divide by the share that is dropped"),
        (gradient(lambda dy, m, p: dy * m * (1 - p)), "not its inverse"),
        (gradient(lambda dy, m, p: dy / (1 - p)), "Dropped elements did not reach y"),
        (gradient(lambda dy, m, p: dy), "the gradient in evaluation"),
        (gradient(lambda dy, m, p: dy * ~m / (1 - p)), "goes through the dropped elements"),
        (gradient(lambda dy, m, p: dy * m / (1 - p) ** 2), "scaled twice"),
        (gradient(lambda dy, m, p: dy * m * 7), "Differentiate y by x"),
        (gradient(standard=lambda dy, m, p: dy * m / (1 - p)), "That is inverted dropout"),
        (gradient(standard=lambda dy, m, p: dy * m * (1 - p)), "factor belongs to evaluation"),
        (gradient(standard=lambda dy, m, p: dy), "Dropped elements did not reach y"),
        (gradient(standard=lambda dy, m, p: dy * ~m), "goes through the dropped elements"),
        (overwrites, "Make a new array"),
        (
            lambda dy, m, p, c: dy * m * (np.ones(dy.shape) / (1 - p) if c == "inverted" else 1),
            "Which operand has the wider dtype",
        ),
    ),
)


# 2


def central(f: Any, x: Array, h: float = 1e-5) -> Array:
    gradient = np.empty(x.shape)
    for i in np.ndindex(x.shape):
        up, down = x.copy(), x.copy()
        up[i] += h
        down[i] -= h
        gradient[i] = (f(up) - f(down)) / (2 * h)
    return gradient


def one_sided(f: Any, x: Array, h: float = 1e-7) -> Array:
    start = f(x)
    return np.array([(f(x + h * e.reshape(x.shape)) - start) / h for e in np.eye(x.size)]).reshape(x.shape)


def five_points(f: Any, x: Array) -> Array:
    steps = {-2: 1 / 12, -1: -2 / 3, 1: 2 / 3, 2: -1 / 12}
    units = np.eye(x.size).reshape(x.size, *x.shape)
    return np.array([sum(w * f(x + k * 1e-3 * e) for k, w in steps.items()) / 1e-3 for e in units]).reshape(x.shape)


def in_place_and_back(f: Any, x: Array) -> Array:
    gradient = np.zeros_like(x)
    for i in np.ndindex(x.shape):
        old = x[i]
        x[i] = old + 1e-6
        up = f(x)
        x[i] = old - 1e-6
        down = f(x)
        x[i] = old
        gradient[i] = (up - down) / 2e-6
    return gradient


def extrapolated(f: Any, x: Array) -> Array:
    return (4 * central(f, x, 1e-3) - central(f, x, 2e-3)) / 3


def relative_steps(f: Any, x: Array) -> Array:
    gradient = np.empty_like(x)
    for k in range(x.size):
        h = np.zeros(x.size)
        h[k] = 1e-6 * max(1, abs(x.flat[k]))
        step = h.reshape(x.shape)
        gradient.flat[k] = np.einsum("i,i->", [f(x + step), f(x - step)], [0.5, -0.5]) / h[k]
    return gradient


def all_at_once(f: Any, x: Array) -> Array:
    return np.full(x.shape, (f(x + 1e-5) - f(x - 1e-5)) / 2e-5)


def leaves_x_changed(f: Any, x: Array) -> Array:
    gradient = central(f, x)
    x += 1e-12
    return gradient


def first_row_only(f: Any, x: Array) -> Array:
    gradient = np.zeros_like(x)
    gradient[:1] = central(f, x)[:1]
    return gradient


def moves_a_copy(f: Any, x: Array) -> Array:
    return np.array([f(x) - f(x) for _ in range(x.size)]).reshape(x.shape)


def too_narrow(f: Any, x: Array) -> Array:
    units = np.eye(x.size, dtype=np.float32).reshape(x.size, *x.shape)
    narrow = x.astype(np.float32)
    h = np.float32(1e-3)
    return np.array([(f(narrow + h * e) - f(narrow)) / h for e in units]).reshape(x.shape)


DIFFERENCES = Proof(
    right={
        "central": central,
        "one-sided with a smaller step": one_sided,
        "five points": five_points,
        "in place, and put back": in_place_and_back,
        "extrapolated": extrapolated,
        "relative steps, einsum": relative_steps,
    },
    wrong=(
        (lambda f, x: 2 * central(f, x), "divide by 2 h, not h"),
        (lambda f, x: central(f, x) / 2, "divide by their distance, once"),
        (lambda f, x: -central(f, x), "The sign is wrong"),
        (all_at_once, "you move all of x at once"),
        (lambda f, x: central(f, x, 0.2), "Close, but not close enough"),
        (lambda f, x: one_sided(f, x, 1e-2), "Close, but not close enough"),
        (too_narrow, "Close, but not close enough"),
        (lambda f, x: central(f, x, 1e-30), "Nothing changed"),
        (lambda f, x: one_sided(f, x, np.float64(0)), "divided by zero"),
        (first_row_only, "Some entries were never moved"),
        (moves_a_copy, "Nothing changed"),
        (leaves_x_changed, "Make a new array"),
        (lambda f, x: 50 * x, "put the entry back"),
        (lambda f, x: central(f, x).ravel(), "one number for each entry"),
        (lambda f, x: central(lambda y: f(y.ravel()), x) if x.ndim > 1 else central(f, x), "f takes an array"),
    ),
)


# 3


def quotient(forward: Any, x: Array, dy: Array, seed: int, h: float = 1e-6) -> Array:
    return central(lambda at: float(np.sum(dy * forward(at, seed))), x, h)


def by_error(tolerance: float = 1e-4, reduce: Any = np.max, **how: Any) -> Callable[..., bool]:
    """Return a right test, or one with a weakness."""

    def answer(forward: Any, backward: Any, x: Array, dy: Array, seed: int) -> bool:
        claimed = backward(x, dy, seed)
        weights = how.get("weights", lambda dy: dy)(dy)
        measured = quotient(forward, x, weights, seed)
        size = 1.0 if how.get("absolute") else max(abs(measured).max(), abs(claimed).max())
        return bool(reduce(abs(claimed - measured)) <= tolerance * size)

    return answer


def by_allclose(forward: Any, backward: Any, x: Array, dy: Array, seed: int) -> Any:
    unit = np.abs(dy).max()
    return np.allclose(backward(x, dy / unit, seed), quotient(forward, x, dy / unit, seed, 1e-5), rtol=1e-3, atol=1e-5)


def by_loop(forward: Any, backward: Any, x: Array, dy: Array, seed: int) -> bool:
    claimed, start = backward(x, dy, seed), forward(x, seed)
    for i in np.ndindex(x.shape):
        moved = x.copy()
        moved[i] += 1e-7
        slope = np.sum(dy * (forward(moved, seed) - start)) / 1e-7
        if abs(slope - claimed[i]) > 1e-4 * np.abs(dy).max():
            return False
    return True


def by_directions(forward: Any, backward: Any, x: Array, dy: Array, seed: int) -> Any:
    rng, claimed = np.random.default_rng(0), backward(x, dy, seed)
    for _ in range(30):
        v = rng.standard_normal(x.shape)
        slope = np.sum(dy * (forward(x + 1e-6 * v, seed) - forward(x - 1e-6 * v, seed))) / 2e-6
        if abs(slope - np.sum(claimed * v)) > 1e-5 * np.linalg.norm(dy) * np.linalg.norm(v):
            return False
    return np.True_


def by_jacobian(forward: Any, backward: Any, x: Array, dy: Array, seed: int) -> Any:
    h = 2.0**-17
    units = np.eye(x.size).reshape(x.size, *x.shape) * h
    jacobian = np.array([(forward(x + e, seed) - forward(x - e, seed)).ravel() for e in units]) / (2 * h)
    error = np.einsum("ij,j->i", jacobian, dy.ravel()) - backward(x, dy, seed).ravel()
    return np.linalg.norm(error) < 1e-6 * np.linalg.norm(dy)


def two_masks(forward: Any, backward: Any, x: Array, dy: Array, seed: int) -> bool:
    state = itertools.count(seed)
    measured = central(lambda at: float(np.sum(dy * forward(at, next(state)))), x)
    return bool(np.allclose(measured, backward(x, dy, seed), rtol=1e-3))


def assumes_inverted(forward: Any, backward: Any, x: Array, dy: Array, seed: int) -> bool:
    y = forward(x, seed)
    factor = np.max(np.abs(y / x))
    return by_error()(forward, backward, x, dy, seed) and factor > 1.01


def assumes_the_mean(forward: Any, backward: Any, x: Array, dy: Array, seed: int) -> bool:
    y = forward(np.ones(x.shape), seed)
    unscaled = np.max(y) == 1 and np.sum(y != 0) == 10
    return by_error()(forward, backward, x, dy, seed) and not unscaled


def ratio_of_outputs(forward: Any, backward: Any, x: Array, dy: Array, seed: int) -> bool:
    return bool(np.allclose(backward(x, dy, seed), dy * forward(x, seed) / x))


def kept_only(forward: Any, backward: Any, x: Array, dy: Array, seed: int) -> bool:
    kept = forward(x, seed) != 0
    return bool(np.allclose(backward(x, dy, seed)[kept] / quotient(forward, x, dy, seed)[kept], 1, rtol=1e-4))


def rejects_a_true_one(forward: Any, backward: Any, x: Array, dy: Array, seed: int) -> bool:
    wrong_layer = np.max(np.abs(forward(x, seed) / x)) < 1.0001
    return by_error()(forward, backward, x, dy, seed) and not wrong_layer


CHECK = Proof(
    right={
        "the largest relative error": by_error(),
        "allclose, with dy scaled": by_allclose,
        "a loop that stops early": by_loop,
        "random directions": by_directions,
        "the Jacobian and einsum": by_jacobian,
        "a wider tolerance": by_error(1e-2),
    },
    wrong=(
        (lambda *a: True, "differences of forward"),
        (lambda *a: False, "turned away"),
        (two_masks, "must use one seed"),
        (by_error(0.6), "Compare each entry"),
        (by_error(0.06), "Your tolerance is too wide"),
        (by_error(1e-4, absolute=True), "with the gradient's size"),
        (by_error(1e-15), "differences are never exact"),
        (by_error(reduce=np.median), "Only one entry is wrong"),
        (
            lambda forward, backward, x, dy, seed: bool(
                np.isclose(backward(x, dy, seed).sum(), quotient(forward, x, dy, seed).sum(), rtol=1e-4, atol=0)
            ),
            "entries",
        ),
        (by_error(weights=np.ones_like), "turned away"),
        (ratio_of_outputs, "need not be linear"),
        (kept_only, "where forward has dropped"),
        (rejects_a_true_one, "assume a certain factor"),
    ),
)


# 4


def closed(g: Array, p: float, convention: str) -> Any:
    s = 1 / (1 - p) if convention == "inverted" else 1.0
    return s * (1 - p) * g, s * s * p * (1 - p) * g**2, s * s * (1 - p) * float(np.sum(g**2))


def enumerated(g: Array, p: float, convention: str) -> Any:
    s = 1 / (1 - p) if convention == "inverted" else 1.0
    masks = np.array(list(itertools.product([0, 1], repeat=g.size)))
    weights = np.prod(np.where(masks, 1 - p, p), axis=1)
    values = s * masks * g.ravel()
    mean = weights @ values
    variance = weights @ (values - mean) ** 2
    return [mean.reshape(g.shape), variance.reshape(g.shape), weights @ np.sum(values**2, axis=1)]


def moments_by_loop(g: Array, p: float, convention: str) -> Any:
    mean, variance, total = np.zeros_like(g), np.zeros_like(g), 0.0
    for i in np.ndindex(g.shape):
        kept = g[i] / (1 - p) if convention == "inverted" else g[i]
        mean[i] = (1 - p) * kept
        variance[i] = p * mean[i] ** 2 + (1 - p) * (kept - mean[i]) ** 2
        total += (1 - p) * kept**2
    return mean, variance, total


def moments_by_einsum(g: Array, p: float, convention: str) -> Any:
    q = np.float64(1 - p)
    values = np.stack([np.zeros_like(g), g / q if convention == "inverted" else g])
    mean = np.einsum("k,k...->...", [p, q], values)
    square = np.einsum("k,k...->...", [p, q], values**2)
    return mean, square - mean**2, np.array(square.sum())


def moments_in_place(g: Array, p: float, convention: str) -> Any:
    mean = g.copy()
    if convention == "standard":
        mean *= 1 - p
    variance = mean * mean
    variance *= p / (1 - p)
    return mean, variance, float(np.linalg.norm(mean) ** 2 + variance.sum())


def moments(k: int, convention: str, rule: Callable[[Array, float], Any]) -> Callable[..., Any]:
    """Return the right moments but for one of one convention."""

    def answer(g: Array, p: float, asked: str) -> Any:
        values = list(closed(g, p, asked))
        if asked == convention:
            values[k] = rule(g, p)
        return tuple(values)

    return answer


MOMENTS = Proof(
    right={
        "formulas": closed,
        "all masks": enumerated,
        "a loop": moments_by_loop,
        "einsum over the two values": moments_by_einsum,
        "in place, from the mean": moments_in_place,
    },
    wrong=(
        (moments(0, "inverted", lambda g, p: (1 - p) * g), "the mean without the factor"),
        (moments(0, "inverted", lambda g, p: g / (1 - p)), "the value of a kept entry"),
        (moments(1, "inverted", lambda g, p: g**2 * p * (1 - p)), "variance of standard dropout"),
        (moments(1, "inverted", lambda g, p: g**2 / (1 - p)), "the mean of the square"),
        (moments(1, "inverted", lambda g, p: g**2 * p), "divide by it twice"),
        (moments(1, "inverted", lambda g, p: abs(g) * (p / (1 - p)) ** 0.5), "the standard deviation"),
        (moments(1, "inverted", lambda g, p: g**2 * (1 - p) / p), "goes on top"),
        (moments(2, "inverted", lambda g, p: np.sum(g**2)), "squared norm of the mean"),
        (moments(2, "inverted", lambda g, p: np.sum(g**2) / (1 - p) ** 2), "when all entries are kept"),
        (moments(2, "inverted", lambda g, p: np.sum(g**2) * p / (1 - p)), "the variance alone"),
        (moments(2, "inverted", lambda g, p: np.linalg.norm(g) / (1 - p) ** 0.5), "its root"),
        (moments(0, "standard", lambda g, p: g), "no factor in training"),
        (moments(0, "standard", lambda g, p: p * g), "How often is an entry kept"),
        (moments(1, "standard", lambda g, p: g**2 * p / (1 - p)), "That is inverted dropout"),
        (moments(2, "standard", lambda g, p: np.sum(g**2) * (1 - p) ** 2), "squared norm of the mean"),
        (moments(2, "standard", lambda g, p: 3.0), "two probabilities"),
    ),
)


# 5


def norm_by_masks(g: Array, p: float) -> float:
    total = 0.0
    for mask in itertools.product([0, 1], repeat=len(g)):
        weight = np.prod([1 - p if m else p for m in mask])
        total += weight * np.linalg.norm(g * mask) / (1 - p)
    return float(total)


def norm_by_bits(g: Array, p: float) -> Any:
    n = len(g)
    masks = (np.arange(2**n)[:, None] >> np.arange(n)) & 1
    kept = masks.sum(axis=1)
    return np.sum((1 - p) ** kept * p ** (n - kept) * np.sqrt(masks @ g**2)) / (1 - p)


def norm_by_recursion(g: Array, p: float, square: float = 0.0) -> float:
    if len(g) == 0:
        return float(square**0.5)
    rest = g[1:]
    return p * norm_by_recursion(rest, p, square) + (1 - p) * norm_by_recursion(rest, p, square + (g[0] / (1 - p)) ** 2)


def norm_by_packed(g: Array, p: float) -> Any:
    n = len(g)
    codes = np.arange(2**n, dtype=np.uint8)[:, None]
    masks = np.unpackbits(codes, axis=1)[:, 8 - n :].astype(float)
    weights = np.where(masks == 1, 1 - p, p).prod(axis=1)
    return np.einsum("i,i->", weights, np.sqrt(np.einsum("ij,ij,j->i", masks, masks, g**2))) / (1 - p)


def norm_by_growing(g: Array, p: float) -> float:
    squares, weights = np.zeros(1), np.ones(1)
    for entry in g:
        squares = np.concatenate([squares, squares + entry**2])
        weights = np.concatenate([weights * p, weights * (1 - p)])
    squares **= 0.5
    return float(squares @ weights / (1 - p))


def norm_by_subsets(g: Array, p: float) -> float:
    n = len(g)
    return sum(
        (1 - p) ** (k - 1) * p ** (n - k) * sum(float(u) ** 2 for u in kept) ** 0.5
        for k in range(n + 1)
        for kept in itertools.combinations(g, k)
    )


def sampled(g: Array, p: float) -> float:
    masks = np.random.default_rng(1).random((20_000, len(g))) >= p
    return float(np.linalg.norm(masks * g / (1 - p), axis=1).mean())


NORM = Proof(
    right={
        "all masks": norm_by_masks,
        "bits of numbers": norm_by_bits,
        "recursion": norm_by_recursion,
        "packed masks and einsum": norm_by_packed,
        "growing lists, in place": norm_by_growing,
        "subsets": norm_by_subsets,
    },
    wrong=(
        (lambda g, p: norm_by_masks(g, 0.5) * 0.5 / (1 - p), "all masks the same weight"),
        (lambda g, p: norm_by_masks(g, 1 - p) * p / (1 - p), "wrong way round"),
        (lambda g, p: norm_by_masks(g, 1 - p), "for the weights and for the factor"),
        (lambda g, p: float(np.linalg.norm(g)), "the norm of the mean"),
        (lambda g, p: float(np.linalg.norm(g)) / (1 - p) ** 0.5, "the upper bound"),
        (lambda g, p: float(np.sum(g**2)) / (1 - p), "mean of the squared norm"),
        (lambda g, p: norm_by_masks(g, p) * (1 - p), "standard dropout"),
        (lambda g, p: norm_by_masks(g, p) / (1 - p ** len(g)), "drops everything counts too"),
        (lambda g, p: norm_by_masks(g, p) * (1 - p) / p, "You scale by 1/p"),
        (lambda g, p: norm_by_masks(g, 0.5) * 0.5 * 2 ** len(g) / (1 - p), "Weigh each by its probability"),
        (sampled, "Close, but not exact"),
        (lambda g, p: 99.0, "Go through all 2^n masks"),
    ),
)


# 6

P, A, B = 0.3, 3.0, 4.0
Q, R = 1 - P, 5.0
MEAN, ROOT = Q * R + P * (A + B), R / Q**0.5


def listed() -> tuple[float, float]:
    values = {(1, 1): (A * A + B * B) ** 0.5, (1, 0): A, (0, 1): B, (0, 0): 0.0}
    weights = {mask: Q ** sum(mask) * P ** (2 - sum(mask)) for mask in values}
    mean = sum(weights[m] * values[m] / Q for m in values)
    return mean, sum(weights[m] * (values[m] / Q) ** 2 for m in values) ** 0.5


def sampled_pair() -> Array:
    masks = np.random.default_rng(3).random((1_000_000, 2)) >= P
    norms = np.linalg.norm(masks * [A, B] / Q, axis=1)
    return np.array([norms.mean(), (norms**2).mean() ** 0.5])


EXAMPLE = Proof(
    given={"P": P, "A": A, "B": B},
    right={
        "formulas": returns(MEAN, ROOT),
        "rounded to three digits": returns(5.60, 5.98),
        "the four masks": listed,
        "a million draws, as an array": sampled_pair,
        "a fraction and a list": lambda: [Fraction(56, 10), float(np.sqrt(25 / 0.7))],
    },
    wrong=(
        (returns(R, ROOT), "the norm of the mean"),
        (returns(ROOT, ROOT), "Average the norms themselves"),
        (returns(Q * MEAN, ROOT), "standard dropout"),
        (returns((R + A + B) / (4 * Q), ROOT), "not equally likely"),
        (returns(Q * R, ROOT), "the two masks that keep one"),
        (returns(R / Q, ROOT), "the norm when both are kept"),
        (returns(P * R + Q * (A + B), ROOT), "dropped with probability P"),
        (returns(MEAN, R / Q), "Average the square over the four masks"),
        (returns(MEAN, R), "add the variances"),
        (returns(MEAN, R * R / Q), "Take its root"),
        (returns(MEAN, R * Q**0.5), "standard dropout"),
        (returns(MEAN, MEAN), "Square before you average"),
        (returns(MEAN, R / P**0.5), "the share that is dropped"),
        (returns(MEAN, 77.0), "Work it out again"),
    ),
)

QUESTIONS = {
    "gradient-proof.1": GRADIENT,
    "gradient-proof.2": DIFFERENCES,
    "gradient-proof.3": CHECK,
    "gradient-proof.4": MOMENTS,
    "gradient-proof.5": NORM,
    "gradient-proof.6": EXAMPLE,
}
