"""``labkit explain``: why a VM moved."""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path
from typing import Any

HELP = "tell why a VM of a finished run moved, and why to that node"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's arguments."""
    parser.add_argument("run", type=Path, metavar="RUN", help="a run's folder")
    parser.add_argument("--migration", type=int, metavar="N", help="which one, from 1; without it they are listed")
    parser.add_argument("--json", action="store_true", help="as JSON")


def run(args: argparse.Namespace) -> int:
    """Do it; return the exit code."""
    from labkit import results
    from labkit.analysis.explanation import explain, sentences
    from labkit.errors import InputError

    record = results.read_run(args.run)
    if record.status != "succeeded":
        raise InputError(f"wanted a run that succeeded, found one that {record.status} in {args.run}")
    tables = results.read_tables(args.run)
    if args.migration is None:
        moves = tables["migrations"].sort_values(["requested_seconds", "vm"], kind="stable")
        if args.json:
            print(moves.to_json(orient="records", indent=1))
            return 0
        for number, row in enumerate(moves.to_dict("records"), start=1):
            print(
                f"{number:>4}  {row['requested_seconds']:>7.0f} s  {row['vm']:<16} {row['source']} -> {row['target']}"
            )
        print(f"{len(moves)} migrations; --migration N tells why")
        return 0
    found = explain(
        tables, args.migration, algorithm=record.algorithm, scenario=results.read_scenario(args.run), seed=record.seed
    )
    if args.json:
        options = None if found.options is None else json.loads(found.options.to_json(orient="records"))
        answer = {
            "migration": {name: _known(value) for name, value in found.migration.items()},
            "sentences": sentences(found),
            "low": _known(found.low),
            "high": _known(found.high),
            "cycle_seconds": found.cycle_seconds,
            "nodes": json.loads(found.nodes.to_json(orient="records")),
            "candidates": found.candidates,
            "options": options,
        }
        print(json.dumps(answer, indent=1, default=float, allow_nan=False))
        return 0
    for sentence in sentences(found):
        print(sentence)
    print()
    print(found.nodes.round(3).to_string(index=False, na_rep="-"))
    if found.options is not None:
        print()
        print(found.options.to_string(index=False, na_rep="-"))
    return 0


def _known(value: Any) -> Any:
    """JSON has no word for what is not a number."""
    return None if isinstance(value, float) and math.isnan(value) else value
