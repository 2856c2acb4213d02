"""The frozen digests on every supported Python, with the oldest and the newest NumPy that exists for it.

Each case makes a virtual environment of its own, so this installs NumPy and is part of the long run only. An absent
interpreter is skipped, unless the environment variable REQUIRE_ALL is 1.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from tests.environments import ROOT, interpreter, make, run

SCRIPT = ROOT / "tests" / "stream_digests.py"
GOLDEN = ROOT / "tests" / "stream_digests.json"
OLDEST_NUMPY = {"3.11": "1.26", "3.12": "1.26", "3.13": "2.1"}
NEWEST = "newest"
CASES = [(python, numpy) for python, oldest in OLDEST_NUMPY.items() for numpy in (oldest, NEWEST)]


@pytest.mark.long
@pytest.mark.parametrize(("python", "numpy"), CASES, ids=[f"python{python}-numpy-{numpy}" for python, numpy in CASES])
def test_digests_on(python: str, numpy: str, tmp_path: Path) -> None:
    wanted = "numpy" if numpy == NEWEST else f"numpy=={numpy}.*"
    own = make(tmp_path, interpreter(python), "--only-binary=:all:", wanted)
    versions = run(own, "-c", "import sys, numpy; print('%d.%d' % sys.version_info[:2], numpy.__version__)").split()
    assert versions[0] == python
    assert numpy == NEWEST or versions[1].startswith(numpy + ".")
    digests = json.loads(run(own, "-P", SCRIPT, PYTHONPATH=str(ROOT), PYTHONDONTWRITEBYTECODE="1"))
    assert digests == json.loads(GOLDEN.read_text()), f"Python {versions[0]}, NumPy {versions[1]}"


def test_the_matrix_starts_at_the_declared_lower_bounds() -> None:
    """The oldest NumPy of the oldest Python is the lower bound of the package."""
    project = (ROOT / "pyproject.toml").read_text()
    assert re.search(r'requires-python = ">=3\.11"', project)
    bound = re.search(r'"numpy>=([0-9.]+)"', project)
    assert bound
    assert bound.group(1) == OLDEST_NUMPY["3.11"]
    assert len(OLDEST_NUMPY) == 3
