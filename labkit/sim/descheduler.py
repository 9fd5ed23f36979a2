"""The descheduler of the twin: its cycles, its cache of requests, its metric, and the two companions of production.

The decisions are :mod:`labkit.descheduling`'s; this keeps what a process would keep between two cycles.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from labkit.descheduling import SWEEP_INTERVAL_SECONDS, Classification, EvictionCache, balance, classify, soft_taints
from labkit.errors import InputError
from labkit.model import BoolArray, FloatArray, IntArray
from labkit.sim.fleet import Fleet
from labkit.sim.movement import Movement
from labkit.sim.settings import Policy

MAX_COOLDOWN_SECONDS: Final = 6 * 3600.0
COOLDOWN_WINDOW_SECONDS: Final = 48 * 3600.0
"""KubevirtMigrationAware's ceiling of a cooldown, and how long a migration counts."""

Pod = tuple[int, int]
"""A pod's number, and its VM's."""


@dataclass(frozen=True)
class Cycle:
    """One cycle as the table ``cycles`` has it: the nodes that took part, and what was made of them."""

    time_seconds: float
    nodes: IntArray
    classification: Classification


class Descheduler:
    """Cycles of one run.

    Parameters
    ----------
    fleet : Fleet
        Nodes and VMs.
    movement : Movement
        Answers evictions.
    policy : Policy
        Thresholds, limits, cooldown.
    rng : numpy.random.Generator
        Order of pods of equal rank and of nodes of equal usage, which the descheduler leaves to chance.
    tempo : int
        Lab seconds per wall second: the cache's timeout is in wall time on every backend.
    request_seconds : float
        Between two requests of one cycle.
    """

    def __init__(
        self,
        fleet: Fleet,
        movement: Movement,
        policy: Policy,
        rng: np.random.Generator,
        tempo: int,
        request_seconds: float = 0.0,
    ) -> None:
        self.cycles: list[Cycle] = []
        self.evictions: list[tuple[float, int, int, str]] = []
        """Time, VM, node and result of each request that was sent."""
        self.counts: dict[tuple[str, str], int] = {}
        """The metric: result and node to count."""
        self._fleet = fleet
        self._movement = movement
        self._policy = policy
        self._rng = rng
        self._tempo = tempo
        self._request_seconds = request_seconds
        self._sent = 0
        self._cache = EvictionCache()
        self._swept = 0.0

    def pod_gone(self, pod: int, vm: int, node: int) -> None:
        """Hear that a pod was deleted: an eviction that was under way has succeeded."""
        if self._cache.forget((pod, vm)):
            self._count("success", node)

    def cycle(self, time: float, scores: FloatArray, present: BoolArray) -> Cycle | None:
        """Run one cycle; None if it is given up because a node has no score or one outside [0, 1]."""
        wall = time / self._tempo
        if wall - self._swept >= SWEEP_INTERVAL_SECONDS:
            self._cache.sweep(wall)
            self._swept = wall
        for vm in self._movement.marks:
            # The annotation eviction-in-progress of a marked VM's pod, whoever asked for the eviction.
            self._cache.observe((self._movement.pod_of[vm], vm), self._movement.marks[vm].node)
        cycle = self.observe(time, scores, present)
        if cycle is not None:
            self._balance(cycle, wall)
        return cycle

    def observe(self, time: float, scores: FloatArray, present: BoolArray) -> Cycle | None:
        """Classify the nodes and write the cycle down, without evicting."""
        found = self.classified(scores, present)
        if found is None:
            return None
        self._sent = 0
        cycle = Cycle(time, *found)
        self.cycles.append(cycle)
        return cycle

    def request(self, vm: int, node: int, time: float) -> bool:
        """Send one eviction request; tell whether it was accepted."""
        at = time + self._sent * self._request_seconds
        self._sent += 1
        result = self._movement.evict(vm, at)
        self.evictions.append((at, vm, node, result))
        self._count(result, node)
        return True

    def classified(self, scores: FloatArray, present: BoolArray) -> tuple[IntArray, Classification] | None:
        """Classify the ready nodes; None where the plugin would give up."""
        nodes = np.flatnonzero(self._fleet.ready)
        if len(nodes) <= 1 or not present[nodes].all():
            return None
        try:
            return nodes, classify(scores[nodes], self._policy.thresholds, schedulable=~self._fleet.cordoned[nodes])
        except InputError:
            return None

    def _balance(self, cycle: Cycle, wall: float) -> None:
        nodes, time = cycle.nodes.tolist(), cycle.time_seconds

        def request(pod: Hashable, node: int) -> bool:
            assert isinstance(pod, tuple)
            return self.request(pod[1], nodes[node], time)

        attempts = balance(
            cycle.classification,
            pods_on=lambda node: self._pods_on(nodes[node], time),
            request=request,
            cache=self._cache,
            now=wall,
            limits=self._policy.eviction_limits,
            tie_order=self._rng.permutation(len(nodes)).tolist(),
            may_evict=lambda pod: self._has_cooled_down(pod, time),
            tolerates=bool((self._fleet.table.soft_taints[cycle.nodes[cycle.classification.under]] == 0).any()),
        )
        for attempt in attempts:
            if attempt.result.startswith("maximum"):
                self._count(attempt.result, nodes[attempt.node])

    def _pods_on(self, node: int, time: float) -> Sequence[Pod]:
        pods = self._movement.pods_on(node)
        if self._policy.migration_cooldown_seconds is not None:
            pods = [pod for pod in pods if pod[1] not in self._movement.running]
        return [pods[index] for index in self._rng.permutation(len(pods)).tolist()]

    def _has_cooled_down(self, pod: Hashable, time: float) -> bool:
        """KubevirtMigrationAware's pre-eviction filter."""
        base = self._policy.migration_cooldown_seconds
        assert isinstance(pod, tuple)
        if base is None:
            return True
        moves = [move for move in self._movement.last_moves.get(pod[1], ()) if move[1] > time - COOLDOWN_WINDOW_SECONDS]
        if not moves:
            return True
        started, ended = moves[-1]
        wait = min(MAX_COOLDOWN_SECONDS, max(base, ended - started) * 2.0 ** (len(moves) - 1))
        return time - ended >= wait

    def _count(self, result: str, node: int) -> None:
        key = (result, self._fleet.node_names[node])
        self.counts[key] = self.counts.get(key, 0) + 1


class SoftTainter:
    """Production's soft-tainter: taints that let the scheduler prefer nodes that are not over-utilised.

    Parameters
    ----------
    fleet : Fleet
        Whose nodes.
    descheduler : Descheduler
        Same query, thresholds and arithmetic.
    """

    def __init__(self, fleet: Fleet, descheduler: Descheduler) -> None:
        self._fleet = fleet
        self._descheduler = descheduler
        self._own = np.array([int(count) for count in fleet.table.soft_taints], dtype=np.int64)

    def cycle(self, scores: FloatArray, present: BoolArray) -> None:
        """Bring the taints in line with the classification; without one nothing changes."""
        found = self._descheduler.classified(scores, present)
        if found is None:
            return
        nodes, classification = found
        self._fleet.table.soft_taints[nodes] = self._own[nodes] + soft_taints(classification)
