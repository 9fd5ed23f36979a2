import math

import numpy as np
import pandas as pd
import pytest
from example_run import LAB_SECONDS, example_tables

from labkit import analysis
from labkit.analysis import convergence, explanation, happiness, hotspots, imbalance, movement
from labkit.analysis.summary import OUTCOME_KEYS
from labkit.analysis.tables import NodeSeries
from labkit.errors import InputError, ResultError

DESIGN_KEYS = {
    "migrations", "evictions_requested", "converged", "time_to_converge_seconds", "cpu_stddev_initial",
    "cpu_stddev_final", "hotspot_seconds", "ping_pong_migrations", "lab_seconds", "wall_seconds",
}  # fmt: skip


def node_table(rows: list[tuple[float, str, float]], *, memory: float = 0.0, pressure: float = 0.0) -> pd.DataFrame:
    """Rows of (time, node, cpu use); the other columns constant."""
    frame = pd.DataFrame(rows, columns=["time_seconds", "node", "cpu_usage"])
    return frame.assign(
        cpu_pressure=pressure, memory_usage=memory, memory_pressure=0.0, score=frame["cpu_usage"], vms=1
    )


def cycle_table(classes: list[list[str]], *, interval: float = 60.0) -> pd.DataFrame:
    """One list of classes per cycle, one class per node."""
    rows = [
        ((index + 1) * interval, f"n{node}", 0.0, 0.0, 0.0, kind)
        for index, kinds in enumerate(classes)
        for node, kind in enumerate(kinds)
    ]
    return pd.DataFrame(rows, columns=["time_seconds", "node", "usage_percent", "low", "high", "class"])


def move(vm: str, source: str, target: str, start: float, end: float, outcome: str = "succeeded") -> dict[str, object]:
    return {
        "time_seconds": start, "vm": vm, "source": source, "target": target, "requested_seconds": start,
        "started_seconds": start, "ended_seconds": end, "outcome": outcome, "bytes": 100.0, "downtime_seconds": 0.1,
    }  # fmt: skip


def migration_table(*rows: dict[str, object]) -> pd.DataFrame:
    return analysis.conform("migrations", pd.DataFrame(list(rows))) if rows else analysis.empty("migrations")


def series_of(rows: list[tuple[float, str, float]], lab_seconds: float, **kwargs: float) -> NodeSeries:
    return NodeSeries.of(node_table(rows, **kwargs), lab_seconds=lab_seconds)


OVER, UNDER, FINE = "overutilized", "underutilized", "appropriate"


def test_summary_has_the_keys_others_rely_on() -> None:
    summary = analysis.summarize(example_tables(), lab_seconds=LAB_SECONDS, wall_seconds=1.5)
    assert summary.keys() >= DESIGN_KEYS
    assert summary["lab_seconds"] == LAB_SECONDS
    assert summary["wall_seconds"] == 1.5
    assert all(not isinstance(value, float) or math.isfinite(value) for value in summary.values())


def test_summary_of_equal_tables_differs_only_in_wall_time() -> None:
    first = analysis.summarize(example_tables(), lab_seconds=LAB_SECONDS, wall_seconds=1.0)
    second = analysis.summarize(example_tables(), lab_seconds=LAB_SECONDS, wall_seconds=2.0)
    assert {key for key in first if first[key] != second[key]} == {"wall_seconds"}


def test_summary_of_a_run_without_samples_has_no_values_but_all_keys() -> None:
    nothing = {name: analysis.empty(name) for name in analysis.COLUMNS}
    summary = analysis.summarize(nothing, lab_seconds=60.0)
    full = analysis.summarize(example_tables(), lab_seconds=LAB_SECONDS)
    assert summary.keys() == full.keys()
    assert summary["cpu_stddev_initial"] is None
    assert summary["converged"] is False
    assert summary["migrations"] == 0


def test_summary_refuses_tables_with_a_missing_column() -> None:
    tables = example_tables()
    tables["nodes"] = tables["nodes"].drop(columns="score")
    with pytest.raises(ResultError, match=r"table nodes .* missing: score"):
        analysis.summarize(tables, lab_seconds=LAB_SECONDS)


def test_standard_deviation_is_that_of_the_population() -> None:
    # mean 0.5, deviations 0.3 and -0.3: sqrt((0.09 + 0.09) / 2) = 0.3 (a sample's would be 0.424)
    assert imbalance.stddev(np.array([[0.2, 0.8]])) == pytest.approx([0.3])


def test_a_node_without_a_sample_does_not_count() -> None:
    values = np.array([[0.2, np.nan, 0.8]])
    assert imbalance.mean(values) == pytest.approx([0.5])
    assert imbalance.stddev(values) == pytest.approx([0.3])
    assert imbalance.spread(values) == pytest.approx([0.6])
    # 0.3 / 0.5
    assert imbalance.coefficient_of_variation(values) == pytest.approx([0.6])


def test_time_average_weighs_each_sample_by_how_long_it_stands() -> None:
    # 1 for 10 s, 4 for 30 s: 130 / 40
    assert imbalance.time_average(np.array([1.0, 4.0]), np.array([10.0, 30.0])) == pytest.approx(3.25)


def test_initial_deviation_is_that_of_the_first_complete_sample() -> None:
    rows = [(0.0, "a", 0.9), (15.0, "a", 0.8), (15.0, "b", 0.2), (30.0, "a", 0.5), (30.0, "b", 0.5)]
    tables = example_tables() | {"nodes": node_table(rows)}
    # at 15 s both nodes are there: 0.8 and 0.2
    assert analysis.summarize(tables, lab_seconds=45.0)["cpu_stddev_initial"] == pytest.approx(0.3)


def test_a_node_that_joins_later_does_not_make_the_start_incomplete() -> None:
    rows = [(0.0, "a", 0.8), (0.0, "b", 0.2), (300.0, "a", 0.5), (300.0, "b", 0.5), (300.0, "c", 0.5)]
    assert series_of(rows, 400.0).start == 0


def test_final_deviation_is_the_mean_of_the_last_five_minutes() -> None:
    rows = [
        (t, node, value) for t in (0.0, 300.0, 600.0) for node, value in (("a", 0.5 + t / 2000), ("b", 0.5 - t / 2000))
    ]
    tables = example_tables() | {"nodes": node_table(rows)}
    # deviations 0, 0.15, 0.3; from 300 s on: (0.15 + 0.3) / 2
    assert analysis.summarize(tables, lab_seconds=600.0)["cpu_stddev_final"] == pytest.approx(0.225)


def test_a_gap_in_a_nodes_samples_is_held_but_not_beyond_its_last() -> None:
    rows = [(0.0, "a", 0.4), (0.0, "b", 0.6), (15.0, "b", 0.6), (30.0, "a", 0.2), (30.0, "b", 0.6), (45.0, "a", 0.2)]
    usage = series_of(rows, 60.0).ratio["cpu_usage"]
    assert usage[:, 0].tolist() == [0.4, 0.4, 0.2, 0.2]
    assert usage[:3, 1].tolist() == [0.6, 0.6, 0.6]
    assert math.isnan(usage[3, 1])


@pytest.mark.parametrize(
    ("classes", "expected"),
    [
        pytest.param([[OVER, UNDER], [FINE, FINE], [FINE, FINE], [FINE, UNDER]], 120.0, id="quiet from the second"),
        pytest.param([[FINE, FINE]] * 3, 60.0, id="quiet from the start"),
        pytest.param([[OVER, UNDER], [FINE, FINE], [FINE, FINE]], None, id="only two quiet cycles"),
        pytest.param([[FINE, FINE]] * 5 + [[OVER, UNDER]], None, id="disturbed at the end"),
        pytest.param([[FINE], [OVER], [FINE], [FINE], [FINE]], 180.0, id="the last disturbance counts"),
        pytest.param([], None, id="no cycle"),
    ],
)
def test_converged_means_quiet_for_three_cycles_and_to_the_end(
    classes: list[list[str]], expected: float | None
) -> None:
    assert convergence.time_to_converge(cycle_table(classes)) == expected


def test_settling_needs_no_algorithm() -> None:
    # b lies 0.3 above the mean until 60 s, then 0.05
    rows = [(t, node, 0.5 + sign * (0.3 if t < 60 else 0.05)) for t in np.arange(0, 600, 15.0)
            for node, sign in (("a", -1), ("b", 1))]  # fmt: skip
    assert convergence.time_to_settle(series_of(rows, 600.0)) == 60.0
    assert convergence.time_to_settle(series_of(rows, 600.0), quiet_seconds=3600) is None


def test_control_delay_counts_from_the_imbalance_to_the_first_request() -> None:
    rows = [(t, node, 0.5 + sign * (0.3 if t >= 30 else 0.0)) for t in np.arange(0, 300, 15.0)
            for node, sign in (("a", -1), ("b", 1))]  # fmt: skip
    evictions = pd.DataFrame({"time_seconds": [120.0, 180.0], "vm": "v", "node": "b", "result": "background"})
    assert convergence.control_delay(series_of(rows, 300.0), evictions) == 90.0
    assert convergence.control_delay(series_of(rows, 300.0), evictions.iloc[:0]) is None


def test_hotspot_seconds_add_up_over_nodes() -> None:
    # a is hot for 10 + 20 s (the last sample stands to the end), b never; exactly 0.8 is not hot
    rows = [(0.0, "a", 0.81), (0.0, "b", 0.8), (10.0, "a", 0.9), (10.0, "b", 0.1)]
    assert hotspots.hotspot_seconds(series_of(rows, 30.0)) == pytest.approx(30.0)


def test_hot_memory_is_a_hot_spot_too_and_counts_once() -> None:
    rows = [(0.0, "a", 0.9), (0.0, "b", 0.1)]
    assert hotspots.hotspot_seconds(series_of(rows, 10.0, memory=0.95)) == pytest.approx(20.0)


def test_psi_seconds_integrate_pressure() -> None:
    # 0.25 stalled on each of two nodes for 40 s
    rows = [(0.0, "a", 0.9), (0.0, "b", 0.1)]
    assert hotspots.psi_seconds(series_of(rows, 40.0, pressure=0.25)) == pytest.approx(20.0)


def test_the_two_slatah_differ_for_a_node_that_is_active_briefly() -> None:
    # a: full for 10 of 10 active seconds; b: never full, active for 30 s
    rows = [(0.0, "a", 1.0), (0.0, "b", 0.5), (10.0, "a", 0.0), (10.0, "b", 0.5)]
    series = series_of(rows, 30.0)
    assert hotspots.slatah(series) == pytest.approx(0.5)  # (1 + 0) / 2
    assert hotspots.slatah_cloudsim(series) == pytest.approx(0.25)  # 10 / (10 + 30)


@pytest.mark.parametrize(
    ("moves", "expected"),
    [
        pytest.param([("a", "b", 0), ("b", "a", 600)], 1, id="back after ten minutes"),
        pytest.param([("a", "b", 0), ("b", "a", 1801)], 0, id="back too late"),
        pytest.param([("a", "b", 0), ("b", "c", 60), ("c", "a", 120)], 1, id="around three nodes"),
        pytest.param([("a", "b", 0), ("b", "a", 60), ("a", "b", 120)], 2, id="there, back and there again"),
        pytest.param([("a", "b", 0), ("b", "c", 60)], 0, id="onwards"),
    ],
)
def test_ping_pong_is_a_return_within_half_an_hour(moves: list[tuple[str, str, float]], expected: int) -> None:
    table = migration_table(*(move("vm", source, target, at, at) for source, target, at in moves))
    assert movement.ping_pong(table) == expected


def test_a_failed_migration_left_no_node() -> None:
    table = migration_table(move("vm", "a", "b", 0, 10, "failed"), move("vm", "b", "a", 20, 30))
    assert movement.ping_pong(table) == 0


def test_a_migration_that_balances_nothing_is_wasted() -> None:
    rows = [(t, node, value) for t in np.arange(0, 900, 15.0)
            for node, value in (("a", 0.8 if t < 60 else 0.5), ("b", 0.2 if t < 60 else 0.5))]  # fmt: skip
    table = migration_table(move("useful", "a", "b", 30, 60), move("useless", "a", "b", 300, 320))
    assert movement.wasted(table, series_of(rows, 900.0)) == 1


def test_pdm_is_a_tenth_of_the_time_in_migration() -> None:
    # 30 s of migration; 2 VMs × 150 s: 0.1 * 30 / 300
    table = migration_table(move("x", "a", "b", 0, 10), move("x", "b", "a", 20, 40))
    assert movement.pdm(table, vms=2, lab_seconds=150.0) == pytest.approx(0.01)


def test_cloudsims_pdm_weighs_vms_by_their_work() -> None:
    # x loses 0.1 * 3 cores * 30 s = 9 core-seconds of (3 + 1) * 150 = 600
    table = migration_table(move("x", "a", "b", 0, 10), move("x", "b", "a", 20, 40))
    cores = pd.Series({"x": 3.0, "y": 1.0})
    assert movement.pdm_cloudsim(table, cores, lab_seconds=150.0) == pytest.approx(0.015)


def test_a_migration_without_end_counts_to_the_end_of_the_run() -> None:
    table = migration_table(move("x", "a", "b", 40, math.nan, "running"))
    assert movement.time_in_migration(table, lab_seconds=100.0) == pytest.approx(60.0)
    tables = example_tables(moves=0) | {"migrations": table}
    summary = analysis.summarize(tables, lab_seconds=100.0)
    assert (summary["migrations"], summary["migrations_failed"]) == (0, 0)


def test_the_made_run_levels_out_and_goes_in_a_circle_once() -> None:
    straight = analysis.summarize(example_tables(), lab_seconds=LAB_SECONDS)
    circle = analysis.summarize(example_tables(back_again=True), lab_seconds=LAB_SECONDS)
    assert straight["cpu_stddev_final"] < straight["cpu_stddev_initial"]
    assert straight["ping_pong_migrations"] == 0
    assert circle["ping_pong_migrations"] == 1


def test_an_explanation_tells_cycle_candidates_and_destination() -> None:
    found = explanation.explain(example_tables(), 1, algorithm="weighted_average")
    # The made run's first cycle is at 60 s; its VM leaves the fullest node for the emptiest.
    assert found.cycle_seconds == 60.0
    assert found.migration["vm"] in found.candidates
    at = found.nodes.set_index("node")
    assert at.loc[found.migration["source"], "class"] == "overutilized"
    parts = at[[f"part_{name}" for name in ("cpu_usage", "cpu_pressure", "memory_usage", "memory_pressure")]]
    assert parts.sum(axis=1).to_numpy() == pytest.approx(at["score"].to_numpy())
    text = " ".join(explanation.sentences(found))
    assert f"asked to leave {found.migration['source']} at 60 s" in text
    assert "above its threshold of" in text


def test_an_explanation_rebuilds_what_the_scheduler_could_choose_from() -> None:
    from labkit import sim
    from labkit.scenario import load_scenario

    scenario = load_scenario("quickstart")
    result = sim.run(scenario, algorithm="linear_amplified_ippd_k3", seed=1, duration_seconds=240.0)
    tables = {name: getattr(result, name) for name in analysis.COLUMNS}
    together = int((tables["migrations"]["requested_seconds"] == tables["migrations"]["requested_seconds"].min()).sum())
    best = 0
    for number in range(1, together + 1):
        found = explanation.explain(tables, number, algorithm="linear_amplified_ippd_k3", scenario=scenario, seed=1)
        assert found.options is not None
        options = found.options.set_index("node")
        assert not options.loc[found.migration["source"], "fits"]
        assert options.loc[found.migration["target"], "fits"]
        score = options["scheduler_score"]
        best += bool(score[found.migration["target"]] == score.max())
    # The first of the requests that came together met the nodes as they are rebuilt here.
    assert best >= 1


def test_a_migration_that_does_not_exist_is_an_error() -> None:
    with pytest.raises(InputError, match=r"wanted --migration from 1 to 8, .* found 9"):
        explanation.explain(example_tables(), 9, algorithm="weighted_average")


def test_placement_follows_the_changes() -> None:
    rows = [(0.0, "a", "x"), (0.0, "b", "x"), (10.0, "a", "y"), (20.0, "b", "")]
    changes = pd.DataFrame(rows, columns=["time_seconds", "vm", "node"])
    assert explanation.placement_at(changes, 5.0) == {"a": "x", "b": "x"}
    assert explanation.placement_at(changes, 20.0) == {"a": "y"}


def test_happiness_is_delivered_over_demanded_cpu() -> None:
    # Node 0 has 4 cores and is asked for 8 at first (each gets half), then for 4; VM 2 runs nowhere at the second
    # instant, and VM 3 asks for nothing.
    demand = np.array([[4.0, 4.0, 1.0, 0.0], [3.0, 1.0, 1.0, 0.0]])
    node_of = np.array([[0, 0, 1, 1], [0, 0, -1, 1]])
    found = happiness.happiness(demand, node_of, np.array([4.0, 4.0]))
    assert found[:3].tolist() == pytest.approx([5 / 7, 3 / 5, 1 / 2])
    assert math.isnan(found[3])
    assert happiness.happiness_summary(found) == pytest.approx(
        {"happiness_mean": (5 / 7 + 3 / 5 + 1 / 2) / 3, "happiness_min": 0.5, "unhappy_vms_ratio": 1.0}
    )
    assert happiness.happiness_summary(np.array([1.0, 0.9]))["unhappy_vms_ratio"] == 0.5
    assert math.isnan(happiness.happiness_summary(np.array([np.nan]))["happiness_mean"])


def test_a_summary_has_the_outcome_it_is_given_and_none_without() -> None:
    without = analysis.summarize(example_tables(), lab_seconds=LAB_SECONDS)
    assert {without[key] for key in OUTCOME_KEYS} == {None}
    given = analysis.summarize(example_tables(), lab_seconds=LAB_SECONDS, outcome={"regret": 0.25})
    assert given["regret"] == 0.25


def test_summary_has_every_spread_and_both_classes() -> None:
    tables = {name: analysis.empty(name) for name in analysis.COLUMNS}
    tables["nodes"] = node_table([(t, f"n{n}", 0.2 + 0.4 * n) for t in (0.0, 15.0) for n in (0, 1)], pressure=0.1)
    tables["cycles"] = cycle_table([[OVER, UNDER], [FINE, UNDER]])
    summary = analysis.summarize(tables, lab_seconds=30.0)
    assert summary["cpu_range_final"] == pytest.approx(0.4)
    assert summary["cpu_cov_final"] == pytest.approx(0.5)
    assert (summary["pressure_range_final"], summary["pressure_cov_final"]) == (0.0, pytest.approx(0.0))
    assert (summary["memory_range_final"], summary["memory_cov_final"]) == (0.0, 0.0)
    assert (summary["overutilized_node_cycles"], summary["underutilized_node_cycles"]) == (1, 2)
