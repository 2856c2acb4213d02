"""What leaves each framework, run where it is served: ONNX Runtime, torch.export, SavedModel and jax.export.

Three healthy architectures go down every route. Each program is written to disk, read back and called with batches of
1 and 256 rows; its outputs are those of its source within 1e-5, and of rows sent one at a time.

A program is *alive* if it can draw: an operator that PyTorch tags as seeded randomness and that is not told to train,
an ONNX Dropout whose `training_mode` is true or a Random operator, a TensorFlow operator with Random in its name, a
call of JAX's generator. Every rule is shown a program in training mode as well, which it must find alive.
"""

from __future__ import annotations

import contextlib
import io
import logging
import re
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.frameworks import models

TOLERANCE = 1e-5
ROWS = (1, 256)
ROUTES = {
    "torch.export": "pytorch",
    "PyTorch to ONNX": "pytorch",
    "SavedModel": "keras",
    "Keras to ONNX": "keras",
    "jax.export of nnx": "flax",
    "jax.export of linen": "linen",
}
EACH = [(route, architecture) for route in ROUTES for architecture in models.ARCHITECTURES]
Function = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Program:
    """A served program: what it and its source compute, its operators, whether it can draw, and where its files are."""

    call: Function
    source: Function
    operators: tuple[str, ...]
    alive: bool
    folder: Path


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep what exporters print, log and warn about out of the tests."""
    hidden = io.StringIO()
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(hidden), contextlib.redirect_stderr(hidden):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(logging.NOTSET)


def lived_in() -> Callable[[Any], np.ndarray]:
    """Return a function that moves every number of an array, so that no two arrays are alike and none is zero."""
    rng = np.random.default_rng(0)

    def changed(array: Any) -> np.ndarray:
        values = np.asarray(array)
        noise = rng.uniform(0.01, 0.1, values.shape)
        return (values * (1 + noise) + (0.1 * noise if np.ptp(values) == 0 else 0)).astype(values.dtype)

    return changed


# --- PyTorch


def run_torch(module: Any) -> Function:
    import torch

    def call(x: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            result: np.ndarray = module(torch.from_numpy(x)).numpy()
        return result

    return call


def torch_program(model: Any, x: np.ndarray) -> Any:
    """Return the ExportedProgram of a module in the mode it has now, for any number of rows."""
    import torch

    rows = torch.export.Dim("rows", max=1024)
    with quiet():
        return torch.export.export(model, (torch.from_numpy(x),), dynamic_shapes=({0: rows},))


def torch_draws(program: Any) -> list[str]:
    import torch

    found = []
    for node in program.graph.nodes:
        if node.op != "call_function" or torch.Tag.nondeterministic_seeded not in getattr(node.target, "tags", ()):
            continue
        name = str(node.target)
        if "scaled_dot_product" in name:
            values = dict(zip([a.name for a in node.target._schema.arguments], node.args, strict=False)) | node.kwargs
            if values.get("dropout_p", 0.0) == 0.0:
                continue
        elif "dropout" in name and node.args[-1] is False:
            continue
        found.append(name)
    return found


def by_torch_export(model: Any, x: np.ndarray, folder: Path) -> Program:
    import torch

    program = torch_program(model, x)
    with quiet():
        torch.export.save(program, folder / "model.pt2")
        loaded = torch.export.load(folder / "model.pt2")
    operators = tuple(str(node.target) for node in loaded.graph.nodes if node.op == "call_function")
    return Program(run_torch(loaded.module()), run_torch(model), operators, bool(torch_draws(loaded)), folder)


# --- ONNX


def run_onnx(path: Path, **options: Any) -> Function:
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"], **options)
    [name] = [given.name for given in session.get_inputs()]

    def call(x: np.ndarray) -> np.ndarray:
        result: np.ndarray = session.run(None, {name: x})[0]
        return result

    return call


def onnx_operators(path: Path) -> tuple[tuple[str, ...], list[str]]:
    """Return all operators of a file, and those that draw."""
    import onnx

    graph = onnx.load(path).graph
    values = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer}
    draws = []
    for node in graph.node:
        training = node.op_type == "Dropout" and len(node.input) > 2 and values.get(node.input[2], np.True_)
        if training or "Random" in node.op_type:
            draws.append(node.op_type)
    return tuple(node.op_type for node in graph.node), draws


def torch_to_onnx(model: Any, x: np.ndarray, path: Path, **options: Any) -> None:
    import torch

    with quiet():
        torch.onnx.export(
            model,
            (torch.from_numpy(x),),
            path,
            dynamo=True,
            verbose=False,
            dynamic_shapes=({0: torch.export.Dim("rows", max=1024)},),
            **options,
        )


def by_torch_and_onnx(model: Any, x: np.ndarray, folder: Path) -> Program:
    torch_to_onnx(model, x, folder / "model.onnx")
    operators, draws = onnx_operators(folder / "model.onnx")
    return Program(run_onnx(folder / "model.onnx"), run_torch(model), operators, bool(draws), folder)


# --- Keras


def run_keras(model: Any) -> Function:
    def call(x: np.ndarray) -> np.ndarray:
        return np.asarray(model(x, training=False))

    return call


def by_saved_model(model: Any, x: np.ndarray, folder: Path, training: bool = False) -> Program:
    import keras
    import tensorflow as tf

    archive = keras.export.ExportArchive()
    archive.track(model)
    signature = [tf.TensorSpec((None, *x.shape[1:]), tf.float32)]
    archive.add_endpoint("serve", lambda rows: model(rows, training=training), input_signature=signature)
    with quiet():
        if training:
            archive.write_out(folder, verbose=False)
        else:
            model.export(folder, verbose=False)
    loaded = tf.saved_model.load(folder)
    [function] = loaded.serve.concrete_functions
    operators = tuple(operator.type for operator in function.graph.get_operations())
    draws = [operator for operator in operators if "Random" in operator]

    def call(x: np.ndarray) -> np.ndarray:
        result: np.ndarray = loaded.serve(x).numpy()
        return result

    return Program(call, run_keras(model), operators, bool(draws), folder)


def keras_to_onnx(model: Any, x: np.ndarray, path: Path) -> None:
    with quiet():
        model(x)
        model.export(path, format="onnx", verbose=False)


def by_keras_and_onnx(model: Any, x: np.ndarray, folder: Path) -> Program:
    keras_to_onnx(model, x, folder / "model.onnx")
    operators, draws = onnx_operators(folder / "model.onnx")
    return Program(run_onnx(folder / "model.onnx"), run_keras(model), operators, bool(draws), folder)


# --- JAX


def run_jax(function: Any) -> Function:
    import jax

    source = jax.jit(function)
    return lambda x: np.asarray(source(x))


def jax_program(function: Any, x: np.ndarray) -> Any:
    import jax
    from jax import export

    rows = export.symbolic_shape("rows, " + ", ".join(map(str, x.shape[1:])))
    return export.export(jax.jit(function))(jax.ShapeDtypeStruct(rows, x.dtype))


def jax_operators(program: Any) -> tuple[str, ...]:
    return tuple(re.findall(r"stablehlo\.\w+|call @\w+", program.mlir_module()))


def by_jax_export(function: Any, x: np.ndarray, folder: Path) -> Program:
    import jax
    from jax import export

    (folder / "model.jaxexport").write_bytes(jax_program(function, x).serialize())
    loaded = export.deserialize(bytearray((folder / "model.jaxexport").read_bytes()))
    operators = jax_operators(loaded)
    draws = [operator for operator in operators if re.search(r"threefry|rng_bit_generator", operator)]
    call = jax.jit(loaded.call)
    return Program(lambda x: np.asarray(call(x)), run_jax(function), operators, bool(draws), folder)


def linen_function(architecture: str, train: bool = False) -> tuple[Any, dict[str, np.ndarray]]:
    """Return a function of one input, as linen models are served, and its parameters."""
    import jax

    module = models.linen_module(architecture)
    x = models.images("linen", architecture)
    changed = lived_in()
    variables = module.init(jax.random.key(0), x, train=False)
    variables = jax.tree.map(lambda leaf: jax.numpy.asarray(changed(leaf)), variables)

    def function(x: Any) -> Any:
        if not train:
            return module.apply(variables, x, train=False)
        return module.apply(variables, x, train=True, rngs={"dropout": jax.random.key(1)}, mutable=["batch_stats"])[0]

    leaves = jax.tree_util.tree_leaves_with_path(variables)
    return function, {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in leaves}


# --- every route


def program(route: str, architecture: str, folder: Path) -> tuple[Program, dict[str, np.ndarray]]:
    """Send one healthy model down a route; return its program, and the arrays of its checkpoint by name."""
    framework = ROUTES[route]
    x = models.images(framework, architecture, 4)
    if framework == "linen":
        function, arrays = linen_function(architecture)
        return by_jax_export(function, x, folder), arrays
    model = models.healthy(framework, architecture)
    changed = lived_in()
    if framework == "pytorch":
        import torch

        arrays = {name: changed(tensor.numpy()) for name, tensor in model.state_dict().items() if tensor.ndim}
        model.load_state_dict({name: torch.from_numpy(array) for name, array in arrays.items()}, strict=False)
    elif framework == "keras":
        model.set_weights([changed(weight) for weight in model.get_weights()])
        arrays = {weight.path: weight.numpy() for weight in model.weights}
    else:
        import jax
        from flax import nnx

        state = nnx.state(model, nnx.Any(nnx.Param, nnx.BatchStat))
        nnx.update(model, jax.tree.map(lambda leaf: jax.numpy.asarray(changed(leaf)), state))
        arrays = nnx_arrays(model)
    write = {
        "torch.export": by_torch_export,
        "PyTorch to ONNX": by_torch_and_onnx,
        "SavedModel": by_saved_model,
        "Keras to ONNX": by_keras_and_onnx,
        "jax.export of nnx": by_jax_export,
    }[route]
    return write(model, x, folder), arrays


def nnx_arrays(model: Any) -> dict[str, np.ndarray]:
    import jax
    from flax import nnx

    state = nnx.to_pure_dict(nnx.state(model, nnx.Any(nnx.Param, nnx.BatchStat)))
    return {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(state)}


def missing(arrays: dict[str, np.ndarray], folder: Path) -> list[str]:
    """Return the arrays whose bytes are nowhere in the files of a folder, neither as they are nor transposed."""
    written = b"".join(path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file())
    return [
        name
        for name, array in arrays.items()
        if array.tobytes() not in written and np.ascontiguousarray(array.T).tobytes() not in written
    ]


@pytest.fixture(scope="module", params=EACH, ids=lambda pair: f"{pair[0]}-{pair[1]}".replace(" ", "-"))
def served(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[str, str, Program, dict[str, np.ndarray]]:
    route, architecture = request.param
    return route, architecture, *program(route, architecture, tmp_path_factory.mktemp("served"))


@pytest.mark.claim("exports-within-1e-5")
def test_a_served_program_gives_the_outputs_of_its_source(served: Any) -> None:
    route, architecture, served_program, _ = served
    for rows in ROWS:
        x = models.images(ROUTES[route], architecture, rows)
        expected = served_program.source(x)
        assert expected.shape == (rows, models.CLASSES)
        assert expected.std() > 0.01, "the model says something"
        assert np.abs(served_program.call(x) - expected).max() < TOLERANCE


@pytest.mark.claim("exports-within-1e-5")
def test_a_row_does_not_depend_on_its_batch(served: Any) -> None:
    route, architecture, served_program, _ = served
    x = models.images(ROUTES[route], architecture, 16)
    alone = np.concatenate([served_program.call(x[i : i + 1]) for i in range(len(x))])
    assert np.abs(alone - served_program.call(x)).max() < TOLERANCE


@pytest.mark.claim("exported-programs-cannot-draw")
def test_a_program_exported_in_evaluation_mode_cannot_draw(served: Any) -> None:
    _, _, served_program, _ = served
    assert served_program.operators
    assert not served_program.alive


@pytest.mark.claim("weights-byte-for-byte")
@pytest.mark.claim("deployment-is-trivial")
def test_the_files_hold_the_arrays_of_the_checkpoint_byte_for_byte(served: Any) -> None:
    """Except what an exporter computes: ONNX routes fold BatchNorm into what stands before it."""
    route, architecture, served_program, arrays = served
    assert len(arrays) >= 6
    absent = missing(arrays, served_program.folder)
    if route == "PyTorch to ONNX" and architecture == "cnn":
        assert absent == [name for name in arrays if name.startswith(("0.", "1.", "3.", "4."))], (
            "both convolutions with the BatchNorm behind them"
        )
    elif route == "Keras to ONNX" and architecture == "cnn":
        assert absent, "BatchNorm became a factor and a sum"
        assert all("norm" in name or "conv" in name for name in absent)
    elif route == "PyTorch to ONNX" and architecture == "transformer":
        # Weights of the attention are cut into three.
        assert all("in_proj" in name for name in absent)
    else:
        assert absent == []


# --- programs in training mode: the rules above can find something


def alive_program(route: str, architecture: str, folder: Path) -> Program:
    """Send a model down a route with its dropout on."""
    framework = ROUTES[route]
    x = models.images(framework, architecture, 4)
    if framework == "linen":
        return by_jax_export(linen_function(architecture, train=True)[0], x, folder)
    model = models.healthy(framework, architecture)
    if framework == "pytorch":
        write = by_torch_export if route == "torch.export" else by_torch_and_onnx
        return write(model.train(), x, folder)
    if route == "SavedModel":
        return by_saved_model(model, x, folder, training=True)
    from flax import nnx

    model.train()
    return by_jax_export(lambda x: nnx.clone(model)(x), x, folder)


def keras_with_dropout_on(architecture: str) -> Any:
    import keras

    model = models.healthy("keras", architecture)
    inputs = keras.Input(models.SHAPES[architecture])
    return keras.Model(inputs, model(inputs, training=True))


@pytest.mark.claim("exported-programs-cannot-draw")
@pytest.mark.parametrize(("route", "architecture"), [pair for pair in EACH if pair[0] != "Keras to ONNX"])
def test_a_program_exported_in_training_mode_is_found_alive(route: str, architecture: str, tmp_path: Path) -> None:
    assert alive_program(route, architecture, tmp_path).alive


@pytest.mark.claim("exported-programs-cannot-draw")
@pytest.mark.claim("twice-the-same-is-no-proof")
@pytest.mark.parametrize("architecture", models.ARCHITECTURES)
def test_the_keras_route_writes_a_file_with_dropout_that_onnx_runtime_refuses(
    architecture: str, tmp_path: Path
) -> None:
    x = models.images("keras", architecture, 4)
    keras_to_onnx(keras_with_dropout_on(architecture), x, tmp_path / "model.onnx")
    _, draws = onnx_operators(tmp_path / "model.onnx")
    assert set(draws) == {"StatelessRandomUniformV2"}
    with pytest.raises(Exception, match="StatelessRandomUniformV2"):
        run_onnx(tmp_path / "model.onnx")
