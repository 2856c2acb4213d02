"""Answers through plain values: functions stay on the checker's side, objects behind handles."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from dropoutlib.checks.exercises import Answer, Handle, Mistake, NotDone, Raised
from grading.answers import PlainAnswer
from grading.plain import Other

BOTH = pytest.mark.parametrize("kind", [Answer, PlainAnswer])


def test_an_answer_sees_copies_and_gives_copies() -> None:
    kept: list[Any] = []
    x = np.ones(3)
    value: Any = PlainAnswer(lambda array: kept.append(array) or array).call("f(x)", x)
    assert kept[0] is not x
    assert value is not kept[0]
    assert np.array_equal(value, x)


def test_what_cannot_pass_is_known_by_its_type() -> None:
    assert isinstance(PlainAnswer(lambda: object()).call("f()"), Other)


@BOTH
def test_functions_can_be_handed_over(kind: type[Answer]) -> None:
    seen: list[Any] = []

    def f(x: Any, n: int) -> Any:
        seen.append((x.copy(), n))
        return x * n

    value: Any = kind(lambda f, x: f(x, 2) + f(x, 3)).call("g(f, x)", f, np.ones(2))
    assert value.tolist() == [5, 5]
    assert [n for _, n in seen] == [2, 3]


def test_a_function_gets_plain_values_from_the_answer() -> None:
    seen: list[Any] = []
    PlainAnswer(lambda f: f(object()) or 1).call("g(f)", lambda value: seen.append(value) or 0)
    assert isinstance(seen[0], Other)


@BOTH
def test_a_changed_array_is_a_mistake_where_it_must_stay(kind: type[Answer]) -> None:
    def spoil(values: Any) -> int:
        values["a"][0][:] = 7
        return 1

    answer = kind(spoil)
    assert answer.call("f(x)", {"a": [np.ones(2)]}) == 1
    with pytest.raises(Mistake, match="changed an array"):
        answer.call("f(x)", {"a": [np.ones(2)]}, pure=True)


class Counter:
    def __init__(self, start: int) -> None:
        self.value = start

    def add(self, n: int) -> int:
        self.value += n
        return self.value

    def nothing(self) -> None:
        return None

    def unfinished(self) -> None:
        raise NotImplementedError


@BOTH
def test_objects_are_reached_by_their_handle(kind: type[Answer]) -> None:
    answer = kind(Counter)
    one, other = answer.make("Counter(1)", 1), answer.make("Counter(10)", 10)
    assert isinstance(one, Handle)
    assert answer.method("add", one, "add", 2) == 3
    assert answer.method("add", other, "add", 2) == 12
    assert answer.method("add", one, "add", 2) == 5
    assert answer.method("nothing", one, "nothing", nothing=True) is None
    with pytest.raises(Mistake, match="returned None"):
        answer.method("nothing", one, "nothing")
    with pytest.raises(Mistake, match="raised AttributeError"):
        answer.method("absent", one, "absent")
    with pytest.raises(NotDone):
        answer.method("unfinished", one, "unfinished")


@BOTH
@pytest.mark.parametrize("target", [None, ..., lambda *a: None, NotImplemented])
def test_a_class_that_is_still_to_come(kind: type[Answer], target: Any) -> None:
    with pytest.raises(NotDone):
        kind(target).make("Counter(1)", 1)


def test_names_and_numbers() -> None:
    assert Answer(Counter).name == "Counter"
    assert Answer(3).name == "answer"
    assert Answer(Counter, {"P": 0.3}).given("P") == 0.3
    with pytest.raises(ValueError, match=r"needs the number Q; pass it: check\(\.\.\., Q=Q\)"):
        Answer(Counter, {"P": 0.3}).given("Q")


class Elsewhere(Answer):
    """An answer whose exceptions cannot come across."""

    def _perform(self, *arguments: Any) -> Any:
        raise Raised(str(self._target), "told\nfrom elsewhere")


def test_what_was_raised_elsewhere_is_told_alike() -> None:
    with pytest.raises(Mistake, match=r"^f\(\) raised ZeroDivisionError: told$"):
        Elsewhere("ZeroDivisionError").call("f()")
    with pytest.raises(NotDone):
        Elsewhere("NotImplementedError").call("f()")
