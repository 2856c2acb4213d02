"""The notebooks for Colab: complete, plain, equal to the chapters in code and outputs, and linked to one site alone."""

from __future__ import annotations

import copy
import functools
import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from urllib.parse import unquote, urldefrag

import nbformat
import pytest
from bs4 import BeautifulSoup
from nbformat import NotebookNode
from sphinx.testing.util import SphinxTestApp

import dropoutlib
from book import notebooks
from book.colab import publish, wheel
from book.colab.site import Site
from tests.book.building import build, served

CHAPTERS = notebooks.chapters()
ONE = Site("first-owner/first-course", "https://first.example/book")
OTHER = Site("second-owner/second-course", "https://second.example/dropout/")
NOBODY = Site()
ADDRESS = Site(url=ONE.url)
FRAMEWORK = r"import (torch|keras|tensorflow|jax|flax|onnx)\b|from (torch|keras|jax|flax|onnx)\b|dropoutlib.frameworks"
FENCED = re.compile(r"^(?P<quote>[> ]*)(?P<fence>`{3,})[^\n`]*\n.*?^(?P=quote)(?P=fence)$", re.MULTILINE | re.DOTALL)
CODE = re.compile(r"(?P<ticks>`+)(?!`).*?(?<!`)(?P=ticks)(?!`)")
LINK = re.compile(r"\]\(([^)]*)\)|\b(?:href|src)=[\"']([^\"']*)")
MYST = {
    "a directive": re.compile(r"^[> ]*(`{3,}|~{3,}|:{3,})\s*\{", re.MULTILINE),
    "a colon fence": re.compile(r"^[> ]*:{3,}", re.MULTILINE),
    "a directive that was not understood": re.compile(r"(\\`){3}|\}\\`"),
    "a role": re.compile(r"\{[a-z][\w:+.-]*\}`"),
    "a label": re.compile(r"^[> ]*\([\w:.-]+\)=\s*$", re.MULTILINE),
    "an option": re.compile(r"^[> ]*:[a-z][\w-]*:(\s|$)", re.MULTILINE),
    "an equation's label": re.compile(r"\$\$ *\([\w:.-]+\)"),
    "a comment": re.compile(r"^%", re.MULTILINE),
    "a substitution": re.compile(r"(?<![_^{])\{\{ *[a-z]\w+ *\}\}"),
    "attributes": re.compile(r"^\{[#.]|\)\{[#.]", re.MULTILINE),
    "a definition": re.compile(r"^: ", re.MULTILINE),
    "a footnote": re.compile(r"\[\^[^\]]+\]"),
}


def raw_myst(text: str) -> list[str]:
    """Return what a Markdown text holds that only MyST understands, and links that lead nowhere from a notebook."""
    found = [name for name in ("a directive", "a colon fence") if MYST[name].search(text)]
    prose = FENCED.sub("", text)
    found += [name for name in ("a role", "a directive that was not understood") if MYST[name].search(prose)]
    prose = CODE.sub("", prose)
    found += [name for name, pattern in MYST.items() if name not in found and pattern.search(prose)]
    links = [inside or attribute for inside, attribute in LINK.findall(prose)]
    return found + [f"a dead link to {link}" for link in links if not re.match(r"https?://|mailto:|data:image/", link)]


def test_raw_myst_is_seen() -> None:
    planted = {
        "```{note}\nx\n```": "a directive",
        "> ````{prf:proof}\n> x\n> ````": "a directive",
        ":::{admonition} x": "a directive",
        "\\`\\`\\`{prediction} What is `x`?": "a directive that was not understood",
        "see {unknown}\\`x\\`": "a directive that was not understood",
        "text\n:::": "a colon fence",
        "see {prf:ref}`thm-x`": "a role",
        "(sec-x)=": "a label",
        "> :label: thm-x": "an option",
        "$$\nx\n$$ (eq-x)": "an equation's label",
        "% a comment": "a comment",
        "{{ version }}": "a substitution",
        "![x](https://e.org/x.png){.wide}": "attributes",
        "Term\n: definition": "a definition",
        "note[^1]": "a footnote",
        "[x](#x)": "a dead link to #x",
        "[x](../appendix/claims.md)": "a dead link to ../appendix/claims.md",
        "[x](book:chapters/x.html)": "a dead link to book:chapters/x.html",
        '<a href="#x">x</a>': "a dead link to #x",
    }
    for text, name in planted.items():
        assert name in raw_myst(text), text
    plain = "# A\n\n$f(x)$ and `{claim}x`\n\n```python\n: x\n# [x](#x)\n```\n\n> $$ x_{{a}} $$ [1](https://e.org/#x)"
    assert raw_myst(plain) == []


# --- the book's own notebooks, built for a site and then in the same folder for none


@dataclass(frozen=True)
class Publication:
    """What was built for a site."""

    site: Site
    folder: Path

    def notebook(self, chapter: Path) -> NotebookNode:
        return notebooks.read(self.folder / "colab" / chapter.name)

    def markdown(self, chapter: Path) -> list[str]:
        return [cell.source for cell in self.notebook(chapter).cells if cell.cell_type == "markdown"]

    @functools.cache  # noqa: B019 (a module's publications live as long as the module's tests)
    def page(self, name: str) -> BeautifulSoup:
        """Return a parsed page, which the caller does not change."""
        return BeautifulSoup((self.folder / "html" / name).read_text(encoding="utf-8"), "html.parser")

    def texts(self) -> Iterator[tuple[Path, str]]:
        for path in sorted(self.folder.rglob("*")):
            if path.suffix in (".html", ".ipynb", ".js", ".xml", ".txt"):
                yield path, path.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def publications(built: Path, tmp_path_factory: pytest.TempPathFactory) -> Mapping[Site, Publication]:
    made = {}
    folder = tmp_path_factory.mktemp("build")
    for site, builders in ((ONE, ("html", "colab")), (NOBODY, ("colab",))):
        own = build(folder, *builders, repository=site.repository, url=site.url)
        kept = tmp_path_factory.mktemp("publication")
        for name in builders:
            shutil.copytree(own / name, kept / name, ignore=shutil.ignore_patterns("_static"))
        shutil.copytree(own / "wheels", kept / "wheels")
        made[site] = Publication(site, kept)
    return made


@pytest.fixture(params=(ONE, NOBODY), ids=("site", "no-site"))
def publication(request: pytest.FixtureRequest, publications: Mapping[Site, Publication]) -> Publication:
    return publications[request.param]


def test_each_chapter_has_a_notebook_and_the_folder_nothing_else(publication: Publication) -> None:
    assert CHAPTERS
    assert sorted(os.listdir(publication.folder / "colab")) == sorted(chapter.name for chapter in CHAPTERS)


@pytest.mark.parametrize("chapter", CHAPTERS, ids=lambda path: path.stem)
def test_code_and_outputs_are_the_chapters(publication: Publication, chapter: Path) -> None:
    stored, exported = notebooks.read(chapter), publication.notebook(chapter)
    install, *cells = [cell for cell in exported.cells if cell.cell_type == "code"]
    assert exported.cells[0] is install
    originals = [cell for cell in stored.cells if cell.cell_type == "code"]
    assert [cell.source for cell in cells] == [cell.source for cell in originals]
    assert [cell.execution_count for cell in cells] == [cell.execution_count for cell in originals]
    for cell, original in zip(cells, originals, strict=True):
        for output, stored_output in zip(cell.outputs, original.outputs, strict=True):
            assert {**output, "metadata": None} == {**stored_output, "metadata": None}
    without_install = nbformat.v4.new_notebook(cells=exported.cells[1:])
    assert notebooks.code_digest(without_install) == notebooks.code_digest(stored)
    assert exported.metadata.get("dropout_course") == stored.metadata.get("dropout_course")
    nbformat.validate(exported)


@pytest.mark.parametrize("chapter", CHAPTERS, ids=lambda path: path.stem)
def test_text_is_plain_markdown(publication: Publication, chapter: Path) -> None:
    texts = publication.markdown(chapter)
    assert [(text[:60], raw_myst(text)) for text in texts if raw_myst(text)] == []
    assert not any("mystnb" in cell.metadata for cell in publication.notebook(chapter).cells)


@pytest.mark.parametrize("chapter", CHAPTERS, ids=lambda path: path.stem)
def test_nothing_of_the_text_is_lost(publications: Mapping[Site, Publication], chapter: Path) -> None:
    """The words of the page are the words of the notebook, but for what only a page has."""
    publication = publications[ONE]
    page = copy.copy(publication.page(f"chapters/{chapter.stem}.html").select_one("article"))
    assert page is not None
    for part in page.select(
        "div.cell, .math, .citation .label, script, style, summary, .headerlink, .caption-number, button"
    ):
        part.decompose()
    told = set(words(" ".join(publication.markdown(chapter))))
    missing = [word for word in words(page.get_text(" ")) if word not in told]
    assert missing == []


def words(text: str) -> list[str]:
    return re.findall(r"[a-z]{4,}", re.sub(r"[*\\]", "", text).lower())


@pytest.mark.parametrize("chapter", CHAPTERS, ids=lambda path: path.stem)
def test_every_figure_has_its_caption_and_its_words(publication: Publication, chapter: Path) -> None:
    text = "\n".join(publication.markdown(chapter))
    for cell in notebooks.read(chapter).cells:
        described = cell.metadata.get("mystnb", {})
        if alt := described.get("image", {}).get("alt"):
            assert alt in text
        if caption := described.get("figure", {}).get("caption"):
            assert caption.split(maxsplit=3)[0] in text
    kinds = [
        output.metadata[kind].get("alt")
        for cell in publication.notebook(chapter).cells
        if cell.cell_type == "code"
        for output in cell.outputs
        for kind in output.get("data", {})
        if kind.startswith("image/")
    ]
    assert all(kinds)


@pytest.mark.parametrize("chapter", CHAPTERS, ids=lambda path: path.stem)
def test_solutions_are_folded(publication: Publication, chapter: Path) -> None:
    cells = publication.notebook(chapter).cells
    places = [k for k, cell in enumerate(cells) if "<summary>Solution to" in cell.source]
    assert len(places) >= sum("solution-start" in cell.source for cell in notebooks.read(chapter).cells)
    for k in places:
        if "folded cell below" in cells[k].source:
            assert cells[k + 1].cell_type == "code"
            assert cells[k + 1].metadata["cellView"] == "form"
            assert cells[k + 1].metadata["jupyter"]["source_hidden"]


@pytest.mark.parametrize("chapter", CHAPTERS, ids=lambda path: path.stem)
def test_links_into_the_book_lead_to_a_place_that_is_there(
    publications: Mapping[Site, Publication], chapter: Path
) -> None:
    publication = publications[ONE]
    links = {link for text in publication.markdown(chapter) for link, _ in LINK.findall(text)}
    inward = [link.removeprefix(f"{ONE.url}/") for link in links if link.startswith(ONE.url)]
    assert any("claims.html#claim-" in link for link in inward)
    for link in inward:
        name, anchor = urldefrag(link)
        page = publication.page(name)
        assert not anchor or page.find(id=unquote(anchor)) is not None, link


@pytest.mark.parametrize("chapter", CHAPTERS, ids=lambda path: path.stem)
def test_without_a_site_no_link_needs_one(publications: Mapping[Site, Publication], chapter: Path) -> None:
    texts = publications[NOBODY].markdown(chapter)
    assert not any("localhost" in text or ".html#claim-" in text for text in texts)
    assert any(re.search(r"\(claim: (true|false|conditional)\)", text) for text in texts)


# --- whose site


def names_of(site: Site) -> list[str]:
    return [site.repository, site.url, site.url.split("/")[2]]


def test_without_a_site_none_is_named(publications: Mapping[Site, Publication]) -> None:
    """Also after a build for a site in the same folder."""
    for path, text in publications[NOBODY].texts():
        assert [name for name in names_of(ONE) if name in text] == [], path


def test_the_button_of_a_chapter_opens_its_notebook(publications: Mapping[Site, Publication]) -> None:
    html = publications[ONE].folder / "html"
    for path in html.rglob("*.html"):
        name = path.relative_to(html).as_posix()
        links = [str(a["href"]) for a in publications[ONE].page(name).select("a[href*='colab.']")]
        chapter = f"{path.stem}.ipynb" in [chapter.name for chapter in CHAPTERS]
        address = f"https://colab.research.google.com/github/{ONE.repository}/blob/colab/{path.stem}.ipynb"
        assert links == ([address] if chapter else []), name


def test_a_chapter_can_be_downloaded_as_it_runs(publications: Mapping[Site, Publication]) -> None:
    html, offered = publications[ONE].folder / "html", []
    for path in html.rglob("*.html"):
        for button in publications[ONE].page(path.relative_to(html).as_posix()).select("a.btn-download-notebook"):
            assert "notebook" in str(button["title"])
            target = path.parent / str(button["href"])
            assert target.read_bytes() == (publications[ONE].folder / "colab" / target.name).read_bytes()
            assert target.stem == path.stem
            offered.append(path.stem)
    assert sorted(offered) == sorted(chapter.stem for chapter in CHAPTERS)


def test_binder_opens_the_chapters_that_run_there(publications: Mapping[Site, Publication]) -> None:
    opened = {}
    for path in (publications[ONE].folder / "html" / "chapters").glob("*.html"):
        for button in publications[ONE].page(f"chapters/{path.name}").select("a[href*=binder]"):
            opened[path.stem] = button["href"]
    address = f"https://mybinder.org/v2/gh/{ONE.repository}/colab?urlpath=lab/tree/"
    code = {c: "\n".join(cell.source for _, cell in notebooks.code_cells(notebooks.read(c))) for c in CHAPTERS}
    assert opened == {c.stem: f"{address}{c.name}" for c in CHAPTERS if not re.search(FRAMEWORK, code[c])}
    assert {"standard-vs-inverted", "does-it-help"} <= set(opened)


def test_binder_has_the_versions_of_the_tests() -> None:
    pins = (notebooks.ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    lines = (notebooks.ROOT / "binder" / "requirements.txt").read_text(encoding="utf-8").splitlines()
    wanted = [line for line in lines if line != "." and not line.startswith("#")]
    assert len(wanted) == len(lines) - 2 >= 4
    assert set(wanted) <= set(pins)


@pytest.mark.parametrize(
    ("repository", "url", "message"),
    [
        ("https://github.com/owner/name", "", "BOOK_REPOSITORY must be OWNER/NAME"),
        ("owner", "", "BOOK_REPOSITORY must be OWNER/NAME"),
        ("", "owner.github.io/name", "BOOK_URL must be an address"),
        ("", "https://owner.github.io/a page", "BOOK_URL must be an address"),
        ("", "https://owner.github.io/?page", "BOOK_URL must be an address"),
    ],
)
def test_a_site_that_cannot_be_meant_is_refused(repository: str, url: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Site(repository, url)


# --- the install cell and its wheel


def test_the_site_serves_this_versions_wheel(publications: Mapping[Site, Publication]) -> None:
    folder = publications[ONE].folder
    names = os.listdir(folder / "html" / "wheels")
    assert names == os.listdir(folder / "wheels") == [f"dropoutlib-{dropoutlib.__version__}-py3-none-any.whl"]
    assert wheel.sha256(folder / "html" / "wheels" / names[0]) == wheel.sha256(folder / "wheels" / names[0])


def test_the_install_cell_names_the_wheel_that_the_site_serves(publications: Mapping[Site, Publication]) -> None:
    addresses = {ONE: ONE.url, NOBODY: "http://localhost:8000"}
    for site, publication in publications.items():
        name = f"dropoutlib-{dropoutlib.__version__}-py3-none-any.whl"
        expected = f"{addresses[site]}/wheels/{name}#sha256={wheel.sha256(publication.folder / 'wheels' / name)}"
        for chapter in CHAPTERS:
            source = publication.notebook(chapter).cells[0].source
            assert re.findall(r'"(http[^"]*)"', source) == [expected]
            assert '"--no-deps"' in source
            compile(source, "install", "exec")


@pytest.mark.parametrize(("importable", "installs"), [(None, True), ("0.0.1", True), (dropoutlib.__version__, False)])
def test_the_install_cell_runs_pip_only_if_this_version_is_not_importable(
    publications: Mapping[Site, Publication], tmp_path: Path, importable: str | None, installs: bool
) -> None:
    if importable:
        (tmp_path / "dropoutlib").mkdir()
        (tmp_path / "dropoutlib" / "__init__.py").write_text(f"__version__ = '{importable}'\n")
    cell = publications[ONE].notebook(CHAPTERS[0]).cells[0].source
    script = (
        "import subprocess\ncalls = []\n"
        "subprocess.run = lambda command, **options: calls.append((command[1:], options))\n"
        f"{cell}\nprint(len(calls), 'dropoutlib' in sys.modules, *calls, sep='|')\n"
    )
    # Without site-packages, where the tests' own dropoutlib is.
    done = subprocess.run(
        [sys.executable, "-S", "-c", script],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
    )
    count, still_loaded, *calls = done.stdout.strip().split("|")
    assert count == str(int(installs))
    assert still_loaded == str(bool(importable) and not installs)
    assert all("'-m', 'pip'" in call and "'--no-deps'" in call and "'check': True" in call for call in calls)


def test_pip_refuses_a_wheel_with_another_hash(publications: Mapping[Site, Publication], tmp_path: Path) -> None:
    site = tmp_path / "site"
    shutil.copytree(publications[ONE].folder / "html" / "wheels", site)
    [path] = site.glob("*.whl")
    digest = wheel.sha256(path)

    def install(target: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-cache-dir"]
        command += [
            "--disable-pip-version-check",
            "--target",
            str(tmp_path / target),
            f"{address}/{path.name}#sha256={digest}",
        ]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    with served(site) as address:
        assert install("good").returncode == 0
        with path.open("ab") as file:
            file.write(b"\0")
        refused = install("bad")
    assert (tmp_path / "good" / "dropoutlib" / "__init__.py").is_file()
    assert refused.returncode != 0
    assert "THESE PACKAGES DO NOT MATCH THE HASHES" in refused.stderr
    assert not (tmp_path / "bad" / "dropoutlib").exists()


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A copy of what the wheel is made from."""
    root = tmp_path / "source"
    root.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE", ".gitignore"):
        shutil.copyfile(notebooks.ROOT / name, root / name)
    shutil.copytree(
        notebooks.ROOT / "dropoutlib", root / "dropoutlib", ignore=shutil.ignore_patterns("__pycache__", ".*")
    )
    return root


def test_the_wheel_is_the_same_bytes_whenever_it_is_built(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = wheel.provide(source, tmp_path / "first")
    for path in source.rglob("*"):
        os.utime(path, (1e9, 1e9))
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1000000000")
    assert wheel.provide(source, tmp_path / "second").read_bytes() == first.read_bytes()


def test_the_wheel_holds_the_package_and_nothing_else(source: Path, tmp_path: Path) -> None:
    made = wheel.provide(source, tmp_path / "build")
    ours = {p.relative_to(source).as_posix() for p in (source / "dropoutlib").rglob("*") if p.is_file()}
    assert set(wheel.modules(made)) == ours
    assert "dropoutlib/layers.py" in ours
    project = tomllib.loads((source / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert wheel.version(made) == project["version"] == dropoutlib.__version__


def test_published_wheels_stay(source: Path, tmp_path: Path) -> None:
    build_folder = tmp_path / "build"
    published = build_folder / "published" / "wheels"
    published.mkdir(parents=True)
    made = wheel.make(source, tmp_path / "made")
    shutil.copyfile(made, published / made.name)
    (published / "dropoutlib-0.0.1-py3-none-any.whl").write_bytes(b"an old one")
    # The readme is in the wheel too; notebooks that are out rely on the published file's hash.
    (source / "README.md").write_text("# Another readme\n")
    served_wheel = wheel.provide(source, build_folder)
    assert served_wheel.read_bytes() == made.read_bytes()
    assert (served_wheel.parent / "dropoutlib-0.0.1-py3-none-any.whl").read_bytes() == b"an old one"
    with (source / "dropoutlib" / "masks.py").open("a") as file:
        file.write("\nNEW = 1\n")
    with pytest.raises(wheel.PublishedError, match="raise the version"):
        wheel.provide(source, build_folder)


def test_a_wheel_that_cannot_be_built_says_why(source: Path, tmp_path: Path) -> None:
    (source / "pyproject.toml").write_text("[build-system]\n")
    with pytest.raises(RuntimeError, match="the wheel could not be built"):
        wheel.provide(source, tmp_path / "build")


# --- publishing


def git(folder: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=a", "-c", "user.email=a@localhost", "-c", "init.defaultBranch=main"]
    return subprocess.run(
        ["git", *identity, *arguments], cwd=folder, capture_output=True, text=True, check=True
    ).stdout.strip()


@pytest.fixture
def clone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A clone of a repository that has nothing but one commit."""
    git(tmp_path, "init", "--quiet", "--bare", "origin.git")
    git(tmp_path, "clone", "--quiet", "origin.git", "clone")
    root = tmp_path / "clone"
    (root / ".gitignore").write_text("_build/\n")
    (root / "binder").mkdir()
    (root / "binder" / "requirements.txt").write_text("# All.\nnumpy==1\n.\n")
    git(root, "add", "--all")
    git(root, "commit", "--quiet", "--message", "one")
    git(root, "push", "--quiet", "origin", "HEAD:main")
    monkeypatch.setenv("BOOK_REPOSITORY", ONE.repository)
    monkeypatch.setenv("BOOK_URL", ONE.url)
    return root


def pretend_to_build(root: Path, version: str, notebook: str) -> None:
    wheels = root / "_build" / "html" / "wheels"
    shutil.rmtree(root / "_build" / "html", ignore_errors=True)
    shutil.rmtree(root / "_build" / "colab", ignore_errors=True)
    shutil.copytree(root / "_build" / "published" / "wheels", wheels)
    (wheels / f"dropoutlib-{version}-py3-none-any.whl").write_bytes(version.encode() + b"\0\r\n")
    (root / "_build" / "colab").mkdir()
    (root / "_build" / "colab" / f"{notebook}.ipynb").write_text("{}")


def test_publishing_replaces_notebooks_and_keeps_wheels(clone: Path) -> None:
    for version, notebook in (("0.9.0", "one"), ("0.10.0", "two")):
        publish.fetch(clone)
        pretend_to_build(clone, version, notebook)
        publish.push(clone)
    origin = clone.parent / "origin.git"
    assert git(origin, "show", "colab:binder/requirements.txt").splitlines() == [
        "# All.",
        "numpy==1",
        "./wheels/dropoutlib-0.10.0-py3-none-any.whl",
    ]
    assert git(origin, "ls-tree", "-r", "--name-only", "colab").splitlines() == [
        "binder/requirements.txt",
        "two.ipynb",
        "wheels/dropoutlib-0.10.0-py3-none-any.whl",
        "wheels/dropoutlib-0.9.0-py3-none-any.whl",
    ]
    assert publish.fetch(clone) == "2 published wheels"
    kept = clone / "_build" / "published" / "wheels" / "dropoutlib-0.9.0-py3-none-any.whl"
    assert kept.read_bytes() == b"0.9.0\0\r\n"
    assert git(origin, "rev-list", "--count", "colab") == "2"
    assert git(clone, "status", "--porcelain") == ""


def test_publishing_the_same_again_changes_nothing(clone: Path) -> None:
    for _ in range(2):
        publish.fetch(clone)
        pretend_to_build(clone, "0.1.0", "one")
        told = publish.push(clone)
    assert "nothing has changed" in told
    assert git(clone.parent / "origin.git", "rev-list", "--count", "colab") == "1"


def test_a_publication_that_came_between_is_not_overwritten(clone: Path) -> None:
    publish.fetch(clone)
    pretend_to_build(clone, "0.1.0", "one")
    publish.push(clone)
    publish.fetch(clone)
    pretend_to_build(clone, "0.2.0", "two")
    publish.push(clone)
    parent = clone / "_build" / "published" / "parent"
    parent.write_text(git(clone.parent / "origin.git", "rev-parse", "colab~1"))
    pretend_to_build(clone, "0.3.0", "three")
    with pytest.raises(RuntimeError, match="rejected"):
        publish.push(clone)


def test_publishing_needs_a_site(
    clone: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("BOOK_URL")
    with pytest.raises(RuntimeError, match="BOOK_REPOSITORY and BOOK_URL"):
        publish.push(clone)
    assert publish.main(["push"]) == 1
    assert "BOOK_URL" in capsys.readouterr().err


# --- every element of MyST that a chapter may use


ELEMENTS = r"""
# What happens?

:::{admonition} A title with `code`
:class: tip
- one, $a<b$
- two
:::

```{note}
Noted.
```

````{dropdown} More
Inside.
````

::::{tab-set}
:sync-group: library

:::{tab-item} PyTorch
:sync: pytorch
```python
x = 1
```
:::
:::{tab-item} Keras
:sync: keras
The *same*.
:::
:::{tab-item} Flax
:sync: flax
```{literalinclude} code.py
:language: python
:start-at: y =
```
:::
::::

```{prf:theorem} Its name
:label: thm-one
For all $x$

$$
x > 0  % always
$$ (eq-one)
```

```{prf:proof}
Clear. By {prf:ref}`thm-one`, {eq}`eq-one` and {cite:t}`known2014`.
```

```{prediction} What *falls*?
- [ ] The mean
  : It stays.
- [x] The share
  : It is $q$.
```

\begin{align}
a &= b \\
c &= d
\end{align}

(sec-two)=
## Second

See {ref}`sec-two`, {doc}`other`, {cite:p}`known2014` and [a page](https://e.org/a_(b)).
{abbr}`NLL (loss)`. It costs 1\*2\*3, \$1 or \$2, a < b.[^n]

[^n]: A note.

| a | b |
|:--|--:|
| $\|x\|$ | `a\|b` {cite:p}`known2014` |

Term
: Its meaning.

2. two
   - nested
3. three

> quoted

![A picture of nothing at all](picture.png)

1\. not a list
"""


@pytest.fixture
def small_book(tmp_path: Path) -> Path:
    """A book of one chapter that uses everything."""
    cell, text, code = nbformat.v4, nbformat.v4.new_markdown_cell, nbformat.v4.new_code_cell
    output = cell.new_output("display_data", data={"image/png": "iVBORw0KGgo="})
    figure = {"mystnb": {"image": {"alt": "A line rises."}, "figure": {"caption": "It $rises$.", "name": "fig-one"}}}
    chapter = cell.new_notebook(
        cells=[
            text(ELEMENTS),
            code("1", execution_count=1, metadata=figure, outputs=[output]),
            code("2", execution_count=2, metadata={"tags": ["remove-cell"]}),
            text("```{exercise-start} Named\n:label: ex-one\n```\nDo it, see {numref}`fig-one`."),
            code("3", execution_count=3),
            text("```{exercise-end}\n```\n\n```{solution-start} ex-one\n:class: dropdown\n```\nSo."),
            code("4", execution_count=4),
            text("```{solution-end}\n```\n\n## References\n\n```{bibliography}\n```"),
            code("5", execution_count=5, metadata={"tags": ["hide-input"]}),
        ],
        metadata={"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"}},
    )
    files = {
        "conf.py": "",
        "index.md": "# Book\n\n```{toctree}\nchapter\nother\n```\n",
        "other.md": "# Other\n",
        "claims.yml": "[]\n",
        "references.bib": "@misc{known2014, author={Known, A.}, title={It}, year={2014}, url={https://e.org/it}}\n",
        "picture.png": "not really",
        "code.py": "'Not shown.'\n\ny = 2\n",
        "dropoutlib/__init__.py": "__version__ = '3.1'\n",
        "pyproject.toml": '[build-system]\nrequires = ["hatchling"]\nbuild-backend = "hatchling.build"\n'
        '[project]\nname = "dropoutlib"\nversion = "3.1"\n',
    }
    for name, content in files.items():
        (tmp_path / "book" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "book" / name).write_text(content)
    nbformat.write(chapter, tmp_path / "book" / "chapter.ipynb")
    return tmp_path / "book"


def export(folder: Path, builder: str = "colab", site: Site = ADDRESS) -> tuple[Path, str]:
    """Build a small book for a site; return what was built and the warnings."""
    warnings = StringIO()
    extensions = ["myst_nb", "sphinx_design", "sphinx_exercise", "sphinx_proof", "sphinxcontrib.bibtex"]
    app = SphinxTestApp(
        builder,
        folder,
        warning=warnings,
        confoverrides={
            "extensions": [*extensions, "book.claims", "book.prediction", "book.colab", "book.site_files"],
            "myst_enable_extensions": ["amsmath", "colon_fence", "deflist", "dollarmath"],
            "nb_execution_mode": "off",
            "bibtex_bibfiles": ["references.bib"],
            "bibtex_reference_style": "author_year",
            "numfig": True,
            "nitpicky": True,
            "exclude_patterns": ["_build"],
            "html_theme": "sphinx_book_theme",
            "templates_path": [str(notebooks.ROOT / "book" / "templates")],
            "redirects": {"old": "other"},
            "book_url": site.url,
            "book_repository": site.repository,
        },
    )
    app.build()
    app.cleanup()
    return Path(app.outdir), warnings.getvalue()


def test_every_element_becomes_plain_markdown(small_book: Path) -> None:
    out, warnings = export(small_book)
    assert warnings == ""
    assert os.listdir(out) == ["chapter.ipynb"]
    cells = notebooks.read(out / "chapter.ipynb").cells
    text = "\n\n".join(cell.source for cell in cells if cell.cell_type == "markdown")
    assert raw_myst(text) == []
    page, work = f"{ONE.url}/chapter.html", "https://e.org/it"
    for expected in (
        "# What happens?",
        "> **A title with `code`**\n>\n> - one, $a \\lt b$\n> - two",
        "> **Note**\n>\n> Noted.",
        "<details>\n<summary>More</summary>\n\nInside.\n\n</details>",
        "**PyTorch**\n\n```python\nx = 1\n```\n\n**Keras**\n\nThe *same*.\n\n**Flax**\n\n```python\ny = 2\n```\n\n>",
        "> **Theorem 1 (Its name).** For all $x$\n>\n> $$ x \\gt 0 \\tag{1} $$",
        f"> *Proof.* Clear. By [Theorem 1]({page}#thm-one), [(1)]({page}#equation-eq-one) ",
        f"and Known ([2014]({work})). ∎",
        "> **Predict before you read on.** What *falls*?\n>\n> - The mean\n> - The share",
        "<summary>Answers</summary>",
        "- ✓ The share\n\n  It is $q$.",
        "$$ \\begin{aligned} a &= b \\\\ c &= d \\end{aligned} $$",
        f"See [Second]({page}#sec-two), [Other]({ONE.url}/other.html), ([Known, 2014]({work}))",
        "[a page](https://e.org/a_%28b%29). NLL. It costs 1\\*2\\*3, ",
        "<span>&#36;</span>1 or <span>&#36;</span>2, a &lt; b.",
        f"| :--- | ---: |\n| $\\vert x\\vert$ | `a\\|b` ([Known, 2014]({work})) |",
        "- **Term**: Its meaning.",
        "2. two\n   - nested\n3. three",
        "> quoted",
        "![A picture of nothing at all](data:image/png;base64,bm90IHJlYWxseQ==)",
        "1\\. not a list",
        "**Fig. 1.** It $rises$.",
        "<summary>The figure in words</summary>\n\nA line rises.",
        f"**Exercise 1 (Named).** Do it, see [Fig. 1]({page}#fig-one).",
        "<summary>Solution to Exercise 1 (Named) (its code is in the folded cell below)</summary>\n\nSo.\n\n</details>",
        f"## References\n\n- A.\N{NO-BREAK SPACE}Known. It. 2014. URL: [{work}]({work}).",
        "</sup> A note.",
    ):
        assert expected in text
    code = [cell for cell in cells if cell.cell_type == "code"][1:]
    assert [cell.source for cell in code] == ["1", "2", "3", "4", "5"]
    assert [cell.metadata.get("cellView") for cell in code] == [None, "form", None, "form", "form"]
    assert code[0].outputs[0].metadata["image/png"]["alt"] == "A line rises."


def test_an_element_without_markdown_makes_the_build_warn(small_book: Path) -> None:
    (small_book / "conf.py").write_text(
        "from docutils import nodes\n"
        "class strange(nodes.General, nodes.Element): pass\n"
        "def add(app, tree, name): tree[0].append(strange('', nodes.paragraph('', 'kept')))\n"
        "def setup(app): app.connect('doctree-resolved', add)\n"
    )
    out, warnings = export(small_book)
    assert "no Markdown for the element 'strange'" in warnings
    assert "kept" in (out / "chapter.ipynb").read_text()


@pytest.mark.parametrize("repository", ["", ONE.repository])
def test_without_a_repository_there_is_no_button(small_book: Path, repository: str) -> None:
    out, _ = export(small_book, "html", Site(repository, ONE.url))
    assert ("colab" in (out / "chapter.html").read_text()) == bool(repository)
    assert "colab" not in (out / "other.html").read_text()


def test_a_forks_links_buttons_and_install_cells_are_the_forks(small_book: Path) -> None:
    """Also after a build for another site in the same folder."""
    for mine, at, foreign in (
        (ONE, f"{ONE.url}/", (OTHER,)),
        (OTHER, OTHER.url, (ONE,)),
        (NOBODY, "http://localhost:8000/", (ONE, OTHER)),
    ):
        html, _ = export(small_book, "html", mine)
        colab, _ = export(small_book, "colab", mine)
        page = BeautifulSoup((html / "chapter.html").read_text(encoding="utf-8"), "html.parser")
        buttons = [a["href"] for a in page.select("a[href*='colab.']")]
        launch = f"https://colab.research.google.com/github/{mine.repository}/blob/colab/chapter.ipynb"
        assert buttons == ([launch] if mine.repository else [])
        install, *cells = notebooks.read(colab / "chapter.ipynb").cells
        [served_wheel] = (html / "wheels").iterdir()
        address = f"{at}wheels/{served_wheel.name}#sha256={wheel.sha256(served_wheel)}"
        assert re.findall(r'"(http[^"]*)"', install.source) == [address]
        assert any(f"]({at}chapter.html#thm-one)" in cell.source for cell in cells) == (mine is not NOBODY)
        if mine is not NOBODY:
            [button] = page.select("a.btn-download-notebook")
            assert (html / str(button["href"])).read_bytes() == (colab / "chapter.ipynb").read_bytes()
        for path, text in Publication(mine, html.parent).texts():
            found = [name for site in foreign for name in names_of(site) if name in text]
            assert found == [], path


def test_notebooks_of_chapters_that_are_gone_are_removed(small_book: Path) -> None:
    out, _ = export(small_book)
    (out / "gone.ipynb").write_text("{}")
    export(small_book)
    assert os.listdir(out) == ["chapter.ipynb"]


def test_two_chapters_of_one_name_are_refused(small_book: Path) -> None:
    (small_book / "part").mkdir()
    shutil.copyfile(small_book / "chapter.ipynb", small_book / "part" / "chapter.ipynb")
    with pytest.raises(Exception, match="two chapters have one name"):
        export(small_book)
