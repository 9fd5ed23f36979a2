from __future__ import annotations

import time
from functools import cache

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from test_scoring import snapshots
from worked_sets import A, B

from labkit.model import Snapshot
from labkit.scoring.pareto import fronts, pareto_front


def chain_length(snapshot: Snapshot) -> list[int]:
    """Follow every dominance chain, node by node: the definition itself."""
    load = snapshot.load_ratio.tolist()

    def better(one: list[float], other: list[float]) -> bool:
        return all(a <= b for a, b in zip(one, other, strict=True)) and one != other

    @cache
    def longest(node: int) -> int:
        return max((longest(other) + 1 for other in range(len(load)) if better(load[other], load[node])), default=0)

    return [longest(node) for node in range(len(load))]


def crowding(snapshot: Snapshot, front: list[int]) -> list[float]:
    """Measure each node's gap to its neighbours, one front and one dimension after the other."""
    result = [0.0] * len(front)
    for number in set(front):
        members = [node for node in range(len(front)) if front[node] == number]
        for column in snapshot.load_ratio.T.tolist():
            order = sorted(members, key=lambda node: column[node])
            spread = column[order[-1]] - column[order[0]]
            result[order[0]] = result[order[-1]] = np.inf
            for before, node, after in zip(order, order[1:], order[2:], strict=False):
                result[node] += (column[after] - column[before]) / spread if spread > 0 else 0.0
    return result


# On a grid, so that rounding to 1e-9 changes nothing and ties are frequent.
grid = st.integers(0, 5).map(lambda number: number / 5)
gridded = (
    st.integers(1, 9)
    .flatmap(lambda nodes: hnp.arrays(np.float64, (nodes, 4), elements=grid))
    .map(lambda load: Snapshot.of([f"n{index}" for index in range(len(load))], load))
)


@given(snapshot=gridded)
def test_fronts_are_longest_chains(snapshot: Snapshot) -> None:
    assert fronts(snapshot).front.tolist() == chain_length(snapshot)


@given(snapshot=gridded)
def test_crowding_is_the_gap_to_the_neighbours(snapshot: Snapshot) -> None:
    found = fronts(snapshot)
    np.testing.assert_allclose(found.crowding, crowding(snapshot, found.front.tolist()), atol=1e-12)


def test_three_nodes_that_nobody_beats() -> None:
    assert fronts(A).front.tolist() == [0, 0, 0]
    assert pareto_front(A).tolist() == [0.0, 0.0, 0.0]


def test_crowding_of_the_worked_set() -> None:
    np.testing.assert_allclose(fronts(B).crowding[1:4], [1.75, 2.5, 2.25])


def test_chain_of_nodes_has_evenly_spaced_scores() -> None:
    chain = Snapshot.of([f"n{index}" for index in range(5)], [(index / 4,) * 4 for index in range(5)])
    assert pareto_front(chain).tolist() == [0.0, 0.25, 0.5, 0.75, 1.0]


def test_hot_node_that_is_best_somewhere_scores_nothing() -> None:
    snapshot = Snapshot.of(["calm", "hot"], [(0.1, 0.0, 0.1, 0.01), (1.0, 1.0, 1.0, 0.0)])
    assert pareto_front(snapshot).tolist() == [0.0, 0.0]


def test_noise_lets_no_node_dominate_its_equal() -> None:
    snapshot = Snapshot.of(["a", "b"], [(0.3, 0.1, 0.5, 0.0), (0.3 + 1e-16, 0.1 + 3e-17, 0.5, 0.0)])
    assert fronts(snapshot).front.tolist() == [0, 0]


@given(snapshot=snapshots(min_nodes=2))
def test_node_that_dominates_is_on_an_earlier_front(snapshot: Snapshot) -> None:
    load, front = np.round(snapshot.load_ratio, 9), fronts(snapshot).front
    for one in range(len(load)):
        for other in range(len(load)):
            if (load[one] <= load[other] - 1e-8).all():
                assert front[one] < front[other]


@pytest.mark.parametrize("kind", ["random", "chain", "copies"])
def test_thousand_nodes_in_a_tenth_of_a_second(kind: str) -> None:
    load = {
        "random": np.random.default_rng(0).random((1000, 4)),
        "chain": np.repeat(np.linspace(0, 1, 1000)[:, None], 4, axis=1),
        "copies": np.full((1000, 4), 0.5),
    }[kind]
    snapshot = Snapshot.of([f"n{index:04d}" for index in range(1000)], load)
    seconds = []
    for _ in range(5):
        start = time.perf_counter()
        pareto_front(snapshot)
        seconds.append(time.perf_counter() - start)
    assert min(seconds) <= 0.1
