"""Where kube-scheduler would put a launcher pod: its filters, and its scores in its own whole-number arithmetic.

What matters for launcher pods of the default profile of Kubernetes 1.36: they request CPU and memory, tolerate KWOK's
taint only, and a migration target must not go where its VM is. Of the scoring plugins that leaves TaintToleration
(weight 3), NodeResourcesFit with LeastAllocated (1) and NodeResourcesBalancedAllocation (1); the others are equal for
all nodes here. Ties are drawn at random, as the scheduler does, from the caller's seeded generator::

    NodeTable.of(nodes) -> NodeTable          requests, capacities and taints as arrays; bind, release, cordon, …
    PodRequest.of(vm) -> PodRequest           millicores and bytes
    feasible(table, pod, exclude) -> mask
    scores(table, pod, candidates) -> int64   total score of each candidate
    Scheduler(rng).choose(table, pod) -> node index or -1

References: ``pkg/scheduler/framework/plugins/{noderesources,tainttoleration}``, ``schedule_one.go``.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

import numpy as np

from labkit.model import BoolArray, IntArray

__all__ = ["NodeTable", "PodRequest", "Scheduler", "feasible", "scores", "top_scored"]

MAX_NODE_SCORE: Final = 100
TAINT_TOLERATION_WEIGHT: Final = 3
MIN_FEASIBLE_NODES: Final = 100
"""Clusters up to this size are scored whole; in larger ones the scheduler stops when it has found enough nodes."""
MIN_PERCENTAGE_OF_NODES: Final = 5


class _Vm(Protocol):
    @property
    def cores(self) -> float: ...
    @property
    def memory_bytes(self) -> float: ...


class _Taint(Protocol):
    @property
    def effect(self) -> str: ...


class _Node(Protocol):
    @property
    def cores(self) -> float: ...
    @property
    def memory_bytes(self) -> float: ...
    @property
    def max_pods(self) -> int: ...
    @property
    def taints(self) -> Sequence[_Taint]: ...
    @property
    def unschedulable(self) -> bool: ...


@dataclass(frozen=True)
class PodRequest:
    """What a launcher pod requests: a tenth of its VM's cores, all of its memory."""

    millicores: int
    memory_bytes: int

    @classmethod
    def of(cls, vm: _Vm) -> PodRequest:
        """Return the request of a VM's launcher pod."""
        return cls(round(vm.cores * 100), round(vm.memory_bytes))


class NodeTable:
    """What the scheduler knows of the nodes; each array has shape (n_nodes,).

    Parameters
    ----------
    nodes : sequence
        In an order that stays; the index is the node's number everywhere.
    """

    def __init__(self, nodes: Sequence[_Node]) -> None:
        self.cpu: IntArray = np.array([round(node.cores * 1000) for node in nodes], dtype=np.int64)
        self.memory: IntArray = np.array([round(node.memory_bytes) for node in nodes], dtype=np.int64)
        self.max_pods: IntArray = np.array([node.max_pods for node in nodes], dtype=np.int64)
        self.cpu_requested: IntArray = np.zeros(len(nodes), dtype=np.int64)
        self.memory_requested: IntArray = np.zeros(len(nodes), dtype=np.int64)
        self.pods: IntArray = np.zeros(len(nodes), dtype=np.int64)
        self.soft_taints: IntArray = np.array([_soft(node) for node in nodes], dtype=np.int64)
        self.changed: list[int] = []
        """Each node whose requests changed, in order: what a cache must look at again."""
        self.open: BoolArray = np.array([not node.unschedulable and not _hard(node) for node in nodes], dtype=np.bool_)

    def __len__(self) -> int:
        return len(self.cpu)

    def bind(self, node: int, pod: PodRequest) -> None:
        """Add a pod's requests to a node."""
        self._change(node, pod, 1)

    def release(self, node: int, pod: PodRequest) -> None:
        """Take a pod's requests off a node."""
        self._change(node, pod, -1)

    def _change(self, node: int, pod: PodRequest, sign: int) -> None:
        self.changed.append(node)
        self.cpu_requested[node] += sign * pod.millicores
        self.memory_requested[node] += sign * pod.memory_bytes
        self.pods[node] += sign


def _soft(node: _Node) -> int:
    return sum(1 for taint in node.taints if taint.effect == "PreferNoSchedule")


def _hard(node: _Node) -> bool:
    return any(taint.effect in ("NoSchedule", "NoExecute") for taint in node.taints)


def feasible(table: NodeTable, pod: PodRequest, exclude: Collection[int] = ()) -> BoolArray:
    """Return which nodes pass the filters.

    Parameters
    ----------
    table : NodeTable
        The nodes.
    pod : PodRequest
        What the pod requests.
    exclude : collection of int
        Nodes that its required anti-affinity rules out: those with a pod of the same VM.

    Returns
    -------
    BoolArray
        Shape (n_nodes,).
    """
    passes = table.open & _fits(table, pod, slice(None))
    for node in exclude:
        passes[node] = False
    return passes


def _fits(table: NodeTable, pod: PodRequest, nodes: IntArray | slice) -> BoolArray:
    fits: BoolArray = table.pods[nodes] < table.max_pods[nodes]
    fits &= table.cpu_requested[nodes] + pod.millicores <= table.cpu[nodes]
    fits &= table.memory_requested[nodes] + pod.memory_bytes <= table.memory[nodes]
    return fits


def scores(table: NodeTable, pod: PodRequest, candidates: IntArray) -> IntArray:
    """Return the scheduler's total score of each candidate.

    Parameters
    ----------
    candidates : IntArray
        Shape (n_candidates,), numbers of nodes that passed the filters; TaintToleration is normalised over them.

    Returns
    -------
    IntArray
        Shape (n_candidates,), whole numbers.
    """
    return _with_tolerance(table, candidates, _resource_scores(table, pod, candidates))


def _with_tolerance(table: NodeTable, candidates: IntArray, resource_scores: IntArray) -> IntArray:
    """Add TaintToleration's part, which is normalised over the candidates."""
    taints = table.soft_taints[candidates]
    most = int(taints.max(initial=0))
    if most == 0:
        return resource_scores + TAINT_TOLERATION_WEIGHT * MAX_NODE_SCORE
    return resource_scores + TAINT_TOLERATION_WEIGHT * (MAX_NODE_SCORE - MAX_NODE_SCORE * taints // most)


def _resource_scores(table: NodeTable, pod: PodRequest, nodes: IntArray | slice) -> IntArray:
    cpu, memory = table.cpu[nodes], table.memory[nodes]
    cpu_before, memory_before = table.cpu_requested[nodes], table.memory_requested[nodes]
    cpu_after, memory_after = cpu_before + pod.millicores, memory_before + pod.memory_bytes
    # Memory in bytes times 100 stays below 2^63 up to 80 TiB a node.
    least = ((cpu - cpu_after) * MAX_NODE_SCORE // cpu + (memory - memory_after) * MAX_NODE_SCORE // memory) // 2
    balanced_after = _balance(cpu_after, cpu, memory_after, memory)
    balanced_before = _balance(cpu_before, cpu, memory_before, memory)
    half = MAX_NODE_SCORE // 2
    balanced: IntArray = half + (half + balanced_after - balanced_before) // 2
    return least + balanced


def _balance(cpu_used: IntArray, cpu: IntArray, memory_used: IntArray, memory: IntArray) -> IntArray:
    cpu_share = np.minimum(cpu_used / cpu, 1.0)
    memory_share = np.minimum(memory_used / memory, 1.0)
    deviation = np.abs((cpu_share - memory_share) / 2)
    return ((1.0 - deviation) * MAX_NODE_SCORE).astype(np.int64)


def _look_at(table: NodeTable, pod: PodRequest, node: int) -> tuple[bool, int]:
    """Filter and score one node: the arithmetic of :func:`_fits` and :func:`_resource_scores` without arrays."""
    cpu, memory = int(table.cpu[node]), int(table.memory[node])
    cpu_before, memory_before = int(table.cpu_requested[node]), int(table.memory_requested[node])
    cpu_after, memory_after = cpu_before + pod.millicores, memory_before + pod.memory_bytes
    fits = cpu_after <= cpu and memory_after <= memory and bool(table.pods[node] < table.max_pods[node])
    least = ((cpu - cpu_after) * MAX_NODE_SCORE // cpu + (memory - memory_after) * MAX_NODE_SCORE // memory) // 2
    shares = [
        (min(used / cpu, 1.0), min(taken / memory, 1.0))
        for used, taken in ((cpu_after, memory_after), (cpu_before, memory_before))
    ]
    after, before = (int((1.0 - abs((one - other) / 2)) * MAX_NODE_SCORE) for one, other in shares)
    half = MAX_NODE_SCORE // 2
    return fits, least + half + (half + after - before) // 2


def top_scored(table: NodeTable, pod: PodRequest, exclude: Collection[int] = ()) -> IntArray:
    """Return the nodes that share the highest score when all are scored; empty if none is feasible."""
    candidates = np.flatnonzero(feasible(table, pod, exclude))
    if len(candidates) == 0:
        return candidates
    totals = scores(table, pod, candidates)
    best: IntArray = candidates[totals == totals.max()]
    return best


class Scheduler:
    """Chooses nodes one pod after the other.

    Parameters
    ----------
    rng : numpy.random.Generator
        Draws among nodes of equal score.
    percentage_of_nodes_to_score : int
        As in the scheduler's configuration; 0 is its default: all of up to 100 nodes, a part of more.

    Notes
    -----
    In large clusters the scheduler looks at the nodes in turn, from where the last search ended, until it has found
    enough that are feasible; so does this. Its searches run in parallel, hence which nodes it has found is the same
    only up to the order of threads.
    """

    def __init__(self, rng: np.random.Generator, percentage_of_nodes_to_score: int = 0) -> None:
        self._rng = rng
        self._percentage = percentage_of_nodes_to_score
        self._next_start = 0
        self._table: NodeTable | None = None
        self._known: dict[PodRequest, _Known] = {}

    def choose(self, table: NodeTable, pod: PodRequest, exclude: Collection[int] = ()) -> int:
        """Return the node that a pod goes to, -1 if it stays pending. Does not bind it."""
        known = self._look_up(table, pod)
        passes = known.fits & table.open
        for node in exclude:
            passes[node] = False
        candidates = self._found(passes)
        if len(candidates) == 0:
            return -1
        totals = _with_tolerance(table, candidates, known.scores[candidates])
        best = candidates[totals == totals.max()]
        return int(best[0]) if len(best) == 1 else int(best[self._rng.integers(len(best))])

    def _look_up(self, table: NodeTable, pod: PodRequest) -> _Known:
        """Return which nodes a pod fits on and how they score, computing only what has changed since it was asked."""
        if table is not self._table or len(table.changed) > _MAX_CHANGES:
            self._table, self._known = table, {}
            table.changed.clear()
        known = self._known.get(pod)
        if known is None:
            if len(self._known) >= _MAX_KNOWN:
                self._known.pop(next(iter(self._known)))
            known = _Known(_fits(table, pod, slice(None)), _resource_scores(table, pod, slice(None)))
            self._known[pod] = known
        elif known.seen < len(table.changed):
            changed = set(table.changed[known.seen :])
            if len(changed) <= _FEW_NODES:
                for node in changed:
                    known.fits[node], known.scores[node] = _look_at(table, pod, node)
            else:
                nodes = np.array(sorted(changed), dtype=np.int64)
                known.fits[nodes] = _fits(table, pod, nodes)
                known.scores[nodes] = _resource_scores(table, pod, nodes)
        known.seen = len(table.changed)
        return known

    def _found(self, passes: BoolArray) -> IntArray:
        wanted, nodes = nodes_to_find(len(passes), self._percentage), len(passes)
        found = np.flatnonzero(passes)
        if wanted >= nodes:
            return found
        turn = int(np.searchsorted(found, self._next_start))
        found = np.concatenate([found[turn:], found[:turn]])
        looked_at = nodes if len(found) <= wanted else (int(found[wanted - 1]) - self._next_start) % nodes + 1
        self._next_start = (self._next_start + looked_at) % nodes
        return found[:wanted]


_MAX_KNOWN: Final = 64
"""Sizes of pods whose scores are kept."""
_FEW_NODES: Final = 12
"""Up to so many changed nodes are looked at one by one, which is quicker than as arrays."""
_MAX_CHANGES: Final = 100_000


@dataclass
class _Known:
    """Filters and scores of all nodes for one size of pod, as of the first ``seen`` changes."""

    fits: BoolArray
    scores: IntArray
    seen: int = 0


def nodes_to_find(nodes: int, percentage: int = 0) -> int:
    """Return how many feasible nodes the scheduler looks for before it scores.

    Examples
    --------
    >>> [nodes_to_find(nodes) for nodes in (5, 99, 100, 1000, 10_000)]
    [5, 99, 100, 420, 500]
    """
    if nodes < MIN_FEASIBLE_NODES:
        return nodes
    share = percentage or max(50 - nodes // 125, MIN_PERCENTAGE_OF_NODES)
    return max(nodes * share // 100, MIN_FEASIBLE_NODES)
