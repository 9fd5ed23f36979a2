from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import pytest
import yaml
from cryptography import x509

from labkit.cluster import manifests
from labkit.cluster.config import LabConfig
from labkit.cluster.pki import Authority
from labkit.errors import InputError, KubeError
from labkit.kube import CONFIG_MAPS, Resource
from labkit.names import ADDON_NODE_LABEL, HOST_NODE

Object = dict[str, Any]
CONFIG = LabConfig(name="x", address="127.0.0.9", tempo=15)


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority.new("test")


@pytest.fixture(scope="module")
def objects(authority: Authority) -> list[Object]:
    return manifests.for_local_lab(manifests.load(), CONFIG, epoch=1000.25, authority=authority)


def _obj(kind: str, name: str, namespace: str = "n", **rest: Any) -> Object:
    return {"apiVersion": "v1", "kind": kind, "metadata": {"name": name, "namespace": namespace}, **rest}


def _service(target: int | str) -> Object:
    return _obj("Service", "hook", spec={"selector": {"app": "hook"}, "ports": [{"port": 443, "targetPort": target}]})


def _deployment() -> Object:
    container = {"name": "hook", "image": "i:1", "ports": [{"name": "https", "containerPort": 8443}]}
    template = {"metadata": {"labels": {"app": "hook", "more": "1"}}, "spec": {"containers": [container]}}
    return _obj("Deployment", "hook", spec={"template": template})


def _webhook() -> Object:
    client = {"service": {"name": "hook", "namespace": "n", "path": "/validate"}}
    return _obj("ValidatingWebhookConfiguration", "v", webhooks=[{"name": "a.b.c", "clientConfig": client}])


def test_every_file_of_the_repository_can_be_read() -> None:
    kinds = {obj["kind"] for obj in manifests.load()}
    assert {"Namespace", "CustomResourceDefinition", "Node", "Deployment"} <= kinds
    assert "Stage" not in kinds
    assert "VirtualMachine" not in kinds


def test_what_others_need_comes_first(objects: list[Object]) -> None:
    kinds = [obj["kind"] for obj in objects]
    order = ["Namespace", "CustomResourceDefinition", "ServiceAccount", "ConfigMap", "Deployment", "PrometheusRule"]
    places = [kinds.index(kind) for kind in order if kind in kinds]
    assert places == sorted(places)
    assert kinds.index("ValidatingWebhookConfiguration") > max(
        i for i, kind in enumerate(kinds) if kind == "Deployment"
    )


def test_add_ons_run_on_the_host_node_only_and_one_at_a_time(objects: list[Object]) -> None:
    deployments = [obj for obj in objects if obj["kind"] == "Deployment"]
    assert deployments
    for deployment in deployments:
        spec = deployment["spec"]["template"]["spec"]
        assert spec["nodeSelector"] == {ADDON_NODE_LABEL: "true"}, deployment["metadata"]["name"]
        assert {"operator": "Exists"} in spec["tolerations"], deployment["metadata"]["name"]
        assert deployment["spec"]["strategy"] == {"type": "Recreate"}, deployment["metadata"]["name"]


def test_every_namespace_with_a_workload_has_the_lab_s_values(objects: list[Object]) -> None:
    wanted = {obj["metadata"]["namespace"] for obj in objects if obj["kind"] == "Deployment"}
    found = {obj["metadata"]["namespace"]: obj["data"] for obj in objects if obj["metadata"]["name"] == "lab"}
    assert set(found) == wanted
    assert found["monitoring"] == {
        "LAB_LISTEN_ADDRESS": "127.0.0.9",
        "LAB_TEMPO": "15",
        "LAB_EPOCH": "1000.25",
        "LAB_SCRAPE_INTERVAL": "1s",
        "LAB_EVALUATION_INTERVAL": "1s",
        "LAB_DESCHEDULING_INTERVAL": "4s",
        "LAB_LOOKBACK": "20s",
    }


def test_nodes_are_as_promised(objects: list[Object]) -> None:
    fake = [obj for obj in objects if obj["kind"] == "Node" and obj["metadata"]["name"] != HOST_NODE]
    assert [obj["metadata"]["name"] for obj in fake] == [f"kwok-node-{number}" for number in range(1, 6)]
    for node in fake:
        assert node["status"]["allocatable"] == node["status"]["capacity"]
        assert (node["status"]["capacity"]["cpu"], node["status"]["capacity"]["memory"]) == ("32", "512Gi")
        assert node["spec"]["taints"] == [{"key": "kwok.x-k8s.io/node", "value": "fake", "effect": "NoSchedule"}]
        assert node["metadata"]["annotations"]["kwok.x-k8s.io/node"] == "fake"
        assert node["metadata"]["labels"]["type"] == "kwok"
        assert node["metadata"]["labels"]["kubevirt.io/schedulable"] == "true"


def test_fake_nodes_are_kwok_s_and_the_host_node_is_not(objects: list[Object]) -> None:
    host = next(obj for obj in objects if obj["metadata"]["name"] == HOST_NODE)
    assert "kwok.x-k8s.io/node" not in host["metadata"].get("annotations", {})
    assert host["metadata"]["labels"][ADDON_NODE_LABEL] == "true"
    assert host["spec"]["taints"][0]["effect"] == "NoSchedule"


@pytest.mark.parametrize("target", [8443, "https"], ids=["by number", "by name"])
def test_webhook_is_called_at_the_lab_s_address(authority: Authority, target: int | str) -> None:
    patched = manifests.for_local_lab(
        [_service(target), _deployment(), _webhook()], CONFIG, epoch=0, authority=authority
    )
    hook = next(obj for obj in patched if obj["kind"] == "ValidatingWebhookConfiguration")
    client = hook["webhooks"][0]["clientConfig"]
    assert client["url"] == "https://127.0.0.9:8443/validate"
    assert base64.b64decode(client["caBundle"]).decode() == authority.pair.certificate
    assert "service" not in client


def test_webhook_gets_a_certificate_for_its_address_and_name(authority: Authority) -> None:
    patched = manifests.for_local_lab([_service(8443), _deployment(), _webhook()], CONFIG, epoch=0, authority=authority)
    secret = next(obj for obj in patched if obj["kind"] == "Secret")
    assert (secret["metadata"]["name"], secret["metadata"]["namespace"]) == ("hook-tls", "n")
    assert set(secret["data"]) == {"tls.crt", "tls.key", "client-ca.crt"}
    certificate = x509.load_pem_x509_certificate(base64.b64decode(secret["data"]["tls.crt"]))
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert "hook.n.svc" in names.get_values_for_type(x509.DNSName)
    assert [str(entry) for entry in names.get_values_for_type(x509.IPAddress)] == ["127.0.0.9"]


def test_webhook_without_service_is_refused(authority: Authority) -> None:
    with pytest.raises(InputError, match="port 443 of Service n/hook"):
        manifests.for_local_lab([_webhook()], CONFIG, epoch=0, authority=authority)


def test_files_are_not_changed_by_patching(authority: Authority) -> None:
    given = [_service(8443), _deployment(), _webhook()]
    before = yaml.safe_dump(given)
    manifests.for_local_lab(given, CONFIG, epoch=0, authority=authority)
    assert yaml.safe_dump(given) == before


@pytest.mark.parametrize(
    "text",
    ["a: [", "kind: Pod", "- 1", "apiVersion: v1\nkind: Pod\nmetadata: {}"],
    ids=["yaml", "no name", "list", "empty"],
)
def test_file_without_objects_is_refused_by_name(tmp_path: Path, text: str) -> None:
    (tmp_path / "x.yaml").write_text(text)
    with pytest.raises(InputError, match=r"x\.yaml"):
        manifests.read(tmp_path / "x.yaml")


def test_list_objects_and_empty_documents_are_understood(tmp_path: Path) -> None:
    item = "{apiVersion: v1, kind: Namespace, metadata: {name: a}}"
    (tmp_path / "x.yaml").write_text(f"---\n---\n{item}\n---\napiVersion: v1\nkind: List\nitems: [{item}]\n")
    assert [obj["metadata"]["name"] for obj in manifests.read(tmp_path / "x.yaml")] == ["a", "a"]


def test_applied_object_is_remembered_until_its_file_changes(tmp_path: Path) -> None:
    one, changed = _obj("ConfigMap", "a", data={"k": "1"}), _obj("ConfigMap", "a", data={"k": "2"})
    applied = manifests.AppliedObjects(tmp_path / "applied.json")
    assert not applied.is_current(one)
    applied.remember([one])
    again = manifests.AppliedObjects(tmp_path / "applied.json")
    assert again.is_current(one)
    assert not again.is_current(changed)


def test_certificate_made_anew_counts_as_the_same(tmp_path: Path, authority: Authority) -> None:
    first = manifests.tls_secret("n", "hook", address="127.0.0.9", authority=authority)
    second = manifests.tls_secret("n", "hook", address="127.0.0.9", authority=authority)
    applied = manifests.AppliedObjects(tmp_path / "applied.json")
    applied.remember([first])
    assert first != second
    assert applied.is_current(second)


class _Restarting:
    """An API server that is away for the first questions, and does not serve every kind at once."""

    def __init__(self, *errors: KubeError) -> None:
        self.errors = list(errors)
        self.applied: list[Object] = []

    def resource_of(self, api_version: str, kind: str) -> Resource:
        if self.errors:
            raise self.errors.pop(0)
        return CONFIG_MAPS

    def find(self, resource: Resource, name: str, namespace: str | None) -> Object:
        return {}

    def apply(self, obj: Object) -> None:
        self.applied.append(obj)


def test_what_is_there_is_found_once_the_api_server_answers(tmp_path: Path) -> None:
    obj = _obj("ConfigMap", "a", data={"k": "1"})
    applied = manifests.AppliedObjects(tmp_path / "applied.json")
    applied.remember([obj])
    kube = _Restarting(KubeError("connection refused"), KubeError("serves no kind", status=404))
    count = manifests.apply(kube, [obj], applied=applied, timeout_seconds=10, say=str)  # type: ignore[arg-type]
    assert (count, kube.applied, kube.errors) == (0, [], [])
