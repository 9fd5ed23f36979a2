"""A scenario's life: placed, settled, started, played, completed; on a small API server in memory."""

from __future__ import annotations

from typing import Any

import pytest
from fake_kube import FakeKube, FakeStore

from labkit.clock import VirtualClock
from labkit.errors import KubeError
from labkit.kube import (
    CONFIG_MAPS,
    NODES,
    PODS,
    SIMULATION_SCENARIOS,
    VIRTUAL_MACHINES,
    Resource,
)
from labkit.names import EPOCH_KEY, INITIAL_NODE_ANNOTATION, LOAD_ANNOTATION, SETTLE_SECONDS
from services.scenario_controller.app import ScenarioController

TEMPO = 15
START = 1_000_000.0


class Stage:
    """A controller, its cluster, and what a test does to them."""

    def __init__(self) -> None:
        self.clock = VirtualClock(START)
        self.kube = FakeKube(self.clock)
        self.config_map("lab", {EPOCH_KEY: repr(START - 100), "LAB_TEMPO": str(TEMPO)})
        self.config_map("migration-policy", {})
        self.controller = self.new_controller()

    def new_controller(self) -> ScenarioController:
        stores: dict[str, Any] = {
            "scenarios": FakeStore(self.kube, SIMULATION_SCENARIOS),
            "vms": FakeStore(self.kube, VIRTUAL_MACHINES),
            "nodes": FakeStore(self.kube, NODES),
            "pods": FakeStore(self.kube, PODS),
        }
        return ScenarioController(self.kube, tempo=TEMPO, clock=self.clock, **stores)  # type: ignore[arg-type]

    def config_map(self, name: str, data: dict[str, str]) -> None:
        self.kube.put(CONFIG_MAPS, {"metadata": {"name": name, "namespace": "monitoring"}, "data": data})

    def scenario(self, name: str = "small", **spec: Any) -> None:
        self.kube.put(
            SIMULATION_SCENARIOS,
            {
                "apiVersion": "simulation.node-classifier.io/v1alpha1",
                "kind": "SimulationScenario",
                "metadata": {"name": name, "namespace": "default", "generation": 1},
                "spec": {
                    "duration": "10m",
                    "nodePools": [{"name": "n", "count": 2}],
                    "vmPools": [
                        {
                            "name": "vm",
                            "count": 3,
                            "load": {"cpu": 0.5, "memory": 0.5},
                            "placement": {"strategy": "skewed", "nodes": ["n-1"], "hotShare": 1},
                        }
                    ],
                    **spec,
                },
            },
        )

    def status(self, name: str = "small") -> dict[str, Any]:
        status: dict[str, Any] = self.kube.get(SIMULATION_SCENARIOS, name, "default").get("status", {})
        return status

    def epoch(self) -> float:
        return float(self.kube.get(CONFIG_MAPS, "lab", "monitoring")["data"][EPOCH_KEY])

    def names(self, resource: Resource) -> list[str]:
        return sorted(obj["metadata"]["name"] for obj in self.kube.all(resource))

    def let_all_run(self) -> None:
        for name in self.names(VIRTUAL_MACHINES):
            self.kube.change(VIRTUAL_MACHINES, name, {"status": {"phase": "Running"}})

    def until_started(self) -> None:
        self.controller.look()
        self.let_all_run()
        self.controller.look()
        self.clock.wait(SETTLE_SECONDS / TEMPO)
        self.controller.look()
        assert self.status()["phase"] == "Running"


@pytest.fixture
def stage() -> Stage:
    return Stage()


def test_nodes_and_vms_are_made_with_their_load_and_their_first_node(stage: Stage) -> None:
    stage.scenario()
    stage.controller.look()
    assert stage.names(NODES) == ["n-1", "n-2"]
    vms = stage.kube.all(VIRTUAL_MACHINES)
    assert len(vms) == 3
    assert {vm["metadata"]["annotations"][INITIAL_NODE_ANNOTATION] for vm in vms} == {"n-1"}
    assert all(LOAD_ANNOTATION in vm["metadata"]["annotations"] for vm in vms)
    assert all(vm["metadata"]["ownerReferences"][0]["name"] == "small" for vm in vms)


def test_a_scenario_owns_the_simulated_nodes(stage: Stage) -> None:
    stage.kube.put(NODES, {"metadata": {"name": "left-over"}})
    stage.scenario()
    stage.controller.look()
    assert ("delete", "nodes", "left-over") in stage.kube.writes
    assert stage.names(NODES) == ["left-over", "n-1", "n-2"], "the API server takes its time over it"
    assert stage.status()["phase"] == "Pending"


def test_lab_time_stands_still_while_vms_are_placed(stage: Stage) -> None:
    stage.scenario()
    stage.controller.look()
    assert stage.epoch() > START + 365 * 86400
    assert stage.status()["phase"] == "Pending"


def test_links_are_set_even_where_lab_time_stands_still_already(stage: Stage) -> None:
    stage.kube.refuses = lambda verb, resource, name: (
        KubeError("away", status=503) if (verb, name) == ("patch", "migration-policy") else None
    )
    stage.scenario()
    with pytest.raises(KubeError, match="away"):
        stage.controller.look()
    stage.kube.refuses = lambda verb, resource, name: None
    stage.controller.look()
    assert stage.kube.get(CONFIG_MAPS, "migration-policy", "monitoring")["data"]["networkBandwidthMbps"] == "10000"


def test_it_starts_when_all_vms_have_run_for_the_length_of_the_windows(stage: Stage) -> None:
    stage.scenario()
    stage.controller.look()
    stage.let_all_run()
    wait = stage.controller.look()
    assert wait == pytest.approx(SETTLE_SECONDS / TEMPO)
    stage.clock.wait(wait - 0.01)
    stage.controller.look()
    assert stage.status()["phase"] == "Pending"
    stage.clock.wait(0.01)
    stage.controller.look()
    assert stage.status()["phase"] == "Running"
    assert stage.epoch() == stage.clock.now()
    assert stage.status()["startTime"].endswith("Z")


def test_a_vm_that_stops_running_makes_it_settle_anew(stage: Stage) -> None:
    stage.scenario()
    stage.controller.look()
    stage.let_all_run()
    stage.controller.look()
    stage.kube.change(VIRTUAL_MACHINES, stage.names(VIRTUAL_MACHINES)[0], {"status": {"phase": "Scheduling"}})
    stage.clock.wait(SETTLE_SECONDS / TEMPO)
    stage.controller.look()
    stage.let_all_run()
    assert stage.controller.look() == pytest.approx(SETTLE_SECONDS / TEMPO)
    assert stage.status()["phase"] == "Pending"


def test_events_are_played_when_they_are_due_and_once(stage: Stage) -> None:
    stage.scenario(timeline=[{"at": "2m", "type": "create_vms", "pool": "vm", "count": 2}])
    stage.until_started()
    stage.controller.look()
    assert len(stage.names(VIRTUAL_MACHINES)) == 3
    stage.clock.wait(120.0 / TEMPO)
    stage.controller.look()
    assert len(stage.names(VIRTUAL_MACHINES)) == 5
    assert stage.status()["eventsPlayed"] == 1
    stage.kube.remove(VIRTUAL_MACHINES, stage.names(VIRTUAL_MACHINES)[-1])
    stage.controller.look()
    assert len(stage.names(VIRTUAL_MACHINES)) == 4, "an event is not repeated"


def test_a_restarted_controller_goes_on_where_the_last_one_was(stage: Stage) -> None:
    stage.scenario(timeline=[{"at": "1m", "type": "cordon_node", "node": "n-1"}])
    stage.until_started()
    began = stage.epoch()
    stage.clock.wait(60.0 / TEMPO)
    stage.controller.look()
    stage.kube.change(NODES, "n-1", {"spec": {"unschedulable": None}}, namespace="")
    stage.controller = stage.new_controller()
    stage.controller.look()
    assert stage.epoch() == began
    assert not stage.kube.get(NODES, "n-1")["spec"].get("unschedulable"), "the event is not played again"


def test_a_paused_scenario_plays_no_event_until_it_goes_on(stage: Stage) -> None:
    stage.scenario(timeline=[{"at": "1m", "type": "cordon_node", "node": "n-1"}])
    stage.until_started()
    stage.kube.change(SIMULATION_SCENARIOS, "small", {"metadata": {"generation": 2}, "spec": {"paused": True}})
    stage.clock.wait(60.0 / TEMPO)
    stage.controller.look()
    assert stage.status()["phase"] == "Paused"
    assert not stage.kube.get(NODES, "n-1")["spec"].get("unschedulable")
    stage.kube.change(SIMULATION_SCENARIOS, "small", {"metadata": {"generation": 3}, "spec": {"paused": False}})
    stage.controller.look()
    assert stage.kube.get(NODES, "n-1")["spec"]["unschedulable"] is True


def test_it_completes_at_the_end_of_its_duration_and_stays_so(stage: Stage) -> None:
    stage.scenario()
    stage.until_started()
    stage.clock.wait(600.0 / TEMPO)
    stage.controller.look()
    assert stage.status()["phase"] == "Completed"
    assert stage.status()["progress"] == "100%"
    stage.controller = stage.new_controller()
    stage.controller.look()
    assert stage.status()["phase"] == "Completed"


def test_a_wrong_scenario_fails_with_its_field_and_others_are_played(stage: Stage) -> None:
    stage.scenario("broken", nodePools=[{"name": "n", "count": 1, "resources": {"cpu": "many"}}])
    stage.clock.wait(1.0)
    stage.scenario()
    stage.controller.look()
    assert stage.status("broken")["phase"] == "Failed"
    assert "nodePools[0]" in stage.status("broken")["message"]
    stage.controller.look()
    assert len(stage.names(VIRTUAL_MACHINES)) == 3


def test_scenarios_are_played_one_at_a_time(stage: Stage) -> None:
    stage.scenario()
    stage.clock.wait(1.0)
    stage.scenario("second")
    stage.controller.look()
    assert stage.status("second") == {"phase": "Pending", "message": "waits for small", "observedGeneration": 1}


def test_a_second_look_writes_nothing(stage: Stage) -> None:
    stage.scenario()
    stage.until_started()
    stage.controller.look()
    before = len(stage.kube.writes)
    stage.controller.look()
    assert len(stage.kube.writes) == before


def test_a_heartbeat_of_a_node_is_no_reason_to_look() -> None:
    stage = Stage()
    node = {"metadata": {"name": "n", "resourceVersion": "1"}, "spec": {}}
    stage.controller.wake.clear()
    stage.controller.changed(node, node | {"metadata": {"name": "n", "resourceVersion": "2"}})
    assert not stage.controller.wake.is_set()
    stage.controller.changed(node, node | {"spec": {"unschedulable": True}})
    assert stage.controller.wake.is_set()
