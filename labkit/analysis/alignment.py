"""How far apart two recordings of the same thing are, once the delay between them is taken out.

Prometheus looks at a fixed phase of its interval that depends on host name, file path and interval. So two labs that
play the same load show it up to an interval apart. :func:`align` moves one recording along the axis of time until the
largest difference is smallest; :func:`within_spread` compares the outcomes of runs that no two machines repeat exactly.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import pandas as pd

from labkit.errors import InputError
from labkit.model import FloatArray
from labkit.names import NODE_LABEL

SHIFT_STEP_SECONDS: Final = 0.1


@dataclass(frozen=True)
class Recording:
    """Values of several nodes over time.

    Parameters
    ----------
    times_seconds : FloatArray
        Shape (n_times,), rising; lab time.
    nodes : tuple of str
        Their names, in order.
    values : FloatArray
        Shape (n_times, n_nodes), finite.
    """

    times_seconds: FloatArray
    nodes: tuple[str, ...]
    values: FloatArray

    @classmethod
    def of(cls, frame: pd.DataFrame) -> Recording:
        """Read a tidy answer of ``Lab.query_range``: ``time_seconds``, ``instance``, ``value``.

        Raises
        ------
        InputError
            If a node lacks a sample at one of the times.
        """
        wide = frame.pivot(index="time_seconds", columns=NODE_LABEL, values="value").sort_index()
        if wide.empty or wide.isna().to_numpy().any():
            raise InputError(
                "wanted a sample of each node at each time, found "
                + (f"{int(wide.isna().to_numpy().sum())} missing" if len(wide) else "none at all")
            )
        return cls(wide.index.to_numpy(float), tuple(str(name) for name in wide.columns), wide.to_numpy(float))

    def at(self, times_seconds: FloatArray) -> FloatArray:
        """Return the values on the straight lines between samples, shape (n, n_nodes)."""
        columns = [np.interp(times_seconds, self.times_seconds, column) for column in self.values.T]
        return np.column_stack(columns)

    def only(self, *nodes: str) -> Recording:
        """Return the recording of some of the nodes."""
        return Recording(self.times_seconds, nodes, self.values[:, [self.nodes.index(node) for node in nodes]])


@dataclass(frozen=True)
class Alignment:
    """The best match of two recordings.

    Parameters
    ----------
    shift_seconds : float
        How much later the second shows the same.
    difference : float
        Largest absolute difference that is left, over all nodes and times that both have.
    """

    shift_seconds: float
    difference: float


def align(first: Recording, second: Recording, *, within_seconds: float) -> Alignment:
    """Find the shift of at most ``within_seconds`` that leaves the smallest largest difference.

    Parameters
    ----------
    first, second : Recording
        Of the same nodes.
    within_seconds : float
        0 or more; 0 compares them as they are.

    Returns
    -------
    Alignment
        Of several equally good shifts the smallest.

    Raises
    ------
    InputError
        If they are of different nodes, or do not overlap.
    """
    if first.nodes != second.nodes:
        raise InputError(f"wanted recordings of the same nodes, found {first.nodes} and {second.nodes}")
    steps = int(np.floor(within_seconds / SHIFT_STEP_SECONDS + 1e-9))
    shifts = sorted((SHIFT_STEP_SECONDS * step for step in range(-steps, steps + 1)), key=abs)
    found = [Alignment(shift, _difference(first, second, shift)) for shift in shifts]
    return min(found, key=lambda each: each.difference)


def _difference(first: Recording, second: Recording, shift_seconds: float) -> float:
    """Both are straight between their samples, so the largest difference is at a sample of one of them."""
    moved = second.times_seconds - shift_seconds
    start, end = max(first.times_seconds[0], moved[0]), min(first.times_seconds[-1], moved[-1])
    times = np.concatenate([first.times_seconds, moved])
    times = times[(times >= start) & (times <= end)]
    if not times.size:
        raise InputError("wanted recordings that overlap in time, found none such")
    return float(np.abs(first.at(times) - second.at(times + shift_seconds)).max())


def within_spread(first: Sequence[float], second: Sequence[float]) -> bool:
    """Tell whether two groups of runs differ, on average, by no more than runs of one group do among themselves.

    Parameters
    ----------
    first, second : sequence of float
        One value per run; at least two each.
    """
    if min(len(first), len(second)) < 2:
        raise InputError(f"wanted two runs or more of each, found {len(first)} and {len(second)}")
    return abs(float(np.mean(first) - np.mean(second))) <= max(float(np.ptp(first)), float(np.ptp(second)))
