"""Runs on the twin, in the shape of the live loop's."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pandas as pd

from labkit import sim
from labkit.analysis import COLUMNS
from labkit.clock import WALL_CLOCK
from labkit.errors import InputError
from labkit.lab.run import Progress, Run
from labkit.names import DIMENSIONS
from labkit.scenario import Scenario


class Twin:
    """The twin: nothing to bring up, nothing to take down.

    Parameters
    ----------
    tempo : int
        Kept in the results; virtual time has none.
    """

    def __init__(self, *, tempo: int = 1) -> None:
        self.tempo = tempo
        self._last: sim.SimResult | None = None
        self._scenario: Scenario | None = None
        self._seed = 0

    def check(self) -> None:
        """Do nothing."""

    def up(self, *, say: Callable[[str], None]) -> None:
        """Do nothing."""

    def down(self) -> None:
        """Do nothing."""

    def use(self, algorithm: str, policy: Mapping[str, Any]) -> None:
        """Do nothing: the next run is told."""

    def algorithm(self) -> str | None:
        """Return nothing: no descheduler runs between runs."""
        return None

    def run(
        self,
        scenario: Scenario,
        *,
        seed: int,
        algorithm: str,
        policy: Mapping[str, Any],
        duration_seconds: float,
        progress: Callable[[Progress], None] | None,
    ) -> Run:
        """Play a scenario in virtual time."""
        began = WALL_CLOCK.monotonic()
        result = sim.run(
            scenario, algorithm=algorithm, seed=seed, policy=policy, duration_seconds=duration_seconds, tempo=self.tempo
        )
        self._last, self._scenario, self._seed = result, scenario, seed
        if progress is not None:
            progress(Progress(duration_seconds, duration_seconds, len(result.migrations), "collecting"))
        return Run(
            backend="sim",
            scenario=scenario.name,
            algorithm=algorithm,
            seed=seed,
            tempo=self.tempo,
            policy=dict(policy),
            duration_seconds=duration_seconds,
            tables={name: getattr(result, name) for name in COLUMNS},
            wall_seconds=WALL_CLOCK.monotonic() - began,
            outcome=result.outcome,
        )

    @property
    def _result(self) -> sim.SimResult:
        if self._last is None:
            raise InputError("wanted a finished run to look at, found none: call run() first")
        return self._last

    def query(self, promql: str, time_seconds: float | None) -> pd.DataFrame:
        """Evaluate an expression at one instant of the last run."""
        return self._result.query(promql, time_seconds)

    def query_range(self, promql: str, start: float, end: float | None, step: float) -> pd.DataFrame:
        """Evaluate an expression over the last run."""
        return self._result.query_range(promql, start, end, step)

    def nodes(self) -> pd.DataFrame:
        """Return the nodes at the end of the last run."""
        table = self._result.nodes
        last: pd.DataFrame = table.loc[
            table["time_seconds"] == table["time_seconds"].max(), ["node", *DIMENSIONS, "vms"]
        ]
        return last.reset_index(drop=True)

    def vms(self) -> pd.DataFrame:
        """Return the VMs at the end of the last run."""
        last = self._result.placement.groupby("vm", sort=True)["node"].last()
        assert self._scenario is not None
        expansion = self._scenario.expand(self._seed)
        rows = [(vm.name, last[vm.name], vm.cores, vm.memory_bytes) for vm in expansion.all_vms if last.get(vm.name)]
        return pd.DataFrame(rows, columns=["vm", "node", "cores", "memory_bytes"])

    def set_load(self, vm: str, cpu: float) -> None:
        """Refuse: a run of the twin is over when it can be looked at."""
        raise InputError("wanted a live lab, found the twin: put a surge into the scenario's timeline instead")

    def migrations(self) -> pd.DataFrame:
        """Return the migrations of the last run."""
        return self._result.migrations
