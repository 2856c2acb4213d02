"""Exported programs: read a file, say what its graph does, and run it. Each kind imports only the packages it needs.

| file | read and run by |
|---|---|
| `.keras` | Keras, with safe_mode |
| a SavedModel (a folder) | TensorFlow |
| `.onnx` | onnx and ONNX Runtime |
| `.pt2`, from `torch.export.save` | `dropoutlib.frameworks.pt2` and PyTorch |
| `.jaxexport`, the bytes of `jax.export.Exported.serialize()` | JAX |

Nothing is ever unpickled: files that would have to be are refused. But a SavedModel, an ONNX file and the others are
programs, and checking one runs its operations, so only files from somebody you trust belong here.
"""

from __future__ import annotations

import importlib
import json
import re
import sys
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dropoutlib.frameworks.protocol import Array

__all__ = ["CannotCheck", "Input", "Program", "Reference", "arrays", "exported", "kind", "load", "reference"]

KINDS = {
    ".keras": "Keras",
    ".onnx": "ONNX",
    ".pt2": "torch.export",
    ".jaxexport": "jax.export",
}
SAVED_MODEL = "SavedModel"
_TORCH = "torch.export.save(torch.export.export(model.eval(), (x,)), 'model.pt2')"
_REFUSED = {
    **dict.fromkeys([".pt", ".pth", ".bin", ".ckpt"], f"in PyTorch write {_TORCH}"),
    **dict.fromkeys([".pkl", ".pickle", ".joblib", ".dill"], "export the model to ONNX with its library's converter"),
    **dict.fromkeys([".h5", ".hdf5"], "in Keras write model.save('model.keras')"),
}


class CannotCheck(ValueError):
    """A file, or a program, that cannot be checked; the message says what it is and what to do."""


@dataclass(frozen=True)
class Input:
    """One input of a program; None stands for what is free: a length, the whole shape, or the dtype."""

    name: str
    shape: tuple[int | None, ...] | None
    dtype: np.dtype[Any] | None

    def __str__(self) -> str:
        sides = "?" if self.shape is None else ", ".join("any" if side is None else str(side) for side in self.shape)
        return f"'{self.name}' of shape ({sides}) and dtype {self.dtype or 'any'}"


@dataclass(frozen=True)
class Program:
    """What is known of an exported program, and how to run it.

    Parameters
    ----------
    kind : str
        What made it.
    inputs : tuple of Input
    operations : int
        Number of nodes in its graph.
    random, batch_statistics, unknown : tuple of str
        Operations that draw, those that normalise by the batch's own statistics, and those that cannot be looked into.
    parameters : mapping of str to array
    named : bool
        Whether parameters have the names that they have in the model.
    runner : callable
        Takes a list of arrays and gives the outputs.
    training : tuple of str
        Modules in training mode, where traced code still asks for the mode.
    """

    kind: str
    inputs: tuple[Input, ...]
    operations: int
    random: tuple[str, ...]
    batch_statistics: tuple[str, ...]
    parameters: Mapping[str, Array]
    named: bool
    runner: Callable[[Sequence[Array]], list[Array]]
    unknown: tuple[str, ...] = ()
    training: tuple[str, ...] = ()

    def run(self, xs: Sequence[Array]) -> list[Array]:
        """Return the outputs.

        Raises
        ------
        CannotCheck
            If the program fails on these inputs.
        """
        try:
            return [np.asarray(y) for y in self.runner(xs)]
        except CannotCheck:
            raise
        except Exception as error:
            shapes = ", ".join(str(x.shape) for x in xs)
            raise CannotCheck(f"the program fails on inputs of shape {shapes}: {_first_line(error)}") from error

    def arguments(self, example: Any) -> list[Array]:
        """Return the arrays of an example in the order of the inputs, after checking them.

        Raises
        ------
        CannotCheck
            If there are too few or too many, or one has another shape or dtype.
        """
        return _arguments(self.inputs, example)


@dataclass(frozen=True)
class Reference:
    """Parameters that a model should have, and whether their names are the model's own."""

    arrays: Mapping[str, Array]
    named: bool = True


def kind(path: str | Path) -> str:
    """Return what kind of file this is, without reading more than its first bytes and its list of contents.

    Raises
    ------
    CannotCheck
        If it does not exist, is empty, is a pickle, or is of no kind that can be checked.
    """
    path = Path(path)
    if path.is_dir():
        if (path / "saved_model.pb").is_file():
            return SAVED_MODEL
        raise CannotCheck(
            f"{path} is a folder without saved_model.pb, so it is no SavedModel; write one with model.export"
        )
    if not path.is_file():
        raise CannotCheck(f"there is no file {path}; check the name")
    with path.open("rb") as file:
        head = file.read(8)
    if not head:
        raise CannotCheck(f"{path} is empty; export the model again")
    suffix = path.suffix.lower()
    if suffix in _REFUSED:
        raise CannotCheck(
            f"{path} is not opened: {suffix} files hold Python objects or code, and opening one can run anything; "
            f"{_REFUSED[suffix]} and check that file"
        )
    if _pickled(path, head):
        raise CannotCheck(
            f"{path} is a pickle, which is not opened: opening one can run anything; export the model instead, "
            f"in PyTorch with {_TORCH}"
        )
    if suffix not in KINDS:
        known = ", ".join([*KINDS, "a SavedModel folder"])
        raise CannotCheck(f"{path} is of no kind that can be checked; these are: {known}")
    return KINDS[suffix]


def load(path: str | Path) -> Any:
    """Return the program in a file, or for a `.keras` file the Keras model.

    Raises
    ------
    CannotCheck
        If it cannot be read; a package that is missing is named with the command that installs it.
    """
    path = Path(path)
    readers = {"Keras": _keras, SAVED_MODEL: _saved_model, "ONNX": _onnx, "torch.export": _pt2, "jax.export": _jax}
    found = kind(path)
    try:
        return readers[found](path)
    except CannotCheck:
        raise
    except Exception as error:
        raise CannotCheck(
            f"{path} cannot be read as a {found} file, it may be damaged ({_first_line(error)}); export it again"
        ) from error


def exported(program: Any) -> Program | None:
    """Return the program that a framework holds in memory, or None if this is no exported program."""
    packages = {(base.__module__.partition(".")[0], base.__name__) for base in type(program).__mro__}
    if packages & {("torch", "ExportedProgram"), ("torch", "ScriptModule")}:
        pt2 = importlib.import_module("dropoutlib.frameworks.pt2")
        script = ("torch", "ScriptModule") in packages
        found: Program = pt2.from_script(program) if script else pt2.from_exported(program)
        return found
    if ("onnx", "ModelProto") in packages or type(program).__name__ == "ModelProto":
        return _onnx(program)
    if ("jax", "Exported") in packages:
        return _jax(program)
    if ("tensorflow", "ConcreteFunction") in packages or _is_loaded(program):
        return _saved_model(program)
    return None


def arrays(path: str | Path, what: str = "example") -> dict[str, Array]:
    """Return the arrays of an `.npz` file.

    Raises
    ------
    CannotCheck
        If it cannot be read, holds nothing, or holds Python objects.
    """
    path = Path(path)
    mend = f"write the {what} with numpy.savez"
    if not path.is_file():
        raise CannotCheck(f"there is no file {path}; check the name of the {what}")
    if not zipfile.is_zipfile(path):
        raise CannotCheck(f"{path} is no .npz file; {mend}")
    found = {}
    try:
        with np.load(path, allow_pickle=False) as stored:
            for name in stored.files:
                try:
                    found[name] = stored[name]
                except ValueError as error:
                    if "allow_pickle" not in str(error):
                        raise
                    raise CannotCheck(
                        f"'{name}' in {path} holds Python objects, which are pickled and not opened; {mend}, with "
                        "arrays of numbers alone"
                    ) from error
    except CannotCheck:
        raise
    except Exception as error:
        raise CannotCheck(f"{path} cannot be read, it may be damaged ({_first_line(error)}); {mend}") from error
    strange = [name for name, array in found.items() if not isinstance(array, np.ndarray)]
    if strange or not found:
        what = f"'{strange[0]}', which is no array" if strange else "no array"
        raise CannotCheck(f"{path} holds {what}; {mend}")
    return found


def reference(source: Any) -> Reference:
    """Return reference parameters.

    Parameters
    ----------
    source : mapping of str to array, str, Path, or model
        The path is of an `.npz`, `.keras` or Keras `.weights.h5` file; the last has names of its own.

    Raises
    ------
    CannotCheck
        If the file cannot be read.
    """
    if isinstance(source, Reference):
        return source
    if isinstance(source, Mapping):
        return Reference({name: np.asarray(array) for name, array in source.items()})
    if not isinstance(source, str | Path):
        from dropoutlib.frameworks import adapter

        return Reference(adapter(source).parameters(source))
    path = Path(source)
    if not path.is_file():
        raise CannotCheck(f"there is no file {path}; check the name of the checkpoint")
    if path.name.endswith(".weights.h5"):
        return Reference(_weights(path), named=False)
    if path.suffix.lower() == ".keras":
        return reference(load(path))
    if path.suffix.lower() != ".npz":
        raise CannotCheck(
            f"{path} is no checkpoint that is read here; these are: .npz, .keras, .weights.h5. In PyTorch write "
            "numpy.savez('checkpoint.npz', **{name: t.numpy() for name, t in model.state_dict().items()})"
        )
    return Reference(arrays(path, "checkpoint"))


def model_arguments(model: Any, example: Mapping[str, Array]) -> list[Array]:
    """Return the arrays of an example in the order of a Keras model's inputs; other models take them as they come."""
    inputs = getattr(model, "inputs", None)
    if not inputs:
        return [np.asarray(x) for x in example.values()]
    specs = tuple(Input(each.name, tuple(each.shape), np.dtype(each.dtype)) for each in inputs)
    return _arguments(specs, example)


# --- Keras


def _keras(path: Path) -> Any:
    with zipfile.ZipFile(path) as archive:
        for found in _objects(json.loads(archive.read("config.json"))):
            name, module = str(found["class_name"]), str(found.get("module") or "")
            if name in ("__lambda__", "Lambda"):
                raise CannotCheck(
                    f"{path} holds a Lambda layer, which can be Python code and is not run; use a layer class"
                )
            custom = found.get("registered_name") not in (None, name) or not module.startswith(("keras", "builtins"))
            if "registered_name" in found and custom and not name.startswith("__"):
                raise CannotCheck(
                    f"{path} holds '{name}', a class of your own; import its code and the model in Python and call "
                    "dropoutlib.frameworks.keras.deployment_check"
                )
    keras = _need("keras", "Keras", "keras tensorflow")
    return keras.saving.load_model(path, compile=False, safe_mode=True)


def _objects(config: Any) -> Iterator[dict[str, Any]]:
    """Return every object that a Keras configuration describes, at any depth."""
    if isinstance(config, dict):
        if "class_name" in config:
            yield config
        for value in config.values():
            yield from _objects(value)
    elif isinstance(config, list):
        for value in config:
            yield from _objects(value)


def _weights(path: Path) -> dict[str, Array]:
    h5py = _need("h5py", "A .weights.h5 file", "h5py")
    found: dict[str, Array] = {}

    def visit(name: str, item: Any) -> None:
        if isinstance(item, h5py.Dataset) and not name.startswith("optimizer"):
            if item.external or item.is_virtual:
                raise CannotCheck(
                    f"'{name}' in {path} points to another file, which is not opened; save the weights again"
                )
            found[name] = item[()]

    try:
        with h5py.File(path) as file:
            file.visititems(visit)
    except OSError as error:
        raise CannotCheck(f"{path} cannot be read, it may be damaged ({_first_line(error)}); save it again") from error
    return found


# --- SavedModel


# Operations whose code the graph does not show.
_UNSEEN = ("PyFunc", "PyFuncStateless", "EagerPyFunc", "XlaCallModule")
_DRAWS = re.compile(r"Random|Multinomial|TruncatedNormal|^Rng|Dropout")


def _saved_model(source: Any) -> Program:
    tensorflow = _need("tensorflow", "A SavedModel", "tensorflow")
    function = source
    if isinstance(source, Path):
        function = tensorflow.saved_model.load(str(source))
    if _is_loaded(function):
        signatures, holder = function.signatures, function
        if "serving_default" not in signatures and len(signatures) != 1:
            raise CannotCheck(
                f"the SavedModel has signatures {sorted(signatures)} and no serving_default; write it with model.export"
            )
        function = signatures.get("serving_default") or next(iter(signatures.values()))
    else:
        holder = function
    positional, keyword = function.structured_input_signature
    specs = {**{spec.name: spec for spec in tensorflow.nest.flatten(positional)}, **keyword}
    nodes = list(_tensorflow_nodes(function.graph.as_graph_def()))

    def run(xs: Sequence[Array], held: Any = holder) -> list[Array]:
        tensors = [tensorflow.constant(x) for x in xs]
        results = function(*tensors) if positional else function(**dict(zip(specs, tensors, strict=True)))
        return [np.asarray(y) for y in tensorflow.nest.flatten(results)]

    return Program(
        kind=SAVED_MODEL,
        inputs=tuple(
            Input(name, _sides(spec.shape), np.dtype(spec.dtype.as_numpy_dtype)) for name, spec in specs.items()
        ),
        operations=len(nodes),
        random=tuple(dict.fromkeys(_tensorflow_draw(node) for node in nodes if _DRAWS.search(node.op))),
        batch_statistics=tuple(_tensorflow_batch(tensorflow, nodes)),
        unknown=tuple(f"{node.op} ({node.name})" for node in nodes if node.op in _UNSEEN),
        parameters={
            variable.name.removesuffix(":0"): np.asarray(variable)
            for variable in function.graph.variables
            if variable.dtype.is_floating
        },
        named=False,
        runner=run,
    )


def _is_loaded(program: Any) -> bool:
    return type(program).__module__.startswith("tensorflow.") and hasattr(program, "signatures")


def _sides(shape: Any) -> tuple[int | None, ...] | None:
    return None if shape.rank is None else tuple(shape.as_list())


def _tensorflow_nodes(graph: Any) -> Iterator[Any]:
    """Return the nodes of a graph and of every function that it reaches; the others do not run."""
    library = {function.signature.name: function.node_def for function in graph.library.function}
    waiting, seen = [graph.node], set()
    while waiting:
        for node in waiting.pop():
            yield node
            for value in node.attr.values():
                for called in [value.func.name, *(each.name for each in value.list.func)]:
                    if called in library and called not in seen:
                        seen.add(called)
                        waiting.append(library[called])


def _tensorflow_draw(node: Any) -> str:
    """Name a draw by the layer in which it happens; one dropout takes several operations."""
    scope, marked, _ = node.name.partition("/stateless_dropout/")
    return f"dropout ({scope})" if marked else f"{node.op} ({node.name})"


def _tensorflow_batch(tensorflow: Any, nodes: Sequence[Any]) -> Iterator[str]:
    constants = {node.name: node for node in nodes if node.op == "Const"}
    for node in nodes:
        if node.op.startswith("FusedBatchNorm") and "Grad" not in node.op and node.attr["is_training"].b:
            yield f"{node.op} ({node.name})"
        # tf.nn.moments over axis 0; a layer normalisation takes other axes.
        axes = constants.get(node.input[1].partition(":")[0]) if node.op == "Mean" and len(node.input) > 1 else None
        over_rows = axes is not None and 0 in np.ravel(tensorflow.make_ndarray(axes.attr["value"].tensor))
        if over_rows and node.name.endswith("moments/variance"):
            yield f"moments over the batch ({node.name.removesuffix('/moments/variance')})"


# --- ONNX


_ONNX_DRAWS = {"Bernoulli", "Multinomial", "RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike"}
_ONNX_DOMAINS = ("", "ai.onnx", "ai.onnx.ml", "com.microsoft")


def _onnx(source: Any) -> Program:
    onnx = _need("onnx", "An ONNX file", "onnx onnxruntime")
    runtime = _need("onnxruntime", "An ONNX file", "onnx onnxruntime")
    model = onnx.load(source) if isinstance(source, Path) else source
    functions = [(function.node, function.name) for function in model.functions]
    nodes = [node for group, _ in [(model.graph.node, ""), *functions] for node in _onnx_nodes(group)]
    constants = {each.name: each for each in model.graph.initializer}
    for node in nodes:
        if node.op_type == "Constant":
            constants.update((node.output[0], each.t) for each in node.attribute if each.name == "value")

    def constant(name: str) -> Any:
        return onnx.numpy_helper.to_array(constants[name]).ravel()[0] if name in constants else True

    opset = max((each.version for each in model.opset_import if each.domain in ("", "ai.onnx")), default=1)
    random, by_batch = [], []
    for node in nodes:
        attributes = {each.name: each for each in node.attribute}
        label = f"{node.op_type} ({node.name or node.output[0]})"
        if node.op_type in _ONNX_DRAWS or (_DRAWS.search(node.op_type) and node.op_type != "Dropout"):
            random.append(label)
        elif node.op_type == "Dropout":
            asked = len(node.input) > 2 and node.input[2] and bool(constant(node.input[2]))
            rate = constant(node.input[1]) if len(node.input) > 1 and node.input[1] else 0.5
            if asked and rate != 0:
                random.append(label + (f" (p = {rate:.4g})" if not isinstance(rate, bool) else ""))
        elif node.op_type == "BatchNormalization":
            mode = attributes.get("training_mode")
            # From opset 7 to 13 the mode is told by outputs that only training has; ONNX Runtime takes nothing older.
            extra = opset < 14 and len([name for name in node.output if name]) > 1
            if (mode and mode.i) or extra:
                by_batch.append(label)
    types = onnx.helper.tensor_dtype_to_np_dtype
    own = {(function.domain, function.name) for function in model.functions}
    inputs = [each for each in model.graph.input if each.name not in constants]
    options = runtime.SessionOptions()
    options.log_severity_level = 4
    content = str(source) if isinstance(source, Path) else model.SerializeToString()
    try:
        session = runtime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    except Exception as error:
        if not (random or by_batch):
            raise
        # An exporter left a random operation of its framework in the graph: a finding, though nothing can run it.
        session, refusal = None, f"ONNX Runtime refuses it ({_first_line(error)})"

    def run(xs: Sequence[Array]) -> list[Array]:
        if session is None:
            raise CannotCheck(refusal)
        feed = {each.name: x for each, x in zip(inputs, xs, strict=True)}
        return [np.asarray(y) for y in session.run(None, feed)]

    return Program(
        kind="ONNX",
        inputs=tuple(
            Input(
                each.name,
                tuple(
                    side.dim_value if side.HasField("dim_value") else None for side in each.type.tensor_type.shape.dim
                )
                if each.type.tensor_type.HasField("shape")
                else None,
                np.dtype(types(each.type.tensor_type.elem_type)),
            )
            for each in inputs
        ),
        operations=len(nodes),
        random=tuple(random),
        batch_statistics=tuple(by_batch),
        unknown=tuple(
            f"{node.domain}.{node.op_type}"
            for node in nodes
            if node.domain not in _ONNX_DOMAINS and (node.domain, node.op_type) not in own
        ),
        parameters={
            name: onnx.numpy_helper.to_array(each, str(source.parent) if isinstance(source, Path) else "")
            for name, each in constants.items()
        },
        named=False,
        runner=run,
    )


def _onnx_nodes(nodes: Any) -> Iterator[Any]:
    for node in nodes:
        yield node
        for attribute in node.attribute:
            for graph in [attribute.g, *attribute.graphs]:
                yield from _onnx_nodes(graph.node)


# --- PyTorch and JAX


def _pt2(path: Path) -> Program:
    _need("torch", "A .pt2 file", "torch")
    pt2 = importlib.import_module("dropoutlib.frameworks.pt2")
    found: Program = pt2.from_file(path)
    return found


# What a draw looks like in StableHLO: the generators' operations, and the names that JAX gives to its own functions.
_JAX_DRAWS = re.compile(
    r"@_?(bernoulli|uniform|normal|gumbel|randint|shuffle|\w*threefry)\w*|(\w*rng_bit_generator|stablehlo\.rng)\b"
)


def _jax(source: Any) -> Program:
    jax = _need("jax", "A .jaxexport file", "jax")
    importlib.import_module("jax.export")
    program = jax.export.deserialize(bytearray(source.read_bytes())) if isinstance(source, Path) else source
    text = program.mlir_module()
    operations = re.findall(r"^\s*(?:%\S+ = )?\"?(?:stablehlo|chlo|func|call)\b.*$", text, re.MULTILINE)
    draws = {found for line in operations for pair in _JAX_DRAWS.findall(line) for found in pair if found}
    kept = list(zip(program.in_avals, range(len(program.in_avals)), strict=True))
    keys = [jax.numpy.issubdtype(aval.dtype, jax.dtypes.prng_key) for aval, _ in kept]

    call = jax.jit(program.call)  # compiles once for each shape

    def run(xs: Sequence[Array]) -> list[Array]:
        leaves = [jax.random.wrap_key_data(x) if key else x for x, key in zip(xs, keys, strict=True)]
        arguments, named = jax.tree_util.tree_unflatten(program.in_tree, leaves)
        return [np.asarray(y) for y in jax.tree_util.tree_leaves(call(*arguments, **named))]

    return Program(
        kind="jax.export",
        inputs=tuple(
            Input(f"argument {number}", None, np.dtype(np.uint32))
            if key
            else Input(
                f"argument {number}",
                tuple(side if isinstance(side, int) else None for side in aval.shape),
                np.dtype(aval.dtype),
            )
            for (aval, number), key in zip(kept, keys, strict=True)
        ),
        operations=len(operations),
        random=tuple(sorted(draws)),
        batch_statistics=(),
        parameters=_jax_constants(text),
        named=False,
        runner=run,
    )


def _jax_constants(text: str) -> dict[str, Array]:
    """Return the arrays that are written into the program; it keeps no names."""
    from jax.interpreters import mlir

    ir = importlib.import_module("jaxlib.mlir.ir")
    found: dict[str, Array] = {}

    def walk(operation: Any) -> None:
        for region in operation.regions:
            for block in region:
                for each in block:
                    if each.operation.name == "stablehlo.constant":
                        value = np.array(ir.DenseElementsAttr(each.operation.attributes["value"]))
                        found[f"constant {len(found)}"] = value
                    walk(each.operation)

    with mlir.make_ir_context():
        walk(ir.Module.parse(text).operation)
    return found


# --- Shared


def _arguments(inputs: Sequence[Input], example: Any) -> list[Array]:
    wanted = "; ".join(str(each) for each in inputs)
    if isinstance(example, Mapping):
        values = {name: np.asarray(x) for name, x in example.items()}
        named = all(each.name in values for each in inputs)
        if len(values) != len(inputs) or (len(inputs) > 1 and not named and not inputs[0].name.startswith("argument ")):
            raise CannotCheck(
                f"the example holds {', '.join(map(repr, values)) or 'nothing'}, and the program takes "
                f"{len(inputs)} {'input' if len(inputs) == 1 else 'inputs'}: {wanted}; save exactly these"
            )
        xs = [values[each.name] for each in inputs] if named else list(values.values())
    else:
        xs = [np.asarray(x) for x in (example if isinstance(example, tuple) else (example,))]
        if len(xs) != len(inputs):
            raise CannotCheck(f"the example holds {len(xs)} arrays, and the program takes {len(inputs)}: {wanted}")
    for each, x in zip(inputs, xs, strict=True):
        if each.shape is not None and (
            x.ndim != len(each.shape)
            or any(side not in (None, given) for side, given in zip(each.shape, x.shape, strict=True))
        ):
            raise CannotCheck(
                f"the example has shape {x.shape}, and the program takes {each}; save an example of that shape"
            )
        if each.dtype is not None and x.dtype != each.dtype:
            raise CannotCheck(
                f"the example has dtype {x.dtype}, and the program takes {each}; convert it: x.astype('{each.dtype}')"
            )
    return xs


def _pickled(path: Path, head: bytes) -> bool:
    """Tell a pickle by its first two bytes, and a zip archive that holds one by the name that PyTorch gives it."""
    if head[:1] == b"\x80" and 2 <= head[1] <= 5:
        return True
    if not head.startswith(b"PK") or not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
    return any(name.endswith(("data.pkl", ".pickle")) for name in names)


def _need(module: str, what: str, packages: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise CannotCheck(
            f"{what} is read with {module}, which is not installed; run: {sys.executable} -m pip install {packages}"
        ) from error


def _first_line(error: BaseException) -> str:
    return f"{type(error).__name__}: {(str(error).strip().splitlines() or ['no message'])[0][:300]}"
