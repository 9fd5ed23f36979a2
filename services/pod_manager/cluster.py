"""What the pod manager sees: VMs, their pods and the nodes, from three watches and from its own writes.

The three watches are not in step with each other, nor with what this process has just written. So the answer to each
write is seen at once, and the later of the two versions of an object counts. What a watch has not confirmed within a
few seconds is forgotten: after a restored etcd the past may be newer than the present.
"""

from __future__ import annotations

import threading
from collections import OrderedDict, defaultdict
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Final

from labkit.clock import WALL_CLOCK, Clock
from labkit.kube import Key, Object, key_of
from services.pod_manager.launcher import Pod

OWN_WRITE_SECONDS: Final = 5.0
"""How long an own write counts without a watch having shown it."""
GRAVES: Final = 20_000
"""UIDs of deleted pods that are remembered, so that a late answer to an own write brings none back."""


class Pods:
    """The launcher pods by VM. Safe to use from several threads."""

    def __init__(self, *, clock: Clock = WALL_CLOCK) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._by_vm: defaultdict[Key, dict[str, Pod]] = defaultdict(dict)
        self._written: dict[str, float] = {}
        """By UID, when this process wrote the version that is kept, as long as the watch is behind it."""
        self._unseen: set[str] = set()
        """UIDs that only an own write has shown so far."""
        self._graves: OrderedDict[str, None] = OrderedDict()

    def changed(self, old: Object | None, new: Object | None) -> set[Key]:
        """Take in an event of the watch; return the VMs that it is about."""
        touched = set()
        with self._lock:
            if old is not None:
                gone = Pod.read(old)
                if new is None or new["metadata"]["uid"] != gone.uid:
                    self._bury(gone)
                touched.add((gone.namespace, gone.vm_name))
            if new is not None:
                pod = Pod.read(new)
                self._unseen.discard(pod.uid)
                known = self._by_vm[pod.namespace, pod.vm_name].get(pod.name)
                written = self._written.get(pod.uid)
                behind = known is not None and written is not None and version(pod) < version(known)
                if not behind or self._expired(written):
                    self._written.pop(pod.uid, None)
                    self._by_vm[pod.namespace, pod.vm_name][pod.name] = pod
                touched.add((pod.namespace, pod.vm_name))
        return touched

    def wrote(self, obj: Object) -> None:
        """Take in the answer to an own write."""
        pod = Pod.read(obj)
        with self._lock:
            if pod.uid in self._graves:
                return
            pods = self._by_vm[pod.namespace, pod.vm_name]
            known = pods.get(pod.name)
            if known is None or known.uid != pod.uid:
                self._unseen.add(pod.uid)
            elif version(known) >= version(pod):
                return
            self._written[pod.uid] = self._clock.monotonic()
            pods[pod.name] = pod

    def doomed(self, pod: Pod) -> None:
        """Take in that a pod's deletion was asked for."""
        with self._lock:
            pods = self._by_vm.get((pod.namespace, pod.vm_name), {})
            known = pods.get(pod.name)
            if known is not None and known.uid == pod.uid:
                pods[pod.name] = replace(known, is_terminating=True)

    def gone(self, pod: Pod) -> None:
        """Take in that the API no longer has a pod."""
        with self._lock:
            self._bury(pod)

    def of(self, key: Key) -> tuple[Pod, ...]:
        """Return the pods that say they are this VM."""
        with self._lock:
            pods = self._by_vm.get(key, {})
            if self._unseen:
                for pod in [pod for pod in pods.values() if pod.uid in self._unseen]:
                    if self._expired(self._written.get(pod.uid)):
                        self._bury(pod)
            return tuple(pods.values())

    def on(self, node: str) -> set[Key]:
        """Return the VMs that have a pod on a node."""
        with self._lock:
            return {key for key, pods in self._by_vm.items() if any(pod.node == node for pod in pods.values())}

    def keys(self) -> list[Key]:
        """Return the VMs that have a pod."""
        with self._lock:
            return [key for key, pods in self._by_vm.items() if pods]

    def __len__(self) -> int:
        with self._lock:
            return sum(len(pods) for pods in self._by_vm.values())

    def _expired(self, written: float | None) -> bool:
        return written is None or self._clock.monotonic() - written > OWN_WRITE_SECONDS

    def _bury(self, pod: Pod) -> None:
        self._graves[pod.uid] = None
        if len(self._graves) > GRAVES:
            self._graves.popitem(last=False)
        self._written.pop(pod.uid, None)
        self._unseen.discard(pod.uid)
        key = (pod.namespace, pod.vm_name)
        pods = self._by_vm.get(key)
        if pods is not None and pod.name in pods and pods[pod.name].uid == pod.uid:
            del pods[pod.name]
            if not pods:
                del self._by_vm[key]


class OwnWrites:
    """The VMs as this process wrote them last, until a watch shows the same or something newer."""

    def __init__(self, *, clock: Clock = WALL_CLOCK) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._written: dict[Key, tuple[Object, float]] = {}

    def wrote(self, obj: Object) -> None:
        """Remember the answer to a write."""
        with self._lock:
            self._written[key_of(obj)] = (obj, self._clock.monotonic())

    def has(self, key: Key, resource_version: str) -> bool:
        """Tell whether that version is what this process wrote last: then nobody can have been faster unseen."""
        with self._lock:
            entry = self._written.get(key)
            return entry is not None and entry[0]["metadata"]["resourceVersion"] == resource_version

    def latest(self, key: Key, watched: Object | None) -> Object | None:
        """Return the later of what the watch shows and what was written."""
        with self._lock:
            entry = self._written.get(key)
            if entry is None:
                return watched
            written, at = entry
            outdated = (
                watched is None
                or watched["metadata"]["uid"] != written["metadata"]["uid"]
                or int(watched["metadata"]["resourceVersion"]) >= int(written["metadata"]["resourceVersion"])
                or self._clock.monotonic() - at > OWN_WRITE_SECONDS
            )
            if outdated:
                del self._written[key]
                return watched
            return written


class Admission:
    """Who may migrate now: the limits per cluster and per node, and the order of those who wait.

    Parameters
    ----------
    may_start : callable
        Whether a migration may leave a node, given the nodes that the running ones leave.
    """

    def __init__(self, may_start: Callable[[str, list[str]], bool]) -> None:
        self._may_start = may_start
        self._lock = threading.Lock()
        self._running: dict[Key, str] = {}
        self._waiting: dict[Key, tuple[tuple[int, float], str]] = {}

    def resume(self, key: Key, source: str) -> None:
        """Count a migration that is on record, whoever admitted it."""
        with self._lock:
            self._waiting.pop(key, None)
            self._running[key] = source

    def ask(self, key: Key, source: str, order: tuple[int, float]) -> bool:
        """Ask for a place; without one the key waits, and :meth:`release` names it when its turn comes.

        Parameters
        ----------
        key : Key
            The VM.
        source : str
            The node that it leaves.
        order : tuple of int and float
            Priority (the smallest first), then when it was asked for.
        """
        with self._lock:
            if key in self._running:
                return True
            self._waiting[key] = (order, source)
            if key not in self._fitting():
                return False
            del self._waiting[key]
            self._running[key] = source
            return True

    def release(self, key: Key) -> list[Key]:
        """Give up a place, or the wait for one; return those whose turn it is now."""
        with self._lock:
            held = self._running.pop(key, None)
            waited = self._waiting.pop(key, None)
            return self._fitting() if held is not None or waited is not None else []

    def turns(self) -> list[Key]:
        """Return those who wait and would fit, for when the limits have changed."""
        with self._lock:
            return self._fitting()

    @property
    def running(self) -> int:
        """How many have a place."""
        return len(self._running)

    @property
    def waiting(self) -> int:
        """How many wait for one."""
        return len(self._waiting)

    def _fitting(self) -> list[Key]:
        sources = list(self._running.values())
        fitting = []
        for key, (_, source) in sorted(self._waiting.items(), key=lambda item: item[1][0]):
            if self._may_start(source, sources):
                sources.append(source)
                fitting.append(key)
        return fitting


def version(pod: Pod) -> int:
    """Return a pod's resource version as a number, which Kubernetes promises it to be."""
    return int(pod.resource_version)


def nodes_of(pods: Iterable[Pod]) -> set[str]:
    """Return the nodes that pods are bound to."""
    return {pod.node for pod in pods if pod.node}
