"""What must be written to the API server, in order, by one thread; it waits while the server is away.

The newest action under a key replaces an older one that is still waiting: of a pod's status only the last counts.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Hashable
from typing import Final

from labkit.errors import KubeError

logger = logging.getLogger(__name__)

Action = Callable[[], None]

MAX_WAITING: Final = 2000
_RETRY_SECONDS: Final = (0.1, 2.0)
_LATER: Final = (401, 403, 409)
"""After its own start the API server refuses, for a moment, what it allows later."""
_MAX_REFUSALS: Final = 50


class Outbox:
    """A queue of API writes served by a thread of its own."""

    def __init__(self) -> None:
        self._actions: dict[Hashable, Action] = {}
        self._refusals: dict[Hashable, int] = {}
        self._changed = threading.Condition()
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="outbox", daemon=True)

    def start(self) -> None:
        """Begin to write."""
        self._thread.start()

    def stop(self) -> None:
        """Stop; what is still waiting is dropped."""
        self._stopped.set()
        with self._changed:
            self._changed.notify_all()

    def put(self, key: Hashable, action: Action) -> None:
        """Write something soon; ``action`` raises KubeError if that failed."""
        with self._changed:
            if key not in self._actions and len(self._actions) >= MAX_WAITING:
                oldest = next(iter(self._actions))
                del self._actions[oldest]
                logger.warning("too many writes are waiting for the API server; dropped %s", oldest)
            self._actions[key] = action
            self._changed.notify_all()

    def _run(self) -> None:
        pause = _RETRY_SECONDS[0]
        while not self._stopped.is_set():
            with self._changed:
                while not self._actions and not self._stopped.is_set():
                    self._changed.wait()
                if self._stopped.is_set():
                    return
                key, action = next(iter(self._actions.items()))
            try:
                action()
            except KubeError as error:
                if error.may_pass:
                    logger.info("%s waits for the API server: %s", key, error)
                    self._stopped.wait(pause)
                    pause = min(2 * pause, _RETRY_SECONDS[1])
                    continue
                if error.status in _LATER and self._refusals.get(key, 0) < _MAX_REFUSALS:
                    self._later(key, action)
                    continue
                level = logging.DEBUG if error.status == 404 else logging.WARNING
                logger.log(level, "%s was refused: %s", key, error)
            except Exception:
                logger.exception("%s failed", key)
            pause = _RETRY_SECONDS[0]
            self._done(key, action)

    def _done(self, key: Hashable, action: Action) -> None:
        with self._changed:
            self._refusals.pop(key, None)
            if self._actions.get(key) is action:
                del self._actions[key]

    def _later(self, key: Hashable, action: Action) -> None:
        """Put a refused write behind all others: the server may not know yet that it is allowed."""
        with self._changed:
            self._refusals[key] = self._refusals.get(key, 0) + 1
            newest = self._actions.pop(key, action)
            self._actions[key] = newest
        self._stopped.wait(_RETRY_SECONDS[0])
