"""A scenario from a real cluster's own listings: nodes, VMs, where they are, and, if recorded, their load.

Reads what ``kubectl get nodes -o json`` and ``kubectl get vmi,pods -A -o json`` print; asks nobody. Nodes count that
carry a VM or that KubeVirt may use. A VM is a VirtualMachineInstance that runs, or, where the listing has none of
these, a virt-launcher pod, whose vCPUs are guessed from its request. What is left out is told.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from labkit.errors import InputError
from labkit.names import CREATED_BY_LABEL, DOMAIN_LABEL, LAUNCHER_LABEL, LAUNCHER_LABEL_VALUE, SCHEDULABLE_LABEL
from labkit.scenario.schema import API_VERSION
from labkit.scenario.values import CPU_OVERCOMMIT
from labkit.units import parse_quantity

_STRATEGIES: Final = ("None", "LiveMigrate", "LiveMigrateIfPossible", "External")
_LONGEST_NAME: Final = 63
Object = Mapping[str, Any]


@dataclass(frozen=True)
class Imported:
    """A scenario's document, and what of the cluster is not in it."""

    document: dict[str, Any]
    left_out: tuple[str, ...]


def import_cluster(
    nodes: Any,
    vms: Any,
    *,
    name: str,
    duration: str = "1h",
    load: tuple[str, str, Collection[str]] | None = None,
) -> Imported:
    """Make a scenario.

    Parameters
    ----------
    nodes, vms : object
        The two listings, as JSON gives them.
    name : str
        Of the scenario.
    duration : str
        Of the scenario.
    load : tuple of str, str and collection of str, optional
        Path and format of a table of samples, and the VMs in it, as ``name`` or ``namespace/name``.

    Raises
    ------
    InputError
        If a listing is none, or an object in it lacks what is needed; the text names object and field.
    """
    machines, left_out = _machines(_items(vms, "VMs"))
    carriers = {machine.node for machine in machines}
    every = _items(nodes, "nodes")
    kept = [node for node in every if _is_used(node, carriers)]
    known = {_name(node) for node in kept}
    lost = sorted(machine.name for machine in machines if machine.node not in known)
    if lost:
        raise InputError(f"VM {lost[0]}: wanted its node among the nodes, found none of that name")
    if len(kept) < len(every):
        left_out.append(f"{len(every) - len(kept)} nodes without VMs that KubeVirt does not use")
    names = _unique_names(machines)
    recorded = 0
    entries = []
    for machine in machines:
        entry: dict[str, Any] = {
            "name": names[machine],
            "node": machine.node,
            "resources": {"cpu": machine.cores, "memory": machine.memory},
        }
        if machine.strategy:
            entry["evictionStrategy"] = machine.strategy
        trace = _trace(machine, load)
        if trace is not None:
            recorded += 1
            entry["load"] = trace
        entries.append(entry)
    if load is not None and recorded < len(machines):
        left_out.append(f"the load of {len(machines) - recorded} VMs that the samples do not have")
    spec = {
        "question": f"How would the loop treat the cluster {name}?",
        "duration": duration,
        "nodes": [_node(node, carriers) for node in kept],
        "vms": entries,
    }
    document = {"apiVersion": API_VERSION, "kind": "SimulationScenario", "metadata": {"name": name}, "spec": spec}
    return Imported(document, tuple(left_out))


@dataclass(frozen=True)
class _Machine:
    namespace: str
    name: str
    node: str
    cores: float
    memory: str
    strategy: str


def _items(listing: Any, what: str) -> Sequence[Object]:
    items = listing.get("items") if isinstance(listing, Mapping) else None
    if not isinstance(items, list) or not all(isinstance(item, Mapping) and "metadata" in item for item in items):
        raise InputError(f"wanted a list of {what} as kubectl -o json prints it, found none")
    return items


def _name(obj: Object) -> str:
    return str(obj["metadata"].get("name", ""))


def _is_used(node: Object, carriers: Collection[str]) -> bool:
    labels = node["metadata"].get("labels") or {}
    return _name(node) in carriers or labels.get(SCHEDULABLE_LABEL) == "true"


def _node(node: Object, carriers: Collection[str]) -> dict[str, Any]:
    name = _name(node)
    status = node.get("status", {})
    room = status.get("allocatable") or status.get("capacity") or {}
    missing = [key for key in ("cpu", "memory", "pods") if key not in room]
    if missing:
        raise InputError(f"node {name}: wanted status.allocatable.{missing[0]}, found none")
    spec = node.get("spec", {})
    entry: dict[str, Any] = {
        "name": name,
        "resources": {
            "cpu": str(room["cpu"]),
            "memory": str(room["memory"]),
            "pods": int(parse_quantity(room["pods"])),
        },
    }
    # VMs that run there tolerate the node's hard taints; those of the lab tolerate KWOK's alone.
    taints = [
        {key: taint[key] for key in ("key", "value", "effect") if key in taint}
        for taint in spec.get("taints", ())
        if not taint["key"].startswith("node.kubernetes.io/")
        and (taint["effect"] == "PreferNoSchedule" or name not in carriers)
    ]
    if taints:
        entry["taints"] = taints
    if spec.get("unschedulable"):
        entry["unschedulable"] = True
    return entry


def _machines(items: Sequence[Object]) -> tuple[list[_Machine], list[str]]:
    instances = [item for item in items if item.get("kind") == "VirtualMachineInstance"]
    pods = [item for item in items if item.get("kind") == "Pod"]
    launchers = [
        pod for pod in pods if (pod["metadata"].get("labels") or {}).get(LAUNCHER_LABEL) == LAUNCHER_LABEL_VALUE
    ]
    left_out = []
    if instances:
        running = [vmi for vmi in instances if vmi.get("status", {}).get("nodeName")]
        if len(running) < len(instances):
            left_out.append(f"{len(instances) - len(running)} VMs that have no node")
        machines = [_from_instance(vmi) for vmi in running]
    else:
        machines = _from_pods(launchers)
    others = len(pods) - len(launchers)
    if others:
        left_out.append(f"the requests of {others} pods that carry no VM")
    if not machines:
        raise InputError("wanted VirtualMachineInstances or virt-launcher pods that run, found none")
    return sorted(machines, key=lambda machine: (machine.namespace, machine.name)), left_out


def _from_instance(vmi: Object) -> _Machine:
    domain = vmi.get("spec", {}).get("domain", {})
    requests = domain.get("resources", {}).get("requests", {})
    cpu = domain.get("cpu", {})
    cores = float(cpu.get("cores", 1)) * float(cpu.get("sockets", 1)) * float(cpu.get("threads", 1)) if cpu else 0.0
    if not cores and "cpu" in requests:
        cores = max(1.0, parse_quantity(requests["cpu"]))
    memory = domain.get("memory", {}).get("guest") or requests.get("memory")
    name = f"{vmi['metadata'].get('namespace', 'default')}/{_name(vmi)}"
    if memory is None:
        raise InputError(f"VM {name}: wanted spec.domain.memory.guest or resources.requests.memory, found neither")
    strategy = vmi.get("spec", {}).get("evictionStrategy") or ""
    return _Machine(
        namespace=vmi["metadata"].get("namespace", "default"),
        name=_name(vmi),
        node=vmi["status"]["nodeName"],
        cores=cores or 1.0,
        memory=str(memory),
        strategy=strategy if strategy in _STRATEGIES else "",
    )


def _from_pods(launchers: Sequence[Object]) -> list[_Machine]:
    seen: dict[str, _Machine] = {}
    for pod in launchers:
        node = pod.get("spec", {}).get("nodeName")
        metadata = pod["metadata"]
        labels = metadata.get("labels") or {}
        if not node or pod.get("status", {}).get("phase") not in (None, "Running"):
            continue
        requests: dict[str, float] = {}
        for container in pod["spec"].get("containers", ()):
            for resource, amount in container.get("resources", {}).get("requests", {}).items():
                requests[resource] = requests.get(resource, 0.0) + parse_quantity(amount)
        name = labels.get("vm.kubevirt.io/name") or labels.get(DOMAIN_LABEL) or _name(pod)
        if "memory" not in requests:
            raise InputError(f"pod {_name(pod)}: wanted a memory request, found none")
        # During a migration a VM has two pods; the one made first is where it runs.
        key = labels.get(CREATED_BY_LABEL) or f"{metadata.get('namespace')}/{name}"
        cores = max(1.0, round(requests.get("cpu", 0.1) * CPU_OVERCOMMIT))
        seen.setdefault(
            key,
            _Machine(metadata.get("namespace", "default"), name, node, cores, str(int(requests["memory"])), ""),
        )
    return list(seen.values())


def _unique_names(machines: Sequence[_Machine]) -> dict[_Machine, str]:
    """Name VMs as the cluster does, with their namespace where two are called alike."""
    counts: dict[str, int] = {}
    for machine in machines:
        counts[machine.name] = counts.get(machine.name, 0) + 1
    names: dict[_Machine, str] = {}
    taken: set[str] = set()
    for machine in machines:
        name = machine.name if counts[machine.name] == 1 else f"{machine.namespace}-{machine.name}"
        name = re.sub(r"[^a-z0-9.-]+", "-", name.lower()).strip("-.")[:_LONGEST_NAME].rstrip("-.")
        unique, number = name, 1
        while unique in taken:
            number += 1
            unique = f"{name[: _LONGEST_NAME - 4]}-{number}"
        taken.add(unique)
        names[machine] = unique
    return names


def _trace(machine: _Machine, load: tuple[str, str, Collection[str]] | None) -> dict[str, Any] | None:
    if load is None:
        return None
    path, format_name, recorded = load
    for vm in (f"{machine.namespace}/{machine.name}", machine.name):
        if vm in recorded:
            shape = {"kind": "trace", "path": path, "format": format_name, "vm": vm, "repeat": True}
            return {"cpu": dict(shape), "memory": dict(shape)}
    return None
