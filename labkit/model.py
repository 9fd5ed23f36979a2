"""Values that pure code and its callers exchange.

All frozen; arrays are float64 and read-only by convention. Shapes and units are in the docstrings.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from labkit.errors import InputError
from labkit.names import DIMENSIONS

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
BoolArray = NDArray[np.bool_]


@dataclass(frozen=True)
class Snapshot:
    """The load ratios of some nodes at one instant.

    Parameters
    ----------
    nodes : tuple of str
        Node names, unique. Where a definition depends on the order of nodes, it is the order by name,
        so :meth:`of` sorts them.
    load_ratio : FloatArray
        Shape (n_nodes, 4), columns in the order of :data:`labkit.names.DIMENSIONS`, values in [0, 1], no NaN.
    """

    nodes: tuple[str, ...]
    load_ratio: FloatArray

    @classmethod
    def of(cls, nodes: Sequence[str], load_ratio: FloatArray | Sequence[Sequence[float]]) -> Snapshot:
        """Check the values and sort the nodes by name.

        Raises
        ------
        InputError
            If a name appears twice, the shape is wrong, or a value is NaN or outside [0, 1].
        """
        values = np.asarray(load_ratio, dtype=np.float64)
        values = values.reshape(len(nodes), -1) if len(nodes) else values.reshape(0, len(DIMENSIONS))
        if values.shape[1] != len(DIMENSIONS):
            raise InputError(f"wanted {len(DIMENSIONS)} values per node, found {values.shape[1]}")
        if len(set(nodes)) != len(nodes):
            seen = sorted({name for name in nodes if list(nodes).count(name) > 1})
            raise InputError(f"wanted each node once, found {', '.join(seen)} more than once")
        bad = ~((values >= 0.0) & (values <= 1.0))
        if bad.any():
            row, column = np.argwhere(bad)[0]
            raise InputError(
                f"wanted {DIMENSIONS[column]} of node {nodes[row]} within [0, 1], found {values[row, column]}"
            )
        order = sorted(range(len(nodes)), key=lambda index: nodes[index])
        return cls(tuple(nodes[i] for i in order), values[order])
