"""The command line of the package."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from grading import keys, source
from grading.assign import AssignError, assign, key_of

OUT = Path("_build/assignments")


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
    options = parser.parse_args(arguments)
    try:
        if options.command == "assign":
            out = options.out or (OUT.with_name(f"{OUT.name}-{options.variant}") if options.variant else OUT)
            print(assign(options.names, out, key_of(options.key), options.variant))
        elif options.command == "key":
            keys.write(options.file)
            print(f"{options.file} is written; keep it from students and from the repository, and keep a copy")
        else:
            _store(options.names)
    except (source.AssignmentError, keys.KeyFileError, AssignError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def _store(names: Sequence[str]) -> None:
    from book.notebooks import execute

    for name in names or source.names():
        source.load(name)
        execute(source.FOLDER / f"{name}.ipynb")
        print(f"{name}: stored")


if __name__ == "__main__":
    sys.exit(main())
