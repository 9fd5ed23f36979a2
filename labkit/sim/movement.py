"""Pods and migrations: who is where, who leaves, how the copies share the links, and what becomes of failures.

KubeVirt's protocol as the live controllers play it: an accepted eviction marks the VM; a marked VM waits until the
limits allow its migration; the scheduler places the target pod, whose requests count from then on; the copy runs; the
VM moves at the switchover, and the source pod goes. A failure releases the target, and the VM, still marked, tries
again after the back-off.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from labkit.migration import (
    CopyState,
    MigrationPolicy,
    advance,
    dirty_bytes_per_second,
    fair_rates,
    may_start,
    predict,
    start_copy,
)
from labkit.placement import PodRequest, Scheduler
from labkit.sim.fleet import NOWHERE, Fleet
from labkit.sim.settings import Timing

_MOVING_STRATEGIES = ("LiveMigrate", "LiveMigrateIfPossible")


@dataclass(frozen=True)
class MigrationRow:
    """One attempt, as the table ``migrations`` has it; NaN for what has not happened."""

    vm: int
    source: int
    target: int
    requested_seconds: float
    started_seconds: float
    ended_seconds: float
    outcome: str
    bytes: float
    downtime_seconds: float


@dataclass
class _Migration:
    """A migration that has begun: it counts against the limits until it ends."""

    vm: int
    source: int
    requested: float
    begun: float
    target: int = NOWHERE
    target_pod: int = -1
    started: float = math.nan
    copy: CopyState | None = None
    copied_until: float = 0.0
    rate: float = 0.0


@dataclass
class _Mark:
    """An accepted eviction: the VM is to leave ``node``."""

    node: int
    requested: float
    failures: int = 0
    not_before: float = 0.0


class Movement:
    """Places VMs and moves them.

    Parameters
    ----------
    fleet : Fleet
        Whose VMs; changed in place.
    scheduler : Scheduler
        Chooses nodes for pods.
    policy : MigrationPolicy
        Limits, timeouts, back-off.
    link_bytes_per_second : float
        Each node's link.
    timing : Timing
        Software latencies.
    target_of : callable, optional
        Chooses a migration's target in place of the scheduler (the oracle): from VM to node, or NOWHERE.
    """

    def __init__(
        self,
        fleet: Fleet,
        scheduler: Scheduler,
        policy: MigrationPolicy,
        link_bytes_per_second: float,
        timing: Timing,
        *,
        target_of: Callable[[int], int] | None = None,
    ) -> None:
        self.fleet = fleet
        self.rows: list[MigrationRow] = []
        self.placements: list[tuple[float, int, int]] = []
        self.pod_of: list[int] = [-1] * len(fleet.vms)
        self.marks: dict[int, _Mark] = {}
        self.running: dict[int, _Migration] = {}
        self.last_moves: dict[int, list[tuple[float, float]]] = {}
        """Start and end of each VM's finished migrations, for cooldowns."""
        self._scheduler = scheduler
        self._policy = policy
        self._link = link_bytes_per_second
        self._timing = timing
        self.on_pod_gone: Callable[[int, int, int], None] = lambda pod, vm, node: None
        """Told the pod, its VM and its node when a pod ceases to exist."""
        self._target_of = target_of
        self._next_pod = 0
        self._pending: list[int] = []
        self._queue: list[int] = []

    # --- VMs -----------------------------------------------------------------------------------------

    def create(self, vm: int, time: float) -> None:
        """Start a VM: on its initial node, or where the scheduler puts it, now or when there is room."""
        fleet = self.fleet
        fleet.exists[vm] = True
        initial = fleet.vms[vm].initial_node
        node = fleet.node_number[initial] if initial and time <= 0 else self._choose(vm)
        if node == NOWHERE:
            self._pending.append(vm)
            return
        fleet.table.bind(node, fleet.requests[vm])
        self._run_on(vm, node, self._new_pod(), time)

    def delete(self, vm: int, time: float) -> None:
        """Delete a VM with all its pods."""
        self.fleet.exists[vm] = False
        self._stop(vm, time)
        if vm in self._pending:
            self._pending.remove(vm)

    def restart(self, vm: int, time: float) -> None:
        """End a VM's pods and start it anew, wherever the scheduler puts it."""
        self._stop(vm, time)
        if vm not in self._pending:
            self._pending.append(vm)

    def resize(self, vm: int, time: float, cores: float | None, memory_bytes: float | None) -> None:
        """Give a VM another size, for which it starts anew."""
        self._stop(vm, time)
        fleet = self.fleet
        if cores is not None:
            fleet.cores[vm] = cores
        if memory_bytes is not None:
            fleet.memory_bytes[vm] = memory_bytes
        fleet.requests[vm] = PodRequest(round(fleet.cores[vm] * 100), round(fleet.memory_bytes[vm]))
        self.restart(vm, time)

    def lose_node(self, node: int, time: float) -> list[int]:
        """Take away all that is on a node at once; return the VMs that ran there."""
        lost = [int(vm) for vm in self.fleet.vms_on(node)]
        for vm, migration in list(self.running.items()):
            if migration.target == node:
                self._fail(vm, time)
        for vm in lost:
            self._stop(vm, time)
        return lost

    def _stop(self, vm: int, time: float) -> None:
        if vm in self.running:
            self._drop(vm, time)
        self.marks.pop(vm, None)
        if vm in self._queue:
            self._queue.remove(vm)
        node = int(self.fleet.node_of[vm])
        if node != NOWHERE:
            self.fleet.table.release(node, self.fleet.requests[vm])
            pod, self.pod_of[vm] = self.pod_of[vm], -1
            self._move(vm, NOWHERE, time)
            self.on_pod_gone(pod, vm, node)

    def _run_on(self, vm: int, node: int, pod: int, time: float) -> None:
        self.pod_of[vm] = pod
        self._move(vm, node, time)

    def _move(self, vm: int, node: int, time: float) -> None:
        self.fleet.node_of[vm] = node
        self.placements.append((time, vm, node))

    def _new_pod(self) -> int:
        self._next_pod += 1
        return self._next_pod

    def _choose(self, vm: int, exclude: tuple[int, ...] = ()) -> int:
        return self._scheduler.choose(self.fleet.table, self.fleet.requests[vm], exclude)

    # --- evictions -----------------------------------------------------------------------------------

    def evict(self, vm: int, time: float) -> str:
        """Answer an eviction of a VM's pod as the webhook does.

        Parameters
        ----------
        time : float
            When it is answered; not before the present, and what follows from it does not happen before.

        Returns
        -------
        str
            ``background``: accepted, or accepted before; ``success``: the pod was evicted at once.
        """
        if vm in self.marks:
            return "background"
        strategy = self.fleet.vms[vm].eviction_strategy
        if strategy == "None":
            self.restart(vm, time)
            return "success"
        self.marks[vm] = _Mark(int(self.fleet.node_of[vm]), time, not_before=time)
        if strategy in _MOVING_STRATEGIES:
            self._queue.append(vm)
        return "background"

    def pods_on(self, node: int) -> list[tuple[int, int]]:
        """Return pod and VM of each launcher pod on a node: those that run, and targets of migrations."""
        pods = [(self.pod_of[vm], int(vm)) for vm in self.fleet.vms_on(node).tolist()]
        pods += [(m.target_pod, m.vm) for m in self.running.values() if m.target == node]
        return pods

    # --- what goes on by itself ------------------------------------------------------------------------

    def next_time(self, now: float) -> float:
        """Return the lab time of the next thing that happens here by itself; infinity if nothing does."""
        times = [self.marks[vm].not_before for vm in self._queue if self.marks[vm].not_before > now]
        for migration in self.running.values():
            if migration.target == NOWHERE:
                times.append(self._gives_up(migration))
            elif migration.copy is None:
                times.append(self._starts(migration))
            else:
                times.append(self._ends(migration))
        return min(times, default=math.inf)

    # Whether something is due is asked with the very number that ``next_time`` announced: a difference of times may
    # round to less, and the clock would stand still.

    def _starts(self, migration: _Migration) -> float:
        return migration.begun + self._timing.start_seconds

    def _gives_up(self, migration: _Migration) -> float:
        return migration.begun + self._policy.pending_timeout_seconds

    def _ends(self, migration: _Migration) -> float:
        assert migration.copy is not None
        seconds = 0.0 if migration.copy.outcome else predict(migration.copy, migration.rate).seconds
        late = self._timing.end_seconds if migration.copy.outcome != "failed" else 0.0
        return migration.copied_until + seconds + late

    def step(self, time: float) -> bool:
        """Do what is due at an instant; return whether a VM has moved, started or stopped."""
        before = len(self.placements)
        self._end_copies(time)
        self._begin_copies(time)
        self._schedule_pending(time)
        self._admit(time)
        self._begin_copies(time)
        return len(self.placements) > before

    def _end_copies(self, time: float) -> None:
        for vm, migration in list(self.running.items()):
            if migration.target == NOWHERE:
                if self._gives_up(migration) <= time:
                    self._fail(vm, time)
            elif migration.copy is not None and self._ends(migration) <= time:
                if not migration.copy.outcome:
                    # Not advanced by the difference of two times: its rounding could leave a last byte over.
                    migration.copy = predict(migration.copy, migration.rate).state
                migration.copied_until = time
                if migration.copy.outcome == "succeeded":
                    self._hand_over(vm, time)
                else:
                    self._fail(vm, time)

    def _begin_copies(self, time: float) -> None:
        fleet, began = self.fleet, False
        for migration in self.running.values():
            waiting = migration.target != NOWHERE and migration.copy is None
            if waiting and self._starts(migration) <= time:
                vm = migration.vm
                if not began:
                    self._settle(time)
                migration.copy = start_copy(
                    self._policy,
                    memory_bytes=float(fleet.memory_bytes[vm]),
                    memory_utilization=float(fleet.memory_utilization[vm]),
                    dirty_bytes_per_second=dirty_bytes_per_second(
                        fleet.vms[vm].dirty_rate_mbps, float(fleet.cpu_utilization[vm])
                    ),
                )
                migration.started = migration.copied_until = time
                began = True
        if began:
            self._share()

    def _schedule_pending(self, time: float) -> None:
        fleet = self.fleet
        for migration in self.running.values():
            if migration.target == NOWHERE:
                self._bind_target(migration)
                if migration.target != NOWHERE:
                    migration.begun = time
        waiting, self._pending = self._pending, []
        for vm in waiting:
            node = self._choose(vm)
            if node == NOWHERE:
                self._pending.append(vm)
            else:
                fleet.table.bind(node, fleet.requests[vm])
                self._run_on(vm, node, self._new_pod(), time)

    def _admit(self, time: float) -> None:
        for vm in list(self._queue):
            if len(self.running) >= self._policy.parallel_per_cluster:
                break
            mark = self.marks[vm]
            sources = [str(migration.source) for migration in self.running.values()]
            if mark.not_before > time or not may_start(self._policy, str(mark.node), sources):
                continue
            self._queue.remove(vm)
            migration = _Migration(vm, mark.node, mark.requested, time)
            self._bind_target(migration)
            self.running[vm] = migration

    def _bind_target(self, migration: _Migration) -> None:
        vm, fleet = migration.vm, self.fleet
        node = self._target_of(vm) if self._target_of is not None else NOWHERE
        if node == NOWHERE:
            node = self._choose(vm, (migration.source,))
        if node != NOWHERE:
            fleet.table.bind(node, fleet.requests[vm])
            migration.target, migration.target_pod = node, self._new_pod()

    # --- copies --------------------------------------------------------------------------------------

    def _settle(self, time: float) -> None:
        """Bring every copy up to an instant at the rate that it had."""
        for migration in self.running.values():
            copy = migration.copy
            if copy is not None and not copy.outcome and migration.copied_until < time:
                migration.copy = advance(copy, migration.rate, time - migration.copied_until)
                ran = migration.copy.elapsed_seconds - copy.elapsed_seconds
                migration.copied_until = migration.copied_until + ran if migration.copy.outcome else time

    def _share(self) -> None:
        """Share the links anew among the copies that run."""
        copying = [m for m in self.running.values() if m.copy is not None and not m.copy.outcome]
        rates = fair_rates([m.source for m in copying], [m.target for m in copying], self._link, self._policy)
        for migration, rate in zip(copying, rates.tolist(), strict=True):
            migration.rate = rate

    def _hand_over(self, vm: int, time: float) -> None:
        migration = self._take(vm, time, "succeeded")
        self.fleet.table.release(migration.source, self.fleet.requests[vm])
        pod = self.pod_of[vm]
        self.marks.pop(vm, None)
        self._run_on(vm, migration.target, migration.target_pod, time)
        self.last_moves.setdefault(vm, []).append((migration.started, time))
        self.on_pod_gone(pod, vm, migration.source)

    def _fail(self, vm: int, time: float) -> None:
        self._drop(vm, time)
        mark = self.marks[vm]
        mark.failures += 1
        mark.not_before = time + self._policy.backoff_seconds(mark.failures)
        self._queue.append(vm)

    def _drop(self, vm: int, time: float) -> None:
        migration = self._take(vm, time, "failed")
        if migration.target != NOWHERE:
            self.fleet.table.release(migration.target, self.fleet.requests[vm])
            self.on_pod_gone(migration.target_pod, vm, migration.target)

    def _take(self, vm: int, time: float, outcome: str) -> _Migration:
        """End a migration: write it down and give its share of the links to the others."""
        self._settle(time)
        migration = self.running.pop(vm)
        self.rows.append(self._row(migration, time, outcome))
        self._share()
        return migration

    def _row(self, migration: _Migration, ended: float, outcome: str) -> MigrationRow:
        copy = migration.copy
        return MigrationRow(
            migration.vm, migration.source, migration.target, migration.requested, migration.started, ended, outcome,
            copy.sent_bytes if copy is not None else 0.0, copy.downtime_seconds if copy is not None else 0.0,
        )  # fmt: skip

    def unfinished(self, time: float) -> list[MigrationRow]:
        """Return the migrations that run at an instant, and the marked VMs that wait for theirs."""
        self._settle(time)
        rows = [self._row(migration, math.nan, "") for migration in self.running.values()]
        for vm in self._queue:
            mark = self.marks[vm]
            waiting = _Migration(vm, mark.node, mark.requested, time)
            rows.append(self._row(waiting, math.nan, ""))
        return rows
