"""The ledger's file: what is valid, and that each fault is named with its row and its mend."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from book.ledger import Claim, LedgerError, load, read

ROOT = Path(__file__).resolve().parents[2]
ROW: dict[str, Any] = {
    "id": "scale-one-over-p",
    "statement": "Kept activations are scaled by $1/p$.",
    "verdict": False,
    "said_by": "some posts",
    "chapter": "scale",
    "tests": ["tests/test_scale.py::test_one"],
}


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "chapters").mkdir()
    (tmp_path / "chapters" / "scale.ipynb").touch()
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests" / "test_scale.py").touch()
    return tmp_path


def write(project: Path, *rows: Any) -> Path:
    path = project / "claims.yml"
    path.write_text(yaml.safe_dump(list(rows)), encoding="utf-8")
    return path


def test_the_projects_own_ledger_is_valid() -> None:
    load(ROOT / "claims.yml")


def test_a_row_becomes_a_claim(project: Path) -> None:
    (claim,) = load(write(project, ROW))
    assert claim == Claim(
        id="scale-one-over-p",
        statement="Kept activations are scaled by $1/p$.",
        verdict="false",
        said_by=("some posts",),
        chapter="scale",
        tests=("tests/test_scale.py::test_one",),
    )
    assert claim.docname == "chapters/scale"


@pytest.mark.parametrize(
    ("written", "verdict"), [("true", "true"), ("false", "false"), ("conditional", "conditional"), ("'true'", "true")]
)
def test_verdicts_may_be_bare_yaml_words(project: Path, written: str, verdict: str) -> None:
    path = project / "claims.yml"
    rows = yaml.safe_dump([{key: value for key, value in ROW.items() if key != "verdict"}])
    path.write_text(f"{rows}  verdict: {written}\n", encoding="utf-8")
    assert load(path)[0].verdict == verdict


def test_an_empty_ledger_is_valid(project: Path) -> None:
    assert load(write(project)) == ()


@pytest.mark.parametrize("key", list(ROW))
def test_a_missing_key_is_named(project: Path, key: str) -> None:
    row = {name: value for name, value in ROW.items() if name != key}
    with pytest.raises(LedgerError, match=f"row 1.*has no {key}; add it"):
        load(write(project, row))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tests": []}, "has no tests; add it"),
        ({"id": "Scale one"}, "id must be small letters"),
        ({"verdict": "maybe"}, "verdict must be one of true, conditional, false, got 'maybe'"),
        ({"chapter": "other"}, "chapter 'other' is no file"),
        ({"chapter": 3}, "chapter must be text, got 3"),
        ({"tests": "tests/test_scale.py"}, "must be a node id"),
        ({"tests": "tests/test_scale.py::test_one[0]"}, "without parameters"),
        ({"tests": "tests/test_other.py::test_one"}, "is in no file tests/test_other.py"),
        ({"tests": [1]}, "tests must be text or a list of texts"),
        ({"author": "me"}, "unknown key 'author'"),
    ],
)
def test_a_fault_names_the_row_and_the_mend(project: Path, change: dict[str, Any], message: str) -> None:
    with pytest.raises(LedgerError, match=rf"^claims.yml, row 1 \(.*\): .*{message}"):
        load(write(project, ROW | change))


@pytest.mark.parametrize("row", ["text", None, ["id"]])
def test_a_row_that_is_no_mapping(project: Path, row: Any) -> None:
    with pytest.raises(LedgerError, match="row 1: must be a mapping"):
        load(write(project, row))


def test_two_rows_with_one_id(project: Path) -> None:
    with pytest.raises(LedgerError, match=r"row 2 \(scale-one-over-p\): another row has the same id"):
        load(write(project, ROW, ROW))


@pytest.mark.parametrize(
    ("text", "message"), [("a: [", "not valid YAML"), ("a: 1", "must be a list"), ("", "must be a list")]
)
def test_a_file_that_is_no_list(project: Path, text: str, message: str) -> None:
    (project / "claims.yml").write_text(text, encoding="utf-8")
    with pytest.raises(LedgerError, match=message):
        load(project / "claims.yml")


def test_no_file(project: Path) -> None:
    with pytest.raises(LedgerError, match="not found"):
        load(project / "claims.yml")


def test_valid_rows_are_read_beside_faulty_ones(project: Path) -> None:
    claims, problems = read(write(project, {"id": "broken"}, ROW))
    assert [claim.id for claim in claims] == ["scale-one-over-p"]
    assert all("row 1 (broken)" in problem for problem in problems)
    assert len(problems) == 5
