"""Instant vectors as arrays: a label table, one value per row, and which rows have a sample now."""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from labkit.errors import RuleError
from labkit.promql.labels import EMPTY_TABLE, LabelTable, Projection, text_of

__all__ = ["BoolArray", "FloatArray", "UnevenError", "Vector", "both", "concatenated", "joined", "projected"]

FloatArray: TypeAlias = npt.NDArray[np.float64]
BoolArray: TypeAlias = npt.NDArray[np.bool_]


class UnevenError(Exception):
    """The instants of a stretch differ in more than their values: they must be evaluated one by one."""


class Vector:
    """One instant of several series, or a stretch of several instants at which the same series exist.

    Over a stretch, ``values`` and ``present`` have the shape (n_rows, n_instants) in place of (n_rows,).

    Parameters
    ----------
    table : LabelTable
        Label sets, n_rows of them; the same table as long as the same series exist.
    values : FloatArray
        Shape (n_rows,). Meaningless where no sample is present.
    present : BoolArray or None
        Shape (n_rows,): whether the row has a sample; None when all have.
    name : str
        Metric name of all rows; empty when they have none, or each its own in the table.
    """

    __slots__ = ("name", "present", "table", "values")

    def __init__(self, table: LabelTable, values: FloatArray, present: BoolArray | None = None, name: str = "") -> None:
        self.table = table
        self.values = values
        self.present = present
        self.name = name

    def mask(self) -> BoolArray:
        """Return which rows have a sample, shape (n_rows,)."""
        return np.ones(self.values.shape, dtype=np.bool_) if self.present is None else self.present

    @property
    def is_stretch(self) -> bool:
        """Whether there are several instants."""
        return self.values.ndim > 1

    def refuse_gaps(self) -> None:
        """Refuse a stretch of which some rows may be absent.

        Raises
        ------
        UnevenError
            If it is one.
        """
        if self.present is not None and self.values.ndim > 1:
            raise UnevenError

    def samples(self) -> dict[tuple[tuple[str, str], ...], float]:
        """Return the present samples by label set, metric names included, in the table's order."""
        rows = self.with_names().table.rows
        return {rows[i]: float(self.values[i]) for i in np.flatnonzero(self.mask()).tolist()}

    def with_names(self) -> Vector:
        """Return the vector with the metric's name written into the table."""
        if not self.name:
            return self
        return Vector(self.table.named(self.name).table, self.values, self.present)

    def without_names(self) -> Vector:
        """Return the vector without metric names.

        Raises
        ------
        RuleError
            If two samples differ in their name only.
        """
        if self.table.has_names:
            return projected(Vector(self.table, self.values, self.present), self.table.without_name())
        return Vector(self.table, self.values, self.present) if self.name else self

    def __repr__(self) -> str:
        shown = ", ".join(f"{text_of(row)} {value:g}" for row, value in self.samples().items())
        return f"Vector({shown})"


EMPTY_VECTOR = Vector(EMPTY_TABLE, np.empty(0))


def both(left: BoolArray | None, right: BoolArray | None) -> BoolArray | None:
    """Return where both masks hold; None stands for everywhere."""
    if left is None:
        return right
    if right is None:
        return left
    return left & right


def projected(vector: Vector, projection: Projection) -> Vector:
    """Return the vector with changed labels, its name kept.

    Raises
    ------
    RuleError
        If two samples of this instant end up with the same label set.
    """
    index = projection.index
    if index is None:
        return Vector(projection.table, vector.values, vector.present, vector.name)
    vector.refuse_gaps()
    rows = index if vector.present is None else index[vector.present]
    counts = np.bincount(rows, minlength=len(projection.table))
    if counts.size and counts.max() > 1:
        twice = projection.table.rows[int(np.argmax(counts))]
        raise RuleError(f"vector cannot contain metrics with the same labelset: {text_of(twice)} appears twice")
    values = np.zeros((len(projection.table), *vector.values.shape[1:]))
    values[rows] = vector.values if vector.present is None else vector.values[vector.present]
    if vector.is_stretch:
        # Every row of the new table comes from one of the old, and all of those are there.
        return Vector(projection.table, values, None, vector.name)
    return Vector(projection.table, values, counts > 0, vector.name)


def concatenated(left: Vector, right: Vector, union: Projection) -> Vector:
    """Return the samples of two vectors of the same name over the union of their tables.

    ``union`` projects the rows of ``left`` followed by those of ``right``. Where both have a sample for a
    row the left one stays; callers make sure that is what they mean.
    """
    n_left = len(left.table)
    n_rows = len(union.table)
    values = np.zeros((n_rows, *left.values.shape[1:]))
    present = np.zeros(values.shape, dtype=np.bool_)
    index = union.index
    to_right = np.arange(n_left, n_left + len(right.table)) if index is None else index[n_left:]
    taken = right.mask()
    if taken.all():
        values[to_right] = right.values
        present[to_right] = True
    else:
        right.refuse_gaps()
        values[to_right[taken]] = right.values[taken]
        present[to_right[taken]] = True
    # The left side's rows come first in the union and are distinct: they keep their places.
    if left.present is None:
        values[:n_left] = left.values
        present[:n_left] = True
    else:
        np.copyto(values[:n_left], left.values, where=left.present)
        present[:n_left] |= left.present
    return Vector(union.table, values, None if present.all() else present, left.name)


def joined(parts: list[Vector]) -> Vector:
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
    for part in parts:
        part.refuse_gaps()
    present = None
    if any(part.present is not None for part in parts):
        present = np.concatenate([part.mask() for part in parts])
    return Vector(table, np.concatenate([part.values for part in parts]), present)
