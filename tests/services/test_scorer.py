from __future__ import annotations

import logging
from collections.abc import Iterator

import numpy as np
import pytest
from werkzeug.test import Client

from labkit.errors import PrometheusError
from labkit.model import Snapshot
from labkit.names import DIMENSIONS
from labkit.prometheus import Sample
from labkit.scoring import FORM_RECORDS, Form
from labkit.scoring.pareto import pareto_front
from services.scorer.app import create_app
from services.scorer.logic import Scorer, read

LOADS = {"n1": (0.1, 0.01, 0.9, 0.09), "n2": (0.2, 0.02, 0.8, 0.08), "n6": (0.95, 0.2, 0.95, 0.2)}


class RecordedLoads:
    """Answers the scorer's queries from evaluations of known loads, as Prometheus would."""

    def __init__(self) -> None:
        self.evaluations: dict[Form, dict[float, dict[str, tuple[float, ...]]]] = {"score": {}, "avg1m": {}}
        self.asked: list[tuple[str, float | None]] = []
        self.up = True

    def query(self, promql: str, time: float | None = None) -> list[Sample]:
        if not self.up:
            raise PrometheusError("Prometheus did not answer")
        self.asked.append((promql, time))
        return list(self._answer(promql, time))

    def _answer(self, promql: str, time: float | None) -> Iterator[Sample]:
        for form, records in FORM_RECORDS.items():
            evaluations = self.evaluations[form]
            if promql == f"max(timestamp({records[DIMENSIONS[-1]]}))" and evaluations:
                yield Sample({}, max(evaluations), 1000.0)
            elif promql.startswith("{__name__=~") and records["cpu_usage"] in promql:
                for node, load in evaluations.get(time or 0.0, {}).items():
                    for dimension, value in zip(DIMENSIONS, load, strict=False):
                        yield Sample({"__name__": records[dimension], "instance": node}, value, time or 0.0)


@pytest.fixture
def prometheus() -> RecordedLoads:
    recorded = RecordedLoads()
    recorded.evaluations["score"] = {100.0: {"n1": (0.0,) * 4}, 115.0: LOADS}
    return recorded


def test_newest_evaluation_is_read_at_its_own_time(prometheus: RecordedLoads) -> None:
    reading = read(prometheus, "score")
    assert reading is not None
    assert reading.time_seconds == 115.0
    assert reading.snapshot.nodes == ("n1", "n2", "n6")
    assert prometheus.asked[-1][1] == 115.0


def test_node_without_all_records_is_left_out(prometheus: RecordedLoads) -> None:
    prometheus.evaluations["score"][130.0] = {"n1": LOADS["n1"], "n2": LOADS["n2"][:3]}
    reading = read(prometheus, "score")
    assert reading is not None
    assert reading.snapshot.nodes == ("n1",)


def test_no_records_no_reading(prometheus: RecordedLoads) -> None:
    assert read(prometheus, "avg1m") is None


def test_scores_are_the_reference(prometheus: RecordedLoads) -> None:
    scores = Scorer(prometheus).scores()
    snapshot = Snapshot.of(list(LOADS), np.array(list(LOADS.values())))
    assert scores == {("pareto_front", "score"): dict(zip(LOADS, pareto_front(snapshot).tolist(), strict=True))}


def test_page_has_one_sample_per_node(prometheus: RecordedLoads) -> None:
    page = Client(create_app(Scorer(prometheus))).get("/metrics").text
    lines = [line for line in page.splitlines() if line.startswith("lab_node_score{")]
    assert lines[-1] == 'lab_node_score{algorithm="pareto_front",form="score",instance="n6"} 1.0'
    assert len(lines) == 3
    assert 'lab_scorer_snapshot_timestamp_seconds{form="score"} 115.000' in page


def test_without_prometheus_there_are_no_old_scores(prometheus: RecordedLoads) -> None:
    client = Client(create_app(Scorer(prometheus)))
    client.get("/metrics")
    prometheus.up = False
    page = client.get("/metrics").text
    assert "lab_node_score{" not in page
    assert "lab_scorer_prometheus_up 0" in page


def test_alive_while_prometheus_is_not(prometheus: RecordedLoads) -> None:
    prometheus.up = False
    assert Client(create_app(Scorer(prometheus))).get("/healthz").status_code == 200


OWN = """
from labkit.scoring import algorithm

@algorithm
def busiest(snapshot):
    return snapshot.load_ratio.max(axis=1)
"""


def test_own_function_is_scored(prometheus: RecordedLoads) -> None:
    scorer = Scorer(prometheus)
    scorer.install({"mine.py": OWN})
    assert scorer.scores()["busiest", "score"] == {"n1": 0.9, "n2": 0.8, "n6": 0.95}


@pytest.mark.parametrize(
    "text",
    [OWN.replace("max(axis=1)", "max(axis=1) * 2"), OWN.replace("max(axis=1)", "max()"), OWN.replace("max(", "no(")],
    ids=["out of range", "one number", "raises"],
)
def test_own_function_that_fails_is_left_out_and_counted(prometheus: RecordedLoads, text: str) -> None:
    scorer = Scorer(prometheus)
    scorer.install({"mine.py": text})
    assert set(scorer.scores()) == {("pareto_front", "score")}
    assert 'lab_scorer_failures_total{algorithm="busiest"} 2' in Client(create_app(scorer)).get("/metrics").text


def test_broken_file_is_logged_and_the_others_stay(prometheus: RecordedLoads, caplog: pytest.LogCaptureFixture) -> None:
    scorer = Scorer(prometheus)
    with caplog.at_level(logging.WARNING):
        scorer.install({"broken.py": "def", "mine.py": OWN})
    assert [each.name for each in scorer.algorithms] == ["pareto_front", "busiest"]
    assert "broken.py: cannot be executed: SyntaxError" in caplog.text
