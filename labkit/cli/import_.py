"""``labkit import``: a scenario from the listings of a real cluster."""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path
from typing import Any

HELP = "make a scenario from kubectl's listings of a real cluster"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("nodes", type=Path, help="output of: kubectl get nodes -o json")
    parser.add_argument("vms", type=Path, help="output of: kubectl get vmi,pods -A -o json")
    parser.add_argument(
        "--load", type=Path, help="CSV or Parquet with columns time, vm, cpu, memory (vm: NAMESPACE/NAME)"
    )
    parser.add_argument("--name", default="imported", help="name of the scenario (default: imported)")
    parser.add_argument("--duration", default="1h", help="lab time that a run takes (default: 1h)")
    parser.add_argument("--out", type=Path, required=True, help="scenario file to write")


def run(args: argparse.Namespace) -> int:
    """Read, convert, check, write: in this order, so that nothing wrong is ever written."""
    import yaml

    from labkit.errors import InputError
    from labkit.scenario import parse_scenario
    from labkit.scenario.importer import import_cluster
    from labkit.traces import load_traces

    load = None
    if args.load is not None:
        format_name = "parquet" if args.load.suffix == ".parquet" else "csv"
        recorded = {trace.name for trace in load_traces(args.load, format_name)}
        folder = args.out.resolve().parent
        load = (os.path.relpath(args.load.resolve(), folder), format_name, recorded)
    imported = import_cluster(
        _json(args.nodes), _json(args.vms), name=args.name, duration=args.duration, load=load
    )  # fmt: skip
    scenario = parse_scenario(imported.document, str(args.out), folder=args.out.resolve().parent)
    text = f"# {imported.document['spec']['question']}\n" + yaml.safe_dump(imported.document, sort_keys=False)
    partial = args.out.with_name(f".{args.out.name}.partial")
    try:
        partial.write_text(text, encoding="utf-8")
        partial.replace(args.out)
    except OSError as exc:
        raise InputError(f"{args.out}: cannot be written: {exc.strerror}") from exc
    print(f"{args.out}: {len(scenario.nodes())} nodes, {len(scenario.vms())} VMs")
    for line in imported.left_out:
        print(f"left out: {line}")
    if load is None:
        print("load: constant for every VM; give --load to replay what was recorded")
    return 0


def _json(path: Path) -> Any:
    from labkit.errors import InputError

    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as exc:
        raise InputError(f"{path}: wanted a file, found: {exc.strerror}") from exc
    except ValueError as exc:
        raise InputError(f"{path}: wanted JSON, found: {exc}") from exc
