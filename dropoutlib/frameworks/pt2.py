"""Read and run a `.pt2` file without unpickling: importing this imports PyTorch.

`torch.export.load` unpickles the example inputs that are stored in the file, evaluates the file's shape expressions as
Python, and calls any function of `torch` that the graph names. So the archive is read here: the graph is JSON, weights
are raw bytes, and of the operations only those of `torch.ops.aten` and arithmetic are called.
"""

from __future__ import annotations

import io
import itertools
import json
import math
import operator
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dropoutlib.frameworks.files import CannotCheck, Input, Program
from dropoutlib.frameworks.protocol import Array

# Numbers that the format gives to dtypes and memory formats (torch/_export/serde/schema.py).
_DTYPES = {
    **{1: torch.uint8, 2: torch.int8, 3: torch.int16, 4: torch.int32, 5: torch.int64, 6: torch.float16},
    **{7: torch.float32, 8: torch.float64, 10: torch.complex64, 11: torch.complex128, 12: torch.bool},
    13: torch.bfloat16,
}
_MEMORY_FORMATS = {
    1: torch.contiguous_format,
    2: torch.channels_last,
    3: torch.channels_last_3d,
    4: torch.preserve_format,
}
_STRIDED = 7
_SEEDS = itertools.count()
_ARITHMETIC = {
    **{f"_operator.{name}": getattr(operator, name) for name in ("add", "sub", "mul", "truediv", "floordiv", "mod")},
    **{f"_operator.{name}": getattr(operator, name) for name in ("neg", "pos", "pow", "getitem", "and_", "or_")},
    **{f"_operator.{name}": getattr(operator, name) for name in ("eq", "ne", "lt", "le", "gt", "ge")},
    **{f"math.{name}": getattr(math, name) for name in ("ceil", "floor", "trunc", "sqrt")},
    **{"torch.sym_int": int, "torch.sym_float": float, "torch.sym_max": max, "torch.sym_min": min},
    "torch.sym_not": operator.not_,
}
# Reads a file by its name.
_REFUSED = ("from_file",)


def from_file(path: Path) -> Program:
    """Return the program of a `.pt2` file.

    Raises
    ------
    CannotCheck
        If the file is damaged, holds pickled or compiled code, or uses operations that are not read here.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            return _program(archive)
    except (zipfile.BadZipFile, KeyError, IndexError, TypeError, ValueError, EOFError, AttributeError) as error:
        if isinstance(error, CannotCheck):
            raise
        raise CannotCheck(
            f"{path} is no sound .pt2 archive ({type(error).__name__}: {error}); write it again with torch.export.save"
        ) from error


def from_exported(program: torch.export.ExportedProgram) -> Program:
    """Return the program of an ExportedProgram, by way of the file that it would make."""
    buffer = io.BytesIO()
    torch.export.save(program, buffer)
    with zipfile.ZipFile(buffer) as archive:
        return _program(archive)


def from_script(module: torch.jit.ScriptModule) -> Program:
    """Return the program of a traced or scripted module in memory."""
    graph = module.inlined_graph
    random, by_batch, training, count = [], [], [], 0
    for node in _script_nodes(graph):
        count += 1
        if not node.kind().startswith("aten::"):
            continue
        operation = _from_schema(node)
        if operation is None:
            continue
        names = [argument.name for argument in operation._schema.arguments]
        given = dict(zip(names, [_script_value(value, module) for value in node.inputs()], strict=False))
        asks = [each for key in ("train", "training") if isinstance(each := given.get(key), _Mode)]
        plain = {key: each.on if isinstance(each, _Mode) else each for key, each in given.items()}
        label = f"{node.kind()}{_scope(node)}"
        if _draws(operation, plain):
            random.append(label + _rate(plain))
        if _normalises_by_batch(operation, plain):
            by_batch.append(label)
        training += [each.path for each in asks if each.on]

    def run(xs: Sequence[Array]) -> list[Array]:
        kept = {name: tensor.clone() for name, tensor in module.state_dict().items()}
        try:
            with torch.no_grad(), _other_seed():
                return [_to_numpy(y) for y in _tensors(module(*(torch.from_numpy(np.array(x)) for x in xs)))]
        finally:
            module.load_state_dict(kept)

    names = [value.debugName() for value in graph.inputs()][1:]
    return Program(
        kind="TorchScript",
        inputs=tuple(Input(name, None, None) for name in names),
        operations=count,
        random=tuple(random),
        batch_statistics=tuple(by_batch),
        parameters={name: _to_numpy(tensor) for name, tensor in module.state_dict().items()},
        named=True,
        runner=run,
        training=tuple(dict.fromkeys(training)),
    )


@contextmanager
def _other_seed() -> Iterator[None]:
    """Give each run another seed, and leave PyTorch's stream where it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(next(_SEEDS))
        yield


# --- The archive


def _program(archive: zipfile.ZipFile) -> Program:
    root = archive.namelist()[0].split("/")[0]
    files = [name.removeprefix(f"{root}/") for name in archive.namelist()]
    models = [name for name in files if name.startswith("models/") and name.endswith(".json")]
    if any(name.startswith("data/aotinductor/") for name in files):
        raise CannotCheck("the archive holds compiled code, which cannot be inspected; export with torch.export.save")
    if len(models) != 1:
        raise CannotCheck(f"the archive holds {len(models)} exported programs; export one with torch.export.save")
    model = models[0].removeprefix("models/").removesuffix(".json")
    tensors: dict[str, torch.Tensor] = {}
    for folder in ("weights", "constants"):
        config = json.loads(archive.read(f"{root}/data/{folder}/{model}_{folder}_config.json"))
        for name, entry in config["config"].items():
            if entry["use_pickle"] or entry["tensor_meta"] is None:
                raise CannotCheck(
                    f"'{name}' is stored as a pickle, which is not opened here; export a model whose parameters and "
                    "constants are plain tensors"
                )
            tensors[name] = _tensor(archive.read(f"{root}/data/{folder}/{entry['path_name']}"), entry["tensor_meta"])
    stored = json.loads(archive.read(f"{root}/models/{model}.json"))
    return _Graph(stored["graph_module"], tensors).program()


def _tensor(data: bytes, meta: Mapping[str, Any]) -> torch.Tensor:
    dtype = _dtype(meta["dtype"])
    sizes, strides = ([side["as_int"] for side in meta[key]] for key in ("sizes", "strides"))
    if meta["layout"] != _STRIDED:
        raise CannotCheck("a parameter is sparse, which is not read here; export a dense one")
    if not data:
        return torch.zeros(sizes, dtype=dtype)
    flat = torch.frombuffer(bytearray(data), dtype=dtype)
    return torch.as_strided(flat, sizes, strides, meta["storage_offset"]["as_int"])


def _dtype(number: int) -> torch.dtype:
    if number not in _DTYPES:
        raise CannotCheck(f"the program uses a dtype that is not read here (number {number}); export in float32")
    return _DTYPES[number]


@dataclass(frozen=True)
class _Node:
    label: str
    call: Any
    arguments: dict[str, Any]
    outputs: list[Any]


class _Graph:
    """The graph of a stored program, and an interpreter for it."""

    def __init__(self, module: Mapping[str, Any], tensors: Mapping[str, torch.Tensor]) -> None:
        self._graph = module["graph"]
        self._inputs: list[str] = []
        self._given: dict[str, Any] = {}
        self._names: dict[str, str] = {}  # value in the graph -> name of the parameter
        for spec in module["signature"]["input_specs"]:
            ((kind, what),) = spec.items()
            if kind == "user_input":
                ((form, value),) = what["arg"].items()
                if form != "as_tensor":
                    raise CannotCheck(
                        f"the program takes an input that is no array ({form}); export one of arrays alone"
                    )
                self._inputs.append(value["name"])
            elif kind in ("parameter", "buffer", "tensor_constant"):
                name = what.get("parameter_name") or what.get("buffer_name") or what["tensor_constant_name"]
                self._given[what["arg"]["name"]] = tensors[name]
                if kind != "tensor_constant":
                    self._names[what["arg"]["name"]] = name
            elif kind == "constant_input":
                (self._given[what["name"]],) = what["value"].values()
            else:
                raise CannotCheck(
                    f"the program takes an input that is not read here ({kind}); export one of arrays alone"
                )
        outputs = module["signature"]["output_specs"]
        self._results = [spec["user_output"]["arg"] for spec in outputs if "user_output" in spec]

    def program(self) -> Program:
        random, by_batch, count = [], [], 0
        for node in self._walk(self._graph):
            count += 1
            if isinstance(node.call, torch._ops.OpOverload):
                plain = {name: _peek(argument) for name, argument in node.arguments.items()}
                if _draws(node.call, plain):
                    random.append(node.label + _rate(plain))
                if _normalises_by_batch(node.call, plain):
                    by_batch.append(node.label)
        values = self._graph["tensor_values"]
        return Program(
            kind="torch.export",
            inputs=tuple(_input(name, values[name]) for name in self._inputs),
            operations=count,
            random=tuple(random),
            batch_statistics=tuple(by_batch),
            parameters={self._names[key]: _to_numpy(self._given[key]) for key in self._names},
            named=True,
            runner=self._run,
        )

    def _walk(self, graph: Mapping[str, Any]) -> Iterator[_Node]:
        for stored in graph["nodes"]:
            node = _node(stored)
            yield node
            for argument in node.arguments.values():
                if "as_graph" in argument:
                    yield from self._walk(argument["as_graph"]["graph"])

    def _run(self, xs: Sequence[Array]) -> list[Array]:
        # Cloned, so that a program that writes to its buffers finds them as they were at the next run.
        values = {
            name: value.clone() if isinstance(value, torch.Tensor) else value for name, value in self._given.items()
        }
        values |= {name: torch.from_numpy(np.array(x)) for name, x in zip(self._inputs, xs, strict=True)}
        with torch.no_grad(), _other_seed():
            self._compute(self._graph, values)
        return [_to_numpy(y) for result in self._results for y in _tensors(_value(result, values))]

    def _compute(self, graph: Mapping[str, Any], values: dict[str, Any]) -> None:
        for stored in graph["nodes"]:
            node = _node(stored)
            if isinstance(node.call, str):
                result: Any = self._nested(node, values)
            elif isinstance(node.call, torch._ops.OpOverload):
                result = node.call(**{name: _value(each, values) for name, each in node.arguments.items()})
            else:
                result = node.call(*(_value(each, values) for each in node.arguments.values()))
            if len(node.outputs) == 1:
                _bind(node.outputs[0], result, values)
            else:
                for output, each in zip(node.outputs, result or (), strict=False):
                    _bind(output, each, values)

    def _nested(self, node: _Node, values: dict[str, Any]) -> Any:
        """Run the graph inside a block that switches gradients, which changes no value."""
        arguments = list(node.arguments.values())
        place = next(number for number, each in enumerate(arguments) if "as_graph" in each)
        graph = arguments[place]["as_graph"]["graph"]
        inner = {
            _name(inside): _value(outside, values)
            for inside, outside in zip(graph["inputs"], arguments[place + 1 :], strict=True)
        }
        self._compute(graph, inner)
        results = [_value(each, inner) for each in graph["outputs"]]
        return results if len(node.outputs) > 1 or "as_tensors" in node.outputs[0] else results[0]


def _node(stored: Mapping[str, Any]) -> _Node:
    target = stored["target"]
    arguments = {
        f"{place}" if not each["name"] else each["name"]: each["arg"] for place, each in enumerate(stored["inputs"])
    }
    parts = target.split(".")
    call: Any = None
    if parts[:3] == ["torch", "ops", "aten"] and len(parts) == 5 and parts[3] not in _REFUSED:
        call = getattr(getattr(torch.ops.aten, parts[3], None), parts[4], None)
        call = call if isinstance(call, torch._ops.OpOverload) else None
    elif target == "torch.ops.higher_order.wrap_with_set_grad_enabled":
        call = target
    elif target in _ARITHMETIC:
        call = _ARITHMETIC[target]
        arguments = {f"{place}": each["arg"] for place, each in enumerate(stored["inputs"])}
    if call is None:
        raise CannotCheck(
            f"the program calls {target}, and only operations of torch.ops.aten and arithmetic are run here; export "
            "the model without it, or to ONNX"
        )
    return _Node(f"{target.removeprefix('torch.ops.')}{_module(stored)}", call, arguments, stored["outputs"])


def _module(stored: Mapping[str, Any]) -> str:
    """Name the module whose code makes the call, as the file tells it."""
    stack = stored.get("metadata", {}).get("nn_module_stack", "")
    path = stack.split(";")[-1].split(",")[1:2]
    return f" in '{path[0]}'" if path and path[0] else ""


def _input(name: str, meta: Mapping[str, Any]) -> Input:
    dtype = torch.empty(0, dtype=_dtype(meta["dtype"]))
    return Input(name, tuple(side.get("as_int") for side in meta["sizes"]), _to_numpy(dtype).dtype)


def _name(argument: Mapping[str, Any]) -> str:
    (value,) = argument.values()
    return str(value.get("name") or value["as_name"])


def _peek(argument: Mapping[str, Any]) -> Any:
    """Return what is constant in the file; a value that is computed counts as set."""
    ((form, value),) = argument.items()
    if form == "as_none":
        return None
    return value if form in ("as_bool", "as_int", "as_float") else True


def _value(argument: Mapping[str, Any], values: Mapping[str, Any]) -> Any:
    ((form, value),) = argument.items()
    if form == "as_none":
        return None
    if form == "as_tensor":
        return values[value["name"]]
    if form in ("as_tensors", "as_nested_tensors"):
        return [_value({"as_tensor" if isinstance(each, dict) else "as_tensors": each}, values) for each in value]
    if form in ("as_optional_tensor", "as_sym_int", "as_sym_bool", "as_sym_float"):
        return _value(value, values)
    if form in ("as_optional_tensors", "as_sym_ints", "as_sym_bools", "as_sym_floats"):
        return [_value(each, values) for each in value]
    if form == "as_name":
        return values[value]
    if form == "as_scalar_type":
        return _dtype(value)
    if form == "as_memory_format":
        return _MEMORY_FORMATS[value]
    if form == "as_layout":
        return torch.strided
    if form == "as_device":
        return torch.device("cpu")
    if form == "as_complex":
        return complex(value["real"], value["imag"])
    if form in (
        *("as_int", "as_float", "as_bool", "as_string", "as_ints", "as_floats", "as_bools", "as_strings"),
        *("as_int_lists", "as_float_lists"),
    ):
        return value
    raise CannotCheck(f"the program passes an argument that is not read here ({form}); export a model of tensors alone")


def _bind(output: Mapping[str, Any], result: Any, values: dict[str, Any]) -> None:
    ((form, value),) = output.items()
    if form == "as_tensors":
        for each, tensor in zip(value, result, strict=True):
            values[each["name"]] = tensor
    elif form != "as_none":
        values[_name(output)] = result


# --- What an operation does


def _draws(operation: torch._ops.OpOverload, given: Mapping[str, Any]) -> bool:
    """Tell whether a call draws random numbers that reach its result."""
    if torch.Tag.nondeterministic_seeded not in operation.tags:
        return False
    names = [argument.name for argument in operation._schema.arguments]
    defaults = {argument.name: argument.default_value for argument in operation._schema.arguments}
    read = {**defaults, **given}
    if any(name in names and read[name] is False for name in ("train", "training")):
        return False
    rate = next((name for name in ("p", "dropout", "dropout_p") if name in names), None)
    return rate is None or read[rate] != 0 or "bernoulli" in str(operation)


def _normalises_by_batch(operation: torch._ops.OpOverload, given: Mapping[str, Any]) -> bool:
    name = operation._schema.name
    if "batch_norm" not in name or "backward" in name:
        return False
    return bool(given.get("training")) or "no_stats" in operation._overloadname or "with_update" in name


def _rate(given: Mapping[str, Any]) -> str:
    rate = next((given[name] for name in ("p", "dropout", "dropout_p") if isinstance(given.get(name), float)), None)
    return "" if rate is None else f" (p = {rate:.4g})"


# --- TorchScript


@dataclass(frozen=True)
class _Mode:
    """A value that is the training flag of a module."""

    path: str
    on: bool


def _script_nodes(graph: Any) -> Iterator[Any]:
    for node in graph.nodes():
        yield node
        for block in node.blocks():
            yield from _script_nodes(block)


def _from_schema(node: Any) -> Any:
    """Return the operation that a node calls, or None if it is no operation of aten."""
    schema = node.schema()
    if not schema or schema == "(no schema)":
        return None
    full = schema.partition("(")[0].removeprefix("aten::")
    name, _, overload = full.partition(".")
    return getattr(getattr(torch.ops.aten, name, None), overload or "default", None)


def _script_value(value: Any, module: torch.jit.ScriptModule) -> Any:
    node = value.node()
    if node.kind() == "prim::Constant":
        return value.toIValue()
    if node.kind() == "prim::GetAttr" and node.s("name") == "training":
        owner, path = _owner(next(iter(node.inputs())), module)
        return _Mode(path or "(model)", bool(owner.training))
    return True


def _owner(value: Any, module: torch.jit.ScriptModule) -> tuple[Any, str]:
    node = value.node()
    if node.kind() != "prim::GetAttr":
        return module, ""
    owner, path = _owner(next(iter(node.inputs())), module)
    name = node.s("name")
    return getattr(owner, name), f"{path}.{name}" if path else name


def _scope(node: Any) -> str:
    name = node.scopeName().rpartition("::")[2]
    return f" in '{name}'" if name else ""


def _tensors(value: Any) -> list[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        return [value]
    if isinstance(value, dict):
        value = list(value.values())
    return [tensor for each in value for tensor in _tensors(each)] if isinstance(value, list | tuple) else []


def _to_numpy(tensor: torch.Tensor) -> Array:
    plain = tensor.detach().cpu()
    array: Array = (plain.float() if plain.dtype == torch.bfloat16 else plain).numpy()
    return array
