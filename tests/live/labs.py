"""What tests of a lab's life share: the command line, and waiting for every component."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping

from labkit import cluster
from labkit.clock import wait_until
from labkit.cluster import RunningLab

COMMAND_SECONDS = 600.0
PATIENCE_SECONDS = 180.0
"""For what takes a few seconds on an idle machine, and much longer where every core has several things to do."""
FEWEST_COMPONENTS = 10
"""A status with fewer rows is one of a lab that does not answer."""


def labkit(*arguments: str, env: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """Run the command line of this lab's Python."""
    return subprocess.run(
        [sys.executable, "-m", "labkit", *arguments],
        capture_output=True,
        text=True,
        timeout=COMMAND_SECONDS,
        check=False,
        env={**os.environ, **(env or {})},
    )


def unhealthy(lab: RunningLab) -> list[str]:
    """Return what is not well of a lab, in words."""
    rows = cluster.status(lab.name)
    if len(rows) < FEWEST_COMPONENTS:
        return [f"only {len(rows)} components"]
    return [f"{row.component}: {row.health}" for row in rows if not row.is_well]


def wait_healthy(lab: RunningLab, *, timeout_seconds: float = PATIENCE_SECONDS) -> None:
    """Wait until every component of a lab is well."""
    wait_until(
        lambda: not unhealthy(lab),
        timeout_seconds=timeout_seconds,
        what="every component to be healthy",
        poll_seconds=0.3,
        found=lambda: "; ".join(unhealthy(lab)),
    )
