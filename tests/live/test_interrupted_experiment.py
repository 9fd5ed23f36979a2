"""An experiment on the running lab that is refused, or interrupted."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from labkit.clock import wait_until
from labkit.cluster import RunningLab
from labkit.kube import CONFIG_MAPS, VIRTUAL_MACHINES
from labkit.names import DESCHEDULER_NAMESPACE, DESCHEDULING_INTERVAL_KEY, LAB_CONFIG_MAP, VM_NAMESPACE
from labkit.runner.live import PROGRESS_FILE

pytestmark = [pytest.mark.live, pytest.mark.timeout(600)]

EXPERIMENT = """
question: What is left of a run that is interrupted?
backend: local
tempo: 15
duration: 30m
matrix:
  algorithm: [linear_amplified_ippd_k3, none]
  scenario: [quickstart]
  seed: [1]
  policy: [{descheduling_interval: 2m}]
"""
OWN_VM = {
    "apiVersion": "simulation.node-classifier.io/v1alpha1",
    "kind": "VirtualMachine",
    "metadata": {"name": "of-my-own", "namespace": VM_NAMESPACE},
    "spec": {"resources": {"cpu": "1", "memory": "1Gi"}},
}


def command(lab: RunningLab, backend: str, folder: Path) -> list[str]:
    """Return the command that plays the experiment in the lab, into a folder."""
    file = folder.with_suffix(".yaml")
    file.write_text(EXPERIMENT)
    options = ["--backend", backend, "--name", lab.name, "--out", str(folder), "--no-report"]
    return [sys.executable, "-m", "labkit", "experiment", str(file), *options]


def test_a_lab_with_vms_of_the_users_own_is_refused_once_and_left_alone(
    lab: RunningLab, backend: str, tmp_path: Path
) -> None:
    lab.kube.create(VIRTUAL_MACHINES, OWN_VM)
    try:
        done = subprocess.run(command(lab, backend, tmp_path / "out"), capture_output=True, text=True, timeout=120)
        assert done.returncode == 2, done.stderr
        assert done.stderr.startswith("labkit: wanted a lab without VMs of your own, found 1 ")
        assert len(done.stderr.splitlines()) == 1
        assert not (tmp_path / "out").exists()
        assert lab.kube.find(VIRTUAL_MACHINES, "of-my-own", VM_NAMESPACE) is not None
    finally:
        lab.kube.delete(VIRTUAL_MACHINES, "of-my-own", VM_NAMESPACE)


def test_ctrl_c_undoes_the_run_and_leaves_the_terminal_quiet(lab: RunningLab, backend: str, tmp_path: Path) -> None:
    def interval() -> str:
        return str(lab.kube.get(CONFIG_MAPS, LAB_CONFIG_MAP, DESCHEDULER_NAMESPACE)["data"][DESCHEDULING_INTERVAL_KEY])

    def playing() -> bool:
        states = [json.loads(path.read_text()) for path in folder.glob(f".partial-*/{PROGRESS_FILE}")]
        return any(state["lab_seconds"] > 60.0 for state in states)

    folder, before = tmp_path / "out", interval()
    process = subprocess.Popen(
        command(lab, backend, folder), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
        start_new_session=True,
    )  # fmt: skip
    try:
        wait_until(playing, timeout_seconds=240, poll_seconds=0.5, what="lab time 60 s")
        assert interval() != before
        os.killpg(process.pid, signal.SIGINT)
        _, errors = process.communicate(timeout=200)
    finally:
        if process.poll() is None:
            process.kill()
            process.communicate()
    assert process.returncode == 130, errors
    assert "Traceback" not in errors
    assert "labkit: interrupted; the same command goes on" in errors
    assert interval() == before
    assert sorted(path.name for path in folder.iterdir()) == ["experiment.json", "scenarios"]
    assert json.loads((folder / "experiment.json").read_text())["status"] == "interrupted"
