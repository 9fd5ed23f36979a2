"""A lab that is up, as everybody uses it."""

from __future__ import annotations

import os
import subprocess
from functools import cached_property
from typing import Final

from labkit.clock import LabTime
from labkit.cluster.config import DEFAULT_NAME, LabFolder, LabRecord
from labkit.cluster.controlplane import server_url
from labkit.errors import ClusterError
from labkit.kube import Kube
from labkit.names import HOST_NODE, KIND_CLUSTER

KUBECTL_SECONDS: Final = 60.0


def kind_cluster(name: str) -> str:
    """Return the name of a lab's cluster on backend ``kind``: for the lab of no other name the quickstart's."""
    return KIND_CLUSTER if name == DEFAULT_NAME else f"labkit-{name}"


def kind_node(name: str) -> str:
    """Return the only real node of a lab's cluster on backend ``kind``, which is a container of the same name."""
    return f"{kind_cluster(name)}-control-plane"


class RunningLab:
    """One lab: where it listens, its API server, its tools.

    Parameters
    ----------
    record : LabRecord
        What ``up`` wrote down.
    folder : LabFolder
        Where its state is.
    """

    def __init__(self, record: LabRecord, folder: LabFolder) -> None:
        self.record = record
        self.folder = folder

    @property
    def name(self) -> str:
        """Return its name."""
        return self.record.config.name

    @property
    def backend(self) -> str:
        """Return ``local`` or ``kind``."""
        return self.record.config.backend

    @property
    def address(self) -> str:
        """Return the loopback address on which everything of it listens."""
        return self.record.config.address

    @property
    def tempo(self) -> int:
        """Return the lab seconds that pass in each wall second."""
        return self.record.config.tempo

    @property
    def time(self) -> LabTime:
        """Return the conversion between wall time and lab time."""
        return LabTime(self.record.epoch, self.tempo)

    @property
    def addon_node(self) -> str:
        """Return the node that carries the add-ons' pods."""
        return HOST_NODE if self.backend == "local" else kind_node(self.name)

    def url(self, port: int) -> str:
        """Return the HTTP URL of one of its ports, such as ``lab.url(PROMETHEUS_PORT)``."""
        return f"http://{self.address}:{port}"

    @cached_property
    def kube(self) -> Kube:
        """Return the administrator's door to its API server.

        Raises
        ------
        ClusterError
            If its kubeconfig leads to another server.
        """
        kube = Kube.from_kubeconfig(self.folder.kubeconfig)
        wanted = server_url(self.address)
        if kube.server != wanted:
            raise ClusterError(
                f"wanted the API server of lab {self.name!r} at {wanted}, found {kube.server} in "
                f"{self.folder.kubeconfig}: bring the lab up anew with 'labkit down' and 'labkit up'"
            )
        return kube

    @property
    def variables(self) -> dict[str, str]:
        """Return what ``kubectl`` and the other tools need: ``KUBECONFIG`` and a ``PATH`` with the tools first."""
        path = os.pathsep.join((str(self.folder.bin), os.environ.get("PATH", os.defpath)))
        variables = {"KUBECONFIG": str(self.folder.kubeconfig), "PATH": path, "LABKIT_NAME": self.name}
        if self.record.engine:
            variables["KIND_EXPERIMENTAL_PROVIDER"] = self.record.engine  # for 'kind delete cluster' and the like
        return variables

    @property
    def environment(self) -> dict[str, str]:
        """Return this process' environment with :attr:`variables` in it, for programs that use the lab."""
        return {**os.environ, **self.variables}

    def kubectl(
        self, *arguments: str, timeout_seconds: float = KUBECTL_SECONDS, stdin: str | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run kubectl against this lab; the answer holds its exit code, output and errors."""
        return subprocess.run(
            [str(self.folder.bin / "kubectl"), *arguments],
            env=self.environment,
            input=stdin,
            capture_output=True,
            text=True,
            timeout=timeout_seconds,
            check=False,
        )
