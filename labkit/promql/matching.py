"""Vector matching: which samples of two vectors meet, and which labels the result carries.

Everything here depends on label tables only and is remembered on them; per instant only index arrays are used.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np

from labkit.errors import RuleError
from labkit.promql.labels import (
    NAME,
    IntArray,
    Labels,
    LabelTable,
    Projection,
    drop_name,
    project_rows,
    text_of,
    with_label,
)
from labkit.promql.vector import BoolArray, FloatArray, Vector, both, concatenated, projected

__all__ = ["Matching", "Operation", "combine", "intersect", "subtract", "unite"]

Operation = Callable[[FloatArray, FloatArray], tuple[FloatArray, BoolArray | None]]
"""From left and right values to results and, for a comparison that filters, which are kept."""


@dataclass(frozen=True)
class Matching:
    """How two vectors are matched.

    Parameters
    ----------
    on : bool
        Whether ``labels`` are those compared (``on``), or those left out (``ignoring``, the default).
    labels : tuple of str
        The labels named.
    many : {"none", "left", "right"}
        The side of which several samples may meet one of the other: ``group_left``, ``group_right``.
    include : tuple of str
        Labels copied from the one side.
    drop_name : bool
        Whether the result loses the metric's name.
    """

    on: bool = False
    labels: tuple[str, ...] = ()
    many: Literal["none", "left", "right"] = "none"
    include: tuple[str, ...] = ()
    drop_name: bool = True

    @property
    def by_name(self) -> bool:
        """Whether the metric's name takes part, so that it must stand in the tables."""
        return NAME in self.labels or NAME in self.include

    def signature(self, row: Labels) -> Labels:
        """Return the labels that must be equal on both sides."""
        if self.on:
            return tuple(pair for pair in row if pair[0] in self.labels)
        return tuple(pair for pair in row if pair[0] != NAME and pair[0] not in self.labels)

    def result(self, many: Labels, one: Labels) -> Labels:
        """Return the labels of a result from its two sides."""
        row = drop_name(many) if self.drop_name else many
        if self.many == "none":
            row = tuple(pair for pair in row if (pair[0] in self.labels) == self.on)
        if self.include:
            source = dict(one)
            for label in self.include:
                row = with_label(row, label, source.get(label, ""))
        return row


@dataclass(frozen=True, slots=True, eq=False)
class _Signatures:
    """Signatures of two tables' rows, numbered.

    ``aligned``: both tables have the same signatures in the same order, each once.
    """

    left: IntArray
    right: IntArray
    count: int
    left_unique: bool
    right_unique: bool
    aligned: bool


@dataclass(frozen=True, slots=True, eq=False)
class _Pairs:
    """Rows that meet; None for all rows in order, or for the single row that meets all."""

    many: IntArray | None
    one: IntArray | None
    projection: Projection


def _signatures(left: LabelTable, right: LabelTable, matching: Matching) -> _Signatures:
    key = ("signatures", right, matching.on, matching.labels)

    def make() -> _Signatures:
        if left is right and not matching.on and not matching.labels and not left.has_names:
            rows = np.arange(len(left))
            return _Signatures(rows, rows, len(left), True, True, True)
        number: dict[Labels, int] = {}
        sides = [
            np.array([number.setdefault(matching.signature(row), len(number)) for row in table.rows], dtype=np.intp)
            for table in (left, right)
        ]
        unique = [len(np.unique(side)) == len(side) for side in sides]
        aligned = all(unique) and len(sides[0]) == len(sides[1]) and bool((sides[0] == sides[1]).all())
        return _Signatures(sides[0], sides[1], len(number), unique[0], unique[1], aligned)

    made: _Signatures = left.remembered(key, make)
    return made


def _pairs(many: LabelTable, one: LabelTable, matching: Matching, signatures: tuple[IntArray, IntArray]) -> _Pairs:
    """Return all rows of both sides whose signatures are equal."""

    def make() -> _Pairs:
        if many is one and not matching.on and not matching.labels and not many.has_names:
            return _Pairs(None, None, Projection(many, None))
        by_signature: dict[int, list[int]] = {}
        for row, signature in enumerate(signatures[1].tolist()):
            by_signature.setdefault(signature, []).append(row)
        pairs = [
            (row, other)
            for row, signature in enumerate(signatures[0].tolist())
            for other in by_signature.get(signature, ())
        ]
        many_rows = np.array([pair[0] for pair in pairs], dtype=np.intp)
        one_rows = np.array([pair[1] for pair in pairs], dtype=np.intp)
        projection = project_rows(matching.result(many.rows[row], one.rows[other]) for row, other in pairs)
        all_many = len(pairs) == len(many) and bool((many_rows == np.arange(len(many))).all())
        all_one = len(pairs) == len(one) and bool((one_rows == np.arange(len(one))).all())
        if len(one) == 1 and len(pairs) > 0:
            all_one = True
        return _Pairs(None if all_many else many_rows, None if all_one else one_rows, projection)

    made: _Pairs = many.remembered(("pairs", one, matching), make)
    return made


def combine(operation: Operation, left: Vector, right: Vector, matching: Matching) -> Vector:
    """Apply an operation to the samples of two vectors that match.

    Raises
    ------
    RuleError
        If samples match that must not: several on the one side, or two results with the same labels.
    """
    if matching.by_name:
        left, right = left.with_names(), right.with_names()
    signatures = _signatures(left.table, right.table, matching)
    if matching.many == "right":
        many, one = right, left
        many_ids, one_ids, one_unique = signatures.right, signatures.left, signatures.left_unique
        many_unique = signatures.right_unique
    else:
        many, one = left, right
        many_ids, one_ids, one_unique = signatures.left, signatures.right, signatures.right_unique
        many_unique = signatures.left_unique
    if not one_unique and not _is_empty(many):
        _refuse_duplicates(one, one_ids, signatures.count, matching)
    if not many_unique and matching.many == "none":
        _refuse_many(many, many_ids, one, one_ids, signatures.count)
    pairs = _pairs(many.table, one.table, matching, (many_ids, one_ids))
    many_values, many_present = _taken(many, pairs.many)
    one_values, one_present = _taken(one, pairs.one)
    if matching.many == "right":
        values, kept = operation(one_values, many_values)
    else:
        values, kept = operation(many_values, one_values)
    matched = both(many_present, one_present)
    keeps_name = not matching.drop_name and not (matching.on and matching.many == "none")
    name = many.name if keeps_name else ""
    if pairs.projection.index is None and len(values) == len(pairs.projection.table):
        present = both(matched, kept)
        if present is None or len(present) == len(values):
            return Vector(pairs.projection.table, values, present, name)
    n_pairs = len(pairs.projection.table) if pairs.projection.index is None else len(pairs.projection.index)
    if matched is not None and len(matched) != n_pairs:
        matched = np.broadcast_to(matched, (n_pairs, *matched.shape[1:]))
    if len(values) != n_pairs:
        values = np.broadcast_to(values, (n_pairs, *values.shape[1:]))
    if pairs.projection.index is not None:
        # Prometheus refuses equal results before it filters them.
        projected(Vector(many.table, values, matched), pairs.projection)
    return projected(Vector(many.table, values, both(matched, kept), name), pairs.projection)


def intersect(left: Vector, right: Vector, matching: Matching) -> Vector:
    """Keep the samples of the left vector that match any of the right one (``and``)."""
    met = _met(left, right, matching)
    return left if met is None else Vector(left.table, left.values, both(left.present, met), left.name)


def subtract(left: Vector, right: Vector, matching: Matching) -> Vector:
    """Keep the samples of the left vector that match none of the right one (``unless``)."""
    met = _met(left, right, matching)
    unmet = np.zeros(left.values.shape, dtype=np.bool_) if met is None else ~met
    return Vector(left.table, left.values, both(left.present, unmet), left.name)


def unite(left: Vector, right: Vector, matching: Matching) -> Vector:
    """Keep the left vector and those samples of the right one that match none of it (``or``)."""
    if not len(right.table):
        return left
    if not len(left.table):
        return right
    if left.name != right.name:
        left, right = left.with_names(), right.with_names()
    if left.table is right.table:
        if left.present is None:
            return left
        if _signatures(left.table, right.table, matching).aligned:
            present = None if right.present is None else left.present | right.present
            values = np.where(left.present, left.values, right.values)
            return Vector(left.table, values, present, left.name)
    met = _met(right, left, matching)
    dropped = np.zeros(right.values.shape, dtype=np.bool_) if met is None else ~met
    right = Vector(right.table, right.values, both(right.present, dropped), right.name)
    union: Projection = left.table.remembered(
        ("union", right.table), lambda: project_rows((*left.table.rows, *right.table.rows))
    )
    return concatenated(left, right, union)


def _met(left: Vector, right: Vector, matching: Matching) -> BoolArray | None:
    """Return which rows of the left vector match a sample of the right one, None for all."""
    if matching.by_name:
        left, right = left.with_names(), right.with_names()
    signatures = _signatures(left.table, right.table, matching)
    if signatures.aligned:
        return right.present
    right.refuse_gaps()
    there = np.zeros(signatures.count, dtype=np.bool_)
    there[signatures.right if right.present is None else signatures.right[right.present]] = True
    met = there[signatures.left]
    if met.all():
        return None
    return np.broadcast_to(met[:, np.newaxis], left.values.shape) if left.is_stretch else met


def _is_empty(vector: Vector) -> bool:
    return not (len(vector.table) if vector.present is None else vector.present.any())


def _taken(vector: Vector, rows: IntArray | None) -> tuple[FloatArray, BoolArray | None]:
    if rows is None:
        return vector.values, vector.present
    return vector.values[rows], None if vector.present is None else vector.present[rows]


def _refuse_duplicates(one: Vector, ids: IntArray, count: int, matching: Matching) -> None:
    one.refuse_gaps()
    there = ids if one.present is None else ids[one.present]
    times = np.bincount(there, minlength=count)
    if times.size and times.max() > 1:
        rows = [row for row in np.flatnonzero(one.mask()) if ids[row] == int(np.argmax(times))]
        group = text_of(matching.signature(one.table.rows[int(rows[0])]))
        shown = ", ".join(text_of(one.table.rows[int(row)]) for row in rows[:2])
        side = "left" if matching.many == "right" else "right"
        raise RuleError(
            f"found duplicate series for the match group {group} on the {side} hand-side of the operation: "
            f"[{shown}]; make the matching labels unique on that side"
        )


def _refuse_many(many: Vector, many_ids: IntArray, one: Vector, one_ids: IntArray, count: int) -> None:
    many.refuse_gaps()
    one.refuse_gaps()
    there = np.zeros(count, dtype=np.bool_)
    there[one_ids if one.present is None else one_ids[one.present]] = True
    ids = many_ids if many.present is None else many_ids[many.present]
    times = np.bincount(ids, minlength=count) * there
    if times.size and times.max() > 1:
        raise RuleError(
            "multiple matches for labels: several series on the left meet one on the right; "
            "say so with group_left or group_right"
        )
