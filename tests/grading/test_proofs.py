"""Every code question's check: plausible wrong answers get their hint, right but different ones pass.

Answers are judged as a grader judges them: all values pass as bytes, and the seeds are derived from a private key. Each
checker's docstring states its false-alarm rate, at most 1e-6 a check and mostly below 1e-9. Over 200 seeds and all
right answers of an assignment (about 40) that is below one in a hundred for the few checks at 1e-6 and below 1e-5 for
all others; the seeds are fixed, so a run that is green stays green.
"""

from __future__ import annotations

from typing import Any

import pytest

from dropoutlib.checks.exercises import Result, description, judge
from grading import keys, source
from grading.answers import PlainAnswer
from tests.grading import gradient_proof, placement, reproducible_streams, sick_model, two_dropouts
from tests.grading.proof import LEAST_RIGHT, LEAST_WRONG, Proof

PROOFS: dict[str, Proof] = {
    **two_dropouts.QUESTIONS,
    **gradient_proof.QUESTIONS,
    **placement.QUESTIONS,
    **reproducible_streams.QUESTIONS,
    **sick_model.QUESTIONS,
}
KEY = bytes(range(keys.BYTES))
WRONG = [
    pytest.param(name, answer, hint, id=f"{name}-{number}")
    for name, proof in PROOFS.items()
    for number, (answer, hint) in enumerate(proof.wrong)
]
RIGHT = [
    pytest.param(name, answer, id=f"{name}-{label.replace(' ', '-')}")
    for name, proof in PROOFS.items()
    for label, answer in proof.right.items()
]
by_question = pytest.mark.parametrize("name", PROOFS)


def verdict(name: str, answer: Any, seed: int) -> Result:
    """Return the verdict under the public seed (0) or one of the private ones."""
    private = keys.seed(KEY, name, str(seed), name) if seed else 0
    return judge(name, PlainAnswer(answer, PROOFS[name].given), private)


def test_every_code_question_is_proved() -> None:
    code = {q.id for name in source.names() for q in source.load(name).questions if q.function}
    assert set(PROOFS) == code


@by_question
def test_there_are_enough_answers(name: str) -> None:
    assert len(PROOFS[name].wrong) >= LEAST_WRONG
    assert len(PROOFS[name].right) >= LEAST_RIGHT
    assert all(hint for _, hint in PROOFS[name].wrong)


@by_question
def test_the_false_alarm_rate_is_written_down(name: str) -> None:
    text = " ".join(description(name).split())
    assert "with a probability of at most 1e-" in text or "Nothing is random" in text


def check_wrong(name: str, answer: Any, hint: str, seeds: range) -> None:
    for seed in seeds:
        result = verdict(name, answer, seed)
        assert result.status == "failed", result.message
        assert hint in result.hint, result.message
        assert len(result.message.splitlines()) <= 3


@pytest.mark.parametrize(("name", "answer", "hint"), WRONG)
def test_a_wrong_answer_gets_its_hint(name: str, answer: Any, hint: str) -> None:
    check_wrong(name, answer, hint, range(2))


@pytest.mark.long
@pytest.mark.parametrize(("name", "answer", "hint"), WRONG)
def test_a_wrong_answer_gets_its_hint_under_many_seeds(name: str, answer: Any, hint: str) -> None:
    check_wrong(name, answer, hint, range(2, 20))


def check_right(name: str, answer: Any, seeds: range) -> None:
    for seed in seeds:
        result = verdict(name, answer, seed)
        assert result, f"seed {seed}: {result.message}"


@pytest.mark.parametrize(("name", "answer"), RIGHT)
def test_a_right_answer_passes(name: str, answer: Any) -> None:
    check_right(name, answer, range(2))


@pytest.mark.long
@pytest.mark.parametrize(("name", "answer"), RIGHT)
def test_a_right_answer_passes_under_200_seeds(name: str, answer: Any) -> None:
    check_right(name, answer, range(2, 202))


def raises(*arguments: object) -> None:
    raise NotImplementedError


class Unanswered:
    def __init__(self, *arguments: object) -> None:
        raise NotImplementedError


@by_question
@pytest.mark.parametrize(
    "answer", [None, ..., raises, Unanswered, lambda *a: None, lambda *a: ..., lambda *a: (None, ...)]
)
def test_a_placeholder_is_not_done_yet(name: str, answer: Any) -> None:
    assert verdict(name, answer, 0).status == "not done yet"


@by_question
@pytest.mark.parametrize(
    "value", ["text", 3.5, (), [], {}, {"a": 1}, float("nan"), (1, 2), [1], object(), 2j, b"x", "1"]
)
def test_a_value_of_the_wrong_kind_is_reported(name: str, value: Any) -> None:
    result = verdict(name, lambda *arguments: value, 0)
    assert result.status == "failed"
    assert len(result.message.splitlines()) <= 3


@by_question
def test_no_hint_tells_a_private_number(name: str) -> None:
    """Hints are shown on feedback pages; the inputs of the hidden checks are not."""
    for answer, _ in PROOFS[name].wrong:
        one, other = (verdict(name, answer, seed) for seed in (1, 2))
        assert one.hint == other.hint
