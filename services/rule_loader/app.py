"""The webhook's server: HTTPS, with the API server's certificate demanded where the lab has one."""

from __future__ import annotations

import http.server
import logging
import socket
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import orjson

logger = logging.getLogger(__name__)

Answer = Callable[[dict[str, Any]], dict[str, Any]]
"""From an AdmissionReview with a request to one with a response."""

LARGEST_REQUEST_BYTES: Final = 8 * 2**20
CONNECTION_TIMEOUT_SECONDS: Final = 15.0


def tls_context(certificates: Path) -> ssl.SSLContext:
    """Return the server's TLS settings from a folder with ``tls.crt``, ``tls.key`` and perhaps ``client-ca.crt``."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificates / "tls.crt", certificates / "tls.key")
    client_ca = certificates / "client-ca.crt"
    if client_ca.exists() and client_ca.read_text().strip():
        context.load_verify_locations(client_ca)
        context.verify_mode = ssl.CERT_REQUIRED
    return context


class WebhookServer(http.server.ThreadingHTTPServer):
    """Serves ``/validate`` and ``/healthz``; one thread per connection, the handshake included.

    Parameters
    ----------
    address : tuple of (str, int)
        Where to listen.
    answer : callable
        Decides on a review. What it raises refuses the request with status 500: the webhook fails closed.
    tls : ssl.SSLContext or None
        None serves plain HTTP, for tests.
    """

    daemon_threads = True

    def __init__(self, address: tuple[str, int], answer: Answer, tls: ssl.SSLContext | None) -> None:
        self.answer = answer
        self._tls = tls
        super().__init__(address, _Handler)

    def finish_request(self, request: Any, client_address: Any) -> None:
        """Shake hands in the connection's own thread, so that a silent client blocks nobody."""
        request.settimeout(CONNECTION_TIMEOUT_SECONDS)
        if self._tls is None:
            super().finish_request(request, client_address)
            return
        try:
            with self._tls.wrap_socket(request, server_side=True) as secure:
                super().finish_request(secure, client_address)
        except (OSError, ValueError) as error:  # a readiness probe closes without a handshake
            logger.debug("connection from %s ended: %s", client_address, error)

    def handle_error(self, request: socket.socket | tuple[bytes, socket.socket], client_address: Any) -> None:
        """Log instead of printing."""
        logger.exception("request from %s failed", client_address)


class _Handler(http.server.BaseHTTPRequestHandler):
    server: WebhookServer
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        if self.path == "/healthz":
            self._reply(200, b"ok\n")
        else:
            self._reply(404, b"wanted /healthz or a POST to /validate\n")

    def do_POST(self) -> None:
        if self.path.partition("?")[0] != "/validate":
            self._reply(404, b"wanted a POST to /validate\n")
            return
        length = int(self.headers.get("Content-Length") or 0)
        if not 0 < length <= LARGEST_REQUEST_BYTES:
            self.close_connection = True
            self._reply(413, f"wanted 1 to {LARGEST_REQUEST_BYTES} bytes, found {length}\n".encode())
            return
        body = self.rfile.read(length)
        try:
            answer = orjson.dumps(self.server.answer(orjson.loads(body)))
        except (orjson.JSONDecodeError, KeyError, TypeError) as error:
            self._reply(400, f"wanted an AdmissionReview with a request, found: {error!r}\n".encode())
        except Exception as error:
            logger.exception("review failed")
            self._reply(500, f"{error}\n".encode())
        else:
            self._reply(200, answer, "application/json")

    def _reply(self, status: int, body: bytes, content_type: str = "text/plain") -> None:
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        logger.debug(format, *args)
