"""``labkit run``: one run on any backend, its summary printed and its tables saved."""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from labkit.experiment import RunSpec
    from labkit.lab import Progress

HELP = "play one scenario with one algorithm, on the twin or on the live loop"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's arguments."""
    parser.add_argument("--backend", default="sim", metavar="sim|local|kind", help="where (default: %(default)s)")
    parser.add_argument("--scenario", default="quickstart", metavar="NAME_OR_FILE", help="default: %(default)s")
    parser.add_argument(
        "--algorithm",
        default="linear_amplified_ippd_k3",
        metavar="NAME",
        help="a name from 'labkit algorithms'; also none, on sim random and oracle (default: %(default)s)",
    )
    parser.add_argument("--seed", type=int, metavar="N", help="default: the scenario's")
    parser.add_argument("--duration", metavar="30m", help="lab time (default: the scenario's)")
    parser.add_argument(
        "--tempo",
        type=int,
        metavar="1..15",
        help="lab seconds per second (default: that of the running lab, else 15; on sim 1)",
    )
    parser.add_argument("--nodes", type=int, metavar="N", help="scale the scenario to so many nodes")
    parser.add_argument("--thresholds", metavar="LOW:HIGH", help="or a preset such as AsymmetricLow")
    parser.add_argument(
        "--policy",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="a difference from the production policy, by the names of matrix.policy; may be repeated",
    )
    parser.add_argument("--out", type=Path, metavar="DIR", help="folder for run.json and the tables (default: none)")
    parser.add_argument("--name", help="the lab's name on live backends")
    parser.add_argument("--json", action="store_true", help="the summary as JSON")


def run(args: argparse.Namespace) -> int:
    """Do it; return the exit code."""
    from labkit import results
    from labkit.errors import InputError, LabError
    from labkit.lab import Lab
    from labkit.runner import play, record_of
    from labkit.scenario import load_scenario

    spec = _spec(args)
    if args.out is not None:
        results.check_place(args.out)
    try:
        # A lab that runs keeps its tempo, unless another one was asked for: then it says what to do.
        asked = spec.tempo if spec.backend == "sim" else args.tempo
        with Lab(backend=spec.backend, tempo=asked, name=args.name) as lab:
            spec = replace(spec, tempo=lab.tempo)
            with _Line() as line:
                played = play(spec, lab, progress=line.show if sys.stderr.isatty() else None)
    except KeyboardInterrupt:
        _save_unfinished(spec, args.out, "interrupted", LabError("interrupted by the user"))
        raise
    except InputError:
        raise
    except Exception as exc:
        _save_unfinished(spec, args.out, "failed", exc)
        raise
    if args.out is not None:
        with results.new_folder(args.out) as folder:
            results.write_scenario(folder, load_scenario(spec.scenario))
            results.fill_run(folder, record_of(played, spec), results.encode_tables(played.tables))
    for note in played.notes:
        print(f"labkit: note: {note}", file=sys.stderr)
    if args.json:
        print(json.dumps(played.summary, indent=1, allow_nan=False))
    else:
        _print_summary(played.summary)
        if args.out is not None:
            print(f"tables and run.json: {args.out}")
    return 0


def _spec(args: argparse.Namespace) -> RunSpec:
    """Check everything that can be checked before anything starts."""
    from labkit import scoring
    from labkit.cli import check_backend_and_tempo
    from labkit.errors import InputError
    from labkit.experiment import BASELINES, SIM_ONLY, RunSpec, check_policy, default_tempo, policy_name
    from labkit.scenario import load_scenario
    from labkit.units import parse_duration

    check_backend_and_tempo(args.backend, args.tempo)
    if args.algorithm in SIM_ONLY and args.backend != "sim":
        raise InputError(f"{args.algorithm} runs on sim only, found --backend {args.backend}: use --backend sim")
    if args.algorithm not in BASELINES:
        scoring.get(args.algorithm)
    if args.seed is not None and args.seed < 0:
        raise InputError(f"wanted --seed 0 or above, found {args.seed}")
    if args.nodes is not None and args.nodes < 1:
        raise InputError(f"wanted --nodes 1 or above, found {args.nodes}")
    scenario = load_scenario(args.scenario)
    duration = scenario.duration_seconds if args.duration is None else parse_duration(args.duration)
    if duration <= 0:
        raise InputError(f"wanted --duration above 0, found {args.duration!r}")
    if args.nodes is not None:
        scenario.with_nodes(args.nodes).expand(args.seed)
    policy = check_policy(_policy(args))
    seed = scenario.seed if args.seed is None else args.seed
    return RunSpec(
        run_id=f"{args.algorithm}-{scenario.name}-s{seed}-{args.backend}",
        backend=args.backend,
        scenario=args.scenario,
        algorithm=args.algorithm,
        seed=seed,
        label=args.algorithm,
        policy=policy,
        policy_name=policy_name(policy),
        tempo=args.tempo or default_tempo(args.backend),
        duration_seconds=duration,
        nodes=args.nodes,
    )


def _policy(args: argparse.Namespace) -> dict[str, Any]:
    from labkit.errors import InputError

    policy: dict[str, Any] = {} if args.thresholds is None else {"thresholds": args.thresholds}
    for entry in args.policy:
        key, equals, value = entry.partition("=")
        if not equals:
            raise InputError(f"wanted --policy KEY=VALUE, found {entry!r}")
        policy[key] = {"true": True, "false": False}.get(value, int(value) if value.isdecimal() else value)
    return policy


def _save_unfinished(spec: RunSpec, out: Path | None, status: Any, error: Exception) -> None:
    """Keep a run that did not end well, where results were wanted."""
    from labkit import results
    from labkit.runner.play import failure

    if out is None:
        return
    place = results.write_run(out, replace(failure(spec, error), status=status, parameters={}))
    if place != out:
        print(f"labkit: the run of before stays in {out}; what this one left is in {place}", file=sys.stderr)


class _Line:
    """One line on the terminal that is written over; whatever ends it, what follows stands on the next."""

    def __init__(self) -> None:
        self._shown = False

    def __enter__(self) -> _Line:
        return self

    def __exit__(self, *_: object) -> None:
        if self._shown:
            print(file=sys.stderr)

    def show(self, progress: Progress) -> None:
        """Write it over."""
        text = progress.phase
        if progress.lab_seconds >= 0:
            text += f": lab time {progress.lab_seconds / 60:.1f} of {progress.duration_seconds / 60:.0f} min"
            text += f", {progress.migrations} migrations"
        if progress.message:
            text += f": {progress.message}"
        width = shutil.get_terminal_size().columns - 1
        print(f"\r{text[:width]:<{width}}", end="", file=sys.stderr, flush=True)
        self._shown = True


def _print_summary(summary: dict[str, Any]) -> None:
    width = max(map(len, summary))
    for name, value in summary.items():
        shown = "-" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value).lower()
        print(f"{name:<{width}}  {shown}")
