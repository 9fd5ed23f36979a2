"""The summary of a run: the one place where its numbers are computed, for every backend."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import numpy as np

from labkit.analysis import convergence, hotspots, imbalance, movement
from labkit.analysis.tables import OVERUTILIZED, UNDERUTILIZED, NodeSeries, Tables, conform_all, finished
from labkit.model import FloatArray

Summary = dict[str, int | float | bool | None]

FINAL_SECONDS: Final = 5 * 60.0
"""``*_final`` values are means over this much time at the end of the run."""


OUTCOME_KEYS: Final = ("happiness_mean", "happiness_min", "unhappy_vms_ratio", "regret", "cpu_stddev_best")
"""What the tables alone do not tell; see :mod:`labkit.sim.outcome`."""


def summarize(
    tables: Tables,
    *,
    lab_seconds: float,
    wall_seconds: float | None = None,
    outcome: Mapping[str, float] | None = None,
) -> Summary:
    """Compute the summary of one run.

    Parameters
    ----------
    tables : mapping of str to DataFrame
        ``nodes``, ``cycles``, ``evictions``, ``migrations``, ``placement``.
    lab_seconds : float
        Length of the run in lab time.
    wall_seconds : float, optional
        How long it took; None when not known.
    outcome : mapping, optional
        Values of :data:`OUTCOME_KEYS`; None in the summary where they are not known.

    Returns
    -------
    dict
        JSON scalars. Counts are whole numbers, ratios lie in [0, 1], a time that was never reached or a value
        that does not exist is None. Only ``wall_seconds`` differs between two equal twin runs.
    """
    frames = conform_all(tables)
    series = NodeSeries.of(frames["nodes"], lab_seconds=lab_seconds)
    cycles, evictions, migrations = frames["cycles"], frames["evictions"], frames["migrations"]
    moves = finished(migrations)
    vms = int(frames["placement"]["vm"].nunique())
    per_vm = moves["vm"].value_counts()
    converged_at = convergence.time_to_converge(cycles)
    settled_at = convergence.time_to_settle(series)
    n_cycles = int(cycles["time_seconds"].nunique())
    summary: Summary = {
        "migrations": len(moves),
        "migrations_failed": int((migrations["ended_seconds"].notna()).sum()) - len(moves),
        "evictions_requested": len(evictions),
        "converged": converged_at is not None,
        "time_to_converge_seconds": converged_at,
        "settled": settled_at is not None,
        "time_to_settle_seconds": settled_at,
        "control_delay_seconds": convergence.control_delay(series, evictions),
        **_imbalance(series, lab_seconds),
        "hotspot_seconds": hotspots.hotspot_seconds(series),
        "psi_seconds": hotspots.psi_seconds(series),
        "slatah": hotspots.slatah(series),
        "slatah_cloudsim": hotspots.slatah_cloudsim(series),
        "pdm": movement.pdm(migrations, vms=vms, lab_seconds=lab_seconds),
        "ping_pong_migrations": movement.ping_pong(migrations),
        "wasted_migrations": movement.wasted(migrations, series),
        "bytes_moved": float(migrations["bytes"].fillna(0.0).sum()),
        "downtime_seconds": float(moves["downtime_seconds"].fillna(0.0).sum()),
        "migration_seconds": movement.time_in_migration(migrations, lab_seconds=lab_seconds),
        "migrations_per_hour": len(moves) * 3600.0 / lab_seconds if lab_seconds > 0 else 0.0,
        "migrations_per_vm": len(moves) / vms if vms else 0.0,
        "migrations_of_one_vm_max": int(per_vm.max()) if len(per_vm) else 0,
        **{key: (outcome or {}).get(key) for key in OUTCOME_KEYS},
        "cycles": n_cycles,
        "overutilized_node_cycles": int((cycles["class"] == OVERUTILIZED).sum()),
        "underutilized_node_cycles": int((cycles["class"] == UNDERUTILIZED).sum()),
        "nodes": len(series.nodes),
        "vms": vms,
        "lab_seconds": float(lab_seconds),
        "wall_seconds": wall_seconds,
    }
    return {name: _scalar(value) for name, value in summary.items()}


def _imbalance(series: NodeSeries, lab_seconds: float) -> Summary:
    """Spread of each load at the start, at the end and on average."""
    end = series.since(lab_seconds - FINAL_SECONDS)
    whole = slice(series.start, len(series.times))
    values: Summary = {}
    for name, column in (("cpu", "cpu_usage"), ("memory", "memory_usage"), ("pressure", "cpu_pressure")):
        deviation = imbalance.stddev(series.ratio[column])
        values[f"{name}_stddev_initial"] = _mean(deviation[series.start : series.start + 1])
        values[f"{name}_stddev_final"] = _mean(deviation[end])
        values[f"{name}_stddev_mean"] = imbalance.time_average(deviation[whole], series.hold_seconds[whole])
        values[f"{name}_mean_final"] = _mean(imbalance.mean(series.ratio[column])[end])
        values[f"{name}_cov_final"] = _mean(imbalance.coefficient_of_variation(series.ratio[column])[end])
        values[f"{name}_range_final"] = _mean(imbalance.spread(series.ratio[column])[end])
    return values


def _mean(values: FloatArray) -> float:
    """Mean of what is known; NaN where nothing is."""
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else float("nan")


def _scalar(value: int | float | bool | None) -> int | float | bool | None:
    """JSON knows no NaN: a value that does not exist is None."""
    return None if isinstance(value, float) and not np.isfinite(value) else value
