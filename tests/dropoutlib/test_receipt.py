"""The receipt prints what a notebook ran on; its digest changes with the outputs and with nothing else."""

from __future__ import annotations

import platform
import re
import sys
from typing import Any

import numpy as np
import pytest

import dropoutlib
from dropoutlib.receipt import digest, receipt


def printed(capsys: pytest.CaptureFixture[str], outputs: dict[str, Any], seeds: dict[str, Any] | None = None) -> str:
    capsys.readouterr()
    receipt(seeds=seeds or {"masks": 0}, outputs=outputs)
    return capsys.readouterr().out


def line(text: str, name: str) -> str:
    return next(row for row in text.splitlines() if row.startswith(name))


def test_it_names_versions_seeds_outputs_and_scope(capsys: pytest.CaptureFixture[str]) -> None:
    text = printed(capsys, {"weights": np.ones(3), "losses": [1.0, 2.0]}, {"masks": 7, "weights": (1, 2)})
    for version in (platform.python_version(), np.__version__, dropoutlib.__version__):
        assert version in line(text, "versions")
    assert "masks=7" in line(text, "seeds")
    assert "weights=(1, 2)" in line(text, "seeds")
    assert "weights, losses" in line(text, "outputs")
    assert digest({"weights": np.ones(3), "losses": [1.0, 2.0]})[:16] in line(text, "outputs")
    assert "this machine" in line(text, "promise")
    assert platform.machine() in line(text, "machine")


def test_it_names_a_framework_only_when_it_is_loaded(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Fake:
        __version__ = "99.1.2"

    monkeypatch.setitem(sys.modules, "jax", Fake)
    assert "jax 99.1.2" in printed(capsys, {"a": [1.0]})
    monkeypatch.delitem(sys.modules, "jax")
    assert "jax" not in printed(capsys, {"a": [1.0]})


def test_the_promise_is_smaller_where_a_framework_draws(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("torch", "tensorflow", "jax"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    alone = printed(capsys, {"a": [1.0]})
    assert "dropoutlib's masks are the same bits" in alone
    assert "drawn by" not in alone
    monkeypatch.setitem(sys.modules, "torch", type("Fake", (), {"__version__": "1"}))
    assert "drawn by torch may be others" in printed(capsys, {"a": [1.0]})


def test_it_names_the_number_of_threads_that_was_set(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert "OMP_NUM_THREADS=3" in line(printed(capsys, {"a": [1.0]}), "machine")
    monkeypatch.delenv("OMP_NUM_THREADS")
    assert "OMP_NUM_THREADS" not in printed(capsys, {"a": [1.0]})


def test_it_is_the_same_again(capsys: pytest.CaptureFixture[str]) -> None:
    outputs = {"a": np.arange(6.0).reshape(2, 3)}
    assert printed(capsys, outputs) == printed(capsys, {"a": outputs["a"].copy()})


BASE = np.arange(6, dtype=np.float64).reshape(2, 3)


@pytest.mark.parametrize(
    "same",
    [
        {"a": BASE.copy()},
        {"a": BASE.tolist()},
        {"a": np.asfortranarray(BASE)},
        {"a": np.repeat(BASE, 2, axis=1)[:, ::2]},
        {"a": BASE.T.copy().T},
    ],
)
def test_the_digest_is_that_of_the_values(same: dict[str, Any]) -> None:
    assert digest(same) == digest({"a": BASE})


@pytest.mark.parametrize(
    "other",
    [
        {},
        {"b": BASE},
        {"a": BASE.astype(np.float32)},
        {"a": BASE.astype(np.int64)},
        {"a": BASE.view(np.int64)},
        {"a": BASE.reshape(3, 2)},
        {"a": BASE.ravel()},
        {"a": BASE.T},
        {"a": np.nextafter(BASE, 9)},
        {"a": -BASE},
        {"a": BASE, "b": BASE},
        {"a": BASE[:1]},
    ],
)
def test_the_digest_changes_with_the_outputs(other: dict[str, Any]) -> None:
    assert digest(other) != digest({"a": BASE})


def test_the_digest_depends_on_names_and_not_on_their_order() -> None:
    a, b = np.ones(2), np.zeros(2)
    assert digest({"a": a, "b": b}) == digest({"b": b, "a": a})
    assert digest({"a": a, "b": b}) != digest({"a": b, "b": a})


def test_the_digest_is_a_sha256() -> None:
    assert re.fullmatch(r"[0-9a-f]{64}", digest({"a": BASE}))


def test_objects_are_refused_by_name() -> None:
    for call in (lambda o: digest(o), lambda o: receipt(seeds={}, outputs=o)):
        with pytest.raises(TypeError, match=r"'bad'.*object"):
            call({"good": BASE, "bad": np.array([{}, None])})
