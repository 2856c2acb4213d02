"""The claims of the chapter "variants", each decided by running it, by enumeration or in closed form.

Nothing is trained here. That whole channels are not seen to be better than elements is read from the stored study of
the chapter "batch-norm", whose conclusions carry their own rules.
"""

from __future__ import annotations

import itertools
import math
import warnings
from functools import cache
from typing import Any

import numpy as np
import pytest
from scipy.stats import norm  # type: ignore[import-untyped]
from scipy.stats import t as student

from dropoutlib.batchnorm import BatchNorm1d, variance_shift
from dropoutlib.data import mnist5k
from dropoutlib.layers import InvertedDropout, StandardDropout
from dropoutlib.stored import load
from dropoutlib.variants import (
    SELU_FLOOR,
    AlphaDropout,
    AttentionDropout,
    DropBlock,
    EarlyDropout,
    GaussianDropout,
    RecurrentDropout,
    SpatialDropout,
)
from tests.statistics import Alarm

Array = np.ndarray[Any, Any]
RATES = (0.1, 0.2, 0.3, 0.5, 0.8)


def bits(n: int) -> Array:
    """Return all masks of n elements."""
    return np.array(list(itertools.product([0, 1], repeat=n)))


def chances(masks: Array, p: float) -> Array:
    return np.asarray(np.prod(np.where(masks, 1 - p, p), axis=1))


@cache
def images() -> Array:
    return mnist5k().test.x.reshape(-1, 28, 28)


# --- who shares a draw ---------------------------------------------------------------------------------------------


@pytest.mark.claim("same-noise-other-correlation")
@pytest.mark.parametrize("p", RATES)
@pytest.mark.parametrize("labels", [[0, 1, 2, 3, 4], [0, 0, 1, 1, 1], [0, 0, 0, 0, 0], [0, 1, 0, 1, 2]])
def test_one_element_cannot_tell_and_a_sum_can(p: float, labels: list[int]) -> None:
    """Exact, over all draws: elements have variance x^2 p / q; a sum has p / q times its groups' squared sums."""
    x, w = np.array([1.0, -2.0, 0.5, 1.5, 3.0]), np.array([1.0, 0.3, -2.0, 0.7, 1.0])
    draws = bits(max(labels) + 1)
    chance, y = chances(draws, p), draws[:, labels] / (1 - p) * x
    np.testing.assert_allclose(chance @ y, x, rtol=1e-12)
    np.testing.assert_allclose(chance @ (y - x) ** 2, x**2 * p / (1 - p), rtol=1e-12)
    groups = [sum(w[j] * x[j] for j in range(5) if labels[j] == label) for label in set(labels)]
    found = chance @ ((y - x) @ w) ** 2
    assert found == pytest.approx(p / (1 - p) * np.square(groups).sum(), rel=1e-12)


@pytest.mark.claim("same-noise-other-correlation")
def test_the_mean_of_nine_equal_elements() -> None:
    """A ninth of the variance with own draws, all of it with one."""
    masks = bits(9)
    y = masks.mean(axis=1) / 0.8
    assert chances(masks, 0.2) @ (y - 1) ** 2 == pytest.approx(0.25 / 9, rel=1e-12)
    both = np.array([0, 1 / 0.8])
    assert np.array([0.2, 0.8]) @ (both - 1) ** 2 == pytest.approx(0.25, rel=1e-12)


def patches(x: Array) -> Array:
    return np.lib.stride_tricks.sliding_window_view(x, (3, 3), (-2, -1))


@pytest.mark.claim("neighbours-average-the-noise")
def test_dropped_channels_make_six_times_the_noise_of_dropped_pixels() -> None:
    """In closed form over all patches of 3 x 3, and for the images of each digit."""
    labels = mnist5k().test.y
    for chosen, least, most in [(slice(None), 6.0, 7.0), *((labels == digit, 5.5, 7.5) for digit in range(10))]:
        windows = patches(images()[chosen])
        elements = (windows**2).sum(axis=(-1, -2)).mean() / 81
        channels = (windows.mean(axis=(-1, -2)) ** 2).mean()
        assert least < channels / elements < most


@pytest.mark.claim("neighbours-average-the-noise")
def test_the_noise_of_the_layers_is_that_of_the_closed_form() -> None:
    x, p = images()[:200, None], 0.2
    windows = patches(x)
    clean, noise = windows.mean(axis=(-1, -2)), {}
    for layer in (InvertedDropout(p, 0), SpatialDropout(p, 0)):
        found = [(patches(layer(x)).mean(axis=(-1, -2)) - clean) ** 2 for _ in range(20)]
        noise[type(layer).__name__] = np.mean(found)
    assert noise["InvertedDropout"] == pytest.approx(0.25 * (windows**2).sum(axis=(-1, -2)).mean() / 81, rel=0.02)
    assert noise["SpatialDropout"] == pytest.approx(0.25 * (clean**2).mean(), rel=0.1)


def interval(differences: Array) -> tuple[float, float]:
    """Return the 95 % interval of a mean over seeds."""
    half = student.ppf(0.975, len(differences) - 1) * differences.std(ddof=1) / math.sqrt(len(differences))
    return float(differences.mean() - half), float(differences.mean() + half)


@pytest.mark.claim("spatial-instead-of-elements")
def test_whole_channels_are_not_seen_to_be_better() -> None:
    """In both blocks of seeds, with and without BatchNorm, p chosen for each seed by validation NLL as in the study.

    At p = .5 with BatchNorm channels lose less than elements; this was read off afterwards and is stated so.
    """
    study = load("batch_norm_conv")
    choice, accuracy = study["columns"].index("validation NLL"), study["columns"].index("test accuracy")
    for block, suffix in itertools.product(("first", "second"), ("", ", without BN")):
        scores = {name: np.array(rows) for name, rows in study["scores"][block].items()}

        def chosen(placement: str, scores: dict[str, Array] = scores, suffix: str = suffix) -> Array:
            rates = np.stack([scores[f"{placement} {p}{suffix}"] for p in (0.2, 0.5)])
            best = rates[:, :, choice].argmin(axis=0)
            return np.asarray(rates[best, np.arange(best.size), accuracy])

        for other in (chosen("conv"), scores[f"none{suffix}"][:, accuracy]):
            low, high = interval(chosen("spatial") - other)
            assert low < 0
            assert high < 0.01
        if not suffix:
            half = interval((scores["spatial 0.5"] - scores["conv 0.5"])[:, accuracy])
            assert 0 < half[0] < 0.02 < half[1]
    conclusions = study["conclusions"]
    worse = conclusions["spatial-worse-without-bn"]
    assert [worse[block]["holds"] for block in ("first", "second")] == [False, True], "stated as not robust"
    nothing = conclusions["spatial-gains-nothing-with-bn"]
    assert all(nothing[block]["holds"] for block in ("first", "second"))


# --- squares -------------------------------------------------------------------------------------------------------


@pytest.mark.claim("dropblock-p-is-nominal")
@pytest.mark.statistical(comparisons=6)
def test_dropblock_drops_less_than_p(seed: int, alarm: Alarm) -> None:
    """The exact share by `keep_probability`; the layer's count of kept corners and middles agrees."""
    shares = {p: 1 - DropBlock(p, block_size=7).keep_probability(14, 14).mean() for p in (0.1, 0.2, 0.5)}
    assert [round(share, 2) for share in shares.values()] == [0.09, 0.17, 0.36]
    for size, block_size, p in itertools.product((7, 14, 28), (2, 3, 7), RATES):
        if block_size < size:
            assert 1 - DropBlock(p, block_size=block_size).keep_probability(size, size).mean() < p
    for p in (0.1, 0.2, 0.5):
        layer = DropBlock(p, seed, block_size=7)
        keep, y = layer.keep_probability(14, 14), layer(np.ones((4000, 14, 14)))
        for i in (0, 7):
            alarm.binomial(np.count_nonzero(y[:, i, i]), 4000, keep[i, i], f"kept at {i}")


@pytest.mark.claim("dropblock-normalisation")
def test_the_normalisation_mends_the_pass_and_not_the_element() -> None:
    layer = DropBlock(0.2, 0, block_size=7)
    for _ in range(20):
        assert layer(np.ones((4, 14, 14))).mean() == pytest.approx(1, abs=1e-12)
    keep = layer.keep_probability(14, 14)
    corner, middle = keep[0, 0] / keep.mean(), keep[7, 7] / keep.mean()
    assert (round(corner, 1), round(middle, 2)) == (1.2, 0.65)
    mean = np.mean([layer(np.ones((200, 14, 14))) for _ in range(20)], axis=(0, 1))
    assert mean[0, 0] == pytest.approx(corner, abs=0.03)
    assert mean[7, 7] == pytest.approx(middle, abs=0.06)
    # The larger the map against the block, the nearer to 1 is the middle; the corner is not.
    middles = []
    for size in (14, 28, 56):
        wide = DropBlock(0.2, block_size=7).keep_probability(size, size)
        middles.append(wide[size // 2, size // 2] / wide.mean())
        assert wide[0, 0] / wide.mean() > 1.19
    assert middles == sorted(middles)
    assert middles[-1] > 0.94


# --- weights -------------------------------------------------------------------------------------------------------


def law(values: Array, chance: Array) -> dict[float, float]:
    """Return value: probability."""
    found: dict[float, float] = {}
    for value, probability in zip(values.round(9) + 0.0, chance, strict=True):
        found[float(value)] = found.get(float(value), 0.0) + float(probability)
    return found


@pytest.mark.claim("dropconnect-is-dropout-per-output")
@pytest.mark.parametrize("p", RATES)
def test_one_output_has_the_same_law_and_two_are_independent(p: float) -> None:
    """All 8 masks of dropout, all 64 of DropConnect."""
    W, x, q = np.array([[1.0, -2.0, 0.5], [1.0, 1.5, -1.0]]), np.array([1.0, 0.8, -1.2]), 1 - p
    units, weights = bits(3), bits(6)
    by_unit, by_weight = units[:, None] / q * W @ x, weights.reshape(-1, 2, 3) / q * W @ x
    for output in (0, 1):
        expected = law(by_unit[:, output], chances(units, p))
        assert law(by_weight[:, output], chances(weights, p)) == pytest.approx(expected, rel=1e-9)
    centred = by_unit - W @ x
    covariance = chances(units, p) @ centred.prod(axis=1)
    assert covariance == pytest.approx(p / q * np.sum(W[0] * W[1] * x**2), rel=1e-9)
    joint = law(by_weight @ np.array([1.0, math.pi]), chances(weights, p))
    first, second = (law(by_weight[:, o], chances(weights, p)) for o in (0, 1))
    product = {round(a + math.pi * b, 6): u * v for a, u in first.items() for b, v in second.items()}
    assert {round(key, 6): value for key, value in joint.items()} == pytest.approx(product, rel=1e-6)


# --- noise ---------------------------------------------------------------------------------------------------------


@pytest.mark.claim("gaussian-flips-signs")
@pytest.mark.statistical(comparisons=len(RATES))
def test_gaussian_dropout_flips_signs(seed: int, alarm: Alarm) -> None:
    for p in RATES:
        y = GaussianDropout(p, seed)(np.ones(50_000))
        alarm.binomial(np.count_nonzero(y < 0), 50_000, norm.cdf(-math.sqrt((1 - p) / p)), f"p = {p}")
        assert np.all(InvertedDropout(p, seed)(np.ones(1000)) >= 0)
    assert norm.cdf(-1) == pytest.approx(1 / 6, abs=0.01)


# --- two moments ---------------------------------------------------------------------------------------------------


def alpha_moments(values: Array, shares: Array, p: float) -> tuple[float, float]:
    """Return mean and variance after AlphaDropout of a population, exactly."""
    a, b = AlphaDropout(p).constants()
    y = np.concatenate([a * values + b, np.full(len(values), a * SELU_FLOOR + b)])
    chance = np.concatenate([(1 - p) * shares, p * shares])
    mean = float(chance @ y)
    return mean, float(chance @ (y - mean) ** 2)


@pytest.mark.claim("alpha-keeps-mean-and-variance")
@pytest.mark.parametrize("p", RATES)
def test_alpha_dropout_keeps_the_moments_of_one_population_only(p: float) -> None:
    standard: list[tuple[list[float], list[float]]] = [
        ([-1.0, 1.0], [0.5, 0.5]),
        ([-0.5, 2.0], [0.8, 0.2]),
        ([-2.0, 0.0, 2.0], [0.125, 0.75, 0.125]),
    ]
    for values, shares in standard:
        found = alpha_moments(np.array(values), np.array(shares), p)
        assert found == pytest.approx((0, 1), abs=1e-12)
    # Uniform on 0 to 1, and the standard ones with another mean or variance.
    grid, even = np.linspace(0, 1, 1001), np.full(1001, 1 / 1001)
    coins = np.array([-1.0, 1.0]), np.array([0.5, 0.5])
    for values_, shares_ in ((grid, even), (coins[0] + 3, coins[1]), (coins[0] / 2, coins[1])):
        mean, variance = alpha_moments(values_, shares_, p)
        before = float(shares_ @ values_), float(shares_ @ (values_ - shares_ @ values_) ** 2)
        assert abs(variance - before[1]) > 0.02
        if before[0]:
            assert abs(mean - before[0]) > 0.03
    assert pytest.approx(-1.758, abs=5e-4) == SELU_FLOOR
    a, b = AlphaDropout(p).constants()
    x = 2.0
    assert (1 - p) * (a * x + b) + p * (a * SELU_FLOOR + b) == pytest.approx(a * (1 - p) * x)
    assert a * (1 - p) < 1


# --- time ----------------------------------------------------------------------------------------------------------


@pytest.mark.claim("one-mask-mean-of-the-state")
@pytest.mark.parametrize("p", RATES)
@pytest.mark.parametrize("steps", [1, 2, 5])
def test_one_mask_gives_up_the_mean_of_the_state(p: float, steps: int) -> None:
    """Exact: fresh masks over all their combinations, one mask over its two values."""
    q = 1 - p
    fresh = bits(steps)
    states = np.prod(fresh / q, axis=1)
    assert chances(fresh, p) @ states == pytest.approx(1)
    assert chances(fresh, p) @ (states > 0) == pytest.approx(q**steps)
    held, layer = np.ones((1, 2000)), RecurrentDropout(p, 0)
    for _ in range(steps):
        held = layer(held)
    assert layer.mask is not None
    np.testing.assert_allclose(held, layer.mask * q**-steps, rtol=1e-12)
    assert q * q**-steps == pytest.approx(q ** (1 - steps))


@pytest.mark.claim("one-mask-mean-of-the-state")
@pytest.mark.parametrize("p", [0.2, 0.5])
def test_squashing_does_not_restore_the_mean(p: float) -> None:
    """Three tanh units with a dense recurrent matrix: the mean over all masks is not the state of evaluation."""
    U, inputs = np.array([[0.9, -0.5, 0.3], [0.4, 0.8, -0.6], [-0.7, 0.2, 0.9]]), np.array([0.5, -0.3, 0.8])

    def final(factor: Array) -> Array:
        h = np.zeros(3)
        for _ in range(6):
            h = np.tanh(U @ (factor * h) + inputs)
        return h

    masks = bits(3)
    mean = chances(masks, p) @ np.array([final(mask / (1 - p)) for mask in masks])
    assert np.abs(mean - final(np.ones(3))).max() > 0.05


@pytest.mark.claim("torch-lstm-dropout-is-not-recurrent")
@pytest.mark.parametrize("p", [0.3, 0.6])
@pytest.mark.statistical(comparisons=2)
def test_torchs_dropout_is_between_layers_and_fresh_at_each_step(p: float, seed: int, alarm: Alarm) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch = pytest.importorskip("torch")
    units, steps, rows = 40, 6, 50
    x = torch.ones(rows, steps, 1)
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        # Ones out of the first layer, handed on by the second: its outputs are the factors.
        rnn = torch.nn.RNN(1, units, num_layers=2, nonlinearity="relu", bias=False, batch_first=True, dropout=p)
        for name, value in rnn.named_parameters():
            value.zero_()
            if name == "weight_ih_l0":
                value.fill_(1)
            if name == "weight_ih_l1":
                value.copy_(torch.eye(units))
        factors = rnn(x)[0].numpy()
        # The state of an LSTM's first layer is that of evaluation, whatever is dropped behind it.
        lstm = torch.nn.LSTM(1, units, num_layers=2, batch_first=True, dropout=p)
        _, (training, _) = lstm(x)
        _, (evaluation, _) = lstm.eval()(x)
    np.testing.assert_allclose(factors[factors > 0], 1 / (1 - p), rtol=1e-6)
    kept = factors > 0
    alarm.binomial(np.count_nonzero(kept), kept.size, 1 - p, "kept")
    both = kept[:, 0::2] & kept[:, 1::2]
    alarm.binomial(np.count_nonzero(both), both.size, (1 - p) ** 2, "kept at two neighbouring steps")
    np.testing.assert_array_equal(training[0].numpy(), evaluation[0].numpy())
    assert not np.allclose(training[1].numpy(), evaluation[1].numpy())


# --- attention -----------------------------------------------------------------------------------------------------


@pytest.mark.claim("renormalising-attention")
@pytest.mark.parametrize("p", RATES)
def test_renormalising_exchanges_the_mean_for_the_sum(p: float) -> None:
    """Exact, over all masks of a peaked and a flat row of eight."""
    masks = bits(8)
    chance = chances(masks, p)
    for row in (np.r_[0.9, np.full(7, 0.1 / 7)], np.full(8, 1 / 8)):
        kept = masks * row
        plain = kept / (1 - p)
        sums = kept.sum(axis=1, keepdims=True)
        shares = np.divide(kept, sums, out=np.zeros_like(kept), where=sums > 0)
        np.testing.assert_allclose(chance @ plain, row, rtol=1e-12)
        spread = chance @ (plain.sum(axis=1) - 1) ** 2
        assert spread == pytest.approx(p / (1 - p) * np.sum(row**2), rel=1e-12)
        np.testing.assert_allclose(shares.sum(axis=1)[1:], 1, rtol=1e-12)
        moved = (chance @ shares)[0] - row[0]
        # A flat row loses only what the mask without anything left takes.
        assert moved < -0.05 if row[0] > 0.5 else moved == pytest.approx(-(p**8) / 8)


@pytest.mark.claim("renormalising-attention")
def test_the_peaked_row_of_the_chapter() -> None:
    """One weight of .9 and 63 others at p = .3: .65 on average."""
    row = np.r_[0.9, np.full(63, 0.1 / 63)]
    y = AttentionDropout(0.3, 0, renormalise=True)(np.tile(row, (20_000, 1)))
    assert y[:, 0].mean() == pytest.approx(0.65, abs=0.01)
    assert 0.7 * 0.9 < y[:, 0].mean() < 0.7
    np.testing.assert_allclose(y.sum(axis=1), 1, rtol=1e-12)


# --- LayerNorm -----------------------------------------------------------------------------------------------------


def layer_norm(x: Array) -> Array:
    centred = x - x.mean(axis=-1, keepdims=True)
    return np.asarray(centred / centred.std(axis=-1, keepdims=True))


@cache
def hidden() -> Array:
    """Return 512 ReLU units with random weights over images."""
    weights = np.random.default_rng(0).standard_normal((784, 512))
    return np.maximum(images()[:200].reshape(-1, 784) @ weights, 0)


@pytest.mark.claim("layernorm-shifts-the-mean")
@pytest.mark.parametrize("p", [0.1, 0.3, 0.5])
def test_layernorm_keeps_the_variance_and_shifts_the_mean(p: float) -> None:
    """The mean training output is that of evaluation, divided by the root of BatchNorm's ratio r."""
    x, layer = hidden(), InvertedDropout(p, 0)
    mean, evaluation = np.zeros_like(x), layer_norm(x)
    for _ in range(150):
        y = layer_norm(layer(x))
        np.testing.assert_allclose(y.var(axis=1), 1, rtol=1e-9)
        np.testing.assert_allclose(y.mean(axis=1), 0, atol=1e-9)
        mean += y / 150
    shrunk = evaluation / np.sqrt(variance_shift(x.mean(axis=1), x.var(axis=1), p))[:, None]
    slope = np.sum(mean * evaluation) / np.sum(evaluation**2)
    assert slope == pytest.approx(np.sum(shrunk * evaluation) / np.sum(evaluation**2), rel=0.02)
    assert np.abs(mean - shrunk).mean() < 0.25 * np.abs(mean - evaluation).mean()
    if p == 0.5:
        assert 1 / slope == pytest.approx(1.6, abs=0.05)


@pytest.mark.claim("layernorm-shifts-the-mean")
@pytest.mark.parametrize("p", [0.3, 0.5])
def test_batchnorm_keeps_the_mean_and_shifts_the_variance(p: float) -> None:
    """The other way round, on the units that are on for many images."""
    x = hidden()
    x = x[:, (x > 0).mean(axis=0) > 0.3]
    layer, bn = InvertedDropout(p, 0), BatchNorm1d(x.shape[1])
    mean, variance = np.zeros_like(x), 0.0
    for _ in range(150):
        y = bn(layer(x))
        mean, variance = mean + y / 150, variance + y.var() / 150
    evaluation = bn.eval()(x)
    assert np.sum(mean * evaluation) / np.sum(evaluation**2) == pytest.approx(1, abs=0.03)
    assert variance / evaluation.var() > 1 / (1 - p)


@pytest.mark.claim("layernorm-cancels-the-scale")
@pytest.mark.parametrize("p", RATES)
def test_before_a_layernorm_the_scale_does_nothing(p: float) -> None:
    x = hidden()[:20]
    inverted, standard = (layer(p, 3)(x) for layer in (InvertedDropout, StandardDropout))
    assert not np.allclose(inverted, standard)
    np.testing.assert_allclose(layer_norm(inverted), layer_norm(standard), rtol=1e-9, atol=1e-12)


# --- transformers --------------------------------------------------------------------------------------------------


@pytest.mark.claim("one-rate-several-noises")
@pytest.mark.parametrize("seed", range(5))
def test_attention_dropout_makes_less_noise_than_the_same_rate_on_the_output(seed: int) -> None:
    """Root mean square noise of a branch over its size: in closed form for the weights, and root p/q for the output."""
    rng, d, p = np.random.default_rng(seed), 64, 0.1
    tokens = images()[:10]
    h = layer_norm(tokens @ rng.standard_normal((28, d)) / np.sqrt(28) + 0.1 * rng.standard_normal((28, d)))
    scores = (h @ rng.standard_normal((d, d)) / np.sqrt(d)) @ (h @ rng.standard_normal((d, d)) / np.sqrt(d)).swapaxes(
        1, 2
    )
    a = np.exp(scores / np.sqrt(d))
    a /= a.sum(axis=-1, keepdims=True)
    values = h @ rng.standard_normal((d, d)) / np.sqrt(d)
    size = np.mean((a @ values) ** 2)
    noise = p / (1 - p) * np.mean(a**2 @ values**2)
    layer = AttentionDropout(p, seed)
    measured = np.mean([((layer(a) - a) @ values) ** 2 for _ in range(50)])
    assert measured == pytest.approx(noise, rel=0.05)
    assert np.sqrt(noise / size) < 0.75 * np.sqrt(p / (1 - p))
    branch = a @ values
    elements = np.mean([(InvertedDropout(p, 100 * seed + k)(branch) - branch) ** 2 for k in range(20)])
    assert elements == pytest.approx(p / (1 - p) * size, rel=0.03)
    # A whole branch is there, times 1/q, or not: the same mean square, exactly.
    whole = (1 - p) * np.mean((branch / (1 - p) - branch) ** 2) + p * size
    assert whole == pytest.approx(p / (1 - p) * size, rel=1e-12)


@pytest.mark.claim("one-rate-several-noises")
def test_a_streams_variance_grows_by_less_than_one_over_q() -> None:
    """With the embedding undropped, (e + n b / q) / (e + n b) < 1 / q for branches of any size and number."""
    for p, embedding, branch, blocks in itertools.product(RATES, (0.1, 1.0, 10.0), (0.1, 1.0), (1, 12, 100)):
        q = 1 - p
        ratio = (embedding + blocks * branch / q) / (embedding + blocks * branch)
        assert 1 < ratio < 1 / q


# --- early ---------------------------------------------------------------------------------------------------------


@pytest.mark.claim("early-dropout-ends-the-shift")
@pytest.mark.parametrize("decay", ["constant", "linear"])
@pytest.mark.parametrize("p", [0.3, 0.5])
def test_after_early_dropout_training_is_evaluation(decay: Any, p: float) -> None:
    x = np.random.default_rng(0).standard_normal((400, 20))
    layer, bn, ratios = EarlyDropout(p, 0, steps=50, decay=decay), BatchNorm1d(20), []
    for step in range(101):
        bn(layer.at(step)(x))
        ratios.append(float(np.mean(bn.running_var / x.var(axis=0, ddof=1))))
    assert max(ratios[:50]) > 1 + 0.7 * p
    assert ratios[100] == pytest.approx(1, abs=0.005)
    np.testing.assert_array_equal(layer.at(50).train()(x), layer.eval()(x))
