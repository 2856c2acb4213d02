"""Words that carry their definition, and the glossary that has them."""

import re
from collections.abc import Callable
from io import StringIO
from pathlib import Path

import pytest
from bs4 import BeautifulSoup
from sphinx.testing.util import SphinxTestApp

from book.notebooks import chapters, read

GLOSSARY = '# Words\n\n```{glossary}\nmask\nmasks\n  Which *ones* `a < b` are "kept".\n\n  Say $m$.\n```\n'
PAGE = "# Page\n\nDraw a {term}`mask`, two {term}`masks`, and [a link](words.md).\n"
Build = Callable[..., tuple[Path, str]]


@pytest.fixture
def build(tmp_path: Path) -> Build:
    """Build a small book and return its folder and its warnings."""
    source = tmp_path / "book"

    def run(glossary: str = GLOSSARY, builder: str = "html") -> tuple[Path, str]:
        files = {"conf.py": "", "index.md": PAGE + "\n```{toctree}\nwords\nplain\n```\n", "words.md": glossary}
        for name, text in (files | {"plain.md": "# Plain\n\nNo word.\n"}).items():
            path = source / name
            path.parent.mkdir(exist_ok=True)
            if not path.is_file() or path.read_text() != text:
                path.write_text(text)
        warnings = StringIO()
        settings = {"extensions": ["myst_nb", "book.glossary"], "myst_enable_extensions": ["dollarmath"]}
        app = SphinxTestApp(builder, source, warning=warnings, confoverrides=settings)
        app.build()
        app.cleanup()
        return Path(app.outdir), warnings.getvalue()

    return run


def words(out: Path) -> list[tuple[str, str, str]]:
    """Return the words of the first page: text, definition, address."""
    soup = BeautifulSoup((out / "index.html").read_text(), "html.parser")
    return [
        (word.get_text(), str(word["data-definition"]), str(word.a and word.a["href"])) for word in soup(class_="term")
    ]


def test_a_word_carries_the_first_paragraph_of_its_definition(build: Build) -> None:
    out, warnings = build()
    assert warnings == ""
    definition = "Which ones a < b are “kept”."
    assert words(out) == [("mask", definition, "words.html#term-mask"), ("masks", definition, "words.html#term-masks")]


def test_only_pages_with_words_load_the_script(build: Build) -> None:
    out, _ = build()
    assert [path.name for path in sorted(out.glob("*.html")) if "glossary.js" in path.read_text()] == ["index.html"]


def test_a_changed_definition_changes_the_pages_that_use_it(build: Build) -> None:
    build()
    out, _ = build(GLOSSARY.replace("kept", "left"))
    assert {definition for _, definition, _ in words(out)} == {"Which ones a < b are “left”."}


def test_a_definition_that_is_no_plain_text_is_refused(build: Build) -> None:
    assert "shown as plain text" in build(GLOSSARY.replace("`a < b`", "$a < b$"))[1]


def test_other_formats_have_a_plain_link(build: Build) -> None:
    out, warnings = build(builder="text")
    assert warnings == ""
    assert "Draw a *mask*, two *masks*, and a link." in (out / "index.txt").read_text()


def test_every_chapter_explains_words_once() -> None:
    for path in chapters():
        text = "\n".join(cell.source for cell in read(path).cells if cell.cell_type == "markdown")
        found = [target or word for word, target in re.findall(r"\{term\}`([^`<]*?)(?: <([^>]*)>)?`", text)]
        assert len(found) >= 3, path.stem
        assert len({word.lower() for word in found}) == len(found), path.stem
