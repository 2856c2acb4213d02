"""Options, marks and fixtures that all tests share."""

from __future__ import annotations

from collections.abc import Generator

import hypothesis
import pytest

from tests.statistics import BUDGET, DEFAULT_SEED, Alarm, seeds

hypothesis.settings.register_profile("short", max_examples=60, derandomize=True, deadline=None, database=None)
hypothesis.settings.register_profile("long", max_examples=2000, deadline=None, database=None)
hypothesis.settings.load_profile("short")

DECLARED = pytest.StashKey[int]()
# Coverage is measured where the tests mirror what it measures; elsewhere the tracer would only cost time.
MEASURED = ("tests/dropoutlib/", "tests/frameworks/", "tests/grading/")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--seeds", type=int, default=1, metavar="N", help="run statistical tests under N other seeds")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    count: int = metafunc.config.getoption("--seeds")
    if count < 1:
        raise pytest.UsageError(f"--seeds must be at least 1, got {count}")
    own = any("seed" in str(mark.args[0]) for mark in metafunc.definition.iter_markers("parametrize"))
    if "seed" in metafunc.fixturenames and count > 1 and not own:
        metafunc.parametrize("seed", seeds(count))


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> Generator[None]:
    """Measure coverage where it belongs, and refuse more comparisons in the tests left to run than a run may make."""
    for item in items:
        if not item.nodeid.startswith(MEASURED):
            item.add_marker("no_cover")
    yield
    declared = config.stash[DECLARED] = sum(comparisons(item) for item in items)
    if declared > BUDGET:
        raise pytest.UsageError(f"{declared} comparisons are declared, and a run may make {BUDGET}; lower RATE or K")


def comparisons(item: pytest.Item) -> int:
    """Return the comparisons that a test declares, 0 without the mark."""
    mark = item.get_closest_marker("statistical")
    if mark is None:
        return 0
    declared = mark.kwargs.get("comparisons")
    if mark.args or set(mark.kwargs) != {"comparisons"} or not isinstance(declared, int) or declared < 1:
        raise pytest.UsageError(f"{item.nodeid}: write @pytest.mark.statistical(comparisons=K) with a whole K >= 1")
    return declared


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print what the browser checks have seen, page by page."""
    seen: dict[str, list[str]] = {}
    for reports in terminalreporter.stats.values():
        for report in reports:
            for name, value in getattr(report, "user_properties", ()):
                if name.startswith("page "):
                    seen.setdefault(name, []).append(str(value))
    for name in sorted(seen):
        terminalreporter.section(name)
        for value in sorted(set(seen[name])):
            terminalreporter.line(value)


@pytest.fixture
def seed() -> int:
    """Seed of this run; `--seeds N` puts N others in its place."""
    return DEFAULT_SEED


@pytest.fixture
def alarm(request: pytest.FixtureRequest) -> Alarm:
    """Alarms for as many comparisons as the test declares."""
    declared = comparisons(request.node)
    if not declared:
        pytest.fail("a test that uses `alarm` carries @pytest.mark.statistical(comparisons=K)")
    return Alarm(declared)


@pytest.fixture
def declared_comparisons(pytestconfig: pytest.Config) -> int:
    """Comparisons declared by all tests of this run."""
    return pytestconfig.stash[DECLARED]
