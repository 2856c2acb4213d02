"""The code questions of the assignment "sick-model"."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from dropoutlib.checks.assignments.patients import EPS, LETTERS, RATE, SICKNESSES, parameters, right_findings
from dropoutlib.checks.assignments.tools import Array, Rules, array, by_hand, signed
from dropoutlib.checks.exercises import Answer, Mistake, exercise, short
from dropoutlib.data import digits
from dropoutlib.network import softmax

# --- 1: folding ----------------------------------------------------------------------------------------------------

_FOLDS: tuple[tuple[Callable[..., tuple[Array, Array]], str], ...] = (
    (
        lambda W, b, g, s, m, v, e: (W * (g / np.sqrt(v + e))[:, None], s + b - m * g / np.sqrt(v + e)),
        "The old bias goes through BatchNorm too: it is shifted by the mean and scaled like the weights.",
    ),
    (
        lambda W, b, g, s, m, v, e: (W * (g / np.sqrt(v + e))[:, None], b * g / np.sqrt(v + e) + s),
        "The running mean is missing: BatchNorm subtracts it before it scales.",
    ),
    (
        lambda W, b, g, s, m, v, e: (W * (g / np.sqrt(v + e))[:, None], (b + m) * g / np.sqrt(v + e) + s),
        "BatchNorm subtracts the running mean. You add it.",
    ),
    (
        lambda W, b, g, s, m, v, e: (W * (g / np.sqrt(v + e))[:, None], (b - m) * g / np.sqrt(v + e)),
        "BatchNorm's own bias is missing.",
    ),
    (
        lambda W, b, g, s, m, v, e: (W / np.sqrt(v + e)[:, None], (b - m) / np.sqrt(v + e) + s),
        "BatchNorm's own weight is missing.",
    ),
    (
        lambda W, b, g, s, m, v, e: (W * (g / (v + e))[:, None], (b - m) * g / (v + e) + s),
        "BatchNorm divides by the root of the variance.",
    ),
    (
        lambda W, b, g, s, m, v, e: (W * (g / np.sqrt(v))[:, None], (b - m) * g / np.sqrt(v) + s),
        "eps is missing. It is added to the variance, and here one variance is small.",
    ),
    (
        lambda W, b, g, s, m, v, e: (W * (g / (np.sqrt(v) + e))[:, None], (b - m) * g / (np.sqrt(v) + e) + s),
        "eps is added to the variance, under the root.",
    ),
    (
        lambda W, b, g, s, m, v, e: (W * (g / np.sqrt(v + e)), (b - m) * g / np.sqrt(v + e) + s),
        "Each output of the layer has its own scale, so it multiplies a row of W. You multiply the columns.",
    ),
    (
        lambda W, b, g, s, m, v, e: (W * (np.sqrt(v + e) / g)[:, None], (b - m) * np.sqrt(v + e) / g + s),
        "Your scale is upside down: BatchNorm divides by the deviation and multiplies by its weight.",
    ),
)


@exercise("sick-model.1")
def fold_batch_norm(answer: Answer, seed: int) -> str:
    """Check fold_batch_norm(W, b, weight, bias, mean, var, eps) -> (W, b) of one linear layer.

    It is the same function as the linear layer followed by BatchNorm in evaluation: W has shape (outputs, inputs), the
    other arrays (outputs,). A square and an oblong layer, one small variance; nothing that is given is changed.
    Nothing is random in a right answer.
    """
    rng = np.random.default_rng(seed)
    for outputs, inputs in ((5, 5), (4, 7)):
        W, b, g, s, m = (signed(rng, shape) for shape in ((outputs, inputs), *[(outputs,)] * 4))
        v, eps = rng.uniform(0.5, 2, outputs), 1e-3
        v[1] = 2e-3
        text = f"{answer.name}(W, b, weight, bias, mean, var, eps) with W of shape {W.shape}"
        value = answer.call(text, W, b, g, s, m, v, eps, pure=True)
        if not isinstance(value, list | tuple) or len(value) != 2:
            raise Mistake(f"{text} returned {short(repr(value))}, expected W and b")
        got = array(value[0], f"{text}: W", W.shape), array(value[1], f"{text}: b", b.shape)
        factor = g / np.sqrt(v + eps)
        expected = W * factor[:, None], (b - m) * factor + s
        for name, u, w in zip(("W", "b"), got, expected, strict=True):
            if not np.allclose(u, w, rtol=1e-6, atol=1e-9):
                at = tuple(map(int, np.unravel_index(np.argmax(np.abs(u - w)), w.shape)))
                hints = (hint for rule, hint in _FOLDS if _alike(got, rule, W, b, g, s, m, v, eps))
                hint = next(hints, "Write down what BatchNorm does to W x + b, and collect what multiplies x.")
                raise Mistake(f"{text}: {name} is {u[at]:.6g} in entry {at}, expected {w[at]:.6g}", hint)
    return "The folded layers are the same functions."


def _alike(got: tuple[Array, Array], rule: Callable[..., tuple[Array, Array]], *arguments: Any) -> bool:
    try:
        wrong = rule(*arguments)
    except ValueError:
        return False
    return all(u.shape == w.shape and np.allclose(u, w, rtol=1e-6) for u, w in zip(got, wrong, strict=True))


# --- 2: a prediction without a framework ---------------------------------------------------------------------------


def _hidden(x: Array, a: dict[str, Array]) -> Array:
    """Return what reaches the last layer in evaluation, before the ReLU."""
    z = x @ a["dense.weight"].T + a["dense.bias"]
    scale = a["norm.weight"] / np.sqrt(a["norm.running_var"] + EPS)
    return np.asarray((z - a["norm.running_mean"]) * scale + a["norm.bias"])


def _logits(x: Array, a: dict[str, Array]) -> Array:
    return np.asarray(np.maximum(_hidden(x, a), 0) @ a["output.weight"].T + a["output.bias"])


def _by_batch(x: Array, a: dict[str, Array]) -> Array:
    """Return the logits of a model that normalises by the batch."""
    z = x @ a["dense.weight"].T + a["dense.bias"]
    own = {"norm.running_mean": z.mean(0), "norm.running_var": z.var(0)}
    return _logits(x, a | own)


def _scaled(x: Array, a: dict[str, Array], factor: float) -> Array:
    """Return the logits of a model whose hidden layer is multiplied by a factor."""
    return np.asarray(factor * (_logits(x, a) - a["output.bias"]) + a["output.bias"])


_PREDICTIONS: tuple[tuple[Callable[[Array, dict[str, Array]], Array], str], ...] = (
    (_logits, "These are the logits. Probabilities are asked for: a softmax."),
    (
        lambda x, a: softmax(_scaled(x, a, 1 - RATE)),
        "You scale the hidden layer by 1-p. This dropout is inverted: training has made up for it.",
    ),
    (
        lambda x, a: softmax(_scaled(x, a, 1 / (1 - RATE))),
        "You scale the hidden layer by 1/(1-p). That belongs to training; here nothing is dropped.",
    ),
    (
        lambda x, a: softmax(_by_batch(x, a)),
        "You normalise by the batch. A deployed model uses the running statistics, or its rows depend on each other.",
    ),
    (
        lambda x, a: softmax(_hidden(x, a) @ a["output.weight"].T + a["output.bias"]),
        "The ReLU is missing.",
    ),
    (
        lambda x, a: softmax(_relu_first(x, a)),
        "The ReLU comes after BatchNorm in this network. You apply it before.",
    ),
    (
        lambda x, a: softmax(np.maximum(_hidden(x, a), 0) @ a["output.weight"].T),
        "The last bias is missing.",
    ),
    (
        lambda x, a: softmax(_logits(x, a | {"norm.bias": 0 * a["norm.bias"]})),
        "BatchNorm's own bias is missing.",
    ),
    (
        lambda x, a: softmax(_logits(x, a).T).T,
        "The softmax runs over the wrong axis. Each row of the result belongs to one image and sums to 1.",
    ),
    (
        lambda x, a: softmax(
            np.maximum(x @ a["dense.weight"].T + a["dense.bias"], 0) @ a["output.weight"].T + a["output.bias"]
        ),
        "BatchNorm is missing. In evaluation it still shifts and scales.",
    ),
)


def _relu_first(x: Array, a: dict[str, Array]) -> Array:
    z = np.maximum(x @ a["dense.weight"].T + a["dense.bias"], 0)
    scale = a["norm.weight"] / np.sqrt(a["norm.running_var"] + EPS)
    normalised = (z - a["norm.running_mean"]) * scale + a["norm.bias"]
    return np.asarray(normalised @ a["output.weight"].T + a["output.bias"])


@exercise("sick-model.2")
def predict(answer: Answer, seed: int) -> str:
    """Check predict(x, arrays): class probabilities of Linear, BatchNorm, ReLU, Dropout, Linear, softmax.

    All in evaluation. `arrays` are those of PyTorch's state_dict: dense.weight, dense.bias, norm.weight, norm.bias,
    norm.running_mean, norm.running_var, output.weight, output.bias. Two networks with other sizes, one row alone, and
    logits that overflow. Nothing that is given is changed. Nothing is random in a right answer.
    """
    rng = np.random.default_rng(seed)
    for rows, inputs, units, classes in ((6, 5, 8, 3), (4, 3, 6, 4)):
        a = _arrays(rng, inputs, units, classes)
        x = signed(rng, (rows, inputs))
        text = f"{answer.name}(x, arrays) with x of shape {x.shape}"
        value = array(answer.call(text, x, a, pure=True), text, (rows, classes))
        expected = softmax(_logits(x, a))
        if not np.allclose(value, expected, rtol=1e-5, atol=1e-9):
            hints = (hint for rule, hint in _PREDICTIONS if np.allclose(value, rule(x, a), rtol=1e-5, atol=1e-9))
            raise Mistake(
                f"{text} returned {np.round(value[0], 3)} in the first row, expected {np.round(expected[0], 3)}",
                next(hints, "Go through the network layer by layer; only the dropout leaves everything as it is."),
            )
        one = array(answer.call(text, x[:1], a), text, (1, classes))
        if not np.allclose(one, expected[:1], rtol=1e-5):
            raise Mistake(f"{text}: a row alone gets another prediction", "A row must not depend on its batch.")
    large = a | {"output.weight": 1000 * a["output.weight"]}
    value = array(answer.call(text, x, large), text, (rows, classes))
    if not np.allclose(value, softmax(_logits(x, large)), atol=1e-6):
        raise Mistake(
            f"{text} is not right for logits of size 1000",
            "The exponential of a large logit overflows. Subtract each row's largest logit first; it cancels.",
        )
    return "The probabilities are right for two networks, for a single row, and for large logits."


def _arrays(rng: np.random.Generator, inputs: int, units: int, classes: int) -> dict[str, Array]:
    """Return a random network, no unit of which is always on or always off."""
    return {
        "dense.weight": signed(rng, (units, inputs)),
        "dense.bias": signed(rng, (units,)),
        "norm.weight": rng.uniform(0.5, 2, units),
        "norm.bias": signed(rng, (units,)) / 2,
        "norm.running_mean": signed(rng, (units,)),
        "norm.running_var": rng.uniform(1, 9, units),
        "output.weight": rng.standard_normal((classes, units)),
        "output.bias": signed(rng, (classes,)),
    }


# --- 3: six patients -----------------------------------------------------------------------------------------------

_FOUND: dict[str, str] = {
    "healthy": "One that you call sick has no failing check. `cannot tell` is no failure.",
    "evaluation-mode": "In one model a single failure explains several others. The report puts the root cause first.",
    "no-active-dropout": "One model is in evaluation mode, and two runs on one input differ. Which check says so?",
    "rows-independent": "In one model a row's output depends on the other rows, though nothing is random.",
    "parameters": "One model behaves well, but an array is not that of the reference. Was the reference given?",
    "normalisation-statistics": "One model can only be judged on data. Were the batches given to the check?",
}


@exercise("sick-model.3")
def findings(answer: Answer, seed: int) -> str:
    """Check findings(): for each of the models A to F the first check that fails, or "healthy".

    The order of the models follows from SICK. Nothing is random.
    """
    expected = right_findings(int(answer.given("SICK")))
    text = f"{answer.name}()"
    value = answer.call(text)
    if not isinstance(value, dict) or set(value) != set(LETTERS):
        raise Mistake(f"{text} returned {short(repr(value))}, expected a dictionary with the keys A to F")
    known = list(SICKNESSES.values())
    for letter in LETTERS:
        if value[letter] not in known:
            raise Mistake(f"{text}: {letter} is {short(repr(value[letter]))}, expected one of {', '.join(known)}")
    wrong = [letter for letter in LETTERS if value[letter] != expected[letter]]
    if wrong:
        # The same mistake gets the same hint, whatever the order of the models.
        letter = min(wrong, key=lambda name: known.index(expected[name]))
        raise Mistake(f"{text}: {letter} is not {value[letter]!r}", _FOUND[expected[letter]])
    return "All six models are judged rightly."


# --- 4: from outside -----------------------------------------------------------------------------------------------

_NAMES = ("healthy", "dropout is on", "batch statistics", "scaled", "other weights")
_CASES: dict[str, tuple[str, str, str]] = {
    "healthy": ("healthy", "a healthy model", "The reference itself is not exact either: allow for rounding."),
    "float32": (
        "healthy",
        "a healthy model that computes in float32",
        "Its outputs differ from the reference in the seventh digit only. That is rounding, no sickness.",
    ),
    "dropout": ("dropout is on", "a model that drops", "Ask it the same thing twice."),
    "little dropout": (
        "dropout is on",
        "a model that drops one unit in fifty",
        "It drops so little that two answers are often equal. Ask it more than twice, or about many rows.",
    ),
    "batch": (
        "batch statistics",
        "a model that normalises by the batch",
        "It gives the same answer twice. But does a row's answer change when the row is asked about alone?",
    ),
    "folded": (
        "scaled",
        "a model whose hidden layer is multiplied by 1-p",
        "The differences between two rows' outputs are all too small by one factor. The bias is not scaled.",
    ),
    "unfolded": (
        "scaled",
        "a model whose hidden layer is multiplied by 1/(1-p)",
        "The differences between two rows' outputs are all too large by one factor. The bias is not scaled.",
    ),
    "other": (
        "other weights",
        "a model with the weights of another training",
        "It is not random, its rows are independent, and no single factor explains the difference.",
    ),
    "slightly other": (
        "other weights",
        "a model with weights that are half a per cent off",
        "It is far more different than rounding explains, and no single factor does. What is left?",
    ),
}


@exercise("sick-model.4")
def diagnose(answer: Answer, seed: int) -> str:
    """Check diagnose(model, reference, x): what is wrong with a model that can only be asked.

    model(x) and reference(x) give logits of rows. The answers are "healthy", "dropout is on", "batch statistics",
    "scaled" and "other weights". Nine models in an order drawn from the seed: healthy in float64 and float32, dropout
    at a high and a low rate, normalising by the batch, the hidden layer scaled by 1-p and by 1/(1-p), other weights
    and slightly other weights. An answer that asks the model twice about 60 rows is rejected with a probability of at
    most 1e-9.
    """
    rng = np.random.default_rng(seed)
    names = list(_CASES)
    misjudged = []
    for i in rng.permutation(len(names)):
        a = _arrays(rng, 6, 40, 5)
        x = signed(rng, (60, 6))
        model, reference = _black_box(names[i], a, rng), _black_box("healthy", a, rng)
        text = f"{answer.name}(model, reference, x)"
        value = answer.call(text, model, reference, x, hint="model(x) and reference(x) take rows and return logits.")
        if value not in _NAMES:
            raise Mistake(f"{text} returned {short(repr(value))}, expected one of {', '.join(_NAMES)}")
        if value != _CASES[names[i]][0]:
            misjudged.append((i, str(value)))
    if misjudged:
        i, said = min(misjudged)
        right, described, hint = _CASES[names[i]]
        raise Mistake(f"{answer.name}(model, reference, x) returned {said!r} for {described}, expected {right!r}", hint)
    return f"{len(names)} models are judged rightly, from outside."


def _black_box(name: str, a: dict[str, Array], rng: np.random.Generator) -> Callable[[Any], Array]:
    """Return a model as a function of rows."""
    rate = {"dropout": 0.4, "little dropout": 0.02}.get(name, 0.0)
    own = a
    if name == "other":
        own = _arrays(rng, 6, 40, 5)
    if name == "slightly other":
        noise = 1 + 0.005 * signed(rng, a["output.weight"].shape)
        own = a | {"output.weight": a["output.weight"] * noise}

    def model(x: Any) -> Array:
        rows = np.asarray(x, np.float64)
        if rows.ndim != 2 or rows.shape[1] != 6:
            raise ValueError(f"the model takes rows, an array of shape (n, 6), got {rows.shape}")
        if name == "float32":
            narrow = {key: value.astype(np.float32) for key, value in own.items()}
            return _logits(rows.astype(np.float32), narrow).astype(np.float64)
        if name == "batch":
            return _by_batch(rows, own)
        if name in ("folded", "unfolded"):
            return _scaled(rows, own, 0.6 if name == "folded" else 1 / 0.6)
        if rate:
            hidden = np.maximum(_hidden(rows, own), 0)
            hidden = hidden * (rng.random(hidden.shape) >= rate) / (1 - rate)
            return np.asarray(hidden @ own["output.weight"].T + own["output.bias"])
        return _logits(rows, own)

    return model


# --- 5: two numbers ------------------------------------------------------------------------------------------------


@exercise("sick-model.5")
def served_logits(answer: Answer, seed: int) -> str:
    """Check served_logits(): the largest logit of test image IMAGE, healthy and with the hidden layer folded twice.

    For the network that was trained on the class's SPLIT, each to four digits. Nothing is random.
    """
    a = parameters(int(answer.given("SPLIT")))
    image = int(answer.given("IMAGE"))
    images = digits().test.x
    x = images[image : image + 1]
    healthy, folded = float(_logits(x, a).max()), float(_scaled(x, a, 1 - RATE).max())
    rules: tuple[Rules, ...] = (
        (
            (lambda: softmax(_logits(x, a)).max(), "That is the largest probability. The largest logit is asked for."),
            (lambda: folded, "That is the model that was folded twice. The healthy one comes first."),
            (
                lambda: _scaled(x, a, 1 / (1 - RATE)).max(),
                "You scale the hidden layer by 1/(1-p). That belongs to training; here nothing is dropped.",
            ),
            (lambda: (_logits(x, a) - a["output.bias"]).max(), "The last bias is missing."),
            (lambda: (_hidden(x, a) @ a["output.weight"].T + a["output.bias"]).max(), "The ReLU is missing."),
            (lambda: _relu_first(x, a).max(), "The ReLU comes after BatchNorm in this network."),
            (lambda: _by_batch(images, a)[image].max(), "You normalise by the batch, not by the running statistics."),
            (lambda: _logits(images[image + 1 : image + 2], a).max(), "That is the next image. Rows count from 0."),
            (lambda: float(_logits(x, a).argmax()), "That is the class. The logit itself is asked for."),
        ),
        (
            (lambda: healthy, "Folding once more changes the output, apart from its bias."),
            (
                lambda: _logits(x, a).max() * (1 - RATE),
                "The bias is added after the hidden layer, and is not scaled with it.",
            ),
            (lambda: _scaled(x, a, 1 / (1 - RATE)).max(), "Folding multiplies by 1-p, the share that is kept."),
            (lambda: _scaled(x, a, (1 - RATE) ** 2).max(), "The network here needs no fold, so one is one too many."),
            (lambda: _scaled(x, a, RATE).max(), "Folding multiplies by the share that is kept."),
        ),
    )
    names = ("the healthy model's logit", "the logit after folding twice")
    by_hand(answer, names, (healthy, folded), rules, rtol=5e-4)
    return "Both logits are right."
