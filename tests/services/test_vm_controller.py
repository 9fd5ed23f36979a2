"""The VM controller against an API server in memory: what a VirtualMachine's status says."""

from __future__ import annotations

import copy
import itertools
import threading
from pathlib import Path
from typing import Any

import pytest
import yaml
from fake_kube import FakeKube, FakeStore
from werkzeug.test import Client

from labkit.clock import LabTime, VirtualClock
from labkit.kube import PODS, VIRTUAL_MACHINES, Object
from labkit.load import curve_json, parse_curve
from labkit.names import LOAD_ANNOTATION
from labkit.settings import Settings
from labkit.virtualmachine import VirtualMachine
from labkit.workqueue import Workers
from services.vm_controller.app import VmController, create_app

START = 1_000_000.0
TEMPO = 10
POD = "virt-launcher-web-abcde"
EXAMPLES = Path(__file__).parents[2] / "k8s" / "example-vms.yaml"


class World:
    """A VM, its pod, and the controller that writes its status."""

    def __init__(self, **spec: Any) -> None:
        self.clock = VirtualClock(START)
        self.kube = FakeKube(self.clock)
        self.vms, self.pods = FakeStore(self.kube, VIRTUAL_MACHINES), FakeStore(self.kube, PODS)
        self.controller = VmController(
            self.kube, vms=self.vms, pods=self.pods, settings=Settings(LabTime(START, TEMPO)), clock=self.clock
        )
        self.vms.subscribe(self.controller.vm_changed)
        self.pods.subscribe(self.controller.pod_changed)
        self.workers = Workers(self.controller.queue, self.controller.reconcile, threads=0)
        resources = {"resources": {"cpu": "2", "memory": "8Gi"}, "utilization": {"cpu": "0.15", "memory": "0.6"}}
        self.kube.put(
            VIRTUAL_MACHINES,
            {"metadata": {"name": "web", "namespace": "default", "generation": 1}, "spec": resources | spec},
        )
        self.act()

    def give_pod(self, node: str = "node-1", phase: str = "Running", cores: str = "2", memory: int = 8 * 2**30) -> None:
        annotations = {
            "simulation.node-classifier.io/vm-cpu-cores": cores,
            "simulation.node-classifier.io/vm-memory-bytes": str(memory),
        }
        self.kube.put(
            PODS,
            {
                "metadata": {
                    "name": POD,
                    "namespace": "default",
                    "labels": {"kubevirt.io/domain": "web"},
                    "annotations": annotations,
                },
                "spec": {"nodeName": node} if node else {},
                "status": {"phase": phase},
            },
        )
        self.change(status={"podName": POD} | ({"nodeName": node} if node else {}))
        self.act()

    def change(self, **patch: Any) -> None:
        self.kube.change(VIRTUAL_MACHINES, "web", patch)

    def act(self) -> None:
        for _ in range(20):
            self.clock.wait(0.3)
            queue = self.controller.queue
            with queue._changed:
                queue._promote()
            if not len(queue):
                return
            while len(queue):
                key = queue.get()
                self.workers.handle(key)
                queue.done(key)
        raise AssertionError("the status does not come to rest")

    @property
    def vm(self) -> Object:
        return self.kube.objects["virtualmachines", "default", "web"]

    @property
    def status(self) -> dict[str, Any]:
        return dict(self.vm["status"])

    def condition(self, kind: str) -> dict[str, str]:
        [condition] = [condition for condition in self.status["conditions"] if condition["type"] == kind]
        return dict(condition)


def test_a_running_vm_shows_allocation_utilization_and_where_it_is() -> None:
    world = World()
    world.give_pod()
    shown = {name: world.status[name] for name in world.status if name not in ("conditions", "createdAt")}
    assert shown == {
        "phase": "Running",
        "podName": POD,
        "nodeName": "node-1",
        "allocatedCpu": "2",
        "allocatedMemory": "8Gi",
        "cpuUtilization": "0.15",
        "memoryUtilization": "0.6",
        "observedGeneration": 1,
    }
    assert world.status["createdAt"] == world.vm["metadata"]["creationTimestamp"]
    assert world.vm["metadata"]["labels"] == {"kubevirt.io/nodeName": "node-1"}
    assert world.condition("Ready")["status"] == "True"


@pytest.mark.parametrize(
    ("node", "phase", "shown"),
    [
        ("", "Pending", "Scheduling"),
        ("node-1", "Pending", "Scheduled"),
        ("node-1", "Running", "Running"),
        ("node-1", "Failed", "Failed"),
        ("node-1", "Unknown", "Failed"),
    ],
)
def test_the_phase_follows_the_pod(node: str, phase: str, shown: str) -> None:
    world = World()
    assert world.status["phase"] == "Pending"
    world.give_pod(node, phase)
    assert world.status["phase"] == shown


def test_a_second_look_writes_nothing() -> None:
    world = World()
    world.give_pod()
    before = world.kube.version
    world.controller.vm_changed(None, world.vm)
    world.act()
    assert world.kube.version == before


def test_a_pod_that_is_not_ready_leaves_the_vm_running() -> None:
    world = World()
    world.give_pod()
    world.kube.change(PODS, POD, {"status": {"conditions": [{"type": "Ready", "status": "False"}]}})
    world.act()
    assert world.status["phase"] == "Running"


def test_a_migration_target_does_not_become_the_vm() -> None:
    world = World()
    world.give_pod()
    target = copy.deepcopy(world.kube.objects["pods", "default", POD])
    target["metadata"] = {
        "name": "virt-launcher-web-fffff",
        "namespace": "default",
        "labels": {"kubevirt.io/domain": "web"},
    }
    target["spec"]["nodeName"] = "node-2"
    before = world.kube.version
    world.kube.put(PODS, target)
    world.act()
    assert world.kube.version == before + 1, "the target itself is the only write"


def test_a_stopped_vm_shows_nothing_of_its_pod() -> None:
    world = World()
    world.give_pod()
    world.change(spec={"running": False}, status={"podName": None, "nodeName": None})
    world.kube.remove(PODS, POD)
    world.act()
    assert world.status["phase"] == "Stopped"
    assert not {"podName", "nodeName", "allocatedCpu", "allocatedMemory", "cpuUtilization"} & set(world.status)
    assert world.vm["metadata"]["labels"] == {}


def test_conditions_are_one_of_each_type_and_their_times_move_only_with_their_status() -> None:
    world = World()
    world.give_pod()
    first = world.condition("EvictionRequested")
    assert first["status"] == "False"
    for _ in range(5):
        world.change(status={"evacuationNodeName": "node-1"})
        world.act()
        marked = world.condition("EvictionRequested")
        world.change(spec={"utilization": {"cpu": "0.2"}})
        world.act()
        assert world.condition("EvictionRequested") == marked
        world.change(status={"evacuationNodeName": None})
        world.act()
    types = [condition["type"] for condition in world.status["conditions"]]
    assert types == ["EvictionRequested", "LiveMigratable", "Ready", "RestartRequired"]
    assert world.condition("EvictionRequested")["lastTransitionTime"] > first["lastTransitionTime"]


def test_a_pod_without_a_node_says_why() -> None:
    world = World()
    world.give_pod("", "Pending")
    why = "0/5 nodes are available: 5 Insufficient memory."
    world.kube.change(
        PODS, POD, {"status": {"conditions": [{"type": "PodScheduled", "status": "False", "message": why}]}}
    )
    world.act()
    assert world.condition("Ready") | {"lastTransitionTime": ""} == {
        "type": "Ready",
        "status": "False",
        "reason": "Scheduling",
        "message": why,
        "lastTransitionTime": "",
    }


def test_resources_changed_while_it_runs_wait_for_a_restart_and_say_so() -> None:
    world = World()
    world.give_pod()
    world.change(spec={"resources": {"memory": "16Gi"}}, metadata={"generation": 2})
    world.act()
    assert world.status["allocatedMemory"] == "8Gi"
    assert world.status["observedGeneration"] == 2
    assert world.condition("RestartRequired")["status"] == "True"


def test_memory_given_in_bytes_is_shown_readably() -> None:
    world = World(resources={"cpu": "2", "memory": str(8 * 2**30)})
    world.give_pod()
    assert world.status["allocatedMemory"] == "8Gi"


def test_a_vm_that_must_not_migrate_says_so() -> None:
    world = World(migration={"allowed": False})
    assert world.condition("LiveMigratable")["status"] == "False"


def test_changed_utilization_is_shown_at_once() -> None:
    world = World()
    world.give_pod()
    world.change(spec={"utilization": {"cpu": "0"}})
    world.act()
    assert world.status["cpuUtilization"] == "0"


def curve(**shape: Any) -> Object:
    return {"metadata": {"annotations": {LOAD_ANNOTATION: curve_json(parse_curve(shape), 1)}}}


def minute_passes(world: World) -> None:
    world.clock.wait(60 / TEMPO)
    world.controller.follow_curves()
    world.act()


def test_a_curve_moves_the_status_by_five_points_and_at_most_once_a_lab_minute() -> None:
    world = World()
    world.give_pod()
    # Twenty lab minutes from 0 to 1: five points in each.
    world.change(**curve(cpu={"kind": "ramp", "start": 0, "end": 1, "at": 0, "duration": "20m"}, memory=0.5))
    minute_passes(world)
    shown = []
    while (world.clock.now() - START) * TEMPO < 1200:
        world.clock.wait(15 / TEMPO)
        world.controller.follow_curves()
        world.act()
        shown.append(float(world.status["cpuUtilization"]))
    moves = [after - before for before, after in itertools.pairwise(shown) if after != before]
    assert min(moves) >= 0.05 - 1e-9
    assert 15 <= len(moves) <= 20
    assert shown[-1] > 0.9


def test_a_curve_that_does_not_move_writes_nothing() -> None:
    world = World()
    world.give_pod()
    world.change(**curve(cpu=0.3, memory=0.5))
    minute_passes(world)
    world.kube.writes.clear()
    for _ in range(10):
        minute_passes(world)
    assert world.kube.writes == []
    assert world.status["cpuUtilization"] == "0.3"


def test_a_curve_that_cannot_be_read_is_told_and_the_spec_holds() -> None:
    world = World()
    world.give_pod()
    world.change(metadata={"annotations": {LOAD_ANNOTATION: "{}"}})
    world.act()
    assert world.condition("LoadCurveValid")["status"] == "False"
    assert "wanted JSON with curve and seed" in world.condition("LoadCurveValid")["message"]
    assert world.status["cpuUtilization"] == "0.15"
    world.controller.follow_curves()


def test_a_vm_that_cannot_be_read_holds_up_no_other() -> None:
    world = World()
    world.kube.put(VIRTUAL_MACHINES, {"metadata": {"name": "bad", "namespace": "default"}, "spec": {}})
    world.give_pod()
    assert world.status["phase"] == "Running"


def test_a_deleted_vm_is_left_alone() -> None:
    world = World()
    world.vms.hold()
    world.kube.remove(VIRTUAL_MACHINES, "web")
    world.controller.vm_changed(None, world.vms.items()[0])
    world.act()
    assert world.kube.all(VIRTUAL_MACHINES) == []


def test_the_pages_answer_once_the_lists_are_read() -> None:
    world = World()
    ready = threading.Event()
    client = Client(create_app(world.controller, ready=ready.is_set, healthy=lambda: True))
    assert client.get("/healthz").status_code == 503
    ready.set()
    assert client.get("/healthz").text == "ok\n"
    assert 'lab_vm_status_writes_total{what="status"} 1.0' in client.get("/metrics").text


def test_the_example_vms_are_fifty_and_use_little() -> None:
    vms = [VirtualMachine.read(obj) for obj in yaml.safe_load_all(EXAMPLES.read_text())]
    assert len({vm.name for vm in vms}) == 50
    assert "vm-small-1" in {vm.name for vm in vms}
    assert sum(vm.cores for vm in vms) == 115.5
    assert sum(vm.memory_bytes for vm in vms) == 800 * 2**30
    busy = [sum(amount) for amount in zip(*(_busy(vm) for vm in vms), strict=True)]
    assert round(100 * busy[0] / 160) == 11
    assert round(100 * busy[1] / (2560 * 2**30)) == 20


def _busy(vm: VirtualMachine) -> tuple[float, float]:
    cpu, memory = vm.utilization_at(0.0)
    return vm.cores * cpu, vm.memory_bytes * memory
