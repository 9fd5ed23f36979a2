"""Which algorithm for which goal: the best of those that do their work, and how sure that is.

An algorithm that moves nothing has the fewest migrations. So every goal but the coolest hot spots has a floor: hot-spot
node-seconds must not be practically worse than the reference's, which is the algorithm in use. And the best mean alone
decides nothing: of all that are not distinguishable from it the one with the fewest migrations is chosen.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from labkit.analysis import statistics
from labkit.analysis.metrics import Metric
from labkit.analysis.statistics import EQUIVALENT_PROBABILITY, MIN_BLOCKS, Blocks, Comparison, Interval
from labkit.errors import InputError
from labkit.experiment import BASELINES

FLOOR_METRIC: Final = "hotspot_seconds"


@dataclass(frozen=True)
class Goal:
    """What somebody may want.

    Parameters
    ----------
    title : str
        In words.
    metric : str
        The number that says how well it was reached.
    floor : bool
        Whether only algorithms take part whose hot spots are not practically worse than the reference's.
    """

    title: str
    metric: str
    floor: bool = True


GOALS: Final = (
    Goal("fewest migrations", "migrations"),
    Goal("coolest hot spots", FLOOR_METRIC, floor=False),
    Goal("fastest convergence", "time_to_settle_seconds"),
    Goal("calmest", "ping_pong_migrations"),
)


@dataclass(frozen=True)
class Choice:
    """What to choose for a goal.

    Parameters
    ----------
    goal : Goal
        For what.
    metric : Metric
        The goal's.
    name : str
        The treatment to choose: the one with the fewest migrations of ``level``.
    leader : str
        The one with the best mean among those that take part.
    level : tuple of str
        Those whose paired difference to the leader has an interval that holds 0, the leader included.
    found : Comparison
        It against the reference, by the goal's metric.
    price : dict of str to Interval
        Its differences to the reference by migrations and by hot spots.
    equivalent : tuple of str
        Others that take part and are practically equivalent to it, with a probability of at least 0.95.
    below_floor : tuple of str
        Treatments left out because their hot spots are, or may be, practically worse than the reference's.
    worse_in, hotter_in : tuple of str
        Scenarios in which its mean is practically worse than the reference's, by the goal's metric and by hot spots.
    """

    goal: Goal
    metric: Metric
    name: str
    leader: str
    level: tuple[str, ...]
    found: Comparison
    price: Mapping[str, Interval]
    equivalent: tuple[str, ...]
    below_floor: tuple[str, ...]
    worse_in: tuple[str, ...]
    hotter_in: tuple[str, ...]


def choose(designs: Mapping[str, Blocks], reference: str, *, goals: Sequence[Goal] = GOALS) -> list[Choice]:
    """Choose a treatment for each goal.

    Parameters
    ----------
    designs : mapping of str to Blocks
        By metric; goals whose metric is missing are left out.
    reference : str
        The treatment in use, whose hot spots are the floor.

    Returns
    -------
    list of Choice
        One for each goal that has runs enough and an algorithm left.

    Raises
    ------
    InputError
        If hot spots were not measured, the reference or every algorithm is missing, or the runs are too few to tell
        any two algorithms apart.
    """
    if FLOOR_METRIC not in designs:
        raise InputError(f"wanted runs with {FLOOR_METRIC}, found {', '.join(designs) or 'none'}")
    hot = designs[FLOOR_METRIC]
    if reference not in hot.treatments:
        raise InputError(f"wanted a reference of {', '.join(hot.treatments)}; found {reference!r}")
    if len(hot.values) < MIN_BLOCKS:
        raise InputError(
            f"wanted {MIN_BLOCKS} paired blocks (scenario and seed) or more to choose by, found {len(hot.values)}: "
            "add seeds or scenarios to the matrix"
        )
    names = [name for name in hot.treatments if is_choice(name)]
    if not names:
        raise InputError(f"wanted algorithms to choose from, found only {', '.join(hot.treatments)}")
    worse = tuple(name for name in names if not above_floor(hot, name, reference))
    choices = []
    for goal in goals:
        if goal.metric not in designs or len(designs[goal.metric].values) < MIN_BLOCKS:
            continue
        left_out = worse if goal.floor else ()
        known = designs[goal.metric].treatments
        left = [name for name in names if name not in left_out and name in known]
        if left and reference in known:
            choices.append(_choose(goal, designs, reference, left, left_out))
    return choices


def is_choice(treatment: str) -> bool:
    """Tell whether a treatment can be chosen: not an end of the scale, not an algorithm entered again."""
    return treatment.partition(" ")[0] not in BASELINES and "(again" not in treatment


def above_floor(hot: Blocks, name: str, reference: str) -> bool:
    """Tell whether hot spots are not practically worse than the reference's.

    The whole 95 % interval of the difference must lie below the upper end of the region of practical equivalence,
    which is a test of non-inferiority at 2.5 %.
    """
    difference = statistics.bootstrap_mean(hot.column(name) - hot.column(reference), hot.strata)
    return difference.high <= hot.metric.rope


def _choose(
    goal: Goal, designs: Mapping[str, Blocks], reference: str, names: Sequence[str], left_out: tuple[str, ...]
) -> Choice:
    design = designs[goal.metric]
    cost = {name: float(designs.get("migrations", design).column(name).mean()) for name in names}
    leader = min(names, key=lambda name: (design.metric.sign * float(design.column(name).mean()), cost[name]))
    level = tuple(name for name in names if _level(design, name, leader))
    best = min(level, key=lambda name: cost[name])
    compared = {each.treatment: each for each in statistics.compare(design, reference)}
    price = {
        name: statistics.bootstrap_mean(each.column(best) - each.column(reference), each.strata)
        for name, each in designs.items()
        if name in ("migrations", FLOOR_METRIC)
    }
    return Choice(
        goal=goal,
        metric=design.metric,
        name=best,
        leader=leader,
        level=level,
        found=compared[best],
        price=price,
        equivalent=tuple(name for name in names if name != best and _equivalent(design, name, best)),
        below_floor=left_out,
        worse_in=_worse_in(design, best, reference),
        hotter_in=_worse_in(designs[FLOOR_METRIC], best, reference),
    )


def _level(design: Blocks, name: str, leader: str) -> bool:
    difference = statistics.bootstrap_mean(design.column(name) - design.column(leader), design.strata)
    return not difference.excludes_zero()


def _equivalent(design: Blocks, name: str, other: str) -> bool:
    difference = design.column(name) - design.column(other)
    return statistics.rope_probabilities(difference, design.metric.rope)[1] >= EQUIVALENT_PROBABILITY


def _worse_in(design: Blocks, name: str, reference: str) -> tuple[str, ...]:
    strata = design.by_stratum()
    loss = design.metric.sign * (strata.column(name) - strata.column(reference))
    return tuple(scenario for scenario, value in zip(strata.strata, loss, strict=True) if value > design.metric.rope)
