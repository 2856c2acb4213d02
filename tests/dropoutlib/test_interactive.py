"""Interactive figures as notebooks see them."""

import json
import sys
import types
from collections.abc import Callable

import pytest

from dropoutlib import interactive

FIGURES = [interactive.variance_shift]


@pytest.mark.parametrize("make", FIGURES, ids=lambda make: make.__name__)
def test_a_figure_stores_a_specification_a_picture_and_a_name(make: Callable[[], interactive.Figure]) -> None:
    pytest.importorskip("vl_convert")
    bundle = make()._repr_mimebundle_(include=None, exclude=None)
    assert set(bundle) == {interactive.KIND, "image/png", "text/plain"}
    assert bundle["text/plain"] == f"<interactive figure {make.__name__}>"
    assert bundle["image/png"].startswith(b"\x89PNG")
    assert len(bundle["image/png"]) < 50_000
    assert json.loads(json.dumps(bundle[interactive.KIND])) == make().spec


@pytest.mark.parametrize("make", FIGURES, ids=lambda make: make.__name__)
def test_a_figure_has_controls_with_names_and_a_sentence(make: Callable[[], interactive.Figure]) -> None:
    parameters = {parameter["name"]: parameter for parameter in make().spec["params"]}
    controls = [parameter for parameter in parameters.values() if "bind" in parameter]
    assert controls
    assert "p" in parameters
    assert all(len(control["bind"]["name"]) > 3 and "value" in control for control in controls)
    assert parameters["readout"]["expr"]


def test_without_the_drawing_library_the_specification_is_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "vl_convert", None)
    assert set(interactive.variance_shift()._repr_mimebundle_()) == {interactive.KIND, "text/plain"}


def test_in_colab_altair_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    class Chart:
        def __init__(self, spec: dict[str, object]) -> None:
            self.spec = spec

        @classmethod
        def from_dict(cls, spec: dict[str, object]) -> "Chart":
            return cls(spec)

        def _repr_mimebundle_(self) -> dict[str, object]:
            return {"text/html": len(self.spec)}

    monkeypatch.setitem(sys.modules, "google.colab", types.ModuleType("google.colab"))
    monkeypatch.setitem(sys.modules, "altair", types.SimpleNamespace(Chart=Chart))
    figure = interactive.variance_shift()
    assert figure._repr_mimebundle_() == {"text/html": len(figure.spec)}


def test_an_unknown_parameter_is_named() -> None:
    with pytest.raises(ValueError, match="variance_shift has no parameter q"):
        interactive.Figure("variance_shift", q=1)
