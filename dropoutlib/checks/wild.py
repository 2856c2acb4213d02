"""Defects of real projects, each rebuilt in a few lines of our own, before and after its repair.

The chapter "bugs-in-the-wild" tells their stories and links the threads. A layer is made by `make(p)`; p drops.
The defects that need PyTorch are in `wild_torch`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Factor = Callable[[float], float]
Weights = list[tuple[Array, Array]]


class Layer:
    """Inverted dropout in two modes. A defect overrides the part that was wrong.

    Parameters
    ----------
    p : float
        Probability of dropping.
    seed : int, optional
        Of the masks.
    """

    def __init__(self, p: float, seed: int | None = None) -> None:
        self.p = np.float64(p)  # so that 1/0 is inf, and no error: most originals are not Python
        self.seed = seed
        self.rng = np.random.default_rng(seed)
        self.training = self.last = True
        self.mask: Array = np.ones(0, bool)

    def train(self) -> Any:
        """Switch to training mode."""
        self.training = True
        return self

    def eval(self) -> Any:
        """Switch to evaluation mode."""
        self.training = False
        return self

    def draw(self, shape: tuple[int, ...]) -> Array:
        """Return a mask, True where an element is kept."""
        return np.asarray(self.rng.random(shape) >= self.p)

    def factor(self) -> float:
        """Return what kept elements are multiplied by in training."""
        return 1 / (1 - self.p) if self.p < 1 else 0.0

    def in_training(self, x: Array) -> Array:
        """Return the output in training."""
        self.mask = self.draw(x.shape)
        return np.asarray(x * self.mask * self.factor())

    def in_evaluation(self, x: Array) -> Array:
        """Return the output in evaluation."""
        return x.copy()

    def gradient(self, dy: Array) -> Array:
        """Return the gradient after a forward in training."""
        return np.asarray(dy * self.mask * self.factor())

    def evaluation_gradient(self, dy: Array) -> Array:
        """Return the gradient after a forward in evaluation."""
        return self.in_evaluation(dy)

    def forward(self, x: Array) -> Array:
        """Return the output in the present mode, in x's dtype."""
        self.last = self.training
        with np.errstate(all="ignore"):
            y = self.in_training(x) if self.training else self.in_evaluation(x)
        return np.asarray(y, x.dtype)

    def backward(self, dy: Array) -> Array:
        """Return the gradient with respect to the input of the last forward."""
        with np.errstate(all="ignore"):
            dx = self.gradient(dy) if self.last else self.evaluation_gradient(dy)
        return np.asarray(dx, dy.dtype)


class Make(Protocol):
    """Makes a layer of a rate."""

    def __call__(self, p: float, seed: int | None = None) -> Layer:
        """Return a layer that drops with probability p."""


# --- Wrong constants


class Scaled(Layer):
    """A dropout with one factor in training and one in evaluation."""

    def __init__(self, p: float, seed: int | None, training: Factor, evaluation: Factor) -> None:
        super().__init__(p, seed)
        self.factors = training, evaluation

    def factor(self) -> float:
        """Return the factor of training."""
        return self.factors[0](self.p)

    def in_evaluation(self, x: Array) -> Array:
        """Return x times the factor of evaluation."""
        return np.asarray(x * self.factors[1](self.p))


def scaled(training: Factor, evaluation: Factor) -> Make:
    """Return what makes a dropout with these factors, functions of p."""

    def make(p: float, seed: int | None = None) -> Layer:
        return Scaled(p, seed, training, evaluation)

    return make


WRONG_CONSTANTS = {  # in training, in evaluation
    "ConvNetJS": scaled(lambda p: 1, lambda p: p),
    "Kaldi": scaled(lambda p: 1 / p, lambda p: 1),
    "dlordinal": scaled(lambda p: p, lambda p: 1),
    "RETAIN": scaled(lambda p: 1, lambda p: 0.5),
    "RETAIN repaired": scaled(lambda p: 1, lambda p: 1 / (1 - p)),
    "RETAIN repaired again": scaled(lambda p: 1 / p, lambda p: 1),
}
STANDARD = scaled(lambda p: 1, lambda p: 1 - p)


class Apex(Layer):
    """The forward pass is right; backward has p in the place of 1/(1-p)."""

    def gradient(self, dy: Array) -> Array:
        """Return the gradient with the wrong factor."""
        return np.asarray(dy * self.mask * self.p)


# --- Wrong meaning


def ported(keep_prob: float) -> Layer:
    """Hand a number that keeps to a layer whose number drops."""
    return Layer(keep_prob)


def ported_after(keep_prob: float) -> Layer:
    """Translate the number on the way."""
    return Layer(1 - keep_prob)


def converted(weights: Weights, rates: Sequence[float]) -> Weights:
    """Copy a checkpoint of standard dropout: names, shapes and sizes are right."""
    return list(weights)


def converted_after(weights: Weights, rates: Sequence[float]) -> Weights:
    """Fold the factor of evaluation into the matrix behind each dropout."""
    pairs = zip(weights, rates, strict=True)
    return [(W * (1 - p), b) for (W, b), p in pairs]


# --- Wrong mode


class Network:
    """Layers in a row."""

    def __init__(self, *layers: Any) -> None:
        self.layers = layers

    def train(self) -> None:
        """Switch all layers to training mode."""
        for layer in self.layers:
            layer.train()

    def eval(self) -> None:
        """Switch all layers to evaluation mode."""
        for layer in self.layers:
            layer.eval()

    def forward(self, x: Array) -> Array:
        """Return the last layer's output."""
        for layer in self.layers:
            x = layer.forward(x)
        return x


def validated(network: Network, x: Array) -> Array:
    """Predict in evaluation mode, and leave the network there."""
    network.eval()
    return network.forward(x)


def validated_after(network: Network, x: Array) -> Array:
    """Predict in evaluation mode, and put each layer back into the mode it had."""
    modes = [layer.training for layer in network.layers]
    network.eval()
    try:
        return network.forward(x)
    finally:
        for layer, training in zip(network.layers, modes, strict=True):
            layer.training = training


# --- Wrong randomness


class Paddle(Layer):
    """No seed was asked for, and 0 is taken: a new generator for each call, always the same."""

    def draw(self, shape: tuple[int, ...]) -> Array:
        """Return the mask of the seed."""
        seed = self.seed if self.seed is not None else 0
        rng = np.random.default_rng(seed)
        return np.asarray(rng.random(shape) >= self.p)


class Checkpointed(Layer):
    """Nothing is stored for the backward pass: the forward is run again, and draws again."""

    def gradient(self, dy: Array) -> Array:
        """Return the gradient of a second forward."""
        self.mask = self.draw(dy.shape)
        return super().gradient(dy)


class CheckpointedAfter(Checkpointed):
    """The generator's state is stored, and the second forward starts from it."""

    def in_training(self, x: Array) -> Array:
        """Return the output, and remember where the generator stood."""
        self.state = self.rng.bit_generator.state
        return super().in_training(x)

    def gradient(self, dy: Array) -> Array:
        """Return the gradient of a second forward with the first one's mask."""
        stream = self.rng.bit_generator
        now, stream.state = stream.state, self.state
        dx = super().gradient(dy)
        stream.state = now
        return dx


# --- Wrong at the edges


class Flax(Layer):
    """At p = 1 the zeros are multiplied by 1/0."""

    def factor(self) -> float:
        """Return the factor without a thought for p = 1."""
        return 1 / (1 - self.p)


class FlaxRepaired(Layer):
    """At p = 1 there are zeros now, before anybody asks for the mode."""

    def in_evaluation(self, x: Array) -> Array:
        """Return zeros at p = 1, and x otherwise."""
        return np.zeros_like(x) if self.p == 1 else x.copy()


class Boltz(Layer):
    """In evaluation p is 0, and a mask is drawn all the same, from eight random bits."""

    def kept(self, shape: tuple[int, ...], p: float) -> Array:
        """Return a mask."""
        u = self.rng.integers(256, size=shape) / 256
        return np.asarray(u > p)

    def draw(self, shape: tuple[int, ...]) -> Array:
        """Return the mask of training."""
        return self.kept(shape, self.p)

    def in_evaluation(self, x: Array) -> Array:
        """Return the kept elements at p = 0."""
        self.mask = self.kept(x.shape, 0)
        return np.asarray(x * self.mask)

    def evaluation_gradient(self, dy: Array) -> Array:
        """Return the gradient of the kept elements."""
        return np.asarray(dy * self.mask)


class BoltzAfter(Boltz):
    """All the bits, and the comparison of a half-open interval: u may be 0 and is never 1."""

    def kept(self, shape: tuple[int, ...], p: float) -> Array:
        """Return a mask."""
        u = self.rng.random(shape)
        return np.asarray(u >= p)


# --- The tests that would have caught them. Each takes what is tested, and returns whether it passes.


def modes_agree(make: Make) -> bool:
    """Ask whether training and evaluation have the same mean, at p = .2 and .7."""
    x = np.ones(200_000)
    for p in (0.2, 0.7):
        layer = make(p)
        training = layer.train().forward(x).mean()
        evaluation = layer.eval().forward(x).mean()
        if abs(training / evaluation - 1) > 0.05:
            return False
    return True


def backward_is_forward(make: Make) -> bool:
    """Ask whether backward does to an array what its forward did: dropout is y = d * x, so dx = d * dy."""
    x, layer = np.linspace(1, 2, 1000), make(0.2)
    return np.array_equal(layer.forward(x), layer.backward(x))


def drops_a_tenth(port: Callable[[float], Layer]) -> bool:
    """Ask whether a layer that was said to keep .9 drops .1."""
    y = port(0.9).forward(np.ones(200_000))
    return abs(float(np.mean(y == 0)) - 0.1) < 0.01


def features_agree(convert: Callable[[Weights, Sequence[float]], Weights]) -> bool:
    """Ask whether a converted network, without dropout, has the features of the original in evaluation."""
    rng = np.random.default_rng(0)
    W, b, x = rng.standard_normal((3, 8)), rng.standard_normal(3), rng.standard_normal((5, 8))
    ((V, c),) = convert([(W, b)], [0.2])
    return np.allclose(0.8 * x @ W.T + b, x @ V.T + c)


def mode_comes_back(validate: Callable[[Network, Array], Array]) -> bool:
    """Ask whether a network that was in training is in training after a look at the validation data."""
    dropout = Layer(0.2)
    validate(Network(dropout), np.ones(3))
    return dropout.training


def masks_change(make: Make) -> bool:
    """Ask whether two calls in training have two masks."""
    x, layer = np.ones(1000), make(0.2)
    return not np.array_equal(layer.forward(x), layer.forward(x))


def edges_are_exact(make: Make) -> bool:
    """Ask whether p = 0 changes nothing, and p = 1 drops all in training and nothing more in evaluation."""
    x = np.ones(10_000)
    none, some, every = (make(p) for p in (0.0, 0.25, 1.0))
    outputs = none.forward(x), none.eval().forward(x)
    unchanged = all(np.array_equal(y, x) for y in outputs)
    dropped = not np.any(every.forward(x))
    # Standard dropout scales in evaluation, and gives 0 at p = 1.
    scales = np.array_equal(some.eval().forward(x), 0.75 * x)
    end = np.array_equal(every.eval().forward(x), x * (not scales))
    return unchanged and dropped and end


@dataclass(frozen=True)
class Defect:
    """A defect: what was wrong, what is right, and the test that tells them apart.

    Attributes
    ----------
    name : str
        The project, and the version where there are several.
    what : {"layer", "port", "conversion", "validation", "model", "export"}
        What `before` and `after` are.
    before, after : object
        The wrong and the right version.
    test : callable
        False for `before`, True for `after`.
    """

    name: str
    what: str
    before: Any
    after: Any
    test: Callable[[Any], bool]


DEFECTS = (
    *(
        Defect(name, "layer", make, STANDARD if name == "ConvNetJS" else Layer, modes_agree)
        for name, make in WRONG_CONSTANTS.items()
    ),
    Defect("Apex", "layer", Apex, Layer, backward_is_forward),
    Defect("DeepLab port", "port", ported, ported_after, drops_a_tenth),
    Defect("TensorLayerX", "conversion", converted, converted_after, features_agree),
    Defect("VSE++", "validation", validated, validated_after, mode_comes_back),
    Defect("Paddle", "layer", Paddle, Layer, masks_change),
    Defect("guided-diffusion", "layer", Checkpointed, CheckpointedAfter, backward_is_forward),
    Defect("Flax", "layer", Flax, Layer, edges_are_exact),
    Defect("Flax repaired", "layer", FlaxRepaired, Layer, edges_are_exact),
    Defect("Boltz", "layer", Boltz, BoltzAfter, edges_are_exact),
)
