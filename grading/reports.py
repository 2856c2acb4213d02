"""What is made of the records: grades.csv, Gradescope's JSON and a feedback page a student, and a summary page.

Everything here can be made again at any time, and the same records give the same bytes.
"""

from __future__ import annotations

import json
import statistics
import textwrap
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from grading import records, sheets
from grading.records import BY_HAND, GRADED, NOT_DONE, NOT_RUN, PASSED, RAISED, STOPPED, WRONG, QuestionMark, Record
from grading.source import Assignment
from grading.submissions import MANIFEST

GRADES, SUMMARY, FEEDBACK, RESULTS = "grades.csv", "summary.html", "feedback", "json"
TEMPLATES = Path(__file__).with_name("templates")
MOST_MISTAKES = 12
_BINS = 12
_VERDICTS = {
    PASSED: "passed",
    WRONG: "not right yet",
    NOT_DONE: "not done",
    RAISED: "raised an error",
    STOPPED: "was stopped",
    BY_HAND: "read by a person",
    NOT_RUN: "not run",
}
_SENTENCES = {
    PASSED: "It is right for other inputs than those of the notebook's check, too.",
    WRONG: "It is not right for other inputs than those of the notebook's check.",
    NOT_DONE: "There was no answer.",
    RAISED: "It raised an error.",
    STOPPED: "It was stopped.",
    BY_HAND: "",
    NOT_RUN: "It was not run.",
}
_UNEXPLAINED = {
    WRONG: "not right, and no hint fits",
    RAISED: "raised an error",
    STOPPED: "was stopped",
    NOT_DONE: "no answer",
}


class OutError(RuntimeError):
    """A folder of results that cannot be used; the message says why."""


# --- the folder


def open_out(out: Path, assignment: Assignment) -> None:
    """Make a folder for the results of an assignment, or check that an existing one is for it.

    Raises
    ------
    OutError
        If `out` was not made by this command, belongs to another assignment or class, or cannot be written.
    """
    ours = _facts(assignment)
    try:
        if out.exists() and not (out.is_dir() and not any(out.iterdir())):
            there = manifest(out)
            if (there["assignment"], there["variant"]) != (ours["assignment"], ours["variant"]):
                raise OutError(
                    f"{out} holds the results of {_named(there)}, not of {_named(ours)}; name another folder with -o"
                )
        (out / records.FOLDER).mkdir(parents=True, exist_ok=True)
        records.write_atomically(out / MANIFEST, (json.dumps(ours, indent=1) + "\n").encode())
    except OSError as error:
        raise OutError(f"{out} cannot be written: {error.strerror}") from None


def manifest(out: Path) -> dict[str, str]:
    """Return what a folder of results is about.

    Raises
    ------
    OutError
        If it is none.
    """
    try:
        facts = json.loads((out / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        facts = None
    names = {"assignment", "variant", "title"}
    if not isinstance(facts, dict) or not names <= set(facts) or not all(isinstance(facts[n], str) for n in names):
        raise OutError(f"{out} is no folder of results that `python -m grading grade` has made; name another one")
    return facts


def _facts(assignment: Assignment) -> dict[str, str]:
    variant = str(assignment.notebook.metadata["assignment"].get("variant", ""))
    return {"assignment": assignment.name, "variant": variant, "title": assignment.title}


def _named(facts: Mapping[str, str]) -> str:
    return f"{facts['assignment']!r}" + (f", variant {facts['variant']!r}" if facts["variant"] else "")


def write(out: Path) -> list[Record]:
    """Write all reports of a folder of results, each file whole or not at all, and return the records.

    They can be made again from the records, so they need not survive a crash of the machine.

    Raises
    ------
    OutError
        If the folder is none, or cannot be written.
    RecordError
        If a record cannot be read.
    """
    facts = manifest(out)
    found = records.load_all(out / records.FOLDER)
    files = {GRADES: grades(found), SUMMARY: summary(facts, found).encode()}
    for record in found:
        files[f"{RESULTS}/{record.slug}.json"] = (json.dumps(results(record), indent=1) + "\n").encode()
        files[f"{FEEDBACK}/{record.slug}.html"] = feedback(facts, record).encode()
    try:
        for name, data in files.items():
            path = out / name
            if not path.is_file() or path.read_bytes() != data:
                records.write_atomically(path, data, durable=False)
        for folder, kind in ((RESULTS, "json"), (FEEDBACK, "html")):
            for path in (out / folder).glob(f"[!.]*.{kind}"):
                if f"{folder}/{path.name}" not in files:
                    path.unlink()
    except OSError as error:
        raise OutError(f"{out} cannot be written: {error.strerror}") from None
    return found


# --- grades.csv


def grades(found: Sequence[Record]) -> bytes:
    """Return the table of all marks, one row a student; a mark that is still to be given is an empty cell."""
    questions = list(dict.fromkeys(mark.id for record in found for mark in record.questions))
    header = ["student", "points", "out of", "complete", "status", *questions]
    header += ["late minutes", "received", "file", "feedback", "notes"]
    rows = []
    for record in found:
        marks = {mark.id: mark.points for mark in record.questions}
        rows.append(
            [
                record.student,
                record.points,
                record.out_of,
                "yes" if record.complete else "no",
                record.status,
                *(marks.get(question) for question in questions),
                -(-int(record.late_seconds) // 60),
                record.received,
                record.file,
                f"{FEEDBACK}/{record.slug}.html",
                " ".join(record.notes),
            ]
        )
    return sheets.dumps(header, rows)


# --- Gradescope


def results(record: Record) -> dict[str, Any]:
    """Return a record in the format of Gradescope's results.json.

    Written answers have an entry once they are marked. Nothing of it is meant for instructors only: no input of a
    check, and nothing that an answer said while it was checked.
    """
    waiting = [number(mark) for mark in record.questions if mark.points is None]
    texts = [record.comment, *record.notes]
    if waiting:
        texts.append(f"Still to be read by a person: question {', '.join(waiting)}.")
    tests = [
        {
            "score": mark.points,
            "max_score": mark.out_of,
            "name": mark.title,
            "number": number(mark),
            "output": "\n".join(filter(None, [sentence(mark), mark.hint and f"Hint: {mark.hint}", *_lines(mark)])),
            "visibility": "visible",
        }
        for mark in record.questions
        if mark.points is not None
    ]
    # A total of its own keeps the format valid where every question is still to be marked.
    total: dict[str, Any] = {} if tests else {"score": 0}
    return {
        **total,
        "output": "\n".join(filter(None, texts)),
        "visibility": "visible",
        "stdout_visibility": "hidden",
        "tests": tests,
    }


def _lines(mark: QuestionMark) -> list[str]:
    if mark.status != BY_HAND:
        return []
    return [
        f"{points(line.points)} of {line.out_of}: {line.text}" + (f" ({line.comment})" if line.comment else "")
        for line in mark.lines
    ]


# --- feedback


def number(mark: QuestionMark) -> str:
    """Return a question's number in its assignment."""
    return mark.id.rpartition(".")[2]


def points(value: float | None) -> str:
    """Return points as text, without a needless fraction."""
    return "–" if value is None else f"{value:.2f}".rstrip("0").rstrip(".")


def sentence(mark: QuestionMark) -> str:
    """Return what the student may know of a mark, besides the hint."""
    if mark.status == BY_HAND:
        return "A person has read it." if mark.points is not None else "A person will read it."
    return _SENTENCES[mark.status]


def feedback(facts: Mapping[str, str], record: Record) -> str:
    """Return a student's page: one file, with no script and nothing from elsewhere."""
    waiting = [f"question {number(mark)}" for mark in record.questions if mark.points is None]
    return _render("feedback.html", title=facts["title"], record=record, waiting=waiting)


def _render(template: str, **values: Any) -> str:
    return str(_templates().get_template(template).render(values))


@cache
def _templates() -> Any:
    # The autograder of Gradescope has no need of it, nor of this import.
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {
        "number": number,
        "points": points,
        "sentence": sentence,
        "verdict": lambda mark: _VERDICTS[mark.status],
    }
    return environment


# --- summary


def summary(facts: Mapping[str, str], found: Sequence[Record]) -> str:
    """Return the instructors' page: the distribution of points, of each question, and the most common mistakes."""
    graded = [record for record in found if record.status == GRADED]
    totals = [record.points for record in graded]
    most = max((record.out_of for record in graded), default=0)
    return _render(
        "summary.html",
        title=facts["title"],
        variant=facts["variant"],
        records=found,
        graded=graded,
        refused=[record for record in found if record.status != GRADED],
        complete=sum(record.complete for record in graded),
        out_of=most,
        mean=f"{statistics.fmean(totals):.1f}" if totals else "",
        median=f"{statistics.median(totals):.1f}" if totals else "",
        lowest=min(totals, default=0),
        highest=max(totals, default=0),
        totals=_totals(totals, most) if totals else None,
        questions=_questions(graded) if graded else None,
        mistakes=_mistakes(graded) if graded else None,
        remarks=[record for record in found if record.notes],
    )


def _totals(totals: Sequence[float], out_of: int) -> dict[str, Any]:
    """Return the bars of the points of all submissions, in groups of equally many whole points."""
    size = -(-(out_of + 1) // _BINS)
    starts = range(0, out_of + 1, size)
    counts = Counter(min(int(total), out_of) // size * size for total in totals)
    labels = [f"{start}" if size == 1 else f"{start}–{min(start + size - 1, out_of)}" for start in starts]
    width, base, top = 620 / len(starts), 170, max(counts.values())
    bars = [
        {
            "x": round(10 + k * width + 2, 1),
            "y": round(base - 140 * counts[start] / top, 1),
            "width": round(width - 4, 1),
            "height": round(140 * counts[start] / top, 1),
            "middle": round(10 + (k + 0.5) * width, 1),
            "count": counts[start],
            "label": label,
        }
        for k, (start, label) in enumerate(zip(starts, labels, strict=True))
    ]
    often = max(zip(starts, labels, strict=True), key=lambda group: counts[group[0]])
    return {
        "bars": bars,
        "base": base,
        "height": base + 46,
        "text": f"{len(totals)} submissions; most, {counts[often[0]]}, have {often[1]} of {out_of} points.",
        "rows": [(bar["label"], bar["count"]) for bar in bars],
    }


def _questions(graded: Sequence[Record]) -> dict[str, Any]:
    """Return for each question the shares of all, some and no points, and of what is still to be marked."""
    marks: dict[str, list[QuestionMark]] = {}
    for record in graded:
        for mark in record.questions:
            marks.setdefault(mark.id, []).append(mark)
    bars, rows, solved = [], [], []
    for k, group in enumerate(marks.values()):
        known = [mark.points for mark in group if mark.points is not None]
        full = sum(mark.points == mark.out_of for mark in group)
        none = sum(value == 0 for value in known)
        counts = {"full": full, "part": len(known) - full - none, "none": none, "open": len(group) - len(known)}
        parts, x = [], 0.0
        for kind, count in counts.items():
            width = 640 * count / len(group)
            if count:
                parts.append({"kind": kind, "x": round(x, 1), "width": round(width, 1)})
            x += width
        label = f"{number(group[0])}. {group[0].title}"
        all_points = f"{full} of {len(known)}" if known else "not yet marked"
        bars.append({"y": 24 + 52 * k, "label": label, "parts": parts, "counts": all_points})
        mean = f"{statistics.fmean(known):.1f} of {group[0].out_of}" if known else "–"
        rows.append((label, *counts.values(), mean))
        if len(known) == len(group):
            solved.append((full, f"{label}: {all_points}"))
    text = f"Fewest have all points of {min(solved)[1]}." if solved else "No question is marked for everybody yet."
    return {"bars": bars, "height": 52 * len(bars) + 4, "text": text, "rows": rows}


def _mistakes(graded: Sequence[Record]) -> dict[str, Any]:
    """Return how many submissions made which mistake, the most common first."""
    counts = Counter(
        (number(mark), mark.hint or _UNEXPLAINED[mark.status])
        for record in graded
        for mark in record.questions
        if mark.status in _UNEXPLAINED
    )
    common = sorted(counts.items(), key=lambda item: (-item[1], int(item[0][0]), item[0][1]))[:MOST_MISTAKES]
    bars, y = [], 0
    for (question, hint), count in common:
        lines = textwrap.wrap(f"Question {question}: {hint}", 88, max_lines=3, placeholder=" ...")
        y += 17 * len(lines) + 10
        bars.append({"lines": lines, "y": y, "count": count, "width": round(580 * count / common[0][1], 1)})
        y += 22
    text = ""
    if common:
        (question, hint), count = common[0]
        text = f"The most common one, of question {question}, in {count} of {len(graded)} submissions: {hint}"
    rows = [(f"Question {question}: {hint}", count) for (question, hint), count in common]
    return {"bars": bars, "height": y, "text": text, "rows": rows}
