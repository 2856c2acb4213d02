"""The benchmark: what is timed side by side does the same job, and the command runs on tiny sizes. Nothing is timed."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import command, steps, timing
from benchmarks.layers import CASES
from dropoutlib import masks
from tests.statistics import Alarm

SHAPE, RATES = (60, 50), (0.1, 0.3, 0.9)


@pytest.mark.parametrize("p", RATES)
@pytest.mark.parametrize("name", [name for name in CASES if name != "bound"])
def test_every_layer_is_inverted_dropout(name: str, p: float) -> None:
    rng = np.random.default_rng(3)
    x, dy = (rng.uniform(1, 2, SHAPE).astype(np.float32) for _ in range(2))
    step = CASES[name].start(x, dy, p)
    kept = []
    for _ in range(2):
        y, dx = (np.asarray(part.detach() if hasattr(part, "detach") else part) for part in step())
        kept.append(y != 0)
        np.testing.assert_allclose(y, x * kept[-1] / (1 - p), rtol=3e-7)
        np.testing.assert_allclose(dx, dy * kept[-1] / (1 - p), rtol=3e-7)
    assert not np.array_equal(*kept), "a step must draw a new mask"


@pytest.mark.statistical(comparisons=2 * 9)
def test_every_maker_keeps_one_minus_p(seed: int, alarm: Alarm) -> None:
    size = 64 * 2000
    for p in (0.3, 0.9):
        for name, make in steps.makers(size, p, seed).items():
            mask = np.asarray(make())
            kept = np.bitwise_count(mask).sum() if mask.dtype == np.uint64 else np.count_nonzero(mask)
            # Sixteen digits are off by at most 2**-17, far less than chance here.
            alarm.binomial(int(kept), size, 1 - p, f"{name}, p={p}")


@pytest.mark.parametrize(("q", "digits"), [(0.25, 2), (0.625, 3), (0.7, 16), (1 / 3, 16)])
def test_bit_planes_take_a_plane_for_each_digit_that_matters(q: float, digits: int) -> None:
    words = np.random.SFC64(5)
    steps.bit_planes(640, q, words)
    fresh = np.random.SFC64(5)
    rounded = round(q * 2**steps.PLANES)
    planes = steps.PLANES - ((rounded & -rounded).bit_length() - 1)
    assert planes <= digits
    fresh.random_raw(10 * planes)
    assert words.random_raw() == fresh.random_raw()


@pytest.mark.parametrize("p", RATES)
def test_every_way_to_apply_a_mask_gives_the_same(p: float) -> None:
    rng = np.random.default_rng(4)
    x, mask = rng.standard_normal((70, 30)).astype(np.float32), rng.random((70, 30)) > p
    for name, apply in steps.appliers(x, mask, p).items():
        if name != "memory bound":
            np.testing.assert_allclose(apply(), np.where(mask, x / (1 - p), 0), rtol=3e-7, err_msg=name)


def test_every_way_of_the_demonstration_finds_the_same_mean() -> None:
    ways = steps.demonstration(400, p=0.3, shape=(4, 10), outputs=3)
    exact = ways["closed form"]()
    for name, way in ways.items():
        found = way()
        mean = found.mean if hasattr(found, "mean") and not isinstance(found, np.ndarray) else found
        # Six standard errors of 12 means that share their noise.
        assert (np.abs(mean - exact.mean) < 6 * np.sqrt(exact.variance / 400)).all(), name


def test_rounds_are_interleaved_and_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timing, "SAMPLE_SECONDS", 0.0)
    monkeypatch.setattr(timing, "_calls", lambda step: 1)
    seen: list[str] = []
    ways = {name: (lambda name=name: seen.append(name)) for name in "abc"}
    samples = timing.interleave(ways, seconds=0, least=3)
    assert "".join(seen) == "abcbcacab"
    assert {name: len(taken) for name, taken in samples.items()} == dict.fromkeys("abc", 3)


def test_ratios_are_taken_round_by_round() -> None:
    samples = {"ours": [1.0, 2.0, 4.0], "theirs": [2.0, 6.0, 4.0]}
    assert timing.ratios(samples, "theirs")["ours"] == {"low": 1.0, "median": 2.0, "high": 3.0}
    assert timing.ratios(samples, "theirs")["theirs"]["median"] == 1.0


def test_a_spread_has_median_and_outer_tenths() -> None:
    assert timing.spread([float(n) for n in range(101)]) == {"low": 10.0, "median": 50.0, "high": 90.0}


def test_the_peak_is_what_a_step_asks_for() -> None:
    assert 8e6 <= timing.peak_bytes(lambda: np.empty(1_000_000)) < 8.1e6


def test_memory_of_the_layers() -> None:
    """A mask takes 1 byte an element, packed 1/8, keyed none; y and dx of float32 are 8 bytes together."""
    found = command.measure_memory(command.Setting((1024, 1024), "float32", 0.3))["bytes_an_element"]
    assert {name: found[name]["mask"] for name in ("inverted", "packed", "keyed", "keyed_compiled")} == {
        "inverted": 1,
        "packed": 0.125,
        "keyed": 0,
        "keyed_compiled": 0,
    }
    assert 9 <= found["inverted"]["peak"] < 9.5
    assert 8 <= found["keyed_compiled"]["peak"] < 8.1
    assert found["textbook"]["peak"] >= 24
    assert found["tensorflow"] == {"mask": None, "peak": None}


def test_the_command_runs_prints_and_stores(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(timing, "SAMPLE_SECONDS", 0.0)
    stored: list[Any] = []
    monkeypatch.setattr(command, "save", lambda name, found: stored.append((name, found)) or Path("file.json"))
    tiny = ["--shapes", "8x5", "--rates", "0.3", "--dtypes", "float32", "--seconds", "0", "--trials", "30"]
    command.main([*tiny, "--store"])
    ((name, found),) = stored
    assert name == "benchmark"
    json.dumps(found, allow_nan=False)
    (row,) = found["layers"].values()
    assert set(row["milliseconds"]) == set(CASES)
    assert all(math.isfinite(ms["median"]) and ms["median"] > 0 for ms in row["milliseconds"].values())
    printed = capsys.readouterr().out
    assert "8x5 float32 0.3" in printed
    assert all(case.label in printed for case in CASES.values())
    monkeypatch.setattr(command, "run", lambda *given: found)
    command.main(tiny)
    assert len(stored) == 1, "without --store nothing is stored"


@pytest.mark.parametrize(
    ("options", "said"),
    [("--shapes 8", "got '8'"), ("--shapes 0x3", "got '0x3'"), ("--rates 1", "got '1'"), ("--rates x", "got 'x'")],
)
def test_a_wrong_option_is_named(options: str, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        command.main(options.split())
    assert said in capsys.readouterr().err


def test_the_stepped_down_case_restores_the_compiled_path() -> None:
    from dropoutlib import layers

    CASES["keyed"].start(np.ones((4, 4), np.float32), np.ones((4, 4), np.float32), 0.3)()
    assert layers.compiled is masks.compiled
