"""Compensated summation, step for step as Prometheus sums (Kahan's method with Neumaier's improvement).

The running sum does not depend on the compensation, so it is a plain cumulative sum; each step's rounding
error then follows from two neighbouring partial sums. That gives the scalar loop's result bit for bit, in
a handful of array operations. Callers silence floating-point warnings: infinities are results here.
"""

from __future__ import annotations

import math

import numpy as np

from labkit.promql.vector import BoolArray, FloatArray, UnevenError

__all__ = ["kahan_add", "kahan_mean", "kahan_sum"]


def kahan_add(addend: FloatArray, total: FloatArray, error: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Add one addend per series to running sums with compensation.

    Parameters
    ----------
    addend, total, error : FloatArray
        Same shape: what is added, the sums so far, their compensations so far.

    Returns
    -------
    tuple of FloatArray
        The new sums and compensations; a sum that overflows loses its compensation.
    """
    new = total + addend
    lost = np.where(np.abs(total) >= np.abs(addend), (total - new) + addend, (addend - new) + total)
    return new, np.where(np.isinf(new), 0.0, error + lost)


def _sums(values: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Return sum and compensation of each column of values, shape (n_ranks, n_columns), n_ranks ≥ 1."""
    partial = np.cumsum(values, axis=0)
    total = partial[-1]
    if len(values) == 1:
        return total, np.zeros_like(total)
    before, new, addend = partial[:-1], partial[1:], values[1:]
    lost = np.where(np.abs(before) >= np.abs(addend), (before - new) + addend, (addend - new) + before)
    if np.isfinite(total).all():
        return total, np.cumsum(lost, axis=0)[-1]
    error = np.zeros_like(total)
    for new_row, lost_row in zip(new, lost, strict=True):
        error = np.where(np.isinf(new_row), 0.0, error + lost_row)
    return total, error


def kahan_sum(values: FloatArray) -> FloatArray:
    """Sum each column.

    Parameters
    ----------
    values : FloatArray
        Shape (n_ranks, n_columns), n_ranks ≥ 1, in the order in which Prometheus would add them. Zero
        stands for a missing sample: adding it changes neither sum nor compensation.

    Returns
    -------
    FloatArray
        Shape (n_columns,).
    """
    total, error = _sums(values)
    return np.where(np.isinf(total), total, total + error)


def kahan_mean(values: FloatArray, counts: FloatArray, present: BoolArray | None = None) -> FloatArray:
    """Return the mean of each column.

    Parameters
    ----------
    values : FloatArray
        As for :func:`kahan_sum`.
    counts : FloatArray
        Shape (n_columns,): how many samples each column has; 0 gives NaN.
    present : BoolArray, optional
        Shape of ``values``: where there is a sample; without it everywhere.

    Returns
    -------
    FloatArray
        Shape (n_columns,). A column whose sum would overflow is averaged incrementally, as Prometheus does.
    """
    total, error = _sums(values)
    mean = total / counts + error / counts
    odd = ~np.isfinite(total)
    if not odd.any():
        return mean
    if total.ndim > 1:
        raise UnevenError
    for column in np.flatnonzero(odd):
        samples = values[:, column] if present is None else values[present[:, column], column]
        if samples.size:
            mean[column] = _incremental_mean(samples.tolist())
    return mean


def _incremental_mean(values: list[float]) -> float:
    """Average samples, going over to the incremental mean where their plain sum overflows."""
    total, error, mean, count, overflowed = values[0], 0.0, 0.0, 1.0, False
    for value in values[1:]:
        count += 1
        if not overflowed:
            new, new_error = _add(value, total, error)
            if not math.isinf(new):
                total, error = new, new_error
                continue
            overflowed = True
            mean = total / (count - 1)
            error /= count - 1
        share = (count - 1) / count
        mean, error = _add(value / count, share * mean, share * error)
    return mean + error if overflowed else total / count + error / count


def _add(addend: float, total: float, error: float) -> tuple[float, float]:
    new = total + addend
    if math.isinf(new):
        return new, 0.0
    if abs(total) >= abs(addend):
        return new, error + ((total - new) + addend)
    return new, error + ((addend - new) + total)
