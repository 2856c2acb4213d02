"""Draws the landing page's figure: one row of activations behind both conventions, in both modes.

`python -m book.landing_figure` stores it, with a digest of this file in its metadata; a test compares the two.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import numpy.typing as npt

from dropoutlib.figures import COLORS, use_style
from dropoutlib.layers import InvertedDropout, StandardDropout

PATH = Path(__file__).parent / "static" / "two-conventions.png"
DIGEST_KEY = "Source"
P, SEED, UNITS = 0.4, 1, 32
LAYERS = {"standard": StandardDropout, "inverted": InvertedDropout}


def activations() -> npt.NDArray[np.float64]:
    """Return a row of activations, smooth so that the eye sees what is missing."""
    position = np.linspace(0, 1, UNITS)
    return np.asarray(0.55 + 0.3 * np.sin(2 * np.pi * position) + 0.12 * np.sin(6 * np.pi * position + 1))


def outputs() -> dict[tuple[str, str], npt.NDArray[np.floating]]:
    """Return what each convention makes of the activations in each mode."""
    x, result = activations(), {}
    for name, layer_class in LAYERS.items():
        layer = layer_class(P, seed=SEED)
        result[name, "training"] = layer.train()(x)
        result[name, "evaluation"] = layer.eval()(x)
    return result


def source_digest() -> str:
    """Return the SHA-256 of this file."""
    return hashlib.sha256(Path(__file__).read_bytes()).hexdigest()


def draw(path: Path = PATH) -> None:
    """Draw the figure and store it."""
    import matplotlib.pyplot as plt

    use_style()
    figure, axes = plt.subplots(2, 2, figsize=(7.2, 4.1), sharex=True, sharey=True)
    x, unit = activations(), np.arange(UNITS)
    for axis, ((name, mode), y) in zip(axes.flat, outputs().items(), strict=True):
        axis.bar(unit, y, color=COLORS[name], width=0.72)
        dropped = y == 0
        axis.plot(unit[dropped], np.full(dropped.sum(), 0.06), "x", color=COLORS["reference"], markersize=4)
        axis.step(unit, x, where="mid", color=COLORS["reference"], linewidth=1.2)
        axis.set_title(f"{name}, {mode}", color=COLORS[name], weight="bold")
        axis.grid(visible=False)
        axis.set(xticks=[], ylim=(0, 1.9))
    notes = (
        "kept as it is, or dropped",
        f"all times 1 − p = {1 - P:g}",
        f"kept times 1/(1 − p) = {1 / (1 - P):.2f}",
        "as it is",
    )
    for axis, note in zip(axes.flat, notes, strict=True):
        axis.text(0.99, 0.99, note, transform=axis.transAxes, ha="right", va="top", color=COLORS["reference"])
    figure.supylabel("activation", fontsize=10)
    figure.supxlabel(f"{UNITS} units of one layer, p = {P:g}; grey line: their input; crosses: dropped", fontsize=10)
    figure.savefig(path, metadata={DIGEST_KEY: source_digest(), "Software": None})
    plt.close(figure)


if __name__ == "__main__":
    draw()
