from __future__ import annotations

import numpy as np
import pytest

from labkit.errors import InputError
from labkit.model import Snapshot


def test_snapshot_is_ordered_by_node_name() -> None:
    snapshot = Snapshot.of(["b", "a"], [[0.1, 0, 0, 0], [0.2, 0, 0, 0]])
    assert snapshot.nodes == ("a", "b")
    assert snapshot.load_ratio[:, 0].tolist() == [0.2, 0.1]


def test_snapshot_of_no_nodes_is_empty() -> None:
    assert Snapshot.of([], []).load_ratio.shape == (0, 4)


@pytest.mark.parametrize(
    ("nodes", "values", "message"),
    [
        (["a", "a"], [[0] * 4] * 2, "a more than once"),
        (["a"], [[0, 0, 1.01, 0]], "memory_usage of node a within"),
        (["a"], [[0, np.nan, 0, 0]], "cpu_pressure of node a within"),
        (["a"], [[0, 0, 0]], "wanted 4 values per node, found 3"),
    ],
    ids=["duplicate", "above one", "nan", "short"],
)
def test_wrong_snapshots_are_refused(nodes: list[str], values: list[list[float]], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Snapshot.of(nodes, values)
