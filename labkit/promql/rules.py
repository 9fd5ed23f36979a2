"""Recording rules: files read, checked and evaluated in order, as Prometheus' rule manager does."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from labkit.errors import InputError, RuleError
from labkit.promql.compiler import Frame
from labkit.promql.expression import Expression
from labkit.promql.labels import Labels, with_label
from labkit.promql.selector import Selector
from labkit.promql.storage import Database
from labkit.promql.syntax import UnsupportedError
from labkit.promql.vector import UnevenError, projected
from labkit.units import format_duration, parse_duration

__all__ = ["Rule", "RuleFailure", "RuleGroup", "load_rules", "parse_rules"]

logger = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Rule:
    """A recording rule.

    Parameters
    ----------
    record : str
        Name of the series it writes.
    expression : Expression
        What it computes.
    labels : mapping
        Labels set on each sample; an empty value removes the label.
    place : str
        Where it stands, ``file:line``.
    """

    record: str
    expression: Expression
    labels: Mapping[str, str]
    place: str

    @property
    def expr(self) -> str:
        """The expression's text."""
        return self.expression.text


@dataclass(frozen=True)
class RuleFailure:
    """A rule that could not be evaluated: it wrote nothing, as in Prometheus."""

    record: str
    message: str


@dataclass(frozen=True, eq=False)
class RuleGroup:
    """Recording rules evaluated one after the other at the same instant.

    Parameters
    ----------
    name : str
        The group's name.
    interval_seconds : float or None
        Time between two evaluations; None leaves it to Prometheus' ``evaluation_interval``.
    rules : tuple of Rule
        In order: a rule sees what earlier ones wrote at the same instant.
    """

    name: str
    interval_seconds: float | None
    rules: tuple[Rule, ...]

    @property
    def records(self) -> tuple[str, ...]:
        """Names of the records, each once, in order."""
        return tuple(dict.fromkeys(rule.record for rule in self.rules))

    @property
    def inputs(self) -> tuple[Selector, ...]:
        """Selectors of metrics that no rule of the group records, each once, in order."""
        records = set(self.records)
        return tuple(
            dict.fromkeys(
                selector
                for rule in self.rules
                for selector in rule.expression.selectors
                if selector.name not in records
            )
        )

    def history_seconds(self, lookback_seconds: float = 300.0) -> float:
        """Return how far back an evaluation may read.

        Parameters
        ----------
        lookback_seconds : float
            Look-back of instant vectors.

        Returns
        -------
        float
            The longest window or look-back, offsets included: the retention a database needs.
        """
        needed = [
            (selector.range_seconds or lookback_seconds) + max(selector.offset_seconds, 0.0)
            for rule in self.rules
            for selector in rule.expression.selectors
        ]
        return max(needed, default=0.0)

    def needed_for(self, *records: str) -> RuleGroup:
        """Return the group reduced to the rules that these records depend on.

        Parameters
        ----------
        *records : str
            Names of records.

        Returns
        -------
        RuleGroup
            Same name and interval, same order.

        Raises
        ------
        RuleError
            If a record is not written by this group.
        """
        known = self.records
        for record in records:
            if record not in known:
                raise RuleError(f"wanted a record of group {self.name}, found {record!r}")
        wanted = set(records)
        while True:
            selectors = [
                selector for rule in self.rules if rule.record in wanted for selector in rule.expression.selectors
            ]
            found = wanted | {
                record for record in known if any(selector.matches_name(record) for selector in selectors)
            }
            if found == wanted:
                break
            wanted = found
        return RuleGroup(self.name, self.interval_seconds, tuple(rule for rule in self.rules if rule.record in wanted))

    def evaluate(self, database: Database, time_seconds: float) -> tuple[RuleFailure, ...]:
        """Evaluate all rules at one instant and write their records.

        Parameters
        ----------
        database : Database
            Read and written. A series that a rule wrote before and no longer yields gets a staleness marker.
        time_seconds : float
            The instant, later than the last one.

        Returns
        -------
        tuple of RuleFailure
            Rules that could not be evaluated; they are logged as warnings, wrote nothing, and the others
            went on.
        """
        failures = []
        frame = Frame.at(database, time_seconds)
        with np.errstate(all="ignore"):
            for number, rule in enumerate(self.rules):
                try:
                    self._evaluate(rule, f"rule {self.name} {number} {rule.record}", frame)
                except RuleError as exc:
                    logger.warning("%s: rule %s: %s", rule.place, rule.record, exc)
                    failures.append(RuleFailure(rule.record, str(exc)))
        return tuple(failures)

    def evaluate_stretch(self, database: Database, times_seconds: Sequence[float]) -> None:
        """Do what :meth:`evaluate` would at one instant after the other, with the same results, at less cost.

        Parameters
        ----------
        database : Database
            Read and written; all that was scraped up to the last instant is there already.
        times_seconds : sequence of float
            Increasing.

        Notes
        -----
        Each rule is evaluated at all instants before the next rule is, in arrays with a column per instant. That is
        the same as long as no rule reads what it or a later one writes; other groups are evaluated instant by
        instant, and so is a rule at instants that differ in more than their values.
        """
        if len(times_seconds) == 1 or not self._reads_only_what_precedes:
            for time_seconds in times_seconds:
                self.evaluate(database, time_seconds)
            return
        stretch = Frame.over(database, times_seconds)
        with np.errstate(all="ignore"):
            for number, rule in enumerate(self.rules):
                source = f"rule {self.name} {number} {rule.record}"
                try:
                    self._evaluate(rule, source, stretch)
                except (UnevenError, RuleError):
                    for time_seconds in times_seconds:
                        try:
                            self._evaluate(rule, source, Frame.at(database, time_seconds))
                        except RuleError as exc:
                            logger.warning("%s: rule %s: %s", rule.place, rule.record, exc)

    @cached_property
    def _reads_only_what_precedes(self) -> bool:
        """Whether no rule reads what it or a later rule writes: never the record of the instant before."""
        return not any(
            selector.matches_name(later.record) and not _excludes(selector, later.labels)
            for number, rule in enumerate(self.rules)
            for selector in rule.expression.selectors
            for later in self.rules[number:]
        )

    @staticmethod
    def _evaluate(rule: Rule, source: str, frame: Frame) -> None:
        vector = rule.expression.vector(frame).without_names()
        if rule.labels:
            key = ("labels", tuple(rule.labels.items()))
            vector = projected(vector, vector.table.projected(key, lambda row: _labelled(row, rule.labels)))
        family = frame.database.family(rule.record)
        if frame.times_ms is not None:
            family.append_stretch(frame.times_ms, vector.table, vector.values, vector.present, source)
        else:
            family.append(frame.time_ms, vector.table, vector.values, vector.present, None, source)


def _excludes(selector: Selector, labels: Mapping[str, str]) -> bool:
    """Tell whether a selector wants another value of a label that a rule sets."""
    return any(
        operator == "=" and label in labels and labels[label] != value for label, operator, value in selector.matchers
    )


def _labelled(row: Labels, labels: Mapping[str, str]) -> Labels:
    for label, value in labels.items():
        row = with_label(row, label, value)
    return row


def load_rules(path: str | Path) -> RuleGroup:
    """Read a rule file.

    Parameters
    ----------
    path : str or Path
        A PrometheusRule object or a plain rule file (``groups:``). Several groups become one, in order; they
        must have the same interval. Alerting rules record nothing and are left out.

    Raises
    ------
    RuleError
        If the file cannot be read, or holds what is not valid or not supported; names file, line and rule.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as exc:
        raise RuleError(f"{path}: wanted a rule file; {exc.strerror}") from exc
    except UnicodeDecodeError as exc:
        raise RuleError(f"{path}: wanted a rule file in UTF-8; {exc.reason} at byte {exc.start}") from exc
    return parse_rules(text, source=str(path))


def parse_rules(text: str, *, source: str = "<rules>") -> RuleGroup:
    """Read a rule file's text; see :func:`load_rules`.

    Parameters
    ----------
    text : str
        YAML.
    source : str
        Name for messages.
    """
    try:
        tree = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.YAMLError as exc:
        raise RuleError(f"{source}: wanted YAML; {' '.join(str(exc).split())}") from exc
    return _Reader(source, text).group(tree)


@dataclass(frozen=True)
class _Reader:
    """Reads YAML nodes, which know their lines, rather than plain values."""

    source: str
    text: str

    def group(self, tree: yaml.Node | None) -> RuleGroup:
        """Return all groups of a document as one."""
        root = self._mapping(tree, "a PrometheusRule object or groups of rules")
        if "spec" in root:
            root = self._mapping(root["spec"], "a mapping under spec")
        groups = self._sequence(root.get("groups"), tree, "a list of groups")
        if not groups:
            raise RuleError(f"{self.source}: wanted at least one group of rules, found none")
        names, intervals, rules = [], [], []
        for node in groups:
            group = self._mapping(node, "a group")
            names.append(self._text(group.get("name"), node, "the group's name"))
            intervals.append(self._interval(group.get("interval")))
            for rule in self._sequence(group.get("rules", ()), node, "a list of rules"):
                found = self._rule(rule)
                if found is not None:
                    rules.append(found)
        if len(set(intervals)) > 1:
            pairs = zip(names, intervals, strict=True)
            shown = ", ".join(
                f"{name} {'none' if interval is None else format_duration(interval)}" for name, interval in pairs
            )
            raise RuleError(f"{self.source}: wanted one interval for all groups, found {shown}")
        return RuleGroup(names[0], intervals[0], tuple(rules))

    def _rule(self, node: yaml.Node) -> Rule | None:
        fields = self._mapping(node, "a rule")
        if "alert" in fields:
            return None
        record = self._text(fields.get("record"), node, "record, the name of what the rule writes")
        expr_node = fields.get("expr")
        text = self._text(expr_node, node, f"expr of rule {record}")
        assert expr_node is not None
        labels = (
            {
                name: self._text(value, node, f"a text for label {name} of rule {record}")
                for name, value in self._mapping(fields["labels"], f"labels of rule {record}").items()
            }
            if "labels" in fields
            else {}
        )
        try:
            expression = Expression.compile(text)
        except UnsupportedError as exc:
            place = self._place_in(expr_node, text, exc.offset)
            raise RuleError(f"{place}: rule {record}: {exc.message}") from exc
        return Rule(record, expression, labels, self._place(node))

    def _interval(self, node: yaml.Node | None) -> float | None:
        if node is None:
            return None
        text = self._text(node, node, "an interval")
        try:
            return parse_duration(text)
        except InputError as exc:
            raise RuleError(f"{self._place(node)}: {exc}") from exc

    def _place(self, node: yaml.Node | None) -> str:
        return self.source if node is None else f"{self.source}:{node.start_mark.line + 1}"

    def _place_in(self, node: yaml.Node, text: str, offset: int | None) -> str:
        """Return file, line and column of a character of an expression, as far as YAML lets one tell."""
        mark = node.start_mark
        style = node.style if isinstance(node, yaml.ScalarNode) else None
        if offset is None:
            return self._place(node)
        if style == "|":
            line = text.count("\n", 0, offset)
            column = offset - (text.rfind("\n", 0, offset) + 1)
            written = self.text.splitlines()[mark.line + 1 + line]
            indent = written.find(text.splitlines()[line])
            return f"{self.source}:{mark.line + 2 + line}:{max(indent, 0) + column + 1}"
        if mark.line == node.end_mark.line:
            column = mark.column + offset + (1 if style in ("'", '"') else 0)
            return f"{self.source}:{mark.line + 1}:{column + 1}"
        return self._place(node)

    def _mapping(self, node: yaml.Node | None, wanted: str) -> dict[str, yaml.Node]:
        if not isinstance(node, yaml.MappingNode):
            raise RuleError(f"{self._place(node)}: wanted {wanted}")
        return {key.value: value for key, value in node.value}

    def _sequence(self, node: Any, parent: yaml.Node | None, wanted: str) -> Sequence[yaml.Node]:
        if node == ():
            return ()
        if not isinstance(node, yaml.SequenceNode):
            raise RuleError(f"{self._place(node or parent)}: wanted {wanted}")
        nodes: Sequence[yaml.Node] = node.value
        return nodes

    def _text(self, node: yaml.Node | None, parent: yaml.Node, wanted: str) -> str:
        if not isinstance(node, yaml.ScalarNode) or not (node.value or node.style):
            raise RuleError(f"{self._place(node or parent)}: wanted {wanted}, found none")
        return str(node.value)
