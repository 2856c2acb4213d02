"""`python -m dropoutlib check`: the deployment check for files.

The check itself runs in a process of its own. So a library that prints, or that a damaged file brings down, disturbs
neither the report nor the exit status.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import warnings
from collections.abc import Sequence
from typing import Any

PASSED, FOUND, UNCHECKED = 0, 1, 2
RUNS = "The check ran this file's operations. Run it on files from people you trust."
_ASKED = {
    "parameters": "give --checkpoint",
    "normalisation-statistics": "in Python, give deployment_check some batches",
}
_INSIDE = "DROPOUTLIB_CHECK_INSIDE"

_DESCRIPTION = """\
Inspect an exported model: is dropout gone, does each row stand for itself, are the parameters the checkpoint's?

MODEL is a .keras file, a SavedModel folder, an .onnx file, a .pt2 file (torch.export.save), or a .jaxexport file (the
bytes of jax.export.Exported.serialize())."""
_EPILOG = """\
Exit status: 0 if all checks pass, 1 if there is a finding, 2 if the model could not be checked.

Nothing is unpickled, and files that would have to be are refused. But a SavedModel, an ONNX file and the others are
programs, and checking one runs its operations: only files from somebody you trust belong here."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    options = _parser().parse_args(given)
    if os.environ.get(_INSIDE):
        return _inside(options)
    done = subprocess.run(
        [sys.executable, "-m", "dropoutlib", *given],
        env={**os.environ, _INSIDE: "1", "TF_CPP_MIN_LOG_LEVEL": "3", "TF_ENABLE_ONEDNN_OPTS": "0"},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        check=False,
    )
    try:
        answer = json.loads(done.stdout)
    except ValueError:
        answer = {
            "status": UNCHECKED,
            "error": f"{options.model} ended the process that read it (status {done.returncode}), it may be damaged; "
            "export it again",
        }
    if answer.get("text"):
        print(answer["text"])
    if answer.get("error"):
        print(f"dropoutlib: {answer['error']}", file=sys.stderr)
    return int(answer["status"])


def check(model: str, example: str, checkpoint: str | None = None, as_json: bool = False) -> dict[str, Any]:
    """Check a file and return the exit status, what to print, and what went wrong.

    Parameters
    ----------
    model, example : str
        Paths of the exported model and of an `.npz` file with one batch of inputs.
    checkpoint : str, optional
        Path of the parameters that it should have.
    as_json : bool
        Whether the text is JSON.

    Returns
    -------
    dict
        `status` (0, 1 or 2), and `text` or `error` or both.
    """
    from dropoutlib.frameworks import files
    from dropoutlib.frameworks.check import exported_check
    from dropoutlib.frameworks.protocol import Report

    try:
        made_by = files.kind(model)
        inputs = files.arrays(example)
        expected = None if checkpoint is None else files.reference(checkpoint)
        whole = exported_check(files.load(model), inputs, expected)
    except Exception as error:  # whatever a library raises, the answer is one line and status 2
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        text = " ".join(lines) if isinstance(error, ValueError) else f"{type(error).__name__}: {' '.join(lines[:1])}"
        if str(model) not in text:
            text = f"{model} could not be checked: {text}"
        return {"status": UNCHECKED, "error": text}

    unasked = {name: how for name, how in _ASKED.items() if name != "parameters" or checkpoint is None}
    skipped = {
        each.check: unasked[each.check]
        for each in whole.findings
        if each.verdict == "cannot tell" and each.check in unasked
    }
    report = Report(tuple(each for each in whole.findings if each.check not in skipped))
    untold = [each.check for each in report.findings if each.verdict == "cannot tell"]
    status = FOUND if report.failed else UNCHECKED if untold else PASSED
    if as_json:
        about = {"model": str(model), "kind": made_by, "status": status, "not_checked": skipped}
        text = json.dumps({**about, **json.loads(report.to_json())}, indent=2)
    else:
        result = {PASSED: "all checks passed", FOUND: f"{len(report.failed)} failed", UNCHECKED: "could not tell"}[
            status
        ]
        left_out = [f"not checked: {name} ({how})" for name, how in skipped.items()]
        text = "\n".join([f"{model} ({made_by}): {result}", str(report), *left_out, RUNS])
    answer: dict[str, Any] = {"status": status, "text": text}
    if status == UNCHECKED:
        answer["error"] = f"{model}: nothing failed, but {', '.join(untold)} could not be told; see the report"
    return answer


def _parser() -> argparse.ArgumentParser:
    shape = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(prog="python -m dropoutlib", description="Tools of dropoutlib.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    made = commands.add_parser(
        "check", help="inspect an exported model", description=_DESCRIPTION, epilog=_EPILOG, formatter_class=shape
    )
    made.add_argument("model", metavar="MODEL", help="the exported model")
    made.add_argument("--example", metavar="FILE.npz", required=True, help="one batch of inputs; its rows must differ")
    made.add_argument("--checkpoint", metavar="FILE", help="the parameters it should have: .npz, .keras or .weights.h5")
    made.add_argument("--json", action="store_true", help="print the report as JSON")
    return parser


def _inside(options: argparse.Namespace) -> int:
    """Check, and write the answer to what was standard output; nobody else can write there."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    warnings.simplefilter("ignore")
    answer = check(options.model, options.example, options.checkpoint, options.json)
    with answers:
        json.dump(answer, answers)
    return PASSED
