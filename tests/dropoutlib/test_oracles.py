"""PyTorch and ONNX's reference operator as oracles: their masks go into the layer, and the results must be theirs."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest

from dropoutlib.layers import InvertedDropout, StandardDropout
from tests.dropoutlib.contract import FLOATS, LAYER_RATES, mask_of, same
from tests.dropoutlib.scripted import generator_of
from tests.statistics import Alarm

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # what a framework says of itself at import
    torch = pytest.importorskip("torch")
    onnx = pytest.importorskip("onnx")
    from onnx.reference import ReferenceEvaluator

SHAPE = (30, 40)
REAL = (np.float32, np.float64)
Array = np.ndarray[Any, Any]


def arrays(dtype: Any, seed: int = 3) -> tuple[Array, Array]:
    rng = np.random.default_rng(seed)
    x, dy = (rng.standard_normal(SHAPE).astype(dtype) for _ in range(2))
    x[x == 0] = 1
    return x, dy


def to_torch(x: Array) -> Any:
    return torch.from_numpy(x.copy())


def within_ulps(actual: Array, expected: Array, ulps: int) -> None:
    """Require equal zeros and relative differences of at most so many units in the last place."""
    assert actual.dtype == expected.dtype
    np.testing.assert_array_equal(actual == 0, expected == 0)
    np.testing.assert_allclose(actual, expected, rtol=ulps * float(np.finfo(actual.dtype).eps), atol=0)


# --- PyTorch ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", REAL)
@pytest.mark.parametrize("p", LAYER_RATES)
@pytest.mark.parametrize("convention", ["standard", "inverted"])
def test_autograd_on_the_layers_mask(convention: str, p: float, dtype: Any) -> None:
    layer = InvertedDropout(p, 8) if convention == "inverted" else StandardDropout(p, 8)
    x, dy = arrays(dtype)
    y = layer.forward(x)
    leaf = to_torch(x).requires_grad_()
    mask = to_torch(np.array(mask_of(layer)))
    output = leaf * mask * (1 / (1 - p)) if convention == "inverted" else leaf * mask
    output.backward(to_torch(dy))
    same(y, output.detach().numpy(), "forward")
    same(layer.backward(dy), leaf.grad.numpy(), "backward")
    divided = (to_torch(x) * mask / (1 - p)).numpy() if convention == "inverted" else x * mask.numpy()
    within_ulps(y, divided, 2)


@pytest.mark.parametrize("dtype", REAL)
@pytest.mark.parametrize("p", LAYER_RATES)
def test_dropout_of_torch_with_its_own_mask(p: float, dtype: Any) -> None:
    """The mask that `F.dropout` drew gives its output and its gradient."""
    x, dy = arrays(dtype)
    leaf = to_torch(x).requires_grad_()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(4)
        output = torch.nn.functional.dropout(leaf, p, training=True)
    output.backward(to_torch(dy))
    layer = InvertedDropout(p, generator_of(output.detach().numpy() != 0))
    within_ulps(layer.forward(x), output.detach().numpy(), 2)
    within_ulps(layer.backward(dy), leaf.grad.numpy(), 2)


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("p", LAYER_RATES)
def test_backward_kernel_of_torch(p: float, dtype: Any) -> None:
    x, dy = arrays(dtype)
    layer = InvertedDropout(p, 8)
    layer.forward(x)
    scale = float(dtype(1 / (1 - p)))
    expected = torch.ops.aten.native_dropout_backward(to_torch(dy), to_torch(np.array(mask_of(layer))), scale)
    within_ulps(layer.backward(dy), expected.numpy(), 1)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("p", [0.0, 1.0])
def test_certain_rates_of_torch(p: float, training: bool) -> None:
    x, dy = arrays(np.float32)
    leaf = to_torch(x).requires_grad_()
    output = torch.nn.functional.dropout(leaf, p, training=training)
    output.backward(to_torch(dy))
    layer = InvertedDropout(p, 8)
    layer.training = training
    same(layer.forward(x), output.detach().numpy(), "forward")
    same(layer.backward(dy), leaf.grad.numpy(), "backward")


@pytest.mark.parametrize("value", [np.inf, -np.inf, np.nan])
@pytest.mark.parametrize("p", LAYER_RATES)
def test_inf_and_nan_as_torch_on_a_processor(p: float, value: float) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(4)
        mask = torch.nn.functional.dropout(torch.ones(SHAPE), p).numpy() != 0
        torch.manual_seed(4)
        expected = torch.nn.functional.dropout(torch.full(SHAPE, value), p).numpy()
    same(InvertedDropout(p, generator_of(mask)).forward(np.full(SHAPE, value, np.float32)), expected, f"{value}")


def test_module_of_torch_in_evaluation() -> None:
    x, _ = arrays(np.float32)
    module = torch.nn.Dropout(0.3).eval()
    same(InvertedDropout(0.3).eval().forward(x), module(to_torch(x)).numpy(), "evaluation")


# --- ONNX ---------------------------------------------------------------------------------------------------------


def onnx_dropout(x: Array, ratio: float, training: bool, seed: int) -> tuple[Array, Array]:
    """Return output and mask of the reference operator."""
    kind = onnx.helper.np_dtype_to_tensor_dtype(x.dtype)
    value = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("Dropout", ["x", "ratio", "training"], ["y", "mask"], seed=seed)],
        "dropout",
        [value("x", kind, x.shape), value("ratio", kind, []), value("training", onnx.TensorProto.BOOL, [])],
        [value("y", kind, x.shape), value("mask", onnx.TensorProto.BOOL, x.shape)],
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 22)])
    onnx.checker.check_model(model)
    feeds = {"x": x, "ratio": np.array(ratio, x.dtype), "training": np.array(training)}
    y, mask = map(np.asarray, ReferenceEvaluator(model).run(None, feeds))
    return y, mask


@pytest.mark.parametrize("dtype", REAL)
@pytest.mark.parametrize("p", LAYER_RATES)
def test_reference_operator_in_training(p: float, dtype: Any) -> None:
    """Mask True means kept, the ratio is that of dropping, and the scale is 1/(1 - ratio)."""
    x, _ = arrays(dtype)
    expected, mask = onnx_dropout(x, p, training=True, seed=6)
    assert mask.dtype == np.bool_
    layer = InvertedDropout(p, generator_of(mask))
    y = layer.forward(x)
    same(mask_of(layer), mask, "mask")
    within_ulps(y, expected, 4)  # the operator reads the ratio in the array's dtype


@pytest.mark.statistical(comparisons=2 * len(LAYER_RATES))
def test_ratio_of_the_reference_operator_means_drop(seed: int, alarm: Alarm) -> None:
    x = np.ones((100, 100))
    for p in LAYER_RATES:
        _, mask = onnx_dropout(x, p, training=True, seed=seed)
        alarm.binomial(np.count_nonzero(mask), x.size, 1 - p, f"ONNX, ratio={p}")
        layer = InvertedDropout(p, seed)
        layer.forward(x)
        alarm.binomial(np.count_nonzero(mask_of(layer)), x.size, 1 - p, f"dropoutlib, p={p}")


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("p", LAYER_RATES)
def test_reference_operator_in_evaluation(p: float, dtype: Any) -> None:
    x, _ = arrays(dtype)
    y, mask = onnx_dropout(x, p, training=False, seed=6)
    layer = InvertedDropout(p, 8).eval()
    same(layer.forward(x), y, "evaluation")
    assert mask.all()


@pytest.mark.parametrize("dtype", FLOATS)
def test_reference_operator_at_ratio_0(dtype: Any) -> None:
    x, _ = arrays(dtype)
    y, mask = onnx_dropout(x, 0.0, training=True, seed=6)
    layer = InvertedDropout(0.0, 8)
    same(layer.forward(x), y, "p=0")
    same(mask_of(layer), mask, "mask")
