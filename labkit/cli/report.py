"""``labkit report``: write an experiment's report anew from its folder."""

from __future__ import annotations

import argparse
from pathlib import Path

HELP = "write the report of an experiment's folder anew"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's arguments."""
    parser.add_argument("folder", type=Path, metavar="DIR", help="an experiment's folder, such as results/quickstart")


def run(args: argparse.Namespace) -> int:
    """Do it; return the exit code."""
    from labkit import report

    print(report.write(args.folder))
    return 0
