"""Marks of code questions by their hidden checks."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Mapping
from dataclasses import dataclass

from dropoutlib.checks.exercises import Answer, Result, judge
from grading import keys
from grading.answers import PlainAnswer
from grading.source import Assignment, Question


@dataclass(frozen=True)
class Mark:
    """What a question has earned."""

    question: Question
    result: Result

    @property
    def points(self) -> int:
        """All of the question's points, or none."""
        return self.question.points if self.result else 0


def mark(assignment: Assignment, question: Question, answer: Answer, key: bytes) -> Mark:
    """Return the mark of one answer, with the inputs that the key gives."""
    variant = str(assignment.notebook.metadata["assignment"].get("variant", ""))
    return Mark(question, judge(question.id, answer, keys.seed(key, assignment.name, variant, question.id)))


def run(assignment: Assignment) -> dict[str, object]:
    """Run a source's code cells in this process and return the names that they define.

    This is for sources, which are trusted, and not for what students hand in.
    """
    namespace: dict[str, object] = {"__name__": "__main__"}
    with contextlib.redirect_stdout(io.StringIO()):
        for number, source in enumerate(assignment.code(), start=1):
            try:
                exec(compile(source, f"<{assignment.name}, code cell {number}>", "exec"), namespace)
            except Exception as error:
                raise assignment.error(f"raises {type(error).__name__} in code cell {number}: {error}") from error
    return namespace


def mark_all(assignment: Assignment, namespace: Mapping[str, object], key: bytes) -> list[Mark]:
    """Return the marks of the answers that code has defined; one that is missing is still to come."""
    given = assignment.numbers
    return [
        mark(assignment, question, PlainAnswer(namespace.get(question.function), given), key)
        for question in assignment.questions
        if question.function
    ]


def solutions(assignment: Assignment, key: bytes) -> list[Mark]:
    """Return the marks of the source's own solutions."""
    return mark_all(assignment, run(assignment), key)
