"""What a submission's process may use and see, with bubblewrap and without."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from grading import sandbox as module
from grading import source
from grading.remote import RemoteAnswer
from grading.sandbox import BUBBLEWRAP, PROCESS, Aborted, Child, Limits, Sandbox, SandboxError, Stopped
from tests.grading.hostile import need
from tests.grading.hostile.attacks import PIPES

KINDS = [BUBBLEWRAP, PROCESS]
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module", params=KINDS)
def sandbox(request: pytest.FixtureRequest) -> Iterator[Sandbox]:
    with Sandbox(need(request.param)) as box:
        yield box


def told(sandbox: Sandbox, cell: str, limits: Limits | None = None) -> Any:
    """Return what the function f of a cell returns inside."""
    with sandbox.start(limits or Limits()) as child:
        return ask(child, cell)


def ask(child: Child, cell: str) -> Any:
    deadline = time.monotonic() + 20
    child.send(("run", [["cell", cell]], []), deadline)
    seen = [child.receive(deadline)]
    while seen[-1] != ("ready",):
        seen.append(child.receive(deadline))
    assert seen == [("cell", 0), ("ready",)], seen
    return RemoteAnswer(child, "f", {}, deadline).call("f()")


def test_nothing_is_left_open_where_everything_is_there(sandbox: Sandbox) -> None:
    assert sandbox.why == ""
    assert len(sandbox.not_stopped) == (0 if sandbox.kind == BUBBLEWRAP else 2)


def test_what_is_not_stopped_is_said() -> None:
    box = object.__new__(Sandbox)
    box.kind, box._missing = PROCESS, ("files", "calls")
    text = " ".join(box.not_stopped)
    for word in ("network", "read every file", "the key", "leave processes behind", "no namespace"):
        assert word in text
    box.kind, box._missing = BUBBLEWRAP, ("calls",)
    assert len(box.not_stopped) == 1


def test_it_is_an_ordinary_user_with_no_rights(sandbox: Sandbox) -> None:
    status = told(sandbox, "def f(): return open('/proc/self/status').read()" if sandbox.kind == BUBBLEWRAP else USER)
    fields = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
    assert "0" not in fields["Uid"].split()
    assert "0" not in fields["Gid"].split()
    if sandbox.kind == BUBBLEWRAP:
        assert int(fields["CapEff"], 16) == int(fields["CapPrm"], 16) == 0
        assert (fields["NoNewPrivs"], fields["Seccomp"]) == ("1", "2")


USER = """
import os
def f(): return "Uid:\\t{} {} {}\\nGid:\\t{} {} {}".format(*os.getresuid(), *os.getresgid())
"""


def test_it_sees_nothing_of_this_machine(sandbox: Sandbox) -> None:
    paths = [str(ROOT), *(str(path) for path in Path.home().glob(".*") if path.is_file())]
    paths += ["/srv", "/var", "/opt", "/boot", "/sys", "/etc/passwd", "/etc/hostname", "/usr/share"]
    cell = f"""
import os
def can(path):
    try:
        os.listdir(path) if os.path.isdir(path) else open(path).read(1)
    except OSError:
        return False
    return True
def f(): return [path for path in {paths!r} if can(path)]
"""
    assert told(sandbox, cell) == []


def test_it_is_alone() -> None:
    cell = "import os\ndef f(): return [int(name) for name in os.listdir('/proc') if name.isdecimal()], os.getppid()"
    with Sandbox(need(BUBBLEWRAP)) as box:
        pids, parent = told(box, cell)
    assert len(pids) <= 4
    assert max(pids) < 10
    assert parent in pids


def test_the_length_of_a_message_is_limited(sandbox: Sandbox) -> None:
    cell = PIPES + "def f(): forge((1 << 40).to_bytes(8, 'big'))\n"
    start = time.monotonic()
    with pytest.raises(Stopped) as caught:
        told(sandbox, cell)
    assert caught.value.reason == "malformed"
    tree = PIPES + "def f(): forge((3 << 20).to_bytes(8, 'big') + (3 << 20).to_bytes(4, 'big') + b'[' * (3 << 20))\n"
    with pytest.raises(Stopped) as caught:
        told(sandbox, tree)
    assert caught.value.reason == "malformed"
    assert time.monotonic() - start < 8


def test_the_usual_scratch_folder_is_its_own() -> None:
    scratch = tempfile.gettempdir()
    cell = f"import os\ndef f():\n    open({scratch!r} + '/mine', 'w').close()\n    return os.listdir('.')"
    with Sandbox(need(BUBBLEWRAP)) as box:
        assert told(box, cell) == ["mine"]


def test_its_environment_is_its_own(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DROPOUT_GRADING_KEY", "/somewhere")
    names = told(sandbox, "import os, sys\ndef f(): return [sorted(os.environ), sys.argv, os.listdir('.')]")
    assert not [name for name in names[0] if "DROPOUT" in name or "PYTEST" in name]
    assert len(names[1]) == 1
    assert names[2] == []


def test_it_has_the_packages_and_no_checks(sandbox: Sandbox) -> None:
    cell = """
import sklearn.datasets, matplotlib.pyplot as plt
from dropoutlib.data import digits
from dropoutlib.checks import check, identify, progress
from dropoutlib.checks.assignments.patients import right_findings
assert check("x.1", None) and progress() and identify(None)
plt.plot([1, 2]); plt.savefig("figure.png")
def f():
    found = []
    for name in ("two_dropouts", "placement", "tools"):
        try:
            __import__(f"dropoutlib.checks.assignments.{name}")
        except ImportError:
            found.append(name)
    for name in ("grading", "tests.grading", "book.notebooks"):
        try:
            __import__(name)
        except ImportError:
            found.append(name)
    return found, repr(check("x.1", None)), len(digits().test.x)
"""
    expected = ["two_dropouts", "placement", "tools", "grading", "tests.grading", "book.notebooks"]
    assert told(sandbox, cell) == (expected, "checked later", 500)


@pytest.mark.parametrize(
    ("code", "limits", "kind"),
    [
        ("bytearray(10**9)", Limits(address_mb=600), "MemoryError"),
        ("open('x', 'wb').write(b'x' * 3_000_000)", Limits(file_mb=2), "OSError"),
        ("[os.fork() or time.sleep(5) for _ in range(20)]", Limits(processes=6), "BlockingIOError"),
        ("[open('/dev/null') for _ in range(300)]", Limits(), "OSError"),
        ("socket.socket()", Limits(), "PermissionError"),
        ("os.setuid(0)", Limits(), "PermissionError"),
    ],
)
def test_a_limit_raises_inside(sandbox: Sandbox, code: str, limits: Limits, kind: str) -> None:
    cell = f"""
import os, socket, time
def f():
    try:
        {code}
    except Exception as error:
        return type(error).__name__
"""
    assert told(sandbox, cell, limits) in (kind, "OSError")


@pytest.mark.parametrize(
    ("code", "limits", "reason"),
    [
        ("while True: pass", Limits(call_seconds=0.5), "time"),
        ("while True: print('x' * 9999)", Limits(output_mb=1), "output"),
        ("os._exit(3)", Limits(), "died"),
        (
            "for _ in range(4):\n        if os.fork() == 0: x = bytearray(10**8); time.sleep(9)\n    time.sleep(9)",
            Limits(memory_mb=300),
            "memory",
        ),
    ],
)
def test_a_limit_stops_from_outside(sandbox: Sandbox, code: str, limits: Limits, reason: str) -> None:
    with pytest.raises(Stopped) as caught:
        told(sandbox, f"import os, time\ndef f():\n    {code}", limits)
    assert caught.value.reason == reason
    assert caught.value.hint == module.REASONS[reason]


@pytest.mark.parametrize(
    "code",
    [
        "os.kill(os.getppid(), 0)",
        "os.killpg(0, 0)",
        "fcntl.fcntl(os.pipe()[0], fcntl.F_SETOWN, os.getppid())",
        "fcntl.fcntl(os.pipe()[0], fcntl.F_SETSIG, 9)",
        "resource.prlimit(os.getppid(), resource.RLIMIT_CPU, (0, 0))",
        "os.setsid()",
        "os.setpgid(0, 0)",
        "signal.pidfd_send_signal(0, 9)",
        "os.listdir('/proc')",
        "open(f'/proc/{os.getppid()}/mem', 'rb')",
        "os.truncate('/etc/passwd', 0)",
        "os.chroot('.')",
    ],
)
def test_without_namespaces_other_processes_are_out_of_reach(code: str, process: Sandbox) -> None:
    cell = f"""
import fcntl, os, resource, signal
def f():
    try:
        {code}
    except OSError as error:
        return type(error).__name__
"""
    assert told(process, cell) == "PermissionError"
    assert told(process, "import fcntl\ndef f(): return fcntl.fcntl(1, fcntl.F_GETFD)") == 0


@pytest.fixture(scope="module")
def process() -> Iterator[Sandbox]:
    with Sandbox(PROCESS) as box:
        yield box


def test_a_deep_folder_is_removed(process: Sandbox) -> None:
    told(process, "import os\ndef f():\n    for _ in range(1100): os.mkdir('d' * 9); os.chdir('d' * 9)\n    return 1")
    assert sorted(path.name for path in process._folder.iterdir()) == ["course", "nothing"]


def test_many_files_stop_without_a_file_system_of_its_own(process: Sandbox) -> None:
    cell = "def f():\n    for n in range(10**6): open(str(n), 'w').close()"
    with pytest.raises(Stopped) as caught:
        told(process, cell)
    assert caught.value.reason == "files"


def test_what_is_printed_is_kept_in_part(sandbox: Sandbox) -> None:
    with sandbox.start(Limits(printed_kb=1)) as child:
        ask(child, "print('é' * 3000)\ndef f(): return 1")
        text = child.printed()
    assert text == "é" * 512 + "\n[...]"


def test_a_child_that_does_not_listen_stops(sandbox: Sandbox) -> None:
    with sandbox.start(Limits(call_seconds=60)) as child:
        ask(child, "import time\ndef f(*x): return x or 1\ndef sleep(): time.sleep(60)")
        messages: list[tuple[object, ...]] = [("done",), ("take", "sleep", True), ("call", None, "", [], False, False)]
        for message in messages:
            child.send(message, time.monotonic() + 5)
        with pytest.raises(Stopped) as caught:
            child.send(("value", "x" * 10_000_000), time.monotonic() + 0.5)
    assert caught.value.reason == "time"


def test_no_process_and_no_folder_stays(sandbox: Sandbox) -> None:
    cell = """
import os, signal, time
for number in range(1, 32):
    try: signal.signal(number, signal.SIG_IGN)
    except (OSError, ValueError): pass
for _ in range(3):
    if os.fork() == 0:
        try: os.setsid()
        except OSError: pass
        if os.fork() == 0:
            os.kill(os.getpid(), signal.SIGSTOP) if time.time() % 2 > 1 else None
            time.sleep(600)
        os._exit(0)
os.mkdir("deep"); open("deep/file", "w").close(); os.chmod("deep", 0)
def f(): return 1
"""
    before = {pid: row for pid, row in module._processes().items()}
    child = sandbox.start(Limits())
    try:
        if sandbox.kind == PROCESS:
            cell = cell.replace("os.kill(os.getpid(), signal.SIGSTOP) if time.time() % 2 > 1 else None", "pass")
        ask(child, cell)
        own = _own(child)
        assert len(own) >= 3
    finally:
        child.close()
    deadline = time.monotonic() + 5
    while (left := [pid for pid in own if pid in module._processes() and pid not in before]) and (
        time.monotonic() < deadline
    ):
        time.sleep(0.05)
    assert left == []
    assert sorted(path.name for path in sandbox._folder.iterdir()) == ["course", "nothing"]


def _own(child: Child) -> list[int]:
    found, rows = {child._process.pid}, module._processes()
    for _ in range(5):
        found |= {pid for pid, row in rows.items() if row.parent in found or row.session in found}
    return sorted(found)


def test_waiting_ends_when_the_run_does() -> None:
    with Sandbox() as box, box.start(Limits()) as child:
        box.abort()
        with pytest.raises(Aborted):
            child.receive(time.monotonic() + 30)


def test_without_bubblewrap_it_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    real: Callable[..., str | None] = shutil.which
    monkeypatch.setattr(shutil, "which", lambda name, *a, **k: None if name == "bwrap" else real(name, *a, **k))
    with pytest.raises(SandboxError, match="bubblewrap is not installed"):
        Sandbox(BUBBLEWRAP)
    with Sandbox() as box:
        assert box.kind == PROCESS
        assert "apt install bubblewrap" in box.why


def test_a_bubblewrap_that_fails_is_not_used(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    fake = tmp_path / "bwrap"
    fake.write_text("#!/bin/sh\necho 'bwrap: No permissions to create a new namespace' >&2\nexit 1\n", encoding="utf-8")
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    with Sandbox() as box:
        assert box.kind == PROCESS
        assert "No permissions to create a new namespace" in box.why


def test_limits_come_from_the_assignment() -> None:
    assert Limits.of({}) == Limits()
    assert Limits.of({"limits": {"memory_mb": 7}}) == Limits(memory_mb=7)
    assert Limits.of(source.load("sick-model").notebook.metadata["assignment"]).address_mb > Limits().address_mb
    for wrong in ({"memory": 7}, {"memory_mb": "7"}, {"seconds": 0}, {"seconds": float("nan")}, {"processes": True}):
        with pytest.raises(SandboxError, match="there is no limit"):
            Limits.of({"limits": wrong})
