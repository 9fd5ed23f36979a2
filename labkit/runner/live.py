"""Live runs: one executed notebook each, in a lab that stays up for the whole matrix.

The notebook plays the run and saves it into the folder that its parameter ``out`` names; what it leaves becomes the
run folder only when it ended well. The notebook runs in a process of its own, so it tells how far it is through a
small file beside its results.
"""

from __future__ import annotations

import contextlib
import json
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import papermill
from papermill.exceptions import PapermillException
from traitlets.config import Config

from labkit import results
from labkit.datafiles import data_path
from labkit.errors import ExperimentError, LabError, ResultError
from labkit.experiment import Experiment, RunSpec
from labkit.lab import Lab, Run
from labkit.lab import Progress as LabProgress
from labkit.results import RunRecord
from labkit.runner.play import failure, placed, record_of
from labkit.runner.progress import Progress

DEFAULT_RUN_NOTEBOOK: Final = "02-single-run.ipynb"
EXECUTED_NOTEBOOK: Final = "notebook.ipynb"
PROGRESS_FILE: Final = "progress.json"
_POLL_SECONDS: Final = 1.0


def watch(out: str) -> Callable[[LabProgress], None] | None:
    """Return what a notebook gives ``Lab.run`` as ``progress``: it writes into the folder, None without one."""
    if not out:
        return None
    path = Path(out) / PROGRESS_FILE
    path.parent.mkdir(parents=True, exist_ok=True)

    def write(progress: LabProgress) -> None:
        results.write_json(path, {"lab_seconds": progress.lab_seconds, "migrations": progress.migrations})

    return write


def save(run: Run, out: str) -> str:
    """Save a run into a folder, from a notebook; says where, or that nothing was to be saved.

    Parameters
    ----------
    run : Run
        What ``Lab.run`` gave.
    out : str
        The folder; it may hold the notebook's figures already. Empty: do nothing.
    """
    if not out:
        return "not saved: the parameter 'out' is empty"
    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    results.fill_run(folder, record_of(run), results.encode_tables(run.tables))
    (folder / PROGRESS_FILE).unlink(missing_ok=True)
    return f"saved in {folder.name}"


def run_notebook(experiment: Experiment) -> Path:
    """Return the notebook that each live run executes: the experiment's own if it plays a run, else the default."""
    if experiment.notebook is not None and "algorithm" in declared_parameters(Path(experiment.notebook)):
        return Path(experiment.notebook)
    return data_path("notebooks", DEFAULT_RUN_NOTEBOOK)


def declared_parameters(notebook: Path) -> set[str]:
    """Return the parameters that a notebook's tagged cell declares.

    Raises
    ------
    ExperimentError
        If the file is no notebook.
    """
    try:
        return set(papermill.inspect_notebook(str(notebook)))
    except (OSError, ValueError, PapermillException) as exc:
        raise ExperimentError(f"wanted a notebook {notebook}, found: {exc}") from exc


def execute(notebook: Path, output: Path, parameters: Mapping[str, Any]) -> None:
    """Execute a notebook by papermill; the executed copy is kept also when a cell fails.

    The kernel talks over sockets in a folder of its own: its default, TCP on loopback, is open to the machine's users.

    Raises
    ------
    ExperimentError
        If the notebook does not declare a parameter that it is given.
    LabError
        If a cell fails, with the error of that cell.
    """
    unknown = sorted(set(parameters) - declared_parameters(notebook))
    if unknown:
        raise ExperimentError(
            f"wanted the notebook {notebook.name} to declare the parameters {', '.join(sorted(parameters))} in its "
            f"cell tagged 'parameters'; missing: {', '.join(unknown)}"
        )
    try:
        with tempfile.TemporaryDirectory(prefix="labkit-kernel-") as sockets:
            papermill.execute_notebook(
                str(notebook), str(output), parameters=dict(parameters), progress_bar=False, kernel_name="python3",
                log_output=False, config=Config({"KernelManager": {"transport": "ipc", "ip": f"{sockets}/kernel"}}),
            )  # fmt: skip
    except papermill.PapermillExecutionError as exc:
        raise LabError(f"cell {exc.exec_count} of {notebook.name} failed: {exc.ename}: {exc.evalue}") from exc
    except PapermillException as exc:
        raise LabError(f"{notebook.name} could not be executed: {exc}") from exc


def play_all(
    runs: Sequence[RunSpec],
    keys: Mapping[str, str],
    *,
    folder: Path,
    experiment: Experiment,
    progress: Progress,
    lab_name: str | None,
) -> int:
    """Play live runs one after another; returns how many ended, well or not."""
    notebook = run_notebook(experiment)
    with Lab(backend=experiment.backend, tempo=experiment.tempo, name=lab_name) as lab:
        progress.note(f"lab is up at tempo {lab.tempo}")
        for run in runs:
            record = _play(run, keys[run.run_id], folder / run.run_id, notebook, experiment.name, progress, lab_name)
            progress.finished(record)
    return len(runs)


def _play(
    run: RunSpec, key: str, target: Path, notebook: Path, experiment: str, progress: Progress, lab_name: str | None
) -> RunRecord:
    with results.new_folder(target) as partial:
        parameters: dict[str, Any] = {
            "backend": run.backend, "scenario": run.scenario, "algorithm": run.algorithm, "seed": run.seed,
            "policy": run.policy, "tempo": run.tempo, "duration": run.duration_seconds, "out": str(partial),
        }  # fmt: skip
        if run.nodes is not None:
            parameters["nodes"] = run.nodes
        if lab_name is not None:
            parameters["lab_name"] = lab_name
        try:
            with _watched(partial, run, progress):
                execute(notebook, partial / EXECUTED_NOTEBOOK, parameters)
            record = placed(results.read_run(partial), run, experiment=experiment, key=key)
        except ExperimentError:
            raise
        except LabError as exc:
            text = f"{notebook.name} did not save the run" if isinstance(exc, ResultError) else str(exc)
            record = failure(run, LabError(text), experiment=experiment, key=key)
        (partial / PROGRESS_FILE).unlink(missing_ok=True)
        results.fill_run(partial, record, {})
    return record


@contextlib.contextmanager
def _watched(folder: Path, run: RunSpec, progress: Progress) -> Iterator[None]:
    """Pass on what the notebook writes about its progress, for as long as it is executed."""
    done = threading.Event()

    def pass_on() -> None:
        while not done.wait(_POLL_SECONDS):
            try:
                state = json.loads((folder / PROGRESS_FILE).read_text(encoding="utf-8"))
            except (OSError, ValueError):
                continue
            progress.running(run.run_id, state["lab_seconds"], run.duration_seconds, state["migrations"])

    thread = threading.Thread(target=pass_on, name="run-progress", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
