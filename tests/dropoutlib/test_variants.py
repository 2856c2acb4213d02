"""Each variant's invariant, held against chance; the law it shares with the frameworks' layers; and planted wrong ones.

A law is a function of `draw`, which applies a training forward to an array. What it expects is computed here. The same
function judges dropoutlib's layer, the frameworks' layers, and layers with a wrong constant, which it must refuse.
Each single comparison raises a false alarm with a probability of at most 1e-11, as tests/statistics.py says.
"""

from __future__ import annotations

import copy
import itertools
import math
import pickle
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from scipy.stats import norm  # type: ignore[import-untyped]

from dropoutlib import variants
from dropoutlib.batchnorm import BatchNorm1d
from dropoutlib.gradients import check_gradient
from dropoutlib.layers import InvertedDropout
from dropoutlib.masks import bernoulli_mask
from dropoutlib.network import Linear, ReLU, Sequential
from dropoutlib.variants import (
    AlphaDropout,
    AttentionDropout,
    DropBlock,
    DropConnect,
    EarlyDropout,
    GaussianDropout,
    RecurrentDropout,
    SpatialDropout,
    StochasticDepth,
)
from tests.dropoutlib.contract import refused, same
from tests.dropoutlib.scripted import generator_of
from tests.statistics import RATE, Alarm

Array = np.ndarray[Any, Any]
Draw = Callable[[Array], Array]
Law = Callable[[Draw, float, Alarm], None]
RATES = (0.1, 0.3, 0.8)
# SELU's limit by its definition, scale * alpha * (exp(x) - 1) for x < 0, with the constants of PyTorch and Keras.
FLOOR = -1.0507009873554805 * 1.6732632423543772
FLOATS: tuple[Any, ...] = (np.float16, np.float32, np.float64)


def normal(shape: tuple[int, ...], dtype: Any = np.float64, seed: int = 1) -> Array:
    """Return normal values without a small one, so that ratios are sharp."""
    x = np.random.default_rng(seed).standard_normal(shape)
    return np.asarray(x + np.copysign(0.1, x)).astype(dtype)


def linear(inputs: int = 6, outputs: int = 4, dtype: Any = np.float64) -> Linear:
    return Linear(inputs, outputs, np.random.default_rng(5), dtype)


# Every variant, and a shape that it takes. DropConnect's output has another shape than its input.
MAKE: dict[str, Callable[..., Any]] = {
    "spatial": SpatialDropout,
    "spatial, last axis": lambda p, seed: SpatialDropout(p, seed, channel_axis=-1),
    "depth": StochasticDepth,
    "depth, batch": lambda p, seed: StochasticDepth(p, seed, per_example=False),
    "recurrent": RecurrentDropout,
    "block": lambda p, seed: DropBlock(p, seed, block_size=3),
    "gaussian": GaussianDropout,
    "gaussian, additive": lambda p, seed: GaussianDropout(p, seed, additive=True),
    "alpha": AlphaDropout,
    "alpha, channels": lambda p, seed: AlphaDropout(p, seed, channel_axis=1),
    "attention": AttentionDropout,
    "attention, renormalised": lambda p, seed: AttentionDropout(p, seed, renormalise=True),
    "early": lambda p, seed: EarlyDropout(p, seed, steps=3),
}
SHAPE = (8, 5, 6, 7)
every = pytest.mark.parametrize("name", MAKE)


def positive(name: str, shape: tuple[int, ...] = SHAPE, dtype: Any = np.float64) -> Array:
    """Return an input; for attention a row of weights."""
    x = normal(shape, dtype)
    if "attention" in name:
        x = np.exp(x)
        x /= x.sum(axis=-1, keepdims=True)
    return x.astype(dtype)


# --- the contract --------------------------------------------------------------------------------------------------


@every
def test_p_and_seed_are_checked(name: str) -> None:
    for wrong in (-0.1, 1.5, float("nan")):
        with refused(ValueError, str(wrong)):
            MAKE[name](wrong, 0)
    for wrong in (True, "0.5", None):
        with refused(TypeError, str(wrong)):
            MAKE[name](wrong, 0)
    with refused(TypeError, "seed"):
        MAKE[name](0.5, "x")


@every
@pytest.mark.parametrize("dtype", FLOATS)
def test_dtype_shape_and_memory(name: str, dtype: Any) -> None:
    for training in (True, False):
        layer = MAKE[name](0.3, 0)
        layer.training = training
        x, dy = positive(name, dtype=dtype), normal(SHAPE, dtype, 2)
        kept_x, kept_dy = x.copy(), dy.copy()
        y, dx = layer(x), layer.backward(dy)
        for array in (y, dx):
            assert type(array) is np.ndarray
            assert (array.dtype, array.shape) == (dtype, SHAPE)
        assert not any(np.shares_memory(a, b) for a, b in itertools.combinations((x, y, dy, dx), 2))
        same(x, kept_x, "the input was written to")
        same(dy, kept_dy, "the gradient was written to")
        assert np.all(np.isfinite(y))


@every
def test_other_dtypes_are_refused(name: str) -> None:
    for x in (np.ones(SHAPE, int), np.ones(SHAPE, complex), "text", None):
        for training in (True, False):
            layer = MAKE[name](0.3, 0)
            layer.training = training
            with refused(TypeError, "float"):
                layer(x)


@every
def test_evaluation_is_the_identity_and_draws_nothing(name: str) -> None:
    layer, straight = MAKE[name](0.3, 7), MAKE[name](0.3, 7)
    x = positive(name)
    for _ in range(2):
        same(layer.eval()(x), x, "evaluation")
        assert layer.mask is None
        same(layer.backward(x), x, "evaluation backward")
        same(layer.train()(x), straight(x), "evaluation moved the stream")


@every
def test_rate_0_changes_nothing(name: str) -> None:
    layer = MAKE[name](0.0, 0)
    x = positive(name)
    np.testing.assert_allclose(layer(x), x, rtol=1e-12)
    np.testing.assert_allclose(MAKE[name](0.0, 0)(x.astype(np.float32)), x.astype(np.float32), rtol=1e-6)


@every
def test_rate_1(name: str) -> None:
    if "gaussian" in name:
        with refused(ValueError, "below 1", "got 1"):
            MAKE[name](1.0, 0)
        return
    layer, x = MAKE[name](1.0, 0), positive(name)
    if name == "block":
        assert 0 < np.mean(layer(x) == 0) < 1, "p is nominal: overlapping blocks leave something"
        return
    same(layer(x), np.zeros(SHAPE), "p = 1")
    same(layer.backward(x), np.zeros(SHAPE), "p = 1, backward")


@every
def test_backward_belongs_to_the_last_forward(name: str) -> None:
    layer, x, dy = MAKE[name](0.3, 0), positive(name), normal(SHAPE, seed=2)
    with refused(RuntimeError, "call forward"):
        layer.backward(dy)
    layer(x)
    with refused(ValueError, str(SHAPE), "(2,)"):
        layer.backward(np.ones(2))
    first = layer.backward(dy)
    same(layer.eval().backward(dy), first, "a flip of the mode changed backward")
    same(layer.backward(dy), first, "a second backward differs")


@every
@pytest.mark.parametrize("training", [True, False])
def test_gradients(name: str, training: bool) -> None:
    layer = MAKE[name](0.3, 4)
    layer.training = training
    if name == "recurrent":
        layer(normal((2, 3, 4, 4)))
    x = positive(name, (2, 3, 4, 4))
    assert check_gradient(layer, x, normal(x.shape, seed=3)) < 1e-6


@every
def test_streams(name: str) -> None:
    """The same seed draws the same; reset rewinds; copies and pickles go on where the layer stood."""
    one, other, x = MAKE[name](0.3, 3), MAKE[name](0.3, 3), positive(name)
    first, second = one(x), one(x)
    if name != "recurrent":
        assert not np.array_equal(first, second)
    same(other(x), first, "the same seed")
    for twin in (copy.deepcopy(other), pickle.loads(pickle.dumps(other))):
        same(twin(x), second, "a copy")
    one.reset()
    same(one(x), first, "reset")
    mask = one.mask
    assert mask.dtype == np.bool_
    assert not mask.flags.writeable


def test_numbers_and_small_arrays() -> None:
    for make in (AlphaDropout, GaussianDropout, RecurrentDropout):
        for form in (3.0, [1.0, 2.0], np.ones((0, 3))):
            y = make(0.3, 0)(form)
            assert type(y) is np.ndarray
            assert y.shape == np.shape(form)
    for empty in ((0, 5, 4, 4), (2, 0, 4, 4)):
        for name in ("spatial", "block", "depth"):
            assert MAKE[name](0.3, 0)(np.ones(empty)).shape == empty


def test_shapes_that_do_not_fit() -> None:
    wrong: list[tuple[Any, Any, str]] = [
        (SpatialDropout(), (4, 5), "(4, 5)"),
        (SpatialDropout(channel_axis=0), (4, 5, 6), "axis 0"),
        (SpatialDropout(channel_axis=-3), (4, 5, 6), "axis -3"),
        (SpatialDropout(channel_axis=3), (4, 5, 6), "axis 3"),
        (AlphaDropout(channel_axis=1), (4, 5), "(4, 5)"),
        (StochasticDepth(), (), "first axis"),
        (AttentionDropout(), (), "last axis"),
        (DropBlock(block_size=5), (2, 3, 4, 9), "block_size=5"),
        (DropBlock(block_size=5), (9,), "(9,)"),
        (DropConnect(linear()), (3, 5), "(n, 6)"),
        (DropConnect(linear()), (6,), "(n, 6)"),
    ]
    for layer, shape, words in wrong:
        for training in (True, False):
            layer.training = training
            with refused(ValueError, words):
                layer(np.ones(shape))
    with refused(ValueError, "block_size=5"):
        DropBlock(block_size=5).keep_probability(4, 9)
    with refused(ValueError, "block_size"):
        DropBlock(block_size=0)
    with pytest.raises(TypeError):
        SpatialDropout(channel_axis="last")  # type: ignore[arg-type]


def test_scale_that_overflows() -> None:
    """It is refused before anything is drawn."""
    for make in (SpatialDropout, AttentionDropout):
        draws = np.random.Generator(np.random.SFC64(0))
        with refused(ValueError, "float16"):
            make(1 - 1e-6, draws)(np.ones((2, 3, 4), np.float16))
        assert draws.random() == np.random.Generator(np.random.SFC64(0)).random()
    with refused(ValueError, "float16"):
        DropConnect(linear(dtype=np.float16), 1 - 1e-6)(np.ones((2, 6), np.float16))


# --- laws ----------------------------------------------------------------------------------------------------------


def factors_of(x: Array, y: Array) -> Array:
    """Return y / x in double precision."""
    return y.astype(np.float64) / x.astype(np.float64)


def moments(a: Array, p: float, alarm: Alarm, what: str) -> None:
    """Independent factors that are 0 or 1/q have mean 1 and variance p/q: 2 comparisons, and no look at the values."""
    q = 1 - p
    variance = p / q
    alarm.total(a.sum(), a.size, a.size * variance, max(1, variance), f"{what}: mean of the factors")
    # (a - 1)^2 is 1 with probability p and (p/q)^2 otherwise.
    spread = p + q * variance**4 - variance**2
    alarm.total(((a - 1) ** 2).sum(), a.size * variance, a.size * spread, max(1, variance**2), f"{what}: variance")


def shared(shape: tuple[int, ...], axes: tuple[int, ...], dtype: Any = np.float64) -> Law:
    """Inverted masks with one draw along `axes`, independent otherwise: 2 comparisons and 1 for each other axis."""

    def law(draw: Draw, p: float, alarm: Alarm) -> None:
        x = normal(shape, dtype)
        a = factors_of(x, draw(x))
        units = a.take([0], axes[0]) if axes else a
        for axis in axes[1:]:
            units = units.take([0], axis)
        np.testing.assert_allclose(a, np.broadcast_to(units, a.shape), rtol=1e-5, err_msg="one draw serves them")
        moments(units.ravel(), p, alarm, "shared mask")
        for axis in set(range(len(shape))) - set(axes):
            pairs = units.shape[axis] // 2
            both = (units.take(range(pairs), axis) > 0) & (units.take(range(pairs, 2 * pairs), axis) > 0)
            alarm.binomial(np.count_nonzero(both), both.size, (1 - p) ** 2, f"pairs along axis {axis}")

    return law


def gaussian_law(additive: bool) -> Law:
    """Quantiles of N(1, p/q), or N(0, p/q) for what is added: 5 comparisons."""

    def law(draw: Draw, p: float, alarm: Alarm) -> None:
        x = np.full((200, 100), 2.5, np.float32)
        y = draw(x).astype(np.float64)
        noise = (y - x) if additive else y / x - 1
        deviation = math.sqrt(p / (1 - p))
        for z in (-2.0, -0.7, 0.0, 0.7, 2.0):
            count = np.count_nonzero(noise < z * deviation)
            alarm.binomial(count, noise.size, norm.cdf(z), f"noise below {z} standard deviations")

    return law


# Populations of mean 0 and variance 1: values and their shares.
POPULATIONS = {"two-sided": ((-1.0, 1.0), (0.5, 0.5)), "skew": ((-0.5, 2.0), (0.8, 0.2))}


def alpha_law(population: str) -> Law:
    """The population keeps mean 0 and variance 1: 2 comparisons, and no look at a and b."""

    def law(draw: Draw, p: float, alarm: Alarm) -> None:
        values, shares = POPULATIONS[population]
        size, q = 40_000, 1 - p
        x = np.repeat(values, [round(size * share) for share in shares])
        y = draw(x).astype(np.float64)
        # Second and fourth moments of what a right layer returns, over the population and the masks.
        a = 1 / math.sqrt(q + p * q * FLOOR**2)
        kept, floor = a * (x - p * FLOOR), a * FLOOR * q
        fourth = (q * kept**4 + p * floor**4).sum()
        most = max(abs(kept).max(), abs(floor))
        alarm.total(y.sum(), 0, size, 2 * most, f"mean of the {population} population")
        alarm.total((y**2).sum(), size, fourth, most**2, f"variance of the {population} population")

    return law


def alpha_values(channels: bool, dtype: Any = np.float64) -> Law:
    """Each value is a x + b or a f + b, and the first has probability q: 1 comparison."""

    def law(draw: Draw, p: float, alarm: Alarm) -> None:
        x = normal((60, 40, 3), dtype)
        y = draw(x).astype(np.float64)
        a = (1 - p + p * (1 - p) * FLOOR**2) ** -0.5
        b = -a * p * FLOOR
        dropped = np.isclose(y, a * FLOOR + b, rtol=1e-5)
        np.testing.assert_allclose(y[~dropped], (a * x.astype(np.float64) + b)[~dropped], rtol=1e-4, atol=1e-5)
        units = dropped[..., 0] if channels else dropped
        assert not channels or np.array_equal(dropped, np.broadcast_to(units[..., None], dropped.shape))
        alarm.binomial(np.count_nonzero(units), units.size, p, "dropped")

    return law


def covering(size: int, b: int) -> Array:
    """Return how many of the blocks that fit into a row cover each element, by counting."""
    return np.array([sum(start <= i < start + b for start in range(size - b + 1)) for i in range(size)])


def block_law(draw: Draw, p: float, alarm: Alarm) -> None:
    """Factors have mean 1 in the pass, and four elements the exact chance to be kept: 4 comparisons."""
    b, height, width = 3, 8, 6
    x = np.ones((100, 100, height, width))
    a = draw(x).astype(np.float64)
    assert a.mean() == pytest.approx(1, abs=1e-6), "the factors of a pass do not have mean 1"
    gamma = p * height * width / (b * b * (height - b + 1) * (width - b + 1))
    chance = (1 - gamma) ** np.outer(covering(height, b), covering(width, b))
    for i, j in ((0, 0), (0, 2), (3, 3), (6, 1)):
        alarm.binomial(np.count_nonzero(a[..., i, j]), 10_000, chance[i, j], f"kept at {i}, {j}")


def block_in_torch(p: float, draws: Any) -> Draw:
    """Return DropBlock as the paper and torchvision make it: blocks by a maximum filter, in PyTorch."""
    torch = pytest.importorskip("torch")

    def draw(x: Array) -> Array:
        height, width = x.shape[-2:]
        gamma = p * height * width / (9 * (height - 2) * (width - 2))
        begun = torch.from_numpy(draws((*x.shape[:-2], height - 2, width - 2)) < gamma).double()
        dropped = torch.nn.functional.max_pool2d(torch.nn.functional.pad(begun, [2] * 4), 3, stride=1)
        kept = 1 - dropped.numpy()
        return np.asarray(x * kept * kept.size / kept.sum())

    return draw


def connect_law(draw: Draw, p: float, alarm: Alarm) -> None:
    """Mean, variances and covariance of two outputs, with draws for each example: 4 comparisons.

    `draw` gets rows and returns (rows, 2) outputs of the layer with CONNECT's weight and bias.
    """
    weight, bias, row = CONNECT
    size, terms = 20_000, weight * row
    y = draw(np.tile(row, (size, 1))) - bias - terms.sum(axis=1)
    variance = p / (1 - p) * (terms**2).sum(axis=1)
    most = max(1, p / (1 - p)) * np.abs(terms).sum(axis=1)
    for o in (0, 1):
        alarm.total(y[:, o].sum(), 0, size * variance[o], most[o], f"mean of output {o}")
    alarm.total((y[:, 0] ** 2).sum(), size * variance[0], size * most[0] ** 2 * variance[0], most[0] ** 2, "variance")
    alarm.total((y[:, 0] * y[:, 1]).sum(), 0, size * variance.prod(), most.prod(), "covariance of two outputs")


CONNECT = (np.array([[1.0, -2.0, 0.5], [1.0, 1.5, -1.0]]), np.array([0.3, -0.2]), np.array([1.0, 0.8, -1.2]))


def connect(layer_class: Any = DropConnect) -> Callable[[float, int], Any]:
    def make(p: float, seed: int) -> Any:
        inner = linear(3, 2)
        inner.weight.value[...], inner.bias.value[...] = CONNECT[0], CONNECT[1]
        return layer_class(inner, p, seed)

    return make


def row_law(draw: Draw, p: float, alarm: Alarm) -> None:
    """Renormalised attention: sums of 1, or nothing left with probability p^3, and the exact mean: 2 comparisons."""
    row = np.array([0.6, 0.3, 0.1])
    y = draw(np.tile(row, (20_000, 1)))
    sums = y.sum(axis=1)
    assert np.all(np.isclose(sums, 1) | (sums == 0)), "rows do not sum to 1"
    alarm.binomial(np.count_nonzero(sums == 0), sums.size, p**3, "rows with nothing left")
    mean = square = 0.0
    for mask in itertools.product((0, 1), repeat=3):
        left = row @ mask
        share, chance = (row[0] * mask[0] / left if left else 0.0), math.prod(1 - p if m else p for m in mask)
        mean, square = mean + chance * share, square + chance * share**2
    alarm.total(y[:, 0].sum(), 20_000 * mean, 20_000 * (square - mean**2), 1, "mean of the first weight")


def sum_law(draw: Draw, p: float, alarm: Alarm) -> None:
    """Attention without renormalising: the row sums have mean 1 and variance p/q sum a^2: 2 comparisons."""
    row = np.array([0.6, 0.3, 0.1])
    sums = draw(np.tile(row, (20_000, 1))).sum(axis=1) - 1
    variance, most = p / (1 - p) * (row**2).sum(), max(1, p / (1 - p))
    alarm.total(sums.sum(), 0, 20_000 * variance, most, "mean of the row sums")
    alarm.total((sums**2).sum(), 20_000 * variance, 20_000 * most**2 * variance, most**2, "variance of the row sums")


# name: law, its comparisons, how the layer is made
LAWS: dict[str, tuple[Law, int, Callable[[float, int], Any]]] = {
    "spatial": (shared((400, 100, 3, 2), (2, 3)), 4, SpatialDropout),
    "spatial, last axis": (shared((400, 3, 2, 100), (1, 2)), 4, MAKE["spatial, last axis"]),
    "depth": (shared((40_000, 3, 2), (1, 2)), 3, StochasticDepth),
    "recurrent": (shared((400, 100), ()), 4, RecurrentDropout),
    "attention": (shared((200, 200), ()), 4, AttentionDropout),
    "attention, sums": (sum_law, 2, AttentionDropout),
    "attention, renormalised": (row_law, 2, MAKE["attention, renormalised"]),
    "early, at the first step": (shared((400, 100), ()), 4, lambda p, seed: EarlyDropout(p, seed, steps=2)),
    "block": (block_law, 4, MAKE["block"]),
    "gaussian": (gaussian_law(False), 5, GaussianDropout),
    "gaussian, additive": (gaussian_law(True), 5, MAKE["gaussian, additive"]),
    "alpha, two-sided": (alpha_law("two-sided"), 2, AlphaDropout),
    "alpha, skew": (alpha_law("skew"), 2, AlphaDropout),
    "alpha, values": (alpha_values(False), 1, AlphaDropout),
    "alpha, channels": (alpha_values(True), 1, MAKE["alpha, channels"]),
    "connect": (connect_law, 4, connect()),
}


def counted(comparisons: dict[str, int]) -> list[Any]:
    """Return a parameter for each name, with the mark that declares its comparisons."""
    return [pytest.param(name, marks=pytest.mark.statistical(comparisons=n)) for name, n in comparisons.items()]


@pytest.mark.claim("variants-keep-their-invariants")
@pytest.mark.parametrize("p", RATES)
@pytest.mark.parametrize("name", counted({name: n for name, (_, n, _) in LAWS.items()}))
def test_the_invariant(name: str, p: float, seed: int, alarm: Alarm) -> None:
    law, comparisons, make = LAWS[name]
    law(make(p, seed), p, alarm)
    assert alarm.used == comparisons


@pytest.mark.statistical(comparisons=2 * len(RATES))
def test_one_draw_for_the_whole_batch(seed: int, alarm: Alarm) -> None:
    """Stochastic depth and DropConnect with one mask for all examples."""
    for p in RATES:
        depth = MAKE["depth, batch"](p, seed)
        kept = 0
        for _ in range(1000):
            y = depth(np.ones((2, 3)))
            assert y.min() == y.max()
            kept += bool(y[0, 0])
        alarm.binomial(kept, 1000, 1 - p, "branches kept")
        layer = DropConnect(linear(40, 50), p, seed, per_example=False)
        y = layer(np.repeat(normal((1, 40)), 3, axis=0))
        np.testing.assert_array_equal(y, y[:1].repeat(3, axis=0))
        assert layer.mask is not None
        assert layer.mask.shape == (1, 50, 40)
        alarm.binomial(np.count_nonzero(layer.mask), 2000, 1 - p, "weights kept")


# --- wrong constants -----------------------------------------------------------------------------------------------


def scaled(base: Any, factor: Callable[[float], float], **options: Any) -> Callable[[float, int], Any]:
    """Return a layer whose scale 1/q is multiplied by a wrong factor."""

    class Wrong(base):  # type: ignore[misc]
        def _factor(self, dtype: Any, training: bool) -> Any:
            right = super()._factor(dtype, training)
            return right if right is None else right * factor(self.p)

    return lambda p, seed: Wrong(p, seed, **options)


def at_rate(base: Any, other: Callable[[float], float], **options: Any) -> Callable[[float, int], Any]:
    """Return a layer that scales for p and draws at another rate."""

    class Wrong(base):  # type: ignore[misc]
        def _draw(self, shape: Any) -> Any:
            return bernoulli_mask(self._mask_shape(shape), other(self.p), self._bit_generator)

    return lambda p, seed: Wrong(p, seed, **options)


def swapped(p: float) -> float:
    return (1 - p) / p  # 1/p in place of 1/q


def slightly(p: float) -> float:
    return 1.05


def draws_more(p: float) -> float:
    return min(1.0, 1.1 * p + 0.01)


class NoisyByP(GaussianDropout):
    """The variance is p."""

    def _draw(self, shape: Any) -> Any:
        mask = super()._draw(shape)
        self.noise = (not self.additive) + (self.noise - (not self.additive)) * math.sqrt(1 - self.p)
        return mask


class NoisyByQ(GaussianDropout):
    """The standard deviation is p/q, not its root."""

    def _draw(self, shape: Any) -> Any:
        mask = super()._draw(shape)
        self.noise = (not self.additive) + (self.noise - (not self.additive)) * math.sqrt(self.p / (1 - self.p))
        return mask


class CentredAtNothing(GaussianDropout):
    """The mean is 0.95, or -0.05 for what is added."""

    def _draw(self, shape: Any) -> Any:
        mask = super()._draw(shape)
        self.noise = self.noise - 0.05
        return mask


def alpha_with(change: Callable[[float, float, float], tuple[float, float]]) -> Callable[[float, int], Any]:
    class Wrong(AlphaDropout):
        def constants(self) -> tuple[float, float]:
            return change(*super().constants(), self.p)

    return Wrong


class BlockByQ(DropBlock):
    """Normalised by the nominal rate."""

    def _scaled(self, x: Any, mask: Any) -> Any:
        return x * mask / (1 - self.p)


class BlockWithoutBorder(DropBlock):
    """Gamma as if a block could begin anywhere."""

    def gamma(self, height: int, width: int) -> float:
        return self.p / self.block_size**2


class BlockBySide(DropBlock):
    """Gamma divided by the side of a block, not by its area."""

    def gamma(self, height: int, width: int) -> float:
        return min(1.0, self.block_size * super().gamma(height, width))


class ConnectUnscaled(DropConnect):
    def forward(self, x: Any) -> Any:
        y = super().forward(x)
        return (y - self.linear.bias.value) * (1 - self.p) + self.linear.bias.value

    __call__ = forward


class ConnectBiasToo(DropConnect):
    """The bias is divided by q as well."""

    def forward(self, x: Any) -> Any:
        return super().forward(x) + self.linear.bias.value * self.p / (1 - self.p)

    __call__ = forward


class ConnectOneRow(DropConnect):
    """Dropout of the inputs: all outputs of an example share a mask."""

    def forward(self, x: Any) -> Any:
        return self.linear.forward(InvertedDropout(self.p, np.random.Generator(self._bit_generator))(x))

    __call__ = forward


class RowsBySomethingElse(AttentionDropout):
    """Renormalised by the mean sum q, not by the row's own."""

    def _output(self, x: Any, mask: Any) -> Any:
        return x * mask / (1 - self.p)


class SoftlyRenormalised(AttentionDropout):
    """The largest weight of a row is never dropped."""

    def _draw(self, shape: Any) -> Any:
        mask = super()._draw(shape)
        mask[..., 0] = True
        return mask


BROKEN: dict[str, tuple[str, Callable[[float, int], Any]]] = {
    "spatial, 1/p": ("spatial", scaled(SpatialDropout, swapped)),
    "spatial, no scale": ("spatial", scaled(SpatialDropout, lambda p: 1 - p)),
    "spatial, 5 % too large": ("spatial", scaled(SpatialDropout, slightly)),
    "spatial, drops more": ("spatial", at_rate(SpatialDropout, draws_more)),
    "spatial, wrong axis": ("spatial", MAKE["spatial, last axis"]),
    "spatial, one channel mask for all examples": ("depth", SpatialDropout),
    "depth, 1/p": ("depth", scaled(StochasticDepth, swapped)),
    "depth, 5 % too large": ("depth", scaled(StochasticDepth, slightly)),
    "depth, drops more": ("depth", at_rate(StochasticDepth, draws_more)),
    "depth, for the batch": ("depth", MAKE["depth, batch"]),
    "recurrent, twice": ("recurrent", scaled(RecurrentDropout, lambda p: 1 / (1 - p))),
    "recurrent, 5 % too large": ("recurrent", scaled(RecurrentDropout, slightly)),
    "attention, 1/p": ("attention", scaled(AttentionDropout, swapped)),
    "attention, no scale": ("attention, sums", scaled(AttentionDropout, lambda p: 1 - p)),
    "attention, 5 % too large": ("attention, sums", scaled(AttentionDropout, slightly)),
    "attention, drops more": ("attention, sums", at_rate(AttentionDropout, draws_more)),
    "attention, renormalised by q": ("attention, renormalised", RowsBySomethingElse),
    "attention, renormalised, keeps the largest": (
        "attention, renormalised",
        lambda p, seed: SoftlyRenormalised(p, seed, renormalise=True),
    ),
    "attention, renormalised, drops more": (
        "attention, renormalised",
        at_rate(AttentionDropout, draws_more, renormalise=True),
    ),
    "early, 5 % too large": ("early, at the first step", scaled(EarlyDropout, slightly, steps=2)),
    "early, one step late": (
        "early, at the first step",
        lambda p, seed: EarlyDropout(p, seed, steps=2, decay="linear").at(1),
    ),
    "block, scale 1/q": ("block", lambda p, seed: BlockByQ(p, seed, 3)),
    "block, gamma without the border": ("block", lambda p, seed: BlockWithoutBorder(p, seed, 3)),
    "block, gamma by the side": ("block", lambda p, seed: BlockBySide(p, seed, 3)),
    "block, larger block": ("block", lambda p, seed: DropBlock(p, seed, 5)),
    "gaussian, variance p": ("gaussian", NoisyByP),
    "gaussian, deviation p/q": ("gaussian", NoisyByQ),
    "gaussian, mean .95": ("gaussian", CentredAtNothing),
    "gaussian, additive, variance p": ("gaussian, additive", lambda p, seed: NoisyByP(p, seed, additive=True)),
    "alpha, a = 1": ("alpha, two-sided", alpha_with(lambda a, b, p: (1.0, b / a))),
    "alpha, a = 1/q": ("alpha, two-sided", alpha_with(lambda a, b, p: (1 / (1 - p), b / a / (1 - p)))),
    "alpha, no shift": ("alpha, two-sided", alpha_with(lambda a, b, p: (a, 0.0))),
    "alpha, shift 5 % too large": ("alpha, two-sided", alpha_with(lambda a, b, p: (a, 1.05 * b + 0.02))),
    "alpha, a 5 % too large": ("alpha, skew", alpha_with(lambda a, b, p: (1.05 * a, 1.05 * b))),
    "alpha, dropout instead": ("alpha, skew", InvertedDropout),
    "connect, no scale": ("connect", connect(ConnectUnscaled)),
    "connect, bias scaled": ("connect", connect(ConnectBiasToo)),
    "connect, dropout instead": ("connect", connect(ConnectOneRow)),
}


SMALL = [name for name in BROKEN if any(word in name for word in ("5 %", "more", "mean .95"))]


@pytest.mark.claim("variants-keep-their-invariants")
@pytest.mark.parametrize("name", BROKEN)
def test_a_wrong_constant_is_caught(name: str) -> None:
    """At p = .3, and gross errors at .8 too, where there is more noise; never at .5, where 1/p is right."""
    law_name, make = BROKEN[name]
    law, comparisons, _ = LAWS[law_name]
    for p in (0.3,) if name in SMALL else (0.3, 0.8):
        with pytest.raises(AssertionError):
            law(make(p, 0), p, Alarm(comparisons))


@pytest.mark.parametrize("name", SMALL)
def test_it_is_chance_that_catches_a_small_error(name: str) -> None:
    """Small errors of a constant are caught by a comparison with chance, not by a look at the values."""
    law_name, make = BROKEN[name]
    law, comparisons, _ = LAWS[law_name]
    with pytest.raises(AssertionError, match=f"below {RATE:.0e}"):
        law(make(0.3, 1), 0.3, Alarm(comparisons))


def test_every_law_has_a_planted_error() -> None:
    caught = {law for law, _ in BROKEN.values()}
    assert {name.partition(",")[0] for name in caught} == {name.partition(",")[0] for name in LAWS}


# --- the frameworks' layers ----------------------------------------------------------------------------------------


def of_torch(make: Callable[[Any, float], Any]) -> Callable[[float, int], Draw]:
    """Return the draws of a PyTorch module in training mode."""

    def adapter(p: float, seed: int) -> Draw:
        torch = pytest.importorskip("torch")
        module = make(torch.nn, p)

        def draw(x: Array) -> Array:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(seed)
                y: Array = module(torch.from_numpy(x)).detach().numpy()
                return y

        return draw

    return adapter


def attention_weights(nn: Any, p: float) -> Any:
    """Return a function of attention weights that applies PyTorch's attention with the identity as values."""
    torch = pytest.importorskip("torch")

    def attend(weights: Any) -> Any:
        keys = torch.eye(weights.shape[1], dtype=weights.dtype)
        scores = weights.log()
        return nn.functional.scaled_dot_product_attention(scores[None], keys[None], keys[None], dropout_p=p, scale=1.0)[
            0
        ]

    return attend


def of_keras(make: Callable[[Any, float, int], Any]) -> Callable[[float, int], Draw]:
    """Return the draws of a Keras layer in training mode."""

    def adapter(p: float, seed: int) -> Draw:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what a framework says of itself at import
            keras = pytest.importorskip("keras")
        layer = make(keras, p, seed)

        def draw(x: Array) -> Array:
            return np.asarray(keras.ops.convert_to_numpy(layer(x, training=True)))

        return draw

    return adapter


def first_step_of_keras(keras: Any, p: float, seed: int) -> Any:
    """Return a function of states that applies the recurrent dropout of Keras' SimpleRNN for one step."""

    def step(h: Array, training: bool) -> Any:
        units = h.shape[1]
        rnn = keras.layers.SimpleRNN(units, activation=None, use_bias=False, recurrent_dropout=p, seed=seed)
        rnn.build((len(h), 1, 1))
        rnn.set_weights([np.zeros((1, units), np.float32), np.eye(units, dtype=np.float32)])
        return rnn(np.zeros((len(h), 1, 1), np.float32), initial_state=h, training=training)

    return step


F32 = np.float32
# name: law, its comparisons, how the layer is made
THEIRS: dict[str, tuple[Law, int, Callable[[float, int], Draw]]] = {
    "torch Dropout1d": (shared((200, 50, 3), (2,)), 4, of_torch(lambda nn, p: nn.Dropout1d(p))),
    "torch Dropout2d": (shared((200, 50, 3, 2), (2, 3)), 4, of_torch(lambda nn, p: nn.Dropout2d(p))),
    "torch Dropout3d": (shared((200, 50, 3, 2, 2), (2, 3, 4)), 4, of_torch(lambda nn, p: nn.Dropout3d(p))),
    "torch AlphaDropout": (alpha_values(False), 1, of_torch(lambda nn, p: nn.AlphaDropout(p))),
    "torch AlphaDropout, two-sided": (alpha_law("two-sided"), 2, of_torch(lambda nn, p: nn.AlphaDropout(p))),
    "torch FeatureAlphaDropout": (alpha_values(True), 1, of_torch(lambda nn, p: nn.FeatureAlphaDropout(p))),
    "torch scaled_dot_product_attention": (sum_law, 2, of_torch(attention_weights)),
    "keras SpatialDropout1D": (
        shared((200, 3, 50), (1,), F32),
        4,
        of_keras(lambda keras, p, seed: keras.layers.SpatialDropout1D(p, seed=seed)),
    ),
    "keras SpatialDropout2D": (
        shared((200, 3, 2, 50), (1, 2), F32),
        4,
        of_keras(lambda keras, p, seed: keras.layers.SpatialDropout2D(p, data_format="channels_last", seed=seed)),
    ),
    "keras SpatialDropout3D": (
        shared((200, 3, 2, 2, 50), (1, 2, 3), F32),
        4,
        of_keras(lambda keras, p, seed: keras.layers.SpatialDropout3D(p, data_format="channels_last", seed=seed)),
    ),
    "keras GaussianDropout": (
        gaussian_law(False),
        5,
        of_keras(lambda keras, p, seed: keras.layers.GaussianDropout(p, seed=seed)),
    ),
    "keras GaussianNoise": (
        gaussian_law(True),
        5,
        # Its stddev is at most 1, so at p = .8 the noise is scaled up to N(0, p/q) here.
        of_keras(lambda keras, p, seed: wide_noise(keras, math.sqrt(p / (1 - p)), seed)),
    ),
    "keras AlphaDropout": (
        alpha_values(False, F32),
        1,
        of_keras(lambda keras, p, seed: keras.layers.AlphaDropout(p, seed=seed)),
    ),
    "keras SimpleRNN": (shared((200, 50), (), F32), 4, of_keras(first_step_of_keras)),
    "the paper's DropBlock, in torch": (
        block_law,
        4,
        lambda p, seed: block_in_torch(p, np.random.default_rng([seed, 9]).random),
    ),
}


def wide_noise(keras: Any, deviation: float, seed: int) -> Any:
    noise = keras.layers.GaussianNoise(min(1.0, deviation), seed=seed)
    return lambda x, training: x + (noise(x, training=training) - x) * max(1.0, deviation)


@pytest.mark.claim("variants-equal-frameworks")
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")
@pytest.mark.parametrize("name", counted({name: n * len(RATES) for name, (_, n, _) in THEIRS.items()}))
def test_the_frameworks_layer_has_the_law(name: str, seed: int, alarm: Alarm) -> None:
    law, comparisons, make = THEIRS[name]
    for p in RATES:
        law(make(p, seed), p, alarm)
    assert alarm.used == comparisons * len(RATES)


@pytest.mark.parametrize("p", RATES)
def test_blocks_equal_a_maximum_filter(p: float) -> None:
    """From the same beginnings of blocks, the mask of DropBlock is that of PyTorch's pooling."""
    begun = np.random.default_rng(0).random((2, 3, 6, 7)) < 0.05
    layer = DropBlock(p, generator_of(~begun), block_size=3)
    x = normal((2, 3, 8, 9))
    y = layer(x)
    torch = pytest.importorskip("torch")
    padded = torch.nn.functional.pad(torch.from_numpy(begun).double(), [2] * 4)
    dropped = torch.nn.functional.max_pool2d(padded, 3, stride=1).numpy() > 0
    np.testing.assert_array_equal(layer.mask, ~dropped)
    np.testing.assert_allclose(y, x * ~dropped * dropped.size / (~dropped).sum(), rtol=1e-14)


@pytest.mark.claim("keras-recurrent-dropout-is-tied")
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")
@pytest.mark.parametrize("p", [0.2, 0.6])
@pytest.mark.statistical(comparisons=3)
def test_keras_holds_a_mask_for_the_sequence_and_one_for_each_gate(p: float, seed: int, alarm: Alarm) -> None:
    """With identities as recurrent matrices and no activation, the states are products of the masks' factors."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        keras = pytest.importorskip("keras")
    rows, units, steps, q = 60, 50, 4, 1 - p
    pulse = np.zeros((rows, steps, 1), np.float32)
    pulse[:, 0] = 1
    options = {"activation": None, "recurrent_dropout": p, "return_sequences": True, "seed": seed}
    simple = keras.layers.SimpleRNN(units, use_bias=False, **options)
    simple.build(pulse.shape)
    simple.set_weights([np.ones((1, units), np.float32), np.eye(units, dtype=np.float32)])
    states = np.asarray(simple(pulse, training=True))
    factor = states[:, 1]
    np.testing.assert_allclose(states, factor[:, None] ** np.arange(steps)[:, None], rtol=1e-4)
    alarm.binomial(np.count_nonzero(factor), factor.size, q, "units kept")
    again = np.asarray(simple(pulse, training=True))[:, 1]
    alarm.binomial(np.count_nonzero((factor > 0) & (again > 0)), factor.size, q * q, "kept in two sequences")
    # After one step of an LSTM from state 1: h = o (f + i g), each gate with its own factor.
    lstm = keras.layers.LSTM(units, recurrent_activation=None, unit_forget_bias=False, **options)
    lstm.build(pulse.shape)
    eye = np.tile(np.eye(units, dtype=np.float32), 4)
    lstm.set_weights([np.ones((1, 4 * units), np.float32), eye, np.zeros(4 * units, np.float32)])
    h = np.asarray(lstm(pulse, training=True))[:, 1]
    alarm.binomial(np.count_nonzero(h), h.size, q * (1 - p * (1 - q * q)), "units that four masks leave")


# --- what is particular to one -------------------------------------------------------------------------------------


def test_the_noise_of_gaussian_dropout() -> None:
    """The factors, or what was added, are shown; the mask says that nothing is dropped."""
    x = normal((20, 30))
    for additive in (False, True):
        layer = GaussianDropout(0.3, 0, additive)
        y = layer(x)
        np.testing.assert_allclose(y, x + layer.noise if additive else x * layer.noise, rtol=1e-12)
        assert layer.mask is not None
        assert layer.mask.all()
        same(layer.backward(x), x if additive else x * layer.noise, "backward")


def test_a_recurrent_mask_is_held_until_the_next_sequence() -> None:
    layer, h = RecurrentDropout(0.5, 0), np.ones((3, 40))
    first = layer(h)
    same(layer(2 * h), 2 * first, "the second step")
    layer.eval()(h)
    same(layer.train()(h), first, "evaluation between steps")
    with refused(ValueError, "(3, 40)", "(2, 40)", "new_sequence"):
        layer(np.ones((2, 40)))
    layer.new_sequence()
    assert not np.array_equal(layer(np.ones((2, 40))) > 0, first[:2] > 0)
    layer.reset()
    same(layer(h), first, "reset")


def test_keep_probability_of_a_block_by_enumeration() -> None:
    """All beginnings of blocks of a small map, and their chances."""
    layer, shape = DropBlock(0.4, block_size=2), (3, 4)
    places = list(itertools.product(range(2), range(3)))
    gamma = layer.gamma(*shape)
    assert gamma == pytest.approx(0.4 * 12 / (4 * 6))
    kept = np.zeros(shape)
    for begun in itertools.product((False, True), repeat=len(places)):
        mask = np.ones(shape)
        for (i, j), starts in zip(places, begun, strict=True):
            if starts:
                mask[i : i + 2, j : j + 2] = 0
        kept += mask * math.prod(gamma if starts else 1 - gamma for starts in begun)
    np.testing.assert_allclose(layer.keep_probability(*shape), kept, rtol=1e-12)
    np.testing.assert_allclose(DropBlock(0.3, block_size=1).keep_probability(5, 6), 0.7, rtol=1e-12)


def test_everything_dropped_gives_zeros() -> None:
    layer = DropBlock(0.5, generator_of(np.zeros((1, 1))), block_size=3)
    same(layer(np.ones((3, 3))), np.zeros((3, 3)), "one block over the whole map")
    rows = AttentionDropout(0.5, generator_of(np.zeros((2, 3))), renormalise=True)
    same(rows(np.ones((2, 3)) / 3), np.zeros((2, 3)), "nothing to renormalise")
    same(rows.backward(np.ones((2, 3))), np.zeros((2, 3)), "nothing to renormalise, backward")


def test_renormalising_is_dropping_scores_before_the_softmax() -> None:
    scores = normal((5, 7))
    mask = np.random.default_rng(3).random((5, 7)) < 0.6
    mask[:, 0] = True

    def softmax(s: Array) -> Array:
        e = np.exp(s - s.max(axis=1, keepdims=True))
        return np.asarray(e / e.sum(axis=1, keepdims=True))

    layer = AttentionDropout(0.3, generator_of(mask), renormalise=True)
    np.testing.assert_allclose(layer(softmax(scores)), softmax(np.where(mask, scores, -np.inf)), rtol=1e-12)


def test_rates_of_early_dropout() -> None:
    constant, linear_decay = (EarlyDropout(0.4, 0, steps=4, decay=decay) for decay in ("constant", "linear"))  # type: ignore[arg-type]
    assert [constant.rate(t) for t in range(6)] == [0.4, 0.4, 0.4, 0.4, 0.0, 0.0]
    assert [linear_decay.rate(t) for t in range(6)] == pytest.approx([0.4, 0.3, 0.2, 0.1, 0, 0])
    assert linear_decay.at(2).p == pytest.approx(0.2)
    x = normal((50, 40))
    same(constant.at(4)(x), x, "after the last step with dropout")
    with refused(ValueError, "decay", "'cosine'"):
        EarlyDropout(0.4, steps=4, decay="cosine")  # type: ignore[arg-type]
    with refused(ValueError, "steps"):
        EarlyDropout(0.4, steps=0)
    with refused(ValueError, "step"):
        constant.rate(-1)


def test_backward_of_early_dropout_keeps_the_rate_of_its_forward() -> None:
    layer, x = EarlyDropout(0.4, 0, steps=4, decay="linear"), normal((50, 40))
    for step in (0, 2, 9):
        y = layer.at(step)(x)
        for later in (0, 1, 100):
            same(layer.at(later).backward(x), y, "for this layer dx of x is y")
            assert layer.p == layer.rate(later)


def test_the_last_running_variances_after_early_dropout_are_right() -> None:
    """Once the rate is 0, BatchNorm's running variance comes to the variance of evaluation by itself."""
    x = normal((400, 20))
    layer, bn = EarlyDropout(0.5, 0, steps=50), BatchNorm1d(20)
    ratios = []
    for step in range(150):
        bn(layer.at(step)(x))
        ratios.append(float((bn.running_var / x.var(axis=0, ddof=1)).mean()))
    assert ratios[49] > 1.8
    assert ratios[149] == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize("per_example", [True, False])
@pytest.mark.parametrize("training", [True, False])
def test_gradients_of_dropconnect(training: bool, per_example: bool) -> None:
    layer = DropConnect(linear(), 0.3, 0, per_example)
    layer.training = training
    assert check_gradient(layer, normal((5, 6)), normal((5, 4), seed=2)) < 1e-6


def test_variants_in_a_network() -> None:
    rng = np.random.default_rng(0)
    net = Sequential(
        DropConnect(linear(), 0.3, 0), ReLU(), AlphaDropout(0.2, 1), Linear(4, 3, rng), GaussianDropout(0.3)
    )
    assert len(net.parameters()) == 4
    assert check_gradient(net, normal((5, 6)), normal((5, 3), seed=2)) < 1e-6
    x = normal((5, 6))
    np.testing.assert_array_equal(net.eval()(x), net(x))


def test_contract_of_dropconnect() -> None:
    inner = linear()
    layer, x = DropConnect(inner, 0.3, 3), normal((5, 6))
    with refused(RuntimeError, "call forward"):
        layer.backward(np.ones((5, 4)))
    first, second = layer(x), layer(x)
    assert not np.array_equal(first, second)
    assert layer.mask is not None
    assert layer.mask.shape == (5, 4, 6)
    layer.reset()
    same(layer(x), first, "reset")
    with refused(ValueError, "(5, 4)"):
        layer.backward(x)
    same(layer.eval()(x), inner.forward(x), "evaluation")
    assert layer.mask is None
    assert layer.parameters() == inner.parameters()
    np.testing.assert_allclose(DropConnect(inner, 0.0)(x), inner.forward(x), rtol=1e-12)
    same(DropConnect(inner, 1.0)(x), np.tile(inner.bias.value, (5, 1)), "p = 1 leaves the bias")
    for wrong in (np.ones((5, 6), int), "text"):
        with refused(TypeError, "float"):
            layer(wrong)
    assert DropConnect(linear(dtype=np.float32), 0.3, 0)(x.astype(np.float32)).dtype == np.float32


def test_every_public_class_is_tested() -> None:
    classes = {
        name
        for name, value in vars(variants).items()
        if isinstance(value, type) and value.__module__ == variants.__name__
    }
    assert {name for name in classes if not name.startswith("_")} == {
        "AlphaDropout",
        "AttentionDropout",
        "DropBlock",
        "DropConnect",
        "EarlyDropout",
        "GaussianDropout",
        "RecurrentDropout",
        "SpatialDropout",
        "StochasticDepth",
    }
