"""Folders with hostile submissions among honest ones: every honest mark right, no hostile one above what it earned.

The short folder has 15 submissions. The long one has 100, with every attack there is, and is graded with bubblewrap and
without.
"""

from __future__ import annotations

import hashlib
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from grading import records, reports
from grading.records import Record
from grading.sandbox import BUBBLEWRAP, PROCESS, Limits
from tests.grading.hostile import need
from tests.grading.hostile.attacks import ALL, FILES, Attack, Place, attacks
from tests.grading.test_grade import _points, earned, graded, honest

SHORT = (
    "endless-loop",
    "fork-bomb",
    "exit-in-a-cell",
    "kills-its-parent",
    "patched-dropoutlib",
    "reads-the-checks",
    "reads-others",
    "writes-outside",
    "forged-replies",
    "daemon-that-kills",
)
# These need what only bubblewrap gives: another program may be run inside, and signals may be sent.
NEEDS_BUBBLEWRAP = ("daemon-in-an-answer", "daemon-that-kills", "signals")
LIMITS = Limits(call_seconds=2, cell_seconds=2, seconds=30, memory_mb=600, address_mb=600)


@pytest.fixture
def public() -> Iterator[Path]:
    """Return a folder that every user can enter, which tmp_path is not."""
    with tempfile.TemporaryDirectory(prefix="hostile-") as name:
        Path(name).chmod(0o755)
        yield Path(name)


@pytest.fixture
def place(public: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    """Lay out what attacks aim at, with rights for everybody: only the sandbox is in between."""
    word = uuid.uuid4().hex
    monkeypatch.setenv("DROPOUT_GRADING_WORD", word)
    tmp_path = public
    for name in ("in", "canary"):
        (tmp_path / name).mkdir()
        (tmp_path / name).chmod(0o777)
    (tmp_path / "key").write_text("00" * 32)
    (tmp_path / "canary" / "file").write_text("as it was")
    for path in (tmp_path / "key", tmp_path / "canary" / "file"):
        path.chmod(0o666)
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0)
        port = server.getsockname()[1]
        yield Place(
            tmp_path / "key", tmp_path / "in" / "student00.ipynb", tmp_path / "canary", tmp_path / "out", port, word
        )
        with pytest.raises(BlockingIOError):
            server.accept()
    assert _processes(word) == []


def _processes(word: str) -> list[str]:
    """Return the processes that an attack has named, of this machine."""
    deadline = time.monotonic() + 5
    while True:
        found = []
        for name in filter(str.isdecimal, os.listdir("/proc")):
            try:
                line = Path("/proc", name, "cmdline").read_bytes()
            except OSError:
                continue
            if word.encode() in line and int(name) != os.getpid():
                found.append(line.decode("utf-8", "replace"))
        if not found or time.monotonic() > deadline:
            return found
        time.sleep(0.1)


def _snapshot(folder: Path, without: Path) -> dict[str, tuple[object, ...]]:
    """Return what is in a folder, but for one part of it."""
    found: dict[str, tuple[object, ...]] = {}
    for path in sorted(folder.rglob("*")):
        if path != without and without not in path.parents:
            info = path.lstat()
            data = path.read_bytes() if path.is_file() and info.st_size < 10**7 else b""
            found[str(path)] = (info.st_mode, info.st_size, info.st_mtime_ns, hashlib.sha256(data).hexdigest())
    return found


def _hand_in(folder: Path, found: dict[str, Attack], files: tuple[str, ...], count: int) -> dict[str, dict[str, float]]:
    """Write a folder of submissions and return what each has earned."""
    expected = honest(folder, count)
    for name, attack in found.items():
        attack.write(folder / f"{name}.ipynb")
        expected[name] = {question: 0 if question in attack.loses else _points(question) for question in ALL}
    for name in files:
        FILES[name][0](folder / f"{name}.ipynb")
        expected[name] = dict.fromkeys(ALL, 0.0)
    (folder / "link.ipynb").symlink_to(folder / "student00.ipynb")
    expected["link"] = dict.fromkeys(ALL, 0.0)
    for path in folder.glob("*.ipynb"):
        if not path.is_symlink():
            path.chmod(0o666)
    return expected


def _check(
    place: Place, found: dict[str, Attack], files: tuple[str, ...], expected: dict[str, dict[str, float]], kind: str
) -> list[Record]:
    before = _snapshot(place.folder.parent, place.out)
    done, said = graded(place.other.parent, place.out, sandbox=kind, limits=LIMITS)
    assert done.failed == ()
    assert len([line for line in said if line.startswith("[")]) == len(expected)
    assert _snapshot(place.folder.parent, place.out) == before
    made = {record.student: record for record in records.load_all(place.out / records.FOLDER)}
    assert {student: earned(record) for student, record in made.items()} == expected
    for name, attack in found.items():
        statuses = {mark.id: mark.status for mark in made[name].questions}
        if attack.status:
            assert {statuses[question] for question in attack.loses} == {attack.status}, (name, statuses)
        assert made[name].seconds < LIMITS.seconds + 10
    for name in files:
        assert made[name].status == records.REFUSED
        assert FILES[name][1] in " ".join(made[name].notes)
    assert "links are not followed" in " ".join(made["link"].notes)
    for record in made.values():
        # Nothing that an answer has seen of a check is shown: neither printed, nor raised, nor hinted.
        page = (place.out / "feedback" / f"{record.slug}.html").read_text(encoding="utf-8")
        assert not any(mark.detail and mark.detail in page for mark in record.questions)
    assert (place.out / reports.GRADES).read_text(encoding="utf-8-sig").count("\n") == len(expected) + 1
    return list(made.values())


def test_a_folder_of_15(place: Place) -> None:
    found = {name: attack for name, attack in attacks(place).items() if name in SHORT}
    assert len(found) == len(SHORT)
    expected = _hand_in(place.other.parent, found, ("large",), 3)
    assert len(expected) == 15
    _check(place, found, ("large",), expected, need(BUBBLEWRAP))


@pytest.mark.long
@pytest.mark.parametrize("kind", [BUBBLEWRAP, PROCESS])
def test_a_folder_of_100(place: Place, kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    need(kind)
    found = attacks(place)
    if kind == PROCESS:
        found = {name: attack for name, attack in found.items() if name not in NEEDS_BUBBLEWRAP}
    files = tuple(FILES)
    expected = _hand_in(place.other.parent, found, files, 100 - len(found) - len(files) - 1)
    assert len(expected) == 100
    made = _check(place, found, files, expected, kind)
    seconds = statistics.median(record.seconds for record in made)
    with capsys.disabled():
        print(f"\n100 submissions, {kind}: median {seconds:.2f} s each")


ANSWER = """
import sys
print("from a cell")
def draw_mask(shape, p, seed):
    print("told", shape, p, seed, flush=True)
    sys.stderr.write(f"told {p}")
    raise type(f"Told{seed}", (Exception,), {})(f"told {shape} {p} {seed}")
def moments_by_hand():
    raise ZeroDivisionError("told")
"""


def test_no_page_tells_what_a_check_hands_over(place: Place) -> None:
    """An answer that prints and raises its arguments tells them to the instructor only."""
    attack = Attack({ALL[0]: "", ALL[2]: ""}, last=[ANSWER])
    folder = place.other.parent
    attack.write(folder / "mallory.ipynb")
    graded(folder, place.out, limits=LIMITS)
    (record,) = records.load_all(place.out / records.FOLDER)
    mask, _, moments = record.questions[:3]
    assert record.printed == "from a cell\n"
    assert "told (" in mask.detail
    assert (mask.status, mask.hint) == ("raised", "")
    assert (moments.status, moments.hint) == ("raised", "It raised ZeroDivisionError.")
    for path in (*(place.out / "feedback").iterdir(), *(place.out / "json").iterdir(), place.out / reports.GRADES):
        text = path.read_text(encoding="utf-8")
        assert "told" not in text.lower()


@pytest.mark.long
@pytest.mark.skipif(os.geteuid() != 0, reason="is an ordinary user's run already")
@pytest.mark.parametrize("kind", [BUBBLEWRAP, PROCESS])
def test_an_ordinary_user_can_grade(place: Place, kind: str) -> None:
    """The same command under another user, who sees this machine but for root's own folder."""
    need(BUBBLEWRAP)
    folder = place.other.parent
    found = {
        name: attacks(place)[name] for name in ("fork-bomb", "kills-its-parent", "reads-the-key", "writes-outside")
    }
    expected = _hand_in(folder, found, (), 2)
    place.out.mkdir()
    place.out.chmod(0o777)
    root = Path(__file__).resolve().parents[2]
    base = os.path.realpath(sys.base_prefix)
    command = ["bwrap", "--bind", "/", "/", "--dev-bind", "/dev", "/dev"]
    home = str(Path.home())
    if base.startswith(home):
        command += ["--perms", "0755", "--tmpfs", home]
        for parent in reversed(Path(base).parents[:-2]):
            command += ["--perms", "0755", "--dir", str(parent)]
        command += ["--ro-bind", base, base]
    command += ["--cap-add", "ALL", "setpriv", "--reuid", "54321", "--regid", "54321", "--clear-groups"]
    command += [sys.executable, "-B", "-m", "grading", "grade", "two-dropouts", str(folder), "-o", str(place.out)]
    made = subprocess.run(
        [*command, "--sandbox", kind, "--jobs", "2"], cwd=root, capture_output=True, text=True, timeout=300, check=False
    )
    assert made.returncode == 0, made.stdout + made.stderr
    found_marks = {record.student: earned(record) for record in records.load_all(place.out / records.FOLDER)}
    assert found_marks == expected
