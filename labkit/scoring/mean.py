"""Distances of nodes from the cluster's mean, the material of most scores.

Two rules about rounding live here, the same in ``rules/scores.yaml``: a distance of at most 1e-9 from the mean counts
as 0, and means that are compared are rounded to 1e-9 first. Without them nodes that are equal would differ by the
noise of floating-point sums, and dividing by the largest would blow that noise up to 1.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from labkit.model import FloatArray, Snapshot

RESOLUTION: Final = 1e-9
"""Loads that differ by no more than this are the same load."""


def deviation(snapshot: Snapshot) -> FloatArray:
    """Return each load's distance from the mean over the nodes.

    Returns
    -------
    FloatArray
        Shape (n_nodes, 4), in [-1, 1]; exactly 0 within 1e-9 of the mean.
    """
    load = snapshot.load_ratio
    if len(load) == 0:
        return load
    distance = load - load.mean(axis=0)
    return np.where(np.abs(distance) > RESOLUTION, distance, 0.0)


def positive_deviation(snapshot: Snapshot) -> FloatArray:
    """Return how far each load lies above the mean over the nodes, 0 where it does not.

    Returns
    -------
    FloatArray
        Shape (n_nodes, 4), in [0, 1).
    """
    return np.maximum(deviation(snapshot), 0.0)


def rounded(values: FloatArray) -> FloatArray:
    """Round to 1e-9, halves up, as PromQL's ``round(…, 1e-9)`` does."""
    inverse = 1.0 / RESOLUTION
    result: FloatArray = np.floor(values * inverse + 0.5) / inverse
    return result


def over_largest(values: FloatArray) -> FloatArray:
    """Divide by the largest value, so that it becomes 1; all-zero values stay zero.

    Parameters
    ----------
    values : FloatArray
        Shape (n_nodes,), not negative.

    Returns
    -------
    FloatArray
        Shape (n_nodes,), in [0, 1], never NaN.
    """
    largest = values.max(initial=0.0)
    return values / largest if largest > 0.0 else values
