"""A lab's life on this machine: up, down, status.

Whoever wants a lab calls these functions and gets a :class:`RunningLab`; how the backend does it is its own
business (:mod:`labkit.cluster.local`, :mod:`labkit.cluster.kind`).
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from labkit.cluster.config import (
    BACKENDS,
    DEFAULT_ADDRESS,
    DEFAULT_NAME,
    LabConfig,
    LabFolder,
    default_name,
    lab_names,
)
from labkit.cluster.health import HEALTHY, ComponentStatus
from labkit.cluster.running import RunningLab
from labkit.errors import ClusterError

__all__ = [
    "BACKENDS",
    "DEFAULT_ADDRESS",
    "DEFAULT_NAME",
    "HEALTHY",
    "ComponentStatus",
    "LabConfig",
    "RunningLab",
    "default_name",
    "down",
    "find",
    "lab_names",
    "running",
    "status",
    "up",
    "wanted_config",
]

logger = logging.getLogger(__name__)


class Backend(Protocol):
    """What the module of a live backend can do."""

    def up(self, config: LabConfig, *, say: Callable[[str], None], wait: bool) -> RunningLab:
        """Bring a lab up, or repair it."""

    def down(self, name: str, *, say: Callable[[str], None]) -> bool:
        """Take a lab down; return whether there was anything to take down."""

    def is_running(self, folder: LabFolder) -> bool:
        """Return whether a lab that was brought up runs now."""


def _backend(name: str) -> Backend:
    """Return the module of a backend; neither is loaded before it is wanted."""
    if name == "kind":
        from labkit.cluster.kind import lifecycle

        return lifecycle
    from labkit.cluster import local

    return local


def _backend_of(folder: LabFolder) -> Backend:
    """Return the backend that a lab was brought up on, even where its record is damaged."""
    return _backend("kind" if folder.kind_file.exists() else "local")


def wanted_config(
    name: str | None = None,
    *,
    address: str | None = None,
    tempo: int | None = None,
    backend: str | None = None,
    tools: str | None = None,
) -> LabConfig:
    """Complete somebody's wishes: what is not said is taken from the lab of that name, else from the defaults."""
    name = name or default_name()
    folder = LabFolder(name)
    known = folder.read_record().config if folder.exists else LabConfig(name=name)
    return LabConfig(
        name=name,
        address=known.address if address is None else address,
        tempo=known.tempo if tempo is None else tempo,
        backend=known.backend if backend is None else backend,
        tools=known.tools if tools is None else str(Path(tools).expanduser().absolute()),
    )


def up(config: LabConfig, *, say: Callable[[str], None] = logger.info, wait: bool = True) -> RunningLab:
    """Bring a lab up, or repair what died of it; see :func:`labkit.cluster.local.up`."""
    folder = LabFolder(config.name)
    if config.backend != "kind" and folder.kind_file.exists():
        from labkit.cluster.kind.lifecycle import forget_deleted

        forget_deleted(folder, say=say)
    return _backend(config.backend).up(config, say=say, wait=wait)


def down(name: str | None = None, *, backend: str | None = None, say: Callable[[str], None] = logger.info) -> bool:
    """Take a lab down; return whether there was one, of that backend where one is named."""
    folder = LabFolder(name or default_name())
    if backend is not None and folder.exists and folder.read_record().config.backend != backend:
        return False
    return _backend_of(folder).down(folder.name, say=say)


def running(name: str | None = None) -> RunningLab | None:
    """Return the lab of that name if it runs now, else None."""
    folder = LabFolder(name or default_name())
    if not folder.exists or not _backend_of(folder).is_running(folder):
        return None
    return RunningLab(folder.read_record(), folder)


def find(name: str | None = None) -> RunningLab:
    """Return the lab of that name.

    Raises
    ------
    ClusterError
        If it does not run.
    """
    lab = running(name)
    if lab is None:
        name = name or default_name()
        raise ClusterError(f"lab {name!r} does not run: bring it up with 'labkit up --name {name}'")
    return lab


def status(name: str | None = None) -> list[ComponentStatus]:
    """Return how every component of a running lab is; empty if the lab does not run."""
    from labkit.cluster.health import status as ask

    lab = running(name)
    return ask(lab) if lab is not None else []
