"""Whether nodes, pods and Deployments are what they are meant to be, and waiting until they are."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from collections.abc import Set as AbstractSet
from pathlib import Path
from typing import Final

from labkit.clock import wait_until
from labkit.cluster.running import RunningLab
from labkit.errors import KubeError
from labkit.kube import DEPLOYMENTS, NODES, PODS, Kube, Object

LOG_TAIL_LINES: Final = 15


def wait_ready(
    lab: RunningLab,
    objects: Sequence[Object],
    *,
    timeout_seconds: float,
    check: Callable[[], None] = lambda: None,
) -> None:
    """Wait until every node and every Deployment among the objects is ready.

    Parameters
    ----------
    lab : RunningLab
        The lab.
    objects : sequence of object
        What was applied.
    timeout_seconds : float
        How long to wait.
    check : callable
        Asked each time; raises if waiting is in vain.

    Raises
    ------
    NotReadyError
        If that did not happen in time; says what is missing and why.
    """
    nodes = {obj["metadata"]["name"] for obj in objects if obj["kind"] == "Node"}
    deployments = {
        (obj["metadata"]["namespace"], obj["metadata"]["name"]) for obj in objects if obj["kind"] == "Deployment"
    }
    missing: list[str] = []

    def all_ready() -> bool:
        check()
        try:
            missing[:] = _missing(lab.kube, nodes, deployments)
        except KubeError as error:
            if not error.may_pass:
                raise
            missing[:] = [f"API server ({error})"]
        return not missing

    wait_until(
        all_ready,
        timeout_seconds=timeout_seconds,
        what="nodes and add-ons to be ready",
        poll_seconds=0.1,
        found=lambda: f"not ready: {', '.join(missing)}{_pod_troubles(lab)}",
    )


def _missing(kube: Kube, nodes: AbstractSet[str], deployments: AbstractSet[tuple[str, str]]) -> list[str]:
    found = {node["metadata"]["name"] for node in kube.list(NODES)["items"] if is_ready(node)}
    missing = [f"node {name}" for name in sorted(nodes - found)]
    if deployments:
        available = {
            (entry["metadata"]["namespace"], entry["metadata"]["name"])
            for entry in kube.list(DEPLOYMENTS)["items"]
            if is_available(entry)
        }
        missing += [f"{namespace}/{name}" for namespace, name in sorted(deployments - available)]
    return missing


def is_ready(obj: Object) -> bool:
    """Return whether a node or pod has the condition Ready."""
    conditions = obj.get("status", {}).get("conditions") or ()
    return any(entry["type"] == "Ready" and entry["status"] == "True" for entry in conditions)


def is_available(deployment: Object) -> bool:
    """Return whether a Deployment's newest form runs and is ready."""
    status, wanted = deployment.get("status", {}), deployment["spec"].get("replicas", 1)
    return bool(
        status.get("observedGeneration", 0) >= deployment["metadata"]["generation"]
        and status.get("updatedReplicas", 0) >= wanted
        and status.get("availableReplicas", 0) >= wanted
        and status.get("replicas", 0) == wanted
    )


def waiting_reason(container_status: Object) -> str:
    """Return why a container is not running, as its status says; empty if it does run."""
    waiting = container_status.get("state", {}).get("waiting")
    return f"{waiting.get('reason', '')}: {waiting.get('message', '')}".strip(": ") if waiting else ""


def _pod_troubles(lab: RunningLab) -> str:
    """Return why pods of the add-ons' node are not ready, as far as their status says."""
    try:
        pods = lab.kube.list(PODS, field_selector=f"spec.nodeName={lab.addon_node}")["items"]
    except KubeError as error:
        return f"; {error}"
    troubles = []
    for pod in pods:
        status = pod.get("status", {})
        for container in (*(status.get("initContainerStatuses") or ()), *(status.get("containerStatuses") or ())):
            reason = waiting_reason(container)
            if reason:
                troubles.append(f"{pod['metadata']['name']}/{container['name']} {reason}")
    return f"; {'; '.join(troubles)}" if troubles else ""


def log_tail(file: Path, lines: int = LOG_TAIL_LINES) -> str:
    """Return the last lines of a log, empty if there is none."""
    try:
        with file.open("rb") as stream:
            stream.seek(max(0, file.stat().st_size - 2**16))
            return "\n".join(stream.read().decode(errors="replace").splitlines()[-lines:])
    except OSError:
        return ""
