"""Figures of one run: each takes the run's tables and an Axes, and returns the Axes."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from types import MappingProxyType
from typing import Final

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator

from labkit.analysis import imbalance
from labkit.analysis.summary import FINAL_SECONDS
from labkit.analysis.tables import NodeSeries, Tables, finished
from labkit.plots.labels import SMALLEST, height, label_ends, label_rows
from labkit.plots.style import (
    INK,
    PALETTE,
    QUIET,
    dress,
    in_words,
    lab_time,
    natural_key,
    node_styles,
    readable_on,
    short_names,
)

MAX_LINES: Final = 12
"""With more nodes than this, single lines give way to the band that they fill."""
MAX_VM_ROWS: Final = 60
_HOT: Final = 0.8
_LEAST_TOP: Final = 0.1
"""A share axis shows at least so much, lest noise look like load."""


def scores(tables: Tables, ax: Axes) -> Axes:
    """Draw each node's score over lab time, as the descheduler saw it."""
    dress(ax, title="Score of each node", y="score")
    _node_lines(tables["nodes"], "score", ax, top=_LEAST_TOP)
    return ax


def utilisation(tables: Tables, ax: Axes, *, dimension: str = "cpu_usage") -> Axes:
    """Draw one load ratio of each node over lab time, with the hot-spot line at 0.8."""
    words = in_words(dimension)
    dress(ax, title=f"{words} of each node", y=f"{words} (share)")
    if dimension.endswith("usage"):
        ax.axhline(_HOT, color=QUIET, linewidth=1, linestyle=(0, (2, 2)), zorder=1)
        _node_lines(tables["nodes"], dimension, ax, top=1.0, marks={"hot spot": _HOT})
    else:
        _node_lines(tables["nodes"], dimension, ax, top=_LEAST_TOP)
    return ax


def _nothing(ax: Axes) -> Axes:
    """Say that there is nothing to draw."""
    ax.text(0.5, 0.5, "no samples", transform=ax.transAxes, ha="center", color="#666666")
    return ax


def _wide(nodes: pd.DataFrame, column: str) -> pd.DataFrame:
    """Return one row per sample time and one column per node, in the order in which people count."""
    wide = nodes.pivot_table(index="time_seconds", columns="node", values=column, aggfunc="last")
    return wide[sorted(wide.columns, key=lambda name: natural_key(str(name)))]


def _node_lines(
    nodes: pd.DataFrame, column: str, ax: Axes, *, top: float, marks: Mapping[str, float] = MappingProxyType({})
) -> None:
    """One named line per node, or for many nodes the band they fill; the axis reaches from 0 to ``top`` at least.

    ``marks`` are further names at the right edge, and at which height.
    """
    wide = _wide(nodes, column)
    if wide.empty:
        _nothing(ax)
        return
    minutes = wide.index.to_numpy(np.float64) / 60
    lab_time(ax, float(wide.index[-1]))
    ax.set_ylim(0, max(top, 1.05 * float(np.nanmax(wide.to_numpy(np.float64)))))
    names = list(wide.columns)
    if len(names) <= MAX_LINES:
        styles = node_styles(sorted(set(nodes["node"])))
        for name in names:
            ax.plot(minutes, wide[name], **styles[name])
        last = {name: wide[name].dropna() for name in names}
        ends = {name: (float(values.index[-1]) / 60, float(values.iloc[-1])) for name, values in last.items()}
        ends |= {name: (minutes[-1], value) for name, value in marks.items()}
        label_ends(ax, ends, {name: str(styles[name]["color"]) for name in names} | dict.fromkeys(marks, QUIET))
        return
    for name, value in marks.items():
        ax.annotate(name, (0.005, value), xycoords=("axes fraction", "data"), va="bottom", fontsize=8, color=INK)
    quantiles = wide.quantile([0.0, 0.1, 0.5, 0.9, 1.0], axis=1)
    ax.fill_between(minutes, quantiles.loc[0.0], quantiles.loc[1.0], color=PALETTE[0], alpha=0.18, linewidth=0,
                    label=f"all {len(names)} nodes")  # fmt: skip
    ax.fill_between(minutes, quantiles.loc[0.1], quantiles.loc[0.9], color=PALETTE[0], alpha=0.35, linewidth=0,
                    label="80 % of them")  # fmt: skip
    ax.plot(minutes, quantiles.loc[0.5], color=INK, linewidth=1.6, label="median node")
    highest = str(wide.mean().idxmax())
    ax.plot(minutes, wide[highest], color=PALETTE[1], linewidth=1.4, linestyle="--", label=f"{highest}, highest")
    ax.legend(loc="upper left", bbox_to_anchor=(1.01, 1))


def cumulative(tables: Tables, ax: Axes, *, lab_seconds: float | None = None) -> Axes:
    """Draw how many evictions were requested and how many migrations ended, over lab time."""
    moves = finished(tables["migrations"])["ended_seconds"]
    requests = tables["evictions"]["time_seconds"]
    end = _end(tables) if lab_seconds is None else lab_seconds
    for times, label, style in (
        (requests, "evictions requested", {"color": PALETTE[1], "linestyle": "--"}),
        (moves, "migrations ended", {"color": PALETTE[0], "linestyle": "-"}),
    ):
        at = np.sort(times.dropna().to_numpy(np.float64))
        x = np.concatenate([[0.0], at, [max(end, at[-1] if len(at) else 0.0)]]) / 60
        y = np.concatenate([[0], np.arange(1, len(at) + 1), [len(at)]])
        ax.step(x, y, where="post", label=f"{label}: {len(at)}", **style)  # type: ignore[arg-type]
    dress(ax, title="Evictions and migrations", y="count since the start")
    lab_time(ax, end)
    ax.set_ylim(0, max(1.0, ax.get_ylim()[1]))
    ax.yaxis.set_major_locator(MaxNLocator(integer=True))
    ax.legend(loc="lower right")  # what only grows leaves this corner free
    return ax


def _end(tables: Tables) -> float:
    latest = [frame["time_seconds"].max() for frame in tables.values() if "time_seconds" in frame and len(frame)]
    return float(max(latest)) if latest else 0.0


def _all_nodes(tables: Tables) -> list[str]:
    """Return every node of a run, those that never held a VM included: its colour must not depend on that."""
    return sorted({*tables["nodes"]["node"], *tables["placement"]["node"]} - {""}, key=natural_key)


def placement(tables: Tables, ax: Axes, *, lab_seconds: float | None = None) -> Axes:
    """Draw where each VM was: one strip per VM, coloured and numbered by node; a change of colour is a migration.

    VMs that moved come first, by their first move; of the others as many are drawn as fit.
    """
    changes = tables["placement"].sort_values(["vm", "time_seconds"], kind="stable")
    end = _end(tables) if lab_seconds is None else lab_seconds
    hosts = {str(vm): list(zip(rows["time_seconds"], rows["node"], strict=True)) for vm, rows in changes.groupby("vm")}
    first_move = {vm: _first_move(steps) for vm, steps in hosts.items()}
    order = sorted(hosts, key=lambda vm: (first_move[vm], natural_key(hosts[vm][0][1]), natural_key(vm)))
    shown = order[: min(MAX_VM_ROWS, max(10, int(height(ax) / (1.15 * SMALLEST))))]
    nodes = _all_nodes(tables)
    styles, numbers = node_styles(nodes), short_names(nodes)
    for row, vm in enumerate(shown):
        steps = hosts[vm]
        for (start, node), stop in zip(steps, [*(step[0] for step in steps[1:]), end], strict=True):
            if node and stop > start:
                colour = str(styles[node]["color"])
                ax.add_patch(
                    Rectangle((start / 60, row + 0.08), (stop - start) / 60, 0.84, linewidth=0, facecolor=colour)
                )
                if stop - start > 0.03 * end * len(numbers[node]):
                    ax.text((start + stop) / 120, row + 0.52, numbers[node], ha="center", va="center",
                            fontsize=SMALLEST, color=readable_on(colour), clip_on=True)  # fmt: skip
            if start > 0:
                ax.plot([start / 60] * 2, [row, row + 1], color="white", linewidth=1.4, zorder=3)
    moved = sum(np.isfinite(time) for time in first_move.values())
    hidden = f", {len(shown)} shown" if len(shown) < len(order) else ""
    dress(ax, title=f"Where each VM ran ({moved} of {len(order)} VMs moved{hidden})", grid="")
    lab_time(ax, end)
    ax.set_ylim(len(shown) if shown else 1, 0)
    label_rows(ax, shown, at=0.5, largest=8.0)
    if 0 < len(nodes) <= MAX_LINES:
        handles = [Rectangle((0, 0), 1, 1, facecolor=str(styles[node]["color"])) for node in nodes]
        ax.legend(handles, nodes, loc="upper left", bbox_to_anchor=(1.01, 1), title="node", handlelength=1,
                  borderaxespad=0)  # fmt: skip
    return ax


def _first_move(steps: list[tuple[float, str]]) -> float:
    """Return when a VM first came from one node to another; infinity if it never did, even if it was deleted."""
    places = [step for step in steps if step[1]]
    return next((later[0] for earlier, later in pairwise(places) if earlier[1] != later[1]), float("inf"))


def heat_map(tables: Tables, ax: Axes, *, dimension: str = "cpu_usage") -> Axes:
    """Draw one load ratio as nodes × time, light to dark; legible with hundreds of nodes."""
    dress(ax, title=f"{in_words(dimension)}, every node over time", grid="")
    wide = _wide(tables["nodes"], dimension).T
    if wide.empty:
        return _nothing(ax)
    edges = np.append(wide.columns.to_numpy(np.float64), _end(tables) + 1e-9) / 60
    if len(edges) > 2 and edges[-1] - edges[-2] < 1e-6:
        edges[-1] = edges[-2] + (edges[1] - edges[0])
    mesh = ax.pcolormesh(edges, np.arange(len(wide) + 1), wide.to_numpy(np.float64), cmap="cividis_r",
                         vmin=0, vmax=1, rasterized=True)  # fmt: skip
    lab_time(ax, float(edges[-1]) * 60)
    ax.set_ylim(len(wide), 0)
    label_rows(ax, list(wide.index), at=0.5, largest=8.5)
    bar = ax.figure.colorbar(mesh, ax=ax, pad=0.015, aspect=30)
    bar.outline.set_visible(False)
    bar.set_label("share")
    return ax


def migration_arcs(tables: Tables, ax: Axes) -> Axes:
    """Draw each migration as an arc from the node it left, a dot, to the node it reached, an arrow, at its lab time."""
    moves = finished(tables["migrations"])
    nodes = sorted({*_all_nodes(tables), *moves["source"], *moves["target"]} - {""}, key=natural_key)
    row = {node: index for index, node in enumerate(nodes)}
    styles = node_styles(_all_nodes(tables) or nodes)
    end = _end(tables)
    bend = np.sin(np.linspace(0, np.pi, 24)) * max(end, 1.0) / 60 * 0.02
    arcs, colours = [], []
    for source, target, start, stop in zip(
        moves["source"], moves["target"], moves["started_seconds"], moves["ended_seconds"], strict=True
    ):
        x = np.linspace(start / 60, stop / 60, 24) + bend
        arcs.append(np.column_stack([x, np.linspace(row[source], row[target], 24)]))
        colours.append(str(styles.get(source, {"color": INK})["color"]))
        ax.plot(x[0], row[source], marker="o", markersize=3.5, color=colours[-1], zorder=3)
        ax.plot(x[-1], row[target], marker="v" if row[target] > row[source] else "^", markersize=5.5,
                color=colours[-1], zorder=3)  # fmt: skip
    ax.add_collection(LineCollection(arcs, colors=colours, linewidths=1.4, alpha=0.85))
    dress(ax, title=f"{len(arcs)} migration{'' if len(arcs) == 1 else 's'}, from node to node", grid="y")
    lab_time(ax, end)
    ax.set_ylim(max(len(nodes), 1) - 0.5, -0.5)
    label_rows(ax, nodes)
    return ax


def before_and_after(
    tables: Tables, ax: Axes, *, dimension: str = "cpu_usage", lab_seconds: float | None = None
) -> Axes:
    """Draw each node's load at the first complete sample and as the mean of the last five minutes, side by side.

    The standard deviations over the nodes are those of the run's summary.
    """
    dress(ax, title=f"{in_words(dimension)} before and after", y="share")
    end = _end(tables) if lab_seconds is None else lab_seconds
    series = NodeSeries.of(tables["nodes"], lab_seconds=end)
    if not series.nodes:
        return _nothing(ax)
    order = sorted(range(len(series.nodes)), key=lambda index: natural_key(series.nodes[index]))
    values = series.ratio[dimension]
    late = series.since(end - FINAL_SECONDS)
    before, after = values[series.start][order], imbalance.mean(values[late].T)[order]
    deviation = imbalance.stddev(values)
    place = np.arange(len(order))
    ax.bar(place - 0.2, before, width=0.38, label="start", color="#BDBDBD")
    ax.bar(place + 0.2, after, width=0.38, label="last 5 minutes", color=PALETTE[0])
    ax.set_ylim(0, 1.05 if dimension.endswith("usage") else None)
    names = [series.nodes[index] for index in order]
    width = ax.bbox.width * 72 / ax.figure.dpi / len(names)
    if width >= 1.3 * SMALLEST:
        ax.set_xticks(place, names, fontsize=8.5, rotation=0 if width > 8 * max(map(len, names)) else 90)
    else:
        ax.set_xticks([])
        ax.set_xlabel(f"{len(names)} nodes, by name")
    ax.set_xlim(-0.7, len(names) - 0.3)
    ax.legend(
        loc="upper left", bbox_to_anchor=(1.01, 1), title="standard deviation\n"
        f"{deviation[series.start]:.3f} → {np.nanmean(deviation[late]):.3f}", title_fontsize=9, alignment="left",
    )  # fmt: skip
    return ax
