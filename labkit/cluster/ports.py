"""Which ports a lab needs, and who has them when they are taken."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final

from labkit.cluster.controlplane import PORTS
from labkit.errors import ClusterError
from labkit.names import (
    ETCD_PEER_PORT,
    EVICTION_WEBHOOK_PORT,
    EXPORTER_HOST_PORT,
    EXPORTER_PORT,
    PROMETHEUS_PORT,
    RULE_LOADER_PORT,
)

LISTENING: Final = "0A"
"""State of a listening socket in /proc/net/tcp."""

LAB_PORTS: Final[Mapping[str, int]] = {
    **PORTS,
    "etcd (peers)": ETCD_PEER_PORT,
    "prometheus": PROMETHEUS_PORT,
    "exporter": EXPORTER_PORT,
    "exporter (host port)": EXPORTER_HOST_PORT,
    "eviction webhook": EVICTION_WEBHOOK_PORT,
    "rule loader": RULE_LOADER_PORT,
}
"""What must be free on the lab's address before it is brought up."""


def is_free(address: str, port: int) -> bool:
    """Return whether this user can listen there."""
    with socket.socket() as probe:
        # As servers do: a connection that is only just closed is no obstacle.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((address, port))
            probe.listen(1)
        except OSError as error:
            if error.errno in (errno.EADDRINUSE, errno.EACCES):
                return False
            raise ClusterError(
                f"wanted to listen at {address}, found: {error.strerror}; choose another --address within 127.0.0.0/8"
            ) from error
    return True


def holder_of(port: int) -> str | None:
    """Return name and id of a process of this user's that listens on a port at any address, or None if unknown."""
    inodes = {inode for table in ("tcp", "tcp6") for inode in _listening_inodes(Path("/proc/net") / table, port)}
    if not inodes:
        return None
    wanted = {f"socket:[{inode}]" for inode in inodes}
    for process in Path("/proc").iterdir():
        if not process.name.isdigit():
            continue
        try:
            for descriptor in (process / "fd").iterdir():
                if os.readlink(descriptor) in wanted:
                    return f"{(process / 'comm').read_text().strip()} (pid {process.name})"
        except OSError:
            continue  # another user's, or gone
    return None


def check_free(address: str, ports: Mapping[str, int] = LAB_PORTS) -> None:
    """Check that a lab can have its ports.

    Raises
    ------
    ClusterError
        If one is taken; names the port, who wants it, and who holds it where that can be seen.
    """
    taken = taken_ports(address, ports)
    if taken:
        raise ClusterError(
            f"wanted free ports at {address}, found taken: {'; '.join(taken)}; "
            "end that process or give the lab another address with --address 127.0.0.2"
        )


def taken_ports(address: str, ports: Mapping[str, int] = LAB_PORTS) -> list[str]:
    """Return a description of each port that is taken."""
    return [
        f"{port} (for {purpose}) by {holder_of(port) or 'a process of another user'}"
        for purpose, port in ports.items()
        if not is_free(address, port)
    ]


def _listening_inodes(table: Path, port: int) -> Iterable[str]:
    try:
        lines = table.read_text().splitlines()[1:]
    except OSError:
        return
    for line in lines:
        fields = line.split()
        if fields[3] == LISTENING and int(fields[1].rpartition(":")[2], 16) == port:
            yield fields[9]
