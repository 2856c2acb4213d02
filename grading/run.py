"""One submission becomes a record: its cells run in a sandbox, every comparison is made here.

The cells run once; each question is then answered by a copy of that process, so that no answer finds what another has
left. An answer that raised, or was stopped, is asked for once more, alone in a fresh sandbox: neither another answer
nor the copying can have caused it then. A cell that ends the process is left out the next time.
"""

from __future__ import annotations

import builtins
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from dropoutlib.checks.exercises import Result, judge
from grading import keys, submissions
from grading.records import (
    BY_HAND,
    GRADED,
    NOT_DONE,
    NOT_RUN,
    PASSED,
    RAISED,
    REFUSED,
    STOPPED,
    WRONG,
    Line,
    QuestionMark,
    Record,
)
from grading.remote import RemoteAnswer
from grading.sandbox import REASONS, Child, Limits, Sandbox, SandboxError, Stopped
from grading.source import Assignment, Question
from grading.submissions import Answers, Submission, Unreadable

# How often cells are run again without the one that has ended their process.
MOST_STARTS = 4
_UNCHECKABLE = "The value that it returned is of a kind that no check expects."


@dataclass(frozen=True)
class _Failure:
    """A cell that raised, or was stopped."""

    label: str
    question: str
    kind: str
    text: str
    line: int = 0
    stopped: bool = False

    def __str__(self) -> str:
        return f"{self.label[:1].upper()}{self.label[1:]} {self.what}."

    @property
    def what(self) -> str:
        if self.stopped:
            return f"was stopped: {self.text[:1].lower()}{self.text[1:].rstrip('.')}"
        where = f" (line {self.line})" if 0 < self.line < 10_000 else ""
        return f"raised {self.kind}" + (f": {self.text}" if self.text else "") + where


@dataclass(frozen=True)
class _Verdict:
    status: str
    hint: str
    detail: str
    seconds: float


def grade(
    submission: Submission, assignment: Assignment, key: bytes, sandbox: Sandbox, limits: Limits, grader: str = ""
) -> Record:
    """Return what a submission earns. Whatever is wrong with it, there is a record.

    Raises
    ------
    SandboxError
        If nothing can be run on this machine at the moment, which is not the submission's fault.
    """
    try:
        answers = submissions.read(submission, assignment)
    except Unreadable as error:
        return refused(submission, assignment, error, grader)
    return grade_answers(submission, answers, assignment, key, sandbox, limits, grader)


def refused(submission: Submission, assignment: Assignment, error: Unreadable, grader: str = "") -> Record:
    """Return the record of what cannot be graded; the sentence says why."""
    sentence = str(error)
    return Record(
        assignment=assignment.name,
        variant=_variant(assignment),
        student=submission.student,
        status=REFUSED,
        questions=tuple(QuestionMark(q.id, q.title, q.points, 0, NOT_RUN) for q in assignment.questions),
        file=submission.file,
        sha256=error.sha256,
        received=submission.received,
        late_seconds=submission.late_seconds,
        notes=tuple(dict.fromkeys((*submission.notes, sentence)) if submission.path else (sentence,)),
        grader=grader,
    )


def grade_answers(
    submission: Submission,
    answers: Answers,
    assignment: Assignment,
    key: bytes,
    sandbox: Sandbox,
    limits: Limits,
    grader: str = "",
) -> Record:
    """Return what the answers of a notebook earn; errors as in `grade`."""
    start = time.monotonic()
    with np.errstate(all="ignore"):
        run = _Run(answers, assignment, key, sandbox, limits)
        verdicts = run.verdicts()
    marks = []
    for question in assignment.questions:
        if question.function:
            verdict = verdicts[question.id]
            points = question.points if verdict.status == PASSED else 0
            mark = QuestionMark(
                question.id,
                question.title,
                question.points,
                points,
                verdict.status,
                verdict.hint,
                verdict.detail,
                seconds=round(verdict.seconds, 3),
            )
        else:
            mark = _by_hand(question, answers.written.get(question.id, ""))
        marks.append(mark)
    return Record(
        assignment=assignment.name,
        variant=_variant(assignment),
        student=submission.student,
        status=GRADED,
        questions=tuple(marks),
        file=submission.file,
        sha256=answers.sha256,
        received=submission.received,
        late_seconds=submission.late_seconds,
        notes=(*submission.notes, *answers.notes, *run.notes),
        printed=run.printed,
        seconds=round(time.monotonic() - start, 3),
        grader=grader,
    )


def _by_hand(question: Question, text: str) -> QuestionMark:
    if not text:
        return QuestionMark(question.id, question.title, question.points, 0, NOT_DONE)
    lines = tuple(Line(line, points) for points, line in question.rubric)
    return QuestionMark(question.id, question.title, question.points, None, BY_HAND, answer=text, lines=lines)


def _variant(assignment: Assignment) -> str:
    return str(assignment.notebook.metadata["assignment"].get("variant", ""))


class _Run:
    """The attempts at one submission."""

    def __init__(self, answers: Answers, assignment: Assignment, key: bytes, sandbox: Sandbox, limits: Limits) -> None:
        self._answers, self._assignment, self._key = answers, assignment, key
        self._sandbox, self._limits = sandbox, limits
        self._until = time.monotonic() + limits.seconds
        self._skipped: set[int] = set()
        self._failures: dict[int, _Failure] = {}
        # What cells print and raise is shown to the student until a check's input has come near them.
        self._asked = False
        self.printed = ""

    @property
    def notes(self) -> Sequence[str]:
        """Sentences about the cells."""
        shown = [str(failure) for failure in self._failures.values() if failure.kind != "NotImplementedError"]
        return shown[:5] + ([f"{len(shown) - 5} more cells raised an error."] if len(shown) > 5 else [])

    def verdicts(self) -> dict[str, _Verdict]:
        """Return the verdict on each code question."""
        found: dict[str, _Verdict] = {}
        child: Child | None = None
        questions = [question for question in self._assignment.questions if question.function]
        try:
            for question in questions:
                try:
                    child = child or self._started()
                    found[question.id], alive = self._ask(child, question, fork=True)
                except Stopped as stopped:
                    found[question.id], alive = _stopped(stopped, 0), False
                if child and not alive:
                    child.close()
                    child = None
        finally:
            if child:
                child.close()
        for question in questions:
            if found[question.id].status in (RAISED, STOPPED) and time.monotonic() < self._until:
                found[question.id] = self._alone(question, found[question.id])
        return {q.id: self._explained(q, found[q.id]) for q in questions}

    def _alone(self, question: Question, before: _Verdict) -> _Verdict:
        """Ask once more, in a fresh sandbox; where time runs out meanwhile, the first verdict stays."""
        try:
            with self._started() as child:
                verdict, _ = self._ask(child, question, fork=False)
        except Stopped:
            return before
        return before if time.monotonic() >= self._until else verdict

    def _started(self) -> Child:
        """Return a sandbox in which the cells have run, as many of them as can.

        Raises
        ------
        Stopped
            If they do not come to an end.
        """
        for _ in range(MOST_STARTS):
            if time.monotonic() >= self._until:
                raise Stopped("total")
            child = _start(self._sandbox, self._limits)
            at = -1
            try:
                cells = [[cell.label, cell.source] for cell in self._answers.cells]
                child.send(("run", cells, sorted(self._skipped)), self._until)
                deadline = self._cell_deadline()
                while True:
                    match child.receive(deadline):
                        case ("cell", int(number)) if at < number < len(cells):
                            at, deadline = number, self._cell_deadline()
                        case ("failed", int(number), str(kind), str(text), int(line)) if number == at:
                            self._fail(at, kind, text, line)
                        case ("ready",):
                            break
                        case _:
                            raise Stopped("malformed")
            except Stopped as stopped:
                self._keep_printed(child)
                child.close()
                if at < 0 or at in self._skipped:
                    raise
                last = stopped if time.monotonic() < self._until else Stopped("total")
                self._skipped.add(at)
                if not self._asked:
                    cell = self._answers.cells[at]
                    self._failures[at] = _Failure(cell.label, cell.question, "", last.hint, stopped=True)
                continue
            except BaseException:
                child.close()
                raise
            self._keep_printed(child)
            return child
        raise last

    def _cell_deadline(self) -> float:
        # The worker interrupts a cell in time by itself, unless that is prevented.
        return min(time.monotonic() + self._limits.cell_seconds + 2, self._until)

    def _keep_printed(self, child: Child) -> None:
        if not self._asked:
            self.printed = child.printed()

    def _fail(self, number: int, kind: str, text: str, line: int) -> None:
        if self._asked or number in self._failures:
            return
        cell = self._answers.cells[number]
        stopped = kind == "CellTimeout"
        text = REASONS["time"] if stopped else _line(text)
        self._failures[number] = _Failure(cell.label, cell.question, _line(kind), text, line, stopped)

    def _ask(self, child: Child, question: Question, fork: bool) -> tuple[_Verdict, bool]:
        """Return the verdict, and whether the sandbox can be asked the next question."""
        self._asked = True
        start, given = time.monotonic(), self._assignment.numbers
        name = self._answers.functions.get(question.id, question.function)
        seed = keys.seed(self._key, self._assignment.name, _variant(self._assignment), question.id)
        remote = RemoteAnswer(child, name, given, self._until, fork)
        try:
            result = judge(question.id, remote, seed)
        except Exception as error:
            # A checker that stumbles over a value has not accepted it.
            detail = f"the check raised {type(error).__name__}: {str(error)[:300]}"
            result = Result(question.id, "failed", detail, _UNCHECKABLE)
        seconds = time.monotonic() - start
        if remote.stopped is not None:
            total = remote.stopped.reason == "time" and time.monotonic() >= self._until
            return _stopped(Stopped("total") if total else remote.stopped, seconds), False
        remote.end()
        status = {"passed": PASSED, "not done yet": NOT_DONE}.get(result.status, WRONG)
        hint = result.hint
        if status == WRONG and remote.raised:
            # The message of the exception could tell an input; so could a name that the student has made up.
            known = isinstance(getattr(builtins, remote.raised, None), type)
            status, hint = RAISED, hint or (f"It raised {remote.raised}." if known else "")
        return _Verdict(status, hint, "" if status == PASSED else result.message[:2000], seconds), not remote.stopped

    def _explained(self, question: Question, verdict: _Verdict) -> _Verdict:
        """Say why an answer is missing, where its cell has failed."""
        if verdict.status != NOT_DONE:
            return verdict
        name = self._answers.functions.get(question.id, question.function)
        for failure in self._failures.values():
            missing = failure.kind == "NameError" and f"name {name!r} is not" in failure.text
            if missing and failure.question == question.id:
                verdict = _Verdict(NOT_DONE, f"The notebook defines no {name}.", verdict.detail, verdict.seconds)
            elif failure.question == question.id and failure.kind != "NotImplementedError":
                return _Verdict(STOPPED if failure.stopped else RAISED, str(failure), verdict.detail, verdict.seconds)
        return verdict


def _start(sandbox: Sandbox, limits: Limits) -> Child:
    try:
        return sandbox.start(limits)
    except SandboxError:
        # A machine that was short of something for a moment.
        time.sleep(1)
        return sandbox.start(limits)


def _stopped(stopped: Stopped, seconds: float) -> _Verdict:
    return _Verdict(STOPPED, REASONS[stopped.reason], stopped.message, seconds)


def _line(text: str) -> str:
    """Return text on one line, cut."""
    line = " ".join(text.split())
    return line if len(line) <= 200 else line[:197] + "..."
