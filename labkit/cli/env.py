"""``labkit env``: what kubectl and the other tools need, for ``eval``."""

from __future__ import annotations

import argparse
import os
import shlex

HELP = 'print what kubectl needs: eval "$(labkit env)"'


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's arguments."""
    from labkit.cluster.config import default_name

    parser.add_argument("--name", default=default_name(), help="the lab's name (default: %(default)s)")
    parser.add_argument("--json", action="store_true", help="as JSON instead of shell commands")


def run(args: argparse.Namespace) -> int:
    """Do it; return the exit code."""
    from labkit import cluster

    lab = cluster.find(args.name)
    variables = lab.variables
    if args.json:
        import json

        print(json.dumps(variables, indent=1))
        return 0
    tools = str(lab.folder.bin)
    for name, value in variables.items():
        if name != "PATH":
            print(f"export {name}={shlex.quote(value)}")
        elif os.environ.get("PATH", "").split(os.pathsep)[0] != tools:
            print(f'export PATH={shlex.quote(tools)}:"$PATH"')
    return 0
