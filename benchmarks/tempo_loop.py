"""The closed loop at tempo 5 and 15: how far apart the outcomes are, and how far runs of one tempo are from each other.

Two labs of their own play ``quickstart`` five times with each algorithm, one lab after the other so that neither takes
the machine from the other; about 45 minutes. They are brought up and taken down here.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from benchmarks._rows import Row
from benchmarks.tempo import ADDRESSES, lab_name
from labkit import Lab, cluster
from labkit.analysis.alignment import within_spread
from labkit.cluster import LabConfig
from labkit.lab import Run

logger = logging.getLogger(__name__)

TITLE = "Outcome of the closed loop at tempo 5 and 15, quickstart, 12 lab minutes, 5 runs each"
ONLY_WHEN_NAMED = True
TEMPOS: Final = (5, 15)
ALGORITHMS: Final = ("linear_amplified_ippd_k3", "weighted_average")
SCENARIO: Final = "quickstart"
DURATION: Final = "12m"
SEED: Final = 1
REPEATS: Final = 5
METRICS: Final[Mapping[str, str]] = {
    "migrations": "",
    "cpu_stddev_final": "",
    "hotspot_seconds": "lab s",
    "time_to_settle_seconds": "lab s",
}


@dataclass(frozen=True)
class Outcomes(Row):
    """The runs of one tempo: their mean, the least and the largest."""

    def __str__(self) -> str:
        low, high = min(self.values), max(self.values)
        return f"mean {np.mean(self.values):8.4g} {self.unit}  ({low:.4g} to {high:.4g}, n = {len(self.values)})"


@dataclass(frozen=True)
class Difference(Row):
    """What lies between the means of two tempos, and whether runs of one tempo lie as far apart."""

    agrees: bool = False

    def __str__(self) -> str:
        told = "within" if self.agrees else "BEYOND"
        return f"     {self.values[0]:8.4g} {self.unit}  ({told} the spread of runs at one tempo)"


def measure() -> list[Row]:
    """Play everything, then compare metric by metric."""
    runs = {tempo: play(tempo) for tempo in TEMPOS}
    rows: list[Row] = []
    for algorithm in ALGORITHMS:
        for metric, unit in METRICS.items():
            rows += compared(f"{algorithm}, {metric}", unit, {t: values(runs[t][algorithm], metric) for t in TEMPOS})
    return rows


def play(tempo: int) -> dict[str, list[Run]]:
    """Bring up a lab and play all runs of a tempo, the algorithms in turn."""
    name = lab_name(tempo)
    cluster.up(LabConfig(name=name, address=ADDRESSES[tempo], tempo=tempo))
    runs: dict[str, list[Run]] = {algorithm: [] for algorithm in ALGORITHMS}
    try:
        with Lab(name=name) as lab:
            lab.apply(SCENARIO, seed=SEED)
            for _ in range(REPEATS):
                for algorithm in ALGORITHMS:
                    lab.use(algorithm)
                    run = lab.run(DURATION)
                    logger.info("tempo %d, %s: %s", tempo, algorithm, {m: run.summary[m] for m in METRICS})
                    runs[algorithm].append(run)
    finally:
        cluster.down(name)
    return runs


def values(runs: Sequence[Run], metric: str) -> tuple[float, ...]:
    """Return a number of each run; a time that did not come within the run counts as its length."""
    found = [run.summary[metric] for run in runs]
    return tuple(
        run.duration_seconds if value is None else float(value) for run, value in zip(runs, found, strict=True)
    )


def compared(what: str, unit: str, of: Mapping[int, tuple[float, ...]]) -> list[Row]:
    """Return the rows of one metric."""
    first, second = TEMPOS
    apart = float(np.mean(of[second]) - np.mean(of[first]))
    return [
        *(Outcomes(f"{what}, tempo {tempo}", of[tempo], unit) for tempo in TEMPOS),
        Difference(f"{what}, difference", (apart,), unit, agrees=within_spread(of[first], of[second])),
    ]
