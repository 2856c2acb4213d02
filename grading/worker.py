"""The child's side: runs a submission's cells and answers questions about what they define.

It runs as a script inside the sandbox, beside `plain.py` and a copy of dropoutlib without its checks, and knows nothing
else of this package. What runs here is the student's: nothing that it sends is believed beyond what an answer may say.

Messages are plain values, each with its length before it in eight bytes:

    run cells, skipped      -> cell k, failed k kind text line, ..., ready
    take function, fork     -> gone, when the process of this question has ended
      call handle name arguments pure keep
                            -> value v changed | handle k | raised kind text | asks k arguments
      value v | raised text    what the checker's function k gave
      done
"""

from __future__ import annotations

import contextlib
import ctypes
import io
import json
import os
import platform
import resource
import signal
import struct
import sys
import types
from pathlib import Path
from typing import IO, Any, NoReturn

_MEGABYTE = 1 << 20
_SYSTEM_FILES = ("/usr/lib", "/usr/lib64", "/lib", "/lib64", "/etc/ld.so.cache", "/dev/zero", "/dev/urandom")
# System calls that are refused, by their number on x86-64 and on AArch64. Where memory is not counted by the limits
# (memfd, System V), where namespaces give rights, where other processes can be reached, and sockets.
_REFUSED = {
    "socket": (41, 198),
    "memfd_create": (319, 279),
    "memfd_secret": (447, 447),
    "shmget": (29, 194),
    "semget": (64, 190),
    "msgget": (68, 186),
    "mq_open": (240, 180),
    "unshare": (272, 97),
    "setns": (308, 268),
    "mount": (165, 40),
    "umount2": (166, 39),
    "pivot_root": (155, 41),
    "chroot": (161, 51),
    "open_tree": (428, 428),
    "move_mount": (429, 429),
    "fsopen": (430, 430),
    "fsmount": (432, 432),
    "ptrace": (101, 117),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "pidfd_getfd": (438, 438),
    "io_uring_setup": (425, 425),
    "add_key": (248, 217),
    "request_key": (249, 218),
    "keyctl": (250, 219),
    "bpf": (321, 280),
    "perf_event_open": (298, 241),
    "userfaultfd": (323, 282),
}
# Refused too where no process namespace keeps other processes out of reach. A session that nobody can leave is one
# that can be killed as a whole.
_REFUSED_AMONG_OTHERS = {
    "kill": (62, 129),
    "tkill": (200, 130),
    "tgkill": (234, 131),
    "rt_sigqueueinfo": (129, 138),
    "rt_tgsigqueueinfo": (297, 240),
    "pidfd_open": (434, 434),
    "pidfd_send_signal": (424, 424),
    "setsid": (112, 157),
    "setpgid": (109, 154),
    "setpriority": (141, 140),
    "sched_setaffinity": (203, 122),
}
_CLONE, _CLONE3, _PRLIMIT, _FCNTL = (56, 220), (435, 435), (302, 261), (72, 25)
_ARCHITECTURES = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}
_NEW_NAMESPACES = 0x7E020000
_EPERM, _ENOSYS = 1, 38
_ALLOW, _ERRNO, _KILL = 0x7FFF0000, 0x00050000, 0x80000000
_LOAD, _EQUAL, _AT_LEAST, _ANY_BIT, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06


class CellTimeout(BaseException):
    """A cell has used its time; not an Exception, so that few handlers catch it."""


# --- confinement -------------------------------------------------------------------------------------------------


def confine(settings: dict[str, Any]) -> list[str]:
    """Give up every right that answers do not need, and return what this system could not take away."""
    among_others = settings["kind"] == "process"
    limits, uid = settings["limits"], settings["uid"]
    memory, size = limits["address_mb"] * _MEGABYTE, limits["file_mb"] * _MEGABYTE
    seconds = int(limits["seconds"]) + 1
    for name, value in (
        (resource.RLIMIT_AS, memory),
        (resource.RLIMIT_FSIZE, size),
        (resource.RLIMIT_CPU, seconds),
        (resource.RLIMIT_NPROC, settings["processes"]),
        (resource.RLIMIT_NOFILE, 256),
        (resource.RLIMIT_CORE, 0),
    ):
        _, hard = resource.getrlimit(name)
        value = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(name, (value, value))
    with contextlib.suppress(OSError):
        # When memory is short, the kernel ends this process before any other.
        Path("/proc/self/oom_score_adj").write_text("1000")
    paths = [*settings["paths"], *sys.path]
    libc = ctypes.CDLL(None, use_errno=True)
    opened = {path: os.open(path, os.O_PATH) for path in paths if os.path.isdir(path)} if among_others else {}
    fence = _fence(libc, [*opened, *_SYSTEM_FILES]) if among_others else -1
    if uid is not None:
        try:
            os.setgroups([])
            os.setresgid(uid, uid, uid)
            os.setresuid(uid, uid, uid)
        except OSError as error:
            raise SystemExit(f"root cannot become another user here ({error}); grade as an ordinary user") from None
    if os.getuid() == 0 or os.geteuid() == 0:
        raise SystemExit("a submission never runs as root")
    # PR_SET_DUMPABLE, so that /proc/self stays readable; PR_SET_PDEATHSIG; PR_SET_NO_NEW_PRIVS.
    for option, value in ((4, 1), (1, signal.SIGKILL), (38, 1)):
        libc.prctl(option, value, 0, 0, 0)
    _reach(paths, opened)
    missing = []
    if among_others and (fence < 0 or libc.syscall(446, fence, 0)):
        missing.append("files")
    if not _refuse(libc, among_others):
        missing.append("calls")
    return missing


def _reach(paths: list[str], opened: dict[str, int]) -> None:
    """Set the search path; folders under one that this user cannot enter are reached through open descriptors."""
    names = {path: f"/proc/self/fd/{fd}" for path, fd in opened.items() if not os.access(path, os.R_OK | os.X_OK)}
    sys.path[:] = [names.get(path, path) for path in paths]
    for module in list(sys.modules.values()):
        where = getattr(module, "__path__", None)
        if isinstance(where, list):
            where[:] = [_moved(item, names) for item in where]
    sys.path_importer_cache.clear()


def _moved(path: str, names: dict[str, str]) -> str:
    for old, new in names.items():
        if path.startswith(old + "/"):
            return new + path[len(old) :]
    return path


def _fence(libc: Any, readable: list[str]) -> int:
    """Return a Landlock rule set: read what is named, write below the working folder only; -1 if there is none."""
    version = libc.syscall(444, None, 0, 1)
    if version < 1:
        return -1
    # Bits: execute, write and read files, list folders, nine that make and remove; then move, and shorten files.
    every = (1 << (13 if version < 2 else 14 if version < 3 else 15)) - 1
    execute, of_files, reading = 1, every & 0x4007, 0b1101
    rules: int = libc.syscall(444, ctypes.byref(ctypes.c_uint64(every)), 8, 0)
    wanted = [*((path, reading) for path in readable), (os.getcwd(), every & ~execute), ("/dev/null", 0b110)]
    for path, rights in wanted:
        with contextlib.suppress(FileNotFoundError):
            opened = os.open(path, os.O_PATH)
            rule = struct.pack("=Qi", rights if os.path.isdir(path) else rights & of_files & ~execute, opened)
            if libc.syscall(445, rules, 1, rule, 0):
                return -1
            os.close(opened)
    return rules


def _refuse(libc: Any, among_others: bool) -> bool:
    """Install the filter of system calls; return whether this machine's numbers are known and it was accepted."""
    if platform.machine() not in _ARCHITECTURES:
        return False
    column, architecture = _ARCHITECTURES[platform.machine()]
    refused = _REFUSED | (_REFUSED_AMONG_OTHERS if among_others else {})
    code: list[tuple[int, int, int, int]] = [
        (_LOAD, 0, 0, 4),
        (_EQUAL, 1, 0, architecture),
        (_RETURN, 0, 0, _KILL),
        (_LOAD, 0, 0, 0),
    ]
    if column == 0:
        # The numbers of x86-64's second table.
        code += [(_AT_LEAST, 0, 1, 0x40000000), (_RETURN, 0, 0, _ERRNO | _ENOSYS)]
    for numbers in refused.values():
        code += [(_EQUAL, 0, 1, numbers[column]), (_RETURN, 0, 0, _ERRNO | _EPERM)]
    # The C library uses clone where there is no clone3, whose flags a filter cannot see.
    code += [(_EQUAL, 0, 1, _CLONE3[column]), (_RETURN, 0, 0, _ERRNO | _ENOSYS)]
    if among_others:
        # F_SETOWN, F_SETSIG and F_SETOWN_EX let the kernel send signals.
        code += [(_EQUAL, 0, 6, _FCNTL[column]), (_LOAD, 0, 0, 24)]
        code += [(_EQUAL, 3 - k, 0, command) for k, command in enumerate((8, 10, 15))]
        code += [(_RETURN, 0, 0, _ALLOW), (_RETURN, 0, 0, _ERRNO | _EPERM)]
        # Limits of this process only.
        code += [(_EQUAL, 0, 4, _PRLIMIT[column]), (_LOAD, 0, 0, 16), (_EQUAL, 1, 0, 0)]
        code += [(_RETURN, 0, 0, _ERRNO | _EPERM), (_RETURN, 0, 0, _ALLOW)]
    code += [(_EQUAL, 0, 3, _CLONE[column]), (_LOAD, 0, 0, 16), (_ANY_BIT, 0, 1, _NEW_NAMESPACES)]
    code += [(_RETURN, 0, 0, _ERRNO | _EPERM), (_RETURN, 0, 0, _ALLOW)]
    program = b"".join(struct.pack("=HBBI", *line) for line in code)
    buffer = ctypes.create_string_buffer(program, len(program))
    filter_ = struct.pack("@HP", len(code), ctypes.addressof(buffer))
    done: int = libc.prctl(22, 2, ctypes.c_char_p(filter_), 0, 0)
    return done == 0


# --- conversation ------------------------------------------------------------------------------------------------


class Pipe:
    """Both directions of the conversation. The source is not buffered: what is not read yet is the next reader's."""

    def __init__(self, source: io.FileIO, sink: IO[bytes], most: int) -> None:
        from plain import dumps, loads  # type: ignore[import-not-found, unused-ignore]

        self._source, self._sink, self._most, self._dumps, self._loads = source, sink, most, dumps, loads

    def send(self, *message: object) -> None:
        """Send a message; what cannot be sent is an error of the answer's."""
        data = self._dumps(message)
        if len(data) > self._most:
            raise ValueError(f"the value is larger than {self._most >> 20} MB")
        self._sink.write(len(data).to_bytes(8, "big") + data)
        self._sink.flush()

    def receive(self) -> Any:
        """Return the next message; end where there is none."""
        return self._loads(self._read(int.from_bytes(self._read(8), "big")))

    def _read(self, count: int) -> bytes:
        data = bytearray()
        while len(data) < count:
            part = self._source.read(count - len(data))
            if not part:
                os._exit(0)
            data += part
        return bytes(data)


class Worker:
    """A submission's names, and what can be asked about them."""

    def __init__(self, pipe: Pipe, cell_seconds: float) -> None:
        self._pipe, self._cell_seconds = pipe, cell_seconds
        self._module = types.ModuleType("__main__")
        self._module.__dict__["display"] = print
        sys.modules["_worker"], sys.modules["__main__"] = sys.modules["__main__"], self._module

    def serve(self) -> NoReturn:
        """Do what is asked for, until the pipe ends."""
        while True:
            match self._pipe.receive():
                case ("run", list(cells), list(skipped)):
                    self._run(cells, skipped)
                case ("take", str(name), bool(fork)):
                    if not fork:
                        self._answer(name)
                        self._pipe.send("gone", 0)
                        continue
                    child = os.fork()
                    if child == 0:
                        self._answer(name)
                        os._exit(0)
                    self._pipe.send("gone", os.waitpid(child, 0)[1])

    def _run(self, cells: list[list[str]], skipped: list[int]) -> None:
        signal.signal(signal.SIGALRM, _time_is_up)
        for number, (label, source) in enumerate(cells):
            if number in skipped:
                continue
            self._pipe.send("cell", number)
            try:
                signal.setitimer(signal.ITIMER_REAL, self._cell_seconds, 1)
                exec(compile(source, label, "exec", dont_inherit=True), self._module.__dict__)
            except BaseException as error:
                signal.setitimer(signal.ITIMER_REAL, 0)
                self._pipe.send("failed", number, _kind(error), _text(error), _line(error, label))
            finally:
                signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        self._pipe.send("ready")

    def _answer(self, name: str) -> None:
        from dropoutlib.checks.exercises import Answer, Handle

        answer, objects = Answer(self._module.__dict__.get(name)), list[Any]()
        while True:
            message = self._pipe.receive()
            if message[0] == "done":
                return
            _, handle, method, given, pure, keep = message
            arguments = tuple(self._stand_in(a["function"]) if "function" in a else a["value"] for a in given)
            try:
                target = Handle(objects[handle]) if handle is not None else None
                value, changed = answer._perform(target, method, arguments, pure, keep)
                if isinstance(value, Handle):
                    objects.append(value.target)
                    self._pipe.send("handle", len(objects) - 1)
                else:
                    self._pipe.send("value", value, changed)
            except BaseException as error:
                self._pipe.send("raised", _kind(error), _text(error))

    def _stand_in(self, number: int) -> Any:
        def ask(*arguments: object) -> Any:
            self._pipe.send("asks", number, list(arguments))
            status, value = self._pipe.receive()
            if status == "raised":
                raise RuntimeError(value)
            return value

        return ask


def _time_is_up(*_: object) -> NoReturn:
    raise CellTimeout("the cell did not end in time")


def _kind(error: BaseException) -> str:
    return str(type(error).__name__)[:80]


def _text(error: BaseException) -> str:
    try:
        return str(error.msg if isinstance(error, SyntaxError) else error)[:1000]
    except BaseException:
        return ""


def _line(error: BaseException, label: str) -> int:
    """Return the last line of the cell itself that the error went through."""
    if isinstance(error, SyntaxError):
        return error.lineno or 0
    line, trace = 0, error.__traceback__
    while trace is not None:
        line = trace.tb_lineno if trace.tb_frame.f_code.co_filename == label else line
        trace = trace.tb_next
    return line


def main() -> None:
    """Take the pipe from standard input and output, and give these to the student's code."""
    settings = json.loads(sys.argv[1])
    source, sink = io.FileIO(os.dup(0)), os.fdopen(os.dup(1), "wb")
    nothing = os.open(os.devnull, os.O_RDWR)
    os.dup2(nothing, 0)
    os.dup2(2, 1)
    missing = confine(settings)
    sys.argv[1:] = []
    limits = settings["limits"]
    pipe = Pipe(source, sink, limits["reply_mb"] * _MEGABYTE)
    import dropoutlib.checks  # noqa: F401

    pipe.send("hello", missing)
    Worker(pipe, limits["cell_seconds"]).serve()


if __name__ == "__main__":
    main()
