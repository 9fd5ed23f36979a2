"""Live runs: one executed notebook each, in a lab that stays up for the whole matrix.

The notebook plays the run and saves it into the folder that its parameter ``out`` names; what it leaves becomes the
run folder only when it ended well. The notebook runs in a process of its own, so it tells how far it is through a
small file beside its results.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import signal
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import papermill
from jupyter_client.manager import AsyncKernelManager
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
_STOPPING: Final = (
    b"\nlabkit: stopping the notebook, which undoes what it has begun; Ctrl-C once more ends it at once\n"
)


def watch(out: str) -> Callable[[LabProgress], None] | None:
    """Return what a notebook gives ``Lab.run`` as ``progress``: it writes into the folder, None without one."""
    if not out:
        return None
    path = Path(out) / PROGRESS_FILE
    path.parent.mkdir(parents=True, exist_ok=True)

    def write(progress: LabProgress) -> None:
        message = ": ".join(filter(None, ("" if progress.phase == "running" else progress.phase, progress.message)))
        state = {"lab_seconds": progress.lab_seconds, "migrations": progress.migrations, "message": message}
        results.write_json(path, state)

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
    An interrupt is the notebook's: the cell that runs undoes what it did, however long that takes, and only then the
    execution is given up. A second interrupt ends the kernel at once.

    Raises
    ------
    ExperimentError
        If the notebook does not declare a parameter that it is given.
    LabError
        If a cell fails, with the error of that cell, or the kernel dies.
    KeyboardInterrupt
        If the user interrupted.
    """
    _check_parameters(notebook, parameters)
    with tempfile.TemporaryDirectory(prefix="labkit-kernel-") as sockets, _Interrupts() as interrupts:
        log = Path(sockets) / "kernel.log"
        try:
            papermill.execute_notebook(
                str(notebook), str(output), parameters=dict(parameters), progress_bar=False, kernel_name="python3",
                log_output=False, config=Config({"KernelManager": {"transport": "ipc", "ip": f"{sockets}/kernel"}}),
                kernel_manager_class=_kernel_class(log, interrupts), on_cell_start=interrupts.before_cell,
                on_cell_execute=interrupts.cell_begins, on_cell_executed=interrupts.cell_ends,
            )  # fmt: skip
        except papermill.PapermillExecutionError as exc:
            if interrupts.heard:
                raise KeyboardInterrupt from exc
            raise LabError(f"cell {exc.exec_count} of {notebook.name} failed: {exc.ename}: {exc.evalue}") from exc
        except PapermillException as exc:
            raise LabError(f"{notebook.name} could not be executed: {exc}") from exc
        except RuntimeError as exc:  # how a kernel that dies, or does not begin, is told
            said = log.read_text(errors="replace").strip().splitlines() if log.exists() else []
            raise LabError(
                f"the kernel of {notebook.name} failed: {exc}"
                + (f"; the last that it said: {said[-1]}" if said else "; look whether the memory was enough")
            ) from exc
        if interrupts.heard:
            raise KeyboardInterrupt


def _check_parameters(notebook: Path, parameters: Iterable[str]) -> None:
    unknown = sorted(set(parameters) - declared_parameters(notebook))
    if unknown:
        raise ExperimentError(
            f"wanted the notebook {notebook.name} to declare the parameters {', '.join(sorted(parameters))} in its "
            f"cell tagged 'parameters'; missing: {', '.join(unknown)}"
        )


class _Interrupts:
    """Hears Ctrl-C while a notebook is executed, and hands it on to the kernel; a context manager.

    The kernel has a session of its own, so the terminal's signal does not reach it. Were the signal raised here, the
    kernel would be killed after a few seconds, in the middle of undoing its work.
    """

    def __init__(self) -> None:
        self.heard = False
        self.process_id: int | None = None
        self._in_cell = False
        self._before: Any = None

    def __enter__(self) -> _Interrupts:
        if threading.current_thread() is threading.main_thread():
            self._before = signal.signal(signal.SIGINT, self._hear)
        return self

    def __exit__(self, *_: object) -> None:
        if self._before is not None:
            signal.signal(signal.SIGINT, self._before)

    def _hear(self, *_: object) -> None:
        if self.heard:
            logging.getLogger("asyncio").disabled = True  # it would tell of every task that this leaves unfinished
            raise KeyboardInterrupt
        self.heard = True
        # A handler must not use a stream that it may have interrupted.
        os.write(2, _STOPPING)
        if self._in_cell and self.process_id is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process_id, signal.SIGINT)

    def before_cell(self, **_: object) -> None:
        """Begin no further cell once an interrupt came between two."""
        if self.heard:
            raise KeyboardInterrupt

    def cell_begins(self, **_: object) -> None:
        """Take note that the kernel has something to undo from now on."""
        self._in_cell = True

    def cell_ends(self, **_: object) -> None:
        """Take note that the kernel waits for the next cell."""
        self._in_cell = False


def _kernel_class(log: Path, interrupts: _Interrupts) -> type[AsyncKernelManager]:
    """Return the kind of kernel that complains into a file, since the terminal is the runner's."""

    class Kernel(AsyncKernelManager):
        async def _async_launch_kernel(self, kernel_cmd: list[str], **options: Any) -> None:
            with log.open("wb") as file:
                await super()._async_launch_kernel(kernel_cmd, **options, stdout=file, stderr=file)
            interrupts.process_id = getattr(self.provisioner, "pid", None)

    return Kernel


def check(runs: Sequence[RunSpec], experiment: Experiment, lab_name: str | None) -> None:
    """Refuse, before anything is begun, what would make every live run fail.

    Raises
    ------
    InputError
        If the notebook does not take the parameters, or a lab that runs cannot take these runs.
    """
    _check_parameters(run_notebook(experiment), _parameters(runs[0], Path(), lab_name))
    Lab(backend=experiment.backend, tempo=experiment.tempo, name=lab_name).check()


def play_all(
    runs: Sequence[RunSpec],
    keys: Mapping[str, str],
    *,
    folder: Path,
    experiment: Experiment,
    progress: Progress,
    lab_name: str | None,
) -> Iterator[RunRecord]:
    """Play live runs one after another in a lab that is up; yields each when it has ended, well or not."""
    notebook = run_notebook(experiment)
    for run in runs:
        yield _play(run, keys[run.run_id], folder / run.run_id, notebook, experiment.name, progress, lab_name)


def _parameters(run: RunSpec, out: Path, lab_name: str | None) -> dict[str, Any]:
    """Return what a notebook is told of a run."""
    parameters: dict[str, Any] = {
        "backend": run.backend, "scenario": run.scenario, "algorithm": run.algorithm, "seed": run.seed,
        "policy": run.policy, "tempo": run.tempo, "duration": run.duration_seconds, "out": str(out),
    }  # fmt: skip
    if run.nodes is not None:
        parameters["nodes"] = run.nodes
    if lab_name is not None:
        parameters["lab_name"] = lab_name
    return parameters


def _play(
    run: RunSpec, key: str, target: Path, notebook: Path, experiment: str, progress: Progress, lab_name: str | None
) -> RunRecord:
    with results.new_folder(target) as partial:
        try:
            with _watched(partial, run, progress):
                execute(notebook, partial / EXECUTED_NOTEBOOK, _parameters(run, partial, lab_name))
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
            progress.running(
                run.run_id, state["lab_seconds"], run.duration_seconds, state["migrations"], state["message"]
            )

    thread = threading.Thread(target=pass_on, name="run-progress", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
