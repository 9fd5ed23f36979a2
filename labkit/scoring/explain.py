"""Which dimension contributes what to a score.

A score's parts are what its formula adds up, per dimension; where a root, a limit or a division follows, the parts are
scaled so that they still sum to the score. The Pareto front has no such parts: it depends on all dimensions at once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

import numpy as np

from labkit.model import FloatArray, Snapshot
from labkit.scoring.averages import CPU_WEIGHTS, EQUAL_WEIGHTS, MEMORY_WEIGHTS
from labkit.scoring.deviations import DEVIATION_WEIGHTS
from labkit.scoring.mean import deviation, positive_deviation
from labkit.scoring.relative import VARIANCE_WEIGHTS, critical_dimension

Parts = Callable[[Snapshot], FloatArray]
_PRESSURE_WEIGHTS: Final = (1 / 6, 1 / 3, 1 / 6, 1 / 3)


def _loads(weights: tuple[float, ...] = EQUAL_WEIGHTS, power: int = 1) -> Parts:
    return lambda snapshot: snapshot.load_ratio**power * np.array(weights)


def _above(weights: tuple[float, ...] = EQUAL_WEIGHTS, power: int = 2) -> Parts:
    return lambda snapshot: positive_deviation(snapshot) ** power * np.array(weights)


def _either_way(weights: tuple[float, ...] = EQUAL_WEIGHTS) -> Parts:
    return lambda snapshot: deviation(snapshot) ** 2 * np.array(weights)


def _largest(snapshot: Snapshot) -> FloatArray:
    load = snapshot.load_ratio
    chosen = np.arange(load.shape[1]) == load.argmax(axis=1)[:, None]
    return np.where(chosen, load, 0.0)


def _critical(snapshot: Snapshot) -> FloatArray:
    above = positive_deviation(snapshot)
    return np.where(np.arange(above.shape[1]) == critical_dimension(snapshot), above, 0.0)


_PARTS: Final[Mapping[str, Parts]] = {
    "weighted_average": _loads(),
    "max_metric": _largest,
    "euclidean_distance": _loads(power=2),
    "pressure_focused": _loads(_PRESSURE_WEIGHTS),
    "cpu_focused": _loads(CPU_WEIGHTS),
    "memory_focused": _loads(MEMORY_WEIGHTS),
    "weighted_rms_positive_deviation": _above(DEVIATION_WEIGHTS),
    "weighted_mean_square_positive_deviation": _above(DEVIATION_WEIGHTS),
    "linear_weighted_positive_deviation": _above(DEVIATION_WEIGHTS, power=1),
    "ideal_point_positive_distance": _above(),
    "linear_amplified_ippd_k1": _above(),
    "linear_amplified_ippd_k3": _above(),
    "linear_amplified_ippd_k5": _above(),
    "production_k3": _above(),
    "actuation_priority": _above(),
    "centroid_distance": _either_way(),
    "directional_centroid_distance": _above(),
    "variance_minimization": _either_way(VARIANCE_WEIGHTS),
    "directional_variance_minimization": _above(VARIANCE_WEIGHTS, power=1),
    "critical_dimension_focus": _critical,
}


def contributions(name: str, snapshot: Snapshot, score: FloatArray) -> FloatArray | None:
    """Return what each dimension contributes to the scores.

    Parameters
    ----------
    name : str
        Of a built-in algorithm.
    snapshot : Snapshot
        The loads.
    score : FloatArray
        Shape (n_nodes,), the algorithm's scores of that snapshot.

    Returns
    -------
    FloatArray or None
        Shape (n_nodes, 4); rows sum to the score. None where a score has no such parts.
    """
    if name not in _PARTS:
        return None
    parts = _PARTS[name](snapshot)
    total = parts.sum(axis=1)
    scale: FloatArray = np.divide(score, total, out=np.zeros_like(score), where=total > 0.0)
    result: FloatArray = parts * scale[:, None]
    return result
