"""A finished run of the twin once more, from its folder: everything that its tables do not hold.

A run's folder keeps tables and numbers; the series of which a Prometheus would make dashboards would be a hundred times
as much. They need not be kept: the same run gives them again, and whether it is the same its summary tells.
"""

from __future__ import annotations

from pathlib import Path

from labkit import results, sim
from labkit.errors import InputError, ResultError
from labkit.results import RunRecord
from labkit.scenario import load_scenario


def replay(folder: Path) -> tuple[RunRecord, sim.SimResult]:
    """Play the run of a folder again.

    Parameters
    ----------
    folder : Path
        A run's folder.

    Returns
    -------
    RunRecord, SimResult
        What the folder says of the run, and the run.

    Raises
    ------
    InputError
        If the run was not the twin's, or did not succeed.
    ResultError
        If the folder cannot be read, or another run comes of it: the model, the rules or the scenario have changed.
    """
    record = results.read_run(folder)
    if record.backend != "sim" or record.status != "succeeded":
        raise InputError(
            f"wanted a run of backend sim that succeeded, found in {folder} one of {record.backend} that "
            f"{record.status}: what a live run recorded is in its own Prometheus"
        )
    scenario = results.read_scenario(folder) or load_scenario(record.scenario)
    result = sim.run(
        scenario,
        algorithm=record.algorithm,
        seed=record.seed,
        policy=record.policy,
        duration_seconds=record.duration_seconds,
        tempo=record.tempo,
    )
    changed = [
        name
        for name, value in result.summary.items()
        if name in record.summary and not name.startswith("wall_") and record.summary[name] != value
    ]
    if changed:
        raise ResultError(
            f"wanted the run of {folder} again, found another: {', '.join(changed[:3])} differ; it was made at commit "
            f"{record.git_commit or 'unknown'}: use that labkit, or repeat the run"
        )
    return record, result
