"""nbgrader takes a source notebook unchanged: it makes the student's version, and grades what comes back."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from grading import keys, source
from tests.environments import kept

NBGRADER = "nbgrader==0.9.6"
SCRIPT = Path(__file__).with_name("nbgrader_course.py")
NAME = "two-dropouts"


def check_course(python: Path, folder: Path) -> None:
    """Take the source through nbgrader and compare every score."""
    key = folder / "private.key"
    keys.write(key)
    environment = {
        **os.environ,
        "PYTHONPATH": str(source.ROOT),
        keys.ENVIRONMENT: str(key),
        "PATH": f"{python.parent}{os.pathsep}{os.environ['PATH']}",
        "IPYTHONDIR": str(folder / "ipython"),
    }
    course = folder / "course"
    course.mkdir()
    done = subprocess.run(
        [python, SCRIPT, source.FOLDER / f"{NAME}.ipynb"],
        cwd=course,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    scores = json.loads(done.stdout.splitlines()[-1])
    questions = [q for q in source.load(NAME).questions if q.function]
    full = {q.id.replace(".", "-"): q.points for q in questions}
    assert scores["solved"] == full
    assert scores["unanswered"] == dict.fromkeys(full, 0)
    # The second question's solution calls the wrong mask of the first.
    assert scores["mistaken"] == full | {f"{NAME}-1": 0, f"{NAME}-2": 0}


@pytest.mark.skipif(importlib.util.find_spec("nbgrader") is None, reason=f"needs pip install {NBGRADER}")
def test_nbgrader_takes_a_source_unchanged(tmp_path: Path) -> None:
    check_course(Path(sys.executable), tmp_path)


@pytest.mark.long
def test_nbgrader_takes_a_source_unchanged_in_an_environment_of_its_own(tmp_path: Path) -> None:
    check_course(kept("nbgrader", Path(sys.executable), NBGRADER, "numpy"), tmp_path)
