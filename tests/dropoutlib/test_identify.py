"""`identify` on right layers, on frameworks, and on every defect it has a name for.

A right layer is misread with a probability below 1e-9 (see the docstring of `identify`); most masks here are seeded.
"""

from __future__ import annotations

import functools
import re
import subprocess
import sys
from typing import Any

import numpy as np
import pytest

import dropoutlib
from dropoutlib.checks import Identity, identify
from dropoutlib.layers import InvertedDropout, KeyedDropout, StandardDropout


def summary(identity: Identity) -> tuple[str, str | None, bool | None, bool | None]:
    return (
        identity.convention,
        identity.argument,
        identity.active_in_evaluation,
        identity.backward_reuses_mask,
    )


class Layer:
    """Inverted dropout whose parts can be replaced one at a time."""

    def __init__(self, p: float) -> None:
        self.p = p
        self.training = True
        self.rng = np.random.default_rng(7)
        self.used = np.ones(())

    def keep_probability(self) -> float:
        return 1 - self.p

    def train_factor(self) -> float:
        return 1 / (1 - self.p)

    def eval_factor(self) -> float:
        return 1.0

    def draw(self, shape: tuple[int, ...]) -> np.ndarray:
        return (self.rng.random(shape) < self.keep_probability()).astype(np.float32)

    def forward(self, x: np.ndarray) -> np.ndarray:
        if self.training:
            self.used = self.draw(x.shape) * np.float32(self.train_factor())
        else:
            self.used = np.full(x.shape, np.float32(self.eval_factor()))
        return x * self.used

    def backward(self, dy: np.ndarray) -> np.ndarray:
        return dy * self.used


class Standard(Layer):
    def train_factor(self) -> float:
        return 1.0

    def eval_factor(self) -> float:
        return 1 - self.p


class Unscaled(Standard):
    def eval_factor(self) -> float:
        return 1.0


class OneOverP(Layer):
    def train_factor(self) -> float:
        return 1 / self.p


class Swapped(Layer):
    def keep_probability(self) -> float:
        return self.p


class Keep(Swapped):
    def train_factor(self) -> float:
        return 1 / self.p


class KeepStandard(Swapped):
    def train_factor(self) -> float:
        return 1.0

    def eval_factor(self) -> float:
        return self.p


class SquaredInTraining(Layer):
    def train_factor(self) -> float:
        return 1 / (1 - self.p) ** 2


class ScaledInEvaluationToo(Layer):
    def eval_factor(self) -> float:
        return 1 - self.p


class StandardSquared(Standard):
    def eval_factor(self) -> float:
        return (1 - self.p) ** 2


class Two(Layer):
    def train_factor(self) -> float:
        return 2.0


class OddEvaluation(Layer):
    def eval_factor(self) -> float:
        return 0.123


class OddStandard(Standard):
    def eval_factor(self) -> float:
        return 0.123


class OtherRate(Layer):
    def keep_probability(self) -> float:
        return 0.55


class IgnoresItsRate(Layer):
    def __init__(self, p: float) -> None:
        super().__init__(0.2)


class InvertedBelowOneHalf(Layer):
    def train_factor(self) -> float:
        return 1 / (1 - self.p) if self.p < 0.5 else 1.0

    def eval_factor(self) -> float:
        return 1.0 if self.p < 0.5 else 1 - self.p


class AlwaysActive(Layer):
    def forward(self, x: np.ndarray) -> np.ndarray:
        self.used = self.draw(x.shape) * np.float32(self.train_factor())
        return x * self.used


class OnlyInEvaluation(Layer):
    def forward(self, x: np.ndarray) -> np.ndarray:
        self.training = not self.training
        y = super().forward(x)
        self.training = not self.training
        return y


class Noise(Layer):
    def draw(self, shape: tuple[int, ...]) -> np.ndarray:
        return self.rng.normal(1, 0.3, shape).astype(np.float32)


class NoiseInPart(Layer):
    def draw(self, shape: tuple[int, ...]) -> np.ndarray:
        return super().draw(shape) * self.rng.uniform(1, 2, shape).astype(np.float32)


class Amplifier(Layer):
    def draw(self, shape: tuple[int, ...]) -> np.ndarray:
        return np.ones(shape, np.float32)


class AllZero(Layer):
    def draw(self, shape: tuple[int, ...]) -> np.ndarray:
        return np.zeros(shape, np.float32)


class Nothing(Amplifier):
    def train_factor(self) -> float:
        return 1.0


class FreshMaskInBackward(Layer):
    def backward(self, dy: np.ndarray) -> np.ndarray:
        return dy * self.draw(dy.shape) * np.float32(self.train_factor()) if self.training else dy


class UnmaskedAfterFlip(Layer):
    def backward(self, dy: np.ndarray) -> np.ndarray:
        return dy * self.used if self.training else dy


class OlderMask(Layer):
    def forward(self, x: np.ndarray) -> np.ndarray:
        return super().forward(x) if self.training else x


class BackwardRaises(Layer):
    def forward(self, x: np.ndarray) -> np.ndarray:
        y = super().forward(x)
        if not self.training:
            self.used = None  # type: ignore[assignment]
        return y


class UnscaledBackward(Layer):
    def backward(self, dy: np.ndarray) -> np.ndarray:
        return dy * (self.used > 0)


class RowsShare(Layer):
    def draw(self, shape: tuple[int, ...]) -> np.ndarray:
        return np.broadcast_to(super().draw(shape[1:]), shape)


class ColumnsShare(Layer):
    def draw(self, shape: tuple[int, ...]) -> np.ndarray:
        return np.broadcast_to(super().draw((shape[0], 1)), shape)


class SameMask(Layer):
    def draw(self, shape: tuple[int, ...]) -> np.ndarray:
        self.rng = np.random.default_rng(7)
        return super().draw(shape)


class Widening(Layer):
    def forward(self, x: np.ndarray) -> np.ndarray:
        return super().forward(x).astype(np.float64)


class InPlace(Layer):
    def forward(self, x: np.ndarray) -> np.ndarray:
        x *= super().forward(np.ones_like(x))
        return x


# The right ones.


@pytest.mark.parametrize(
    ("layer", "expected"),
    [
        (InvertedDropout, ("inverted", "drop", False, True)),
        (StandardDropout, ("standard", "drop", False, True)),
        (lambda p: InvertedDropout(p, seed=3), ("inverted", "drop", False, True)),
        (lambda p: KeyedDropout(p, seed=1, layer=2), ("inverted", "drop", False, True)),
        (KeyedDropout(0.3, seed=1, layer=2), ("inverted", "drop", False, True)),
        (InvertedDropout(0.2, seed=3), ("inverted", "drop", False, True)),
        (StandardDropout(0.7, seed=3), ("standard", "drop", False, True)),
        (Layer, ("inverted", "drop", False, True)),
        (Standard, ("standard", "drop", False, True)),
        (Keep, ("inverted", "keep", False, True)),
        (KeepStandard, ("standard", "keep", False, True)),
        (Keep(0.3), ("inverted", "keep", False, True)),
        (Nothing, ("no dropout", None, False, True)),
    ],
)
def test_right_layers(layer: Any, expected: tuple[object, ...]) -> None:
    assert summary(identify(layer)) == expected


@pytest.mark.parametrize("rate", [0.05, 0.1, 0.4, 0.49, 0.51, 0.6, 0.95])
@pytest.mark.parametrize(("make", "convention"), [(InvertedDropout, "inverted"), (StandardDropout, "standard")])
def test_an_object_is_probed_at_its_own_rate(make: Any, convention: str, rate: float) -> None:
    assert summary(identify(make(rate, seed=5))) == (convention, "drop", False, True)


def test_at_one_half_the_argument_cannot_be_told() -> None:
    identity = identify(InvertedDropout(0.5, seed=1))
    assert summary(identity) == ("inverted", None, False, True)
    assert "look alike" in str(identity)
    # The 1/p mistake is invisible there, and visible elsewhere.
    assert identify(OneOverP(0.5)).convention == "inverted"
    assert identify(OneOverP(0.3)).convention == "scaled by 1/p"


def test_an_object_is_left_as_it_was() -> None:
    layer = InvertedDropout(0.2, seed=3)
    x = np.ones((8, 8))
    layer(x)
    mask = layer.mask
    identify(layer)
    assert layer.training
    assert layer.mask is not None
    np.testing.assert_array_equal(layer.mask, mask)
    other = InvertedDropout(0.2, seed=3)
    other(x)
    np.testing.assert_array_equal(layer(x), other(x))


# The defects, each with its name.


@pytest.mark.parametrize(
    ("layer", "expected"),
    [
        (Unscaled, ("unscaled in both modes", "drop", False, True)),
        (OneOverP, ("scaled by 1/p", "drop", False, True)),
        (Swapped, ("keep and drop swapped", "keep", False, True)),
        (SquaredInTraining, ("scaled twice", "drop", False, True)),
        (ScaledInEvaluationToo, ("scaled twice", "drop", False, True)),
        (StandardSquared, ("scaled twice", "drop", False, True)),
        (Two, ("another scale", "drop", False, True)),
        (OddEvaluation, ("another scale", "drop", False, True)),
        (OddStandard, ("another scale", "drop", False, True)),
        (OtherRate, ("another rate", None, False, True)),
        (IgnoresItsRate, ("another rate", None, False, True)),
        (InvertedBelowOneHalf, ("another scale", "drop", False, True)),
        (AlwaysActive, ("inverted", "drop", True, True)),
        (OnlyInEvaluation, ("on in evaluation only", None, True, True)),
        (Noise, ("not dropout", None, False, True)),
        (NoiseInPart, ("not dropout", "drop", False, True)),
        (Amplifier, ("not dropout", None, False, True)),
        (AllZero, ("not dropout", None, False, True)),
        (FreshMaskInBackward, ("inverted", "drop", False, False)),
        (UnmaskedAfterFlip, ("inverted", "drop", False, False)),
        (OlderMask, ("inverted", "drop", False, False)),
        (BackwardRaises, ("inverted", "drop", False, False)),
    ],
)
def test_defects_are_named(layer: Any, expected: tuple[object, ...]) -> None:
    assert summary(identify(layer)) == expected


@pytest.mark.parametrize(
    ("layer", "sentence"),
    [
        (RowsShare, "All rows shared one mask."),
        (ColumnsShare, "All columns shared one mask."),
        (SameMask, "Two training calls in a row used the same mask."),
        (Widening, "float32 came back as float64."),
        (InPlace, "The input was written to."),
        (UnscaledBackward, "Backward multiplied by 1, its forward by 1.25."),
        (FreshMaskInBackward, "Backward used another mask than its forward."),
        (UnmaskedAfterFlip, "After a training forward and a change of mode, backward used another mask."),
        (BackwardRaises, "After an evaluation forward and a change of mode, backward raised TypeError."),
        (OlderMask, "After an evaluation forward and a change of mode, backward used another mask."),
    ],
)
def test_the_evidence_says_what_the_name_cannot(layer: Any, sentence: str) -> None:
    identity = identify(layer)
    assert sentence in identity.evidence
    assert identity.evidence.count(sentence) == 1
    assert sentence not in identify(Layer).evidence


@pytest.mark.parametrize("layer", [RowsShare, ColumnsShare, SameMask, Widening, InPlace])
def test_such_a_layer_is_still_recognised(layer: Any) -> None:
    assert summary(identify(layer))[:3] == ("inverted", "drop", False)


# Functions.


def inverted(x: np.ndarray, p: float, training: bool = True) -> np.ndarray:
    mask = np.random.default_rng(1).random(x.shape) >= p
    return x * mask * np.float32(1 / (1 - p)) if training else x


def without_mode(x: np.ndarray, rate: float = 0.5) -> np.ndarray:
    return inverted(x, rate)


def keep_named(x: np.ndarray, noise_shape: object = None, keep_prob: float = 1.0) -> np.ndarray:
    return inverted(x, 1 - keep_prob)


def unscaled(x: np.ndarray, p: float) -> np.ndarray:
    return (x * (np.random.default_rng(1).random(x.shape) >= p)).astype(np.float32)


def unusual(x: np.ndarray, seed: int = 3, loss: float = 0.5, learning: bool = True) -> np.ndarray:
    return inverted(x, loss, learning)


@pytest.mark.parametrize(
    ("function", "keywords", "expected"),
    [
        (inverted, {}, ("inverted", "drop", False, None)),
        (lambda x, p, is_training: inverted(x, p, is_training), {}, ("inverted", "drop", False, None)),
        (lambda x, fraction: inverted(x, fraction), {}, ("inverted", "drop", None, None)),
        (without_mode, {}, ("inverted", "drop", None, None)),
        (keep_named, {}, ("inverted", "keep", None, None)),
        (unscaled, {}, ("unscaled in training", "drop", None, None)),
        (
            functools.partial(inverted, training=True),
            {"training_argument": "training"},
            ("inverted", "drop", False, None),
        ),
        (
            unusual,
            {"rate_argument": "loss", "training_argument": "learning"},
            ("inverted", "drop", False, None),
        ),
        (lambda x, p: x, {}, ("no dropout", None, None, None)),
    ],
)
def test_functions(function: Any, keywords: dict[str, str], expected: tuple[object, ...]) -> None:
    assert summary(identify(function, **keywords)) == expected


# Objects that change mode in other ways.


class WithForwardArgument:
    def __init__(self, p: float) -> None:
        self.p = p

    def __call__(self, x: np.ndarray, train: bool = False) -> np.ndarray:
        return inverted(x, self.p, train)


class WithoutMode:
    def __init__(self, rate: float) -> None:
        self.amount = rate

    def forward(self, x: np.ndarray) -> np.ndarray:
        return inverted(x, self.amount)


def test_objects_that_change_mode_in_other_ways() -> None:
    assert summary(identify(WithForwardArgument)) == ("inverted", "drop", False, None)
    assert summary(identify(WithForwardArgument(0.3))) == ("inverted", "drop", False, None)
    assert summary(identify(WithoutMode)) == ("inverted", "drop", None, None)
    assert summary(identify(WithoutMode(0.3), rate=0.3)) == ("inverted", "drop", None, None)


# Frameworks.


def test_torch() -> None:
    torch = pytest.importorskip("torch")

    class Wrapped(torch.nn.Dropout):
        def forward(self, x: np.ndarray) -> np.ndarray:
            return super().forward(torch.as_tensor(x)).numpy()

    def function(x: np.ndarray, p: float, training: bool) -> Any:
        return torch.nn.functional.dropout(torch.as_tensor(x), p, training)

    for layer in (Wrapped, Wrapped(0.3), function):
        assert summary(identify(layer)) == ("inverted", "drop", False, None)
    with pytest.raises(TypeError, match=r"must be Tensor.*wrap the layer"):
        identify(torch.nn.Dropout)


@pytest.mark.filterwarnings("ignore")
def test_tensorflow_and_keras() -> None:
    tf = pytest.importorskip("tensorflow")

    # The functions take NumPy arrays and need no wrapping. The old one has keep_prob, and rate in its place.
    assert summary(identify(tf.nn.dropout)) == ("inverted", "drop", None, None)
    assert summary(identify(tf.compat.v1.nn.dropout)) == ("inverted", "keep", None, None)
    assert summary(identify(tf.compat.v1.nn.dropout, rate_argument="rate")) == ("inverted", "drop", None, None)

    def keras_dropout(x: np.ndarray, rate: float, training: bool) -> Any:
        return tf.keras.layers.Dropout(rate, seed=1)(x, training=training)

    assert summary(identify(keras_dropout)) == ("inverted", "drop", False, None)

    class Wrapped:
        def __init__(self, rate: float) -> None:
            self.layer = tf.keras.layers.Dropout(rate, seed=1)

        def __call__(self, x: np.ndarray, training: bool) -> Any:
            return self.layer(x, training=training)

    identity = identify(Wrapped)
    assert summary(identity) == ("inverted", "drop", False, None)
    assert "Two training calls in a row used the same mask." not in identity.evidence


def test_jax_stax() -> None:
    jax = pytest.importorskip("jax")
    stax = pytest.importorskip("jax.example_libraries.stax")

    def dropout(x: np.ndarray, rate: float, training: bool) -> Any:
        _, apply = stax.Dropout(rate, mode="train" if training else "test")
        return apply((), x, rng=jax.random.key(0))

    identity = identify(dropout)
    assert summary(identity) == ("inverted", "keep", False, None)
    # A reused key repeats its mask.
    assert "Two training calls in a row used the same mask." in identity.evidence


def test_onnx_reference_operator() -> None:
    onnx = pytest.importorskip("onnx")
    from onnx.reference import ReferenceEvaluator

    names = ["x", "ratio", "training"]
    types = [onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT, onnx.TensorProto.BOOL]
    shapes = [["rows", "columns"], [], []]
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("Dropout", names, ["y"])],
        "dropout",
        [onnx.helper.make_tensor_value_info(*info) for info in zip(names, types, shapes, strict=True)],
        [onnx.helper.make_tensor_value_info("y", types[0], shapes[0])],
    )
    evaluator = ReferenceEvaluator(onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 13)]))

    def dropout(x: np.ndarray, ratio: float, training: bool) -> Any:
        inputs = {"x": x, "ratio": np.float32(ratio), "training": np.array(training)}
        return evaluator.run(None, inputs)[0]

    assert summary(identify(dropout)) == ("inverted", "drop", False, None)


# The text, and what is refused.


def test_the_text_is_readable_and_the_same_on_each_run() -> None:
    first, second = str(identify(InvertedDropout)), str(identify(InvertedDropout))
    assert first == second
    assert first.splitlines()[:4] == [
        "convention            inverted",
        "argument              the probability of dropping",
        "active in evaluation  no",
        "backward reuses mask  yes",
    ]
    assert (
        "- Given 0.2: in training 0.2 (± 0.005) of the elements became 0, the others were multiplied by 1.25 = 1/(1-p) "
        "at p = 0.2." in first.splitlines()
    )
    assert "p = 0.8" in str(identify(Keep))
    assert "all elements became 0" in str(identify(AllZero))
    assert "about 0.4" in str(identify(OtherRate))


@pytest.mark.parametrize("layer", [Noise, NoiseInPart, AllZero])
def test_the_text_holds_no_nan(layer: Any) -> None:
    assert "nan" not in str(identify(layer))


def test_the_text_of_a_shared_mask_is_the_same_on_each_run_too() -> None:
    class Unseeded(RowsShare):
        def __init__(self, p: float) -> None:
            super().__init__(p)
            self.rng = np.random.default_rng()

    assert str(identify(Unseeded)) == str(identify(Unseeded))


def test_a_notebook_shows_the_text() -> None:
    class Printer:
        shown = ""

        def text(self, text: str) -> None:
            self.shown += text

    printer, identity = Printer(), identify(Layer)
    identity._repr_pretty_(printer, False)
    assert printer.shown == str(identity)


def test_an_identity_is_frozen() -> None:
    with pytest.raises(AttributeError):
        identify(Layer).convention = "standard"  # type: ignore[misc]


@pytest.mark.parametrize("p", [0.0, 0.01, 0.99, 1.0])
def test_rates_too_close_to_0_or_1_are_refused(p: float) -> None:
    with pytest.raises(ValueError, match=re.escape(repr(p))):
        identify(InvertedDropout(p))


class HasForwardNoRate:
    def forward(self, x: np.ndarray) -> np.ndarray:
        return x


class ForwardIsNoFunction:
    forward = 3
    p = 0.3


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        (lambda x: x, "no parameter"),
        (HasForwardNoRate(), r"identify\(layer, rate=0.2\)"),
        (ForwardIsNoFunction(), "expected an object with forward"),
        (print, "wrap"),
        (dict.fromkeys, "wrap"),
        (3, "wrap"),
        (lambda x, p: x[0], "shape"),
        (lambda x, p: (x, x), "shape"),
        (lambda x, p: x > 0, "bool"),
        (lambda x, p: None, "object"),
        (lambda x, p: 1 / 0, "ZeroDivisionError"),
    ],
)
def test_what_cannot_be_probed_is_refused_in_one_line(layer: Any, message: str) -> None:
    with pytest.raises(TypeError, match=message) as caught:
        identify(layer)
    assert "\n" not in str(caught.value)


def test_a_wrong_parameter_name_is_refused() -> None:
    with pytest.raises(TypeError, match="rate_argument"):
        identify(inverted, rate_argument="keep")


def test_the_checks_load_numpy_and_nothing_else() -> None:
    code = (
        "import sys, numpy.random; before = set(sys.modules); import dropoutlib.checks; "
        "new = {n.split('.')[0] for n in set(sys.modules) - before}; "
        "print(*sorted(new - set(sys.stdlib_module_names) - {'numpy', 'dropoutlib'}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""
    assert dropoutlib.__version__
