"""A small made run for tests of tables, numbers and figures: a skewed start that migrations level out.

The physics is a toy on purpose (the load of a node is the sum of its VMs); what a real backend gives is tested
with that backend.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from labkit import results
from labkit.analysis import summarize
from labkit.results import RunRecord
from labkit.versions import RESULTS_API_VERSION

SCENARIO = """\
apiVersion: simulation.node-classifier.io/v1alpha1
kind: SimulationScenario
metadata: {name: small}
spec:
  duration: 2m
  nodePools: [{name: node, count: 2, resources: {cpu: 8, memory: 32Gi, pods: 110}}]
  vmPools: [{name: vm, count: 4, resources: {cpu: 2, memory: 4Gi}, load: {cpu: 0.5, memory: 0.5}}]
"""
"""A scenario that is played in a moment."""

LAB_SECONDS = 1200.0
STEP_SECONDS = 15.0
CYCLE_SECONDS = 60.0


def example_tables(
    *, nodes: int = 5, vms: int = 24, seed: int = 1, moves: int = 8, back_again: bool = False
) -> dict[str, pd.DataFrame]:
    """Return the five tables of the made run.

    All VMs start on the first two nodes; each cycle one VM moves from the fullest node to the emptiest.
    With ``back_again`` the first VM that moved returns to where it came from at the end.
    """
    rng = np.random.default_rng(seed)
    names = [f"kwok-node-{index + 1}" for index in range(nodes)]
    size = rng.uniform(0.02, 0.09, vms)
    host = rng.integers(0, min(2, nodes), vms)
    placement = [(0.0, f"vm-{vm}", names[host[vm]]) for vm in range(vms)]
    samples, cycles, evictions, migrations = [], [], [], []
    first: tuple[int, int] | None = None
    for time in np.arange(0.0, LAB_SECONDS, STEP_SECONDS):
        wave = 1.0 + 0.05 * np.sin(time / 90.0 + np.arange(vms))
        cpu = np.clip(np.bincount(host, size * wave, minlength=nodes), 0.0, 1.0)
        pressure = np.clip((cpu - 0.6) / 0.4, 0.0, 1.0) ** 2
        score = np.clip(cpu + 0.2 * pressure, 0.0, 1.0)
        count = np.bincount(host, minlength=nodes)
        samples += [
            (time, names[n], cpu[n], pressure[n], 0.5 * cpu[n], 0.1 * pressure[n], score[n], count[n])
            for n in range(nodes)
        ]
        if time == 0.0 or time % CYCLE_SECONDS:
            continue
        percent = np.trunc(score * 100)
        low, high = percent.mean(), percent.mean() + 10
        kinds = np.where(percent <= low, "underutilized", np.where(percent > high, "overutilized", "appropriate"))
        cycles += [(time, names[n], percent[n], low, high, kinds[n]) for n in range(nodes)]
        source, target = int(score.argmax()), int(score.argmin())
        returning = back_again and first is not None and time == LAB_SECONDS - 2 * CYCLE_SECONDS
        if returning and first is not None:
            vm, target = first
            source = int(host[vm])
        elif kinds[source] == "overutilized" and len(migrations) < moves:
            vm = int(np.flatnonzero(host == source)[0])
            first = first or (vm, source)
        else:
            continue
        evictions.append((time, f"vm-{vm}", names[source], "background"))
        migrations.append(
            (time, f"vm-{vm}", names[source], names[target], time, time + 2.0, time + 22.0, "succeeded", 4e9, 0.2)
        )
        placement.append((time + 22.0, f"vm-{vm}", names[target]))
        host[vm] = target
    return {
        "nodes": pd.DataFrame(
            samples,
            columns=["time_seconds", "node", "cpu_usage", "cpu_pressure", "memory_usage", "memory_pressure",
                     "score", "vms"],
        ),
        "cycles": pd.DataFrame(cycles, columns=["time_seconds", "node", "usage_percent", "low", "high", "class"]),
        "evictions": pd.DataFrame(evictions, columns=["time_seconds", "vm", "node", "result"]),
        "migrations": pd.DataFrame(
            migrations,
            columns=["time_seconds", "vm", "source", "target", "requested_seconds", "started_seconds",
                     "ended_seconds", "outcome", "bytes", "downtime_seconds"],
        ),
        "placement": pd.DataFrame(placement, columns=["time_seconds", "vm", "node"]),
    }  # fmt: skip


MOVES = {"none": 0, "weighted_average": 4, "linear_amplified_ippd_k3": 12, "oracle": 14}
"""How many of the made run's migrations an algorithm of the made experiment may cause."""


def example_experiment(
    folder: Path, *, algorithms: Sequence[str] = tuple(MOVES), scenarios: Sequence[str] = ("hot",), seeds: int = 3
) -> list[RunRecord]:
    """Write the folder of a made experiment, as a runner leaves it, and return its records."""
    records = []
    labels: Counter[str] = Counter()
    for algorithm in algorithms:
        labels[algorithm] += 1
        label = algorithm + (" (again)" if labels[algorithm] > 1 else "")
        for scenario in scenarios:
            for seed in range(1, seeds + 1):
                tables = example_tables(seed=seed + 100 * len(scenario), moves=MOVES.get(algorithm, 8), vms=40)
                run_id = f"{label.replace(' (', '-').rstrip(')')}-{scenario}-s{seed}-sim"
                record = RunRecord(
                    run_id=run_id, backend="sim", scenario=scenario, algorithm=algorithm, seed=seed, tempo=15,
                    policy={}, status="succeeded", error=None, started_at="2026-01-01T00:00:00+00:00",
                    summary=summarize(tables, lab_seconds=LAB_SECONDS, wall_seconds=0.1), experiment="made",
                    key=f"key-{run_id}", duration_seconds=LAB_SECONDS, parameters={"label": label, "policy_name": ""},
                )  # fmt: skip
                results.write_run(folder / run_id, record, results.encode_tables(tables))
                records.append(record)
    results.write_table(folder / results.RUNS_FILE, results.collect(records))
    state = {
        "api_version": RESULTS_API_VERSION, "name": "made", "question": "Does moving VMs help?", "backend": "sim",
        "baseline": algorithms[0], "metrics": ["hotspot_seconds", "migrations", "time_to_settle_seconds"],
        "duration_seconds": LAB_SECONDS, "tempo": 15, "runs": len(records), "counts": {"succeeded": len(records)},
        "status": "succeeded", "keys": [], "text": "question: Does moving VMs help?",
    }  # fmt: skip
    results.write_json(folder / results.EXPERIMENT_FILE, state)
    return records
