"""Score a table of loads with any of the three engines: reference, compiler, or a Prometheus of its own.

The engine ``prometheus`` starts a private server on a free loopback port: the loads go into its storage as the series
that nodes would have exported, the lab's own rule file is loaded, and the answer is what a query yields.
What PromQL cannot compute comes from Python in all three, as it does on a live lab (the scorer).
"""

from __future__ import annotations

import functools
import json
import logging
import socket
import subprocess
import tempfile
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
import yaml

from labkit.clock import WALL_CLOCK, wait_until
from labkit.datafiles import data_path
from labkit.errors import ComponentError, RuleError
from labkit.model import FloatArray, Snapshot
from labkit.names import NODE_LABEL
from labkit.promql import Database, Expression, LabelTable, RuleGroup, parse_rules
from labkit.scoring import SCORER_METRIC, Algorithm, Form
from labkit.scoring.history import History, Series, gated, openmetrics

Engine = Literal["reference", "promql", "prometheus"]
ENGINES: Final[tuple[Engine, ...]] = ("reference", "promql", "prometheus")

STEP_SECONDS: Final = 15.0
DURATION_SECONDS: Final = 90.0
"""Long enough for every one-minute window; longer windows use what there is, and the load is constant."""
EVALUATION_SECONDS: Final = 1.0
TIMEOUT_SECONDS: Final = 60.0

Scores = dict[str, dict[str, float]]
"""Score by algorithm and node."""

logger = logging.getLogger(__name__)


def scores(
    algorithms: Sequence[Algorithm], snapshot: Snapshot, *, engine: Engine = "reference", form: Form = "score"
) -> Scores:
    """Score the nodes of a snapshot.

    Parameters
    ----------
    algorithms : sequence of Algorithm
        Those wanted.
    snapshot : Snapshot
        The loads, constant for the last minutes.
    engine : {"reference", "promql", "prometheus"}
        Who computes.
    form : {"score", "avg1m"}
        Which of an algorithm's records; one that has only the other yields the other.

    Returns
    -------
    dict
        Score by algorithm and node, in the order given and of the nodes' names.

    Raises
    ------
    InputError
        If an algorithm cannot be computed, or yields what the descheduler refuses.
    ToolError
        If the engine is ``prometheus`` and its programs are missing.
    """
    forms: dict[str, Form] = {each.name: _form_of(each, form) for each in algorithms}
    if not snapshot.nodes:
        return {each.name: {} for each in algorithms}
    if engine == "reference":
        found = {
            each.name: dict(zip(snapshot.nodes, _python(each, snapshot, forms[each.name]).tolist(), strict=True))
            for each in algorithms
        }
    else:
        evaluate = _compiled if engine == "promql" else _prometheus
        records = {each.name: each.records[forms[each.name]] for each in algorithms}
        series = list(History.constant(snapshot, duration_seconds=DURATION_SECONDS, step_seconds=STEP_SECONDS).series())
        series.extend(_scorer_series(algorithms, snapshot))
        found = evaluate(records, rule_groups(algorithms), series)
    for each in algorithms:
        check(each, found[each.name], snapshot.nodes)
    return {each.name: {node: found[each.name][node] for node in snapshot.nodes} for each in algorithms}


def rule_groups(algorithms: Sequence[Algorithm] = ()) -> dict[str, Any]:
    """Return the lab's rules, and those of users' algorithms after them, as Prometheus reads rule files."""
    groups: list[dict[str, Any]] = json.loads(_own_groups())
    for each in algorithms:
        groups[-1]["rules"].extend(rule for rule in map(dict, each.rules) if rule not in groups[-1]["rules"])
    return {"groups": groups}


@functools.cache
def _own_groups() -> str:
    document = yaml.safe_load(data_path("rules", "scores.yaml").read_text(encoding="utf-8"))
    return json.dumps(document["spec"]["groups"])


def compile_groups(groups: Mapping[str, Any]) -> RuleGroup:
    """Compile rule groups that :func:`rule_groups` returned."""
    return _compile(json.dumps(groups))


@functools.lru_cache(maxsize=8)
def _compile(text: str) -> RuleGroup:
    return parse_rules(text, source="rules/scores.yaml")  # JSON is YAML


def check(algorithm: Algorithm, values: Mapping[str, float], nodes: Sequence[str]) -> None:
    """Refuse scores that the descheduler would refuse.

    Raises
    ------
    RuleError
        If a node has no score, or one that is NaN or outside [0, 1].
    """
    where = f"{algorithm.file}: {algorithm.name}" if algorithm.file else algorithm.name
    missing = [node for node in nodes if node not in values]
    if missing:
        raise RuleError(
            f"{where}: wanted one sample for each node, found none for {missing[0]} "
            f"({len(missing)} of {len(nodes)} nodes)"
        )
    for node in nodes:
        value = values[node]
        if value != value:
            raise RuleError(f"{where}: wanted a score in [0, 1], found NaN for {node}: does it divide by zero?")
        if not 0.0 <= value <= 1.0:
            raise RuleError(f"{where}: wanted a score in [0, 1], found {value:g} for {node}: clamp it")


def _form_of(algorithm: Algorithm, form: Form) -> Form:
    return form if form in algorithm.records else next(iter(algorithm.records))


def _python(algorithm: Algorithm, snapshot: Snapshot, form: Form) -> FloatArray:
    return algorithm.score(gated(snapshot) if form == "avg1m" else snapshot)


def _scorer_series(algorithms: Sequence[Algorithm], snapshot: Snapshot) -> Iterator[Series]:
    """Yield what the scorer would expose for the algorithms that it computes."""
    instants = round(DURATION_SECONDS / STEP_SECONDS) + 1
    for each in algorithms:
        if each.computed_by == "scorer":
            for form in each.records:
                for node, value in zip(snapshot.nodes, _python(each, snapshot, form).tolist(), strict=True):
                    labels = {"__name__": SCORER_METRIC, "algorithm": each.name, "form": form, NODE_LABEL: node}
                    yield Series(labels, np.full(instants, value))


def _by_node(name: str, record: str, samples: Sequence[tuple[Mapping[str, str], float]]) -> dict[str, float]:
    values: dict[str, float] = {}
    for labels, value in samples:
        node = labels.get(NODE_LABEL)
        if node is None:
            raise RuleError(f"{name}: wanted the label {NODE_LABEL!r} on {record}, found {dict(labels)}")
        if node in values:
            raise RuleError(
                f"{name}: wanted one sample per node, found several of {record} for {node}: "
                f"aggregate with 'by ({NODE_LABEL})'"
            )
        values[node] = value
    return values


def evaluation_seconds(algorithm: Algorithm, snapshot: Snapshot) -> float:
    """Return how long the compiled rules of an algorithm, with those they depend on, take for one evaluation."""
    group = compile_groups(rule_groups([algorithm])).needed_for(algorithm.record)
    series = list(History.constant(snapshot, duration_seconds=DURATION_SECONDS, step_seconds=STEP_SECONDS).series())
    database, end = _stored([*series, *_scorer_series([algorithm], snapshot)])
    group.evaluate(database, end)  # the first one also matches the labels
    start = WALL_CLOCK.monotonic()
    group.evaluate(database, end + EVALUATION_SECONDS)
    return WALL_CLOCK.monotonic() - start


def _stored(series: Sequence[Series]) -> tuple[Database, float]:
    """Return a database with the series, and the time of their last samples."""
    database = Database()
    by_name: dict[str, list[Series]] = {}
    for each in series:
        by_name.setdefault(each.labels["__name__"], []).append(each)
    tables = {name: LabelTable.of([each.labels for each in members]) for name, members in by_name.items()}
    columns = {name: np.stack([each.values for each in members]) for name, members in by_name.items()}
    instants = len(series[0].values)
    for instant in range(instants):
        for name, table in tables.items():
            database.append(instant * STEP_SECONDS, name, table, columns[name][:, instant], source="scrape")
    return database, (instants - 1) * STEP_SECONDS


def _compiled(records: Mapping[str, str], groups: Mapping[str, Any], series: Sequence[Series]) -> Scores:
    group = compile_groups(groups).needed_for(*records.values())
    database, end = _stored(series)
    failures = group.evaluate(database, end)
    if failures:
        raise RuleError(f"{failures[0].record}: {failures[0].message}")
    answers: Scores = {}
    for name, record in records.items():
        samples = Expression.compile(record).instant(database, end).samples()
        answers[name] = _by_node(name, record, [(dict(labels), value) for labels, value in samples.items()])
    return answers


def _prometheus(records: Mapping[str, str], groups: Mapping[str, Any], series: Sequence[Series]) -> Scores:
    from labkit.prometheus import Prometheus

    with (
        tempfile.TemporaryDirectory(prefix="labkit-prometheus-") as name,
        private_prometheus(Path(name), groups, series) as url,
    ):
        prometheus = Prometheus(url, timeout=TIMEOUT_SECONDS)
        return {
            algorithm: _by_node(
                algorithm, record, [(sample.labels, sample.value) for sample in prometheus.query(record)]
            )
            for algorithm, record in records.items()
        }


@contextmanager
def private_prometheus(folder: Path, groups: Mapping[str, Any], series: Sequence[Series]) -> Iterator[str]:
    """Run a Prometheus of one's own for a while.

    Parameters
    ----------
    folder : Path
        An empty folder for its files.
    groups : mapping
        Rule groups, as :func:`rule_groups` returns them.
    series : sequence of Series
        Samples every 15 s; the last are as of now.

    Yields
    ------
    str
        Its URL; it has evaluated the rules at least once.

    Raises
    ------
    RuleError
        If a rule is not valid or cannot be evaluated.
    ComponentError
        If it does not start.
    """
    from labkit.cluster import tools

    start = WALL_CLOCK.now() - DURATION_SECONDS
    times = start + np.arange(len(series[0].values), dtype=np.float64) * STEP_SECONDS
    samples, data = folder / "samples.txt", folder / "data"
    with samples.open("w", encoding="utf-8") as file:
        file.writelines(f"{line}\n" for line in openmetrics(series, times))
    # JSON is YAML; a file of many nodes is written in a fraction of the time.
    (folder / "rules.yaml").write_text(json.dumps(groups), encoding="utf-8")
    interval = f"{EVALUATION_SECONDS:g}s"
    config = {"global": {"evaluation_interval": interval}, "rule_files": ["rules.yaml"]}
    (folder / "prometheus.yaml").write_text(json.dumps(config), encoding="utf-8")
    promtool = str(tools.find("promtool"))
    _run([promtool, "check", "rules", "--lint=none", "rules.yaml"], folder, RuleError)
    _run([promtool, "tsdb", "create-blocks-from", "openmetrics", "samples.txt", str(data)], folder, ComponentError)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    log = folder / "prometheus.log"
    command = [
        str(tools.find("prometheus")), "--config.file=prometheus.yaml", f"--storage.tsdb.path={data}",
        f"--web.listen-address=127.0.0.1:{port}", "--log.level=warn", "--storage.tsdb.no-lockfile",
    ]  # fmt: skip
    with log.open("wb") as output:
        process = subprocess.Popen(command, cwd=folder, stdout=output, stderr=subprocess.STDOUT)
        try:
            rules = wait_until(
                lambda: _evaluated(url, process, log),
                timeout_seconds=TIMEOUT_SECONDS,
                what="the private Prometheus to evaluate the rules",
            )
            for rule in rules:
                if rule["health"] == "err":
                    raise RuleError(f"{rule['name']}: {rule.get('lastError', 'cannot be evaluated')}")
            yield url
        finally:
            process.kill()  # its data is thrown away
            process.wait()


def _run(command: Sequence[str], folder: Path, error: type[RuleError] | type[ComponentError]) -> None:
    answer = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if answer.returncode != 0:
        text = " ".join((answer.stderr or answer.stdout).split())
        if error is RuleError:
            raise RuleError(f"promtool refuses the rules: {text}")
        raise ComponentError(f"promtool could not write the samples: {text}", component="promtool", log_tail=text)


def _evaluated(url: str, process: subprocess.Popen[bytes], log: Path) -> list[dict[str, Any]] | None:
    """Return the rules once all have been evaluated."""
    if process.poll() is not None:
        tail = log.read_text(encoding="utf-8", errors="replace")[-500:]
        raise ComponentError(
            f"wanted a private Prometheus, found that it ended with {process.returncode}: {tail}",
            component="prometheus",
            exit_code=process.returncode,
            log_tail=tail,
        )
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(f"{url}/api/v1/rules", timeout=TIMEOUT_SECONDS) as answer:
            groups = json.load(answer)["data"]["groups"]
    except (urllib.error.URLError, OSError):
        return None
    rules: list[dict[str, Any]] = [rule for group in groups for rule in group["rules"]]
    return rules if rules and all(rule["health"] != "unknown" for rule in rules) else None
