"""Colours and lines: the same for an algorithm or a node in every figure.

Colours are those of Okabe and Ito, which colour-blind readers tell apart; where several lines share an Axes the
line style and marker differ too, so that the figure survives a greyscale printer.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final

import matplotlib as mpl
from matplotlib.axes import Axes

INK: Final = "#222222"
QUIET: Final = "#9a9a9a"
PALETTE: Final = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#4D4D4D", "#A59C00")
"""Okabe and Ito's colours without black; yellow is darkened so that a thin line can be seen."""
LINES: Final = ("-", "--", "-.", ":")
MARKERS: Final = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "h")

BASELINES: Final = ("none", "random", "oracle")
_FAMILIES: Final[dict[str, tuple[str, ...]]] = {
    "baseline": BASELINES,
    "production": ("production",),
    "ideal point": (
        "ideal_point_positive_distance", "linear_amplified_ippd_k1", "linear_amplified_ippd_k3",
        "linear_amplified_ippd_k5",
    ),
    "average": ("weighted_average", "max_metric", "euclidean_distance", "pressure_focused"),
    "deviation": (
        "weighted_rms_positive_deviation", "weighted_mean_square_positive_deviation",
        "linear_weighted_positive_deviation",
    ),
    "pareto": ("pareto_front",),
    "centroid": ("centroid_distance", "directional_centroid_distance"),
    "variance": ("variance_minimization", "directional_variance_minimization"),
    "focus": ("critical_dimension_focus", "cpu_focused", "memory_focused"),
}  # fmt: skip
_FAMILY_COLOURS: Final = dict(
    zip(_FAMILIES, ("#4D4D4D", "#000000", "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#A59C00"),
        strict=True)
)  # fmt: skip


def family_of(algorithm: str) -> str:
    """Return the family that an algorithm is drawn with; an unknown one belongs to ``focus``'s neighbours."""
    return next((family for family, names in _FAMILIES.items() if algorithm in names), "other")


def algorithm_style(algorithm: str) -> dict[str, Any]:
    """Return colour (by family), line style and marker (within it) of an algorithm.

    ``name (again)`` and ``name @ policy`` look like ``name`` with another marker.
    """
    base, _, variant = algorithm.partition(" ")
    family = family_of(base)
    names = _FAMILIES.get(family, (base,))
    place = names.index(base) if base in names else 0
    shift = sum(map(ord, variant)) % (len(MARKERS) - 4) + 4 if variant else 0
    return {
        "color": _FAMILY_COLOURS.get(family, INK),
        "linestyle": LINES[place % len(LINES)],
        "marker": MARKERS[(place + shift) % len(MARKERS)],
    }


def node_styles(nodes: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Return colour and line style of each node, by its place among all nodes sorted by natural name."""
    ordered = sorted(set(nodes), key=natural_key)
    return {
        node: {
            "color": PALETTE[index % len(PALETTE)],
            "linestyle": LINES[(index // len(PALETTE) + index) % len(LINES)],
        }
        for index, node in enumerate(ordered)
    }


def natural_key(name: str) -> list[tuple[int, int | str]]:
    """Sort ``node-10`` after ``node-2``."""
    parts: list[tuple[int, int | str]] = []
    digits = ""
    for char in name + "\0":
        if char.isdigit():
            digits += char
            continue
        if digits:
            parts.append((0, int(digits)))
            digits = ""
        parts.append((1, char))
    return parts


@contextmanager
def lab_style() -> Iterator[None]:
    """Apply the lab's look to what is drawn inside: quiet grid, no frame, text that can be read at notebook width."""
    with mpl.rc_context(
        {
            "font.size": 10,
            "axes.titlesize": 11,
            "axes.titleweight": "bold",
            "axes.titlelocation": "left",
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.edgecolor": "#666666",
            "axes.labelcolor": INK,
            "axes.grid": True,
            "axes.axisbelow": True,
            "grid.color": "#e3e3e3",
            "grid.linewidth": 0.7,
            "lines.linewidth": 1.8,
            "legend.frameon": False,
            "legend.fontsize": 9,
            "figure.dpi": 100,
            "savefig.dpi": 140,
            "figure.facecolor": "white",
        }
    ):
        yield


def dress(ax: Axes, *, title: str = "", x: str = "", y: str = "", grid: str = "y") -> None:
    """Give an Axes its words and the lab's frame."""
    ax.set_title(title, loc="left", fontsize=11, fontweight="bold", color=INK)
    ax.set_xlabel(x)
    ax.set_ylabel(y)
    ax.grid(False)
    if grid:
        ax.grid(True, axis=grid, color="#e3e3e3", linewidth=0.7)  # type: ignore[arg-type]
    ax.set_axisbelow(True)
    for side in ("top", "right"):
        ax.spines[side].set_visible(False)
