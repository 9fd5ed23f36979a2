from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from werkzeug.test import Client

from labkit.datafiles import data_path
from labkit.descheduling import Thresholds
from labkit.errors import InputError, KubeError, NoSamplesError
from labkit.kube import NODES, Object, Resource
from services.soft_tainter.app import SoftTainter, create_app
from services.soft_tainter.logic import (
    APPROPRIATE_TAINT,
    OVERUTILIZED_TAINT,
    classification_of,
    selected,
    taint_patch,
    wanted_taints,
)

KWOK_TAINT = {"key": "kwok.x-k8s.io/node", "value": "fake", "effect": "NoSchedule"}


def node(name: str, *, ready: str = "True", version: str = "1", **spec: Any) -> Object:
    return {
        "metadata": {"name": name, "resourceVersion": version, "labels": {"kubevirt.io/schedulable": "true"}},
        "spec": {"taints": [KWOK_TAINT], **spec},
        "status": {"conditions": [{"type": "Ready", "status": ready}]},
    }


class Nodes:
    """The nodes of an API server and the mirror of them, in one."""

    def __init__(self, *nodes: Object) -> None:
        self.by_name = {each["metadata"]["name"]: each for each in nodes}
        self.conflicts: set[str] = set()

    def items(self) -> list[Object]:
        return list(self.by_name.values())

    def patch(self, resource: Resource, name: str, patch: Mapping[str, Any]) -> None:
        assert resource is NODES
        old = self.by_name[name]
        assert patch["metadata"]["resourceVersion"] == old["metadata"]["resourceVersion"]
        if name in self.conflicts:
            raise KubeError("changed", status=409)
        version = str(int(old["metadata"]["resourceVersion"]) + 1)
        self.by_name[name] = {
            **old,
            "metadata": {**old["metadata"], "resourceVersion": version},
            "spec": {**old["spec"], **patch["spec"]},
        }

    def taints(self) -> dict[str, list[str]]:
        return {
            name: [taint["key"].rpartition("/")[2] for taint in each["spec"]["taints"] if taint != KWOK_TAINT]
            for name, each in self.by_name.items()
        }


class Scores:
    """A Prometheus that knows one answer."""

    def __init__(self, **values: float) -> None:
        self.values = values

    def by_node(self, promql: str) -> dict[str, float]:
        if not self.values:
            raise NoSamplesError("found none", query=promql)
        return self.values


class Policies:
    """A mirror of the policy that ships with the lab."""

    def get(self, namespace: str, name: str) -> Object | None:
        import yaml

        obj: Object = yaml.safe_load(data_path("k8s", "descheduler-policy.yaml").read_text(encoding="utf-8"))
        assert (obj["metadata"]["namespace"], obj["metadata"]["name"]) == (namespace, name)
        return obj


def tainter(nodes: Nodes, scores: Scores) -> SoftTainter:
    return SoftTainter(nodes, scores, nodes=nodes, policies=Policies())  # type: ignore[arg-type]


def test_classes_become_taints() -> None:
    nodes = Nodes(node("a"), node("b"), node("c"))
    assert tainter(nodes, Scores(a=0.9, b=0.35, c=0.1)).look()
    # mean 45: b and c are at or below it; only a is over.
    assert nodes.taints() == {"a": ["appropriate", "overutilized"], "b": [], "c": []}
    assert tainter(nodes, Scores(a=0.4, b=0.45, c=0.41)).look()
    assert nodes.taints() == {"a": [], "b": ["appropriate"], "c": []}


def test_a_second_look_at_the_same_state_writes_nothing() -> None:
    nodes = Nodes(node("a"), node("b"), node("c"))
    for _ in range(2):
        tainter(nodes, Scores(a=0.9, b=0.35, c=0.1)).look()
    assert [each["metadata"]["resourceVersion"] for each in nodes.items()] == ["2", "1", "1"]


def test_where_nobody_is_under_appropriate_nodes_count_as_under() -> None:
    nodes = [node("a", unschedulable=True), node("b"), node("c")]
    classes = classification_of(nodes, {"a": 0.1, "b": 0.5, "c": 0.9}, Thresholds(30, 10))
    assert classes.classes == ["appropriate", "appropriate", "overutilized"]
    assert wanted_taints(classes) == [(), (), (APPROPRIATE_TAINT, OVERUTILIZED_TAINT)]


@pytest.mark.parametrize("scores", [Scores(), Scores(a=0.9, b=0.1), Scores(a=0.9, b=0.1, c=1.5)])
def test_without_a_sound_score_of_every_node_nothing_changes(scores: Scores) -> None:
    nodes = Nodes(node("a"), node("b"), node("c"))
    tainter(nodes, Scores(a=0.9, b=0.35, c=0.1)).look()
    before = nodes.taints()
    assert not tainter(nodes, scores).look()
    assert nodes.taints() == before


def test_a_conflict_waits_for_the_next_look() -> None:
    nodes = Nodes(node("a"), node("b"), node("c"))
    nodes.conflicts.add("a")
    assert tainter(nodes, Scores(a=0.9, b=0.35, c=0.1)).look()
    assert nodes.taints()["a"] == []
    nodes.conflicts.clear()
    assert tainter(nodes, Scores(a=0.9, b=0.35, c=0.1)).look()
    assert nodes.taints()["a"] == ["appropriate", "overutilized"]


def test_nodes_that_are_not_ready_or_not_selected_do_not_count() -> None:
    other = node("d")
    other["metadata"]["labels"] = {}
    nodes = [node("b"), node("a"), node("c", ready="False"), other]
    assert [each["metadata"]["name"] for each in selected(nodes, "kubevirt.io/schedulable=true")] == ["a", "b"]
    with pytest.raises(InputError, match="key=value"):
        selected(nodes, "a in (b)")


def test_other_taints_stay_and_ours_go_with_the_process() -> None:
    nodes = Nodes(node("a"), node("b"))
    running = tainter(nodes, Scores(a=0.9, b=0.1))
    running.look()
    assert KWOK_TAINT in nodes.by_name["a"]["spec"]["taints"]
    running.clear()
    assert nodes.taints() == {"a": [], "b": []}
    assert nodes.by_name["a"]["spec"]["taints"] == [KWOK_TAINT]
    assert taint_patch(nodes.by_name["a"], ()) is None


def test_pages() -> None:
    running = tainter(Nodes(node("a"), node("b")), Scores(a=0.9, b=0.1))
    running.look()
    alive = [True]
    client = Client(create_app(running, lambda: alive[0]))
    assert client.get("/healthz").status_code == 200
    assert b"lab_soft_tainted_nodes 1.0" in client.get("/metrics").data
    alive[0] = False
    assert client.get("/healthz").status_code == 500
