"""The comparison of two sides: on runs that the twin made, where the answer is known."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from example_fidelity import ALGORITHMS, FIRST_DRAW, LAB_SECONDS, example_runs
from scipy import stats

from labkit import fidelity, results
from labkit.analysis.rankcorrelation import correlate, interval_of, tau_b
from labkit.analysis.tables import COLUMNS
from labkit.errors import InputError, ResultError
from labkit.fidelity import EVERYTHING, METRICS, Fidelity


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return example_runs(tmp_path_factory.mktemp("live") / "fidelity")


@pytest.fixture(scope="module")
def runs(folder: Path) -> list[fidelity.LiveRun]:
    return fidelity.read([folder])


def made(side: str, values: dict[str, list[float]], *, metric: str = "migrations") -> pd.DataFrame:
    """Outcomes of made-up runs; the other metrics are all 1."""
    rows = [
        {"side": side, "scenario": "s", "algorithm": name, "repeat": repeat, "missed_cycles": 0,
         **dict.fromkeys(METRICS, 1.0), metric: value}
        for name, each in values.items() for repeat, value in enumerate(each, start=1)
    ]  # fmt: skip
    return pd.DataFrame(rows)


# --- rank correlation --------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(20))
def test_tau_is_scipys_with_and_without_ties(seed: int) -> None:
    rng = np.random.default_rng(seed)
    one, other = rng.integers(0, 2 + seed % 9, (2, 5, 8)).astype(float)
    wanted = [stats.kendalltau(x, y, variant="b").statistic for x, y in zip(one, other, strict=True)]
    np.testing.assert_allclose(tau_b(one, other), wanted, atol=1e-12)


def test_tau_has_no_value_where_all_are_equal_and_ignores_rounding() -> None:
    flat, rising = np.ones((1, 3)), np.array([[1.0, 2.0, 3.0]])
    assert np.isnan(tau_b(flat, rising)).all()
    assert tau_b(np.array([[1.0, 1.0 + 1e-12, 2.0]]), np.array([[1.0, 1.0, 2.0]])) == [1.0]


def test_halves_are_the_mean_over_all_ways_to_halve() -> None:
    rng = np.random.default_rng(3)
    values = [rng.normal(index, 2.0, 5) for index in range(6)]
    taus = []
    for half in itertools.combinations(range(5), 2):
        rest = sorted({0, 1, 2, 3, 4} - set(half))
        means = [[each[part].mean() for each in values] for part in (list(half), rest)]
        taus.append(stats.kendalltau(*means).statistic)
    found = correlate(values, values)
    assert found.halves == pytest.approx(np.mean(taus))
    assert found.tau == 1.0
    assert found.gap == pytest.approx(1.0 - np.mean(taus))


def test_rank_correlation_tells_the_same_order_from_another() -> None:
    rng = np.random.default_rng(5)
    values = [rng.normal(10.0 * index, 1.0, 5) for index in range(6)]
    same = correlate(values, [rng.normal(10.0 * index, 1.0, 20) for index in range(6)])
    reverse = correlate(values, values[::-1])
    assert (same.tau, same.halves, same.stand_in, same.gap_interval) == (1.0, 1.0, 1.0, (0.0, 0.0))
    assert (reverse.tau, reverse.stand_in) == (-1.0, -1.0)
    assert reverse.gap_interval == (-2.0, -2.0)


def test_rank_correlation_wants_repeats_and_algorithms() -> None:
    two = [np.array([1.0, 2.0]), np.array([3.0, 4.0])]
    with pytest.raises(InputError, match="at least two repeats"):
        correlate([values[:1] for values in two], two)
    with pytest.raises(InputError, match="same two or more algorithms"):
        correlate(two[:1], two[:1])
    assert all(np.isnan(interval_of(np.array([np.nan]))))


# --- pairs -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("live", "twin", "agrees"),
    [
        ([8.0, 12.0], [11.9, 12.1], True),  # within the range
        ([10.0, 10.0], [10.9, 10.9], True),  # within 10 %
        ([10.0, 10.0], [11.2, 11.2], False),
        ([8.0, 12.0], [13.0, 13.0], False),
        ([0.0, 0.0], [0.0, 0.0], True),
        ([0.0, 0.0], [1.0, 0.0], False),
    ],
)
def test_a_pair_agrees_within_the_spread_or_ten_percent(live: list[float], twin: list[float], agrees: bool) -> None:
    found = Fidelity.of(made("local", {"a": live}), made("twin", {"a": twin}))
    row = found.pairs.set_index("metric").loc["migrations"]
    assert bool(row["agrees"]) is agrees
    assert row["difference"] == pytest.approx(np.mean(twin) - np.mean(live))


def test_the_interval_of_a_difference_is_welchs() -> None:
    live, twin = [8.0, 9.0, 12.0, 10.0], [10.0, 12.0, 11.0]
    row = Fidelity.of(made("local", {"a": live}), made("twin", {"a": twin})).pairs.set_index("metric").loc["migrations"]
    wanted = stats.ttest_ind(twin, live, equal_var=False).confidence_interval(0.95)
    assert (row["difference_low"], row["difference_high"]) == pytest.approx((wanted.low, wanted.high))
    assert row["sd"] == pytest.approx(np.std(live, ddof=1))


def test_only_what_both_sides_have_is_compared() -> None:
    one = made("local", {"a": [1.0, 2.0], "b": [3.0, 4.0]})
    assert set(Fidelity.of(one, made("kind", {"b": [3.0], "c": [1.0]})).pairs["algorithm"]) == {"b"}
    with pytest.raises(InputError, match="same scenarios and algorithms on both sides, found none"):
        Fidelity.of(one, made("kind", {"c": [1.0]}))


def test_a_time_not_reached_counts_with_the_length_of_the_run(runs: list[fidelity.LiveRun]) -> None:
    run = next(run for run in runs if run.record.algorithm == "max_metric")
    late = replace(run.record, summary={**run.record.summary, "time_to_converge_seconds": None})
    found = fidelity.outcomes([replace(run, record=late)])
    assert found["time_to_converge_seconds"].tolist() == [LAB_SECONDS]


def test_without_descheduling_there_is_no_time_to_converge(runs: list[fidelity.LiveRun]) -> None:
    live = fidelity.outcomes(runs)
    assert live.loc[live["algorithm"] == "none", "time_to_converge_seconds"].isna().all()
    found = Fidelity.of(live, live.assign(side="kind"))
    times = found.pairs[found.pairs["metric"] == "time_to_converge_seconds"]
    assert set(times["algorithm"]) == {name for name in ALGORITHMS if name != "none"}
    assert found.sentences()[METRICS.index("time_to_converge_seconds")].endswith("It is not defined for none.")


def test_a_number_that_a_run_lacks_takes_no_part(runs: list[fidelity.LiveRun]) -> None:
    first, *others = runs
    lacking = replace(first.record, summary={**first.record.summary, "memory_stddev_final": None})
    frame = fidelity.outcomes([replace(first, record=lacking), *others])
    assert frame["memory_stddev_final"].isna().sum() == 1
    assert Fidelity.of(frame, frame.assign(side="kind")).pairs["agrees"].all()


def test_ranks_have_a_row_of_means_over_what_has_a_value() -> None:
    rng = np.random.default_rng(1)
    values = {name: rng.normal(index, 1.0, 5).tolist() for index, name in enumerate("abcdef")}
    found = Fidelity.of(made("local", values), made("twin", values)).ranks.set_index("metric")
    ranks: dict[str, dict[str, float]] = found.drop(columns="scenario").to_dict("index")  # type: ignore[assignment]
    assert np.isnan(ranks["hotspot_seconds"]["tau"])
    assert not ranks["hotspot_seconds"]["holds"]
    assert ranks[EVERYTHING]["tau"] == ranks["migrations"]["tau"] == 1.0
    assert ranks[EVERYTHING]["holds"]
    assert ranks[EVERYTHING]["gap_low"] <= ranks[EVERYTHING]["gap"] + 1e-9


# --- reading and imitating ------------------------------------------------------------------------------------


def test_reading_takes_finished_live_runs_with_their_scenarios(folder: Path, runs: list[fidelity.LiveRun]) -> None:
    assert len(runs) == 3 * len(ALGORITHMS)
    assert {run.treatment for run in runs} == set(ALGORITHMS)
    assert {run.repeat for run in runs} == {1, 2, 3}
    assert all(run.scenario.name == "small" for run in runs)
    assert len(fidelity.read([folder, folder])) == 2 * len(runs)


def test_reading_refuses_what_is_not_there(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ResultError, match="finished live runs, found none"):
        fidelity.read([tmp_path])
    twins = example_runs(tmp_path / "sim", algorithms=["none"], repeats=1, backend="sim")
    with pytest.raises(ResultError, match="wanted runs of a live backend, found backend sim"):
        fidelity.read([twins])
    kind = example_runs(tmp_path / "kind", algorithms=["none"], repeats=1, backend="kind")
    with pytest.raises(ResultError, match="wanted runs of one backend, found kind and local"):
        fidelity.read([folder, kind])
    lost = example_runs(tmp_path / "lost", algorithms=["none"], repeats=1)
    (lost / results.SCENARIOS_FOLDER / "small.scenario.json").unlink()
    with pytest.raises(ResultError, match="wanted the scenario small"):
        fidelity.read([lost])


def test_failed_runs_are_left_out(tmp_path: Path) -> None:
    made_up = example_runs(tmp_path / "some", algorithms=["none"], repeats=2)
    path = results.run_folders(made_up)[0] / results.RUN_FILE
    path.write_text(json.dumps({**json.loads(path.read_text()), "status": "failed", "error": "no"}))
    assert len(fidelity.read([made_up])) == 1


def test_an_imitation_is_the_run_itself_where_chance_is_the_same(runs: list[fidelity.LiveRun]) -> None:
    for run in runs:
        again = fidelity.imitate(run, chance=FIRST_DRAW + run.repeat)
        for name in COLUMNS:
            pd.testing.assert_frame_equal(getattr(again, name), run.tables[name])


def test_imitations_of_repeats_share_no_draw_and_agree_with_runs_of_the_same_model(
    runs: list[fidelity.LiveRun],
) -> None:
    said: list[str] = []
    twin = fidelity.imitations(runs, draws=2, say=said.append)
    assert len(twin) == 2 * len(runs) == 2 * len(said)
    assert set(twin["side"]) == {"twin"}
    found = Fidelity.of(fidelity.outcomes(runs), twin)
    sentences = found.sentences()
    assert len(sentences) == len(METRICS) + 2
    assert sentences[-2].startswith("Of 14 differences of means ")
    assert sentences[0].startswith("Migrations: the mean of twin lies within the spread of local or 10 % in ")
    by_metric = found.pairs.set_index(["algorithm", "metric"])
    assert by_metric.loc[("none", "migrations"), "other_mean"] == 0.0
    assert by_metric.loc[("max_metric", "hotspot_seconds"), "agrees"]
    with pytest.raises(InputError, match="draws: wanted 1 or more"):
        fidelity.imitations(runs, draws=0)


def test_missed_cycles_are_counted(runs: list[fidelity.LiveRun]) -> None:
    run = next(run for run in runs if run.record.algorithm == "max_metric")
    assert run.missed_cycles == 0
    kept = run.tables["cycles"].query("time_seconds < 80 or time_seconds > 200")
    assert replace(run, tables={**run.tables, "cycles": kept}).missed_cycles == 2


@pytest.mark.parametrize(("lag", "low", "high"), [(0.0, 0.0, 0.0), (1.2, 1.0, 1.5)])
def test_score_lag_is_found_in_the_cycles(tmp_path: Path, lag: float, low: float, high: float) -> None:
    # Evaluations are at 9, 24, … s; the cycles of the repeats are 1, 1.5, … s after one.
    live = example_runs(tmp_path / "lag", algorithms=["max_metric"], repeats=4, score_lag_seconds=lag)
    assert low <= fidelity.score_lag_seconds(fidelity.read([live])) <= high


# --- part by part ---------------------------------------------------------------------------------------------


def test_decisions_of_the_twin_are_the_twins(runs: list[fidelity.LiveRun]) -> None:
    found = fidelity.check(runs)
    assert found.classified == sum(len(run.tables["cycles"]) for run in runs) > 0
    assert found.same_class == found.classified
    assert found.placed == sum(len(run.tables["migrations"]) for run in runs) > 0
    assert found.expected_target == found.placed
    assert found.cycles == 2 * 3 * 5
    assert (found.crowded, 0 < found.under_way <= 5) == (0, True)


def test_cycles_with_more_requests_than_the_limit_are_counted(runs: list[fidelity.LiveRun]) -> None:
    run = next(run for run in runs if run.record.algorithm == "max_metric")
    first = run.cycle_times_seconds[0]
    one = run.tables["migrations"].iloc[:1]
    asked = [one.assign(requested_seconds=first + at, ended_seconds=first + at + 4.5) for at in range(6)]
    found = fidelity.check([replace(run, tables={**run.tables, "migrations": pd.concat(asked, ignore_index=True)})])
    assert (found.crowded, found.under_way) == (1, 5)


def test_decisions_of_another_kind_are_counted_as_such(runs: list[fidelity.LiveRun]) -> None:
    run = next(run for run in runs if run.record.algorithm == "max_metric")
    cycles, moves = run.tables["cycles"].copy(), run.tables["migrations"].copy()
    cycles.loc[cycles.index[:3], "class"] = "appropriate"
    moves.loc[moves.index[0], "target"] = moves.loc[moves.index[0], "source"]
    found = fidelity.check([replace(run, tables={**run.tables, "cycles": cycles, "migrations": moves})])
    assert found.classified - found.same_class == 3
    assert found.placed - found.expected_target >= 1


# --- in words ---------------------------------------------------------------------------------------------------


def test_markdown_has_every_table(runs: list[fidelity.LiveRun]) -> None:
    live = fidelity.outcomes(runs)
    text = fidelity.markdown(Fidelity.of(live, live.assign(side="kind")))
    assert text.count("| algorithm | local | SD | range | kind | SD | difference | agrees |") == len(METRICS)
    assert "**small: hot spots** (node-seconds above 80 %)" in text
    assert "in 3 of 3 pairs." in text
    assert "| small | migrations | 1.00 |" in text
    for line in text.splitlines():
        if line.startswith("|"):
            assert line.count("|") == 9
