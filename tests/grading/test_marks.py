"""The sources' own solutions have full marks under every key, and hidden checks inside a notebook tell no input."""

from __future__ import annotations

import functools
import re
from pathlib import Path

import numpy as np
import pytest

from dropoutlib.checks.exercises import judge
from grading import hidden, keys, marks, source
from grading.answers import PlainAnswer
from grading.source import AssignmentError, load

NAMES = source.names()
KEYS = [bytes([k]) * keys.BYTES for k in range(20)]
by_name = pytest.mark.parametrize("name", NAMES)


@functools.cache
def namespace(name: str) -> dict[str, object]:
    return marks.run(load(name))


@by_name
@pytest.mark.parametrize("many", [KEYS[:2], pytest.param(KEYS[2:], marks=pytest.mark.long)], ids=["two", "eighteen"])
def test_every_solution_has_full_marks_under_every_key(name: str, many: list[bytes]) -> None:
    assignment = load(name)
    for key in many:
        made = marks.mark_all(assignment, namespace(name), key)
        assert [mark.result.message for mark in made if not mark.result] == []
        assert [mark.points for mark in made] == [q.points for q in assignment.questions if q.function]


def test_a_missing_answer_is_not_done_yet_and_earns_nothing() -> None:
    made = marks.mark_all(load("two-dropouts"), {}, KEYS[0])
    assert {mark.result.status for mark in made} == {"not done yet"}
    assert {mark.points for mark in made} == {0}


def test_an_answer_made_for_the_public_numbers_fails() -> None:
    """It remembers what the public check hands over, and returns what a right answer returned."""
    answers = {}

    def record(shape: object, p: float, seed: int) -> object:
        answers[shape, p, seed] = np.random.default_rng(seed).random(shape) >= p  # type: ignore[call-overload]
        return answers[shape, p, seed]

    assert judge("two-dropouts.1", PlainAnswer(record))

    def fake(shape: object, p: float, seed: int) -> object:
        return answers.get((shape, p, seed), np.ones(shape, bool))  # type: ignore[call-overload]

    assert judge("two-dropouts.1", PlainAnswer(fake))
    assignment = load("two-dropouts")
    for key in KEYS:
        mark = marks.mark(assignment, assignment.questions[0], PlainAnswer(fake), key)
        assert mark.points == 0
        assert mark.result.status == "failed"


def test_a_source_that_raises_is_named() -> None:
    assignment = load("two-dropouts")
    assignment.notebook.cells[1].source = "import numpy as np\n1 / 0"
    with pytest.raises(AssignmentError, match=r"two-dropouts\.ipynb raises ZeroDivisionError in code cell 1: division"):
        marks.run(assignment)


# --- inside a notebook


def wrong(shape: tuple[int, ...], p: float, seed: int) -> object:
    return np.random.default_rng(seed).random(shape) < p


def right(shape: tuple[int, ...], p: float, seed: int) -> object:
    return np.random.default_rng(seed).random(shape) >= p


def test_a_hidden_check_says_nothing_or_raises_a_hint(capsys: pytest.CaptureFixture[str]) -> None:
    hidden("two-dropouts.1", right)
    with pytest.raises(AssertionError) as caught:
        hidden("two-dropouts.1", wrong)
    text = str(caught.value)
    assert "for other inputs than the public ones" in text
    assert "does your comparison with p select" in text
    assert not re.search(r"\d{3}|0\.\d", text.replace("two-dropouts.1", ""))
    with pytest.raises(AssertionError, match="not done yet"):
        hidden("two-dropouts.1", lambda *a: None)
    assert capsys.readouterr().out == ""


def test_a_hidden_check_uses_the_key_and_the_numbers_of_the_class(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def seen() -> list[object]:
        calls: list[object] = []
        hidden("two-dropouts.1", lambda *a: calls.append(a) or right(*a))
        return calls

    assert seen() != seen(), "without a key the draws are fresh"
    path = tmp_path / "private.key"
    keys.write(path)
    monkeypatch.setenv(keys.ENVIRONMENT, str(path))
    assert seen() == seen()
    p, x = load("two-dropouts").numbers.values()
    hidden("two-dropouts.3", lambda: ((1 - p) * x, p * (1 - p) * x**2, x, p / (1 - p) * x**2))
    with pytest.raises(AssertionError):
        hidden("two-dropouts.3", lambda: ((1 - p) * x, p * (1 - p) * x**2, x, p / (1 - p) * x**2), variant="x")
    monkeypatch.setenv(keys.ENVIRONMENT, str(tmp_path / "absent"))
    with pytest.raises(keys.KeyFileError):
        hidden("two-dropouts.1", right)
