"""Figures that the reader moves: Vega-Lite specifications that need no kernel.

Each figure is a JSON file beside this one. Its sliders are Vega-Lite parameters with a `bind`; its parameter `readout`
says in words what the figure shows. What the closed forms do not give, such as masks, comes from `dropoutlib` here.
"""

from __future__ import annotations

import importlib
import io
import itertools
import json
import sys
from importlib.resources import files
from typing import Any

import numpy as np
import numpy.typing as npt

from dropoutlib.layers import InvertedDropout
from dropoutlib.masks import keyed_mask
from dropoutlib.uncertainty import mc_predict

KIND = "application/vnd.vegalite.v5+json"
VERSION = "6.4"
_RATES = [step / 20 for step in range(19)]
_CONFIG = {
    "axis": {"domainColor": "#404040", "gridColor": "#DDDDDD", "labelFontSize": 12, "titleFontSize": 12},
    "axisX": {"grid": False},
    "background": "white",
    "legend": {"labelFontSize": 12, "titleFontSize": 12},
    "line": {"strokeWidth": 2.5},
    "text": {"fontSize": 12, "fontWeight": "bold"},
    "title": {"anchor": "start", "fontSize": 13, "fontWeight": "normal", "lineHeight": 18, "offset": 12},
    "view": {"stroke": None},
}


class Figure:
    """A Vega-Lite specification that shows itself in notebooks: live where they draw Vega-Lite, else as a picture.

    Parameters
    ----------
    name : str
        Name of the figure, that of its file.
    **values
        Values of its parameters, such as arrays of draws.

    Attributes
    ----------
    spec : dict
        The specification.
    """

    def __init__(self, name: str, **values: Any) -> None:
        text = files(__package__).joinpath(f"{name}.json").read_text(encoding="utf-8")
        spec: dict[str, Any] = json.loads(text)
        for parameter in spec["params"]:
            if parameter["name"] in values:
                parameter["value"] = values.pop(parameter["name"])
        if values:
            raise ValueError(f"{name} has no parameter {', '.join(values)}")
        self.name = name
        self.spec = {
            "$schema": "https://vega.github.io/schema/vega-lite/v5.json",
            "width": 560,
            "height": 280,
            "title": {"text": {"expr": "readout"}},
            **spec,
            "config": _CONFIG,
        }

    def __repr__(self) -> str:
        return f"<interactive figure {self.name}>"

    def _repr_mimebundle_(self, **_: Any) -> dict[str, Any]:
        if "google.colab" in sys.modules:
            # Colab has Altair, which knows how to draw there.
            altair: Any = importlib.import_module("altair")
            return dict(altair.Chart.from_dict(self.spec)._repr_mimebundle_())
        bundle = {KIND: self.spec, "text/plain": repr(self)}
        try:
            return {**bundle, "image/png": self.png()}
        except ImportError:
            return bundle

    def png(self) -> bytes:
        """Return the figure as it first shows itself; needs vl-convert-python and Pillow, else ImportError."""
        import vl_convert
        from PIL import Image

        drawn = io.BytesIO(vl_convert.vegalite_to_png(self.spec, vl_version=VERSION, scale=2))
        with Image.open(drawn) as image, io.BytesIO() as small:
            image.convert("RGB").quantize(32).save(small, "png", optimize=True)
            return small.getvalue()


def variance_shift() -> Figure:
    """Return the figure of training over evaluation variance behind a dropout, by p, mean and standard deviation."""
    return Figure("variance_shift")


def conventions() -> Figure:
    """Return the figure of what standard and inverted dropout make of a 1, in training and in evaluation, by p."""
    return Figure("conventions")


def masks() -> Figure:
    """Return the figure of 400 ones behind inverted dropout, with their mean and variance, by p and seed."""
    drawn = [np.random.SFC64(np.random.SeedSequence(seed)) for seed in range(5)]
    kept = [InvertedDropout(p, seed)(np.ones(400)).astype(bool).sum() for seed in range(5) for p in _RATES]
    return Figure("masks", lanes=_hex(*(_lanes(words, 400) for words in drawn)), counts=_hex(kept))


def gradient_masks() -> Figure:
    """Return the figure of norm and cosine of five features' gradient under all 32 masks, by p and convention."""
    masks = np.array(list(itertools.product([0, 1], repeat=5)))
    norms, kept = np.sqrt(masks @ np.array([0.01, 0.04, 0.09, 0.16, 0.25])), masks.sum(axis=1)
    return Figure("gradient_masks", sums=[round(float(norms[kept == k].sum()), 9) for k in range(6)])


def keyed_masks() -> Figure:
    """Return the figure of the masks of `KeyedDropout` over eight steps, by p, seed, layer and step."""
    keys = list(itertools.product(range(3), range(3), range(8)))
    words = [np.random.Philox(key=[seed, layer], counter=[0, 0, 0, step]) for seed, layer, step in keys]
    kept = [keyed_mask(32, p, *key).sum() for key in keys for p in _RATES]
    return Figure("keyed_masks", lanes=_hex(*(_lanes(word, 32) for word in words)), counts=_hex(kept))


def monte_carlo() -> Figure:
    """Return the figure of Monte-Carlo passes of a linear head against their exact distribution, by p and passes."""
    weights = np.array([1.5, -1, 0.8, 0.6, -0.5, 0.4, 0.3, 0.2])
    found = []
    for tenths, doublings in itertools.product(range(1, 7), range(9)):
        layer = InvertedDropout(tenths / 10, seed=0)
        found.append(mc_predict(lambda x, layer=layer: layer(x) @ weights, np.ones(8), 2**doublings, "values"))
    return Figure(
        "monte_carlo",
        lanes=_hex(_lanes(np.random.SFC64(np.random.SeedSequence(0)), 2048)),
        means=[round(float(prediction.mean), 4) for prediction in found],
        deviations=[round(float(np.sqrt(prediction.variance)), 4) for prediction in found],
    )


def _lanes(words: np.random.BitGenerator, size: int) -> npt.NDArray[np.uint16]:
    """Return the 16-bit numbers that `dropoutlib.masks` compares with (1 - p) * 65536."""
    return words.random_raw(size // 4).astype("<u8").view("<u2")


def _hex(*numbers: npt.ArrayLike) -> str:
    """Return numbers below 65,536 as text, four signs each."""
    return "".join(f"{number:04x}" for number in np.concatenate(numbers))
