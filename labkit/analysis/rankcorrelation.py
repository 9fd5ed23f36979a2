"""Whether two sets of runs put the algorithms in the same order, and whether repeats of one set would."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from labkit.analysis.statistics import CONFIDENCE
from labkit.errors import InputError
from labkit.model import FloatArray

RESAMPLES: Final = 2_000
DIGITS: Final = 9
"""Means that differ by less are a tie: adding in another order must not make a rank."""
_SEED: Final = 20261124


@dataclass(frozen=True)
class RankCorrelation:
    """Kendall's tau-b over algorithms: of two sides, and of one side with itself.

    Parameters
    ----------
    tau : float
        Between the means of the two sides; NaN where one side has only ties.
    halves : float
        Between two halves of the first side's repeats, averaged over all ways to halve them: what chance allows.
    stand_in : float
        Between a half of the first side's repeats and as many of the second side's: what becomes of ``halves`` when the
        second side stands in for one half.
    gaps : FloatArray
        Shape (n_resamples,): bootstrap of ``tau - halves``; NaN where it has no value.
    """

    tau: float
    halves: float
    stand_in: float
    gaps: FloatArray

    @property
    def gap(self) -> float:
        """``tau - halves``."""
        return self.tau - self.halves

    @property
    def gap_interval(self) -> tuple[float, float]:
        """95 % of the bootstrap."""
        return interval_of(self.gaps)


def tau_b(one: FloatArray, other: FloatArray) -> FloatArray:
    """Return Kendall's tau-b of each row.

    Parameters
    ----------
    one, other : FloatArray
        Shape (n_rows, n_items).

    Returns
    -------
    FloatArray
        Shape (n_rows,), in [-1, 1]; NaN where a row has only ties.

    References
    ----------
    M. G. Kendall, The treatment of ties in ranking problems, Biometrika 33(3), 1945.
    """
    first, second = np.triu_indices(one.shape[1], 1)
    x = np.sign(np.round(one[:, first] - one[:, second], DIGITS))
    y = np.sign(np.round(other[:, first] - other[:, second], DIGITS))
    weight = np.sqrt(np.abs(x).sum(axis=1) * np.abs(y).sum(axis=1))
    with np.errstate(invalid="ignore", divide="ignore"):
        taus: FloatArray = np.where(weight > 0, (x * y).sum(axis=1) / weight, np.nan)
    return taus


def correlate(one: Sequence[FloatArray], other: Sequence[FloatArray], *, resamples: int = RESAMPLES) -> RankCorrelation:
    """Compare the order of algorithms on two sides with their order in two halves of the first side.

    Parameters
    ----------
    one, other : sequence of FloatArray
        The runs' values for each algorithm; the same algorithms in the same order.
    resamples : int
        Of the bootstrap, which draws runs within each algorithm; halves are drawn apart, so that no run is in both.

    Raises
    ------
    InputError
        If there are fewer than two algorithms, or an algorithm without runs, or with a single one on the first side.
    """
    if len(one) < 2 or len(one) != len(other) or not all(len(values) for values in other):
        raise InputError("wanted runs of the same two or more algorithms on both sides")
    repeats = min(len(values) for values in one)
    if repeats < 2:
        raise InputError("wanted at least two repeats of each algorithm on the first side, found one")
    rng = np.random.default_rng(_SEED)
    size = repeats // 2
    splits = _splits(repeats)
    firsts = np.stack([np.stack([values[list(half)].mean() for values in one]) for half, _ in splits])
    seconds = np.stack([np.stack([values[list(half)].mean() for values in one]) for _, half in splits])
    stand_ins = np.column_stack([_resampled(values, repeats - size, len(splits) * 50, rng) for values in other])
    drawn_one = np.column_stack([_resampled(values, len(values), resamples, rng) for values in one])
    drawn_other = np.column_stack([_resampled(values, len(values), resamples, rng) for values in other])
    order = rng.permuted(np.tile(np.arange(repeats), (resamples, 1)), axis=1)
    within = rng.random((len(one), resamples, repeats))
    halves = [
        np.column_stack(
            [_of_half(values, part, drawn) for values, drawn in zip(one, within[:, :, part_of], strict=True)]
        )
        for part, part_of in ((order[:, :size], slice(0, size)), (order[:, size:], slice(size, repeats)))
    ]
    return RankCorrelation(
        tau=float(tau_b(_means(one), _means(other))[0]),
        halves=_mean(tau_b(firsts, seconds)),
        stand_in=_mean(tau_b(np.repeat(firsts, 50, axis=0), stand_ins)),
        gaps=tau_b(drawn_one, drawn_other) - tau_b(*halves),
    )


def interval_of(values: FloatArray) -> tuple[float, float]:
    """Return the middle 95 % of bootstrapped values; NaN without any."""
    known = values[~np.isnan(values)]
    if not len(known):
        return float("nan"), float("nan")
    low, high = np.quantile(known, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return float(low), float(high)


def _splits(repeats: int) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
    everyone = range(repeats)
    halves = itertools.combinations(everyone, repeats // 2)
    return [(half, tuple(each for each in everyone if each not in half)) for half in halves]


def _means(side: Sequence[FloatArray]) -> FloatArray:
    return np.array([[values.mean() for values in side]])


def _mean(values: FloatArray) -> float:
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else float("nan")


def _resampled(values: FloatArray, count: int, resamples: int, rng: np.random.Generator) -> FloatArray:
    drawn: FloatArray = values[rng.integers(0, len(values), (resamples, count))].mean(axis=1)
    return drawn


def _of_half(values: FloatArray, half: FloatArray, drawn: FloatArray) -> FloatArray:
    """Return the mean of runs drawn, with replacement, from the runs of a half; ``drawn`` is uniform in [0, 1)."""
    size = half.shape[1]
    chosen = np.take_along_axis(half, (drawn * size).astype(np.int64), axis=1)
    means: FloatArray = values[chosen].mean(axis=1)
    return means
