"""``labkit algorithms``: list the algorithms, and check one of your own."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

HELP = "list the algorithms, show what applies one, or check a file of your own"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's arguments."""
    parser.add_argument("--json", action="store_true", help="as JSON")
    actions = parser.add_subparsers(dest="action", metavar="show NAME | check FILE")
    show = actions.add_parser("show", help="print the DeschedulerPolicy and the PrometheusRule that apply one")
    show.add_argument("name", metavar="NAME", help="of an algorithm")
    show.add_argument("--thresholds", metavar="LOW:HIGH", help="or a preset such as AsymmetricLow (production's)")
    show.add_argument("--json", action="store_true", default=argparse.SUPPRESS, help="as JSON")
    check = actions.add_parser("check", help="say whether a file's algorithms are fit for the descheduler")
    check.add_argument("file", metavar="FILE", type=Path, help="a PrometheusRule (.yaml) or Python functions (.py)")
    # Its own default would overwrite what stood before the word "check".
    check.add_argument("--json", action="store_true", default=argparse.SUPPRESS, help="as JSON")


def run(args: argparse.Namespace) -> int:
    """Do it."""
    if args.action == "show":
        return _show(args.name, args.thresholds, as_json=args.json)
    return _check(args.file, as_json=args.json) if args.action == "check" else _list(as_json=args.json)


def _list(*, as_json: bool) -> int:
    from labkit import scoring

    known = scoring.algorithms()
    if as_json:
        rows = [
            {
                "name": each.name,
                "record": each.record,
                "family": each.family,
                "computed_by": each.computed_by,
                "description": each.description,
                "records": dict(each.records),
                "file": str(each.file) if each.file else None,
            }
            for each in known
        ]
        print(json.dumps(rows, indent=1))
    else:
        table = [("NAME", "FAMILY", "BY", "DESCRIPTION")]
        table += [(each.name, each.family, each.computed_by, each.description) for each in known]
        widths = [max(len(row[column]) for row in table) for column in range(3)]
        for row in table:
            print("  ".join(cell.ljust(width) for cell, width in zip(row, [*widths, 0], strict=True)).rstrip())
        print("\nThe descheduler asks for descheduler:node:NAME:avg1m: 'labkit use NAME'; see docs/algorithms.md.")
    for error in scoring.unreadable():
        print(f"labkit: left out: {error}", file=sys.stderr)
    return 0


def _show(name: str, thresholds: str | None, *, as_json: bool) -> int:
    from labkit import scoring
    from labkit.scoring import recipe

    known = scoring.get(name)
    policy, rules = recipe.policy(name, thresholds=thresholds), recipe.rules(name)
    if as_json:
        values = {"name": known.name, "record": known.record, "inputs": recipe.inputs(name), "policy": policy,
                  "rules": rules}  # fmt: skip
        print(json.dumps(values, indent=1))
        return 0
    print(f"# {known.name}: {known.description}.")
    print(f"# What its rules read: {', '.join(recipe.inputs(name))}.")
    if known.computed_by == "scorer":
        print("# PromQL alone does not do: the lab's scorer computes lab_node_score.")
    print(policy + "---\n" + rules, end="")
    return 0


def _check(path: Path, *, as_json: bool) -> int:
    from labkit import fitness, promql, scoring

    found = scoring.load(path)
    if path.suffix != ".py":
        promql.load_rules(path)  # errors with the file's own lines
    reports = {each.name: fitness.examine(each) for each in found}
    if as_json:
        rows = [
            {
                "name": each.name,
                "record": each.record,
                "computed_by": each.computed_by,
                "fit": True,
                "clusters": reports[each.name].clusters,
                "seconds_at_1000_nodes": reports[each.name].seconds,
                "notes": list(reports[each.name].notes),
            }
            for each in found
        ]
        print(json.dumps(rows, indent=1))
        return 0
    for each in found:
        report = reports[each.name]
        print(f"{each.name} is fit for the descheduler: one score in [0, 1] per node in {report.clusters} clusters")
        print(f"  record      {each.record}")
        print(f"  computed by {'a recording rule' if each.computed_by == 'rule' else 'the scorer'}")
        print(f"  cost        {1000 * report.seconds:.1f} ms at 1,000 nodes")
        for note in report.notes:
            print(f"  note        {note}")
    return 0
