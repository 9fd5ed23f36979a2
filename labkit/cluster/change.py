"""One change of a lab at a time: who may bring it up or take it down now, and what must be true before.

Both backends begin and end here; what lies between is theirs.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from labkit.clock import WALL_CLOCK
from labkit.cluster.component import Lock
from labkit.cluster.config import LabConfig, LabFolder, LabRecord, lab_names
from labkit.errors import ClusterError, InputError

MIN_FREE_GIB: Final = 0.5
"""With less etcd cannot even begin; a lab that works for hours wants more (``labkit doctor``)."""

FULL_MIB: Final = 80
"""With less etcd cannot begin its next log file, of 64 MB."""


@contextmanager
def changing(folder: LabFolder) -> Iterator[None]:
    """Let only one ``up`` or ``down`` work on a lab at a time.

    Raises
    ------
    ClusterError
        If another one does.
    """
    lock = Lock(folder.change_lock)
    if not lock.acquire():
        raise ClusterError(f"another 'labkit up' or 'labkit down' works on lab {folder.name!r}: wait for it")
    try:
        yield
    finally:
        lock.release()


@contextmanager
def state_errors(folder: LabFolder) -> Iterator[None]:
    """Tell what is wrong with the folder of a lab's state, such as a full disk."""
    try:
        yield
    except BrokenPipeError:
        raise  # whoever listened to what is being done has gone
    except FileNotFoundError as exc:
        raise ClusterError(
            f"wanted the state of lab {folder.name!r}, found no {exc.filename or exc}: begin anew with "
            f"'labkit down --name {folder.name}' and 'labkit up --name {folder.name}'"
        ) from exc
    except OSError as exc:
        raise ClusterError(
            f"wanted to write the state of lab {folder.name!r} in {folder.path}, found: {exc.strerror or exc}; "
            "make room or rights there, or set LABKIT_STATE to another folder"
        ) from exc


def new_record(folder: LabFolder, config: LabConfig) -> LabRecord:
    """Return the record of a lab that begins now.

    Raises
    ------
    InputError
        If another lab has its address.
    """
    for other in lab_names():
        other_folder = LabFolder(other)
        try:
            address = other_folder.read_record().config.address
        except ClusterError:
            continue
        if other != config.name and address == config.address:
            raise InputError(
                f"wanted address {config.address} for lab {config.name!r}, found lab {other!r} there: "
                f"choose another with --address, or take that one down with 'labkit down --name {other}'"
            )
    return LabRecord(config, WALL_CLOCK.now(), str(folder.bin))


def known_record(folder: LabFolder, config: LabConfig) -> LabRecord:
    """Return the record of a lab that is there.

    Raises
    ------
    InputError
        If it was brought up with other choices.
    """
    record = folder.read_record()
    for field in ("backend", "address", "tempo"):
        wanted, found = getattr(config, field), getattr(record.config, field)
        if wanted != found:
            raise InputError(
                f"wanted lab {config.name!r} with {field} {wanted}, found it with {field} {found}: "
                f"take it down first with 'labkit down --name {config.name}'"
            )
    return record


def check_room(folder: LabFolder) -> None:
    """Check that a lab's state finds room on its disk.

    Raises
    ------
    ClusterError
        If it does not.
    """
    free_gib = shutil.disk_usage(folder.path).free / 2**30
    if free_gib < MIN_FREE_GIB:
        raise ClusterError(
            f"wanted {MIN_FREE_GIB:g} GiB of disk for the lab in {folder.path}, found {free_gib:.2f} GiB free: "
            "make room, or set LABKIT_STATE to another folder"
        )


def lack_of_room(folder: LabFolder) -> str:
    """Return, for the end of an error's text, that the disk of a lab's state is full; empty while there is room."""
    try:
        free_mib = shutil.disk_usage(folder.path).free / 2**20
    except OSError:
        return ""
    if free_mib >= FULL_MIB:
        return ""
    return f"; the disk is full ({free_mib:.0f} MiB free in {folder.path}): make room, then 'labkit up' again"


def remove(paths: Iterable[Path]) -> None:
    """Remove files, links and folders that are there."""
    for path in paths:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def link_programs(folder: LabFolder, programs: Mapping[str, Path]) -> None:
    """Put the programs that people type, ``labkit`` among them, into the folder that ``labkit env`` puts on PATH."""
    folder.bin.mkdir(mode=0o700, exist_ok=True)
    own = Path(sys.executable).with_name("labkit")
    for name, path in {**programs, **({own.name: own} if own.is_file() else {})}.items():
        link = folder.bin / name
        if not link.is_symlink() or link.readlink() != path:
            link.unlink(missing_ok=True)
            link.symlink_to(path)
