"""When a run came to rest.

Two notions, because each algorithm has its own idea of "over-utilised":

- *converged*: by the algorithm's own score, from the descheduler's cycles. A score that never rises converges at once.
- *settled*: by the nodes' CPU use, the same yardstick for every algorithm and for none.

A run that does neither is censored: the time is None, never a sentinel.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import pandas as pd

from labkit.analysis import imbalance
from labkit.analysis.tables import OVERUTILIZED, NodeSeries

CONVERGED_CYCLES: Final = 3
SETTLED_BAND: Final = 0.10
"""A node may lie this far above the mean CPU use: production's upper deviation threshold."""
SETTLED_SECONDS: Final = 180.0


def time_to_converge(cycles: pd.DataFrame, *, quiet_cycles: int = CONVERGED_CYCLES) -> float | None:
    """Return the first cycle's time after which no node is over-utilised, to the end.

    Parameters
    ----------
    cycles : DataFrame
        The table ``cycles``.
    quiet_cycles : int
        At least so many cycles must remain quiet; the found cycle is the first of them.

    Returns
    -------
    float or None
        Lab seconds; None if the run did not converge, or had no cycle (no descheduling).
    """
    times, index = np.unique(cycles["time_seconds"].to_numpy(np.float64), return_inverse=True)
    busy = np.zeros(len(times), dtype=bool)
    busy[index[(cycles["class"] == OVERUTILIZED).to_numpy(bool)]] = True
    first = int(np.flatnonzero(busy)[-1]) + 1 if busy.any() else 0
    return float(times[first]) if len(times) - first >= quiet_cycles else None


def time_to_settle(
    series: NodeSeries, *, band: float = SETTLED_BAND, quiet_seconds: float = SETTLED_SECONDS
) -> float | None:
    """Return the time after which no node's CPU use lies more than ``band`` above the mean, to the end.

    Returns
    -------
    float or None
        Lab seconds; None if less than ``quiet_seconds`` at the end are quiet.
    """
    usage = series.ratio["cpu_usage"]
    if not usage.size:
        return None
    excess = np.nan_to_num(usage - imbalance.mean(usage)[:, None], nan=0.0)
    busy = np.flatnonzero((excess > band).any(axis=1))
    first = int(busy[-1]) + 1 if len(busy) else series.start
    if first >= len(series.times) or float(series.hold_seconds[first:].sum()) < quiet_seconds:
        return None
    return float(series.times[first])


def control_delay(series: NodeSeries, evictions: pd.DataFrame, *, band: float = SETTLED_BAND) -> float | None:
    """Return the time from the first CPU imbalance to the first eviction request.

    The onset is the first sample at which a node's CPU use lies more than ``band`` above the mean. The delay is
    what scraping, averaging windows, rule evaluation and the descheduling interval add up to.

    Returns
    -------
    float or None
        Lab seconds; None without an imbalance, or without an eviction after it.
    """
    usage = series.ratio["cpu_usage"]
    excess = np.nan_to_num(usage - imbalance.mean(usage)[:, None], nan=0.0)
    onset = np.flatnonzero((excess > band).any(axis=1)) if usage.size else np.zeros(0)
    if not len(onset):
        return None
    start = float(series.times[onset[0]])
    later = evictions["time_seconds"][evictions["time_seconds"] >= start]
    return float(later.min()) - start if len(later) else None
