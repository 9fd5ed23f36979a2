"""Run every benchmark, one after another, and print the machine they ran on first.

A benchmark is a module of this package with ``TITLE`` and ``measure() -> list[Row]``; one that takes long or needs a
lab that runs says so by ``ONLY_WHEN_NAMED`` and is left out unless it is named. Machines are noisy: each row is the
best and the median of several repetitions, and what matters is the ratio between rows of one run.
"""

from __future__ import annotations

import argparse
import importlib
import logging
import os
import pkgutil
import platform
import sys
from pathlib import Path

import benchmarks
from labkit.errors import LabError


def machine() -> str:
    """Describe the machine in one line."""
    model = "unknown processor"
    for line in Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else ():
        if line.startswith("model name"):
            model = line.partition(":")[2].strip()
            break
    gib = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    python = platform.python_version()
    return f"{os.cpu_count()} × {model}, {gib:.0f} GiB, {platform.system()} {platform.release()}, Python {python}"


def main() -> int:
    """Run the benchmarks named on the command line, all without a name."""
    found = [module.name for module in pkgutil.iter_modules(benchmarks.__path__) if not module.name.startswith("_")]
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"which ones: {', '.join(found)}")
    wanted = parser.parse_args().names
    names = wanted or found
    unknown = sorted(set(names) - set(found))
    if unknown:
        parser.error(f"wanted one of {', '.join(found)}; found {', '.join(unknown)}")
    logging.basicConfig(format="%(message)s")
    logging.getLogger("benchmarks").setLevel(logging.INFO)
    print(machine())
    failed = 0
    for name in names:
        module = importlib.import_module(f"benchmarks.{name}")
        if not wanted and getattr(module, "ONLY_WHEN_NAMED", False):
            continue
        print(f"\n{module.TITLE}", flush=True)
        try:
            rows = module.measure()
        except LabError as error:
            print(f"  not measured: {error}")
            failed += 1
            continue
        width = max(len(row.what) for row in rows)
        for row in rows:
            print(f"  {row.what:<{width}}  {row}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
