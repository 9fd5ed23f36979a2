"""Killing what a lab runs: host processes on ``local``, processes within the node's container on ``kind``."""

from __future__ import annotations

import os
import signal
from pathlib import Path

from labkit import cluster
from labkit.cluster import RunningLab
from labkit.cluster.kind import engine
from labkit.cluster.kind.engine import PROVIDER_VARIABLE
from labkit.cluster.local import supervisor_state


def components(lab: RunningLab) -> tuple[str, ...]:
    """Return the parts of the control plane, those last on which most depends."""
    own = ("kube-scheduler", "kwok", "kube-controller-manager", "etcd", "kube-apiserver")
    return own if lab.backend == "kind" else (*own[:3], "host-node-agent", *own[3:])


def kill_component(lab: RunningLab, component: str) -> None:
    """End a part of the control plane with SIGKILL."""
    signal_component(lab, component, signal.SIGKILL)


def signal_component(lab: RunningLab, component: str, number: signal.Signals) -> None:
    """Send a signal to a part of the control plane."""
    if lab.backend == "kind":
        assert _signal_in_node(lab, f"^{component}( |$)", number) > 0, component
        return
    state = supervisor_state(lab.folder)
    assert state is not None
    pid = state.components[component].pid
    assert pid is not None, component
    os.kill(pid, number)


def restarts(lab: RunningLab, component: str) -> int:
    """Return how often a part of the control plane was started again; -1 while nobody can tell."""
    return next((row.restarts for row in cluster.status(lab.name) if row.component == component), -1)


def kill_addon(lab: RunningLab, words: str) -> int:
    """End the processes of an add-on of this lab whose command line has these words; return how many there were."""
    if lab.backend == "kind":
        return _signal_in_node(lab, words, signal.SIGKILL)
    mark = f"LAB_LISTEN_ADDRESS={lab.address}".encode()
    killed = 0
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            ours = mark in (entry / "environ").read_bytes().split(b"\0")
        except OSError:
            continue
        if ours and words in command and "bwrap" not in command and int(entry.name) != os.getpid():
            os.kill(int(entry.name), signal.SIGKILL)
            killed += 1
    return killed


def in_node(lab: RunningLab, *command: str) -> str:
    """Run a command in the node's container and return what it printed."""
    return node_engine(lab).run("exec", lab.addon_node, *command, what=f"{command[0]} in {lab.addon_node}")


def node_engine(lab: RunningLab) -> engine.Engine:
    """Return the engine that runs the lab's node."""
    return engine.find({**os.environ, PROVIDER_VARIABLE: lab.record.engine})


def _signal_in_node(lab: RunningLab, words: str, number: signal.Signals) -> int:
    pids = in_node(lab, "sh", "-c", f"pgrep -f -- '{words}' | grep -vx $$ || true").split()
    if pids:
        in_node(lab, "sh", "-c", f"kill -{int(number)} {' '.join(pids)} 2>/dev/null || true")
    return len(pids)
