"""How far the engines that compute the scores are apart.

The same histories of load go through Prometheus (``promtool test rules``), through the compiler
(:mod:`labkit.promql`) and through the reference (:mod:`labkit.scoring`, with the windows of time written out here in
plain Python). :func:`expected` is the reference's side; :func:`compiled` and :func:`promtool_document` give the others.

``promtool`` compares to one unit in the last place and stops at 10,000 samples in a query. So expected values go in as
series, the tested expressions must yield nothing, and histories have at most 500 nodes.
"""

from __future__ import annotations

import functools
import re
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import yaml

from labkit.datafiles import data_path
from labkit.errors import ComponentError
from labkit.model import FloatArray, Snapshot
from labkit.names import BASE_RECORDS, DIMENSIONS, MINUTE_RECORDS, NODE_LABEL
from labkit.promql import Database, Expression, LabelTable, RuleGroup
from labkit.scoring import FORMS, NINETEEN, SCORER_METRIC, Form, pareto
from labkit.scoring.history import MEMORY_BYTES, History, Series, gated, selector_text
from labkit.scoring.ideal_point import linear_amplified_ippd_k3
from labkit.scoring.mean import deviation, positive_deviation

TOLERANCE: Final = 1e-9
WINDOW_SECONDS: Final = 60.0
STEADY_SECONDS: Final = 300.0
COOLDOWN_SECONDS: Final = 600.0
CLUSTER: Final = ""
"""Stands for the node's name where a record has one value for the cluster."""

Values = Mapping[str, Mapping[str, float]]
"""Value by record and node at one instant."""

_K3: Final = "descheduler:node:linear_amplified_ideal_point_positive_distance:k3"
_ERROR = re.compile(r"expr: \"(?P<expr>(?:[^\"\\]|\\.)*)\", time: (?P<time>\S+),\s+exp: nil\s+got: \S* (?P<value>\S+)")
_RECORD_IN = re.compile(r'name=\\?"(?P<record>[^"\\]+)\\?"')


def random_history(rng: np.random.Generator, *, nodes: int, instants: int, step_seconds: float = 15.0) -> History:
    """Draw a history with ties, zeros, ones, lost scrapes, nodes that come and go, restarts and evictions.

    Loads are multiples of 1e-4, as the lab's exporter rounds them.
    """
    load = np.round(rng.random((instants, nodes, 4)), 4)
    load[rng.random(load.shape) < 0.1] = 0.0
    load[rng.random(load.shape) < 0.1] = 1.0
    for instant in range(1, instants):
        keeps = rng.random(nodes) < 0.7
        load[instant, keeps] = load[instant - 1, keeps]
    for node in range(1, nodes):
        if rng.random() < 0.25:
            load[:, node] = load[:, rng.integers(node)]
    scraped = rng.random(load.shape) > 0.02
    for node in range(nodes):
        fate = rng.random()
        if fate < 0.1:
            scraped[: rng.integers(1, instants), node] = False
        elif fate < 0.2:
            scraped[rng.integers(1, instants) :, node] = False
        elif fate < 0.25:
            scraped[:, node, rng.integers(4)] = False
    restarts = rng.random((instants, nodes)) < 0.03
    evictions = np.cumsum(rng.random((instants, nodes)) < 0.1, axis=0, dtype=np.int64)
    names = tuple(f"node-{index:04d}" for index in range(nodes))
    return History(names, load, step_seconds, scraped, restarts, evictions)


def expected(history: History) -> list[Values]:
    """Compute what every record should be, from the definitions.

    Returns
    -------
    list
        One mapping per instant; a node that has no value is missing from it.
    """
    minutes = _minute_loads(history)
    answers: list[Values] = []
    previous: dict[Form, Snapshot] = {}
    above: list[Mapping[str, FloatArray]] = []
    for instant in range(len(history.load_ratio)):
        now: dict[Form, Snapshot] = {
            "score": _complete(history.nodes, np.stack([history.gauge(k)[instant] for k in range(4)], axis=1)),
            "avg1m": gated(_complete(history.nodes, minutes[instant])),
        }
        values: dict[str, Mapping[str, float]] = {}
        for form, snapshot in now.items():
            values.update(_inputs(form, snapshot))
            for algorithm in NINETEEN:
                values[algorithm.records[form]] = _by_node(snapshot, algorithm.score(snapshot))
            scorer = _scorer_values(previous.get(form))
            values[pareto_record(form)] = {node: scorer[node] for node in snapshot.nodes if node in scorer}
        minute = now["avg1m"]
        above.append(dict(zip(minute.nodes, positive_deviation(minute), strict=True)))
        values.update(_production(history, instant, minute, above))
        answers.append(values)
        previous = now
    return answers


def pareto_record(form: Form) -> str:
    """Return the record of the Pareto front."""
    return f"descheduler:node:pareto_front:{form}"


def scorer_series(history: History) -> list[Series]:
    """Return what the scorer exposes: at each scrape, the front of the evaluation before."""
    minutes = _minute_loads(history)
    instants = len(history.load_ratio)
    exposed = {(form, node): np.full(instants, np.nan) for form in FORMS for node in history.nodes}
    for instant in range(1, instants):
        gauges = np.stack([history.gauge(k)[instant - 1] for k in range(4)], axis=1)
        for form, loads in (("score", gauges), ("avg1m", minutes[instant - 1])):
            snapshot = _complete(history.nodes, loads)
            for node, value in _scorer_values(gated(snapshot) if form == "avg1m" else snapshot).items():
                exposed["score" if form == "score" else "avg1m", node][instant] = value
    return [
        Series({"__name__": SCORER_METRIC, "algorithm": "pareto_front", "form": form, "instance": node}, values)
        for (form, node), values in exposed.items()
    ]


def inputs(history: History) -> tuple[Series, ...]:
    """Return every series that the rules are given: the exporter's, the descheduler's, the scorer's."""
    return (*history.series(), *scorer_series(history))


def compiled(
    history: History, group: RuleGroup, *, series: Sequence[Series] | None = None, last: bool = False
) -> list[Values]:
    """Evaluate the rules with the compiler.

    Parameters
    ----------
    history : History
        The loads.
    group : RuleGroup
        The rules.
    series : sequence of Series, optional
        What :func:`inputs` returned, where it is at hand.
    last : bool
        Return the last instant only.
    """
    database = Database()
    by_name: dict[str, list[Series]] = {}
    for each in inputs(history) if series is None else series:
        by_name.setdefault(each.labels["__name__"], []).append(each)
    tables = {name: LabelTable.of([each.labels for each in members]) for name, members in by_name.items()}
    columns = {name: np.stack([each.values for each in members]) for name, members in by_name.items()}
    answers: list[Values] = []
    times = history.times_seconds.tolist()
    for instant, time_seconds in enumerate(times):
        for name, table in tables.items():
            values = columns[name][:, instant]
            database.append(time_seconds, name, table, values, present=~np.isnan(values), source="scrape")
        failures = group.evaluate(database, time_seconds)
        if failures:
            raise ComponentError(f"{failures[0].record}: {failures[0].message}", component="promql")
        if last and instant < len(times) - 1:
            continue
        answers.append(
            {
                record: {
                    dict(labels).get(NODE_LABEL, CLUSTER): value
                    for labels, value in _read(record).instant(database, time_seconds).samples().items()
                }
                for record in group.records
            }
        )
    return answers


@functools.cache
def _read(record: str) -> Expression:
    return Expression.compile(record)


def differences(wanted: Sequence[Values], found: Sequence[Values]) -> dict[str, float]:
    """Return, by record, the largest difference; infinite where one side has a node that the other lacks."""
    largest: dict[str, float] = {}
    for one, other in zip(wanted, found, strict=True):
        for record, values in one.items():
            others = other.get(record, {})
            apart = np.inf if values.keys() != others.keys() else 0.0
            if not apart:
                apart = max((abs(value - others[node]) for node, value in values.items()), default=0.0)
            largest[record] = max(largest.get(record, 0.0), apart)
    return largest


def must_be_empty(record: str) -> str:
    """Return an expression that yields the nodes for which a record is not what was expected."""
    wanted = f'expected{{name="{record}"}}'
    return (
        f"(abs({record} - on (instance) {wanted}) > {TOLERANCE})"
        f" or ({record} unless on (instance) {wanted}) or ({wanted} unless on (instance) {record})"
    )


def largest_error(record: str) -> str:
    """Return an expression for the largest difference between a record and what was expected."""
    return f'max(abs({record} - on (instance) expected{{name="{record}"}}))'


def promtool_document(
    histories: Sequence[History],
    rules_file: Path,
    *,
    expression: Callable[[str], str] = must_be_empty,
    instants: Callable[[int], Sequence[int]] = range,
    records: Sequence[str] | None = None,
) -> dict[str, Any]:
    """Return a file of ``promtool test rules`` that expects every expression to yield nothing.

    Parameters
    ----------
    histories : sequence of History
        One test each.
    rules_file : Path
        Rule groups, as :func:`write_groups` writes them.
    expression : callable
        From a record to what is tested.
    instants : callable
        From the number of instants to those that are tested.
    records : sequence of str, optional
        The records tested; all without it.
    """
    tests = []
    for history in histories:
        wanted = expected(history)
        names = list(records or wanted[0])
        nodes = {record: sorted({node for values in wanted for node in values[record]}) for record in names}
        expectations = [
            Series(
                {"__name__": "expected", "name": record, "instance": node},
                np.array([values[record].get(node, np.nan) for values in wanted]),
            )
            for record in names
            for node in nodes[record]
        ]
        step = f"{history.step_seconds:g}s"
        tests.append(
            {
                "interval": step,
                "input_series": [
                    {
                        "series": each.labels["__name__"] + selector_text(each.labels),
                        "values": " ".join(_sequence(each.values)),
                    }
                    for each in (*inputs(history), *expectations)
                ],
                "promql_expr_test": [
                    {
                        "expr": expression(record),
                        "eval_time": f"{instant * history.step_seconds:g}s",
                        "exp_samples": [],
                    }
                    for instant in instants(len(wanted))
                    for record in names
                ],
            }
        )
    return {"rule_files": [str(rules_file)], "evaluation_interval": step, "tests": tests}


def write_groups(target: Path, source: Path | None = None, *, change: tuple[str, str] | None = None) -> None:
    """Write the groups of a PrometheusRule object as Prometheus reads them; promtool refuses the object.

    Parameters
    ----------
    target : Path
        The file written.
    source : Path, optional
        The object; the lab's score rules without it.
    change : tuple of str, optional
        A record and the expression it gets instead.
    """
    document = yaml.safe_load((source or data_path("rules", "scores.yaml")).read_text(encoding="utf-8"))
    groups = document["spec"]["groups"]
    if change is not None:
        for group in groups:
            for rule in group["rules"]:
                if rule["record"] == change[0]:
                    rule["expr"] = change[1]
    target.write_text(yaml.safe_dump({"groups": groups}, sort_keys=False, width=1000), encoding="utf-8")


def run_promtool(promtool: Path, document: Mapping[str, Any], folder: Path) -> str:
    """Run a test file; return what failed, empty if nothing did.

    Raises
    ------
    ComponentError
        If promtool could not run the file at all.
    """
    file = folder / "rules-test.json"
    file.write_text(_json(document), encoding="utf-8")
    answer = subprocess.run(
        [str(promtool), "test", "rules", str(file)], capture_output=True, text=True, check=False, cwd=folder
    )
    text = answer.stdout + answer.stderr
    if answer.returncode != 0 and "expr:" not in text:
        raise ComponentError(f"promtool: {text.strip()[:500]}", component="promtool", exit_code=answer.returncode)
    return "" if answer.returncode == 0 else text


def measured_errors(failures: str) -> dict[str, float]:
    """Return, by record, the largest error that promtool reports for expressions of :func:`largest_error`."""
    largest: dict[str, float] = {}
    for match in _ERROR.finditer(failures):
        record = _RECORD_IN.search(match["expr"])
        if record is not None:
            largest[record["record"]] = max(largest.get(record["record"], 0.0), float(match["value"]))
    return largest


def _json(document: Mapping[str, Any]) -> str:
    import json

    return json.dumps(document)  # YAML in its quickest form


def _sequence(values: FloatArray) -> Iterator[str]:
    """Write samples as promtool wants them: a missing one ends the series, as a scrape without it does."""
    had = False
    for value in values.tolist():
        if value == value:
            yield repr(value)
        else:
            yield "stale" if had else "_"
        had = value == value


def _complete(nodes: tuple[str, ...], loads: FloatArray) -> Snapshot:
    there = ~np.isnan(loads).any(axis=1)
    kept = np.flatnonzero(there)
    return Snapshot.of([nodes[index] for index in kept], loads[kept])


def _by_node(snapshot: Snapshot, values: FloatArray) -> dict[str, float]:
    return dict(zip(snapshot.nodes, values.tolist(), strict=True))


def _scorer_values(snapshot: Snapshot | None) -> dict[str, float]:
    return {} if snapshot is None else _by_node(snapshot, pareto.pareto_front(snapshot))


def _inputs(form: Form, snapshot: Snapshot) -> Iterator[tuple[str, Mapping[str, float]]]:
    """Yield the records that scores of a form are made of."""
    records = BASE_RECORDS if form == "score" else MINUTE_RECORDS
    distance, above = deviation(snapshot), positive_deviation(snapshot)
    for column, dimension in enumerate(DIMENSIONS):
        load = snapshot.load_ratio[:, column]
        yield records[dimension], _by_node(snapshot, load)
        if form == "score":
            some = bool(snapshot.nodes)
            yield f"descheduler:cluster:{dimension}:avg", {CLUSTER: float(load.mean())} if some else {}
            yield f"descheduler:cluster:{dimension}:stddev", {CLUSTER: float(load.std())} if some else {}
            yield f"lab:node:{dimension}:deviation", _by_node(snapshot, distance[:, column])
            yield f"descheduler:node:{dimension}:positive_deviation", _by_node(snapshot, above[:, column])
        else:
            average = "descheduler:averageworkers" + records[dimension].removeprefix("descheduler:node")
            yield average, {CLUSTER: float(load.mean())} if snapshot.nodes else {}
            yield f"lab:node:{dimension}:deviation1m", _by_node(snapshot, distance[:, column])
            yield f"{records[dimension]}:positivedeviation", _by_node(snapshot, above[:, column])


def _production(
    history: History, instant: int, minute: Snapshot, above: Sequence[Mapping[str, FloatArray]]
) -> Iterator[tuple[str, Mapping[str, float]]]:
    """Yield production's own records at an instant."""
    load = minute.load_ratio
    busy = bool(minute.nodes) and float(load[:, 0].mean()) >= 0.8
    yield "descheduler:combined_utilization_and_pressure:avg1m", _by_node(minute, load[:, 1 if busy else 0])
    yield f"{_K3}:avg1m", _by_node(minute, linear_amplified_ippd_k3(minute))
    first = max(0, instant - round(STEADY_SECONDS / history.step_seconds) + 1)
    recent = above[first : instant + 1]
    steady = {
        node: np.quantile([past[node] for past in recent if node in past], 0.66, axis=0)
        for node in {node for past in recent for node in past}
    }
    for column, dimension in enumerate(DIMENSIONS):
        record = MINUTE_RECORDS[dimension].removesuffix("avg1m") + "p66_5m:positivedeviation"
        yield record, {node: float(values[column]) for node, values in steady.items()}
    distance = {node: min(1.0, float(np.sqrt((steady[node] ** 2).sum()))) for node in minute.nodes}
    yield "descheduler:node:ideal_point_positive_distance:p66_5m", distance
    k3 = {node: min(1.0, 3.0 * value) for node, value in distance.items()}
    yield f"{_K3}:p66_5m", k3
    times = history.times_seconds[: instant + 1]
    counts = dict.fromkeys(minute.nodes, 0.0)
    if history.evictions is not None:
        for index, node in enumerate(history.nodes):
            more = increase(times, history.evictions[: instant + 1, index].astype(float), COOLDOWN_SECONDS)
            if node in counts and more is not None:
                counts[node] = more
    yield "descheduler:node:eviction_count:10m", counts
    cooled = {node: max(0.01, 1.0 - 0.1 * count) for node, count in counts.items()}
    yield "descheduler:node:cooldown_multiplier:10m", cooled
    yield "descheduler:node:actuation_priority:p66_5m", {node: k3[node] * cooled[node] for node in minute.nodes}


def _minute_loads(history: History) -> list[FloatArray]:
    """Return the raw one-minute loads at every instant, shape (n_nodes, 4), NaN where there is none."""
    times = history.times_seconds
    counters, busy = [history.counter(column) for column in range(4)], history.busy()
    loads = []
    for instant in range(len(times)):
        load = np.full((len(history.nodes), 4), np.nan)
        past = times[: instant + 1]
        for node in range(len(history.nodes)):
            samples = [counter[: instant + 1, node] for counter in counters]
            idle = increase(past, samples[0], WINDOW_SECONDS)
            working = increase(past, busy[: instant + 1, node], WINDOW_SECONDS)
            seen = 0.0 if idle is None or working is None else idle + working
            for column, dimension in enumerate(DIMENSIONS):
                if dimension == "memory_usage":
                    window = samples[column][past > past[-1] - WINDOW_SECONDS]
                    window = window[~np.isnan(window)]
                    value = 1.0 - float(window.mean()) / MEMORY_BYTES if len(window) else None
                else:
                    value = _share(
                        idle if dimension == "cpu_usage" else increase(past, samples[column], WINDOW_SECONDS), seen
                    )
                    if value is not None and dimension == "cpu_usage":
                        value = 1.0 - value
                if value is not None:
                    load[node, column] = min(max(value, 0.0), 1.0)
        loads.append(load)
    return loads


def _share(grown_seconds: float | None, seen_seconds: float) -> float | None:
    """Return how much of the time that a node's CPU counters tell of another counter grew; None where none passed."""
    return None if grown_seconds is None or seen_seconds <= 0.0 else grown_seconds / seen_seconds


def increase(times: FloatArray, values: FloatArray, window_seconds: float) -> float | None:
    """Return how much a counter grew in the window that ends at the last time, as Prometheus 3 estimates it.

    Parameters
    ----------
    times, values : FloatArray
        Shape (n,); NaN where there is no sample. The window is open on its left.
    window_seconds : float
        Its length.

    Returns
    -------
    float or None
        None with fewer than two samples. A fall is a restart from 0. The growth between the first and the last sample
        is continued to each end of the window: to the end where the nearest sample is at most 1.1 average gaps away,
        else by half a gap, and never to before the counter would have been 0.
    """
    inside = (times > times[-1] - window_seconds) & ~np.isnan(values)
    at, seen = times[inside], values[inside]
    if len(at) < 2:
        return None
    steps = np.diff(seen)
    grown = float(np.where(steps < 0.0, seen[1:], steps).sum())
    covered = float(at[-1] - at[0])
    gap = covered / (len(at) - 1)
    before = float(at[0] - (times[-1] - window_seconds))
    after = float(times[-1] - at[-1])
    before = before if before < 1.1 * gap else gap / 2.0
    after = after if after < 1.1 * gap else gap / 2.0
    if grown > 0.0 and seen[0] >= 0.0:
        before = min(before, covered * float(seen[0]) / grown)
    return grown * (covered + before + after) / covered
