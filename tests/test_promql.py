"""Expressions over arrays: semantics worked out by hand, labels resolved once, results that never vary."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from labkit.errors import RuleError
from labkit.promql import Database, Expression, LabelTable
from labkit.promql.summation import kahan_mean, kahan_sum

NODES = LabelTable.of({"instance": name} for name in ("a", "b", "c"))
ONE = LabelTable.of([{"instance": "a"}])


def history(*samples: tuple[float, float], name: str = "x") -> Database:
    """Return one series with samples at (seconds, value)."""
    database = Database()
    for time, value in samples:
        database.append(time, name, ONE, np.array([value]))
    return database


def value(database: Database, expr: str, time: float) -> float | None:
    """Return the only sample, None where there is none."""
    samples = list(Expression.compile(expr).instant(database, time).samples().values())
    assert len(samples) <= 1
    return samples[0] if samples else None


COUNTER = ((0.0, 100.0), (15.0, 109.0), (30.0, 118.0), (45.0, 127.0), (60.0, 136.0))

BY_HAND = {
    # (0, 60]: four samples, 27 in 45 s; 15 s to the start are less than 1.1 gaps: stretched to 60 s.
    "rate": ("rate(x[1m])", 60.0, 36.0 / 60.0),
    "increase": ("increase(x[1m])", 60.0, 36.0),
    # (−15, 60] holds the sample at 0 too: 36 in 60 s, and 15 s more to the start.
    "left-open": ("increase(x[75s])", 60.0, 45.0),
    # At 70 s, (10, 70]: 27 in 45 s, 5 s to the start and 10 s to the end.
    "stretched to both ends": ("increase(x[1m])", 70.0, 36.0),
    # At 95 s, (35, 95]: 9 in 15 s, 10 s to the start; 35 s to the end are too far: half a gap.
    "far end": ("increase(x[1m])", 95.0, 9.0 * (15.0 + 10.0 + 7.5) / 15.0),
    # At 300 s, (0, 300]: 27 in 45 s; 15 s to the start, half a gap to the end.
    "far end of a long window": ("increase(x[5m])", 300.0, 27.0 * (45.0 + 15.0 + 7.5) / 45.0),
    "one sample is no rate": ("rate(x[1m])", 115.0, None),
    "no sample": ("rate(x[1m])", 500.0, None),
    "delta": ("delta(x[1m])", 60.0, 36.0),
    "offset": ("increase(x[1m] offset 30s)", 90.0, 36.0),
    "average of four": ("avg_over_time(x[1m])", 60.0, 122.5),
    "look-back": ("x", 359.999, 136.0),
    "look-back is left-open": ("x", 360.0, None),
    "quantile between two": ("quantile_over_time(0.5, x[1m])", 60.0, 122.5),
    "standard deviation": ("stddev_over_time(x[1m])", 60.0, math.sqrt(101.25)),
}


@pytest.mark.parametrize(("expr", "time", "wanted"), BY_HAND.values(), ids=BY_HAND)
def test_windows_give_what_the_definition_gives(expr: str, time: float, wanted: float | None) -> None:
    found = value(history(*COUNTER), expr, time)
    assert found == (None if wanted is None else pytest.approx(wanted, rel=1e-12))


def test_counter_reset_is_added_back() -> None:
    # 10 → 16 (+6), reset to 2 (+2), 2 → 5 (+3): 11 in 45 s, stretched by 15 s to 60 s.
    database = history((15.0, 10.0), (30.0, 16.0), (45.0, 2.0), (60.0, 5.0))
    assert value(database, "increase(x[1m])", 60.0) == pytest.approx(11.0 * 60.0 / 45.0)
    assert value(database, "delta(x[1m])", 60.0) == pytest.approx(-5.0 * 60.0 / 45.0)


def test_counter_is_not_stretched_below_zero() -> None:
    # From 1 to 31 in 45 s: zero lies 1.5 s before the first sample, so the stretch ends there.
    database = history((15.0, 1.0), (30.0, 11.0), (45.0, 21.0), (60.0, 31.0))
    assert value(database, "increase(x[1m])", 60.0) == pytest.approx(30.0 * 46.5 / 45.0)


def test_series_with_gaps_end_and_start_at_their_own_samples() -> None:
    database = Database()
    for step, present in enumerate(([True, True], [True, False], [True, True], [True, False], [False, True])):
        table = LabelTable.of([{"instance": "a"}, {"instance": "b"}])
        database.append(15.0 * step, "x", table, np.array([step, 2.0 * step]), present=np.array(present))
    found = Expression.compile("count_over_time(x[1m])").instant(database, 60.0).values.tolist()
    assert found == [3.0, 2.0]
    # b has 4 at 30 s and 8 at 60 s: 4 in 30 s; the start is 30 s away, less than 1.1 gaps.
    increases = Expression.compile("increase(x[1m])").instant(database, 60.0).values
    assert increases[1] == pytest.approx(4.0 * (30.0 + 30.0) / 30.0)


@given(hnp.arrays(np.float64, st.tuples(st.integers(1, 40), st.integers(1, 4)), elements=st.floats(-1e6, 1e6)))
def test_sums_equal_the_step_by_step_algorithm_bit_for_bit(values: np.ndarray) -> None:
    totals = kahan_sum(values)
    means = kahan_mean(values, np.full(values.shape[1], float(len(values))))
    for column, samples in enumerate(values.T.tolist()):
        total, error = samples[0], 0.0
        for sample in samples[1:]:
            new = total + sample
            error += (total - new) + sample if abs(total) >= abs(sample) else (sample - new) + total
            total = new
        assert totals[column] == total + error
        assert means[column] == total / len(samples) + error / len(samples)


def test_sum_keeps_what_naive_addition_loses() -> None:
    values = np.array([[1.0], [1e100], [1.0], [-1e100]])
    assert kahan_sum(values).tolist() == [2.0]


def test_mean_does_not_overflow() -> None:
    values = np.full((3, 1), 1.7e308)
    with np.errstate(all="ignore"):
        assert kahan_mean(values, np.array([3.0])).tolist() == pytest.approx([1.7e308])


def test_infinite_samples_stay_infinite() -> None:
    values = np.array([[1.0], [math.inf], [2.0]])
    with np.errstate(all="ignore"):
        assert kahan_sum(values).tolist() == [math.inf]
        assert kahan_mean(values, np.array([3.0])).tolist() == [math.inf]


def test_equal_nodes_have_no_deviation_at_all() -> None:
    database = Database()
    database.append(0.0, "x", NODES, np.full(3, 0.1))
    assert value(database, "stddev(x)", 0.0) == 0.0


def test_tables_with_the_same_rows_are_the_same_table() -> None:
    again = LabelTable.of([{"instance": "a"}, (("instance", "b"),), {"instance": "c", "gone": ""}])
    assert again is NODES
    with pytest.raises(ValueError, match="same label set twice"):
        LabelTable.of([{"a": "b"}, {"a": "b", "c": ""}])


def test_result_shares_no_memory_with_the_database() -> None:
    database = history((0.0, 1.0))
    found = Expression.compile("x").instant(database, 0.0)
    found.values[:] = 7.0
    assert value(database, "x", 0.0) == 1.0


def test_scalar_expression_gives_one_sample_without_labels() -> None:
    expression = Expression.compile("1 + 2 * time()")
    assert expression.is_scalar
    assert expression.instant(Database(), 10.5).samples() == {(): 22.0}


def test_range_gives_one_column_for_each_series_that_occurs() -> None:
    database = Database()
    database.append(0.0, "x", NODES, np.array([1.0, 5.0, 2.0]))
    database.append(15.0, "x", NODES, np.array([6.0, 0.0, 2.0]))
    found = Expression.compile("x > 3").range(database, 0.0, 20.0, 15.0)
    assert found.times_seconds.tolist() == [0.0, 15.0]
    assert found.table.column("instance") == ("a", "b")
    assert found.present.tolist() == [[False, True], [True, False]]
    assert found.values[found.present].tolist() == [5.0, 6.0]


def test_range_needs_a_step() -> None:
    with pytest.raises(RuleError, match="wanted a step above 0, found 0 s"):
        Expression.compile("x").range(Database(), 0.0, 1.0, 0.0)


def test_sample_out_of_order_is_refused() -> None:
    database = history((15.0, 1.0))
    with pytest.raises(ValueError, match="x: a sample at 0 ms comes after one at 15000 ms"):
        database.append(0.0, "x", ONE, np.array([1.0]))


MANY = {
    "many on both sides": ("x * on () y", "found duplicate series for the match group {} on the right"),
    "many to one unsaid": ("x * on () max(y)", "multiple matches for labels"),
    "group_left whose labels collide": (
        "x * on () group_left (instance) max(y)",
        "vector cannot contain metrics with the same labelset",
    ),
    "names dropped": ('{__name__=~"x|y"} * 2', "vector cannot contain metrics with the same labelset"),
}


@pytest.mark.parametrize(("expr", "message"), MANY.values(), ids=MANY)
def test_ambiguous_matches_are_refused(expr: str, message: str) -> None:
    database = Database()
    for name in ("x", "y"):
        database.append(0.0, name, NODES, np.arange(3.0))
    with pytest.raises(RuleError, match=message):
        Expression.compile(expr).instant(database, 0.0)


@pytest.mark.parametrize("pattern", [r"(?=a)", r"(a)\1", "[[:alpha:]]", "a++", "(?<n>a)", "a(", r"\pL"])
def test_pattern_that_go_and_python_read_differently_is_refused(pattern: str) -> None:
    quoted = pattern.replace("\\", "\\\\")
    with pytest.raises(RuleError, match="is not understood"):
        Expression.compile(f'label_replace(x, "a", "", "b", "{quoted}")')


@pytest.mark.parametrize("pattern", [r"\++", "[*+]", r"(.+):\d+", "(?i)A|b{2,3}?", r"\\\\1"])
def test_pattern_that_both_read_alike_is_taken(pattern: str) -> None:
    quoted = pattern.replace("\\", "\\\\")
    assert Expression.compile(f'label_replace(x, "a", "", "b", "{quoted}")').selectors[0].name == "x"


def test_label_replace_needs_a_label() -> None:
    with pytest.raises(RuleError, match="wanted the name of a label as second argument"):
        Expression.compile('label_replace(x, "", "", "b", "")')


def test_topk_keeps_the_first_of_equals_and_lists_the_best_first() -> None:
    database = Database()
    database.append(0.0, "x", NODES, np.array([1.0, 2.0, 2.0]))
    found = Expression.compile("topk(2, x)").instant(database, 0.0)
    assert found.table.column("instance") == ("b", "c")
    assert Expression.compile("bottomk(1, x)").instant(database, 0.0).table.column("instance") == ("a",)


SERIES = tuple({"instance": name} for name in "abcd")
APPENDS = st.lists(
    st.tuples(
        st.integers(0, 3).map(lambda n: 15.0 * n),  # time since the append before; 0 adds to the same instant
        st.permutations(range(4)).flatmap(lambda order: st.integers(1, 4).map(lambda n: order[:n])),
        st.lists(st.sampled_from("ppp-s"), min_size=4, max_size=4),  # present, nothing, stale
        st.booleans(),  # whether the newest samples are asked for right after
    ),
    max_size=60,
)


@given(APPENDS, st.sampled_from([None, 60.0]))
def test_newest_samples_are_those_of_a_plain_record(
    appends: list[tuple[float, list[int], list[str], bool]], retention: float | None
) -> None:
    database = Database(retention_seconds=retention, lookback_seconds=60.0)
    expression = Expression.compile("x")
    record: dict[int, list[tuple[float, float | None]]] = {}
    time = 0.0
    for number, (passed, order, kinds, asked) in enumerate(appends):
        time += passed
        chosen = [kinds[series] for series in order]
        database.append(
            time,
            "x",
            LabelTable.of(SERIES[series] for series in order),
            np.full(len(order), float(number)),
            present=np.array([kind == "p" for kind in chosen]),
            stale=np.array([kind == "s" for kind in chosen]),
        )
        for series, kind in zip(order, chosen, strict=True):
            if kind != "-":
                record.setdefault(series, []).append((time, float(number) if kind == "p" else None))
        if asked:
            for at in (time, time + 30.0, max(time - 15.0, 0.0)) if retention is None else (time, time + 59.0):
                wanted = {}
                for series, entries in record.items():
                    before = [entry for entry in entries if entry[0] <= at]
                    if before and before[-1][0] > at - 60.0 and before[-1][1] is not None:
                        wanted["abcd"[series]] = before[-1][1]
                found = expression.instant(database, at).samples()
                assert {dict(labels)["instance"]: value for labels, value in found.items()} == wanted


def test_order_of_series_does_not_change_the_result() -> None:
    rng = np.random.default_rng(7)
    values = rng.random(200)
    rows = [{"instance": f"n{number:03}"} for number in range(200)]
    shuffled = rng.permutation(200)
    one, other = Database(), Database()
    one.append(0.0, "x", LabelTable.of(rows), values)
    other.append(0.0, "x", LabelTable.of(rows[n] for n in shuffled), values[shuffled])
    expression = Expression.compile("x - on () group_left () avg(x)")
    first, second = (expression.instant(database, 0.0).samples() for database in (one, other))
    assert first.keys() == second.keys()
    assert max(abs(first[row] - second[row]) for row in first) < 1e-15
