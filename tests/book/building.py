"""Builds of the book outside its own `_build`, as `make book` and `make colab` do them."""

from __future__ import annotations

import functools
import http.server
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from book.notebooks import ROOT


def build(folder: Path, *builders: str, repository: str = "", url: str = "") -> Path:
    """Build the book for a site, as `html` or `colab` or both, and return the folder that holds these."""
    command = [str(Path(sys.executable).with_name("jupyter-book")), "build", str(ROOT), "--path-output", str(folder)]
    command += ["--quiet", "-W", "-n", "--keep-going"]
    environment = os.environ | {"BOOK_REPOSITORY": repository, "BOOK_URL": url, "PYTHONPATH": str(ROOT)}
    for builder in builders:
        custom = [] if builder == "html" else ["--builder", "custom", "--custom-builder", builder]
        done = subprocess.run([*command, *custom], env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
    return folder / "_build"


class _QuietHandler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *arguments: object) -> None:
        pass


@contextmanager
def served(folder: Path, port: int = 0) -> Iterator[str]:
    """Serve a folder on this machine and give its address."""
    handler = functools.partial(_QuietHandler, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", port), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()
