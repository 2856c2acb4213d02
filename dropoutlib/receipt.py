"""The reproducibility receipt: what a notebook ran on, with which seeds, and a digest of what came out."""

from __future__ import annotations

import hashlib
import os
import platform
import sys
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

# These draw masks and initial weights of their own, and promise no stream across devices, builds or versions.
_DRAWING = ("torch", "tensorflow", "jax")
_PACKAGES = ("numpy", "scipy", "sklearn", "matplotlib", "torch", "tensorflow", "keras", "jax", "flax", "onnx")


def digest(outputs: Mapping[str, npt.ArrayLike]) -> str:
    """Return the SHA-256 of named arrays: names, dtypes, shapes and bytes, in the order of the names.

    Parameters
    ----------
    outputs : mapping from name to array_like
        What the digest stands for. Arrays of objects are refused, since their bytes are addresses.

    Raises
    ------
    TypeError
        If an array has dtype object.
    """
    sha = hashlib.sha256()
    for name in sorted(outputs):
        array = np.asarray(outputs[name])
        if array.dtype.hasobject:
            raise TypeError(f"outputs[{name!r}] must be numeric, got dtype {array.dtype}")
        sha.update(f"{name} {array.dtype.str} {array.shape} ".encode())
        sha.update(array.tobytes())
    return sha.hexdigest()


def receipt(seeds: Mapping[str, Any], outputs: Mapping[str, npt.ArrayLike]) -> None:
    """Print versions, seeds, the digest of the outputs, and what that digest promises.

    Parameters
    ----------
    seeds : mapping from name to seed
        Every seed that the notebook used.
    outputs : mapping from name to array_like
        The notebook's main results.

    Raises
    ------
    TypeError
        If seeds is not a mapping or an output is not numeric.
    """
    import dropoutlib

    if not isinstance(seeds, Mapping):
        raise TypeError(f"seeds must map names to seeds, got {seeds!r}; for example {{'masks': 0}}")

    loaded = [f"{name} {sys.modules[name].__version__}" for name in _PACKAGES if name in sys.modules]
    print(
        "versions :",
        ", ".join([f"Python {platform.python_version()}", f"dropoutlib {dropoutlib.__version__}", *loaded]),
    )
    threads = os.environ.get("OMP_NUM_THREADS")
    print(
        f"machine  : {platform.system()} {platform.machine()}, {os.cpu_count()} CPUs",
        *([f"OMP_NUM_THREADS={threads}"] if threads else []),
        sep=", ",
    )
    print("seeds    :", ", ".join(f"{name}={value}" for name, value in seeds.items()))
    print("outputs  :", ", ".join(outputs), "->", digest(outputs)[:16])
    print("promise  : on this machine, with these versions and as many threads, the same digest again")
    print(
        "           elsewhere dropoutlib's masks are the same bits, and what is computed from them agrees to rounding,"
    )
    print("           which long training can magnify")
    if drawing := [name for name in _DRAWING if name in sys.modules]:
        print("           masks and weights drawn by", " or ".join(drawing), "may be others there")
