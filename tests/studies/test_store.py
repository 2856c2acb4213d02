"""The digest of a study's code, its stored form, and the progress bar."""

from __future__ import annotations

import json
import platform
import re
from pathlib import Path

import numpy as np
import pytest
from threadpoolctl import threadpool_info  # type: ignore[import-untyped]

from dropoutlib import stored
from studies.store import ROOT, STORED, code_digest, parallel, progress, save, versions

STUDY = '"""What it does."""\nfrom dropoutlib.base import f\n\n\ndef g():\n    """Call f."""\n    return f()\n'
BASE = "import numpy\n\n\ndef f():\n    return 1\n"


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    for folder in ("studies", "dropoutlib"):
        (tmp_path / folder).mkdir()
    (tmp_path / "studies" / "one.py").write_text(STUDY)
    (tmp_path / "dropoutlib" / "base.py").write_text(BASE)
    (tmp_path / "dropoutlib" / "other.py").write_text("a = 1\n")
    return tmp_path


@pytest.mark.parametrize(
    ("file", "old", "new", "same"),
    [
        ("studies/one.py", "return f()", "return 2 * f()", False),
        ("dropoutlib/base.py", "return 1", "return 2", False),
        ("dropoutlib/other.py", "a = 1", "a = 2", True),
        ("studies/one.py", "Call f.", "Call f once.", True),
        ("studies/one.py", "What it does", "Other words", True),
        ("studies/one.py", "def g", "# why\ndef g", True),
        ("studies/one.py", "\n\n\n", "\n\n", True),
    ],
)
def test_the_digest_changes_with_the_code_alone(tree: Path, file: str, old: str, new: str, same: bool) -> None:
    before, path = code_digest("studies.one", tree), tree / file
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))
    assert (code_digest("studies.one", tree) == before) is same


def test_what_imports_import_counts_too(tree: Path) -> None:
    (tree / "dropoutlib" / "base.py").write_text("from dropoutlib import other\n" + BASE)
    before = code_digest("studies.one", tree)
    (tree / "dropoutlib" / "other.py").write_text("a = 2\n")
    assert code_digest("studies.one", tree) != before


def test_another_study_counts_and_the_store_does_not(tree: Path) -> None:
    (tree / "studies" / "one.py").write_text("from studies.store import save\nfrom studies.two import h\n" + STUDY)
    for name in ("two", "store"):
        (tree / "studies" / f"{name}.py").write_text("a = 1\n")
    before = code_digest("studies.one", tree)
    (tree / "studies" / "store.py").write_text("a = 2\n")
    assert code_digest("studies.one", tree) == before
    (tree / "studies" / "two.py").write_text("a = 2\n")
    assert code_digest("studies.one", tree) != before


def test_versions_are_those_installed() -> None:
    assert versions("numpy") == {"python": platform.python_version(), "numpy": np.__version__}


@pytest.mark.parametrize("workers", [1, 2])
def test_jobs_run_in_order_in_one_thread_each(workers: int) -> None:
    assert list(parallel(pow, [(2, 3), (3, 2), (5, 0)], workers)) == [8, 9, 1]
    (pools,) = parallel(threadpool_info, [()], workers)
    assert pools
    assert {pool["num_threads"] for pool in pools} == {1}


def test_results_come_back_as_they_were(tmp_path: Path) -> None:
    results = {"a": {"b": [1, 2.5, [3]], "c": {}}, "d": "text", "é": True}
    path = save("name", results, tmp_path)
    assert json.loads(path.read_text(encoding="utf-8")) == results
    assert len(path.read_text(encoding="utf-8").splitlines()) == 8


def test_nan_is_not_stored(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="JSON"):
        save("name", {"a": float("nan")}, tmp_path)


def test_an_unknown_study() -> None:
    with pytest.raises(ValueError, match=r"no stored study 'none'; known are .*learning_rate"):
        stored.load("none")


def test_the_bar_yields_everything_and_ends_full(capsys: pytest.CaptureFixture[str]) -> None:
    assert list(progress(iter("abc"), 3)) == ["a", "b", "c"]
    printed = capsys.readouterr()
    assert printed.out == ""
    assert f"[{'#' * 30}] 3/3" in printed.err
    assert f"[{'#' * 10:30}] 1/3" in printed.err


def test_make_studies_runs_every_study() -> None:
    recipe = (ROOT / "Makefile").read_text().split("\nstudies:")[1].split("\n\n")[0]
    scripts = [file.stem for file in (ROOT / "studies").glob("*.py") if "__main__" in file.read_text()]
    assert sorted(re.findall(r"-m studies\.(\w+)$", recipe, flags=re.MULTILINE)) == sorted(scripts)
    # The benchmark's figures lie there too: `make bench` stores them.
    results = {file.stem for file in STORED.glob("*.json")} - {"benchmark"}
    made_by = {name: max((s for s in scripts if name.startswith(s)), key=len, default=None) for name in results}
    assert set(made_by.values()) == set(scripts), "each study stores results, and each result has its study"
