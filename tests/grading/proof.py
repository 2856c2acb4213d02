"""What proves a code question's check: answers that are right in different ways, and plausible wrong ones."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

LEAST_RIGHT = 5
LEAST_WRONG = 8


@dataclass(frozen=True)
class Proof:
    """Answers to one question.

    Attributes
    ----------
    right : mapping
        Right answers by what is different about them.
    wrong : tuple of (answer, hint)
        Each with a part of the text of the hint that is meant for its mistake.
    given : mapping
        The numbers of a class, for a question that is told some.
    """

    right: Mapping[str, Any]
    wrong: tuple[tuple[Any, str], ...]
    given: Mapping[str, float] = field(default_factory=dict)


def returns(*values: float) -> Callable[[], tuple[float, ...]]:
    """Return an answer to a question for numbers."""
    return lambda: values
