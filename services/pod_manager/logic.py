"""What to do next for one VM: a pure decision over what is seen of it.

:func:`next_step` looks at the VM, its pods and its copy, and names one step towards what is wanted; the caller does
the step, looks again, and asks again until there is nothing to do. No step depends on an event having been seen, so a
restarted process goes on where the old one stopped, and the same state twice gives the same answer.

What holds by construction:

- A VM has no second pod: one is made only when none is left, under a name that was written into the VM before.
- The VM is the pod that ``status.podName`` names. A migration moves that name once, at the hand-over; a target that
  finds its node, runs, or is the newer pod changes nothing.
- One migration at a time: its record is a field of the VM, and everything follows from the record. It is open from
  before the second pod is made until after that, or the first, is gone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from labkit.migration import CopyState, MigrationPolicy
from labkit.virtualmachine import Migration, VirtualMachine
from services.pod_manager.launcher import (
    Pod,
    annotations_of,
    launcher_name,
    launcher_pod,
    stale_annotations,
    target_pod,
)

CATCH_ALL_SECONDS: Final = 900.0
"""A target that has a node and does not run after that many lab seconds is given up, as in KubeVirt."""
KEPT: Final = 5
"""Ended migrations of a VM that stay on record beside the latest, as KubeVirt keeps five."""
EVACUATING_STRATEGIES: Final = frozenset({"LiveMigrate", "LiveMigrateIfPossible"})


@dataclass(frozen=True)
class View:
    """What is seen of one VM.

    Parameters
    ----------
    vm : VirtualMachine or None
        None when it is gone.
    pods : tuple of Pod
        Every launcher pod that says it is this VM.
    now : float
        Seconds since 1970.
    tempo : int
        Lab seconds in a second; the policy's times are in lab seconds.
    policy : MigrationPolicy
        Limits and timers.
    lost_nodes : frozenset of str
        Nodes of these pods that no longer exist.
    first_node : str
        Where a first pod is to be bound; empty for the scheduler's choice.
    target_made : bool
        Whether the target pod of the present migration is known to have been made.
    copy : CopyState or None
        How far its copy is.
    copy_seconds : float
        Seconds until the copy should be looked at again.
    """

    vm: VirtualMachine | None
    pods: tuple[Pod, ...]
    now: float
    tempo: int
    policy: MigrationPolicy
    lost_nodes: frozenset[str] = frozenset()
    first_node: str = ""
    target_made: bool = False
    copy: CopyState | None = None
    copy_seconds: float = 0.0


@dataclass(frozen=True)
class Announcement:
    """A Kubernetes event about the VM."""

    reason: str
    message: str
    warning: bool = False


@dataclass(frozen=True)
class Idle:
    """Nothing to do until something changes, or until that many seconds have passed."""

    seconds: float | None = None


@dataclass(frozen=True)
class CreatePod:
    """Make the pod that the VM's status names."""

    manifest: Mapping[str, Any]


@dataclass(frozen=True)
class DeletePod:
    """Delete that very pod (by UID). ``force`` where no kubelet needs to confirm it, or none is left to."""

    pod: Pod
    reason: str
    force: bool = False


@dataclass(frozen=True)
class AnnotatePod:
    """Bring a pod's annotations up to date."""

    pod: Pod
    annotations: Mapping[str, str | None]


@dataclass(frozen=True)
class Record:
    """Write the VM's status, if nobody wrote the VM since it was seen.

    ``absent`` is a pod that must be gone indeed, not only from what is seen.
    """

    status: Mapping[str, Any]
    announcement: Announcement | None = None
    clears_eviction_source: bool = False
    absent: str = ""


@dataclass(frozen=True)
class Admit:
    """Let the VM's evacuation begin as soon as the limits allow it; if it must wait, annotate its pod meanwhile."""

    source: Pod
    annotations: Mapping[str, str | None] = field(default_factory=dict)


@dataclass(frozen=True)
class BeginCopy:
    """The target runs: begin to copy."""

    migration: Migration
    target: Pod


@dataclass(frozen=True)
class HandOver:
    """The copy is complete: make the target the VM, if it still runs."""

    migration: Migration
    target: Pod
    copy: CopyState


@dataclass(frozen=True)
class GiveUp:
    """Decide that the migration fails; the VM stays where it is. ``absent`` as in :class:`Record`."""

    migration: Migration
    reason: str
    absent: str = ""


@dataclass(frozen=True)
class Conclude:
    """End a migration that is decided; ``absent`` is the pod that is no longer needed."""

    migration: Migration
    absent: str


Step = Idle | CreatePod | DeletePod | AnnotatePod | Record | Admit | BeginCopy | HandOver | GiveUp | Conclude


@dataclass(frozen=True)
class _Pods:
    """A VM's own pods: each by name, and those that are live."""

    by_name: Mapping[str, Pod] = field(default_factory=dict)

    def live(self, name: str) -> Pod | None:
        pod = self.by_name.get(name)
        return pod if pod is not None and pod.is_live else None

    def surplus(self, *wanted: str) -> Pod | None:
        return next((pod for pod in self.by_name.values() if pod.is_live and pod.name not in wanted), None)


def next_step(view: View) -> Step:
    """Return the next step for a VM."""
    vm = view.vm
    for pod in view.pods:
        if not pod.vm_uid:
            continue  # somebody else's, whatever it is labelled
        if pod.node in view.lost_nodes:
            return DeletePod(pod, f"its node {pod.node} no longer exists", force=True)
        if pod.is_terminating:
            continue
        if vm is None or pod.vm_uid != vm.uid:
            return DeletePod(pod, "its VirtualMachine no longer exists")
        if pod.is_finished:
            return DeletePod(pod, f"it ended as {pod.phase}")
    if vm is None:
        return Idle()
    pods = _Pods({pod.name: pod for pod in view.pods if pod.vm_uid == vm.uid})
    if vm.active_migration is not None:
        return _migrate(view, vm, vm.active_migration, pods)
    return _run(view, vm, pods) if vm.is_wanted else _stop(vm, pods)


def _stop(vm: VirtualMachine, pods: _Pods) -> Step:
    """Take away the pods of a VM that is to have none."""
    pod = pods.surplus()
    if pod is not None:
        return DeletePod(pod, "the VirtualMachine was stopped")
    if not pods.by_name and (vm.pod_name or vm.node_name or vm.is_marked):
        return Record(
            {"podName": None, "podUid": None, "nodeName": None} | unmarked(),
            clears_eviction_source=bool(vm.eviction_source),
        )
    return Idle()


def _run(view: View, vm: VirtualMachine, pods: _Pods) -> Step:
    """Keep the one pod of a VM that does not migrate."""
    active = pods.live(vm.pod_name)
    if active is None:
        return _start(view, vm, pods)
    surplus = pods.surplus(active.name)
    if surplus is not None:
        return DeletePod(surplus, f"the VirtualMachine is {active.name}")
    if (active.node, active.uid) != (vm.node_name, vm.pod_uid):
        return Record({"nodeName": active.node or None, "podUid": active.uid})
    stale = stale_annotations(active, annotations_of(vm, leaving=vm.is_marked and active.node == vm.evacuation_node))
    step = _evacuate(view, vm, active, pods) if vm.is_marked else _forget_source(vm)
    if isinstance(step, Admit):
        return Admit(active, stale)  # the target first: its scheduling takes longest
    return AnnotatePod(active, stale) if stale else step


def _start(view: View, vm: VirtualMachine, pods: _Pods) -> Step:
    """Give a VM its pod when no other is left: write down its name first, then make it.

    Whoever reads the name may make the pod, since there can be only one of that name. A pod that was seen and is gone
    is followed by one of another name.
    """
    surplus = pods.surplus(vm.pod_name)
    if surplus is not None:
        return DeletePod(surplus, "it is not the VirtualMachine's pod")
    if pods.by_name:
        return Idle()
    if vm.pod_name and not vm.pod_uid:
        return CreatePod(launcher_pod(vm, vm.pod_name, node=view.first_node))
    name = launcher_name(vm, f"start/{vm.starts}")
    # Whatever node the VM was to leave, it has left.
    return Record(
        {"podName": name, "podUid": None, "nodeName": None, "starts": vm.starts + 1} | unmarked(),
        clears_eviction_source=bool(vm.eviction_source),
        absent=vm.pod_name,
    )


def _evacuate(view: View, vm: VirtualMachine, active: Pod, pods: _Pods) -> Step:
    """Let a marked VM leave its node."""
    if active.node != vm.evacuation_node:
        return _cancel(vm, f"{vm.name} is not on {vm.evacuation_node}")
    if vm.eviction_strategy == "External":
        return Idle()
    if vm.eviction_strategy not in EVACUATING_STRATEGIES or not vm.is_migratable:
        return _cancel(vm, f"{vm.name} is not to be migrated any more")
    if active.phase != "Running" or len(pods.by_name) > 1:
        return Idle()
    last = vm.migration
    if last is not None and last.phase == "Failed" and last.ended is not None:
        due = last.ended + view.policy.backoff_seconds(last.attempt) / view.tempo
        if view.now < due:
            return Idle(due - view.now)
    return Admit(active)


def _cancel(vm: VirtualMachine, why: str) -> Record:
    return Record(unmarked(), Announcement("EvacuationCancelled", why), clears_eviction_source=bool(vm.eviction_source))


def _forget_source(vm: VirtualMachine) -> Step:
    if vm.eviction_source:
        return Record({}, clears_eviction_source=True)
    return Idle()


def _migrate(view: View, vm: VirtualMachine, migration: Migration, pods: _Pods) -> Step:
    """Carry on a migration: its record says which pods belong to it."""
    surplus = pods.surplus(migration.source_pod, migration.target_pod)
    if surplus is not None:
        return DeletePod(surplus, "it has no part in the migration")
    if migration.is_decided:
        return _conclude(vm, migration, pods)
    if not vm.is_wanted:
        return GiveUp(migration, "the VirtualMachine was stopped")
    source = pods.live(migration.source_pod)
    if source is None:
        return GiveUp(migration, f"the source pod {migration.source_pod} is gone", absent=migration.source_pod)
    target = pods.live(migration.target_pod)
    if target is None and migration.target_pod in pods.by_name:
        return GiveUp(migration, f"the target pod {migration.target_pod} was deleted")
    if target is None:
        if view.target_made or migration.phase != "Scheduling":
            return GiveUp(migration, f"the target pod {migration.target_pod} is gone", absent=migration.target_pod)
        return CreatePod(target_pod(vm, migration, source))
    for pod in (source, target):
        stale = stale_annotations(pod, annotations_of(vm, leaving=vm.is_marked and pod.node == vm.evacuation_node))
        if stale:
            return AnnotatePod(pod, stale)
    if migration.phase == "Scheduling":
        return _await_target(view, migration, target)
    if view.copy is None or view.copy.outcome == "":
        return Idle(view.copy_seconds)
    if view.copy.outcome == "failed":
        return GiveUp(migration, view.copy.reason)
    return HandOver(migration, target, view.copy)


def _conclude(vm: VirtualMachine, migration: Migration, pods: _Pods) -> Step:
    """End a decided migration: the pod that is no longer needed goes first."""
    if migration.handed_over is not None:
        needed, other = migration.target_pod, migration.source_pod
    else:
        needed, other = migration.source_pod, migration.target_pod
    if pods.live(other) is not None:
        # Nothing runs in it any more, or yet, so there is nothing for its kubelet to end in peace.
        return DeletePod(pods.by_name[other], f"the VirtualMachine is {needed}", force=True)
    active = pods.live(needed)
    if active is not None:
        leaving = vm.is_marked and active.node == vm.evacuation_node
        stale = stale_annotations(active, annotations_of(vm, leaving=leaving))
        if stale:
            return AnnotatePod(active, stale)
    return Idle() if other in pods.by_name else Conclude(migration, absent=other)


def _await_target(view: View, migration: Migration, target: Pod) -> Step:
    if target.node and target.phase == "Running":
        if target.node == migration.source_node:
            return GiveUp(migration, f"the target pod was placed on the source node {target.node}")
        return BeginCopy(migration, target)
    allowed = CATCH_ALL_SECONDS if target.node else view.policy.pending_timeout_seconds
    left = migration.created + allowed / view.tempo - view.now
    if left > 0:
        return Idle(left)
    found = f"did not start on {target.node}" if target.node else "found no node"
    return GiveUp(migration, f"the target pod {found} within {allowed:g} s")


def unmarked() -> dict[str, Any]:
    """Return the part of a status patch that ends an evacuation."""
    return {"evacuationNodeName": None, "evacuationRequestedTimestamp": None}


def history(status: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return ``previousMigrations`` for a VM whose next migration begins: the newest first."""
    latest = status.get("migrationState")
    return [*([latest] if latest else []), *(status.get("previousMigrations") or [])][:KEPT]


def admitted(vm: VirtualMachine, source: Pod, *, uid: str, now: float) -> Migration:
    """Return the record of a migration that begins now."""
    last = vm.migration
    return Migration(
        uid=uid,
        source_node=source.node,
        source_pod=source.name,
        target_pod=launcher_name(vm, uid),
        requested=vm.evacuation_requested if vm.evacuation_requested is not None else now,
        created=now,
        attempt=last.attempt + 1 if last is not None and last.phase == "Failed" else 1,
    )


def handed_over(migration: Migration, target: Pod) -> dict[str, Any]:
    """Return the status patch that makes the target the VM."""
    return {
        "podName": target.name,
        "podUid": target.uid,
        "nodeName": target.node,
        "migrationState": migration.state(),
    }


def ended(migration: Migration) -> dict[str, Any]:
    """Return the status patch that ends a migration, and with it the evacuation if the VM has left."""
    return {"migrationState": migration.state()} | (unmarked() if migration.phase == "Succeeded" else {})


def describe(migration: Migration, vm: VirtualMachine) -> dict[str, Any]:
    """Return a migration as ``GET /migrations`` shows it.

    Times are wall-clock seconds since 1970, to the microsecond as in the VM's status; null for what has not been. It
    ends with the hand-over, or when its failure is concluded.
    """

    def instant(seconds: float | None) -> float | None:
        return None if seconds is None else round(seconds, 6)

    return {
        "uid": migration.uid,
        "namespace": vm.namespace,
        "vm": vm.name,
        "source": migration.source_node,
        "target": migration.target_node or None,
        "phase": migration.phase,
        "outcome": "succeeded" if migration.handed_over is not None else "failed" if migration.is_final else None,
        "reason": migration.failure_reason or None,
        "attempt": migration.attempt,
        "requested": instant(migration.requested),
        "created": instant(migration.created),
        "started": instant(migration.started),
        "ended": instant(migration.ended if migration.handed_over is None else migration.handed_over),
        "concluded": instant(migration.ended),
        "bytes": round(migration.transferred_bytes),
        "downtime_seconds": round(migration.downtime_seconds, 6),
    }
