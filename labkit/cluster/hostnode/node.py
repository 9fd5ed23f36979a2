"""The node's own object and Lease: registered once, kept alive by one thread."""

from __future__ import annotations

import logging
import os
import platform
import threading
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from labkit.clock import Clock
from labkit.cluster.hostnode.config import AgentConfig
from labkit.cluster.hostnode.status import timestamp
from labkit.errors import KubeError
from labkit.kube import LEASES, NODES, Kube
from labkit.names import ADDON_NODE_LABEL, ADDON_NODE_TAINT, HOSTNAME_LABEL
from labkit.versions import KUBERNETES

logger = logging.getLogger(__name__)

Object = Mapping[str, Any]

LEASE_NAMESPACE: Final = "kube-node-lease"
LEASE_SECONDS: Final = 40
RENEW_SECONDS: Final = 10.0
RETRY_SECONDS: Final = 1.0
REPORT_SECONDS: Final = 300.0
"""The node's status is written again after this long even if nothing changed."""
MAX_PODS: Final = 110

_CONDITIONS: Final = {
    "MemoryPressure": ("False", "KubeletHasSufficientMemory", "the host node agent does not watch the host's memory"),
    "DiskPressure": ("False", "KubeletHasNoDiskPressure", "the host node agent does not watch the host's disk"),
    "PIDPressure": ("False", "KubeletHasSufficientPID", "the host node agent does not count the host's processes"),
    "Ready": ("True", "KubeletReady", "the host node agent is posting ready status"),
}


def node_object(config: AgentConfig, *, now: float) -> dict[str, Any]:
    """Return the node as it is registered."""
    machine = {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine(), platform.machine())
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {
            "name": config.node_name,
            "labels": {
                HOSTNAME_LABEL: config.node_name,
                "kubernetes.io/os": "linux",
                "kubernetes.io/arch": machine,
                ADDON_NODE_LABEL: "true",
            },
        },
        "spec": {"taints": [{"key": ADDON_NODE_TAINT, "value": "true", "effect": "NoSchedule"}]},
        "status": node_status(config, now=now, machine=machine, before=()),
    }


def node_status(config: AgentConfig, *, now: float, machine: str, before: Any) -> dict[str, Any]:
    """Return the node's status; a condition that has not changed keeps its transition time.

    Parameters
    ----------
    config : AgentConfig
        Name, address and kubelet port.
    now : float
        Seconds since 1970.
    machine : str
        Kubernetes' name of the processor architecture.
    before : iterable of Mapping
        The conditions as they are.
    """
    size = {"cpu": str(os.cpu_count() or 1), "memory": f"{_memory_kib()}Ki", "pods": str(MAX_PODS)}
    old = {condition["type"]: condition for condition in before}
    conditions = []
    for kind, (status, reason, message) in _CONDITIONS.items():
        same = old.get(kind, {}).get("status") == status
        conditions.append(
            {
                "type": kind, "status": status, "reason": reason, "message": message,
                "lastHeartbeatTime": timestamp(now),
                "lastTransitionTime": old[kind].get("lastTransitionTime") if same else timestamp(now),
            }
        )  # fmt: skip
    return {
        "capacity": size,
        "allocatable": size,
        # No Hostname address: the API server would try that first, and no resolver knows it.
        "addresses": [{"type": "InternalIP", "address": config.address}],
        "daemonEndpoints": {"kubeletEndpoint": {"Port": config.node_port}},
        "conditions": conditions,
        "nodeInfo": {
            "architecture": machine,
            "bootID": _read("/proc/sys/kernel/random/boot_id"),
            "containerRuntimeVersion": "host://processes",
            "kernelVersion": platform.release(),
            "kubeProxyVersion": "",
            "kubeletVersion": f"v{KUBERNETES}",
            "machineID": _read("/etc/machine-id"),
            "operatingSystem": "linux",
            "osImage": _os_name(),
            "systemUUID": _read("/etc/machine-id"),
        },
    }


class Heartbeat:
    """Registers the node, then renews its Lease and keeps its status true.

    Parameters
    ----------
    kube : Kube
        The API server.
    config : AgentConfig
        Which node.
    clock : Clock
        For the times.
    """

    def __init__(self, kube: Kube, config: AgentConfig, clock: Clock) -> None:
        self._kube = kube
        self._config = config
        self._clock = clock
        self._stopped = threading.Event()
        self._reported_at = float("-inf")
        self._lease_known = False
        self._thread = threading.Thread(target=self._run, name="heartbeat", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """Beat no more."""
        self._stopped.set()

    def beat(self) -> None:
        """Register the node where it is missing, renew the Lease, correct the status.

        Raises
        ------
        KubeError
            If the API server refuses or does not answer.
        """
        node = self._kube.find(NODES, self._config.node_name)
        now = self._clock.now()
        if node is None:
            logger.info("registering node %s", self._config.node_name)
            node = self._kube.create(NODES, node_object(self._config, now=now))
            self._reported_at = self._clock.monotonic()
        self._renew_lease(node)
        if self._needs_report(node):
            wanted = node_object(self._config, now=now)
            labels = wanted["metadata"]["labels"]
            if any(node["metadata"].get("labels", {}).get(key) != value for key, value in labels.items()):
                self._kube.patch(NODES, self._config.node_name, {"metadata": {"labels": labels}})
            status = node_status(
                self._config,
                now=now,
                machine=labels["kubernetes.io/arch"],
                before=node.get("status", {}).get("conditions") or (),
            )
            self._kube.patch(NODES, self._config.node_name, {"status": status}, kind="strategic", subresource="status")
            self._reported_at = self._clock.monotonic()

    def _needs_report(self, node: Object) -> bool:
        if self._clock.monotonic() - self._reported_at >= REPORT_SECONDS:
            return True
        status = node.get("status", {})
        now = {condition["type"]: condition["status"] for condition in status.get("conditions") or ()}
        port = status.get("daemonEndpoints", {}).get("kubeletEndpoint", {}).get("Port")
        return port != self._config.node_port or any(now.get(kind) != values[0] for kind, values in _CONDITIONS.items())

    def _renew_lease(self, node: Object) -> None:
        name = self._config.node_name
        renewed = f"{datetime.fromtimestamp(self._clock.now(), UTC):%Y-%m-%dT%H:%M:%S.%fZ}"
        spec = {"holderIdentity": name, "leaseDurationSeconds": LEASE_SECONDS, "renewTime": renewed}
        if self._lease_known:
            try:
                self._kube.patch(LEASES, name, {"spec": spec}, LEASE_NAMESPACE)
                return
            except KubeError as error:
                if error.status != 404:
                    raise
        owner = {"apiVersion": "v1", "kind": "Node", "name": name, "uid": node["metadata"]["uid"]}
        metadata = {"name": name, "namespace": LEASE_NAMESPACE, "ownerReferences": [owner]}
        lease = {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": metadata, "spec": spec}
        try:
            self._kube.create(LEASES, lease)
        except KubeError as error:
            if error.status != 409:
                raise
            self._kube.patch(LEASES, name, {"metadata": {"ownerReferences": [owner]}, "spec": spec}, LEASE_NAMESPACE)
        self._lease_known = True

    def _run(self) -> None:
        while not self._stopped.is_set():
            pause = RENEW_SECONDS
            try:
                self.beat()
            except KubeError as error:
                logger.warning("node %s: %s", self._config.node_name, error)
                pause = RETRY_SECONDS
            except Exception:
                logger.exception("node %s", self._config.node_name)
                pause = RETRY_SECONDS
            self._stopped.wait(pause)


def _memory_kib() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 1024


def _read(path: str) -> str:
    try:
        return Path(path).read_text().strip()
    except OSError:
        return ""


def _os_name() -> str:
    try:
        return platform.freedesktop_os_release().get("PRETTY_NAME", "Linux")
    except OSError:
        return "Linux"
