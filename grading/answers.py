"""Answers as a grader sees them: through plain values only."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from dropoutlib.checks.exercises import Answer, Handle
from grading.plain import dumps, loads


class PlainAnswer(Answer):
    """An answer in this process, all of whose arguments and values pass as bytes.

    A checker that works with it works with an answer in another process. Functions among the arguments stay on the
    checker's side: the answer gets a stand-in whose arguments and values pass as bytes too.
    """

    def _perform(
        self, handle: Handle | None, name: str, arguments: tuple[object, ...], pure: bool, keep: bool
    ) -> tuple[object, bool]:
        sent = tuple(_stand_in(value) if callable(value) else loads(dumps(value)) for value in arguments)
        value, changed = super()._perform(handle, name, sent, pure, keep)
        return (value if isinstance(value, Handle) else loads(dumps(value))), changed


def _stand_in(function: Callable[..., object]) -> Callable[..., Any]:
    def call(*arguments: object) -> Any:
        return loads(dumps(function(*(loads(dumps(argument)) for argument in arguments))))

    return call
