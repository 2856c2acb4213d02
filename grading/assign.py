"""`python -m grading assign`: students' notebooks and instructors' packs, once every solution has full marks."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from pathlib import Path

from nbformat import NotebookNode

from grading import keys, marks, source, variant, write

MANIFEST = "assignments.json"


class AssignError(RuntimeError):
    """Assignments that cannot be made or written; the message says why."""


def assign(names: Sequence[str], out: Path, key: bytes, class_variant: str = "", folder: Path = source.FOLDER) -> str:
    """Make assignments, all of them without names, and return what was done, for the reader.

    Everything is written to a new folder beside `out`, which takes the place of `out` only when it is complete.

    Raises
    ------
    AssignmentError
        If a source breaks a rule or an assignment does not exist.
    AssignError
        If a solution has not full marks, or `out` is a folder that this command has not made.
    """
    made = [variant.make(source.load(name, folder), class_variant) for name in names or source.names(folder)]
    _refuse_foreign(out)
    for assignment in made:
        for mark in marks.solutions(assignment, key):
            if not mark.result:
                raise AssignError(f"the solution of {mark.question.id} has not full marks:\n{mark.result.message}")
    install = write.install_cell()
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        _replace(out, made, install, class_variant)
    except OSError as error:
        raise AssignError(f"{out} cannot be written: {error.strerror}") from None
    lines = [f"{a.name}: {a.points} points, {a.minutes} minutes, every solution has full marks" for a in made]
    return "\n".join([*lines, f"for students: {out / 'students'}", f"for instructors only: {out / 'instructors'}"])


def _replace(out: Path, made: Sequence[source.Assignment], install: NotebookNode, class_variant: str) -> None:
    """Write everything to a new folder, then let it take the place of `out`."""
    with tempfile.TemporaryDirectory(prefix=f".{out.name}-", dir=out.parent) as temporary:
        fresh, old = Path(temporary) / "new", Path(temporary) / "old"
        for assignment in made:
            write.write(assignment, install, fresh)
        summary = {a.name: {"points": a.points, "minutes": a.minutes, "variant": class_variant} for a in made}
        (fresh / MANIFEST).write_text(json.dumps(summary, indent=1) + "\n", encoding="utf-8")
        if out.exists():
            out.rename(old)
        try:
            fresh.rename(out)
        except OSError:
            if old.exists():
                old.rename(out)
            raise


def _refuse_foreign(out: Path) -> None:
    if out.exists() and not (out / MANIFEST).is_file():
        raise AssignError(f"{out} exists and was not made by this command; name another folder with -o")


def key_of(path: Path | None) -> bytes:
    """Return the key in a file, or a fresh one without a file."""
    return keys.read(path) if path else keys.new()
