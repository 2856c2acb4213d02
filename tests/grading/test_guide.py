"""The instructors' guide is followed: its commands are run in order, and a person's part in between is played."""

from __future__ import annotations

import csv
import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import nbformat
import pytest
from bs4 import BeautifulSoup

from book.notebooks import ROOT
from grading import source
from grading.source import HIDDEN, SOLUTION, region, without

GUIDE = ROOT / "appendix" / "instructors.md"
NAME = "two-dropouts"
HONEST, WRONG, EMPTY, LATE, COLAB = "adamsada_101", "bakerben_102", "colecleo_103", "diazdan_104", "elliseva_105"
ABSENT = "foxfay_106"
PEOPLE = ("Adams, Ada", "Baker, Ben", "Cole, Cleo", "Diaz, Dan", "Ellis, Eva", "Fox, Fay")
SOLVED = (HONEST, LATE, COLAB)


def blocks() -> list[str]:
    """Return the commands of the guide, block by block."""
    found = re.findall(r"^```(\w+)\n(.*?)^```$", GUIDE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    return [block for language, block in found if language == "sh"]


@dataclass
class Class:
    """A folder in which somebody follows the guide."""

    folder: Path

    def run(self, block: str) -> str:
        """Run commands as the guide shows them, and return what they print."""
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", block],
            cwd=self.folder,
            env=os.environ | {"PYTHONPATH": str(ROOT), "PATH": f"{self.folder.parent / 'bin'}:{os.environ['PATH']}"},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, f"{block}\n{done.stdout}{done.stderr}"
        return done.stdout

    def rows(self, name: str) -> list[dict[str, str]]:
        with (self.folder / name).open(encoding="utf-8-sig", newline="") as file:
            return list(csv.DictReader(file))

    def grades(self) -> dict[str, dict[str, str]]:
        return {row["student"]: row for row in self.rows("marks/grades.csv")}

    # --- what people do between the commands

    def hand_in(self) -> None:
        """The class uploads to Canvas, and the instructor downloads the archive and the gradebook."""
        blank = (self.folder / f"assignment/students/{NAME}.ipynb").read_text(encoding="utf-8")
        files = {
            "adamsada_101_9001_two-dropouts.ipynb": self.solved(),
            "bakerben_102_9002_two-dropouts.ipynb": self.solved().replace("y = y / (1 - p)", "y = y / p"),
            "colecleo_103_9003_two-dropouts.ipynb": blank,
            "diazdan_LATE_104_9004_two-dropouts-2.ipynb": self.solved(),
            "elliseva_105_9005_Copy of two-dropouts.ipynb": self.solved(colab=True),
        }
        with zipfile.ZipFile(self.folder / "submissions.zip", "w") as archive:
            for name, text in files.items():
                archive.writestr(name, text)
        with (self.folder / "gradebook.csv").open("w", newline="", encoding="utf-8") as file:
            table = csv.writer(file)
            table.writerow(["Student", "ID", "SIS User ID", "SIS Login ID", "Section", "Final Score"])
            table.writerow(["    Points Possible", "", "", "", "", "(read only)"])
            for number, student in enumerate(PEOPLE, start=101):
                table.writerow([student, number, "", student.partition(",")[0].lower(), "Autumn", ""])

    def solved(self, colab: bool = False) -> str:
        """Return the students' notebook with the solutions filled in, and for Colab without metadata that it drops."""
        kind = "students/colab" if colab else "students"
        notebook = nbformat.read(self.folder / f"assignment/{kind}/{NAME}.ipynb", as_version=4)
        model = nbformat.read(self.folder / f"assignment/instructors/{NAME}/{NAME}.ipynb", as_version=4)
        solutions = {cell.id: cell for cell in model.cells if region(cell.source, SOLUTION)}
        filled = 0
        for cell in notebook.cells:
            if solution := solutions.get(cell.id):
                lines = without(solution.source, HIDDEN, "").partition("**Rubric**")[0].splitlines()
                cell.source = "\n".join(line for line in lines if not line.strip().startswith("### "))
                filled += 1
            if colab:
                cell.metadata = {"id": cell.id}
        assert filled == len(source.load(NAME).questions)
        return nbformat.writes(notebook)

    def mark(self) -> None:
        """The instructor gives full points for each line, but for one of Ben's."""
        rows = self.rows("marks/rubric.csv")
        assert rows
        for row in rows:
            row["points given"] = row["points possible"]
        first = next(row for row in rows if row["student"] == WRONG)
        first["points given"], first["comment"] = "0", "Say why the mean of m is q."
        with (self.folder / "marks/rubric.csv").open("w", newline="", encoding="utf-8") as file:
            table = csv.DictWriter(file, rows[0].keys())
            table.writeheader()
            table.writerows(rows)

    def correct_a_file(self) -> None:
        """Ben had uploaded the wrong file, and his instructor puts the right one into the folder."""
        (self.folder / "submissions/bakerben_102_9002_two-dropouts.ipynb").write_text(self.solved(), encoding="utf-8")


@pytest.fixture
def course(tmp_path: Path) -> Class:
    """An empty folder, with the repository's Python first on the path, as the guide asks for."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "class").mkdir()
    (tmp_path / "bin" / "python").write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n', encoding="utf-8")
    (tmp_path / "bin" / "python").chmod(0o755)
    return Class(tmp_path / "class")


def test_the_guide_shows_each_command_that_an_instructor_needs() -> None:
    shown = [match[1] for block in blocks() for match in re.finditer(r"python -m grading (\w+)", block)]
    assert shown == ["key", "assign", "grade", "rubric", "merge", "regrade", "regrade", "export", "gradescope"]
    assert "python -m zipfile -e submissions.zip submissions" in "".join(blocks())


# --- what there must be after each block

Before = dict[str, dict[str, str]]


def after_assign(course: Class, printed: str, before: Before) -> None:
    assert "every solution has full marks" in printed
    assert {path.name for path in course.folder.iterdir()} == {"private.key", "assignment"}


def after_zipfile(course: Class, printed: str, before: Before) -> None:
    assert len(list((course.folder / "submissions").iterdir())) == 5


def after_grade(course: Class, printed: str, before: Before) -> None:
    assert printed.startswith(("Submissions run in bubblewrap", "warning: "))
    assert "6 graded, 0 graded before" in printed
    assignment = source.load(NAME)
    code = sum(question.points for question in assignment.questions if question.function)
    grades = course.grades()
    assert set(grades) == {*SOLVED, WRONG, EMPTY, ABSENT}
    for student in SOLVED:
        assert (grades[student]["points"], grades[student]["complete"]) == (str(code), "no")
    assert grades[WRONG]["points"] == str(code - 4)
    assert grades[WRONG]["two-dropouts.2"] == "0"
    assert grades[EMPTY]["points"] == grades[ABSENT]["points"] == "0"
    assert "Late" in grades[LATE]["notes"]
    assert "Nothing was handed in" in grades[ABSENT]["notes"]
    for student in (HONEST, WRONG, EMPTY):
        page = BeautifulSoup((course.folder / "marks" / grades[student]["feedback"]).read_text(), "html.parser")
        assert page.h1
        assert "hidden(" not in page.get_text()
    assert (course.folder / "marks/summary.html").is_file()
    assert json.loads((course.folder / "marks/json" / f"{HONEST}.json").read_text())["tests"]


def after_rubric(course: Class, printed: str, before: Before) -> None:
    rows = course.rows("marks/rubric.csv")
    assert {row["student"] for row in rows} == {*SOLVED, WRONG}
    assert {row["points given"] for row in rows} == {""}


def after_merge(course: Class, printed: str, before: Before) -> None:
    assert "the marks of 4 students have changed; 0 answers are to be marked" in printed
    grades, out_of = course.grades(), source.load(NAME).points
    for student in SOLVED:
        assert (grades[student]["points"], grades[student]["complete"]) == (str(out_of), "yes")
    assert grades[WRONG]["points"] == str(out_of - 4 - 1)
    assert "Say why the mean of m is q." in (course.folder / "marks" / grades[WRONG]["feedback"]).read_text()


def after_regrade(course: Class, printed: str, before: Before) -> None:
    changes = [line for line in printed.splitlines() if " -> " in line]
    assert len(changes) == 1
    assert changes[0].startswith(f"{WRONG}, two-dropouts.2: 0 of 4, wrong")
    assert "-> 4 of 4, passed; another file was handed in" in changes[0]
    assert "1 of 6 students change" in printed
    assert course.grades() == before


def after_regrade_write(course: Class, printed: str, before: Before) -> None:
    grades = course.grades()
    assert "replaced" in printed
    assert grades[WRONG]["points"] == str(source.load(NAME).points - 1)
    unchanged = {*SOLVED, EMPTY, ABSENT}
    points = {student: row["points"] for student, row in grades.items() if student in unchanged}
    assert points == {student: before[student]["points"] for student in unchanged}
    assert (course.folder / "marks/before/1").is_dir()


def after_export(course: Class, printed: str, before: Before) -> None:
    title, out_of = source.load(NAME).title, source.load(NAME).points
    marks = {row["Student"].strip(): row[title] for row in course.rows("upload.csv")}
    full = str(out_of)
    assert [marks[student] for student in PEOPLE] == [full, str(out_of - 1), "0", full, full, ""]
    assert marks["Points Possible"] == full
    assert ABSENT in printed


def after_gradescope(course: Class, printed: str, before: Before) -> None:
    with zipfile.ZipFile(course.folder / "autograder.zip") as archive:
        assert {"run_autograder", "setup.sh", "private.key"} <= set(archive.namelist())
    assert (course.folder / "autograder.zip").stat().st_mode & 0o077 == 0


AFTER: dict[str, Callable[[Class, str, Before], None]] = {
    "assign": after_assign,
    "zipfile": after_zipfile,
    "grade": after_grade,
    "rubric": after_rubric,
    "merge": after_merge,
    "regrade": after_regrade,
    "regrade --write": after_regrade_write,
    "export": after_export,
    "gradescope": after_gradescope,
}


@pytest.mark.skipif(shutil.which("bash") is None, reason="the commands are shown for bash")
def test_the_guide_is_followed_from_start_to_end(course: Class) -> None:
    between = {"zipfile": course.hand_in, "merge": course.mark, "regrade": course.correct_a_file}
    for block in blocks():
        words = re.findall(r"python -m (?:grading )?(\w+)", block)
        if part := between.pop(words[0], None):
            part()
        before = course.grades() if words[0] == "regrade" else {}
        AFTER[words[-1] + (" --write" if "--write" in block else "")](course, course.run(block), before)
    assert between == {}
