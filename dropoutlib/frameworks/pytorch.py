"""Dropout in PyTorch modules; importing this imports PyTorch.

What a run draws is read off the operations that reach PyTorch's dispatcher, so that nothing is missed on the path that
the example takes: operations tagged as seeded randomness, and batch normalisations with their `training` argument.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from dropoutlib.frameworks._statistics import Moments, cannot_run, each, gap, inputs, known, several_times
from dropoutlib.frameworks.protocol import (
    Adapter,
    Array,
    DropoutLayer,
    DropoutLayers,
    Gaps,
    NormalisationLayer,
    Report,
)

name = "pytorch"

__all__ = [
    "deployment_check",
    "dropout_layers",
    "mc_mode",
    "name",
    "normalisation",
    "parameters",
    "predict",
    "preserved",
    "reestimate",
    "running_stats_gap",
    "training_modules",
]

# Divisor n - 1, as in PyTorch's running variance.
DDOF = 1
SWITCHED = (F.dropout, F.dropout1d, F.dropout2d, F.dropout3d, F.alpha_dropout, F.feature_alpha_dropout)


def dropout_layers(model: nn.Module, example: Any = None) -> DropoutLayers:
    """Return every dropout layer by path and rate, and with an example every other draw.

    Layers are `nn.Dropout` and its kin, `nn.MultiheadAttention` and recurrent layers with dropout, and leaf modules
    without parameters whose class is named for dropping (such as DropPath). The example is run twice: in the mode the
    model has now, which decides what is active, and with training flags set (BatchNorm's excepted), which finds
    functional dropout that is off now.

    Parameters
    ----------
    model : nn.Module
    example : array, tensor or tuple of them, optional
        One input, or a tuple of several.

    Raises
    ------
    TypeError
        If `model` is no module.
    ValueError
        If the model cannot run on the example.
    """
    modules = _modules(model)
    places = {path: place for path, module in modules.items() if (place := _layer(path, module))}
    if example is None:
        return DropoutLayers(tuple(places.values()), (), "modules only")
    now = _trace(model, example)
    later: list[_Operation] = []
    with preserved(model):
        for module in model.modules():
            module.training = not isinstance(module, _BatchNorm)
        # A model may need other inputs in training mode; what is active now is known all the same.
        try:
            later = _trace(model, example)
        except ValueError:
            later = []
    drew = {operation.path for operation in now if operation.random}
    layers = tuple(
        DropoutLayer(place.path, place.rate, place.kind, path in drew or (place.active and place.rate == 1))
        for path, place in places.items()
    )
    functional: dict[tuple[str, float | None, str], bool] = {}
    for operations, active in ((now, True), (later, False)):
        for operation in operations:
            if operation.random and operation.path not in places:
                functional.setdefault((operation.path, operation.rate, operation.kind), active)
    return DropoutLayers(layers, tuple(DropoutLayer(*key, active) for key, active in functional.items()), "tracing")


@contextmanager
def mc_mode(model: nn.Module, also: Sequence[str] = ()) -> Iterator[nn.Module]:
    """Turn dropout on, and nothing else, for the length of a `with` block.

    Every module goes to evaluation mode and every dropout layer to training mode; attention and recurrent layers too,
    whose training flag governs their dropout alone. Calls of `F.dropout` and its kin from the model's own code draw
    whatever their `training` argument says. The fused path of `nn.TransformerEncoderLayer`, which leaves dropout
    out, is not taken inside. On exit every module gets its own mode back, also after an exception.

    `F.scaled_dot_product_attention(dropout_p=p if self.training else 0.0)` shows no rate to turn on: name the module
    that says so in `also`.

    Parameters
    ----------
    model : nn.Module
    also : sequence of str
        Paths of modules whose own training flag is set as well (theirs alone, not their children's).

    Yields
    ------
    nn.Module
        The model.

    Raises
    ------
    TypeError
        If `model` is no module or `also` a string.
    ValueError
        If a path is not in the model.
    """
    modules = _modules(model)
    known(also, modules)
    modes = [(module, module.training) for module in model.modules()]
    # PyTorch takes no fused path while a function mode is active.
    switch = _DropoutOn()
    hooks = [module.register_forward_pre_hook(switch.enter) for module in model.modules()]
    hooks += [module.register_forward_hook(switch.leave, always_call=True) for module in model.modules()]
    try:
        for module in model.modules():
            module.training = _rate_and_kind(module) is not None
        for path in also:
            modules[path].training = True
        with switch:
            yield model
    finally:
        for hook in hooks:
            hook.remove()
        for module, training in modes:
            module.training = training


def running_stats_gap(model: nn.Module, batches: Iterable[Any]) -> Gaps:
    """Compare each BatchNorm's running statistics with those of what reaches it in evaluation.

    Mean and variance (divisor n - 1) are pooled over all batches, rows and positions; batches are read once.

    Parameters
    ----------
    model : nn.Module
    batches : iterable of inputs

    Raises
    ------
    TypeError
        If `batches` is one array.
    ValueError
        If the model cannot run on a batch, or a layer sees fewer than two values a channel.
    """
    layers = _tracked(model)
    moments = _evaluation_moments(model, layers, each(batches))
    return Gaps(
        tuple(
            gap(path, _array(layers[path].running_mean), _array(layers[path].running_var), seen, DDOF)
            for path, seen in moments.items()
        )
    )


def reestimate(model: nn.Module, batches: Iterable[Any]) -> None:
    """Set each BatchNorm's running statistics to those of what reaches it in evaluation.

    Layer after layer in the order in which they run: the first is set, then the batches run again for the second,
    which now sees what the corrected first one gives. So the gap is zero afterwards in every layer that runs once a
    call. One pass in training mode with a cumulative average (as `torch.optim.swa_utils.update_bn`) does not reach
    that: there each layer sees inputs that were normalised by their own batch.

    Parameters
    ----------
    model : nn.Module
        Changed in place: `running_mean` and `running_var` only.
    batches : iterable of inputs
        Read once for each layer, and once before.

    Raises
    ------
    TypeError
        If `batches` can be read only once, or is one array.
    ValueError
        If the model cannot run on a batch, or a layer sees fewer than two values a channel.
    """
    batches = several_times(batches)
    layers = _tracked(model)
    for path in _evaluation_moments(model, layers, batches):
        seen = _evaluation_moments(model, {path: layers[path]}, batches)[path]
        for buffer, value in ((layers[path].running_mean, seen.mean), (layers[path].running_var, seen.var(DDOF))):
            buffer.copy_(torch.as_tensor(value))


def deployment_check(
    model: nn.Module, example: Any, reference: Any = None, batches: Iterable[Any] | None = None
) -> Report:
    """Inspect a module as it would be deployed; see `dropoutlib.frameworks.check`."""
    from dropoutlib.frameworks import check

    return check.deployment_check(cast(Adapter, sys.modules[__name__]), model, example, reference, batches)


def predict(model: nn.Module, x: Any, seed: int | None = None) -> Array:
    """Return the first output in the mode the model has now, without gradients, and change nothing.

    Parameters
    ----------
    model : nn.Module
    x : array, tensor or tuple of them
        NumPy's floats are converted to the dtype of the model's parameters.
    seed : int, optional
        Given to `torch.manual_seed` for this call. Without it the stream goes on from where it is, and is put back.

    Raises
    ------
    ValueError
        If the model cannot run on `x`.
    """
    _modules(model)
    with preserved(model):
        if seed is not None:
            torch.manual_seed(seed)
        output = _run(model, x, "the input")
    while not isinstance(output, torch.Tensor):
        values = list(output.values()) if isinstance(output, dict) else output
        if not isinstance(values, list | tuple) or not values:
            raise ValueError(f"the model must return a tensor, or a tuple or dict of them, got {type(output).__name__}")
        output = values[0]
    return _array(output)


def training_modules(model: nn.Module) -> tuple[str, ...]:
    """Return the paths of the modules in training mode."""
    return tuple(path for path, module in _modules(model).items() if module.training)


def parameters(model: nn.Module) -> dict[str, Array]:
    """Return the tensors of `state_dict()` as arrays, without `num_batches_tracked`."""
    _modules(model)
    return {
        key: _array(value)
        for key, value in model.state_dict().items()
        if isinstance(value, torch.Tensor) and not key.endswith("num_batches_tracked")
    }


def normalisation(model: nn.Module, example: Any = None) -> tuple[NormalisationLayer, ...]:
    """Return every BatchNorm; with an example, also calls of `F.batch_norm` that normalise by the batch.

    Without an example `batch_statistics` follows from the layer's mode; with one, from the operations of a run.
    """
    modules = _modules(model)
    layers = {path: module for path, module in modules.items() if isinstance(module, _BatchNorm)}
    seen = [] if example is None else [run for run in _trace(model, example) if run.batch_statistics]
    by_batch = {run.path for run in seen}
    if example is None:
        by_batch = {path for path, layer in layers.items() if layer.training or layer.running_var is None}
    found = [
        NormalisationLayer(path, type(layer).__name__, path in by_batch, layer.running_var is not None)
        for path, layer in layers.items()
    ]
    found += [
        NormalisationLayer(path, "functional batch norm", True, False)
        for path in dict.fromkeys(run.path for run in seen)
        if path not in layers
    ]
    return tuple(found)


@contextmanager
def preserved(model: nn.Module) -> Iterator[None]:
    """Put modes, buffers and PyTorch's random streams back when the block ends."""
    _modules(model)
    modes = [(module, module.training) for module in model.modules()]
    buffers = [
        (module, key, buffer, buffer.detach().clone())
        for module in model.modules()
        for key, buffer in module._buffers.items()
        if buffer is not None and not _uninitialised(buffer)
    ]
    devices = list(range(torch.cuda.device_count())) if torch.cuda.is_initialized() else []
    try:
        with torch.random.fork_rng(devices=devices):
            yield
    finally:
        for module, training in modes:
            module.training = training
        with torch.no_grad():
            for module, key, buffer, value in buffers:
                module._buffers[key] = buffer
                buffer.copy_(value)


# --- reading a model


def _modules(model: Any) -> dict[str, nn.Module]:
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, got {type(model).__name__}")
    return dict(model.named_modules())


def _layer(path: str, module: nn.Module) -> DropoutLayer | None:
    found = _rate_and_kind(module)
    if found is None:
        return None
    rate, kind = found
    return DropoutLayer(path, rate, kind, module.training and rate != 0)


def _rate_and_kind(module: nn.Module) -> tuple[float | None, str] | None:
    """Return what a module drops if its training flag governs dropout and nothing else."""
    if isinstance(module, _DropoutNd):
        return float(module.p), type(module).__name__
    if isinstance(module, nn.MultiheadAttention):
        return (float(module.dropout), "attention dropout") if module.dropout else None
    if isinstance(module, nn.RNNBase):
        return (float(module.dropout), "dropout between layers") if module.dropout and module.num_layers > 1 else None
    kind = type(module).__name__
    bare = not any(True for _ in module.children()) and not any(True for _ in module.parameters())
    if bare and ("drop" in kind.lower() or kind == "StochasticDepth"):
        rates = (getattr(module, attribute, None) for attribute in ("p", "rate", "drop_prob", "drop_rate"))
        return next((float(rate) for rate in rates if isinstance(rate, int | float)), None), kind
    return None


def _uninitialised(tensor: torch.Tensor | None) -> bool:
    return isinstance(tensor, nn.parameter.UninitializedBuffer)


def _tracked(model: nn.Module) -> dict[str, Any]:
    layers = {
        path: module
        for path, module in _modules(model).items()
        if isinstance(module, _BatchNorm) and module.running_var is not None
    }
    for path, layer in layers.items():
        if _uninitialised(layer.running_var):
            raise ValueError(f"the lazy layer {path!r} has no statistics yet; run the model once first")
    return layers


def _array(tensor: torch.Tensor) -> Array:
    tensor = tensor.detach().cpu()
    return (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).numpy().copy()


# --- running a model


def _run(model: nn.Module, x: Any, what: str) -> Any:
    known_float = (each.dtype for each in model.parameters() if each.is_floating_point())
    dtype = next(known_float, torch.get_default_dtype())
    place = next((each.device for each in model.parameters()), torch.device("cpu"))

    def tensor(value: Any) -> torch.Tensor:
        if isinstance(value, torch.Tensor):
            return value
        array = np.asarray(value)
        if array.dtype.kind not in "biufc":
            raise TypeError(f"an input must be numeric, got dtype {array.dtype}")
        return torch.tensor(array, device=place, dtype=dtype if array.dtype.kind == "f" else None)

    arguments = [tensor(value) for value in inputs(x)]
    with torch.no_grad():
        try:
            return model(*arguments)
        except (RuntimeError, ValueError, TypeError, IndexError, AssertionError) as error:
            raise cannot_run(what, error) from error


def _evaluation_moments(model: nn.Module, layers: dict[str, Any], batches: Iterable[Any]) -> dict[str, Moments]:
    """Return the moments of what reaches each layer in evaluation, in the order in which the layers run."""
    moments: dict[str, Moments] = {}

    def collect(path: str) -> Callable[..., None]:
        def hook(module: nn.Module, arguments: tuple[Any, ...], named: dict[str, Any]) -> None:
            value = arguments[0] if arguments else named["input"]
            moments.setdefault(path, Moments()).add(_array(value), axis=1)

        return hook

    with preserved(model):
        for module in model.modules():
            module.training = False
        hooks = [layer.register_forward_pre_hook(collect(path), with_kwargs=True) for path, layer in layers.items()]
        paused, _DropoutOn.paused = _DropoutOn.paused, True
        try:
            for number, batch in enumerate(batches):
                _run(model, batch, f"batch {number}")
        finally:
            _DropoutOn.paused = paused
            for hook in hooks:
                hook.remove()
    absent = [path for path in layers if path not in moments]
    if absent:
        raise ValueError(f"no batch reached {absent[0]!r}; give at least one batch that runs the whole model")
    return moments


@dataclass(frozen=True)
class _Operation:
    path: str
    kind: str
    rate: float | None
    random: bool
    batch_statistics: bool


class _Recorder(TorchDispatchMode):
    """Keep the operations that draw or normalise by the batch, each with the module whose code asked for it.

    The module is read off the Python stack and not by hooks: hooks would switch the fused paths off.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._paths = {id(module): path for path, module in model.named_modules()}
        self.operations: list[_Operation] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = {argument.name: value for argument, value in zip(func._schema.arguments, args, strict=False)}
        given.update(kwargs or {})
        operation = func._schema.name.partition("::")[2]
        if "batch_norm" in operation and "backward" not in operation:
            path, instance = self._asked_by()
            if given.get("training", given.get("train", "no_stats" in str(func))) and not instance:
                self.operations.append(_Operation(path, "functional batch norm", None, False, True))
        elif torch.Tag.nondeterministic_seeded in func.tags and _draws(given):
            kind, rate = _draw(operation, given)
            self.operations.append(_Operation(self._asked_by()[0], kind, rate, True, False))
        return func(*args, **(kwargs or {}))

    def _asked_by(self) -> tuple[str, bool]:
        """Return the path of the innermost module on the stack, and whether it normalises each row by itself."""
        frame, instance = inspect.currentframe(), False
        while frame is not None:
            instance = instance or frame.f_code.co_name == "instance_norm"
            owner = frame.f_locals.get("self")
            if isinstance(owner, nn.Module) and id(owner) in self._paths:
                return self._paths[id(owner)], instance
            frame = frame.f_back
        return "", instance


def _draws(given: dict[str, Any]) -> bool:
    """Say whether an operation that can draw does so with these arguments."""
    if given.get("train") is False or given.get("dropout_p") == 0:
        return False
    return not ("train" in given and given.get("p") == 0)


def _draw(operation: str, given: dict[str, Any]) -> tuple[str, float | None]:
    if "dropout_p" in given:
        return "functional dropout", float(given["dropout_p"])
    if "dropout" in operation:
        return "functional dropout", float(given["p"])
    if "bernoulli" in operation:
        keep = given.get("p")
        return "functional dropout", round(1 - keep, 12) if isinstance(keep, float) else None
    return "random draw", None


def _trace(model: nn.Module, example: Any) -> list[_Operation]:
    with preserved(model), _Recorder(model) as recorder:
        _run(model, example, "the example")
    operations: list[_Operation] = recorder.operations
    return operations


class _DropoutOn(TorchFunctionMode):
    """Give functional dropout that the model's own code calls `training=True`."""

    paused = False

    def __init__(self) -> None:
        super().__init__()
        self._depth = 0

    def enter(self, *_: Any) -> None:
        self._depth += 1

    def leave(self, *_: Any) -> None:
        self._depth -= 1

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if self._depth and not _DropoutOn.paused and func in SWITCHED:
            bound = inspect.signature(func).bind(*args, **(kwargs or {}))
            bound.arguments["training"] = True
            return func(*bound.args, **bound.kwargs)
        return func(*args, **(kwargs or {}))
