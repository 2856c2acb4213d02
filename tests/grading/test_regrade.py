"""Grading again says what changes for whom and why, and loses nothing."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable
from pathlib import Path

import nbformat
import pytest

from grading import grade, keys, records, regrade, reports, rubric, source, write
from grading.__main__ import main
from grading.grade import GradeError
from grading.records import Record
from grading.reports import OutError
from tests.grading import class_of, test_rubric, test_submissions
from tests.grading.class_of import NAME

Change = Callable[[Record], Record | None]


def question(record: Record, number: int, **changes: object) -> Record:
    marks = list(record.questions)
    marks[number - 1] = dataclasses.replace(marks[number - 1], **changes)  # type: ignore[arg-type]
    return dataclasses.replace(record, questions=tuple(marks))


def stricter(record: Record) -> Record | None:
    """Another check of question 1, and other submissions of two."""
    record = dataclasses.replace(record, grader="ef" * 32)
    if record.student == "Bob O'Neil, Jr.":
        return None
    if record.student == "Zoe Aro newline":
        return question(dataclasses.replace(record, sha256="cd" * 32), 1, status="passed", points=3, hint="")
    if record.questions[0].status == "passed":
        return question(record, 1, status="wrong", points=0, hint="New hint.", detail="f(7) returned 8\nmore")
    return record


def grading(change: Change, extra: str = "") -> Callable[[Path], None]:
    """Return what grades the class into a folder, with a change of each record."""

    def run(out: Path) -> None:
        made = class_of.assignment()
        reports.open_out(out, made)
        for student, answers in {**class_of.CLASS, **({extra: ("ppppp", "", "")} if extra else {})}.items():
            record = change(class_of.record(made, student, *answers))
            if record:
                records.save(record, out / records.FOLDER)
        reports.write(out)

    return run


@pytest.fixture
def out(tmp_path: Path) -> Path:
    class_of.make(tmp_path / "out")
    return tmp_path / "out"


def snapshot(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_what_changes_for_whom_is_told(out: Path) -> None:
    before = snapshot(out)
    done = regrade.regrade(out, grading(stricter, "carol"))
    assert snapshot(out) == before
    found = {(c.student, c.question): c for c in done.changes}
    assert set(found) == {
        ("alice", f"{NAME}.1"),
        ("../../etc/passwd", f"{NAME}.1"),
        ("Zoe Aro newline", f"{NAME}.1"),
        ("Bob O'Neil, Jr.", ""),
        ("carol", ""),
    }
    assert [c.gain for c in found.values()] == [-3, -3, -7, 16, 3]
    changed = "the checks, the key, the limits or the sandbox have changed"
    assert str(found["alice", f"{NAME}.1"]) == (
        f"alice, {NAME}.1: 3 of 3, passed -> 0 of 3, wrong (New hint.); {changed}: f(7) returned 8"
    )
    assert f"another file was handed in and {changed}" in str(found["Zoe Aro newline", f"{NAME}.1"])
    assert "7 of 25 -> no record; no longer handed in" in str(found["Bob O'Neil, Jr.", ""])
    assert "no record -> 16 of 25; handed in since" in str(found["carol", ""])
    assert "5 of 7 students change" in str(done)
    assert f"the new results are in {out}-regraded; add --write" in str(done)
    assert done.fresh
    assert (done.fresh / reports.GRADES).is_file()


def test_write_replaces_and_keeps_what_was(out: Path) -> None:
    regrade.regrade(out, grading(stricter))
    old = snapshot(out / records.FOLDER)
    done = regrade.regrade(out, grading(stricter), write=True)
    assert done.kept == out / "before" / "1"
    assert snapshot(done.kept) == old
    assert f"the records before are in {done.kept}" in str(done)
    assert not (out.parent / "out-regraded").exists()
    assert {r.student: r.points for r in records.load_all(out / records.FOLDER)}["alice"] == 16
    assert "alice,16," in (out / reports.GRADES).read_text()
    assert not (out / reports.FEEDBACK / f"{records.slug(next(s for s in class_of.CLASS if 'Bob' in s))}.html").exists()
    again = regrade.regrade(out, grading(stricter), write=True)
    assert again.kept == out / "before" / "2"
    assert again.changes == ()
    assert "nothing changes for anybody" in str(again)


def test_marks_by_hand_go_along_where_the_answer_is_the_same(out: Path) -> None:
    test_rubric.enter(out, test_rubric.full)
    rubric.merge(out)

    def other(record: Record) -> Record:
        return question(record, 4, answer="Another.") if record.student == "Zoe Aro newline" else record

    done = regrade.regrade(out, grading(other), write=True)
    (change,) = done.changes
    assert (change.student, change.question, change.gain) == ("Zoe Aro newline", f"{NAME}.4", -4)
    assert change.after == "– of 4, by hand"
    found = {r.student: r for r in records.load_all(out / records.FOLDER)}
    assert found["alice"].points == 25
    assert found["Zoe Aro newline"].questions[3].points is None
    rows = test_rubric.read(out / rubric.SHEET)
    assert len([row for row in rows if row["answer"].startswith("[CHANGED")]) == 4


def test_refused_files_and_other_questions_are_told() -> None:
    (old,) = [class_of.record(class_of.assignment(), "alice", "ppppp", "", "")]
    refused = dataclasses.replace(old, status="refused", notes=("The file is empty.",), sha256="x")
    (change,) = regrade.changes([old], [refused])
    assert str(change) == "alice: graded -> refused; another file was handed in. The file is empty."
    fewer = dataclasses.replace(old, questions=old.questions[1:])
    (gone,), (new,) = regrade.changes([old], [fewer]), regrade.changes([fewer], [old])
    assert (gone.after, gone.gain, new.before, new.gain) == ("no such question", -3, "no such question", 3)
    (random,) = regrade.changes([old], [question(old, 1, status="wrong", points=0)])
    assert "so the answer is not the same each time" in random.why


def test_an_interruption_loses_nothing(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save = records.save
    saved: list[str] = []

    def interrupted(record: Record, folder: Path) -> Path:
        if folder == out / records.FOLDER:
            saved.append(record.student)
            if len(saved) == 3:
                raise KeyboardInterrupt
        return save(record, folder)

    old = snapshot(out / records.FOLDER)
    with monkeypatch.context() as patch:
        patch.setattr(records, "save", interrupted)
        with pytest.raises(KeyboardInterrupt):
            regrade.regrade(out, grading(stricter), write=True)
    assert snapshot(out / "before" / "1") == old
    records.load_all(out / records.FOLDER)
    regrade.regrade(out, grading(stricter), write=True)
    fresh = out.parent / "other"
    grading(stricter)(fresh)
    assert snapshot(out / records.FOLDER) == snapshot(fresh / records.FOLDER)


def test_nothing_else_writes_meanwhile(out: Path) -> None:
    with grade.alone(out), pytest.raises(GradeError, match="another run is writing"):
        regrade.regrade(out, grading(stricter), write=True)
    assert not (out / "before").exists()


def test_a_folder_that_cannot_be_used_is_refused(out: Path, tmp_path: Path) -> None:
    with pytest.raises(OutError, match="is no folder of results"):
        regrade.regrade(tmp_path, grading(stricter))
    (out / "before").write_text("in the way")
    with pytest.raises(OutError, match="cannot be written"):
        regrade.regrade(out, grading(stricter), write=True)


def test_the_command_uses_the_key_of_the_results(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """From a real run: the same key and code change nothing; another submission changes its own marks alone."""
    assignment, folder, out = source.load(NAME), tmp_path / "submissions", tmp_path / "out"
    folder.mkdir()
    for name in ("alice", "bob"):
        nbformat.write(test_submissions.solved(assignment), folder / f"{name}.ipynb")
    common = [NAME, str(folder), "-o", str(out), "--jobs", "2"]
    assert main(["grade", *common]) == 0
    key = keys.read(out / grade.KEY)
    assert main(["regrade", *common]) == 0
    assert "nothing changes for anybody" in capsys.readouterr().out
    nbformat.write(write.student(assignment), folder / "bob.ipynb")
    assert main(["regrade", *common, "--write"]) == 0
    printed = capsys.readouterr().out
    assert f"bob, {NAME}.1: 3 of 3, passed -> 0 of 3, not done; another file was handed in" in printed
    assert "alice, " not in printed
    assert "1 of 2 students change" in printed
    assert keys.read(out / grade.KEY) == key
    assert [record.points for record in records.load_all(out / records.FOLDER)] == [19, 0]
    shutil.rmtree(out)
    assert main(["regrade", *common]) == 1
    assert "is no folder of results" in capsys.readouterr().err
