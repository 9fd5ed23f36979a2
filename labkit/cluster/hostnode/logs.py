"""Container logs in the CRI format: ``<RFC 3339 time> <stream> <F or P> <text>``, as ``kubectl logs`` reads them.

One folder per container holds ``current.log`` and ``previous.log`` (the life before). A log that grows too large is
moved to ``current.log.1``, so that the disk holds at most twice the limit per life.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Final

CURRENT: Final = "current.log"
PREVIOUS: Final = "previous.log"
MAX_LINE_BYTES: Final = 16 * 1024
"""A longer line is written in parts, as container runtimes do."""
MAX_LOG_BYTES: Final = 10 * 2**20


def rfc3339_nano(nanoseconds: int) -> str:
    """Return a time since 1970 as RFC 3339 in UTC with nine decimals.

    Examples
    --------
    >>> rfc3339_nano(1_700_000_000_000_000_042)
    '2023-11-14T22:13:20.000000042Z'
    """
    seconds, rest = divmod(nanoseconds, 10**9)
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}.{rest:09d}Z"


class LineSplitter:
    """Turns chunks of one stream into CRI lines; keeps what is not yet a whole line.

    Parameters
    ----------
    stream : str
        ``stdout`` or ``stderr``.
    """

    def __init__(self, stream: str) -> None:
        self._stream = stream
        self._rest = b""

    def feed(self, chunk: bytes, nanoseconds: int) -> Iterator[bytes]:
        """Yield the lines that a chunk completes."""
        *lines, self._rest = (self._rest + chunk).split(b"\n")
        for line in lines:
            yield from self._line(line, nanoseconds, whole=True)
        while len(self._rest) >= MAX_LINE_BYTES:
            head, self._rest = self._rest[:MAX_LINE_BYTES], self._rest[MAX_LINE_BYTES:]
            yield self._entry(head, nanoseconds, "P")

    def end(self, nanoseconds: int) -> Iterator[bytes]:
        """Yield what is left when the stream has ended."""
        if self._rest:
            rest, self._rest = self._rest, b""
            yield from self._line(rest, nanoseconds, whole=True)

    def _line(self, line: bytes, nanoseconds: int, *, whole: bool) -> Iterator[bytes]:
        while len(line) > MAX_LINE_BYTES:
            yield self._entry(line[:MAX_LINE_BYTES], nanoseconds, "P")
            line = line[MAX_LINE_BYTES:]
        yield self._entry(line, nanoseconds, "F" if whole else "P")

    def _entry(self, text: bytes, nanoseconds: int, tag: str) -> bytes:
        return f"{rfc3339_nano(nanoseconds)} {self._stream} {tag} ".encode() + text + b"\n"


class ContainerLog:
    """The log of one life of a container. Written by one thread.

    Parameters
    ----------
    folder : Path
        The container's; what was current there becomes previous.
    max_bytes : int
        Size at which the log is moved aside.
    """

    def __init__(self, folder: Path, *, max_bytes: int = MAX_LOG_BYTES) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._path = folder / CURRENT
        self._max_bytes = max_bytes
        if self._path.exists():
            self._path.replace(folder / PREVIOUS)
        self._file: IO[bytes] = self._path.open("ab", buffering=0)
        self._size = 0

    def write(self, line: bytes) -> None:
        """Append one CRI line."""
        if self._size + len(line) > self._max_bytes:
            self._move_aside()
        self._file.write(line)
        self._size += len(line)

    def _move_aside(self) -> None:
        with suppress(FileNotFoundError):  # it was moved before, and then there was no room for another
            self._path.replace(self._path.with_name(f"{CURRENT}.1"))
        fresh = self._path.open("ab", buffering=0)
        self._file.close()
        self._file, self._size = fresh, 0

    def close(self) -> None:
        """End the log."""
        self._file.close()


def now_nanoseconds() -> int:
    """Return the wall-clock time in nanoseconds since 1970."""
    return time.time_ns()
