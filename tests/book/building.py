"""Builds of the book outside its own `_build`, as make does them, and the browser that reads them."""

from __future__ import annotations

import functools
import http.server
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Playwright

from book.notebooks import ROOT

# All builders in one process, which imports Sphinx once. Each cited work would look through all installed packages for
# its style, and the collector through all documents for garbage.
_BUILDS = """
import functools, gc, sys
import pybtex.plugin
from jupyter_book.cli.main import main
gc.disable()
pybtex.plugin.entry_points = functools.cache(pybtex.plugin.entry_points)
root, folder, *builders = sys.argv[1:]
for builder in builders:
    custom = [] if builder == "html" else ["--builder", "custom", "--custom-builder", builder]
    options = ["--path-output", folder, "--quiet", "-W", "-n", "--keep-going"]
    main(["build", root, *options, *custom], standalone_mode=False)
"""


def build(folder: Path, *builders: str, repository: str = "", url: str = "") -> Path:
    """Build the book for a site, as `html`, `colab`, `slides` or several, and return the folder that holds these.

    Sphinx goes on from what `make book` has read, as it does for a second `make`: it reads what has changed since then.
    """
    doctrees = folder / "_build" / ".doctrees"
    if not doctrees.exists():
        shutil.copytree(ROOT / "_build" / ".doctrees", doctrees)
    environment = os.environ | {"BOOK_REPOSITORY": repository, "BOOK_URL": url, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", _BUILDS, str(ROOT), str(folder), *builders]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder / "_build"


class _QuietHandler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *arguments: object) -> None:
        pass


@contextmanager
def served(
    folder: Path, port: int = 0, handler: type[http.server.SimpleHTTPRequestHandler] = _QuietHandler
) -> Iterator[str]:
    """Serve a folder on this machine and give its address."""
    own = functools.partial(handler, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", port), own) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


CHROMIUM_OPTIONS = ("--no-sandbox", "--disable-gpu", "--disable-background-networking")


def program(*names: str, mend: str) -> str:
    """Find a program by one of its names; without it skip, or fail where everything is to be run."""
    for name in names:
        if path := shutil.which(name):
            return path
    message = f"{names[0]} is missing; {mend}"
    if os.environ.get("CI") or os.environ.get("REQUIRE_ALL"):
        pytest.fail(message)
    pytest.skip(message)


def chromium_program() -> str:
    """Find Chromium."""
    return program("chromium", "google-chrome", mend="on Debian: apt-get install chromium")


def chromium(playwright: Playwright) -> Browser:
    """Start the browser."""
    return playwright.chromium.launch(executable_path=chromium_program(), args=list(CHROMIUM_OPTIONS))
