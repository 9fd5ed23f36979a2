"""Files that are made from others: ``make update`` writes them, ``make verify`` fails where one is out of date.

A generator is a module whose ``main(["--write"])`` writes its files and whose ``main(["--check"])`` returns 1 and says
which file differs. Each is listed here once.
"""

from __future__ import annotations

import argparse
import importlib
import sys
from typing import Final

GENERATORS: Final[tuple[str, ...]] = (
    "tools.algorithm_tables",
    "tools.grafana_dashboards",
    "tools.service_requirements",
)


def main() -> int:
    """Run every generator in the mode asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    mode = parser.add_mutually_exclusive_group(required=True)
    mode.add_argument("--write", action="store_const", dest="mode", const="--write")
    mode.add_argument("--check", action="store_const", dest="mode", const="--check")
    mode_option = parser.parse_args().mode
    codes = [importlib.import_module(name).main([mode_option]) for name in GENERATORS]
    return max(codes, default=0)


if __name__ == "__main__":
    sys.exit(main())
