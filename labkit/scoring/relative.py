"""Scores over the largest of the cluster: one node always has 1, unless all are equal.

What they say is an order, not an amount: a cluster that is almost balanced has a node at 1 as a crowded one has.
The centroid distance and the variance count distance in both directions, so idle nodes score too.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np

from labkit.errors import InputError
from labkit.model import FloatArray, Snapshot
from labkit.scoring.ideal_point import positive_distance
from labkit.scoring.mean import deviation, over_largest, positive_deviation, rounded

VARIANCE_WEIGHTS: Final = (1.0, 2.0, 1.0, 2.0)


def _checked(weights: Sequence[float]) -> FloatArray:
    values = np.asarray(weights, dtype=np.float64)
    if values.shape != (4,) or not (np.isfinite(values) & (values >= 0.0)).all():
        raise InputError(f"wanted four finite weights, none negative, found {list(weights)}")
    return values


def centroid_distance(snapshot: Snapshot) -> FloatArray:
    """Score by the distance from the mean in either direction: s = ‖Δ‖ / max ‖Δ‖.

    Returns
    -------
    FloatArray
        Shape (n_nodes,), in [0, 1]; an idle node in a busy cluster scores as high as a busy one in an idle cluster.
    """
    return over_largest(np.sqrt((deviation(snapshot) ** 2).sum(axis=1)))


def directional_centroid_distance(snapshot: Snapshot) -> FloatArray:
    """Score by the distance above the mean: s = ‖P‖ / max ‖P‖.

    Returns
    -------
    FloatArray
        Shape (n_nodes,), in [0, 1].
    """
    return over_largest(positive_distance(snapshot))


def variance_minimization(snapshot: Snapshot, *, weights: Sequence[float] = VARIANCE_WEIGHTS) -> FloatArray:
    """Score by what the node adds to the cluster's weighted variance: s = √(Σ w·Δ²) / max.

    Parameters
    ----------
    snapshot : Snapshot
        Loads, shape (n_nodes, 4), in [0, 1]; Δ is the distance from the mean over the nodes.
    weights : sequence of float
        Four weights, finite, not negative, in the order of the dimensions; their scale does not matter.

    Returns
    -------
    FloatArray
        Shape (n_nodes,), in [0, 1].

    Raises
    ------
    InputError
        If the weights are no weights.
    """
    return over_largest(np.sqrt(deviation(snapshot) ** 2 @ _checked(weights)))


def directional_variance_minimization(snapshot: Snapshot, *, weights: Sequence[float] = VARIANCE_WEIGHTS) -> FloatArray:
    """Score by the weighted sum of positive deviations: s = Σ w·P / max.

    Linear, without a square, in spite of its name. Parameters and result are those of :func:`variance_minimization`.
    """
    return over_largest(positive_deviation(snapshot) @ _checked(weights))


def critical_dimension(snapshot: Snapshot) -> int:
    """Return the column of the most uneven dimension: the largest mean positive deviation.

    Means are rounded to 1e-9; the first in the order of the dimensions wins a tie. 0 without nodes.
    """
    if len(snapshot.nodes) == 0:
        return 0
    return int(np.argmax(rounded(positive_deviation(snapshot).mean(axis=0))))


def critical_dimension_focus(snapshot: Snapshot) -> FloatArray:
    """Score by the positive deviation in the cluster's most uneven dimension alone: s = P[k*] / max.

    Returns
    -------
    FloatArray
        Shape (n_nodes,), in [0, 1]. When the critical dimension changes, every score jumps.
    """
    return over_largest(positive_deviation(snapshot)[:, critical_dimension(snapshot)])
