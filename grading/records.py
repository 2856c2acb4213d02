"""What one submission has earned: a record a student, written once, whole, and read back strictly."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import os
import re
import tempfile
import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import NoneType
from typing import Any

SCHEMA = 1
FOLDER = "records"
GRADED, REFUSED = "graded", "refused"
PASSED, WRONG, NOT_DONE, RAISED, STOPPED, BY_HAND, NOT_RUN = STATUSES = (
    "passed",
    "wrong",
    "not done",
    "raised",
    "stopped",
    "by hand",
    "not run",
)
_PLAIN_NAME = re.compile(r"[a-z0-9]([a-z0-9_.]|-(?!-)){0,58}[a-z0-9]|[a-z0-9]")
_UNCLEAN = re.compile("[\x00-\x08\x0b-\x1f\x7f\u202a-\u202e\u2066-\u2069\ud800-\udfff\ufffe\uffff]")
_ID = re.compile(r"[a-z0-9-]+\.\d+")


class RecordError(ValueError):
    """A record that cannot be read or written; the message says why."""


@dataclass(frozen=True)
class Line:
    """One line of a rubric, and what was given for it by hand.

    Attributes
    ----------
    text : str
        What the line asks for.
    out_of : int
        Points possible.
    points : float or None
        Points given; None while the line is still to be marked.
    comment : str
        For the student.
    """

    text: str
    out_of: int
    points: float | None = None
    comment: str = ""

    def __post_init__(self) -> None:
        _check(self, {"text": (str,), "out_of": (int,), "points": (int, float, NoneType), "comment": (str,)})
        _within(self.points, self.out_of, "a line of a rubric")


@dataclass(frozen=True)
class QuestionMark:
    """What one question has earned.

    Attributes
    ----------
    id, title : str
        As in the assignment.
    out_of : int
        Points possible.
    points : float or None
        Points earned; None while they are still to be given by hand.
    status : str
        One of `STATUSES`. "wrong" is a check's verdict, "raised" the answer's own exception, "stopped" a limit or the
        death of its process; "by hand" is a written answer, marked or not; "not run" a question of a refused file.
    hint : str
        What the student may see of the verdict. It holds no hidden input and nothing that the answer said.
    detail : str
        For the instructor only: the whole verdict, inputs included.
    answer : str
        Text of a written answer.
    seconds : float
        What the question took. For the instructor only, since an answer can make its time depend on its input.
    lines : tuple of Line
        The rubric of a written question.
    """

    id: str
    title: str
    out_of: int
    points: float | None
    status: str
    hint: str = ""
    detail: str = ""
    answer: str = ""
    seconds: float = 0.0
    lines: tuple[Line, ...] = ()

    def __post_init__(self) -> None:
        number = (int, float)
        _check(
            self,
            {
                "id": (str,),
                "title": (str,),
                "out_of": (int,),
                "points": (*number, NoneType),
                "status": (str,),
                "hint": (str,),
                "detail": (str,),
                "answer": (str,),
                "seconds": number,
                "lines": (tuple,),
            },
        )
        if not _ID.fullmatch(self.id):
            raise RecordError(f"{self.id!r} is no question's id")
        if self.status not in STATUSES:
            raise RecordError(f"{self.id} has the unknown status {self.status!r}")
        _within(self.points, self.out_of, self.id)
        if self.points is None and self.status != BY_HAND:
            raise RecordError(f"{self.id} has no points and is not marked by hand")
        if not all(isinstance(line, Line) for line in self.lines):
            raise RecordError(f"{self.id} has a rubric that is none")


@dataclass(frozen=True)
class Record:
    """What one student's submission has earned.

    Attributes
    ----------
    assignment, variant : str
        Which assignment, and for which class.
    student : str
        Who handed it in, as the file's name or the roster says.
    file : str
        Path inside the folder of submissions; empty if nothing was handed in.
    sha256 : str
        Of the file; empty if it was not read.
    received : str
        When, ISO 8601 with the offset from UTC; empty if unknown.
    late_seconds : float
        After the deadline; 0 if in time.
    status : {"graded", "refused"}
        "refused" means that the file could not be graded; the notes say why.
    notes : tuple of str
        Sentences for the row and for the student.
    questions : tuple of QuestionMark
        All of the assignment's, in order.
    printed : str
        What the student's own cells printed, cut; nothing that an answer printed while it was checked.
    seconds : float
        What grading took.
    grader : str
        Digest of what decides marks: the code that grades, the checks, the key's fingerprint, the limits.
    comment : str
        The instructor's, for the student.
    """

    assignment: str
    variant: str
    student: str
    status: str
    questions: tuple[QuestionMark, ...]
    file: str = ""
    sha256: str = ""
    received: str = ""
    late_seconds: float = 0.0
    notes: tuple[str, ...] = ()
    printed: str = ""
    seconds: float = 0.0
    grader: str = ""
    comment: str = ""
    schema: int = field(default=SCHEMA, kw_only=True)

    def __post_init__(self) -> None:
        words = ("assignment", "variant", "student", "status", "file", "sha256", "received", "printed", "grader")
        _check(
            self,
            {
                **dict.fromkeys((*words, "comment"), (str,)),
                **dict.fromkeys(("late_seconds", "seconds"), (int, float)),
                **dict.fromkeys(("questions", "notes"), (tuple,)),
                "schema": (int,),
            },
        )
        object.__setattr__(self, "notes", tuple(clean(note) for note in self.notes))
        if self.schema != SCHEMA:
            raise RecordError(f"the record has schema {self.schema}, and this program writes and reads {SCHEMA}")
        if self.status not in (GRADED, REFUSED):
            raise RecordError(f"the record has the unknown status {self.status!r}")
        if not self.student:
            raise RecordError("the record names no student")
        if not all(isinstance(mark, QuestionMark) for mark in self.questions):
            raise RecordError("the record has a question that is none")
        if len({mark.id for mark in self.questions}) != len(self.questions):
            raise RecordError("the record has a question twice")

    @property
    def points(self) -> float:
        """What is known so far; a whole number if it is one."""
        return _short(math.fsum(mark.points or 0 for mark in self.questions))

    @property
    def out_of(self) -> int:
        """Points possible."""
        return sum(mark.out_of for mark in self.questions)

    @property
    def complete(self) -> bool:
        """Whether nothing is left to be marked by hand."""
        return all(mark.points is not None for mark in self.questions)

    @property
    def slug(self) -> str:
        """The student's name as that of a file."""
        return slug(self.student)


def slug(student: str) -> str:
    """Return a name for a student's files: safe on every file system, and different for different students."""
    name = clean(student)
    if _PLAIN_NAME.fullmatch(name):
        return name
    plain = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode().lower()
    plain = re.sub(r"[^a-z0-9]+", "-", plain).strip("-")[:40].strip("-")
    return f"{plain or 'student'}--{hashlib.sha256(name.encode()).hexdigest()[:12]}"


def clean(text: str) -> str:
    """Return text that every file and page can hold and that looks as it reads.

    Lone surrogates and control characters are replaced, those that turn text around among them; tab and newline stay.
    """
    return _UNCLEAN.sub("\N{REPLACEMENT CHARACTER}", text.replace("\r\n", "\n").replace("\r", "\n"))


def dumps(record: Record) -> str:
    """Return a record as JSON."""
    return json.dumps(dataclasses.asdict(record), indent=1, allow_nan=False) + "\n"


def loads(text: str) -> Record:
    """Return the record that JSON stands for.

    Raises
    ------
    RecordError
        If it is none: another schema, a name too many or too few, a value of another type.
    """
    try:
        tree = json.loads(text, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise RecordError(f"no JSON: {str(error)[:200]}") from None
    made = _fields(Record, tree)
    marks = []
    for item in _list(made["questions"]):
        mark = _fields(QuestionMark, item)
        mark["lines"] = tuple(Line(**_fields(Line, line)) for line in _list(mark["lines"]))
        marks.append(QuestionMark(**mark))
    notes = tuple(_list(made["notes"]))
    if not all(isinstance(note, str) for note in notes):
        raise RecordError("a note is no text")
    return Record(**{**made, "questions": tuple(marks), "notes": notes})


def save(record: Record, folder: Path) -> Path:
    """Write a record into OUT/records, whole or not at all, and return its path."""
    path = folder / f"{record.slug}.json"
    write_atomically(path, dumps(record).encode())
    return path


def load(folder: Path, student: str) -> Record | None:
    """Return a student's record in OUT/records, or None if there is none.

    Raises
    ------
    RecordError
        If the file is no record, or another student's.
    """
    path = folder / f"{slug(student)}.json"
    if not path.is_file():
        return None
    record = _read(path)
    if record.student != clean(student):
        raise RecordError(f"{path} is the record of {record.student!r}, not of {student!r}")
    return record


def load_all(folder: Path) -> list[Record]:
    """Return all records in OUT/records, by student.

    Raises
    ------
    RecordError
        If a file is no record, or lies under another name than its own.
    """
    found = []
    for path in sorted(folder.glob("[!.]*.json")):
        record = _read(path)
        if path.stem != record.slug:
            raise RecordError(f"{path} is the record of {record.student!r}, which belongs in {record.slug}.json")
        found.append(record)
    return sorted(found, key=lambda record: (record.student.casefold(), record.student))


def carry(old: Record, new: Record) -> Record:
    """Return a new record with the marks by hand of an old one, where the written answer is the same."""
    before = {mark.id: mark for mark in old.questions if mark.status == BY_HAND}
    marks = []
    for mark in new.questions:
        marked = before.get(mark.id)
        same = marked is not None and (marked.answer, _asked(marked)) == (mark.answer, _asked(mark))
        if same and mark.status == BY_HAND and marked is not None:
            mark = dataclasses.replace(mark, points=marked.points, lines=marked.lines)
        marks.append(mark)
    return dataclasses.replace(new, questions=tuple(marks), comment=new.comment or old.comment)


def write_atomically(path: Path, data: bytes, mode: int = 0o644, durable: bool = True) -> None:
    """Write a file that is there whole or not at all; if `durable`, also after a crash of the machine."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(prefix=".", suffix=".part", dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            if durable:
                os.fsync(descriptor)
        os.chmod(temporary, mode)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    if durable:
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def _read(path: Path) -> Record:
    try:
        return loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise RecordError(f"{path} cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise RecordError(f"{path} is no record: {error}") from None


def _asked(mark: QuestionMark) -> list[tuple[str, int]]:
    return [(line.text, line.out_of) for line in mark.lines]


def _fields(kind: type, tree: Any) -> dict[str, Any]:
    """Return a JSON object's items if they are the fields of a dataclass, all of them and no other."""
    names = {f.name for f in dataclasses.fields(kind)}
    if not isinstance(tree, dict):
        raise RecordError(f"a {kind.__name__} is an object, got {type(tree).__name__}")
    if names != set(tree):
        raise RecordError(f"a {kind.__name__} has other fields: {', '.join(sorted(names ^ set(tree)))}")
    return dict(tree)


def _list(value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise RecordError(f"expected a list, got {type(value).__name__}")
    return value


def _check(item: Any, types: Mapping[str, Iterable[type]]) -> None:
    """Insist on the types of a frozen dataclass's fields, on finite numbers, and on clean text."""
    for name, allowed in types.items():
        value = getattr(item, name)
        if type(value) not in tuple(allowed):
            raise RecordError(f"{type(item).__name__}.{name} is of type {type(value).__name__}")
        if isinstance(value, float) and not math.isfinite(value):
            raise RecordError(f"{type(item).__name__}.{name} is {value}")
        if isinstance(value, str):
            object.__setattr__(item, name, clean(value))


def _within(points: float | None, out_of: int, what: str) -> None:
    if points is not None and not 0 <= points <= out_of:
        raise RecordError(f"{what} has {points} of {out_of} points")


def _short(value: float) -> float:
    return int(value) if value == int(value) else value


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON")
