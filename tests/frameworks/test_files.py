"""Files of all five kinds, made by the frameworks' own exporters: healthy, sick, damaged, and hostile ones."""

from __future__ import annotations

import contextlib
import io
import json
import pickle
import shutil
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dropoutlib.frameworks import adapter, files
from dropoutlib.frameworks.check import exported_check
from dropoutlib.frameworks.files import CannotCheck
from tests.frameworks.models import ARCHITECTURES, healthy, images
from tests.frameworks.sick import EXPECTED, example, export, faulty, quiet, sick

SUFFIX = {"torch.export": ".pt2", "ONNX": ".onnx", "Keras": ".keras", "SavedModel": "", "jax.export": ".jaxexport"}
ROUTES = [
    ("pytorch", "torch.export"),
    ("pytorch", "ONNX"),
    ("keras", "Keras"),
    ("keras", "SavedModel"),
    ("keras", "ONNX"),
    ("flax", "jax.export"),
]
# The small file of each kind that is damaged, fed with wrong examples, and so on.
SMALL = {"torch.export": "pytorch", "Keras": "keras", "SavedModel": "keras", "ONNX": "keras", "jax.export": "flax"}


@pytest.fixture(scope="module")
def exports(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, str, str], tuple[Path, dict[str, np.ndarray]]]:
    """Return the file that a route makes of a healthy architecture, and its parameters; each is made once."""
    folder = tmp_path_factory.mktemp("exports")
    made: dict[tuple[str, str, str], tuple[Path, dict[str, np.ndarray]]] = {}

    def make(framework: str, kind: str, architecture: str) -> tuple[Path, dict[str, np.ndarray]]:
        key = framework, kind, architecture
        if key not in made:
            model = healthy(framework, architecture)
            parameters = dict(adapter(model).parameters(model))
            path = folder / ("_".join(key) + SUFFIX[kind])
            made[key] = export(kind, framework, model, images(framework, architecture), path), parameters
        return made[key]

    return make


@pytest.fixture(params=SMALL)
def small(request: pytest.FixtureRequest, exports: Any) -> tuple[str, Path]:
    return request.param, exports(SMALL[request.param], request.param, "mlp")[0]


# --- Health and sickness


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize(("framework", "kind"), ROUTES)
def test_what_the_exporters_make_of_healthy_models_passes(
    framework: str, kind: str, architecture: str, exports: Any
) -> None:
    path, parameters = exports(framework, kind, architecture)
    found = exported_check(path, images(framework, architecture), parameters)
    left = {each.check for each in found.findings if each.verdict != "pass"}
    # A Keras file is a model in memory again, whose statistics are compared only if there are batches.
    assert left <= ({"normalisation-statistics"} if kind == "Keras" else set()), str(found)
    assert not found.failed


# Saving a model traces nothing, and Keras's ONNX exporter has no training mode.
TRACED = [route for route in ROUTES if route not in [("keras", "Keras"), ("keras", "ONNX")]]
SICK = [
    *((route, "traced-in-train-mode") for route in TRACED),
    *(
        (route, each)
        for route in ROUTES
        for each in ("always-on", "batch-statistics", "folded-twice", "wrong-checkpoint")
    ),
]


@pytest.mark.parametrize(("route", "sickness"), SICK)
def test_what_the_exporters_make_of_sick_models_is_caught(
    route: tuple[str, str], sickness: str, tmp_path: Path
) -> None:
    framework, kind = route
    training = sickness == "traced-in-train-mode"
    if training:
        model, x, reference = faulty(framework, sickness, 0), example(framework), None
    else:
        model, x, reference = sick(framework, sickness)
    path = export(kind, framework, model, x, tmp_path / f"sick{SUFFIX[kind]}", training=training)
    found = exported_check(path, x, reference)
    assert found.first is not None, str(found)
    check, words = EXPECTED[sickness]
    # In a file always-on dropout is a property of the program, and so are batch statistics where the graph names them.
    if kind != "Keras" and sickness == "always-on":
        check, words = EXPECTED["traced-in-train-mode"]
    if sickness == "batch-statistics" and kind != "Keras":
        named = (framework, kind) in [("pytorch", "torch.export"), ("keras", "SavedModel")]
        check, words = ("exported-program", "batch's own statistics") if named else ("rows-independent", "move by")
    assert (found.first.check, found.first.because) == (check, None), str(found)
    assert words in found.first.evidence
    assert all(each.because for each in found.failed[1:])


def test_onnx_runtime_leaves_dropout_out_that_the_graph_asks_for(tmp_path: Path) -> None:
    import onnxruntime

    model, x, _ = sick("pytorch", "always-on")
    path = export("ONNX", "pytorch", model, x, tmp_path / "model.onnx")
    found = exported_check(path, x)
    assert [each.check for each in found.failed] == ["exported-program"]
    told = next(each for each in found.findings if each.check == "no-active-dropout")
    assert "the runtime leaves these operations out" in told.evidence
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(str(path), options)
    first, second = (session.run(None, {session.get_inputs()[0].name: x})[0] for _ in range(2))
    assert np.abs(first - second).max() > 0.01


def test_a_graph_that_no_runtime_takes_is_still_read(tmp_path: Path) -> None:
    model, x, _ = sick("keras", "always-on")
    path = export("ONNX", "keras", model, x, tmp_path / "model.onnx")
    found = exported_check(path, x)
    assert [each.check for each in found.failed] == ["exported-program"]
    assert "StatelessRandomUniform" in found.first.evidence  # type: ignore[union-attr]
    told = next(each for each in found.findings if each.check == "rows-independent")
    assert told.verdict == "cannot tell"
    assert "ONNX Runtime refuses it" in told.evidence


@pytest.mark.parametrize("version", [7, 11, 12, 13, 15])
def test_onnx_dropout_and_batch_norm_of_every_age(version: int) -> None:
    import onnx
    from onnx import TensorProto, helper

    def program(active: bool) -> Any:
        ones = helper.make_tensor("ones", TensorProto.FLOAT, [3], [1.0] * 3)
        extra, inputs = [ones], ["x"]
        if version >= 12:
            extra += [
                helper.make_tensor("rate", TensorProto.FLOAT, [], [0.3]),
                helper.make_tensor("mode", TensorProto.BOOL, [], [active]),
            ]
            inputs += ["rate", "mode"]
        norm: dict[str, Any] = {"training_mode": int(active)} if version >= 14 else {}
        outputs = ["y"]
        if active and version >= 14:
            outputs += ["mean", "var"]
        elif active:
            outputs += ["mean", "var", "saved_mean", "saved_var"]
        nodes = [
            helper.make_node("Dropout", inputs, ["h"]),
            helper.make_node("BatchNormalization", ["h", "ones", "ones", "ones", "ones"], outputs, **norm),
        ]
        shapes = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["rows", 3]) for name in ("x", "y")]
        graph = helper.make_graph(nodes, "graph", shapes[:1], shapes[1:], extra)
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", version)], ir_version=8)

    x = np.random.default_rng(0).standard_normal((4, 3)).astype(np.float32)
    asleep = files.exported(program(active=False))
    assert asleep is not None
    assert (asleep.random, asleep.batch_statistics) == ((), ())
    # Runtimes have dropped what is old or of training, so the graph alone is read here.
    awake = files.exported(onnx.ModelProto.FromString(program(active=True).SerializeToString()))
    assert awake is not None
    # From 7 to 11 dropout in ONNX was for inference alone.
    assert bool(awake.random) == (version not in (7, 11))
    assert len(awake.batch_statistics) == 1
    if version == 15:
        assert not exported_check(program(active=False), x).failed


# --- Programs in memory


def test_programs_in_memory_are_read_like_files(exports: Any) -> None:
    import jax.export
    import onnx
    import tensorflow as tf
    import torch

    readers = {
        "torch.export": lambda path: torch.export.load(path),
        "ONNX": lambda path: onnx.load(path),
        "SavedModel": lambda path: tf.saved_model.load(str(path)),
        "jax.export": lambda path: jax.export.deserialize(bytearray(path.read_bytes())),
    }
    for kind, reader in readers.items():
        framework = SMALL[kind]
        path, parameters = exports(framework, kind, "cnn")
        found = exported_check(reader(path), images(framework, "cnn"), parameters)
        assert found.passed, f"{kind}: {found}"


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_reader_of_pt2_computes_what_pytorch_does(architecture: str, exports: Any) -> None:
    import torch

    path, _ = exports("pytorch", "torch.export", architecture)
    x = images("pytorch", architecture, 5)
    with torch.no_grad():
        expected = torch.export.load(path).module()(torch.from_numpy(x)).numpy()
    (found,) = files.load(path).run([x])
    # A convolution of weights in another memory layout adds in another order.
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_the_reader_of_pt2_takes_lists_numbers_shapes_and_nested_blocks(tmp_path: Path) -> None:
    import torch
    from torch import nn

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lstm = nn.LSTM(4, 6, num_layers=2, batch_first=True, dropout=0.3)
            self.register_buffer("offset", torch.arange(6.0), persistent=False)

        def forward(self, x: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
            with torch.no_grad():
                h, _ = self.lstm(x)
            a, b = torch.split(h + self.offset, 3, dim=-1)
            merged = torch.cat([a, b.to(torch.float64).float()], dim=1).reshape(x.shape[0] * 2, -1)
            mask = torch.ones(x.shape[0], device=x.device, dtype=torch.bool)
            return merged.reshape(x.shape[0], -1), {"y": y.masked_fill(~mask, 0) * (x.shape[0] / x.shape[0])}

    rows = {0: torch.export.Dim("rows")}
    x, y = torch.randn(3, 5, 4), torch.randn(3)
    model = Model().eval()
    with quiet():
        torch.export.save(torch.export.export(model, (x, y), dynamic_shapes=(rows, rows)), tmp_path / "model.pt2")
    program = files.load(tmp_path / "model.pt2")
    assert program.random == ()
    x, y = torch.randn(7, 5, 4), torch.randn(7)
    with torch.no_grad():
        expected, named = model(x, y)
    found = program.run([x.numpy(), y.numpy()])
    np.testing.assert_allclose(found[0], expected.numpy(), atol=1e-6)
    np.testing.assert_array_equal(found[1], named["y"].numpy())
    model.train()
    with quiet():
        torch.export.save(torch.export.export(model, (x, y), dynamic_shapes=(rows, rows)), tmp_path / "train.pt2")
    assert [each.partition(" ")[0] for each in files.load(tmp_path / "train.pt2").random] == ["aten.lstm.input"]


def test_a_program_that_writes_to_its_statistics_is_run_from_the_same_state(tmp_path: Path) -> None:
    import torch
    from torch import nn

    x = example("pytorch")
    model = nn.BatchNorm1d(64)
    path = export("torch.export", "pytorch", model, x, tmp_path / "model.pt2", training=True)
    program = files.load(path)
    before = {name: array.copy() for name, array in program.parameters.items()}
    first, second = program.run([x]), program.run([x + 1])
    assert len(program.batch_statistics) == 1
    assert all(np.array_equal(array, before[name]) for name, array in program.parameters.items())
    np.testing.assert_allclose(first[0], second[0], atol=1e-4)
    assert torch.equal(model.running_mean, torch.zeros(64))


def test_two_runs_of_a_pt2_program_draw_anew_and_leave_pytorchs_stream(tmp_path: Path) -> None:
    import torch

    model, x, _ = sick("pytorch", "always-on")
    program = files.load(export("torch.export", "pytorch", model, x, tmp_path / "model.pt2"))
    before = torch.get_rng_state()
    (first,), (second,) = program.run([x]), program.run([x])
    assert np.abs(first - second).max() > 0.01
    assert torch.equal(torch.get_rng_state(), before)


def test_a_program_that_takes_one_batch_size_is_checked_as_it_is(tmp_path: Path) -> None:
    import torch

    model, x = healthy("pytorch", "mlp"), example("pytorch", 4)
    with quiet():
        torch.export.save(torch.export.export(model, (torch.from_numpy(x),)), tmp_path / "model.pt2")
    found = exported_check(tmp_path / "model.pt2", x)
    assert not found.failed
    told = next(each for each in found.findings if each.check == "rows-independent")
    assert told.verdict == "pass"
    assert "alone" not in told.evidence


def test_a_jax_program_that_takes_a_key_is_a_finding(tmp_path: Path) -> None:
    import jax
    import jax.export

    key = jax.random.key(0)
    taken = jax.export.export(jax.jit(lambda x, key: x * jax.random.bernoulli(key, 0.7, x.shape)))
    program = taken(jax.ShapeDtypeStruct((4, 3), "float32"), jax.ShapeDtypeStruct((), key.dtype))
    (tmp_path / "model.jaxexport").write_bytes(program.serialize())
    x = np.random.default_rng(0).random((4, 3), np.float32)
    found = exported_check(tmp_path / "model.jaxexport", (x, np.array([0, 1], np.uint32)))
    assert found.first is not None
    assert found.first.check == "exported-program"
    assert "bernoulli" in found.first.evidence


# --- Files that are not opened


class Payload:
    """Runs code when it is unpickled: it writes a file whose absence the tests check."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return Path.touch, (self.mark,)


@pytest.fixture
def payload(tmp_path: Path) -> bytes:
    return pickle.dumps(Payload(tmp_path / "ran"))


@pytest.mark.parametrize(
    "suffix", [".pt", ".pth", ".bin", ".ckpt", ".pkl", ".joblib", ".h5", ".onnx", ".pt2", ".keras", ".jaxexport"]
)
def test_pickles_are_refused_under_any_name(suffix: str, payload: bytes, tmp_path: Path) -> None:
    import torch

    (tmp_path / f"plain{suffix}").write_bytes(payload)
    torch.save({"x": Payload(tmp_path / "ran")}, tmp_path / f"zipped{suffix}")
    for name in ("plain", "zipped"):
        with pytest.raises(CannotCheck, match="not opened: ") as raised:
            files.load(tmp_path / f"{name}{suffix}")
        assert str(tmp_path / name) in str(raised.value)
        assert "export" in str(raised.value) or "model.save" in str(raised.value)
    assert not (tmp_path / "ran").exists()


def rewrite(path: Path, target: Path, change: Callable[[str, bytes], bytes]) -> Path:
    """Copy a zip archive with its members changed."""
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(target, "w") as new:
        for name in old.namelist():
            new.writestr(name, change(name, old.read(name)))
    return target


def edit(name: str, part: str, change: Callable[[Any], None]) -> Callable[[str, bytes], bytes]:
    def changed(member: str, data: bytes) -> bytes:
        if not member.endswith(name):
            return data
        content = json.loads(data)
        change(content[part])
        return json.dumps(content).encode()

    return changed


def test_a_pickled_example_inside_pt2_is_never_opened(exports: Any, payload: bytes, tmp_path: Path) -> None:
    path, parameters = exports("pytorch", "torch.export", "mlp")
    hostile = rewrite(path, tmp_path / "model.pt2", lambda name, data: payload if "sample_inputs" in name else data)
    assert exported_check(hostile, example("pytorch"), parameters).passed
    assert not (tmp_path / "ran").exists()
    # PyTorch's own reader does open it: this is why the file is read here.
    import torch

    with quiet(), pytest.raises(Exception):  # noqa: B017, PT011
        torch.export.load(hostile)
    assert (tmp_path / "ran").exists()


def test_a_pickled_weight_inside_pt2_is_refused(exports: Any, payload: bytes, tmp_path: Path) -> None:
    def pickled(config: Any) -> None:
        next(iter(config.values()))["use_pickle"] = True

    path, _ = exports("pytorch", "torch.export", "mlp")
    hostile = rewrite(path, tmp_path / "model.pt2", edit("weights_config.json", "config", pickled))
    with pytest.raises(CannotCheck, match="stored as a pickle, which is not opened"):
        files.load(hostile)


@pytest.mark.parametrize(
    "target",
    [
        "torch.load",
        "torch.hub.load",
        "torch.ops.aten.from_file.default",
        "torch.ops.mine.op.default",
        "os.system",
        "torch.ops.aten.__class__.default",
        "torch.ops.aten.linear.__class__",
        "_operator.methodcaller",
        "math.__loader__",
    ],
)
def test_pt2_calls_nothing_but_arithmetic(target: str, exports: Any, tmp_path: Path) -> None:
    def retarget(module: Any) -> None:
        module["graph"]["nodes"][0]["target"] = target

    path, _ = exports("pytorch", "torch.export", "mlp")
    hostile = rewrite(path, tmp_path / "model.pt2", edit("models/model.json", "graph_module", retarget))
    with pytest.raises(CannotCheck, match=f"the program calls {target}"):
        files.load(hostile)


def test_compiled_code_inside_pt2_is_refused(exports: Any, tmp_path: Path) -> None:
    path = shutil.copy(exports("pytorch", "torch.export", "mlp")[0], tmp_path / "model.pt2")
    with zipfile.ZipFile(path, "a") as archive:
        root = archive.namelist()[0].split("/")[0]
        archive.writestr(f"{root}/data/aotinductor/model/model.so", b"")
    with pytest.raises(CannotCheck, match="compiled code"):
        files.load(path)


def test_python_inside_keras_is_refused(tmp_path: Path) -> None:
    import keras

    class Own(keras.layers.Layer):
        def call(self, x: Any) -> Any:
            return x

    for layer, words in ((keras.layers.Lambda(lambda x: x), "Lambda layer"), (Own(), "a class of your own")):
        model = keras.Sequential([keras.Input((4,)), layer])
        model.save(tmp_path / "model.keras")
        with pytest.raises(CannotCheck, match=words):
            files.load(tmp_path / "model.keras")


# --- Damaged files, and examples that do not fit


@pytest.mark.parametrize("damage", ["truncated", "emptied", "text", "changed"])
def test_damaged_files_are_one_clear_error(small: Any, damage: str, exports: Any, tmp_path: Path) -> None:
    kind, path = small
    _, parameters = exports(SMALL[kind], kind, "mlp")
    copy = tmp_path / path.name
    if path.is_dir():
        shutil.copytree(path, copy)
        hurt = copy / "saved_model.pb"
    else:
        shutil.copy(path, copy)
        hurt = copy
    data = hurt.read_bytes()
    changed = bytearray(data)
    changed[len(data) // 4 : len(data) // 2] = bytes(255 - byte for byte in changed[len(data) // 4 : len(data) // 2])
    content = {"truncated": data[: len(data) // 2], "emptied": b"", "text": b"no model", "changed": bytes(changed)}
    hurt.write_bytes(content[damage])
    if damage == "changed":
        # No kind of file carries a checksum of everything, so a change that hits weights alone shows in the weights.
        with contextlib.suppress(CannotCheck):
            assert exported_check(copy, example(SMALL[kind]), parameters).failed
        return
    with pytest.raises(CannotCheck) as raised:
        exported_check(copy, example(SMALL[kind]))
    assert "\n" not in str(raised.value)


def test_what_is_no_model_is_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("no model")
    (tmp_path / "folder").mkdir()
    np.savez(tmp_path / "arrays.npz", x=np.ones(3))
    for name, words in (
        ("absent.onnx", "there is no file"),
        ("notes.txt", "no kind that can be checked; these are: .keras, .onnx, .pt2, .jaxexport, a SavedModel folder"),
        ("arrays.npz", "no kind that can be checked"),
        ("folder", "no SavedModel"),
    ):
        with pytest.raises(CannotCheck, match=words):
            files.load(tmp_path / name)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (lambda x: x[:, :-1], r"has shape \(8, 63\), and the program takes '.*' of shape \(any, 64\)"),
        (lambda x: x[..., None], r"has shape \(8, 64, 1\)"),
        (lambda x: x.astype(np.float64), "has dtype float64.*astype"),
        (lambda x: {"x": x, "labels": x}, r"holds 'x', 'labels', and the program takes 1 input"),
        (lambda x: {}, "holds nothing"),
    ],
)
def test_examples_that_do_not_fit_are_one_clear_error(small: Any, wrong: Any, words: str) -> None:
    kind, path = small
    x = wrong(example(SMALL[kind]))
    with pytest.raises(CannotCheck, match=words):
        exported_check(path, x if isinstance(x, dict) else {"x": x})


# --- Arrays and references


def test_arrays_come_back(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", x=np.arange(3), y=np.ones((2, 2)))
    assert {name: array.shape for name, array in files.arrays(tmp_path / "x.npz").items()} == {"x": (3,), "y": (2, 2)}


def test_arrays_that_cannot_be_read_are_one_clear_error(payload: bytes, tmp_path: Path) -> None:
    np.savez(tmp_path / "objects.npz", x=np.array([Payload(tmp_path / "ran")], dtype=object))
    np.savez(tmp_path / "empty.npz")
    np.savez(tmp_path / "whole.npz", x=np.arange(1000))
    np.save(tmp_path / "single.npy", np.ones(3))
    data = (tmp_path / "whole.npz").read_bytes()
    (tmp_path / "truncated.npz").write_bytes(data[: len(data) // 2])
    (tmp_path / "changed.npz").write_bytes(data[:300] + b"changed" + data[307:])
    (tmp_path / "pickle.npz").write_bytes(payload)
    with zipfile.ZipFile(tmp_path / "other.npz", "w") as archive:
        archive.writestr("x.txt", "no array")
    for name, words in (
        ("absent.npz", "there is no file"),
        ("objects.npz", "'x' in .* holds Python objects"),
        ("empty.npz", "holds no array"),
        ("truncated.npz", "is no .npz file"),
        ("changed.npz", "may be damaged"),
        ("pickle.npz", "is no .npz file"),
        ("single.npy", "is no .npz file"),
        ("other.npz", "no array"),
    ):
        with pytest.raises(CannotCheck, match=words):
            files.arrays(tmp_path / name)
    assert not (tmp_path / "ran").exists()


def test_references_of_every_form(exports: Any, tmp_path: Path) -> None:
    path, parameters = exports("keras", "Keras", "mlp")
    model = files.load(path)
    np.savez(tmp_path / "checkpoint.npz", **parameters)
    other = healthy("keras", "mlp", 1)
    with quiet():
        model.save_weights(tmp_path / "model.weights.h5")
        other.save_weights(tmp_path / "other.weights.h5")
    program, _ = exports("keras", "SavedModel", "mlp")
    for source in (parameters, tmp_path / "checkpoint.npz", str(path), tmp_path / "model.weights.h5", model):
        for checked in (path, program):
            found = exported_check(checked, example("keras"), source)
            told = next(each for each in found.findings if each.check == "parameters")
            assert told.verdict == "pass", f"{source}: {told.evidence}"
    for checked in (path, program):
        found = exported_check(checked, example("keras"), tmp_path / "other.weights.h5")
        assert [each.check for each in found.failed] == ["parameters"]


def test_references_that_cannot_be_read_are_one_clear_error(tmp_path: Path) -> None:
    import h5py

    (tmp_path / "model.pt").write_bytes(b"x")
    (tmp_path / "broken.weights.h5").write_bytes(b"no weights")
    with h5py.File(tmp_path / "outside.weights.h5", "w") as file:
        file.create_dataset("w", (3,), "f4", external=[(str(tmp_path / "elsewhere"), 0, 12)])
    for name, words in (
        ("absent.npz", "there is no file"),
        ("model.pt", "is no checkpoint that is read here.*state_dict"),
        ("broken.weights.h5", "may be damaged"),
        ("outside.weights.h5", "points to another file"),
    ):
        with pytest.raises(CannotCheck, match=words):
            files.reference(tmp_path / name)


@pytest.mark.parametrize(
    ("package", "kind"),
    [
        ("onnx", "ONNX"),
        ("onnxruntime", "ONNX"),
        ("tensorflow", "SavedModel"),
        ("jax", "jax.export"),
        ("torch", "torch.export"),
        ("keras", "Keras"),
    ],
)
def test_a_missing_package_is_named_with_its_command(
    package: str, kind: str, exports: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, _ = exports(SMALL[kind], kind, "mlp")
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(CannotCheck, match=rf"{package}, which is not installed; run: .* -m pip install .*{package}"):
        files.load(path)


def test_what_is_no_program_is_refused() -> None:
    for thing in (3, [1], np.ones(3), io.BytesIO()):
        assert files.exported(thing) is None
        with pytest.raises(TypeError):
            exported_check(thing, np.ones((2, 3)))
