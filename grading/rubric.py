"""Marks by hand: a sheet with a row for each line of the rubrics goes out, and comes back with points."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from grading import records, reports, sheets
from grading.grade import alone
from grading.records import BY_HAND, GRADED, NOT_DONE, Line, QuestionMark, Record

SHEET = "rubric.csv"
HEADER = (
    "key",
    "student",
    "question",
    "line",
    "rubric",
    "points possible",
    "points given",
    "comment",
    "answer",
    "answer id",
)
_NEEDED = ("key", "question", "line", "points given", "answer id")


class RubricError(ValueError):
    """A sheet that cannot be used; the message has one line for each thing to mend."""


@dataclass(frozen=True)
class Merged:
    """What `merge` has done.

    Attributes
    ----------
    students : tuple of str
        Whose marks have changed.
    waiting : int
        How many answers are still to be marked.
    """

    students: tuple[str, ...]
    waiting: int


def write(out: Path) -> tuple[Path, int]:
    """Write OUT/rubric.csv, and return its path and how many answers are still to be marked.

    There is a row for each line of the rubric of each answer that is to be read by a person. What the sheet holds
    already stays in it: points and comments that were entered, merged or not, and rows that have lost their answer if
    something was entered there.

    Raises
    ------
    OutError, RecordError, RubricError
        If the folder, a record, or the sheet that is there cannot be used.
    """
    reports.manifest(out)
    found = records.load_all(out / records.FOLDER)
    path = out / SHEET
    before = {_place(row): row for row in _rows(path)} if path.exists() else {}
    rows = []
    for record in found:
        for mark in _by_hand(record):
            for index, line in enumerate(mark.lines, start=1):
                old = before.pop((_key(record), mark.id, str(index)), None)
                rows.append(_row(record, mark, index, line, old))
    rows += [[row.get(name, "") for name in HEADER] for row in before.values() if _entered(row)]
    try:
        records.write_atomically(path, sheets.dumps(HEADER, rows))
    except OSError as error:
        raise RubricError(f"{path} cannot be written: {error.strerror}") from None
    return path, _waiting(found)


def merge(out: Path, sheet: Path | None = None) -> Merged:
    """Read points back from a sheet, all of them or none, and write records and reports.

    An empty cell leaves what was merged before.

    Raises
    ------
    OutError, RecordError, GradeError
        If the folder or a record cannot be used, or something else is writing to the folder.
    RubricError
        If the sheet cannot be read, or a row of it does not fit: each such row is named.
    """
    reports.manifest(out)
    with alone(out):
        return _merge(out, sheet)


def _merge(out: Path, sheet: Path | None) -> Merged:
    found = {_key(record): record for record in records.load_all(out / records.FOLDER)}
    entered, problems = _read(found, _rows(sheet or out / SHEET))
    if problems:
        raise RubricError("\n".join([*problems, "nothing was merged"]))
    changed = []
    for key, given in entered.items():
        marked = _marked(found[key], given)
        if marked != found[key]:
            changed.append(marked)
    for record in changed:
        records.save(record, out / records.FOLDER)
    return Merged(tuple(record.student for record in changed), _waiting(reports.write(out)))


Given = dict[tuple[str, int], tuple[float | None, str]]


def _read(found: dict[str, Record], rows: Iterable[dict[str, str]]) -> tuple[dict[str, Given], list[str]]:
    """Return for each student what was entered, by question and line, and what is wrong with the sheet."""
    entered: dict[str, Given] = {}
    problems: list[str] = []
    for count, row in enumerate(rows, start=2):
        if not _entered(row):
            continue
        try:
            key, question, line, given = _cell(found, row)
            if entered.setdefault(key, {}).setdefault((question, line), given) != given:
                raise RubricError("is there twice, with different points or comments")
        except RubricError as error:
            problems.append(f"row {count} ({row.get('student') or row['key']}, {row['question']}): {error}")
    return entered, problems


def _cell(found: dict[str, Record], row: dict[str, str]) -> tuple[str, str, int, tuple[float | None, str]]:
    record = found.get(row["key"])
    if record is None:
        raise RubricError(f"there is no student with the key {row['key']!r}")
    mark = next((mark for mark in record.questions if mark.id == row["question"] and mark.lines), None)
    if mark is None:
        raise RubricError("there is no such written question")
    if not row["line"].isdecimal() or not 1 <= int(row["line"]) <= len(mark.lines):
        raise RubricError(f"the rubric has no line {row['line']!r}; it has {len(mark.lines)}")
    if row["answer id"] != _answer_id(mark):
        raise RubricError("the answer has changed since the points were given; look again, and empty the cell or "
                          "run `rubric` for the new answer's id")  # fmt: skip
    line = mark.lines[int(row["line"]) - 1]
    text = row["points given"].strip()
    return (
        row["key"],
        mark.id,
        int(row["line"]),
        (_points(text, line) if text else None, row.get("comment", "").strip()),
    )


def _points(text: str, line: Line) -> float:
    try:
        value = float(text.replace(",", "."))
    except ValueError:
        value = math.nan
    if not 0 <= value <= line.out_of:
        raise RubricError(f"points are a number from 0 to {line.out_of}, got {text!r}")
    return int(value) if value == int(value) else value


def _marked(record: Record, given: Given) -> Record:
    marks = []
    for mark in record.questions:
        lines = list(mark.lines)
        for index, line in enumerate(mark.lines, start=1):
            if (mark.id, index) in given:
                points, comment = given[mark.id, index]
                lines[index - 1] = replace(
                    line, points=line.points if points is None else points, comment=comment or line.comment
                )
        if lines != list(mark.lines):
            known = [line.points for line in lines if line.points is not None]
            total = math.fsum(known) if len(known) == len(lines) else None
            if total is None and mark.status == NOT_DONE:
                # An empty answer keeps its 0 points until somebody has given all of its lines.
                mark = replace(mark, lines=tuple(lines))
            else:
                total = int(total) if total is not None and total == int(total) else total
                mark = replace(mark, lines=tuple(lines), points=total, status=BY_HAND)
        marks.append(mark)
    return replace(record, questions=tuple(marks))


def _row(
    record: Record, mark: QuestionMark, index: int, line: Line, old: dict[str, str] | None
) -> Sequence[str | float | None]:
    given: str | float | None = line.points
    comment = line.comment
    if old is not None and _entered(old):
        given, comment = old["points given"], old.get("comment", "")
    answer, answer_id = mark.answer, _answer_id(mark)
    if old is not None and _entered(old) and old["answer id"] != answer_id:
        # The old id stays, so that `merge` refuses points that were given for another answer.
        answer_id = old["answer id"]
        answer = f"[CHANGED since the points were given; empty them and run `rubric` again] {answer}"
    return [_key(record), record.student, mark.id, index, line.text, line.out_of, given, comment, answer, answer_id]


def _by_hand(record: Record) -> list[QuestionMark]:
    return [mark for mark in record.questions if record.status == GRADED and mark.status == BY_HAND]


def _waiting(found: Iterable[Record]) -> int:
    return sum(mark.points is None for record in found for mark in record.questions)


def _key(record: Record) -> str:
    """Return what names a student in the sheet; no spreadsheet takes 007 with a letter before it for a number."""
    return f"s-{record.slug}"


def _answer_id(mark: QuestionMark) -> str:
    """Return a short name for an answer's text; never one that a spreadsheet takes for a number."""
    return "a" + hashlib.sha256(mark.answer.encode()).hexdigest()[:10]


def _entered(row: dict[str, str]) -> bool:
    return bool(row["points given"].strip() or row.get("comment", "").strip())


def _place(row: dict[str, str]) -> tuple[str, str, str]:
    return row["key"], row["question"], row["line"]


def _rows(path: Path) -> list[dict[str, str]]:
    try:
        table = sheets.read(path)
    except sheets.SheetError as error:
        raise RubricError(str(error)) from None
    if missing := [name for name in _NEEDED if name not in table.header]:
        raise RubricError(f"{path} lacks the columns {', '.join(missing)}")
    return table.dictionaries()
