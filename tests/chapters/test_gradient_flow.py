"""The claims of the chapter "gradient-flow", each decided by running it.

What chance could have decided is listed here with its rule. The first blocks had been explored when the rules were
written; the second ones had not been looked at. Both are printed (pytest -s). The learning rates have their own list of
16 in `studies.learning_rate`, written before either of its blocks ran; the chapter shows it with the figures of both.

==================================================================  ==================================================
conclusion                                                          rule, in every seed or pair of a block
==================================================================  ==================================================
Dropout before a squared-error head shrinks the predictions         variance of the test predictions falls from each of
                                                                    p = 0, .2, .5, .8 to the next, 32 and 512 features
With 32 features it harms                                           test MSE at p = .5 above that at p = 0
With 512 features it helps                                          test MSE at p = .5 below that at p = 0
Wager's quadratic form is good at small weights and moderate p      |exact/quadratic - 1| < .06 at p = .01, .1, .3, .5,
                                                                    for weights fitted with a ridge of .1
At larger weights and high p it is too large                        exact/quadratic < .85 at p = .8, for weights fitted
                                                                    with a ridge of .01
==================================================================  ==================================================

The first three draw random features (seeds 0 to 4, then 1000 to 1004). The last two have no seed; their blocks are
pairs of digits: 3-8, 4-9, 1-7, then 2-3, 6-8, 0-5.

Not robust: "at larger weights it is too small by more than 10 % at p = .01" held for five pairs and not for 0-8 (7 %);
"by more than 5 % in the limit p -> 0" held for five pairs and not for 0-5 (4 %). That the limit is not 1 needs no rule:
`ratio_without_dropout` has its closed form.
"""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest

from dropoutlib import InvertedDropout, StandardDropout
from dropoutlib.data import Dataset, digits
from dropoutlib.gradients import check_gradient, moments
from dropoutlib.stored import load
from studies.learning_rate import (
    CHECKPOINTS,
    CONCLUSIONS,
    SGD_8,
    STANDARD_8,
    Block,
    Judgement,
    change_of_rate,
    interval,
    judge,
)
from tests.statistics import Alarm

Array = np.ndarray[Any, Any]
RATES = (0.2, 0.5, 0.8)
FIVE = np.array([0.1, 0.2, 0.3, 0.4, 0.5])


@pytest.fixture(scope="module")
def data() -> Dataset:
    return digits()


def all_masks(n: int, p: float) -> tuple[Array, Array]:
    """Return the 2**n masks and the probability of each."""
    masks = np.array(list(itertools.product([0, 1], repeat=n)))
    return masks, np.prod(np.where(masks, 1 - p, p), axis=1)


def cosines(g: Array, masks: Array) -> Array:
    """Return the cosine of each masked gradient with g, 0 where all is dropped."""
    masked = masks * g
    norms = np.linalg.norm(masked, axis=1)
    cosine: Array = np.divide(masked @ g, norms * np.linalg.norm(g), out=np.zeros(len(masks)), where=norms > 0)
    return cosine


# --- the gradient and its check ------------------------------------------------------------------------------------


@pytest.mark.claim("gradient-same-mask-and-scale")
@pytest.mark.parametrize("p", RATES)
def test_backward_is_the_mask_and_the_scale_of_forward(p: float) -> None:
    x, dy = np.random.default_rng(0).standard_normal((2, 8, 9))
    for cls, scale in ((InvertedDropout, 1 / (1 - p)), (StandardDropout, 1.0)):
        layer = cls(p, seed=1)
        y = layer(x)
        np.testing.assert_allclose(layer.backward(dy), dy * (y != 0) * scale, rtol=1e-15)
        assert check_gradient(layer, x, dy) < 1e-6
        assert check_gradient(layer.eval(), x, dy) < 1e-6


class FreshMask(InvertedDropout):
    """Backward draws again."""

    def backward(self, dy: Any) -> Array:
        return self.forward(dy)


class Unscaled(InvertedDropout):
    """Forgets the scale in both directions."""

    def forward(self, x: Any) -> Array:
        return super().forward(x) * (1 - self.p)

    __call__ = forward

    def backward(self, dy: Any) -> Array:
        return super().backward(dy) * (1 - self.p)


@pytest.mark.claim("hold-the-mask")
@pytest.mark.parametrize("p", RATES)
def test_a_quotient_of_two_masks_is_no_derivative(p: float) -> None:
    """With a new mask at each forward the quotient is wrong by x / h; with the mask held it is right."""
    x, dy, h = np.linspace(1, 2, 200), np.ones(200), 1e-5
    layer = InvertedDropout(p, seed=2)
    step = h * np.eye(200)
    anew = np.array([np.sum(dy * (layer.forward(x + s) - layer.forward(x - s))) / (2 * h) for s in step])
    layer.forward(x)
    assert np.median(np.abs(anew - layer.backward(dy))) > 1e4
    assert check_gradient(InvertedDropout(p, seed=2), x, dy) < 1e-6
    assert check_gradient(FreshMask(p, seed=2), x, dy) > 0.1


@pytest.mark.claim("check-sees-backward-only")
@pytest.mark.parametrize("p", RATES)
def test_a_wrong_forward_with_its_own_gradient_passes_the_check(p: float) -> None:
    x = np.linspace(1, 2, 20)
    assert check_gradient(Unscaled(p, seed=0), x, x) < 1e-6
    assert Unscaled(p, seed=0)(np.ones(10_000)).max() == pytest.approx(1.0), "and yet it does not scale"


# --- five features, 32 masks ---------------------------------------------------------------------------------------


@pytest.mark.claim("demo-gradient-norm")
def test_the_demonstrations_average_norm_is_a_third_above_the_norm_before() -> None:
    masks, probability = all_masks(5, 0.5)
    norms = np.linalg.norm(masks * FIVE / 0.5, axis=1)
    assert np.linalg.norm(FIVE) == pytest.approx(0.741620, abs=5e-7)
    assert probability @ norms == pytest.approx(0.983464, abs=5e-7)
    assert probability @ norms / np.linalg.norm(FIVE) == pytest.approx(1.326, abs=5e-4)
    assert np.sqrt(probability @ norms**2) == pytest.approx(1.048809, abs=5e-7)
    assert np.sqrt(probability @ norms**2) == pytest.approx(np.sqrt(2) * np.linalg.norm(FIVE), rel=1e-12)


@pytest.mark.claim("gradient-magnitude-preserved")
@pytest.mark.parametrize("p", [0.1, *RATES])
@pytest.mark.parametrize("seed", range(3))
def test_the_norm_grows_within_the_bounds(p: float, seed: int) -> None:
    g = np.random.default_rng(seed).standard_normal(10)
    masks, probability = all_masks(10, p)
    norms = np.linalg.norm(masks * g / (1 - p), axis=1)
    found = moments(g, p, "inverted")
    assert probability @ norms**2 == pytest.approx(found.mean_square_norm, rel=1e-12)
    assert found.mean_square_norm == pytest.approx(g @ g / (1 - p), rel=1e-12)
    assert np.linalg.norm(g) * 1.001 < probability @ norms < found.norm_bounds[1]


@pytest.mark.claim("mean-gradient-preserved")
@pytest.mark.parametrize("p", [0.1, *RATES])
def test_the_mean_vector_is_preserved_by_inverted_dropout_alone(p: float) -> None:
    masks, probability = all_masks(5, p)
    np.testing.assert_allclose(probability @ (masks * FIVE / (1 - p)), FIVE, rtol=1e-12)
    np.testing.assert_allclose(probability @ (masks * FIVE), (1 - p) * FIVE, rtol=1e-12)


@pytest.mark.claim("cosine-root-q")
@pytest.mark.parametrize("p", [0.1, *RATES])
def test_the_mean_squared_cosine_is_q_for_any_gradient(p: float) -> None:
    masks, probability = all_masks(10, p)
    for seed in range(3):
        cosine = cosines(np.random.default_rng(seed).standard_normal(10), masks)
        assert probability @ cosine**2 == pytest.approx(1 - p, rel=1e-12)
        assert probability @ cosine < (1 - p) ** 0.5


@pytest.mark.claim("cosine-root-q")
@pytest.mark.parametrize("p", RATES)
def test_the_mean_cosine_nears_root_q_with_many_comparable_entries_only(p: float) -> None:
    q, seen = 1 - p, {}
    for n in (1, 5, 5000):
        kept = np.arange(n + 1)
        binomial = pytest.importorskip("scipy.stats").binom(n, q)
        seen[n] = binomial.pmf(kept) @ np.sqrt(kept / n)
    assert seen[1] == pytest.approx(q)
    assert seen[1] < seen[5] < seen[5000]
    assert seen[5000] == pytest.approx(q**0.5, rel=1e-3)
    one_large = np.r_[1000.0, np.ones(9)]
    masks, probability = all_masks(10, p)
    assert probability @ cosines(one_large, masks) == pytest.approx(q, rel=0.02), "one entry decides"


@pytest.mark.claim("unscaled-kept-gradients")
@pytest.mark.parametrize("p", RATES)
def test_kept_and_averaged_gradients_with_and_without_scale(p: float) -> None:
    masks, probability = all_masks(5, p)
    for scale, kept, averaged in ((1.0, 1.0, 1 - p), (1 / (1 - p), 1 / (1 - p), 1.0)):
        g_hat = scale * masks * FIVE
        for j in range(5):
            on = masks[:, j] == 1
            given = (probability * g_hat[:, j])[on].sum() / probability[on].sum()
            assert given == pytest.approx(kept * FIVE[j], rel=1e-12)
            assert probability @ g_hat[:, j] == pytest.approx(averaged * FIVE[j], rel=1e-12)


# --- variance ------------------------------------------------------------------------------------------------------


@pytest.mark.claim("gradient-variance-rises")
def test_variance_against_p_rises_for_inverted_and_peaks_at_one_half_for_standard() -> None:
    rates = np.linspace(0.01, 0.99, 99)
    inverted, standard = (
        np.array([float(moments(np.ones(1), p, c).variance[0]) for p in rates]) for c in ("inverted", "standard")
    )
    np.testing.assert_allclose(inverted, rates / (1 - rates), rtol=1e-12)
    np.testing.assert_allclose(standard, rates * (1 - rates), rtol=1e-12)
    assert np.all(np.diff(inverted) > 0)
    assert rates[standard.argmax()] == pytest.approx(0.5)


@pytest.mark.claim("gradient-variance-rises")
@pytest.mark.statistical(comparisons=6)
@pytest.mark.parametrize("p", RATES)
def test_measured_variance_is_that_of_the_closed_form(p: float, seed: int, alarm: Alarm) -> None:
    """A masked 1 is 0 or the scale, so that the count of zeros decides the variance."""
    n = 1_000_000
    for cls, scale in ((InvertedDropout, 1 / (1 - p)), (StandardDropout, 1.0)):
        layer = cls(p, seed)
        layer.forward(np.ones(n))
        dx = layer.backward(np.ones(n))
        assert set(np.unique(dx)) == {0.0, np.float64(scale)}
        alarm.binomial(np.count_nonzero(dx), n, 1 - p, f"{cls.__name__} at p = {p}")
        closed = float(moments(np.ones(1), p, "inverted" if scale > 1 else "standard").variance[0])
        assert dx.var() == pytest.approx(closed, rel=0.02)


@pytest.mark.claim("gradient-variance-rises")
@pytest.mark.statistical(comparisons=6)
@pytest.mark.parametrize("p", RATES)
def test_spread_of_the_demonstrations_mean_gradient(p: float, seed: int, alarm: Alarm) -> None:
    """The sources average 32 x 256 entries and show how the average moves: sqrt(p/q)/90.5, or sqrt(p q)/90.5."""
    g = np.random.default_rng(seed).standard_normal((32, 256))
    g /= np.sqrt(np.mean(g**2))
    for cls, closed in ((InvertedDropout, p / (1 - p)), (StandardDropout, p * (1 - p))):
        layer, scale = cls(p, seed), 1 / (1 - p) if cls is InvertedDropout else 1.0
        averages = []
        for _ in range(400):
            layer.forward(g)
            averages.append(layer.backward(g).mean())
        expected = g.mean() * (1.0 if scale > 1 else 1 - p)
        variance = closed * np.sum(g**2) / g.size**2
        alarm.total(sum(averages), 400 * expected, 400 * variance, 2 * scale * np.abs(g).sum() / g.size, f"p = {p}")
        assert np.std(averages) == pytest.approx(np.sqrt(variance), rel=0.25)  # 7 standard deviations


# --- the upstream gradient depends on the mask ---------------------------------------------------------------------


def ink(data: Dataset) -> tuple[Array, Array, Array, Array]:
    """Return upper halves and the mean ink of lower halves, in grey levels: training x, t, test x, t."""
    pairs = ((split.x[:, :32], 16 * split.x[:, 32:].mean(axis=1)) for split in (data.train, data.test))
    (x, t), (x_test, t_test) = pairs
    return x, t, x_test, t_test


def least_squares(x: Array, t: Array, p: float = 0.0) -> tuple[Array, float]:
    """Return w and b with the least average squared error under inverted dropout on x."""
    a = np.c_[x, np.ones(len(x))]
    gram = a.T @ a / len(x)
    gram[:-1, :-1] += p / (1 - p) * np.diag(np.mean(x**2, axis=0))
    solution = np.linalg.lstsq(gram, a.T @ t / len(x), rcond=None)[0]
    return solution[:-1], float(solution[-1])


@pytest.fixture(scope="module")
def ten_pixels(data: Dataset) -> tuple[Array, Array]:
    """Return the ten pixels of the upper half that vary most, and the ink of the lower half."""
    x, t, _, _ = ink(data)
    return x[:, np.argsort(x.var(axis=0))[-10:]], t


@pytest.mark.claim("noise-is-the-regulariser")
@pytest.mark.parametrize("p", RATES)
def test_the_average_squared_error_is_the_error_plus_an_adaptive_l2_penalty(
    ten_pixels: tuple[Array, Array], p: float
) -> None:
    (x, t), q = ten_pixels, 1 - p
    masks, probability = all_masks(10, p)
    for w, b in (least_squares(x, t), (np.linspace(-1, 2, 10), 3.0)):
        average = probability @ np.mean(((masks * w / q) @ x.T + b - t) ** 2, axis=1)
        penalty = p / q * np.sum(w**2 * np.mean(x**2, axis=0))
        assert average == pytest.approx(np.mean((x @ w + b - t) ** 2) + penalty, rel=1e-12)
        standard = probability @ np.mean(((masks * w) @ x.T + b - t) ** 2, axis=1)
        assert standard == pytest.approx(np.mean((q * x @ w + b - t) ** 2) + q**2 * penalty, rel=1e-12)


@pytest.mark.claim("dropout-gradient-is-evaluation-gradient")
@pytest.mark.parametrize("p", RATES)
def test_where_the_evaluation_gradient_is_zero_the_average_dropout_gradient_is_not(
    ten_pixels: tuple[Array, Array], p: float
) -> None:
    (x, t), q = ten_pixels, 1 - p
    w, b = least_squares(x, t)
    masks, probability = all_masks(10, p)
    errors = (masks * w / q) @ x.T + b - t
    average = np.mean(2 * ((probability[:, None] * masks / q).T @ errors) * x.T, axis=1)
    assert np.abs(np.mean(2 * (x @ w + b - t)[:, None] * x, axis=0)).max() < 1e-10
    np.testing.assert_allclose(average, 2 * p / q * w * np.mean(x**2, axis=0), atol=1e-10)
    assert np.abs(average).max() > 0.1


@pytest.mark.claim("dropout-gradient-is-evaluation-gradient")
@pytest.mark.statistical(comparisons=3)
@pytest.mark.parametrize("p", RATES)
def test_sampled_loss_on_all_pixels_agrees_with_the_closed_form(
    data: Dataset, p: float, seed: int, alarm: Alarm
) -> None:
    x, t, _, _ = ink(data)
    w, b = least_squares(x, t, 0.5)
    layer, draws = InvertedDropout(p, seed), 200
    losses = np.array([(layer(x) @ w + b - t) ** 2 for _ in range(draws)])
    noise = p / (1 - p) * (x**2 @ w**2)
    expected = (x @ w + b - t) ** 2 + noise
    # A prediction lies within the sum of |w_j x_j| * max(1/q - 1, 1) of its mean.
    bound = (np.abs(x @ w + b - t) + (np.abs(x) @ np.abs(w)) * max(p / (1 - p), 1.0)).max() ** 2
    variance = draws * np.sum(losses.var(axis=0))
    alarm.total(losses.sum(), draws * expected.sum(), variance, bound, f"loss at p = {p}")
    assert draws * noise.sum() > 20 * variance**0.5, "without the penalty the alarm would ring"


# --- logistic regression -------------------------------------------------------------------------------------------


def logistic_regression(data: Dataset, pair: tuple[int, int], ridge: float) -> tuple[Array, Array, float]:
    """Return the 4 x 4 blocks of 25 images of a pair of digits, and w and b fitted to all images of the pair."""
    rows = np.flatnonzero(np.isin(data.train.y, pair))
    z = data.train.x[rows].reshape(-1, 4, 2, 4, 2).mean(axis=(2, 4)).reshape(-1, 16)
    target, a = data.train.y[rows] == pair[1], np.c_[z, np.ones(len(z))]
    weights, shrink = np.zeros(17), ridge * np.diag(np.r_[np.ones(16), 0.0])
    for _ in range(50):
        prob = 1 / (1 + np.exp(-a @ weights))
        hessian = (a * (prob * (1 - prob))[:, None]).T @ a / len(a) + shrink
        weights -= np.linalg.solve(hessian, a.T @ (prob - target) / len(a) + shrink @ weights)
    return z[:25], weights[:-1], float(weights[-1])


def curvature(z: Array, w: Array, b: float) -> Array:
    """Return half the second derivative of log(1 + exp) at each row's logit."""
    prob = 1 / (1 + np.exp(-(z @ w + b)))
    return np.asarray(prob * (1 - prob) / 2)


def penalty_ratios(z: Array, w: Array, b: float, rates: tuple[float, ...]) -> Array:
    """Return, for each p, the exact penalty over the quadratic form, by all 65,536 masks."""
    masks, evaluation = all_masks(16, 0.5)[0], np.logaddexp(0, z @ w + b)
    ratios = []
    for p in rates:
        chance = np.prod(np.where(masks, 1 - p, p), axis=1)
        exact = np.mean([chance @ np.logaddexp(0, masks @ (row * w) / (1 - p) + b) for row in z]) - evaluation.mean()
        ratios.append(exact / np.mean(curvature(z, w, b) * (p / (1 - p)) * (z**2 @ w**2)))
    return np.array(ratios)


def ratio_without_dropout(z: Array, w: Array, b: float) -> float:
    """Return the limit of that ratio for p -> 0, where a mask drops one feature at most.

    Feature j is dropped with probability p, and the others are scaled by 1 + p: to first order in p the penalty is
    p (sum_j (A(t - u_j) - A(t)) + A'(t) sum_j u_j), with A = log(1 + exp), u_j = w_j x_j and t = sum_j u_j + b.
    """
    t, u = z @ w + b, z * w
    slope = 1 / (1 + np.exp(-t))
    exact = np.sum(np.logaddexp(0, t[:, None] - u) - np.logaddexp(0, t)[:, None] + slope[:, None] * u)
    return float(exact / np.sum(curvature(z, w, b)[:, None] * u**2))


QUADRATIC_BLOCKS = [
    pytest.param(((3, 8), (4, 9), (1, 7)), id="first"),
    pytest.param(((2, 3), (6, 8), (0, 5)), id="second", marks=pytest.mark.long),
]


@pytest.mark.claim("quadratic-form-approximate")
@pytest.mark.parametrize("pairs", QUADRATIC_BLOCKS)
def test_at_larger_weights_and_high_p_the_quadratic_form_is_too_large(
    data: Dataset, pairs: tuple[tuple[int, int], ...]
) -> None:
    for pair in pairs:
        ratios = penalty_ratios(*logistic_regression(data, pair, 0.01), (0.01, 0.1, 0.3, 0.5, 0.8))
        print(f"digits {pair}, ridge .01: exact/quadratic {np.round(ratios, 3)}")
        assert ratios[-1] < 0.85


@pytest.mark.claim("quadratic-form-approximate")
def test_the_error_of_the_quadratic_form_does_not_vanish_with_p(data: Dataset) -> None:
    pairs = ((3, 8), (4, 9), (1, 7), (2, 3), (6, 8), (0, 5))
    limits = [ratio_without_dropout(*logistic_regression(data, pair, 0.01)) for pair in pairs]
    assert (round(min(limits), 2), round(max(limits), 2)) == (1.04, 1.41)
    z, w, b = logistic_regression(data, (3, 8), 0.01)
    errors = [abs(penalty_ratios(z, w, b, (p,))[0] - ratio_without_dropout(z, w, b)) for p in (1e-2, 1e-3, 1e-4)]
    assert errors[0] > 5 * errors[1] > 25 * errors[2]
    assert errors[2] < 1e-3


@pytest.mark.claim("quadratic-form-approximate")
@pytest.mark.parametrize("pairs", QUADRATIC_BLOCKS)
def test_at_small_weights_the_quadratic_form_is_good(data: Dataset, pairs: tuple[tuple[int, int], ...]) -> None:
    for pair in pairs:
        ratios = penalty_ratios(*logistic_regression(data, pair, 0.1), (0.01, 0.1, 0.3, 0.5))
        print(f"digits {pair}, ridge .1: exact/quadratic {np.round(ratios, 3)}")
        assert np.abs(ratios - 1).max() < 0.06


@pytest.mark.claim("quadratic-form-approximate")
def test_the_quadratic_form_becomes_exact_as_the_weights_shrink(data: Dataset) -> None:
    z, w, b = logistic_regression(data, (3, 8), 0.01)
    errors = [np.abs(penalty_ratios(z, factor * w, b, (0.1, 0.5)) - 1).max() for factor in (1.0, 0.1, 0.01)]
    assert errors[0] > 3 * errors[1] > 9 * errors[2]
    assert errors[2] < 0.01


# --- noise beside noise --------------------------------------------------------------------------------------------


@pytest.mark.claim("like-gaussian-noise")
@pytest.mark.statistical(comparisons=3)
def test_penalties_of_dropout_multiplicative_and_additive_noise(data: Dataset, seed: int, alarm: Alarm) -> None:
    """In linear regression the penalty of a noise is the variance of the prediction."""
    x, _, _, _ = ink(data)
    x, w, p, n = x[0], np.linspace(-2, 3, 32), 0.3, 100_000
    rng = np.random.default_rng(seed)
    same_as_dropout = p / (1 - p) * np.sum(w**2 * x**2)
    additive = 0.2**2 * np.sum(w**2)
    mean = x @ w
    # Gaussian noise has no bound; 40 standard deviations are never seen.
    for noisy, variance, what in (
        (InvertedDropout(p, seed)(np.tile(x, (n, 1))), same_as_dropout, "dropout"),
        (x * rng.normal(1, (p / (1 - p)) ** 0.5, (n, 32)), same_as_dropout, "multiplicative noise"),
        (x + rng.normal(0, 0.2, (n, 32)), additive, "additive noise"),
    ):
        squares = (noisy @ w - mean) ** 2
        alarm.total(squares.sum(), n * variance, n * squares.var(), 1600 * variance, what)
    assert abs(same_as_dropout / additive - 1) > 0.5


@pytest.mark.claim("like-gaussian-noise")
def test_dropouts_penalty_does_not_depend_on_units_and_additive_noises_does(data: Dataset) -> None:
    x, t, _, _ = ink(data)
    w, _ = least_squares(x, t, 0.5)
    units = np.geomspace(0.1, 10, 32)
    size = np.mean(x**2, axis=0)
    other_w, other_size = w / units, np.mean((x * units) ** 2, axis=0)
    assert np.sum(other_w**2 * other_size) == pytest.approx(np.sum(w**2 * size), rel=1e-12)
    assert abs(np.sum(other_w**2) / np.sum(w**2) - 1) > 0.1
    used = size > 0
    alike = x[:, used] / np.sqrt(size[used])
    assert np.sum(w[used] ** 2 * np.mean(alike**2, axis=0)) == pytest.approx(np.sum(w[used] ** 2), rel=1e-12)


# --- before a squared-error head -----------------------------------------------------------------------------------


def heads(data: Dataset, features: int, seed: int) -> tuple[list[float], list[float]]:
    """Return test MSE and variance of the test predictions at p = 0, .2, .5, .8, on random ReLU features."""
    x, t, x_test, t_test = ink(data)
    weights = np.random.default_rng(np.random.PCG64(seed)).standard_normal((32, features)) / 4
    h, h_test = np.maximum(x @ weights, 0), np.maximum(x_test @ weights, 0)
    predictions = [h_test @ w + b for w, b in (least_squares(h, t, p) for p in (0.0, *RATES))]
    return [float(np.mean((f - t_test) ** 2)) for f in predictions], [float(f.var()) for f in predictions]


HEAD_BLOCKS = [
    pytest.param(range(5), id="first"),
    pytest.param(range(1000, 1005), id="second", marks=pytest.mark.long),
]


@pytest.mark.claim("squared-error-head")
@pytest.mark.parametrize("seeds", HEAD_BLOCKS)
def test_dropout_before_the_head_shrinks_predictions_harms_narrow_and_helps_wide(data: Dataset, seeds: range) -> None:
    for features, sign in ((32, 1), (512, -1)):
        for seed in seeds:
            errors, variances = heads(data, features, seed)
            print(f"{features} features, seed {seed}: MSE {np.round(errors, 3)}, variance {np.round(variances, 3)}")
            assert np.all(np.diff(variances) < 0)
            assert sign * (errors[2] - errors[0]) > 0


@pytest.mark.claim("squared-error-head")
@pytest.mark.parametrize("p", RATES)
def test_the_mean_of_the_training_predictions_is_the_evaluation_prediction(
    ten_pixels: tuple[Array, Array], p: float
) -> None:
    """The head itself does not shift: it is affine. Its predictions get a variance of p/q sum w_j^2 x_j^2."""
    (x, t), q = ten_pixels, 1 - p
    w, b = least_squares(x, t, p)
    masks, probability = all_masks(10, p)
    predictions = (masks * w / q) @ x[:50].T + b
    mean = probability @ predictions
    np.testing.assert_allclose(mean, x[:50] @ w + b, rtol=1e-12)
    np.testing.assert_allclose(probability @ (predictions - mean) ** 2, p / q * (x[:50] ** 2 @ w**2), rtol=1e-9)


# --- learning rates ------------------------------------------------------------------------------------------------


def stored_scores(block: str) -> dict[str, Array]:
    return {case: np.array(values) for case, values in load("learning_rate")["scores"][block].items()}


def decided(block: str, *names: str) -> dict[str, Judgement]:
    """Judge conclusions anew from a block's stored scores, and print them."""
    found = {c.id: judge(c, stored_scores(block)) for c in CONCLUSIONS if c.id in names}
    assert set(found) == set(names)
    for name, judgement in found.items():
        print(f"{block} block: {name}: {judgement}")
    return found


ROBUST = {
    "higher-p-lower-lr": (
        "sgd-inverted-same-at-2",
        "sgd-inverted-same-at-5-if-short",
        "sgd-standard-rises",
        "sgd-standard-above-inverted",
        "keeping-the-rate-costs",
    ),
    "dropout-lr-ten-to-hundred": ("sgd-standard-rises", "sgd-standard-below-ten-times"),
    "adam-instead": ("adam-inverted-does-not-fall", "not-by-momentum", "adam-does-not-undo-it"),
}
FLIPPED = (
    "sgd-inverted-falls",
    "sgd-inverted-falls-at-5-if-long",
    "keeping-the-rate-is-free-at-2",
    "adam-better-at-8",
    "adam-better-at-8-standard",
    "adam-same-at-2",
    "adam-gain-grows",
)


def test_each_conclusion_is_called_robust_or_not() -> None:
    assert sorted({name for names in ROBUST.values() for name in names} | set(FLIPPED)) == sorted(
        c.id for c in CONCLUSIONS
    )


def all_hold(block: str, claim: str) -> None:
    failed = [name for name, judgement in decided(block, *ROBUST[claim]).items() if not judgement["holds"]]
    assert failed == [], f"{block} block"


@pytest.mark.claim("higher-p-lower-lr")
@pytest.mark.parametrize("block", ["first", "second"])
def test_the_best_rate_of_standard_dropout_rises_with_p(block: str) -> None:
    all_hold(block, "higher-p-lower-lr")
    best = decided(block, "sgd-standard-rises")["sgd-standard-rises"]["intervals"]
    assert all(3.6 < 10**mean < 5.3 for _, mean, _ in best.values())


@pytest.mark.claim("higher-p-lower-lr")
@pytest.mark.parametrize("block", ["first", "second"])
def test_the_best_rate_of_inverted_dropout_falls_at_high_p_in_short_training(block: str) -> None:
    intervals = decided(block, "sgd-inverted-falls")["sgd-inverted-falls"]["intervals"]
    assert intervals["200"][2] < 0
    assert intervals["1000"][1] < 0, "the mean falls; the interval of the second block reaches 0"
    cost = decided(block, "keeping-the-rate-costs")["keeping-the-rate-costs"]["intervals"]
    assert all(0.16 < mean < 0.37 for _, mean, _ in cost.values())


@pytest.mark.claim("dropout-lr-ten-to-hundred")
@pytest.mark.parametrize("block", ["first", "second"])
def test_the_best_rate_of_standard_dropout_is_not_ten_times_that_without(block: str) -> None:
    all_hold(block, "dropout-lr-ten-to-hundred")


@pytest.mark.claim("dropout-lr-ten-to-hundred")
def test_the_best_rate_of_standard_dropout_is_nine_to_ten_times_that_of_inverted() -> None:
    """Between 1, for the layer before the dropouts, and 1/q**2 = 25, for those behind them."""
    for block in ("first", "second"):
        change = change_of_rate(STANDARD_8, SGD_8)
        for at in CHECKPOINTS:
            mean = interval(change(Block(stored_scores(block)), at)).mean
            assert 9 < 10**mean <= 10.01


@pytest.mark.claim("adam-instead")
@pytest.mark.parametrize("block", ["first", "second"])
def test_adam_needs_no_lower_rate_and_does_not_undo_the_noise(block: str) -> None:
    all_hold(block, "adam-instead")


@pytest.mark.claim("adam-instead")
def test_that_adam_ends_with_a_more_accurate_network_is_not_robust() -> None:
    intervals = [
        found
        for block in ("first", "second")
        for judgement in decided(block, "adam-better-at-8", "adam-better-at-8-standard").values()
        for found in judgement["intervals"].values()
    ]
    assert all(0.005 < mean < 0.095 for _, mean, _ in intervals), "ahead on average"
    assert sum(low <= 0 for low, _, _ in intervals) == 3, "and yet three of eight intervals reach 0"


@pytest.mark.parametrize("name", FLIPPED)
def test_what_is_called_not_robust_does_flip(name: str) -> None:
    assert not all(decided(block, name)[name]["holds"] for block in ("first", "second"))
