"""The agent as a whole: which pods are the node's, one worker for each, and the end of it all."""

from __future__ import annotations

import contextlib
import logging
import shutil
import socket
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from labkit.clock import WALL_CLOCK, Clock
from labkit.cluster.component import Lock
from labkit.cluster.hostnode.config import AgentConfig
from labkit.cluster.hostnode.container import Node, PodFolders
from labkit.cluster.hostnode.events import Recorder
from labkit.cluster.hostnode.hosts import hosts_text, nsswitch_text
from labkit.cluster.hostnode.kubelet import KubeletServer, LogSource, server_context
from labkit.cluster.hostnode.leftovers import end_leftovers
from labkit.cluster.hostnode.node import Heartbeat
from labkit.cluster.hostnode.outbox import Outbox
from labkit.cluster.hostnode.sandbox import find_bubblewrap
from labkit.cluster.hostnode.spawner import Spawner
from labkit.cluster.hostnode.worker import PodWorker
from labkit.errors import ClusterError, NotReadyError
from labkit.kube import PODS, SERVICES, Kube, Store

logger = logging.getLogger(__name__)

Object = Mapping[str, Any]

END_GRACE_SECONDS: Final = 2.0
"""Time that containers have to end when the agent is asked to end."""
END_SECONDS: Final = 4.0
LOCK_FILE: Final = "agent.lock"


class Agent:
    """A kubelet for one node.

    Parameters
    ----------
    config : AgentConfig
        What it must know.
    clock : Clock
        Time.
    """

    def __init__(self, config: AgentConfig, clock: Clock = WALL_CLOCK) -> None:
        self._config = config
        self._state = Path(config.state_dir)
        self._logs = Path(config.logs_dir)
        self._lock_file = Lock(self._state / LOCK_FILE)
        self._kube = Kube.from_kubeconfig(config.kubeconfig)
        self._spawner = Spawner()
        self._outbox = Outbox()
        self._heartbeat = Heartbeat(self._kube, config, clock)
        self._node = Node(
            config=config,
            bubblewrap=find_bubblewrap(),
            spawner=self._spawner,
            recorder=Recorder(self._kube, self._outbox, config.node_name, clock),
            clock=clock,
            kept=kept_folders(config),
        )
        self._pods = Store(self._kube, PODS, field_selector=f"spec.nodeName={config.node_name}")
        self._services = Store(self._kube, SERVICES)
        self._nsswitch = _host_nsswitch()
        self._guard = threading.Lock()
        self._workers: dict[str, PodWorker] = {}
        self._ending = False

    def run(self) -> None:
        """Serve the node until :meth:`stop`; must be called in the main thread, which makes all processes.

        Raises
        ------
        ClusterError
            If another agent serves this node.
        """
        self._state.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._logs.mkdir(parents=True, exist_ok=True)
        if not self._lock_file.acquire():
            raise ClusterError(
                f"another agent serves node {self._config.node_name} from {self._state}: end that one first"
            )
        end_leftovers(self._state)
        self._outbox.start()
        if self._config.kubelet_port:
            self._new_kubelet().start()
        self._heartbeat.start()
        threading.Thread(target=self._watch, name="agent", daemon=True).start()
        self._spawner.run()
        self._end()

    def stop(self) -> None:
        """Let :meth:`run` end all containers and return; safe to call from a signal handler."""
        self._spawner.stop()

    def _watch(self) -> None:
        self._services.subscribe(self._service_changed)
        self._services.start()
        _wait_synced(self._services)
        self._pods.subscribe(self._pod_changed)
        self._pods.start()
        _wait_synced(self._pods)
        self._remove_strangers()

    def _service_changed(self, old: Object | None, new: Object | None) -> None:
        if old is not None and new is not None:
            return  # only names count
        with self._guard:
            workers = list(self._workers.values())
        for worker in workers:
            worker.renew_hosts()

    def _pod_changed(self, old: Object | None, new: Object | None) -> None:
        with self._guard:
            if self._ending:
                return
            uid = (new or old or {})["metadata"]["uid"]
            if old is not None and old["metadata"]["uid"] != (new["metadata"]["uid"] if new else None):
                earlier = self._workers.get(old["metadata"]["uid"])
                if earlier is not None:
                    earlier.gone()
            if new is None:
                return
            worker = self._workers.get(uid)
            if worker is None:
                worker = self._workers[uid] = self._new_worker(new)
                worker.update(new)
                worker.start()
            else:
                worker.update(new)

    def _new_worker(self, pod: Object) -> PodWorker:
        return PodWorker(
            self._node,
            self._kube,
            self._outbox,
            pod,
            self._folders(pod),
            hosts=self._hosts,
            nsswitch=self._nsswitch,
            on_finished=self._finished,
        )

    def _new_kubelet(self) -> KubeletServer:
        config = self._config
        context = server_context(config.cert_file, config.key_file, config.ca_file)
        kwok = (config.address, config.kwok_port)
        try:
            return KubeletServer(
                config.address,
                config.kubelet_port,
                context=context,
                find=self._find,
                forward_to=kwok,
                clock=self._node.clock,
            )
        except OSError as exc:
            raise ClusterError(
                f"wanted port {config.kubelet_port} of {config.address} for the host node, found: {exc}"
            ) from exc

    def _find(self, namespace: str, pod: str, container: str) -> LogSource | None:
        with self._guard:
            workers = [worker for worker in self._workers.values() if worker.pod_name == (namespace, pod)]
        return workers[-1].container(container) if workers else None

    def _folders(self, pod: Object) -> PodFolders:
        metadata = pod["metadata"]
        name = f"{metadata['namespace']}_{metadata['name']}_{metadata['uid']}"
        return PodFolders(self._state / "pods" / metadata["uid"], self._logs / name)

    def _hosts(self, namespace: str) -> str:
        return hosts_text(
            self._services.items(),
            namespace=namespace,
            address=self._config.address,
            cluster_domain=self._config.cluster_domain,
            host_name=socket.gethostname(),
        )

    def _finished(self, uid: str) -> None:
        with self._guard:
            worker = self._workers.pop(uid, None)
            ending = self._ending
        if worker is not None and not ending:
            worker.remove_files()

    def _remove_strangers(self) -> None:
        """Remove files of pods that went while no agent ran."""
        folders = [*(self._state / "pods").glob("*"), *self._logs.glob("*_*_*")]
        known = {pod["metadata"]["uid"] for pod in self._pods.items()}  # after looking: a new pod's are not strangers
        for folder in folders:
            if folder.name.rpartition("_")[2] not in known:
                shutil.rmtree(folder, ignore_errors=True)

    def _end(self) -> None:
        with self._guard:
            self._ending = True
            workers = list(self._workers.values())
        self._heartbeat.stop()
        self._pods.stop()
        self._services.stop()
        for worker in workers:
            worker.end(END_GRACE_SECONDS)
        deadline = self._node.clock.monotonic() + END_SECONDS
        for worker in workers:
            worker.join(max(0.0, deadline - self._node.clock.monotonic()))
            worker.kill()
        self._outbox.stop()
        self._lock_file.release()


def kept_folders(config: AgentConfig) -> tuple[str, ...]:
    """Return the folders that hold the lab's programs: visible to containers wherever they are."""
    own = Path(__file__).resolve().parents[3]
    folders = [*config.path, config.tools_dir, config.static_dir_prometheus, sys.prefix, sys.base_prefix, str(own)]
    folders.append(str(Path(sys.executable).resolve().parent.parent))
    real = [str(Path(folder).resolve()) for folder in folders if folder]
    return tuple(dict.fromkeys([*(folder for folder in folders if folder), *real]))


def _wait_synced(store: Store) -> None:
    """Wait for a store's first list, however long the API server is away."""
    while not store.synced:
        with contextlib.suppress(NotReadyError):
            store.wait_synced()


def _host_nsswitch() -> str:
    try:
        return nsswitch_text(Path("/etc/nsswitch.conf").read_text())
    except OSError:
        return ""
