"""The VirtualMachine resource as everybody reads it: the desired VM, where it runs, and its last migration.

``k8s/crds/virtualmachines.yaml`` is the contract; this module is its only reader. Objects come in as JSON dicts and
leave as frozen values, so no service parses a field by itself or has a default of its own.

A migration has no object of its own: ``status.migrationState`` (KubeVirt's field names) is its record, and one
migration per VM holds because there is one such field. Its times are RFC 3339 with microseconds, since the whole
seconds of ``metav1.Time`` are 15 lab seconds at tempo 15.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, Final, Literal

from labkit.errors import InputError
from labkit.load import LoadTable, parse_curve_json
from labkit.migration import DEFAULT_DIRTY_RATE_MBPS
from labkit.names import EVICTION_SOURCE_ANNOTATION, GROUP, INITIAL_NODE_ANNOTATION, LOAD_ANNOTATION, VM_KIND
from labkit.units import parse_quantity
from labkit.versions import SIMULATION_API_VERSION

__all__ = [
    "API_VERSION",
    "FINAL_PHASES",
    "Migration",
    "Phase",
    "VirtualMachine",
    "format_time",
    "parse_time",
]

API_VERSION: Final = f"{GROUP}/{SIMULATION_API_VERSION}"

DEFAULT_CPU_UTILIZATION: Final = "0.5"
DEFAULT_MEMORY_UTILIZATION: Final = "0.8"

DEFAULT_EVICTION_STRATEGY: Final = "LiveMigrate"

Phase = Literal["Scheduling", "Running", "Succeeded", "Failed"]
"""Phases of a migration, a subset of KubeVirt's: ``Scheduling`` while the target pod finds its node and starts,
``Running`` while memory is copied."""
PHASES: Final[tuple[Phase, ...]] = ("Scheduling", "Running", "Succeeded", "Failed")
FINAL_PHASES: Final = frozenset({"Succeeded", "Failed"})


def format_time(seconds: float) -> str:
    """Write seconds since 1970 (UTC) as RFC 3339 with microseconds.

    Examples
    --------
    >>> format_time(1.25)
    '1970-01-01T00:00:01.250000Z'
    """
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def parse_time(text: str) -> float:
    """Read an RFC 3339 time with an offset as seconds since 1970 (UTC).

    Raises
    ------
    InputError
        If the text is no such time.

    Examples
    --------
    >>> parse_time("1970-01-01T00:00:01.25Z")
    1.25
    """
    try:
        moment = datetime.fromisoformat(text)
    except ValueError as exc:
        raise InputError(f"wanted a time such as 2026-05-01T12:00:00Z, found {text!r}") from exc
    if moment.tzinfo is None:
        raise InputError(f"wanted a time with an offset such as 2026-05-01T12:00:00Z, found {text!r}")
    return moment.timestamp()


@dataclass(frozen=True)
class Migration:
    """One live migration of a VM, from ``status.migrationState``.

    Parameters
    ----------
    uid : str
        ``migrationUid``; also the target pod's label ``kubevirt.io/migrationJobUID``.
    source_node, source_pod, target_pod : str
        Fixed when it is recorded.
    target_node : str
        Empty until the target pod runs.
    phase : {"Scheduling", "Running", "Succeeded", "Failed"}
        Moves only forward; the last two are final.
    attempt : int
        1, and one more after each failure in a row.
    requested : float
        When the eviction was accepted, seconds since 1970.
    created : float
        When the record was written: the migration counts against the limits from then until its end.
    started : float or None
        When the copy began.
    handed_over : float or None
        When the VM became the target pod.
    ended : float or None
        When the pod that is no longer needed was gone: the source after a hand-over, the target of a failure.
    transferred_bytes, downtime_seconds : float
        Of the copy; the downtime is in lab seconds.
    failure_reason : str
        Empty unless it is given up.

    Notes
    -----
    It is decided (handed over, or given up) before it ends, so that a VM has two pods only while the record says that
    it migrates.
    """

    uid: str
    source_node: str
    source_pod: str
    target_pod: str
    requested: float
    created: float
    target_node: str = ""
    phase: Phase = "Scheduling"
    attempt: int = 1
    started: float | None = None
    handed_over: float | None = None
    ended: float | None = None
    transferred_bytes: float = 0.0
    downtime_seconds: float = 0.0
    failure_reason: str = ""

    @property
    def is_final(self) -> bool:
        """Whether it has ended."""
        return self.phase in FINAL_PHASES

    @property
    def is_decided(self) -> bool:
        """Whether it is known how it ends."""
        return self.handed_over is not None or bool(self.failure_reason)

    @classmethod
    def read(cls, state: Mapping[str, Any]) -> Migration:
        """Read ``status.migrationState``."""
        created = parse_time(state["creationTimestamp"])
        return cls(
            uid=state["migrationUid"],
            source_node=state["sourceNode"],
            source_pod=state["sourcePod"],
            target_pod=state["targetPod"],
            target_node=state.get("targetNode") or "",
            phase=state["phase"],
            attempt=int(state.get("attempt") or 1),
            requested=parse_time(state["requestedTimestamp"]) if state.get("requestedTimestamp") else created,
            created=created,
            started=_time_or_none(state.get("startTimestamp")),
            handed_over=_time_or_none(state.get("targetNodeDomainReadyTimestamp")),
            ended=_time_or_none(state.get("endTimestamp")),
            transferred_bytes=float(state.get("transferredBytes") or 0),
            downtime_seconds=float(state.get("downtimeSeconds") or 0.0),
            failure_reason=state.get("failureReason") or "",
        )

    def state(self) -> dict[str, Any]:
        """Return ``status.migrationState`` as a whole: a merge patch of it leaves nothing of an older migration."""
        return {
            "migrationUid": self.uid,
            "sourceNode": self.source_node,
            "sourcePod": self.source_pod,
            "targetNode": self.target_node or None,
            "targetPod": self.target_pod,
            "phase": self.phase,
            "attempt": self.attempt,
            "mode": "PreCopy",
            "requestedTimestamp": format_time(self.requested),
            "creationTimestamp": format_time(self.created),
            "startTimestamp": _text_or_none(self.started),
            "targetNodeDomainReadyTimestamp": _text_or_none(self.handed_over),
            "endTimestamp": _text_or_none(self.ended),
            "completed": self.is_final,
            "failed": bool(self.failure_reason),
            "failureReason": self.failure_reason or None,
            "transferredBytes": round(self.transferred_bytes),
            "downtimeSeconds": round(self.downtime_seconds, 6),
        }

    def copying(self, *, target_node: str, at: float) -> Migration:
        """Return it with its copy begun."""
        return replace(self, phase="Running", target_node=target_node, started=at)

    def arrived(self, *, at: float, transferred_bytes: float, downtime_seconds: float) -> Migration:
        """Return it with the VM running on the target."""
        return replace(self, handed_over=at, transferred_bytes=transferred_bytes, downtime_seconds=downtime_seconds)

    def given_up(self, reason: str, *, transferred_bytes: float = 0.0) -> Migration:
        """Return it given up: the VM stays on the source."""
        return replace(self, failure_reason=reason, transferred_bytes=transferred_bytes)

    def concluded(self, *, at: float) -> Migration:
        """Return it ended, as it was decided."""
        return replace(self, phase="Failed" if self.failure_reason else "Succeeded", ended=at)


@dataclass(frozen=True)
class VirtualMachine:
    """One VirtualMachine: what is wanted (spec) and what is (status).

    Parameters
    ----------
    namespace, name, uid, resource_version : str
        From its metadata.
    generation : int
        Counts changes of the spec.
    created : float
        Seconds since 1970.
    cores, memory_bytes : float
        ``spec.resources``.
    cpu_utilization, memory_utilization : str
        ``spec.utilization`` as written: shares of the VM's own cores and memory, in [0, 1].
    load : str
        The load curve (annotation ``vm-load``) that holds instead of the two, or empty.
    initial_node : str
        The node for its first pod, or empty: the scheduler's choice.
    dirty_rate_mbps : float
        Megabits (10^6 bit) of memory that it dirties per second at full CPU load.
    is_wanted : bool
        ``spec.running``, and nobody is deleting it.
    eviction_strategy : str
        ``None``, ``LiveMigrate``, ``LiveMigrateIfPossible``, ``External``, or empty.
    is_migratable : bool
        ``spec.migration.allowed``.
    pod_name, pod_uid, node_name : str
        The pod that is the VM, and its node. The name is written down before the pod is made, the UID when it has been
        seen; all empty while there is to be none.
    starts : int
        Pods that it was given outside migrations so far.
    evacuation_node : str
        The node that it is to leave; empty unless it is marked.
    evacuation_requested : float or None
        When it was marked.
    eviction_source : str
        ``descheduler`` where that marked it.
    migration : Migration or None
        The latest.
    """

    namespace: str
    name: str
    uid: str
    resource_version: str
    generation: int
    created: float
    cores: float
    memory_bytes: float
    cpu_utilization: str
    memory_utilization: str
    load: str
    initial_node: str
    dirty_rate_mbps: float
    is_wanted: bool
    eviction_strategy: str
    is_migratable: bool
    pod_name: str
    pod_uid: str
    node_name: str
    starts: int
    evacuation_node: str
    evacuation_requested: float | None
    eviction_source: str
    migration: Migration | None

    @classmethod
    def read(cls, obj: Mapping[str, Any]) -> VirtualMachine:
        """Read an object of the API.

        Raises
        ------
        InputError
            If a field has a value that the CRD's schema does not allow.
        """
        metadata, spec, status = obj["metadata"], obj.get("spec") or {}, obj.get("status") or {}
        annotations = metadata.get("annotations") or {}
        utilization, migration = spec.get("utilization") or {}, spec.get("migration") or {}
        where = f"VirtualMachine {metadata.get('namespace', '')}/{metadata['name']}"
        try:
            resources = spec["resources"]
            state = status.get("migrationState")
            return cls(
                namespace=metadata.get("namespace", ""),
                name=metadata["name"],
                uid=metadata.get("uid", ""),
                resource_version=metadata.get("resourceVersion", ""),
                generation=int(metadata.get("generation", 0)),
                created=parse_time(metadata["creationTimestamp"]) if metadata.get("creationTimestamp") else 0.0,
                cores=parse_quantity(resources["cpu"]),
                memory_bytes=parse_quantity(resources["memory"]),
                cpu_utilization=str(utilization.get("cpu", DEFAULT_CPU_UTILIZATION)),
                memory_utilization=str(utilization.get("memory", DEFAULT_MEMORY_UTILIZATION)),
                load=annotations.get(LOAD_ANNOTATION, ""),
                initial_node=annotations.get(INITIAL_NODE_ANNOTATION, ""),
                dirty_rate_mbps=float(migration.get("dirtyRateMbps", DEFAULT_DIRTY_RATE_MBPS)),
                is_wanted=spec.get("running", True) and not metadata.get("deletionTimestamp"),
                eviction_strategy=spec.get("evictionStrategy") or "",
                is_migratable=migration.get("allowed", True),
                pod_name=status.get("podName") or "",
                pod_uid=status.get("podUid") or "",
                node_name=status.get("nodeName") or "",
                starts=int(status.get("starts") or 0),
                evacuation_node=status.get("evacuationNodeName") or "",
                evacuation_requested=_time_or_none(status.get("evacuationRequestedTimestamp")),
                eviction_source=annotations.get(EVICTION_SOURCE_ANNOTATION, ""),
                migration=Migration.read(state) if state else None,
            )
        except (KeyError, TypeError, ValueError) as exc:
            raise InputError(f"{where}: wanted the fields of {VM_KIND} {API_VERSION}, found: {exc!r}") from exc
        except InputError as error:
            raise InputError(f"{where}: {error}") from error

    @property
    def is_marked(self) -> bool:
        """Whether its eviction was accepted and not yet carried out."""
        return bool(self.evacuation_node)

    @property
    def active_migration(self) -> Migration | None:
        """Its migration that has not ended, or None."""
        return None if self.migration is None or self.migration.is_final else self.migration

    def utilization_at(self, lab_seconds: float) -> tuple[float, float]:
        """Return the CPU and memory utilisation at an instant of lab time, each in [0, 1].

        Raises
        ------
        InputError
            If its load curve cannot be read.
        """
        if not self.load:
            return float(self.cpu_utilization), float(self.memory_utilization)
        cpu, memory = _load_table(self.load).at(lab_seconds)
        return float(cpu[0]), float(memory[0])


def _time_or_none(text: str | None) -> float | None:
    return parse_time(text) if text else None


def _text_or_none(seconds: float | None) -> str | None:
    return None if seconds is None else format_time(seconds)


@lru_cache(maxsize=1024)
def _load_table(load: str) -> LoadTable:
    curve, seed = parse_curve_json(load)
    return LoadTable([curve], [seed])
