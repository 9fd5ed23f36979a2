"""Everything is killed once while the loop runs; no invariant is ever violated, and the loop does its work."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import small_disk
import victims
from invariants import Invariants
from labs import unhealthy

from labkit import Lab
from labkit.clock import wait_until
from labkit.cluster import RunningLab
from labkit.cluster.config import cache_home
from labkit.lab import Progress, Run
from labkit.names import DESCHEDULER_NAMESPACE, EXPORTER_PORT, MONITORING_NAMESPACE

pytestmark = [pytest.mark.live, pytest.mark.timeout(1200)]

ADDONS = (
    (MONITORING_NAMESPACE, "eviction-webhook", "services.eviction_webhook"),
    (MONITORING_NAMESPACE, "pod-manager", "services.pod_manager"),
    (MONITORING_NAMESPACE, "metrics-exporter", "services.exporter"),
    (MONITORING_NAMESPACE, "vm-controller", "services.vm_controller"),
    (MONITORING_NAMESPACE, "scenario-controller", "services.scenario_controller"),
    (MONITORING_NAMESPACE, "scorer", "services.scorer"),
    (MONITORING_NAMESPACE, "prometheus", "prometheus --config.file"),
    (DESCHEDULER_NAMESPACE, "descheduler", "descheduler --policy-config-file"),
)
DURATION = "30m"
SECONDS_TO_REPAIR = 120.0


class Playing:
    """A run in a thread of its own, and how far it is."""

    def __init__(self, lab: RunningLab) -> None:
        self._lab = lab
        self._thread = threading.Thread(target=self._play, name="run", daemon=True)
        self.progress: Progress | None = None
        self.run: Run | None = None
        self.error: BaseException | None = None

    def start(self) -> Playing:
        self._thread.start()
        wait_until(self.is_running, timeout_seconds=300, what="the run to begin")
        return self

    def is_running(self) -> bool:
        if self.error is not None:
            raise self.error
        return self.progress is not None and self.progress.phase == "running"

    def result(self) -> Run:
        self._thread.join(timeout=600)
        if self.error is not None:
            raise self.error
        assert self.run is not None, "the run did not end"
        return self.run

    def _play(self) -> None:
        try:
            with Lab(backend=self._lab.backend, name=self._lab.name) as lab:
                lab.apply("quickstart", seed=3)
                lab.use("linear_amplified_ippd_k3")
                self.run = lab.run(DURATION, progress=self._tell)
        except BaseException as error:
            self.error = error

    def _tell(self, progress: Progress) -> None:
        self.progress = progress


@pytest.fixture(scope="module")
def survivor(lab: RunningLab) -> Iterator[Run]:
    """Play a run, and kill each component once while it is played."""
    watch = Invariants(
        lab.kube,
        exporter_url=lab.url(EXPORTER_PORT),
        audit_log=lab.folder.audit_log if lab.backend == "local" else None,
        # While its writer is dead a difference stays as it is.
        lasting_seconds=SECONDS_TO_REPAIR,
        without_pod_seconds=SECONDS_TO_REPAIR,
    )
    playing = Playing(lab).start()
    with watch:
        for component in victims.components(lab):
            before = victims.restarts(lab, component)
            victims.kill_component(lab, component)
            wait_until(
                lambda component=component, before=before: victims.restarts(lab, component) > before,
                timeout_seconds=SECONDS_TO_REPAIR,
                what=f"{component} to be started anew",
            )
            wait_until(
                lambda: not unhealthy(lab),
                timeout_seconds=SECONDS_TO_REPAIR,
                what=f"everything to be well after {component} was killed",
                found=lambda: str(unhealthy(lab)),
            )
        for namespace, app, words in ADDONS:
            assert victims.kill_addon(lab, words) > 0, f"no process of {app} was there to be killed"
            wait_until(
                lambda namespace=namespace, app=app: f"{namespace}/{app}" not in " ".join(unhealthy(lab)),
                timeout_seconds=SECONDS_TO_REPAIR,
                what=f"{app} to be ready again",
            )
        yield playing.result()


def test_the_loop_did_its_work_all_the_same(survivor: Run) -> None:
    assert survivor.summary["migrations"] >= 4
    assert survivor.summary["cpu_stddev_final"] < 0.5 * survivor.summary["cpu_stddev_initial"]


def test_no_vm_was_lost(lab: RunningLab, survivor: Run) -> None:
    with Lab(backend=lab.backend, name=lab.name) as door:
        vms = door.vms()
    assert len(vms) == survivor.summary["vms"] == 50
    assert (vms["node"] != "").all()


def test_everything_is_well_in_the_end(lab: RunningLab, survivor: Run) -> None:
    wait_until(
        lambda: not unhealthy(lab),
        timeout_seconds=SECONDS_TO_REPAIR,
        what="all components",
        found=lambda: str(unhealthy(lab)),
    )


def test_full_disk_is_told_and_a_lab_is_well_again_when_there_is_room(backend: str, tmp_path: Path) -> None:
    if backend != "local":
        pytest.skip("about host processes")
    private = ["unshare", "--user", "--map-root-user", "--mount"]
    tried = subprocess.run([*private, "mount", "-t", "tmpfs", "tmpfs", str(tmp_path)], capture_output=True, check=False)
    if tried.returncode:
        pytest.skip(f"no small disk can be mounted here: {tried.stderr.decode()}")
    done = subprocess.run(
        [*private, sys.executable, small_disk.__file__],
        env={**os.environ, "LABKIT_STATE": str(tmp_path), "LABKIT_CACHE": str(cache_home())},
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["status, full"]["code"] == 1
    assert "the disk is full (0 MiB free in " in told["status, full"]["out"]
    refused = told["up, full"]
    assert (refused["code"], refused["err"].count("\n")) == (1, 1), refused
    assert "No space left on device; make room" in refused["err"]
    assert told["up, with room"]["code"] == 0, told["up, with room"]
    assert told["down, full"]["code"] == 0, told["down, full"]
    assert "is down" in told["down, full"]["out"]
