"""The claims ledger: its rows, and what a valid `claims.yml` looks like (see the head of that file)."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

VERDICTS = ("true", "conditional", "false")
_REQUIRED = ("id", "statement", "verdict", "said_by", "chapter", "tests")
_OPTIONAL = ("correction",)
# The same language read by libyaml, ten times faster, where PyYAML has it.
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_ID = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")
_TEST = re.compile(r"(?P<file>tests/\S+\.py)::\w+(::\w+)*")


@dataclass(frozen=True)
class Claim:
    """One row of the ledger."""

    id: str
    statement: str
    verdict: str
    said_by: tuple[str, ...]
    chapter: str
    tests: tuple[str, ...]
    correction: str = ""

    @property
    def docname(self) -> str:
        """Name of the chapter's document in the book."""
        return f"chapters/{self.chapter}"


class LedgerError(ValueError):
    """Everything that is wrong with a ledger, one line a fault, each with its mend."""


def load(path: Path) -> tuple[Claim, ...]:
    """Return the rows of a ledger.

    Raises
    ------
    LedgerError
        If a row is not valid; the message names each row and the mend.
    """
    claims, problems = read(path)
    if problems:
        raise LedgerError("\n".join(problems))
    return claims


def read(path: Path) -> tuple[tuple[Claim, ...], list[str]]:
    """Return the valid rows of a ledger, and a line for each thing that is wrong with the others."""
    try:
        rows = yaml.load(path.read_text(encoding="utf-8"), _LOADER)
    except FileNotFoundError:
        return (), [f"{path.name}: not found in {path.parent}; start it with an empty list, []"]
    except yaml.YAMLError as error:
        return (), [f"{path.name}: not valid YAML: {' '.join(str(error).split())}"]
    if not isinstance(rows, list):
        return (), [f"{path.name}: must be a list of rows (an empty one is []), got {type(rows).__name__}"]
    claims: dict[str, Claim] = {}
    problems = []
    for number, row in enumerate(rows, start=1):
        name = f"{path.name}, row {number}"
        if isinstance(row, dict) and row.get("id"):
            name += f" ({row['id']})"
        faults = _faults(row, path.parent)
        if not faults and row["id"] in claims:
            faults = ["another row has the same id; give one of them a new id"]
        problems += [f"{name}: {fault}" for fault in faults]
        if not faults:
            claim = _claim(row)
            claims[claim.id] = claim
    return tuple(claims.values()), problems


def _faults(row: Any, root: Path) -> list[str]:
    if not isinstance(row, dict):
        return [f"must be a mapping with the keys {', '.join(_REQUIRED)}, got {row!r}"]
    faults = [f"has no {key}; add it" for key in _REQUIRED if row.get(key) in (None, "", [])]
    unknown = sorted(str(key) for key in row if key not in (*_REQUIRED, *_OPTIONAL))
    faults += [f"has an unknown key {key!r}; known are {', '.join((*_REQUIRED, *_OPTIONAL))}" for key in unknown]
    if faults:
        return faults
    for key in ("id", "statement", "chapter", *(_OPTIONAL if row.get("correction") else ())):
        if not isinstance(row[key], str):
            faults.append(f"{key} must be text, got {row[key]!r}; put it in quotes")
    for key in ("said_by", "tests"):
        if not all(isinstance(entry, str) and entry for entry in _entries(row[key])):
            faults.append(f"{key} must be text or a list of texts, got {row[key]!r}")
    if faults:
        return faults
    if not _ID.fullmatch(row["id"]):
        faults.append(f"id must be small letters and digits joined by hyphens, got {row['id']!r}")
    if _verdict(row["verdict"]) not in VERDICTS:
        faults.append(f"verdict must be one of {', '.join(VERDICTS)}, got {row['verdict']!r}")
    if not any((root / "chapters" / f"{row['chapter']}{suffix}").is_file() for suffix in (".ipynb", ".md")):
        faults.append(
            f"chapter {row['chapter']!r} is no file chapters/{row['chapter']}.ipynb; name one without its suffix"
        )
    for test in _entries(row["tests"]):
        match = _TEST.fullmatch(test)
        if match is None:
            faults.append(f"test {test!r} must be a node id without parameters, as in tests/test_x.py::test_y")
        elif not (root / match["file"]).is_file():
            faults.append(f"test {test!r} is in no file {match['file']}; name an existing one")
    return faults


def _claim(row: dict[str, Any]) -> Claim:
    return Claim(
        id=row["id"],
        statement=row["statement"].strip(),
        verdict=_verdict(row["verdict"]),
        said_by=_entries(row["said_by"]),
        chapter=row["chapter"],
        tests=_entries(row["tests"]),
        correction=(row.get("correction") or "").strip(),
    )


def _entries(value: Any) -> tuple[Any, ...]:
    return tuple(value) if isinstance(value, list) else (value,)


def _verdict(value: Any) -> str:
    # YAML reads the bare words true and false as booleans.
    return str(value).lower()
