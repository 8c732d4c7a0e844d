"""How every figure looks: one colour a method everywhere, safe for colour-blind readers, the same bytes every time."""

from collections.abc import Sequence
from pathlib import Path

import matplotlib
import numpy as np

matplotlib.use("Agg")

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bayesft.evaluation.statistics import Estimate
from bayesft.files import atomic
from bayesft.methods import Look

_COLOURS = ("#0173b2", "#de8f05", "#029e73", "#d55e00", "#cc78bc")  # seaborn's "colorblind"
# Of the ablation's variants and the study's strategies.
VARIANT_LOOKS = [
    Look(_COLOURS[0], "-", "o"),
    Look(_COLOURS[1], "--", "s"),
    Look(_COLOURS[2], "-.", "^"),
    Look(_COLOURS[3], ":", "D"),
    Look(_COLOURS[4], (0, (4, 1, 1, 1)), "v"),
]

COLUMN, PAGE = 3.4, 7.0  # inches: one column of a paper, and both

plt.rcParams.update(
    {
        "figure.dpi": 100,
        "savefig.dpi": 200,
        "font.size": 8,
        "axes.titlesize": 7.5,
        "axes.labelsize": 8,
        "xtick.labelsize": 7,
        "ytick.labelsize": 7,
        "legend.fontsize": 7.5,
        "lines.markersize": 4,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "grid.alpha": 0.25,
        "legend.frameon": False,
        "pdf.fonttype": 42,
        "svg.hashsalt": "bayesft",
    }
)


def curve(
    axes: Axes, x: Sequence[float] | np.ndarray, estimates: list[Estimate], look: Look, label: str, place: int = 0
) -> None:
    """A mean with its band. Of about six markers, the first is at the `place`-th point: elsewhere for other curves."""
    colour, dashes, marker = look.colour, look.dashes, look.marker
    every = max(1, len(x) // 6)
    axes.fill_between(x, [e.low for e in estimates], [e.high for e in estimates], color=colour, alpha=0.18, lw=0)
    axes.plot(
        x, [e.mean for e in estimates], color=colour, ls=dashes, marker=marker, ms=3.5,
        markevery=(place % every, every), lw=1.2, label=label,
    )  # fmt: skip


def accuracy_axes(axes: Axes, sigma_max: float, metric: str = "accuracy") -> None:
    """The axes that all curves of accuracy, or of another `metric` from 0 to 1, share."""
    axes.set(xlim=(0, sigma_max), ylim=(0, 1), xlabel="drift level σ", ylabel=metric)


def titled(axes: Axes, title: str, *under: str) -> None:
    """A title, and lines in small type under it."""
    lines = [line for line in under if line]
    axes.annotate(
        "\n".join(lines), (0.5, 1), (0, 3), xycoords="axes fraction", textcoords="offset points", ha="center",
        va="bottom", fontsize=6.5, color="0.35", linespacing=1.15,
    )  # fmt: skip
    axes.set_title(title, pad=4 + 8.5 * len(lines))


def chance_line(axes: Axes, classes: int) -> None:
    """The accuracy of a guess."""
    axes.axhline(1 / classes, color="0.45", ls=":", lw=1.2, zorder=1, label="chance")


def save(figure: Figure, folder: Path, name: str) -> None:
    """Write `name`.png to read and `name`.pdf for papers, as wide as it is drawn. Its caption is text of the page.

    The report's name, which says scale and data, stands small beside it. It is the name of `folder`, or of the folder
    around it where that one is called "figures".
    """
    report = Path(folder).parent.name if Path(folder).name == "figures" else Path(folder).name
    figure.text(1, 1, report, rotation=90, ha="left", va="top", fontsize=5, color="0.5")
    for suffix, metadata in (("png", {"Software": None}), ("pdf", {"CreationDate": None, "Creator": None})):
        with atomic(Path(folder) / f"{name}.{suffix}") as temporary:
            figure.savefig(temporary, format=suffix, metadata=metadata, bbox_inches="tight", pad_inches=0.03)
    plt.close(figure)
