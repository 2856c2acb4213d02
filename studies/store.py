"""What every study needs: a digest of the code that makes its results, a place for them, processes, a progress bar."""

from __future__ import annotations

import ast
import hashlib
import itertools
import json
import platform
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from importlib.metadata import version
from multiprocessing import get_context
from pathlib import Path
from typing import Any, TypeVar

from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

ROOT = Path(__file__).resolve().parents[1]
STORED = ROOT / "dropoutlib" / "stored"
Item = TypeVar("Item")


def code_digest(study: str, root: Path = ROOT) -> str:
    """Return the SHA-256 of the code of a study and of all that it imports from `dropoutlib` and from other studies.

    This module does not count: nothing here changes a result. Nor do docstrings, comments on lines of their own and
    blank lines.
    """
    sha = hashlib.sha256()
    for name, path in sorted(_closure(study, root).items()):
        sha.update(f"{name}\n{_code(path.read_text(encoding='utf-8'))}\n".encode())
    return sha.hexdigest()


def save(name: str, results: Mapping[str, Any], folder: Path = STORED) -> Path:
    """Write a study's results, with one line for each innermost entry, so that a change shows as one."""
    path = folder / f"{name}.json"
    path.write_text(_lines(results, "") + "\n", encoding="utf-8")
    return path


def progress(items: Iterable[Item], total: int) -> Iterator[Item]:
    """Yield the items and draw a bar on stderr."""
    start = time.perf_counter()
    for done, item in enumerate(items, start=1):
        yield item
        bar = "#" * (30 * done // total)
        passed = time.perf_counter() - start
        left = passed / done * (total - done)
        print(f"\r[{bar:30}] {done}/{total}  {passed:.0f} s, {left:.0f} s left ", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)


def versions(*packages: str) -> dict[str, str]:
    """Return the versions of Python and of packages."""
    return {"python": platform.python_version(), **{name: version(name) for name in packages}}


def parallel(function: Callable[..., Item], jobs: Sequence[tuple[Any, ...]], workers: int) -> Iterator[Item]:
    """Yield function(*job) for each job in order; every process computes in one thread."""
    if workers == 1:
        with threadpool_limits(1):
            yield from itertools.starmap(function, jobs)
        return
    with ProcessPoolExecutor(workers, get_context("spawn"), _one_thread) as pool:
        yield from pool.map(_call, itertools.repeat(function), jobs, chunksize=4)


def _call(function: Callable[..., Item], arguments: tuple[Any, ...]) -> Item:
    return function(*arguments)


def _one_thread() -> None:
    import numpy  # noqa: F401  (what is not loaded cannot be limited)

    threadpool_limits(1)


def _closure(study: str, root: Path) -> dict[str, Path]:
    """Return the files of the study and of the modules of `dropoutlib` and `studies` that it imports, by name."""
    found: dict[str, Path] = {}
    names = [study]
    while names:
        name = names.pop()
        path = root / f"{name.replace('.', '/')}.py"
        if name in found or name == __name__ or not path.is_file():
            continue
        found[name] = path
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith(("dropoutlib", "studies")):
                names += [str(node.module), *(f"{node.module}.{alias.name}" for alias in node.names)]
    return found


def _code(source: str) -> str:
    """Return the lines that hold code."""
    silent: set[int] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            match node.body:
                case [ast.Expr(value=ast.Constant(value=str())) as docstring, *_]:
                    silent |= set(range(docstring.lineno, (docstring.end_lineno or docstring.lineno) + 1))
    lines = enumerate(source.splitlines(), start=1)
    kept = (line.rstrip() for number, line in lines if number not in silent)
    return "\n".join(line for line in kept if line.strip() and not line.lstrip().startswith("#"))


def _lines(value: Any, indent: str) -> str:
    if not isinstance(value, dict) or not value:
        return json.dumps(value, allow_nan=False)
    inner = indent + " "
    entries = (f"{inner}{json.dumps(key)}: {_lines(entry, inner)}" for key, entry in value.items())
    return "{\n" + ",\n".join(entries) + f"\n{indent}}}"
