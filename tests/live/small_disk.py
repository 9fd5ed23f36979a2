"""The life of a lab on a disk that is filled to the last byte, told as JSON; ``test_faults.py`` runs it.

It mounts a small disk of its own, so it must run in a mount namespace of its own: ``unshare -rm python small_disk.py``.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

from labkit import cluster
from labkit.cli import main as labkit
from labkit.clock import wait_until
from labkit.cluster import LabConfig, RunningLab, change
from labkit.cluster.config import state_home
from labkit.cluster.local import supervisor_state

CONFIG = LabConfig(name="test-small-disk", address="127.0.0.6", tempo=15)
SIZE_MIB = 400
PATIENCE_SECONDS = 180.0


class Filler:
    """A file that takes all the room there is."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "filler"

    def fill(self) -> None:
        with self._path.open("ab", buffering=0) as file:
            for size in (2**20, 2**12, 1):
                with contextlib.suppress(OSError):
                    while file.write(bytes(size)) == size:
                        pass

    def remove(self) -> None:
        self._path.unlink(missing_ok=True)


def call(*words: str) -> dict[str, Any]:
    """Run a command of labkit's in this process; return its exit code and what it said."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = labkit([words[0], "--name", CONFIG.name, *words[1:]])
    return {"code": code, "out": out.getvalue(), "err": err.getvalue()}


def kill_everything(lab: RunningLab) -> None:
    state = supervisor_state(lab.folder)
    assert state is not None
    os.kill(state.pid, signal.SIGKILL)
    wait_until(lambda: cluster.running(lab.name) is None, timeout_seconds=PATIENCE_SECONDS, what="the lab to die")


def main() -> None:
    """Bring a lab up, and meet a full disk while it runs, when it is repaired and when it is taken down."""
    change.MIN_FREE_GIB = 0.2
    state = state_home()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={SIZE_MIB}m", "tmpfs", str(state)], check=True)
    filler, told = Filler(state), {}
    try:
        lab = cluster.up(CONFIG)
        filler.fill()
        told["status, full"] = call("status")
        kill_everything(lab)
        filler.fill()
        told["up, full"] = call("up")
        filler.remove()
        told["up, with room"] = call("up")
        wait_until(
            lambda: call("status")["code"] == 0,
            timeout_seconds=PATIENCE_SECONDS,
            what="everything to be well",
            found=lambda: str(call("status")["out"]),
        )
        filler.fill()
        told["down, full"] = call("down")
    finally:
        filler.remove()
        cluster.down(CONFIG.name)
    sys.stdout.write(json.dumps(told))


if __name__ == "__main__":
    sys.exit(main())
