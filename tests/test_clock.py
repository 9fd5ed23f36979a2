from __future__ import annotations

import pytest

from labkit.clock import LabTime, VirtualClock, wait_until, wall_seconds
from labkit.errors import NotReadyError


def test_wait_returns_what_the_condition_found() -> None:
    clock = VirtualClock()
    found = wait_until(lambda: clock.now() if clock.now() >= 3 else None, timeout_seconds=10, what="3 s", clock=clock)
    assert found == pytest.approx(3.0, abs=0.05)


def test_wait_gives_up_at_its_deadline_and_says_what_there_was() -> None:
    clock = VirtualClock()
    with pytest.raises(NotReadyError, match="waited 2 s for a miracle; found: nothing"):
        wait_until(lambda: None, timeout_seconds=2, what="a miracle", clock=clock, found=lambda: "nothing")
    assert clock.now() == pytest.approx(2.0, abs=0.06)


def test_a_clock_cannot_go_back() -> None:
    with pytest.raises(ValueError, match="cannot go back"):
        VirtualClock().wait(-1)


def test_lab_time_and_wall_time_are_inverse() -> None:
    lab = LabTime(epoch=1000.0, tempo=15)
    assert lab.at(1004.0) == 60.0
    assert lab.wall(60.0) == 1004.0


@pytest.mark.parametrize("tempo", range(1, 16))
def test_windows_and_periods_are_whole_scrapes_at_every_tempo(tempo: int) -> None:
    scrape = wall_seconds(15, tempo)
    assert scrape == pytest.approx(15 / tempo, abs=0.0005)
    for scrapes in (2, 4, 20, 40, 240):
        assert wall_seconds(15 * scrapes, tempo) == pytest.approx(scrapes * scrape, abs=1e-9)


def test_other_times_are_rounded_to_milliseconds() -> None:
    assert wall_seconds(1, 7) == 0.143
    assert wall_seconds(0, 7) == 0.0
    assert wall_seconds(0.005, 15) == 0.0
