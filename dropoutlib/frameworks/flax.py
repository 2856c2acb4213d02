"""Dropout in Flax: nnx modules, and linen modules wrapped as `LinenModel`; importing this imports JAX and Flax.

What a call draws is read off its jaxpr, so that a draw from a constant key is seen as well: the random operations on
which the output depends, each with the module in whose code it was made.
"""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen, nnx

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

name = "flax"

__all__ = [
    "LinenModel",
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

# Divisor n, as in Flax's running variance.
DDOF = 0
RANDOM = ("random_bits", "rng_bit_generator", "rng_uniform", "threefry2x32")
SWITCHES = ("deterministic", "use_running_average")
# Arguments of a linen call that turn training on, and the value that does.
TRAINING = {"deterministic": False, "train": True, "training": True, "is_training": True}


class LinenModel:
    """A linen module with its variables and the arguments of its call, so that it can be called as `model(x)`.

    Parameters
    ----------
    module : flax.linen.Module
    variables : mapping
        What `module.init` returned, trained.
    example : array, or tuple of arrays
        An input. A linen module's parts exist only while it runs; they are looked up with inputs of this shape.
    rngs : mapping of str to key, optional
        Needed where something draws. Each call of this object folds its number into the keys, so that two calls get
        different masks; under `jax.jit` the number of the call that was traced stays.
    **arguments
        Given to every call of the module, such as `train=False`.

    Raises
    ------
    TypeError
        If `module` is no linen module or `variables` no mapping.
    """

    def __init__(
        self,
        module: Any,
        variables: Mapping[str, Any],
        example: Any,
        rngs: Mapping[str, Any] | None = None,
        **arguments: Any,
    ) -> None:
        if not isinstance(module, linen.Module):
            raise TypeError(f"module must be a flax.linen.Module, got {type(module).__name__}")
        if not isinstance(variables, Mapping) or "params" not in variables:
            raise TypeError("variables must be what module.init returns, a mapping with the key 'params'")
        self.module = module
        self.variables = variables
        self.example = tuple(jax.ShapeDtypeStruct(np.shape(x), jnp.asarray(x).dtype) for x in inputs(example))
        self.rngs = dict(rngs or {})
        self.arguments = arguments
        self.calls = 0
        self.interceptors: tuple[Callable[..., Any], ...] = ()

    def __call__(self, *x: Any) -> Any:
        """Return the module's output; what it would store in its variables is left out."""
        return self.apply(self.variables, *x)

    def apply(self, variables: Mapping[str, Any], *x: Any) -> Any:
        """Return the output with other variables."""
        rngs = {stream: jax.random.fold_in(key, self.calls) for stream, key in self.rngs.items()}
        self.calls += 1
        mutable = [collection for collection in variables if collection != "params"]
        with ExitStack() as stack:
            for interceptor in self.interceptors:
                stack.enter_context(linen.intercept_methods(interceptor))
            output = self.module.apply(variables, *x, rngs=rngs, mutable=mutable, **self.arguments)
        return output[0]


def dropout_layers(model: Any, example: Any = None) -> DropoutLayers:
    """Return every dropout layer by path and rate, and with an example every other draw.

    Layers are `Dropout`, attention with a dropout rate, and modules with a rate that has the flag `deterministic`. The
    jaxpr of a call is read twice: as the model is, which decides what is active, and with dropout turned on. A model
    that JAX cannot trace is run twice, with different keys.

    Parameters
    ----------
    model : nnx.Module or LinenModel
    example : array, or tuple of arrays, optional
        A linen module is looked up with the example that it was wrapped with, if none is given.

    Raises
    ------
    TypeError
        If `model` is neither.
    ValueError
        If the model cannot run on the example.
    """
    watched = _watch(model, example)
    places = {path: place for path, seen in watched.items() if (place := _place(path, seen))}
    if example is None:
        return DropoutLayers(tuple(places.values()), (), "modules only")
    draws = _draws(model, example)
    if draws is None:
        first, second = (predict(model, example, seed=seed) for seed in (1, 2))
        drawn = not np.array_equal(first, second, equal_nan=True) and not any(p.active for p in places.values())
        functional = (DropoutLayer("", None, "random draw", True),) if drawn else ()
        return DropoutLayers(tuple(places.values()), functional, "running twice")
    with preserved(model), _switched(model, _dropout_on):
        # With dropout on a model may need keys that it does not have; what is active now is known all the same.
        try:
            later = _draws(model, example) or []
        except ValueError:
            later = []
    drew = {path for path, _, _ in draws}
    layers = tuple(
        DropoutLayer(path, place.rate, place.kind, path in drew or (place.active and place.rate == 1))
        for path, place in places.items()
    )
    found: dict[tuple[str, float | None, str], bool] = {}
    for made, active in ((draws, True), (later, False)):
        for draw in made:
            if draw[0] not in places:
                found.setdefault(draw, active)
    return DropoutLayers(layers, tuple(DropoutLayer(*key, active) for key, active in found.items()), "tracing")


@contextmanager
def mc_mode(model: Any, also: Sequence[str] = ()) -> Iterator[Any]:
    """Turn dropout on, and nothing else, for the length of a `with` block.

    In nnx, `deterministic` becomes False wherever a module has it, `use_running_average` True, and both are put back
    on exit. A function that was compiled with the flags as they were (`nnx.jit`, `nnx.view`) is compiled anew, for they
    are part of the model's structure. In linen the arguments of `Dropout`, attention and `BatchNorm` are replaced as
    they are called, whatever the code that calls them says; the model needs a key for each stream.

    Parameters
    ----------
    model : nnx.Module or LinenModel
    also : sequence of str
        In linen, paths of modules whose own `deterministic`, `train` or `training` is set for dropout as well. In nnx
        there is nothing to add.

    Yields
    ------
    nnx.Module or LinenModel
        The model.

    Raises
    ------
    TypeError
        If `model` is neither or `also` a string.
    ValueError
        If a path is not in the model, or a linen model has no keys.
    """
    known(also, _watch(model, None))
    if isinstance(model, LinenModel) and not model.rngs:
        raise ValueError("the model has no key to draw from; wrap it with LinenModel(..., rngs={'dropout': key})")
    with _switched(model, _dropout_on, also):
        yield model


def running_stats_gap(model: Any, batches: Iterable[Any]) -> Gaps:
    """Compare each BatchNorm's running statistics with those of what reaches it in evaluation.

    Mean and variance (divisor n) are pooled over all batches, rows and positions; batches are read once.

    Parameters
    ----------
    model : nnx.Module or LinenModel
    batches : iterable of inputs

    Raises
    ------
    TypeError
        If `batches` is one array.
    ValueError
        If the model cannot run on a batch, no value reaches a layer, or a layer runs inside `nnx.jit` or a scan, where
        its inputs cannot be seen.
    """
    moments = _evaluation_moments(model, each(batches))
    return Gaps(tuple(gap(path, *_statistics(model, path), seen, DDOF) for path, seen in moments.items()))


def reestimate(model: Any, batches: Iterable[Any]) -> None:
    """Set each BatchNorm's running statistics to those of what reaches it in evaluation.

    Layer after layer in the order in which they run, so that each sees what the corrected layers before it give.

    Parameters
    ----------
    model : nnx.Module or LinenModel
        Changed in place: `mean` and `var` only; a LinenModel gets new `variables`, and the old ones stay as they were.
    batches : iterable of inputs
        Read once for each layer, and once before.

    Raises
    ------
    TypeError
        If `batches` can be read only once, or is one array.
    ValueError
        As `running_stats_gap`.
    """
    batches = several_times(batches)
    for path in _evaluation_moments(model, batches):
        seen = _evaluation_moments(model, batches)[path]
        _set_statistics(model, path, seen.mean, seen.var(DDOF))


def deployment_check(model: Any, example: Any, reference: Any = None, batches: Iterable[Any] | None = None) -> Report:
    """Inspect a model as it would be deployed; see `dropoutlib.frameworks.check`."""
    from dropoutlib.frameworks import check

    return check.deployment_check(cast(Adapter, sys.modules[__name__]), model, example, reference, batches)


def predict(model: Any, x: Any, seed: int | None = None) -> Array:
    """Return the first output in the mode the model has now and change nothing.

    Parameters
    ----------
    model : nnx.Module or LinenModel
    x : array, or tuple of arrays
    seed : int, optional
        Folded into every key of the model for this call. A key that the code makes itself stays.

    Raises
    ------
    ValueError
        If the model cannot run on `x`.
    """
    with preserved(model):
        if seed is not None:
            _fold_in(model, seed)
        leaves = jax.tree.leaves(_run(model, x, "the input"))
    if not leaves:
        raise ValueError("the model must return an array, or a tuple or dict of them, got nothing")
    return _array(leaves[0])


def training_modules(model: Any) -> tuple[str, ...]:
    """Return the paths of the modules whose `deterministic` or `use_running_average` is False.

    In linen it is the value in a call that counts, and attention without a dropout rate has no mode.
    """
    return tuple(path for path, seen in _watch(model, None).items() if False in (seen.deterministic, seen.average))


def parameters(model: Any) -> dict[str, Array]:
    """Return parameters and running statistics by name, such as "dense.kernel" (linen: "params/Dense_0/kernel").

    Random streams, caches and intermediate values are left out.
    """
    if isinstance(model, LinenModel):
        kept = {key: tree for key, tree in model.variables.items() if key not in ("cache", "intermediates")}
        leaves = jax.tree_util.tree_flatten_with_path(kept)[0]
        return {"/".join(str(getattr(step, "key", step)) for step in path): _array(leaf) for path, leaf in leaves}
    left_out = (nnx.RngState, nnx.Cache, nnx.Intermediate)
    return {
        _dotted(path): _array(_value(variable))
        for path, variable in nnx.iter_graph(_checked(model))
        if isinstance(variable, nnx.Variable) and not isinstance(variable, left_out) and _is_array(_value(variable))
    }


def normalisation(model: Any, example: Any = None) -> tuple[NormalisationLayer, ...]:
    """Return every BatchNorm; an example shows the arguments given where they are called."""
    return tuple(
        NormalisationLayer(path, type(seen.module).__name__, seen.average is False, True)
        for path, seen in _watch(model, example).items()
        if isinstance(seen.module, nnx.BatchNorm | linen.BatchNorm)
    )


@contextmanager
def preserved(model: Any) -> Iterator[None]:
    """Put flags, variables and random streams back when the block ends."""
    if isinstance(model, LinenModel):
        kept = vars(_checked(model)).copy()
        try:
            yield
        finally:
            vars(model).update(kept)
        return
    graph = list(nnx.iter_graph(_checked(model)))
    values = [(variable, _value(variable)) for _, variable in graph if isinstance(variable, nnx.Variable)]
    flags = [(module, key, vars(module)[key]) for _, module in graph for key in _flags(module)]
    attributes = [(module, set(vars(module))) for _, module in graph if isinstance(module, nnx.Module)]
    try:
        yield
    finally:
        # Such as what `sow` leaves behind.
        for module, own in attributes:
            for key in set(vars(module)) - own:
                delattr(module, key)
        for variable, value in values:
            _set(variable, value)
        for module, key, flag in flags:
            setattr(module, key, flag)


# --- reading a model


@dataclass(frozen=True)
class _Seen:
    """A module, and the flags that decide what it does: its own, or those given where it was called."""

    module: Any
    deterministic: bool | None
    average: bool | None


def _checked(model: Any) -> Any:
    if not isinstance(model, nnx.Module | LinenModel):
        wrap = "; wrap it as LinenModel(module, variables, example)" if isinstance(model, linen.Module) else ""
        raise TypeError(f"model must be a flax.nnx.Module or a LinenModel, got {type(model).__name__}{wrap}")
    return model


def _dotted(path: Iterable[Any]) -> str:
    return ".".join(map(str, path))


def _modules(model: Any) -> dict[str, Any]:
    return {_dotted(path): node for path, node in nnx.iter_graph(_checked(model)) if isinstance(node, nnx.Module)}


def _flags(module: Any) -> list[str]:
    return [key for key in SWITCHES if key in vars(module)] if isinstance(module, nnx.Module) else []


def _rate(module: Any) -> float | None:
    rates = (getattr(module, key, None) for key in ("rate", "dropout_rate", "drop_rate", "drop_prob"))
    return next((float(rate) for rate in rates if isinstance(rate, int | float)), None)


def _attends(module: Any) -> bool:
    return isinstance(module, nnx.MultiHeadAttention | linen.MultiHeadDotProductAttention)


def _place(path: str, seen: _Seen) -> DropoutLayer | None:
    rate = _rate(seen.module)
    if rate is None or not hasattr(seen.module, "deterministic") or (_attends(seen.module) and not rate):
        return None
    kind = "attention dropout" if _attends(seen.module) else type(seen.module).__name__
    return DropoutLayer(path, rate, kind, seen.deterministic is False and rate != 0)


def _value(variable: Any) -> Any:
    return variable.get_raw_value() if hasattr(variable, "get_raw_value") else variable.raw_value


def _set(variable: Any, value: Any) -> None:
    if hasattr(variable, "set_raw_value"):
        variable.set_raw_value(value)
    else:
        variable.raw_value = value


def _is_array(value: Any) -> bool:
    return hasattr(value, "shape") and hasattr(value, "dtype")


def _array(value: Any) -> Array:
    array = np.array(value)
    return array.astype(np.float32) if array.dtype == jnp.bfloat16 else array


def _fold_in(model: Any, seed: int) -> None:
    if isinstance(model, LinenModel):
        model.rngs = {stream: jax.random.fold_in(key, seed) for stream, key in model.rngs.items()}
        return
    for _, variable in nnx.iter_graph(model):
        if isinstance(variable, nnx.RngKey):
            keys = _value(variable)
            folded = jax.vmap(lambda key: jax.random.fold_in(key, seed))(keys.reshape(-1))
            _set(variable, folded.reshape(keys.shape))


def _statistics(model: Any, path: str) -> tuple[Array, Array]:
    if isinstance(model, LinenModel):
        stats = _at(model.variables["batch_stats"], path)
        return _array(stats["mean"]), _array(stats["var"])
    layer = _modules(model)[path]
    return _array(_value(layer.mean)), _array(_value(layer.var))


def _set_statistics(model: Any, path: str, mean: Array, var: Array) -> None:
    if isinstance(model, LinenModel):
        copied = jax.tree.map(lambda leaf: leaf, linen.FrozenDict(model.variables).unfreeze())
        stats = _at(copied["batch_stats"], path)
        stats.update(mean=jnp.asarray(mean, stats["mean"].dtype), var=jnp.asarray(var, stats["var"].dtype))
        model.variables = copied
        return
    layer = _modules(model)[path]
    for variable, value in ((layer.mean, mean), (layer.var, var)):
        _set(variable, jnp.asarray(value, _value(variable).dtype))


def _at(tree: Any, path: str) -> Any:
    for step in path.split("/") if path else ():
        tree = tree[step]
    return tree


# --- running a model


def _run(model: Any, x: Any, what: str) -> Any:
    values = inputs(x)
    try:
        return _checked(model)(*(jnp.asarray(value) for value in values))
    except Exception as error:
        raise cannot_run(what, error) from error


def _bound(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    """Return the arguments of a call by name, without defaults."""
    try:
        return dict(inspect.signature(type(module).__call__).bind(module, *args, **kwargs).arguments)
    except TypeError:
        return kwargs


def _seen(module: Any, given: dict[str, Any]) -> _Seen:
    def flag(key: str) -> bool | None:
        value = given.get(key)
        value = getattr(module, key, None) if value is None else value
        return bool(value) if isinstance(value, bool | np.bool_ | int) else None

    return _Seen(module, flag("deterministic"), flag("use_running_average"))


def _watch(model: Any, example: Any) -> dict[str, _Seen]:
    """Return every module by path with its flags; with an example, or in linen, those of a call."""
    if isinstance(model, LinenModel):
        return _watch_linen(model, example)
    found = {path: _seen(module, {}) for path, module in _modules(model).items()}
    if example is None:
        return found
    called: dict[str, _Seen] = {}

    def watch(path: str, module: Any, call: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        new = _seen(module, _bound(module, args, kwargs))
        old = called.get(path, new)
        called[path] = _Seen(module, _either(old.deterministic, new.deterministic), _either(old.average, new.average))
        return call(*args, **kwargs)

    with preserved(model), _intercepted(_modules(model), watch):
        _run(model, example, "the example")
    return {**found, **called}


def _watch_linen(model: LinenModel, example: Any) -> dict[str, _Seen]:
    _checked(model)
    called: dict[str, _Seen] = {}

    def watch(following: Any, args: Any, kwargs: Any, context: Any) -> Any:
        if context.method_name == "__call__":
            module, path = context.module, "/".join(context.module.path)
            new = _seen(module, _bound(module, args, kwargs))
            if _attends(module) and not module.dropout_rate:
                new = _Seen(module, None, None)
            old = called.get(path, new)
            called[path] = _Seen(
                module, _either(old.deterministic, new.deterministic), _either(old.average, new.average)
            )
        return following(*args, **kwargs)

    values = model.example if example is None else tuple(jnp.asarray(value) for value in inputs(example))
    with preserved(model):
        # Behind the model's own, so that it sees the arguments that arrive.
        model.interceptors = (*model.interceptors, watch)
        if not model.rngs:
            model.rngs = {"dropout": jax.random.key(0)}
        try:
            # A new function each time: JAX remembers what it traced.
            jax.eval_shape(lambda *tensors: model(*tensors), *values)
        except Exception as error:
            raise cannot_run("the example", error) from error
    return called


def _either(first: bool | None, second: bool | None) -> bool | None:
    """Return False if either call was in training."""
    return False if False in (first, second) else second


@contextmanager
def _intercepted(modules: dict[str, Any], interceptor: Callable[..., Any]) -> Iterator[None]:
    """Put a function around the calls of these nnx modules; Python looks `__call__` up in the class, so it goes there.

    It is called as interceptor(path, module, call, args, kwargs). Other instances of the classes run as ever.
    """
    paths = {id(module): path for path, module in modules.items()}
    classes = {type(module) for module in modules.values() if callable(module)}
    before = {each_class: each_class.__dict__.get("__call__") for each_class in classes}

    def around(original: Callable[..., Any]) -> Callable[..., Any]:
        def call(self: Any, *args: Any, **kwargs: Any) -> Any:
            path = paths.get(id(self))
            if path is None:
                return original(self, *args, **kwargs)
            return interceptor(path, self, lambda *a, **k: original(self, *a, **k), args, kwargs)

        call.__signature__ = inspect.signature(original)  # type: ignore[attr-defined]
        return call

    replacements = {each_class: around(each_class.__call__) for each_class in classes}
    try:
        for each_class, call in replacements.items():
            each_class.__call__ = call
        yield
    finally:
        for each_class, original in before.items():
            if original is None:
                del each_class.__call__
            else:
                each_class.__call__ = original


def _dropout_on(module: Any) -> dict[str, bool]:
    """Return the flags of dropout on and nothing else."""
    flags = {}
    if hasattr(module, "deterministic"):
        flags["deterministic"] = False
    if hasattr(module, "use_running_average"):
        flags["use_running_average"] = True
    return flags


def _evaluation(module: Any) -> dict[str, bool]:
    return {key: True for key in SWITCHES if hasattr(module, key)}


@contextmanager
def _switched(model: Any, flags: Callable[[Any], dict[str, bool]], also: Sequence[str] = ()) -> Iterator[None]:
    """Give every module these flags for the length of the block."""
    if not isinstance(model, LinenModel):
        modules = [module for module in _modules(model).values() if _flags(module)]
        before = [(module, key, vars(module)[key]) for module in modules for key in _flags(module)]
        try:
            for module in modules:
                for key, flag in flags(module).items():
                    setattr(module, key, flag)
            yield
        finally:
            for module, key, flag in before:
                setattr(module, key, flag)
        return
    outer = model.interceptors
    model.interceptors = (*outer, _linen_switch(flags, also))
    try:
        yield
    finally:
        model.interceptors = outer


def _linen_switch(flags: Callable[[Any], dict[str, bool]], also: Sequence[str]) -> Callable[..., Any]:
    def switch(following: Any, args: Any, kwargs: Any, context: Any) -> Any:
        module = context.module
        if context.method_name != "__call__":
            return following(*args, **kwargs)
        accepted = inspect.signature(type(module).__call__).parameters
        new: dict[str, bool] = {}
        if isinstance(module, linen.Dropout | linen.BatchNorm) or _attends(module):
            new = flags(module)
        elif "/".join(module.path) in also:
            new = {key: value for key, value in TRAINING.items() if key in accepted or hasattr(module, key)}
        if not new:
            return following(*args, **kwargs)
        given = _bound(module, args, kwargs)
        given.pop("self", None)
        own = {key: getattr(module, key) for key in new if hasattr(module, key)}
        # A flag may be given to the constructor or to the call, and not to both.
        try:
            for key in own:
                object.__setattr__(module, key, None if key in accepted else new[key])
            given.update({key: value for key, value in new.items() if key in accepted})
            return following(**given)
        finally:
            for key, value in own.items():
                object.__setattr__(module, key, value)

    return switch


def _evaluation_moments(model: Any, batches: Iterable[Any]) -> dict[str, Moments]:
    """Return the moments of what reaches each BatchNorm in evaluation, in the order in which they run."""
    moments: dict[str, Moments] = {}

    def add(path: str, module: Any, x: Any) -> None:
        if isinstance(x, jax.core.Tracer):
            raise ValueError(f"what reaches {path!r} cannot be seen, for it runs inside a transformed function")
        axis = module.axis if isinstance(module.axis, int) else tuple(module.axis)
        if not isinstance(axis, int) and len(axis) != 1:
            raise ValueError(f"{path!r} normalises over several feature axes, {axis}; only one is supported")
        moments.setdefault(path, Moments()).add(_array(x), axis if isinstance(axis, int) else axis[0])

    def collect(path: str, module: Any, call: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        add(path, module, _bound(module, args, kwargs)["x"])
        return call(*args, **kwargs)

    def collect_linen(following: Any, args: Any, kwargs: Any, context: Any) -> Any:
        if context.method_name == "__call__" and isinstance(context.module, linen.BatchNorm):
            add("/".join(context.module.path), context.module, _bound(context.module, args, kwargs)["x"])
        return following(*args, **kwargs)

    with preserved(model), _switched(model, _evaluation), ExitStack() as stack:
        if isinstance(model, LinenModel):
            layers = [path for path, seen in _watch(model, None).items() if isinstance(seen.module, linen.BatchNorm)]
            model.interceptors = (*model.interceptors, collect_linen)
        else:
            found = {path: layer for path, layer in _modules(model).items() if isinstance(layer, nnx.BatchNorm)}
            stack.enter_context(_intercepted(found, collect))
            layers = list(found)
        for number, batch in enumerate(batches):
            _run(model, batch, f"batch {number}")
    absent = [path for path in layers if path not in moments]
    if absent:
        raise ValueError(
            f"no batch reached {absent[0]!r}, or it runs inside nnx.jit, where it cannot be seen; "
            "give at least one batch that runs the whole model"
        )
    return moments


# --- the jaxpr

Draw = tuple[str, "float | None", str]
SCOPE = re.compile(r"dropoutlib-(\d+)-")


def _draws(model: Any, example: Any) -> list[Draw] | None:
    """Return the draws on which a call's output depends, or None if JAX cannot trace the call."""
    values = tuple(jnp.asarray(value) for value in inputs(example))
    paths: list[str] = [""]

    def scope(path: str) -> Any:
        paths.append(path)
        return jax.named_scope(f"dropoutlib-{len(paths) - 1}-")

    def named(path: str, module: Any, call: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        with scope(path):
            return call(*args, **kwargs)

    def named_linen(following: Any, args: Any, kwargs: Any, context: Any) -> Any:
        with scope("/".join(context.module.path)):
            return following(*args, **kwargs)

    # The state goes in as an argument, so that the trace may count its random streams on.
    structure: Any = None
    state: Any = None
    if not isinstance(model, LinenModel):
        structure, state = nnx.split(model)

    def function(state: Any, *tensors: Any) -> Any:
        if isinstance(model, LinenModel):
            return model(*tensors)
        copy = nnx.merge(structure, state)
        with _intercepted(_modules(copy), named):
            return copy(*tensors)

    with preserved(model):
        if isinstance(model, LinenModel):
            model.interceptors = (*model.interceptors, named_linen)
        try:
            closed = jax.make_jaxpr(function)(state, *values)
        except Exception:
            # Whoever cannot run at all says why.
            _run(model, example, "the example")
            return None
    return list(dict.fromkeys(_random(closed.jaxpr, paths, 0, "")))


def _random(jaxpr: Any, paths: list[str], index: int, inside: str) -> Iterator[Draw]:
    """Yield the draws on which a jaxpr's outputs depend; `inside` is the kind of function that holds it."""
    live = {variable for variable in jaxpr.outvars if not hasattr(variable, "val")}
    needed = []
    for equation in reversed(jaxpr.eqns):
        if equation.effects or any(variable in live for variable in equation.outvars):
            needed.append(equation)
            live |= {variable for variable in equation.invars if not hasattr(variable, "val")}
    for equation in reversed(needed):
        scopes = SCOPE.findall(str(equation.source_info.name_stack))
        here = int(scopes[-1]) if scopes else index
        called = str(equation.params.get("name", ""))
        if called == "_bernoulli":
            keep = next((v.val for v in equation.invars if hasattr(v, "val") and np.ndim(v.val) == 0), None)
            rate = None if keep is None else round(1 - float(keep), 6)
            yield paths[here], rate, "functional dropout"
        elif equation.primitive.name in RANDOM:
            yield paths[here], None, "random draw"
        elif called == "_uniform" and (rate := _compared_with(equation, needed)) is not None:
            yield paths[here], rate, "functional dropout"
        else:
            for value in equation.params.values():
                for inner in value if isinstance(value, tuple | list) else (value,):
                    inner = getattr(inner, "jaxpr", inner)
                    if hasattr(inner, "eqns"):
                        yield from _random(inner, paths, here, called)


def _compared_with(draw: Any, equations: list[Any]) -> float | None:
    """Return the rate of the mask that uniform numbers are made into: kept where they are at least the rate."""
    for equation in equations:
        if equation.primitive.name in ("gt", "ge", "lt", "le") and len(equation.invars) == 2:
            left, right = equation.invars
            if draw.outvars[0] in (
                left if not hasattr(left, "val") else None,
                right if not hasattr(right, "val") else None,
            ):
                first = not hasattr(left, "val") and left is draw.outvars[0]
                other = right if first else left
                if hasattr(other, "val") and np.ndim(other.val) == 0:
                    above = (equation.primitive.name[0] == "g") == first
                    return round(float(other.val if above else 1 - other.val), 6)
    return None
