"""After the runs: the executed analysis notebook and the report."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from labkit import report, results
from labkit.datafiles import data_path
from labkit.experiment import Experiment
from labkit.runner.live import declared_parameters, execute
from labkit.runner.matrix import Plan
from labkit.runner.progress import Progress, Silent

DEFAULT_ANALYSIS_NOTEBOOK: Final = "07-analysis.ipynb"


def analysis_notebook(experiment: Experiment) -> Path:
    """Return the notebook that draws the conclusions: the experiment's own unless that plays a single run."""
    if experiment.notebook is not None and "folder" in declared_parameters(Path(experiment.notebook)):
        return Path(experiment.notebook)
    return data_path("notebooks", DEFAULT_ANALYSIS_NOTEBOOK)


def conclude(what: Plan, *, progress: Progress | None = None) -> Path:
    """Execute the analysis notebook and write ``report.html``, unless they are up to date.

    Raises
    ------
    LabError
        If no run succeeded, or the notebook fails.
    """
    watcher: Progress = progress if progress is not None else Silent()
    path = what.folder / results.REPORT_FILE
    executed = what.folder / report.EXECUTED_ANALYSIS
    if report.is_current(what.folder) and executed.exists():
        return path
    watcher.note("executing the analysis notebook")
    execute(analysis_notebook(what.experiment), executed, {"folder": str(what.folder.resolve())})
    watcher.note("writing the report")
    return report.write(what.folder)
