"""``labkit logs``: the log of one component."""

from __future__ import annotations

import argparse
import os
import sys
from typing import TYPE_CHECKING, NoReturn

if TYPE_CHECKING:
    from labkit.cluster import RunningLab

HELP = "show the log of a component (as 'labkit status' names it)"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's arguments."""
    from labkit.cluster.config import default_name

    parser.add_argument("component", nargs="?", help="which one; without it, the names and places of all logs")
    parser.add_argument("--name", default=default_name(), help="the lab's name (default: %(default)s)")
    parser.add_argument("-f", "--follow", action="store_true", help="go on as it grows")
    parser.add_argument(
        "--tail", type=int, default=100, metavar="N", help="last lines, -1 for all (default: %(default)s)"
    )


def run(args: argparse.Namespace) -> int:
    """Do it; return the exit code."""
    from labkit import cluster
    from labkit.cluster.config import LabFolder
    from labkit.errors import InputError

    folder = LabFolder(args.name)
    logs = {path.stem: path for path in sorted(folder.logs.glob("*.log"))}
    lab = cluster.running(args.name)
    pods = system_pods(lab) if lab is not None and lab.backend == "kind" and args.component not in logs else {}
    if args.component is None:
        if not logs and not pods:
            raise InputError(f"wanted the logs of lab {args.name!r}, found none in {folder.logs}")
        for name, path in logs.items():
            print(f"{name:<24} {path}")
        for name, names in pods.items():
            print(f"{name:<24} kube-system/{names[0]}")
        return 0
    if args.component in logs:
        # tail -F follows through rotation, and ends on Ctrl-C as people expect.
        lines = args.tail if args.tail >= 0 else "+1"
        program = ["tail", f"--lines={lines}", *(["-F"] if args.follow else []), str(logs[args.component])]
        sys.stdout.flush()
        os.execvp(program[0], program)
    if "/" in args.component:
        namespace, _, deployment = args.component.partition("/")
        _kubectl(cluster.find(args.name), namespace, f"deployment/{deployment}", args)
    if lab is not None and args.component in pods:
        _kubectl(lab, "kube-system", pods[args.component][0], args)
    raise InputError(
        f"wanted a component of lab {args.name!r}, found {args.component!r}: "
        f"there are {', '.join([*logs, *pods]) or 'no logs'}, and add-ons as NAMESPACE/DEPLOYMENT"
    )


def system_pods(lab: RunningLab) -> dict[str, list[str]]:
    """Return the names of the pods of each part of the control plane, where it runs in pods."""
    from labkit.cluster.health import SYSTEM_NAMESPACE, system_component
    from labkit.kube import PODS

    found: dict[str, list[str]] = {}
    selector = f"spec.nodeName={lab.addon_node}"
    for pod in lab.kube.list(PODS, SYSTEM_NAMESPACE, field_selector=selector)["items"]:
        found.setdefault(system_component(pod), []).append(pod["metadata"]["name"])
    return dict(sorted(found.items()))


def _kubectl(lab: RunningLab, namespace: str, what: str, args: argparse.Namespace) -> NoReturn:
    """Become kubectl, which knows best how to follow a log."""
    arguments = ["logs", "-n", namespace, what, "--all-containers", f"--tail={args.tail}"]
    sys.stdout.flush()
    os.execve(
        lab.folder.bin / "kubectl",
        ["kubectl", *arguments, *(["-f"] if args.follow else [])],
        lab.environment,
    )
