"""The pure parts of the host node agent, and those that need no cluster."""

from __future__ import annotations

import errno
import json
import os
import queue
import shutil
import socket
import ssl
import subprocess
import sys
import tempfile
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from labkit.clock import WALL_CLOCK, VirtualClock, wait_until
from labkit.cluster.hostnode import worker
from labkit.cluster.hostnode.access import logs_object, port_forward_object, write_access
from labkit.cluster.hostnode.backoff import restart_backoff, retry_backoff
from labkit.cluster.hostnode.config import AgentConfig, read_config
from labkit.cluster.hostnode.container import Node, PodFolders
from labkit.cluster.hostnode.content import FileContent, Sources, VolumeError, volume_files
from labkit.cluster.hostnode.environment import (
    ContainerConfigError,
    build_command,
    build_environment,
    expand,
    field_value,
    object_data,
)
from labkit.cluster.hostnode.events import Recorder
from labkit.cluster.hostnode.fields import ignored_fields, refused_fields
from labkit.cluster.hostnode.forwarder import Forwarder, is_port_free
from labkit.cluster.hostnode.hosts import hosts_text, nsswitch_text
from labkit.cluster.hostnode.kubelet import KubeletServer, server_context
from labkit.cluster.hostnode.leftovers import SUFFIX, end_leftovers, start_ticks, write_down
from labkit.cluster.hostnode.life import Life
from labkit.cluster.hostnode.logreader import LogOptions, read_log
from labkit.cluster.hostnode.logs import MAX_LINE_BYTES, ContainerLog, LineSplitter
from labkit.cluster.hostnode.node import node_object, node_status
from labkit.cluster.hostnode.outbox import Outbox
from labkit.cluster.hostnode.probes import LIVENESS, READINESS, ProbeSpec, Verdict, check_http, check_tcp, port_number
from labkit.cluster.hostnode.sandbox import Bubblewrap, Mount, find_bubblewrap, root_arguments
from labkit.cluster.hostnode.spawner import Spawner
from labkit.cluster.hostnode.status import (
    INIT,
    MAIN,
    SIDECAR,
    ContainerState,
    pod_phase,
    pod_status,
    running,
    terminated,
    waiting,
)
from labkit.cluster.hostnode.volumes import PodObjects, PodVolumes, write_files
from labkit.cluster.hostnode.worker import PodWorker
from labkit.cluster.pki import Authority
from labkit.errors import InputError, KubeError, ToolError

ROOT = Path(__file__).parents[1]
NOW = 1_700_000_000.0


def make_pod(**spec: Any) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": "web-1", "namespace": "shop", "uid": "u-1", "labels": {"b": "2", "a": 'x"y'}, "generation": 3,
        },
        "spec": {"containers": [{"name": "web", "image": "i"}], "nodeName": "lab-host", **spec},
    }  # fmt: skip


def config_values(**changes: Any) -> dict[str, Any]:
    return {
        "node_name": "lab-host", "address": "127.0.0.9", "kubeconfig": "/k", "state_dir": "/s", "tools_dir": "/t",
        "path": ["/p", "/t"], "api_server_host": "127.0.0.9", "api_server_port": 16443, "ca_file": "/ca",
        "kwok_port": 20247, "logs_dir": "/l",
    } | changes  # fmt: skip


# --- configuration ---------------------------------------------------------------------------------------


def test_configuration_is_read_with_defaults(tmp_path: Path) -> None:
    path = tmp_path / "hostnode.json"
    path.write_text(json.dumps(config_values(static_dir_prometheus=None)))
    config = read_config(path)
    assert config.search_path == "/p:/t:/usr/local/bin:/usr/bin:/bin"
    assert config.cluster_domain == "cluster.local"
    assert config.static_dir_prometheus == ""
    assert config.node_port == 20247


def test_own_kubelet_port_is_the_nodes() -> None:
    config = AgentConfig.from_json(config_values(kubelet_port=20250, cert_file="/c", key_file="/k"))
    assert config.node_port == 20250


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"colour": "red"}, "unknown key 'colour'"),
        ({"address": "10.0.0.1"}, "wanted a loopback address"),
        ({"address": "nowhere"}, "wanted a loopback address"),
        ({"kwok_port": "20247"}, "kwok_port: wanted int"),
        ({"kwok_port": 0}, "kwok_port: wanted a port"),
        ({"path": "/bin"}, "path: wanted a list of folders"),
        ({"state_dir": "relative"}, "state_dir: wanted an absolute path"),
        ({"kubelet_port": 20250}, "wanted cert_file and key_file"),
    ],
)
def test_wrong_configuration_is_told(changes: dict[str, Any], complaint: str) -> None:
    with pytest.raises(InputError, match=complaint):
        AgentConfig.from_json(config_values(**changes))


def test_missing_key_and_file_are_told(tmp_path: Path) -> None:
    values = config_values()
    del values["ca_file"]
    with pytest.raises(InputError, match="lacks the key 'ca_file'"):
        AgentConfig.from_json(values)
    with pytest.raises(InputError, match=r"wanted the host node's configuration in .*none\.json"):
        read_config(tmp_path / "none.json")


# --- fields ----------------------------------------------------------------------------------------------


def test_ordinary_pod_is_accepted() -> None:
    container = {
        "name": "a", "image": "b", "resources": {"limits": {"cpu": "1"}}, "securityContext": {"runAsUser": 1},
        "ports": [{"containerPort": 80, "hostPort": 81}], "stdin": False, "tty": False,
        "livenessProbe": {"httpGet": {"port": 80}, "periodSeconds": 1}, "terminationMessagePath": "/dev/x",
    }  # fmt: skip
    spec = {
        "containers": [container],
        "tolerations": [{"operator": "Exists"}],
        "hostPID": False,
        "dnsPolicy": "Default",
    }
    assert refused_fields(spec) == []


@pytest.mark.parametrize(
    ("spec", "paths"),
    [
        ({"hostPID": True}, ["spec.hostPID"]),
        ({"volumes": [{"name": "v", "hostPath": {"path": "/"}}]}, ["spec.volumes[0].hostPath"]),
        (
            {"containers": [{"name": "a", "livenessProbe": {"grpc": {"port": 1}}}]},
            ["spec.containers[0].livenessProbe.grpc"],
        ),
        (
            {"containers": [{"name": "a"}, {"name": "b", "env": [{"valueFrom": {"resourceFieldRef": {"a": "b"}}}]}]},
            ["spec.containers[1].env[0].valueFrom.resourceFieldRef"],
        ),
        ({"hostUsers": True, "hostAliases": [{"ip": "::1"}]}, ["spec.hostUsers", "spec.hostAliases"]),
    ],
    ids=["pid", "host-path", "grpc", "resource-field", "two"],
)  # fmt: skip
def test_unsupported_fields_are_named(spec: dict[str, Any], paths: list[str]) -> None:
    assert refused_fields({"containers": [{"name": "a"}]} | spec) == paths


def test_document_lists_every_ignored_field() -> None:
    text = (ROOT / "docs" / "host-node.md").read_text()
    names = {path.rpartition(".")[2] for path, _ in ignored_fields()}
    missing = sorted(name for name in names if f"`{name}`" not in text)
    assert missing == []


def test_every_addon_of_the_lab_is_supported() -> None:
    import yaml

    specs = {}
    for path in sorted((ROOT / "k8s").rglob("*.yaml")):
        for obj in yaml.safe_load_all(path.read_text()):
            if obj and obj.get("kind") == "Deployment":
                specs[obj["metadata"]["name"]] = refused_fields(obj["spec"]["template"]["spec"])
    assert specs
    assert {name: refused for name, refused in specs.items() if refused} == {}


# --- environment -----------------------------------------------------------------------------------------

OBJECTS: dict[tuple[str, str], dict[str, str]] = {
    ("configmap", "lab"): {"LAB_TEMPO": "15", "other": "o"},
    ("secret", "hush"): {"word": "psst"},
}


def lookup(kind: str, name: str) -> Mapping[str, str] | None:
    return OBJECTS.get((kind, name))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("$(A)", "1"), ("x$(A)y$(B)", "x1y2"), ("$(C)", "$(C)"), ("$$(A)", "$(A)"), ("$$$(A)", "$1"), ("$A", "$A"),
        ("100$", "100$"), ("$(A", "$(A"),
    ],
)  # fmt: skip
def test_references_are_expanded_as_kubernetes_does(text: str, expected: str) -> None:
    assert expand(text, {"A": "1", "B": "2"}) == expected


def test_environment_comes_from_all_sources_in_order() -> None:
    container = {
        "name": "web",
        "envFrom": [
            {"configMapRef": {"name": "lab"}},
            {"secretRef": {"name": "hush"}, "prefix": "S_"},
            {"configMapRef": {"name": "none", "optional": True}},
        ],
        "env": [
            {"name": "LAB_TEMPO", "value": "1"},
            {"name": "TEXT", "value": "$(LAB_TEMPO)-$(LATER)-$(PATH)"},
            {"name": "LATER", "value": "x"},
            {"name": "WORD", "valueFrom": {"secretKeyRef": {"name": "hush", "key": "word"}}},
            {"name": "NONE", "valueFrom": {"configMapKeyRef": {"name": "lab", "key": "no", "optional": True}}},
            {"name": "NODE", "valueFrom": {"fieldRef": {"fieldPath": "spec.nodeName"}}},
        ],
    }
    values = build_environment(make_pod(), container, lookup, base={"PATH": "/bin"}, address="127.0.0.9")
    assert values == {
        "PATH": "/bin", "LAB_TEMPO": "1", "other": "o", "S_word": "psst", "TEXT": "1-$(LATER)-/bin", "LATER": "x",
        "WORD": "psst", "NODE": "lab-host",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("container", "complaint"),
    [
        ({"envFrom": [{"configMapRef": {"name": "none"}}]}, 'configmap "none" not found'),
        (
            {"env": [{"name": "A", "valueFrom": {"secretKeyRef": {"name": "none", "key": "k"}}}]},
            'secret "none" not found',
        ),
        (
            {"env": [{"name": "A", "valueFrom": {"secretKeyRef": {"name": "hush", "key": "k"}}}]},
            "couldn't find key k in secret shop/hush",
        ),
        (
            {"env": [{"name": "A", "valueFrom": {"fieldRef": {"fieldPath": "status.moon"}}}]},
            "'status.moon' is not supported",
        ),
    ],
    ids=["env-from", "secret", "key", "field"],
)  # fmt: skip
def test_what_is_missing_is_named(container: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ContainerConfigError, match=complaint):
        build_environment(make_pod(), {"name": "web", **container}, lookup, base={}, address="127.0.0.9")


def test_command_is_expanded_and_must_be_there() -> None:
    container = {"name": "web", "command": ["run", "--at=$(A)"], "args": ["$(A)", "$$(A)"]}
    assert build_command(container, {"A": "1"}) == ["run", "--at=1", "1", "$(A)"]
    with pytest.raises(ContainerConfigError, match="'web' names no command"):
        build_command({"name": "web", "args": ["x"]}, {})


def test_fields_of_the_pod_can_be_referred_to() -> None:
    pod = make_pod()
    assert field_value(pod, "metadata.labels['b']", address="a") == "2"
    assert field_value(pod, "metadata.labels['none']", address="a") == ""
    assert field_value(pod, "metadata.labels", address="a") == 'a="x\\"y"\nb="2"'
    assert field_value(pod, "status.podIP", address="127.0.0.9") == "127.0.0.9"


def test_secret_and_binary_data_are_decoded() -> None:
    assert object_data({"kind": "Secret", "data": {"k": "aGk="}}) == {"k": b"hi"}
    assert object_data({"kind": "ConfigMap", "data": {"t": "é"}, "binaryData": {"b": "AP8="}}) == {
        "t": "é".encode(),
        "b": b"\x00\xff",
    }


# --- volumes ---------------------------------------------------------------------------------------------


def sources(asked: list[tuple[str, int]] | None = None) -> Sources:
    def token(audience: str, seconds: int) -> str:
        if asked is not None:
            asked.append((audience, seconds))
        return "t.o.k"

    def files(kind: str, name: str) -> dict[str, bytes] | None:
        found = lookup(kind, name)
        return None if found is None else {key: value.encode() for key, value in found.items()}

    return Sources(files, token, "127.0.0.9")


def test_config_map_volume_has_items_and_modes() -> None:
    volume = {
        "name": "v",
        "configMap": {"name": "lab", "defaultMode": 0o600, "items": [{"key": "other", "path": "a/b"}]},
    }
    assert volume_files(make_pod(), volume, sources()) == {"a/b": FileContent(b"o", 0o600)}
    volume["configMap"]["items"][0]["mode"] = 0o400  # type: ignore[index]
    assert volume_files(make_pod(), volume, sources()) == {"a/b": FileContent(b"o", 0o400)}


def test_projected_volume_joins_its_sources() -> None:
    asked: list[tuple[str, int]] = []
    projected = {
        "defaultMode": 0o444,
        "sources": [
            {"serviceAccountToken": {"path": "token", "expirationSeconds": 3607}},
            {"configMap": {"name": "lab", "items": [{"key": "other", "path": "ca.crt"}]}},
            {"downwardAPI": {"items": [{"path": "namespace", "fieldRef": {"fieldPath": "metadata.namespace"}}]}},
            {"secret": {"name": "none", "optional": True}},
        ],
    }
    files = volume_files(make_pod(), {"name": "v", "projected": projected}, sources(asked))
    assert {path: content.data for path, content in files.items()} == {
        "token": b"t.o.k",
        "ca.crt": b"o",
        "namespace": b"shop",
    }
    assert {content.mode for content in files.values()} == {0o444}
    assert asked == [("", 3607)]


@pytest.mark.parametrize(
    ("volume", "complaint"),
    [
        ({"secret": {"secretName": "none"}}, 'secret "none" not found'),
        ({"configMap": {"name": "lab", "items": [{"key": "no", "path": "x"}]}}, "non-existent key: no"),
        ({"configMap": {"name": "lab", "items": [{"key": "other", "path": "../x"}]}}, "within the volume"),
        ({"configMap": {"name": "lab", "items": [{"key": "other", "path": "/x"}]}}, "within the volume"),
    ],
)
def test_volume_that_cannot_be_filled_is_told(volume: dict[str, Any], complaint: str) -> None:
    with pytest.raises(VolumeError, match=complaint):
        volume_files(make_pod(), {"name": "v", **volume}, sources())


def test_files_are_replaced_all_at_once(tmp_path: Path) -> None:
    folder = tmp_path / "v"
    write_files(folder, {"a": FileContent(b"1", 0o644), "d/x": FileContent(b"2", 0o600)})
    assert (folder / "a").read_bytes() == b"1"
    assert (folder / "d" / "x").stat().st_mode & 0o777 == 0o600
    first = os.readlink(folder / "..data")
    write_files(folder, {"b": FileContent(b"3", 0o444)})
    assert os.readlink(folder / "..data") != first
    assert sorted(entry.name for entry in folder.iterdir()) == ["..data", os.readlink(folder / "..data"), "b"]
    assert (folder / "b").read_bytes() == b"3"


class FakeKube:
    """ConfigMaps and tokens out of a dict; can be away."""

    def __init__(self) -> None:
        self.config_maps: dict[str, dict[str, str]] = {}
        self.error: KubeError | None = None
        self.tokens = 0
        self.requests = 0
        self.calls: list[tuple[str, Any]] = []

    def _check(self) -> None:
        if self.error is not None:
            raise self.error

    def request(self, method: str, path: str, *, body: Any = None, timeout_seconds: float = 0) -> dict[str, Any]:
        self.requests += 1
        self._check()
        name = path.rpartition("/")[2]
        if method == "POST":
            self.calls.append(("POST", body))
            self.tokens += 1
            return {"status": {"token": f"token-{self.tokens}"}}
        if name not in self.config_maps:
            raise KubeError("not found", status=404)
        return {"data": self.config_maps[name]}

    def create(self, resource: Any, obj: Any, namespace: str | None = None, **options: Any) -> dict[str, Any]:
        self._check()
        self.calls.append(("create", obj))
        return {}

    def patch(
        self, resource: Any, name: str, patch: Any, namespace: str | None = None, **options: Any
    ) -> dict[str, Any]:
        self._check()
        self.calls.append(("patch", patch))
        return {}


def pod_volumes(kube: Any, folder: Path, clock: Any = WALL_CLOCK) -> PodVolumes:
    pod = make_pod(volumes=[{"name": "cm", "configMap": {"name": "lab"}}, {"name": "tmp", "emptyDir": {}}])
    return PodVolumes(pod, folder, PodObjects(kube, pod, clock), "127.0.0.9")


def test_changed_config_map_reaches_a_filled_volume(tmp_path: Path) -> None:
    kube = FakeKube()
    kube.config_maps["lab"] = {"a": "1"}
    volumes = pod_volumes(kube, tmp_path)
    volumes.fill()
    kube.config_maps["lab"] = {"a": "2"}
    volumes.fill()
    assert (tmp_path / "cm" / "a").read_text() == "2"


def test_volumes_hold_what_they_held_while_the_server_is_away(tmp_path: Path) -> None:
    kube = FakeKube()
    kube.config_maps["lab"] = {"a": "1"}
    volumes = pod_volumes(kube, tmp_path)
    volumes.fill()
    kube.error = KubeError("away", status=0)
    requests = kube.requests
    volumes.fill()
    volumes.fill()
    assert (tmp_path / "cm" / "a").read_text() == "1"
    assert kube.requests == requests + 1  # the second time nobody is asked: each question may take seconds
    with pytest.raises(KubeError, match="away"):
        pod_volumes(kube, tmp_path).fill()


def test_mounts_are_read_only_but_for_empty_dirs(tmp_path: Path) -> None:
    kube = FakeKube()
    kube.config_maps["lab"] = {"a": "1"}
    volumes = pod_volumes(kube, tmp_path)
    volumes.fill()
    wanted = [
        {"name": "cm", "mountPath": "/c"},
        {"name": "cm", "mountPath": "/one", "subPath": "a"},
        {"name": "tmp", "mountPath": "/t"},
        {"name": "tmp", "mountPath": "/r", "readOnly": True, "subPath": "deep/er"},
    ]
    mounts = volumes.mounts({"name": "web", "volumeMounts": wanted})
    assert [(mount.target, mount.read_only) for mount in mounts] == [
        ("/c", True),
        ("/one", True),
        ("/t", False),
        ("/r", True),
    ]
    assert Path(mounts[1].source).read_text() == "1"
    assert Path(mounts[3].source).is_dir()
    with pytest.raises(VolumeError, match="the volume 'no', which the pod lacks"):
        volumes.mounts({"name": "web", "volumeMounts": [{"name": "no", "mountPath": "/x"}]})
    with pytest.raises(VolumeError, match="subPath 'no' is not in the volume"):
        volumes.mounts({"name": "web", "volumeMounts": [{"name": "cm", "mountPath": "/x", "subPath": "no"}]})


def test_token_is_renewed_before_it_expires() -> None:
    kube, clock = FakeKube(), VirtualClock(1000.0)
    objects = PodObjects(kube, make_pod(), clock)  # type: ignore[arg-type]
    assert objects.token("", 1000) == "token-1"
    clock.wait(799)
    assert objects.token("", 1000) == "token-1"
    clock.wait(2)
    assert objects.token("", 1000) == "token-2"
    request = kube.calls[0][1]["spec"]
    assert request["boundObjectRef"]["uid"] == "u-1"
    assert "audiences" not in request


# --- hosts -----------------------------------------------------------------------------------------------


def test_hosts_file_knows_every_service() -> None:
    services = [
        {"metadata": {"namespace": "monitoring", "name": "prometheus"}},
        {"metadata": {"namespace": "shop", "name": "till"}},
    ]
    text = hosts_text(services, namespace="shop", address="127.0.0.9", cluster_domain="cluster.local", host_name="me")
    names = {word: line.split()[0] for line in text.splitlines() for word in line.split()[1:]}
    expected = (
        "prometheus.monitoring.svc", "prometheus.monitoring.svc.cluster.local", "prometheus.monitoring",
        "till", "till.shop",
    )  # fmt: skip
    assert {name: names.get(name) for name in expected} == dict.fromkeys(expected, "127.0.0.9")
    assert "prometheus" not in names
    assert names["localhost"] == "::1"
    assert "127.0.0.1 localhost" in text


def test_names_are_looked_up_in_files_first() -> None:
    text = nsswitch_text("passwd: files\nhosts: mymachines resolve [!UNAVAIL=return] files dns\n")
    assert text == "passwd: files\nhosts: files dns\n"


# --- the root --------------------------------------------------------------------------------------------


class Tree:
    """A file tree out of a dict: None is a file, a string a link, a dict a folder."""

    def __init__(self, tree: dict[str, Any]) -> None:
        self._tree = tree

    def _at(self, path: str) -> Any:
        node: Any = self._tree
        for part in Path(path).parts[1:]:
            if not isinstance(node, dict) or part not in node:
                raise FileNotFoundError(path)
            node = node[part]
        return node

    def entries(self, folder: str) -> list[str]:
        return sorted(self._at(folder))

    def link_of(self, path: str) -> str | None:
        try:
            node = self._at(path)
        except FileNotFoundError:
            return None
        return node if isinstance(node, str) else None

    def exists(self, path: str) -> bool:
        try:
            self._at(path)
        except FileNotFoundError:
            return False
        return True


HOST = Tree(
    {
        "bin": "usr/bin", "usr": {"bin": {"sh": None}}, "etc": {"hosts": None, "ssl": {}, "os": "../usr/os"},
        "run": {"lock": {}}, "var": {"run": "/run", "lib": {}}, "proc": {}, "dev": {}, "tmp": {"lab": {}},
    }
)  # fmt: skip


def arguments(*mounts: Mount, working_dir: str = "/", kept: tuple[str, ...] = ()) -> str:
    return " ".join(root_arguments(mounts, working_dir=working_dir, kept=kept, files=HOST))


def test_top_level_folders_are_bound_and_links_kept() -> None:
    words = arguments()
    assert words.startswith(
        "--symlink usr/bin /bin --ro-bind-try /etc /etc --ro-bind-try /run /run --ro-bind-try /usr /usr"
    )
    assert words.endswith("--dev-bind /dev /dev --perms 1777 --tmpfs /tmp")


def test_mount_at_a_path_that_the_host_lacks_opens_nothing() -> None:
    words = arguments(Mount("/s/v", "/policy-dir"))
    assert "--ro-bind-try /etc /etc" in words
    assert words.endswith("--ro-bind /s/v /policy-dir")


def test_mount_below_a_host_folder_opens_it() -> None:
    words = arguments(Mount("/s/v", "/etc/prometheus", read_only=False))
    assert (
        "--dir /etc --ro-bind-try /etc/hosts /etc/hosts --symlink ../usr/os /etc/os --ro-bind-try /etc/ssl /etc/ssl"
        in words
    )
    assert words.endswith("--bind /s/v /etc/prometheus")


def test_mount_follows_the_hosts_links() -> None:
    words = arguments(Mount("/s/v", "/var/run/secrets/token"))
    assert "--dir /run --ro-bind-try /run/lock /run/lock" in words
    assert words.endswith("--ro-bind /s/v /run/secrets/token")


def test_mount_over_something_opens_nothing() -> None:
    words = arguments(Mount("/s/hosts", "/etc/hosts"))
    assert "--ro-bind-try /etc /etc" in words
    assert words.endswith("--ro-bind /s/hosts /etc/hosts")


def test_outer_mounts_come_before_inner_ones() -> None:
    words = arguments(Mount("/s/in", "/data/in"), Mount("/s/out", "/data", read_only=False))
    assert words.endswith("--bind /s/out /data --ro-bind /s/in /data/in")


def test_working_folder_is_made_where_it_is_missing() -> None:
    assert arguments(working_dir="/some/where").endswith("--dir /some/where")
    assert "--dir" not in arguments(working_dir="/usr/bin")
    assert not arguments(Mount("/s", "/data"), working_dir="/data/x").endswith("--dir /data/x")


def test_lab_below_tmp_stays_visible() -> None:
    words = arguments(Mount("/s/v", "/tmp/own"), kept=("/tmp/lab", "/usr/bin", "/tmp/none"))
    assert words.endswith("--perms 1777 --tmpfs /tmp --ro-bind /tmp/lab /tmp/lab --ro-bind /s/v /tmp/own")


@pytest.fixture(scope="module")
def bubblewrap() -> Bubblewrap:
    try:
        return find_bubblewrap()
    except ToolError as error:
        pytest.skip(str(error))


LOOK = """
import json, os, pathlib
def write(path):
    try:
        pathlib.Path(path).write_text('x')
        return True
    except OSError:
        return False
print(json.dumps({
    'hosts': pathlib.Path('/etc/hosts').read_text(),
    'new': pathlib.Path('/etc/brand-new/file').read_text(),
    'token': pathlib.Path('/var/run/secrets/kubernetes.io/serviceaccount/file').read_text(),
    'cwd': os.getcwd(),
    'can_write': [write('/data/x'), write('/tmp/x'), write('/etc/brand-new/x'), write('/usr/x')],
    'pid': os.getpid(),
}))
"""
LOOKED = {
    "hosts": "1.2.3.4 x\n", "new": "here", "token": "here", "cwd": "/some/where",
    "can_write": [True, True, False, False], "pid": 2,
}  # fmt: skip


def look_command(bubblewrap: Bubblewrap, folder: Path, python: str) -> list[str]:
    for name in ("data", "ro"):
        (folder / name).mkdir(mode=0o777)
        (folder / name).chmod(0o777)
    (folder / "ro" / "file").write_text("here")
    (folder / "hosts").write_text("1.2.3.4 x\n")
    mounts = [
        Mount(str(folder / "data"), "/data", read_only=False),
        Mount(str(folder / "ro"), "/etc/brand-new"),
        Mount(str(folder / "ro"), "/var/run/secrets/kubernetes.io/serviceaccount"),
        Mount(str(folder / "hosts"), "/etc/hosts"),
    ]
    kept = (sys.prefix, sys.base_prefix)
    return bubblewrap.arguments([python, "-c", LOOK], mounts, working_dir="/some/where", kept=kept)


def test_container_has_a_root_of_its_own(bubblewrap: Bubblewrap, tmp_path: Path) -> None:
    done = subprocess.run(
        look_command(bubblewrap, tmp_path, sys.executable), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == LOOKED
    assert not Path("/etc/brand-new").exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_root_of_its_own_needs_no_privileges(bubblewrap: Bubblewrap, tmp_path: Path) -> None:
    setpriv, python = shutil.which("setpriv"), "/usr/bin/python3"
    if setpriv is None or not Path(python).exists():
        pytest.skip("needs setpriv and the system's Python")
    as_nobody = [setpriv, "--reuid=65534", "--regid=65534", "--clear-groups"]
    if subprocess.run([*as_nobody, "test", "-x", bubblewrap.program], check=False).returncode:
        pytest.skip("nobody may not run this bubblewrap")
    everybodys = Path(tempfile.gettempdir())
    for folder in (tmp_path, *tmp_path.parents):
        if everybodys in folder.parents and folder.owner() == "root":
            folder.chmod(0o755)
    words = look_command(bubblewrap, tmp_path, python)
    done = subprocess.run(
        [*as_nobody, *words], capture_output=True, text=True, check=False, env={"PATH": "/usr/bin:/bin"}
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == LOOKED


# --- lives -----------------------------------------------------------------------------------------------


@pytest.fixture
def spawner() -> Iterator[Spawner]:
    """Return a spawner that is served by a thread, as tests have no main thread to give."""
    served = Spawner()
    thread = threading.Thread(target=served.run)
    thread.start()
    yield served
    served.stop()
    thread.join()


class Lives:
    """Makes lives and waits for their ends."""

    def __init__(self, spawner: Spawner, bubblewrap: Bubblewrap, folder: Path) -> None:
        self._spawner, self._bubblewrap, self.folder = spawner, bubblewrap, folder
        self.ended: queue.Queue[Life] = queue.Queue()

    def start(self, program: str) -> Life:
        def words(info_fd: int) -> list[str]:
            kept = (sys.prefix, sys.base_prefix)
            return self._bubblewrap.arguments([sys.executable, "-c", program], [], kept=kept, info_fd=info_fd)

        return Life(
            self._spawner,
            words,
            {"PATH": os.defpath},
            log_folder=self.folder / "log",
            record_file=self.folder / f"web{SUFFIX}",
            clock=WALL_CLOCK,
            on_exit=self.ended.put,
        )

    def log(self, name: str = "current.log") -> list[list[str]]:
        lines = (self.folder / "log" / name).read_text().splitlines()
        return [line.split(" ", 3)[1:] for line in lines]


@pytest.fixture
def lives(spawner: Spawner, bubblewrap: Bubblewrap, tmp_path: Path) -> Lives:
    return Lives(spawner, bubblewrap, tmp_path)


def test_life_ends_with_its_exit_code_and_a_whole_log(lives: Lives) -> None:
    life = lives.start("import sys; print('out'); print('no newline', end='', file=sys.stderr); sys.exit(3)")
    assert lives.ended.get(timeout=20) is life
    assert life.exit_code == 3
    assert life.finished_at >= life.started_at
    assert sorted(lives.log()) == [["stderr", "F", "no newline"], ["stdout", "F", "out"]]
    assert list(lives.folder.glob(f"*{SUFFIX}")) == []


GRACEFUL = """
import signal, sys, time
signal.signal(signal.SIGTERM, lambda *_: sys.exit(5))
print('up', flush=True)
time.sleep(100)
"""


def test_terminated_life_may_end_gracefully(lives: Lives) -> None:
    life = lives.start(GRACEFUL)
    wait_until(lambda: ["stdout", "F", "up"] in lives.log(), timeout_seconds=20, what="the program to be up")
    life.terminate()
    assert lives.ended.get(timeout=20).exit_code == 5


@pytest.mark.parametrize(("end", "code"), [("terminate", 143), ("kill", 137)])
def test_signals_show_in_the_exit_code(lives: Lives, end: str, code: int) -> None:
    life = lives.start("import time; print('up', flush=True); time.sleep(100)")
    wait_until(lambda: ["stdout", "F", "up"] in lives.log(), timeout_seconds=20, what="the program to be up")
    getattr(life, end)()
    assert lives.ended.get(timeout=20).exit_code == code


def test_killed_life_takes_everything_with_it(lives: Lives) -> None:
    program = "import os, time; os.fork() or os.setsid(); print(os.getpid(), flush=True); time.sleep(1000)"
    life = lives.start(program)
    wait_until(lambda: len(lives.log()) == 2, timeout_seconds=20, what="both processes")
    recorded = json.loads((lives.folder / f"web{SUFFIX}").read_text())["processes"]
    inner = life.main_pid()
    assert inner is not None
    life.kill()
    lives.ended.get(timeout=20)
    pids = [inner, *(int(pid) for pid in recorded)]
    wait_until(lambda: all(start_ticks(pid) is None for pid in pids), timeout_seconds=10, what="all processes to end")


def test_second_life_keeps_the_log_of_the_first(lives: Lives) -> None:
    for word in ("one", "two"):
        lives.start(f"print('{word}')")
        lives.ended.get(timeout=20)
    assert lives.log("previous.log") == [["stdout", "F", "one"]]
    assert lives.log() == [["stdout", "F", "two"]]


def test_lives_end_with_the_agent(bubblewrap: Bubblewrap, tmp_path: Path) -> None:
    """The program below is an agent in small: it makes a container and is killed."""
    agent = f"""
import subprocess, sys, time
words = {bubblewrap.arguments(["sleep", "1000"], [])!r}
print(subprocess.Popen(words, start_new_session=True).pid, flush=True)
time.sleep(1000)
"""
    with subprocess.Popen([sys.executable, "-c", agent], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        pid = int(process.stdout.readline())
        wait_until(lambda: _descendants(pid) >= 2, timeout_seconds=20, what="the container to run")
        process.kill()
    wait_until(lambda: start_ticks(pid) is None, timeout_seconds=10, what="the container to end with its agent")


def _descendants(pid: int) -> int:
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return len(children) + sum(_descendants(int(child)) for child in children)


def test_leftovers_are_ended_and_strangers_spared(tmp_path: Path) -> None:
    with subprocess.Popen(["sleep", "1000"]) as left, subprocess.Popen(["sleep", "1000"]) as stranger:
        write_down(tmp_path / "a" / f"web{SUFFIX}", [left.pid])
        record = json.loads((tmp_path / "a" / f"web{SUFFIX}").read_text())
        record["processes"][str(stranger.pid)] = 1  # same number, but begun at another time: somebody else
        (tmp_path / "a" / f"web{SUFFIX}").write_text(json.dumps(record))
        assert end_leftovers(tmp_path) == 1
        assert left.wait(timeout=5) == -9
        assert stranger.poll() is None
        stranger.kill()
    assert end_leftovers(tmp_path) == 0


# --- logs ------------------------------------------------------------------------------------------------


def splitted(*chunks: bytes) -> list[bytes]:
    splitter = LineSplitter("stdout")
    lines = [line for chunk in chunks for line in splitter.feed(chunk, 0)]
    return [line.split(b" ", 1)[1] for line in [*lines, *splitter.end(0)]]


def test_chunks_become_lines() -> None:
    assert splitted(b"a\nb", b"c\n", b"\nend") == [b"stdout F a\n", b"stdout F bc\n", b"stdout F \n", b"stdout F end\n"]


def test_long_line_is_written_in_parts() -> None:
    lines = splitted(b"x" * (MAX_LINE_BYTES + 10) + b"\n")
    assert [line.split(b" ")[1] for line in lines] == [b"P", b"F"]
    assert sum(len(line.split(b" ", 2)[2]) - 1 for line in lines) == MAX_LINE_BYTES + 10


def test_large_log_is_moved_aside(tmp_path: Path) -> None:
    log = ContainerLog(tmp_path, max_bytes=10)
    for text in (b"one-one\n", b"two-two\n", b"three-3\n"):
        log.write(text)
    log.close()
    assert (tmp_path / "current.log").read_bytes() == b"three-3\n"
    assert (tmp_path / "current.log.1").read_bytes() == b"two-two\n"


def test_log_goes_on_when_there_was_no_room_for_a_new_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    log = ContainerLog(tmp_path, max_bytes=10)
    log.write(b"one-one\n")
    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", full)
        for _ in range(2):
            with pytest.raises(OSError, match="No space left"):
                log.write(b"two-two\n")
    log.write(b"three-3\n")
    log.close()
    assert (tmp_path / "current.log.1").read_bytes() == b"one-one\n"
    assert (tmp_path / "current.log").read_bytes() == b"three-3\n"


LINES = (
    b"2023-11-14T22:13:20.000000001Z stdout F one\n"
    b"2023-11-14T22:13:21.500000000Z stderr P tw\n"
    b"2023-11-14T22:13:21.500000001Z stderr F o\n"
    b"2023-11-14T22:13:22.000000000Z stdout F three\n"
)


def shown(path: Path, query: dict[str, str], ended: Callable[[], bool] = lambda: True) -> bytes:
    options = LogOptions.from_query(query, now=NOW)
    return b"".join(read_log(path, options, ended=ended, idle=lambda: True))


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ({}, b"one\ntwo\nthree\n"),
        ({"tailLines": "1"}, b"three\n"),
        ({"tailLines": "0"}, b""),
        ({"limitBytes": "5"}, b"one\nt"),
        ({"sinceTime": "2023-11-14T22:13:22Z"}, b"three\n"),
        (
            {"timestamps": "true"},
            b"2023-11-14T22:13:20.000000001Z one\n"
            b"2023-11-14T22:13:21.500000000Z two\n"
            b"2023-11-14T22:13:22.000000000Z three\n",
        ),
        ({"follow": "true", "tailLines": "2"}, b"o\nthree\n"),
    ],
    ids=["all", "tail", "tail-0", "limit", "since", "timestamps", "follow"],
)
def test_log_is_shown_as_asked(tmp_path: Path, query: dict[str, str], expected: bytes) -> None:
    path = tmp_path / "current.log"
    path.write_bytes(LINES)
    assert shown(path, query) == expected


def test_since_seconds_counts_from_now() -> None:
    assert LogOptions.from_query({"sinceSeconds": "10"}, now=NOW).since == NOW - 10


@pytest.mark.parametrize("query", [{"tailLines": "x"}, {"tailLines": "-1"}, {"sinceTime": "soon"}])
def test_unreadable_log_options_are_refused(query: dict[str, str]) -> None:
    with pytest.raises(InputError, match="cannot read the log options"):
        LogOptions.from_query(query, now=NOW)


def test_followed_log_shows_what_comes_and_ends_with_the_container(tmp_path: Path) -> None:
    path = tmp_path / "current.log"
    path.write_bytes(LINES[:20])  # half a line
    steps = iter([LINES[20:], b""])
    over = False

    def idle() -> bool:
        nonlocal over
        step = next(steps)
        if step:
            with path.open("ab") as file:
                file.write(step)
        else:
            path.rename(tmp_path / "current.log.1")  # grew too large
            path.write_bytes(b"2023-11-14T22:13:23.000000000Z stdout F four\n")
            over = True
        return True

    pieces = read_log(path, LogOptions(follow=True), ended=lambda: over, idle=idle)
    # The new file is looked into only while the container runs: its lines come when the end was not yet told.
    assert b"".join(pieces).startswith(b"one\ntwo\nthree\n")


def test_follower_that_left_ends_the_reading(tmp_path: Path) -> None:
    path = tmp_path / "current.log"
    path.write_bytes(LINES)
    pieces = read_log(path, LogOptions(follow=True), ended=lambda: False, idle=lambda: False)
    assert b"".join(pieces) == b"one\ntwo\nthree\n"


# --- probes ----------------------------------------------------------------------------------------------


def test_probe_has_kubernetes_defaults() -> None:
    spec = ProbeSpec.from_container({"name": "web", "readinessProbe": {"tcpSocket": {"port": 80}}}, READINESS)
    assert spec == ProbeSpec(READINESS, {"tcpSocket": {"port": 80}}, 0.0, 10.0, 1.0, 1, 3, None)
    assert ProbeSpec.from_container({"name": "web"}, LIVENESS) is None


def test_thresholds_count_answers_in_a_row() -> None:
    verdict = Verdict(ProbeSpec(READINESS, {}, success_threshold=2, failure_threshold=3))
    decided = [verdict.take(answer) for answer in (True, False, True, True, False, False, True, False, False, False)]
    assert decided == [False, False, False, True, False, False, False, False, False, True]
    assert not verdict.passing


def test_alive_until_told_otherwise() -> None:
    assert Verdict(ProbeSpec(LIVENESS, {})).passing
    assert not Verdict(ProbeSpec(READINESS, {})).passing


def test_port_may_be_given_by_name() -> None:
    container = {"name": "web", "ports": [{"name": "http", "containerPort": 80}]}
    assert [port_number(container, port) for port in (81, "http", "82", "none")] == [81, 80, 82, None]


def test_tcp_check_tells_what_is_wrong() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert check_tcp("127.0.0.1", port, {}, 1.0) is None
    complaint = check_tcp("127.0.0.1", port, {}, 1.0)
    assert complaint is not None
    assert "refused" in complaint


def test_http_check_goes_by_the_status() -> None:
    from http.server import BaseHTTPRequestHandler, HTTPServer

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(int(self.path[1:]))
            self.end_headers()

        def log_message(self, *args: Any) -> None:
            """Say nothing."""

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        port = server.server_port
        answers = {code: check_http("127.0.0.1", port, {"path": f"/{code}"}, 2.0) for code in (200, 302, 404, 503)}
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
    assert answers == {
        200: None,
        302: None,
        404: "HTTP probe failed with statuscode: 404",
        503: "HTTP probe failed with statuscode: 503",
    }


# --- ports -----------------------------------------------------------------------------------------------


def test_forwarder_carries_both_ways_and_frees_its_port() -> None:
    def echo(server: socket.socket) -> None:
        with closing(server.accept()[0]) as peer:
            while chunk := peer.recv(100):
                peer.sendall(chunk.upper())

    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_server(("127.0.0.1", 0)) as free:
        target, port = server.getsockname()[1], free.getsockname()[1]
        free.close()
        thread = threading.Thread(target=echo, args=(server,))
        thread.start()
        forwarder = Forwarder("127.0.0.1", port, target)
        assert not is_port_free("127.0.0.1", port)
        with socket.create_connection(("127.0.0.1", port), timeout=5) as client:
            client.sendall(b"hello")
            assert client.recv(100) == b"HELLO"
            client.shutdown(socket.SHUT_WR)
            assert client.recv(100) == b""
        thread.join(5)
        forwarder.close()
        assert is_port_free("127.0.0.1", port)


# --- back-off --------------------------------------------------------------------------------------------


def test_restarts_are_paused_as_the_kubelet_does() -> None:
    backoff, now, pauses = restart_backoff(), 1000.0, []
    for _ in range(8):
        not_before = backoff.failed(now)
        pauses.append(not_before - now)
        now = not_before + 1
    assert pauses == [0, 10, 20, 40, 80, 160, 300, 300]
    assert backoff.failed(now + 601) == now + 601  # ran well for more than ten minutes


def test_retries_begin_with_a_pause() -> None:
    backoff = retry_backoff()
    assert [backoff.failed(0.0) for _ in range(7)] == [0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 10.0]


# --- status ----------------------------------------------------------------------------------------------


def state(kind: str = MAIN, policy: str = "Always", name: str = "web", **fields: Any) -> ContainerState:
    return ContainerState(name, "i", kind, policy, **fields)


def ended(code: int) -> dict[str, Any]:
    return terminated(code, NOW, NOW + 1, "host://1")


UP: dict[str, Any] = {"state": running(NOW), "has_run": True, "ready": True, "started": True}


@pytest.mark.parametrize(
    ("containers", "expected"),
    [
        ([state()], "Pending"),
        ([state(**UP)], "Running"),
        ([state(**UP), state(name="b")], "Pending"),
        ([state(policy="Never", state=ended(0), has_run=True)], "Succeeded"),
        ([state(policy="Never", state=ended(1), has_run=True)], "Failed"),
        ([state(policy="OnFailure", state=ended(1), has_run=True)], "Running"),
        ([state(state=waiting("CrashLoopBackOff"), last_state=ended(1), has_run=True)], "Running"),
        ([state(INIT, "Never", state=ended(1), has_run=True), state(policy="Never")], "Failed"),
        ([state(INIT, state=ended(1), has_run=True), state()], "Pending"),
        ([state(SIDECAR, **UP), state(policy="Never", state=ended(0), has_run=True)], "Succeeded"),
    ],
)
def test_phase_follows_the_kubelets_rules(containers: list[ContainerState], expected: str) -> None:
    assert pod_phase(containers, "Always") == expected


def status(containers: list[ContainerState], previous: Any = (), now: float = NOW, **fields: Any) -> dict[str, Any]:
    return pod_status(
        make_pod(), containers, prepared=True, address="127.0.0.9", start_time="t", now=now, previous=previous, **fields
    )


def conditions(status: dict[str, Any]) -> dict[str, tuple[str, str | None, str | None]]:
    return {entry["type"]: (entry["status"], entry["reason"], entry["message"]) for entry in status["conditions"]}


def test_ready_pod_has_all_conditions_and_no_address() -> None:
    written = status([state(**UP)])
    assert {kind: entry[0] for kind, entry in conditions(written).items()} == dict.fromkeys(
        ("PodReadyToStartContainers", "Initialized", "Ready", "ContainersReady"), "True"
    )
    assert "podIP" not in written
    assert written["observedGeneration"] == 3


def test_unready_containers_are_named() -> None:
    written = conditions(status([state(**UP), state(name="b", **(UP | {"ready": False}))]))
    assert written["Ready"] == ("False", "ContainersNotReady", "containers with unready status: [b]")
    assert written["Initialized"][0] == "True"


def test_initialising_containers_are_waited_for() -> None:
    written = status([state(INIT, name="first", **(UP | {"ready": False})), state()])
    assert conditions(written)["Initialized"] == (
        "False",
        "ContainersNotInitialized",
        "containers with incomplete status: [first]",
    )
    assert [entry["name"] for entry in written["initContainerStatuses"]] == ["first"]


def test_completed_pod_is_not_ready_for_that_reason() -> None:
    written = conditions(status([state(policy="Never", state=ended(0), has_run=True)]))
    assert written["Ready"] == ("False", "PodCompleted", None)


def test_condition_keeps_its_time_until_it_changes() -> None:
    first = status([state(**UP)])
    later = status([state(**UP)], first["conditions"], NOW + 60)
    assert later["conditions"] == first["conditions"]
    changed = status([state(**(UP | {"ready": False}))], first["conditions"], NOW + 60)
    times = {entry["type"]: entry["lastTransitionTime"] for entry in changed["conditions"]}
    assert times["Ready"] != times["Initialized"] == first["conditions"][0]["lastTransitionTime"]


def test_container_that_an_earlier_agent_ran_counts_as_ended() -> None:
    restored = state()
    restored.restore({"restartCount": 2, "state": running(NOW), "lastState": {}, "containerID": "host://1"}, NOW + 5)
    assert (restored.restart_count, restored.has_run) == (2, True)
    assert restored.last_state["terminated"]["reason"] == "ContainerStatusUnknown"
    assert restored.last_state["terminated"]["exitCode"] == 137


def test_container_that_had_ended_for_good_stays_so() -> None:
    restored = state(policy="OnFailure")
    restored.restore({"restartCount": 0, "state": ended(0), "lastState": {}}, NOW)
    assert restored.over
    failed = state(policy="OnFailure")
    failed.restore({"restartCount": 0, "state": ended(1), "lastState": {}}, NOW)
    assert not failed.over
    assert failed.last_state == ended(1)


# --- what is written to the API server ---------------------------------------------------------------------


def drain(*actions: tuple[Any, Callable[[], None]]) -> None:
    outbox, done = Outbox(), threading.Event()
    for key, action in actions:
        outbox.put(key, action)
    outbox.put("last", done.set)
    outbox.start()
    assert done.wait(10)
    outbox.stop()


def test_only_the_newest_write_of_a_key_counts() -> None:
    written: list[str] = []
    drain(
        ("a", lambda: written.append("old")), ("b", lambda: written.append("b")), ("a", lambda: written.append("new"))
    )
    assert written == ["new", "b"]


def test_writes_wait_for_a_server_that_is_away_and_drop_what_it_refuses() -> None:
    tries: list[str] = []

    def away_once() -> None:
        tries.append("away")
        if len(tries) == 1:
            raise KubeError("away", status=0)

    def wrong() -> None:
        tries.append("wrong")
        raise KubeError("invalid", status=422)

    drain(("a", away_once), ("b", wrong))
    assert tries == ["away", "away", "wrong"]


def test_write_that_is_not_allowed_yet_lets_others_pass() -> None:
    order: list[str] = []

    def not_yet() -> None:
        order.append("tried")
        if "other" not in order:
            raise KubeError("forbidden", status=403)

    drain(("a", not_yet), ("b", lambda: order.append("other")))
    wait_until(lambda: order.count("tried") == 2, timeout_seconds=5, what="the second try")
    assert order == ["tried", "other", "tried"]


# --- pods ------------------------------------------------------------------------------------------------


class Dropping(Outbox):
    """Remembers what was to be written, and loses it."""

    def __init__(self) -> None:
        super().__init__()
        self.kinds: list[str] = []

    def put(self, key: Any, action: Callable[[], None]) -> None:
        self.kinds.append(key[0])


class Working:
    """A worker of a pod that the node refuses, so that nothing needs to be started."""

    def __init__(self, folder: Path, **metadata: Any) -> None:
        pod = make_pod(hostPID=True)
        pod["metadata"] |= metadata
        self.pod = pod
        self.outbox = Dropping()
        self.finished: queue.Queue[str] = queue.Queue()
        kube: Any = FakeKube()
        config = AgentConfig.from_json(config_values())
        node = Node(
            config=config,
            bubblewrap=Bubblewrap("bwrap"),
            spawner=Spawner(),
            recorder=Recorder(kube, self.outbox, "lab-host", WALL_CLOCK),
            clock=WALL_CLOCK,
        )
        self.worker = PodWorker(
            node,
            kube,
            self.outbox,
            pod,
            PodFolders(folder / "state", folder / "logs"),
            hosts=lambda namespace: "",
            nsswitch="",
            on_finished=self.finished.put,
        )
        self.worker.start()


def test_pod_goes_on_whatever_goes_wrong_while_it_waits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(worker, "TROUBLE_SECONDS", 0.2)
    working = Working(tmp_path)
    for _ in range(3):
        working.worker.tell(fail)
    working.worker.gone()
    assert working.finished.get(timeout=30) == "u-1"


def test_deletion_that_was_refused_is_asked_for_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker, "REFRESH_SECONDS", 0.05)
    working = Working(tmp_path)
    working.worker.update(working.pod | {"metadata": working.pod["metadata"] | {"deletionTimestamp": "now"}})
    wait_until(lambda: working.outbox.kinds.count("delete") >= 2, timeout_seconds=30, what="the second try")
    working.worker.gone()
    assert working.finished.get(timeout=30) == "u-1"


def test_repeated_event_is_counted() -> None:
    kube, outbox = FakeKube(), Outbox()
    recorder = Recorder(kube, outbox, "lab-host", VirtualClock(NOW))  # type: ignore[arg-type]
    for _ in range(3):
        recorder.record(make_pod(), "BackOff", "again", container={"name": "web"}, warning=True)
    recorder.record(make_pod(), "Started", "other")
    outbox.start()
    wait_until(lambda: len(kube.calls) == 4, timeout_seconds=5, what="the events")
    outbox.stop()
    verbs = [verb for verb, _ in kube.calls]
    assert verbs == ["create", "patch", "patch", "create"]
    first = kube.calls[0][1]
    assert (first["type"], first["involvedObject"]["fieldPath"]) == ("Warning", "spec.containers{web}")
    assert kube.calls[2][1]["count"] == 3


def test_access_objects_lead_to_files_and_ports() -> None:
    pod = make_pod(
        initContainers=[{"name": "first"}],
        containers=[
            {"name": "web", "ports": [{"containerPort": 80, "hostPort": 81}, {"containerPort": 53, "protocol": "UDP"}]}
        ],
    )
    logs = logs_object(pod, Path("/logs/x"))
    assert logs["metadata"]["ownerReferences"][0]["uid"] == "u-1"
    assert [entry["containers"] for entry in logs["spec"]["logs"]] == [["first"], ["web"]]
    assert logs["spec"]["logs"][1]["logsFile"] == "/logs/x/web/current.log"
    forward = port_forward_object(pod, "127.0.0.9")
    assert forward is not None
    assert forward["spec"]["forwards"] == [{"ports": [80], "target": {"port": 80, "address": "127.0.0.9"}}]
    assert port_forward_object(make_pod(), "127.0.0.9") is None


def test_access_objects_of_an_earlier_pod_are_taken_over() -> None:
    class Taken(FakeKube):
        def create(self, resource: Any, obj: Any, namespace: str | None = None, **options: Any) -> dict[str, Any]:
            raise KubeError("exists", status=409)

    kube = Taken()
    write_access(kube, make_pod(), Path("/logs"), "127.0.0.9")  # type: ignore[arg-type]
    assert kube.calls[0][1]["metadata"]["ownerReferences"][0]["uid"] == "u-1"


def test_node_is_tainted_and_points_at_its_kubelet_port() -> None:
    config = AgentConfig.from_json(config_values())
    node = node_object(config, now=NOW)
    assert node["spec"]["taints"][0]["effect"] == "NoSchedule"
    assert node["status"]["daemonEndpoints"]["kubeletEndpoint"]["Port"] == 20247
    assert node["status"]["addresses"] == [{"type": "InternalIP", "address": "127.0.0.9"}]
    before = node["status"]["conditions"]
    later = node_status(config, now=NOW + 60, machine="amd64", before=before)["conditions"]
    assert [c["lastTransitionTime"] for c in later] == [c["lastTransitionTime"] for c in before]
    assert later[0]["lastHeartbeatTime"] != before[0]["lastHeartbeatTime"]


# --- the kubelet port --------------------------------------------------------------------------------------


class Source:
    """A container that has written something."""

    def __init__(self, folder: Path, waiting_reason: str | None = None) -> None:
        self.log_folder = folder
        self.waiting_reason = waiting_reason

    def log_ended(self) -> Callable[[], bool]:
        return lambda: True


class KubeletUnderTest:
    """A kubelet port, and clients with certificates of its authority."""

    def __init__(self, folder: Path, forward_to: tuple[str, int]) -> None:
        self._folder = folder
        self._authority = Authority.new("test")
        self._authority.pair.write(folder, "ca")
        cert, key = self._authority.issue("node", hosts=["127.0.0.1"]).write(folder, "node")
        self.sources: dict[tuple[str, str, str], Source] = {}
        self.server = KubeletServer(
            "127.0.0.1",
            0,
            context=server_context(str(cert), str(key), str(folder / "ca.crt")),
            find=lambda *names: self.sources.get(names),
            forward_to=forward_to,
            clock=WALL_CLOCK,
        )
        self.server.start()

    def context(self, *organizations: str) -> ssl.SSLContext:
        cert, key = self._authority.issue("client", organizations=organizations).write(self._folder, "client")
        context = ssl.create_default_context(cafile=str(self._folder / "ca.crt"))
        context.load_cert_chain(cert, key)
        return context

    def get(self, path: str, organization: str = "system:masters") -> tuple[int, str]:
        url = f"https://127.0.0.1:{self.server.port}{path}"
        try:
            with urllib.request.urlopen(url, context=self.context(organization), timeout=5) as response:
                return response.status, response.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()


@pytest.fixture
def kwok() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server


@pytest.fixture
def kubelet(tmp_path: Path, kwok: socket.socket) -> Iterator[KubeletUnderTest]:
    served = KubeletUnderTest(tmp_path, kwok.getsockname())
    yield served
    served.server.stop()


def test_kubelet_port_serves_logs(kubelet: KubeletUnderTest, tmp_path: Path) -> None:
    (tmp_path / "web").mkdir()
    (tmp_path / "web" / "current.log").write_bytes(LINES)
    kubelet.sources["shop", "web-1", "web"] = Source(tmp_path / "web")
    assert kubelet.get("/containerLogs/shop/web-1/web?tailLines=1&follow=true") == (200, "three\n")
    assert kubelet.get("/containerLogs/shop/web-1/web?previous=true") == (
        400, 'previous terminated container "web" in pod "web-1" not found',
    )  # fmt: skip
    assert kubelet.get("/containerLogs/shop/web-1/web?tailLines=x")[0] == 400
    assert kubelet.get("/containerLogs/shop/other/web")[0] == 404


def test_kubelet_port_says_why_there_is_no_log_yet(kubelet: KubeletUnderTest, tmp_path: Path) -> None:
    kubelet.sources["shop", "web-1", "web"] = Source(tmp_path / "none", "PortInUse")
    assert kubelet.get("/containerLogs/shop/web-1/web") == (
        400,
        'container "web" in pod "web-1" is waiting to start: PortInUse',
    )


def test_kubelet_port_admits_the_api_server_only(kubelet: KubeletUnderTest) -> None:
    assert kubelet.get("/healthz") == (200, "ok")
    assert kubelet.get("/healthz", organization="system:nodes")[0] == 403
    assert kubelet.get("/exec/shop/web-1/web?command=sh")[0] == 404
    with (
        pytest.raises((ssl.SSLError, OSError)),
        urllib.request.urlopen(
            f"https://127.0.0.1:{kubelet.server.port}/healthz",
            context=ssl._create_unverified_context(),
            timeout=5,
        ),
    ):
        pass


def test_kubelet_port_carries_port_forwards_on(kubelet: KubeletUnderTest, kwok: socket.socket) -> None:
    heads: queue.Queue[bytes] = queue.Queue()

    def answer() -> None:
        with closing(kwok.accept()[0]) as peer:
            heads.put(peer.recv(4096))
            peer.sendall(b"HTTP/1.1 101 Switching Protocols\r\n\r\n")
            peer.sendall(peer.recv(100).upper())

    thread = threading.Thread(target=answer)
    thread.start()
    with (
        socket.create_connection(("127.0.0.1", kubelet.server.port), timeout=5) as plain,
        kubelet.context("system:masters").wrap_socket(plain, server_hostname="127.0.0.1") as client,
    ):
        client.sendall(b"POST /portForward/shop/web-1 HTTP/1.1\r\nHost: x\r\nUpgrade: SPDY/3.1\r\n\r\n")
        assert heads.get(timeout=5) == b"POST /portForward/shop/web-1 HTTP/1.1\r\nHost: x\r\nUpgrade: SPDY/3.1\r\n\r\n"
        received = b""
        while b"\r\n\r\n" not in received:
            received += client.recv(100)
        client.sendall(b"hello")
        assert client.recv(100) == b"HELLO"
    thread.join(5)
