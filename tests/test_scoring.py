"""What every algorithm promises: the worked values, the range, and that names, order and copies do not matter."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from worked_sets import DIGITS, SCORES, SETS

from labkit.errors import InputError
from labkit.model import Snapshot
from labkit.scoring import BUILT_IN, NINETEEN, Algorithm, get, names
from labkit.scoring.explain import contributions

ratios = st.one_of(
    st.sampled_from([0.0, 1.0, 0.5, 0.7]), st.integers(0, 10_000).map(lambda number: number / 10_000), st.floats(0, 1)
)


def snapshots(*, min_nodes: int = 1, max_nodes: int = 9) -> st.SearchStrategy[Snapshot]:
    loads = st.integers(min_nodes, max_nodes).flatmap(
        lambda nodes: hnp.arrays(np.float64, (nodes, 4), elements=ratios, fill=ratios)
    )
    return loads.map(lambda load: Snapshot.of([f"n{index:02d}" for index in range(len(load))], load))


every_algorithm = pytest.mark.parametrize("algorithm", NINETEEN, ids=lambda each: each.name)


def test_there_are_nineteen_and_production() -> None:
    assert len(NINETEEN) == 19
    assert set(SCORES) == {each.name for each in NINETEEN}
    assert len({each.name for each in BUILT_IN}) == len(BUILT_IN)


@pytest.mark.parametrize("name", SETS)
@every_algorithm
def test_worked_values(algorithm: Algorithm, name: str) -> None:
    np.testing.assert_allclose(algorithm.score(SETS[name]), SCORES[algorithm.name][name], rtol=0, atol=DIGITS)


# One draw serves all nineteen: drawing takes longer than scoring.


@given(snapshot=snapshots())
def test_one_score_per_node_in_range(snapshot: Snapshot) -> None:
    for algorithm in NINETEEN:
        score = algorithm.score(snapshot)
        assert score.shape == (len(snapshot.nodes),), algorithm.name
        assert ((score >= 0.0) & (score <= 1.0)).all(), algorithm.name


@given(snapshot=snapshots(min_nodes=2), turn=st.integers(1, 8))
def test_scores_follow_the_loads_not_the_names(snapshot: Snapshot, turn: int) -> None:
    turned = Snapshot(snapshot.nodes, np.roll(snapshot.load_ratio, turn, axis=0))
    for algorithm in NINETEEN:
        # Ties in crowding are ordered by name: they move a node of the Pareto front by 0.1 at most.
        tolerance = 0.1 if algorithm.name == "pareto_front" else 1e-9
        np.testing.assert_allclose(
            algorithm.score(turned), np.roll(algorithm.score(snapshot), turn), rtol=0, atol=tolerance + 1e-12
        )


@given(load=hnp.arrays(np.float64, 4, elements=ratios), nodes=st.integers(1, 12))
def test_equal_nodes_have_equal_scores(load: np.ndarray, nodes: int) -> None:
    snapshot = Snapshot.of([f"n{index}" for index in range(nodes)], np.tile(load, (nodes, 1)))
    for algorithm in NINETEEN:
        score = algorithm.score(snapshot)
        # Between the first and the last of equal nodes on a front the crowding share is half its largest, 0.05.
        assert np.ptp(score) <= (0.05 if algorithm.name == "pareto_front" else 0.0), algorithm.name
        if algorithm.family in ("deviation", "ideal point", "relative"):
            assert (score == 0.0).all(), algorithm.name


@every_algorithm
def test_no_nodes_no_scores(algorithm: Algorithm) -> None:
    assert algorithm.score(Snapshot((), np.zeros((0, 4)))).shape == (0,)


@given(snapshot=snapshots(), node=st.integers(0, 8), more=hnp.arrays(np.float64, 4, elements=ratios))
def test_averages_grow_with_the_load(snapshot: Snapshot, node: int, more: np.ndarray) -> None:
    heavier = snapshot.load_ratio.copy()
    heavier[node % len(heavier)] = np.maximum(heavier[node % len(heavier)], more)
    for algorithm in (each for each in NINETEEN if each.family == "average"):
        before, after = algorithm.score(snapshot), algorithm.score(Snapshot(snapshot.nodes, heavier))
        assert (after >= before - 1e-12).all(), algorithm.name


@given(snapshot=snapshots(min_nodes=2))
def test_relative_scores_have_a_one_unless_all_are_zero(snapshot: Snapshot) -> None:
    for algorithm in (each for each in NINETEEN if each.family == "relative"):
        assert algorithm.score(snapshot).max() in (0.0, 1.0), algorithm.name


@given(snapshot=snapshots())
def test_parts_sum_to_the_score(snapshot: Snapshot) -> None:
    for algorithm in NINETEEN:
        score = algorithm.score(snapshot)
        parts = contributions(algorithm.name, snapshot, score)
        if algorithm.name == "pareto_front":
            assert parts is None
            continue
        assert parts is not None
        assert (parts >= 0.0).all(), algorithm.name
        # A square too small for a float leaves a score without parts; it is below any resolution.
        np.testing.assert_allclose(parts.sum(axis=1), score, rtol=0, atol=1e-9, err_msg=algorithm.name)


def test_get_takes_names_and_records() -> None:
    assert get("max_metric").record == "descheduler:node:max_metric:avg1m"
    assert get("descheduler:node:max_metric:score").name == "max_metric"
    assert get("descheduler:node:actuation_priority:p66_5m").family == "production"


def test_unknown_name_is_answered_with_the_nearest() -> None:
    with pytest.raises(InputError, match=r"found 'pareto': did you mean pareto_front\?"):
        get("pareto")


def test_names_begin_with_the_nineteen() -> None:
    assert names()[:19] == tuple(each.name for each in NINETEEN)
