"""Takes one source notebook through nbgrader, in an environment that has it, and prints the scores as JSON.

Run as a script in an empty folder: the argument is the source. Three students hand in: one the solutions, one nothing,
one a wrong answer to the first question and the solutions else.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat

WRONG = "def draw_mask(shape, p, seed):\n    return np.random.default_rng(seed).random(shape) < p\n"


def nbgrader(*arguments: str) -> None:
    """Run one of nbgrader's commands."""
    done = subprocess.run([sys.executable, "-m", "nbgrader", *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"nbgrader {arguments[0]} failed:\n{done.stdout}{done.stderr}")


def submit(released: Path, source: Path, student: str, answers: dict[str, str]) -> None:
    """Put answers, by grade id, into the released notebook and hand it in."""
    notebook = nbformat.read(released, as_version=4)
    for cell in notebook.cells:
        name = cell.metadata.get("nbgrader", {}).get("grade_id", "")
        if name in answers:
            cell.source = answers[name]
    folder = Path("submitted") / student / source.stem
    folder.mkdir(parents=True)
    nbformat.write(notebook, folder / source.name)


def main(source: Path) -> None:
    """Generate, submit, grade, and print what each student got for each graded cell."""
    name = source.stem
    (Path("source") / name).mkdir(parents=True)
    shutil.copyfile(source, Path("source") / name / source.name)
    nbgrader("generate_assignment", name, "--create")
    released = Path("release") / name / source.name
    text = released.read_text(encoding="utf-8")
    assert not re.search("BEGIN SOLUTION|HIDDEN|hidden|rng.random", text), (
        "the release holds a solution or hidden check"
    )
    solutions = {
        cell.metadata["nbgrader"]["grade_id"]: cell.source
        for cell in nbformat.read(source, as_version=4).cells
        if cell.metadata.get("nbgrader", {}).get("solution")
    }
    submit(released, source, "solved", solutions)
    submit(released, source, "unanswered", {})
    submit(released, source, "mistaken", solutions | {f"{name}-1-answer": WRONG})
    nbgrader("autograde", name)

    from nbgrader.api import Gradebook

    with Gradebook("sqlite:///gradebook.db") as book:
        scores = {
            student: {
                grade.name: grade.auto_score
                for grade in book.find_submission_notebook(name, name, student).grades
                if grade.cell_type == "code"
            }
            for student in ("solved", "unanswered", "mistaken")
        }
    print(json.dumps(scores))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
