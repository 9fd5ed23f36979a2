"""Figures of the comparison of two sides, such as the live loop and the twin: see :mod:`labkit.fidelity`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator
from scipy import stats

from labkit.analysis.metrics import Metric
from labkit.model import FloatArray
from labkit.plots.comparison import words
from labkit.plots.labels import label_rows, legend_below
from labkit.plots.style import INK, PALETTE, QUIET, algorithm_style, dress, ink

_SIDE_MARKERS: Final = ("D", "^", "s")
"""Of the sides that are held against the first."""
_SIDE_COLOURS: Final = (PALETTE[1], PALETTE[2], PALETTE[3])


def agreement(
    one: Mapping[str, FloatArray], others: Mapping[str, Mapping[str, FloatArray]], metric: Metric, ax: Axes,
    *, title: str = "", side: str = "live",
) -> Axes:  # fmt: skip
    """Draw each run of one side as a dot over the bar of its range, and the mean of the others as markers.

    Parameters
    ----------
    one : mapping of str to FloatArray
        Values of the runs by algorithm, drawn from the bottom up.
    others : mapping of str to mapping
        The same of other sides, by their name; a thin line is the middle 90 % of their runs.
    metric : Metric
        What the values are.
    ax : Axes
        Where to draw.
    title, side : str
        Words: the figure's, and of the first side.
    """
    for row, (name, values) in enumerate(one.items()):
        ax.plot([values.min(), values.max()], [row, row], color=PALETTE[0], alpha=0.28, linewidth=9,
                solid_capstyle="round", zorder=1)  # fmt: skip
        ax.plot(values, np.full(len(values), row), "o", color=PALETTE[0], markersize=4.5, alpha=0.8, zorder=3,
                markeredgecolor="white", markeredgewidth=0.4)  # fmt: skip
        for place, other in enumerate(others.values()):
            against = other.get(name, np.array([]))
            if len(against):
                below = row - 0.26 * (place + 1) / len(others)
                colour, marker = _SIDE_COLOURS[place], _SIDE_MARKERS[place]
                ax.plot(np.quantile(against, [0.05, 0.95]), [below, below], color=colour, linewidth=1.2, zorder=2)
                ax.plot(against.mean(), below, marker, color=colour, markersize=6.5, zorder=4,
                        markeredgecolor="white", markeredgewidth=0.6)  # fmt: skip
    dress(ax, title=title or metric.title, x=words(metric), grid="x")
    label_rows(ax, list(one))
    ax.set_ylim(-0.75, len(one) - 0.4)
    low, high = ax.get_xlim()
    ax.set_xlim(min(0.0, low) if low < 0.25 * high else low, high)
    ax.xaxis.set_major_locator(MaxNLocator(nbins=6))
    handles = [Line2D([], [], color=PALETTE[0], marker="o", linewidth=7, alpha=0.5, label=f"{side}: runs and range")]
    handles += [
        Line2D([], [], color=_SIDE_COLOURS[place], marker=_SIDE_MARKERS[place], linewidth=1.2,
               label=f"{name}: mean and 90 %")
        for place, name in enumerate(others)
    ]  # fmt: skip
    legend_below(ax, handles, fontsize=8.5)
    return ax


def bumps(sides: Mapping[str, Mapping[str, float]], metric: Metric, ax: Axes, *, title: str = "") -> Axes:
    """Draw the rank of each algorithm on each side, joined by a line: lines that cross are disagreements.

    Parameters
    ----------
    sides : mapping of str to mapping
        Means by algorithm, for each side from left to right.
    metric : Metric
        Decides which end is best; best is at the top, ties share a rank.
    ax : Axes
        Where to draw.
    title : str
        Words.
    """
    names = list(next(iter(sides.values())))
    ranks = np.column_stack(
        [stats.rankdata([metric.sign * round(side[name], 9) for name in names]) for side in sides.values()]
    )
    for name, row in zip(names, ranks, strict=True):
        style = algorithm_style(name)
        moved = np.ptp(row) > 0
        ax.plot(range(len(sides)), row, color=style["color"], marker=style["marker"], linestyle=style["linestyle"],
                linewidth=2.0 if moved else 1.4, alpha=1.0 if moved else 0.75, markersize=6,
                markeredgecolor="white", markeredgewidth=0.5)  # fmt: skip
    for at, edge, side in ((0, -0.06, "right"), (len(sides) - 1, len(sides) - 0.94, "left")):
        for place in np.unique(ranks[:, at]):
            tied = [name for name, rank in zip(names, ranks[:, at], strict=True) if rank == place]
            text = tied[0] if len(tied) == 1 else "\n".join(tied)
            ax.text(edge, place, text, ha=side, va="center", fontsize=8, linespacing=1.1,
                    color=ink(str(algorithm_style(tied[0])["color"])) if len(tied) == 1 else INK)  # fmt: skip
    dress(ax, title=title or f"{metric.title}: rank", grid="")
    ax.set_xticks(range(len(sides)), list(sides))
    ax.set_xlim(-0.1 - 1.1 * (len(sides) - 1), 2.1 * (len(sides) - 1) + 0.1)
    ax.set_ylim(len(names) + 0.6, 0.4)
    ax.set_yticks([])
    ax.spines["left"].set_visible(False)
    ax.spines["bottom"].set_color(QUIET)
    ax.tick_params(axis="x", length=0)
    return ax
