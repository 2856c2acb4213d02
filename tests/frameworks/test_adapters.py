"""One suite for all adapters: what they find, that they turn dropout on and nothing else, and that they leave no trace.

It runs wherever one of the frameworks is installed, with pytest alone: no fixture of the project is used.
"""

from __future__ import annotations

import importlib.util
import inspect
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dropoutlib.frameworks import DropoutLayer, NormalisationLayer, adapter, protocol
from tests.frameworks import models
from tests.frameworks.models import ARCHITECTURES, FRAMEWORKS, RATES, batches, healthy, images

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = {"pytorch": "torch", "keras": "keras", "flax": "flax", "linen": "flax"}
# Flax lists attributes by name and the others in the order of definition.
NORMED = {"pytorch": ("0", "3"), "keras": ("norm1", "norm2"), "flax": ("norm1", "norm2"), "linen": ("norm1", "norm2")}


@pytest.fixture(params=FRAMEWORKS)
def framework(request: pytest.FixtureRequest) -> str:
    if importlib.util.find_spec(PACKAGES[request.param]) is None:
        pytest.skip(f"{PACKAGES[request.param]} is not installed")
    return str(request.param)


def only(name: str) -> Any:
    """Mark tests of one framework."""
    missing = importlib.util.find_spec(PACKAGES[name]) is None
    return pytest.mark.skipif(missing, reason=f"{PACKAGES[name]} is not installed")


def state(framework: str, model: Any) -> dict[str, np.ndarray]:
    """Return all that an adapter could change: parameters, statistics, modes, random streams."""
    found = dict(adapter(model).parameters(model))
    if framework == "pytorch":
        import torch

        found["stream"] = torch.get_rng_state().numpy()
        found["modes"] = np.array([module.training for module in model.modules()])
        found["buffers"] = np.concatenate([b.numpy().ravel() for b in model.buffers()] or [np.zeros(0)])
    elif framework == "keras":
        import keras

        tensors = [keras.ops.convert_to_tensor(variable) for variable in model.variables]
        found.update({f"variable {n}": tensor.numpy() for n, tensor in enumerate(tensors)})
        found["calls"] = np.array(["call" in vars(layer) for layer in model._flatten_layers()])
    elif framework == "flax":
        import jax
        from flax import nnx

        leaves = jax.tree.leaves(nnx.state(model))
        is_key = [jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key) for leaf in leaves]
        arrays = [jax.random.key_data(x) if key else x for x, key in zip(leaves, is_key, strict=True)]
        found.update({f"leaf {n}": np.asarray(array) for n, array in enumerate(arrays)})
        flags = [repr(value) for _, value in nnx.iter_graph(model) if isinstance(value, bool)]
        found["flags"] = np.array(flags)
    else:
        found["own"] = np.array([model.calls, len(model.interceptors), id(model.variables), id(model.rngs)])
    return found


@contextmanager
def untouched(framework: str, model: Any) -> Iterator[None]:
    """Fail if anything of the model is another after the block."""
    before = state(framework, model)
    yield
    after = state(framework, model)
    assert before.keys() == after.keys()
    assert [key for key in before if before[key].tobytes() != after[key].tobytes()] == []


def call(framework: str, model: Any, x: np.ndarray) -> np.ndarray:
    """Call the model as its users do, in the mode that it has."""
    if framework == "pytorch":
        import torch

        with torch.no_grad():
            return model(torch.from_numpy(x)).numpy()
    return np.array(model(x).numpy() if framework == "keras" else model(x))


# --- packages


def loaded(code: str) -> set[str]:
    """Return the top-level packages that a fresh Python loads for these lines, without the standard library's."""
    show = "import sys; print(*{n.partition('.')[0] for n in sys.modules} - set(sys.stdlib_module_names))"
    done = subprocess.run(
        [sys.executable, "-c", f"{code}\n{show}"], cwd=ROOT, capture_output=True, text=True, check=True, timeout=120
    )
    return set(done.stdout.split("\n")[-2].split())


def test_importing_the_package_loads_numpy_alone() -> None:
    plain = loaded("import numpy, numpy.random")
    assert loaded("import dropoutlib.frameworks, dropoutlib.frameworks.protocol") - plain == {"dropoutlib"}


@pytest.mark.parametrize(
    ("module", "own", "others"),
    [
        ("pytorch", "torch", {"keras", "tensorflow", "jax", "flax"}),
        ("keras", "keras", {"torch", "flax"}),
        ("flax", "flax", {"torch", "keras", "tensorflow"}),
    ],
)
def test_an_adapter_loads_its_own_framework_alone(module: str, own: str, others: set[str]) -> None:
    if importlib.util.find_spec(own) is None:
        pytest.skip(f"{own} is not installed")
    # All that is looked at is where the model's class comes from.
    model = f"type('Model', (), {{'__module__': '{own}.models'}})()"
    packages = loaded(
        f"from dropoutlib.frameworks import adapter; assert adapter({model}).__name__.endswith('.{module}')"
    )
    assert own in packages
    assert packages & others == set()


def test_the_model_says_which_adapter(framework: str) -> None:
    found = adapter(healthy(framework, "mlp"))
    assert found.name == ("flax" if framework == "linen" else framework)


@pytest.mark.parametrize("other", [None, 3, "model", np.zeros(3), [1]])
def test_what_is_no_model_has_no_adapter(other: object) -> None:
    with pytest.raises(TypeError, match=r"torch\.nn\.Module, a keras\.Model, a flax\.nnx\.Module or a LinenModel"):
        adapter(other)


def test_each_adapter_keeps_the_protocol(framework: str) -> None:
    module = adapter(healthy(framework, "mlp"))
    for name, member in vars(protocol.Adapter).items():
        if name.startswith("_") or not inspect.isfunction(member):
            continue
        wanted = list(inspect.signature(member).parameters.values())[1:]
        given = list(inspect.signature(getattr(module, name)).parameters.values())
        assert [(p.name, p.default) for p in given] == [(p.name, p.default) for p in wanted], name
        assert inspect.getdoc(getattr(module, name))


# --- dropout_layers


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_layer_is_found_and_a_healthy_model_drops_nothing(framework: str, architecture: str) -> None:
    model, x = healthy(framework, architecture), images(framework, architecture)
    tools = adapter(model)
    with untouched(framework, model):
        listed, traced = tools.dropout_layers(model), tools.dropout_layers(model, x)
    assert listed.method == "modules only"
    assert traced.method == "tracing"
    assert listed.layers == traced.layers
    assert sorted(place.rate for place in traced) == pytest.approx(sorted(RATES[architecture]))
    assert len({place.path for place in traced}) == len(traced)
    assert traced.active == traced.functional == ()
    assert tools.training_modules(model) == ()
    attention = [place.kind for place in traced if place.rate == 0.2] if architecture == "transformer" else []
    assert attention == ["attention dropout"] * len(attention)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_in_mc_mode_every_layer_is_seen_to_draw(framework: str, architecture: str) -> None:
    model, x = healthy(framework, architecture), images(framework, architecture)
    tools = adapter(model)
    with tools.mc_mode(model):
        traced = tools.dropout_layers(model, x)
    assert len(traced.active) == len(traced) == len(RATES[architecture])
    assert traced.functional == ()


# --- mc_mode


def dropout_and_nothing_else(framework: str, model: Any, mode: Callable[[Any], Any], x: np.ndarray) -> None:
    """Check a mode on a convolutional net: its masks differ, and its BatchNorm stays as in evaluation."""
    tools = adapter(model)
    parameters = tools.parameters(model)
    with mode(model) as inside:
        first, second = call(framework, inside, x), call(framework, inside, x)
        assert not np.array_equal(first, second)
        assert len(tools.dropout_layers(model, x).active) == 2
        assert not any(layer.batch_statistics for layer in tools.normalisation(model, x))
    after = tools.parameters(model)
    assert [key for key in parameters if parameters[key].tobytes() != after[key].tobytes()] == []


def test_mc_mode_turns_on_dropout_and_nothing_else(framework: str) -> None:
    model, x = healthy(framework, "cnn"), images(framework, "cnn")
    dropout_and_nothing_else(framework, model, adapter(model).mc_mode, x)


@contextmanager
def everything_in_training(model: Any) -> Iterator[Any]:
    """What a naive MC dropout does."""
    if hasattr(model, "train"):
        model.train()
        yield model
        model.eval()
    elif hasattr(model, "arguments"):
        model.arguments = {"train": True}
        yield model
        model.arguments = {"train": False}
    else:
        yield lambda x: model(x, training=True)


@contextmanager
def nothing(model: Any) -> Iterator[Any]:
    yield model


@pytest.mark.parametrize("mode", [everything_in_training, nothing])
def test_a_mode_that_does_more_or_less_would_be_caught(framework: str, mode: Callable[[Any], Any]) -> None:
    with pytest.raises(AssertionError):
        dropout_and_nothing_else(framework, healthy(framework, "cnn"), mode, images(framework, "cnn"))


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_mc_mode_leaves_evaluation_as_it_was(framework: str, architecture: str) -> None:
    model, x = healthy(framework, architecture), images(framework, architecture)
    expected = call(framework, model, x)
    with adapter(model).mc_mode(model):
        assert not np.array_equal(call(framework, model, x), expected)
    assert np.array_equal(call(framework, model, x), expected)
    assert adapter(model).dropout_layers(model, x).active == ()


class Interruption(Exception):
    pass


@pytest.mark.parametrize("nested", [False, True])
def test_mc_mode_is_left_after_an_exception(framework: str, nested: bool) -> None:
    model = healthy(framework, "cnn")
    tools = adapter(model)
    inner = tools.mc_mode if nested else nothing
    with untouched(framework, model), pytest.raises(Interruption), tools.mc_mode(model), inner(model):
        raise Interruption


def test_mc_mode_nests(framework: str) -> None:
    model, x = healthy(framework, "cnn"), images(framework, "cnn")
    tools = adapter(model)
    with untouched(framework, model), tools.mc_mode(model) as outer:
        with tools.mc_mode(model) as inner:
            assert inner is outer is model
        assert len(tools.dropout_layers(model, x).active) == 2
    assert tools.dropout_layers(model, x).active == ()


def test_mc_mode_puts_training_mode_back(framework: str) -> None:
    """A model that is in training has its BatchNorm in evaluation inside, and is in training again afterwards."""
    model, x = healthy(framework, "cnn"), images(framework, "cnn")
    if framework == "keras":
        pytest.skip("a Keras layer has no mode")
    if framework == "linen":
        model.arguments = {"train": True}
    else:
        model.train()
    tools = adapter(model)
    training = tools.training_modules(model)
    assert len(training) >= 4
    assert all(layer.batch_statistics for layer in tools.normalisation(model, x))
    with untouched(framework, model), tools.mc_mode(model):
        assert len(tools.training_modules(model)) == 2
        assert not any(layer.batch_statistics for layer in tools.normalisation(model, x))
    assert tools.training_modules(model) == training


def test_mc_mode_is_one_models_own(framework: str) -> None:
    model, other, x = healthy(framework, "mlp"), healthy(framework, "mlp", seed=1), images(framework, "mlp")
    expected = call(framework, other, x)
    with adapter(model).mc_mode(model):
        assert np.array_equal(call(framework, other, x), expected)


def test_mc_masks_have_the_rate_and_the_scale(framework: str) -> None:
    """The mean over many passes comes to the weights' own: no element is scaled twice or dropped twice.

    The last layer is linear, so with dropout in front of it alone the mean is the evaluation output. Each element's
    mean over 400 masks lies within 6 standard errors; of 80 elements, one alarm in 6e6 runs (normal tail, two-sided).
    A call takes each image 50 times, which no two rows drop alike.
    """
    model, x = healthy(framework, "cnn"), images(framework, "cnn")
    expected = call(framework, model, x)
    with adapter(model).mc_mode(model):
        rows = np.stack([call(framework, model, np.tile(x, (50, 1, 1, 1))) for _ in range(8)]).astype(np.float64)
    passes = rows.reshape(400, *expected.shape)
    assert len(np.unique(passes, axis=0)) == 400
    error = passes.std(axis=0, ddof=1) / np.sqrt(len(passes))
    assert np.all(np.abs(passes.mean(axis=0) - expected) < 6 * error)


# --- predict, training_modules, parameters, normalisation


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_predict_is_the_models_own_output(framework: str, architecture: str) -> None:
    model, x = healthy(framework, architecture), images(framework, architecture)
    with untouched(framework, model):
        found = adapter(model).predict(model, x.astype(np.float64))
    assert found.shape == (8, 10)
    np.testing.assert_allclose(found, call(framework, model, x), rtol=1e-6, atol=1e-6)


def test_predict_starts_every_stream_from_its_seed_and_puts_it_back(framework: str) -> None:
    model, x = healthy(framework, "transformer"), images(framework, "transformer")
    tools = adapter(model)
    with tools.mc_mode(model):
        with untouched(framework, model):
            one, two, again = (tools.predict(model, x, seed=seed) for seed in (1, 2, 1))
            streams = [tools.predict(model, x) for _ in range(2)]
        assert np.array_equal(one, again)
        assert not np.array_equal(one, two)
        assert np.array_equal(*streams)
        assert np.array_equal(streams[0], call(framework, model, x))


def test_looking_at_a_model_in_training_changes_nothing(framework: str) -> None:
    """A forward pass in training moves running statistics and random streams; here they are put back."""
    model, x = healthy(framework, "cnn"), images(framework, "cnn")
    if framework == "keras":
        pytest.skip("a Keras layer has no mode")
    _ = setattr(model, "arguments", {"train": True}) if framework == "linen" else model.train()
    tools = adapter(model)
    with untouched(framework, model):
        assert not np.array_equal(tools.predict(model, x, seed=1), tools.predict(model, x, seed=2))
        assert len(tools.dropout_layers(model, x).active) == 2
        assert all(layer.batch_statistics for layer in tools.normalisation(model, x))


def sum_of_two(framework: str, output: str) -> Any:
    """Return a model of two inputs, BatchNorm(first) + dropout(second); its output is bare, in a dict, or nothing."""

    def wrapped(y: Any) -> Any:
        return {"bare": y, "dict": {"logits": y, "rest": -y}, "nested": ((y, -y), -y), "nothing": ()}[output]

    if framework == "pytorch":
        from torch import nn

        class Two(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.norm, self.drop = nn.BatchNorm1d(FEATURES), nn.Dropout(0.3)

            def forward(self, first: Any, second: Any) -> Any:
                return wrapped(self.norm(first) + self.drop(second))

        return Two().eval()
    if framework == "keras":
        import keras
        from keras import layers

        class Two(keras.Model):
            def __init__(self) -> None:
                super().__init__()
                self.norm, self.drop = layers.BatchNormalization(epsilon=1e-5), layers.Dropout(0.3)

            def call(self, first: Any, second: Any) -> Any:
                return wrapped(self.norm(first) + self.drop(second))

        model = Two()
        model(DATA, DATA)
        return model
    if framework == "flax":
        from flax import nnx

        class Two(nnx.Module):
            def __init__(self, rngs: nnx.Rngs) -> None:
                self.norm, self.drop = nnx.BatchNorm(FEATURES, rngs=rngs), nnx.Dropout(0.3, rngs=rngs)

            def __call__(self, first: Any, second: Any) -> Any:
                return wrapped(self.norm(first) + self.drop(second))

        model = Two(nnx.Rngs(0))
        model.eval()
        return model
    import jax
    from flax import linen

    from dropoutlib.frameworks.flax import LinenModel

    class LinenTwo(linen.Module):
        @linen.compact
        def __call__(self, first: Any, second: Any) -> Any:
            norm = linen.BatchNorm(use_running_average=True, name="norm")
            return wrapped(norm(first) + linen.Dropout(0.3, deterministic=True, name="drop")(second))

    variables = LinenTwo().init(jax.random.key(0), DATA, DATA)
    return LinenModel(LinenTwo(), variables, (DATA, DATA), {"dropout": jax.random.key(1)})


@pytest.mark.parametrize("output", ["bare", "dict", "nested", "nothing"])
def test_models_of_several_inputs_and_outputs(framework: str, output: str) -> None:
    model, pair = sum_of_two(framework, output), (DATA[:8], DATA[8:16])
    tools = adapter(model)
    if output == "nothing":
        with pytest.raises(ValueError, match="the model must return a"):
            tools.predict(model, pair)
        return
    with untouched(framework, model):
        np.testing.assert_allclose(tools.predict(model, pair), pair[0] / np.sqrt(1 + 1e-5) + pair[1], rtol=1e-5)
        (gap,) = tools.running_stats_gap(model, [(DATA[:50], DATA[:50]), [DATA[50:], DATA[50:]]])
        assert len(tools.dropout_layers(model, pair)) == len(tools.normalisation(model, pair)) == 1
    np.testing.assert_allclose(gap.evaluation_mean, DATA.mean(axis=0), rtol=1e-5, atol=1e-6)
    with tools.mc_mode(model):
        assert len(tools.dropout_layers(model, pair).active) == 1
    with pytest.raises(ValueError, match="cannot run on the input"):
        tools.predict(model, (DATA, DATA, DATA))


def test_parameters_of_two_builds_agree(framework: str) -> None:
    first, second = (adapter(m).parameters(m) for m in (healthy(framework, "cnn"), healthy(framework, "cnn")))
    other = adapter(healthy(framework, "cnn")).parameters(healthy(framework, "cnn", seed=1))
    assert first.keys() == second.keys() == other.keys()
    assert len(first) == 14
    assert all(np.array_equal(first[key], second[key]) for key in first)
    assert not all(np.array_equal(first[key], other[key]) for key in first)


def test_parameters_are_copies(framework: str) -> None:
    model = healthy(framework, "mlp")
    with untouched(framework, model):
        for array in adapter(model).parameters(model).values():
            array[...] = 7


def test_normalisation_layers_are_listed(framework: str) -> None:
    model, x = healthy(framework, "cnn"), images(framework, "cnn")
    with untouched(framework, model):
        listed, traced = adapter(model).normalisation(model), adapter(model).normalisation(model, x)
    assert listed == traced
    assert [(layer.batch_statistics, layer.tracked) for layer in listed] == [(False, True)] * 2
    assert adapter(model).normalisation(healthy(framework, "transformer")) == ()


# --- running statistics

FEATURES, HIDDEN, ROWS = 6, 5, 300
RNG = np.random.default_rng(0)
DATA = (RNG.normal(size=(ROWS, FEATURES)) * [1, 2, 3, 0.5, 1, 1] + [0, 1, -2, 3, 0, 5]).astype(np.float32)
WEIGHT = RNG.normal(size=(HIDDEN, FEATURES)).astype(np.float32)
BIAS = RNG.normal(size=HIDDEN).astype(np.float32)
# Uneven on purpose: a mean of the batches' means is not the mean.
BATCHES = [DATA[:7], DATA[7:150], DATA[150:]]
# The divisor of the running variance is n - DDOF.
DDOF = {"pytorch": 1, "keras": 0, "flax": 0, "linen": 0}


def normed(framework: str) -> Any:
    """Return BatchNorm, Linear, ReLU with dropout .3, BatchNorm: the second sees what the first gives."""
    if framework == "pytorch":
        import torch
        from torch import nn

        linear = nn.Linear(FEATURES, HIDDEN)
        with torch.no_grad():
            linear.weight.copy_(torch.from_numpy(WEIGHT))
            linear.bias.copy_(torch.from_numpy(BIAS))
        middle = nn.Sequential(nn.ReLU(), nn.Dropout(0.3))
        return nn.Sequential(nn.BatchNorm1d(FEATURES), linear, middle, nn.BatchNorm1d(HIDDEN)).eval()
    if framework == "keras":
        import keras
        from keras import layers

        x = keras.Input((FEATURES,))
        h = layers.Dense(HIDDEN, activation="relu", name="dense")(
            layers.BatchNormalization(epsilon=1e-5, name="norm1")(x)
        )
        h = layers.BatchNormalization(epsilon=1e-5, name="norm2")(layers.Dropout(0.3)(h))
        model = keras.Model(x, h)
        model.get_layer("dense").set_weights([WEIGHT.T, BIAS])
        return model
    import jax.numpy as jnp

    if framework == "flax":
        from flax import nnx

        class Normed(nnx.Module):
            def __init__(self, rngs: nnx.Rngs) -> None:
                self.norm1 = nnx.BatchNorm(FEATURES, rngs=rngs)
                self.dense = nnx.Linear(FEATURES, HIDDEN, rngs=rngs)
                self.drop = nnx.Dropout(0.3, rngs=rngs)
                self.norm2 = nnx.BatchNorm(HIDDEN, rngs=rngs)
                self.dense.kernel[...] = jnp.asarray(WEIGHT.T)
                self.dense.bias[...] = jnp.asarray(BIAS)

            def __call__(self, x: Any) -> Any:
                return self.norm2(self.drop(nnx.relu(self.dense(self.norm1(x)))))

        module = Normed(nnx.Rngs(0))
        module.eval()
        return module
    import jax
    from flax import linen

    from dropoutlib.frameworks.flax import LinenModel

    class Linen(linen.Module):
        def setup(self) -> None:
            self.norm1, self.norm2 = linen.BatchNorm(), linen.BatchNorm()
            self.dense, self.drop = linen.Dense(HIDDEN), linen.Dropout(0.3)

        def __call__(self, x: Any, train: bool) -> Any:
            h = linen.relu(self.dense(self.norm1(x, use_running_average=not train)))
            return self.norm2(self.drop(h, deterministic=not train), use_running_average=not train)

    variables = Linen().init(jax.random.key(0), DATA[:2], train=False)
    dense = {"kernel": jnp.asarray(WEIGHT.T), "bias": jnp.asarray(BIAS)}
    variables = {**variables, "params": {**variables["params"], "dense": dense}}
    return LinenModel(Linen(), variables, DATA[:2], {"dropout": jax.random.key(1)}, train=False)


def hidden(mean: np.ndarray, var: np.ndarray) -> np.ndarray:
    """Return what reaches the second layer of `normed` if the first one's statistics are these."""
    h = (DATA.astype(np.float64) - mean) / np.sqrt(var + 1e-5)
    return np.maximum(h @ WEIGHT.T.astype(np.float64) + BIAS, 0)


@pytest.mark.parametrize("mode", ["as it is", "in training"])
def test_the_gap_is_that_of_the_pooled_inputs(framework: str, mode: str) -> None:
    model = normed(framework)
    if mode == "in training":
        if framework == "keras":
            pytest.skip("a Keras layer has no mode")
        _ = setattr(model, "arguments", {"train": True}) if framework == "linen" else model.train()
    with untouched(framework, model):
        gaps = adapter(model).running_stats_gap(model, iter(BATCHES))
    assert tuple(gap.path for gap in gaps) == NORMED[framework]
    for gap, inputs in zip(gaps, (DATA, hidden(np.zeros(FEATURES), np.ones(FEATURES))), strict=True):
        np.testing.assert_array_equal(gap.running_mean, 0)
        np.testing.assert_array_equal(gap.running_var, 1)
        np.testing.assert_allclose(gap.evaluation_mean, inputs.mean(axis=0), rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(gap.evaluation_var, inputs.var(axis=0, ddof=DDOF[framework]), rtol=1e-5)
    assert gaps[0].ratio == pytest.approx(np.mean(1 / DATA.var(axis=0, ddof=DDOF[framework])), rel=1e-5)
    assert gaps[0].shift == pytest.approx(np.max(np.abs(DATA.mean(0)) / DATA.std(0, ddof=DDOF[framework])), rel=1e-5)


@pytest.mark.parametrize("mode", ["as it is", "in training", "mc"])
def test_reestimation_closes_the_gap_in_every_layer(framework: str, mode: str) -> None:
    """The second layer's statistics are those behind the corrected first layer, not behind the one that was."""
    model = normed(framework)
    tools = adapter(model)
    if mode == "in training" and framework != "keras":
        _ = setattr(model, "arguments", {"train": True}) if framework == "linen" else model.train()
    modes, before = tools.training_modules(model), tools.parameters(model)
    with tools.mc_mode(model) if mode == "mc" else nothing(model):
        tools.reestimate(model, BATCHES)
    assert tools.training_modules(model) == modes
    after = tools.parameters(model)
    changed = {key for key in before if before[key].tobytes() != after[key].tobytes()}
    assert len(changed) == 4
    assert all("mean" in key or "var" in key for key in changed)
    ddof = DDOF[framework]
    first = DATA.mean(axis=0, dtype=np.float64), DATA.var(axis=0, ddof=ddof, dtype=np.float64)
    behind = hidden(*first)
    for gap, (mean, var) in zip(
        tools.running_stats_gap(model, BATCHES),
        (first, (behind.mean(axis=0), behind.var(axis=0, ddof=ddof))),
        strict=True,
    ):
        np.testing.assert_allclose(gap.running_mean, mean, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(gap.running_var, var, rtol=1e-5)
        assert gap.ratio == pytest.approx(1, abs=1e-5)
        assert gap.shift < 1e-5


@only("pytorch")
def test_reestimation_is_that_of_the_package() -> None:
    """PyTorch, whose divisor is ours, and a network of the package come to the same statistics."""
    from dropoutlib.batchnorm import BatchNorm1d, reestimate_running_stats
    from dropoutlib.layers import InvertedDropout
    from dropoutlib.network import Linear, ReLU, Sequential

    linear = Linear(FEATURES, HIDDEN, np.random.default_rng(1))
    linear.weight.value, linear.bias.value = WEIGHT.astype(np.float64), BIAS.astype(np.float64)
    norms = BatchNorm1d(FEATURES), BatchNorm1d(HIDDEN)
    reestimate_running_stats(
        Sequential(norms[0], linear, ReLU(), InvertedDropout(0.3, seed=0), norms[1]), DATA.astype(np.float64)
    )
    model = normed("pytorch")
    adapter(model).reestimate(model, BATCHES)
    for ours, gap in zip(norms, adapter(model).running_stats_gap(model, BATCHES), strict=True):
        np.testing.assert_allclose(gap.running_mean, ours.running_mean, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(gap.running_var, ours.running_var, rtol=1e-5)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_healthy_model_has_settled_statistics(framework: str, architecture: str) -> None:
    model = healthy(framework, architecture)
    gaps = adapter(model).running_stats_gap(model, batches(framework, architecture))
    assert len(gaps) == (2 if architecture == "cnn" else 0)
    assert all(abs(gap.ratio - 1) < 0.05 and gap.shift < 0.05 for gap in gaps)


def test_moments_are_exact_where_the_mean_is_large() -> None:
    from dropoutlib.frameworks._statistics import Moments

    x = np.random.default_rng(0).normal(size=(50, 3, 4)) + 1e6
    moments = Moments()
    for part in (x[:1], x[1:1], x[1:20], x[20:]):
        moments.add(part, axis=1)
    np.testing.assert_allclose(moments.mean, x.mean(axis=(0, 2)), rtol=1e-15)
    np.testing.assert_allclose(moments.var(1), x.transpose(1, 0, 2).reshape(3, -1).var(axis=1, ddof=1), rtol=1e-9)


@pytest.mark.parametrize("layers", [1, 2])
def test_the_figure_shows_every_layer(framework: str, layers: int) -> None:
    matplotlib = pytest.importorskip("matplotlib")
    model = normed(framework)
    gaps = adapter(model).running_stats_gap(model, BATCHES)
    gaps = protocol.Gaps(gaps.layers[:layers])
    settings = dict(matplotlib.rcParams)
    figure = gaps.figure()
    assert dict(matplotlib.rcParams) == settings
    (axes,) = figure.axes
    assert [label.get_text() for label in axes.get_yticklabels()] == [gap.path for gap in gaps]
    dots = [line.get_xdata()[0] for line in axes.lines if line.get_marker() == "o"]
    assert dots == pytest.approx([gap.ratio for gap in gaps])
    assert "running variance / evaluation variance" in axes.get_xlabel()
    figure.canvas.draw()


def test_nothing_to_draw_is_said(framework: str) -> None:
    model = healthy(framework, "mlp")
    gaps = adapter(model).running_stats_gap(model, [images(framework, "mlp")])
    assert str(gaps) == "no layer keeps running statistics"
    with pytest.raises(ValueError, match="nothing to draw"):
        gaps.figure()


# --- bad input


@pytest.mark.parametrize("name", ["dropout_layers", "predict", "normalisation"])
def test_an_example_that_the_model_does_not_take_is_one_clear_error(framework: str, name: str) -> None:
    model = healthy(framework, "cnn")
    with (
        untouched(framework, model),
        pytest.raises(ValueError, match=r"the model cannot run on the (example|input): ."),
    ):
        getattr(adapter(model), name)(model, np.zeros((2, 3), np.float32))


@pytest.mark.parametrize("name", ["running_stats_gap", "reestimate"])
def test_batches_that_cannot_be_used_are_one_clear_error(framework: str, name: str) -> None:
    model = normed(framework)
    function = getattr(adapter(model), name)
    with untouched(framework, model):
        for wrong in (DATA, "batches", 3, None, {"x": DATA}):
            with pytest.raises(TypeError, match="batches must be an iterable of inputs, such as"):
                function(model, wrong)
        with pytest.raises(ValueError, match="no batch reached"):
            function(model, [])
        with pytest.raises(ValueError, match="the model cannot run on batch 1"):
            function(model, [DATA, np.zeros((2, 3), np.float32)])
        with pytest.raises(TypeError, match="got None"):
            function(model, [None])


def test_reestimation_reads_batches_more_than_once_and_says_so(framework: str) -> None:
    model = normed(framework)
    with untouched(framework, model), pytest.raises(TypeError, match="an iterator can be read only once; give a list"):
        adapter(model).reestimate(model, iter(BATCHES))


def test_what_is_no_model_is_refused_by_every_function(framework: str) -> None:
    module = adapter(healthy(framework, "mlp"))
    for name, arguments in {
        "dropout_layers": (),
        "predict": (DATA,),
        "normalisation": (),
        "training_modules": (),
        "parameters": (),
        "running_stats_gap": (BATCHES,),
        "reestimate": (BATCHES,),
    }.items():
        with pytest.raises(TypeError, match="model must be a"):
            getattr(module, name)("model", *arguments)
    for name in ("mc_mode", "preserved"):
        with pytest.raises(TypeError, match="model must be a"), getattr(module, name)("model"):
            pass


def test_also_takes_paths_of_the_model(framework: str) -> None:
    model = healthy(framework, "mlp")
    with untouched(framework, model):
        with pytest.raises(ValueError, match="no module with the path 'head'"), adapter(model).mc_mode(model, ["head"]):
            pass
        with pytest.raises(TypeError, match="also must be a list of paths"), adapter(model).mc_mode(model, "drop1"):
            pass


# --- functional dropout, and arguments given where a layer is called


def functional(framework: str, kind: str) -> Any:
    """Return a model that drops in its own code with rate .3, or gives a layer its mode where it calls it.

    "always": whatever the mode; "switched": in training only; "layer": a dropout layer is told to draw; "norm": a
    BatchNorm is told to normalise by the batch; "noise": normal noise is added; "unused": drawn and thrown away.
    """
    if framework == "pytorch":
        import torch
        import torch.nn.functional as F
        from torch import nn

        class Inner(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.norm = nn.BatchNorm1d(FEATURES)

            def forward(self, x: torch.Tensor) -> torch.Tensor:
                if kind in ("always", "layer"):
                    return F.dropout(x, 0.3)
                if kind == "switched":
                    return F.dropout(x, 0.3, self.training)
                if kind == "noise":
                    return x + torch.randn_like(x)
                return F.batch_norm(x, None, None, training=True) if kind == "norm" else x

        class Outer(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.inner, self.linear = Inner(), nn.Linear(FEATURES, 3)

            def forward(self, x: torch.Tensor) -> torch.Tensor:
                return self.linear(self.inner(x))

        return Outer().eval()
    if framework == "keras":
        import keras
        from keras import layers

        class Inner(layers.Layer):
            def __init__(self) -> None:
                super().__init__(name="inner")
                self.seeds = keras.random.SeedGenerator(0)
                self.drop, self.norm = layers.Dropout(0.3, name="drop"), layers.BatchNormalization(name="norm")

            def build(self, shape: Any) -> None:
                self.norm.build(shape)

            def call(self, x: Any, training: bool = False) -> Any:
                if kind == "always" or (kind == "switched" and training):
                    return keras.random.dropout(x, 0.3, seed=self.seeds)
                if kind == "layer":
                    return self.drop(x, training=True)
                if kind == "noise":
                    return x + keras.random.normal((FEATURES,), seed=self.seeds)
                if kind == "unused":
                    keras.random.dropout(x, 0.3, seed=self.seeds)
                return self.norm(x, training=True) if kind == "norm" else x

        x = keras.Input((FEATURES,))
        return keras.Model(x, layers.Dense(3, name="dense")(Inner()(x)))
    import jax

    if framework == "flax":
        from flax import nnx

        class Inner(nnx.Module):
            def __init__(self, rngs: nnx.Rngs) -> None:
                self.deterministic = False
                self.rngs = rngs.fork() if hasattr(rngs, "fork") else rngs
                self.drop = nnx.Dropout(0.3, rngs=rngs)
                self.norm = nnx.BatchNorm(FEATURES, rngs=rngs)

            def __call__(self, x: Any) -> Any:
                if kind == "always" or (kind == "switched" and not self.deterministic):
                    return jax.numpy.where(jax.random.bernoulli(self.rngs.dropout(), 0.7, x.shape), x / 0.7, 0)
                if kind == "layer":
                    return self.drop(x, deterministic=False)
                if kind == "noise":
                    return x + jax.random.normal(self.rngs.dropout(), x.shape)
                if kind == "unused":
                    jax.random.bernoulli(self.rngs.dropout(), 0.7, x.shape)
                return self.norm(x, use_running_average=False) if kind == "norm" else x

        class Outer(nnx.Module):
            def __init__(self) -> None:
                rngs = nnx.Rngs(0)
                self.inner, self.linear = Inner(rngs), nnx.Linear(FEATURES, 3, rngs=rngs)

            def __call__(self, x: Any) -> Any:
                return self.linear(self.inner(x))

        model = Outer()
        model.eval()
        return model
    from flax import linen

    from dropoutlib.frameworks.flax import LinenModel

    class LinenInner(linen.Module):
        @linen.compact
        def __call__(self, x: Any, train: bool) -> Any:
            if kind == "always" or (kind == "switched" and train):
                return jax.numpy.where(jax.random.bernoulli(self.make_rng("dropout"), 0.7, x.shape), x / 0.7, 0)
            if kind == "layer":
                return linen.Dropout(0.3, name="drop")(x, deterministic=False)
            if kind == "noise":
                return x + jax.random.normal(self.make_rng("dropout"), x.shape)
            if kind == "unused":
                jax.random.bernoulli(self.make_rng("dropout"), 0.7, x.shape)
            return linen.BatchNorm(use_running_average=False, name="norm")(x) if kind == "norm" else x

    class LinenOuter(linen.Module):
        @linen.compact
        def __call__(self, x: Any, train: bool) -> Any:
            return linen.Dense(3)(LinenInner(name="inner")(x, train))

    rngs = {"params": jax.random.key(0), "dropout": jax.random.key(1)}
    variables = LinenOuter().init(rngs, DATA[:4], train=False)
    return LinenModel(LinenOuter(), variables, DATA[:4], {"dropout": jax.random.key(2)}, train=False)


def test_functional_dropout_is_found_by_path_and_rate(framework: str) -> None:
    model = functional(framework, "always")
    with untouched(framework, model):
        found = adapter(model).dropout_layers(model, DATA[:4])
    assert found.method == "tracing"
    assert found.functional == (DropoutLayer("inner", 0.3, "functional dropout", True),)
    assert [place for place in found.layers if place.active] == []
    assert "inner: functional dropout, rate 0.3, active" in str(found)


def test_functional_dropout_that_is_off_is_found_too(framework: str) -> None:
    model = functional(framework, "switched")
    with untouched(framework, model):
        found = adapter(model).dropout_layers(model, DATA[:4])
        listed = adapter(model).dropout_layers(model)
    if framework == "linen":
        # The flag is the caller's to pass on, and the wrapper knows no name that all callers use.
        assert found.active == ()
        return
    assert found.functional == (DropoutLayer("inner", 0.3, "functional dropout", False),)
    assert listed.functional == ()
    assert "not searched" in str(listed)


def test_a_layer_told_to_draw_is_seen_to_draw(framework: str) -> None:
    model = functional(framework, "layer")
    found = adapter(model).dropout_layers(model, DATA[:4])
    if framework == "pytorch":
        assert found.functional == (DropoutLayer("inner", 0.3, "functional dropout", True),)
    else:
        assert found.functional == ()
        (place,) = found.active
        assert (place.path.replace("/", "."), place.rate, place.kind) == ("inner.drop", 0.3, "Dropout")


def test_a_layer_told_to_normalise_by_the_batch_is_seen(framework: str) -> None:
    model = functional(framework, "norm")
    with untouched(framework, model):
        found = adapter(model).normalisation(model, DATA[:4])
    by_batch = [layer for layer in found if layer.batch_statistics]
    if framework == "pytorch":
        assert by_batch == [NormalisationLayer("inner", "functional batch norm", True, False)]
    else:
        assert [layer.path.replace("/", ".") for layer in by_batch] == ["inner.norm"]


def test_other_draws_are_not_called_dropout(framework: str) -> None:
    model = functional(framework, "noise")
    found = adapter(model).dropout_layers(model, DATA[:4])
    assert found.functional == (DropoutLayer("inner", None, "random draw", True),)


def test_a_draw_that_is_thrown_away_is_not_active(framework: str) -> None:
    if framework == "pytorch":
        pytest.skip("PyTorch runs what is not used, and the run is what is looked at")
    model = functional(framework, "unused")
    assert adapter(model).dropout_layers(model, DATA[:4]).active == ()


def test_mc_mode_reaches_functional_dropout(framework: str) -> None:
    """In PyTorch and nnx by itself; a Keras or linen module is named in `also`, its children stay as they were."""
    model = functional(framework, "switched")
    also = ["inner"] if framework in ("keras", "linen") else []
    expected = call(framework, model, DATA[:4])
    with adapter(model).mc_mode(model, also):
        passes = [call(framework, model, DATA[:4]) for _ in range(2)]
    assert not np.array_equal(*passes)
    assert np.array_equal(call(framework, model, DATA[:4]), expected)


# --- PyTorch


@only("pytorch")
def test_pytorch_every_class_of_dropout_is_found_and_turned_on() -> None:
    import torch
    from torch import nn

    class Everything(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.plain, self.alpha, self.feature = nn.Dropout(0.1), nn.AlphaDropout(0.2), nn.FeatureAlphaDropout(0.3)
            self.one, self.two, self.three = nn.Dropout1d(0.4), nn.Dropout2d(0.6), nn.Dropout3d(0.7)
            self.rnn = nn.GRU(4, 4, num_layers=2, dropout=0.35, batch_first=True)
            self.single = nn.LSTM(4, 4, batch_first=True)
            self.attention = nn.MultiheadAttention(4, 2, dropout=0.15, batch_first=True)
            self.zero = nn.Dropout(0.0)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            h = self.feature(self.alpha(self.plain(x)))
            h = self.one(h)
            h = self.two(h.unsqueeze(2)).squeeze(2)
            h = self.three(h.unsqueeze(2).unsqueeze(2)).squeeze(2).squeeze(2)
            h = self.single(self.rnn(h)[0])[0]
            return self.attention(h, h, h)[0]

    model = Everything().eval()
    tools = adapter(model)
    x = np.ones((5, 3, 4), np.float32)
    rates = {
        "plain": 0.1,
        "alpha": 0.2,
        "feature": 0.3,
        "one": 0.4,
        "two": 0.6,
        "three": 0.7,
        "rnn": 0.35,
        "attention": 0.15,
        "zero": 0.0,
    }
    assert {place.path: place.rate for place in tools.dropout_layers(model)} == rates
    assert tools.dropout_layers(model, x).active == ()
    with tools.mc_mode(model):
        assert {place.path for place in tools.dropout_layers(model, x).active} == rates.keys() - {"zero"}


@only("pytorch")
def test_pytorch_the_fused_encoder_layer_drops_in_mc_mode() -> None:
    """Its fused path leaves dropout out, and setting its dropout layers to training does not change that."""
    import torch
    from torch import nn

    model = models.pytorch_encoder()
    tools, x = adapter(model), np.random.default_rng(0).normal(size=(4, 6, 8)).astype(np.float32)
    naive = models.pytorch_encoder()
    for module in naive.modules():
        if isinstance(module, nn.Dropout):
            module.train()
    assert tools.dropout_layers(naive, x).active == ()
    assert np.array_equal(call("pytorch", naive, x), call("pytorch", naive, x))
    with untouched("pytorch", model), torch.random.fork_rng(devices=[]), tools.mc_mode(model):
        assert {place.path for place in tools.dropout_layers(model, x).active} == {
            "self_attn",
            "dropout",
            "dropout1",
            "dropout2",
        }
        assert not np.array_equal(call("pytorch", model, x), call("pytorch", model, x))


@only("pytorch")
def test_pytorch_scaled_dot_product_attention_is_found_and_turned_on_by_its_path() -> None:
    import torch
    import torch.nn.functional as F
    from torch import nn

    class Attention(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm = nn.BatchNorm1d(3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.norm(x)
            return F.scaled_dot_product_attention(x, x, x, dropout_p=0.25 if self.training else 0.0)

    model = nn.Sequential(Attention()).eval()
    tools, x = adapter(model), np.random.default_rng(0).normal(size=(4, 3, 8)).astype(np.float32)
    assert tools.dropout_layers(model, x).functional == (DropoutLayer("0", 0.25, "functional dropout", False),)
    with tools.mc_mode(model):
        assert tools.dropout_layers(model, x).active == ()
    with tools.mc_mode(model, ["0"]):
        assert tools.dropout_layers(model, x).active == (DropoutLayer("0", 0.25, "functional dropout", True),)
        assert tools.training_modules(model) == ("0",)


@only("pytorch")
def test_pytorch_a_layer_of_rate_one_is_active_though_it_draws_nothing() -> None:
    from torch import nn

    model = nn.Sequential(nn.Dropout(1.0))
    assert adapter(model).dropout_layers(model, DATA).active == (DropoutLayer("0", 1.0, "Dropout", True),)
    model.eval()
    assert adapter(model).dropout_layers(model, DATA).active == ()


@only("pytorch")
def test_pytorch_a_model_that_runs_in_evaluation_only_is_still_looked_into() -> None:
    import torch
    import torch.nn.functional as F
    from torch import nn

    class Detector(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            if self.training:
                raise ValueError("targets should not be none when in training mode")
            return F.dropout(x, 0.3)

    model = Detector().eval()
    expected = (DropoutLayer("", 0.3, "functional dropout", True),)
    assert adapter(model).dropout_layers(model, DATA).functional == expected


@only("pytorch")
def test_pytorch_half_precision_comes_back_as_float32() -> None:
    import torch
    from torch import nn

    model = nn.Linear(FEATURES, 3).to(torch.bfloat16)
    assert adapter(model).predict(model, DATA).dtype == np.float32
    assert {value.dtype for value in adapter(model).parameters(model).values()} == {np.dtype(np.float32)}


@only("pytorch")
def test_pytorch_dropout_of_other_packages_is_recognised_by_its_name() -> None:
    import torch
    from torch import nn

    class DropPath(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.drop_prob = 0.45

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x * torch.bernoulli(torch.full((len(x), 1), 0.55)) / 0.55 if self.training else x

    model = nn.Sequential(nn.Linear(FEATURES, 3), DropPath()).eval()
    tools = adapter(model)
    assert tools.dropout_layers(model, DATA).layers == (DropoutLayer("1", 0.45, "DropPath", False),)
    with tools.mc_mode(model):
        assert tools.dropout_layers(model, DATA).active == (DropoutLayer("1", 0.45, "DropPath", True),)


@only("pytorch")
@pytest.mark.parametrize("form", ["exported in training", "exported in evaluation", "scripted"])
def test_pytorch_programs_are_looked_into(form: str) -> None:
    import torch
    from torch import nn

    model = nn.Sequential(nn.Linear(FEATURES, 4), nn.BatchNorm1d(4), nn.Dropout(0.3))
    if form != "exported in training":
        model.eval()
    x = torch.from_numpy(DATA[:4])
    if form == "scripted":
        with pytest.warns(DeprecationWarning, match="script"):
            program: Any = torch.jit.script(model)
        assert adapter(program).dropout_layers(program, DATA[:4]).active == ()
        return
    program = torch.export.export(model, (x,)).module()
    found = adapter(program).dropout_layers(program, DATA[:4])
    by_batch = [layer.batch_statistics for layer in adapter(program).normalisation(program, DATA[:4])]
    if form == "exported in training":
        assert [(place.rate, place.active) for place in found] == [(0.3, True)]
        assert by_batch == [True]
    else:
        assert found.active == ()
        assert by_batch == []


@only("pytorch")
@pytest.mark.parametrize(("rate", "active"), [(0.3, True), (0.0, False)])
def test_pytorch_an_operation_that_could_draw_is_judged_by_its_arguments(rate: float, active: bool) -> None:
    """The fused operation takes `train` along: a GPU runs it in evaluation too."""
    import torch
    from torch import nn

    class Fused(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.native_dropout(x, rate, self.training)[0]

    model = Fused()
    place = DropoutLayer("", 0.3, "functional dropout", True)
    assert adapter(model).dropout_layers(model, DATA).active == ((place,) if active else ())
    model.eval()
    assert adapter(model).dropout_layers(model, DATA).active == ()


@only("pytorch")
def test_pytorch_instance_norm_is_not_taken_for_batch_norm() -> None:
    from torch import nn

    model = nn.Sequential(nn.InstanceNorm1d(3)).eval()
    assert adapter(model).normalisation(model, np.ones((4, 3, 8), np.float32)) == ()


@only("pytorch")
def test_pytorch_statistics_that_are_not_kept_are_said_to_be_the_batchs() -> None:
    from torch import nn

    model = nn.Sequential(nn.BatchNorm1d(FEATURES, track_running_stats=False)).eval()
    expected = (NormalisationLayer("0", "BatchNorm1d", True, False),)
    assert adapter(model).normalisation(model) == adapter(model).normalisation(model, DATA) == expected
    assert len(adapter(model).running_stats_gap(model, BATCHES)) == 0


@only("pytorch")
def test_pytorch_a_lazy_layer_says_what_it_needs() -> None:
    from torch import nn

    model = nn.Sequential(nn.LazyBatchNorm1d()).eval()
    with pytest.raises(ValueError, match="run the model once first"):
        adapter(model).running_stats_gap(model, BATCHES)


@only("pytorch")
def test_pytorch_a_buffer_that_a_run_replaces_is_put_back() -> None:
    import torch
    from torch import nn

    class Counting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("runs", torch.zeros(1))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.runs = self.runs + 1
            return x

    model = Counting()
    with untouched("pytorch", model):
        adapter(model).predict(model, DATA)
        adapter(model).dropout_layers(model, DATA)


# --- Keras


@only("keras")
@pytest.mark.parametrize("backend", ["jax", "torch"])
def test_keras_on_another_backend_runs_twice(backend: str) -> None:
    """There is no graph to look into: the rest is the same."""
    if importlib.util.find_spec(backend) is None:
        pytest.skip(f"{backend} is not installed")
    code = """
        import numpy as np, keras
        from dropoutlib.frameworks import adapter
        x = np.random.default_rng(0).normal(size=(20, 6)).astype("float32") + 2
        first = [keras.Input((6,)), keras.layers.BatchNormalization(), keras.layers.Dropout(0.3, name="drop")]
        model = keras.Sequential([*first, keras.layers.Dense(3)])
        tools = adapter(model)
        found, output, parameters = tools.dropout_layers(model, x), tools.predict(model, x), tools.parameters(model)
        assert (tools.name, found.method, found.active, found.functional) == ("keras", "running twice", (), ())
        with tools.mc_mode(model):
            found = tools.dropout_layers(model, x)
            assert [place.path for place in found.active] == ["drop"] and found.functional == ()
            assert not np.array_equal(model.predict(x, verbose=0), model.predict(x, verbose=0))
            assert not any(layer.batch_statistics for layer in tools.normalisation(model, x))
        assert np.array_equal(tools.predict(model, x), output)
        assert all(np.array_equal(value, parameters[key]) for key, value in tools.parameters(model).items())
        tools.reestimate(model, [x[:5], x[5:]])
        (gap,) = tools.running_stats_gap(model, [x])
        assert abs(gap.ratio - 1) < 1e-5 and gap.shift < 1e-5
        print(keras.backend.backend())
    """
    done = subprocess.run(
        [sys.executable, "-c", inspect.cleandoc(code)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
        env={**os.environ, "KERAS_BACKEND": backend},
    )
    assert done.stdout.split() == [backend], done.stderr


@only("keras")
def test_keras_every_class_of_dropout_is_found_and_turned_on() -> None:
    """Recurrent layers make masks in inference too, and do not use them: they are not active."""
    import keras
    from keras import layers

    x = keras.Input((5, 4))
    h = layers.LSTM(4, dropout=0.2, recurrent_dropout=0.3, return_sequences=True, name="lstm")(x)
    h = layers.Bidirectional(layers.GRU(2, dropout=0.1, return_sequences=True), name="both")(h)
    cells = [layers.LSTMCell(4, dropout=0.15), layers.GRUCell(4, recurrent_dropout=0.25)]
    h = layers.RNN(cells, return_sequences=True, name="rnn")(h)
    h = layers.Attention(dropout=0.4, name="attention")([h, h])
    h = layers.AdditiveAttention(dropout=0.45, name="additive")([h, h])
    h = layers.TimeDistributed(layers.Dropout(0.6), name="times")(h)
    h = layers.SpatialDropout1D(0.35, name="spatial")(h)
    h = layers.AlphaDropout(0.55, name="alpha")(layers.GaussianDropout(0.65, name="gaussian")(h))
    inner = keras.Sequential([keras.Input((5, 4)), layers.Dropout(0.05), layers.Dropout(0.0)], name="inner")
    model = keras.Model(x, inner(h))
    tools, example = adapter(model), np.ones((2, 5, 4), np.float32)
    found = tools.dropout_layers(model, example)
    rates = (0.2, 0.3, 0.1, 0.1, 0.15, 0.25, 0.4, 0.45, 0.6, 0.35, 0.65, 0.55, 0.05, 0.0)
    assert tuple(place.rate for place in found) == pytest.approx(rates)
    assert found.functional == found.active == ()
    assert {place.path.split("/")[0] for place in found} == {
        *("lstm", "both", "rnn", "attention", "additive", "times", "spatial", "gaussian", "alpha", "inner")
    }
    with tools.mc_mode(model):
        active = tools.dropout_layers(model, example)
        assert tuple(place.rate for place in active.active) == pytest.approx(rates[:-1])
        assert active.functional == ()
        assert not np.array_equal(call("keras", model, example), call("keras", model, example))


@only("keras")
def test_keras_mc_mode_reaches_the_fused_loop_of_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """There the layer masks its inputs itself, if it is told to, and its cell is not called."""
    import keras
    from keras import layers

    told = []
    loop = layers.GRU.inner_loop

    def watched(layer: Any, *args: Any, training: bool = False, **kwargs: Any) -> Any:
        told.append(training)
        return loop(layer, *args, training=training, **kwargs)

    model = keras.Sequential([keras.Input((5, 4)), layers.GRU(3, dropout=0.2)])
    monkeypatch.setattr(layers.GRU, "inner_loop", watched)
    x = np.ones((2, 5, 4), np.float32)
    with adapter(model).mc_mode(model):
        model(x)
    model(x)
    assert told == [True, False]


@only("keras")
def test_keras_mc_mode_reaches_compiled_functions_and_leaves_them() -> None:
    import keras

    model, x = healthy("keras", "cnn"), images("keras", "cnn")
    model.compile(loss=keras.losses.MeanSquaredError())
    y = np.zeros((8, 10), np.float32)
    expected, loss = model.predict(x, verbose=0), model.evaluate(x, y, verbose=0)
    compiled = model.predict_function, model.test_function
    parameters = adapter(model).parameters(model)
    with adapter(model).mc_mode(model):
        assert not np.array_equal(model.predict(x, verbose=0), model.predict(x, verbose=0))
        assert not np.array_equal(model.predict_on_batch(x), expected)
        assert model.evaluate(x, y, verbose=0) != loss
        with adapter(model).mc_mode(model):
            pass
        assert not np.array_equal(model.predict(x, verbose=0), model.predict(x, verbose=0))
    assert (model.predict_function, model.test_function) == compiled
    assert np.array_equal(model.predict(x, verbose=0), expected)
    assert model.evaluate(x, y, verbose=0) == loss
    after = adapter(model).parameters(model)
    assert all(parameters[key].tobytes() == after[key].tobytes() for key in parameters)


@only("keras")
def test_keras_batch_norm_stays_in_inference_even_if_the_call_says_training() -> None:
    model, x = healthy("keras", "cnn"), images("keras", "cnn")
    parameters = adapter(model).parameters(model)
    with adapter(model).mc_mode(model):
        model(x, training=True)
    after = adapter(model).parameters(model)
    assert all(parameters[key].tobytes() == after[key].tobytes() for key in parameters)


@only("keras")
def test_keras_a_model_that_cannot_be_traced_is_run_twice() -> None:
    import keras
    from keras import layers

    class Eager(layers.Layer):
        def __init__(self, drops: bool) -> None:
            super().__init__()
            self.drops, self.seeds = drops, keras.random.SeedGenerator(0)

        def call(self, x: Any) -> Any:
            x = keras.ops.convert_to_tensor(x.numpy())
            return keras.random.dropout(x, 0.3, seed=self.seeds) if self.drops else x

        def compute_output_shape(self, shape: Any) -> Any:
            return shape

    for drops in (True, False):
        model = Eager(drops)
        model.build((None, FEATURES))
        found = adapter(model).dropout_layers(model, DATA)
        assert found.method == "running twice"
        assert found.functional == ((DropoutLayer("", None, "random draw", True),) if drops else ())


@only("keras")
def test_keras_a_saved_model_traced_in_training_is_looked_into(tmp_path: Path) -> None:
    import keras
    import tensorflow as tf
    from keras import layers

    model = healthy("keras", "mlp")
    for training in (True, False):
        folder = str(tmp_path / str(training))
        signature = [tf.TensorSpec((None, 64), tf.float32)]
        archive = keras.export.ExportArchive()
        archive.track(model)
        archive.add_endpoint("serve", lambda x, training=training: model(x, training=training), signature)
        archive.write_out(folder, verbose=False)
        loaded_layer = layers.TFSMLayer(folder, call_endpoint="serve", name="loaded")
        program = keras.Sequential([keras.Input((64,)), loaded_layer])
        found = adapter(program).dropout_layers(program, images("keras", "mlp"))
        assert [place.path for place in found.active] == (["loaded"] if training else [])


@only("keras")
def test_keras_a_functional_model_gets_its_inputs_as_a_list() -> None:
    import keras

    first, second = keras.Input((FEATURES,)), keras.Input((FEATURES,))
    model = keras.Model([first, second], keras.layers.Add()([first, keras.layers.Dropout(0.3)(second)]))
    assert np.array_equal(adapter(model).predict(model, (DATA, DATA)), 2 * DATA)
    assert len(adapter(model).dropout_layers(model, (DATA, DATA))) == 1


@only("keras")
def test_keras_made_up_names_do_not_count_on() -> None:
    import keras
    from keras import layers

    def build() -> Any:
        inner = keras.Sequential([keras.Input((3,)), layers.Dense(2), layers.Dense(2)])
        return keras.Sequential([keras.Input((3,)), layers.Dense(3), inner, layers.Dense(4, name="head")])

    names = [list(adapter(model).parameters(model)) for model in (build(), build())]
    assert names[0] == names[1]
    assert names[0][-2:] == ["head/kernel", "head/bias"]
    assert "sequential/dense_1/kernel" in names[0]


@only("keras")
def test_keras_a_model_without_weights_yet_says_what_it_needs() -> None:
    import keras

    model = keras.Sequential([keras.layers.Dense(3)])
    with pytest.raises(ValueError, match="has not been built yet; call it on an example first"):
        adapter(model).dropout_layers(model)


# --- Flax


@only("flax")
def test_flax_a_constant_key_is_found_though_every_run_agrees() -> None:
    import jax
    from flax import nnx

    class Constant(nnx.Module):
        def __call__(self, x: Any) -> Any:
            return jax.numpy.where(jax.random.uniform(jax.random.key(0), x.shape) > 0.3, x / 0.7, 0)

    model = Constant()
    tools = adapter(model)
    assert np.array_equal(tools.predict(model, DATA, seed=1), tools.predict(model, DATA, seed=2))
    assert tools.dropout_layers(model, DATA).active == (DropoutLayer("", 0.3, "functional dropout", True),)


@only("flax")
@pytest.mark.parametrize("drops", [True, False])
def test_flax_a_model_that_cannot_be_traced_is_run_twice(drops: bool) -> None:
    import jax
    from flax import nnx

    class Eager(nnx.Module):
        def __init__(self, rngs: nnx.Rngs) -> None:
            self.rngs = rngs

        def __call__(self, x: Any) -> Any:
            x = np.asarray(x)
            return x * np.asarray(jax.random.bernoulli(self.rngs.dropout(), 0.7, x.shape)) if drops else x

    model = Eager(nnx.Rngs(0))
    found = adapter(model).dropout_layers(model, DATA)
    assert found.method == "running twice"
    assert found.functional == ((DropoutLayer("", None, "random draw", True),) if drops else ())


@only("flax")
def test_flax_classes_are_as_they_were() -> None:
    """Calls are watched by way of the class, for Python looks `__call__` up there."""
    from flax import nnx

    class Own(nnx.Linear):
        pass

    model, x = healthy("flax", "cnn"), images("flax", "cnn")
    model.dense = Own(256, 10, rngs=nnx.Rngs(0))
    classes = {type(module) for _, module in nnx.iter_graph(model) if isinstance(module, nnx.Module)}
    before = {each: vars(each).get("__call__") for each in classes}
    assert before[Own] is None
    adapter(model).dropout_layers(model, x)
    adapter(model).normalisation(model, x)
    adapter(model).running_stats_gap(model, [x])
    assert {each: vars(each).get("__call__") for each in classes} == before


@only("flax")
def test_flax_what_a_run_leaves_in_the_module_is_removed() -> None:
    from flax import nnx

    class Keeping(nnx.Module):
        def __call__(self, x: Any) -> Any:
            self.seen = nnx.Intermediate(x)
            return x

    model = Keeping()
    adapter(model).predict(model, DATA)
    assert not hasattr(model, "seen")


@only("flax")
def test_flax_compiled_calls_follow_the_mode() -> None:
    from flax import nnx

    model, x = healthy("flax", "mlp"), images("flax", "mlp")
    compiled = nnx.jit(lambda module, rows: module(rows))
    expected = np.array(compiled(model, x))
    with adapter(model).mc_mode(model):
        assert not np.array_equal(compiled(model, x), compiled(model, x))
    assert np.array_equal(compiled(model, x), expected)


@only("flax")
def test_flax_statistics_inside_a_compiled_part_are_not_guessed() -> None:
    from flax import nnx

    class Compiled(nnx.Module):
        def __init__(self) -> None:
            self.norm = nnx.BatchNorm(FEATURES, rngs=nnx.Rngs(0))

        def __call__(self, x: Any) -> Any:
            return nnx.jit(lambda norm, rows: norm(rows))(self.norm, x)

    model = Compiled()
    model.eval()
    with pytest.raises(ValueError, match=r"'norm'.* it runs inside"):
        adapter(model).running_stats_gap(model, BATCHES)


@only("flax")
def test_linen_needs_its_wrapper_and_a_key() -> None:
    from dropoutlib.frameworks import flax

    module = models.linen_module("mlp")
    with pytest.raises(TypeError, match=r"wrap it as LinenModel\(module, variables, example\)"):
        flax.dropout_layers(module)
    with pytest.raises(TypeError, match=r"module must be a flax\.linen\.Module, got int"):
        flax.LinenModel(3, {"params": {}}, DATA)
    with pytest.raises(TypeError, match=r"what module\.init returns"):
        flax.LinenModel(module, {}, DATA)
    model = flax.LinenModel(module, healthy("linen", "mlp").variables, images("linen", "mlp"), train=False)
    assert len(flax.dropout_layers(model, images("linen", "mlp"))) == 2
    with pytest.raises(ValueError, match="no key to draw from"), flax.mc_mode(model):
        pass


@only("flax")
def test_linen_flags_given_to_the_constructor_are_replaced() -> None:
    """`Dropout(deterministic=...)` and `Dropout()(x, deterministic)` are both turned on and off again."""
    import jax
    from flax import linen

    from dropoutlib.frameworks.flax import LinenModel

    class Both(linen.Module):
        def setup(self) -> None:
            self.own, self.given = linen.Dropout(0.3, deterministic=True), linen.Dropout(0.4)
            self.norm = linen.BatchNorm(use_running_average=True)
            self.attention = linen.MultiHeadDotProductAttention(2, dropout_rate=0.15, deterministic=True)

        def __call__(self, x: Any) -> Any:
            return self.attention(self.norm(self.given(self.own(x), True)))

    x = DATA[:8].reshape(2, 4, FEATURES)
    model = LinenModel(Both(), Both().init(jax.random.key(0), x), x, {"dropout": jax.random.key(1)})
    tools = adapter(model)
    expected = call("linen", model, x)
    assert tools.dropout_layers(model, x).active == ()
    with tools.mc_mode(model):
        assert sorted(place.rate or 0 for place in tools.dropout_layers(model, x).active) == [0.15, 0.3, 0.4]
        assert not np.array_equal(call("linen", model, x), call("linen", model, x))
    assert np.array_equal(call("linen", model, x), expected)
