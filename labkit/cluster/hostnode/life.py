"""One life of a container: a process in its own root, from start to exit."""

from __future__ import annotations

import json
import logging
import os
import selectors
import signal
import subprocess
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

from labkit.clock import Clock, wait_until
from labkit.cluster.hostnode.leftovers import child_processes, write_down
from labkit.cluster.hostnode.logs import ContainerLog, LineSplitter, now_nanoseconds
from labkit.cluster.hostnode.spawner import Spawner
from labkit.errors import NotReadyError

logger = logging.getLogger(__name__)

_CHUNK_BYTES: Final = 2**16


class Life:
    """A running process of a container, and what it writes.

    Parameters
    ----------
    spawner : Spawner
        Makes the process.
    words : callable
        Given the descriptor on which bubblewrap tells the first process's id, returns the command line.
    environment : Mapping
        The process's whole environment.
    log_folder : Path
        The container's log folder.
    record_file : Path
        Where to note the process, see ``leftovers``.
    clock : Clock
        For start and end.
    on_exit : callable
        Called once with the life when its process has ended and its log is complete; from another thread.

    Raises
    ------
    OSError
        If the process cannot be made or its log cannot be opened.
    """

    def __init__(
        self,
        spawner: Spawner,
        words: Callable[[int], Sequence[str]],
        environment: Mapping[str, str],
        *,
        log_folder: Path,
        record_file: Path,
        clock: Clock,
        on_exit: Callable[[Life], None],
    ) -> None:
        self._clock = clock
        self._on_exit = on_exit
        self._record_file = record_file
        self._log = ContainerLog(log_folder)
        self._lock = threading.Lock()
        reader, writer = os.pipe()
        try:
            self._process: subprocess.Popen[bytes] = spawner.spawn(words(writer), environment, descriptors=(writer,))
        except BaseException:
            os.close(reader)
            self._log.close()
            raise
        finally:
            os.close(writer)
        self.started_at = clock.now()
        self.finished_at = 0.0
        self.exit_code: int | None = None
        self._init_pid = _read_first_pid(reader)
        try:
            write_down(record_file, [pid for pid in (self._process.pid, self._init_pid) if pid])
        except OSError as error:
            logger.error("cannot note process %d: %s", self._process.pid, error)
        self._thread = threading.Thread(target=self._follow, name=f"life-{self._process.pid}", daemon=True)
        self._thread.start()

    @property
    def running(self) -> bool:
        """Whether the process has not ended yet."""
        return self.exit_code is None

    @property
    def log_complete(self) -> bool:
        """Whether everything that the process wrote is in its log."""
        return not self._thread.is_alive()

    @property
    def pid(self) -> int:
        """Return the host's number of bubblewrap's process."""
        return self._process.pid

    def main_pid(self) -> int | None:
        """Return the host's number of the container's own process, None if it is not there (any more)."""
        children = child_processes(self._init_pid) if self._init_pid else []
        return children[0] if children else None

    def wait_main_pid(self, timeout_seconds: float) -> int | None:
        """Return :meth:`main_pid`, waiting for it while the container's root is still being built."""
        try:
            return wait_until(
                self.main_pid, timeout_seconds=timeout_seconds, what="the container's process", poll_seconds=0.02
            )
        except NotReadyError:
            return None

    def terminate(self) -> None:
        """Ask the container's own process to end (SIGTERM)."""
        pid = self.main_pid()
        if pid is None:
            self.kill()
            return
        self._signal(pid, signal.SIGTERM)

    def kill(self) -> None:
        """End everything that the container started, now."""
        self._signal(self._process.pid, signal.SIGKILL)

    def join(self, timeout_seconds: float) -> None:
        """Wait until the log is complete."""
        self._thread.join(timeout_seconds)

    def _signal(self, pid: int, number: signal.Signals) -> None:
        with self._lock:  # the process is reaped under the same lock, so its number still means it
            if self._process.returncode is None:
                try:
                    os.kill(pid, number)
                except ProcessLookupError:
                    logger.debug("process %d is gone already", pid)

    def _follow(self) -> None:
        try:
            self._copy_output()
        except OSError as error:
            logger.error("the log of process %d is incomplete: %s", self._process.pid, error)
        self._wait()
        self._log.close()
        self._record_file.unlink(missing_ok=True)
        self._on_exit(self)

    def _wait(self) -> None:
        os.waitid(os.P_PID, self._process.pid, os.WEXITED | os.WNOWAIT)
        with self._lock:
            code = self._process.wait()
        self.finished_at = self._clock.now()
        self.exit_code = 128 - code if code < 0 else code

    def _copy_output(self) -> None:
        assert self._process.stdout is not None
        assert self._process.stderr is not None
        with selectors.DefaultSelector() as selector, self._process.stdout as out, self._process.stderr as err:
            selector.register(out, selectors.EVENT_READ, LineSplitter("stdout"))
            selector.register(err, selectors.EVENT_READ, LineSplitter("stderr"))
            while selector.get_map():
                for key, _ in selector.select():
                    splitter: LineSplitter = key.data
                    chunk = os.read(key.fd, _CHUNK_BYTES)
                    if not chunk:
                        selector.unregister(key.fileobj)
                    lines = splitter.feed(chunk, now_nanoseconds()) if chunk else splitter.end(now_nanoseconds())
                    for line in lines:
                        self._write(line)

    def _write(self, line: bytes) -> None:
        try:
            self._log.write(line)
        except OSError as error:  # a full disk must not stop the container
            logger.error("a log line of process %d is lost: %s", self._process.pid, error)


def _read_first_pid(reader: int) -> int | None:
    with os.fdopen(reader, "rb") as stream:
        text = stream.read()
    try:
        return int(json.loads(text)["child-pid"])
    except (ValueError, KeyError):
        return None  # bubblewrap failed; its message is in the log
