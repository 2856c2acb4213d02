"""Answers behind a pipe: every check works on them, and what comes back is a value of a known kind or stops."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from dropoutlib.checks.exercises import Handle, Mistake, NotDone, judge
from grading import keys, remote, source
from grading.plain import Other
from grading.remote import RemoteAnswer
from grading.sandbox import Child, Limits, Sandbox, Stopped
from tests.grading.hostile.notebooks import function, preamble, questions, right, wrong
from tests.grading.test_proofs import PROOFS

LIMITS = Limits(call_seconds=5, seconds=60, memory_mb=2048, address_mb=2048)


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    with Sandbox() as box:
        yield box


def run(child: Child, *cells: str) -> None:
    """Run cells that must not raise."""
    deadline = time.monotonic() + 30
    child.send(("run", [[f"cell {i}", cell] for i, cell in enumerate(cells)], []), deadline)
    seen = [child.receive(deadline)]
    while seen[-1] != ("ready",):
        seen.append(child.receive(deadline))
    assert [message for message in seen if message[0] == "failed"] == []


def verdict(child: Child, question: str, name: str) -> Any:
    answer = RemoteAnswer(child, name, PROOFS[question].given, time.monotonic() + 30)
    result = judge(question, answer, keys.seed(bytes(32), "remote", "", question))
    answer.end()
    assert answer.stopped is None
    return result


PLACEHOLDERS = """
def raises(*arguments): raise NotImplementedError
class Unanswered:
    def __init__(self, *arguments): raise NotImplementedError
ellipsis, nothing, number = ..., lambda *a: None, 7
"""


@pytest.mark.parametrize("assignment", source.names())
def test_a_check_works_across_processes(sandbox: Sandbox, assignment: str) -> None:
    cells = []
    for k, question in enumerate(questions(assignment)):
        name = function(question)
        cells.append(
            right(question).replace(name, f"right{k}", 1) + "\n" + wrong(question).replace(name, f"wrong{k}", 1)
        )
    with sandbox.start(LIMITS) as child:
        run(child, preamble(assignment), *cells, PLACEHOLDERS)
        for k, question in enumerate(questions(assignment)):
            passed = verdict(child, question, f"right{k}")
            assert passed, passed.message
            failed = verdict(child, question, f"wrong{k}")
            assert failed.status == "failed"
            assert PROOFS[question].wrong[0][1] in failed.hint
            for name in ("raises", "Unanswered", "ellipsis", "nothing", "absent"):
                assert verdict(child, question, name).status == "not done yet"
            assert "expected a function" in verdict(child, question, "number").message


CELL = """
import numpy as np
class Counter:
    def __init__(self, start): self.value = start
    def add(self, n): self.value += n; return self.value
    def nothing(self): pass
def same(x): return x
def spoil(x): x[:] = 7; return 1
def twice(f, x): return f(x) + f(x)
def ask_forever(f):
    while True: f()
def catches(f):
    try: f(1)
    except RuntimeError as error: return str(error)
def fails(): raise KeyError("what\\nis missing")
def odd(): return object()
def late(): import time; time.sleep(60)
class NotDone(Exception): pass
def pretends(): raise NotDone
state = []
def remembers(): state.append(1); return len(state)
"""


@pytest.fixture
def child(sandbox: Sandbox) -> Iterator[Child]:
    with sandbox.start(Limits(call_seconds=2)) as made:
        run(made, CELL)
        yield made


def take(child: Child, name: str, fork: bool = True) -> RemoteAnswer:
    return RemoteAnswer(child, name, {"P": 0.3}, time.monotonic() + 20, fork)


def test_values_and_arguments_cross(child: Child) -> None:
    answer = take(child, "same")
    x = np.arange(6.0).reshape(2, 3)
    values: list[Any] = [x, (1, "a", None), {"k": [1.5]}, np.float32(2), True]
    for value in values:
        back: Any = answer.call("same(x)", value)
        assert type(back) is type(value)
        assert np.array_equal(back, value) if isinstance(value, np.ndarray) else back == value
    assert answer.name == "same"
    assert answer.given("P") == 0.3
    answer.end()
    assert isinstance(take(child, "odd").call("odd()"), Other)


def test_objects_are_reached_by_their_handle(child: Child) -> None:
    answer = take(child, "Counter")
    one, other = answer.make("Counter(1)", 1), answer.make("Counter(10)", 10)
    assert isinstance(one, Handle)
    assert [answer.method("add", handle, "add", 2) for handle in (one, other, one)] == [3, 12, 5]
    assert answer.method("nothing", one, "nothing", nothing=True) is None
    with pytest.raises(Mistake, match="raised AttributeError"):
        answer.method("absent", one, "absent")


def test_a_changed_array_is_noticed_there(child: Child) -> None:
    answer, x = take(child, "spoil"), np.ones(3)
    with pytest.raises(Mistake, match="changed an array"):
        answer.call("spoil(x)", x, pure=True)
    assert x.tolist() == [1, 1, 1]


def test_functions_stay_here(child: Child) -> None:
    seen: list[Any] = []

    def double(x: Any) -> Any:
        seen.append(x)
        return x * 2

    assert take(child, "twice").call("twice(f, x)", double, 3) == 12
    assert seen == [3, 3]


def test_what_a_function_of_the_check_raises_is_told_there(child: Child) -> None:
    def refuse(value: int) -> None:
        raise ValueError(f"not {value}")

    assert take(child, "catches").call("catches(f)", refuse) == "ValueError: not 1"


def test_a_question_finds_what_the_cells_have_left(child: Child) -> None:
    """Each is answered in a copy of the process, or in the process itself."""
    for fork, expected in ((True, 1), (True, 1), (False, 1), (False, 2)):
        answer = take(child, "remembers", fork)
        assert answer.call("remembers()") == expected
        answer.end()
        assert answer.stopped is None


def test_what_was_raised_is_told(child: Child) -> None:
    answer = take(child, "fails")
    with pytest.raises(Mistake, match=r"^fails\(\) raised KeyError: 'what\\nis missing'$"):
        answer.call("fails()")
    assert answer.raised == "KeyError"
    answer.end()
    with pytest.raises(NotDone):
        take(child, "pretends").call("pretends()")


def test_a_call_that_does_not_end_is_stopped_and_no_other_follows(child: Child) -> None:
    answer = take(child, "late")
    with pytest.raises(Stopped) as caught:
        answer.call("late()")
    assert caught.value.reason == "time"
    start = time.monotonic()
    with pytest.raises(Stopped):
        answer.call("late()")
    answer.end()
    assert time.monotonic() - start < 0.5


def test_questions_back_are_counted(child: Child, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "MOST_QUESTIONS_BACK", 50)
    calls: list[int] = []
    with pytest.raises(Stopped) as caught:
        take(child, "ask_forever").call("ask_forever(f)", lambda: calls.append(1))
    assert (caught.value.reason, len(calls)) == ("asked", 50)


class Scripted:
    """A child that says what it was told to say."""

    def __init__(self, *messages: tuple[object, ...]) -> None:
        self.limits, self.messages, self.sent = Limits(), list(messages), list[Any]()

    def send(self, message: Any, deadline: float) -> None:
        self.sent.append(message)

    def receive(self, deadline: float) -> tuple[object, ...]:
        return self.messages.pop(0)


@pytest.mark.parametrize(
    "message",
    [
        ("handle", 0),
        ("handle",),
        ("value", 1),
        ("value", 1, "no"),
        ("value", 1, 0),
        ("asks", 0, []),
        ("asks", -1, []),
        ("asks", True, 3),
        ("raised", "ValueError"),
        ("raised", 1, 2),
        ("passed",),
        ("cell", 3),
        ("ready",),
        ("hello", []),
    ],
)
def test_a_reply_that_was_not_asked_for_stops(message: tuple[object, ...]) -> None:
    answer = RemoteAnswer(Scripted(message), "f", {}, time.monotonic() + 9)  # type: ignore[arg-type]
    with pytest.raises(Stopped) as caught:
        answer.call("f(1)", 1)
    assert caught.value.reason == "malformed"


@pytest.mark.parametrize("message", [("handle", 1), ("handle", -1), ("handle", "0"), ("value", 3, False)])
def test_a_handle_is_the_next_one(message: tuple[object, ...]) -> None:
    answer = RemoteAnswer(Scripted(message), "f", {}, time.monotonic() + 9)  # type: ignore[arg-type]
    with pytest.raises((Stopped, NotDone)):
        answer.make("F(1)", 1)


def test_the_end_of_the_process_stops() -> None:
    answer = RemoteAnswer(Scripted(("gone", 0)), "f", {}, time.monotonic() + 9)  # type: ignore[arg-type]
    with pytest.raises(Stopped) as caught:
        answer.call("f(1)", 1)
    assert caught.value.reason == "died"
