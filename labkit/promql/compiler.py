"""From syntax trees to functions over arrays.

Each node becomes a function of a :class:`Frame` (a database at an instant). What is not supported is refused here,
before anything is evaluated, with its place in the text.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, TypeAlias

import numpy as np
import promql_parser as ast

from labkit.promql import aggregation, matching
from labkit.promql.functions import MATHS, label_replacer, power, rounded
from labkit.promql.labels import NAME, LabelTable
from labkit.promql.matching import Matching, Operation
from labkit.promql.selector import Selector
from labkit.promql.storage import Database, Family, TimeArray, Window, to_milliseconds
from labkit.promql.syntax import UnsupportedError, compile_pattern, match_operator, offset_of
from labkit.promql.vector import EMPTY_VECTOR, BoolArray, FloatArray, UnevenError, Vector, both, joined, projected
from labkit.promql.windows import KEEPS_NAME, WINDOW_FUNCTIONS, quantile_over_time

__all__ = ["Compiler", "Frame", "Plan"]


@dataclass(frozen=True, slots=True)
class Frame:
    """What an expression is evaluated against: a database at one instant, or at each of a stretch.

    Parameters
    ----------
    database : Database
        Where samples come from.
    time_ms : int
        The instant; of a stretch, the first.
    lookback_ms : int
        How old the newest sample may be.
    times_ms : TimeArray or None
        Shape (n_instants,), increasing: the instants of a stretch. Vectors then have a row for each series and a
        column for each instant, and what cannot be computed like this raises :class:`UnevenError`.
    """

    database: Database
    time_ms: int
    lookback_ms: int
    times_ms: TimeArray | None = None

    @staticmethod
    def at(database: Database, time_seconds: float) -> Frame:
        """Return the frame of an instant, which is kept to the millisecond."""
        return Frame(database, to_milliseconds(time_seconds), to_milliseconds(database.lookback_seconds))

    @staticmethod
    def over(database: Database, times_seconds: Sequence[float]) -> Frame:
        """Return the frame of a stretch of instants."""
        times = np.array([to_milliseconds(time) for time in times_seconds], dtype=np.int64)
        return Frame(database, int(times[0]), to_milliseconds(database.lookback_seconds), times)

    def constant(self, value: float) -> FloatArray:
        """Return a value as that of the only series of a vector."""
        return np.array([value]) if self.times_ms is None else np.full((1, len(self.times_ms)), value)

    def refuse_stretch(self) -> None:
        """Refuse a stretch, for what is not made for it."""
        if self.times_ms is not None:
            raise UnevenError


VectorPlan: TypeAlias = Callable[[Frame], Vector]
ScalarPlan: TypeAlias = Callable[[Frame], float]
WindowPlan: TypeAlias = Callable[[Frame], list[tuple[Window | None, LabelTable, str]]]
"""To window, label sets and name of each metric selected; no window where its series have no sample in the range."""


@dataclass(frozen=True, slots=True)
class Plan:
    """A compiled node: exactly one of the three is set."""

    vector: VectorPlan | None = None
    scalar: ScalarPlan | None = None
    window: WindowPlan | None = None


NO_LABELS: Final = LabelTable.of([()])

_ARITHMETIC: Final[dict[str, Callable[[Any, Any], Any]]] = {
    "+": np.add,
    "-": np.subtract,
    "*": np.multiply,
    "/": np.divide,
    "%": np.fmod,
    "^": np.power,
}
_COMPARISON: Final[dict[str, Callable[[Any, Any], Any]]] = {
    "==": np.equal,
    "!=": np.not_equal,
    ">": np.greater,
    "<": np.less,
    ">=": np.greater_equal,
    "<=": np.less_equal,
}
_SETS: Final = {"and": matching.intersect, "or": matching.unite, "unless": matching.subtract}
_OTHER_FUNCTIONS: Final = (
    "clamp",
    "clamp_max",
    "clamp_min",
    "label_replace",
    "quantile_over_time",
    "round",
    "scalar",
    "time",
    "vector",
)
_FUNCTIONS: Final = tuple(sorted((*MATHS, *WINDOW_FUNCTIONS, *_OTHER_FUNCTIONS)))
_AGGREGATIONS: Final = tuple(sorted((*aggregation.AGGREGATIONS, "topk", "bottomk", "quantile")))


class Compiler:
    """Turns a syntax tree into functions, collecting its selectors on the way."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.selectors: list[Selector] = []

    def compile(self, node: Any) -> Plan:
        """Return the plan of any node."""
        match node:
            case ast.NumberLiteral():
                return Plan(scalar=_constant(node.val))
            case ast.ParenExpr():
                return self.compile(node.expr)
            case ast.VectorSelector():
                return Plan(vector=self._instant_selector(node))
            case ast.MatrixSelector():
                return Plan(window=self._range_selector(node))
            case ast.UnaryExpr():
                return self._negation(node)
            case ast.BinaryExpr():
                return self._binary(node)
            case ast.AggregateExpr():
                return Plan(vector=self._aggregation(node))
            case ast.Call():
                return self._call(node)
            case ast.SubqueryExpr():
                raise self._unsupported("subqueries", "record the inner expression by a rule of its own", r"\[[^\]]*:")
            case _:
                raise UnsupportedError("wanted an instant vector or a scalar, found a text", offset=0)

    def _unsupported(self, what: str, instead: str, pattern: str | None = None) -> UnsupportedError:
        offset = None if pattern is None else offset_of(pattern, self.text)
        return UnsupportedError(f"{what} are not supported; {instead}", offset=offset)

    # --- selectors ------------------------------------------------------------------------------

    def _selector(self, node: ast.VectorSelector, range_seconds: float) -> Selector:
        if node.at is not None:
            raise self._unsupported("@ modifiers", "use offset, or a rule", "@")
        if node.matchers.or_matchers:
            raise self._unsupported("matchers joined by or", "unite two selectors with the operator or", r"\bor\b")
        name = node.name
        matchers: list[tuple[str, str, str]] = []
        for matcher in node.matchers.matchers:
            operator = match_operator(matcher)
            if matcher.name == NAME and name is not None:
                raise self._unsupported("two matchers of the metric's name", "write one", NAME)
            if matcher.name == NAME and operator == "=":
                name = matcher.value
                continue
            if operator in ("=~", "!~"):
                try:
                    compile_pattern(matcher.value)
                except re.error as exc:
                    position = self.text.find(matcher.value)
                    raise UnsupportedError(
                        f"regular expression {matcher.value!r} is not understood: {exc}",
                        offset=None if position < 0 else position,
                    ) from exc
            matchers.append((matcher.name, operator, matcher.value))
        offset = 0.0 if node.offset is None else node.offset.total_seconds()
        selector = Selector(name, tuple(matchers), range_seconds, offset)
        self.selectors.append(selector)
        return selector

    def _instant_selector(self, node: ast.VectorSelector) -> VectorPlan:
        selector = self._selector(node, 0.0)
        offset_ms = to_milliseconds(selector.offset_seconds)

        def read(family: Family, frame: Frame) -> Vector:
            if frame.times_ms is not None:
                table, columns = selector.columns(family.table)
                values = family.latest_each(frame.times_ms - offset_ms, frame.lookback_ms, columns)
                return Vector(table, values, None, family.name)
            values, present = family.latest(frame.time_ms - offset_ms, frame.lookback_ms)
            if not selector.matchers:
                return Vector(family.table, values, present, family.name)
            table, columns = selector.columns(family.table)
            if columns is not None:
                values = values[columns]
                present = None if present is None else present[columns]
            return Vector(table, values, present, family.name)

        if selector.name is None:
            return lambda frame: joined([read(family, frame) for family in selector.families(frame.database)])
        name = selector.name

        def read_one(frame: Frame) -> Vector:
            family = frame.database.families.get(name)
            if family is None:
                frame.refuse_stretch()
            return EMPTY_VECTOR if family is None else read(family, frame)

        return read_one

    def _range_selector(self, node: ast.MatrixSelector) -> WindowPlan:
        range_seconds = node.range.total_seconds()
        selector = self._selector(node.vector_selector, range_seconds)
        offset_ms = to_milliseconds(selector.offset_seconds)
        range_ms = to_milliseconds(range_seconds)

        def select(frame: Frame) -> list[tuple[Window | None, LabelTable, str]]:
            end = frame.time_ms - offset_ms
            windows: list[tuple[Window | None, LabelTable, str]] = []
            for family in selector.families(frame.database):
                table, columns = selector.columns(family.table)
                if frame.times_ms is not None:
                    ends = frame.times_ms - offset_ms
                    windows.append((family.window_each(ends - range_ms, ends, table, columns), table, family.name))
                    continue
                window = family.window(end - range_ms, end, table, columns)
                windows.append((window, table, family.name))
            return windows

        return select

    # --- operators ------------------------------------------------------------------------------

    def _negation(self, node: ast.UnaryExpr) -> Plan:
        inner = self.compile(node.expr)
        if inner.scalar is not None:
            scalar = inner.scalar
            return Plan(scalar=lambda frame: -scalar(frame))
        return Plan(vector=_mapped(self._as_vector(inner), np.negative))

    def _binary(self, node: ast.BinaryExpr) -> Plan:
        operator = str(node.op)
        modifier = node.modifier
        if modifier is not None and (modifier.fill_values.lhs is not None or modifier.fill_values.rhs is not None):
            raise self._unsupported("fill modifiers", "unite with a default by the operator or", r"\bfill")
        left, right = self.compile(node.lhs), self.compile(node.rhs)
        returns_bool = modifier is not None and modifier.return_bool
        if operator in _SETS:
            method = _SETS[operator]
            how = _matching(modifier, drop_name=False)
            one, other = self._as_vector(left), self._as_vector(right)
            return Plan(vector=lambda frame: method(one(frame), other(frame), how))
        if operator not in _ARITHMETIC and operator not in _COMPARISON:
            raise self._unsupported(f"operators {operator}", "use + - * / % ^", re.escape(operator))
        if left.scalar is not None and right.scalar is not None:
            return Plan(scalar=_scalar_operation(operator, left.scalar, right.scalar))
        if left.scalar is not None or right.scalar is not None:
            return Plan(vector=self._with_scalar(operator, left, right, returns_bool=returns_bool))
        operation = _operation(operator, returns_bool=returns_bool)
        how = _matching(modifier, drop_name=returns_bool or operator in _ARITHMETIC)
        one, other = self._as_vector(left), self._as_vector(right)
        return Plan(vector=lambda frame: matching.combine(operation, one(frame), other(frame), how))

    def _with_scalar(self, operator: str, left: Plan, right: Plan, *, returns_bool: bool) -> VectorPlan:
        swapped = left.scalar is not None
        scalar = left.scalar if left.scalar is not None else right.scalar
        assert scalar is not None
        vector = self._as_vector(right if swapped else left)
        if operator in _ARITHMETIC:
            function = _ARITHMETIC[operator]
            if operator == "^" and not swapped:
                function = power
            if swapped:
                return _mapped_with(vector, lambda values, number: function(number, values), scalar)
            return _mapped_with(vector, function, scalar)
        compare = _COMPARISON[operator]

        def holds(values: FloatArray, number: float) -> BoolArray:
            return compare(number, values) if swapped else compare(values, number)  # type: ignore[no-any-return]

        if returns_bool:
            return _mapped_with(vector, lambda values, number: holds(values, number).astype(np.float64), scalar)

        def kept(frame: Frame) -> Vector:
            found = vector(frame)
            keep = holds(found.values, scalar(frame))
            return Vector(found.table, found.values, both(found.present, keep), found.name)

        return kept

    # --- aggregation ----------------------------------------------------------------------------

    def _aggregation(self, node: ast.AggregateExpr) -> VectorPlan:
        operator = str(node.op)
        if operator not in _AGGREGATIONS:
            raise self._unsupported(
                f"aggregations by {operator}", f"supported are {', '.join(_AGGREGATIONS)}", rf"\b{operator}\b"
            )
        labels: tuple[str, ...] = ()
        without = False
        if node.modifier is not None:
            labels = tuple(sorted(set(node.modifier.labels)))
            without = node.modifier.type == ast.AggModifierType.Without
        inner = self._as_vector(self.compile(node.expr))
        if NAME in labels:
            inner = _with_names(inner)
        if operator in aggregation.AGGREGATIONS:
            reduce = aggregation.AGGREGATIONS[operator]

            def reduced(frame: Frame) -> Vector:
                found = inner(frame)
                return aggregation.aggregated(reduce, found, found.table.grouped(labels, without=without))

            return reduced
        parameter = self._as_scalar(self.compile(node.param))

        def with_parameter(frame: Frame) -> Vector:
            found = inner(frame)
            groups = found.table.grouped(labels, without=without)
            if operator == "quantile":
                return aggregation.quantile(parameter(frame), found, groups)
            return aggregation.largest(parameter(frame), found, groups, smallest=operator == "bottomk")

        return with_parameter

    # --- calls ----------------------------------------------------------------------------------

    def _call(self, node: ast.Call) -> Plan:
        name = node.func.name
        arguments: list[Any] = node.args
        if name not in _FUNCTIONS:
            raise self._unsupported(f"calls of {name}()", f"supported are {', '.join(_FUNCTIONS)}", rf"\b{name}\s*\(")
        if name in WINDOW_FUNCTIONS:
            window = self._as_window(self.compile(arguments[0]))
            function = WINDOW_FUNCTIONS[name]
            return Plan(
                vector=_over_window(window, lambda _, samples: function(samples), keeps_name=name in KEEPS_NAME)
            )
        match name:
            case "time":
                return Plan(scalar=_time)
            case "quantile_over_time":
                share = self._as_scalar(self.compile(arguments[0]))
                window = self._as_window(self.compile(arguments[1]))
                return Plan(
                    vector=_over_window(window, lambda frame, samples: quantile_over_time(share(frame), samples))
                )
            case "vector":
                scalar = self._as_scalar(self.compile(arguments[0]))
                return Plan(vector=lambda frame: Vector(NO_LABELS, frame.constant(scalar(frame))))
        vector = self._as_vector(self.compile(arguments[0]))
        match name:
            case "scalar":
                return Plan(scalar=lambda frame: _only_value(frame, vector(frame)))
            case "label_replace":
                return Plan(vector=self._label_replace(vector, arguments[1:]))
            case "round":
                nearest = self._as_scalar(self.compile(arguments[1])) if len(arguments) > 1 else _constant(1.0)
                return Plan(vector=_mapped_with(vector, rounded, nearest))
            case "clamp_max":
                return Plan(vector=_mapped_with(vector, np.minimum, self._as_scalar(self.compile(arguments[1]))))
            case "clamp_min":
                return Plan(vector=_mapped_with(vector, np.maximum, self._as_scalar(self.compile(arguments[1]))))
            case "clamp":
                low, high = (self._as_scalar(self.compile(argument)) for argument in arguments[1:])
                return Plan(vector=_clamped(vector, low, high))
        return Plan(vector=_mapped(vector, MATHS[name]))

    def _label_replace(self, vector: VectorPlan, arguments: list[Any]) -> VectorPlan:
        target, replacement, source, pattern = (_string(argument) for argument in arguments)
        if not target:
            raise UnsupportedError(
                "wanted the name of a label as second argument of label_replace, found an empty text",
                offset=offset_of(r"\blabel_replace\b", self.text),
            )
        try:
            change = label_replacer(target, replacement, source, pattern)
        except re.error as exc:
            raise UnsupportedError(
                f"regular expression {pattern!r} of label_replace is not understood: {exc}",
                offset=offset_of(r"\blabel_replace\b", self.text),
            ) from exc
        if NAME in (target, source):
            vector = _with_names(vector)
        key = ("label_replace", target, replacement, source, pattern)

        def replaced(frame: Frame) -> Vector:
            found = vector(frame)
            return projected(found, found.table.projected(key, change))

        return replaced

    def _as_vector(self, plan: Plan) -> VectorPlan:
        if plan.vector is None:
            raise UnsupportedError("wanted an instant vector, found a scalar or a range vector")
        return plan.vector

    def _as_scalar(self, plan: Plan) -> ScalarPlan:
        if plan.scalar is None:
            raise UnsupportedError("wanted a scalar, found a vector; scalar() turns a single sample into one")
        return plan.scalar

    def _as_window(self, plan: Plan) -> WindowPlan:
        if plan.window is None:
            raise UnsupportedError("wanted a range vector such as metric[1m]")
        return plan.window


def _string(node: Any) -> str:
    while isinstance(node, ast.ParenExpr):
        node = node.expr
    return str(node.val)


def _constant(value: float) -> ScalarPlan:
    return lambda frame: value


def _with_names(vector: VectorPlan) -> VectorPlan:
    return lambda frame: vector(frame).with_names()


def _mapped(vector: VectorPlan, function: Callable[[Any], Any]) -> VectorPlan:
    """Return the plan that changes each value and drops the metric's name."""

    def changed(frame: Frame) -> Vector:
        found = vector(frame).without_names()
        return Vector(found.table, function(found.values), found.present)

    return changed


def _mapped_with(vector: VectorPlan, function: Callable[[Any, Any], Any], scalar: ScalarPlan) -> VectorPlan:
    """Return the plan that changes each value by a scalar and drops the metric's name."""

    def changed(frame: Frame) -> Vector:
        found = vector(frame).without_names()
        return Vector(found.table, function(found.values, scalar(frame)), found.present)

    return changed


def _clamped(vector: VectorPlan, low: ScalarPlan, high: ScalarPlan) -> VectorPlan:
    def clamped(frame: Frame) -> Vector:
        found = vector(frame)
        lowest, highest = low(frame), high(frame)
        if highest < lowest:
            frame.refuse_stretch()
            return EMPTY_VECTOR
        values = np.maximum(lowest, np.minimum(highest, found.values))
        return Vector(found.table, values, found.present).without_names()

    return clamped


def _over_window(
    window: WindowPlan,
    function: Callable[[Frame, Window], tuple[FloatArray, BoolArray | None]],
    *,
    keeps_name: bool = False,
) -> VectorPlan:
    """Return the plan that reduces each series' samples to one."""

    def over(frame: Frame) -> Vector:
        parts = []
        for samples, table, name in window(frame):
            if samples is None:
                nothing = np.zeros(len(table), dtype=np.bool_)
                parts.append(Vector(table, np.zeros(len(table)), nothing, name))
            else:
                parts.append(Vector(table, *function(frame, samples), name))
        if not parts:
            frame.refuse_stretch()
        vector = joined(parts)
        return vector if keeps_name else vector.without_names()

    return over


def _time(frame: Frame) -> float:
    frame.refuse_stretch()
    return frame.time_ms / 1000


def _only_value(frame: Frame, vector: Vector) -> float:
    frame.refuse_stretch()
    rows = np.flatnonzero(vector.mask())
    return float(vector.values[rows[0]]) if len(rows) == 1 else math.nan


def _scalar_operation(operator: str, left: ScalarPlan, right: ScalarPlan) -> ScalarPlan:
    function = _ARITHMETIC.get(operator) or _COMPARISON[operator]
    return lambda frame: float(function(np.float64(left(frame)), np.float64(right(frame))))


def _operation(operator: str, *, returns_bool: bool) -> Operation:
    if operator in _ARITHMETIC:
        function = _ARITHMETIC[operator]
        return lambda left, right: (function(left, right), None)
    compare = _COMPARISON[operator]
    if returns_bool:
        return lambda left, right: (compare(left, right).astype(np.float64), None)
    return lambda left, right: (left, compare(left, right))


def _matching(modifier: ast.BinModifier | None, *, drop_name: bool) -> Matching:
    if modifier is None:
        return Matching(drop_name=drop_name)
    on = modifier.matching is not None and modifier.matching.type == ast.LabelModifierType.Include
    labels = () if modifier.matching is None else tuple(sorted(set(modifier.matching.labels)))
    many: Literal["none", "left", "right"] = "none"
    if modifier.card == ast.VectorMatchCardinality.ManyToOne:
        many = "left"
    elif modifier.card == ast.VectorMatchCardinality.OneToMany:
        many = "right"
    return Matching(on, labels, many, tuple(modifier.group_labels or ()), drop_name)
