"""What a run leaves: an array of base series over the scrapes, and the scores over the evaluations."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from labkit.model import BoolArray, FloatArray
from labkit.names import SCRAPE_INTERVAL_SECONDS, SETTLE_SECONDS
from labkit.sim.fleet import Fleet
from labkit.sim.metrics import COLUMNS, Sample


class Recorder:
    """Collects scrapes and evaluations.

    Parameters
    ----------
    nodes : int
        How many nodes there will ever be.
    duration_seconds, evaluation_interval_seconds : float
        Lab seconds; how much room is needed follows from them.
    """

    def __init__(self, nodes: int, duration_seconds: float, evaluation_interval_seconds: float) -> None:
        scrapes = math.ceil((duration_seconds + SETTLE_SECONDS) / SCRAPE_INTERVAL_SECONDS) + 2
        evaluations = math.ceil((duration_seconds + SETTLE_SECONDS) / evaluation_interval_seconds) + 2
        self.values: FloatArray = np.zeros((scrapes, len(COLUMNS), nodes))
        self.ready: BoolArray = np.zeros((scrapes, nodes), dtype=np.bool_)
        self.scrape_times: list[float] = []
        self.scores: FloatArray = np.full((evaluations, nodes), np.nan)
        self.evaluation_times: list[float] = []
        self.eviction_counts: list[dict[tuple[str, str], int]] = []

    def scrape(self, time: float, fleet: Fleet, evictions: Mapping[tuple[str, str], int]) -> Sample:
        """Record what the exporter and the descheduler show at an instant."""
        number = len(self.scrape_times)
        self.scrape_times.append(time)
        row = self.values[number]
        rows = (
            fleet.cpu_usage, fleet.cpu_pressure, fleet.memory_usage, fleet.memory_pressure, fleet.vms_per_node(),
            fleet.busy_seconds, fleet.cpu_waiting_seconds, fleet.memory_waiting_seconds, fleet.up_seconds,
        )  # fmt: skip
        for place, values in enumerate(rows):
            row[place] = values
        self.ready[number] = fleet.ready
        self.eviction_counts.append(dict(evictions))
        return Sample(time, self.ready[number], row, fleet.memory_capacity)

    def evaluation(self, time: float, scores: FloatArray, present: BoolArray) -> None:
        """Record the scores of an evaluation; NaN where a node has none."""
        number = len(self.evaluation_times)
        self.evaluation_times.append(time)
        self.scores[number][present] = scores[present]
