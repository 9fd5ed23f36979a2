"""Label sets in tables: everything about labels is resolved once per table, never per sample.

A :class:`LabelTable` is an ordered set of distinct label sets. Tables are interned: equal content is the
same object, so what follows from a table (groups, changed labels, matches with another table) is worked out
the first time and remembered on it. Evaluation then touches arrays only. The series of one metric keep its
name outside their table: a hundred records about the same nodes share one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final
from weakref import WeakValueDictionary

import numpy as np
import numpy.typing as npt

__all__ = ["EMPTY_TABLE", "NAME", "Grouping", "LabelTable", "Labels", "Projection"]

NAME: Final = "__name__"
"""Label that holds the metric's name."""

Labels = tuple[tuple[str, str], ...]
"""A label set: pairs sorted by label name; a label with an empty value does not exist."""

IntArray = npt.NDArray[np.intp]
_NOT_METADATA: Final = frozenset({NAME, "__type__", "__unit__"})


@dataclass(frozen=True, slots=True, eq=False)
class Projection:
    """What became of a table's rows when their labels changed.

    Parameters
    ----------
    table : LabelTable
        The new label sets, each once.
    index : IntArray or None
        Shape (n_rows,): row of ``table`` for each old row; None when that is 0, 1, 2, …
    """

    table: LabelTable
    index: IntArray | None


@dataclass(frozen=True, slots=True, eq=False)
class Grouping:
    """Rows of a table sorted into groups, for aggregation.

    Parameters
    ----------
    table : LabelTable
        One label set per group, in the order in which the groups first appear.
    members : IntArray
        Shape (n_ranks, n_groups): rows of each group in table order, padded with -1.
    group_of : IntArray
        Shape (n_rows,): group of each row.
    even : bool
        Whether no padding was needed.
    identity : bool
        Whether each row is a group of its own, in the same order.
    """

    table: LabelTable
    members: IntArray
    group_of: IntArray
    even: bool
    identity: bool


class LabelTable:
    """An ordered, immutable set of distinct label sets; made by :meth:`of`."""

    __slots__ = ("__weakref__", "_memo", "has_names", "rows")

    def __init__(self, rows: tuple[Labels, ...]) -> None:
        self.rows = rows
        self.has_names = any(pair[0] in _NOT_METADATA for row in rows for pair in row)
        self._memo: dict[Any, Any] = {}

    def __len__(self) -> int:
        return len(self.rows)

    def __repr__(self) -> str:
        return f"LabelTable({len(self.rows)} rows)"

    @staticmethod
    def of(rows: Iterable[Mapping[str, str] | Labels]) -> LabelTable:
        """Return the table with these label sets.

        Parameters
        ----------
        rows : iterable of mappings or label sets
            Distinct; empty values are left out, as Prometheus does.

        Raises
        ------
        ValueError
            If two rows are equal.
        """
        canonical = tuple(label_set(row) for row in rows)
        if len(set(canonical)) != len(canonical):
            raise ValueError("a label table cannot hold the same label set twice")
        return _interned(canonical)

    def remembered(self, key: Any, make: Callable[[], Any]) -> Any:
        """Return what was made for this key, making it the first time."""
        try:
            return self._memo[key]
        except KeyError:
            value = self._memo[key] = make()
            return value

    def column(self, label: str) -> tuple[str, ...]:
        """Return one label's value for each row, empty where a row lacks it."""
        return tuple(dict(row).get(label, "") for row in self.rows)

    def projected(self, key: Any, change: Callable[[Labels], Labels]) -> Projection:
        """Return the table after changing each row's labels; ``key`` names the change."""
        made: Projection = self.remembered(key, lambda: _project(change(row) for row in self.rows))
        return made

    def without_name(self) -> Projection:
        """Return the table without metric names."""
        if not self.has_names:
            return self.remembered("as it is", lambda: Projection(self, None))  # type: ignore[no-any-return]
        return self.projected("without name", drop_name)

    def named(self, name: str) -> Projection:
        """Return the table with every row carrying this metric name."""
        return self.projected(("named", name), lambda row: with_label(row, NAME, name))

    def grouped(self, labels: tuple[str, ...], *, without: bool) -> Grouping:
        """Return the rows' groups for ``by (labels)`` or ``without (labels)``."""

        def make() -> Grouping:
            chosen = frozenset(labels) | _NOT_METADATA if without else frozenset(labels)
            keys = [tuple(pair for pair in row if (pair[0] in chosen) != without) for row in self.rows]
            first: dict[Labels, int] = {}
            group_of = np.array([first.setdefault(key, len(first)) for key in keys], dtype=np.intp)
            lists: list[list[int]] = [[] for _ in first]
            for row, group in enumerate(group_of.tolist()):
                lists[group].append(row)
            ranks = max((len(rows) for rows in lists), default=0)
            members = np.full((ranks, len(lists)), -1, dtype=np.intp)
            for group, rows in enumerate(lists):
                members[: len(rows), group] = rows
            even = all(len(rows) == ranks for rows in lists)
            return Grouping(_interned(tuple(first)), members, group_of, even, len(first) == len(keys))

        made: Grouping = self.remembered(("grouped", labels, without), make)
        return made


def _interned(rows: tuple[Labels, ...]) -> LabelTable:
    table = _TABLES.get(rows)
    if table is None:
        table = _TABLES[rows] = LabelTable(rows)
    return table


_TABLES: Final[WeakValueDictionary[tuple[Labels, ...], LabelTable]] = WeakValueDictionary()
EMPTY_TABLE: Final = _interned(())


def _project(rows: Iterable[Labels]) -> Projection:
    first: dict[Labels, int] = {}
    index = [first.setdefault(row, len(first)) for row in rows]
    table = _interned(tuple(first))
    return Projection(table, None if len(first) == len(index) else np.array(index, dtype=np.intp))


def project_rows(rows: Iterable[Labels]) -> Projection:
    """Return the table of these rows, equal ones falling together."""
    return _project(rows)


def label_set(labels: Mapping[str, str] | Labels) -> Labels:
    """Return labels sorted by name, without empty values."""
    pairs = labels.items() if isinstance(labels, Mapping) else labels
    return tuple(sorted((name, value) for name, value in pairs if value != ""))


def drop_name(row: Labels) -> Labels:
    """Return the label set without the metric's name (and type and unit, as Prometheus 3 does)."""
    return tuple(pair for pair in row if pair[0] not in _NOT_METADATA)


def with_label(row: Labels, name: str, value: str) -> Labels:
    """Return the label set with one label set, or removed when the value is empty."""
    rest = [pair for pair in row if pair[0] != name]
    if value != "":
        rest.append((name, value))
    return tuple(sorted(rest))


def text_of(row: Labels) -> str:
    """Write a label set as Prometheus does, ``name{label="value"}``."""
    labels = dict(row)
    name = labels.pop(NAME, "")
    inside = ", ".join(f'{key}="{value}"' for key, value in labels.items())
    return f"{name}{{{inside}}}" if inside or not name else name
