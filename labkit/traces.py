"""Recorded load: reading trace files, and putting them into scenarios.

Formats::

    planetlab   one file per VM, one whole number per line: CPU percent of five minutes (CoMon, 2011)
    bitbrains   one file per VM, columns parted by ";": GWA-T-12 (CPU percent, memory provisioned and used in KB)
    csv         columns time (seconds), vm, cpu, memory (ratios in [0, 1]); memory may be absent
    parquet     the same columns

A folder stands for all files in it, in the order of their names. Times must be even: a sample that is missing, or a
line that cannot be read, is an error with file and line, unless the scenario says ``gaps: hold``, which repeats the
last value. Nothing is downloaded; users point at their own copy.
"""

from __future__ import annotations

import csv
import itertools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from labkit.errors import ScenarioError, TraceError

PLANETLAB_INTERVAL_SECONDS: Final = 300.0
GAP_FACTOR: Final = 1.5
"""Two samples further apart than this many intervals have a gap between them; less is jitter of the recorder."""
_BITBRAINS: Final = ("Timestamp [ms]", "CPU usage [%]", "Memory capacity provisioned [KB]", "Memory usage [KB]")
_MEMORY_WITHOUT_RECORD: Final = 0.5


@dataclass(frozen=True)
class Trace:
    """The recorded load of one VM.

    Parameters
    ----------
    name : str
        File stem, or the VM's name in a table.
    interval_seconds : float
        Time between samples.
    cpu : tuple of float
        Ratios in [0, 1].
    memory : tuple of float
        Ratios in [0, 1]; empty where the format has none.
    """

    name: str
    interval_seconds: float
    cpu: tuple[float, ...]
    memory: tuple[float, ...] = ()


def load_traces(path: Path, format: str, *, hold_gaps: bool = False) -> list[Trace]:  # noqa: A002
    """Read a trace file, or all of a folder.

    Parameters
    ----------
    path : Path
        File or folder.
    format : {"planetlab", "bitbrains", "csv", "parquet"}
        See the module's text.
    hold_gaps : bool
        Repeat the last value where samples are missing.

    Raises
    ------
    TraceError
        One line with file, line and what was wrong.
    """
    if format not in _READERS:
        raise TraceError(f"{path}: wanted one of the formats {', '.join(_READERS)}, found {format!r}")
    if path.is_dir():
        files = sorted(file for file in path.iterdir() if file.is_file() and not file.name.startswith("."))
    else:
        files = [path]
    if not files or not files[0].is_file():
        raise TraceError(f"{path}: wanted a trace file or a folder of them, found none")
    traces = [trace for file in files for trace in _READERS[format](file, hold_gaps)]
    if not traces:
        raise TraceError(f"{path}: wanted samples, found none")
    return traces


# --- formats -----------------------------------------------------------------------------------------


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as exc:
        raise TraceError(f"{path}: wanted a text file, found: {exc}") from exc


def _planetlab(path: Path, hold_gaps: bool) -> list[Trace]:
    values = []
    for number, line in enumerate(_lines(path), start=1):
        text = line.strip()
        if not text.isdigit() or int(text) > 100:
            raise TraceError(f"{path}:{number}: wanted a whole number from 0 to 100 (percent), found {line[:40]!r}")
        values.append(int(text) / 100)
    if not values:
        raise TraceError(f"{path}: wanted samples, found none")
    return [Trace(path.stem, PLANETLAB_INTERVAL_SECONDS, tuple(values))]


def _bitbrains(path: Path, hold_gaps: bool) -> list[Trace]:
    lines = _lines(path)
    header = [cell.strip() for cell in lines[0].split(";")] if lines else []
    missing = [column for column in _BITBRAINS if column not in header]
    if missing:
        raise TraceError(f"{path}:1: wanted the columns {', '.join(_BITBRAINS)}; missing: {', '.join(missing)}")
    places = [header.index(column) for column in _BITBRAINS]
    rows = []
    for number, line in enumerate(lines[1:], start=2):
        cells = line.split(";")
        if not line.strip():
            continue
        try:
            time, cpu, provisioned, used = (float(cells[place]) for place in places)
        except (ValueError, IndexError) as exc:
            raise TraceError(f"{path}:{number}: wanted numbers parted by ';', found {line[:60]!r}") from exc
        if not (provisioned >= 0 and used >= 0 and cpu >= 0 and math.isfinite(time + cpu + provisioned + used)):
            raise TraceError(f"{path}:{number}: wanted numbers, 0 or more, found {line[:60]!r}")
        memory = min(used / provisioned, 1.0) if provisioned > 0 else 0.0
        rows.append(_Row(number, time, min(cpu / 100, 1.0), memory))
    # The column is called milliseconds, but the published files hold seconds; five minutes tell them apart.
    steps = sorted(after.time - before.time for before, after in itertools.pairwise(rows))
    if steps and steps[len(steps) // 2] >= 10_000:
        rows = [_Row(row.line, row.time / 1000, row.cpu, row.memory) for row in rows]
    return [_even(path, path.stem, rows, hold_gaps)]


def _table(path: Path, records: Iterable[tuple[int, Mapping[str, Any]]], hold_gaps: bool) -> list[Trace]:
    by_vm: dict[str, list[_Row]] = {}
    with_memory = True
    for number, record in records:
        missing = [column for column in ("time", "vm", "cpu") if record.get(column) in (None, "")]
        if missing:
            raise TraceError(f"{path}:{number}: wanted the columns time, vm, cpu[, memory]; missing: {missing[0]}")
        with_memory = with_memory and record.get("memory") not in (None, "")
        values = [_value(path, number, name, record.get(name, 0)) for name in ("time", "cpu", "memory")]
        time, cpu, memory = values if with_memory else [*values[:2], 0.0]
        for name, ratio in (("cpu", cpu), ("memory", memory)):
            if not 0 <= ratio <= 1:
                raise TraceError(f"{path}:{number}: wanted {name} within [0, 1], found {ratio:g}")
        by_vm.setdefault(str(record["vm"]), []).append(_Row(number, time, cpu, memory))
    traces = [_even(path, vm, rows, hold_gaps) for vm, rows in sorted(by_vm.items())]
    return traces if with_memory else [Trace(t.name, t.interval_seconds, t.cpu) for t in traces]


def _value(path: Path, number: int, name: str, text: Any) -> float:
    try:
        value = float(text or 0)
    except (TypeError, ValueError) as exc:
        raise TraceError(f"{path}:{number}: wanted a number for {name}, found {str(text)[:40]!r}") from exc
    if not math.isfinite(value):
        raise TraceError(f"{path}:{number}: wanted a finite number for {name}, found {text!r}")
    return value


def _csv(path: Path, hold_gaps: bool) -> list[Trace]:
    lines = _lines(path)
    reader = csv.DictReader(lines)
    missing = [column for column in ("time", "vm", "cpu") if column not in (reader.fieldnames or [])]
    if missing:
        raise TraceError(f"{path}:1: wanted the columns time, vm, cpu[, memory]; missing: {', '.join(missing)}")
    return _table(path, ((reader.line_num, record) for record in reader), hold_gaps)


def _parquet(path: Path, hold_gaps: bool) -> list[Trace]:
    # Imported here: it costs a third of a second, and most scenarios replay nothing.
    import pyarrow.parquet
    from pyarrow.lib import ArrowException

    try:
        table = pyarrow.parquet.read_table(path)
    except (OSError, ArrowException) as exc:
        raise TraceError(f"{path}: wanted a Parquet file, found: {str(exc).splitlines()[0]}") from exc
    missing = [column for column in ("time", "vm", "cpu") if column not in table.column_names]
    if missing:
        raise TraceError(f"{path}: wanted the columns time, vm, cpu[, memory]; missing: {', '.join(missing)}")
    return _table(path, enumerate(table.to_pylist(), start=1), hold_gaps)


_READERS: Final[Mapping[str, Callable[[Path, bool], list[Trace]]]] = {
    "planetlab": _planetlab,
    "bitbrains": _bitbrains,
    "csv": _csv,
    "parquet": _parquet,
}


@dataclass(frozen=True)
class _Row:
    """One sample, with the line of the file it stands on."""

    line: int
    time: float
    cpu: float
    memory: float


def _even(path: Path, name: str, rows: Sequence[_Row], hold_gaps: bool) -> Trace:
    """Put the samples of one VM on an even grid."""
    if len(rows) < 2:
        raise TraceError(f"{path}: wanted two samples or more of VM {name}, found {len(rows)}")
    steps = [after.time - before.time for before, after in itertools.pairwise(rows)]
    backward = next((index for index, step in enumerate(steps) if step <= 0), None)
    if backward is not None:
        row = rows[backward + 1]
        raise TraceError(f"{path}:{row.line}: wanted rising times of VM {name}, found {row.time:g} again or earlier")
    interval = float(round(sorted(steps)[len(steps) // 2], 3))
    cpu: list[float] = []
    memory: list[float] = []
    for row, step in zip(rows, [interval, *steps], strict=True):
        if step > GAP_FACTOR * interval:
            if not hold_gaps:
                raise TraceError(
                    f"{path}:{row.line}: wanted a sample of VM {name} each {interval:g} s, found a gap of {step:g} s; "
                    "fill it, or say gaps: hold"
                )
            for _ in range(round(step / interval) - 1):
                cpu.append(cpu[-1])
                memory.append(memory[-1])
        cpu.append(row.cpu)
        memory.append(row.memory)
    return Trace(name, interval, tuple(cpu), tuple(memory))


# --- scenarios ---------------------------------------------------------------------------------------

_POOL_FIELDS: Final = {"path", "format", "gaps", "memory", "limit", "repeat"}
_SHAPE_FIELDS: Final = {"kind", "path", "format", "gaps", "vm", "repeat"}


def resolve_traces(spec: dict[str, Any], source: str, folder: Path | None) -> dict[str, Any]:
    """Replace references to trace files by their samples.

    A pool's ``traces: {path, format, gaps, memory, limit, repeat}`` becomes one load per trace; a shape
    ``{kind: trace, path, format, vm, …}`` gets ``samples`` and ``interval``.

    Parameters
    ----------
    spec : dict
        A scenario's spec, not yet checked; changed in place where it has references.
    source : str
        For error texts.
    folder : Path or None
        Where relative paths begin; None refuses references.

    Raises
    ------
    ScenarioError, TraceError
        If a reference cannot be resolved.
    """
    for section in ("vmPools", "vms"):
        items = spec.get(section)
        for index, item in enumerate(items if isinstance(items, list) else []):
            if not isinstance(item, dict):
                continue
            where = f"spec.{section}[{index}]"
            if isinstance(item.get("traces"), dict):
                item["traces"] = _pool_loads(item["traces"], source, f"{where}.traces", folder)
            load = item.get("load")
            if not isinstance(load, dict):
                continue
            for dimension in ("cpu", "memory"):
                shape = load.get(dimension)
                if isinstance(shape, dict) and shape.get("kind") == "trace" and "path" in shape:
                    load[dimension] = _shape(shape, dimension, source, f"{where}.load.{dimension}", folder)
    return spec


def _pool_loads(text: dict[str, Any], source: str, where: str, folder: Path | None) -> list[dict[str, Any]]:
    traces = _referenced(text, _POOL_FIELDS, source, where, folder)
    repeat = bool(text.get("repeat", False))
    without = text.get("memory", _MEMORY_WITHOUT_RECORD)
    return [
        {
            "cpu": _samples(trace.cpu, trace.interval_seconds, repeat),
            "memory": _samples(trace.memory, trace.interval_seconds, repeat) if trace.memory else without,
        }
        for trace in traces[: text.get("limit")]
    ]


def _shape(text: dict[str, Any], dimension: str, source: str, where: str, folder: Path | None) -> dict[str, Any]:
    traces = _referenced(text, _SHAPE_FIELDS, source, where, folder)
    name = text.get("vm", traces[0].name if len(traces) == 1 else None)
    chosen = [trace for trace in traces if trace.name == name]
    if len(chosen) != 1:
        some = ", ".join(trace.name for trace in traces[:5])
        raise ScenarioError(f"{source}: {where}.vm: wanted one of {some}, found {name!r}")
    values = chosen[0].cpu if dimension == "cpu" else chosen[0].memory
    if not values:
        raise ScenarioError(f"{source}: {where}: {text['path']} has no memory; give memory a ratio or another shape")
    return _samples(values, chosen[0].interval_seconds, bool(text.get("repeat", False)))


def _samples(values: Sequence[float], interval_seconds: float, repeat: bool) -> dict[str, Any]:
    rounded = [round(value, 4) for value in values]
    return {"kind": "trace", "samples": rounded, "interval": interval_seconds, "repeat": repeat}


def _referenced(text: dict[str, Any], known: set[str], source: str, where: str, folder: Path | None) -> list[Trace]:
    unknown = sorted(set(text) - known)
    if unknown:
        raise ScenarioError(f"{source}: {where}.{unknown[0]}: unknown field, wanted one of {', '.join(sorted(known))}")
    if folder is None:
        raise ScenarioError(
            f"{source}: {where}: trace files are read where scenario files are, not in a cluster; apply it with labkit"
        )
    for field in ("path", "format"):
        if not isinstance(text.get(field), str):
            raise ScenarioError(f"{source}: {where}.{field}: wanted text, found {text.get(field)!r}")
    if text.get("gaps", "refuse") not in ("refuse", "hold"):
        raise ScenarioError(f"{source}: {where}.gaps: wanted refuse or hold, found {text['gaps']!r}")
    limit = text.get("limit")
    if limit is not None and (isinstance(limit, bool) or not isinstance(limit, int) or limit < 1):
        raise ScenarioError(f"{source}: {where}.limit: wanted a whole number, 1 or more, found {limit!r}")
    return load_traces(folder / text["path"], text["format"], hold_gaps=text.get("gaps") == "hold")
