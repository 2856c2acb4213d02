"""Runs chapters and stores what they print; says where stored outputs, code and rules have drifted apart.

`python -m book.notebooks [NAME ...]` runs the named chapters in the order of _toc.yml and stores their outputs, with
digests of the code that made them. Without a name it runs those whose code has changed since, or a file of this project
that their code can reach; with `--all`, for new versions of other packages, all. A chapter that raises stays as it was.
`python -m book.notebooks --check` runs nothing and lists what is wrong with the stored ones.
"""

from __future__ import annotations

import argparse
import ast
import base64
import hashlib
import io
import json
import os
import re
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import nbformat
import yaml
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError
from nbformat import NotebookNode

ROOT = Path(__file__).resolve().parent.parent
TIMEOUT = 600
IGNORED = "nbval-ignore-output"
MOST_IGNORED = 0.15
MOST_LINES = 20
LEAST_ALT_WORDS = 5
_KERNEL_ENVIRONMENT = {
    "TF_CPP_MIN_LOG_LEVEL": "3",
    "TF_ENABLE_ONEDNN_OPTS": "0",
    "PYDEVD_DISABLE_FILE_VALIDATION": "1",
}
_RUN_METADATA = ("kernelspec", "language_info", "widgets", "dropout_course")
_DOTTED = re.compile(r"[a-zA-Z_]\w*(\.\w+)*\.?")
_CELL_NOISE = ("execution", "ExecuteTime", "collapsed", "scrolled")


def chapters(root: Path = ROOT) -> list[Path]:
    """Return the notebooks of the book in the order of its table of contents."""
    toc = yaml.safe_load((root / "_toc.yml").read_text(encoding="utf-8"))
    return [path for name in toc_files(toc) if (path := root / f"{name}.ipynb").is_file()]


def toc_files(toc: object) -> Iterator[str]:
    """Yield the documents that a table of contents names, in reading order."""
    if isinstance(toc, dict):
        yield from (str(toc[key]) for key in ("root", "file") if key in toc)
        for key in ("parts", "chapters", "sections", "subtrees", "entries"):
            yield from toc_files(toc.get(key))
    elif isinstance(toc, list):
        for entry in toc:
            yield from toc_files(entry)


def read(path: Path) -> NotebookNode:
    """Return a notebook."""
    notebook: NotebookNode = nbformat.read(path, as_version=4)
    return notebook


def code_cells(notebook: NotebookNode) -> list[tuple[int, NotebookNode]]:
    """Return the cells that hold code, each with its place in the notebook."""
    return [(i, cell) for i, cell in enumerate(notebook.cells) if cell.cell_type == "code" and cell.source.strip()]


def code_digest(notebook: NotebookNode) -> str:
    """Return the SHA-256 of the sources of the code cells, in order."""
    sources = json.dumps([cell.source for _, cell in code_cells(notebook)])
    return hashlib.sha256(sources.encode()).hexdigest()


def inputs_digest(path: Path, root: Path = ROOT) -> str:
    """Return the SHA-256 of a notebook's code and of all files that it can reach (see `reached_files`)."""
    digest = hashlib.sha256(code_digest(read(path)).encode())
    for file in reached_files(path, root):
        digest.update(file.relative_to(root).as_posix().encode() + hashlib.sha256(file.read_bytes()).digest())
    return digest.hexdigest()


def reached_files(path: Path, root: Path = ROOT) -> list[Path]:
    """Return the modules of this project that a notebook can import, directly or not, and the data beside them.

    A text that is the name of a module counts as its import, and one that begins such names as that of each. Of the
    exercises that `dropoutlib.checks` collects, a chapter reaches its own.
    """
    collection = root / "dropoutlib" / "checks" / "__init__.py"
    others = {chapter.stem.replace("-", "_") for chapter in chapters(root) if chapter != path}
    trees = [ast.parse(cell.source) for _, cell in code_cells(read(path))]
    waiting = {name for tree in trees for name in _named_modules(tree, "")}
    seen: set[str] = set()
    found: set[Path] = set()
    while waiting:
        name = waiting.pop()
        seen.add(name)
        for file in _module_files(name, root):
            if file not in found:
                found.add(file)
                if file.suffix == ".py":
                    package = ".".join(file.relative_to(root).parent.parts)
                    named = _named_modules(ast.parse(file.read_text(encoding="utf-8")), package)
                    if file == collection:
                        named = {module for module in named if module.rpartition(".")[2] not in others}
                    waiting |= named - seen
    return sorted(found)


def _named_modules(tree: ast.AST, package: str) -> set[str]:
    """Return the dotted names that may be modules: what is imported, from where, and texts that look like it."""
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: 1 - node.level or None] if node.level else []
            base = ".".join([*above, *filter(None, [node.module])])
            names |= {base} | {f"{base}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and _DOTTED.fullmatch(node.value):
            names.add(node.value)
    return names


def _module_files(name: str, root: Path) -> set[Path]:
    """Return the files of a module of this project and of the packages around it, none for another name."""
    parts = name.removesuffix(".").split(".")
    if not all(parts) or not (root / parts[0] / "__init__.py").is_file():
        return set()
    files: set[Path] = set()
    for end in range(1, len(parts) + 1):
        place = root.joinpath(*parts[:end])
        if (place / "__init__.py").is_file():
            files |= {file for file in place.iterdir() if file.is_file() and file.suffix not in (".py", ".pyc")}
            files |= {file for file in (place / "__init__.py", place / "__main__.py") if file.is_file()}
        elif place.with_suffix(".py").is_file():
            files.add(place.with_suffix(".py"))
    if name.endswith("."):
        files |= set(root.joinpath(*parts).glob("*.py"))
    return files


def execute(path: Path, root: Path = ROOT) -> None:
    """Run a notebook in its own folder and store its outputs.

    Raises
    ------
    nbclient.exceptions.CellExecutionError, CellTimeoutError, DeadKernelError
        If a cell raises or takes too long, or the kernel dies. The file is left as it was.
    """
    notebook = read(path)
    client = NotebookClient(
        notebook,
        timeout=TIMEOUT,
        kernel_name="python3",
        resources={"metadata": {"path": str(path.parent)}},
        record_timing=False,
        coalesce_streams=True,
        extra_arguments=["--log-level=ERROR"],
    )
    client.execute(env=os.environ | _KERNEL_ENVIRONMENT | {"PYTHONPATH": _python_path()})
    strip(notebook)
    shrink_figures(notebook)
    notebook.metadata["dropout_course"] = {
        "code_sha256": code_digest(notebook),
        "inputs_sha256": inputs_digest(path, root),
    }
    nbformat.validate(notebook)
    _write(notebook, path)


def strip(notebook: NotebookNode) -> None:
    """Remove what differs from one run to the next and tells the reader nothing."""
    notebook.metadata = NotebookNode(
        {
            "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
            "language_info": {"name": "python"},
            **{key: value for key, value in notebook.metadata.items() if key not in _RUN_METADATA},
        }
    )
    for _, cell in code_cells(notebook):
        for key in _CELL_NOISE:
            cell.metadata.pop(key, None)


def shrink_figures(notebook: NotebookNode) -> None:
    """Store each figure with at most 256 colours where that is smaller: drawings need no more."""
    for _, cell in code_cells(notebook):
        for output in cell.outputs:
            if figure := output.get("data", {}).get("image/png"):
                output["data"]["image/png"] = _with_a_palette(figure)


def _with_a_palette(figure: str) -> str:
    # The builder reads notebooks and has no Pillow.
    from PIL import Image

    before = base64.b64decode(figure)
    small = io.BytesIO()
    with Image.open(io.BytesIO(before)) as image:
        if image.mode == "P" or (image.mode == "RGBA" and image.getextrema()[-1] != (255, 255)):
            return figure
        image.convert("RGB").quantize(256, Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE).save(
            small, "PNG", optimize=True
        )
    return base64.b64encode(small.getvalue()).decode() if small.tell() < len(before) else figure


def problems(path: Path) -> list[str]:
    """Return a line for each rule of stored notebooks that this one breaks."""
    notebook = read(path)
    return [f"{path.name}: {problem}" for check in CHECKS for problem in check(notebook)]


def drift(notebook: NotebookNode) -> Iterator[str]:
    """Outputs belong to the code as it is now."""
    stored = notebook.metadata.get("dropout_course", {}).get("code_sha256")
    if stored is None:
        yield "was never run; run make notebooks"
    elif stored != code_digest(notebook):
        yield "its code has changed since its outputs were stored; run make notebooks"
    for index, cell in code_cells(notebook):
        if cell.execution_count is None:
            yield f"cell {index} was never run; run make notebooks"


def is_current(path: Path, root: Path = ROOT) -> bool:
    """Return whether a notebook was run with its code and all that it reaches as they are now."""
    notebook = read(path)
    stored = notebook.metadata.get("dropout_course", {}).get("inputs_sha256")
    return stored == inputs_digest(path, root) and not any(drift(notebook))


def ignored_outputs(notebook: NotebookNode) -> Iterator[str]:
    """Where a text may differ between machines, the cell asserts its claim; only the receipt is exempt."""
    cells = code_cells(notebook)
    ignored = [(index, cell) for index, cell in cells if IGNORED in cell.metadata.get("tags", [])]
    for index, cell in ignored:
        if not is_receipt(cell) and not any(isinstance(node, ast.Assert) for node in _nodes(cell)):
            yield f"cell {index} is tagged {IGNORED} and asserts nothing; assert its claim, or drop the tag"
    # The receipt is in every notebook, so a short one is not over the limit for it alone.
    counted = [cell for _, cell in ignored if not is_receipt(cell)]
    if len(counted) > MOST_IGNORED * len(cells):
        yield f"{len(counted)} of {len(cells)} code cells are tagged {IGNORED}; keep them under {MOST_IGNORED:.0%}"
    for index, cell in cells:
        if "NBVAL_" in cell.source:
            yield f"cell {index} steers nbval by a comment; use the tag {IGNORED}"
        if {"nbval-skip", "raises-exception", "nbval-raises-exception"} & set(cell.metadata.get("tags", [])):
            yield f"cell {index} is tagged so that nbval does not check it; catch and print the error instead"


def clean_outputs(notebook: NotebookNode) -> Iterator[str]:
    """No log line, warning or traceback is stored."""
    for index, cell in code_cells(notebook):
        for output in cell.outputs:
            if output.get("name") == "stderr":
                yield f"cell {index} stored a log line or warning: {output.text.strip().splitlines()[0]!r}"
            if output.output_type == "error":
                yield f"cell {index} stored a {output.ename}"


def no_semicolon(notebook: NotebookNode) -> Iterator[str]:
    """A last semicolon hides the output from the reader but not from nbval."""
    for index, cell in code_cells(notebook):
        if cell.source.rstrip().endswith(";"):
            yield f"cell {index} ends with a semicolon; assign the value to _ or call plt.show()"


def alt_texts(notebook: NotebookNode) -> Iterator[str]:
    """Every figure has a sentence as its alternative text."""
    for index, cell in code_cells(notebook):
        if any(kind.startswith("image/") for output in cell.outputs for kind in output.get("data", {})):
            alt = cell.metadata.get("mystnb", {}).get("image", {}).get("alt", "")
            if len(alt.split()) < LEAST_ALT_WORDS:
                yield (
                    f"cell {index} shows a figure whose alt text is {alt!r}; "
                    f"state its finding in {LEAST_ALT_WORDS} words or more, in mystnb.image.alt"
                )


def short_cells(notebook: NotebookNode) -> Iterator[str]:
    """A code cell holds one idea."""
    for index, cell in code_cells(notebook):
        if (lines := sum(bool(line.strip()) for line in cell.source.splitlines())) > MOST_LINES:
            yield f"cell {index} has {lines} lines of code; keep to {MOST_LINES}"


CHECKS = (drift, ignored_outputs, clean_outputs, no_semicolon, alt_texts, short_cells)


def is_receipt(cell: NotebookNode) -> bool:
    """Return whether all that a cell shows is the reproducibility receipt."""
    last = ast.parse(cell.source).body[-1]
    return (
        isinstance(last, ast.Expr)
        and isinstance(last.value, ast.Call)
        and isinstance(last.value.func, ast.Name)
        and last.value.func.id == "receipt"
    )


def _nodes(cell: NotebookNode) -> Iterator[ast.AST]:
    return ast.walk(ast.parse(cell.source))


def _python_path() -> str:
    return os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")]))


def _write(notebook: NotebookNode, path: Path) -> None:
    with tempfile.NamedTemporaryFile(
        "w", encoding="utf-8", dir=path.parent, prefix=f".{path.stem}-", suffix=".tmp", delete=False
    ) as file:
        try:
            nbformat.write(notebook, file)
        except BaseException:
            Path(file.name).unlink()
            raise
    Path(file.name).chmod(path.stat().st_mode & 0o777)
    Path(file.name).replace(path)


def main(arguments: Sequence[str] | None = None, root: Path = ROOT) -> int:
    """Run or check chapters; return the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m book.notebooks", description="run chapters and store their outputs"
    )
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help="chapters, as in chapters/NAME.ipynb (default: changed)"
    )
    parser.add_argument("--all", action="store_true", help="run the chapters that have not changed, too")
    parser.add_argument("--check", action="store_true", help="run nothing; list what is wrong with the stored outputs")
    options = parser.parse_args(arguments)
    paths = chapters(root)
    if unknown := sorted(set(options.names) - {path.stem for path in paths}):
        parser.error(f"no such chapter in _toc.yml: {', '.join(unknown)}; known: {', '.join(p.stem for p in paths)}")
    status = 0
    for path in paths:
        if options.names and path.stem not in options.names:
            continue
        if options.check:
            found = problems(path)
            print(*(found or [f"{path.name}: as stored"]), sep="\n")
            status |= bool(found)
            continue
        if not options.names and not options.all and is_current(path, root):
            print(f"{path.stem} ... unchanged")
            continue
        print(f"{path.stem} ... ", end="", flush=True)
        start = time.perf_counter()
        try:
            execute(path, root)
        except (CellExecutionError, CellTimeoutError, DeadKernelError) as error:
            print("failed")
            print(f"{path.name} raised and stays as it was:\n{error}", file=sys.stderr)
            return 1
        print(f"{time.perf_counter() - start:.1f} s")
    return status


if __name__ == "__main__":
    sys.exit(main())
