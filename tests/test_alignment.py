"""Two recordings of one thing are laid over each other; groups of runs are told apart, or not."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from labkit.analysis.alignment import Recording, align, within_spread
from labkit.errors import InputError


def step(at: float, *, phase: float = 0.0, height: float = 0.3, nodes: int = 2) -> Recording:
    """A step, sampled every 15 s."""
    times = np.arange(0.0, 300.0, 15.0) + phase
    values = 0.2 + height * (times >= at)
    return Recording(times, tuple(f"n{index}" for index in range(nodes)), np.column_stack([values] * nodes))


def test_equal_recordings_need_no_shift() -> None:
    found = align(step(100.0), step(100.0), within_seconds=15.0)
    assert (found.shift_seconds, found.difference) == (0.0, 0.0)


@pytest.mark.parametrize("phase", [-7.0, -0.1, 3.4, 14.9])
def test_delay_is_found_and_taken_out(phase: float) -> None:
    found = align(step(100.0), step(100.0 + phase, phase=phase), within_seconds=15.0)
    assert found.shift_seconds == pytest.approx(phase)
    assert found.difference < 1e-9


def test_no_shift_beyond_the_bound() -> None:
    assert align(step(100.0), step(130.0), within_seconds=15.0).difference == pytest.approx(0.3)
    assert align(step(100.0), step(130.0), within_seconds=30.0).difference < 1e-9


def test_as_they_are_without_a_shift() -> None:
    assert align(step(100.0), step(101.0), within_seconds=0.0).difference == 0.0  # the same samples
    assert align(step(100.0), step(115.0), within_seconds=0.0).difference == pytest.approx(0.3)


def test_difference_is_that_of_the_worst_node() -> None:
    first, second = step(100.0), step(100.0)
    second.values[5, 1] += 0.125
    assert align(first, second, within_seconds=0.0).difference == pytest.approx(0.125)
    assert align(first.only("n0"), second.only("n0"), within_seconds=0.0).difference == 0.0


def test_other_sampling_of_the_same_line_makes_no_difference() -> None:
    times = np.arange(0.0, 300.0, 4.0)
    coarse, fine = np.arange(0.0, 300.0, 15.0), times
    first = Recording(coarse, ("n",), (coarse / 300.0)[:, None])
    second = Recording(fine, ("n",), (fine / 300.0)[:, None])
    assert align(first, second, within_seconds=15.0).difference < 1e-12


def test_recordings_of_other_nodes_or_times_are_refused() -> None:
    with pytest.raises(InputError, match="the same nodes"):
        align(step(100.0), step(100.0, nodes=1), within_seconds=15.0)
    with pytest.raises(InputError, match="overlap"):
        align(step(100.0), step(100.0, phase=1000.0), within_seconds=15.0)


def test_recording_is_read_from_a_tidy_answer() -> None:
    frame = pd.DataFrame({"time_seconds": [0.0, 0.0, 15.0, 15.0], "instance": ["b", "a"] * 2, "value": [1.0, 2, 3, 4]})
    found = Recording.of(frame)
    assert found.nodes == ("a", "b")
    assert found.values.tolist() == [[2.0, 1.0], [4.0, 3.0]]
    with pytest.raises(InputError, match="found 1 missing"):
        Recording.of(frame.iloc[:-1])
    with pytest.raises(InputError, match="none at all"):
        Recording.of(frame.iloc[:0])


def test_groups_agree_when_their_means_are_no_further_apart_than_runs_of_one() -> None:
    assert within_spread([10, 12, 14], [13, 13, 13])
    assert within_spread([10, 10], [10, 10])
    assert not within_spread([10, 11, 12], [14, 15, 16])
    with pytest.raises(InputError, match="two runs or more"):
        within_spread([1.0], [2.0, 3.0])
