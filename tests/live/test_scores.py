"""The running Prometheus, the scorer and the descheduler give every algorithm the scores of its definition."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from labkit import scoring
from labkit.clock import wait_until
from labkit.cluster import RunningLab, own
from labkit.cluster.algorithm import switch_algorithm
from labkit.kube import PROMETHEUS_RULES
from labkit.model import Snapshot
from labkit.names import DIMENSIONS, MONITORING_NAMESPACE, PROMETHEUS_PORT
from labkit.prometheus import Prometheus
from labkit.scoring import FORM_RECORDS, FORMS, NINETEEN, Algorithm, Form, user

pytestmark = pytest.mark.live

SLOWEST_RECORD = "descheduler:node:pareto_front:avg1m"
"""The record that comes last after a start: a minute of load, then the scorer's turn."""
EVALUATIONS_OLD = 3
FUNCTION = """
from labkit.scoring import algorithm

@algorithm
def live_function(snapshot):
    return snapshot.load_ratio[:, [0, 2]].max(axis=1)
"""
RULE = """
apiVersion: monitoring.coreos.com/v1
kind: PrometheusRule
metadata: {name: live-rule, namespace: monitoring}
spec:
  groups:
    - name: live-rule
      rules:
        - record: descheduler:node:live_rule:avg1m
          expr: 0.5 * descheduler:nodeutilization:cpu:avg1m
"""


@pytest.fixture(scope="module")
def prometheus(lab: RunningLab) -> Prometheus:
    found = Prometheus(lab.url(PROMETHEUS_PORT))
    enough = f"count_over_time({SLOWEST_RECORD}[1m]) > {EVALUATIONS_OLD + 1}"
    wait_until(lambda: found.query(enough), timeout_seconds=120.0, what="the slowest score, several times")
    return found


def evaluation(prometheus: Prometheus, before: float | None = None) -> float:
    """Return the time of the newest evaluation that is complete, or of the one before a time."""
    if before is None:
        before = prometheus.query(f"max(timestamp({SLOWEST_RECORD}))")[0].value
    return prometheus.query(f"max(timestamp({SLOWEST_RECORD}))", before - 0.001)[0].value


def recorded(prometheus: Prometheus, time: float) -> Mapping[str, Mapping[str, float]]:
    records: dict[str, dict[str, float]] = {}
    for sample in prometheus.query('{__name__=~"descheduler:node.*"}', time):
        records.setdefault(sample.labels["__name__"], {})[sample.labels["instance"]] = sample.value
    return records


def snapshot(records: Mapping[str, Mapping[str, float]], form: Form) -> Snapshot:
    names = FORM_RECORDS[form]
    nodes = sorted(records[names["cpu_usage"]])
    return Snapshot.of(nodes, [[records[names[dimension]][node] for dimension in DIMENSIONS] for node in nodes])


@pytest.mark.parametrize("number", range(3))
def test_running_prometheus_agrees_with_the_reference(prometheus: Prometheus, number: int) -> None:
    now = evaluation(prometheus)
    times = [now]
    for _ in range(EVALUATIONS_OLD):
        times.append(evaluation(prometheus, times[-1]))
    records, *earlier = [recorded(prometheus, time) for time in times]
    for form in FORMS:
        for algorithm in NINETEEN:
            # What the scorer computes is one evaluation old, and more where a scrape came late.
            sources = earlier if algorithm.computed_by == "scorer" else [records]
            wanted = [scores(algorithm, snapshot(source, form)) for source in sources]
            found = records[algorithm.records[form]]
            assert any(found == pytest.approx(each, abs=1e-9) for each in wanted), (
                algorithm.records[form],
                found,
                wanted,
            )
    wait_until(lambda: evaluation(prometheus) > now, timeout_seconds=60.0, what="the next evaluation")


def scores(algorithm: Algorithm, loads: Snapshot) -> dict[str, float]:
    return dict(zip(loads.nodes, algorithm.score(loads).tolist(), strict=True))


@pytest.fixture(scope="module")
def policy_put_back(lab: RunningLab, prometheus: Prometheus) -> Iterator[None]:
    yield
    switch_algorithm(lab.kube, prometheus, "production_k3")


@pytest.mark.slow
@pytest.mark.usefixtures("policy_put_back")
@pytest.mark.parametrize("algorithm", scoring.BUILT_IN, ids=lambda each: each.name)
def test_descheduler_works_with_every_algorithm(lab: RunningLab, prometheus: Prometheus, algorithm: Algorithm) -> None:
    switch = switch_algorithm(lab.kube, prometheus, algorithm.name)
    assert switch.policy.query == algorithm.record


@pytest.fixture
def own_folder(tmp_path: Path, lab: RunningLab, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv(user.FOLDERS_VARIABLE, str(tmp_path))
    yield tmp_path
    for path in list(tmp_path.iterdir()):
        lab.kube.delete(PROMETHEUS_RULES, f"user-{path.stem.replace('_', '-')}", MONITORING_NAMESPACE)
    lab.kube.apply(user.manifests([])[0])


@pytest.mark.parametrize(
    ("name", "text"), [("live_function.py", FUNCTION), ("live_rule.yaml", RULE)], ids=["function", "rule"]
)
def test_own_algorithm_reaches_the_running_lab(
    lab: RunningLab, prometheus: Prometheus, own_folder: Path, name: str, text: str
) -> None:
    (own_folder / name).write_text(text)
    algorithm = scoring.get(Path(name).stem)
    assert own.bring(lab.kube, algorithm)
    nodes = prometheus.by_node(FORM_RECORDS["avg1m"]["cpu_usage"])
    wait_until(
        lambda: {sample.labels["instance"] for sample in prometheus.query(algorithm.record)} == set(nodes),
        timeout_seconds=60.0,
        what=f"a sample of {algorithm.record} for each node",
    )
