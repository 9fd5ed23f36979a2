"""The backend ``local``: real components as host processes under one supervisor.

``up`` makes a lab or repairs it: what is there and well stays, what is missing or dead comes back. ``down`` leaves
nothing but the logs.
"""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from labkit.clock import wait_until
from labkit.cluster import controlplane, machine, manifests, readiness, supervisor, tools
from labkit.cluster.change import (
    changing,
    check_room,
    known_record,
    lack_of_room,
    link_programs,
    new_record,
    remove,
    state_errors,
)
from labkit.cluster.component import Component, Lock, SupervisorState, read_state, write_components
from labkit.cluster.config import LabConfig, LabFolder, LabRecord
from labkit.cluster.pki import Authority, Pair
from labkit.cluster.ports import check_free, is_free, lab_ports
from labkit.cluster.readiness import log_tail
from labkit.cluster.running import RunningLab
from labkit.cluster.supervisor import LOG_FILE, is_open
from labkit.errors import ComponentError, LabError, NotReadyError

logger = logging.getLogger(__name__)

Say = Callable[[str], None]

API_SECONDS: Final = 60.0
READY_SECONDS: Final = 120.0
APPLY_SECONDS: Final = 60.0
DOWN_SECONDS: Final = 15.0
PORTS_SECONDS: Final = 5.0
TOO_MANY_RESTARTS: Final = 4
"""A component that died that often during ``up`` will not come up."""


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
    ToolError, ClusterError, ComponentError, NotReadyError
        If it cannot be brought up. A new lab whose API server never answered, or that was interrupted, is taken
        down again and its logs stay; otherwise the lab stays as it is, for a look and for another ``up``.
    """
    folder = LabFolder(config.name)
    with state_errors(folder):
        folder.path.mkdir(mode=0o700, parents=True, exist_ok=True)
    with state_errors(folder), changing(folder):
        new = not folder.exists
        record = new_record(folder, config) if new else known_record(folder, config)
        tools.require(config.tools)
        if not _supervisor_lock(folder).held_by_somebody:
            machine.require_private_mount()
            _check_ports(config.address, patience_seconds=0.0 if new else PORTS_SECONDS)
        try:
            if new:
                check_room(folder)
                remove((*(path for path in folder.passing if path != folder.supervisor_lock), folder.logs))
                controlplane.write_identities(folder, config.address)
                folder.write_record(record)
            link_programs(folder, tools.locate(config.tools))
            objects = _objects(folder, record)
            lab = _start(folder, record, say=say)
            try:
                _furnish(lab, objects, say=say, wait=wait, timeout_seconds=timeout_seconds)
            except LabError:
                new = False
                raise
        except BaseException:
            if new:
                _take_down(folder)
            raise
        return lab


def _start(folder: LabFolder, record: LabRecord, *, say: Say) -> RunningLab:
    """Start what does not run; return when the API server answers."""
    for path in (folder.logs, folder.logs / "pods", folder.hostnode, folder.etcd):
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
    controlplane.write_configuration(folder, record)
    components = controlplane.components(folder, record)
    write_components(folder.components_file, components)
    if not _supervisor_lock(folder).held_by_somebody:
        say(f"starting the control plane at {record.config.address}")
        _start_supervisor(folder)
    lab = RunningLab(record, folder)
    _ = lab.kube  # loading the client takes as long as the API server's start
    _wait_for_api(folder, components)
    return lab


def _objects(folder: LabFolder, record: LabRecord) -> list[manifests.Object]:
    authority = Authority(Pair.read(folder.pki, controlplane.CLUSTER_CA))
    return manifests.for_local_lab(manifests.load(), record.config, epoch=record.epoch, authority=authority)


def _furnish(
    lab: RunningLab, objects: Sequence[manifests.Object], *, say: Say, wait: bool, timeout_seconds: float
) -> None:
    """Apply the manifests and wait for what they describe."""
    say("applying manifests")
    applied = manifests.AppliedObjects(lab.folder.applied_file)
    manifests.apply(lab.kube, objects, applied=applied, timeout_seconds=APPLY_SECONDS, say=logger.info)
    if wait:
        say("waiting for the add-ons")
        wait_ready(lab, objects, timeout_seconds=timeout_seconds)


def down(name: str, *, say: Say = logger.info) -> bool:
    """Take a lab down; its logs stay until it is brought up again.

    Returns
    -------
    bool
        Whether there was anything to take down.
    """
    folder = LabFolder(name)
    if not folder.path.is_dir():
        return False
    with state_errors(folder), changing(folder):
        there = folder.exists or _supervisor_lock(folder).held_by_somebody
        if there:
            say(f"taking lab {name} down")
        _take_down(folder)
        return there


# --- steps of up -----------------------------------------------------------------------------------------


def _check_ports(address: str, *, patience_seconds: float) -> None:
    """Check that the lab can have its ports; those of a lab that has only just died get free within a moment."""
    ports = lab_ports()
    try:
        wait_until(
            lambda: all(is_free(address, port) for port in ports.values()),
            timeout_seconds=patience_seconds,
            what="free ports",
        )
    except NotReadyError:
        check_free(address, ports)


def _start_supervisor(folder: LabFolder) -> None:
    folder.status_file.unlink(missing_ok=True)
    with (folder.logs / LOG_FILE).open("ab") as log:
        done = subprocess.run(
            [sys.executable, "-m", supervisor.__name__, folder.name, "--detach"],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            cwd="/",
            check=False,
        )
    if done.returncode:
        raise _supervisor_ended(folder, done.returncode)


def _supervisor_ended(folder: LabFolder, exit_code: int | None = None) -> ComponentError:
    tail = log_tail(folder.logs / LOG_FILE)
    return ComponentError(
        f"wanted the supervisor of lab {folder.name!r} running, found it ended{lack_of_room(folder)}; "
        f"last log lines:\n{tail}",
        component=supervisor.NAME,
        exit_code=exit_code,
        log_tail=tail,
    )


def _wait_for_api(folder: LabFolder, components: Sequence[Component]) -> None:
    gates = {component.name: component.gate for component in components}
    gate = gates[controlplane.API_SERVER]
    before = read_state(folder.status_file)

    def answers() -> bool:
        _check_components(folder, (controlplane.ETCD, controlplane.API_SERVER), before=before)
        return gate is not None and is_open(gate)

    wait_until(
        answers,
        timeout_seconds=API_SECONDS,
        what="the API server",
        found=lambda: f"{log_tail(folder.logs / f'{controlplane.API_SERVER}.log')}{lack_of_room(folder)}",
    )


def _check_components(folder: LabFolder, names: Sequence[str], *, before: SupervisorState | None) -> None:
    """Raise if one of these components keeps dying, or nobody is there to start them.

    Parameters
    ----------
    folder : LabFolder
        The lab.
    names : sequence of str
        The components.
    before : SupervisorState, optional
        As it was when the waiting began: what died earlier does not count.
    """
    if not _supervisor_lock(folder).held_by_somebody:
        raise _supervisor_ended(folder)
    state = read_state(folder.status_file)
    for name in names:
        process = state.components.get(name) if state else None
        if process is None or process.state != "backing-off":
            continue
        known = before.components.get(name) if before else None
        if process.restarts - (known.restarts if known else 0) >= TOO_MANY_RESTARTS:
            tail = log_tail(folder.logs / f"{name}.log")
            raise ComponentError(
                f"wanted {name} running, found it ended with {process.exit_code} {process.restarts} times"
                f"{lack_of_room(folder)}; last log lines:\n{tail}",
                component=name,
                exit_code=process.exit_code,
                log_tail=tail,
            )


def wait_ready(lab: RunningLab, objects: Sequence[manifests.Object], *, timeout_seconds: float) -> None:
    """Wait until every node is Ready and every Deployment among the objects is available.

    Raises
    ------
    NotReadyError
        If that did not happen in time; says what is missing and why.
    ComponentError
        If a process of the control plane keeps dying.
    """
    before = read_state(lab.folder.status_file)
    components = tuple(before.components) if before else ()
    readiness.wait_ready(
        lab,
        objects,
        timeout_seconds=timeout_seconds,
        check=lambda: _check_components(lab.folder, components, before=before),
    )


# --- down ------------------------------------------------------------------------------------------------


def _take_down(folder: LabFolder) -> None:
    lock = _supervisor_lock(folder)
    if lock.held_by_somebody:
        _signal_supervisor(folder, signal.SIGTERM)
        try:
            wait_until(lambda: not lock.held_by_somebody, timeout_seconds=DOWN_SECONDS, what="the supervisor to end")
        except NotReadyError:
            _signal_supervisor(folder, signal.SIGKILL)  # its children die with it
            wait_until(lambda: not lock.held_by_somebody, timeout_seconds=2.0, what="the supervisor to be killed")
    remove(folder.passing)


def _signal_supervisor(folder: LabFolder, number: signal.Signals) -> None:
    """Signal the supervisor: whoever of that name has the lock, for its state may be too new or find no room."""
    for pid in _supervisor_lock(folder).users():
        try:
            if supervisor.__name__.encode() in Path("/proc", str(pid), "cmdline").read_bytes().split(b"\0"):
                os.kill(pid, number)
        except (FileNotFoundError, ProcessLookupError):
            logger.debug("process %d is gone already", pid)


def is_running(folder: LabFolder) -> bool:
    """Return whether the lab's supervisor lives."""
    return _supervisor_lock(folder).held_by_somebody


def _supervisor_lock(folder: LabFolder) -> Lock:
    return Lock(folder.supervisor_lock)


def supervisor_state(folder: LabFolder) -> SupervisorState | None:
    """Return what the lab's supervisor knows; None if none runs, or it has written nothing yet."""
    return read_state(folder.status_file) if _supervisor_lock(folder).held_by_somebody else None
