"""The claims of the chapter "frameworks", each decided by running the libraries.

The experiment trains the chapter's model, 784-128-10, for 6 epochs of 60 batches on mnist5k, in the three libraries,
from the same start, with the same batches and SGD with momentum, and scores the test split; nothing is chosen on it.
Conclusions and rules were written down after a pilot with the seeds 0 to 2 and before the two blocks below were run.

1. Without dropout the weights of two libraries differ by less than 1e-5 for each seed.
2. At p = .3 they differ by more than .1 in some weight, for each seed: the masks differ.
3. At p = .3 no library's mean test accuracy is more than .01 from another's.
4. At p = .3 the mean test NLL of each library is below that without dropout.

2 to 4 held in both blocks. 1 did not: for the seed 104 Flax ended .0099 away from the other two. The gap is 2e-7 up to
step 92, where one pre-activation of one image, of 8e-8, has another sign in Flax; so a ReLU was on in one library and
off in the others. The conclusion became: below 1e-5 in at least three of four starts, and never above .1; that it
holds for *each* start is stated as not robust.

==  =====================================  ===========================  ===================================
    figure                                 seeds 10 to 13 (chapter)     seeds 100 to 107 (long)
==  =====================================  ===========================  ===================================
1   largest gap to PyTorch's weights       4.8e-7                       5.4e-7, but .0099 for Flax at 104
2   smallest gap with dropout              .45                          .34
3   accuracy, PyTorch, Keras, Flax         .9405, .9375, .9385          .9397, .9381, .9412
4   change of NLL, the same                -.0157, -.0104, -.0116       -.0196, -.0171, -.0196
4   lower in                               4, 3, 3 of 4                 7, 8, 8 of 8
==  =====================================  ===========================  ===================================
"""

from __future__ import annotations

import inspect
import itertools
import json
import os
import random
import re
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.ndimage import uniform_filter  # type: ignore[import-untyped]

from dropoutlib.data import Dataset, mnist5k
from dropoutlib.frameworks.conformance import CASES, Table, conformance
from dropoutlib.layers import InvertedDropout
from dropoutlib.metrics import accuracy, nll
from tests.statistics import Alarm

ROOT = Path(__file__).parents[2]
NOTEBOOK = ROOT / "chapters" / "frameworks.ipynb"
LIBRARIES = ("pytorch", "keras", "flax")
RATES = (0.1, 0.3, 0.7, 0.9)
BLOCKS = [
    pytest.param(range(10, 14), id="chapter"),
    pytest.param(range(100, 108), id="other", marks=pytest.mark.long),
]
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")


def example(name: str) -> Any:
    """Return the file that a tab shows."""
    import importlib

    return importlib.import_module(f"dropoutlib.frameworks.examples.{name}")


@pytest.fixture(autouse=True)
def undisturbed() -> Iterator[None]:
    """Leave the global streams as they were."""
    import torch

    python, numpy = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=[]):
        yield
    random.setstate(python)
    np.random.set_state(numpy)


def drops(y: Any) -> bool:
    """Return whether an output of ones, or of positive numbers, holds a zero."""
    return bool((np.asarray(y) == 0).any())


def ones(*shape: int) -> np.ndarray:
    return np.ones(shape or (200, 300), np.float32)


# --- one model in three libraries ----------------------------------------------------------------------------------


@cache
def data() -> Dataset:
    return mnist5k(np.float32)


def start(seed: int) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    W1 = rng.standard_normal((784, 128)) * np.sqrt(2 / 784)
    W2 = rng.standard_normal((128, 10)) / np.sqrt(128)
    return [weight.astype(np.float32) for weight in (W1, np.zeros(128), W2, np.zeros(10))]


def batches(seed: int, epochs: int = 6) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return np.concatenate([rng.permutation(3000) for _ in range(epochs)]).reshape(-1, 50)


@cache
def trained(name: str, p: float, seed: int) -> tuple[list[np.ndarray], np.ndarray]:
    library = example(name)
    model = library.build(p, start(seed), seed)
    library.train(model, *data().train, batches(seed))
    return library.weights(model), library.predict(model, data().test.x)


def gap(ours: list[np.ndarray], theirs: list[np.ndarray]) -> float:
    return max(float(np.abs(a - b).max()) for a, b in zip(ours, theirs, strict=True))


@pytest.mark.parametrize("name", LIBRARIES)
def test_an_example_takes_gives_and_uses_weights(name: str) -> None:
    library, weights, x = example(name), start(3), data().test.x[:50]
    model = library.build(0.3, weights, 0)
    assert gap(library.weights(model), weights) == 0
    probabilities = library.predict(model, x)
    W1, b1, W2, b2 = weights
    logits = np.maximum(x @ W1 + b1, 0) @ W2 + b2
    expected = np.exp(logits - logits.max(axis=1, keepdims=True))
    np.testing.assert_allclose(probabilities, expected / expected.sum(axis=1, keepdims=True), atol=1e-5)
    np.testing.assert_array_equal(library.predict(model, x), probabilities, "dropout is off")


@pytest.mark.parametrize("name", LIBRARIES)
def test_an_example_drops_in_training_and_repeats_for_one_seed(name: str) -> None:
    library = example(name)

    def after(p: float, seed: int) -> list[np.ndarray]:
        model = library.build(p, start(0), seed)
        library.predict(model, data().test.x[:5])  # which switches dropout off
        library.train(model, *data().train, batches(0)[:3])
        weights: list[np.ndarray] = library.weights(model)
        return weights

    assert gap(after(0.3, 1), after(0.3, 1)) == 0
    assert gap(after(0.3, 1), after(0.3, 2)) > 1e-4
    assert gap(after(0.0, 1), after(0.0, 2)) == 0


@pytest.mark.claim("same-training-without-dropout")
@pytest.mark.parametrize("seeds", BLOCKS)
def test_without_dropout_the_three_libraries_train_the_same_weights(seeds: range) -> None:
    gaps = np.array(
        [
            [gap(trained(name, 0.0, seed)[0], trained("pytorch", 0.0, seed)[0]) for name in ("keras", "flax")]
            for seed in seeds
        ]
    )
    print("p = 0, largest gaps to PyTorch's weights, Keras and Flax:", gaps, sep="\n")
    assert np.mean(gaps.max(axis=1) < 1e-5) >= 0.75
    assert gaps.max() < 0.1


@pytest.mark.claim("same-training-without-dropout")
def test_rounding_at_the_kink_of_a_relu_is_magnified() -> None:
    """Two starts that differ by 2e-6 in one bias, around the kink for one image, and around +.5."""
    x, rows = data().train.x, batches(0)[:1]
    library = example("pytorch")

    def after(z: float) -> list[np.ndarray]:
        W1, b1, W2, b2 = start(0)
        b1[5] = np.float32(z - float(x[rows[0, 0]].astype(np.float64) @ W1[:, 5]))
        model = library.build(0.0, [W1, b1, W2, b2], 0)
        library.train(model, *data().train, rows)
        weights: list[np.ndarray] = library.weights(model)
        return weights

    assert gap(after(1e-6), after(-1e-6)) > 1e-5 > gap(after(0.5 + 1e-6), after(0.5 - 1e-6))


@pytest.mark.claim("same-training-without-dropout")
@pytest.mark.parametrize("seeds", BLOCKS)
def test_with_dropout_the_masks_set_them_apart(seeds: range) -> None:
    gaps = [
        gap(trained(name, 0.3, seed)[0], trained("pytorch", 0.3, seed)[0])
        for seed, name in itertools.product(seeds, ("keras", "flax"))
    ]
    print("p = .3, smallest of the largest gaps of weights:", min(gaps))
    assert min(gaps) > 0.1


@pytest.mark.claim("same-training-with-dropout")
@pytest.mark.parametrize("seeds", BLOCKS)
def test_with_dropout_they_train_equally_good_networks(seeds: range) -> None:
    y = data().test.y
    scores = {
        (name, p): np.array(
            [(accuracy(probs, y), nll(probs, y)) for probs in (trained(name, p, seed)[1] for seed in seeds)]
        )
        for name, p in itertools.product(LIBRARIES, (0.0, 0.3))
    }
    means = {key: rows.mean(axis=0) for key, rows in scores.items()}
    for name in LIBRARIES:
        change = (scores[name, 0.3] - scores[name, 0.0])[:, 1]
        print(
            f"{name:8} accuracy {means[name, 0.3][0]:.4f}  NLL {means[name, 0.0][1]:.4f} -> {means[name, 0.3][1]:.4f}, "
            f"change {change.mean():+.4f}, lower in {(change < 0).sum()} of {len(change)}"
        )
    dropped = [means[name, 0.3] for name in LIBRARIES]
    assert np.ptp([row[0] for row in dropped]) <= 0.01
    assert all(means[name, 0.3][1] < means[name, 0.0][1] for name in LIBRARIES)


@pytest.mark.claim("weights-move-between-libraries")
@pytest.mark.parametrize(("source", "target"), list(itertools.permutations(LIBRARIES, 2)))
def test_trained_weights_move_without_a_factor(source: str, target: str) -> None:
    weights, probabilities = trained(source, 0.3, 10)
    library = example(target)
    moved = library.predict(library.build(0.3, weights, 1), data().test.x)
    assert np.abs(moved - probabilities).max() < 1e-5
    factor = [weights[0], weights[1], weights[2] * 0.7, weights[3]]
    folded = library.predict(library.build(0.3, factor, 1), data().test.x)
    assert np.abs(folded - probabilities).max() > 1e-2, "a factor would be seen"


@pytest.mark.claim("default-starts-differ")
def test_default_first_weights_have_three_different_widths() -> None:
    import keras
    import torch
    from flax import nnx

    torch.manual_seed(0)
    keras.utils.set_random_seed(0)
    dense = keras.layers.Dense(128)
    dense.build((None, 784))
    widths = {
        "torch": torch.nn.Linear(784, 128).weight.detach().numpy().std(),
        "keras": dense.get_weights()[0].std(),
        "flax": np.asarray(nnx.Linear(784, 128, rngs=nnx.Rngs(0)).kernel).std(),
    }
    expected = {"torch": 1 / np.sqrt(3 * 784), "keras": np.sqrt(2 / (784 + 128)), "flax": 1 / np.sqrt(784)}
    for name, width in widths.items():
        # The standard deviation of 100,352 draws is known to far better than 2 %.
        assert width == pytest.approx(expected[name], rel=0.02), name
    assert max(widths.values()) < start(0)[0].std()


@pytest.mark.claim("default-starts-differ")
def test_the_default_epsilon_of_adam_differs() -> None:
    import keras
    import optax
    import torch

    parameter = torch.nn.Parameter(torch.zeros(1))
    assert torch.optim.Adam([parameter]).defaults["eps"] == 1e-8
    assert inspect.signature(optax.adam).parameters["eps"].default == 1e-8
    assert keras.optimizers.Adam().epsilon == 1e-7


# --- the number ----------------------------------------------------------------------------------------------------


def share(y: Any) -> int:
    return int(np.count_nonzero(np.asarray(y) == 0))


def number_apis(seed: int) -> dict[str, tuple[bool, Callable[[np.ndarray, float], Any]]]:
    """Return whether the number keeps, and a call, by API."""
    import jax
    import keras
    import tensorflow as tf
    import torch
    from flax import linen, nnx
    from jax.example_libraries import stax

    tf.get_logger().setLevel("ERROR")
    v1, key = tf.compat.v1.nn.dropout, jax.random.key(seed)
    torch.manual_seed(seed)
    tf.random.set_seed(seed)
    return {
        "torch": (False, lambda x, r: torch.nn.functional.dropout(torch.tensor(x), r)),
        "keras": (False, lambda x, r: keras.layers.Dropout(r, seed=seed)(x, training=True)),
        "tf": (False, lambda x, r: tf.nn.dropout(x, r)),
        "tf1, second argument": (True, lambda x, r: v1(x, r)),
        "tf1, rate=": (False, lambda x, r: v1(x, rate=r)),
        "nnx": (False, lambda x, r: nnx.Dropout(r, rngs=nnx.Rngs(seed))(x)),
        "linen": (False, lambda x, r: linen.Dropout(r, deterministic=False).apply({}, x, rngs={"dropout": key})),
        "stax": (True, lambda x, r: stax.Dropout(r)[1]((), x, rng=key)),
    }


@pytest.mark.claim("name-tells-drop-or-keep")
@pytest.mark.statistical(comparisons=16)
def test_neither_name_nor_place_tells_what_the_number_means(seed: int, alarm: Alarm) -> None:
    x = ones()
    for name, (keeps, call) in number_apis(seed).items():
        for number in (0.2, 0.9):
            y = np.asarray(call(x, number))
            p = 1 - number if keeps else number
            alarm.binomial(share(y), x.size, p, f"{name}, {number}")
            np.testing.assert_allclose(y[y != 0], 1 / (1 - p), rtol=1e-6)


@pytest.mark.claim("name-tells-drop-or-keep")
def test_the_names_are_those_of_the_page() -> None:
    import keras
    import tensorflow as tf
    import torch
    from flax import linen, nnx
    from jax.example_libraries import stax

    def second(function: Any, skip: int = 1) -> str:
        return list(inspect.signature(function).parameters)[skip]

    assert second(torch.nn.functional.dropout) == second(torch.nn.Dropout, 0) == "p"
    assert second(keras.layers.Dropout, 0) == second(tf.nn.dropout) == "rate"
    assert second(nnx.Dropout.__init__) == second(linen.Dropout, 0) == second(stax.Dropout, 0) == "rate"
    assert second(tf.compat.v1.nn.dropout) == "keep_prob"


@pytest.mark.claim("rate-one")
def test_a_rate_of_one_gives_zeros_and_tensorflows_function_refuses() -> None:
    import tensorflow as tf

    table = conformance(cases=["p = 1"])
    assert {cell.seen for cell in table.cells} == {"zeros"}
    with pytest.raises(ValueError, match="rate"):
        tf.nn.dropout(ones(), 1.0)


@pytest.mark.claim("rate-one")
def test_staxs_counterpart_is_zero() -> None:
    import jax
    from jax.example_libraries import stax

    with np.errstate(divide="ignore"):
        assert not np.asarray(stax.Dropout(0.0)[1]((), jax.numpy.asarray(ones()), rng=jax.random.key(0))).any()


# --- the switch: PyTorch -------------------------------------------------------------------------------------------


@pytest.mark.claim("function-on-by-default")
def test_the_function_drops_unless_it_is_told() -> None:
    import torch
    from torch.nn import functional as F

    class Net(torch.nn.Module):
        def forward(self, x: torch.Tensor, told: bool) -> torch.Tensor:
            return F.dropout(x, 0.3, training=self.training) if told else F.dropout(x, 0.3)

    x, net = torch.ones(100, 100), Net().eval()
    assert inspect.signature(F.dropout).parameters["training"].default is True
    assert drops(net(x, told=False))
    assert not drops(net(x, told=True))
    assert drops(net.train()(x, told=True))


@pytest.mark.claim("attention-function-knows-no-mode")
def test_scaled_dot_product_attention_drops_in_every_mode() -> None:
    import torch
    from torch.nn import functional as F

    class Attention(torch.nn.Module):
        def forward(self, q: torch.Tensor, v: torch.Tensor, told: bool = False) -> torch.Tensor:
            p = 0.3 if self.training or not told else 0.0
            return F.scaled_dot_product_attention(q, q, v, dropout_p=p)

    q, v, attention = torch.zeros(1, 50, 8), torch.eye(50)[None], Attention()
    assert "training" not in inspect.signature(Attention.forward).parameters
    for net in (attention.train(), attention.eval()):
        assert drops(net(q, v))
    with torch.inference_mode():
        assert drops(attention(q, v))
    assert not drops(attention(q, v, told=True))


@pytest.mark.claim("no-grad-is-not-eval")
def test_no_grad_leaves_the_mode_and_batch_norm_goes_on_counting() -> None:
    import torch

    layer, norm, x = torch.nn.Dropout(0.3), torch.nn.BatchNorm1d(100), torch.ones(50, 100)
    assert layer.training
    for context in (torch.no_grad, torch.inference_mode):
        with context():
            assert drops(layer(x))
            norm.reset_running_stats()
            norm(x)
            assert norm.num_batches_tracked == 1
            assert norm.running_mean is not None
            assert (norm.running_mean > 0).all()
    assert not drops(layer.eval()(x))


def encoder() -> Any:
    """Return an encoder layer in eval mode with its nn.Dropout modules back in train mode."""
    import torch

    torch.manual_seed(0)
    layer = torch.nn.TransformerEncoderLayer(16, 4, 32, 0.3, batch_first=True).eval()
    for module in layer.modules():
        if isinstance(module, torch.nn.Dropout):
            module.train()
    return layer


def repeats(call: Callable[[], Any]) -> bool:
    return bool(np.array_equal(np.asarray(call()), np.asarray(call())))


@pytest.mark.claim("switching-dropout-modules-on")
def test_under_no_grad_the_fast_path_asks_no_dropout_module() -> None:
    import torch

    layer, off = encoder(), encoder().eval()
    tokens = torch.randn(2, 5, 16, generator=torch.Generator().manual_seed(1))
    assert not repeats(lambda: layer(tokens).detach())
    for context in (torch.no_grad, torch.inference_mode):
        with context():
            assert repeats(lambda: layer(tokens))
            torch.testing.assert_close(layer(tokens), off(tokens))
    with torch.no_grad():
        torch.backends.mha.set_fastpath_enabled(False)
        try:
            assert not repeats(lambda: layer(tokens)), "without the fast path they are asked"
        finally:
            torch.backends.mha.set_fastpath_enabled(True)


@pytest.mark.claim("switching-dropout-modules-on")
def test_the_dropout_of_the_attention_weights_is_no_module() -> None:
    import torch

    from dropoutlib.frameworks.pytorch import dropout_layers, mc_mode

    layer, tokens = encoder(), torch.randn(2, 5, 16, generator=torch.Generator().manual_seed(1))
    modules = [name for name, module in layer.named_modules() if isinstance(module, torch.nn.Dropout)]
    assert modules == ["dropout", "dropout1", "dropout2"]
    assert [place.path for place in dropout_layers(layer)] == ["self_attn", *modules]
    for name in modules:
        layer.get_submodule(name).p = 0.0
    assert repeats(lambda: layer(tokens).detach()), "the recipe reaches these three alone"
    assert not repeats(lambda: layer.train()(tokens).detach()), "the fourth is still there in training"
    whole = encoder().eval()
    with torch.no_grad(), mc_mode(whole):
        assert not repeats(lambda: whole(tokens))


# --- the switch: Keras ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def keras_models() -> dict[str, Any]:
    """Return models of nothing but a dropout, by how its mode was said."""
    import keras

    class Layer(keras.layers.Layer):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.dropout = keras.layers.Dropout(0.3)

        def call(self, x: Any) -> Any:
            return self.dropout(x, training=True)

    class Model(keras.Model):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.dropout = keras.layers.Dropout(0.3)

        def call(self, x: Any) -> Any:
            return self.dropout(x, training=True)

    def functional(**said: bool) -> Any:
        inputs = keras.Input((300,))
        return keras.Model(inputs, keras.layers.Dropout(0.3)(inputs, **said))

    inputs = keras.Input((300,))
    return {
        "not said": functional(),
        "fixed on": functional(training=True),
        "fixed off": functional(training=False),
        "nested, fixed on": keras.Model(inputs, functional(training=True)(inputs)),
        "own layer": keras.Sequential([inputs, Layer()]),
        "own model": Model(),
    }


def keras_modes(model: Any) -> list[bool]:
    """Return whether a plain call, training=False, training=True, and predict drop."""
    x = ones()
    calls = [lambda: model(x), lambda: model(x, training=False), lambda: model(x, training=True)]
    return [drops(call()) for call in calls] + [drops(model.predict(x, verbose=0))]


@pytest.mark.claim("keras-call-modes")
def test_a_plain_call_and_predict_are_off_and_training_true_is_on(keras_models: dict[str, Any]) -> None:
    import keras

    assert keras_modes(keras_models["not said"]) == [False, False, True, False]
    assert not drops(keras.layers.Dropout(0.3)(ones()))
    seen = []

    class Watch(keras.layers.Layer):  # type: ignore[misc]
        def call(self, x: Any, training: bool | None = None) -> Any:
            seen.append(training)
            return x

    model = keras.Sequential([keras.Input((4,)), Watch(), keras.layers.Dense(1)])
    model.compile("sgd", "mse", run_eagerly=True)
    seen.clear()
    model.fit(ones(8, 4), ones(8, 1), verbose=0)
    model.evaluate(ones(8, 4), ones(8, 1), verbose=0)
    model.predict(ones(8, 4), verbose=0)
    model(ones(8, 4))
    assert [bool(training) for training in seen] == [True, False, False, False]


@pytest.mark.claim("trainable-false-keeps-dropout")
def test_trainable_false_leaves_dropout_and_stops_batch_norm() -> None:
    import keras

    layer, norm = keras.layers.Dropout(0.3), keras.layers.BatchNormalization()
    layer.trainable = norm.trainable = False
    assert drops(layer(ones(), training=True))
    norm(1 + ones(50, 3), training=True)
    assert not np.asarray(norm.moving_mean).any()
    norm.trainable = True
    norm(1 + ones(50, 3), training=True)
    assert np.asarray(norm.moving_mean).all()


@pytest.mark.claim("keras-outer-mode-wins")
@pytest.mark.parametrize(
    ("model", "modes"),
    [
        ("fixed on", [True, False, True, False]),
        ("nested, fixed on", [True, False, True, False]),
        ("fixed off", [False, False, True, False]),
        ("own layer", [True, True, True, True]),
        ("own model", [True, True, True, True]),
    ],
)
def test_the_mode_handed_to_the_model_replaces_the_one_in_its_graph(
    keras_models: dict[str, Any], model: str, modes: list[bool]
) -> None:
    assert keras_modes(keras_models[model]) == modes


@pytest.mark.claim("keras-outer-mode-wins")
def test_fit_turns_on_what_was_built_with_training_false() -> None:
    """One step of SGD on a layer behind the dropout: a weight of a dropped unit does not move."""
    import keras

    inputs = keras.Input((300,))
    outputs = keras.layers.Dense(1, use_bias=False)(keras.layers.Dropout(0.3)(inputs, training=False))
    model = keras.Model(inputs, outputs)
    model.compile("sgd", "mse")
    before = model.get_weights()[0]
    model.fit(ones(1, 300), ones(1, 1) * 100, verbose=0)
    moved = model.get_weights()[0] != before
    assert 0.3 < moved.mean() < 0.95


# --- the switch: JAX -----------------------------------------------------------------------------------------------


@pytest.mark.claim("nnx-starts-in-train-mode")
def test_a_fresh_nnx_dropout_drops_and_attention_must_be_told() -> None:
    from flax import nnx

    layer = nnx.Dropout(0.3, rngs=nnx.Rngs(0))
    assert drops(layer(ones()))
    layer.eval()
    assert not drops(layer(ones()))
    layer.train()
    assert drops(layer(ones()))
    attention = nnx.MultiHeadAttention(num_heads=2, in_features=8, dropout_rate=0.3, decode=False, rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match="deterministic"):
        attention(ones(1, 5, 8))


@pytest.mark.claim("linen-must-be-told")
def test_linen_raises_unless_it_is_told_once_and_has_a_key() -> None:
    import jax
    from flax import linen
    from flax.errors import InvalidRngError

    layer, keys = linen.Dropout(0.3), {"dropout": jax.random.key(0)}
    with pytest.raises(ValueError, match="must be passed"):
        layer.apply({}, ones(), rngs=keys)
    with pytest.raises(InvalidRngError):
        layer.apply({}, ones(), deterministic=False)
    with pytest.raises(ValueError, match="just once"):
        linen.Dropout(0.3, deterministic=True).apply({}, ones(), deterministic=False, rngs=keys)
    assert drops(layer.apply({}, ones(), deterministic=False, rngs=keys))
    assert not drops(layer.apply({}, ones(), deterministic=True))


@pytest.mark.claim("stax-mode-is-fixed")
def test_staxs_mode_belongs_to_the_layer_as_it_was_made() -> None:
    import jax
    from jax.example_libraries import stax

    key = jax.random.key(0)
    for mode, expected in (("train", True), ("test", False)):
        _, apply = stax.Dropout(0.7, mode=mode)
        assert drops(apply((), ones(), rng=key)) == expected
    assert inspect.signature(stax.Dropout).parameters["mode"].default == "train"
    _, apply = stax.Dropout(0.7)
    assert drops(apply((), ones(), rng=key, mode="test")), "the call knows no mode"


# --- the table -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def table() -> Table:
    return conformance()


def cells() -> list[dict[str, Any]]:
    return list(json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"])


def explanations() -> dict[str, str]:
    """Return the paragraph of the chapter that explains a case, by case."""
    text = "\n".join("".join(cell["source"]) for cell in cells() if cell["cell_type"] == "markdown")
    section = text.split("\n## The table\n")[1].split("\n## ")[0]
    found: dict[str, str] = {}
    for line in section.splitlines():
        if head := re.match(r"- ((?:\*\*`[^`]+`\*\*(?:, )?)+): (.+)", line):
            for case in re.findall(r"`([^`]+)`", head[1]):
                assert case not in found, f"{case} is explained twice"
                found[case] = head[2]
    return found


@pytest.mark.claim("conformance-differences-explained")
def test_every_difference_has_its_explanation_and_no_explanation_is_left_over(table: Table) -> None:
    explained = explanations()
    differences = table.differences()
    assert sorted(explained) == sorted(differences)
    assert set(explained) < set(CASES)
    for case, libraries in differences.items():
        for library in libraries:
            assert library in explained[case], f"{case}: nothing is said of {library}"


@pytest.mark.claim("conformance-differences-explained")
def test_the_stored_table_is_the_one_that_the_libraries_give(table: Table) -> None:
    shown = [
        "".join(output["data"]["text/html"])
        for cell in cells()
        for output in cell.get("outputs", [])
        if "text/html" in output.get("data", {})
    ]
    assert shown == [table._repr_html_()]


@pytest.mark.claim("conformance-differences-explained")
def test_what_the_text_calls_equal_is_equal(table: Table) -> None:
    same = ["p = 0", "p = 1", "share dropped", "scale of the kept", "float32", "gradient", "mask", "empty", "0-d"]
    same += ["evaluation", "the next call"]
    for case, library in itertools.product(same, table.libraries[1:]):
        assert table[case, library].verdict == "equal", (case, library)


@pytest.mark.claim("conformance-differences-explained")
def test_the_reasons_that_the_text_gives() -> None:
    """What is behind a cell, where the cell alone does not show it."""
    import keras
    import tensorflow as tf
    import torch

    # p = 1, gradient: None arrives in front of the layer.
    dense, x = keras.layers.Dense(3), tf.constant(ones(2, 4))
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(keras.layers.Dropout(1.0)(dense(x), training=True))
    assert tape.gradient(loss, dense.trainable_variables) == [None, None]
    # p = nan: the constructor takes it, the call does not.
    layer = torch.nn.Dropout(float("nan"))
    with pytest.raises(RuntimeError, match="between 0 and 1"):
        layer(torch.ones(3))
    # evaluation's memory: an operation in place reaches x.
    t = torch.ones(3)
    torch.nn.Dropout(0.3).eval()(t).add_(1)
    assert t.tolist() == [2, 2, 2]
    # making a layer moves Python's stream: random.seed decides a Keras layer's masks.
    masks = []
    for _ in range(2):
        random.seed(5)
        masks.append(np.asarray(keras.layers.Dropout(0.3)(ones(), training=True)))
    np.testing.assert_array_equal(*masks)
    # float16: Keras keeps it under a policy.
    y = keras.layers.Dropout(0.3, dtype="float16")(ones().astype(np.float16), training=True)
    assert y.dtype.name == "float16"


@pytest.mark.claim("flax-checks-no-rate")
@pytest.mark.parametrize("rate", [-0.1, 1.5, float("nan")])
def test_flax_takes_rates_that_the_others_refuse(rate: float) -> None:
    import keras
    import torch
    from flax import linen, nnx

    y = np.asarray(nnx.Dropout(rate, rngs=nnx.Rngs(0))(ones()))
    expected = 1 / 1.1 if rate == -0.1 else 0
    np.testing.assert_allclose(y, expected, rtol=1e-6)
    np.testing.assert_array_equal(nnx.Dropout(rate, deterministic=True)(ones()), ones())
    linen.Dropout(rate, deterministic=True).apply({}, ones())
    with pytest.raises((ValueError, RuntimeError)):
        torch.nn.Dropout(rate)(torch.ones(3))
    for refuses in (keras.layers.Dropout, InvertedDropout):
        with pytest.raises(ValueError, match=r"between 0 and 1|0 <= p <= 1"):
            refuses(rate)


@pytest.mark.claim("dtype-in-dtype-out")
def test_keras_casts_to_its_policy_and_jax_has_no_float64(table: Table) -> None:
    import jax

    assert {table[dtype, "Keras"].seen for dtype in ("float16", "bfloat16", "float32", "float64")} == {"float32"}
    for library in ("dropoutlib", "PyTorch"):
        assert [table[d, library].seen for d in ("float16", "float32", "float64")] == ["float16", "float32", "float64"]
    assert table["bfloat16", "PyTorch"].seen == table["bfloat16", "Flax"].seen == "bfloat16"
    assert not jax.config.jax_enable_x64
    assert table["float64", "Flax"].seen == "float32"


@pytest.mark.claim("inf-in-dropped-slots")
@pytest.mark.parametrize("p", [0.3, 0.7])
@pytest.mark.parametrize("value", [np.inf, -np.inf, np.nan])
def test_pytorch_multiplies_and_keras_and_flax_select(value: float, p: float) -> None:
    import keras
    import torch
    from flax import nnx

    x = np.full((50, 40), value, np.float32)
    multiplied = [torch.nn.Dropout(p)(torch.tensor(x)).numpy(), InvertedDropout(p, 0)(x)]
    selected = [keras.layers.Dropout(p)(x, training=True), nnx.Dropout(p, rngs=nnx.Rngs(0))(x)]
    for y in multiplied:
        assert np.isnan(y).any()
        assert not (y == 0).any()
    for y in map(np.asarray, selected):
        assert (y == 0).any()
        assert np.isnan(y).any() == np.isnan(value)


# --- masks with a shape --------------------------------------------------------------------------------------------


def shared(y: Any) -> tuple[int, ...]:
    """Return the axes along which the zeros are the same."""
    zeros = np.asarray(y) == 0
    assert zeros.any()
    assert not zeros.all()
    return tuple(k for k in range(zeros.ndim) if (zeros == zeros.take([0], axis=k)).all())


@pytest.mark.claim("noise-shapes-agree")
@pytest.mark.parametrize("p", [0.3, 0.7])
def test_the_rows_of_the_table_of_noise_shapes(p: float) -> None:
    import keras
    import torch
    from flax import nnx
    from torch.nn import functional as F

    def flax(axes: tuple[int, ...]) -> Any:
        return nnx.Dropout(p, broadcast_dims=axes, rngs=nnx.Rngs(0))

    images, series, rows = ones(20, 16, 6, 5), ones(20, 16, 30), ones(20, 100)
    dropout, spatial = keras.layers.Dropout, keras.layers.SpatialDropout2D
    rows_mask = F.dropout(torch.ones(1, 100), p, True)
    outputs = {
        (2, 3): [torch.nn.Dropout2d(p)(torch.tensor(images))],
        (1, 2): [spatial(p)(images.transpose(0, 2, 3, 1), training=True), flax((1, 2))(images.transpose(0, 2, 3, 1))],
        (2,): [torch.nn.Dropout1d(p)(torch.tensor(series))],
        (1,): [dropout(p, noise_shape=(None, 1, None))(series, training=True), flax((1,))(series)],
        (0,): [
            dropout(p, noise_shape=(1, None))(rows, training=True),
            flax((0,))(rows),
            torch.tensor(rows) * rows_mask,
        ],
    }
    for axes, ys in outputs.items():
        for y in map(np.asarray, ys):
            assert shared(y) == axes
            np.testing.assert_allclose(y[y != 0], 1 / (1 - p), rtol=1e-6)


@pytest.mark.claim("noise-shapes-agree")
@pytest.mark.statistical(comparisons=2)
@pytest.mark.parametrize("p", [0.3, 0.7])
def test_shared_draws_keep_the_mean_and_widen_the_sum(p: float, seed: int, alarm: Alarm) -> None:
    rng, q, n = np.random.default_rng(seed), 1 - p, 20
    own, one = (rng.random((20_000, k)) >= p for k in (n, 1))
    for what, mask in (("own draws", own), ("one draw", one)):
        sums = np.broadcast_to(mask, (20_000, n)).sum(axis=1) / q
        alarm.total(sums.sum(), 20_000 * n, 20_000 * n**2 * p / q, n * max(1, p / q), f"{what}, mean")
    wide = np.broadcast_to(one, own.shape).sum(axis=1).var()
    # Each variance of 20,000 sums is known to about 1 %; 20 % is more than ten standard deviations.
    assert wide / own.sum(axis=1).var() == pytest.approx(n, rel=0.2)


@pytest.mark.claim("dropout1d-on-a-matrix")
def test_dropout1d_on_a_matrix_drops_rows() -> None:
    import torch

    matrix, layer = torch.ones(100, 60), torch.nn.Dropout1d(0.3)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        y = layer(matrix)
    assert shared(y) == (1,)
    assert shared(layer(torch.ones(100, 16, 9))) == (2,)
    assert shared(torch.nn.Dropout(0.3)(matrix)) == ()


# --- where the layer goes ------------------------------------------------------------------------------------------


@pytest.mark.claim("before-or-after-activation")
@pytest.mark.parametrize("p", RATES)
@pytest.mark.parametrize(
    ("name", "same"), [("relu", True), ("leaky_relu", True), ("gelu", False), ("tanh", False), ("sigmoid", False)]
)
def test_dropout_commutes_with_positively_homogeneous_activations_alone(name: str, same: bool, p: float) -> None:
    import torch

    f = getattr(torch.nn.functional, name)
    z = torch.randn(100, 50, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    mask = torch.nn.functional.dropout(torch.ones_like(z), p)
    assert torch.allclose(f(z * mask), f(z) * mask, rtol=1e-12, atol=0) == same
    if name == "sigmoid":
        assert (f(z * mask)[mask == 0] == 0.5).all()


@pytest.mark.claim("neighbours-tell-dropped-pixels")
@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("p", [0.1, 0.3, 0.5])
def test_a_local_average_of_a_real_image_hardly_notices_dropped_pixels(p: float, seed: int) -> None:
    x = data().test.x
    order = np.random.default_rng(seed).permutation(784)

    def correlations(stack: np.ndarray) -> tuple[float, float]:
        noisy = InvertedDropout(p, seed)(stack)
        local = [uniform_filter(s, (0, 3, 3)).ravel() for s in (stack, noisy)]
        return float(np.corrcoef(stack.ravel(), noisy.ravel())[0, 1]), float(np.corrcoef(*local)[0, 1])

    pixel, average = correlations(x.reshape(-1, 28, 28))
    control_pixel, control = correlations(x[:, order].reshape(-1, 28, 28))
    assert abs(pixel - control_pixel) < 0.01, "one pixel knows nothing of its place"
    lost, lost_control = 1 - average**2, 1 - control**2
    assert lost < 0.4 * lost_control
    assert lost < 0.4 * (1 - pixel**2)


@pytest.mark.claim("attention-rows-do-not-sum-to-one")
@pytest.mark.statistical(comparisons=4)
@pytest.mark.parametrize("p", [0.1, 0.3, 0.7])
def test_row_sums_have_mean_one_and_the_variance_of_the_theorem(p: float, seed: int, alarm: Alarm) -> None:
    import torch
    from torch.nn import functional as F

    torch.manual_seed(seed)
    n, draws, q = 64, 4000, 1 - p
    for score in (0.0, float(np.log(9 * (n - 1)))):
        k = torch.zeros(n, 1)
        k[0] = score
        a = torch.softmax(k[:, 0].double(), 0).numpy()
        y = F.scaled_dot_product_attention(
            torch.ones(1, draws, 1), k[None], torch.eye(n)[None], dropout_p=p, scale=1.0
        )[0]
        sums = y.double().sum(dim=1).numpy()
        variance = p / q * (a**2).sum()
        assert p / (q * n) * (1 - 1e-9) <= variance <= p / q
        bound = max(1.0, 1 / q - 1)
        alarm.total(sums.sum(), draws, draws * variance, bound, f"mean, p = {p}")
        # (s - 1)^2 is at most bound^2, and its variance at most bound^2 times its mean.
        alarm.total(((sums - 1) ** 2).sum(), draws * variance, draws * bound**2 * variance, bound**2, f"variance, {p}")
        assert np.mean(np.abs(sums - 1) < 1e-6) < 0.1
        np.testing.assert_allclose(y[0][y[0] != 0], (a / q)[(y[0] != 0).numpy()], rtol=1e-4)


@pytest.mark.claim("attention-rows-do-not-sum-to-one")
@pytest.mark.parametrize("p", [0.2, 0.6])
def test_the_theorem_by_enumeration(p: float) -> None:
    q = 1 - p
    for a in (np.full(6, 1 / 6), np.array([0.9, 0.04, 0.03, 0.01, 0.01, 0.01]), np.eye(6)[0]):
        masks = np.array(list(itertools.product([0, 1], repeat=6)))
        chances = np.prod(np.where(masks == 1, q, p), axis=1)
        sums = masks @ a / q
        mean = chances @ sums
        variance = chances @ (sums - mean) ** 2
        assert mean == pytest.approx(1)
        assert variance == pytest.approx(p / q * (a**2).sum())
        assert p / (6 * q) - 1e-12 <= variance <= p / q + 1e-12


@pytest.mark.claim("returned-attention-weights")
def test_pytorch_returns_dropped_weights_and_keras_whole_ones() -> None:
    import keras
    import torch

    x = np.random.default_rng(0).standard_normal((3, 7, 16)).astype(np.float32)
    t = torch.tensor(x)
    _, weights = torch.nn.MultiheadAttention(16, 4, dropout=0.3, batch_first=True)(t, t, t, average_attn_weights=False)
    assert drops(weights.detach())
    assert (weights.sum(-1) - 1).abs().max() > 0.1
    _, weights = keras.layers.MultiHeadAttention(4, 4, dropout=0.3)(x, x, return_attention_scores=True, training=True)
    assert not drops(weights)
    np.testing.assert_allclose(np.asarray(weights).sum(axis=-1), 1, rtol=1e-5)


@pytest.mark.claim("flax-shares-attention-mask")
def test_flax_shares_one_mask_by_default_and_the_others_do_not() -> None:
    import jax
    import keras
    import torch
    from flax import linen, nnx

    x = np.repeat(np.random.default_rng(0).standard_normal((1, 7, 16)).astype(np.float32), 4, axis=0)

    def equal_rows(y: Any) -> bool:
        y = np.asarray(y)
        return bool(np.allclose(y[0], y[1], atol=1e-6) and np.allclose(y[0], y[3], atol=1e-6))

    def of_nnx(**options: bool) -> Any:
        layer = nnx.MultiHeadAttention(
            num_heads=2,
            in_features=16,
            dropout_rate=0.5,
            decode=False,
            deterministic=False,
            rngs=nnx.Rngs(0),
            **options,
        )
        return layer(x)

    of_linen = linen.MultiHeadDotProductAttention(num_heads=2, dropout_rate=0.5, deterministic=False)
    keys = {"params": jax.random.key(0), "dropout": jax.random.key(1)}
    assert equal_rows(of_nnx())
    assert equal_rows(of_linen.init_with_output(keys, x)[0])
    assert not equal_rows(of_nnx(broadcast_dropout=False))
    t = torch.tensor(x)
    assert not equal_rows(torch.nn.MultiheadAttention(16, 2, dropout=0.5, batch_first=True)(t, t, t)[0].detach())
    assert not equal_rows(keras.layers.MultiHeadAttention(2, 8, dropout=0.5)(x, x, training=True))
    # The heads share it too: with the identity as values each head returns its dropped weights.
    q, v = jax.numpy.zeros((2, 6, 3, 4)), jax.numpy.broadcast_to(jax.numpy.eye(6)[None, :, None, :], (2, 6, 3, 6))
    weights = np.asarray(
        nnx.dot_product_attention(q, q, v, dropout_rng=keys["dropout"], dropout_rate=0.5, deterministic=False)
    )
    assert drops(weights)
    assert shared(weights) == (0, 2)


@pytest.mark.claim("residual-dropout-before-the-sum")
@pytest.mark.statistical(comparisons=1)
@pytest.mark.parametrize("p", [0.1, 0.3])
def test_dropout_after_the_sum_erases_the_carried_input(p: float, seed: int, alarm: Alarm) -> None:
    blocks = 6
    after, before = np.ones((300, 400)), np.ones((300, 400))
    for block in range(blocks):
        layer = InvertedDropout(p, np.random.SeedSequence([seed, block]))
        sublayer = np.zeros_like(after)
        after, before = layer(after + sublayer), before + layer(sublayer)
    assert np.all(before == 1)
    alarm.binomial(int(np.count_nonzero(after)), after.size, (1 - p) ** blocks, f"left after {blocks} blocks")
    np.testing.assert_allclose(after[after > 0], (1 - p) ** -blocks)


@pytest.mark.claim("residual-dropout-before-the-sum")
def test_pytorchs_encoder_layer_drops_before_the_sums() -> None:
    """With a rate of 1 everything but the carried input is gone."""
    import torch

    layer = torch.nn.TransformerEncoderLayer(16, 4, 32, dropout=0.0, batch_first=True, norm_first=True)
    layer.dropout1.p = layer.dropout2.p = 1.0
    x = torch.randn(2, 5, 16)
    torch.testing.assert_close(layer(x), x)


# --- the chapter's kernel, and its files ---------------------------------------------------------------------------


def test_the_tabs_include_the_files_that_the_cells_run() -> None:
    text = "\n".join("".join(cell["source"]) for cell in cells() if cell["cell_type"] == "markdown")
    included = re.findall(r"\{literalinclude\} (\S+)", text)
    files = [(NOTEBOOK.parent / path).resolve() for path in included]
    assert files == [ROOT / "dropoutlib" / "frameworks" / "examples" / f"{name}.py" for name in LIBRARIES]
    assert all(file.is_file() for file in files)
    starts = re.findall(r":start-at: (.+)", text)
    for file, first in zip(files, starts, strict=True):
        lines = file.read_text(encoding="utf-8").splitlines()
        assert sum(line.startswith(first) for line in lines) == 1
        assert max(map(len, lines)) <= 78, "a page is 78 characters wide"
    code = "\n".join("".join(cell["source"]) for cell in cells() if cell["cell_type"] == "code")
    assert "from dropoutlib.frameworks.examples import flax, pytorch" in code
    assert "from dropoutlib.frameworks.examples import keras as keras_example" in code


def test_the_chapters_first_cells_keep_tensorflow_silent() -> None:
    first, second = ["".join(cell["source"]) for cell in cells() if cell["cell_type"] == "code"][:2]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("TF_")}
    run = subprocess.run(
        [sys.executable, "-c", f"{first}\n{second}\ntf.compat.v1.nn.dropout(np.ones(3), 0.9)"],
        capture_output=True,
        text=True,
        check=True,
        timeout=240,
        env=environment,
    )
    assert run.stderr == ""
