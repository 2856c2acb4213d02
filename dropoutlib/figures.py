"""One plotting style for the whole book."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from dropoutlib._validation import whole

# Each reaches a contrast of 3:1 on white, and any two differ for colour-blind readers too. Blue and vermilion are
# Okabe and Ito's.
COLORS = {
    "inverted": "#0072B2",
    "standard": "#D55E00",
    "reference": "#404040",
    "good": "#00A36C",
    "bad": "#AA3377",
}


def use_style() -> None:
    """Set matplotlib's defaults to the book's style, for all later figures of this process.

    Raises
    ------
    ImportError
        If matplotlib is missing.
    """
    try:
        import matplotlib.pyplot as plt
        from cycler import cycler
    except ImportError as error:
        raise ImportError('figures need matplotlib; install it with pip install "dropoutlib[figures]"') from error
    plt.rcdefaults()
    plt.rcParams.update(
        {
            "axes.axisbelow": True,
            "axes.grid": True,
            "axes.prop_cycle": cycler(color=list(COLORS.values())),
            "axes.spines.right": False,
            "axes.spines.top": False,
            "axes.titlelocation": "left",
            "axes.titlesize": 11,
            "figure.constrained_layout.use": True,
            "figure.dpi": 144,
            "figure.figsize": (6.4, 3.2),
            "font.size": 10,
            "grid.color": "#DDDDDD",
            "grid.linewidth": 0.6,
            "legend.frameon": False,
            "lines.linewidth": 2,
        }
    )


class Reliability(NamedTuple):
    """Mean confidence, accuracy and share of the rows, of each bin of confidence that has any."""

    confidence: npt.NDArray[np.float64]
    accuracy: npt.NDArray[np.float64]
    share: npt.NDArray[np.float64]


def reliability(probs: npt.ArrayLike, labels: npt.ArrayLike, bins: int = 15) -> Reliability:
    """Return what a reliability diagram shows; the sum of share * |accuracy - confidence| is the calibration error.

    Parameters
    ----------
    probs : array_like, shape (n, classes)
        Rows of probabilities.
    labels : array_like of int, shape (n,)
        The right classes.
    bins : int
        Number of intervals ((b - 1)/bins, b/bins] of the largest probability.

    References
    ----------
    Guo, Pleiss, Sun and Weinberger, "On calibration of modern neural networks", ICML 2017, section 2.
    """
    p, y = np.asarray(probs, dtype=np.float64), np.asarray(labels)
    if p.ndim != 2 or y.shape != p.shape[:1] or y.size == 0:
        raise ValueError(f"probs must be (n, classes) and labels (n,) with n > 0, got {p.shape} and {y.shape}")
    edges = np.arange(1, whole(bins, "bins", least=1)) / bins
    index = np.digitize(p.max(axis=1), edges, right=True)
    rows = np.bincount(index, minlength=bins)
    seen = rows > 0
    sums = (np.bincount(index, weights=w, minlength=bins)[seen] for w in (p.max(axis=1), p.argmax(axis=1) == y))
    confidence, correct = sums
    return Reliability(confidence / rows[seen], correct / rows[seen], rows[seen] / y.size)


def reliability_diagram(axes: Any, probs: npt.ArrayLike, labels: npt.ArrayLike, bins: int = 15, **style: Any) -> None:
    """Draw accuracy against confidence, a dot for each bin, its area in proportion to the bin's rows.

    Above the diagonal a model is too modest, below it too sure. `style` goes to `axes.plot`, such as color and label.
    """
    found = reliability(probs, labels, bins)
    axes.plot([0, 1], [0, 1], "--", color=COLORS["reference"], linewidth=1)
    (line,) = axes.plot(found.confidence, found.accuracy, **{"linewidth": 1, **style})
    axes.scatter(found.confidence, found.accuracy, s=8 + 300 * found.share, color=line.get_color(), alpha=0.7)
    axes.set(xlabel="confidence", ylabel="accuracy", xlim=(-0.02, 1.06), ylim=(-0.02, 1.06))


def risk_coverage(
    uncertainty: npt.ArrayLike, wrong: npt.ArrayLike
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Return coverage and risk: the share of rows that are kept, most certain first, and the errors among them.

    Rows of equal uncertainty are kept or left together.

    Parameters
    ----------
    uncertainty : array_like, shape (n,)
        Any number that is larger where the model is less certain.
    wrong : array_like of bool, shape (n,)
        Whether the prediction is wrong.

    References
    ----------
    Geifman and El-Yaniv, "Selective classification for deep neural networks", NIPS 2017, section 2.
    """
    u, w = np.asarray(uncertainty, dtype=np.float64), np.asarray(wrong, dtype=np.float64)
    if u.ndim != 1 or u.shape != w.shape or u.size == 0:
        raise ValueError(f"uncertainty and wrong must both be (n,) with n > 0, got {u.shape} and {w.shape}")
    order = np.argsort(u, kind="stable")
    kept = np.flatnonzero(np.append(np.diff(u[order]) > 0, True)) + 1
    return kept / u.size, np.cumsum(w[order])[kept - 1] / kept


def risk_coverage_curve(axes: Any, uncertainty: npt.ArrayLike, wrong: npt.ArrayLike, **style: Any) -> None:
    """Draw risk against coverage; `style` goes to `axes.plot`, such as color and label."""
    axes.plot(*risk_coverage(uncertainty, wrong), **style)
    axes.set(xlabel="coverage: share of rows answered", ylabel="risk: share of these that is wrong", xlim=(0, 1.02))
