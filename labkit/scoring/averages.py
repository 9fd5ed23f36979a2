"""Scores of a node's own load: they need no other node.

They react to uniform overload, which scores relative to the mean cannot see, but do not tell a crowded node from a
crowded cluster. Source of the definitions: node-classifier-sim's reference classes, as ``docs/algorithms.md`` states
them; the range follows from the load's.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np

from labkit.errors import InputError
from labkit.model import FloatArray, Snapshot

EQUAL_WEIGHTS: Final = (0.25, 0.25, 0.25, 0.25)
CPU_WEIGHTS: Final = (0.7, 0.3, 0.0, 0.0)
MEMORY_WEIGHTS: Final = (0.0, 0.0, 0.7, 0.3)


def checked_weights(weights: Sequence[float]) -> FloatArray:
    """Return four weights as an array.

    Raises
    ------
    InputError
        If there are not four, one is negative, or they do not sum to 1.
    """
    values = np.asarray(weights, dtype=np.float64)
    if values.shape != (4,) or not (values >= 0.0).all() or not np.isclose(values.sum(), 1.0):
        raise InputError(f"wanted four weights, none negative, that sum to 1, found {list(weights)}")
    return values


def weighted_average(snapshot: Snapshot, *, weights: Sequence[float] = EQUAL_WEIGHTS) -> FloatArray:
    """Score by the weighted mean of the four dimensions: s = Σ w·x.

    Parameters
    ----------
    snapshot : Snapshot
        Loads, shape (n_nodes, 4), in [0, 1].
    weights : sequence of float
        Four weights, not negative, summing to 1, in the order of the dimensions.

    Returns
    -------
    FloatArray
        Shape (n_nodes,), in [0, 1]; 0 is idle, 1 is full and stalled in every dimension with a weight.

    Raises
    ------
    InputError
        If the weights are no weights.

    Examples
    --------
    >>> weighted_average(Snapshot.of(["n1", "n2"], [[0.9, 0.3, 0.6, 0.0], [0.1, 0.0, 0.2, 0.2]])).round(3).tolist()
    [0.45, 0.125]
    """
    return np.minimum(snapshot.load_ratio @ checked_weights(weights), 1.0)


def max_metric(snapshot: Snapshot) -> FloatArray:
    """Score by the largest of the four dimensions: s = max x.

    Returns
    -------
    FloatArray
        Shape (n_nodes,), in [0, 1].
    """
    result: FloatArray = snapshot.load_ratio.max(axis=1)
    return result


def euclidean_distance(snapshot: Snapshot) -> FloatArray:
    """Score by the distance from the idle node, over the full node's: s = ‖x‖ / 2.

    Returns
    -------
    FloatArray
        Shape (n_nodes,), in [0, 1]; 1 only for a node at 1 in all four dimensions.
    """
    result: FloatArray = np.sqrt((snapshot.load_ratio**2).sum(axis=1)) / 2.0
    return result


def pressure_focused(snapshot: Snapshot, *, pressure_multiplier: float = 2.0) -> FloatArray:
    """Score by mean pressure and mean use, pressure counting more: s = (m·p + u) / (m + 1).

    Parameters
    ----------
    snapshot : Snapshot
        Loads, shape (n_nodes, 4), in [0, 1]; p is the mean of the two pressures, u that of the two uses.
    pressure_multiplier : float
        m, not negative: how many times a pressure counts as much as a use.

    Returns
    -------
    FloatArray
        Shape (n_nodes,), in [0, 1].

    Raises
    ------
    InputError
        If the multiplier is negative.
    """
    if not pressure_multiplier >= 0.0:
        raise InputError(f"wanted a pressure multiplier of 0 or more, found {pressure_multiplier}")
    cpu_usage, cpu_pressure, memory_usage, memory_pressure = snapshot.load_ratio.T
    pressure = (cpu_pressure + memory_pressure) / 2.0
    usage = (cpu_usage + memory_usage) / 2.0
    score: FloatArray = (pressure_multiplier * pressure + usage) / (pressure_multiplier + 1.0)
    return np.minimum(score, 1.0)


def cpu_focused(snapshot: Snapshot, *, weights: Sequence[float] = CPU_WEIGHTS) -> FloatArray:
    """Score by CPU alone: s = 0.7 · use + 0.3 · pressure.

    Parameters
    ----------
    snapshot : Snapshot
        Loads, shape (n_nodes, 4), in [0, 1].
    weights : sequence of float
        As for :func:`weighted_average`, of which this is a case.

    Returns
    -------
    FloatArray
        Shape (n_nodes,), in [0, 1].
    """
    return weighted_average(snapshot, weights=weights)


def memory_focused(snapshot: Snapshot, *, weights: Sequence[float] = MEMORY_WEIGHTS) -> FloatArray:
    """Score by memory alone: s = 0.7 · use + 0.3 · pressure.

    Parameters and result are those of :func:`cpu_focused`.
    """
    return weighted_average(snapshot, weights=weights)
