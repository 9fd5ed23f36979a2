from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml

from labkit.errors import InputError, ScenarioError, TraceError
from labkit.load import LoadTable
from labkit.scenario import Scenario, load_scenario, parse_scenario
from labkit.traces import load_traces

BITBRAINS_HEAD = (
    "Timestamp [ms];\tCPU cores;\tCPU capacity provisioned [MHZ];\tCPU usage [MHZ];\tCPU usage [%];\t"
    "Memory capacity provisioned [KB];\tMemory usage [KB];\tDisk read throughput [KB/s]"
)


def bitbrains(*rows: tuple[float, float, float, float], scale: int = 1) -> str:
    lines = [f"{int(t * scale)};\t4;\t11704;\t10;\t{cpu};\t{whole};\t{used};\t0" for t, cpu, whole, used in rows]
    return "\n".join([BITBRAINS_HEAD, *lines]) + "\n"


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def document(**pool: Any) -> dict[str, Any]:
    return {
        "apiVersion": "simulation.node-classifier.io/v1alpha1",
        "kind": "SimulationScenario",
        "metadata": {"name": "replay"},
        "spec": {"duration": "30m", "nodePools": [{"name": "n", "count": 2}], "vmPools": [{"name": "a", **pool}]},
    }


def scenario_file(folder: Path, **pool: Any) -> Path:
    return write(folder / "scenario.yaml", yaml.safe_dump(document(**pool)))


def cpu_at(scenario: Scenario, seconds: float) -> list[float]:
    vms = sorted(scenario.vms(), key=lambda vm: vm.name)
    values, _ = LoadTable([vm.curve for vm in vms], [vm.load_seed for vm in vms]).at(seconds)
    return [float(value) for value in values]


def test_planetlab(tmp_path: Path) -> None:
    write(tmp_path / "vm_a", "24\n34\n100\n")
    write(tmp_path / "vm_b", "0\n1\n2\n")
    first, second = load_traces(tmp_path, "planetlab")
    assert (first.name, first.interval_seconds, first.cpu, first.memory) == ("vm_a", 300.0, (0.24, 0.34, 1.0), ())
    assert second.cpu == (0.0, 0.01, 0.02)


@pytest.mark.parametrize("scale", [1, 1000])
def test_bitbrains_in_seconds_and_in_milliseconds(tmp_path: Path, scale: int) -> None:
    text = bitbrains((1376314846, 93.2, 67108864, 33554432), (1376315146, 5, 67108864, 0), scale=scale)
    (trace,) = load_traces(write(tmp_path / "1.csv", text), "bitbrains")
    assert trace.interval_seconds == 300.0
    assert trace.cpu == (0.932, 0.05)
    assert trace.memory == (0.5, 0.0)


def test_csv_and_parquet_are_alike(tmp_path: Path) -> None:
    frame = pd.DataFrame(
        {
            "time": [0, 60, 0, 60],
            "vm": ["x", "x", "y", "y"],
            "cpu": [0.1, 0.2, 0.3, 0.4],
            "memory": [0.5, 0.6, 0.7, 0.8],
        }
    )
    frame.to_csv(tmp_path / "t.csv", index=False)
    frame.to_parquet(tmp_path / "t.parquet", index=False)
    from_csv = load_traces(tmp_path / "t.csv", "csv")
    assert from_csv == load_traces(tmp_path / "t.parquet", "parquet")
    assert [(trace.name, trace.cpu, trace.memory) for trace in from_csv] == [
        ("x", (0.1, 0.2), (0.5, 0.6)),
        ("y", (0.3, 0.4), (0.7, 0.8)),
    ]


def test_memory_may_be_absent(tmp_path: Path) -> None:
    (trace,) = load_traces(write(tmp_path / "t.csv", "time,vm,cpu\n0,x,0.1\n60,x,0.2\n"), "csv")
    assert trace.memory == ()


def test_jitter_is_no_gap_and_a_gap_can_be_held(tmp_path: Path) -> None:
    jitter = bitbrains((0, 1, 10, 1), (301, 2, 10, 1), (600, 3, 10, 1), (899, 4, 10, 1))
    (trace,) = load_traces(write(tmp_path / "j.csv", jitter), "bitbrains")
    assert trace.cpu == (0.01, 0.02, 0.03, 0.04)
    path = write(tmp_path / "g.csv", "time,vm,cpu\n0,x,0.1\n60,x,0.2\n120,x,0.3\n300,x,0.6\n")
    with pytest.raises(TraceError, match=r"g\.csv:5: .*a gap of 180 s; .*gaps: hold"):
        load_traces(path, "csv")
    (held,) = load_traces(path, "csv", hold_gaps=True)
    assert held.cpu == (0.1, 0.2, 0.3, 0.3, 0.3, 0.6)


@pytest.mark.parametrize(
    ("format_name", "text", "message"),
    [
        ("planetlab", "12\n-3\n", r":2: wanted a whole number from 0 to 100 \(percent\), found '-3'"),
        ("planetlab", "12\n101\n", ":2: wanted a whole number"),
        ("planetlab", "", "wanted samples"),
        ("bitbrains", "a;b\n", ":1: wanted the columns Timestamp"),
        ("bitbrains", BITBRAINS_HEAD + "\n1;\t2;\tx\n", ":2: wanted numbers parted by ';'"),
        ("bitbrains", BITBRAINS_HEAD + "\n", "two samples or more"),
        ("csv", "t,vm,cpu\n", r":1: wanted the columns time, vm, cpu\[, memory\]; missing: time"),
        ("csv", "time,vm,cpu\n0,x,much\n", ":2: wanted a number for cpu, found 'much'"),
        ("csv", "time,vm,cpu\n0,x,0.1\n0,x,0.1\n", ":3: wanted rising times of VM x"),
        ("csv", "time,vm,cpu\n0,x,0.1\n60,x,1.5\n", r":3: wanted cpu within \[0, 1\], found 1.5"),
        ("csv", "time,vm,cpu\n0,x\n", ":2: .*missing: cpu"),
        ("parquet", "no parquet", "wanted a Parquet file"),
        ("gwa", "", "wanted one of the formats planetlab, bitbrains, csv, parquet"),
    ],
)
def test_a_malformed_trace_is_one_line_with_file_and_line(
    tmp_path: Path, format_name: str, text: str, message: str
) -> None:
    path = write(tmp_path / "trace", text)
    with pytest.raises(TraceError, match=message) as caught:
        load_traces(path, format_name)
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)


def test_a_pool_replays_traces(tmp_path: Path) -> None:
    (tmp_path / "traces").mkdir()
    for number in range(3):
        write(tmp_path / "traces" / f"vm{number}", "".join(f"{10 * number + step}\n" for step in range(4)))
    traces = {"path": "traces", "format": "planetlab", "memory": 0.4}
    scenario = load_scenario(scenario_file(tmp_path, count=6, traces=traces))
    start = cpu_at(scenario, 0)
    assert sorted(start) == [0.0, 0.0, 0.1, 0.1, 0.2, 0.2]
    assert [round(later - now, 4) for now, later in zip(start, cpu_at(scenario, 600), strict=True)] == [0.02] * 6
    again = parse_scenario(scenario.document, "object")
    assert again.expand() == scenario.expand(), "the object that goes to a cluster holds the samples"


def test_one_shape_replays_one_vm_of_a_table(tmp_path: Path) -> None:
    write(tmp_path / "t.csv", "time,vm,cpu,memory\n0,x,0.1,0.5\n60,x,0.2,0.5\n0,y,0.7,0.5\n60,y,0.8,0.5\n")
    load = {"cpu": {"kind": "trace", "path": "t.csv", "format": "csv", "vm": "y", "repeat": True}, "memory": 0.5}
    scenario = load_scenario(scenario_file(tmp_path, count=1, load=load))
    assert [cpu_at(scenario, t) for t in (0, 60, 120)] == [[0.7], [0.8], [0.7]]


@pytest.mark.parametrize(
    ("pool", "message"),
    [
        ({"traces": {"path": "nowhere", "format": "csv"}}, "nowhere"),
        ({"traces": {"path": "t.csv"}}, r"spec\.vmPools\[0\]\.traces\.format: wanted text"),
        ({"traces": {"path": "t.csv", "format": "csv", "gap": 1}}, r"traces\.gap: unknown field"),
        ({"traces": {"path": "t.csv", "format": "csv", "limit": 0}}, r"traces\.limit"),
        (
            {"load": {"cpu": {"kind": "trace", "path": "t.csv", "format": "csv", "vm": "z"}, "memory": 0}},
            "wanted one of",
        ),
        ({"load": {"cpu": 0, "memory": {"kind": "trace", "path": "t.csv", "format": "csv"}}}, "has no memory"),
    ],
)
def test_a_wrong_reference_names_the_field(tmp_path: Path, pool: dict[str, Any], message: str) -> None:
    write(tmp_path / "t.csv", "time,vm,cpu\n0,x,0.1\n60,x,0.2\n")
    with pytest.raises(InputError, match=message):
        load_scenario(scenario_file(tmp_path, count=1, **pool))


def test_an_object_in_a_cluster_cannot_name_files() -> None:
    with pytest.raises(ScenarioError, match="read where scenario files are, not in a cluster"):
        parse_scenario(document(count=1, traces={"path": "t", "format": "csv"}), "scenario replay")
