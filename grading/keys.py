"""The instructor's private key, and the seeds that are derived from it.

A question's seed is HMAC-SHA256 of the assignment, the class variant and the question under the key, read as a whole
number. Without the key it cannot be told, and from one question's seed nothing follows about another's.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import re
import secrets
from pathlib import Path

BYTES = 32
ENVIRONMENT = "DROPOUT_GRADING_KEY"
_HEX = re.compile(rf"[0-9a-f]{{{2 * BYTES}}}")


class KeyFileError(ValueError):
    """A key file that cannot be used; the message says why."""


def new() -> bytes:
    """Return a fresh key from the system's entropy."""
    return secrets.token_bytes(BYTES)


def write(path: Path) -> None:
    """Write a fresh key to a new file that only its owner can read.

    Raises
    ------
    KeyFileError
        If the file exists or cannot be written.
    """
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        raise KeyFileError(f"{path} exists; a key is never overwritten, since marks are derived from it") from None
    except OSError as error:
        raise KeyFileError(f"{path} cannot be written: {error.strerror}") from None
    with os.fdopen(descriptor, "w", encoding="ascii") as file:
        file.write(new().hex() + "\n")


def read(path: Path) -> bytes:
    """Return the key in a file.

    Raises
    ------
    KeyFileError
        If there is none.
    """
    try:
        text = path.read_text(encoding="ascii").strip()
    except OSError as error:
        raise KeyFileError(f"the key file {path} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        text = ""
    if not _HEX.fullmatch(text):
        raise KeyFileError(f"{path} is no key file; make one with: python -m grading key FILE")
    return bytes.fromhex(text)


def seed(key: bytes, assignment: str, variant: str, question: str) -> int:
    """Return the seed of a question's hidden check, 0 <= seed < 2**256."""
    label = json.dumps(["hidden check", assignment, variant, question]).encode()
    return int.from_bytes(hmac.new(key, label, hashlib.sha256).digest(), "big")
