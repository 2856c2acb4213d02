"""`python -m grading assign`: students get nothing that they must not see, and it runs where nothing else is."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient
from nbformat import NotebookNode

from book.colab import wheel
from book.notebooks import ROOT
from grading import keys, source, write
from grading.__main__ import main
from grading.assign import MANIFEST, AssignError, assign
from grading.source import HIDDEN, SOLUTION, load, region

NAMES = source.names()
LIGHT = "gradient-proof"
by_name = pytest.mark.parametrize("name", NAMES)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All assignments, made by the command."""
    out = tmp_path_factory.mktemp("assign") / "out"
    assert main(["assign", "-o", str(out)]) == 0
    return out


def secrets(name: str) -> set[str]:
    """Return every line of a source that a student must not see."""
    lines = {
        line.strip() for c in load(name).notebook.cells for k in (SOLUTION, HIDDEN) for line in region(c.source, k)
    }
    return {line for line in lines if len(line) >= 3}


def versions(made: Path, name: str) -> list[Path]:
    return [made / "students" / f"{name}.ipynb", made / "students" / "colab" / f"{name}.ipynb"]


@by_name
def test_students_get_no_solution_and_no_hidden_check(made: Path, name: str) -> None:
    hidden_lines = secrets(name)
    assert len(hidden_lines) > 30
    for path in versions(made, name):
        text = path.read_text(encoding="utf-8")
        assert not re.search(r"BEGIN (SOLUTION|HIDDEN)|END SOLUTION|HIDDEN TESTS|hidden\(\\\"|from grading|ubric", text)
        notebook = nbformat.read(path, as_version=4)
        shown = {line.strip() for cell in notebook.cells for line in cell.source.splitlines()}
        assert not hidden_lines & shown
        for line in hidden_lines:
            if len(line) > 12:
                assert json.dumps(line)[1:-1] not in text
        assert all(not cell.get("outputs") and cell.get("execution_count") is None for cell in notebook.cells)


@by_name
def test_students_get_the_questions_and_the_public_checks(made: Path, name: str) -> None:
    assignment = load(name)
    for path in versions(made, name):
        notebook = nbformat.read(path, as_version=4)
        sources = "\n".join(cell.source for cell in notebook.cells)
        for question in assignment.questions:
            assert f". {question.title}\n" in sources
            assert (f'check("{question.id}", {question.function}' in sources) == bool(question.function)
        assert sources.count("raise NotImplementedError") >= len([q for q in assignment.questions if q.function])
        assert sources.count(write.TEXT_STUB) == len([q for q in assignment.questions if q.rubric])
        assert "progress()" in sources


@by_name
def test_the_colab_notebook_installs_the_wheel_of_this_source(made: Path, name: str, tmp_path: Path) -> None:
    plain, colab = (nbformat.read(path, as_version=4) for path in versions(made, name))
    install, *rest = colab.cells
    assert [cell.source for cell in rest] == [cell.source for cell in plain.cells]
    assert install.metadata["tags"] == ["install"]
    built = wheel.make(ROOT, tmp_path)
    assert f"/wheels/{built.name}#sha256={wheel.sha256(built)}" in install.source
    assert "grading/__init__.py" not in wheel.modules(built)
    assert not [file for file in wheel.modules(built) if not file.startswith("dropoutlib/")]
    assert "dropoutlib/checks/assignments/two_dropouts.py" in wheel.modules(built)


@by_name
def test_students_notebooks_run_in_an_empty_folder_and_every_check_says_not_done_yet(
    made: Path, name: str, tmp_path: Path
) -> None:
    """The one for Colab, which is the plain one and a cell before it."""
    notebook = nbformat.read(versions(made, name)[1], as_version=4)
    client = NotebookClient(
        notebook, timeout=300, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}
    )
    client.execute(env={k: v for k, v in os.environ.items() if k != "PYTHONPATH"})
    printed = "".join(output.get("text", "") for cell in notebook.cells for output in cell.get("outputs", []))
    code = [q for q in load(name).questions if q.function]
    for question in code:
        assert f"{question.id}: not done yet" in printed
    assert f"{name}: 0 of {len(code)} done" in printed
    assert not [o for c in notebook.cells for o in c.get("outputs", []) if o.output_type == "error"]
    assert list(tmp_path.iterdir()) == []


@by_name
def test_instructors_get_what_they_need(made: Path, name: str) -> None:
    assignment, pack = load(name), made / "instructors" / name
    overview, rubric, checks = (
        (pack / f"{file}.md").read_text(encoding="utf-8") for file in ("overview", "rubric", "hidden-checks")
    )
    assert f"{assignment.minutes} minutes, {assignment.points} points" in overview
    for text in (*assignment.objectives, *(f"`{key} = {value!r}`" for key, value in assignment.numbers.items())):
        assert text in overview
    for question in assignment.questions:
        number = question.id.rpartition(".")[2]
        assert f"| {number} | {question.title} | {question.kind} | {question.level} | {question.minutes} |" in overview
        heading = f"## {number}. {question.title} ({question.points} points)"
        assert (heading in checks) == bool(question.function)
        assert (heading in rubric) == bool(question.rubric)
        for points, text in question.rubric:
            assert f"- {points} point{'s' if points > 1 else ''}: {text}" in rubric
    assert "###" not in rubric
    checks = " ".join(checks.split())
    assert checks.count("probability of at most") + checks.count("Nothing is random") >= checks.count(" ## ")
    kept = nbformat.read(pack / f"{name}.ipynb", as_version=4)
    assert [cell.source for cell in kept.cells] == [cell.source for cell in assignment.notebook.cells]


def test_the_manifest_names_what_was_made(made: Path) -> None:
    manifest = json.loads((made / MANIFEST).read_text(encoding="utf-8"))
    assert list(manifest) == NAMES
    assert manifest["two-dropouts"] == {"points": 25, "minutes": 95, "variant": ""}
    assert {path.name for path in made.iterdir()} == {MANIFEST, "students", "instructors"}


# --- the command


def snapshot(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_a_variant_replaces_what_was_made_before_and_nothing_else(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    (tmp_path / "other").write_text("stays")
    assert main(["assign", LIGHT, "-o", str(out)]) == 0
    first = snapshot(out)
    assert main(["assign", LIGHT, "-o", str(out)]) == 0
    assert snapshot(out) == first
    key = tmp_path / "a.key"
    assert main(["key", str(key)]) == 0
    assert main(["assign", LIGHT, "-o", str(out), "--variant", "2026-a", "--key", str(key)]) == 0
    assert snapshot(out).keys() == first.keys()
    text = (out / "students" / f"{LIGHT}.ipynb").read_text()
    assert '"variant": "2026-a"' in text
    assert "P = 0.3\\n" not in text
    assert {path.name for path in tmp_path.iterdir()} == {"out", "other", "a.key"}
    printed = capsys.readouterr().out
    assert f"{LIGHT}: 25 points, 95 minutes, every solution has full marks" in printed
    assert "for instructors only" in printed


def fails(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """Run a command that must fail, and return its one line."""
    capsys.readouterr()
    assert main(list(arguments)) == 1
    printed = capsys.readouterr()
    assert printed.out == ""
    assert "Traceback" not in printed.err
    return printed.err.strip()


def test_bad_input_gets_one_clear_error_and_leaves_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = str(tmp_path / "out")
    foreign = tmp_path / "mine"
    foreign.mkdir()
    (foreign / "thesis.txt").write_text("mine")
    bad = tmp_path / "bad.key"
    bad.write_text("no key")
    file = tmp_path / "file"
    file.write_text("")
    cases = {
        "no assignment 'nothing'; there are gradient-proof": ["assign", "nothing", "-o", out],
        "absent.key cannot be read": ["assign", LIGHT, "-o", out, "--key", str(tmp_path / "absent.key")],
        "bad.key is no key file": ["assign", LIGHT, "-o", out, "--key", str(bad)],
        "a variant is a word": ["assign", LIGHT, "-o", out, "--variant", "a b"],
        "was not made by this command": ["assign", LIGHT, "-o", str(foreign)],
        "cannot be written": ["assign", LIGHT, "-o", str(file / "out")],
        "exists; a key is never overwritten": ["key", str(bad)],
        "no assignment 'absent'": ["store", "absent"],
    }
    before = snapshot(tmp_path)
    for message, arguments in cases.items():
        error = fails(capsys, *arguments)
        assert message in error
        assert len(error.splitlines()) == 1
    assert snapshot(tmp_path) == before
    assert {path.name for path in tmp_path.iterdir()} == {"mine", "bad.key", "file"}


def rewrite(folder: Path, change: Callable[[NotebookNode], Any]) -> None:
    path = folder / f"{LIGHT}.ipynb"
    notebook = nbformat.read(path, as_version=4)
    change(notebook)
    nbformat.write(notebook, path)


def test_a_solution_without_full_marks_stops_everything(tmp_path: Path) -> None:
    folder = tmp_path / "assignments"
    folder.mkdir()
    shutil.copyfile(source.FOLDER / f"{LIGHT}.ipynb", folder / f"{LIGHT}.ipynb")

    def spoil(notebook: NotebookNode) -> None:
        for cell in notebook.cells:
            # The hidden check in the notebook itself would stop it before the marks do.
            cell.source = cell.source.replace("return dy * mask * factor", "return dy * factor")
            cell.source = re.sub(r"(?m)^hidden\(", "_ = hidden if 1 else hidden(", cell.source)

    rewrite(folder, spoil)
    with pytest.raises(AssignError, match=r"gradient-proof\.1 has not full marks:\n.*not right yet"):
        assign([], tmp_path / "out", bytes(32), folder=folder)
    assert not (tmp_path / "out").exists()


def test_an_interruption_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "out"
    assert main(["assign", LIGHT, "-o", str(out)]) == 0
    before = snapshot(out)

    def interrupted(*arguments: object) -> None:
        (arguments[2] / "students").mkdir(parents=True)  # type: ignore[operator]
        raise KeyboardInterrupt

    monkeypatch.setattr("grading.assign.write.write", interrupted)
    with pytest.raises(KeyboardInterrupt):
        main(["assign", LIGHT, "-o", str(out), "--variant", "x"])
    assert snapshot(out) == before
    assert list(tmp_path.iterdir()) == [out]


def test_a_failed_rename_puts_the_old_folder_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert main(["assign", LIGHT, "-o", str(out)]) == 0
    before, rename = snapshot(out), Path.rename

    def refuse(self: Path, target: Path) -> Path:
        if self.name == "new":
            raise OSError(28, "No space left on device")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", refuse)
    assert fails(capsys, "assign", LIGHT, "-o", str(out)) == f"{out} cannot be written: No space left on device"
    assert snapshot(out) == before
    assert list(tmp_path.iterdir()) == [out]


def test_outputs_are_stored_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[Path] = []
    monkeypatch.setattr("book.notebooks.execute", ran.append)
    assert main(["store", LIGHT]) == 0
    assert main(["store"]) == 0
    assert ran == [source.FOLDER / f"{name}.ipynb" for name in (LIGHT, *NAMES)]


def test_the_default_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for arguments, name in ((["assign", LIGHT], "assignments"), (["assign", LIGHT, "--variant", "a"], "assignments-a")):
        assert main(arguments) == 0
        assert (tmp_path / "_build" / name / MANIFEST).is_file()


def test_the_key_of_a_published_wheel_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A wheel that the site serves already replaces a fresh one of the same modules, as it does for the chapters."""
    published = tmp_path / "_build" / "published" / "wheels"
    published.mkdir(parents=True)
    built = wheel.make(ROOT, tmp_path)
    shutil.copyfile(built, published / built.name)
    seen: list[Path] = []
    provide = wheel.provide

    def spy(root: Path, build: Path) -> Path:
        seen.append(build)
        assert (build / "published" / "wheels" / built.name).is_file()
        return provide(ROOT, build)

    monkeypatch.setattr("grading.write.ROOT", tmp_path)
    monkeypatch.setattr(wheel, "provide", spy)
    assert wheel.sha256(built) in write.install_cell().source
    assert seen
    assert not (tmp_path / "_build" / "wheels").exists()


def test_a_key_can_be_made_by_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "a.key"
    assert main(["key", str(path)]) == 0
    assert len(keys.read(path)) == keys.BYTES
    assert keys.read(path).hex() not in capsys.readouterr().out
