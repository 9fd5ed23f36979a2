"""Colours and lines: the same for an algorithm or a node in every figure.

Colours are those of Okabe and Ito, which colour-blind readers tell apart. No two algorithms share both line style
and marker, whatever their colours, so a figure survives a greyscale printer.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from itertools import takewhile
from pathlib import Path
from typing import Any, Final

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from labkit import scoring
from labkit.experiment import BASELINES

INK: Final = "#222222"
QUIET: Final = "#9a9a9a"
PALETTE: Final = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#4D4D4D", "#A59C00")
"""Okabe and Ito's colours without black; yellow is darkened so that a thin line can be seen."""
LINES: Final = ("-", "--", "-.", ":")
MARKERS: Final = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "h", "p")
"""Eleven, which shares no factor with the four lines: 44 pairs of both."""

_FAMILY_COLOURS: Final = {
    "baseline": "#4D4D4D", "ideal point": "#0072B2", "average": "#D55E00", "deviation": "#009E73",
    "relative": "#CC79A7", "Pareto": "#E69F00", "production": "#56B4E9", "other": "#A59C00",
}  # fmt: skip


@cache
def _catalogue() -> dict[str, tuple[int, str]]:
    """Return each known algorithm's place among all, and its family; the three baselines come first."""
    known = [("baseline", name) for name in BASELINES]
    known += sorted(((each.family, each.name) for each in scoring.BUILT_IN), key=lambda each: each[0])
    return {name: (place, family) for place, (family, name) in enumerate(known)}


def algorithm_style(label: str) -> dict[str, Any]:
    """Return colour (by family), line style and marker of an algorithm.

    ``name (again)`` and ``name @ policy`` keep the colour of ``name`` and get another marker and line; so do algorithms
    of the reader's own, by their names.
    """
    name, _, variant = label.partition(" ")
    place, family = _catalogue().get(name, (zlib.crc32(name.encode()), "other"))
    if variant:
        key = zlib.crc32(variant.encode())
        place += 1 + key % (len(MARKERS) - 1) + len(MARKERS) * (key // 16 % len(LINES))
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


def short_names(names: Sequence[str]) -> dict[str, str]:
    """Return what tells names apart: ``3`` for ``kwok-node-3`` among its like."""
    alike = takewhile(lambda chars: len(set(chars)) == 1, zip(*names, strict=False))
    common = len("".join(chars[0] for chars in alike).rstrip("0123456789"))
    return {name: name[common:] or name for name in names}


def in_words(dimension: str) -> str:
    """Say a load ratio in words: ``CPU use`` for ``cpu_usage``."""
    resource, kind = dimension.split("_")
    return {"cpu": "CPU", "memory": "Memory"}[resource] + (" use" if kind == "usage" else " pressure")


def ink(colour: str) -> tuple[float, float, float]:
    """Return a colour dark enough for text on white."""
    red, green, blue = to_rgb(colour)
    share = min(1.0, 0.36 / (0.3 * red + 0.59 * green + 0.11 * blue + 1e-9))
    return (red * share, green * share, blue * share)


def readable_on(colour: str) -> str:
    """Return black or white, whichever can be read on a colour."""
    red, green, blue = to_rgb(colour)
    return INK if 0.3 * red + 0.59 * green + 0.11 * blue > 0.5 else "white"


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


def lab_time(ax: Axes, end_seconds: float) -> None:
    """Let the x axis be lab time from the start to an end, with ticks at whole minutes."""
    ax.set_xlim(0, end_seconds / 60 if end_seconds > 0 else 1)
    ax.set_xlabel("lab time (minutes)")
    if end_seconds >= 300:
        ax.xaxis.set_major_locator(MaxNLocator(nbins=8, steps=[1, 2, 5, 10], integer=True))


def save(figure: Figure, out: str | Path, name: str) -> None:
    """Save a figure as ``figures/<name>.png`` in a folder; an empty ``out`` means nowhere."""
    if not out:
        return
    folder = Path(out) / "figures"
    folder.mkdir(parents=True, exist_ok=True)
    figure.savefig(folder / f"{name}.png")
