"""A folder of submissions becomes a folder of results; what is finished stays, and the rest is done when run again."""

from __future__ import annotations

import dataclasses
import hashlib
import hmac
import json
import os
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import numpy as np

import dropoutlib
from grading import keys, records, reports, run, submissions
from grading.records import Record, RecordError
from grading.roster import Roster
from grading.sandbox import Limits, Sandbox, SandboxError
from grading.source import Assignment
from grading.submissions import Submission, Unreadable

KEY = "private.key"
LOCK = ".lock"
_CODE = ("grade", "plain", "remote", "run", "sandbox", "submissions", "worker", "no_checks", "keys")


class GradeError(RuntimeError):
    """Submissions that cannot be graded now; the message says why."""


@dataclass(frozen=True)
class Done:
    """What a run has done.

    Attributes
    ----------
    graded, kept : int
        Submissions that were graded now, and that had been before.
    failed : tuple of str
        Students whose submission could not be run, for a reason that lies with this machine.
    """

    graded: int
    kept: int
    failed: tuple[str, ...]


def grade(
    assignment: Assignment,
    folder: Path,
    out: Path,
    *,
    key: bytes | None = None,
    sandbox: str = "auto",
    jobs: int | None = None,
    due: datetime | None = None,
    roster: Roster | None = None,
    limits: Limits | None = None,
    say: Callable[[str], None] = print,
) -> Done:
    """Grade a folder of submissions of an assignment, made for the class, and write all results to `out`.

    Without a key one is made and kept in `out`. Marks given by hand stay where the written answer is the same.

    Raises
    ------
    GradeError, OutError, SubmissionError, SandboxError
        If nothing can be graded; the message says why.
    """
    found = submissions.find(folder, roster, due, assignment.name)
    limits = limits or Limits.of(assignment.notebook.metadata["assignment"])
    reports.open_out(out, assignment)
    with alone(out), Sandbox(sandbox) as box, warnings.catch_warnings():
        # Values that answers return may overflow wherever checks compute with them.
        warnings.simplefilter("ignore", RuntimeWarning)
        announce(box, say)
        secret = key or _key(out)
        work = _Work(assignment, out, secret, box, limits, digest(assignment, secret, limits, box.kind))
        done = work.all(found, jobs or os.cpu_count() or 1, say)
        reports.write(out)
    return done


def announce(sandbox: Sandbox, say: Callable[[str], None]) -> None:
    """Say how submissions are run, and what is not stopped."""
    if sandbox.why:
        say(f"warning: {sandbox.why}")
    how = {
        "bubblewrap": "bubblewrap: own files, processes and network",
        "process": "processes with limits, without bubblewrap",
    }
    say(f"Submissions run in {how[sandbox.kind]}.")
    if sandbox.not_stopped:
        say("What a hostile submission can do here:")
        for sentence in sandbox.not_stopped:
            say(f"  - {sentence}")


def digest(assignment: Assignment, key: bytes, limits: Limits, kind: str) -> str:
    """Return a digest of all that decides marks besides the submission."""
    here = Path(__file__).parent
    course = Path(dropoutlib.__file__).parent
    files = [here / f"{name}.py" for name in _CODE]
    files += sorted(path for path in course.rglob("*") if path.suffix in (".py", ".json"))
    hashed = hashlib.sha256()
    for path in files:
        hashed.update(f"{path.name}\0".encode() + path.read_bytes() + b"\0")
    facts = [
        json.dumps(assignment.notebook, sort_keys=True),
        hmac.new(key, b"fingerprint", hashlib.sha256).hexdigest(),
        json.dumps(dataclasses.asdict(limits)),
        kind,
        *(f"{v.major}.{v.minor}" for v in [sys.version_info]),
        np.__version__,
    ]
    hashed.update(json.dumps(facts).encode())
    return hashed.hexdigest()


@dataclass(frozen=True)
class _Work:
    assignment: Assignment
    out: Path
    key: bytes
    sandbox: Sandbox
    limits: Limits
    grader: str

    def all(self, found: Sequence[Submission], jobs: int, say: Callable[[str], None]) -> Done:
        """Grade all of them, so many at a time."""
        graded, kept, failed = 0, 0, list[str]()
        width = len(str(len(found)))
        with ThreadPoolExecutor(jobs) as pool:
            left: dict[Future[tuple[Record, bool]], Submission] = {}
            try:
                left = {pool.submit(self.one, submission): submission for submission in found}
                while left:
                    for future in wait(left, return_when=FIRST_COMPLETED).done:
                        submission = left.pop(future)
                        try:
                            record, new = future.result()
                        except Exception as error:
                            # A submission costs at most its own mark, and that only until the next run.
                            failed.append(submission.student)
                            kind = "" if isinstance(error, SandboxError) else f"{type(error).__name__}: "
                            text = f"not graded: {kind}{error}"
                        else:
                            graded, kept = graded + new, kept + (not new)
                            text = _told(record) + ("" if new else ", graded before")
                        say(f"[{len(found) - len(left):{width}}/{len(found)}] {submission.student}: {text}")
            except BaseException:
                self.sandbox.abort()
                pool.shutdown(cancel_futures=True)
                raise
        return Done(graded, kept, tuple(failed))

    def one(self, submission: Submission) -> tuple[Record, bool]:
        """Return the record of a submission, stored, and whether it was made now."""
        folder = self.out / records.FOLDER
        try:
            old = records.load(folder, submission.student)
        except RecordError:
            old = None
        try:
            answers = submissions.read(submission, self.assignment)
        except Unreadable as error:
            new = run.refused(submission, self.assignment, error, self.grader)
        else:
            if old and self._same(old, submission, answers.sha256):
                return old, False
            new = run.grade_answers(
                submission, answers, self.assignment, self.key, self.sandbox, self.limits, self.grader
            )
        if old:
            new = records.carry(old, new)
            if dataclasses.replace(new, seconds=old.seconds) == old:
                return old, False
        records.save(new, folder)
        return new, True

    def _same(self, old: Record, submission: Submission, sha256: str) -> bool:
        facts = (submission.file, submission.received, submission.late_seconds)
        return (
            (old.sha256, old.grader) == (sha256, self.grader)
            and (old.file, old.received, old.late_seconds) == facts
            and set(submission.notes) <= set(old.notes)
        )


def _told(record: Record) -> str:
    if record.status == records.REFUSED:
        return " ".join(record.notes)
    waiting = sum(mark.points is None for mark in record.questions)
    by_hand = f", {waiting} by hand" if waiting else ""
    return f"{reports.points(record.points)} of {record.out_of}{by_hand} ({record.seconds:.1f} s)"


def _key(out: Path) -> bytes:
    """Return the key that is kept beside the results, the same whenever this folder is used."""
    path = out / KEY
    if not path.exists():
        keys.write(path)
    return keys.read(path)


@contextmanager
def alone(out: Path) -> Iterator[None]:
    """Insist that no other run writes to the same folder; the system takes the lock back if this process dies."""
    # Grading is for Linux; assignments are made also where this module is missing.
    import fcntl

    try:
        file = open(out / LOCK, "w", encoding="ascii")  # noqa: SIM115
    except OSError as error:
        raise GradeError(f"{out} cannot be written: {error.strerror}") from None
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise GradeError(f"another run is writing to {out}") from None
        yield
