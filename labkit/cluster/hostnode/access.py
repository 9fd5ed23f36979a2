"""How ``kubectl logs`` and ``kubectl port-forward`` reach a pod: one Logs and one PortForward object for KWOK.

KWOK answers on the node's kubelet port; these objects tell it which files and ports are the pod's. They belong to the
pod, so they go with it. There is never an Exec object: KWOK's port asks nobody who he is.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final

from labkit.cluster.hostnode.logs import CURRENT, PREVIOUS
from labkit.errors import KubeError
from labkit.kube import Kube, Resource

Object = Mapping[str, Any]

KWOK_API_VERSION: Final = "kwok.x-k8s.io/v1alpha1"
LOGS: Final = Resource("kwok.x-k8s.io", "v1alpha1", "logs")
PORT_FORWARDS: Final = Resource("kwok.x-k8s.io", "v1alpha1", "portforwards")


def pod_containers(pod: Object) -> list[Object]:
    """Return all containers of a pod, initialising ones first."""
    return [*(pod["spec"].get("initContainers") or ()), *pod["spec"]["containers"]]


def logs_object(pod: Object, folder: Path) -> dict[str, Any]:
    """Return the object that leads to a pod's logs; ``folder`` holds one folder per container."""
    logs = [
        {
            "containers": [container["name"]],
            "logsFile": str(folder / container["name"] / CURRENT),
            "previousLogsFile": str(folder / container["name"] / PREVIOUS),
        }
        for container in pod_containers(pod)
    ]
    return _object(pod, "Logs", {"logs": logs})


def port_forward_object(pod: Object, address: str) -> dict[str, Any] | None:
    """Return the object that leads to a pod's ports, None if it declares none."""
    ports = sorted(_declared_ports(pod))
    if not ports:
        return None
    forwards = [{"ports": [port], "target": {"port": port, "address": address}} for port in ports]
    return _object(pod, "PortForward", {"forwards": forwards})


def write_access(kube: Kube, pod: Object, folder: Path, address: str) -> None:
    """Create or renew both objects of a pod.

    Raises
    ------
    KubeError
        If the API server refuses or does not answer.
    """
    for resource, obj in ((LOGS, logs_object(pod, folder)), (PORT_FORWARDS, port_forward_object(pod, address))):
        if obj is None:
            continue
        try:
            kube.create(resource, obj)
        except KubeError as error:
            if error.status != 409:
                raise
            metadata = {"ownerReferences": obj["metadata"]["ownerReferences"]}
            kube.patch(
                resource,
                obj["metadata"]["name"],
                {"metadata": metadata, "spec": obj["spec"]},
                obj["metadata"]["namespace"],
            )


def _object(pod: Object, kind: str, spec: Object) -> dict[str, Any]:
    metadata = pod["metadata"]
    owner = {"apiVersion": "v1", "kind": "Pod", "name": metadata["name"], "uid": metadata["uid"]}
    return {
        "apiVersion": KWOK_API_VERSION,
        "kind": kind,
        "metadata": {"name": metadata["name"], "namespace": metadata["namespace"], "ownerReferences": [owner]},
        "spec": spec,
    }


def _declared_ports(pod: Object) -> Iterable[int]:
    return {
        int(port["containerPort"])
        for container in pod_containers(pod)
        for port in container.get("ports") or ()
        if port.get("protocol", "TCP") == "TCP"
    }
