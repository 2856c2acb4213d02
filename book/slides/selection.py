"""What of a chapter becomes a slide, and what its notes.

A slide shows one thing: the title, the objectives, a prediction, a theorem, a figure, a table, a displayed formula, a
list or an exercise. After a prediction comes the first cell that prints something, with its code, unless one of the
others comes first. A section that has none of all these shows its last cell that prints; one without even that shows
its first paragraph. A formula, a list, and a result without its code take the paragraph right before them along. All
else (the other paragraphs, proofs, printed results, solutions) is in the notes of the slide before it, or of the
section's first slide if it stands before.

What is long goes on on a further slide: lists, tables and printed results. A table that would need many is for readers
and stays in the notes. Of code that is too long with its result the result is shown alone; of a long listing, the
beginning. The whole code is in the notes then.

A code cell's metadata may decide otherwise: `slide: true` shows the cell and what it prints, `slide: false` leaves its
figure or table to the notes. References and the receipt are left out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from bs4 import BeautifulSoup
from docutils import nodes

from book.colab.builder import is_code_cell

# What one slide holds: characters of a list or table, where each row counts for some more; lines of code and results.
MOST_CHARACTERS = 700
ROW = 30
MOST_LINES = 18
# A table on more slides than this is for readers.
MOST_PARTS = 4
_LEFT_OUT = {"References"}
# These say little without the paragraph right before them.
_LED = {"formula", "list", "result"}


@dataclass
class Slide:
    """One slide: what the audience sees, and what the speaker has beside it."""

    kind: str
    title: Sequence[nodes.Node]
    body: list[nodes.Node] = field(default_factory=list)
    notes: list[nodes.Node] = field(default_factory=list)
    source: nodes.Element = field(default_factory=nodes.inline)


def slides(document: nodes.document, number: Callable[[str, nodes.Element], str]) -> list[Slide]:
    """Return the slides of a chapter, in order.

    `number` tells the number of an element of a kind, or nothing if it has none.
    """
    chapter = next(child for child in document.children if isinstance(child, nodes.section))
    title, *rest = chapter.children
    made = [Slide("title", title.children)]
    elements, sections = _split(rest)
    for element in elements:
        if isinstance(element, nodes.Element) and isinstance(element, nodes.Admonition):
            made += _admonition(element)
        elif not is_code_cell(element):
            made[-1].notes.append(element)
    for section in sections:
        made += _section(section)
    for slide in made:
        if slide.kind == "exercise":
            slide.title = [nodes.Text(f"Exercise {number('exercise', slide.source)}".strip())]
    return made


def _split(elements: Iterable[nodes.Node]) -> tuple[list[nodes.Node], list[nodes.section]]:
    """Return what stands before the first section, and the sections."""
    found = list(elements)
    return (
        [node for node in found if not isinstance(node, nodes.section)],
        [node for node in found if isinstance(node, nodes.section)],
    )


def _section(section: nodes.section) -> Iterator[Slide]:
    title, *content = section.children
    if title.astext() in _LEFT_OUT:
        return
    elements, sections = _split(content)
    instead = None if any(list(_shown(element, title)) for element in elements) else _fallback(elements)
    made: list[Slide] = []
    before: list[nodes.Node] = []
    previous: nodes.Node | None = None
    for element in elements:
        notes = made[-1].notes if made else before
        shown = list(_shown(element, title))
        if isinstance(element, nodes.paragraph) and element is instead:
            shown = [Slide("text", title.children, [element])]
        elif element is instead or (not shown and made and made[-1].kind == "prediction" and _prints(element)):
            shown = list(_code(element, title))
        if shown and shown[0].kind in _LED and isinstance(previous, nodes.paragraph):
            shown[0].body.insert(0, notes.pop())
        if shown:
            made += shown
        else:
            notes += _as_notes(element)
        previous = element
    if made:
        made[0].notes[:0] = before
    yield from made
    for part in sections:
        yield from _section(part)


def _fallback(elements: list[nodes.Node]) -> nodes.Node | None:
    """Return what a section shows that has nothing else to show."""
    printing = [element for element in elements if _prints(element)]
    return next(iter([*reversed(printing), *(node for node in elements if isinstance(node, nodes.paragraph))]), None)


def _shown(element: nodes.Node, title: nodes.Node) -> Iterator[Slide]:
    """Yield the slides that an element makes; none if it is for the notes."""
    if not isinstance(element, nodes.Element):
        return
    kind = type(element).__name__
    if is_code_cell(element):
        yield from _cell(element, title)
    elif element.get("is_prediction"):
        yield Slide("prediction", title.children, [element])
    elif "proof" in element.get("classes", []) and "realtype" in element:
        yield Slide("theorem", title.children, [element])
    elif kind in ("exercise_node", "exercise_enumerable_node"):
        yield _exercise(element)
    elif isinstance(element, nodes.figure):
        yield Slide("figure", title.children, [element])
    elif isinstance(element, nodes.table):
        yield from _table(element, title)
    elif isinstance(element, nodes.math_block):
        yield Slide("formula", title.children, [element])
    elif isinstance(element, nodes.bullet_list | nodes.enumerated_list):
        yield from _list(element, title)
    elif isinstance(element, nodes.Admonition) and {"important", "tip"} & set(element["classes"]):
        yield from _admonition(element)
    elif element.get("design_component") == "tab-set":
        yield from _tabs(element, title)


def _cell(cell: nodes.Element, title: nodes.Node) -> Iterator[Slide]:
    metadata: dict[str, object] = cell.get("cell_metadata", {})
    wanted = metadata.get("slide")
    if wanted:
        yield from _code(cell, title)
    elif wanted is None:
        figures: list[nodes.Node] = [*cell.findall(nodes.figure)] or list(cell.findall(nodes.image))
        if figures:
            yield Slide("figure", title.children, figures)
        for table in cell.findall(nodes.raw):
            if "<table" in table.astext():
                yield from _html_table(table, title)


def _code(cell: nodes.Node, title: nodes.Node) -> Iterator[Slide]:
    """Yield a cell with what it prints; without its code where both are too long."""
    assert isinstance(cell, nodes.Element)
    source, *outputs = cell.children
    lines = [text for output in outputs for text in output.astext().splitlines()]
    if len(source.astext().splitlines()) + len(lines) <= MOST_LINES:
        yield Slide("code", title.children, [cell])
        return
    slides = []
    for group in _groups([1] * len(lines), MOST_LINES):
        text = "\n".join(lines[k] for k in group)
        slides.append(nodes.literal_block(text, text, language="none", classes=["output"]))
    for number, block in enumerate(slides):
        yield Slide("result", _title(title, number), [block], [] if number else [source])


def _groups(sizes: list[int], most: int) -> list[list[int]]:
    """Return the positions of what has these sizes in groups of about one size, each hardly more than the most."""
    total, before = sum(sizes), 0
    groups: list[list[int]] = [[] for _ in range(-(-total // most))]
    for position, size in enumerate(sizes):
        middle = before + size / 2
        groups[int(middle / total * len(groups))].append(position)
        before += size
    return [group for group in groups if group]


def _title(title: nodes.Node, number: int) -> Sequence[nodes.Node]:
    return [*title.children, nodes.Text(" (continued)")] if number else title.children


def _table(table: nodes.Element, title: nodes.Node) -> Iterator[Slide]:
    """Yield a table, on several slides where it is long."""
    rows = next(table.findall(nodes.tbody)).children
    for number, group in enumerate(_groups([ROW + len(row.astext()) for row in rows], MOST_CHARACTERS)):
        part = table.deepcopy()
        part.parent = table.parent
        body = next(part.findall(nodes.tbody))
        body.children = [body.children[k] for k in group]
        yield Slide("table", _title(title, number), [part])


def _html_table(table: nodes.Element, title: nodes.Node) -> Iterator[Slide]:
    """Yield a table that a cell has drawn, on several slides where it is long."""
    sizes = [ROW + len(row.get_text()) for row in BeautifulSoup(table.astext(), "html.parser").select("tr:has(td)")]
    groups = _groups(sizes, MOST_CHARACTERS)
    for number, group in enumerate(groups if len(groups) <= MOST_PARTS else []):
        soup = BeautifulSoup(table.astext(), "html.parser")
        for k, row in enumerate(soup.select("tr:has(td)")):
            if k not in group:
                row.decompose()
        yield Slide("table", _title(title, number), [nodes.raw("", str(soup), format="html")])


def _exercise(node: nodes.Element) -> Slide:
    title, content = node.children
    text = [child for child in content.children if not is_code_cell(child)]
    return Slide("exercise", title.children, text, source=node)


def _admonition(node: nodes.Element) -> Iterator[Slide]:
    """Yield an admonition's lists under its title; its other text is for the notes."""
    title, *rest = node.children
    shown = [child for child in rest if isinstance(child, nodes.bullet_list | nodes.enumerated_list)]
    notes = [child for child in rest if child not in shown]
    kind = "remember" if "important" in node["classes"] else "objectives"
    for number, element in enumerate(shown):
        for slide in _list(element, title):
            slide.kind = kind
            slide.notes += notes if not number else []
            yield slide
            notes = []


def _list(element: nodes.Element, title: nodes.Node) -> Iterator[Slide]:
    """Yield a list, on several slides where it is long."""
    for number, group in enumerate(_groups([len(item.astext()) for item in element.children], MOST_CHARACTERS)):
        part = element.deepcopy()
        part.parent = element.parent
        part.children = [part.children[k] for k in group]
        if isinstance(element, nodes.enumerated_list):
            part["start"] = element.get("start", 1) + group[0]
        yield Slide("list", _title(title, number), [part])


def _tabs(element: nodes.Element, title: nodes.Node) -> Iterator[Slide]:
    """Yield a slide for each tab."""
    labels = [node for node in element.children if type(node).__name__ == "sd_tab_label"]
    contents = [node for node in element.children if isinstance(node, nodes.container)]
    for label, content in zip(labels, contents, strict=True):
        name: Sequence[nodes.Node] = [*title.children, nodes.Text(": "), *label.children]
        if len(content.astext().splitlines()) <= MOST_LINES:
            yield Slide("code", name, content.children)
        else:
            listing = next(content.findall(nodes.literal_block))
            yield Slide("code", name, [_beginning(listing)], content.children)


def _beginning(listing: nodes.Element) -> nodes.Element:
    """Return the parts of a listing that fit on a slide; two empty lines separate parts."""
    first, *rest = listing.astext().split("\n\n\n")
    for part in rest:
        if len(f"{first}\n\n\n{part}".splitlines()) > MOST_LINES + 4:
            break
        first = f"{first}\n\n\n{part}"
    return nodes.literal_block(first, first, language=listing.get("language", "python"))


def _as_notes(element: nodes.Node) -> list[nodes.Node]:
    """Return what a speaker has of an element that is not shown: text as it is, of code what it prints."""
    if is_code_cell(element):
        return list(_outputs(element))
    return [element]


def _prints(element: nodes.Node) -> bool:
    """Return whether an element is a cell that prints text."""
    return is_code_cell(element) and any(list(output.findall(nodes.literal_block)) for output in _outputs(element))


def _outputs(cell: nodes.Element) -> Iterator[nodes.Element]:
    for node in cell.findall(nodes.container):
        if node.get("nb_element") == "cell_code_output":
            yield node
