"""``labkit experiment``: run a matrix, then its analysis and report."""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from labkit.results import RunRecord
    from labkit.runner import Plan, Progress

HELP = "run the matrix of an experiment file and write its report"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's arguments."""
    parser.add_argument("file", type=Path, metavar="FILE", help="an experiment file, or a name from experiments/")
    parser.add_argument("--out", type=Path, metavar="DIR", help="the experiment's folder (default: results/NAME)")
    parser.add_argument("--backend", metavar="sim|local|kind", help="in place of the file's")
    parser.add_argument("--tempo", type=int, metavar="1..15", help="in place of the file's")
    parser.add_argument("--dry-run", action="store_true", help="show the runs and an estimate of time, do nothing")
    parser.add_argument("--retry-failed", action="store_true", help="repeat the runs that failed")
    parser.add_argument("--force", action="store_true", help="repeat every run")
    parser.add_argument(
        "--scheduler",
        metavar="ADDRESS",
        help="a Dask scheduler for runs of the twin; given up 2 min after its last worker",
    )
    parser.add_argument("--name", help="the lab's name on live backends")
    parser.add_argument("--no-report", action="store_true", help="only the runs")
    parser.add_argument("--json", action="store_true", help="what became of it, as JSON")


def run(args: argparse.Namespace) -> int:
    """Do it; return the exit code."""
    from labkit import scoring
    from labkit.cli import check_backend_and_tempo
    from labkit.errors import InputError
    from labkit.experiment import load
    from labkit.results import FAILED_FOLDER
    from labkit.runner import carry_out, conclude, plan
    from labkit.scenario import scenario_names

    check_backend_and_tempo(args.backend, args.tempo)
    experiment = load(
        _find(args.file),
        algorithms=scoring.names(),
        scenarios=scenario_names(),
        backend=args.backend,
        tempo=args.tempo,
    )
    if args.scheduler is not None and experiment.backend != "sim":
        raise InputError(f"--scheduler is for runs of the twin, found backend {experiment.backend}: leave it out")
    folder = args.out if args.out is not None else Path("results") / experiment.name
    workers = os.cpu_count() or 1
    what = plan(experiment, folder, retry_failed=args.retry_failed, force=args.force, workers=workers)
    if args.dry_run:
        _show_plan(what, as_json=args.json)
        return 0
    progress = _Bar(what)
    try:
        outcome = carry_out(what, progress=progress, scheduler=args.scheduler, lab_name=args.name)
    except KeyboardInterrupt:
        print(f"labkit: interrupted; the same command goes on where {folder} ends", file=sys.stderr)
        return 130
    failed = outcome.counts.get("failed", 0)
    if failed:
        print(f"labkit: {failed} runs failed; 'labkit results ls {folder}' names them, --retry-failed repeats them",
              file=sys.stderr)  # fmt: skip
    if outcome.kept:
        print(f"labkit: {len(outcome.kept)} runs failed that had succeeded before: the good ones stay, the others are "
              f"in {folder / FAILED_FOLDER}", file=sys.stderr)  # fmt: skip
    wanted = not args.no_report and bool(outcome.counts.get("succeeded"))
    report = conclude(what, progress=progress) if wanted else None
    counts = ", ".join(f"{count} {status}" for status, count in sorted(outcome.counts.items()))
    if args.json:
        answer = {
            "folder": str(folder),
            "runs": len(what.runs),
            "new_runs": outcome.new_runs,
            "counts": outcome.counts,
            "kept": list(outcome.kept),
            "status": outcome.status,
            "report": str(report) if report else None,
        }
        print(json.dumps(answer, indent=1))
    else:
        print(f"{len(what.runs)} runs ({counts}), {outcome.new_runs} new: {folder}")
        if report is not None:
            print(f"report: {report}")
        elif not args.no_report:
            print("no report: no run succeeded")
    return 1 if outcome.status == "failed" else 0


def _find(file: Path) -> Path:
    """Accept ``quickstart`` for ``experiments/quickstart.yaml`` too."""
    from labkit.datafiles import data_path
    from labkit.errors import InputError

    if file.is_file() or file.suffix or len(file.parts) > 1:
        return file
    try:
        return data_path("experiments", f"{file}.yaml")
    except InputError:
        return file


def _show_plan(what: Plan, *, as_json: bool) -> None:
    from labkit.units import format_duration

    todo = {run.run_id for run in what.todo}
    failed = {record.run_id for record in what.failed}
    if as_json:
        runs = [{"run_id": run.run_id, "key": what.keys[run.run_id], "todo": run.run_id in todo} for run in what.runs]
        values: dict[str, Any] = {
            "experiment": what.experiment.name,
            "runs": runs,
            "todo": len(todo),
            "failed": len(failed),
            "estimate_seconds": round(what.estimate_seconds, 1),
        }
        print(json.dumps(values, indent=1))
        return
    print(what.experiment.question)
    for run in what.runs:
        state = "to do" if run.run_id in todo else "failed" if run.run_id in failed else "done"
        print(f"  {state:<6}  {run.run_id}")
    estimate = f", about {format_duration(round(what.estimate_seconds))}" if todo else ""
    left = f"; {len(failed)} failed, which --retry-failed repeats" if failed else ""
    print(f"{len(what.runs)} runs, {len(todo)} to do{estimate}{left}")


class _Bar:
    """A progress bar with rate and time left; a live run shows its lab time and migrations."""

    def __init__(self, what: Plan) -> None:
        self._plan = what
        self._bar: Any = None
        self._state_shown_at = float("-inf")

    def begin(self, todo: int, done: int) -> None:
        """Open the bar."""
        from tqdm import tqdm

        # Without a terminal one line every ten seconds is enough.
        pause = 0.1 if sys.stderr.isatty() else 10.0
        self._bar = tqdm(
            total=todo + done, initial=done, unit="run", desc=self._plan.experiment.name, disable=not todo,
            mininterval=pause, dynamic_ncols=True, smoothing=0.05,
        )  # fmt: skip

    def running(
        self, run_id: str, lab_seconds: float, duration_seconds: float, migrations: int, message: str = ""
    ) -> None:
        """Show a live run's state behind the bar."""
        reached = f"{lab_seconds / 60:.1f}/{duration_seconds / 60:.0f} min, {migrations} migrations"
        state = f"{run_id}: " + ", ".join(filter(None, (reached if lab_seconds >= 0 else "", message)))
        now = time.monotonic()
        due = now - self._state_shown_at >= self._bar.mininterval
        self._bar.set_postfix_str(state, refresh=due)
        if due:
            self._state_shown_at = now

    def finished(self, record: RunRecord) -> None:
        """Move the bar."""
        if record.status != "succeeded":
            first = (record.error or "").strip().splitlines()[-1:] or [""]
            self._bar.write(f"{record.run_id} {record.status}: {first[0]}", file=sys.stderr)
        self._bar.update(1)

    def note(self, text: str) -> None:
        """Say a step."""
        if self._bar is not None and not self._bar.disable:
            self._bar.write(f"{self._plan.experiment.name}: {text}", file=sys.stderr)

    def end(self) -> None:
        """Close the bar."""
        if self._bar is not None:
            self._bar.close()


def _is_progress(bar: _Bar) -> Progress:
    """Let the type checker see that the bar is what a runner reports to."""
    return bar
