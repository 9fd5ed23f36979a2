"""PromQL expressions: compiled once, evaluated at an instant or over a range of time."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import promql_parser as ast

from labkit.errors import RuleError
from labkit.promql import aggregation
from labkit.promql.compiler import NO_LABELS, Compiler, Frame, Plan
from labkit.promql.labels import LabelTable
from labkit.promql.selector import Selector
from labkit.promql.storage import Database, to_milliseconds
from labkit.promql.syntax import UnsupportedError, parse
from labkit.promql.vector import BoolArray, FloatArray, Vector

__all__ = ["Expression", "RangeResult"]


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
    _plan: Plan = field(repr=False)
    _order: str | None = field(repr=False, default=None)

    @staticmethod
    def compile(text: str) -> Expression:
        """Parse and compile an expression.

        Raises
        ------
        RuleError
            If it is not PromQL, or uses what is not supported; the error's ``offset`` tells where.
        """
        tree = parse(text)
        compiler = Compiler(text)
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
            the database; metric names stand in its table. After ``topk`` and
            ``bottomk`` only the kept samples are there, best first.

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
            return Vector(NO_LABELS, frame.constant(self._plan.scalar(frame)))
        assert self._plan.vector is not None
        return self._plan.vector(frame)


def _root_order(tree: Any) -> str | None:
    while isinstance(tree, ast.ParenExpr):
        tree = tree.expr
    if isinstance(tree, ast.AggregateExpr) and str(tree.op) in ("topk", "bottomk"):
        return str(tree.op)
    return None
