"""Notebooks as students hand them in: the students' version with answers in it."""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import nbformat

from grading import source, write
from tests.grading.test_proofs import PROOFS

ROOT = Path(__file__).resolve().parents[3]
# What planted_bugs needs of a module that needs pytest.
_CONTRACT = """
from typing import Any as Array
class Subject:
    def __init__(self, *arguments, **named): pass
"""
_MODULES = (
    "tests.dropoutlib.planted_bugs",
    "tests.grading.proof",
    "tests.grading.{}",
)
# Makes the proofs' answers importable where this repository is not.
_PREAMBLE = """
import json, sys, types

for name, code in json.loads({sources!r}).items():
    parent, _, last = name.rpartition(".")
    for package in ("tests", parent):
        if package not in sys.modules:
            sys.modules[package] = types.ModuleType(package)
            sys.modules[package].__path__ = []
    module = sys.modules[name] = types.ModuleType(name)
    setattr(sys.modules[parent], last, module)
    exec(compile(code, name, "exec"), module.__dict__)
from tests.grading.{module} import QUESTIONS
"""


@functools.cache
def preamble(assignment: str) -> str:
    """Return code that makes the proofs of an assignment importable."""
    module = assignment.replace("-", "_")
    sources = {
        name.format(module): (ROOT / (name.format(module).replace(".", "/") + ".py")).read_text(encoding="utf-8")
        for name in _MODULES
    }
    sources = {"tests.dropoutlib.contract": _CONTRACT, **sources}
    return _PREAMBLE.format(sources=json.dumps(sources), module=module)


def right(question: str, label: str = "") -> str:
    """Return code that defines a right answer of the proofs: the first, or that of a label."""
    label = label or next(iter(PROOFS[question].right))
    return f"{function(question)} = QUESTIONS[{question!r}].right[{label!r}]"


def wrong(question: str, number: int = 0) -> str:
    """Return code that defines a wrong answer of the proofs."""
    assert number < len(PROOFS[question].wrong)
    return f"{function(question)} = QUESTIONS[{question!r}].wrong[{number}][0]"


def function(question: str) -> str:
    """Return what a question's answer is called."""
    return questions(question.rpartition(".")[0])[question]


@functools.cache
def questions(assignment: str) -> dict[str, str]:
    """Return the code questions of an assignment, and what their answers are called."""
    return {q.id: q.function for q in source.load(assignment).questions if q.function}


def notebook(
    assignment: str, answers: Mapping[str, str | None], first: Sequence[str] = (), last: Sequence[str] = ()
) -> nbformat.NotebookNode:
    """Return a submission: code for each question, right answers where none is given, and cells of the student's own.

    None leaves a question as it was handed out.
    """
    made: nbformat.NotebookNode = nbformat.from_dict(json.loads(_student(assignment)))
    for cell in made.cells:
        number = str(cell.metadata.get("nbgrader", {}).get("grade_id", ""))
        question = ".".join(number.removesuffix("-answer").rsplit("-", 1))
        if cell.cell_type == "code" and number.endswith("-answer"):
            given = answers.get(question, right(question))
            cell.source = cell.source if given is None else given
    made.cells[:0] = [nbformat.v4.new_code_cell(code) for code in (preamble(assignment), *first)]
    made.cells += [nbformat.v4.new_code_cell(code) for code in last]
    return made


@functools.cache
def _student(assignment: str) -> str:
    return str(nbformat.writes(write.student(source.load(assignment))))
