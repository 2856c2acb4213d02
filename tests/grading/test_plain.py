"""Plain values survive the journey as bytes; everything else becomes harmless, and malformed bytes are refused."""

from __future__ import annotations

import contextlib
import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from grading.plain import MOST_DEPTH, MOST_KEYS, Other, PlainError, dumps, loads

DTYPES = [np.bool_, np.int8, np.uint16, np.int32, np.int64, np.uint64, np.float16, np.float32, np.float64]
scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20)
values = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.lists(inner, max_size=4).map(tuple)
        | st.dictionaries(st.text(max_size=5) | st.integers(), inner, max_size=3)
    ),
    max_leaves=12,
)


@given(values)
def test_values_come_back_with_their_types(value: object) -> None:
    assert repr(loads(dumps(value))) == repr(value)


@given(hnp.arrays(st.sampled_from(DTYPES), hnp.array_shapes(min_dims=0, min_side=0, max_dims=3)))
def test_arrays_come_back_bit_for_bit(array: Any) -> None:
    back = loads(dumps([array, array.T]))
    for u, v in zip(back, (array, array.T), strict=True):
        assert (u.dtype, u.shape, u.tobytes()) == (v.dtype, v.shape, v.tobytes())
        assert type(u) is np.ndarray
        assert u.flags.writeable


def test_numbers_keep_their_dtype() -> None:
    for value in (np.float32(1.5), np.bool_(True), np.int16(-3)):
        back = loads(dumps(value))
        assert type(back) is type(value)
        assert back == value
    assert np.isnan(loads(dumps(float("nan"))))
    assert loads(dumps([np.inf, -np.inf])) == [np.inf, -np.inf]


def test_placeholders_stay_what_they_are() -> None:
    assert loads(dumps((..., NotImplemented, None))) == (..., NotImplemented, None)
    assert loads(dumps(np.array(...))) is ...


class Sly(np.ndarray):  # type: ignore[type-arg]
    """An array that is equal to everything."""

    def __eq__(self, other: object) -> bool:  # type: ignore[override]
        return True

    __hash__ = None  # type: ignore[assignment]


class Agreeable(float):
    def __eq__(self, other: object) -> bool:
        return True

    __hash__ = float.__hash__


def test_subclasses_come_back_as_the_plain_type() -> None:
    array = loads(dumps(np.arange(3.0).view(Sly)))
    assert type(array) is np.ndarray
    assert not np.array_equal(array, [9, 9, 9])
    number = loads(dumps(Agreeable(2)))
    assert type(number) is float
    assert number != 3


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        (object(), "object"),
        (len, "builtin_function_or_method"),
        (b"bytes", "bytes"),
        ({1}, "set"),
        (2j, "complex"),
        (np.array([1j]), "complex128 array"),
        (np.array(["a"]), "<U1 array"),
        (np.array([None, 1]), "object array"),
        (np.array([(1, 2.0)], dtype="i4,f8"), "array"),
    ],
)
def test_everything_else_is_known_by_its_type_only(value: object, kind: str) -> None:
    back = loads(dumps([value]))[0]
    assert isinstance(back, Other)
    assert kind in back.kind
    assert kind in repr(back)


def test_lists_that_hold_themselves_end() -> None:
    endless: list[Any] = []
    endless.append(endless)
    assert "list" in repr(loads(dumps(endless)))


def message(tree: object, data: bytes = b"") -> bytes:
    text = json.dumps(tree).encode()
    return len(text).to_bytes(4, "big") + text + data


def nested(depth: int) -> Any:
    tree: Any = 1
    for _ in range(depth):
        tree = ["list", tree]
    return tree


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\0\0",
        b"\0\0\0\xff{}",
        b"\0\0\0\2{{",
        b"\0\0\0\4\xff\xfe\xfd\xfc",
        message({"a": 1}),
        message(["unknown", 1]),
        message([]),
        message(["single", "exit"]),
        message(["dict", [1]]),
        message(["dict", [["list"], 1]]),
        message(["dict", 3]),
        message(["array", "<f8", [3]], b"too short"),
        message(["array", "<f8", [-1]], 8 * b"x"),
        message(["array", "<f8", [10**30]]),
        message(["array", "<f8", ["3"]]),
        message(["array", "<f8", [True]], 8 * b"x"),
        message(["array", "<f8", [1] * 40], 8 * b"x"),
        message(["array", "|O", [1]], 8 * b"x"),
        message(["array", "<U2", [1]], 8 * b"x"),
        message(["array", "<M8", [1]], 8 * b"x"),
        message(["array", "<f3", [1]], 8 * b"x"),
        message(["array", "<f8", 1], 8 * b"x"),
        message(nested(MOST_DEPTH + 5)),
        b"\0\1\0\0" + 65536 * b"[",
        b"\0\0\x13\x88" + 5000 * b"9",
    ],
)
def test_malformed_bytes_are_refused_in_one_line(data: bytes) -> None:
    with pytest.raises(PlainError) as caught:
        loads(data)
    assert len(str(caught.value).splitlines()) == 1


@given(st.binary(max_size=60))
def test_no_bytes_break_the_reader(data: bytes) -> None:
    for candidate in (data, len(data).to_bytes(4, "big") + data):
        with contextlib.suppress(PlainError):
            loads(candidate)


def test_bools_are_bools() -> None:
    array = loads(message(["array", "|b1", [3]], b"\x00\x01\x07"))
    assert array.dtype == np.bool_
    assert array.tolist() == [False, True, True]
    assert array.view(np.uint8).max() == 1


def test_a_dictionary_has_few_keys() -> None:
    """All these keys have the hash 0, so that each is compared with all before it."""
    many = {k * (2**61 - 1): 0 for k in range(MOST_KEYS + 1)}
    assert loads(dumps(many)) == Other(f"dict of {len(many)} keys")
    tree = json.dumps(["dict", *([key, 0] for key in many)]).encode()
    with pytest.raises(PlainError, match="more than"):
        loads(len(tree).to_bytes(4, "big") + tree)
