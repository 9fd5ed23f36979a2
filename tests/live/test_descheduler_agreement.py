"""The twin's descheduler against the real one: the same scores give the same classes and evictions per node."""

from __future__ import annotations

import pandas as pd
import pytest

from labkit import Lab
from labkit.cluster import RunningLab
from labkit.descheduling import PRESETS, EvictionCache, balance, classify
from labkit.lab import Run

pytestmark = pytest.mark.live

PRESET = "AsymmetricLow"
DURATION = "10m"


@pytest.fixture(scope="module")
def run(lab: RunningLab) -> Run:
    with Lab(backend=lab.backend, name=lab.name) as door:
        door.apply("quickstart", seed=11)
        door.use("linear_amplified_ippd_k3", thresholds=PRESET)
        return door.run(DURATION)


def expected_evictions(cycle: pd.DataFrame, under_way: pd.DataFrame) -> dict[str, int]:
    """Return what the twin would ask for in a cycle that the real descheduler logged.

    Which pods are tried is left to chance, how many of a node succeed is not: a pod under way uses up one of the tries
    and one of the node's places alike. So the pods under way are tried first here.
    """
    nodes = cycle["node"].tolist()
    # The log has whole percent; half a point more cannot change them, nor fall below them by rounding.
    values = [min((percent + 0.5) / 100, 1.0) for percent in cycle["usage_percent"]]
    classification = classify(values, PRESETS[PRESET])
    assert classification.classes == cycle["class"].tolist()
    cache = EvictionCache()
    for row in under_way.itertuples():
        cache.assume(row.vm, nodes.index(row.source), 0.0)

    def pods_on(node: int) -> list[str]:
        leaving = under_way.loc[under_way["source"] == nodes[node], "vm"]
        return [*leaving, *(f"{node}-{number}" for number in range(9))]

    attempts = balance(classification, pods_on=pods_on, request=lambda pod, node: True, cache=cache, now=0.0)
    counts: dict[str, int] = {}
    for attempt in attempts:
        if attempt.result == "background":
            counts[nodes[attempt.node]] = counts.get(nodes[attempt.node], 0) + 1
    return counts


def test_each_cycle_asks_for_what_the_twin_would(run: Run) -> None:
    cycles, evictions, migrations = (run.tables[name] for name in ("cycles", "evictions", "migrations"))
    times = sorted(cycles["time_seconds"].unique())
    acted = 0
    for start, end in zip(times, [*times[1:], float("inf")], strict=True):
        cycle = cycles[cycles["time_seconds"] == start].sort_values("node")
        asked = evictions[evictions["time_seconds"].between(start, end, inclusive="left")]
        found = {str(node): int(count) for node, count in asked.groupby("node").size().items()}
        under_way = migrations[(migrations["requested_seconds"] < start) & ~(migrations["ended_seconds"] <= start)]
        assert found == expected_evictions(cycle, under_way), f"the cycle at lab time {start:g}"
        acted += bool(found)
    assert len(times) >= 8
    assert acted >= 2, "cycles in which something was asked for"
