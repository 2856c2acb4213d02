"""The exercises of the chapter "inference"."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from dropoutlib.checks.exercises import Answer, Mistake, exercise, number
from dropoutlib.network import softmax

Array = npt.NDArray[Any]
Layer = Callable[[npt.ArrayLike, bool], Array]


# --- 1: the prediction of a trained network ------------------------------------------------------------------------

_Head = Callable[[Array, Array, Array], Array]

_WRONG_PREDICTIONS: tuple[tuple[_Head, str], ...] = (
    (
        lambda z, W, b: softmax(np.maximum(z, 0) * 0.5 @ W + b),
        "You scale the hidden layer by 1-p. Keras has already made up for the loss in training.",
    ),
    (
        lambda z, W, b: softmax(np.maximum(z, 0) * 2 @ W + b),
        "You scale the hidden layer by 1/(1-p). That belongs to training, where units are missing; here none is.",
    ),
    (
        lambda z, W, b: softmax(z @ W + b),
        "The first dense layer ends with a ReLU: negative values become 0.",
    ),
    (
        lambda z, W, b: np.maximum(z, 0) @ W + b,
        "These are the logits. The last dense layer ends with a softmax.",
    ),
    (
        lambda z, W, b: softmax(np.maximum(z, 0) @ W),
        "The last bias is missing. Dropout never touches a bias.",
    ),
    (
        lambda z, W, b: softmax((np.maximum(z, 0) @ W + b).T).T,
        "The softmax runs over the wrong axis. Each row of the result belongs to one image and sums to 1.",
    ),
)


@exercise("inference.1")
def predict(answer: Answer, seed: int) -> str:
    """Check predict(x, weights): class probabilities of Dense(relu), Dropout(0.5), Dense(softmax) from its weights.

    `weights` is what Keras's `get_weights()` gives: [W1, b1, W2, b2] with W of shape (inputs, outputs).
    """
    rng = np.random.default_rng(seed)
    text = "predict(x, weights)"
    for rows, inputs, units, classes in ((5, 4, 6, 3), (1, 3, 8, 4)):
        x = rng.uniform(0, 1, (rows, inputs))
        # Columns of both signs, so that every row of x has units on either side of the rectifier.
        W1 = rng.uniform(0.5, 1, (inputs, units)) * np.resize([1, -1], units)
        weights = [
            W1,
            np.resize([0.3, -0.2], units),
            rng.standard_normal((units, classes)),
            rng.standard_normal(classes),
        ]
        _check_prediction(answer, x, weights, text)
    x, weights = np.ones((2, 3)), [np.eye(3), np.zeros(3), 1000 * np.eye(3), np.array([0.0, 1000.0, 0.0])]
    value = np.asarray(answer.call(text, x, weights))
    if not np.allclose(value, [[0, 1, 0]] * 2):
        raise Mistake(
            f"{text} returned {value[0]} for logits 1000, 2000 and 1000, expected [0, 1, 0]",
            "The exponential of a large logit overflows. Subtract each row's largest logit first; it cancels.",
        )
    return "The probabilities are right for two networks, and large logits do not overflow."


def _check_prediction(answer: Answer, x: Array, weights: list[Array], text: str) -> None:
    given = [w.copy() for w in weights]
    value = np.asarray(answer.call(text, x.copy(), given))
    z, W, b = x @ weights[0] + weights[1], weights[2], weights[3]
    expected = softmax(np.maximum(z, 0) @ W + b)
    if value.shape != expected.shape or value.dtype.kind != "f":
        raise Mistake(f"{text} returned an array of shape {value.shape}, expected {expected.shape}")
    if not np.allclose(value, expected):
        hints = (hint for rule, hint in _WRONG_PREDICTIONS if np.allclose(value, rule(z, W, b)))
        again = np.asarray(answer.call(text, x.copy(), [w.copy() for w in weights]))
        fallback = "At inference the dropout layer does nothing. What is left of the network without it?"
        if not np.array_equal(again, value):
            fallback = "Two calls gave two results, so something is still drawn. Dropout is off at inference."
        raise Mistake(
            f"{text} returned {np.round(value[0], 3)} in the first row, expected {np.round(expected[0], 3)}",
            next(hints, fallback),
        )
    if not all(np.array_equal(u, v) for u, v in zip(given, weights, strict=True)):
        raise Mistake(f"{text} changed the weights", "The model is still needed: work on copies.")


# --- 2: the factor of each mistake ---------------------------------------------------------------------------------

# Training multiplies by mask * s, inference by t; then the means have the ratio t / (s q).
_FACTORS: dict[str, Callable[[float], float]] = {
    "1/p": lambda p: p / (1 - p),
    "scaled as well": lambda p: 1 - p,
    "forgotten": lambda p: 1 / (1 - p),
    "left on": lambda p: 1.0,
}

_WRONG_FACTORS: dict[str, tuple[tuple[Callable[[float], float], str], ...]] = {
    "1/p": (
        (lambda p: (1 - p) / p, "That is training over inference. The question is inference over training."),
        (lambda p: p, "A kept element is multiplied by 1/p, but how often is it kept?"),
        (lambda p: 1 / p, "That is the factor of a kept element in training. What is the mean, the dropped ones too?"),
        (lambda p: 1.0, "Inference returns x itself. What is the mean in training, mask and factor 1/p together?"),
    ),
    "scaled as well": (
        (lambda p: 1 / (1 - p), "That is training over inference. The question is inference over training."),
        (lambda p: (1 - p) ** 2, "In training the mean is already right, so there is one factor only."),
        (lambda p: 1.0, "The training mean is that of x. Inference multiplies x once more."),
        (lambda p: p, "The layer multiplies by 1-p at inference: the share that is kept."),
    ),
    "forgotten": (
        (lambda p: 1 - p, "That is training over inference. The question is inference over training."),
        (lambda p: 1 / p, "Of 10 elements at p = 0.2, how many are left in training?"),
        (lambda p: 1.0, "No factor anywhere: in training elements are missing, at inference none is."),
    ),
    "left on": (
        (lambda p: 1 - p, "A mask is drawn at inference too, and the kept elements are scaled up as in training."),
        (lambda p: 1 / (1 - p), "Some elements are missing at inference: mask and factor together have the mean 1."),
        (lambda p: 0.0, "What is the mean over all elements, kept and dropped ones?"),
    ),
}


@exercise("inference.2")
def output_ratio(answer: Answer, seed: int) -> str:
    """Check output_ratio(p, mistake): the mean of the layer's output at inference over that in training."""
    rates = (0.2, 0.7, 0.5)
    for mistake, factor in _FACTORS.items():
        values = {}
        for p in rates:
            text = f'output_ratio({p}, "{mistake}")'
            values[p] = number(answer.call(text, p, mistake), text)
        for p, value in values.items():
            if not np.isclose(value, factor(p), rtol=1e-6):
                hint = next(
                    (
                        hint
                        for rule, hint in _WRONG_FACTORS[mistake]
                        if all(np.isclose(v, rule(u), rtol=1e-6) for u, v in values.items())
                    ),
                    "Write down what multiplies x in training, take its mean over the masks, and divide.",
                )
                raise Mistake(f'output_ratio({p}, "{mistake}") returned {value:.6g}, expected {factor(p):.6g}', hint)
    return f"The ratios of all four mistakes are right at p = {', '.join(map(str, sorted(rates)))}."


# --- 3: the test that finds the mistake ----------------------------------------------------------------------------

_RIGHT_HERE = (
    "At p = 0.5 the factors 1/p and 1/(1-p) are the same number, so this layer does nothing wrong. Compare the means "
    "of the two modes."
)
_MEANS = (
    "Feed many elements, in training and at inference, and divide the means: each mistake has a ratio of its own. "
    "A sample's mean is never exact, so allow a few per cent."
)
_SAYS: dict[tuple[str, str], str] = {
    ("right", "1/p"): _RIGHT_HERE,
    ("1/p", "right"): "At inference this layer looks perfect: it returns x. Its mistake is in training. " + _MEANS,
    ("left on", "right"): "Its mean is right in both modes. Call it twice at inference.",
    ("forgotten", "1/p"): "In training its kept elements keep their size. " + _MEANS,
}
_STANDARD = (
    "This is standard dropout: no factor in training, 1-p at inference. Its two means agree, so it is right. Compare "
    "means, not single factors."
)


@exercise("inference.3")
def diagnose(answer: Answer, seed: int) -> str:
    """Check diagnose(layer, p): the name of a layer's mistake, or "right".

    `layer(x, training)` gives an array like x. The names are "right", "1/p", "scaled as well", "forgotten" and
    "left on". Both inverted and standard dropout are right.
    """
    rng = np.random.default_rng(seed)
    names = ("right", "1/p", "scaled as well", "forgotten", "left on")
    cases = [(p, name) for p in (0.2, 0.7, 0.5) for name in (*names, "standard")]
    for p, name in cases:
        expected = "right" if name == "standard" or (name == "1/p" and p == 0.5) else name
        text = f"diagnose(layer, {p})"
        value = answer.call(text, _layer(name, p, rng), p)
        if not isinstance(value, str) or value not in names:
            raise Mistake(f"{text} returned {value!r}, expected one of {', '.join(map(repr, names))}")
        if value != expected:
            described = {"standard": "standard dropout", "right": "inverted dropout"}.get(name, f"the mistake {name!r}")
            hint = _STANDARD if name == "standard" else _SAYS.get((expected, value), _MEANS)
            raise Mistake(f"{text} returned {value!r} for {described}, expected {expected!r}", hint)
    return f"All {len(cases)} layers were named rightly, at p = 0.2, 0.5 and 0.7."


def _layer(name: str, p: float, rng: np.random.Generator) -> Layer:
    q = 1 - p
    scale = {"1/p": 1 / p, "forgotten": 1.0, "standard": 1.0}.get(name, 1 / q)
    factor = {"scaled as well": q, "standard": q}.get(name, 1.0)

    def layer(x: npt.ArrayLike, training: bool) -> Array:
        array = np.asarray(x, dtype=np.float64)
        if training or name == "left on":
            return np.asarray(array * (rng.random(array.shape) >= p) * scale)
        return np.asarray(array * factor)

    return layer
