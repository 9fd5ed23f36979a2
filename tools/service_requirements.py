"""``k8s/images/services/requirements.txt``: the part of the lock that the services need.

Their image holds no more than that. Versions and hashes are those of ``requirements.txt``, so a service runs on the
same packages on every backend.
"""

from __future__ import annotations

import importlib.metadata
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tools.generated import ROOT, write_or_check

DIRECT: Final = (
    "flask", "jsonschema", "kubernetes", "numpy", "orjson", "prometheus-api-client", "prometheus-client",
    "promql-parser", "pyyaml", "urllib3", "waitress",
)  # fmt: skip
"""What the services, and the parts of labkit that they use, import."""

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


def rendered() -> dict[Path, str]:
    """Return the file and what it should hold."""
    return {TARGET: HEAD + part_of_lock(LOCK.read_text(), needed())}


def main(argv: Sequence[str] | None = None) -> int:
    """Write the file, or say whether it is up to date."""
    return write_or_check(__doc__, rendered, argv)


if __name__ == "__main__":
    sys.exit(main())
