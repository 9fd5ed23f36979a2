"""The life of a lab on real components: up, repair, down, and what must never happen on the way."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from labkit import cluster
from labkit.clock import wait_until
from labkit.cluster import HEALTHY, LabConfig, RunningLab, change
from labkit.cluster.config import LabFolder, cache_home
from labkit.cluster.local import supervisor_state
from labkit.cluster.ports import is_free, lab_ports
from labkit.cluster.readiness import is_ready
from labkit.errors import ClusterError, InputError
from labkit.kube import CONFIG_MAPS, DEPLOYMENTS, NODES, PODS
from labkit.names import HOST_NODE, POLICY_CONFIG_MAP, PROMETHEUS_PORT

pytestmark = [pytest.mark.live, pytest.mark.timeout(600)]

NewLab = Callable[..., RunningLab]
PATIENCE_SECONDS = 180.0
"""For what takes a few seconds on an idle machine, and much longer where every core has several things to do."""
COMPONENTS = ("etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler", "kwok", "host-node-agent")


@pytest.fixture(autouse=True)
def only_local(backend: str) -> None:
    if backend != "local":
        pytest.skip("about host processes")


def _labkit(*arguments: str, env: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "labkit", *arguments],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        env={**os.environ, **(env or {})},
    )


def _processes(lab: RunningLab) -> dict[str, int]:
    state = supervisor_state(lab.folder)
    assert state is not None
    return {name: process.pid for name, process in state.components.items() if process.pid is not None}


def _restarts(lab: RunningLab) -> dict[str, int]:
    state = supervisor_state(lab.folder)
    assert state is not None
    return {name: process.restarts for name, process in state.components.items()}


def _family(pid: int) -> set[int]:
    """Return a process and all its descendants."""
    found = {pid}
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in task.read_text().split():
            found |= _family(int(child))
    return found


def _is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def _listeners(pids: set[int]) -> set[tuple[str, int]]:
    """Return address and port of every listening TCP socket of some processes."""
    inodes = set()
    for pid in pids:
        for descriptor in Path(f"/proc/{pid}/fd").glob("*"):
            try:
                target = os.readlink(descriptor)
            except OSError:
                continue
            if target.startswith("socket:["):
                inodes.add(target[8:-1])
    found = set()
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A" and fields[9] in inodes:
                host, _, port = fields[1].rpartition(":")
                address = socket.inet_ntoa(bytes.fromhex(host)[::-1]) if len(host) == 8 else f"[{host}]"
                found.add((address, int(port, 16)))
    return found


def _wait_healthy(lab: RunningLab, *, timeout_seconds: float = PATIENCE_SECONDS) -> None:
    def all_healthy() -> bool:
        states = cluster.status(lab.name)
        troubles[:] = [f"{entry.component}: {entry.health}" for entry in states if not entry.is_well]
        return len(states) > len(COMPONENTS) and not troubles

    troubles: list[str] = []
    wait_until(
        all_healthy,
        timeout_seconds=timeout_seconds,
        what="every component to be healthy",
        poll_seconds=0.3,
        found=lambda: "; ".join(troubles),
    )


# --- a lab that is up --------------------------------------------------------------------------------------


def test_every_component_is_healthy_and_says_version_and_port(lab: RunningLab) -> None:
    _wait_healthy(lab)
    answer = json.loads(_labkit("status", "--json", "--name", lab.name).stdout)
    assert answer["healthy"] is True
    assert (answer["address"], answer["tempo"]) == (lab.address, 15)
    components = {entry["component"]: entry for entry in answer["components"]}
    assert set(COMPONENTS) <= set(components)
    assert {"kube-descheduler/descheduler", "monitoring/prometheus", "monitoring/metrics-exporter"} <= set(components)
    for entry in components.values():
        assert entry["version"], entry
        assert entry["ports"] or entry["component"] == "host-node-agent", entry
    assert components["kube-apiserver"]["version"] == "1.36.3"


def test_five_fake_nodes_of_the_promised_size_are_ready(lab: RunningLab) -> None:
    nodes = {node["metadata"]["name"]: node for node in lab.kube.list(NODES)["items"]}
    assert set(nodes) == {HOST_NODE, *(f"kwok-node-{number}" for number in range(1, 6))}
    assert all(is_ready(node) for node in nodes.values())
    for name, node in nodes.items():
        if name != HOST_NODE:
            assert (node["status"]["allocatable"]["cpu"], node["status"]["allocatable"]["memory"]) == ("32", "512Gi")
            assert {taint["key"] for taint in node["spec"]["taints"]} == {"kwok.x-k8s.io/node"}


def test_everything_listens_on_the_lab_s_address_only(lab: RunningLab) -> None:
    supervisor = supervisor_state(lab.folder)
    assert supervisor is not None
    listeners = _listeners(_family(supervisor.pid))
    assert {address for address, _ in listeners} == {lab.address}
    assert {PROMETHEUS_PORT, 8000, 8001, 8443, 16443} <= {port for _, port in listeners}


def test_fake_nodes_tell_that_they_live_however_often_others_change_them(lab: RunningLab) -> None:
    """The node controller gives a node up after 40 s; a change of it must not put the next sign of life off."""

    def heard() -> str:
        conditions = lab.kube.get(NODES, "kwok-node-1")["status"]["conditions"]
        return str(next(c["lastHeartbeatTime"] for c in conditions if c["type"] == "Ready"))

    def heard_again() -> bool:
        lab.kube.patch(NODES, "kwok-node-1", {"metadata": {"annotations": {"touched": repr(time.time())}}})
        return heard() != first

    first = heard()
    wait_until(heard_again, timeout_seconds=PATIENCE_SECONDS, what="a heartbeat", poll_seconds=0.5)
    lab.kube.patch(NODES, "kwok-node-1", {"metadata": {"annotations": {"touched": None}}})


def test_second_up_changes_nothing(lab: RunningLab) -> None:
    _wait_healthy(lab)
    before, pods = _processes(lab), _pod_uids(lab)
    done = _labkit("up", "--name", lab.name)
    assert done.returncode == 0, done.stderr
    assert _processes(lab) == before
    assert _pod_uids(lab) == pods


def _pod_uids(lab: RunningLab) -> set[str]:
    pods = lab.kube.list(PODS, field_selector=f"spec.nodeName={HOST_NODE}")["items"]
    return {pod["metadata"]["uid"] for pod in pods}


def test_second_up_keeps_what_the_user_changed_and_brings_back_what_is_gone(lab: RunningLab) -> None:
    policy = lab.kube.get(CONFIG_MAPS, POLICY_CONFIG_MAP, "kube-descheduler")["data"]["policy.yaml"]
    changed = policy + "# changed by hand\n"
    lab.kube.patch(CONFIG_MAPS, POLICY_CONFIG_MAP, {"data": {"policy.yaml": changed}}, "kube-descheduler")
    lab.kube.delete(DEPLOYMENTS, "metrics-exporter", "monitoring")
    lab.kube.delete(NODES, "kwok-node-5")
    try:
        assert _labkit("up", "--name", lab.name).returncode == 0
        found = lab.kube.get(CONFIG_MAPS, POLICY_CONFIG_MAP, "kube-descheduler")["data"]["policy.yaml"]
        assert found == changed
        assert is_ready(lab.kube.get(NODES, "kwok-node-5"))
        _wait_healthy(lab)
    finally:
        lab.kube.patch(CONFIG_MAPS, POLICY_CONFIG_MAP, {"data": {"policy.yaml": policy}}, "kube-descheduler")


def test_up_with_other_choices_is_refused(lab: RunningLab) -> None:
    done = _labkit("up", "--name", lab.name, "--tempo", "3")
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "tempo 3, found it with tempo 15" in done.stderr
    assert "labkit down --name" in done.stderr


def test_address_of_another_lab_is_refused(lab: RunningLab) -> None:
    with pytest.raises(InputError, match=f"found lab '{lab.name}' there"):
        cluster.up(LabConfig(name="test-late", address=lab.address))
    assert cluster.running("test-late") is None


def test_environment_makes_kubectl_work_in_a_shell(lab: RunningLab) -> None:
    script = f'eval "$({sys.executable} -m labkit env --name {lab.name})" && kubectl get nodes -o name'
    done = subprocess.run(["sh", "-c", script], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert "node/kwok-node-1" in done.stdout


def test_environment_can_be_evaluated_twice_without_growing_the_path(lab: RunningLab) -> None:
    first = _labkit("env", "--name", lab.name).stdout
    second = _labkit("env", "--name", lab.name, env=lab.environment).stdout
    assert "export PATH=" in first
    assert "export PATH=" not in second


def test_logs_are_shown_by_the_names_of_status(lab: RunningLab) -> None:
    listed = _labkit("logs", "--name", lab.name).stdout
    assert all(name in listed for name in (*COMPONENTS, "supervisor"))
    assert "started kube-apiserver" in _labkit("logs", "supervisor", "--name", lab.name).stdout
    assert _labkit("logs", "kube-descheduler/descheduler", "--name", lab.name).stdout
    wrong = _labkit("logs", "nonsense", "--name", lab.name)
    assert wrong.returncode == 2
    assert "kube-apiserver" in wrong.stderr


def test_other_api_server_is_refused(lab: RunningLab, tmp_path: Path) -> None:
    text = lab.folder.kubeconfig.read_text()
    lab.folder.kubeconfig.write_text(text.replace(lab.address, "127.0.0.77"))
    try:
        with pytest.raises(ClusterError, match=r"found https://127\.0\.0\.77"):
            _ = RunningLab(lab.record, lab.folder).kube
        assert _labkit("use", "weighted_average", "--name", lab.name).returncode != 0
    finally:
        lab.folder.kubeconfig.write_text(text)


def test_users_own_kubeconfig_is_neither_read_nor_written(lab: RunningLab, tmp_path: Path) -> None:
    kubeconfig = tmp_path / ".kube" / "config"
    kubeconfig.parent.mkdir()
    kubeconfig.write_text("this: is not a kubeconfig\n")
    before = kubeconfig.stat()
    env = {
        "HOME": str(tmp_path),
        "KUBECONFIG": str(kubeconfig),
        "LABKIT_STATE": str(lab.folder.path.parent),
        "LABKIT_CACHE": str(cache_home()),
    }
    for verb in ("status", "up", "env"):
        done = _labkit(verb, "--name", lab.name, env=env)
        assert done.returncode == 0, done.stderr
    after = kubeconfig.stat()
    assert (after.st_mtime_ns, after.st_ino) == (before.st_mtime_ns, before.st_ino)
    assert [path.name for path in kubeconfig.parent.iterdir()] == ["config"]


def test_deletion_of_a_pod_is_in_the_audit_log(lab: RunningLab) -> None:
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "audited", "namespace": "default"},
        "spec": {
            "automountServiceAccountToken": False,
            "nodeName": "kwok-node-1",
            "containers": [{"name": "c", "image": "none"}],
        },
    }
    lab.kube.create(PODS, pod)
    eviction = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": "audited", "namespace": "default"}}
    lab.kube.create(PODS, eviction, name="audited", subresource="eviction")

    def entry() -> dict[str, object] | None:
        lines = lab.folder.audit_log.read_text().splitlines(keepends=True)
        events = [json.loads(line) for line in lines if line.endswith("\n")]  # the last may be half written
        return next((event for event in events if event["objectRef"].get("name") == "audited"), None)

    event = wait_until(entry, timeout_seconds=PATIENCE_SECONDS, what="the audit log")
    assert event["objectRef"]["subresource"] == "eviction"
    assert event["responseStatus"]["code"] in (200, 201)


def test_agent_s_identity_reaches_no_further_than_a_kubelet_s(lab: RunningLab) -> None:
    config = str(lab.folder.pki / "host-node-agent.kubeconfig")
    refused = lab.kubectl("--kubeconfig", config, "get", "secrets", "-A")
    assert refused.returncode != 0
    assert "forbidden" in refused.stderr.lower()
    assert lab.kubectl("--kubeconfig", config, "delete", "node", "kwok-node-1").returncode != 0


def test_etcd_lets_nobody_in_without_the_api_server_s_certificate(lab: RunningLab) -> None:
    etcdctl = lab.folder.bin / "etcdctl"
    if not etcdctl.exists():
        pytest.skip("no etcdctl among the tools")
    pki = lab.folder.pki
    base = [
        str(etcdctl),
        f"--endpoints=https://{lab.address}:12379",
        f"--cacert={pki}/etcd-ca.crt",
        "--command-timeout=2s",
    ]
    refused = subprocess.run([*base, "get", "/", "--limit=1"], capture_output=True, text=True, check=False)
    assert refused.returncode != 0
    own = [f"--cert={pki}/etcd-client.crt", f"--key={pki}/etcd-client.key"]
    accepted = subprocess.run([*base, *own, "endpoint", "status"], capture_output=True, text=True, check=False)
    assert accepted.returncode == 0, accepted.stderr


# --- faults ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("component", COMPONENTS)
def test_killed_component_is_back(lab: RunningLab, component: str) -> None:
    _wait_healthy(lab)
    before = _restarts(lab)[component]
    os.kill(_processes(lab)[component], signal.SIGKILL)

    def is_back() -> bool:
        states = {entry.component: entry for entry in cluster.status(lab.name)}
        return component in states and states[component].restarts > before and states[component].health == HEALTHY

    wait_until(is_back, timeout_seconds=PATIENCE_SECONDS, what=f"{component} to be back", poll_seconds=0.1)
    _wait_healthy(lab)


def test_status_answers_while_the_api_server_hangs(lab: RunningLab) -> None:
    _wait_healthy(lab)
    process = _processes(lab)["kube-apiserver"]
    healths: dict[str, str] = {}

    def told() -> bool:
        healths.update({entry.component: entry.health for entry in cluster.status(lab.name)})
        # A busy machine may keep others from answering in time, too; they do in the end.
        return healths["etcd"] == HEALTHY and healths["kube-apiserver"].startswith("does not answer")

    os.kill(process, signal.SIGSTOP)
    try:
        wait_until(told, timeout_seconds=PATIENCE_SECONDS, what="status to tell who hangs", found=lambda: str(healths))
        assert healths["add-ons"].startswith("unknown")
    finally:
        os.kill(process, signal.SIGCONT)
    _wait_healthy(lab)


def test_pods_that_the_node_controller_gave_up_become_ready_again(new_lab: NewLab) -> None:
    lab = new_lab()
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "kept", "namespace": "default"},
        "spec": {
            "automountServiceAccountToken": False,
            "nodeName": "kwok-node-1",
            "containers": [{"name": "c", "image": "none"}],
        },
    }
    uid = lab.kube.create(PODS, pod)["metadata"]["uid"]

    def ready() -> bool:
        return is_ready(lab.kube.get(PODS, "kept", "default"))

    wait_until(ready, timeout_seconds=PATIENCE_SECONDS, what="the pod to be Ready")
    kwok = _processes(lab)["kwok"]
    os.kill(kwok, signal.SIGSTOP)
    try:
        wait_until(
            lambda: not ready(),
            timeout_seconds=PATIENCE_SECONDS,
            what="the node controller to give the pod up",
            poll_seconds=0.5,
        )
        assert not is_ready(lab.kube.get(NODES, "kwok-node-1"))
    finally:
        os.kill(kwok, signal.SIGCONT)
    wait_until(ready, timeout_seconds=PATIENCE_SECONDS, what="the pod to be Ready again")
    wait_until(
        lambda: is_ready(lab.kube.get(NODES, "kwok-node-1")),
        timeout_seconds=PATIENCE_SECONDS,
        what="its node to be Ready again",
    )
    assert lab.kube.get(PODS, "kept", "default")["metadata"]["uid"] == uid


def test_nothing_survives_the_supervisor_and_up_repairs(new_lab: NewLab) -> None:
    lab = new_lab()
    state = supervisor_state(lab.folder)
    assert state is not None
    family, uid = _family(state.pid), lab.kube.get(NODES, "kwok-node-1")["metadata"]["uid"]
    os.kill(state.pid, signal.SIGKILL)
    wait_until(lambda: not any(map(_is_alive, family)), timeout_seconds=PATIENCE_SECONDS, what="everything to die")
    assert cluster.running(lab.name) is None
    assert _labkit("status", "--name", lab.name).returncode == 1

    repaired = cluster.up(lab.record.config)
    assert repaired.kube.get(NODES, "kwok-node-1")["metadata"]["uid"] == uid
    assert repaired.record.epoch == lab.record.epoch
    _wait_healthy(repaired)


def test_down_leaves_no_process_port_or_mount(new_lab: NewLab) -> None:
    lab = new_lab()
    state = supervisor_state(lab.folder)
    assert state is not None
    family = _family(state.pid)
    assert cluster.down(lab.name)
    assert not any(map(_is_alive, family))
    assert all(is_free(lab.address, port) for port in lab_ports().values())
    assert str(lab.folder.path) not in Path("/proc/self/mounts").read_text()
    assert {path.name for path in lab.folder.path.iterdir()} == {"logs", "change.lock"}
    assert cluster.down(lab.name) is False


def test_two_labs_side_by_side_do_not_touch_each_other(lab: RunningLab, new_lab: NewLab) -> None:
    _wait_healthy(lab)
    processes, pods = _processes(lab), _pod_uids(lab)
    second = new_lab()
    assert second.kube.list(NODES)["metadata"] != lab.kube.list(NODES)["metadata"]
    second.kube.delete(NODES, "kwok-node-5")
    assert second.kube.find(NODES, "kwok-node-5") is None
    assert is_ready(lab.kube.get(NODES, "kwok-node-5"))
    refused = second.kubectl("--kubeconfig", str(second.folder.kubeconfig), "--server", lab.kube.server, "get", "nodes")
    assert refused.returncode != 0
    cluster.down(second.name)
    assert _processes(lab) == processes
    assert _pod_uids(lab) == pods


def test_taken_port_is_named_with_its_holder_and_nothing_is_left() -> None:
    config = LabConfig(name="test-taken", address="127.0.0.4")
    cluster.down(config.name)
    with (
        socket.create_server((config.address, PROMETHEUS_PORT)),
        pytest.raises(ClusterError, match=rf"{PROMETHEUS_PORT} \(for prometheus\) by \S+ \(pid {os.getpid()}\)"),
    ):
        cluster.up(config)
    assert not LabFolder(config.name).exists
    assert cluster.running(config.name) is None


def test_lack_of_disk_is_one_clear_line_and_nothing_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(change, "MIN_FREE_GIB", 10.0**6)
    config = LabConfig(name="test-full", address="127.0.0.4")
    with pytest.raises(ClusterError, match=r"GiB of disk for the lab in .* LABKIT_STATE"):
        cluster.up(config)
    assert not LabFolder(config.name).exists


def test_machine_that_refuses_private_mounts_is_one_clear_line(tmp_path: Path) -> None:
    refusing = ["unshare", "--user", "--map-root-user", "setpriv", "--bounding-set=-all", "--inh-caps=-all"]
    if (
        not all(map(shutil.which, ("unshare", "setpriv")))
        or subprocess.run([*refusing, "true"], check=False).returncode
    ):
        pytest.skip("nothing here can take the right to mount away")
    done = subprocess.run(
        [*refusing, sys.executable, "-m", "labkit", "up", "--name", "test-refused", "--address", "127.0.0.4"],
        env={**os.environ, "LABKIT_STATE": str(tmp_path), "LABKIT_CACHE": str(cache_home())},
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
        check=False,
    )
    assert (done.returncode, done.stderr.count("\n")) == (1, 1), done.stderr
    assert "wanted bubblewrap to make a private mount for each pod, found: " in done.stderr
    assert "; what helps: " in done.stderr
    assert not (tmp_path / "test-refused" / "lab.json").exists()


@pytest.mark.parametrize("seconds", [0.8, 3.0], ids=["early", "while it starts"])
def test_interrupted_up_leaves_nothing(seconds: float) -> None:
    name, address = "test-interrupted", "127.0.0.5"
    cluster.down(name)
    process = subprocess.Popen(
        [sys.executable, "-m", "labkit", "up", "--name", name, "--address", address],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline()  # it has begun
    time.sleep(seconds)  # an arbitrary moment is the point
    process.send_signal(signal.SIGINT)
    _out, errors = process.communicate(timeout=PATIENCE_SECONDS)
    assert process.returncode in (130, -signal.SIGINT), errors  # a shell shows 130 for both
    assert "interrupted" in errors
    assert cluster.running(name) is None
    assert not LabFolder(name).exists
    assert all(is_free(address, port) for port in lab_ports().values())


def test_component_that_cannot_start_is_named_with_its_last_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from labkit.cluster import tools

    broken = tmp_path / "tools"
    broken.mkdir()
    for name, path in tools.locate().items():
        (broken / name).symlink_to(path)
    (broken / "kube-apiserver").unlink()
    (broken / "kube-apiserver").write_text(
        '#!/bin/sh\n[ "$1" = --version ] && echo v1.36.3 && exit 0\necho cannot find my feet >&2\nexit 3\n'
    )
    (broken / "kube-apiserver").chmod(0o755)
    name = "test-broken"
    cluster.down(name)
    done = _labkit("up", "--name", name, "--address", "127.0.0.4", "--tools", str(broken))
    assert done.returncode == 1
    assert "wanted kube-apiserver running, found it ended with 3" in done.stderr
    assert "cannot find my feet" in done.stderr
    assert cluster.running(name) is None
