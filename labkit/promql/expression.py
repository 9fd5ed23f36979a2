"""PromQL text compiled to functions over arrays.

The text is parsed once, by ``promql-parser``; each node of the syntax tree becomes a function of a
:class:`Frame` (a database at an instant). What is not supported is refused here, before anything is
evaluated, with its place in the text.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final, Literal, TypeAlias

import numpy as np
import promql_parser as ast

from labkit.errors import RuleError
from labkit.promql import aggregation, matching
from labkit.promql.functions import MATHS, label_replacer
from labkit.promql.labels import NAME, Labels, LabelTable
from labkit.promql.matching import Matching, Operation
from labkit.promql.storage import Database, Family, IntArray, Window, to_milliseconds
from labkit.promql.vector import EMPTY_VECTOR, BoolArray, FloatArray, Vector, both, projected
from labkit.promql.windows import KEEPS_NAME, WINDOW_FUNCTIONS, quantile_over_time

__all__ = ["Expression", "RangeResult", "Selector", "UnsupportedError"]


class UnsupportedError(RuleError):
    """An expression asks for something that is not supported or not valid.

    Parameters
    ----------
    message : str
        What was found and what is possible instead.
    offset : int or None
        Where in the expression's text, counted from 0; None where that is not known.
    """

    def __init__(self, message: str, *, offset: int | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.offset = offset


@dataclass(frozen=True, slots=True)
class Frame:
    """What an expression is evaluated against: a database at one instant."""

    database: Database
    time_ms: int
    lookback_ms: int

    @staticmethod
    def at(database: Database, time_seconds: float) -> Frame:
        """Return the frame of an instant, which is kept to the millisecond."""
        return Frame(database, to_milliseconds(time_seconds), to_milliseconds(database.lookback_seconds))


VectorPlan: TypeAlias = Callable[[Frame], Vector]
ScalarPlan: TypeAlias = Callable[[Frame], float]
WindowPlan: TypeAlias = Callable[[Frame], list[tuple[Window | None, LabelTable, str]]]
"""To window, label sets and name of each metric selected; no window where its series have no sample in the range."""


@dataclass(frozen=True, slots=True)
class _Typed:
    """A compiled node: exactly one of the three is set."""

    vector: VectorPlan | None = None
    scalar: ScalarPlan | None = None
    window: WindowPlan | None = None


@dataclass(frozen=True)
class Selector:
    """A selector of an expression.

    Parameters
    ----------
    name : str or None
        The metric's name when it is given by equality; None means that any metric may match.
    matchers : tuple of (str, str, str)
        Label, operator (``=``, ``!=``, ``=~``, ``!~``) and value, without the name given by equality.
    range_seconds : float
        The window, 0 for an instant vector.
    offset_seconds : float
        How far back in time the selector looks.
    """

    name: str | None
    matchers: tuple[tuple[str, str, str], ...]
    range_seconds: float
    offset_seconds: float

    def matches(self, row: Labels) -> bool:
        """Tell whether a label set is selected; the metric's name is not looked at."""
        labels = dict(row)
        return all(
            _accepts(operator, value, labels.get(label, ""))
            for label, operator, value in self.matchers
            if label != NAME
        )

    def matches_name(self, name: str) -> bool:
        """Tell whether series of this name can be selected."""
        if self.name is not None:
            return name == self.name
        return all(_accepts(operator, value, name) for label, operator, value in self.matchers if label == NAME)


@dataclass(frozen=True, slots=True, eq=False)
class RangeResult:
    """An expression's values over time.

    Parameters
    ----------
    table : LabelTable
        Label sets of the series that occur, n_series of them.
    times_seconds : FloatArray
        Shape (n_times,).
    values : FloatArray
        Shape (n_times, n_series); meaningless where ``present`` is false.
    present : BoolArray
        Shape (n_times, n_series).
    """

    table: LabelTable
    times_seconds: FloatArray
    values: FloatArray
    present: BoolArray


@dataclass(frozen=True, eq=False)
class Expression:
    """A compiled PromQL expression; made by :meth:`compile`.

    Parameters
    ----------
    text : str
        The expression as written.
    selectors : tuple of Selector
        All selectors in it, in order.
    """

    text: str
    selectors: tuple[Selector, ...]
    _plan: _Typed = field(repr=False)
    _order: str | None = field(repr=False, default=None)

    @staticmethod
    def compile(text: str) -> Expression:
        """Parse and compile an expression.

        Raises
        ------
        RuleError
            If it is not PromQL, or uses what is not supported; the error's ``offset`` tells where.
        """
        try:
            tree = ast.parse(text)
        except ValueError as exc:
            raise UnsupportedError(f"wanted a PromQL expression; {exc}", offset=_error_offset(text, str(exc))) from exc
        compiler = _Compiler(text)
        plan = compiler.compile(tree)
        if plan.window is not None:
            raise UnsupportedError("wanted an instant vector or a scalar, found a range vector", offset=0)
        return Expression(text, tuple(compiler.selectors), plan, _root_order(tree))

    @property
    def is_scalar(self) -> bool:
        """Whether the result is a scalar rather than a vector."""
        return self._plan.scalar is not None

    def instant(self, database: Database, time_seconds: float) -> Vector:
        """Evaluate at one instant.

        Parameters
        ----------
        database : Database
            Where samples come from.
        time_seconds : float
            The instant, kept to the millisecond.

        Returns
        -------
        Vector
            A scalar comes back as a vector of one sample without labels. The result shares no memory with
            the database. After ``topk`` and ``bottomk`` only the kept samples are there, best first.

        Raises
        ------
        RuleError
            If the samples found cannot be combined as the expression wants.
        """
        with np.errstate(all="ignore"):
            vector = self.vector(Frame.at(database, time_seconds)).with_names()
        if self._order is not None:
            rows = aggregation.ranking(vector, smallest=self._order == "bottomk")
            chosen = LabelTable.of(vector.table.rows[row] for row in rows.tolist())
            return Vector(chosen, vector.values[rows])
        present = None if vector.present is None else vector.present.copy()
        return Vector(vector.table, vector.values.copy(), present)

    def range(self, database: Database, start_seconds: float, end_seconds: float, step_seconds: float) -> RangeResult:
        """Evaluate at evenly spaced instants.

        Parameters
        ----------
        database : Database
            Where samples come from.
        start_seconds, end_seconds : float
            First instant and the last one possible.
        step_seconds : float
            Time between two instants, above 0.

        Returns
        -------
        RangeResult
            Only series that have a sample at some instant.
        """
        start, end, step, lookback = (
            to_milliseconds(value) for value in (start_seconds, end_seconds, step_seconds, database.lookback_seconds)
        )
        if step <= 0:
            raise RuleError(f"wanted a step above 0, found {step_seconds:g} s")
        instants = np.arange(start, end + 1, step, dtype=np.int64)
        vectors = []
        with np.errstate(all="ignore"):
            for time_ms in instants.tolist():
                found = self.vector(Frame(database, time_ms, lookback)).with_names()
                vectors.append(Vector(found.table, found.values.copy(), found.present))
        tables = list(dict.fromkeys(vector.table for vector in vectors))
        rows = list(dict.fromkeys(row for table in tables for row in table.rows))
        column_of = {row: column for column, row in enumerate(rows)}
        columns = {table: np.array([column_of[row] for row in table.rows], dtype=np.intp) for table in tables}
        values = np.zeros((len(instants), len(rows)))
        present = np.zeros((len(instants), len(rows)), dtype=np.bool_)
        for step_number, vector in enumerate(vectors):
            values[step_number, columns[vector.table]] = vector.values
            present[step_number, columns[vector.table]] = vector.mask()
        occurs = np.asarray(present.any(axis=0))
        table = LabelTable.of(row for row, there in zip(rows, occurs.tolist(), strict=True) if there)
        return RangeResult(table, instants / 1000, values[:, occurs], present[:, occurs])

    def vector(self, frame: Frame) -> Vector:
        """Evaluate inside a frame; the result may share memory with the database."""
        if self._plan.scalar is not None:
            return Vector(_NO_LABELS, np.array([self._plan.scalar(frame)]))
        assert self._plan.vector is not None
        return self._plan.vector(frame)


_NO_LABELS: Final = LabelTable.of([()])

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
_MATCH_OPERATORS: Final = (
    (ast.MatchOp.Equal, "="),
    (ast.MatchOp.NotEqual, "!="),
    (ast.MatchOp.Re, "=~"),
    (ast.MatchOp.NotRe, "!~"),
)
"""Pairs rather than a mapping: the parser's enumerations cannot be hashed."""
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


def _accepts(operator: str, wanted: str, value: str) -> bool:
    if operator == "=":
        return value == wanted
    if operator == "!=":
        return value != wanted
    matched = re.fullmatch(wanted, value, re.DOTALL) is not None
    return matched if operator == "=~" else not matched


def _root_order(tree: Any) -> str | None:
    while isinstance(tree, ast.ParenExpr):
        tree = tree.expr
    if isinstance(tree, ast.AggregateExpr) and str(tree.op) in ("topk", "bottomk"):
        return str(tree.op)
    return None


class _Compiler:
    """Turns a syntax tree into functions, collecting its selectors on the way."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.selectors: list[Selector] = []

    def compile(self, node: Any) -> _Typed:
        """Return the plan of any node."""
        match node:
            case ast.NumberLiteral():
                return _Typed(scalar=_constant(node.val))
            case ast.ParenExpr():
                return self.compile(node.expr)
            case ast.VectorSelector():
                return _Typed(vector=self._instant_selector(node))
            case ast.MatrixSelector():
                return _Typed(window=self._range_selector(node))
            case ast.UnaryExpr():
                return self._negation(node)
            case ast.BinaryExpr():
                return self._binary(node)
            case ast.AggregateExpr():
                return _Typed(vector=self._aggregation(node))
            case ast.Call():
                return self._call(node)
            case ast.SubqueryExpr():
                raise self._unsupported("subqueries", "record the inner expression by a rule of its own", r"\[[^\]]*:")
            case _:
                raise self._unsupported(f"{type(node).__name__} here", "see docs/algorithms.md")

    def _unsupported(self, what: str, instead: str, pattern: str | None = None) -> UnsupportedError:
        return UnsupportedError(f"{what} are not supported; {instead}", offset=self._find(pattern))

    def _find(self, pattern: str | None) -> int | None:
        """Return the first place of a construct outside strings and comments."""
        if pattern is None:
            return None
        found = re.search(pattern, _blanked(self.text))
        return None if found is None else found.start()

    # --- selectors ------------------------------------------------------------------------------

    def _selector(self, node: ast.VectorSelector, range_seconds: float) -> Selector:
        if node.at is not None:
            raise self._unsupported("@ modifiers", "use offset, or a rule", "@")
        if node.matchers.or_matchers:
            raise self._unsupported("matchers joined by or", "unite two selectors with the operator or", r"\bor\b")
        name = node.name
        matchers: list[tuple[str, str, str]] = []
        for matcher in node.matchers.matchers:
            operator = next(text for kind, text in _MATCH_OPERATORS if kind == matcher.op)
            if matcher.name == NAME and name is not None:
                raise self._unsupported("two matchers of the metric's name", "write one", NAME)
            if matcher.name == NAME and operator == "=":
                name = matcher.value
                continue
            if operator in ("=~", "!~"):
                try:
                    re.compile(matcher.value)
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
            values, present = family.latest(frame.time_ms - offset_ms, frame.lookback_ms)
            if not selector.matchers:
                return Vector(family.table, values, present, family.name)
            table, columns = _selected(family.table, selector)
            if columns is not None:
                values = values[columns]
                present = None if present is None else present[columns]
            return Vector(table, values, present, family.name)

        if selector.name is None:
            return lambda frame: _joined([read(family, frame) for family in _families(frame.database, selector)])
        name = selector.name

        def read_one(frame: Frame) -> Vector:
            family = frame.database.families.get(name)
            return EMPTY_VECTOR if family is None else read(family, frame)

        return read_one

    def _range_selector(self, node: ast.MatrixSelector) -> WindowPlan:
        range_seconds = node.range.total_seconds()
        selector = self._selector(node.vector_selector, range_seconds)
        offset_ms = to_milliseconds(selector.offset_seconds)
        range_ms = to_milliseconds(range_seconds)

        def select(frame: Frame) -> list[tuple[Window | None, LabelTable, str]]:
            end = frame.time_ms - offset_ms
            windows = []
            for family in _families(frame.database, selector):
                table, columns = _selected(family.table, selector)
                window = family.window(end - range_ms, end, table, columns)
                windows.append((window, table, family.name))
            return windows

        return select

    # --- operators ------------------------------------------------------------------------------

    def _negation(self, node: ast.UnaryExpr) -> _Typed:
        inner = self.compile(node.expr)
        if inner.scalar is not None:
            scalar = inner.scalar
            return _Typed(scalar=lambda frame: -scalar(frame))
        return _Typed(vector=_mapped(self._as_vector(inner), np.negative))

    def _binary(self, node: ast.BinaryExpr) -> _Typed:
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
            return _Typed(vector=lambda frame: method(one(frame), other(frame), how))
        if operator not in _ARITHMETIC and operator not in _COMPARISON:
            raise self._unsupported(f"operators {operator}", "use + - * / % ^", re.escape(operator))
        if left.scalar is not None and right.scalar is not None:
            return _Typed(scalar=_scalar_operation(operator, left.scalar, right.scalar))
        if left.scalar is not None or right.scalar is not None:
            return _Typed(vector=self._with_scalar(operator, left, right, returns_bool=returns_bool))
        operation = _operation(operator, returns_bool=returns_bool)
        how = _matching(modifier, drop_name=returns_bool or operator in _ARITHMETIC)
        one, other = self._as_vector(left), self._as_vector(right)
        return _Typed(vector=lambda frame: matching.combine(operation, one(frame), other(frame), how))

    def _with_scalar(self, operator: str, left: _Typed, right: _Typed, *, returns_bool: bool) -> VectorPlan:
        swapped = left.scalar is not None
        scalar = left.scalar if left.scalar is not None else right.scalar
        assert scalar is not None
        vector = self._as_vector(right if swapped else left)
        if operator in _ARITHMETIC:
            function = _ARITHMETIC[operator]
            if operator == "^" and not swapped:
                function = _power
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

    def _call(self, node: ast.Call) -> _Typed:
        name = node.func.name
        arguments: list[Any] = node.args
        if name not in _FUNCTIONS:
            raise self._unsupported(f"calls of {name}()", f"supported are {', '.join(_FUNCTIONS)}", rf"\b{name}\s*\(")
        if name in WINDOW_FUNCTIONS:
            window = self._as_window(self.compile(arguments[0]))
            function = WINDOW_FUNCTIONS[name]
            return _Typed(
                vector=_over_window(window, lambda _, samples: function(samples), keeps_name=name in KEEPS_NAME)
            )
        match name:
            case "time":
                return _Typed(scalar=lambda frame: frame.time_ms / 1000)
            case "quantile_over_time":
                share = self._as_scalar(self.compile(arguments[0]))
                window = self._as_window(self.compile(arguments[1]))
                return _Typed(
                    vector=_over_window(window, lambda frame, samples: quantile_over_time(share(frame), samples))
                )
            case "vector":
                scalar = self._as_scalar(self.compile(arguments[0]))
                return _Typed(vector=lambda frame: Vector(_NO_LABELS, np.array([scalar(frame)])))
        vector = self._as_vector(self.compile(arguments[0]))
        match name:
            case "scalar":
                return _Typed(scalar=lambda frame: _only_value(vector(frame)))
            case "label_replace":
                return _Typed(vector=self._label_replace(vector, arguments[1:]))
            case "round":
                nearest = self._as_scalar(self.compile(arguments[1])) if len(arguments) > 1 else _constant(1.0)
                return _Typed(vector=_mapped_with(vector, _round, nearest))
            case "clamp_max":
                return _Typed(vector=_mapped_with(vector, np.minimum, self._as_scalar(self.compile(arguments[1]))))
            case "clamp_min":
                return _Typed(vector=_mapped_with(vector, np.maximum, self._as_scalar(self.compile(arguments[1]))))
            case "clamp":
                low, high = (self._as_scalar(self.compile(argument)) for argument in arguments[1:])
                return _Typed(vector=_clamped(vector, low, high))
        return _Typed(vector=_mapped(vector, MATHS[name]))

    def _label_replace(self, vector: VectorPlan, arguments: list[Any]) -> VectorPlan:
        target, replacement, source, pattern = (_string(argument) for argument in arguments)
        try:
            change = label_replacer(target, replacement, source, pattern)
        except re.error as exc:
            raise UnsupportedError(
                f"regular expression {pattern!r} of label_replace is not understood: {exc}",
                offset=self._find(r"\blabel_replace\b"),
            ) from exc
        if NAME in (target, source):
            vector = _with_names(vector)
        key = ("label_replace", target, replacement, source, pattern)

        def replaced(frame: Frame) -> Vector:
            found = vector(frame)
            return projected(found, found.table.projected(key, change))

        return replaced

    def _as_vector(self, plan: _Typed) -> VectorPlan:
        if plan.vector is None:
            raise UnsupportedError("wanted an instant vector, found a scalar or a range vector")
        return plan.vector

    def _as_scalar(self, plan: _Typed) -> ScalarPlan:
        if plan.scalar is None:
            raise UnsupportedError("wanted a scalar, found a vector; scalar() turns a single sample into one")
        return plan.scalar

    def _as_window(self, plan: _Typed) -> WindowPlan:
        if plan.window is None:
            raise UnsupportedError("wanted a range vector such as metric[1m]")
        return plan.window


_TOKENS: Final = re.compile(r"[\w:.]+|\S")
_STRINGS: Final = re.compile(r'"(?:\\.|[^"\\])*"|\'(?:\\.|[^\'\\])*\'|`[^`]*`|#[^\n]*')


def _blanked(text: str) -> str:
    """Return an expression with its strings and comments turned to blanks."""
    return _STRINGS.sub(lambda found: " " * len(found.group()), text)


def _error_offset(text: str, message: str) -> int | None:
    """Return where an expression stops being PromQL; the parser itself does not tell.

    A function that the message names is looked for. Otherwise it is what follows the longest beginning that
    is PromQL, or else the first bracket that is never closed.
    """
    code = _blanked(text)
    named = re.search(r"'(\w+)'", message)
    if named is not None:
        found = re.search(rf"\b{named[1]}\b", code)
        return None if found is None else found.start()
    tokens = list(_TOKENS.finditer(code))
    for token in reversed(tokens):
        try:
            ast.parse(text[: token.start()])
        except ValueError:
            continue
        return token.start()
    opened: list[int] = []
    for token in tokens:
        if token.group() in ("(", "[", "{"):
            opened.append(token.start())
        elif token.group() in (")", "]", "}") and opened:
            opened.pop()
    return opened[-1] if opened else None


def _string(node: Any) -> str:
    while isinstance(node, ast.ParenExpr):
        node = node.expr
    return str(node.val)


def _constant(value: float) -> ScalarPlan:
    return lambda frame: value


def _selected(table: LabelTable, selector: Selector) -> tuple[LabelTable, IntArray | None]:
    """Return the selected rows of a family's table and their columns, None for all."""
    if not selector.matchers:
        return table, None

    def make() -> tuple[LabelTable, IntArray | None]:
        columns = [column for column, row in enumerate(table.rows) if selector.matches(row)]
        if len(columns) == len(table):
            return table, None
        return LabelTable.of(table.rows[column] for column in columns), np.array(columns, dtype=np.intp)

    made: tuple[LabelTable, IntArray | None] = table.remembered(("selected", selector.matchers), make)
    return made


def _families(database: Database, selector: Selector) -> list[Family]:
    """Return the metrics that a selector may match, by name."""
    families = database.families
    if selector.name is not None:
        family = families.get(selector.name)
        return [] if family is None else [family]
    return [families[name] for name in sorted(families) if selector.matches_name(name)]


def _joined(parts: list[Vector]) -> Vector:
    """Return one vector with the samples of several, whose label sets are all different."""
    if len(parts) == 1:
        return parts[0]
    if not parts:
        return EMPTY_VECTOR
    parts = [part.with_names() for part in parts]
    tables = tuple(part.table for part in parts)
    table: LabelTable = tables[0].remembered(
        ("joined", tables[1:]), lambda: LabelTable.of(row for table in tables for row in table.rows)
    )
    present = None
    if any(part.present is not None for part in parts):
        present = np.concatenate([part.mask() for part in parts])
    return Vector(table, np.concatenate([part.values for part in parts]), present)


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
        vector = _joined(parts)
        return vector if keeps_name else vector.without_names()

    return over


def _only_value(vector: Vector) -> float:
    rows = np.flatnonzero(vector.mask())
    return float(vector.values[rows[0]]) if len(rows) == 1 else math.nan


def _round(values: FloatArray, nearest: float) -> FloatArray:
    """Round to multiples, ties upwards, by the inverse as Prometheus does."""
    inverse = np.divide(1.0, nearest)
    return np.asarray(np.floor(values * inverse + 0.5) / inverse)


def _power(values: FloatArray, exponent: float) -> FloatArray:
    """Raise to a scalar power; squares and roots exactly as the processor rounds them, on any machine."""
    if exponent == 2.0:
        return values * values
    if exponent == 0.5:
        # Go's Pow takes the root too; -Inf is the one value where the two differ.
        return np.where(values == -np.inf, np.inf, np.sqrt(values))
    return np.asarray(np.power(values, exponent))


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
