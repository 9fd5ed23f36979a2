"""A run that was played, on whichever backend."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import pandas as pd

from labkit.analysis import summarize


@dataclass(frozen=True)
class Progress:
    """How far a run is.

    Parameters
    ----------
    lab_seconds : float
        Lab time reached; negative while the scenario is being placed.
    duration_seconds : float
        Lab time at the end.
    migrations : int
        Migrations that have succeeded so far.
    phase : str
        ``placing``, ``running`` or ``collecting``.
    message : str
        What is being waited for, where that is known.
    """

    lab_seconds: float
    duration_seconds: float
    migrations: int
    phase: str
    message: str = ""


@dataclass(frozen=True)
class Run:
    """What one run was and what came out of it.

    Parameters
    ----------
    backend, scenario, algorithm : str
        What was run; ``scenario`` is its name.
    seed, tempo : int
        The seed of load and placement; lab seconds per wall second.
    policy : mapping
        Differences from the production policy.
    duration_seconds : float
        Lab time played.
    tables : mapping of str to DataFrame
        ``nodes``, ``cycles``, ``evictions``, ``migrations``, ``placement``; times in lab seconds since the start.
    wall_seconds : float
        What it took, placing and settling included.
    timing : mapping of str to float
        What this machine added, for comparison with the twin: see :mod:`labkit.lab.loop`. Empty on the twin.
    outcome : mapping of str to float
        What the summary says beyond the tables: see :mod:`labkit.sim.outcome`.
    notes : tuple of str
        What somebody should know who reads the numbers, such as that the machine was too slow.
    """

    backend: str
    scenario: str
    algorithm: str
    seed: int
    tempo: int
    policy: Mapping[str, Any]
    duration_seconds: float
    tables: Mapping[str, pd.DataFrame]
    wall_seconds: float
    timing: Mapping[str, float] = field(default_factory=dict)
    outcome: Mapping[str, float] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @cached_property
    def summary(self) -> dict[str, Any]:
        """The run's numbers; see :func:`labkit.analysis.summarize`."""
        return dict(
            summarize(
                self.tables,
                lab_seconds=self.duration_seconds,
                wall_seconds=self.wall_seconds,
                outcome=self.outcome,
            )
        )
