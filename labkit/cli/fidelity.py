"""``labkit fidelity``: hold live runs against the twin, or against another live backend."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from labkit.fidelity import Fidelity

HELP = "compare live runs with the twin's imitations of them, or with runs on kind"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's arguments."""
    parser.add_argument(
        "folder", type=Path, nargs="+", metavar="DIR", help="a live experiment's folder, or the parts of its matrix"
    )
    parser.add_argument(
        "--against", type=Path, nargs="+", metavar="DIR",
        help="folders of the same experiment on another live backend, in the twin's place",
    )  # fmt: skip
    parser.add_argument("--draws", type=int, default=4, metavar="N", help="imitations of each run (default 4)")
    parser.add_argument("--figure", type=Path, metavar="FILE", help="draw the migrations into a PNG or SVG file")
    parser.add_argument("--json", action="store_true", help="print pairs and rank correlations as JSON")


def run(args: argparse.Namespace) -> int:
    """Do it; return the exit code."""
    from labkit import fidelity

    if args.figure:
        _check_figure(args.figure)
    runs = fidelity.read(args.folder)
    if args.against:
        other = fidelity.outcomes(fidelity.read(args.against))
    else:
        say = (lambda line: print(f"labkit: {line}", file=sys.stderr)) if sys.stderr.isatty() else (lambda line: None)
        other = fidelity.imitations(runs, draws=args.draws, say=say)
    found = fidelity.Fidelity.of(fidelity.outcomes(runs), other)
    if args.figure:
        _draw(found, args.figure)
    if args.json:
        print(fidelity.as_json(found))
    else:
        print("\n".join(f"- {sentence}" for sentence in fidelity.conditions(runs)))
        print(fidelity.markdown(found))
    return 0


def _check_figure(path: Path) -> None:
    """Refuse a file that could not be written once everything has been computed."""
    from matplotlib.figure import Figure

    from labkit.errors import InputError

    known = sorted(Figure().canvas.get_supported_filetypes())
    if path.suffix.removeprefix(".").lower() not in known:
        raise InputError(f"wanted --figure with an ending out of {', '.join(known)}, found {str(path)!r}")
    if not path.parent.is_dir():
        raise InputError(f"wanted --figure in a folder that is there, found no {path.parent}")


def _draw(found: Fidelity, path: Path) -> None:
    from matplotlib.figure import Figure

    from labkit import plots
    from labkit.analysis import metrics

    one, other = found.sides
    what = metrics.get("migrations")
    with plots.lab_style():
        figure = Figure(figsize=(5.2 * len(found.scenarios), 4.0), layout="constrained")
        axes = figure.subplots(1, len(found.scenarios), squeeze=False)[0]
        for ax, scenario in zip(axes, found.scenarios, strict=True):
            values = found.values(found.one, scenario, what.name)
            against = {other: found.values(found.other, scenario, what.name)}
            plots.agreement(values, against, what, ax, title=f"Migrations: {scenario}", side=one)
        figure.savefig(path, dpi=90)
