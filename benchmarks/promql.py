"""The compiler: the shipped rules over nodes whose load changes at every scrape.

What is timed is one evaluation of the group at one instant, its records written back; the scrape that precedes it is
not. The first evaluation is a row of its own: it resolves which labels meet, which later ones reuse. Evaluations are
counted in processor seconds of their only thread: what else the machine does is no property of the compiler.
"""

from __future__ import annotations

import time

import numpy as np

from benchmarks._rows import Row, timed
from labkit.datafiles import data_path
from labkit.errors import RuleError
from labkit.promql import Database, LabelTable, RuleGroup, load_rules
from labkit.promql.rewrite import scale_windows
from labkit.scoring import SCORER_METRIC
from labkit.scoring.history import History

TITLE = "promql, the shipped rules at one instant"
GOAL_SECONDS = 0.020
STEP_SECONDS = 15.0
WARM_UP, REPEATS = 45, 20
PRODUCTION = "descheduler:node:linear_amplified_ideal_point_positive_distance:k3:avg1m"


def measure() -> list[Row]:
    """Measure evaluations of the whole group and of one score's part of it, small and large, and compiling."""
    path = data_path("rules", "scores.yaml")
    group = load_rules(path)
    part = group.needed_for(PRODUCTION)
    rows = []
    for n_nodes in (5, 1_000):
        for what, rules in (("all", group), ("k3:avg1m", part)):
            first, later = evaluations(rules, n_nodes)
            size = f"{what}: {len(rules.rules)} rules, {n_nodes} nodes"
            rows.append(Row(f"{size}, first evaluation", (first,)))
            rows.append(Row(size, later, goal=GOAL_SECONDS if n_nodes == 1_000 else None))
    rows.append(timed("reading and compiling the file", lambda: load_rules(path)))
    rows.append(timed("rewriting it for tempo 15", lambda: [scale_windows(rule.expr, 15) for rule in group.rules]))
    return rows


def evaluations(group: RuleGroup, n_nodes: int) -> tuple[float, tuple[float, ...]]:
    """Return the seconds of the first evaluation, and of the last ones of a history longer than any window."""
    rng = np.random.default_rng(n_nodes)
    instants = WARM_UP + REPEATS
    nodes = tuple(f"node-{number:04}" for number in range(n_nodes))
    history = History(
        nodes,
        rng.random((instants, n_nodes, 4)).round(4),
        STEP_SECONDS,
        evictions=np.cumsum(rng.random((instants, n_nodes)) < 0.01, axis=0),
    )
    members: dict[str, list[dict[str, str]]] = {}
    values: dict[str, list[np.ndarray]] = {}
    for series in history.series():
        name = series.labels["__name__"]
        members.setdefault(name, []).append(dict(series.labels))
        values.setdefault(name, []).append(series.values)
    for form in ("score", "avg1m"):
        labels = {"algorithm": "pareto_front", "form": form}
        members.setdefault(SCORER_METRIC, []).extend({**labels, "instance": node} for node in nodes)
        values.setdefault(SCORER_METRIC, []).extend(rng.random((n_nodes, instants)))
    tables = {name: LabelTable.of(rows) for name, rows in members.items()}
    columns = {name: np.ascontiguousarray(np.stack(rows).T) for name, rows in values.items()}
    database = Database(retention_seconds=group.history_seconds())
    seconds = []
    for instant in range(instants):
        for name, table in tables.items():
            database.append(instant * STEP_SECONDS, name, table, columns[name][instant], source="scrape")
        start = time.thread_time()
        failures = group.evaluate(database, instant * STEP_SECONDS)
        seconds.append(time.thread_time() - start)
        if failures:
            raise RuleError(f"rule {failures[0].record}: {failures[0].message}")
    return seconds[0], tuple(seconds[WARM_UP:])
