"""The maps between standard and inverted networks: the table, its inverse, refusals, and the trainings themselves."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from threadpoolctl import threadpool_limits

from dropoutlib.convert import inverted_weights, optimizer_settings, standard_weights
from dropoutlib.data import digits
from dropoutlib.layers import InvertedDropout, StandardDropout
from dropoutlib.network import SGD, Adam, AdamW, Linear, Parameter, ReLU, Sequential, softmax_cross_entropy

RATES = [0.1, 0.3, 0.5, 0.9]

SGD_FULL = {
    "optimizer": "SGD",
    "lr": 0.1,
    "momentum": 0.9,
    "nesterov": True,
    "dampening": 0.0,
    "weight_decay": 1e-3,
    "max_norm": 3.0,
}
ADAM_FULL = {
    "optimizer": "Adam",
    "lr": 0.01,
    "betas": (0.8, 0.99),
    "eps": 1e-6,
    "weight_decay": 1e-3,
    "max_norm": 3.0,
}
ADAMW_FULL = {**ADAM_FULL, "optimizer": "AdamW", "decay_times_lr": True}
ADAMW_APART = {**ADAM_FULL, "optimizer": "AdamW", "decay_times_lr": False}

# (settings, key, power of q by which the standard network's setting differs)
TABLE = [
    (SGD_FULL, {"lr": -2, "weight_decay": 2, "max_norm": -1}),
    (ADAM_FULL, {"lr": -1, "eps": 1, "weight_decay": 2, "max_norm": -1}),
    (ADAMW_FULL, {"lr": -1, "eps": 1, "weight_decay": 1, "max_norm": -1}),
    (ADAMW_APART, {"lr": -1, "eps": 1, "weight_decay": 0, "max_norm": -1}),
]


# Weights.


@pytest.mark.parametrize("p", [0.0, *RATES])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_weights(p: float, dtype: type) -> None:
    W = np.random.default_rng(0).standard_normal((3, 4)).astype(dtype)
    before = W.copy()
    standard, inverted = standard_weights(W, p), inverted_weights(W, p)
    np.testing.assert_allclose(standard, W.astype(float) / (1 - p), rtol=4 * np.finfo(dtype).eps)
    np.testing.assert_allclose(inverted, W.astype(float) * (1 - p), rtol=4 * np.finfo(dtype).eps)
    np.testing.assert_allclose(inverted_weights(standard, p), W, rtol=4 * np.finfo(dtype).eps)
    np.testing.assert_allclose(standard_weights(inverted, p), W, rtol=4 * np.finfo(dtype).eps)
    assert standard.dtype == inverted.dtype == dtype
    np.testing.assert_array_equal(W, before)
    assert not np.shares_memory(standard, W)
    assert not np.shares_memory(inverted, W)


@pytest.mark.parametrize("W", [[[1.0, 2.0], [3.0, 4.0]], 3.0, np.ones((2, 3, 4)), np.ones((0, 4)), [1.0, 2.0]])
def test_weights_of_any_shape(W: Any) -> None:
    for function, expected in ((standard_weights, np.asarray(W) / 0.75), (inverted_weights, np.asarray(W) * 0.75)):
        result = function(W, 0.25)
        assert isinstance(result, np.ndarray)
        np.testing.assert_array_equal(result, expected)


@pytest.mark.parametrize("p", [np.float64(0.25), np.float32(0.25), np.float16(0.25), Fraction(1, 4), 0.25])
def test_p_of_any_real_type(p: Any) -> None:
    W = np.ones((2, 2), np.float32)
    assert standard_weights(W, p).dtype == np.float32
    np.testing.assert_allclose(standard_weights(W, p), W / 0.75, rtol=1e-6)
    np.testing.assert_array_equal(inverted_weights(W, p), W * 0.75)
    assert optimizer_settings({"optimizer": "SGD", "lr": 9.0}, p)["lr"] == 9.0 / 0.75**2


CALLS: list[Callable[[Any], object]] = [
    lambda p: standard_weights(np.ones(2), p),
    lambda p: inverted_weights(np.ones(2), p),
    lambda p: optimizer_settings({"optimizer": "Adam"}, p),
]


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("p", [-0.1, 1.0, 1, 1.5, float("nan"), float("inf"), np.float64(1.0)])
def test_p_out_of_range_is_refused_by_name_and_value(call: Callable[[Any], object], p: Any) -> None:
    with pytest.raises(ValueError, match=r"\bp must") as caught:
        call(p)
    assert repr(p) in str(caught.value)


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("p", [True, "0.5", None, [0.5], np.array([0.5]), np.array(0.5), 0.5j])
def test_p_of_another_type_is_refused(call: Callable[[Any], object], p: Any) -> None:
    with pytest.raises(TypeError, match=r"\bp must"):
        call(p)


# The table.


@pytest.mark.parametrize("p", [0.0, *RATES])
@pytest.mark.parametrize(("settings", "powers"), TABLE)
def test_the_table_in_both_directions(settings: dict[str, Any], powers: dict[str, int], p: float) -> None:
    before = dict(settings)
    standard = optimizer_settings(settings, p)
    inverted = optimizer_settings(settings, p, to="inverted")
    assert settings == before
    assert standard == optimizer_settings(settings, p, "standard")
    assert set(standard) == set(inverted) == set(settings)
    for key, value in settings.items():
        if key in powers:
            assert standard[key] == pytest.approx(value * (1 - p) ** powers[key], rel=1e-14)
            assert inverted[key] == pytest.approx(value * (1 - p) ** -powers[key], rel=1e-14)
        else:
            assert standard[key] == inverted[key] == value


@given(
    p=st.floats(0, 0.999),
    row=st.sampled_from(TABLE),
    values=st.fixed_dictionaries({key: st.floats(1e-6, 1e3) for key in ("lr", "weight_decay", "max_norm")}),
)
def test_the_two_directions_are_inverse(
    p: float, row: tuple[dict[str, Any], dict[str, int]], values: dict[str, float]
) -> None:
    settings = {**row[0], **values}
    there: Any
    for there, back in (("standard", "inverted"), ("inverted", "standard")):
        result = optimizer_settings(optimizer_settings(settings, p, to=there), p, to=back)
        assert result == {
            key: pytest.approx(value, rel=1e-12) if isinstance(value, float) else value
            for key, value in settings.items()
        }


def test_defaults_that_do_not_map_to_themselves_are_written_out() -> None:
    assert optimizer_settings({"optimizer": "SGD", "lr": 1.0}, 0.5) == {"optimizer": "SGD", "lr": 4.0}
    assert optimizer_settings({"optimizer": "Adam"}, 0.5) == {"optimizer": "Adam", "lr": 2e-3, "eps": 5e-9}
    assert optimizer_settings({"optimizer": "AdamW"}, 0.5) == {
        "optimizer": "AdamW",
        "lr": 2e-3,
        "eps": 5e-9,
        "weight_decay": 0.005,
    }
    apart = optimizer_settings({"optimizer": "AdamW", "decay_times_lr": False}, 0.5)
    assert (apart["weight_decay"], apart["decay_times_lr"]) == (0.01, False)


def test_the_defaults_are_those_of_pytorch() -> None:
    torch = pytest.importorskip("torch")
    weights = [torch.zeros(1, requires_grad=True)]
    for name, optimizer in (("Adam", torch.optim.Adam), ("AdamW", torch.optim.AdamW)):
        defaults = optimizer(weights).defaults
        mapped = optimizer_settings({"optimizer": name}, 0.0)
        assert all(mapped[key] == defaults[key] for key in mapped if key != "optimizer")
        if "weight_decay" not in mapped:
            assert defaults["weight_decay"] == 0


# Refusals.


@pytest.mark.parametrize("key", ["clip_grad_norm", "clip_norm", "global_clipnorm"])
@pytest.mark.parametrize("name", ["SGD", "Adam", "AdamW"])
@pytest.mark.parametrize("to", ["standard", "inverted"])
def test_clipping_by_a_global_norm_is_refused_with_the_reason(key: str, name: str, to: Any) -> None:
    with pytest.raises(ValueError, match=f"{key}=1.5 .*global norm.*gradients"):
        optimizer_settings({"optimizer": name, "lr": 0.1, key: 1.5}, 0.3, to=to)


@pytest.mark.parametrize(
    ("settings", "key"),
    [
        ({"optimizer": "SGD", "lr": 0.1, "learning_rate": 1}, "learning_rate"),
        ({"optimizer": "SGD", "lr": 0.1, "betas": (0.9, 0.99)}, "betas"),
        ({"optimizer": "SGD", "lr": 0.1, "eps": 1e-8}, "eps"),
        ({"optimizer": "SGD", "lr": 0.1, "decay_times_lr": True}, "decay_times_lr"),
        ({"optimizer": "Adam", "momentum": 0.9}, "momentum"),
        ({"optimizer": "Adam", "decay_times_lr": False}, "decay_times_lr"),
        ({"optimizer": "AdamW", "amsgrad": True}, "amsgrad"),
    ],
)
def test_an_unknown_key_is_refused_by_name(settings: dict[str, Any], key: str) -> None:
    with pytest.raises(ValueError, match=key):
        optimizer_settings(settings, 0.3)


@pytest.mark.parametrize("settings", [{}, {"lr": 0.1}, {"optimizer": "RMSprop"}, {"optimizer": "sgd", "lr": 0.1}])
def test_an_unknown_optimizer_is_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"SGD, Adam, AdamW.*got " + repr(settings.get("optimizer"))):
        optimizer_settings(settings, 0.3)


def test_sgd_without_a_learning_rate_is_refused() -> None:
    with pytest.raises(ValueError, match="lr"):
        optimizer_settings({"optimizer": "SGD", "momentum": 0.9}, 0.3)


@pytest.mark.parametrize("to", ["Standard", "", None, 1])
def test_an_unknown_direction_is_refused(to: Any) -> None:
    with pytest.raises(ValueError, match="to must be"):
        optimizer_settings({"optimizer": "Adam"}, 0.3, to=to)


# The trainings: 300 steps on digits, float64, 64-100-100-10, dropout before the second and the third Linear.

OPTIMIZERS: dict[str, Any] = {"SGD": SGD, "Adam": Adam, "AdamW": AdamW}
TRAININGS: dict[str, dict[str, Any]] = {
    "SGD": {"optimizer": "SGD", "lr": 0.3},
    "SGD, momentum": {"optimizer": "SGD", "lr": 0.05, "momentum": 0.9},
    "SGD, L2": {"optimizer": "SGD", "lr": 0.3, "weight_decay": 1e-3},
    "Adam": {"optimizer": "Adam", "lr": 2e-3, "eps": 1e-3},
    "AdamW": {"optimizer": "AdamW", "lr": 2e-3, "eps": 1e-3, "weight_decay": 0.1},
}
STEPS, BATCH = 300, 64


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Multiply these small matrices on one thread: more wait for each other for longer than they compute."""
    with threadpool_limits(1, "blas"):
        yield


def network(make: Any, p: float) -> tuple[Sequential, list[Parameter]]:
    """Return a network, the same for each kind of dropout, and its weights that follow a dropout."""
    rng = np.random.default_rng(1)
    first, second, third = Linear(64, 100, rng), Linear(100, 100, rng), Linear(100, 10, rng)
    layers = Sequential(first, ReLU(), make(p, seed=2), second, ReLU(), make(p, seed=3), third)
    return layers, [second.weight, third.weight]


def train(
    layers: Sequential,
    special: list[Parameter],
    common: dict[str, Any],
    settings: dict[str, Any],
    change: Callable[[list[Parameter]], None] | None = None,
) -> None:
    """Train; `special` parameters get `settings`, all others `common`; `change` may clip gradients before each step."""
    x, y = digits().train
    others = [parameter for parameter in layers.parameters() if all(parameter is not s for s in special)]

    def keep(s: dict[str, Any]) -> dict[str, Any]:
        return {key: value for key, value in s.items() if key != "optimizer"}

    groups = [{"params": others, **keep(common)}, {"params": special, **keep(settings)}]
    optimizer = OPTIMIZERS[common["optimizer"]](groups, lr=1.0)
    order = np.random.default_rng(4)
    layers.train()
    for _ in range(STEPS):
        rows = order.integers(0, len(y), BATCH)
        _, gradient = softmax_cross_entropy(layers(x[rows]), y[rows])
        layers.backward(gradient)
        if change:
            change(layers.parameters())
        optimizer.step()


def difference(
    p: float,
    settings: dict[str, Any],
    mapped: dict[str, Any],
    common: dict[str, Any] | None = None,
    start: bool = True,
    change: Callable[[list[Parameter]], None] | None = None,
) -> float:
    """Return max |q W_s - W_i| (and the same of all other parameters) after both trainings."""
    inverted, w_inverted = network(InvertedDropout, p)
    standard, w_standard = network(StandardDropout, p)
    if start:
        for weight in w_standard:
            weight.value[...] = standard_weights(weight.value, p)
    train(inverted, w_inverted, settings, settings, change)
    train(standard, w_standard, common or settings, mapped, change)
    gaps = []
    for s, i in zip(standard.parameters(), inverted.parameters(), strict=True):
        follows = any(s is weight for weight in w_standard)
        gaps.append(np.abs((inverted_weights(s.value, p) if follows else s.value) - i.value).max())
    return float(max(gaps))


@pytest.mark.parametrize("p", [0.3, 0.5])
@pytest.mark.parametrize("name", TRAININGS)
def test_the_mapped_training_is_the_same_training(name: str, p: float) -> None:
    settings = TRAININGS[name]
    assert difference(p, settings, optimizer_settings(settings, p)) <= 1e-12


def clip_global_norm(parameters: list[Parameter]) -> None:
    norm = np.sqrt(sum(float(np.sum(parameter.grad**2)) for parameter in parameters))
    for parameter in parameters:
        parameter.grad = parameter.grad * min(1.0, 0.5 / norm)


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("SGD", {"lr": 1.0}),
        ("SGD", {"lr": 1 / 0.7}),
        ("SGD, momentum", {"lr": 0.7**2}),
        ("SGD, L2", {"weight_decay": 1.0}),
        ("SGD, L2", {"weight_decay": 0.7}),
        ("Adam", {"lr": 1.0}),
        ("Adam", {"lr": 1 / 0.7**2}),
        ("Adam", {"eps": 1.0}),
        ("AdamW", {"weight_decay": 1.0}),
        ("AdamW", {"weight_decay": 0.7**2}),
    ],
)
def test_a_wrong_map_gives_another_training(name: str, wrong: dict[str, float]) -> None:
    p, settings = 0.3, TRAININGS[name]
    mapped = {**optimizer_settings(settings, p), **{key: settings[key] * factor for key, factor in wrong.items()}}
    assert difference(p, settings, mapped) > 1e-3


def test_other_ways_to_get_another_training() -> None:
    p, settings = 0.3, TRAININGS["SGD"]
    mapped = optimizer_settings(settings, p)
    assert difference(p, settings, mapped, common=mapped) > 1e-2  # the map for all parameters, biases included
    assert difference(p, settings, mapped, start=False) > 1e-2  # the same initial weights
    assert difference(p, settings, settings, start=False) > 1e-2
    assert difference(p, settings, mapped, change=clip_global_norm) > 1e-3


@pytest.mark.parametrize("p", [0.3, 0.5])
def test_adamw_with_decay_apart_from_the_learning_rate(p: float) -> None:
    settings = {**TRAININGS["AdamW"], "decay_times_lr": False, "weight_decay": 2e-4}
    mapped = optimizer_settings(settings, p)

    def plain(s: dict[str, Any]) -> dict[str, Any]:
        """Return the settings of an AdamW whose decay is multiplied by lr, and which decays as much."""
        return {
            **{key: value for key, value in s.items() if key != "decay_times_lr"},
            "weight_decay": s["weight_decay"] / s["lr"],
        }

    assert difference(p, plain(settings), plain(mapped)) <= 1e-12
    assert difference(p, plain(settings), plain({**mapped, "weight_decay": 2e-4 * (1 - p)})) > 1e-5


def max_norm(radius: float, weights: list[Parameter]) -> Callable[[], None]:
    """Return a function that scales each row of the weights back to the radius."""

    def project() -> None:
        for weight in weights:
            norms = np.linalg.norm(weight.value, axis=1, keepdims=True)
            weight.value *= np.minimum(1.0, radius / norms)

    return project


@pytest.mark.parametrize(("factor", "same"), [(None, True), (1.0, False)])
def test_the_radius_of_a_max_norm_constraint(factor: float | None, same: bool) -> None:
    p, settings = 0.3, {"optimizer": "SGD", "lr": 0.3, "max_norm": 0.8}
    mapped = optimizer_settings(settings, p)
    radius = mapped["max_norm"] if factor is None else factor * settings["max_norm"]
    inverted, w_inverted = network(InvertedDropout, p)
    standard, w_standard = network(StandardDropout, p)
    for weight in w_standard:
        weight.value[...] = standard_weights(weight.value, p)
    for layers, special, lr, limit in (
        (inverted, w_inverted, settings["lr"], settings["max_norm"]),
        (standard, w_standard, mapped["lr"], radius),
    ):
        project = max_norm(limit, special)
        plain = {"optimizer": "SGD", "lr": settings["lr"]}
        # The projection of the weights follows each step; here it comes before the next step's gradient is used.
        train(layers, special, plain, {"optimizer": "SGD", "lr": lr}, lambda _, project=project: project())
        project()
    gap = max(np.abs(0.7 * s.value - i.value).max() for s, i in zip(w_standard, w_inverted, strict=True))
    norms = [np.linalg.norm(weight.value, axis=1).max() for weight in w_inverted]
    assert max(norms) == pytest.approx(0.8, rel=1e-12)
    assert gap <= 1e-12 if same else gap > 1e-2


def test_both_networks_predict_the_same_in_both_modes() -> None:
    p, x = 0.3, digits().test.x
    inverted, _ = network(InvertedDropout, p)
    standard, w_standard = network(StandardDropout, p)
    for weight in w_standard:
        weight.value[...] = standard_weights(weight.value, p)
    for mode in ("train", "eval"):
        getattr(inverted, mode)()
        getattr(standard, mode)()
        np.testing.assert_allclose(standard(x), inverted(x), rtol=0, atol=1e-12)


@pytest.mark.parametrize("convert", [standard_weights, inverted_weights])
@pytest.mark.parametrize("weights", [np.ones(2, complex), np.ones(2, int), np.array([None])])
def test_weights_that_are_no_floats_are_refused(convert: Callable[..., object], weights: np.ndarray) -> None:
    with pytest.raises(TypeError, match="W must be float16, float32 or float64"):
        convert(weights, 0.2)


@pytest.mark.parametrize(
    ("settings", "error"),
    [
        ({"optimizer": ["SGD"], "lr": 0.1}, ValueError),
        ({"optimizer": "SGD", "lr": "0.1"}, TypeError),
        ({"optimizer": "SGD", "lr": None}, TypeError),
        ({"optimizer": "SGD", "lr": -0.1}, ValueError),
        ({"optimizer": "SGD"}, ValueError),
    ],
)
def test_settings_that_are_no_sizes_are_refused(settings: dict[str, object], error: type[Exception]) -> None:
    with pytest.raises(error, match=r"optimizer|lr"):
        optimizer_settings(settings, 0.2)
