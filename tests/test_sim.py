from __future__ import annotations

import hashlib
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import numpy as np
import pandas as pd
import pytest

from labkit import sim
from labkit.analysis.tables import COLUMNS
from labkit.errors import InputError
from labkit.names import BASE_RECORDS
from labkit.scenario import Scenario, load_scenario, parse_scenario
from labkit.scoring import get, names
from labkit.sim.metrics import NODE_METRICS

K3 = "linear_amplified_ippd_k3"


def scenario(**spec: Any) -> Scenario:
    document = {
        "apiVersion": "simulation.node-classifier.io/v1alpha1",
        "kind": "SimulationScenario",
        "metadata": {"name": "made"},
        "spec": {
            "duration": "15m",
            "nodePools": [{"name": "node", "count": 4, "resources": {"cpu": 16, "memory": "64Gi"}}],
            "vmPools": [
                {
                    "name": "hot",
                    "count": 8,
                    "resources": {"cpu": 4, "memory": "4Gi"},
                    "load": {"cpu": 0.45, "memory": 0.5},
                    "placement": {"strategy": "packed", "nodes": ["node-1"]},
                }
            ],
            **spec,
        },
    }
    return parse_scenario(document, "made")


def digest(result: sim.SimResult) -> str:
    text = "".join(result.tables[name].to_csv() for name in COLUMNS)
    return hashlib.sha256(text.encode()).hexdigest()


def _digest_of(arguments: tuple[str, str, int]) -> str:
    name, algorithm, seed = arguments
    return digest(sim.run(load_scenario(name), algorithm=algorithm, seed=seed, duration_seconds=600))


def test_a_hot_node_is_relieved() -> None:
    result = sim.run(scenario(), algorithm=K3)
    first, last = (result.nodes[result.nodes["time_seconds"] == t]["cpu_usage"] for t in (0.0, 900.0))
    assert first.max() == pytest.approx(0.9)
    assert last.max() < 0.35
    assert result.summary["migrations"] >= 5
    assert result.summary["converged"] is True


def test_the_same_run_twice_gives_the_same_tables_and_another_seed_others() -> None:
    one, two = (digest(sim.run(load_scenario("churn"), algorithm=K3, seed=3, duration_seconds=900)) for _ in range(2))
    other = digest(sim.run(load_scenario("churn"), algorithm=K3, seed=4, duration_seconds=900))
    assert one == two
    assert one != other


@pytest.mark.parametrize("algorithm", [K3, "random"])
def test_another_draw_of_chance_changes_moves_but_neither_vms_nor_load(algorithm: str) -> None:
    quickstart = load_scenario("quickstart")
    runs = [
        sim.run(quickstart, algorithm=algorithm, seed=1, duration_seconds=300, chance=draw) for draw in (0, 0, 1, 2)
    ]
    assert digest(runs[0]) == digest(runs[1])
    assert len({digest(run) for run in runs}) == 3
    loads = [run.vm_loads() for run in runs]
    for other in loads[1:]:
        pd.testing.assert_frame_equal(loads[0].drop(columns="node"), other.drop(columns="node"))


@pytest.mark.slow
def test_workers_and_process_change_nothing() -> None:
    jobs = [("quickstart", K3, 1), ("churn", "pareto_front", 2), ("drain", "oracle", 3), ("quickstart", "random", 4)]
    with ProcessPoolExecutor(2) as pool:
        assert list(pool.map(_digest_of, jobs)) == [_digest_of(job) for job in reversed(jobs)][::-1]


def test_algorithms_with_one_seed_share_vms_load_and_initial_placement() -> None:
    results = [sim.run(load_scenario("churn"), algorithm=name, seed=5, duration_seconds=60) for name in ("none", K3)]
    starts = [result.placement[result.placement["time_seconds"] == 0.0] for result in results]
    pd.testing.assert_frame_equal(*starts)
    pd.testing.assert_frame_equal(*(result.nodes.query("time_seconds == 0") for result in results))


@pytest.mark.parametrize("algorithm", [*names(), "none", "random", "oracle"])
def test_every_algorithm_runs_and_fills_the_tables(algorithm: str) -> None:
    result = sim.run(scenario(), algorithm=algorithm, duration_seconds=180)
    assert list(result.nodes.columns) == list(COLUMNS["nodes"])
    assert len(result.nodes) == 4 * 13
    assert result.nodes["score"].between(0, 1).all()
    assert (result.cycles["time_seconds"].nunique() == 0) == (algorithm == "none")


def test_an_algorithm_that_does_not_exist_is_refused() -> None:
    with pytest.raises(InputError):
        sim.run(scenario(), algorithm="wheighted_average")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"policy": {"threshold": "0:10"}}, r"policy\.threshold: unknown factor"),
        ({"policy": {"evictions_per_node": 0}}, r"policy\.evictions_per_node: wanted a whole number"),
        ({"policy": {"descheduling_interval": "never"}}, r"policy\.descheduling_interval: wanted a duration"),
        ({"policy": {"soft_taints": "yes"}}, r"policy\.soft_taints: wanted true or false"),
        ({"duration_seconds": 0.0}, "duration: wanted more than 0"),
        ({"tempo": 0}, "tempo: wanted 1 or more"),
        ({"chance": -1}, "chance: wanted 0 or more"),
        ({"timing": {"rule_lag_seconds": -1}}, r"timing\.rule_lag_seconds"),
        ({"timing": {"cycle_times_seconds": [5.0, -1.0]}}, r"timing\.cycle_times_seconds"),
    ],
)
def test_wrong_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        sim.run(scenario(), algorithm=K3, **options)


# --- physics and protocol ----------------------------------------------------------------------------


def test_load_moves_at_the_switchover_and_never_counts_twice() -> None:
    result = sim.run(scenario(), algorithm=K3)
    total = result.nodes.groupby("time_seconds")["cpu_usage"].sum()
    assert np.allclose(total, 8 * 4 * 0.45 / 16), "CPU neither appears nor vanishes while VMs move"
    assert (result.nodes.groupby("time_seconds")["vms"].sum() == 8).all()


def test_limits_of_descheduler_and_migrations_hold() -> None:
    result = sim.run(scenario(networkBandwidthMbps=200), algorithm=K3)
    per_cycle = result.evictions.groupby("time_seconds").size()
    assert per_cycle.max() <= 2, "one over-utilised node, two evictions at most"
    moves = result.migrations
    for start in moves["started_seconds"].dropna():
        running = moves[(moves["started_seconds"] <= start) & ~(moves["ended_seconds"] <= start)]
        assert len(running) <= 5
        assert running.groupby("source").size().max() <= 2


def test_requests_under_way_leave_no_budget() -> None:
    # Copies at 100 Mbit/s take minutes: the two first migrations fill the node's limit until they end.
    result = sim.run(scenario(networkBandwidthMbps=100), algorithm=K3)
    first_end = result.migrations["ended_seconds"].min()
    assert first_end > 150
    assert (result.evictions["time_seconds"] < first_end).sum() == 2


def test_copies_share_the_link_and_take_the_time_of_the_model() -> None:
    alone = sim.run(scenario(), algorithm=K3, policy={"evictions_per_node": 1})
    together = sim.run(scenario(), algorithm=K3)
    # Same VMs: with two copies out of one node each has half of the link.
    seconds = [(r.migrations["ended_seconds"] - r.migrations["started_seconds"]).iloc[0] for r in (alone, together)]
    sent = 4 * 2**30 * 0.5
    assert seconds[0] == pytest.approx(sent / 1.25e9, rel=0.2)
    assert seconds[1] == pytest.approx(2 * seconds[0], rel=0.2)


def test_a_copy_that_cannot_converge_fails_backs_off_and_tries_again() -> None:
    pools = [
        {
            "name": "hot",
            "count": 8,
            "resources": {"cpu": 4, "memory": "4Gi"},
            "dirtyRateMbps": 8000,
            "load": {"cpu": 0.45, "memory": 0.5},
            "placement": {"strategy": "packed", "nodes": ["node-1"]},
        }
    ]
    result = sim.run(scenario(vmPools=pools, networkBandwidthMbps=1000), algorithm=K3)
    moves = result.migrations
    assert (moves["outcome"] != "succeeded").all()
    one = moves[moves["vm"] == moves["vm"].iloc[0]].sort_values("started_seconds")
    assert len(one) >= 2
    gap = one["started_seconds"].iloc[1] - one["ended_seconds"].iloc[0]
    assert gap >= 20.0
    assert (result.nodes.query("node == 'node-1'")["vms"] == 8).all(), "a VM whose migration fails stays"


def test_software_latencies_delay_start_and_end_of_copies() -> None:
    timing = {"start_seconds": 2.7, "end_seconds": 1.3, "first_cycle_seconds": 17.441997528076172}
    late, plain = (sim.run(scenario(), algorithm=K3, timing=given) for given in (timing, {}))
    first = late.migrations.iloc[0]
    assert first["started_seconds"] - first["requested_seconds"] == pytest.approx(2.7)
    seconds = [(r.migrations["ended_seconds"] - r.migrations["started_seconds"]).iloc[0] for r in (late, plain)]
    assert seconds[0] == pytest.approx(seconds[1] + 1.3)


def test_requests_of_one_cycle_follow_each_other() -> None:
    result = sim.run(scenario(), algorithm=K3, timing={"request_seconds": 2.5})
    assert result.evictions["time_seconds"].tolist()[:2] == [30.0, 32.5]
    assert result.migrations["started_seconds"].tolist()[:2] == [30.0, 32.5]


def test_a_target_that_finds_no_node_fails_after_its_time() -> None:
    pools = [
        {"name": "big", "count": 4, "resources": {"cpu": 2, "memory": "48Gi"}, "load": {"cpu": 0.1, "memory": 0.1}}
    ]
    timeline = [{"at": "1m", "type": "drain_node", "node": "node-1"}]
    result = sim.run(scenario(vmPools=pools, timeline=timeline), algorithm="none")
    moves = result.migrations
    assert moves["ended_seconds"].tolist()[:2] == [360.0, 680.0], "5 min pending, 20 s back-off, 5 min pending"
    assert (moves["target"] == "").all()
    assert (result.nodes.query("node == 'node-1'")["vms"] == 1).all()


def test_thresholds_decide_whether_anything_happens() -> None:
    eager = sim.run(scenario(), algorithm="weighted_average", policy={"thresholds": "0:5"})
    lazy = sim.run(scenario(), algorithm="weighted_average", policy={"thresholds": "High"})
    assert eager.summary["migrations"] > 0
    assert lazy.summary["migrations"] == 0


def test_intervals_are_those_of_the_policy() -> None:
    policy = {"descheduling_interval": "2m", "evaluation_interval": "30s"}
    result = sim.run(scenario(), algorithm=K3, policy=policy, timing={"first_cycle_seconds": 40})
    assert sorted(result.cycles["time_seconds"].unique())[:3] == [40.0, 160.0, 280.0]
    changes = result.nodes.query("node == 'node-1'")["cpu_usage"].diff().fillna(0) != 0
    times = result.nodes.query("node == 'node-1'")["time_seconds"][changes]
    assert (times % 30 == times.iloc[0] % 30).all()


def test_cycles_happen_when_they_were_measured() -> None:
    measured = (12.5, 74.0, 210.0)
    result = sim.run(
        scenario(), algorithm=K3, duration_seconds=600, timing={"cycle_times_seconds": [210.0, 12.5, 74.0]}
    )
    assert result.cycles["time_seconds"].unique().tolist() == list(measured)
    assert set(result.evictions["time_seconds"]) <= set(measured)


def test_a_cycle_does_not_see_an_evaluation_that_has_not_ended() -> None:
    phases = {"scrape_phase_seconds": 1.0, "rule_lag_seconds": 4.0, "cycle_times_seconds": (5.5, 65.5)}
    slow, quick = (
        sim.run(scenario(), algorithm="weighted_average", duration_seconds=90, timing={**phases, **lag})
        for lag in ({"score_lag_seconds": 1.0}, {})
    )
    recorded = slow.nodes.pivot(index="time_seconds", columns="node", values="score") * 100
    before, at_once = (np.trunc(recorded.loc[time]).to_dict() for time in (60.0, 75.0))  # of 50 s, of 65 s
    assert before != at_once
    for result, seen in ((slow, before), (quick, at_once)):
        assert result.cycles.query("time_seconds == 65.5").set_index("node")["usage_percent"].to_dict() == seen


def test_cooldown_keeps_a_vm_from_moving_again_soon() -> None:
    options = {"algorithm": "pareto_front", "seed": 1, "duration_seconds": 1800.0}
    without = sim.run(load_scenario("quickstart"), **options)
    with_it = sim.run(load_scenario("quickstart"), policy={"migration_cooldown": "15m"}, **options)

    def shortest(result: sim.SimResult) -> float:
        moves = result.migrations[result.migrations["outcome"] == "succeeded"].sort_values("requested_seconds")
        waits = moves["requested_seconds"] - moves.groupby("vm")["ended_seconds"].shift()
        return float(waits.min())

    assert shortest(without) < 900 <= shortest(with_it)


def test_soft_taints_send_vms_elsewhere() -> None:
    result = sim.run(scenario(), algorithm=K3, policy={"soft_taints": True})
    over = result.cycles[result.cycles["class"] == "overutilized"]
    assert len(over) > 0
    hot = set(over["node"])
    assert not (set(result.migrations["target"]) & hot)


def test_eviction_strategies() -> None:
    def moved(strategy: str) -> tuple[set[str], int]:
        pool = {
            "name": "hot",
            "count": 8,
            "resources": {"cpu": 4, "memory": "4Gi"},
            "evictionStrategy": strategy,
            "load": {"cpu": 0.45, "memory": 0.5},
            "placement": {"strategy": "packed", "nodes": ["node-1"]},
        }
        result = sim.run(scenario(vmPools=[pool]), algorithm=K3)
        return set(result.evictions["result"]), len(result.migrations)

    assert moved("LiveMigrate") == moved("LiveMigrateIfPossible")
    assert moved("None")[0] == {"success"}
    assert moved("None")[1] == 0
    assert moved("External") == ({"background"}, 0)


def test_timeline_events_change_nodes_and_vms() -> None:
    timeline = [
        {"at": "2m", "type": "add_nodes", "pool": "node"},
        {"at": "3m", "type": "create_vms", "pool": "hot", "count": 2},
        {"at": "4m", "type": "cordon_node", "node": "node-2"},
        {"at": "6m", "type": "drain_node", "node": "node-1"},
        {"at": "10m", "type": "fail_node", "node": "node-3"},
        {"at": "12m", "type": "delete_vms", "vms": ["hot-1"]},
        {"at": "13m", "type": "resize_vms", "vms": ["hot-2"], "resources": {"cpu": 8}},
    ]
    result = sim.run(scenario(timeline=timeline), algorithm="none")
    nodes = result.nodes.set_index(["time_seconds", "node"])["vms"].unstack()
    assert nodes.loc[0.0, "node-5":].isna().all()
    assert nodes.loc[195.0].sum() == 10
    assert nodes.loc[540.0, "node-1"] == 0
    assert np.isnan(nodes.loc[630.0, "node-3"])
    assert nodes.loc[630.0].sum() == 10, "the VMs of a failed node start elsewhere"
    assert nodes.loc[885.0].sum() == 9
    drained = result.migrations
    assert set(drained["source"]) == {"node-1"}
    assert "node-2" not in set(drained["target"])
    assert (drained["outcome"] == "succeeded").all()
    last = result.placement.groupby("vm")["node"].last()
    assert last["hot-1"] == ""
    assert last.drop("hot-1").ne("").all()


def test_a_vm_without_room_waits_until_there_is_some() -> None:
    pools = [
        {"name": "big", "count": 5, "resources": {"cpu": 2, "memory": "48Gi"}, "load": {"cpu": 0.1, "memory": 0.1}}
    ]
    timeline = [{"at": "5m", "type": "add_nodes", "pool": "node"}]
    result = sim.run(scenario(vmPools=pools, timeline=timeline), algorithm="none")
    running = result.nodes.groupby("time_seconds")["vms"].sum()
    assert running[0.0] == 4
    assert running[330.0] == 5


def test_a_node_without_score_stops_the_cycle() -> None:
    # A node that has just joined has no full minute of counters; production gives such cycles up, too.
    timeline = [{"at": "50s", "type": "add_nodes", "pool": "node"}]
    result = sim.run(scenario(timeline=timeline), algorithm=K3, timing={"first_cycle_seconds": 60})
    assert result.cycles["time_seconds"].min() == 120.0


# --- queries -----------------------------------------------------------------------------------------


def test_queries_answer_what_the_tables_say() -> None:
    result = sim.run(scenario(), algorithm=K3, duration_seconds=300)
    for column, record in [*BASE_RECORDS.items(), ("score", get(K3).record)]:
        frame = result.query_range(record).rename(columns={"instance": "node"})
        table = result.nodes[["time_seconds", "node", column]]
        merged = table.merge(frame[["time_seconds", "node", "value"]], on=["time_seconds", "node"])
        assert len(merged) == len(table)
        assert (merged[column] - merged["value"]).abs().max() < 1e-12
    at_end = result.query("count(descheduler:node:weighted_average:avg1m)")
    assert at_end["value"].tolist() == [4.0]
    assert result.query("nothing").empty


def test_the_database_holds_every_record_of_the_rules() -> None:
    result = sim.run(scenario(), algorithm=K3, duration_seconds=300)
    missing = [name for name in names() if result.query(get(name).record).empty]
    assert missing == []
    assert not result.query('descheduler_pods_evicted_total{result="success"}').empty


def test_metrics_are_those_of_the_exporter() -> None:
    from services.exporter.metrics import METRICS

    live = {metric.name: list(metric.series_labels()) for metric in METRICS}
    twin = {
        name: ["".join(f',{label}="{value}"' for label, value in labels.items()) for labels, _ in rows]
        for name, rows in NODE_METRICS.items()
    }
    assert twin == live


def test_vm_loads_on_request() -> None:
    result = sim.run(scenario(), algorithm=K3, duration_seconds=300)
    loads = result.vm_loads()
    assert len(loads) == 8 * 21
    assert set(loads["cpu"]) == {0.45}
