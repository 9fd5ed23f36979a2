"""The cluster itself: what kind is told, what is there now, making it, starting its node again, removing it."""

from __future__ import annotations

import logging
import os
import re
import signal
import subprocess
from collections.abc import Iterator, Mapping
from typing import Any, Final

import yaml

from labkit.cluster import controlplane
from labkit.cluster.config import LabConfig, LabFolder, write_whole
from labkit.cluster.kind.engine import Engine
from labkit.cluster.kind.program import Kind
from labkit.cluster.ports import lab_ports
from labkit.cluster.running import kind_cluster, kind_node
from labkit.cluster.supervisor import MAX_PAUSE_SECONDS
from labkit.errors import ClusterError
from labkit.names import ADDON_NODE_LABEL, API_SERVER_PORT, EXPORTER_HOST_PORT, EXPORTER_PORT

logger = logging.getLogger(__name__)

ABSENT: Final = "absent"
STOPPED: Final = "stopped"
RUNNING: Final = "running"

CLUSTER_LABEL: Final = "io.x-k8s.kind.cluster"
"""What kind marks the containers of a cluster with."""
FIRST_WITH_SHORT_PAUSES: Final = (1, 35)
"""The first Kubernetes whose kubelet can be told the longest pause before a container is started again."""
STOP_SECONDS: Final = 5.0
DELETE_SECONDS: Final = 60.0
"""How long whoever interrupts the removal of a cluster waits for its end."""
START_SECONDS: Final = 60.0


def configuration(config: LabConfig, *, node_image: str) -> dict[str, Any]:
    """Return what kind makes a lab's cluster from.

    One real node is enough: it carries the add-ons, and KWOK plays the others. The API server and the add-ons' HTTP
    ports lead to the same ports of the lab's address as on ``local``.

    Parameters
    ----------
    config : LabConfig
        The lab.
    node_image : str
        Image of the node.
    """
    return {
        "apiVersion": "kind.x-k8s.io/v1alpha4",
        "kind": "Cluster",
        "name": kind_cluster(config.name),
        "kubeadmConfigPatches": [
            yaml.safe_dump(_control_plane_of_local()),
            *(yaml.safe_dump(part) for part in _kubelet_of_local(node_image)),
        ],
        "networking": {"apiServerAddress": config.address, "apiServerPort": API_SERVER_PORT},
        "nodes": [
            {
                "role": "control-plane",
                "image": node_image,
                "labels": {ADDON_NODE_LABEL: "true"},
                "extraPortMappings": [
                    {
                        "listenAddress": config.address,
                        "hostPort": port,
                        # The exporter's pod is opened on the node at 8001 alone, as its manifest says.
                        "containerPort": EXPORTER_HOST_PORT if port == EXPORTER_PORT else port,
                        "protocol": "TCP",
                    }
                    for port in lab_ports("kind").values()
                    if port != API_SERVER_PORT
                ],
            }
        ],
    }


def _control_plane_of_local() -> dict[str, Any]:
    """Return the options that change how the control plane behaves; kind leaves them out for an older Kubernetes."""

    def extra(*options: Mapping[str, str]) -> dict[str, Any]:
        return {"extraArgs": [{"name": name, "value": value} for group in options for name, value in group.items()]}

    return {
        "apiVersion": "kubeadm.k8s.io/v1beta4",
        "kind": "ClusterConfiguration",
        "etcd": {"local": extra(controlplane.ETCD_OPTIONS)},
        "controllerManager": extra(controlplane.NO_ELECTION, controlplane.CONTROLLER_MANAGER_OPTIONS),
        "scheduler": extra(controlplane.NO_ELECTION),
    }


def _kubelet_of_local(node_image: str) -> Iterator[dict[str, Any]]:
    """Yield what lets a container that died begin anew as soon as under the supervisor, where the kubelet knows it."""
    version = re.search(r":v(\d+)\.(\d+)", node_image)
    if version is None or (int(version[1]), int(version[2])) >= FIRST_WITH_SHORT_PAUSES:
        yield {
            "apiVersion": "kubelet.config.k8s.io/v1beta1",
            "kind": "KubeletConfiguration",
            "crashLoopBackOff": {"maxContainerRestartPeriod": f"{MAX_PAUSE_SECONDS:g}s"},
        }


class KindCluster:
    """The cluster of one lab.

    Parameters
    ----------
    folder : LabFolder
        The lab's state.
    engine : Engine
        What runs the node's container.
    kind : Kind
        The program that makes clusters.
    """

    def __init__(self, folder: LabFolder, engine: Engine, kind: Kind) -> None:
        self.name = kind_cluster(folder.name)
        self.node = kind_node(folder.name)
        self.engine = engine
        self.kind = kind
        self._folder = folder

    def state(self) -> str:
        """Return ``running``, ``stopped`` or ``absent``: what the engine says of the node's container.

        Raises
        ------
        ClusterError
            If the engine does not answer.
        """
        answer = self.engine.run(
            "ps", "--all", "--filter", f"label={CLUSTER_LABEL}={self.name}", "--format", "{{.State}}",
            what=f"asking {self.engine.name} for cluster {self.name}",
        )  # fmt: skip
        states = {line.strip().lower() for line in answer.splitlines() if line.strip()}
        if not states:
            return ABSENT
        return RUNNING if states == {"running"} else STOPPED

    def create(self, config: LabConfig, *, node_image: str) -> None:
        """Make the cluster; its kubeconfig is written last, so where there is one the cluster was finished.

        Raises
        ------
        ClusterError
            If kind fails; it removes what it made.
        """
        write_whole(self._folder.kind_file, yaml.safe_dump(configuration(config, node_image=node_image)))
        self._run_kind("create", "cluster", "--config", str(self._folder.kind_file), what=f"creating {self.name}")

    def start(self) -> None:
        """Start the node's container again."""
        self.engine.run("start", self.node, what=f"starting {self.node}", timeout_seconds=START_SECONDS)

    def containers(self) -> set[str]:
        """Return the ids of the containers that run on the node."""
        command = ("exec", self.node, "ctr", "--namespace", "k8s.io", "tasks", "list", "--quiet")
        return set(self.engine.run(*command, what=f"asking {self.node} for its containers").split())

    def delete(self) -> None:
        """Remove the cluster, whatever there is of it."""
        self._run_kind("delete", "cluster", "--name", self.name, what=f"removing {self.name}")

    def _run_kind(self, *arguments: str, what: str) -> None:
        """Run kind with its output in the lab's log, out of reach of a Ctrl-C in the terminal.

        Whoever interrupts waits until kind has ended: half a command leaves more behind than a whole one.
        """
        command = [str(self.kind.program), *arguments, "--kubeconfig", str(self._folder.kubeconfig)]
        log_file = self._folder.kind_log
        log_file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with log_file.open("ab") as log:
            begin = log.tell()
            process = subprocess.Popen(
                command,
                env=self._environment(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                cwd="/",
            )
            try:
                exit_code = process.wait()
            except BaseException:
                _end(process, at_once=arguments[0] == "create")
                raise
        if exit_code:
            with log_file.open("rb") as written:
                written.seek(begin)
                said = written.read().decode(errors="replace")
            raise ClusterError(f"{what} failed: {_reason(said)}; all that kind said: {log_file}")

    def _environment(self) -> Mapping[str, str]:
        # Without a terminal kind prints no colours; its own kubeconfig option stands above the user's.
        return {**os.environ, **self.engine.environment()}


def _end(process: subprocess.Popen[bytes], *, at_once: bool) -> None:
    """End kind and what it started, or let it end what it does."""
    if at_once:
        os.killpg(process.pid, signal.SIGTERM)
    try:
        process.wait(STOP_SECONDS if at_once else DELETE_SECONDS)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _reason(said: str) -> str:
    """Return the line of kind's output that says what went wrong."""
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    errors = [line.removeprefix("ERROR: ") for line in lines if line.startswith("ERROR: ")]
    details = [line for line in lines if line.startswith("Command Output: ")]
    words = [*errors[:1], *(line.removeprefix("Command Output: ") for line in details[:1])]
    return ": ".join(words) or (lines[-1] if lines else "it said nothing")
