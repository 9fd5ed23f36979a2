"""What every service's process needs around its own work: an end at SIGTERM, a log, and a few HTTP pages.

The pages are for probes, Prometheus and people: they only show. Each is a function that is called when it is asked
for, so this is no framework, and costs a starting process nothing.
"""

from __future__ import annotations

import logging
import os
import signal
import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from types import FrameType
from typing import TYPE_CHECKING, Final

import waitress
from prometheus_client import CollectorRegistry, generate_latest

from labkit.names import LISTEN_ADDRESS_KEY

if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

__all__ = ["HEALTH", "METRICS", "TEXT_FORMAT", "Page", "begin", "health", "metrics", "serve", "site"]

HEALTH: Final = "/healthz"
METRICS: Final = "/metrics"
TEXT_FORMAT: Final = "text/plain; version=0.0.4; charset=utf-8"
"""Prometheus' text format."""
REASONS: Final = {200: "OK", 404: "Not Found", 405: "Method Not Allowed", 500: "Error", 503: "Unavailable"}


@dataclass(frozen=True)
class Page:
    """What a page says."""

    body: bytes
    content_type: str = "text/plain; charset=utf-8"
    status: int = 200


Render = Callable[[], Page]


def begin() -> None:
    """Set up the log, and let SIGTERM end the process in order."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    signal.signal(signal.SIGTERM, _stop)


def _stop(signal_number: int, frame: FrameType | None) -> None:
    raise SystemExit(0)


def health(alive: Callable[[], bool], *, ready: Callable[[], bool] = lambda: True) -> Render:
    """Return the page that a probe asks for.

    Parameters
    ----------
    alive : callable
        Whether the work goes on; where it does not, the process should be started anew (500).
    ready : callable
        Whether the work has begun (503 before).
    """

    def page() -> Page:
        if not ready():
            return Page(b"starting: waiting for the first list of objects\n", status=503)
        return Page(b"ok\n") if alive() else Page(b"the work has stopped: start this process anew\n", status=500)

    return page


def metrics(registry: CollectorRegistry) -> Render:
    """Return the page that Prometheus scrapes."""
    return lambda: Page(generate_latest(registry), TEXT_FORMAT)


def site(pages: Mapping[str, Render]) -> WSGIApplication:
    """Return the WSGI application that shows pages by their path; any other request is told what there is."""

    def answer(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        method, path = environ["REQUEST_METHOD"], environ.get("PATH_INFO", "")
        render = pages.get(path)
        if render is None:
            page = Page(f"wanted one of {', '.join(pages)}, found {path}\n".encode(), status=404)
        elif method not in ("GET", "HEAD"):
            page = Page(f"wanted GET, found {method}: pages only show\n".encode(), status=405)
        else:
            page = render()
        headers = [("Content-Type", page.content_type), ("Content-Length", str(len(page.body)))]
        start_response(f"{page.status} {REASONS[page.status]}", headers)
        return [] if method == "HEAD" else [page.body]

    return answer


def serve(app: WSGIApplication, *, port: int, name: str, threads: int = 2) -> None:
    """Serve an application in a thread of its own, at the address that the environment names."""
    address = os.environ[LISTEN_ADDRESS_KEY]
    server = waitress.create_server(app, host=address, port=port, threads=threads, ident=f"labkit-{name}")
    threading.Thread(target=server.run, name="http", daemon=True).start()
