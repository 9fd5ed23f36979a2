"""The twin: one lab hour at production's cadence with the k3 rules, small and large, and how cost grows.

Timed is ``labkit.sim.run`` alone, expansion of the scenario and initial placement included: node base series and the
chosen score are recorded. Making the tables and writing the largest as Parquet is a row of its own. Runs are counted in
processor seconds of their only thread: what else the machine does is no property of the twin.
"""

from __future__ import annotations

import multiprocessing
import resource
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks._rows import Row
from labkit import sim
from labkit.scenario import Scenario, load_scenario, parse_scenario

TITLE = "twin, one lab hour, 15 s cadence, k3"
ALGORITHM = "linear_amplified_ippd_k3"
SMALL_GOAL_SECONDS = 0.2
LARGE_GOAL_SECONDS = 3.0
UPDATES_GOAL = 10e6
TABLES_GOAL_SECONDS = 2.0
MEMORY_GOAL_GIB = 1.0
STEPS_PER_HOUR = 240


def measure() -> list[Row]:
    """Measure both sizes, tables and memory, then growth with nodes, VMs and time."""
    small = load_scenario("quickstart").with_duration(3600)
    big = large(1000, 20_000)
    rows = [Row("5 nodes, 50 VMs", repeated(lambda: play(small), 5), goal=SMALL_GOAL_SECONDS)]
    seconds = repeated(lambda: play(big), 3)
    rows.append(Row("1,000 nodes, 20,000 VMs", seconds, goal=LARGE_GOAL_SECONDS))
    updates = tuple(20_000 * STEPS_PER_HOUR / value / 1e6 for value in seconds)
    rows.append(Row("  VM updates", updates, unit="million/s", goal=UPDATES_GOAL / 1e6, more_is_better=True))
    rows.append(Row("  node tables, made and written as Parquet", (tables_seconds(big),), goal=TABLES_GOAL_SECONDS))
    rows.append(Row("  memory of the process, peak", (peak_gib(),), unit="GiB", goal=MEMORY_GOAL_GIB))
    rows += growth("nodes, 20 VMs each", (125, 250, 500, 1000), lambda n: large(n, 20 * n))
    rows += growth("VMs on 100 nodes", (1000, 2000, 4000), lambda n: large(100, n))
    rows += growth("lab hours of 100 nodes, 2,000 VMs", (1, 2, 4), lambda h: large(100, 2000).with_duration(3600 * h))
    return rows


def large(nodes: int, vms: int) -> Scenario:
    """Return a cluster whose VMs all fluctuate, placed by the scheduler."""
    load = {
        "cpu": {"kind": "random_walk", "mean": 0.4, "amplitude": 0.4},
        "memory": {"kind": "random_walk", "mean": 0.5, "amplitude": 0.2},
    }
    size = {"cpu": {"choice": [1, 2, 4]}, "memory": {"choice": ["4Gi", "8Gi", "16Gi"]}}
    document = {
        "apiVersion": "simulation.node-classifier.io/v1alpha1",
        "kind": "SimulationScenario",
        "metadata": {"name": "large"},
        "spec": {
            "duration": "1h",
            "seed": 1,
            "nodePools": [{"name": "node", "count": nodes}],
            "vmPools": [{"name": "vm", "count": vms, "resources": size, "load": load}],
        },
    }
    return parse_scenario(document, "large")


def play(scenario: Scenario) -> sim.SimResult:
    """Run the twin."""
    return sim.run(scenario, algorithm=ALGORITHM, seed=1)


def repeated(action: Callable[[], object], repeats: int) -> tuple[float, ...]:
    """Return processor seconds of each repetition, after one that is not counted."""
    action()
    seconds = []
    for _ in range(repeats):
        start = time.process_time()
        action()
        seconds.append(time.process_time() - start)
    return tuple(seconds)


def tables_seconds(scenario: Scenario) -> float:
    """Return the seconds that the tables of one run take."""
    result = play(scenario)
    start = time.process_time()
    with tempfile.TemporaryDirectory() as folder:
        for name, table in result.tables.items():
            table.to_parquet(Path(folder) / f"{name}.parquet")
    return time.process_time() - start


def peak_gib() -> float:
    """Return the peak memory of a process of its own that plays the large size."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_peak_gib)


def _peak_gib() -> float:
    play(large(1000, 20_000))
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def growth(what: str, sizes: tuple[int, ...], scenario_of: Callable[[int], Scenario]) -> list[Row]:
    """Return the cost per unit at each size; it must not rise from row to row."""
    rows = []
    for size in sizes:
        (seconds,) = repeated(_player(scenario_of(size)), 1)
        rows.append(Row(f"per one of {size:,} {what}", (seconds / size * 1000,), "ms"))
    return rows


def _player(scenario: Scenario) -> Callable[[], object]:
    return lambda: play(scenario)
