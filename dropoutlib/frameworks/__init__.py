"""Dropout in PyTorch, Keras and Flax through one protocol; each adapter imports its framework, and this imports none.

`adapter(model)` returns the module for a model, so that the same lines work for all three.
"""

from __future__ import annotations

import importlib
from typing import Any, cast

from dropoutlib.frameworks.protocol import (
    Adapter,
    DropoutLayer,
    DropoutLayers,
    Finding,
    Gaps,
    NormalisationGap,
    NormalisationLayer,
    Report,
)

__all__ = [
    "Adapter",
    "DropoutLayer",
    "DropoutLayers",
    "Finding",
    "Gaps",
    "NormalisationGap",
    "NormalisationLayer",
    "Report",
    "adapter",
]

# A Keras model on the torch backend is a torch module as well, so Keras is asked first.
_PACKAGES = {"keras": "keras", "flax": "flax", "torch": "pytorch"}


def adapter(model: Any) -> Adapter:
    """Return the adapter module for a model, by the packages in which its classes are defined.

    Raises
    ------
    TypeError
        If the model is of none of the three frameworks.
    """
    packages = {base.__module__.partition(".")[0] for base in type(model).__mro__}
    for package, module in _PACKAGES.items():
        if package in packages:
            return cast(Adapter, importlib.import_module(f"dropoutlib.frameworks.{module}"))
    if any(base.__module__ == "dropoutlib.frameworks.flax" for base in type(model).__mro__):
        return cast(Adapter, importlib.import_module("dropoutlib.frameworks.flax"))
    raise TypeError(
        f"model must be a torch.nn.Module, a keras.Model, a flax.nnx.Module or a LinenModel, got {type(model).__name__}"
    )
