"""The claims of the chapter "inference", each decided by running it.

The experiments train the chapter's Keras model, 784-64-10 (64-64-10 on the digits), ten epochs, on the training split
and score the test split; nothing is chosen on either. Conclusions and rules were written down after a pilot with the
seeds 900 to 903 and before the two blocks below were run. A mistake is a factor on the hidden activations at
inference: 1/p gives p/(1-p), scaling as well gives 1-p, a forgotten scale gives 1/(1-p).

1. No scale mistake shows in accuracy: |mean paired change| <= .025 for each mistake at each p.
2. At p = .5 the factor of 1/p changes nothing: all changes are 0.
3. NLL rises in each network: 1/p and scaled as well at .2, scaled as well and forgotten at .5, all three at .8.
4. NLL is blind to a forgotten scale at p = .2: |mean change| < .03.
5. ECE rises by more than .1 in each network where outputs are at most half as large: 1/p at .2, scaled as well at
   .5 and .8.
6. ECE does not rise where outputs are too large: mean change <= .005 for forgotten at each p and 1/p at .8.
7. The right networks are underconfident: mean confidence below accuracy in each network.
8. Dropout left on costs accuracy in each network (mean of 20 passes), over .02 on average at .5 and over .1 at .8.
9. Two passes disagree, more so at higher p in each network, and on 5 % to 25 % of the images at p = .5.
10. The mean of 100 passes gives the class of the evaluation, and of another such mean, for 98 % of the images (95 % at
    p = .8).
11. On the digits at p = .5 a forgotten scale lowers NLL and ECE in each network.
12. Two occlusion maps of an image correlate perfectly without dropout, and below .5 on average with it (p = .5).
13. Trained from scratch with the wrong layer (NumPy, Adam; 1/p at .2, forgotten at .8), rule 1 holds, and for 1/p at .2
    NLL rises by more than .1 in each network.

All held in both blocks. Means, with half the width of a paired 95 % interval:

==  ======================================  ==============================  ==============================
    figure                                  seeds 0 to 3 (chapter)          seeds 100 to 107 (long)
==  ======================================  ==============================  ==============================
1   accuracy, scaled as well at .8          -.017 +- .024                   -.012 +- .005
1   accuracy, the largest of the others     -.001 +- .006                   +.002 +- .002
3   NLL, 1/p at .2                          .240 +.637 +- .030              .248 +.634 +- .010
3   NLL, scaled as well at .2, .5, .8       +.020, +.196, +1.035            +.019, +.198, +1.034
3   NLL, forgotten at .5, .8                +.047 +- .014, +.220 +- .047    +.046 +- .006, +.225 +- .023
3   NLL, 1/p at .8                          +.116 +- .037                   +.121 +- .019
4   NLL, forgotten at .2                    +.002 +- .003                   +.003 +- .002
5   ECE, 1/p at .2                          .032 +.447 +- .017              .027 +.449 +- .007
5   ECE, scaled as well at .5, .8           +.181, +.518                    +.181, +.525
6   ECE, forgotten at .2, .5, .8            -.018, -.004, -.040             -.011, -.003, -.042
6   ECE, 1/p at .8                          -.047 +- .004                   -.050 +- .013
7   accuracy minus confidence, .2, .5, .8   .023, .034, .108                .020, .034, .106
8   accuracy of one pass at .2, .5, .8      -.018, -.046, -.207             -.017, -.049, -.212
9   two passes disagree at .2, .5, .8       .066, .131, .417                .067, .135, .423
10  mean of 100 agrees with evaluation      .996, .992, .981                .995, .993, .982
10  and with another mean                   .996, .992, .979                .994, .989, .978
11  digits, NLL and ECE, forgotten at .5    .509 -.265, .275 -.206          .502 -.252, .262 -.196
12  correlation of two maps                 1 off, .11 on                   1 off, .13 on
13  accuracy of both; NLL of 1/p at .2      -.001, -.012; +.41              +.005, -.020; +.43 (100 to 103)
==  ======================================  ==============================  ==============================
"""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
import warnings
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dropoutlib.checks import identify
from dropoutlib.data import Dataset, digits, mnist5k
from dropoutlib.layers import InvertedDropout, StandardDropout
from dropoutlib.metrics import accuracy, expected_calibration_error, nll
from dropoutlib.network import SGD, Adam, Linear, ReLU, Sequential, softmax, softmax_cross_entropy

RATES = (0.2, 0.5, 0.8)
MISTAKES: dict[str, Callable[[float], float]] = {
    "1/p": lambda p: p / (1 - p),
    "scaled as well": lambda p: 1 - p,
    "forgotten": lambda p: 1 / (1 - p),
}
BLOCKS = [
    pytest.param(range(4), id="chapter"),
    pytest.param(range(100, 108), id="other", marks=pytest.mark.long),
]
DATA = {"mnist5k": mnist5k, "digits": digits}

Weights = list[np.ndarray]


@lru_cache
def data_set(name: str) -> Dataset:
    return DATA[name](np.float32)


def network(data: Dataset, p: float, seed: int) -> Any:
    """Return the chapter's Keras model."""
    import keras

    keras.utils.set_random_seed(seed)
    return keras.Sequential(
        [
            keras.Input(data.train.x.shape[1:]),
            keras.layers.Dense(64, activation="relu"),
            keras.layers.Dropout(p),
            keras.layers.Dense(10, activation="softmax"),
        ]
    )


def prepared(data: Dataset, p: float, seed: int) -> Any:
    model = network(data, p, seed)
    model.compile("adam", "sparse_categorical_crossentropy", steps_per_execution=16, jit_compile=False)
    return model


def train(data: Dataset, p: float, seed: int, epochs: int = 10) -> Any:
    """Train it as the chapter does."""
    model = prepared(data, p, seed)
    model.fit(data.train.x, data.train.y, epochs=epochs, verbose=0)
    return model


@lru_cache
def compiled(name: str, p: float) -> tuple[Any, list[np.ndarray]]:
    """Return a model, and its optimizer's variables before it was trained."""
    model = prepared(data_set(name), p, 0)
    model.optimizer.build(model.trainable_variables)
    return model, [variable.numpy() for variable in model.optimizer.variables]


@lru_cache
def trained_weights(name: str, p: float, seed: int) -> tuple[np.ndarray, ...]:
    """Return the weights that `train` gives, of a model that is compiled once for all seeds."""
    (model, initial), data = compiled(name, p), data_set(name)
    start = [variable.numpy() for variable in network(data, p, seed).variables]
    for variable, value in zip([*model.variables, *model.optimizer.variables], [*start, *initial], strict=True):
        variable.assign(value)
    model.fit(data.train.x, data.train.y, epochs=10, verbose=0)
    return tuple(model.get_weights())


@pytest.fixture(scope="module")
def model() -> Any:
    return train(data_set("mnist5k"), 0.5, 0)


@pytest.fixture(scope="module")
def x() -> np.ndarray:
    return data_set("mnist5k").test.x


def hidden(x: np.ndarray, weights: Weights) -> np.ndarray:
    result: np.ndarray = np.maximum(x @ weights[0] + weights[1], 0)
    return result


def head(h: np.ndarray, weights: Weights) -> np.ndarray:
    return softmax(h @ weights[2] + weights[3])


def scores(probs: np.ndarray, labels: np.ndarray) -> list[float]:
    return [accuracy(probs, labels), nll(probs, labels), expected_calibration_error(probs, labels)]


class Block:
    """What the networks of one block of seeds do right and wrong; axes: networks, then accuracy, NLL and ECE."""

    def __init__(self, name: str, seeds: range, rates: tuple[float, ...] = RATES) -> None:
        self.right: dict[float, np.ndarray] = {}
        self.wrong: dict[tuple[str, float], np.ndarray] = {}
        self.one_pass: dict[float, np.ndarray] = {}
        self.flips: dict[float, np.ndarray] = {}
        self.agreement: dict[float, np.ndarray] = {}
        self.doubt: dict[float, np.ndarray] = {}
        x, y = data_set(name).test
        for p in rates:
            networks = [list(trained_weights(name, p, seed)) for seed in seeds]
            rights = [head(hidden(x, w), w) for w in networks]
            self.right[p] = np.array([scores(probs, y) for probs in rights])
            self.doubt[p] = self.right[p][:, 0] - [probs.max(axis=1).mean() for probs in rights]
            for mistake, factor in MISTAKES.items():
                probs = [head(factor(p) * hidden(x, w), w) for w in networks]
                self.wrong[mistake, p] = np.array([scores(f, y) for f in probs])
            layer = InvertedDropout(p, seed=seeds[0])
            rows = [self._passes(layer, x, y, w) for w in networks]
            self.one_pass[p] = np.array([row[0] for row in rows])
            self.flips[p] = np.array([row[1] for row in rows])
            self.agreement[p] = np.array([row[2] for row in rows])

    @staticmethod
    def _passes(
        layer: InvertedDropout, x: np.ndarray, y: np.ndarray, weights: Weights
    ) -> tuple[np.ndarray, float, list[float]]:
        """Return one pass's mean scores, how many classes two passes disagree on, and what 100 passes agree on."""
        h = hidden(x, weights)
        evaluation = head(h, weights).argmax(axis=1)
        passes = np.array([head(layer(h), weights) for _ in range(200)])
        classes = passes.argmax(axis=2)
        means = [passes[:100].mean(axis=0).argmax(axis=1), passes[100:].mean(axis=0).argmax(axis=1)]
        one_pass = np.mean([scores(probs, y) for probs in passes[:20]], axis=0)
        flips = float(np.mean(classes[::2] != classes[1::2]))
        return one_pass, flips, [float(np.mean(means[0] == evaluation)), float(np.mean(means[0] == means[1]))]

    def change(self, mistake: str, p: float) -> np.ndarray:
        """Return the change of accuracy, NLL and ECE, one row a network."""
        change: np.ndarray = self.wrong[mistake, p] - self.right[p]
        return change

    def report(self) -> None:
        """Print the figures, mean and half the width of a 95 % interval."""
        from scipy.stats import t

        for p, right in self.right.items():
            n = len(right)
            half = t.ppf(0.975, n - 1) / np.sqrt(n)
            print(f"p = {p}, {n} networks; right: {np.round(right.mean(axis=0), 3)}")
            for name, change in [(m, self.change(m, p)) for m in MISTAKES] + [("left on", self.one_pass[p] - right)]:
                texts = [f"{c.mean():+.3f} ± {half * c.std(ddof=1):.3f}" for c in change.T]
                print(f"  {name:15} accuracy {texts[0]}   NLL {texts[1]}   ECE {texts[2]}")
            print(f"  accuracy minus confidence, right: {self.doubt[p].round(3)}")
            print(f"  two passes disagree on {self.flips[p].mean():.3f} ± {half * self.flips[p].std(ddof=1):.3f}")
            print(
                f"  mean of 100 passes agrees with evaluation, another mean: {self.agreement[p].mean(axis=0).round(3)}"
            )


@pytest.fixture(scope="module", params=BLOCKS)
def block(request: pytest.FixtureRequest) -> Block:
    result = Block("mnist5k", request.param)
    result.report()
    return result


def test_a_model_that_is_trained_again_from_another_start_ends_as_a_new_one_does(model: Any) -> None:
    trained_weights("mnist5k", 0.5, 1)
    for again, anew in zip(trained_weights("mnist5k", 0.5, 0), model.get_weights(), strict=True):
        np.testing.assert_array_equal(again, anew)


# --- what the layer holds ------------------------------------------------------------------------------------------


@pytest.mark.claim("dropout-has-no-weights")
def test_the_layer_has_no_weights_before_and_after_training(model: Any) -> None:
    import keras

    for layer in (keras.layers.Dropout(0.5), model.layers[1]):
        assert layer.get_weights() == []
        assert layer.weights == []
        assert layer.trainable_variables == []
        assert layer.count_params() == 0
    dense = (model.layers[0], model.layers[2])
    assert model.count_params() == sum(layer.count_params() for layer in dense) == 784 * 64 + 64 + 64 * 10 + 10


@pytest.mark.claim("dropout-has-no-weights")
def test_pytorch_and_flax_layers_have_no_weights_either() -> None:
    import torch
    from flax import nnx

    assert torch.nn.Dropout(0.5).state_dict() == {}
    assert list(torch.nn.Dropout(0.5).parameters()) == []
    assert not nnx.state(nnx.Dropout(0.5, rngs=nnx.Rngs(0)), nnx.Param)


@pytest.mark.claim("get-weights-shows-no-mask")
def test_no_mask_is_stored_after_a_training_pass(model: Any, x: np.ndarray) -> None:
    layer = model.layers[1]
    dropped = np.asarray(layer(np.ones((7, 64), np.float32), training=True)) == 0
    assert dropped.any()
    assert layer.get_weights() == []
    held = [value for value in vars(layer).values() if hasattr(value, "shape")]
    held += [variable for variable in layer.variables if tuple(variable.shape) != (2,)]
    assert held == [], "nothing of the size of a mask is kept"


@pytest.mark.claim("seed-state-outside-weights")
def test_one_seed_state_is_in_variables_and_not_in_weights(model: Any) -> None:
    import keras

    layer = model.layers[1]
    (state,) = layer.variables
    assert tuple(state.shape) == (2,)
    assert np.issubdtype(state.numpy().dtype, np.integer)
    assert layer.weights == []
    assert keras.layers.Dropout(0.0).variables == [], "without dropping there is nothing to draw"


@pytest.mark.claim("seed-state-outside-weights")
def test_training_passes_advance_the_state_and_predictions_do_not(model: Any, x: np.ndarray) -> None:
    import keras

    (state,) = model.layers[1].variables
    fresh = train(data_set("digits"), 0.5, 0, epochs=2)
    assert fresh.layers[1].variables[0].numpy()[1] == 2 * -(-1000 // 32), "one draw for each training step"
    before = state.numpy().tolist()
    model.predict(x, verbose=0)
    model.evaluate(x, data_set("mnist5k").test.y, verbose=0)
    model(x)
    assert state.numpy().tolist() == before
    model(x, training=True)
    assert state.numpy().tolist() == [before[0], before[1] + 1]
    assert keras.layers.Dropout(0.5, seed=1).variables[0].numpy().tolist() == [1, 0]


@pytest.mark.claim("seed-state-outside-weights")
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
def test_a_saved_file_does_not_hold_the_state(tmp_path: Path) -> None:
    import h5py
    import keras

    model = keras.Sequential([keras.Input((20,)), keras.layers.Dropout(0.5, seed=1), keras.layers.Dense(3)])
    batch = np.ones((4, 20), np.float32)
    first = np.asarray(model.layers[0](batch, training=True))
    for _ in range(2):
        model(batch, training=True)
    assert model.layers[0].variables[0].numpy().tolist() == [1, 3]
    model.save_weights(tmp_path / "model.weights.h5")
    shapes = {}
    with h5py.File(tmp_path / "model.weights.h5") as file:
        file.visititems(lambda name, item: shapes.update({name: item.shape}) if hasattr(item, "shape") else None)
    assert sorted(shapes.values()) == [(3,), (20, 3)]
    model.save(tmp_path / "model.keras")
    reloaded = keras.models.load_model(tmp_path / "model.keras").layers[0]
    assert reloaded.variables[0].numpy().tolist() == [1, 0]
    np.testing.assert_array_equal(reloaded(batch, training=True), first, "a resumed run replays its masks")


# --- what is scaled, and which weights are used --------------------------------------------------------------------


@pytest.mark.claim("activations-are-scaled")
@pytest.mark.parametrize("p", [0.1, *RATES])
def test_keras_scales_activations_by_one_over_q_and_no_weight(p: float) -> None:
    import keras

    y = np.asarray(keras.layers.Dropout(p, seed=0)(np.ones((100, 64), np.float32), training=True))
    np.testing.assert_allclose(y[y != 0], 1 / (1 - p), rtol=1e-6)
    model = keras.Sequential([keras.Input((20,)), keras.layers.Dense(8), keras.layers.Dropout(p)])
    before = model.get_weights()
    model(np.ones((4, 20), np.float32), training=True)
    assert all(np.array_equal(u, v) for u, v in zip(before, model.get_weights(), strict=True))


@pytest.mark.claim("half-of-the-neurons")
def test_the_share_that_is_dropped_varies_and_each_row_has_its_own_mask() -> None:
    import keras

    dropped = np.asarray(keras.layers.Dropout(0.5, seed=0)(np.ones((1000, 64), np.float32), training=True)) == 0
    counts = dropped.sum(axis=1)
    assert len(set(map(bytes, dropped))) == 1000
    assert counts.min() < 25, "below this in any of 1,000 rows with a probability above 0.999999"
    assert counts.max() > 39
    # The mean of 64,000 draws: seven standard deviations, two-sided false-alarm rate 2.6e-12.
    assert abs(dropped.mean() - 0.5) < 7 * 0.5 / np.sqrt(dropped.size)


@pytest.mark.claim("which-weights-are-used")
def test_the_prediction_is_made_of_both_dense_layers(model: Any, x: np.ndarray) -> None:
    weights = model.get_weights()
    probs = model.predict(x, verbose=0)
    np.testing.assert_allclose(head(hidden(x, weights), weights), probs, atol=1e-5)
    for k in range(4):
        changed = [1.1 * w if i == k else w for i, w in enumerate(weights)]
        assert np.abs(head(hidden(x, changed), changed) - probs).max() > 1e-4


@pytest.mark.claim("which-weights-are-used")
def test_dropping_a_unit_is_erasing_its_outgoing_weights_not_its_incoming_ones(model: Any, x: np.ndarray) -> None:
    weights = model.get_weights()
    unit = int(np.argmax(weights[1]))
    assert weights[1][unit] > 0
    h = hidden(x, weights)
    h[:, unit] = 0
    expected = head(h, weights)
    following, preceding = [w.copy() for w in weights], [w.copy() for w in weights]
    following[2][unit] = 0
    preceding[0][:, unit] = 0
    np.testing.assert_allclose(head(hidden(x, following), following), expected, atol=1e-6)
    assert np.abs(head(hidden(x, preceding), preceding) - expected).max() > 1e-4


@pytest.mark.claim("bypassed-at-inference")
def test_without_the_layer_the_predictions_are_the_same_bits(model: Any, x: np.ndarray) -> None:
    import keras

    bare = keras.Sequential([keras.Input((784,)), model.layers[0], model.layers[2]])
    np.testing.assert_array_equal(np.asarray(bare(x)), np.asarray(model(x)))
    for y in (InvertedDropout(0.5).eval()(x), np.asarray(model.layers[1](x))):
        np.testing.assert_array_equal(y, x)


@pytest.mark.claim("bypassed-at-inference")
def test_the_rate_does_not_matter_at_inference(model: Any, x: np.ndarray) -> None:
    before = model.predict(x, verbose=0)
    try:
        model.layers[1].rate = 0.9
        model.make_predict_function(force=True)
        np.testing.assert_array_equal(model.predict(x, verbose=0), before)
    finally:
        model.layers[1].rate = 0.5
        model.make_predict_function(force=True)


# --- when it is on -------------------------------------------------------------------------------------------------


def differ(call: Callable[[], Any]) -> bool:
    """Return whether two calls give different numbers."""
    first, second = np.asarray(call()), np.asarray(call())
    return not np.array_equal(first, second)


@pytest.mark.claim("only-during-training")
def test_keras_is_on_in_fit_and_where_told_and_off_elsewhere(model: Any, x: np.ndarray) -> None:
    import keras

    assert not differ(lambda: model.predict(x, verbose=0))
    assert not differ(lambda: model(x))
    assert not differ(lambda: model(x, training=False))
    assert differ(lambda: model(x, training=True))
    frozen = keras.Sequential([keras.Input((784,)), keras.layers.Dropout(0.5)])
    frozen.trainable = False
    assert differ(lambda: frozen(x, training=True)), "trainable=False does not turn it off"


@pytest.mark.claim("only-during-training")
def test_pytorch_leaves_it_on_in_five_ways() -> None:
    import torch
    from torch.nn import functional

    x = torch.ones(10, 1000)
    layer = torch.nn.Dropout(0.5)
    assert layer.training, "a fresh module is in training mode"
    with torch.no_grad():
        assert differ(lambda: layer(x)), "no_grad is not eval"
    with torch.inference_mode():
        assert differ(lambda: layer(x)), "neither is inference_mode"
    assert not differ(lambda: layer.eval()(x))
    assert differ(lambda: functional.dropout(x)), "the function is on by default"

    class Attention(torch.nn.Module):
        def forward(self, q: torch.Tensor) -> torch.Tensor:
            return functional.scaled_dot_product_attention(q, q, q, dropout_p=0.5)

    attention, q = Attention().eval(), torch.randn(1, 8, 16, generator=torch.Generator().manual_seed(0))
    assert differ(lambda: attention(q)), "dropout_p knows no mode"


@pytest.mark.claim("only-during-training")
def test_a_trace_in_training_mode_keeps_it_on_after_eval() -> None:
    import torch

    network, x = torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.Dropout(0.5)), torch.ones(10, 8)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        traced = torch.jit.trace(network.train(), x, check_trace=False).eval()
        assert all(differ(lambda: traced(x).detach()) for _ in range(10))


@pytest.mark.claim("only-during-training")
def test_flax_starts_in_training_mode_or_asks() -> None:
    import jax
    from flax import linen, nnx

    x = np.ones(100, np.float32)
    layer = nnx.Dropout(0.5, rngs=nnx.Rngs(0))
    assert differ(lambda: layer(x)), "a fresh nnx layer is in training mode"
    layer.eval()
    assert not differ(lambda: layer(x))
    with pytest.raises(ValueError, match="deterministic"):
        linen.Dropout(0.5).apply({}, x, rngs={"dropout": jax.random.key(0)})


@pytest.mark.claim("functional-training-true")
def test_predict_turns_off_what_was_built_with_training_true() -> None:
    import keras

    inputs = keras.Input((20,))
    model = keras.Model(inputs, keras.layers.Dropout(0.5)(inputs, training=True))
    x = np.ones((64, 20), np.float32)
    assert differ(lambda: model(x)), "a plain call leaves it on"
    np.testing.assert_array_equal(model.predict(x, verbose=0), x)
    np.testing.assert_array_equal(np.asarray(model(x, training=False)), x)
    assert differ(lambda: model(x, training=True))


# --- the page's own NumPy function ---------------------------------------------------------------------------------


def my_dropout(x: np.ndarray, p: float) -> np.ndarray:
    mask = np.random.binomial(1, 1 - p, size=x.shape) / (1 - p)
    result: np.ndarray = x * mask
    return result


@pytest.mark.claim("conceptual-numpy-dropout")
def test_the_conceptual_function_scales_rightly_and_has_three_defects() -> None:
    found = identify(my_dropout)
    assert (found.convention, found.argument, found.active_in_evaluation) == ("inverted", "drop", None)
    assert my_dropout(np.ones(3, np.float32), 0.2).dtype == np.float64
    with np.errstate(invalid="ignore"):
        assert np.isnan(my_dropout(np.ones(3), 1.0)).all()
    state = np.random.get_state()
    try:
        np.random.seed(0)
        first = my_dropout(np.ones(100), 0.2)
        np.random.seed(0)
        np.testing.assert_array_equal(my_dropout(np.ones(100), 0.2), first, "it draws from the global stream")
    finally:
        np.random.set_state(state)


# --- mistakes ------------------------------------------------------------------------------------------------------


def mistaken_layer(name: str, p: float, mask: np.ndarray, other: np.ndarray) -> tuple[np.ndarray, Any]:
    """Return what multiplies the activations in training and at inference."""
    q = 1 - p
    return {
        "right": (mask / q, 1.0),
        "1/p": (mask / p, 1.0),
        "scaled as well": (mask / q, q),
        "forgotten": (mask, 1.0),
        "left on": (mask / q, other / q),
    }[name]


@pytest.mark.claim("output-mean-shows-the-scale")
@pytest.mark.parametrize("p", [0.1, *RATES])
def test_the_ratio_of_the_output_means_is_the_mistakes_factor(p: float) -> None:
    h = np.abs(np.random.default_rng(0).standard_normal((2000, 64)))
    layer = StandardDropout(p, seed=0)
    ones = np.ones(h.shape)
    mask, other = layer(ones), layer(ones)
    # Seven standard deviations of the mean of mask * h / (q mean(h)), E h^2 / (E h)^2 = pi / 2: rate 2.6e-12.
    bound = 7 * np.sqrt(p / (1 - p) * np.pi / 2 / h.size)
    for name, factor in {"right": lambda p: 1.0, **MISTAKES, "left on": lambda p: 1.0}.items():
        training, inference = mistaken_layer(name, p, mask, other)
        ratio = (h * inference).mean() / (h * training).mean()
        assert abs(ratio / factor(p) - 1) < 2 * bound + 1e-12, name
        visible = abs(factor(p) - 1) > 0.05
        assert visible == (name not in ("right", "left on") and not (name == "1/p" and p == 0.5))


class Scaled:
    """A dropout layer that multiplies by another factor in training and does nothing at inference."""

    def __init__(self, p: float, scale: float, seed: int) -> None:
        self.inner, self.scale, self.training = StandardDropout(p, seed), scale, True

    def train(self) -> Scaled:
        self.training = True
        return self

    def eval(self) -> Scaled:
        self.training = False
        return self

    def forward(self, x: np.ndarray) -> np.ndarray:
        return self.scale * self.inner(x) if self.training else x

    def backward(self, dy: np.ndarray) -> np.ndarray:
        return self.scale * self.inner.backward(dy)


def numpy_network(p: float, scale: float, seed: int, features: int) -> Sequential:
    rng = np.random.default_rng(np.random.PCG64(seed))
    return Sequential(Linear(features, 64, rng), ReLU(), Scaled(p, scale, seed), Linear(64, 10, rng))


def fit_numpy(network: Sequential, optimizer: SGD | Adam, data: Dataset, steps: int, seed: int) -> None:
    rng = np.random.default_rng(np.random.PCG64(seed))
    for _ in range(steps):
        rows = rng.integers(0, data.train.y.size, 32)
        _, gradient = softmax_cross_entropy(network(data.train.x[rows]), data.train.y[rows])
        network.backward(gradient)
        optimizer.step()
    network.eval()


@pytest.mark.claim("a-mistake-is-one-factor")
@pytest.mark.parametrize("p", RATES)
@pytest.mark.parametrize("mistake", ["1/p", "forgotten"])
def test_a_network_trained_with_the_wrong_scale_is_the_right_one_with_a_factor(mistake: str, p: float) -> None:
    data, q = digits(), 1 - p
    scale = {"1/p": 1 / p, "forgotten": 1.0}[mistake]
    right, wrong = numpy_network(p, 1 / q, 0, 64), numpy_network(p, scale, 0, 64)
    ratio = 1 / (q * scale)  # of the followers' weights, wrong to right
    for network, power in ((right, 0), (wrong, 1)):
        first, follower = network.layers[0], network.layers[3]
        assert isinstance(first, Linear)
        assert isinstance(follower, Linear)
        follower.weight.value = follower.weight.value * ratio**power
        rest = {"params": [*first.parameters(), follower.bias], "lr": 0.05}
        groups = [rest, {"params": [follower.weight], "lr": 0.05 * ratio ** (2 * power)}]
        fit_numpy(network, SGD(groups, lr=0.05), data, 300, seed=0)
    head_ = right.layers[3]
    assert isinstance(head_, Linear)
    h = right.layers[1].forward(right.layers[0].forward(data.test.x))
    np.testing.assert_allclose(wrong(data.test.x), head_.forward(MISTAKES[mistake](p) * h), rtol=1e-9, atol=1e-9)


@pytest.mark.claim("accuracy-shows-no-scale-mistake")
@pytest.mark.parametrize("p", RATES)
@pytest.mark.parametrize("mistake", MISTAKES)
def test_accuracy_hardly_moves_under_a_scale_mistake(block: Block, mistake: str, p: float) -> None:
    assert abs(block.change(mistake, p)[:, 0].mean()) <= 0.025


@pytest.mark.claim("accuracy-shows-no-scale-mistake")
@pytest.mark.parametrize(
    "seeds", [pytest.param(range(2), id="chapter"), pytest.param(range(100, 104), id="other", marks=pytest.mark.long)]
)
def test_networks_trained_from_scratch_with_the_wrong_layer_hide_it_too(seeds: range) -> None:
    data = mnist5k()
    change = {}
    for p, mistake, scale in ((0.2, "1/p", 1 / 0.2), (0.8, "forgotten", 1.0)):
        rows = []
        for seed in seeds:
            networks = [numpy_network(p, s, seed, 784) for s in (1 / (1 - p), scale)]
            for network in networks:
                fit_numpy(network, Adam(network.parameters()), data, 940, seed)
            right, wrong = (scores(softmax(network(data.test.x)), data.test.y) for network in networks)
            rows.append(np.subtract(wrong, right))
        change[mistake] = np.array(rows)
        print(mistake, p, np.round(change[mistake].mean(axis=0), 3))
        assert abs(change[mistake][:, 0].mean()) <= 0.025
    assert np.all(change["1/p"][:, 1] > 0.1), "the likelihood shows it"


@pytest.mark.claim("half-hides-one-over-p")
def test_at_one_half_the_factor_of_one_over_p_is_one(block: Block) -> None:
    assert MISTAKES["1/p"](0.5) == 1.0
    assert np.all(block.change("1/p", 0.5) == 0)
    assert all(abs(MISTAKES["1/p"](p) - 1) > 0.7 for p in (0.2, 0.8))


SHOWN_BY_NLL = [("1/p", 0.2), ("scaled as well", 0.2), ("scaled as well", 0.5), ("forgotten", 0.5)]
SHOWN_BY_NLL += [(mistake, 0.8) for mistake in MISTAKES]


@pytest.mark.claim("likelihood-shows-scale-mistakes")
@pytest.mark.parametrize(("mistake", "p"), SHOWN_BY_NLL)
def test_nll_rises_in_each_network(block: Block, mistake: str, p: float) -> None:
    assert np.all(block.change(mistake, p)[:, 1] > 0)


@pytest.mark.claim("likelihood-shows-scale-mistakes")
def test_nll_does_not_show_a_forgotten_scale_at_low_p(block: Block) -> None:
    assert abs(block.change("forgotten", 0.2)[:, 1].mean()) < 0.03


@pytest.mark.claim("likelihood-shows-scale-mistakes")
@pytest.mark.parametrize("seeds", BLOCKS)
def test_on_the_digits_a_forgotten_scale_lowers_nll_and_ece(seeds: range) -> None:
    digits_block = Block("digits", seeds, rates=(0.5,))
    digits_block.report()
    assert np.all(digits_block.change("forgotten", 0.5)[:, 1:] < 0)


@pytest.mark.claim("calibration-error-shows-too-small-outputs")
@pytest.mark.parametrize(("mistake", "p"), [("1/p", 0.2), ("scaled as well", 0.5), ("scaled as well", 0.8)])
def test_ece_rises_where_outputs_are_much_too_small(block: Block, mistake: str, p: float) -> None:
    assert MISTAKES[mistake](p) <= 0.5
    assert np.all(block.change(mistake, p)[:, 2] > 0.1)


@pytest.mark.claim("calibration-error-shows-too-small-outputs")
@pytest.mark.parametrize(("mistake", "p"), [("forgotten", 0.2), ("forgotten", 0.5), ("forgotten", 0.8), ("1/p", 0.8)])
def test_ece_does_not_rise_where_outputs_are_too_large(block: Block, mistake: str, p: float) -> None:
    assert MISTAKES[mistake](p) > 1
    assert block.change(mistake, p)[:, 2].mean() <= 0.005


@pytest.mark.claim("calibration-error-shows-too-small-outputs")
@pytest.mark.parametrize("p", RATES)
def test_the_right_networks_are_less_sure_than_they_are_right(block: Block, p: float) -> None:
    assert np.all(block.doubt[p] > 0)


# --- one pass, many passes -----------------------------------------------------------------------------------------


@pytest.mark.claim("one-pass-is-unreliable")
def test_two_passes_disagree_and_more_so_at_higher_p(block: Block) -> None:
    flips = [block.flips[p] for p in RATES]
    assert np.all(flips[0] < flips[1])
    assert np.all(flips[1] < flips[2])
    assert 0.05 < flips[1].mean() < 0.25


@pytest.mark.claim("one-pass-is-unreliable")
def test_one_pass_costs_accuracy_in_each_network(block: Block) -> None:
    falls = {p: (block.right[p] - block.one_pass[p])[:, 0] for p in RATES}
    assert all(np.all(fall > 0) for fall in falls.values())
    assert falls[0.5].mean() > 0.02
    assert falls[0.8].mean() > 0.1


@pytest.mark.claim("one-pass-is-unreliable")
@pytest.mark.parametrize("p", RATES)
def test_the_mean_of_a_hundred_passes_gives_the_class_of_the_evaluation(block: Block, p: float) -> None:
    with_evaluation, with_another_mean = block.agreement[p].mean(axis=0)
    least = 0.95 if p == 0.8 else 0.98
    assert with_evaluation >= least
    assert with_another_mean >= least


@pytest.mark.claim("gap-without-batchnorm")
def test_training_and_evaluation_scores_differ_without_batchnorm(block: Block, model: Any) -> None:
    import keras

    assert not any(isinstance(layer, keras.layers.BatchNormalization) for layer in model.layers)
    assert (block.right[0.5] - block.one_pass[0.5])[:, 0].mean() > 0.02


# --- what determinism buys, and what not ---------------------------------------------------------------------------


@pytest.mark.claim("repeatable-predictions")
def test_the_same_call_gives_the_same_bits_and_another_batch_size_only_nearly(model: Any, x: np.ndarray) -> None:
    whole = model.predict(x, verbose=0)
    np.testing.assert_array_equal(model.predict(x, verbose=0), whole)
    other = {size: model.predict(x[:50], batch_size=size, verbose=0) for size in (1, 7)}
    for probs in other.values():
        np.testing.assert_allclose(probs, whole[:50], atol=1e-5)
    assert any(not np.array_equal(probs, whole[:50]) for probs in other.values())


@pytest.mark.claim("repeatable-predictions")
def test_a_matrix_product_depends_on_the_batch_size_in_its_last_bits(x: np.ndarray) -> None:
    W = trained_weights("mnist5k", 0.5, 0)[0]
    whole = x @ W
    parts = [np.concatenate([x[i : i + size] @ W for i in range(0, len(x), size)]) for size in (1, 7, 33)]
    for part in parts:
        np.testing.assert_allclose(part, whole, rtol=1e-3, atol=1e-4)
    assert any(not np.array_equal(part, whole) for part in parts)


def occlusion_map(predict: Callable[[np.ndarray], np.ndarray], image: np.ndarray, label: int) -> np.ndarray:
    """Return how far the label's probability falls when each of 49 squares of 4 x 4 pixels is blanked."""
    images = np.repeat(image[None], 49, axis=0).reshape(49, 28, 28)
    for k, (i, j) in enumerate(itertools.product(range(0, 28, 4), repeat=2)):
        images[k, i : i + 4, j : j + 4] = 0
    fall: np.ndarray = predict(image[None])[0, label] - predict(images.reshape(49, 784))[:, label]
    return fall


@pytest.mark.claim("determinism-lets-you-cache-and-explain")
@pytest.mark.parametrize("seeds", BLOCKS)
def test_two_explanations_of_one_prediction_agree_only_without_dropout(seeds: range) -> None:
    x, y = data_set("mnist5k").test
    for on in (False, True):
        correlations = []
        for seed in seeds:
            weights = list(trained_weights("mnist5k", 0.5, seed))
            layer = InvertedDropout(0.5, seed=seed)
            layer.training = on

            def predict(images: np.ndarray, layer: InvertedDropout = layer, weights: Weights = weights) -> np.ndarray:
                return head(layer(hidden(images, weights)), weights)

            maps = [[occlusion_map(predict, x[i], y[i]) for _ in range(2)] for i in range(50)]
            correlations.append(np.mean([np.corrcoef(*pair)[0, 1] for pair in maps]))
        print("dropout on" if on else "dropout off", np.round(correlations, 3))
        assert np.mean(correlations) < 0.5 if on else np.allclose(correlations, 1)


@pytest.mark.claim("determinism-lets-you-cache-and-explain")
def test_a_cache_is_right_without_dropout_and_freezes_one_draw_with_it(x: np.ndarray) -> None:
    weights = list(trained_weights("mnist5k", 0.5, 0))
    layer = InvertedDropout(0.5, seed=0)

    def answer(image: bytes) -> int:
        return int(head(layer(hidden(np.frombuffer(image, np.float32)[None], weights)), weights).argmax())

    for on in (False, True):
        layer.training = on
        cached = lru_cache(maxsize=None)(answer)
        stored = [cached(image.tobytes()) for image in x[:500]]
        assert stored == [cached(image.tobytes()) for image in x[:500]], "a cache always repeats itself"
        wrong = np.mean([first != answer(image.tobytes()) for first, image in zip(stored, x[:500], strict=True)])
        assert wrong > 0.03 if on else wrong == 0


class AliasingLayer:
    """The course page's layer in evaluation mode, whatever it does in training."""

    def __init__(self, scale: float) -> None:
        self.scale, self.training = scale, True

    def forward(self, x: np.ndarray) -> np.ndarray:
        if not self.training:
            return x
        return x * np.random.binomial(1, 0.8, size=x.shape) * self.scale


@pytest.mark.claim("all-identical-compares-one-object")
@pytest.mark.parametrize("scale", [1 / 0.8, 1 / 0.2, 1.0])
def test_the_comparison_cannot_fail_whatever_the_layer_does_in_training(scale: float) -> None:
    layer, x = AliasingLayer(scale), np.random.default_rng(0).standard_normal((4, 8))
    layer.training = False
    outputs = [layer.forward(x) for _ in range(3)]
    assert all(output is x for output in outputs)
    assert np.allclose(outputs[0], outputs[1])


@pytest.mark.claim("all-identical-compares-one-object")
def test_equal_means_do_not_make_equal_outputs() -> None:
    x = np.arange(6.0)
    assert x.mean() == x[::-1].mean()
    assert not np.array_equal(x, x[::-1])


# --- the chapter's kernel ------------------------------------------------------------------------------------------


def test_the_chapters_first_cell_keeps_tensorflow_silent() -> None:
    cells = json.loads((Path(__file__).parents[2] / "chapters" / "inference.ipynb").read_text(encoding="utf-8"))[
        "cells"
    ]
    first = next("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")
    environment = {name: value for name, value in os.environ.items() if not name.startswith("TF_")}
    run = subprocess.run(
        [sys.executable, "-c", f"{first}\nkeras.layers.Dropout(0.5)(np.ones(3))"],
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
        env=environment,
    )
    assert run.stderr == ""
