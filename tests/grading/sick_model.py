"""Answers to the code questions of "sick-model"."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from dropoutlib.checks.assignments import patients
from dropoutlib.data import digits
from tests.grading.proof import Proof, returns

Array = np.ndarray[Any, Any]
EPS = 1e-5

# 1


def fold(W: Array, b: Array, g: Array, s: Array, m: Array, v: Array, eps: float) -> Any:
    factor = g / np.sqrt(v + eps)
    return W * factor[:, None], (b - m) * factor + s


def fold_by_loop(W: Array, b: Array, g: Array, s: Array, m: Array, v: Array, eps: float) -> Any:
    rows, biases = [], []
    for row, b1, g1, s1, m1, v1 in zip(W.tolist(), b, g, s, m, v, strict=True):
        factor = float(g1) / math.sqrt(v1 + eps)
        rows.append([factor * w for w in row])
        biases.append(factor * float(b1 - m1) + float(s1))
    return rows, biases


def fold_by_einsum(W: Array, b: Array, *rest: Any) -> Any:
    g, s, m, v, eps = rest
    factor = g * (v + eps) ** -0.5
    return [np.einsum("i,ij->ij", factor, W), np.einsum("i,i->i", factor, b - m) + s]


def fold_by_matrix(W: Array, b: Array, *rest: Any) -> Any:
    g, s, m, v, eps = rest
    D = np.diag(g) @ np.linalg.inv(np.diag(np.sqrt(v + eps)))
    return D @ W, D @ b - D @ m + s


def fold_by_probing(W: Array, b: Array, *rest: Any) -> Any:
    g, s, m, v, eps = rest

    def layers(x: Array) -> Any:
        return (x @ W.T + b - m) / np.sqrt(v + eps) * g + s

    at_zero = layers(np.zeros((1, W.shape[1])))
    return (layers(np.eye(W.shape[1])) - at_zero).T, at_zero[0]


def fold_in_place(W: Array, b: Array, *rest: Any) -> Any:
    g, s, m, v, eps = rest
    W, b = W.copy(), b.copy()
    factor = g / np.sqrt(v + eps)
    W *= factor[:, np.newaxis]
    b -= m
    b *= factor
    b += s
    return W, b


def overwrites(W: Array, b: Array, *rest: Any) -> Any:
    result = fold(W, b, *rest)
    W[:] = result[0]
    return result


def folds(W_rule: Callable[..., Any] | None, b_rule: Callable[..., Any]) -> Callable[..., Any]:
    """Return an answer whose parts are functions of the weight, the bias, the mean and the factor."""

    def answer(W: Array, b: Array, g: Array, s: Array, m: Array, v: Array, eps: float) -> Any:
        f = g / np.sqrt(v + eps)
        return W_rule(W, g, v, eps) if W_rule else W * f[:, None], b_rule(b, g, s, m, v, eps)

    return answer


FOLD = Proof(
    right={
        "the formula": fold,
        "a loop, as lists": fold_by_loop,
        "einsum": fold_by_einsum,
        "matrices": fold_by_matrix,
        "by asking the layers": fold_by_probing,
        "in place, on copies": fold_in_place,
    },
    wrong=(
        (folds(None, lambda b, g, s, m, v, e: s + b - m * g / np.sqrt(v + e)), "The old bias goes through"),
        (folds(None, lambda b, g, s, m, v, e: b * g / np.sqrt(v + e) + s), "The running mean is missing"),
        (folds(None, lambda b, g, s, m, v, e: (b + m) * g / np.sqrt(v + e) + s), "You add it"),
        (folds(None, lambda b, g, s, m, v, e: (b - m) * g / np.sqrt(v + e)), "own bias is missing"),
        (
            folds(
                lambda W, g, v, e: W / np.sqrt(v + e)[:, None], lambda b, g, s, m, v, e: (b - m) / np.sqrt(v + e) + s
            ),
            "own weight is missing",
        ),
        (
            folds(lambda W, g, v, e: W * (g / (v + e))[:, None], lambda b, g, s, m, v, e: (b - m) * g / (v + e) + s),
            "the root of the variance",
        ),
        (lambda *a: fold(*a[:-1], 0.0), "eps is missing"),
        (
            folds(
                lambda W, g, v, e: W * (g / (np.sqrt(v) + e))[:, None],
                lambda b, g, s, m, v, e: (b - m) * g / (np.sqrt(v) + e) + s,
            ),
            "under the root",
        ),
        (
            folds(
                lambda W, g, v, e: W * (g / np.sqrt(v + e)) if len(W) == W.shape[1] else W,
                lambda b, g, s, m, v, e: (b - m) * g / np.sqrt(v + e) + s,
            ),
            "You multiply the columns",
        ),
        (
            folds(
                lambda W, g, v, e: W * (np.sqrt(v + e) / g)[:, None],
                lambda b, g, s, m, v, e: (b - m) * np.sqrt(v + e) / g + s,
            ),
            "upside down",
        ),
        (lambda W, b, *rest: (W, b), "collect what multiplies x"),
        (overwrites, "Make a new array"),
    ),
)

# 2


def hidden(x: Array, a: dict[str, Array], batch: bool = False) -> Array:
    z = x @ a["dense.weight"].T + a["dense.bias"]
    mean, var = (z.mean(0), z.var(0)) if batch else (a["norm.running_mean"], a["norm.running_var"])
    return np.asarray((z - mean) / np.sqrt(var + EPS) * a["norm.weight"] + a["norm.bias"])


def logits(x: Array, a: dict[str, Array], factor: float = 1.0, batch: bool = False) -> Array:
    return np.asarray(factor * np.maximum(hidden(x, a, batch), 0) @ a["output.weight"].T + a["output.bias"])


def softmax(z: Array, axis: int = 1) -> Array:
    e = np.exp(z - z.max(axis=axis, keepdims=True))
    return np.asarray(e / e.sum(axis=axis, keepdims=True))


def predict_folded(x: Array, a: dict[str, Array]) -> Any:
    norm = (a[f"norm.{name}"] for name in ("weight", "bias", "running_mean", "running_var"))
    W, b = fold(a["dense.weight"], a["dense.bias"], *norm, EPS)
    return softmax(np.clip(x @ W.T + b, 0, None) @ a["output.weight"].T + a["output.bias"])


def predict_by_loop(x: Array, a: dict[str, Array]) -> list[list[float]]:
    rows = []
    for row in x:
        h = hidden(row[None], a)[0]
        z = [
            sum(float(u) * float(w) for u, w in zip(h, weights, strict=True) if u > 0) + float(b)
            for weights, b in zip(a["output.weight"], a["output.bias"], strict=True)
        ]
        e = [math.exp(v - max(z)) for v in z]
        rows.append([v / sum(e) for v in e])
    return rows


def predict_by_einsum(x: Array, a: dict[str, Array]) -> Any:
    h = np.einsum("ni,oi->no", x, a["dense.weight"]) + a["dense.bias"] - a["norm.running_mean"]
    h = np.einsum("no,o->no", h, a["norm.weight"] * (a["norm.running_var"] + EPS) ** -0.5) + a["norm.bias"]
    z = np.einsum("no,co->nc", np.where(h > 0, h, 0), a["output.weight"]) + a["output.bias"]
    return np.exp(z - np.logaddexp.reduce(z, axis=1, keepdims=True))


def predict_in_place(x: Array, a: dict[str, Array]) -> Any:
    h = x @ a["dense.weight"].T
    h += a["dense.bias"]
    h -= a["norm.running_mean"]
    h /= np.sqrt(a["norm.running_var"] + EPS)
    h *= a["norm.weight"]
    h += a["norm.bias"]
    np.maximum(h, 0, out=h)
    z = h @ a["output.weight"].T
    z += a["output.bias"]
    z -= z.max(axis=1, keepdims=True)
    np.exp(z, out=z)
    z /= z.sum(axis=1)[:, None]
    return z


def predict_by_differences(x: Array, a: dict[str, Array]) -> Any:
    """Each probability as one over a sum of exponentials of differences."""
    z = logits(x, a)
    return 1 / np.exp(np.minimum(z[:, None, :] - z[:, :, None], 700)).sum(axis=2)


def relu_first(x: Array, a: dict[str, Array]) -> Array:
    z = np.maximum(x @ a["dense.weight"].T + a["dense.bias"], 0)
    z = (z - a["norm.running_mean"]) / np.sqrt(a["norm.running_var"] + EPS) * a["norm.weight"] + a["norm.bias"]
    return np.asarray(z @ a["output.weight"].T + a["output.bias"])


def overflows(x: Array, a: dict[str, Array]) -> Any:
    e = np.exp(logits(x, a))
    return e / e.sum(axis=1, keepdims=True)


def writes_to_arrays(x: Array, a: dict[str, Array]) -> Any:
    a["norm.running_var"] += EPS
    return softmax(logits(x, a))


PREDICT = Proof(
    right={
        "layer by layer": lambda x, a: softmax(logits(x, a)),
        "folded": predict_folded,
        "a loop, as lists": predict_by_loop,
        "einsum": predict_by_einsum,
        "in place": predict_in_place,
        "by differences of logits": predict_by_differences,
    },
    wrong=(
        (logits, "These are the logits"),
        (lambda x, a: softmax(logits(x, a, 0.6)), "training has made up for it"),
        (lambda x, a: softmax(logits(x, a, 1 / 0.6)), "here nothing is dropped"),
        (lambda x, a: softmax(logits(x, a, batch=True)), "You normalise by the batch"),
        (lambda x, a: softmax(hidden(x, a) @ a["output.weight"].T + a["output.bias"]), "The ReLU is missing"),
        (lambda x, a: softmax(relu_first(x, a)), "The ReLU comes after BatchNorm"),
        (lambda x, a: softmax(logits(x, a) - a["output.bias"]), "The last bias is missing"),
        (lambda x, a: softmax(logits(x, a | {"norm.bias": 0 * a["norm.bias"]})), "BatchNorm's own bias"),
        (lambda x, a: softmax(logits(x, a), axis=0), "the wrong axis"),
        (
            lambda x, a: softmax(
                np.maximum(x @ a["dense.weight"].T + a["dense.bias"], 0) @ a["output.weight"].T + a["output.bias"]
            ),
            "BatchNorm is missing",
        ),
        (overflows, "overflows"),
        (writes_to_arrays, "Make a new array"),
        (lambda x, a: softmax(logits(2 * x, a)), "layer by layer"),
    ),
)

# 3

SICK, SPLIT, IMAGE = 5, 4, 7
FOUND = patients.right_findings(SICK)


def by_looking() -> dict[str, str]:
    """What a look into the builder's own order says."""
    return {letter: patients.SICKNESSES[kind] for letter, kind in zip("ABCDEF", patients._order(SICK), strict=True)}


def in_another_order() -> dict[str, str]:
    return {letter: FOUND[letter] for letter in "FEDCBA"}


def by_asking() -> dict[str, str]:
    """The checks themselves, on the models."""
    import torch

    from dropoutlib.frameworks import pytorch

    x, _ = patients.training_rows(SPLIT)
    reference = {k: v for k, v in patients.parameters(SPLIT).items() if "running" not in k}
    found = {}
    for letter, model in patients.patients(SICK, SPLIT).items():
        rows = torch.from_numpy(x)
        first = pytorch.deployment_check(model, rows[:64], reference=reference, batches=[rows]).first
        found[letter] = first.check if first else "healthy"
    return found


def mistaken(kind: str, said: str) -> Callable[[], dict[str, str]]:
    """Return the right findings but for the model that has a sickness."""
    return lambda: {letter: said if found == kind else found for letter, found in FOUND.items()}


FINDINGS = Proof(
    given={"SICK": SICK},
    right={
        "literally": lambda: dict(FOUND),
        "in another order": in_another_order,
        "by a comprehension": by_looking,
        "by zip": lambda: dict(zip("ABCDEF", FOUND.values(), strict=True)),
        "by asking the models": by_asking,
    },
    wrong=(
        (mistaken("healthy", "parameters"), "has no failing check"),
        (mistaken("evaluation-mode", "no-active-dropout"), "the root cause first"),
        (mistaken("evaluation-mode", "rows-independent"), "the root cause first"),
        (mistaken("no-active-dropout", "rows-independent"), "two runs on one input differ"),
        (mistaken("rows-independent", "no-active-dropout"), "though nothing is random"),
        (mistaken("rows-independent", "healthy"), "though nothing is random"),
        (mistaken("parameters", "healthy"), "Was the reference given?"),
        (mistaken("normalisation-statistics", "healthy"), "Were the batches given"),
        (mistaken("normalisation-statistics", "parameters"), "Were the batches given"),
        (lambda: dict.fromkeys("ABCDEF", "healthy"), "the root cause first"),
    ),
)

# 4


def by_tests(
    repeats: int = 2,
    tolerance: float = 1e-4,
    alone: bool = True,
    scale: Callable[[Array, Array], bool] | None = None,
) -> Callable[..., str]:
    """Return a right answer, or one with a weakness."""

    def one_factor(y: Array, r: Array) -> bool:
        dy, dr = y - y[0], r - r[0]
        factor = np.sum(dy * dr) / np.sum(dr * dr)
        return bool(np.allclose(dy, factor * dr, rtol=0, atol=tolerance * np.abs(dr).max()))

    def answer(model: Any, reference: Any, x: Array) -> str:
        y, r = model(x), reference(x)
        limit = tolerance * np.abs(r).max()
        if any(np.abs(model(x) - y).max() > limit for _ in range(repeats - 1)):
            return "dropout is on"
        if alone and max(np.abs(model(x[i : i + 1]) - y[i]).max() for i in range(5)) > limit:
            return "batch statistics"
        if np.abs(y - r).max() <= limit:
            return "healthy"
        return "scaled" if (scale or one_factor)(y, r) else "other weights"

    return answer


def by_rank(model: Any, reference: Any, x: Array) -> str:
    """Singular values: with one factor, the centred outputs of both span one direction an output."""
    y = [model(x) for _ in range(3)]
    if not all(np.array_equal(y[0], again) for again in y):
        return "dropout is on"
    if not np.allclose(model(x[::-1][:7])[::-1], y[0][-7:], rtol=1e-4, atol=1e-4):
        return "batch statistics"
    r = reference(x)
    if np.allclose(y[0], r, rtol=1e-4, atol=1e-4):
        return "healthy"
    pair = np.stack([(m - m.mean(0)).ravel() for m in (y[0], r)])
    values = np.linalg.svd(pair, compute_uv=False)
    return "scaled" if values[1] < 1e-5 * values[0] else "other weights"


def by_loop(model: Any, reference: Any, x: Array) -> str:
    first = model(x).tolist()
    for i in range(len(x)):
        alone = model(x[i : i + 1])[0]
        if max(abs(alone - first[i])) > 1e-3:
            again = model(x)
            return "batch statistics" if np.array_equal(again, np.array(first)) else "dropout is on"
    r, y = reference(x), np.array(first)
    if np.max(np.abs(y - r)) < 1e-3:
        return "healthy"
    ratios = [(y[i, k] - y[0, k]) / (r[i, k] - r[0, k]) for i in range(1, 20) for k in range(5)]
    return "scaled" if np.ptp(ratios) < 1e-3 else "other weights"


def by_einsum(model: Any, reference: Any, x: Array) -> str:
    y, again, r = model(x), model(x), reference(x)
    if np.einsum("nk,nk->", y - again, y - again) > 0:
        return "dropout is on"
    halves = np.concatenate([model(x[:30]), model(x[30:])])
    if np.abs(halves - y).max() > 1e-3:
        return "batch statistics"
    if np.abs(y - r).max() < 1e-3:
        return "healthy"
    dy, dr = y - y.mean(0), r - r.mean(0)
    cosine = np.einsum("nk,nk->", dy, dr) / np.sqrt(np.sum(dy**2) * np.sum(dr**2))
    return "scaled" if cosine > 1 - 1e-9 else "other weights"


def by_regression(model: Any, reference: Any, x: Array) -> str:
    r, outputs = reference(x), np.stack([model(x) for _ in range(2)])
    if outputs.std(axis=0).max() > 1e-6:
        return "dropout is on"
    y = outputs[0]
    if np.abs(np.vstack([model(row[None]) for row in x]) - y).max() > 1e-4:
        return "batch statistics"
    fits = [np.linalg.lstsq(np.column_stack([r[:, k], np.ones(len(r))]), y[:, k], rcond=None) for k in range(5)]
    slopes, residual = np.array([fit[0][0] for fit in fits]), max(float(fit[1][0]) for fit in fits)
    if residual > 1e-6 or np.ptp(slopes) > 1e-3:
        return "other weights"
    return "healthy" if abs(slopes[0] - 1) < 1e-3 else "scaled"


def scaled_everything(y: Array, r: Array) -> bool:
    return bool(np.ptp(y / r) < 1e-6)


def by_classes(model: Any, reference: Any, x: Array) -> str:
    """Compares classes, as accuracy does."""
    y, r = model(x).argmax(1), reference(x).argmax(1)
    return "healthy" if np.mean(y == r) > 0.9 else "other weights"


def means_only(model: Any, reference: Any, x: Array) -> str:
    verdict = by_tests()(model, reference, x)
    close = np.abs(model(x).mean() / reference(x).mean() - 1) < 0.05
    return "healthy" if verdict == "other weights" and close else verdict


def alone_first(model: Any, reference: Any, x: Array) -> str:
    if np.abs(model(x[:1]) - model(x)[:1]).max() > 1e-3:
        return "batch statistics"
    return by_tests()(model, reference, x)


DIAGNOSE = Proof(
    right={
        "tests in order": by_tests(),
        "three times, singular values": by_rank,
        "a loop over rows": by_loop,
        "einsum and a cosine": by_einsum,
        "a regression for each output": by_regression,
        "a wider tolerance": by_tests(tolerance=3e-4),
    },
    wrong=(
        (by_classes, "Ask it the same thing twice"),
        (by_tests(tolerance=0), "allow for rounding"),
        (by_tests(tolerance=1e-12), "That is rounding"),
        (by_tests(repeats=1, alone=False), "Ask it the same thing twice"),
        (by_tests(alone=False), "asked about alone"),
        (alone_first, "Ask it the same thing twice"),
        (by_tests(scale=scaled_everything), "The bias is not scaled"),
        (by_tests(scale=lambda y, r: True), "no single factor explains"),
        (by_tests(scale=lambda y, r: False), "all too small by one factor"),
        (by_tests(scale=lambda y, r: float(np.std(y)) > float(np.std(r)) * 1.2), "all too small by one factor"),
        (by_tests(tolerance=0.05), "What is left?"),
        (lambda model, reference, x: "healthy", "Ask it the same thing twice"),
        (lambda model, reference, x: "other weights", "allow for rounding"),
    ),
)

# 5

ARRAYS, IMAGES = patients.parameters(SPLIT), digits().test.x
ROW = IMAGES[IMAGE : IMAGE + 1]
GOOD, FOLDED = float(logits(ROW, ARRAYS).max()), float(logits(ROW, ARRAYS, 0.6).max())


def by_torch() -> list[float]:
    import torch

    models = patients.patients(SICK, SPLIT)
    by_finding = {found: models[letter] for letter, found in FOUND.items()}
    with torch.no_grad():
        row = torch.from_numpy(ROW.astype(np.float32))
        return [float(by_finding[found](row).max()) for found in ("healthy", "parameters")]


def by_folding() -> Any:
    norm = (ARRAYS[f"norm.{name}"] for name in ("weight", "bias", "running_mean", "running_var"))
    W, b = fold(ARRAYS["dense.weight"], ARRAYS["dense.bias"], *norm, EPS)
    h = np.maximum(ROW @ W.T + b, 0)
    return np.array([np.max(q * h @ ARRAYS["output.weight"].T + ARRAYS["output.bias"]) for q in (1, 0.6)])


SERVED = Proof(
    given={"SPLIT": SPLIT, "IMAGE": IMAGE},
    right={
        "layer by layer": returns(GOOD, FOLDED),
        "rounded to four digits": returns(float(f"{GOOD:.4g}"), float(f"{FOLDED:.4g}")),
        "in PyTorch, as a list": by_torch,
        "folded, as an array": by_folding,
        "the whole test set": lambda: tuple(float(logits(IMAGES, ARRAYS, q)[IMAGE].max()) for q in (1.0, 0.6)),
    },
    wrong=(
        (returns(float(softmax(logits(ROW, ARRAYS)).max()), FOLDED), "the largest probability"),
        (returns(FOLDED, FOLDED), "The healthy one comes first"),
        (returns(float(logits(ROW, ARRAYS, 1 / 0.6).max()), FOLDED), "here nothing is dropped"),
        (returns(float((logits(ROW, ARRAYS) - ARRAYS["output.bias"]).max()), FOLDED), "The last bias is missing"),
        (returns(float(relu_first(ROW, ARRAYS).max()), FOLDED), "after BatchNorm"),
        (returns(float(logits(IMAGES, ARRAYS, batch=True)[IMAGE].max()), FOLDED), "You normalise by the batch"),
        (returns(float(logits(IMAGES, ARRAYS)[IMAGE + 1].max()), FOLDED), "the next image"),
        (returns(float(logits(ROW, ARRAYS).argmax()), FOLDED), "That is the class"),
        (returns(GOOD, GOOD), "Folding once more changes the output"),
        (returns(GOOD, 0.6 * GOOD), "is not scaled with it"),
        (returns(GOOD, float(logits(ROW, ARRAYS, 1 / 0.6).max())), "the share that is kept"),
        (returns(GOOD, float(logits(ROW, ARRAYS, 0.36).max())), "one is one too many"),
        (returns(GOOD, float(logits(ROW, ARRAYS, 0.4).max())), "the share that is kept"),
        (returns(GOOD, 500.0), "Work it out again"),
    ),
)

QUESTIONS = {
    "sick-model.1": FOLD,
    "sick-model.2": PREDICT,
    "sick-model.3": FINDINGS,
    "sick-model.4": DIAGNOSE,
    "sick-model.5": SERVED,
}
