"""Whose a file is, by the rosters of Canvas and Moodle and by one's own."""

from __future__ import annotations

from pathlib import Path

import pytest

from grading import roster
from grading.roster import CANVAS, MOODLE, OWN, RosterError, Who

CANVAS_FILE = """\
Student,ID,SIS User ID,SIS Login ID,Section,Two dropouts (77),Final Score
    Points Possible,,,,,25,(read only)
"Smith, Alice",101,S1,alice,A,,
"Smith, Alice",102,S2,asmith,B,,
"O'Neil-Ærø, Bob",103,S3,bob@example.com,A,,
"Student, Test",104,,,A,,
"""
MOODLE_FILE = """\
Identifier,"Full name","Email address",Status,Grade,"Maximum Grade","Last modified (grade)","Feedback comments"
"Participant 501","Alice Smith",alice@example.com,"Submitted for grading",,25.00,-,
"Participant 502","Bob O'Neil",bob@example.com,"Submitted for grading",,25.00,-,
"""


def read(tmp_path: Path, text: str) -> roster.Roster:
    path = tmp_path / "roster.csv"
    path.write_text(text, encoding="utf-8")
    return roster.read(path)


def found(people: roster.Roster, name: str, number: str = "") -> str:
    person = people.find(Who(name, number))
    return person.student if person else ""


def test_canvas(tmp_path: Path) -> None:
    people = read(tmp_path, CANVAS_FILE)
    assert people.kind == CANVAS
    assert [p.student for p in people.people] == [
        "smithalice_101",
        "smithalice_102",
        "oneilærøbob_103",
        "studenttest_104",
    ]
    assert found(people, "smithalice", "102") == "smithalice_102"
    assert found(people, "whatever", "103") == "oneilærøbob_103"
    assert found(people, "smithalice", "999") == "", "a number that is not there is no namesake's"
    assert found(people, "smithalice") == "", "two have that name"
    assert found(people, "alice") == "smithalice_101"
    assert found(people, "BOB@example.com") == found(people, "bob") == "oneilærøbob_103"
    assert found(people, "Bob O'Neil-Ærø") == "oneilærøbob_103"
    assert found(people, "S2") == "smithalice_102"
    assert found(people, "") == ""


def test_moodle(tmp_path: Path) -> None:
    people = read(tmp_path, MOODLE_FILE)
    assert people.kind == MOODLE
    assert [p.student for p in people.people] == ["Alice Smith_501", "Bob O'Neil_502"]
    assert found(people, "Alice Smith", "501") == "Alice Smith_501"
    assert found(people, "bob") == found(people, "bob oneil") == "Bob O'Neil_502"


def test_ones_own(tmp_path: Path) -> None:
    people = read(tmp_path, "student;name\nalice;Alice Smith\n'=bob;Bob\n;\n")
    assert people.kind == OWN
    assert [p.student for p in people.people] == ["alice", "=bob"]
    assert found(people, "Alice") == "alice"
    assert found(people, "alicesmith", "12") == "alice"
    assert found(people, "=bob") == "=bob"
    assert found(people, "carol") == ""
    assert [p.student for p in read(tmp_path, "Email,Name\na@x.org,A\n").people] == ["a@x.org"]


def test_a_record_that_ends_in_a_number_is_its_owners_if_the_name_fits(tmp_path: Path) -> None:
    def recorded(people: roster.Roster, student: str) -> str:
        person = people.find_recorded(student)
        return person.student if person else ""

    canvas = read(tmp_path, CANVAS_FILE)
    for student in ("smithalice_101", "Smith Alice_101", "alice"):
        assert recorded(canvas, student) == "smithalice_101"
    assert recorded(canvas, "lab_101") == "", "lab_101 need not be number 101"
    assert recorded(canvas, "smithalice_999") == ""
    moodle = read(tmp_path, MOODLE_FILE.replace('"Alice Smith"', '""').replace("alice@example.com", ""))
    assert recorded(moodle, "Team 1_501") == "Participant_501"
    assert recorded(moodle, "bob oneil_502") == "Bob O'Neil_502"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("colour\nred\n", "has no column that names students"),
        ("student\n", "names no student"),
        ("student\nalice\nalice\n", "names 'alice' twice"),
        ("", "is empty"),
    ],
)
def test_what_is_no_roster_is_refused(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(RosterError, match=message):
        read(tmp_path, text)
