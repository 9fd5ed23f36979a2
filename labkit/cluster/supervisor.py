"""Keeps the processes of one lab alive: ``python -m labkit.cluster.supervisor LAB``.

One thread does everything, because a child asks the kernel to kill it when *the thread that made it* ends. So
nothing outlives the supervisor, however it dies; and what a dying component leaves behind comes back to the
supervisor, which ends it too.

A component that ended is started again, at once the first time and with growing pauses (at most five seconds) when
it keeps dying. The supervisor knows nothing about Kubernetes: it reads commands from one file and writes what it
sees into another.
"""

from __future__ import annotations

import ctypes
import http.client
import logging
import os
import shutil
import signal
import socket
import ssl
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Final

from labkit.clock import WALL_CLOCK, Clock
from labkit.cluster.component import (
    Component,
    Gate,
    Lock,
    ProcessState,
    SupervisorState,
    read_components,
    write_state,
)
from labkit.cluster.config import LabFolder

logger = logging.getLogger(__name__)

MAX_PAUSE_SECONDS: Final = 5.0
FIRST_PAUSE_SECONDS: Final = 0.1
LONG_LIFE_SECONDS: Final = 60.0
"""A component that lived this long starts again without a pause."""
MAX_LOG_BYTES: Final = 16 * 2**20
NAME: Final = "supervisor"
LOG_FILE: Final = f"{NAME}.log"
"""Its own log, among those of its components."""
CANNOT_START: Final = 127
"""Exit code of a component whose program cannot even be started, as a shell's."""
STARTING_TICK_SECONDS: Final = 0.02
IDLE_TICK_SECONDS: Final = 1.0
GATE_TIMEOUT_SECONDS: Final = 1.0

_PR_SET_PDEATHSIG: Final = 1
_PR_SET_CHILD_SUBREAPER: Final = 36
_SIGNALS: Final = (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
_LIBC: Final = ctypes.CDLL(None, use_errno=True)


class _Supervised:
    """One component and what became of it."""

    def __init__(self, component: Component, log_file: Path) -> None:
        self.component = component
        self.log_file = log_file
        self.pid: int | None = None
        self.state = "waiting"
        self.restarts = -1
        self.exit_code: int | None = None
        self.since_seconds = 0.0
        self.started_at = 0.0
        self.next_start_at = 0.0
        self.pause_seconds = 0.0
        self.gate_seen_open = component.gate is None

    def snapshot(self) -> ProcessState:
        return ProcessState(self.state, self.pid, max(0, self.restarts), self.exit_code, self.since_seconds)


class Supervisor:
    """Starts components, starts them again, and ends them all.

    Parameters
    ----------
    components : sequence of Component
        In the order of starting.
    logs : Path
        Folder for one log per component.
    status_file : Path
        Where to write what is known, on every change.
    clock : Clock
        For pauses between restarts.
    """

    def __init__(
        self, components: Sequence[Component], *, logs: Path, status_file: Path, clock: Clock = WALL_CLOCK
    ) -> None:
        self._clock = clock
        self._status_file = status_file
        self._supervised = [_Supervised(entry, logs / f"{entry.name}.log") for entry in components]
        self._log_files = [logs / LOG_FILE, *(entry.log_file for entry in self._supervised)]
        self._by_name = {entry.component.name: entry for entry in self._supervised}
        self._written: dict[str, ProcessState] = {}

    def run(self) -> None:
        """Supervise until SIGTERM or SIGINT, then end every component and return."""
        signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
        _LIBC.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
        try:
            while True:
                self._reap()
                self._start_what_is_due()
                self._rotate_logs()
                self._write_state()
                received = signal.sigtimedwait(_SIGNALS, self._tick_seconds())
                if received is not None and received.si_signo in (signal.SIGTERM, signal.SIGINT):
                    logger.info("ending all components")
                    return
        finally:
            self._stop_all()
            self._write_state()

    def _tick_seconds(self) -> float:
        settled = all(entry.pid is not None and entry.gate_seen_open for entry in self._supervised)
        return IDLE_TICK_SECONDS if settled else STARTING_TICK_SECONDS

    # --- starting -----------------------------------------------------------------------------------

    def _start_what_is_due(self) -> None:
        now = self._clock.monotonic()
        for entry in self._supervised:
            if entry.pid is not None:
                if not entry.gate_seen_open and entry.component.gate is not None:
                    entry.gate_seen_open = is_open(entry.component.gate)
                continue
            first_start = entry.restarts < 0
            if first_start and not all(self._by_name[name].gate_seen_open for name in entry.component.after):
                continue
            if now >= entry.next_start_at:
                self._start(entry)

    def _start(self, entry: _Supervised) -> None:
        entry.restarts += 1
        entry.started_at = self._clock.monotonic()
        try:
            with entry.log_file.open("ab", buffering=0) as log:
                try:
                    entry.pid = _spawn(entry.component, log)
                except OSError as error:
                    log.write(f"cannot start {entry.component.command[0]}: {error}\n".encode())
                    raise
        except OSError as error:
            logger.error("cannot start %s: %s", entry.component.name, error)
            entry.exit_code = CANNOT_START
            self._back_off(entry)
            return
        self._enter(entry, "running")
        logger.info("started %s, pid %d", entry.component.name, entry.pid)

    # --- ending -------------------------------------------------------------------------------------

    def _reap(self) -> None:
        for pid, exit_code in _ended_children():
            entry = next((entry for entry in self._supervised if entry.pid == pid), None)
            if entry is None:
                continue
            entry.pid, entry.exit_code = None, exit_code
            logger.warning("%s ended with %d", entry.component.name, exit_code)
            self._end_orphans()
            self._back_off(entry)

    def _back_off(self, entry: _Supervised) -> None:
        lived_seconds = self._clock.monotonic() - entry.started_at
        if lived_seconds >= LONG_LIFE_SECONDS or entry.pause_seconds == 0.0:
            entry.pause_seconds = FIRST_PAUSE_SECONDS
        else:
            entry.pause_seconds = min(MAX_PAUSE_SECONDS, 2 * entry.pause_seconds)
        entry.next_start_at = self._clock.monotonic() + entry.pause_seconds
        self._enter(entry, "backing-off")

    def _end_orphans(self) -> None:
        """End children that are no component: what a dead component left behind."""
        known = {entry.pid for entry in self._supervised}
        for pid in _children():
            if pid not in known:
                _kill(pid, signal.SIGKILL)

    def _stop_all(self) -> None:
        for entry in reversed(self._supervised):
            self._stop(entry)
        for pid in _children():
            _kill(pid, signal.SIGKILL)
        deadline = self._clock.monotonic() + GATE_TIMEOUT_SECONDS
        while _children() and self._clock.monotonic() < deadline:
            if not _ended_children():
                signal.sigtimedwait((signal.SIGCHLD,), STARTING_TICK_SECONDS)

    def _stop(self, entry: _Supervised) -> None:
        if entry.pid is None:
            self._enter(entry, "stopped")
            return
        deadline = self._clock.monotonic() + entry.component.stop_seconds
        _kill(entry.pid, signal.SIGTERM if entry.component.stop_seconds > 0 else signal.SIGKILL)
        while True:
            for pid, exit_code in _ended_children():
                if pid == entry.pid:
                    entry.pid, entry.exit_code = None, exit_code
                    self._enter(entry, "stopped")
                    return
                for other in self._supervised:
                    if other.pid == pid:
                        other.pid, other.exit_code = None, exit_code
            if self._clock.monotonic() >= deadline:
                _kill(entry.pid, signal.SIGKILL)
            signal.sigtimedwait((signal.SIGCHLD,), STARTING_TICK_SECONDS)

    # --- files --------------------------------------------------------------------------------------

    def _enter(self, entry: _Supervised, state: str) -> None:
        entry.state = state
        entry.since_seconds = self._clock.now()

    def _write_state(self) -> None:
        states = {name: entry.snapshot() for name, entry in self._by_name.items()}
        if states == self._written:
            return
        try:
            write_state(self._status_file, SupervisorState(os.getpid(), states))
            self._written = states
        except OSError as error:
            logger.error("cannot write %s: %s", self._status_file, error)

    def _rotate_logs(self) -> None:
        for log_file in self._log_files:
            rotate(log_file)


def rotate(log_file: Path, *, max_bytes: int = MAX_LOG_BYTES) -> bool:
    """Move a log that grew too large aside, to ``<name>.1``; its writer appends and need not know.

    Returns
    -------
    bool
        Whether it was moved.
    """
    try:
        if log_file.stat().st_size <= max_bytes:
            return False
        try:
            shutil.copyfile(log_file, log_file.with_name(f"{log_file.name}.1"))
        finally:
            os.truncate(log_file, 0)  # a full disk must not stop this
    except FileNotFoundError:
        return False
    except OSError as error:
        logger.error("cannot keep the old part of %s: %s", log_file, error)
    return True


def is_open(gate: Gate) -> bool:
    """Return whether a component can be used, as its gate defines it."""
    try:
        if gate.path is None:
            with socket.create_connection((gate.address, gate.port), timeout=GATE_TIMEOUT_SECONDS):
                return True
        context = ssl.create_default_context(cafile=gate.ca_file)
        connection = http.client.HTTPSConnection(gate.address, gate.port, timeout=GATE_TIMEOUT_SECONDS, context=context)
        try:
            connection.request("GET", gate.path)
            return connection.getresponse().status == http.client.OK
        finally:
            connection.close()
    except (OSError, http.client.HTTPException):
        return False


def _spawn(component: Component, log: IO[bytes]) -> int:
    parent = os.getpid()

    def in_child() -> None:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
        _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != parent:  # the supervisor died in between
            os._exit(1)

    process = subprocess.Popen(
        list(component.command),
        env=dict(component.environment),
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=subprocess.STDOUT,
        start_new_session=True,
        preexec_fn=in_child,
    )
    process.returncode = 0  # this module reaps its children itself, in _ended_children
    return process.pid


def _ended_children() -> list[tuple[int, int]]:
    ended: list[tuple[int, int]] = []
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return ended
        if pid == 0:
            return ended
        ended.append((pid, os.waitstatus_to_exitcode(status)))


def _children() -> list[int]:
    path = Path(f"/proc/self/task/{os.getpid()}/children")
    try:
        return [int(pid) for pid in path.read_text().split()]
    except OSError:
        return []


def _kill(pid: int, number: signal.Signals) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        logger.debug("process %d is gone already", pid)


def main(argv: Sequence[str]) -> int:
    """Supervise the lab whose name comes first; with ``--detach``, in a process that nobody needs to wait for."""
    folder = LabFolder(argv[0])
    logging.basicConfig(
        level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", stream=sys.stdout, force=True
    )
    lock = Lock(folder.supervisor_lock)
    if not lock.acquire():
        logger.error("another supervisor keeps lab %s", folder.name)
        return 1
    if "--detach" in argv[1:] and os.fork() > 0:
        return 0  # the lock lives on with the child
    components = read_components(folder.components_file)
    Supervisor(components, logs=folder.logs, status_file=folder.status_file).run()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
