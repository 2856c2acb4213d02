"""Turns the resolved nodes of a document into plain Markdown.

Only what GitHub, JupyterLab and Colab all show alike is used: CommonMark, tables, dollar maths, and the HTML element
`details`. A formula takes one line, because inside a quotation Jupyter would read the quotation's marks as maths. No
link leads into the notebook itself, where Colab has no anchors: it leads to the page of the book, or there is none.
"""

from __future__ import annotations

import base64
import html
import mimetypes
import re
from collections.abc import Callable, Iterable
from pathlib import Path

from docutils import nodes
from sphinx import addnodes
from sphinx.util import logging

_LOGGER = logging.getLogger(__name__)

_SPECIAL = re.compile(r"[\\`*]|~~|(?<!\w)_|_(?!\w)")
_ENTITY = re.compile(r"&(?=#?\w+;)")
_BLOCK_START = re.compile(r"^(\d+)(?=[.)](\s|$))|^(?=[#+=>-])")
_NUMBERED_ENVIRONMENT = re.compile(r"\\(begin|end)\{(align|gather)\*?\}")
_PLAIN_ENVIRONMENT = re.compile(r"\\(begin|end)\{(equation|multline)\*?\}")
_COMMENT = re.compile(r"(?<!\\)%.*")
_NOTHING = (
    nodes.comment,
    nodes.target,
    nodes.substitution_definition,
    nodes.colspec,
    nodes.pending,
    nodes.system_message,
    nodes.meta,
)
# Elements that only group others.
_GROUPS = (nodes.container, nodes.compound, nodes.section, nodes.figure, nodes.topic, nodes.sidebar, addnodes.glossary)
_PAIRS: dict[type[nodes.Node], tuple[str, str]] = {
    nodes.emphasis: ("*", "*"),
    nodes.strong: ("**", "**"),
    nodes.title_reference: ("*", "*"),
    nodes.subscript: ("<sub>", "</sub>"),
    nodes.superscript: ("<sup>", "</sup>"),
    nodes.inline: ("", ""),
    nodes.generated: ("", ""),
    nodes.abbreviation: ("", ""),
}


class Markdown:
    """Writer for the nodes of one document.

    Parameters
    ----------
    address
        Returns the address that a reference leads to; empty if there is none.
    number
        Returns the number of a node of a kind (figure, exercise, theorem, ...); empty if it has none.
    folder
        Where image files are found.
    """

    def __init__(
        self,
        address: Callable[[nodes.Element], str],
        number: Callable[[str, nodes.Element], str],
        folder: Path,
    ) -> None:
        self._address = address
        self._number = number
        self._folder = folder
        self._in_table = False

    # --- blocks

    def blocks(self, elements: Iterable[nodes.Node]) -> str:
        """Return block elements, with an empty line between them."""
        return "\n\n".join(text for element in elements if (text := self.block(element)))

    def block(self, node: nodes.Node) -> str:
        """Return one block element."""
        if isinstance(node, _NOTHING) or not isinstance(node, nodes.Element):
            return ""
        if "proof" in node.get("classes", []) and "realtype" in node:
            return self._theorem(node)
        for kind in type(node).__mro__:
            if method := getattr(self, f"_block_{kind.__name__}", None):
                text: str = method(node)
                return text
        if isinstance(node, nodes.Inline | nodes.TextElement):
            return self.inline([node])
        if not isinstance(node, _GROUPS):
            _warn(node)
        return self.blocks(node.children)

    def _block_paragraph(self, node: nodes.Element) -> str:
        return _BLOCK_START.sub(r"\1\\", self.inline(node.children).strip())

    def _block_rubric(self, node: nodes.Element) -> str:
        return f"**{self.inline(node.children).strip()}**"

    _block_PassthroughTextElement = _block_rubric  # the title of a card

    def _block_caption(self, node: nodes.Element) -> str:
        number = self._number("figure", node.parent) if node.parent else ""
        return f"**Fig. {number}.** {self.inline(node.children)}" if number else self.inline(node.children)

    def _block_transition(self, node: nodes.Element) -> str:
        return "" if "footnotes" in node["classes"] else "---"

    def _block_raw(self, node: nodes.Element) -> str:
        if "html" not in node.get("format", "").split():
            return ""
        if "task-list-item-checkbox" in node.astext():
            return "[x]" if "checked" in node.astext() else "[ ]"
        return node.astext()

    def _block_literal_block(self, node: nodes.Element) -> str:
        code = node.astext().rstrip("\n")
        fence = "`" * max(3, 1 + _longest_run(code, "`"))
        language = node.get("language", "").replace("default", "")
        return f"{fence}{language}\n{code}\n{fence}"

    _block_doctest_block = _block_literal_block

    def _block_math_block(self, node: nodes.Element) -> str:
        formula = _formula(node.astext())
        number = node.get("number")
        # True and False are numbers to isinstance; an unnumbered formula has one of them.
        if type(number) is int and not node.get("nowrap"):
            formula += rf" \tag{{{number}}}"
        return f"$$ {formula} $$"

    def _block_block_quote(self, node: nodes.Element) -> str:
        return quoted(self.blocks(node.children))

    def _block_attribution(self, node: nodes.Element) -> str:
        return f"— {self.inline(node.children)}"

    def _block_line_block(self, node: nodes.Element) -> str:
        return "<br>".join(self.inline(line.children) for line in node.findall(nodes.line))

    def _block_bullet_list(self, node: nodes.Element) -> str:
        return self._items(("-" for _ in node.children), node)

    def _block_enumerated_list(self, node: nodes.Element) -> str:
        start = node.get("start", 1)
        return self._items((f"{start + k}." for k in range(len(node.children))), node)

    def _items(self, marks: Iterable[str], node: nodes.Element) -> str:
        items = [_item(mark, self._parts(item)) for mark, item in zip(marks, node.children, strict=True)]
        return ("\n\n" if any("\n\n" in item for item in items) else "\n").join(items)

    def _parts(self, item: nodes.Node) -> str:
        """Return an item's blocks; a list directly follows the text that it belongs to."""
        text = ""
        for child in item.children:
            if part := self.block(child):
                gap = "\n" if isinstance(child, nodes.bullet_list | nodes.enumerated_list) else "\n\n"
                text += (gap if text else "") + part
        return text

    def _block_definition_list(self, node: nodes.Element) -> str:
        items = []
        for entry in node.findall(nodes.definition_list_item):
            terms = ", ".join(self.inline(term.children).strip() for term in entry.findall(nodes.term))
            definition = next(entry.findall(nodes.definition))
            items.append(_item("-", f"**{terms}**: {self.blocks(definition.children)}"))
        return "\n".join(items)

    def _block_field_list(self, node: nodes.Element) -> str:
        fields = [(field.children[0], field.children[1]) for field in node.findall(nodes.field)]
        return "\n".join(_item("-", f"**{name.astext()}**: {self.blocks(body.children)}") for name, body in fields)

    def _block_table(self, node: nodes.Element) -> str:
        rows = [[self._entry(entry) for entry in row.findall(nodes.entry)] for row in node.findall(nodes.row)]
        if not any(True for _ in node.findall(nodes.thead)):
            rows.insert(0, [""] * len(rows[0]))
        first = next(node.findall(nodes.row))
        rows.insert(1, [_alignment(entry) for entry in first.findall(nodes.entry)])
        lines = ["| " + " | ".join(row) + " |" for row in rows]
        title = [f"**{self.inline(title.children)}**" for title in node.findall(nodes.title)]
        return "\n\n".join([*title, "\n".join(lines)])

    def _entry(self, entry: nodes.Element) -> str:
        if "morecols" in entry or "morerows" in entry:
            _LOGGER.warning("a cell over several columns or rows has no Markdown", location=entry, type="colab")
        self._in_table = True
        text = "<br>".join(self.block(child).replace("\n", "<br>") for child in entry.children)
        self._in_table = False
        return re.sub(r"(?<!\\)\|", r"\\|", text)

    def _block_image(self, node: nodes.Element) -> str:
        path = self._folder / node["uri"]
        kind = mimetypes.guess_type(path.name)[0] or "image/png"
        data = base64.b64encode(path.read_bytes()).decode()
        return f"![{node.get('alt', '')}](data:{kind};base64,{data})"

    def _block_Admonition(self, node: nodes.Element) -> str:
        children = list(node.children)
        if children and isinstance(children[0], nodes.title):
            title = self.inline(children.pop(0).children).strip()
        else:
            title = type(node).__name__.replace("seealso", "see also").capitalize()
        if "dropdown" in node["classes"]:
            return folded(title, self.blocks(children))
        return quoted(f"**{title}**\n\n{self.blocks(children)}")

    def _block_footnote(self, node: nodes.Element) -> str:
        label, *rest = node.children
        return f"<sup>{label.astext()}</sup> {self.blocks(rest)}"

    def _block_citation(self, node: nodes.Element) -> str:
        return _item("-", self.blocks(node.children[1:]))

    # --- elements of the book's extensions

    def _block_container(self, node: nodes.Element) -> str:
        if node.get("is_prediction"):
            return self._prediction(node)
        if node.get("design_component") == "dropdown":
            title, *rest = node.children
            return folded(self.inline(title.children), self.blocks(rest))
        return self.blocks(node.children)

    def _prediction(self, node: nodes.Element) -> str:
        question, *introduction, choices, _, explanations = node.children
        return "\n\n".join(
            [
                quoted(
                    "\n\n".join(
                        [
                            f"**Predict before you read on.** {self.inline(question.children)}",
                            *filter(None, [self.blocks(introduction)]),
                            self.block(choices),
                        ]
                    )
                ),
                folded("Answers", self.block(explanations)),
            ]
        )

    def _theorem(self, node: nodes.Element) -> str:
        """Theorems, definitions, remarks and so on: numbered, with a title in brackets or none."""
        title, content = node.children
        kind = str(node["realtype"]).capitalize()
        name = f"{kind} {self._number(node.get('countertype', ''), node)}".strip()
        return quoted(lead(f"**{name}{self.inline(title.children).rstrip()}.**", self.blocks(content.children)))

    def _block_proof_node(self, node: nodes.Element) -> str:
        [content] = node.children
        proof = self.blocks(content.children)
        # The directive has put the word before the first sentence.
        return quoted(re.sub(r"^Proof\.", "*Proof.*", proof) + " ∎")

    # --- inline elements

    def inline(self, elements: Iterable[nodes.Node]) -> str:
        """Return text with its inline markup, in one line."""
        text = "".join(map(self._inline, elements))
        # A mark stays in the line of what it marks.
        return re.sub(r" (?=<sup>)", "\N{NO-BREAK SPACE}", text)

    def _inline(self, node: nodes.Node) -> str:
        if isinstance(node, nodes.Text):
            return _escaped(node.astext())
        if isinstance(node, _NOTHING) or not isinstance(node, nodes.Element):
            return ""
        if isinstance(node, nodes.math):
            return f"${self._table_safe(_formula(node.astext())).strip()}$"
        if isinstance(node, nodes.literal):
            return _code(node.astext())
        if isinstance(node, nodes.image):
            return self._block_image(node)
        if isinstance(node, nodes.raw):
            return self._block_raw(node)
        if isinstance(node, nodes.footnote_reference):
            return f"<sup>{node.astext()}</sup>"
        if isinstance(node, nodes.reference | addnodes.number_reference):
            return link(self.inline(node.children).strip(), self._address(node))
        if "bibtex-citation" in node.get("classes", []):
            # Square brackets around a link look like Markdown gone wrong.
            return "".join(_round(child) if isinstance(child, nodes.Text) else self._inline(child) for child in node)
        if "claim-mark" in node.get("classes", []):
            return f"<sup>{self.inline(node.children)}</sup>"
        if isinstance(node, addnodes.index) or type(node).__name__ == "sd_icon":
            return ""
        for kind, (before, after) in _PAIRS.items():
            if isinstance(node, kind):
                return _wrapped(self.inline(node.children), before, after)
        if not isinstance(node, addnodes.download_reference):
            _warn(node)
        return self.inline(node.children)

    def _table_safe(self, formula: str) -> str:
        """A bar in a table's formula would end the cell."""
        if not self._in_table:
            return formula
        return formula.replace(r"\|", r"\Vert ").replace("|", r"\vert ")


def folded(title: str, content: str) -> str:
    """Return a block that the reader opens by its title."""
    return f"<details>\n<summary>{_as_html(title)}</summary>\n\n{content}\n\n</details>"


def quoted(content: str) -> str:
    """Return a quotation, which stands for a box."""
    return "\n".join(f"> {line}".rstrip() for line in content.splitlines())


def lead(title: str, content: str) -> str:
    """Put a title at the beginning of the first paragraph, or above a first block that is none."""
    gap = "\n\n" if re.match(r"[>|$`<-]|\d+\. ", content) else " "
    return f"{title}{gap}{content}".rstrip()


def link(text: str, address: str) -> str:
    """Return a link, or the text if there is no address."""
    if not address:
        return text
    return f"[{text}]({address.replace(' ', '%20').replace('(', '%28').replace(')', '%29')})"


def _formula(tex: str) -> str:
    """Return a formula in one line, for KaTeX as well as MathJax, and safe from HTML."""
    tex = " ".join(_COMMENT.sub("", tex).split())
    tex = _NUMBERED_ENVIRONMENT.sub(r"\\\1{\2ed}", tex)
    tex = _PLAIN_ENVIRONMENT.sub("", tex).strip()
    return re.sub(r"\s*<\s*", r" \\lt ", re.sub(r"\s*>\s*", r" \\gt ", tex)).strip()


def _escaped(text: str) -> str:
    text = text.replace("\n", " ")
    text = _ENTITY.sub("&amp;", _SPECIAL.sub(lambda match: "".join(f"\\{c}" for c in match[0]), text))
    # JupyterLab takes two escaped dollar signs for maths.
    return text.replace("<", "&lt;").replace("$", "<span>&#36;</span>")


def _round(text: nodes.Text) -> str:
    return _escaped(text.astext().replace("[", "(").replace("]", ")"))


def _code(text: str) -> str:
    fence = "`" * (1 + _longest_run(text, "`"))
    pad = " " if text.startswith("`") or text.endswith("`") else ""
    return f"{fence}{pad}{' '.join(text.split())}{pad}{fence}"


def _longest_run(text: str, character: str) -> int:
    return max((len(run) for run in re.findall(f"{re.escape(character)}+", text)), default=0)


def _wrapped(text: str, before: str, after: str) -> str:
    """Put marks around a text, and spaces at its ends outside of them."""
    core = text.strip()
    if not core:
        return text
    start = text.index(core)
    return f"{text[:start]}{before}{core}{after}{text[start + len(core) :]}"


def _item(mark: str, content: str) -> str:
    indent = " " * (len(mark) + 1)
    first, *rest = content.splitlines() or [""]
    return "\n".join([f"{mark} {first}", *((indent + line).rstrip() for line in rest)])


def _alignment(entry: nodes.Element) -> str:
    marks = {"text-left": ":---", "text-center": ":---:", "text-right": "---:"}
    return next((marks[name] for name in entry["classes"] if name in marks), "---")


def _as_html(markdown: str) -> str:
    """Return a title for a place where Markdown is not read: code in its element, without other marks."""
    parts = re.split(r"`+([^`]+)`+", markdown)
    return "".join(
        f"<code>{html.escape(part, quote=False)}</code>" if k % 2 else re.sub(r"\*+|\\(?=[^\w])", "", part)
        for k, part in enumerate(parts)
    )


def _warn(node: nodes.Element) -> None:
    _LOGGER.warning("no Markdown for the element %r", type(node).__name__, location=node, type="colab")
