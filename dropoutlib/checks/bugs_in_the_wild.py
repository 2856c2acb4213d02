"""The exercises of the chapter "bugs-in-the-wild"."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from dropoutlib.checks import wild
from dropoutlib.checks.exercises import Answer, Mistake, exercise, fits_binomial
from dropoutlib.layers import InvertedDropout, StandardDropout

Array = npt.NDArray[Any]


def _array(value: object, text: str, like: Array) -> Array:
    if not isinstance(value, np.ndarray):
        raise Mistake(f"{text} returned {type(value).__name__}, expected an array")
    if value.shape != like.shape or value.dtype.kind != "f":
        raise Mistake(f"{text} returned {value.dtype} of shape {value.shape}, expected floats of shape {like.shape}")
    return value


# --- 1: the edges --------------------------------------------------------------------------------------------------

_SIZE = 200_000
_P = 0.25  # its factors, 4/3 and 3/4, are neither p nor 1/p


@exercise("bugs-in-the-wild.1")
def dropout(answer: Answer, seed: int) -> str:
    """Check dropout(x, p, rng, training): the output for every p from 0 to 1, the ends included.

    Inverted or standard. A right answer is rejected with a probability of at most 2e-10: two shares of zeros are held
    against Chernoff's bound.
    """
    x = np.linspace(1, 2, _SIZE, dtype=np.float32)
    q = 1 - _P
    standard = np.allclose(_call(answer, x, _P, False, seed), q * x, rtol=1e-3)
    for p in (_P, 0.002):
        y = _call(answer, x, p, True, seed)
        factor = 1.0 if standard else 1 / (1 - p)
        kept = y != 0
        if not np.allclose(y[kept], factor * x[kept], rtol=1e-5):
            raise Mistake(
                f"{_text(p, True)} multiplied kept elements by {float(np.median(y[kept] / x[kept])):.4g}, "
                f"expected {factor:.4g}",
                "Of the mask only 1 - p is left. What makes up for it?",
            )
        if not fits_binomial(int(kept.sum()), _SIZE, 1 - p):
            raise Mistake(
                f"{_text(p, True)} dropped {np.mean(~kept):.2%} of the elements, expected {p:.1%}",
                "How many different numbers can the random draw be? And may it be 0?",
            )
    if not np.array_equal(_call(answer, x, 0.0, True, seed), x):
        raise Mistake(f"{_text(0.0, True)} is not x", "At p = 0 nothing is dropped, not even rarely: may a draw be 0?")
    gone = _call(answer, x, 1.0, True, seed)
    if np.any(gone != 0):
        what = "nan" if np.isnan(gone).any() else "numbers other than 0"
        raise Mistake(f"{_text(1.0, True)} returned {what}, expected zeros", "At p = 1 the factor is 1/0. Avoid it.")
    for p in (0.0, 0.002, _P, 1.0):
        z = _call(answer, x, p, False, seed)
        factor = 1 - p if standard else 1.0
        if not np.allclose(z, factor * x, rtol=1e-6):
            zeros = np.mean(z == 0)
            raise Mistake(
                f"{_text(p, False)} returned {f'{zeros:.2%} zeros' if zeros else 'other values'}, "
                f"expected {'x' if factor == 1 else f'{factor:g} x'}",
                "Evaluation drops nothing, at no p. Ask for the mode first.",
            )
    return f"Both modes are right at p = 0, 0.002, {_P:g} and 1."


def _text(p: float, training: bool) -> str:
    return f"dropout(x, {p:g}, rng, training={training})"


def _call(answer: Answer, x: Array, p: float, training: bool, seed: int) -> Array:
    text = _text(p, training)
    hint = "At p = 1 the factor is 1/0. Avoid it." if p == 1 else ""
    value = answer.call(text, x.copy(), p, np.random.default_rng(seed), training, hint=hint)
    y = _array(value, text, x)
    if y.dtype != x.dtype:
        raise Mistake(f"{text} returned {y.dtype}, expected {x.dtype}", "Which operand has the wider dtype?")
    return y


# --- 2: a look at the validation data ------------------------------------------------------------------------------


class _Broken(wild.Layer):
    """A layer that fails."""

    def in_evaluation(self, x: Array) -> Array:
        """Fail as a run out of memory does."""
        raise MemoryError("no memory left for this batch")


@exercise("bugs-in-the-wild.2")
def validate(answer: Answer, seed: int) -> str:
    """Check validate(network, x): the output in evaluation mode; every layer keeps the mode it came with.

    `network` has layers, train(), eval() and forward(x), and each layer has training. If forward raises, so does
    validate, and the modes are kept all the same.
    """
    x = np.random.default_rng(seed).uniform(1, 2, (4, 5))
    text = "validate(network, x)"
    for modes, described in (
        ((True, True), "in training mode"),
        ((False, False), "in evaluation mode"),
        ((True, False), "with its second layer frozen, in evaluation mode"),
        ((False, True), "with its first layer frozen, in evaluation mode"),
    ):
        network = _network(modes, wild.STANDARD(0.3, seed), wild.Layer(0.6, seed))
        y = _array(answer.call(f"{text} for a network {described}", network, x), text, x)
        if not np.allclose(y, 0.7 * x):
            raise Mistake(
                f"{text} returned something else than the output in evaluation mode, for a network {described}",
                "Dropout must be off while you predict, in every layer.",
            )
        _compare(network, modes, f"{text} for a network {described}")
    network = _network((True, True), wild.Layer(0.3, seed), _Broken(0.6, seed))
    try:
        answer.call(text, network, x)
    except Mistake:
        _compare(network, (True, True), f"{text}, when forward raises,")
    else:
        raise Mistake(f"{text} swallowed the error of forward", "Let it pass: try ... finally ..., without except.")
    return "The output is that of evaluation, and all layers keep their modes, also when forward raises."


def _network(modes: tuple[bool, ...], *layers: wild.Layer) -> wild.Network:
    for layer, training in zip(layers, modes, strict=True):
        layer.training = training
    return wild.Network(*layers)


def _compare(network: wild.Network, modes: tuple[bool, ...], text: str) -> None:
    found = tuple(layer.training for layer in network.layers)
    if found == modes:
        return
    if not any(found):
        hint = "Training goes on after the look. Who switches dropout on again?"
    elif all(found):
        hint = "train() switches all layers on, also those that were off before. Remember the mode of each."
    else:
        hint = "Remember the mode of each layer before you change it."
    if "raises" in text:
        hint = "What stands after a line that raises is not run. Use try ... finally ...."
    names = {True: "training", False: "evaluation"}
    raise Mistake(
        f"{text} left the layers in {' and '.join(names[mode] for mode in found)}, "
        f"expected {' and '.join(names[mode] for mode in modes)}",
        hint,
    )


# --- 3: the test ---------------------------------------------------------------------------------------------------


class _LeftOn(wild.Layer):
    """A dropout that knows no mode."""

    def in_evaluation(self, x: Array) -> Array:
        return self.in_training(x)

    def evaluation_gradient(self, dy: Array) -> Array:
        return self.gradient(dy)


_RIGHT: tuple[tuple[str, Any], ...] = (
    ("inverted dropout", InvertedDropout),
    ("standard dropout", StandardDropout),
    ("inverted dropout that stores no mask", wild.CheckpointedAfter),
    ("standard dropout", wild.STANDARD),
)
_WRONG: tuple[tuple[str, Any, str], ...] = (
    ("that is on in evaluation too", _LeftOn, "Call it twice in evaluation mode."),
    ("whose evaluation multiplies by p", wild.WRONG_CONSTANTS["ConvNetJS"], "Compare the means of the two modes."),
    ("that scales by 1/p in training", wild.WRONG_CONSTANTS["Kaldi"], "Compare the means of the two modes."),
    ("that multiplies by p in training", wild.WRONG_CONSTANTS["dlordinal"], "Compare the means of the two modes."),
    (
        "whose evaluation multiplies by one half, whatever p is",
        wild.WRONG_CONSTANTS["RETAIN"],
        "At p = 0.5 it is right. Try other rates.",
    ),
    (
        "whose evaluation divides by 1 - p",
        wild.WRONG_CONSTANTS["RETAIN repaired"],
        "Compare the means of the two modes.",
    ),
    ("whose backward multiplies by p", wild.Apex, "What backward does to x must be what forward did to it."),
    (
        "that draws a new mask in backward",
        wild.Checkpointed,
        "What backward does to x must be what forward did to it.",
    ),
    ("that draws the same mask at each call", wild.Paddle, "Call it twice in training mode."),
    ("that returns nan at p = 1", wild.Flax, "Try p = 1, in training mode."),
    ("that returns zeros in evaluation at p = 1 only", wild.FlaxRepaired, "Try p = 1, in evaluation mode."),
    (
        "that drops 0.4 % of the elements in evaluation",
        wild.Boltz,
        "Use enough elements, and ask that evaluation be exact.",
    ),
)


@exercise("bugs-in-the-wild.3")
def passes(answer: Answer, seed: int) -> str:
    """Check passes(make): True if and only if make(p) makes a right dropout layer, inverted or standard.

    The layers have train(), eval(), forward(x) and backward(dy); 0 <= p <= 1. They are seeded, so that the verdict on
    a test is the same each time. Evaluation at p = 1 gives x for inverted dropout and zeros for standard dropout.
    """
    text = "passes(make)"
    for described, make in _RIGHT:
        if not _verdict(answer, make, text, seed):
            raise Mistake(
                f"{text} returned False for {described}, which is right",
                "Inverted dropout scales in training, standard dropout in evaluation. Means of random numbers need "
                "a tolerance, and many elements.",
            )
    for described, make, hint in _WRONG:
        if _verdict(answer, make, text, seed):
            raise Mistake(f"{text} returned True for a layer {described}", hint)
    return f"Your test passes {len(_RIGHT)} right layers and fails {len(_WRONG)} wrong ones."


def _verdict(answer: Answer, make: Any, text: str, seed: int) -> bool:
    made = 0

    def seeded(p: float) -> Any:
        nonlocal made
        made += 1
        # Without a seed of its own the layer of a constant seed shows what it does without one.
        return make(p) if make is wild.Paddle else make(p, seed + made)

    value = answer.call(text, seeded)
    if not isinstance(value, bool | np.bool_):
        raise Mistake(f"{text} returned {value!r}, expected True or False")
    return bool(value)
