"""Counters that survive the exporter's process, as a real node's survive its node exporter: the kernel keeps those.

A counter that began at 0 again would cost every one-minute record a lab minute of wrong values. So what a scrape is
told is first written down, and a new process goes on from there.
"""

from __future__ import annotations

import logging
import math
import os
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import orjson

logger = logging.getLogger(__name__)

OLDEST_SECONDS: Final = 600.0
"""Counters older than that are left behind: no window reaches over such a gap."""


@dataclass(frozen=True)
class Counters:
    """The integrals of some nodes at one instant.

    Parameters
    ----------
    time : float
        Wall time, in seconds since 1970.
    values : mapping of str to sequence of float
        Node name → its integrals, in the order of ``logic.RATES``.
    """

    time: float
    values: Mapping[str, Sequence[float]]


class CounterFile:
    """Where counters are written down.

    Parameters
    ----------
    path : Path
        The file; it should be there after the process has been killed, not after its pod is gone.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._newest = -math.inf

    def write(self, counters: Counters) -> None:
        """Replace what is written, unless that is newer; a reader sees the old or the new.

        Notes
        -----
        Where nothing can be written (a full disk) the file is removed: to begin at 0 is a reset that Prometheus knows,
        to go on from too little would look like a reset to a large number, which it would take for an increase.
        """
        with self._lock:
            if counters.time <= self._newest:
                return
            self._newest = counters.time
            draft = self._path.with_name(f".{self._path.name}.draft")
            try:
                draft.write_bytes(orjson.dumps({"time": counters.time, "values": counters.values}))
                os.replace(draft, self._path)
            except OSError as error:
                logger.error("counters will begin at 0 after a restart: %s", error)
                self._path.unlink(missing_ok=True)

    def read(self, now: float) -> Counters | None:
        """Return what is written, or None if there is nothing that a process starting ``now`` can go on from."""
        try:
            content = orjson.loads(self._path.read_bytes())
            counters = Counters(float(content["time"]), {name: list(row) for name, row in content["values"].items()})
        except FileNotFoundError:
            return None
        except (OSError, orjson.JSONDecodeError, KeyError, TypeError, AttributeError) as error:
            logger.warning("counters begin at 0: %s cannot be read: %s", self._path, error)
            return None
        return counters if 0.0 <= now - counters.time <= OLDEST_SECONDS else None
