"""The Pareto front: which nodes are loaded more in every respect than others.

A node dominates another when it is loaded no more in any dimension and less in at least one. A node's front is the
length of the longest chain of such steps that ends at it; within a front, nodes in crowded regions score a little
higher. PromQL can express this only with subqueries over every pair of nodes, so the lab computes it here and the
rules take it from the scorer.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from labkit.model import BoolArray, FloatArray, IntArray, Snapshot
from labkit.scoring.mean import rounded

CROWDING_SHARE: Final = 0.1
"""What crowding adds at most; with more than 11 fronts that is more than the step between two fronts."""


@dataclass(frozen=True)
class Fronts:
    """How the nodes lie to each other.

    Parameters
    ----------
    front : IntArray
        Shape (n_nodes,); 0 for nodes that nobody dominates, the least loaded.
    crowding : FloatArray
        Shape (n_nodes,), not negative; infinite for the first and the last of a front in some dimension.
    """

    front: IntArray
    crowding: FloatArray


def dominates(load: FloatArray) -> BoolArray:
    """Return, at [i, j], whether node i dominates node j.

    Parameters
    ----------
    load : FloatArray
        Shape (n_nodes, n_dimensions).
    """
    no_more = np.ones((len(load), len(load)), dtype=np.bool_)
    for column in load.T:
        no_more &= column[:, None] <= column[None, :]
    result: BoolArray = no_more & ~no_more.T
    return result


def fronts(snapshot: Snapshot) -> Fronts:
    """Sort the nodes into fronts and measure how crowded each lies in its own.

    Notes
    -----
    Nodes are visited in lexicographic order of their loads: a node comes after all that dominate it, so one pass
    finds the longest chains. Time grows with the square of the nodes inside NumPy, and once per node outside.
    Loads are rounded to 1e-9, so that the noise of a rate lets no node dominate its equal. Equal values in a dimension
    are ordered by the nodes' names.
    """
    load = rounded(snapshot.load_ratio)
    front = np.zeros(len(load), dtype=np.int64)
    if len(load) == 0:
        return Fronts(front, np.zeros(0))
    order = np.lexsort(load.T[::-1])
    dominated_by = np.ascontiguousarray(dominates(load[order]).T)
    depth = np.zeros(len(load), dtype=np.int64)
    for place in range(1, len(load)):
        depth[place] = np.max(depth[:place] + 1, where=dominated_by[place, :place], initial=0)
    front[order] = depth
    return Fronts(front, _crowding(load, front))


def _crowding(load: FloatArray, front: IntArray) -> FloatArray:
    """Return, for each node, the sum over dimensions of the gap between its neighbours, over its front's range."""
    crowding = np.zeros(len(load))
    for column in load.T:
        order = np.lexsort((column, front))
        value, group = column[order], front[order]
        starts = np.flatnonzero(np.diff(group, prepend=-1))
        ends = np.append(starts[1:], len(group)) - 1
        spread = np.repeat(value[ends] - value[starts], ends - starts + 1)
        gap = np.zeros(len(value))
        gap[1:-1] = value[2:] - value[:-2]
        with np.errstate(divide="ignore", invalid="ignore"):
            share = np.where(spread > 0.0, gap / spread, 0.0)
        share[starts] = np.inf
        share[ends] = np.inf
        crowding[order] += share
    return crowding


def pareto_front(snapshot: Snapshot) -> FloatArray:
    """Score by front and crowding: s = min(1, f / (F - 1) + e), e at most 0.1.

    f is the node's front, F the number of fronts (f / (F - 1) is 0 with a single front). e is 0 for a node at the end
    of its front in some dimension, else 0.1 · (1 - c / c_max) with c its crowding distance and c_max the largest
    finite one of its front, 0.05 where that is 0.

    Returns
    -------
    FloatArray
        Shape (n_nodes,), in [0, 1].

    Notes
    -----
    A hot node that is the best in a single dimension lies on front 0 and scores 0. Equal nodes never dominate each
    other. 1,000 nodes take a few hundredths of a second (``tests/test_scoring_pareto.py`` holds it to 0.1 s).

    References
    ----------
    K. Deb et al., "A fast and elitist multiobjective genetic algorithm: NSGA-II", 2002: fronts and crowding distance.
    The score made of them: node-classifier-sim, as ``docs/algorithms.md`` states it.
    """
    result = fronts(snapshot)
    front, crowding = result.front, result.crowding
    if len(front) == 0:
        return np.zeros(0)
    finite = np.isfinite(crowding)
    largest = np.full(front.max() + 1, -np.inf)
    np.maximum.at(largest, front[finite], crowding[finite])
    of_front = np.where(np.isfinite(largest), largest, 1.0)[front]
    with np.errstate(divide="ignore", invalid="ignore"):
        extra = np.where(of_front > 0.0, CROWDING_SHARE * (1.0 - crowding / of_front), CROWDING_SHARE / 2.0)
    last = max(int(front.max()), 1)
    return np.clip(front / last + np.where(finite, extra, 0.0), 0.0, 1.0)
