"""Files that students hand in are found in every layout, and read whatever was done to them."""

from __future__ import annotations

import ast
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nbformat
import pytest
from hypothesis import given
from hypothesis import strategies as st
from nbformat import NotebookNode

from grading import roster, source, submissions, variant, write
from grading.source import SOLUTION, Assignment, region
from grading.submissions import Answers, Submission, SubmissionError, Unreadable, without_magics
from tests.grading.test_roster import CANVAS_FILE, MOODLE_FILE

NAME = "two-dropouts"
PROOF = "Because $m$ is 0 or 1.\n\n- so its mean is $q$"


def solved(assignment: Assignment) -> NotebookNode:
    """Return what a student hands in who knows everything."""
    notebook = write.student(assignment)
    for cell, given_ in zip(notebook.cells, assignment.notebook.cells, strict=True):
        if region(given_.source, SOLUTION):
            lines = given_.source.splitlines()
            cell.source = "\n".join(line for line in lines if not line.strip().startswith("### "))
        if cell.metadata.get("nbgrader", {}).get("grade_id") == f"{NAME}-4":
            cell.source = PROOF
    return notebook


@pytest.fixture(scope="module")
def assignment() -> Assignment:
    return source.load(NAME)


@pytest.fixture
def notebook(assignment: Assignment) -> NotebookNode:
    return solved(assignment)


def put(path: Path, text: str | bytes = "{}", when: int = 1_700_000_000) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    os.utime(path, (when, when))
    return path


def read(tmp_path: Path, notebook: Any, assignment: Assignment, name: str = "alice.ipynb") -> Answers:
    text = nbformat.writes(notebook) if isinstance(notebook, NotebookNode) else notebook
    text = text if isinstance(text, str | bytes) else json.dumps(text)
    return submissions.read(Submission("alice", put(tmp_path / name, text)), assignment)


def refused(tmp_path: Path, notebook: Any, assignment: Assignment, name: str = "alice.ipynb") -> str:
    with pytest.raises(Unreadable) as caught:
        read(tmp_path, notebook, assignment, name)
    return str(caught.value)


def check_complete(answers: Answers, assignment: Assignment) -> None:
    """Insist that nothing of a solved notebook was lost."""
    assert answers.functions == {q.id: q.function for q in assignment.questions if q.function}
    defined = "\n".join(cell.source for cell in answers.cells)
    for name in answers.functions.values():
        assert f"def {name}(" in defined or f"class {name}:" in defined
    assert answers.written[f"{NAME}.4"] == PROOF
    assert answers.written[f"{NAME}.7"].startswith("At $p = .5$ we have")
    for cell in answers.cells:
        ast.parse(cell.source)


# --- find


def students(folder: Path, **options: Any) -> dict[str, str]:
    return {s.student: s.file for s in submissions.find(folder, **options)}


def test_flat_files(tmp_path: Path) -> None:
    for name in ("alice.ipynb", "Bob Smith.ipynb", f"carol_{NAME}.ipynb", f"{NAME}-dave.ipynb", "alice.smith.ipynb",
                 "eve.ipynb.txt", "frank.pdf", "=1+1.ipynb", "zoë.ipynb"):  # fmt: skip
        put(tmp_path / name)
    for name in (".DS_Store", "._alice.ipynb", "__MACOSX/x.ipynb", ".ipynb_checkpoints/a.ipynb", "Thumbs.db"):
        put(tmp_path / name)
    found = students(tmp_path, assignment=NAME)
    assert list(found) == ["=1+1", "alice", "alice.smith", "Bob Smith", "carol", "dave", "eve", "frank", "zoë"]
    assert found["carol"] == f"carol_{NAME}.ipynb"


def test_folders(tmp_path: Path) -> None:
    put(tmp_path / "alice" / "anything.ipynb")
    put(tmp_path / "bob" / "deep" / "er" / "x.ipynb")
    for name in (submissions.MANIFEST, "grades.csv"):
        put(tmp_path / "results" / name)
    put(tmp_path / "dave" / submissions.MANIFEST)
    put(tmp_path / "results" / "records" / "alice.json")
    (tmp_path / "carol").mkdir()
    assert students(tmp_path) == {
        "alice": "alice/anything.ipynb",
        "bob": "bob/deep/er/x.ipynb",
        "carol": "carol",
        "dave": f"dave/{submissions.MANIFEST}",
    }
    empty = submissions.find(tmp_path)[2]
    assert empty.path is None
    assert empty.notes == ("The folder holds no file.",)


def test_nbgrader(tmp_path: Path) -> None:
    course = tmp_path / "submitted"
    put(course / "alice" / NAME / f"{NAME}.ipynb", when=1_600_000_000)
    put(course / "alice" / NAME / "scratch.ipynb", when=1_700_000_000)
    put(course / "alice" / NAME / "timestamp.txt", "2026-11-20 15:58:23.948203 America/Los_Angeles")
    put(course / "alice" / "gradient-proof" / "gradient-proof.ipynb", when=1_800_000_000)
    put(course / "bob" / NAME / f"{NAME}.ipynb")
    put(course / "bob" / NAME / "timestamp.txt", "whenever")
    alice, bob = submissions.find(tmp_path, assignment=NAME)
    assert alice.file == f"submitted/alice/{NAME}/{NAME}.ipynb"
    assert alice.received == "2026-11-20T23:58:23+00:00"
    assert bob.received == "2023-11-14T22:13:20+00:00"
    forged = submissions.find(course.rename(tmp_path / "unpacked"), assignment=NAME)[0]
    assert forged.received == "2020-09-13T12:26:40+00:00"


def test_canvas(tmp_path: Path) -> None:
    put(tmp_path / "smithalice_101_9001_two-dropouts.ipynb", when=2)
    put(tmp_path / "smithalice_101_9002_two-dropouts-1.ipynb", when=1)
    put(tmp_path / "smithalice_102_9003_two-dropouts.ipynb")
    put(tmp_path / "oneilærøbob_LATE_103_9004_my_file_2.ipynb")
    put(tmp_path / "LATE_anon_ab12c_9005_x.ipynb")
    found = {s.student: s for s in submissions.find(tmp_path)}
    assert list(found) == ["anon_ab12c", "oneilærøbob_103", "smithalice_101", "smithalice_102"]
    assert found["smithalice_101"].file.endswith("-1.ipynb")
    assert "Duplicate" in found["smithalice_101"].notes[0]
    for name in ("oneilærøbob_103", "anon_ab12c"):
        assert found[name].notes == ("Late: so Canvas has marked it.",)
    path = put(tmp_path.with_name("canvas.csv"), CANVAS_FILE)
    assert list(students(tmp_path, roster=roster.read(path)))[1:] == [
        "oneilærøbob_103",
        "smithalice_101",
        "smithalice_102",
        "studenttest_104",
    ]


def test_moodle(tmp_path: Path) -> None:
    put(tmp_path / "Alice Smith_501_assignsubmission_file_" / "x.ipynb")
    put(tmp_path / "Alice Smith_501_assignsubmission_onlinetext_" / "onlinetext.html")
    put(tmp_path / "Bob O'Neil_502_assignsubmission_file" / "y.ipynb")
    put(tmp_path / "Carol_503_assignsubmission_file_z.ipynb")
    found = {s.student: s for s in submissions.find(tmp_path)}
    assert list(found) == ["Alice Smith_501", "Bob O'Neil_502", "Carol_503"]
    assert found["Alice Smith_501"].file.endswith("/x.ipynb")
    people = roster.read(put(tmp_path.with_name("moodle.csv"), MOODLE_FILE))
    again = {s.student: s for s in submissions.find(tmp_path, people)}
    assert list(again) == list(found)
    assert again["Carol_503"].notes == ("The student is not on the roster.",)


def test_the_latest_notebook_counts(tmp_path: Path) -> None:
    put(tmp_path / "alice.ipynb", when=1_000)
    put(tmp_path / "alice (1).ipynb", when=3_000)
    put(tmp_path / "Copy of alice.ipynb", when=2_000)
    put(tmp_path / "alice.pdf", when=9_000)
    (only,) = submissions.find(tmp_path)
    assert only.file == "alice (1).ipynb"
    assert only.notes == (
        "Duplicate: alice (1).ipynb counts, the latest notebook; "
        "not read: Copy of alice.ipynb, alice.ipynb, alice.pdf.",
    )


def test_a_deadline_and_a_roster_are_noted(tmp_path: Path) -> None:
    put(tmp_path / "s" / "alice.ipynb", when=1_700_000_000)
    put(tmp_path / "s" / "mallory.ipynb", when=1_700_000_000)
    people = roster.read(put(tmp_path / "r.csv", "student\nalice\nbob\n"))
    due = submissions.deadline("2023-11-14T20:00:00+00:00")
    alice, bob, mallory = submissions.find(tmp_path / "s", people, due)
    assert alice.late_seconds == 8000
    assert alice.notes == ("Late: handed in 2 hours and 13 minutes after the deadline, by the file's date.",)
    assert (bob.path, bob.notes) == (None, ("Nothing was handed in.",))
    assert mallory.notes[0] == "The student is not on the roster."
    on_time = submissions.find(tmp_path / "s", due=submissions.deadline("2023-11-14T22:13:20Z"))
    assert [s.late_seconds for s in on_time] == [0, 0]
    for text in ("soon", "", "2026-13-01", "0001-01-01T00:00+14:00"):
        with pytest.raises(SubmissionError, match="a deadline is a date such as"):
            submissions.deadline(text)


@pytest.mark.parametrize(("seconds", "text"), [(1, "1 minute"), (3600, "1 hour"), (90_000, "1 day and 1 hour")])
def test_durations_are_told(seconds: float, text: str) -> None:
    assert submissions._duration(seconds) == text


def test_links_and_pipes_are_never_followed(tmp_path: Path, assignment: Assignment) -> None:
    secret = put(tmp_path / "secret" / "key.ipynb", "secret")
    folder = tmp_path / "s"
    folder.mkdir()
    (folder / "alice.ipynb").symlink_to(secret)
    (folder / "bob").symlink_to(secret.parent)
    os.mkfifo(folder / "carol.ipynb")
    (folder / "dave").mkdir()
    (folder / "dave" / "x.ipynb").symlink_to(secret)
    (folder / "dave" / "sub").symlink_to("/")
    found = submissions.find(folder)
    assert [s.student for s in found] == ["alice", "bob", "carol", "dave"]
    for submission in found:
        with pytest.raises(Unreadable, match=r"link to another place|no regular file"):
            submissions.read(submission, assignment)


def test_a_folder_that_is_too_deep_or_too_full_is_read_in_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(submissions, "MOST_FILES", 2)
    monkeypatch.setattr(submissions, "MOST_DEPTH", 1)
    for k in range(4):
        put(tmp_path / "alice" / f"{k}.ipynb", when=k)
    put(tmp_path / "alice" / "a" / "b" / "deep.ipynb", when=9)
    put(tmp_path / "alice" / ".git" / "x.ipynb", when=9)
    assert students(tmp_path) == {"alice": "alice/1.ipynb"}


def test_a_folder_that_cannot_be_entered_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(tmp_path / "alice" / "x.ipynb")
    scandir = os.scandir

    def refuse(path: Path) -> Any:
        if path.name == "alice":
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    assert submissions.find(tmp_path)[0].notes == ("The folder holds no file.",)


def test_names_that_are_no_text_are_told_apart(tmp_path: Path) -> None:
    for name in (b"a\xff.ipynb", b"a\xfe.ipynb"):
        put(Path(os.fsdecode(os.fsencode(tmp_path) + b"/" + name)))
    assert list(students(tmp_path)) == [r"a\xfe", r"a\xff"]


def test_a_folder_that_cannot_be_used_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SubmissionError, match="cannot be read: No such file"):
        submissions.find(tmp_path / "absent")
    with pytest.raises(SubmissionError, match="cannot be read: Not a directory"):
        submissions.find(put(tmp_path / "file"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(SubmissionError, match="holds no submission"):
        submissions.find(tmp_path / "empty")


# --- read


def test_a_notebook_as_it_was_given(tmp_path: Path, notebook: NotebookNode, assignment: Assignment) -> None:
    answers = read(tmp_path, notebook, assignment)
    check_complete(answers, assignment)
    assert answers.notes == ()
    assert [cell.question for cell in answers.cells if "draw_mask(shape" in cell.source] == [f"{NAME}.1"]
    assert answers.cells[2].label == "cell 5 (question 1)"


def test_an_untouched_notebook_has_no_written_answer(tmp_path: Path, assignment: Assignment) -> None:
    answers = read(tmp_path, write.student(assignment), assignment)
    assert set(answers.written.values()) == {""}
    assert answers.notes == ()


@pytest.mark.parametrize("name", source.names())
def test_every_assignment_is_read(tmp_path: Path, name: str) -> None:
    for made in (source.load(name), variant.make(source.load(name), "2026-x")):
        answers = read(tmp_path, write.student(made), made)
        assert answers.functions == {q.id: q.function for q in made.questions if q.function}
        assert answers.written == {q.id: "" for q in made.questions if q.rubric}
        assert answers.notes == ()
        assert {cell.question for cell in answers.cells if cell.question} >= set(answers.functions)


def without_nbgrader(notebook: NotebookNode) -> None:
    """As Colab saves a notebook: ids in the metadata, format 4.0, and no metadata of others."""
    for cell in notebook.cells:
        cell.metadata = NotebookNode({"id": cell.pop("id")})
    notebook.nbformat_minor = 0


def without_any_id(notebook: NotebookNode) -> None:
    for cell in notebook.cells:
        cell.metadata = NotebookNode({"id": f"x{id(cell)}"})
        cell.pop("id")
    notebook.metadata = NotebookNode({"colab": {"provenance": []}})
    notebook.nbformat_minor = 0


def with_the_install_cell(notebook: NotebookNode) -> None:
    install = write.install_cell()
    install.metadata = NotebookNode()
    install.id = "abc"
    notebook.cells.insert(0, install)


def with_own_cells(notebook: NotebookNode) -> None:
    for index in range(len(notebook.cells), 0, -1):
        notebook.cells.insert(index, nbformat.v4.new_code_cell("scratch = 1"))
    notebook.cells.insert(0, nbformat.v4.new_markdown_cell("# My notes"))


def moved(notebook: NotebookNode) -> None:
    notebook.cells.append(notebook.cells.pop(4))
    notebook.cells.insert(0, next(c for c in notebook.cells if c.source == PROOF))


@pytest.mark.parametrize("change", [without_nbgrader, without_any_id, with_the_install_cell, with_own_cells, moved])
def test_a_changed_notebook_is_complete(
    tmp_path: Path, notebook: NotebookNode, assignment: Assignment, change: Callable[[NotebookNode], None]
) -> None:
    change(notebook)
    answers = read(tmp_path, json.dumps(notebook), assignment)
    if change is not moved:
        check_complete(answers, assignment)
    assert answers.written[f"{NAME}.4"].startswith(PROOF)
    assert answers.notes == ()
    assert not [cell for cell in answers.cells if "pip" in cell.source]


def test_source_may_be_a_list_of_lines_and_cells_may_be_damaged(
    tmp_path: Path, notebook: NotebookNode, assignment: Assignment
) -> None:
    made = json.loads(json.dumps(notebook))
    for cell in made["cells"]:
        cell["source"] = cell["source"].splitlines(keepends=True)
        cell["metadata"] = []
    made["cells"][1:1] = [3, {}, {"cell_type": "code", "source": [1]}, {"cell_type": 4, "source": "x"}]
    answers = read(tmp_path, made, assignment)
    check_complete(answers, assignment)
    assert answers.notes == tuple(f"Cell {k} is damaged and was left out." for k in (2, 3, 4))


def test_an_answer_beside_its_cell_is_found(tmp_path: Path, notebook: NotebookNode, assignment: Assignment) -> None:
    """In a cell of its own, in the text of the question, or with the answer's cell turned into code."""
    place = next(k for k, cell in enumerate(notebook.cells) if cell.source == PROOF)
    given_, answer = notebook.cells[place - 1], notebook.cells[place]
    answer.source = write.TEXT_STUB
    notebook.cells.insert(place + 1, nbformat.v4.new_markdown_cell("Elsewhere."))
    given_.source += "\n\nIn the question."
    assert read(tmp_path, notebook, assignment).written[f"{NAME}.4"] == "In the question.\n\nElsewhere."
    answer.source, answer.cell_type = "As code.", "code"
    assert "As code." in read(tmp_path, json.dumps(notebook), assignment).written[f"{NAME}.4"]
    last = notebook.cells[-1]
    notebook.cells += [nbformat.v4.new_markdown_cell("Thanks for everything!")]
    assert last.source == "progress()"
    assert "Thanks" not in str(read(tmp_path, json.dumps(notebook), assignment).written)


def test_pictures_and_long_answers_are_noted(tmp_path: Path, notebook: NotebookNode, assignment: Assignment) -> None:
    answer = next(cell for cell in notebook.cells if cell.source == PROOF)
    answer.attachments = {"proof.png": {"image/png": "aGk="}}
    answer.source = "![](attachment:proof.png)" + "x" * submissions.MOST_ANSWER
    answers = read(tmp_path, notebook, assignment)
    assert len(answers.written[f"{NAME}.4"]) == submissions.MOST_ANSWER
    assert answers.notes == (
        f"The answer to {NAME}.4 was cut to {submissions.MOST_ANSWER} characters.",
        f"The answer to {NAME}.4 holds a picture; open the notebook to see it.",
    )


def test_another_name_of_a_function_is_taken_from_its_check(
    tmp_path: Path, notebook: NotebookNode, assignment: Assignment
) -> None:
    for cell in notebook.cells:
        cell.source = cell.source.replace("draw_mask", "my_mask") if cell.cell_type == "code" else cell.source
    answers = read(tmp_path, notebook, assignment)
    assert answers.functions[f"{NAME}.1"] == "my_mask"
    assert answers.notes == (f"The answer to {NAME}.1 is called my_mask, not draw_mask.",)
    for cell in notebook.cells:
        cell.source = cell.source.replace("def my_mask", "def other")
    assert read(tmp_path, notebook, assignment).functions[f"{NAME}.1"] == "draw_mask"


def test_a_renamed_file_and_another_class_are_noted(
    tmp_path: Path, notebook: NotebookNode, assignment: Assignment
) -> None:
    assert read(tmp_path, notebook, assignment, "alice.txt").notes == (
        "Renamed: the file's name does not end in .ipynb.",
    )
    answers = read(tmp_path, notebook, variant.make(assignment, "2026-x"))
    assert answers.notes[0] == "The notebook is of the variant '', and is graded as '2026-x'."
    empty = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("print(1)")])
    assert read(tmp_path, empty, assignment).notes == ("No question of this assignment was found in the notebook.",)


def test_what_is_no_notebook_of_the_assignment_is_refused(
    tmp_path: Path, notebook: NotebookNode, assignment: Assignment
) -> None:
    cases: list[tuple[str | bytes, str]] = [
        ("", "The file is empty."),
        (" \n", "The file is empty."),
        (b"%PDF-1.7 ...", "The file is a PDF, not a notebook."),
        (b"PK\x03\x04...", "The file is a zip file, not a notebook."),
        ("<!DOCTYPE html>", "The file is HTML, not a notebook."),
        (b"\x89PNG...", "The file is a picture, not a notebook."),
        ("import numpy", "cannot be read as JSON"),
        (nbformat.writes(notebook)[:-100], "cannot be read as JSON"),
        (b'{"\xff": 1}', "cannot be read as JSON"),
        ("[" * 1_000_000, "nested too deeply"),
        ('{"a":' * 1_000_000, "nested too deeply"),
        ("[1]", "JSON without 'nbformat'"),
        ('{"nbformat": "4"}', "JSON without 'nbformat'"),
        ('{"nbformat": true}', "JSON without 'nbformat'"),
        ('{"nbformat": 3, "worksheets": []}', "has the format 3, and 4 is read"),
        ('{"nbformat": 4}', "has no list of cells"),
        ('{"nbformat": ' + "9" * 5000 + "}", "cannot be read as JSON"),
    ]
    for text, message in cases:
        assert message in refused(tmp_path, text, assignment), message
    other = nbformat.writes(write.student(source.load("gradient-proof")))
    assert "is that of 'gradient-proof', and this is 'two-dropouts'" in refused(tmp_path, other, assignment)
    with pytest.raises(Unreadable, match=r"Nothing was handed in\."):
        submissions.read(Submission("alice", None), assignment)


def test_a_refused_file_is_known_by_its_digest(tmp_path: Path, assignment: Assignment) -> None:
    with pytest.raises(Unreadable) as caught:
        read(tmp_path, "x", assignment)
    assert len(caught.value.sha256) == 64


def test_a_huge_file_is_not_read(tmp_path: Path, assignment: Assignment, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "alice.ipynb"
    with path.open("wb") as file:
        file.truncate(500_000_000)
    monkeypatch.setattr(json, "loads", None)
    with pytest.raises(Unreadable, match=r"The file has 500 MB, and 10 MB is the most that is read\."):
        submissions.read(Submission("alice", path), assignment)


def test_the_number_of_cells_is_limited(
    tmp_path: Path, assignment: Assignment, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(submissions, "MOST_CELLS", 3)
    answers = read(tmp_path, write.student(assignment), assignment)
    assert len(answers.cells) == 2
    assert "the first 3 were read" in answers.notes[0]


def test_byte_order_marks_are_read(tmp_path: Path, notebook: NotebookNode, assignment: Assignment) -> None:
    for encoding in ("utf-8-sig", "utf-16"):
        check_complete(read(tmp_path, nbformat.writes(notebook).encode(encoding), assignment), assignment)


FIELDS = st.sampled_from(["cells", "source", "metadata", "cell_type", "nbgrader", "id", "tags"])
ATOMS = st.none() | st.booleans() | st.integers() | st.text(max_size=5)
JSON = st.recursive(ATOMS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(FIELDS, inner))


@given(JSON)
def test_any_json_is_read_or_refused(value: Any) -> None:
    made = source.load(NAME)
    for notebook in (value, {"nbformat": 4, "cells": value}, {"nbformat": 4, "cells": [value], "metadata": value}):
        try:
            reading = submissions._Reading(made, [])
            parsed = submissions._notebook(json.dumps(notebook).encode())
            submissions._other(parsed, made)
            for cell in parsed["cells"]:
                reading.take(cell)
            reading.answers("")
        except Unreadable:
            pass


# --- magics

MAGICS = {
    "%matplotlib inline\nx = 1": "pass\nx = 1",
    "!pip install x\nx = 1": "pass\nx = 1",
    "if x:\n    !ls 'a\n    y = 1": "if x:\n    pass\n    y = 1",
    "x = !ls": "x = None",
    "x = %time f()": "x = None",
    "%time x = f(1)": "x = f(1)",
    "%%time\nx = 1": "pass\nx = 1",
    "%%capture out\nx = 1": "pass\nx = 1",
    "%%bash\nrm -rf x": "",
    "%%writefile a.py\nx = 1": "",
    "?print\nprint?\nnp.sum??\nx = 1": "pass\npass\npass\nx = 1",
    "!pip install \\\n  x\ny = 1": "pass\n\ny = 1",
}
PYTHON = [
    "x = (7\n% 3)",
    "x = 7 \\\n% 3",
    "s = '''\n%not magic\n!nor this\n'''",
    's = """a\n%b""" + "c"\nx = 1',
    "s = 'it\\'s' # don't (\nx = 1",
    "x != 1\nx %= 2",
    "x = {'a': [1,\n% 2]}",
    "# %magic\n",
    "",
]


@pytest.mark.parametrize(("cell", "expected"), MAGICS.items())
def test_magics_are_taken_out(cell: str, expected: str) -> None:
    assert without_magics(cell) == expected
    ast.parse(without_magics(cell))


@pytest.mark.parametrize("cell", PYTHON)
def test_python_stays(cell: str) -> None:
    assert without_magics(cell) == cell


@pytest.mark.parametrize("module", ["numpy.linalg._linalg", "argparse", "tokenize", "ast", "tarfile"])
def test_real_code_stays(module: str) -> None:
    import importlib

    path = importlib.import_module(module).__file__
    assert path
    text = Path(path).read_text()
    assert without_magics(text) == text


@given(st.text(st.sampled_from("%!?'\"#()[]\\\n x=")))
def test_nothing_breaks_the_search_for_magics(cell: str) -> None:
    assert without_magics(cell).count("\n") in (cell.count("\n"), 0)


def test_it_takes_no_time(tmp_path: Path, assignment: Assignment) -> None:
    for text in (
        "'" * 200_000,
        "(" * 200_000,
        "\\" * 200_000,
        '"""' + "a\\" * 100_000,
        " " * 200_000,
        "x" * 200_000 + "?",
    ):
        without_magics(text)
        notebook = nbformat.v4.new_notebook(
            cells=[nbformat.v4.new_code_cell(text), nbformat.v4.new_markdown_cell(text)]
        )
        read(tmp_path, notebook, assignment)
    assert sys.getrecursionlimit() <= 3000
