"""What a hostile student may hand in, and what it may earn.

Most attacks keep right answers to the questions that they do not need, and must keep the marks of these. Where an
attack tries to get at something, its answers are right exactly if it succeeds.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from textwrap import dedent, indent

import nbformat

from dropoutlib.checks.exercises import judge
from grading.answers import PlainAnswer
from tests.grading.hostile.notebooks import notebook, questions, right, wrong
from tests.grading.test_proofs import PROOFS

NAME = "two-dropouts"
ALL = tuple(questions(NAME))
MASK, DROPOUT, MOMENTS, LAYER, TEST = ALL


@dataclass(frozen=True)
class Place:
    """What the attacks aim at: files outside of their reach, and a word by which
    the grader's process and theirs are known."""

    key: Path
    other: Path
    folder: Path
    out: Path
    port: int
    word: str


@dataclass(frozen=True)
class Attack:
    """A hostile notebook.

    Attributes
    ----------
    answers : mapping
        Code for some of the questions; the others are answered rightly.
    first, last : sequence of str
        Cells before all others, and after.
    loses : tuple of str
        Questions that earn nothing.
    status : str
        Of these; empty where there are several.
    """

    answers: Mapping[str, str] = field(default_factory=dict)
    first: Sequence[str] = ()
    last: Sequence[str] = ()
    loses: tuple[str, ...] = ()
    status: str = ""

    def write(self, path: Path) -> None:
        """Write the notebook."""
        nbformat.write(notebook(NAME, self.answers, self.first, self.last), path)


ALL_WRONG = {question: wrong(question) for question in ALL}
ENDLESS = "while True:\n    pass"
UNSTOPPABLE = "while True:\n    try:\n        while True:\n            pass\n    except BaseException:\n        pass"


def does(question: str, body: str, before: str = "") -> dict[str, str]:
    """Return an answer that does something first, and then what a right one does."""
    name = questions(NAME)[question]
    lines = [
        "import os, signal, sys, time",
        f"_{right(question)}",
        before,
        f"def {name}(*arguments):",
        indent(dedent(body).strip(), "    "),
        f"    return _{name}(*arguments)",
    ]
    return {question: "\n".join(lines)}


def _once(body: str) -> str:
    return "if not started:\n    started.append(1)\n" + indent(dedent(body).strip(), "    ")


def if_reached(attempt: str) -> Attack:
    """Return an attack whose answers are right if an attempt raises nothing and leaves something in `loot`."""
    cell = [
        "import os, sys",
        "loot = None",
        "try:",
        indent(dedent(attempt).strip(), "    "),
        "except BaseException as error:",
        "    print(type(error).__name__, error)",
    ]
    answers = {question: f"if loot:\n    {right(question)}\nelse:\n    {wrong(question)}" for question in ALL}
    return Attack(answers, first=["\n".join(cell)], loses=ALL)


PIPES = """
import json, os, stat, struct
def pipes():
    for number in range(256):
        try:
            if stat.S_ISFIFO(os.fstat(number).st_mode) and number > 2:
                yield number
        except OSError:
            pass
def frame(tree):
    text = json.dumps(tree).encode()
    data = len(text).to_bytes(4, "big") + text
    return len(data).to_bytes(8, "big") + data
def forge(data):
    for number in pipes():
        try:
            os.write(number, data)
        except OSError:
            pass
"""

_LOOK_AROUND = """
import gc
frame, seen = sys._getframe(), []
while frame:
    seen += [frame.f_globals, frame.f_locals]
    frame = frame.f_back
for thing in gc.get_objects():
    if isinstance(thing, dict):
        seen.append(thing)
for names in seen:
    for name, value in list(names.items()):
        if name in ("judge", "_EXERCISES") and (callable(value) and value.__module__ != "dropoutlib.checks.exercises"):
            loot = value
        if isinstance(name, str) and name.startswith(("two-dropouts.", "grading.keys", "grading.run")):
            if name not in QUESTIONS:
                loot = value
import dropoutlib.checks.exercises as exercises
if exercises._EXERCISES:
    loot = exercises._EXERCISES
for folder in sys.path:
    if os.path.exists(os.path.join(folder, "dropoutlib/checks/assignments/two_dropouts.py")):
        loot = folder
import dropoutlib.checks.assignments.two_dropouts as loot
"""

_YES = """
import numpy as np
class Yes(float):
    def __eq__(self, other): return True
    def __ne__(self, other): return False
    def __lt__(self, other): return True
    __le__ = __gt__ = __ge__ = __lt__
    def __hash__(self): return 0
    def __getattr__(self, name): return self
    def __call__(self, *arguments): return self
class Liar(np.ndarray):
    def __array_ufunc__(self, ufunc, method, *inputs, **options): return np.True_
    def __array_function__(self, function, types, arguments, options): return True
    def __eq__(self, other): return True
    def __ne__(self, other): return False
    def tobytes(self, *arguments): return b""
    def __array_finalize__(self, other): pass
def liar(shape=(3,), dtype=float): return np.zeros(shape, dtype).view(Liar)
"""

_SLY = """
import numpy as np
class Sly:
    __class__ = np.ndarray
    dtype, shape, ndim = np.dtype(bool), (), 0
    def __array__(self, *a, **k): raise SystemExit
    def __len__(self): return 10**18
    def __iter__(self):
        while True: yield 0
    def __reduce__(self): return (print, ("loot",))
"""

_EVERYWHERE = {
    MASK: "def draw_mask(shape, p, seed): return {value}",
    DROPOUT: "def dropout(x, p, seed, training, convention): return {value}",
    MOMENTS: "def moments_by_hand(): return {value}",
    LAYER: "class Dropout:\n    def __init__(self, p, seed): pass\n    def forward(self, x, training): return {value}\n"
    "    def backward(self, dy): return {value}",
    TEST: "def looks_right(outputs, evaluation, x, p): return {value}",
}


def everywhere(value: str) -> dict[str, str]:
    """Return answers that all return the same expression."""
    return {question: code.format(value=value) for question, code in _EVERYWHERE.items()}


def public_calls() -> list[tuple[object, ...]]:
    """Return what the notebook's own check of the first question hands over."""
    seen: list[tuple[object, ...]] = []

    def record(*arguments: object) -> object:
        seen.append(arguments)
        return PROOFS[MASK].right["uniform numbers"](*arguments)

    assert judge(MASK, PlainAnswer(record))
    return seen


def attacks(place: Place) -> dict[str, Attack]:
    """Return all attacks by name."""
    sleeper = (
        "import subprocess, sys\n"
        f"subprocess.Popen([sys.executable, '-S', '-c', 'import time; time.sleep(600)', {place.word!r}])"
    )
    detached = dedent("""
        import os, signal, time
        for _ in range(2):
            if os.fork() == 0:
                try:
                    os.setsid()
                except OSError:
                    pass
                for number in range(1, 32):
                    try:
                        signal.signal(number, signal.SIG_IGN)
                    except (OSError, ValueError):
                        pass
                if os.fork() == 0:
                    time.sleep(600)
                os._exit(0)
    """)
    found: dict[str, Attack] = {
        "endless-loop": Attack(does(MASK, ENDLESS), loses=(MASK,), status="stopped"),
        "endless-cell": Attack(first=[ENDLESS]),
        "unstoppable-cell": Attack(first=[UNSTOPPABLE]),
        "memory-bomb": Attack(
            does(LAYER, "hoard = []\nwhile True:\n    hoard.append(bytearray(10**7))"), loses=(LAYER,), status="raised"
        ),
        "many-processes-with-memory": Attack(
            does(
                DROPOUT,
                """
                for _ in range(6):
                    if os.fork() == 0:
                        hoard = bytearray(2 * 10**8)
                        time.sleep(20)
                time.sleep(20)
                """,
            ),
            loses=(DROPOUT,),
            status="stopped",
        ),
        "fork-bomb": Attack(
            does(MASK, "for _ in range(200):\n    if os.fork() == 0:\n        time.sleep(30)\n        os._exit(0)"),
            loses=(MASK,),
        ),
        "exit": Attack(does(DROPOUT, "os._exit(0)"), loses=(DROPOUT,), status="stopped"),
        "exit-in-a-cell": Attack(first=["import os\nos._exit(0)", "raise SystemExit"], last=["import os\nos.abort()"]),
        "system-exit": Attack(does(MOMENTS, "sys.exit(0)"), loses=(MOMENTS,), status="raised"),
        "kills-its-parent": Attack(
            does(
                LAYER,
                """
                for pid in (os.getppid(), 1, -1):
                    try:
                        os.kill(pid, signal.SIGKILL)
                    except OSError:
                        pass
                os._exit(1)
                """,
            ),
            loses=(LAYER,),
            status="stopped",
        ),
        "patched-numpy": Attack(
            ALL_WRONG,
            first=[
                "import numpy as np\nfor name in ('allclose', 'array_equal', 'isclose', 'all', 'any'):\n"
                "    setattr(np, name, lambda *a, **k: True)\nnp.asarray = lambda *a, **k: True"
            ],
            last=["import builtins\nbuiltins.abs = lambda x: 0\nbuiltins.isinstance = lambda *a: True"],
            loses=ALL,
        ),
        "patched-dropoutlib": Attack(
            ALL_WRONG,
            first=[
                "import dropoutlib, dropoutlib.checks as checks, dropoutlib.checks.exercises as exercises\n"
                "passed = exercises.Result('two-dropouts.1', 'passed', 'passed')\n"
                "exercises.judge = checks.check = lambda *a, **k: passed\n"
                "exercises.Result.__bool__ = lambda self: True\nexercises.Mistake = exercises.NotDone = Warning\n"
                "exercises.fits_binomial = lambda *a: True\nexercises.is_placeholder = lambda value: False\n"
                "exercises.Answer._perform = lambda self, *a: (passed, False)"
            ],
            loses=ALL,
        ),
        "reads-the-checks": if_reached(_LOOK_AROUND),
        "reads-the-key": if_reached(f"loot = open({str(place.key)!r}).read()"),
        "reads-others": if_reached(f"loot = open({str(place.other)!r}).read()"),
        "lists-others": if_reached(f"loot = os.listdir({str(place.other.parent)!r})"),
        "reads-processes": if_reached(
            f"""
            for pid in filter(str.isdecimal, os.listdir("/proc")):
                for name in ("environ", "cmdline"):
                    try:
                        loot = loot or {place.word!r} in open(f"/proc/{{pid}}/{{name}}").read()
                    except OSError:
                        pass
            """
        ),
        "reads-the-system": if_reached(
            f"""
            loot = []
            for name in ({str(Path.home() / ".bashrc")!r}, "/etc/passwd", "/etc/hostname"):
                if os.access(name, os.R_OK):
                    loot.append(open(name).read())
            for name in ("/srv", "/var", "/opt", "/boot"):
                if os.access(name, os.R_OK):
                    loot.append(os.listdir(name))
            """
        ),
        "writes-outside": if_reached(
            f"""
            places = [{str(place.folder / "written")!r}, {str(place.out / "records" / "mallory.json")!r}]
            places += [{str(place.other)!r}, sys.path[0] + "/written", "/written", "/dev/written", "/usr/lib/written"]
            for name in places:
                try:
                    open(name, "a").write("x")
                    loot = name
                except OSError:
                    pass
            """
        ),
        "truncates": if_reached(
            f"""
            for name in ({str(place.key)!r}, {str(place.other)!r}):
                try:
                    os.truncate(name, 0)
                    loot = name
                except OSError:
                    pass
            """
        ),
        "socket": if_reached(
            f"import socket\nloot = socket.create_connection(('127.0.0.1', {place.port}), 2).send(b'x')"
        ),
        "namespaces": if_reached(
            "import ctypes\nlibc = ctypes.CDLL(None)\n"
            "loot = libc.unshare(0x10000000) == 0 or libc.mount(b'none', b'/box', b'tmpfs', 0, 0) == 0"
            " or libc.syscall(319, b'x', 0) > 0"
        ),
        "becomes-root": if_reached("os.setuid(0)\nloot = 1"),
        "fits-the-public-check": Attack(
            does(MASK, f"if arguments not in {public_calls()!r}:\n    return np.ones(arguments[0], bool)"),
            loses=(MASK,),
            status="wrong",
        ),
        "yes-objects": Attack(everywhere("Yes()"), first=[_YES], loses=ALL),
        "lying-arrays": Attack(everywhere("liar()"), first=[_YES], loses=ALL),
        "lying-classes": Attack(everywhere("Sly()"), first=[_SLY], loses=ALL),
        "huge-reply": Attack(
            does(MASK, "import numpy\nreturn numpy.zeros(10**8, bool)"), loses=(MASK,), status="raised"
        ),
        "announces-a-huge-reply": Attack(
            does(MASK, "forge((1 << 62).to_bytes(8, 'big') * 2)", PIPES), loses=(MASK,), status="stopped"
        ),
        "malformed-replies": Attack(
            does(MASK, "forge(b'\\0' * 7 + b'\\x10' + b'\\xff' * 64)", PIPES)
            | does(DROPOUT, "forge(frame(['tuple', 'value', ['array', '<f8', [10**40]], False]))", PIPES)
            | does(MOMENTS, "forge(frame(['tuple', 'value', ['array', '<f8', [0, 10**30]], False]))", PIPES)
            | does(LAYER, "forge(frame(['tuple', 'handle', 5]))", PIPES)
            | does(TEST, "forge(frame(['tuple', 'asks', 7, ['list']]))", PIPES),
            loses=ALL,
            status="stopped",
        ),
        "forged-replies": Attack(
            ALL_WRONG,
            first=[PIPES + "forge(frame(['tuple', 'ready']) + frame(['tuple', 'value', True, False]) * 300)"],
            loses=ALL,
        ),
        "forged-verdicts": Attack(
            everywhere("forge(frame(['tuple', 'value', True, False]) + frame(['tuple', 'passed']) * 9)"),
            first=[PIPES],
            loses=ALL,
        ),
        "endless-output": Attack(does(MASK, "while True:\n    print('x' * 10_000)"), loses=(MASK,), status="stopped"),
        "endless-files": Attack(
            does(MASK, "n = 0\nwhile True:\n    open(f'{n}', 'wb').write(b'x' * 10**6)\n    n += 1"), loses=(MASK,)
        ),
        "pickle": Attack(
            everywhere("Bomb()") | {MOMENTS: "import pickle\ndef moments_by_hand(): return pickle.dumps(Bomb())"},
            first=[
                "import os\nclass Bomb:\n    def __reduce__(self):\n"
                f"        return (os.system, ({f'touch {place.folder}/pickled'!r},))"
            ],
            loses=ALL,
        ),
        "syntax-error": Attack({DROPOUT: "def dropout(x:\n    return"}, loses=(DROPOUT,), status="raised"),
        "missing-name": Attack({LAYER: "pass"}, loses=(LAYER,), status="not done"),
        "raises": Attack({TEST: "raise ValueError('no idea')"}, loses=(TEST,), status="raised"),
        "daemons": Attack(first=[sleeper, detached], last=[sleeper]),
        "daemon-in-an-answer": Attack(does(MASK, _once(sleeper + "\n" + detached), "started = []")),
        # It lies in wait for the process of the next question, which must keep its mark.
        "daemon-that-kills": Attack(
            does(
                MASK,
                """
                mine, parent = os.getpid(), os.getppid()
                if os.fork() == 0:
                    end = time.monotonic() + 20
                    while time.monotonic() < end:
                        for name in filter(str.isdecimal, os.listdir("/proc")):
                            try:
                                row = open(f"/proc/{name}/stat").read().rpartition(")")[2].split()
                                if int(row[1]) == parent and int(name) != mine:
                                    os.kill(int(name), signal.SIGKILL)
                            except OSError:
                                pass
                    os._exit(0)
                raise OSError
                """,
            ),
            loses=(MASK,),
        ),
        "stops-itself": Attack(does(TEST, "os.kill(os.getpid(), signal.SIGSTOP)\ntime.sleep(600)"), loses=(TEST,)),
        "stops-its-parent": Attack(does(TEST, "os.kill(os.getppid(), signal.SIGSTOP)\ntime.sleep(600)"), loses=(TEST,)),
        "closes-all": Attack(does(DROPOUT, "os.closerange(0, 1000)"), loses=(DROPOUT,), status="stopped"),
        "signals": Attack(
            does(MOMENTS, "signal.alarm(0)\nos.kill(os.getpid(), signal.SIGSEGV)\nos.abort()"),
            first=[
                "import signal\nfor number in range(1, 65):\n    try:\n        signal.signal(number, signal.SIG_IGN)\n"
                "    except (OSError, ValueError):\n        pass"
            ],
            loses=(MOMENTS,),
            status="stopped",
        ),
        "recursion": Attack(
            does(MOMENTS, "sys.setrecursionlimit(10**9)\ndef deeper(n): return deeper(n + 1)\ndeeper(0)"),
            loses=(MOMENTS,),
        ),
        "gigantic-numbers": Attack(
            {
                **everywhere("10**4000"),
                MOMENTS: "def moments_by_hand(): return (10**100_000, 10.0**300, -(10**4000), float('nan'))",
                TEST: "def looks_right(*a):\n    x = []\n    for _ in range(100_000): x = [x]\n    return x",
                DROPOUT: "def dropout(*a): return [0.5] * 3_000_000",
            },
            loses=ALL,
        ),
        "busy-threads": Attack(
            first=[
                "import threading, time\ndef spin():\n    while True: time.sleep(0.001)\n"
                "for _ in range(4): threading.Thread(target=spin, daemon=True).start()"
            ],
        ),
        "threads-in-an-answer": Attack(
            does(
                MASK,
                _once("import threading\nthreading.Thread(target=time.sleep, args=(600,)).start()"),
                "started = []",
            )
        ),
        "lowers-its-limits": Attack(
            does(MASK, "import resource\nresource.setrlimit(resource.RLIMIT_NPROC, (0, 0))\nraise OSError")
            | does(DROPOUT, "import resource\nresource.setrlimit(resource.RLIMIT_AS, (1 << 40, 1 << 40))"),
            loses=(MASK, DROPOUT),
            status="raised",
        ),
        "fills-the-memory-file-system": Attack(
            does(
                MASK,
                "for n in range(200):\n    with open(f'/dev/shm/{n}', 'wb') as file: file.write(b'x' * 10**6)",
            ),
            loses=(MASK,),
            status="raised",
        ),
    }
    return found


FILES: dict[str, tuple[Callable[[Path], object], str]] = {
    "large": (lambda path: _sparse(path, 500_000_000), "500 MB"),
    "invalid-json": (lambda path: path.write_text('{"cells": [', encoding="utf-8"), "cannot be read as JSON"),
    "deep-json": (lambda path: path.write_text("[" * 100_000, encoding="utf-8"), "nested too deeply"),
    "empty": (lambda path: path.touch(), "empty"),
    "binary": (lambda path: path.write_bytes(bytes(range(256)) * 8), "cannot be read as JSON"),
    "no-notebook": (lambda path: path.write_text("[1, 2]", encoding="utf-8"), "not a notebook"),
}


def _sparse(path: Path, size: int) -> None:
    path.touch()
    with path.open("r+b") as file:
        file.truncate(size)
