"""The answer to an experiment's question, in three sentences made from the numbers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from labkit.analysis.choice import is_choice
from labkit.analysis.metrics import Metric
from labkit.analysis.statistics import MIN_BLOCKS, Blocks, Comparison, Interval, bootstrap_mean, pareto_front

__all__ = ["MIN_BLOCKS", "answer", "best_choice", "interval", "number"]

MAX_NAMED = 5
"""A sentence names no more algorithms than this of one verdict."""


def number(value: float) -> str:
    """Write a number with three significant digits, without an exponent where it can be read without one."""
    if not np.isfinite(value):
        return "-"
    if value == round(value) and abs(value) < 1e7:
        return f"{value:,.0f}".replace(",", "\u202f")
    if abs(value) >= 1e7 or abs(value) < 1e-4:
        return f"{value:.2e}"
    digits = max(0, 2 - int(np.floor(np.log10(abs(value)))))
    return f"{value:,.{digits}f}".replace(",", "\u202f")


def interval(found: Interval) -> str:
    """Write an estimate with its interval; where that is a point or not known, only the estimate."""
    if found.low == found.high or np.isnan(found.low):
        return number(found.estimate)
    return f"{number(found.estimate)} [{number(found.low)}, {number(found.high)}]"


def answer(
    designs: Mapping[str, Blocks], comparisons: Mapping[str, Sequence[Comparison]], primary: Metric, baseline: str
) -> list[str]:
    """Say which algorithm did best, what it cost, and how sure that is.

    Parameters
    ----------
    designs, comparisons : mapping
        By metric name; the primary metric is among them.
    primary : Metric
        What the experiment is judged by first.
    baseline : str
        What everything was compared with.

    Returns
    -------
    list of str
        Three sentences. The best mean is named, of equal ones that with the fewest migrations, and what cannot be told
        from it. ``none``, ``random`` and ``oracle`` are ends of the scale and cannot be chosen.
    """
    found = {each.treatment: each for each in comparisons[primary.name]}
    choices, best = _choices(found), best_choice(comparisons, primary)
    return [
        _first(found, best, primary, baseline) + _level_with(designs[primary.name], best, choices),
        _second(designs, best, baseline, choices),
        _third(designs[primary.name], found, best, primary, baseline, choices),
    ]


def best_choice(comparisons: Mapping[str, Sequence[Comparison]], primary: Metric) -> str:
    """Return the treatment with the best mean, of equal ones that with the fewest migrations.

    Parameters
    ----------
    comparisons : mapping of str to sequence of Comparison
        By metric; ``migrations`` where they were measured.
    primary : Metric
        What to judge by.

    Returns
    -------
    str
        An end of the scale only where nothing else took part.
    """
    found = {each.treatment: each for each in comparisons[primary.name]}
    moves = {each.treatment: each.mean.estimate for each in comparisons.get("migrations", ())}
    return min(_choices(found), key=lambda name: (primary.sign * found[name].mean.estimate, moves.get(name, 0.0)))


def _choices(treatments: Iterable[str]) -> list[str]:
    """Return what can be chosen, or everything where nothing can."""
    names = list(treatments)
    return [name for name in names if is_choice(name)] or names


def _first(found: Mapping[str, Comparison], best: str, metric: Metric, baseline: str) -> str:
    unit = f" {metric.unit}" if metric.unit else ""
    what = _words(metric)
    if len(found) == 1:
        return f"Only {best} took part; by {what} it reached {interval(found[best].mean)}{unit} per run."
    lead = f"By {what}, {best} had the best mean: {interval(found[best].mean)}{unit} per run"
    if metric.censored:
        lead += " (restricted to the run's length)"
    if best == baseline:
        return f"{lead}; it is the baseline that the others were compared with."
    reference = number(found[baseline].mean.estimate)
    return f"{lead}, against {reference} of {baseline}, a difference of {interval(found[best].difference)}."


def _level_with(design: Blocks, best: str, choices: Sequence[str]) -> str:
    """Name those whose difference to the best may be chance."""
    if len(design.values) < MIN_BLOCKS:
        return ""
    level = [
        name
        for name in choices
        if name != best and not bootstrap_mean(design.column(name) - design.column(best), design.strata).excludes_zero()
    ]
    if not level:
        return ""
    return f" Not to be told from it: {_list(level) if len(level) <= MAX_NAMED else f'{len(level)} others'}."


def _second(designs: Mapping[str, Blocks], best: str, baseline: str, choices: Sequence[str]) -> str:
    if "migrations" not in designs:
        return "Migrations were not among the metrics."
    moves = designs["migrations"]
    means = {name: float(moves.column(name).mean()) for name in moves.treatments}
    text = f"It took {number(means[best])} migration{'' if means[best] == 1 else 's'} per run"
    if best != baseline and baseline in means:
        text += f", against {number(means[baseline])} of {baseline}"
    if "hotspot_seconds" not in designs or len(choices) < 2:
        return text + "."
    hot = designs["hotspot_seconds"]
    points = np.array([[means[name], float(hot.column(name).mean())] for name in choices])
    front = [name for name, on in zip(choices, pareto_front(points), strict=True) if on]
    if len(front) == 1:
        return f"{text}; no algorithm had both fewer migrations and fewer hot spots than {front[0]}, which beats all."
    named = _list(front) if len(front) <= MAX_NAMED else f"{len(front)} of the {len(choices)}"
    return f"{text}; weighing migrations against hot spots, nothing beats {named}."


def _third(
    design: Blocks, found: Mapping[str, Comparison], best: str, metric: Metric, baseline: str, choices: Sequence[str]
) -> str:
    count, scenarios = len(design.values), len(set(design.strata))
    undefined = f"; {_words(metric)} is not defined for {_list(design.undefined)}" if design.undefined else ""
    runs = f"{count} paired block{'s' if count != 1 else ''} ({scenarios} scenario{'s' if scenarios != 1 else ''})"
    if count < MIN_BLOCKS:
        return (
            f"This rests on {runs}: too few for any test to tell luck from skill, so read the numbers as an example "
            f"and not as a ranking{undefined}."
        )
    verdicts = {
        verdict: [name for name in choices if found[name].verdict == verdict]
        for verdict in ("better", "worse", "equivalent", "undecided")
    }
    parts = [f"{len(names)} {verdict}" for verdict, names in verdicts.items() if names]
    text = f"Over {runs}, compared with {baseline}: {', '.join(parts)}" if parts else f"Over {runs}"
    if verdicts["equivalent"]:
        named = f": {_list(verdicts['equivalent'])}" if len(verdicts["equivalent"]) <= MAX_NAMED else ""
        text += f" (equivalent means within ±{number(metric.rope)}{named})"
    dropped = ""
    if design.dropped:
        dropped = f"; incomplete blocks left out: {design.dropped}"
    return f"{text}; intervals hold 95 % and speak about these scenarios{dropped}{undefined}."


def _words(metric: Metric) -> str:
    """Return a metric's title as it stands within a sentence."""
    return metric.title if metric.title[1].isupper() else metric.title[0].lower() + metric.title[1:]


def _list(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
