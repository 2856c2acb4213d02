"""Canvas and Moodle get their own files back, with one column filled."""

from __future__ import annotations

import csv
import dataclasses
import io
from pathlib import Path

import pytest

from grading import export, records, reports, rubric
from grading.__main__ import main
from grading.export import ExportError
from tests.grading import class_of, test_rubric
from tests.grading.test_roster import CANVAS_FILE, MOODLE_FILE

TITLE = "Two dropouts, one expectation"


def results(out: Path, *students: str) -> Path:
    """Make a folder of results of students who are all marked."""
    made = class_of.assignment()
    reports.open_out(out, made)
    for k, student in enumerate(students):
        answers = ("ppppp", "proof" * (k != 1), "rates") if k < 3 else ("wwwww", "", "")
        records.save(class_of.record(made, student, *answers), out / records.FOLDER)
    reports.write(out)
    return out


def marked(out: Path) -> Path:
    test_rubric.enter(out, test_rubric.full)
    rubric.merge(out)
    return out


def put(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def read(path: Path) -> list[dict[str, str]]:
    data = path.read_bytes()
    assert not data.startswith(b"\xef\xbb\xbf")
    return list(csv.DictReader(io.StringIO(data.decode("utf-8"), newline="")))


def test_canvas_gets_a_column_of_points(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = marked(results(tmp_path / "out", "smithalice_101", "asmith", "bob", "mallory"))
    gradebook, file = put(tmp_path / "canvas.csv", CANVAS_FILE), tmp_path / "to" / "points.csv"
    assert main(["export", str(out), "--for", "canvas", "--roster", str(gradebook), "-o", str(file)]) == 0
    printed = capsys.readouterr().out
    assert "3 students have points" in printed
    assert "left empty, since there is no record: studenttest_104" in printed
    assert "not on the roster, and so not in the file: mallory" in printed
    rows = read(file)
    assert list(rows[0]) == ["Student", "ID", "SIS User ID", "SIS Login ID", "Section", TITLE]
    assert rows[0]["Student"].strip() == "Points Possible"
    assert [row[TITLE] for row in rows] == ["25", "25", "21", "25", ""]
    assert [row["ID"] for row in rows] == ["", "101", "102", "103", "104"]
    assert rows[1]["Student"] == "Smith, Alice"


def test_canvas_knows_its_own_column_again(tmp_path: Path) -> None:
    out = marked(results(tmp_path / "out", "alice"))
    text = CANVAS_FILE.replace("Two dropouts (77)", f'"{TITLE} (77)"')
    export.write(out, "canvas", put(tmp_path / "c.csv", text), tmp_path / "to.csv")
    assert list(read(tmp_path / "to.csv")[0])[-1] == f"{TITLE} (77)"
    with pytest.raises(ExportError, match="Canvas counts 100 points and the assignment 25; set 25 there"):
        export.write(out, "canvas", put(tmp_path / "d.csv", text.replace(",25,", ",100,")), tmp_path / "to.csv")
    lines = [line for line in text.splitlines() if "Points Possible" not in line]
    export.write(out, "canvas", put(tmp_path / "c.csv", "\n".join(lines)), tmp_path / "to.csv")
    assert read(tmp_path / "to.csv")[0]["Student"].strip() == "Points Possible"


def test_moodle_gets_its_worksheet_back(tmp_path: Path) -> None:
    out = results(tmp_path / "out", "Alice Smith_501", "bob")
    sheet = put(tmp_path / "moodle.csv", MOODLE_FILE)
    before = export.write(out, "moodle", sheet, tmp_path / "to.csv")
    assert before.waiting == ("Alice Smith_501", "bob")
    assert {row["Grade"] for row in read(tmp_path / "to.csv")} == {""}
    done = export.write(marked(out), "moodle", sheet, tmp_path / "to.csv")
    assert (done.filled, done.waiting, done.absent, done.strangers) == (2, (), (), ())
    rows = read(tmp_path / "to.csv")
    header = next(csv.reader(MOODLE_FILE.splitlines()))
    assert list(rows[0]) == header
    assert [row["Identifier"] for row in rows] == ["Participant 501", "Participant 502"]
    assert [row["Grade"] for row in rows] == ["25", "21"]
    assert {row["Last modified (grade)"] for row in rows} == {"-"}
    assert "<p>4. The proof: 0 of 4. There was no answer.</p>" in rows[1]["Feedback comments"]
    text = MOODLE_FILE.replace("25.00", "100.00")
    with pytest.raises(ExportError, match=r"Moodle counts 100\.00 points and the assignment 25"):
        export.write(out, "moodle", put(sheet, text), tmp_path / "to.csv")


def test_comments_are_html_without_a_students_marks_in_it(tmp_path: Path) -> None:
    made = class_of.assignment()
    record = class_of.record(made, "alice", "wpppp", "", "")
    record = dataclasses.replace(record, comment="<b>&", notes=("Renamed: <script>\nx",))
    text = export.comment(record)
    assert text.startswith("<p>&lt;b&gt;&amp;</p><p>Renamed: &lt;script&gt; x</p><p>1. The mask: 0 of 3. ")
    assert "\n" not in text
    assert class_of.INPUT not in text


def test_names_never_become_formulas(tmp_path: Path) -> None:
    out = marked(results(tmp_path / "out", "=HYPERLINK(1)_501"))
    sheet = put(tmp_path / "m.csv", MOODLE_FILE.replace('"Alice Smith"', '"=HYPERLINK(1)"'))
    export.write(out, "moodle", sheet, tmp_path / "to.csv")
    row = read(tmp_path / "to.csv")[0]
    assert (row["Full name"], row["Grade"]) == ("'=HYPERLINK(1)", "25")


def test_nothing_handed_in_is_left_empty_and_a_refused_file_has_no_points(tmp_path: Path) -> None:
    out = results(tmp_path / "out", "Alice Smith_501", "bob")
    for student, file in (("Alice Smith_501", ""), ("bob", "bob.ipynb")):
        record = records.load(out / records.FOLDER, student)
        assert record
        marks = tuple(dataclasses.replace(m, points=0, status="not run", lines=()) for m in record.questions)
        records.save(dataclasses.replace(record, status="refused", file=file, questions=marks), out / records.FOLDER)
    done = export.write(out, "moodle", put(tmp_path / "m.csv", MOODLE_FILE), tmp_path / "to.csv")
    assert done.waiting == ("Alice Smith_501",)
    assert [row["Grade"] for row in read(tmp_path / "to.csv")] == ["", "0"]


def test_what_cannot_be_exported_is_one_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = results(tmp_path / "out", "alice", "smithalice_101")
    canvas, moodle = put(tmp_path / "c.csv", CANVAS_FILE), put(tmp_path / "m.csv", MOODLE_FILE)
    foreign = put(tmp_path / "f.csv", MOODLE_FILE.replace('"Last modified (grade)"', "Geändert"))
    to = str(tmp_path / "to.csv")
    for arguments, message in (
        ([str(out), "--for", "canvas", "--roster", str(moodle), "-o", to], "is not a gradebook exported from Canvas"),
        ([str(out), "--for", "moodle", "--roster", str(canvas), "-o", to], "is not a grading worksheet of Moodle"),
        ([str(out), "--for", "moodle", "--roster", str(foreign), "-o", to], "with Moodle in English"),
        ([str(out), "--for", "canvas", "--roster", str(canvas), "-o", to], "are the same person of the roster"),
        ([str(out), "--for", "moodle", "--roster", str(moodle), "-o", str(moodle)], "is the roster itself"),
        ([str(tmp_path), "--for", "moodle", "--roster", str(moodle), "-o", to], "is no folder of results"),
        ([str(out), "--for", "moodle", "--roster", to, "-o", to], "cannot be read: No such file"),
        ([str(out), "--for", "moodle", "--roster", str(moodle), "-o", str(moodle / "x")], "cannot be written"),
    ):
        assert main(["export", *arguments]) == 1
        error = capsys.readouterr().err
        assert message in error
        assert len(error.splitlines()) == 1
    assert moodle.read_text() == MOODLE_FILE
    assert not Path(to).exists()
