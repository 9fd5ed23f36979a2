"""Histories of load, as the series that nodes would have exported.

What the rules are given when there is no cluster: to score a table of loads (constant histories) and to hold the
engines against each other (any history, with gaps and restarts).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from labkit.model import BoolArray, FloatArray, IntArray, Snapshot
from labkit.names import DIMENSIONS, NODE_LABEL
from labkit.scoring.mean import rounded
from labkit.units import GIB

MEMORY_BYTES: Final = 512.0 * GIB
GAUGES: Final[Mapping[str, str]] = {
    "cpu_usage": "node_cpu_usage_ratio",
    "cpu_pressure": "node_cpu_pressure_psi",
    "memory_usage": "node_memory_usage_ratio",
    "memory_pressure": "node_memory_pressure_psi",
}
"""The exporter's gauge of each dimension."""
PRESSURE_GATE: Final = 0.7
"""Production counts pressure only on a node that uses more than this share of the resource."""


@dataclass(frozen=True)
class Series:
    """One series of samples on a common grid of times.

    Parameters
    ----------
    labels : mapping of str to str
        The labels, ``__name__`` among them.
    values : FloatArray
        Shape (n_times,); NaN where there is no sample.
    """

    labels: Mapping[str, str]
    values: FloatArray


@dataclass(frozen=True)
class History:
    """Loads of some nodes over time; each holds from its instant to the next.

    Parameters
    ----------
    nodes : tuple of str
        Unique names.
    load_ratio : FloatArray
        Shape (n_times, n_nodes, 4), in [0, 1].
    step_seconds : float
        Between two instants; the first is 0.
    scraped : BoolArray, optional
        Shape (n_times, n_nodes): which scrapes succeeded; all without it.
    restarts : IntArray, optional
        Shape (n_times, n_nodes): nonzero where the node's counters begin at 0 again; never without it.
    """

    nodes: tuple[str, ...]
    load_ratio: FloatArray
    step_seconds: float
    scraped: BoolArray | None = None
    restarts: IntArray | None = None

    @classmethod
    def constant(cls, snapshot: Snapshot, *, duration_seconds: float, step_seconds: float) -> History:
        """Return the history of nodes whose load never changed."""
        instants = int(round(duration_seconds / step_seconds)) + 1
        return cls(snapshot.nodes, np.repeat(snapshot.load_ratio[None], instants, axis=0), step_seconds)

    @property
    def times_seconds(self) -> FloatArray:
        """The instants, shape (n_times,)."""
        return np.arange(len(self.load_ratio)) * self.step_seconds

    def series(self) -> Iterator[Series]:
        """Yield what the exporter would have exposed: gauges, counters, and the nodes' inventory."""
        for index, node in enumerate(self.nodes):
            seen = None if self.scraped is None else self.scraped[:, index]
            cpu_usage, cpu_pressure, memory_usage, memory_pressure = self.load_ratio[:, index].T
            labels = {NODE_LABEL: node, "node": node}
            for column, dimension in enumerate(DIMENSIONS):
                yield _series(GAUGES[dimension], labels, self.load_ratio[:, index, column], seen)
            for name, ratio, more in (
                ("node_cpu_seconds_total", 1.0 - cpu_usage, {"mode": "idle"}),
                ("node_pressure_cpu_waiting_seconds_total", cpu_pressure, {}),
                ("node_pressure_memory_waiting_seconds_total", memory_pressure, {}),
            ):
                yield _series(name, {**labels, **more}, self._counter(ratio, index), seen)
            available = MEMORY_BYTES * (1.0 - memory_usage)
            yield _series("node_memory_MemAvailable_bytes", labels, available, seen)
            inventory = np.full(len(self.load_ratio), MEMORY_BYTES)
            memory = {**labels, "resource": "memory", "unit": "byte"}
            yield _series("kube_node_status_allocatable", memory, inventory, None)
            yield _series("kube_node_role", {**labels, "role": "worker"}, np.ones(len(self.load_ratio)), None)

    def _counter(self, ratio: FloatArray, node: int) -> FloatArray:
        steps = np.concatenate(([0.0], ratio[:-1] * self.step_seconds))
        total = np.cumsum(steps)
        if self.restarts is None:
            return total
        # After a restart the counter shows only what has been added since.
        for place in np.flatnonzero(self.restarts[:, node]):
            total[place:] -= total[place]
        return total


def _series(name: str, labels: Mapping[str, str], values: FloatArray, seen: BoolArray | None) -> Series:
    return Series({"__name__": name, **labels}, values if seen is None else np.where(seen, values, np.nan))


def openmetrics(series: Sequence[Series], times_seconds: FloatArray) -> Iterator[str]:
    """Yield series as lines of the OpenMetrics text format, with their times, grouped by name as it demands."""
    by_name: dict[str, list[Series]] = {}
    for each in series:
        by_name.setdefault(each.labels["__name__"], []).append(each)
    stamps = [f"{time:.3f}" for time in times_seconds]
    for name, members in by_name.items():
        yield f"# TYPE {name} unknown"
        for each in members:
            text = ",".join(f'{key}="{value}"' for key, value in each.labels.items() if key != "__name__")
            for stamp, value in zip(stamps, each.values.tolist(), strict=True):
                if value == value:
                    yield f"{name}{{{text}}} {value!r} {stamp}"
    yield "# EOF"


def gated(snapshot: Snapshot) -> Snapshot:
    """Return the loads as production's one-minute records show them: pressure counts only above 70 % use."""
    load = snapshot.load_ratio.copy()
    for usage, pressure in ((0, 1), (2, 3)):
        load[:, pressure] *= rounded(load[:, usage]) > PRESSURE_GATE
    return Snapshot(snapshot.nodes, load)
