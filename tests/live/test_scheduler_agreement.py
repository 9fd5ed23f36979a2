"""The twin's scheduler against the real one: each pod must land on a node that the twin scores highest."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from labkit.clock import wait_until
from labkit.cluster import RunningLab
from labkit.kube import NODES, PODS, SIMULATION_SCENARIOS, VIRTUAL_MACHINES, Object
from labkit.names import FAKE_NODE_TAINT, NODE_TYPE_KWOK, NODE_TYPE_LABEL, VM_NAMESPACE
from labkit.placement import NodeTable, PodRequest, top_scored
from labkit.scenario import Node, Taint
from labkit.units import parse_quantity

pytestmark = pytest.mark.live

LABEL = "labkit-test"
PODS_TO_PLACE = 60
MIB = 2**20


def pod_object(number: int, request: PodRequest) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": f"placed-{number}", "namespace": VM_NAMESPACE, "labels": {"app": LABEL}},
        "spec": {
            "automountServiceAccountToken": False,
            "nodeSelector": {NODE_TYPE_LABEL: NODE_TYPE_KWOK},
            "tolerations": [{"key": FAKE_NODE_TAINT, "value": "fake", "effect": "NoSchedule"}],
            "containers": [
                {
                    "name": "none",
                    "image": "none",
                    "resources": {"requests": {"cpu": f"{request.millicores}m", "memory": str(request.memory_bytes)}},
                }
            ],
        },
    }


def node_value(obj: Object) -> Node:
    room = obj["status"]["allocatable"]
    taints = [t for t in obj["spec"].get("taints", []) if t["key"] != FAKE_NODE_TAINT]
    return Node(
        name=obj["metadata"]["name"],
        cores=parse_quantity(room["cpu"]),
        memory_bytes=parse_quantity(room["memory"]),
        max_pods=int(room["pods"]),
        taints=tuple(Taint(t["key"], t["effect"], t.get("value", "")) for t in taints),
        unschedulable=bool(obj["spec"].get("unschedulable")),
    )


@pytest.fixture
def uneven_nodes(lab: RunningLab) -> Iterator[list[Node]]:
    """The lab's nodes, two of them softly tainted and one cordoned."""
    kube = lab.kube
    before = sorted(
        kube.list(NODES, label_selector=f"{NODE_TYPE_LABEL}={NODE_TYPE_KWOK}")["items"],
        key=lambda node: str(node["metadata"]["name"]),
    )
    soft = [{"key": f"example.org/{n}", "value": "true", "effect": "PreferNoSchedule"} for n in range(2)]
    changes: list[dict[str, Any]] = [
        {"taints": [*before[0]["spec"]["taints"], *soft]},
        {"taints": [*before[1]["spec"]["taints"], soft[0]]},
        {"unschedulable": True},
    ]
    for node, change in zip(before, changes, strict=False):
        kube.patch(NODES, node["metadata"]["name"], {"spec": change})
    try:
        names = [node["metadata"]["name"] for node in before]
        yield [node_value(kube.get(NODES, name)) for name in names]
    finally:
        for pod in kube.list(PODS, VM_NAMESPACE, label_selector=f"app={LABEL}")["items"]:
            kube.delete(PODS, pod["metadata"]["name"], VM_NAMESPACE, grace_period_seconds=0)
        for node in before:
            back = {"taints": node["spec"]["taints"], "unschedulable": None}
            kube.patch(NODES, node["metadata"]["name"], {"spec": back})


def requests_of(pod: Object) -> PodRequest:
    total = {"cpu": 0.0, "memory": 0.0}
    for container in pod["spec"]["containers"]:
        for resource, amount in container.get("resources", {}).get("requests", {}).items():
            total[resource] = total.get(resource, 0.0) + parse_quantity(amount)
    return PodRequest(round(total["cpu"] * 1000), round(total["memory"]))


def test_every_pod_lands_where_the_twin_scores_highest(lab: RunningLab, uneven_nodes: list[Node]) -> None:
    kube = lab.kube
    # What earlier tests left would fill the nodes before the last pod has come.
    kube.raw("DELETE", SIMULATION_SCENARIOS.path(VM_NAMESPACE))
    kube.raw("DELETE", VIRTUAL_MACHINES.path(VM_NAMESPACE))
    wait_until(lambda: not kube.list(PODS, VM_NAMESPACE)["items"], timeout_seconds=60, what="the VMs' pods to be gone")
    table = NodeTable(uneven_nodes)
    number_of = {node.name: number for number, node in enumerate(uneven_nodes)}
    for pod in kube.list(PODS)["items"]:
        if pod["spec"].get("nodeName") in number_of and pod["status"].get("phase") not in ("Succeeded", "Failed"):
            table.bind(number_of[pod["spec"]["nodeName"]], requests_of(pod))
    rng = np.random.default_rng(1)
    chosen: list[int] = []
    for number in range(PODS_TO_PLACE):
        request = PodRequest(int(rng.integers(50, 2000)), int(rng.integers(256, 32 * 1024)) * MIB)
        allowed = top_scored(table, request).tolist()
        kube.create(PODS, pod_object(number, request), VM_NAMESPACE)
        name = f"placed-{number}"
        node = wait_until(
            lambda name=name: kube.get(PODS, name, VM_NAMESPACE)["spec"].get("nodeName"),  # type: ignore[misc]
            timeout_seconds=20,
            what=f"a node for pod {name}",
        )
        assert number_of[node] in allowed, f"pod {number}: {node} is not among the twin's {allowed}"
        table.bind(number_of[node], request)
        chosen.append(number_of[node])
    assert 2 not in chosen, "the cordoned node"
    assert len(set(chosen)) >= 2, "more than one node was ever best, or the test proves little"
