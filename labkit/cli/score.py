"""``labkit score``: score a table of node loads with any algorithm on any engine."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from labkit.model import Snapshot
    from labkit.scoring import Algorithm

HELP = "score a table of node loads"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's arguments."""
    parser.add_argument(
        "file",
        metavar="FILE.csv",
        help="columns node,cpu_usage,cpu_pressure,memory_usage,memory_pressure; loads in [0, 1]; '-' is standard input",
    )
    parser.add_argument(
        "--algorithm", required=True, metavar="NAME", help="its name or record; 'all' means the lab's nineteen"
    )
    parser.add_argument(
        "--engine",
        choices=("reference", "promql", "prometheus"),
        default="reference",
        help="who computes: the NumPy definitions, the compiled rules, or a private Prometheus (default: %(default)s)",
    )
    parser.add_argument(
        "--form",
        choices=("score", "avg1m"),
        default="score",
        help="the record: from the load as it is, or from production's one-minute records, in which pressure counts "
        "only above 70 %% use (default: %(default)s)",
    )
    parser.add_argument(
        "--explain", action="store_true", help="also each dimension's part, and the descheduler's classification"
    )
    parser.add_argument(
        "--thresholds",
        default="0:10",
        metavar="LOW:HIGH",
        help="points below and above the mean, or a preset such as AsymmetricLow, for --explain (default: %(default)s)",
    )
    parser.add_argument("--json", action="store_true", help="as JSON: score by node, with 'all' by algorithm and node")


def run(args: argparse.Namespace) -> int:
    """Do it."""
    from labkit import engines, scoring
    from labkit.loadtable import parse_loads, read_loads

    algorithms = list(scoring.NINETEEN) if args.algorithm == "all" else [scoring.get(args.algorithm)]
    snapshot = parse_loads(sys.stdin, source="standard input") if args.file == "-" else read_loads(Path(args.file))
    found = engines.scores(algorithms, snapshot, engine=args.engine, form=args.form)
    if args.explain:
        views = {each.name: _explained(each, snapshot, found[each.name], args) for each in algorithms}
        if args.json:
            print(json.dumps(views if args.algorithm == "all" else views[algorithms[0].name], indent=1))
        else:
            print("\n\n".join(map(_explanation, views.values())))
    elif args.json:
        print(json.dumps(found if args.algorithm == "all" else found[algorithms[0].name], indent=1))
    elif args.algorithm == "all":
        rows = [["algorithm", *snapshot.nodes]]
        rows += [[name, *(f"{value:.4f}" for value in values.values())] for name, values in found.items()]
        print(_table(rows))
    else:
        print(
            _table([["node", "score"], *([node, f"{value:.6f}"] for node, value in found[algorithms[0].name].items())])
        )
    return 0


def _explained(
    algorithm: Algorithm, snapshot: Snapshot, scores: dict[str, float], args: argparse.Namespace
) -> dict[str, Any]:
    """Return what there is to say about one algorithm's scores, as JSON values."""
    import numpy as np

    from labkit.descheduling import classify, parse_thresholds
    from labkit.names import DIMENSIONS
    from labkit.scoring import pareto
    from labkit.scoring.explain import contributions
    from labkit.scoring.history import gated

    form = args.form if args.form in algorithm.records else next(iter(algorithm.records))
    loads = gated(snapshot) if form == "avg1m" else snapshot
    score = np.array([scores[node] for node in snapshot.nodes])
    parts = contributions(algorithm.name, loads, score)
    fronts = pareto.fronts(loads) if algorithm.name == "pareto_front" else None
    verdict = classify(score, parse_thresholds(args.thresholds))
    nodes: dict[str, dict[str, Any]] = {}
    for index, node in enumerate(snapshot.nodes):
        entry: dict[str, Any] = {
            "score": float(score[index]),
            "usage_percent": int(verdict.percent[index]),
            "class": verdict.classes[index],
            "loads": dict(zip(DIMENSIONS, loads.load_ratio[index].tolist(), strict=True)),
        }
        if parts is not None:
            entry["parts"] = dict(zip(DIMENSIONS, parts[index].tolist(), strict=True))
        if fronts is not None:
            crowding = float(fronts.crowding[index])
            entry["front"] = int(fronts.front[index])
            entry["crowding"] = crowding if np.isfinite(crowding) else None
        nodes[node] = entry
    return {
        "algorithm": algorithm.name,
        "record": algorithm.records[form],
        "engine": args.engine,
        "mean": dict(zip(DIMENSIONS, loads.load_ratio.mean(axis=0).tolist(), strict=True)),
        "low_percent": float(verdict.low),
        "high_percent": float(verdict.high),
        "stop_reason": verdict.stop_reason,
        "nodes": nodes,
    }


def _explanation(view: dict[str, Any]) -> str:
    """Write what :func:`_explained` returned for people."""
    from labkit.names import DIMENSIONS

    entries: dict[str, dict[str, Any]] = view["nodes"]
    first = next(iter(entries.values()))
    more = [key for key in ("front", "crowding") if key in first]
    with_parts = "parts" in first
    head = ["node", *DIMENSIONS, *([f"of {name}" for name in DIMENSIONS] if with_parts else []), *more]
    rows = [[*head, "score", "points", "class"]]
    for node, entry in entries.items():
        cells = [node, *(f"{entry['loads'][name]:.4f}" for name in DIMENSIONS)]
        if with_parts:
            cells += [f"{entry['parts'][name]:.4f}" for name in DIMENSIONS]
        cells += ["end" if entry[key] is None else f"{entry[key]:.4g}" for key in more]
        rows.append([*cells, f"{entry['score']:.6f}", str(entry["usage_percent"]), entry["class"]])
    mean = ", ".join(f"{name} {value:.4f}" for name, value in view["mean"].items())
    verdict = view["stop_reason"] or "The descheduler evicts from the over-utilised nodes."
    return (
        f"{view['algorithm']} ({view['record']}), engine {view['engine']}\nmean: {mean}\n{_table(rows)}\n"
        f"under-utilised up to {view['low_percent']:.2f} points, over-utilised above {view['high_percent']:.2f}: "
        f"{verdict}"
    )


def _table(rows: list[list[str]]) -> str:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if column == 0 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    )
