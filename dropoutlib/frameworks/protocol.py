"""What every adapter gives back, and the protocol that each of them keeps.

Nothing here knows a framework: importing this module loads NumPy alone.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Method = Literal["modules only", "tracing", "running twice"]
Verdict = Literal["pass", "fail", "cannot tell"]
CHECKS = (
    "evaluation-mode",
    "no-active-dropout",
    "rows-independent",
    "parameters",
    "exported-program",
    "normalisation-statistics",
)


@dataclass(frozen=True)
class DropoutLayer:
    """One place where a model drops: a layer, or an operation inside the code of a module.

    Parameters
    ----------
    path : str
        Name of the layer inside the model; for functional dropout, of the module whose code draws ("" is the model).
    rate : float or None
        Probability of dropping, 0 to 1; None if it cannot be read.
    kind : str
        Class of the layer, "attention dropout", "recurrent dropout", "functional dropout", or "random draw".
    active : bool
        Whether it would draw if the model were called now, in the mode it has now.
    """

    path: str
    rate: float | None
    kind: str
    active: bool


@dataclass(frozen=True)
class DropoutLayers:
    """Every place where a model drops; iterating gives the layers first, then the functional places.

    Parameters
    ----------
    layers : tuple of DropoutLayer
        Layers whose class is known to drop.
    functional : tuple of DropoutLayer
        Draws outside those layers.
    method : {"modules only", "tracing", "running twice"}
        How functional dropout was searched: not at all (no example was given), among the operations that a run
        on the example makes, or by comparing two runs that differ in their seeds alone.
    """

    layers: tuple[DropoutLayer, ...]
    functional: tuple[DropoutLayer, ...]
    method: Method

    def __iter__(self) -> Iterator[DropoutLayer]:
        return iter(self.layers + self.functional)

    def __len__(self) -> int:
        return len(self.layers) + len(self.functional)

    @property
    def active(self) -> tuple[DropoutLayer, ...]:
        """Those that would draw now."""
        return tuple(layer for layer in self if layer.active)

    def __str__(self) -> str:
        searched = {
            "modules only": "functional dropout was not searched: no example was given",
            "tracing": "functional dropout was searched among the operations of a run",
            "running twice": "functional dropout was searched by comparing two runs",
        }[self.method]
        rows = [
            f"{place.path or '(model)'}: {place.kind}"
            + ("" if place.rate is None else f", rate {place.rate:.4g}")
            + (", active" if place.active else "")
            for place in self
        ]
        return "\n".join([*(rows or ["no dropout found"]), searched])


@dataclass(frozen=True)
class NormalisationLayer:
    """One layer that normalises with statistics of the batch when training.

    Parameters
    ----------
    path : str
        Name of the layer inside the model.
    kind : str
        Its class.
    batch_statistics : bool
        Whether it would normalise by the batch's own statistics if the model were called now.
    tracked : bool
        Whether it keeps running statistics.
    """

    path: str
    kind: str
    batch_statistics: bool
    tracked: bool


@dataclass(frozen=True)
class NormalisationGap:
    """Running statistics of one layer, and those of what reaches it in evaluation; one value a channel.

    Variances divide by n as each framework's own running variance does: by n - 1 in PyTorch, by n in Keras and Flax.
    """

    path: str
    running_mean: Array
    running_var: Array
    evaluation_mean: Array
    evaluation_var: Array

    @property
    def ratio(self) -> float:
        """Mean over channels of running_var / evaluation_var; channels that never vary are left out."""
        varies = self.evaluation_var > 0
        return float(np.mean(self.running_var[varies] / self.evaluation_var[varies])) if varies.any() else float("nan")

    @property
    def shift(self) -> float:
        """Largest |running_mean - evaluation_mean| over channels, in standard deviations sqrt(evaluation_var)."""
        varies = self.evaluation_var > 0
        if not varies.any():
            return float("nan")
        distance = np.abs(self.running_mean - self.evaluation_mean)[varies]
        return float(np.max(distance / np.sqrt(self.evaluation_var[varies])))


@dataclass(frozen=True)
class Gaps:
    """The gaps of every normalisation layer that keeps running statistics, in the order in which they run."""

    layers: tuple[NormalisationGap, ...]

    def __iter__(self) -> Iterator[NormalisationGap]:
        return iter(self.layers)

    def __len__(self) -> int:
        return len(self.layers)

    def __getitem__(self, index: int) -> NormalisationGap:
        return self.layers[index]

    def __str__(self) -> str:
        rows = [f"{gap.path}: running/evaluation variance {gap.ratio:.3f}, mean off by {gap.shift:.3f}" for gap in self]
        return "\n".join(rows or ["no layer keeps running statistics"])

    def figure(self) -> Any:
        """Draw running against evaluation variance of every channel, layer by layer, and return the figure.

        Raises
        ------
        ValueError
            If there is no layer to draw.
        ImportError
            If matplotlib is missing.
        """
        if not self.layers:
            raise ValueError("there is nothing to draw: no layer keeps running statistics")
        from dropoutlib.figures import COLORS, use_style

        try:
            import matplotlib as mpl
            from matplotlib.figure import Figure
        except ImportError:
            use_style()  # says how to install it
            raise
        with mpl.rc_context():
            use_style()
            figure = Figure(figsize=(6.4, 1.2 + 0.4 * len(self)))
            axes = figure.add_subplot()
            for row, gap in enumerate(self):
                varies = gap.evaluation_var > 0
                ratios = gap.running_var[varies] / gap.evaluation_var[varies]
                axes.plot(ratios, np.full(ratios.size, row), "|", color=COLORS["inverted"], alpha=0.5, markersize=9)
                axes.plot([gap.ratio], [row], "o", color=COLORS["standard"], markersize=6)
            axes.axvline(1, color=COLORS["reference"], linestyle="--", linewidth=1)
            axes.set_yticks(range(len(self)), [gap.path for gap in self])
            axes.set_ylim(len(self) - 0.5, -0.5)
            axes.set_xlabel("running variance / evaluation variance (bars: channels, dot: their mean)")
        return figure


@dataclass(frozen=True)
class Finding:
    """What one check of a deployment found.

    Parameters
    ----------
    check : str
        One of `CHECKS`.
    verdict : {"pass", "fail", "cannot tell"}
        What it comes to.
    evidence : str
        What was seen.
    because : str or None
        The check that names its root cause, if it is a consequence.
    """

    check: str
    verdict: Verdict
    evidence: str
    because: str | None = None


@dataclass(frozen=True)
class Report:
    """All findings of a deployment check, the root cause before its consequences."""

    findings: tuple[Finding, ...]

    @property
    def passed(self) -> bool:
        """Whether every check passed; one that cannot tell has not passed."""
        return all(finding.verdict == "pass" for finding in self.findings)

    @property
    def failed(self) -> tuple[Finding, ...]:
        """The failures, root causes first."""
        return tuple(finding for finding in self._ordered() if finding.verdict == "fail")

    @property
    def first(self) -> Finding | None:
        """The first root cause, or None if nothing failed."""
        return next(iter(self.failed), None)

    def _ordered(self) -> list[Finding]:
        """Failures, then what cannot be told, then what passed; each consequence behind its cause."""
        names = {finding.check for finding in self.findings}
        ordered: list[Finding] = []
        for verdict in ("fail", "cannot tell", "pass"):
            for root in self.findings:
                if root.verdict == verdict and root.because not in names - {root.check}:
                    ordered += self._family(root)
        # A circle of causes has no root; nothing may be lost for that.
        return ordered + [finding for finding in self.findings if finding not in ordered]

    def _family(self, root: Finding) -> list[Finding]:
        family = [root]
        for finding in self.findings:
            if finding.because == root.check and finding.check != root.check:
                family += self._family(finding)
        return family

    def _depth(self, finding: Finding) -> int:
        causes = {each.check: each.because for each in self.findings}
        depth, cause, seen = 0, finding.because, {finding.check}
        while cause in causes and cause not in seen:
            seen.add(cause)
            depth, cause = depth + 1, causes[cause]
        return depth

    def __str__(self) -> str:
        rows = []
        for finding in self._ordered():
            indent = "    " * self._depth(finding)
            because = f" (because of {finding.because})" if finding.because else ""
            rows.append(f"{indent}{finding.verdict}: {finding.check}{because}")
            rows += [f"{indent}    {line}" for line in finding.evidence.splitlines()]
        return "\n".join(rows)

    def to_json(self) -> str:
        """Return the report as JSON: `passed`, `first`, and `findings` in the order of the text."""
        return json.dumps(
            {
                "passed": self.passed,
                "first": self.first.check if self.first else None,
                "findings": [asdict(finding) for finding in self._ordered()],
            },
            indent=2,
        )


class Adapter(Protocol):
    """What the module of each framework offers; `model` is what that framework calls one.

    A model with one input takes an array as `example` and in `batches`; one with several takes a tuple of arrays.
    Only `reestimate` changes the model. The others leave modes, statistics and random streams as they found them,
    also after an exception.
    """

    # Read-only members, so that a module can keep the protocol.
    @property
    def name(self) -> str:
        """The framework: "pytorch", "keras" or "flax"."""

    def dropout_layers(self, model: Any, example: Any = None) -> DropoutLayers:
        """Return every place where the model drops; functional dropout is searched if there is an example."""

    def mc_mode(self, model: Any, also: Sequence[str] = ()) -> AbstractContextManager[Any]:
        """Turn dropout on, and nothing else, for the length of a `with` block."""

    def running_stats_gap(self, model: Any, batches: Iterable[Any]) -> Gaps:
        """Compare running statistics with those of what reaches each normalisation layer in evaluation."""

    def reestimate(self, model: Any, batches: Iterable[Any]) -> None:
        """Set the running statistics to what reaches each layer in evaluation, from the first layer to the last."""

    def deployment_check(
        self, model: Any, example: Any, reference: Any = None, batches: Iterable[Any] | None = None
    ) -> Report:
        """Inspect the model as it would be deployed."""

    def predict(self, model: Any, x: Any, seed: int | None = None) -> Array:
        """Return the first output in the mode the model has now; a seed starts every random stream from it."""

    def training_modules(self, model: Any) -> tuple[str, ...]:
        """Return the paths of the modules that are in training mode ("" is the model itself)."""

    def parameters(self, model: Any) -> dict[str, Array]:
        """Return weights and running statistics by name: all that a checkpoint holds, without random streams."""

    def normalisation(self, model: Any, example: Any = None) -> tuple[NormalisationLayer, ...]:
        """Return the layers that normalise over the batch; an example shows arguments given where they are called."""

    def preserved(self, model: Any) -> AbstractContextManager[Any]:
        """Put modes, state and random streams back when a `with` block ends."""
