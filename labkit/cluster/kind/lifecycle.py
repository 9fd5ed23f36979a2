"""The backend ``kind``: a lab's life in containers.

``up`` makes the cluster or repairs it: one that was never finished, or is gone, is made anew, a node that was stopped
is started, and what is there and well stays. ``down`` leaves nothing but the logs.
"""

from __future__ import annotations

import logging
import os
import shutil
import socket
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

from labkit.clock import wait_until
from labkit.cluster import manifests, readiness, tools
from labkit.cluster.change import changing, check_room, known_record, link_programs, new_record, remove, state_errors
from labkit.cluster.config import LabConfig, LabFolder, LabRecord
from labkit.cluster.controlplane import kwok_configuration
from labkit.cluster.kind import engine as engines
from labkit.cluster.kind import images, program
from labkit.cluster.kind.cluster import ABSENT, RUNNING, KindCluster
from labkit.cluster.kind.engine import PROVIDER_VARIABLE
from labkit.cluster.kind.settings import NODE_VARIABLE, Settings
from labkit.cluster.pki import Authority, Pair
from labkit.cluster.ports import check_free, lab_ports
from labkit.cluster.running import RunningLab
from labkit.errors import ClusterError, KubeError, LabError, ToolError
from labkit.kube import PODS, Kube
from labkit.names import API_SERVER_PORT

logger = logging.getLogger(__name__)

Say = Callable[[str], None]

API_SECONDS: Final = 120.0
READY_SECONDS: Final = 240.0
APPLY_SECONDS: Final = 120.0
CONNECT_SECONDS: Final = 1.0
WEBHOOK_CA: Final = "webhook-ca"
"""Authority of the webhooks' certificates."""


def up(
    config: LabConfig, *, say: Say = logger.info, wait: bool = True, timeout_seconds: float = READY_SECONDS
) -> RunningLab:
    """Bring a lab up, or repair it.

    Parameters
    ----------
    config : LabConfig
        What is wanted.
    say : callable
        Is told what is being done, one line at a time.
    wait : bool
        Whether to wait for nodes and add-ons to be ready; the API server answers in any case.
    timeout_seconds : float
        How long to wait for everything to be ready.

    Returns
    -------
    RunningLab
        The lab, with every component ready.

    Raises
    ------
    InputError
        If a lab of that name runs with other choices.
    ToolError, ClusterError, NotReadyError
        If it cannot be brought up. A cluster that could not be made, or whose making was interrupted, is removed
        again; otherwise it stays as it is, for a look and for another ``up``.
    """
    folder = LabFolder(config.name)
    with state_errors(folder):
        folder.path.mkdir(mode=0o700, parents=True, exist_ok=True)
    with changing(folder), state_errors(folder):
        known = folder.exists
        record = folder.read_record() if known else new_record(folder, config)
        if record.config.backend != config.backend:
            known_record(folder, config)  # refuses, whether or not there is an engine
        cluster = _cluster(folder, record, say=say)
        new = _is_to_be_made(folder, cluster, known=known, say=say)
        if known:
            record = new_record(folder, config) if new else known_record(folder, config)
        record = replace(record, engine=cluster.engine.name)
        settings = Settings.from_environment()
        if new:
            check_free(config.address, lab_ports("kind"))
            check_room(folder)
        try:
            names = _prepare(folder, record, cluster, settings, new=new, say=say)
            lab = _start(folder, record, cluster, settings, new=new, say=say)
            images.load(cluster.engine, cluster.kind, cluster.name, names.values(), say=say)
            try:
                _furnish(lab, cluster, names, say=say, wait=wait, timeout_seconds=timeout_seconds)
            except LabError:
                new = False
                raise
        except BaseException:
            if new:
                _take_down(folder, cluster)
            raise
        return lab


def down(name: str, *, say: Say = logger.info) -> bool:
    """Remove a lab's cluster; its logs stay until it is brought up again.

    Returns
    -------
    bool
        Whether there was anything to take down.

    Raises
    ------
    ClusterError, ToolError
        If the engine or kind cannot be used any more: the lab's state stays then.
    """
    folder = LabFolder(name)
    if not folder.path.is_dir():
        return False
    with changing(folder), state_errors(folder):
        there = folder.exists or folder.kind_file.exists()
        if there:
            try:
                cluster = _cluster(folder, _record_if_readable(folder), say=say)
            except ToolError as exc:
                raise ToolError(f"{exc}; if the cluster is gone with its engine, remove {folder.path}") from exc
            say(f"removing cluster {cluster.name}")
            _take_down(folder, cluster)
        return there


def forget_deleted(folder: LabFolder, *, say: Say = logger.info) -> None:
    """Remove the state of a lab whose cluster was deleted by kind's own command; nothing is done to any other."""
    with changing(folder), state_errors(folder):
        try:
            cluster = _cluster(folder, _record_if_readable(folder), say=say)
            # One that runs and is not there runs in an engine at another address.
            gone = cluster.state() == ABSENT and not is_running(folder)
        except LabError as error:
            logger.info("%s", error)
            return
        if gone:
            _take_down(folder, cluster)


def is_running(folder: LabFolder) -> bool:
    """Return whether a lab's node runs: its port is open for as long as its container lives."""
    if not folder.kubeconfig.is_file():
        return False
    address = folder.read_record().config.address
    try:
        with socket.create_connection((address, API_SERVER_PORT), timeout=CONNECT_SECONDS):
            return True
    except OSError:
        return False


# --- steps of up -----------------------------------------------------------------------------------------


def _cluster(folder: LabFolder, record: LabRecord | None, *, say: Say) -> KindCluster:
    """Find engine and kind; a lab stays with the engine that it was brought up in."""
    environ = dict(os.environ)
    if record is not None and record.engine:
        environ[PROVIDER_VARIABLE] = record.engine
    engine = engines.find(environ)
    return KindCluster(folder, engine, program.find(say=say))


def _is_to_be_made(folder: LabFolder, cluster: KindCluster, *, known: bool, say: Say) -> bool:
    """Return whether the cluster is to be made, after removing one that cannot be used.

    A lab whose cluster was deleted by kind's own command, or was never finished, is forgotten with all its choices.

    Raises
    ------
    ClusterError
        If a cluster of that name belongs to somebody else.
    """
    state = cluster.state()
    if not known:
        if state != ABSENT:
            raise ClusterError(
                f"wanted to make cluster {cluster.name}, found one that this lab did not make: remove it with 'kind "
                f"delete cluster --name {cluster.name}', or choose another lab name with --name"
            )
        return True
    if state != ABSENT and folder.kubeconfig.is_file():
        return False
    say(f"cluster {cluster.name} {'is gone' if state == ABSENT else 'was never finished'}: making it anew")
    _take_down(folder, cluster)
    return True


def _prepare(
    folder: LabFolder, record: LabRecord, cluster: KindCluster, settings: Settings, *, new: bool, say: Say
) -> dict[str, str]:
    """Gather what a cluster needs before there is one; return the names of its images."""
    config = record.config
    if new:
        remove((*folder.passing, folder.logs))
        # From here on a cluster of that name is ours.
        folder.write_record(record)
    found = tools.locate(config.tools)
    kubectl = found.get("kubectl") or _on_path("kubectl")
    link_programs(folder, {**found, "kubectl": kubectl, "kind": cluster.kind.program})
    names = images.ensure(cluster.engine, config, say=say, settings=settings)
    if new:
        images.pull(cluster.engine, settings.node, variable=NODE_VARIABLE, say=say)
        folder.pki.mkdir(mode=0o700, parents=True, exist_ok=True)
        Authority.new(f"labkit-{folder.name}").pair.write(folder.pki, WEBHOOK_CA)
    return names


def _on_path(name: str) -> Path:
    found = shutil.which(name)
    if found is None:
        raise ToolError(f"wanted the tool {name}, found none: build it with 'labkit tools' or put one on PATH")
    return Path(found)


def _start(
    folder: LabFolder, record: LabRecord, cluster: KindCluster, settings: Settings, *, new: bool, say: Say
) -> RunningLab:
    """Make the cluster, or start its node; return when the API server answers."""
    if new:
        say(f"creating cluster {cluster.name} with {cluster.engine.name} at {record.config.address}")
        cluster.create(record.config, node_image=settings.node)
    elif cluster.state() != RUNNING:
        check_free(record.config.address, lab_ports("kind"))
        say(f"starting node {cluster.node}")
        cluster.start()
    lab = RunningLab(record, folder)
    _wait_for_api(lab.kube)
    return lab


def _wait_for_api(kube: Kube) -> None:
    last: list[KubeError] = []

    def answers() -> bool:
        try:
            kube.raw("GET", "/readyz", timeout_seconds=CONNECT_SECONDS)
        except KubeError as error:
            last[:] = [error]
            return False
        return True

    wait_until(
        answers, timeout_seconds=API_SECONDS, what="the API server", poll_seconds=0.3, found=lambda: str(last[0])
    )


def _furnish(
    lab: RunningLab, cluster: KindCluster, names: dict[str, str], *, say: Say, wait: bool, timeout_seconds: float
) -> None:
    """Apply the manifests and wait for what they describe."""
    say("applying manifests")
    objects = _objects(lab, names)
    applied = manifests.AppliedObjects(lab.folder.applied_file)
    manifests.apply(lab.kube, objects, applied=applied, timeout_seconds=APPLY_SECONDS, say=logger.info)
    if wait:
        say("waiting for the add-ons")
        _wait_for_true_status(lab, cluster, timeout_seconds=timeout_seconds)
        readiness.wait_ready(lab, objects, timeout_seconds=timeout_seconds)


def _wait_for_true_status(lab: RunningLab, cluster: KindCluster, *, timeout_seconds: float) -> None:
    """Wait until no pod is said to run in a container that the node no longer has.

    A node that was killed and started again is well for its API server until its kubelet has looked at each pod.
    """
    outdated: list[str] = []

    def is_true() -> bool:
        there = cluster.containers()
        try:
            pods = lab.kube.list(PODS, field_selector=f"spec.nodeName={lab.addon_node}")["items"]
        except KubeError as error:
            if not error.may_pass:
                raise
            outdated[:] = [f"API server ({error})"]
            return False
        outdated[:] = [pod["metadata"]["name"] for pod in pods if not _said_to_run(pod) <= there]
        return not outdated

    wait_until(
        is_true,
        timeout_seconds=timeout_seconds,
        what="the node to tell how its pods are",
        poll_seconds=1.0,
        found=lambda: f"not told yet: {', '.join(outdated)}",
    )


def _said_to_run(pod: manifests.Object) -> set[str]:
    """Return the ids of the containers that run, as a pod's status says."""
    entries = pod.get("status", {}).get("containerStatuses") or ()
    return {entry["containerID"].rpartition("/")[2] for entry in entries if "running" in entry.get("state", {})}


def _objects(lab: RunningLab, names: dict[str, str]) -> Sequence[manifests.Object]:
    return manifests.for_kind_lab(
        manifests.load("kind"),
        lab.record.config,
        epoch=lab.record.epoch,
        authority=Authority(Pair.read(lab.folder.pki, WEBHOOK_CA)),
        images=names,
        kwok_configuration=kwok_configuration(),
    )


# --- down ------------------------------------------------------------------------------------------------


def _take_down(folder: LabFolder, cluster: KindCluster) -> None:
    cluster.delete()
    remove(folder.passing)


def _record_if_readable(folder: LabFolder) -> LabRecord | None:
    """Return the lab's record; one that is damaged is no reason to leave a cluster behind."""
    try:
        return folder.read_record()
    except ClusterError as error:
        logger.info("%s", error)
        return None
