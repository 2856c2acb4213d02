"""Who is in the class: a CSV from Canvas or Moodle, or one's own, and which of them a file or a record belongs to."""

from __future__ import annotations

import re
import unicodedata
from collections import defaultdict
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from grading import sheets

CANVAS, MOODLE, OWN = "canvas", "moodle", "own"
_NAMES = ("student", "full name", "name")
_LOGINS = ("student", "sis login id", "username", "user name", "login", "email address", "email", "sis user id")
_PARTICIPANT = re.compile(r"\D*(\d+)")


class RosterError(ValueError):
    """A roster that cannot be used; the message says why."""


@dataclass(frozen=True)
class Who:
    """What is known of a student: the name in a file's name, or in a record, and the platform's number."""

    name: str
    number: str = ""

    @property
    def student(self) -> str:
        """The name that records use."""
        return f"{self.name}_{self.number}" if self.number else self.name


@dataclass(frozen=True)
class Person:
    """A row of a roster."""

    row: int
    student: str
    number: str
    logins: frozenset[str]
    names: frozenset[str]


@dataclass(frozen=True)
class Roster:
    """A class.

    Attributes
    ----------
    kind : {"canvas", "moodle", "own"}
        Where the file comes from, by its columns.
    table : Table
        The file as it is.
    people : tuple of Person
        Its students.
    """

    kind: str
    table: sheets.Table
    people: tuple[Person, ...]

    def find(self, who: Who) -> Person | None:
        """Return the one person that this can be, or None."""
        if who.number and self.kind != OWN:
            return self._by_number.get(who.number)
        keys = [("login", who.student.casefold()), ("login", who.name.casefold()), ("name", _squash(who.name))]
        for key in keys:
            if key[1] and len(found := self._index[key]) == 1:
                return found[0]
        return None

    def find_recorded(self, student: str) -> Person | None:
        """Return the one person whose record this can be, or None.

        A record that was made without this roster may end in the platform's number; then the name must fit too, since
        lab_7 need not be number 7.
        """
        for person in self.people:
            if person.student == student:
                return person
        match = re.fullmatch(r"(.+)_(\d+)", student)
        numbered = self._by_number.get(match[2]) if match else None
        if match and numbered and (_squash(match[1]) in numbered.names or not numbered.names):
            return numbered
        return self.find(Who(student))

    @cached_property
    def _by_number(self) -> dict[str, Person]:
        return {person.number: person for person in self.people if person.number}

    @cached_property
    def _index(self) -> defaultdict[tuple[str, str], list[Person]]:
        index: defaultdict[tuple[str, str], list[Person]] = defaultdict(list)
        for person in self.people:
            for kind, keys in (("login", person.logins), ("name", person.names)):
                for key in keys:
                    index[kind, key].append(person)
        return index


def read(path: Path) -> Roster:
    """Read a roster: a gradebook exported from Canvas, a grading worksheet of Moodle, or a CSV with a column `student`.

    Raises
    ------
    RosterError
        If the file cannot be read, has no column that names students, or names one twice.
    """
    try:
        table = sheets.read(path)
    except sheets.SheetError as error:
        raise RosterError(str(error)) from None
    columns = {name.strip().casefold(): index for index, name in enumerate(table.header)}
    if {"student", "id", "section"} <= set(columns):
        kind = CANVAS
    elif "identifier" in columns:
        kind = MOODLE
    elif set(columns) & {*_NAMES, *_LOGINS}:
        kind = OWN
    else:
        raise RosterError(f"{path} has no column that names students: a roster has one called 'student'")
    people = []
    for row, cells in enumerate(table.rows):
        person = _person(kind, row, {name: cells[index].strip() for name, index in columns.items()})
        if person is not None:
            people.append(person)
    seen: set[str] = set()
    for person in people:
        if person.student in seen:
            raise RosterError(f"{path} names {person.student!r} twice")
        seen.add(person.student)
    if not people:
        raise RosterError(f"{path} names no student")
    return Roster(kind, table, tuple(people))


def _person(kind: str, row: int, cells: dict[str, str]) -> Person | None:
    full = next((cells[name] for name in _NAMES if cells.get(name)), "")
    logins = {cells[name].casefold() for name in _LOGINS if cells.get(name)}
    logins |= {login.partition("@")[0] for login in logins}
    number = ""
    if kind == CANVAS:
        # Below the header Canvas writes a row of points possible, and maybe one on how grades are posted.
        number = cells["id"]
        if not number.isdecimal():
            return None
        student = Who(re.sub(r"\W", "", full.lower()), number).student
    elif kind == MOODLE:
        match = _PARTICIPANT.fullmatch(cells["identifier"])
        if match is None:
            return None
        number = match[1]
        student = Who(full or "Participant", number).student
    else:
        student = next((cells[name] for name in (*_LOGINS, *_NAMES) if cells.get(name)), "")
        if not student:
            return None
    names = set()
    for name in filter(None, (cells.get(column, "") for column in _NAMES)):
        last, _, first = name.partition(",")
        names |= {_squash(name), _squash(first + last)}
    return Person(row, student, number, frozenset(logins), frozenset(names))


def _squash(text: str) -> str:
    return "".join(c for c in unicodedata.normalize("NFKD", text).casefold() if c.isalnum())
