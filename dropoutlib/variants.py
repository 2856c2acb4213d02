"""What else can be dropped: one small class a variant, each with what it drops and what it keeps invariant.

In training every variant computes y = a * x + c with random factors a and, for alpha dropout, a random shift c; in
evaluation every variant is the identity. With q = 1 - p:

====================  =====================================  ==============================================
class                 one draw serves                        invariant over the draws
====================  =====================================  ==============================================
SpatialDropout        a channel of an example                E[y] = x
StochasticDepth       an example                             E[y] = x
RecurrentDropout      a unit, for all steps of a sequence    E[y] = x at each step, not for the last state
DropBlock             a square in a channel                  mean of a is 1 in every pass, E[a] is not
DropConnect           a weight, for one example or a batch   E[y] = W x + b
GaussianDropout       an element; nothing is dropped         E[y] = x, and Var[y] = x^2 p / q as for dropout
AlphaDropout          an element or a channel                mean 0 and variance 1 of a population with these
AttentionDropout      an attention weight                    E[y] = x; or, renormalised, row sums of 1
EarlyDropout          an element, in the first steps only    E[y] = x, and y = x afterwards
====================  =====================================  ==============================================

All take `p`, the probability of dropping, and a `seed` as `InvertedDropout` does, and keep to its contract.
"""

from __future__ import annotations

import math
import operator
from typing import Any, Literal, Self

import numpy as np
import numpy.typing as npt

from dropoutlib._validation import FloatArray, float_array, whole
from dropoutlib.layers import InvertedDropout, Seed, _inverse_keep, _StreamDropout
from dropoutlib.masks import BoolArray, bernoulli_mask
from dropoutlib.network import Linear, Parameter

Shape = tuple[int, ...]

# What SELU tends to for very negative input, -scale * alpha with the constants of Klambauer et al.
SELU_FLOOR = -1.0507009873554804934193349852946 * 1.6732632423543772848170429916717


class _Variant(InvertedDropout):
    """An inverted dropout whose mask is drawn by `_draw`, and may be smaller than x, so that draws are shared."""

    def forward(self, x: npt.ArrayLike) -> FloatArray:
        """Apply the layer in its present mode; shape and dtype of `x` are kept.

        Raises
        ------
        TypeError
            If `x` is not float16, float32 or float64.
        ValueError
            If the shape of `x` does not fit the variant, or the scale overflows its dtype.
        """
        array = float_array(x, "x")
        self._check(array.shape)
        if not self.training:
            return super().forward(array)
        self._factor(array.dtype, training=True)
        mask = self._draw(array.shape)
        y = self._output(array, mask)
        self._mask, self._shape = mask, array.shape
        return y

    __call__ = forward

    def _check(self, shape: Shape) -> None:
        """Raise ValueError if x cannot have this shape."""

    def _draw(self, shape: Shape) -> BoolArray:
        """Return the mask of a forward pass, of a shape that broadcasts to x's."""
        return bernoulli_mask(self._mask_shape(shape), self.p, self._bit_generator)

    def _mask_shape(self, shape: Shape) -> Shape:
        return shape

    def _output(self, x: FloatArray, mask: BoolArray) -> FloatArray:
        return self._scaled(x, mask)


class SpatialDropout(_Variant):
    """Drop whole channels of each example: y = x * m / q with one draw of m for a channel of an example.

    E[y] = x and Var[y] = x^2 p / q, as for dropout of elements; within a channel the factors are equal. In law
    torch.nn.Dropout1d to Dropout3d, and with `channel_axis=-1` keras.layers.SpatialDropout1D to SpatialDropout3D.

    Parameters
    ----------
    p : float
        Probability of dropping a channel, 0 <= p <= 1.
    seed : int >= 0, SeedSequence, Generator or None
        As in `InvertedDropout`.
    channel_axis : int
        Axis of the channels, not the first, which is that of the examples.

    References
    ----------
    Tompson, Goroshin, Jain, LeCun and Bregler, "Efficient object localization using convolutional networks", CVPR 2015.
    """

    def __init__(self, p: float = 0.5, seed: Seed = None, channel_axis: int = 1) -> None:
        super().__init__(p, seed)
        self.channel_axis = operator.index(channel_axis)

    def _check(self, shape: Shape) -> None:
        _channel(shape, self.channel_axis)

    def _mask_shape(self, shape: Shape) -> Shape:
        return _per_channel(shape, self.channel_axis)


class StochasticDepth(_Variant):
    """Drop a whole residual branch for some examples: y = x * m / q with one draw of m for an example.

    For the output x of a branch that is added to the stream. E[y] = x. The paper multiplies by q at test time
    instead, which is the standard form. In law torchvision.ops.stochastic_depth with mode "row", or "batch" with
    `per_example=False`.

    Parameters
    ----------
    p : float
        Probability of dropping the branch, 0 <= p <= 1.
    seed : int >= 0, SeedSequence, Generator or None
        As in `InvertedDropout`.
    per_example : bool
        Whether each example has a draw of its own; otherwise one serves the batch.

    References
    ----------
    Huang, Sun, Liu, Sedra and Weinberger, "Deep networks with stochastic depth", ECCV 2016.
    """

    def __init__(self, p: float = 0.5, seed: Seed = None, per_example: bool = True) -> None:
        super().__init__(p, seed)
        self.per_example = per_example

    def _check(self, shape: Shape) -> None:
        if not shape:
            raise ValueError("x must have a first axis of examples, got a single number")

    def _mask_shape(self, shape: Shape) -> Shape:
        return (shape[0] if self.per_example else 1, *(1 for _ in shape[1:]))


class RecurrentDropout(_Variant):
    """Drop units of a recurrent state with one mask for all time steps of a sequence ("variational" dropout).

    Each training forward is one step, y_t = h_t * m / q, and m stays until `new_sequence`. E[y_t] = h_t for an h_t
    that does not depend on m; the states after the first step do. In law the `recurrent_dropout` of
    keras.layers.SimpleRNN; Keras' LSTM has one such mask for each of its four gates.

    Parameters
    ----------
    p : float
        Probability of dropping a unit, 0 <= p <= 1.
    seed : int >= 0, SeedSequence, Generator or None
        As in `InvertedDropout`.

    References
    ----------
    Gal and Ghahramani, "A theoretically grounded application of dropout in recurrent neural networks", NIPS 2016.
    """

    def __init__(self, p: float = 0.5, seed: Seed = None) -> None:
        super().__init__(p, seed)
        self._held: BoolArray | None = None

    def new_sequence(self) -> None:
        """Let the next training forward draw a new mask."""
        self._held = None

    def reset(self) -> None:
        """Restart the stream and begin a new sequence."""
        super().reset()
        self.new_sequence()

    def _draw(self, shape: Shape) -> BoolArray:
        if self._held is None:
            self._held = super()._draw(shape)
        elif self._held.shape != shape:
            raise ValueError(
                f"the sequence began with states of shape {self._held.shape}, got {shape}; "
                "call new_sequence() before another sequence"
            )
        return self._held


class DropBlock(_Variant):
    """Drop squares of a feature map, and rescale so that the factors have mean 1 in each pass.

    For maps of height h and width w, each place where a block of side b fits into the map begins a dropped block with
    probability gamma = p h w / (b^2 (h - b + 1) (w - b + 1)), and y = x * m * (number of elements / number kept),
    over all maps of x together. Nothing kept gives zeros. `p` is only about the share that is dropped, since blocks
    overlap: `keep_probability` has the real one. E[y] is not x: elements at the border are kept more often.

    In law torchvision.ops.drop_block2d, which takes odd b only.

    Parameters
    ----------
    p : float
        Nominal probability of dropping an element, 0 <= p <= 1.
    seed : int >= 0, SeedSequence, Generator or None
        As in `InvertedDropout`.
    block_size : int
        Side b of the square, at least 1 and at most the smaller side of the map.

    References
    ----------
    Ghiasi, Lin and Le, "DropBlock: a regularization method for convolutional networks", NeurIPS 2018.
    """

    def __init__(self, p: float = 0.1, seed: Seed = None, block_size: int = 7) -> None:
        super().__init__(p, seed)
        self.block_size = whole(block_size, "block_size", least=1)

    def gamma(self, height: int, width: int) -> float:
        """Return the probability that a block begins at a place where it fits."""
        b = self.block_size
        return self.p * height * width / (b**2 * (height - b + 1) * (width - b + 1))

    def keep_probability(self, height: int, width: int) -> FloatArray:
        """Return the probability that each element of a map is kept: (1 - gamma)^(number of blocks that cover it)."""
        self._check((height, width))

        def covering(size: int) -> npt.NDArray[np.int_]:
            return np.convolve(np.ones(size - self.block_size + 1, int), np.ones(self.block_size, int))

        kept: FloatArray = (1 - self.gamma(height, width)) ** np.outer(covering(height), covering(width))
        return kept

    def _check(self, shape: Shape) -> None:
        if len(shape) < 2 or min(shape[-2:]) < self.block_size:
            raise ValueError(
                f"x must end in a height and a width of at least block_size={self.block_size}, got shape {shape}"
            )

    def _draw(self, shape: Shape) -> BoolArray:
        b, (height, width) = self.block_size, shape[-2:]
        rows, columns = height - b + 1, width - b + 1
        begun = ~bernoulli_mask((*shape[:-2], rows, columns), self.gamma(height, width), self._bit_generator)
        kept = np.ones(shape, np.bool_)
        for i in range(b):
            for j in range(b):
                kept[..., i : i + rows, j : j + columns] &= ~begun
        return kept

    def _factor(self, dtype: np.dtype[Any], training: bool) -> float | None:
        return None

    def _scaled(self, x: FloatArray, mask: BoolArray | None) -> FloatArray:
        y = super()._scaled(x, mask)
        if mask is not None:
            y *= x.dtype.type(mask.size / (np.count_nonzero(mask) or 1))
        return y


class GaussianDropout(_Variant):
    """Multiply by noise N(1, p/q), which has the mean and the variance of dropout's factors; nothing is dropped.

    E[y] = x and Var[y] = x^2 p / q. With `additive`, y = x + noise N(0, p/q), whose variance does not grow with x. In
    law keras.layers.GaussianDropout and, for stddev = sqrt(p/q), GaussianNoise. The normal numbers are NumPy's, whose
    stream may change between its versions.

    Parameters
    ----------
    p : float
        The rate of the dropout with the same two moments, 0 <= p < 1.
    seed : int >= 0, SeedSequence, Generator or None
        As in `InvertedDropout`.
    additive : bool
        Whether to add the noise in place of multiplying by it.

    Attributes
    ----------
    noise : ndarray
        What the last training forward multiplied by, or added. `mask` is all True then.

    Raises
    ------
    ValueError
        If p = 1, since p/q is infinite.

    References
    ----------
    Srivastava et al., "Dropout", JMLR 15 (2014), section 10.
    """

    def __init__(self, p: float = 0.5, seed: Seed = None, additive: bool = False) -> None:
        super().__init__(p, seed)
        if self.p == 1.0:
            raise ValueError("p must be below 1 for Gaussian dropout, whose noise has the variance p/(1-p), got 1")
        self.additive = additive
        self.noise: FloatArray = np.ones(())

    def _draw(self, shape: Shape) -> BoolArray:
        normal = np.random.Generator(self._bit_generator).standard_normal(shape)
        self.noise = np.asarray((not self.additive) + math.sqrt(self.p / (1 - self.p)) * normal)
        return np.ones(shape, np.bool_)

    def _output(self, x: FloatArray, mask: BoolArray) -> FloatArray:
        y = self._scaled(x, mask)
        if self.additive:
            y += self.noise.astype(x.dtype)
        return y

    def _scaled(self, x: FloatArray, mask: BoolArray | None) -> FloatArray:
        y = np.array(x)
        if mask is not None and not self.additive:
            y *= self.noise.astype(x.dtype)
        return y


class AlphaDropout(_Variant):
    """Set dropped elements to SELU's floor f and mend mean and variance: y = a (x m + f (1 - m)) + b.

    With a = (q (1 + p f^2))^(-1/2) and b = -a p f, a population of mean 0 and variance 1 keeps both. Of a single
    element the mean moves: E[y] = a q x. p = 1 gives zeros. In law torch.nn.AlphaDropout and
    keras.layers.AlphaDropout, and with `channel_axis=1` torch.nn.FeatureAlphaDropout.

    Parameters
    ----------
    p : float
        Probability of dropping, 0 <= p <= 1.
    seed : int >= 0, SeedSequence, Generator or None
        As in `InvertedDropout`.
    channel_axis : int or None
        Axis of the channels, to drop whole ones; None drops elements.

    References
    ----------
    Klambauer, Unterthiner, Mayr and Hochreiter, "Self-normalizing neural networks", NIPS 2017.
    """

    def __init__(self, p: float = 0.5, seed: Seed = None, channel_axis: int | None = None) -> None:
        super().__init__(p, seed)
        self.channel_axis = None if channel_axis is None else operator.index(channel_axis)

    def constants(self) -> tuple[float, float]:
        """Return a and b, both 0 for p = 1."""
        if self.p == 1.0:
            return 0.0, 0.0
        a = 1 / math.sqrt((1 - self.p) * (1 + self.p * SELU_FLOOR**2))
        return a, -a * self.p * SELU_FLOOR

    def _check(self, shape: Shape) -> None:
        if self.channel_axis is not None:
            _channel(shape, self.channel_axis)

    def _mask_shape(self, shape: Shape) -> Shape:
        return shape if self.channel_axis is None else _per_channel(shape, self.channel_axis)

    def _factor(self, dtype: np.dtype[Any], training: bool) -> float | None:
        return self.constants()[0] if training else None

    def _output(self, x: FloatArray, mask: BoolArray) -> FloatArray:
        a, b = self.constants()
        y = self._scaled(x, mask)
        y += np.where(mask, b, a * SELU_FLOOR + b).astype(x.dtype)
        return y


class AttentionDropout(_Variant):
    """Drop attention weights: rows x of non-negative weights that sum to 1, along the last axis.

    y = x * m / q keeps E[y] = x and lets the row sums vary: their variance is p / q * sum_j x_j^2. In law the
    dropout_p of torch.nn.functional.scaled_dot_product_attention. With `renormalise`, y = x * m / sum(x * m): the
    sums are 1, as if scores had been dropped before the softmax, and E[y] is not x; a row with nothing kept is zeros.

    Parameters
    ----------
    p : float
        Probability of dropping, 0 <= p <= 1.
    seed : int >= 0, SeedSequence, Generator or None
        As in `InvertedDropout`.
    renormalise : bool
        Whether to divide by the sum of what is left, in place of q.

    References
    ----------
    Lin, Liu, Huang, Chen, Qiu and Huang, "DropAttention", 2019, arXiv:1907.11065.
    """

    def __init__(self, p: float = 0.1, seed: Seed = None, renormalise: bool = False) -> None:
        super().__init__(p, seed)
        self.renormalise = renormalise
        self._rows: tuple[FloatArray, FloatArray] | None = None

    def _check(self, shape: Shape) -> None:
        if not shape:
            raise ValueError("x must have a last axis of attention weights, got a single number")

    def _output(self, x: FloatArray, mask: BoolArray) -> FloatArray:
        if not self.renormalise:
            return self._scaled(x, mask)
        left = (x * mask).sum(axis=-1, keepdims=True)
        share = mask / np.where(left == 0, x.dtype.type(1), left)
        y: FloatArray = (x * share).astype(x.dtype)
        self._rows = share, y
        return y

    def _scaled(self, x: FloatArray, mask: BoolArray | None) -> FloatArray:
        if not self.renormalise or mask is None or self._rows is None:
            return super()._scaled(x, mask)
        share, y = self._rows
        dx: FloatArray = share * (x - (x * y).sum(axis=-1, keepdims=True))
        return dx.astype(x.dtype)


class EarlyDropout(InvertedDropout):
    """Inverted dropout in the first steps of training only.

    At step t of training the rate is p for t < `steps` and 0 from then on; with `decay="linear"` it falls from p to 0
    over those steps. E[y] = x throughout, and once the rate is 0 training and evaluation are the same function.

    Parameters
    ----------
    p : float
        Rate at the first step, 0 <= p <= 1.
    seed : int >= 0, SeedSequence, Generator or None
        As in `InvertedDropout`.
    steps : int
        Number of steps with dropout, at least 1.
    decay : {"constant", "linear"}
        How the rate goes until then.

    Raises
    ------
    ValueError
        If `decay` is neither of the two, or steps < 1.

    References
    ----------
    Liu, Xu, Jin, Shen and Darrell, "Dropout reduces underfitting", ICML 2023.
    """

    def __init__(
        self, p: float, seed: Seed = None, *, steps: int, decay: Literal["constant", "linear"] = "constant"
    ) -> None:
        super().__init__(p, seed)
        if decay not in ("constant", "linear"):
            raise ValueError(f'decay must be "constant" or "linear", got {decay!r}')
        self.steps, self.decay = whole(steps, "steps", least=1), decay
        self._first = self._used = self.p

    def rate(self, step: int) -> float:
        """Return the rate at `step`, counted from 0."""
        left = 1 - whole(step, "step") / self.steps
        if left <= 0:
            return 0.0
        return self._first * (left if self.decay == "linear" else 1.0)

    def at(self, step: int) -> Self:
        """Set the rate for the next forward passes to that of `step`, and return the layer."""
        self._p = self.rate(step)
        return self

    def forward(self, x: npt.ArrayLike) -> FloatArray:
        """Apply the layer in its present mode, at the rate that `at` has set; as `InvertedDropout.forward`."""
        y = super().forward(x)
        self._used = self._p
        return y

    __call__ = forward

    def backward(self, dy: npt.ArrayLike) -> FloatArray:
        """Return the gradient at the rate of the last forward, whatever `at` has set since."""
        now, self._p = self._p, self._used
        try:
            return super().backward(dy)
        finally:
            self._p = now


class DropConnect(_StreamDropout):
    """Drop weights of a linear layer: y = x @ (W * M / q).T + b with M ~ Bernoulli(q) elementwise.

    E[y] = x @ W.T + b. With a mask for each example, one output has the law that it has after dropout of the inputs,
    Var[y_o] = p / q * sum_j W_oj^2 x_j^2, and different outputs are uncorrelated. The paper predicts by sampling from
    a normal distribution with these moments; here evaluation is the linear layer itself.

    Parameters
    ----------
    linear : Linear
        The layer, shared: its weight and bias are the parameters.
    p : float
        Probability of dropping a weight, 0 <= p <= 1.
    seed : int >= 0, SeedSequence, Generator or None
        As in `InvertedDropout`.
    per_example : bool
        Whether each example has a mask of its own, which takes examples * outputs * inputs elements; otherwise one
        serves the batch.

    References
    ----------
    Wan, Zeiler, Zhang, LeCun and Fergus, "Regularization of neural networks using DropConnect", ICML 2013. There p is
    the probability of keeping.
    """

    def __init__(self, linear: Linear, p: float = 0.5, seed: Seed = None, per_example: bool = True) -> None:
        super().__init__(p, seed)
        self.linear, self.per_example = linear, per_example
        self._last: tuple[FloatArray, FloatArray] | None = None

    def parameters(self) -> list[Parameter]:
        """Return the linear layer's weight and bias."""
        return self.linear.parameters()

    def forward(self, x: npt.ArrayLike) -> FloatArray:
        """Apply the layer to x of shape (n, inputs); the result has shape (n, outputs).

        Raises
        ------
        TypeError
            If `x` is not float16, float32 or float64.
        ValueError
            If `x` has another shape, or the scale overflows the dtype of the weight.
        """
        array, weight = float_array(x, "x"), self.linear.weight.value
        outputs, inputs = weight.shape
        if array.ndim != 2 or array.shape[1] != inputs:
            raise ValueError(f"x must have shape (n, {inputs}), got {array.shape}")
        if not self.training:
            self._mask, self._shape = None, (len(array), outputs)
            return self.linear.forward(array)
        scale = weight.dtype.type(_inverse_keep(weight.dtype, self.p))
        rows = len(array) if self.per_example else 1
        self._mask = bernoulli_mask((rows, outputs, inputs), self.p, self._bit_generator)
        factors = np.broadcast_to(self._mask * scale, (len(array), outputs, inputs))
        self._shape, self._last = (len(array), outputs), (array, factors)
        y: FloatArray = np.einsum("noi,ni->no", weight * factors, array) + self.linear.bias.value
        return y

    __call__ = forward

    def _scaled(self, x: FloatArray, mask: BoolArray | None) -> FloatArray:
        """Return dx of dy, and set the gradients of weight and bias."""
        if mask is None or self._last is None:
            return self.linear.backward(x)
        array, factors = self._last
        weight, bias = self.parameters()
        weight.grad, bias.grad = np.einsum("no,ni,noi->oi", x, array, factors), x.sum(axis=0)
        dx: FloatArray = np.einsum("no,noi->ni", x, weight.value * factors)
        return dx


def _channel(shape: Shape, axis: int) -> int:
    """Return the axis of the channels counted from the front, after checking that x has one and places besides it."""
    if len(shape) < 3 or not -len(shape) < axis < len(shape) or axis == 0:
        raise ValueError(
            f"x must have axes for examples, channels (here axis {axis}) and at least one of places, got shape {shape}"
        )
    return axis % len(shape)


def _per_channel(shape: Shape, axis: int) -> Shape:
    channel = _channel(shape, axis)
    return tuple(size if i in (0, channel) else 1 for i, size in enumerate(shape))
