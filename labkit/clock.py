"""Time: the wall clock, a virtual clock for tests, lab time, and waiting for conditions.

Nothing else in the package reads the wall clock or sleeps.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, TypeVar

from labkit.errors import NotReadyError
from labkit.names import SCRAPE_INTERVAL_SECONDS

T = TypeVar("T")


class Clock(Protocol):
    """What the lab needs of a clock."""

    def now(self) -> float:
        """Return seconds since 1970 (UTC)."""

    def monotonic(self) -> float:
        """Return seconds on a scale that never goes back."""

    def wait(self, seconds: float) -> None:
        """Let that much time pass."""


class WallClock:
    """The machine's clock."""

    def now(self) -> float:
        """Return seconds since 1970 (UTC)."""
        return time.time()

    def monotonic(self) -> float:
        """Return seconds on a scale that never goes back."""
        return time.monotonic()

    def wait(self, seconds: float) -> None:
        """Sleep."""
        time.sleep(seconds)


class VirtualClock:
    """A clock that moves only when it is told to; waiting moves it at once."""

    def __init__(self, start: float = 0.0) -> None:
        self._now = start

    def now(self) -> float:
        """Return the virtual time in seconds."""
        return self._now

    def monotonic(self) -> float:
        """Return the virtual time in seconds."""
        return self._now

    def wait(self, seconds: float) -> None:
        """Move the clock forward by that many seconds."""
        if seconds < 0:
            raise ValueError(f"a clock cannot go back by {seconds} s")
        self._now += seconds


@dataclass(frozen=True)
class LabTime:
    """Conversion between wall time and lab time.

    Lab time 0 is ``epoch`` (seconds since 1970); ``tempo`` lab seconds pass in each wall second.
    """

    epoch: float
    tempo: int

    def at(self, wall: float) -> float:
        """Return the lab time, in lab seconds, of a wall time in seconds since 1970."""
        return (wall - self.epoch) * self.tempo

    def wall(self, lab: float) -> float:
        """Return the wall time, in seconds since 1970, of a lab time in lab seconds."""
        return self.epoch + lab / self.tempo


def wall_seconds(lab_seconds: float, tempo: int) -> float:
    """Return how long a period or window of lab time is in wall time, to the millisecond.

    Prometheus knows no smaller unit. At a tempo that does not divide the scrape interval, the interval is rounded first
    and its whole multiples are multiples of what came out: a window of four scrapes holds four scrapes at every tempo.

    Parameters
    ----------
    lab_seconds : float
        0 or more.
    tempo : int
        1 or more.

    Examples
    --------
    >>> wall_seconds(15, 7), wall_seconds(60, 7), wall_seconds(1, 7)
    (2.143, 8.572, 0.143)
    """
    scrapes = lab_seconds / SCRAPE_INTERVAL_SECONDS
    if scrapes == int(scrapes):
        return round(int(scrapes) * _milliseconds(SCRAPE_INTERVAL_SECONDS / tempo) / 1000, 3)
    return _milliseconds(lab_seconds / tempo) / 1000


def _milliseconds(seconds: float) -> int:
    return math.floor(1000 * seconds + 0.5)


def backoff_seconds(failures: int, limits: tuple[float, float]) -> float:
    """Return the pause after so many failures in a row: the first limit, then doubled each time up to the second.

    Examples
    --------
    >>> [backoff_seconds(failures, (0.1, 5.0)) for failures in (1, 2, 3, 5000)]
    [0.1, 0.2, 0.4, 5.0]
    """
    first, longest = limits
    doublings = min(failures - 1, 60)  # what failed for hours has more of them than a number can hold
    return float(min(longest, first * 2.0**doublings))


WALL_CLOCK = WallClock()


def wait_until(
    condition: Callable[[], T | None],
    *,
    timeout_seconds: float,
    what: str,
    poll_seconds: float = 0.05,
    clock: Clock = WALL_CLOCK,
    found: Callable[[], str] | None = None,
) -> T:
    """Wait until a condition holds.

    Parameters
    ----------
    condition : callable
        Returns something true when it holds. Exceptions pass through.
    timeout_seconds : float
        After that long the wait is given up.
    what : str
        What is waited for, for the error's text.
    poll_seconds : float
        Pause between two looks.
    clock : Clock
        The clock to wait on.
    found : callable, optional
        Tells what there is instead, for the error's text.

    Returns
    -------
    object
        What the condition returned.

    Raises
    ------
    NotReadyError
        If the condition did not hold in time.
    """
    deadline = clock.monotonic() + timeout_seconds
    while True:
        answer = condition()
        if answer:
            return answer
        if clock.monotonic() >= deadline:
            instead = f"; found: {found()}" if found is not None else ""
            raise NotReadyError(f"waited {timeout_seconds:g} s for {what}{instead}")
        clock.wait(poll_seconds)
