"""The rules, the compiler and the reference agree; and each rule is one that a mistake would be found in."""

from __future__ import annotations

import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from labkit import agreement
from labkit.cluster import tools
from labkit.datafiles import data_path
from labkit.errors import ToolError
from labkit.model import Snapshot
from labkit.names import BASE_RECORDS, DIMENSIONS, MINUTE_RECORDS
from labkit.promql import Database, Expression, LabelTable, Rule, RuleGroup, load_rules
from labkit.scoring import BUILT_IN, FORMS, NINETEEN
from labkit.scoring.history import GAUGES, History, Series, gated
from labkit.scoring.pareto import pareto_front

RULES = data_path("rules", "scores.yaml")
GROUP = load_rules(RULES)
SEEDS = {1: 1, 2: 2, 3: 3, 4: 5, 5: 8, 6: 12}
"""Number of nodes by seed."""


@pytest.fixture(scope="module")
def promtool(request: pytest.FixtureRequest) -> Path:
    try:
        return tools.find("promtool")
    except ToolError as error:
        if request.config.getoption("--live"):
            raise
        pytest.skip(str(error))


@pytest.fixture
def rules_file(tmp_path: Path) -> Path:
    target = tmp_path / "scores.groups.yaml"
    agreement.write_groups(target)
    return target


ratios = st.one_of(st.sampled_from([0.0, 1.0, 0.7]), st.integers(0, 10_000).map(lambda number: number / 10_000))


@st.composite
def histories(draw: st.DrawFn) -> History:
    """Draw loads with ties, zeros and ones, lost scrapes of single series, restarts and evictions."""
    nodes, instants = draw(st.integers(1, 4)), draw(st.integers(1, 8))
    names = tuple(f"n{index}" for index in range(nodes))
    load = draw(hnp.arrays(np.float64, (instants, nodes, 4), elements=ratios, fill=ratios))
    scraped = draw(hnp.arrays(np.bool_, load.shape, elements=st.booleans(), fill=st.just(True)))
    restarts = draw(hnp.arrays(np.bool_, (instants, nodes), elements=st.booleans(), fill=st.just(False)))
    evictions = draw(hnp.arrays(np.int64, (instants, nodes), elements=st.integers(0, 3), fill=st.just(0)))
    return History(names, load, 15.0, scraped, restarts, np.cumsum(evictions, axis=0))


@settings(deadline=None, max_examples=20)
@given(history=histories())
def test_compiler_agrees_with_reference(history: History) -> None:
    apart = agreement.differences(agreement.expected(history), agreement.compiled(history, GROUP))
    assert {record: error for record, error in apart.items() if error > agreement.TOLERANCE} == {}


@pytest.mark.parametrize("seed", SEEDS, ids=lambda seed: f"{SEEDS[seed]} nodes")
def test_prometheus_agrees_with_reference(seed: int, promtool: Path, rules_file: Path) -> None:
    history = agreement.random_history(np.random.default_rng(seed), nodes=SEEDS[seed], instants=30)
    document = agreement.promtool_document(
        [history], rules_file, instants=lambda count: (0, 1, 4, count // 2, count - 2, count - 1)
    )
    assert agreement.run_promtool(promtool, document, rules_file.parent) == ""


@pytest.mark.slow
def test_prometheus_agrees_with_reference_on_500_nodes(promtool: Path, rules_file: Path) -> None:
    history = agreement.random_history(np.random.default_rng(0), nodes=500, instants=6)
    document = agreement.promtool_document([history], rules_file, instants=lambda count: (count - 1,))
    assert agreement.run_promtool(promtool, document, rules_file.parent) == ""


def test_worked_sets_through_prometheus(promtool: Path, rules_file: Path) -> None:
    file = rules_file.parent / "scores-test.yaml"
    shutil.copy(Path(__file__).parent / "rules" / "scores-test.yaml", file)
    assert agreement.run_promtool(promtool, yaml.safe_load(file.read_text()), rules_file.parent) == ""


# --- the Pareto front, which the engines share: against PromQL written from its definition ---------------


def front_rules(nodes: tuple[str, ...]) -> list[dict[str, object]]:
    """Write the Pareto front as rules, node by node; they hold where no two loads of a dimension are equal."""
    loads = list(BASE_RECORDS.values())

    def of(record: str, node: str) -> str:
        return f'scalar({record}{{instance="{node}"}})'

    def among(front_mates: str, values: str) -> str:
        """Unite, over all nodes j of a node's front, values that depend on j; written with J for its name."""
        parts = []
        for node in nodes:
            mates = f"{values} and on (instance) (t:front == {of('t:front', node)}){front_mates}".replace("J", node)
            parts.append(f'label_replace({mates}, "j", "{node}", "", "")')
        return " or ".join(parts)

    rules: list[dict[str, object]] = []
    for node in nodes:
        no_more = " * ".join(f"({load} >= bool {of(load, node)})" for load in loads)
        less = " + ".join(f"({load} > bool {of(load, node)})" for load in loads)
        rules.append({"record": "t:dominated", "labels": {"j": node}, "expr": f"{no_more} * (({less}) > bool 0)"})
    rules.append({"record": "t:chain0", "expr": f"{loads[0]} * 0"})
    for step in range(1, len(nodes)):
        longer = " or ".join(f't:dominated{{j="{node}"}} * ({of(f"t:chain{step - 1}", node)} + 1)' for node in nodes)
        rules.append({"record": f"t:chain{step}", "expr": f"max by (instance) ({longer})"})
    rules.append({"record": "t:front", "expr": f"t:chain{len(nodes) - 1}"})
    for number, load in enumerate(loads):
        value = f'({load} * 0 + scalar({load}{{instance="J"}}))'
        there = f'scalar({load}{{instance="J"}})'
        for record, reduction, mates in (
            ("next", "min", f" and on (instance) ({load} < {there})"),
            ("last", "max", f" and on (instance) ({load} > {there})"),
            ("most", "max", ""),
            ("least", "min", ""),
        ):
            expr = f"{reduction} by (instance) ({among(mates, value)})"
            rules.append({"record": f"t:{record}{number}", "expr": expr})
    gaps = " + ".join(f"(t:next{k} - t:last{k}) / (t:most{k} - t:least{k})" for k in range(4))
    rules.append({"record": "t:crowding", "expr": gaps})
    mates = among("", '(t:front * 0 + on () group_left () t:crowding{instance="J"})')
    rules.append({"record": "t:crowding_most", "expr": f"max by (instance) ({mates})"})
    rules.append({"record": "t:share", "expr": "t:front / on () group_left () (max(t:front) > 0) or t:front * 0"})
    crowded = "t:share + 0.1 * (1 - t:crowding / t:crowding_most)"
    rules.append({"record": "t:score", "expr": f"clamp_max({crowded} or t:share, 1)"})
    return rules


def five_nodes(seed: int) -> Snapshot:
    """Draw five nodes with distinct loads; every other draw trades two dimensions for the others."""
    rng = np.random.default_rng(seed)
    load = rng.random((5, 4)).round(4)
    if seed % 2:
        load = np.sort(load, axis=0)
        load[:, 2:] = load[::-1, 2:]
    if seed % 4 == 3:
        load[4] = 0.5 + load[4] / 2
    return Snapshot.of([f"n{index}" for index in range(5)], load)


def test_front_agrees_with_promql_written_from_the_definition(promtool: Path, rules_file: Path) -> None:
    snapshots = [five_nodes(seed) for seed in range(24)]
    assert any(((score > 0.0) & (score <= 0.1)).any() for score in map(pareto_front, snapshots)), "no crowding tried"
    groups = yaml.safe_load(rules_file.read_text())
    groups["groups"][0]["rules"] += front_rules(snapshots[0].nodes)
    rules_file.write_text(yaml.safe_dump(groups))
    tests = [
        {
            "interval": "15s",
            "input_series": [
                *(
                    {"series": f'{GAUGES[dimension]}{{instance="{node}"}}', "values": repr(float(load[column]))}
                    for node, load in zip(snapshot.nodes, snapshot.load_ratio, strict=True)
                    for column, dimension in enumerate(DIMENSIONS)
                ),
                *(
                    {"series": f'expected{{name="t:score", instance="{node}"}}', "values": repr(value)}
                    for node, value in zip(snapshot.nodes, pareto_front(snapshot).tolist(), strict=True)
                ),
            ],
            "promql_expr_test": [
                {"expr": agreement.must_be_empty("t:score"), "eval_time": "0s", "exp_samples": []},
            ],
        }
        for snapshot in snapshots
    ]
    document = {"rule_files": [str(rules_file)], "evaluation_interval": "15s", "tests": tests}
    assert agreement.run_promtool(promtool, document, rules_file.parent) == ""


# --- a test that cannot fail proves nothing ----------------------------------------------------------


def mutants(expr: str) -> list[str]:
    """Return wrong versions of an expression; a good test notices at least one."""
    for right, wrong in (
        ("== 4", "== 3"),
        ('role="worker"', 'role="none"'),
        ("== on () group_left ()", "< on () group_left ()"),
    ):
        if right in expr:
            return [expr.replace(right, wrong)]
    if expr.startswith("round(avg") or expr.startswith("round(\n"):
        # Only its rank among the dimensions matters: make it the first, or the last.
        return [f"({expr}) + 10", f"({expr}) - 10"]
    return [f"({expr}) * 0.99 + 0.001"]


@pytest.fixture(scope="module")
def observed() -> tuple[History, tuple[Series, ...], list[agreement.Values]]:
    history = agreement.random_history(np.random.default_rng(12), nodes=9, instants=8)
    return history, agreement.inputs(history), agreement.expected(history)[-1:]


def _id(rule: Rule) -> str:
    return rule.record + "".join(f" {value}" for value in rule.labels.values())


@pytest.mark.parametrize("number", range(len(GROUP.rules)), ids=[_id(rule) for rule in GROUP.rules])
def test_mistake_in_a_rule_is_noticed(
    number: int, observed: tuple[History, tuple[Series, ...], list[agreement.Values]]
) -> None:
    history, series, wanted = observed
    noticed = []
    for expr in mutants(GROUP.rules[number].expr):
        changed = replace(GROUP.rules[number], expression=Expression.compile(expr))
        rules = (*GROUP.rules[:number], changed, *GROUP.rules[number + 1 :])
        group = RuleGroup(GROUP.name, GROUP.interval_seconds, rules)
        apart = agreement.differences(wanted, agreement.compiled(history, group, series=series, last=True))
        noticed.append(max(apart.values()) > agreement.TOLERANCE)
    assert any(noticed)


@pytest.mark.parametrize(
    "record",
    ["descheduler:node:weighted_mean_square_positive_deviation:score", "descheduler:nodeutilization:memory:avg1m"],
)
def test_promtool_notices_a_mistake(record: str, promtool: Path, rules_file: Path) -> None:
    expr = next(rule.expr for rule in GROUP.rules if rule.record == record)
    agreement.write_groups(rules_file, change=(record, mutants(expr)[0]))
    history = agreement.random_history(np.random.default_rng(12), nodes=9, instants=12)
    document = agreement.promtool_document([history], rules_file, instants=lambda count: (count - 1,))
    assert record in agreement.run_promtool(promtool, document, rules_file.parent)


# --- corners that no random history reaches -----------------------------------------------------------


def evaluated(samples: dict[str, list[tuple[dict[str, str], float]]]) -> dict[str, dict[str, float]]:
    """Evaluate the rules once on samples by metric; return value by record and node."""
    database = Database()
    for name, rows in samples.items():
        table = LabelTable.of([labels for labels, _ in rows])
        database.append(0.0, name, table, np.array([value for _, value in rows]))
    assert GROUP.evaluate(database, 0.0) == ()
    return {
        rule.record: {
            dict(labels).get("instance", ""): value
            for labels, value in Expression.compile(rule.record).instant(database, 0.0).samples().items()
        }
        for rule in GROUP.rules
    }


def gauges(loads: dict[str, tuple[float, ...]], **labels: str) -> dict[str, list[tuple[dict[str, str], float]]]:
    return {
        GAUGES[dimension]: [({"instance": node, **labels}, load[column]) for node, load in loads.items()]
        for column, dimension in enumerate(DIMENSIONS)
    }


def test_node_that_two_jobs_scrape_has_one_score() -> None:
    loads = {"a": (0.2, 0.0, 0.2, 0.0), "b": (0.8, 0.0, 0.4, 0.0)}
    once, twice = gauges(loads, job="one"), gauges(loads, job="two")
    both = evaluated({name: once[name] + twice[name] for name in once})
    assert both["descheduler:node:weighted_average:score"] == pytest.approx({"a": 0.1, "b": 0.3})


def test_load_above_one_counts_as_one() -> None:
    found = evaluated(gauges({"a": (1.5, 0.0, 0.0, 0.0), "b": (0.0,) * 4}))
    assert found["descheduler:node:cpu_usage:ratio"]["a"] == 1.0
    assert found["descheduler:cluster:cpu_usage:avg"] == {"": 0.5}


@pytest.mark.parametrize("value", [-0.1, np.nan], ids=["negative", "NaN"])
def test_node_with_an_impossible_load_has_no_score_and_shifts_nobody(value: float) -> None:
    found = evaluated(gauges({"a": (0.2,) * 4, "b": (0.4,) * 4, "broken": (0.9, value, 0.9, 0.9)}))
    assert found["descheduler:cluster:cpu_usage:avg"][""] == pytest.approx(0.3)
    for algorithm in NINETEEN:
        assert "broken" not in found[algorithm.records["score"]]


def test_front_of_a_node_without_load_is_no_score() -> None:
    samples = gauges({"a": (0.2,) * 4})
    samples["lab_node_score"] = [
        ({"algorithm": "pareto_front", "form": "score", "instance": node}, 0.0) for node in ("a", "gone")
    ]
    assert evaluated(samples)["descheduler:node:pareto_front:score"] == {"a": 0.0}


@pytest.mark.parametrize("load", [(0.0,) * 4, (1.0,) * 4, (0.3, 0.1, 0.2, 0.0)], ids=["idle", "full", "some"])
@pytest.mark.parametrize("nodes", [1, 2, 7])
def test_equal_nodes_through_the_rules(load: tuple[float, ...], nodes: int) -> None:
    found = evaluated(gauges({f"n{index}": load for index in range(nodes)}))
    for algorithm in NINETEEN:
        if algorithm.computed_by == "rule":
            values = found[algorithm.records["score"]]
            assert len(values) == nodes
            assert len(set(values.values())) == 1
            assert all(0.0 <= value <= 1.0 for value in values.values())


def test_missing_scrapes_never_change_what_a_steady_load_looks_like() -> None:
    nodes = Snapshot.of(["idle", "busy", "hot"], [(0.1, 0.01, 0.4, 0.0), (0.6, 0.05, 0.6, 0.1), (0.9, 0.2, 0.8, 0.15)])
    history = History.constant(nodes, duration_seconds=600, step_seconds=15)
    scraped = np.ones(history.load_ratio.shape, dtype=np.bool_)
    scraped[6:14] = False  # Prometheus and the exporter away for two minutes
    scraped[20] = scraped[24] = scraped[25] = scraped[27] = False
    scraped[:30, 2] = False  # a node that joins late
    found = agreement.compiled(replace(history, scraped=scraped), GROUP)
    for column, dimension in enumerate(DIMENSIONS):
        values = [value for each in found for value in each[MINUTE_RECORDS[dimension]].items()]
        assert {node for node, _ in values} == set(nodes.nodes)
        for node, value in values:
            assert value == pytest.approx(gated(nodes).load_ratio[nodes.nodes.index(node), column], abs=1e-9)


def test_cluster_without_nodes_has_no_scores() -> None:
    assert all(values == {} for values in evaluated({}).values())


def test_node_that_is_no_worker_is_scored_against_the_workers() -> None:
    workers = History.constant(
        Snapshot.of(["w1", "w2"], [(0.2, 0.0, 0.2, 0.0), (0.4, 0.0, 0.4, 0.0)]), duration_seconds=90, step_seconds=15
    )
    other = History.constant(Snapshot.of(["m1"], [(0.9, 0.0, 0.9, 0.0)]), duration_seconds=90, step_seconds=15)
    series = [*workers.series(), *(each for each in other.series() if each.labels["__name__"] != "kube_node_role")]
    database = Database()
    for instant, time in enumerate(workers.times_seconds.tolist()):
        for each in series:
            table = LabelTable.of([dict(each.labels)])
            database.append(time, each.labels["__name__"], table, each.values[[instant]])
    GROUP.evaluate(database, 90.0)
    mean = Expression.compile("descheduler:averageworkersutilization:cpu:avg1m").instant(database, 90.0).samples()
    assert list(mean.values()) == pytest.approx([0.3])
    above = Expression.compile("descheduler:nodeutilization:cpu:avg1m:positivedeviation").instant(database, 90.0)
    by_node = {dict(labels)["instance"]: value for labels, value in above.samples().items()}
    assert by_node == pytest.approx({"w1": 0.0, "w2": 0.1, "m1": 0.6})


# --- the file itself ----------------------------------------------------------------------------------


def test_every_algorithm_has_its_records() -> None:
    records = set(GROUP.records)
    for algorithm in BUILT_IN:
        assert set(algorithm.records.values()) <= records
    assert {record for form in (BASE_RECORDS, MINUTE_RECORDS) for record in form.values()} <= records


def test_rules_are_one_group_with_a_comment_each() -> None:
    text = RULES.read_text()
    document = yaml.safe_load(text)
    assert (document["kind"], document["metadata"]["name"], document["metadata"]["namespace"]) == (
        "PrometheusRule",
        "descheduler-algorithms",
        "monitoring",
    )
    assert len(document["spec"]["groups"]) == 1
    assert len(re.findall(r"^        # .*\n        - record:", text, re.MULTILINE)) == len(GROUP.rules)


@pytest.mark.parametrize("form", FORMS)
def test_last_load_record_is_written_after_the_others(form: str) -> None:
    # The scorer takes its time as the time of all four.
    records = list((BASE_RECORDS if form == "score" else MINUTE_RECORDS).values())
    places = {record: GROUP.records.index(record) for record in records}
    assert max(places, key=lambda record: places[record]) == records[-1]
