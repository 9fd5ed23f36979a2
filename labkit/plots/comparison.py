"""Figures of an experiment: each takes what :mod:`labkit.analysis.statistics` found, and an Axes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator
from matplotlib.transforms import offset_copy
from scipy import stats

from labkit.analysis.metrics import Metric
from labkit.analysis.statistics import Blocks, Comparison, Ranking, Survival, pareto_front
from labkit.experiment import BASELINES
from labkit.model import FloatArray
from labkit.plots.style import INK, QUIET, algorithm_style, dress

_VERDICT_COLOURS: Final = {
    "better": "#0072B2", "worse": "#D55E00", "equivalent": "#4D4D4D", "undecided": "#9a9a9a", "baseline": "#222222",
}  # fmt: skip
_MAX_POINTS_NAMED: Final = 8
_VERDICT_MARKERS: Final = {"better": "<", "worse": ">", "equivalent": "D", "undecided": "o", "baseline": "|"}


def words(metric: Metric) -> str:
    """Return a metric's title with its unit."""
    return f"{metric.title} ({metric.unit})" if metric.unit else metric.title


def ranking(comparisons: Sequence[Comparison], metric: Metric, ax: Axes) -> Axes:
    """Draw the mean difference of each treatment to the baseline with its interval, best at the top."""
    order = sorted(comparisons, key=lambda each: metric.sign * each.difference.estimate, reverse=True)
    baseline = next(each.treatment for each in comparisons if each.verdict == "baseline")
    ax.axvspan(-metric.rope, metric.rope, color="#e9e9e9", linewidth=0, zorder=0)
    ax.axvline(0, color=INK, linewidth=0.8, zorder=1)
    for row, each in enumerate(order):
        colour = _VERDICT_COLOURS[each.verdict]
        ax.plot([each.difference.low, each.difference.high], [row, row], color=colour, linewidth=2.2, zorder=2)
        ax.plot(each.difference.estimate, row, marker=_VERDICT_MARKERS[each.verdict], color=colour, markersize=7,
                zorder=3, markeredgecolor="white", markeredgewidth=0.6)  # fmt: skip
    ax.set_yticks(range(len(order)), [each.treatment for each in order], fontsize=9)
    ax.set_ylim(-0.7, len(order) - 0.3)
    seen = [verdict for verdict in _VERDICT_COLOURS if any(each.verdict == verdict for each in order)]
    handles = [
        ax.plot([], [], linestyle="none", marker=_VERDICT_MARKERS[v], color=_VERDICT_COLOURS[v], label=v)[0]
        for v in seen
        if v != "baseline"
    ]
    if handles:
        below = offset_copy(ax.transAxes, fig=ax.figure, y=-42, units="points")  # type: ignore[arg-type]
        ax.legend(handles=handles, loc="upper center", bbox_to_anchor=(0.5, 0.0), bbox_transform=below,
                  ncols=len(handles), fontsize=9)  # fmt: skip
    dress(ax, title=f"{metric.title}: difference to {baseline}", x=f"{words(metric)}, {metric.better} is better",
          grid="x")  # fmt: skip
    return ax


def pareto(
    costs: Mapping[str, tuple[float, float]], ax: Axes, *, metrics: tuple[Metric, Metric], label_all: bool = False
) -> Axes:
    """Draw every treatment by two goals, the algorithms that no other beats joined by a line.

    Named beside their points are these and the ends of the scale; the others stand in a legend where they are many.

    Parameters
    ----------
    costs : mapping of str to tuple of float
        Mean of both metrics, lower is better in both.
    ax : Axes
        Where to draw.
    metrics : tuple of Metric
        Of x and y.
    label_all : bool
        Name the dominated ones too.
    """
    names = list(costs)
    points = np.array([costs[name] for name in names], dtype=np.float64).reshape(-1, 2)
    choices = np.array([name.split(" ")[0] not in BASELINES for name in names])
    front = np.zeros(len(names), dtype=bool)
    front[choices if choices.any() else ~choices] = pareto_front(points[choices if choices.any() else ~choices])
    order = np.argsort(points[front, 0], kind="stable")
    edge = points[front][order]
    ax.step(edge[:, 0], edge[:, 1], where="post", color=QUIET, linewidth=1.2, zorder=1)
    for index, name in enumerate(names):
        style = algorithm_style(name)
        ax.plot(*points[index], marker=style["marker"], color=style["color"], linestyle="none",
                markersize=9 if front[index] else 6, alpha=1.0 if front[index] else 0.55, zorder=3,
                markeredgecolor="white", markeredgewidth=0.6)  # fmt: skip
    everyone = label_all or len(names) <= _MAX_POINTS_NAMED
    named = [index for index in range(len(names)) if front[index] or not choices[index] or everyone]
    dress(ax, title="What each costs and what it buys", x=words(metrics[0]), y=words(metrics[1]), grid="both")
    ax.set_xlim(left=min(0.0, points[:, 0].min()))
    ax.set_ylim(bottom=min(0.0, points[:, 1].min()))
    _name_points(ax, points, [names[index] for index in named], named)
    rest = [index for index in np.argsort(points[:, 0], kind="stable") if index not in named]
    if rest:
        keys = [
            ax.plot([], [], linestyle="none", markersize=5.5, label=names[index], marker=style["marker"],
                    color=style["color"])[0]
            for index in rest if (style := algorithm_style(names[index]))
        ]  # fmt: skip
        ax.legend(handles=keys, loc="upper left", bbox_to_anchor=(1.01, 1), fontsize=7.5, title="beaten, left to right",
                  title_fontsize=8, handletextpad=0.2)  # fmt: skip
    return ax


def _name_points(ax: Axes, points: FloatArray, names: list[str], index: list[int]) -> None:
    """Write names beside their points; names whose points lie at one place share one line each."""
    low, high = ax.get_ylim()
    left, right = ax.get_xlim()
    inches = ax.figure.get_figheight() * ax.get_position().height  # type: ignore[union-attr]
    gap = (high - low) * 0.16 / max(inches, 0.1)
    placed: list[tuple[float, float]] = []
    for name, at in sorted(zip(names, index, strict=True), key=lambda pair: -points[pair[1], 1]):
        x, y = points[at]
        level = float(y)
        while any(abs(level - other) < 0.99 * gap and abs(x - where) < 0.3 * (right - left) for where, other in placed):
            level -= gap
        placed.append((float(x), level))
        near_edge = x > left + 0.72 * (right - left)
        ax.annotate(
            name, (x, y), xytext=(x + (-1 if near_edge else 1) * 0.015 * (right - left), level), fontsize=8,
            ha="right" if near_edge else "left", va="center", color=algorithm_style(name)["color"], zorder=4,
            bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.8, "alpha": 0.85},
        )  # fmt: skip


def critical_difference(found: Ranking, ax: Axes) -> Axes:
    """Draw mean ranks on a line; a bar joins those whose ranks lie within Nemenyi's critical difference.

    A picture, not a claim: mean ranks depend on who else takes part.
    """
    order = np.argsort(found.mean_ranks, kind="stable")
    ranks = found.mean_ranks[order]
    names = [found.treatments[index] for index in order]
    count = len(names)
    half = (count + 1) // 2
    for place, (name, value) in enumerate(zip(names, ranks, strict=True)):
        left = place < half
        level = -(place if left else count - 1 - place) - 1.6
        edge = 0.6 if left else count + 0.4
        ax.plot([value, value, edge], [0, level, level], color=str(algorithm_style(name)["color"]), linewidth=1)
        ax.text(edge - 0.08 if left else edge + 0.08, level, f"{name}  {value:.1f}", ha="right" if left else "left",
                va="center", fontsize=8.5)  # fmt: skip
    if np.isfinite(found.critical_difference):
        level = -0.45
        covered = -1
        for start in range(count):
            stop = int(np.searchsorted(ranks, ranks[start] + found.critical_difference, side="right")) - 1
            if stop > start and stop > covered:
                ax.plot([ranks[start] - 0.03, ranks[stop] + 0.03], [level, level], color=INK, linewidth=3.2,
                        solid_capstyle="butt")  # fmt: skip
                level -= 0.28
                covered = stop
        ax.plot([1, 1 + found.critical_difference], [1.3, 1.3], color=INK, linewidth=1.4, marker="|")
        ax.text(1 + found.critical_difference / 2, 1.42, f"critical difference {found.critical_difference:.2f}",
                ha="center", va="bottom", fontsize=8.5)  # fmt: skip
    ax.plot([1, count], [0, 0], color=INK, linewidth=1)
    for tick in range(1, count + 1):
        ax.plot([tick, tick], [0, 0.16], color=INK, linewidth=0.8)
        if count <= 12 or tick in (1, count) or tick % 5 == 0:
            ax.text(tick, 0.26, str(tick), ha="center", va="bottom", fontsize=8.5)
    ax.set_title(f"Mean rank over {found.n_blocks} blocks, 1 is best", loc="left", fontsize=11, fontweight="bold")
    ax.set_xlim(-0.05 * count - 0.5, 1.05 * count + 1.5)
    ax.set_ylim(-half - 2, 2.2)
    ax.set_axis_off()
    return ax


def survival(curves: Mapping[str, Survival], metric: Metric, ax: Axes, *, horizon_seconds: float) -> Axes:
    """Draw which share of runs has not had the event yet; a curve that stays above 0 has censored runs."""
    for name, curve in curves.items():
        style = algorithm_style(name)
        minutes = np.append(curve.times, horizon_seconds) / 60
        share = np.append(curve.share, curve.share[-1])
        ax.step(minutes, share, where="post", color=style["color"], linestyle=style["linestyle"],
                label=f"{name}: {curve.events} of {curve.runs}")  # fmt: skip
        if len(curves) <= 4:
            ax.fill_between(minutes, np.append(curve.low, curve.low[-1]), np.append(curve.high, curve.high[-1]),
                            step="post", color=style["color"], alpha=0.12, linewidth=0)  # fmt: skip
    dress(ax, title=f"{metric.title}: runs still waiting", x="lab time (minutes)", y="share of runs")
    ax.set_ylim(0, 1.03)
    ax.set_xlim(0, horizon_seconds / 60)
    ax.legend(loc="upper left", bbox_to_anchor=(1.01, 1), fontsize=8, title="event in")
    return ax


def ridges(design: Blocks, ax: Axes) -> Axes:
    """Draw how each treatment's runs are spread: a density where there are many, and a mark for each run."""
    order = np.argsort(design.metric.sign * design.values.mean(axis=0))[::-1]
    low, high = float(design.values.min()), float(design.values.max())
    room = (high - low) * 0.05 or 1.0
    grid = np.linspace(low - room, high + room, 240)
    for row, index in enumerate(order):
        values = design.values[:, index]
        style = algorithm_style(design.treatments[index])
        if len(values) >= 8 and np.ptp(values) > 1e-12:
            density = stats.gaussian_kde(values)(grid)
            ax.fill_between(grid, row, row + 0.8 * density / density.max(), color=style["color"], alpha=0.3,
                            linewidth=0, zorder=2)  # fmt: skip
        ax.plot(values, np.full(len(values), row), "|", color=style["color"], markersize=7, alpha=0.7, zorder=3)
        ax.plot(values.mean(), row, marker=style["marker"], color=style["color"], markersize=6, zorder=4,
                markeredgecolor="white", markeredgewidth=0.6)  # fmt: skip
    ax.set_yticks(range(len(order)), [design.treatments[index] for index in order], fontsize=9)
    ax.set_ylim(-0.5, len(order))
    dress(ax, title=f"{design.metric.title}: every run", x=words(design.metric), grid="x")
    return ax


def overlay(series: Mapping[str, tuple[FloatArray, FloatArray]], ax: Axes, *, title: str, y: str) -> Axes:
    """Draw one line per treatment over lab time, such as the spread of load or the migrations so far.

    Parameters
    ----------
    series : mapping of str to tuple of FloatArray
        Lab seconds and values, both of shape (n_times,).
    ax : Axes
        Where to draw.
    title, y : str
        Words.
    """
    for name, (times, values) in series.items():
        style = algorithm_style(name)
        ax.plot(times / 60, values, color=style["color"], linestyle=style["linestyle"], label=name)
    dress(ax, title=title, x="lab time (minutes)", y=y)
    ax.set_ylim(bottom=0)
    ax.set_xlim(left=0)
    if all(float(values[-1]).is_integer() for _, values in series.values() if len(values)):
        ax.yaxis.set_major_locator(MaxNLocator(integer=True))
    ax.legend(loc="upper left", bbox_to_anchor=(1.01, 1), fontsize=8.5)
    return ax
