"""Reports hold every mark, show no hidden input, and stay text whatever students have called themselves."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from bs4 import BeautifulSoup
from playwright.sync_api import Page, sync_playwright

from grading import records, reports, source, variant
from grading.records import Record
from grading.reports import OutError
from tests.book.building import chromium
from tests.grading import class_of
from tests.grading.class_of import HOSTILE, INPUT, NAME


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("reports") / "out"
    class_of.make(folder)
    return folder


@pytest.fixture(scope="module")
def found(out: Path) -> list[Record]:
    return records.load_all(out / records.FOLDER)


@pytest.fixture
def browser_page() -> Iterator[Page]:
    with sync_playwright() as playwright:
        browser = chromium(playwright)
        yield browser.new_page()
        browser.close()


def rows(out: Path) -> dict[str, dict[str, str]]:
    text = (out / reports.GRADES).read_text(encoding="utf-8-sig")
    return {row["student"]: row for row in csv.DictReader(io.StringIO(text, newline=""))}


def page(path: Path) -> BeautifulSoup:
    return BeautifulSoup(path.read_text(encoding="utf-8"), "html.parser")


# --- grades.csv


def test_every_student_has_a_row(out: Path) -> None:
    table = rows(out)
    assert len(table) == len(class_of.CLASS)
    alice = table["alice"]
    assert (alice["points"], alice["out of"], alice["complete"], alice["status"]) == ("19", "25", "no", "graded")
    assert [alice[f"{NAME}.{k}"] for k in range(1, 8)] == ["3", "4", "3", "", "5", "4", ""]
    assert alice["late minutes"] == "2"
    assert table["Bob O'Neil, Jr."][f"{NAME}.4"] == "0"
    assert table["Zoë Ærø\nnewline"]["points"] == "16"
    assert all((out / row["feedback"]).is_file() for row in table.values())
    assert len({row["feedback"] for row in table.values()}) == len(table)


def test_no_cell_is_a_formula(out: Path) -> None:
    text = (out / reports.GRADES).read_text(encoding="utf-8-sig")
    cells = [cell for row in csv.reader(io.StringIO(text, newline="")) for cell in row]
    assert not [cell for cell in cells if cell[:1] in tuple("=+-@\t\r")]
    assert '\'=HYPERLINK("http://x";"y")' in cells


# --- Gradescope's JSON

RESULT_KEYS = {"score", "output", "visibility", "stdout_visibility", "tests"}
TEST_KEYS = {"score", "max_score", "name", "number", "output", "visibility"}


def test_results_have_gradescopes_form(out: Path, found: list[Record]) -> None:
    for record in found:
        results = json.loads((out / reports.RESULTS / f"{record.slug}.json").read_text())
        assert set(results) <= RESULT_KEYS
        assert results["visibility"] == "visible"
        assert results["stdout_visibility"] == "hidden"
        known = [mark for mark in record.questions if mark.points is not None]
        assert sum(test["score"] for test in results["tests"]) == record.points
        for test, mark in zip(results["tests"], known, strict=True):
            assert set(test) == TEST_KEYS
            assert (test["score"], test["max_score"], test["name"]) == (mark.points, mark.out_of, mark.title)
            assert mark.hint in test["output"]


def test_a_record_without_any_mark_has_a_total(found: list[Record]) -> None:
    by_hand = tuple(mark for mark in found[0].questions if mark.points is None)
    assert by_hand
    results = reports.results(dataclasses.replace(found[0], questions=by_hand))
    assert (results["score"], results["tests"]) == (0, [])
    assert results["output"].endswith("Still to be read by a person: question 4, 7.")


# --- nothing hidden


def test_no_report_for_students_tells_an_input_or_what_an_answer_said(out: Path, found: list[Record]) -> None:
    assert any(INPUT in mark.detail for record in found for mark in record.questions)
    for folder in (reports.FEEDBACK, reports.RESULTS):
        for path in (out / folder).iterdir():
            text = path.read_text()
            for secret in ("911", "0.123456", "expected 2", "0.25", "cdcd"):
                assert secret not in text
    summary = (out / reports.SUMMARY).read_text()
    assert "911" not in summary


def test_every_string_of_a_record_that_a_student_does_not_choose_to_show_stays_out(found: list[Record]) -> None:
    """Each field in turn is filled with a mark, and looked for."""
    shown, facts = set[str](), {"title": "t", "variant": "", "assignment": NAME}
    record = found[0]
    mark = dataclasses.replace(record.questions[0], status="wrong", points=0)
    for item in (record, mark):
        for field in dataclasses.fields(item):
            if isinstance(getattr(item, field.name), str) and field.name not in ("status", "id"):
                changed: Any = dataclasses.replace(item, **{field.name: "MARKED"})
                made = dataclasses.replace(record, questions=(changed,)) if item is mark else changed
                if "MARKED" in reports.feedback(facts, made):
                    shown.add(field.name)
                assert ("MARKED" in json.dumps(reports.results(made))) <= (field.name in shown)
    assert shown == {"student", "comment", "printed", "title", "hint"}


# --- pages


def test_student_text_is_text(out: Path, found: list[Record]) -> None:
    for record in found:
        path = out / reports.FEEDBACK / f"{record.slug}.html"
        made = page(path)
        assert record.student.split() == made.find("bdi").get_text().split()  # type: ignore[union-attr]
        assert not made.find_all(["script", "img", "iframe", "link", "object", "form", "a"])
        assert not [tag for tag in made.find_all(True) for name in tag.attrs if name.startswith("on")]
        assert "http" not in path.read_text().replace("http-equiv", "").replace("http://x", "")
        assert "default-src 'none'" in str(made.find("meta", attrs={"http-equiv": True}))
    hostile = page(out / reports.FEEDBACK / f"{records.slug(HOSTILE)}.html")
    assert hostile.find("pre").get_text() == HOSTILE  # type: ignore[union-attr]
    assert not page(out / reports.SUMMARY).find_all("script")


def test_a_page_tells_what_a_student_needs(out: Path) -> None:
    text = page(
        out / reports.FEEDBACK / f"{records.slug(next(n for n in class_of.CLASS if 'Bob' in n))}.html"
    ).get_text(" ")
    words = " ".join(text.split())
    assert "7 of 25 points so far; question 7 is still to be read by a person" in words
    assert "3. Two moments, by hand It is not right for other inputs" in words
    assert f"Hint: Hint of {NAME}.3 & <b>that</b>." in words
    assert "was stopped 0 of 5" in words
    assert "raised an error 0 of 4" in words


def test_rubric_lines_are_shown_once_they_are_marked(found: list[Record]) -> None:
    facts = {"title": "t", "variant": "", "assignment": NAME}
    record = next(record for record in found if record.student == "alice")
    assert "reason" not in reports.feedback(facts, record)
    mark = record.questions[3]
    lines = tuple(dataclasses.replace(line, points=0.5, comment="<i>Nearly") for line in mark.lines)
    marked = dataclasses.replace(mark, points=2.0, lines=lines)
    text = reports.feedback(facts, dataclasses.replace(record, questions=(marked,), comment="Well & done"))
    words = " ".join(BeautifulSoup(text, "html.parser").get_text(" ").split())
    assert "2 of 4 points" in words
    assert words.count("0.5 of 1 <i>Nearly") == 4
    assert "Well & done" in words
    assert "0.5 of 1: " in json.dumps(reports.results(dataclasses.replace(record, questions=(marked,))))


def test_the_summary_counts_right(out: Path, found: list[Record]) -> None:
    made = page(out / reports.SUMMARY)
    tables = {str(t.find_previous("summary").get_text()): t for t in made.select("details table")}  # type: ignore[union-attr]
    counts = [int(row.find("td").get_text()) for row in tables["Points, as a table"].select("tbody tr")]  # type: ignore[union-attr]
    assert sum(counts) == len(found)
    for row, questions in zip(
        tables["Questions, as a table"].select("tbody tr"), zip(*[r.questions for r in found], strict=True), strict=True
    ):
        full, some, none, waiting = (int(cell.get_text()) for cell in row.select("td")[:4])
        points = [mark.points for mark in questions]
        assert waiting == points.count(None)
        assert none == points.count(0)
        assert full == sum(mark.points == mark.out_of for mark in questions)
        assert some == len(found) - full - none - waiting
    marked = {q[0].title for q in zip(*[r.questions for r in found], strict=True) if None not in {m.points for m in q}}
    hardest = re.search(r"Fewest have all points of \d+\. ([^:]+): (\d+) of (\d+)", made.get_text())
    assert hardest
    assert hardest[1] in marked
    mistakes = [
        [cell.get_text() for cell in row.select("th, td")] for row in tables["Mistakes, as a table"].select("tr")
    ]
    assert [f"Question 1: Hint of {NAME}.1 & <b>that</b>.", "3"] in mistakes
    assert [int(row[1]) for row in mistakes[1:]] == sorted([int(row[1]) for row in mistakes[1:]], reverse=True)
    for svg in made.find_all("svg"):
        title, text = (made.find(id=name) for name in str(svg["aria-labelledby"]).split())
        assert svg["role"] == "img"
        assert title.get_text()  # type: ignore[union-attr]
        assert text.get_text().strip()  # type: ignore[union-attr]
        assert svg.parent.find("figcaption").get_text().strip()  # type: ignore[union-attr]
    assert f"Renamed: {HOSTILE}" in made.get_text()


def test_nobody_or_nothing_graded_is_no_error(tmp_path: Path) -> None:
    made = source.load(NAME)
    reports.open_out(tmp_path / "out", made)
    assert reports.write(tmp_path / "out") == []
    assert "0 students" in page(tmp_path / "out" / reports.SUMMARY).get_text()
    perfect = class_of.record(made, "bob", "ppppp", "", "")
    perfect = dataclasses.replace(perfect, questions=perfect.questions[:3])
    refused = dataclasses.replace(perfect, student="alice", status="refused", notes=("The file is empty.",))
    for record in (perfect, refused):
        records.save(record, tmp_path / "out" / records.FOLDER)
    reports.write(tmp_path / "out")
    assert rows(tmp_path / "out")["alice"]["notes"] == "The file is empty."
    feedback = page(tmp_path / "out" / reports.FEEDBACK / "alice.html").get_text()
    assert "The file is empty." in feedback
    assert "Your points" not in feedback
    summary = page(tmp_path / "out" / reports.SUMMARY).get_text()
    assert "1 submission is graded, 1 could not be" in summary
    assert "None: every check passed." in summary


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_pages_are_accessible(out: Path, scheme: Any, browser_page: Page) -> None:
    browser_page.emulate_media(color_scheme=scheme)
    feedback = out / reports.FEEDBACK / f"{records.slug(HOSTILE)}.html"
    for path in (out / reports.SUMMARY, feedback, next((out / reports.FEEDBACK).glob("bob*.html"))):
        asked: list[str] = []
        browser_page.on("request", lambda request, asked=asked: asked.append(request.url))
        browser_page.goto(path.as_uri())
        assert asked == [path.as_uri()]
        for width in (390, 1200):
            browser_page.set_viewport_size({"width": width, "height": 800})
            assert browser_page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        browser_page.evaluate("document.querySelectorAll('details').forEach(d => { d.open = true; })")
        violations = Axe().run(browser_page).response["violations"]
        assert [v["id"] for v in violations] == [], [node["html"] for v in violations for node in v["nodes"]]


# --- the folder


def test_the_same_records_give_the_same_bytes(out: Path, tmp_path: Path) -> None:
    class_of.make(tmp_path / "again")
    for path in out.rglob("*"):
        if path.is_file():
            assert (tmp_path / "again" / path.relative_to(out)).read_bytes() == path.read_bytes()


def test_reports_of_records_that_are_gone_are_removed(tmp_path: Path) -> None:
    out = tmp_path / "out"
    class_of.make(out)
    (out / "mine.txt").write_text("stays")
    (out / records.FOLDER / "alice.json").unlink()
    reports.write(out)
    assert not (out / reports.FEEDBACK / "alice.html").exists()
    assert not (out / reports.RESULTS / "alice.json").exists()
    assert "alice" not in rows(out)
    assert (out / "mine.txt").exists()


def test_only_its_own_folder_is_used(tmp_path: Path) -> None:
    made = source.load(NAME)
    foreign = tmp_path / "thesis"
    foreign.mkdir()
    reports.open_out(foreign, made)
    reports.open_out(foreign, made)
    other = variant.make(made, "2026-x")
    with pytest.raises(OutError, match="holds the results of 'two-dropouts', not of 'two-dropouts', variant '2026-x'"):
        reports.open_out(foreign, other)
    with pytest.raises(OutError, match="not of 'gradient-proof'"):
        reports.open_out(foreign, source.load("gradient-proof"))
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "thesis.txt").write_text("mine")
    for path in (mine, mine / "thesis.txt"):
        with pytest.raises(OutError, match="is no folder of results"):
            reports.open_out(path, made)
        with pytest.raises(OutError, match="is no folder of results"):
            reports.write(path)
    for text in ("", "[]", "{}", '{"assignment": 1, "variant": "", "title": ""}'):
        (mine / "grading.json").write_text(text)
        with pytest.raises(OutError, match="is no folder of results"):
            reports.manifest(mine)
    with pytest.raises(OutError, match="cannot be written"):
        reports.open_out(mine / "thesis.txt" / "out", made)
    assert {path.name for path in mine.iterdir()} == {"thesis.txt", "grading.json"}


def test_a_page_or_table_that_cannot_be_written_is_one_error(tmp_path: Path) -> None:
    out = tmp_path / "out"
    class_of.make(out)
    (out / reports.GRADES).unlink()
    (out / reports.GRADES).mkdir()
    with pytest.raises(OutError, match="cannot be written"):
        reports.write(out)
    assert not re.search(r"\.part", " ".join(path.name for path in out.rglob("*")))
