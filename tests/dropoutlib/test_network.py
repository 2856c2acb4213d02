"""The network against finite differences and against PyTorch: outputs, gradients, and every step of every optimiser."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from dropoutlib.layers import InvertedDropout, StandardDropout
from dropoutlib.network import (
    SGD,
    Adam,
    AdamW,
    Linear,
    Parameter,
    ReLU,
    Sequential,
    log_softmax,
    softmax,
    softmax_cross_entropy,
)

torch = pytest.importorskip("torch")

Array = np.ndarray


def small_network(p: float = 0.3, make: Any = InvertedDropout) -> Sequential:
    rng = np.random.default_rng(1)
    return Sequential(
        Linear(5, 7, rng), ReLU(), make(p, seed=2), Linear(7, 6, rng), ReLU(), make(p, seed=3), Linear(6, 4, rng)
    )


def batch(rows: int = 8) -> tuple[Array, Array]:
    rng = np.random.default_rng(5)
    return rng.standard_normal((rows, 5)), rng.integers(0, 4, rows)


# Layers.


def test_linear_is_affine_and_starts_as_he_et_al() -> None:
    layer = Linear(400, 300, np.random.default_rng(0))
    assert layer.weight.value.shape == (300, 400)
    assert layer.bias.value.shape == (300,)
    assert not layer.bias.value.any()
    assert layer.parameters() == [layer.weight, layer.bias]
    # 120,000 normal draws: mean within 7 and standard deviation within 7 standard errors, false alarms below 1e-11.
    assert abs(layer.weight.value.mean()) < 7 * np.sqrt(2 / 400 / 120_000)
    assert layer.weight.value.std() == pytest.approx(np.sqrt(2 / 400), rel=7 / np.sqrt(2 * 120_000))
    x = np.random.default_rng(1).standard_normal((3, 400))
    layer.bias.value[:] = np.arange(300)
    np.testing.assert_array_equal(layer.forward(x), x @ layer.weight.value.T + np.arange(300))


def test_two_networks_of_one_seed_start_alike_and_of_two_do_not() -> None:
    first, second, third = (Linear(3, 4, np.random.default_rng(seed)).weight.value for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, second)
    assert not np.array_equal(first, third)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_dtypes_are_kept(dtype: type) -> None:
    rng = np.random.default_rng(0)
    layers = Sequential(Linear(5, 6, rng, dtype), ReLU(), InvertedDropout(0.3, seed=1), Linear(6, 4, rng, dtype))
    x, y = batch()
    logits = layers(x.astype(dtype))
    _, gradient = softmax_cross_entropy(logits, y)
    assert logits.dtype == gradient.dtype == layers.backward(gradient).dtype == dtype
    for make in (SGD, Adam, AdamW):
        make(layers.parameters(), lr=0.01).step()
    assert all(parameter.value.dtype == parameter.grad.dtype == dtype for parameter in layers.parameters())


def test_linear_takes_float64_by_default() -> None:
    assert Linear(2, 3, np.random.default_rng(0)).weight.value.dtype == np.float64


def test_relu() -> None:
    layer = ReLU()
    x = np.array([[-1.0, 0.0, 2.0]])
    before = x.copy()
    np.testing.assert_array_equal(layer.forward(x), [[0.0, 0.0, 2.0]])
    np.testing.assert_array_equal(layer.backward(np.array([[3.0, 4.0, 5.0]])), [[0.0, 0.0, 5.0]])
    np.testing.assert_array_equal(x, before)


def test_sequential_switches_all_its_layers() -> None:
    layers = small_network()
    dropouts = [layer for layer in layers.layers if isinstance(layer, InvertedDropout)]
    assert len(dropouts) == 2
    assert layers.eval() is layers
    assert not any(layer.training for layer in dropouts)
    x, _ = batch()
    np.testing.assert_array_equal(layers(x), layers.forward(x))
    assert layers.train() is layers
    assert all(layer.training for layer in dropouts)
    assert not np.array_equal(layers(x), layers(x))
    assert len(layers.parameters()) == 6
    assert layers.parameters()[0] is layers.layers[0].weight  # type: ignore[attr-defined]
    assert Linear(1, 1, np.random.default_rng(0)).train().eval() is not None


# Gradients.


def numerical(f: Callable[[], float], array: Array, h: float = 1e-6) -> Array:
    """Return df/darray by central differences."""
    result = np.zeros_like(array)
    for i in np.ndindex(array.shape):
        old = array[i]
        array[i] = old + h
        above = f()
        array[i] = old - h
        result[i] = (above - f()) / (2 * h)
        array[i] = old
    return result


@pytest.mark.parametrize("make", [InvertedDropout, StandardDropout])
@pytest.mark.parametrize("mode", ["train", "eval"])
def test_gradients_by_finite_differences(make: Any, mode: str) -> None:
    layers = small_network(make=make)
    getattr(layers, mode)()
    x, y = batch()

    def loss() -> float:
        for layer in layers.layers:
            if isinstance(layer, make):
                layer.reset()  # the same masks again
        return softmax_cross_entropy(layers(x), y)[0]

    loss()
    logits = layers.layers[-1].forward(layers.layers[-1]._x)  # type: ignore[attr-defined]
    dx = layers.backward(softmax_cross_entropy(logits, y)[1])
    analytic = [parameter.grad.copy() for parameter in layers.parameters()]
    np.testing.assert_allclose(dx, numerical(loss, x), rtol=1e-5, atol=1e-8)
    for parameter, gradient in zip(layers.parameters(), analytic, strict=True):
        np.testing.assert_allclose(gradient, numerical(loss, parameter.value), rtol=1e-5, atol=1e-8)


def torch_pass(layers: Sequential, x: Array, y: Array) -> tuple[float, Array, Array, list[Array]]:
    """Return loss, logits, dx and all gradients of the same network in PyTorch, with the masks of the last forward."""
    parameters = [torch.tensor(p.value, requires_grad=True) for p in layers.parameters()]
    start = h = torch.tensor(x, requires_grad=True)
    i = 0
    for layer in layers.layers:
        if isinstance(layer, Linear):
            h = torch.nn.functional.linear(h, parameters[i], parameters[i + 1])
            i += 2
        elif isinstance(layer, ReLU):
            h = torch.relu(h)
        elif isinstance(layer, InvertedDropout) and layer.mask is not None:
            h = h * torch.tensor(layer.mask.copy()) / (1 - layer.p)
    loss = torch.nn.functional.cross_entropy(h, torch.tensor(y))
    loss.backward()
    return loss.item(), h.detach().numpy(), start.grad.numpy(), [p.grad.numpy() for p in parameters]


@pytest.mark.parametrize("mode", ["train", "eval"])
@pytest.mark.parametrize("p", [0.0, 0.3, 0.8])
def test_outputs_and_gradients_equal_pytorch(mode: str, p: float) -> None:
    layers = small_network(p)
    getattr(layers, mode)()
    x, y = batch(32)
    logits = layers(x)
    loss, gradient = softmax_cross_entropy(logits, y)
    dx = layers.backward(gradient)
    expected_loss, expected_logits, expected_dx, expected = torch_pass(layers, x, y)
    assert loss == pytest.approx(expected_loss, rel=1e-13)
    np.testing.assert_allclose(logits, expected_logits, rtol=1e-12, atol=1e-13)
    np.testing.assert_allclose(dx, expected_dx, rtol=1e-12, atol=1e-14)
    for parameter, value in zip(layers.parameters(), expected, strict=True):
        np.testing.assert_allclose(parameter.grad, value, rtol=1e-12, atol=1e-14)


def test_backward_sets_gradients_and_does_not_add_to_them() -> None:
    layers = small_network(0.0)
    x, y = batch()
    _, gradient = softmax_cross_entropy(layers(x), y)
    layers.backward(gradient)
    once = [parameter.grad.copy() for parameter in layers.parameters()]
    layers.backward(gradient)
    for parameter, value in zip(layers.parameters(), once, strict=True):
        np.testing.assert_array_equal(parameter.grad, value)


# The loss.


def test_cross_entropy_of_large_logits() -> None:
    logits = np.array([[1000.0, 0.0], [-1000.0, 0.0], [1e30, -1e30]])
    labels = np.array([0, 1, 0])
    loss, gradient = softmax_cross_entropy(logits, labels)
    assert loss == 0.0
    np.testing.assert_array_equal(gradient, 0.0)
    loss, gradient = softmax_cross_entropy(logits[:1], np.array([1]))
    assert loss == 1000.0
    np.testing.assert_array_equal(gradient, [[1.0, -1.0]])


def test_cross_entropy_leaves_its_input_alone() -> None:
    logits = np.random.default_rng(0).standard_normal((6, 3))
    before = logits.copy()
    softmax_cross_entropy(logits, np.array([0, 1, 2, 0, 1, 2]))
    np.testing.assert_array_equal(logits, before)


def test_softmax_equals_pytorch() -> None:
    logits = 30 * np.random.default_rng(0).standard_normal((20, 6))
    np.testing.assert_allclose(softmax(logits), torch.softmax(torch.tensor(logits), -1).numpy(), rtol=1e-12)
    np.testing.assert_allclose(log_softmax(logits), torch.log_softmax(torch.tensor(logits), -1).numpy(), rtol=1e-12)


def test_cross_entropy_of_equal_logits_is_log_of_classes() -> None:
    loss, gradient = softmax_cross_entropy(np.zeros((4, 5)), np.array([0, 1, 2, 3]))
    assert loss == pytest.approx(np.log(5), rel=1e-15)
    np.testing.assert_allclose(gradient.sum(axis=1), 0, atol=1e-15)


# Optimisers, step by step.

CASES: list[tuple[Any, str, dict[str, Any]]] = [
    (SGD, "SGD", {"lr": 0.1}),
    (SGD, "SGD", {"lr": 0.1, "momentum": 0.9}),
    (SGD, "SGD", {"lr": 0.1, "weight_decay": 0.03}),
    (SGD, "SGD", {"lr": 0.1, "momentum": 0.8, "weight_decay": 0.03}),
    (Adam, "Adam", {}),
    (Adam, "Adam", {"lr": 0.02, "betas": (0.7, 0.9), "eps": 1e-4}),
    (Adam, "Adam", {"lr": 0.02, "weight_decay": 0.03}),
    (AdamW, "AdamW", {}),
    (AdamW, "AdamW", {"lr": 0.02, "betas": (0.7, 0.9), "eps": 1e-4, "weight_decay": 0.3}),
    (AdamW, "AdamW", {"lr": 0.02, "weight_decay": 0.0}),
]
STEPS = 12


def parameters_and_gradients() -> tuple[list[Array], list[list[Array]]]:
    rng = np.random.default_rng(8)
    shapes = [(4, 3), (4,), (2, 4)]
    values = [rng.standard_normal(shape) for shape in shapes]
    return values, [[rng.standard_normal(shape) for shape in shapes] for _ in range(STEPS)]


@pytest.mark.parametrize(("make", "name", "settings"), CASES)
@pytest.mark.parametrize("grouped", [False, True])
def test_each_step_equals_pytorch(make: Any, name: str, settings: dict[str, Any], grouped: bool) -> None:
    values, gradients = parameters_and_gradients()
    ours = [Parameter(value.copy()) for value in values]
    theirs = [torch.tensor(value.copy(), requires_grad=True) for value in values]
    own = {"momentum": 0.5} if name == "SGD" else {"betas": (0.5, 0.6), "eps": 0.1}
    optimizers = []
    for parameters, factory in ((ours, make), (theirs, getattr(torch.optim, name))):
        groups: Any = parameters
        if grouped:
            groups = [
                {"params": parameters[:1], "lr": 0.3, "weight_decay": 0.11},
                {"params": parameters[1:2]},
                {"params": parameters[2:], **own},
            ]
        optimizers.append(factory(groups, **settings))
    for step in gradients:
        for our, their, gradient in zip(ours, theirs, step, strict=True):
            our.grad = gradient.copy()
            their.grad = torch.tensor(gradient)
        for optimizer in optimizers:
            optimizer.step()
        for our, their, start in zip(ours, theirs, values, strict=True):
            np.testing.assert_allclose(our.value, their.detach().numpy(), rtol=0, atol=1e-12)
            assert not np.array_equal(our.value, start)


@pytest.mark.parametrize(("make", "name", "settings"), CASES)
def test_a_training_equals_pytorch(make: Any, name: str, settings: dict[str, Any]) -> None:
    layers = small_network(0.3)
    theirs = [torch.tensor(p.value, requires_grad=True) for p in layers.parameters()]
    optimizer = make(layers.parameters(), **settings)
    reference = getattr(torch.optim, name)(theirs, **settings)
    x, y = batch(32)
    for _ in range(8):
        _, gradient = softmax_cross_entropy(layers(x), y)
        layers.backward(gradient)
        *_, expected = torch_pass(layers, x, y)
        for their, value in zip(theirs, expected, strict=True):
            their.grad = torch.tensor(value)
        optimizer.step()
        reference.step()
        for parameter, their in zip(layers.parameters(), theirs, strict=True):
            np.testing.assert_allclose(parameter.value, their.detach().numpy(), rtol=0, atol=1e-12)


@pytest.mark.parametrize(("make", "name", "settings"), CASES)
def test_a_step_changes_values_in_place_and_no_gradient(make: Any, name: str, settings: dict[str, Any]) -> None:
    values, gradients = parameters_and_gradients()
    parameters = [Parameter(value) for value in values]
    optimizer = make(parameters, **settings)
    for step in gradients[:3]:
        for parameter, gradient in zip(parameters, step, strict=True):
            parameter.grad = gradient
        before = copy.deepcopy(step)
        optimizer.step()
        for gradient, old in zip(step, before, strict=True):
            np.testing.assert_array_equal(gradient, old)
    assert all(parameter.value is value for parameter, value in zip(parameters, values, strict=True))


@pytest.mark.parametrize("make", [SGD, Adam, AdamW])
def test_zero_grad(make: Any) -> None:
    parameters = [Parameter(np.ones((2, 3), np.float32)), Parameter(np.ones(4))]
    for parameter in parameters:
        parameter.grad = parameter.grad + 5
    make(parameters, lr=0.1).zero_grad()
    for parameter in parameters:
        np.testing.assert_array_equal(parameter.grad, np.zeros_like(parameter.value))
        assert parameter.grad.dtype == parameter.value.dtype


def test_a_parameter_starts_with_a_gradient_of_zero() -> None:
    parameter = Parameter(np.ones((2, 3), np.float32))
    np.testing.assert_array_equal(parameter.grad, np.zeros((2, 3), np.float32))
    assert parameter.grad.dtype == np.float32


@pytest.mark.parametrize("make", [SGD, Adam, AdamW])
def test_no_parameters_are_refused(make: Any) -> None:
    with pytest.raises(ValueError, match=r"params must be a list of Parameter"):
        make([], lr=0.1)


@pytest.mark.parametrize("make", [SGD, Adam, AdamW])
def test_an_unknown_group_setting_is_refused(make: Any) -> None:
    with pytest.raises(ValueError, match="'learning_rate'"):
        make([{"params": [Parameter(np.ones(2))], "learning_rate": 0.1}], lr=0.1)


def test_parameters_may_come_from_a_generator() -> None:
    parameters = [Parameter(np.ones(2)), Parameter(np.ones(3))]
    optimizer = SGD((parameter for parameter in parameters), lr=0.5)
    for parameter in parameters:
        parameter.grad = np.ones_like(parameter.value)
    optimizer.step()
    for parameter in parameters:
        np.testing.assert_array_equal(parameter.value, 0.5)


# --- bad input -----------------------------------------------------------------------------------------------------


def test_backward_of_linear_before_any_forward_is_refused() -> None:
    with pytest.raises(RuntimeError, match=r"call forward\(x\) first"):
        Linear(3, 2, np.random.default_rng(0)).backward(np.ones((4, 2)))


@pytest.mark.parametrize("labels", [[0, 3], [-1, 0], [0], [0, 1, 2]])
def test_cross_entropy_refuses_labels_that_do_not_fit(labels: list[int]) -> None:
    with pytest.raises(ValueError, match="labels"):
        softmax_cross_entropy(np.zeros((2, 3)), np.array(labels))


@pytest.mark.parametrize("params", [Parameter(np.ones(2)), [], [{"lr": 0.1}], [3]])
def test_optimizers_refuse_what_holds_no_parameters(params: object) -> None:
    with pytest.raises(ValueError, match=r"network\.parameters\(\)"):
        SGD(params, lr=0.1)  # type: ignore[arg-type]


def test_optimizers_refuse_a_learning_rate_that_is_no_size() -> None:
    params = [Parameter(np.ones(2))]
    with pytest.raises(ValueError, match=r"lr .* -0\.1"):
        SGD(params, lr=-0.1)
    with pytest.raises(TypeError, match="lr must be a number, got '1'"):
        Adam(params, lr="1")  # type: ignore[arg-type]
