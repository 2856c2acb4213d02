"""Records of a small class, made by hand, for tests of what is made of records."""

from __future__ import annotations

from pathlib import Path

from grading import records, reports, source
from grading.records import BY_HAND, NOT_DONE, PASSED, RAISED, STOPPED, WRONG, Line, QuestionMark, Record
from grading.source import Assignment, Question

NAME = "two-dropouts"
INPUT = "draw_mask((7, 911), 0.123456, 99)"
HOSTILE = "<script>alert('x')</script>\"'&"
STATUSES = {"p": PASSED, "w": WRONG, "n": NOT_DONE, "r": RAISED, "s": STOPPED}
# Student, the five code questions (1, 2, 3, 5 and 6), the two written answers (4 and 7).
CLASS = {
    "alice": ("ppppp", "Because E[m] = q.", "p = q there."),
    "Bob O'Neil, Jr.": ("ppwsr", "", "1/p = 1/q"),
    "=HYPERLINK(\"http://x\";\"y\")": ("wwnnn", "-1 is my answer", ""),
    "../../etc/passwd": ("ppppp", HOSTILE, HOSTILE),
    "Zoë Ærø\nnewline": ("wpppp", "@home", "ok"),
    "Zoe Aro newline": ("wwppp", "ok", "ok"),
    HOSTILE: ("nnnnn", "", ""),
}  # fmt: skip


def assignment() -> Assignment:
    return source.load(NAME)


def written(question: Question, answer: str) -> QuestionMark:
    """Return the mark of a written answer that nobody has read yet."""
    if not answer:
        return QuestionMark(question.id, question.title, question.points, 0, NOT_DONE)
    lines = tuple(Line(text, points) for points, text in question.rubric)
    return QuestionMark(question.id, question.title, question.points, None, BY_HAND, answer=answer, lines=lines)


def record(made: Assignment, student: str, statuses: str, *answers: str) -> Record:
    """Return a graded submission."""
    codes, texts = iter(statuses), iter(answers)
    marks = []
    for question in made.questions:
        if question.rubric:
            marks.append(written(question, next(texts)))
            continue
        status = STATUSES[next(codes)]
        earned = question.points if status == PASSED else 0
        hint = f"Hint of {question.id} & <b>that</b>." if status == WRONG else ""
        detail = f"{INPUT} returned 1, expected 2" if status != PASSED else ""
        marks.append(
            QuestionMark(question.id, question.title, question.points, earned, status, hint, detail, seconds=0.25)
        )
    return Record(
        made.name,
        str(made.notebook.metadata["assignment"].get("variant", "")),
        student,
        records.GRADED,
        tuple(marks),
        file=f"{student}.ipynb",
        sha256="ab" * 32,
        received="2026-11-20T10:00:00+00:00",
        late_seconds=61.0 if student == "alice" else 0.0,
        notes=(f"Renamed: {student}",) if student == HOSTILE else (),
        printed=HOSTILE if student == HOSTILE else "",
        seconds=1.5,
        grader="cd" * 32,
    )


def make(out: Path, made: Assignment | None = None) -> list[Record]:
    """Fill a folder of results with the class, reports and all, and return the records."""
    made = made or assignment()
    reports.open_out(out, made)
    for student, answers in CLASS.items():
        records.save(record(made, student, *answers), out / records.FOLDER)
    return reports.write(out)
