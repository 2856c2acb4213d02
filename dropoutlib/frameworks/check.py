"""Is this model fit to be deployed? Six checks that look at the model itself, and say what causes what.

| check | it fails if |
|---|---|
| evaluation-mode | a module is in training mode |
| no-active-dropout | a dropout layer or another random operation draws |
| rows-independent | a row's output depends on the other rows of its batch |
| parameters | a parameter is not the reference's |
| exported-program | the program's graph draws, or normalises by the batch's own statistics |
| normalisation-statistics | running statistics are not those of what reaches the layer in evaluation |

A model in memory has no exported program and an exported program has no modes, so each report has the checks that
apply. A check cannot tell if it was not given what it needs, and says so.

A failure that another failure explains is put beneath it. This is found by trying, where it can be tried: the model is
put into evaluation mode and checked again, and what is then gone was a consequence of the mode.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dropoutlib.frameworks import files
from dropoutlib.frameworks._statistics import each as several
from dropoutlib.frameworks._statistics import inputs
from dropoutlib.frameworks.parameters import compare
from dropoutlib.frameworks.protocol import Adapter, Array, DropoutLayers, Finding, Report

__all__ = ["deployment_check", "exported_check"]

Run = Callable[[Sequence[Array]], list[Array]]

# Another order of its terms moves a sum by a few eps of the largest, and such sums follow each other layer by layer.
# 64 eps is 7.6e-6 of the output's size in float32. What the network itself magnifies is measured and added.
ROUNDING = 64
ROWS_TRIED = 4
# A dropout of p = .2 in front of a layer shifts its variance by 1/q = 1.25: less than that does not matter much.
VARIANCE_SHIFT = 1.25
# Half a standard deviation moves a normal value across the 31 % quantile.
MEAN_SHIFT = 0.5
# The standard deviation of a normal sample's variance is sqrt(2/n) of it, 10 % at n = 200.
ROWS_FOR_STATISTICS = 200


def deployment_check(
    adapter: Adapter, model: Any, example: Any, reference: Any = None, batches: Iterable[Any] | None = None
) -> Report:
    """Inspect a model as it would be deployed, and change nothing of it.

    Parameters
    ----------
    adapter : Adapter
        Module of the model's framework.
    model
        What the framework calls a model, or a program that was exported from one.
    example : array, tuple of arrays, or mapping of str to array
        One batch of inputs. Rows must differ, or nothing can be said about how one depends on another.
    reference : mapping of str to array, str, Path, or model, optional
        Parameters that the model should have: by name, in an .npz file or a .keras file, or another model.
    batches : iterable of inputs, optional
        Data on which running statistics are compared; 200 rows or more.

    Returns
    -------
    Report
        One finding for each check, a root cause before its consequences.

    Raises
    ------
    ValueError
        If the model does not run on the example, or the reference is of another model.

    Notes
    -----
    Rows count as independent if no output moves by more than 64 (eps max|y| + s), with the eps of the coarsest
    floating type among inputs and outputs, and s the largest change of an output when every input is moved by
    one part in 1/eps: the rounding of the sums, and what the model makes of rounding.

    Running statistics count as shifted if the median over a layer's channels of running variance / evaluation variance
    leaves [1/1.25, 1.25], or the median distance of the means exceeds half a standard deviation.

    Two runs count as equal if they are no further apart than 64 eps max|y|.
    """
    program = files.exported(model)
    if program is not None:
        return _program_report(program, example, reference)
    xs = _inputs(model, example)
    findings = _model_findings(adapter, model, xs)
    known = adapter.dropout_layers(model)
    findings.append(_parameters(adapter.parameters(model), reference, known, named=True))
    findings.append(_statistics(adapter, model, batches))
    return Report(tuple(findings))


def exported_check(program: Any, example: Any, reference: Any = None) -> Report:
    """Inspect an exported program: the path of a file, or the program in memory.

    Parameters
    ----------
    program : str, Path, or exported program
        A .keras, .onnx, .pt2 or .jaxexport file or a SavedModel folder; a torch ExportedProgram or ScriptModule, an
        ONNX ModelProto, a loaded SavedModel or TensorFlow concrete function, or a jax.export.Exported. Checking it runs
        its operations, so it must come from somebody you trust.
    example : array, tuple of arrays, or mapping of str to array
        One batch of inputs, in the program's shapes and dtypes.
    reference : mapping of str to array, str or Path, optional
        Parameters that the program should have.

    Raises
    ------
    files.CannotCheck
        If the program cannot be read or run (a ValueError).
    TypeError
        If this is no program and no model.
    """
    loaded = files.load(program) if isinstance(program, str | Path) else program
    found = loaded if isinstance(loaded, files.Program) else files.exported(loaded)
    if found is not None:
        return _program_report(found, example, reference)
    from dropoutlib.frameworks import adapter

    return deployment_check(adapter(loaded), loaded, example, reference)


# --- A model in memory


_EVALUATION = {
    **{"train": False, "training": False, "is_training": False},
    **{"deterministic": True, "use_running_average": True},
}


@dataclass(frozen=True)
class _Seen:
    """What a model shows in one mode."""

    dropout: DropoutLayers
    random: float  # how far two runs that differ in their seeds are apart
    rows: _Rows | str
    normalising: tuple[str, ...]

    @property
    def drops(self) -> bool:
        return bool(self.dropout.active) or self.random > 0

    @property
    def depends(self) -> bool:
        return isinstance(self.rows, _Rows) and self.rows.depends


def _model_findings(adapter: Adapter, model: Any, xs: list[Array]) -> list[Finding]:
    now = left = _look(adapter, model, xs)
    training = adapter.training_modules(model)
    ended: list[str] = []
    if training:
        # The experiment that tells consequences from other causes: what is left in evaluation mode?
        with adapter.preserved(model):
            _evaluate(model)
            still = adapter.training_modules(model)
            ended = [path for path in training if path not in still]
            left = _look(adapter, model, xs) if ended else now
    if ended:
        mode = Finding("evaluation-mode", "fail", f"in training mode: {_listed([path or '(model)' for path in ended])}")
    else:
        mode = Finding("evaluation-mode", "pass", "no module is in a training mode that evaluation mode would end")

    dropout = _dropout_finding(now, mode.check if ended and not left.drops else None)
    if ended and dropout.verdict == "fail" and left.drops:
        names = _listed([each.path or "(model)" for each in left.dropout.active]) or "something draws"
        dropout = Finding(dropout.check, "fail", f"{dropout.evidence}\nstill in evaluation mode: {names}")
    rows = _rows_finding(now, dropout)
    if rows.verdict == "fail" and not rows.because and ended and not left.depends:
        rows = Finding(rows.check, "fail", rows.evidence, mode.check)
    return [mode, dropout, rows]


def _look(adapter: Adapter, model: Any, xs: list[Array]) -> _Seen:
    def run(inputs: Sequence[Array], seed: int = 0) -> list[Array]:
        x = inputs[0] if len(inputs) == 1 else tuple(inputs)
        return [np.asarray(adapter.predict(model, x, seed))]

    example: Any = xs[0] if len(xs) == 1 else tuple(xs)
    layers = adapter.dropout_layers(model, example)
    random = _apart(run(xs), run(xs, seed=1))
    normalising = tuple(each.path for each in adapter.normalisation(model, example) if each.batch_statistics)
    # One seed for all: equal rows at equal places get equal masks, and what still differs is due to the batch. Another
    # place or a batch of one row would bring another mask, so these are asked of models that draw nothing.
    return _Seen(layers, random, _rows(run, xs, alone=not random, anywhere=not random), normalising)


def _evaluate(model: Any) -> None:
    """Put the model into evaluation mode as far as it has one: its own switch, or the arguments of a linen call."""
    switch = getattr(model, "eval", None)
    if callable(switch):
        switch()
    arguments = getattr(model, "arguments", None)
    if isinstance(arguments, dict):
        model.arguments = arguments | {name: flag for name, flag in _EVALUATION.items() if name in arguments}


def _dropout_finding(seen: _Seen, because: str | None) -> Finding:
    active = seen.dropout.active
    searched = {
        "modules only": "layers only, as no example was traced",
        "tracing": "found by tracing the operations",
        "running twice": "found by running twice and comparing",
    }[seen.dropout.method]
    apart = (
        f"two runs on the same input differ by {seen.random:.3g}" if seen.random else "two runs on the same input agree"
    )
    if active:
        rows = [
            f"{layer.path or '(model)'} ({layer.kind}" + ("" if layer.rate is None else f", p = {layer.rate:.4g}") + ")"
            for layer in active
        ]
        return Finding("no-active-dropout", "fail", f"active: {_listed(rows)} ({searched}); {apart}", because)
    if seen.random:
        return Finding(
            "no-active-dropout", "fail", f"{apart}, though no layer was found active: something draws", because
        )
    total = len(seen.dropout)
    return Finding(
        "no-active-dropout",
        "pass",
        f"{total} {'place' if total == 1 else 'places'} of dropout, none active ({searched}); {apart}",
    )


def _rows_finding(seen: _Seen, dropout: Finding) -> Finding:
    rows, by_batch = seen.rows, ""
    if seen.normalising:
        by_batch = f"; normalised by the batch's own statistics: {_listed(seen.normalising)}"
    if seen.random and not seen.depends:
        return Finding(
            "rows-independent",
            "fail",
            f"the same row gives other outputs from run to run, by {seen.random:.3g}" + by_batch,
            dropout.check,
        )
    if isinstance(rows, str):
        return Finding("rows-independent", "cannot tell", rows + by_batch)
    return Finding("rows-independent", "fail" if rows.depends else "pass", rows.evidence + by_batch)


# --- An exported program


def _program_report(program: files.Program, example: Any, reference: Any) -> Report:
    xs = program.arguments(example)
    findings = []
    if program.training:
        mode = f"traced code that asks for the mode, and in training mode: {_listed(program.training)}"
        findings.append(Finding("evaluation-mode", "fail", mode))
    cause = "evaluation-mode" if program.training else None
    graph = _graph_finding(program, cause)
    findings.append(graph)
    root = graph.check if graph.verdict == "fail" else cause
    parameters = _parameters(program.parameters, reference, None, named=program.named)
    try:
        first, second = program.run(xs), program.run(xs)
    except files.CannotCheck as error:
        if graph.verdict != "fail":
            raise
        # The graph has told enough; what only a run can tell stays open.
        refused = [Finding(each, "cannot tell", str(error), root) for each in ("no-active-dropout", "rows-independent")]
        return Report((*findings, *refused, parameters))
    random = _apart(first, second)
    apart = f"two runs on the same input differ by {random:.3g}" if random else "two runs on the same input agree"
    free = all(each.shape is None or (each.shape and each.shape[0] is None) for each in program.inputs)
    rows = "" if random else _rows(program.run, xs, alone=free)
    depends = isinstance(rows, _Rows) and rows.depends
    drawn = f"the graph draws: {_listed(program.random)}"
    if random:
        dropout = Finding("no-active-dropout", "fail", apart, root)
    elif not program.random:
        dropout = Finding("no-active-dropout", "pass", apart)
    elif isinstance(rows, str):
        dropout = Finding("no-active-dropout", "cannot tell", f"{drawn}; {apart}, by a fixed seed or by luck", root)
    elif depends:
        dropout = Finding("no-active-dropout", "fail", f"{drawn}; {apart}, so it draws with a fixed seed", root)
    else:
        text = f"{drawn}; but {apart} and copies of a row get equal outputs: the runtime leaves these operations out"
        dropout = Finding("no-active-dropout", "pass", text)
    findings.append(dropout)

    if random:
        text = f"the same row gives other outputs from run to run, by {random:.3g}"
        findings.append(Finding("rows-independent", "fail", text, root or dropout.check))
    elif isinstance(rows, str):
        findings.append(Finding("rows-independent", "cannot tell", rows))
    elif depends:
        findings.append(Finding("rows-independent", "fail", rows.evidence, root))
    else:
        findings.append(Finding("rows-independent", "pass", rows.evidence))
    return Report((*findings, parameters))


def _graph_finding(program: files.Program, because: str | None) -> Finding:
    wrong = []
    if program.random:
        wrong.append(f"active dropout or other random operations: {_listed(program.random)}")
    if program.batch_statistics:
        wrong.append(f"normalisation by the batch's own statistics: {_listed(program.batch_statistics)}")
    if wrong:
        return Finding("exported-program", "fail", f"{program.kind} graph has " + "\nand ".join(wrong), because)
    if program.unknown:
        text = f"{program.kind} graph has operations that cannot be looked into: {_listed(program.unknown)}"
        return Finding("exported-program", "cannot tell", text)
    text = f"{program.kind} graph of {program.operations} operations: none draws, none normalises by the batch"
    return Finding("exported-program", "pass", text)


# --- Rows


@dataclass(frozen=True)
class _Rows:
    """How far outputs move with the company that a row has, and how far rounding may move them."""

    gap: float
    tolerance: float
    tried: int
    note: str
    fails_alone: bool = False

    @property
    def depends(self) -> bool:
        return self.fails_alone or not self.gap <= self.tolerance

    @property
    def evidence(self) -> str:
        rows = "1 row" if self.tried == 1 else f"{self.tried} rows"
        verb = "move by" if self.gap > self.tolerance else "move by no more than rounding,"
        return f"the outputs of {rows} {verb} {self.gap:.3g} (tolerance {self.tolerance:.3g}) {self.note}"


def _rows(run: Run, xs: list[Array], alone: bool, anywhere: bool = True) -> _Rows | str:
    """Compare rows in their batch with the same rows among copies of themselves; a string says why that is idle.

    The copies stand at every place of the batch; `anywhere` compares all of them, else the one at the row's own place.
    `alone` adds batches of that row only.
    """
    counts = {len(x) if x.ndim else 0 for x in xs}
    count = max(counts)
    if len(counts) != 1 or count == 0:
        return f"the inputs have different numbers of rows, or none: {sorted(counts)}"
    if count == 1:
        return "the example has one row; give two or more that differ"
    different = [row for row in range(1, count) if any(_distance(x[row], x[0]) > 0 for x in xs)]
    if not different:
        return f"all {count} rows of the example are equal; give rows that differ"
    together = run(xs)
    if not together or not all(y.ndim and len(y) == count for y in together):
        return f"outputs of shape {[y.shape for y in together]} have no row for each of the {count} inputs"
    chosen = [0, *different[:: max(1, len(different) // (ROWS_TRIED - 1))][: ROWS_TRIED - 1]]
    gaps, note, fails_alone = np.zeros(len(together)), "in a batch of their own copies", False

    def compare_with(row: int, outputs: list[Array], places: slice) -> None:
        for number, (y, reference) in enumerate(zip(outputs, together, strict=True)):
            apart = [_distance(each, reference[row]) for each in y[places]]
            gaps[number] = max([gaps[number], *apart] if apart else [math.inf])

    for row in chosen:
        outputs = run([np.repeat(x[row : row + 1], count, axis=0) for x in xs])
        compare_with(row, outputs, slice(None) if anywhere else slice(row, row + 1))
    if alone:
        try:
            for row in chosen:
                compare_with(row, run([x[row : row + 1] for x in xs]), slice(None))
            note += " and alone"
        except ValueError as error:
            note += f"; and one row alone fails: {str(error).splitlines()[0]}"
            fails_alone = True
    tolerances = np.array(_tolerances(run, xs, together))
    worst = int(np.argmax(np.where(gaps > tolerances, math.inf, gaps)))
    return _Rows(float(gaps[worst]), float(tolerances[worst]), len(chosen), note, fails_alone)


def _tolerances(run: Run, xs: list[Array], outputs: list[Array]) -> list[float]:
    """Return, for each output, how far rounding may move it: 64 (eps max|y| + change under a change of eps in x)."""
    eps = max([_eps(array) for array in (*xs, *outputs)], default=0.0)
    nudged = [_nudge(x) for x in xs]
    moved = run(nudged) if any(_floating(x) for x in xs) else outputs
    found = []
    for y, other in zip(outputs, moved, strict=True):
        change = _distance(y, other)
        magnified = change if math.isfinite(change) else 0.0
        found.append(ROUNDING * (eps * _size(y) + magnified) if _floating(y) else 0.0)
    return found


def _apart(first: Sequence[Array], second: Sequence[Array]) -> float:
    """Return how far two runs are apart, 0 if no further than threads that add in another order may bring them."""
    apart = 0.0
    for a, b in zip(first, second, strict=True):
        distance = _distance(a, b)
        if distance > ROUNDING * _eps(a) * _size(a):
            apart = max(apart, distance)
    return apart


def _size(y: Array) -> float:
    return float(np.abs(y[np.isfinite(y)]).max(initial=0.0)) if _floating(y) else 0.0


def _nudge(x: Array) -> Array:
    """Return x with neighbouring elements moved by eps, up and down in turn."""
    if not _floating(x):
        return x
    signs = np.where(np.arange(x.size) % 2, 1.0, -1.0).reshape(x.shape)
    return np.asarray(x * (1 + _eps(x) * signs), x.dtype)


# --- Parameters and statistics


def _parameters(model: Mapping[str, Array], reference: Any, known: DropoutLayers | None, named: bool) -> Finding:
    if reference is None:
        return Finding("parameters", "cannot tell", "not compared: no reference was given")
    expected = files.reference(reference)
    rates = [layer.rate for layer in known or () if layer.rate is not None]
    return compare(model, expected.arrays, rates, named and expected.named)


def _statistics(adapter: Adapter, model: Any, batches: Iterable[Any] | None) -> Finding:
    check = "normalisation-statistics"
    if not any(layer.tracked for layer in adapter.normalisation(model)):
        return Finding(check, "pass", "no layer keeps running statistics")
    if batches is None:
        return Finding(check, "cannot tell", "not compared: no batches were given")
    given = list(several(batches))
    rows = sum(len(inputs(batch)[0]) for batch in given)
    wrong, seen = [], []
    for gap in adapter.running_stats_gap(model, given):
        varies = gap.evaluation_var > 0
        if not varies.any():
            continue
        ratio = float(np.median(gap.running_var[varies] / gap.evaluation_var[varies]))
        distance = np.abs(gap.running_mean - gap.evaluation_mean)[varies] / np.sqrt(gap.evaluation_var[varies])
        shift = float(np.median(distance))
        text = f"'{gap.path}' running/evaluation variance {ratio:.3g}, means {shift:.2g} standard deviations apart"
        seen.append(text)
        if not (1 / VARIANCE_SHIFT <= ratio <= VARIANCE_SHIFT and shift <= MEAN_SHIFT):
            wrong.append(text)
    limits = f"limits {1 / VARIANCE_SHIFT:.3g} to {VARIANCE_SHIFT:.3g}, and {MEAN_SHIFT:.3g}; {rows} rows"
    if rows < ROWS_FOR_STATISTICS:
        text = f"{rows} rows are too few to tell a variance within 10 %; give {ROWS_FOR_STATISTICS} or more"
        return Finding(check, "cannot tell", text)
    if wrong:
        return Finding(check, "fail", f"shifted (medians over channels; {limits}): {_listed(wrong)}")
    return Finding(check, "pass", f"medians over channels within {limits}: {_listed(seen)}")


# --- Small things


def _inputs(model: Any, example: Any) -> list[Array]:
    if isinstance(example, Mapping):
        return files.model_arguments(model, example)
    return [np.asarray(x) for x in (example if isinstance(example, tuple) else (example,))]


def _floating(x: Array) -> bool:
    return bool(np.issubdtype(x.dtype, np.floating)) or x.dtype.name == "bfloat16"


def _eps(x: Array) -> float:
    if not _floating(x):
        return 0.0
    return 2.0**-7 if x.dtype.name == "bfloat16" else float(np.finfo(x.dtype).eps)


def _distance(a: Array, b: Array) -> float:
    """Return max |a - b|; nan equals nan, inf equals inf, and other shapes are infinitely far apart."""
    if a.shape != b.shape:
        return math.inf
    if not (_floating(a) or np.issubdtype(a.dtype, np.number)):
        return float(np.any(a != b))
    x, y = a.astype(np.float64), b.astype(np.float64)
    equal = (x == y) | (np.isnan(x) & np.isnan(y))
    if equal.all():
        return 0.0
    apart = np.abs(x[~equal] - y[~equal])
    return math.inf if np.isnan(apart).any() else float(apart.max())


def _listed(items: Sequence[str], most: int = 6) -> str:
    return ", ".join(items[:most]) + (f" and {len(items) - most} more" if len(items) > most else "")


def _first_line(error: BaseException) -> str:
    return f"{type(error).__name__}: {(str(error).strip().splitlines() or ['no message'])[0]}"
