"""Points for Canvas and Moodle: the file that they gave, with one column filled in.

Canvas takes back an exported gradebook: student, numbers and section as they were, a row of points possible, and one
column of the assignment. Moodle takes back the grading worksheet of an assignment, whose rows it finds by "Identifier"
and whose "Last modified (grade)" tells it whether somebody has changed a grade since.
"""

from __future__ import annotations

import html
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from grading import records, reports, roster, sheets
from grading.records import GRADED, Record
from grading.roster import CANVAS, MOODLE, Roster

PLATFORMS = (CANVAS, MOODLE)
_CANVAS_STUDENT = ("student", "id", "sis user id", "sis login id", "integration id", "root account", "section")
_MOODLE_NEEDED = ("Identifier", "Grade", "Last modified (grade)")
_COMMENTS = "Feedback comments"
_NUMBER = re.compile(r"\d+(?:[.,]\d+)?")


class ExportError(ValueError):
    """An export that cannot be made; the message says why."""


@dataclass(frozen=True)
class Exported:
    """What was written.

    Attributes
    ----------
    filled : int
        Rows with points.
    waiting, absent, strangers : tuple of str
        Students left empty because marks by hand are missing, or because they have no record; and students with a
        record whom the roster does not know.
    """

    filled: int
    waiting: tuple[str, ...]
    absent: tuple[str, ...]
    strangers: tuple[str, ...]


def write(out: Path, platform: str, roster_file: Path, to: Path) -> Exported:
    """Write the points of a folder of results as a file that a platform imports.

    A student without a record gets an empty cell, and so does one whose written answers are still to be marked.

    Raises
    ------
    ExportError
        If the roster is not the platform's, two records belong to one of its rows, the platform counts other points
        than the assignment, or the file exists and is another one.
    OutError, RecordError, RosterError
        If the folder, a record or the roster cannot be used.
    """
    facts = reports.manifest(out)
    found = records.load_all(out / records.FOLDER)
    people = roster.read(roster_file)
    if people.kind != platform:
        wanted = {
            CANVAS: "a gradebook exported from Canvas, with the columns Student, ID and Section",
            MOODLE: "a grading worksheet of Moodle, with the column Identifier",
        }[platform]
        raise ExportError(f"{roster_file} is not {wanted}")
    rows, strangers = _matched(people, found)
    out_of = max((record.out_of for record in found), default=0)
    if platform == CANVAS:
        data = _canvas(people, rows, facts["title"], out_of)
    else:
        data = _moodle(people, rows, out_of, str(roster_file))
    if to.resolve() == roster_file.resolve():
        raise ExportError(f"{to} is the roster itself; name another file with -o")
    try:
        records.write_atomically(to, data)
    except OSError as error:
        raise ExportError(f"{to} cannot be written: {error.strerror}") from None
    complete = [record for record in rows.values() if _final(record)]
    return Exported(
        len(complete),
        tuple(record.student for record in rows.values() if not _final(record)),
        tuple(person.student for person in people.people if person.row not in rows),
        tuple(strangers),
    )


def _final(record: Record) -> bool:
    """Return whether a record has points that can be told: all marks, and something handed in."""
    return record.complete and bool(record.file or record.status == GRADED)


def _matched(people: Roster, found: Sequence[Record]) -> tuple[dict[int, Record], list[str]]:
    rows: dict[int, Record] = {}
    strangers = []
    for record in found:
        person = people.find_recorded(record.student)
        if person is None:
            strangers.append(record.student)
        elif person.row in rows:
            raise ExportError(f"{rows[person.row].student!r} and {record.student!r} are the same person of the roster")
        else:
            rows[person.row] = record
    return rows, strangers


def _canvas(people: Roster, rows: dict[int, Record], title: str, out_of: int) -> bytes:
    header = people.table.header
    kept = [k for k, name in enumerate(header) if name.strip().casefold() in _CANVAS_STUDENT]
    # Canvas names a column of its own by title and number, and would make a new assignment of another name.
    column = next((k for k, name in enumerate(header) if re.fullmatch(rf"{re.escape(title)}(?: \(\d+\))?", name)), None)
    name = title if column is None else header[column]
    first = header.index(header[kept[0]])
    made: list[list[str | float | None]] = []
    seen = False
    for k, row in enumerate(people.table.rows):
        person = any(one.row == k for one in people.people)
        if not person and "points possible" in row[first].casefold():
            if column is not None:
                _same_points("Canvas", row[column], out_of)
            made.append([*(row[i] for i in kept), out_of])
            seen = True
        elif person:
            made.append([*(row[i] for i in kept), _cell(rows.get(k))])
    if not seen:
        made.insert(0, ["    Points Possible", *[""] * (len(kept) - 1), out_of])
    return sheets.dumps([*(header[i] for i in kept), name], made, mark=False)


def _moodle(people: Roster, rows: dict[int, Record], out_of: int, file: str) -> bytes:
    header = people.table.header
    if missing := [name for name in _MOODLE_NEEDED if name not in header]:
        raise ExportError(
            f"{file} lacks the columns {', '.join(missing)}; download the grading worksheet with Moodle in English"
        )
    grade = header.index("Grade")
    most = next((k for k, name in enumerate(header) if name.casefold() == "maximum grade"), None)
    comments = header.index(_COMMENTS) if _COMMENTS in header else None
    made: list[list[str | float | None]] = []
    for k, row in enumerate(people.table.rows):
        cells: list[str | float | None] = list(row)
        if record := rows.get(k):
            if most is not None:
                _same_points("Moodle", row[most], out_of)
            cells[grade] = _cell(record)
            if comments is not None and _final(record):
                cells[comments] = comment(record)
        made.append(cells)
    return sheets.dumps(header, made, mark=False)


def _cell(record: Record | None) -> float | None:
    return record.points if record is not None and _final(record) else None


def _same_points(platform: str, text: str, out_of: int) -> None:
    match = _NUMBER.fullmatch(text.strip())
    if match and float(match[0].replace(",", ".")) != out_of:
        raise ExportError(
            f"{platform} counts {text.strip()} points and the assignment {out_of}; set {out_of} there and export again"
        )


def comment(record: Record) -> str:
    """Return what a student reads on Moodle: points a question, hints and comments, as HTML of one line."""
    parts = [record.comment] if record.comment else []
    parts += record.notes
    for mark in record.questions:
        text = f"{reports.number(mark)}. {mark.title}: {reports.points(mark.points)} of {mark.out_of}."
        comments = [line.comment for line in mark.lines if line.comment]
        parts.append(" ".join(filter(None, [text, reports.sentence(mark), mark.hint, *comments])))
    return "".join(f"<p>{html.escape(' '.join(part.split()), quote=False)}</p>" for part in parts)
