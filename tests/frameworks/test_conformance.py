"""The conformance table: it sees each planted deviation, and no other; its words are those of a second run.

Every case is first put to a library that is dropoutlib under another name: all cells are equal. Then to one that
deviates on purpose: the cell of that case differs, in the words that are expected. So no row of the table is blind.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from dropoutlib.frameworks.conformance import CASES, LIBRARIES, Cell, Library, Table, conformance
from dropoutlib.layers import InvertedDropout, StandardDropout


class Twin(Library):
    """dropoutlib under another name."""

    name = "Twin"


class Silent:
    """A layer without any check of its rate: zeros from 1 on, the same numbers otherwise."""

    training = True

    def __init__(self, p: float) -> None:
        self.p = p

    def __call__(self, x: np.ndarray) -> np.ndarray:
        return np.zeros_like(x) if not self.p < 1 else x * np.float32(1 - self.p)


def made(make: Callable[..., Any]) -> type[Library]:
    """Return a library whose layers are made by `make`."""

    class Planted(Twin):
        def layer(self, *p: float, shared: tuple[int, ...] = ()) -> Any:
            return make(*p) if not shared else super().layer(*p, shared=shared)

    return Planted


def turned(after: Callable[[Any, Any], Any], mode: bool = True) -> type[Library]:
    """Return a library whose outputs y of x are turned into after(x, y), in one of the modes."""

    class Planted(Twin):
        def drop(self, layer: Any, x: Any, training: bool | None = True) -> Any:
            y = super().drop(layer, x, training)
            return after(x, y) if layer.training == mode else y

    return Planted


def given(before: Callable[[Any], Any]) -> type[Library]:
    """Return a library that turns its input before it sees it."""

    class Planted(Twin):
        def drop(self, layer: Any, x: Any, training: bool | None = True) -> Any:
            return super().drop(layer, before(x), training)

    return Planted


def backward(change: Callable[[Any], Any]) -> type[Library]:
    """Return a library with another gradient."""

    class Planted(Twin):
        def gradient(self, layer: Any, x: Any) -> tuple[Any, Any]:
            y, dx = super().gradient(layer, x)
            return y, change(dx)

    return Planted


def fresh(layer: Any) -> Any:
    layer.training = False
    return layer


def drawing(stream: Callable[[], object]) -> Callable[[Any, Any], Any]:
    """Return an `after` that also draws from a global stream."""

    def after(x: Any, y: Any) -> Any:
        stream()
        return y

    return after


def selecting(x: Any, y: Any) -> Any:
    return np.where(np.random.default_rng(0).random(x.shape) < 0.3, 0, x / 0.7)


def one_mask(axes: tuple[int, ...]) -> Callable[[Any, Any], Any]:
    """Return an `after` that drops with one draw along these axes."""

    def after(x: Any, y: Any) -> Any:
        shape = [1 if axis in axes else size for axis, size in enumerate(x.shape)]
        return x * (np.random.default_rng(0).random(shape) >= 0.3) / 0.7

    return after


class Sharing(Twin):
    """A library with both kinds of shared masks."""

    def layer(self, *p: float, shared: tuple[int, ...] = ()) -> Any:
        made = super().layer(*p)
        made.shared = shared
        return made

    def drop(self, layer: Any, x: Any, training: bool | None = True) -> Any:
        return one_mask(layer.shared)(x, None) if layer.shared else super().drop(layer, x, training)


SILENT = made(Silent)
DEVIATIONS: list[tuple[str, type[Library], str]] = [
    ("p = 0", SILENT, "x"),
    ("p = 0", turned(lambda x, y: 2 * y), "x times 2"),
    ("p = 1", turned(lambda x, y: y / 0), "nan"),
    ("p = 1, gradient", backward(lambda dx: dx * np.nan), "nan"),
    ("p = 1, gradient", backward(lambda dx: None), "no gradient"),
    ("p = 1, x = inf", turned(lambda x, y: x * 0), "nan"),
    ("p = 1.5", SILENT, "zeros"),
    ("p = -0.1", SILENT, "x times 1.1"),
    ("p = nan", SILENT, "zeros"),
    ("p = True", SILENT, "zeros"),
    ("no p given", made(lambda *p: InvertedDropout(p[0])), "raises IndexError"),
    ("no p given", made(lambda *p: InvertedDropout(*p or (0.2,))), "p = 0.2"),
    ("share dropped", made(lambda p: InvertedDropout(p + 0.01)), "not p at 0.1"),
    ("scale of the kept", made(StandardDropout), "not 1/(1-p) at 0.1"),
    ("scale of the kept", turned(lambda x, y: y * 1.00001), "not 1/(1-p) at 0.1"),
    ("float16", turned(lambda x, y: y * np.float32(1)), "float32"),
    ("float16", turned(lambda x, y: y * np.float16(1.01)), "float16, another scale"),
    ("bfloat16", turned(lambda x, y: y), "raises TypeError"),
    ("bfloat16", given(lambda x: x.astype(np.float32)), "float32"),
    ("float32", turned(lambda x, y: y.astype(np.float64)), "float64"),
    ("float32", turned(lambda x, y: y * np.float32(1 + 1e-6)), "float32, another scale"),
    ("float64", turned(lambda x, y: y.astype(np.float32)), "float32"),
    ("float64", turned(lambda x, y: y * 0), "float64, nothing kept"),
    ("int32", given(lambda x: x.astype(np.float64)), "float64"),
    ("float16, 1/(1-p) = 65536", given(lambda x: x.astype(np.float32)), "kept ones become 65536"),
    ("inf or nan dropped", turned(selecting), "0"),
    ("gradient", backward(lambda dx: dx[::-1]), "another mask"),
    ("gradient", backward(lambda dx: dx * 1.1), "another scale"),
    ("mask", turned(one_mask((0,))), "one draw for the batch"),
    ("mask", turned(one_mask((1, 3))), "one draw for axes (1, 3)"),
    ("mask shared by the batch", Sharing, "one draw for the batch"),
    ("mask of whole channels", Sharing, "one draw for all pixels of a channel"),
    ("empty", turned(lambda x, y: y.ravel()), "shape (0,)"),
    ("0-d", turned(lambda x, y: y.reshape(1)), "shape (1,)"),
    ("evaluation", turned(lambda x, y: y * np.float32(1.5), mode=False), "x times 1.5"),
    ("evaluation", turned(lambda x, y: InvertedDropout(0.3, 0)(x), mode=False), "drops some"),
    ("evaluation's memory", turned(lambda x, y: x[:], mode=False), "x's memory"),
    ("a fresh layer", made(lambda *p: fresh(InvertedDropout(*p))), "x"),
    ("the next call", turned(lambda x, y: InvertedDropout(0.3, 0)(x)), "the same mask"),
    ("a call moves", turned(drawing(lambda: np.random.rand())), "NumPy's global stream"),
    ("a call moves", turned(drawing(random.random)), "Python's global stream"),
    ("making a layer moves", made(lambda p: InvertedDropout(p, seed=random.randrange(9))), "Python's global stream"),
]


def test_a_library_that_does_the_same_is_equal_in_each_case() -> None:
    table = conformance([Twin])
    assert table.cases == list(CASES)
    assert table.libraries == ["dropoutlib", "Twin"]
    assert table.differences() == {}
    assert {cell.verdict for cell in table.cells} == {"reference", "equal"}


def test_each_case_is_deviated_from() -> None:
    assert {case for case, _, _ in DEVIATIONS} == set(CASES)


@pytest.mark.parametrize(("case", "library", "seen"), DEVIATIONS)
def test_a_planted_deviation_is_seen(case: str, library: type[Library], seen: str) -> None:
    table = conformance([library], [case])
    reference, cell = table[case, "dropoutlib"], table[case, "Twin"]
    assert cell.seen == seen
    expected = "equal" if seen == reference.seen else "raises" if seen.startswith("raises") else "different"
    assert cell.verdict == expected
    assert table.differences() == ({} if expected == "equal" else {case: ["Twin"]})


def test_most_deviations_differ() -> None:
    """Only what a silent library does at p = 0, and a refused bfloat16, are no deviations: they show equality."""
    equal = [
        case for case, library, seen in DEVIATIONS if conformance([library], [case])[case, "Twin"].verdict == "equal"
    ]
    assert equal == ["p = 0", "bfloat16"]


def test_the_table_shows_the_reference_the_differences_and_nothing_else() -> None:
    table = Table(
        (
            Cell("a", "dropoutlib", "reference", "x"),
            Cell("a", "B", "equal", "x"),
            Cell("a", "C", "different", "zeros < x"),
            Cell("b", "dropoutlib", "reference", "raises TypeError"),
            Cell("b", "B", "raises", "raises ValueError"),
            Cell("b", "C", "equal", "raises TypeError"),
        )
    )
    assert table._repr_html_().splitlines() == [
        '<table class="table">',
        '<thead><tr><th scope="col">case</th><th scope="col">dropoutlib</th><th scope="col">B</th>'
        '<th scope="col">C</th></tr></thead>',
        "<tbody>",
        '<tr><th scope="row">a</th><td>x</td><td>equal</td><td><strong>zeros &lt; x</strong></td></tr>',
        '<tr><th scope="row">b</th><td>raises TypeError</td><td><strong>raises ValueError</strong></td>'
        "<td>equal</td></tr>",
        "</tbody>",
        "</table>",
    ]
    assert repr(table) == "<2 cases, 2 of them with differences between the libraries>"
    assert table.differences() == {"a": ["C"], "b": ["B"]}


def test_a_library_that_is_missing_is_an_import_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(ImportError, match="torch"):
        conformance(LIBRARIES)


@pytest.fixture(scope="module")
def table() -> Table:
    return conformance()


def test_two_runs_give_the_same_words_and_leave_the_global_streams_alone(table: Table) -> None:
    import torch

    def streams() -> list[Any]:
        numpy: Any = np.random.get_state()
        return [random.getstate(), numpy[1].tolist(), numpy[2], torch.get_rng_state().tolist()]

    before = streams()
    assert conformance() == table
    assert streams() == before


def test_the_real_table_has_four_columns_and_no_case_that_all_fail(table: Table) -> None:
    assert table.libraries == ["dropoutlib", "PyTorch", "Keras", "Flax"]
    assert table.cases == list(CASES)
    assert all(cell.seen for cell in table.cells)
    # What a library raises is its own error, not one of a case that is out of date.
    assert not {cell.seen for cell in table.cells} & {"raises AttributeError", "raises NameError", "raises KeyError"}
