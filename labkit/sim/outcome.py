"""What a run came to for its VMs, and what could have been: numbers for which the tables alone do not suffice.

Load is a pure function of VM, time and seed, so that they are computed in the same way for the twin and for a live run:
from the scenario's VMs and the places that each had.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from labkit.analysis import finished
from labkit.analysis.happiness import happiness, happiness_summary
from labkit.analysis.tables import Tables
from labkit.load import LoadTable
from labkit.model import BoolArray, FloatArray, IntArray
from labkit.names import LOAD_STEP_SECONDS
from labkit.scenario import Event, Scenario
from labkit.sim.regret import SAMPLES, WINDOW_SECONDS, Regret, Window, regret_of

NOWHERE = -1
_BLOCK_VALUES = 160_000

Placements = Sequence[tuple[float, int, int]]
"""Time, VM and node of each change, in order of time; -1 where the VM runs nowhere."""


@dataclass(frozen=True, eq=False)
class Record:
    """A scenario for one seed, and where its VMs were.

    Parameters
    ----------
    loads : LoadTable
        The VMs' curves.
    cores, memory_bytes : FloatArray
        Shape (n_vms,), the VMs' sizes at the beginning.
    events : tuple of Event
        The scenario's, in order.
    vm_names : sequence of str
        The VMs, in the order of the arrays.
    node_cores, node_memory : FloatArray
        Shape (n_nodes,), capacities.
    ready : BoolArray
        Shape (n_nodes,): which nodes are there at the end.
    placements : sequence
        See :data:`Placements`.
    duration_seconds : float
        Lab time at the end.
    """

    loads: LoadTable
    cores: FloatArray
    memory_bytes: FloatArray
    events: tuple[Event, ...]
    vm_names: Sequence[str]
    node_cores: FloatArray
    node_memory: FloatArray
    ready: BoolArray
    placements: Placements
    duration_seconds: float

    def places_at(self, times: FloatArray) -> IntArray:
        """Return each VM's node at each instant, shape (n_times, n_vms)."""
        node: IntArray = np.full((len(times), len(self.vm_names)), NOWHERE, dtype=np.int64)
        for time, vm, place in self.placements:
            node[np.searchsorted(times, time) :, vm] = place
        return node

    def sizes_at(self, times: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Return each VM's cores and memory at each instant, shape (n_times or 1, n_vms)."""
        resized = self._changes("resize_vms", times)
        if not resized:
            return self.cores[np.newaxis], self.memory_bytes[np.newaxis]
        cores, memory = (np.tile(sizes, (len(times), 1)) for sizes in (self.cores, self.memory_bytes))
        for first, vms, event in resized:
            for sizes, value in ((cores, event.cores), (memory, event.memory_bytes)):
                if value is not None:
                    sizes[first:, vms] = value
        return cores, memory

    def _changes(self, kind: str, times: FloatArray) -> list[tuple[int, list[int], Event]]:
        """Return the events of a type: the first instant that comes after each, and the VMs that it names."""
        events = [event for event in self.events if event.type == kind]
        number = {name: number for number, name in enumerate(self.vm_names)} if events else {}
        return [
            (int(np.searchsorted(times, event.at_seconds)), [number[name] for name in event.vm_names], event)
            for event in events
        ]

    def demand_at(self, times: FloatArray) -> FloatArray:
        """Return each VM's demand in cores at each instant, shape (n_times, n_vms)."""
        demand = np.empty((len(times), len(self.vm_names)))
        # A few steps at a time: the temporary values of all would not fit the processor's cache, nor, for many, memory.
        steps = max(1, _BLOCK_VALUES // max(len(self.vm_names), 1))
        for first in range(0, len(times), steps):
            chosen = slice(first, first + steps)
            demand[chosen] = self.loads.block(times[chosen])[0]
        demand *= self.sizes_at(times)[0]
        return demand

    def happiness(self) -> FloatArray:
        """Return each VM's delivered over demanded CPU; see :func:`labkit.analysis.happiness.happiness`.

        Places and loads are those at the beginning of each load step. A VM's demand counts from where it first runs
        until it is deleted; while it runs nowhere in between, it is not met.
        """
        times = np.arange(0.0, self.duration_seconds, LOAD_STEP_SECONDS)
        places, demand = self.places_at(times), self.demand_at(times)
        if (places < 0).any():
            demand[~np.logical_or.accumulate(places >= 0, axis=0)] = 0.0
            for first, vms, _ in self._changes("delete_vms", times):
                demand[first:, vms] = 0.0
        return happiness(demand, places, self.node_cores)

    def window(self, window_seconds: float = WINDOW_SECONDS, samples: int = SAMPLES) -> tuple[Window, float]:
        """Return what the end of the run looks like to somebody who may place the VMs anew.

        Returns
        -------
        Window
            Over the VMs and nodes that were there throughout.
        float
            The run's own mean standard deviation of CPU usage.
        """
        times = np.linspace(max(self.duration_seconds - window_seconds, 0.0), self.duration_seconds, samples)
        node = self.places_at(times)
        nodes = np.flatnonzero(self.ready)
        number = np.full(len(self.ready) + 1, NOWHERE, dtype=np.int64)
        number[nodes] = np.arange(len(nodes))
        vms = np.flatnonzero((number[node] != NOWHERE).all(axis=0))
        first = np.full(len(self.vm_names), NOWHERE, dtype=np.int64)
        for _, vm, place in self.placements:
            if place != NOWHERE and number[first[vm]] == NOWHERE:
                first[vm] = place
        demand = self.demand_at(times)[:, vms]
        window = Window(
            demand,
            self.sizes_at(times)[1][-1][vms],
            number[first[vms]],
            self.node_cores[nodes],
            self.node_memory[nodes],
        )
        return window, window.stddev_of(number[node[:, vms]])

    def regret(self, moves: int, *, exact: bool = False) -> Regret:
        """Return how far the run ended from the flattest placement reachable with so many moves."""
        window, actual = self.window()
        return regret_of(window, actual, moves, exact=exact)

    def summary(self, moves: int) -> dict[str, float]:
        """Return what the summary of a run says of this.

        Parameters
        ----------
        moves : int
            Migrations that succeeded.
        """
        regret = self.regret(moves)
        return {
            **happiness_summary(self.happiness()),
            "regret": regret.regret,
            "cpu_stddev_best": regret.best_cpu_stddev,
        }


def outcome(scenario: Scenario, seed: int, tables: Tables, duration_seconds: float) -> dict[str, float]:
    """Return :meth:`Record.summary` of a run of which there are the tables only, as of a live one.

    Parameters
    ----------
    scenario : Scenario
        What was played.
    seed : int
        For which seed.
    tables : mapping of str to DataFrame
        ``nodes``, ``placement`` and ``migrations`` of the run.
    duration_seconds : float
        Its length in lab time.
    """
    expansion = scenario.expand(seed)
    vms, nodes = expansion.all_vms, sorted(expansion.all_nodes, key=lambda node: node.name)
    names = [vm.name for vm in vms]
    record = Record(
        loads=LoadTable([vm.curve for vm in vms], [vm.load_seed for vm in vms]),
        cores=np.array([vm.cores for vm in vms]),
        memory_bytes=np.array([vm.memory_bytes for vm in vms]),
        events=expansion.events,
        vm_names=names,
        node_cores=np.array([node.cores for node in nodes]),
        node_memory=np.array([node.memory_bytes for node in nodes]),
        ready=_there_at_the_end(tables["nodes"], [node.name for node in nodes]),
        placements=_placements(tables["placement"], names, [node.name for node in nodes]),
        duration_seconds=duration_seconds,
    )
    return record.summary(len(finished(tables["migrations"])))


def _there_at_the_end(nodes: pd.DataFrame, names: Sequence[str]) -> BoolArray:
    last = set(nodes.loc[nodes["time_seconds"] == nodes["time_seconds"].max(), "node"])
    return np.array([name in last for name in names], dtype=np.bool_)


def _placements(table: pd.DataFrame, vms: Sequence[str], nodes: Sequence[str]) -> list[tuple[float, int, int]]:
    vm_number, node_number = ({name: number for number, name in enumerate(names)} for names in (vms, nodes))
    rows = zip(table["time_seconds"], table["vm"], table["node"], strict=True)
    return [(time, vm_number[vm], node_number.get(node, NOWHERE)) for time, vm, node in rows if vm in vm_number]
