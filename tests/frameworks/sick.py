"""Six sick models, in memory and exported, and the files that healthy ones become.

`sick(framework, sickness, seed)` gives a model, an example, and a reference; `EXPECTED` says which check must name the
sickness first, and with which words. `export(kind, framework, model, x, path)` writes a file.
"""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from tests.frameworks.models import drawn, healthy, images

SICKNESSES = ("train-mode", "always-on", "traced-in-train-mode", "batch-statistics", "folded-twice", "wrong-checkpoint")
# A Keras model has no mode, so it cannot be left in the wrong one.
CASES = [
    (framework, sickness)
    for framework in ("pytorch", "keras", "flax", "linen")
    for sickness in SICKNESSES
    if (framework, sickness) != ("keras", "train-mode")
]
EXPECTED = {
    "train-mode": ("evaluation-mode", "in training mode"),
    "always-on": ("no-active-dropout", "active"),
    "traced-in-train-mode": ("exported-program", "active dropout"),
    "batch-statistics": ("rows-independent", "batch's own statistics"),
    "folded-twice": ("parameters", "folding error"),
    "wrong-checkpoint": ("parameters", "wrong checkpoint"),
}
RATE = 0.3
CLASSES = 10


def example(framework: str, rows: int = 8) -> np.ndarray:
    return images(framework, "mlp", rows)


def sick(framework: str, sickness: str, seed: int = 0) -> tuple[Any, np.ndarray, dict[str, np.ndarray] | None]:
    """Return a sick model, an example, and the parameters that it should have, if these matter."""
    from dropoutlib.frameworks import adapter

    if sickness not in ("folded-twice", "wrong-checkpoint"):
        model = faulty(framework, sickness, seed)
        if sickness == "traced-in-train-mode":
            model = traced_in_train_mode(framework, model)
        elif sickness == "train-mode" and framework == "linen":
            model.arguments = {"train": True}
        elif sickness == "train-mode":
            model.train()
        return model, example(framework), None
    model = healthy(framework, "mlp", seed)
    right = dict(adapter(model).parameters(model))
    if sickness == "wrong-checkpoint":
        other = healthy(framework, "mlp", seed + 1)
        return other, example(framework), right
    # Standard dropout: the weights behind each dropout are multiplied by q once. Here a script did so again.
    once = {name: array * np.float32(factor) for (name, array), factor in zip(right.items(), folds(right), strict=True)}
    twice = {name: array * np.float32(factor) for (name, array), factor in zip(once.items(), folds(right), strict=True)}
    load(framework, model, twice)
    return model, example(framework), once


def folds(parameters: dict[str, np.ndarray]) -> list[float]:
    """Return q for the weight matrices of the perceptron that follow a dropout (.4, then .2), and 1 for the rest."""
    factors = {(32, 16): 0.6, (16, 32): 0.6, (16, CLASSES): 0.8, (CLASSES, 16): 0.8}
    return [factors.get(array.shape, 1.0) for array in parameters.values()]


def load(framework: str, model: Any, parameters: dict[str, np.ndarray]) -> None:
    """Put parameters into a model, by the names that its adapter gives."""
    if framework == "pytorch":
        import torch

        model.load_state_dict({name: torch.from_numpy(array) for name, array in parameters.items()})
    elif framework == "keras":
        model.set_weights(list(parameters.values()))
    elif framework == "linen":
        tree: dict[str, Any] = {}
        for name, array in parameters.items():
            *path, last = name.split("/")
            node = tree
            for step in path:
                node = node.setdefault(step, {})
            node[last] = array
        model.variables = tree
    else:
        import jax.numpy as jnp

        for name, array in parameters.items():
            owner, _, last = name.rpartition(".")
            variable = getattr(getattr(model, owner), last)
            variable[...] = jnp.asarray(array)


def faulty(framework: str, sickness: str, seed: int) -> Any:
    """Return a model in evaluation mode whose code drops or normalises by the batch all the same, if it is that."""
    always, by_batch = sickness == "always-on", sickness == "batch-statistics"
    if framework == "pytorch":
        return _torch_faulty(always, by_batch, seed)
    if framework == "keras":
        from keras import Input as Start
        from keras import Model, initializers, layers

        start = initializers.GlorotUniform(seed=seed)
        x = Start((64,))
        h = layers.Dense(16, activation="relu", kernel_initializer=start, name="first")(x)
        h = layers.BatchNormalization(name="norm")(h, training=True if by_batch else None)
        h = layers.Dropout(RATE, seed=seed, name="drop")(h, training=True if always else None)
        return Model(x, layers.Dense(CLASSES, kernel_initializer=start, name="last")(h), name="faulty")
    if framework == "flax":
        return _flax_faulty(always, by_batch, seed)
    return _linen_faulty(always, by_batch, seed)


def _torch_faulty(always: bool, by_batch: bool, seed: int) -> Any:
    import torch
    from torch import nn

    class Faulty(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Linear(64, 16)
            self.norm = nn.BatchNorm1d(16, track_running_stats=not by_batch)
            self.drop = nn.Dropout(RATE)
            self.last = nn.Linear(16, CLASSES)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            h = self.norm(torch.relu(self.first(x)))
            return self.last(nn.functional.dropout(h, RATE) if always else self.drop(h))

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Faulty().eval()


def _flax_faulty(always: bool, by_batch: bool, seed: int) -> Any:
    from flax import nnx

    (linear,) = drawn(seed, nnx.Linear)

    class Faulty(nnx.Module):
        def __init__(self, rngs: nnx.Rngs) -> None:
            self.first = linear(64, 16, rngs=rngs)
            self.norm = nnx.BatchNorm(16, rngs=rngs)
            self.drop = nnx.Dropout(RATE, rngs=rngs)
            self.last = linear(16, CLASSES, rngs=rngs)

        def __call__(self, x: Any) -> Any:
            h = self.norm(nnx.relu(self.first(x)), use_running_average=False if by_batch else None)
            return self.last(self.drop(h, deterministic=False if always else None))

    model = Faulty(nnx.Rngs(seed))
    model.eval()
    return model


def _linen_faulty(always: bool, by_batch: bool, seed: int) -> Any:
    import jax
    from flax import linen as nn

    from dropoutlib.frameworks.flax import LinenModel

    (dense,) = drawn(seed, nn.Dense)

    class Faulty(nn.Module):
        @nn.compact
        def __call__(self, x: Any, train: bool) -> Any:
            h = nn.BatchNorm(use_running_average=not (train or by_batch))(nn.relu(dense(16)(x)))
            return dense(CLASSES)(nn.Dropout(RATE)(h, deterministic=not (train or always)))

    rngs = {"params": jax.random.key(seed), "dropout": jax.random.key(seed + 1)}
    variables = Faulty().init(rngs, example("linen"), train=False)
    return LinenModel(Faulty(), variables, example("linen"), {"dropout": jax.random.key(seed + 2)}, train=False)


# --- Exporting


def traced_in_train_mode(framework: str, model: Any) -> Any:
    """Return a program in memory that was traced from a model in training mode."""
    x = example(framework)
    if framework == "pytorch":
        import torch

        model.train()
        with quiet():
            traced = torch.jit.trace(model, torch.from_numpy(x), check_trace=False)
        return traced.eval()
    if framework == "keras":
        import tensorflow as tf

        return tf.function(lambda x: model(x, training=True)).get_concrete_function(
            tf.TensorSpec((None, *x.shape[1:]), tf.float32, name="x")
        )
    return jax_program(framework, model, x, training=True)


def jax_program(framework: str, model: Any, x: np.ndarray, training: bool = False) -> Any:
    import jax
    import jax.export
    from flax import nnx

    if framework == "linen":
        arguments = model.arguments | ({"train": True} if training and "train" in model.arguments else {})

        def predict(x: Any) -> Any:
            collections = [name for name in model.variables if name != "params"]
            return model.module.apply(model.variables, x, rngs=model.rngs, mutable=collections, **arguments)[0]

    else:
        if training:
            model.train()
        definition, state = nnx.split(model)

        def predict(x: Any) -> Any:
            return nnx.merge(definition, state, copy=True)(x)

    (rows,) = jax.export.symbolic_shape("rows")
    return jax.export.export(jax.jit(predict))(jax.ShapeDtypeStruct((rows, *x.shape[1:]), x.dtype))


def export(kind: str, framework: str, model: Any, x: np.ndarray, path: Path, training: bool = False) -> Path:
    """Write the file that a framework's own exporter makes of a model, for any number of rows."""
    with quiet():
        if kind == "jax.export":
            path.write_bytes(jax_program(framework, model, x, training).serialize())
        elif kind == "Keras":
            model.save(path)
        elif kind == "SavedModel" or framework == "keras":
            _keras_export(kind, model, x, path, training)
        else:
            _torch_export(kind, model, x, path, training)
    return path


def _torch_export(kind: str, model: Any, x: np.ndarray, path: Path, training: bool) -> None:
    import torch

    model.train(training)
    rows = ({0: torch.export.Dim("rows")},)
    arguments = (torch.from_numpy(x),)
    if kind == "torch.export":
        torch.export.save(torch.export.export(model, arguments, dynamic_shapes=rows), path)
    else:
        torch.onnx.export(model, arguments, path, dynamo=True, dynamic_shapes=rows, verbose=False, external_data=False)


def _keras_export(kind: str, model: Any, x: np.ndarray, path: Path, training: bool) -> None:
    import keras

    model(x)
    if kind == "ONNX":
        model.export(path, format="onnx", verbose=False)
    elif not training:
        model.export(path, verbose=False)
    else:
        archive = keras.export.ExportArchive()
        archive.track(model)
        shape = keras.InputSpec(shape=(None, *x.shape[1:]), dtype="float32")
        archive.add_endpoint("serve", lambda x: model(x, training=True), input_signature=[shape])
        archive.write_out(path, verbose=False)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Exporters warn of their own deprecated parts and print as they go."""
    before = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        with (
            warnings.catch_warnings(),
            contextlib.redirect_stdout(io.StringIO()),
            contextlib.redirect_stderr(io.StringIO()),
        ):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


__all__ = ["CASES", "EXPECTED", "SICKNESSES", "example", "export", "healthy", "sick"]
