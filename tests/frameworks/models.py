"""Three healthy architectures in every framework: small, deterministic, in evaluation mode, statistics settled.

`healthy(framework, architecture)` makes one and `images(framework, architecture, rows)` gives digits in the layout that
it takes. A multilayer perceptron with dropout; a convolutional net with BatchNorm, and dropout behind its last one; a
transformer block with dropout on its attention weights, which reads an image as eight rows. Each ends in ten logits.
"""

from __future__ import annotations

import copy
import functools
from typing import Any

import numpy as np

from dropoutlib.data import digits

FRAMEWORKS = ("pytorch", "keras", "flax", "linen")
ARCHITECTURES = ("mlp", "cnn", "transformer")
# Rates of the dropout layers, in the order of the paths that `dropout_layers` gives.
RATES = {"mlp": (0.4, 0.2), "cnn": (0.1, 0.3), "transformer": (0.2, 0.1, 0.3)}
SHAPES = {"mlp": (64,), "cnn": (8, 8, 1), "transformer": (8, 8)}
CLASSES = 10
SETTLING = 80
BATCH = 64


def images(framework: str, architecture: str, rows: int = 8, start: int = 0) -> np.ndarray:
    """Return digits as float32 with values from 0 to 1, in the layout of the framework."""
    x = digits(np.float32).train.x[start : start + rows].reshape(-1, *SHAPES[architecture])
    return np.ascontiguousarray(x.transpose(0, 3, 1, 2)) if framework == "pytorch" and architecture == "cnn" else x


def batches(framework: str, architecture: str, count: int = 8, rows: int = BATCH) -> list[np.ndarray]:
    """Return batches of different digits."""
    return [images(framework, architecture, rows, start=number * rows) for number in range(count)]


def healthy(framework: str, architecture: str, seed: int = 0) -> Any:
    """Return a model of its own, in evaluation mode, whose running statistics have settled on digits."""
    model = _made(framework, architecture, seed)
    if framework == "keras":
        import keras

        copied = keras.models.clone_model(model)
        copied.set_weights(model.get_weights())
        return copied
    return copy.deepcopy(model)


@functools.cache
def _made(framework: str, architecture: str, seed: int) -> Any:
    return {"pytorch": pytorch, "keras": keras, "flax": flax, "linen": linen}[framework](architecture, seed)


def settling(framework: str) -> list[np.ndarray]:
    """Return the batches on which a convolutional net's running statistics settle."""
    return [images(framework, "cnn", BATCH, start=BATCH * (number % 16)) for number in range(SETTLING)]


# --- PyTorch


def pytorch(architecture: str, seed: int = 0) -> Any:
    import torch
    from torch import nn

    class Transformer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed = nn.Linear(8, 16)
            self.attention = nn.MultiheadAttention(16, 2, dropout=0.2, batch_first=True)
            self.residual = nn.Dropout(0.1)
            self.norm = nn.LayerNorm(16)
            self.hidden = nn.Linear(16, 32)
            self.drop = nn.Dropout(0.3)
            self.output = nn.Linear(32, CLASSES)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            h = self.embed(x)
            attended, _ = self.attention(h, h, h, need_weights=False)
            h = self.norm(h + self.residual(attended))
            return self.output(self.drop(torch.relu(self.hidden(h.mean(dim=1)))))

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model: nn.Module
        if architecture == "mlp":
            model = nn.Sequential(
                *(nn.Linear(64, 32), nn.ReLU(), nn.Dropout(0.4)),
                *(nn.Linear(32, 16), nn.ReLU(), nn.Dropout(0.2)),
                nn.Linear(16, CLASSES),
            )
        elif architecture == "cnn":
            model = nn.Sequential(
                *(nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU()),
                *(nn.Conv2d(8, 16, 3, stride=2, padding=1), nn.BatchNorm2d(16), nn.ReLU()),
                *(nn.Dropout2d(0.1), nn.Flatten(), nn.Dropout(0.3), nn.Linear(256, CLASSES)),
            )
            with torch.no_grad():
                for x in settling("pytorch"):
                    model(torch.from_numpy(x))
        else:
            model = Transformer()
    return model.eval()


def pytorch_encoder(seed: int = 0) -> Any:
    """Return PyTorch's own encoder layer, which has a fused path that leaves dropout out."""
    import torch
    from torch import nn

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.TransformerEncoderLayer(8, 2, dim_feedforward=16, dropout=0.3, batch_first=True).eval()


# --- Keras


def keras(architecture: str, seed: int = 0) -> Any:
    import keras
    from keras import layers

    def initial(number: int) -> Any:
        return keras.initializers.GlorotUniform(seed=100 * seed + number)

    def dense(units: int, number: int, activation: str | None = None) -> Any:
        return layers.Dense(units, activation=activation, kernel_initializer=initial(number), name=f"dense{number}")

    def conv(filters: int, number: int, strides: int) -> Any:
        return layers.Conv2D(
            filters, 3, strides, padding="same", kernel_initializer=initial(number), name=f"conv{number}"
        )

    x = keras.Input(SHAPES[architecture])
    if architecture == "mlp":
        h = layers.Dropout(0.4, seed=seed + 1, name="drop1")(dense(32, 1, "relu")(x))
        h = layers.Dropout(0.2, seed=seed + 2, name="drop2")(dense(16, 2, "relu")(h))
    elif architecture == "cnn":
        h = layers.ReLU(name="relu1")(layers.BatchNormalization(momentum=0.9, name="norm1")(conv(8, 1, 1)(x)))
        h = layers.ReLU(name="relu2")(layers.BatchNormalization(momentum=0.9, name="norm2")(conv(16, 2, 2)(h)))
        h = layers.Flatten(name="flatten")(layers.SpatialDropout2D(0.1, seed=seed + 1, name="drop1")(h))
        h = layers.Dropout(0.3, seed=seed + 2, name="drop2")(h)
    else:
        h = dense(16, 1)(x)
        attention = layers.MultiHeadAttention(
            2, 8, dropout=0.2, seed=seed + 1, kernel_initializer=initial(2), name="attention"
        )
        residual = layers.Dropout(0.1, seed=seed + 2, name="residual")(attention(h, h))
        h = layers.LayerNormalization(name="norm")(layers.Add(name="add")([h, residual]))
        h = dense(32, 3, "relu")(layers.GlobalAveragePooling1D(name="mean")(h))
        h = layers.Dropout(0.3, seed=seed + 3, name="drop")(h)
    model = keras.Model(x, dense(CLASSES, 9)(h), name=architecture)
    if architecture == "cnn":
        for batch in settling("keras"):
            model(batch, training=True)
    return model


# --- Flax


def drawn(seed: int, *layers: Any) -> list[Any]:
    """Return the layers with kernels that NumPy draws, as XLA compiles JAX's initializers anew for each shape."""
    rng = np.random.default_rng(seed)

    def initial(_: Any, shape: tuple[int, ...], dtype: Any) -> Any:
        from jax import numpy as jnp

        return jnp.asarray(rng.standard_normal(shape) / np.sqrt(np.prod(shape[:-1])), dtype)

    return [functools.partial(layer, kernel_init=initial) for layer in layers]


def flax(architecture: str, seed: int = 0) -> Any:
    import jax.numpy as jnp
    from flax import nnx

    linear, conv, attention = drawn(seed, nnx.Linear, nnx.Conv, nnx.MultiHeadAttention)

    class Mlp(nnx.Module):
        def __init__(self, rngs: nnx.Rngs) -> None:
            self.dense1 = linear(64, 32, rngs=rngs)
            self.drop1 = nnx.Dropout(0.4, rngs=rngs)
            self.dense2 = linear(32, 16, rngs=rngs)
            self.drop2 = nnx.Dropout(0.2, rngs=rngs)
            self.dense3 = linear(16, CLASSES, rngs=rngs)

        def __call__(self, x: Any) -> Any:
            h = self.drop1(nnx.relu(self.dense1(x)))
            return self.dense3(self.drop2(nnx.relu(self.dense2(h))))

    class Cnn(nnx.Module):
        def __init__(self, rngs: nnx.Rngs) -> None:
            self.conv1 = conv(1, 8, (3, 3), rngs=rngs)
            self.norm1 = nnx.BatchNorm(8, momentum=0.9, rngs=rngs)
            self.conv2 = conv(8, 16, (3, 3), strides=2, rngs=rngs)
            self.norm2 = nnx.BatchNorm(16, momentum=0.9, rngs=rngs)
            self.drop1 = nnx.Dropout(0.1, broadcast_dims=(1, 2), rngs=rngs)
            self.drop2 = nnx.Dropout(0.3, rngs=rngs)
            self.dense = linear(256, CLASSES, rngs=rngs)

        def __call__(self, x: Any) -> Any:
            h = nnx.relu(self.norm1(self.conv1(x)))
            h = self.drop1(nnx.relu(self.norm2(self.conv2(h))))
            return self.dense(self.drop2(h.reshape(h.shape[0], -1)))

    class Transformer(nnx.Module):
        def __init__(self, rngs: nnx.Rngs) -> None:
            self.embed = linear(8, 16, rngs=rngs)
            self.attention = attention(
                2, 16, dropout_rate=0.2, broadcast_dropout=False, decode=False, rngs=rngs, keep_rngs=True
            )
            self.residual = nnx.Dropout(0.1, rngs=rngs)
            self.norm = nnx.LayerNorm(16, rngs=rngs)
            self.hidden = linear(16, 32, rngs=rngs)
            self.drop = nnx.Dropout(0.3, rngs=rngs)
            self.output = linear(32, CLASSES, rngs=rngs)

        def __call__(self, x: Any) -> Any:
            h = self.embed(x)
            h = self.norm(h + self.residual(self.attention(h)))
            return self.output(self.drop(nnx.relu(self.hidden(h.mean(axis=1)))))

    classes: dict[str, Any] = {"mlp": Mlp, "cnn": Cnn, "transformer": Transformer}
    model = classes[architecture](nnx.Rngs(seed))
    if architecture == "cnn":
        model.train()
        forward = nnx.jit(lambda module, x: module(x))
        for batch in settling("flax"):
            forward(model, jnp.asarray(batch))
    model.eval()
    return model


def linen_module(architecture: str, seed: int = 0) -> Any:
    """Return the linen module, which takes `train` when it is called and starts from the seed's weights."""
    from flax import linen as nn

    dense, conv, attention = drawn(seed, nn.Dense, nn.Conv, nn.MultiHeadDotProductAttention)

    class Mlp(nn.Module):
        @nn.compact
        def __call__(self, x: Any, train: bool) -> Any:
            h = nn.Dropout(0.4, deterministic=not train)(nn.relu(dense(32)(x)))
            h = nn.Dropout(0.2, deterministic=not train)(nn.relu(dense(16)(h)))
            return dense(CLASSES)(h)

    class Cnn(nn.Module):
        @nn.compact
        def __call__(self, x: Any, train: bool) -> Any:
            h = nn.relu(nn.BatchNorm(use_running_average=not train, momentum=0.9)(conv(8, (3, 3))(x)))
            h = nn.relu(nn.BatchNorm(use_running_average=not train, momentum=0.9)(conv(16, (3, 3), 2)(h)))
            h = nn.Dropout(0.1, broadcast_dims=(1, 2))(h, deterministic=not train).reshape(h.shape[0], -1)
            return dense(CLASSES)(nn.Dropout(0.3)(h, deterministic=not train))

    class Transformer(nn.Module):
        @nn.compact
        def __call__(self, x: Any, train: bool) -> Any:
            h = dense(16)(x)
            attend = attention(2, dropout_rate=0.2, broadcast_dropout=False)
            h = nn.LayerNorm()(h + nn.Dropout(0.1)(attend(h, deterministic=not train), deterministic=not train))
            h = nn.relu(dense(32)(h.mean(axis=1)))
            return dense(CLASSES)(nn.Dropout(0.3)(h, deterministic=not train))

    classes: dict[str, Any] = {"mlp": Mlp, "cnn": Cnn, "transformer": Transformer}
    return classes[architecture]()


def linen(architecture: str, seed: int = 0) -> Any:
    import jax

    from dropoutlib.frameworks.flax import LinenModel

    module = linen_module(architecture, seed)
    variables = module.init(jax.random.key(seed), images("linen", architecture), train=False)
    if architecture == "cnn":
        rngs = {"dropout": jax.random.key(seed + 1)}
        forward = jax.jit(lambda v, x: module.apply(v, x, train=True, mutable=["batch_stats"], rngs=rngs)[1])
        for batch in settling("linen"):
            variables = {**variables, **forward(variables, batch)}
    return LinenModel(
        module, variables, images("linen", architecture), {"dropout": jax.random.key(seed + 2)}, train=False
    )
