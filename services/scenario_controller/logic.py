"""What a scenario needs next, as a function of what is.

Pure. :func:`choose` says whose turn it is, :class:`Stage` where a scenario stands; the objects that a scenario is
made of come from :func:`node_object` and :func:`vm_object`. Nothing is remembered between two looks but what the
objects in the cluster say, so a restarted controller goes on where the last one was.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final, Literal

from labkit.kube import Object
from labkit.load import curve_json
from labkit.names import (
    FAKE_NODE_ANNOTATION,
    FAKE_NODE_TAINT,
    GROUP,
    HOSTNAME_LABEL,
    INITIAL_NODE_ANNOTATION,
    LOAD_ANNOTATION,
    NODE_TYPE_KWOK,
    NODE_TYPE_LABEL,
    SCENARIO_KIND,
    SCENARIO_LABEL,
    SCHEDULABLE_LABEL,
    SETTLE_SECONDS,
    VM_KIND,
)
from labkit.scenario import Event, Node, Scenario, VirtualMachine
from labkit.units import format_duration
from labkit.versions import SIMULATION_API_VERSION

Phase = Literal["Pending", "Running", "Paused", "Completed", "Failed"]
FINAL: Final = frozenset({"Completed", "Failed"})
API_VERSION: Final = f"{GROUP}/{SIMULATION_API_VERSION}"
STATUS_LAB_SECONDS: Final = 15.0
"""How often progress is written, in lab time."""


def phase_of(status: Mapping[str, Any]) -> Phase:
    """Return the phase that a status tells; a new scenario is Pending."""
    phase: Phase = status.get("phase") or "Pending"
    return phase


def choose(scenarios: Iterable[tuple[Object, Mapping[str, Any]]]) -> Object | None:
    """Return the scenario whose turn it is: the one that has begun, else the oldest that waits; one at a time.

    Parameters
    ----------
    scenarios : iterable of (object, status)
        All there are, with the status that holds.
    """
    open_ones = [
        (phase_of(status) == "Pending" and not status.get("nodes"), obj)
        for obj, status in scenarios
        if phase_of(status) not in FINAL and "deletionTimestamp" not in obj["metadata"]
    ]
    ordered = sorted(
        open_ones, key=lambda one: (one[0], one[1]["metadata"]["creationTimestamp"], one[1]["metadata"]["name"])
    )
    return ordered[0][1] if ordered else None


def node_object(node: Node) -> Object:
    """Return the Node of a scenario's node, as ``k8s/kwok-nodes.yaml`` writes them."""
    amounts = {
        "cpu": _amount(node.cores, 1000, "m"),
        "memory": str(round(node.memory_bytes)),
        "pods": str(node.max_pods),
    }
    taints = [{"key": FAKE_NODE_TAINT, "value": "fake", "effect": "NoSchedule"}]
    taints += [{"key": taint.key, "value": taint.value, "effect": taint.effect} for taint in node.taints]
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {
            "name": node.name,
            "annotations": {FAKE_NODE_ANNOTATION: "fake", "node.alpha.kubernetes.io/ttl": "0"},
            "labels": {
                NODE_TYPE_LABEL: NODE_TYPE_KWOK,
                HOSTNAME_LABEL: node.name,
                "kubernetes.io/arch": "amd64",
                "kubernetes.io/os": "linux",
                "kubernetes.io/role": "agent",
                "node-role.kubernetes.io/agent": "",
                SCHEDULABLE_LABEL: "true",
                **node.labels,
            },
        },
        "spec": {"taints": taints, **({"unschedulable": True} if node.unschedulable else {})},
        "status": {"capacity": amounts, "allocatable": amounts},
    }


def _amount(value: float, scale: int, suffix: str) -> str:
    """Write a quantity without losing what is below one unit."""
    return str(int(value)) if value == int(value) else f"{round(value * scale)}{suffix}"


def vm_object(vm: VirtualMachine, scenario: Mapping[str, Any]) -> Object:
    """Return the VirtualMachine of a scenario's VM, owned by the scenario object."""
    metadata = scenario["metadata"]
    annotations = {LOAD_ANNOTATION: curve_json(vm.curve, vm.load_seed)}
    if vm.initial_node:
        annotations[INITIAL_NODE_ANNOTATION] = vm.initial_node
    return {
        "apiVersion": API_VERSION,
        "kind": VM_KIND,
        "metadata": {
            "name": vm.name,
            "namespace": metadata["namespace"],
            "labels": {SCENARIO_LABEL: metadata["name"]},
            "annotations": annotations,
            "ownerReferences": [
                {
                    "apiVersion": API_VERSION,
                    "kind": SCENARIO_KIND,
                    "name": metadata["name"],
                    "uid": metadata["uid"],
                    "controller": True,
                    "blockOwnerDeletion": False,
                }
            ],
        },
        "spec": {
            "resources": {"cpu": f"{vm.cores:g}", "memory": str(round(vm.memory_bytes))},
            "evictionStrategy": vm.eviction_strategy,
            "migration": {"dirtyRateMbps": vm.dirty_rate_mbps},
        },
    }


@dataclass(frozen=True)
class Stage:
    """Where the scenario stands whose turn it is.

    Parameters
    ----------
    missing_nodes, extra_nodes : tuple of str
        Nodes to be created, and simulated nodes that are not the scenario's.
    missing_vms : tuple of str
        VMs to be created, in order.
    waiting : int
        VMs that are there and do not run yet.
    """

    missing_nodes: tuple[str, ...]
    extra_nodes: tuple[str, ...]
    missing_vms: tuple[str, ...]
    waiting: int

    @property
    def is_placed(self) -> bool:
        """Whether every node and VM of lab time 0 is there, and every VM runs."""
        return not (self.missing_nodes or self.extra_nodes or self.missing_vms or self.waiting)

    @property
    def message(self) -> str:
        """What is being waited for, in words."""
        parts = [
            f"{len(names)} {what}"
            for names, what in (
                (self.missing_nodes, "nodes to create"),
                (self.extra_nodes, "nodes to remove"),
                (self.missing_vms, "VMs to create"),
            )
            if names
        ]
        if self.waiting:
            parts.append(f"{self.waiting} VMs not running yet")
        return ", ".join(parts) or f"settling for {SETTLE_SECONDS:g} lab seconds"


def stage(
    nodes: Sequence[Node], vms: Sequence[VirtualMachine], there: Iterable[str], running: Mapping[str, bool]
) -> Stage:
    """Compare a scenario's start with the cluster.

    Parameters
    ----------
    nodes, vms : sequence
        What the scenario has at lab time 0.
    there : iterable of str
        Simulated nodes that exist.
    running : mapping of str to bool
        Whether each of the scenario's VMs that exists runs.
    """
    wanted, found = [node.name for node in nodes], set(there)
    return Stage(
        missing_nodes=tuple(name for name in wanted if name not in found),
        extra_nodes=tuple(sorted(found - set(wanted))),
        missing_vms=tuple(vm.name for vm in vms if vm.name not in running),
        waiting=sum(not runs for name, runs in running.items()),
    )


def due(events: Sequence[Event], played: int, lab_seconds: float) -> list[Event]:
    """Return the events that are due and were not played yet, in order."""
    return [event for event in events[played:] if event.at_seconds <= lab_seconds]


def progress_status(scenario: Scenario, lab_seconds: float) -> dict[str, Any]:
    """Return the part of the status that says how far the scenario is."""
    share = min(1.0, max(0.0, lab_seconds / scenario.duration_seconds))
    shown = min(lab_seconds, scenario.duration_seconds)
    return {"labTime": format_duration(float(int(shown))), "progress": f"{share:.0%}"}


def timestamp(wall_seconds: float) -> str:
    """Write seconds since 1970 as RFC 3339 with its offset, which ``format: date-time`` demands."""
    return datetime.fromtimestamp(wall_seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
