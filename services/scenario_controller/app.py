"""Playing the scenario whose turn it is, one look after another."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from labkit.clock import WALL_CLOCK, Clock
from labkit.errors import InputError, KubeError
from labkit.kube import CONFIG_MAPS, NODES, PODS, SIMULATION_SCENARIOS, VIRTUAL_MACHINES, Kube, Object, Store
from labkit.names import (
    DRAINING_ANNOTATION,
    EPOCH_KEY,
    LAB_CONFIG_MAP,
    LAUNCHER_PREFIX,
    MIGRATION_POLICY_CONFIG_MAP,
    MONITORING_NAMESPACE,
    PRESSURE_MODEL_KEY,
    SCENARIO_LABEL,
    SETTLE_SECONDS,
)
from labkit.scenario import Event, Node, Scenario, parse_scenario
from labkit.scenario.expansion import Expansion
from labkit.service import HEALTH, health, site
from labkit.settings import read_settings
from services.scenario_controller.logic import (
    STATUS_LAB_SECONDS,
    choose,
    due,
    node_object,
    phase_of,
    progress_status,
    stage,
    timestamp,
    vm_object,
)

if TYPE_CHECKING:
    from wsgiref.types import WSGIApplication

logger = logging.getLogger(__name__)

COMPONENT: Final = "scenario-controller"
NOT_BEGUN_SECONDS: Final = 10 * 365 * 86400.0
"""While a scenario is being placed lab time 0 lies this far in the future."""
TOO_MANY_REQUESTS: Final = 429
CONFLICT: Final = 409


class ScenarioController:
    """Plays scenarios, one at a time.

    Parameters
    ----------
    kube : Kube
        The API server.
    scenarios, vms, nodes, pods : Store
        Mirrors of the SimulationScenarios, the VirtualMachines, the simulated nodes and the launcher pods.
    tempo : int
        Lab seconds per second.
    clock : Clock
        Wall clock.

    Notes
    -----
    What a scenario has done is in its status and in ConfigMap ``lab``; this object only remembers since when all VMs
    run, which a restart counts anew, and whose links are set, which a restart sets again.
    """

    def __init__(
        self,
        kube: Kube,
        *,
        scenarios: Store,
        vms: Store,
        nodes: Store,
        pods: Store,
        tempo: int,
        clock: Clock = WALL_CLOCK,
    ) -> None:
        self._kube = kube
        self._scenarios = scenarios
        self._vms = vms
        self._nodes = nodes
        self._pods = pods
        self._tempo = tempo
        self._clock = clock
        self._placed_since: tuple[str, float] | None = None
        self._linked = ""
        """UID of the scenario whose links the migration policy has."""
        self._current: tuple[tuple[str, int], Scenario, Expansion] | None = None
        self._statuses: dict[str, dict[str, Any]] = {}
        """By UID, the status as this process wrote it last: nobody else writes it, and the watch is behind."""
        self.wake = threading.Event()

    def changed(self, old: Object | None, new: Object | None) -> None:
        """Take in an event of any watch: look again soon, unless only the version is new, as at a node's heartbeat."""
        if old is None or new is None or _without_version(old) != _without_version(new):
            self.wake.set()

    def look(self) -> float:
        """Do what is due now; return the seconds until something is due without a change in the cluster."""
        objects = self._scenarios.items()
        self._statuses = {obj["metadata"]["uid"]: self._status(obj) for obj in objects}
        current = choose((obj, self._status(obj)) for obj in objects)
        for obj in objects:
            if current is not None and obj is not current and phase_of(self._status(obj)) == "Pending":
                self._report(obj, {"phase": "Pending", "message": f"waits for {current['metadata']['name']}"})
        self._drain()
        if current is None:
            return 60.0
        try:
            scenario, expansion = self._read(current)
        except InputError as error:
            self._report(current, {"phase": "Failed", "message": str(error), "endTime": timestamp(self._clock.now())})
            self._kube.record_event(
                current, reason="InvalidScenario", message=str(error), component=COMPONENT, warning=True
            )
            return 0.0
        if phase_of(self._status(current)) == "Pending":
            return self._place(current, scenario, expansion.nodes, list(expansion.vms))
        return self._play(current, scenario, list(expansion.events))

    def _read(self, obj: Object) -> tuple[Scenario, Expansion]:
        """Return what an object says; each version of it is expanded once."""
        version = obj["metadata"]["uid"], obj["metadata"].get("generation", 0)
        if self._current is None or self._current[0] != version:
            scenario = parse_scenario(obj, f"scenario {obj['metadata']['name']}")
            self._current = (version, scenario, scenario.expand())
        return self._current[1:]

    # --- before lab time 0 ----------------------------------------------------------------------------

    def _place(self, obj: Object, scenario: Scenario, nodes: tuple[Node, ...], vms: list[Any]) -> float:
        metadata = obj["metadata"]
        there = [node["metadata"]["name"] for node in self._nodes.items()]
        found = stage(nodes, vms, there, self._running(obj))
        self._report(obj, {"phase": "Pending", "message": found.message, "nodes": len(nodes), "vms": len(vms)})
        if found.is_placed:
            now = self._clock.now()
            if self._placed_since is None or self._placed_since[0] != metadata["uid"]:
                self._placed_since = (metadata["uid"], now)
            left = self._placed_since[1] + SETTLE_SECONDS / self._tempo - now
            if left > 0:
                return left
            self._start(obj, scenario)
            return 0.0
        self._placed_since = None
        self._hold(metadata["uid"], scenario)
        by_name = {node.name: node for node in nodes}
        for name in found.extra_nodes:
            self._kube.delete(NODES, name)
        for name in found.missing_nodes:
            self._create(NODES, node_object(by_name[name]), None)
        machines = {vm.name: vm for vm in vms}
        for name in found.missing_vms:
            self._create(VIRTUAL_MACHINES, vm_object(machines[name], obj), metadata["namespace"])
        return 1.0

    def _running(self, obj: Object) -> dict[str, bool]:
        """Return which of a scenario's VMs exist, and whether each runs."""
        metadata = obj["metadata"]
        return {
            vm["metadata"]["name"]: (vm.get("status") or {}).get("phase") == "Running"
            for vm in self._vms.items()
            if vm["metadata"]["namespace"] == metadata["namespace"]
            and (vm["metadata"].get("labels") or {}).get(SCENARIO_LABEL) == metadata["name"]
        }

    def _hold(self, uid: str, scenario: Scenario) -> None:
        """Put lab time 0 out of reach, and set what holds for the whole scenario."""
        data = self._lab()
        now = self._clock.now()
        wanted: dict[str, str] = {PRESSURE_MODEL_KEY: scenario.pressure_model}
        if read_settings(data).time.epoch < now + NOT_BEGUN_SECONDS / 2:
            wanted[EPOCH_KEY] = repr(now + NOT_BEGUN_SECONDS)
        if any(data.get(key) != value for key, value in wanted.items()):
            self._kube.patch(CONFIG_MAPS, LAB_CONFIG_MAP, {"data": wanted}, MONITORING_NAMESPACE)
        if self._linked != uid:
            megabits = scenario.link_bytes_per_second * 8 / 1e6
            policy = {"data": {"networkBandwidthMbps": f"{megabits:g}"}}
            self._kube.patch(CONFIG_MAPS, MIGRATION_POLICY_CONFIG_MAP, policy, MONITORING_NAMESPACE)
            self._linked = uid

    def _lab(self) -> dict[str, str]:
        """Return the data of ConfigMap ``lab``, from the API server: this process has just written it, perhaps."""
        return dict(self._kube.get(CONFIG_MAPS, LAB_CONFIG_MAP, MONITORING_NAMESPACE)["data"])

    def _create(self, resource: Any, obj: Object, namespace: str | None) -> None:
        try:
            self._kube.create(resource, obj, namespace)
        except KubeError as error:
            if error.status != CONFLICT:
                raise

    def _start(self, obj: Object, scenario: Scenario) -> None:
        """Set lab time 0 to now: every curve begins, and so does the timeline."""
        now = self._clock.now()
        self._kube.patch(CONFIG_MAPS, LAB_CONFIG_MAP, {"data": {EPOCH_KEY: repr(now)}}, MONITORING_NAMESPACE)
        status = {"phase": "Running", "startTime": timestamp(now), "eventsPlayed": 0, "message": ""}
        self._report(obj, status | progress_status(scenario, 0.0))
        self._kube.record_event(obj, reason="Started", message="lab time 0", component=COMPONENT)

    # --- from lab time 0 on ---------------------------------------------------------------------------

    def _play(self, obj: Object, scenario: Scenario, events: list[Event]) -> float:
        lab_seconds = read_settings(self._lab()).time.at(self._clock.now())
        paused = bool(obj["spec"].get("paused"))
        played = int(self._status(obj).get("eventsPlayed", 0))
        if not paused:
            for event in due(events, played, min(lab_seconds, scenario.duration_seconds)):
                self._do(event, obj)
                played += 1
                # Written after each event: a restarted controller repeats at most this one, and each can be repeated.
                self._report(obj, {"eventsPlayed": played})
        status: dict[str, Any] = progress_status(scenario, lab_seconds) | {
            "phase": "Paused" if paused else "Running",
            "nodes": len(self._nodes),
            "vms": len(self._running(obj)),
        }
        if lab_seconds >= scenario.duration_seconds and not paused:
            status |= {"phase": "Completed", "endTime": timestamp(self._clock.now())}
            self._kube.record_event(obj, reason="Completed", message=status["labTime"], component=COMPONENT)
        self._report(obj, status)
        coming = [event.at_seconds for event in events[played:]] + [scenario.duration_seconds]
        wait = min(STATUS_LAB_SECONDS, max(0.0, min(coming) - lab_seconds))
        return max(wait, 0.05) / self._tempo

    def _do(self, event: Event, obj: Object) -> None:
        logger.info("lab time %g: %s", event.at_seconds, event.type)
        namespace = obj["metadata"]["namespace"]
        match event.type:
            case "add_nodes":
                for node in event.nodes:
                    self._create(NODES, node_object(node), None)
            case "cordon_node" | "uncordon_node":
                self._patch_node(event.node, {"spec": {"unschedulable": event.type == "cordon_node" or None}})
            case "drain_node":
                marks = {"metadata": {"annotations": {DRAINING_ANNOTATION: "true"}}, "spec": {"unschedulable": True}}
                self._patch_node(event.node, marks)
                self._drain()
            case "fail_node":
                self._kube.delete(NODES, event.node)
            case "create_vms":
                for vm in event.vms:
                    self._create(VIRTUAL_MACHINES, vm_object(vm, obj), namespace)
            case "delete_vms":
                for name in event.vm_names:
                    self._kube.delete(VIRTUAL_MACHINES, name, namespace)
            case "resize_vms":
                sizes = {
                    "cpu": None if event.cores is None else f"{event.cores:g}",
                    "memory": None if event.memory_bytes is None else str(round(event.memory_bytes)),
                }
                patch = {"spec": {"resources": {key: value for key, value in sizes.items() if value is not None}}}
                for name in event.vm_names:
                    self._if_there(partial(self._kube.patch, VIRTUAL_MACHINES, name, patch, namespace))
                    self._restart(name, namespace)
            case "surge":
                pass  # the curves of its VMs contain it
        self._kube.record_event(
            obj, reason="Played", message=f"{event.type} at {event.at_seconds:g} s", component=COMPONENT
        )

    def _restart(self, name: str, namespace: str) -> None:
        """Delete a VM's pod: a size takes effect when the VM starts, which its controller sees to."""
        vm = self._vms.get(namespace, name)
        pod = ((vm or {}).get("status") or {}).get("podName")
        if pod:
            self._if_there(partial(self._kube.delete, PODS, pod, namespace))

    def _patch_node(self, name: str, patch: Object) -> None:
        self._if_there(lambda: self._kube.patch(NODES, name, patch))

    def _if_there(self, write: Callable[[], object]) -> None:
        """Write to an object that somebody else may have removed in the meantime."""
        try:
            write()
        except KubeError as error:
            if error.status != 404:
                raise
            logger.warning("not there any more: %s", error)

    def _drain(self) -> None:
        """Ask the VMs on draining nodes to leave; those that were asked before are marked and left alone."""
        draining = {
            node["metadata"]["name"]
            for node in self._nodes.items()
            if (node["metadata"].get("annotations") or {}).get(DRAINING_ANNOTATION) == "true"
        }
        if not draining:
            return
        asked = {
            (vm["metadata"]["namespace"], (vm.get("status") or {}).get("podName"))
            for vm in self._vms.items()
            if not (vm.get("status") or {}).get("evacuationNodeName")
        }
        for pod in self._pods.items():
            metadata = pod["metadata"]
            where = metadata["namespace"], metadata["name"]
            if (
                pod["spec"].get("nodeName") in draining
                and where in asked
                and metadata["name"].startswith(LAUNCHER_PREFIX)
            ):
                self._evict(metadata)

    def _evict(self, metadata: Object) -> None:
        eviction = {
            "apiVersion": "policy/v1",
            "kind": "Eviction",
            "metadata": {"name": metadata["name"], "namespace": metadata["namespace"]},
        }
        try:
            self._kube.create(PODS, eviction, metadata["namespace"], name=metadata["name"], subresource="eviction")
        except KubeError as error:
            # 429 is the answer of a VM that will be migrated; a later look asks again where it was refused.
            if error.status not in (404, TOO_MANY_REQUESTS):
                raise

    # --- status ---------------------------------------------------------------------------------------

    def _status(self, obj: Object) -> dict[str, Any]:
        return self._statuses.setdefault(obj["metadata"]["uid"], dict(obj.get("status") or {}))

    def _report(self, obj: Object, status: dict[str, Any]) -> None:
        """Write what differs from the status as it is known."""
        known = self._status(obj)
        status = {**status, "observedGeneration": obj["metadata"].get("generation", 0)}
        change = {key: value for key, value in status.items() if known.get(key) != value}
        if not change:
            return
        metadata = obj["metadata"]
        self._if_there(
            lambda: self._kube.patch(
                SIMULATION_SCENARIOS,
                metadata["name"],
                {"metadata": {"uid": metadata["uid"]}, "status": change},
                metadata["namespace"],
                subresource="status",
            )
        )
        known.update(change)


def _without_version(obj: Object) -> Object:
    metadata = {name: value for name, value in obj["metadata"].items() if name != "resourceVersion"}
    return {**obj, "metadata": metadata}


def create_app(alive: Callable[[], bool]) -> WSGIApplication:
    """Return the HTTP pages: ``/healthz``."""
    return site({HEALTH: health(alive)})
