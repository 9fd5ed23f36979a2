"""Figures against baselines: a figure that changes must change on purpose.

Compared are coarse pictures (greyscale, a quarter of the size), so that another version of the font renderer does not
fail the test but a missing line, label or bar does. ``LABKIT_UPDATE_BASELINES=1 pytest tests/test_plots.py`` writes the
baselines anew; look at them before they are committed.
"""

from __future__ import annotations

import io
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pytest
from example_run import LAB_SECONDS, example_tables
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from PIL import Image
from test_statistics import design_of

from labkit import plots, scoring
from labkit.analysis import metrics, statistics
from labkit.plots import style

BASELINES = Path(__file__).parent / "baselines"
SHRINK = 4
MAX_MEAN_DIFFERENCE = 1.5
"""Mean absolute difference of pixels, of 255."""

TABLES = example_tables(back_again=True)
MANY = example_tables(nodes=40, vms=400, moves=30)
RNG = np.random.default_rng(7)
DESIGN = design_of({
    "none": list(RNG.uniform(800, 1000, 12)), "weighted_average": list(RNG.uniform(400, 900, 12)),
    "linear_amplified_ippd_k3": list(RNG.uniform(200, 500, 12)), "euclidean_distance": list(RNG.uniform(300, 700, 12)),
    "oracle": list(RNG.uniform(50, 150, 12)),
})  # fmt: skip
HOT, MIGRATIONS, SETTLE = (metrics.get(n) for n in ("hotspot_seconds", "migrations", "time_to_settle_seconds"))
COSTS = {name: (float(2 * index), float(DESIGN.column(name).mean())) for index, name in enumerate(DESIGN.treatments)}
CURVES = {
    name: statistics.survival(np.minimum(DESIGN.column(name), 600.0), DESIGN.column(name) > 600.0, ["s"] * 12)
    for name in ("none", "linear_amplified_ippd_k3", "oracle")
}
TIMES = np.linspace(0.0, 1200.0, 50)
LIVE = {name: DESIGN.column(name)[:5] for name in DESIGN.treatments}
TWIN = {name: DESIGN.column(name)[5:] for name in DESIGN.treatments}

FIGURES: dict[str, Callable[[Axes], Axes]] = {
    "scores": partial(plots.scores, TABLES),
    "utilisation": partial(plots.utilisation, TABLES),
    "utilisation-many-nodes": partial(plots.utilisation, MANY),
    "pressure": partial(plots.utilisation, TABLES, dimension="cpu_pressure"),
    "cumulative": partial(plots.cumulative, TABLES, lab_seconds=LAB_SECONDS),
    "placement": partial(plots.placement, TABLES, lab_seconds=LAB_SECONDS),
    "heat-map": partial(plots.heat_map, TABLES),
    "migration-arcs": partial(plots.migration_arcs, TABLES),
    "before-and-after": partial(plots.before_and_after, TABLES),
    "ranking": lambda ax: plots.ranking(statistics.compare(DESIGN, "none"), HOT, ax),
    "pareto": partial(plots.pareto, COSTS, metrics=(MIGRATIONS, HOT)),
    "critical-difference": partial(plots.critical_difference, statistics.rank(DESIGN)),
    "survival": lambda ax: plots.survival(CURVES, SETTLE, ax, horizon_seconds=600.0),
    "ridges": partial(plots.ridges, DESIGN),
    "agreement": lambda ax: plots.agreement(LIVE, {"twin": TWIN, "kind": LIVE}, HOT, ax),
    "bumps": lambda ax: plots.bumps(
        {"live": {name: float(values.mean()) for name, values in LIVE.items()},
         "twin": {name: float(values[0]) for name, values in TWIN.items()}}, HOT, ax,
    ),
    "overlay": lambda ax: plots.overlay(
        {"none": (TIMES, np.full(50, 0.3)), "oracle": (TIMES, 0.3 * np.exp(-TIMES / 300))}, ax,
        title="CPU imbalance", y="standard deviation",
    ),
}  # fmt: skip


def picture(draw: Callable[[Axes], Axes]) -> np.ndarray:
    """Draw a figure as a coarse greyscale picture, shape (height, width), 0 to 255."""
    with plots.lab_style(), mpl.rc_context({"font.family": "DejaVu Sans"}):
        figure = Figure(figsize=(8, 4.4), layout="constrained")
        ax = figure.subplots()
        assert draw(ax) is ax
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi=80)
    image = Image.open(buffer).convert("L")
    small = image.resize((image.width // SHRINK, image.height // SHRINK), Image.Resampling.BOX)
    return np.asarray(small, dtype=np.float64)


@pytest.mark.parametrize("name", FIGURES)
def test_figure_looks_like_its_baseline(name: str, tmp_path: Path) -> None:
    drawn = picture(FIGURES[name])
    path = BASELINES / f"{name}.png"
    if os.environ.get("LABKIT_UPDATE_BASELINES"):
        BASELINES.mkdir(exist_ok=True)
        Image.fromarray(drawn.astype(np.uint8)).save(path)
    wanted = np.asarray(Image.open(path), dtype=np.float64)
    Image.fromarray(drawn.astype(np.uint8)).save(tmp_path / path.name)
    assert drawn.shape == wanted.shape
    assert np.abs(drawn - wanted).mean() < MAX_MEAN_DIFFERENCE, f"compare {tmp_path / path.name} with {path}"


def test_a_missing_line_would_be_seen() -> None:
    tables = dict(TABLES)
    tables["nodes"] = TABLES["nodes"][TABLES["nodes"]["node"] != "kwok-node-2"]
    changed, drawn = picture(partial(plots.scores, tables)), picture(partial(plots.scores, TABLES))
    assert np.abs(changed - drawn).mean() > MAX_MEAN_DIFFERENCE


def test_every_algorithm_has_a_look_of_its_own() -> None:
    names = [*scoring.names(), "none", "random", "oracle"]
    looks = {tuple(plots.algorithm_style(name).values()) for name in names}
    assert len(looks) == len(names)


def test_an_algorithm_entered_again_keeps_its_colour_but_not_its_marker() -> None:
    once, again = (plots.algorithm_style(f"linear_amplified_ippd_k3{suffix}") for suffix in ("", " (again)"))
    assert once["color"] == again["color"]
    assert once["marker"] != again["marker"]


def test_a_node_looks_the_same_whoever_else_is_drawn() -> None:
    first = plots.node_styles(["node-1", "node-2", "node-10"])
    assert plots.node_styles(["node-10", "node-2", "node-1"]) == first
    assert len({tuple(look.values()) for look in plots.node_styles([f"n{i}" for i in range(32)]).values()}) == 32


def test_node_colours_stay_apart_for_colour_blind_readers() -> None:
    # Viénot, Brettel and Mollon 1999: what a deuteranope sees, in linear RGB.
    deuteranope = np.array([[0.29275, 0.70725, 0.0], [0.29275, 0.70725, 0.0], [-0.02234, 0.02234, 1.0]])
    colours = np.array([to_rgb(colour) for colour in style.PALETTE[:5]]) ** 2.2
    seen = colours @ deuteranope.T
    distances = [np.linalg.norm(a - b) for i, a in enumerate(seen) for b in seen[i + 1 :]]
    assert min(distances) > 0.08


def test_names_are_sorted_as_people_count() -> None:
    assert sorted(["n10", "n2", "n1"], key=style.natural_key) == ["n1", "n2", "n10"]


def test_a_run_without_samples_is_drawn_as_such() -> None:
    from labkit import analysis

    nothing = {name: analysis.empty(name) for name in analysis.COLUMNS}
    for draw in (plots.scores, plots.cumulative, plots.placement, plots.migration_arcs):
        assert picture(partial(draw, nothing)).shape == (88, 160)  # type: ignore[arg-type]
