"""What the tests of every chapter's exercises ask of `check`."""

from __future__ import annotations

from dropoutlib.checks import Result, check


def rejected(exercise: str, answer: object, *parts: str) -> Result:
    """Assert that a wrong answer fails, in three lines at most, and that the message has all `parts`."""
    result = check(exercise, answer)
    assert result.status == "failed", result.message
    assert not result
    for part in parts:
        assert part in result.message
    assert len(result.message.splitlines()) <= 3
    return result


def hinted(exercise: str, answer: object, *parts: str) -> Result:
    """Assert that a wrong answer is rejected with a hint."""
    result = rejected(exercise, answer, *parts)
    assert "Hint: " in result.message
    return result


def passed(exercise: str, answer: object, seed: int = 0) -> None:
    """Assert that a right answer passes under a seed."""
    result = check(exercise, answer, seed=seed)
    assert result, result.message
    assert result.status == "passed"
