from __future__ import annotations

import json
from base64 import b64decode
from pathlib import Path

import pytest
import yaml

from labkit.cluster import controlplane
from labkit.cluster.component import Component
from labkit.cluster.config import LabConfig, LabFolder, LabRecord
from labkit.datafiles import data_path

ADDRESS = "127.0.0.9"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> LabFolder:
    monkeypatch.setenv("LABKIT_STATE", str(tmp_path))
    monkeypatch.setenv("KUBECONFIG", "/somebody/.kube/config")
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy.example:3128")
    folder = LabFolder("x")
    folder.bin.mkdir(parents=True)
    (folder.bin / "etcd").symlink_to("/opt/own/server")
    controlplane.write_identities(folder, ADDRESS)
    controlplane.write_configuration(folder, _record(folder))
    return folder


def _record(folder: LabFolder) -> LabRecord:
    return LabRecord(LabConfig(name="x", address=ADDRESS), 0.0, str(folder.bin))


@pytest.fixture
def components(folder: LabFolder) -> dict[str, Component]:
    return {component.name: component for component in controlplane.components(folder, _record(folder))}


def _arguments(component: Component) -> dict[str, str]:
    return dict(word.removeprefix("--").split("=", 1) for word in component.command if word.startswith("--"))


def test_every_listener_is_on_the_lab_s_address(components: dict[str, Component]) -> None:
    etcd = _arguments(components["etcd"])
    assert all(etcd[key].startswith(f"https://{ADDRESS}:") for key in ("listen-client-urls", "listen-peer-urls"))
    for name in ("kube-apiserver", "kube-controller-manager", "kube-scheduler"):
        assert _arguments(components[name])["bind-address"] == ADDRESS
    assert _arguments(components["kwok"])["server-address"].startswith(f"{ADDRESS}:")


def test_nothing_of_the_user_s_reaches_a_component(components: dict[str, Component]) -> None:
    for component in components.values():
        assert "KUBECONFIG" not in component.environment
        assert not any("proxy" in name.lower() for name in component.environment)


def test_scheduler_keeps_its_defaults(components: dict[str, Component]) -> None:
    known = {
        "kubeconfig", "authentication-kubeconfig", "authorization-kubeconfig", "authorization-always-allow-paths",
        "bind-address", "secure-port", "tls-cert-file", "tls-private-key-file", "leader-elect", "profiling",
    }  # fmt: skip
    assert set(_arguments(components["kube-scheduler"])) == known


def test_kwok_manages_its_own_nodes_only(components: dict[str, Component]) -> None:
    arguments = _arguments(components["kwok"])
    assert arguments["manage-all-nodes"] == "false"
    assert arguments["manage-nodes-with-annotation-selector"] == "kwok.x-k8s.io/node=fake"
    assert "Exec" not in arguments["enable-crds"]
    assert "Stage" not in arguments["enable-crds"]


def test_etcd_trusts_the_api_server_alone(folder: LabFolder, components: dict[str, Component]) -> None:
    arguments = _arguments(components["etcd"])
    assert arguments["client-cert-auth"] == "true"
    assert arguments["trusted-ca-file"] == str(folder.pki / "etcd-ca.crt")
    assert (folder.pki / "etcd-ca.crt").read_text() != (folder.pki / "ca.crt").read_text()


@pytest.mark.parametrize(
    ("role", "user"),
    [
        ("host-node-agent", "system:node:lab-host"),
        ("kube-scheduler", "system:kube-scheduler"),
        ("kube-controller-manager", "system:kube-controller-manager"),
    ],
)
def test_each_component_is_itself(folder: LabFolder, role: str, user: str) -> None:
    config = yaml.safe_load(controlplane.kubeconfig_of(folder, role).read_text())
    assert config["contexts"][0]["context"]["user"] == user
    assert config["clusters"][0]["cluster"]["server"] == f"https://{ADDRESS}:16443"
    ca = b64decode(config["clusters"][0]["cluster"]["certificate-authority-data"]).decode()
    assert ca == (folder.pki / "ca.crt").read_text()


def test_no_key_can_be_read_by_others(folder: LabFolder) -> None:
    assert [path for path in folder.pki.iterdir() if path.stat().st_mode & 0o077] == []


def test_audit_keeps_evictions_and_deletions_of_pods_only() -> None:
    rules = controlplane.audit_policy()["rules"]
    assert [rule["level"] for rule in rules] == ["Request", "Metadata", "None"]
    assert rules[0]["resources"] == [{"group": "", "resources": ["pods/eviction"]}]
    assert rules[1]["verbs"] == ["delete", "deletecollection"]


def test_webhooks_see_a_client_certificate(folder: LabFolder) -> None:
    admission = yaml.safe_load((folder.path / "admission.yaml").read_text())
    names = [plugin["name"] for plugin in admission["plugins"]]
    assert names == ["MutatingAdmissionWebhook", "ValidatingAdmissionWebhook"]
    config = yaml.safe_load(Path(admission["plugins"][0]["configuration"]["kubeConfigFile"]).read_text())
    assert config["users"][0]["name"] == "*"
    assert Path(config["users"][0]["user"]["client-certificate"]).is_file()


def test_agent_is_told_where_the_tools_really_are(folder: LabFolder) -> None:
    values = json.loads(folder.hostnode_file.read_text())
    assert "/opt/own" in values["path"]
    assert values["node_name"] == "lab-host"
    assert values["address"] == ADDRESS


def test_stages_are_complete() -> None:
    documents = list(yaml.safe_load_all(controlplane.kwok_configuration()))
    assert documents[0]["kind"] == "KwokConfiguration"
    stages = {document["metadata"]["name"] for document in documents[1:]}
    assert stages == {path.stem for path in data_path("k8s", "stages").glob("*.yaml")}
    assert {"node-ready", "node-heartbeat", "pod-running", "pod-ready-again", "pod-delete"} <= stages
