"""Runs on disk: one folder per run, ``run.json`` and one Parquet file per table.

A run folder appears whole or not at all: it is written beside its place and renamed. What a folder holds is told
by ``api_version``; another version is refused by name, never guessed at. Nothing here computes a number.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any, Final, Literal

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

import labkit
from labkit import versions as pinned
from labkit.analysis.tables import COLUMNS, Tables, conform, conform_all
from labkit.clock import WALL_CLOCK
from labkit.errors import InputError, ResultError
from labkit.scenario import Scenario, parse_scenario

Status = Literal["succeeded", "failed", "interrupted"]

RUN_FILE: Final = "run.json"
RUNS_FILE: Final = "runs.parquet"
EXPERIMENT_FILE: Final = "experiment.json"
REPORT_FILE: Final = "report.html"
SCENARIOS_FOLDER: Final = "scenarios"
FAILED_FOLDER: Final = "failed"
"""Beside runs: later attempts that failed, by the names of the runs that succeeded before and stay in their place."""
_PARTIAL_PREFIX: Final = ".partial-"
_LIBRARIES: Final = ("numpy", "pandas", "scipy")


@dataclass(frozen=True)
class RunRecord:
    """What ``run.json`` says.

    Parameters
    ----------
    run_id : str
        Readable name, unique within its experiment; the folder's name.
    backend, scenario, algorithm, seed, tempo : str, str, str, int, int
        What was run; ``scenario`` is its name.
    policy : dict
        Differences from the production policy, by the names of an experiment file's ``matrix.policy``.
    status : {"succeeded", "failed", "interrupted"}
        How it ended.
    error : str or None
        Why it failed.
    summary : dict
        ``labkit.analysis.summarize``; empty when it failed.
    started_at : str
        ISO 8601, UTC.
    experiment : str
        Name of the experiment, empty for a single run.
    key : str
        Hash of everything that decides the outcome; equal keys mean the same run.
    duration_seconds : float
        Lab seconds asked for.
    parameters : dict
        Further factors (``nodes``, ``repeat``, ``policy_name`` …).
    timing : dict
        What the machine added to a live run: lags that the twin is given for comparison.
    notes : list of str
        What somebody should know who reads the numbers.
    """

    run_id: str
    backend: str
    scenario: str
    algorithm: str
    seed: int
    tempo: int
    policy: dict[str, Any]
    status: Status
    error: str | None
    summary: dict[str, Any]
    started_at: str
    experiment: str = ""
    key: str = ""
    duration_seconds: float = 0.0
    parameters: dict[str, Any] = field(default_factory=dict)
    timing: dict[str, float] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    versions: dict[str, str] = field(default_factory=lambda: component_versions())
    git_commit: str | None = field(default_factory=lambda: git_commit())
    host: dict[str, Any] = field(default_factory=lambda: describe_host())
    api_version: str = pinned.RESULTS_API_VERSION

    def failed(self, error: str) -> RunRecord:
        """Return the record of the same run, failed."""
        return replace(self, status="failed", error=error, summary={})


def component_versions() -> dict[str, str]:
    """Return the versions of everything that takes part in a run."""
    return {
        **_installed_versions(),
        "python": platform.python_version(),
        "kubernetes": pinned.KUBERNETES,
        "descheduler": pinned.DESCHEDULER,
        "prometheus": pinned.PROMETHEUS,
        "kwok": pinned.KWOK,
        "etcd": pinned.ETCD,
    }


@cache
def _installed_versions() -> dict[str, str]:
    """Ask once a process: a package's metadata is parsed anew by every question, and each run of a matrix asks."""
    return {name: importlib.metadata.version(name) for name in ("labkit", *_LIBRARIES)}


def describe_host() -> dict[str, Any]:
    """Return what can make the same run take longer elsewhere."""
    return {"system": platform.system(), "machine": platform.machine(), "cpus": os.cpu_count() or 1}


def git_commit() -> str | None:
    """Return the commit of the checkout that this package runs from, None outside a checkout."""
    root = Path(labkit.__file__).resolve().parent.parent
    git = root / ".git"
    try:
        if git.is_file():  # of a further work tree
            git = root / git.read_text().removeprefix("gitdir:").strip()
        common = git / (git / "commondir").read_text().strip() if (git / "commondir").is_file() else git
        head = (git / "HEAD").read_text().strip()
        if not head.startswith("ref: "):
            return head
        ref = head.removeprefix("ref: ")
        for folder in (git, common):
            if (folder / ref).is_file():
                return (folder / ref).read_text().strip()
        for line in (common / "packed-refs").read_text().splitlines():
            if line.endswith(" " + ref):
                return line.split()[0]
    except OSError:
        return None
    return None


def timestamp(*, seconds_ago: float = 0.0) -> str:
    """Return a moment as ``run.json`` writes it: ISO 8601, UTC."""
    return datetime.fromtimestamp(WALL_CLOCK.now() - seconds_ago, UTC).isoformat(timespec="seconds")


@contextmanager
def new_folder(target: Path) -> Iterator[Path]:
    """Give a folder to fill, and rename it to its place when the block ends well.

    What was in that place before is replaced, but never a run that succeeded by one that did not: see
    :func:`place_of`. When the block fails nothing remains.

    Raises
    ------
    ResultError
        If the disk refuses.
    """
    target = target.absolute()
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(prefix=f"{_PARTIAL_PREFIX}{target.name}-", dir=target.parent))
        partial.chmod(0o755)
    except OSError as exc:
        raise ResultError(f"wanted to write {target}, found: {exc.strerror or exc}; use another --out") from exc
    try:
        yield partial
        status = _status(partial)
        _move(partial, place_of(target, status or "succeeded"))
        if status == "succeeded":
            shutil.rmtree(target.parent / FAILED_FOLDER / target.name, ignore_errors=True)
    except OSError as exc:
        raise ResultError(f"wanted to write {target}, found: {exc.strerror or exc}; use another --out") from exc
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _move(partial: Path, place: Path) -> None:
    """Rename a folder to its place; what is there is removed once it has been replaced."""
    if not place.exists():
        place.parent.mkdir(exist_ok=True)
        os.replace(partial, place)
        return
    old = Path(tempfile.mkdtemp(prefix=f"{_PARTIAL_PREFIX}old-", dir=place.parent))
    os.replace(place, old)
    os.replace(partial, place)
    shutil.rmtree(old, ignore_errors=True)


def place_of(target: Path, status: Status) -> Path:
    """Return where a run is put that ended so: in its folder, or beside it where a run has succeeded before."""
    if status == "succeeded" or _status(target) != "succeeded":
        return target
    return target.parent / FAILED_FOLDER / target.name


def _status(folder: Path) -> Status | None:
    """Return how the run of a folder ended; None where there is none that can be read."""
    try:
        return read_run(folder).status
    except ResultError:
        return None


def check_place(target: Path) -> None:
    """Check that a run may be written to a place: what is there already would be removed.

    Raises
    ------
    InputError
        If something else than a run is there.
    """
    if (target.is_dir() and any(target.iterdir()) and not (target / RUN_FILE).is_file()) or target.is_file():
        raise InputError(
            f"wanted a new folder or that of a run for --out, found {target} with something else in it: "
            "name a folder of its own, such as runs/mine"
        )


def encode_tables(tables: Tables) -> dict[str, bytes]:
    """Check the tables of a run and return each as a Parquet file."""
    encoded = {}
    for name, frame in conform_all(tables).items():
        buffer = pa.BufferOutputStream()
        pq.write_table(pa.Table.from_pandas(frame, preserve_index=False), buffer, compression="zstd")
        encoded[name] = buffer.getvalue().to_pybytes()
    return encoded


def fill_run(folder: Path, record: RunRecord, encoded: Mapping[str, bytes]) -> None:
    """Write the files of a run into an existing folder; ``run.json`` comes last."""
    for name, content in encoded.items():
        write_bytes(folder / f"{name}.parquet", content)
    write_json(folder / RUN_FILE, asdict(record))


def write_run(target: Path, record: RunRecord, encoded: Mapping[str, bytes] | None = None) -> Path:
    """Write a run folder, whole or not at all, and return its path, which :func:`place_of` decides.

    Parameters
    ----------
    target : Path
        The folder; what was in its place is replaced.
    record : RunRecord
        What ``run.json`` is to say.
    encoded : mapping of str to bytes, optional
        The tables, by :func:`encode_tables`; a failed run has none.
    """
    with new_folder(target) as folder:
        fill_run(folder, record, encoded or {})
    return place_of(target, record.status)


def write_bytes(path: Path, content: bytes) -> None:
    """Write one file, whole or not at all.

    Raises
    ------
    ResultError
        If the disk refuses.
    """
    partial = path.with_name(_PARTIAL_PREFIX + path.name)
    try:
        partial.write_bytes(content)
        os.replace(partial, path)
    except OSError as exc:
        raise ResultError(f"wanted to write {path}, found: {exc.strerror or exc}; use another --out") from exc


def write_table(path: Path, frame: pd.DataFrame) -> None:
    """Write one table, whole or not at all."""
    buffer = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pandas(frame, preserve_index=False), buffer, compression="zstd")
    write_bytes(path, buffer.getvalue().to_pybytes())


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write one JSON file, whole or not at all."""
    write_bytes(path, (json.dumps(content, indent=2, allow_nan=False) + "\n").encode())


def read_run(folder: Path) -> RunRecord:
    """Read ``run.json`` of a run folder.

    Raises
    ------
    ResultError
        If there is none, it is no JSON, or it has another ``api_version``.
    """
    path = folder / RUN_FILE
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as exc:
        raise ResultError(f"wanted a run folder with {RUN_FILE}, found none in {folder}") from exc
    except (OSError, ValueError) as exc:
        raise ResultError(f"cannot read {path}: {exc}; the run must be repeated") from exc
    found = content.get("api_version") if isinstance(content, dict) else None
    if found != pinned.RESULTS_API_VERSION:
        raise ResultError(
            f"wanted api_version {pinned.RESULTS_API_VERSION} in {path}, found {found!r}: "
            "read it with the labkit that wrote it, or repeat the run"
        )
    try:
        return RunRecord(**content)
    except TypeError as exc:
        raise ResultError(f"cannot read {path}: {exc}; the run must be repeated") from exc


def write_scenario(folder: Path, scenario: Scenario) -> None:
    """Keep what was played: as ``scenarios/<name>.json`` of an experiment, or beside ``run.json`` of a single run."""
    write_json(folder / f"{scenario.name}.scenario.json", scenario.document)


def read_scenario(folder: Path) -> Scenario | None:
    """Return what a run played, in the size it had; None where it was not kept."""
    record = read_run(folder)
    for place in (folder, folder.parent / SCENARIOS_FOLDER):
        path = place / f"{record.scenario}.scenario.json"
        if path.is_file():
            scenario = parse_scenario(json.loads(path.read_text(encoding="utf-8")), str(path))
            size = record.parameters.get("nodes")
            return scenario if size is None else scenario.with_nodes(size)
    return None


def read_experiment(folder: Path) -> tuple[dict[str, Any], pd.DataFrame]:
    """Read an experiment's folder: what was asked (``experiment.json``) and one row per run (``runs.parquet``).

    Raises
    ------
    ResultError
        If the folder holds no experiment, no run, or another format.
    """
    try:
        state = json.loads((folder / EXPERIMENT_FILE).read_text(encoding="utf-8"))
        runs = pq.read_table(folder / RUNS_FILE).to_pandas()
    except FileNotFoundError as exc:
        raise ResultError(
            f"wanted an experiment's folder with {EXPERIMENT_FILE} and {RUNS_FILE}, found none in {folder}: "
            "'labkit experiment FILE' makes one"
        ) from exc
    except (OSError, ValueError, pa.ArrowException) as exc:
        raise ResultError(f"cannot read the experiment in {folder}: {exc}") from exc
    found = state.get("api_version") if isinstance(state, dict) else None
    if found != pinned.RESULTS_API_VERSION:
        raise ResultError(f"wanted api_version {pinned.RESULTS_API_VERSION} in {folder}, found {found!r}")
    return state, runs


def read_tables(folder: Path, *, only: Iterable[str] | None = None) -> dict[str, pd.DataFrame]:
    """Read the tables of a run folder: the five of every run and any others, or only some.

    Raises
    ------
    ResultError
        If one of the five is missing or has other columns.
    """
    others = sorted(path.stem for path in folder.glob("*.parquet") if path.stem not in COLUMNS)
    names = list(only) if only is not None else [*COLUMNS, *others]
    tables = {}
    for name in names:
        path = folder / f"{name}.parquet"
        try:
            frame = pq.read_table(path).to_pandas()
        except (OSError, pa.ArrowException) as exc:
            raise ResultError(f"wanted table {path}, found: {exc}") from exc
        tables[name] = conform(name, frame) if name in COLUMNS else frame
    return tables


def run_folders(experiment: Path) -> list[Path]:
    """Return the run folders of an experiment's folder, sorted by name."""
    if not experiment.is_dir():
        return []
    return sorted(path.parent for path in experiment.glob(f"*/{RUN_FILE}") if not path.parent.name.startswith("."))


def collect(records: list[RunRecord]) -> pd.DataFrame:
    """Return one row per run: its factors, its status, and its summary."""
    rows = [
        {
            "run_id": record.run_id, "backend": record.backend, "algorithm": record.algorithm,
            "scenario": record.scenario, "seed": record.seed, "tempo": record.tempo,
            "policy": json.dumps(record.policy, sort_keys=True),
            **record.parameters,
            "status": record.status, "error": record.error or "", "key": record.key,
            **record.summary,
        }
        for record in records
    ]  # fmt: skip
    frame = pd.DataFrame(rows)
    if "wall_seconds" in frame:
        frame["wall_seconds"] = frame["wall_seconds"].astype("float64")
    return frame.sort_values("run_id", ignore_index=True) if len(frame) else frame
