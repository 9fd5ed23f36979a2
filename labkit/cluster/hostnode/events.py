"""Events about pods, as a kubelet records them: a repeated event is counted, not written again."""

from __future__ import annotations

import itertools
import random
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any, Final

from labkit.clock import Clock
from labkit.cluster.hostnode.outbox import Outbox
from labkit.errors import KubeError
from labkit.kube import EVENTS, Kube

Object = Mapping[str, Any]

MAX_MESSAGE: Final = 1024
_REMEMBERED: Final = 1000


class Recorder:
    """Records events of one node.

    Parameters
    ----------
    kube : Kube
        The API server.
    outbox : Outbox
        Writes them.
    node_name : str
        The node.
    clock : Clock
        For the times.
    """

    def __init__(self, kube: Kube, outbox: Outbox, node_name: str, clock: Clock) -> None:
        self._kube = kube
        self._outbox = outbox
        self._node_name = node_name
        self._clock = clock
        self._known: OrderedDict[tuple[str, ...], dict[str, Any]] = OrderedDict()
        self._numbers = itertools.count()

    def record(
        self,
        pod: Object,
        reason: str,
        message: str,
        *,
        container: Object | None = None,
        warning: bool = False,
        init: bool = False,
    ) -> None:
        """Record an event about a pod, or about one of its containers."""
        metadata = pod["metadata"]
        field = "" if container is None else f"spec.{'initContainers' if init else 'containers'}{{{container['name']}}}"
        message = message[:MAX_MESSAGE]
        now = _timestamp(self._clock.now())
        key = (metadata["uid"], field, reason, message)
        event = self._known.pop(key, None)
        if event is None:
            event = {
                "apiVersion": "v1",
                "kind": "Event",
                "metadata": {
                    "name": f"{metadata['name']}.{random.getrandbits(64):016x}",
                    "namespace": metadata["namespace"],
                },
                "involvedObject": {
                    "apiVersion": "v1", "kind": "Pod", "name": metadata["name"], "namespace": metadata["namespace"],
                    "uid": metadata["uid"], "fieldPath": field, "resourceVersion": metadata.get("resourceVersion", ""),
                },
                "reason": reason,
                "message": message,
                "type": "Warning" if warning else "Normal",
                "source": {"component": "kubelet", "host": self._node_name},
                "reportingComponent": "kubelet",
                "reportingInstance": self._node_name,
                "firstTimestamp": now,
                "lastTimestamp": now,
                "count": 1,
            }  # fmt: skip
        else:
            event = event | {"lastTimestamp": now, "count": event["count"] + 1}
        self._known[key] = event
        if len(self._known) > _REMEMBERED:
            self._known.popitem(last=False)
        self._outbox.put(("event", next(self._numbers)), lambda: self._write(event))

    def _write(self, event: Mapping[str, Any]) -> None:
        name, namespace = event["metadata"]["name"], event["metadata"]["namespace"]
        if event["count"] > 1:
            try:
                self._kube.patch(EVENTS, name, {key: event[key] for key in ("count", "lastTimestamp")}, namespace)
                return
            except KubeError as error:
                if error.status != 404:
                    raise
        self._kube.create(EVENTS, event, namespace)


def _timestamp(seconds: float) -> str:
    from datetime import UTC, datetime

    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%SZ}"
