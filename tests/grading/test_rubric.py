"""Points that were given by hand come back from a sheet, all of them or none, and are never lost."""

from __future__ import annotations

import csv
import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest

from grading import grade, records, reports, rubric
from grading.__main__ import main
from grading.grade import GradeError
from grading.records import Record
from grading.rubric import RubricError
from tests.grading import class_of
from tests.grading.class_of import HOSTILE, NAME

Row = dict[str, str]
Change = Callable[[Row], None]


@pytest.fixture
def out(tmp_path: Path) -> Path:
    class_of.make(tmp_path / "out")
    return tmp_path / "out"


def read(path: Path) -> list[Row]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        return list(csv.DictReader(file))


def save(path: Path, rows: list[Row], delimiter: str = ",", encoding: str = "utf-8-sig") -> None:
    with path.open("w", encoding=encoding, errors="replace", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), delimiter=delimiter)
        writer.writeheader()
        writer.writerows(rows)


def enter(out: Path, change: Change, **how: str) -> None:
    """Do to each row what an instructor does in a spreadsheet."""
    path, _ = rubric.write(out)
    rows = read(path)
    for row in rows:
        change(row)
    save(path, rows, **how)


def full(row: Row) -> None:
    row["points given"] = row["points possible"]


def of(out: Path, student: str) -> Record:
    record = records.load(out / records.FOLDER, student)
    assert record
    return record


def test_the_sheet_has_a_row_for_each_line_of_each_answer(out: Path) -> None:
    path, waiting = rubric.write(out)
    rows = read(path)
    found = records.load_all(out / records.FOLDER)
    by_hand = [mark for record in found for mark in record.questions if mark.points is None]
    assert waiting == len(by_hand) == 10
    assert len(rows) == sum(len(mark.lines) for mark in by_hand)
    assert tuple(rows[0]) == rubric.HEADER
    assert {row["points given"] for row in rows} == {""}
    assert {row["student"] for row in rows if row["key"] == "s-alice"} == {"alice"}
    assert [row["rubric"][:20] for row in rows if (row["key"], row["question"]) == ("s-alice", f"{NAME}.7")] == [
        "the scale $1/p$, bec",
        "keep and drop swappe",
    ]
    cells = [cell for row in rows for cell in row.values()]
    assert not [cell for cell in cells if cell[:1] in tuple("=+-@\t\r")]
    assert "'-1 is my answer" in cells
    assert HOSTILE in cells


def test_points_are_merged_into_every_report(out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["rubric", str(out)]) == 0
    assert "10 answers are to be marked" in capsys.readouterr().out

    def change(row: Row) -> None:
        full(row)
        if row["key"] == "s-alice":
            row["points given"], row["comment"] = "0.5", "=nearly"

    enter(out, change)
    assert main(["merge", str(out)]) == 0
    assert "the marks of 6 students have changed; 0 answers are to be marked" in capsys.readouterr().out
    alice = of(out, "alice")
    assert (alice.points, alice.complete) == (19 + 2 + 1, True)
    assert [line.comment for line in alice.questions[3].lines] == ["=nearly"] * 4
    assert of(out, "../../etc/passwd").points == 25
    assert {row["complete"] for row in read(out / reports.GRADES)} == {"yes"}
    assert "=nearly" in (out / reports.FEEDBACK / "alice.html").read_text()
    assert '"score": 2' in (out / reports.RESULTS / "alice.json").read_text()
    assert main(["merge", str(out), str(out / rubric.SHEET)]) == 0
    assert "the marks of 0 students have changed" in capsys.readouterr().out


@pytest.mark.parametrize(("delimiter", "encoding"), [(";", "cp1252"), ("\t", "utf-16"), (",", "utf-8")])
def test_what_spreadsheets_make_of_the_sheet_is_read(out: Path, delimiter: str, encoding: str) -> None:
    """With a decimal comma, with other letters than ours lost, and with an answer cut short."""

    def change(row: Row) -> None:
        row["points given"], row["answer"] = " 0,5 ", row["answer"][:3]

    enter(out, change, delimiter=delimiter, encoding=encoding)
    assert rubric.merge(out).waiting == 0
    assert of(out, "Zoë Ærø\nnewline").points == 16 + 2 + 1


def test_a_part_can_be_merged_and_an_empty_cell_changes_nothing(out: Path) -> None:
    def first(row: Row) -> None:
        row["points given"] = "1" if (row["key"], row["line"]) == ("s-alice", "1") else ""

    enter(out, first)
    assert rubric.merge(out).students == ("alice",)
    alice = of(out, "alice")
    assert alice.questions[3].points is None
    assert [line.points for line in alice.questions[3].lines] == [1, None, None, None]

    def others(row: Row) -> None:
        assert (row["points given"] == "1") == ((row["key"], row["line"]) == ("s-alice", "1")), (
            "merged points are shown"
        )
        row["points given"] = "" if row["line"] == "1" else "0"

    enter(out, others)
    rubric.merge(out)
    assert [mark.points for mark in of(out, "alice").questions if mark.lines] == [1, 1]
    assert of(out, "Zoe Aro newline").questions[3].points is None


def test_a_comment_alone_leaves_the_points(out: Path) -> None:
    enter(out, full)
    rubric.merge(out)
    rows = read(out / rubric.SHEET)
    for row in rows:
        row["points given"], row["comment"] = "", "later"
    save(out / rubric.SHEET, rows)
    rubric.merge(out)
    assert of(out, "alice").points == 25
    assert {line.comment for mark in of(out, "alice").questions for line in mark.lines} == {"later"}


def test_nothing_else_writes_meanwhile(out: Path) -> None:
    enter(out, full)
    with grade.alone(out), pytest.raises(GradeError, match="another run is writing"):
        rubric.merge(out)
    assert not of(out, "alice").complete


def test_what_was_entered_stays_when_the_sheet_is_written_again(out: Path) -> None:
    def change(row: Row) -> None:
        full(row)
        row["comment"] = "entered, not merged"

    enter(out, change)
    before = read(out / rubric.SHEET)
    rubric.write(out)
    assert read(out / rubric.SHEET) == before
    (out / records.FOLDER / "alice.json").unlink()
    rubric.write(out)
    rows = read(out / rubric.SHEET)
    assert sorted(map(str, rows)) == sorted(map(str, before)), "rows without an answer stay while they hold marks"
    assert rows[-1]["key"] == "s-alice"


def test_points_for_another_answer_are_refused(out: Path) -> None:
    enter(out, full)
    alice = of(out, "alice")
    marks = list(alice.questions)
    marks[3] = dataclasses.replace(marks[3], answer="A second attempt.")
    records.save(dataclasses.replace(alice, questions=tuple(marks)), out / records.FOLDER)
    before = (out / rubric.SHEET).read_bytes()
    for _ in range(2):
        with pytest.raises(RubricError, match=rf"alice, {NAME}\.4\): the answer has changed"):
            rubric.merge(out)
        rubric.write(out)
        changed = [row for row in read(out / rubric.SHEET) if row["answer"].startswith("[CHANGED")]
        assert [row["points given"] for row in changed] == ["1"] * 4
    assert of(out, "Zoë Ærø\nnewline").questions[3].points is None, "nothing was merged"
    assert (out / rubric.SHEET).read_bytes() != before
    rows = read(out / rubric.SHEET)
    for row in rows:
        if row["answer"].startswith("[CHANGED"):
            row["points given"] = ""
    save(out / rubric.SHEET, rows)
    rubric.write(out)
    assert not [row for row in read(out / rubric.SHEET) if row["answer"].startswith("[CHANGED")]
    assert rubric.merge(out).waiting == 1


BAD: dict[str, tuple[Change, str]] = {
    "too many": (lambda row: row.update({"points given": "1.01"}), "points are a number from 0 to 1, got '1.01'"),
    "negative": (lambda row: row.update({"points given": "-1"}), "points are a number from 0 to 1"),
    "text": (lambda row: row.update({"points given": "one"}), "points are a number from 0 to 1"),
    "nan": (lambda row: row.update({"points given": "nan"}), "points are a number from 0 to 1"),
    "nobody": (lambda row: row.update({"key": "nobody"}), "there is no student with the key 'nobody'"),
    "no such question": (lambda row: row.update({"question": f"{NAME}.1"}), "there is no such written question"),
    "no such line": (lambda row: row.update({"line": "5"}), "the rubric has no line '5'; it has"),
    "no line": (lambda row: row.update({"line": "one"}), "the rubric has no line 'one'"),
    "twice": (lambda row: row.update({"line": "1", "points given": row["line"][-1:].replace("2", "0")}), "twice"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_row_is_named_and_nothing_is_merged(out: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    before = [records.dumps(record) for record in records.load_all(out / records.FOLDER)]
    change, message = BAD[name]

    def some(row: Row) -> None:
        full(row)
        if (row["key"], row["question"]) == ("s-alice", f"{NAME}.7"):
            change(row)

    enter(out, some)
    assert main(["merge", str(out)]) == 1
    error = capsys.readouterr().err
    assert message in error
    assert "row " in error
    assert error.endswith("nothing was merged\n")
    assert [records.dumps(record) for record in records.load_all(out / records.FOLDER)] == before


def test_a_sheet_that_is_none_is_refused(out: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, message in {
        ("merge", str(out)): "rubric.csv cannot be read: No such file",
        ("merge", str(out), str(out / reports.GRADES)): "lacks the columns key, question",
        ("merge", str(tmp_path)): "is no folder of results",
        ("rubric", str(tmp_path)): "is no folder of results",
    }.items():
        assert main(list(arguments)) == 1
        assert message in capsys.readouterr().err
    (out / rubric.SHEET).mkdir()
    with pytest.raises(RubricError, match="cannot be"):
        rubric.write(out)


def test_an_empty_answer_needs_no_mark(out: Path) -> None:
    path, _ = rubric.write(out)
    assert not [row for row in read(path) if row["key"] == f"s-{records.slug(HOSTILE)}"]
    assert of(out, HOSTILE).complete
