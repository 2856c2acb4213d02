"""Interactive figures as notebooks see them."""

import itertools
import json
import sys
import types
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from dropoutlib import interactive
from dropoutlib.layers import InvertedDropout
from dropoutlib.masks import keyed_mask

FIGURES = [
    interactive.conventions,
    interactive.gradient_masks,
    interactive.keyed_masks,
    interactive.masks,
    interactive.monte_carlo,
    interactive.variance_shift,
]


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
    found = {parameter["name"]: parameter for parameter in make().spec["params"]}
    controls = [parameter for parameter in found.values() if "bind" in parameter]
    assert controls
    assert "p" in found
    assert all(len(control["bind"]["name"]) > 3 and "value" in control for control in controls)
    assert found["readout"]["expr"]


def parameters(figure: interactive.Figure) -> dict[str, Any]:
    return {parameter["name"]: parameter.get("value") for parameter in figure.spec["params"]}


def numbers(text: str) -> npt.NDArray[np.int64]:
    return np.array([int(text[k : k + 4], 16) for k in range(0, len(text), 4)])


RATES = [round(0.05 * step, 2) for step in range(19)]


def test_the_masks_are_those_of_the_layer_at_every_setting() -> None:
    values = parameters(interactive.masks())
    lanes, counts = numbers(values["lanes"]).reshape(5, 400), numbers(values["counts"]).reshape(5, 19)
    for seed, p in itertools.product(range(5), RATES):
        kept = InvertedDropout(p, seed)(np.ones(400)) > 0
        np.testing.assert_array_equal(lanes[seed] < 65536 * (1 - p), kept)
        assert counts[seed, round(20 * p)] == kept.sum()


def test_the_keyed_masks_are_those_of_their_keys_at_every_setting() -> None:
    values = parameters(interactive.keyed_masks())
    lanes, counts = numbers(values["lanes"]).reshape(3, 3, 8, 32), numbers(values["counts"]).reshape(3, 3, 8, 19)
    for key in itertools.product(range(3), range(3), range(8)):
        for p in RATES:
            kept = keyed_mask(32, p, *key)
            np.testing.assert_array_equal(lanes[key] < 65536 * (1 - p), kept)
            assert counts[key][round(20 * p)] == kept.sum()


def test_the_passes_are_those_of_the_layer_at_every_setting() -> None:
    values = parameters(interactive.monte_carlo())
    lanes = numbers(values["lanes"]).reshape(256, 8)
    weights = np.array([1.5, -1, 0.8, 0.6, -0.5, 0.4, 0.3, 0.2])
    assert weights.sum() == pytest.approx(2.3)
    assert weights @ weights == pytest.approx(4.79)
    for index, (tenths, doublings) in enumerate(itertools.product(range(1, 7), range(9))):
        p, layer = tenths / 10, InvertedDropout(tenths / 10, seed=0)
        passes = np.array([layer(np.ones(8)) @ weights for _ in range(2**doublings)])
        np.testing.assert_allclose((lanes < 65536 * (1 - p))[: passes.size] @ weights / (1 - p), passes, atol=1e-12)
        assert values["means"][index] == pytest.approx(passes.mean(), abs=1e-4)
        assert values["deviations"][index] == pytest.approx(passes.std(), abs=1e-4)


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
