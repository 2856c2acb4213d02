"""The layers' contract as checks that run on any layer: the real ones, and planted bugs.

A check is a function `check_*(subject, seed, alarm)`. A `Subject` says how a layer is made and which convention it
follows; everything expected is computed here from that, never asked of the code under test. Checks that compare with
chance declare how often; the others are exact and leave `alarm` alone.
"""

from __future__ import annotations

import copy
import itertools
import pickle
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, Protocol, Self

import numpy as np
import numpy.typing as npt
import pytest

from dropoutlib.layers import InvertedDropout, KeyedDropout, StandardDropout
from dropoutlib.masks import keyed_mask
from tests.statistics import Alarm

Array = npt.NDArray[Any]
FLOATS: tuple[Any, ...] = (np.float16, np.float32, np.float64)
LAYER_RATES = (0.1, 0.3, 0.8)
TINY = (2.0**-40, 2.0**-17, 2.0**-16)
EDGES = (0.0, 1e-300, 1e-12, *TINY, 1 / 3, *(1 - tiny for tiny in TINY), 1 - 2.0**-53)
SHAPES = ((), (0,), (1,), (7,), (3, 0, 2), (4, 5), (2, 3, 4, 5))


class Layer(Protocol):
    """What every dropout layer offers."""

    training: bool

    @property
    def p(self) -> float: ...
    @property
    def mask(self) -> npt.NDArray[np.bool_] | None: ...
    def train(self) -> Self: ...
    def eval(self) -> Self: ...
    def forward(self, x: Any) -> Array: ...
    def __call__(self, x: Any) -> Array: ...
    def backward(self, dy: Any) -> Array: ...
    def reset(self) -> None: ...


@dataclass(frozen=True)
class Subject:
    """How a layer is made, and what it must compute.

    `rates` are the p of most checks, `edges` the extreme ones. `remembers` is False for a layer without mask, last
    forward and stream of its own.
    """

    make: Callable[[Any, Any], Layer]
    convention: Literal["standard", "inverted"]
    rates: tuple[float, ...] = LAYER_RATES
    edges: tuple[float, ...] = EDGES
    remembers: bool = True

    def scale(self, p: float, dtype: Any, training: bool) -> np.floating:
        """Return the factor of this convention in a mode, rounded to `dtype`."""
        value = 1.0
        if self.convention == "inverted" and training:
            value = 1.0 / (1.0 - p)
        if self.convention == "standard" and not training:
            value = 1.0 - p
        factor: np.floating = np.dtype(dtype).type(value)
        return factor

    def masked(self, x: Array, mask: npt.NDArray[np.bool_], p: float) -> Array:
        """Return what training makes of finite `x` and `mask`."""
        y = np.zeros(x.shape, x.dtype)
        y[mask] = x[mask] * self.scale(p, x.dtype, training=True)
        return y


Check = Callable[[Subject, int, Alarm], None]


@dataclass(frozen=True)
class Entry:
    """A check, how often it compares with chance, and whether it needs a layer that remembers."""

    run: Check
    comparisons: int
    memory: bool

    @property
    def name(self) -> str:
        return self.run.__name__.removeprefix("check_")


CHECKS: list[Entry] = []


def contract(comparisons: int = 0, memory: bool = False) -> Callable[[Check], Check]:
    """Enter a check into the contract."""

    def enter(check: Check) -> Check:
        CHECKS.append(Entry(check, comparisons, memory))
        return check

    return enter


def same(actual: Any, expected: Array, what: str) -> None:
    """Require a plain array that equals `expected` to the bit, signs of zeros aside."""
    assert type(actual) is np.ndarray, f"{what}: {type(actual).__name__} instead of ndarray"
    assert actual.dtype == expected.dtype, f"{what}: dtype {actual.dtype} instead of {expected.dtype}"
    assert actual.shape == expected.shape, f"{what}: shape {actual.shape} instead of {expected.shape}"
    np.testing.assert_array_equal(actual, expected, err_msg=what)


@contextmanager
def refused(error: type[Exception], *words: str) -> Iterator[None]:
    """Require exactly this error with all the words in its message."""
    with pytest.raises(error) as caught:
        yield
    assert caught.type is error, f"{caught.type.__name__} instead of {error.__name__}"
    message = str(caught.value)
    assert "\n" not in message
    for word in words:
        assert word in message, f"{word!r} is not in: {message}"


@contextmanager
def silent() -> Iterator[None]:
    """Turn every warning into an error."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def normal(seed: int, shape: tuple[int, ...] = (40, 100), dtype: Any = np.float64) -> Array:
    """Return normal values without a zero."""
    x = np.asarray(np.random.default_rng([seed, 77]).standard_normal(shape)).astype(dtype)
    x[x == 0] = 1
    return x


def mask_of(layer: Layer) -> npt.NDArray[np.bool_]:
    """Return the layer's mask, which must be there."""
    mask = layer.mask
    assert mask is not None, "no mask after a training forward"
    return mask


def some(subject: Subject, seed: int) -> Layer:
    """Return a layer with one of the subject's rates."""
    return subject.make(subject.rates[0], seed)


# --- p ------------------------------------------------------------------------------------------------------------


@contract()
def check_rate_out_of_range(subject: Subject, seed: int, alarm: Alarm) -> None:
    for p in (-0.1, 1.5, 2, -1, float("nan"), float("inf"), -float("inf"), -5e-324, float(np.nextafter(1, 2))):
        with refused(ValueError, str(p)[:20]):
            subject.make(p, seed)
    with refused(ValueError, "1.5"):
        subject.make(np.float32(1.5), seed)


@contract()
def check_rate_beyond_any_float(subject: Subject, seed: int, alarm: Alarm) -> None:
    for p in (10**400, -(10**400)):
        with refused(ValueError, "0" * 20):
            subject.make(p, seed)


@contract()
def check_rate_of_wrong_type(subject: Subject, seed: int, alarm: Alarm) -> None:
    for wrong in (True, False, np.True_, "0.5", None, 0.5 + 0j, np.complex128(0.5)):
        with refused(TypeError, str(wrong)):
            subject.make(wrong, seed)
    for array in (np.array(0.5), np.array([0.5]), [0.5], (0.5,)):
        with refused(TypeError, "0.5"):
            subject.make(array, seed)


@contract()
def check_rate_as_any_real_scalar(subject: Subject, seed: int, alarm: Alarm) -> None:
    x = normal(seed)
    for scalar in (np.float16(0.25), np.float32(0.3), np.float64(0.3), np.int64(0), np.uint8(1), 0, 1):
        layer = subject.make(scalar, seed)
        assert layer.p == float(scalar)
        same(layer.forward(x), subject.make(float(scalar), seed).forward(x), f"p={scalar!r}")


# --- input ------------------------------------------------------------------------------------------------------


@contract()
def check_input_of_wrong_dtype_is_refused(subject: Subject, seed: int, alarm: Alarm) -> None:
    wrong: list[Any] = [np.ones(3, kind) for kind in "bBhHiIqQ?FDOUSMm"] + [[1, 2], 1, None, "text", [True]]
    if np.dtype(np.longdouble) != np.dtype(np.float64):
        wrong += [np.ones(3, np.longdouble), np.ones(3, np.clongdouble)]
    for mode, x in itertools.product((True, False), wrong):
        layer = some(subject, seed)
        layer.train() if mode else layer.eval()
        with refused(TypeError, str(np.asarray(x).dtype), "float"):
            layer.forward(x)


@contract()
def check_forms_of_input(subject: Subject, seed: int, alarm: Alarm) -> None:
    class Tagged(np.ndarray[Any, Any]):
        pass

    plain = normal(seed, (6, 8))
    read_only = plain.copy()
    read_only.flags.writeable = False
    for dtype in FLOATS:
        swapped = np.dtype(dtype).newbyteorder()
        x = plain.astype(dtype)
        forms: dict[str, Any] = {
            "Fortran order": np.asfortranarray(x),
            "transposed": np.ascontiguousarray(x.T).T,
            "strided": np.repeat(np.repeat(x, 2, 0), 3, 1)[::2, ::3],
            "reversed": np.ascontiguousarray(x[::-1, ::-1])[::-1, ::-1],
            "read-only": read_only.astype(dtype),
            "unaligned": np.frombuffer(b"\0" + x.tobytes(), np.uint8)[1:].view(dtype).reshape(x.shape),
            "subclass": x.view(Tagged),
            "masked array": np.ma.MaskedArray(x),
            "other byte order": x.astype(swapped),
        }
        forms["read-only"].flags.writeable = False
        for training, (name, form) in itertools.product((True, False), forms.items()):
            this, other = some(subject, seed), some(subject, seed)
            for layer in (this, other):
                layer.train() if training else layer.eval()
            same(this.forward(form), other.forward(x).astype(form.dtype), f"{name}, training={training}")
            same(this.backward(form), other.backward(x).astype(form.dtype), f"{name}, backward, training={training}")


@contract()
def check_lists_and_numbers(subject: Subject, seed: int, alarm: Alarm) -> None:
    for form in ([[1.0, 2.0], [3.0, 4.0]], (1.0, 2.0, 3.0), 3.0, np.float32(3), []):
        x = np.asarray(form)
        same(some(subject, seed).forward(form), some(subject, seed).forward(x), repr(form))


@contract()
def check_every_shape(subject: Subject, seed: int, alarm: Alarm) -> None:
    for p, shape, dtype in itertools.product(subject.rates, SHAPES, FLOATS):
        layer = subject.make(p, seed)
        x = normal(seed, shape, dtype)
        same(layer.forward(x), subject.masked(x, mask_of(layer), p), f"{shape} {dtype.__name__}")
        same(layer.backward(x), subject.masked(x, mask_of(layer), p), f"backward {shape}")
        layer.eval()
        same(layer.forward(x), np.asarray(x * subject.scale(p, dtype, training=False)), f"evaluation {shape}")


@contract()
def check_dtype_is_kept(subject: Subject, seed: int, alarm: Alarm) -> None:
    for p, dtype, gradient in itertools.product((*subject.rates, *subject.edges[:1]), FLOATS, FLOATS):
        for training in (True, False):
            layer = subject.make(p, seed)
            layer.train() if training else layer.eval()
            assert layer.forward(normal(seed, (5,), dtype)).dtype == dtype
            assert layer.backward(normal(seed, (5,), gradient)).dtype == gradient


@contract()
def check_memory_is_not_shared(subject: Subject, seed: int, alarm: Alarm) -> None:
    for p, training, shape in itertools.product((*subject.rates, *subject.edges[:1]), (True, False), ((), (9, 9))):
        layer = subject.make(p, seed)
        layer.train() if training else layer.eval()
        x, dy = normal(seed, shape), normal(seed + 1, shape)
        kept_x, kept_dy = x.copy(), dy.copy()
        y, dx = layer.forward(x), layer.backward(dy)
        assert not any(np.shares_memory(a, b) for a, b in itertools.combinations((x, y, dy, dx), 2)), f"p={p}"
        assert y.flags.writeable
        assert dx.flags.writeable
        same(x, kept_x, "the input was written to")
        same(dy, kept_dy, "the gradient was written to")
        first = dx.copy()
        for array in (x, y, dx):
            array[...] = 123.0
        same(layer.backward(dy), first, "backward depends on arrays that are the caller's")


# --- values -------------------------------------------------------------------------------------------------------


@contract()
def check_support(subject: Subject, seed: int, alarm: Alarm) -> None:
    for p, dtype in itertools.product(subject.rates, FLOATS):
        layer = subject.make(p, seed)
        x = normal(seed, dtype=dtype)
        y = layer.forward(x)
        scaled = x * subject.scale(p, dtype, training=True)
        assert np.all((y == 0) | (y == scaled)), f"p={p}: values other than 0 and x times the scale"
        assert np.any(y == 0), f"p={p}: nothing dropped"
        assert np.any(y != 0), f"p={p}: nothing kept"
        same(y, subject.masked(x, mask_of(layer), p), f"p={p}: mask and output")


@contract()
def check_evaluation(subject: Subject, seed: int, alarm: Alarm) -> None:
    for p, dtype in itertools.product(subject.rates, FLOATS):
        layer = subject.make(p, seed).eval()
        x, dy = normal(seed, dtype=dtype), normal(seed + 1, dtype=dtype)
        for _ in range(2):
            same(layer.forward(x), x * subject.scale(p, dtype, training=False), f"p={p}: evaluation")
        same(layer.backward(dy), dy * subject.scale(p, dtype, training=False), f"p={p}: evaluation backward")


@contract(memory=True)
def check_evaluation_draws_nothing(subject: Subject, seed: int, alarm: Alarm) -> None:
    for p in subject.rates:
        interrupted, straight = subject.make(p, seed), subject.make(p, seed)
        x = normal(seed)
        for _ in range(3):
            interrupted.eval().forward(x)
            same(interrupted.train().forward(x), straight.forward(x), f"p={p}: evaluation moved the stream")


@contract()
def check_nothing_dropped_at_0(subject: Subject, seed: int, alarm: Alarm) -> None:
    if 0.0 not in subject.edges:
        return
    x = np.concatenate([normal(seed, (500,)), [np.inf, -np.inf, np.nan]])
    layer = subject.make(0.0, seed)
    for training in (True, False):
        layer.train() if training else layer.eval()
        same(layer.forward(x), x, f"p=0, training={training}")
        assert not training or mask_of(layer).all()
        same(layer.backward(x), x, f"p=0, backward, training={training}")


@contract()
def check_zeros_at_1(subject: Subject, seed: int, alarm: Alarm) -> None:
    if not subject.edges:
        return
    for dtype in FLOATS:
        x = np.array([1.0, -2.0, np.inf, -np.inf, np.nan, np.finfo(dtype).max, 0.0], dtype)
        zeros = np.zeros(7, dtype)
        with silent():
            layer = subject.make(1.0, seed)
            same(layer.forward(x), zeros, "p=1")
            assert not mask_of(layer).any()
            same(layer.backward(x), zeros, "p=1, backward")
            same(layer.backward(x.astype(np.float64)), zeros.astype(np.float64), "p=1, backward of float64")
            layer.eval()
            expected = zeros if subject.convention == "standard" else x
            same(layer.forward(x), expected, "p=1, evaluation")
            same(layer.backward(x), expected, "p=1, evaluation, backward")


@contract()
def check_extreme_rates(subject: Subject, seed: int, alarm: Alarm) -> None:
    """Exact where the scale is; with 4000 elements nothing is said of frequencies here."""
    for p, dtype in itertools.product(subject.edges, (np.float32, np.float64)):
        layer = subject.make(p, seed)
        x = np.abs(normal(seed, dtype=dtype))
        y = layer.forward(x)
        same(y, subject.masked(x, mask_of(layer), p), f"p={p!r}")
        assert np.all(np.isfinite(y))
        layer.eval()
        same(layer.forward(x), x * subject.scale(p, dtype, training=False), f"p={p!r}: evaluation")


@contract(comparisons=len(EDGES))
def check_frequencies_at_extreme_rates(subject: Subject, seed: int, alarm: Alarm) -> None:
    for p in subject.edges:
        kept = int(np.count_nonzero(subject.make(p, seed).forward(np.ones(20_000))))
        alarm.binomial(kept, 20_000, 1.0 - p, f"p={p!r}: kept")


@contract()
def check_inf_and_nan(subject: Subject, seed: int, alarm: Alarm) -> None:
    """As a product with the mask: inf and nan stay where kept and give nan where dropped, without a warning."""
    for p, dtype, value in itertools.product(subject.rates, FLOATS, (np.inf, -np.inf, np.nan)):
        layer = subject.make(p, seed)
        x = np.full(4000, value, dtype)
        with silent():
            y = layer.forward(x)
            dx = layer.backward(x)
            expected = np.where(mask_of(layer), dtype(value), dtype(np.nan))
            held = layer.eval().forward(x)
        same(y, expected, f"p={p}: {value}")
        same(dx, expected, f"p={p}: {value}, backward")
        same(held, x, f"p={p}: {value}, evaluation")


@contract()
def check_huge_values_drop_to_zero(subject: Subject, seed: int, alarm: Alarm) -> None:
    """The largest finite number gives 0 where dropped, even where its scaled value overflows."""
    for p, dtype in itertools.product(subject.rates, FLOATS):
        x = np.full(2000, np.finfo(dtype).max, dtype)
        with np.errstate(over="ignore"):
            layer = subject.make(p, seed)
            y = layer.forward(x)
            kept = x * subject.scale(p, dtype, training=True)
        same(y, np.where(mask_of(layer), kept, dtype(0)), f"p={p}")


@contract()
def check_scale_that_overflows(subject: Subject, seed: int, alarm: Alarm) -> None:
    if subject.convention == "standard" or not subject.edges:
        return
    p = 1 - 1e-5
    layer, twin = subject.make(p, seed), subject.make(p, seed)
    x, small = normal(seed, dtype=np.float32), normal(seed, dtype=np.float16)
    with silent():
        same(layer.forward(x), twin.forward(x), "before")
        with refused(ValueError, str(p), "float16"):
            layer.forward(small)
        with refused(ValueError, str(p), "float16"):
            layer.backward(small)
        same(layer.backward(x), twin.backward(x), "the last forward is lost")
        same(mask_of(layer), mask_of(twin), "the mask is lost")
        same(layer.eval().forward(small), small, "evaluation needs no scale")


@contract(memory=True)
def check_scale_that_overflows_draws_nothing(subject: Subject, seed: int, alarm: Alarm) -> None:
    if subject.convention == "standard" or not subject.edges:
        return
    generator = np.random.default_rng(seed)
    layer = subject.make(1 - 1e-5, generator)
    for _ in range(2):
        before = generator.bit_generator.state
        with refused(ValueError, "float16"):
            layer.forward(np.ones(9, np.float16))
        assert generator.bit_generator.state == before, "the stream moved"
        layer.forward(np.ones(9, np.float32))
        assert generator.bit_generator.state != before


@contract()
def check_empty_input_overflows_too(subject: Subject, seed: int, alarm: Alarm) -> None:
    """Whether a call is an error depends on p and dtype, never on the number of elements."""
    if subject.convention == "standard" or not subject.edges:
        return
    with refused(ValueError, "float16"):
        subject.make(1 - 1e-5, seed).forward(np.empty(0, np.float16))


# --- backward -----------------------------------------------------------------------------------------------------


@contract()
def check_backward_reuses_the_mask(subject: Subject, seed: int, alarm: Alarm) -> None:
    for p, dtype in itertools.product(subject.rates, FLOATS):
        layer = subject.make(p, seed)
        x, dy = normal(seed), normal(seed + 1, dtype=dtype)
        for call in range(3):
            kept = layer.forward(x) != 0
            for _ in range(2):
                same(layer.backward(dy), subject.masked(dy, kept, p), f"p={p}: backward of forward {call}")


@contract()
def check_backward_dtype_errors(subject: Subject, seed: int, alarm: Alarm) -> None:
    layer = some(subject, seed)
    layer.forward(normal(seed, (3,)))
    expected = layer.backward(np.ones(3))
    for wrong in (np.ones(3, np.int64), np.ones(3, bool), np.ones(3, complex), np.ones(3, object), [1, 2, 3]):
        with refused(TypeError, str(np.asarray(wrong).dtype), "float"):
            layer.backward(wrong)
    same(layer.backward([1.0, 1.0, 1.0]), expected, "backward of a list")


@contract(memory=True)
def check_backward_needs_a_forward(subject: Subject, seed: int, alarm: Alarm) -> None:
    layer = some(subject, seed)
    dy = np.ones(3)
    for step in (lambda: None, layer.eval, layer.train, layer.reset):
        step()
        with refused(RuntimeError, "forward"):
            layer.backward(dy)
    with pytest.raises(TypeError):
        layer.forward(np.ones(3, int))
    with refused(RuntimeError, "forward"):
        layer.backward(dy)


@contract(memory=True)
def check_backward_shape(subject: Subject, seed: int, alarm: Alarm) -> None:
    for training in (True, False):
        layer = some(subject, seed)
        layer.train() if training else layer.eval()
        layer.forward(np.ones((4, 3)))
        for shape in ((3,), (1, 3), (4, 1), (3, 4), (12,), (), (4, 3, 1), (0, 3)):
            with refused(ValueError, str(shape), str((4, 3))):
                layer.backward(np.ones(shape))
        layer.backward(np.ones((4, 3)))


@contract(memory=True)
def check_mode_flips(subject: Subject, seed: int, alarm: Alarm) -> None:
    """`backward` belongs to the last forward, whatever the mode is now."""
    x, dy = normal(seed), normal(seed + 1)
    for p in subject.rates:
        layer = subject.make(p, seed)
        kept = layer.forward(x) != 0
        masked = subject.masked(dy, kept, p)
        held = dy * subject.scale(p, dy.dtype, training=False)
        layer.eval()
        same(layer.backward(dy), masked, f"p={p}: train, forward, eval, backward")
        same(mask_of(layer), kept, "a change of mode alone changed the mask")
        layer.forward(x)
        assert layer.mask is None, "a mask after an evaluation forward"
        layer.train()
        same(layer.backward(dy), held, f"p={p}: eval, forward, train, backward")
        assert layer.mask is None
        kept = layer.forward(x) != 0
        same(layer.backward(dy), subject.masked(dy, kept, p), f"p={p}: train again")


@contract()
def check_modes(subject: Subject, seed: int, alarm: Alarm) -> None:
    layer = some(subject, seed)
    assert layer.training is True
    assert layer.eval() is layer
    assert layer.training is False
    assert layer.eval().training is False
    assert layer.train() is layer
    assert layer.training is True
    x = normal(seed)
    same(some(subject, seed)(x), some(subject, seed).forward(x), "call and forward")


# --- mask, stream, seed -------------------------------------------------------------------------------------------


@contract(memory=True)
def check_mask(subject: Subject, seed: int, alarm: Alarm) -> None:
    layer = some(subject, seed)
    assert layer.mask is None
    x = normal(seed)
    for _ in range(3):
        kept = layer.forward(x) != 0
        mask = mask_of(layer)
        same(mask, kept, "the mask is not that of the last forward")
        assert mask.dtype == np.bool_
        assert not mask.flags.writeable
        with pytest.raises(ValueError, match="read-only"):
            mask[0, 0] = True
    earlier, values = mask_of(layer), mask_of(layer).copy()
    layer.forward(x)
    same(earlier, values, "a mask handed out earlier was overwritten")
    layer.eval().forward(x)
    assert layer.mask is None


@contract()
def check_each_call_draws_anew(subject: Subject, seed: int, alarm: Alarm) -> None:
    """Equal masks of 4000 elements have a probability below 1e-300 at the rates used."""
    for p in subject.rates:
        layer = subject.make(p, seed)
        x = normal(seed)
        outputs = [layer.forward(x) for _ in range(4)]
        assert not any(np.array_equal(a, b) for a, b in itertools.combinations(outputs, 2)), f"p={p}"


@contract()
def check_same_seed_same_masks(subject: Subject, seed: int, alarm: Alarm) -> None:
    """The mask depends on seed, p and shape; neither on values, dtype or memory order, nor on global seeds."""
    for p in subject.rates:
        first, second = subject.make(p, seed), subject.make(p, seed)
        state: Any = np.random.get_state(legacy=True)
        for call, dtype in enumerate((np.float64, np.float32, np.float16)):
            same(first.forward(normal(seed)) != 0, second.forward(normal(call, dtype=dtype)) != 0, f"p={p}")
        after: Any = np.random.get_state(legacy=True)
        assert all(np.array_equal(a, b) for a, b in zip(state, after, strict=True))


def streams(seed: int) -> dict[str, Callable[[], Any]]:
    """Return every kind of seed, each as a function that makes it anew."""
    used = np.random.default_rng(seed)
    used.standard_normal(7)
    used.integers(0, 9, 3, dtype=np.uint8)
    return {
        "int": lambda: seed,
        "SeedSequence": lambda: np.random.SeedSequence(seed, spawn_key=(3,)),
        "PCG64": lambda: np.random.default_rng(seed),
        "used PCG64": lambda: copy.deepcopy(used),
        "PCG64DXSM": lambda: np.random.Generator(np.random.PCG64DXSM(seed)),
        "Philox": lambda: np.random.Generator(np.random.Philox(seed)),
        "SFC64": lambda: np.random.Generator(np.random.SFC64(seed)),
        "None": lambda: None,
    }


@contract(memory=True)
def check_reset(subject: Subject, seed: int, alarm: Alarm) -> None:
    x, dy = normal(seed, (7, 13)), normal(seed + 1, (7, 13))
    for name, make in streams(seed).items():
        layer = subject.make(subject.rates[0], make())
        first = [layer.forward(x) for _ in range(3)]
        layer.eval()
        mask, dx = mask_of(layer).copy(), layer.backward(dy)
        for _ in range(2):
            layer.reset()
            assert layer.training is False, "reset changed the mode"
            same(mask_of(layer), mask, f"{name}: reset changed the mask")
            same(layer.backward(dy), dx, f"{name}: reset changed the last forward")
        layer.train()
        for y in first:
            same(layer.forward(x), y, f"{name}: after reset")


@contract(memory=True)
def check_copies_keep_the_position(subject: Subject, seed: int, alarm: Alarm) -> None:
    x, dy = normal(seed, (7, 13)), normal(seed + 1, (7, 13))
    copiers: dict[str, Callable[[Layer], Layer]] = {
        "deepcopy": copy.deepcopy,
        "pickle": lambda layer: pickle.loads(pickle.dumps(layer)),
        "pickle 2": lambda layer: pickle.loads(pickle.dumps(layer, 2)),
    }
    for (name, make), (how, duplicate) in itertools.product(streams(seed).items(), copiers.items()):
        layer = subject.make(subject.rates[0], make())
        fresh = duplicate(layer)
        first = layer.forward(x)
        layer.forward(x)
        twin = duplicate(layer)
        assert twin.training is True
        assert twin.p == layer.p
        same(mask_of(twin), mask_of(layer), f"{how}, {name}: mask")
        assert not mask_of(twin).flags.writeable, f"{how}, {name}: the copy's mask can be written to"
        same(twin.backward(dy), layer.backward(dy), f"{how}, {name}: backward")
        for _ in range(2):
            same(twin.forward(x), layer.forward(x), f"{how}, {name}: next forward")
        twin.reset()
        same(twin.forward(x), first, f"{how}, {name}: reset")
        same(fresh.forward(x), first, f"{how}, {name}: copied before the first forward")
        assert duplicate(layer.eval()).training is False


@contract(memory=True)
def check_seed_errors(subject: Subject, seed: int, alarm: Alarm) -> None:
    for wrong in (-1, np.int64(-5), -(2**70)):
        with refused(ValueError, str(wrong), "seed"):
            subject.make(0.3, wrong)
    for mistyped in (True, np.False_, 1.0, np.float64(2), "0", b"0", [1, 2], np.array(3), 1j):
        with refused(TypeError, str(mistyped), "seed"):
            subject.make(0.3, mistyped)
    with refused(TypeError, "RandomState"):
        subject.make(0.3, np.random.RandomState(0))
    with refused(ValueError, "MT19937"):
        subject.make(0.3, np.random.Generator(np.random.MT19937(0)))


@contract(memory=True)
def check_equal_seeds(subject: Subject, seed: int, alarm: Alarm) -> None:
    """NumPy integers and a SeedSequence of the same entropy give the integer's stream; 0 and 2**200 are seeds."""
    x = normal(seed)
    kinds = (np.int16, np.uint8, np.int64, np.uint64, np.random.SeedSequence)
    for number, equal in itertools.product((0, 7, 200), kinds):
        same(subject.make(0.3, equal(number)).forward(x), subject.make(0.3, number).forward(x), f"{equal} {number}")
    assert subject.make(0.3, 2**200).forward(x).any()


@contract(memory=True)
def check_seed_sequence_is_left_alone(subject: Subject, seed: int, alarm: Alarm) -> None:
    sequence = np.random.SeedSequence(seed)
    layers = [subject.make(0.3, sequence) for _ in range(2)]
    x = normal(seed)
    same(layers[0].forward(x), layers[1].forward(x), "one SeedSequence, two layers")
    assert sequence.n_children_spawned == 0


@contract(memory=True)
def check_shared_generator(subject: Subject, seed: int, alarm: Alarm) -> None:
    """Two layers on one Generator take turns in one stream; a twin Generator on its own shows the same turns."""
    shared, alone = np.random.default_rng(seed), np.random.default_rng(seed)
    one, two, single = (subject.make(0.3, rng) for rng in (shared, shared, alone))
    x = normal(seed)
    for layer in (one, two, two, one):
        same(layer.forward(x), single.forward(x), "turns")
    assert shared.bit_generator.state == alone.bit_generator.state
    assert shared.bit_generator.random_raw() == alone.bit_generator.random_raw()
    same(one.forward(x), single.forward(x), "words taken from outside are skipped")
    one.reset()
    assert shared.bit_generator.state == np.random.default_rng(seed).bit_generator.state


@contract(memory=True)
def check_no_seed_is_fresh_entropy(subject: Subject, seed: int, alarm: Alarm) -> None:
    x = normal(seed)
    assert not np.array_equal(subject.make(0.3, None).forward(x), subject.make(0.3, None).forward(x))


@contract(memory=True)
def check_failed_calls_change_nothing(subject: Subject, seed: int, alarm: Alarm) -> None:
    x, dy = normal(seed, (8, 9)), normal(seed + 1, (8, 9))
    for training in (True, False):
        layer, twin = some(subject, seed), some(subject, seed)
        for one in (layer, twin):
            one.forward(x)
            if not training:
                one.eval().forward(x)
                one.train()
        for wrong in (np.ones((8, 9), int), np.ones((2, 2), complex), None, "text", np.ones(3, object)):
            with pytest.raises(TypeError):
                layer.forward(wrong)
            with pytest.raises((TypeError, ValueError)):
                layer.backward(wrong)
        assert (layer.mask is None) is (twin.mask is None)
        same(layer.backward(dy), twin.backward(dy), "a failed call changed the last forward")
        same(layer.forward(x), twin.forward(x), "a failed call moved the stream")


# --- chance -------------------------------------------------------------------------------------------------------


@contract(comparisons=len(LAYER_RATES))
def check_keep_frequency(subject: Subject, seed: int, alarm: Alarm) -> None:
    for p in subject.rates:
        x = normal(seed)
        alarm.binomial(int(np.count_nonzero(subject.make(p, seed).forward(x))), x.size, 1.0 - p, f"p={p}: kept")


def moments(subject: Subject, p: float) -> tuple[float, float]:
    """Return the mean and the variance of the training output of 1."""
    q, scale = 1.0 - p, float(subject.scale(p, np.float64, training=True))
    return q * scale, scale**2 * p * q


@contract(comparisons=2 * len(LAYER_RATES))
def check_mean(subject: Subject, seed: int, alarm: Alarm) -> None:
    """The mean in training is what evaluation gives, and what the convention says."""
    for p in subject.rates:
        layer = subject.make(p, seed)
        x = 1.0 + np.abs(normal(seed))
        mean, variance = moments(subject, p)
        y = layer.forward(x)
        total = float(variance * np.sum(x**2))
        bound = float(x.max()) * max(mean, float(subject.scale(p, np.float64, training=True)) - mean)
        alarm.total(float(y.sum()), mean * float(x.sum()), total, bound, f"p={p}: sum in training")
        evaluated = float(layer.eval().forward(x).sum())
        alarm.total(float(y.sum()), evaluated, total, bound, f"p={p}: sum in training against evaluation")


@contract(comparisons=len(LAYER_RATES))
def check_variance(subject: Subject, seed: int, alarm: Alarm) -> None:
    """The squared deviations from the mean add up to scale**2 p q times the squares of the input."""
    for p in subject.rates:
        q = 1.0 - p
        x = 1.0 + np.abs(normal(seed))
        mean, variance = moments(subject, p)
        kept, dropped = (float(subject.scale(p, np.float64, training=True)) - mean) ** 2, mean**2
        deviations = float(np.sum((subject.make(p, seed).forward(x) - mean * x) ** 2))
        spread = p * q * (kept - dropped) ** 2 * float(np.sum(x**4))
        bound = float(x.max()) ** 2 * abs(kept - dropped)
        alarm.total(deviations, variance * float(np.sum(x**2)), spread, bound, f"p={p}: squared deviations")


def agreements(alarm: Alarm, one: Array, two: Array, p: float, what: str) -> None:
    """Compare the number of equal elements of two masks with that of independent ones."""
    alarm.binomial(int(np.count_nonzero((one != 0) == (two != 0))), one.size, p**2 + (1.0 - p) ** 2, f"p={p}: {what}")


@contract(comparisons=4 * len(LAYER_RATES))
def check_elements_are_independent(subject: Subject, seed: int, alarm: Alarm) -> None:
    """Disjoint pairs of rows, columns, neighbours and halves agree as often as independent elements."""
    for p in subject.rates:
        y = subject.make(p, seed).forward(normal(seed))
        agreements(alarm, y[0::2], y[1::2], p, "rows")
        agreements(alarm, y[:, :50], y[:, 50:], p, "columns")
        agreements(alarm, y.ravel()[0::2], y.ravel()[1::2], p, "neighbours")
        agreements(alarm, y[:20], y[20:], p, "halves")


@contract(comparisons=2 * len(LAYER_RATES))
def check_calls_and_layers_are_independent(subject: Subject, seed: int, alarm: Alarm) -> None:
    for p in subject.rates:
        x = normal(seed)
        layer = subject.make(p, seed)
        first = layer.forward(x)
        agreements(alarm, first, layer.forward(x), p, "calls")
        agreements(alarm, first, subject.make(p, seed + 1).forward(x), p, "layers")


class KeyedAdaptor:
    """Gives `KeyedDropout` the interface of the others: each training forward is the next step."""

    def __init__(self, layer: KeyedDropout) -> None:
        self.layer = layer
        self.next_step = 0
        self.step = 0
        self.shape: tuple[int, ...] = ()

    @property
    def p(self) -> float:
        return self.layer.p

    @property
    def training(self) -> bool:
        return self.layer.training

    @training.setter
    def training(self, training: bool) -> None:
        self.layer.training = training

    @property
    def mask(self) -> npt.NDArray[np.bool_] | None:
        return keyed_mask(self.shape, self.p, self.layer.seed, self.layer.layer, self.step)

    def train(self) -> Self:
        assert self.layer.train() is self.layer
        return self

    def eval(self) -> Self:
        assert self.layer.eval() is self.layer
        return self

    def forward(self, x: Any) -> Array:
        y = self.layer.forward(x, self.next_step)
        self.shape = np.shape(x)
        self.step = self.next_step
        self.next_step += self.training
        return y

    def __call__(self, x: Any) -> Array:
        y = self.layer(x, self.next_step)
        same(y, self.forward(x), "call and forward")
        return y

    def backward(self, dy: Any) -> Array:
        return self.layer.backward(dy, self.step)

    def reset(self) -> None:
        self.next_step = 0


def make_keyed(p: Any, seed: Any) -> Layer:
    """Make layer 0 of a seed."""
    return KeyedAdaptor(KeyedDropout(p, seed, 0))


SUBJECTS = {
    "standard": Subject(StandardDropout, "standard"),
    "inverted": Subject(InvertedDropout, "inverted"),
    "keyed": Subject(make_keyed, "inverted", remembers=False),
}
