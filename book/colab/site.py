"""Whose book this is: the one place that knows the repository and the address of the site.

The workflow that publishes sets two environment variables, and a fork's workflow sets the fork's:

BOOK_REPOSITORY
    OWNER/NAME on GitHub. Chapters get buttons that open their notebook from the branch `colab` of this repository, and
    one that downloads it from the site; without it they have none.
BOOK_URL
    Address of the site. Notebooks install dropoutlib from it and link to its pages; without it they install from where
    `make serve` serves, and references are plain text.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass

from sphinx.config import Config

BRANCH = "colab"
SERVED_HERE = "http://localhost:8000"
_REPOSITORY = re.compile(r"[A-Za-z0-9-]+/[A-Za-z0-9._-]+")
_URL = re.compile(r"https?://[^\s/?#]+(/[^\s?#]*)?")


@dataclass(frozen=True)
class Site:
    """A repository on GitHub and the address of the site that serves its book; either may be empty."""

    repository: str = ""
    url: str = ""

    def __post_init__(self) -> None:
        if self.repository and not _REPOSITORY.fullmatch(self.repository):
            raise ValueError(f"BOOK_REPOSITORY must be OWNER/NAME, got {self.repository!r}")
        if self.url and not _URL.fullmatch(self.url):
            raise ValueError(f"BOOK_URL must be an address such as https://owner.github.io/name, got {self.url!r}")

    @classmethod
    def from_environment(cls) -> Site:
        """Return what BOOK_REPOSITORY and BOOK_URL say."""
        return cls(os.environ.get("BOOK_REPOSITORY", ""), os.environ.get("BOOK_URL", ""))

    @classmethod
    def of(cls, config: Config) -> Site:
        """Return what a build was told."""
        return cls(config.book_repository, config.book_url)

    def page(self, address: str) -> str:
        """Return the address of a page or a place in it, given from the site's root; empty if there is no site."""
        return f"{self.url.rstrip('/')}/{address}" if self.url else ""

    def wheel(self, name: str, sha256: str) -> str:
        """Return what pip is to install: a wheel's address with its hash."""
        return f"{(self.url or SERVED_HERE).rstrip('/')}/wheels/{name}#sha256={sha256}"

    def launch(self, name: str) -> str:
        """Return the address that opens a notebook in Colab; empty if the repository is not known."""
        if not self.repository:
            return ""
        return f"https://colab.research.google.com/github/{self.repository}/blob/{BRANCH}/{name}"

    def binder(self, name: str) -> str:
        """Return the address that opens a notebook on Binder; empty if the repository is not known."""
        if not self.repository:
            return ""
        return f"https://mybinder.org/v2/gh/{self.repository}/{BRANCH}?urlpath=lab/tree/{name}"
