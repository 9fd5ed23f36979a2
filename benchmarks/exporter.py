"""The exporter at the size to hold: 1,000 nodes and 20,000 VMs, fed through the stores that follow the API server.

An API server that answers from memory stands behind the same stores, subscriptions and WSGI application as in the
service; its objects are JSON text until a store reads them. What stays out is the sockets.
"""

from __future__ import annotations

import gc
import multiprocessing
import queue
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import orjson
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from benchmarks._objects import REST_OF_SPEC, REST_OF_STATUS, identity, node
from benchmarks._rows import Row, timed
from labkit.clock import LabTime, VirtualClock
from labkit.kube import CONFIG_MAPS, NODES, PAGE, PODS, VIRTUAL_MACHINES, Resource
from labkit.load import curve_json, parse_curve
from labkit.units import GIB
from services.exporter.__main__ import mirror
from services.exporter.app import create_app
from services.exporter.counters import CounterFile
from services.exporter.logic import Fleet
from services.exporter.metrics import METRICS

TITLE = "exporter, 1,000 nodes and 20,000 VMs"
N_NODES, N_VMS = 1_000, 20_000
TEMPO = 15
EPOCH = 1_000_000.0


def measure() -> list[Row]:
    """Measure start, scrape, load step, changes and memory, with constant loads and with curves that always change.

    Each in a process of its own: memory that one has given back would be the other's for nothing.
    """
    with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("spawn"), max_tasks_per_child=1) as pool:
        return [
            *pool.submit(_measure, "constant", curves=False).result(),
            *pool.submit(_measure, "random walk", curves=True).result(),
            pool.submit(_compare).result(),
        ]


def _measure(loads: str, *, curves: bool) -> list[Row]:
    clock = VirtualClock(EPOCH)
    fleet = Fleet(LabTime(EPOCH, TEMPO))
    server = _ApiServer(
        {
            CONFIG_MAPS: [],
            NODES: [node(number) for number in range(N_NODES)],
            VIRTUAL_MACHINES: [_vm(number) for number in range(N_VMS)],
            PODS: [_pod(number, number % N_NODES, curves=curves) for number in range(N_VMS)],
        }
    )
    gc.collect()
    before = _resident_bytes()
    begin = time.perf_counter()
    stores = mirror(fleet, server, clock=clock)  # type: ignore[arg-type]
    for store in stores:
        store.wait_synced()
    fleet.begin(clock.now())
    start = Row(f"start to first scrape, {loads} loads", (time.perf_counter() - begin,))
    gc.collect()
    mebibytes = (_resident_bytes() - before) / 2**20
    folder = tempfile.TemporaryDirectory()
    counter_file = CounterFile(Path(folder.name) / "counters.json")
    client = create_app(fleet, clock=clock, counter_file=counter_file).test_client()

    def scrape() -> None:
        clock.wait(0.4)
        assert len(client.get("/metrics").data) > N_NODES

    def step() -> None:
        clock.wait(1.0)
        fleet.advance(clock.now())

    moved = [0]

    def migrate() -> None:
        for _ in range(100):
            moved[0] += 1
            clock.wait(0.001)
            server.send(PODS, _pod(moved[0], (moved[0] + 1) % N_NODES, curves=curves))
        server.wait_read(PODS)

    rows = [
        start,
        timed(f"scrape of all node series, {loads} loads", scrape, repeats=20, goal=0.010),
        timed(f"load step of all VMs, {loads} loads", step, repeats=20),
        timed(f"100 VMs moved, {loads} loads", migrate, repeats=5),
        Row(f"memory of state and mirrors, {loads} loads", (mebibytes,), unit="MiB"),
    ]
    for store in stores:
        store.stop()
    server.close()
    folder.cleanup()
    return rows


def _compare() -> Row:
    """Time the same number of samples written by prometheus_client, which the exporter does without."""
    metrics = [f"node_metric_{number}" for number in range(sum(len(metric.series_labels()) for metric in METRICS))]

    class Nodes(Collector):
        def collect(self) -> Iterator[GaugeMetricFamily]:
            for name in metrics:
                family = GaugeMetricFamily(name, "help", labels=("instance", "node"))
                for number in range(N_NODES):
                    family.add_metric((f"kwok-node-{number}", f"kwok-node-{number}"), number / 7)
                yield family

    registry = CollectorRegistry()
    registry.register(Nodes())
    return timed("as many samples written by prometheus_client", lambda: generate_latest(registry))


class _ApiServer:
    """Answers lists and watches from memory, in the JSON text that a server would send."""

    def __init__(self, objects: dict[Resource, list[dict[str, Any]]]) -> None:
        self._lists = {
            resource: [
                orjson.dumps(
                    {
                        "kind": "List",
                        "apiVersion": resource.api_version,
                        "metadata": {"resourceVersion": "1"},
                        "items": items[start : start + PAGE],
                    }
                )
                for start in range(0, len(items) or 1, PAGE)
            ]
            for resource, items in objects.items()
        }
        self._events: dict[Resource, queue.Queue[bytes | None]] = {resource: queue.Queue() for resource in objects}

    def pages(self, resource: Resource, *_: Any, **__: Any) -> Iterator[dict[str, Any]]:
        for text in self._lists.pop(resource):
            yield orjson.loads(text)

    def watch(self, resource: Resource, *_: Any, **__: Any) -> Iterator[tuple[str, dict[str, Any]]]:
        events = self._events[resource]
        while (line := events.get()) is not None:
            event = orjson.loads(line)
            yield event["type"], event["object"]
            events.task_done()

    def send(self, resource: Resource, obj: dict[str, Any]) -> None:
        self._events[resource].put(orjson.dumps({"type": "MODIFIED", "object": obj}))

    def wait_read(self, resource: Resource) -> None:
        self._events[resource].join()

    def close(self) -> None:
        for events in self._events.values():
            events.put(None)


def _vm(number: int) -> dict[str, Any]:
    return {
        "metadata": {"name": f"vm-{number}", "namespace": "default", **identity(f"vm-{number}")},
        "status": {"podName": f"virt-launcher-vm-{number}-abcde"},
    }


def _pod(number: int, node: int, *, curves: bool) -> dict[str, Any]:
    prefix = "simulation.node-classifier.io/vm-"
    annotations = {
        f"{prefix}cpu-cores": "4.0",
        f"{prefix}memory-bytes": str(16 * GIB),
        f"{prefix}cpu-utilization": str(0.05 + number % 90 / 100),
        f"{prefix}memory-utilization": "0.7",
    }
    if curves:
        walk = {"kind": "random_walk", "mean": 0.5, "amplitude": 0.4, "period": "10m"}
        annotations[f"{prefix}load"] = curve_json(parse_curve({"cpu": walk, "memory": 0.7}), number)
    return {
        "metadata": {
            "name": f"virt-launcher-vm-{number}-abcde",
            "namespace": "default",
            "labels": {"kubevirt.io/domain": f"vm-{number}", "kubevirt.io/created-by": f"uid-vm-{number}"},
            "annotations": annotations,
            **identity(f"pod-{number}"),
        },
        "spec": {"nodeName": f"kwok-node-{node}", **REST_OF_SPEC},
        "status": {"phase": "Running", **REST_OF_STATUS},
    }


def _resident_bytes() -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    return 0
