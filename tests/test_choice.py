from dataclasses import replace

import numpy as np
import pytest

from labkit.analysis import metrics
from labkit.analysis.choice import GOALS, choose, is_choice
from labkit.analysis.statistics import Blocks
from labkit.errors import InputError

SCENARIOS = ("calm",) * 10 + ("wild",) * 10
NOISE = np.random.default_rng(7).normal(0.0, 1.0, 20)


def designs(**columns: dict[str, float | np.ndarray]) -> dict[str, Blocks]:
    """Designs by metric from a level, or all values, of each treatment; every block has its own noise."""
    found = {}
    for name, levels in columns.items():
        values = np.column_stack([np.broadcast_to(level, 20) + NOISE for level in levels.values()])
        found[name] = Blocks(
            metrics.get(name), tuple(levels), values.astype(np.float64), SCENARIOS, np.zeros(values.shape, bool), 0
        )
    return found


HOT = {"none": 5000.0, "used": 1000.0, "thrifty": 1010.0, "lazy": 4000.0, "busy": 900.0, "oracle": 10.0}
MOVES = {"none": 0.0, "used": 100.0, "thrifty": 40.0, "lazy": 1.0, "busy": 300.0, "oracle": 50.0}


def test_doing_nothing_does_not_win_fewest_migrations() -> None:
    (choice,) = choose(designs(hotspot_seconds=HOT, migrations=MOVES), "used", goals=GOALS[:1])
    assert choice.name == "thrifty"
    assert choice.below_floor == ("lazy",)
    assert choice.found.verdict == "better"
    assert choice.price["hotspot_seconds"].estimate == pytest.approx(10.0)


def test_of_what_cannot_be_told_apart_the_one_with_fewest_migrations_is_chosen() -> None:
    wobble = np.tile([-400.0, 401.0], 10)
    hot = HOT | {"thrifty": 900.0 + wobble}
    (choice,) = choose(designs(hotspot_seconds=hot, migrations=MOVES), "used", goals=GOALS[1:2])
    assert (choice.leader, choice.name) == ("busy", "thrifty")
    assert set(choice.level) == {"busy", "thrifty"}
    settled = HOT | {"thrifty": 1010.0}
    (choice,) = choose(designs(hotspot_seconds=settled, migrations=MOVES), "used", goals=GOALS[1:2])
    assert choice.name == choice.leader == "busy"
    assert choice.equivalent == ()


def test_scenarios_in_which_the_choice_is_hotter_are_named() -> None:
    wild = np.where(np.array(SCENARIOS) == "wild", 1100.0, 850.0)
    (choice,) = choose(designs(hotspot_seconds=HOT | {"thrifty": wild}, migrations=MOVES), "used", goals=GOALS[:1])
    assert choice.name == "thrifty"
    assert choice.hotter_in == ("wild",)
    assert choice.worse_in == ()


def test_ends_of_the_scale_and_repetitions_cannot_be_chosen() -> None:
    assert [is_choice(name) for name in ("none", "oracle @ node2", "used (again)", "used", "used @ node2")] == [
        False, False, False, True, True,
    ]  # fmt: skip


def test_a_goal_without_its_metric_is_left_out_and_hot_spots_are_wanted() -> None:
    found = choose(designs(hotspot_seconds=HOT, migrations=MOVES), "used")
    assert [each.goal.metric for each in found] == ["migrations", "hotspot_seconds"]
    with pytest.raises(InputError, match="wanted runs with hotspot_seconds, found migrations"):
        choose(designs(migrations=MOVES), "used")
    with pytest.raises(InputError, match="wanted a reference of none, used"):
        choose(designs(hotspot_seconds=HOT), "stranger")


def test_too_few_runs_choose_nothing() -> None:
    few = {
        name: replace(each, values=each.values[:5], strata=each.strata[:5], censored=each.censored[:5])
        for name, each in designs(hotspot_seconds=HOT, migrations=MOVES).items()
    }
    with pytest.raises(InputError, match=r"wanted 6 paired blocks .* found 5: add seeds"):
        choose(few, "used")


def test_a_goal_for_which_no_algorithm_is_left_is_left_out() -> None:
    hot = {"none": 100.0, "used": 5000.0, "busy": 6000.0}
    found = choose(designs(hotspot_seconds=hot, migrations=dict.fromkeys(hot, 1.0)), "none")
    assert [each.goal.metric for each in found] == ["hotspot_seconds"]
