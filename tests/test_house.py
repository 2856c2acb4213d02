"""The house files say what is true of the project, and the project keeps its own rules."""

from __future__ import annotations

import ast
import io
import re
import shutil
import subprocess
import sys
import tokenize
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from pybtex.database import BibliographyData, Entry, parse_file

import dropoutlib
from book import ledger

ROOT = Path(__file__).resolve().parents[1]
GUIDES = ("README.md", "CONTRIBUTING.md")
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
CORE_BUDGET = 1500

# A run step is one of these, without anything that a shell would add to it.
RUN_STEP = re.compile(r"(make|bash \.ci/run|pip install|jupyter-book build)\b[\w ./-]*")
HOME_OR_SCRATCH = re.compile(r"(?<![\w.~])(/(home|root|Users|mnt|(var/)?tmp)(?=[/\s\"'`)]|$)|[A-Za-z]:\\+Users\b)")
# Each starts at a word's start: without that, a long line of base64 would be scanned from each of its letters.
REGISTRY = re.compile(r"(?i)(?<![\w.-])[\w.-]*(pypi|pythonhosted|npmjs|conda|debian)\.(org|com|net|io)\b")
OTHER_INDEX = re.compile(r"(?i)(?<![\w.:/-])[\w.:/-]*index[-_]url[ =:]*\S*")
TORCH_INDEX = re.compile(r"(?i)(--extra-|PIP_EXTRA_)INDEX[-_]URL[ =:]+https://download\.pytorch\.org/whl/cpu$")


def read(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def blocks(text: str, language: str) -> list[str]:
    """Return the fenced blocks of a language."""
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


def project_files() -> list[str]:
    """Return every file that is or would be committed."""
    if not (ROOT / ".git").exists() or shutil.which("git") is None:
        pytest.skip("needs git and a clone of the repository")
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    return [name for name in listed.split("\0") if name and (ROOT / name).is_file()]


def offences(name: str, text: str) -> list[str]:
    """Return the places in a text that name a home or scratch folder, a registry, or a package index."""
    found = [f"{name}: folder {match[0]}" for match in HOME_OR_SCRATCH.finditer(text)]
    found += [f"{name}: registry {match[0]}" for match in REGISTRY.finditer(text)]
    for match in OTHER_INDEX.finditer(text):
        public = name == "README.md" or name.startswith(".github/")
        if not (public and TORCH_INDEX.search(match[0])):
            found.append(f"{name}: package index {match[0]}")
    return found


# --- licences and citation


def test_the_licences_are_complete() -> None:
    code, content = read("LICENSE"), read("LICENSE-CONTENT")
    assert "Copyright (c) 2026, the dropout course authors" in code
    assert all(f"\n{number}. " in code for number in (1, 2, 3))
    assert "THIS SOFTWARE IS PROVIDED" in code
    assert "Attribution 4.0 International" in content
    assert re.findall(r"^Section (\d) --", content, re.MULTILINE) == list("12345678")


def test_the_citation_agrees_with_the_book_and_the_package() -> None:
    citation = yaml.safe_load(read("CITATION.cff"))
    package = tomllib.loads(read("pyproject.toml"))["project"]
    assert {"cff-version", "message", "title", "authors", "version", "license"} <= set(citation)
    assert citation["cff-version"] == "1.2.0"
    assert [author["name"] for author in citation["authors"]] == [author["name"] for author in package["authors"]]
    assert citation["version"] == package["version"] == dropoutlib.__version__
    assert citation["license"] == ["BSD-3-Clause", "CC-BY-4.0"]
    title = yaml.safe_load(read("_config.yml"))["title"]
    assert citation["title"] == title
    assert read("README.md").startswith(f"# {title}\n")


# --- references

BIBLIOGRAPHY: BibliographyData = parse_file(str(ROOT / "references.bib"))


@pytest.mark.parametrize("key", BIBLIOGRAPHY.entries)
def test_a_reference_can_be_found(key: str) -> None:
    entry: Entry = BIBLIOGRAPHY.entries[key]
    assert entry.fields.get("title"), "no title"
    assert entry.persons.get("author"), "no author"
    assert re.fullmatch(r"\d{4}", entry.fields.get("year", "")), "no year"
    places = {field: entry.fields[field] for field in ("doi", "eprint", "url") if field in entry.fields}
    assert places, "no doi, eprint or url"
    assert re.fullmatch(r"10\.\d{4,}/\S+", places.get("doi", "10.0000/none"))
    assert re.fullmatch(r"\d{4}\.\d{4,5}", places.get("eprint", "0000.00000"))
    assert re.fullmatch(r"https://\S+", places.get("url", "https://none"))


def test_no_two_references_are_the_same_work() -> None:
    titles = [entry.fields["title"].strip("{}").lower() for entry in BIBLIOGRAPHY.entries.values()]
    assert len(titles) == len(set(titles))


# --- README and CONTRIBUTING


@pytest.mark.parametrize("name", GUIDES)
def test_a_guide_names_real_make_targets(name: str) -> None:
    targets = set(re.findall(r"^([a-z][a-z-]*):", read("Makefile"), re.MULTILINE))
    code = "\n".join(blocks(read(name), "sh") + re.findall(r"`([^`\n]+)`", read(name)))
    named = set(re.findall(r"\bmake ([a-z-]+)", code))
    assert {"test", "book"} <= targets
    assert named, "names no target"
    assert named <= targets


@pytest.mark.parametrize("name", GUIDES)
def test_a_guide_names_real_files(name: str) -> None:
    text = read(name)
    named = set(re.findall(r"\]\((?!https?:)([^)#]+)\)", text))
    named |= set(re.findall(r"`((?:[\w.-]+/)*[\w-]+\.(?:md|py|yml|toml|txt|bib|ipynb))`", text))
    named |= set(re.findall(r"-r (\S+\.txt)", text))
    for block in blocks(text, "text"):
        named |= set(re.findall(r"^(\S+)", block, re.MULTILINE))
    # A name in capitals stands for the reader's own.
    named = {path for path in named if not re.search(r"\b(test_)?NAME\b", path)}
    assert named
    assert sorted(path for path in named if not (ROOT / path).exists()) == []


def test_the_commands_without_make_are_those_of_the_makefile() -> None:
    commands = "\n".join(blocks(read("README.md"), "powershell"))
    makefile = read("Makefile")
    options = re.findall(r" (--?[a-zA-Z][\w-]*)", commands)
    assert {"-W", "--nbval", "--ledger"} <= set(options)
    assert [option for option in options if option not in makefile and option not in ("-r", "-3")] == []
    for tool in ("ruff check .", "mypy", "jupyter-book build .", '-m "not long"'):
        assert tool in commands
        assert tool in makefile


def test_the_documented_claim_is_a_valid_row(tmp_path: Path) -> None:
    (example,) = blocks(read("CONTRIBUTING.md"), "yaml")
    (tmp_path / "claims.yml").write_text(example, encoding="utf-8")
    for row in yaml.safe_load(example):
        for path in (f"chapters/{row['chapter']}.ipynb", *(test.split("::")[0] for test in row["tests"])):
            (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / path).touch()
    (claim,) = ledger.load(tmp_path / "claims.yml")
    assert claim.id in read("CONTRIBUTING.md").split("```")[-1]


# --- workflows and hooks


def steps(workflow: Path) -> list[dict[str, Any]]:
    jobs = yaml.safe_load(workflow.read_text(encoding="utf-8"))["jobs"]
    return [step for job in jobs.values() for step in job["steps"]]


def test_there_are_three_workflows() -> None:
    assert [workflow.stem for workflow in WORKFLOWS] == ["links", "publish", "test"]


@pytest.mark.parametrize("workflow", WORKFLOWS, ids=lambda workflow: workflow.stem)
def test_a_workflow_holds_no_logic(workflow: Path) -> None:
    parsed = yaml.safe_load(workflow.read_text(encoding="utf-8"))
    # YAML 1.1 reads the key `on` as true.
    assert {"name", True, "permissions", "jobs"} <= set(parsed)
    assert parsed["name"] == workflow.stem
    runs = [step["run"] for step in steps(workflow) if "run" in step]
    assert runs
    assert [run for run in runs if not RUN_STEP.fullmatch(run)] == []


@pytest.mark.parametrize("workflow", WORKFLOWS, ids=lambda workflow: workflow.stem)
def test_actions_are_pinned_by_major_version(workflow: Path) -> None:
    actions = [step["uses"] for step in steps(workflow) if "uses" in step]
    assert actions
    assert [action for action in actions if not re.fullmatch(r"actions/[\w-]+@v\d+", action)] == []


def test_the_hooks_use_the_projects_own_tools() -> None:
    repositories = yaml.safe_load(read(".pre-commit-config.yaml"))["repos"]
    assert [repository["repo"] for repository in repositories] == ["local"]
    hooks = repositories[0]["hooks"]
    assert {"ruff-check", "ruff-format", "mypy"} <= {hook["id"] for hook in hooks}
    assert all(hook["entry"].startswith(".venv/bin/") for hook in hooks)
    assert all(hook["language"] == "system" for hook in hooks)


# --- what the project never says


def test_no_file_names_a_machine_or_a_registry() -> None:
    found = []
    for name in project_files():
        try:
            text = read(name)
        except UnicodeDecodeError:
            continue
        found += offences(name, text)
    assert found == []


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.py", "open('/" + "home/someone/data.npy')"),
        ("a.ipynb", 'File "/' + 'tmp/ipykernel_1/2.py"'),
        ("a.md", "in /" + "root"),
        ("a.md", "C:" + r"\Users\someone"),
        ("a.txt", "torch @ file:///" + "home/wheels/torch.whl"),
        ("a.md", "https://files.python" + "hosted.org/x"),
        ("a.toml", "https://registry.npm" + "js.org"),
        ("requirements.txt", "--extra-index" + "-url https://download.pytorch.org/whl/cpu"),
        ("README.md", "--index" + "-url https://example.org/simple"),
    ],
)
def test_the_scan_finds(name: str, text: str) -> None:
    assert offences(name, text)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("README.md", "PIP_EXTRA_INDEX" + "_URL=https://download.pytorch.org/whl/cpu make test"),
        (".github/workflows/test.yml", "PIP_EXTRA_INDEX" + "_URL: https://download.pytorch.org/whl/cpu"),
        ("a.md", "https://example.org/home/page and ~/.pyenv and >/dev/null and tests/tmp/"),
        ("a.py", "tmp_path / 'root'"),
    ],
)
def test_the_scan_allows(name: str, text: str) -> None:
    assert offences(name, text) == []


# --- the package


def run_python(code: str) -> str:
    return subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True, timeout=60
    ).stdout


def test_importing_the_package_loads_numpy_and_nothing_else() -> None:
    loaded = run_python(
        "import sys, numpy, numpy.random\n"
        "before = {name.partition('.')[0] for name in sys.modules}\n"
        "import dropoutlib\n"
        "after = {name.partition('.')[0] for name in sys.modules}\n"
        "print(*sorted(after - before - set(sys.stdlib_module_names)))"
    )
    assert loaded.split() == ["dropoutlib"]


def test_importing_the_package_leaves_the_global_stream_alone() -> None:
    same = run_python(
        "import numpy as np\n"
        "np.random.seed(0)\n"
        "before = np.random.get_state()[1].copy()\n"
        "import dropoutlib\n"
        "print((before == np.random.get_state()[1]).all())"
    )
    assert same.strip() == "True"


def code_lines(source: str) -> set[int]:
    """Return the numbers of the lines that hold code: no blank line, comment or docstring."""
    silent = {
        tokenize.COMMENT,
        tokenize.NL,
        tokenize.NEWLINE,
        tokenize.INDENT,
        tokenize.DEDENT,
        tokenize.ENDMARKER,
    }
    lines: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type not in silent:
            lines |= set(range(token.start[0], token.end[0] + 1))
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            match node.body:
                case [ast.Expr(value=ast.Constant(value=str())) as docstring, *_]:
                    lines -= set(range(docstring.lineno, (docstring.end_lineno or docstring.lineno) + 1))
    return lines


def test_code_lines_are_counted_as_promised() -> None:
    module = ['"""Doc', "", 'string."""', "", "# comment", 'x = """a', "", 'b"""  # why', "", ""]
    function = ["def f():", '    "Doc."', "    return (", "        1", "    )", ""]
    source = "\n".join(module + function)
    assert code_lines(source) == {6, 7, 8, 11, 13, 14, 15}


def test_the_teaching_core_is_small_enough_to_read() -> None:
    core = [
        path
        for path in (ROOT / "dropoutlib").rglob("*.py")
        if path.relative_to(ROOT / "dropoutlib").parts[0] not in ("frameworks", "checks", "fast", "interactive")
    ]
    total = sum(len(code_lines(path.read_text(encoding="utf-8"))) for path in core)
    assert 0 < total < CORE_BUDGET
