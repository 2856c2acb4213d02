"""`moments` against every mask there is, and `check_gradient` on right layers and on layers with one fault each."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from dropoutlib.gradients import AtStep, check_gradient, moments
from dropoutlib.layers import InvertedDropout, KeyedDropout, StandardDropout
from dropoutlib.network import Linear, ReLU, Sequential
from dropoutlib.twins import multilayer_perceptron

Array = np.ndarray[Any, Any]
RATES = (0.1, 0.2, 0.5, 0.7, 0.9)
RIGHT, WRONG = 1e-6, 9e-3


def enumerated(g: Array, p: float, convention: str) -> tuple[Array, Array]:
    """Return g_hat for each mask, and the probability of each mask."""
    masks = np.array(list(itertools.product([0, 1], repeat=g.size)))
    scale = 1 / (1 - p) if convention == "inverted" else 1.0
    return scale * masks * g, np.prod(np.where(masks, 1 - p, p), axis=1)


# --- moments


@pytest.mark.parametrize("p", [0.0, 0.01, 0.3, *RATES, 0.99])
@pytest.mark.parametrize("convention", ["inverted", "standard"])
def test_moments_equal_the_sum_over_all_masks_of_ten_features(p: float, convention: str) -> None:
    g = np.random.default_rng(0).standard_normal(10)
    g /= np.linalg.norm(g)
    g_hat, probability = enumerated(g, p, convention)
    norms = np.linalg.norm(g_hat, axis=1)
    found = moments(g, p, convention)  # type: ignore[arg-type]
    mean = probability @ g_hat
    for closed, summed in (
        (found.mean, mean),
        (found.variance, probability @ (g_hat - mean) ** 2),
        (found.mean_square_norm, probability @ norms**2),
    ):
        np.testing.assert_allclose(closed, summed, rtol=1e-12, atol=1e-12)
    lower, upper = found.norm_bounds
    assert lower - 1e-12 <= probability @ norms <= upper + 1e-12


@pytest.mark.parametrize("p", RATES)
@pytest.mark.parametrize("convention", ["inverted", "standard"])
def test_both_bounds_of_the_norm_are_the_best_possible(p: float, convention: str) -> None:
    """The lower bound is reached by one feature, the upper one in the limit of many equal features."""
    one, many = (moments(np.full(n, n**-0.5), p, convention) for n in (1, 10_000))  # type: ignore[arg-type]
    scale = 1 / (1 - p) if convention == "inverted" else 1.0
    assert (1 - p) * scale == pytest.approx(one.norm_bounds[0], rel=1e-12)  # E|g_hat| of one feature
    kept = np.arange(10_001)
    binom = pytest.importorskip("scipy.stats").binom(10_000, 1 - p)
    assert binom.pmf(kept) @ (scale * np.sqrt(kept / 10_000)) == pytest.approx(many.norm_bounds[1], rel=5e-3)


@given(
    g=hnp.arrays(np.float64, hnp.array_shapes(min_dims=0, max_dims=3, min_side=0), elements=st.floats(-9, 9)),
    p=st.floats(0, 0.99),
    convention=st.sampled_from(["inverted", "standard"]),
)
def test_moments_hang_together(g: Array, p: float, convention: Any) -> None:
    found = moments(g, p, convention)
    assert found.mean.shape == found.variance.shape == g.shape
    assert found.mean.dtype == found.variance.dtype == np.float64
    assert np.all(found.variance >= 0)
    total = float(np.sum(found.variance + found.mean**2))
    assert found.mean_square_norm == pytest.approx(total, rel=1e-9, abs=1e-12)
    assert found.norm_bounds[0] <= found.norm_bounds[1] * (1 + 1e-12)
    assert found.norm_bounds[1] ** 2 == pytest.approx(found.mean_square_norm, rel=1e-9, abs=1e-12)


def test_moments_at_the_ends() -> None:
    g = np.array([1.0, -2.0])
    for convention in ("inverted", "standard"):
        untouched = moments(g, 0, convention)
        np.testing.assert_array_equal(untouched.mean, g)
        np.testing.assert_array_equal(untouched.variance, 0)
        assert untouched.norm_bounds == (np.sqrt(5), np.sqrt(5))
    nothing = moments(g, 1, "standard")
    np.testing.assert_array_equal(nothing.mean, 0)
    assert (nothing.mean_square_norm, nothing.norm_bounds) == (0.0, (0.0, 0.0))


def test_small_p_keeps_its_digits() -> None:
    np.testing.assert_allclose(moments(np.ones(1), 1e-12, "inverted").variance, 1e-12, rtol=1e-9)


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_moments_of_narrow_gradients_are_float64(dtype: type) -> None:
    found = moments(np.array([0.5, 2.0], dtype), 0.5, "inverted")
    np.testing.assert_array_equal(found.mean, [0.5, 2.0])
    assert found.mean.dtype == np.float64
    assert found.mean_square_norm == 8.5


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (([1, 2], 0.5, "inverted"), TypeError, "g must be float16"),
        ((np.ones(2) > 0, 0.5, "inverted"), TypeError, "g must be"),
        ((np.array([1.0, np.nan]), 0.5, "inverted"), ValueError, "g must be finite"),
        ((np.array([np.inf]), 0.5, "standard"), ValueError, "g must be finite"),
        ((np.ones(2), -0.1, "inverted"), ValueError, "p must lie"),
        ((np.ones(2), np.nan, "inverted"), ValueError, "p must lie"),
        ((np.ones(2), True, "inverted"), TypeError, "p must be a real number"),
        ((np.ones(2), "0.5", "inverted"), TypeError, "p must be a real number"),
        ((np.ones(2), 1.0, "inverted"), ValueError, "p must be below 1 for inverted"),
        ((np.ones(2), 0.5, "both"), ValueError, '"inverted" or "standard", got \'both\''),
        ((np.ones(2), 0.5, None), ValueError, "got None"),
    ],
)
def test_moments_refuse(arguments: tuple[Any, ...], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        moments(*arguments)


# --- check_gradient: right layers


def network(*dropouts: Any, seed: int = 0) -> Sequential:
    rng = np.random.default_rng(seed)
    hidden = [layer for dropout in dropouts for layer in (Linear(4, 4, rng), ReLU(), dropout)]
    return Sequential(*hidden, Linear(4, 3, rng))


def data(seed: int, outputs: int = 4) -> tuple[Array, Array]:
    rng = np.random.default_rng(seed)
    return rng.standard_normal((3, 4)), rng.standard_normal((3, outputs))


def linear() -> Linear:
    layer = Linear(4, 3, np.random.default_rng(1))
    layer.bias.value += 0.5
    return layer


REAL: dict[str, tuple[Callable[[float], Any], int]] = {
    "standard": (lambda p: StandardDropout(p, seed=3), 4),
    "inverted": (lambda p: InvertedDropout(p, seed=3), 4),
    "no seed": (lambda p: InvertedDropout(p), 4),
    "generator": (lambda p: InvertedDropout(p, np.random.default_rng(5)), 4),
    "keyed": (lambda p: AtStep(KeyedDropout(p, seed=2, layer=1), step=7), 4),
    "linear": (lambda p: linear(), 3),
    "relu": (lambda p: ReLU(), 4),
    "two dropouts": (lambda p: network(InvertedDropout(p, seed=1), StandardDropout(p, seed=2)), 3),
    "one stream for two": (
        lambda p: network(*(InvertedDropout(p, generator) for generator in [np.random.default_rng(4)] * 2)),
        3,
    ),
    "keyed inside": (lambda p: network(AtStep(KeyedDropout(p, seed=2, layer=1), step=7)), 3),
    "the course's network": (lambda p: multilayer_perceptron(InvertedDropout, p, 0, (4, 5, 4, 3)).net, 3),
}


@pytest.mark.parametrize("p", [0.0, *RATES, 1.0])
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("name", REAL)
def test_right_layers_pass_in_both_modes(name: str, training: bool, p: float) -> None:
    make, outputs = REAL[name]
    layer = make(p)
    layer.train() if training else layer.eval()
    assert check_gradient(layer, *data(0, outputs)) < RIGHT


@pytest.mark.parametrize("shape", [(), (0,), (5,), (2, 3, 2)])
def test_any_shape(shape: tuple[int, ...]) -> None:
    x = np.linspace(1, 2, int(np.prod(shape))).reshape(shape)
    assert check_gradient(InvertedDropout(0.3, seed=0), x, x) < RIGHT


@pytest.mark.parametrize("size", [1e-9, 1.0, 1e9])
def test_any_size_of_input_and_gradient(size: float) -> None:
    x, dy = data(1)
    assert check_gradient(InvertedDropout(0.3, seed=0), size * x, dy) < RIGHT
    assert check_gradient(InvertedDropout(0.3, seed=0), x, size * dy) < RIGHT


def test_narrow_input_is_checked_in_float64() -> None:
    x, dy = (a.astype(np.float32) for a in data(1))
    assert check_gradient(InvertedDropout(0.3, seed=0), x, dy) < RIGHT


def test_the_layer_neither_moves_on_nor_changes() -> None:
    x, dy = data(0)
    checked, untouched = InvertedDropout(0.5, seed=3), InvertedDropout(0.5, seed=3)
    x_before, dy_before = x.copy(), dy.copy()
    check_gradient(checked, x, dy)
    assert checked.mask is None
    np.testing.assert_array_equal(checked(x), untouched(x))
    np.testing.assert_array_equal(x, x_before)
    np.testing.assert_array_equal(dy, dy_before)


def test_the_mask_is_the_one_that_the_layer_draws_next() -> None:
    """A layer whose second mask is special shows which mask is held."""

    class WrongFromTheSecondForwardOn(InvertedDropout):
        calls = 0

        def forward(self, x: Any) -> Array:
            self.calls += 1
            return super().forward(x)

        def backward(self, dy: Any) -> Array:
            return super().backward(dy) * (1.0 if self.calls == 1 else 1.5)

    layer, (x, dy) = WrongFromTheSecondForwardOn(0.3, seed=0), data(0)
    assert check_gradient(layer, x, dy) < RIGHT
    layer.forward(x)
    assert check_gradient(layer, x, dy) > 0.3


class KinkAt(ReLU):
    """A ReLU whose slope at 0 is said to be `slope`."""

    slope = 0.0

    def forward(self, x: Array) -> Array:
        self._at_kink = x == 0
        return super().forward(x)

    def backward(self, dy: Array) -> Array:
        return np.asarray(super().backward(dy) + self.slope * dy * self._at_kink)


@pytest.mark.parametrize(("slope", "right"), [(0.0, True), (0.3, True), (1.0, True), (1.01, False), (-0.01, False)])
def test_at_a_kink_any_slope_between_the_two_sides_is_right(slope: float, right: bool) -> None:
    layer = KinkAt()
    layer.slope = slope
    error = check_gradient(layer, np.array([0.0, 1.0, -1.0]), np.array([1.0, -2.0, 3.0]))
    assert (error < RIGHT) is right
    assert right or error > 4e-3


def test_kinks_of_two_outputs_do_not_cancel() -> None:
    """One input moves two rectified outputs in opposite directions through their kinks."""
    layer = Sequential(Linear(1, 2, np.random.default_rng(0)), ReLU())
    layer.parameters()[0].value[:] = [[1.0], [-1.0]]
    assert check_gradient(layer, np.zeros((1, 1)), np.array([[1.0, -1.0]])) < RIGHT


# --- check_gradient: wrong layers


class OneEntryOff(InvertedDropout):
    """The gradient of one kept entry is wrong by 1 %."""

    entry = 0

    def backward(self, dy: Any) -> Array:
        dx = super().backward(dy)
        kept = np.flatnonzero(dx)
        dx.flat[kept[self.entry % kept.size]] *= 1.01
        return dx


class FreshMask(InvertedDropout):
    """Backward draws again."""

    def backward(self, dy: Any) -> Array:
        return copy.copy(self).forward(dy)


class FreshStandardMask(StandardDropout):
    """Backward draws again."""

    def backward(self, dy: Any) -> Array:
        return copy.copy(self).forward(dy)


class NoScale(InvertedDropout):
    """Backward forgets the scale."""

    def backward(self, dy: Any) -> Array:
        return super().backward(dy) * (1 - self.p)


class ScaleByP(InvertedDropout):
    """Backward scales by 1/p."""

    def backward(self, dy: Any) -> Array:
        return super().backward(dy) * (1 - self.p) / self.p


class NoMask(InvertedDropout):
    """Backward lets everything through."""

    def backward(self, dy: Any) -> Array:
        return np.array(dy) / (1 - self.p)


class EvaluationUnscaled(StandardDropout):
    """Backward forgets the factor q of evaluation."""

    def backward(self, dy: Any) -> Array:
        return np.array(dy) if self.mask is None else super().backward(dy)


@pytest.mark.parametrize("p", [0.2, 0.7])
@pytest.mark.parametrize("entry", range(5))
def test_one_entry_wrong_by_one_per_cent_is_flagged(p: float, entry: int) -> None:
    layer = OneEntryOff(p, seed=1)
    layer.entry = entry
    error = check_gradient(layer, *data(2))
    assert WRONG < error < 0.011


@pytest.mark.parametrize("share", [1e-1, 1e-3, 1e-5, 1e-6])
def test_one_wrong_entry_that_is_small_is_flagged(share: float) -> None:
    layer, (x, dy) = OneEntryOff(0.2, seed=1), data(2)
    mask = copy.deepcopy(layer)(x) != 0
    dy[tuple(np.argwhere(mask)[0])] = share * np.abs(dy).max()
    assert check_gradient(layer, x, dy) > 30 * check_gradient(InvertedDropout(0.2, seed=1), x, dy)


@pytest.mark.parametrize("p", [0.2, 0.7])
@pytest.mark.parametrize("cls", [FreshMask, FreshStandardMask, NoScale, ScaleByP, NoMask])
def test_a_fresh_mask_a_missing_scale_and_a_missing_mask_are_flagged(cls: Any, p: float) -> None:
    assert check_gradient(cls(p, seed=1), *data(3)) > 0.1
    assert check_gradient(network(cls(p, seed=1)), *data(3, outputs=3)) > 0.1


def test_a_missing_factor_in_evaluation_is_flagged() -> None:
    assert check_gradient(EvaluationUnscaled(0.2, seed=1), *data(3)) < RIGHT
    assert check_gradient(EvaluationUnscaled(0.2, seed=1).eval(), *data(3)) == pytest.approx(0.2, rel=1e-6)


class WrongWeightGradient(Linear):
    """One entry of the weight's gradient is wrong by 1 %; dx is right."""

    def backward(self, dy: Array) -> Array:
        dx = super().backward(dy)
        self.weight.grad[1, 2] *= 1.01
        return dx


class WrongBiasGradient(Linear):
    """The bias's gradient is a mean, not a sum; dx is right."""

    def backward(self, dy: Array) -> Array:
        dx = super().backward(dy)
        self.bias.grad = dy.mean(axis=0)
        return dx


@pytest.mark.parametrize("cls", [WrongWeightGradient, WrongBiasGradient])
def test_parameters_are_checked_too(cls: Any) -> None:
    layer = cls(4, 3, np.random.default_rng(0))
    assert check_gradient(layer, *data(0, outputs=3)) > WRONG
    assert check_gradient(Sequential(InvertedDropout(0.3, seed=0), layer), *data(0, outputs=3)) > WRONG


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_an_infinite_gradient_is_an_infinite_error(value: float) -> None:
    class Broken(ReLU):
        def backward(self, dy: Array) -> Array:
            return dy * value

    assert check_gradient(Broken(), *data(0)) == np.inf


def test_a_learners_own_layer() -> None:
    """Any deep-copyable layer will do, whatever it is built on."""

    class Mine:
        def __init__(self, backward_scale: float) -> None:
            self.rng, self.backward_scale = np.random.default_rng(0), backward_scale

        def forward(self, x: Array) -> Array:
            self.x, self.kept = x, self.rng.random(x.shape) >= 0.3
            return np.asarray(x**2 * self.kept / 0.7)

        def backward(self, dy: Array) -> Array:
            return np.asarray(dy * 2 * self.x * self.kept * self.backward_scale)

    assert check_gradient(Mine(1 / 0.7), *data(0)) < RIGHT
    assert check_gradient(Mine(1.0), *data(0)) > 0.2


# --- check_gradient: refusals


class SharedStream:
    """Draws from a generator that its copies share."""

    rng = np.random.default_rng(0)

    def forward(self, x: Array) -> Array:
        self.kept = self.rng.random(x.shape) >= 0.5
        return np.asarray(2.0 * x * self.kept)

    def backward(self, dy: Array) -> Array:
        return np.asarray(2.0 * dy * self.kept)


class Narrow:
    """Computes in float32."""

    def forward(self, x: Array) -> Array:
        return x.astype(np.float32)

    def backward(self, dy: Array) -> Array:
        return dy


class WrongShape(ReLU):
    """Backward returns a gradient of another shape."""

    def backward(self, dy: Array) -> Array:
        return np.asarray(dy.sum(axis=0))


@pytest.mark.parametrize(
    ("layer", "change", "error", "message"),
    [
        (KeyedDropout(0.5, seed=0, layer=0), {}, TypeError, "AtStep"),
        (object(), {}, TypeError, r"forward\(x\) and backward\(dy\)"),
        (None, {}, TypeError, "got None"),
        (ReLU(), {"x": [[1, 2]]}, TypeError, "x must be float16"),
        (ReLU(), {"dy": np.ones((3, 4), int)}, TypeError, "dy must be float16"),
        (ReLU(), {"x": np.full((3, 4), np.nan)}, ValueError, "x must be finite"),
        (ReLU(), {"dy": np.full((3, 4), np.inf)}, ValueError, "dy must be finite"),
        (ReLU(), {"dy": np.ones((3, 5))}, ValueError, r"output's shape \(3, 4\), got \(3, 5\)"),
        (WrongShape(), {}, ValueError, r"shape of x, \(3, 4\), got \(4,\)"),
        (SharedStream(), {}, ValueError, "drew two masks.*own its generator"),
        (Narrow(), {}, ValueError, "compute in float64.*got float32"),
    ],
)
def test_check_gradient_refuses(layer: Any, change: dict[str, Any], error: type[Exception], message: str) -> None:
    x, dy = data(0)
    with pytest.raises(error, match=message):
        check_gradient(layer, **{"x": x, "dy": dy, **change})


# --- AtStep


def test_at_step_is_the_keyed_layer_at_that_step() -> None:
    keyed = KeyedDropout(0.3, seed=1, layer=2)
    layer, (x, dy) = AtStep(keyed, 5), data(0)
    np.testing.assert_array_equal(layer(x), keyed(x, 5))
    np.testing.assert_array_equal(layer.backward(dy), keyed.backward(dy, 5))
    assert layer.eval() is layer
    assert keyed.training is False
    np.testing.assert_array_equal(layer(x), x)
    assert layer.train() is layer
    assert keyed.training is True
