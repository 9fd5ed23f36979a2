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
import pandas as pd
import pytest
from example_run import LAB_SECONDS, example_tables
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.text import Text
from PIL import Image
from test_statistics import design_of

from labkit import analysis, plots, scoring
from labkit.analysis import metrics, statistics
from labkit.model import Snapshot
from labkit.plots import labels, style
from labkit.scoring.explain import contributions
from labkit.scoring.surface import surface

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
# Like the benchmark's: many at nearly the same height, three far from them, two at one place.
CROWD = {
    name: (float(4 + 12 * index), 1800.0 + 17.0 * (7 * index % 16)) for index, name in enumerate(scoring.names()[:18])
} | {"none": (0.0, 4200.0), "oracle": (57.0, 130.0), "random": (273.0, 1590.0)}
CROWD["linear_amplified_ippd_k1"] = CROWD["ideal_point_positive_distance"]
TIMES = np.linspace(0.0, 1200.0, 50)
NODES = Snapshot.of(["n1", "n2", "n3"], [(0.9, 0.3, 0.6, 0.0), (0.5, 0.0, 0.4, 0.1), (0.1, 0.0, 0.2, 0.2)])
K3 = scoring.get("linear_amplified_ippd_k3")
SCORES = {each.name: dict(zip(NODES.nodes, each.score(NODES), strict=True)) for each in scoring.NINETEEN}
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
    "pareto-crowded": partial(plots.pareto, CROWD, metrics=(MIGRATIONS, HOT)),
    "placement-many-nodes": partial(plots.placement, MANY, lab_seconds=LAB_SECONDS),
    "heat-map-many-nodes": partial(plots.heat_map, MANY),
    "score-surface": partial(plots.score_surface, surface(K3, NODES, "n1", x="cpu_usage", y="cpu_pressure", points=21)),
    "score-table": partial(plots.score_table, SCORES),
    "score-parts": partial(plots.score_parts, NODES.nodes, contributions(K3.name, NODES, K3.score(NODES))),
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


def test_every_algorithm_has_a_look_of_its_own_without_its_colour() -> None:
    names = [*scoring.names(), "none", "random", "oracle"]
    looks = [plots.algorithm_style(name) for name in names]
    assert len({(look["linestyle"], look["marker"]) for look in looks}) == len(names)


def test_algorithms_of_ones_own_are_told_apart() -> None:
    first, second = (plots.algorithm_style(name) for name in ("worst_resource", "rank_of_use"))
    assert (first["linestyle"], first["marker"]) != (second["linestyle"], second["marker"])


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


def drawn(draw: Callable[[Axes], object], size: tuple[float, float] = (8, 4.4)) -> Axes:
    """An Axes with a figure in it, as it is laid out in the end."""
    with plots.lab_style():
        ax = Figure(figsize=size, layout="constrained").subplots()
        draw(ax)
        ax.figure.draw_without_rendering()  # type: ignore[union-attr]
    return ax


def overlapping(ax: Axes) -> list[tuple[str, str]]:
    """The texts of an Axes that cover each other."""
    texts = [(text.get_text(), Text.get_window_extent(text)) for text in ax.texts if text.get_text()]  # not its arrow
    return [
        (one, other)
        for index, (one, box) in enumerate(texts)
        for other, second in texts[index + 1 :]
        if min(box.x1, second.x1) - max(box.x0, second.x0) > 1 and min(box.y1, second.y1) - max(box.y0, second.y0) > 1
    ]


def test_values_are_moved_apart_as_little_as_possible() -> None:
    assert labels.spread([1.0, 5.0, 9.0], 1.0, 0.0, 10.0).tolist() == [1.0, 5.0, 9.0]
    assert labels.spread([5.0, 5.0, 5.0], 1.0, 0.0, 10.0) == pytest.approx([4.0, 5.0, 6.0])
    assert labels.spread([0.0, 0.0, 9.0], 1.0, 0.0, 10.0) == pytest.approx([0.0, 1.0, 9.0])
    assert labels.spread([9.0, 10.0, 10.0], 1.0, 0.0, 10.0) == pytest.approx([8.0, 9.0, 10.0])


def test_a_share_is_never_drawn_below_nothing() -> None:
    for draw in (plots.scores, plots.utilisation, partial(plots.utilisation, dimension="cpu_pressure")):
        assert drawn(partial(draw, TABLES)).get_ylim()[0] == 0.0


def test_names_of_balanced_nodes_do_not_cover_each_other() -> None:
    level = TABLES["nodes"].assign(cpu_usage=TABLES["nodes"]["cpu_usage"] * 0.001 + 0.4)
    ax = drawn(partial(plots.utilisation, {**TABLES, "nodes": level}))
    assert len([text for text in ax.texts if "node" in text.get_text()]) == 5
    assert overlapping(ax) == []


def test_a_vm_that_was_deleted_did_not_move() -> None:
    changes = pd.DataFrame(
        [(0.0, "a", "n1"), (60.0, "a", ""), (0.0, "b", "n1"), (60.0, "b", "n2")],
        columns=["time_seconds", "vm", "node"],
    )
    ax = drawn(partial(plots.placement, {**TABLES, "placement": changes}, lab_seconds=120.0))
    assert ax.get_title(loc="left") == "Where each VM ran (1 of 2 VMs moved)"


def test_a_node_keeps_its_colour_where_it_holds_no_vm() -> None:
    changes = pd.DataFrame([(0.0, "a", "kwok-node-5")], columns=["time_seconds", "vm", "node"])
    ax = drawn(partial(plots.placement, {**TABLES, "placement": changes}, lab_seconds=LAB_SECONDS))
    wanted = plots.node_styles([f"kwok-node-{number}" for number in range(1, 6)])["kwok-node-5"]["color"]
    assert to_rgb(ax.patches[0].get_facecolor()) == to_rgb(wanted)


def test_before_and_after_tells_the_deviations_of_the_summary() -> None:
    summary = analysis.summarize(TABLES, lab_seconds=LAB_SECONDS)
    ax = drawn(partial(plots.before_and_after, TABLES, lab_seconds=LAB_SECONDS))
    legend = ax.get_legend()
    assert legend is not None
    told = f"{summary['cpu_stddev_initial']:.3f} → {summary['cpu_stddev_final']:.3f}"
    assert legend.get_title().get_text().endswith(told)


def test_a_density_ends_where_the_runs_end() -> None:
    design = design_of({"none": [0.0] * 5 + list(np.linspace(0, 900, 7)), "oracle": list(np.linspace(0, 90, 12))})
    ax = drawn(partial(plots.ridges, design))
    reach = [collection.get_datalim(ax.transData) for collection in ax.collections]
    assert min(box.x0 for box in reach) >= 0.0
    assert max(box.x1 for box in reach) <= 900.0


def test_everyone_on_the_trade_figure_is_named_and_no_name_covers_another() -> None:
    ax = drawn(partial(plots.pareto, CROWD, metrics=(MIGRATIONS, HOT)), size=(8.4, 6.2))
    (inset,) = ax.child_axes
    told = "\n".join(text.get_text().replace("_\n", "_") for axes in (ax, inset) for text in axes.texts)
    assert sorted(told.splitlines()) == sorted(CROWD)
    assert overlapping(ax) == []
    assert overlapping(inset) == []


def test_points_at_few_places_are_not_enlarged() -> None:
    costs = {f"weighted_average @ {policy}": (float(policy % 2), 1200.0) for policy in range(12)} | {"none": (9.0, 0.0)}
    ax = drawn(partial(plots.pareto, costs, metrics=(MIGRATIONS, HOT)))
    assert not ax.child_axes


def test_a_ranking_with_long_names_keeps_its_title() -> None:
    names = [f"weighted_mean_square_positive_deviation @ every5m-eval30s-{number}" for number in range(4)]
    design = design_of({name: list(RNG.uniform(0, 900, 8)) for name in names})
    ax = drawn(lambda ax: plots.ranking(statistics.compare(design, names[0]), HOT, ax))
    title = next(text for text in ax.get_children() if isinstance(text, Text) and "difference" in text.get_text())
    assert title.get_window_extent().x1 <= ax.figure.bbox.x1


def test_the_baseline_of_a_ranking_can_be_seen() -> None:
    ax = drawn(lambda ax: plots.ranking(statistics.compare(DESIGN, "none"), HOT, ax))
    (mark,) = [line for line in ax.lines if line.get_marker() == "|" and len(line.get_xdata()) == 1]
    assert to_rgb(mark.get_markeredgecolor()) != to_rgb("white")


def test_a_score_without_parts_is_said_to_have_none() -> None:
    ax = drawn(partial(plots.score_parts, ["n1"], None))
    assert "no parts" in ax.texts[0].get_text()


def test_a_run_without_samples_is_drawn_as_such() -> None:
    nothing = {name: analysis.empty(name) for name in analysis.COLUMNS}
    for draw in (
        plots.scores,
        plots.cumulative,
        plots.placement,
        plots.migration_arcs,
        plots.heat_map,
        plots.before_and_after,
    ):
        assert picture(partial(draw, nothing)).shape == (88, 160)  # type: ignore[arg-type]
