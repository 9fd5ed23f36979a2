from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from labkit.placement import (
    NodeTable,
    PodRequest,
    Scheduler,
    _fits,
    _look_at,
    _resource_scores,
    feasible,
    nodes_to_find,
    scores,
    top_scored,
)
from labkit.scenario import Node, Taint
from labkit.units import GIB

POD = PodRequest(200, 8 * GIB)
NODE = Node("n", cores=32, memory_bytes=64 * GIB, max_pods=110)


def table(*nodes: Node) -> NodeTable:
    return NodeTable(nodes or (NODE, NODE, NODE))


def test_filters() -> None:
    nodes = table(
        NODE,
        replace(NODE, unschedulable=True),
        replace(NODE, taints=(Taint("k", "NoSchedule"),)),
        replace(NODE, taints=(Taint("k", "PreferNoSchedule"),)),
        replace(NODE, max_pods=0),
        replace(NODE, cores=0.1),
        replace(NODE, memory_bytes=4 * GIB),
    )
    assert feasible(nodes, POD).tolist() == [True, False, False, True, False, False, False]
    assert feasible(nodes, POD, exclude=[0]).tolist()[0] is False


def test_a_score_by_hand() -> None:
    # CPU after: 200 of 32000 millicores -> 99; memory after: 8 of 64 GiB -> 87; mean 93.
    # Balance before: both 0 -> 100; after: |0.00625 - 0.125| / 2 = 0.059375 -> 94; 50 + (50 - 6) // 2 = 72.
    assert scores(table(NODE), POD, np.array([0])).tolist() == [3 * 100 + 93 + 72]


def test_soft_taints_outweigh_some_load() -> None:
    nodes = table(NODE, replace(NODE, taints=(Taint("a", "PreferNoSchedule"), Taint("b", "PreferNoSchedule"))), NODE)
    nodes.soft_taints[2] = 1
    assert scores(nodes, POD, np.arange(3)).tolist() == [465, 165, 315]


def test_the_emptiest_node_wins_and_requests_are_counted() -> None:
    nodes = table()
    nodes.bind(0, POD)
    nodes.bind(1, POD)
    assert top_scored(nodes, POD).tolist() == [2]
    nodes.release(0, POD)
    assert top_scored(nodes, POD).tolist() == [0, 2]
    assert top_scored(nodes, POD, exclude=[0, 1, 2]).tolist() == []


def test_ties_are_drawn_by_seed_from_all_of_them() -> None:
    def draws(seed: int) -> list[int]:
        scheduler = Scheduler(np.random.default_rng(seed))
        return [scheduler.choose(table(), POD) for _ in range(50)]

    assert draws(1) == draws(1)
    assert draws(1) != draws(2)
    assert set(draws(1)) == {0, 1, 2}


def test_a_pod_that_fits_nowhere_stays_pending() -> None:
    assert Scheduler(np.random.default_rng(0)).choose(table(), PodRequest(200, 65 * GIB)) == -1


def test_a_large_cluster_is_searched_in_turn() -> None:
    assert nodes_to_find(1000) == 420
    nodes = NodeTable([NODE] * 200)
    # 48 % of 200 is below 100: the first 100 are scored, then the next 100.
    scheduler = Scheduler(np.random.default_rng(0))
    first = [scheduler.choose(nodes, POD) for _ in range(2)]
    assert first[0] < 100 <= first[1]
    whole = Scheduler(np.random.default_rng(0), percentage_of_nodes_to_score=100)
    nodes.cpu_requested[:199] = 1000
    assert whole.choose(nodes, POD) == 199


@pytest.mark.parametrize("cores", [0.5, 1, 3.7])
def test_a_pod_requests_a_tenth_of_its_cores_and_all_memory(cores: float) -> None:
    request = PodRequest.of(replace(NODE, cores=cores, memory_bytes=2 * GIB))
    assert request == PodRequest(round(cores * 100), 2 * GIB)


@settings(max_examples=200, deadline=None)
@given(
    bound=st.lists(st.tuples(st.integers(0, 4), st.integers(1, 4000), st.integers(1, 20 * GIB)), max_size=30),
    pod=st.builds(PodRequest, st.integers(1, 4000), st.integers(1, 20 * GIB)),
)
def test_one_node_and_all_nodes_are_looked_at_alike(bound: list[tuple[int, int, int]], pod: PodRequest) -> None:
    sizes = [(32, 64 * GIB), (16, 128 * GIB), (7.5, 31 * GIB), (64, 3 * GIB), (1, 1000 * GIB)]
    nodes = table(*(replace(NODE, cores=cores, memory_bytes=memory) for cores, memory in sizes))
    scheduler = Scheduler(np.random.default_rng(0))
    scheduler.choose(nodes, pod)
    for node, millicores, memory in bound:
        nodes.bind(node, PodRequest(millicores, memory))
        best = top_scored(nodes, pod).tolist()
        assert scheduler.choose(nodes, pod) in (best or [-1])
    found = [_look_at(nodes, pod, node) for node in range(len(nodes))]
    every = slice(None)
    assert [fits for fits, _ in found] == _fits(nodes, pod, every).tolist()
    assert [score for _, score in found] == _resource_scores(nodes, pod, every).tolist()
