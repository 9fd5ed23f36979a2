"""What level-triggered controllers share: a queue of keys, and the threads that reconcile them.

A key is at most once in the queue and never handled by two threads at a time; one that is added while it is being
handled is handled again afterwards. So a reconciler may look at the world as it is now and needs no event.
"""

from __future__ import annotations

import heapq
import logging
import threading
from collections import deque
from collections.abc import Callable, Hashable
from typing import Final, Generic, TypeVar

from labkit.clock import WALL_CLOCK, Clock, backoff_seconds
from labkit.errors import KubeError

logger = logging.getLogger(__name__)

K = TypeVar("K", bound=Hashable)

BACKOFF_SECONDS: Final = (0.05, 10.0)
"""Wait after a key's first failure, and the most that doubling makes of it."""


class WorkQueue(Generic[K]):
    """Keys that wait to be handled, in the order in which they came."""

    def __init__(self, *, clock: Clock = WALL_CLOCK) -> None:
        self._clock = clock
        self._changed = threading.Condition()
        self._ready: deque[K] = deque()
        self._waiting: set[K] = set()
        self._handled: set[K] = set()
        self._later: list[tuple[float, int, K]] = []
        self._due: dict[K, float] = {}
        self._count = 0
        self._closed = False

    def __len__(self) -> int:
        return len(self._ready)

    def add(self, key: K) -> None:
        """Queue a key, unless it waits already."""
        with self._changed:
            self._add(key)

    def add_after(self, key: K, seconds: float) -> None:
        """Queue a key after that many seconds; of several waits for one key the shortest counts."""
        with self._changed:
            due = self._clock.monotonic() + seconds
            if due < self._due.get(key, float("inf")):
                self._count += 1
                self._due[key] = due
                heapq.heappush(self._later, (due, self._count, key))
                self._changed.notify()

    def get(self) -> K | None:
        """Wait for a key; None when the queue was closed. The caller must say :meth:`done`."""
        with self._changed:
            while not self._closed:
                wait = self._promote()
                if self._ready:
                    key = self._ready.popleft()
                    self._waiting.discard(key)
                    self._handled.add(key)
                    return key
                self._changed.wait(wait)
            return None

    def done(self, key: K) -> None:
        """Say that a key has been handled."""
        with self._changed:
            self._handled.discard(key)
            if key in self._waiting:
                self._ready.append(key)
                self._changed.notify()

    def close(self) -> None:
        """Let every :meth:`get` return None."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def _add(self, key: K) -> None:
        if key in self._waiting:
            return
        self._waiting.add(key)
        if key not in self._handled:
            self._ready.append(key)
            self._changed.notify()

    def _promote(self) -> float | None:
        """Move the keys that are due; return the seconds until the next one is."""
        now = self._clock.monotonic()
        while self._later and self._later[0][0] <= now:
            due, _, key = heapq.heappop(self._later)
            if self._due.get(key) == due:
                del self._due[key]
                self._add(key)
        return self._later[0][0] - now if self._later else None


class Workers(Generic[K]):
    """Threads that reconcile the keys of a queue, one key at a time each.

    Parameters
    ----------
    queue : WorkQueue
        Where the keys come from.
    reconcile : callable
        Makes the world fit one key. Returns seconds after which to look again, or None.
    threads : int
        How many.
    failed : callable, optional
        Called with the key and the error of each reconcile that failed, for a metric.

    Notes
    -----
    A reconcile that raises is repeated with a back-off of its own key; the other keys never wait for it.
    """

    def __init__(
        self,
        queue: WorkQueue[K],
        reconcile: Callable[[K], float | None],
        *,
        threads: int = 4,
        failed: Callable[[K, Exception], None] | None = None,
    ) -> None:
        self._queue = queue
        self._reconcile = reconcile
        self._failed = failed
        self._failures: dict[K, int] = {}
        self._threads = [
            threading.Thread(target=self._run, name=f"worker-{number}", daemon=True) for number in range(threads)
        ]

    def start(self) -> None:
        """Start the threads."""
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Close the queue and wait for the keys in hand."""
        self._queue.close()
        for thread in self._threads:
            if thread.is_alive():
                thread.join()

    @property
    def alive(self) -> bool:
        """Whether every thread runs."""
        return all(thread.is_alive() for thread in self._threads)

    def _run(self) -> None:
        while (key := self._queue.get()) is not None:
            try:
                self.handle(key)
            finally:
                self._queue.done(key)

    def handle(self, key: K) -> None:
        """Reconcile one key and queue what comes of it."""
        try:
            again = self._reconcile(key)
        except Exception as error:
            failures = self._failures[key] = self._failures.get(key, 0) + 1
            if isinstance(error, KubeError):
                logger.warning("%s: %s", key, error)
            else:
                logger.exception("%s could not be reconciled", key)
            if self._failed is not None:
                self._failed(key, error)
            self._queue.add_after(key, backoff_seconds(failures, BACKOFF_SECONDS))
            return
        self._failures.pop(key, None)
        if again is not None:
            self._queue.add_after(key, again)
