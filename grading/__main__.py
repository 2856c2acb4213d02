"""The command line of the package."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from grading import (
    export,
    grade,
    gradescope,
    keys,
    records,
    regrade,
    reports,
    roster,
    rubric,
    sandbox,
    sheets,
    source,
    submissions,
    variant,
)
from grading.assign import AssignError, assign, key_of

OUT = Path("_build/assignments")
_GRADING_ERRORS = (
    export.ExportError,
    grade.GradeError,
    gradescope.GradescopeError,
    records.RecordError,
    reports.OutError,
    roster.RosterError,
    rubric.RubricError,
    sandbox.SandboxError,
    sheets.SheetError,
    submissions.SubmissionError,
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; return the exit status: 1 and one line for bad input."""
    parser = argparse.ArgumentParser(prog="python -m grading", description="for instructors: make and mark assignments")
    commands = parser.add_subparsers(dest="command", required=True)
    make = commands.add_parser("assign", help="write students' notebooks and instructors' packs")
    make.add_argument(
        "names", nargs="*", metavar="NAME", help="assignments, as in assignments/NAME.ipynb (default: all)"
    )
    make.add_argument(
        "-o", "--out", type=Path, metavar="OUT", help=f"where to write (default: {OUT}, or {OUT}-VARIANT)"
    )
    make.add_argument(
        "--key", type=Path, metavar="FILE", help="check the solutions under this key (default: a fresh one)"
    )
    make.add_argument("--variant", default="", metavar="WORD", help="other numbers, data split and names for a class")
    key = commands.add_parser("key", help="write a private key, from which the hidden checks draw their inputs")
    key.add_argument("file", type=Path, metavar="FILE", help="a new file, outside of what students can see")
    store = commands.add_parser("store", help="run the sources again and store their outputs")
    store.add_argument("names", nargs="*", metavar="NAME", help="assignments (default: all)")
    _add_grading(commands, "grade", "grade a folder of submissions, each in a sandbox")
    again = _add_grading(commands, "regrade", "grade again beside OUT, and print what changes for whom and why")
    again.add_argument("--write", action="store_true", help="let the new results replace the old ones")
    _add_others(commands)
    options = parser.parse_args(arguments)
    try:
        if options.command == "assign":
            out = options.out or (OUT.with_name(f"{OUT.name}-{options.variant}") if options.variant else OUT)
            print(assign(options.names, out, key_of(options.key), options.variant))
        elif options.command == "key":
            keys.write(options.file)
            print(f"{options.file} is written; keep it from students and from the repository, and keep a copy")
        elif options.command == "store":
            _store(options.names)
        elif options.command == "grade":
            return _grade(options, options.out, keys.read(options.key) if options.key else None)
        else:
            _others(options)
    except (source.AssignmentError, keys.KeyFileError, AssignError, *_GRADING_ERRORS) as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        if options.command not in ("grade", "regrade"):
            raise
        print("ended early; the same command goes on where this run has stopped", file=sys.stderr)
        return 130
    return 0


def _add_grading(
    commands: argparse._SubParsersAction[argparse.ArgumentParser], name: str, text: str
) -> argparse.ArgumentParser:
    command = commands.add_parser(name, help=text)
    command.add_argument("name", metavar="ASSIGNMENT", help="as in assignments/ASSIGNMENT.ipynb")
    command.add_argument("folder", type=Path, metavar="SUBMISSIONS", help="what students have handed in; never changed")
    command.add_argument("-o", "--out", type=Path, metavar="OUT", required=True, help="where to write all results")
    command.add_argument("--key", type=Path, metavar="FILE", help="the private key (default: one that is kept in OUT)")
    command.add_argument("--variant", default="", metavar="WORD", help="the class, as for assign")
    command.add_argument("--jobs", type=int, metavar="N", help="submissions at a time (default: one a processor)")
    command.add_argument("--deadline", metavar="ISO", help="such as 2026-11-30T23:59+01:00")
    command.add_argument("--roster", type=Path, metavar="CSV", help="who is in the class")
    command.add_argument(
        "--sandbox", choices=sandbox.CHOICES, default="auto", help="how to isolate (default: bubblewrap if it works)"
    )
    return command


def _add_others(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    sheet = commands.add_parser("rubric", help=f"write OUT/{rubric.SHEET}, a sheet for the marks by hand")
    merge = commands.add_parser("merge", help="read the marks by hand back, and write all reports again")
    to = commands.add_parser("export", help="write the points as a file that Canvas or Moodle imports")
    for command in (sheet, merge, to):
        command.add_argument("out", type=Path, metavar="OUT", help="a folder of results")
    merge.add_argument("sheet", type=Path, nargs="?", metavar="SHEET", help=f"the sheet (default: OUT/{rubric.SHEET})")
    to.add_argument("--for", dest="platform", choices=export.PLATFORMS, required=True)
    to.add_argument(
        "--roster", type=Path, metavar="CSV", required=True, help="Canvas's exported gradebook, or Moodle's worksheet"
    )
    to.add_argument("-o", "--to", type=Path, metavar="FILE", required=True, help="the file to write")
    zipped = commands.add_parser("gradescope", help="write an autograder for Gradescope")
    zipped.add_argument("name", metavar="ASSIGNMENT", help="as in assignments/ASSIGNMENT.ipynb")
    zipped.add_argument(
        "-o", "--to", type=Path, metavar="ZIP", required=True, help="the file to write; it holds the key"
    )
    zipped.add_argument("--key", type=Path, metavar="FILE", required=True, help="the private key")
    zipped.add_argument("--variant", default="", metavar="WORD", help="the class, as for assign")


def _grade(options: argparse.Namespace, out: Path, key: bytes | None) -> int:
    """Grade a folder; the status is 2 if some submissions could not be run on this machine."""
    if options.jobs is not None and options.jobs < 1:
        raise grade.GradeError(f"--jobs is a number of 1 or more, got {options.jobs}")
    done = grade.grade(
        variant.make(source.load(options.name), options.variant),
        options.folder,
        out,
        key=key,
        sandbox=options.sandbox,
        jobs=options.jobs,
        due=submissions.deadline(options.deadline) if options.deadline else None,
        roster=roster.read(options.roster) if options.roster else None,
        say=lambda line: print(line, flush=True),
    )
    print(f"{done.graded} graded, {done.kept} graded before: {out / reports.GRADES}")
    if done.failed:
        print(f"run it again for {len(done.failed)} that could not be run: {', '.join(done.failed)}", file=sys.stderr)
        return 2
    return 0


def _others(options: argparse.Namespace) -> None:
    """Run a command about results."""
    match options.command:
        case "regrade":
            # Results that were made without a key file keep theirs.
            own = options.out / grade.KEY
            key = keys.read(options.key or own) if options.key or own.exists() else None
            print(regrade.regrade(options.out, lambda out: _grade(options, out, key), options.write))
        case "rubric":
            path, waiting = rubric.write(options.out)
            print(f"{path}: {waiting} answers are to be marked; enter points, save, and run `merge`")
        case "merge":
            merged = rubric.merge(options.out, options.sheet)
            print(
                f"the marks of {len(merged.students)} students have changed; {merged.waiting} answers are to be marked"
            )
        case "export":
            done = export.write(options.out, options.platform, options.roster, options.to)
            print(f"{options.to}: {done.filled} students have points")
            for students, why in (
                (done.waiting, "left empty, since answers are to be marked or nothing was handed in"),
                (done.absent, "left empty, since there is no record"),
                (done.strangers, "not on the roster, and so not in the file"),
            ):
                if students:
                    print(f"  {why}: {', '.join(students)}")
        case "gradescope":
            made = variant.make(source.load(options.name), options.variant)
            gradescope.write(made, keys.read(options.key), options.to)
            print(f"{options.to} is written; upload it to Gradescope, and keep it from students: it holds the key")


def _store(names: Sequence[str]) -> None:
    from book.notebooks import execute

    for name in names or source.names():
        source.load(name)
        execute(source.FOLDER / f"{name}.ipynb")
        print(f"{name}: stored")


if __name__ == "__main__":
    sys.exit(main())
