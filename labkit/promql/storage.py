"""A time series database in columns: what Prometheus' storage is to its engine.

Each metric name is a :class:`Family`: rows are instants, columns are series, and a cell is a sample, a
staleness marker, or nothing. Rows older than the retention are dropped, so memory is bounded.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final, TypeAlias

import numpy as np
import numpy.typing as npt

from labkit.promql.labels import LabelTable
from labkit.promql.vector import BoolArray, FloatArray, UnevenError

__all__ = ["DEFAULT_LOOKBACK_SECONDS", "Database", "Family", "Window"]

DEFAULT_LOOKBACK_SECONDS: Final = 300.0
"""Prometheus' ``query.lookback-delta``: how old the newest sample of an instant vector may be."""

_REMEMBERED_TABLES: Final = 64
"""How many tables a family knows the columns of; more only come where series change all the time."""

_NOTHING: Final = 0
_SAMPLE: Final = 1
_STALE: Final = 2

IntArray = npt.NDArray[np.intp]
TimeArray = npt.NDArray[np.int64]
StateArray = npt.NDArray[np.uint8]
_Entries: TypeAlias = tuple[FloatArray, StateArray, TimeArray]
"""Values, states and times of the series' entries, shape (n_series,) each."""


def _places(rows: Sequence[int], start: int) -> slice | list[int]:
    """Return what selects rows of an array that begins at ``start``: a slice, which copies nothing, if it can be."""
    if rows[-1] - rows[0] == len(rows) - 1:
        return slice(start + rows[0], start + rows[-1] + 1)
    return [start + row for row in rows]


def to_milliseconds(seconds: float) -> int:
    """Return a time in whole milliseconds, the resolution of Prometheus."""
    return round(seconds * 1000)


@dataclass(frozen=True, slots=True, eq=False)
class Window:
    """Samples of several series in a left-open range of time.

    Parameters
    ----------
    table : LabelTable
        Label sets of the series, n_series of them.
    values : FloatArray
        Shape (n_ranks, n_series): each series' samples from rank 0 on, oldest first.
    times_ms : TimeArray
        Shape (n_ranks, n_series), or (n_ranks, 1) when all series have the same times.
    counts : IntArray or None
        Shape (n_series,): how many samples each series has; None when all have n_ranks.
    start_ms, end_ms : int
        The range ``(start, end]``.

    Notes
    -----
    Over a stretch of instants, each with its own range: ``values`` has the shape (n_ranks, n_series, n_instants),
    ``times_ms`` (n_ranks, 1, n_instants), ``start_ms`` and ``end_ms`` (n_instants,), and all have n_ranks samples.
    """

    table: LabelTable
    values: FloatArray
    times_ms: TimeArray
    counts: IntArray | None
    start_ms: int | TimeArray
    end_ms: int | TimeArray

    @property
    def is_stretch(self) -> bool:
        """Whether there are several instants."""
        return self.values.ndim > 2


class Family:
    """All series of one metric name.

    Parameters
    ----------
    name : str
        The metric's name; the label sets of its table are without it.
    retention_ms : int or None
        Rows older than this, seen from the newest, may be dropped; None keeps everything.
    """

    def __init__(self, name: str, retention_ms: int | None) -> None:
        self.name = name
        self.table = LabelTable.of(())
        self._retention_ms = retention_ms
        self._times: list[int] = []
        self._complete: list[bool] = []
        self._start = 0
        self._dropped = 0
        self._newest_row = -1
        self._newest_is_known = False
        self._newest_entries: _Entries = np.zeros(0), np.zeros(0, dtype=np.uint8), np.zeros(0, dtype=np.int64)
        self._values = np.zeros((16, 0))
        self._state = np.zeros((16, 0), dtype=np.uint8)
        self._columns: dict[LabelTable, slice | IntArray] = {}
        self._given: dict[str, tuple[LabelTable, bool]] = {}
        self._ever: dict[str, BoolArray] = {}

    def append(
        self,
        time_ms: int,
        table: LabelTable,
        values: FloatArray,
        present: BoolArray | None,
        stale: BoolArray | None,
        source: str | None,
    ) -> None:
        """Append one sample to each present series of a table, all at one instant.

        See :meth:`Database.append`.
        """
        columns = self._columns.get(table)
        if columns is None:
            if len(self._columns) >= _REMEMBERED_TABLES:
                self._columns.clear()
            columns = self._place(table)
        row = self._row(time_ms)
        self._newest_is_known = False
        state = self._state[row]
        if present is None:
            self._values[row, columns] = values
            state[columns] = _SAMPLE
        elif isinstance(columns, slice):
            np.copyto(self._values[row, columns], values, where=present)
            state[columns][present] = _SAMPLE
        else:
            self._values[row, columns[present]] = values[present]
            state[columns[present]] = _SAMPLE
        if stale is not None:
            state[np.arange(len(self.table))[columns][stale]] = _STALE
        if source is not None:
            given = (table, present is None)
            if present is not None or self._given.get(source) != given:
                self._mark_stale(state, columns, present, source)
                # Only where nothing is missing may the next sample of the same series skip this.
                self._given[source] = (table, present is None and bool(self._ever[source].sum() == len(table)))
        everything = present is None and stale is None and len(table) == len(self.table)
        self._complete[row - self._start] = everything or bool((state == _SAMPLE).all())

    def append_stretch(
        self, times_ms: TimeArray, table: LabelTable, values: FloatArray, present: BoolArray | None, source: str
    ) -> None:
        """Append what :meth:`append` would at several instants, one after the other.

        Parameters
        ----------
        times_ms : TimeArray
            Shape (n_instants,), increasing.
        table, source
            As for :meth:`append`.
        values : FloatArray
            Shape (n_rows, n_instants).
        present : BoolArray or None
            Shape (n_rows, n_instants).
        """
        times: list[int] = times_ms.tolist()
        if present is not None and present.all():
            present = None
        columns = self._columns.get(table)
        if present is not None or columns is None or self._given.get(source) != (table, True):
            for place, time_ms in enumerate(times):
                there = None if present is None else present[:, place]
                self.append(time_ms, table, values[:, place], there, None, source)
            return
        if self._start + len(self._times) + len(times) > len(self._values):
            self._make_room(times[0], len(times))
        first = self._row(times[0])
        last = [self._row(time_ms) for time_ms in times[1:]][-1]
        rows = slice(first, last + 1)
        if last - first + 1 != len(times):
            raise AssertionError(f"{self.name}: samples of the instants of a stretch lie between those")
        self._newest_is_known = False
        self._values[rows, columns] = values.T
        self._state[rows, columns] = _SAMPLE
        complete = len(table) == len(self.table)
        for row in range(first, last + 1):
            self._complete[row - self._start] = complete or bool((self._state[row] == _SAMPLE).all())

    def latest(self, time_ms: int, lookback_ms: int) -> tuple[FloatArray, BoolArray | None]:
        """Return each series' newest sample at an instant.

        Returns
        -------
        tuple of FloatArray and (BoolArray or None)
            Shape (n_series,) each. A series is absent when its newest entry is a staleness marker or not
            younger than the look-back.
        """
        last = bisect_right(self._times, time_ms) - 1
        first = bisect_right(self._times, time_ms - lookback_ms, 0, last + 1)
        if last < first:
            return np.zeros(len(self.table)), np.zeros(len(self.table), dtype=np.bool_)
        row = self._start + last
        if self._complete[last]:
            return self._values[row], None
        values, state, times = self._newest(last) if last == len(self._times) - 1 else self._newest_before(first, last)
        present = (state == _SAMPLE) & (times > time_ms - lookback_ms)
        return values, None if present.all() else present

    def latest_each(self, times_ms: TimeArray, lookback_ms: int, columns: IntArray | None) -> FloatArray:
        """Return chosen series' newest samples at several instants, shape (n_columns, n_instants).

        Parameters
        ----------
        columns : IntArray or None
            The series; None for all.

        Raises
        ------
        UnevenError
            If at some instant a series has no sample in the newest row.
        """
        rows = []
        for time_ms in times_ms.tolist():
            last = bisect_right(self._times, time_ms) - 1
            if last < 0 or self._times[last] <= time_ms - lookback_ms:
                raise UnevenError
            rows.append(last)
        self._refuse_gaps(rows, columns)
        chosen = self._values[_places(rows, self._start)]
        return (chosen if columns is None else chosen.take(columns, axis=1)).T

    def window_each(
        self, start_ms: TimeArray, end_ms: TimeArray, table: LabelTable, columns: IntArray | None
    ) -> Window:
        """Return :meth:`window` of several instants.

        Raises
        ------
        UnevenError
            If they differ in the number of samples, or a series lacks one.
        """
        firsts = [bisect_right(self._times, time_ms) for time_ms in start_ms.tolist()]
        lasts = [bisect_right(self._times, time_ms) for time_ms in end_ms.tolist()]
        ranks = lasts[0] - firsts[0]
        if ranks < 1 or any(last - first != ranks for first, last in zip(firsts, lasts, strict=True)):
            raise UnevenError
        self._refuse_gaps(range(min(firsts), max(lasts)), columns)
        rows = np.array(firsts) + np.arange(ranks)[:, np.newaxis]
        times = np.array(self._times, dtype=np.int64)[rows][:, np.newaxis]
        values = self._values[rows + self._start]
        if columns is not None:
            values = values.take(columns, axis=2)
        return Window(table, values.transpose(0, 2, 1), times, None, start_ms, end_ms)

    def _refuse_gaps(self, rows: Sequence[int], columns: IntArray | None) -> None:
        if all(map(self._complete.__getitem__, rows)):
            return
        if columns is None or not (self._state[_places(rows, self._start)].take(columns, axis=1) == _SAMPLE).all():
            raise UnevenError

    def window(self, start_ms: int, end_ms: int, table: LabelTable, columns: IntArray | None) -> Window | None:
        """Return the samples in ``(start, end]`` of chosen series, or None where there is none at all.

        Parameters
        ----------
        start_ms, end_ms : int
            The range, open on the left as in Prometheus 3.
        table : LabelTable
            Label sets of the chosen series.
        columns : IntArray or None
            Their columns; None for all.
        """
        first = bisect_right(self._times, start_ms)
        last = bisect_right(self._times, end_ms, first)
        if first == last:
            return None
        rows = slice(self._start + first, self._start + last)
        times = np.array(self._times[first:last], dtype=np.int64)[:, np.newaxis]
        values = self._values[rows] if columns is None else self._values[rows].take(columns, axis=1)
        if all(self._complete[first:last]):
            return Window(table, values, times, None, start_ms, end_ms)
        state = self._state[rows] if columns is None else self._state[rows].take(columns, axis=1)
        present = state == _SAMPLE
        if present.all():
            return Window(table, values, times, None, start_ms, end_ms)
        counts = present.sum(axis=0)
        if not counts.any():
            return None
        # Move each series' samples to the front, in order.
        order = np.argsort(~present, axis=0, kind="stable")[: int(counts.max())]
        values = np.take_along_axis(values, order, axis=0)
        return Window(table, values, times[:, 0][order], counts, start_ms, end_ms)

    @property
    def times_ms(self) -> Sequence[int]:
        """Instants for which there is a row, oldest first."""
        return tuple(self._times)

    def samples(self) -> tuple[FloatArray, FloatArray, BoolArray]:
        """Return everything that is kept.

        Returns
        -------
        tuple of FloatArray, FloatArray and BoolArray
            Times in seconds, shape (n_times,); values and where there is a sample, (n_times, n_series) each, in the
            order of ``table``.
        """
        rows = slice(self._start, self._start + len(self._times))
        return np.array(self._times) / 1000.0, self._values[rows].copy(), self._state[rows] == _SAMPLE

    def _newest(self, last: int) -> _Entries:
        """Return each series' newest entry up to the last row, going on from where this was asked before."""
        if self._newest_is_known:
            return self._newest_entries
        start = last
        while start > 0 and not self._complete[start] and self._dropped + start > self._newest_row:
            start -= 1
        if self._complete[start]:
            values, state, times = self._row_entries(start)
        else:
            # The row asked for before is looked at once more: it may have been added to since.
            values, state, times = self._widened(*self._newest_entries)
        for row in range(start, last + 1):
            self._overlay(values, state, times, row)
        self._newest_row = self._dropped + last
        self._newest_entries = values, state, times
        self._newest_is_known = True
        return self._newest_entries

    def _widened(self, values: FloatArray, state: StateArray, times: TimeArray) -> _Entries:
        """Return a copy of entries with nothing in the columns that are newer than they."""
        missing = len(self.table) - len(values)
        if not missing:
            return values.copy(), state.copy(), times.copy()
        return np.pad(values, (0, missing)), np.pad(state, (0, missing)), np.pad(times, (0, missing))

    def _newest_before(self, first: int, last: int) -> _Entries:
        """Return each series' newest entry in some rows of the past."""
        values, state, times = self._row_entries(first)
        for row in range(first + 1, last + 1):
            self._overlay(values, state, times, row)
        return values, state, times

    def _row_entries(self, row: int) -> _Entries:
        """Return a copy of a row's entries."""
        place = self._start + row
        times = np.full(len(self.table), self._times[row], dtype=np.int64)
        return self._values[place].copy(), self._state[place].copy(), times

    def _overlay(self, values: FloatArray, state: StateArray, times: TimeArray, row: int) -> None:
        """Replace entries by those of a later row where it has any."""
        later = self._state[self._start + row]
        known = later != _NOTHING
        np.copyto(values, self._values[self._start + row], where=known)
        np.copyto(state, later, where=known)
        times[known] = self._times[row]

    def _place(self, table: LabelTable) -> slice | IntArray:
        """Find a table's columns, adding those that are new."""
        if not len(self.table) and not self._times:
            self.table = table
            self._values = np.zeros((len(self._values), len(table)))
            self._state = np.zeros((len(self._state), len(table)), dtype=np.uint8)
            self._columns[table] = slice(0, len(table))
            return self._columns[table]
        known = {row: column for column, row in enumerate(self.table.rows)}
        new = [row for row in table.rows if row not in known]
        if new:
            self.table = LabelTable.of((*self.table.rows, *new))
            for row in new:
                known[row] = len(known)
            added = len(new)
            self._values = np.concatenate([self._values, np.zeros((len(self._values), added))], axis=1)
            blank = np.zeros((len(self._state), added), dtype=np.uint8)
            self._state = np.concatenate([self._state, blank], axis=1)
            self._complete = [False] * len(self._complete)
        columns = np.array([known[row] for row in table.rows], dtype=np.intp)
        straight = bool((columns == np.arange(len(columns))).all())
        self._columns[table] = slice(0, len(columns)) if straight else columns
        return self._columns[table]

    def _row(self, time_ms: int) -> int:
        """Return the array row of an instant, opening it if it is new."""
        if self._times and time_ms <= self._times[-1]:
            row = bisect_right(self._times, time_ms) - 1
            if row >= 0 and self._times[row] == time_ms:
                if row < len(self._times) - 1:
                    # What is known of the newest entries was gathered without this.
                    self._newest_row = min(self._newest_row, self._dropped + row - 1)
                return self._start + row
            raise ValueError(f"{self.name}: a sample at {time_ms} ms comes after one at {self._times[-1]} ms")
        if self._start + len(self._times) == len(self._values):
            self._make_room(time_ms)
        row = self._start + len(self._times)
        self._state[row] = _NOTHING
        self._times.append(time_ms)
        self._complete.append(False)
        return row

    def _make_room(self, time_ms: int, rows: int = 1) -> None:
        """Drop what is too old and copy the rest into new arrays; earlier views stay as they were."""
        dropped = 0
        if self._retention_ms is not None:
            dropped = bisect_right(self._times, time_ms - self._retention_ms)
        kept = slice(self._start + dropped, self._start + len(self._times))
        self._dropped += dropped
        self._times = self._times[dropped:]
        self._complete = self._complete[dropped:]
        capacity = max(16, 2 * len(self._times), len(self._times) + rows)
        values = np.zeros((capacity, len(self.table)))
        state = np.zeros((capacity, len(self.table)), dtype=np.uint8)
        values[: len(self._times)] = self._values[kept]
        state[: len(self._times)] = self._state[kept]
        self._values, self._state, self._start = values, state, 0

    def _mark_stale(self, state: StateArray, columns: slice | IntArray, present: BoolArray | None, source: str) -> None:
        """Mark series that a source once gave and lacks now.

        The marker is repeated as long as the series is missing: queries cannot tell it from a single one,
        and finding a row's newest samples then never has to look further back.
        """
        given = np.zeros(len(self.table), dtype=np.bool_)
        given[columns] = True if present is None else present
        ever = self._ever.get(source)
        if ever is None:
            self._ever[source] = given
            return
        if len(ever) < len(given):
            ever = np.concatenate([ever, np.zeros(len(given) - len(ever), dtype=np.bool_)])
        state[ever & ~given & (state == _NOTHING)] = _STALE
        self._ever[source] = ever | given


@dataclass(slots=True, eq=False)
class Database:
    """Series by metric name, appended to in order of time and read by expressions.

    Parameters
    ----------
    retention_seconds : float or None
        How much history is kept at least; None keeps everything. :attr:`RuleGroup.history_seconds` tells
        what a group needs.
    lookback_seconds : float
        Look-back of instant vectors.
    """

    retention_seconds: float | None = None
    lookback_seconds: float = DEFAULT_LOOKBACK_SECONDS
    families: dict[str, Family] = field(default_factory=dict)

    def append(
        self,
        time_seconds: float,
        name: str,
        table: LabelTable,
        values: FloatArray,
        *,
        present: BoolArray | None = None,
        stale: BoolArray | None = None,
        source: str | None = None,
    ) -> None:
        """Append samples of one metric at one instant.

        Parameters
        ----------
        time_seconds : float
            Not before the family's newest instant; kept to the millisecond.
        name : str
            The metric's name.
        table : LabelTable
            Label sets of the series; a ``__name__`` in them is left out. Pass the same table as long as the same
            series are meant: its place is then looked up once.
        values : FloatArray
            Shape (n_rows,).
        present : BoolArray, optional
            Shape (n_rows,): which series have a sample; without it all.
        stale : BoolArray, optional
            Shape (n_rows,): which series get a staleness marker in place of a sample.
        source : str, optional
            Name of the scrape or rule that gives these samples. Series of this metric that the same source
            gave the time before and lacks now get a staleness marker, as Prometheus writes one.

        Raises
        ------
        ValueError
            If the family already has a later sample, or two series differ in ``__name__`` only.
        """
        projection = table.without_name()
        if projection.index is not None:
            raise ValueError(f"{name}: two series of the table differ in their name only")
        self.family(name).append(to_milliseconds(time_seconds), projection.table, values, present, stale, source)

    def family(self, name: str) -> Family:
        """Return a metric's series, starting an empty family when it is new."""
        family = self.families.get(name)
        if family is None:
            retention = None if self.retention_seconds is None else to_milliseconds(self.retention_seconds)
            family = self.families[name] = Family(name, retention)
        return family
