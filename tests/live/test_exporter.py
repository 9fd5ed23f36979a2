"""The exporter on the real cluster: what it shows is what is there, soon, and only as long as it is there."""

from __future__ import annotations

import json
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from typing import Any

import pytest

from labkit.clock import WALL_CLOCK, wait_until
from labkit.cluster import RunningLab
from labkit.kube import NAMESPACES, NODES, PODS, SIMULATION_SCENARIOS, VIRTUAL_MACHINES
from labkit.names import EXPORTER_HOST_PORT, GROUP, PROMETHEUS_PORT, VM_KIND, VM_NAMESPACE
from labkit.prometheus import Prometheus

pytestmark = pytest.mark.live

NAMESPACE = "exporter-test"
NODE = "exporter-test-node"
PATIENCE_SECONDS = 60.0
"""For what takes a scrape interval, one second at tempo 15, on a machine that does other things, too."""


@pytest.fixture(scope="module")
def lab(quiet_lab: RunningLab) -> RunningLab:
    """The shared lab with nothing on it that moves or changes its load."""
    quiet_lab.kube.raw("DELETE", SIMULATION_SCENARIOS.path(VM_NAMESPACE))
    quiet_lab.kube.raw("DELETE", VIRTUAL_MACHINES.path(VM_NAMESPACE))
    wait_until(
        lambda: not quiet_lab.kube.list(PODS, VM_NAMESPACE)["items"],
        timeout_seconds=120,
        what="the VMs of earlier tests to go",
    )
    return quiet_lab


@pytest.fixture(scope="module")
def prometheus(lab: RunningLab) -> Prometheus:
    return Prometheus(lab.url(PROMETHEUS_PORT))


@pytest.fixture(scope="module")
def node(lab: RunningLab) -> Iterator[str]:
    """A node of our own with nothing on it, that nothing else is scheduled to."""
    lab.kube.apply(new_node(NODE))
    status = new_node(NODE)["status"]
    lab.kube.patch(NODES, NODE, {"status": status}, subresource="status")
    yield NODE
    lab.kube.delete(NODES, NODE)


@pytest.fixture(scope="module")
def namespace(lab: RunningLab) -> Iterator[str]:
    lab.kube.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}})
    yield NAMESPACE
    for vm in lab.kube.list(VIRTUAL_MACHINES, NAMESPACE)["items"]:
        lab.kube.delete(VIRTUAL_MACHINES, vm["metadata"]["name"], NAMESPACE)
    wait_until(
        lambda: not lab.kube.list(PODS, NAMESPACE)["items"],
        timeout_seconds=PATIENCE_SECONDS,
        what="the pods of deleted VMs to go",
    )
    lab.kube.delete(NAMESPACES, NAMESPACE)


def new_node(name: str, cores: int = 16) -> dict[str, Any]:
    resources = {"cpu": str(cores), "memory": "256Gi", "pods": "110"}
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {
            "name": name,
            "annotations": {"kwok.x-k8s.io/node": "fake"},
            "labels": {"type": "kwok", "kubernetes.io/hostname": name},
        },
        "spec": {
            "taints": [
                {"key": "kwok.x-k8s.io/node", "value": "fake", "effect": "NoSchedule"},
                {"key": "only-for-a-test", "value": "true", "effect": "NoSchedule"},
            ]
        },
        "status": {"capacity": resources, "allocatable": resources},
    }


def new_vm(name: str, *, cpu: str = "0.25") -> dict[str, Any]:
    return {
        "apiVersion": f"{GROUP}/v1alpha1",
        "kind": VM_KIND,
        "metadata": {"name": name, "namespace": NAMESPACE},
        "spec": {"resources": {"cpu": "8", "memory": "16Gi"}, "utilization": {"cpu": cpu, "memory": "0.5"}},
    }


def page(lab: RunningLab, path: str) -> Any:
    with urllib.request.urlopen(f"http://{lab.address}:{EXPORTER_HOST_PORT}{path}", timeout=10) as answer:
        body = answer.read().decode()
    return json.loads(body) if path in ("/scenario", "/health") else body


def running(lab: RunningLab, name: str) -> dict[str, Any]:
    def is_running() -> dict[str, Any] | None:
        vm = lab.kube.get(VIRTUAL_MACHINES, name, NAMESPACE)
        return vm if vm.get("status", {}).get("phase") == "Running" else None

    return wait_until(is_running, timeout_seconds=PATIENCE_SECONDS, what=f"VM {name} to run")


def shown(lab: RunningLab, name: str) -> tuple[str, dict[str, Any]] | None:
    """Return the node and entry of a VM on the page /scenario."""
    for node in page(lab, "/scenario")["nodes"]:
        for vm in node["vms"]:
            if (vm["namespace"], vm["name"]) == (NAMESPACE, name):
                return node["name"], vm
    return None


def test_every_node_series_is_a_nodes(lab: RunningLab, prometheus: Prometheus) -> None:
    # Without honor_labels `instance` would be the exporter's address, and every score nobody's.
    nodes = {n["metadata"]["name"] for n in lab.kube.list(NODES, label_selector="type=kwok")["items"]}
    for metric in ("node_cpu_usage_ratio", 'node_cpu_seconds_total{mode="idle"}', "node_memory_MemAvailable_bytes"):
        samples = prometheus.query(metric)
        assert {s.labels["instance"] for s in samples} == {s.labels["node"] for s in samples}
        assert nodes <= {s.labels["instance"] for s in samples} <= nodes | {NODE}
        assert not any("exported_instance" in s.labels for s in samples)


def test_scenario_is_what_the_cluster_says(lab: RunningLab, namespace: str) -> None:
    lab.kube.apply(new_vm("seen"))
    vm = running(lab, "seen")
    where, entry = wait_until(lambda: shown(lab, "seen"), timeout_seconds=PATIENCE_SECONDS, what="the VM on /scenario")
    assert where == vm["status"]["nodeName"]
    assert entry["pod"] == vm["status"]["podName"]
    assert (entry["cpu_cores"], entry["cpu_utilization"]) == (8.0, 0.25)
    lab.kube.delete(VIRTUAL_MACHINES, "seen", namespace)
    wait_until(lambda: shown(lab, "seen") is None, timeout_seconds=PATIENCE_SECONDS, what="the deleted VM to vanish")


def test_changed_utilisation_shows_within_one_scrape(lab: RunningLab, prometheus: Prometheus, namespace: str) -> None:
    lab.kube.apply(new_vm("changing"))
    where = running(lab, "changing")["status"]["nodeName"]
    wait_until(lambda: shown(lab, "changing"), timeout_seconds=PATIENCE_SECONDS, what="the VM on /scenario")
    before = page_value(lab, where)
    lab.kube.patch(VIRTUAL_MACHINES, "changing", {"spec": {"utilization": {"cpu": "0.75"}}}, namespace)
    # Half of 8 cores more, on a node of 32.
    expected = pytest.approx(before + 4 / 32, abs=1e-6)
    wait_until(lambda: page_value(lab, where) == expected, timeout_seconds=PATIENCE_SECONDS, what="the new utilisation")
    # The first scrape that begins now must have it already.
    moment = WALL_CLOCK.now()
    scrape = f'timestamp(node_cpu_usage_ratio{{instance="{where}"}}) > {moment!r}'
    scraped = wait_until(lambda: prometheus.query(scrape), timeout_seconds=PATIENCE_SECONDS, what="a scrape")[0].value
    assert prometheus.by_node("node_cpu_usage_ratio", scraped)[where] == expected


def page_value(lab: RunningLab, node: str) -> float:
    return next(float(entry["cpu_usage"]) for entry in page(lab, "/scenario")["nodes"] if entry["name"] == node)


def test_node_comes_and_goes_with_its_series(lab: RunningLab, prometheus: Prometheus) -> None:
    name = "exporter-test-passing"
    lab.kube.apply(new_node(name))
    lab.kube.patch(NODES, name, {"status": new_node(name)["status"]}, subresource="status")
    try:
        wait_until(
            lambda: prometheus.by_node("kube_node_status_allocatable").get(name) == 256 * 2**30,
            timeout_seconds=PATIENCE_SECONDS,
            what="the new node's series",
        )
    finally:
        lab.kube.delete(NODES, name)
    wait_until(
        lambda: not prometheus.query(f'{{instance="{name}"}}'),
        timeout_seconds=PATIENCE_SECONDS,
        what="the deleted node's series to end",
        found=lambda: str(prometheus.query(f'{{instance="{name}"}}')),
    )
    assert name not in page(lab, "/metrics")


def test_rate_of_the_counters_is_the_load_whoever_else_scrapes(
    lab: RunningLab, prometheus: Prometheus, node: str
) -> None:
    # An idle node: its busy rate is 0 and its idle rate 1, within what scraping at 1 s on a busy machine leaves.
    stop = threading.Event()

    def scrape() -> None:
        while not stop.is_set():
            page(lab, "/metrics")

    others = [threading.Thread(target=scrape) for _ in range(2)]
    for other in others:
        other.start()
    try:
        # A late scrape makes one window of seconds read a little low or high; the next one is right again.
        wait_until(
            lambda: abs(rate(prometheus, node, "idle") - 1.0) < 0.05 and rate(prometheus, node, "user") == 0.0,
            timeout_seconds=2 * PATIENCE_SECONDS,
            what="a rate of 1 of the idle time, and of 0 of the busy time",
            found=lambda: f"{rate(prometheus, node, 'idle')} and {rate(prometheus, node, 'user')}",
        )
    finally:
        stop.set()
        for other in others:
            other.join()


def rate(prometheus: Prometheus, node: str, mode: str) -> float:
    """Return the rate of a node's CPU counter over 8 s, NaN where there is none yet."""
    samples = prometheus.query(f'rate(node_cpu_seconds_total{{mode="{mode}",instance="{node}"}}[8s])')
    return samples[0].value if samples else float("nan")


def test_exporter_is_read_only(lab: RunningLab) -> None:
    request = urllib.request.Request(f"http://{lab.address}:{EXPORTER_HOST_PORT}/scenario", data=b"{}", method="POST")
    with pytest.raises(urllib.error.HTTPError) as caught:
        urllib.request.urlopen(request, timeout=10)
    with caught.value as answer:
        assert answer.code == 405
        assert "kubectl patch vm" in json.loads(answer.read())["error"]


def test_exporter_may_change_nothing(lab: RunningLab) -> None:
    who = "system:serviceaccount:monitoring:metrics-exporter"
    for verb, what, expected in (("list", "pods", "yes"), ("delete", "pods", "no"), ("patch", "virtualmachines", "no")):
        done = lab.kubectl("auth", "can-i", verb, what, "--as", who, "-n", "default")
        assert done.stdout.strip() == expected, (verb, what)
