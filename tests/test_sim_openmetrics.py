from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from labkit import sim
from labkit.scenario import load_scenario

K3 = "linear_amplified_ippd_k3"
START = 1_700_000_000.0


@pytest.fixture(scope="module")
def result() -> sim.SimResult:
    return sim.run(load_scenario("quickstart"), algorithm=K3, seed=1, duration_seconds=120)


def test_every_sample_has_a_line(result: sim.SimResult, tmp_path: Path) -> None:
    path = tmp_path / "run.om"
    result.write_openmetrics(path, start_seconds=START, records=False)
    lines = path.read_text(encoding="utf-8").splitlines()
    assert lines[-1] == "# EOF"
    usage = [line for line in lines if line.startswith("node_cpu_usage_ratio{")]
    scrapes = len(result.database.families["node_cpu_usage_ratio"].times_ms)
    assert len(usage) == 5 * scrapes
    assert re.fullmatch(
        r'node_cpu_usage_ratio\{instance="kwok-node-1",job="metrics-exporter",node="kwok-node-1"\} [0-9.e-]+ \d+\.000',
        usage[0],
    )
    assert not any(line.startswith("descheduler:node:") for line in lines)


def test_a_real_prometheus_can_load_it(result: sim.SimResult, tmp_path: Path) -> None:
    folders = os.pathsep.join(filter(None, [os.environ.get("LABKIT_TOOLS"), os.environ.get("PATH")]))
    promtool = shutil.which("promtool", path=folders)
    if promtool is None:
        pytest.skip("promtool is neither in LABKIT_TOOLS nor on PATH")
    path, data = tmp_path / "run.om", tmp_path / "data"
    result.write_openmetrics(path, start_seconds=START)
    made = subprocess.run(
        [promtool, "tsdb", "create-blocks-from", "openmetrics", str(path), str(data)], capture_output=True, text=True
    )
    assert made.returncode == 0, made.stderr
    (data / "wal").mkdir()  # a server makes it when it starts; dump only looks
    match = '{__name__="descheduler:node:linear_amplified_ippd_k3:avg1m",instance="kwok-node-1"}'
    dumped = subprocess.run(
        [promtool, "tsdb", "dump", f"--match={match}", str(data)], capture_output=True, text=True, check=True
    )
    values = [float(line.split()[-2]) for line in dumped.stdout.splitlines()]
    table = result.query_range(f"{match}", step=1.0)
    assert len(values) > 8
    assert set(table["value"]) <= set(values)
