"""From what the live loop says of itself to the tables of a run.

Each source has one function: the descheduler's log gives ``cycles``, Prometheus ``nodes``, the webhook's and the pod
manager's records ``evictions`` and ``migrations``, a watch of the VMs ``placement``. Wall times go in, lab times come
out. Nothing here asks anybody; :mod:`labkit.lab.loop` does.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, Final

import numpy as np
import pandas as pd

from labkit.analysis.tables import COLUMNS, conform, empty
from labkit.clock import LabTime
from labkit.names import DIMENSIONS, NODE_LABEL

UNDERUTILIZED: Final = "underutilized"
APPROPRIATE: Final = "appropriate"

_LINE = re.compile(r'^(?P<time>\S+) \S+ \S+ +\d+ [^\]]*\] "(?P<message>[^"]*)"(?P<values>.*)$')
_PERCENT = re.compile(r'"?MetricResource"?[=:]"?(?P<value>-?[\d.]+)')
_NODE = re.compile(r'\bnode="(?P<node>[^"]+)"')
_CATEGORY = re.compile(r'\bcategory="(?P<category>[^"]+)"')
_POD = re.compile(r'\bpod="(?P<pod>[^"]+)"')
_LIMIT = re.compile(r"maximum number of evicted pods")
_RESULTS: Final = {
    "Eviction in background assumed": "background",
    "Evicted pod": "success",
    "Error evicting pod": "error",
}
_USAGE = re.compile(r'\busagePercentage=\{"MetricResource":(?P<value>-?[\d.]+)\}')


def wall_seconds(stamp: str) -> float:
    """Read an RFC 3339 time with any number of decimals as seconds since 1970."""
    head, _, rest = stamp.rstrip("Z").partition(".")
    fraction = float(f"0.{rest}") if rest else 0.0
    return datetime.fromisoformat(f"{head}+00:00").timestamp() + fraction


def descheduling_cycles(log: Iterable[str], time: LabTime) -> pd.DataFrame:
    """Read the table ``cycles`` from the descheduler's log.

    Parameters
    ----------
    log : iterable of str
        Lines as ``kubectl logs --timestamps`` gives them at verbosity 3 or more.
    time : LabTime
        Converts their times.

    Returns
    -------
    DataFrame
        One row per cycle and node; all rows of a cycle have the time at which it assessed the thresholds.

    Notes
    -----
    Source of the messages: descheduler v0.36.0, ``nodeutilization/lownodeutilization.go`` and ``nodeutilization.go``.
    """
    rows: list[dict[str, Any]] = []
    started, low, high = float("nan"), float("nan"), float("nan")
    for line in log:
        match = _LINE.match(line)
        if match is None:
            continue
        message, values = match["message"], match["values"]
        if message == "Assessed thresholds for underutilized nodes":
            started, low = wall_seconds(match["time"]), _percent(values)
        elif message == "Assessed thresholds for overutilized nodes":
            high = _percent(values)
        elif message in ("Node has been classified", "Node is appropriately utilized"):
            node, usage, category = _NODE.search(values), _USAGE.search(values), _CATEGORY.search(values)
            if node is None or usage is None:
                continue
            rows.append(
                {
                    "time_seconds": time.at(started),
                    "node": node["node"],
                    "usage_percent": float(usage["value"]),
                    "low": low,
                    "high": high,
                    "class": category["category"] if category else APPROPRIATE,
                }
            )
    return conform("cycles", pd.DataFrame(rows)) if rows else empty("cycles")


def evictions(log: Iterable[str], pods: Mapping[str, tuple[str, str]], time: LabTime) -> pd.DataFrame:
    """Read the table ``evictions`` from the descheduler's log.

    Parameters
    ----------
    log : iterable of str
        Lines as ``kubectl logs --timestamps`` gives them at verbosity 3 or more.
    pods : mapping of str to (str, str)
        VM and node of each pod that was seen, by ``namespace/name``.
    time : LabTime
        Converts their times.

    Returns
    -------
    DataFrame
        One row per request that reached the API server: ``background`` (accepted, a migration follows), ``success``
        (the pod was evicted at once) or ``error``. Requests that a limit stopped are not there, nor those repeated
        while a migration is under way: the descheduler does not send them.
    """
    rows = []
    for line in log:
        match = _LINE.match(line)
        pod = _POD.search(match["values"]) if match else None
        result = _RESULTS.get(match["message"]) if match else None
        if match is None or pod is None or result is None or (result == "error" and _LIMIT.search(match["values"])):
            continue
        vm, node = pods.get(pod["pod"], ("", ""))
        rows.append((time.at(wall_seconds(match["time"])), vm, node, result))
    return _frame("evictions", rows)


def _percent(values: str) -> float:
    match = _PERCENT.search(values)
    return float(match["value"]) if match else float("nan")


def node_table(frames: Mapping[str, pd.DataFrame], time: LabTime) -> pd.DataFrame:
    """Join range queries to the table ``nodes``.

    Parameters
    ----------
    frames : mapping of str to DataFrame
        The four dimensions, ``score`` and ``vms``: each an answer of ``Prometheus.query_range`` over the same instants.
        A node is in the table at an instant when all four dimensions are; a missing score is NaN.
    time : LabTime
        Converts the instants.
    """
    series = {name: _by_node(frame) for name, frame in frames.items()}
    joined = pd.concat({name: series[name] for name in DIMENSIONS}, axis=1, join="inner")
    if joined.empty:
        return empty("nodes")
    table = joined.assign(
        score=series["score"].reindex(joined.index),
        vms=series["vms"].reindex(joined.index).fillna(0).astype("int64"),
    ).reset_index(names=["time", "node"])
    # Prometheus keeps milliseconds of wall time, 15 of lab time at the highest tempo; adding 0 makes -0 a 0.
    table["time_seconds"] = table.pop("time").map(time.at).round(1) + 0.0
    return conform("nodes", table.sort_values(["time_seconds", "node"], kind="stable"))


def _by_node(frame: pd.DataFrame) -> pd.Series[float]:
    if frame.empty:
        return pd.Series(dtype="float64", index=pd.MultiIndex.from_arrays([[], []], names=["time", "node"]))
    return frame.set_index(["time", NODE_LABEL])["value"].rename_axis(["time", "node"])


def placement_table(changes: Iterable[tuple[float, str, str]], time: LabTime, *, end_seconds: float) -> pd.DataFrame:
    """Make the table ``placement`` from observed ``(wall time, vm, node)``; a VM that is gone has node ''.

    What happened before lab time 0 is the initial placement, at 0.
    """
    first: dict[str, str] = {}
    later: list[tuple[float, str, str]] = []
    for wall, vm, node in changes:
        at = time.at(wall)
        if at <= 0.0:
            first[vm] = node
        elif at <= end_seconds:
            later.append((at, vm, node))
    rows = [(0.0, vm, node) for vm, node in sorted(first.items()) if node]
    known = dict(first)
    for at, vm, node in later:
        if known.get(vm, "") != node:
            rows.append((at, vm, node))
            known[vm] = node
    return _frame("placement", rows)


def migrations(records: Sequence[Mapping[str, Any]], time: LabTime, *, end_seconds: float) -> pd.DataFrame:
    """Make the table ``migrations`` from the pod manager's records.

    Parameters
    ----------
    records : sequence of mapping
        As ``GET /migrations`` of the pod manager gives them; instants in seconds since 1970.
    time : LabTime
        Converts the instants.
    end_seconds : float
        Lab time at the end of the run: what was requested later, or before lab time 0, is left out, and what had not
        ended by then is still running.
    """
    rows = []
    for record in records:
        requested, started, ended = (_lab(record.get(name), time) for name in ("requested", "started", "ended"))
        if not 0.0 <= requested <= end_seconds:
            continue
        finished = ended <= end_seconds
        rows.append(
            (
                requested,
                record["vm"],
                record.get("source") or "",
                record.get("target") or "",
                requested,
                started if started <= end_seconds else float("nan"),
                ended if finished else float("nan"),
                (record.get("outcome") or "") if finished else "",
                float(record.get("bytes") or 0.0),
                float(record.get("downtime_seconds") or 0.0),
            )
        )
    return _frame("migrations", sorted(rows, key=lambda row: (row[0], row[1])))


def timing(cycles: pd.DataFrame, migrations: pd.DataFrame) -> dict[str, float]:
    """Measure what the machine added to the loop, from the tables of a run.

    Parameters
    ----------
    cycles, migrations : DataFrame
        Tables of the run.

    Returns
    -------
    dict of str to float
        Lab seconds by the names of :class:`labkit.sim.Timing`, as far as the run shows them: ``first_cycle_seconds``;
        ``cycle_seconds``, the median distance of cycles; ``request_seconds``, the median distance of two requests of
        one cycle; ``start_seconds``, the lower quartile from request to copy, because a wait in the queue only adds.
    """
    found: dict[str, float] = {}
    starts = np.unique(cycles["time_seconds"].to_numpy(float))
    requests = np.sort(migrations["requested_seconds"].to_numpy(float))
    waits = (migrations["started_seconds"] - migrations["requested_seconds"]).dropna()
    if starts.size:
        found["first_cycle_seconds"] = float(starts[0])
    if starts.size > 1:
        found["cycle_seconds"] = float(np.median(np.diff(starts)))
    cycle_of = np.searchsorted(starts, requests, side="right")
    gaps = np.diff(requests)[np.diff(cycle_of) == 0]
    if gaps.size:
        found["request_seconds"] = float(np.median(gaps))
    if len(waits):
        found["start_seconds"] = float(waits.quantile(0.25))
    return found


def notes(cycles: pd.DataFrame, *, interval_seconds: float, duration_seconds: float) -> tuple[str, ...]:
    """Say what a reader of the run's numbers should know.

    Parameters
    ----------
    cycles : DataFrame
        Table of a run with descheduling.
    interval_seconds, duration_seconds : float
        Of the cycles, and of the run; lab time.
    """
    due = int(duration_seconds // interval_seconds)
    missed = due - cycles["time_seconds"].nunique()
    if missed <= 0:
        return ()
    return (f"{missed} of {due} descheduling cycles were missed: the machine was too slow for this tempo",)


def _lab(wall: float | None, time: LabTime) -> float:
    return float("nan") if wall is None else time.at(wall)


def _frame(name: str, rows: Sequence[Sequence[Any]]) -> pd.DataFrame:
    return conform(name, pd.DataFrame(list(rows), columns=list(COLUMNS[name]))) if rows else empty(name)
