"""What a benchmark gives: rows of figures, and how they are taken."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Row:
    """One line of a benchmark's table.

    Parameters
    ----------
    what : str
        What was measured, with its size.
    values : tuple of float
        One value per repetition.
    unit : str
        Unit of the values.
    goal : float or None
        What was aimed at, in the same unit.
    more_is_better : bool
        For rates: the best value is the largest.
    """

    what: str
    values: tuple[float, ...]
    unit: str = "s"
    goal: float | None = None
    more_is_better: bool = False

    def __str__(self) -> str:
        best = max(self.values) if self.more_is_better else min(self.values)
        median = statistics.median(self.values)
        text = f"median {median:10.4g} {self.unit}  (best {best:.4g}, n = {len(self.values)})"
        return text if self.goal is None else f"{text}  goal {self.goal:g}"


def timed(what: str, action: Callable[[], object], *, repeats: int = 5, goal: float | None = None) -> Row:
    """Time an action, after one run that is not counted."""
    action()
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        action()
        seconds.append(time.perf_counter() - start)
    return Row(what, tuple(seconds), goal=goal)
