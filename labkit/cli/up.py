"""``labkit up``: bring a lab up, or repair it."""

from __future__ import annotations

import argparse
import time

HELP = "bring a lab up, or repair what died"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's arguments."""
    from labkit.cluster.config import BACKENDS, DEFAULT_ADDRESS, default_name
    from labkit.names import MAX_TEMPO

    parser.add_argument("--name", default=default_name(), help="the lab's name (default: %(default)s)")
    parser.add_argument("--backend", default=None, help=f"{' or '.join(BACKENDS)} (default: local)")
    parser.add_argument("--address", help=f"loopback address of its own (default: {DEFAULT_ADDRESS})")
    parser.add_argument("--tempo", type=int, help=f"lab seconds per second, 1 to {MAX_TEMPO} (default: 1)")
    parser.add_argument("--tools", metavar="DIR", help="folder with tools of your own (default: LABKIT_TOOLS)")
    parser.add_argument(
        "--no-wait", action="store_true", help="return when the API server answers, not when all is ready"
    )


def run(args: argparse.Namespace) -> int:
    """Do it; return the exit code."""
    from labkit import cluster
    from labkit.cli import own_command

    began = time.monotonic()
    lab = cluster.up(
        cluster.wanted_config(
            args.name, address=args.address, tempo=args.tempo, backend=args.backend, tools=args.tools
        ),
        wait=not args.no_wait,
        say=lambda text: print(f"{time.monotonic() - began:5.1f} s  {text}", flush=True),
    )
    name = "" if args.name == cluster.default_name() else f" --name {args.name}"
    where = f"{lab.address}, tempo {lab.tempo}" + ("" if lab.backend == "local" else f", on {lab.addon_node}")
    print(f"{time.monotonic() - began:5.1f} s  lab {lab.name} is up at {where}")
    print(f'For kubectl and the other tools:  eval "$({own_command()} env{name})"')
    return 0
