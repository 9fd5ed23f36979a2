"""``k8s/images/services/requirements.txt``: the part of the lock that the services need.

Their image holds no more than that. Versions and hashes are those of ``requirements.txt``, so a service runs on the
same packages on every backend.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import re
import sys
from pathlib import Path
from typing import Final

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

DIRECT: Final = (
    "flask", "jsonschema", "kubernetes", "numpy", "orjson", "prometheus-api-client", "prometheus-client",
    "promql-parser", "pyyaml", "urllib3", "waitress",
)  # fmt: skip
"""What the services, and the parts of labkit that they use, import."""

ROOT: Final = Path(__file__).parent.parent
LOCK: Final = ROOT / "requirements.txt"
TARGET: Final = ROOT / "k8s" / "images" / "services" / "requirements.txt"
HEAD: Final = "# Made from requirements.txt by 'make update': what the services' image holds.\n"


def needed(direct: tuple[str, ...] = DIRECT) -> set[str]:
    """Return the names of some packages and of all that they need, as this environment has them."""
    found: set[str] = set()
    waiting = [canonicalize_name(name) for name in direct]
    while waiting:
        name = waiting.pop()
        if name in found:
            continue
        found.add(name)
        for text in importlib.metadata.requires(name) or ():
            requirement = Requirement(text)
            if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
                waiting.append(canonicalize_name(requirement.name))
    return found


def part_of_lock(lock: str, names: set[str]) -> str:
    """Return the pins and hashes of some packages.

    Raises
    ------
    SystemExit
        If one is not in the lock.
    """
    entries: dict[str, list[str]] = {}
    entry: list[str] = []
    for line in lock.splitlines():
        pinned = re.match(r"([A-Za-z0-9._-]+)==", line)
        if pinned:
            entry = entries.setdefault(canonicalize_name(pinned[1]), [])
        if line.strip().startswith("#") or line.startswith("-") or not line.strip():
            continue
        entry.append(line)
    missing = names - entries.keys()
    if missing:
        sys.exit(f"wanted {', '.join(sorted(missing))} in {LOCK.name}, found no pin: run 'make lock'")
    return "\n".join(line for name in sorted(names) for line in entries[name]) + "\n"


def main(arguments: list[str] | None = None) -> int:
    """Write the file, or say whether it is up to date."""
    parser = argparse.ArgumentParser(description=__doc__)
    mode = parser.add_mutually_exclusive_group(required=True)
    mode.add_argument("--write", action="store_true")
    mode.add_argument("--check", action="store_true")
    wanted = HEAD + part_of_lock(LOCK.read_text(), needed())
    if parser.parse_args(arguments).write:
        TARGET.write_text(wanted)
        return 0
    if TARGET.is_file() and TARGET.read_text() == wanted:
        return 0
    sys.stderr.write(f"{TARGET.relative_to(ROOT)} is out of date: run 'make update'\n")
    return 1


if __name__ == "__main__":
    sys.exit(main())
