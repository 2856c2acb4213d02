"""Options, marks and fixtures that all tests share."""

from __future__ import annotations

import gc
import os
from collections import defaultdict
from collections.abc import Generator, Iterable, Iterator
from contextlib import suppress
from pathlib import Path

import hypothesis
import pytest

from tests.statistics import BUDGET, DEFAULT_SEED, Alarm, seeds

hypothesis.settings.register_profile("short", max_examples=60, derandomize=True, deadline=None, database=None)
hypothesis.settings.register_profile("long", max_examples=2000, deadline=None, database=None)
hypothesis.settings.load_profile("short")

DECLARED = pytest.StashKey[int]()
# Coverage is measured where the tests mirror what it measures; elsewhere the tracer would only cost time.
MEASURED = ("tests/dropoutlib/", "tests/frameworks/", "tests/grading/")

# Where the files are that take longest; of the long tests those of the studies come last, as each uses both cores.
LONGEST = (
    "tests/test_colab_run.py",
    "tests/frameworks/test_colab_versions.py",
    "chapters/frameworks.ipynb",
    "tests/frameworks/test_adapters.py",
    "tests/chapters/",
    "chapters/",
    "tests/book/",
    "tests/grading/",
    "tests/frameworks/",
)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--seeds", type=int, default=1, metavar="N", help="run statistical tests under N other seeds")


def pytest_configure() -> None:
    """Give each worker a folder of its own for what JAX compiles: it may read what another process has half written."""
    folder, worker = os.environ.get("JAX_COMPILATION_CACHE_DIR"), os.environ.get("PYTEST_XDIST_WORKER")
    if folder and worker:
        own = Path(folder, worker)
        take_compiled(Path(folder), own)
        os.environ["JAX_COMPILATION_CACHE_DIR"] = str(own)


def take_compiled(folder: Path, own: Path) -> None:
    """Link what all workers of earlier runs compiled into a worker's own folder."""
    own.mkdir(parents=True, exist_ok=True)
    for entry in folder.glob("*/*"):
        # A worker that has workers itself, as in tests of our plugins, has their folders in its own.
        if entry.is_file():
            with suppress(FileNotFoundError, FileExistsError):  # another worker was quicker
                if not entry.stat().st_size:
                    entry.unlink()  # left by a run that was stopped; JAX would not write it again
                elif not (own / entry.name).exists():
                    (own / entry.name).hardlink_to(entry)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    count: int = metafunc.config.getoption("--seeds")
    if count < 1:
        raise pytest.UsageError(f"--seeds must be at least 1, got {count}")
    own = any("seed" in str(mark.args[0]) for mark in metafunc.definition.iter_markers("parametrize"))
    if "seed" in metafunc.fixturenames and count > 1 and not own:
        metafunc.parametrize("seed", seeds(count))


def begins(item: pytest.Item) -> int:
    """Return the place of a test's kind: workers take whole files, and the longest must not begin last."""
    last = len(LONGEST) + item.nodeid.startswith("tests/studies/")
    return next((place for place, kind in enumerate(LONGEST) if item.nodeid.startswith(kind)), last)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> Generator[None]:
    """Measure coverage where it belongs, and refuse more comparisons in the tests left to run than a run may make."""
    for item in items:
        if not item.nodeid.startswith(MEASURED):
            item.add_marker("no_cover")
    items.sort(key=begins)
    yield
    declared = config.stash[DECLARED] = sum(comparisons(item) for item in items)
    if declared > BUDGET:
        raise pytest.UsageError(f"{declared} comparisons are declared, and a run may make {BUDGET}; lower RATE or K")


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Keep what collecting makes out of every search for garbage: it stays to the end, and looking costs seconds."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


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
    """Print what the browser checks have seen, page by page, and where a longer run's time went."""
    for line in slowest([report for reports in terminalreporter.stats.values() for report in reports]):
        terminalreporter.line(line)
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


def slowest(reports: Iterable[object], files: int = 10, least: float = 60.0) -> Iterator[str]:
    """Yield a table of the folders and of the slowest files, by the seconds of their tests; none for a short run."""
    by_folder: defaultdict[str, float] = defaultdict(float)
    by_file: defaultdict[str, float] = defaultdict(float)
    for report in reports:
        if isinstance(report, pytest.TestReport):
            file = report.nodeid.partition("::")[0]
            by_folder[f"{file.rpartition('/')[0]}/"] += report.duration
            by_file[file] += report.duration
    if (total := sum(by_file.values())) >= least:
        yield f"{total:.0f} s of tests, of all workers together; the slowest folders and files:"
        for seconds in (by_folder, by_file):
            slow = sorted(seconds.items(), key=lambda entry: -entry[1])[:files]
            yield from (f"{time:7.1f} s  {name}" for name, time in slow)


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
