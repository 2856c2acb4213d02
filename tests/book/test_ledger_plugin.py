"""The ledger's plugin: each way in which claims and tests can part makes a run with --ledger fail."""

import pytest

pytest_plugins = "pytester"

ROW = """
- id: {id}
  statement: It holds.
  verdict: true
  said_by: somebody
  chapter: scale
  tests: [{tests}]
"""
PASSING = """
import pytest

@pytest.mark.claim("one")
def test_one():
    pass

def test_free():
    pass
"""


@pytest.fixture
def project(pytester: pytest.Pytester) -> pytest.Pytester:
    pytester.mkdir("chapters").joinpath("scale.ipynb").touch()
    pytester.mkdir("tests")
    ledger(pytester, one="tests/test_one.py::test_one")
    write(pytester, PASSING)
    return pytester


def ledger(project: pytest.Pytester, **tests: str) -> None:
    (project.path / "claims.yml").write_text("".join(ROW.format(id=name, tests=test) for name, test in tests.items()))


def write(project: pytest.Pytester, source: str, name: str = "test_one.py") -> None:
    (project.path / "tests" / name).write_text(source)


def run(project: pytest.Pytester, *arguments: str, alone: bool = False) -> pytest.RunResult:
    runner = project.runpytest_subprocess if alone else project.runpytest
    return runner("-p", "book.ledger_plugin", "-p", "no:cacheprovider", *arguments)


def test_all_is_well(project: pytest.Pytester) -> None:
    result = run(project, "--ledger")
    assert result.ret == 0
    result.stdout.fnmatch_lines(["ledger: every test of 1 claims passed"])


def test_parameters_all_count(project: pytest.Pytester) -> None:
    source = PASSING.replace(
        "def test_one():\n    pass", "@pytest.mark.parametrize('n', [1, 2])\ndef test_one(n):\n    assert n == 1"
    )
    write(project, source)
    result = run(project, "--ledger")
    assert result.ret == 1
    result.stdout.fnmatch_lines(["ERROR: claim one: tests/test_one.py::test_one?2? failed"])


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("assert 1 / 0.2 == 1 / 0.8", "failed"),
        ("pytest.skip('no time')", "skipped"),
        ("pytest.xfail('not yet')", "expected to fail"),
    ],
    ids=["a false claim", "a skipped test", "an expected failure"],
)
def test_a_test_that_did_not_pass(project: pytest.Pytester, body: str, message: str) -> None:
    write(project, PASSING.replace("    pass", f"    {body}", 1))
    result = run(project, "--ledger")
    assert result.ret == 1
    result.stdout.fnmatch_lines([f"ERROR: claim one: tests/test_one.py::test_one {message}"])


def test_a_test_whose_clean_up_fails(project: pytest.Pytester) -> None:
    fixture = "\n@pytest.fixture\ndef broken():\n    yield\n    raise RuntimeError\n"
    write(project, PASSING.replace("test_one()", "test_one(broken)") + fixture)
    result = run(project, "--ledger")
    assert result.ret == 1
    result.stdout.fnmatch_lines(["ERROR: claim one: tests/test_one.py::test_one failed"])


def test_a_test_that_is_missing(project: pytest.Pytester) -> None:
    write(project, PASSING.replace("test_one", "test_two"))
    result = run(project, "--ledger")
    assert result.ret == 1
    result.stdout.fnmatch_lines(["ERROR: claim one: tests/test_one.py::test_one did not run*"])


def test_a_test_that_is_deselected(project: pytest.Pytester) -> None:
    result = run(project, "--ledger", "-k", "free")
    assert result.ret == 1
    result.stdout.fnmatch_lines(["ERROR: claim one: tests/test_one.py::test_one did not run*"])


def test_no_test_at_all(project: pytest.Pytester) -> None:
    write(project, "")
    assert run(project, "--ledger").ret == 1


def test_a_mark_that_names_no_row(project: pytest.Pytester) -> None:
    write(project, PASSING.replace("def test_free", '@pytest.mark.claim("two")\ndef test_free'))
    result = run(project, "--ledger")
    assert result.ret == 1
    result.stdout.fnmatch_lines(["ERROR: tests/test_one.py::test_free: its mark names no row of claims.yml: two*"])


def test_a_row_whose_test_lacks_the_mark(project: pytest.Pytester) -> None:
    ledger(project, one="tests/test_one.py::test_one", two="tests/test_one.py::test_one")
    result = run(project, "--ledger")
    assert result.ret == 1
    result.stdout.fnmatch_lines(
        ["ERROR: claim two: tests/test_one.py::test_one lacks the mark @pytest.mark.claim(?two?)"]
    )


def test_one_test_may_decide_two_claims(project: pytest.Pytester) -> None:
    ledger(project, one="tests/test_one.py::test_one", two="tests/test_one.py::test_one")
    write(project, PASSING.replace("def test_one", '@pytest.mark.claim("two")\ndef test_one'))
    assert run(project, "--ledger").ret == 0


@pytest.mark.parametrize("mark", ['claim("one", "two")', "claim()", "claim(1)", 'claim(id="one")'])
def test_a_mark_has_one_id(project: pytest.Pytester, mark: str) -> None:
    write(project, PASSING.replace('claim("one")', mark))
    result = run(project, "--ledger")
    assert result.ret != 0
    result.stderr.fnmatch_lines(["*write one id, as in @pytest.mark.claim*"])


def test_a_faulty_ledger_stops_the_run(project: pytest.Pytester) -> None:
    ledger(project, one="")
    result = run(project, "--ledger")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*row 1 (one): has no tests; add it*"])


def test_without_the_option_it_only_warns(project: pytest.Pytester) -> None:
    write(project, PASSING.replace('claim("one")', 'claim("two")'))
    result = run(project)
    assert result.ret == 0
    result.stdout.fnmatch_lines(
        ["warning: claim one: *lacks the mark*", "warning: tests/test_one.py::test_one: its mark names no row*"]
    )


def test_without_the_option_a_part_of_the_tests_may_run(project: pytest.Pytester) -> None:
    result = run(project, "-k", "free")
    assert result.ret == 0
    result.stdout.no_fnmatch_line("warning: *")


def test_a_usual_failure_keeps_its_exit_status(project: pytest.Pytester) -> None:
    write(project, PASSING.replace("    pass", "    raise KeyboardInterrupt", 1))
    assert run(project, "--ledger", alone=True).ret == pytest.ExitCode.INTERRUPTED


@pytest.mark.parametrize("passes", [True, False])
def test_with_two_workers(project: pytest.Pytester, passes: bool) -> None:
    ledger(project, one="tests/test_one.py::test_one", two="tests/test_two.py::test_two")
    body = "pass" if passes else "pytest.skip('no time')"
    write(project, f'import pytest\n\n@pytest.mark.claim("two")\ndef test_two():\n    {body}\n', "test_two.py")
    result = run(project, "-n", "2", "--dist", "loadfile", "--ledger", alone=True)
    assert result.ret == (0 if passes else 1)
    if not passes:
        result.stdout.fnmatch_lines(["ERROR: claim two: tests/test_two.py::test_two skipped"])
