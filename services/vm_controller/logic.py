"""What a VirtualMachine's status should say, as a pure function of the VM and the pod that it is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from labkit.errors import InputError
from labkit.names import CPU_CORES_ANNOTATION, MEMORY_BYTES_ANNOTATION, NODE_NAME_LABEL
from labkit.units import GIB
from labkit.virtualmachine import VirtualMachine, format_time

UTILIZATION_STEP: Final = 0.05
"""A load curve moves the status only by at least this much …"""
UTILIZATION_SECONDS: Final = 60.0
"""… and at most once in that many lab seconds."""

MIB: Final = 2**20


@dataclass(frozen=True)
class Utilization:
    """What a VM uses of its allocation.

    Parameters
    ----------
    cpu, memory : float
        Ratios in [0, 1].
    follows_curve : bool
        Whether they come from a load curve, which moves all the time.
    complaint : str
        Why the curve cannot be read; empty where it can, or there is none.
    """

    cpu: float
    memory: float
    follows_curve: bool = False
    complaint: str = ""


def utilization_of(vm: VirtualMachine, lab_seconds: float) -> Utilization:
    """Return what a VM uses at an instant of lab time."""
    try:
        cpu, memory = vm.utilization_at(lab_seconds)
    except InputError as error:
        return Utilization(float(vm.cpu_utilization), float(vm.memory_utilization), complaint=str(error))
    return Utilization(cpu, memory, follows_curve=bool(vm.load))


def phase_of(vm: VirtualMachine, pod: Mapping[str, Any] | None) -> str:
    """Return the VM's phase.

    Parameters
    ----------
    vm : VirtualMachine
        The VM.
    pod : mapping or None
        The pod that ``status.podName`` names. Whether it is *Ready* says something about its node, not about the VM.
    """
    if pod is None:
        return "Pending" if vm.is_wanted else "Stopped"
    match (pod.get("status") or {}).get("phase"):
        case "Running":
            return "Running"
        case "Pending" | None:
            return "Scheduled" if pod["spec"].get("nodeName") else "Scheduling"
        case _:
            return "Failed"


def moved(shown: Mapping[str, Any], now: Utilization) -> bool:
    """Tell whether a curve's values have moved far enough from what the status shows."""
    for field, value in (("cpuUtilization", now.cpu), ("memoryUtilization", now.memory)):
        text = shown.get(field)
        if text is None or abs(float(text) - value) >= UTILIZATION_STEP - 1e-9:
            return True
    return False


def wanted_status(
    vm: VirtualMachine,
    obj: Mapping[str, Any],
    pod: Mapping[str, Any] | None,
    utilization: Utilization,
    *,
    may_move: bool,
    now: float,
) -> dict[str, Any]:
    """Return the fields of the status that this controller owns; None stands for a field that is not there.

    Parameters
    ----------
    vm : VirtualMachine
        The VM as read from ``obj``.
    obj : mapping
        The object.
    pod : mapping or None
        The pod that the VM is.
    utilization : Utilization
        What it uses now.
    may_move : bool
        Whether a curve's values may be written again already.
    now : float
        Seconds since 1970, for conditions that change.
    """
    shown = obj.get("status") or {}
    annotations = (pod["metadata"].get("annotations") or {}) if pod is not None else {}
    phase = phase_of(vm, pod)
    status: dict[str, Any] = {
        "phase": phase,
        "allocatedCpu": annotations.get(CPU_CORES_ANNOTATION),
        "allocatedMemory": _memory(annotations.get(MEMORY_BYTES_ANNOTATION), vm, obj),
        "cpuUtilization": None,
        "memoryUtilization": None,
        "createdAt": obj["metadata"]["creationTimestamp"],
        "observedGeneration": vm.generation,
        "conditions": _conditions(vm, pod, phase, utilization, shown.get("conditions") or (), now),
    }
    if pod is not None:
        known = "cpuUtilization" in shown and "memoryUtilization" in shown
        if known and utilization.follows_curve and not (may_move and moved(shown, utilization)):
            status["cpuUtilization"] = shown["cpuUtilization"]
            status["memoryUtilization"] = shown["memoryUtilization"]
        else:
            status["cpuUtilization"] = ratio_text(utilization.cpu)
            status["memoryUtilization"] = ratio_text(utilization.memory)
    return status


def changes(shown: Mapping[str, Any], wanted: Mapping[str, Any]) -> dict[str, Any]:
    """Return the part of the wanted fields that is not so."""
    return {field: value for field, value in wanted.items() if shown.get(field) != value}


def label_change(vm: VirtualMachine, obj: Mapping[str, Any]) -> dict[str, str | None]:
    """Return the change of the label that names the VM's node; empty where it is right."""
    wanted = vm.node_name or None
    shown = (obj["metadata"].get("labels") or {}).get(NODE_NAME_LABEL)
    return {} if shown == wanted else {NODE_NAME_LABEL: wanted}


def ratio_text(ratio: float) -> str:
    """Write a ratio as the CRD has it.

    Examples
    --------
    >>> [ratio_text(ratio) for ratio in (0.0, 0.15, 0.12346, 1.0)]
    ['0', '0.15', '0.1235', '1']
    """
    return f"{ratio:.4f}".rstrip("0").rstrip(".")


def _memory(bytes_text: str | None, vm: VirtualMachine, obj: Mapping[str, Any]) -> str | None:
    if bytes_text is None:
        return None
    size = float(bytes_text)
    written = str(obj["spec"]["resources"]["memory"])
    if round(vm.memory_bytes) == round(size) and not written[-1].isdigit():
        return written
    for unit, factor in (("Gi", GIB), ("Mi", MIB)):
        if size % factor == 0:
            return f"{size / factor:g}{unit}"
    return f"{size:.0f}"


def _conditions(
    vm: VirtualMachine,
    pod: Mapping[str, Any] | None,
    phase: str,
    utilization: Utilization,
    shown: Any,
    now: float,
) -> list[dict[str, str]]:
    """Return the conditions, one of each type; a transition time moves only with the status."""
    wanted = [
        _condition("EvictionRequested", vm.is_marked, "Evacuation", f"it is to leave {vm.evacuation_node}"),
        _condition(
            "LiveMigratable",
            vm.is_migratable,
            "" if vm.is_migratable else "NotAllowed",
            "" if vm.is_migratable else "spec.migration.allowed is false",
            said_when_false=True,
        ),
        _condition(
            "Ready",
            phase == "Running",
            phase,
            _why_not_running(pod) if phase != "Running" else "",
            said_when_false=True,
        ),
        _condition("RestartRequired", _is_resized(vm, pod), "ResourcesChanged", "spec.resources differs from the pod"),
    ]
    if vm.load:
        wanted.append(
            _condition(
                "LoadCurveValid",
                not utilization.complaint,
                "Unreadable" if utilization.complaint else "",
                utilization.complaint,
                said_when_false=True,
            )
        )
    before = {condition["type"]: condition for condition in shown}
    for condition in wanted:
        old = before.get(condition["type"])
        unchanged = old is not None and old["status"] == condition["status"]
        condition["lastTransitionTime"] = old["lastTransitionTime"] if old and unchanged else format_time(now)
    return sorted(wanted, key=lambda condition: condition["type"])


def _condition(kind: str, holds: bool, reason: str, message: str, *, said_when_false: bool = False) -> dict[str, str]:
    condition = {"type": kind, "status": "True" if holds else "False"}
    if holds or said_when_false:
        condition |= {name: text for name, text in (("reason", reason), ("message", message)) if text}
    return condition


def _why_not_running(pod: Mapping[str, Any] | None) -> str:
    if pod is None:
        return "it has no pod"
    for condition in (pod.get("status") or {}).get("conditions") or ():
        if condition.get("type") == "PodScheduled" and condition.get("status") == "False":
            return str(condition.get("message") or "its pod has found no node")
    return ""


def _is_resized(vm: VirtualMachine, pod: Mapping[str, Any] | None) -> bool:
    annotations = (pod["metadata"].get("annotations") or {}) if pod is not None else {}
    cores, memory = annotations.get(CPU_CORES_ANNOTATION), annotations.get(MEMORY_BYTES_ANNOTATION)
    if cores is None or memory is None:
        return False
    return float(cores) != float(f"{vm.cores:g}") or round(float(memory)) != round(vm.memory_bytes)
