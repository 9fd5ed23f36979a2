"""What becomes of a run over time, on a grid of lab time on which several runs can be laid side by side."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import numpy as np

from labkit.analysis.imbalance import stddev
from labkit.analysis.tables import NodeSeries, Tables, finished
from labkit.model import FloatArray

Curve = tuple[FloatArray, FloatArray]
"""Lab seconds and values, both of shape (n_times,)."""


class _Run(Protocol):
    @property
    def tables(self) -> Tables: ...
    @property
    def duration_seconds(self) -> float: ...


def imbalance(tables: Tables, grid: FloatArray) -> FloatArray:
    """Return the standard deviation of CPU use over nodes at each instant; NaN before the first sample."""
    series = NodeSeries.of(tables["nodes"], lab_seconds=float(grid[-1]))
    if not len(series.times):
        return np.full(len(grid), np.nan)
    place = np.searchsorted(series.times, grid, side="right") - 1
    return np.where(place < 0, np.nan, stddev(series.ratio["cpu_usage"])[np.maximum(place, 0)])


def migrations(tables: Tables, grid: FloatArray) -> FloatArray:
    """Return how many migrations had ended on their target at each instant."""
    ended = np.sort(finished(tables["migrations"])["ended_seconds"].to_numpy(np.float64))
    return np.searchsorted(ended, grid, side="right").astype(np.float64)


def imbalance_curves(runs: Mapping[str, _Run]) -> dict[str, Curve]:
    """Return :func:`imbalance` of several runs, for ``plots.overlay``."""
    return {name: (grid, imbalance(run.tables, grid)) for name, run in runs.items() for grid in (_grid(run),)}


def migration_curves(runs: Mapping[str, _Run]) -> dict[str, Curve]:
    """Return :func:`migrations` of several runs, for ``plots.overlay``."""
    return {name: (grid, migrations(run.tables, grid)) for name, run in runs.items() for grid in (_grid(run),)}


def _grid(run: _Run) -> FloatArray:
    return np.linspace(0.0, run.duration_seconds, 241)
