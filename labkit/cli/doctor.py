"""``labkit doctor``: what is missing on this machine, and what helps."""

from __future__ import annotations

import argparse

HELP = "say whether this machine can run the lab, and the one command that helps where it cannot"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's arguments."""
    from labkit.cluster.config import default_name

    parser.add_argument("--backend", default=None, help="local or kind (default: that of the lab, else local)")
    parser.add_argument("--name", default=default_name(), help="the lab's name (default: %(default)s)")
    parser.add_argument("--address", help="loopback address that the lab is to have")
    parser.add_argument("--tools", metavar="DIR", help="folder with tools of your own (default: LABKIT_TOOLS)")
    parser.add_argument("--json", action="store_true", help="as JSON")


def run(args: argparse.Namespace) -> int:
    """Do it; the exit code is 0 if nothing is in the way, else 1."""
    import json

    from labkit import cluster
    from labkit.cluster import machine
    from labkit.cluster.kind import machine as kind_machine

    config = cluster.wanted_config(args.name, address=args.address, backend=args.backend, tools=args.tools)
    running = cluster.running(args.name)
    is_up = running is not None and (running.backend, running.address) == (config.backend, config.address)
    examine = kind_machine.examine if config.backend == "kind" else machine.examine
    checks = examine(config, lab_is_up=is_up)
    problems = [check for check in checks if check.level == "problem"]
    if args.json:
        print(json.dumps({"can_run": not problems, "checks": [check.to_json() for check in checks]}, indent=1))
        return 1 if problems else 0
    width = max(len(check.subject) for check in checks)
    for check in checks:
        print(f"{check.level:<8} {check.subject:<{width}}  {check.found}")
        if check.advice:
            print(f"{'':<8} {'':<{width}}  -> {check.advice}")
    print("this machine can run the lab" if not problems else f"{len(problems)} in the way")
    return 1 if problems else 0
