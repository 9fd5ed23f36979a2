from __future__ import annotations

import itertools

import numpy as np
import pytest

from labkit import sim
from labkit.errors import InputError
from labkit.scenario import load_scenario, parse_scenario
from labkit.sim.regret import _exact, _greedy, _Problem


def problem(seed: int, vms: int = 6, nodes: int = 3) -> _Problem:
    rng = np.random.default_rng(seed)
    return _Problem(
        demand=np.repeat(rng.uniform(1, 6, (1, vms)), 2, axis=0),
        memory_bytes=np.ones(vms),
        start=np.zeros(vms, dtype=np.int64),
        cores=np.full(nodes, 20.0),
        memory=np.full(nodes, float(vms)),
    )


def brute_force(window: _Problem, moves: int) -> float:
    """Smallest sum of distances from the mean over all placements within reach."""
    nodes, best = len(window.cores), np.inf
    for placement in itertools.product(range(nodes), repeat=len(window.start)):
        place = np.array(placement)
        if (place != window.start).sum() <= moves:
            usage = window.usage(place)[0]
            best = min(best, float(np.abs(usage - usage.mean()).sum()))
    return best


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("moves", [1, 2, 4])
def test_the_exact_answer_is_the_best_of_all_placements(seed: int, moves: int) -> None:
    window = problem(seed)
    chosen, gap = _exact(window, moves)
    usage = window.usage(chosen)[0]
    assert (chosen != window.start).sum() <= moves
    assert np.abs(usage - usage.mean()).sum() == pytest.approx(brute_force(window, moves), rel=1e-3)
    assert gap <= 1e-3


@pytest.mark.parametrize("seed", range(4))
def test_greedy_flattens_within_its_moves(seed: int) -> None:
    window = problem(seed)
    spreads = [window.stddev(_greedy(window, moves)) for moves in range(5)]
    assert spreads == sorted(spreads, reverse=True)
    assert (_greedy(window, 2) != window.start).sum() <= 2


def test_memory_is_respected() -> None:
    window = problem(0)
    tight = _Problem(window.demand, window.memory_bytes, window.start, window.cores, np.array([6.0, 1.0, 1.0]))
    for chosen in (_greedy(tight, 5), _exact(tight, 5)[0]):
        assert (np.bincount(chosen, minlength=3) <= [6, 1, 1]).all()


def test_regret_of_runs() -> None:
    scenario = load_scenario("hot-node").with_duration(1200)
    idle = sim.run(scenario, algorithm="none", seed=1).regret()
    assert (idle.moves, idle.moves_used, idle.regret) == (0, 0, pytest.approx(0.0, abs=1e-12))
    result = sim.run(scenario, algorithm="linear_amplified_ippd_k3", seed=1)
    found = result.regret()
    assert found.moves == result.summary["migrations"]
    assert 0 < found.best_cpu_stddev <= found.cpu_stddev
    assert result.regret() == found
    with pytest.raises(InputError, match="at most 10 migrations"):
        result.regret(exact=True)


def test_exact_regret_of_a_short_run() -> None:
    document = dict(load_scenario("quickstart").document)
    scenario = parse_scenario(document, "quickstart").with_duration(100)
    result = sim.run(scenario, algorithm="linear_amplified_ippd_k3", seed=1)
    assert 0 < result.summary["migrations"] <= 10
    exact, greedy = result.regret(exact=True), result.regret()
    assert exact.gap is not None
    assert exact.moves_used <= exact.moves
    assert exact.best_cpu_stddev <= greedy.best_cpu_stddev * 1.1
