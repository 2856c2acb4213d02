"""The exercises and predictions of every chapter: enough of them, with what a reader wants to know before beginning."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from book import notebooks
from book.prediction import parse_choices
from dropoutlib.checks import exercises

CHAPTERS = notebooks.chapters()
by_chapter = pytest.mark.parametrize("chapter", CHAPTERS, ids=lambda path: path.stem)
_START = re.compile(r"```\{exercise-start\}.*?```\n(?P<text>.+)", re.DOTALL)
_HEAD = re.compile(r"\*\*[^*]+\*\* \([a-z]+, (easy|medium|hard), \d+ minutes\)\. ")
_PREDICTION = re.compile(r"^```\{prediction\} .+?\n(?P<body>.*?)^```$", re.DOTALL | re.MULTILINE)


def text_cells(chapter: Path) -> list[str]:
    return [cell.source for cell in notebooks.read(chapter).cells if cell.cell_type == "markdown"]


@by_chapter
def test_two_to_four_exercises_each_with_difficulty_and_minutes(chapter: Path) -> None:
    found = [match["text"] for source in text_cells(chapter) if (match := _START.search(source))]
    assert 2 <= len(found) <= 4
    for text in found:
        assert _HEAD.match(text), text[:80]


@by_chapter
def test_each_exercise_has_its_check_and_a_hidden_solution(chapter: Path) -> None:
    ids = [name for name in exercises._EXERCISES if name.rpartition(".")[0] == chapter.stem]
    notebook = notebooks.read(chapter)
    code = "\n".join(cell.source for _, cell in notebooks.code_cells(notebook))
    assert 2 <= len(ids) <= 4
    for name in ids:
        # Once for the reader, once for the solution.
        assert code.count(f'check("{name}"') == 2
    text = "\n".join(text_cells(chapter))
    assert text.count("```{solution-start}") == text.count("```{exercise-start}") == len(ids)
    assert text.count(":class: dropdown\n```") >= len(ids)


@by_chapter
def test_a_question_with_choices_explains_each(chapter: Path) -> None:
    """`parse_choices` refuses a choice without an explanation."""
    bodies = [match["body"] for source in text_cells(chapter) for match in _PREDICTION.finditer(source)]
    assert bodies
    for body in bodies:
        _, choices = parse_choices(body.splitlines())
        assert all(choice.explanation for choice in choices)
