"""What is made of an assignment's source: notebooks for students, and a pack for instructors."""

from __future__ import annotations

import copy
import shutil
import tempfile
from pathlib import Path

import nbformat
from nbformat import NotebookNode

from dropoutlib.checks.exercises import description
from grading.source import HIDDEN, ROOT, SOLUTION, Assignment, Question, without

CODE_STUB = "# YOUR CODE HERE\nraise NotImplementedError"
TEXT_STUB = "*Your answer here.*"


def student(assignment: Assignment) -> NotebookNode:
    """Return the notebook that a student gets: no solution, no hidden check, no output."""
    notebook: NotebookNode = copy.deepcopy(assignment.notebook)
    for cell in notebook.cells:
        stub = CODE_STUB if cell.cell_type == "code" else TEXT_STUB
        cell.source = without(without(cell.source, HIDDEN, ""), SOLUTION, stub)
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    notebook.metadata["assignment"] = {
        "name": assignment.name,
        "title": assignment.title,
        "variant": str(assignment.notebook.metadata["assignment"].get("variant", "")),
    }
    notebook.metadata.pop("dropout_course", None)
    nbformat.validate(notebook)
    return notebook


def colab(notebook: NotebookNode, name: str, install: NotebookNode) -> NotebookNode:
    """Return a student's notebook for Colab, whose first cell installs dropoutlib's wheel."""
    made: NotebookNode = copy.deepcopy(notebook)
    made.cells.insert(0, copy.deepcopy(install))
    made.metadata["colab"] = {"name": f"{name}.ipynb", "provenance": [], "toc_visible": True}
    nbformat.validate(made)
    return made


def install_cell() -> NotebookNode:
    """Return the cell that installs dropoutlib's wheel, the same as in the chapters' notebooks."""
    # Sphinx is needed for this only.
    from book.colab import wheel
    from book.colab.builder import INSTALL_CELL
    from book.colab.site import Site

    with tempfile.TemporaryDirectory() as folder:
        build, published = Path(folder), ROOT / "_build" / "published"
        if published.is_dir():
            shutil.copytree(published, build / "published")
        made = wheel.provide(ROOT, build)
        address = Site.from_environment().wheel(made.name, wheel.sha256(made))
        source = INSTALL_CELL.format(version=wheel.version(made), address=address)
    cell: NotebookNode = nbformat.v4.new_code_cell(source, id="install", metadata={"tags": ["install"]})
    return cell


def write(assignment: Assignment, install: NotebookNode, folder: Path) -> None:
    """Write the students' notebooks and the instructors' pack into a folder."""
    notebook = student(assignment)
    for where, made in (
        (folder / "students", notebook),
        (folder / "students" / "colab", colab(notebook, assignment.name, install)),
        (folder / "instructors" / assignment.name, assignment.notebook),
    ):
        where.mkdir(parents=True, exist_ok=True)
        nbformat.write(made, where / f"{assignment.name}.ipynb")
    pack = folder / "instructors" / assignment.name
    (pack / "overview.md").write_text(overview(assignment), encoding="utf-8")
    (pack / "rubric.md").write_text(rubric(assignment), encoding="utf-8")
    (pack / "hidden-checks.md").write_text(hidden_checks(assignment), encoding="utf-8")


def overview(assignment: Assignment) -> str:
    """Return objectives, the class's numbers, and minutes and points a question."""
    rows = [
        f"| {_number(q)} | {q.title} | {q.kind} | {q.level} | {q.minutes} | {q.points} | "
        f"{'code: `' + q.function + '`' if q.function else 'written'} |"
        for q in assignment.questions
    ]
    variant = assignment.notebook.metadata["assignment"].get("variant", "")
    return "\n".join(
        [
            f"# {assignment.title}",
            "",
            f"{assignment.minutes} minutes, {assignment.points} points. "
            + (f"Class variant `{variant}`." if variant else "The source as it is, without a class variant."),
            "",
            f"`{assignment.name}.ipynb` in this folder holds the solutions and is a source for nbgrader.",
            "",
            "## Objectives",
            "",
            *(f"- {objective}" for objective in assignment.objectives),
            "",
            "## Numbers of the class",
            "",
            *(f"- `{name} = {value!r}`" for name, value in assignment.numbers.items()),
            "",
            "## Questions",
            "",
            "| | title | kind | level | minutes | points | answer |",
            "|---|---|---|---|---:|---:|---|",
            *rows,
            f"| | | | | {assignment.minutes} | {assignment.points} | |",
            "",
        ]
    )


def rubric(assignment: Assignment) -> str:
    """Return model answers and rubrics of the written questions."""
    models = {
        str(cell.metadata.nbgrader["grade_id"]): without(cell.source, "HIDDEN TESTS", "")
        for cell in assignment.notebook.cells
        if cell.cell_type == "markdown" and "nbgrader" in cell.metadata
    }
    lines = [f"# {assignment.title}: written questions", ""]
    for question in assignment.questions:
        if question.rubric:
            text = models[question.id.replace(".", "-")].splitlines()
            lines += [
                f"## {_number(question)}. {question.title} ({question.points} points)",
                "",
                "**Model answer**",
                "",
            ]
            lines += [line for line in text if not line.startswith("### ")] + [""]
    return "\n".join(lines)


def hidden_checks(assignment: Assignment) -> str:
    """Return what the hidden check of each code question looks at."""
    lines = [
        f"# {assignment.title}: hidden checks",
        "",
        "Each is the public check with inputs, rates and seeds drawn from the private key. All of a question's points "
        "are given, or none.",
        "",
    ]
    for question in assignment.questions:
        if question.function:
            lines += [f"## {_number(question)}. {question.title} ({question.points} points)", ""]
            lines += [description(question.id).removeprefix("Check "), ""]
    return "\n".join(lines)


def _number(question: Question) -> str:
    return question.id.rpartition(".")[2]
