"""One plotting style for the whole book."""

from __future__ import annotations

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
