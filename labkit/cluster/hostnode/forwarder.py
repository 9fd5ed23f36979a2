"""A ``hostPort`` that differs from its ``containerPort``: connections to one are carried to the other."""

from __future__ import annotations

import logging
import selectors
import socket
import threading
from typing import Final

logger = logging.getLogger(__name__)

_CHUNK_BYTES: Final = 2**16
_CONNECT_SECONDS: Final = 5.0


def is_port_free(address: str, port: int) -> bool:
    """Return whether a server could listen there now."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((address, port))
            probe.listen(1)
        except OSError:
            return False
    return True


class Forwarder:
    """Listens on one port and carries every connection to another of the same address.

    Parameters
    ----------
    address : str
        The lab's.
    listen_port, target_port : int
        From where, to where.

    Raises
    ------
    OSError
        If the port is taken.
    """

    def __init__(self, address: str, listen_port: int, target_port: int) -> None:
        self._target = (address, target_port)
        self._listener = socket.create_server((address, listen_port), backlog=64)
        self._thread = threading.Thread(target=self._accept, name=f"forward-{listen_port}", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop listening; the port is free when this returns."""
        try:
            self._listener.shutdown(socket.SHUT_RDWR)  # wakes accept(), which keeps the port otherwise
        except OSError:
            logger.debug("listener was closed already")
        self._thread.join()
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._carry, args=(client,), name="forward", daemon=True).start()

    def _carry(self, client: socket.socket) -> None:
        with client:
            try:
                server = socket.create_connection(self._target, timeout=_CONNECT_SECONDS)
            except OSError as error:
                logger.debug("nothing to forward to at %s: %s", self._target, error)
                return
            with server:
                server.settimeout(None)
                _pump(client, server)


def _pump(one: socket.socket, other: socket.socket) -> None:
    """Copy both ways until both directions have ended."""
    with selectors.DefaultSelector() as selector:
        selector.register(one, selectors.EVENT_READ, other)
        selector.register(other, selectors.EVENT_READ, one)
        while selector.get_map():
            for key, _ in selector.select():
                source, sink = key.fileobj, key.data
                assert isinstance(source, socket.socket)
                try:
                    chunk = source.recv(_CHUNK_BYTES)
                    if chunk:
                        sink.sendall(chunk)
                        continue
                    sink.shutdown(socket.SHUT_WR)
                except OSError:
                    return
                selector.unregister(source)
