"""The source of an assignment: one notebook with solutions, rubrics and nbgrader's cell metadata.

A code question is a cell with the solution and, after it, a cell that calls `check("ID", answer)`; a written question
is a Markdown cell with a model answer and a rubric. What a student must not see stands between `### BEGIN SOLUTION` and
`### END SOLUTION`, or between `### BEGIN HIDDEN TESTS` and `### END HIDDEN TESTS`.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import nbformat
from nbformat import NotebookNode

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "assignments"
SOLUTION = "SOLUTION"
HIDDEN = "HIDDEN TESTS"
NUMBERS = "numbers"
_SCHEMA = 3
_MARK = re.compile(r"\s*### (BEGIN|END) (SOLUTION|HIDDEN TESTS)\s*")
_HEADING = re.compile(r"## (?P<number>\d+)\. (?P<title>[^\n]+)\n")
_FACTS = re.compile(
    r"\*(?P<kind>[a-z]+) · (?P<level>easy|medium|hard) · (?P<minutes>\d+) minutes · (?P<points>\d+) points?\*"
)
_RUBRIC = re.compile(r"- (?P<points>\d+) points?: (?P<text>.+)")


class AssignmentError(ValueError):
    """An assignment that does not exist, or whose source breaks a rule; the message says what to mend."""


@dataclass(frozen=True)
class Question:
    """A question, and what it is worth.

    Attributes
    ----------
    id : str
        "<assignment>.<number>"; for a code question also the id of its check.
    title, kind, level : str
        As in its heading.
    minutes, points : int
        As in its heading and, the points, in nbgrader's metadata.
    function : str
        What the check calls; empty for a written question.
    given : tuple of str
        The class's numbers that the check is told.
    rubric : tuple of (points, text)
        Of a written question.
    """

    id: str
    title: str
    kind: str
    level: str
    minutes: int
    points: int
    function: str = ""
    given: tuple[str, ...] = ()
    rubric: tuple[tuple[int, str], ...] = ()


@dataclass(frozen=True)
class Assignment:
    """An assignment's source."""

    name: str
    notebook: NotebookNode

    @cached_property
    def questions(self) -> tuple[Question, ...]:
        """All questions, in order."""
        return tuple(_questions(self))

    @property
    def title(self) -> str:
        """What the assignment is called."""
        return str(self._facts["title"])

    @property
    def points(self) -> int:
        """Sum over all questions."""
        return sum(question.points for question in self.questions)

    @property
    def minutes(self) -> int:
        """Sum over all questions."""
        return sum(question.minutes for question in self.questions)

    @property
    def objectives(self) -> tuple[str, ...]:
        """What a student can do afterwards."""
        first = self.notebook.cells[0].source
        _, _, after = first.partition("**When you are done you can**")
        return tuple(re.findall(r"^- (.+?)[;.]$", after, re.MULTILINE))

    @property
    def ranges(self) -> Mapping[str, tuple[float, float, float]]:
        """For each number of the class: the least, the largest, and the step of the grid that variants draw from."""
        return {name: tuple(limits) for name, limits in self._facts["numbers"].items()}

    @property
    def other_names(self) -> Mapping[str, tuple[str, ...]]:
        """For each function: the names that variants give it."""
        return {name: tuple(names) for name, names in self._facts["functions"].items()}

    @property
    def numbers(self) -> dict[str, float]:
        """The class's numbers as they stand in the notebook."""
        return dict(_assignments(self.numbers_cell))

    @property
    def numbers_cell(self) -> NotebookNode:
        """The cell that assigns the class's numbers."""
        cells = [cell for cell in self.notebook.cells if NUMBERS in cell.metadata.get("tags", [])]
        if len(cells) != 1:
            raise self.error(f"has {len(cells)} cells tagged {NUMBERS!r}; it needs one")
        cell: NotebookNode = cells[0]
        return cell

    @property
    def _facts(self) -> Mapping[str, Any]:
        facts: Mapping[str, Any] = self.notebook.metadata["assignment"]
        return facts

    def error(self, problem: str) -> AssignmentError:
        """Return an error that names the assignment."""
        return AssignmentError(f"{self.name}.ipynb {problem}")

    def code(self) -> Iterator[str]:
        """Yield the sources of the code cells."""
        yield from (cell.source for cell in self.notebook.cells if cell.cell_type == "code")


def names(folder: Path = FOLDER) -> list[str]:
    """Return the names of all assignments."""
    return sorted(path.stem for path in folder.glob("*.ipynb"))


def load(name: str, folder: Path = FOLDER) -> Assignment:
    """Read an assignment and check that its source keeps every rule.

    Raises
    ------
    AssignmentError
        If there is no such assignment, or it cannot be read, or it breaks a rule.
    """
    path = folder / f"{name}.ipynb"
    if not path.is_file():
        raise AssignmentError(f"no assignment {name!r}; there are {', '.join(names(folder)) or 'none'}")
    try:
        notebook = nbformat.read(path, as_version=4)
    except Exception as error:
        # nbformat raises errors of many kinds on what is no notebook.
        raise AssignmentError(f"{path} cannot be read as a notebook: {' '.join(str(error).split())[:200]}") from None
    assignment = Assignment(name, notebook)
    if not {"title", "numbers", "functions"} <= set(notebook.metadata.get("assignment", {})):
        raise assignment.error("lacks the metadata 'assignment' with title, numbers and functions")
    if set(assignment.ranges) != set(assignment.numbers):
        raise assignment.error(f"assigns {sorted(assignment.numbers)} and has ranges for {sorted(assignment.ranges)}")
    if not assignment.questions:
        raise assignment.error("has no question")
    if not assignment.objectives:
        raise assignment.error("lists no objectives: '**When you are done you can**' and a list, in its first cell")
    for cell in notebook.cells:
        without(cell.source, SOLUTION, "")
        without(cell.source, HIDDEN, "")
    return assignment


def without(source: str, kind: str, stub: str) -> str:
    """Return a cell's source with each region of a kind replaced by `stub`, at the region's own indentation.

    Raises
    ------
    AssignmentError
        If a region does not begin or end.
    """
    kept: list[str] = []
    inside = False
    for line in source.splitlines():
        match = _MARK.fullmatch(line)
        if match and match[2] == kind:
            if inside == (match[1] == "BEGIN"):
                raise AssignmentError(f"'{line.strip()}' has no counterpart in the cell that starts {source[:40]!r}")
            inside = not inside
            if inside and stub:
                indent = line[: len(line) - len(line.lstrip())]
                kept += [indent + part for part in stub.splitlines()]
        elif not inside:
            kept.append(line)
    if inside:
        raise AssignmentError(f"'### BEGIN {kind}' has no end in the cell that starts {source[:40]!r}")
    return "\n".join(kept).strip("\n")


def region(source: str, kind: str) -> list[str]:
    """Return the lines inside the regions of a kind."""
    found: list[str] = []
    inside = False
    for line in source.splitlines():
        match = _MARK.fullmatch(line)
        if match and match[2] == kind:
            inside = match[1] == "BEGIN"
        elif inside:
            found.append(line)
    return found


def _questions(assignment: Assignment) -> Iterator[Question]:
    heading: tuple[str, re.Match[str]] | None = None
    seen: set[str] = set()
    for cell in assignment.notebook.cells:
        meta = cell.metadata.get("nbgrader")
        if cell.cell_type == "markdown" and (title := _HEADING.match(cell.source)):
            facts = _FACTS.search(cell.source)
            if not facts:
                raise assignment.error(f"question {title['number']} says no kind, level, minutes and points")
            heading = title["title"], facts
        if meta is None:
            continue
        if meta["schema_version"] != _SCHEMA or meta["grade_id"] in seen:
            raise assignment.error(f"has a cell {meta['grade_id']!r} that is twice there, or not of schema {_SCHEMA}")
        seen.add(meta["grade_id"])
        if bool(meta["solution"]) != bool(region(cell.source, SOLUTION)):
            raise assignment.error(f"has a cell {meta['grade_id']!r} whose solution is not between its marks")
        if meta["grade"]:
            if heading is None:
                raise assignment.error(f"has a graded cell {meta['grade_id']!r} before any question")
            yield _question(assignment, cell, *heading)
            heading = None


def _question(assignment: Assignment, cell: NotebookNode, title: str, facts: re.Match[str]) -> Question:
    grade_id, points = cell.metadata.nbgrader["grade_id"], cell.metadata.nbgrader["points"]
    name, _, number = grade_id.rpartition("-")
    question = Question(
        id=f"{name}.{number}",
        title=title,
        kind=facts["kind"],
        level=facts["level"],
        minutes=int(facts["minutes"]),
        points=int(facts["points"]),
    )
    if name != assignment.name or points != question.points:
        raise assignment.error(f"has a cell {grade_id!r} worth {points} under a heading worth {question.points}")
    if cell.cell_type == "markdown":
        found = [_RUBRIC.fullmatch(line) for line in region(cell.source, SOLUTION)]
        rubric = tuple((int(match["points"]), match["text"]) for match in found if match)
        if sum(points for points, _ in rubric) != question.points:
            raise assignment.error(f"has a rubric at {grade_id!r} that does not sum up to {question.points}")
        return Question(**{**vars(question), "rubric": rubric})
    call, private = _calls(cell.source, "check"), _calls(cell.source, "hidden")
    if call is None or call[0] != question.id or private is None or private[:2] != call[:2]:
        raise assignment.error(f"needs check({question.id!r}, answer) and a hidden(...) of the same in {grade_id!r}")
    return Question(**{**vars(question), "function": call[1], "given": call[2]})


def _calls(source: str, function: str) -> tuple[str, str, tuple[str, ...]] | None:
    """Return id, answer and the names of the numbers of the one call of check or hidden in a cell."""
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Call(func=ast.Name(id=name), args=[ast.Constant(value=str(exercise)), ast.Name(id=answer)]) if (
                name == function
            ):
                return exercise, answer, tuple(str(keyword.arg) for keyword in node.keywords)
    return None


def _assignments(cell: NotebookNode) -> Iterator[tuple[str, float]]:
    for node in ast.parse(cell.source).body:
        match node:
            case ast.Assign(targets=[ast.Name(id=name)], value=value):
                yield name, ast.literal_eval(value)
