"""The model of the chapter "frameworks" in Flax (nnx)."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

Arrays = list[np.ndarray]


class Network(nnx.Module):
    """Dense, ReLU, dropout, dense."""

    def __init__(self, p: float, rngs: nnx.Rngs) -> None:
        self.hidden = nnx.Linear(784, 128, rngs=rngs)
        self.dropout = nnx.Dropout(p, rngs=rngs)  # a fork of rngs
        self.logits = nnx.Linear(128, 10, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Return the logits."""
        return self.logits(self.dropout(nnx.relu(self.hidden(x))))


def build(p: float, weights: Arrays, seed: int) -> Network:
    """Return the network; `seed` is that of the masks."""
    model = Network(p, nnx.Rngs(seed))
    for own, value in zip(parameters(model), weights, strict=True):
        own[...] = value  # (inputs, outputs)
    return model


def train(
    model: Network,
    x: np.ndarray,
    y: np.ndarray,
    batches: np.ndarray,
) -> None:
    """Take a step for each row of `batches`, row numbers of x."""
    sgd = nnx.Optimizer(model, optax.sgd(0.05, momentum=0.9), wrt=nnx.Param)
    model.train()  # dropout on, until somebody says eval
    for rows in batches:
        step(model, sgd, jnp.asarray(x[rows]), jnp.asarray(y[rows]))


@nnx.jit  # brings the weights and the count of masks back out
def step(
    model: Network,
    sgd: nnx.Optimizer[Network],
    x: jax.Array,
    y: jax.Array,
) -> None:
    """Take one step."""

    def loss(model: Network) -> jax.Array:
        cross_entropy = optax.softmax_cross_entropy_with_integer_labels
        return cross_entropy(model(x), y).mean()

    sgd.update(model, nnx.grad(loss)(model))


def predict(model: Network, x: np.ndarray) -> np.ndarray:
    """Return class probabilities."""
    model.eval()  # dropout off
    return np.asarray(jax.nn.softmax(model(jnp.asarray(x))))


def weights(model: Network) -> Arrays:
    """Return the weights, matrices as (inputs, outputs)."""
    return [np.array(own) for own in parameters(model)]


def parameters(model: Network) -> list[Any]:
    """Return the parameters in the order of the layers."""
    layers = (model.hidden, model.logits)
    return [own for layer in layers for own in (layer.kernel, layer.bias)]
