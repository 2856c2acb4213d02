"""Dropout in Keras 3 models; importing this imports Keras and its backend.

A Keras layer has no mode: whether it drops is an argument of each call, `training`, which a layer hands to its
sublayers and which is False in `model(x)` and in `predict`. So `mc_mode` changes what the dropout layers do with it.
What a run draws is read off the graph that TensorFlow traces; on another backend, two runs are compared.
"""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any, cast

import keras
import numpy as np
from keras import layers as kl

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

name = "keras"

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

# Divisor n, as in Keras's moving variance.
DDOF = 0
COMPILED = ("predict_function", "test_function", "train_function")
Draw = tuple[str, "float | None", str]
RANDOM = re.compile(
    r"^(Stateless|Stateful)?(Random|TruncatedNormal|ParameterizedTruncatedNormal|StandardNormal|Uniform|Multinomial)"
)
# Operations of such a name that only prepare a seed.
SEEDS = re.compile(r"^StatelessRandomGet|^RandomDataset|^RandomSeed")


def dropout_layers(model: Any, example: Any = None) -> DropoutLayers:
    """Return every dropout layer by path and rate, and with an example every other draw.

    Layers are `Dropout` and its kin, attention layers and recurrent cells with dropout, in nested models too, and
    layers without weights whose class is named for dropping. On the TensorFlow backend the model's graph is traced
    twice, as it is called and with `training=True`; a draw counts as active if the first trace's output depends on it.
    (Recurrent layers make masks in inference too, and do not use them.) On other backends two runs with different
    seeds are compared, which tells whether something draws outside the layers, not where.

    Parameters
    ----------
    model : keras.Model or keras.Layer
    example : array, or tuple of arrays, optional

    Raises
    ------
    TypeError
        If `model` is no Keras model.
    ValueError
        If the model cannot run on the example, or has not been built yet.
    """
    paths = _paths(model)
    places = _places(paths)
    if example is None:
        return DropoutLayers(tuple(place for _, place in places), (), "modules only")
    with preserved(model), _Calls(paths) as calls:
        _run(model, example, "the example")
    asked = calls.training
    found = None
    if keras.backend.backend() == "tensorflow":
        # A model that runs eagerly only cannot be traced.
        with suppress(_NoGraph):
            found = _graph_draws(model, example, paths, None), _graph_draws(model, example, paths, True)
    if found is None:
        return _by_running_twice(model, example, places, asked)
    now, later = found
    drew = {owner for draw in now for owner in _owners(draw, places)}
    layers = tuple(
        _with(place, place in drew or (place.rate == 1 and asked.get(place.path, False))) for _, place in places
    )
    functional: dict[Draw, bool] = {}
    for draws, active in ((now, True), (later, False)):
        for draw in draws:
            if not _owners(draw, places):
                functional.setdefault(draw, active)
    return DropoutLayers(layers, tuple(DropoutLayer(*key, active) for key, active in functional.items()), "tracing")


@contextmanager
def mc_mode(model: Any, also: Sequence[str] = ()) -> Iterator[Any]:
    """Turn dropout on, and nothing else, for the length of a `with` block.

    The `call` of every dropout layer gets `training=True` and that of every BatchNormalization `training=False`, on
    these instances alone. It holds for `model(x)`, also with `training=True`, for `predict`, `predict_on_batch` and
    `evaluate`, whose compiled functions are set aside and put back. A `tf.function` of your own that was traced
    outside the block does not change, and one traced inside stays as it is afterwards: trace it anew.

    A layer that calls `keras.random.dropout` in its own `call` under `if training` shows nothing to turn on: name it
    in `also`.

    Parameters
    ----------
    model : keras.Model or keras.Layer
    also : sequence of str
        Paths of layers whose own `call` gets `training=True` as well; BatchNormalization inside stays in inference.

    Yields
    ------
    keras.Model or keras.Layer
        The model.

    Raises
    ------
    TypeError
        If `model` is no Keras model or `also` a string.
    ValueError
        If a path is not in the model.
    """
    paths = _paths(model)
    known(also, paths)
    on = [layer for path, layer in paths.items() if path in also or _turned_on(layer)]
    off = [layer for layer in paths.values() if isinstance(layer, kl.BatchNormalization)]
    compiled = [
        (layer, key, getattr(layer, key)) for layer in paths.values() for key in COMPILED if hasattr(layer, key)
    ]
    with _replaced((layer, _with_training(layer, layer in on)) for layer in [*on, *off]):
        try:
            for layer, key, _ in compiled:
                setattr(layer, key, None)
            yield model
        finally:
            for layer, key, function in compiled:
                setattr(layer, key, function)


def running_stats_gap(model: Any, batches: Iterable[Any]) -> Gaps:
    """Compare each BatchNormalization's moving statistics with those of what reaches it in inference.

    Mean and variance (divisor n) are pooled over all batches, rows and positions; batches are read once. Masked
    positions count as the others do.

    Parameters
    ----------
    model : keras.Model or keras.Layer
    batches : iterable of inputs

    Raises
    ------
    TypeError
        If `batches` is one array.
    ValueError
        If the model cannot run on a batch, or a layer sees no value.
    """
    layers = _tracked(model)
    moments = _inference_moments(model, layers, each(batches))
    return Gaps(
        tuple(
            gap(path, _array(layers[path].moving_mean), _array(layers[path].moving_variance), seen, DDOF)
            for path, seen in moments.items()
        )
    )


def reestimate(model: Any, batches: Iterable[Any]) -> None:
    """Set each BatchNormalization's moving statistics to those of what reaches it in inference.

    Layer after layer in the order in which they run, so that each sees what the corrected layers before it give.

    Parameters
    ----------
    model : keras.Model or keras.Layer
        Changed in place: `moving_mean` and `moving_variance` only.
    batches : iterable of inputs
        Read once for each layer, and once before.

    Raises
    ------
    TypeError
        If `batches` can be read only once, or is one array.
    ValueError
        If the model cannot run on a batch, or a layer sees no value.
    """
    batches = several_times(batches)
    layers = _tracked(model)
    for path in _inference_moments(model, layers, batches):
        seen = _inference_moments(model, {path: layers[path]}, batches)[path]
        layers[path].moving_mean.assign(seen.mean)
        layers[path].moving_variance.assign(seen.var(DDOF))


def deployment_check(model: Any, example: Any, reference: Any = None, batches: Iterable[Any] | None = None) -> Report:
    """Inspect a model as it would be deployed; see `dropoutlib.frameworks.check`."""
    from dropoutlib.frameworks import check

    return check.deployment_check(cast(Adapter, sys.modules[__name__]), model, example, reference, batches)


def predict(model: Any, x: Any, seed: int | None = None) -> Array:
    """Return the first output of `model(x)` and change nothing.

    Parameters
    ----------
    model : keras.Model or keras.Layer
    x : array, or tuple of arrays
    seed : int, optional
        Every seed generator of the model, and Keras's global one, starts from it. TensorFlow's own stateful operations
        (`tf.nn.dropout` without a seed) do not, nor does PyTorch's global stream, from which Keras draws on that
        backend; neither is put back.

    Raises
    ------
    ValueError
        If the model cannot run on `x`, or has not been built yet.
    """
    with preserved(model):
        if seed is not None:
            for number, state in enumerate(_seed_states(model)):
                state.assign(np.array([seed, number << 20]) % (1 << 31))
        output = _run(model, x, "the input")
    while isinstance(output, dict | list | tuple):
        values = list(output.values()) if isinstance(output, dict) else output
        if not values:
            raise ValueError("the model must return a tensor, or a tuple or dict of them, got an empty one")
        output = values[0]
    return _array(output)


def training_modules(model: Any) -> tuple[str, ...]:
    """Return nothing: in Keras no layer keeps a mode."""
    _paths(model)
    return ()


def parameters(model: Any) -> dict[str, Array]:
    """Return every weight by name, moving statistics included.

    Names that Keras makes up, such as "dense_7", count on over all models of a process; here they are counted anew in
    each parent, so that two builds of one architecture agree.
    """
    _paths(model)
    return dict(_weights(model, ""))


def normalisation(model: Any, example: Any = None) -> tuple[NormalisationLayer, ...]:
    """Return every BatchNormalization; an example shows which are called with `training=True`."""
    paths = _paths(model)
    asked: dict[str, bool] = {}
    if example is not None:
        with preserved(model), _Calls(paths) as calls:
            _run(model, example, "the example")
        asked = calls.training
    return tuple(
        NormalisationLayer(path, type(layer).__name__, asked.get(path, False) and bool(layer.trainable), True)
        for path, layer in paths.items()
        if isinstance(layer, kl.BatchNormalization)
    )


@contextmanager
def preserved(model: Any) -> Iterator[None]:
    """Put weights that are not trained and the states of seed generators back when the block ends."""
    _paths(model)
    states = {id(state): state for state in (*model.non_trainable_variables, *_seed_states(model))}
    values = [(state, _array(state)) for state in states.values()]
    try:
        yield
    finally:
        for state, value in values:
            state.assign(value)


# --- reading a model


def _paths(model: Any) -> dict[str, Any]:
    """Return the model ("") and every layer in it, by the names on the way to it."""
    if not isinstance(model, keras.Layer):
        raise TypeError(f"model must be a keras.Model or a keras.Layer, got {type(model).__name__}")
    if not model.built:
        raise ValueError(f"the model {model.name!r} has not been built yet; call it on an example first")
    paths: dict[str, Any] = {"": model}
    seen = {id(model)}

    def walk(parent: Any, prefix: str) -> None:
        for child in _children(parent):
            if id(child) not in seen:
                seen.add(id(child))
                path = prefix + child.name
                while path in paths:
                    path += "'"
                paths[path] = child
                walk(child, path + "/")

    walk(model, "")
    return paths


def _children(layer: Any) -> list[Any]:
    return [child for child in layer._flatten_layers(include_self=False, recursive=False) if child is not layer]


def _places(paths: dict[str, Any]) -> list[tuple[Any, DropoutLayer]]:
    found = []
    inside = {id(child) for layer in paths.values() if _attends(layer) for child in _children(layer)}
    for path, layer in paths.items():
        if _is_cell(layer):
            for rate, kind in ((layer.dropout, "input dropout"), (layer.recurrent_dropout, "recurrent dropout")):
                if rate:
                    found.append((layer, DropoutLayer(path, float(rate), kind, False)))
        elif _attends(layer):
            if layer.dropout:
                found.append((layer, DropoutLayer(path, float(layer.dropout), "attention dropout", False)))
        elif _drops(layer) and id(layer) not in inside:
            rates = (getattr(layer, key, None) for key in ("rate", "p", "drop_prob", "drop_rate"))
            rate = next((float(rate) for rate in rates if isinstance(rate, int | float)), None)
            found.append((layer, DropoutLayer(path, rate, type(layer).__name__, False)))
    return found


def _drops(layer: Any) -> bool:
    """Say whether `training` governs dropout in this layer and nothing else."""
    if isinstance(layer, kl.Dropout | kl.GaussianDropout | kl.AlphaDropout):
        return True
    kind = type(layer).__name__
    return not layer.weights and not _children(layer) and ("drop" in kind.lower() or kind == "StochasticDepth")


def _attends(layer: Any) -> bool:
    return isinstance(layer, kl.Attention | kl.MultiHeadAttention | kl.GroupQueryAttention)


def _is_cell(layer: Any) -> bool:
    return hasattr(layer, "get_dropout_mask") and hasattr(layer, "recurrent_dropout") and hasattr(layer, "state_size")


def _turned_on(layer: Any) -> bool:
    """Say whether `mc_mode` gives this layer `training=True`; attention layers do their dropout in a sublayer."""
    if isinstance(layer, kl.RNN):
        # The fused loops of these classes do not call the cell.
        return type(layer) is not kl.RNN and _is_cell(layer.cell)
    return _is_cell(layer) or _drops(layer) or isinstance(layer, kl.Attention)


def _with(place: DropoutLayer, active: bool) -> DropoutLayer:
    return DropoutLayer(place.path, place.rate, place.kind, active and place.rate != 0)


def _owners(draw: Draw, places: list[tuple[Any, DropoutLayer]]) -> list[DropoutLayer]:
    """Return the places whose draw it is: around it, or the cells of the recurrent layer that makes their masks."""
    path, rate, _ = draw
    owners = [
        place
        for layer, place in places
        if path == place.path
        or path.startswith(place.path + "/")
        or (_is_cell(layer) and place.path.startswith(path + "/"))
    ]
    same = [place for place in owners if rate is not None and place.rate is not None and abs(place.rate - rate) < 1e-6]
    return same or owners


def _tracked(model: Any) -> dict[str, Any]:
    return {path: layer for path, layer in _paths(model).items() if isinstance(layer, kl.BatchNormalization)}


def _array(value: Any) -> Array:
    tensor = keras.ops.convert_to_tensor(value)
    # NumPy warns of Keras's own conversion of TensorFlow's tensors.
    on_tensorflow = keras.backend.backend() == "tensorflow"
    array = np.array(tensor.numpy() if on_tensorflow else keras.ops.convert_to_numpy(tensor))
    return array.astype(np.float32) if array.dtype.kind == "V" or "bfloat16" in str(array.dtype) else array


def _seed_states(model: Any) -> list[Any]:
    states = {id(sg.state): sg.state for layer in _paths(model).values() for sg in layer._seed_generators}
    with suppress(ImportError):
        from keras.src.random.seed_generator import global_seed_generator

        shared = global_seed_generator().state
        states[id(shared)] = shared
    return list(states.values())


def _weights(layer: Any, prefix: str) -> Iterator[tuple[str, Array]]:
    children = _children(layer)
    of_children = {id(weight) for child in children for weight in child.weights}
    names: dict[str, int] = {}
    for weight in layer.weights:
        if id(weight) not in of_children:
            yield prefix + _numbered(weight.name, names), _array(weight)
    for child in children:
        made_up = _snake_case(type(child).__name__)
        stem = made_up if re.fullmatch(rf"{made_up}(_\d+)?", child.name) else child.name
        yield from _weights(child, f"{prefix}{_numbered(stem, names)}/")


def _numbered(stem: str, names: dict[str, int]) -> str:
    names[stem] = names.get(stem, -1) + 1
    return f"{stem}_{names[stem]}" if names[stem] else stem


def _snake_case(kind: str) -> str:
    return re.sub("([a-z])([A-Z])", r"\1_\2", re.sub("(.)([A-Z][a-z]+)", r"\1_\2", kind)).lower()


# --- running a model


def _run(model: Any, x: Any, what: str, **arguments: Any) -> Any:
    values = inputs(x)
    many = len(values) > 1 and not _takes(model, len(values))
    try:
        return model(list(values), **arguments) if many else model(*values, **arguments)
    except Exception as error:
        raise cannot_run(what, error) from error


def _takes(model: Any, count: int) -> bool:
    """Say whether `call` has as many arguments for inputs of their own."""
    if isinstance(model, keras.Sequential) or hasattr(model, "_run_through_graph"):
        return False
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    # The class's own: the instance's may be replaced for now.
    given = list(inspect.signature(type(model).call).parameters.values())[1:]
    return sum(p.kind in positional and p.name not in ("training", "mask") for p in given) >= count


def _with_training(layer: Any, training: bool) -> Callable[..., Any]:
    call = layer.call

    def forced(*args: Any, **kwargs: Any) -> Any:
        return call(*args, **{**kwargs, "training": training})

    forced.instead_of, forced.training = call, training  # type: ignore[attr-defined]
    return forced


def _as_written(layer: Any) -> Callable[..., Any]:
    """Return a layer's `call` without what `mc_mode` put around it."""
    call: Callable[..., Any] = layer.call
    while hasattr(call, "instead_of"):
        call = call.instead_of
    return call


@contextmanager
def _replaced(calls: Iterable[tuple[Any, Callable[..., Any]]]) -> Iterator[None]:
    """Put functions in place of the `call` of layers; these instances alone, past Keras's tracking of attributes."""
    before = []
    try:
        for layer, call in calls:
            before.append((layer, layer.__dict__.get("call")))
            layer.__dict__["call"] = call
        yield
    finally:
        for layer, call in reversed(before):
            if call is None:
                del layer.__dict__["call"]
            else:
                layer.__dict__["call"] = call


def _inference_moments(model: Any, layers: dict[str, Any], batches: Iterable[Any]) -> dict[str, Moments]:
    """Return the moments of what reaches each layer in inference, in the order in which the layers run."""
    moments: dict[str, Moments] = {}

    def collecting(path: str, layer: Any) -> Callable[..., Any]:
        call = _as_written(layer)

        def collect(x: Any, *args: Any, **kwargs: Any) -> Any:
            moments.setdefault(path, Moments()).add(_array(x), layer.axis)
            return call(x, *args, **kwargs)

        return collect

    every = ((layer, _as_written(layer)) for layer in _paths(model).values())
    watched = ((layer, collecting(path, layer)) for path, layer in layers.items())
    with preserved(model), _replaced(every), _replaced(watched):
        for number, batch in enumerate(batches):
            _run(model, batch, f"batch {number}")
    absent = [path for path in layers if path not in moments]
    if absent:
        raise ValueError(f"no batch reached {absent[0]!r}; give at least one batch that runs the whole model")
    return moments


class _Calls:
    """Watch the calls of every layer: the `training` that it got, and in a graph the operations that it made."""

    def __init__(self, paths: dict[str, Any]) -> None:
        self.training: dict[str, bool] = {}
        self.made: dict[tuple[str, str], str] = {}
        self._calls = _replaced((layer, self._watched(path, layer)) for path, layer in paths.items())

    def __enter__(self) -> _Calls:
        self._calls.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self._calls.__exit__(*error)

    def _watched(self, path: str, layer: Any) -> Callable[..., Any]:
        call = layer.call

        def watched(*args: Any, **kwargs: Any) -> Any:
            given = getattr(call, "training", kwargs.get("training"))
            self.training[path] = self.training.get(path, False) or bool(given)
            graph = _graph()
            before = len(graph.get_operations()) if graph is not None else 0
            result = call(*args, **kwargs)
            if graph is not None:
                # A sublayer has claimed its own already.
                for operation in graph.get_operations()[before:]:
                    self.made.setdefault((operation.name, operation.type), path)
            return result

        return watched


# --- TensorFlow's graph


class _NoGraph(Exception):
    pass


def _graph() -> Any:
    if keras.backend.backend() != "tensorflow":
        return None
    import tensorflow as tf

    return None if tf.executing_eagerly() else tf.compat.v1.get_default_graph()


def _graph_draws(model: Any, example: Any, paths: dict[str, Any], training: bool | None) -> list[Draw]:
    """Trace the model and return the draws on which its output depends: path, rate and kind."""
    import tensorflow as tf

    values = inputs(example)
    specs = [tf.TensorSpec(np.shape(value), tf.as_dtype(np.asarray(value).dtype)) for value in values]
    arguments = {} if training is None or not model._call_has_training_arg else {"training": training}
    function = tf.function(lambda *tensors: _run(model, tensors, "the example", **arguments), autograph=False)
    try:
        with _Calls(paths) as calls:
            graph = function.get_concrete_function(*specs).graph
    except Exception as error:
        raise _NoGraph from error
    functions = {each.signature.name: each for each in graph.as_graph_def(add_shapes=False).library.function}
    needed = _needed([output.op for output in graph.outputs], lambda op: [tensor.op for tensor in op.inputs])
    draws: dict[Draw, None] = {}
    for operation in needed:
        path = calls.made.get((operation.name, operation.type), "")
        if _is_draw(operation.type):
            rate = _compared_with(operation, set(needed))
            draws[(path, rate, "random draw" if rate is None else "functional dropout")] = None
        for callee in _callees(operation.node_def):
            for kind, owner in _inner_draws(callee, functions, path, calls.made, set()):
                draws[(owner, None, kind)] = None
    return list(draws)


def _is_draw(kind: str) -> bool:
    return bool(RANDOM.match(kind)) and not SEEDS.match(kind)


def _needed(roots: Iterable[Any], before: Callable[[Any], Iterable[Any]]) -> dict[Any, None]:
    """Return everything that the roots depend on, and the roots."""
    found: dict[Any, None] = {}
    waiting = list(roots)
    while waiting:
        node = waiting.pop()
        if node not in found:
            found[node] = None
            waiting.extend(before(node))
    return found


def _callees(node: Any) -> Iterator[str]:
    for attribute in node.attr.values():
        if attribute.HasField("func"):
            yield attribute.func.name
        for function in attribute.list.func:
            yield function.name


def _inner_draws(
    name: str, functions: dict[str, Any], path: str, made: dict[tuple[str, str], str], seen: set[str]
) -> Iterator[tuple[str, str]]:
    """Return kind and path of the draws on which a function of the graph's library depends, callees included."""
    if name not in functions or name in seen:
        return
    seen.add(name)
    definition = functions[name]
    nodes = {node.name: node for node in definition.node_def}

    def before(node: str) -> list[str]:
        return [source for value in nodes[node].input if (source := value.split(":")[0]) in nodes]

    roots = [source for value in definition.ret.values() if (source := value.split(":")[0]) in nodes]
    for key in _needed(roots, before):
        node = nodes[key]
        owner = made.get((node.name, node.op), path)
        if _is_draw(node.op):
            yield "random draw", owner
        for callee in _callees(node):
            yield from _inner_draws(callee, functions, owner, made, seen)


def _compared_with(operation: Any, needed: set[Any], depth: int = 5) -> float | None:
    """Return the rate of the mask that a uniform draw is made into: kept where it is at least the rate."""
    import tensorflow as tf

    for tensor in operation.outputs:
        for consumer in tensor.consumers():
            if consumer.type in ("GreaterEqual", "Greater", "Less", "LessEqual"):
                left = consumer.inputs[0].op is operation
                value = tf.get_static_value(consumer.inputs[1] if left else consumer.inputs[0])
                if value is None or np.ndim(value):
                    continue
                kept_above = consumer.type.startswith("Greater") == left
                return round(float(value if kept_above else 1 - value), 6)
            if depth and consumer in needed and consumer.type in ("Mul", "Add", "AddV2", "Sub", "Cast", "Identity"):
                rate = _compared_with(consumer, needed, depth - 1)
                if rate is not None:
                    return rate
    return None


# --- without a graph


def _by_running_twice(
    model: Any, example: Any, places: list[tuple[Any, DropoutLayer]], asked: dict[str, bool]
) -> DropoutLayers:
    """Compare two seeds; a difference that no layer's own `training` explains is functional dropout somewhere."""
    layers = tuple(_with(place, asked.get(place.path, False)) for _, place in places)
    first, second = (predict(model, example, seed=seed) for seed in (1, 2))
    differs = not np.array_equal(first, second, equal_nan=first.dtype.kind == "f")
    functional: tuple[DropoutLayer, ...] = ()
    if differs and not any(layer.active for layer in layers):
        functional = (DropoutLayer("", None, "random draw", True),)
    return DropoutLayers(layers, functional, "running twice")
