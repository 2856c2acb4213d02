"""Minutes and timetables: computed from the chapters, and the same as the chapters say of themselves."""

from __future__ import annotations

import re
from io import StringIO
from pathlib import Path

import nbformat
import pytest
from bs4 import BeautifulSoup
from sphinx.testing.util import SphinxTestApp

from book import syllabus
from book.notebooks import ROOT, chapters
from grading import source

CHAPTERS = chapters()
TEXT = """# Why?

Because.

:::{{admonition}} What you will be able to do
:class: tip
- say $p$;
- do it.

About {stated} minutes. You need a little NumPy, and {{doc}}`inference`.
:::
"""
EXERCISE = "```{exercise-start}\n```\n**The scale** (building, hard, 15 minutes). Write it."


def chapter(folder: Path, words: int, stated: int = 20, exercise: str = EXERCISE) -> Path:
    """Write a chapter whose prose, code and printed results have so many words beside those of its first cell."""
    first = TEXT.format(stated=stated)
    code = nbformat.v4.new_code_cell("a = b + 1")
    code.outputs = [nbformat.v4.new_output("stream", text="one two\n")]
    prose = nbformat.v4.new_markdown_cell("word " * (words - 5))
    end = nbformat.v4.new_markdown_cell(f"## Exercises\n\n{exercise}")
    solution = nbformat.v4.new_code_cell("solution = 1\n" * 500)
    cells = [nbformat.v4.new_markdown_cell(first), code, prose, end, solution]
    path = folder / "why.ipynb"
    nbformat.write(nbformat.v4.new_notebook(cells=cells), path)
    return path


@pytest.mark.parametrize("path", CHAPTERS, ids=lambda path: path.stem)
def test_a_chapter_states_the_minutes_that_are_computed(path: Path) -> None:
    made = syllabus.read(path)
    nearest = 5 * round(made.minutes / 5)
    assert made.stated == nearest, (
        f"{path.name} says 'About {made.stated} minutes'; reading takes {made.reading} and its exercises "
        f"{made.exercising}, so write 'About {nearest} minutes'"
    )


@pytest.mark.parametrize("path", CHAPTERS, ids=lambda path: path.stem)
def test_every_exercise_is_counted(path: Path) -> None:
    made = syllabus.read(path)
    cells = nbformat.read(path, as_version=4).cells
    assert len(made.exercises) == sum(cell.source.count("{exercise-start}") for cell in cells)
    assert len(made.objectives) >= 3


def test_minutes_are_those_of_words_and_exercises(tmp_path: Path) -> None:
    first = syllabus.read(chapter(tmp_path, 5)).words - 5
    for minutes in (1, 7, 40):
        made = syllabus.read(chapter(tmp_path, minutes * syllabus.WORDS_A_MINUTE - first))
        assert made.words == minutes * syllabus.WORDS_A_MINUTE
        assert (made.reading, made.exercising, made.minutes) == (minutes, 15, minutes + 15)
    assert made.objectives == ("say $p$", "do it")
    assert made.needs == "You need a little NumPy, and {doc}`/chapters/inference`."
    assert (made.name, made.title, made.stated) == ("why", "Why?", 20)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("# Why?", "Why?", "needs a title and a box"),
        ("About 20 minutes", "Soon", "needs a title and a box"),
        ("What you will be able to do", "Aims", "needs a title and a box"),
        ("15 minutes", "long", "has no exercise with"),
    ],
)
def test_a_chapter_that_lacks_something_is_refused(tmp_path: Path, old: str, new: str, message: str) -> None:
    path = chapter(tmp_path, 100)
    path.write_text(path.read_text(encoding="utf-8").replace(old, new), encoding="utf-8")
    with pytest.raises(ValueError, match=message):
        syllabus.read(path)


@pytest.mark.parametrize("name", source.names())
def test_an_assignments_minutes_are_those_of_its_questions(name: str) -> None:
    assert syllabus.assignment_minutes(source.FOLDER / f"{name}.ipynb") == source.load(name).minutes


# --- the page


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("Monday: why; why reading", ""),
        ("Monday: what", "'what' is neither"),
        ("Monday: why slowly", "'why slowly' is neither"),
        ("Monday: assignment nothing", "'assignment nothing' is neither"),
        ("Monday", "a line is 'when: what; what'"),
    ],
)
def test_a_timetable_names_chapters_and_assignments_that_exist(tmp_path: Path, line: str, message: str) -> None:
    for name, text in {
        "conf.py": "",
        "_toc.yml": "root: index\nchapters:\n- file: chapters/why",
        "index.md": f"# Book\n\n```{{toctree}}\nchapters/why\n```\n\n```{{timetable}}\n{line}\n```\n",
    }.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    (tmp_path / "chapters").mkdir()
    made = syllabus.read(chapter(tmp_path / "chapters", 1750))
    warnings = StringIO()
    settings = {"extensions": ["myst_nb", "book.syllabus"], "nb_execution_mode": "off"}
    app = SphinxTestApp("html", tmp_path, warning=warnings, confoverrides=settings)
    app.build()
    app.cleanup()
    assert (message in warnings.getvalue()) if message else ("timetable:" not in warnings.getvalue())
    if not message:
        assert f"<p>{made.minutes + made.reading}</p>" in (Path(app.outdir) / "index.html").read_text(encoding="utf-8")


def test_the_guide_shows_the_minutes_of_each_chapter_and_line(built: Path) -> None:
    page = BeautifulSoup((built / "appendix" / "instructors.html").read_text(encoding="utf-8"), "html.parser")
    made = {path.stem: syllabus.read(path) for path in CHAPTERS}
    first, *timetables, _assignments, _where, _tricks = page.select("article table")
    rows = [[cell.get_text(" ", strip=True) for cell in row.select("td")] for row in first.select("tbody tr")]
    wanted = [[str(c.reading), f"{c.exercising} ({len(c.exercises)})", str(c.minutes)] for c in made.values()]
    assert [row[1:] for row in rows[:-1]] == wanted
    assert int(rows[-1][3]) == sum(c.minutes for c in made.values())
    assert len(timetables) == 3
    named: set[str] = set()
    for row in [row for table in timetables for row in table.select("tbody tr")]:
        _, what, minutes = (cell.get_text(" ", strip=True) for cell in row.select("td"))
        total = 0
        for part in what.split(";"):
            word, _, rest = part.strip().replace(" ,", ",").partition(" ")
            if word == "assignment":
                total += source.load(rest).minutes
                named.add(rest)
                continue
            found = made[word.rstrip(",")]
            total += {"": found.minutes, "reading": found.reading, "exercises": found.exercising}[rest]
            named.add(found.name)
        assert int(minutes) == total, what
    assert named >= {*made, *source.names()}


def test_all_chapters_are_in_the_timetable_of_three_weeks() -> None:
    text = (ROOT / "appendix" / "instructors.md").read_text(encoding="utf-8")
    weeks = text.partition("### Three weeks")[2].partition("## Slides")[0]
    for path in CHAPTERS:
        assert re.search(rf"Week \d, \w+: {path.stem}$", weeks, re.MULTILINE), path.stem
