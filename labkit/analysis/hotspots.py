"""Time that nodes spend hot, stalled or full, in node-seconds of lab time."""

from __future__ import annotations

from typing import Final

import numpy as np

from labkit.analysis.tables import NodeSeries

HOT_SPOT_RATIO: Final = 0.8
"""A node is a hot spot while its CPU or memory use is above this."""
FULL_RATIO: Final = 1.0 - 1e-9


def hotspot_seconds(series: NodeSeries, *, threshold: float = HOT_SPOT_RATIO) -> float:
    """Return the node-seconds during which CPU or memory use is above a threshold.

    In PromQL: ``labkit metrics promql hotspot_seconds``.
    """
    with np.errstate(invalid="ignore"):
        hot = (series.ratio["cpu_usage"] > threshold) | (series.ratio["memory_usage"] > threshold)
    return float(hot.sum(axis=1) @ series.hold_seconds)


def psi_seconds(series: NodeSeries) -> float:
    """Return the seconds of stall, CPU and memory together, over all nodes.

    Pressure is the share of time in which some task waited, so its integral is the increase of
    ``node_pressure_{cpu,memory}_waiting_seconds_total``.

    References
    ----------
    Linux kernel documentation, "PSI - Pressure Stall Information".
    """
    stalled = np.nan_to_num(series.ratio["cpu_pressure"]) + np.nan_to_num(series.ratio["memory_pressure"])
    return float(stalled.sum(axis=1) @ series.hold_seconds)


def slatah(series: NodeSeries) -> float:
    """Return the mean share of a node's active time at 100 % CPU (SLATAH as the paper defines it, also OTF).

    A node is active while it has a sample with some use. In [0, 1]; 0 without active nodes.

    References
    ----------
    A. Beloglazov, R. Buyya, Concurrency and Computation: Practice and Experience 24(13), 2012,
    doi 10.1002/cpe.1867.
    """
    usage = np.nan_to_num(series.ratio["cpu_usage"])
    hold = series.hold_seconds[:, None]
    active = ((usage > 0) * hold).sum(axis=0)
    full = ((usage >= FULL_RATIO) * hold).sum(axis=0)
    shares = full[active > 0] / active[active > 0]
    return float(shares.mean()) if len(shares) else 0.0


def slatah_cloudsim(series: NodeSeries) -> float:
    """Return the overloaded node-seconds divided by the active node-seconds (SLATAH as CloudSim computes it).

    CloudSim's ``getSlaTimePerActiveHost`` divides sums instead of averaging shares, so a node that was active
    briefly weighs less. Overloaded here: less CPU than demanded, which the node table shows as use of 1.
    """
    usage = np.nan_to_num(series.ratio["cpu_usage"])
    hold = series.hold_seconds[:, None]
    active = float(((usage > 0) * hold).sum())
    return float(((usage >= FULL_RATIO) * hold).sum()) / active if active > 0 else 0.0
