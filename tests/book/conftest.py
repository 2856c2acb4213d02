"""The built book, for the tests that read it."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from sphinx.util.docutils import docutils_namespace

from book.notebooks import ROOT, toc_files

BUILT = ROOT / "_build" / "html"
DOCUMENTS = list(toc_files(yaml.safe_load((ROOT / "_toc.yml").read_text(encoding="utf-8"))))


@pytest.fixture(autouse=True)
def clean_docutils() -> Iterator[None]:
    """Undo what a Sphinx application registered, also where it failed to start and could not clean up."""
    with docutils_namespace():
        yield


@pytest.fixture(scope="session")
def built() -> Path:
    """Folder of the built book, which is there and not older than its sources."""
    for name in DOCUMENTS:
        source, page = (next(ROOT.glob(f"{name}.*")), BUILT / f"{name}.html")
        if not page.is_file():
            pytest.fail(f"{page.relative_to(ROOT)} is not there; run make book")
        if page.stat().st_mtime < source.stat().st_mtime:
            pytest.fail(f"{page.relative_to(ROOT)} is older than {source.relative_to(ROOT)}; run make book")
    return BUILT
