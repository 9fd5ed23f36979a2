"""Figures of one run: each takes the run's tables and an Axes, and returns the Axes."""

from __future__ import annotations

from typing import Final

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.colors import to_rgba
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator

from labkit.analysis.tables import Tables, finished
from labkit.plots.style import INK, PALETTE, QUIET, dress, natural_key, node_styles

MAX_LINES: Final = 12
"""With more nodes than this, single lines give way to a band with the extremes named."""
MAX_VM_ROWS: Final = 60
LAB_MINUTES: Final = "lab time (minutes)"


def scores(tables: Tables, ax: Axes) -> Axes:
    """Draw each node's score over lab time, as the descheduler saw it."""
    _node_lines(tables["nodes"], "score", ax)
    dress(ax, title="Score of each node", x=LAB_MINUTES, y="score")
    ax.set_ylim(bottom=min(0.0, ax.get_ylim()[0]))
    return ax


def utilisation(tables: Tables, ax: Axes, *, dimension: str = "cpu_usage") -> Axes:
    """Draw one load ratio of each node over lab time, with the hot-spot line at 0.8."""
    _node_lines(tables["nodes"], dimension, ax)
    resource, kind = dimension.split("_")
    words = {"cpu": "CPU", "memory": "Memory"}[resource] + (" use" if kind == "usage" else " pressure")
    dress(ax, title=f"{words} of each node", x=LAB_MINUTES, y=f"{words.lower().replace('cpu', 'CPU')} (share)")
    if kind == "usage":
        ax.axhline(0.8, color=QUIET, linewidth=1, linestyle=(0, (2, 2)), zorder=1)
        ax.annotate("hot spot", (0.995, 0.8), xycoords=("axes fraction", "data"), va="bottom", ha="right",
                    fontsize=8, color="#777777")  # fmt: skip
        ax.set_ylim(0, max(1.0, ax.get_ylim()[1]))
    return ax


def _node_lines(nodes: pd.DataFrame, column: str, ax: Axes) -> None:
    """One labelled line per node, or for many nodes the band they fill."""
    wide = nodes.pivot_table(index="time_seconds", columns="node", values=column, aggfunc="last")
    if wide.empty:
        ax.text(0.5, 0.5, "no samples", transform=ax.transAxes, ha="center", color=QUIET)
        return
    minutes = wide.index.to_numpy(np.float64) / 60
    names = sorted(map(str, wide.columns), key=natural_key)
    if len(names) <= MAX_LINES:
        styles = node_styles(names)
        ends = {}
        for name in names:
            ax.plot(minutes, wide[name], label=name, **styles[name])
            values = wide[name].to_numpy(np.float64)
            known = np.flatnonzero(~np.isnan(values))
            if len(known):
                ends[name] = (float(minutes[known[-1]]), float(values[known[-1]]))
        _label_ends(ax, ends, {name: str(style["color"]) for name, style in styles.items()}, minutes)
        return
    quantiles = wide.quantile([0.0, 0.1, 0.5, 0.9, 1.0], axis=1)
    ax.fill_between(minutes, quantiles.loc[0.0], quantiles.loc[1.0], color=PALETTE[0], alpha=0.18, linewidth=0,
                    label=f"all {len(names)} nodes")  # fmt: skip
    ax.fill_between(minutes, quantiles.loc[0.1], quantiles.loc[0.9], color=PALETTE[0], alpha=0.35, linewidth=0,
                    label="80 % of them")  # fmt: skip
    ax.plot(minutes, quantiles.loc[0.5], color=INK, linewidth=1.6, label="median node")
    ax.set_xlim(minutes[0], minutes[-1])
    ax.legend(loc="upper right", ncols=3)


def _label_ends(ax: Axes, ends: dict[str, tuple[float, float]], colours: dict[str, str], minutes: np.ndarray) -> None:
    """Write each line's name at its end, moved apart so that no two names overlap."""
    low, high = ax.get_ylim()
    gap = (high - low) * 0.052
    order = sorted(ends, key=lambda name: ends[name][1])
    places: list[float] = []
    for name in order:
        wanted = ends[name][1]
        places.append(max(wanted, places[-1] + gap) if places else wanted)
    overshoot = (places[-1] - high) if places else 0.0
    if overshoot > 0:
        places = [place - overshoot for place in places]
    edge = float(minutes[-1])
    width = float(minutes[-1] - minutes[0]) or 1.0
    for name, place in zip(order, places, strict=True):
        ax.annotate(
            name, ends[name], xytext=(edge + 0.02 * width, place), textcoords="data", va="center", fontsize=8.5,
            color=colours[name], annotation_clip=False,
            arrowprops={"arrowstyle": "-", "color": colours[name], "lw": 0.5, "shrinkA": 0, "shrinkB": 0},
        )  # fmt: skip
    ax.set_xlim(float(minutes[0]), edge)


def cumulative(tables: Tables, ax: Axes, *, lab_seconds: float | None = None) -> Axes:
    """Draw how many evictions were requested and how many migrations ended, over lab time."""
    moves = finished(tables["migrations"])["ended_seconds"]
    requests = tables["evictions"]["time_seconds"]
    end = lab_seconds if lab_seconds is not None else _end(tables)
    for times, label, style in (
        (requests, "evictions requested", {"color": PALETTE[1], "linestyle": "--"}),
        (moves, "migrations ended", {"color": PALETTE[0], "linestyle": "-"}),
    ):
        at = np.sort(times.dropna().to_numpy(np.float64))
        x = np.concatenate([[0.0], at, [max(end, at[-1] if len(at) else 0.0)]]) / 60
        y = np.concatenate([[0], np.arange(1, len(at) + 1), [len(at)]])
        ax.step(x, y, where="post", label=f"{label}: {len(at)}", **style)  # type: ignore[arg-type]
    dress(ax, title="Evictions and migrations", x=LAB_MINUTES, y="count since the start")
    ax.set_ylim(0, max(1.0, ax.get_ylim()[1]))
    ax.set_xlim(0, end / 60 if end else 1)
    ax.yaxis.set_major_locator(MaxNLocator(integer=True))
    ax.legend(loc="upper left")
    return ax


def _end(tables: Tables) -> float:
    latest = [frame["time_seconds"].max() for frame in tables.values() if "time_seconds" in frame and len(frame)]
    return float(max(latest)) if latest else 0.0


def placement(tables: Tables, ax: Axes, *, lab_seconds: float | None = None) -> Axes:
    """Draw where each VM was: one strip per VM, coloured by node; a change of colour is a migration.

    VMs that moved come first, by their first move; of the others as many are drawn as fit.
    """
    changes = tables["placement"].sort_values(["vm", "time_seconds"], kind="stable")
    end = lab_seconds if lab_seconds is not None else _end(tables)
    hosts = {str(vm): list(zip(rows["time_seconds"], rows["node"], strict=True)) for vm, rows in changes.groupby("vm")}
    first_move = {vm: (steps[1][0] if len(steps) > 1 else np.inf) for vm, steps in hosts.items()}
    order = sorted(hosts, key=lambda vm: (first_move[vm], natural_key(hosts[vm][0][1]), natural_key(vm)))
    shown = order[:MAX_VM_ROWS]
    nodes = sorted(set(changes["node"]) - {""}, key=natural_key)
    styles = node_styles(nodes)
    for row, vm in enumerate(shown):
        steps = hosts[vm]
        for (start, node), stop in zip(steps, [*(step[0] for step in steps[1:]), end], strict=True):
            if node:
                ax.add_patch(
                    Rectangle((start / 60, row + 0.08), (stop - start) / 60, 0.84, linewidth=0,
                              facecolor=to_rgba(str(styles[node]["color"]), 0.9))
                )  # fmt: skip
            if start > 0:
                ax.plot([start / 60] * 2, [row, row + 1], color="white", linewidth=1.4, zorder=3)
    moved = sum(len(steps) > 1 for steps in hosts.values())
    hidden = f", {len(shown)} shown" if len(shown) < len(order) else ""
    dress(ax, title=f"Where each VM ran ({moved} of {len(order)} VMs moved{hidden})", x=LAB_MINUTES, grid="")
    ax.set_xlim(0, end / 60 if end else 1)
    ax.set_ylim(len(shown) if shown else 1, 0)
    if len(shown) <= 30:
        ax.set_yticks(np.arange(len(shown)) + 0.5, shown, fontsize=min(8.0, 170 / max(len(shown), 1)))
    else:
        ax.set_yticks([])
        ax.set_ylabel("VMs, those that moved first")
    ax.tick_params(axis="y", length=0)
    if len(nodes) <= MAX_LINES:
        handles = [Rectangle((0, 0), 1, 1, facecolor=str(styles[node]["color"])) for node in nodes]
        ax.legend(handles, nodes, loc="upper left", bbox_to_anchor=(1.01, 1), title="node", handlelength=1,
                  borderaxespad=0)  # fmt: skip
    return ax


def heat_map(tables: Tables, ax: Axes, *, dimension: str = "cpu_usage") -> Axes:
    """Draw one load ratio as nodes × time, light to dark; legible with hundreds of nodes."""
    wide = tables["nodes"].pivot_table(index="node", columns="time_seconds", values=dimension, aggfunc="last")
    wide = wide.loc[sorted(wide.index, key=natural_key)]
    edges = np.append(wide.columns.to_numpy(np.float64), _end(tables) + 1e-9) / 60
    if len(edges) > 2 and edges[-1] <= edges[-2]:
        edges[-1] = edges[-2] + (edges[1] - edges[0])
    mesh = ax.pcolormesh(edges, np.arange(len(wide) + 1), wide.to_numpy(np.float64), cmap="cividis_r",
                         vmin=0, vmax=1, rasterized=True)  # fmt: skip
    resource, kind = dimension.split("_")
    words = {"cpu": "CPU", "memory": "Memory"}[resource] + (" use" if kind == "usage" else " pressure")
    dress(ax, title=f"{words}, every node over time", x=LAB_MINUTES, grid="")
    if len(wide) <= 40:
        ax.set_yticks(np.arange(len(wide)) + 0.5, wide.index, fontsize=min(8.5, 300 / len(wide)))
    else:
        ax.set_ylabel(f"{len(wide)} nodes, by name")
        ax.set_yticks([])
    ax.invert_yaxis()
    ax.tick_params(axis="y", length=0)
    bar = ax.figure.colorbar(mesh, ax=ax, pad=0.015, aspect=30)
    bar.outline.set_visible(False)
    bar.set_label("share")
    return ax


def migration_arcs(tables: Tables, ax: Axes) -> Axes:
    """Draw each migration as an arc from the node it left to the node it reached, at its lab time."""
    moves = finished(tables["migrations"])
    nodes = sorted(set(tables["nodes"]["node"]), key=natural_key)
    row = {node: index for index, node in enumerate(nodes)}
    styles = node_styles(nodes)
    span = max(_end(tables) / 60, 1e-9)
    bend = np.sin(np.linspace(0, np.pi, 24)) * span * 0.02
    arcs, colours = [], []
    for source, target, start, end in zip(
        moves["source"], moves["target"], moves["started_seconds"], moves["ended_seconds"], strict=True
    ):
        if source not in row or target not in row:
            continue
        x = np.linspace(start / 60, end / 60, 24) + bend
        arcs.append(np.column_stack([x, np.linspace(row[source], row[target], 24)]))
        colours.append(str(styles[source]["color"]))
        ax.plot(x[-1], row[target], marker=">", markersize=4.5, color=colours[-1], zorder=3)
    ax.add_collection(LineCollection(arcs, colors=colours, linewidths=1.5, alpha=0.85))
    dress(ax, title=f"{len(arcs)} migrations, from node to node", x=LAB_MINUTES, grid="y")
    ax.set_yticks(range(len(nodes)), nodes, fontsize=min(9.0, 320 / max(len(nodes), 1)))
    ax.set_ylim(max(len(nodes), 1) - 0.5, -0.5)
    ax.set_xlim(0, span)
    return ax


def before_and_after(tables: Tables, ax: Axes, *, dimension: str = "cpu_usage") -> Axes:
    """Draw each node's load at the start and as the mean of the last five minutes, side by side."""
    nodes = tables["nodes"].dropna(subset=[dimension])
    names = sorted(set(nodes["node"]), key=natural_key)
    ordered = nodes.sort_values("time_seconds")
    before = ordered.groupby("node")[dimension].first().reindex(names)
    late = ordered[ordered["time_seconds"] >= ordered["time_seconds"].max() - 300]
    after = late.groupby("node")[dimension].mean().reindex(names)
    place = np.arange(len(names))
    ax.bar(place - 0.2, before, width=0.38, label="start", color="#BDBDBD")
    ax.bar(place + 0.2, after, width=0.38, label="last 5 minutes", color=PALETTE[0])
    resource, kind = dimension.split("_")
    words = {"cpu": "CPU", "memory": "Memory"}[resource] + (" use" if kind == "usage" else " pressure")
    dress(ax, title=f"{words} before and after", y="share")
    spread = " → ".join(f"{values.std(ddof=0):.3f}" for values in (before, after))
    ax.text(1, 1.02, f"standard deviation {spread}", transform=ax.transAxes, ha="right", fontsize=9, color=INK)
    if len(names) <= 40:
        ax.set_xticks(place, names, rotation=0 if len(names) <= 8 else 90)
    ax.set_ylim(0, 1.05 if kind == "usage" else None)
    ax.legend(loc="upper right", ncols=2)
    return ax
