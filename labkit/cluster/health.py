"""How every part of a lab is: the control plane, as processes or as pods, and the add-ons' pods."""

from __future__ import annotations

import http.client
import importlib.metadata
import ssl
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import Any, Final

from labkit import versions
from labkit.cluster import controlplane, supervisor
from labkit.cluster.change import lack_of_room
from labkit.cluster.component import ProcessState
from labkit.cluster.local import supervisor_state
from labkit.cluster.readiness import is_ready, waiting_reason
from labkit.cluster.running import RunningLab
from labkit.errors import KubeError
from labkit.kube import DEPLOYMENTS, NODES, PODS, Resource
from labkit.names import ADDON_NODE_LABEL, API_SERVER_PORT, HOST_NODE

PROBE_SECONDS: Final = 3.0
"""A component that takes longer to answer counts as one that does not."""
SYSTEM_NAMESPACE: Final = "kube-system"
HEALTHY: Final = "ok"
SWITCHED_OFF: Final = "scaled to 0"

_VERSIONS: Final = {
    controlplane.ETCD: versions.ETCD,
    controlplane.API_SERVER: versions.KUBERNETES,
    controlplane.CONTROLLER_MANAGER: versions.KUBERNETES,
    controlplane.SCHEDULER: versions.KUBERNETES,
    controlplane.KWOK: versions.KWOK,
}


@dataclass(frozen=True)
class ComponentStatus:
    """One line of ``labkit status``.

    Parameters
    ----------
    component : str
        Process or Deployment.
    health : str
        ``ok``, or what is wrong in a few words.
    version : str
        What runs.
    ports : tuple of int
        Where it listens on the lab's address.
    restarts : int
        How often it was started again.
    """

    component: str
    health: str
    version: str
    ports: tuple[int, ...]
    restarts: int

    @property
    def is_well(self) -> bool:
        """Whether it is as it is meant to be."""
        return self.health in (HEALTHY, SWITCHED_OFF)

    def to_json(self) -> dict[str, Any]:
        """Return JSON-able values."""
        return asdict(self)


def status(lab: RunningLab) -> list[ComponentStatus]:
    """Ask every component how it is; answers within a few seconds, whatever hangs."""
    if lab.backend == "kind":
        return [*_disk_status(lab), *_node_pod_statuses(lab), *_addon_statuses(lab)]
    state = supervisor_state(lab.folder)
    if state is None:  # it has only just begun, has this moment ended, or finds no room to write
        trouble = f"tells nothing, see 'labkit logs {supervisor.NAME} --name {lab.name}'"
        return [*_disk_status(lab), ComponentStatus(supervisor.NAME, trouble, _own_version(), (), 0)]
    processes = dict(state.components)
    with ThreadPoolExecutor(8) as pool:
        own = pool.map(lambda name: _process_status(lab, name, processes[name]), processes)
        addons = pool.submit(_addon_statuses, lab)
        return [*_disk_status(lab), *own, *addons.result()]


def _disk_status(lab: RunningLab) -> list[ComponentStatus]:
    """Return a line of its own for a disk that is full: everything else that is wrong then comes of it."""
    trouble = lack_of_room(lab.folder).removeprefix("; ")
    return [ComponentStatus("disk", trouble, "-", (), 0)] if trouble else []


def _process_status(lab: RunningLab, name: str, process: ProcessState) -> ComponentStatus:
    port = controlplane.PORTS.get(name)
    if process.state != "running":
        ended = "" if process.exit_code is None else f", ended with {process.exit_code}"
        health = f"{process.state}{ended}"
    else:
        health = _probes(lab).get(name, lambda: HEALTHY)()
    return ComponentStatus(
        name, health, _VERSIONS.get(name) or _own_version(), (port,) if port else (), process.restarts
    )


def _probes(lab: RunningLab) -> dict[str, Callable[[], str]]:
    pki = lab.folder.pki

    def https(name: str, path: str, *, authority: str = controlplane.CLUSTER_CA, client: str | None = None) -> str:
        try:
            context = ssl.create_default_context(cafile=str(pki / f"{authority}.crt"))
            if client:
                context.load_cert_chain(pki / f"{client}.crt", pki / f"{client}.key")
        except OSError as error:  # the lab is being taken down
            return f"cannot be asked ({error})"
        return _get(
            http.client.HTTPSConnection(lab.address, controlplane.PORTS[name], timeout=PROBE_SECONDS, context=context),
            path,
        )

    return {
        controlplane.ETCD: lambda: https(
            controlplane.ETCD, "/health", authority=controlplane.ETCD_CA, client="etcd-client"
        ),
        controlplane.API_SERVER: lambda: https(controlplane.API_SERVER, "/readyz"),
        controlplane.CONTROLLER_MANAGER: lambda: https(controlplane.CONTROLLER_MANAGER, "/healthz"),
        controlplane.SCHEDULER: lambda: https(controlplane.SCHEDULER, "/healthz"),
        controlplane.KWOK: lambda: https(controlplane.KWOK, "/healthz"),
        controlplane.AGENT: lambda: _node_health(lab),
    }


def _get(connection: http.client.HTTPConnection, path: str) -> str:
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        return HEALTHY if answer.status == http.client.OK else f"answers {answer.status} to {path}"
    except (OSError, http.client.HTTPException) as error:
        return f"does not answer {path} ({error})"
    finally:
        connection.close()


def _node_health(lab: RunningLab) -> str:
    try:
        node = lab.kube.request("GET", NODES.path(name=HOST_NODE), timeout_seconds=PROBE_SECONDS)
    except KubeError as error:
        return f"unknown ({error})"
    return HEALTHY if is_ready(node) else f"node {HOST_NODE} is not Ready"


def _node_pod_statuses(lab: RunningLab) -> list[ComponentStatus]:
    """Return how the node of a lab in containers is, and what Kubernetes and KWOK run on it."""
    try:
        node = lab.kube.request("GET", NODES.path(name=lab.addon_node), timeout_seconds=PROBE_SECONDS)
        pods = _list(lab, PODS, fieldSelector=f"spec.nodeName={lab.addon_node},metadata.namespace={SYSTEM_NAMESPACE}")
    except KubeError as error:
        return [ComponentStatus(controlplane.API_SERVER, f"unknown ({error})", "", (API_SERVER_PORT,), 0)]
    info = node.get("status", {}).get("nodeInfo", {})
    rows = [
        ComponentStatus(
            lab.addon_node,
            HEALTHY if is_ready(node) else "not Ready",
            info.get("kubeletVersion", "").lstrip("v"),
            (),
            0,
        )
    ]
    by_name: dict[str, list[dict[str, Any]]] = {}
    for pod in pods:
        by_name.setdefault(system_component(pod), []).append(pod)
    for name, own in sorted(by_name.items()):
        containers = [entry for pod in own for entry in pod.get("status", {}).get("containerStatuses") or ()]
        reasons = "; ".join(filter(None, map(waiting_reason, containers))) or "not ready"
        rows.append(
            ComponentStatus(
                name,
                HEALTHY if all(map(is_ready, own)) else reasons,
                own[0]["spec"]["containers"][0]["image"].rpartition(":")[2].lstrip("v"),
                (API_SERVER_PORT,) if name == controlplane.API_SERVER else (),
                sum(int(entry.get("restartCount", 0)) for entry in containers),
            )
        )
    return rows


def system_component(pod: dict[str, Any]) -> str:
    """Return what a pod of Kubernetes' own namespace is, as its labels say."""
    labels = pod["metadata"].get("labels", {})
    name: str = next((labels[key] for key in ("component", "k8s-app", "app") if key in labels), pod["metadata"]["name"])
    return name


def _addon_statuses(lab: RunningLab) -> list[ComponentStatus]:
    try:
        deployments = _list(lab, DEPLOYMENTS)
        pods = _list(lab, PODS, fieldSelector=f"spec.nodeName={lab.addon_node}")
    except KubeError as error:
        return [ComponentStatus("add-ons", f"unknown ({error})", "", (), 0)]
    return [
        _addon_status(deployment, pods)
        for deployment in deployments
        if deployment["metadata"]["namespace"] != SYSTEM_NAMESPACE
        and ADDON_NODE_LABEL in (deployment["spec"]["template"]["spec"].get("nodeSelector") or {})
    ]


def _list(lab: RunningLab, resource: Resource, **query: str) -> list[dict[str, Any]]:
    """Return the objects of a collection, within the time of a probe."""
    answer = lab.kube.request("GET", resource.path(), query=query, timeout_seconds=PROBE_SECONDS)
    items: list[dict[str, Any]] = answer["items"]
    return items


def _addon_status(deployment: dict[str, Any], pods: list[dict[str, Any]]) -> ComponentStatus:
    template = deployment["spec"]["template"]
    labels = deployment["spec"]["selector"].get("matchLabels", {}).items()
    namespace = deployment["metadata"]["namespace"]
    own = [
        pod
        for pod in pods
        if pod["metadata"]["namespace"] == namespace and labels <= pod["metadata"].get("labels", {}).items()
    ]
    containers = [entry for pod in own for entry in pod.get("status", {}).get("containerStatuses") or ()]
    ports = {
        int(port.get("hostPort") or port["containerPort"])
        for container in template["spec"]["containers"]
        for port in container.get("ports") or ()
    }
    version = template["spec"]["containers"][0]["image"].rpartition(":")[2]
    wanted = deployment["spec"].get("replicas", 1)
    if wanted == 0:
        health = SWITCHED_OFF
    elif sum(is_ready(pod) for pod in own) == wanted:
        health = HEALTHY
    else:
        phase = own[0].get("status", {}).get("phase", "Pending") if own else "no pod"
        health = "; ".join(filter(None, map(waiting_reason, containers))) or phase
    return ComponentStatus(
        f"{namespace}/{deployment['metadata']['name']}",
        health,
        version,
        tuple(sorted(ports)),
        sum(int(entry.get("restartCount", 0)) for entry in containers),
    )


def _own_version() -> str:
    return importlib.metadata.version("labkit")
