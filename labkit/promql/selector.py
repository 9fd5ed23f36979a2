"""Selectors: which series of a database an expression reads."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from labkit.promql.labels import NAME, Labels, LabelTable
from labkit.promql.storage import Database, Family, IntArray
from labkit.promql.syntax import compile_pattern

__all__ = ["Selector"]


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

    def families(self, database: Database) -> list[Family]:
        """Return the metrics that may be selected, by name."""
        families = database.families
        if self.name is not None:
            family = families.get(self.name)
            return [] if family is None else [family]
        return [families[name] for name in sorted(families) if self.matches_name(name)]

    def columns(self, table: LabelTable) -> tuple[LabelTable, IntArray | None]:
        """Return the selected rows of a family's table and their columns, None for all."""
        if not self.matchers:
            return table, None

        def make() -> tuple[LabelTable, IntArray | None]:
            columns = [column for column, row in enumerate(table.rows) if self.matches(row)]
            if len(columns) == len(table):
                return table, None
            return LabelTable.of(table.rows[column] for column in columns), np.array(columns, dtype=np.intp)

        made: tuple[LabelTable, IntArray | None] = table.remembered(("selected", self.matchers), make)
        return made


def _accepts(operator: str, wanted: str, value: str) -> bool:
    if operator == "=":
        return value == wanted
    if operator == "!=":
        return value != wanted
    matched = compile_pattern(wanted).fullmatch(value) is not None
    return matched if operator == "=~" else not matched
