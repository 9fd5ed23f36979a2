"""Processes that outlived the agent that made them: written down when made, ended before anything new is made.

The kernel ends containers with their agent, so there is normally nothing to do; this is for the moment between
the making of a process and its asking for that.
"""

from __future__ import annotations

import json
import logging
import os
import signal
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from labkit.clock import wait_until
from labkit.errors import NotReadyError

logger = logging.getLogger(__name__)

END_SECONDS: Final = 5.0
SUFFIX: Final = ".process.json"


def start_ticks(pid: int) -> int | None:
    """Return when a process began, in clock ticks since the machine started; None if it is gone or dead."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    fields = text.rpartition(")")[2].split()
    return None if fields[0] in ("Z", "X") else int(fields[19])


def child_processes(pid: int) -> list[int]:
    """Return the children of a process."""
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except FileNotFoundError:
        # The process is gone, or the kernel keeps no such list.
        return [int(entry.name) for entry in Path("/proc").glob("[0-9]*") if _parent(entry) == pid]
    except OSError:
        return []


def _parent(process: Path) -> int | None:
    try:
        return int((process / "stat").read_text().rpartition(")")[2].split()[1])
    except (OSError, IndexError):
        return None


def write_down(path: Path, pids: Iterable[int]) -> None:
    """Note processes in a file, with what tells them from later ones of the same number."""
    known = {pid: start_ticks(pid) for pid in pids}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(
        json.dumps({"boot": _boot_id(), "processes": {str(pid): ticks for pid, ticks in known.items() if ticks}})
    )


def end_leftovers(folder: Path) -> int:
    """End every process noted below a folder that still runs; return how many there were."""
    living: dict[int, int] = {}
    for path in folder.rglob(f"*{SUFFIX}"):
        try:
            noted = json.loads(path.read_text())
            if noted["boot"] == _boot_id():
                living |= {
                    int(pid): ticks for pid, ticks in noted["processes"].items() if start_ticks(int(pid)) == ticks
                }
        except (OSError, ValueError, KeyError):
            logger.warning("cannot read %s", path)
        path.unlink(missing_ok=True)
    for pid in living:
        logger.warning("ending process %d, left by the agent before", pid)
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue
    try:
        wait_until(
            lambda: all(start_ticks(pid) != ticks for pid, ticks in living.items()),
            timeout_seconds=END_SECONDS,
            what="processes left by the agent before to end",
        )
    except NotReadyError as error:
        logger.error("%s", error)
    return len(living)


def _boot_id() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""
