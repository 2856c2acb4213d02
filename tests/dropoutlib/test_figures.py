"""The style applies, and its colours can be told from white, and from each other by colour-blind readers."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from itertools import combinations

import numpy as np
import pytest

from dropoutlib.figures import COLORS, use_style

matplotlib = pytest.importorskip("matplotlib")

# Machado, Oliveira and Fernandes (2009), full severity, on linear RGB.
VISION = {
    "ordinary": np.eye(3),
    "protanopia": np.array(
        [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]]
    ),
    "deuteranopia": np.array(
        [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]]
    ),
    "tritanopia": np.array(
        [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]]
    ),
}
# CIE XYZ (D65) of linear sRGB.
XYZ = np.array(
    [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750], [0.0193339, 0.1191920, 0.9503041]]
)
WHITE = np.array([0.95047, 1.0, 1.08883])


def linear(color: str) -> np.ndarray:
    c = np.array([int(color[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    return np.where(c <= 0.04045, c / 12.92, ((c + 0.055) / 1.055) ** 2.4)


def contrast_with_white(color: str) -> float:
    """Return the contrast ratio of WCAG 2."""
    return float(1.05 / (XYZ[1] @ linear(color) + 0.05))


def lab(rgb: np.ndarray) -> np.ndarray:
    """Return CIELAB of linear sRGB."""
    t = XYZ @ rgb / WHITE
    x, y, z = np.where(t > (6 / 29) ** 3, np.cbrt(t), t / (3 * (6 / 29) ** 2) + 4 / 29)
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


def distance(first: str, second: str, vision: str) -> float:
    """Return the CIE 1976 colour difference as seen with this kind of vision."""
    seen = [lab(np.clip(VISION[vision] @ linear(color), 0, 1)) for color in (first, second)]
    return float(np.linalg.norm(seen[0] - seen[1]))


@pytest.fixture(autouse=True)
def restore() -> Iterator[None]:
    with matplotlib.rc_context():
        yield


def test_the_measures_know_black_and_white() -> None:
    assert contrast_with_white("#000000") == pytest.approx(21)
    assert contrast_with_white("#FFFFFF") == pytest.approx(1)
    assert contrast_with_white("#767676") == pytest.approx(4.54, abs=0.01)
    assert distance("#000000", "#FFFFFF", "ordinary") == pytest.approx(100, abs=0.01)
    # Red and green of about equal lightness fall together.
    assert distance("#B33A3A", "#6B6B1F", "ordinary") > 60
    assert distance("#B33A3A", "#6B6B1F", "deuteranopia") < 20


def test_the_colours_have_names_for_what_they_stand_for() -> None:
    assert {"inverted", "standard"} <= set(COLORS)
    assert len(set(COLORS.values())) == len(COLORS)


@pytest.mark.parametrize("name", COLORS)
def test_each_colour_stands_out_on_white(name: str) -> None:
    assert contrast_with_white(COLORS[name]) >= 3


@pytest.mark.parametrize("vision", VISION)
def test_the_two_conventions_are_far_apart_for_everybody(vision: str) -> None:
    assert distance(COLORS["inverted"], COLORS["standard"], vision) > 50


@pytest.mark.parametrize("vision", VISION)
@pytest.mark.parametrize(("first", "second"), list(combinations(COLORS, 2)))
def test_any_two_colours_can_be_told_apart_by_everybody(first: str, second: str, vision: str) -> None:
    assert distance(COLORS[first], COLORS[second], vision) > 15


def test_the_style_applies() -> None:
    matplotlib.rcParams.update({"axes.grid": False, "lines.linewidth": 17, "font.size": 3})
    use_style()
    cycle = matplotlib.rcParams["axes.prop_cycle"].by_key()["color"]
    assert cycle == list(COLORS.values())
    assert matplotlib.rcParams["lines.linewidth"] < 5
    assert matplotlib.rcParams["font.size"] >= 9


def test_the_style_is_the_same_twice_and_whatever_came_before() -> None:
    use_style()
    first = dict(matplotlib.rcParams)
    matplotlib.rcParams["axes.facecolor"] = "black"
    use_style()
    assert dict(matplotlib.rcParams) == first


def test_figures_are_light_enough_for_a_page() -> None:
    use_style()
    width, height = matplotlib.rcParams["figure.figsize"]
    assert width * matplotlib.rcParams["figure.dpi"] <= 1200
    assert height < width


def test_a_missing_matplotlib_is_named_with_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ImportError, match="matplotlib") as caught:
        use_style()
    assert 'pip install "dropoutlib[figures]"' in str(caught.value)
