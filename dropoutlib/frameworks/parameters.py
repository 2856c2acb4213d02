"""Are a model's parameters those of a reference, and if not, what was done to them?

Three things are told apart: a weight that is a constant times the reference's, which is what folding dropout's scale
does; a weight into which an exporter folded a normalisation layer, which changes nothing that the model computes;
and any other difference, which means another checkpoint.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from dropoutlib.frameworks.protocol import Array, Finding

# A product in floating point is off by half a unit in the last place (eps / 2); scaling twice, or by a factor that
# is itself rounded, adds as much again. 8 eps leaves room for four such steps.
ROUNDING = 8
# Variances below which nobody adds an epsilon: the largest default, Keras's, is 1e-3.
LARGEST_EPSILON = 0.1
_VARIANCE = ("running_var", "moving_variance", "var")
_SIBLINGS = {
    "scale": ("weight", "gamma", "scale"),
    "shift": ("bias", "beta"),
    "mean": ("running_mean", "moving_mean", "mean"),
}
# Counters that no prediction reads.
_COUNTERS = ("num_batches_tracked",)


def compare(
    model: Mapping[str, Array], reference: Mapping[str, Array], rates: Sequence[float] = (), named: bool = True
) -> Finding:
    """Compare a model's parameters with a reference's.

    Parameters
    ----------
    model, reference : mapping of str to array
        Parameters and running statistics by name.
    rates : sequence of float
        Rates of the model's dropout layers, 0 to 1; they name a constant ratio.
    named : bool
        Whether both use the same names. Otherwise an array whose name the model lacks is looked for by its values, in
        any order of its axes.

    Raises
    ------
    ValueError
        If an array of the reference has no counterpart in the model.
    """
    told = _Comparison(model, reference, named)
    if told.scaled or told.different:
        return Finding("parameters", "fail", _failure(told, rates))
    if told.untold or told.extra:
        missing = told.untold or told.extra
        where = "the model" if told.untold else "the reference"
        return Finding(
            "parameters",
            "cannot tell",
            f"{_equal(told)}, but {_names(missing)} {'is' if len(missing) == 1 else 'are'} not in {where}",
        )
    return Finding("parameters", "pass", _equal(told))


class _Comparison:
    """What became of each array of the reference."""

    def __init__(self, model: Mapping[str, Array], reference: Mapping[str, Array], named: bool) -> None:
        self.equal: list[str] = []
        self.rounded: list[str] = []
        self.by_value: list[str] = []
        self.folded: dict[str, float] = {}  # normalisation layer -> its epsilon
        self.scaled: dict[str, float] = {}
        self.different: dict[str, tuple[str, float]] = {}
        self.untold: list[str] = []
        self.left_out: list[str] = []
        self.extra: list[str] = []
        self._model = {name: np.asarray(array) for name, array in model.items() if not _counter(name)}
        self._reference = {name: np.asarray(array) for name, array in reference.items() if not _counter(name)}
        if named:
            _same_names(self._model, self._reference)
            self.extra = sorted(set(self._model) - set(self._reference))
        self._pool = {name: array for name, array in self._model.items() if name not in self._reference}
        self._used: set[str] = set()
        pending = [name for name in self._reference if not self._found(name)]
        if pending:
            pending = self._without_folded(pending)
        for name in pending:
            self._differs(name)
        # Not one array of the reference was found, or found to be another: this is a checkpoint of something else.
        told = (self.equal, self.rounded, self.by_value, self.folded, self.scaled, self.different)
        if self.untold and not any(told):
            raise ValueError(
                f"the reference's {_names(self.untold)} {'has' if len(self.untold) == 1 else 'have'} no counterpart of "
                f"that name or shape in the model, which has {_names(sorted(self._model))}; give the checkpoint of "
                "this model"
            )

    def _candidates(self, name: str) -> Iterator[tuple[str, Array, Array]]:
        """Pairs of an array of the model and the reference's, in the same order of axes."""
        reference = self._reference[name]
        if name in self._model:
            if self._model[name].shape == reference.shape:
                yield name, self._model[name], reference
            return
        if reference.size < 2 or not _floating(reference):
            return
        for other, array in self._pool.items():
            if array.size == reference.size and _floating(array):
                for view in _views(reference, _squeeze(array).shape):
                    yield other, _squeeze(array), view

    def _found(self, name: str) -> bool:
        reference = self._reference[name]
        if name not in self._model and (reference.size < 2 or not _floating(reference)):
            return True  # one number, or a random stream's state: too little to recognise
        for other, array, view in self._candidates(name):
            # Order does not change the extremes, and most pairs differ there.
            if array.size and (array.min() != view.min() or array.max() != view.max()) and not np.isnan(view).any():
                continue
            if _same(array, view):
                self._used.add(other)
                (self.equal if other == name else self.by_value).append(name)
                return True
        for other, array, view in self._candidates(name):
            if _floating(array) and _close(array, view):
                self._used.add(other)
                self.rounded.append(name)
                return True
        return False

    def _without_folded(self, pending: list[str]) -> list[str]:
        """Leave out what the folding of a normalisation layer into its neighbour explains."""
        for layer, names in _normalisation_layers(self._reference).items():
            if not set(names.values()) & set(pending):
                continue
            values = {role: self._reference[name].astype(np.float64) for role, name in names.items()}
            variance = values["variance"]
            gamma = values.get("scale", np.ones_like(variance))
            beta, mean = values.get("shift", np.zeros_like(variance)), values["mean"]
            for weight, other, factor in self._factors(pending, variance.size):
                epsilon = _epsilon(gamma, variance, factor, _eps(self._reference[names["variance"]]))
                if epsilon is None:
                    continue
                scale = gamma / np.sqrt(variance + epsilon)
                biases = [name for name in pending if name not in names.values() and self._reference[name].ndim == 1]
                for bias in (None, *biases):
                    offset = 0.0 if bias is None else self._reference[bias].astype(np.float64)
                    if np.shape(offset) not in ((), scale.shape):
                        continue
                    shifted = beta + (offset - mean) * scale
                    size = np.abs(beta) + (np.abs(offset) + np.abs(mean)) * np.abs(scale)
                    home = self._vector(shifted, size, bias)
                    if home is None:
                        continue
                    self.folded[layer] = epsilon
                    self._used.update((other, home))
                    explained = {*names.values(), weight, bias}
                    pending = [name for name in pending if name not in explained]
                    break
                if layer in self.folded:
                    break
        return pending

    def _factors(self, pending: list[str], channels: int) -> Iterator[tuple[str | None, str, Array]]:
        """Vectors that may be a folded scale: a vector of the model, or the ratio of two weights by channel."""
        for other, array in self._pool.items():
            if _floating(array) and _squeeze(array).shape == (channels,):
                yield None, other, _squeeze(array).astype(np.float64)
        for name in pending:
            for other, array, view in self._candidates(name):
                for axis in range(array.ndim):
                    if array.ndim > 1 and array.shape[axis] == channels:
                        factor = _ratio_by_channel(array, view, axis)
                        if factor is not None:
                            yield name, other, factor

    def _vector(self, value: Array, size: Array, name: str | None) -> str | None:
        """Return where the model holds this vector: under the bias's own name or anywhere."""
        for other, array in (
            self._model.items() if name is None or name not in self._model else [(name, self._model[name])]
        ):
            flat = _squeeze(array)
            if _floating(array) and flat.shape == value.shape:
                bound = 4 * ROUNDING * _eps(array) * size
                if np.all(np.abs(flat.astype(np.float64) - value) <= bound):
                    return other
        return None

    def _differs(self, name: str) -> None:
        best: tuple[str, float] | None = None
        shape = sorted(_squeeze(self._reference[name]).shape)
        if name not in self._model and not self._reference[name].any():
            self.left_out.append(name)  # adding nothing is what exporters leave out
            return
        for other, array, view in self._candidates(name):
            if other in self._used:
                continue
            factor = _ratio(array, view) if _floating(array) else None
            if factor is not None:
                self._used.add(other)
                self.scaled[name] = factor
                return
            if sorted(array.shape if other == name else _squeeze(array).shape) != (
                sorted(view.shape) if other == name else shape
            ):
                continue
            gap = float(np.nanmax(np.abs(array.astype(np.float64) - view.astype(np.float64)), initial=0.0))
            if best is None or gap < best[1]:
                best = other, gap
        if best is not None:
            self._used.add(best[0])
            self.different[name] = best
        elif name in self._model:
            shapes = f"shape {self._model[name].shape} against {self._reference[name].shape}"
            self.different[name] = (shapes, math.inf)
        else:
            self.untold.append(name)


def _failure(told: _Comparison, rates: Sequence[float]) -> str:
    if told.different:
        name = max(told.different, key=lambda each: told.different[each][1])
        other, gap = told.different[name]
        count = len(told.different) + len(told.scaled)
        largest = (
            f"'{name}' has {other}"
            if math.isinf(gap)
            else f"the largest difference is {gap:.3g}, in '{name}'" + (f" ('{other}')" if other != name else "")
        )
        total = count + _count(told)
        return f"wrong checkpoint: {count} of {total} arrays differ, not by a constant factor; {largest}"
    lines = []
    for factor in sorted({round(value, 6) for value in told.scaled.values()}):
        names = [name for name, value in told.scaled.items() if round(value, 6) == factor]
        precise = told.scaled[names[0]]
        verb = "is" if len(names) == 1 else "are"
        lines.append(
            f"folding error: {_names(names)} {verb} {precise:.6g} times the reference's: {_named(precise, rates)}"
        )
    rest = _count(told)
    return "\n".join([*lines, f"the other {rest} arrays are equal" if rest != 1 else "the other array is equal"])


def _named(factor: float, rates: Sequence[float]) -> str:
    """Say which power of q = 1 - p a ratio is."""
    meanings = {
        1: "folded once more than in the reference",
        2: "folded twice more than in the reference",
        -1: "folded once less than in the reference",
        -2: "folded twice less than in the reference",
    }
    for rate in sorted({rate for rate in rates if 0 < rate < 1}):
        for power, meaning in meanings.items():
            if math.isclose(factor, (1 - rate) ** power, rel_tol=1e-5):
                return f"{_power(power)} for p = {rate:.4g}, {meaning}"
    if factor <= 0:
        return "a constant, but no power of q = 1 - p"
    sign = 1 if factor < 1 else -1
    return (
        f"{_power(sign)} for p = {1 - factor**sign:.4g}, {meanings[sign]}; "
        f"or {_power(2 * sign)} for p = {1 - factor ** (sign / 2):.4g}, {meanings[2 * sign]}"
    )


def _power(power: int) -> str:
    return {1: "q", 2: "q²", -1: "1/q", -2: "1/q²"}[power]


def _equal(told: _Comparison) -> str:
    parts = []
    bitwise = len(told.equal) + len(told.by_value)
    if bitwise:
        parts.append(f"{bitwise} {'array is' if bitwise == 1 else 'arrays are'} equal, bit for bit")
    if told.by_value:
        parts[-1] += f" ({len(told.by_value)} found by value, under another name)"
    if told.rounded:
        parts.append(f"{_names(told.rounded)} equal up to rounding ({ROUNDING} eps)")
    for layer, epsilon in told.folded.items():
        parts.append(
            f"normalisation '{layer}' folded into its neighbours (epsilon {epsilon:.1g}), which changes nothing"
        )
    if told.left_out:
        parts.append(f"{_names(told.left_out)} zero, and left out")
    return "; ".join(parts) or "nothing was found equal"


def _count(told: _Comparison) -> int:
    return len(told.equal) + len(told.by_value) + len(told.rounded)


def _names(names: Sequence[str], most: int = 4) -> str:
    shown = ", ".join(f"'{name}'" for name in names[:most])
    return shown + (f" and {len(names) - most} more" if len(names) > most else "")


def _same_names(model: Mapping[str, Array], reference: Mapping[str, Array]) -> None:
    unknown = [name for name in reference if name not in model]
    if unknown:
        raise ValueError(
            f"the reference has {_names(unknown)}, which the model lacks; the model's names are "
            f"{_names(sorted(model))}; give the checkpoint of this model, by its names"
        )
    if not reference:
        raise ValueError("the reference holds no array; give the checkpoint of this model")


def _counter(name: str) -> bool:
    return name.endswith(_COUNTERS)


def _floating(array: Array) -> bool:
    # ml_dtypes.bfloat16 is of kind "V".
    return bool(np.issubdtype(array.dtype, np.floating)) or array.dtype.name == "bfloat16"


def _eps(*arrays: Array) -> float:
    """Return the coarsest eps among floating arrays."""
    return max(2.0**-7 if array.dtype.name == "bfloat16" else float(np.finfo(array.dtype).eps) for array in arrays)


def _squeeze(array: Array) -> Array:
    return array.reshape([side for side in array.shape if side != 1])


def _views(array: Array, shape: tuple[int, ...]) -> Iterator[Array]:
    """Return the array in this shape, with its axes in every order that an exporter may have chosen.

    Exporters transpose kernels, and write one with an axis for heads as a matrix.
    """
    array = _squeeze(array)
    orders = itertools.permutations(range(array.ndim)) if array.ndim <= 4 else iter([tuple(range(array.ndim))])
    for order in orders:
        moved = array.transpose(order)
        if moved.shape == shape or math.prod(shape) == moved.size:
            yield moved.reshape(shape)


def _same(array: Array, reference: Array) -> bool:
    return np.array_equal(array, reference.astype(array.dtype), equal_nan=_floating(array))


def _close(array: Array, reference: Array) -> bool:
    a, r = array.astype(np.float64), reference.astype(np.float64)
    return bool(np.all(np.abs(a - r) <= ROUNDING * _eps(array) * np.abs(r)))


def _ratio(array: Array, reference: Array) -> float | None:
    """Return c if the array is c times the reference up to rounding; None where that says nothing."""
    if not _floating(reference) or np.count_nonzero(reference) < 2:
        return None
    a, r = array.astype(np.float64), reference.astype(np.float64)
    factor = float(np.sum(a * r) / np.sum(r * r))
    if not math.isfinite(factor) or factor == 0:
        return None
    bound = ROUNDING * _eps(array, reference) * abs(factor) * np.abs(r)
    return factor if np.all(np.abs(a - factor * r) <= bound) else None


def _ratio_by_channel(array: Array, reference: Array, axis: int) -> Array | None:
    a = np.moveaxis(array.astype(np.float64), axis, 0).reshape(array.shape[axis], -1)
    r = np.moveaxis(reference.astype(np.float64), axis, 0).reshape(array.shape[axis], -1)
    norm = np.sum(r * r, axis=1)
    if not np.all(norm > 0):
        return None
    factor: Array = np.sum(a * r, axis=1) / norm
    bound = ROUNDING * _eps(array) * np.abs(factor)[:, None] * np.abs(r)
    return factor if np.all(np.abs(a - factor[:, None] * r) <= bound) else None


def _epsilon(gamma: Array, variance: Array, factor: Array, eps: float) -> float | None:
    """Return e if factor = gamma / sqrt(variance + e) in every channel with one e."""
    if np.any(factor == 0) or np.any(gamma == 0) or np.any(np.sign(factor) != np.sign(gamma)):
        return None
    total = (gamma / factor) ** 2
    each = total - variance
    slack = 8 * ROUNDING * eps * total
    low, high = float(np.max(each - slack)), float(np.min(each + slack))
    middle = float(each[np.argmin(total)])
    if low > high or not -float(np.min(slack)) <= middle <= LARGEST_EPSILON:
        return None
    return max(middle, 0.0)


def _normalisation_layers(reference: Mapping[str, Array]) -> dict[str, dict[str, str]]:
    """Return, for each layer with a running variance, the names of its arrays by their role."""
    layers: dict[str, dict[str, str]] = {}
    for name in reference:
        for suffix in _VARIANCE:
            prefix = name[: -len(suffix)]
            if name.endswith(suffix) and (not prefix or prefix[-1] in "./"):
                roles = {"variance": name}
                for role, spellings in _SIBLINGS.items():
                    roles.update((role, prefix + each) for each in spellings if prefix + each in reference)
                if "mean" in roles:
                    layers[prefix.rstrip("./")] = roles
    return layers
