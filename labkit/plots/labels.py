"""Names beside lines, rows and points, so placed that each can be read: better than a legend to look up."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.legend import Legend
from matplotlib.patheffects import withStroke
from matplotlib.transforms import Bbox, offset_copy
from scipy.optimize import isotonic_regression

from labkit.model import FloatArray
from labkit.plots.style import ink

SMALLEST: Final = 6.0
"""Points; smaller text is left out rather than drawn."""
_DIRECTIONS: Final = ((1, 0), (-1, 0), (1, 1), (1, -1), (-1, 1), (-1, -1), (0, 1), (0, -1))
_ALIGNMENTS: Final[Mapping[int, Literal["left", "center", "right"]]] = {1: "left", 0: "center", -1: "right"}
_DISTANCES: Final = (6.0, 14.0, 24.0, 36.0, 50.0, 66.0)
"""Points from a marker to its name, nearest first."""


def height(ax: Axes) -> float:
    """Return how high an Axes is, in points; before the layout is made this is a guess."""
    return float(ax.bbox.height * 72 / ax.figure.dpi)


def spread(wanted: Sequence[float], gap: float, low: float, high: float) -> FloatArray:
    """Move increasing values as little as possible until they are ``gap`` apart, within bounds if they fit."""
    steps = gap * np.arange(len(wanted))
    levels = isotonic_regression(np.asarray(wanted, dtype=np.float64) - steps).x
    return np.asarray(np.clip(levels, low, max(low, high - gap * (len(wanted) - 1))) + steps)


def label_ends(
    ax: Axes, ends: Mapping[str, tuple[float, float]], colours: Mapping[str, str], *, size: float = 8.5
) -> None:
    """Write each line's name at its end, right of the Axes; its limits must be set before."""
    low, high = ax.get_ylim()
    left, right = ax.get_xlim()
    rank = {name: index for index, name in enumerate(ends)}
    order = sorted(ends, key=lambda name: (ends[name][1], -rank[name]))  # of equal ones the first is at the top
    gap = 1.3 * size / height(ax) * (high - low)
    places = spread([ends[name][1] for name in order], gap, low, high)
    for name, place in zip(order, places, strict=True):
        ax.annotate(
            name, ends[name], xytext=(right + 0.025 * (right - left), place), textcoords="data", va="center",
            fontsize=size, color=ink(colours[name]), annotation_clip=False,
            arrowprops={"arrowstyle": "-", "color": colours[name], "lw": 0.6, "shrinkA": 1, "shrinkB": 0,
                        "relpos": (0, 0.5)},
        )  # fmt: skip


def label_rows(ax: Axes, names: Sequence[str], *, at: float = 0.0, largest: float = 9.0) -> None:
    """Name the rows 0, 1, … of an Axes, ``at`` above each; of too many rows only every so many."""
    room = height(ax) / max(len(names), 1)
    step = 1 if room >= 1.15 * SMALLEST else int(np.ceil(1.15 * SMALLEST / room))
    rows = range(0, len(names), step)
    ax.set_yticks([row + at for row in rows], [names[row] for row in rows])
    ax.tick_params(axis="y", length=0, labelsize=float(np.clip(room / 1.15, SMALLEST, largest)))


def legend_below(ax: Axes, handles: Sequence[Any], **options: Any) -> Legend:
    """Put a legend under the label of the x axis, where it hides nothing."""
    below = offset_copy(ax.transAxes, fig=ax.figure, y=-40, units="points")  # type: ignore[arg-type]
    return ax.legend(
        handles=handles, loc="upper center", bbox_to_anchor=(0.5, 0.0), bbox_transform=below, borderaxespad=0,
        ncols=len(handles), **options,
    )  # fmt: skip


def label_points(
    ax: Axes, points: FloatArray, names: Sequence[str], colours: Sequence[str], *, size: float = 8.0,
    avoid: FloatArray | None = None, blocked: Sequence[Axes] = (),
) -> None:  # fmt: skip
    """Write each name near its point, on no other name and on as few points as possible.

    Parameters
    ----------
    ax : Axes
        With its limits set.
    points : FloatArray
        Shape (n, 2), in data coordinates; the first names get the best places.
    names, colours : sequence of str
        Of each point; a name may have several lines.
    size : float
        Of the text, in points.
    avoid : FloatArray, optional
        Shape (m, 2): further points that should not be covered.
    blocked : sequence of Axes
        Insets, where nothing may be written.
    """
    ax.figure.draw_without_rendering()  # type: ignore[union-attr]  # only then it is known where the Axes lies
    scale = ax.figure.dpi / 72
    at = ax.transData.transform(points)
    marks = at if avoid is None or not len(avoid) else np.vstack([at, ax.transData.transform(avoid)])
    frame = ax.get_window_extent()
    taken = [box for inset in blocked if (box := inset.get_tightbbox()) is not None]
    for point, name, colour in zip(at, names, colours, strict=True):
        text = ax.annotate(
            name, tuple(ax.transData.inverted().transform(point)), textcoords="offset points", xytext=(0, 0),
            fontsize=size, color=ink(colour), ha="center", va="center", linespacing=1.05, zorder=5,
            annotation_clip=False, path_effects=[withStroke(linewidth=2, foreground="white")],
        )  # fmt: skip
        drawn = text.get_window_extent()
        tried = [
            (step, side, _beside(point, (drawn.width, drawn.height), side, step * scale))
            for step in _DISTANCES
            for side in _DIRECTIONS
        ]
        step, side, box = min(tried, key=lambda each: _cost(each[2], taken, marks, frame) + 0.4 * each[0] * scale)
        # Held at the edge that is next to its point: in another resolution a text has another width.
        alignment = _ALIGNMENTS[side[0]]
        text.set_horizontalalignment(alignment)
        text.set_multialignment(alignment)
        edge = {"left": box.x0, "center": (box.x0 + box.x1) / 2, "right": box.x1}[alignment]
        text.set_position(((edge - point[0]) / scale, ((box.y0 + box.y1) / 2 - point[1]) / scale))
        if step > _DISTANCES[0]:
            near = np.clip(point, [box.x0, box.y0], [box.x1, box.y1])
            ax.plot(*ax.transData.inverted().transform([point, near]).T, color=colour, linewidth=0.6, zorder=2,
                    scalex=False, scaley=False)  # fmt: skip
        taken.append(box)


def _beside(point: FloatArray, extent: tuple[float, float], side: tuple[int, int], away: float) -> Bbox:
    """Return the box of a text of that extent, on that side of a point."""
    width, tall = extent
    x = point[0] + side[0] * (away + width / 2)
    y = point[1] + side[1] * (away + tall / 2)
    return Bbox.from_bounds(x - width / 2, y - tall / 2, width, tall)


def _cost(box: Bbox, taken: Sequence[Bbox], marks: FloatArray, frame: Bbox) -> float:
    """Return how bad a place for a name is: on another name or outside is worst, on a marker bad."""
    overlaps = sum(_shared(box, other) for other in taken)
    outside = box.width * box.height - _shared(box, frame)
    inside = (marks >= [box.x0 - 2, box.y0 - 2]) & (marks <= [box.x1 + 2, box.y1 + 2])
    return 10.0 * (overlaps + outside) + 400.0 * float(inside.all(axis=1).sum())


def _shared(one: Bbox, other: Bbox) -> float:
    """Return the area that two boxes share."""
    common = Bbox.intersection(one, other)
    return 0.0 if common is None else common.width * common.height
