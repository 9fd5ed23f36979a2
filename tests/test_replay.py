from __future__ import annotations

import json
import shutil
import subprocess
from datetime import datetime
from pathlib import Path

import pytest

from labkit.cli import main
from labkit.cluster import tools
from labkit.errors import InputError, ResultError, ToolError
from labkit.lab.replay import replay
from labkit.units import parse_duration

RUN = ["run", "--backend", "sim", "--scenario", "hot-node", "--seed", "3", "--duration", "10m", "--nodes", "4"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("results") / "run"
    assert main([*RUN, "--algorithm", "euclidean_distance", "--thresholds", "0:10", "--out", str(path)]) == 0
    return path


@pytest.fixture(scope="module")
def promtool(request: pytest.FixtureRequest) -> Path:
    try:
        return tools.find("promtool")
    except ToolError as error:
        if request.config.getoption("--live"):
            raise
        pytest.skip(str(error))


def test_a_folder_gives_its_run_again(folder: Path) -> None:
    record, result = replay(folder)
    assert record.policy == {"thresholds": "0:10"}
    assert len(result.migrations) > 0
    assert len(result.migrations) == record.summary["migrations"] + record.summary["migrations_failed"]


def test_another_run_is_refused(folder: Path, tmp_path: Path) -> None:
    copy = tmp_path / "run"
    shutil.copytree(folder, copy)
    content = json.loads((copy / "run.json").read_text())
    content["summary"]["migrations"] += 1
    (copy / "run.json").write_text(json.dumps(content))
    with pytest.raises(ResultError, match="migrations differ"):
        replay(copy)
    content["backend"] = "local"
    (copy / "run.json").write_text(json.dumps(content))
    with pytest.raises(InputError, match="wanted a run of backend sim"):
        replay(copy)


def test_a_run_ends_when_it_was_played_and_prometheus_loads_it(
    folder: Path, tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes], promtool: Path
) -> None:
    assert main(["results", "openmetrics", str(folder)]) == 0
    text = capfdbinary.readouterr().out
    exported = tmp_path / "run.om"
    exported.write_bytes(text)
    lines = text.decode().splitlines()
    assert lines[-1] == "# EOF"
    record, _ = replay(folder)
    played = datetime.fromisoformat(record.started_at).timestamp()
    times = [float(line.split()[-1]) for line in lines if line.startswith("node_cpu_usage_ratio{")]
    assert played - 15 < max(times) <= played
    assert max(times) - min(times) >= parse_duration("10m")

    data = tmp_path / "data"
    blocks = [str(promtool), "tsdb", "create-blocks-from", "openmetrics", str(exported), str(data)]
    subprocess.run(blocks, check=True, capture_output=True)
    (data / "wal").mkdir()  # a server makes it when it starts; dump only looks
    dump = [str(promtool), "tsdb", "dump", '--match={__name__="descheduler:node:euclidean_distance:score"}', str(data)]
    dumped = subprocess.run(dump, check=True, capture_output=True, text=True).stdout.splitlines()
    assert len({line.split('instance="')[1].split('"')[0] for line in dumped}) == 4


def test_lab_time_zero_is_where_it_is_wanted(folder: Path, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    assert main(["results", "openmetrics", str(folder), "--start", "2026-01-01T00:00:00Z"]) == 0
    lines = capfdbinary.readouterr().out.decode().splitlines()
    times = {float(line.split()[-1]) for line in lines if line.startswith("node_cpu_usage_ratio{")}
    assert 1767225601.0 in times  # the first scrape comes at 1 s of lab time
    assert main(["results", "openmetrics", str(folder), "--start", "yesterday"]) == 2
