"""The exporter's state: nodes, VMs and their active pods in, load and exact counters out.

Changes of raw objects go in with the wall time at which they came; no request, no clock, no thread of its own.
Load is constant between two load steps and two changes, so the counters are exact integrals: adding up
``rate x length`` at each of these instants is all there is to do, and who asks, or how often, changes nothing.
A change costs the work on its own two nodes; a step or a question costs one pass of vectorised arithmetic.

A VM counts where its *active* pod runs: the one that ``status.podName`` names. A migration target is an empty shell
until the switchover, so it has no load; neither has a pod that is not Running.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Final

import numpy as np

from labkit.clock import LabTime
from labkit.errors import InputError
from labkit.load import Curve, LoadTable, PressureModel, constant_curve, node_load, parse_curve_json
from labkit.model import FloatArray
from labkit.names import (
    CPU_CORES_ANNOTATION,
    CPU_UTILIZATION_ANNOTATION,
    CREATED_BY_LABEL,
    DOMAIN_LABEL,
    LOAD_ANNOTATION,
    LOAD_STEP_SECONDS,
    MEMORY_BYTES_ANNOTATION,
    MEMORY_UTILIZATION_ANNOTATION,
    MIGRATION_JOB_UID_LABEL,
    NODE_TYPE_KWOK,
    NODE_TYPE_LABEL,
    SCHEDULABLE_LABEL,
)
from labkit.settings import Settings
from labkit.units import parse_quantity
from services.exporter.counters import Counters

logger = logging.getLogger(__name__)

Object = Mapping[str, Any]
VmKey = tuple[str, str]
"""Namespace and name of a VirtualMachine."""

LABELS: Final = (NODE_TYPE_LABEL, SCHEDULABLE_LABEL, DOMAIN_LABEL, CREATED_BY_LABEL, MIGRATION_JOB_UID_LABEL)
ANNOTATIONS: Final = (
    LOAD_ANNOTATION,
    CPU_CORES_ANNOTATION,
    CPU_UTILIZATION_ANNOTATION,
    MEMORY_BYTES_ANNOTATION,
    MEMORY_UTILIZATION_ANNOTATION,
)
"""All that is read of an object's metadata beside its identity."""
MAX_CATCH_UP_STEPS: Final = 960
"""Load steps (four lab hours) made up for after a pause of the process; of a longer one the rest is skipped."""


@dataclass(frozen=True, slots=True)
class Load:
    """A VM's utilisation: a curve and its seed, or without a curve two constant ratios."""

    cpu: float = 0.0
    memory: float = 0.0
    curve: Curve | None = None
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Pod:
    """What matters of a launcher pod.

    Parameters
    ----------
    name, vm_uid, node : str
        ``vm_uid`` and ``node`` are empty where unknown.
    is_running, is_target : bool
        Phase Running; made by a migration.
    cores, memory_bytes : float
        Size of the VM.
    load : Load
        What the VM asks of it.
    """

    name: str
    vm_uid: str
    node: str
    is_running: bool
    is_target: bool
    cores: float
    memory_bytes: float
    load: Load


def read_pod(obj: Object) -> Pod:
    """Read a launcher pod.

    Raises
    ------
    InputError
        If an annotation is missing or makes no sense; the text names it.
    """
    metadata = obj["metadata"]
    labels, annotations = metadata.get("labels") or {}, metadata.get("annotations") or {}
    return Pod(
        name=metadata["name"],
        vm_uid=labels.get(CREATED_BY_LABEL, ""),
        node=obj.get("spec", {}).get("nodeName", ""),
        is_running=obj.get("status", {}).get("phase") == "Running",
        is_target=MIGRATION_JOB_UID_LABEL in labels,
        cores=_number(annotations, CPU_CORES_ANNOTATION),
        memory_bytes=_number(annotations, MEMORY_BYTES_ANNOTATION),
        load=_read_load(annotations),
    )


def _read_load(annotations: Mapping[str, str]) -> Load:
    text = annotations.get(LOAD_ANNOTATION)
    if text is None:
        cpu, memory = (_number(annotations, n) for n in (CPU_UTILIZATION_ANNOTATION, MEMORY_UTILIZATION_ANNOTATION))
        return Load(*_constant(cpu, memory))
    try:
        curve, seed = parse_curve_json(text)
    except InputError as exc:
        raise InputError(f"annotation {LOAD_ANNOTATION}: {exc}") from exc
    return Load(curve=curve, seed=seed)


def _number(annotations: Mapping[str, str], name: str) -> float:
    try:
        return parse_quantity(annotations[name])
    except KeyError as exc:
        raise InputError(f"wanted the annotation {name}, found none") from exc
    except InputError as exc:
        raise InputError(f"annotation {name}: {exc}") from exc


def trimmed(obj: Object) -> dict[str, Any]:
    """Return the part of a node, pod or VM that a fleet reads: a tenth of it, at 20,000 pods a matter of 200 MB."""
    metadata, status = obj["metadata"], obj.get("status") or {}
    kept = {name: metadata[name] for name in ("namespace", "name", "uid", "resourceVersion") if name in metadata}
    for part, names in (("labels", LABELS), ("annotations", ANNOTATIONS)):
        values = metadata.get(part) or {}
        kept[part] = {name: values[name] for name in names if name in values}
    return {
        "metadata": kept,
        "spec": {name: obj["spec"][name] for name in ("nodeName",) if name in (obj.get("spec") or {})},
        "status": {name: status[name] for name in ("phase", "podName", "allocatable") if name in status},
    }


def active_pod(vm_uid: str, pod_name: str, pods: Iterable[Pod]) -> Pod | None:
    """Return the pod in which a VM runs.

    Parameters
    ----------
    vm_uid, pod_name : str
        The VM's UID and ``status.podName``, empty while it has none.
    pods : iterable of Pod
        The VM's pods; those of an earlier VM of the same name are left out.

    Returns
    -------
    Pod or None
        The named one; without a name the only one that no migration made; None where there is none, or several.
    """
    own = [pod for pod in pods if pod.vm_uid in ("", vm_uid)]
    if pod_name:
        return next((pod for pod in own if pod.name == pod_name), None)
    first = [pod for pod in own if not pod.is_target]
    return first[0] if len(first) == 1 else None


@dataclass(slots=True)
class _Vm:
    """A VM's name, its pods and where its row of the arrays is."""

    key: VmKey
    uid: str = ""
    pod_name: str = ""
    exists: bool = False
    pods: dict[str, Pod] = field(default_factory=dict)
    row: int = -1
    active: Pod | None = None


@dataclass(frozen=True)
class NodeView:
    """All nodes at one instant, as metric functions see them; arrays have shape (n_nodes,), in the order of ``nodes``.

    Parameters
    ----------
    nodes : tuple of str
        Names; the same object as long as no node comes or goes.
    is_worker : FloatArray
        1 where VMs may run (``kubevirt.io/schedulable=true``), else 0.
    cores, memory_bytes : FloatArray
        Allocatable capacity.
    cpu_demand, memory_demand : FloatArray
        Demand over capacity; may exceed 1.
    cpu_usage, cpu_pressure, memory_usage, memory_pressure : FloatArray
        The four load ratios, in [0, 1].
    vms, vm_cores, vm_memory_bytes : FloatArray
        Number of VMs running there, and the sums of their cores and bytes.
    seconds : FloatArray
        Wall seconds over which the counters have run.
    cpu_busy_seconds, cpu_waiting_seconds, memory_waiting_seconds : FloatArray
        Integrals over wall time of usage and pressures; they never fall.
    time, lab_seconds : float
        The instant: wall time in seconds since 1970, and lab time.
    """

    nodes: tuple[str, ...]
    is_worker: FloatArray
    cores: FloatArray
    memory_bytes: FloatArray
    cpu_demand: FloatArray
    memory_demand: FloatArray
    cpu_usage: FloatArray
    cpu_pressure: FloatArray
    memory_usage: FloatArray
    memory_pressure: FloatArray
    vms: FloatArray
    vm_cores: FloatArray
    vm_memory_bytes: FloatArray
    seconds: FloatArray
    cpu_busy_seconds: FloatArray
    cpu_waiting_seconds: FloatArray
    memory_waiting_seconds: FloatArray
    time: float
    lab_seconds: float

    def counters(self) -> Counters:
        """Return the integrals, for the next process's :meth:`Fleet.begin`."""
        columns = (self.cpu_busy_seconds, self.cpu_waiting_seconds, self.memory_waiting_seconds, self.seconds)
        rows = np.column_stack(columns).tolist()
        return Counters(self.time, dict(zip(self.nodes, rows, strict=True)))


# Columns of the per-node arrays.
WORKER, CORES, MEMORY = range(3)
CPU_DEMAND, MEMORY_DEMAND, CPU_USAGE, CPU_PRESSURE, MEMORY_USAGE, MEMORY_PRESSURE, ONE = range(7)
RATES: Final = (CPU_USAGE, CPU_PRESSURE, MEMORY_PRESSURE, ONE)
"""What the four integrals integrate; the last one is their age."""


class Fleet:
    """Nodes and VMs under load. Safe to use from several threads.

    Parameters
    ----------
    lab_time : LabTime
        Where lab time 0 is, and the tempo.
    pressure_model : str
        See :func:`labkit.load.pressure`.

    Notes
    -----
    Before :meth:`begin` changes are only recorded: the first list of 20,000 pods costs no evaluation.
    """

    def __init__(self, lab_time: LabTime, *, pressure_model: PressureModel = "monotone") -> None:
        self.lab_time = lab_time
        self._pressure_model = pressure_model
        self._lock = threading.RLock()
        self._running = False
        self._step = 0
        # Nodes: row by name; facts, load and integrals by row; instant up to which each row is integrated.
        self._nodes: dict[str, int] = {}
        self._names: tuple[str, ...] = ()
        self._facts = np.empty((0, 3))
        self._load = np.empty((0, 7))
        self._integral = np.empty((0, len(RATES)))
        self._since = np.empty(0)
        self._dirty: set[str] = set()
        # VMs: rows of those with a running active pod; which rows are on a node of that name.
        self._vms: dict[VmKey, _Vm] = {}
        self._rows: list[_Vm | None] = []
        self._free: list[int] = []
        self._residents: dict[str, set[int]] = {}
        self._size = np.zeros((0, 2))
        self._utilization = np.zeros((0, 2))
        self._row_node = np.zeros(0, dtype=np.int64)
        self._curves: dict[int, tuple[Curve, int]] = {}
        self._table: tuple[np.ndarray[Any, np.dtype[np.int64]], LoadTable] | None = None
        self._unreadable: set[tuple[str, str]] = set()

    # --- changes ------------------------------------------------------------------------------------

    def begin(self, now: float, earlier: Counters | None = None) -> None:
        """Start the counters; everything known so far counts from here on.

        Parameters
        ----------
        now : float
            Wall time.
        earlier : Counters, optional
            What an earlier process told last. Its counters go on, with the load as it is now for the time between.
        """
        with self._lock:
            self._step = self._step_at(now)
            self._since[:] = now
            self._running = True
            for vm in list(self._vms.values()):
                self._place(vm, now, at_once=False)
            self._evaluate_curves()
            for name, row in self._nodes.items():
                if earlier is not None and name in earlier.values:
                    self._integral[row] = earlier.values[name]
                    self._since[row] = earlier.time

    def settings_changed(self, settings: Settings, now: float) -> None:
        """Take in where lab time 0 is and which pressure curve holds; both hold from ``now`` on."""
        with self._lock:
            self.advance(now)
            if self._running:
                self._settle(now)
            self.lab_time, self._pressure_model = settings.time, settings.pressure_model
            self._step = self._step_at(now)
            self._dirty.update(self._nodes)
            if self._running:
                self._evaluate_curves()

    @property
    def is_running(self) -> bool:
        """Whether :meth:`begin` was called."""
        return self._running

    def node_changed(self, old: Object | None, new: Object | None, now: float) -> None:
        """Take in a change of a node; only simulated nodes (``type=kwok``) count."""
        with self._lock:
            self.advance(now)
            for obj in (old, new):
                if obj is not None:
                    name = obj["metadata"]["name"]
            labels = (new or {}).get("metadata", {}).get("labels") or {}
            if new is None or labels.get(NODE_TYPE_LABEL) != NODE_TYPE_KWOK:
                self._remove_node(name)
                return
            allocatable = new.get("status", {}).get("allocatable") or {}
            try:
                facts = [
                    float(labels.get(SCHEDULABLE_LABEL) == "true"),
                    parse_quantity(allocatable.get("cpu", 0)),
                    parse_quantity(allocatable.get("memory", 0)),
                ]
            except InputError as error:
                logger.warning("node %s has no readable capacity, so it has no series: %s", name, error)
                self._remove_node(name)
                return
            if name not in self._nodes:
                self._add_node(name, facts, now)
            elif self._facts[self._nodes[name]].tolist() != facts:
                self._touch(name, now)
                self._facts[self._nodes[name]] = facts

    def pod_changed(self, old: Object | None, new: Object | None, now: float) -> None:
        """Take in a change of a launcher pod."""
        obj = new if new is not None else old
        assert obj is not None
        metadata = obj["metadata"]
        namespace, name = metadata.get("namespace", ""), metadata["name"]
        key = (namespace, (metadata.get("labels") or {}).get(DOMAIN_LABEL, ""))
        with self._lock:
            vm = self._vms.setdefault(key, _Vm(key))
            vm.pods.pop(name, None)
            self._unreadable.discard((namespace, name))
            if new is not None:
                try:
                    vm.pods[name] = read_pod(new)
                except InputError as error:
                    self._unreadable.add((namespace, name))
                    logger.warning("pod %s/%s has no readable load, so it counts as none: %s", namespace, name, error)
            self._place(vm, now)

    def vm_changed(self, old: Object | None, new: Object | None, now: float) -> None:
        """Take in a change of a VirtualMachine."""
        obj = new if new is not None else old
        assert obj is not None
        key = (obj["metadata"].get("namespace", ""), obj["metadata"]["name"])
        with self._lock:
            vm = self._vms.setdefault(key, _Vm(key))
            vm.exists = new is not None
            vm.uid = obj["metadata"].get("uid", "") if new is not None else ""
            vm.pod_name = ((new or {}).get("status") or {}).get("podName") or ""
            self._place(vm, now)

    def _place(self, vm: _Vm, now: float, *, at_once: bool = True) -> None:
        """Move a VM's load to where its active pod is; ``at_once`` evaluates its curve now, not with all others."""
        if not vm.exists and not vm.pods:
            self._vms.pop(vm.key, None)
        if not self._running:
            return
        active = active_pod(vm.uid, vm.pod_name, vm.pods.values()) if vm.exists else None
        if active is not None and not (active.is_running and active.node):
            active = None
        before, vm.active = vm.active, active
        if before == active:
            return
        self.advance(now)
        for pod in (before, active):
            if pod is not None:
                self._touch(pod.node, now)
        if before is not None:
            self._residents[before.node].discard(vm.row)
        if active is None:
            self._release(vm)
            return
        if vm.row < 0:
            self._take_row(vm)
        self._residents.setdefault(active.node, set()).add(vm.row)
        self._row_node[vm.row] = self._nodes.get(active.node, -1)
        self._size[vm.row] = active.cores, active.memory_bytes
        if before is None or before.load != active.load:
            self._set_load(vm.row, active.load, at_once=at_once)

    def _set_load(self, row: int, load: Load, *, at_once: bool) -> None:
        if self._curves.pop(row, None) is not None:
            self._table = None
        if load.curve is None:
            self._utilization[row] = load.cpu, load.memory
            return
        self._curves[row] = load.curve, load.seed
        self._table = None
        if at_once:
            cpu, memory = LoadTable([load.curve], [load.seed]).at(self._step * LOAD_STEP_SECONDS)
            self._utilization[row] = cpu[0], memory[0]

    def _take_row(self, vm: _Vm) -> None:
        if not self._free:
            grown = max(64, 2 * len(self._rows))
            self._free = list(range(grown - 1, len(self._rows) - 1, -1))
            self._size = _grown(self._size, grown)
            self._utilization = _grown(self._utilization, grown)
            self._row_node = np.concatenate([self._row_node, np.full(grown - len(self._rows), -1, dtype=np.int64)])
            self._rows.extend([None] * (grown - len(self._rows)))
        vm.row = self._free.pop()
        self._rows[vm.row] = vm

    def _release(self, vm: _Vm) -> None:
        if vm.row < 0:
            return
        if self._curves.pop(vm.row, None) is not None:
            self._table = None
        self._rows[vm.row] = None
        self._row_node[vm.row] = -1
        self._utilization[vm.row] = self._size[vm.row] = 0.0
        self._free.append(vm.row)
        vm.row = -1

    def _add_node(self, name: str, facts: list[float], now: float) -> None:
        self._nodes[name] = len(self._names)
        self._names = (*self._names, name)
        self._facts = np.vstack([self._facts, facts])
        self._load = np.vstack([self._load, np.zeros((1, self._load.shape[1]))])
        self._integral = np.vstack([self._integral, np.zeros((1, len(RATES)))])
        self._since = np.append(self._since, now)
        residents = list(self._residents.get(name, ()))
        self._row_node[residents] = self._nodes[name]
        self._dirty.add(name)

    def _remove_node(self, name: str) -> None:
        gone = self._nodes.pop(name, None)
        if gone is None:
            return
        self._dirty.discard(name)
        self._names = self._names[:gone] + self._names[gone + 1 :]
        self._nodes = {node: row for row, node in enumerate(self._names)}
        self._facts = np.delete(self._facts, gone, axis=0)
        self._load = np.delete(self._load, gone, axis=0)
        self._integral = np.delete(self._integral, gone, axis=0)
        self._since = np.delete(self._since, gone)
        self._row_node[self._row_node == gone] = -1
        self._row_node[self._row_node > gone] -= 1

    # --- time ---------------------------------------------------------------------------------------

    def advance(self, now: float) -> None:
        """Integrate over every load step that ended by ``now`` (wall time); earlier instants change nothing."""
        with self._lock:
            if not self._running:
                return
            last = self._step_at(now)
            if last - self._step > MAX_CATCH_UP_STEPS:
                logger.warning("%d load steps passed unseen; the first are skipped", last - self._step)
                self._settle(self._step_begin(last - MAX_CATCH_UP_STEPS))
                self._step = last - MAX_CATCH_UP_STEPS
                self._evaluate_curves()
            if not self._curves:
                self._step = max(self._step, last)
            while self._step < last:
                self._settle(self._step_begin(self._step + 1))
                self._step += 1
                self._evaluate_curves()

    def next_step(self, now: float) -> float:
        """Return the wall time at which the load step of ``now`` ends."""
        return self._step_begin(self._step_at(now) + 1)

    def _step_at(self, now: float) -> int:
        # A microsecond of grace: the instant computed for a boundary must belong to the step that it begins.
        return int(np.floor(self.lab_time.at(now + 1e-6) / LOAD_STEP_SECONDS))

    def _step_begin(self, step: int) -> float:
        return self.lab_time.wall(step * LOAD_STEP_SECONDS)

    def _evaluate_curves(self) -> None:
        if not self._curves:
            return
        if self._table is None:
            rows = sorted(self._curves)
            curves, seeds = zip(*(self._curves[row] for row in rows), strict=True)
            self._table = (np.array(rows, dtype=np.int64), LoadTable(curves, seeds))
        rows_of_curves, table = self._table
        cpu, memory = table.at(self._step * LOAD_STEP_SECONDS)
        changed = (self._utilization[rows_of_curves, 0] != cpu) | (self._utilization[rows_of_curves, 1] != memory)
        if changed.any():
            self._utilization[rows_of_curves, 0] = cpu
            self._utilization[rows_of_curves, 1] = memory
            self._dirty.update(self._nodes)

    def _settle(self, now: float) -> None:
        """Integrate all nodes up to ``now`` at their current load."""
        self._refresh()
        elapsed = np.maximum(now - self._since, 0.0)
        self._integral += self._load[:, RATES] * elapsed[:, np.newaxis]
        self._since = np.maximum(self._since, now)

    def _touch(self, name: str, now: float) -> None:
        """Integrate one node up to ``now``; its load is about to change."""
        row = self._nodes.get(name)
        if row is None:
            return
        elapsed = now - self._since[row]
        if elapsed > 0:
            if name in self._dirty:
                self._refresh_one(name, row)
            self._integral[row] += self._load[row, RATES] * elapsed
            self._since[row] = now
        self._dirty.add(name)

    def _refresh(self) -> None:
        if self._dirty:
            self._load = self._computed(slice(None), self._row_node, self._facts)
            self._dirty.clear()

    def _refresh_one(self, name: str, row: int) -> None:
        residents = sorted(self._residents.get(name, ()))
        here = np.zeros(len(residents), dtype=np.int64)
        self._load[row] = self._computed(residents, here, self._facts[row : row + 1])[0]
        self._dirty.discard(name)

    def _computed(self, rows: slice | list[int], node_index: Any, facts: FloatArray) -> FloatArray:
        load = node_load(
            self._utilization[rows, 0],
            self._utilization[rows, 1],
            cores=self._size[rows, 0],
            memory_bytes=self._size[rows, 1],
            node_index=node_index,
            node_cores=facts[:, CORES],
            node_memory_bytes=facts[:, MEMORY],
            pressure_model=self._pressure_model,
        )
        return np.column_stack([load.cpu_demand, load.memory_demand, load.load_ratio, np.ones(len(facts))])

    # --- answers ------------------------------------------------------------------------------------

    def view(self, now: float) -> NodeView:
        """Return all nodes at a wall time not before the last change."""
        with self._lock:
            self.advance(now)
            if self._running:
                self._settle(now)
            load, facts, integral = self._load, self._facts, self._integral.copy()
            vms, vm_cores, vm_memory_bytes = (
                np.bincount(self._row_node + 1, weights=weights, minlength=len(self._names) + 1)[1:].astype(np.float64)
                for weights in (None, self._size[:, 0], self._size[:, 1])
            )
            return NodeView(
                nodes=self._names,
                is_worker=facts[:, WORKER].copy(),
                cores=facts[:, CORES].copy(),
                memory_bytes=facts[:, MEMORY].copy(),
                cpu_demand=load[:, CPU_DEMAND].copy(),
                memory_demand=load[:, MEMORY_DEMAND].copy(),
                cpu_usage=load[:, CPU_USAGE].copy(),
                cpu_pressure=load[:, CPU_PRESSURE].copy(),
                memory_usage=load[:, MEMORY_USAGE].copy(),
                memory_pressure=load[:, MEMORY_PRESSURE].copy(),
                vms=vms,
                vm_cores=vm_cores,
                vm_memory_bytes=vm_memory_bytes,
                cpu_busy_seconds=integral[:, 0],
                cpu_waiting_seconds=integral[:, 1],
                memory_waiting_seconds=integral[:, 2],
                seconds=integral[:, 3],
                time=now,
                lab_seconds=self.lab_time.at(now),
            )

    @property
    def unreadable_pods(self) -> int:
        """Return how many launcher pods have load annotations that cannot be read."""
        return len(self._unreadable)

    def counts(self) -> dict[str, int]:
        """Return the numbers of nodes, of VMs, of those that run, and of unreadable pods."""
        with self._lock:
            return {
                "nodes": len(self._names),
                "vms": sum(vm.exists for vm in self._vms.values()),
                "running_vms": len(self._rows) - len(self._free),
                "unreadable_pods": self.unreadable_pods,
            }

    def scenario(self, now: float) -> dict[str, Any]:
        """Return the cluster's true state: each node with its four ratios and its VMs."""
        with self._lock:
            view = self.view(now)
            nodes = []
            for row, name in enumerate(view.nodes):
                residents = [self._rows[vm] for vm in self._residents.get(name, ())]
                nodes.append(
                    {
                        "name": name,
                        "cpu_cores": view.cores[row],
                        "memory_bytes": view.memory_bytes[row],
                        "cpu_usage": view.cpu_usage[row],
                        "cpu_pressure": view.cpu_pressure[row],
                        "memory_usage": view.memory_usage[row],
                        "memory_pressure": view.memory_pressure[row],
                        "vms": sorted(
                            (self._describe(vm) for vm in residents if vm is not None),
                            key=lambda entry: (entry["namespace"], entry["name"]),
                        ),
                    }
                )
            nodes.sort(key=lambda entry: str(entry["name"]))
            return {"lab_seconds": view.lab_seconds, "tempo": self.lab_time.tempo, "nodes": nodes}

    def _describe(self, vm: _Vm) -> dict[str, Any]:
        assert vm.active is not None
        return {
            "namespace": vm.key[0],
            "name": vm.key[1],
            "pod": vm.active.name,
            "cpu_cores": vm.active.cores,
            "memory_bytes": vm.active.memory_bytes,
            "cpu_utilization": float(self._utilization[vm.row, 0]),
            "memory_utilization": float(self._utilization[vm.row, 1]),
        }


@lru_cache(maxsize=65536)
def _constant(cpu: float, memory: float) -> tuple[float, float]:
    """Return constant utilisations as the load table rounds them."""
    rounded_cpu, rounded_memory = LoadTable([constant_curve(cpu, memory)], [0]).at(0.0)
    return float(rounded_cpu[0]), float(rounded_memory[0])


def _grown(array: FloatArray, rows: int) -> FloatArray:
    return np.concatenate([array, np.zeros((rows - len(array), array.shape[1]))])
