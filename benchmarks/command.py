"""The benchmark from end to end: settings, progress, table, and the file that the book reads."""

from __future__ import annotations

import argparse
import math
import platform
import sys
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from benchmarks import steps
from benchmarks.layers import CASES
from benchmarks.timing import Step, interleave, peak_bytes, ratios, spread
from dropoutlib.masks import bernoulli_mask
from studies.store import progress, save

NAME = "benchmark"
SHAPES = ((32, 100), (256, 512), (1024, 1024), (4096, 1024), (8192, 4096))
RATES = (0.1, 0.3, 0.5, 0.9)
DTYPES = ("float32", "float64")
REFERENCES = ("pytorch", "textbook", "bound")
# Where the parts are timed, and the memory measured.
SHAPE, RATE, TRIALS = (4096, 1024), 0.3, 10_000


class Setting(NamedTuple):
    shape: tuple[int, ...]
    dtype: str
    p: float

    def arrays(self) -> tuple[Any, Any]:
        rng = np.random.default_rng(1)
        return tuple(rng.standard_normal(self.shape).astype(self.dtype) for _ in range(2))


def settings(shapes: Sequence[tuple[int, ...]], rates: Sequence[float], dtypes: Sequence[str]) -> list[Setting]:
    return [Setting(shape, dtype, p) for shape in shapes for dtype in dtypes for p in rates]


def time_layers(setting: Setting, seconds: float) -> dict[str, Any]:
    """Return times in milliseconds and ratios of all layers in one setting."""
    x, dy = setting.arrays()
    samples = interleave({name: case.start(x, dy, setting.p) for name, case in CASES.items()}, seconds)
    return {
        "shape": list(setting.shape),
        "dtype": setting.dtype,
        "p": setting.p,
        "rounds": len(samples["bound"]),
        "milliseconds": {name: spread([1e3 * t for t in taken]) for name, taken in samples.items()},
        "times_faster_than": {to: ratios(samples, to) for to in REFERENCES},
    }


def measure_memory(setting: Setting) -> dict[str, Any]:
    """Return what each layer keeps of its mask, and the peak of NumPy's memory, in bytes an element.

    The peak is that of a forward and its backward beyond x and dy, with y and dx held to the end.
    """
    x, dy = setting.arrays()
    found: dict[str, Any] = {}
    for name, case in CASES.items():
        kept = None if case.mask_bytes is None else round(case.mask_bytes(x, setting.p), 4)
        peak = round(peak_bytes(case.start(x, dy, setting.p)) / x.size, 2) if case.in_numpy else None
        found[name] = {"mask": kept, "peak": peak}
    return {"shape": list(setting.shape), "dtype": setting.dtype, "p": setting.p, "bytes_an_element": found}


def time_ways(ways: dict[str, Step], to: str, seconds: float, least: int = 7) -> dict[str, Any]:
    """Return times of ways to do one thing, how many times faster than `to` each is, and their peaks of memory."""
    samples = interleave(ways, seconds, least)
    return {
        "milliseconds": {name: spread([1e3 * t for t in taken]) for name, taken in samples.items()},
        "times_faster_than": {to: ratios(samples, to)},
        "peak_megabytes": {name: round(peak_bytes(step) / 1e6, 2) for name, step in ways.items()},
    }


def run(
    shapes: Sequence[tuple[int, ...]], rates: Sequence[float], dtypes: Sequence[str], seconds: float, trials: int
) -> dict[str, Any]:
    """Return all figures; `seconds` is the least time for each group of cases."""
    parts = Setting(SHAPE if SHAPE in shapes else shapes[-1], dtypes[0], RATE)
    size = math.prod(parts.shape)
    x = parts.arrays()[0]
    mask = bernoulli_mask(parts.shape, parts.p, np.random.SFC64(0))
    here = {"shape": list(parts.shape), "dtype": parts.dtype, "p": parts.p}

    def jobs() -> Iterator[tuple[str, Any]]:
        yield "memory", measure_memory(parts)
        yield "make", here | time_ways(steps.makers(size, parts.p), "binomial", seconds)
        yield "apply", here | time_ways(steps.appliers(x, mask, parts.p), "x * integers * scale", seconds)
        demonstration = steps.demonstration(trials)
        yield "monte_carlo", {"trials": trials, "p": 0.5} | time_ways(demonstration, "textbook loop", seconds, least=3)
        for setting in settings(shapes, rates, dtypes):
            yield "layers", time_layers(setting, seconds)

    found: dict[str, Any] = {"machine": machine(), "labels": {name: case.label for name, case in CASES.items()}}
    layers: list[Any] = []
    for name, result in progress(jobs(), 4 + len(settings(shapes, rates, dtypes))):
        if name == "layers":
            layers.append(result)
        else:
            found[name] = result
    return found | {"layers": {f"{'x'.join(map(str, row['shape']))} {row['dtype']} {row['p']}": row for row in layers}}


def machine() -> dict[str, str]:
    """Return what the figures were measured on."""
    packages = ("numpy", "numba", "torch", "jax", "tensorflow-cpu")
    return {
        "processor": processor(),
        "system": f"{platform.system()} {platform.machine()}",
        "threads": "1",
        "python": platform.python_version(),
        **{name.removesuffix("-cpu"): version(name) for name in packages},
    }


def processor() -> str:
    """Return the processor's name where the system tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or "unknown"
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else "unknown"


def table(found: dict[str, Any]) -> str:
    """Return the figures as text: a row a layer and setting, times with their spread, ratios beside them."""
    lines = []
    for key, row in found["layers"].items():
        lines.append(f"{key}   ({row['rounds']} rounds; forward and backward)")
        lines.append(f"  {'':30}{'ms':>10} {'(10 % to 90 %)':>20} {'x PyTorch':>10} {'x textbook':>11} {'/ bound':>8}")
        for name, ms in row["milliseconds"].items():
            faster = row["times_faster_than"]
            lines.append(
                f"  {found['labels'][name]:30}{ms['median']:>10.4g} {ms['low']:>10.4g} {ms['high']:>9.4g}"
                f" {faster['pytorch'][name]['median']:>10.3g} {faster['textbook'][name]['median']:>11.3g}"
                f" {1 / faster['bound'][name]['median']:>8.3g}"
            )
    for name in ("make", "apply", "monte_carlo"):
        part = found[name]
        ((to, faster),) = part["times_faster_than"].items()
        lines.append(f"{name}   (times faster than {to})")
        lines += [
            f"  {way:30}{ms['median']:>10.4g} {ms['low']:>10.4g} {ms['high']:>9.4g}"
            f" {faster[way]['median']:>10.3g} {part['peak_megabytes'][way]:>9.4g} MB"
            for way, ms in part["milliseconds"].items()
        ]
    lines.append("bytes an element: mask kept for backward, peak of forward and backward (NumPy's memory alone)")
    for name, kept in found["memory"]["bytes_an_element"].items():
        shown = ["-" if kept[what] is None else f"{kept[what]:.4g}" for what in ("mask", "peak")]
        lines.append(f"  {found['labels'][name]:30}{shown[0]:>10} {shown[1]:>10}")
    return "\n".join(lines)


def shape(text: str) -> tuple[int, ...]:
    """Return the shape that "4096x1024" names."""
    try:
        sizes = tuple(int(size) for size in text.split("x"))
    except ValueError:
        sizes = ()
    if len(sizes) != 2 or min(sizes) < 1:
        raise argparse.ArgumentTypeError(f"a shape is two sizes such as 4096x1024, got {text!r}")
    return sizes


def rate(text: str) -> float:
    """Return a drop probability that has something to drop and something to keep."""
    try:
        p = float(text)
    except ValueError:
        p = math.nan
    if not 0.0 < p < 1.0:
        raise argparse.ArgumentTypeError(f"a rate lies in 0 < p < 1, got {text!r}")
    return p


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--shapes", nargs="+", type=shape, default=SHAPES, metavar="ROWSxCOLUMNS")
    parser.add_argument("--rates", nargs="+", type=rate, default=RATES, metavar="P")
    parser.add_argument("--dtypes", nargs="+", choices=DTYPES, default=DTYPES)
    parser.add_argument("--seconds", type=float, default=2.0, help="least time for each group of cases (2)")
    parser.add_argument("--trials", type=int, default=TRIALS, help=f"masks of the demonstration ({TRIALS:,})")
    parser.add_argument("--store", action="store_true", help="keep the figures for the book")
    given = parser.parse_args(arguments)
    torch.set_num_threads(1)
    found = run(given.shapes, given.rates, given.dtypes, given.seconds, given.trials)
    print(table(found))
    if given.store:
        print(f"stored in {save(NAME, found).name}", file=sys.stderr)
