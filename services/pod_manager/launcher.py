"""The launcher pod: a VM as Kubernetes sees it.

Names are derived, never drawn: a second attempt to make the same pod meets ``AlreadyExists``, whether it comes from
a stale cache, from a restart, or from another copy of this process.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from labkit.names import (
    APP_LABEL,
    CPU_CORES_ANNOTATION,
    CPU_UTILIZATION_ANNOTATION,
    CREATED_BY_LABEL,
    DIRTY_RATE_ANNOTATION,
    DOMAIN_ANNOTATION,
    DOMAIN_LABEL,
    EVICTION_IN_PROGRESS_ANNOTATION,
    FAKE_NODE_TAINT,
    HOSTNAME_LABEL,
    LAUNCHER_APP,
    LAUNCHER_LABEL,
    LAUNCHER_LABEL_VALUE,
    LAUNCHER_PREFIX,
    LOAD_ANNOTATION,
    MEMORY_BYTES_ANNOTATION,
    MEMORY_UTILIZATION_ANNOTATION,
    MIGRATION_JOB_UID_LABEL,
    NODE_TYPE_KWOK,
    NODE_TYPE_LABEL,
    REQUEST_EVICT_ONLY_ANNOTATION,
    VM_KIND,
    VM_NAME_LABEL,
)
from labkit.virtualmachine import API_VERSION, Migration, VirtualMachine, parse_time

CPU_OVERCOMMIT: Final = 10
"""A VM requests a tenth of its cores, KubeVirt's default allocation ratio."""
IMAGE: Final = "virt-launcher:simulated"
"""Nothing pulls or runs it: the pods live on KWOK's nodes."""
SUFFIX_LENGTH: Final = 5
FINISHED: Final = frozenset({"Succeeded", "Failed"})


def launcher_name(vm: VirtualMachine, occasion: str) -> str:
    """Return the pod name of a VM for one occasion.

    Parameters
    ----------
    vm : VirtualMachine
        Its UID goes into the name: a VM made anew under an old name never meets an old pod.
    occasion : str
        What the pod is for: the number of a start, or a migration's UID.
    """
    digest = hashlib.sha256(f"{vm.uid}/{occasion}".encode()).digest()
    suffix = base64.b32encode(digest).decode().lower()[:SUFFIX_LENGTH]
    return f"{LAUNCHER_PREFIX}{vm.name}-{suffix}"


@dataclass(frozen=True)
class Pod:
    """A launcher pod as last seen.

    Parameters
    ----------
    namespace, name, uid, resource_version : str
        From its metadata.
    vm_name : str
        The VM it says it is.
    vm_uid : str
        UID of the VirtualMachine that owns it; empty where none does, and then it is not ours.
    node : str
        Empty until it is scheduled.
    phase : str
        Kubernetes' pod phase. Readiness is left out on purpose: it says something about the node's kubelet, not
        about the VM.
    is_terminating : bool
        Its deletion was asked for.
    migration_uid : str
        Of the migration whose target it was made as, or empty.
    created : float
        Seconds since 1970.
    annotations : mapping
        All of them.
    """

    namespace: str
    name: str
    uid: str
    resource_version: str
    vm_name: str
    vm_uid: str
    node: str
    phase: str
    is_terminating: bool
    migration_uid: str
    created: float
    annotations: Mapping[str, str]

    @classmethod
    def read(cls, obj: Mapping[str, Any]) -> Pod:
        """Read a pod of the API."""
        metadata = obj["metadata"]
        labels = metadata.get("labels") or {}
        owners = [owner for owner in metadata.get("ownerReferences") or () if owner.get("kind") == VM_KIND]
        return cls(
            namespace=metadata["namespace"],
            name=metadata["name"],
            uid=metadata["uid"],
            resource_version=metadata["resourceVersion"],
            vm_name=owners[0]["name"] if owners else labels.get(DOMAIN_LABEL, ""),
            vm_uid=owners[0]["uid"] if owners else "",
            node=obj["spec"].get("nodeName") or "",
            phase=(obj.get("status") or {}).get("phase") or "Pending",
            is_terminating="deletionTimestamp" in metadata,
            migration_uid=labels.get(MIGRATION_JOB_UID_LABEL, ""),
            created=parse_time(metadata["creationTimestamp"]),
            annotations=metadata.get("annotations") or {},
        )

    @property
    def is_finished(self) -> bool:
        """Whether it ended and will never run again."""
        return self.phase in FINISHED

    @property
    def is_live(self) -> bool:
        """Whether it runs, or may yet."""
        return not self.is_terminating and not self.is_finished


def annotations_of(vm: VirtualMachine, *, leaving: bool) -> dict[str, str | None]:
    """Return the annotations that a VM's pod must have now; None stands for one that it must not have.

    Parameters
    ----------
    vm : VirtualMachine
        Whose pod.
    leaving : bool
        Whether this pod is to leave its node: it then says that its eviction is under way.
    """
    return {
        REQUEST_EVICT_ONLY_ANNOTATION: "true",
        EVICTION_IN_PROGRESS_ANNOTATION: "true" if leaving else None,
        CPU_UTILIZATION_ANNOTATION: vm.cpu_utilization,
        MEMORY_UTILIZATION_ANNOTATION: vm.memory_utilization,
        DIRTY_RATE_ANNOTATION: f"{vm.dirty_rate_mbps:g}",
        LOAD_ANNOTATION: vm.load or None,
    }


def stale_annotations(pod: Pod, wanted: Mapping[str, str | None]) -> dict[str, str | None]:
    """Return the part of the wanted annotations that the pod does not have so."""
    return {name: value for name, value in wanted.items() if pod.annotations.get(name) != value}


def launcher_pod(vm: VirtualMachine, name: str, *, node: str = "") -> dict[str, Any]:
    """Return the manifest of a VM's pod outside a migration, bound to a node where one is given."""
    pod = _pod(vm, name, cores=vm.cores, memory_bytes=vm.memory_bytes)
    if node:
        pod["spec"]["nodeName"] = node
    return pod


def target_pod(vm: VirtualMachine, migration: Migration, source: Pod) -> dict[str, Any]:
    """Return the manifest of a migration's target: as large as the source, and on another node.

    A changed ``spec.resources`` waits for the next start, as a running VM cannot be resized.
    """
    pod = _pod(
        vm,
        migration.target_pod,
        cores=float(source.annotations.get(CPU_CORES_ANNOTATION, vm.cores)),
        memory_bytes=float(source.annotations.get(MEMORY_BYTES_ANNOTATION, vm.memory_bytes)),
    )
    pod["metadata"]["labels"][MIGRATION_JOB_UID_LABEL] = migration.uid
    pod["spec"]["affinity"] = {
        "podAntiAffinity": {
            "requiredDuringSchedulingIgnoredDuringExecution": [
                {
                    "labelSelector": {"matchLabels": {CREATED_BY_LABEL: vm.uid}},
                    "topologyKey": HOSTNAME_LABEL,
                }
            ]
        }
    }
    return pod


def _pod(vm: VirtualMachine, name: str, *, cores: float, memory_bytes: float) -> dict[str, Any]:
    annotations = {
        DOMAIN_ANNOTATION: vm.name,
        CPU_CORES_ANNOTATION: f"{cores:g}",
        MEMORY_BYTES_ANNOTATION: f"{memory_bytes:.0f}",
    } | {name: value for name, value in annotations_of(vm, leaving=False).items() if value is not None}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": name,
            "namespace": vm.namespace,
            "labels": {
                APP_LABEL: LAUNCHER_APP,
                LAUNCHER_LABEL: LAUNCHER_LABEL_VALUE,
                DOMAIN_LABEL: vm.name,
                VM_NAME_LABEL: vm.name,
                CREATED_BY_LABEL: vm.uid,
            },
            "annotations": annotations,
            "ownerReferences": [
                {
                    "apiVersion": API_VERSION,
                    "kind": VM_KIND,
                    "name": vm.name,
                    "uid": vm.uid,
                    "controller": True,
                    "blockOwnerDeletion": True,
                }
            ],
        },
        "spec": {
            "automountServiceAccountToken": False,
            "enableServiceLinks": False,
            "restartPolicy": "Never",
            "nodeSelector": {NODE_TYPE_LABEL: NODE_TYPE_KWOK},
            "tolerations": [{"key": FAKE_NODE_TAINT, "operator": "Equal", "value": "fake", "effect": "NoSchedule"}],
            "containers": [
                {
                    "name": "compute",
                    "image": IMAGE,
                    "resources": {
                        "requests": {
                            "cpu": f"{max(1, round(cores * 1000 / CPU_OVERCOMMIT))}m",
                            "memory": f"{memory_bytes:.0f}",
                        }
                    },
                }
            ],
        },
    }
