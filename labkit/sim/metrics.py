"""The exporter's metrics, written from what the twin records at a scrape.

Names, labels and meaning are the live exporter's; a test compares the two lists. In the loop only the families that
the chosen query reads are written; all of them can be written afterwards from the record.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from labkit.model import BoolArray, FloatArray
from labkit.promql import Database, LabelTable, Selector

USER_SHARE: Final = 0.6
"""Share of the busy time in mode ``user``; the rest is ``system``."""
EXPORTER_JOB: Final = "metrics-exporter"
EVICTIONS_METRIC: Final = "descheduler_pods_evicted_total"


@dataclass(frozen=True)
class Sample:
    """What a scrape reads; arrays of shape (n_nodes,).

    Parameters
    ----------
    time_seconds : float
        Lab time.
    ready : BoolArray
        Nodes that have series.
    values : FloatArray
        Shape (9, n_nodes), rows in the order of :data:`COLUMNS`.
    memory_bytes : FloatArray
        Capacities.
    """

    time_seconds: float
    ready: BoolArray
    values: FloatArray
    memory_bytes: FloatArray


COLUMNS: Final = (
    "cpu_usage", "cpu_pressure", "memory_usage", "memory_pressure", "vms",
    "busy_seconds", "cpu_waiting_seconds", "memory_waiting_seconds", "up_seconds",
)  # fmt: skip
CPU_USAGE, CPU_PRESSURE, MEMORY_USAGE, MEMORY_PRESSURE, VMS, BUSY, CPU_WAITING, MEMORY_WAITING, UP = range(len(COLUMNS))

Compute = Callable[[Sample], FloatArray]


def _row(number: int) -> Compute:
    return lambda sample: sample.values[number]


def _share_of_busy(share: float) -> Compute:
    return lambda sample: sample.values[BUSY] * share


NODE_METRICS: Final[Mapping[str, Sequence[tuple[Mapping[str, str], Compute]]]] = {
    "node_cpu_usage_ratio": [({}, _row(CPU_USAGE))],
    "node_cpu_pressure_psi": [({}, _row(CPU_PRESSURE))],
    "node_memory_usage_ratio": [({}, _row(MEMORY_USAGE))],
    "node_memory_pressure_psi": [({}, _row(MEMORY_PRESSURE))],
    "node_vm_count": [({}, _row(VMS))],
    "node_cpu_seconds_total": [
        ({"mode": "idle"}, lambda sample: sample.values[UP] - sample.values[BUSY]),
        ({"mode": "user"}, _share_of_busy(USER_SHARE)),
        ({"mode": "system"}, _share_of_busy(1.0 - USER_SHARE)),
    ],
    "node_pressure_cpu_waiting_seconds_total": [({}, _row(CPU_WAITING))],
    "node_pressure_memory_waiting_seconds_total": [({}, _row(MEMORY_WAITING))],
    "node_memory_MemAvailable_bytes": [({}, lambda sample: sample.memory_bytes * (1.0 - sample.values[MEMORY_USAGE]))],
    "kube_node_status_allocatable": [({"resource": "memory", "unit": "byte"}, lambda sample: sample.memory_bytes)],
    "kube_node_role": [({"role": "worker"}, lambda sample: np.ones(len(sample.ready)))],
}
"""Each family of the exporter: its further labels and what computes the values, one entry per set of labels."""


class NodeFamilies:
    """Writes families of the exporter into a database.

    Parameters
    ----------
    node_names : sequence of str
        All nodes, in the order of the arrays.
    selectors : sequence of Selector, optional
        What will be read; without it everything is written.
    """

    def __init__(self, node_names: Sequence[str], selectors: Sequence[Selector] | None = None) -> None:
        self._writers: list[tuple[str, LabelTable, list[Compute]]] = []
        for name, rows in NODE_METRICS.items():
            wanted = [
                (labels, compute)
                for labels, compute in rows
                if selectors is None or any(_may_read(selector, name, labels) for selector in selectors)
            ]
            if wanted:
                table = LabelTable.of(
                    {"instance": node, "node": node, "job": EXPORTER_JOB, **labels}
                    for labels, _ in wanted
                    for node in node_names
                )
                self._writers.append((name, table, [compute for _, compute in wanted]))

    def write(self, database: Database, sample: Sample) -> None:
        """Append one scrape."""
        everywhere = bool(sample.ready.all())
        for name, table, computes in self._writers:
            values = computes[0](sample) if len(computes) == 1 else np.concatenate([c(sample) for c in computes])
            present = None if everywhere else np.tile(sample.ready, len(computes))
            database.append(sample.time_seconds, name, table, values, present=present, source="exporter")


def _may_read(selector: Selector, name: str, labels: Mapping[str, str]) -> bool:
    """Tell whether a selector can match series of a family with these labels, whatever their node."""
    if not selector.matches_name(name):
        return False
    fixed = {"job": EXPORTER_JOB, **labels}
    return all(
        operator != "=" or label not in fixed or fixed[label] == value for label, operator, value in selector.matchers
    )


def write_evictions(database: Database, time_seconds: float, counts: Mapping[tuple[str, str], int]) -> None:
    """Append the descheduler's counter.

    Parameters
    ----------
    counts : mapping of (str, str) to int
        By result and node; a series begins with its first eviction, as in a Prometheus client.
    """
    if counts:
        table = LabelTable.of(
            {
                "result": result, "node": node, "strategy": "LowNodeUtilization", "job": "descheduler",
                "profile": "KubeVirtRelieveAndMigrate", "namespace": "default",
                "instance": "descheduler.kube-descheduler.svc:10258",
            }
            for result, node in counts
        )  # fmt: skip
        values = np.array(list(counts.values()), dtype=np.float64)
        database.append(time_seconds, EVICTIONS_METRIC, table, values, source="descheduler")
