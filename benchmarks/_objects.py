"""A settled cluster's objects, as the API server would send them: what the services keep, and what they read past."""

from __future__ import annotations

import itertools
from typing import Any

from labkit.kube import Object
from labkit.names import GROUP, NODE_NAME_LABEL, VM_KIND
from labkit.units import GIB
from labkit.versions import SIMULATION_API_VERSION
from labkit.virtualmachine import VirtualMachine
from services.pod_manager.launcher import launcher_name, launcher_pod
from services.vm_controller.logic import label_change, utilization_of, wanted_status

CREATED = "2026-01-01T00:00:00Z"
_versions = itertools.count(2)


def machine(number: int, node_name: str) -> tuple[Object, Object]:
    """Return a VM that runs, and its pod, with everything in place that the controllers would write."""
    name = f"vm-{number}"
    obj: Object = {
        "apiVersion": f"{GROUP}/{SIMULATION_API_VERSION}",
        "kind": VM_KIND,
        "metadata": {
            "name": name,
            "namespace": "default",
            "generation": 1,
            "creationTimestamp": CREATED,
            "managedFields": [{"manager": "kubectl", "operation": "Update", "fieldsV1": {"f:spec": {}}}],
            **identity(name),
        },
        "spec": {
            "resources": {"cpu": "4", "memory": "16Gi"},
            "utilization": {"cpu": f"{0.05 + number % 90 / 100:.2f}", "memory": "0.7"},
            "migration": {"dirtyRateMbps": 800, "allowed": True},
            "evictionStrategy": "LiveMigrate",
            "running": True,
        },
        "status": {"starts": 1},
    }
    vm = VirtualMachine.read(obj)
    pod = launcher_pod(vm, launcher_name(vm, "start/0"), node=node_name)
    pod["metadata"] |= {"creationTimestamp": CREATED, **identity(pod["metadata"]["name"])}
    pod["spec"] |= {key: value for key, value in REST_OF_SPEC.items() if key not in pod["spec"]}
    pod["status"] = {"phase": "Running", **REST_OF_STATUS}
    obj["status"] |= {"podName": pod["metadata"]["name"], "podUid": pod["metadata"]["uid"], "nodeName": node_name}
    vm = VirtualMachine.read(obj)
    obj["status"] |= wanted_status(vm, obj, pod, utilization_of(vm, 0.0), may_move=True, now=0.0)
    obj["metadata"]["labels"] = {NODE_NAME_LABEL: node_name}
    assert not label_change(VirtualMachine.read(obj), obj)
    return obj, pod


def node(number: int) -> Object:
    """Return a simulated node."""
    return {
        "metadata": {
            "name": f"kwok-node-{number}",
            "labels": {"type": "kwok", "kubevirt.io/schedulable": "true"},
            **identity(f"node-{number}"),
        },
        "status": {"allocatable": {"cpu": "64", "memory": "1Ti"}},
    }


def identity(name: str) -> dict[str, str]:
    """Return the fields that tell objects and their versions apart."""
    return {"uid": f"uid-{name}", "resourceVersion": str(next(_versions))}


# What else a launcher pod has when it comes from the API server: nothing that the exporter reads, all to be read past.
REST_OF_SPEC: dict[str, Any] = {
    "containers": [
        {
            "name": "compute",
            "image": "virt-launcher:simulated",
            "imagePullPolicy": "IfNotPresent",
            "resources": {"requests": {"cpu": "400m", "memory": str(16 * GIB)}},
            "terminationMessagePath": "/dev/termination-log",
            "terminationMessagePolicy": "File",
        }
    ],
    "dnsPolicy": "ClusterFirst",
    "nodeSelector": {"type": "kwok"},
    "preemptionPolicy": "PreemptLowerPriority",
    "restartPolicy": "Never",
    "schedulerName": "default-scheduler",
    "securityContext": {},
    "serviceAccountName": "default",
    "terminationGracePeriodSeconds": 30,
    "tolerations": [
        {"effect": "NoSchedule", "key": "kwok.x-k8s.io/node", "operator": "Equal", "value": "fake"},
        {"effect": "NoExecute", "key": "node.kubernetes.io/not-ready", "operator": "Exists", "tolerationSeconds": 300},
        {
            "effect": "NoExecute",
            "key": "node.kubernetes.io/unreachable",
            "operator": "Exists",
            "tolerationSeconds": 300,
        },
    ],
}
REST_OF_STATUS: dict[str, Any] = {
    "conditions": [
        {"type": name, "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z", "lastProbeTime": None}
        for name in ("Initialized", "ContainersReady", "Ready", "PodScheduled")
    ],
    "containerStatuses": [
        {
            "name": "compute",
            "image": "virt-launcher:simulated",
            "imageID": "",
            "ready": True,
            "restartCount": 0,
            "started": True,
            "state": {"running": {"startedAt": "2026-01-01T00:00:00Z"}},
        }
    ],
    "hostIP": "127.0.0.1",
    "podIP": "10.64.0.3",
    "qosClass": "Burstable",
    "startTime": "2026-01-01T00:00:00Z",
}
