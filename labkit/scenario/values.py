"""What a scenario expands to: nodes, VMs and events, in base units."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Final, Literal

from labkit.load import Curve

CPU_OVERCOMMIT: Final = 10.0
"""vCPUs of a VM per core that its launcher pod requests."""

EvictionStrategy = Literal["None", "LiveMigrate", "LiveMigrateIfPossible", "External"]
EventType = Literal[
    "add_nodes",
    "cordon_node",
    "uncordon_node",
    "drain_node",
    "fail_node",
    "create_vms",
    "delete_vms",
    "resize_vms",
    "surge",
]


@dataclass(frozen=True)
class Taint:
    """A node's taint as Kubernetes has it."""

    key: str
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"]
    value: str = ""


@dataclass(frozen=True)
class Node:
    """A node of a scenario.

    Parameters
    ----------
    name : str
        Its Kubernetes name.
    pool : str
        The pool that it belongs to, empty for a single node.
    cores : float
        CPU capacity, all of it allocatable.
    memory_bytes : float
        Memory capacity, all of it allocatable.
    max_pods : int
        Pods it takes.
    labels : Mapping of str to str
        Beside those that every KWOK node of the lab has.
    taints : tuple of Taint
        Beside KWOK's own, which launcher pods tolerate.
    unschedulable : bool
        Cordoned from the start.
    """

    name: str
    pool: str = ""
    cores: float = 32.0
    memory_bytes: float = 512.0 * 2**30
    max_pods: int = 110
    labels: Mapping[str, str] = field(default_factory=dict)
    taints: tuple[Taint, ...] = ()
    unschedulable: bool = False


@dataclass(frozen=True)
class VirtualMachine:
    """A VM of a scenario.

    Parameters
    ----------
    name : str
        Its Kubernetes name.
    pool : str
        The pool that it belongs to, empty for a single VM.
    cores : float
        vCPUs; the launcher pod requests a tenth of them.
    memory_bytes : float
        Memory; the launcher pod requests all of it.
    dirty_rate_mbps : float
        ``spec.migration.dirtyRateMbps``: memory dirtied at full CPU load, megabits per second.
    eviction_strategy : str
        As in KubeVirt.
    curve : Curve
        Its load over lab time, surges included.
    load_seed : int
        Seed of the curve.
    initial_node : str
        Where its first pod is bound; empty if the scheduler chooses.
    """

    name: str
    pool: str
    cores: float
    memory_bytes: float
    dirty_rate_mbps: float
    eviction_strategy: EvictionStrategy
    curve: Curve
    load_seed: int
    initial_node: str = ""

    @property
    def cpu_request_cores(self) -> float:
        """CPU that the launcher pod requests: production overcommits vCPUs tenfold."""
        return self.cores / CPU_OVERCOMMIT

    def starting_on(self, node: str) -> VirtualMachine:
        """Return the VM with an initial node."""
        return replace(self, initial_node=node)


@dataclass(frozen=True)
class Event:
    """Something that happens at an instant of lab time; only what its type needs is filled.

    ==============  ===========================================================================================
    type            what happens
    ==============  ===========================================================================================
    add_nodes       ``nodes`` join
    cordon_node     ``node`` takes no further pods; uncordon_node takes that back
    drain_node      ``node`` is cordoned and each VM on it asked to leave (an eviction that is not the descheduler's)
    fail_node       ``node`` is gone at once with all that runs on it; the lost VMs start anew elsewhere
    create_vms      ``vms`` are created
    delete_vms      the VMs ``vm_names`` are deleted
    resize_vms      the VMs ``vm_names`` start anew with ``cores`` and ``memory_bytes`` (None: as before)
    surge           nothing of its own: the load is part of the curves of ``vm_names``
    ==============  ===========================================================================================
    """

    at_seconds: float
    type: EventType
    node: str = ""
    nodes: tuple[Node, ...] = ()
    vms: tuple[VirtualMachine, ...] = ()
    vm_names: tuple[str, ...] = ()
    cores: float | None = None
    memory_bytes: float | None = None
