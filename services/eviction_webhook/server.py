"""HTTPS for the webhook: the review for the API server, and pages for people and Prometheus.

The API server proves itself with a client certificate where the lab has one; the pages need none, so that a probe
can ask. A renewed certificate on disk is taken up by the next connection.
"""

from __future__ import annotations

import json
import logging
import socket
import ssl
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Final

from labkit.errors import InputError
from services.eviction_webhook.app import Interceptor

logger = logging.getLogger(__name__)

REVIEW_PATH: Final = "/pod-eviction-validate"
MAX_BODY_BYTES: Final = 4 * 2**20
"""More than any request the API server accepts."""
CONNECTION_SECONDS: Final = 10.0
"""Longest wait for the handshake, and for a client that has begun to speak."""
IDLE_SECONDS: Final = 120.0
"""A connection of the API server is kept that long between two reviews."""


class Certificates:
    """The serving certificate, and who may ask for reviews.

    Parameters
    ----------
    folder : Path
        ``tls.crt`` and ``tls.key``; ``client-ca.crt``, where it is not empty, signs those who may ask for reviews.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._lock = threading.Lock()
        self._loaded: tuple[int, ...] = ()
        self._context = self._load()

    @property
    def demands_client(self) -> bool:
        """Whether a review needs a client certificate."""
        return bool(self._client_ca())

    def context(self) -> ssl.SSLContext:
        """Return the TLS settings of what is on disk now; while that cannot be used, those of before."""
        with self._lock:
            try:
                if self._stamp() != self._loaded:
                    self._context = self._load()
                    logger.info("took up a new certificate")
            except (OSError, ssl.SSLError) as error:
                logger.error("the certificate in %s cannot be used: %s", self._folder, error)
            return self._context

    def _load(self) -> ssl.SSLContext:
        stamp = self._stamp()
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.load_cert_chain(self._folder / "tls.crt", self._folder / "tls.key")
        authority = self._client_ca()
        if authority:
            context.load_verify_locations(cadata=authority)
            context.verify_mode = ssl.CERT_OPTIONAL
        self._loaded = stamp
        return context

    def _client_ca(self) -> str:
        path = self._folder / "client-ca.crt"
        return path.read_text().strip() if path.is_file() else ""

    def _stamp(self) -> tuple[int, ...]:
        names = ("tls.crt", "tls.key", "client-ca.crt")
        paths = [self._folder / name for name in names]
        return tuple(path.stat().st_mtime_ns if path.exists() else 0 for path in paths)


class Server(ThreadingHTTPServer):
    """Serves an :class:`~services.eviction_webhook.app.Interceptor` over HTTPS, one thread per connection."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, address: tuple[str, int], interceptor: Interceptor, certificates: Certificates) -> None:
        self.interceptor = interceptor
        self.certificates = certificates
        super().__init__(address, Handler)

    def finish_request(self, request: Any, client_address: Any) -> None:
        """Shake hands in the connection's own thread: a client that does not answer holds nobody else up."""
        request.settimeout(CONNECTION_SECONDS)
        request.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            secured = self.certificates.context().wrap_socket(request, server_side=True)
        except (OSError, ssl.SSLError) as error:
            logger.warning("connection from %s refused: %s", client_address[0], error)
            return
        with secured:
            super().finish_request(secured, client_address)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Log a connection that broke."""
        logger.info("connection from %s ended", client_address[0], exc_info=True)


class Handler(BaseHTTPRequestHandler):
    """One connection."""

    server: Server
    protocol_version = "HTTP/1.1"
    server_version = "labkit"
    sys_version = ""
    timeout = IDLE_SECONDS

    def do_GET(self) -> None:
        """Answer a page."""
        interceptor = self.server.interceptor
        match self.path.partition("?")[0]:
            case "/healthz":
                self._answer(200, b"ok\n", "text/plain")
            case "/metrics":
                self._answer(200, interceptor.metrics(), "text/plain; version=0.0.4")
            case "/evictions":
                self._answer(200, json.dumps({"evictions": interceptor.entries()}).encode(), "application/json")
            case _:
                self._answer(404, b"found no such page; there are /healthz, /metrics and /evictions\n", "text/plain")

    def do_POST(self) -> None:
        """Answer a review."""
        length = self.headers.get("Content-Length", "")
        if not length.isdigit() or int(length) > MAX_BODY_BYTES:
            self.close_connection = True
            self._answer(413, f"wanted a body of at most {MAX_BODY_BYTES} bytes\n".encode(), "text/plain")
            return
        body = self.rfile.read(int(length))
        if self.path.partition("?")[0] != REVIEW_PATH:
            self._answer(404, f"reviews go to {REVIEW_PATH}\n".encode(), "text/plain")
            return
        if self.server.certificates.demands_client and not self._is_known():
            self._answer(403, b"wanted the API server's client certificate\n", "text/plain")
            return
        try:
            answer = self.server.interceptor.review(json.loads(body))
        except (InputError, ValueError) as error:
            self._answer(400, f"{error}\n".encode(), "text/plain")
            return
        except Exception:
            # Any failure must refuse: the API server does so when it gets no review back.
            logger.exception("review failed")
            self._answer(500, b"the review failed; see the webhook's log\n", "text/plain")
            return
        self._answer(200, json.dumps(answer).encode(), "application/json")

    def _is_known(self) -> bool:
        connection = self.connection
        return isinstance(connection, ssl.SSLSocket) and bool(connection.getpeercert())

    def _answer(self, status: int, body: bytes, content_type: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 (the name that http.server has)
        """Leave the access log to debugging: each review is logged with its answer."""
        logger.debug(format, *args)
