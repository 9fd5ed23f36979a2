from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from labkit.errors import InputError
from labkit.migration import (
    DEFAULT_LINK_BYTES_PER_SECOND,
    DEFAULT_POLICY,
    MigrationPolicy,
    advance,
    dirty_bytes_per_second,
    fair_rates,
    may_start,
    predict,
    start_copy,
)
from labkit.units import GIB

QEMU_POLICY = MigrationPolicy(max_downtime_seconds=0.3)


def test_worked_example_of_a_converging_copy() -> None:
    state = start_copy(QEMU_POLICY, memory_bytes=4 * GIB, dirty_bytes_per_second=0.25 * GIB)
    ended = predict(state, GIB)
    assert ended.seconds == 5.25
    assert ended.state.outcome == "succeeded"
    assert ended.state.downtime_seconds == 0.25
    assert ended.state.rounds == 2
    assert ended.state.sent_bytes == 5.25 * GIB


def test_a_copy_that_dirties_faster_than_it_sends_fails_without_progress() -> None:
    state = start_copy(QEMU_POLICY, memory_bytes=4 * GIB, dirty_bytes_per_second=1.2 * GIB)
    ended = predict(state, GIB)
    assert ended.state.outcome == "failed"
    assert ended.state.reason == "no progress for 150 s"
    assert ended.seconds == 4 + 150
    assert ended.state.downtime_seconds == 0


def test_a_slow_copy_fails_at_the_completion_timeout_of_decimal_gigabytes() -> None:
    state = start_copy(QEMU_POLICY, memory_bytes=4 * GIB)
    ended = predict(state, 1e6)
    assert (ended.seconds, ended.state.outcome) == (750.0, "failed")
    assert ended.state.reason == "not complete after 750 s"
    assert ended.state.sent_bytes == 750e6


def test_only_touched_memory_is_sent() -> None:
    ended = predict(start_copy(QEMU_POLICY, memory_bytes=4 * GIB, memory_utilization=0.5), GIB)
    assert (ended.seconds, ended.state.sent_bytes) == (2.0, 2 * GIB)


def test_a_round_is_never_larger_than_what_was_touched() -> None:
    state = start_copy(QEMU_POLICY, memory_bytes=4 * GIB, dirty_bytes_per_second=100 * GIB)
    assert advance(state, GIB, 5.0).round_bytes == 4 * GIB


def test_bandwidth_may_change_while_the_copy_runs() -> None:
    state = start_copy(QEMU_POLICY, memory_bytes=4 * GIB)
    half = advance(state, GIB, 2.0)
    assert half.remaining_bytes == 2 * GIB
    assert predict(half, GIB / 2).seconds == 4.0


@settings(max_examples=200, deadline=None)
@given(
    memory=st.floats(0.1, 64),
    dirty=st.floats(0, 2),
    cuts=st.lists(st.floats(0.01, 50), max_size=20),
)
def test_a_copy_in_pieces_ends_as_the_copy_in_one(memory: float, dirty: float, cuts: list[float]) -> None:
    state = start_copy(QEMU_POLICY, memory_bytes=memory * GIB, dirty_bytes_per_second=dirty * GIB)
    whole = advance(state, GIB, math.inf)
    for cut in cuts:
        state = advance(state, GIB, cut)
    state = advance(state, GIB, math.inf)
    assert state.outcome == whole.outcome
    assert state.rounds == whole.rounds
    assert state.elapsed_seconds == pytest.approx(whole.elapsed_seconds, rel=1e-9)
    assert state.sent_bytes == pytest.approx(whole.sent_bytes, rel=1e-9)
    assert state.downtime_seconds <= 0.3 + 1e-9
    assert state.elapsed_seconds <= state.completion_timeout_seconds + 1e-9


@settings(max_examples=100)
@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), min_size=1, max_size=40))
def test_no_link_carries_more_than_it_can(pairs: list[tuple[int, int]]) -> None:
    sources, targets = np.array(pairs).T
    rates = fair_rates(sources, targets, 100.0)
    assert (rates > 0).all()
    assert np.bincount(sources, weights=rates).max() <= 100.0 + 1e-9
    assert np.bincount(targets, weights=rates).max() <= 100.0 + 1e-9


def test_fair_rates() -> None:
    assert fair_rates([], []).tolist() == []
    assert fair_rates([0, 0, 1], [1, 2, 2], 100.0).tolist() == [50.0, 50.0, 50.0]
    assert fair_rates([0, 1], [1, 0], 100.0).tolist() == [100.0, 100.0], "full duplex"
    assert fair_rates([0], [1], 100.0, MigrationPolicy(bandwidth_bytes_per_second=30)).tolist() == [30.0]
    assert fair_rates([0], [1]).tolist() == [DEFAULT_LINK_BYTES_PER_SECOND]


def test_limits_per_cluster_and_per_source_node() -> None:
    assert may_start(DEFAULT_POLICY, "a", [])
    assert not may_start(DEFAULT_POLICY, "a", ["a", "a"])
    assert may_start(DEFAULT_POLICY, "b", ["a", "a"])
    assert not may_start(DEFAULT_POLICY, "e", ["a", "a", "b", "c", "d"])


def test_dirty_rate_follows_the_load() -> None:
    assert dirty_bytes_per_second(800, 1.0) == 1e8
    assert dirty_bytes_per_second(800, 0.0) == 0.0


def test_nonsense_is_refused() -> None:
    with pytest.raises(InputError, match="parallel_per_cluster"):
        MigrationPolicy(parallel_per_cluster=0)
    with pytest.raises(InputError, match="max_downtime_seconds"):
        MigrationPolicy(max_downtime_seconds=0)
    with pytest.raises(InputError, match="rate"):
        advance(start_copy(DEFAULT_POLICY, memory_bytes=1e9), 0.0, 1.0)


def test_an_ended_copy_stays_ended() -> None:
    ended = predict(start_copy(DEFAULT_POLICY, memory_bytes=1e9), 1e9).state
    assert advance(ended, 1e9, 100.0) == ended
