"""Class variants: the same assignment with other numbers, another data split and other names of functions.

A variant is a word, such as "2026-autumn". Everything that differs is derived from it by SHA-256, so the same word
gives the same assignment for ever, on every machine. It is not secret: it stands in the notebooks that students get.
"""

from __future__ import annotations

import copy
import hashlib
import io
import json
import re
import tokenize
from collections.abc import Mapping
from itertools import pairwise

from grading.source import Assignment, AssignmentError

_HIDDEN_CALL = re.compile(r'(?m)^(hidden\("[\w.-]+", \w+)\)$')
_INLINE = re.compile(r"`[^`\n]+`")
_WORD = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


def make(assignment: Assignment, variant: str) -> Assignment:
    """Return an assignment for a class; with an empty variant the source as it is.

    Raises
    ------
    AssignmentError
        If the variant is no word.
    """
    if not variant:
        return assignment
    if not _WORD.fullmatch(variant):
        raise AssignmentError(f"a variant is a word of letters, digits, '.', '-' and '_', got {variant!r}")
    made = Assignment(assignment.name, copy.deepcopy(assignment.notebook))
    renamed = {old: _pick(assignment, variant, old, new) for old, new in assignment.other_names.items()}
    for cell in made.notebook.cells:
        if cell.cell_type == "code":
            cell.source = _HIDDEN_CALL.sub(rf'\1, variant="{variant}")', _renamed_code(cell.source, renamed))
            cell.outputs, cell.execution_count = [], None
        else:
            cell.source = _INLINE.sub(lambda match: _renamed_text(match[0], renamed), cell.source)
    numbers = made.numbers_cell
    for name, value in _numbers(assignment, variant).items():
        numbers.source = re.sub(rf"(?m)^{name} = .*$", f"{name} = {value!r}", numbers.source)
    facts = made.notebook.metadata["assignment"]
    facts["functions"] = {renamed[old]: names for old, names in facts["functions"].items()}
    facts["variant"] = variant
    return made


def _renamed_code(source: str, names: Mapping[str, str]) -> str:
    """Rename what is a name in code; attributes, strings and comments stay."""
    lines = source.splitlines(keepends=True)
    tokens = list(tokenize.generate_tokens(io.StringIO(source).readline))
    for before, token in reversed(list(pairwise(tokens))):
        if token.type == tokenize.NAME and token.string in names and before.string != ".":
            row, (start, end) = token.start[0] - 1, (token.start[1], token.end[1])
            lines[row] = lines[row][:start] + names[token.string] + lines[row][end:]
    return "".join(lines)


def _renamed_text(text: str, names: Mapping[str, str]) -> str:
    return re.sub(r"\w+", lambda match: names.get(match[0], match[0]), text)


def _numbers(assignment: Assignment, variant: str) -> dict[str, float]:
    return {
        name: _draw(assignment, variant, name, limits, assignment.numbers[name])
        for name, limits in assignment.ranges.items()
    }


def _draw(
    assignment: Assignment, variant: str, name: str, limits: tuple[float, float, float], standard: float
) -> float:
    """Return a number of the grid that is not the source's."""
    low, high, step = limits
    count = round((high - low) / step) + 1
    digits = max(0, -_exponent(step))
    start = _digest(assignment.name, variant, name) % count
    for k in range(count):
        value = round(low + (start + k) % count * step, digits)
        value = int(value) if isinstance(step, int) else value
        if value != standard:
            return value
    raise assignment.error(f"has one value only for {name}")


def _exponent(step: float) -> int:
    """Return the power of ten of a step's last digit: -2 for 0.05, 0 for 1."""
    _, _, fraction = f"{step:.10f}".rstrip("0").partition(".")
    return -len(fraction)


def _pick(assignment: Assignment, variant: str, old: str, new: tuple[str, ...]) -> str:
    return new[_digest(assignment.name, variant, old) % len(new)]


def _digest(*parts: str) -> int:
    return int.from_bytes(hashlib.sha256(json.dumps(["variant", *parts]).encode()).digest()[:8], "big")
