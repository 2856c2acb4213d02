"""`python -m dropoutlib check`: its report, its JSON, its errors and its exit status."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dropoutlib.frameworks import adapter, command
from dropoutlib.frameworks.command import FOUND, PASSED, UNCHECKED
from tests.frameworks.models import healthy
from tests.frameworks.sick import example, export, faulty

KINDS = {
    "torch.export": ("pytorch", "model.pt2"),
    "ONNX": ("keras", "model.onnx"),
    "Keras": ("keras", "model.keras"),
    "SavedModel": ("keras", "saved_model"),
    "jax.export": ("flax", "model.jaxexport"),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Hold a healthy model of each kind, its checkpoint, a sick one, and an example."""
    path = tmp_path_factory.mktemp("command")
    x = example("pytorch")
    np.savez(path / "x.npz", x=x)
    for kind, (framework, name) in KINDS.items():
        model = healthy(framework, "mlp")
        np.savez(path / f"{name}.npz", **adapter(model).parameters(model))
        export(kind, framework, model, x, path / name)
    np.savez(path / "other.npz", **adapter(other := healthy("pytorch", "mlp", 1)).parameters(other))
    np.savez(path / "renamed.npz", **{f"net.{key}": value for key, value in adapter(other).parameters(other).items()})
    np.savez(path / "wide.npz", x=np.ones((4, 65), np.float32))
    np.savez(path / "double.npz", x=x.astype(np.float64))
    np.savez(path / "labels.npz", x=x, labels=np.arange(8))
    np.savez(path / "one.npz", x=x[:1])
    (path / "truncated.pt2").write_bytes((path / "model.pt2").read_bytes()[:2000])
    (path / "empty.onnx").write_bytes(b"")
    (path / "pickle.pt").write_bytes(b"\x80\x02K\x01.")
    export("torch.export", "pytorch", faulty("pytorch", "always-on", 0), x, path / "sick.pt2")
    return path


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "dropoutlib", "check", *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[2])},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )


@pytest.mark.parametrize("kind", KINDS)
def test_files_of_all_five_kinds_pass(kind: str, folder: Path) -> None:
    _, name = KINDS[kind]
    done = run(folder, name, "--example", "x.npz", "--checkpoint", f"{name}.npz", "--json")
    assert done.stderr == ""
    assert done.returncode == PASSED
    told = json.loads(done.stdout)
    assert (told["model"], told["kind"], told["status"], told["passed"], told["first"]) == (name, kind, 0, True, None)
    assert told["not_checked"].keys() <= {"normalisation-statistics"}
    assert {each["verdict"] for each in told["findings"]} == {"pass"}


def test_a_finding_is_told_with_its_consequences(folder: Path) -> None:
    done = run(folder, "sick.pt2", "--example", "x.npz")
    assert done.returncode == FOUND
    assert done.stderr == ""
    lines = done.stdout.splitlines()
    assert lines[0] == "sick.pt2 (torch.export): 3 failed"
    assert lines[1] == "fail: exported-program"
    assert "aten.dropout.default (p = 0.3)" in lines[2]
    assert "    fail: rows-independent (because of exported-program)" in lines
    assert "not checked: parameters (give --checkpoint)" in lines
    assert lines[-1] == command.RUNS


def test_what_cannot_be_checked_is_one_line_and_no_traceback(folder: Path) -> None:
    done = run(folder, "truncated.pt2", "--example", "x.npz", "--json")
    assert done.returncode == UNCHECKED
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith("dropoutlib: truncated.pt2 is no sound .pt2 archive")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["absent.onnx", "x.npz"], "there is no file absent.onnx; check the name"),
        (["empty.onnx", "x.npz"], "empty.onnx is empty; export the model again"),
        (["pickle.pt", "x.npz"], "opening one can run anything; in PyTorch write torch.export.save"),
        (["model.pt2", "absent.npz"], "there is no file absent.npz; check the name of the example"),
        (["model.pt2", "model.pt2"], "write the example with numpy.savez"),
        (["model.pt2", "wide.npz"], "has shape (4, 65), and the program takes 'input' of shape (any, 64)"),
        (["model.pt2", "double.npz"], "convert it: x.astype('float32')"),
        (["model.pt2", "labels.npz"], "holds 'x', 'labels', and the program takes 1 input"),
        (["model.pt2", "x.npz", "absent.npz"], "there is no file absent.npz; check the name of the checkpoint"),
        (["model.pt2", "x.npz", "renamed.npz"], "has 'net.0.weight', 'net.0.bias', 'net.3.weight', 'net.3.bias' and 2"),
        (["model.pt2", "x.npz", "wide.npz"], "has 'x', which the model lacks"),
        (["model.keras", "wide.npz"], "has shape (4, 65)"),
        (["model.keras", "x.npz", "renamed.npz"], "which the model lacks; the model's names are 'dense1/bias'"),
        (["model.onnx", "x.npz", "wide.npz"], "'x' has no counterpart of that name or shape in the model"),
        ([".", "x.npz"], "is a folder without saved_model.pb"),
    ],
)
def test_every_error_names_the_value_and_the_mend(
    arguments: list[str], words: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    answer = command.check(*arguments)
    assert answer["status"] == UNCHECKED
    assert "text" not in answer
    assert words in answer["error"]
    assert "\n" not in answer["error"]


def test_another_checkpoint_is_a_finding(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    answer = command.check("model.pt2", "x.npz", "other.npz")
    assert answer["status"] == FOUND
    assert "fail: parameters\n    wrong checkpoint: 6 of 6 arrays differ" in answer["text"]


@pytest.mark.parametrize("as_json", [False, True])
def test_what_was_asked_and_cannot_be_told_is_no_pass(
    as_json: bool, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    answer = command.check("model.pt2", "one.npz", as_json=as_json)
    assert answer["status"] == UNCHECKED
    assert "nothing failed, but rows-independent could not be told" in answer["error"]
    assert "the example has one row" in answer["text"]
    if as_json:
        assert json.loads(answer["text"])["status"] == UNCHECKED


def test_errors_of_libraries_become_one_line(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> None:
        raise RuntimeError("first line\nsecond line")

    monkeypatch.chdir(folder)
    monkeypatch.setattr("dropoutlib.frameworks.check.exported_check", fail)
    answer = command.check("model.pt2", "x.npz")
    assert answer == {"status": UNCHECKED, "error": "model.pt2 could not be checked: RuntimeError: first line"}


@pytest.mark.parametrize("output", [b"", b"noise"])
def test_a_crash_of_a_library_is_said(
    output: bytes, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    done = subprocess.CompletedProcess([], -6, stdout=output)
    monkeypatch.setattr(command.subprocess, "run", lambda *_, **__: done)
    assert command.main(["check", "model.onnx", "--example", "x.npz"]) == UNCHECKED
    told = capsys.readouterr()
    assert told.out == ""
    assert (
        told.err
        == "dropoutlib: model.onnx ended the process that read it (status -6), it may be damaged; export it again\n"
    )


def test_noise_on_standard_output_stays_out_of_the_answer(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def noisy(*_: Any) -> dict[str, Any]:
        os.write(1, b"noise")
        return {"status": PASSED}

    monkeypatch.setenv("DROPOUTLIB_CHECK_INSIDE", "1")
    monkeypatch.setattr(command, "check", noisy)
    kept = os.dup(1)
    try:
        assert command.main(["check", "model.onnx", "--example", "x.npz"]) == PASSED
    finally:
        os.dup2(kept, 1)
        os.close(kept)
    told = capfd.readouterr()
    assert json.loads(told.out) == {"status": PASSED}
    assert told.err == "noise"


@pytest.mark.parametrize(
    "arguments", [[], ["check"], ["check", "model.onnx"], ["check", "--example", "x.npz"], ["bake"]]
)
def test_wrong_arguments_are_status_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        command.main(arguments)
    assert left.value.code == UNCHECKED
    assert "usage: python -m dropoutlib" in capsys.readouterr().err


def test_the_help_says_whom_to_trust(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        command.main(["check", "--help"])
    assert left.value.code == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "Nothing is unpickled" in text
    assert "checking one runs its operations: only files from somebody you trust belong here" in text
    assert "Exit status: 0 if all checks pass, 1 if there is a finding, 2 if the model could not be checked" in text


def test_the_command_imports_only_what_the_file_needs(folder: Path) -> None:
    code = (
        "import sys; from dropoutlib.frameworks import command; before = set(sys.modules) & {'torch', 'jax', 'keras',"
        " 'tensorflow', 'onnx'}; command.check('model.pt2', 'x.npz'); after = set(sys.modules) & {'jax', 'keras',"
        " 'tensorflow', 'onnxruntime'}; print(before or 'none', after or 'none')"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["none", "none"]
