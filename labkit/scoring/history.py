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
_CPU_USAGE: Final = DIMENSIONS.index("cpu_usage")
_CPU_SECONDS: Final = "node_cpu_seconds_total"
_COUNTERS: Final[Mapping[str, tuple[str, Mapping[str, str]]]] = {
    "cpu_usage": (_CPU_SECONDS, {"mode": "idle"}),
    "cpu_pressure": ("node_pressure_cpu_waiting_seconds_total", {}),
    "memory_usage": ("node_memory_MemAvailable_bytes", {}),
    "memory_pressure": ("node_pressure_memory_waiting_seconds_total", {}),
}
_EVICTED: Final[Mapping[str, str]] = {
    "__name__": "descheduler_pods_evicted_total",
    "strategy": "LowNodeUtilization",
    "result": "success",
}
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
        Unique names, in order.
    load_ratio : FloatArray
        Shape (n_times, n_nodes, 4), in [0, 1].
    step_seconds : float
        Between two instants; the first is 0.
    scraped : BoolArray, optional
        Shape (n_times, n_nodes, 4): whether the scrape brought the series of that dimension; always without it.
    restarts : BoolArray, optional
        Shape (n_times, n_nodes): where a node's counters begin at 0 again; never without it.
    evictions : IntArray, optional
        Shape (n_times, n_nodes): evictions the descheduler has counted on each node so far; without it none ever,
        and it exports no such series.
    """

    nodes: tuple[str, ...]
    load_ratio: FloatArray
    step_seconds: float
    scraped: BoolArray | None = None
    restarts: BoolArray | None = None
    evictions: IntArray | None = None

    @classmethod
    def constant(cls, snapshot: Snapshot, *, duration_seconds: float, step_seconds: float) -> History:
        """Return the history of nodes whose load never changed."""
        instants = round(duration_seconds / step_seconds) + 1
        return cls(snapshot.nodes, np.repeat(snapshot.load_ratio[None], instants, axis=0), step_seconds)

    @property
    def times_seconds(self) -> FloatArray:
        """The instants, shape (n_times,)."""
        return np.arange(len(self.load_ratio), dtype=np.float64) * self.step_seconds

    def gauge(self, dimension: int) -> FloatArray:
        """Return a dimension's load as scraped, shape (n_times, n_nodes), NaN where the scrape brought none."""
        return self._seen(self.load_ratio[:, :, dimension], dimension)

    def counter(self, dimension: int) -> FloatArray:
        """Return the counter that a dimension's one-minute record is made of, shape (n_times, n_nodes).

        Idle seconds for CPU use, waiting seconds for the pressures; for memory use, which is no counter, the bytes
        available. NaN where the scrape brought none.
        """
        ratio = self.load_ratio[:, :, dimension]
        if DIMENSIONS[dimension] == "memory_usage":
            return self._seen(MEMORY_BYTES * (1.0 - ratio), dimension)
        return self._seen(self._counted(1.0 - ratio if DIMENSIONS[dimension] == "cpu_usage" else ratio), dimension)

    def busy(self) -> FloatArray:
        """Return the seconds in which the CPU was not idle, shape (n_times, n_nodes); they come with the idle ones."""
        return self._seen(self._counted(self.load_ratio[:, :, _CPU_USAGE]), _CPU_USAGE)

    def _counted(self, ratio: FloatArray) -> FloatArray:
        """Return what a counter of these shares of each second shows."""
        total = np.zeros_like(ratio)
        for instant in range(1, len(ratio)):
            total[instant] = total[instant - 1] + ratio[instant - 1] * self.step_seconds
            if self.restarts is not None:
                total[instant, self.restarts[instant]] = 0.0
        return total

    def _seen(self, values: FloatArray, dimension: int) -> FloatArray:
        return values if self.scraped is None else np.where(self.scraped[:, :, dimension], values, np.nan)

    def series(self) -> Iterator[Series]:
        """Yield what the exporter and the descheduler would have exposed: gauges, counters, inventory, evictions."""
        instants = len(self.load_ratio)
        memory, one = np.full(instants, MEMORY_BYTES), np.ones(instants)
        for column, dimension in enumerate(DIMENSIONS):
            gauge, counter = self.gauge(column), self.counter(column)
            name, labels = _COUNTERS[dimension]
            for index, node in enumerate(self.nodes):
                of_node = {NODE_LABEL: node, "node": node}
                yield Series({"__name__": GAUGES[dimension], **of_node}, gauge[:, index])
                yield Series({"__name__": name, **of_node, **labels}, counter[:, index])
        busy = self.busy()
        for index, node in enumerate(self.nodes):
            of_node = {NODE_LABEL: node, "node": node}
            yield Series({"__name__": _CPU_SECONDS, **of_node, "mode": "user"}, busy[:, index])
            unit = {"resource": "memory", "unit": "byte"}
            yield Series({"__name__": "kube_node_status_allocatable", **of_node, **unit}, memory)
            yield Series({"__name__": "kube_node_role", **of_node, "role": "worker"}, one)
            if self.evictions is not None:
                labels = {NODE_LABEL: "descheduler:10258", "node": node}
                yield Series({**_EVICTED, **labels}, self.evictions[:, index].astype(np.float64))


def selector_text(labels: Mapping[str, str]) -> str:
    """Write labels, but for the name, as ``{key="value",…}``."""
    quoted = (
        '{}="{}"'.format(key, value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n"))
        for key, value in labels.items()
        if key != "__name__"
    )
    return "{" + ",".join(quoted) + "}"


def openmetrics(series: Sequence[Series], times_seconds: FloatArray) -> Iterator[str]:
    """Yield series as lines of the OpenMetrics text format, with their times, grouped by name as it demands."""
    by_name: dict[str, list[Series]] = {}
    for each in series:
        by_name.setdefault(each.labels["__name__"], []).append(each)
    stamps = [f"{time:.3f}" for time in times_seconds]
    for name, members in by_name.items():
        yield f"# TYPE {name} unknown"
        for each in members:
            text = selector_text(each.labels)
            for stamp, value in zip(stamps, each.values.tolist(), strict=True):
                if value == value:
                    yield f"{name}{text} {value!r} {stamp}"
    yield "# EOF"


def gated(snapshot: Snapshot) -> Snapshot:
    """Return the loads as production's one-minute records show them: pressure counts only above 70 % use."""
    load = snapshot.load_ratio.copy()
    for usage, pressure in ((0, 1), (2, 3)):
        load[:, pressure] *= rounded(load[:, usage]) > PRESSURE_GATE
    return Snapshot(snapshot.nodes, load)
