"""Rule files: loading, dependencies, evaluation in order, staleness, messages."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest

from labkit.datafiles import data_path
from labkit.errors import RuleError
from labkit.promql import Database, Expression, LabelTable, load_rules, parse_rules

NODES = LabelTable.of({"instance": name} for name in ("a", "b", "c"))


def rules(*lines: str) -> str:
    """Return a rule file from ``record: expression`` lines."""
    body = "".join(
        f"      - record: {record}\n        expr: {expr}\n" for record, expr in (line.split(" = ") for line in lines)
    )
    return f"groups:\n  - name: g\n    interval: 15s\n    rules:\n{body}"


def test_rules_see_what_earlier_rules_wrote_at_the_same_instant() -> None:
    group = parse_rules(rules("first = x * 2", "second = first + 1"))
    database = Database()
    database.append(15.0, "x", NODES, np.array([1.0, 2.0, 3.0]))
    assert group.evaluate(database, 15.0) == ()
    found = Expression.compile("second").instant(database, 15.0)
    assert found.values.tolist() == [3.0, 5.0, 7.0]
    assert found.table.rows[0] == (("__name__", "second"), ("instance", "a"))


BASE_METRICS = {
    "node_cpu_usage_ratio": {},
    "node_cpu_pressure_psi": {},
    "node_memory_usage_ratio": {},
    "node_memory_pressure_psi": {},
    "node_cpu_seconds_total": {"mode": "idle"},
    "node_pressure_cpu_waiting_seconds_total": {},
    "node_pressure_memory_waiting_seconds_total": {},
    "node_memory_MemAvailable_bytes": {},
    "kube_node_status_allocatable": {"resource": "memory", "unit": "byte"},
    "kube_node_role": {"role": "worker"},
}


def scraped(seed: int, nodes: int, *, gaps: bool) -> list[tuple[float, str, LabelTable, np.ndarray, np.ndarray | None]]:
    """Return 24 scrapes of the exporter's metrics; with gaps, nodes come and go and a counter is reset."""
    rng = np.random.default_rng(seed)
    found = []
    for number, (name, labels) in enumerate(BASE_METRICS.items()):
        table = LabelTable.of({"instance": f"n{i}", "node": f"n{i}", "job": "exporter", **labels} for i in range(nodes))
        total = np.zeros(nodes)
        for step in range(24):
            if name.endswith("_total"):
                total = total + rng.uniform(0, 15, nodes)
                values = np.where(np.arange(nodes) == step - 15, 1.0, total) if gaps else total
            elif name == "kube_node_role":
                values = np.ones(nodes)
            else:
                values = rng.uniform(0.1, 0.9, nodes) * (1e9 if "emory_Mem" in name else 1.0)
                values = np.full(nodes, 1e9) if "allocatable" in name else values
            present = rng.uniform(size=nodes) > 0.1 if gaps and step in (6, 7, 13, number + 10) else None
            found.append((15.0 * step, name, table, values, present))
    return sorted(found, key=lambda each: each[0])


@pytest.mark.parametrize("gaps", [False, True], ids=["all there", "gaps"])
@pytest.mark.parametrize("lengths", [(4,) * 6, (1, 2, 3, 5, 13), (16, 8)], ids=str)
def test_a_stretch_gives_what_its_instants_give_bit_for_bit(gaps: bool, lengths: tuple[int, ...]) -> None:
    group = load_rules(data_path("rules", "scores.yaml"))
    # Rules that read what is written later are the pareto front's, through the scorer, and never in a stretch.
    scrapes = scraped(1, 5, gaps=gaps)
    one, many = Database(retention_seconds=400.0), Database(retention_seconds=700.0)
    for step in range(24):
        for time, name, table, values, present in scrapes:
            if time == 15.0 * step:
                one.append(time, name, table, values, present=present, source="scrape")
        group.evaluate(one, 15.0 * step + 4.0)
    step = 0
    for length in lengths:
        for time, name, table, values, present in scrapes:
            if 15.0 * step <= time < 15.0 * (step + length):
                many.append(time, name, table, values, present=present, source="scrape")
        group.evaluate_stretch(many, [15.0 * number + 4.0 for number in range(step, step + length)])
        step += length
    assert step == 24
    compared = 0
    for record in group.records:
        for number in range(24):
            wanted, found = (
                Expression.compile(record).instant(db, 15.0 * number + 4.0).samples() for db in (one, many)
            )
            assert found == wanted
            compared += len(wanted)
    assert compared > 24 * 5 * 50


def test_rules_that_read_the_instant_before_are_evaluated_one_by_one() -> None:
    group = parse_rules(rules("count = (count or x * 0) + x"))
    one, many = Database(), Database()
    for step in range(4):
        for database in (one, many):
            database.append(15.0 * step, "x", NODES, np.array([1.0, 2.0, 3.0]))
        group.evaluate(one, 15.0 * step)
    group.evaluate_stretch(many, [15.0 * step for step in range(4)])
    for database in (one, many):
        assert Expression.compile("count").instant(database, 45.0).values.tolist() == [4.0, 8.0, 12.0]


def test_series_that_a_rule_no_longer_yields_is_gone_at_once() -> None:
    group = parse_rules(rules("high = x > 1"))
    database = Database()
    database.append(0.0, "x", NODES, np.array([1.0, 2.0, 3.0]))
    group.evaluate(database, 0.0)
    database.append(15.0, "x", NODES, np.array([1.0, 0.0, 3.0]))
    group.evaluate(database, 15.0)
    # Without a staleness marker b's sample of 0 s would still be found within the look-back.
    samples = Expression.compile("high").instant(database, 15.0).samples()
    assert samples == {(("__name__", "high"), ("instance", "c")): 3.0}


def test_scraped_series_that_disappears_is_marked_stale() -> None:
    database = Database()
    database.append(0.0, "x", NODES, np.array([1.0, 2.0, 3.0]), source="scrape")
    fewer = LabelTable.of({"instance": name} for name in ("a", "c"))
    database.append(15.0, "x", fewer, np.array([4.0, 5.0]), source="scrape")
    found = Expression.compile("x").instant(database, 20.0).samples()
    assert list(found.values()) == [4.0, 5.0]


def test_node_that_joins_gets_its_own_column() -> None:
    database = Database()
    database.append(0.0, "x", NODES, np.array([1.0, 2.0, 3.0]), source="scrape")
    more = LabelTable.of({"instance": name} for name in ("new", "b", "a", "c"))
    database.append(15.0, "x", more, np.array([9.0, 2.5, 1.5, 3.5]), source="scrape")
    found = Expression.compile("sum by (instance) (sum_over_time(x[1m]))").instant(database, 15.0).samples()
    assert {labels[0][1]: value for labels, value in found.items()} == {"a": 2.5, "b": 4.5, "c": 6.5, "new": 9.0}


def test_retention_bounds_the_rows_and_keeps_what_windows_need() -> None:
    group = parse_rules(rules("mean = avg_over_time(x[1m])"))
    database = Database(retention_seconds=group.history_seconds(lookback_seconds=30.0), lookback_seconds=30.0)
    assert database.retention_seconds == 60.0
    for step in range(1000):
        database.append(15.0 * step, "x", NODES, np.full(3, float(step)), source="scrape")
        group.evaluate(database, 15.0 * step)
    assert len(database.families["x"].times_ms) < 40
    # The last four samples in (14,925 s, 14,985 s]: 996, 997, 998, 999.
    assert Expression.compile("mean").instant(database, 14985.0).values.tolist() == [997.5] * 3


def test_needed_for_keeps_only_what_a_record_depends_on() -> None:
    group = parse_rules(rules("a = x", "unused = a + y", "b = a * 2", "c = sum(b) + z"))
    needed = group.needed_for("c")
    assert needed.records == ("a", "b", "c")
    assert {selector.name for selector in needed.inputs} == {"x", "z"}
    with pytest.raises(RuleError, match="wanted a record of group g, found 'nothing'"):
        group.needed_for("nothing")


def test_rule_that_fails_writes_nothing_and_the_others_go_on(caplog: pytest.LogCaptureFixture) -> None:
    group = parse_rules(rules("bad = x + on () x", "good = x"))
    database = Database()
    database.append(0.0, "x", NODES, np.ones(3))
    with caplog.at_level(logging.WARNING):
        failures = group.evaluate(database, 0.0)
    assert [failure.record for failure in failures] == ["bad"]
    assert "found duplicate series for the match group {}" in failures[0].message
    assert "rule bad" in caplog.text
    assert set(database.families) == {"x", "good"}


def test_rule_with_two_samples_for_one_label_set_fails() -> None:
    group = parse_rules('groups: [{name: g, rules: [{record: r, expr: x, labels: {instance: "", kind: same}}]}]')
    database = Database()
    database.append(0.0, "x", NODES, np.ones(3))
    (failure,) = group.evaluate(database, 0.0)
    assert '{kind="same"} appears twice' in failure.message


MESSAGES = {
    "unsupported function": (
        rules("ok = x", "r = 1 + predict_linear(x[1m], 60)"),
        r"r\.yaml:8:19: rule r: calls of predict_linear\(\) are not supported; supported are abs, ",
    ),
    "unsupported aggregation": (rules("r = limitk(1, x)"), r"r\.yaml:6:15: rule r: aggregations by limitk"),
    "subquery": (rules("r = max_over_time(x[5m:15s])"), r"r\.yaml:6:30: rule r: subqueries are not supported"),
    "at": (rules("r = x @ end()"), r"r\.yaml:6:17: rule r: @ modifiers are not supported"),
    "syntax": (rules("r = x +"), r"r\.yaml:6:17: rule r: wanted a PromQL expression; invalid promql query"),
    "syntax in the middle": (rules("r = x + y z * 2"), r"r\.yaml:6:21: rule r: wanted a PromQL expression"),
    "bracket": (rules("r = (x + y"), r"r\.yaml:6:15: rule r: wanted a PromQL expression"),
    "unknown function": (rules("r = x + foo(y)"), r"r\.yaml:6:19: .*unknown function with name 'foo'"),
    "types": (rules("r = rate(x)"), r"r\.yaml:6:15: rule r: .*expected type matrix in call to function 'rate'"),
    "empty record": ("groups: [{name: g, rules: [{record: , expr: x}]}]", r"r\.yaml:1: wanted record"),
    "empty expr": ("groups: [{name: g, rules: [{record: r, expr: ''}]}]", r"rule r: .*no expression found"),
    "empty file": ("", r"r\.yaml: wanted a PrometheusRule object or groups of rules"),
    "no record": ("groups: [{name: g, rules: [{expr: x}]}]", r"r\.yaml:1: wanted record"),
    "no groups": ("spec: {}", r"r\.yaml:1: wanted a list of groups"),
    "not yaml": ("groups: [", r"r\.yaml: wanted YAML"),
    "two intervals": (
        "groups: [{name: a, interval: 15s, rules: []}, {name: b, interval: 30s, rules: []}]",
        r"r\.yaml: wanted one interval for all groups, found a 15s, b 30s",
    ),
}


@pytest.mark.parametrize(("text", "message"), MESSAGES.values(), ids=MESSAGES)
def test_message_names_file_rule_and_place(text: str, message: str) -> None:
    with pytest.raises(RuleError, match=message):
        parse_rules(text, source="r.yaml")


def test_place_inside_a_block_of_several_lines() -> None:
    text = (
        "groups:\n- name: g\n  rules:\n  - record: r\n    expr: |\n"
        '      # deriv( in a comment and "deriv(" in a string do not count\n'
        '      x{a="deriv("}\n'
        "        + deriv(x[1m])\n"
    )
    with pytest.raises(RuleError, match=r"r\.yaml:8:11: rule r: calls of deriv"):
        parse_rules(text, source="r.yaml")


def test_missing_file_is_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(RuleError, match="wanted a rule file; No such file or directory"):
        load_rules(tmp_path / "none.yaml")


def test_file_that_is_no_text_is_one_clear_line(tmp_path: Path) -> None:
    path = tmp_path / "rules.yaml"
    path.write_bytes(b"groups: \xff")
    with pytest.raises(RuleError, match="wanted a rule file in UTF-8; invalid start byte at byte 8"):
        load_rules(path)


def test_shipped_rules_compile() -> None:
    group = load_rules(Path(__file__).parent.parent / "rules" / "scores.yaml")
    assert len(group.rules) > 50
