"""After a check, a key or a submission has changed: grade again beside the results, and say what changes for whom."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

from grading import records, reports, rubric
from grading.grade import alone
from grading.records import Record

BEFORE = "before"


@dataclass(frozen=True)
class Change:
    """What another grading makes of one question, or, without a question, of one student.

    Attributes
    ----------
    student, question : str
        Whose, and of which question.
    before, after : str
        Points and verdict.
    why : str
        What has changed: the file, what decides marks, or the verdict's reason.
    gain : float
        Points more, or less.
    """

    student: str
    question: str
    before: str
    after: str
    why: str
    gain: float

    def __str__(self) -> str:
        """Return one line."""
        where = f", {self.question}" if self.question else ""
        return f"{self.student}{where}: {self.before} -> {self.after}; {self.why}"


@dataclass(frozen=True)
class Regraded:
    """What `regrade` has found.

    Attributes
    ----------
    changes : tuple of Change
        By student and question.
    students : int
        How many were graded.
    fresh : Path or None
        The folder beside with the new results; None once they have taken the place of the old ones.
    kept : Path or None
        Where the old records are kept, once they were replaced.
    """

    changes: tuple[Change, ...]
    students: int
    fresh: Path | None
    kept: Path | None

    def __str__(self) -> str:
        """Return what to print."""
        whose = {change.student for change in self.changes}
        lines = [str(change) for change in self.changes]
        lines.append(f"{len(whose)} of {self.students} students change" if whose else "nothing changes for anybody")
        if self.fresh:
            lines.append(f"the new results are in {self.fresh}; add --write to let them replace the old ones")
        if self.kept:
            lines.append(f"replaced; the records before are in {self.kept}")
        return "\n".join(lines)


def regrade(out: Path, grade: Callable[[Path], object], write: bool = False) -> Regraded:
    """Grade into a folder beside `out`, and compare; with `write` replace the old results, and keep a copy of them.

    Points that were given by hand go along where the written answer is the same. Run again with `write`, the folder
    beside is taken up where it is, so nothing is graded twice.

    Parameters
    ----------
    out : Path
        A folder of results.
    grade : function of a folder
        Grades all submissions into it.
    write : bool
        Whether to replace.

    Raises
    ------
    OutError, RecordError, GradeError
        If a folder or a record cannot be used, or something else is writing to the folder.
    """
    reports.manifest(out)
    fresh = out.with_name(f"{out.name}-regraded")
    grade(fresh)
    with alone(out) if write else nullcontext():
        # Read now: marks may have been merged meanwhile.
        before = {record.student: record for record in records.load_all(out / records.FOLDER)}
        after = {}
        for record in records.load_all(fresh / records.FOLDER):
            old = before.get(record.student)
            after[record.student] = records.carry(old, record) if old else record
        found = tuple(changes(list(before.values()), list(after.values())))
        if not write:
            for record in after.values():
                records.save(record, fresh / records.FOLDER)
            reports.write(fresh)
            return Regraded(found, len(after), fresh, None)
        kept = _keep(out)
        for record in after.values():
            records.save(record, out / records.FOLDER)
        for student in before.keys() - after.keys():
            (out / records.FOLDER / f"{records.slug(student)}.json").unlink(missing_ok=True)
        reports.write(out)
    if (out / rubric.SHEET).exists():
        rubric.write(out)
    shutil.rmtree(fresh)
    return Regraded(found, len(after), None, kept)


def _keep(out: Path) -> Path:
    """Copy the records to the first free OUT/before/N."""
    number = 1
    while (kept := out / BEFORE / str(number)).exists():
        number += 1
    partial = kept.with_name(f".{number}.part")
    try:
        shutil.rmtree(partial, ignore_errors=True)
        shutil.copytree(out / records.FOLDER, partial)
        partial.rename(kept)
    except OSError as error:
        raise reports.OutError(f"{kept} cannot be written: {error.strerror}") from None
    return kept


def changes(before: Sequence[Record], after: Sequence[Record]) -> list[Change]:
    """Return what differs between two gradings, by student and question."""
    old = {record.student: record for record in before}
    new = {record.student: record for record in after}
    found = []
    for student in sorted(old.keys() | new.keys(), key=lambda name: (name.casefold(), name)):
        was, now = old.get(student), new.get(student)
        if was is None or now is None:
            one = now or was
            assert one is not None
            points = f"{reports.points(one.points)} of {one.out_of}"
            here, gain = ("handed in since", one.points) if was is None else ("no longer handed in", -one.points)
            pair = ("no record", points) if was is None else (points, "no record")
            found.append(Change(student, "", *pair, here, gain))
        else:
            found += _student(was, now)
    return found


def _student(was: Record, now: Record) -> list[Change]:
    why = _why(was, now)
    found = []
    if was.status != now.status:
        found.append(Change(was.student, "", was.status, now.status, f"{why}. {' '.join(now.notes)}".strip(), 0))
    marks = {mark.id: mark for mark in was.questions}
    for mark in now.questions:
        old = marks.pop(mark.id, None)
        if old is None:
            found.append(Change(now.student, mark.id, "no such question", _mark(mark), why, mark.points or 0))
        elif (old.points, old.status, old.hint) != (mark.points, mark.status, mark.hint):
            reason = mark.detail.strip().split("\n")[0] or mark.hint
            text = f"{why}: {reason}" if reason and (mark.points or 0) < (old.points or 0) else why
            gain = (mark.points or 0) - (old.points or 0)
            found.append(Change(now.student, mark.id, _mark(old), _mark(mark), text, gain))
    for old in marks.values():
        found.append(Change(now.student, old.id, _mark(old), "no such question", why, -(old.points or 0)))
    return found


def _why(was: Record, now: Record) -> str:
    causes = []
    if was.sha256 != now.sha256:
        causes.append("another file was handed in")
    if was.grader != now.grader:
        causes.append("the checks, the key, the limits or the sandbox have changed")
    return " and ".join(causes) or "the same file under the same checks, so the answer is not the same each time"


def _mark(mark: records.QuestionMark) -> str:
    hint = f" ({mark.hint})" if mark.hint else ""
    return f"{reports.points(mark.points)} of {mark.out_of}, {mark.status}{hint}"
