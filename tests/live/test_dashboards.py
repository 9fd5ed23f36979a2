"""Every query of the dashboards, and every metric as PromQL, answered by a live run."""

from __future__ import annotations

import json

import pytest

from labkit.cluster import RunningLab
from labkit.datafiles import data_path
from labkit.lab import Lab
from labkit.names import PROMETHEUS_PORT
from labkit.prometheus import Prometheus
from tools.grafana_dashboards import filled, queries

pytestmark = pytest.mark.live

NEVER_IN_A_GOOD_RUN = ("descheduler_pods_evicted_total",)
"""Counted only once a source pod is gone; a run this short may end before."""


@pytest.mark.timeout(240)
def test_every_query_is_answered_by_a_live_run(lab: RunningLab, backend: str) -> None:
    with Lab(backend=backend, tempo=15, name=lab.name) as running:
        running.apply("quickstart", seed=1)
        running.use("linear_amplified_ippd_k3")
        run = running.run("5m")
    assert run.summary["migrations"] > 0
    prometheus = Prometheus(lab.url(PROMETHEUS_PORT))
    unanswered = []
    for path in sorted(data_path("k8s", "dashboards").glob("*.json")):
        for text in queries(json.loads(path.read_text())):
            if not prometheus.query(filled(text)) and not any(name in text for name in NEVER_IN_A_GOOD_RUN):
                unanswered.append(text)
    assert unanswered == []
