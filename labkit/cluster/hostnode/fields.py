"""Which fields of a pod the agent honours, which it ignores and why; it refuses all others.

One table, as data: a field that stands here is honoured, or carries the reason why it means nothing on a host
node. A field that does not stand here would change what the pod does, so the pod is not started and an event
names the field. ``docs/host-node.md`` has the same lists; a test holds them together.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final


@dataclass(frozen=True)
class Ignored:
    """A field without meaning on a host node."""

    reason: str


HONOURED: Final = "honoured"

_NO_IMAGE: Final = Ignored("programs are the host's; there are no images")
_NO_CGROUP: Final = Ignored("host processes share the machine; nothing is limited or reserved")
_NO_USERS: Final = Ignored("processes run as whoever runs the lab")
_SCHEDULER: Final = Ignored("the scheduler has decided already")
_HOST_NETWORK: Final = Ignored("pods share the host's network; names come from their own /etc/hosts")
_NO_MESSAGE: Final = Ignored("the exit code and the log tell why a container ended")

Schema = Mapping[str, Any]
"""Field → HONOURED, Ignored, a schema (an object) or a list of one schema (a list of objects)."""

_KEY_REF: Final[Schema] = {"name": HONOURED, "key": HONOURED, "optional": HONOURED}
_ITEM: Final[Schema] = {"key": HONOURED, "path": HONOURED, "mode": HONOURED}
_FIELD_REF: Final[Schema] = {"fieldPath": HONOURED, "apiVersion": HONOURED}
_DOWNWARD_ITEM: Final[Schema] = {"path": HONOURED, "mode": HONOURED, "fieldRef": _FIELD_REF}

_PROBE: Final[Schema] = {
    "httpGet": {
        "path": HONOURED, "port": HONOURED, "host": HONOURED, "scheme": HONOURED,
        "httpHeaders": [{"name": HONOURED, "value": HONOURED}],
    },
    "tcpSocket": {"port": HONOURED, "host": HONOURED},
    "exec": {"command": HONOURED},
    "initialDelaySeconds": HONOURED, "periodSeconds": HONOURED, "timeoutSeconds": HONOURED,
    "successThreshold": HONOURED, "failureThreshold": HONOURED, "terminationGracePeriodSeconds": HONOURED,
}  # fmt: skip

CONTAINER: Final[Schema] = {
    "name": HONOURED,
    "command": HONOURED,
    "args": HONOURED,
    "workingDir": HONOURED,
    "restartPolicy": HONOURED,
    "ports": [
        {
            "name": HONOURED, "containerPort": HONOURED, "hostPort": HONOURED, "protocol": HONOURED,
            "hostIP": Ignored("ports are opened on the lab's loopback address only"),
        }
    ],
    "env": [
        {
            "name": HONOURED,
            "value": HONOURED,
            "valueFrom": {"configMapKeyRef": _KEY_REF, "secretKeyRef": _KEY_REF, "fieldRef": _FIELD_REF},
        }
    ],
    "envFrom": [
        {
            "prefix": HONOURED,
            "configMapRef": {"name": HONOURED, "optional": HONOURED},
            "secretRef": {"name": HONOURED, "optional": HONOURED},
        }
    ],
    "volumeMounts": [
        {
            "name": HONOURED, "mountPath": HONOURED, "subPath": HONOURED, "readOnly": HONOURED,
            "recursiveReadOnly": Ignored("a volume has no mounts within it"),
        }
    ],
    "livenessProbe": _PROBE,
    "readinessProbe": _PROBE,
    "startupProbe": _PROBE,
    "image": _NO_IMAGE,
    "imagePullPolicy": _NO_IMAGE,
    "resources": _NO_CGROUP,
    "resizePolicy": _NO_CGROUP,
    "securityContext": _NO_USERS,
    "terminationMessagePath": _NO_MESSAGE,
    "terminationMessagePolicy": _NO_MESSAGE,
}  # fmt: skip

VOLUME: Final[Schema] = {
    "name": HONOURED,
    "emptyDir": {
        "medium": Ignored("a folder on the host's disk"),
        "sizeLimit": Ignored("a folder on the host's disk, as large as that is"),
    },
    "configMap": {"name": HONOURED, "optional": HONOURED, "defaultMode": HONOURED, "items": [_ITEM]},
    "secret": {"secretName": HONOURED, "optional": HONOURED, "defaultMode": HONOURED, "items": [_ITEM]},
    "downwardAPI": {"defaultMode": HONOURED, "items": [_DOWNWARD_ITEM]},
    "projected": {
        "defaultMode": HONOURED,
        "sources": [
            {
                "configMap": {"name": HONOURED, "optional": HONOURED, "items": [_ITEM]},
                "secret": {"name": HONOURED, "optional": HONOURED, "items": [_ITEM]},
                "downwardAPI": {"items": [_DOWNWARD_ITEM]},
                "serviceAccountToken": {"audience": HONOURED, "expirationSeconds": HONOURED, "path": HONOURED},
            }
        ],
    },
}

POD: Final[Schema] = {
    "containers": [CONTAINER],
    "initContainers": [CONTAINER],
    "volumes": [VOLUME],
    "nodeName": HONOURED,
    "hostname": HONOURED,
    "restartPolicy": HONOURED,
    "serviceAccountName": HONOURED,
    "serviceAccount": HONOURED,
    "automountServiceAccountToken": HONOURED,
    "terminationGracePeriodSeconds": HONOURED,
    "affinity": _SCHEDULER,
    "nodeSelector": _SCHEDULER,
    "preemptionPolicy": _SCHEDULER,
    "priority": _SCHEDULER,
    "priorityClassName": _SCHEDULER,
    "schedulerName": _SCHEDULER,
    "tolerations": _SCHEDULER,
    "topologySpreadConstraints": _SCHEDULER,
    "dnsConfig": _HOST_NETWORK,
    "dnsPolicy": _HOST_NETWORK,
    "enableServiceLinks": _HOST_NETWORK,
    "hostNetwork": _HOST_NETWORK,
    "imagePullSecrets": _NO_IMAGE,
    "os": Ignored("the host's"),
    "overhead": _NO_CGROUP,
    "resources": _NO_CGROUP,
    "securityContext": _NO_USERS,
}


def refused_fields(spec: Mapping[str, Any]) -> list[str]:
    """Return the paths of all fields of a pod's spec that the agent neither honours nor ignores.

    A field that is false or empty counts as absent.

    Examples
    --------
    >>> refused_fields({"containers": [{"name": "a", "image": "b", "lifecycle": {"preStop": {}}}], "hostPID": False})
    ['spec.containers[0].lifecycle']
    """
    return list(_refused(spec, POD, "spec"))


def ignored_fields(schema: Schema = POD, path: str = "spec") -> Iterator[tuple[str, str]]:
    """Yield path and reason of every ignored field."""
    for name, rule in schema.items():
        where = f"{path}.{name}"
        if isinstance(rule, Ignored):
            yield where, rule.reason
        elif isinstance(rule, list):
            yield from ignored_fields(rule[0], where + "[]")
        elif isinstance(rule, Mapping):
            yield from ignored_fields(rule, where)


def _refused(value: Mapping[str, Any], schema: Schema, path: str) -> Iterator[str]:
    for name, entry in value.items():
        rule = schema.get(name)
        where = f"{path}.{name}"
        if rule is None:
            if entry not in (None, False, "", [], {}):
                yield where
        elif isinstance(rule, list):
            for index, element in enumerate(entry or ()):
                yield from _refused(element, rule[0], f"{where}[{index}]")
        elif isinstance(rule, Mapping):
            yield from _refused(entry or {}, rule, where)
