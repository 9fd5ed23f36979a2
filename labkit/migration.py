"""Live migration: who may start, how fast the copies run, when they end and how.

Pure arithmetic in lab seconds and bytes; the live controllers and the twin call the same functions and keep no
physics of their own. A controller that runs at a tempo converts its clock before it comes here.

Public names, stable for controllers and twin::

    MigrationPolicy(...)                                 limits, timeouts, back-off (KubeVirt's defaults)
    may_start(policy, source, running_sources) -> bool   limits per cluster and per source node
    fair_rates(sources, targets, link, policy) -> rates  bytes per second of each running copy
    start_copy(policy, memory_bytes=…, …) -> CopyState   the state before the first byte
    advance(state, rate, seconds) -> CopyState           the state that much later
    predict(state, rate) -> Prediction                   when and how it ends if the rate stays
    dirty_bytes_per_second(dirty_rate_mbps, cpu_utilization)
    policy.backoff_seconds(failures), policy.completion_timeout_seconds(memory_bytes)

What the model says: the *target runs no vCPU and holds no memory that anybody is charged for* until the switchover,
so load moves at once, and only then. The copy begins with the memory that the VM has touched; each later round sends
what was dirtied during the one before, at most all that was touched. The dirty rate follows the VM's CPU load. Rates
change whenever a copy starts or ends, and no link ever carries more than it can. A copy that does not converge
*fails*; it never counts as done.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import Final, Literal

import numpy as np

from labkit.errors import InputError
from labkit.model import FloatArray, IntArray

__all__ = [
    "DEFAULT_DIRTY_RATE_MBPS",
    "DEFAULT_LINK_BYTES_PER_SECOND",
    "DEFAULT_POLICY",
    "CopyState",
    "MigrationPolicy",
    "Prediction",
    "advance",
    "dirty_bytes_per_second",
    "fair_rates",
    "may_start",
    "predict",
    "start_copy",
]

DEFAULT_LINK_BYTES_PER_SECOND: Final = 10e9 / 8
"""A node's migration link: 10 Gbit/s in each direction."""
DEFAULT_DIRTY_RATE_MBPS: Final = 800.0
"""``spec.migration.dirtyRateMbps`` of a VM that does not say (megabits per second at full CPU load)."""

_NOISE: Final = 1e-9
"""A round that is smaller by rounding only is no progress."""

Outcome = Literal["", "succeeded", "failed"]
Phase = Literal["pre-copy", "switchover", "done"]


@dataclass(frozen=True)
class MigrationPolicy:
    """Limits and timers of the cluster; the defaults are those in KubeVirt's code.

    Parameters
    ----------
    parallel_per_cluster : int
        ``parallelMigrationsPerCluster``: migrations that run at once.
    parallel_outbound_per_node : int
        ``parallelOutboundMigrationsPerNode``: of these, those that leave one node.
    bandwidth_bytes_per_second : float
        ``bandwidthPerMigration``; 0 means as much as the link gives.
    completion_timeout_seconds_per_gb : float
        ``completionTimeoutPerGiB``. In spite of its name KubeVirt multiplies it by *decimal* gigabytes, rounded up.
    progress_timeout_seconds : float
        ``progressTimeout``: a copy that makes no progress for that long is given up.
    max_downtime_seconds : float
        The switchover begins when what remains can be sent within that time.
    pending_timeout_seconds : float
        A target pod that finds no node for that long ends the migration as failed.
    backoff_base_seconds : float
        Wait after the first failure; doubles with each further one, a success clears it.

    References
    ----------
    KubeVirt ``pkg/virt-config/virt-config.go``, ``pkg/virt-launcher/virtwrap/live-migration-source.go`` and
    ``manager.go`` (size as decimal gigabytes).
    """

    parallel_per_cluster: int = 5
    parallel_outbound_per_node: int = 2
    bandwidth_bytes_per_second: float = 0.0
    completion_timeout_seconds_per_gb: float = 150.0
    progress_timeout_seconds: float = 150.0
    max_downtime_seconds: float = 0.9
    pending_timeout_seconds: float = 300.0
    backoff_base_seconds: float = 20.0

    def __post_init__(self) -> None:
        for name in ("parallel_per_cluster", "parallel_outbound_per_node"):
            if getattr(self, name) < 1:
                raise InputError(f"{name}: wanted 1 or more, found {getattr(self, name)}")
        for name in ("completion_timeout_seconds_per_gb", "progress_timeout_seconds", "max_downtime_seconds"):
            if not getattr(self, name) > 0:
                raise InputError(f"{name}: wanted more than 0, found {getattr(self, name)}")

    def completion_timeout_seconds(self, memory_bytes: float) -> float:
        """Return how long a copy of a VM with that much memory may take.

        Examples
        --------
        >>> DEFAULT_POLICY.completion_timeout_seconds(4 * 2**30)
        750.0
        """
        return self.completion_timeout_seconds_per_gb * max(1, math.ceil(memory_bytes / 1e9))

    def backoff_seconds(self, failures: int) -> float:
        """Return the wait before the next attempt after that many failures in a row.

        Examples
        --------
        >>> [DEFAULT_POLICY.backoff_seconds(failures) for failures in range(4)]
        [0.0, 20.0, 40.0, 80.0]
        """
        return 0.0 if failures <= 0 else self.backoff_base_seconds * 2.0 ** min(failures - 1, 30)


DEFAULT_POLICY: Final = MigrationPolicy()


def may_start(policy: MigrationPolicy, source: str, running_sources: Collection[str]) -> bool:
    """Tell whether a migration may leave ``source`` now.

    Parameters
    ----------
    source : str
        The node that the VM is on.
    running_sources : collection of str
        The source node of each running migration: those that have a target pod and have not ended.
    """
    leaving = sum(1 for node in running_sources if node == source)
    return len(running_sources) < policy.parallel_per_cluster and leaving < policy.parallel_outbound_per_node


def fair_rates(
    sources: Sequence[int] | IntArray,
    targets: Sequence[int] | IntArray,
    link_bytes_per_second: float = DEFAULT_LINK_BYTES_PER_SECOND,
    policy: MigrationPolicy = DEFAULT_POLICY,
) -> FloatArray:
    """Share the nodes' links among the copies that run now.

    A link is full duplex: what a node sends and what it receives do not disturb each other. A copy gets the smaller
    of its equal shares at both ends, so the sum over a link is at most the link.

    Parameters
    ----------
    sources, targets : sequence of int
        Shape (n_copies,), a number for each node.
    link_bytes_per_second : float
        Capacity of each node's link, in each direction.
    policy : MigrationPolicy
        Its ``bandwidth_bytes_per_second`` caps each copy.

    Returns
    -------
    FloatArray
        Shape (n_copies,), bytes per second, more than 0.
    """
    outgoing, incoming = np.asarray(sources, dtype=np.int64), np.asarray(targets, dtype=np.int64)
    if len(outgoing) == 0:
        return np.zeros(0)
    sharers = np.maximum(np.bincount(outgoing)[outgoing], np.bincount(incoming)[incoming])
    rates = link_bytes_per_second / sharers
    cap = policy.bandwidth_bytes_per_second
    return np.minimum(rates, cap) if cap > 0 else rates


def dirty_bytes_per_second(dirty_rate_mbps: float, cpu_utilization: float) -> float:
    """Return how fast a VM dirties memory: its rate at full load, in proportion to its CPU load.

    Parameters
    ----------
    dirty_rate_mbps : float
        ``spec.migration.dirtyRateMbps``, megabits (10^6 bit) per second.
    cpu_utilization : float
        Ratio of the VM's cores in use, in [0, 1].
    """
    return dirty_rate_mbps * 1e6 / 8 * cpu_utilization


@dataclass(frozen=True)
class CopyState:
    """A copy at one instant.

    Parameters
    ----------
    touched_bytes : float
        Memory in use when the copy began: the first round, and the most a later round can be.
    dirty_bytes_per_second : float
        How fast the running VM dirties memory.
    completion_timeout_seconds, progress_timeout_seconds, max_downtime_seconds : float
        From the policy and the VM's memory.
    phase : {"pre-copy", "switchover", "done"}
        The VM is paused during the switchover.
    remaining_bytes : float
        Left of this round.
    round_bytes, round_seconds : float
        Size of this round, and time spent in it.
    smallest_round_bytes : float
        Of the rounds begun so far.
    sent_bytes, elapsed_seconds, downtime_seconds : float
        So far.
    progressing : bool
        Whether this round is the first or began smaller than every one before it.
    stalled_seconds : float
        Time since the last progress.
    rounds : int
        Pre-copy rounds that are complete.
    outcome : {"", "succeeded", "failed"}
        Empty while it runs.
    reason : str
        Why it failed.
    """

    touched_bytes: float
    dirty_bytes_per_second: float
    completion_timeout_seconds: float
    progress_timeout_seconds: float
    max_downtime_seconds: float
    phase: Phase = "pre-copy"
    remaining_bytes: float = 0.0
    round_bytes: float = 0.0
    round_seconds: float = 0.0
    smallest_round_bytes: float = 0.0
    sent_bytes: float = 0.0
    elapsed_seconds: float = 0.0
    downtime_seconds: float = 0.0
    progressing: bool = True
    stalled_seconds: float = 0.0
    rounds: int = 0
    outcome: Outcome = ""
    reason: str = ""


@dataclass(frozen=True)
class Prediction:
    """How a copy ends if its rate stays: seconds from now, and the state then."""

    seconds: float
    state: CopyState


def start_copy(
    policy: MigrationPolicy,
    *,
    memory_bytes: float,
    memory_utilization: float = 1.0,
    dirty_bytes_per_second: float = 0.0,
) -> CopyState:
    """Return the state before the first byte.

    Parameters
    ----------
    memory_bytes : float
        The VM's memory; the completion timeout goes by it.
    memory_utilization : float
        Ratio of it that has been touched; only that is sent.
    dirty_bytes_per_second : float
        From :func:`dirty_bytes_per_second`.
    """
    touched = memory_bytes * memory_utilization
    return CopyState(
        touched_bytes=touched,
        dirty_bytes_per_second=dirty_bytes_per_second,
        completion_timeout_seconds=policy.completion_timeout_seconds(memory_bytes),
        progress_timeout_seconds=policy.progress_timeout_seconds,
        max_downtime_seconds=policy.max_downtime_seconds,
        remaining_bytes=touched,
        round_bytes=touched,
        smallest_round_bytes=touched,
    )


def advance(state: CopyState, rate_bytes_per_second: float, seconds: float) -> CopyState:
    """Let a copy run.

    Parameters
    ----------
    rate_bytes_per_second : float
        Bandwidth that the copy has during this time, more than 0.
    seconds : float
        How long, 0 or more; ``math.inf`` runs it to its end.

    Returns
    -------
    CopyState
        If the copy ended on the way, ``outcome`` is set and ``elapsed_seconds`` is when that was.

    Notes
    -----
    The switchover begins at the end of a round when the rest can be sent within ``max_downtime_seconds`` at the
    present rate. Progress is made while a round runs that began smaller than every one before it: the first round,
    and each later one while the copy converges.

    References
    ----------
    Clark et al., "Live Migration of Virtual Machines", NSDI 2005. With constant bandwidth B and dirty rate D the
    rounds are the geometric series M (D / B)^i.
    """
    if not rate_bytes_per_second > 0:
        raise InputError(f"wanted a rate above 0 bytes per second, found {rate_bytes_per_second}")
    left = seconds
    while state.outcome == "":
        fits = state.remaining_bytes / rate_bytes_per_second <= state.max_downtime_seconds
        if fits and state.phase == "pre-copy" and state.round_seconds == 0.0:
            state = replace(state, phase="switchover")
        needed = state.remaining_bytes / rate_bytes_per_second
        patience, reason = _patience(state)
        run = min(needed, patience, left)
        state = _sent(state, rate_bytes_per_second, run, all_of_it=run == needed)
        left -= run
        if run == needed and state.phase == "switchover":
            return replace(state, phase="done", outcome="succeeded")
        if run == patience:
            return replace(state, phase="done", outcome="failed", reason=reason)
        if run < needed:
            return state
        state = _next_round(state)
    return state


def _patience(state: CopyState) -> tuple[float, str]:
    """Return how long until the first timeout strikes, and what to say then."""
    completion = state.completion_timeout_seconds - state.elapsed_seconds
    stall = math.inf
    if state.phase == "pre-copy" and not state.progressing:
        stall = state.progress_timeout_seconds - state.stalled_seconds
    if completion <= stall:
        return max(completion, 0.0), f"not complete after {state.completion_timeout_seconds:g} s"
    return max(stall, 0.0), f"no progress for {state.progress_timeout_seconds:g} s"


def _sent(state: CopyState, rate: float, seconds: float, *, all_of_it: bool) -> CopyState:
    sent = state.remaining_bytes if all_of_it else min(rate * seconds, state.remaining_bytes)
    return replace(
        state,
        remaining_bytes=state.remaining_bytes - sent,
        sent_bytes=state.sent_bytes + sent,
        elapsed_seconds=state.elapsed_seconds + seconds,
        round_seconds=state.round_seconds + seconds,
        stalled_seconds=0.0 if state.progressing else state.stalled_seconds + seconds,
        downtime_seconds=state.downtime_seconds + (seconds if state.phase == "switchover" else 0.0),
    )


def _next_round(state: CopyState) -> CopyState:
    """Begin to send what was dirtied during the round that is complete."""
    dirtied = min(state.dirty_bytes_per_second * state.round_seconds, state.touched_bytes)
    return replace(
        state,
        rounds=state.rounds + 1,
        remaining_bytes=dirtied,
        round_bytes=dirtied,
        round_seconds=0.0,
        smallest_round_bytes=min(dirtied, state.smallest_round_bytes),
        progressing=dirtied < state.smallest_round_bytes * (1 - _NOISE),
    )


def predict(state: CopyState, rate_bytes_per_second: float) -> Prediction:
    """Tell when and how a copy ends if its rate stays as it is."""
    end = advance(state, rate_bytes_per_second, math.inf)
    return Prediction(end.elapsed_seconds - state.elapsed_seconds, end)
