"""The chapters' stored outputs: ours keep every rule, and each planted defect is found."""

import base64
import io
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nbformat
import numpy as np
import pytest
from nbformat import NotebookNode
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output
from PIL import Image, ImageDraw

from book import notebooks

CHAPTERS = notebooks.chapters()
PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="


def code(source: str, *outputs: NotebookNode, tags: tuple[str, ...] = (), **metadata: Any) -> NotebookNode:
    cell = new_code_cell(source, outputs=list(outputs), execution_count=1, metadata={"tags": list(tags), **metadata})
    return cell


def stored(*cells: NotebookNode) -> NotebookNode:
    notebook = new_notebook(cells=list(cells))
    notebook.metadata["dropout_course"] = {"code_sha256": notebooks.code_digest(notebook)}
    return notebook


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "chapters").mkdir()
    (tmp_path / "_toc.yml").write_text(
        "root: index\nparts:\n  - chapters:\n      - file: chapters/b\n      - file: chapters/a\n"
    )
    for name, source in {"a": "print('a')", "b": "print('b')"}.items():
        nbformat.write(
            new_notebook(cells=[new_markdown_cell("# Title"), new_code_cell(source)]), chapter(tmp_path, name)
        )
    return tmp_path


def chapter(project: Path, name: str) -> Path:
    return project / "chapters" / f"{name}.ipynb"


def test_there_are_chapters() -> None:
    assert "standard-vs-inverted" in [path.stem for path in CHAPTERS]


@pytest.mark.parametrize("path", CHAPTERS, ids=lambda path: path.stem)
def test_a_chapter_keeps_every_rule(path: Path) -> None:
    assert notebooks.problems(path) == []


def test_a_good_notebook_has_no_problem() -> None:
    notebook = stored(new_markdown_cell("# A"), code("print(1)", new_output("stream", text="1\n")))
    assert [problem for check in notebooks.CHECKS for problem in check(notebook)] == []


FIGURE = new_output("display_data", data={"image/png": PIXEL})
PLANTED: dict[str, tuple[Callable[[NotebookNode], Any], NotebookNode, str]] = {
    "never run": (notebooks.drift, new_notebook(cells=[code("1")]), "was never run"),
    "a cell never run": (notebooks.drift, stored(new_code_cell("1")), "cell 0 was never run"),
    "stderr": (
        notebooks.clean_outputs,
        stored(code("1", new_output("stream", name="stderr", text="UserWarning: old\n"))),
        "stored a log line or warning: 'UserWarning: old'",
    ),
    "traceback": (
        notebooks.clean_outputs,
        stored(code("1 / 0", new_output("error", ename="ZeroDivisionError", evalue="", traceback=[]))),
        "stored a ZeroDivisionError",
    ),
    "semicolon": (notebooks.no_semicolon, stored(code("plot();\n")), "ends with a semicolon"),
    "no alt text": (notebooks.alt_texts, stored(code("plot()", FIGURE)), "alt text is ''"),
    "a label as alt text": (
        notebooks.alt_texts,
        stored(code("plot()", FIGURE, mystnb={"image": {"alt": "Mean over p"}})),
        "alt text is 'Mean over p'",
    ),
    "a long cell": (notebooks.short_cells, stored(code("x = 1\n" * 21)), "21 lines of code"),
    "tag without assertion": (
        notebooks.ignored_outputs,
        stored(code("print(1)", tags=(notebooks.IGNORED,))),
        "asserts nothing",
    ),
    "too many tags": (
        notebooks.ignored_outputs,
        stored(*(code("assert True", tags=(notebooks.IGNORED,) if i < 2 else ()) for i in range(11))),
        "2 of 11 code cells",
    ),
    "a comment for nbval": (notebooks.ignored_outputs, stored(code("# NBVAL_SKIP\n1")), "steers nbval by a comment"),
    "a skipped cell": (notebooks.ignored_outputs, stored(code("1", tags=("nbval-skip",))), "does not check it"),
}


@pytest.mark.parametrize("name", PLANTED)
def test_a_planted_defect_is_found(name: str) -> None:
    check, notebook, message = PLANTED[name]
    assert any(message in problem for problem in check(notebook)), list(check(notebook))


def png(image: Image.Image) -> str:
    file = io.BytesIO()
    image.save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


def shrunk(figure: str) -> str:
    notebook = new_notebook(cells=[code("draw()", new_output("display_data", data={"image/png": figure}))])
    notebooks.shrink_figures(notebook)
    return str(notebook.cells[0].outputs[0]["data"]["image/png"])


def test_a_figure_is_stored_with_few_colours_and_looks_the_same() -> None:
    drawing = Image.new("RGBA", (1600, 1200), "white")
    pen = ImageDraw.Draw(drawing)
    for n, colour in enumerate(("#0072b2", "#d55e00", "#009e73", "black") * 10):
        pen.ellipse((20 * n, 10 * n, 20 * n + 300, 10 * n + 400), outline=colour, width=8)
    drawing = drawing.resize((400, 300), Image.Resampling.BICUBIC)
    figure = png(drawing)
    small = shrunk(figure)
    assert len(small) < 0.6 * len(figure)
    with Image.open(io.BytesIO(base64.b64decode(small))) as image:
        assert image.mode == "P"
        difference = np.asarray(image.convert("RGB"), int) - np.asarray(drawing.convert("RGB"), int)
    assert np.abs(difference).mean() < 1, "of 256 steps of lightness"
    assert shrunk(small) == small


@pytest.mark.parametrize("transparent", [True, False])
def test_a_figure_that_would_not_gain_stays(transparent: bool) -> None:
    figure = png(Image.new("RGBA", (3, 3), (10, 20, 30, 40))) if transparent else PIXEL
    assert shrunk(figure) == figure


def test_changed_code_is_found() -> None:
    notebook = stored(code("p = 0.3"))
    notebook.cells[0].source = "p = 0.5"
    assert any("code has changed" in problem for problem in notebooks.drift(notebook))


def test_changed_text_is_no_drift() -> None:
    notebook = stored(new_markdown_cell("old"), code("p = 0.3"))
    notebook.cells[0].source = "new"
    assert list(notebooks.drift(notebook)) == []


@pytest.mark.parametrize("source", ["receipt(seeds={}, outputs={})", "x = 1\nreceipt(seeds={}, outputs={'x': x})"])
def test_the_receipt_needs_no_assertion(source: str) -> None:
    notebook = stored(code(source, tags=(notebooks.IGNORED,)), code("1"))
    assert list(notebooks.ignored_outputs(notebook)) == []


def test_a_cell_that_only_names_the_receipt_needs_an_assertion() -> None:
    notebook = stored(code("receipt(1)\nprint(time())", tags=(notebooks.IGNORED,)))
    assert any("asserts nothing" in problem for problem in notebooks.ignored_outputs(notebook))


def test_all_chapters_run_in_the_order_of_the_contents(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert notebooks.main([], project) == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == ["b", "a"]
    for name in "ab":
        notebook = notebooks.read(chapter(project, name))
        assert notebook.cells[1].outputs == [new_output("stream", name="stdout", text=f"{name}\n")]
        assert notebooks.problems(chapter(project, name)) == []
        assert "execution" not in notebook.cells[1].metadata
    assert notebooks.main(["--check"], project) == 0


def test_running_again_changes_nothing(project: Path) -> None:
    notebooks.main(["a"], project)
    first = chapter(project, "a").read_bytes()
    notebooks.main(["a"], project)
    assert chapter(project, "a").read_bytes() == first


def test_only_the_named_chapter_runs(project: Path) -> None:
    before = chapter(project, "b").read_bytes()
    assert notebooks.main(["a"], project) == 0
    assert chapter(project, "b").read_bytes() == before


@pytest.fixture
def package(project: Path) -> Path:
    """The package that the chapters import, beside them; `a` imports `one`, which needs data, and `b` loads `two`."""
    files = {
        "__init__.py": "",
        "one.py": "def value():\n    from . import data\n    return data.load('x.txt')",
        "data/__init__.py": "import pathlib\ndef load(n): return (pathlib.Path(__file__).parent / n).read_text()",
        "data/x.txt": "x",
        "two.py": "TWO = 2",
        "unused.py": "",
        "checks/__init__.py": "from dropoutlib.checks import a, b, shared",
        "checks/a.py": "",
        "checks/b.py": "",
        "checks/shared.py": "",
    }
    folder = project / "dropoutlib"
    for name, text in files.items():
        (folder / name).parent.mkdir(exist_ok=True, parents=True)
        (folder / name).write_text(text, encoding="utf-8")
    for name, source in {
        "a": "from dropoutlib import checks, one\nprint(one.value())",
        "b": "import importlib\nimport dropoutlib.checks\nprint(importlib.import_module('dropoutlib.two').TWO)",
    }.items():
        nbformat.write(new_notebook(cells=[new_code_cell(source)]), chapter(project, name))
    return folder


def ran(project: Path, capsys: pytest.CaptureFixture[str], *options: str) -> str:
    """Return the chapters that run, in order."""
    assert notebooks.main(options, project) == 0
    return "".join(line.split()[0] for line in capsys.readouterr().out.splitlines() if "unchanged" not in line)


class Client:
    """In the place of a kernel."""

    def __init__(self, notebook: NotebookNode, **options: Any) -> None:
        self.notebook = notebook

    def execute(self, **options: Any) -> None:
        for cell in self.notebook.cells:
            cell.execution_count = 1


def test_only_what_changed_runs(
    package: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    project = package.parent
    monkeypatch.setattr(notebooks, "NotebookClient", Client)
    assert ran(project, capsys) == "ba"
    assert ran(project, capsys) == ""
    assert ran(project, capsys, "b") == "b"
    notebook = notebooks.read(chapter(project, "b"))
    notebook.cells[0].source += "\nprint('more')"
    nbformat.write(notebook, chapter(project, "b"))
    assert ran(project, capsys) == "b"
    (package / "one.py").write_text("def value():\n    return 1\n", encoding="utf-8")
    assert ran(project, capsys) == "a"
    assert ran(project, capsys, "--all") == "ba"


def test_a_chapter_reaches_what_it_can_import_and_the_data_beside_it(package: Path) -> None:
    def reached(name: str) -> set[str]:
        files = notebooks.reached_files(chapter(package.parent, name), package.parent)
        return {file.relative_to(package).as_posix() for file in files}

    common = {"__init__.py", "checks/__init__.py", "checks/shared.py"}
    assert reached("a") == common | {"one.py", "data/__init__.py", "data/x.txt", "checks/a.py"}
    assert reached("b") == common | {"two.py", "checks/b.py"}


@pytest.mark.parametrize(
    ("file", "stale"), [("data/x.txt", "a"), ("one.py", "a"), ("two.py", "b"), ("unused.py", ""), ("__init__.py", "ab")]
)
def test_a_change_of_a_file_makes_stale_the_chapters_that_reach_it(package: Path, file: str, stale: str) -> None:
    project = package.parent
    before = {name: notebooks.inputs_digest(chapter(project, name), project) for name in "ab"}
    path = package / file
    path.write_text(path.read_text(encoding="utf-8") + "\n", encoding="utf-8")
    assert stale == "".join(
        name for name in "ab" if notebooks.inputs_digest(chapter(project, name), project) != before[name]
    )


def test_what_a_chapter_reaches_is_known() -> None:
    path = notebooks.ROOT / "chapters" / "does-it-help.ipynb"
    reached = {file.relative_to(notebooks.ROOT).as_posix() for file in notebooks.reached_files(path)}
    own = f"dropoutlib/checks/{path.stem.replace('-', '_')}.py"
    exercises = {f"dropoutlib/checks/{other.stem.replace('-', '_')}.py" for other in CHAPTERS}
    data = "dropoutlib/stored/does_it_help_digits.json"
    assert {"dropoutlib/__init__.py", "dropoutlib/layers.py", "dropoutlib/receipt.py", data} <= reached
    assert reached & exercises == {own}


def test_a_chapter_that_raises_stays_as_it_was(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    nbformat.write(new_notebook(cells=[new_code_cell("x = 1"), new_code_cell("x / 0")]), chapter(project, "a"))
    before = chapter(project, "a").read_bytes()
    assert notebooks.main(["a"], project) == 1
    shown = capsys.readouterr().err
    assert "a.ipynb raised and stays as it was" in shown
    assert "x / 0" in shown
    assert "ZeroDivisionError" in shown
    assert chapter(project, "a").read_bytes() == before
    assert [path.name for path in (project / "chapters").iterdir() if path.suffix != ".ipynb"] == []


def test_check_lists_what_has_drifted(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert notebooks.main(["--check", "a"], project) == 1
    assert "a.ipynb: was never run; run make notebooks" in capsys.readouterr().out


def test_an_unknown_chapter_is_refused(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        notebooks.main(["c"], project)
    assert "no such chapter in _toc.yml: c; known: b, a" in capsys.readouterr().err


@pytest.fixture
def compare(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run a notebook of one cell, compare its output with the stored text, and run a test beside it."""

    def run(source: str, text: str, *options: str) -> subprocess.CompletedProcess[str]:
        notebook = stored(code(source, new_output("stream", text=text)))
        notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
        nbformat.write(notebook, tmp_path / "chapter.ipynb")
        (tmp_path / "test_one.py").write_text("def test_one():\n    pass\n")
        command = [sys.executable, "-m", "pytest", "--nbval", "-p", "no:cacheprovider", *options, "."]
        environment = os.environ | {"PYTHONPATH": str(notebooks.ROOT)}
        return subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)

    return run


def test_the_right_output_passes(compare: Callable[..., subprocess.CompletedProcess[str]]) -> None:
    assert compare("print(1 + 1)", "2\n").returncode == 0


def test_a_stale_output_fails(compare: Callable[..., subprocess.CompletedProcess[str]]) -> None:
    run = compare("print(1 + 1)", "3\n")
    assert run.returncode == 1
    assert "1 failed, 1 passed" in run.stdout


def test_kernels_are_not_measured(compare: Callable[..., subprocess.CompletedProcess[str]]) -> None:
    source = "import sys\nprint('coverage' in sys.modules)"
    run = compare(source, "False\n", "-p", "book.notebook_plugin", "--cov=test_one")
    assert run.returncode == 0, run.stdout + run.stderr
    assert "100%" in run.stdout
