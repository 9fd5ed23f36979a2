"""How long an eviction takes without the copy: accepted → target running → the VM is the target → source gone.

A lab of its own, brought up and taken down here: bringing it up is measured too, to the first score sample and a ready
descheduler. Its descheduler is then stopped, and VMs of 1 MiB, which copy at once, are evicted one after another, as
the descheduler would. What happened when is read from one watch of pods and VMs, so that looking costs the lab
nothing; the last instant is when the source's deletion was seen.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from benchmarks._rows import Row
from labkit import cluster
from labkit.clock import WALL_CLOCK, wait_until
from labkit.cluster import LabConfig, RunningLab
from labkit.errors import ComponentError, KubeError, PrometheusError
from labkit.kube import DEPLOYMENTS, PODS, VIRTUAL_MACHINES, Kube, Object, Store
from labkit.names import (
    DESCHEDULER_NAMESPACE,
    DESCHEDULER_REQUESTER,
    GROUP,
    INITIAL_NODE_ANNOTATION,
    LAUNCHER_LABEL,
    LAUNCHER_LABEL_VALUE,
    MIGRATION_JOB_UID_LABEL,
    PROMETHEUS_PORT,
    VM_KIND,
    VM_NAMESPACE,
)
from labkit.prometheus import Prometheus
from labkit.scoring import get
from labkit.versions import SIMULATION_API_VERSION
from labkit.virtualmachine import VirtualMachine

TITLE = "bring-up, and an eviction without its copy, tempo 15"
LAB: Final = LabConfig(name="bench", address="127.0.0.85", tempo=15)
ALGORITHM: Final = "linear_amplified_ippd_k3"
N_VMS, N_EVICTIONS = 10, 40
SECONDS: Final = 60.0
UP_GOAL, DOWN_GOAL, EVICTION_GOAL = 20.0, 5.0, 0.3


def measure() -> list[Row]:
    """Bring a lab up, evict, take it down."""
    if cluster.running(LAB.name) is not None:
        raise ComponentError(f"wanted no lab {LAB.name!r}, found it running: 'labkit down --name {LAB.name}' first")
    began = WALL_CLOCK.monotonic()
    lab = cluster.up(LAB)
    try:
        _wait_scores(lab)
        up = WALL_CLOCK.monotonic() - began
        evictions = measure_evictions(lab)
    finally:
        began = WALL_CLOCK.monotonic()
        cluster.down(LAB.name)
        down = WALL_CLOCK.monotonic() - began
    return [
        Row("up: first score sample and ready descheduler", (up,), goal=UP_GOAL),
        Row("down", (down,), goal=DOWN_GOAL),
        *evictions,
    ]


def measure_evictions(lab: RunningLab) -> list[Row]:
    """Evict VMs one after another in a lab that is up, and leave it as it was."""
    with _without_descheduling(lab), _machines(lab) as names, Timeline(lab) as timeline:
        for number in range(N_EVICTIONS):
            timeline.evict(names[number % len(names)])
        writes = [_timed_write(lab, names[0]) for _ in range(N_VMS)]
    rows = [Row("eviction asked for → accepted", tuple(timeline.asked))]
    rows += [
        Row(f"eviction accepted → {what}", tuple(seconds), goal=EVICTION_GOAL if what == "source gone" else None)
        for what, seconds in timeline.seconds.items()
    ]
    return [*rows, Row("for comparison: one write to the API server", (statistics.median(writes),))]


class Timeline:
    """When each step of an eviction was seen, counted from its acceptance."""

    STEPS: Final = ("target made", "target bound", "target running", "VM is the target", "source gone")

    def __init__(self, lab: RunningLab) -> None:
        self._kube = lab.kube
        self._seen: dict[str, float] = {}
        self._source = ""
        self.asked: list[float] = []
        """Seconds from asking for each eviction to its acceptance."""
        self.seconds: dict[str, list[float]] = {step: [] for step in self.STEPS}
        selector = f"{LAUNCHER_LABEL}={LAUNCHER_LABEL_VALUE}"
        self._pods = Store(self._kube, PODS, namespace=VM_NAMESPACE, label_selector=selector)
        self._vms = Store(self._kube, VIRTUAL_MACHINES, namespace=VM_NAMESPACE)
        self._pods.subscribe(self._pod_changed)
        self._vms.subscribe(self._vm_changed)

    def __enter__(self) -> Timeline:
        for store in (self._pods, self._vms):
            store.start().wait_synced()
        return self

    def __exit__(self, *_: object) -> None:
        for store in (self._pods, self._vms):
            store.stop()

    def evict(self, name: str) -> None:
        """Evict a VM as the descheduler does, and wait until it has left."""
        source = VirtualMachine.read(self._kube.get(VIRTUAL_MACHINES, name, VM_NAMESPACE)).pod_name
        self._source, self._seen = source, {}
        asked = WALL_CLOCK.monotonic()
        accepted = _evict(self._kube, source)
        wait_until(lambda: len(self._seen) == len(self.STEPS), timeout_seconds=SECONDS, what=f"{name} to leave")
        self.asked.append(accepted - asked)
        for step in self.STEPS:
            self.seconds[step].append(self._seen[step] - accepted)
        wait_until(lambda: not self._is_marked(name), timeout_seconds=SECONDS, what=f"the migration of {name} to end")

    def _is_marked(self, name: str) -> bool:
        return VirtualMachine.read(self._kube.get(VIRTUAL_MACHINES, name, VM_NAMESPACE)).is_marked

    def _note(self, step: str) -> None:
        self._seen.setdefault(step, WALL_CLOCK.monotonic())

    def _pod_changed(self, old: Object | None, new: Object | None) -> None:
        if new is None:
            if old is not None and old["metadata"]["name"] == self._source:
                self._note("source gone")
        elif new["metadata"]["name"] != self._source and MIGRATION_JOB_UID_LABEL in new["metadata"]["labels"]:
            if old is None:
                self._note("target made")
            if new["spec"].get("nodeName") and not (old or {"spec": {}})["spec"].get("nodeName"):
                self._note("target bound")
            if new["status"].get("phase") == "Running" and (old or {"status": {}})["status"].get("phase") != "Running":
                self._note("target running")

    def _vm_changed(self, old: Object | None, new: Object | None) -> None:
        before, after = ((obj or {}).get("status", {}).get("podName") for obj in (old, new))
        if before == self._source and after not in (None, self._source):
            self._note("VM is the target")


def _evict(kube: Kube, pod: str) -> float:
    """Ask for an eviction; return when it was accepted, which the webhook says by refusing it."""
    eviction = {
        "apiVersion": "policy/v1",
        "kind": "Eviction",
        "metadata": {"name": pod, "namespace": VM_NAMESPACE, "annotations": {"requested-by": DESCHEDULER_REQUESTER}},
    }
    try:
        kube.create(PODS, eviction, VM_NAMESPACE, name=pod, subresource="eviction")
    except KubeError as error:
        if "Eviction triggered evacuation" in str(error):
            return WALL_CLOCK.monotonic()
        raise
    raise ComponentError(f"wanted the webhook to mark the VM of {pod}, found the pod evicted")


def _timed_write(lab: RunningLab, name: str) -> float:
    began = WALL_CLOCK.monotonic()
    lab.kube.patch(VIRTUAL_MACHINES, name, {"metadata": {"annotations": {"bench/write": repr(began)}}}, VM_NAMESPACE)
    return WALL_CLOCK.monotonic() - began


def _wait_scores(lab: RunningLab) -> None:
    prometheus = Prometheus(lab.url(PROMETHEUS_PORT))

    def scored() -> bool:
        try:
            return bool(prometheus.by_node(get(ALGORITHM).record))
        except PrometheusError:
            return False

    wait_until(scored, timeout_seconds=SECONDS, what="the first score")


@contextmanager
def _without_descheduling(lab: RunningLab) -> Iterator[None]:
    def scale(replicas: int) -> None:
        lab.kube.patch(DEPLOYMENTS, "descheduler", {"spec": {"replicas": replicas}}, DESCHEDULER_NAMESPACE)

    scale(0)
    try:
        yield
    finally:
        scale(1)


@contextmanager
def _machines(lab: RunningLab) -> Iterator[list[str]]:
    names = [f"bench-{number}" for number in range(N_VMS)]

    def run() -> bool:
        return all(
            lab.kube.get(VIRTUAL_MACHINES, name, VM_NAMESPACE).get("status", {}).get("phase") == "Running"
            for name in names
        )

    try:
        for number, name in enumerate(names):
            lab.kube.create(VIRTUAL_MACHINES, _machine(name, f"kwok-node-{number % 5 + 1}"))
        wait_until(run, timeout_seconds=SECONDS, what=f"{N_VMS} VMs to run")
        yield names
    finally:
        for name in names:
            lab.kube.delete(VIRTUAL_MACHINES, name, VM_NAMESPACE)


def _machine(name: str, node: str) -> Object:
    return {
        "apiVersion": f"{GROUP}/{SIMULATION_API_VERSION}",
        "kind": VM_KIND,
        "metadata": {"name": name, "namespace": VM_NAMESPACE, "annotations": {INITIAL_NODE_ANNOTATION: node}},
        "spec": {"resources": {"cpu": "1", "memory": "1Mi"}, "utilization": {"cpu": "0", "memory": "1"}},
    }
