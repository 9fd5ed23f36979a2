from __future__ import annotations

import itertools

import numpy as np
import pytest

from labkit import sim
from labkit.analysis.summary import OUTCOME_KEYS
from labkit.errors import InputError
from labkit.scenario import load_scenario, parse_scenario
from labkit.sim.outcome import outcome
from labkit.sim.regret import Window, _exact, _greedy


def problem(seed: int, vms: int = 6, nodes: int = 3) -> Window:
    rng = np.random.default_rng(seed)
    return Window(
        demand=np.repeat(rng.uniform(1, 6, (1, vms)), 2, axis=0),
        memory_bytes=np.ones(vms),
        start=np.zeros(vms, dtype=np.int64),
        cores=np.full(nodes, 20.0),
        memory=np.full(nodes, float(vms)),
    )


def brute_force(window: Window, moves: int) -> float:
    """Smallest sum of distances from the mean over all placements within reach."""
    nodes, best = len(window.cores), np.inf
    for placement in itertools.product(range(nodes), repeat=len(window.start)):
        place = np.array(placement)
        if (place != window.start).sum() <= moves:
            usage = window.usage(place)[0]
            best = min(best, float(np.abs(usage - usage.mean()).sum()))
    return best


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("moves", [1, 2, 4])
def test_the_exact_answer_is_the_best_of_all_placements(seed: int, moves: int) -> None:
    window = problem(seed)
    chosen, gap = _exact(window, moves)
    usage = window.usage(chosen)[0]
    assert (chosen != window.start).sum() <= moves
    assert np.abs(usage - usage.mean()).sum() == pytest.approx(brute_force(window, moves), rel=1e-3)
    assert gap <= 1e-3


@pytest.mark.parametrize("seed", range(4))
def test_greedy_flattens_within_its_moves(seed: int) -> None:
    window = problem(seed)
    spreads = [window.stddev(_greedy(window, moves)) for moves in range(5)]
    assert spreads == sorted(spreads, reverse=True)
    assert (_greedy(window, 2) != window.start).sum() <= 2


def test_memory_is_respected() -> None:
    window = problem(0)
    tight = Window(window.demand, window.memory_bytes, window.start, window.cores, np.array([6.0, 1.0, 1.0]))
    for chosen in (_greedy(tight, 5), _exact(tight, 5)[0]):
        assert (np.bincount(chosen, minlength=3) <= [6, 1, 1]).all()


def test_regret_of_runs() -> None:
    scenario = load_scenario("hot-node").with_duration(1200)
    idle = sim.run(scenario, algorithm="none", seed=1).regret()
    assert (idle.moves, idle.moves_used, idle.regret) == (0, 0, pytest.approx(0.0, abs=1e-12))
    result = sim.run(scenario, algorithm="linear_amplified_ippd_k3", seed=1)
    found = result.regret()
    assert found.moves == result.summary["migrations"]
    assert 0 < found.best_cpu_stddev <= found.cpu_stddev
    assert result.regret() == found
    with pytest.raises(InputError, match="at most 10 migrations"):
        result.regret(exact=True)


def test_exact_regret_of_a_short_run() -> None:
    document = dict(load_scenario("quickstart").document)
    scenario = parse_scenario(document, "quickstart").with_duration(100)
    result = sim.run(scenario, algorithm="linear_amplified_ippd_k3", seed=1)
    assert 0 < result.summary["migrations"] <= 10
    exact, greedy = result.regret(exact=True), result.regret()
    assert exact.gap is not None
    assert exact.moves_used <= exact.moves
    assert exact.best_cpu_stddev <= greedy.best_cpu_stddev * 1.1


@pytest.mark.parametrize("name", ["hot-node", "churn", "drain"])
def test_the_tables_of_a_run_tell_its_outcome(name: str) -> None:
    """A live run has tables and scenario only: they must come to what the twin knows of itself."""
    scenario = load_scenario(name)
    result = sim.run(scenario, algorithm="linear_amplified_ippd_k3", seed=3, duration_seconds=1200)
    found = outcome(result.scenario, 3, result.tables, 1200)
    assert found == pytest.approx({key: result.summary[key] for key in found}, rel=1e-12)
    assert set(found) == set(OUTCOME_KEYS)


def test_vms_of_a_full_node_are_unhappy_until_they_move() -> None:
    """Eight VMs of 4 busy cores on 16 cores get half; none moves, and a node stands empty for the other run."""
    document = {
        "apiVersion": "simulation.node-classifier.io/v1alpha1",
        "kind": "SimulationScenario",
        "metadata": {"name": "full"},
        "spec": {
            "duration": "30m",
            "nodePools": [{"name": "node", "count": 4, "resources": {"cpu": 16, "memory": "64Gi"}}],
            "vmPools": [
                {"name": "vm", "count": 8, "resources": {"cpu": 4, "memory": "4Gi"}, "load": {"cpu": 1, "memory": 0.5},
                 "placement": {"strategy": "packed", "nodes": ["node-1"]}},
            ],
        },
    }  # fmt: skip
    scenario = parse_scenario(document, "full")
    idle = sim.run(scenario, algorithm="none")
    assert idle.happiness().to_list() == pytest.approx([0.5] * 8)
    assert idle.summary["happiness_mean"] == pytest.approx(0.5)
    assert idle.summary["unhappy_vms_ratio"] == 1.0
    moved = sim.run(scenario, algorithm="linear_amplified_ippd_k3")
    assert moved.summary["happiness_min"] > 0.6
    assert moved.summary["regret"] < idle.nodes["cpu_usage"].std()


def test_a_vm_that_runs_nowhere_gets_nothing_until_it_is_deleted() -> None:
    """Node 1 fails at half time and node 2 has room for one of its two VMs; a third is deleted at half time."""
    size = {"cpu": 2, "memory": "16Gi"}
    pools = [
        {"name": name, "count": count, "resources": size, "load": {"cpu": 0.5, "memory": 0.5},
         "placement": {"strategy": "packed", "nodes": [node]}}
        for name, count, node in (("vm", 2, "node-1"), ("gone", 1, "node-2"), ("stays", 1, "node-2"))
    ]  # fmt: skip
    document = {
        "apiVersion": "simulation.node-classifier.io/v1alpha1",
        "kind": "SimulationScenario",
        "metadata": {"name": "failure"},
        "spec": {
            "duration": "20m",
            "nodePools": [{"name": "node", "count": 2, "resources": {"cpu": 32, "memory": "40Gi"}}],
            "vmPools": pools,
            "timeline": [
                {"at": "10m", "type": "delete_vms", "pool": "gone"},
                {"at": "10m", "type": "fail_node", "node": "node-1"},
            ],
        },
    }
    result = sim.run(parse_scenario(document, "failure"), algorithm="none")
    found = result.happiness()
    assert sorted(found) == pytest.approx([0.5, 1.0, 1.0, 1.0])
    assert result.summary["unhappy_vms_ratio"] == 0.25
