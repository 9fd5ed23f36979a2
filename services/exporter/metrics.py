"""The node metrics, one small function each, and their text.

A metric is a function from :class:`~services.exporter.logic.NodeView` to one value per node, made known by
:func:`gauge` or :func:`counter`. Adding one is all it takes for Prometheus to scrape it (docs/metrics.md, "Custom
metrics"). Every series carries ``instance`` and ``node``, both the node's name: rules and descheduler key on
``instance``, kube-state-metrics' users on ``node``.
"""

from __future__ import annotations

import logging
import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Final, Literal

import numpy as np
import orjson

from labkit.model import FloatArray
from services.exporter.logic import NodeView

logger = logging.getLogger(__name__)

NodeFunction = Callable[[NodeView], FloatArray]
"""Returns shape (n_nodes,); with further labels (n_label_values, n_nodes)."""

USER_SHARE: Final = 0.6
"""Share of the busy time spent in mode ``user``; the rest is ``system``."""


@dataclass(frozen=True)
class NodeMetric:
    """One metric with a series per node, or per node and value of further labels.

    Parameters
    ----------
    name, help : str
        As Prometheus shows them.
    kind : str
        ``gauge`` or ``counter``; a counter's name ends in ``_total``.
    labels : mapping of str to sequence of str
        Further labels with all their values.
    compute : callable
        The values.
    """

    name: str
    help: str
    kind: Literal["gauge", "counter"]
    labels: Mapping[str, Sequence[str]]
    compute: NodeFunction

    def series_labels(self) -> list[str]:
        """Return the text of the further labels of each row of values, ``""`` or beginning with a comma."""
        return [
            "".join(f',{name}="{value}"' for name, value in zip(self.labels, values, strict=True))
            for values in product(*self.labels.values())
        ]


METRICS: Final[list[NodeMetric]] = []
"""All node metrics, in the order of the text."""


def gauge(name: str, text: str, **labels: Sequence[str]) -> Callable[[NodeFunction], NodeFunction]:
    """Make a function known as a gauge of that name; ``labels`` as in :class:`NodeMetric`."""
    return _metric(name, text, "gauge", labels)


def counter(name: str, text: str, **labels: Sequence[str]) -> Callable[[NodeFunction], NodeFunction]:
    """Make a function known as a counter of that name; its values must never fall."""
    if not name.endswith("_total"):
        raise ValueError(f"wanted a counter's name to end in _total, found {name}")
    return _metric(name, text, "counter", labels)


def _metric(
    name: str, text: str, kind: Literal["gauge", "counter"], labels: Mapping[str, Sequence[str]]
) -> Callable[[NodeFunction], NodeFunction]:
    if any(metric.name == name for metric in METRICS):
        raise ValueError(f"wanted one metric named {name}, found two")

    def register(function: NodeFunction) -> NodeFunction:
        METRICS.append(NodeMetric(name, text, kind, labels, function))
        return function

    return register


# --- the metrics ------------------------------------------------------------------------------------


@gauge("node_cpu_usage_ratio", "CPU in use, as a share of the node's cores.")
def _cpu_usage(view: NodeView) -> FloatArray:
    return view.cpu_usage


@gauge("node_cpu_pressure_psi", "Share of time in which work waits for CPU.")
def _cpu_pressure(view: NodeView) -> FloatArray:
    return view.cpu_pressure


@gauge("node_memory_usage_ratio", "Memory in use, as a share of the node's memory.")
def _memory_usage(view: NodeView) -> FloatArray:
    return view.memory_usage


@gauge("node_memory_pressure_psi", "Share of time in which work waits for memory.")
def _memory_pressure(view: NodeView) -> FloatArray:
    return view.memory_pressure


@gauge("node_vm_count", "Virtual machines that run on the node.")
def _vm_count(view: NodeView) -> FloatArray:
    return view.vms


@counter("node_cpu_seconds_total", "Seconds the CPUs spent in each mode, per core.", mode=("idle", "user", "system"))
def _cpu_seconds(view: NodeView) -> FloatArray:
    busy = view.cpu_busy_seconds
    return np.stack([view.seconds - busy, busy * USER_SHARE, busy * (1.0 - USER_SHARE)])


@counter("node_pressure_cpu_waiting_seconds_total", "Seconds in which work waited for CPU.")
def _cpu_waiting_seconds(view: NodeView) -> FloatArray:
    return view.cpu_waiting_seconds


@counter("node_pressure_memory_waiting_seconds_total", "Seconds in which work waited for memory.")
def _memory_waiting_seconds(view: NodeView) -> FloatArray:
    return view.memory_waiting_seconds


@gauge("node_memory_MemAvailable_bytes", "Memory that is not in use.")
def _memory_available(view: NodeView) -> FloatArray:
    return view.memory_bytes * (1.0 - view.memory_usage)


@gauge("kube_node_status_allocatable", "Memory that pods may use.", resource=("memory",), unit=("byte",))
def _allocatable(view: NodeView) -> FloatArray:
    return view.memory_bytes


@gauge("kube_node_role", "1 for a node on which VMs may run, 0 for another.", role=("worker",))
def _role(view: NodeView) -> FloatArray:
    return view.is_worker


# --- the text ---------------------------------------------------------------------------------------


class Exposition:
    """Writes the metrics as Prometheus' text format.

    Everything but the numbers stays the same between two changes of the set of nodes, so it is kept; the numbers are
    written in one go by orjson (the shortest text that reads back as the same number).
    """

    def __init__(self, metrics: Sequence[NodeMetric] = METRICS) -> None:
        self._metrics = metrics
        self._nodes: tuple[str, ...] | None = None
        self._prefixes: dict[str, list[bytes]] = {}
        self._failing: dict[str, str] = {}

    @property
    def failing(self) -> tuple[str, ...]:
        """Return the names of the metrics that the last text left out because their function failed."""
        return tuple(self._failing)

    def text(self, view: NodeView) -> bytes:
        """Return all metrics of one view.

        Notes
        -----
        A function that raises, returns another shape, or values that are not finite loses its own series only; the
        log says why.
        """
        if view.nodes is not self._nodes:
            self._nodes = view.nodes
            self._prefixes = {metric.name: _prefixes(metric, view.nodes) for metric in self._metrics}
        prefixes: list[bytes] = []
        values: list[FloatArray] = []
        for metric in self._metrics if view.nodes else ():
            try:
                values.append(_checked(metric, view))
            except Exception as error:  # the function may be anybody's: it must not take the others with it
                self._report(metric, error)
                continue
            self._failing.pop(metric.name, None)
            prefixes += self._prefixes[metric.name]
        if not values:
            return b""
        numbers = orjson.dumps(np.concatenate(values), option=orjson.OPT_SERIALIZE_NUMPY)[1:-1].split(b",")
        return b"\n".join(map(operator.add, prefixes, numbers)) + b"\n"

    def _report(self, metric: NodeMetric, error: Exception) -> None:
        if self._failing.get(metric.name) != str(error):
            logger.error("metric %s is left out: %s", metric.name, error, exc_info=error)
        self._failing[metric.name] = str(error)


def _checked(metric: NodeMetric, view: NodeView) -> FloatArray:
    values = np.ascontiguousarray(metric.compute(view), dtype=np.float64)
    n_rows = len(metric.series_labels())
    if values.shape not in ((n_rows, len(view.nodes)), (len(view.nodes),) if n_rows == 1 else None):
        raise ValueError(f"wanted values of shape ({n_rows}, {len(view.nodes)}), found {values.shape}")
    if not np.isfinite(values).all():
        raise ValueError("wanted finite values, found NaN or infinity")
    return values.ravel()


def _prefixes(metric: NodeMetric, nodes: Sequence[str]) -> list[bytes]:
    lines = [
        f'{metric.name}{{instance="{node}",node="{node}"{further}}} '.encode()
        for further in metric.series_labels()
        for node in nodes
    ]
    if lines:
        lines[0] = f"# HELP {metric.name} {metric.help}\n# TYPE {metric.name} {metric.kind}\n".encode() + lines[0]
    return lines
