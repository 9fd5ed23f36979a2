"""An API server over HTTP with a settled cluster in memory: it answers lists page by page, and watches in silence."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any
from urllib.parse import parse_qs, urlsplit

import orjson

from labkit.kube import Object, Resource

VERSION = "1000000"


class SettledApiServer:
    """Serves collections on a free port of 127.0.0.1 while it is used as a context.

    Parameters
    ----------
    collections : mapping
        The objects of each resource, as JSON text; a resource that is not there has none.

    Notes
    -----
    Nothing changes, so a service that writes has found something to do in a settled cluster: ``writes`` tells.
    """

    def __init__(self, collections: Mapping[Resource, Sequence[bytes]]) -> None:
        self._collections = {resource.plural: objects for resource, objects in collections.items()}
        self._over = threading.Event()
        self.writes: list[str] = []
        answer, note = self._answer, self.writes.append

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                answer(self)

            def do_POST(self) -> None:
                note(f"{self.command} {self.path}")
                self.send_error(405)

            do_PATCH = do_DELETE = do_PUT = do_POST  # noqa: N815 (the base class names them so)

            def log_message(self, *args: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True

    @property
    def url(self) -> str:
        """Return where it listens."""
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> SettledApiServer:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._server.shutdown()
        self._server.server_close()

    def _answer(self, handler: BaseHTTPRequestHandler) -> None:
        url = urlsplit(handler.path)
        query = {name: values[0] for name, values in parse_qs(url.query).items()}
        if "watch" in query:
            handler.send_response(200)
            handler.send_header("Transfer-Encoding", "chunked")
            handler.end_headers()
            self._over.wait()
            return
        objects = self._collections.get(url.path.rpartition("/")[2], ())
        if "fieldSelector" in query:
            objects = [text for text in objects if _is_named(orjson.loads(text), query["fieldSelector"])]
        start = int(query.get("continue", 0))
        end = start + int(query.get("limit", len(objects)))
        metadata = {"resourceVersion": VERSION} | ({"continue": str(end)} if end < len(objects) else {})
        head = orjson.dumps({"kind": "List", "apiVersion": "v1", "metadata": metadata})
        body = head[:-1] + b',"items":[' + b",".join(objects[start:end]) + b"]}"
        handler.send_response(200)
        handler.send_header("Content-Length", str(len(body)))
        handler.end_headers()
        handler.wfile.write(body)


def _is_named(obj: Object, selector: str) -> bool:
    return bool(f"metadata.name={obj['metadata']['name']}" == selector)
