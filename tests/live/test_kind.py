"""The life of a lab in containers: up, repair, down, and what must never happen on the way."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path

import pytest
import victims
from labs import labkit, wait_healthy

from labkit import Lab, cluster
from labkit.clock import wait_until
from labkit.cluster import LabConfig, RunningLab
from labkit.cluster.config import LabFolder
from labkit.cluster.kind import program
from labkit.cluster.kind.cluster import ABSENT, RUNNING, KindCluster
from labkit.cluster.kind.lifecycle import is_running
from labkit.cluster.ports import is_free, lab_ports
from labkit.errors import ClusterError
from labkit.kube import DEPLOYMENTS, NODES, PODS
from labkit.names import EXPORTER_HOST_PORT, KIND_CLUSTER, PROMETHEUS_PORT

pytestmark = [pytest.mark.live, pytest.mark.timeout(900)]

NewLab = Callable[..., RunningLab]
UP_SECONDS = 600
SYSTEM = {"etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler", "kube-proxy", "kindnet", "kwok"}


@pytest.fixture(autouse=True)
def only_kind(backend: str) -> None:
    if backend != "kind":
        pytest.skip("about containers")


def _state(name: str) -> str:
    folder = LabFolder(name)
    engine = victims.engine.find()
    kind = program.find()
    return KindCluster(folder, engine, kind).state()


# --- a lab that is up --------------------------------------------------------------------------------------


def test_every_component_is_healthy_and_says_its_version(lab: RunningLab) -> None:
    wait_healthy(lab)
    answer = json.loads(labkit("status", "--name", lab.name, "--json").stdout)
    assert (answer["backend"], answer["healthy"], answer["address"]) == ("kind", True, lab.address)
    rows = {row["component"]: row for row in answer["components"]}
    assert set(rows) >= SYSTEM
    assert {"monitoring/prometheus", "kube-descheduler/descheduler", lab.addon_node} <= set(rows)
    assert all(row["version"] for row in rows.values())


def test_ports_of_the_quickstart_answer_at_the_lab_s_address(lab: RunningLab) -> None:
    for port, path in ((PROMETHEUS_PORT, "/-/healthy"), (EXPORTER_HOST_PORT, "/health"), (8000, "/metrics")):
        with urllib.request.urlopen(f"http://{lab.address}:{port}{path}", timeout=10) as answer:
            assert answer.status == 200


def test_nothing_listens_beyond_the_lab_s_address(lab: RunningLab) -> None:
    for port in lab_ports("kind").values():
        assert not is_free(lab.address, port)
        with contextlib.suppress(ConnectionRefusedError), socket.create_connection(("127.0.0.250", port), timeout=1):
            pytest.fail(f"port {port} is open at another address")


def test_kind_s_own_pods_stay_off_simulated_nodes(lab: RunningLab) -> None:
    kwok = {node["metadata"]["name"] for node in lab.kube.list(NODES, label_selector="type=kwok")["items"]}
    assert len(kwok) == 5
    system = lab.kube.list(PODS, "kube-system")["items"]
    assert {pod["spec"].get("nodeName") for pod in system} == {lab.addon_node}


def test_simulated_nodes_have_no_address_that_kindnet_would_route_to(lab: RunningLab) -> None:
    for node in lab.kube.list(NODES, label_selector="type=kwok")["items"]:
        assert "InternalIP" not in {entry["type"] for entry in node["status"]["addresses"]}


def test_services_run_without_root_on_a_read_only_file_system(lab: RunningLab) -> None:
    script = "import os; print(os.getuid()); open('/written', 'w')"
    done = lab.kubectl("exec", "-n", "monitoring", "deployment/pod-manager", "--", "python", "-c", script)
    assert done.stdout.strip() == "65532"
    assert "Read-only file system" in done.stderr


def test_logs_of_every_part_can_be_read(lab: RunningLab) -> None:
    listed = labkit("logs", "--name", lab.name).stdout
    assert {"kind", "kube-scheduler", "kwok"} <= {line.split()[0] for line in listed.splitlines()}
    for component in ("kind", "kube-scheduler", "monitoring/prometheus"):
        done = labkit("logs", component, "--name", lab.name, "--tail", "5")
        assert done.returncode == 0, done.stderr
        assert done.stdout.strip(), component


def test_up_again_changes_nothing(lab: RunningLab) -> None:
    def generations() -> dict[str, int]:
        found = lab.kube.list(DEPLOYMENTS)["items"]
        return {entry["metadata"]["name"]: entry["metadata"]["generation"] for entry in found}

    before, began = generations(), time.monotonic()
    done = labkit("up", "--name", lab.name)
    assert done.returncode == 0, done.stderr
    assert time.monotonic() - began < 60
    assert generations() == before
    assert [row.restarts for row in cluster.status(lab.name) if row.component == "kube-apiserver"] == [0]


def test_deleted_parts_are_put_back(lab: RunningLab) -> None:
    assert lab.kubectl("delete", "deployment/scorer", "-n", "monitoring", "--wait").returncode == 0
    cluster.up(lab.record.config)
    assert lab.kube.find(DEPLOYMENTS, "scorer", "monitoring") is not None
    wait_healthy(lab)


def test_other_choices_for_a_lab_that_is_up_are_refused(lab: RunningLab) -> None:
    done = labkit("up", "--name", lab.name, "--backend", "local")
    assert done.returncode == 2
    assert "with backend local, found it with backend kind" in done.stderr
    assert done.stderr.count("\n") == 1


def test_kubeconfig_of_the_user_is_neither_read_nor_written(lab: RunningLab, tmp_path: Path) -> None:
    assert Path(lab.variables["KUBECONFIG"]).parent == lab.folder.path
    text = Path(lab.variables["KUBECONFIG"]).read_text()
    assert f"https://{lab.address}:16443" in text


# --- what dies comes back ----------------------------------------------------------------------------------


@pytest.fixture
def restarted(lab: RunningLab) -> RunningLab:
    """The lab after its node was killed and started again by hand."""
    engine = victims.node_engine(lab)
    engine.run("kill", lab.addon_node, what="killing the node")
    try:
        wait_until(lambda: not is_running(lab.folder), timeout_seconds=30, what="the node to be dead")
        assert cluster.running(lab.name) is None
        assert labkit("status", "--name", lab.name).returncode == 1
    finally:
        engine.run("start", lab.addon_node, what="starting the node")
    return lab


def test_loop_is_back_after_the_node_was_killed_and_started(restarted: RunningLab) -> None:
    wait_until(lambda: cluster.running(restarted.name), timeout_seconds=60, what="the lab to run")
    wait_healthy(restarted)
    with Lab(backend="kind", name=restarted.name) as door:
        door.apply("quickstart", seed=1)
        door.use("euclidean_distance")
        run = door.run("5m")
    assert run.summary["migrations"] >= 1


def test_stopped_node_is_started_by_up(lab: RunningLab) -> None:
    victims.node_engine(lab).run("kill", lab.addon_node, what="killing the node")
    wait_until(lambda: not is_running(lab.folder), timeout_seconds=30, what="the node to be dead")
    done = labkit("up", "--name", lab.name)
    assert done.returncode == 0, done.stderr
    assert f"starting node {lab.addon_node}" in done.stdout
    wait_healthy(lab)


# --- a lab of its own --------------------------------------------------------------------------------------


def test_taken_port_is_one_clear_line_and_nothing_is_made(tmp_path: Path) -> None:
    config = LabConfig(name="test-taken-kind", address="127.0.1.4", backend="kind")
    with (
        socket.create_server((config.address, PROMETHEUS_PORT)),
        pytest.raises(ClusterError, match=rf"{PROMETHEUS_PORT} \(for prometheus\) by \S+ \(pid {os.getpid()}\)"),
    ):
        cluster.up(config)
    assert _state(config.name) == ABSENT
    assert not LabFolder(config.name).exists


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["Ctrl-C", "killed"])
def test_interrupted_up_leaves_nothing_or_is_repaired(number: signal.Signals) -> None:
    name, address = "test-broken-kind", "127.0.1.4"
    command = [sys.executable, "-m", "labkit", "up", "--name", name, "--address", address, "--backend", "kind"]
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        wait_until(lambda: _state(name) == RUNNING, timeout_seconds=180, what="the node to be there", poll_seconds=0.5)
        process.send_signal(number if number == signal.SIGINT else signal.SIGKILL)
        out, _ = process.communicate(timeout=120)
        if number == signal.SIGINT:
            assert process.returncode == 130, out
            assert _state(name) == ABSENT
            assert not LabFolder(name).exists
        else:
            lab = cluster.up(LabConfig(name=name, address=address, backend="kind"))
            wait_healthy(lab)
    finally:
        cluster.down(name)
    assert _state(name) == ABSENT


def test_down_leaves_nothing_but_logs(new_lab: NewLab) -> None:
    lab = new_lab("test-gone")
    assert _state(lab.name) == RUNNING
    done = labkit("down", "--name", lab.name)
    assert done.returncode == 0, done.stderr
    assert _state(lab.name) == ABSENT
    assert {path.name for path in lab.folder.path.iterdir()} <= {"logs", "change.lock", "supervisor.lock"}
    assert all(is_free(lab.address, port) for port in lab_ports("kind").values())


def test_cluster_that_the_quickstart_s_command_deleted_is_made_anew_by_up(new_lab: NewLab) -> None:
    lab = new_lab("test-deleted")
    text = (Path(__file__).parents[2] / "docs" / "quickstart.md").read_text()
    (command,) = (line.strip() for line in text.splitlines() if line.strip().startswith("kind delete cluster"))
    # The document speaks of the default lab.
    there = command.replace(KIND_CLUSTER, lab.addon_node.removesuffix("-control-plane"))
    done = subprocess.run(["bash", "-euc", there], env=lab.environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert cluster.running(lab.name) is None
    assert _state(lab.name) == ABSENT
    again = cluster.up(dataclasses.replace(lab.record.config, tempo=5))
    wait_healthy(again)
    assert again.tempo == 5
