"""The three engines on real programs: a private Prometheus scores what the tests have never seen."""

from __future__ import annotations

import json
import secrets

import numpy as np
import pytest

from labkit import engines
from labkit.cli import main
from labkit.engines import ENGINES
from labkit.errors import RuleError
from labkit.model import Snapshot
from labkit.prometheus import Prometheus
from labkit.scoring import BUILT_IN, FORMS, Algorithm, Form, get
from labkit.scoring.history import History
from services.scorer.logic import Scorer

pytestmark = pytest.mark.live


def unseen(nodes: int, seed: int) -> Snapshot:
    load = np.random.default_rng(seed).random((nodes, 4)).round(4)
    return Snapshot.of([f"node-{index:04d}" for index in range(nodes)], load)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("nodes", [1, 2, 17, 1000])
def test_engines_agree_on_nodes_never_seen(nodes: int, form: Form) -> None:
    seed = secrets.randbits(32)
    snapshot = unseen(nodes, seed)
    found = {engine: engines.scores(BUILT_IN, snapshot, engine=engine, form=form) for engine in ENGINES}
    for algorithm in BUILT_IN:
        wanted = found["reference"][algorithm.name]
        for engine in ENGINES:
            assert found[engine][algorithm.name] == pytest.approx(wanted, abs=1e-9), (engine, algorithm.name, seed)


def test_command_line_with_a_real_prometheus(tmp_path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "nodes.csv"
    file.write_text(
        "node,cpu_usage,cpu_pressure,memory_usage,memory_pressure\nn1,.9,.3,.6,0\nn2,.5,0,.4,.1\nn3,.1,0,.2,.2\n"
    )
    assert main(["score", str(file), "--algorithm", "weighted_average", "--engine", "prometheus", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == pytest.approx({"n1": 0.45, "n2": 0.25, "n3": 0.125})


def test_scorer_on_a_real_prometheus(tmp_path) -> None:
    snapshot = unseen(40, 3)
    series = list(History.constant(snapshot, duration_seconds=90, step_seconds=15).series())
    with engines.private_prometheus(tmp_path, engines.rule_groups(), series) as url:
        scores = Scorer(Prometheus(url)).scores()
    for form in FORMS:
        wanted = engines.scores([get("pareto_front")], snapshot, form=form)["pareto_front"]
        assert scores["pareto_front", form] == pytest.approx(wanted, abs=1e-9)


@pytest.mark.parametrize(
    ("expr", "message"),
    [
        ("descheduler:node:cpu_usage:ratio / 0", r"found NaN|found inf"),
        ('label_replace(node_cpu_usage_ratio, "instance", "one", "", "")', "same labelset|several"),
        ("sum(node_cpu_usage_ratio)", "wanted the label 'instance'"),
        ("no such", "promtool refuses"),
    ],
    ids=["divides by zero", "two samples", "no node", "no PromQL"],
)
def test_rule_that_is_wrong_is_refused(expr: str, message: str) -> None:
    record = "descheduler:node:mine:score"
    mine = Algorithm("mine", "yours", "rule", "", {"score": record}, None, ({"record": record, "expr": expr},))
    with pytest.raises(RuleError, match=message):
        engines.scores([mine], unseen(3, 1), engine="prometheus")
