"""CSV files that spreadsheets open: what students chose never becomes a formula, and what comes back can be read."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

MOST_BYTES = 50_000_000
# Spreadsheets take a cell that begins with one of these for a formula, the wide forms included.
_FORMULA = re.compile("[\\s']*[=+\\-@\N{FULLWIDTH EQUALS SIGN}\N{FULLWIDTH PLUS SIGN}\N{FULLWIDTH HYPHEN-MINUS}"
                      "\N{FULLWIDTH COMMERCIAL AT}]|[\t\r\n]")  # fmt: skip


class SheetError(ValueError):
    """A CSV file that cannot be read; the message says why."""


@dataclass(frozen=True)
class Table:
    """A header, and rows as long as it."""

    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]

    def dictionaries(self) -> list[dict[str, str]]:
        """Return the rows by the names of their columns."""
        return [dict(zip(self.header, row, strict=True)) for row in self.rows]


def safe(text: str) -> str:
    """Return a cell that no spreadsheet takes for a formula: with an apostrophe before it if it looks like one."""
    return f"'{text}" if _formula(text) else text


def plain(cell: str) -> str:
    """Return what `safe` was given."""
    return cell[1:] if cell.startswith("'") and _formula(cell[1:]) else cell


def _formula(text: str) -> bool:
    # A dash alone, as Moodle writes it for "never", is text everywhere.
    return text != "-" and bool(_FORMULA.match(text))


def dumps(header: Sequence[str], rows: Iterable[Sequence[str | float | None]], mark: bool = True) -> bytes:
    """Return a CSV file in UTF-8, with a mark that tells Excel so; numbers stay numbers, None is an empty cell."""
    text = io.StringIO()
    writer = csv.writer(text)
    for row in (header, *rows):
        writer.writerow([safe(cell) if isinstance(cell, str) else cell for cell in row])
    return text.getvalue().encode("utf-8-sig" if mark else "utf-8")


def read(path: Path) -> Table:
    """Read a CSV file, whichever of comma, semicolon and tab a spreadsheet has put between its cells.

    Raises
    ------
    SheetError
        If it cannot be read, is empty, or has a column twice.
    """
    try:
        with path.open("rb") as file:
            data = file.read(MOST_BYTES + 1)
    except OSError as error:
        raise SheetError(f"{path} cannot be read: {error.strerror}") from None
    if len(data) > MOST_BYTES:
        raise SheetError(f"{path} has more than {MOST_BYTES // 1_000_000} MB")
    return loads(data, str(path))


def loads(data: bytes, name: str) -> Table:
    """Return the table of a CSV file's bytes; errors as in `read`."""
    text = _decoded(data)
    first = text.partition("\n")[0]
    delimiter = max(",;\t", key=lambda mark: (first.count(mark), mark == ","))
    try:
        rows = [row for row in csv.reader(io.StringIO(text, newline=""), delimiter=delimiter) if any(row)]
    except csv.Error as error:
        raise SheetError(f"{name} is no CSV file: {error}") from None
    if not rows:
        raise SheetError(f"{name} is empty")
    header = tuple(plain(cell) for cell in rows[0])
    if len({cell.casefold() for cell in header if cell}) != len([cell for cell in header if cell]):
        raise SheetError(f"{name} has two columns of the same name")
    width = len(header)
    cells = (tuple(plain(cell) for cell in [*row, *[""] * width][:width]) for row in rows[1:])
    return Table(header, tuple(cells))


def _decoded(data: bytes) -> str:
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        return data.decode("utf-16", "replace")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        # What Excel writes on Windows unless it is asked for UTF-8.
        return data.decode("cp1252", "replace")
