"""``labkit down``: take a lab down."""

from __future__ import annotations

import argparse
import time

HELP = "take a lab down; its logs stay"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's arguments."""
    from labkit.cluster.config import default_name

    parser.add_argument("--name", default=default_name(), help="the lab's name (default: %(default)s)")
    parser.add_argument("--backend", default=None, help="only if it is a lab of this backend")


def run(args: argparse.Namespace) -> int:
    """Do it; return the exit code."""
    from labkit import cluster
    from labkit.cluster.config import checked_backend

    began = time.monotonic()
    was_there = cluster.down(args.name, backend=args.backend and checked_backend(args.backend))
    seconds = time.monotonic() - began
    if was_there:
        print(f"lab {args.name} is down ({seconds:.1f} s)")
    elif args.name in cluster.lab_names():
        print(f"lab {args.name} is not on backend {args.backend}: it stays as it is")
    else:
        print(f"there was no lab {args.name}")
    return 0
