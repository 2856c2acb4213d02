"""The checklist of the chapter "bugs-in-the-wild": which line complains about which defect of `wild`.

Each line is `identify`, `check` or the command; here they are called as a program would call them.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from dropoutlib.checks.exercises import Answer, judge
from dropoutlib.checks.identification import Identity, identify
from dropoutlib.checks.wild import Defect

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Line:
    """A line of the checklist.

    Attributes
    ----------
    run : str
        What to run.
    expect : str
        What it should say.
    applies : tuple of str
        What it can be run on: entries of `Defect.what`.
    complains : callable
        Whether it says something else of a defect's version.
    """

    run: str
    expect: str
    applies: tuple[str, ...]
    complains: Callable[[str, Any], bool]


def complaints(line: Line, defect: Defect, version: Any) -> bool | None:
    """Return whether a line complains about a version of a defect, or None if it cannot be run on it."""
    return line.complains(defect.what, version) if defect.what in line.applies else None


class _OnArrays:
    """A torch module as `identify` takes it: arrays in, arrays out."""

    def __init__(self, module: Any) -> None:
        self.module = module

    def train(self) -> None:
        self.module.train()

    def eval(self) -> None:
        self.module.eval()

    def forward(self, x: Array) -> Array:
        import torch

        with torch.no_grad():
            return np.asarray(self.module(torch.from_numpy(x)))

    __call__ = forward


@lru_cache
def _identity(what: str, version: Any) -> Identity:
    if what == "port":
        return identify(version(0.9), rate=0.1)  # the number that the original documents, as a rate of dropping
    if what == "model":
        return identify(_OnArrays(version(0.2)), rate=0.2)
    return identify(version)


def _says(what: str, version: Any, words: str) -> bool:
    return any(words in sentence for sentence in _identity(what, version).evidence)


def _wrong_backward(what: str, version: Any) -> bool:
    other = not _identity(what, version).backward_reuses_mask
    return other or _says(what, version, "Backward multiplied")


def _edges(what: str, version: Any) -> bool:
    def dropout(x: Array, p: float, rng: np.random.Generator, training: bool) -> Array:
        layer = version(p)
        layer.rng, layer.training = rng, training
        return np.asarray(layer.forward(x))

    return not judge("bugs-in-the-wild.1", Answer(dropout))


def _command(what: str, version: Any) -> bool:
    import torch

    from dropoutlib.checks import wild_torch
    from dropoutlib.frameworks import command

    x = torch.linspace(-1, 1, 8 * 64).reshape(8, 64)
    if what == "model":
        program = wild_torch.exported_after(version(0.2), x)
    else:
        program = version(torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.Dropout(0.2)).train(), x)
    with tempfile.TemporaryDirectory() as folder:
        model, example = Path(folder) / "model.pt2", Path(folder) / "batch.npz"
        torch.export.save(program, model)
        np.savez(example, x=x.numpy())
        return bool(command.check(str(model), str(example))["status"] != command.PASSED)


LINES = (
    Line(
        "identify(Layer).convention",
        '"inverted" or "standard"',
        ("layer",),
        lambda what, version: _identity(what, version).convention not in ("inverted", "standard"),
    ),
    Line(
        "identify(layer, rate=0.1).argument",
        '"drop", at the documented rate',
        ("layer", "port"),
        lambda what, version: _identity(what, version).argument != "drop",
    ),
    Line(
        "identify(Layer).active_in_evaluation",
        "False",
        ("layer", "model"),
        lambda what, version: _identity(what, version).active_in_evaluation is not False,
    ),
    Line(
        "identify(Layer).backward_reuses_mask",
        "True, and no other factor in .evidence",
        ("layer",),
        _wrong_backward,
    ),
    Line(
        "identify(Layer).evidence",
        'without "used the same mask"',
        ("layer",),
        lambda what, version: _says(what, version, "used the same mask"),
    ),
    Line(
        'check("bugs-in-the-wild.1", dropout)',
        "passed",
        ("layer",),
        _edges,
    ),
    Line(
        'check("standard-vs-inverted.3", convert)',
        "passed",
        ("conversion",),
        lambda what, version: not judge("standard-vs-inverted.3", Answer(version)),
    ),
    Line(
        'check("bugs-in-the-wild.2", validate)',
        "passed",
        ("validation",),
        lambda what, version: not judge("bugs-in-the-wild.2", Answer(version)),
    ),
    Line(
        "python -m dropoutlib check model.pt2 --example batch.npz",
        "exit status 0",
        ("model", "export"),
        _command,
    ),
)
