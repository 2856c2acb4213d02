"""The built book, for the tests that read it."""

from pathlib import Path

import pytest
import yaml

from book.notebooks import ROOT, toc_files

BUILT = ROOT / "_build" / "html"
DOCUMENTS = list(toc_files(yaml.safe_load((ROOT / "_toc.yml").read_text(encoding="utf-8"))))


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
