"""A folder of submissions is graded: each mark right, every file of the results whole, and no mark lost."""

from __future__ import annotations

import dataclasses
import signal
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import pytest

from grading import grade, keys, records, reports, run, source, submissions
from grading.__main__ import main
from grading.grade import Done, GradeError
from grading.records import Record
from grading.sandbox import Aborted, Limits, SandboxError
from grading.submissions import Submission
from tests.grading.hostile import need
from tests.grading.hostile.notebooks import notebook, questions, right, wrong
from tests.grading.test_proofs import KEY, PROOFS

NAME = "two-dropouts"
ASSIGNMENT = source.load(NAME)
ALL = tuple(questions(NAME))
ROOT = Path(__file__).resolve().parents[2]


def honest(folder: Path, count: int) -> dict[str, dict[str, float]]:
    """Write submissions with right and wrong answers of the proofs; return the points that each question earns."""
    expected = {}
    for k in range(count):
        answers, points = dict[str, str | None](), {}
        for j, question in enumerate(ALL):
            labels, mistakes = list(PROOFS[question].right), PROOFS[question].wrong
            is_right = (k + j) % 3 != 1
            answers[question] = (
                right(question, labels[k % len(labels)]) if is_right else wrong(question, (5 * k + j) % len(mistakes))
            )
            points[question] = _points(question) if is_right else 0
        if k % 5 == 4:
            answers[ALL[k % len(ALL)]] = None
            points[ALL[k % len(ALL)]] = 0
        nbformat.write(notebook(NAME, answers), folder / f"student{k:02}.ipynb")
        expected[f"student{k:02}"] = points
    return expected


def _points(question: str) -> float:
    return next(q.points for q in ASSIGNMENT.questions if q.id == question)


def earned(record: Record) -> dict[str, float | None]:
    return {mark.id: mark.points for mark in record.questions if mark.id in ALL}


def graded(folder: Path, out: Path, **options: object) -> tuple[Done, list[str]]:
    said: list[str] = []
    options = {"key": KEY, "jobs": 2, **options}
    done = grade.grade(ASSIGNMENT, folder, out, say=said.append, **options)  # type: ignore[arg-type]
    return done, said


def plain(record: Record) -> Record:
    """Return a record without what a clock has decided."""
    marks = tuple(dataclasses.replace(mark, seconds=0) for mark in record.questions)
    return dataclasses.replace(record, questions=marks, seconds=0, grader="")


@pytest.fixture(scope="module")
def handed_in(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("submissions")


@pytest.fixture(scope="module")
def expected(handed_in: Path) -> dict[str, dict[str, float]]:
    return honest(handed_in, 8)


@pytest.fixture(scope="module")
def out(handed_in: Path, expected: object, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return results of an undisturbed run."""
    folder = tmp_path_factory.mktemp("results") / "out"
    done, said = graded(handed_in, folder)
    assert done == Done(8, 0, ())
    assert len([line for line in said if line.startswith("[")]) == 8
    return folder


def test_every_honest_mark_is_right(out: Path, expected: dict[str, dict[str, float]]) -> None:
    found = records.load_all(out / records.FOLDER)
    assert {record.student: earned(record) for record in found} == expected
    assert {record.status for record in found} == {records.GRADED}
    hints = {mark.status for record in found for mark in record.questions if mark.id in ALL}
    assert hints == {"passed", "wrong", "not done"}
    for record in found:
        assert [mark.id for mark in record.questions] == [q.id for q in ASSIGNMENT.questions]
        assert all(mark.hint for mark in record.questions if mark.status == "wrong")
        assert (out / "feedback" / f"{record.slug}.html").is_file()


def test_without_bubblewrap_the_marks_are_the_same(out: Path, handed_in: Path, tmp_path: Path) -> None:
    _, said = graded(handed_in, tmp_path / "out", sandbox="process")
    text = "\n".join(said)
    assert "without bubblewrap" in text
    assert "What a hostile submission can do here:\n  - " in text
    assert text.index("hostile") < text.index("[1/8]")
    ours, theirs = (records.load_all(folder / records.FOLDER) for folder in (out, tmp_path / "out"))
    assert list(map(plain, ours)) == list(map(plain, theirs))
    assert (out / reports.GRADES).read_bytes() == (tmp_path / "out" / reports.GRADES).read_bytes()


def test_what_is_finished_is_not_graded_again(out: Path, handed_in: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in out.rglob("*") if path.is_file()}
    monkeypatch.setattr(run, "grade_answers", lambda *a: pytest.fail("graded again"))
    done, said = graded(handed_in, out)
    assert done == Done(0, 8, ())
    assert all(line.endswith("graded before") for line in said if line.startswith("["))
    after = {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in out.rglob("*") if path.is_file()}
    del before[out / grade.LOCK], after[out / grade.LOCK], before[out / submissions.MANIFEST]
    assert {path: after[path] for path in before} == before


def test_a_run_that_is_killed_goes_on_where_it_was(out: Path, handed_in: Path, tmp_path: Path) -> None:
    """Killed without warning while submissions run; no process of it stays."""
    key, results = tmp_path / "key", tmp_path / "out"
    key.write_text(KEY.hex())
    command = [sys.executable, "-m", "grading", "grade", NAME, str(handed_in), "-o", str(results), "--key", str(key)]
    with subprocess.Popen([*command, "--jobs", "2"], cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        lines = iter(process.stdout.readline, "")
        seen = next(line for line in lines if line.startswith("[3/8]"))
        process.send_signal(signal.SIGKILL)
    assert seen
    assert not (results / reports.GRADES).exists()
    first = {record.student: record for record in records.load_all(results / records.FOLDER)}
    assert 3 <= len(first) < 8
    done, _ = graded(handed_in, results)
    assert done == Done(8 - len(first), len(first), ())
    found = {record.student: record for record in records.load_all(results / records.FOLDER)}
    assert {name: found[name] for name in first} == first
    assert (results / reports.GRADES).read_bytes() == (out / reports.GRADES).read_bytes()


@pytest.mark.usefixtures("expected")
def test_the_command_line(handed_in: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, results = tmp_path / "in", tmp_path / "out"
    folder.mkdir()
    (folder / "a.ipynb").write_bytes((handed_in / "student00.ipynb").read_bytes())
    arguments = ["grade", NAME, str(folder), "-o", str(results)]
    assert main([*arguments, "--jobs", "0"]) == 1
    assert main([*arguments, "--deadline", "soon"]) == 1
    assert main(["grade", NAME, str(tmp_path / "absent"), "-o", str(results)]) == 1
    assert main([*arguments, "--deadline", "2020-01-01T00:00+00:00"]) == 0
    text = capsys.readouterr()
    assert len(text.err.splitlines()) == 3
    assert "1 graded, 0 graded before" in text.out
    assert "Late" in records.load_all(results / records.FOLDER)[0].notes[0]
    # The key was made for this folder and stays with it.
    assert len(keys.read(results / grade.KEY)) == keys.BYTES
    assert (results / grade.KEY).stat().st_mode & 0o077 == 0
    assert main([*arguments, "--deadline", "2020-01-01T00:00+00:00"]) == 0
    assert "0 graded, 1 graded before" in capsys.readouterr().out


@pytest.mark.long
@pytest.mark.parametrize("kind", ["bubblewrap", "process"])
@pytest.mark.parametrize("name", source.names())
def test_every_assignments_solutions_have_full_marks(name: str, kind: str, tmp_path: Path) -> None:
    """With the assignment's own limits, the one that needs PyTorch included."""
    assignment = source.load(name)
    made = nbformat.from_dict(assignment.notebook)
    for cell in made.cells:
        cell.source = source.without(cell.source, source.HIDDEN, "")
    (tmp_path / "in").mkdir()
    nbformat.write(made, tmp_path / "in" / "a.ipynb")
    grade.grade(
        assignment, tmp_path / "in", tmp_path / "out", key=KEY, sandbox=need(kind), jobs=1, say=lambda line: None
    )
    (record,) = records.load_all(tmp_path / "out" / records.FOLDER)
    assert record.notes == ()
    assert {mark.status for mark in record.questions} == {"passed", "by hand"}


# --- without running anything


def fake(monkeypatch: pytest.MonkeyPatch, points: int = 3) -> list[str]:
    """Replace the sandbox by nothing, and the grading of answers by a constant."""
    ran: list[str] = []

    class Box:
        kind, why, not_stopped, aborted = "bubblewrap", "", (), False

        def __init__(self, choice: str = "auto") -> None: ...
        def __enter__(self) -> Box:
            return self

        def __exit__(self, *_: object) -> None: ...
        def abort(self) -> None:
            self.aborted = True

    def constant(submission: Submission, answers: object, *rest: object) -> Record:
        ran.append(submission.student)
        made = run.refused(submission, ASSIGNMENT, submissions.Unreadable("", getattr(answers, "sha256", "")))
        marks = (dataclasses.replace(made.questions[0], points=points, status="passed"), *made.questions[1:])
        return dataclasses.replace(made, status="graded", questions=marks, grader=str(rest[-1]), notes=submission.notes)

    monkeypatch.setattr(grade, "Sandbox", Box)
    monkeypatch.setattr(run, "grade_answers", constant)
    return ran


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "in"
    made.mkdir()
    for name in "abc":
        nbformat.write(notebook(NAME, {ALL[0]: f"draw_mask = {name!r}"}), made / f"{name}.ipynb")
    return made


def test_what_decides_a_mark_decides_whether_it_stays(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran, out = fake(monkeypatch), tmp_path / "out"
    assert graded(folder, out)[0] == Done(3, 0, ())
    assert graded(folder, out)[0] == Done(0, 3, ())
    nbformat.write(notebook(NAME, {}), folder / "b.ipynb")
    assert graded(folder, out)[0] == Done(1, 2, ())
    assert ran[-1] == "b"
    assert graded(folder, out, key=bytes(32))[0] == Done(3, 0, ())
    assert graded(folder, out, key=bytes(32), limits=Limits(seconds=5))[0] == Done(3, 0, ())
    due = submissions.deadline("2020-01-01T00:00+00:00")
    assert graded(folder, out, key=bytes(32), limits=Limits(seconds=5), due=due)[0] == Done(3, 0, ())
    assert graded(folder, out, key=bytes(32), limits=Limits(seconds=5), due=due)[0] == Done(0, 3, ())


def test_the_digest_depends_on_code_key_limits_and_assignment() -> None:
    def digest(**changed: object) -> str:
        options = {"assignment": ASSIGNMENT, "key": KEY, "limits": Limits(), "kind": "process", **changed}
        return grade.digest(**options)  # type: ignore[arg-type]

    different = [
        digest(),
        digest(key=bytes(32)),
        digest(limits=Limits(memory_mb=5)),
        digest(kind="bubblewrap"),
        digest(assignment=source.load("placement")),
    ]
    assert len(set(different)) == len(different)
    assert digest() == different[0]
    assert KEY.hex() not in different[0]


def test_marks_by_hand_stay(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "out"
    fake(monkeypatch)
    graded(folder, out)
    record = records.load_all(out / records.FOLDER)[0]
    records.save(dataclasses.replace(record, comment="Well done."), out / records.FOLDER)
    fake(monkeypatch, points=0)
    graded(folder, out, key=bytes(32))
    assert records.load_all(out / records.FOLDER)[0].comment == "Well done."


def test_a_record_that_is_damaged_is_made_again(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "out"
    fake(monkeypatch)
    graded(folder, out)
    (out / records.FOLDER / "b.json").write_text("{", encoding="utf-8")
    assert graded(folder, out)[0] == Done(1, 2, ())


def test_a_machine_that_fails_costs_no_marks(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake(monkeypatch)
    constant = run.grade_answers

    def sometimes(submission: Submission, *rest: object) -> Record:
        if submission.student == "a":
            raise OSError("no space left")
        if submission.student == "b":
            raise SandboxError("no process can be started")
        return constant(submission, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(run, "grade_answers", sometimes)
    done, said = graded(folder, tmp_path / "out")
    assert (done.graded, done.kept, sorted(done.failed)) == (1, 0, ["a", "b"])
    assert "a: not graded: OSError: no space left" in "\n".join(said)
    assert "b: not graded: no process can be started" in "\n".join(said)
    assert [record.student for record in records.load_all(tmp_path / "out" / records.FOLDER)] == ["c"]


def test_two_runs_do_not_write_to_one_folder(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake(monkeypatch)
    out = tmp_path / "out"
    graded(folder, out)
    with grade.alone(out), pytest.raises(GradeError, match="another run"):
        graded(folder, out)
    with pytest.raises(GradeError, match="cannot be written"), grade.alone(tmp_path / "absent"):
        pass
    assert graded(folder, out)[0] == Done(0, 3, ())


def test_an_interruption_ends_the_run(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake(monkeypatch)
    boxes: list[object] = []

    def interrupted(*arguments: object) -> Record:
        boxes.append(arguments[4])
        if len(boxes) == 1:
            raise KeyboardInterrupt
        while not getattr(arguments[4], "aborted"):  # noqa: B009
            time.sleep(0.01)
        raise Aborted

    monkeypatch.setattr(run, "grade_answers", interrupted)
    with pytest.raises(KeyboardInterrupt):
        graded(folder, tmp_path / "out")
    assert records.load_all(tmp_path / "out" / records.FOLDER) == []


class Quiet:
    """A child that takes everything and says that it is done."""

    limits = Limits()

    def send(self, message: object, deadline: float) -> None: ...
    def receive(self, deadline: float) -> tuple[object, ...]:
        return "gone", 0


def test_a_check_that_stumbles_has_not_passed(monkeypatch: pytest.MonkeyPatch) -> None:
    def stumbles(*arguments: object) -> None:
        raise OverflowError("int too large")

    monkeypatch.setattr(run, "judge", stumbles)
    answers = submissions.Answers("", (), {}, {})
    attempt = run._Run(answers, ASSIGNMENT, KEY, None, Limits())  # type: ignore[arg-type]
    verdict, alive = attempt._ask(Quiet(), ASSIGNMENT.questions[0], True)  # type: ignore[arg-type]
    assert (verdict.status, verdict.hint, alive) == ("wrong", run._UNCHECKABLE, True)
    assert "OverflowError" in verdict.detail


def test_a_start_is_tried_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []

    class Box:
        def start(self, limits: Limits) -> str:
            calls.append(1)
            if len(calls) < 2:
                raise SandboxError("later")
            return "child"

    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    assert run._start(Box(), Limits()) == "child"  # type: ignore[arg-type, comparison-overlap]


def test_refused_files_earn_nothing_and_say_why() -> None:
    submission = Submission("a", Path("a.ipynb"), "a.ipynb", notes=("Late.",))
    record = run.refused(submission, ASSIGNMENT, submissions.Unreadable("The file is empty.", "x"))
    assert (record.status, record.points, record.notes) == ("refused", 0, ("Late.", "The file is empty."))
    assert {mark.status for mark in record.questions} == {"not run"}
    nothing = run.refused(Submission("a", None, notes=("Nothing.",)), ASSIGNMENT, submissions.Unreadable("Nothing."))
    assert nothing.notes == ("Nothing.",)
