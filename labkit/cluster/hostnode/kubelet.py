"""The node's kubelet port: what the API server asks when somebody types ``kubectl logs`` or ``port-forward``.

Logs are answered here: only who runs a container knows when a followed log has ended, and that there is no previous
life to show. A port-forward is carried on to KWOK, which speaks its protocol. Everything else, exec first of all, is
refused. Only the API server gets in, by its client certificate.
"""

from __future__ import annotations

import logging
import select
import socket
import ssl
import threading
from collections.abc import Callable
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Final, Protocol
from urllib.parse import parse_qsl, unquote, urlsplit

from labkit.clock import Clock
from labkit.cluster.hostnode.logreader import LogOptions, read_log
from labkit.cluster.hostnode.logs import CURRENT, PREVIOUS
from labkit.errors import InputError

logger = logging.getLogger(__name__)

ADMITTED_GROUP: Final = "system:masters"
IDLE_SECONDS: Final = 0.1
_TIMEOUT_SECONDS: Final = 30.0
_CHUNK_BYTES: Final = 2**16


class LogSource(Protocol):
    """A container, as far as its logs go."""

    @property
    def log_folder(self) -> Path:
        """Where its logs are."""

    @property
    def waiting_reason(self) -> str | None:
        """Why it has never run, None if it has."""

    def log_ended(self) -> Callable[[], bool]:
        """Return a function that tells whether the log of the present life is complete."""


FindSource = Callable[[str, str, str], LogSource | None]
"""Namespace, pod and container → the container, None if the node has no such thing."""


class KubeletServer:
    """Serves the kubelet port in threads of its own.

    Parameters
    ----------
    address : str
        The lab's.
    port : int
        Where to listen.
    context : ssl.SSLContext
        The node's certificate, and whose clients are admitted; see :func:`server_context`.
    find : callable
        Finds containers.
    forward_to : tuple
        KWOK's address and port.
    clock : Clock
        For ``sinceSeconds``.

    Raises
    ------
    OSError
        If the port is taken.
    """

    def __init__(
        self,
        address: str,
        port: int,
        *,
        context: ssl.SSLContext,
        find: FindSource,
        forward_to: tuple[str, int],
        clock: Clock,
    ) -> None:
        class Handler(_Handler):
            pass

        Handler.find_source = staticmethod(find)
        Handler.forward_to = forward_to
        Handler.clock = clock
        self._server = _Server((address, port), Handler, context)
        self._thread = threading.Thread(target=self._server.serve_forever, name="kubelet", daemon=True)

    @property
    def port(self) -> int:
        """Return the port it listens on."""
        return int(self._server.server_address[1])

    def start(self) -> None:
        """Begin to serve."""
        self._thread.start()

    def stop(self) -> None:
        """Stop serving."""
        self._server.shutdown()
        self._server.server_close()


def server_context(cert_file: str, key_file: str, client_ca_file: str) -> ssl.SSLContext:
    """Return a context that shows the node's certificate and wants one of the lab's own authority."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=client_ca_file)
    context.load_cert_chain(cert_file, key_file)
    context.verify_mode = ssl.CERT_REQUIRED
    context.set_alpn_protocols(["http/1.1"])
    return context


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64

    def __init__(self, where: tuple[str, int], handler: type[BaseHTTPRequestHandler], context: ssl.SSLContext) -> None:
        super().__init__(where, handler)
        self._context = context

    def get_request(self) -> tuple[socket.socket, Any]:
        connection, client = super().get_request()
        # The handshake happens in the connection's own thread: a silent client must not block the others.
        return self._context.wrap_socket(connection, server_side=True, do_handshake_on_connect=False), client

    def handle_error(self, request: Any, client_address: Any) -> None:
        logger.debug("connection of %s broke off", client_address, exc_info=True)


class _Handler(BaseHTTPRequestHandler):
    """One connection of the API server."""

    protocol_version = "HTTP/1.1"
    rbufsize = 0  # nothing behind a request's head may be read before it is carried on
    find_source: FindSource
    forward_to: tuple[str, int]
    clock: Clock

    def setup(self) -> None:
        self.request.settimeout(_TIMEOUT_SECONDS)
        self.request.do_handshake()
        super().setup()

    def do_GET(self) -> None:
        parts = urlsplit(self.path)
        words = [unquote(word) for word in parts.path.strip("/").split("/")]
        if not self._admitted():
            self._refuse(HTTPStatus.FORBIDDEN, "only the API server is admitted")
        elif words == ["healthz"]:
            self._answer(HTTPStatus.OK, "ok")
        elif words[0] == "containerLogs" and len(words) == 4:
            self._logs(words[1], words[2], words[3], dict(parse_qsl(parts.query)))
        elif words[0] == "portForward":
            self._carry()
        else:
            self._refuse(HTTPStatus.NOT_FOUND, "the host node has logs and port-forward, nothing else")

    do_POST = do_GET  # noqa: N815

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        logger.debug(format, *args)

    def _admitted(self) -> bool:
        certificate = self.request.getpeercert() or {}
        pairs = (pair for name in certificate.get("subject", ()) for pair in name)
        return ("organizationName", ADMITTED_GROUP) in pairs

    # --- logs ---------------------------------------------------------------------------------------

    def _logs(self, namespace: str, pod: str, container: str, query: dict[str, str]) -> None:
        source = type(self).find_source(namespace, pod, container)
        if source is None:
            self._refuse(HTTPStatus.NOT_FOUND, f'container "{container}" in pod "{pod}" is not on this node')
            return
        try:
            options = LogOptions.from_query(query, now=self.clock.now())
        except InputError as error:
            self._refuse(HTTPStatus.BAD_REQUEST, str(error))
            return
        path = source.log_folder / (PREVIOUS if options.previous else CURRENT)
        if options.previous and not path.exists():
            text = f'previous terminated container "{container}" in pod "{pod}" not found'
            self._refuse(HTTPStatus.BAD_REQUEST, text)
            return
        if not path.exists():
            reason = source.waiting_reason or "ContainerCreating"
            text = f'container "{container}" in pod "{pod}" is waiting to start: {reason}'
            self._refuse(HTTPStatus.BAD_REQUEST, text)
            return
        ended = (lambda: True) if options.previous else source.log_ended()
        self.send_response(HTTPStatus.OK)
        self.send_header("Content-Type", "text/plain")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        try:
            for piece in read_log(path, options, ended=ended, idle=self._idle):
                if piece:
                    self.wfile.write(f"{len(piece):x}\r\n".encode() + piece + b"\r\n")
            self.wfile.write(b"0\r\n\r\n")
        except OSError as error:
            logger.debug("log of %s/%s: %s", pod, container, error)
            self.close_connection = True

    def _idle(self) -> bool:
        """Wait a moment; return False if the client has gone."""
        readable, _, _ = select.select([self.request], [], [], IDLE_SECONDS)
        if not readable:
            return True
        self.close_connection = True  # it has nothing to say while it listens, so it has gone
        return False

    # --- port-forward -------------------------------------------------------------------------------

    def _carry(self) -> None:
        """Carry this request, and from then on every byte, to KWOK and back."""
        self.close_connection = True
        head = [self.requestline, *(f"{name}: {value}" for name, value in self.headers.items())]
        try:
            with socket.create_connection(self.forward_to, timeout=_TIMEOUT_SECONDS) as other:
                other.sendall("\r\n".join([*head, "", ""]).encode("latin-1"))
                _carry_both_ways(self.request, other)
        except OSError as error:
            logger.debug("port-forward ended: %s", error)

    # --- answers ------------------------------------------------------------------------------------

    def _refuse(self, status: HTTPStatus, text: str) -> None:
        self.close_connection = True  # a body that was sent along has not been read
        self._answer(status, text)

    def _answer(self, status: HTTPStatus, text: str) -> None:
        body = text.encode()
        self.send_response(status)
        self.send_header("Content-Type", "text/plain")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def _carry_both_ways(secure: ssl.SSLSocket, plain: socket.socket) -> None:
    """Copy until one side ends; in one thread, because two may not use one TLS connection at once."""
    while True:
        if secure.pending():
            readable: list[socket.socket] = [secure]
        else:
            readable, _, _ = select.select([secure, plain], [], [])
        for source in readable:
            chunk = source.recv(_CHUNK_BYTES)
            if not chunk:
                return
            (plain if source is secure else secure).sendall(chunk)
