"""Find out by experiment what a dropout layer does, whoever wrote it."""

from __future__ import annotations

import copy
import inspect
import math
import numbers
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

_RATES = (0.2, 0.7)
_SHAPE = (512, 1024)
_MISIDENTIFICATION = 1e-10  # per comparison
_TOLERANCE = 2e-3  # of a factor; wide enough for float16

# fmt: off
_RATE_NAMES = [
    "p", "q", "prob", "probability", "rate", "ratio", "drop", "keep", "drop_p", "keep_p", "p_drop", "p_keep",
    "drop_prob", "keep_prob", "drop_rate", "keep_rate", "drop_probability", "keep_probability",
    "dropout", "dropout_p", "dropout_prob", "dropout_rate",
]
# fmt: on
_TRAINING_NAMES = ["training", "train", "is_training", "train_mode"]


@dataclass(frozen=True)
class Identity:
    """What `identify` found.

    Attributes
    ----------
    convention : str
        "inverted", "standard", "no dropout", or a defect: "unscaled in both modes", "unscaled in training" (there is no
        evaluation mode to tell more), "scaled by 1/p", "keep and drop swapped", "scaled twice", "another scale",
        "another rate", "on in evaluation only", "not dropout". Here p is always the probability of dropping.
    argument : {"drop", "keep", None}
        What the layer's argument is the probability of; None if the probes cannot tell.
    active_in_evaluation : bool or None
        Whether evaluation is random; None if there is no evaluation mode.
    backward_reuses_mask : bool or None
        Whether each backward used the mask of the forward just before it; None if there is no backward.
    evidence : tuple of str
        One sentence for each thing seen, with the numbers, rounded so that the text is the same on each run.
    """

    convention: str
    argument: str | None
    active_in_evaluation: bool | None
    backward_reuses_mask: bool | None
    evidence: tuple[str, ...]

    def __str__(self) -> str:
        """Return the findings, one a line, and the evidence below."""
        argument = {
            None: "cannot tell",
            "drop": "the probability of dropping",
            "keep": "the probability of keeping",
        }
        return "\n".join(
            [
                f"convention            {self.convention}",
                f"argument              {argument[self.argument]}",
                f"active in evaluation  {_words(self.active_in_evaluation, 'no evaluation mode')}",
                f"backward reuses mask  {_words(self.backward_reuses_mask, 'no backward')}",
                *(f"- {sentence}" for sentence in self.evidence),
            ]
        )

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:
        """Show the text at the end of a notebook's cell."""
        printer.text(str(self))


def identify(
    layer: Callable[..., Any],
    *,
    rate: float | None = None,
    rate_argument: str | None = None,
    training_argument: str | None = None,
) -> Identity:
    """Say of any dropout which convention it follows, what its argument means, and where it is active.

    The layer is called with float32 NumPy arrays and may return anything that `np.asarray` takes. It is one of:

    - a class, or a function whose first parameter is named like a rate (p, rate, keep_prob, ...): it is called with a
      rate and makes an object, as `InvertedDropout` or `lambda p: Layer(p, seed=1)` does;
    - an object with `forward`, or callable, that already has its rate, as `InvertedDropout(0.2)`: a copy is probed at
      that one rate, its attribute named like a rate, or `rate`;
    - a function `f(x, p)`: x comes first, and the rate is the first later parameter named like a rate, else the second
      parameter, else `rate_argument`. A parameter `training`, `train` or `is_training`, or `training_argument`, is set
      to True and False.

    An object changes mode by `train()` and `eval()`, else by its attribute `training`, else by a parameter of its
    forward named as above. A forward with a parameter `step` gets another step each time, and its backward the same.
    What fits none of these is wrapped in a function that does.

    Classes and functions are probed at 0.2 and 0.7, never at 0.5, where dropping and keeping look alike. The masks may
    be drawn for each element, or one for all rows or all columns.

    Parameters
    ----------
    layer : callable
        The dropout.
    rate : float, optional
        The rate of an object that does not tell its own, 0 < rate < 1.
    rate_argument, training_argument : str, optional
        Names of a function's parameters, where they are not found by the rules above.

    Returns
    -------
    Identity
        The findings. A right layer is misread with a probability below 1e-9.

    Raises
    ------
    TypeError
        If the layer fails on NumPy arrays or its rate or parameters cannot be found.
    ValueError
        If an object's rate is not between 0.05 and 0.95.

    Notes
    -----
    Of n independent elements, each 0 with probability r, Hoeffding's inequality gives
    P(|share of zeros - r| >= t) <= 2 exp(-2 n t^2), which is 1e-10 for t = sqrt(log(2e10) / (2 n)). Each probe makes
    one such comparison with r = rate and one with r = 1 - rate. n is 512 * 1024 (t = 0.005), or the 1,024 columns or
    512 rows (t = 0.11 or 0.15) when all rows or all columns share one mask. The other chance events (no zero at all,
    two equal masks) have a probability below 0.95**512 = 4e-12 each. Factors are not random: 0.2 % apart is equal.

    References
    ----------
    Hoeffding, "Probability inequalities for sums of bounded random variables", JASA 58 (1963), theorem 2.
    """
    probes = [_Probe(subject) for subject in _subjects(layer, rate, rate_argument, training_argument)]
    names = {probe.convention() for probe in probes}
    if "another rate" in names:
        names = {"another rate"}
    arguments = {probe.argument for probe in probes}
    reuses = [probe.reuses_mask for probe in probes if probe.reuses_mask is not None]
    active = [probe.active for probe in probes if probe.active is not None]
    return Identity(
        convention=names.pop() if len(names) == 1 else "another scale",
        argument=arguments.pop() if len(arguments) == 1 else None,
        active_in_evaluation=any(active) if active else None,
        backward_reuses_mask=all(reuses) if reuses else None,
        evidence=tuple(dict.fromkeys(sentence for probe in probes for sentence in probe.evidence)),
    )


@dataclass(frozen=True)
class _Subject:
    """A dropout at one rate, called in the same way whatever it is."""

    rate: float
    forward: Callable[[Array], Array]
    backward: Callable[[Array], Array] | None = None
    set_training: Callable[[bool], None] | None = None
    remembers: bool = True


class _Look:
    """One output seen against its input: where it is 0, and the common factor elsewhere (nan if there is none)."""

    def __init__(self, x: Array, y: Array) -> None:
        self.y = y
        self.zeros = y == 0
        ratios = y[~self.zeros] / x[~self.zeros]
        self.factor = float(np.median(ratios)) if ratios.size else math.nan
        if not np.allclose(ratios, self.factor, rtol=_TOLERANCE, atol=0):
            self.factor = math.nan
        self.any = bool(self.zeros.any())
        self.share = float(self.zeros.mean())
        self.sharing = ""
        if 0 < self.share < 1:
            same_rows, same_columns = (bool(np.all(m == m[0])) for m in (self.zeros, self.zeros.T))
            self.sharing = "rows" if same_rows else "columns" if same_columns else ""
        n = {"": self.zeros.size, "rows": _SHAPE[1], "columns": _SHAPE[0]}[self.sharing]
        self.margin = math.sqrt(math.log(2 / _MISIDENTIFICATION) / (2 * n))

    def fits(self, share: float) -> bool:
        """Return whether the zeros are compatible with this probability of a zero."""
        return abs(self.share - share) < self.margin


class _Probe:
    """What one subject does in training, in evaluation and in backward."""

    def __init__(self, subject: _Subject) -> None:
        self.subject = subject
        self.rate = subject.rate
        self.x = np.linspace(1, 2, _SHAPE[0] * _SHAPE[1], dtype=np.float32).reshape(_SHAPE)
        self.evidence: list[str] = []
        self._probe_training()
        self._probe_evaluation()
        self._probe_backward()

    def convention(self) -> str:
        """Return the name of what was seen at this rate."""
        train, evaluation = self.train, self.evaluation
        t, e = train.factor, evaluation.factor if evaluation else None
        if not train.any:
            if evaluation and evaluation.any:
                return "on in evaluation only"
            return "no dropout" if _near(t, 1) and (e is None or _near(e, 1)) else "not dropout"
        if math.isnan(t):
            return "not dropout"
        if not (train.fits(self.rate) or train.fits(1 - self.rate)):
            return "another rate"
        p, q = self.p, 1 - self.p
        if _near(t, 1 / q):
            if e is None or _near(e, 1 / q if self.active else 1):
                return "inverted"
            return "scaled twice" if _near(e, q) or _near(e, 1 / q) else "another scale"
        if _near(t, 1):
            if e is None:
                return "unscaled in training"
            names = (("standard", q), ("unscaled in both modes", 1), ("scaled twice", q**2))
            return next((name for name, factor in names if _near(e, factor)), "another scale")
        if _near(t, 1 / p):
            return "keep and drop swapped" if self.argument == "keep" else "scaled by 1/p"
        return "scaled twice" if _near(t, 1 / q**2) else "another scale"

    def _probe_training(self) -> None:
        first = self._look(True)
        self.train = self._look(True)
        drop, keep = self.train.fits(self.rate), self.train.fits(1 - self.rate)
        self.argument = None if drop == keep else "drop" if drop else "keep"
        self.p = 1 - self.rate if self.argument == "keep" else self.rate
        self._tell("training", self.train)
        if drop and keep:
            self.evidence.append(
                f"At {self.rate:g} dropping and keeping look alike, and so do 1/p and 1/(1-p): probe another rate."
            )
        if self.train.sharing:
            self.evidence.append(f"All {self.train.sharing} shared one mask.")
        if self.train.any and np.array_equal(first.y, self.train.y):
            self.evidence.append("Two training calls in a row used the same mask.")
        if self.train.y.dtype != self.x.dtype:
            self.evidence.append(f"{self.x.dtype} came back as {self.train.y.dtype}.")

    def _probe_evaluation(self) -> None:
        self.evaluation: _Look | None = None
        self.active: bool | None = None
        if self.subject.set_training is None:
            self.evidence.append("There is no evaluation mode.")
            return
        first, self.evaluation = self._look(False), self._look(False)
        self.active = self.evaluation.any or not np.array_equal(first.y, self.evaluation.y)
        self._tell("evaluation", self.evaluation)

    def _probe_backward(self) -> None:
        self.reuses_mask: bool | None = None
        if self.subject.backward is None:
            return
        forward, backward = self._look(True), self._gradient()
        self.reuses_mask = np.array_equal(forward.zeros, backward.zeros)
        self.evidence.append(f"Backward used {'the mask of' if self.reuses_mask else 'another mask than'} its forward.")
        if self.reuses_mask and abs(backward.factor - forward.factor) > _TOLERANCE * abs(forward.factor):
            self.evidence.append(f"Backward multiplied by {backward.factor:.4g}, its forward by {forward.factor:.4g}.")
        if self.subject.set_training is None or not self.subject.remembers:
            return
        for forward_training, name in ((True, "a training"), (False, "an evaluation")):
            forward = self._look(forward_training)
            self.subject.set_training(not forward_training)
            try:
                same, seen = np.array_equal(forward.zeros, self._gradient().zeros), "used another mask"
            except TypeError as error:
                same, seen = False, f"raised {type(error.__cause__ or error).__name__}"
            if not same:
                self.reuses_mask = False
                self.evidence.append(f"After {name} forward and a change of mode, backward {seen}.")

    def _look(self, training: bool) -> _Look:
        """Look at one forward in this mode."""
        if self.subject.set_training is not None:
            self.subject.set_training(training)
        given = self.x.copy()
        y = _array(self.subject.forward, given, self.rate, "forward")
        sentence = "The input was written to."
        if not np.array_equal(given, self.x) and sentence not in self.evidence:
            self.evidence.append(sentence)
        return _Look(self.x, y)

    def _gradient(self) -> _Look:
        """Look at the backward of the last forward, in the present mode."""
        assert self.subject.backward is not None
        dy = self.x[::-1].copy()
        return _Look(dy, _array(self.subject.backward, dy.copy(), self.rate, "backward"))

    def _tell(self, mode: str, look: _Look) -> None:
        """Say what was seen in a mode."""
        given = f"Given {self.rate:g}: in {mode}"
        if look.share == 1:
            self.evidence.append(f"{given} all elements became 0.")
            return
        if math.isnan(look.factor):
            self.evidence.append(f"{given} the elements were not multiplied by one common factor.")
            return
        p, q = self.p, 1 - self.p
        formulas = {"1/(1-p)": 1 / q, "1-p": q, "1/p": 1 / p, "1/(1-p)^2": 1 / q**2, "(1-p)^2": q**2}
        formula = next((f" = {text} at p = {p:g}" for text, f in formulas.items() if _near(look.factor, f)), "")
        zeros = f"{self._share(look)} of the elements became 0, the others" if look.any else "no element became 0, all"
        self.evidence.append(f"{given} {zeros} were multiplied by {look.factor:.4g}{formula}.")

    def _share(self, look: _Look) -> str:
        """Return the share of zeros as a text that does not change from run to run."""
        for share in (self.rate, 1 - self.rate):
            if look.fits(share):
                return f"{share:g} (± {math.ceil(1000 * look.margin) / 1000:g})"
        return f"about {look.share:.1f}"


def _subjects(
    layer: Callable[..., Any], rate: float | None, rate_argument: str | None, training_argument: str | None
) -> Iterator[_Subject]:
    """Yield the layer at each rate at which it can be probed."""
    if not inspect.isclass(layer) and (rate is not None or hasattr(layer, "forward") or _own_rate(layer) is not None):
        known = _own_rate(layer) if rate is None else rate
        if known is None:
            raise TypeError("the layer has no attribute named like a rate; pass it, as in identify(layer, rate=0.2)")
        if not 0.05 <= known <= 0.95:
            raise ValueError(f"the rate must lie between 0.05 and 0.95 to be told from 0 and 1, got {known!r}")
        yield _object(copy.deepcopy(layer), known, training_argument)
        return
    names = _parameters(layer)
    makes_layers = inspect.isclass(layer) or (rate_argument is None and names[:1] and names[0] in _RATE_NAMES)
    if not makes_layers and not names:
        raise TypeError(f"the parameters of {layer!r} are not known; wrap it: identify(lambda x, p: ...)")
    for probed in _RATES:
        if makes_layers:
            yield _object(layer(probed), probed, training_argument)
        else:
            yield _function(layer, names, probed, rate_argument, training_argument)


def _object(layer: Any, rate: float, training_argument: str | None) -> _Subject:
    """Return the subject that an object with its own rate makes."""
    forward = getattr(layer, "forward", layer)
    if not callable(forward):
        raise TypeError(f"expected an object with forward or a call, got {type(layer).__name__}; wrap it in a function")
    names = _parameters(forward)
    arguments: dict[str, Any] = {}
    set_training: Callable[[bool], None] | None = None
    mode = training_argument or next((name for name in _TRAINING_NAMES if name in names), None)
    if callable(getattr(layer, "train", None)) and callable(getattr(layer, "eval", None)):

        def set_training(training: bool) -> None:
            layer.train() if training else layer.eval()

    elif isinstance(getattr(layer, "training", None), bool):

        def set_training(training: bool) -> None:
            layer.training = training

    elif mode:

        def set_training(training: bool) -> None:
            arguments[mode] = training

    stepped = "step" in names

    def run(x: Array) -> Any:
        if stepped:
            arguments["step"] = arguments.get("step", -1) + 1
        return forward(x, **arguments)

    backward = getattr(layer, "backward", None)
    if stepped and backward is not None:
        return _Subject(rate, run, lambda dy: backward(dy, step=arguments["step"]), set_training, remembers=False)
    return _Subject(rate, run, backward, set_training)


def _function(
    function: Callable[..., Any],
    names: list[str],
    rate: float,
    rate_argument: str | None,
    training_argument: str | None,
) -> _Subject:
    """Return the subject that a function f(x, p) makes at one rate."""
    name = rate_argument or next((name for name in names[1:] if name in _RATE_NAMES), "".join(names[1:2]))
    if name not in names[1:]:
        raise TypeError(
            f"no parameter of {names} takes the rate; name it, as in identify(f, rate_argument='p'), or wrap the layer"
        )
    mode = training_argument or next((name for name in names[1:] if name in _TRAINING_NAMES), None)
    arguments: dict[str, Any] = {name: rate}

    def set_training(training: bool) -> None:
        arguments[str(mode)] = training

    return _Subject(rate, lambda x: function(x, **arguments), None, set_training if mode else None)


def _array(function: Callable[[Array], Any], x: Array, rate: float, name: str) -> Array:
    """Return function(x) as an array of the shape of x, or say in one line why it is none."""
    advice = "wrap the layer in a function that takes and returns NumPy arrays"
    try:
        y = np.asarray(function(x))
    except Exception as error:
        line = (str(error).strip() or "no message").split("\n")[0]
        raise TypeError(
            f"{name} failed on a float32 array of shape {x.shape} at rate {rate:g} "
            f"({type(error).__name__}: {line}); {advice}"
        ) from error
    if y.shape != x.shape or y.dtype.kind != "f":
        raise TypeError(f"{name} returned {y.dtype} of shape {y.shape}, expected floats of shape {x.shape}; {advice}")
    return y


def _own_rate(layer: object) -> float | None:
    """Return the rate that an object tells, or None."""
    values = (getattr(layer, name, None) for name in _RATE_NAMES)
    return next((float(v) for v in values if isinstance(v, numbers.Real) and not isinstance(v, bool)), None)


def _parameters(function: Callable[..., Any]) -> list[str]:
    """Return the names of the parameters that can be passed, or none if Python cannot tell."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return []
    return [p.name for p in parameters if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]


def _near(value: float, factor: float) -> bool:
    return abs(value - factor) <= _TOLERANCE * factor


def _words(answer: bool | None, unknown: str) -> str:
    return {True: "yes", False: "no", None: unknown}[answer]
