"""The backend ``kind`` without an engine: what kind is told, what is applied, and how failures are met.

The programs ``docker`` and ``kind`` are small scripts here that keep the state of one cluster in a folder; the live
tests with ``--backend kind`` use the real ones.
"""

from __future__ import annotations

import os
import signal
import socket
import stat
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from labkit import cluster
from labkit.clock import wait_until
from labkit.cluster import controlplane, local, manifests
from labkit.cluster.config import LabConfig, LabFolder, LabRecord
from labkit.cluster.kind import cluster as kind_cluster_module
from labkit.cluster.kind import images, lifecycle, program
from labkit.cluster.kind.cluster import ABSENT, RUNNING, STOPPED, KindCluster, configuration
from labkit.cluster.kind.engine import Engine
from labkit.cluster.kind.program import Kind
from labkit.cluster.kind.settings import NODE_IMAGE
from labkit.cluster.pki import Authority
from labkit.cluster.ports import lab_ports
from labkit.cluster.running import RunningLab, kind_cluster, kind_node
from labkit.errors import ClusterError, InputError, ToolError
from labkit.names import ADDON_NODE_LABEL, HOST_NODE

Object = dict[str, Any]
ADDRESS = "127.0.0.172"
CONFIG = LabConfig(name="boxed", address=ADDRESS, tempo=15, backend="kind")
IMAGES = {name: f"localhost/{name}-abc" for name in ("labkit/services:0.1.0", "labkit/kwok:0.8.0")}

ENGINE = """#!/bin/sh
# docker: 'ps' tells the state of the node, 'start' starts it, 'exec' lists its containers.
case "$1" in
  ps) cat "{world}/node" 2>/dev/null || true ;;
  start) echo running > "{world}/node" ;;
  exec) cat "{world}/containers" ;;
esac
"""
KIND = """#!/bin/sh
# kind: makes and removes the node; fails or hangs where a file says so.
echo "$1" >> "{world}/calls"
if test "$1" = delete; then
  test ! -e "{world}/slow" || sleep 1
  rm -f "{world}/node"
  exit 0
fi
cp "$4" "{world}/configuration"
echo running > "{world}/node"
if test -e "{world}/hangs"; then sleep 60 & wait; fi
if test -e "{world}/fails"; then
  echo "Creating cluster ..."; echo "ERROR: failed to create cluster: no room"; echo "Command Output: disk is full"
  exit 1
fi
"""


class World:
    """A folder with the state of an engine that has at most one node."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.engine = Engine("docker", self._program("docker", ENGINE), "27.0.0", False, 2, dict(os.environ))
        self.kind = Kind(self._program("kind", KIND), "0.33.0")
        self.asked = 0

    def find(self, environ: object) -> Engine:
        self.asked += 1
        return self.engine

    def _program(self, name: str, text: str) -> Path:
        path = self.folder / name
        path.write_text(text.format(world=self.folder))
        path.chmod(path.stat().st_mode | stat.S_IXUSR)
        return path

    @property
    def calls(self) -> list[str]:
        calls = self.folder / "calls"
        return calls.read_text().split() if calls.exists() else []

    @property
    def node(self) -> Path:
        return self.folder / "node"

    def cluster(self, name: str) -> KindCluster:
        return KindCluster(LabFolder(name), self.engine, self.kind)


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    made = World(tmp_path)
    monkeypatch.setenv("LABKIT_STATE", str(tmp_path / "state"))
    monkeypatch.delenv("LABKIT_NAME", raising=False)
    monkeypatch.setattr(lifecycle.engines, "find", made.find)
    monkeypatch.setattr(program, "find", lambda say: made.kind)
    monkeypatch.setattr(images, "ensure", lambda *args, **options: IMAGES)
    monkeypatch.setattr(images, "pull", lambda *args, **options: None)
    return made


@pytest.fixture(scope="module")
def objects() -> list[Object]:
    return manifests.for_kind_lab(
        manifests.load("kind"),
        CONFIG,
        epoch=1000.25,
        authority=Authority.new("test"),
        images=IMAGES,
        kwok_configuration="a: 1",
    )


def _deployments(objects: list[Object]) -> dict[str, Object]:
    return {obj["metadata"]["name"]: obj["spec"]["template"]["spec"] for obj in objects if obj["kind"] == "Deployment"}


def _containers(pod: Object) -> Iterator[Object]:
    yield from (*pod.get("initContainers", ()), *pod["containers"])


# --- what kind is told -----------------------------------------------------------------------------------


def test_lab_of_no_other_name_has_the_quickstart_s_cluster() -> None:
    assert kind_cluster("lab") == "node-classifier-sim"
    assert kind_cluster("boxed") == "labkit-boxed"
    assert len(kind_node("a" * 40)) <= 63


def test_everything_listens_on_the_lab_s_address_at_the_ports_of_local() -> None:
    config = configuration(CONFIG, node_image="node:1")
    assert config["networking"] == {"apiServerAddress": ADDRESS, "apiServerPort": 16443}
    (node,) = config["nodes"]
    assert (node["image"], node["labels"]) == ("node:1", {ADDON_NODE_LABEL: "true"})
    leads = {entry["hostPort"]: entry["containerPort"] for entry in node["extraPortMappings"]}
    assert {entry["listenAddress"] for entry in node["extraPortMappings"]} == {ADDRESS}
    assert (leads[9090], leads[8001], leads[8000], leads[8006]) == (9090, 8001, 8001, 8006)
    assert leads.keys() | {16443} == set(lab_ports("kind").values())


def test_control_plane_behaves_as_on_local(tmp_path: Path) -> None:
    patch = yaml.safe_load(configuration(CONFIG, node_image="node:1")["kubeadmConfigPatches"][0])
    assert (patch["apiVersion"], patch["kind"]) == ("kubeadm.k8s.io/v1beta4", "ClusterConfiguration")
    parts = {
        "etcd": patch["etcd"]["local"],
        "kube-controller-manager": patch["controllerManager"],
        "kube-scheduler": patch["scheduler"],
    }
    (tmp_path / "tools").mkdir()
    record = LabRecord(LabConfig(), 0.0, str(tmp_path / "tools"))
    local = {component.name: component.command for component in controlplane.components(LabFolder("lab"), record)}
    for name, part in parts.items():
        assert part["extraArgs"], name
        for option in part["extraArgs"]:
            assert f"--{option['name']}={option['value']}" in local[name]


@pytest.mark.parametrize(
    ("node_image", "is_told"),
    [
        (NODE_IMAGE, True),
        ("kindest/node:offline", True),
        ("127.0.0.1:5000/kindest/node:v1.35.0", True),
        ("mirror.example:5000/kindest/node:v1.34.2@sha256:0f", False),
    ],
)
def test_kubelet_that_can_be_told_starts_what_died_as_soon_as_the_supervisor(node_image: str, is_told: bool) -> None:
    patches = map(yaml.safe_load, configuration(CONFIG, node_image=node_image)["kubeadmConfigPatches"])
    told = [patch["crashLoopBackOff"] for patch in patches if patch["kind"] == "KubeletConfiguration"]
    assert told == ([{"maxContainerRestartPeriod": "5s"}] if is_told else [])


def test_webhooks_are_not_reachable_from_the_machine() -> None:
    assert not {8443, 8444, 10258} & set(lab_ports("kind").values())


# --- what is applied --------------------------------------------------------------------------------------


def test_both_backends_run_the_same_deployments_but_for_kwok() -> None:
    local, kind = (
        {obj["metadata"]["name"]: obj for obj in manifests.load(backend) if obj["kind"] == "Deployment"}
        for backend in ("local", "kind")
    )
    assert kind.pop("kwok")["metadata"]["namespace"] == "kube-system"
    assert kind == local


def test_there_is_no_host_node(objects: list[Object]) -> None:
    names = {(obj["kind"], obj["metadata"]["name"]) for obj in objects}
    assert ("Node", HOST_NODE) not in names
    assert ("ClusterRole", "host-node-agent") not in names
    assert ("CustomResourceDefinition", "logs.kwok.x-k8s.io") not in names


def test_every_image_is_the_one_that_was_built(objects: list[Object]) -> None:
    found = {container["image"] for pod in _deployments(objects).values() for container in _containers(pod)}
    assert set(IMAGES.values()) <= found
    assert not set(IMAGES) & found


def test_http_is_open_on_the_node_and_nothing_else(objects: list[Object]) -> None:
    opened = {
        port["containerPort"]: port["hostPort"]
        for pod in _deployments(objects).values()
        for container in _containers(pod)
        for port in container.get("ports", ())
        if "hostPort" in port
    }
    assert opened == {8000: 8001} | {port: port for port in (9090, 8002, 8005, 8006, 8007, 8008)}


def test_pods_need_no_root_and_write_to_volumes_only(objects: list[Object]) -> None:
    for name, pod in _deployments(objects).items():
        assert pod["securityContext"]["runAsNonRoot"], name
        assert pod["securityContext"]["runAsUser"] > 0, name
        for container in _containers(pod):
            context = container["securityContext"]
            assert context["readOnlyRootFilesystem"], name
            assert not context["allowPrivilegeEscalation"], name
            assert context["capabilities"] == {"drop": ["ALL"]}, name


def test_webhooks_are_called_through_their_service_by_an_api_server_without_a_certificate(
    objects: list[Object],
) -> None:
    hooks = [obj for obj in objects if obj["kind"] == "ValidatingWebhookConfiguration"]
    assert {hook["metadata"]["name"] for hook in hooks} == {"eviction-webhook", "rule-loader"}
    for hook in hooks:
        client = hook["webhooks"][0]["clientConfig"]
        assert client["service"]["namespace"] == "monitoring"
        assert client["caBundle"]
        assert "url" not in client
    secrets = {obj["metadata"]["name"]: obj["data"] for obj in objects if obj["kind"] == "Secret"}
    assert set(secrets) == {"eviction-webhook-tls", "rule-loader-tls"}
    assert {data["client-ca.crt"] for data in secrets.values()} == {""}


def test_pods_listen_everywhere_within_their_own_network(objects: list[Object]) -> None:
    found = {obj["metadata"]["namespace"]: obj["data"] for obj in objects if obj["metadata"]["name"] == "lab"}
    assert set(found) == {"monitoring", "kube-descheduler"}
    assert {data["LAB_LISTEN_ADDRESS"] for data in found.values()} == {"0.0.0.0"}


def test_kwok_has_the_stages_of_local_and_gives_its_nodes_no_address(objects: list[Object]) -> None:
    (config,) = (obj for obj in objects if obj["kind"] == "ConfigMap" and obj["metadata"]["name"] == "kwok")
    assert config["data"] == {"kwok.yaml": "a: 1"}
    arguments = _deployments(objects)["kwok"]["containers"][0]["args"]
    assert not [argument for argument in arguments if argument.startswith(("--node-ip", "--node-port"))]


def test_kind_s_own_pods_stay_off_simulated_nodes(objects: list[Object]) -> None:
    parts = {obj["metadata"]["name"]: obj for obj in objects if obj["kind"] == "DaemonSet"}
    assert set(parts) == {"kindnet", "kube-proxy"}
    for part in parts.values():
        affinity = part["spec"]["template"]["spec"]["affinity"]["nodeAffinity"]
        (term,) = affinity["requiredDuringSchedulingIgnoredDuringExecution"]["nodeSelectorTerms"]
        assert term["matchExpressions"] == [{"key": "type", "operator": "NotIn", "values": ["kwok"]}]


# --- the cluster ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("said", "state"), [("", ABSENT), ("running\n", RUNNING), ("exited\n", STOPPED), ("created\n", STOPPED)]
)
def test_state_is_what_the_engine_says_of_the_node(world: World, said: str, state: str) -> None:
    world.node.write_text(said)
    assert world.cluster("boxed").state() == state


def test_failure_of_kind_is_one_line_with_its_own_reason(world: World) -> None:
    (world.folder / "fails").touch()
    LabFolder("boxed").path.mkdir(parents=True)
    with pytest.raises(ClusterError, match=r"creating labkit-boxed failed: .*no room: disk is full; .*kind\.log"):
        world.cluster("boxed").create(CONFIG, node_image="node:1")


def test_failed_up_removes_the_cluster_and_leaves_the_log(world: World) -> None:
    (world.folder / "fails").touch()
    with pytest.raises(ClusterError, match="no room"):
        cluster.up(CONFIG)
    assert world.calls == ["create", "delete"]
    assert not world.node.exists()
    folder = LabFolder("boxed")
    assert not folder.exists
    assert "no room" in folder.kind_log.read_text()
    assert cluster.running("boxed") is None


@pytest.mark.parametrize(("step", "is_kept"), [("images.load", False), ("_furnish", True)], ids=["images", "add-ons"])
def test_cluster_without_its_images_is_removed_and_one_without_an_add_on_stays_for_a_look(
    world: World, monkeypatch: pytest.MonkeyPatch, step: str, is_kept: bool
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise ClusterError("no space left on device")

    monkeypatch.setattr(RunningLab, "kube", None)
    monkeypatch.setattr(lifecycle, "_wait_for_api", lambda kube: None)
    monkeypatch.setattr(images, "load", lambda *_, **__: None)
    monkeypatch.setattr(f"labkit.cluster.kind.lifecycle.{step}", fail)
    with pytest.raises(ClusterError, match="no space left"):
        cluster.up(CONFIG)
    assert world.calls == (["create"] if is_kept else ["create", "delete"])
    assert (world.node.exists(), LabFolder("boxed").exists) == (is_kept, is_kept)


def test_interrupted_up_ends_kind_and_removes_the_cluster(world: World) -> None:
    (world.folder / "hangs").touch()

    def interrupt() -> None:
        wait_until(lambda: world.node.exists(), timeout_seconds=20, what="kind to begin")
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=interrupt, daemon=True).start()
    with pytest.raises(KeyboardInterrupt):
        cluster.up(CONFIG)
    assert world.calls == ["create", "delete"]
    assert not world.node.exists()
    assert not LabFolder("boxed").exists


def test_cluster_of_somebody_else_is_left_alone(world: World) -> None:
    world.node.write_text("running\n")
    with pytest.raises(ClusterError, match="kind delete cluster --name labkit-boxed"):
        cluster.up(CONFIG)
    assert world.calls == []
    assert world.node.exists()
    assert cluster.down("boxed") is False
    assert world.node.exists()


@pytest.mark.parametrize("state", ["running\n", ""], ids=["half made", "gone"])
def test_cluster_that_was_never_finished_or_is_gone_is_made_anew(world: World, state: str) -> None:
    folder = LabFolder("boxed")
    folder.path.mkdir(parents=True)
    folder.write_record(LabRecord(CONFIG, 0.0, "", "docker"))
    folder.kind_file.write_text("a: 1")
    world.node.write_text(state)
    (world.folder / "fails").touch()
    with pytest.raises(ClusterError, match="no room"):
        cluster.up(CONFIG)
    assert world.calls[:2] == ["delete", "create"]


@pytest.fixture
def deleted(world: World) -> LabFolder:
    """A lab whose cluster was deleted by kind's own command."""
    folder = LabFolder("boxed")
    folder.path.mkdir(parents=True)
    folder.write_record(LabRecord(CONFIG, 0.0, "", "docker"))
    folder.kind_file.write_text("a: 1")
    folder.kubeconfig.write_text("a: 1")
    return folder


def test_lab_that_kind_deleted_is_forgotten_with_its_choices(world: World, deleted: LabFolder) -> None:
    (world.folder / "fails").touch()
    with pytest.raises(ClusterError, match="no room"):
        cluster.up(LabConfig(name="boxed", address="127.0.0.173", tempo=3, backend="kind"))
    assert world.asked == 1
    assert "127.0.0.173" in (world.folder / "configuration").read_text()


def test_lab_that_kind_deleted_makes_room_for_one_of_the_other_backend(
    world: World, deleted: LabFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local, "up", lambda config, **options: deleted.exists)
    assert cluster.up(LabConfig(name="boxed")) is False


def test_running_cluster_makes_no_room(world: World, deleted: LabFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    world.node.write_text("running\n")
    with pytest.raises(InputError, match="with backend local, found it with backend kind"):
        cluster.up(LabConfig(name="boxed", address=ADDRESS, tempo=15))
    assert world.node.exists()


def test_other_choices_for_a_cluster_that_runs_are_refused(world: World, deleted: LabFolder) -> None:
    world.node.write_text("running\n")
    with pytest.raises(InputError, match="with tempo 3, found it with tempo 15"):
        cluster.up(LabConfig(name="boxed", address=ADDRESS, tempo=3, backend="kind"))
    assert world.calls == []


def test_down_without_the_engine_says_what_is_left(
    world: World, deleted: LabFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    def gone(environ: object) -> Engine:
        raise ToolError("wanted docker, found none on PATH: install it")

    monkeypatch.setattr(lifecycle.engines, "find", gone)
    with pytest.raises(ToolError, match=rf"install it; .* remove {deleted.path}"):
        cluster.down("boxed")
    assert deleted.exists


def test_interrupted_removal_is_carried_through(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kind_cluster_module, "STOP_SECONDS", 0.1)
    world.node.write_text("running\n")
    (world.folder / "slow").touch()
    LabFolder("boxed").path.mkdir(parents=True)

    def interrupt() -> None:
        wait_until(lambda: world.calls, timeout_seconds=20, what="kind to begin")
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=interrupt, daemon=True).start()
    with pytest.raises(KeyboardInterrupt):
        world.cluster("boxed").delete()
    assert not world.node.exists()


def test_pods_that_run_in_containers_of_the_past_are_waited_for(world: World) -> None:
    def pod(name: str, **state: object) -> Object:
        status = {"containerID": f"containerd://{name}", "state": state}
        return {"metadata": {"name": name}, "status": {"containerStatuses": [status]}}

    looks = [[pod("gone", running={}), pod("new", running={})], [pod("gone", waiting={}), pod("new", running={})]]

    class Server:
        def list(self, *_: object, **__: object) -> Object:
            return {"items": looks.pop(0)}

    lab = RunningLab(LabRecord(CONFIG, 0.0, "", "docker"), LabFolder("boxed"))
    lab.__dict__["kube"] = Server()
    (world.folder / "containers").write_text("new\nother\n")
    lifecycle._wait_for_true_status(lab, world.cluster("boxed"), timeout_seconds=30)
    assert looks == []


def test_taken_port_is_named_before_anything_is_made(world: World) -> None:
    with (
        socket.create_server((ADDRESS, 9090)),
        pytest.raises(ClusterError, match=rf"9090 \(for prometheus\) by \S+ \(pid {os.getpid()}\)"),
    ):
        cluster.up(CONFIG)
    assert world.calls == []
    assert not LabFolder("boxed").exists


def test_lab_of_the_other_backend_is_not_taken_over(world: World) -> None:
    folder = LabFolder("boxed")
    folder.path.mkdir(parents=True)
    folder.write_record(LabRecord(LabConfig(name="boxed", address=ADDRESS, tempo=15), 0.0, "/tools"))
    with pytest.raises(InputError, match="with backend kind, found it with backend local"):
        cluster.up(CONFIG)
    assert world.calls == []


def test_damaged_record_does_not_keep_the_cluster(world: World) -> None:
    folder = LabFolder("boxed")
    folder.path.mkdir(parents=True)
    folder.record_file.write_text("{")
    folder.kind_file.write_text("a: 1")
    world.node.write_text("running\n")
    assert cluster.down("boxed") is True
    assert world.calls == ["delete"]
    assert not world.node.exists()


def test_shell_knows_the_engine_that_the_cluster_is_in(world: World) -> None:
    folder = LabFolder("boxed")
    lab = RunningLab(LabRecord(CONFIG, 0.0, "", "podman"), folder)
    assert lab.variables["KIND_EXPERIMENTAL_PROVIDER"] == "podman"
    assert lab.addon_node == "labkit-boxed-control-plane"
    local = RunningLab(LabRecord(LabConfig(name="boxed"), 0.0, ""), folder)
    assert "KIND_EXPERIMENTAL_PROVIDER" not in local.variables
    assert local.addon_node == HOST_NODE
