"""Scores by weighted positive deviation from the mean.

Only what lies above the mean counts, and pressure counts more than use. The values are small (below 0.3 in ordinary
clusters): ten points of threshold are rarely reached, which is why the amplified scores exist.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np

from labkit.model import FloatArray, Snapshot
from labkit.scoring.averages import checked_weights
from labkit.scoring.mean import positive_deviation

DEVIATION_WEIGHTS: Final = (0.15, 0.35, 0.15, 0.35)


def weighted_mean_square_positive_deviation(
    snapshot: Snapshot, *, weights: Sequence[float] = DEVIATION_WEIGHTS
) -> FloatArray:
    """Score by the weighted mean of squared positive deviations: s = Σ w·P².

    Parameters
    ----------
    snapshot : Snapshot
        Loads, shape (n_nodes, 4), in [0, 1]; P is what of a load lies above the mean over the nodes.
    weights : sequence of float
        Four weights, not negative, summing to 1, in the order of the dimensions.

    Returns
    -------
    FloatArray
        Shape (n_nodes,), in [0, 1); all 0 for one node or equal nodes.

    Raises
    ------
    InputError
        If the weights are no weights.
    """
    result: FloatArray = positive_deviation(snapshot) ** 2 @ checked_weights(weights)
    return result


def weighted_rms_positive_deviation(snapshot: Snapshot, *, weights: Sequence[float] = DEVIATION_WEIGHTS) -> FloatArray:
    """Score by the weighted root mean square of positive deviations: s = √(Σ w·P²).

    The root of :func:`weighted_mean_square_positive_deviation`, hence the same order of nodes on the scale of the load.
    """
    return np.sqrt(weighted_mean_square_positive_deviation(snapshot, weights=weights))


def linear_weighted_positive_deviation(
    snapshot: Snapshot, *, weights: Sequence[float] = DEVIATION_WEIGHTS
) -> FloatArray:
    """Score by the weighted mean of positive deviations: s = Σ w·P.

    Unlike the squared forms, many small deviations count as much as one large.
    Parameters and result are those of :func:`weighted_mean_square_positive_deviation`.
    """
    return positive_deviation(snapshot) @ checked_weights(weights)
