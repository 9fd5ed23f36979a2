"""A node's score as a function of its load, the others' unchanged: what an algorithm looks like."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from labkit.errors import InputError
from labkit.model import FloatArray, Snapshot
from labkit.names import DIMENSIONS
from labkit.scoring.algorithm import Algorithm


@dataclass(frozen=True)
class Surface:
    """Scores of one node over two of its loads.

    Parameters
    ----------
    algorithm : str
        Name.
    node : str
        Whose score it is.
    x, y : str
        The dimensions that vary.
    grid : FloatArray
        Shape (n,), the values of both.
    score : FloatArray
        Shape (n, n): ``score[j, i]`` at x = grid[i], y = grid[j].
    """

    algorithm: str
    node: str
    x: str
    y: str
    grid: FloatArray
    score: FloatArray


def surface(
    algorithm: Algorithm,
    snapshot: Snapshot,
    node: str,
    *,
    x: str = "cpu_usage",
    y: str = "cpu_pressure",
    points: int = 41,
) -> Surface:
    """Vary two loads of one node of a snapshot.

    Parameters
    ----------
    algorithm : Algorithm
        One with a Python definition.
    snapshot : Snapshot
        The cluster; the other nodes, and the node's other loads, stay as they are.
    node : str
        Which node.
    x, y : str
        Two of :data:`labkit.names.DIMENSIONS`.
    points : int
        Values along each axis, from 0 to 1.

    Raises
    ------
    InputError
        If there is no such node or dimension, or the algorithm is only a rule.
    """
    if node not in snapshot.nodes:
        raise InputError(f"wanted one of the nodes {', '.join(snapshot.nodes)}, found {node!r}")
    for dimension in (x, y):
        if dimension not in DIMENSIONS:
            raise InputError(f"wanted one of {', '.join(DIMENSIONS)}, found {dimension!r}")
    row = snapshot.nodes.index(node)
    grid = np.linspace(0.0, 1.0, points)
    score = np.empty((points, points))
    load = snapshot.load_ratio.copy()
    for j, height in enumerate(grid):
        for i, width in enumerate(grid):
            load[row, DIMENSIONS.index(x)], load[row, DIMENSIONS.index(y)] = width, height
            score[j, i] = algorithm.score(Snapshot(snapshot.nodes, load))[row]
    return Surface(algorithm.name, node, x, y, grid, score)
