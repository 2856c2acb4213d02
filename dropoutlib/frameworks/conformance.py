"""One table of how dropoutlib, PyTorch, Keras and Flax treat the same cases, made by running them.

A case is a question to one library; its answer is a few words computed from what came out, or the class of the error.
dropoutlib's answer is the reference: a cell is "equal" where a library gives the same answer, "raises" where it raises
another error, and "different" elsewhere. Nothing in the table is written by hand.

Keras is asked as `keras.layers.Dropout`, PyTorch as `torch.nn.Dropout`, Flax as `flax.nnx.Dropout`. A library that is
not installed raises its ImportError.
"""

from __future__ import annotations

import html
import importlib
import random
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from dropoutlib.checks.exercises import fits_binomial
from dropoutlib.layers import InvertedDropout

Array = npt.NDArray[Any]

_RATES = (0.1, 0.3, 0.7, 0.9)
_RATE = 0.3
_FALSE_ALARM = 1e-11
_PRECISION = {"float16": 2.0**-10, "bfloat16": 2.0**-7, "float32": 2.0**-23, "float64": 2.0**-52}


# --- the libraries, each asked in its own words --------------------------------------------------------------------


class NoSuchOption(Exception):
    """The library's dropout layer has no option for what a case asks."""


class Library:
    """What the cases need of a library. This one is dropoutlib itself.

    A layer is made by `layer(p)`, or `layer()` for the default rate, and called by `drop`. Arrays go in and come out as
    the library's own; `tensor` and `array` convert them.
    """

    name = "dropoutlib"

    def layer(self, *p: float, shared: tuple[int, ...] = ()) -> Any:
        """Return a layer whose mask has one draw for all positions along the axes `shared` of a batch of images."""
        if shared:
            raise NoSuchOption
        return InvertedDropout(p[0] if p else 0.5, seed=0)

    def images(self, shared: str) -> tuple[int, ...]:
        """Return the axes of "batch" or "pixels" in this library's layout of a batch of images."""
        return (0,) if shared == "batch" else (1, 2)

    def drop(self, layer: Any, x: Any, training: bool | None = True) -> Any:
        """Call a layer in a mode; None calls it as it was made."""
        if training is not None:
            layer.training = training
        return layer(x)

    def gradient(self, layer: Any, x: Any) -> tuple[Any, Any]:
        """Return the output of a training call, and the gradient of its sum with respect to x."""
        y = self.drop(layer, x)
        return y, layer.backward(np.ones_like(x))

    def tensor(self, x: Array, dtype: str = "float32") -> Any:
        """Return x as an array of the library."""
        return x.astype(_bfloat16() if dtype == "bfloat16" else dtype)

    def array(self, y: Any) -> Array:
        """Return a float64 copy."""
        return np.asarray(y).astype(np.float64)

    def dtype(self, y: Any) -> str:
        """Return the name of an array's dtype."""
        return str(y.dtype)

    def memory(self, x: Any, y: Any) -> str:
        """Return whose memory an output holds."""
        return "x's memory" if np.shares_memory(x, y) else "memory of its own"

    @contextmanager
    def undisturbed(self) -> Iterator[None]:
        """Leave the global streams as they were."""
        python, numpy = random.getstate(), np.random.get_state()
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)


class PyTorch(Library):
    """`torch.nn.Dropout`, and `Dropout2d` for whole channels."""

    name = "PyTorch"

    def __init__(self) -> None:
        self._torch = importlib.import_module("torch")

    def layer(self, *p: float, shared: tuple[int, ...] = ()) -> Any:
        """Return a module; only whole channels can share a draw."""
        if shared == self.images("pixels"):
            return self._torch.nn.Dropout2d(*p)
        if shared:
            raise NoSuchOption
        return self._torch.nn.Dropout(*p)

    def images(self, shared: str) -> tuple[int, ...]:
        """Return axes of (batch, channels, height, width)."""
        return (0,) if shared == "batch" else (2, 3)

    def drop(self, layer: Any, x: Any, training: bool | None = True) -> Any:
        """Call the module in a mode."""
        return layer(x) if training is None else layer.train(training)(x)

    def gradient(self, layer: Any, x: Any) -> tuple[Any, Any]:
        """Return output and gradient by autograd."""
        leaf = x.clone().requires_grad_()
        y = self.drop(layer, leaf)
        y.sum().backward()
        return y.detach(), leaf.grad

    def tensor(self, x: Array, dtype: str = "float32") -> Any:
        """Return a tensor with memory of its own."""
        return self._torch.tensor(x).to(getattr(self._torch, dtype))

    def array(self, y: Any) -> Array:
        """Return a float64 copy."""
        return np.array(y.detach().double().numpy())

    def dtype(self, y: Any) -> str:
        """Return the name of a tensor's dtype."""
        return str(y.dtype).removeprefix("torch.")

    def memory(self, x: Any, y: Any) -> str:
        """Return whose memory an output holds."""
        return "x's memory" if x.data_ptr() == y.data_ptr() else "memory of its own"

    @contextmanager
    def undisturbed(self) -> Iterator[None]:
        """Leave the global streams as they were, PyTorch's too."""
        with super().undisturbed(), self._torch.random.fork_rng(devices=[]):
            yield


class Keras(Library):
    """`keras.layers.Dropout` on the TensorFlow backend."""

    name = "Keras"

    def __init__(self) -> None:
        self._keras = importlib.import_module("keras")
        self._tf = importlib.import_module("tensorflow")

    def layer(self, *p: float, shared: tuple[int, ...] = ()) -> Any:
        """Return a layer; its `noise_shape` is 1 along the shared axes of four."""
        noise_shape = tuple(1 if axis in shared else None for axis in range(4)) if shared else None
        return self._keras.layers.Dropout(*p, noise_shape=noise_shape)

    def drop(self, layer: Any, x: Any, training: bool | None = True) -> Any:
        """Call the layer with a mode."""
        return layer(x) if training is None else layer(x, training=training)

    def gradient(self, layer: Any, x: Any) -> tuple[Any, Any]:
        """Return output and gradient by a tape; None where no gradient arrives."""
        with self._tf.GradientTape() as tape:
            tape.watch(x)
            y = self.drop(layer, x)
        return y, tape.gradient(y, x)

    def tensor(self, x: Array, dtype: str = "float32") -> Any:
        """Return a tensor."""
        return self._tf.cast(self._tf.constant(x), dtype)

    def dtype(self, y: Any) -> str:
        """Return the name of a tensor's dtype."""
        return str(y.dtype.name)

    def memory(self, x: Any, y: Any) -> str:
        """Return whose memory an output holds; no tensor can be written to."""
        return "x, which is read-only" if x is y else "memory of its own"


class Flax(Library):
    """`flax.nnx.Dropout`."""

    name = "Flax"

    def __init__(self) -> None:
        self._jax = importlib.import_module("jax")
        self._nnx = importlib.import_module("flax.nnx")

    def layer(self, *p: float, shared: tuple[int, ...] = ()) -> Any:
        """Return a module with `broadcast_dims`."""
        return self._nnx.Dropout(*p, broadcast_dims=shared, rngs=self._nnx.Rngs(0))

    def drop(self, layer: Any, x: Any, training: bool | None = True) -> Any:
        """Call the module in a mode."""
        return layer(x) if training is None else layer(x, deterministic=not training)

    def gradient(self, layer: Any, x: Any) -> tuple[Any, Any]:
        """Return output and gradient by `nnx.grad`, which lets the module's stream move."""

        def total(layer: Any, x: Any) -> tuple[Any, Any]:
            y = self.drop(layer, x)
            return y.sum(), y

        dx, y = self._nnx.grad(total, argnums=1, has_aux=True)(layer, x)
        return y, dx

    def tensor(self, x: Array, dtype: str = "float32") -> Any:
        """Return an array; without `jax_enable_x64` a float64 becomes float32 here, before the layer sees it."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return self._jax.numpy.asarray(x, dtype)

    def memory(self, x: Any, y: Any) -> str:
        """Return whose memory an output holds; no array can be written to."""
        return "x, which is read-only" if x is y else "memory of its own"


LIBRARIES: tuple[type[Library], ...] = (Library, PyTorch, Keras, Flax)


# --- the cases -----------------------------------------------------------------------------------------------------

Case = Callable[[Library], str]
CASES: dict[str, Case] = {}


def _case(name: str) -> Callable[[Case], Case]:
    def register(case: Case) -> Case:
        CASES[name] = case
        return case

    return register


def _x(shape: tuple[int, ...] = (20, 50)) -> Array:
    """Return numbers from 1 to 2, none of them 0."""
    return np.linspace(1, 2, max(1, int(np.prod(shape))))[: int(np.prod(shape))].reshape(shape)


def _in_words(y: Array, x: Array) -> str:
    """Say what y is, given x without a zero."""
    if np.isnan(y).all():
        return "nan"
    if not y.any():
        return "zeros"
    if np.array_equal(y, x):
        return "x"
    ratio = y / x
    return f"x times {ratio.flat[0]:.3g}" if np.allclose(ratio, ratio.flat[0], rtol=1e-5) else "drops some"


def _output(library: Library, p: float, x: Array | None = None, training: bool | None = True) -> tuple[Array, Array]:
    """Return what a layer makes of x, and the x that it saw."""
    given = library.tensor(_x() if x is None else x)
    return library.array(library.drop(library.layer(p), given, training)), library.array(given)


def _rate_case(name: str, p: float) -> None:
    @_case(name)
    def case(library: Library) -> str:
        return _in_words(*_output(library, p))


_rate_case("p = 0", 0.0)
_rate_case("p = 1", 1.0)


@_case("p = 1, gradient")
def _(library: Library) -> str:
    x = _x()
    dx = library.gradient(library.layer(1.0), library.tensor(x))[1]
    return "no gradient" if dx is None else _in_words(library.array(dx), x)


@_case("p = 1, x = inf")
def _(library: Library) -> str:
    return _in_words(*_output(library, 1.0, np.full((20, 50), np.inf)))


_rate_case("p = 1.5", 1.5)
_rate_case("p = -0.1", -0.1)
_rate_case("p = nan", float("nan"))
_rate_case("p = True", True)


@_case("no p given")
def _(library: Library) -> str:
    kept = library.array(library.drop(library.layer(), library.tensor(np.ones(1000)))).max()
    return f"p = {1 - 1 / kept:.3g}"


@_case("share dropped")
def _(library: Library) -> str:
    for p in _RATES:
        y, _ = _output(library, p, _x((100, 1000)))
        if not fits_binomial(int(np.count_nonzero(y == 0)), y.size, p, _FALSE_ALARM):
            return f"not p at {p}"
    return "p"


@_case("scale of the kept")
def _(library: Library) -> str:
    for p in _RATES:
        y, x = _output(library, p, _x((100, 1000)))
        if not np.allclose((y / x)[y != 0], 1 / (1 - p), rtol=1e-6, atol=0):
            return f"not 1/(1-p) at {p}"
    return "1/(1-p)"


def _dtype_case(dtype: str) -> None:
    @_case(dtype)
    def case(library: Library) -> str:
        x = library.tensor(_x(), dtype)
        y = library.drop(library.layer(_RATE), x)
        name, kept = library.dtype(y), library.array(y) != 0
        if not kept.any():
            return f"{name}, nothing kept"
        # The scale is rounded, and so is the product, in the coarser of the two dtypes.
        rounding = 2 * max(_PRECISION.get(given, 1.0) for given in (dtype, name))
        ratio = (library.array(y) / library.array(x))[kept]
        return name if np.allclose(ratio, 1 / (1 - _RATE), rtol=rounding, atol=0) else f"{name}, another scale"


for _dtype in ("float16", "bfloat16", "float32", "float64", "int32"):
    _dtype_case(_dtype)


@_case("float16, 1/(1-p) = 65536")
def _(library: Library) -> str:
    # About 32 of the elements are kept; that none is has the probability 1e-14.
    y = library.array(library.drop(library.layer(1 - 2.0**-16), library.tensor(np.ones(2**21), "float16")))
    return f"kept ones become {y.max():.6g}"


@_case("inf or nan dropped")
def _(library: Library) -> str:
    infinite, _ = _output(library, _RATE, np.full((20, 50), np.inf))
    undefined, _ = _output(library, _RATE, np.full((20, 50), np.nan))
    seen = {"nan" if np.isnan(infinite).any() else "0", "0" if (undefined == 0).any() else "nan"}
    return " and ".join(sorted(seen))


@_case("gradient")
def _(library: Library) -> str:
    x = _x()
    y, dx = (library.array(part) for part in library.gradient(library.layer(_RATE), library.tensor(x)))
    if not np.array_equal(y == 0, dx == 0):
        return "another mask"
    return "mask and scale of the forward" if np.allclose(dx * x, y, rtol=1e-5) else "another scale"


def _draws(library: Library, shared: str = "") -> str:
    """Say along which axes of a batch of images the mask is one draw."""
    axes = library.images(shared) if shared else ()
    x = library.tensor(_x((16, 12, 10, 14)))
    zeros = library.array(library.drop(library.layer(_RATE, shared=axes), x)) == 0
    constant = tuple(k for k in range(4) if (zeros == zeros.take([0], axis=k)).all())
    if not constant:
        return "one draw an element"
    names = {library.images("batch"): "the batch", library.images("pixels"): "all pixels of a channel"}
    return f"one draw for {names.get(constant, f'axes {constant}')}"


@_case("mask")
def _(library: Library) -> str:
    return _draws(library)


@_case("mask shared by the batch")
def _(library: Library) -> str:
    return _draws(library, "batch")


@_case("mask of whole channels")
def _(library: Library) -> str:
    return _draws(library, "pixels")


def _shape_case(name: str, shape: tuple[int, ...]) -> None:
    @_case(name)
    def case(library: Library) -> str:
        return f"shape {_output(library, _RATE, _x(shape))[0].shape}"


_shape_case("empty", (0, 5))
_shape_case("0-d", ())


@_case("evaluation")
def _(library: Library) -> str:
    return _in_words(*_output(library, _RATE, training=False))


@_case("evaluation's memory")
def _(library: Library) -> str:
    x = library.tensor(_x())
    return library.memory(x, library.drop(library.layer(_RATE), x, training=False))


@_case("a fresh layer")
def _(library: Library) -> str:
    return _in_words(*_output(library, _RATE, training=None))


@_case("the next call")
def _(library: Library) -> str:
    layer, x = library.layer(_RATE), library.tensor(_x())
    first, second = (library.array(library.drop(layer, x)) for _ in range(2))
    return "the same mask" if np.array_equal(first, second) else "another mask"


@_case("a call moves")
def _(library: Library) -> str:
    layer, x = library.layer(_RATE), library.tensor(_x())
    return _moved(lambda: library.drop(layer, x))


@_case("making a layer moves")
def _(library: Library) -> str:
    return _moved(lambda: library.layer(_RATE))


def _moved(action: Callable[[], object]) -> str:
    """Say which global streams an action moves, of those that can be read without moving them."""
    before = _global_streams()
    action()
    after = _global_streams()
    return " and ".join(name for name in before if before[name] != after[name]) or "no global stream"


def _global_streams() -> dict[str, bytes]:
    numpy: Any = np.random.get_state(legacy=False)
    streams = {
        "NumPy's global stream": repr((numpy["state"]["key"].tobytes(), numpy["state"]["pos"])).encode(),
        "Python's global stream": repr(random.getstate()).encode(),
    }
    if torch := sys.modules.get("torch"):
        streams["PyTorch's global stream"] = torch.get_rng_state().numpy().tobytes()
    return streams


def _bfloat16() -> Any:
    return importlib.import_module("ml_dtypes").bfloat16


# --- the table -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Cell:
    """What one library does in one case.

    Attributes
    ----------
    case, library : str
        Row and column.
    verdict : {"reference", "equal", "different", "raises"}
        "reference" is dropoutlib's; "raises" is a difference too.
    seen : str
        The answer in words; "raises NAME" for an error; "no such option".
    """

    case: str
    library: str
    verdict: Literal["reference", "equal", "different", "raises"]
    seen: str


@dataclass(frozen=True, repr=False)
class Table:
    """The cells, case by case, each with the libraries in the order of the columns."""

    cells: tuple[Cell, ...]

    @property
    def cases(self) -> list[str]:
        """Names of the rows."""
        return list(dict.fromkeys(cell.case for cell in self.cells))

    @property
    def libraries(self) -> list[str]:
        """Names of the columns."""
        return list(dict.fromkeys(cell.library for cell in self.cells))

    def __getitem__(self, place: tuple[str, str]) -> Cell:
        """Return the cell of a case and a library."""
        return next(cell for cell in self.cells if (cell.case, cell.library) == place)

    def differences(self) -> dict[str, list[str]]:
        """Return the libraries that differ, by case; cases without any are left out."""
        differing = [cell for cell in self.cells if cell.verdict in ("different", "raises")]
        return {
            case: [cell.library for cell in differing if cell.case == case]
            for case in self.cases
            if any(cell.case == case for cell in differing)
        }

    def __repr__(self) -> str:
        """Return the size in words."""
        return f"<{len(self.cases)} cases, {len(self.differences())} of them with differences between the libraries>"

    def _repr_html_(self) -> str:
        """Show the table in a notebook; differences are bold."""
        head = "".join(f'<th scope="col">{name}</th>' for name in ("case", *self.libraries))
        rows = [
            f'<tr><th scope="row">{html.escape(case)}</th>'
            + "".join(f"<td>{_shown(self[case, library])}</td>" for library in self.libraries)
            + "</tr>"
            for case in self.cases
        ]
        return "\n".join(
            ['<table class="table">', f"<thead><tr>{head}</tr></thead>", "<tbody>", *rows, "</tbody>", "</table>"]
        )


def _shown(cell: Cell) -> str:
    seen = html.escape(cell.seen, quote=False)
    return {"reference": seen, "equal": "equal"}.get(cell.verdict, f"<strong>{seen}</strong>")


def conformance(libraries: Iterable[type[Library]] = LIBRARIES, cases: Iterable[str] = tuple(CASES)) -> Table:
    """Run every library through every case.

    Parameters
    ----------
    libraries : iterable of Library classes
        The columns. Each is compared with dropoutlib, which is put first.
    cases : iterable of str
        The rows, names of `CASES`.

    Returns
    -------
    Table
        Its words are the same on each run; a random comparison errs with a probability of at most 1e-11.

    Raises
    ------
    ImportError
        If a library is not installed.
    """
    columns = [Library(), *(library() for library in libraries if library is not Library)]
    return Table(tuple(cell for case in cases for cell in _row(case, columns)))


def _row(case: str, columns: list[Library]) -> Iterator[Cell]:
    reference = _answer(case, columns[0])
    yield Cell(case, columns[0].name, "reference", reference)
    for library in columns[1:]:
        seen = _answer(case, library)
        raises = seen.startswith("raises")
        yield Cell(case, library.name, "equal" if seen == reference else "raises" if raises else "different", seen)


def _answer(case: str, library: Library) -> str:
    """Return a library's answer; an error is an answer too."""
    with library.undisturbed(), _quiet():
        try:
            return CASES[case](library)
        except NoSuchOption:
            return "no such option"
        except Exception as error:
            return f"raises {type(error).__name__}"


@contextmanager
def _quiet() -> Iterator[None]:
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        yield
