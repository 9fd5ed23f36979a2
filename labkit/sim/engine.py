"""The twin's clock: everything that happens in a run, in order of lab time.

Load steps, scrapes, rule evaluations, descheduling cycles and the soft-tainter recur; the timeline is known from the
start; what migrations do next is asked of them. Two things at one instant happen in the order of :class:`Kind`, so that
a run is the same everywhere.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Final, Protocol

import numpy as np

from labkit.model import BoolArray, FloatArray
from labkit.names import LOAD_STEP_SECONDS, SCRAPE_INTERVAL_SECONDS, SETTLE_SECONDS
from labkit.placement import Scheduler
from labkit.scenario import Event
from labkit.scenario.expansion import Expansion
from labkit.sim.descheduler import Descheduler, SoftTainter
from labkit.sim.fleet import Fleet
from labkit.sim.metrics import Sample
from labkit.sim.movement import Movement
from labkit.sim.recorder import Recorder
from labkit.sim.settings import Policy, Timing

MOST_REPEATS: Final = 10_000
"""Migrations may do so much at one instant; more would be an error of this program that shows as a hang."""


class Kind(IntEnum):
    """What happens; at one instant the smaller number happens first."""

    LOAD = 0
    TIMELINE = 1
    MOVEMENT = 2
    SCRAPE = 3
    EVALUATION = 4
    CYCLE = 5
    TAINTS = 6


class Scores(Protocol):
    """Where the descheduler's scores come from: the rules, or a baseline."""

    def scrape(self, sample: Sample, evictions: dict[tuple[str, str], int]) -> None:
        """Take a scrape in."""

    def evaluate(self, time_seconds: float) -> None:
        """Evaluate the rules at an instant, now or before they are asked for."""

    def settle(self) -> None:
        """Do and record the evaluations that were put off."""

    def scores(self, time_seconds: float) -> tuple[FloatArray, BoolArray]:
        """Return the scores of an instant and which nodes have one."""


@dataclass(frozen=True)
class Engine:
    """Everything that one run is made of, ready to play.

    Parameters
    ----------
    expansion : Expansion
        The scenario for the run's seed.
    policy, timing : Policy, Timing
        How the loop is set, and what the machine adds.
    fleet, movement, descheduler, recorder : Fleet, Movement, Descheduler, Recorder
        The parts.
    scores : Scores
        Scrapes, rules and the recorded score.
    asked : callable
        What the descheduler gets when it asks for scores at an instant.
    descheduling : bool
        Whether there are cycles.
    act : callable, optional
        Takes the place of the descheduler's balance (the oracle): told the time at each cycle.
    duration_seconds : float
        Lab time at the end.
    """

    expansion: Expansion
    policy: Policy
    timing: Timing
    fleet: Fleet
    movement: Movement
    descheduler: Descheduler
    recorder: Recorder
    scores: Scores
    asked: Callable[[float], tuple[FloatArray, BoolArray]]
    descheduling: bool
    act: Callable[[float], None] | None
    duration_seconds: float
    _draining: set[int] = field(default_factory=set)

    def play(self) -> None:
        """Play the run from 75 lab seconds before lab time 0, when the VMs are placed, to its end."""
        start = -SETTLE_SECONDS
        for vm in range(len(self.expansion.vms)):
            self.movement.create(vm, start)
        self._moved(start)
        queue: list[tuple[float, Kind, int]] = []
        for kind, first in self._recurring():
            heapq.heappush(queue, (first, kind, 0))
        for number, event in enumerate(self._timeline()):
            heapq.heappush(queue, (event[0], Kind.TIMELINE, number))
        timeline = [event[1] for event in self._timeline()]
        tainter = SoftTainter(self.fleet, self.descheduler) if self.policy.soft_taints else None
        repeats = 0
        while True:
            due = self.movement.next_time(self.fleet.time)
            if (due, Kind.MOVEMENT) < queue[0][:2]:
                repeats = repeats + 1 if due == self.fleet.time else 0
                if repeats > MOST_REPEATS:
                    raise AssertionError(f"the clock stands still at lab time {due!r}: a migration is due and not done")
                time, kind, number = due, Kind.MOVEMENT, 0
            else:
                time, kind, number = heapq.heappop(queue)
            if time > self.duration_seconds:
                break
            self.fleet.advance(time)
            if kind == Kind.LOAD:
                self.fleet.set_load(time)
            elif kind == Kind.TIMELINE:
                timeline[number](time)
                self._moved(time)
            elif kind == Kind.MOVEMENT:
                self._moved(time)
            elif kind == Kind.SCRAPE:
                sample = self.recorder.scrape(time, self.fleet, self.descheduler.counts)
                self.scores.scrape(sample, self.descheduler.counts)
            elif kind == Kind.EVALUATION:
                self.scores.evaluate(time)
            elif kind == Kind.CYCLE:
                self._cycle(time)
            elif tainter is not None:
                tainter.cycle(*self.asked(time))
            following = self._following(kind, time)
            if following < math.inf:
                heapq.heappush(queue, (following, kind, 0))
        self.scores.settle()
        self.fleet.advance(self.duration_seconds)

    def _cycle(self, time: float) -> None:
        if self.act is not None:
            self.descheduler.observe(time, *self.asked(time))
            self.act(time)
        else:
            self.descheduler.cycle(time, *self.asked(time))
        self._moved(time)

    def _moved(self, time: float) -> None:
        """Let pods and migrations go on after something changed; take the new places into account."""
        moved = self.movement.step(time)
        for node in self._draining:
            # Whoever is on a draining node is asked to leave, those that arrive there later, too.
            for vm in self.fleet.vms_on(node).tolist():
                self.movement.evict(vm, time)
            moved |= self.movement.step(time)
        if moved or time < 0:
            self.fleet.update_load()

    # --- what happens when -----------------------------------------------------------------------------

    def _recurring(self) -> list[tuple[Kind, float]]:
        timing, start = self.timing, -SETTLE_SECONDS
        scrape = timing.scrape_phase_seconds % SCRAPE_INTERVAL_SECONDS
        evaluation = scrape + timing.rule_lag_seconds
        recurring = [
            (Kind.LOAD, LOAD_STEP_SECONDS),
            (Kind.SCRAPE, _first_from(start, scrape, SCRAPE_INTERVAL_SECONDS)),
            (Kind.EVALUATION, _first_from(start, evaluation, self.policy.evaluation_interval_seconds)),
        ]
        if self.descheduling:
            first = next(iter(timing.cycle_times_seconds), timing.first_cycle_seconds)
            recurring.append((Kind.CYCLE, first))
            if self.policy.soft_taints:
                recurring.append((Kind.TAINTS, first))
        return recurring

    def _following(self, kind: Kind, time: float) -> float:
        """Return when something happens again after ``time``; infinity if it does not."""
        measured = self.timing.cycle_times_seconds
        if measured and kind in (Kind.CYCLE, Kind.TAINTS):
            return next((cycle for cycle in measured if cycle > time), math.inf)
        cycle = self.timing.cycle_seconds or self.policy.descheduling_interval_seconds
        period = {
            Kind.LOAD: LOAD_STEP_SECONDS,
            Kind.SCRAPE: SCRAPE_INTERVAL_SECONDS,
            Kind.EVALUATION: self.policy.evaluation_interval_seconds,
            Kind.CYCLE: cycle,
            Kind.TAINTS: cycle,
        }.get(kind, math.inf)
        return first_after(time, period) if period < math.inf else math.inf

    def _timeline(self) -> list[tuple[float, Callable[[float], None]]]:
        happenings: list[tuple[float, Callable[[float], None]]] = []
        for event in self.expansion.events:
            play = getattr(self, f"_{event.type}", None)
            if play is not None:
                happenings.append((event.at_seconds, _bound(play, event)))
        return happenings

    # --- events of the timeline --------------------------------------------------------------------------

    def _add_nodes(self, event: Event, time: float) -> None:
        for node in event.nodes:
            self.fleet.ready[self.fleet.node_number[node.name]] = True
        self.fleet.update_table()

    def _cordon_node(self, event: Event, time: float) -> None:
        self.fleet.cordoned[self.fleet.node_number[event.node]] = True
        self.fleet.update_table()

    def _uncordon_node(self, event: Event, time: float) -> None:
        self.fleet.cordoned[self.fleet.node_number[event.node]] = False
        self._draining.discard(self.fleet.node_number[event.node])
        self.fleet.update_table()

    def _drain_node(self, event: Event, time: float) -> None:
        self._cordon_node(event, time)
        self._draining.add(self.fleet.node_number[event.node])

    def _fail_node(self, event: Event, time: float) -> None:
        node = self.fleet.node_number[event.node]
        self.fleet.ready[node] = False
        self.fleet.update_table()
        self._draining.discard(node)
        for vm in self.movement.lose_node(node, time):
            self.movement.restart(vm, time)

    def _create_vms(self, event: Event, time: float) -> None:
        for vm in event.vms:
            self.movement.create(self.fleet.vm_number[vm.name], time)

    def _delete_vms(self, event: Event, time: float) -> None:
        for name in event.vm_names:
            self.movement.delete(self.fleet.vm_number[name], time)

    def _resize_vms(self, event: Event, time: float) -> None:
        for name in event.vm_names:
            self.movement.resize(self.fleet.vm_number[name], time, event.cores, event.memory_bytes)


def _bound(play: Callable[[Event, float], None], event: Event) -> Callable[[float], None]:
    return lambda time: play(event, time)


def _first_from(start: float, phase: float, period: float) -> float:
    """Return the first instant of a phase that is not before ``start``."""
    return phase + math.ceil((start - phase) / period) * period


def first_after(time: float, period: float) -> float:
    """Return the next instant of something that recurs, free of accumulated rounding at whole milliseconds."""
    return round((time + period) * 1000) / 1000


def make_scheduler(seed: int, chance: int = 0) -> Scheduler:
    """Return the scheduler of a run, with its own stream of random numbers."""
    return Scheduler(np.random.default_rng([seed, 1, chance]))
