"""Plain values as bytes and back: what may pass between a checker and an answer, and nothing else.

Numbers, text, None, NumPy arrays of numbers, and lists, tuples and dictionaries of these. There are no pickles, so
reading runs no code. What is none of these becomes `Other`, which only knows its type's name; `...` and NotImplemented
stay what they are, because they stand for an answer that is still to come.

The bytes are a JSON tree, its length before it in four bytes, and after it the arrays' own bytes.
"""

from __future__ import annotations

import json
import math
import numbers
import re
from dataclasses import dataclass
from typing import Any

import numpy as np

MOST_DEPTH = 16
# Of a dictionary. Numbers with one hash can be chosen, and make each key as slow to enter as all before it.
MOST_KEYS = 1_000
_DTYPE = re.compile(r"[<>|=][biuf](1|2|4|8)")
_SINGLE: dict[str, object] = {"Ellipsis": Ellipsis, "NotImplemented": NotImplemented}


class PlainError(ValueError):
    """Bytes that no `dumps` has written."""


@dataclass(frozen=True)
class Other:
    """A value that cannot pass, of which only the type's name is known."""

    kind: str

    def __repr__(self) -> str:
        """Return what a message shows."""
        return f"an object of type {self.kind}"


def dumps(value: object) -> bytes:
    """Return a value as bytes."""
    buffers: list[bytes] = []
    tree = json.dumps(_tree(value, buffers, 0)).encode()
    return b"".join([len(tree).to_bytes(4, "big"), tree, *buffers])


def loads(data: bytes) -> Any:
    """Return the value that the bytes stand for, made of Python's and NumPy's own types only.

    Raises
    ------
    PlainError
        If the bytes are malformed.
    """
    length = int.from_bytes(data[:4], "big")
    if len(data) < 4 or len(data) < 4 + length:
        raise PlainError("the message ends too early")
    try:
        tree = json.loads(data[4 : 4 + length])
        return _Reader(data, 4 + length).value(tree, 0)
    except PlainError:
        raise
    except (ValueError, RecursionError) as error:
        raise PlainError(f"the message cannot be read: {str(error)[:100]}") from None


def _tree(value: object, buffers: list[bytes], depth: int) -> Any:
    if depth > MOST_DEPTH:
        return ["other", type(value).__name__]
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, np.ndarray | np.generic):
        plain = np.asarray(value)
        if not _DTYPE.fullmatch(plain.dtype.str):
            single = plain.item() if plain.ndim == 0 else None
            return _tree(single, buffers, depth + 1) if single is Ellipsis else ["other", f"{plain.dtype} array"]
        buffers.append(plain.tobytes())
        return ["array" if isinstance(value, np.ndarray) else "scalar", plain.dtype.str, list(plain.shape)]
    if isinstance(value, int):
        return int(value)
    if isinstance(value, numbers.Real):
        return float(value)
    if isinstance(value, str):
        return str(value)
    if isinstance(value, list | tuple):
        kind = "list" if isinstance(value, list) else "tuple"
        return [kind, *(_tree(item, buffers, depth + 1) for item in value)]
    if isinstance(value, dict):
        if len(value) > MOST_KEYS:
            return ["other", f"dict of {len(value)} keys"]
        pairs = [[_tree(k, buffers, depth + 1), _tree(v, buffers, depth + 1)] for k, v in value.items()]
        return ["dict", *pairs]
    name = next((name for name, single in _SINGLE.items() if value is single), "")
    return ["single", name] if name else ["other", type(value).__name__]


class _Reader:
    """The buffers of a message, read in order."""

    def __init__(self, data: bytes, start: int) -> None:
        self._data = data
        self._next = start

    def value(self, tree: Any, depth: int) -> Any:
        if depth > MOST_DEPTH + 1:
            raise PlainError("the message is nested too deeply")
        if not isinstance(tree, list):
            if isinstance(tree, dict):
                raise PlainError("the message holds an unknown kind of value")
            return tree
        match tree:
            case ["list", *items]:
                return [self.value(item, depth + 1) for item in items]
            case ["tuple", *items]:
                return tuple(self.value(item, depth + 1) for item in items)
            case ["dict", *pairs]:
                return self._dictionary(pairs, depth)
            case ["single", str(name)] if name in _SINGLE:
                return _SINGLE[name]
            case ["other", str(kind)]:
                return Other(kind[:80])
            case [("array" | "scalar") as kind, str(dtype), [*shape]]:
                array = self._array(dtype, shape)
                return array if kind == "array" else array[()]
        raise PlainError("the message holds an unknown kind of value")

    def _dictionary(self, pairs: list[Any], depth: int) -> dict[Any, Any]:
        read = {}
        if len(pairs) > MOST_KEYS:
            raise PlainError(f"the message holds a dictionary of more than {MOST_KEYS} keys")
        for pair in pairs:
            if not isinstance(pair, list) or len(pair) != 2 or isinstance(pair[0], list | dict):
                raise PlainError("the message holds a dictionary whose keys are no numbers or text")
            read[pair[0]] = self.value(pair[1], depth + 1)
        return read

    def _array(self, dtype: str, shape: list[Any]) -> np.ndarray[Any, Any]:
        if not _DTYPE.fullmatch(dtype) or not all(type(n) is int and n >= 0 for n in shape) or len(shape) > 16:
            raise PlainError("the message holds an array of an unknown kind")
        kind = np.dtype(dtype)
        size = math.prod(shape) * kind.itemsize
        start, self._next = self._next, self._next + size
        if self._next > len(self._data):
            raise PlainError("the message ends too early")
        if kind == np.bool_:
            # A byte other than 0 and 1 is no bool, whatever the header says.
            kind = np.dtype(np.uint8)
        array: np.ndarray[Any, Any] = np.frombuffer(self._data, kind, math.prod(shape), start).reshape(shape)
        return np.asarray(array != 0) if dtype[1] == "b" else array.copy()
