"""The zip for Gradescope, unpacked and run as its harness does, gives the marks that `grade` gives."""

from __future__ import annotations

import io
import json
import os
import shutil
import stat
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import nbformat
import pytest
from nbformat import NotebookNode

from grading import grade, gradescope, keys, records, source, variant, write
from grading.__main__ import main
from grading.source import SOLUTION, Assignment, region

NAME, CLASS = "two-dropouts", "2026-a"
WRONG = """
def {name}(shape, p, seed):
    print("INPUT", p, seed)
    return np.random.default_rng(seed).random(shape) < p
"""
METADATA = {
    "id": 7,
    "created_at": "2026-11-20T14:22:32.365935-07:00",
    "assignment": {"due_date": "2026-11-20T13:00:00.000000-07:00", "title": "Dropout", "total_points": "25.0"},
    "submission_method": "upload",
    "users": [{"email": "alice@example.com", "id": 1, "name": "Alice"}],
    "previous_submissions": [],
}  # fmt: skip


def made() -> Assignment:
    return variant.make(source.load(NAME), CLASS)


def solved(assignment: Assignment, change: Callable[[NotebookNode], None] = lambda cell: None) -> str:
    """Return what a student hands in who has the solutions, after a change of each cell."""
    notebook = write.student(assignment)
    for cell, given in zip(notebook.cells, assignment.notebook.cells, strict=True):
        if region(given.source, SOLUTION):
            lines = given.source.splitlines()
            cell.source = "\n".join(line for line in lines if not line.strip().startswith("### "))
        change(cell)
    return str(nbformat.writes(notebook))


def mistaken(cell: NotebookNode) -> None:
    name = made().questions[0].function
    if cell.source.startswith(f"def {name}("):
        cell.source = WRONG.format(name=name).strip()


@pytest.fixture(scope="module")
def key(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("key") / "a.key"
    keys.write(path)
    return path


@pytest.fixture(scope="module")
def archive(key: Path) -> Path:
    """The zip that the command makes."""
    path = key.with_name("autograder.zip")
    assert main(["gradescope", NAME, "-o", str(path), "--key", str(key), "--variant", CLASS]) == 0
    return path


def unpack(archive: Path, root: Path) -> Path:
    """Lay out what Gradescope's harness does, with Python and its packages as they are here."""
    with zipfile.ZipFile(archive) as file:
        file.extractall(root / "source")
    shutil.copy(root / "source" / "run_autograder", root / "run_autograder")
    (root / "run_autograder").chmod(0o755)
    (root / "results").mkdir()
    python = root / "venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    python.chmod(0o755)
    # Gradescope's containers have no bubblewrap that works, and neither has this path.
    (root / "bin").mkdir()
    for tool in ("bash", "chmod", "mkdir", "sh"):
        found = shutil.which(tool)
        assert found
        (root / "bin" / tool).symlink_to(found)
    return root


def run(root: Path, text: str | None, metadata: object = METADATA) -> tuple[dict[str, object], str]:
    """Hand a notebook in, and return what results.json and the output hold."""
    shutil.rmtree(root / "submission", ignore_errors=True)
    (root / "submission").mkdir()
    if text is not None:
        (root / "submission" / "my work.ipynb").write_text(text, encoding="utf-8")
    (root / "submission_metadata.json").write_text(json.dumps(metadata))
    (root / "results" / "results.json").unlink(missing_ok=True)
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    environment |= {gradescope.ENVIRONMENT: str(root), "PATH": str(root / "bin")}
    done = subprocess.run(
        [root / "run_autograder"], cwd=root, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads((root / "results" / "results.json").read_text()), done.stdout


def test_marks_are_those_of_grade_and_no_input_is_shown(archive: Path, key: Path, tmp_path: Path) -> None:
    root, assignment = unpack(archive, tmp_path / "autograder"), made()
    handed_in = {"right": solved(assignment), "wrong": solved(assignment, mistaken), "none": None}
    folder = tmp_path / "submissions"
    folder.mkdir()
    for name, text in handed_in.items():
        if text is not None:
            (folder / f"{name}.ipynb").write_text(text)
    grade.grade(assignment, folder, tmp_path / "out", key=keys.read(key), say=lambda line: None)
    found = {record.student: record for record in records.load_all(tmp_path / "out" / records.FOLDER)}
    for name, text in handed_in.items():
        results, printed = run(root, text)
        tests = results["tests"]
        assert isinstance(tests, list)
        scores = {test["number"]: test["score"] for test in tests}
        if text is None:
            assert set(scores.values()) == {0}
            assert "The folder holds no file." in str(results["output"])
            continue
        record = found[name]
        assert scores == {m.id.rpartition(".")[2]: m.points for m in record.questions if m.points is not None}
        assert "Still to be read by a person: question 4, 7." in str(results["output"])
        assert "Late: handed in 1 hour and 23 minutes after the deadline." in str(results["output"])
        assert results["stdout_visibility"] == "hidden"
        assert "INPUT" not in json.dumps(results)
        assert "without bubblewrap" in printed
        assert "What a hostile submission can do here:" in printed
    assert [found[name].points for name in ("right", "wrong")] == [19, 12]


def test_a_submission_reads_no_key_and_writes_no_results(archive: Path, key: Path, tmp_path: Path) -> None:
    root = unpack(archive, tmp_path / "autograder")
    secret, marks = str(root / "source" / gradescope.KEY), str(root / "results" / "results.json")

    def change(cell: NotebookNode) -> None:
        if cell.source.startswith("import numpy"):
            cell.source += f"\nprint(open({secret!r}).read())"
        elif cell.source.startswith("# The numbers"):
            cell.source += f"\nopen({marks!r}, 'w')"

    results, printed = run(root, solved(made(), change))
    assert keys.read(key).hex() not in json.dumps(results) + printed
    assert str(results["output"]).count("raised") == 2
    if os.geteuid() == 0:
        assert stat.S_IMODE((root / "source").stat().st_mode) == 0o700
        assert stat.S_IMODE((root / "results").stat().st_mode) == 0o700


def test_without_metadata_there_is_still_a_mark(archive: Path, tmp_path: Path) -> None:
    root = unpack(archive, tmp_path / "autograder")
    for metadata in ([], {"users": 3}, {"users": [], "assignment": {}}):
        assert gradescope._metadata(write_json(tmp_path / "m.json", metadata))[0] == "student"
    results, _ = run(root, "no notebook", [])
    assert "cannot be read as JSON" in str(results["output"])


def write_json(path: Path, value: object) -> Path:
    path.write_text(json.dumps(value))
    return path


def test_the_zip_holds_what_is_needed_and_is_the_same_each_time(archive: Path, key: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(archive) as file:
        names = set(file.namelist())
        modes = {name: file.getinfo(name).external_attr >> 16 for name in names}
        assert json.loads(file.read(gradescope.FACTS)) == {"assignment": NAME, "variant": CLASS}
        packages = file.read("requirements.txt").decode().splitlines()
    assert {"setup.sh", "run_autograder", f"assignments/{NAME}.ipynb"} <= names
    assert not [name for name in names if name.startswith("/") or ".." in name or "__pycache__" in name]
    assert [name for name in names if name.startswith("assignments/")] == [f"assignments/{NAME}.ipynb"]
    assert modes["run_autograder"] & 0o111
    assert modes[gradescope.KEY] == stat.S_IFREG | 0o600
    assert stat.S_IMODE(archive.stat().st_mode) == 0o600
    assert [line.partition("==")[0] for line in packages] == ["numpy", "nbformat"]
    again = tmp_path / "again.zip"
    gradescope.write(made(), keys.read(key), again)
    assert again.read_bytes() == archive.read_bytes()
    gradescope.write(source.load("gradient-proof"), keys.new(), again)
    assert again.read_bytes() != archive.read_bytes()


@pytest.mark.parametrize(
    ("name", "packages"),
    [("placement", ["scikit-learn"]), ("sick-model", ["torch", "scikit-learn"]), ("gradient-proof", [])],
)
def test_an_assignment_asks_for_the_packages_that_it_uses(name: str, packages: list[str]) -> None:
    found = gradescope.requirements(source.load(name))
    assert [line.partition("==")[0] for line in found] == ["numpy", "nbformat", *packages]
    assert not [line for line in found if "+" in line]


def test_scripts_are_bash(archive: Path, tmp_path: Path) -> None:
    for text in (gradescope.SETUP, gradescope.RUN):
        assert subprocess.run(["bash", "-n"], input=text, text=True, check=False).returncode == 0


def test_a_file_of_another_kind_is_not_overwritten(
    key: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = tmp_path / "thesis.zip"
    with zipfile.ZipFile(other, "w") as file:
        file.writestr("thesis.txt", "mine")
    text = tmp_path / "thesis.txt"
    text.write_text("mine")
    for path in (other, text, tmp_path):
        before = path.read_bytes() if path.is_file() else b""
        assert main(["gradescope", NAME, "-o", str(path), "--key", str(key)]) == 1
        assert "is no autograder that this command has made" in capsys.readouterr().err
        assert (path.read_bytes() if path.is_file() else b"") == before
    assert main(["gradescope", NAME, "-o", str(text / "a.zip"), "--key", str(key)]) == 1
    assert "cannot be written" in capsys.readouterr().err


def test_the_same_in_this_process(
    archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    root = unpack(archive, tmp_path / "autograder")
    (root / "submission").mkdir()
    (root / "submission" / "a.ipynb").write_text(solved(made()))
    write_json(root / "submission_metadata.json", METADATA)
    monkeypatch.setenv(gradescope.ENVIRONMENT, str(root))
    assert gradescope.main() == 0
    assert "19 points; results are in" in capsys.readouterr().out
    results = json.loads((root / "results" / "results.json").read_text())
    assert sum(test["score"] for test in results["tests"]) == 19


def test_another_folder_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(gradescope.ENVIRONMENT, str(tmp_path))
    error = io.StringIO()
    monkeypatch.setattr(sys, "stderr", error)
    assert gradescope.main() == 1
    assert "is no autograder" in error.getvalue()
    assert not (tmp_path / "results").exists()


@pytest.mark.long
def test_setup_makes_an_environment_of_its_own(archive: Path, tmp_path: Path) -> None:
    root = unpack(archive, tmp_path / "autograder")
    shutil.rmtree(root / "venv")
    environment = {**os.environ, gradescope.ENVIRONMENT: str(root)}
    subprocess.run(["bash", root / "source" / "setup.sh"], cwd=root, env=environment, check=True)
    results, _ = run(root, solved(made()))
    assert [test["score"] for test in results["tests"]] == [3, 4, 3, 5, 4]  # type: ignore[attr-defined]
