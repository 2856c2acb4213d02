"""Files that students hand in: found in any of the usual layouts, and read without trusting a byte of them.

Nothing here runs or parses a student's code. A notebook is read as JSON, and what is not as it should be is left out or
refused with a sentence for the student.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import stat
import unicodedata
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from grading import write
from grading.records import clean
from grading.roster import Roster, Who
from grading.source import Assignment, Question

MANIFEST = "grading.json"
_RESULTS = (MANIFEST, "records", "grades.csv")
MOST_BYTES = 10_000_000
MOST_CELLS = 5_000
MOST_FILES = 1_000
MOST_DEPTH = 8
MOST_ANSWER = 20_000
# A shorter line of a given text, other than a heading, may be a student's own as well.
_LEAST_GIVEN = 20

# sortable name, whether late, the user's number or an anonymous word, the file's number, the file
_CANVAS = re.compile(
    r"(?:(?P<name>\w+?)(?P<late>_LATE)?_(?P<number>\d+)|(?P<early>LATE_)?(?P<anonymous>anon_[^_]+))"
    r"_(?P<file>\d+)_(?P<rest>.+)",
    re.IGNORECASE | re.DOTALL,
)
_MOODLE = re.compile(r"(?P<name>.+)_(?P<number>\d+)_assignsubmission_[a-z]+(?:_.*)?", re.DOTALL)
_SUFFIXES = re.compile(
    r"(?:\.(?:ipynb|json|txt|py|pdf|html?|zip|docx?|md|csv|png|jpe?g|rtf|odt|tar|gz|7z|rar))+$", re.I
)
_COPY = re.compile(r"^(?:copy of |copy_of_)+|(?:\s*\(\d+\)|\s+-\s+copy(?:\s*\(\d+\))?|\.ipynb)+$", re.IGNORECASE)
_IGNORED = re.compile(
    r"\._.*|\.DS_Store|\.ipynb_checkpoints|\.git.*|\.~.*|__MACOSX|__pycache__|Thumbs\.db|desktop\.ini", re.IGNORECASE
)

_HEADING = re.compile(r"##\s+(\d+)\.\s+(.+?)\s*$")
_MAGIC = re.compile(r"(?P<indent>\s*)(?:[%!]|\?+\s*\w|[\w.]+\?+\s*$)")
_FROM_MAGIC = re.compile(r"(?P<left>\s*[A-Za-z_][\w., ]*=\s*)[!%](?!=)")
_TIMED = re.compile(r"(\s*)%time\s+(\S.*)")
_PYTHON_CELLS = frozenset({"time", "timeit", "capture", "prun"})
_TOKEN = re.compile(r"#.*|\"\"\"|'''|\"(?:\\.|[^\"\\])*\"?|'(?:\\.|[^'\\])*'?|[()\[\]{}]|[^#\"'()\[\]{}]+")
_INSTALL = re.compile(r"^# Installs dropoutlib \S+, the package of this course", re.MULTILINE)


class SubmissionError(ValueError):
    """A folder of submissions or a deadline that cannot be used; the message says why."""


class Unreadable(ValueError):
    """A file that cannot be graded; the message is a sentence for its row."""

    def __init__(self, sentence: str, sha256: str = "") -> None:
        super().__init__(sentence)
        self.sha256 = sha256


@dataclass(frozen=True)
class Submission:
    """What one student has handed in.

    Attributes
    ----------
    student : str
        As records name them.
    path : Path or None
        The file that counts; None if there is none.
    file : str
        The same inside of the folder, as text that can be shown.
    received : str
        When, ISO 8601; by nbgrader's own note, or else by the file's date.
    late_seconds : float
        After the deadline.
    notes : tuple of str
        Sentences for the row.
    """

    student: str
    path: Path | None
    file: str = ""
    received: str = ""
    late_seconds: float = 0.0
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Cell:
    """A code cell: a label for messages, Python that can be compiled, and the question it stands under, or ""."""

    label: str
    source: str
    question: str = ""


@dataclass(frozen=True)
class Answers:
    """What a notebook holds.

    Attributes
    ----------
    sha256 : str
        Of the file.
    cells : tuple of Cell
        The code, in order, without the cell that installs the course's package, and without magics.
    functions : mapping
        For each code question the name to ask for.
    written : mapping
        For each written question the answer; empty if there is none.
    notes : tuple of str
        Sentences for the row.
    """

    sha256: str
    cells: tuple[Cell, ...]
    functions: Mapping[str, str]
    written: Mapping[str, str]
    notes: tuple[str, ...] = ()


# --- find


@dataclass(frozen=True)
class _File:
    who: Who
    path: Path
    late: bool = False
    order: int = 0
    stamp: datetime | None = None
    named: bool = False
    info: os.stat_result | None = field(default=None, compare=False)

    @property
    def regular(self) -> bool:
        return self.info is not None and stat.S_ISREG(self.info.st_mode)

    @property
    def notebook(self) -> bool:
        return self.path.suffix.lower() == ".ipynb"

    @property
    def received(self) -> datetime | None:
        if self.stamp is not None or self.info is None:
            return self.stamp
        return datetime.fromtimestamp(int(self.info.st_mtime), UTC)

    @property
    def rank(self) -> tuple[object, ...]:
        """The largest is the one that counts."""
        when = self.info.st_mtime_ns if self.info else 0
        return self.regular, self.notebook, self.named, self.order, when, str(self.path)


def deadline(text: str) -> datetime:
    """Return a moment from ISO 8601; without an offset from UTC it is meant in this machine's time zone.

    Raises
    ------
    SubmissionError
        If the text is no such date.
    """
    try:
        return datetime.fromisoformat(text).astimezone()
    except (ValueError, OverflowError):
        raise SubmissionError(f"a deadline is a date such as 2026-11-30T23:59+01:00, got {text!r}") from None


def find(
    folder: Path, roster: Roster | None = None, due: datetime | None = None, assignment: str = ""
) -> list[Submission]:
    """Return one submission a student, in the order of their names.

    Accepted are `alice.ipynb`; `alice/anything.ipynb`; nbgrader's `submitted/alice/ASSIGNMENT/...`; and the files in a
    zip of all submissions from Canvas or Moodle. Links are never followed. Of several files the latest notebook counts.
    Students of the roster who have handed in nothing get a submission without a path.

    Raises
    ------
    SubmissionError
        If the folder cannot be read or holds nothing.
    """
    try:
        top = folder / "submitted"
        files = list(_files(top if top.is_dir() and not top.is_symlink() else folder, assignment))
    except OSError as error:
        raise SubmissionError(f"the folder {folder} cannot be read: {error.strerror}") from None
    if not files:
        raise SubmissionError(f"the folder {folder} holds no submission")
    groups: defaultdict[str, list[_File]] = defaultdict(list)
    strangers = set()
    for file in files:
        person = roster.find(file.who) if roster else None
        student = person.student if person else file.who.student
        if roster and not person:
            strangers.add(student)
        groups[student].append(file)
    found = [_submission(student, group, folder, due, student in strangers) for student, group in groups.items()]
    for person in roster.people if roster else ():
        if person.student not in groups:
            found.append(Submission(person.student, None, notes=("Nothing was handed in.",)))
    return sorted(found, key=lambda submission: (submission.student.casefold(), submission.student))


def of_one(folder: Path, student: str, received: datetime | None = None, due: datetime | None = None) -> Submission:
    """Return the submission of a folder that holds one student's files, handed in at a known time."""
    base = _File(Who(student), folder, stamp=received)
    return _submission(student, list(_walk(folder, base)) or [base], folder, due, False)


def _submission(student: str, files: list[_File], folder: Path, due: datetime | None, stranger: bool) -> Submission:
    used, *others = sorted(files, key=lambda file: file.rank, reverse=True)
    notes = ["The student is not on the roster."] if stranger else []
    if used.info is None:
        return Submission(student, None, _shown(used.path, folder), notes=(*notes, "The folder holds no file."))
    if others:
        names = [_shown(file.path, folder) for file in others]
        listed = ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
        notes.append(f"Duplicate: {_shown(used.path, folder)} counts, the latest notebook; not read: {listed}.")
    received, late = used.received, 0.0
    if due is not None and received is not None:
        late = max(0.0, (received - due).total_seconds())
    if late:
        by = "" if used.stamp else ", by the file's date"
        notes.append(f"Late: handed in {_duration(late)} after the deadline{by}.")
    elif used.late:
        notes.append("Late: so Canvas has marked it.")
    return Submission(
        student,
        used.path,
        _shown(used.path, folder),
        received.astimezone(UTC).isoformat(timespec="seconds") if received else "",
        late,
        tuple(notes),
    )


def _files(folder: Path, assignment: str) -> Iterator[_File]:
    """Yield the files of all students, and for a folder without any the folder itself."""
    for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
        if _IGNORED.fullmatch(entry.name):
            continue
        path = folder / entry.name
        if not entry.is_dir(follow_symlinks=False):
            yield replace(_known(entry.name, path, assignment), info=entry.stat(follow_symlinks=False))
            continue
        if all((path / name).exists() for name in _RESULTS):
            # What `grade` has written is no student's.
            continue
        base = _known(entry.name, path, "", folder=True)
        own = path / assignment
        if assignment and own.is_dir() and not own.is_symlink():
            # A student who hands in a folder could write another time.
            stamp = _stamp(own / "timestamp.txt") if folder.name == "submitted" else None
            files = [
                replace(file, stamp=stamp, named=file.path.stem == assignment)
                for file in _walk(own, base)
                if stamp is None or file.path.name != "timestamp.txt"
            ]
        else:
            files = list(_walk(path, base))
        yield from files or [base]


def _walk(folder: Path, base: _File, depth: int = 0) -> Iterator[_File]:
    """Yield the files below a folder, links as what they are."""
    count = 0
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError:
        return
    for entry in entries:
        if _IGNORED.fullmatch(entry.name):
            continue
        if entry.is_dir(follow_symlinks=False):
            if depth < MOST_DEPTH:
                yield from _walk(folder / entry.name, base, depth + 1)
            continue
        count += 1
        if count > MOST_FILES:
            return
        yield replace(base, path=folder / entry.name, info=entry.stat(follow_symlinks=False))


def _known(name: str, path: Path, assignment: str, folder: bool = False) -> _File:
    """Return what a name at the top of the folder says."""
    shown = _text(name)
    if match := _MOODLE.fullmatch(shown):
        return _File(Who(match["name"], match["number"]), path)
    if not folder and (match := _CANVAS.fullmatch(shown)):
        late = bool(match["late"] or match["early"])
        return _File(Who(match["name"] or match["anonymous"], match["number"] or ""), path, late, int(match["file"]))
    if folder:
        return _File(Who(shown), path)
    stem = _COPY.sub("", _SUFFIXES.sub("", shown)).strip()
    if assignment:
        own = re.escape(assignment)
        stem = re.sub(rf"^{own}[\s_.-]+(?=\S)|(?<=\S)[\s_.-]+{own}$", "", stem)
    return _File(Who(stem or shown), path)


def _stamp(path: Path) -> datetime | None:
    """Return what nbgrader has noted: date, time and time zone."""
    try:
        date, time, *zone = _bytes(path, 200)[0].decode("ascii").split()
        return datetime.fromisoformat(f"{date} {time}").replace(tzinfo=ZoneInfo(zone[0] if zone else "UTC"))
    except (OSError, ValueError, ZoneInfoNotFoundError):
        return None


def _shown(path: Path, folder: Path) -> str:
    return _text(str(path.relative_to(folder)))


def _text(name: str) -> str:
    """Return a file's name as text: composed, and with the bytes that are no text spelled out."""
    return clean(
        unicodedata.normalize("NFC", name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace"))
    )


def _duration(seconds: float) -> str:
    minutes = max(1, round(seconds / 60))
    days, hours, minutes = minutes // 1440, minutes // 60 % 24, minutes % 60
    parts = [(days, "day"), (hours, "hour"), (minutes, "minute")]
    return " and ".join([f"{n} {unit}{'s' * (n > 1)}" for n, unit in parts if n][:2])


# --- read


def read(submission: Submission, assignment: Assignment, most_bytes: int = MOST_BYTES) -> Answers:
    """Read a notebook of an assignment, made for the submission's class.

    Code and written answers are told apart by nbgrader's metadata, else by the cells' ids, else by the headings under
    which they stand, so a notebook that Colab has saved, or whose cells were moved, is read like any other.

    Raises
    ------
    Unreadable
        If there is no file, it is too large, or it is no notebook of this assignment.
    """
    if submission.path is None:
        raise Unreadable(" ".join(submission.notes) or "Nothing was handed in.")
    data, size = _contents(submission.path, most_bytes)
    if size > most_bytes:
        raise Unreadable(f"The file has {size / 1e6:.0f} MB, and {most_bytes / 1e6:.0f} MB is the most that is read.")
    sha256 = hashlib.sha256(data).hexdigest()
    try:
        notebook = _notebook(data)
        notes = [*_renamed(submission.path), *_other(notebook, assignment)]
    except Unreadable as error:
        raise Unreadable(str(error), sha256) from None
    reading = _Reading(assignment, notes)
    for cell in notebook["cells"][:MOST_CELLS]:
        reading.take(cell)
    if len(notebook["cells"]) > MOST_CELLS:
        notes.append(f"The notebook has {len(notebook['cells'])} cells; the first {MOST_CELLS} were read.")
    return reading.answers(sha256)


def _contents(path: Path, most: int) -> tuple[bytes, int]:
    try:
        return _bytes(path, most)
    except OSError as error:
        if path.is_symlink():
            raise Unreadable("The file is a link to another place, and links are not followed.") from None
        raise Unreadable(f"The file cannot be read: {error.strerror}.") from None


def _bytes(path: Path, most: int) -> tuple[bytes, int]:
    """Return the first bytes of a regular file, one more than `most`, and its size."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    with open(descriptor, "rb") as file:
        info = os.fstat(descriptor)
        if not stat.S_ISREG(info.st_mode):
            raise OSError(0, "it is no regular file")
        if info.st_size > most:
            return b"", info.st_size
        data = file.read(most + 1)
        return data, len(data)


def _notebook(data: bytes) -> dict[str, Any]:
    if not data.strip():
        raise Unreadable("The file is empty.")
    for mark, kind in ((b"%PDF", "a PDF"), (b"PK\x03\x04", "a zip file"), (b"\x89PNG", "a picture"), (b"<", "HTML")):
        if data.lstrip().startswith(mark):
            raise Unreadable(f"The file is {kind}, not a notebook.")
    try:
        notebook = json.loads(data)
    except (ValueError, RecursionError, MemoryError) as error:
        text = "it is nested too deeply" if isinstance(error, RecursionError) else clean(str(error))[:120]
        raise Unreadable(f"The file is not a notebook, or a damaged one: it cannot be read as JSON ({text}).") from None
    if not isinstance(notebook, dict) or type(notebook.get("nbformat")) is not int:
        raise Unreadable("The file is not a notebook: it is JSON without 'nbformat'.")
    if notebook["nbformat"] != 4:
        raise Unreadable(
            f"The notebook has the format {notebook['nbformat']}, and 4 is read; open it in Jupyter and save it again."
        )
    if not isinstance(notebook.get("cells"), list):
        raise Unreadable("The file is not a notebook: it has no list of cells.")
    return notebook


def _renamed(path: Path) -> list[str]:
    return [] if path.suffix.lower() == ".ipynb" else ["Renamed: the file's name does not end in .ipynb."]


def _other(notebook: Mapping[str, Any], assignment: Assignment) -> list[str]:
    """Refuse another assignment, and note another class; where a platform has dropped the metadata, say nothing."""
    metadata = notebook.get("metadata")
    facts = metadata.get("assignment") if isinstance(metadata, dict) else None
    if not isinstance(facts, dict):
        return []
    name, variant = facts.get("name"), facts.get("variant", "")
    if isinstance(name, str) and name != assignment.name:
        raise Unreadable(f"The notebook is that of {clean(name)[:80]!r}, and this is {assignment.name!r}.")
    ours = str(assignment.notebook.metadata["assignment"].get("variant", ""))
    if isinstance(variant, str) and variant != ours:
        return [f"The notebook is of the variant {clean(variant)[:80]!r}, and is graded as {ours!r}."]
    return []


@dataclass(frozen=True)
class _Given:
    """What the students' notebook of an assignment holds: questions by the ids of cells, and text, squeezed."""

    questions: tuple[Question, ...]
    written: Mapping[str, str]
    code: Mapping[str, str]
    lines: frozenset[str]
    text: frozenset[str]


def _given(assignment: Assignment) -> _Given:
    written, code, lines, text, question = {}, {}, set(), set(), ""
    by_grade = {q.id.replace(".", "-"): q for q in assignment.questions}
    for cell in write.student(assignment).cells:
        grade = str(cell.metadata.get("nbgrader", {}).get("grade_id", ""))
        if cell.cell_type == "markdown" and cell.source.startswith("## "):
            question = _headed(cell.source, assignment.questions)
        if cell.cell_type == "markdown" and grade in by_grade:
            written[grade] = written[str(cell.id)] = by_grade[grade].id
        elif cell.cell_type == "code":
            code[str(cell.id)] = code[grade] = question
        if cell.cell_type == "markdown":
            text.add(_squeezed(cell.source))
            lines |= {
                _squeezed(line)
                for line in cell.source.splitlines()
                if len(line) >= _LEAST_GIVEN or line.startswith("#")
            }
    code.pop("", None)
    return _Given(assignment.questions, written, code, frozenset(lines), frozenset(text))


class _Reading:
    """One pass over a notebook's cells."""

    def __init__(self, assignment: Assignment, notes: list[str]) -> None:
        self._assignment = assignment
        self._given = _given(assignment)
        self._notes = notes
        self._question = ""
        self._found = False
        self._count = 0
        self._cells: list[Cell] = []
        self._written: defaultdict[str, list[str]] = defaultdict(list)
        self._pictures: set[str] = set()

    def take(self, cell: object) -> None:
        self._count += 1
        if not isinstance(cell, dict) or not isinstance(text := _joined(cell.get("source")), str):
            self._notes.append(f"Cell {self._count} is damaged and was left out.")
            return
        text = clean(text)
        metadata = cell.get("metadata") if isinstance(cell.get("metadata"), dict) else {}
        assert isinstance(metadata, dict)
        names = _names(cell, metadata)
        kind = cell.get("cell_type")
        asked = next((self._given.written[name] for name in names if name in self._given.written), "")
        if kind == "markdown" and (headed := _headed(text, self._given.questions)):
            self._question, self._found = headed, True
        if asked or kind in ("markdown", "raw"):
            self._text(asked, text, cell)
        elif kind == "code":
            self._code(names, text)

    def _text(self, asked: str, text: str, cell: Mapping[str, Any]) -> None:
        if _squeezed(text) in self._given.text:
            if text.startswith("## ") and not _headed(text, self._given.questions):
                self._question = ""
            return
        given = {write.TEXT_STUB} if asked else {write.TEXT_STUB, *self._given.lines}
        own = "\n".join(line for line in text.split("\n") if _squeezed(line) not in given).strip()
        question = asked or self._question
        if own and question:
            self._written[question].append(own)
            if cell.get("attachments"):
                self._pictures.add(question)

    def _code(self, names: list[str], text: str) -> None:
        if not text.strip() or _INSTALL.search(text):
            return
        question = next((self._given.code[name] for name in names if name in self._given.code), self._question)
        label = f"cell {self._count}" + (f" (question {question.rpartition('.')[2]})" if question else "")
        self._cells.append(Cell(label, without_magics(text), question))

    def answers(self, sha256: str) -> Answers:
        functions = {q.id: self._function(q) for q in self._given.questions if q.function}
        found = self._found or any(_defines(cell.source, name) for cell in self._cells for name in functions.values())
        if not found:
            self._notes.append("No question of this assignment was found in the notebook.")
        written = {}
        for question in self._given.questions:
            if question.rubric:
                text = "\n\n".join(self._written[question.id])
                if len(text) > MOST_ANSWER:
                    self._notes.append(f"The answer to {question.id} was cut to {MOST_ANSWER} characters.")
                written[question.id] = text[:MOST_ANSWER]
                if question.id in self._pictures:
                    self._notes.append(f"The answer to {question.id} holds a picture; open the notebook to see it.")
        return Answers(sha256, tuple(self._cells), functions, written, tuple(self._notes))

    def _function(self, question: Question) -> str:
        """Return the name that the assignment asks for, or the one that the notebook's own check names instead."""
        sources = [cell.source for cell in self._cells]
        if any(_defines(source, question.function) for source in sources):
            return question.function
        call = re.compile(
            rf"^\s*check\(\s*[\"']{re.escape(question.id)}[\"']\s*,\s*([A-Za-z_]\w*)\s*[,)]", re.MULTILINE
        )
        other = next((match[1] for source in sources if (match := call.search(source))), question.function)
        if other != question.function and any(_defines(source, other) for source in sources):
            self._notes.append(f"The answer to {question.id} is called {other}, not {question.function}.")
            return other
        return question.function


def _names(cell: Mapping[str, Any], metadata: Mapping[str, Any]) -> list[str]:
    """Return what may name a cell: nbgrader's id, its own, and the one that Colab keeps in the metadata."""
    nbgrader = metadata.get("nbgrader")
    names = [nbgrader.get("grade_id") if isinstance(nbgrader, dict) else None, cell.get("id"), metadata.get("id")]
    return [name for name in names if isinstance(name, str) and name]


def _joined(source: object) -> str | None:
    if isinstance(source, list) and all(isinstance(line, str) for line in source):
        return "".join(source)
    return source if isinstance(source, str) else None


def _headed(text: str, questions: tuple[Question, ...]) -> str:
    """Return the question whose heading a Markdown cell begins with."""
    match = _HEADING.match(text.lstrip().split("\n", 1)[0])
    if not match:
        return ""
    title = _squeezed(match[2])
    return next((q.id for q in questions if q.id.endswith(f".{match[1]}") and _squeezed(q.title) == title), "")


def _squeezed(text: str) -> str:
    return " ".join(text.split())


def _defines(source: str, name: str) -> bool:
    return bool(re.search(rf"^(?:async\s+def|def|class)\s+{name}\b|^{name}\s*(?::[^=\n]+)?=[^=]", source, re.MULTILINE))


# --- magics


def without_magics(source: str) -> str:
    """Return a cell without what only IPython understands: `%magic`, `!command`, `name?` and `x = !command`.

    Each such line becomes `pass`, so the lines keep their numbers. A cell of another language (`%%bash`) becomes
    nothing. Lines inside of brackets, of strings and after a backslash are Python's, and stay.
    """
    first = source.lstrip().split("\n", 1)[0]
    if first.startswith("%%") and first[2:].split(" ")[0].strip() not in _PYTHON_CELLS:
        return ""
    kept, depth, quote, continued, skipping = list[str](), 0, "", False, False
    for line in source.split("\n"):
        if skipping:
            skipping = line.endswith("\\")
            kept.append("")
            continue
        if not depth and not quote and not continued:
            if match := _TIMED.match(line):
                line = match[1] + match[2]
            if match := _MAGIC.match(line):
                kept.append(f"{match['indent']}pass")
                skipping = line.endswith("\\")
                continue
            if match := _FROM_MAGIC.match(line):
                kept.append(f"{match['left']}None")
                skipping = line.endswith("\\")
                continue
        depth, quote = _scan(line, depth, quote)
        continued = not quote and line.endswith("\\")
        kept.append(line)
    return "\n".join(kept)


def _scan(line: str, depth: int, quote: str) -> tuple[int, str]:
    """Return how many brackets are open after a line, and the mark of a long string that is."""
    at = 0
    while at < len(line):
        if quote:
            end = re.compile(rf"(?:\\.|(?!{quote}).)*").match(line, at)
            at = end.end() if end else at
            if not line.startswith(quote, at):
                return depth, quote
            at, quote = at + 3, ""
            continue
        match = _TOKEN.match(line, at)
        if match is None:
            return depth, quote
        token, at = match[0], match.end()
        if token in ("'''", '"""'):
            quote = token
        elif token in "([{":
            depth += 1
        elif token in ")]}":
            depth = max(0, depth - 1)
    return depth, quote
