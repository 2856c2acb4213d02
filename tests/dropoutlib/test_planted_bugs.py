"""Every planted bug is caught, by the checks named for it and with a stated power; the real layers are not."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from tests.dropoutlib.contract import CHECKS, LAYER_RATES, SUBJECTS, Entry, Subject
from tests.dropoutlib.planted_bugs import BUGS, Bug, ScaleByP
from tests.statistics import DEFAULT_SEED, RATE, Alarm, binomial_power, seeds, shown_power, two_sided

ENTRIES = {entry.name: entry for entry in CHECKS}
POWER_SEEDS = 500


def catches(entry: Entry, subject: Subject, seed: int = DEFAULT_SEED) -> bool:
    """Say whether a check fails, as a check does: by an assertion."""
    try:
        entry.run(subject, seed, Alarm(entry.comparisons))
    except (AssertionError, pytest.fail.Exception):
        return True
    return False


def name_of(bug: Bug) -> str:
    return f"{bug.name} ({bug.subject.make.__name__})"


by_bug = pytest.mark.parametrize("bug", BUGS, ids=name_of)


def test_the_ten_bugs_are_planted() -> None:
    assert {bug.name for bug in BUGS} == {
        "no rescale", "1/p", "keep and drop swapped", "fresh mask in backward", "one mask for the whole batch",
        "active in evaluation", "scaled twice", "float64 out of float32", "NaN at p = 1",
        "mask kept from an older forward",
    }  # fmt: skip


@by_bug
def test_a_planted_bug_is_caught(bug: Bug) -> None:
    assert bug.caught_by
    silent = [name for name in bug.caught_by if not catches(ENTRIES[name], bug.subject)]
    assert not silent, f"{name_of(bug)} passes {silent}"


@by_bug
def test_a_planted_bug_leaves_the_rest_right(bug: Bug) -> None:
    """The arguments, the stream and the copies are those of the real layer, so the bug itself is what is caught."""
    for name in ("rate_out_of_range", "rate_of_wrong_type", "input_of_wrong_dtype_is_refused", "modes", "seed_errors"):
        assert not catches(ENTRIES[name], bug.subject), name


@pytest.mark.parametrize("name", SUBJECTS)
def test_the_real_layers_pass_every_check(name: str) -> None:
    """The same checks on the same streams as in `test_layers`, so nothing is added to the false-alarm rate."""
    subject = SUBJECTS[name]
    usable = [entry for entry in CHECKS if subject.remembers or not entry.memory]
    assert [entry.name for entry in usable if catches(entry, subject)] == []


# --- p = .5 is blind ----------------------------------------------------------------------------------------------


def test_rates_of_the_contract_are_not_one_half() -> None:
    assert all(abs(p - 0.5) >= 0.2 for p in LAYER_RATES)
    assert any(p < 0.5 for p in LAYER_RATES)
    assert any(p > 0.5 for p in LAYER_RATES)


def test_at_one_half_alone_the_whole_contract_misses_1_over_p() -> None:
    blind = Subject(ScaleByP, "inverted", rates=(0.5,), edges=())
    assert [entry.name for entry in CHECKS if catches(entry, blind)] == []


@pytest.mark.parametrize("p", LAYER_RATES)
def test_any_single_rate_of_the_contract_catches_1_over_p(p: float) -> None:
    assert catches(ENTRIES["support"], Subject(ScaleByP, "inverted", rates=(p,), edges=()))


# --- power --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("p", LAYER_RATES)
def test_exact_power_against_keep_and_drop_swapped(p: float) -> None:
    """The 4000 elements of `check_keep_frequency` are then kept with probability p."""
    assert binomial_power(4000, supposed=1 - p, true=p) >= 0.99


@pytest.mark.parametrize("p", LAYER_RATES)
def test_exact_power_against_one_mask_for_the_whole_batch(p: float) -> None:
    """The 2000 pairs of rows of `check_elements_are_independent` then always agree."""
    assert two_sided(2000, 2000, p**2 + (1 - p) ** 2) < RATE


@pytest.mark.long
@by_bug
def test_power_over_many_seeds(bug: Bug) -> None:
    """No miss in 500 seeds at any single rate shows a power of at least .99 at 99 % confidence."""
    assert shown_power(POWER_SEEDS) >= 0.99
    for name in bug.caught_by:
        for p in LAYER_RATES:
            subject = replace(bug.subject, rates=(p,))
            misses = [seed for seed in seeds(POWER_SEEDS) if not catches(ENTRIES[name], subject, seed)]
            assert not misses, f"{name} at p={p} misses {len(misses)} of {POWER_SEEDS}, first at seed {misses[0]}"


def test_a_check_that_errs_is_no_catch() -> None:
    """An error of another kind is not taken for a catch."""

    def make(p: Any, seed: Any) -> Any:
        raise KeyError(p)

    with pytest.raises(KeyError):
        catches(ENTRIES["support"], Subject(make, "inverted"))


@pytest.mark.parametrize("cls", [bug.subject.make for bug in BUGS], ids=lambda cls: cls.__name__)
def test_call_is_the_planted_forward(cls: Any) -> None:
    x = np.ones((3, 4))
    np.testing.assert_array_equal(cls(0.3, 1)(x), cls(0.3, 1).forward(x))
