"""Memory of the services that follow VMs, at the size to hold: 1,000 nodes and 20,000 VMs.

Each service is the process that a pod runs, with its own entry point; only its door to Kubernetes leads to an API
server in memory, which answers its lists and watches over HTTP. The cluster is settled: a service that writes anything
makes the benchmark fail. What is told is the resident memory when the service has become idle, and its peak so far.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import urlopen

import orjson

from benchmarks._apiserver import SettledApiServer
from benchmarks._objects import identity, machine, node
from benchmarks._rows import Row
from labkit.clock import WALL_CLOCK, wait_until
from labkit.errors import ComponentError
from labkit.kube import CONFIG_MAPS, NODES, PODS, VIRTUAL_MACHINES, Resource
from labkit.names import (
    EPOCH_KEY,
    EXPORTER_PORT,
    LAB_CONFIG_MAP,
    LISTEN_ADDRESS_KEY,
    POD_MANAGER_PORT,
    SCENARIO_CONTROLLER_PORT,
    TEMPO_KEY,
    VM_CONTROLLER_PORT,
)

TITLE = "memory of each service, 1,000 nodes and 20,000 VMs"
N_NODES, N_VMS = 1_000, 20_000
ADDRESS = "127.0.9.1"
SERVICES = {
    "exporter": (EXPORTER_PORT, "/healthz"),
    "vm_controller": (VM_CONTROLLER_PORT, "/healthz"),
    "pod_manager": (POD_MANAGER_PORT, "/healthz"),
    "scenario_controller": (SCENARIO_CONTROLLER_PORT, "/healthz"),
}
READY_SECONDS = 300.0
IDLE_LOOKS, IDLE_SHARE = 3, 0.2
"""A service is idle when it used less than that share of a processor in so many seconds in a row."""
SETTINGS = {EPOCH_KEY: "1000000.0", TEMPO_KEY: "15"}

_RUN = """
import runpy, sys
from labkit.kube import Kube
server, module = sys.argv[1:3]
Kube.from_environment = Kube.in_cluster = staticmethod(lambda: Kube(server))
sys.argv = [module, *sys.argv[3:]]
runpy.run_module(module, run_name="__main__", alter_sys=True)
"""


def measure() -> list[Row]:
    """Run one service after another."""
    with SettledApiServer(_cluster()) as server:
        rows = [row for name in SERVICES for row in _run(name, server.url)]
        if server.writes:
            raise ComponentError(f"wanted a settled cluster, found {len(server.writes)} writes: {server.writes[0]}")
    return rows


def _cluster() -> dict[Resource, list[bytes]]:
    pairs = [machine(number, f"kwok-node-{number % N_NODES}") for number in range(N_VMS)]
    config = {"metadata": {"name": LAB_CONFIG_MAP, "namespace": "monitoring", **identity("lab")}, "data": SETTINGS}
    return {
        NODES: [orjson.dumps(node(number)) for number in range(N_NODES)],
        VIRTUAL_MACHINES: [orjson.dumps(vm) for vm, _ in pairs],
        PODS: [orjson.dumps(pod) for _, pod in pairs],
        CONFIG_MAPS: [orjson.dumps(config)],
    }


def _run(name: str, server: str) -> list[Row]:
    port, page = SERVICES[name]
    with tempfile.TemporaryDirectory() as folder:
        options = ["--counters", f"{folder}/counters.json"] if name == "exporter" else []
        command = [sys.executable, "-c", _RUN, server, f"services.{name}", *options]
        log = Path(folder) / "log"
        with log.open("wb") as out:
            process = subprocess.Popen(
                command, env=os.environ | SETTINGS | {LISTEN_ADDRESS_KEY: ADDRESS}, stdout=out, stderr=out
            )
        try:
            wait_until(
                lambda: process.poll() is not None or _answers(f"http://{ADDRESS}:{port}{page}"),
                timeout_seconds=READY_SECONDS,
                poll_seconds=0.2,
                what=f"{name} to be ready",
            )
            if process.poll() is not None:
                raise ComponentError(f"{name} ended: {log.read_text().strip()[-500:]}")
            ready = _processor_seconds(process.pid)
            _wait_idle(process.pid, name)
            memory = _memory_mebibytes(process.pid)
        finally:
            process.kill()
            process.wait()
    label = name.replace("_", "-")
    return [
        Row(f"{label}, idle", (memory["VmRSS"],), unit="MiB"),
        Row(f"{label}, peak", (memory["VmHWM"],), unit="MiB"),
        Row(f"{label}, processor time to ready", (ready,)),
    ]


def _answers(url: str) -> bool:
    try:
        with urlopen(url, timeout=5) as answer:
            return bool(answer.status == 200)
    except (HTTPError, OSError):
        return False


def _wait_idle(pid: int, name: str) -> None:
    looks = [0, 0.0, 0.0]  # idle looks in a row, when and how much processor time at the last one

    def idle() -> bool:
        now, used = WALL_CLOCK.monotonic(), _processor_seconds(pid)
        looks[0] = looks[0] + 1 if used - looks[2] < IDLE_SHARE * (now - looks[1]) else 0
        looks[1:] = [now, used]
        return looks[0] > IDLE_LOOKS

    wait_until(idle, timeout_seconds=READY_SECONDS, poll_seconds=1.0, what=f"{name} to be idle")


def _processor_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _memory_mebibytes(pid: int) -> dict[str, float]:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    values = {name: text.split() for name, _, text in (line.partition(":") for line in lines)}
    return {name: int(values[name][0]) / 1024 for name in ("VmRSS", "VmHWM")}
