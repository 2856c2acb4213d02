"""The registry of exercises, `check`, which runs one on a reader's answer, and `progress`, which sums up.

A checker is a function of an `Answer` and a seed. It calls the answer, raises `Mistake` at the first thing that is
wrong, and returns one sentence that says what it has checked:

    @exercise("chapter.1")
    def double(answer: Answer, seed: int) -> str:
        value = answer.call("double(3)", 3)
        if value != 6:
            raise Mistake(f"double(3) returned {value}, expected 6", "Add the number to itself.")
        return "double(x) is right for x = 3."

A checker that hands over and takes back plain values only (numbers, text, arrays, and lists and dictionaries of these)
and reaches objects through a `Handle` does not care where the answer runs: a grader may run it in another process.
"""

from __future__ import annotations

import copy
import inspect
import math
import numbers
import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

# The probability that one random comparison of a checker rejects a right answer. A checker makes at most ten, so a
# whole check does so with a probability of at most 1e-9.
FALSE_ALARM = 1e-10

Checker = Callable[["Answer", int], str]

_EXERCISES: dict[str, Checker] = {}
_SESSION: dict[str, Result] = {}


class Mistake(Exception):
    """What is wrong with an answer, and a hint that fits it."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class NotDone(Exception):
    """The answer is still a placeholder."""


@dataclass(frozen=True)
class Result:
    """What `check` found; true if the answer passed.

    Attributes
    ----------
    exercise : str
        The exercise's id.
    status : {"passed", "failed", "not done yet"}
        The verdict.
    message : str
        The text that `check` printed.
    hint : str
        The part of it that fits the mistake and tells no input.
    """

    exercise: str
    status: Literal["passed", "failed", "not done yet"]
    message: str
    hint: str = ""

    def __bool__(self) -> bool:
        """Return whether the answer passed."""
        return self.status == "passed"

    def __str__(self) -> str:
        """Return the text that `check` printed."""
        return self.message

    def _ipython_display_(self) -> None:
        """Show nothing at the end of a cell: `check` has already printed the message."""


class Raised(Exception):
    """What an answer raised, where the exception itself cannot come across."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


class Handle:
    """An object that an answer made. A checker can call its methods through the `Answer`, and nothing else."""

    def __init__(self, target: Any) -> None:
        self.target = target


class Answer:
    """A reader's function or class, called so that its errors become one line and its warnings stay silent.

    Parameters
    ----------
    target : object
        What the reader wrote.
    given : mapping
        The numbers that the reader's text gives, by name.
    """

    def __init__(self, target: object, given: Mapping[str, Any] | None = None) -> None:
        self._target = target
        self._given = dict(given or {})
        self._started = False

    @property
    def name(self) -> str:
        """What the reader calls the answer, for messages."""
        return str(getattr(self._target, "__name__", "answer"))

    def given(self, name: str) -> Any:
        """Return a number that the reader's text gives.

        Raises
        ------
        ValueError
            If `check` was not told.
        """
        if name not in self._given:
            raise ValueError(f"this exercise needs the number {name}; pass it: check(..., {name}={name})")
        return self._given[name]

    def call(self, text: str, *arguments: object, hint: str = "", pure: bool = False) -> object:
        """Return the answer's value for `arguments`.

        Parameters
        ----------
        text : str
            The call as the reader would write it, for messages.
        *arguments
            What to call the answer with.
        hint : str
            Shown if the call raises.
        pure : bool
            Whether to insist that no array among the arguments is changed.

        Raises
        ------
        NotDone
            If the answer is still a placeholder.
        Mistake
            If it is not a function, raises, or returns None after it has once returned something.
        """
        return self._value(text, self._guarded(text, hint, None, "", arguments, pure))

    def make(self, text: str, *arguments: object, hint: str = "") -> Handle:
        """Return the object that the answer, a class, makes of `arguments`; errors as in `call`."""
        made = self._guarded(text, hint, None, "", arguments, False, keep=True)
        if not isinstance(made, Handle):
            raise NotDone
        return made

    def method(
        self,
        text: str,
        handle: Handle,
        name: str,
        *arguments: object,
        hint: str = "",
        pure: bool = False,
        nothing: bool = False,
    ) -> object:
        """Return the value of a method of an object that the answer made; errors as in `call`.

        With `nothing`, the method may return None.
        """
        value = self._guarded(text, hint, handle, name, arguments, pure)
        return value if nothing else self._value(text, value)

    def _value(self, text: str, value: object) -> object:
        if is_placeholder(value):
            if not self._started:
                raise NotDone
            raise Mistake(f"{text} returned {value!r}", "Does every branch of the function return something?")
        self._started = True
        return value

    def _guarded(
        self,
        text: str,
        hint: str,
        handle: Handle | None,
        name: str,
        arguments: tuple[object, ...],
        pure: bool,
        keep: bool = False,
    ) -> object:
        try:
            value, changed = self._perform(handle, name, arguments, pure, keep)
        except (NotDone, Mistake):
            raise
        except NotImplementedError:
            raise NotDone from None
        except Exception as error:
            kind = error.kind if isinstance(error, Raised) else type(error).__name__
            if kind == "NotImplementedError":
                raise NotDone from None
            raise Mistake(f"{text} raised {kind}: {short(str(error))}", hint) from None
        if changed:
            raise Mistake(
                f"{text} changed an array that it was given",
                "Make a new array (y = x * ...) or work on a copy (x = x.copy()); the caller still needs the old one.",
            )
        return value

    def _perform(
        self, handle: Handle | None, name: str, arguments: tuple[object, ...], pure: bool, keep: bool
    ) -> tuple[object, bool]:
        """Call the answer, or the method `name` of an object that it made.

        This is the one place that touches what the reader wrote; an answer that runs elsewhere replaces it. Returns
        the value, or a handle for it if `keep`, and whether an argument was changed, if `pure`.
        """
        target = self._target if handle is None else getattr(handle.target, name)
        if is_placeholder(target):
            raise NotDone
        if not callable(target):
            raise Mistake(
                f"the answer is {short(repr(target))}, expected a function",
                "Pass the function itself, without calling it.",
            )
        before = copy.deepcopy(_arrays(arguments)) if pure else []
        with np.errstate(all="ignore"), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            value: object = target(*arguments)
        after = _arrays(arguments) if pure else []
        changed = not all(_same(u, v) for u, v in zip(before, after, strict=True))
        return (Handle(value) if keep and not is_placeholder(value) else value), changed


def exercise(name: str) -> Callable[[Checker], Checker]:
    """Register a checker under the exercise's id, "<chapter>.<number>".

    Raises
    ------
    ValueError
        If the id is taken.
    """

    def register(checker: Checker) -> Checker:
        if name in _EXERCISES:
            raise ValueError(f"exercise {name!r} is registered twice; give one of them another number")
        _EXERCISES[name] = checker
        return checker

    return register


def check(exercise: str, answer: object, *, seed: int = 0, **given: Any) -> Result:
    """Check an answer, print the verdict at once and return it.

    An answer that is None, `...`, NotImplemented, or a function that returns one of these (or a tuple or list of
    nothing else) or raises NotImplementedError, is "not done yet". The check is deterministic for a deterministic
    answer. A right answer that draws random numbers is rejected with a probability of at most 1e-9.

    Parameters
    ----------
    exercise : str
        The exercise's id, such as "standard-vs-inverted.1".
    answer : function or class
        What the reader wrote.
    seed : int
        Of the random numbers that are handed to the answer.
    **given
        The numbers that the exercise's text gives, where it gives some.

    Returns
    -------
    Result
        True if the answer passed.

    Raises
    ------
    ValueError
        If there is no such exercise, or it needs a number that is not given.
    """
    if exercise not in _EXERCISES:
        raise ValueError(f"unknown exercise {exercise!r}; known are {', '.join(_EXERCISES)}")
    result = _SESSION[exercise] = judge(exercise, Answer(answer, given), seed)
    print(result.message)
    return result


def judge(exercise: str, answer: Answer, seed: int = 0) -> Result:
    """Return the verdict on an answer, wherever it runs, and print nothing."""
    try:
        checked = _EXERCISES[exercise](answer, seed)
    except NotDone:
        return Result(exercise, "not done yet", f"{exercise}: not done yet")
    except Mistake as mistake:
        hint = f"\n  Hint: {mistake.hint}" if mistake.hint else ""
        return Result(exercise, "failed", f"{exercise}: not right yet\n  {mistake.message}{hint}", mistake.hint)
    return Result(exercise, "passed", f"{exercise}: passed\n  {checked}")


def description(exercise: str) -> str:
    """Return what a checker says of itself: the answer's signature, and what a right one must satisfy."""
    return inspect.cleandoc(_EXERCISES[exercise].__doc__ or "")


@dataclass(frozen=True)
class Progress:
    """Where the reader stands in the exercises of the chapters that were begun in this session.

    Attributes
    ----------
    done, not_yet_right, not_done_yet : tuple of str
        Ids of the exercises.
    message : str
        The text that `progress` printed.
    """

    done: tuple[str, ...]
    not_yet_right: tuple[str, ...]
    not_done_yet: tuple[str, ...]
    message: str

    def __str__(self) -> str:
        """Return the text that `progress` printed."""
        return self.message

    def _ipython_display_(self) -> None:
        """Show nothing at the end of a cell: `progress` has already printed the message."""


def progress(*chapters: str) -> Progress:
    """Print and return how many exercises are done, not yet right, and not done yet.

    An exercise counts as its last `check` in this session found it, so one whose solution was run counts as done.

    Parameters
    ----------
    *chapters : str
        Chapters or assignments; by default those of which something was checked in this session.

    Raises
    ------
    ValueError
        If a chapter has no exercises.
    """
    known = list(dict.fromkeys(map(_chapter, _EXERCISES)))
    if unknown := [name for name in chapters if name not in known]:
        raise ValueError(f"no exercises of {', '.join(map(repr, unknown))}; known are {', '.join(known)}")
    begun = set(map(_chapter, _SESSION))
    lines, found = [], {status: list[str]() for status in ("passed", "failed", "not done yet")}
    for chapter in chapters or [name for name in known if name in begun]:
        ids = [name for name in _EXERCISES if _chapter(name) == chapter]
        groups = {status: [name for name in ids if _status(name) == status] for status in found}
        lines.append(f"{chapter}: {len(groups['passed'])} of {len(ids)} done")
        for (status, names), label in zip(groups.items(), ("done", "not yet right", "not done yet"), strict=True):
            found[status] += names
            if names:
                lines.append(f"  {label:14}{', '.join(names)}")
    message = "\n".join(lines) or "No exercise was checked yet."
    print(message)
    done, failed, not_done = (tuple(names) for names in found.values())
    return Progress(done, failed, not_done, message)


def number(value: object, text: str) -> float:
    """Return `value` as a float if it is a finite real number, else raise a `Mistake` about the call `text`."""
    if isinstance(value, np.ndarray) and value.ndim == 0:
        value = value.item()
    if isinstance(value, bool | np.bool_) or not isinstance(value, numbers.Real):
        raise Mistake(f"{text} returned {short(repr(value))}, expected a number")
    if not math.isfinite(value):
        raise Mistake(f"{text} returned {float(value)}, expected a finite number")
    return float(value)


def fits_binomial(count: int, n: int, q: float, false_alarm: float = FALSE_ALARM) -> bool:
    """Return whether `count` successes of `n` are compatible with the probability q, 0 < q < 1.

    For count ~ Binomial(n, q), Chernoff's bound on both tails gives P(n KL(count/n || q) >= t) <= 2 exp(-t), where
    KL(a || q) = a log(a/q) + (1-a) log((1-a)/(1-q)). So a count is refused where n KL > log(2 / false_alarm).

    References
    ----------
    Hoeffding, "Probability inequalities for sums of bounded random variables", JASA 58 (1963), theorem 1.
    """
    a = count / n
    divergence = sum(u * math.log(u / v) for u, v in ((a, q), (1 - a, 1 - q)) if u > 0)
    return n * divergence <= math.log(2 / false_alarm)


def is_placeholder(value: object) -> bool:
    """Return whether a value stands for an answer that is still to come."""
    if isinstance(value, tuple | list):
        return bool(value) and all(map(is_placeholder, value))
    if isinstance(value, np.ndarray) and value.dtype == object and value.ndim == 0:
        value = value.item()
    return value is None or value is Ellipsis or value is NotImplemented


def short(text: str) -> str:
    """Return the first line of `text`, cut to 120 characters."""
    line = text.strip().split("\n")[0]
    return line if len(line) <= 120 else line[:117] + "..."


def _arrays(values: Iterable[object]) -> list[np.ndarray[Any, Any]]:
    """Return the arrays among the arguments of a call, in lists, tuples and dictionaries too."""
    found: list[np.ndarray[Any, Any]] = []
    for value in values:
        if isinstance(value, np.ndarray):
            found.append(value)
        elif isinstance(value, list | tuple):
            found += _arrays(value)
        elif isinstance(value, dict):
            found += _arrays(value.values())
    return found


def _same(u: np.ndarray[Any, Any], v: np.ndarray[Any, Any]) -> bool:
    return u.dtype == v.dtype and u.shape == v.shape and u.tobytes() == v.tobytes()


def _chapter(exercise: str) -> str:
    return exercise.rpartition(".")[0]


def _status(exercise: str) -> str:
    return _SESSION[exercise].status if exercise in _SESSION else "not done yet"
