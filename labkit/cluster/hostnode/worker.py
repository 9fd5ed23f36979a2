"""One pod, in a thread of its own: brings it from what it is to what its object says, and tells the API what it is.

Everything that happens (a change of the object, an exit, a probe's answer) goes through the inbox; after each the
worker looks at the whole pod again, so that it never matters in which order things happened.
"""

from __future__ import annotations

import logging
import shutil
import threading
from collections.abc import Callable, Mapping
from queue import Empty, SimpleQueue
from typing import Any, Final

from labkit.cluster.hostnode.access import write_access
from labkit.cluster.hostnode.backoff import retry_backoff
from labkit.cluster.hostnode.container import NEVER, Container, Node, PodFolders
from labkit.cluster.hostnode.content import VolumeError
from labkit.cluster.hostnode.fields import refused_fields
from labkit.cluster.hostnode.forwarder import is_port_free
from labkit.cluster.hostnode.outbox import Outbox
from labkit.cluster.hostnode.status import INIT, MAIN, SIDECAR, pod_phase, pod_status, timestamp, waiting
from labkit.cluster.hostnode.volumes import NotYetAllowedError, PodObjects, PodVolumes
from labkit.errors import KubeError
from labkit.kube import PODS, Kube

logger = logging.getLogger(__name__)

Object = Mapping[str, Any]

REFRESH_SECONDS: Final = 60.0
"""Volumes are brought up to date this often, as the kubelet does."""
PATIENCE_SECONDS: Final = 3.0
"""For so long a new pod's volumes are simply tried again when the API server does not know yet that it is ours."""
IMPATIENCE_SECONDS: Final = 0.1
TROUBLE_SECONDS: Final = 1.0
PORT_WAIT_SECONDS: Final = 10.0
"""A pod whose processes have ended is not kept longer than this for a port that somebody else took."""
PORT_POLL_SECONDS: Final = 0.05
DEFAULT_GRACE_SECONDS: Final = 30.0
UNSUPPORTED: Final = "Unsupported"


class PodWorker:
    """Runs one pod.

    Parameters
    ----------
    node : Node
        What every pod of the node shares.
    kube : Kube
        The API server.
    outbox : Outbox
        Writes status, events and access objects.
    pod : Mapping
        The pod as first seen.
    folders : PodFolders
        Where its files go.
    hosts : callable
        Given a namespace, returns the hosts file of a pod there.
    nsswitch : str
        The pod's ``/etc/nsswitch.conf``; empty where the host has none.
    on_finished : callable
        Called with the pod's uid when nothing is left to do.
    """

    def __init__(
        self,
        node: Node,
        kube: Kube,
        outbox: Outbox,
        pod: Object,
        folders: PodFolders,
        *,
        hosts: Callable[[str], str],
        nsswitch: str,
        on_finished: Callable[[str], None],
    ) -> None:
        self._node = node
        self._kube = kube
        self._outbox = outbox
        self._pod = pod
        self._folders = folders
        self._hosts = hosts
        self._nsswitch = nsswitch
        self._on_finished = on_finished
        self._inbox: SimpleQueue[Callable[[], None]] = SimpleQueue()
        self._uid: str = pod["metadata"]["uid"]
        self._name: str = pod["metadata"]["name"]
        self._namespace: str = pod["metadata"]["namespace"]
        self._objects = PodObjects(kube, pod, node.clock)
        self._volumes = PodVolumes(pod, folders.volumes, self._objects, node.config.address)
        spec = pod["spec"]
        self._first = [
            Container(node, pod, entry, SIDECAR if entry.get("restartPolicy") == "Always" else INIT, folders, self.tell)
            for entry in spec.get("initContainers") or ()
        ]
        self._main = [Container(node, pod, entry, MAIN, folders, self.tell) for entry in spec["containers"]]
        self._all = [*self._first, *self._main]
        status = pod.get("status") or {}
        self._start_time: str = status.get("startTime") or timestamp(node.clock.now())
        self._conditions: list[dict[str, Any]] = list(status.get("conditions") or ())
        self._published: dict[str, Any] = {}
        self._prepared = False
        self._preparing = retry_backoff()
        self._prepare_at = 0.0
        self._seen_at = node.clock.monotonic()
        self._refresh_at = NEVER
        self._refused = refused_fields(spec)
        self._over = status.get("phase") in ("Succeeded", "Failed")
        self._final_phase: str | None = status.get("phase") if self._over else None
        self._stop_at = NEVER
        self._ended_at: float | None = None
        self._gone = False
        self._deletion_sent = False
        self._finished = False
        entries = [*(status.get("initContainerStatuses") or ()), *(status.get("containerStatuses") or ())]
        earlier = {entry["name"]: entry for entry in entries}
        for container in self._all:
            if container.name in earlier:
                container.state.restore(earlier[container.name], node.clock.now())
        self._thread = threading.Thread(target=self._run, name=f"pod-{self._name}", daemon=True)

    def start(self) -> None:
        """Begin to work."""
        self._thread.start()

    @property
    def pod_name(self) -> tuple[str, str]:
        """Return the pod's namespace and name."""
        return self._namespace, self._name

    def container(self, name: str) -> Container | None:
        """Return the container of that name; from any thread, for its logs."""
        return next((container for container in self._all if container.name == name), None)

    def tell(self, message: Callable[[], None]) -> None:
        """Let the worker's thread call something, then look at the pod again."""
        self._inbox.put(message)

    def update(self, pod: Object) -> None:
        """Take a newer version of the pod's object."""
        self.tell(lambda: self._update(pod))

    def gone(self) -> None:
        """End what still runs, at once: the object is gone."""
        self.tell(self._object_gone)

    def renew_hosts(self) -> None:
        """Write the hosts file anew: the Services have changed."""
        self.tell(self._write_hosts)

    def end(self, grace_seconds: float) -> None:
        """End all containers because the agent ends; the pod's object is left as it is."""
        self.tell(lambda: self._end(grace_seconds))

    def kill(self) -> None:
        """End all containers now; from any thread."""
        for container in self._all:
            container.kill()

    def join(self, timeout_seconds: float) -> None:
        """Wait until the worker has nothing left to do."""
        self._thread.join(timeout_seconds)

    # --- the thread ---------------------------------------------------------------------------------

    def _run(self) -> None:
        pause_until: float | None = None
        while not self._finished:
            try:
                if pause_until is not None:
                    due, pause_until = pause_until, None
                    self._wait_for(due)  # what is heard meanwhile may go wrong, too
                self._step()
                if not self._gone:
                    self._publish()
                if not self._finished:
                    self._wait()
            except KubeError as error:
                logger.warning("pod %s/%s: %s", self._namespace, self._name, error)
                pause_until = self._prepare_at = self._preparing.failed(self._now())
            except Exception:  # a pod that goes wrong must not take the node with it
                logger.exception("pod %s/%s", self._namespace, self._name)
                pause_until = self._now() + TROUBLE_SECONDS

    def _wait(self) -> None:
        due = [container.next_at for container in self._all] + [self._refresh_at]
        if self._stopping:
            due = [container.next_at for container in self._all if container.alive]
            waits_for_port = self._ended_at is not None and not self._deletion_sent
            due += [self._now() + PORT_POLL_SECONDS] if waits_for_port else []
            due += [self._now() + REFRESH_SECONDS] if self._deletion_sent else []  # should it have been refused
        elif self._over or self._refused:
            due = [container.next_at for container in self._all if container.alive]
        elif not self._prepared:
            due = [self._prepare_at]
        elif any(not container.state.passed for container in self._first):
            due = [container.next_at for container in self._first if container.next_at > 0] + [self._refresh_at]
        self._wait_for(min(due, default=NEVER))

    def _wait_for(self, due: float) -> None:
        """Wait until something happens or the time has come; take in what happened."""
        seconds = due - self._now()
        try:
            message = self._inbox.get() if seconds == NEVER else self._inbox.get(timeout=max(seconds, 0.001))
        except Empty:
            return
        message()
        while not self._inbox.empty():
            self._inbox.get()()

    def _now(self) -> float:
        return self._node.clock.monotonic()

    @property
    def _stopping(self) -> bool:
        return self._gone or self._stop_at != NEVER

    def _step(self) -> None:
        if self._stopping:
            self._step_down()
        elif self._refused:
            self._refuse()
        elif self._over:
            for container in self._all:
                container.enforce_deadline()
        else:
            self._step_up()

    def _step_up(self) -> None:
        if not self._prepared and not self._prepare():
            return
        if self._now() >= self._refresh_at:
            self._refresh()
        for container in self._first:
            container.ensure_running(self._objects, self._volumes)
            if not container.state.passed:
                break
        else:
            for container in self._main:
                container.ensure_running(self._objects, self._volumes)
        policy = self._pod["spec"].get("restartPolicy", "Always")
        phase = pod_phase([container.state for container in self._all], policy)
        if phase in ("Succeeded", "Failed"):
            self._over, self._final_phase = True, phase
            for container in self._first:
                container.stop(self._grace(), f"Stopping container {container.name}")

    # --- preparing ----------------------------------------------------------------------------------

    def _prepare(self) -> bool:
        if self._now() < self._prepare_at:
            return False
        try:
            self._folders.state.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._write_hosts()
            if self._nsswitch:
                self._folders.nsswitch.write_text(self._nsswitch)
            self._volumes.fill()
        except (VolumeError, OSError) as error:
            self._prepare_at = self._preparing.failed(self._now())
            if isinstance(error, NotYetAllowedError) and self._now() < self._seen_at + PATIENCE_SECONDS:
                self._prepare_at = self._now() + IMPATIENCE_SECONDS
                return False
            self._node.recorder.record(self._pod, "FailedMount", str(error), warning=True)
            return False
        pod, folder, address = self._pod, self._folders.logs, self._node.config.address
        self._outbox.put(("access", self._uid), lambda: write_access(self._kube, pod, folder, address))
        self._prepared = True
        self._refresh_at = self._now() + REFRESH_SECONDS
        return True

    def _refresh(self) -> None:
        self._refresh_at = self._now() + REFRESH_SECONDS
        if self._overruled(self._pod.get("status") or {}):
            self._published = {}  # the write was refused, and nothing else will tell
        try:
            self._volumes.fill()
        except (VolumeError, OSError) as error:
            self._node.recorder.record(self._pod, "FailedMount", str(error), warning=True)
        except KubeError as error:
            logger.info("volumes of %s/%s stay as they are: %s", self._namespace, self._name, error)

    def _write_hosts(self) -> None:
        if not self._folders.state.is_dir():
            return
        # In place: a running container sees this very file through its mount.
        text = self._hosts(self._namespace).encode()
        with self._folders.hosts.open("r+b" if self._folders.hosts.exists() else "wb") as file:
            file.write(text)
            file.truncate()

    def _refuse(self) -> None:
        if self._all[0].state.state.get("waiting", {}).get("reason") == UNSUPPORTED:
            return
        fields = ", ".join(self._refused)
        message = f"the host node does not support {fields}; remove it, or run the pod elsewhere"
        for container in self._all:
            container.state.state = waiting(UNSUPPORTED, message)
        self._node.recorder.record(self._pod, UNSUPPORTED, message, warning=True)

    # --- ending -------------------------------------------------------------------------------------

    def _update(self, pod: Object) -> None:
        self._pod = pod
        self._volumes.update(pod)
        metadata = pod["metadata"]
        if metadata.get("deletionTimestamp"):
            grace = metadata.get("deletionGracePeriodSeconds")
            self._stop_at = min(self._stop_at, self._now() + (DEFAULT_GRACE_SECONDS if grace is None else float(grace)))
        elif self._overruled(pod.get("status") or {}):
            self._published = {}

    def _overruled(self, status: Object) -> bool:
        """Whether somebody else (the node controller, while we were away) has changed what we wrote."""
        if not self._published:
            return False
        ours = {condition["type"]: condition["status"] for condition in self._published["conditions"]}
        theirs = {condition["type"]: condition["status"] for condition in status.get("conditions") or ()}
        return status.get("phase") != self._published["phase"] or any(theirs.get(kind) != ours[kind] for kind in ours)

    def _object_gone(self) -> None:
        self._gone = True
        self._stop_at = min(self._stop_at, self._now())

    def _end(self, grace_seconds: float) -> None:
        self._gone = True
        self._stop_at = min(self._stop_at, self._now() + grace_seconds)

    def _step_down(self) -> None:
        serving = [container for container in self._all if container.state.kind != SIDECAR]
        helpers = [container for container in self._first if container.state.kind == SIDECAR]
        group = serving if any(container.alive for container in serving) else helpers
        for container in group:
            container.stop(max(0.0, self._stop_at - self._now()), f"Stopping container {container.name}")
        if any(container.alive for container in self._all):
            return
        if self._ended_at is None:
            self._ended_at = self._now()
        if not self._deletion_sent and not self._ports_free():
            return
        if not self._gone:
            self._deletion_sent = True
            self._publish()
            name, namespace, uid = self._name, self._namespace, self._uid
            self._outbox.put(
                ("delete", uid), lambda: self._kube.delete(PODS, name, namespace, uid=uid, grace_period_seconds=0)
            )
            return
        self._finished = True
        self._on_finished(self._uid)

    def _ports_free(self) -> bool:
        ports = {port for container in self._all for port in container.ports() if container.state.has_run}
        taken = [port for port in sorted(ports) if not is_port_free(self._node.config.address, port)]
        assert self._ended_at is not None
        if taken and self._now() < self._ended_at + PORT_WAIT_SECONDS:
            return False
        if taken:
            logger.warning(
                "port %d is taken by somebody else; pod %s/%s ends all the same", taken[0], self._namespace, self._name
            )
        return True

    def remove_files(self) -> None:
        """Remove the pod's volumes and logs; nothing of it may run any more."""
        shutil.rmtree(self._folders.state, ignore_errors=True)
        shutil.rmtree(self._folders.logs, ignore_errors=True)

    def _grace(self) -> float:
        grace = self._pod["spec"].get("terminationGracePeriodSeconds")
        return DEFAULT_GRACE_SECONDS if grace is None else float(grace)

    # --- status -------------------------------------------------------------------------------------

    def _publish(self) -> None:
        phase = self._final_phase
        states = [container.state for container in self._all]
        if self._stopping and phase is None and not any(container.alive for container in self._all):
            failed = any((state.last_exit_code or 0) != 0 for state in states if state.kind == MAIN)
            phase = "Failed" if failed else "Succeeded"
        status = pod_status(
            self._pod,
            states,
            prepared=self._prepared,
            address=self._node.config.address,
            start_time=self._start_time,
            now=self._node.clock.now(),
            previous=self._conditions,
            phase=phase,
        )
        self._conditions = status["conditions"]
        if status == self._published:
            return
        self._published = status
        name, namespace = self._name, self._namespace
        patch = {"metadata": {"uid": self._uid}, "status": status}
        self._outbox.put(
            ("status", self._uid),
            lambda: _written(self._kube, name, namespace, patch),
        )


def _written(kube: Kube, name: str, namespace: str, patch: Object) -> None:
    kube.patch(PODS, name, patch, namespace, kind="strategic", subresource="status")
