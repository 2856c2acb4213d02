"""The model of the chapter "frameworks" in Keras."""

import keras
import numpy as np
from keras import layers

Arrays = list[np.ndarray]


def build(p: float, weights: Arrays, seed: int) -> keras.Sequential:
    """Return the network; `seed` is that of the masks."""
    model = keras.Sequential(
        [
            keras.Input((784,)),
            layers.Dense(128, activation="relu"),
            layers.Dropout(p, seed=seed),  # a stream of its own
            layers.Dense(10),
        ]
    )
    model.set_weights(weights)  # (inputs, outputs)
    return model


def train(
    model: keras.Sequential,
    x: np.ndarray,
    y: np.ndarray,
    batches: np.ndarray,
) -> None:
    """Take a step for each row of `batches`, row numbers of x."""
    model.compile(
        keras.optimizers.SGD(0.05, momentum=0.9),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    rows, size = batches.ravel(), batches.shape[1]
    # fit says training=True to every layer: dropout is on.
    model.fit(x[rows], y[rows], batch_size=size, shuffle=False, verbose=0)


def predict(model: keras.Sequential, x: np.ndarray) -> np.ndarray:
    """Return class probabilities."""
    logits = model.predict(x, verbose=0)  # training=False: off
    return keras.ops.convert_to_numpy(keras.ops.softmax(logits))


def weights(model: keras.Sequential) -> Arrays:
    """Return the weights, matrices as (inputs, outputs)."""
    return model.get_weights()
