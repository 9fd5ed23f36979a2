"""A process that the supervisor keeps alive, as data.

``up`` writes the components of a lab into one file, the supervisor reads it; what the supervisor finds out goes
into a second file that everybody may read. Neither imports the other's code beyond this module.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

from labkit.clock import wait_until
from labkit.cluster.config import write_whole
from labkit.errors import NotReadyError

LOOK_SECONDS: Final = 0.25
"""For so long a lock is tried again that somebody may only be looking at."""


@dataclass(frozen=True)
class Gate:
    """How to see that a component can be used.

    Parameters
    ----------
    address, port
        Where it listens.
    path : str, optional
        With a path, an HTTPS GET of it must answer 200; without, the port must accept a connection.
    ca_file : str, optional
        Who signed the server's certificate.
    """

    address: str
    port: int
    path: str | None = None
    ca_file: str | None = None


@dataclass(frozen=True)
class Component:
    """One process.

    Parameters
    ----------
    name : str
        As ``labkit status`` shows it; its log is ``<name>.log``.
    command : tuple of str
        Program and arguments.
    environment : Mapping
        Its whole environment.
    after : tuple of str
        Components whose gate must be open before this one is started for the first time.
    gate : Gate, optional
        How to see that it can be used.
    stop_seconds : float
        Time between SIGTERM and SIGKILL when the lab goes down; 0 kills at once.
    """

    name: str
    command: tuple[str, ...]
    environment: Mapping[str, str] = field(default_factory=dict)
    after: tuple[str, ...] = ()
    gate: Gate | None = None
    stop_seconds: float = 0.0


def write_components(path: Path, components: Sequence[Component]) -> None:
    """Write the components for the supervisor; the order is the order of starting, the reverse that of stopping."""
    write_whole(path, json.dumps([asdict(component) for component in components], indent=1))


def read_components(path: Path) -> list[Component]:
    """Read what :func:`write_components` wrote."""
    components = []
    for entry in json.loads(path.read_text()):
        gate = Gate(**entry.pop("gate")) if entry["gate"] else entry.pop("gate")
        components.append(
            Component(
                **entry | {"command": tuple(entry["command"]), "after": tuple(entry["after"])},
                gate=gate,
            )
        )
    return components


@dataclass(frozen=True)
class ProcessState:
    """What the supervisor knows of a component.

    Parameters
    ----------
    state : str
        ``waiting`` (for another one), ``running``, ``backing-off`` (died, will be started again), ``stopped``.
    pid : int or None
        Its process while it runs.
    restarts : int
        How often it was started again.
    exit_code : int or None
        Of its last life; negative: the signal that killed it.
    since_seconds : float
        Wall-clock time of the last change, seconds since 1970 (UTC).
    """

    state: str
    pid: int | None = None
    restarts: int = 0
    exit_code: int | None = None
    since_seconds: float = 0.0


@dataclass(frozen=True)
class SupervisorState:
    """The supervisor's process id and what it knows."""

    pid: int
    components: Mapping[str, ProcessState]


def write_state(path: Path, state: SupervisorState) -> None:
    """Write the state so that a reader sees the old or the new one."""
    write_whole(path, json.dumps(asdict(state)))


def read_state(path: Path) -> SupervisorState | None:
    """Read the last state written, or None if there is none."""
    try:
        values: dict[str, Any] = json.loads(path.read_text())
        states = {name: ProcessState(**state) for name, state in values["components"].items()}
        return SupervisorState(int(values["pid"]), states)
    except (OSError, ValueError, KeyError, TypeError):
        return None


class Lock:
    """A file lock held by a process for as long as it lives, however it dies.

    Parameters
    ----------
    path : Path
        The lock's file; it stays when the lock is released.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._descriptor: int | None = None

    def acquire(self) -> bool:
        """Take the lock if nobody has it; return whether it was taken."""
        descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            # Somebody who only looks is through within a moment.
            wait_until(lambda: _locked(descriptor, fcntl.LOCK_EX), timeout_seconds=LOOK_SECONDS, what="the lock")
        except NotReadyError:
            os.close(descriptor)
            return False
        self._descriptor = descriptor
        return True

    def release(self) -> None:
        """Give the lock back."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    @property
    def held_by_somebody(self) -> bool:
        """Whether another process holds the lock now; any number may look at once, and none is taken for a holder."""
        try:
            descriptor = os.open(self._path, os.O_RDONLY)
        except FileNotFoundError:
            return False
        try:
            return not _locked(descriptor, fcntl.LOCK_SH)
        finally:
            os.close(descriptor)

    def users(self) -> list[int]:
        """Return the processes that have the lock's file open, its holder among them."""
        wanted, found = os.path.realpath(self._path), []
        for process in Path("/proc").glob("[0-9]*"):
            try:
                if any(os.readlink(entry) == wanted for entry in (process / "fd").iterdir()):
                    found.append(int(process.name))
            except OSError:
                continue  # another user's, or gone
        return found


def _locked(descriptor: int, kind: int) -> bool:
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
