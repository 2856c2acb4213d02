"""Figures that the reader moves: Vega-Lite specifications that need no kernel.

Each figure is a JSON file beside this one. Its sliders are Vega-Lite parameters with a `bind`; its parameter `readout`
says in words what the figure shows. What the closed forms do not give, such as masks, comes from `dropoutlib` here.
"""

from __future__ import annotations

import importlib
import io
import json
import sys
from importlib.resources import files
from typing import Any

KIND = "application/vnd.vegalite.v5+json"
VERSION = "6.4"
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
