"""Reads a container's log for ``kubectl logs``: from where, how much, in which form, and until when."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import IO, Final

from labkit.errors import InputError

_BLOCK_BYTES: Final = 2**16


@dataclass(frozen=True)
class LogOptions:
    """What a request for logs may ask; the fields of ``PodLogOptions``.

    Parameters
    ----------
    follow, previous, timestamps : bool
        Go on until the container ends; show the life before; begin each line with its time.
    tail_lines, limit_bytes : int, optional
        Only so many lines from the end; not more than so many bytes.
    since : float, optional
        Only lines not older than this, seconds since 1970.
    """

    follow: bool = False
    previous: bool = False
    timestamps: bool = False
    tail_lines: int | None = None
    limit_bytes: int | None = None
    since: float | None = None

    @classmethod
    def from_query(cls, query: Mapping[str, str], *, now: float) -> LogOptions:
        """Read the query of a request.

        Raises
        ------
        InputError
            If a value cannot be read.
        """
        try:
            since = None
            if query.get("sinceSeconds"):
                since = now - int(query["sinceSeconds"])
            if query.get("sinceTime"):
                since = datetime.fromisoformat(query["sinceTime"].replace("Z", "+00:00")).timestamp()
            return cls(
                follow=_flag(query, "follow"),
                previous=_flag(query, "previous"),
                timestamps=_flag(query, "timestamps"),
                tail_lines=_number(query, "tailLines"),
                limit_bytes=_number(query, "limitBytes"),
                since=since,
            )
        except ValueError as exc:
            raise InputError(f"cannot read the log options: {exc}") from exc


def read_log(
    path: Path, options: LogOptions, *, ended: Callable[[], bool], idle: Callable[[], bool]
) -> Iterator[bytes]:
    """Yield pieces of a log as the reader is to see them.

    Parameters
    ----------
    path : Path
        The log's file.
    options : LogOptions
        What is asked.
    ended : callable
        Whether nothing more will be written.
    idle : callable
        Waits a moment when there is nothing new; returns False when nobody listens any more.

    Raises
    ------
    OSError
        If the file cannot be read.
    """
    left = options.limit_bytes
    new_line = True
    for line in _lines(path, options, ended, idle):
        when, _, rest = line.partition(b" ")
        _, _, rest = rest.partition(b" ")
        tag, _, text = rest.partition(b" ")
        whole = not tag.startswith(b"P")
        if options.since is not None and _seconds(when) < options.since:
            continue
        piece = text if whole else text[:-1]
        if options.timestamps and new_line:
            piece = when + b" " + piece
        new_line = whole
        if left is not None:
            piece = piece[:left]
            left -= len(piece)
        yield piece
        if left == 0:
            return


def _lines(path: Path, options: LogOptions, ended: Callable[[], bool], idle: Callable[[], bool]) -> Iterator[bytes]:
    with path.open("rb") as first:
        file: IO[bytes] = first
        if options.tail_lines is not None:
            tail = list(deque(file, maxlen=options.tail_lines)) if options.tail_lines else []
            if not options.tail_lines:
                file.seek(0, os.SEEK_END)
            if tail and not tail[-1].endswith(b"\n"):  # half a line, about to be completed
                file.seek(-len(tail.pop()), os.SEEK_END)
            yield from tail
        rest = b""
        try:
            while True:
                # Both asked before reading: what is written before the end, or before the move, is read after it.
                over, moved = ended(), _is_moved_aside(path, file)
                while block := file.read(_BLOCK_BYTES):
                    *lines, rest = (rest + block).split(b"\n")
                    yield from (line + b"\n" for line in lines)
                if not options.follow or over:
                    return
                if moved:
                    if file is not first:
                        file.close()
                    file = path.open("rb")
                elif not idle():
                    return
        finally:
            if file is not first:
                file.close()


def _is_moved_aside(path: Path, file: IO[bytes]) -> bool:
    """Return whether a log that grew too large was moved aside, and a new one is there."""
    try:
        return path.stat().st_ino != os.fstat(file.fileno()).st_ino
    except FileNotFoundError:
        return False


def _seconds(when: bytes) -> float:
    text = when.decode(errors="replace")
    return datetime.fromisoformat(f"{text[:26]}+00:00").timestamp()


def _flag(query: Mapping[str, str], name: str) -> bool:
    return query.get(name, "").lower() in ("true", "1")


def _number(query: Mapping[str, str], name: str) -> int | None:
    text = query.get(name)
    if not text:
        return None
    value = int(text)
    if value < 0:
        raise ValueError(f"{name} is {value}, which is negative")
    return value
