"""A database as OpenMetrics text, so that a real Prometheus can show a run of the twin."""

from __future__ import annotations

import math
from collections.abc import Collection
from pathlib import Path

import numpy as np

from labkit.promql import Database
from labkit.promql.labels import Labels


def write_openmetrics(database: Database, path: Path, *, start_seconds: float, leave_out: Collection[str] = ()) -> None:
    """Write all samples of a database.

    Parameters
    ----------
    database : Database
        Times in lab seconds.
    path : Path
        File to write.
    start_seconds : float
        What lab time 0 becomes, in seconds since 1970.
    leave_out : collection of str
        Names of metrics not to write.

    Notes
    -----
    Metrics are written as ``unknown``, because OpenMetrics wants counters to be called ``…_total`` in one place and not
    in another, and types make no difference to queries. A gap in a series stays a gap: staleness markers have no text.
    """
    with path.open("w", encoding="utf-8") as file:
        for name in sorted(set(database.families) - set(leave_out)):
            family = database.families[name]
            times, values, present = family.samples()
            file.write(f"# TYPE {name} unknown\n")
            stamps = [f"{start_seconds + time:.3f}" for time in times.tolist()]
            for column, row in enumerate(family.table.rows):
                head = f"{name}{_text(row)}"
                rows = np.flatnonzero(present[:, column]).tolist()
                file.writelines(f"{head} {_value(values[r, column])} {stamps[r]}\n" for r in rows)
        file.write("# EOF\n")


def _text(labels: Labels) -> str:
    pairs = ",".join(f'{name}="{_escaped(value)}"' for name, value in labels)
    return f"{{{pairs}}}" if pairs else ""


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def _value(value: float) -> str:
    return repr(float(value)) if math.isfinite(value) else {True: "+Inf", False: "-Inf"}.get(value > 0, "NaN")
