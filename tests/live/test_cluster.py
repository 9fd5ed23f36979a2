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
from collections.abc import Callable
from pathlib import Path

import pytest
from labs import PATIENCE_SECONDS, labkit, wait_healthy

from labkit import cluster
from labkit.clock import wait_until
from labkit.cluster import HEALTHY, LabConfig, RunningLab, change
from labkit.cluster.config import LabFolder, cache_home
from labkit.cluster.local import supervisor_state
from labkit.cluster.ports import is_free, lab_ports
from labkit.errors import ClusterError
from labkit.kube import NODES, PODS
from labkit.names import HOST_NODE, PROMETHEUS_PORT

pytestmark = [pytest.mark.live, pytest.mark.timeout(600)]

NewLab = Callable[..., RunningLab]
COMPONENTS = ("etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler", "kwok", "host-node-agent")


@pytest.fixture(autouse=True)
def only_local(backend: str) -> None:
    if backend != "local":
        pytest.skip("about host processes")


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


# --- a lab that is up --------------------------------------------------------------------------------------


def test_every_component_is_healthy_and_says_version_and_port(lab: RunningLab) -> None:
    wait_healthy(lab)
    answer = json.loads(labkit("status", "--json", "--name", lab.name).stdout)
    assert answer["healthy"] is True
    assert (answer["address"], answer["tempo"]) == (lab.address, 15)
    components = {entry["component"]: entry for entry in answer["components"]}
    assert set(COMPONENTS) <= set(components)
    assert {"kube-descheduler/descheduler", "monitoring/prometheus", "monitoring/metrics-exporter"} <= set(components)
    for entry in components.values():
        assert entry["version"], entry
        assert entry["ports"] or entry["component"] == "host-node-agent", entry
    assert components["kube-apiserver"]["version"] == "1.36.3"


def test_everything_listens_on_the_lab_s_address_only(lab: RunningLab) -> None:
    supervisor = supervisor_state(lab.folder)
    assert supervisor is not None
    listeners = _listeners(_family(supervisor.pid))
    assert {address for address, _ in listeners} == {lab.address}
    assert {PROMETHEUS_PORT, 8000, 8001, 8443, 16443} <= {port for _, port in listeners}


def test_second_up_changes_nothing(lab: RunningLab) -> None:
    wait_healthy(lab)
    before, pods = _processes(lab), _pod_uids(lab)
    done = labkit("up", "--name", lab.name)
    assert done.returncode == 0, done.stderr
    assert _processes(lab) == before
    assert _pod_uids(lab) == pods


def _pod_uids(lab: RunningLab) -> set[str]:
    pods = lab.kube.list(PODS, field_selector=f"spec.nodeName={HOST_NODE}")["items"]
    return {pod["metadata"]["uid"] for pod in pods}


def test_logs_are_shown_by_the_names_of_status(lab: RunningLab) -> None:
    listed = labkit("logs", "--name", lab.name).stdout
    assert all(name in listed for name in (*COMPONENTS, "supervisor"))
    assert "started kube-apiserver" in labkit("logs", "supervisor", "--name", lab.name).stdout
    assert labkit("logs", "kube-descheduler/descheduler", "--name", lab.name).stdout
    wrong = labkit("logs", "nonsense", "--name", lab.name)
    assert wrong.returncode == 2
    assert "kube-apiserver" in wrong.stderr


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
    wait_healthy(lab)
    before = _restarts(lab)[component]
    os.kill(_processes(lab)[component], signal.SIGKILL)

    def is_back() -> bool:
        states = {entry.component: entry for entry in cluster.status(lab.name)}
        return component in states and states[component].restarts > before and states[component].health == HEALTHY

    wait_until(is_back, timeout_seconds=PATIENCE_SECONDS, what=f"{component} to be back", poll_seconds=0.1)
    wait_healthy(lab)


def test_status_answers_while_the_api_server_hangs(lab: RunningLab) -> None:
    wait_healthy(lab)
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
    wait_healthy(lab)


def test_nothing_survives_the_supervisor_and_up_repairs(new_lab: NewLab) -> None:
    lab = new_lab()
    state = supervisor_state(lab.folder)
    assert state is not None
    family, uid = _family(state.pid), lab.kube.get(NODES, "kwok-node-1")["metadata"]["uid"]
    os.kill(state.pid, signal.SIGKILL)
    wait_until(lambda: not any(map(_is_alive, family)), timeout_seconds=PATIENCE_SECONDS, what="everything to die")
    assert cluster.running(lab.name) is None
    assert labkit("status", "--name", lab.name).returncode == 1

    repaired = cluster.up(lab.record.config)
    assert repaired.kube.get(NODES, "kwok-node-1")["metadata"]["uid"] == uid
    assert repaired.record.epoch == lab.record.epoch
    wait_healthy(repaired)


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
    done = labkit("up", "--name", name, "--address", "127.0.0.4", "--tools", str(broken))
    assert done.returncode == 1
    assert "wanted kube-apiserver running, found it ended with 3" in done.stderr
    assert "cannot find my feet" in done.stderr
    assert cluster.running(name) is None
