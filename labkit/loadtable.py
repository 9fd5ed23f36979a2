"""Tables of node loads in CSV files: ``node,cpu_usage,cpu_pressure,memory_usage,memory_pressure``."""

from __future__ import annotations

import csv
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from labkit.errors import InputError
from labkit.model import Snapshot
from labkit.names import DIMENSIONS

COLUMNS: Final = ("node", *DIMENSIONS)


def read_loads(path: Path) -> Snapshot:
    """Read a CSV file with one row per node.

    Parameters
    ----------
    path : Path
        The file. Its columns may stand in any order; others are ignored.

    Raises
    ------
    InputError
        If the file cannot be read, a column is missing, or a row has a value that is no ratio; names file and line.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            return parse_loads(file, source=str(path))
    except (OSError, UnicodeDecodeError, csv.Error) as exc:
        raise InputError(f"{path}: wanted a CSV file with {','.join(COLUMNS)}: {exc}") from exc


def parse_loads(lines: Iterable[str], *, source: str) -> Snapshot:
    """Read rows of CSV; see :func:`read_loads`."""
    reader = csv.DictReader(lines, skipinitialspace=True)
    header = [name.strip() for name in reader.fieldnames or ()]
    reader.fieldnames = header
    missing = [column for column in COLUMNS if column not in header]
    if missing:
        raise InputError(
            f"{source}: wanted the columns {','.join(COLUMNS)}, found {','.join(header) or 'none'}: "
            f"{', '.join(missing)} missing"
        )
    nodes: dict[str, int] = {}
    loads: list[list[float]] = []
    for row in reader:
        place = f"{source}:{reader.line_num}"
        node = (row["node"] or "").strip()
        if not node:
            raise InputError(f"{place}: wanted the node's name, found none")
        if node in nodes:
            raise InputError(f"{place}: wanted each node once, found {node} again after line {nodes[node]}")
        nodes[node] = reader.line_num
        loads.append([_ratio(row[dimension], f"{place}: wanted {dimension} of {node}") for dimension in DIMENSIONS])
    if not nodes:
        raise InputError(f"{source}: wanted at least one node, found only the header")
    return Snapshot.of(list(nodes), loads)


def _ratio(text: str | None, wanted: str) -> float:
    try:
        value = float((text or "").strip())
    except ValueError:
        value = float("nan")
    if not 0.0 <= value <= 1.0:
        raise InputError(f"{wanted} within [0, 1], found {(text or '').strip() or 'nothing'}")
    return value
