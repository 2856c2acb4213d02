"""`check`: placeholders, right answers, and wrong answers with the hint that is meant for them.

A right answer to the random exercise is rejected with a probability of at most 1e-9 for each seed.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dropoutlib.checks import check, exercises, progress
from dropoutlib.checks.exercises import (
    FALSE_ALARM,
    Answer,
    Mistake,
    description,
    exercise,
    fits_binomial,
    is_placeholder,
    judge,
    number,
)
from tests.dropoutlib.checking import passed, rejected

IDS = [f"standard-vs-inverted.{i}" for i in (1, 2, 3, 4)]
SCALE, DROPOUT, FOLD, LR = IDS
# Values that no exercise takes for an answer, and more that none of the chapter does.
COMMON: list[object] = ["text", {}, float("nan"), object()]
WRONG_KINDS: dict[str, list[object]] = {
    "standard-vs-inverted": [True, (), [], np.ones(3), (1,), [(1, 2, 3)], [1]],
    "inference": [(), [], np.ones(3), [1], True],
    "masks": [(), [], np.ones(3), [1], True],
    "gradient-flow": [True, (), [], (1,), [1]],
    "batch-norm": [1.5, np.ones(3), [1.5], [True], True, [[1, 2]]],
    "determinism": [(), [], np.ones(3), True],
    "frameworks": [(), [], np.ones(3), True],
    "deployment": [(), [], np.ones(3), [1], 2],
    "uncertainty": [(), [], np.ones(3), [1], True],
    "bugs-in-the-wild": [(), [], np.ones(3), [1], True],
    "does-it-help": [(), [], np.ones(4), True, (1,), [1]],
    "variants": [(), [], np.ones(3), [1.5], True],
}
CHAPTERS = [name for name in exercises._EXERCISES if name.split(".")[0] in WRONG_KINDS]


# What holds for every exercise.


@pytest.mark.parametrize("name", IDS)
@pytest.mark.parametrize("answer", [None, ..., NotImplemented])
def test_placeholders_are_not_done_yet(name: str, answer: object, capsys: pytest.CaptureFixture[str]) -> None:
    result = check(name, answer)
    assert (result.status, bool(result)) == ("not done yet", False)
    assert capsys.readouterr().out == f"{name}: not done yet\n"


def raises_not_implemented(*arguments: object) -> None:
    raise NotImplementedError("your turn")


class Unwritten:
    def __init__(self, *arguments: object) -> None:
        raise NotImplementedError


@pytest.mark.parametrize("name", list(exercises._EXERCISES))
@pytest.mark.parametrize(
    "answer",
    [
        None,
        ...,
        NotImplemented,
        lambda *a: None,
        lambda *a: ...,
        lambda *a: NotImplemented,
        lambda *a: (None, None),
        lambda *a: [..., ...],
        lambda *a: np.array(None),
        raises_not_implemented,
        Unwritten,
    ],
)
def test_every_kind_of_unanswered_is_not_done_yet_in_every_exercise(name: str, answer: object) -> None:
    given = {"P": 0.3, "X": 2.0, "A": 1.0, "B": 2.0, "N": 1000, "MU": 1.0, "SIGMA": 2.0, "SICK": 5, "IMAGE": 3}
    assert judge(name, Answer(answer, given | {"SPLIT": 1})).status == "not done yet"


def test_placeholders() -> None:
    for value in (None, ..., NotImplemented, (None, ...), [None], np.array(...)):
        assert is_placeholder(value)
    for value in (0, "", (), [], (None, 1), np.array(0), np.array([None, None]), False):
        assert not is_placeholder(value)


@pytest.mark.parametrize("name", CHAPTERS)
@pytest.mark.parametrize("answer", [1.25, "1/(1-p)", [1, 2]])
def test_a_value_in_place_of_a_function(name: str, answer: object) -> None:
    rejected(name, answer, "expected a function", "without calling it")


@pytest.mark.parametrize("name", CHAPTERS)
def test_an_error_of_the_answer_becomes_one_line(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    def answer(*arguments: object) -> object:
        raise RuntimeError("first line " + 200 * "x" + "\nsecond line")

    rejected(name, answer, "raised RuntimeError: first line", "...")
    printed = capsys.readouterr()
    assert "second line" not in printed.out
    assert "Traceback" not in printed.out + printed.err


@pytest.mark.parametrize("name", CHAPTERS)
def test_a_wrong_signature_is_reported(name: str) -> None:
    rejected(name, lambda: 1, "raised TypeError")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        (name, value)
        for name in CHAPTERS
        for value in ("text", {}, float("nan"), object(), *WRONG_KINDS[name.split(".")[0]])
    ],
)
def test_a_value_of_the_wrong_kind_is_reported(name: str, value: object) -> None:
    message = rejected(name, lambda *arguments: value).message
    assert "returned" in message or "does not hold" in message


def test_every_chapter_says_what_is_of_the_wrong_kind() -> None:
    notebooks = {path.stem for path in (Path(__file__).parents[2] / "chapters").glob("*.ipynb")}
    assert set(WRONG_KINDS) == notebooks


def test_none_after_a_first_value_is_a_mistake() -> None:
    rejected(SCALE, lambda p: 1 / (1 - p) if p < 0.5 else None, "returned None", "every branch")


def test_unknown_exercise() -> None:
    with pytest.raises(ValueError, match=r"unknown exercise 'chapter\.9'.*standard-vs-inverted\.1"):
        check("chapter.9", None)


def test_the_message_is_printed_at_once_and_shown_once(capsys: pytest.CaptureFixture[str]) -> None:
    result = check(SCALE, lambda p: 1 / p)
    assert capsys.readouterr().out == f"{result.message}\n" == f"{result}\n"
    result._ipython_display_()
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("name", IDS)
def test_the_check_is_deterministic(name: str) -> None:
    answers: list[Callable[..., object]] = [right[0] for right in RIGHT[name]] if name in RIGHT else []
    assert answers
    for answer in answers:
        assert check(name, answer) == check(name, answer)


def test_warnings_of_the_answer_stay_silent() -> None:
    def answer(p: float) -> float:
        warnings.warn("noise", stacklevel=1)
        np.ones(1) / np.zeros(1)
        return 1 / (1 - p)

    passed(SCALE, answer)


def test_interrupts_are_not_swallowed() -> None:
    def answer(p: float) -> float:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        check(SCALE, answer)


def test_an_exercise_is_registered_once() -> None:
    with pytest.raises(ValueError, match=r"standard-vs-inverted\.1.*twice"):
        exercise(SCALE)(lambda answer, seed: "")


def test_numbers() -> None:
    for value in (2, 2.0, np.float32(2), np.int64(2), np.array(2.0)):
        assert number(value, "f()") == 2.0
    for wrong in (True, "2", None, np.array([2.0]), 2j, float("nan"), float("inf"), np.array("a")):
        with pytest.raises(Mistake):
            number(wrong, "f()")


def test_the_bound_on_counts_is_above_the_exact_tail() -> None:
    binom = pytest.importorskip("scipy.stats").binom
    for n, q in ((1000, 0.2), (32768, 0.8), (50, 0.3)):
        counts = np.arange(n + 1)
        refused = np.array([not fits_binomial(int(k), n, q) for k in counts])
        assert 0 < binom(n, q).pmf(counts[refused]).sum() <= FALSE_ALARM
    # Power: a share of kept elements that is off by 0.03 is refused with a probability above 0.99.
    n = 32768
    refused = np.array([not fits_binomial(k, n, 0.8) for k in range(n + 1)])
    assert binom(n, 0.77).pmf(np.flatnonzero(refused)).sum() > 0.99


def test_answers_are_called_with_what_is_said() -> None:
    seen = []
    Answer(lambda *a: seen.append(a) or 1).call("f(1, 2)", 1, 2)
    assert seen == [(1, 2)]


def test_a_result_keeps_its_hint_apart() -> None:
    assert check(SCALE, lambda p: 1).hint.startswith("Without a factor")
    assert check(SCALE, lambda p: 1 / (1 - p)).hint == ""


@pytest.mark.parametrize("name", list(exercises._EXERCISES))
def test_every_check_says_what_it_looks_at(name: str) -> None:
    assert description(name).startswith("Check ")


# Progress.


@pytest.fixture
def session(monkeypatch: pytest.MonkeyPatch) -> None:
    """A session in which nothing was checked yet."""
    monkeypatch.setattr(exercises, "_SESSION", {})


@pytest.mark.usefixtures("session")
def test_progress_counts_the_exercises_of_the_chapters_that_were_begun(capsys: pytest.CaptureFixture[str]) -> None:
    check(SCALE, lambda p: 1 / (1 - p))
    check(FOLD, lambda weights, rates: weights)
    check(LR, None)
    capsys.readouterr()
    result = progress()
    assert result.done == (SCALE,)
    assert result.not_yet_right == (FOLD,)
    assert result.not_done_yet == (DROPOUT, LR)
    assert capsys.readouterr().out == f"{result.message}\n" == f"{result}\n"
    assert result.message.splitlines() == [
        "standard-vs-inverted: 1 of 4 done",
        f"  done          {SCALE}",
        f"  not yet right {FOLD}",
        f"  not done yet  {DROPOUT}, {LR}",
    ]
    result._ipython_display_()
    assert capsys.readouterr().out == ""


@pytest.mark.usefixtures("session")
def test_progress_takes_the_last_check_of_each_exercise() -> None:
    check(SCALE, None)
    check(SCALE, lambda p: 1 / p)
    check(SCALE, lambda p: 1 / (1 - p))
    assert progress().done == (SCALE,)
    check(SCALE, lambda p: 1 / p)
    assert progress().not_yet_right == (SCALE,)


@pytest.mark.usefixtures("session")
def test_progress_over_several_chapters_and_by_name() -> None:
    check(SCALE, lambda p: 1 / (1 - p))
    check("gradient-flow.1", None)
    lines = progress().message.splitlines()
    assert [line for line in lines if not line.startswith(" ")] == [
        "gradient-flow: 0 of 4 done",
        "standard-vs-inverted: 1 of 4 done",
    ]
    assert progress("inference").not_done_yet == ("inference.1", "inference.2", "inference.3")
    with pytest.raises(ValueError, match=r"no exercises of 'chapter'; known are .*inference"):
        progress("chapter")


@pytest.mark.usefixtures("session")
def test_progress_before_the_first_check(capsys: pytest.CaptureFixture[str]) -> None:
    assert progress().message == "No exercise was checked yet."


@pytest.mark.usefixtures("session")
def test_judging_an_answer_elsewhere_leaves_the_session_alone(capsys: pytest.CaptureFixture[str]) -> None:
    assert judge(SCALE, Answer(lambda p: 1 / (1 - p)))
    assert progress().message == "No exercise was checked yet."


def test_a_number_of_the_text_that_is_not_passed() -> None:
    with pytest.raises(ValueError, match=r"needs the number P; pass it: check\(\.\.\., P=P\)"):
        check("two-dropouts.3", lambda: (1, 2, 3, 4))


# 1


def scale_by_series(p: float) -> np.float64:
    return np.float64(sum(p**k for k in range(4000)))


@pytest.mark.parametrize(
    ("answer", "hint"),
    [
        (lambda p: 1 / p, "how many are left"),
        (lambda p: 1 - p, "shrink or grow"),
        (lambda p: 1, "Without a factor"),
        (lambda p: p / (1 - p), "variance"),
        (lambda p: 1 / (1 - p) ** 2, "twice"),
        (lambda p: 2, "0.5 only"),
        (lambda p: 1 + p, "mean of mask times factor should be 1"),
        (lambda p: 1 / (1 - p) if p else 0.0, "With p = 0 nothing is dropped"),
        (lambda p: (1 / p) * (p / (1 - p)), "With p = 0 nothing is dropped"),
    ],
)
def test_scale_hints(answer: object, hint: str) -> None:
    rejected(SCALE, answer, f"Hint: {hint}" if hint[0].isupper() else hint)


def test_scale_says_input_got_and_expected() -> None:
    rejected(SCALE, lambda p: 1 / p, "scale(0.2) returned 5, expected 1.25")


# 2


def by_random(x: np.ndarray, p: float, rng: np.random.Generator, training: bool) -> tuple[np.ndarray, np.ndarray]:
    if not training:
        return x, np.ones(x.shape, bool)
    mask = rng.random(x.shape) >= p
    if p == 1:
        return np.zeros_like(x), mask
    return x * mask * x.dtype.type(1 / (1 - p)), mask


def by_binomial(x: np.ndarray, p: float, rng: np.random.Generator, training: bool) -> tuple[np.ndarray, object]:
    if not training:
        return x.copy(), None
    mask = np.asarray(rng.binomial(1, 1 - p, size=x.shape))
    return np.where(mask, x / (1 - p) if p < 1 else 0, 0).astype(x.dtype), mask


def by_loop(x: np.ndarray, p: float, rng: np.random.Generator, training: bool) -> tuple[np.ndarray, np.ndarray]:
    y, mask = np.array(x), np.ones(x.shape, np.int8)
    if training:
        for i in np.ndindex(x.shape):
            mask[i] = rng.random() >= p
            y[i] = x[i] / (1 - p) if mask[i] else 0
    return y, mask


class Wrong:
    """Inverted dropout with one switch for each mistake."""

    def __init__(self, **switches: Any) -> None:
        self.__dict__.update(switches)

    def __getattr__(self, name: str) -> None:
        return None

    def __call__(self, x: np.ndarray, p: float, rng: np.random.Generator, training: bool) -> Any:
        if not training and not self.always:
            factor = self.evaluation(p) if self.evaluation else 1
            return (x * factor).astype(x.dtype), None
        generator = np.random.default_rng(self.seed) if self.seed is not None else self.rng or rng
        shape = self.shape(x.shape) if self.shape else x.shape
        draws = generator.random(shape)
        mask = draws < p if self.swapped else draws >= p
        if self.fixed_count and mask.size:
            mask = np.argsort(np.argsort(draws, axis=None)).reshape(mask.shape) >= round(p * mask.size)
        if self.whole_shape:
            mask = np.broadcast_to(mask, x.shape)
        if self.extreme == "nan":
            factor = np.asarray(1.0) / (1 - p)
        elif self.factor:
            factor = self.factor(p) if p < 1 else 0
        else:
            factor = 1 / (1 - p) if p < 1 else 0
        if self.in_place:
            x *= np.asarray(mask * factor, x.dtype)
            return x, mask
        y = x * mask * np.asarray(factor) if self.wide else (x * mask * factor).astype(x.dtype)
        return y, self.mask(mask, factor) if self.mask else mask


def p_zero_drops(x: np.ndarray, p: float, rng: np.random.Generator, training: bool) -> Any:
    y, mask = by_random(x, max(p, 0.1), rng, training)
    return y, mask


def p_one_keeps(x: np.ndarray, p: float, rng: np.random.Generator, training: bool) -> Any:
    return (x, np.ones(x.shape, bool)) if p == 1 else by_random(x, p, rng, training)


def p_one_mask(x: np.ndarray, p: float, rng: np.random.Generator, training: bool) -> Any:
    y, mask = by_random(x, p, rng, training)
    return y, mask | (p == 1)


def p_one_first(x: np.ndarray, p: float, rng: np.random.Generator, training: bool) -> Any:
    return (np.zeros_like(x), np.zeros(x.shape, bool)) if p == 1 else by_random(x, p, rng, training)


def p_zero_first(x: np.ndarray, p: float, rng: np.random.Generator, training: bool) -> Any:
    return by_random(x, p, rng, training) if training or p else (-x, np.ones(x.shape, bool))


def divides_in_evaluation(x: np.ndarray, p: float, rng: np.random.Generator, training: bool) -> Any:
    return by_random(x, p, rng, training) if training else (x if 1 / (1 - p) else None, None)


def divides(x: np.ndarray, p: float, rng: np.random.Generator, training: bool) -> Any:
    scale = 1 / (1 - p)
    y, mask = by_random(x, p, rng, training)
    return y, mask if scale else None


def two_dimensional_only(x: np.ndarray, p: float, rng: np.random.Generator, training: bool) -> Any:
    if x.ndim != 2:
        raise ValueError(f"not enough values to unpack from {x.shape}")
    return by_random(x, p, rng, training)


@pytest.mark.parametrize(
    ("answer", "parts"),
    [
        (Wrong(factor=lambda p: 1), ["by 1, expected 1.25", "Nothing makes up"]),
        (Wrong(factor=lambda p: 1, evaluation=lambda p: 1 - p), ["by 1, expected 1.25", "This is standard dropout"]),
        (Wrong(factor=lambda p: 1 / p if p else 1), ["by 5, expected 1.25", "how many are left"]),
        (Wrong(factor=lambda p: 1 / (1 - p) ** 2), ["by 1.5625", "twice"]),
        (Wrong(factor=lambda p: 1 - p), ["by 0.8, expected 1.25", "shrink or grow"]),
        (Wrong(factor=lambda p: 2), ["by 2, expected 1.25", "0.5 only"]),
        (Wrong(factor=lambda p: 3), ["by 3, expected 1.25", "mean of y equal to x"]),
        (Wrong(swapped=True), ["expected 80%", "p is the probability of dropping"]),
        (Wrong(swapped=True, factor=lambda p: 1 / p if p else 1), ["expected 80%", "p is the probability of dropping"]),
        (Wrong(always=True), ["training=False", "to 0, expected y equal to x", "Does the function look at training?"]),
        (Wrong(evaluation=lambda p: 1 - p), ["by 0.8, expected y equal to x", "must not scale too"]),
        (Wrong(evaluation=lambda p: 1 / (1 - p)), ["by 1.25, expected y equal to x", "must not scale too"]),
        (Wrong(shape=lambda shape: shape[-1:]), ["mask of shape (256,)", "must not serve the whole batch"]),
        (
            Wrong(shape=lambda shape: shape[-1:], whole_shape=True),
            ["same mask for several rows", "must not serve the whole batch"],
        ),
        (
            Wrong(shape=lambda shape: (*shape[:-1], 1) if shape else (), whole_shape=True),
            ["same mask for several columns", "must not serve the whole row"],
        ),
        (Wrong(wide=True, factor=lambda p: np.float64(1 / (1 - p))), ["returned float64, expected float32", "wider"]),
        (Wrong(extreme="nan"), ["x, 1.0, rng", "nan, expected zeros", "At p = 1 nothing is kept"]),
        (divides, ["x, 1.0, rng", "ZeroDivisionError", "At p = 1 nothing is kept"]),
        (p_one_first, ["x, 1.0, rng, training=False", "100% of the elements to 0", "look at training first"]),
        (p_zero_first, ["x, 0.0, rng, training=False", "by -1, expected y equal to x"]),
        (divides_in_evaluation, ["x, 1.0, rng, training=False", "ZeroDivisionError", "look at training first"]),
        (p_one_keeps, ["other values, expected zeros", "At p = 1 nothing is kept"]),
        (p_one_mask, ["kept 32 of 32", "p = 1 drops everything"]),
        (p_zero_drops, ["x, 0.0, rng", "p = 0 drops nothing"]),
        (Wrong(in_place=True), ["changed x", "no x *= ..."]),
        (Wrong(seed=3), ["drew the same mask", "do not make or seed one there"]),
        (Wrong(rng=np.random.default_rng(5)), ["two masks", "from the rng that is handed over"]),
        (Wrong(fixed_count=True), ["exactly 26214 elements", "by a draw of its own"]),
        (Wrong(mask=lambda mask, factor: mask * factor), ["other values than 0 and 1", "what is kept"]),
        (Wrong(mask=lambda mask, factor: ~mask, swapped=True), ["not 0 exactly where mask is false"]),
        (Wrong(mask=lambda mask, factor: np.roll(mask, 1)), ["not 0 exactly where", "one draw"]),
        (Wrong(mask=lambda mask, factor: mask.astype(str)), ["other values than 0 and 1"]),
        (Wrong(mask=lambda mask, factor: None), ["mask of shape ()"]),
        (Wrong(shape=lambda shape: (), whole_shape=True), ["every element, expected 80%"]),
        (lambda x, p, rng, training: (x, np.ones(x.shape, bool)), ["kept every element, expected 80%"]),
        (lambda x, p, rng, training: (x * 0, np.zeros(x.shape, bool)), ["dropped every element, expected 80%"]),
        (lambda x, p, rng, training: by_random(x, 0.4, rng, training), ["kept 60", "expected 80%"]),
        (lambda x, p, rng, training: x, ["expected a pair (y, mask)", "return y, mask"]),
        (lambda x, p, rng, training: (x[0], x), ["y of shape (256,), expected (128, 256)"]),
        (lambda x, p, rng, training: (x > 0, x), ["y of dtype bool, expected float64"]),
        (two_dimensional_only, ["x of shape ()", "ValueError", "any shape"]),
    ],
)
def test_dropout_hints(answer: object, parts: list[str]) -> None:
    rejected(DROPOUT, answer, *parts)


def different_factors(x: np.ndarray, p: float, rng: np.random.Generator, training: bool) -> Any:
    y, mask = by_random(x, p, rng, training)
    return (y * np.abs(x) if training else y), mask


def test_dropout_with_several_factors() -> None:
    rejected(DROPOUT, different_factors, "multiplied kept elements by 1.25", " to 2.")


@pytest.mark.parametrize("answer", [by_random, by_binomial])
def test_right_dropout_passes_under_many_seeds(answer: object) -> None:
    for seed in range(50):
        passed(DROPOUT, answer, seed)


@pytest.mark.long
@pytest.mark.parametrize("answer", [by_random, by_binomial])
def test_right_dropout_passes_under_a_thousand_seeds(answer: object) -> None:
    for seed in range(50, 1050):
        passed(DROPOUT, answer, seed)


@pytest.mark.long
@pytest.mark.parametrize(
    "answer",
    [
        Wrong(swapped=True),
        Wrong(shape=lambda shape: shape[-1:], whole_shape=True),
        Wrong(fixed_count=True),
        lambda x, p, rng, training: by_random(x, min(1, p + 0.03 * (0 < p < 1)), rng, training),
    ],
)
def test_wrong_dropout_fails_under_many_seeds(answer: object) -> None:
    assert not any(check(DROPOUT, answer, seed=seed) for seed in range(300))


# 3


def fold_list(weights: list[Any], rates: list[float]) -> list[Any]:
    return [((1 - p) * W, b) for (W, b), p in zip(weights, rates, strict=True)]


def fold_loop(weights: list[Any], rates: list[float]) -> tuple[Any, ...]:
    folded = []
    for i, (W, b) in enumerate(weights):
        folded.append([W - rates[i] * W, b.copy()])
    return tuple(folded)


def each(rule: Callable[..., Any]) -> Callable[..., Any]:
    """Return the fold that makes layer i's pair by rule(W, b, i, rates)."""
    return lambda weights, rates: [rule(W, b, i, rates) for i, (W, b) in enumerate(weights)]


def in_place(weights: list[Any], rates: list[float]) -> list[Any]:
    for (W, _), p in zip(weights, rates, strict=True):
        W *= 1 - p
    return weights


def replaces(weights: list[Any], rates: list[float]) -> list[Any]:
    for i, (W, b) in enumerate(weights):
        weights[i] = (W * (1 - rates[i]), b)
    return weights


def empties(weights: list[Any], rates: list[float]) -> list[Any]:
    return [(W * (1 - p), b) for p in rates for W, b in [weights.pop(0)]]


@pytest.mark.parametrize(
    ("answer", "parts"),
    [
        (each(lambda W, b, i, p: (W * (1 - p[i]), b * (1 - p[i]))), ["b of layer 0", "expected 1", "A bias is added"]),
        (each(lambda W, b, i, p: (W * (1 - p[0]), b)), ["W of layer 1", "0.8, expected 0.5", "one rate for all"]),
        (each(lambda W, b, i, p: (W * (1 - p[-1]), b)), ["W of layer 0", "one rate for all"]),
        (each(lambda W, b, i, p: (W * (1 - sum(p) / len(p)), b)), ["one rate for all"]),
        (each(lambda W, b, i, p: (W / (1 - p[i]), b)), ["1.25, expected 0.8", "from an inverted network"]),
        (each(lambda W, b, i, p: (W * (1 - [*p, 0][i + 1]), b)), ["0.5, expected 0.8", "rate of the next layer"]),
        (each(lambda W, b, i, p: (W * (1 - [0, *p][i]), b)), ["1, expected 0.8", "rate of the layer before"]),
        (each(lambda W, b, i, p: (W * p[i], b)), ["0.2, expected 0.8", "probability of dropping"]),
        (each(lambda W, b, i, p: (W * (1 - p[i]) ** 2, b)), ["0.64, expected 0.8", "folded twice"]),
        (each(lambda W, b, i, p: (W, b)), ["1, expected 0.8", "Nothing was folded"]),
        (each(lambda W, b, i, p: (W * np.prod(1 - np.array(p[: i + 1])), b)), ["all the rates so far"]),
        (each(lambda W, b, i, p: (W * 3, b + 1)), ["How often was each input"]),
        (in_place, ["changed the weights", "a second call would fold again"]),
        (replaces, ["changed the weights", "Build a new list"]),
        (empties, ["changed the weights"]),
        (each(lambda W, b, i, p: (W.astype(float) * (1 - p[i]), b)), ["came back as float64, expected float32"]),
        (lambda weights, rates: fold_list(weights, rates)[:-1], ["returned 2 items, expected a list of 3 pairs"]),
        (lambda weights, rates: [W for W, _ in fold_list(weights, rates)], ["expected a list of 3 pairs"]),
        (lambda weights, rates: [(b, W) for W, b in fold_list(weights, rates)], ["shape (6,), expected (6, 4)"]),
    ],
)
def test_fold_hints(answer: object, parts: list[str]) -> None:
    rejected(FOLD, answer, *parts)


# 4


def by_name(lr: float, p: float, optimizer: str) -> float:
    return {"SGD": lr / (1 - p) ** 2, "Adam": lr / (1 - p)}[optimizer]


def by_branch(lr: float, p: float, optimizer: str) -> float:
    keep = 1 - p
    if optimizer == "Adam":
        return lr / keep
    return lr / keep / keep


def one_power(power: int, base: Callable[[float], float] = lambda p: 1 - p) -> Callable[..., float]:
    """Return the map that ignores the optimiser."""
    return lambda lr, p, optimizer: lr * base(p) ** power


@pytest.mark.parametrize(
    ("answer", "parts"),
    [
        (one_power(0), ['lr_map(0.1, 0.2, "SGD") returned 0.1, expected 0.15625', "same learning rate"]),
        (one_power(2), ["0.064, expected 0.15625", "Which way"]),
        (one_power(1), ["0.08, expected 0.15625", "Which way"]),
        (one_power(-1), ["0.125, expected 0.15625", "dL/dW_s is not dL/dW_i"]),
        (one_power(-2), ['lr_map(0.1, 0.2, "Adam")', "0.15625, expected 0.125", "SGD's map"]),
        (one_power(-2, lambda p: p), ["built from p"]),
        (one_power(-1, lambda p: p), ["built from p"]),
        (one_power(1, lambda p: p), ["built from p"]),
        (one_power(2, lambda p: p), ["built from p"]),
        (one_power(-3), ["Write W_s = W_i / q"]),
        (lambda lr, p, o: lr / (1 - p) ** (1 if o == "SGD" else 2), ["dL/dW_s is not dL/dW_i"]),
        (lambda lr, p, o: lr / (1 - p) ** 2 if o == "SGD" else lr, ["Adam", "same learning rate"]),
        (lambda lr, p, o: lr / (1 - p) ** 2 if o == "SGD" else lr * (1 - p), ["Adam", "Which way"]),
        (lambda lr, p, o: by_name(lr, p, o) if p < 0.6 else lr, ["lr_map(0.1, 0.7", "same learning rate"]),
    ],
)
def test_learning_rate_hints(answer: object, parts: list[str]) -> None:
    rejected(LR, answer, *parts)


# Right answers.

RIGHT: dict[str, list[tuple[Any]]] = {
    SCALE: [(lambda p: 1 / (1 - p),), (scale_by_series,), (lambda p: np.float32(1) / np.float32(1 - p),)],
    DROPOUT: [(by_random,), (by_binomial,), (by_loop,)],
    FOLD: [(fold_list,), (fold_loop,)],
    LR: [(by_name,), (by_branch,)],
}


@pytest.mark.parametrize(("name", "answer"), [(name, *right) for name in RIGHT for right in RIGHT[name]])
def test_right_answers_pass(name: str, answer: object) -> None:
    passed(name, answer)


@pytest.mark.parametrize("name", [SCALE, FOLD, LR])
def test_right_answers_pass_under_many_seeds(name: str) -> None:
    for seed in range(50):
        for (answer,) in RIGHT[name]:
            passed(name, answer, seed)
