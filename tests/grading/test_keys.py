"""The private key: where it is written, what is read, and what is derived from it."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from grading import keys

KEY = bytes(range(32))


def test_a_key_file_is_fresh_private_and_never_overwritten(tmp_path: Path) -> None:
    one, other = tmp_path / "one.key", tmp_path / "other.key"
    keys.write(one)
    keys.write(other)
    assert keys.read(one) != keys.read(other)
    assert len(keys.read(one)) == keys.BYTES
    if os.name == "posix":
        assert stat.S_IMODE(one.stat().st_mode) == 0o600
    before = one.read_text()
    with pytest.raises(keys.KeyFileError, match="exists"):
        keys.write(one)
    assert one.read_text() == before
    with pytest.raises(keys.KeyFileError, match="cannot be written"):
        keys.write(tmp_path / "absent" / "a.key")


@pytest.mark.parametrize("text", [b"", b"abc", b"00" * 31, b"zz" * 32, b"\xff" * 64, b"00" * 33])
def test_another_file_is_no_key(tmp_path: Path, text: bytes) -> None:
    path = tmp_path / "a.key"
    path.write_bytes(text)
    with pytest.raises(keys.KeyFileError, match="is no key file; make one with: python -m grading key FILE"):
        keys.read(path)


def test_an_absent_or_unreadable_key(tmp_path: Path) -> None:
    for path in (tmp_path / "absent.key", tmp_path):
        with pytest.raises(keys.KeyFileError, match="cannot be read"):
            keys.read(path)


def test_the_seed_depends_on_everything() -> None:
    parts = ("two-dropouts", "", "two-dropouts.1")
    seeds = {keys.seed(KEY, *parts), keys.seed(KEY[::-1], *parts)}
    seeds |= {keys.seed(KEY, *(part + "x" if i == k else part for i, part in enumerate(parts))) for k in range(3)}
    # Parts that would be the same when joined.
    seeds |= {keys.seed(KEY, "a", "b", "c"), keys.seed(KEY, "ab", "", "c"), keys.seed(KEY, "a", "", "bc")}
    assert len(seeds) == 8
    assert all(0 <= seed < 2**256 for seed in seeds)
    assert keys.seed(KEY, *parts) == keys.seed(KEY, *parts)


def test_the_derivation_is_frozen() -> None:
    """Marks of an earlier year can be made again."""
    assert f"{keys.seed(KEY, 'two-dropouts', '', 'two-dropouts.1'):064x}" == (
        "7d6ac581178b62638912c77e6401d6a4eca4be49fcd3a3ae033b86f0d101919e"
    )
