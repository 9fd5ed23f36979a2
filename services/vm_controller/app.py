"""Keeping the status of every VirtualMachine right, and the HTTP pages beside it."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import lru_cache
from typing import TYPE_CHECKING, Final

from prometheus_client import CollectorRegistry, Counter

from labkit.clock import WALL_CLOCK, Clock
from labkit.errors import InputError, KubeError
from labkit.kube import VIRTUAL_MACHINES, Key, Kube, Object, Store
from labkit.load import Curve, LoadTable, parse_curve_json
from labkit.names import DOMAIN_LABEL, LOAD_ANNOTATION
from labkit.service import HEALTH, METRICS, health, metrics, site
from labkit.settings import Settings, read_settings
from labkit.virtualmachine import VirtualMachine
from labkit.workqueue import WorkQueue
from services.vm_controller.logic import (
    UTILIZATION_SECONDS,
    Utilization,
    changes,
    label_change,
    moved,
    utilization_of,
    wanted_status,
)

if TYPE_CHECKING:
    from wsgiref.types import WSGIApplication

logger = logging.getLogger(__name__)

SETTLE_SECONDS: Final = 0.2
"""A VM's changes come in bursts (created, scheduled, running): one write for all of them."""
SLACK_SECONDS: Final = 1.0
"""Lab seconds that two looks a lab minute apart may be too close."""
NOT_FOUND: Final = 404
CONFLICT: Final = 409


class VmController:
    """Reconciles VMs with what their status says.

    Parameters
    ----------
    kube : Kube
        The API server.
    vms, pods : Store
        Mirrors of the VirtualMachines and the launcher pods.
    settings : Settings
        Of the lab, as of the start.
    clock : Clock
        Wall clock.
    """

    def __init__(self, kube: Kube, *, vms: Store, pods: Store, settings: Settings, clock: Clock = WALL_CLOCK) -> None:
        self._kube = kube
        self._vms = vms
        self._pods = pods
        self.lab_time = settings.time
        self._clock = clock
        self.queue: WorkQueue[Key] = WorkQueue(clock=clock)
        self._moved_at: dict[Key, float] = {}
        self._loads: list[str] = []
        self._table = LoadTable([], [])
        self.registry = CollectorRegistry()
        self._writes = Counter("lab_vm_status_writes", "Writes, by what.", ["what"], registry=self.registry)
        self._failures = Counter(
            "lab_reconcile_failures", "Reconciles that failed and are repeated.", registry=self.registry
        )

    def vm_changed(self, old: Object | None, new: Object | None) -> None:
        """Take in an event of the VMs' watch."""
        if new is None:
            if old is not None:
                self._moved_at.pop((old["metadata"]["namespace"], old["metadata"]["name"]), None)
            return
        self.queue.add_after((new["metadata"]["namespace"], new["metadata"]["name"]), SETTLE_SECONDS)

    def pod_changed(self, old: Object | None, new: Object | None) -> None:
        """Take in an event of the pods' watch."""
        metadata = (new or old or {})["metadata"]
        name = (metadata.get("labels") or {}).get(DOMAIN_LABEL)
        if name:
            self.queue.add_after((metadata["namespace"], name), SETTLE_SECONDS)

    def settings_changed(self, old: Object | None, new: Object | None) -> None:
        """Take in the ConfigMap ``lab``: a scenario moves lab time 0."""
        try:
            self.lab_time = read_settings((new or {}).get("data") or {}).time
        except InputError as error:
            logger.error("%s; what held before still holds", error)

    def failed(self, key: Key, error: Exception) -> None:
        """Count a reconcile that failed."""
        self._failures.inc()

    def follow_curves(self) -> None:
        """Queue the VMs whose load curve has moved far from what their status shows; all at once, without requests."""
        lab_now = self.lab_time.at(self._clock.now())
        followed, loads = [], []
        for obj in self._vms.items():
            load = (obj["metadata"].get("annotations") or {}).get(LOAD_ANNOTATION)
            if load and _curve(load) is not None:
                followed.append(obj)
                loads.append(load)
        if not followed:
            return
        if loads != self._loads:
            curves = [curve for curve in map(_curve, loads) if curve is not None]
            self._table = LoadTable([curve for curve, _ in curves], [seed for _, seed in curves])
            self._loads = loads
        cpu, memory = self._table.at(lab_now)
        for obj, cpu_ratio, memory_ratio in zip(followed, cpu, memory, strict=True):
            if moved(obj.get("status") or {}, Utilization(float(cpu_ratio), float(memory_ratio))):
                self.queue.add((obj["metadata"]["namespace"], obj["metadata"]["name"]))

    def reconcile(self, key: Key) -> float | None:
        """Write what differs between a VM's status and what it should say."""
        obj = self._vms.get(*key)
        if obj is None:
            return None
        vm = VirtualMachine.read(obj)
        now = self._clock.now()
        pod = self._pods.get(vm.namespace, vm.pod_name) if vm.pod_name else None
        wanted = wanted_status(
            vm,
            obj,
            pod,
            utilization_of(vm, self.lab_time.at(now)),
            may_move=(now - self._moved_at.get(key, float("-inf"))) * self.lab_time.tempo
            >= UTILIZATION_SECONDS - SLACK_SECONDS,
            now=now,
        )
        difference = changes(obj.get("status") or {}, wanted)
        try:
            if difference:
                self._write("status", vm, {"status": difference})
                if "cpuUtilization" in difference or "memoryUtilization" in difference:
                    self._moved_at[key] = now
            label = label_change(vm, obj)
            if label:
                self._write("label", vm, {"metadata": {"labels": label}})
        except KubeError as error:
            if error.status == NOT_FOUND:
                return None  # deleted
            if error.status == CONFLICT:
                return SETTLE_SECONDS  # another VM has that name by now
            raise
        return None

    def _write(self, what: str, vm: VirtualMachine, patch: Object) -> None:
        patch.setdefault("metadata", {})["uid"] = vm.uid
        subresource = "status" if what == "status" else None
        self._kube.patch(VIRTUAL_MACHINES, vm.name, patch, vm.namespace, subresource=subresource)
        self._writes.labels(what).inc()


@lru_cache(maxsize=65_536)
def _curve(load: str) -> tuple[Curve, int] | None:
    """Read a curve once; None where it cannot be read, which the VM's condition ``LoadCurveValid`` tells."""
    try:
        return parse_curve_json(load)
    except InputError:
        return None


def create_app(controller: VmController, *, ready: Callable[[], bool], healthy: Callable[[], bool]) -> WSGIApplication:
    """Build the pages: ``/healthz`` and ``/metrics``.

    Parameters
    ----------
    controller : VmController
        What they tell of.
    ready, healthy : callable
        Whether the first lists have been read, and whether the worker threads run.
    """
    return site({HEALTH: health(healthy, ready=ready), METRICS: metrics(controller.registry)})
