from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from labkit import sim
from labkit.cli import main
from labkit.load import LoadTable
from labkit.scenario import load_scenario
from labkit.units import GIB


def node(name: str, **spec: Any) -> dict[str, Any]:
    return {
        "kind": "Node",
        "metadata": {"name": name, "labels": {"kubevirt.io/schedulable": "true"}},
        "spec": spec,
        "status": {"allocatable": {"cpu": "31500m", "memory": "131072Mi", "pods": "250"}},
    }


def instance(name: str, where: str | None, namespace: str = "prod", **domain: Any) -> dict[str, Any]:
    return {
        "kind": "VirtualMachineInstance",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {
            "evictionStrategy": "LiveMigrate",
            "domain": {"cpu": {"cores": 2, "sockets": 2}, "memory": {"guest": "8Gi"}, **domain},
        },
        "status": {"nodeName": where} if where else {},
    }


def launcher(vm: str, where: str) -> dict[str, Any]:
    return {
        "kind": "Pod",
        "metadata": {
            "name": f"virt-launcher-{vm}-x",
            "namespace": "prod",
            "labels": {"kubevirt.io": "virt-launcher", "vm.kubevirt.io/name": vm},
        },
        "spec": {"nodeName": where, "containers": [{"resources": {"requests": {"cpu": "400m", "memory": "4Gi"}}}]},
        "status": {"phase": "Running"},
    }


def files(folder: Path, nodes: list[Any], vms: list[Any]) -> list[str]:
    paths = [folder / "nodes.json", folder / "vms.json"]
    for path, items in zip(paths, (nodes, vms), strict=True):
        path.write_text(json.dumps({"kind": "List", "items": items}), encoding="utf-8")
    return [str(path) for path in paths]


NODES = [node("w1"), node("w2", unschedulable=True, taints=[{"key": "gpu", "effect": "NoSchedule"}])]


def test_a_cluster_becomes_a_scenario_that_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    control = node("control-1")
    control["metadata"]["labels"] = {}
    vms = [instance("db", "w1"), instance("web", "w2"), instance("web", "w1", "test"), instance("off", None)]
    vms.append({"kind": "Pod", "metadata": {"name": "dns"}, "spec": {}})
    out = tmp_path / "mine.yaml"
    assert main(["import", *files(tmp_path, [*NODES, control], vms), "--out", str(out)]) == 0
    scenario = load_scenario(out)
    assert [(n.name, n.cores, n.memory_bytes, n.max_pods, n.unschedulable) for n in scenario.nodes()] == [
        ("w1", 31.5, 128 * GIB, 250, False),
        ("w2", 31.5, 128 * GIB, 250, True),
    ]
    found = {vm.name: (vm.initial_node, vm.cores, vm.memory_bytes) for vm in scenario.vms()}
    assert found == {
        "db": ("w1", 4.0, 8 * GIB),
        "prod-web": ("w2", 4.0, 8 * GIB),
        "test-web": ("w1", 4.0, 8 * GIB),
    }
    said = capsys.readouterr().out
    assert "2 nodes, 3 VMs" in said
    assert "1 VMs that have no node" in said
    assert "1 pods that carry no VM" in said
    assert sim.run(scenario, algorithm="max_metric", duration_seconds=120).summary["vms"] == 3


def test_recorded_load_is_replayed(tmp_path: Path) -> None:
    samples = tmp_path / "samples.csv"
    samples.write_text("time,vm,cpu,memory\n0,prod/db,0.2,0.5\n60,prod/db,0.8,0.6\n", encoding="utf-8")
    (tmp_path / "sub").mkdir()
    out = tmp_path / "sub" / "mine.yaml"
    arguments = files(tmp_path, NODES, [instance("db", "w1"), instance("web", "w1")])
    assert main(["import", *arguments, "--load", str(samples), "--out", str(out)]) == 0
    vms = load_scenario(out).vms()
    cpu, memory = LoadTable([vm.curve for vm in vms], [vm.load_seed for vm in vms]).at(60)
    assert (cpu.tolist(), memory.tolist()) == ([0.8, 0.5], [0.6, 0.8])


def test_launcher_pods_stand_in_for_missing_instances(tmp_path: Path) -> None:
    out = tmp_path / "mine.yaml"
    assert main(["import", *files(tmp_path, NODES, [launcher("db", "w1")]), "--out", str(out)]) == 0
    (vm,) = load_scenario(out).vms()
    assert (vm.name, vm.cores, vm.memory_bytes, vm.initial_node) == ("db", 4.0, 4 * GIB, "w1")


@pytest.mark.parametrize(
    ("nodes", "vms", "message"),
    [
        (NODES, [], "found none"),
        (NODES, [instance("db", "w9")], "VM db: wanted its node among the nodes"),
        (NODES, [instance("db", "w1", memory={})], "VM prod/db: wanted spec.domain.memory.guest"),
        ([{"metadata": {"name": "w1"}}], [instance("db", "w1")], "node w1: wanted status.allocatable.cpu"),
        (["x"], [instance("db", "w1")], "wanted a list of nodes"),
    ],
)
def test_bad_listings_are_one_line_and_write_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], nodes: list[Any], vms: list[Any], message: str
) -> None:
    out = tmp_path / "mine.yaml"
    assert main(["import", *files(tmp_path, nodes, vms), "--out", str(out)]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["nodes.json", "vms.json"]


def test_files_that_are_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "bad.json").write_text("{", encoding="utf-8")
    out = str(tmp_path / "mine.yaml")
    assert main(["import", str(tmp_path / "none.json"), str(tmp_path / "bad.json"), "--out", out]) == 2
    assert "none.json: wanted a file" in capsys.readouterr().err
    good = files(tmp_path, NODES, [])[0]
    assert main(["import", good, str(tmp_path / "bad.json"), "--out", out]) == 2
    assert "bad.json: wanted JSON" in capsys.readouterr().err
