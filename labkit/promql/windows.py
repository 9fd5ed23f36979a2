"""Functions of range vectors: one value per series from its samples in a window.

Each follows Prometheus 3.12 step by step (``promql/functions.go``), over all series at once: samples lie in
ranks, oldest first, and a series with fewer samples than others simply ends earlier.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import numpy as np

from labkit.promql.storage import IntArray, TimeArray, Window
from labkit.promql.summation import kahan_add, kahan_mean, kahan_sum
from labkit.promql.vector import BoolArray, FloatArray, UnevenError

__all__ = ["KEEPS_NAME", "WINDOW_FUNCTIONS", "quantile_over_time"]

WindowFunction = Callable[[Window], tuple[FloatArray, BoolArray | None]]

_EXTRAPOLATION_FACTOR: Final = 1.1
"""A boundary is near enough to extrapolate to it when it is within this many mean sample intervals."""

KEEPS_NAME: Final = frozenset({"last_over_time"})
"""Window functions whose result keeps the metric's name."""


def _lengths(window: Window) -> IntArray:
    if window.counts is not None:
        return window.counts
    return np.full(window.values.shape[1:], len(window.values), dtype=np.intp)


def _valid(window: Window) -> BoolArray | None:
    """Return where the ranks hold samples, None for everywhere."""
    if window.counts is None:
        return None
    return np.arange(len(window.values))[:, np.newaxis] < window.counts


def _some(window: Window) -> BoolArray | None:
    """Return which series have a sample, None for all."""
    if window.counts is None:
        return None
    present = window.counts > 0
    return None if present.all() else present


def _padded(window: Window) -> FloatArray:
    """Return the values with 0 where a series has ended."""
    valid = _valid(window)
    return window.values if valid is None else np.where(valid, window.values, 0.0)


def _last(window: Window) -> tuple[FloatArray, TimeArray]:
    """Return each series' last sample and its time."""
    if window.counts is None:
        return window.values[-1], window.times_ms[-1]
    rank = np.maximum(window.counts - 1, 0)[np.newaxis, :]
    values = np.take_along_axis(window.values, rank, axis=0)[0]
    return values, np.take_along_axis(window.times_ms, rank, axis=0)[0]


def _extrapolated(window: Window, *, counter: bool, per_second: bool) -> tuple[FloatArray, BoolArray | None]:
    """Return the growth over the window, extrapolated towards its ends.

    Notes
    -----
    A counter that falls was reset: what it had is added back. The growth between first and last sample is
    stretched to the window's boundaries where a sample could be expected there, otherwise by half a mean
    interval; a counter is never stretched to before the moment at which it was 0.
    """
    ranks = len(window.values)
    if ranks < 2:
        if window.is_stretch:
            raise UnevenError
        return np.zeros(len(window.table)), np.zeros(len(window.table), dtype=np.bool_)
    first = window.values[0]
    last, last_ms = _last(window)
    counts = window.counts
    grown = last - first
    if counter:
        reset = window.values[1:] < window.values[:-1]
        if counts is not None:
            reset &= np.arange(1, ranks)[:, np.newaxis] < counts
        if reset.any():
            if window.is_stretch:
                raise UnevenError
            for rank in np.flatnonzero(reset.any(axis=1)):
                grown = np.where(reset[rank], grown + window.values[rank], grown)
    sampled = (last_ms - window.times_ms[0]) / 1000
    mean_gap = sampled / (ranks - 1 if counts is None else counts - 1)
    threshold = mean_gap * _EXTRAPOLATION_FACTOR
    to_start = (window.times_ms[0] - window.start_ms) / 1000
    to_end = (window.end_ms - last_ms) / 1000
    to_start = np.where(to_start >= threshold, mean_gap / 2, to_start)
    to_end = np.where(to_end >= threshold, mean_gap / 2, to_end)
    if counter:
        to_zero = sampled * (first / grown)
        to_start = np.where((grown > 0) & (first >= 0) & (to_zero < to_start), to_zero, to_start)
    factor = (sampled + to_start + to_end) / sampled
    if per_second:
        factor = factor / ((window.end_ms - window.start_ms) / 1000)
    return grown * factor, None if counts is None else counts > 1


def _rate(window: Window) -> tuple[FloatArray, BoolArray | None]:
    return _extrapolated(window, counter=True, per_second=True)


def _increase(window: Window) -> tuple[FloatArray, BoolArray | None]:
    return _extrapolated(window, counter=True, per_second=False)


def _delta(window: Window) -> tuple[FloatArray, BoolArray | None]:
    return _extrapolated(window, counter=False, per_second=False)


def _avg_over_time(window: Window) -> tuple[FloatArray, BoolArray | None]:
    counts = _lengths(window).astype(np.float64)
    return kahan_mean(_padded(window), counts, _valid(window)), _some(window)


def _sum_over_time(window: Window) -> tuple[FloatArray, BoolArray | None]:
    return kahan_sum(_padded(window)), _some(window)


def _count_over_time(window: Window) -> tuple[FloatArray, BoolArray | None]:
    return _lengths(window).astype(np.float64), _some(window)


def _min_over_time(window: Window) -> tuple[FloatArray, BoolArray | None]:
    valid = _valid(window)
    values = window.values if valid is None else np.where(valid, window.values, np.nan)
    return np.fmin.reduce(values, axis=0), _some(window)


def _max_over_time(window: Window) -> tuple[FloatArray, BoolArray | None]:
    valid = _valid(window)
    values = window.values if valid is None else np.where(valid, window.values, np.nan)
    return np.fmax.reduce(values, axis=0), _some(window)


def _last_over_time(window: Window) -> tuple[FloatArray, BoolArray | None]:
    return _last(window)[0], _some(window)


def _stddev_over_time(window: Window) -> tuple[FloatArray, BoolArray | None]:
    """Return the population standard deviation by Welford's recurrence with compensation."""
    zeros = np.zeros(window.values.shape[1:])
    mean, mean_error, squares, squares_error = zeros, zeros, zeros, zeros
    valid = _valid(window)
    for rank, sample in enumerate(window.values):
        delta = sample - (mean + mean_error)
        new_mean, new_mean_error = kahan_add(delta / (rank + 1), mean, mean_error)
        product = delta * (sample - (new_mean + new_mean_error))
        new_squares, new_squares_error = kahan_add(product, squares, squares_error)
        if valid is not None:
            here = valid[rank]
            new_mean = np.where(here, new_mean, mean)
            new_mean_error = np.where(here, new_mean_error, mean_error)
            new_squares = np.where(here, new_squares, squares)
            new_squares_error = np.where(here, new_squares_error, squares_error)
        mean, mean_error, squares, squares_error = new_mean, new_mean_error, new_squares, new_squares_error
    return np.sqrt((squares + squares_error) / _lengths(window)), _some(window)


def quantile_over_time(share: float, window: Window) -> tuple[FloatArray, BoolArray | None]:
    """Return each series' quantile, interpolated between neighbours.

    Parameters
    ----------
    share : float
        The quantile in [0, 1]; below gives -Inf, above +Inf, NaN gives NaN.
    window : Window
        The samples.
    """
    valid = _valid(window)
    values = window.values if valid is None else np.where(valid, window.values, np.inf)
    return quantile_of_ranks(share, values, _lengths(window)), _some(window)


def quantile_of_ranks(share: float, values: FloatArray, counts: IntArray) -> FloatArray:
    """Return the quantile of each column's samples.

    Parameters
    ----------
    share : float
        The quantile in [0, 1].
    values : FloatArray
        Shape (n_ranks, n_columns); +Inf where a column has no sample.
    counts : IntArray
        Shape (n_columns,): how many samples each column has. A column without any gets a meaningless value.
    """
    if values.ndim > 2:
        raise UnevenError
    if np.isnan(share) or share < 0 or share > 1:
        outside = np.nan if np.isnan(share) else np.copysign(np.inf, share - 0.5)
        return np.full(values.shape[1], outside)
    ranked = np.sort(values, axis=0)
    not_a_number = np.isnan(ranked[-1])
    if not_a_number.any():
        # Prometheus sorts NaN before everything else, NumPy after it.
        for column in np.flatnonzero(not_a_number):
            ranked[:, column] = np.roll(ranked[:, column], int(np.isnan(ranked[:, column]).sum()))
    top = np.maximum(counts - 1, 0)
    rank = share * top
    floor = np.floor(rank)
    weight = rank - floor
    lower = floor.astype(np.intp)
    upper = np.minimum(top, lower + 1)
    low = np.take_along_axis(ranked, lower[np.newaxis, :], axis=0)[0]
    high = np.take_along_axis(ranked, upper[np.newaxis, :], axis=0)[0]
    interpolated: FloatArray = low * (1 - weight) + high * weight
    return interpolated


WINDOW_FUNCTIONS: Final[dict[str, WindowFunction]] = {
    "rate": _rate,
    "increase": _increase,
    "delta": _delta,
    "avg_over_time": _avg_over_time,
    "sum_over_time": _sum_over_time,
    "count_over_time": _count_over_time,
    "min_over_time": _min_over_time,
    "max_over_time": _max_over_time,
    "last_over_time": _last_over_time,
    "stddev_over_time": _stddev_over_time,
}
"""Functions of one range vector, by their PromQL names."""
