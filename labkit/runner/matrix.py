"""A matrix from plan to report: what exists, what is missing, what to do about it.

The experiment's folder is the only memory. A run folder whose ``run.json`` says *succeeded* and whose key equals the
run's is finished; everything else is to do. Interrupting at any moment loses the runs in flight and nothing else, and a
run that fails never takes the place of one that succeeded: see :func:`labkit.results.place_of`.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

from labkit import results
from labkit.errors import ExperimentError, ResultError
from labkit.experiment import Experiment, RunSpec, expand
from labkit.lab import Lab
from labkit.results import RunRecord
from labkit.runner import live, twin
from labkit.runner.play import context
from labkit.runner.progress import Progress, Silent
from labkit.scenario import load_scenario
from labkit.versions import RESULTS_API_VERSION

log = logging.getLogger(__name__)

_TWIN_RUN_SECONDS: Final = 0.5
"""What a run of the twin takes when nothing better is known."""
_LIVE_OVERHEAD_SECONDS: Final = 20.0
"""Placing VMs, filling windows, switching the algorithm, executing the notebook's figures."""
_LIVE_START_SECONDS: Final = 25.0


@dataclass(frozen=True)
class Plan:
    """The runs of an experiment, and which of them are still to do.

    Parameters
    ----------
    experiment : Experiment
        The checked file.
    folder : Path
        The experiment's folder.
    runs : list of RunSpec
        All of them, in order.
    keys : dict of str to str
        Hash by run id.
    todo : list of RunSpec
        What a call would run now.
    failed : list of RunRecord
        Runs that failed before and are left as they are.
    estimate_seconds : float
        Wall time of what is to do.
    """

    experiment: Experiment
    folder: Path
    runs: list[RunSpec]
    keys: dict[str, str]
    todo: list[RunSpec]
    failed: list[RunRecord]
    estimate_seconds: float


@dataclass(frozen=True)
class Outcome:
    """What became of an experiment.

    Parameters
    ----------
    folder : Path
        The experiment's folder.
    counts : dict of str to int
        Runs of the matrix by status.
    new_runs : int
        How many were made now.
    kept : tuple of str
        Runs that failed when they were repeated now; what had succeeded before is still there.
    status : {"succeeded", "failed", "interrupted"}
        ``failed`` if a run of the matrix has failed, or one that was repeated now.
    """

    folder: Path
    counts: dict[str, int]
    new_runs: int
    kept: tuple[str, ...]
    status: Literal["succeeded", "failed", "interrupted"]


def plan(
    experiment: Experiment, folder: Path, *, retry_failed: bool = False, force: bool = False, workers: int = 2
) -> Plan:
    """Compare the matrix with what the folder holds.

    Parameters
    ----------
    experiment : Experiment
        The checked file.
    folder : Path
        The experiment's folder; need not exist.
    retry_failed, force : bool
        Run again what failed, or everything.
    workers : int
        How many runs of the twin go side by side, for the estimate.

    Raises
    ------
    InputError
        If the scenarios cannot make up a matrix.
    """
    runs = expand(experiment)
    _check_scenarios(experiment)
    contexts: dict[tuple[str, str], dict[str, str]] = {}
    keys = {}
    for run in runs:
        what = run.algorithm, run.scenario
        if what not in contexts:
            contexts[what] = context(run)
        keys[run.run_id] = run.key(contexts[what])
    todo, failed, walls = [], [], []
    for run in runs:
        record = _current(folder, run.run_id, keys[run.run_id])
        if record is not None and record.status == "succeeded":
            walls.append(float(record.summary.get("wall_seconds") or 0.0))
            if not force:
                continue
        if record is not None and record.status == "failed" and not (retry_failed or force):
            failed.append(record)
            continue
        todo.append(run)
    per_run = sum(walls) / len(walls) if walls else _TWIN_RUN_SECONDS
    return Plan(experiment, folder, runs, keys, todo, failed, _estimate(experiment, len(todo), per_run, workers))


def _check_scenarios(experiment: Experiment) -> None:
    """Refuse what would make every run of a scenario fail, or two scenarios one in the tables."""
    entries: dict[str, str] = {}
    for entry in experiment.scenarios:
        scenario = load_scenario(entry)
        other = entries.setdefault(scenario.name, entry)
        if other != entry:
            raise ExperimentError(
                f"{experiment.path}: matrix.scenario: wanted scenarios of different names, found {scenario.name!r} in "
                f"{other} and {entry}: change metadata.name of one"
            )
        for nodes in experiment.nodes:
            if nodes is not None:
                scenario.with_nodes(nodes).expand(experiment.seeds[0])


def _estimate(experiment: Experiment, todo: int, run_seconds: float, workers: int) -> float:
    if not todo:
        return 0.0
    if experiment.backend == "sim":
        return todo * run_seconds / max(workers, 1) + 5.0
    return _LIVE_START_SECONDS + todo * (experiment.duration_seconds / experiment.tempo + _LIVE_OVERHEAD_SECONDS)


def _current(folder: Path, run_id: str, key: str) -> RunRecord | None:
    """Return the record of a run with that key, be it in its place or an attempt that failed; None without one."""
    for place in (folder / run_id, folder / results.FAILED_FOLDER / run_id):
        record = _existing(place)
        if record is not None and record.key == key:
            return record
    return None


def _existing(folder: Path) -> RunRecord | None:
    if not (folder / results.RUN_FILE).exists():
        return None
    try:
        return results.read_run(folder)
    except ResultError as exc:
        log.warning("%s", exc)
        return None


def carry_out(
    what: Plan, *, progress: Progress | None = None, scheduler: str | None = None, lab_name: str | None = None
) -> Outcome:
    """Make the runs that are to do, and collect all of them into ``runs.parquet``.

    Parameters
    ----------
    what : Plan
        From :func:`plan`.
    progress : Progress, optional
        Who is told.
    scheduler : str, optional
        Address of a Dask scheduler for runs of the twin.
    lab_name : str, optional
        Which lab plays live runs; the default one when not given.

    Raises
    ------
    KeyboardInterrupt
        After the finished runs are safe on disk.
    """
    watcher: Progress = progress if progress is not None else Silent()
    if what.todo and what.experiment.backend != "sim":
        live.check(what.todo, what.experiment, lab_name)
    watcher.begin(len(what.todo), len(what.runs) - len(what.todo))
    try:
        with ExitStack() as stack:
            # What is in the way is told before anything is written.
            return _carry_out(what, _records(what, watcher, scheduler, lab_name, stack), watcher)
    finally:
        watcher.end()


def _records(
    what: Plan, progress: Progress, scheduler: str | None, lab_name: str | None, stack: ExitStack
) -> Iterator[RunRecord]:
    """Open what plays the runs; return the iterator that makes them, one after another."""
    if not what.todo:
        return iter(())
    if what.experiment.backend == "sim":
        progress.note("starting workers" if scheduler is None else f"using the workers of {scheduler}")
        return _twin(what, stack.enter_context(twin.connect(scheduler)))
    lab = Lab(backend=what.experiment.backend, tempo=what.experiment.tempo, name=lab_name).up(say=progress.note)
    stack.callback(lab.down)
    progress.note(f"lab is up at tempo {lab.tempo}")
    return live.play_all(
        what.todo, what.keys, folder=what.folder, experiment=what.experiment, progress=progress, lab_name=lab_name
    )


def _carry_out(what: Plan, made: Iterator[RunRecord], progress: Progress) -> Outcome:
    try:
        (what.folder / results.SCENARIOS_FOLDER).mkdir(parents=True, exist_ok=True)
    except OSError as exc:
        raise ResultError(f"wanted to write into {what.folder}, found: {exc.strerror}; use another --out") from exc
    for name in sorted({run.scenario for run in what.todo}):
        results.write_scenario(what.folder / results.SCENARIOS_FOLDER, load_scenario(name))
    status: Literal["succeeded", "failed", "interrupted"] = "interrupted"
    kept, new = [], 0
    try:
        for record in made:
            new += 1
            progress.finished(record)
            place = results.place_of(what.folder / record.run_id, record.status)
            if place.parent != what.folder:
                kept.append(record.run_id)
                progress.note(f"{record.run_id}: its run of before stays; what failed is in {place}")
        status = "succeeded"
    finally:
        records = current_records(what)
        counts = dict(Counter(str(record.status) for record in records))
        if counts.get("failed") and status == "succeeded":
            status = "failed"
        _write_state(what, records, counts, status)
    return Outcome(what.folder, counts, new, tuple(kept), "failed" if kept else status)


def _twin(what: Plan, client: Any) -> Iterator[RunRecord]:
    jobs = [twin.Job(run, what.experiment.name, what.keys[run.run_id]) for run in what.todo]
    with closing(twin.play_all(jobs, client)) as played:
        for finished in played:
            results.write_run(what.folder / finished.record.run_id, finished.record, finished.encoded)
            yield finished.record


def current_records(what: Plan) -> list[RunRecord]:
    """Return the records of the matrix that exist and are up to date, in the order of their ids."""
    found = (_current(what.folder, run.run_id, what.keys[run.run_id]) for run in what.runs)
    return sorted((record for record in found if record is not None), key=lambda record: record.run_id)


def _write_state(what: Plan, records: Sequence[RunRecord], counts: dict[str, int], status: str) -> None:
    experiment = what.experiment
    frame = results.collect(list(records))
    if len(frame):
        results.write_table(what.folder / results.RUNS_FILE, frame)
    else:
        (what.folder / results.RUNS_FILE).unlink(missing_ok=True)
    state: dict[str, Any] = {
        "api_version": RESULTS_API_VERSION,
        "name": experiment.name,
        "question": experiment.question,
        "backend": experiment.backend,
        "baseline": experiment.baseline,
        "metrics": list(experiment.metrics),
        "duration_seconds": experiment.duration_seconds,
        "tempo": experiment.tempo,
        "runs": len(what.runs),
        "counts": counts,
        "status": status,
        "keys": sorted(what.keys.values()),
        "text": experiment.path.read_text(encoding="utf-8") if experiment.path.is_file() else "",
    }
    results.write_json(what.folder / results.EXPERIMENT_FILE, state)
