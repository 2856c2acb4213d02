"""Every check works on an answer in another process: nothing but plain values and handles passes."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

import pytest

from book.notebooks import ROOT
from dropoutlib.checks.exercises import judge
from grading import keys
from tests.grading.elsewhere import RemoteAnswer
from tests.grading.test_proofs import PROOFS


@pytest.fixture(scope="module")
def process() -> Iterator[subprocess.Popen[bytes]]:
    command = [sys.executable, "-m", "tests.grading.elsewhere"]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        yield process
        assert process.stdin
        process.stdin.close()


@pytest.mark.parametrize("name", PROOFS)
def test_a_check_works_across_processes(process: subprocess.Popen[bytes], name: str) -> None:
    label = next(iter(PROOFS[name].right))
    seed = keys.seed(bytes(32), "elsewhere", "", name)
    result = judge(name, RemoteAnswer(process, name, label, dict(PROOFS[name].given)), seed)
    assert result, result.message
