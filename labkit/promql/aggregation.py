"""Aggregation over the rows of an instant vector, as Prometheus' ``by`` and ``without`` define groups."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import numpy as np

from labkit.errors import RuleError
from labkit.promql.labels import Grouping
from labkit.promql.summation import kahan_mean, kahan_sum
from labkit.promql.vector import BoolArray, FloatArray, UnevenError, Vector
from labkit.promql.windows import quantile_of_ranks

__all__ = ["AGGREGATIONS", "largest", "quantile"]

Aggregation = Callable[[FloatArray, BoolArray, FloatArray], FloatArray]
"""From values and presence, shape (n_ranks, n_groups), and counts, shape (n_groups,), to one value a group.

Groups without a sample may get any value: the caller masks them.
"""


def _spread(vector: Vector, groups: Grouping) -> tuple[FloatArray, BoolArray]:
    """Return values and presence by rank within the group, shape (n_ranks, n_groups) each."""
    members = groups.members
    values = vector.values[members]
    belongs = members >= 0
    if vector.is_stretch:
        belongs = np.broadcast_to(belongs[..., np.newaxis], values.shape)
    if vector.present is None:
        return values, belongs
    present = vector.present[members]
    return values, present if groups.even else present & belongs


def aggregated(aggregation: Aggregation, vector: Vector, groups: Grouping) -> Vector:
    """Reduce each group of a vector to one sample; a group without samples has none."""
    if not len(groups.table):
        if vector.is_stretch:
            raise UnevenError
        return Vector(groups.table, np.zeros(0))
    values, present = _spread(vector, groups)
    counts = present.sum(axis=0)
    some = counts > 0
    result = aggregation(values, present, counts.astype(np.float64))
    return Vector(groups.table, result, None if some.all() else some)


def _sum(values: FloatArray, present: BoolArray, counts: FloatArray) -> FloatArray:
    return kahan_sum(np.where(present, values, 0.0))


def _avg(values: FloatArray, present: BoolArray, counts: FloatArray) -> FloatArray:
    return kahan_mean(np.where(present, values, 0.0), counts, present)


def _min(values: FloatArray, present: BoolArray, counts: FloatArray) -> FloatArray:
    return np.asarray(np.fmin.reduce(np.where(present, values, np.nan), axis=0))


def _max(values: FloatArray, present: BoolArray, counts: FloatArray) -> FloatArray:
    return np.asarray(np.fmax.reduce(np.where(present, values, np.nan), axis=0))


def _count(values: FloatArray, present: BoolArray, counts: FloatArray) -> FloatArray:
    return counts


def _group(values: FloatArray, present: BoolArray, counts: FloatArray) -> FloatArray:
    return np.ones_like(counts)


def _stdvar(values: FloatArray, present: BoolArray, counts: FloatArray) -> FloatArray:
    """Return the population variance.

    Notes
    -----
    Prometheus uses Welford's recurrence. Here deviations are taken from each group's first sample, so that
    equal samples give exactly 0 as they do there; otherwise the two differ by rounding only.
    """
    first = np.take_along_axis(values, np.argmax(present, axis=0)[np.newaxis, :], axis=0)
    shifted = np.where(present, values - first, 0.0)
    mean = kahan_mean(shifted, counts, present)
    return np.asarray(kahan_sum(np.where(present, (shifted - mean) ** 2, 0.0)) / counts)


def _stddev(values: FloatArray, present: BoolArray, counts: FloatArray) -> FloatArray:
    return np.sqrt(_stdvar(values, present, counts))


AGGREGATIONS: Final[dict[str, Aggregation]] = {
    "sum": _sum,
    "avg": _avg,
    "min": _min,
    "max": _max,
    "count": _count,
    "group": _group,
    "stdvar": _stdvar,
    "stddev": _stddev,
}
"""Aggregations without a parameter, by their PromQL names."""


def quantile(share: float, vector: Vector, groups: Grouping) -> Vector:
    """Return the quantile of each group; see :func:`labkit.promql.windows.quantile_of_ranks`."""

    def of_group(values: FloatArray, present: BoolArray, counts: FloatArray) -> FloatArray:
        return quantile_of_ranks(share, np.where(present, values, np.inf), counts.astype(np.intp))

    return aggregated(of_group, vector, groups)


def largest(k: float, vector: Vector, groups: Grouping, *, smallest: bool) -> Vector:
    """Keep the k largest (or smallest) samples of each group, labels unchanged.

    Raises
    ------
    RuleError
        If k is NaN or no whole number of 64 bits.

    Notes
    -----
    Between equal samples Prometheus' choice depends on the order in which its heap met them; here the first
    in the table's order is kept. NaN is kept only where nothing else is left.
    """
    if vector.is_stretch:
        raise UnevenError
    n_rows = len(vector.table)
    if np.isnan(k) or k >= 2.0**63:
        raise RuleError(f"wanted a number of samples to keep, found {k:g}")
    if k < 1:
        return Vector(vector.table, vector.values, np.zeros(n_rows, dtype=np.bool_), vector.name)
    kept = np.zeros(n_rows, dtype=np.bool_)
    if n_rows:
        order = ranking(vector, smallest=smallest)
        group = groups.group_of[order]
        by_group = np.argsort(group, kind="stable")
        starts = np.searchsorted(group[by_group], np.arange(len(groups.table)))
        place = np.arange(len(order)) - starts[group[by_group]]
        kept[order[by_group][place < int(k)]] = True
    return Vector(vector.table, vector.values, kept, vector.name)


def ranking(vector: Vector, *, smallest: bool) -> np.ndarray[tuple[int], np.dtype[np.intp]]:
    """Return the rows that have a sample, best first, NaN last, equal samples in the table's order."""
    rows = np.flatnonzero(vector.mask())
    values = vector.values[rows] if smallest else -vector.values[rows]
    return rows[np.argsort(values, kind="stable")]
