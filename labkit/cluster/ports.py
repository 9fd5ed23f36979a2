"""Which ports a lab needs, and who has them when they are taken."""

from __future__ import annotations

import errno
import ipaddress
import os
import socket
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final

from labkit.cluster import manifests
from labkit.cluster.config import DEFAULT_ADDRESS
from labkit.cluster.controlplane import API_SERVER, PORTS
from labkit.errors import ClusterError
from labkit.names import API_SERVER_PORT, ETCD_PEER_PORT

LISTENING: Final = "0A"
"""State of a listening socket in /proc/net/tcp."""


def lab_ports(backend: str = "local") -> dict[str, int]:
    """Return what must be free on a lab's address before it is brought up: the control plane's and the add-ons' ports.

    On ``kind`` that is the API server, and what speaks plain HTTP to people; the rest stays within the cluster.

    Raises
    ------
    InputError
        If a manifest cannot be read.
    """
    ports = {**PORTS, "etcd (peers)": ETCD_PEER_PORT} if backend == "local" else {API_SERVER: API_SERVER_PORT}
    for obj in manifests.load(backend):
        if obj["kind"] not in manifests.WORKLOADS:
            continue
        for container in obj["spec"]["template"]["spec"]["containers"]:
            for port in container.get("ports") or ():
                if backend == "kind" and port.get("name") != manifests.OPEN_PORT:
                    continue
                for number in {port["containerPort"], port.get("hostPort", port["containerPort"])} - {*ports.values()}:
                    ports[f"{container['name']} {number}"] = int(number)
    return ports


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


def holder_of(address: str, port: int) -> str | None:
    """Return name and id of the process that listens there, or at every address; None if that cannot be seen."""
    inodes = {inode for table in ("tcp", "tcp6") for inode in _listening_inodes(table, address, port)}
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


def check_free(address: str, ports: Mapping[str, int]) -> None:
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
            f"end that process or give the lab another address with --address {another(address)}"
        )


def another(address: str) -> str:
    """Return the loopback address to propose instead of one: the next."""
    following = ipaddress.IPv4Address(address) + 1
    return str(following) if following.is_loopback else DEFAULT_ADDRESS


def taken_ports(address: str, ports: Mapping[str, int]) -> list[str]:
    """Return a description of each port that is taken."""
    return [
        f"{port} (for {purpose.removesuffix(f' {port}')}) by {holder_of(address, port) or 'a process of another user'}"
        for purpose, port in ports.items()
        if not is_free(address, port)
    ]


def _listening_inodes(table: str, address: str, port: int) -> Iterable[str]:
    try:
        lines = Path("/proc/net", table).read_text().splitlines()[1:]
    except OSError:
        return
    # The kernel prints an address as the number that its four bytes are to this machine.
    here = f"{int.from_bytes(socket.inet_aton(address), sys.byteorder):08X}"
    for line in lines:
        fields = line.split()
        host, _, number = fields[1].rpartition(":")
        if fields[3] == LISTENING and int(number, 16) == port and (host == here or not int(host, 16)):
            yield fields[9]
