"""The five tables of a run: their columns, and their reading as arrays.

Every backend gives the same tables (times in lab seconds since the start of the run). Metrics work on
:class:`NodeSeries`, the table ``nodes`` as arrays over time and node, so that each is a few lines of NumPy.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
import pandas as pd

from labkit.errors import ResultError
from labkit.model import FloatArray
from labkit.names import DIMENSIONS

Tables = Mapping[str, pd.DataFrame]

COLUMNS: Final[Mapping[str, Mapping[str, str]]] = {
    "nodes": {
        "time_seconds": "float64", "node": "str",
        "cpu_usage": "float64", "cpu_pressure": "float64", "memory_usage": "float64", "memory_pressure": "float64",
        "score": "float64", "vms": "int64",
    },
    "cycles": {
        "time_seconds": "float64", "node": "str",
        "usage_percent": "float64", "low": "float64", "high": "float64", "class": "str",
    },
    "evictions": {"time_seconds": "float64", "vm": "str", "node": "str", "result": "str"},
    "migrations": {
        "time_seconds": "float64", "vm": "str", "source": "str", "target": "str",
        "requested_seconds": "float64", "started_seconds": "float64", "ended_seconds": "float64",
        "outcome": "str", "bytes": "float64", "downtime_seconds": "float64",
    },
    "placement": {"time_seconds": "float64", "vm": "str", "node": "str"},
}  # fmt: skip
"""Columns and types of each table; ``time_seconds`` of a migration is when it was requested."""

SUCCEEDED: Final = "succeeded"
"""``outcome`` of a migration that ended on its target."""
OVERUTILIZED: Final = "overutilized"
"""``class`` of a node above its high threshold."""
UNDERUTILIZED: Final = "underutilized"
"""``class`` of a node below its low threshold."""

_START_SECONDS: Final = 60.0
"""Nodes that appear this early belong to the start of the run; later ones joined."""


def empty(name: str) -> pd.DataFrame:
    """Return a table without rows, with the right columns and types."""
    return pd.DataFrame({column: pd.Series(dtype=kind) for column, kind in COLUMNS[name].items()})


def conform(name: str, frame: pd.DataFrame) -> pd.DataFrame:
    """Return a table with exactly its columns first, in order and in their types; further columns stay.

    Raises
    ------
    ResultError
        If a column is missing or cannot be read as its type.
    """
    columns = COLUMNS[name]
    missing = [column for column in columns if column not in frame.columns]
    if missing:
        raise ResultError(f"table {name} wants the columns {', '.join(columns)}; missing: {', '.join(missing)}")
    order = [*columns, *(column for column in frame.columns if column not in columns)]
    try:
        return frame[order].astype(dict(columns)).reset_index(drop=True)
    except (TypeError, ValueError) as exc:
        raise ResultError(f"table {name} has a column of the wrong type: {exc}") from exc


def conform_all(tables: Tables) -> dict[str, pd.DataFrame]:
    """Check all five tables; see :func:`conform`."""
    missing = [name for name in COLUMNS if name not in tables]
    if missing:
        raise ResultError(f"a run has the tables {', '.join(COLUMNS)}; missing: {', '.join(missing)}")
    checked = {name: conform(name, tables[name]) for name in COLUMNS}
    return checked | {name: frame for name, frame in tables.items() if name not in checked}


@dataclass(frozen=True)
class NodeSeries:
    """The table ``nodes`` as arrays.

    Parameters
    ----------
    times : FloatArray
        Shape (n_times,), lab seconds, increasing.
    nodes : tuple of str
        Node names, sorted.
    ratio : dict of str to FloatArray
        For each of :data:`labkit.names.DIMENSIONS` and ``score``, shape (n_times, n_nodes);
        NaN where the node has no sample at that time.
    hold_seconds : FloatArray
        Shape (n_times,): how long each sample stands for, until the next one or the end of the run.
    """

    times: FloatArray
    nodes: tuple[str, ...]
    ratio: dict[str, FloatArray]
    hold_seconds: FloatArray

    @classmethod
    def of(cls, nodes: pd.DataFrame, *, lab_seconds: float) -> NodeSeries:
        """Read the table ``nodes`` of a run that lasted that long.

        A gap within a node's life is filled with its last sample (what a dashboard would show).
        """
        times, time_index = np.unique(nodes["time_seconds"].to_numpy(np.float64), return_inverse=True)
        codes, names = pd.factorize(nodes["node"], sort=True)
        shape = (len(times), len(names))
        last = np.zeros(len(names), dtype=np.int64)
        np.maximum.at(last, codes, time_index)
        row = np.arange(len(times))[:, None]
        ratio: dict[str, FloatArray] = {}
        for column in (*DIMENSIONS, "score"):
            values = np.full(shape, np.nan)
            values[time_index, codes] = nodes[column].to_numpy(np.float64)
            source = np.where(np.isnan(values), -1, row)
            source = np.maximum.accumulate(source, axis=0) if len(times) else source
            held = np.take_along_axis(values, np.maximum(source, 0), axis=0) if values.size else values
            held[(source < 0) | (row > last)] = np.nan
            ratio[column] = held
        ends = np.append(times[1:], max(lab_seconds, times[-1])) if len(times) else times
        return cls(times, tuple(str(name) for name in names), ratio, ends - times)

    @property
    def start(self) -> int:
        """Index of the first complete sample: every node of the first minute has a value."""
        present = ~np.isnan(self.ratio["cpu_usage"])
        if not present.any():
            return 0
        early = present[self.times <= self.times[0] + _START_SECONDS]
        wanted = early.any(axis=0)
        return int(np.argmax((present | ~wanted).all(axis=1)))

    def since(self, seconds: float) -> slice:
        """Return the samples at or after a lab time (at least the last one)."""
        first = int(np.searchsorted(self.times, seconds))
        return slice(min(first, max(len(self.times) - 1, 0)), len(self.times))


def finished(migrations: pd.DataFrame) -> pd.DataFrame:
    """Return the migrations that ended on their target, in the order of their end."""
    return migrations[migrations["outcome"].str.lower() == SUCCEEDED].sort_values(
        ["ended_seconds", "vm"], kind="stable"
    )
