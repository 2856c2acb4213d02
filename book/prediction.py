"""Sphinx extension: a question that the reader answers before seeing the result.

In a Markdown cell or page::

    ```{prediction} Which of the two falls when p grows?
    - [ ] The mean
      : E[y] = x for every p.
    - [x] The probability of being kept
      : It is 1 - p.
    ```

The question may hold Markdown; what stands between it and the first choice is shown below it. Each of the two to six
choices is one line `- [ ] ...`, the right one `- [x] ...`, and is followed by its explanation, which starts with a
colon, is indented by two spaces and may go on over several paragraphs. A sign for right or wrong and the choice itself
are put before each explanation.

The HTML page has radio buttons, and style sheets show the explanation of the one chosen: no script, no kernel. Without
style sheets, all explanations stand in a closed <details>. Every other format gets the question, the list of choices
and the list of explanations as ordinary paragraphs and lists.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from html import escape
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.transforms.post_transforms import SphinxPostTransform
from sphinx.util.docutils import SphinxDirective
from sphinx.util.typing import ExtensionMetadata

MOST_CHOICES = 6
_CHOICE = re.compile(r"- \[(?P<mark>[ xX])\] +(?P<text>.*\S)\s*")
_EXPLANATION = re.compile(r"  : ?(?P<text>.*)")


@dataclass
class Choice:
    """One answer to choose from."""

    text: str
    right: bool
    explanation: list[str] = field(default_factory=list)


def parse_choices(lines: list[str]) -> tuple[list[str], list[Choice]]:
    """Return the lines before the first choice, and the choices.

    Raises
    ------
    ValueError
        If the syntax is not the one of the module's docstring; the message says what to mend.
    """
    introduction: list[str] = []
    choices: list[Choice] = []
    for line in lines:
        if match := _CHOICE.fullmatch(line):
            choices.append(Choice(match["text"], match["mark"] != " "))
        elif not choices:
            introduction.append(line)
        elif match := _EXPLANATION.fullmatch(line):
            choices[-1].explanation.append(match["text"])
        elif choices[-1].explanation and (not line.strip() or line.startswith("  ")):
            choices[-1].explanation.append(line[2:].removeprefix("  "))
        elif line.strip():
            raise ValueError(f"cannot read the line {line!r}; a choice is '- [ ] text', its explanation '  : text'")
    if not 2 <= len(choices) <= MOST_CHOICES:
        raise ValueError(f"has {len(choices)} choices; give 2 to {MOST_CHOICES}, each as '- [ ] text'")
    if (right := sum(choice.right for choice in choices)) != 1:
        raise ValueError(f"marks {right} choices as right; mark exactly one with [x]")
    for choice in choices:
        if not any(line.strip() for line in choice.explanation):
            raise ValueError(f"the choice {choice.text!r} has no explanation; add a line '  : because ...' below it")
    return introduction, choices


class PredictionDirective(SphinxDirective):
    """The question and its choices, as a container of ordinary nodes."""

    required_arguments = 1
    final_argument_whitespace = True
    has_content = True

    def run(self) -> list[nodes.Node]:
        try:
            introduction, choices = parse_choices(list(self.content))
        except ValueError as error:
            raise self.error(f"prediction: {error}") from error
        prediction = nodes.container(classes=["prediction"], is_prediction=True)
        self.set_source_info(prediction)
        name = f"prediction-{self.env.new_serialno('prediction') + 1}"
        prediction["name"] = name
        question = nodes.paragraph("", "", *self._inline(self.arguments[0]), classes=["prediction-question"])
        answers = nodes.bullet_list(classes=["prediction-choices"])
        explanations = nodes.bullet_list(classes=["prediction-explanations"])
        for choice in choices:
            text = self._inline(choice.text)
            answers += nodes.list_item("", nodes.paragraph("", "", *text))
            lead = nodes.paragraph("", "✓ " if choice.right else "✗ ")
            lead += [_copy(node) for node in text]
            explanation = nodes.list_item("", lead, classes=["answer", "right" if choice.right else "wrong"])
            explanation += self.parse_text_to_nodes("\n".join(choice.explanation))
            explanations += explanation
        prediction += [question, *self.parse_text_to_nodes("\n".join(introduction)), answers]
        prediction += [nodes.paragraph("", "Answers", classes=["prediction-answers"]), explanations]
        return [prediction]

    def _inline(self, markdown: str) -> list[nodes.Node]:
        parsed = self.parse_text_to_nodes(markdown)
        if len(parsed) != 1 or not isinstance(parsed[0], nodes.paragraph):
            raise self.error(f"prediction: the question and each choice is one line of text, got {markdown!r}")
        return parsed[0].children


class PredictionForm(SphinxPostTransform):
    """Turn the ordinary nodes of a prediction into a group of radio buttons, for HTML only."""

    default_priority = 200
    formats = ("html",)

    def run(self, **kwargs: Any) -> None:
        for prediction in list(self.document.findall(nodes.container)):
            if not prediction.get("is_prediction"):
                continue
            question, *introduction, choices, _, explanations = prediction.children
            form: list[nodes.Node] = [_raw("<fieldset><legend>"), _inline(question), _raw("</legend>"), *introduction]
            form.append(_raw('<div class="prediction-choices">'))
            for number, choice in enumerate(choices.children, start=1):
                name = escape(prediction["name"])
                form.append(_raw(f'<label><input type="radio" name="{name}" value="{number}">'))
                form += [_inline(choice.children[0]), _raw("</label>")]
            form.append(_raw('</div><div class="prediction-answers" aria-live="polite"><details>'))
            form += [_raw("<summary>Show all answers</summary>"), explanations, _raw("</details></div></fieldset>")]
            prediction.children = []
            prediction += form


def _raw(html: str) -> nodes.raw:
    return nodes.raw("", html, format="html")


def _inline(paragraph: nodes.Node) -> nodes.inline:
    return nodes.inline("", "", *paragraph.children)


def _copy(node: nodes.Node) -> nodes.Node:
    copy = node.deepcopy()
    for element in copy.findall(nodes.Element):
        element["ids"] = []
    return copy


def setup(app: Sphinx) -> ExtensionMetadata:
    app.add_directive("prediction", PredictionDirective)
    app.add_post_transform(PredictionForm)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
