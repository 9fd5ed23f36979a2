"""What the descheduler decides: classification of nodes, and which evictions a cycle asks for.

The arithmetic of LowNodeUtilization with a Prometheus metric and deviation thresholds, and of the evictor with
evictions in the background, as descheduler v0.36.0 has them: integer percent by truncation, the mean over all ready
nodes, *under* tested before *over*, the stop conditions, limits that count migrations under way, and a cache of
requests that were accepted but have not ended. Pure; who asks, and what answers a request, is the caller's::

    parse_thresholds("0:10" | "AsymmetricLow") -> Thresholds
    classify(values, thresholds, schedulable=…) -> Classification
    EvictionCache: requests that count against the limits
    balance(classification, …) -> list[Attempt]

References: ``nodeutilization/{lownodeutilization,nodeutilization,usageclients}.go`` and ``evictions/evictions.go`` of
that release.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Literal

import numpy as np

from labkit.errors import InputError
from labkit.model import BoolArray, FloatArray, IntArray

__all__ = [
    "APPROPRIATE",
    "DEFAULT_LIMITS",
    "DEFAULT_THRESHOLDS",
    "OVERUTILIZED",
    "PRESETS",
    "UNDERUTILIZED",
    "Attempt",
    "Classification",
    "EvictionCache",
    "EvictionLimits",
    "Thresholds",
    "balance",
    "classify",
    "parse_thresholds",
    "soft_taints",
]

UNDERUTILIZED: Final = "underutilized"
APPROPRIATE: Final = "appropriate"
OVERUTILIZED: Final = "overutilized"
NodeClass = Literal["underutilized", "appropriate", "overutilized"]

ASSUMED_TIMEOUT_SECONDS: Final = 600.0
"""A request that was accepted and whose pod is still there leaves the cache after that long, at the next sweep."""
SWEEP_INTERVAL_SECONDS: Final = 600.0
"""Wall-clock seconds between two sweeps of the cache; like the timeout, no tempo changes it."""

Result = Literal[
    "background",
    "error",
    "maximum number of evicted pods per node reached",
    "maximum number of evicted pods per a descheduling cycle reached",
    "already requested",
]
"""Outcome of an attempt, in the words of ``descheduler_pods_evicted_total``; the last is counted by no metric."""


@dataclass(frozen=True)
class Thresholds:
    """Deviations from the mean, in percentage points: at most ``mean - low`` is under, above ``mean + high`` over."""

    low: float
    high: float

    def __post_init__(self) -> None:
        for value in (self.low, self.high):
            if not 0 <= value <= 100:
                raise InputError(f"thresholds: wanted points within [0, 100], found {value:g}")

    def __str__(self) -> str:
        return f"{self.low:g}:{self.high:g}"


PRESETS: Final[Mapping[str, Thresholds]] = {
    "Low": Thresholds(10, 10),
    "Medium": Thresholds(20, 20),
    "High": Thresholds(30, 30),
    "AsymmetricLow": Thresholds(0, 10),
    "AsymmetricMedium": Thresholds(0, 20),
    "AsymmetricHigh": Thresholds(0, 30),
}
"""``devDeviationThresholds`` of the production operator."""
DEFAULT_THRESHOLDS: Final = PRESETS["AsymmetricLow"]


def parse_thresholds(text: str) -> Thresholds:
    """Read thresholds as ``LOW:HIGH`` in points, or a preset's name.

    Raises
    ------
    InputError
        If it is neither, or a number is outside [0, 100].

    Examples
    --------
    >>> parse_thresholds("0:10") == parse_thresholds("AsymmetricLow")
    True
    """
    if text in PRESETS:
        return PRESETS[text]
    low, colon, high = text.partition(":")
    try:
        values = Thresholds(float(low), float(high))
    except ValueError:
        colon = ""
    if not colon:
        raise InputError(f"thresholds: wanted LOW:HIGH such as 0:10, or one of {', '.join(PRESETS)}; found {text!r}")
    return values


# --- classification ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Classification:
    """What one cycle makes of the nodes.

    Parameters
    ----------
    percent : IntArray
        Shape (n_nodes,), the scores in whole percent.
    low, high : float
        Thresholds of this cycle, percent.
    under, over : BoolArray
        Shape (n_nodes,); a node in neither is appropriately utilised.
    headroom_percent : int
        Room of the under-utilised nodes below the high threshold, in whole percent; without any nothing is evicted.
    stop_reason : str
        Why nothing is evicted in this cycle, in the descheduler's words; empty if something may be.
    """

    percent: IntArray
    low: float
    high: float
    under: BoolArray
    over: BoolArray
    headroom_percent: int
    stop_reason: str

    @property
    def classes(self) -> list[NodeClass]:
        """The class of each node."""
        return [
            UNDERUTILIZED if under else OVERUTILIZED if over else APPROPRIATE
            for under, over in zip(self.under.tolist(), self.over.tolist(), strict=True)
        ]


def classify(
    values: FloatArray | Sequence[float],
    thresholds: Thresholds = DEFAULT_THRESHOLDS,
    *,
    schedulable: BoolArray | None = None,
    number_of_nodes: int = 0,
) -> Classification:
    """Classify nodes by their scores.

    Parameters
    ----------
    values : FloatArray
        Shape (n_nodes,), the score of every ready node that the policy selects, in [0, 1].
    thresholds : Thresholds
        Deviations from the mean.
    schedulable : BoolArray, optional
        Shape (n_nodes,); a cordoned node counts in the mean and can be over, never under.
    number_of_nodes : int
        Act only if more nodes than this are under.

    Raises
    ------
    InputError
        If a value is NaN or outside [0, 1]: the real plugin gives such a cycle up (NaN it takes for a huge negative
        number, which the rules must not let happen).

    Notes
    -----
    The plugin turns the whole percent back into a ratio and again into percent, in floating point, before it compares;
    this does the same, because a node exactly at the mean depends on it. It sums in random order, this in the order
    of the nodes; the last bit of a mean may differ.
    """
    scores = np.asarray(values, dtype=np.float64)
    bad = np.flatnonzero(~((scores >= 0.0) & (scores <= 1.0)))
    if len(bad):
        raise InputError(f"wanted scores within [0, 1], found {scores[bad[0]]} for node number {bad[0] + 1}")
    percent = (scores * 100).astype(np.int64)
    usage = percent / 100.0 * 100.0
    mean = sum(usage.tolist()) / len(usage) if len(usage) else 0.0
    low = min(max(mean - thresholds.low, 0.0), 100.0)
    high = min(max(mean + thresholds.high, 0.0), 100.0)
    under = usage <= low
    if schedulable is not None:
        under &= schedulable
    over = ~under & (usage > high)
    capped = int(high * 0.01 * 100.0)
    headroom = int((capped - percent[under]).sum())
    return Classification(
        percent, low, high, under, over, headroom, _stop_reason(len(usage), under, over, number_of_nodes)
    )


def _stop_reason(nodes: int, under: BoolArray, over: BoolArray, number_of_nodes: int) -> str:
    under_count = int(under.sum())
    if nodes <= 1:
        return "The cluster size is 0 or 1 meaning eviction causes service disruption or degradation"
    if under_count == 0:
        return "No node is underutilized, nothing to do here, you might tune your thresholds further"
    if under_count <= number_of_nodes:
        return "Number of nodes underutilized is less or equal than NumberOfNodes, nothing to do here"
    if under_count == nodes:
        return "All nodes are underutilized, nothing to do here"
    if not over.any():
        return "All nodes are under target utilization, nothing to do here"
    return ""


def soft_taints(classification: Classification) -> IntArray:
    """Return how many soft taints production's soft-tainter gives each node.

    Two where a node is over-utilised, one where it is appropriately utilised, none where it is under-utilised. Where no
    node is under-utilised, appropriate ones count as under, so that there is somewhere to go.
    """
    appropriate = 1 if classification.under.any() else 0
    counts: IntArray = np.where(classification.over, 2, np.where(classification.under, 0, appropriate))
    return counts


# --- evictions ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class EvictionLimits:
    """How much one cycle may ask for; None is no limit.

    Parameters
    ----------
    per_node_and_run : int or None
        ``LowNodeUtilization.args.evictionLimits.node``. Without it a Prometheus metric, which says nothing of single
        pods, allows one eviction per over-utilised node.
    per_node : int or None
        ``maxNoOfPodsToEvictPerNode``, requests under way included.
    total : int or None
        ``maxNoOfPodsToEvictTotal``, requests under way included.
    """

    per_node_and_run: int | None = 2
    per_node: int | None = 2
    total: int | None = 5

    def __post_init__(self) -> None:
        for value in (self.per_node_and_run, self.per_node, self.total):
            if value is not None and value < 0:
                raise InputError(f"eviction limits: wanted 0 or more, found {value}")


DEFAULT_LIMITS: Final = EvictionLimits()
"""Limits of the production profile."""


@dataclass
class _Request:
    node: Hashable
    assumed_at: float | None


@dataclass
class EvictionCache:
    """Evictions in the background that were requested and have not ended.

    Keys are pods (a VM that has moved is another pod). Times are wall-clock seconds of any origin.
    """

    _requests: dict[Hashable, _Request] = field(default_factory=dict)

    def __contains__(self, pod: Hashable) -> bool:
        return pod in self._requests

    def __len__(self) -> int:
        return len(self._requests)

    def on_node(self, node: Hashable) -> int:
        """Return how many requests are under way on a node."""
        return sum(1 for request in self._requests.values() if request.node == node)

    def assume(self, pod: Hashable, node: Hashable, now: float) -> None:
        """Note an accepted request; one that is already assumed keeps its time."""
        known = self._requests.get(pod)
        if known is None or known.assumed_at is None:
            self._requests[pod] = _Request(node, now)

    def observe(self, pod: Hashable, node: Hashable) -> None:
        """Note that a pod carries the annotation ``eviction-in-progress``."""
        self._requests.setdefault(pod, _Request(node, None))

    def forget(self, pod: Hashable) -> bool:
        """Drop a pod: it was deleted or has ended, or lost an annotation. Tell whether it was assumed."""
        request = self._requests.pop(pod, None)
        return request is not None and request.assumed_at is not None

    def sweep(self, now: float, timeout_seconds: float = ASSUMED_TIMEOUT_SECONDS) -> None:
        """Drop assumed requests that are older than the timeout, even if their migration still runs."""
        # The plugin compares whole seconds.
        self._requests = {
            pod: request
            for pod, request in self._requests.items()
            if request.assumed_at is None or int(now - request.assumed_at) <= timeout_seconds
        }


@dataclass(frozen=True)
class Attempt:
    """One call of the evictor: the pod, its node (an index) and what came of it."""

    pod: Hashable
    node: int
    result: Result


def balance(
    classification: Classification,
    *,
    pods_on: Callable[[int], Sequence[Hashable]],
    request: Callable[[Hashable, int], bool],
    cache: EvictionCache,
    now: float,
    limits: EvictionLimits = DEFAULT_LIMITS,
    tie_order: Sequence[int] | None = None,
    may_evict: Callable[[Hashable], bool] | None = None,
    tolerates: bool = True,
) -> list[Attempt]:
    """Ask for the evictions of one cycle.

    Parameters
    ----------
    classification : Classification
        Of this cycle; with a ``stop_reason`` nothing is asked.
    pods_on : callable
        The evictable pods of a node in the order in which they are tried. Among pods of equal priority and QoS class
        the descheduler's own order is random.
    request : callable
        Makes the eviction request; true if it was accepted in the background, false if it failed.
    cache : EvictionCache
        Requests under way; accepted ones are added.
    now : float
        Wall-clock seconds, for the cache.
    limits : EvictionLimits
        Limits of the policy.
    tie_order : sequence of int, optional
        Rank of each node among nodes of equal usage, which the descheduler visits in random order.
    may_evict : callable, optional
        A pre-eviction filter, such as a cooldown: a pod that does not pass is skipped.
    tolerates : bool
        Whether launcher pods tolerate all taints of at least one under-utilised node.

    Returns
    -------
    list of Attempt
        In order. A limit that is reached is an attempt, too, as it is in the descheduler's metric.
    """
    attempts: list[Attempt] = []
    if classification.stop_reason or classification.headroom_percent <= 0 or not tolerates:
        return attempts
    evicted: Counter[int] = Counter()
    percent = classification.percent
    rank = range(len(percent)) if tie_order is None else tie_order
    over = sorted(np.flatnonzero(classification.over).tolist(), key=lambda node: (-int(percent[node]), rank[node]))
    for node in over:
        tried = 0
        for pod in pods_on(node):
            if limits.per_node_and_run is not None and tried >= limits.per_node_and_run:
                break
            if may_evict is not None and not may_evict(pod):
                continue
            result = _evict(pod, node, limits, cache, evicted, request, now)
            attempts.append(Attempt(pod, node, result))
            if result == "maximum number of evicted pods per a descheduling cycle reached":
                return attempts
            if result == "maximum number of evicted pods per node reached":
                break
            if result == "error":
                continue
            if limits.per_node_and_run is None:
                break
            tried += 1
    return attempts


def _evict(
    pod: Hashable,
    node: int,
    limits: EvictionLimits,
    cache: EvictionCache,
    evicted: Counter[int],
    request: Callable[[Hashable, int], bool],
    now: float,
) -> Result:
    if pod in cache:
        return "already requested"
    # A background eviction is not counted as evicted; while it is under way the cache counts it.
    if limits.total is not None and sum(evicted.values()) + len(cache) + 1 > limits.total:
        return "maximum number of evicted pods per a descheduling cycle reached"
    if limits.per_node is not None and evicted[node] + cache.on_node(node) + 1 > limits.per_node:
        return "maximum number of evicted pods per node reached"
    if not request(pod, node):
        return "error"
    cache.assume(pod, node, now)
    return "background"
