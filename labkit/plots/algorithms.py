"""Figures of algorithms themselves: what a score looks like over the load, and what it makes of a set of nodes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np
from matplotlib.axes import Axes

from labkit.model import FloatArray
from labkit.names import DIMENSIONS
from labkit.plots.style import INK, PALETTE, dress, in_words
from labkit.scoring.surface import Surface

_HATCHES: Final = ("", "///", "...", "xx")
"""Of the dimensions: their colours alone are one grey on paper."""


def score_surface(surface: Surface, ax: Axes, *, here: tuple[float, float] | None = None) -> Axes:
    """Draw a node's score over two of its loads, with lines at every fifth; ``here`` marks where the node is."""
    edges = np.linspace(0.0, 1.0, len(surface.grid) + 1)
    ax.pcolormesh(edges, edges, surface.score, cmap="cividis", vmin=0.0, vmax=1.0, rasterized=True)
    if np.ptp(surface.score) > 0.0:
        levels = np.linspace(0.2, 0.8, 4)
        shades = ["white" if level < 0.55 else INK for level in levels]  # each is seen on its own shade
        lines = ax.contour(surface.grid, surface.grid, surface.score, levels=levels, colors=shades, linewidths=0.8)
        ax.clabel(lines, fmt="%.1f", fontsize=7)
    if here is not None:
        ax.plot(*here, marker="o", color="white", markeredgecolor=INK, markersize=6)
    dress(ax, title=surface.algorithm, x=in_words(surface.x), y=in_words(surface.y), grid="")
    ax.set_title(surface.algorithm, loc="left", fontsize=7.5)  # the longest name is as wide as a small Axes
    ax.set_aspect("equal")
    return ax


def score_table(scores: Mapping[str, Mapping[str, float]], ax: Axes, *, title: str = "") -> Axes:
    """Draw scores as algorithms × nodes, with their numbers."""
    names, nodes = list(scores), list(next(iter(scores.values())))
    values = np.array([[scores[name][node] for node in nodes] for name in names])
    ax.imshow(values, cmap="cividis", vmin=0.0, vmax=1.0, aspect="auto")
    for row, line in enumerate(values):
        for column, value in enumerate(line):
            ax.text(column, row, f"{value:.2f}", ha="center", va="center", fontsize=8,
                    color="white" if value < 0.6 else INK)  # fmt: skip
    ax.set_xticks(range(len(nodes)), nodes)
    ax.set_yticks(range(len(names)), names, fontsize=8.5)
    ax.tick_params(length=0)
    dress(ax, title=title, grid="")
    return ax


def score_parts(nodes: Sequence[str], parts: FloatArray | None, ax: Axes, *, title: str = "") -> Axes:
    """Draw what each dimension contributes to each node's score, stacked.

    Parameters
    ----------
    nodes : sequence of str
        Names.
    parts : FloatArray or None
        Shape (n_nodes, 4), as :func:`labkit.scoring.explain.contributions` returns them; None is said so.
    ax : Axes
        Where to draw.
    title : str
        Of the Axes.
    """
    dress(ax, title=title, y="score")
    if parts is None:
        ax.text(0.5, 0.5, "this score is no sum over dimensions: it has no parts", transform=ax.transAxes, ha="center",
                color="#666666")  # fmt: skip
        return ax
    bottom = np.zeros(len(nodes))
    for column, dimension in enumerate(DIMENSIONS):
        ax.bar(nodes, parts[:, column], bottom=bottom, color=PALETTE[column], width=0.7, hatch=_HATCHES[column],
               label=in_words(dimension), edgecolor="white", linewidth=0.6)  # fmt: skip
        bottom += parts[:, column]
    ax.set_ylim(0.0, 1.05)
    ax.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0))
    return ax
