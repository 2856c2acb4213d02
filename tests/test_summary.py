"""What a run of the tests says of its time, the order in which its files begin, and what it has compiled before."""

from pathlib import Path

import pytest

from tests import conftest


def report(nodeid: str, duration: float, when: str = "call") -> pytest.TestReport:
    made = pytest.TestReport(nodeid, (nodeid, 0, ""), {}, "passed", None, when, duration=duration)  # type: ignore[arg-type]
    return made


def test_the_slowest_folders_and_files_are_named_with_their_seconds() -> None:
    reports = [report("tests/a/x.py::t[::]", 40.0), report("tests/a/x.py::t", 2.0, "setup"), object()]
    reports += [report("tests/a/y.py::t", 30.0), report("b/z.ipynb::Cell 0", 50.04)]
    head, *lines = conftest.slowest(reports, files=2)
    assert head.startswith("122 s of tests")
    assert [line.split() for line in lines] == [
        ["72.0", "s", "tests/a/"],
        ["50.0", "s", "b/"],
        ["50.0", "s", "b/z.ipynb"],
        ["42.0", "s", "tests/a/x.py"],
    ]


def test_a_short_run_says_nothing_of_its_time() -> None:
    assert list(conftest.slowest([report("tests/a/x.py::t", 59.0)])) == []


def test_every_place_of_long_files_is_there_and_begins_before_the_others(request: pytest.FixtureRequest) -> None:
    for place in conftest.LONGEST:
        assert request.config.rootpath.joinpath(place).exists(), place
    places = [conftest.begins(item) for item in request.session.items]
    assert places == sorted(places)


def test_a_worker_begins_with_what_all_have_compiled(tmp_path: Path) -> None:
    for name, content in (
        ("gw0/a", b"0"),
        ("gw0/gw1/deep", b"0"),
        ("gw1/a", b"1"),
        ("gw1/b", b"1"),
        ("gw1/empty", b""),
    ):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    for own in ("gw0", "gw2", "gw2"):
        conftest.take_compiled(tmp_path, tmp_path / own)
    held = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()}
    assert held == {"gw0/a", "gw0/b", "gw0/gw1/deep", "gw1/a", "gw1/b", "gw2/a", "gw2/b"}
    assert (tmp_path / "gw0" / "a").read_bytes() == b"0"
    assert (tmp_path / "gw2" / "b").read_bytes() == b"1"
