"""Sphinx extension: what each chapter asks of a reader, and timetables, read from the chapters themselves.

The directive `chapters` makes a table of the chapters of the book with their minutes, `objectives` says what each needs
and what its reader can do then. The directive `timetable` makes a table of such lines, with the minutes of each::

    ```{timetable}
    Before: inference reading
    In class: standard-vs-inverted reading; gradient-flow
    After: standard-vs-inverted exercises; assignment two-dropouts
    ```

A chapter's minutes are those of reading it and those that its exercises name. Everything before its exercises counts as
read, word by word: prose, the names and numbers of code and of formulas, and what is printed.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import nbformat
from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective
from sphinx.util.typing import ExtensionMetadata

from book.notebooks import chapters

# Most adults read English non-fiction silently at 175 to 300 words a minute (Brysbaert 2019); we take the slow end.
WORDS_A_MINUTE = 175
_WORD = re.compile(r"\w+(?:['’.-]\w+)*")
_UNSEEN = re.compile(r"\{claim\}`[^`]*`|^:\w+:.*$|\{[\w:-]+\}", re.MULTILINE)
_EXERCISE = re.compile(r"^\*\*.+?\*\* \(\w+, (?:easy|medium|hard), (?P<minutes>\d+) minutes\)", re.MULTILINE)
_BOX = re.compile(r":{3,}\{admonition\} What you will be able to do\n(?P<box>.*?)\n:{3,}", re.DOTALL)
_ABOUT = re.compile(r"^About (?P<minutes>\d+) minutes\. (?P<needs>You need .+)$", re.MULTILINE)
_QUESTION = re.compile(r"^\*\w+ · (?:easy|medium|hard) · (?P<minutes>\d+) minutes · \d+ points?\*$", re.MULTILINE)
_PARTS = ("reading", "exercises")


@dataclass(frozen=True)
class Chapter:
    """What a chapter gives and asks.

    Attributes
    ----------
    needs : str
        What the reader must know.
    stated : int
        The minutes that its first page names.
    words : int
        Words to read before the exercises.
    exercises : tuple of int
        The minutes that each exercise names.
    """

    name: str
    title: str
    objectives: tuple[str, ...]
    needs: str
    stated: int
    words: int
    exercises: tuple[int, ...]

    @property
    def reading(self) -> int:
        """Minutes to read all before the exercises."""
        return round(self.words / WORDS_A_MINUTE)

    @property
    def exercising(self) -> int:
        """Minutes of the exercises, as they name them."""
        return sum(self.exercises)

    @property
    def minutes(self) -> int:
        """Reading and exercises."""
        return self.reading + self.exercising


def read(path: Path) -> Chapter:
    """Read what a chapter gives and asks.

    Raises
    ------
    ValueError
        If its first cell has no title or no box with objectives, minutes and needs, or it has no exercise.
    """
    cells = nbformat.read(path, as_version=4).cells
    first = cells[0].source
    box = _BOX.search(first)
    about = _ABOUT.search(box["box"]) if box else None
    if not (first.startswith("# ") and box and about):
        raise ValueError(
            f"{path.name} needs a title and a box 'What you will be able to do' with 'About N minutes. You need ...'"
        )
    exercises = tuple(
        int(match["minutes"])
        for cell in cells
        if cell.cell_type == "markdown"
        for match in _EXERCISE.finditer(cell.source)
    )
    if not exercises:
        raise ValueError(f"{path.name} has no exercise with '**Title** (kind, easy|medium|hard, N minutes)'")
    return Chapter(
        name=path.stem,
        title=first.splitlines()[0].removeprefix("# "),
        objectives=tuple(re.findall(r"^- (.+?)[;.]$", box["box"], re.MULTILINE)),
        # The page that shows it is in another folder.
        needs=re.sub(r"\{doc\}`([\w-]+)`", r"{doc}`/chapters/\1`", about["needs"]),
        stated=int(about["minutes"]),
        words=sum(len(_WORD.findall(text)) for text in _read(cells)),
        exercises=exercises,
    )


def assignment_minutes(path: Path) -> int:
    """Return the minutes that the questions of an assignment name."""
    cells = nbformat.read(path, as_version=4).cells
    return sum(int(match["minutes"]) for cell in cells for match in _QUESTION.finditer(cell.source))


def _read(cells: list[nbformat.NotebookNode]) -> Iterator[str]:
    """Yield the texts of a chapter up to its exercises."""
    for cell in cells:
        text, end, _ = cell.source.partition("## Exercises\n")
        yield _UNSEEN.sub(" ", text) if cell.cell_type == "markdown" else text
        for output in cell.get("outputs", []):
            yield output.get("text", "")
        if end:
            return


class _Directive(SphinxDirective):
    def chapters(self) -> dict[str, Chapter]:
        """Return the chapters by name; the page is made anew when one changes."""
        # Sphinx drops this with the end of the page, which has several such directives.
        known: dict[str, Chapter] | None = self.env.temp_data.get(__name__)
        if known is None:
            paths = chapters(Path(self.env.srcdir))
            for path in paths:
                self.env.note_dependency(str(path))
            try:
                known = self.env.temp_data[__name__] = {path.stem: read(path) for path in paths}
            except ValueError as error:
                raise self.error(str(error)) from None
        return known


class ChaptersDirective(_Directive):
    """The chapters with their minutes."""

    def run(self) -> list[nodes.Node]:
        made = self.chapters().values()
        rows = [
            f"| {{doc}}`/chapters/{c.name}` | {c.reading} | {c.exercising} ({len(c.exercises)}) | {c.minutes} |"
            for c in made
        ]
        total = [sum(part) for part in zip(*((c.reading, c.exercising, c.minutes) for c in made), strict=True)]
        rows.append("| all | " + " | ".join(map(str, total)) + " |")
        table = ["| chapter | reading | exercises | minutes |", "|---|---:|---:|---:|", *rows]
        return self.parse_text_to_nodes("\n".join(table))


class ObjectivesDirective(_Directive):
    """What each chapter needs, and what its reader can do then."""

    def run(self) -> list[nodes.Node]:
        text = ""
        for chapter in self.chapters().values():
            text += f"**{_link(chapter.name)}.** {chapter.needs} Then you can\n\n"
            text += ";\n".join(f"- {objective}" for objective in chapter.objectives) + ".\n\n"
        return self.parse_text_to_nodes(text)


class TimetableDirective(_Directive):
    """Lines of `when: what; what`, with the minutes of each."""

    has_content = True

    def run(self) -> list[nodes.Node]:
        known = self.chapters()
        table = ["| when | what | minutes |", "|---|---|---:|"]
        for line in filter(str.strip, self.content):
            when, colon, rest = line.partition(": ")
            if not colon:
                raise self.error(f"timetable: a line is 'when: what; what', got {line!r}")
            parts = [self._part(part.strip(), known) for part in rest.split(";")]
            table.append(f"| {when} | {'; '.join(text for text, _ in parts)} | {sum(m for _, m in parts)} |")
        return self.parse_text_to_nodes("\n".join(table))

    def _part(self, part: str, known: dict[str, Chapter]) -> tuple[str, int]:
        first, _, second = part.partition(" ")
        if first == "assignment":
            path = Path(self.env.srcdir) / "assignments" / f"{second}.ipynb"
            if path.is_file():
                self.env.note_dependency(str(path))
                return f"assignment `{second}`", assignment_minutes(path)
        elif first in known and second in ("", *_PARTS):
            chapter = known[first]
            minutes = {"": chapter.minutes, "reading": chapter.reading, "exercises": chapter.exercising}[second]
            return f"{_link(first)}{second and f', {second}'}", minutes
        raise self.error(
            f"timetable: {part!r} is neither 'CHAPTER', 'CHAPTER reading', 'CHAPTER exercises' nor 'assignment NAME'"
        )


def _link(name: str) -> str:
    return f"{{doc}}`{name} </chapters/{name}>`"


def setup(app: Sphinx) -> ExtensionMetadata:
    app.add_directive("chapters", ChaptersDirective)
    app.add_directive("objectives", ObjectivesDirective)
    app.add_directive("timetable", TimetableDirective)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
