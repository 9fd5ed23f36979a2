import itertools

import numpy as np
import pandas as pd
import pytest
from example_run import example_tables
from scipy import stats

from labkit import analysis
from labkit.analysis import metrics, statistics
from labkit.analysis.answer import answer, interval, number
from labkit.analysis.statistics import Blocks, Interval
from labkit.errors import InputError

HOT = metrics.get("hotspot_seconds")
SETTLE = metrics.get("time_to_settle_seconds")


def runs_of(
    values: dict[str, list[float | None]], *, metric: str = "hotspot_seconds", scenarios: int = 1
) -> pd.DataFrame:
    """One row per run: the n-th value of each algorithm belongs to the n-th block."""
    rows = [
        {
            "run_id": f"{name}-{index}", "algorithm": name, "label": name, "policy_name": "", "repeat": 1,
            "scenario": f"s{index % scenarios}", "seed": index, "status": "succeeded", "nodes": 5,
            "lab_seconds": 1800.0, metric: value,
        }
        for name, series in values.items()
        for index, value in enumerate(series)
    ]  # fmt: skip
    return pd.DataFrame(rows)


def design_of(values: dict[str, list[float]], **kwargs: int) -> Blocks:
    return statistics.blocks(runs_of(values, **kwargs), HOT)  # type: ignore[arg-type]


def test_a_block_that_lacks_a_run_is_left_out_and_counted() -> None:
    runs = runs_of({"a": [1.0, 2.0, 3.0], "b": [2.0, 3.0, 4.0]})
    runs.loc[runs["run_id"] == "b-1", "status"] = "failed"
    design = statistics.blocks(runs, HOT)
    assert design.values.tolist() == [[1.0, 2.0], [3.0, 4.0]]
    assert design.dropped == 1


def test_a_scenario_of_which_every_run_failed_is_counted_too() -> None:
    runs = runs_of({"a": [1.0, 2.0], "b": [1.0, 2.0]})
    lost = runs.assign(scenario="lost", status="failed")
    assert statistics.blocks(pd.concat([runs, lost]), HOT).dropped == 2


def test_a_time_that_was_not_reached_stands_at_the_end_and_is_marked() -> None:
    design = statistics.blocks(runs_of({"a": [60.0, None]}, metric="time_to_settle_seconds"), SETTLE)
    assert design.values.ravel().tolist() == [60.0, 1800.0]
    assert design.censored.ravel().tolist() == [False, True]


def test_what_a_run_does_not_define_is_no_late_event() -> None:
    times: dict[str, list[float | None]] = {"none": [None, None], "a": [60.0, None], "b": [30.0, 90.0]}
    runs = runs_of(times, metric="time_to_converge_seconds")
    runs["cycles"] = np.where(runs["label"] == "none", 0, 30)
    design = statistics.blocks(runs, metrics.get("time_to_converge_seconds"))
    assert (design.treatments, design.undefined, design.absent) == (("a", "b"), ("none",), ())
    assert design.column("a").tolist() == [60.0, 1800.0]
    assert design.dropped == 0


def test_classes_of_nodes_are_not_counted_where_there_are_none() -> None:
    runs = runs_of({"none": [0.0, 0.0], "a": [3.0, 4.0]}, metric="overutilized_node_cycles")
    runs["cycles"] = np.where(runs["label"] == "none", 0, 30)
    design = statistics.blocks(runs, metrics.get("overutilized_node_cycles"))
    assert (design.treatments, design.undefined) == (("a",), ("none",))


def test_a_metric_that_one_algorithm_lacks_is_compared_among_the_others() -> None:
    design = statistics.blocks(runs_of({"a": [1.0, 2.0], "b": [2.0, 3.0], "c": [None, None]}), HOT)
    assert (design.treatments, design.undefined) == (("a", "b"), ("c",))


def test_policies_keep_their_names_where_all_runs_of_one_failed() -> None:
    runs = runs_of({"a": [1.0, 2.0]})
    other = runs.assign(policy_name="node1", status="failed")
    design = statistics.blocks(pd.concat([runs, other]), HOT)
    assert (design.treatments, design.absent) == (("a @ production",), ("a @ node1",))


def test_policies_become_treatments_only_where_they_vary() -> None:
    runs = runs_of({"a": [1.0, 2.0]})
    assert set(statistics.treatments(runs)) == {"a"}
    runs["policy_name"] = ["", "node1"]
    assert set(statistics.treatments(runs)) == {"a @ production", "a @ node1"}


def test_one_scenario_in_two_sizes_is_two_scenarios() -> None:
    runs = runs_of({"a": [1.0, 2.0, 3.0, 4.0]}).assign(seed=[1, 2, 1, 2], nodes=[5, 5, 100, 100])
    assert sorted(set(statistics.blocks(runs, HOT).strata)) == ["s0 n100", "s0 n5"]


def test_no_complete_block_is_an_error() -> None:
    runs = runs_of({"a": [1.0, 2.0], "b": [2.0, 3.0]})
    runs.loc[runs["run_id"].isin(["a-0", "b-1"]), "status"] = "failed"
    with pytest.raises(InputError, match="found none of 2 complete"):
        statistics.blocks(runs, HOT)


def test_an_algorithm_whose_runs_all_failed_does_not_take_the_others_with_it() -> None:
    runs = runs_of({"a": [1.0, 2.0], "b": [2.0, 3.0], "broken": [1.0, 1.0]})
    runs.loc[runs["label"] == "broken", "status"] = "failed"
    design = statistics.blocks(runs, HOT)
    assert design.treatments == ("a", "b")
    assert design.absent == ("broken",)


def test_bootstrap_interval_holds_the_mean_as_often_as_it_says() -> None:
    rng = np.random.default_rng(5)
    hits = 0
    for _ in range(200):
        values = rng.exponential(10.0, 40)
        found = statistics.bootstrap_mean(values, ["s"] * 40, resamples=1000)
        hits += found.low <= 10.0 <= found.high
    # 95 % nominal; a skewed sample of 40 costs a little. Binomial spread of 200 trials: about 3 points.
    assert 0.88 <= hits / 200 <= 0.99


def test_bootstrap_agrees_with_scipys_on_one_stratum() -> None:
    values = np.random.default_rng(3).gamma(2.0, 5.0, 60)
    ours = statistics.bootstrap_mean(values, ["s"] * 60)
    theirs = stats.bootstrap((values,), np.mean, method="BCa", rng=1).confidence_interval
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), rel=0.02)


def test_bootstrap_resamples_within_strata_only() -> None:
    # Two scenarios far apart, no spread inside: resampling seeds cannot move the mean.
    values = np.array([1.0, 1.0, 1.0, 9.0, 9.0, 9.0])
    assert statistics.bootstrap_mean(values, ["a"] * 3 + ["b"] * 3) == Interval(5.0, 5.0, 5.0)


def test_one_seed_per_scenario_still_has_an_interval() -> None:
    values = np.array([1.0, 5.0, 2.0, 9.0, 4.0, 3.0])
    alone = statistics.bootstrap_mean(values, list("abcdef"))
    assert alone == statistics.bootstrap_mean(values, ["s"] * 6)
    assert alone.low < alone.estimate < alone.high


def test_a_single_run_has_no_interval_and_excludes_nothing() -> None:
    found = statistics.bootstrap_mean(np.array([3.0]), ["s"])
    assert found.estimate == 3.0
    assert np.isnan([found.low, found.high]).all()
    assert not found.excludes_zero()
    assert interval(found) == "3"


def test_holm_steps_down() -> None:
    # sorted 0.01, 0.02, 0.04 times 3, 2, 1 = 0.03, 0.04, 0.04
    assert statistics.holm([0.04, 0.01, 0.02]) == pytest.approx([0.04, 0.03, 0.04])
    assert statistics.holm([0.9, 0.8]) == [1.0, 1.0]


def test_signed_rank_of_six_equal_signs_is_exact() -> None:
    # two-sided: 2 / 2**6
    assert statistics.signed_rank(np.array([1.0, 2.0, 3.0, 4.0, 5.0, 6.0])) == pytest.approx(0.03125)


def test_signed_rank_without_differences_is_no_evidence() -> None:
    assert statistics.signed_rank(np.zeros(8)) == 1.0


def test_hodges_lehmann_is_not_moved_by_an_outlier() -> None:
    # pairwise means of 1, 2, 3: 1, 1.5, 2, 2, 2.5, 3
    assert statistics.hodges_lehmann(np.array([1.0, 2.0, 3.0])) == 2.0
    assert statistics.hodges_lehmann(np.array([1.0, 2.0, 3.0, 2.0, 1000.0])) < 10.0


@pytest.mark.parametrize(
    ("differences", "expected"),
    [(np.full(20, 0.0), 1), (np.full(20, -100.0), 0), (np.full(20, 100.0), 2), (np.linspace(-3, 3, 20), 1)],
    ids=["equal", "lower", "higher", "small differences"],
)
def test_rope_probabilities_point_where_the_differences_lie(differences: np.ndarray, expected: int) -> None:
    probabilities = statistics.rope_probabilities(differences, rope=5.0)
    assert sum(probabilities) == pytest.approx(1.0)
    assert probabilities[expected] > 0.95


def test_an_algorithm_against_itself_is_equivalent() -> None:
    values = list(np.random.default_rng(1).uniform(100, 900, 20))
    found = {each.treatment: each for each in statistics.compare(design_of({"a": values, "again": values}), "a")}
    assert found["again"].verdict == "equivalent"
    assert found["again"].superiority == 0.5
    assert found["again"].p_holm == 1.0


def test_verdicts_need_a_test_and_an_interval_and_say_which_way() -> None:
    rng = np.random.default_rng(2)
    base = rng.uniform(500, 900, 20)
    noise = rng.normal(0, 300, 20)
    design = design_of({
        "base": list(base), "cool": list(base - 300 + rng.normal(0, 20, 20)),
        "hot": list(base + 300 + rng.normal(0, 20, 20)), "noisy": list(base + noise - noise.mean()),
    })  # fmt: skip
    verdicts = {each.treatment: each.verdict for each in statistics.compare(design, "base")}
    assert verdicts == {"base": "baseline", "cool": "better", "hot": "worse", "noisy": "undecided"}


@pytest.mark.parametrize("count", [1, 5])
def test_few_runs_decide_nothing_not_even_that_two_are_equal(count: int) -> None:
    values = {"a": [5.0] * count, "equal": [5.0] * count, "hot": [5000.0] * count}
    verdicts = {each.treatment: each.verdict for each in statistics.compare(design_of(values), "a")}
    assert verdicts == {"a": "baseline", "equal": "undecided", "hot": "undecided"}


def test_a_mean_that_a_few_blocks_turn_round_decides_nothing() -> None:
    # Lower in 34 of 40 blocks, by far higher in six of one scenario: test and mean speak of different things.
    rng = np.random.default_rng(8)
    base = rng.uniform(2000.0, 3000.0, 40)
    other = base - rng.uniform(100.0, 140.0, 40)
    other[:6] += 5000.0
    found = statistics.compare(design_of({"base": list(base), "other": list(other)}, scenarios=1), "base")[1]
    assert found.p_holm < 0.05
    assert found.difference.low > 0 > found.hodges_lehmann
    assert found.verdict == "undecided"


def test_comparing_with_a_stranger_is_an_error() -> None:
    with pytest.raises(InputError, match="wanted a baseline of a; found 'b'"):
        statistics.compare(design_of({"a": [1.0]}), "b")


def test_friedman_agrees_with_scipys_chi_square() -> None:
    values = np.random.default_rng(4).normal(size=(12, 4)) + np.arange(4)
    found = statistics.rank(design_of({f"t{i}": list(values[:, i]) for i in range(4)}))
    chi, _ = stats.friedmanchisquare(*values.T)
    # Iman and Davenport: F = (n - 1) chi / (n (k - 1) - chi)
    assert found.statistic == pytest.approx(11 * chi / (12 * 3 - chi))
    assert found.p_value == pytest.approx(stats.f.sf(found.statistic, 3, 33))


def test_critical_difference_is_the_tabled_one() -> None:
    # Demšar 2006: q = 2.569 for four classifiers; N = 14: 2.569 * sqrt(4 * 5 / (6 * 14)) = 1.25
    found = statistics.rank(design_of({f"t{i}": list(np.arange(14.0) + i) for i in range(4)}))
    assert found.critical_difference == pytest.approx(1.25, abs=0.005)


def test_ranks_share_ties_and_one_is_best() -> None:
    found = statistics.rank(design_of({"a": [1.0, 1.0], "b": [1.0, 1.0], "c": [0.0, 0.0]}))
    assert found.mean_ranks.tolist() == [2.5, 2.5, 1.0]
    same = statistics.rank(design_of({"a": [1.0, 1.0], "b": [1.0, 1.0]}))
    assert same.p_value == 1.0


def test_pareto_front_against_its_definition() -> None:
    points = np.random.default_rng(6).integers(0, 6, (40, 2)).astype(float)
    expected = [not any((other <= point).all() and (other < point).any() for other in points) for point in points]
    assert statistics.pareto_front(points).tolist() == expected


def test_survival_of_uncensored_times_is_the_empirical_one() -> None:
    curve = statistics.survival(np.array([60.0, 120.0, 120.0, 240.0]), np.zeros(4, bool), ["s"] * 4)
    assert curve.times.tolist() == [0.0, 60.0, 120.0, 240.0]
    assert curve.share.tolist() == [1.0, 0.75, 0.25, 0.0]
    assert (curve.events, curve.runs) == (4, 4)


def test_survival_with_censoring_by_hand() -> None:
    # Kaplan and Meier: at 60 one of four, at 120 one of two that are left (one was lost at 90): 3/4, 3/8
    curve = statistics.survival(np.array([60.0, 90.0, 120.0, 240.0]), np.array([False, True, False, True]), ["s"] * 4)
    steps = dict(zip(curve.times.tolist(), curve.share.tolist(), strict=True))
    assert steps[60.0] == pytest.approx(0.75)
    assert steps[120.0] == pytest.approx(0.375)
    assert np.all(curve.low <= curve.share)
    assert np.all(curve.high >= curve.share)


def test_nobody_arrived_is_a_flat_line() -> None:
    curve = statistics.survival(np.full(5, 600.0), np.ones(5, bool), ["s"] * 5)
    assert set(curve.share) == {1.0}
    assert curve.events == 0


@pytest.mark.parametrize(
    ("value", "text"), [(0, "0"), (12.0, "12"), (0.12345, "0.123"), (1234.5, "1\u202f234"), (-3.14159, "-3.14"),
                        (2.5e9, "2.50e+09"), (float("nan"), "-")],
)  # fmt: skip
def test_numbers_read_well(value: float, text: str) -> None:
    assert number(value) == text


def test_an_interval_that_is_a_point_is_written_once() -> None:
    assert interval(Interval(2.0, 2.0, 2.0)) == "2"
    assert interval(Interval(2.0, 1.0, 3.5)) == "2 [1, 3.50]"


def sentences(values: dict[str, list[float]], baseline: str) -> list[str]:
    designs = {"hotspot_seconds": design_of(values)}
    moves = {name: [float(index + 1)] * len(series) for index, (name, series) in enumerate(values.items())}
    designs["migrations"] = statistics.blocks(runs_of(moves, metric="migrations"), metrics.get("migrations"))  # type: ignore[arg-type]
    comparisons = {name: statistics.compare(design, baseline) for name, design in designs.items()}
    return answer(designs, comparisons, HOT, baseline)


def test_the_answer_names_the_best_algorithm_and_never_an_end_of_the_scale() -> None:
    first, second, third = sentences(
        {"none": [900.0, 950.0] * 5, "good": [300.0, 310.0] * 5, "bad": [800.0, 820.0] * 5, "oracle": [10.0, 12.0] * 5},
        "none",
    )
    assert first.startswith("By hot spots, good had the best mean: 305")
    assert "against 925 of none" in first
    assert "2 migrations per run, against 1 of none" in second
    assert "10 paired blocks (1 scenario), compared with none: 2 better" in third


def test_the_answer_says_what_cannot_be_told_from_the_best() -> None:
    level = {"a": [300.0, 310.0] * 5, "b": [320.0, 300.0] * 5, "c": [900.0, 910.0] * 5}
    assert sentences(level, "c")[0].endswith(" Not to be told from it: b.")
    assert "Not to be told" not in sentences({"a": [300.0, 310.0] * 5, "c": [900.0, 910.0] * 5}, "c")[0]


def test_the_answer_of_one_algorithm_compares_nothing() -> None:
    first, second, third = sentences({"a": [300.0, 310.0] * 5}, "a")
    assert first == "Only a took part; by hot spots it reached 305 [302, 308] node-seconds above 80 % per run."
    assert second == "It took 1 migration per run."
    assert third.startswith("Over 10 paired blocks (1 scenario); intervals")


def test_the_answer_says_for_whom_its_metric_is_not_defined() -> None:
    runs = runs_of({"none": [None] * 6, "a": [60.0] * 6, "b": [90.0] * 6}, metric="time_to_converge_seconds")
    runs["cycles"] = np.where(runs["label"] == "none", 0, 30)
    metric = metrics.get("time_to_converge_seconds")
    design = statistics.blocks(runs, metric)
    comparisons = {metric.name: statistics.compare(design, "a")}
    assert answer({metric.name: design}, comparisons, metric, "a")[2].endswith(
        "time to converge is not defined for none."
    )


def test_the_answer_names_no_long_list() -> None:
    many = {f"a{index}": [900.0 - index] * 6 for index in range(8)}
    assert "nothing beats 8 of the 8" in sentences(many, "a0")[1]


def test_the_answer_owns_up_to_too_few_runs() -> None:
    third = sentences({"none": [900.0], "good": [300.0]}, "none")[2]
    assert "1 paired block (1 scenario): too few for any test" in third


def test_every_default_metric_is_a_key_of_the_summary() -> None:
    summary = analysis.summarize(example_tables(), lab_seconds=1200.0)
    missing = [name for name in itertools.chain(metrics.METRICS) if name not in summary]
    assert missing == []
