"""Rules moved to another tempo: every duration in them divided, nothing else changed.

An expression is parsed, and written again from its syntax tree. The parser's own printing is not used: it
rounds durations below a second and loses negative timestamps.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from datetime import timedelta
from typing import Any, Final

import promql_parser as ast

from labkit.clock import wall_seconds
from labkit.errors import RuleError
from labkit.promql.syntax import match_operator, parse
from labkit.units import format_duration, parse_duration

__all__ = ["scale_group", "scale_windows"]

_GROUP_DURATIONS: Final = ("interval", "query_offset")
_RULE_DURATIONS: Final = ("for", "keep_firing_for")
_ESCAPES: Final = str.maketrans({"\\": "\\\\", '"': '\\"', "\n": "\\n", "\t": "\\t", "\r": "\\r"})
_AT: Final = ((ast.AtModifierType.Start, "start()"), (ast.AtModifierType.End, "end()"))


def scale_windows(expr: str, tempo: int) -> str:
    """Divide every duration of an expression by a tempo.

    Parameters
    ----------
    expr : str
        PromQL; all of it, not only the part that :mod:`labkit.promql` evaluates.
    tempo : int
        1 or more.

    Returns
    -------
    str
        The same expression on one line, without comments, in which range windows, subquery ranges and
        steps, and offsets are ``tempo`` times shorter, rounded to milliseconds as by :func:`labkit.clock.wall_seconds`.
        Names, labels and numbers are untouched, and so is a fixed time after ``@``.

    Raises
    ------
    RuleError
        If the expression is not PromQL, the tempo is below 1, or a window would become shorter than 1 ms.

    Examples
    --------
    >>> scale_windows("rate(node_cpu_seconds_total[1m] offset 30s)", 15)
    'rate(node_cpu_seconds_total[4s] offset 2s)'
    """
    _check_tempo(tempo)
    return _Writer(tempo).write(parse(expr))


def scale_group(document: Mapping[str, Any], tempo: int) -> dict[str, Any]:
    """Divide every duration of a PrometheusRule object, or of a plain rule file, by a tempo.

    Parameters
    ----------
    document : mapping
        The object (``spec.groups``) or the file's content (``groups``); not changed.
    tempo : int
        1 or more.

    Returns
    -------
    dict
        A deep copy: expressions as by :func:`scale_windows`; the groups' ``interval`` and ``query_offset``
        and the alerts' ``for`` and ``keep_firing_for`` divided. What a group does not say stays unsaid:
        Prometheus' own default interval is to be divided by whoever configures it.

    Raises
    ------
    RuleError
        If an expression or duration is not understood; names the rule.
    """
    _check_tempo(tempo)
    scaled = copy.deepcopy(dict(document))
    holder = scaled.get("spec", scaled)
    groups = holder.get("groups") if isinstance(holder, dict) else None
    if not isinstance(groups, list):
        raise RuleError("wanted a PrometheusRule object or groups of rules, found no list named groups")
    for group in groups:
        if not isinstance(group, dict):
            raise RuleError(f"wanted a group of rules, found {group!r}")
        for key in _GROUP_DURATIONS:
            if key in group:
                group[key] = _scaled_duration(group[key], tempo)
        for rule in group.get("rules") or ():
            if not isinstance(rule, dict):
                raise RuleError(f"wanted a rule in group {group.get('name')}, found {rule!r}")
            name = rule.get("record", rule.get("alert", "without a name"))
            for key in _RULE_DURATIONS:
                if key in rule:
                    rule[key] = _scaled_duration(rule[key], tempo)
            try:
                rule["expr"] = scale_windows(str(rule["expr"]), tempo)
            except KeyError:
                raise RuleError(f"rule {name}: wanted expr, found none") from None
            except RuleError as exc:
                raise RuleError(f"rule {name}: {exc}") from exc
    return scaled


def _check_tempo(tempo: int) -> None:
    if tempo < 1:
        raise RuleError(f"wanted a tempo of 1 or more, found {tempo}")


def _scaled_duration(value: Any, tempo: int) -> str:
    return format_duration(wall_seconds(parse_duration(str(value)), tempo))


class _Writer:
    """Writes a syntax tree as PromQL with its durations divided."""

    def __init__(self, tempo: int) -> None:
        self._tempo = tempo

    def write(self, node: Any) -> str:
        match node:
            case ast.NumberLiteral():
                return _number(node.val)
            case ast.StringLiteral():
                return _quoted(node.val)
            case ast.ParenExpr():
                return f"({self.write(node.expr)})"
            case ast.VectorSelector():
                return _selector(node) + self._moved(node)
            case ast.MatrixSelector():
                inner = node.vector_selector
                return f"{_selector(inner)}[{self._window(node.range)}]{self._moved(inner)}"
            case ast.SubqueryExpr():
                step = "" if node.step is None else self._window(node.step)
                return f"{self.write(node.expr)}[{self._window(node.range)}:{step}]{self._moved(node)}"
            case ast.UnaryExpr():
                return f"-{self.write(node.expr)}"
            case ast.BinaryExpr():
                return f"{self.write(node.lhs)} {node.op}{_modifier(node.modifier)} {self.write(node.rhs)}"
            case ast.AggregateExpr():
                inside = [self.write(part) for part in (node.param, node.expr) if part is not None]
                return f"{node.op}{_grouping(node.modifier)}({', '.join(inside)})"
            case ast.Call():
                return f"{node.func.name}({', '.join(self.write(argument) for argument in node.args)})"
            case _:
                raise RuleError(f"wanted PromQL that can be written again, found {type(node).__name__}")

    def _scaled(self, duration: timedelta) -> float:
        return wall_seconds(duration.total_seconds(), self._tempo)

    def _window(self, duration: timedelta | None) -> str:
        assert duration is not None, "a subquery always has a range"
        seconds = self._scaled(duration)
        if seconds <= 0:
            raise RuleError(
                f"a window of {duration.total_seconds():g} s divided by tempo {self._tempo} is below 1 ms; "
                "use a longer window or a smaller tempo"
            )
        return format_duration(seconds)

    def _moved(self, node: Any) -> str:
        """Return the @ and offset modifiers."""
        text = ""
        if node.at is not None and node.at.at is not None:
            text += f" @ {node.at.at.timestamp():.3f}"
        elif node.at is not None:
            text += f" @ {next(word for kind, word in _AT if node.at.type == kind)}"
        if node.offset is not None:
            seconds = self._scaled(abs(node.offset))
            text += f" offset {'-' if node.offset < timedelta() else ''}{format_duration(seconds)}"
        return text


def _number(value: float) -> str:
    if math.isnan(value):
        return "NaN"
    if math.isinf(value):
        return "Inf" if value > 0 else "-Inf"
    return str(int(value)) if value == int(value) and abs(value) < 1e15 else repr(value)


def _quoted(text: str) -> str:
    return f'"{text.translate(_ESCAPES)}"'


def _is_plain(name: str, *, metric: bool = False) -> bool:
    allowed = name.replace(":", "_") if metric else name
    return allowed.isascii() and allowed.isidentifier()


def _label(name: str) -> str:
    return name if _is_plain(name) else _quoted(name)


def _labels(names: list[str]) -> str:
    return f"({', '.join(_label(name) for name in names)})"


def _selector(node: ast.VectorSelector) -> str:
    alternatives = [node.matchers.matchers] if node.matchers.matchers else []
    alternatives += node.matchers.or_matchers
    inside = " or ".join(
        ", ".join(f"{_label(matcher.name)}{match_operator(matcher)}{_quoted(matcher.value)}" for matcher in matchers)
        for matchers in alternatives
    )
    name = node.name or ""
    if name and not _is_plain(name, metric=True):
        inside = ", ".join(part for part in (_quoted(name), inside) if part)
        name = ""
    return f"{name}{{{inside}}}" if inside or not name else name


def _grouping(modifier: ast.AggModifier | None) -> str:
    if modifier is None:
        return ""
    word = "without" if modifier.type == ast.AggModifierType.Without else "by"
    return f" {word} {_labels(modifier.labels)} "


def _modifier(modifier: ast.BinModifier | None) -> str:
    if modifier is None:
        return ""
    text = " bool" if modifier.return_bool else ""
    if modifier.matching is not None:
        on = modifier.matching.type == ast.LabelModifierType.Include
        text += f" {'on' if on else 'ignoring'} {_labels(modifier.matching.labels)}"
    if modifier.card == ast.VectorMatchCardinality.ManyToOne:
        text += f" group_left {_labels(modifier.group_labels or [])}"
    elif modifier.card == ast.VectorMatchCardinality.OneToMany:
        text += f" group_right {_labels(modifier.group_labels or [])}"
    left, right = modifier.fill_values.lhs, modifier.fill_values.rhs
    if left is not None and left == right:
        text += f" fill ({_number(left)})"
    else:
        text += "" if left is None else f" fill_left ({_number(left)})"
        text += "" if right is None else f" fill_right ({_number(right)})"
    return text
