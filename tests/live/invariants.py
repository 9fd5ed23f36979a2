"""What must hold at every moment of a lab, watched from outside while a test does its worst.

Each look takes the VMs and the launcher pods at *one* resource version, so what it sees was true at one instant. The
numbers S1 to S9 are those of the project's list of safety invariants:

S1  a VM has one live pod, and two on different nodes only while it migrates
S2  ``status.podName`` names one of them, and never again the source of a migration that succeeded
S3  a live target pod is the VM, or belongs to its one open migration
S4  at most 5 migrations run in the cluster, and 2 leave one node
S5  a migration's phase moves only forward, and a final one stays
S6  the eviction of a live launcher pod is never carried out (audit log; on kind the mark that an eviction leaves on its
    pod, as far as a look meets it)
S7  the pod says that its eviction is in progress exactly while the VM is marked
S8  no launcher pod without VM, no wanted VM without pod for long
S9  the exporter counts each running VM on one node

S7 to S9 span two writes or two watches, so a difference counts only when it lasts.
"""

from __future__ import annotations

import json
import threading
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final
from urllib.error import URLError
from urllib.request import urlopen

from labkit.clock import WALL_CLOCK
from labkit.errors import KubeError
from labkit.kube import PODS, VIRTUAL_MACHINES, Kube, Object
from labkit.names import (
    CREATED_BY_LABEL,
    EVICTION_IN_PROGRESS_ANNOTATION,
    LAUNCHER_LABEL,
    LAUNCHER_LABEL_VALUE,
    LAUNCHER_PREFIX,
    MIGRATION_JOB_UID_LABEL,
)
from labkit.virtualmachine import PHASES, Migration, VirtualMachine

LAUNCHERS: Final = f"{LAUNCHER_LABEL}={LAUNCHER_LABEL_VALUE}"
LASTING_SECONDS: Final = 5.0
"""How long a difference between two writers may last."""
WITHOUT_POD_SECONDS: Final = 30.0
AWAY: Final = (0, 403, 410, 429)
"""Besides 5xx, what an API server answers that is away, begins anew, or has compacted what was asked for."""


@dataclass
class Invariants:
    """A continuous check; use it as a context manager, it fails the test at the end if anything was ever wrong.

    Parameters
    ----------
    kube : Kube
        The lab's API server.
    exporter_url : str, optional
        For S9.
    audit_log : Path, optional
        For S6.
    per_cluster, per_node : int
        Limits of S4.
    lasting_seconds : float
        How long differences of S7 to S9 may last; a test that takes a component away allows more.
    """

    kube: Kube
    exporter_url: str | None = None
    audit_log: Path | None = None
    per_cluster: int = 5
    per_node: int = 2
    lasting_seconds: float = LASTING_SECONDS
    without_pod_seconds: float = WITHOUT_POD_SECONDS
    violations: list[str] = field(default_factory=list)
    looks: int = 0
    migrations: dict[str, Migration] = field(default_factory=dict)
    """Every migration seen, by UID."""

    def __post_init__(self) -> None:
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="invariants", daemon=True)
        self._since: dict[tuple[str, str], float] = {}
        self._left: defaultdict[str, set[str]] = defaultdict(set)
        self._audit_offset = self.audit_log.stat().st_size if self.audit_log is not None else 0
        self._evictable: set[tuple[str, str]] = set()

    def __enter__(self) -> Invariants:
        self._thread.start()
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        self._stop.set()
        self._thread.join()
        if kind is None:
            self.look()
            self.check_audit_log()
        assert self.looks > 0, "the API server could never be asked"
        assert not self.violations, "\n".join(self.violations[:20])

    # --- one look -----------------------------------------------------------------------------------

    def look(self) -> None:
        """Check once."""
        try:
            answer = self.kube.list(VIRTUAL_MACHINES)
            version = answer["metadata"]["resourceVersion"]
            pods = self.kube.list(PODS, label_selector=LAUNCHERS, resource_version=version, exact=True)
        except KubeError as error:
            if error.status in AWAY or error.status >= 500:
                # The API server is away, or compacted meanwhile: nothing was seen, and nobody could put anything right.
                self._since.clear()
                return
            raise
        now = WALL_CLOCK.now()
        self.looks += 1
        vms = [VirtualMachine.read(obj) for obj in answer["items"]]
        by_uid: defaultdict[str, list[Object]] = defaultdict(list)
        for pod in pods["items"]:
            by_uid[pod["metadata"]["labels"].get(CREATED_BY_LABEL, "")].append(pod)
        self._evictable |= {(vm.namespace, vm.name) for vm in vms if _may_be_evicted(vm)}
        self._check_pods(vms, by_uid, version)
        self._check_migrations(vms, version)
        lasting = dict(self._differences(vms, by_uid))
        if self.exporter_url is not None:
            lasting |= dict(self._exporter_differences(vms, by_uid))
        self._check_lasting(lasting, now)

    def _check_pods(self, vms: Iterable[VirtualMachine], by_uid: dict[str, list[Object]], version: str) -> None:
        for vm in vms:
            live = [pod for pod in by_uid.get(vm.uid, ()) if _is_live(pod)]
            evicted = [pod["metadata"]["name"] for pod in by_uid.get(vm.uid, ()) if _is_evicted(pod)]
            if evicted and (vm.namespace, vm.name) not in self._evictable:
                self._violated("S6", f"{vm.name} at version {version}: the eviction of {evicted} was carried out")
            names = [pod["metadata"]["name"] for pod in live]
            nodes = [pod["spec"]["nodeName"] for pod in live if pod["spec"].get("nodeName")]
            open_migration = vm.active_migration is not None
            where = f"{vm.name} at version {version}: {names} on {nodes}, it is {vm.pod_name or 'no pod'}"
            if len(live) > (2 if open_migration else 1):
                self._violated("S1", f"{where}, {'one' if open_migration else 'no'} open migration")
            if len(set(nodes)) < len(nodes):
                self._violated("S1", f"{where}, two pods on one node")
            if live and vm.pod_name not in names and not open_migration:
                self._violated("S2", where)
            for pod in live:
                target_of = pod["metadata"]["labels"].get(MIGRATION_JOB_UID_LABEL)
                migration, name = vm.active_migration, pod["metadata"]["name"]
                belongs = migration is not None and (migration.uid == target_of or migration.source_pod == name)
                if target_of and not belongs and name != vm.pod_name:
                    self._violated("S3", f"{where}, {name} is the target of {target_of}")
            if vm.pod_name in self._left[vm.uid]:
                self._violated("S2", f"{where}, which it had left for good")

    def _check_migrations(self, vms: Iterable[VirtualMachine], version: str) -> None:
        running = []
        for vm in vms:
            migration = vm.migration
            if migration is None:
                continue
            before = self.migrations.get(migration.uid)
            if before is not None and before.is_final and migration != before:
                self._violated("S5", f"{vm.name} at version {version}: {before} became {migration}")
            elif before is not None and PHASES.index(migration.phase) < PHASES.index(before.phase):
                self._violated("S5", f"{vm.name} at version {version}: {before.phase} became {migration.phase}")
            self.migrations[migration.uid] = migration
            if migration.phase == "Succeeded":
                self._left[vm.uid].add(migration.source_pod)
            if not migration.is_final:
                running.append(migration.source_node)
        leaving = Counter(running).most_common(1)
        if len(running) > self.per_cluster or (leaving and leaving[0][1] > self.per_node):
            self._violated("S4", f"at version {version}: {len(running)} migrations run, out of {Counter(running)}")

    def _differences(
        self, vms: Iterable[VirtualMachine], by_uid: dict[str, list[Object]]
    ) -> Iterable[tuple[tuple[str, str], str]]:
        known = {vm.uid for vm in vms}
        for vm in vms:
            live = [pod for pod in by_uid.get(vm.uid, ()) if _is_live(pod)]
            for pod in live:
                says = EVICTION_IN_PROGRESS_ANNOTATION in (pod["metadata"].get("annotations") or {})
                leaves = vm.is_marked and pod["spec"].get("nodeName") == vm.evacuation_node
                if says != leaves:
                    name = pod["metadata"]["name"]
                    yield ("S7", name), f"{name} says {says}, {vm.name} is to leave {vm.evacuation_node or 'no node'}"
            if vm.is_wanted and not live:
                yield ("S8", vm.name), f"{vm.name} has no pod"
            if not vm.is_wanted and live:
                yield ("S8", vm.name), f"{vm.name} is not wanted and has a pod"
        for uid, pods in by_uid.items():
            if uid not in known:
                for pod in pods:
                    yield ("S8", pod["metadata"]["name"]), f"{pod['metadata']['name']} belongs to no VM"

    def _exporter_differences(
        self, vms: Iterable[VirtualMachine], by_uid: dict[str, list[Object]]
    ) -> Iterable[tuple[tuple[str, str], str]]:
        try:
            with urlopen(f"{self.exporter_url}/scenario", timeout=5) as answer:
                nodes = json.load(answer)["nodes"]
        except (URLError, OSError, ValueError, KeyError):
            return  # the exporter is away
        counted = sum(len(node["vms"]) for node in nodes)
        running = 0
        for vm in vms:
            active = [pod for pod in by_uid.get(vm.uid, ()) if pod["metadata"]["name"] == vm.pod_name]
            running += any(pod["spec"].get("nodeName") and _is_live(pod) for pod in active)
        if counted != running:
            # The key holds both numbers: a difference that moves with the cluster is only the exporter's lag.
            yield ("S9", f"{counted}/{running}"), f"the exporter counts {counted} VMs, the cluster runs {running}"

    def _check_lasting(self, found: dict[tuple[str, str], str], now: float) -> None:
        self._since = {key: self._since.get(key, now) for key in found}
        for (rule, name), message in found.items():
            allowed = self.without_pod_seconds if message.endswith("has no pod") else self.lasting_seconds
            if now - self._since[rule, name] > allowed:
                self._violated(rule, f"for {now - self._since[rule, name]:.1f} s {message}")
                self._since[rule, name] = now

    def check_audit_log(self) -> None:
        """Check S6 over what the audit log has gained since the start."""
        if self.audit_log is None:
            return
        with self.audit_log.open("rb") as log:
            log.seek(self._audit_offset)
            for line in log:
                if not line.endswith(b"\n"):
                    break  # half written; it can be about nothing that this test has waited for
                entry = json.loads(line)
                where = entry.get("objectRef") or {}
                if where.get("subresource") != "eviction" or entry.get("verb") != "create":
                    continue
                name, code = where.get("name", ""), (entry.get("responseStatus") or {}).get("code")
                is_launcher = name.startswith(LAUNCHER_PREFIX)
                may_go = (
                    where.get("namespace", ""),
                    name.removeprefix(LAUNCHER_PREFIX).rpartition("-")[0],
                ) in self._evictable
                if is_launcher and not may_go and code is not None and code < 400:
                    self._violated("S6", f"the eviction of {name} was carried out ({code})")

    # --- inside -------------------------------------------------------------------------------------

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                self.look()
            except Exception as error:
                self.violations.append(f"the check itself failed: {error!r}")
                return
            self._stop.wait(0.05)

    def _violated(self, rule: str, what: str) -> None:
        self.violations.append(f"{rule}: {what}")


def _may_be_evicted(vm: VirtualMachine) -> bool:
    optional = vm.eviction_strategy == "LiveMigrateIfPossible" and not vm.is_migratable
    return optional or vm.eviction_strategy in ("", "None")


def _is_evicted(pod: Object) -> bool:
    conditions = (pod.get("status") or {}).get("conditions") or ()
    return any(entry.get("reason") == "EvictionByEvictionAPI" for entry in conditions)


def _is_live(pod: Object) -> bool:
    finished = (pod.get("status") or {}).get("phase") in ("Succeeded", "Failed")
    return "deletionTimestamp" not in pod["metadata"] and not finished
