"""Colours and lines: the same for an algorithm or a node in every figure.

Colours are those of Okabe and Ito, which colour-blind readers tell apart; where several lines share an Axes the
line style and marker differ too, so that the figure survives a greyscale printer.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from labkit import scoring
from labkit.experiment import BASELINES

INK: Final = "#222222"
QUIET: Final = "#9a9a9a"
PALETTE: Final = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#4D4D4D", "#A59C00")
"""Okabe and Ito's colours without black; yellow is darkened so that a thin line can be seen."""
LINES: Final = ("-", "--", "-.", ":")
MARKERS: Final = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "h")

_FAMILY_COLOURS: Final = {
    "baseline": "#4D4D4D", "ideal point": "#0072B2", "average": "#D55E00", "deviation": "#009E73",
    "relative": "#CC79A7", "Pareto": "#E69F00", "production": "#56B4E9", "other": "#A59C00",
}  # fmt: skip


def families() -> dict[str, tuple[str, ...]]:
    """Return the algorithms of each family in the catalogue's order, the three baselines first."""
    found: dict[str, tuple[str, ...]] = {"baseline": BASELINES}
    for algorithm in scoring.BUILT_IN:
        found[algorithm.family] = (*found.get(algorithm.family, ()), algorithm.name)
    return found


def algorithm_style(label: str) -> dict[str, Any]:
    """Return colour (by family), line style and marker (within it) of an algorithm.

    ``name (again)`` and ``name @ policy`` keep the colour of ``name`` and get another marker and line.
    """
    name, _, variant = label.partition(" ")
    known = families()
    family = next((family for family, names in known.items() if name in names), "other")
    members = known.get(family, (name,))
    place = (members.index(name) if name in members else 0) + (1 + sum(map(ord, variant)) % 5 if variant else 0)
    return {
        "color": _FAMILY_COLOURS.get(family, _FAMILY_COLOURS["other"]),
        "linestyle": LINES[place % len(LINES)],
        "marker": MARKERS[place % len(MARKERS)],
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
    interactive = mpl.is_interactive()
    try:
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
            try:
                yield
            finally:
                interactive = mpl.is_interactive()
    finally:
        # A notebook's backend turns this on at the first figure, which is inside; without it no later one is shown.
        mpl.interactive(interactive)


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


def save(figure: Figure, out: str | Path, name: str) -> None:
    """Save a figure as ``figures/<name>.png`` in a folder; an empty ``out`` means nowhere."""
    if not out:
        return
    folder = Path(out) / "figures"
    folder.mkdir(parents=True, exist_ok=True)
    figure.savefig(folder / f"{name}.png")
