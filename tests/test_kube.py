"""The door to the API server, against a small HTTP server that speaks list and watch."""

from __future__ import annotations

import json
import queue
import socket
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from labkit import kube as kube_module
from labkit.clock import wait_until
from labkit.errors import KubeError
from labkit.kube import PODS, VIRTUAL_MACHINES, Kube, Object, Resource, Store, only


def pod(name: str, version: int, **labels: str) -> Object:
    metadata = {"namespace": "default", "name": name, "uid": f"uid-{name}", "resourceVersion": str(version)}
    return {"metadata": metadata | {"labels": labels, "managedFields": [{"manager": "x"}]}}


class ApiServer:
    """Serves one collection of pods; a test changes it and says what each watch is told."""

    def __init__(self) -> None:
        self.pods: list[Object] = []
        self.version = 1
        self.snapshots: dict[int, list[Object]] = {}
        self.compacted = 0
        """Pages of versions below this are answered with 410."""
        self.events: queue.Queue[Object | None] = queue.Queue()
        self.requests: list[tuple[str, str]] = []
        self.bodies: list[Any] = []
        self.authorizations: list[str | None] = []
        self.unavailable = False
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                outer.answer(self)

            do_POST = do_PATCH = do_DELETE = do_GET  # noqa: N815 (the base class names them so)

            def log_message(self, *args: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.thread = threading.Thread(target=self.server.serve_forever, daemon=True)
        self.thread.start()

    def answer(self, handler: BaseHTTPRequestHandler) -> None:
        url = urlsplit(handler.path)
        query = parse_qs(url.query)
        length = int(handler.headers.get("Content-Length") or 0)
        self.bodies.append(handler.rfile.read(length))
        self.requests.append((handler.command, handler.path))
        self.authorizations.append(handler.headers.get("Authorization"))
        if "watch" in query and not self.unavailable:
            handler.send_response(200)
            handler.send_header("Transfer-Encoding", "chunked")
            handler.end_headers()
            while (event := self.events.get()) is not None:
                line = json.dumps(event).encode() + b"\n"
                handler.wfile.write(b"%x\r\n%s\r\n" % (len(line), line))
                handler.wfile.flush()
            handler.wfile.write(b"0\r\n\r\n")
            return
        status, body = self.page(query)
        if url.path.endswith("/missing"):
            status, body = 404, {"kind": "Status", "message": 'pods "missing" not found', "reason": "NotFound"}
        if self.unavailable:
            status, body = 503, {"kind": "Status", "message": "starting", "reason": "ServiceUnavailable"}
        text = json.dumps(body).encode()
        handler.send_response(status)
        handler.send_header("Content-Length", str(len(text)))
        handler.end_headers()
        handler.wfile.write(text)

    def page(self, query: dict[str, list[str]]) -> tuple[int, Object]:
        """Answer a list: the state of one version in pages, as long as that version is remembered."""
        version, start = self.version, 0
        if "continue" in query:
            version, start = (int(part) for part in query["continue"][0].split("/"))
            if version < self.compacted:
                return 410, {"kind": "Status", "message": "the continue parameter is too old", "reason": "Expired"}
        pods = self.snapshots.setdefault(version, list(self.pods))
        end = start + int(query.get("limit", ["1000000"])[0])
        metadata = {"resourceVersion": str(version)}
        if end < len(pods):
            metadata["continue"] = f"{version}/{end}"
        return 200, {"kind": "PodList", "apiVersion": "v1", "metadata": metadata, "items": pods[start:end]}

    def kube(self, kind: type[Kube] = Kube) -> Kube:
        return kind(f"http://127.0.0.1:{self.server.server_address[1]}")


class SmallPages(Kube):
    """Lists two objects at a time."""

    def pages(self, resource: Resource, namespace: str | None = None, **options: Any) -> Iterator[Object]:
        return super().pages(resource, namespace, **options | {"limit": 2})


@pytest.fixture
def api() -> Iterator[ApiServer]:
    server = ApiServer()
    yield server
    for _ in range(10):
        server.events.put(None)
    server.server.shutdown()
    server.server.server_close()


def eventually(condition: Any) -> None:
    wait_until(condition, timeout_seconds=10, what="the store to follow")


def test_paths_are_those_of_the_api() -> None:
    assert PODS.path() == "/api/v1/pods"
    assert PODS.path("default", "a", "eviction") == "/api/v1/namespaces/default/pods/a/eviction"
    assert (
        VIRTUAL_MACHINES.path("default", "vm")
        == "/apis/simulation.node-classifier.io/v1alpha1/namespaces/default/virtualmachines/vm"
    )


def test_error_carries_the_apis_message_and_status(api: ApiServer) -> None:
    with pytest.raises(KubeError, match="not found") as caught:
        api.kube().get(PODS, "missing", "default")
    assert (caught.value.status, caught.value.reason) == (404, "NotFound")
    assert api.kube().find(PODS, "missing", "default") is None


def test_unreachable_server_is_an_error_with_status_zero(api: ApiServer) -> None:
    kube = api.kube()
    api.server.shutdown()
    api.server.server_close()
    with pytest.raises(KubeError, match="did not answer") as caught:
        kube.list(PODS)
    assert caught.value.status == 0


def test_delete_carries_its_preconditions(api: ApiServer) -> None:
    api.kube().delete(PODS, "a", "default", uid="u1", resource_version="7", grace_period_seconds=0)
    options = json.loads(api.bodies[-1])
    assert options["preconditions"] == {"uid": "u1", "resourceVersion": "7"}
    assert options["gracePeriodSeconds"] == 0


def test_a_pod_s_token_is_read_anew_when_it_was_renewed(
    api: ApiServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "token").write_text("first\n")
    (tmp_path / "ca.crt").write_text("")
    monkeypatch.setattr("labkit.kube.SERVICE_ACCOUNT", tmp_path)
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "127.0.0.1")
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", "443")
    kube = Kube.in_cluster()
    assert kube.server == "https://127.0.0.1:443"
    kube = Kube(api.kube().server, authorization=kube._authorization)
    kube.list(PODS)
    (tmp_path / "token").write_text("second\n")
    kube.list(PODS)
    monkeypatch.setattr("labkit.kube.TOKEN_SECONDS", -1.0)
    kube.list(PODS)
    assert api.authorizations == ["Bearer first", "Bearer first", "Bearer second"]


def test_without_a_service_account_the_error_says_what_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("labkit.kube.SERVICE_ACCOUNT", tmp_path)
    with pytest.raises(KubeError, match="wanted a pod's service account"):
        Kube.in_cluster()


def test_server_that_does_not_even_shake_hands_is_given_up_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kube_module, "CONNECT_TIMEOUT_SECONDS", 60.0)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        began = time.monotonic()
        with pytest.raises(KubeError, match="did not answer"):
            Kube(f"https://127.0.0.1:{silent.getsockname()[1]}").request("GET", "/readyz", timeout_seconds=0.2)
        assert time.monotonic() - began < 30


def test_store_follows_changes_and_tells_old_and_new(api: ApiServer) -> None:
    api.pods = [pod("a", 1)]
    told: list[tuple[str | None, str | None]] = []
    store = Store(api.kube(), PODS)
    store.subscribe(
        lambda old, new: told.append(
            (old and old["metadata"]["resourceVersion"], new and new["metadata"]["resourceVersion"])
        )
    )
    store.start().wait_synced(10)
    api.events.put({"type": "MODIFIED", "object": pod("a", 2)})
    api.events.put({"type": "ADDED", "object": pod("b", 3)})
    api.events.put({"type": "DELETED", "object": pod("a", 4)})
    eventually(lambda: len(told) == 4)
    assert told == [(None, "1"), ("1", "2"), (None, "3"), ("2", None)]
    assert [o["metadata"]["name"] for o in store.items()] == ["b"]
    assert "managedFields" not in store.items()[0]["metadata"]
    store.stop()


def test_store_resumes_where_it_was_and_lists_again_only_when_history_is_gone(api: ApiServer) -> None:
    api.pods, api.version = [pod("a", 1)], 5
    store = Store(api.kube(), PODS).start().wait_synced(10)
    api.events.put({"type": "BOOKMARK", "object": {"metadata": {"resourceVersion": "9"}}})
    api.events.put(None)
    eventually(lambda: sum("watch" in path for _, path in api.requests) == 2)
    assert "resourceVersion=9" in api.requests[-1][1]
    api.pods, api.version = [pod("b", 20)], 20
    api.events.put({"type": "ERROR", "object": {"code": 410, "reason": "Expired", "message": "too old"}})
    eventually(lambda: [o["metadata"]["name"] for o in store.items()] == ["b"])
    store.stop()


def test_pages_show_one_version_though_objects_come_meanwhile(api: ApiServer) -> None:
    api.pods, api.version = [pod(name, 1) for name in "abcde"], 5
    names = []
    for page in api.kube().pages(PODS, limit=2):
        names.append([obj["metadata"]["name"] for obj in page["items"]])
        assert page["metadata"]["resourceVersion"] == "5"
        api.pods, api.version = [pod(name, 1) for name in "vwxyz"], api.version + 1
    assert names == [["a", "b"], ["c", "d"], ["e"]]
    assert ["limit=2" in path for _, path in api.requests] == [True, True, True]


def test_store_reads_page_by_page_and_watches_from_the_version_of_the_pages(api: ApiServer) -> None:
    api.pods, api.version = [pod(name, 1) for name in "abcde"], 7
    store = Store(api.kube(SmallPages), PODS).start().wait_synced(10)
    eventually(lambda: "watch" in api.requests[-1][1])
    assert sorted(obj["metadata"]["name"] for obj in store.items()) == list("abcde")
    assert len(api.requests) == 4
    assert "resourceVersion=7" in api.requests[-1][1]
    assert {(obj["apiVersion"], obj["kind"]) for obj in store.items()} == {("v1", "Pod")}
    store.stop()


def test_store_begins_anew_when_a_page_has_expired_and_tells_nothing_of_the_half(api: ApiServer) -> None:
    api.pods, api.version = [pod(name, 1) for name in "abc"], 3
    told: list[tuple[str, str]] = []

    def trim(obj: Object) -> Object:
        """Once the first page is being read, its version is forgotten and other pods are there."""
        if api.version == 3:
            api.pods, api.version, api.compacted = [pod(name, 9) for name in "bcd"], 9, 9
        return obj

    store = Store(api.kube(SmallPages), PODS, trim=trim)
    store.subscribe(
        lambda old, new: told.append((new["metadata"]["name"], new["metadata"]["resourceVersion"]) if new else ("", ""))
    )
    store.start().wait_synced(10)
    assert told == [("b", "9"), ("c", "9"), ("d", "9")]
    store.stop()


def test_a_trim_keeps_metadata_and_the_named_fields_only() -> None:
    obj = pod("a", 1) | {"kind": "Pod", "spec": {"nodeName": "n", "containers": []}, "status": {"phase": "Running"}}
    kept = only("spec.nodeName", "status.phase", "status.conditions", "other.field")(obj)
    assert kept == {
        "kind": "Pod",
        "metadata": {name: value for name, value in pod("a", 1)["metadata"].items() if name != "managedFields"},
        "spec": {"nodeName": "n"},
        "status": {"phase": "Running"},
        "other": {},
    }


def test_store_keeps_unchanged_objects_when_it_lists_again(api: ApiServer) -> None:
    api.pods, api.version = [pod("a", 1), pod("b", 1)], 5
    store = Store(api.kube(), PODS).start().wait_synced(10)
    kept = store.get("default", "a")
    api.pods, api.version = [pod("a", 1), pod("b", 8)], 8
    api.events.put({"type": "ERROR", "object": {"code": 410, "reason": "Expired", "message": "too old"}})
    eventually(lambda: store.get("default", "b")["metadata"]["resourceVersion"] == "8")
    assert store.get("default", "a") is kept
    store.stop()


def test_store_never_looks_empty_because_the_server_is_away(api: ApiServer) -> None:
    api.pods = [pod("a", 1)]
    store = Store(api.kube(), PODS).start().wait_synced(10)
    api.unavailable = True
    api.events.put(None)
    wait_until(lambda: store._failures >= 2, timeout_seconds=10, what="failed watches")
    assert len(store) == 1
    assert not store.current
    api.unavailable = False
    api.events.put({"type": "DELETED", "object": pod("a", 2)})
    eventually(lambda: len(store) == 0)
    assert store.current
    store.stop()


def test_store_follows_again_after_a_server_that_was_away_for_hours(api: ApiServer) -> None:
    api.pods = [pod("a", 1)]
    api.unavailable = True
    store = Store(api.kube(), PODS)
    store._failures = 5000  # one every few seconds
    store.start()
    wait_until(lambda: store._failures > 5000, timeout_seconds=10, what="another failed list")
    api.unavailable = False
    store.wait_synced(30)
    store.stop()


def test_store_tells_everything_again_after_a_subscriber_failed(api: ApiServer) -> None:
    api.pods = [pod("a", 1), pod("b", 1)]
    told: list[str] = []

    def fail_once(old: Object | None, new: Object | None) -> None:
        assert new is not None
        told.append(new["metadata"]["name"])
        if len(told) == 2:
            raise RuntimeError("cannot digest b")

    store = Store(api.kube(), PODS)
    store.subscribe(fail_once)
    store.start()
    eventually(lambda: len(told) == 4)
    assert told == ["a", "b", "a", "b"]
    store.stop()
