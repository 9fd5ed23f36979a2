"""A load that is set by hand on a running lab, from the patch to the metrics of the VM's node."""

from __future__ import annotations

import pytest

from labkit import live
from labkit.clock import wait_until
from labkit.cluster import RunningLab
from labkit.lab import Lab

pytestmark = pytest.mark.live

PATIENCE_SECONDS = 60.0


@pytest.mark.timeout(600)
def test_loads_set_by_hand_are_in_the_metrics(lab: RunningLab, backend: str) -> None:
    with Lab(backend=backend, tempo=15, name=lab.name) as running:
        running.apply("quickstart", seed=1)
        running.use("none")
        running.run("1m")
        source = live.LiveSource(running, "weighted_average")
        node = "kwok-node-5"
        vms = sorted(vm for vm, host in source.frame()["vms"].items() if host == node)
        assert vms

        def cpu() -> float:
            row = running.query(f'node_cpu_usage_ratio{{instance="{node}"}}')
            return float(row["value"].iloc[0])

        source.set_load(vms, 0.0)
        wait_until(lambda: cpu() < 0.01, timeout_seconds=PATIENCE_SECONDS, poll_seconds=0.2, what="the node to be idle")
        table = running.vms().set_index("vm")["cores"]
        wanted = float(table[vms].sum()) / 32
        source.set_load(vms, 1.0)
        wait_until(
            lambda: abs(cpu() - min(wanted, 1.0)) < 0.01,
            timeout_seconds=PATIENCE_SECONDS,
            poll_seconds=0.2,
            what="the node's load",
            found=lambda: f"{cpu():.3f}, wanted {wanted:.3f}",
        )
        source.set_load(vms[:1], 0.0)
        less = wanted - float(table[vms[0]]) / 32
        wait_until(
            lambda: abs(cpu() - less) < 0.01,
            timeout_seconds=PATIENCE_SECONDS,
            poll_seconds=0.2,
            what="one VM's load to go",
        )
