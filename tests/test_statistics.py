"""The alarms themselves: their rates, their bounds, and what they refuse."""

from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import binom, norm  # type: ignore[import-untyped]

from tests.statistics import BUDGET, FAMILY_RATE, RATE, Alarm, bernstein, binomial_power, seeds, shown_power, two_sided

ROOT = Path(__file__).resolve().parents[1]


def test_false_alarm_rate_of_this_run(declared_comparisons: int) -> None:
    assert declared_comparisons * RATE <= FAMILY_RATE
    assert declared_comparisons <= BUDGET


@pytest.mark.parametrize(("trials", "probability"), [(40, 0.3), (400, 0.9), (1000, 0.02)])
@pytest.mark.parametrize("rate", [1e-2, 1e-6])
def test_binomial_false_alarms_never_exceed_the_rate(trials: int, probability: float, rate: float) -> None:
    assert 0.0 < binomial_power(trials, probability, probability, rate) <= rate


@pytest.mark.parametrize(("trials", "probability"), [(40, 0.3), (400, 0.9), (1000, 0.02), (1000, 0.5)])
@pytest.mark.parametrize("rate", [1e-2, 1e-6, 1e-10])
def test_bernstein_holds_against_exact_binomial_tails(trials: int, probability: float, rate: float) -> None:
    limit = bernstein(trials * probability * (1 - probability), max(probability, 1 - probability), rate)
    outside = np.abs(np.arange(trials + 1) - trials * probability) >= limit
    assert binom(trials, probability).pmf(np.arange(trials + 1))[outside].sum() <= rate


def test_bernstein_is_close_to_the_z_bound_of_a_large_sum() -> None:
    z = bernstein(variance=1e6, bound=1.0, rate=RATE) / 1e3
    quantile = norm.isf(RATE / 2)
    assert quantile < z < 1.1 * quantile  # strictness costs a little


def test_two_sided_is_twice_the_smaller_tail() -> None:
    assert two_sided(0, 10, 0.3) == pytest.approx(2 * 0.7**10)
    assert two_sided(10, 10, 0.3) == pytest.approx(2 * 0.3**10)
    assert two_sided(3, 10, 0.3) == 1.0


def test_alarm_fires_and_stays_silent() -> None:
    alarm = Alarm(4)
    alarm.binomial(500, 1000, 0.5, "right")
    alarm.total(500.0, 490.0, 250.0, 1.0, "right")
    with pytest.raises(AssertionError, match="wrong: 700 of 1000"):
        alarm.binomial(700, 1000, 0.5, "wrong")
    with pytest.raises(AssertionError, match="wrong: 700"):
        alarm.total(700.0, 500.0, 250.0, 1.0, "wrong")


def test_nan_is_an_alarm() -> None:
    with pytest.raises(AssertionError):
        Alarm(1).total(math.nan, 1.0, 1.0, 1.0, "nan")


def test_shown_power_is_the_clopper_pearson_bound() -> None:
    assert shown_power(459, confidence=0.99) > 0.99 > shown_power(458, confidence=0.99)


def test_seeds_differ_from_each_other_and_from_the_ordinary_one() -> None:
    many = seeds(50)
    assert len(set(many)) == 50
    assert not set(many) & set(seeds(1))


CONFTEST = "from tests.conftest import *\n"
CASES = """
import pytest

@pytest.mark.statistical(comparisons=1)
def test_within(seed, alarm):
    alarm.binomial(5, 10, .5, "fine")

@pytest.mark.statistical(comparisons=1)
def test_too_many(alarm):
    alarm.binomial(5, 10, .5, "fine")
    alarm.binomial(5, 10, .5, "fine")

@pytest.mark.parametrize("seed", [1, 2])
def test_seeds_of_its_own(seed):
    pass

def test_unmarked(alarm):
    pass

@pytest.mark.long
@pytest.mark.statistical(comparisons=4000)
def test_left_out(alarm):
    pass

def test_sum(declared_comparisons):
    assert declared_comparisons == EXPECTED
"""


def run(folder: Path, cases: str, *options: str) -> str:
    (folder / "conftest.py").write_text(CONFTEST)
    (folder / "test_cases.py").write_text(cases)
    (folder / "pytest.ini").write_text("[pytest]\n")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-rA", "-p", "no:cacheprovider", *options, str(folder)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stdout + done.stderr


@pytest.mark.parametrize(("count", "declared"), [(1, 2), (3, 4)])
def test_marks_and_options_as_pytest_sees_them(tmp_path: Path, count: int, declared: int) -> None:
    output = run(tmp_path, CASES.replace("EXPECTED", str(declared)), "-m", "not long", "--seeds", str(count))
    lines = output.splitlines()
    assert sum(line.startswith("PASSED") and "test_within" in line for line in lines) == count
    assert sum(line.startswith("PASSED") and "test_seeds_of_its_own" in line for line in lines) == 2, output
    assert any(line.startswith("PASSED") and "test_sum" in line for line in lines), output
    assert any(line.startswith("FAILED") and "test_too_many" in line for line in lines), output
    assert any(line.startswith("ERROR") and "test_unmarked" in line for line in lines), output
    assert "1 deselected" in output


def test_more_comparisons_than_a_run_may_make_are_refused(tmp_path: Path) -> None:
    each = BUDGET // 5 + 1
    case = f"import pytest\n@pytest.mark.statistical(comparisons={each})\ndef test_a(seed, alarm): pass\n"
    assert f"{5 * each} comparisons are declared" in run(tmp_path, case, "--seeds", "5")
    assert "4 passed" in run(tmp_path, case, "--seeds", "4")


def test_a_mark_without_its_number_is_refused(tmp_path: Path) -> None:
    output = run(tmp_path, "import pytest\n@pytest.mark.statistical\ndef test_a(alarm): pass\n")
    assert "comparisons=K" in output
