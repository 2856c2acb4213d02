"""The hidden check inside a notebook, for nbgrader, which runs tests in the student's own process."""

from __future__ import annotations

import os
from pathlib import Path

from dropoutlib.checks.exercises import judge
from grading import keys
from grading.answers import PlainAnswer
from grading.source import load
from grading.variant import make


def hidden(exercise: str, answer: object, variant: str = "") -> None:
    """Raise AssertionError, with a hint that tells no input, unless an answer passes the hidden check.

    The inputs come from the key file that the environment variable DROPOUT_GRADING_KEY names; without it they are
    drawn anew each time.

    Raises
    ------
    AssertionError
        If the answer does not pass.
    KeyFileError
        If the environment names a file that holds no key.
    """
    path = os.environ.get(keys.ENVIRONMENT, "")
    key = keys.read(Path(path)) if path else keys.new()
    name, _, _ = exercise.rpartition(".")
    numbers = make(load(name), variant).numbers
    result = judge(exercise, PlainAnswer(answer, numbers), keys.seed(key, name, variant, exercise))
    if not result:
        raise AssertionError(
            f"{exercise}: {result.status}, for other inputs than the public ones. {result.hint}".strip()
        )
