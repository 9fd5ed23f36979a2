"""The scores, from the rule files, at the instants at which Prometheus would evaluate them."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Final

import numpy as np
import yaml

from labkit.datafiles import data_path
from labkit.model import BoolArray, FloatArray, Snapshot
from labkit.names import DIMENSIONS, NODE_LABEL
from labkit.promql import Database, Expression, LabelTable, RuleGroup, load_rules, parse_rules
from labkit.scoring import FORM_RECORDS, SCORER_METRIC, Algorithm, Form
from labkit.sim.metrics import EVICTIONS_METRIC, NodeFamilies, Sample, write_evictions

STRETCH: Final = 16
STRETCH_SECONDS: Final = 240.0
"""Evaluations are put off until there are so many, or until the first of them is so long ago."""

Evictions = Mapping[tuple[str, str], int]


@functools.cache
def base_rules() -> RuleGroup:
    """Return the shipped rules, compiled once per process."""
    return load_rules(data_path("rules", "scores.yaml"))


def rules_with(algorithm: Algorithm) -> RuleGroup:
    """Return the shipped rules and those that a user's algorithm adds, in the order of evaluation."""
    if not algorithm.rules:
        return base_rules()
    own = yaml.safe_dump({"groups": [{"name": algorithm.name, "rules": [dict(rule) for rule in algorithm.rules]}]})
    added = parse_rules(own, source=str(algorithm.file or algorithm.name))
    base = base_rules()
    return RuleGroup(base.name, base.interval_seconds, (*base.rules, *added.rules))


class Scorer:
    """The lab's scorer: at its scrape it scores what the rules recorded last.

    Parameters
    ----------
    algorithm : Algorithm
        One that is computed in Python.
    forms : sequence of str
        Those that are wanted.
    """

    def __init__(self, algorithm: Algorithm, forms: Sequence[Form]) -> None:
        self._algorithm = algorithm
        self._inputs = {
            form: [Expression.compile(FORM_RECORDS[form][dimension]) for dimension in DIMENSIONS] for form in forms
        }

    def write(self, database: Database, time_seconds: float) -> None:
        """Append what the scorer exposes at a scrape."""
        rows: list[dict[str, str]] = []
        values: list[FloatArray] = []
        for form, inputs in self._inputs.items():
            loads = [_by_node(expression, database, time_seconds) for expression in inputs]
            nodes = [node for node in loads[0] if all(node in load for load in loads)]
            if nodes:
                snapshot = Snapshot.of(nodes, [[load[node] for load in loads] for node in nodes])
                values.append(self._algorithm.score(snapshot))
                rows += [
                    {"algorithm": self._algorithm.name, "form": form, NODE_LABEL: node, "job": "scorer"}
                    for node in snapshot.nodes
                ]
        if rows:
            scores = np.concatenate(values)
            database.append(time_seconds, SCORER_METRIC, LabelTable.of(rows), scores, source="scorer")


def _by_node(expression: Expression, database: Database, time_seconds: float) -> dict[str, float]:
    vector = expression.instant(database, time_seconds)
    return {dict(labels)[NODE_LABEL]: value for labels, value in vector.samples().items()}


class ScoreLoop:
    """Scrapes and rule evaluations of one run, reduced to what its query needs.

    Parameters
    ----------
    algorithm : Algorithm
        Whose record the descheduler asks for.
    node_names : sequence of str
        All nodes, in the order of the arrays.
    record : callable
        Told the time of each evaluation, the scores after it, and which nodes have one.

    Notes
    -----
    Nothing depends on a score before somebody asks for one: evaluations are put off until then, to be done together.
    """

    def __init__(
        self, algorithm: Algorithm, node_names: Sequence[str], record: Callable[[float, FloatArray, BoolArray], None]
    ) -> None:
        self._record = record
        wanted = algorithm.record
        every = rules_with(algorithm)
        group = every.needed_for(wanted)
        self._scorer: Scorer | None = None
        if algorithm.computed_by == "scorer":
            forms = [form for form, name in algorithm.records.items() if name in group.records]
            group = every.needed_for(wanted, *(name for form in forms for name in FORM_RECORDS[form].values()))
            self._scorer = Scorer(algorithm, forms)
        self._group = group
        inputs = group.inputs
        self._families = NodeFamilies(node_names, inputs)
        self._wants_evictions = any(selector.matches_name(EVICTIONS_METRIC) for selector in inputs)
        self._database = Database(retention_seconds=group.history_seconds() + 60.0 + STRETCH_SECONDS)
        self._score = Expression.compile(wanted)
        # The scorer's scrapes read records, the descheduler's counter gains series while it is scraped, and a rule
        # that looks ahead must not find what is not there yet.
        ahead = any(selector.offset_seconds < 0 for rule in group.rules for selector in rule.expression.selectors)
        self._at_once = self._scorer is not None or self._wants_evictions or ahead
        self._everywhere = True
        self._due: list[float] = []
        self._number = {name: number for number, name in enumerate(node_names)}
        self._places: dict[LabelTable, FloatArray] = {}

    def scrape(self, sample: Sample, evictions: Evictions) -> None:
        """Write what Prometheus reads at a scrape."""
        # Where nodes are missing, instants differ in more than their values, and the latest one is found soonest.
        self._everywhere = bool(sample.ready.all())
        if self._due and (sample.time_seconds - self._due[0] >= STRETCH_SECONDS or not self._everywhere):
            self.settle()
        self._families.write(self._database, sample)
        if self._wants_evictions:
            write_evictions(self._database, sample.time_seconds, evictions)
        if self._scorer is not None:
            self._scorer.write(self._database, sample.time_seconds)

    def evaluate(self, time_seconds: float) -> None:
        """Evaluate the rules at an instant, now or before they are asked for."""
        self._due.append(time_seconds)
        if self._at_once or not self._everywhere or len(self._due) == STRETCH:
            self.settle()

    def settle(self) -> None:
        """Do the evaluations that were put off."""
        due, self._due = self._due, []
        if due:
            self._group.evaluate_stretch(self._database, due)
            for time_seconds in due:
                self._record(time_seconds, *self._answer(time_seconds))

    def scores(self, time_seconds: float) -> tuple[FloatArray, BoolArray]:
        """Answer the descheduler's query: values and which nodes have one, shape (n_nodes,) each."""
        self.settle()
        return self._answer(time_seconds)

    def _answer(self, time_seconds: float) -> tuple[FloatArray, BoolArray]:
        vector = self._score.instant(self._database, time_seconds)
        values, present = np.zeros(len(self._number)), np.zeros(len(self._number), dtype=np.bool_)
        places = self._places.get(vector.table)
        if places is None:
            names = vector.table.column(NODE_LABEL)
            places = np.array([self._number.get(name, -1) for name in names], dtype=np.int64)
            self._places[vector.table] = places
        rows = (places >= 0) & vector.mask()
        values[places[rows]] = vector.values[rows]
        present[places[rows]] = True
        return values, present
