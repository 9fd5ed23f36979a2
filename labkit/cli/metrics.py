"""``labkit metrics``: what experiments can be judged by, and the same as PromQL for a cluster that is no lab."""

from __future__ import annotations

import argparse
import json

HELP = "list the metrics of experiments, or print them as PromQL for a cluster of yours"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's arguments."""
    parser.add_argument("--json", action="store_true", help="as JSON")
    actions = parser.add_subparsers(dest="action", metavar="promql")
    promql = actions.add_parser("promql", help="print PromQL expressions, all or some")
    promql.add_argument("names", nargs="*", metavar="NAME", help="default: all that PromQL can say")
    promql.add_argument("--window", default="30m", metavar="30m", help="time looked back over (default: %(default)s)")
    promql.add_argument("--step", default="15s", metavar="15s", help="the scrape interval (default: %(default)s)")
    promql.add_argument("--json", action="store_true", default=argparse.SUPPRESS, help="as JSON")


def run(args: argparse.Namespace) -> int:
    """Do it; return the exit code."""
    if args.action == "promql":
        return _promql(args.names, args.window, args.step, as_json=args.json)
    return _list(as_json=args.json)


def _list(*, as_json: bool) -> int:
    from dataclasses import asdict

    from labkit.analysis.metrics import METRICS

    if as_json:
        print(json.dumps([asdict(metric) for metric in METRICS.values()], indent=1))
        return 0
    width = max(map(len, METRICS))
    for metric in METRICS.values():
        unit = f", {metric.unit}" if metric.unit else ""
        print(f"{metric.name:<{width}}  {metric.title}{unit} ({metric.better} is better)")
    return 0


def _promql(names: list[str], window: str, step: str, *, as_json: bool) -> int:
    from labkit.analysis.promql import EXPRESSIONS, expression
    from labkit.errors import InputError
    from labkit.units import format_duration, parse_duration

    window_seconds, step_seconds = parse_duration(window), parse_duration(step)
    if not window_seconds >= step_seconds >= 0.001:
        raise InputError(f"wanted --step above 0 and --window of at least that, found {step!r} and {window!r}")
    found = {
        name: expression(
            name, window=format_duration(window_seconds), step=format_duration(step_seconds),
            step_seconds=f"{step_seconds:g}",
        )
        for name in names or EXPRESSIONS
    }  # fmt: skip
    if as_json:
        print(json.dumps(found, indent=1))
        return 0
    for name, text in found.items():
        print(f"# {name}\n{text}")
    return 0
