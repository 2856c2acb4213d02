"""The smallest network that the course's experiments need: layers, a loss and three optimisers, in NumPy.

Layers share one interface with the dropout layers: `forward(x)`, `backward(dy)`, `train()` and `eval()`. A backward
pass belongs to the last forward pass. Optimisers follow PyTorch's definitions, so that settings carry over.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol, Self, cast

import numpy as np
import numpy.typing as npt

from dropoutlib._validation import FloatArray, real

Group = Mapping[str, Any]


class Parameter:
    """An array to be learned, and the gradient of the loss with respect to it.

    Parameters
    ----------
    value : ndarray
        The array; optimisers change it in place.
    """

    def __init__(self, value: FloatArray) -> None:
        self.value = value
        self.grad = np.zeros_like(value)


class Layer(Protocol):
    """What `Sequential` asks of a layer."""

    def forward(self, x: Any) -> FloatArray:
        """Return the output."""
        ...

    def backward(self, dy: Any) -> FloatArray:
        """Return the gradient with respect to the input of the last forward."""
        ...

    def train(self) -> Any:
        """Switch to training mode."""
        ...

    def eval(self) -> Any:
        """Switch to evaluation mode."""
        ...


class _Module:
    """A layer that behaves alike in both modes."""

    def train(self) -> Self:
        """Switch to training mode, which changes nothing here, and return the layer."""
        return self

    def eval(self) -> Self:
        """Switch to evaluation mode, which changes nothing here, and return the layer."""
        return self


class Linear(_Module):
    """An affine map: y = x W' + b, dx = dy W, dW = dy' x, db = sum of dy over rows.

    Parameters
    ----------
    inputs, outputs : int
        Number of features in and out.
    rng : numpy.random.Generator
        Draws the weights from N(0, 2 / inputs) (He et al., ICCV 2015, section 2.2); biases start at 0.
    dtype : dtype
        Of the parameters.

    Attributes
    ----------
    weight : Parameter
        Shape (outputs, inputs).
    bias : Parameter
        Shape (outputs,).
    """

    def __init__(self, inputs: int, outputs: int, rng: np.random.Generator, dtype: npt.DTypeLike = np.float64) -> None:
        scale = np.sqrt(2.0 / inputs)
        self.weight = Parameter((scale * rng.standard_normal((outputs, inputs))).astype(dtype))
        self.bias = Parameter(np.zeros(outputs, dtype))
        self._x: FloatArray | None = None

    def forward(self, x: FloatArray) -> FloatArray:
        """Return x W' + b for x of shape (n, inputs)."""
        self._x = x
        y: FloatArray = x @ self.weight.value.T + self.bias.value
        return y

    def backward(self, dy: FloatArray) -> FloatArray:
        """Set the gradients of weight and bias and return dx, for dy of shape (n, outputs)."""
        if self._x is None:
            raise RuntimeError("backward belongs to a forward, and there was none yet; call forward(x) first")
        self.weight.grad = dy.T @ self._x
        self.bias.grad = dy.sum(axis=0)
        dx: FloatArray = dy @ self.weight.value
        return dx

    def parameters(self) -> list[Parameter]:
        """Return weight and bias."""
        return [self.weight, self.bias]


class ReLU(_Module):
    """The rectifier: y = max(x, 0), dx = dy where x > 0 and 0 elsewhere."""

    def forward(self, x: FloatArray) -> FloatArray:
        """Return max(x, 0)."""
        self._positive = x > 0
        y: FloatArray = np.maximum(x, 0)
        return y

    def backward(self, dy: FloatArray) -> FloatArray:
        """Return dy where the input was positive, 0 elsewhere."""
        dx: FloatArray = dy * self._positive
        return dx


class Sequential:
    """Layers one after the other.

    Parameters
    ----------
    *layers : Layer
        Each takes what the one before it returns.
    """

    def __init__(self, *layers: Layer) -> None:
        self.layers = layers

    def forward(self, x: FloatArray) -> FloatArray:
        """Return the last layer's output."""
        for layer in self.layers:
            x = layer.forward(x)
        return x

    __call__ = forward

    def backward(self, dy: FloatArray) -> FloatArray:
        """Return the gradient with respect to the input; sets the gradients of all parameters."""
        for layer in reversed(self.layers):
            dy = layer.backward(dy)
        return dy

    def train(self) -> Self:
        """Switch all layers to training mode and return the network."""
        for layer in self.layers:
            layer.train()
        return self

    def eval(self) -> Self:
        """Switch all layers to evaluation mode and return the network."""
        for layer in self.layers:
            layer.eval()
        return self

    def parameters(self) -> list[Parameter]:
        """Return the parameters of all layers, in order."""
        return [p for layer in self.layers if hasattr(layer, "parameters") for p in layer.parameters()]


def softmax_cross_entropy(logits: FloatArray, labels: npt.NDArray[np.int64]) -> tuple[float, FloatArray]:
    """Return the mean cross-entropy of softmax(logits), and its gradient with respect to the logits.

    L = -mean_i log softmax(z_i)[label_i], dL/dz = (softmax(z) - one_hot) / n.

    Parameters
    ----------
    logits : ndarray, shape (n, classes)
        Any finite numbers; large ones do not overflow.
    labels : ndarray of int, shape (n,)
        0 <= label < classes.

    Raises
    ------
    ValueError
        If the shapes do not fit or a label is out of range.
    """
    if logits.ndim != 2 or labels.shape != logits.shape[:1]:
        raise ValueError(f"logits must be (n, classes) and labels (n,), got {logits.shape} and {labels.shape}")
    if labels.size and not (labels.min() >= 0 and labels.max() < logits.shape[1]):
        raise ValueError(f"labels must lie in 0 <= label < {logits.shape[1]}, got {labels.min()} to {labels.max()}")
    rows = np.arange(labels.size)
    log_probs = log_softmax(logits)
    gradient = np.exp(log_probs)
    gradient[rows, labels] -= 1
    return float(-log_probs[rows, labels].mean()), gradient / labels.size


def log_softmax(logits: FloatArray) -> FloatArray:
    """Return log(exp(z) / sum exp(z)) along the last axis."""
    shifted = logits - logits.max(axis=-1, keepdims=True)
    result: FloatArray = shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    return result


def softmax(logits: FloatArray) -> FloatArray:
    """Return exp(z) / sum exp(z) along the last axis."""
    result: FloatArray = np.exp(log_softmax(logits))
    return result


class _Optimizer:
    """Parameters in groups, each group with settings of its own, and a state for each parameter."""

    def __init__(self, params: Iterable[Parameter] | Iterable[Group], **defaults: Any) -> None:
        entries = [] if isinstance(params, Parameter) else list(params)
        plain = bool(entries) and isinstance(entries[0], Parameter)
        groups = [{"params": entries}] if plain else cast("list[Group]", entries)
        if not groups or not all(isinstance(group, Mapping) and "params" in group for group in groups):
            raise ValueError(
                "params must be a list of Parameter, or of groups with a list under 'params', "
                f"got {type(params).__name__}; pass network.parameters()"
            )
        self._slots: list[tuple[Parameter, dict[str, Any], dict[str, FloatArray]]] = []
        for group in groups:
            unknown = set(group) - set(defaults) - {"params"}
            if unknown:
                raise ValueError(f"unknown setting {min(unknown)!r}; known are {', '.join(defaults)}")
            settings = {**defaults, **{key: value for key, value in group.items() if key != "params"}}
            real(settings["lr"], "lr")
            self._slots += [(parameter, settings, {}) for parameter in cast("Sequence[Parameter]", group["params"])]

    def zero_grad(self) -> None:
        """Set every gradient to 0."""
        for parameter, _, _ in self._slots:
            parameter.grad = np.zeros_like(parameter.value)

    def step(self) -> None:
        """Change every parameter in place, once, by its present gradient."""
        for parameter, settings, state in self._slots:
            self._update(parameter, settings, state)

    def _update(self, parameter: Parameter, settings: dict[str, Any], state: dict[str, FloatArray]) -> None:
        raise NotImplementedError


class SGD(_Optimizer):
    """Stochastic gradient descent: g = grad + weight_decay * w, v = momentum * v + g, w = w - lr * v.

    Parameters
    ----------
    params : list of Parameter, or list of dict
        A dict is a group: {"params": [...], "lr": ...} with settings of its own.
    lr : float
        Learning rate.
    momentum : float
        0 <= momentum < 1.
    weight_decay : float
        L2 penalty: weight_decay / 2 * |w|^2 in the loss.

    Raises
    ------
    ValueError
        If params is empty, a group has an unknown setting, or lr is negative.
    """

    def __init__(
        self,
        params: Iterable[Parameter] | Iterable[Group],
        lr: float,
        momentum: float = 0.0,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(params, lr=lr, momentum=momentum, weight_decay=weight_decay)

    def _update(self, parameter: Parameter, settings: dict[str, Any], state: dict[str, FloatArray]) -> None:
        g = parameter.grad + settings["weight_decay"] * parameter.value
        state["v"] = settings["momentum"] * state["v"] + g if state else g
        parameter.value -= settings["lr"] * state["v"]


class Adam(_Optimizer):
    """Adam: m and v are running means of g and g^2, w = w - lr * m_hat / (sqrt(v_hat) + eps).

    Parameters
    ----------
    params : list of Parameter, or list of dict
        As for SGD.
    lr : float
        Learning rate.
    betas : (float, float)
        Decay of m and of v.
    eps : float
        Added to sqrt(v_hat).
    weight_decay : float
        L2 penalty, part of the gradient.

    Raises
    ------
    ValueError
        If params is empty, a group has an unknown setting, or lr is negative.

    References
    ----------
    Kingma and Ba, "Adam: a method for stochastic optimization", ICLR 2015, algorithm 1.
    """

    def __init__(
        self,
        params: Iterable[Parameter] | Iterable[Group],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(params, lr=lr, betas=betas, eps=eps, weight_decay=weight_decay)
        self._steps = 0

    def step(self) -> None:
        """Change every parameter in place, once, by its present gradient."""
        self._steps += 1
        super().step()

    def _gradient(self, parameter: Parameter, settings: dict[str, Any]) -> FloatArray:
        gradient: FloatArray = parameter.grad + settings["weight_decay"] * parameter.value
        return gradient

    def _update(self, parameter: Parameter, settings: dict[str, Any], state: dict[str, FloatArray]) -> None:
        g = self._gradient(parameter, settings)
        beta1, beta2 = settings["betas"]
        state["m"] = beta1 * state.get("m", 0.0) + (1 - beta1) * g
        state["v"] = beta2 * state.get("v", 0.0) + (1 - beta2) * g**2
        m_hat = state["m"] / (1 - beta1**self._steps)
        v_hat = state["v"] / (1 - beta2**self._steps)
        parameter.value -= settings["lr"] * m_hat / (np.sqrt(v_hat) + settings["eps"])


class AdamW(Adam):
    """Adam with decoupled weight decay: w = (1 - lr * weight_decay) * w before Adam's step on the plain gradient.

    Parameters and errors as for Adam.

    References
    ----------
    Loshchilov and Hutter, "Decoupled weight decay regularization", ICLR 2019. There the decay is independent of lr;
    here, as in PyTorch and Keras, lr multiplies it.
    """

    def __init__(
        self,
        params: Iterable[Parameter] | Iterable[Group],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.01,
    ) -> None:
        super().__init__(params, lr=lr, betas=betas, eps=eps, weight_decay=weight_decay)

    def _gradient(self, parameter: Parameter, settings: dict[str, Any]) -> FloatArray:
        return parameter.grad

    def _update(self, parameter: Parameter, settings: dict[str, Any], state: dict[str, FloatArray]) -> None:
        parameter.value *= 1 - settings["lr"] * settings["weight_decay"]
        super()._update(parameter, settings, state)
