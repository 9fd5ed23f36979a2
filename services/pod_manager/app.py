"""Carrying out the steps of :mod:`~services.pod_manager.logic` on the cluster, and the HTTP pages beside it.

Every write that must be unique has a precondition: a status write names the VM's ``resourceVersion``, a deletion the
pod's UID, a creation a derived name. Before this process acts on something that is *not* there, it asks the API
server itself, as a mirror may be behind.
"""

from __future__ import annotations

import logging
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Final

import orjson
from prometheus_client.core import GaugeMetricFamily

from labkit.clock import WALL_CLOCK, Clock, LabTime
from labkit.errors import InputError, KubeError
from labkit.kube import NODES, PODS, VIRTUAL_MACHINES, Key, Kube, Object, Store
from labkit.migration import CopyState, dirty_bytes_per_second, may_start, start_copy
from labkit.names import EVICTION_SOURCE_ANNOTATION, MEMORY_BYTES_ANNOTATION, REMINDED_ANNOTATION
from labkit.service import HEALTH, METRICS, Page, health, metrics, site
from labkit.settings import Settings, read_settings
from labkit.virtualmachine import Migration, VirtualMachine, format_time
from labkit.workqueue import WorkQueue
from services.pod_manager.cluster import Admission, OwnWrites, Pods, nodes_of
from services.pod_manager.copies import Copies, Transfer
from services.pod_manager.launcher import Pod
from services.pod_manager.logic import (
    Admit,
    AnnotatePod,
    Announcement,
    BeginCopy,
    Conclude,
    CreatePod,
    DeletePod,
    GiveUp,
    HandOver,
    Idle,
    Record,
    Step,
    View,
    admitted,
    ended,
    handed_over,
    history,
    next_step,
)
from services.pod_manager.policy import ClusterPolicy, read_policy
from services.pod_manager.telemetry import SHOWN, Recorder, Telemetry

if TYPE_CHECKING:
    from wsgiref.types import WSGIApplication

logger = logging.getLogger(__name__)

CONFLICT: Final = 409
NOT_FOUND: Final = 404
REMIND_SECONDS: Final = 3.0
"""Wall time that a node may take to start or remove a pod: KWOK takes a few hundredths of a second."""
MAX_STEPS: Final = 32
"""More steps than any VM needs in one go; a VM that takes them is looked at again a little later."""
PRIORITY: Final = {"descheduler": 1}
"""As in KubeVirt, evictions by people and drains go before the descheduler's."""


class StaleError(Exception):
    """What was seen is not what is; look again."""


class PodManager:
    """Reconciles VMs with their pods.

    Parameters
    ----------
    kube : Kube
        The API server.
    vms, nodes : Store
        Mirrors of the VirtualMachines and the nodes.
    settings : Settings
        Of the lab, as of the start.
    clock : Clock
        Wall clock.
    """

    def __init__(self, kube: Kube, *, vms: Store, nodes: Store, settings: Settings, clock: Clock = WALL_CLOCK) -> None:
        self._kube = kube
        self._vms = vms
        self._nodes = nodes
        self._lab_time = settings.time
        self._copy_time = LabTime(epoch=0.0, tempo=settings.time.tempo)
        """Lab seconds on a scale that no scenario moves."""
        self._clock = clock
        self.queue: WorkQueue[Key] = WorkQueue(clock=clock)
        self.pods = Pods(clock=clock)
        self.policy = ClusterPolicy()
        self.telemetry = Telemetry(tempo=settings.time.tempo)
        self.telemetry.watch(self._series)
        self._recorder = Recorder(kube)
        self._own_writes = OwnWrites(clock=clock)
        self._copies: Copies[Key] = Copies()
        self._admission = Admission(lambda source, running: may_start(self.policy.migration, source, running))
        self._waited: set[Key] = set()
        self._targets_made: dict[Key, str] = {}
        self._complaints: dict[Key, str] = {}
        self._lost_nodes: dict[str, float] = {}
        self._overdue: dict[Key, dict[str, float]] = {}
        """By VM and pod's UID, since when, or since which reminder, a pod waits for its node."""
        self._removed: dict[Key, str] = {}
        """By VM, the pod that the API server has confirmed to be gone while a migration ends."""

    # --- what is told to it -------------------------------------------------------------------------

    def pod_changed(self, old: Object | None, new: Object | None) -> None:
        """Take in an event of the pods' watch."""
        for key in self.pods.changed(old, new):
            self.queue.add(key)

    def vm_changed(self, old: Object | None, new: Object | None) -> None:
        """Take in an event of the VMs' watch."""
        obj = new or old
        if obj is not None:
            self.queue.add((obj["metadata"]["namespace"], obj["metadata"]["name"]))

    def node_changed(self, old: Object | None, new: Object | None) -> None:
        """Take in an event of the nodes' watch: only that a node is gone says something about VMs."""
        if new is None and old is not None:
            for key in self.pods.on(old["metadata"]["name"]):
                self.queue.add(key)

    def policy_changed(self, old: Object | None, new: Object | None) -> None:
        """Take in the ConfigMap ``migration-policy``; a wrong one leaves what held before."""
        try:
            self.policy = read_policy((new or {}).get("data") or {})
        except InputError as error:
            logger.error("%s; what held before still holds", error)
            if new is not None:
                self._recorder.announce(new, Announcement("InvalidPolicy", str(error), warning=True))
            return
        logger.info("migration policy: %s", self.policy)
        for key in self._admission.turns():
            self.queue.add(key)

    def settings_changed(self, old: Object | None, new: Object | None) -> None:
        """Take in the ConfigMap ``lab``: a scenario moves lab time 0."""
        try:
            self._lab_time = read_settings((new or {}).get("data") or {}).time
        except InputError as error:
            logger.error("%s; what held before still holds", error)

    def resume(self) -> None:
        """Take over what an earlier process left: count its migrations before any new one is admitted."""
        for obj in self._vms.items():
            try:
                vm = VirtualMachine.read(obj)
            except InputError:
                continue
            for state in reversed((obj.get("status") or {}).get("previousMigrations") or ()):
                self.telemetry.record.note(Migration.read(state), vm)
            if vm.migration is not None:
                self.telemetry.record.note(vm.migration, vm)
            if vm.active_migration is not None:
                self._admission.resume((vm.namespace, vm.name), vm.active_migration.source_node)
        self.look_at_all()

    def look_at_all(self) -> None:
        """Queue every VM and every pod's VM: in memory only, requests follow from differences alone."""
        for obj in self._vms.items():
            self.vm_changed(None, obj)
        for key in self.pods.keys():  # noqa: SIM118 (no mapping)
            self.queue.add(key)

    def failed(self, key: Key, error: Exception) -> None:
        """Tell of a reconcile that failed; the same complaint about a VM makes one event."""
        self.telemetry.failures.inc()
        text = str(error)
        vm = self._vms.get(*key)
        if vm is not None and isinstance(error, KubeError) and self._complaints.get(key) != text:
            self._complaints[key] = text
            self._recorder.announce(vm, Announcement("FailedSync", text, warning=True))

    # --- the loop of one VM -------------------------------------------------------------------------

    def reconcile(self, key: Key) -> float | None:
        """Take steps for one VM until there is none to take; return when to look again."""
        fresh: Object | None = None
        for _ in range(MAX_STEPS):
            obj = fresh or self._own_writes.latest(key, self._vms.get(*key))
            fresh = None
            view = self._view(key, obj)
            step = next_step(view)
            if isinstance(step, Idle):
                if view.vm is None or view.vm.active_migration is None:
                    self._leave(key)
                self._complaints.pop(key, None)
                return self._remind(key, view.pods, step.seconds)
            try:
                if not self._do(key, view, obj, step):
                    return None
            except StaleError:
                fresh = self._kube.find(VIRTUAL_MACHINES, key[1], key[0])
                if fresh is None:
                    return 0.1
                self._own_writes.wrote(fresh)
            except KubeError as error:
                if error.status != CONFLICT:
                    raise
                fresh = self._kube.find(VIRTUAL_MACHINES, key[1], key[0])
                if fresh is None:
                    return 0.1
                self._own_writes.wrote(fresh)
        return 0.1

    def _remind(self, key: Key, pods: Iterable[Pod], seconds: float | None) -> float | None:
        """Touch pods that their node has not started, or not removed, for long; return when to look again.

        A restarted KWOK passes over a pod now and then. Any change of the pod makes it look at it again.
        """
        now = self._clock.monotonic()
        before = self._overdue.pop(key, {})
        overdue = {
            pod.uid: before.get(pod.uid, now)
            for pod in pods
            if pod.vm_uid and pod.node and (pod.is_terminating or pod.phase == "Pending")
        }
        if not overdue:
            return seconds
        self._overdue[key] = overdue
        for pod in pods:
            if now - overdue.get(pod.uid, now) >= REMIND_SECONDS:
                logger.info("reminding %s of pod %s", pod.node, pod.name)
                self._annotate(pod, {REMINDED_ANNOTATION: format_time(self._clock.now())})
                overdue[pod.uid] = now
        left = max(0.1, min(overdue.values()) + REMIND_SECONDS - now)
        return left if seconds is None else min(seconds, left)

    def _view(self, key: Key, obj: Object | None) -> View:
        vm = None if obj is None else VirtualMachine.read(obj)
        pods = self.pods.of(key)
        now = self._clock.now()
        lab_now = self._copy_time.at(now)
        copy: CopyState | None = None
        copy_seconds = 0.0
        migration = None if vm is None else vm.active_migration
        if vm is not None and migration is not None:
            self._admission.resume(key, migration.source_node)
            if migration.phase == "Running" and not migration.is_decided:
                transfer = self._copies.at(key, lab_now)
                if transfer is None:
                    transfer = self._begin_copy(key, vm, migration)
                copy, copy_seconds = transfer.state, transfer.left_seconds / self._copy_time.tempo
        return View(
            vm=vm,
            pods=pods,
            now=now,
            tempo=self._copy_time.tempo,
            policy=self.policy.migration,
            first_node="" if vm is None or any(pod.vm_uid == vm.uid for pod in pods) else self._first_node(vm),
            lost_nodes=frozenset(node for node in nodes_of(pods) if self._is_lost(node)),
            target_made=migration is not None and self._targets_made.get(key) == migration.uid,
            copy=copy,
            copy_seconds=copy_seconds,
        )

    def _do(self, key: Key, view: View, obj: Object | None, step: Step) -> bool:
        """Carry out one step; return whether to ask for the next at once."""
        vm = view.vm
        match step:
            case DeletePod():
                self._delete(step, obj)
                return True
            case AnnotatePod(pod, annotations):
                self._annotate(pod, annotations)
                return True
        assert vm is not None
        assert obj is not None
        match step:
            case CreatePod():
                self._create(key, vm, obj, step)
            case Record(status, announcement, clears, absent):
                if absent:
                    self._make_sure_of(vm)
                    self._make_sure_of_absence(vm, absent)
                if status:
                    obj = self._write(vm, status)
                if announcement is not None:
                    self._recorder.announce(obj, announcement)
                if clears:
                    self._clear_source(vm)
            case Admit():
                return self._admit(key, vm, obj, step)
            case BeginCopy(migration, target):
                begun = migration.copying(target_node=target.node, at=self._clock.now())
                self._write(vm, {"migrationState": begun.state()})
                self._begin_copy(key, vm, begun)
                self.telemetry.record.note(begun, vm)
                self._recorder.announce(
                    obj, Announcement("Migrating", f"copying {vm.name} from {begun.source_node} to {target.node}")
                )
            case HandOver():
                self._hand_over(key, vm, obj, step)
            case GiveUp():
                self._give_up(key, view, vm, obj, step)
            case Conclude(migration, absent):
                if self._removed.get(key) != absent:
                    self._make_sure_of_absence(vm, absent)
                self._conclude(key, vm, migration)
            case _:
                raise AssertionError(step)
        return True

    # --- the steps ----------------------------------------------------------------------------------

    def _create(self, key: Key, vm: VirtualMachine, obj: Object, step: CreatePod) -> None:
        if not self._own_writes.has(key, vm.resource_version):
            self._make_sure_of(vm)
        name = step.manifest["metadata"]["name"]
        try:
            pod = self._kube.create(PODS, step.manifest, vm.namespace)
        except KubeError as error:
            if error.status != CONFLICT:
                raise
            found = self._kube.find(PODS, name, vm.namespace)
            if found is None:
                raise StaleError from error
            pod = found
        else:
            self.telemetry.pods.labels("created").inc()
        self.pods.wrote(pod)
        if vm.active_migration is not None:
            self._targets_made[key] = vm.active_migration.uid
        else:
            self._recorder.announce(obj, Announcement("SuccessfulCreate", f"created pod {name}"))

    def _make_sure_of(self, vm: VirtualMachine) -> None:
        """Ask the API server whether the VM is as it was seen."""
        current = self._kube.find(VIRTUAL_MACHINES, vm.name, vm.namespace)
        if current is None or current["metadata"]["resourceVersion"] != vm.resource_version:
            raise StaleError

    def _make_sure_of_absence(self, vm: VirtualMachine, pod_name: str) -> None:
        """Ask the API server whether a pod is gone indeed."""
        found = self._kube.find(PODS, pod_name, vm.namespace)
        if found is not None:
            self.pods.wrote(found)
            raise StaleError

    def _delete(self, step: DeletePod, obj: Object | None) -> None:
        pod = step.pod
        logger.info("deleting pod %s: %s", pod.name, step.reason)
        try:
            self._kube.delete(
                PODS, pod.name, pod.namespace, uid=pod.uid, grace_period_seconds=0 if step.force else None
            )
        except KubeError as error:
            if error.status != CONFLICT:
                raise
            self.pods.gone(pod)  # another pod has that name by now
            return
        self.telemetry.pods.labels("deleted").inc()
        if obj is not None:
            self._recorder.announce(obj, Announcement("SuccessfulDelete", f"deleted pod {pod.name}: {step.reason}"))
        if step.force:
            self.pods.gone(pod)
            self._removed[pod.namespace, pod.vm_name] = pod.name
        else:
            self.pods.doomed(pod)

    def _annotate(self, pod: Pod, annotations: Mapping[str, str | None]) -> None:
        patch = {"metadata": {"uid": pod.uid, "annotations": dict(annotations)}}
        try:
            self.pods.wrote(self._kube.patch(PODS, pod.name, patch, pod.namespace))
        except KubeError as error:
            if error.status not in (NOT_FOUND, CONFLICT):
                raise
            self.pods.gone(pod)

    def _write(self, vm: VirtualMachine, status: Any) -> Object:
        patch = {"metadata": {"uid": vm.uid, "resourceVersion": vm.resource_version}, "status": dict(status)}
        try:
            written = self._kube.patch(VIRTUAL_MACHINES, vm.name, patch, vm.namespace, subresource="status")
        except KubeError as error:
            if error.status != NOT_FOUND:
                raise
            raise StaleError from error
        self._own_writes.wrote(written)
        return written

    def _clear_source(self, vm: VirtualMachine) -> None:
        patch = {"metadata": {"uid": vm.uid, "annotations": {EVICTION_SOURCE_ANNOTATION: None}}}
        self._own_writes.wrote(self._kube.patch(VIRTUAL_MACHINES, vm.name, patch, vm.namespace))

    def _admit(self, key: Key, vm: VirtualMachine, obj: Object, step: Admit) -> bool:
        source = step.source
        requested = vm.evacuation_requested or self._clock.now()
        if not self._admission.ask(key, source.node, (PRIORITY.get(vm.eviction_source, 0), requested)):
            if key not in self._waited:
                self._waited.add(key)
                self._recorder.announce(
                    obj, Announcement("MigrationWaiting", "as many migrations run as the limits allow")
                )
            if step.annotations:
                self._annotate(source, step.annotations)
            return False
        migration = admitted(vm, source, uid=str(uuid.uuid4()), now=self._clock.now())
        try:
            before = history(obj.get("status") or {})
            self._write(vm, {"migrationState": migration.state(), "previousMigrations": before})
        except (KubeError, StaleError):
            self._leave(key)
            raise
        self.telemetry.record.note(migration, vm)
        self._recorder.announce(obj, Announcement("MigrationStarted", f"{vm.name} is to leave {migration.source_node}"))
        return True

    def _begin_copy(self, key: Key, vm: VirtualMachine, migration: Migration) -> Transfer:
        """Start the copy's clock at its recorded start; a restarted process thereby goes on where the copy is."""
        started = migration.started if migration.started is not None else self._clock.now()
        try:
            cpu, memory = vm.utilization_at(self._lab_time.at(started))
        except InputError:
            cpu, memory = float(vm.cpu_utilization), float(vm.memory_utilization)
        source = next((pod for pod in self.pods.of(key) if pod.name == migration.source_pod), None)
        allocated = source.annotations.get(MEMORY_BYTES_ANNOTATION) if source is not None else None
        state = start_copy(
            self.policy.migration,
            memory_bytes=float(allocated) if allocated else vm.memory_bytes,
            memory_utilization=memory,
            dirty_bytes_per_second=dirty_bytes_per_second(vm.dirty_rate_mbps, cpu),
        )
        transfer = Transfer(migration.source_node, migration.target_node, state, self._copy_time.at(started))
        moved = self._copies.begin(
            key, transfer, policy=self.policy.migration, link_bytes_per_second=self.policy.link_bytes_per_second
        )
        for other in moved:
            if other != key:
                self.queue.add(other)
        begun = self._copies.at(key, self._copy_time.at(self._clock.now()))
        assert begun is not None
        return begun

    def _hand_over(self, key: Key, vm: VirtualMachine, obj: Object, step: HandOver) -> None:
        current = self._kube.find(PODS, step.target.name, vm.namespace)
        if current is None or current["metadata"]["uid"] != step.target.uid:
            self.pods.gone(step.target)
            return
        self.pods.wrote(current)
        target = Pod.read(current)
        if not target.is_live or target.phase != "Running":
            return
        arrived = step.migration.arrived(
            at=self._clock.now(),
            transferred_bytes=step.copy.sent_bytes,
            downtime_seconds=step.copy.downtime_seconds,
        )
        self._write(vm, handed_over(arrived, target))
        self.telemetry.record.note(arrived, vm)
        self.telemetry.arrived(arrived, copy_lab_seconds=step.copy.elapsed_seconds, waited=key in self._waited)
        self._end_copy(key)
        self._recorder.announce(obj, Announcement("Migrated", f"{vm.name} runs on {target.node} as {target.name}"))

    def _give_up(self, key: Key, view: View, vm: VirtualMachine, obj: Object, step: GiveUp) -> None:
        if step.absent:
            found = self._kube.find(PODS, step.absent, vm.namespace)
            if found is not None and Pod.read(found).is_live:
                self.pods.wrote(found)
                raise StaleError
        sent = view.copy.sent_bytes if view.copy is not None else 0.0
        given_up = step.migration.given_up(step.reason, transferred_bytes=sent)
        self._write(vm, {"migrationState": given_up.state()})
        self.telemetry.record.note(given_up, vm)
        self._end_copy(key)
        self._recorder.announce(obj, Announcement("FailedMigration", step.reason, warning=True))

    def _conclude(self, key: Key, vm: VirtualMachine, migration: Migration) -> None:
        done = migration.concluded(at=self._clock.now())
        self._write(vm, ended(done))
        self.telemetry.record.note(done, vm)
        self.telemetry.ended(done)
        self._leave(key)

    def _end_copy(self, key: Key) -> None:
        """Forget a copy; the others get its share of the links."""
        moved = self._copies.end(
            key,
            self._copy_time.at(self._clock.now()),
            policy=self.policy.migration,
            link_bytes_per_second=self.policy.link_bytes_per_second,
        )
        for other in moved:
            self.queue.add(other)

    def _leave(self, key: Key) -> None:
        """Forget a migration's place, copy and wait, and let those in whose turn it is."""
        self._targets_made.pop(key, None)
        self._removed.pop(key, None)
        self._waited.discard(key)
        self._end_copy(key)
        for other in self._admission.release(key):
            self.queue.add(other)

    def _first_node(self, vm: VirtualMachine) -> str:
        """Return the node that a VM's first pod is to be bound to, if it asks for one that exists."""
        asks = bool(vm.initial_node) and vm.is_wanted and vm.starts == 1 and not vm.pod_uid
        return vm.initial_node if asks and not self._is_lost(vm.initial_node) else ""

    def _is_lost(self, node: str) -> bool:
        """Tell whether a node does not exist: the mirror says so, and the API server confirms it."""
        if self._nodes.get("", node) is not None:
            self._lost_nodes.pop(node, None)
            return False
        now = self._clock.monotonic()
        if now < self._lost_nodes.get(node, 0.0):
            return True
        if self._kube.find(NODES, node) is not None:
            return False
        self._lost_nodes[node] = now + 5.0
        return True

    # --- what is told of it -------------------------------------------------------------------------

    def _series(self) -> Iterator[GaugeMetricFamily]:
        """Make KubeVirt's series of the migrations that run, and of those that ended last."""
        labels = ["namespace", "name"]
        transfers = self._copies.all_at(self._copy_time.at(self._clock.now()))
        for name, what, value in _COPY_SERIES:
            family = GaugeMetricFamily(f"kubevirt_vmi_migration_{name}", what, labels=labels)
            for key, transfer in transfers.items():
                family.add_metric(list(key), value(transfer))
            yield family
        scheduling = self._admission.running - len(transfers)
        for phase, count in (
            ("pending", self._admission.waiting),
            ("scheduling", max(0, scheduling)),
            ("running", len(transfers)),
        ):
            yield GaugeMetricFamily(
                f"kubevirt_vmi_migrations_in_{phase}_phase", f"Migrations that are {phase}.", value=count
            )
        yield from _finished(self.telemetry.record.entries())
        yield GaugeMetricFamily("lab_launcher_pods_seen", "Launcher pods in memory.", value=len(self.pods))
        yield GaugeMetricFamily("lab_reconcile_queue_length", "VMs that wait to be looked at.", value=len(self.queue))


_COPY_SERIES: Final[tuple[tuple[str, str, Callable[[Transfer], float]], ...]] = (
    ("data_total_bytes", "Memory to copy.", lambda t: t.state.touched_bytes),
    ("data_processed_bytes", "Sent so far.", lambda t: t.state.sent_bytes),
    ("data_remaining_bytes", "Left of the present round.", lambda t: t.state.remaining_bytes),
    ("dirty_memory_rate_bytes", "Dirtied per lab second.", lambda t: t.state.dirty_bytes_per_second),
    ("memory_transfer_rate_bytes", "Sent per lab second.", lambda t: t.rate),
)


def _finished(entries: Iterable[dict[str, Any]]) -> Iterator[GaugeMetricFamily]:
    ended = [entry for entry in entries if entry["ended"] is not None][-SHOWN:]
    labels = ["namespace", "vmi", "vmim", "source", "target"]
    families = {
        name: GaugeMetricFamily(f"kubevirt_vmi_migration_{name}", what, labels=labels)
        for name, what in (
            ("succeeded", "1 for a migration that ended so."),
            ("failed", "1 for a migration that ended so."),
            ("start_time_seconds", "When its copy began."),
            ("end_time_seconds", "When it ended."),
        )
    }
    for entry in ended:
        values = [entry["namespace"], entry["vm"], entry["uid"], entry["source"], entry["target"] or ""]
        families[entry["outcome"]].add_metric(values, 1.0)
        if entry["started"] is not None:
            families["start_time_seconds"].add_metric(values, entry["started"])
        families["end_time_seconds"].add_metric(values, entry["ended"])
    yield from families.values()


def create_app(manager: PodManager, *, ready: Callable[[], bool], healthy: Callable[[], bool]) -> WSGIApplication:
    """Build the pages: ``/healthz``, ``/metrics`` and ``/migrations``.

    Parameters
    ----------
    manager : PodManager
        What they tell of.
    ready : callable
        Tells whether the first lists have been read.
    healthy : callable
        Tells whether the worker threads run.
    """

    def migrations() -> Page:
        return Page(orjson.dumps({"migrations": manager.telemetry.record.entries()}), "application/json")

    return site(
        {
            HEALTH: health(healthy, ready=ready),
            METRICS: metrics(manager.telemetry.registry),
            "/migrations": migrations,
        }
    )
