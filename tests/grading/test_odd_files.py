"""Whatever is handed in gets a row that says what it is and, where it can be, a mark."""

from __future__ import annotations

import csv
import json
import os

import nbformat
import pytest

from grading import reports, source, write
from grading.__main__ import main
from tests.grading.test_submissions import moved, solved, with_own_cells, without_any_id, without_nbgrader

NAME = "two-dropouts"
FULL = 19
DUE = "2026-11-20T12:00:00+00:00"
IN_TIME, LATE = 1_795_000_000, 1_795_200_000


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, str]]:
    """Hand all of them in, grade them by the command, and return the rows of grades.csv."""
    folder = tmp_path_factory.mktemp("odd")
    handed_in = folder / "in"
    handed_in.mkdir()
    assignment = source.load(NAME)
    text = nbformat.writes(solved(assignment))
    unsolved = nbformat.writes(write.student(assignment))

    def put(name: str, content: str, when: int = IN_TIME) -> None:
        (handed_in / name).write_text(content, encoding="utf-8")
        os.utime(handed_in / name, (when, when))

    put("late.ipynb", text, LATE)
    put("twice.ipynb", unsolved, IN_TIME - 100)
    put("twice (1).ipynb", text)
    put("empty.ipynb", "")
    put("corrupt.ipynb", text[: len(text) // 2])
    put("renamed.ipynb.txt", text)
    put("report.pdf", "%PDF-1.7")
    put("code.py", "import numpy as np")
    put("old.ipynb", json.dumps({"nbformat": 3, "worksheets": []}))
    put("other.ipynb", nbformat.writes(write.student(source.load("gradient-proof"))))
    put('..=1+1, "a".ipynb', text)
    for change in (without_nbgrader, without_any_id, with_own_cells, moved):
        notebook = solved(assignment)
        change(notebook)
        put(f"{change.__name__}.ipynb", json.dumps(notebook))
    with (handed_in / "huge.ipynb").open("wb") as file:
        file.truncate(500_000_000)
    (handed_in / "link.ipynb").symlink_to(handed_in / "late.ipynb")
    (handed_in / "nothing").mkdir()
    names = ["late", "absent", *(path.name.partition(".")[0] for path in handed_in.iterdir())]
    (folder / "roster.csv").write_text("\n".join(["student", *dict.fromkeys(name for name in names if name)]) + "\n")
    arguments = ["grade", NAME, str(handed_in), "-o", str(folder / "out"), "--deadline", DUE]
    assert main([*arguments, "--roster", str(folder / "roster.csv")]) == 0
    with (folder / "out" / reports.GRADES).open(encoding="utf-8-sig", newline="") as file:
        return {row["student"]: row for row in csv.DictReader(file)}


@pytest.mark.parametrize(
    ("student", "note"),
    [
        ("late", "Late: handed in "),
        ("twice", "Duplicate: twice (1).ipynb counts, the latest notebook; not read: twice.ipynb."),
        ("renamed", "Renamed: the file's name does not end in .ipynb."),
        ("without_nbgrader", ""),
        ("without_any_id", ""),
        ("with_own_cells", ""),
        ('..=1+1, "a"', "The student is not on the roster."),
    ],
)
def test_what_can_be_graded_has_its_marks(rows: dict[str, dict[str, str]], student: str, note: str) -> None:
    row = rows[student]
    assert (row["points"], row["status"]) == (str(FULL), "graded")
    assert (note in row["notes"]) if note else not row["notes"]
    assert (row["late minutes"] != "0") == (student == "late")


def test_an_answer_that_was_moved_to_the_end_keeps_its_marks(rows: dict[str, dict[str, str]]) -> None:
    assert rows["moved"]["points"] == str(FULL)


@pytest.mark.parametrize(
    ("student", "note"),
    [
        ("empty", "The file is empty."),
        ("corrupt", "cannot be read as JSON"),
        ("report", "The file is a PDF, not a notebook."),
        ("code", "cannot be read as JSON"),
        ("old", "has the format 3, and 4 is read"),
        ("other", "is that of 'gradient-proof', and this is 'two-dropouts'"),
        ("huge", "has 500 MB, and 10 MB is the most that is read"),
        ("link", "is a link to another place"),
        ("nothing", "The folder holds no file."),
        ("absent", "Nothing was handed in."),
    ],
)
def test_what_cannot_be_graded_says_why(rows: dict[str, dict[str, str]], student: str, note: str) -> None:
    row = rows[student]
    assert (row["points"], row["status"]) == ("0", "refused")
    assert note in row["notes"]
