"""A record as its rule was evaluated, at the times of the scrapes that it was evaluated from."""

from __future__ import annotations

from typing import Final

from labkit.analysis.alignment import Recording
from labkit.lab import Lab
from labkit.names import EVALUATION_INTERVAL_SECONDS, SCRAPE_INTERVAL_SECONDS

JUST_AFTER_SECONDS: Final = 0.5
"""Lab seconds; a query's time is rounded to the millisecond, which at tempo 15 are 15 of lab time."""
_SCRAPED: Final = "node_cpu_usage_ratio"


def evaluations(lab: Lab, record: str) -> Recording:
    """Return every evaluation of a record since lab time 0.

    Parameters
    ----------
    lab : Lab
        After a run.
    record : str
        A record with one sample per node, evaluated at the lab's interval.

    Returns
    -------
    Recording
        Its times are those of the newest scrape before each evaluation. How long the rules come after the scrape is a
        constant of host name, file path and interval (:attr:`labkit.lab.Run.timing`): it would move two labs up to an
        interval apart that saw the same.

    Raises
    ------
    InputError
        If a node had no sample at one of the instants.

    Notes
    -----
    ``Lab.query_range`` on its own grid would give the value of the last evaluation, up to an interval late.
    """
    evaluated, scraped = _newest(lab, record), _newest(lab, _SCRAPED)
    phase = evaluated % EVALUATION_INTERVAL_SECONDS
    lag = (evaluated - scraped) % SCRAPE_INTERVAL_SECONDS
    frame = lab.query_range(record, start=phase + JUST_AFTER_SECONDS)
    return Recording.of(frame.assign(time_seconds=frame["time_seconds"] - JUST_AFTER_SECONDS - lag))


def _newest(lab: Lab, series: str) -> float:
    """Return the lab time of the newest sample."""
    age = lab.query(f"time() - max(timestamp({series}))")
    return float(age["time_seconds"].iloc[0]) - lab.tempo * float(age["value"].iloc[0])
