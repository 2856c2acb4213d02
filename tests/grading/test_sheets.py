"""Cells that students chose are text in every spreadsheet, and tables come back."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from grading import sheets
from grading.sheets import SheetError

FORMULAS = ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", " =1", "'=1", "''=1", "＝1", "＋1", "－1", "＠x", "\n=1"]  # noqa: RUF001


@pytest.mark.parametrize("text", FORMULAS)
def test_a_formula_becomes_text(text: str) -> None:
    assert sheets.safe(text)[0] == "'"
    assert sheets.plain(sheets.safe(text)) == text


@pytest.mark.parametrize("text", ["", "alice", "O'Neil", "'quoted'", "1", "a=b", "(-1)", "-"])
def test_other_text_stays(text: str) -> None:
    assert sheets.safe(text) == text
    assert sheets.plain(text) == text


CELLS = st.text(st.characters(exclude_categories=["Cs", "Cc"]) | st.sampled_from("=+-@'\t\n\",;"), max_size=12)


@given(st.lists(CELLS, min_size=3, max_size=3))
@example(["'=x", "''", "' ="])
def test_cells_come_back(row: list[str]) -> None:
    data = sheets.dumps(["a", "b", "c"], [row])
    assert data.startswith(b"\xef\xbb\xbf")
    if any(row):
        assert sheets.loads(data, "x.csv").rows == (tuple(row),)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "cp1252"])
@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_what_spreadsheets_write_is_read(tmp_path: Path, encoding: str, delimiter: str) -> None:
    path = tmp_path / "a.csv"
    path.write_text(
        delimiter.join(("name", "x")) + "\r\n" + delimiter.join(('"Zoë\nA"', "1")) + "\n\n", encoding=encoding
    )
    table = sheets.read(path)
    assert table.header == ("name", "x")
    assert table.dictionaries() == [{"name": "Zoë\nA", "x": "1"}]


def test_rows_are_as_long_as_the_header(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("a,b\n1\n1,2,3\n")
    assert sheets.read(path).rows == (("1", ""), ("1", "2"))


def test_what_is_no_table_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.csv"
    for text, message in {"": "is empty", "a,A\n": "two columns of the same name"}.items():
        path.write_text(text)
        with pytest.raises(SheetError, match=message):
            sheets.read(path)
    path.write_text("a\n" + "x" * 200_000)
    with pytest.raises(SheetError, match="is no CSV file"):
        sheets.read(path)
    monkeypatch.setattr(sheets, "MOST_BYTES", 1000)
    with pytest.raises(SheetError, match="has more than"):
        sheets.read(path)
    with pytest.raises(SheetError, match="cannot be read: No such file"):
        sheets.read(tmp_path / "absent")
