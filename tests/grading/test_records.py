"""Records come back as they were written, or not at all."""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from grading import records
from grading.records import BY_HAND, PASSED, Line, QuestionMark, Record, RecordError
from tests.grading import class_of

NAMES = [
    "alice",
    "Alice",
    "a b",
    "a-b",
    "a/b",
    "../a",
    "a\x00b",
    "ä",
    "日本",
    "a" * 300,
    "con.json",
    "a--b",
    ".",
    "e\u0301",
    "\xe9",
]


def some() -> list[Record]:
    made = class_of.assignment()
    return [class_of.record(made, student, *answers) for student, answers in class_of.CLASS.items()]


def tree() -> dict[str, Any]:
    return dict(json.loads(records.dumps(some()[0])))


def test_a_record_comes_back() -> None:
    for record in some():
        assert records.loads(records.dumps(record)) == record


def test_points_are_summed_and_stay_whole() -> None:
    record = some()[0]
    assert (record.points, record.out_of, record.complete) == (19, 25, False)
    assert isinstance(record.points, int)
    half = dataclasses.replace(record.questions[0], points=0.5)
    assert dataclasses.replace(record, questions=(half,)).points == 0.5
    assert dataclasses.replace(record, questions=(half,)).complete


@given(st.text(min_size=1, max_size=80))
def test_a_slug_is_safe_everywhere(student: str) -> None:
    name = records.slug(student)
    assert name == name.lower()
    assert name.isascii()
    assert not set(name) - set("abcdefghijklmnopqrstuvwxyz0123456789_.-")
    assert name[0] not in ".-"
    assert 0 < len(name) <= 60


def test_different_students_have_different_files() -> None:
    names = [records.slug(student) for student in NAMES]
    assert len(set(names)) == len(NAMES)
    assert records.slug("alice") == "alice"
    assert records.slug("Alice").startswith("alice--")


def test_text_is_cleaned() -> None:
    record = dataclasses.replace(some()[0], student="a\ud800\u202e\x1b[31m", notes=("x\r\ny\x07",), printed="ok\tok\n")
    assert record.student == "a\N{REPLACEMENT CHARACTER}\N{REPLACEMENT CHARACTER}\N{REPLACEMENT CHARACTER}[31m"
    assert record.notes == ("x\ny\N{REPLACEMENT CHARACTER}",)
    assert record.printed == "ok\tok\n"
    record.student.encode()


def test_saved_records_are_loaded(tmp_path: Path) -> None:
    folder = tmp_path / "records"
    for record in some():
        path = records.save(record, folder)
        assert path.parent == folder
        assert records.load(folder, record.student) == record
    (folder / ".half.part").write_text("{")
    assert records.load(folder, "nobody") is None
    found = records.load_all(folder)
    assert sorted(found, key=lambda r: r.student) == sorted(some(), key=lambda r: r.student)
    assert {path.suffix for path in folder.iterdir()} == {".json", ".part"}
    assert records.load_all(tmp_path / "absent") == []


def changed(path: list[Any], value: object) -> str:
    made = tree()
    place: Any = made
    for name in path[:-1]:
        place = place[name]
    place[path[-1]] = value
    return json.dumps(made)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no JSON"),
        ("[" * 100_000, "no JSON"),
        ("[]", "a Record is an object"),
        ("{}", "has other fields"),
        (changed(["more"], 1), "has other fields: more"),
        (changed(["schema"], 2), "has schema 2"),
        (changed(["schema"], True), "Record.schema is of type bool"),
        (changed(["student"], ""), "names no student"),
        (changed(["student"], None), "Record.student is of type NoneType"),
        (changed(["status"], "lost"), "unknown status 'lost'"),
        (changed(["notes"], [1]), "a note is no text"),
        (changed(["notes"], "x"), "expected a list"),
        (changed(["questions"], {}), "expected a list"),
        (changed(["questions", 0], 3), "a QuestionMark is an object"),
        (changed(["questions", 0, "points"], -1), "has -1 of 3 points"),
        (changed(["questions", 0, "points"], 4), "has 4 of 3 points"),
        (changed(["questions", 0, "points"], True), "QuestionMark.points is of type bool"),
        (changed(["questions", 0, "points"], None), "has no points and is not marked by hand"),
        (changed(["questions", 0, "status"], "fine"), "unknown status 'fine'"),
        (changed(["questions", 0, "id"], "x"), "'x' is no question's id"),
        (changed(["questions", 1, "id"], "two-dropouts.1"), "a question twice"),
        (changed(["questions", 3, "lines", 0, "points"], 9), "a line of a rubric has 9 of 1 points"),
        (changed(["questions", 0, "seconds"], "1"), "QuestionMark.seconds is of type str"),
        (changed(["seconds"], 1e400), "no JSON: Infinity"),
    ],
)
def test_what_is_no_record_is_refused(text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(RecordError, match=message.replace("(", r"\(")):
        records.loads(text)
    (tmp_path / "alice.json").write_text(text)
    with pytest.raises(RecordError, match=r"alice\.json"):
        records.load_all(tmp_path)


def test_wrong_parts_are_refused_at_once() -> None:
    record = some()[0]
    with pytest.raises(RecordError, match=r"Record\.questions is of type list"):
        dataclasses.replace(record, questions=list(record.questions))  # type: ignore[arg-type]
    with pytest.raises(RecordError, match="a question that is none"):
        dataclasses.replace(record, questions=(1,))  # type: ignore[arg-type]
    with pytest.raises(RecordError, match="a rubric that is none"):
        dataclasses.replace(record.questions[0], lines=(1,))  # type: ignore[arg-type]
    with pytest.raises(RecordError, match="seconds is nan"):
        dataclasses.replace(record, seconds=float("nan"))


def test_a_record_lies_under_its_own_name(tmp_path: Path) -> None:
    path = records.save(some()[0], tmp_path)
    path.rename(tmp_path / "bob.json")
    with pytest.raises(RecordError, match=r"belongs in alice\.json"):
        records.load_all(tmp_path)
    with pytest.raises(RecordError, match="is the record of 'alice', not of 'bob'"):
        records.load(tmp_path, "bob")


def test_a_crash_leaves_the_old_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    record = some()[0]
    path = records.save(record, tmp_path)

    def fail(*_: object) -> None:
        raise KeyboardInterrupt

    for function in ("replace", "fsync"):
        with monkeypatch.context() as patch:
            patch.setattr(os, function, fail)
            with pytest.raises(KeyboardInterrupt):
                records.save(dataclasses.replace(record, comment="new"), tmp_path)
        assert records.load_all(tmp_path) == [record]
        assert list(tmp_path.iterdir()) == [path]


def test_marks_by_hand_are_carried_where_the_answer_is_the_same() -> None:
    line = Line("reason", 2, 1.5, "good")
    by_hand = QuestionMark("x.1", "t", 2, 1.5, BY_HAND, answer="same", lines=(line,))
    fresh = QuestionMark("x.1", "t", 2, None, BY_HAND, answer="same", lines=(Line("reason", 2),))
    code = QuestionMark("x.2", "t", 2, 2, PASSED)

    def record(*marks: QuestionMark, comment: str = "") -> Record:
        return Record("x", "", "alice", "graded", marks, comment=comment)

    old = record(by_hand, code, comment="well done")
    assert records.carry(old, record(fresh, code)) == old
    for other in (
        dataclasses.replace(fresh, answer="another"),
        dataclasses.replace(fresh, lines=(Line("another", 2),)),
        dataclasses.replace(fresh, status="not done", points=0),
    ):
        assert records.carry(old, record(other)).questions == (other,)
    assert records.carry(record(code), record(fresh)).questions == (fresh,)
