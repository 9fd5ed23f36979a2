"""The simulated nodes on either backend: there, alive, and back after they were given up."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable

import pytest
import victims
from labs import PATIENCE_SECONDS

from labkit.clock import wait_until
from labkit.cluster import RunningLab
from labkit.cluster.readiness import is_ready
from labkit.kube import NODES, PODS

pytestmark = [pytest.mark.live, pytest.mark.timeout(600)]

NewLab = Callable[..., RunningLab]


def test_five_fake_nodes_of_the_promised_size_are_ready(lab: RunningLab) -> None:
    nodes = {node["metadata"]["name"]: node for node in lab.kube.list(NODES)["items"]}
    assert set(nodes) == {lab.addon_node, *(f"kwok-node-{number}" for number in range(1, 6))}
    assert all(is_ready(node) for node in nodes.values())
    for name, node in nodes.items():
        if name != lab.addon_node:
            assert (node["status"]["allocatable"]["cpu"], node["status"]["allocatable"]["memory"]) == ("32", "512Gi")
            assert {taint["key"] for taint in node["spec"]["taints"]} == {"kwok.x-k8s.io/node"}


def test_fake_nodes_tell_that_they_live_however_often_others_change_them(lab: RunningLab) -> None:
    """The node controller gives a node up after 40 s; a change of it must not put the next sign of life off."""

    def heard() -> str:
        conditions = lab.kube.get(NODES, "kwok-node-1")["status"]["conditions"]
        return str(next(c["lastHeartbeatTime"] for c in conditions if c["type"] == "Ready"))

    def heard_again() -> bool:
        lab.kube.patch(NODES, "kwok-node-1", {"metadata": {"annotations": {"touched": repr(time.time())}}})
        return heard() != first

    first = heard()
    wait_until(heard_again, timeout_seconds=PATIENCE_SECONDS, what="a heartbeat", poll_seconds=0.5)
    lab.kube.patch(NODES, "kwok-node-1", {"metadata": {"annotations": {"touched": None}}})


def test_pods_that_the_node_controller_gave_up_become_ready_again(new_lab: NewLab) -> None:
    lab = new_lab()
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "kept", "namespace": "default"},
        "spec": {
            "automountServiceAccountToken": False,
            "nodeName": "kwok-node-1",
            "containers": [{"name": "c", "image": "none"}],
        },
    }
    uid = lab.kube.create(PODS, pod)["metadata"]["uid"]

    def ready() -> bool:
        return is_ready(lab.kube.get(PODS, "kept", "default"))

    wait_until(ready, timeout_seconds=PATIENCE_SECONDS, what="the pod to be Ready")
    victims.signal_component(lab, "kwok", signal.SIGSTOP)
    try:
        wait_until(
            lambda: not ready(),
            timeout_seconds=PATIENCE_SECONDS,
            what="the node controller to give the pod up",
            poll_seconds=0.5,
        )
        assert not is_ready(lab.kube.get(NODES, "kwok-node-1"))
    finally:
        victims.signal_component(lab, "kwok", signal.SIGCONT)
    wait_until(ready, timeout_seconds=PATIENCE_SECONDS, what="the pod to be Ready again")
    wait_until(
        lambda: is_ready(lab.kube.get(NODES, "kwok-node-1")),
        timeout_seconds=PATIENCE_SECONDS,
        what="its node to be Ready again",
    )
    assert lab.kube.get(PODS, "kept", "default")["metadata"]["uid"] == uid
