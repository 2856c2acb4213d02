"""The sources keep every rule, and each broken rule is found and named."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbformat import NotebookNode

from book import notebooks
from grading import source
from grading.source import HIDDEN, SOLUTION, AssignmentError, load, region, without

NAMES = source.names()
by_name = pytest.mark.parametrize("name", NAMES)


def test_there_are_five_assignments() -> None:
    assert NAMES == ["gradient-proof", "placement", "reproducible-streams", "sick-model", "two-dropouts"]


@by_name
def test_a_source_says_all_that_an_instructor_needs(name: str) -> None:
    assignment = load(name)
    assert assignment.points == 25
    assert 60 <= assignment.minutes <= 120
    assert len(assignment.objectives) >= 4
    first = assignment.notebook.cells[0].source
    assert f"about {assignment.minutes} minutes · {assignment.points} points" in first
    assert first.startswith(f"# {assignment.title}\n")
    code = [q for q in assignment.questions if q.function]
    written = [q for q in assignment.questions if q.rubric]
    assert len(code) >= 5
    assert len(written) >= 2 or name == "reproducible-streams"
    assert [int(q.id.rpartition(".")[2]) for q in assignment.questions] == list(range(1, len(assignment.questions) + 1))
    assert len({q.level for q in assignment.questions}) == 3
    assert any(q.given for q in code), "a question asks for numbers of the class"


@by_name
def test_stored_outputs_keep_the_rules_of_the_chapters(name: str) -> None:
    assert notebooks.problems(source.FOLDER / f"{name}.ipynb") == []


@by_name
def test_names_are_such_that_variants_can_change_them(name: str) -> None:
    assignment = load(name)
    functions = {q.function for q in assignment.questions if q.function}
    assert set(assignment.other_names) == functions
    every = [new for names in assignment.other_names.values() for new in names]
    assert len(every) == len(set(every)) >= 2 * len(functions)
    text = "\n".join(cell.source for cell in assignment.notebook.cells)
    assert not [new for new in every if re.search(rf"\b{new}\b", text)]
    for quoted in re.findall(r"f\"[^\"]*\"", text):
        assert not any(re.search(rf"\b{function}\b", quoted) for function in functions), "not inside an f-string"
    used = {number for q in assignment.questions for number in q.given}
    assert used | {"SPLIT"} >= set(assignment.numbers)


@by_name
def test_the_first_four_need_numpy_alone(name: str) -> None:
    imported = {
        line.split()[1].split(".")[0]
        for source_ in load(name).code()
        for line in source_.splitlines()
        if line.startswith(("import ", "from "))
    }
    allowed = {"numpy", "dropoutlib", "grading"} | ({"torch"} if name == "sick-model" else set())
    assert imported <= allowed


# --- broken sources


@pytest.fixture
def notebook() -> NotebookNode:
    return copy.deepcopy(load("two-dropouts").notebook)


def cell_of(notebook: NotebookNode, grade_id: str) -> Any:
    return next(c for c in notebook.cells if c.metadata.get("nbgrader", {}).get("grade_id") == grade_id)


def edit(grade_id: str, old: str, new: str) -> Callable[[NotebookNode], None]:
    def change(notebook: NotebookNode) -> None:
        cell = cell_of(notebook, grade_id)
        assert old in cell.source
        cell.source = cell.source.replace(old, new)

    return change


def meta(cell: str, **values: Any) -> Callable[[NotebookNode], None]:
    return lambda notebook: cell_of(notebook, cell).metadata["nbgrader"].update(values)


def in_text(old: str, new: str) -> Callable[[NotebookNode], None]:
    def change(notebook: NotebookNode) -> None:
        for cell in notebook.cells:
            cell.source = cell.source.replace(old, new)

    return change


BROKEN: dict[str, tuple[Callable[[NotebookNode], Any], str]] = {
    "no facts": (in_text("*building · easy · 10 minutes · 3 points*", "*easy*"), "question 1 says no kind"),
    "other points": (meta("two-dropouts-1", points=7), "worth 7 under a heading worth 3"),
    "another assignment's cell": (meta("two-dropouts-1", grade_id="placement-1"), "worth 3 under a heading"),
    "twice the same id": (meta("two-dropouts-1", grade_id="two-dropouts-1-answer"), "twice there"),
    "an old schema": (meta("two-dropouts-1", schema_version=2), "not of schema 3"),
    "no solution marks": (in_text("### BEGIN SOLUTION", "# begin"), "whose solution is not between its marks"),
    "a mark without end": (
        edit("two-dropouts-1-answer", "### END SOLUTION", ""),
        "'### BEGIN SOLUTION' has no end in the cell",
    ),
    "a mark twice": (
        edit("two-dropouts-1-answer", "### END SOLUTION", "### BEGIN SOLUTION"),
        "'### BEGIN SOLUTION' has no counterpart",
    ),
    "hidden without end": (
        edit("two-dropouts-1", "### END HIDDEN TESTS", ""),
        "'### BEGIN HIDDEN TESTS' has no end in the cell",
    ),
    "another check": (edit("two-dropouts-1", 'check("two-dropouts.1"', 'check("two-dropouts.2"'), "needs check("),
    "no hidden check": (edit("two-dropouts-1", "hidden(", "print("), "needs check("),
    "a hidden check of another": (edit("two-dropouts-1", 'hidden("two-dropouts.1",', 'hidden("a.1",'), "needs check("),
    "a rubric of other points": (edit("two-dropouts-7", "- 1 point: the", "- 2 points: the"), "sum up to 2"),
    "no numbers": (lambda n: n.cells[2].metadata.update(tags=[]), "0 cells tagged 'numbers'"),
    "a number without a range": (in_text("X = 2.4", "X = 2.4\nY = 1"), "has ranges for"),
    "no metadata": (lambda n: n.metadata.pop("assignment"), "lacks the metadata 'assignment'"),
    "no objectives": (in_text("**When you are done you can**", "Well"), "lists no objectives"),
    "no question": (
        lambda n: [c.metadata["nbgrader"].update(grade=False) for c in n.cells if "nbgrader" in c.metadata],
        "has no question",
    ),
    "a graded cell without a heading": (in_text("## 1. The mask", "## The mask"), "before any question"),
}  # fmt: skip


@pytest.mark.parametrize("defect", BROKEN)
def test_a_broken_rule_is_named(tmp_path: Path, notebook: NotebookNode, defect: str) -> None:
    change, message = BROKEN[defect]
    change(notebook)
    nbformat.write(notebook, tmp_path / "two-dropouts.ipynb")
    with pytest.raises(AssignmentError, match=re.escape(message)):
        load("two-dropouts", tmp_path)


def test_an_unknown_assignment_is_named() -> None:
    with pytest.raises(AssignmentError, match="no assignment 'nothing'; there are gradient-proof, placement"):
        load("nothing")


@pytest.mark.parametrize(
    "text", ["", "{}", "not JSON", '{"cells": 3, "nbformat": 4, "nbformat_minor": 5, "metadata": {}}']
)
def test_a_file_that_is_no_notebook_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "a.ipynb").write_text(text)
    with pytest.raises(AssignmentError, match=r"a\.ipynb") as caught:
        load("a", tmp_path)
    assert len(str(caught.value).splitlines()) == 1


def test_regions() -> None:
    begin, end = "### BEGIN SOLUTION\n", "### END SOLUTION"
    cell = f"def f():\n    {begin}    return 1\n    {end}\n\nx = 1\n{begin}y\n{end}"
    assert without(cell, SOLUTION, "# A\nB") == "def f():\n    # A\n    B\n\nx = 1\n# A\nB"
    assert without(cell, SOLUTION, "") == "def f():\n\nx = 1"
    assert without(cell, HIDDEN, "") == cell
    assert region(cell, SOLUTION) == ["    return 1", "y"]
    with pytest.raises(AssignmentError, match="END SOLUTION' has no counterpart"):
        without("### END SOLUTION", SOLUTION, "")
