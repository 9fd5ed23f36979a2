from __future__ import annotations

import copy
import pickle
from pathlib import Path
from typing import Any

import pytest
import yaml

from labkit.datafiles import data_path
from labkit.errors import InputError, ScenarioError
from labkit.load import LoadTable
from labkit.scenario import load_scenario, parse_scenario, scenario_names
from labkit.units import GIB


def document(**spec: Any) -> dict[str, Any]:
    return {
        "apiVersion": "simulation.node-classifier.io/v1alpha1",
        "kind": "SimulationScenario",
        "metadata": {"name": "made"},
        "spec": {
            "duration": "30m",
            "nodePools": [{"name": "node", "count": 3, "resources": {"cpu": 32, "memory": "64Gi"}}],
            "vmPools": [{"name": "web", "count": 4, "resources": {"cpu": 2, "memory": "8Gi"}}],
            **spec,
        },
    }


@pytest.mark.parametrize("name", scenario_names())
def test_every_shipped_scenario_expands_and_asks_a_question(name: str) -> None:
    scenario = load_scenario(name)
    assert scenario.name == name
    assert scenario.question.endswith("?")
    text = data_path("experiments", "scenarios", f"{name}.yaml").read_text(encoding="utf-8")
    assert text.startswith("# "), "the first line says what it asks"
    assert scenario.vms()
    for seed in (1, 2):
        assert scenario.expand(seed) == scenario.expand(seed)


def test_the_quickstart_starts_skewed() -> None:
    scenario = load_scenario("quickstart")
    vms = scenario.vms()
    assert len(scenario.nodes()) == 5
    assert 45 <= len(vms) <= 55
    cpu, _ = LoadTable([vm.curve for vm in vms], [vm.load_seed for vm in vms]).at(0)
    hot = sum(vm.cores * share for vm, share in zip(vms, cpu, strict=True) if vm.initial_node == "kwok-node-1")
    assert hot / 32 > 0.8


def test_the_same_seed_gives_the_same_vms_and_another_seed_others() -> None:
    pools = [
        {"name": "a", "count": 20, "resources": {"cpu": {"choice": [1, 2, 4]}, "memory": {"uniform": ["1Gi", "8Gi"]}}}
    ]
    scenario = parse_scenario(document(vmPools=pools), "made")
    assert scenario.vms(1) == scenario.vms(1)
    assert scenario.vms(1) != scenario.vms(2)
    assert {vm.cores for vm in scenario.vms(1)} == {1.0, 2.0, 4.0}
    assert all(GIB <= vm.memory_bytes <= 8 * GIB for vm in scenario.vms(1))


def test_adding_a_pool_changes_no_other_vm() -> None:
    pool = {"name": "a", "count": 5, "load": {"cpu": {"uniform": [0.1, 0.9]}, "memory": 0.5}}
    alone = parse_scenario(document(vmPools=[pool]), "made").vms(7)
    beside = parse_scenario(document(vmPools=[{"name": "b", "count": 3}, pool]), "made").vms(7)
    assert alone == beside[3:]


def test_drawn_parameters_of_a_shape_differ_between_vms() -> None:
    load = {
        "cpu": {"kind": "diurnal", "low": 0.1, "high": {"uniform": [0.5, 0.9]}, "peak": {"uniform": [0, "1h"]}},
        "memory": 0.5,
    }
    vms = parse_scenario(document(vmPools=[{"name": "a", "count": 10, "load": load}]), "made").vms()
    highs = {dict(vm.curve.cpu.parameters)["high"] for vm in vms}
    peaks = {dict(vm.curve.cpu.parameters)["peak"] for vm in vms}
    assert len(highs) == len(peaks) == 10
    assert all(0.5 <= high <= 0.9 for high in highs)
    assert all(0 <= peak <= 3600 for peak in peaks)


def test_packed_fills_one_node_after_the_other() -> None:
    pool = {"name": "a", "count": 10, "resources": {"cpu": 1, "memory": "16Gi"}, "placement": {"strategy": "packed"}}
    vms = parse_scenario(document(vmPools=[pool]), "made").vms()
    assert [vm.initial_node for vm in vms] == ["node-1"] * 4 + ["node-2"] * 4 + ["node-3"] * 2


def test_skewed_puts_a_share_on_the_hot_nodes_and_leaves_the_rest() -> None:
    rule = {"strategy": "skewed", "nodes": ["node-2", "node-3"], "hotShare": 0.5}
    vms = parse_scenario(document(vmPools=[{"name": "a", "count": 8, "placement": rule}]), "made").vms()
    assert [vm.initial_node for vm in vms] == ["node-2", "node-3", "node-2", "node-3", "", "", "", ""]


def test_events_resolve_names_in_order_of_time() -> None:
    timeline = [
        {"at": "10m", "type": "delete_vms", "pool": "web", "count": 2},
        {"at": "5m", "type": "create_vms", "pool": "web", "count": 2},
        {"at": "1m", "type": "add_nodes", "pool": "node"},
        {"at": "2m", "type": "drain_node", "node": "node-4"},
        {"at": "12m", "type": "resize_vms", "vms": ["web-5"], "resources": {"cpu": 4}},
    ]
    expansion = parse_scenario(document(timeline=timeline), "made").expand()
    kinds = [(event.at_seconds, event.type) for event in expansion.events]
    assert kinds == [
        (60, "add_nodes"),
        (120, "drain_node"),
        (300, "create_vms"),
        (600, "delete_vms"),
        (720, "resize_vms"),
    ]
    assert [vm.name for vm in expansion.events[2].vms] == ["web-5", "web-6"]
    assert expansion.events[3].vm_names == ("web-1", "web-2")
    assert expansion.events[4].cores == 4.0
    assert [node.name for node in expansion.all_nodes] == ["node-1", "node-2", "node-3", "node-4"]


def test_a_surge_becomes_part_of_the_load() -> None:
    timeline = [{"at": "5m", "type": "surge", "pool": "web", "share": 0.5, "cpu": 0.3, "duration": "5m"}]
    load = {"cpu": 0.2, "memory": 0.5}
    scenario = parse_scenario(document(vmPools=[{"name": "web", "count": 4, "load": load}], timeline=timeline), "made")
    vms = scenario.vms()
    cpu, _ = LoadTable([vm.curve for vm in vms], [vm.load_seed for vm in vms]).at(300)
    assert sorted(cpu) == [0.2, 0.2, 0.5, 0.5]


def test_a_scenario_grows_with_its_nodes() -> None:
    grown = load_scenario("quickstart").with_nodes(20).expand()
    assert len(grown.nodes) == 20
    assert len(grown.vms) == 200
    assert len({vm.initial_node for vm in grown.vms if vm.initial_node}) == 8


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"durations": "5m"}, r"spec\.durations: unknown field"),
        ({"duration": "soon"}, r"spec\.duration: wanted a duration"),
        ({"duration": 0}, r"spec\.duration: wanted more than 0"),
        ({"seed": -1}, r"spec\.seed: wanted at least 0"),
        ({"networkBandwidthMbps": 0}, r"spec\.networkBandwidthMbps: wanted at least 1"),
        ({"vmPools": [{"name": "a"}]}, r"spec\.vmPools\[0\]\.count: wanted a value"),
        ({"vmPools": [{"name": "A_b", "count": 1}]}, r"spec\.vmPools\[0\]\.name"),
        ({"vmPools": [{"name": "a", "count": "3"}]}, r"spec\.vmPools\[0\]\.count: wanted integer"),
        ({"vmPools": [{"name": "a", "count": 1, "lod": {}}]}, r"spec\.vmPools\[0\]\.lod: unknown field"),
        ({"vmPools": [{"name": "a", "count": 1}] * 2}, "a twice"),
        ({"vmPools": [{"name": "a", "count": 1, "resources": {"memory": "65Gi"}}]}, "at most 64 GiB"),
        ({"vmPools": [{"name": "a", "count": 1, "resources": {"cpu": 33}}]}, "at most 32 cores"),
        ({"vmPools": [{"name": "a", "count": 1, "resources": {"cpu": "many"}}]}, r"resources\.cpu: wanted a quantity"),
        ({"vmPools": [{"name": "a", "count": 1, "resources": {"cpu": {"uniform": [4, 1]}}}]}, "lower bound first"),
        ({"vmPools": [{"name": "a", "count": 1, "resources": {"cpu": {"gauss": 1}}}]}, "wanted a number or one of"),
        ({"vmPools": [{"name": "a", "count": 1, "load": {"cpu": {"uniform": [0, 2]}, "memory": 0}}]}, r"within \[0"),
        ({"vmPools": [{"name": "a", "count": 1, "load": {"cpu": 0.5}}]}, r"load\.memory"),
        ({"vmPools": [{"name": "a", "count": 1, "load": {"cpu": 7, "memory": 0}}]}, r"load\.cpu: wanted a number"),
        ({"vmPools": [{"name": "a", "count": 1, "placement": {"strategy": "cosy"}}]}, "scheduler, packed, skewed"),
        ({"vmPools": [{"name": "a", "count": 30, "placement": {"strategy": "packed", "nodes": ["node-2"]}}]}, "room"),
        ({"vmPools": [{"name": "a", "count": 1, "placement": {"strategy": "packed", "nodes": ["x"]}}]}, "lab time 0"),
        ({"vms": [{"name": "web-1"}]}, "web-1 twice"),
        ({"vms": [{"name": "v", "node": "x"}]}, "wanted a node of lab time 0"),
        ({"nodePools": []}, "at least one node"),
        ({"timeline": [{"at": "5m", "type": "explode"}]}, r"spec\.timeline\[0\]\.type: wanted one of"),
        ({"timeline": [{"at": "5m", "type": "drain_node"}]}, r"timeline\[0\]\.node: wanted a value"),
        ({"timeline": [{"at": "5m", "type": "drain_node", "node": "x"}]}, "a node that exists then"),
        ({"timeline": [{"at": "5m", "type": "drain_node", "node": "node-1", "count": 2}]}, "has no such field"),
        ({"timeline": [{"at": "5h", "type": "drain_node", "node": "node-1"}]}, "an instant within 1800 s"),
        ({"timeline": [{"at": 0, "type": "delete_vms", "pool": "web", "count": 9}]}, "at most 4"),
        ({"timeline": [{"at": 0, "type": "delete_vms"}]}, "vms or pool"),
        ({"timeline": [{"at": 0, "type": "resize_vms", "vms": ["x"], "resources": {}}]}, "VMs that exist then"),
    ],
)  # fmt: skip
def test_a_wrong_scenario_is_one_line_with_source_and_field(spec: dict[str, Any], message: str) -> None:
    with pytest.raises(ScenarioError, match=message) as caught:
        parse_scenario(document(**spec), "made.yaml")
    assert str(caught.value).startswith("made.yaml: ")
    assert "\n" not in str(caught.value)


def test_a_wrong_head_is_refused() -> None:
    for field, value in (("apiVersion", "v1"), ("kind", "Pod"), ("metadata", {})):
        with pytest.raises(ScenarioError, match=field):
            parse_scenario({**document(), field: value}, "made")
    with pytest.raises(ScenarioError, match="wanted a SimulationScenario"):
        parse_scenario([], "made")


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(ScenarioError, match=r"one of .*quickstart"):
        load_scenario("quickstrat")
    with pytest.raises(ScenarioError, match="found none at"):
        load_scenario(tmp_path / "none.yaml")
    broken = tmp_path / "broken.yaml"
    broken.write_text("spec: [", encoding="utf-8")
    with pytest.raises(ScenarioError, match=r"broken\.yaml, line \d: wanted YAML"):
        load_scenario(broken)
    twice = tmp_path / "twice.yaml"
    twice.write_text("kind: a\nkind: b\n", encoding="utf-8")
    with pytest.raises(ScenarioError, match="kind given twice"):
        load_scenario(twice)


def test_the_document_of_a_scenario_is_a_scenario_again() -> None:
    scenario = load_scenario("quickstart")
    again = parse_scenario(copy.deepcopy(dict(scenario.document)), "again")
    assert again.expand() == scenario.expand()


def test_every_field_of_the_schema_is_read_somewhere() -> None:
    crd = yaml.safe_load(data_path("k8s", "crds", "simulationscenarios.yaml").read_text(encoding="utf-8"))
    spec = crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"]
    sources = "".join(path.read_text(encoding="utf-8") for path in data_path("labkit", "scenario").glob("*.py"))
    sources += "".join(
        path.read_text(encoding="utf-8") for path in data_path("services", "scenario_controller").glob("*.py")
    )
    unread = [name for name in spec if f'"{name}"' not in sources]
    assert unread == []


def test_with_duration_shortens_and_refuses_nonsense() -> None:
    scenario = load_scenario("quickstart").with_duration(300)
    assert scenario.duration_seconds == 300
    with pytest.raises(InputError, match="more than 0"):
        scenario.with_duration(0)
    with pytest.raises(InputError, match="1 node or more"):
        scenario.with_nodes(0)


def test_a_shorter_run_leaves_out_the_events_that_it_does_not_reach() -> None:
    scenario = load_scenario("churn")
    half = scenario.with_duration(1800)
    assert [event.at_seconds for event in half.events(1)] == [
        event.at_seconds for event in scenario.events(1) if event.at_seconds <= 1800
    ]
    assert len(half.timeline) < len(scenario.timeline)
    for name in scenario_names():
        assert all(event.at_seconds <= 60 for event in load_scenario(name).with_duration(60).events(1))


def test_a_scenario_survives_the_way_to_a_worker() -> None:
    scenario = load_scenario("quickstart")
    scenario.expand(1)
    again = pickle.loads(pickle.dumps(scenario))
    assert again == scenario
    assert again.expand(1) == scenario.expand(1)
    assert scenario.with_nodes(10).expand(1) != scenario.expand(1)
