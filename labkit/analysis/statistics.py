"""From many runs to what one may claim.

Runs are compared within blocks: one scenario, seed and size, where every algorithm met the same nodes, VMs and load.
Seeds of one scenario are no independent data sets, so intervals come from a bootstrap that resamples seeds within
each scenario: they speak about these scenarios, not about all that may exist. Claims rest on paired tests and
intervals, and on :data:`MIN_BLOCKS` blocks or more; mean ranks depend on who else takes part (Benavoli, Corani and
Mangili 2016) and are a picture only.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import pandas as pd
from scipy import stats

from labkit.analysis.metrics import Metric
from labkit.errors import InputError
from labkit.model import BoolArray, FloatArray

RESAMPLES: Final = 10_000
DIRICHLET_DRAWS: Final = 2_000
CONFIDENCE: Final = 0.95
ALPHA: Final = 0.05
EQUIVALENT_PROBABILITY: Final = 0.95
MIN_BLOCKS: Final = 6
"""Below this no two-sided signed-rank test can reach p < 0.05 (2 / 2^5 = 0.0625), and nothing is claimed."""
_SEED: Final = 20261123
"""Of the bootstrap: the same runs give the same report."""


@dataclass(frozen=True)
class Blocks:
    """One metric of an experiment as a complete block design.

    Parameters
    ----------
    metric : Metric
        What is compared.
    treatments : tuple of str
        Columns: algorithms, with the policy where that varies.
    values : FloatArray
        Shape (n_blocks, n_treatments); censored times stand at the run's length.
    strata : tuple of str
        Scenario of each block (with its size where that varies).
    censored : BoolArray
        Same shape as ``values``: the event did not happen within the run.
    dropped : int
        Blocks left out because a run of theirs is missing or failed.
    absent : tuple of str
        Treatments without a single finished run.
    undefined : tuple of str
        Treatments left out because none of their runs has a value: the metric says nothing about them.
    """

    metric: Metric
    treatments: tuple[str, ...]
    values: FloatArray
    strata: tuple[str, ...]
    censored: BoolArray
    dropped: int
    absent: tuple[str, ...] = ()
    undefined: tuple[str, ...] = ()

    def column(self, treatment: str) -> FloatArray:
        """Return the values of one treatment, shape (n_blocks,)."""
        return self.values[:, self.treatments.index(treatment)]

    def by_stratum(self) -> Blocks:
        """Return the means over each scenario: few blocks, but independent ones."""
        names = tuple(sorted(set(self.strata)))
        rows = [np.array(self.strata) == name for name in names]
        values = np.vstack([self.values[row].mean(axis=0) for row in rows])
        censored = np.vstack([self.censored[row].all(axis=0) for row in rows])
        return replace(self, values=values, strata=names, censored=censored)


def treatments(runs: pd.DataFrame) -> pd.Series[str]:
    """Name what is compared: the algorithm, and the policy where more than one takes part."""
    label = runs["label"] if "label" in runs else runs["algorithm"]
    policy = runs["policy_name"].fillna("") if "policy_name" in runs else pd.Series("", index=runs.index)
    if policy.nunique() < 2:
        return label.astype(str)
    return label.astype(str) + " @ " + policy.replace("", "production")


def blocks(runs: pd.DataFrame, metric: Metric) -> Blocks:
    """Arrange runs as blocks × treatments; incomplete blocks are left out and counted.

    Parameters
    ----------
    runs : DataFrame
        ``runs.parquet`` of an experiment.
    metric : Metric
        Which number.

    Raises
    ------
    InputError
        If no block is complete.
    """
    named = runs.assign(treatment=treatments(runs))
    good = named[named["status"] == "succeeded"]
    if good.empty or metric.name not in good:
        raise InputError(f"wanted finished runs with {metric.name}, found none")
    frame = pd.DataFrame(
        {
            "treatment": good["treatment"],
            "scenario": good["scenario"].astype(str) + _size(good),
            "seed": good["seed"],
            "repeat": good.get("repeat", 1),
            "value": good[metric.name].astype("float64"),
            "end": good["lab_seconds"].astype("float64"),
        }
    )
    # What is not defined is no late event and no good one: a run without cycles neither takes its whole length to
    # converge nor has the fewest over-utilised nodes.
    defined = good[metric.needs].fillna(0) > 0 if metric.needs in good else pd.Series(True, index=good.index)
    frame["censored"] = frame["value"].isna() & metric.censored & defined
    frame["value"] = frame["value"].where(~frame["censored"], frame["end"]).where(defined)
    finished = list(dict.fromkeys(frame["treatment"]))
    frame = frame.dropna(subset=["value"])
    if frame.empty:
        raise InputError(f"wanted finished runs with {metric.name}, found none in which it is defined")
    index = ["scenario", "seed", "repeat"]
    present = set(frame["treatment"])
    order = [name for name in finished if name in present]
    wide = frame.pivot_table(index=index, columns="treatment", values="value", aggfunc="first")[order]
    kept = wide[wide.notna().all(axis=1)]
    if kept.empty:
        raise InputError(
            f"wanted blocks in which every algorithm has {metric.name}, found none of {len(wide)} complete"
        )
    censored = frame.pivot_table(index=index, columns="treatment", values="censored", aggfunc="first")[order]
    return Blocks(
        metric,
        tuple(order),
        kept.to_numpy(np.float64),
        tuple(str(scenario) for scenario in kept.index.get_level_values("scenario")),
        censored.loc[kept.index].to_numpy(bool),
        _count_blocks(runs) - len(kept),
        tuple(sorted(set(named["treatment"]) - set(finished))),
        tuple(name for name in finished if name not in present),
    )


def _count_blocks(runs: pd.DataFrame) -> int:
    """Count the blocks that were to be run, those without a single good run included."""
    repeat = runs["repeat"] if "repeat" in runs else pd.Series(1, index=runs.index)
    rows = pd.DataFrame(
        {"scenario": runs["scenario"].astype(str) + _size(runs), "seed": runs["seed"], "repeat": repeat}
    )
    return len(rows.drop_duplicates())


def _size(runs: pd.DataFrame) -> pd.Series[str]:
    """Scenarios of one name but different sizes are different scenarios."""
    if "nodes" not in runs or runs.groupby("scenario")["nodes"].nunique().max() < 2:
        return pd.Series("", index=runs.index)
    return " n" + runs["nodes"].astype("Int64").astype(str)


@dataclass(frozen=True)
class Interval:
    """An estimate with its bootstrap interval, whose limits are NaN where nothing is known of its spread."""

    estimate: float
    low: float
    high: float

    def excludes_zero(self) -> bool:
        """Tell whether the whole interval lies on one side of 0."""
        return self.low > 0 or self.high < 0


def bootstrap_mean(
    values: FloatArray, strata: Sequence[str], *, confidence: float = CONFIDENCE, resamples: int = RESAMPLES
) -> Interval:
    """Estimate a mean with a bias-corrected, accelerated bootstrap that resamples within strata.

    Parameters
    ----------
    values : FloatArray
        Shape (n,), for example paired differences.
    strata : sequence of str
        Shape (n,); each stratum keeps its size in every resample. Where one holds a single value, which cannot tell its
        own spread, all are resampled together: wider, and about scenarios too.

    Returns
    -------
    Interval
        Without limits (NaN) for a single value.

    References
    ----------
    B. Efron, Better Bootstrap Confidence Intervals, JASA 82(397), 1987.
    """
    values = np.asarray(values, dtype=np.float64)
    estimate = float(values.mean())
    if len(values) < 2:
        return Interval(estimate, float("nan"), float("nan"))
    if np.ptp(values) == 0:
        return Interval(estimate, estimate, estimate)
    rng = np.random.default_rng(_SEED)
    labels = np.asarray(strata)
    if np.unique(labels, return_counts=True)[1].min() < 2:
        labels = np.zeros(len(values))
    total = np.zeros(resamples)
    for label in np.unique(labels):
        part = values[labels == label]
        total += part[rng.integers(0, len(part), (resamples, len(part)))].sum(axis=1)
    means = np.sort(total / len(values))
    if means[0] == means[-1]:
        return Interval(estimate, estimate, estimate)
    below = ((means < estimate).sum() + 0.5 * (means == estimate).sum()) / resamples
    bias = float(stats.norm.ppf(np.clip(below, 1 / resamples, 1 - 1 / resamples)))
    centred = np.concatenate([values[labels == label] - values[labels == label].mean() for label in np.unique(labels)])
    spread = float((centred**2).sum())
    acceleration = float((centred**3).sum()) / (6 * spread**1.5) if spread > 0 else 0.0
    quantiles = []
    for tail in ((1 - confidence) / 2, (1 + confidence) / 2):
        z = bias + float(stats.norm.ppf(tail))
        quantiles.append(float(stats.norm.cdf(bias + z / (1 - acceleration * z))))
    low, high = np.quantile(means, quantiles)
    return Interval(estimate, float(low), float(high))


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjust p-values for many comparisons (Holm 1979): uniformly better than Bonferroni, no assumptions."""
    order = np.argsort(p_values)
    count, adjusted, running = len(p_values), np.zeros(len(p_values)), 0.0
    for place, index in enumerate(order):
        running = max(running, min(1.0, (count - place) * p_values[index]))
        adjusted[index] = running
    return [float(value) for value in adjusted]


def signed_rank(differences: FloatArray) -> float:
    """Return the two-sided p-value of Wilcoxon's signed-rank test; 1 where nothing differs.

    Zero differences keep their ranks (Pratt 1959): runs on which two algorithms agree are evidence for agreement.
    """
    if not np.any(differences):
        return 1.0
    exact = (
        len(differences) <= 50 and np.all(differences != 0) and len(np.unique(np.abs(differences))) == len(differences)
    )
    answer = stats.wilcoxon(differences, zero_method="pratt", method="exact" if exact else "approx")
    return float(answer.pvalue)


def hodges_lehmann(differences: FloatArray) -> float:
    """Return the median of all pairwise means: a typical difference that outliers do not move."""
    first, second = np.triu_indices(len(differences))
    return float(np.median((differences[first] + differences[second]) / 2))


def rope_probabilities(
    differences: FloatArray, rope: float, *, draws: int = DIRICHLET_DRAWS
) -> tuple[float, float, float]:
    """Return the probabilities that a difference is practically lower, practically none, practically higher.

    The Bayesian signed-rank test: a Dirichlet process over the differences with one prior observation at 0 of
    weight 1/2; the region of each draw is the one that holds most of the weight of pairwise means.

    References
    ----------
    A. Benavoli et al., A Bayesian Wilcoxon signed-rank test based on the Dirichlet process, ICML 2014;
    A. Benavoli, G. Corani, J. Demšar, M. Zaffalon, JMLR 18(77), 2017.
    """
    z = np.concatenate([[0.0], differences])
    weights = np.random.default_rng(_SEED).dirichlet(np.concatenate([[0.5], np.ones(len(differences))]), draws)
    pairs = z[:, None] + z[None, :]
    lower = np.einsum("ri,ij,rj->r", weights, (pairs < -2 * rope).astype(np.float64), weights, optimize=True)
    higher = np.einsum("ri,ij,rj->r", weights, (pairs > 2 * rope).astype(np.float64), weights, optimize=True)
    shares = np.column_stack([lower, 1.0 - lower - higher, higher])
    wins = (shares == shares.max(axis=1, keepdims=True)).astype(np.float64)
    wins /= wins.sum(axis=1, keepdims=True)
    low, none, high = wins.mean(axis=0)
    return float(low), float(none), float(high)


@dataclass(frozen=True)
class Comparison:
    """One treatment against the baseline; differences are treatment minus baseline.

    ``verdict`` is ``better``, ``worse``, ``equivalent`` (practically no difference) or ``undecided``.
    """

    treatment: str
    mean: Interval
    difference: Interval
    hodges_lehmann: float
    p_value: float
    p_holm: float
    superiority: float
    lower: float
    equivalent: float
    higher: float
    verdict: str


def compare(design: Blocks, baseline: str) -> list[Comparison]:
    """Compare every treatment with the baseline, within blocks.

    A verdict of better or worse needs both a Holm-adjusted p below 0.05 and an interval that excludes 0, and the same
    sign of mean and typical difference; one of equivalent needs a probability of at least 0.95 that the difference lies
    within the metric's region of practical equivalence. Everything else is undecided, as is everything with fewer than
    :data:`MIN_BLOCKS` blocks.

    Raises
    ------
    InputError
        If the baseline is not among the treatments.
    """
    if baseline not in design.treatments:
        raise InputError(f"wanted a baseline of {', '.join(design.treatments)}; found {baseline!r}")
    reference = design.column(baseline)
    others = [name for name in design.treatments if name != baseline]
    differences = {name: design.column(name) - reference for name in others}
    p_values = {name: signed_rank(differences[name]) for name in others}
    adjusted = dict(zip(others, holm(list(p_values.values())), strict=True))
    found = []
    for name in design.treatments:
        mean = bootstrap_mean(design.column(name), design.strata)
        if name == baseline:
            zero = Interval(0.0, 0.0, 0.0)
            found.append(Comparison(name, mean, zero, 0.0, 1.0, 1.0, 0.5, 0.0, 1.0, 0.0, "baseline"))
            continue
        delta = differences[name]
        interval = bootstrap_mean(delta, design.strata)
        lower, none, higher = rope_probabilities(delta, design.metric.rope)
        better = design.metric.sign * delta < 0
        superiority = float(better.mean() + 0.5 * (delta == 0).mean())
        typical = hodges_lehmann(delta)
        verdict = "undecided"
        if len(delta) >= MIN_BLOCKS:
            verdict = _verdict(design.metric, interval, typical, adjusted[name], none)
        found.append(
            Comparison(
                name, mean, interval, typical, p_values[name], adjusted[name], superiority, lower, none, higher, verdict
            )
        )
    return found


def _verdict(metric: Metric, difference: Interval, typical: float, p_holm: float, equivalent: float) -> str:
    if equivalent >= EQUIVALENT_PROBABILITY:
        return "equivalent"
    # Where a few large differences outweigh many small ones the test and the mean speak of different things.
    if p_holm < ALPHA and difference.excludes_zero() and difference.estimate * typical > 0:
        return "better" if metric.sign * difference.estimate < 0 else "worse"
    return "undecided"


@dataclass(frozen=True)
class Ranking:
    """Friedman's test and what a critical-difference diagram shows; rank 1 is best."""

    treatments: tuple[str, ...]
    mean_ranks: FloatArray
    n_blocks: int
    statistic: float
    p_value: float
    critical_difference: float


def rank(design: Blocks) -> Ranking:
    """Rank the treatments within each block.

    Returns
    -------
    Ranking
        With Friedman's test in Iman and Davenport's F form and Nemenyi's critical difference
        ``q * sqrt(k (k + 1) / (6 N))``; without differences the p-value is 1.

    References
    ----------
    J. Demšar, Statistical Comparisons of Classifiers over Multiple Data Sets, JMLR 7, 2006.
    """
    n, k = design.values.shape
    ranks = stats.rankdata(design.metric.sign * design.values, axis=1)
    mean_ranks = ranks.mean(axis=0)
    statistic, p_value, critical = float("nan"), 1.0, float("nan")
    if k > 1 and n > 1:
        ties = sum(float(((count := np.unique(row, return_counts=True)[1]) ** 3 - count).sum()) for row in ranks)
        correction = 1.0 - ties / (n * (k**3 - k))
        if correction > 0:
            spread = float(((mean_ranks - (k + 1) / 2) ** 2).sum())
            chi = 12.0 * n / (k * (k + 1)) * spread / correction
            room = n * (k - 1) - chi
            statistic = (n - 1) * chi / room if room > 0 else float("inf")
            p_value = float(stats.f.sf(statistic, k - 1, (k - 1) * (n - 1)))
        q = float(stats.studentized_range.ppf(1 - ALPHA, k, np.inf)) / np.sqrt(2)
        critical = float(q * np.sqrt(k * (k + 1) / (6 * n)))
    return Ranking(design.treatments, mean_ranks, n, statistic, p_value, critical)


def pareto_front(points: FloatArray) -> BoolArray:
    """Return which points no other beats: at least as low in every column, lower in one.

    Parameters
    ----------
    points : FloatArray
        Shape (n, n_goals), lower is better in each column.

    Returns
    -------
    BoolArray
        Shape (n,).
    """
    no_worse = (points[:, None, :] <= points[None, :, :]).all(axis=2)
    better = (points[:, None, :] < points[None, :, :]).any(axis=2)
    return np.asarray(~(no_worse & better).any(axis=0))


@dataclass(frozen=True)
class Survival:
    """How long runs stayed without an event.

    Parameters
    ----------
    times, share, low, high : FloatArray
        Shape (n_steps,): the share of runs that had no event yet, with its 95 % band (Greenwood, log-log).
    restricted_mean : Interval
        Mean time to the event within the run's length.
    events, runs : int
        How many runs had it, of how many.
    """

    times: FloatArray
    share: FloatArray
    low: FloatArray
    high: FloatArray
    restricted_mean: Interval
    events: int
    runs: int


def survival(times: FloatArray, censored: BoolArray, strata: Sequence[str]) -> Survival:
    """Estimate a survival curve (Kaplan and Meier 1958).

    Parameters
    ----------
    times : FloatArray
        Shape (n,), seconds; the run's length where ``censored``.
    censored : BoolArray
        Shape (n,): the run ended first.
    strata : sequence of str
        For the interval of the restricted mean.
    """
    curve = stats.ecdf(stats.CensoredData.right_censored(times, censored)).sf
    share = np.asarray(curve.probabilities, dtype=np.float64)
    low, high = share, share
    if not censored.all():
        with warnings.catch_warnings():
            # Greenwood's formula has no value where nobody or everybody had the event.
            warnings.simplefilter("ignore", RuntimeWarning)
            band = curve.confidence_interval(method="log-log")
        low, high = _carried(band.low.probabilities), _carried(band.high.probabilities)
    return Survival(
        np.concatenate([[0.0], np.asarray(curve.quantiles, dtype=np.float64)]),
        np.concatenate([[1.0], share]),
        np.concatenate([[1.0], np.minimum(low, share)]),
        np.concatenate([[1.0], np.maximum(high, share)]),
        bootstrap_mean(times, strata),
        int((~censored).sum()),
        len(times),
    )


def _carried(values: FloatArray) -> FloatArray:
    """Fill values that do not exist with the last one that does, 1 before the first."""
    return np.asarray(pd.Series(values, dtype="float64").ffill().fillna(1.0), dtype=np.float64)
