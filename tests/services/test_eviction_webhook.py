"""The eviction webhook: KubeVirt's table row by row, races, and the HTTPS around it."""

from __future__ import annotations

import json
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

import pytest
from fake_kube import FakeKube

from labkit.clock import VirtualClock
from labkit.cluster.pki import Authority
from labkit.errors import InputError, KubeError
from labkit.kube import PODS, VIRTUAL_MACHINES, Object, Resource
from services.eviction_webhook.app import Interceptor
from services.eviction_webhook.logic import response, unreadable
from services.eviction_webhook.server import Certificates, Server

POD = "virt-launcher-web-abcde"
TRIGGERED = 'Eviction triggered evacuation of VMI "default/web"'


def launcher(**labels: str) -> Object:
    return {
        "metadata": {
            "name": POD,
            "namespace": "default",
            "labels": {"kubevirt.io": "virt-launcher"} | labels,
            "annotations": {"kubevirt.io/domain": "web"},
        },
        "spec": {"nodeName": "node-1"},
        "status": {"phase": "Running"},
    }


def machine(**spec: Any) -> Object:
    return {
        "metadata": {"name": "web", "namespace": "default", "generation": 1},
        "spec": {"resources": {"cpu": "2", "memory": "4Gi"}, "evictionStrategy": "LiveMigrate"} | spec,
        "status": {"nodeName": "node-1", "podName": POD},
    }


def review(pod: str = POD, *, requested_by: str = "", **request: Any) -> Object:
    annotations = {"requested-by": requested_by} if requested_by else {}
    return {
        "apiVersion": "admission.k8s.io/v1",
        "kind": "AdmissionReview",
        "request": {
            "uid": "review-1",
            "resource": {"group": "", "version": "v1", "resource": "pods"},
            "subResource": "eviction",
            "namespace": "default",
            "name": pod,
            "operation": "CREATE",
            "userInfo": {"username": "somebody"},
            "object": {
                "apiVersion": "policy/v1",
                "kind": "Eviction",
                "metadata": {"name": pod, "annotations": annotations},
            },
        }
        | request,
    }


class Desk:
    """A webhook and the API server behind it."""

    def __init__(self, pod: Object | None = None, vm: Object | None = None) -> None:
        self.kube = FakeKube(VirtualClock(1000.0))
        self.kube.put(PODS, pod or launcher())
        if vm is not None:
            self.kube.put(VIRTUAL_MACHINES, vm)
        self.kube.writes.clear()
        self.interceptor = Interceptor(self.kube, clock=self.kube.clock)

    def ask(self, body: Object | None = None) -> dict[str, Any]:
        answer = self.interceptor.review(body or review())
        assert answer["kind"] == "AdmissionReview"
        assert answer["response"]["uid"] == "review-1"
        return dict(answer["response"])

    @property
    def vm(self) -> Object:
        return self.kube.objects["virtualmachines", "default", "web"]


def refused(message: str) -> dict[str, Any]:
    return {"uid": "review-1", "allowed": False, "status": {"code": 429, "message": message}}


ALLOWED = {"uid": "review-1", "allowed": True}


# --- the table ---------------------------------------------------------------------------------------


def test_row_1_a_pod_that_is_gone_is_left_to_the_api_server() -> None:
    assert Desk(vm=machine()).ask(review("virt-launcher-gone-abcde")) == ALLOWED


@pytest.mark.parametrize(
    "pod",
    [
        launcher() | {"metadata": {"name": POD, "namespace": "default", "labels": {"app": "virt-launcher"}}},
        launcher(**{"kubevirt.io": "virt-handler"}),
        launcher() | {"status": {"phase": "Succeeded"}},
        launcher() | {"status": {"phase": "Failed"}},
    ],
    ids=["other pod", "other component", "succeeded", "failed"],
)
def test_row_2_what_is_no_running_launcher_is_allowed(pod: Object) -> None:
    desk = Desk(pod, machine())
    assert desk.ask() == ALLOWED
    assert desk.kube.writes == []


def test_row_3_a_launcher_that_names_no_vm_is_allowed() -> None:
    pod = launcher()
    pod["metadata"]["annotations"] = {}
    assert Desk(pod, machine()).ask() == ALLOWED


def test_row_4_a_vm_that_cannot_be_read_is_protected() -> None:
    answer = Desk(vm=None).ask()
    assert answer == refused('kubevirt failed getting the vmi: virtualmachines "web" not found')


def test_row_5_without_a_strategy_the_eviction_goes_on() -> None:
    desk = Desk(vm=machine(evictionStrategy=None))
    assert desk.ask() == ALLOWED
    assert "evacuationNodeName" not in desk.vm["status"]


def test_row_6_a_vm_that_must_migrate_and_cannot_is_protected() -> None:
    answer = Desk(vm=machine(migration={"allowed": False})).ask()
    assert answer == refused("VMI web is configured with an eviction strategy but is not live-migratable")


@pytest.mark.parametrize(
    "spec",
    [{"evictionStrategy": "None"}, {"evictionStrategy": "LiveMigrateIfPossible", "migration": {"allowed": False}}],
    ids=["None", "not possible"],
)
def test_row_7_a_vm_that_need_not_migrate_is_evicted(spec: dict[str, Any]) -> None:
    desk = Desk(vm=machine(**spec))
    assert desk.ask() == ALLOWED
    assert desk.kube.writes == []


def test_row_8_a_marked_vm_is_not_marked_again() -> None:
    desk = Desk(vm=machine())
    assert desk.ask() == refused(TRIGGERED)
    before = desk.vm
    assert desk.ask() == refused(f"Evacuation in progress: {TRIGGERED}")
    assert desk.vm == before


def test_row_8_comes_before_row_9_so_the_target_of_a_migration_never_moves_the_mark() -> None:
    vm = machine()
    vm["status"]["evacuationNodeName"] = "node-1"
    target = launcher()
    target["spec"]["nodeName"] = "node-2"
    desk = Desk(target, vm)
    assert desk.ask() == refused(f"Evacuation in progress: {TRIGGERED}")
    assert desk.vm["status"]["evacuationNodeName"] == "node-1"


@pytest.mark.parametrize("node", ["node-2", ""], ids=["another node", "no node yet"])
def test_row_9_a_pod_that_is_not_the_vm_is_protected(node: str) -> None:
    pod = launcher()
    pod["spec"]["nodeName"] = node
    desk = Desk(pod, machine())
    assert desk.ask() == refused("Eviction request for target Pod")
    assert desk.kube.writes == []


@pytest.mark.parametrize("obj", [None, "eviction", {"metadata": "none"}])
def test_row_10_an_eviction_that_cannot_be_read_is_refused(obj: Any) -> None:
    desk = Desk(vm=machine())
    answer = desk.ask(review(object=obj))
    assert answer["status"]["code"] == 429
    assert answer["status"]["message"].startswith("failed to parse the eviction object: ")
    assert desk.kube.writes == []


def test_row_11_a_vm_that_cannot_be_marked_is_protected() -> None:
    desk = Desk(vm=machine())
    desk.kube.refuses = lambda verb, *_: KubeError("etcd is away", status=500) if verb == "patch" else None
    assert desk.ask() == refused("kubevirt failed marking the vmi for eviction: etcd is away")


@pytest.mark.parametrize("strategy", ["LiveMigrate", "LiveMigrateIfPossible", "External"])
def test_row_12_the_vm_is_marked_with_the_pods_node(strategy: str) -> None:
    desk = Desk(vm=machine(evictionStrategy=strategy))
    assert desk.ask() == refused(TRIGGERED)
    assert desk.vm["status"]["evacuationNodeName"] == "node-1"
    assert desk.vm["status"]["evacuationRequestedTimestamp"] == "1970-01-01T00:16:40.000000Z"
    assert "annotations" not in desk.vm["metadata"]


def test_the_deschedulers_evictions_are_noted_as_such() -> None:
    desk = Desk(vm=machine())
    desk.ask(review(requested_by="sigs.k8s.io/descheduler"))
    assert desk.vm["metadata"]["annotations"] == {"kubevirt.io/eviction-source": "descheduler"}


def test_no_answer_asks_the_client_to_retry() -> None:
    """A retryAfterSeconds makes client-go repeat one eviction up to ten times."""
    answer = response("u", unreadable(KubeError("x")))["response"]
    assert set(answer["status"]) == {"code", "message"}


# --- what must not happen by accident ----------------------------------------------------------------


@pytest.mark.parametrize("status", [0, 403, 500])
def test_a_pod_that_cannot_be_read_is_not_evicted(status: int) -> None:
    desk = Desk(vm=machine())
    desk.kube.refuses = lambda verb, resource, _: KubeError("no answer", status=status) if resource is PODS else None
    answer = desk.ask()
    assert answer["allowed"] is False
    assert answer["status"]["code"] == 429


@pytest.mark.parametrize(
    "request_change", [{"dryRun": True}, {"object": {"metadata": {}, "deleteOptions": {"dryRun": ["All"]}}}]
)
def test_a_dry_run_gets_the_answer_and_changes_nothing(request_change: dict[str, Any]) -> None:
    desk = Desk(vm=machine())
    assert desk.ask(review(**request_change)) == refused(TRIGGERED)
    assert desk.kube.writes == []
    assert "evacuationNodeName" not in desk.vm["status"]


@pytest.mark.parametrize(
    "body",
    [
        None,
        [],
        {},
        {"request": None},
        {"request": {"uid": "1"}},
        review(subResource="status"),
        review(resource={"resource": "deployments"}),
    ],
    ids=["null", "list", "empty", "no request", "half a request", "other subresource", "other resource"],
)
def test_what_is_no_review_of_an_eviction_gets_no_answer(body: Any) -> None:
    desk = Desk(vm=machine())
    with pytest.raises(InputError, match="wanted"):
        desk.interceptor.review(body)


def test_a_vm_written_meanwhile_is_looked_at_again() -> None:
    desk = Desk(vm=machine())
    others = iter(range(2))

    def write_first(verb: str, resource: Resource, name: str) -> None:
        if verb == "patch" and resource is VIRTUAL_MACHINES and next(others, None) is not None:
            desk.kube.change(VIRTUAL_MACHINES, "web", {"status": {"phase": f"{desk.kube.version}"}})

    desk.kube.refuses = write_first
    assert desk.ask() == refused(TRIGGERED)


def test_of_two_evictions_at_once_one_marks() -> None:
    desk = Desk(vm=machine())
    other: list[dict[str, Any]] = []

    def evict_meanwhile(verb: str, resource: Resource, name: str) -> None:
        if verb == "patch" and not other:
            other.append({})
            other[0] = desk.ask()

    desk.kube.refuses = evict_meanwhile
    assert desk.ask() == refused(f"Evacuation in progress: {TRIGGERED}")
    assert other == [refused(TRIGGERED)]
    assert [verb for verb, *_ in desk.kube.writes] == ["patch status"]


def test_a_vm_that_others_write_all_the_time_is_protected() -> None:
    desk = Desk(vm=machine())
    desk.kube.refuses = lambda verb, *_: KubeError("modified", status=409) if verb == "patch" else None
    assert desk.ask() == refused("kubevirt failed marking the vmi for eviction: modified")


def test_every_answer_is_recorded_and_counted() -> None:
    desk = Desk(vm=machine())
    desk.ask(review(requested_by="sigs.k8s.io/descheduler"))
    desk.ask()
    entries = desk.interceptor.entries()
    assert [(entry["id"], entry["vm"], entry["node"], entry["result"]) for entry in entries] == [
        (1, "web", "node-1", "marked"),
        (2, "web", "node-1", "in_progress"),
    ]
    assert [entry["source"] for entry in entries] == ["descheduler", "somebody"]
    assert b'lab_evictions_total{result="marked"} 1.0' in desk.interceptor.metrics()


# --- HTTPS -------------------------------------------------------------------------------------------


class Site:
    """A served webhook."""

    def __init__(self, folder: Path, *, demands_client: bool) -> None:
        self.folder = folder
        self.serving, self.clients = Authority.new("serving"), Authority.new("clients")
        self.write_certificate()
        (folder / "client-ca.crt").write_text(self.clients.pair.certificate if demands_client else "")
        self.desk = Desk(vm=machine())
        self.server = Server(("127.0.0.1", 0), self.desk.interceptor, Certificates(folder))
        self.url = f"https://127.0.0.1:{self.server.server_address[1]}"
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()

    def write_certificate(self) -> None:
        self.serving.issue("eviction-webhook", hosts=["127.0.0.1"]).write(self.folder, "tls")

    def context(self, client: Authority | None = None) -> ssl.SSLContext:
        context = ssl.create_default_context(cadata=self.serving.pair.certificate)
        if client is not None:
            context.load_cert_chain(*client.issue("kube-apiserver").write(self.folder, "client"))
        return context

    def post(
        self, body: bytes, client: Authority | None = None, path: str = "/pod-eviction-validate"
    ) -> tuple[int, bytes]:
        return self._open(Request(self.url + path, data=body, method="POST"), client)

    def get(self, path: str) -> tuple[int, bytes]:
        return self._open(Request(self.url + path), None)

    def _open(self, request: Request, client: Authority | None) -> tuple[int, bytes]:
        try:
            with urlopen(request, context=self.context(client), timeout=5) as answer:
                return answer.status, answer.read()
        except HTTPError as error:
            with error:
                return error.code, error.read()

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    site = Site(tmp_path, demands_client=True)
    yield site
    site.close()


def test_the_api_servers_certificate_opens_the_review(site: Site) -> None:
    status, body = site.post(json.dumps(review()).encode(), site.clients)
    assert status == 200
    assert json.loads(body)["response"] == refused(TRIGGERED)


def test_without_a_client_certificate_nobody_marks_a_vm(site: Site) -> None:
    status, _ = site.post(json.dumps(review()).encode())
    assert status == 403
    assert site.desk.kube.writes == []


def test_a_client_certificate_of_another_authority_is_refused(site: Site) -> None:
    with pytest.raises((URLError, OSError)):
        site.post(json.dumps(review()).encode(), Authority.new("stranger"))
    assert site.desk.kube.writes == []


def test_pages_need_no_client_certificate(site: Site) -> None:
    assert site.get("/healthz") == (200, b"ok\n")
    assert site.get("/metrics")[0] == 200
    assert json.loads(site.get("/evictions")[1]) == {"evictions": []}
    assert site.get("/elsewhere")[0] == 404


@pytest.mark.parametrize("body", [b"", b"not JSON", b"[]", b'{"request": {}}'])
def test_a_malformed_review_is_an_error_and_so_a_refusal(site: Site, body: bytes) -> None:
    status, text = site.post(body, site.clients)
    assert status == 400
    assert text


def test_a_failure_inside_is_an_error_and_so_a_refusal(site: Site) -> None:
    def fail(*_: Any) -> None:
        raise RuntimeError("a mistake of ours")

    site.desk.kube.refuses = fail
    status, _ = site.post(json.dumps(review()).encode(), site.clients)
    assert status == 500


def test_a_body_too_large_is_refused_unread(site: Site) -> None:
    request = Request(site.url + "/pod-eviction-validate", data=b"x", method="POST")
    request.add_unredirected_header("Content-Length", str(2**30))
    assert site._open(request, site.clients)[0] == 413


def test_a_renewed_certificate_is_taken_up_without_a_restart(site: Site) -> None:
    site.serving = Authority.new("renewed")
    site.write_certificate()
    assert site.get("/healthz")[0] == 200


def test_a_client_that_does_not_shake_hands_holds_nobody_up(site: Site) -> None:
    import socket

    with socket.create_connection(("127.0.0.1", site.server.server_address[1])):
        assert site.get("/healthz")[0] == 200
