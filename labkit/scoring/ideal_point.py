"""Scores by distance above the ideal point, which is the cluster's mean.

Production's family: its default query is the one amplified three times.
"""

from __future__ import annotations

import numpy as np

from labkit.errors import InputError
from labkit.model import FloatArray, Snapshot
from labkit.scoring.mean import positive_deviation


def positive_distance(snapshot: Snapshot) -> FloatArray:
    """Return the length of each node's positive deviations, ‖P‖.

    Returns
    -------
    FloatArray
        Shape (n_nodes,), in [0, 2): with one crowded node among N it reaches 2 · (1 - 1/N).
    """
    result: FloatArray = np.sqrt((positive_deviation(snapshot) ** 2).sum(axis=1))
    return result


def ideal_point_positive_distance(snapshot: Snapshot) -> FloatArray:
    """Score by the distance above the mean: s = min(1, ‖P‖).

    Returns
    -------
    FloatArray
        Shape (n_nodes,), in [0, 1]; 0 for a node that is nowhere above the mean.
    """
    return np.minimum(positive_distance(snapshot), 1.0)


def linear_amplified_ippd(snapshot: Snapshot, *, sensitivity: float = 3.0) -> FloatArray:
    """Score by the amplified distance above the mean: s = min(1, k·‖P‖).

    Parameters
    ----------
    snapshot : Snapshot
        Loads, shape (n_nodes, 4), in [0, 1].
    sensitivity : float
        k, positive: a node 1/k above the mean has the largest score.

    Returns
    -------
    FloatArray
        Shape (n_nodes,), in [0, 1].

    Raises
    ------
    InputError
        If the sensitivity is not positive.

    References
    ----------
    Cluster Kube Descheduler Operator, recording rule
    ``descheduler:node:linear_amplified_ideal_point_positive_distance:k3:avg1m``.
    """
    if not sensitivity > 0.0:
        raise InputError(f"wanted a sensitivity above 0, found {sensitivity}")
    return np.minimum(sensitivity * positive_distance(snapshot), 1.0)


def linear_amplified_ippd_k1(snapshot: Snapshot) -> FloatArray:
    """Score by the distance above the mean, amplified once: the reference point of k3 and k5."""
    return linear_amplified_ippd(snapshot, sensitivity=1.0)


def linear_amplified_ippd_k3(snapshot: Snapshot) -> FloatArray:
    """Score by the distance above the mean, amplified three times: production's default."""
    return linear_amplified_ippd(snapshot, sensitivity=3.0)


def linear_amplified_ippd_k5(snapshot: Snapshot) -> FloatArray:
    """Score by the distance above the mean, amplified five times."""
    return linear_amplified_ippd(snapshot, sensitivity=5.0)
