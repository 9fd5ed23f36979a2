"""How unevenly the nodes are loaded, over time.

All functions take values of shape (n_times, n_nodes), ratios in [0, 1], NaN where a node has no sample, and
return shape (n_times,). A spread alone is blind to the level: always show the mean beside it.
"""

from __future__ import annotations

import numpy as np

from labkit.model import FloatArray


def mean(values: FloatArray) -> FloatArray:
    """Return the mean over the nodes present."""
    present = ~np.isnan(values)
    count = present.sum(axis=1)
    total = np.where(present, values, 0.0).sum(axis=1)
    average: FloatArray = np.divide(total, count, out=np.full(len(values), np.nan), where=count > 0)
    return average


def stddev(values: FloatArray) -> FloatArray:
    """Return the population standard deviation over the nodes present.

    References
    ----------
    The balance target of VMware DRS before version 7, of Ganeti's hbal and of Watcher's workload strategies.
    """
    deviation = values - mean(values)[:, None]
    return np.sqrt(mean(deviation * deviation))


def coefficient_of_variation(values: FloatArray) -> FloatArray:
    """Return the standard deviation divided by the mean; 0 where the mean is 0.

    Jain's fairness index says the same: J = 1 / (1 + CoV^2).
    """
    centre = mean(values)
    return np.divide(stddev(values), centre, out=np.zeros(len(values)), where=centre > 0)


def spread(values: FloatArray) -> FloatArray:
    """Return the largest minus the smallest value over the nodes present."""
    present = ~np.isnan(values)
    high = np.where(present, values, -np.inf).max(axis=1, initial=-np.inf)
    low = np.where(present, values, np.inf).min(axis=1, initial=np.inf)
    return np.where(present.any(axis=1), high - low, np.nan)


def time_average(values: FloatArray, hold_seconds: FloatArray) -> float:
    """Return the average over time of a series of shape (n_times,), each sample weighted by how long it stands."""
    known = ~np.isnan(values)
    total = float(hold_seconds[known].sum())
    if total > 0:
        return float((values[known] * hold_seconds[known]).sum() / total)
    return float(values[known].mean()) if known.any() else float("nan")
