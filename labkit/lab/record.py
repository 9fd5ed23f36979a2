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
    table["time_seconds"] = (table.pop("time").map(time.at)).round(3)
    return conform("nodes", table.sort_values(["time_seconds", "node"], kind="stable"))


def _by_node(frame: pd.DataFrame) -> pd.Series[float]:
    if frame.empty:
        return pd.Series(dtype="float64", index=pd.MultiIndex.from_arrays([[], []], names=["time", "node"]))
    return frame.set_index(["time", NODE_LABEL])["value"].rename_axis(["time", "node"])


def placement_table(changes: Iterable[tuple[float, str, str]], time: LabTime) -> pd.DataFrame:
    """Make the table ``placement`` from observed ``(wall time, vm, node)``; a VM that is gone has node ''.

    What happened before lab time 0 is the initial placement, at 0.
    """
    first: dict[str, str] = {}
    later: list[tuple[float, str, str]] = []
    for wall, vm, node in changes:
        at = time.at(wall)
        if at <= 0.0:
            first[vm] = node
        else:
            later.append((at, vm, node))
    rows = [(0.0, vm, node) for vm, node in sorted(first.items()) if node]
    known = dict(first)
    for at, vm, node in later:
        if known.get(vm, "") != node:
            rows.append((at, vm, node))
            known[vm] = node
    return _frame("placement", rows)


def records_table(
    name: str, records: Sequence[Mapping[str, Any]], time: LabTime, *, end_seconds: float
) -> pd.DataFrame:
    """Make ``evictions`` or ``migrations`` from records whose ``*_seconds`` that are instants are wall times.

    Only what was requested within ``[0, end_seconds]`` of lab time is kept; what had not ended by then has no end.
    """
    instants = {"time_seconds", "requested_seconds", "started_seconds", "ended_seconds"}
    rows = []
    for record in records:
        row = {
            column: time.at(record[column])
            if column in instants and record.get(column) is not None
            else record.get(column)
            for column in COLUMNS[name]
        }
        if row.get("time_seconds") is None:
            row["time_seconds"] = row["requested_seconds"]
        if 0.0 <= row["time_seconds"] <= end_seconds:
            rows.append(row)
    if not rows:
        return empty(name)
    frame = pd.DataFrame(rows, columns=list(COLUMNS[name])).sort_values(["time_seconds", "vm"], kind="stable")
    return conform(name, frame)


def _frame(name: str, rows: Sequence[Sequence[Any]]) -> pd.DataFrame:
    return conform(name, pd.DataFrame(list(rows), columns=list(COLUMNS[name]))) if rows else empty(name)
