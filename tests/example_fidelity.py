"""Live runs for tests of the fidelity comparison, made by the twin: their spread is chance, their timing made up."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from labkit import results, sim
from labkit.analysis import summarize
from labkit.analysis.tables import COLUMNS
from labkit.results import RunRecord
from labkit.scenario import Scenario, parse_scenario

ALGORITHMS = ("none", "max_metric", "linear_amplified_ippd_k3")
LAB_SECONDS = 300.0
TIMING = {
    "scrape_phase_seconds": 3.0, "rule_lag_seconds": 6.0, "first_cycle_seconds": 12.0, "cycle_seconds": 60.0,
    "request_seconds": 1.0, "start_seconds": 2.0,
}  # fmt: skip
FIRST_DRAW = 1000
"""Of chance: none that an imitation would draw."""


def small_scenario() -> Scenario:
    """Return one hot node of four, and VMs that the scheduler places."""
    document = {
        "apiVersion": "simulation.node-classifier.io/v1alpha1",
        "kind": "SimulationScenario",
        "metadata": {"name": "small"},
        "spec": {
            "duration": "5m",
            "nodePools": [{"name": "node", "count": 4, "resources": {"cpu": 16, "memory": "64Gi"}}],
            "vmPools": [
                {"name": "hot", "count": 8, "resources": {"cpu": 4, "memory": "4Gi"},
                 "load": {"cpu": 0.45, "memory": 0.5}, "placement": {"strategy": "packed", "nodes": ["node-1"]}},
                {"name": "base", "count": 12, "resources": {"cpu": 2, "memory": "2Gi"},
                 "load": {"cpu": {"uniform": [0.1, 0.6]}, "memory": 0.5}},
            ],
        },
    }  # fmt: skip
    return parse_scenario(document, "small")


def example_runs(
    folder: Path, *, algorithms: Sequence[str] = ALGORITHMS, repeats: int = 3, backend: str = "local",
    score_lag_seconds: float = 0.0,
) -> Path:  # fmt: skip
    """Write the folder of an experiment whose runs look like a live backend's; returns it."""
    scenario = small_scenario()
    results_of = [(name, repeat) for name in algorithms for repeat in range(1, repeats + 1)]
    for name, repeat in results_of:
        timing = {**TIMING, "score_lag_seconds": score_lag_seconds, "first_cycle_seconds": 9.5 + 0.5 * repeat}
        played = sim.run(
            scenario, algorithm=name, seed=1, duration_seconds=LAB_SECONDS, tempo=15, timing=timing,
            chance=FIRST_DRAW + repeat,
        )  # fmt: skip
        tables = {table: getattr(played, table) for table in COLUMNS}
        measured = {key: value for key, value in timing.items() if key != "score_lag_seconds"}
        record = RunRecord(
            run_id=f"{name}-small-s1-r{repeat}-{backend}", backend=backend, scenario="small", algorithm=name, seed=1,
            tempo=15, policy={}, status="succeeded", error=None, summary=summarize(tables, lab_seconds=LAB_SECONDS),
            started_at="2026-01-01T00:00:00+00:00", experiment=folder.name, duration_seconds=LAB_SECONDS,
            parameters={"label": name, "policy_name": "", "repeat": repeat}, timing=measured,
        )  # fmt: skip
        results.write_run(folder / record.run_id, record, results.encode_tables(tables))
    (folder / results.SCENARIOS_FOLDER).mkdir(parents=True, exist_ok=True)
    results.write_scenario(folder / results.SCENARIOS_FOLDER, scenario)
    return folder
