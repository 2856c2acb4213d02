"""Class variants: everything that can differ does, and the solutions stay right."""

from __future__ import annotations

import ast
import functools
import itertools
import re
from typing import Any

import numpy as np
import pytest

from grading import keys, marks, source, variant
from grading.source import AssignmentError, load

NAMES = source.names()
CLASSES = [f"2026-{letter}" for letter in "abcdefghijklmnopqrst"]
KEY = bytes(32)
by_name = pytest.mark.parametrize("name", NAMES)


@by_name
def test_variants_differ_in_their_numbers_and_functions(name: str) -> None:
    plain = load(name)
    made = {word: variant.make(plain, word) for word in CLASSES}
    for one, other in itertools.combinations([plain.numbers, *(m.numbers for m in made.values())], 2):
        assert one != other
    for word, assignment in made.items():
        assert all(assignment.numbers[key] != value for key, value in plain.numbers.items())
        for key, value in assignment.numbers.items():
            low, high, _ = plain.ranges[key]
            assert low <= value <= high
            assert type(value) is type(plain.numbers[key])
        functions = {q.function for q in assignment.questions if q.function}
        assert not functions & set(plain.other_names)
        assert word == assignment.notebook.metadata["assignment"]["variant"]
    assert len({tuple(q.function for q in m.questions) for m in made.values()}) > 1


@by_name
def test_the_same_word_gives_the_same_variant_and_leaves_the_source_alone(name: str) -> None:
    plain = load(name)
    before = plain.notebook.copy()
    assert variant.make(plain, "x").notebook == variant.make(plain, "x").notebook
    assert plain.notebook == before
    assert variant.make(plain, "") is plain


@by_name
def test_a_variant_is_a_source_and_names_are_changed_everywhere(name: str) -> None:
    plain = load(name)
    made = variant.make(plain, "x")
    assert [q.points for q in made.questions] == [q.points for q in plain.questions]
    for cell in made.notebook.cells:
        if cell.cell_type == "code":
            tree = ast.parse(cell.source)
            names = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
            names |= {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.ClassDef)}
            assert not names & set(plain.other_names)
            assert cell.outputs == []
            if "hidden(" in cell.source:
                assert 'variant="x")' in cell.source
        else:
            for old in plain.other_names:
                assert not re.search(rf"`{old}\b", cell.source)


@functools.cache
def namespace(name: str, word: str) -> dict[str, object]:
    return marks.run(variant.make(load(name), word))


def asked(name: str, word: str) -> dict[str, Any]:
    """Return what the solutions of the questions for numbers return."""
    questions = variant.make(load(name), word).questions
    return {q.id: namespace(name, word)[q.function]() for q in questions if q.given}  # type: ignore[operator]


@by_name
def test_every_number_asked_for_differs_between_classes(name: str) -> None:
    check_numbers(name, CLASSES[:2])


@pytest.mark.long
@by_name
def test_every_number_asked_for_differs_between_ten_classes(name: str) -> None:
    check_numbers(name, ["", *CLASSES[:10]])


def check_numbers(name: str, words: list[str]) -> None:
    answers = [asked(name, word) for word in words]
    for one, other in itertools.combinations(answers, 2):
        for question, values in one.items():
            if isinstance(values, dict):
                # Findings, not numbers: there are 720 orders of six models.
                assert values != other[question]
                continue
            for u, v in zip(values, other[question], strict=True):
                assert not np.isclose(float(u), float(v), rtol=1e-6), f"{question}: {u} in two classes"


@by_name
def test_the_solutions_of_a_variant_have_full_marks(name: str) -> None:
    check_full_marks(name, CLASSES[:1])


@pytest.mark.long
@by_name
def test_the_solutions_of_ten_variants_have_full_marks(name: str) -> None:
    check_full_marks(name, CLASSES[:10])


def check_full_marks(name: str, words: list[str]) -> None:
    for word in words:
        assignment = variant.make(load(name), word)
        made = marks.mark_all(assignment, namespace(name, word), KEY)
        assert [mark.result.message for mark in made if not mark.result] == []
        assert sum(mark.points for mark in made) == sum(q.points for q in assignment.questions if q.function)


def test_numbers_of_a_class_are_not_those_of_the_key() -> None:
    """The variant is public: the key and the variant enter the hidden checks' seeds separately."""
    assert keys.seed(KEY, "a", "x", "a.1") != keys.seed(KEY, "a", "y", "a.1")


@pytest.mark.parametrize("word", ["two words", "../up", "-x", "a" * 65, 'x"; import os', "ä"])
def test_a_variant_is_a_word(word: str) -> None:
    with pytest.raises(AssignmentError, match="a variant is a word"):
        variant.make(load("two-dropouts"), word)


def test_a_range_of_one_value_is_refused() -> None:
    assignment = load("two-dropouts")
    assignment.notebook.metadata["assignment"]["numbers"]["P"] = [0.3, 0.3, 0.1]
    with pytest.raises(AssignmentError, match="one value only for P"):
        variant.make(assignment, "x")
