"""How the real descheduler classifies nodes, against our own arithmetic on the samples that it was given."""

from __future__ import annotations

import pandas as pd
import pytest

from labkit import Lab, scoring
from labkit.clock import LabTime, wait_until
from labkit.cluster import RunningLab
from labkit.cluster.algorithm import switch_algorithm
from labkit.descheduling import PRESETS, classify
from labkit.kube import PODS
from labkit.lab import record
from labkit.names import DESCHEDULER_NAMESPACE, PROMETHEUS_PORT
from labkit.prometheus import Prometheus

pytestmark = pytest.mark.live

CYCLES = 3
EARLIER_SECONDS = (0.0, 0.1, 0.6, 1.1, 1.6, 2.1)
WALL = LabTime(epoch=0.0, tempo=1)

CASES = [
    ("linear_amplified_ippd_k3", "AsymmetricLow"),
    ("weighted_average", "Low"),
    ("euclidean_distance", "AsymmetricMedium"),
    ("centroid_distance", "Medium"),
    ("critical_dimension_focus", "AsymmetricHigh"),
    ("max_metric", "High"),
]


@pytest.fixture(scope="module")
def placed(lab: RunningLab) -> RunningLab:
    """Place the quickstart's VMs, two nodes of them hot."""
    with Lab(backend=lab.backend, name=lab.name) as door:
        door.apply("quickstart", seed=5)
        door.use("none")
        door.run("1m")
    return lab


def cycles(lab: RunningLab, pod: str) -> pd.DataFrame:
    path = PODS.path(DESCHEDULER_NAMESPACE, pod, "log")
    log = lab.kube.raw("GET", path, query={"timestamps": "true"}).decode()
    return record.descheduling_cycles(log.splitlines(), WALL)


def verdict(prometheus: Prometheus, algorithm: str, preset: str, wall: float) -> dict[str, tuple[int, str]]:
    """Return each node's points and class by our own arithmetic, at an instant of wall time."""
    scores = prometheus.by_node(scoring.get(algorithm).record, wall)
    found = classify(list(scores.values()), PRESETS[preset])
    return dict(zip(scores, zip(found.percent.tolist(), found.classes, strict=True), strict=True))


def test_every_preset_is_covered() -> None:
    assert {preset for _, preset in CASES} == set(PRESETS)


@pytest.mark.parametrize(("algorithm", "preset"), CASES)
def test_nodes_are_classified_as_by_our_own_arithmetic(placed: RunningLab, algorithm: str, preset: str) -> None:
    prometheus = Prometheus(placed.url(PROMETHEUS_PORT))
    switch = switch_algorithm(placed.kube, prometheus, algorithm, thresholds=preset, scores_timeout_seconds=60)
    wait_until(
        lambda: cycles(placed, switch.pod)["time_seconds"].nunique() >= CYCLES,
        timeout_seconds=120,
        what=f"{CYCLES} cycles",
    )
    compared = 0
    for wall, rows in cycles(placed, switch.pod).groupby("time_seconds"):
        # The log's time is a little later than the samples', by an evaluation or two on a busy machine.
        seen = [verdict(prometheus, algorithm, preset, float(str(wall)) - early) for early in EARLIER_SECONDS]
        told = dict(zip(rows["node"], zip(rows["usage_percent"], rows["class"], strict=True), strict=True))
        assert told in seen, f"{rows.to_string()}\n{seen}"
        compared += 1
    assert compared >= CYCLES
