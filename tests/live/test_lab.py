"""What holds for a lab on either backend: repeated ``up``, refusals, the shell's environment, and a second lab."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from labs import labkit, wait_healthy

from labkit import cluster
from labkit.cluster import LabConfig, RunningLab
from labkit.cluster.config import cache_home
from labkit.cluster.readiness import is_ready
from labkit.errors import ClusterError, InputError
from labkit.kube import CONFIG_MAPS, DEPLOYMENTS, NODES, PODS
from labkit.names import POLICY_CONFIG_MAP

pytestmark = [pytest.mark.live, pytest.mark.timeout(900)]

NewLab = Callable[..., RunningLab]


def test_second_up_keeps_what_the_user_changed_and_brings_back_what_is_gone(lab: RunningLab) -> None:
    policy = lab.kube.get(CONFIG_MAPS, POLICY_CONFIG_MAP, "kube-descheduler")["data"]["policy.yaml"]
    changed = policy + "# changed by hand\n"
    lab.kube.patch(CONFIG_MAPS, POLICY_CONFIG_MAP, {"data": {"policy.yaml": changed}}, "kube-descheduler")
    lab.kube.delete(DEPLOYMENTS, "metrics-exporter", "monitoring")
    lab.kube.delete(NODES, "kwok-node-5")
    try:
        assert labkit("up", "--name", lab.name).returncode == 0
        found = lab.kube.get(CONFIG_MAPS, POLICY_CONFIG_MAP, "kube-descheduler")["data"]["policy.yaml"]
        assert found == changed
        assert is_ready(lab.kube.get(NODES, "kwok-node-5"))
        wait_healthy(lab)
    finally:
        lab.kube.patch(CONFIG_MAPS, POLICY_CONFIG_MAP, {"data": {"policy.yaml": policy}}, "kube-descheduler")


def test_up_with_other_choices_is_refused(lab: RunningLab) -> None:
    done = labkit("up", "--name", lab.name, "--tempo", "3")
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "tempo 3, found it with tempo 15" in done.stderr
    assert "labkit down --name" in done.stderr


def test_address_of_another_lab_is_refused(lab: RunningLab) -> None:
    with pytest.raises(InputError, match=f"found lab '{lab.name}' there"):
        cluster.up(LabConfig(name="test-late", address=lab.address, backend=lab.backend))
    assert cluster.running("test-late") is None


def test_environment_makes_kubectl_work_in_a_shell(lab: RunningLab) -> None:
    script = f'eval "$({sys.executable} -m labkit env --name {lab.name})" && kubectl get nodes -o name'
    done = subprocess.run(["sh", "-c", script], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert "node/kwok-node-1" in done.stdout


def test_environment_can_be_evaluated_twice_without_growing_the_path(lab: RunningLab) -> None:
    first = labkit("env", "--name", lab.name).stdout
    second = labkit("env", "--name", lab.name, env=lab.environment).stdout
    assert "export PATH=" in first
    assert "export PATH=" not in second


def test_other_api_server_is_refused(lab: RunningLab, tmp_path: Path) -> None:
    text = lab.folder.kubeconfig.read_text()
    lab.folder.kubeconfig.write_text(text.replace(lab.address, "127.0.0.77"))
    try:
        with pytest.raises(ClusterError, match=r"found https://127\.0\.0\.77"):
            _ = RunningLab(lab.record, lab.folder).kube
        assert labkit("use", "weighted_average", "--name", lab.name).returncode != 0
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
        done = labkit(verb, "--name", lab.name, env=env)
        assert done.returncode == 0, done.stderr
    after = kubeconfig.stat()
    assert (after.st_mtime_ns, after.st_ino) == (before.st_mtime_ns, before.st_ino)
    assert [path.name for path in kubeconfig.parent.iterdir()] == ["config"]


def _lives(lab: RunningLab) -> set[tuple[str, object]]:
    """Return which pods carry the lab, and how often each of its components was started again."""
    pods = lab.kube.list(PODS, field_selector=f"spec.nodeName={lab.addon_node}")["items"]
    restarts = {(row.component, row.restarts) for row in cluster.status(lab.name)}
    return {(pod["metadata"]["name"], pod["metadata"]["uid"]) for pod in pods} | restarts


def test_two_labs_side_by_side_do_not_touch_each_other(lab: RunningLab, new_lab: NewLab) -> None:
    wait_healthy(lab)
    before = _lives(lab)
    second = new_lab()
    assert second.kube.list(NODES)["metadata"] != lab.kube.list(NODES)["metadata"]
    second.kube.delete(NODES, "kwok-node-5")
    assert second.kube.find(NODES, "kwok-node-5") is None
    assert is_ready(lab.kube.get(NODES, "kwok-node-5"))
    refused = second.kubectl("--kubeconfig", str(second.folder.kubeconfig), "--server", lab.kube.server, "get", "nodes")
    assert refused.returncode != 0
    cluster.down(second.name)
    assert _lives(lab) == before
