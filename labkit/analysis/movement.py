"""What migrations cost, and which of them were in vain."""

from __future__ import annotations

from typing import Final

import numpy as np
import pandas as pd

from labkit.analysis import imbalance
from labkit.analysis.tables import NodeSeries, finished

PING_PONG_SECONDS: Final = 30 * 60.0
"""A VM that is back within this time on a node it left has gone in a circle (the cooldown of Xen Orchestra)."""
WASTE_HORIZON_SECONDS: Final = 5 * 60.0
WASTE_MIN_GAIN: Final = 0.001
"""A migration must lower the standard deviation of CPU use by this much to count as useful."""
MIGRATION_CPU_OVERHEAD: Final = 0.1
"""Share of its CPU that a VM is taken to lose while it migrates (Beloglazov and Buyya 2012; CloudSim Plus)."""


def ping_pong(migrations: pd.DataFrame, *, within_seconds: float = PING_PONG_SECONDS) -> int:
    """Count the finished migrations that bring a VM back to a node it left at most ``within_seconds`` before."""
    returns = 0
    for _, moves in finished(migrations).groupby("vm", sort=False):
        left: dict[str, float] = {}
        for source, target, ended in zip(moves["source"], moves["target"], moves["ended_seconds"], strict=True):
            if target in left and ended - left[target] <= within_seconds:
                returns += 1
            left[source] = ended
    return returns


def wasted(
    migrations: pd.DataFrame,
    series: NodeSeries,
    *,
    horizon_seconds: float = WASTE_HORIZON_SECONDS,
    min_gain: float = WASTE_MIN_GAIN,
) -> int:
    """Count the finished migrations after which the nodes are no better balanced.

    Compares the standard deviation of CPU use at the last sample before the request with the one
    ``horizon_seconds`` after the end (or at the last sample). Migrations that overlap share the blame or the
    praise: the count is a property of the run, not a verdict on one migration.

    References
    ----------
    The idea of a minimum gain is that of Ganeti's hbal (``--min-gain``); the value is defined here.
    """
    moves = finished(migrations)
    if moves.empty or not len(series.times):
        return 0
    deviation = imbalance.stddev(series.ratio["cpu_usage"])
    before = np.searchsorted(series.times, moves["requested_seconds"].to_numpy(np.float64), side="right") - 1
    after = np.searchsorted(series.times, moves["ended_seconds"].to_numpy(np.float64) + horizon_seconds)
    gain = deviation[np.maximum(before, 0)] - deviation[np.minimum(after, len(series.times) - 1)]
    return int((gain < min_gain).sum())


def time_in_migration(migrations: pd.DataFrame, *, lab_seconds: float) -> float:
    """Return the VM-seconds spent migrating; a migration that did not end counts to the end of the run."""
    ended = migrations["ended_seconds"].fillna(lab_seconds)
    started = migrations["started_seconds"].fillna(ended)
    return float((ended - started).clip(lower=0.0).sum())


def pdm(migrations: pd.DataFrame, *, vms: int, lab_seconds: float) -> float:
    """Return the mean share of its work that a VM lost to migrations (PDM as the paper defines it).

    ``(1/M) sum_j Cd_j / Cr_j`` with ``Cd_j`` a tenth of the VM's CPU work during its migrations and ``Cr_j`` its
    work over the run; for a VM of steady demand that is ``0.1 * time in migration / lab_seconds``.

    References
    ----------
    A. Beloglazov, R. Buyya, Concurrency and Computation: Practice and Experience 24(13), 2012.
    """
    if vms == 0 or lab_seconds <= 0:
        return 0.0
    return MIGRATION_CPU_OVERHEAD * time_in_migration(migrations, lab_seconds=lab_seconds) / (vms * lab_seconds)


def pdm_cloudsim(migrations: pd.DataFrame, cores: pd.Series, *, lab_seconds: float) -> float:
    """Return lost over requested CPU work, summed over VMs (PDM as CloudSim computes it).

    Large VMs weigh more than in :func:`pdm`.

    Parameters
    ----------
    migrations : DataFrame
        The table ``migrations``.
    cores : Series
        Mean CPU demand of each VM, in cores, indexed by VM name.
    lab_seconds : float
        Length of the run.
    """
    requested = float(cores.sum()) * lab_seconds
    if requested <= 0:
        return 0.0
    ended = migrations["ended_seconds"].fillna(lab_seconds)
    seconds = (ended - migrations["started_seconds"].fillna(ended)).clip(lower=0.0)
    weight = migrations["vm"].map(cores).astype("float64").fillna(0.0)
    return MIGRATION_CPU_OVERHEAD * float((seconds * weight).sum()) / requested
