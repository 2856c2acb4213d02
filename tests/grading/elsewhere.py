"""Answers in another process: the smallest one that can be, to show that no check needs more than plain values.

It isolates nothing. As a script it serves right answers over its standard input and output.
"""

from __future__ import annotations

import subprocess
import sys
from typing import IO, Any

from dropoutlib.checks.exercises import Answer, Handle, Raised
from grading.plain import dumps, loads


def send(stream: IO[bytes], value: object) -> None:
    data = dumps(value)
    stream.write(len(data).to_bytes(8, "big") + data)
    stream.flush()


def receive(stream: IO[bytes]) -> Any:
    return loads(stream.read(int.from_bytes(stream.read(8), "big")))


class RemoteAnswer(Answer):
    """An answer behind a pipe."""

    def __init__(self, process: subprocess.Popen[bytes], question: str, label: str, given: dict[str, Any]) -> None:
        super().__init__(None, given)
        assert process.stdin
        assert process.stdout
        self._to, self._back = process.stdin, process.stdout
        send(self._to, ("take", question, label))

    @property
    def name(self) -> str:
        return "answer"

    def _perform(
        self, handle: Handle | None, name: str, arguments: tuple[object, ...], pure: bool, keep: bool
    ) -> tuple[object, bool]:
        functions = [argument for argument in arguments if callable(argument)]
        plain = [
            {"function": functions.index(argument)} if callable(argument) else {"value": argument}
            for argument in arguments
        ]
        send(self._to, ("call", handle.target if handle else None, name, plain, pure, keep))
        while True:
            match receive(self._back):
                case ("asks", int(number), list(given)):
                    try:
                        send(self._to, ("value", functions[number](*given)))
                    except Exception as error:
                        send(self._to, ("raised", f"{type(error).__name__}: {error}"))
                case ("value", value, bool(changed)):
                    return value, changed
                case ("handle", int(number)):
                    return Handle(number), False
                case ("raised", str(kind), str(text)):
                    raise Raised(kind, text)
                case other:
                    raise AssertionError(f"not understood: {other!r}")


def serve(source: IO[bytes], sink: IO[bytes]) -> None:
    """Perform what is asked for, until the pipe ends."""
    from tests.grading.test_proofs import PROOFS

    answer, objects = Answer(None), list[Any]()

    def stand_in(number: int) -> Any:
        def ask(*arguments: object) -> Any:
            send(sink, ("asks", number, list(arguments)))
            status, value = receive(source)
            if status == "raised":
                raise RuntimeError(value)
            return value

        return ask

    while True:
        try:
            message = receive(source)
        except ValueError:
            return
        if message[0] == "take":
            answer, objects = Answer(PROOFS[message[1]].right[message[2]]), []
            continue
        _, handle, name, plain, pure, keep = message
        arguments = tuple(stand_in(a["function"]) if "function" in a else a["value"] for a in plain)
        try:
            target = Handle(objects[handle]) if handle is not None else None
            value, changed = answer._perform(target, name, arguments, pure, keep)
        except Exception as error:
            send(sink, ("raised", type(error).__name__, str(error)))
            continue
        if isinstance(value, Handle):
            objects.append(value.target)
            send(sink, ("handle", len(objects) - 1))
        else:
            send(sink, ("value", value, changed))


if __name__ == "__main__":
    serve(sys.stdin.buffer, sys.stdout.buffer)
