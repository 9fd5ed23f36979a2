"""``python -m labkit.cluster.hostnode --config FILE``: serve the node until SIGTERM."""

from __future__ import annotations

import argparse
import logging
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from labkit.cluster.hostnode.agent import Agent
from labkit.cluster.hostnode.config import read_config
from labkit.errors import InputError, LabError

logger = logging.getLogger("labkit.cluster.hostnode")


def main(argv: Sequence[str]) -> int:
    """Run the agent; return 2 for a wrong configuration, 1 for a machine that is in the way."""
    parser = argparse.ArgumentParser(prog="labkit.cluster.hostnode", description=__doc__)
    parser.add_argument("--config", type=Path, required=True, help="JSON file, see labkit.cluster.hostnode.config")
    args = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", stream=sys.stdout)
    try:
        agent = Agent(read_config(args.config))
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: agent.stop())
        agent.run()
    except LabError as error:
        logger.error("%s", error)
        return 2 if isinstance(error, InputError) else 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
