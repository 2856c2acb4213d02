"""The registry of exercises, and `check`, which runs one on a reader's answer.

A checker is a function of an `Answer` and a seed. It calls the answer, raises `Mistake` at the first thing that is
wrong, and returns one sentence that says what it has checked:

    @exercise("chapter.1")
    def double(answer: Answer, seed: int) -> str:
        value = answer.call("double(3)", 3)
        if value != 6:
            raise Mistake(f"double(3) returned {value}, expected 6", "Add the number to itself.")
        return "double(x) is right for x = 3."
"""

from __future__ import annotations

import math
import numbers
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np

# The probability that one random comparison of a checker rejects a right answer. A checker makes at most ten, so a
# whole check does so with a probability of at most 1e-9.
FALSE_ALARM = 1e-10

Checker = Callable[["Answer", int], str]

_EXERCISES: dict[str, Checker] = {}


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
    """

    exercise: str
    status: Literal["passed", "failed", "not done yet"]
    message: str

    def __bool__(self) -> bool:
        """Return whether the answer passed."""
        return self.status == "passed"

    def __str__(self) -> str:
        """Return the text that `check` printed."""
        return self.message

    def _ipython_display_(self) -> None:
        """Show nothing at the end of a cell: `check` has already printed the message."""


class Answer:
    """A reader's function, called so that its errors become one line and its warnings stay silent."""

    def __init__(self, function: object) -> None:
        self._function = function
        self._started = False

    def call(self, text: str, *arguments: object, hint: str = "") -> object:
        """Return the answer's value for `arguments`.

        Parameters
        ----------
        text : str
            The call as the reader would write it, for messages.
        *arguments
            What to call the answer with.
        hint : str
            Shown if the call raises.

        Raises
        ------
        NotDone
            If the answer is still a placeholder.
        Mistake
            If it is not a function, raises, or returns None after it has once returned something.
        """
        if _is_placeholder(self._function):
            raise NotDone
        if not callable(self._function):
            raise Mistake(
                f"the answer is {_short(repr(self._function))}, expected a function",
                "Pass the function itself, without calling it.",
            )
        try:
            with np.errstate(all="ignore"), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                value: object = self._function(*arguments)
        except NotImplementedError:
            raise NotDone from None
        except Exception as error:
            raise Mistake(f"{text} raised {type(error).__name__}: {_short(str(error))}", hint) from None
        if _is_placeholder(value):
            if not self._started:
                raise NotDone
            raise Mistake(f"{text} returned {value!r}", "Does every branch of the function return something?")
        self._started = True
        return value


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


def check(exercise: str, answer: object, *, seed: int = 0) -> Result:
    """Check an answer, print the verdict at once and return it.

    An answer that is None, `...`, NotImplemented, or a function that returns one of these or raises
    NotImplementedError, is "not done yet". The check is deterministic for a deterministic answer. A right answer that
    draws random numbers is rejected with a probability of at most 1e-9.

    Parameters
    ----------
    exercise : str
        The exercise's id, such as "standard-vs-inverted.1".
    answer : function
        The reader's function.
    seed : int
        Of the random numbers that are handed to the answer.

    Returns
    -------
    Result
        True if the answer passed.

    Raises
    ------
    ValueError
        If there is no such exercise.
    """
    if exercise not in _EXERCISES:
        raise ValueError(f"unknown exercise {exercise!r}; known are {', '.join(_EXERCISES)}")
    result = _run(exercise, answer, seed)
    print(result.message)
    return result


def number(value: object, text: str) -> float:
    """Return `value` as a float if it is a finite real number, else raise a `Mistake` about the call `text`."""
    if isinstance(value, np.ndarray) and value.ndim == 0:
        value = value.item()
    if isinstance(value, bool | np.bool_) or not isinstance(value, numbers.Real):
        raise Mistake(f"{text} returned {_short(repr(value))}, expected a number")
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


def _run(name: str, answer: object, seed: int) -> Result:
    try:
        checked = _EXERCISES[name](Answer(answer), seed)
    except NotDone:
        return Result(name, "not done yet", f"{name}: not done yet")
    except Mistake as mistake:
        hint = f"\n  Hint: {mistake.hint}" if mistake.hint else ""
        return Result(name, "failed", f"{name}: not right yet\n  {mistake.message}{hint}")
    return Result(name, "passed", f"{name}: passed\n  {checked}")


def _is_placeholder(value: object) -> bool:
    return value is None or value is Ellipsis or value is NotImplemented


def _short(text: str) -> str:
    """Return the first line of `text`, cut to 120 characters."""
    line = text.strip().split("\n")[0]
    return line if len(line) <= 120 else line[:117] + "..."
