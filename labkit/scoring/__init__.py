"""Scores of nodes, written from their definitions in NumPy, and the table of all algorithms.

Every function takes a :class:`~labkit.model.Snapshot` and returns one score per node, in [0, 1]. They are the reference
for the recording rules in ``rules/scores.yaml`` and compute, in the scorer, what PromQL cannot. The lab's nineteen come
first, then production's records that have no other name, then the user's own (:mod:`labkit.scoring.user`).
"""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Final

from labkit.errors import InputError
from labkit.scoring import averages, deviations, ideal_point, pareto, relative, user
from labkit.scoring.algorithm import (
    FORM_RECORDS,
    FORMS,
    SCORER_METRIC,
    Algorithm,
    ComputedBy,
    Form,
    ScoreFunction,
    algorithm,
    record_name,
)

__all__ = [
    "BUILT_IN",
    "FORMS",
    "FORM_RECORDS",
    "NINETEEN",
    "PRODUCTION",
    "SCORER_METRIC",
    "Algorithm",
    "Form",
    "algorithm",
    "algorithms",
    "get",
    "load",
    "names",
    "record_name",
    "unreadable",
]


def _built_in(family: str, function: ScoreFunction, description: str, *, computed_by: ComputedBy = "rule") -> Algorithm:
    name = function.__name__
    records = {form: record_name(name, form) for form in FORMS}
    return Algorithm(name, family, computed_by, description, records, function)


NINETEEN: Final[tuple[Algorithm, ...]] = (
    _built_in("average", averages.weighted_average, "mean of the four dimensions"),
    _built_in("average", averages.max_metric, "largest of the four dimensions"),
    _built_in("average", averages.euclidean_distance, "distance from the idle node"),
    _built_in("average", averages.pressure_focused, "pressure counted twice, use once"),
    _built_in("average", averages.cpu_focused, "CPU use and pressure"),
    _built_in("average", averages.memory_focused, "memory use and pressure"),
    _built_in("deviation", deviations.weighted_rms_positive_deviation, "weighted root mean square above the mean"),
    _built_in("deviation", deviations.weighted_mean_square_positive_deviation, "weighted mean square above the mean"),
    _built_in("deviation", deviations.linear_weighted_positive_deviation, "weighted mean of what is above the mean"),
    _built_in("ideal point", ideal_point.ideal_point_positive_distance, "distance above the mean"),
    _built_in("ideal point", ideal_point.linear_amplified_ippd_k1, "distance above the mean, once"),
    _built_in("ideal point", ideal_point.linear_amplified_ippd_k3, "distance above the mean, three times"),
    _built_in("ideal point", ideal_point.linear_amplified_ippd_k5, "distance above the mean, five times"),
    _built_in("relative", relative.centroid_distance, "distance from the mean either way, over the largest"),
    _built_in("relative", relative.directional_centroid_distance, "distance above the mean, over the largest"),
    _built_in("relative", relative.variance_minimization, "part in the cluster's variance, over the largest"),
    _built_in("relative", relative.directional_variance_minimization, "weighted sum above the mean, over the largest"),
    _built_in("relative", relative.critical_dimension_focus, "the cluster's most uneven dimension alone"),
    _built_in("Pareto", pareto.pareto_front, "fronts of nodes that nobody beats, and crowding", computed_by="scorer"),
)
"""The lab's own algorithms, by family."""

_K3 = ideal_point.linear_amplified_ippd_k3
PRODUCTION: Final[tuple[Algorithm, ...]] = (
    Algorithm(
        "production_k3", "production", "rule", "production's default query; the same as linear_amplified_ippd_k3",
        {"avg1m": "descheduler:node:linear_amplified_ideal_point_positive_distance:k3:avg1m"}, _K3,
    ),
    Algorithm(
        "actuation_priority", "production", "rule", "k3 on the 66th percentile of five minutes, less after evictions",
        {"avg1m": "descheduler:node:actuation_priority:p66_5m"}, _K3,
    ),
)  # fmt: skip
"""Records of production that no algorithm of the lab is called by. Their function holds for a load that has been
constant for five minutes without evictions."""

BUILT_IN: Final = NINETEEN + PRODUCTION
_TAKEN: Final = frozenset(each.name for each in BUILT_IN) | {"none", "random", "oracle", "all"}


def algorithms() -> tuple[Algorithm, ...]:
    """Return every algorithm: the nineteen, production's, and the user's readable ones."""
    own, _ = user.load_all(taken=_TAKEN)
    return (*BUILT_IN, *own)


def load(path: Path) -> tuple[Algorithm, ...]:
    """Read the algorithms of one file of the user's; see :func:`labkit.scoring.user.load`."""
    return user.load(path, taken=_TAKEN)


def unreadable() -> list[InputError]:
    """Return why files among the user's algorithms cannot be used."""
    return user.load_all(taken=_TAKEN)[1]


def names() -> tuple[str, ...]:
    """Return the name of every algorithm."""
    return tuple(each.name for each in algorithms())


def get(name: str) -> Algorithm:
    """Return an algorithm by its name, or by a record it yields.

    Raises
    ------
    InputError
        If there is none of that name.
    """
    for each in BUILT_IN:
        if name == each.name or name in each.records.values():
            return each
    own, errors = user.load_all(taken=_TAKEN)
    for each in own:
        if name == each.name or name in each.records.values():
            return each
    known = [each.name for each in (*BUILT_IN, *own)]
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.4)
    hint = f"did you mean {' or '.join(near)}?" if near else "'labkit algorithms' lists them"
    broken = f" ({errors[0]})" if errors else ""
    raise InputError(f"wanted the name of an algorithm, found {name!r}: {hint}{broken}")
