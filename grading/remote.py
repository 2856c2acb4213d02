"""The grader's side of an answer that runs in a sandbox.

Every byte that comes back may be the work of the student's code, which shares its process with the worker: it can write
to the pipe itself. So a reply is a value that the answer gives and nothing more. It is read up to a length and until a
time, made of plain types, and must be of a kind that was asked for. A forged one earns what a function that returns
that value would earn.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

from dropoutlib.checks.exercises import Answer, Handle, Mistake, NotDone, Raised
from grading.sandbox import Child, Stopped

# How often an answer may call the functions that one call has handed to it.
MOST_QUESTIONS_BACK = 20_000


class RemoteAnswer(Answer):
    """What a submission has defined under a name, asked for through a pipe.

    Parameters
    ----------
    child : Child
        The sandbox, whose cells have run.
    function : str
        The name.
    given : mapping
        The numbers of the class.
    until : float
        When everything must have ended, on the clock of `time.monotonic`.
    fork : bool
        Whether to answer in a copy of the process that ran the cells, so that the next question finds it as it was.
    """

    def __init__(self, child: Child, function: str, given: Mapping[str, Any], until: float, fork: bool = True) -> None:
        super().__init__(None, given)
        self._child, self._function, self._until = child, function, until
        self._objects = 0
        self.stopped: Stopped | None = None
        self.raised = ""
        self._guard(lambda: child.send(("take", function, fork), self._deadline()))

    @property
    def name(self) -> str:
        """What the reader calls the answer, for messages."""
        return self._function

    def end(self) -> None:
        """Let the process of this question end; `stopped` says if it did not."""
        if self.stopped is None:
            try:
                self._guard(lambda: self._child.send(("done",), self._deadline()))
                while self._guard(lambda: self._child.receive(self._deadline()))[0] != "gone":
                    pass
            except Stopped:
                pass

    def _perform(
        self, handle: Handle | None, name: str, arguments: tuple[object, ...], pure: bool, keep: bool
    ) -> tuple[object, bool]:
        if self.stopped is not None:
            raise self.stopped
        found: tuple[object, bool] = self._guard(lambda: self._ask(handle, name, arguments, pure, keep))
        return found

    def _guard(self, action: Callable[[], Any]) -> Any:
        try:
            return action()
        except Stopped as stopped:
            self.stopped = stopped
            raise

    def _deadline(self) -> float:
        return min(time.monotonic() + self._child.limits.call_seconds, self._until)

    def _ask(
        self, handle: Handle | None, name: str, arguments: tuple[object, ...], pure: bool, keep: bool
    ) -> tuple[object, bool]:
        child, deadline = self._child, self._deadline()
        functions: list[Any] = [argument for argument in arguments if callable(argument)]
        given = [
            {"function": functions.index(argument)} if callable(argument) else {"value": argument}
            for argument in arguments
        ]
        child.send(("call", handle.target if handle else None, name, given, pure, keep), deadline)
        for _ in range(MOST_QUESTIONS_BACK):
            match child.receive(deadline):
                case ("asks", int(number), list(values)) if 0 <= number < len(functions):
                    child.send(_value(functions[number], values), deadline)
                case ("value", value, bool(changed)):
                    return value, changed
                case ("handle", int(number)) if keep and number == self._objects:
                    self._objects += 1
                    return Handle(number), False
                case ("raised", str(kind), str(text)):
                    raise self._error(kind, text)
                case ("gone", int()):
                    raise Stopped("died")
                case _:
                    raise Stopped("malformed")
        raise Stopped("asked")

    def _error(self, kind: str, text: str) -> Exception:
        """Return what is raised here for what was raised there."""
        if kind == "NotDone":
            return NotDone()
        if kind == "Mistake":
            # The only one that the worker makes itself.
            return Mistake(text, "Write a function or a class of this name.")
        self.raised = kind
        return Raised(kind, text)


def _value(function: Callable[..., object], values: list[Any]) -> tuple[str, object]:
    """Return the reply of a checker's function; what it thinks of its arguments is the answer's to handle."""
    try:
        return "value", function(*values)
    except Exception as error:
        return "raised", f"{type(error).__name__}: {error}"
