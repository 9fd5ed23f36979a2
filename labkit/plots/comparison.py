"""Figures of an experiment: each takes what :mod:`labkit.analysis.statistics` found, and an Axes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator
from scipy import stats

from labkit.analysis.answer import interval
from labkit.analysis.metrics import Metric
from labkit.analysis.statistics import Blocks, Comparison, Ranking, Survival, pareto_front
from labkit.experiment import BASELINES
from labkit.model import BoolArray, FloatArray
from labkit.plots.labels import label_ends, label_points, label_rows, legend_below
from labkit.plots.style import INK, QUIET, algorithm_style, dress, ink, lab_time

_VERDICT_COLOURS: Final = {
    "better": "#0072B2", "worse": "#D55E00", "equivalent": "#4D4D4D", "undecided": "#9a9a9a", "baseline": "#222222",
}  # fmt: skip
_MAX_POINTS_NAMED: Final = 8
_BAND: Final = 0.1
"""A band is so much of the whole height; from so many places of points in it on it is a crowd."""
_CROWD: Final = 5
_INSET: Final = (0.36, 0.5, 0.62)
"""Left edge of an inset and the range of its lower edge, as shares of its Axes."""
_LONG: Final = 26
"""Letters; longer names beside an inset take two lines."""
_VERDICT_MARKERS: Final = {"better": "<", "worse": ">", "equivalent": "D", "undecided": "o", "baseline": "|"}


def words(metric: Metric) -> str:
    """Return a metric's title with its unit."""
    return f"{metric.title} ({metric.unit})" if metric.unit else metric.title


def ranking(comparisons: Sequence[Comparison], metric: Metric, ax: Axes) -> Axes:
    """Draw the mean difference of each treatment to the baseline with its interval, in numbers too, best at the top."""
    order = sorted(comparisons, key=lambda each: metric.sign * each.difference.estimate, reverse=True)
    ax.axvspan(-metric.rope, metric.rope, color="#e9e9e9", linewidth=0, zorder=0)
    ax.axvline(0, color=INK, linewidth=0.8, zorder=1)
    beside = ax.get_yaxis_transform()
    for row, each in enumerate(order):
        colour, marker = _VERDICT_COLOURS[each.verdict], _VERDICT_MARKERS[each.verdict]
        low, high = each.difference.low, each.difference.high
        ax.plot([low, high], [row, row], color=colour, linewidth=2.0, marker="|", markersize=8, zorder=2)
        ax.plot(each.difference.estimate, row, marker=marker, color=colour, markersize=8, zorder=3,
                markeredgecolor=colour if each.verdict == "baseline" else "white", markeredgewidth=0.6)  # fmt: skip
        told = "baseline" if each.verdict == "baseline" else interval(each.difference)
        ax.text(1.02, row, told, transform=beside, va="center", fontsize=8, color=ink(colour))
    label_rows(ax, [each.treatment for each in order])
    ax.set_ylim(-0.7, len(order) - 0.3)
    handles = [
        ax.plot([], [], linestyle="none", marker=_VERDICT_MARKERS[verdict], color=colour, label=verdict)[0]
        for verdict, colour in _VERDICT_COLOURS.items()
        if verdict != "baseline" and any(each.verdict == verdict for each in order)
    ]
    if handles:
        legend_below(ax, handles, fontsize=9)
    dress(ax, title=f"{metric.title}: difference to the baseline", x=f"{words(metric)}, {metric.better} is better",
          grid="x")  # fmt: skip
    return ax


def pareto(costs: Mapping[str, tuple[float, float]], ax: Axes, *, metrics: tuple[Metric, Metric]) -> Axes:
    """Draw every treatment by two goals, all of them named, the algorithms that no other beats joined by a line.

    Where many crowd at one height an inset shows that band enlarged, and names them there.

    Parameters
    ----------
    costs : mapping of str to tuple of float
        Mean of both metrics, lower is better in both.
    ax : Axes
        Where to draw.
    metrics : tuple of Metric
        Of x and y.
    """
    names = list(costs)
    points = np.array([costs[name] for name in names], dtype=np.float64).reshape(-1, 2)
    choices = np.array([name.split(" ")[0] not in BASELINES for name in names])
    front = np.zeros(len(names), dtype=bool)
    front[choices if choices.any() else ~choices] = pareto_front(points[choices if choices.any() else ~choices])
    dress(ax, title="What each costs and what it buys", x=words(metrics[0]), y=words(metrics[1]), grid="both")
    for axis, values in ((ax.set_xlim, points[:, 0]), (ax.set_ylim, points[:, 1])):
        low, high = min(0.0, values.min()), max(0.0, values.max())
        axis(low - 0.02 * (high - low), high + 0.06 * (high - low) or 1.0)
    crowd = _crowd(points)
    insets = [_enlarged(ax, points, crowd)] if crowd.any() else []
    for panel in (ax, *insets):
        _draw_points(panel, names, points, front)
    _name_points(ax, names, points, front, ~crowd, insets)
    for inset in insets:
        _name_points(inset, names, points, front, crowd)
    return ax


def _crowd(points: FloatArray) -> BoolArray:
    """Return which points lie in the narrow band that holds the most, where these are too many to be named in it."""
    y = points[:, 1]
    width = _BAND * float(np.ptp(y))
    bands = [(y >= bottom) & (y <= bottom + width) for bottom in y]
    fullest = max(bands, key=lambda band: len(np.unique(points[band], axis=0)))
    many = len(y) > _MAX_POINTS_NAMED and len(np.unique(points[fullest], axis=0)) >= _CROWD
    return fullest if many else np.zeros(len(y), dtype=bool)


def _enlarged(ax: Axes, points: FloatArray, crowd: BoolArray) -> Axes:
    """Return an inset that shows the band of the crowd, above and right of all other points."""
    (left, right), (bottom, top) = ax.get_xlim(), ax.get_ylim()
    x0, lowest, highest = _INSET
    under = points[points[:, 0] > left + (x0 - 0.08) * (right - left), 1].max(initial=bottom)
    y0 = float(np.clip((under - bottom) / (top - bottom) + 0.1, lowest, highest))
    ax.set_ylim(bottom, max(top, bottom + (under - bottom) / (y0 - 0.1)))
    behind_ticks = Rectangle((x0 - 0.08, y0 - 0.07), 1.0, 1.0, transform=ax.transAxes, zorder=2, facecolor="white",
                             linewidth=0)  # fmt: skip
    ax.add_patch(behind_ticks)
    inset = ax.inset_axes((x0, y0, 0.99 - x0, 0.98 - y0))
    dress(inset, grid="both")
    inset.tick_params(labelsize=7.5)
    x, y = points[crowd].T
    inset.set_xlim(max(left, x.min() - 0.08 * np.ptp(x) - 1e-9), min(right, x.max() + 0.1 * np.ptp(x) + 1e-9))
    room = max(0.25 * float(np.ptp(y)), 0.01 * (top - bottom))
    inset.set_ylim(y.min() - room, y.max() + room)
    ax.indicate_inset_zoom(inset, edgecolor=QUIET, alpha=0.8)
    return inset


def _draw_points(ax: Axes, names: Sequence[str], points: FloatArray, front: BoolArray) -> None:
    """Draw the points, those of the front filled and joined."""
    edge = points[front][np.argsort(points[front, 0], kind="stable")]
    limits = ax.get_xlim(), ax.get_ylim()
    ax.step(edge[:, 0], edge[:, 1], where="post", color=QUIET, linewidth=1.2, zorder=1)
    for name, point, best in zip(names, points, front, strict=True):
        style = algorithm_style(name)
        ax.plot(*point, marker=style["marker"], color=style["color"], linestyle="none", zorder=4 if best else 3,
                markersize=9 if best else 6.5, markerfacecolor=style["color"] if best else "white",
                markeredgecolor="white" if best else style["color"], markeredgewidth=0.6 if best else 1.3)  # fmt: skip
    ax.set(xlim=limits[0], ylim=limits[1])


def _name_points(
    ax: Axes, names: Sequence[str], points: FloatArray, front: BoolArray, named: BoolArray, insets: Sequence[Axes] = ()
) -> None:
    """Write names beside points; names of one place share a text, those of the front find their places first."""
    together: dict[tuple[float, float], list[int]] = {}
    for index in sorted(np.flatnonzero(named).tolist(), key=lambda index: (not front[index], points[index, 1])):
        together.setdefault((points[index, 0], points[index, 1]), []).append(index)
    groups = list(together.values())
    label_points(
        ax,
        np.array([points[group[0]] for group in groups]).reshape(-1, 2),
        ["\n".join(_wrapped(names[index]) if insets else names[index] for index in group) for group in groups],
        [str(algorithm_style(names[group[0]])["color"]) for group in groups],
        size=7.5,
        avoid=points,
        blocked=insets,
    )


def _wrapped(name: str) -> str:
    """Break a long name in two, before its policy or at the underscore nearest to its middle."""
    if " @ " in name:
        return name.replace(" @ ", "\n@ ")
    places = [place for place, letter in enumerate(name, start=1) if letter == "_"]
    if len(name) <= _LONG or not places:
        return name
    middle = min(places, key=lambda place: abs(2 * place - len(name)))
    return f"{name[:middle]}\n{name[middle:]}"


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
    dress(ax, title=f"{metric.title}: runs still waiting", y="share of runs")
    lab_time(ax, horizon_seconds)
    ax.set_ylim(0, 1.03)
    ends, colours = {}, {}
    for name, curve in curves.items():
        style = algorithm_style(name)
        minutes = np.append(curve.times, horizon_seconds) / 60
        share = np.append(curve.share, curve.share[-1])
        ax.step(minutes, share, where="post", color=style["color"], linestyle=style["linestyle"])
        if len(curves) <= 4:
            ax.fill_between(minutes, np.append(curve.low, curve.low[-1]), np.append(curve.high, curve.high[-1]),
                            step="post", color=style["color"], alpha=0.12, linewidth=0)  # fmt: skip
        told = f"{name}: {curve.events} of {curve.runs}"
        ends[told], colours[told] = (horizon_seconds / 60, float(share[-1])), style["color"]
    label_ends(ax, ends, colours)
    return ax


def ridges(design: Blocks, ax: Axes) -> Axes:
    """Draw how each treatment's runs are spread: a density where there are many, and a mark for each run.

    The density reaches from the least to the largest value that was seen and no further. Runs that ended before the
    event are arrows at their length: the value is not known, only that it is larger.
    """
    order = np.argsort(design.metric.sign * design.values.mean(axis=0))[::-1]
    for row, index in enumerate(order):
        style = algorithm_style(design.treatments[index])
        censored = design.censored[:, index]
        values = design.values[~censored, index]
        if len(values) >= 8 and np.ptp(values) > 1e-12:
            grid = np.linspace(values.min(), values.max(), 240)
            density = stats.gaussian_kde(values)(grid)
            ax.fill_between(grid, row, row + 0.8 * density / density.max(), color=style["color"], alpha=0.3,
                            linewidth=0, zorder=2)  # fmt: skip
        for seen, mark in ((values, "|"), (design.values[censored, index], ">")):
            ax.plot(seen, np.full(len(seen), row), mark, color=style["color"], markersize=7 if mark == "|" else 4,
                    alpha=0.7, zorder=3)  # fmt: skip
        ax.plot(design.values[:, index].mean(), row, marker=style["marker"], color=style["color"], markersize=6.5,
                zorder=4, markeredgecolor="white", markeredgewidth=0.6)  # fmt: skip
    label_rows(ax, [design.treatments[index] for index in order])
    ax.set_ylim(-0.5, len(order))
    dress(ax, title=f"{design.metric.title}: every run", x=words(design.metric), grid="x")
    if design.values.min() >= 0:
        ax.set_xlim(left=max(0.0, ax.get_xlim()[0]) - 0.01 * float(np.ptp(ax.get_xlim())))
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
    dress(ax, title=title, y=y)
    ends, colours = {}, {}
    for name, (times, values) in series.items():
        style = algorithm_style(name)
        ax.plot(times / 60, values, color=style["color"], linestyle=style["linestyle"])
        known = np.flatnonzero(np.isfinite(values))
        if len(known):
            ends[name], colours[name] = (float(times[known[-1]]) / 60, float(values[known[-1]])), style["color"]
    lab_time(ax, max((float(times[-1]) for times, _ in series.values()), default=0.0))
    highest = max((float(np.nanmax(values)) for _, values in series.values() if np.isfinite(values).any()), default=0.0)
    ax.set_ylim(0, 1.05 * highest or 1.0)
    if all(float(values[-1]).is_integer() for _, values in series.values() if len(values)):
        ax.yaxis.set_major_locator(MaxNLocator(integer=True))
    label_ends(ax, ends, colours)
    return ax
