"""One run on any backend: playing it, recording it, and what identifies it."""

from __future__ import annotations

import hashlib
import json
import traceback
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any, Final

import labkit
from labkit import results, scoring
from labkit.datafiles import data_path
from labkit.errors import LabError
from labkit.experiment import BASELINES, RunSpec
from labkit.lab import Lab, Progress, Run
from labkit.results import RunRecord
from labkit.scenario import load_scenario

# What decides the outcome of a twin run, beside its parameters, the rules and the scenario.
_MODEL_SOURCES: Final = (
    "load.py", "migration.py", "placement.py", "descheduling.py", "traces.py", "names.py", "units.py", "clock.py",
    "model.py", "scenario", "scoring", "promql", "sim",
)  # fmt: skip
# What decides the meaning of every run's numbers.
_SUMMARY_SOURCES: Final = (
    "analysis/summary.py", "analysis/tables.py", "analysis/imbalance.py", "analysis/convergence.py",
    "analysis/hotspots.py", "analysis/movement.py", "analysis/happiness.py", "sim/outcome.py", "sim/regret.py",
)  # fmt: skip


def play(spec: RunSpec, lab: Lab, *, progress: Callable[[Progress], None] | None = None) -> Run:
    """Play one run in a lab that is up.

    Raises
    ------
    LabError
        If the scenario, the algorithm or the policy is wrong, or the lab fails.
    """
    scenario = load_scenario(spec.scenario)
    lab.apply(scenario if spec.nodes is None else scenario.with_nodes(spec.nodes), seed=spec.seed)
    lab.choose(spec.algorithm, **spec.policy)
    return lab.run(spec.duration_seconds, progress=progress)


def record_of(run: Run, spec: RunSpec | None = None, *, experiment: str = "", key: str = "") -> RunRecord:
    """Describe a run that ended well just now, with its place in an experiment where it has one."""
    record = RunRecord(
        run_id=f"{run.algorithm}-{run.scenario}-s{run.seed}-{run.backend}", backend=run.backend,
        scenario=run.scenario, algorithm=run.algorithm, seed=run.seed, tempo=run.tempo, policy=dict(run.policy),
        status="succeeded", error=None, summary=run.summary, started_at=results.timestamp(seconds_ago=run.wall_seconds),
        duration_seconds=run.duration_seconds, timing=dict(run.timing), notes=list(run.notes),
    )  # fmt: skip
    return record if spec is None else placed(record, spec, experiment=experiment, key=key)


def placed(record: RunRecord, spec: RunSpec, *, experiment: str, key: str) -> RunRecord:
    """Return the record with its place in an experiment."""
    parameters: dict[str, Any] = {"label": spec.label, "policy_name": spec.policy_name, "repeat": spec.repeat}
    if spec.nodes is not None:
        parameters["nodes"] = spec.nodes
    return replace(record, run_id=spec.run_id, experiment=experiment, key=key, parameters=parameters)


def failure(spec: RunSpec, error: BaseException, *, experiment: str = "", key: str = "") -> RunRecord:
    """Describe a run that ended in an error; an unexpected one keeps its traceback."""
    text = str(error) if isinstance(error, LabError) else "".join(traceback.format_exception(error)).strip()
    record = RunRecord(
        run_id=spec.run_id, backend=spec.backend, scenario=_scenario_name(spec.scenario), algorithm=spec.algorithm,
        seed=spec.seed, tempo=spec.tempo, policy=spec.policy, status="failed", error=text, summary={},
        started_at=results.timestamp(), duration_seconds=spec.duration_seconds,
    )  # fmt: skip
    return placed(record, spec, experiment=experiment, key=key)


def _scenario_name(entry: str) -> str:
    """Return the name under which runs that succeed have the scenario, too, if it can be read."""
    try:
        return load_scenario(entry).name
    except LabError:
        return Path(entry).stem


def context(spec: RunSpec) -> dict[str, str]:
    """Return what decides a run's outcome beside its parameters, as hashes and versions.

    A twin run is decided by the code of the model too, so a changed model makes its runs anew; a live run by the
    versions of the real components.
    """
    pinned = {k: v for k, v in results.component_versions().items() if k in ("kubernetes", "descheduler", "prometheus")}
    model = _source_hash(_MODEL_SOURCES) if spec.backend == "sim" else ""
    return {
        **pinned, "model": model, "summary": _source_hash(_SUMMARY_SOURCES), "rules": _rules_hash(),
        "algorithm": _algorithm_hash(spec.algorithm), "scenario": _scenario_hash(spec.scenario),
    }  # fmt: skip


@cache
def _source_hash(names: tuple[str, ...]) -> str:
    package = Path(labkit.__file__).parent
    files = [file for name in names for file in sorted(_files(package / name))]
    return _hash(*(file.read_bytes() for file in files))


def _files(path: Path) -> list[Path]:
    return list(path.rglob("*.py")) if path.is_dir() else [path] if path.is_file() else []


@cache
def _rules_hash() -> str:
    return _hash(*(file.read_bytes() for file in sorted(data_path("rules").glob("*.yaml"))))


@cache
def _algorithm_hash(name: str) -> str:
    if name in BASELINES:
        return ""
    known = scoring.get(name)
    # The lab's own are among rules and model; a user's is what its file says today.
    own = [known.file.read_bytes()] if known.file is not None else []
    return _hash(repr(known.records).encode(), *own)


@cache
def _scenario_hash(name: str) -> str:
    return _hash(json.dumps(load_scenario(name).document, sort_keys=True, default=str).encode())


def _hash(*contents: bytes) -> str:
    digest = hashlib.sha256()
    for content in contents:
        digest.update(len(content).to_bytes(8, "big") + content)
    return digest.hexdigest()[:16]
