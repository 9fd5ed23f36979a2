"""``labkit status``: every component's health, version, ports and restarts."""

from __future__ import annotations

import argparse
import json

HELP = "show every component's health, version, ports and restarts"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's arguments."""
    from labkit.cluster.config import default_name

    parser.add_argument("--name", default=default_name(), help="the lab's name (default: %(default)s)")
    parser.add_argument("--backend", default=None, help="only if it is a lab of this backend")
    parser.add_argument("--json", action="store_true", help="as JSON")


def run(args: argparse.Namespace) -> int:
    """Do it; the exit code is 0 if all is well, else 1."""
    from labkit import cluster
    from labkit.cluster.config import checked_backend
    from labkit.cluster.health import status

    lab = cluster.running(args.name)
    backend = args.backend and checked_backend(args.backend)
    trouble = f"is not up: bring it up with 'labkit up --name {args.name}'"
    if lab is not None and backend not in (None, lab.backend):
        trouble = f"is on backend {lab.backend}, not {backend}"
        lab = None
    if lab is None:
        print(json.dumps({"lab": args.name, "running": False}) if args.json else f"lab {args.name} {trouble}")
        return 1
    components = status(lab)
    well = all(entry.is_well for entry in components)
    if args.json:
        values = {
            "lab": lab.name,
            "running": True,
            "healthy": well,
            "backend": lab.backend,
            "address": lab.address,
            "tempo": lab.tempo,
            "epoch": lab.record.epoch,
            "kubeconfig": str(lab.folder.kubeconfig),
            "components": [entry.to_json() for entry in components],
        }
        print(json.dumps(values, indent=1))
        return 0 if well else 1
    print(f"lab {lab.name} at {lab.address}, tempo {lab.tempo}, backend {lab.backend}")
    rows = [("COMPONENT", "HEALTH", "VERSION", "PORTS", "RESTARTS")]
    for entry in components:
        ports = ",".join(map(str, entry.ports)) or "-"
        rows.append((entry.component, entry.health, entry.version, ports, str(entry.restarts)))
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    for row in rows:
        print("  ".join(f"{cell:<{width}}" for cell, width in zip(row, [*widths, 0], strict=True)).rstrip())
    return 0 if well else 1
