"""What only the build of the book needs: its Sphinx extensions, the notebook runner, and the checks of both."""

import hashlib
from pathlib import Path


def code_digest() -> str:
    """Return a digest of this package's code, so that a change of it makes Sphinx read every page anew."""
    sources = sorted(Path(__file__).parent.rglob("*.py"))
    return hashlib.sha256(b"".join(path.read_bytes() for path in sources)).hexdigest()
