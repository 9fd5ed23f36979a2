"""``labkit results``: what has been run, and how two runs differ."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from labkit.results import RunRecord

HELP = "list finished runs, show one, tell how two differ, or choose an algorithm"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's arguments."""
    actions = parser.add_subparsers(dest="action", metavar="ls|show|diff|openmetrics|choose", required=True)
    ls = actions.add_parser("ls", help="list experiments, or the runs of one")
    ls.add_argument("folder", type=Path, nargs="?", default=Path("results"), metavar="DIR", help="default: results")
    show = actions.add_parser("show", help="show one run")
    show.add_argument("run", type=Path, metavar="RUN", help="a run's folder")
    diff = actions.add_parser("diff", help="tell how two runs differ")
    diff.add_argument("first", type=Path, metavar="RUN")
    diff.add_argument("second", type=Path, metavar="RUN")
    export = actions.add_parser("openmetrics", help="write all series of a run of the twin, for a real Prometheus")
    export.add_argument("run", type=Path, metavar="RUN", help="a run's folder")
    export.add_argument("--start", metavar="TIME", help="what lab time 0 becomes, UTC (default: it ends when played)")
    choose = actions.add_parser("choose", help="say which algorithm to choose for which goal, from an experiment")
    choose.add_argument("folder", type=Path, metavar="DIR", help="an experiment's folder")
    choose.add_argument("--reference", metavar="NAME", help="the algorithm in use (default: the experiment's baseline)")
    for each in (ls, show, diff, choose):
        each.add_argument("--json", action="store_true", help="as JSON")


def run(args: argparse.Namespace) -> int:
    """Do it; return the exit code."""
    if args.action == "show":
        return _show(args.run, as_json=args.json)
    if args.action == "diff":
        return _diff(args.first, args.second, as_json=args.json)
    if args.action == "choose":
        return _choose(args.folder, args.reference, as_json=args.json)
    if args.action == "openmetrics":
        return _openmetrics(args.run, args.start)
    return _list(args.folder, as_json=args.json)


def _list(folder: Path, *, as_json: bool) -> int:
    from labkit import results
    from labkit.errors import InputError, ResultError

    if not folder.is_dir():
        raise InputError(f"wanted a folder of results, found none at {folder}")
    rows: list[dict[str, Any]] = []
    runs = [*results.run_folders(folder), *results.run_folders(folder / results.FAILED_FOLDER)]
    for path in runs:
        name = str(path.relative_to(folder))
        try:
            record = results.read_run(path)
        except ResultError as exc:
            rows.append({"run": name, "status": "unreadable", "error": str(exc)})
            continue
        shown = ("migrations", "hotspot_seconds", "cpu_stddev_final")
        rows.append(
            {"run": name, "status": record.status}
            | {name: record.summary.get(name) for name in shown}
            | ({"error": (record.error.strip().splitlines() or [""])[-1]} if record.error else {})
            | ({"notes": "; ".join(record.notes)} if record.notes else {})
        )
    if not runs:
        for path in sorted(each for each in folder.iterdir() if each.is_dir()):
            inner = results.run_folders(path)
            if inner:
                report = path / results.REPORT_FILE
                rows.append(
                    {"experiment": path.name, "runs": len(inner), "report": str(report) if report.exists() else None}
                )
    _print_rows(rows, as_json=as_json, nothing=f"no runs in {folder}")
    return 0


def _print_rows(rows: list[dict[str, Any]], *, as_json: bool, nothing: str) -> None:
    if as_json:
        print(json.dumps(rows, indent=1))
        return
    if not rows:
        print(nothing)
        return
    columns = list(dict.fromkeys(key for row in rows for key in row))
    text = [[_cell(row.get(column)) for column in columns] for row in rows]
    widths = [max(len(column), *(len(row[i]) for row in text)) for i, column in enumerate(columns)]
    for row in [columns, *text]:
        print("  ".join(f"{value:<{width}}" for value, width in zip(row, widths, strict=True)).rstrip())


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:.4g}" if isinstance(value, float) else str(value).lower() if isinstance(value, bool) else str(value)


def _show(folder: Path, *, as_json: bool) -> int:
    from dataclasses import asdict

    from labkit import results

    record = results.read_run(folder)
    if as_json:
        print(json.dumps(asdict(record), indent=1))
        return 0
    for name, value in _facts(record).items():
        print(f"{name:<26}  {_cell(value)}")
    return 0


def _facts(record: RunRecord) -> dict[str, Any]:
    """Everything about a run on one level, what was asked for first."""
    named = (
        "run_id", "status", "error", "backend", "scenario", "algorithm", "seed", "tempo", "duration_seconds",
        "started_at", "git_commit", "key",
    )  # fmt: skip
    facts: dict[str, Any] = {name: getattr(record, name) for name in named}
    facts |= {f"note {number}": note for number, note in enumerate(record.notes, start=1)}
    for group in ("policy", "parameters", "summary", "timing", "versions", "host"):
        facts |= {f"{group}.{name}": value for name, value in getattr(record, group).items()}
    return facts


def _diff(first: Path, second: Path, *, as_json: bool) -> int:
    from labkit import results

    ours, theirs = (_facts(results.read_run(folder)) for folder in (first, second))
    # One run of two experiments has one name: then only the paths tell them apart.
    names = (first.name, second.name) if first.name != second.name else (str(first), str(second))
    rows = []
    for name in dict.fromkeys([*ours, *theirs]):
        a, b = ours.get(name), theirs.get(name)
        if a == b:
            continue
        row: dict[str, Any] = {"what": name, names[0]: a, names[1]: b}
        numbers = all(isinstance(value, int | float) and not isinstance(value, bool) for value in (a, b))
        rows.append(row | ({"change": b - a} if numbers and a is not None and b is not None else {}))
    _print_rows(rows, as_json=as_json, nothing="the two runs are equal")
    return 0


def _openmetrics(folder: Path, start: str | None) -> int:
    """Write what a Prometheus would hold of a run of the twin to standard output."""
    import shutil
    import sys
    import tempfile
    from datetime import UTC, datetime

    from labkit.errors import InputError
    from labkit.lab.replay import replay

    record, result = replay(folder)
    text = start if start is not None else record.started_at
    try:
        moment = datetime.fromisoformat(text)
    except ValueError as exc:
        raise InputError(f"wanted --start as a time such as 2026-01-31T12:00:00Z, found {text!r}") from exc
    seconds = moment.replace(tzinfo=moment.tzinfo or UTC).timestamp()
    if start is None:
        # What was played just now would lie in the future for the longest part: it ends, rather than begins, there.
        seconds -= record.duration_seconds
    with tempfile.TemporaryDirectory(prefix="labkit-") as made:
        path = Path(made) / "run.om"
        result.write_openmetrics(path, start_seconds=seconds)
        with path.open("rb") as file:
            shutil.copyfileobj(file, sys.stdout.buffer)
    sys.stdout.buffer.flush()
    return 0


def _choose(folder: Path, reference: str | None, *, as_json: bool) -> int:
    from dataclasses import asdict

    from labkit import results
    from labkit.analysis.answer import interval
    from labkit.analysis.choice import GOALS, choose
    from labkit.analysis.statistics import treatments
    from labkit.errors import InputError
    from labkit.report import Findings

    state, runs = results.read_experiment(folder)
    known = dict.fromkeys(treatments(runs))
    if reference is not None and not any(name == reference or name.startswith(f"{reference} @ ") for name in known):
        raise InputError(f"wanted --reference as one of {', '.join(known)}; found {reference!r}")
    findings = Findings.of(runs, [goal.metric for goal in GOALS], reference or state["baseline"])
    choices = choose(findings.designs, findings.baseline)
    if as_json:
        print(json.dumps([asdict(each) for each in choices], indent=1))
        return 0
    print(f"compared with {findings.baseline}; see 'labkit algorithms show NAME' for what applies one")
    rows = [
        {
            "goal": each.goal.title, "choose": each.name, "reaches": interval(each.found.mean),
            "difference": interval(each.found.difference), "verdict": each.found.verdict,
            "best_mean": each.leader, "worse_in": ", ".join(each.worse_in), "hotter_in": ", ".join(each.hotter_in),
        }
        for each in choices
    ]  # fmt: skip
    _print_rows(rows, as_json=False, nothing="nothing to choose from")
    for goal in GOALS:
        if goal.metric in findings.designs and goal not in [each.goal for each in choices]:
            print(
                f"{goal.title}: none, as hot spots may be worse than those of {findings.baseline} with each algorithm"
            )
    worse = {name for each in choices for name in each.below_floor}
    if worse:
        print(f"left out where hot spots must not be worse: {', '.join(sorted(worse))}")
    return 0
