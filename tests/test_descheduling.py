from __future__ import annotations

from collections.abc import Hashable, Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from labkit.descheduling import (
    PRESETS,
    EvictionCache,
    EvictionLimits,
    Thresholds,
    balance,
    classify,
    parse_thresholds,
)
from labkit.errors import InputError

LOW_UNDER = "No node is underutilized"
PODS = {0: ["a", "b", "c"], 1: ["d", "e", "f"], 2: ["g"], 3: []}


def cycle(values: Sequence[float], **options: object) -> list[tuple[Hashable, int, str]]:
    settings: dict[str, object] = {
        "pods_on": lambda node: PODS[node],
        "request": lambda pod, node: True,
        "cache": EvictionCache(),
        "now": 0.0,
        **options,
    }
    attempts = balance(classify(values, Thresholds(0, 10)), **settings)  # type: ignore[arg-type]
    return [(attempt.pod, attempt.node, attempt.result) for attempt in attempts]


def test_values_are_truncated_to_whole_percent() -> None:
    assert classify([0.29, 0.57, 0.58, 0.999, 1.0]).percent.tolist() == [28, 56, 57, 99, 100]


def test_worked_examples() -> None:
    hot = classify([0.05, 0.05, 0.80], Thresholds(0, 10))
    assert (hot.low, hot.high) == (30.0, 40.0)
    assert hot.classes == ["underutilized", "underutilized", "overutilized"]
    mild = classify([0.35, 0.30, 0.30], Thresholds(0, 10))
    assert mild.high == pytest.approx(41.67, abs=0.01)
    assert mild.stop_reason.startswith("All nodes are under target utilization")
    idle = classify([0.0, 0.0, 0.0], Thresholds(0, 10))
    assert idle.low == 0.0
    assert idle.stop_reason.startswith("All nodes are underutilized")


def test_set_b_of_the_nineteen_with_k3() -> None:
    values = [0.925864, 0.62508, 0.0, 0.475, 1.0, 1.0]
    symmetric = classify(values, PRESETS["Low"])
    assert symmetric.percent.tolist() == [92, 62, 0, 47, 100, 100]
    assert (symmetric.low, symmetric.high) == pytest.approx((56.8333, 76.8333), abs=1e-3)
    assert symmetric.classes[1] == "appropriate"
    assert classify(values, PRESETS["AsymmetricLow"]).classes[1] == "underutilized"


def test_a_cordoned_node_counts_in_the_mean_and_is_never_under() -> None:
    result = classify([0.0, 0.2, 0.9], Thresholds(0, 10), schedulable=np.array([False, True, True]))
    assert result.classes == ["appropriate", "underutilized", "overutilized"]
    assert result.low == pytest.approx(110 / 3)


def test_stop_conditions() -> None:
    assert classify([0.5], Thresholds(0, 0)).stop_reason.startswith("The cluster size is 0 or 1")
    none_open = classify([0.1, 0.9], Thresholds(0, 10), schedulable=np.array([False, True]))
    assert none_open.stop_reason.startswith(LOW_UNDER)
    few = classify([0.1, 0.9], Thresholds(0, 10), number_of_nodes=1)
    assert "NumberOfNodes" in few.stop_reason
    assert classify([0.0, 0.0, 1.0], Thresholds(0, 10)).stop_reason == ""


@pytest.mark.parametrize("value", [-0.1, 1.0001, float("nan")])
def test_a_value_outside_the_interval_gives_the_cycle_up(value: float) -> None:
    with pytest.raises(InputError, match="within"):
        classify([0.5, value])


@given(st.lists(st.floats(0, 1), min_size=2, max_size=30), st.sampled_from(sorted(PRESETS)))
def test_classes_partition_the_nodes_and_do_not_depend_on_order(values: list[float], preset: str) -> None:
    result = classify(values, PRESETS[preset])
    assert not (result.under & result.over).any()
    assert 0 <= result.low <= result.high <= 100
    again = classify(values[::-1], PRESETS[preset])
    # Sums in another order may differ in the last bit, which only a node exactly at the mean can feel.
    if abs(result.low - again.low) == 0 and abs(result.high - again.high) == 0:
        assert again.classes == result.classes[::-1]


@pytest.mark.parametrize(("text", "low", "high"), [("0:10", 0, 10), ("12.5:30", 12.5, 30), ("High", 30, 30)])
def test_thresholds_as_text(text: str, low: float, high: float) -> None:
    assert parse_thresholds(text) == Thresholds(low, high)


@pytest.mark.parametrize("text", ["", "10", "a:b", "0:101", "-1:5", "low", "nan:1"])
def test_wrong_thresholds_are_refused(text: str) -> None:
    with pytest.raises(InputError, match="thresholds: wanted"):
        parse_thresholds(text)


def test_the_fullest_node_comes_first_and_two_leave_it() -> None:
    got = cycle([0.8, 0.9, 0.0, 0.0])
    assert got == [("d", 1, "background"), ("e", 1, "background"), ("a", 0, "background"), ("b", 0, "background")]


def test_without_eviction_limits_one_pod_leaves_each_node() -> None:
    got = cycle([0.8, 0.9, 0.0, 0.0], limits=EvictionLimits(per_node_and_run=None))
    assert [pod for pod, _, _ in got] == ["d", "a"]


def test_the_total_limit_ends_the_cycle_and_is_counted() -> None:
    got = cycle([0.8, 0.9, 0.0, 0.0], limits=EvictionLimits(total=3))
    assert [result for _, _, result in got] == ["background"] * 3 + [
        "maximum number of evicted pods per a descheduling cycle reached"
    ]


def test_requests_under_way_use_the_budget() -> None:
    cache = EvictionCache()
    cache.assume("d", 1, 0.0)
    cache.observe("z", 1)
    got = cycle([0.8, 0.9, 0.0, 0.0], cache=cache)
    # d is ignored and takes one of the two places; e meets the node's limit; node 0 still gives two.
    assert [(pod, result) for pod, _, result in got][:2] == [
        ("d", "already requested"),
        ("e", "maximum number of evicted pods per node reached"),
    ]
    assert [pod for pod, _, result in got if result == "background"] == ["a", "b"]


def test_a_failed_request_goes_on_to_the_next_pod() -> None:
    got = cycle([0.9, 0.0, 0.0, 0.0], request=lambda pod, node: pod == "c")
    assert got == [("a", 0, "error"), ("b", 0, "error"), ("c", 0, "background")]


def test_a_pod_that_cools_down_is_skipped() -> None:
    got = cycle([0.9, 0.0, 0.0, 0.0], may_evict=lambda pod: pod != "a")
    assert [pod for pod, _, _ in got] == ["b", "c"]


def test_nothing_leaves_when_no_destination_is_tolerated_or_has_room() -> None:
    assert cycle([0.9, 0.0, 0.0, 0.0], tolerates=False) == []
    full = classify([0.5, 0.51, 0.5], Thresholds(0, 0))
    assert full.headroom_percent == 0
    assert balance(full, pods_on=lambda n: ["a"], request=lambda p, n: True, cache=EvictionCache(), now=0) == []


def test_equal_nodes_are_visited_in_the_given_order() -> None:
    got = cycle([0.9, 0.9, 0.0, 0.0], tie_order=[1, 0, 2, 3], limits=EvictionLimits(per_node_and_run=1))
    assert [node for _, node, _ in got] == [1, 0]


def test_the_cache_forgets_assumed_requests_after_ten_minutes() -> None:
    cache = EvictionCache()
    cache.assume("a", 0, 0.0)
    cache.observe("b", 0)
    cache.sweep(600.9)
    assert "a" in cache, "whole seconds, more than 600"
    cache.sweep(601.0)
    assert "a" not in cache
    assert "b" in cache
    assert (cache.forget("b"), len(cache)) == (False, 0)


def test_observing_does_not_take_an_assumption_back() -> None:
    cache = EvictionCache()
    cache.assume("a", 0, 5.0)
    cache.observe("a", 0)
    assert len(cache) == 1
    assert cache.forget("a") is True
