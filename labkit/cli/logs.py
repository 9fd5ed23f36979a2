"""``labkit logs``: the log of one component."""

from __future__ import annotations

import argparse
import os
import sys

HELP = "show the log of a component (as 'labkit status' names it)"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's arguments."""
    from labkit.cluster.config import default_name

    parser.add_argument("component", nargs="?", help="which one; without it, the names and places of all logs")
    parser.add_argument("--name", default=default_name(), help="the lab's name (default: %(default)s)")
    parser.add_argument("-f", "--follow", action="store_true", help="go on as it grows")
    parser.add_argument("--tail", type=int, default=100, metavar="N", help="last lines (default: %(default)s)")


def run(args: argparse.Namespace) -> int:
    """Do it; return the exit code."""
    from labkit.cluster.config import LabFolder
    from labkit.errors import InputError

    folder = LabFolder(args.name)
    logs = {path.stem: path for path in sorted(folder.logs.glob("*.log"))}
    if args.component is None:
        for name, path in logs.items():
            print(f"{name:<24} {path}")
        return 0
    if args.component in logs:
        # tail -F follows through rotation, and ends on Ctrl-C as people expect.
        program = ["tail", f"--lines={args.tail}", *(["-F"] if args.follow else []), str(logs[args.component])]
        sys.stdout.flush()
        os.execvp(program[0], program)
    if "/" in args.component:
        from labkit import cluster

        namespace, _, deployment = args.component.partition("/")
        lab = cluster.find(args.name)
        arguments = ["logs", "-n", namespace, f"deployment/{deployment}", "--all-containers", f"--tail={args.tail}"]
        sys.stdout.flush()
        os.execve(
            lab.folder.bin / "kubectl",
            ["kubectl", *arguments, *(["-f"] if args.follow else [])],
            lab.environment,
        )
    raise InputError(
        f"wanted a component of lab {args.name!r}, found {args.component!r}: "
        f"there are {', '.join(logs) or 'no logs'}, and add-ons as NAMESPACE/DEPLOYMENT"
    )
