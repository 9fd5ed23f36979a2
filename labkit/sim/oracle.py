"""The oracle: what a planner could do that knows the load to come, within the limits that bind everybody.

At each cycle it looks at the load of the next minutes as it will be and picks, one after the other, the moves that
lower the nodes' mean squared distance from the cluster's mean the most, CPU and memory alike; it stops when no move is
worth a migration. Evictions per cycle and node, migrations in parallel and the time a copy takes are as for the others;
the target is its own choice among the nodes that the scheduler's filters allow.
"""

from __future__ import annotations

from collections import Counter
from typing import Final

import numpy as np

from labkit.model import FloatArray, IntArray
from labkit.placement import feasible
from labkit.sim.descheduler import Descheduler
from labkit.sim.fleet import NOWHERE, Fleet
from labkit.sim.movement import Movement
from labkit.sim.settings import Policy

HORIZON_SECONDS: Final = 600.0
"""How far ahead it looks."""
SAMPLES: Final = 10
LEAST_GAIN: Final = 2e-4
"""A move must lower the sum over nodes of squared distances from the mean, averaged over the horizon, by this much: a
VM that uses 1 % of a node is not worth it, one of 2 % between nodes 2 points apart either side is."""
CANDIDATES: Final = 24
"""Nodes at either end that it looks at in large clusters."""


class Oracle:
    """Plans moves.

    Parameters
    ----------
    fleet : Fleet
        Nodes, VMs and their loads, those to come included.
    policy : Policy
        The limits.
    duration_seconds : float
        Lab time at the end; it does not look beyond.
    """

    def __init__(self, fleet: Fleet, policy: Policy, duration_seconds: float) -> None:
        self._fleet = fleet
        self._policy = policy
        self._end = duration_seconds
        self._targets: dict[int, int] = {}

    def target_of(self, vm: int) -> int:
        """Return the planned target of a VM if the scheduler's filters allow it now."""
        node = self._targets.get(vm, NOWHERE)
        if node == NOWHERE or not feasible(self._fleet.table, self._fleet.requests[vm])[node]:
            return NOWHERE
        return node

    def act(self, movement: Movement, descheduler: Descheduler, time: float) -> None:
        """Ask for the evictions of one cycle."""
        plan = _Plan(self._fleet, self._future(movement), self._samples(time))
        budget = self._policy.evictions_total - len(movement.marks)
        leaving = Counter(mark.node for mark in movement.marks.values())
        barred = set(movement.marks)
        while budget > 0:
            full = {node for node, count in leaving.items() if count >= self._policy.evictions_per_node}
            move = plan.best(barred, full)
            if move is None:
                break
            vm, target = move
            leaving[int(self._fleet.node_of[vm])] += 1
            barred.add(vm)
            budget -= 1
            self._targets[vm] = target
            plan.apply(vm, target)
            descheduler.request(vm, int(self._fleet.node_of[vm]), time)

    def _future(self, movement: Movement) -> IntArray:
        """Return where each VM will be when the migrations under way are over."""
        node_of = self._fleet.node_of.copy()
        for vm in movement.marks:
            running = movement.running.get(vm)
            target = running.target if running is not None else self._targets.get(vm, NOWHERE)
            if target != NOWHERE:
                node_of[vm] = target
        return node_of

    def _samples(self, time: float) -> FloatArray:
        last = max(min(time + HORIZON_SECONDS, self._end), time)
        return np.linspace(time, last, SAMPLES)


class _Plan:
    """The nodes' load to come, changed move by move."""

    def __init__(self, fleet: Fleet, node_of: IntArray, times: FloatArray) -> None:
        self._fleet = fleet
        self._node_of = node_of
        cpu, memory = fleet.loads.block(times)
        self._demands = [(cpu * fleet.cores, fleet.node_cores), (memory * fleet.memory_bytes, fleet.memory_capacity)]
        self._distances = [self._distance(demand, capacity) for demand, capacity in self._demands]

    def _distance(self, demand: FloatArray, capacity: FloatArray) -> FloatArray:
        """Return each node's distance from the cluster's mean, shape (n_samples, n_nodes); 0 for nodes that are not."""
        ready = self._fleet.ready
        used = np.stack([_summed(row, self._node_of, len(capacity)) for row in demand])
        mean = used[:, ready].sum(axis=1, keepdims=True) / capacity[ready].sum()
        return np.where(ready, used / capacity - mean, 0.0)

    def best(self, barred: set[int], full: set[int]) -> tuple[int, int] | None:
        """Return the move that gains most, if it is worth a migration."""
        fleet = self._fleet
        total = np.stack([distance.mean(axis=0) for distance in self._distances]).sum(axis=0)
        order = np.argsort(total, kind="stable")
        sources = [node for node in order[::-1][:CANDIDATES].tolist() if node not in full and fleet.ready[node]]
        targets = np.array([node for node in order[:CANDIDATES].tolist() if fleet.table.open[node]], dtype=np.int64)
        there = np.isin(self._node_of, sources) & (self._node_of == fleet.node_of)
        there[list(barred)] = False
        vms = np.flatnonzero(there)
        if len(vms) == 0 or len(targets) == 0:
            return None
        change = self._change(vms, targets)
        for flat in np.argsort(change, axis=None, kind="stable")[: 4 * len(targets)].tolist():
            row, column = divmod(flat, len(targets))
            if change[row, column] > -LEAST_GAIN:
                return None
            vm, target = int(vms[row]), int(targets[column])
            if target != fleet.node_of[vm] and feasible(fleet.table, fleet.requests[vm])[target]:
                return vm, target
        return None

    def _change(self, vms: IntArray, targets: IntArray) -> FloatArray:
        """Return what each move does to the sum of squared distances, shape (n_vms, n_targets)."""
        change = np.zeros((len(vms), len(targets)))
        source = self._node_of[vms]
        for (demand, capacity), distance in zip(self._demands, self._distances, strict=True):
            moved = demand[:, vms]
            share = moved / capacity[source]
            change += (share * share - 2.0 * share * distance[:, source]).mean(axis=0)[:, np.newaxis]
            samples = len(moved)
            change += 2.0 * (moved.T @ distance[:, targets]) / samples / capacity[targets]
            change += (moved * moved).mean(axis=0)[:, np.newaxis] / np.square(capacity[targets])
        return change

    def apply(self, vm: int, target: int) -> None:
        """Count a move as done."""
        source = self._node_of[vm]
        for (demand, capacity), distance in zip(self._demands, self._distances, strict=True):
            distance[:, source] -= demand[:, vm] / capacity[source]
            distance[:, target] += demand[:, vm] / capacity[target]
        self._node_of[vm] = target


def _summed(demand: FloatArray, node_of: IntArray, nodes: int) -> FloatArray:
    return np.bincount(node_of + 1, weights=demand, minlength=nodes + 1)[1:].astype(np.float64)
