"""The result of a run: its tables, its numbers, and PromQL over what it recorded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from labkit.analysis import finished, summarize
from labkit.analysis.tables import COLUMNS as TABLE_COLUMNS
from labkit.analysis.tables import conform, empty
from labkit.names import SCRAPE_INTERVAL_SECONDS
from labkit.promql import Database, Expression, RuleGroup
from labkit.scenario import Scenario
from labkit.scoring import Algorithm
from labkit.sim.descheduler import Cycle
from labkit.sim.fleet import NOWHERE, Fleet
from labkit.sim.metrics import CPU_PRESSURE, CPU_USAGE, MEMORY_PRESSURE, MEMORY_USAGE, VMS, NodeFamilies, Sample
from labkit.sim.metrics import write_evictions as write_evictions_metric
from labkit.sim.movement import MigrationRow
from labkit.sim.openmetrics import write_openmetrics
from labkit.sim.outcome import Record
from labkit.sim.recorder import Recorder
from labkit.sim.regret import Regret
from labkit.sim.scores import Scorer, rules_with
from labkit.sim.settings import Policy, Timing

_DIMENSION_ROWS = {
    "cpu_usage": CPU_USAGE,
    "cpu_pressure": CPU_PRESSURE,
    "memory_usage": MEMORY_USAGE,
    "memory_pressure": MEMORY_PRESSURE,
}


@dataclass(frozen=True, eq=False)
class SimResult:
    """One finished run of the twin.

    The five tables, ``summary`` and the answers of ``query`` are computed when they are first asked for.

    Parameters
    ----------
    scenario : Scenario
        What was played.
    algorithm : str
        Name of the algorithm, or of the baseline.
    scored_by : Algorithm
        Whose scores were recorded.
    seed, tempo : int
        As given to the run.
    policy, timing : Policy, Timing
        As given to the run, completed.
    duration_seconds : float
        Lab time played.
    """

    scenario: Scenario
    algorithm: str
    scored_by: Algorithm
    seed: int
    tempo: int
    policy: Policy
    timing: Timing
    duration_seconds: float
    _fleet: Fleet
    _recorder: Recorder
    _cycles: list[Cycle]
    _evictions: list[tuple[float, int, int, str]]
    _migrations: list[MigrationRow]
    _placements: list[tuple[float, int, int]]

    # --- tables --------------------------------------------------------------------------------------

    @cached_property
    def nodes(self) -> pd.DataFrame:
        """Every 15 lab seconds and node: load ratios and score as the rules last had them, and the number of VMs."""
        recorder, names = self._recorder, np.array(self._fleet.node_names, dtype=object)
        times = np.arange(0.0, self.duration_seconds + 1e-9, SCRAPE_INTERVAL_SECONDS)
        scrapes, evaluations = np.array(recorder.scrape_times), np.array(recorder.evaluation_times)
        evaluation = np.searchsorted(evaluations, times, side="right") - 1
        seen = np.searchsorted(scrapes, evaluations[evaluation], side="right") - 1
        counted = np.searchsorted(scrapes, times, side="right") - 1
        there = recorder.ready[seen]
        columns: dict[str, Any] = {
            "time_seconds": np.repeat(times, len(names))[there.ravel()],
            "node": np.tile(names, len(times))[there.ravel()],
        }
        for name, row in _DIMENSION_ROWS.items():
            columns[name] = recorder.values[seen, row][there]
        columns["score"] = recorder.scores[evaluation][there]
        columns["vms"] = recorder.values[counted, VMS][there].astype(np.int64)
        return conform("nodes", pd.DataFrame(columns))

    @cached_property
    def cycles(self) -> pd.DataFrame:
        """Each descheduling cycle's classification of each node."""
        if not self._cycles:
            return empty("cycles")
        names = np.array(self._fleet.node_names, dtype=object)
        sizes = [len(cycle.nodes) for cycle in self._cycles]
        return conform(
            "cycles",
            pd.DataFrame(
                {
                    "time_seconds": np.repeat([cycle.time_seconds for cycle in self._cycles], sizes),
                    "node": np.concatenate([names[cycle.nodes] for cycle in self._cycles]),
                    "usage_percent": np.concatenate([c.classification.percent for c in self._cycles]),
                    "low": np.repeat([cycle.classification.low for cycle in self._cycles], sizes),
                    "high": np.repeat([cycle.classification.high for cycle in self._cycles], sizes),
                    "class": [name for cycle in self._cycles for name in cycle.classification.classes],
                }
            ),
        )

    @cached_property
    def evictions(self) -> pd.DataFrame:
        """Each eviction request that was sent."""
        vms, nodes = self._fleet.vm_names, self._fleet.node_names
        return _frame("evictions", [(time, vms[vm], nodes[node], result) for time, vm, node, result in self._evictions])

    @cached_property
    def migrations(self) -> pd.DataFrame:
        """Each attempt to migrate a VM."""
        vms, nodes = self._fleet.vm_names, [*self._fleet.node_names, ""]
        rows = [
            (
                row.requested_seconds, vms[row.vm], nodes[row.source], nodes[row.target], row.requested_seconds,
                row.started_seconds, row.ended_seconds, row.outcome, row.bytes, row.downtime_seconds,
            )
            for row in self._migrations
        ]  # fmt: skip
        return _frame("migrations", sorted(rows, key=lambda row: (row[0], row[1])))

    @cached_property
    def placement(self) -> pd.DataFrame:
        """Where each VM was at lab time 0, and each change since; the node is empty where a VM ran nowhere."""
        vms, nodes = self._fleet.vm_names, [*self._fleet.node_names, ""]
        first: dict[int, int] = {}
        later: list[tuple[float, int, int]] = []
        for time, vm, node in self._placements:
            if time <= 0:
                first[vm] = node
            else:
                later.append((time, vm, node))
        rows = sorted((0.0, vms[vm], nodes[node]) for vm, node in first.items() if node != NOWHERE)
        return _frame("placement", rows + [(time, vms[vm], nodes[node]) for time, vm, node in later])

    @property
    def tables(self) -> dict[str, pd.DataFrame]:
        """The five tables by name."""
        return {name: getattr(self, name) for name in TABLE_COLUMNS}

    @cached_property
    def summary(self) -> Mapping[str, Any]:
        """The run's numbers; see :func:`labkit.analysis.summarize`."""
        return summarize(self.tables, lab_seconds=self.duration_seconds, outcome=self.outcome)

    @cached_property
    def outcome(self) -> Mapping[str, float]:
        """The VMs' happiness and the run's regret, as the summary has them."""
        return self._record.summary(len(finished(self.migrations)))

    def vm_loads(self) -> pd.DataFrame:
        """Return each VM's node and utilisation at each load step: ``time_seconds, vm, node, cpu, memory``."""
        fleet = self._fleet
        times = np.arange(0.0, self.duration_seconds + 1e-9, SCRAPE_INTERVAL_SECONDS)
        cpu, memory = fleet.loads.block(times)
        node = self._record.places_at(times)
        there = node != NOWHERE
        names = np.array(fleet.node_names, dtype=object)
        return pd.DataFrame(
            {
                "time_seconds": np.repeat(times, len(fleet.vms))[there.ravel()],
                "vm": np.tile(np.array(fleet.vm_names, dtype=object), len(times))[there.ravel()],
                "node": names[node[there]],
                "cpu": cpu[there],
                "memory": memory[there],
            }
        )

    def regret(self, *, exact: bool = False) -> Regret:
        """Return how far the run ended from the flattest placement reachable with as many moves."""
        return self._record.regret(len(finished(self.migrations)), exact=exact)

    def happiness(self) -> pd.Series:
        """Return each VM's delivered over demanded CPU, by name; see :mod:`labkit.analysis.happiness`."""
        return pd.Series(self._record.happiness(), index=pd.Index(self._fleet.vm_names, name="vm"), name="happiness")

    @cached_property
    def _record(self) -> Record:
        fleet, expansion = self._fleet, self.scenario.expand(self.seed)
        return Record(
            loads=fleet.loads,
            cores=np.array([vm.cores for vm in fleet.vms]),
            memory_bytes=np.array([vm.memory_bytes for vm in fleet.vms]),
            events=expansion.events,
            vm_names=fleet.vm_names,
            node_cores=fleet.node_cores,
            node_memory=fleet.memory_capacity,
            ready=fleet.ready,
            placements=self._placements,
            duration_seconds=self.duration_seconds,
        )

    # --- PromQL --------------------------------------------------------------------------------------

    @cached_property
    def database(self) -> Database:
        """All series that a live Prometheus would hold of this run: the exporter's, and every record of the rules."""
        database = Database()
        for _ in self._replay(database, rules_with(self.scored_by)):
            pass
        return database

    def _replay(self, database: Database, rules: RuleGroup) -> Any:
        """Write scrapes and evaluate rules in order of time; yields each instant."""
        recorder = self._recorder
        families = NodeFamilies(self._fleet.node_names)
        scorers = [Scorer(algorithm, list(algorithm.records)) for algorithm in _scored_in_python(self.scored_by)]
        instants = [(time, 0, number) for number, time in enumerate(recorder.scrape_times)]
        instants += [(time, 1, number) for number, time in enumerate(recorder.evaluation_times)]
        for time, kind, number in sorted(instants):
            if kind == 1:
                rules.evaluate(database, time)
            else:
                families.write(
                    database,
                    Sample(time, recorder.ready[number], recorder.values[number], self._fleet.memory_capacity),
                )
                write_evictions_metric(database, time, recorder.eviction_counts[number])
                for scorer in scorers:
                    scorer.write(database, time)
            yield time

    def query(self, promql: str, time_seconds: float | None = None) -> pd.DataFrame:
        """Evaluate PromQL at one instant of the run.

        Parameters
        ----------
        promql : str
            What :mod:`labkit.promql` supports.
        time_seconds : float, optional
            Lab time; the end of the run without it.

        Returns
        -------
        DataFrame
            ``time_seconds``, one column per label, ``value``.

        Raises
        ------
        RuleError
            If the expression cannot be compiled.
        """
        at = self.duration_seconds if time_seconds is None else time_seconds
        samples = Expression.compile(promql).instant(self.database, at).samples()
        rows = [{"time_seconds": at, **dict(labels), "value": value} for labels, value in samples.items()]
        return pd.DataFrame(rows, columns=None if rows else ["time_seconds", "value"])

    def query_range(
        self, promql: str, start: float = 0.0, end: float | None = None, step: float = SCRAPE_INTERVAL_SECONDS
    ) -> pd.DataFrame:
        """Evaluate PromQL at evenly spaced instants of the run.

        Parameters
        ----------
        promql : str
            What :mod:`labkit.promql` supports.
        start, end, step : float
            Lab seconds; to the end of the run without ``end``.

        Returns
        -------
        DataFrame
            ``time_seconds``, one column per label, ``value``; a row for each series and instant with a sample.
        """
        last = self.duration_seconds if end is None else end
        found = Expression.compile(promql).range(self.database, start, last, step)
        time, series = np.nonzero(found.present)
        names = sorted({name for row in found.table.rows for name, _ in row})
        labels = {name: np.array(found.table.column(name), dtype=object)[series] for name in names}
        return pd.DataFrame(
            {"time_seconds": found.times_seconds[time], **labels, "value": found.values[time, series]}
        ).sort_values(["time_seconds", *names], kind="stable", ignore_index=True)

    def write_openmetrics(self, path: Path, *, start_seconds: float, records: bool = True) -> None:
        """Write the run as OpenMetrics text, for ``promtool tsdb create-blocks-from openmetrics``.

        Parameters
        ----------
        path : Path
            File to write.
        start_seconds : float
            What lab time 0 becomes, in seconds since 1970 (UTC).
        records : bool
            Whether to write the rules' records, too.
        """
        skip = () if records else rules_with(self.scored_by).records
        write_openmetrics(self.database, path, start_seconds=start_seconds, leave_out=skip)


def _scored_in_python(algorithm: Algorithm) -> list[Algorithm]:
    from labkit.scoring import NINETEEN

    found = [each for each in NINETEEN if each.computed_by == "scorer"]
    if algorithm.computed_by == "scorer" and algorithm.name not in {each.name for each in found}:
        found.append(algorithm)
    return found


def _frame(name: str, rows: list[Any]) -> pd.DataFrame:
    return conform(name, pd.DataFrame(rows, columns=list(TABLE_COLUMNS[name]))) if rows else empty(name)
