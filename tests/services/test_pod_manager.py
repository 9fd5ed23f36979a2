"""The pod manager against an API server in memory, with a virtual clock; scheduler and kubelet are a few lines here."""

from __future__ import annotations

import copy
import threading
from typing import Any

import pytest
from fake_kube import Crash, FakeKube, FakeStore
from werkzeug.test import Client

from labkit.clock import LabTime, VirtualClock
from labkit.errors import InputError, KubeError
from labkit.kube import NODES, PODS, VIRTUAL_MACHINES, Object, Resource
from labkit.migration import DEFAULT_POLICY, MigrationPolicy
from labkit.names import (
    CREATED_BY_LABEL,
    EVICTION_IN_PROGRESS_ANNOTATION,
    EVICTION_SOURCE_ANNOTATION,
    INITIAL_NODE_ANNOTATION,
    LOAD_ANNOTATION,
    MIGRATION_JOB_UID_LABEL,
    REQUEST_EVICT_ONLY_ANNOTATION,
)
from labkit.settings import Settings
from labkit.virtualmachine import Migration, VirtualMachine, format_time
from labkit.workqueue import Workers
from services.pod_manager.app import PodManager, create_app
from services.pod_manager.launcher import launcher_name
from services.pod_manager.logic import Idle, View, next_step
from services.pod_manager.policy import read_policy

START = 1_000_000.0
TEMPO = 10
GIB = 2**30
CPU = "simulation.node-classifier.io/vm-cpu-utilization"


def vm_object(name: str, **spec: Any) -> Object:
    return {
        "apiVersion": "simulation.node-classifier.io/v1alpha1",
        "kind": "VirtualMachine",
        "metadata": {"name": name, "namespace": "default", "generation": 1},
        "spec": {
            "resources": {"cpu": "2", "memory": "4Gi"},
            "utilization": {"cpu": "0.5", "memory": "0.8"},
            "evictionStrategy": "LiveMigrate",
        }
        | spec,
    }


class World:
    """A cluster: an API server, and a scheduler and kubelets that a test lets act."""

    def __init__(self, nodes: int = 3) -> None:
        self.clock = VirtualClock(START)
        self.kube = FakeKube(self.clock)
        for number in range(1, nodes + 1):
            self.kube.put(NODES, {"metadata": {"name": f"node-{number}"}, "spec": {}})
        self.schedules = True
        self.most_pods = 0
        self.manager = self.start_manager()

    def start_manager(self) -> PodManager:
        """Start a (or another) pod manager; whoever was there stays deaf from now on."""
        self.kube.subscribers.clear()
        self.kube.subscribers.append(self._observe)
        self.vms, self.nodes = FakeStore(self.kube, VIRTUAL_MACHINES), FakeStore(self.kube, NODES)
        self.pods = FakeStore(self.kube, PODS)
        manager = PodManager(
            self.kube,
            vms=self.vms,
            nodes=self.nodes,
            settings=Settings(LabTime(START, TEMPO)),
            clock=self.clock,
        )
        for obj in self.pods.items():
            manager.pod_changed(None, obj)
        self.pods.subscribe(manager.pod_changed)
        self.vms.subscribe(manager.vm_changed)
        self.nodes.subscribe(manager.node_changed)
        manager.resume()
        self.manager = manager
        return manager

    def add_vm(self, name: str = "web", **spec: Any) -> None:
        self.kube.put(VIRTUAL_MACHINES, vm_object(name, **spec))

    def act(self) -> None:
        """Let the manager work off its queue, and scheduler and kubelets react, until nothing moves."""
        workers = Workers(self.manager.queue, self.manager.reconcile, threads=0, failed=self.manager.failed)
        for _ in range(200):
            before = self.kube.version
            while (key := self._next()) is not None:
                workers.handle(key)
                self.manager.queue.done(key)
            self._scheduler_and_kubelets()
            if self.kube.version == before and not len(self.manager.queue):
                return
        raise AssertionError("the cluster does not come to rest")

    def pass_lab_seconds(self, seconds: float) -> None:
        """Let lab time pass in small steps, so that whatever is due happens in order."""
        for _ in range(round(seconds * 4)):
            self.clock.wait(0.25 / TEMPO)
            self.act()

    def evict(self, name: str = "web", source: str = "") -> None:
        """Mark a VM as the webhook does."""
        status = {
            "evacuationNodeName": self.status(name)["nodeName"],
            "evacuationRequestedTimestamp": format_time(self.clock.now()),
        }
        annotations = {EVICTION_SOURCE_ANNOTATION: source} if source else {}
        self.kube.change(VIRTUAL_MACHINES, name, {"status": status, "metadata": {"annotations": annotations}})

    def status(self, name: str = "web") -> dict[str, Any]:
        return dict(self.kube.objects["virtualmachines", "default", name].get("status", {}))

    def vm(self, name: str = "web") -> VirtualMachine:
        return VirtualMachine.read(self.kube.objects["virtualmachines", "default", name])

    def migration(self, name: str = "web") -> Migration:
        migration = self.vm(name).migration
        assert migration is not None
        return migration

    def pods_of(self, name: str = "web") -> list[Object]:
        pods = [pod for pod in self.kube.all(PODS) if pod["metadata"]["labels"]["kubevirt.io/domain"] == name]
        return sorted(pods, key=lambda pod: int(pod["metadata"]["uid"].removeprefix("uid-")))

    def pod_names(self, name: str = "web") -> list[str]:
        return [pod["metadata"]["name"] for pod in self.pods_of(name)]

    def events(self, name: str = "web") -> list[str]:
        self.manager._recorder.close()
        return [reason for vm, reason, _ in self.kube.events if vm == name]

    def _next(self) -> Any:
        queue = self.manager.queue
        with queue._changed:
            queue._promote()
        return queue.get() if len(queue) else None

    def _scheduler_and_kubelets(self) -> None:
        nodes = sorted(node["metadata"]["name"] for node in self.kube.all(NODES))
        for pod in self.kube.all(PODS):
            name = pod["metadata"]["name"]
            if "deletionTimestamp" in pod["metadata"]:
                if not pod["spec"].get("nodeName") or pod["spec"]["nodeName"] in nodes:
                    self.kube.remove(PODS, name, pod["metadata"]["namespace"])
            elif not pod["spec"].get("nodeName"):
                node = self._place(pod, nodes)
                if self.schedules and node:
                    self.kube.change(PODS, name, {"spec": {"nodeName": node}}, pod["metadata"]["namespace"])
            elif pod["status"]["phase"] == "Pending":
                self.kube.change(PODS, name, {"status": {"phase": "Running"}}, pod["metadata"]["namespace"])

    def _place(self, pod: Object, nodes: list[str]) -> str | None:
        terms = (
            pod["spec"]
            .get("affinity", {})
            .get("podAntiAffinity", {})
            .get("requiredDuringSchedulingIgnoredDuringExecution", ())
        )
        taken = set()
        for term in terms:
            wanted = term["labelSelector"]["matchLabels"].items()
            taken |= {
                other["spec"].get("nodeName")
                for other in self.kube.all(PODS)
                if wanted <= other["metadata"]["labels"].items()
            }
        free = [node for node in nodes if node not in taken]
        load = {node: sum(p["spec"].get("nodeName") == node for p in self.kube.all(PODS)) for node in free}
        return min(free, key=lambda node: (load[node], node), default=None)

    def _observe(self, resource: Resource, old: Object | None, new: Object | None) -> None:
        """Check at every write what must never be otherwise."""
        by_vm: dict[str, list[Object]] = {}
        for (plural, _, _), obj in self.kube.objects.items():
            if plural == "pods" and "deletionTimestamp" not in obj["metadata"]:
                by_vm.setdefault(obj["metadata"]["labels"][CREATED_BY_LABEL], []).append(obj)
        vms = {
            obj["metadata"]["uid"]: VirtualMachine.read(obj)
            for (plural, _, name), obj in self.kube.objects.items()
            if plural == "virtualmachines" and name != "bad"
        }
        for uid, pods in by_vm.items():
            vm = vms.get(uid)
            if vm is not None and vm.is_wanted:
                # The VM is one of its pods, and it has two only while it migrates.
                assert vm.pod_name in [pod["metadata"]["name"] for pod in pods] or vm.active_migration is not None
                assert len(pods) == 1 or vm.active_migration is not None
            plain = [pod for pod in pods if MIGRATION_JOB_UID_LABEL not in pod["metadata"]["labels"]]
            self.most_pods = max(self.most_pods, len(pods))
            assert len(pods) <= 2
            assert len(plain) <= 1
            nodes = [pod["spec"]["nodeName"] for pod in pods if pod["spec"].get("nodeName")]
            assert len(nodes) == len(set(nodes))


@pytest.fixture
def world() -> World:
    world = World()
    world.add_vm()
    world.act()
    return world


# --- the pod -----------------------------------------------------------------------------------------


def test_vm_gets_one_pod_that_says_what_it_is(world: World) -> None:
    [pod] = world.pods_of()
    vm = world.vm()
    assert vm.pod_name == pod["metadata"]["name"]
    assert vm.node_name == pod["spec"]["nodeName"] == "node-1"
    assert pod["metadata"]["labels"] == {
        "app": "virt-launcher",
        "kubevirt.io": "virt-launcher",
        "kubevirt.io/domain": "web",
        "vm.kubevirt.io/name": "web",
        "kubevirt.io/created-by": vm.uid,
    }
    annotations = pod["metadata"]["annotations"]
    assert annotations["kubevirt.io/domain"] == "web"
    assert annotations["descheduler.alpha.kubernetes.io/request-evict-only"] == "true"
    assert annotations["simulation.node-classifier.io/vm-cpu-cores"] == "2"
    assert annotations["simulation.node-classifier.io/vm-memory-bytes"] == str(4 * GIB)
    assert annotations["simulation.node-classifier.io/vm-cpu-utilization"] == "0.5"
    assert annotations["simulation.node-classifier.io/vm-memory-utilization"] == "0.8"
    assert annotations["simulation.node-classifier.io/vm-dirty-rate-mbps"] == "800"
    [container] = pod["spec"]["containers"]
    assert container["name"] == "compute"
    assert container["resources"] == {"requests": {"cpu": "200m", "memory": str(4 * GIB)}}
    assert pod["spec"]["nodeSelector"] == {"type": "kwok"}
    assert pod["spec"]["automountServiceAccountToken"] is False
    [owner] = pod["metadata"]["ownerReferences"]
    assert (owner["kind"], owner["uid"], owner["controller"]) == ("VirtualMachine", vm.uid, True)
    assert "finalizers" not in pod["metadata"]


def test_a_node_is_reminded_of_a_pod_that_it_passed_over(world: World) -> None:
    reminded = "simulation.node-classifier.io/reminded"
    kubelet = world._scheduler_and_kubelets
    world.evict()
    world.manager.queue.add(("default", "web"))
    world._scheduler_and_kubelets = lambda: None  # type: ignore[method-assign]  # KWOK is away
    world.act()
    _, target = world.pods_of()
    world.kube.change(PODS, target["metadata"]["name"], {"spec": {"nodeName": "node-2"}})
    for _ in range(11):
        world.clock.wait(0.25)
        world.act()
    assert reminded not in world.pods_of()[1]["metadata"]["annotations"]
    for _ in range(4):
        world.clock.wait(0.25)
        world.act()
    source, target = world.pods_of()
    assert reminded in target["metadata"]["annotations"]
    assert reminded not in source["metadata"]["annotations"]
    world._scheduler_and_kubelets = kubelet  # type: ignore[method-assign]
    world.pass_lab_seconds(60)
    assert (world.migration().phase, world.migration().attempt) == ("Succeeded", 1)


def test_a_second_look_writes_nothing(world: World) -> None:
    before = world.kube.version
    world.manager.look_at_all()
    world.act()
    assert world.kube.version == before


def test_looking_at_many_settled_vms_asks_the_api_server_nothing() -> None:
    world = World()
    for number in range(50):
        world.add_vm(f"vm-{number}")
    world.act()
    world.kube.reads.clear()
    world.kube.writes.clear()
    world.manager.look_at_all()
    world.act()
    assert (world.kube.reads, world.kube.writes) == ([], [])


def test_a_pod_that_was_deleted_is_replaced_once_and_under_another_name(world: World) -> None:
    [first] = world.pod_names()
    world.kube.delete(PODS, first, "default")
    world.act()
    [second] = world.pod_names()
    assert second != first
    assert world.status()["podName"] == second
    assert world.most_pods == 1


def test_the_replacement_waits_until_the_old_pod_is_gone(world: World) -> None:
    [first] = world.pod_names()
    world.kube.remove(NODES, "node-2", "")  # any node but the pod's: nothing is to follow from it
    world._scheduler_and_kubelets = lambda: None  # type: ignore[method-assign]  # the kubelet does not answer
    world.kube.delete(PODS, first, "default")
    world.act()
    assert world.pod_names() == [first]


def test_a_finished_pod_is_replaced(world: World) -> None:
    [first] = world.pod_names()
    world.kube.change(PODS, first, {"status": {"phase": "Failed"}})
    world.act()
    [second] = world.pods_of()
    assert second["metadata"]["name"] != first
    assert second["status"]["phase"] == "Running"


def test_a_pod_that_is_not_ready_changes_nothing(world: World) -> None:
    [name] = world.pod_names()
    world.kube.change(PODS, name, {"status": {"conditions": [{"type": "Ready", "status": "False"}]}})
    world.kube.writes.clear()
    world.act()
    assert world.kube.writes == []


def test_a_mirror_that_lags_makes_no_second_pod(world: World) -> None:
    world.pods.hold()
    world.vms.hold()
    world.add_vm("late")
    world.vms.catch_up()
    world.act()
    world.clock.wait(60.0)  # longer than an own write counts
    world.manager.look_at_all()
    world.act()
    world.pods.catch_up()
    world.act()
    assert len(world.pod_names("late")) == 1


def test_a_mirror_that_lost_the_pods_makes_no_second_pod(world: World) -> None:
    """An empty mirror must not be taken for an empty cluster."""
    [name] = world.pod_names()
    manager = world.start_manager()
    for obj in world.pods.items():
        manager.pod_changed(obj, None)
    world.pods.objects.clear()
    world.act()
    assert world.pod_names() == [name]


def test_no_pod_is_made_while_the_api_server_cannot_say_that_there_is_none(world: World) -> None:
    [name] = world.pod_names()
    world.kube.refuses = lambda verb, resource, _: (
        KubeError("etcd is away", status=500) if (verb, resource) == ("get", PODS) else None
    )
    world.kube.remove(PODS, name)
    world.act()
    assert world.pod_names() == []
    world.kube.refuses = lambda verb, resource, _: None
    world.pass_lab_seconds(10)
    assert len(world.pod_names()) == 1


def test_a_vm_that_cannot_be_read_holds_up_no_other() -> None:
    world = World()
    world.add_vm("bad", resources={"cpu": "0.20 cores", "memory": "1Gi"})
    world.add_vm("good")
    world.act()
    assert world.pod_names("good") != []
    assert world.pod_names("bad") == []


@pytest.mark.parametrize(("memory", "size"), [("1Ti", 2**40), ("512M", 512 * 10**6), ("2.5Gi", 5 * 2**29)])
def test_every_quantity_of_the_schema_makes_a_pod(memory: str, size: int) -> None:
    world = World()
    world.add_vm(resources={"cpu": "0.5", "memory": memory})
    world.act()
    [pod] = world.pods_of()
    assert pod["spec"]["containers"][0]["resources"]["requests"] == {"cpu": "50m", "memory": str(size)}


def test_utilization_has_one_default_when_the_vm_says_none() -> None:
    world = World()
    obj = vm_object("plain")
    del obj["spec"]["utilization"]
    world.kube.put(VIRTUAL_MACHINES, obj)
    world.act()
    annotations = world.pods_of("plain")[0]["metadata"]["annotations"]
    assert annotations["simulation.node-classifier.io/vm-cpu-utilization"] == "0.5"
    assert annotations["simulation.node-classifier.io/vm-memory-utilization"] == "0.8"


def test_vms_of_any_namespace_are_managed() -> None:
    world = World()
    obj = vm_object("web")
    obj["metadata"]["namespace"] = "elsewhere"
    world.kube.put(VIRTUAL_MACHINES, obj)
    world.act()
    [pod] = world.kube.all(PODS)
    assert pod["metadata"]["namespace"] == "elsewhere"


def test_changed_utilization_reaches_the_pod_at_once(world: World) -> None:
    world.kube.change(VIRTUAL_MACHINES, "web", {"spec": {"utilization": {"cpu": "0.9"}}})
    world.act()
    assert world.pods_of()[0]["metadata"]["annotations"][CPU] == "0.9"


def test_a_load_curve_is_copied_to_the_pod_and_removed_with_it(world: World) -> None:
    world.kube.change(VIRTUAL_MACHINES, "web", {"metadata": {"annotations": {LOAD_ANNOTATION: "{}"}}})
    world.act()
    assert world.pods_of()[0]["metadata"]["annotations"][LOAD_ANNOTATION] == "{}"
    world.kube.change(VIRTUAL_MACHINES, "web", {"metadata": {"annotations": {LOAD_ANNOTATION: None}}})
    world.act()
    assert LOAD_ANNOTATION not in world.pods_of()[0]["metadata"]["annotations"]


def test_the_annotation_that_asks_for_evictions_only_is_put_back(world: World) -> None:
    [name] = world.pod_names()
    world.kube.change(PODS, name, {"metadata": {"annotations": {REQUEST_EVICT_ONLY_ANNOTATION: None}}})
    world.act()
    assert world.pods_of()[0]["metadata"]["annotations"][REQUEST_EVICT_ONLY_ANNOTATION] == "true"


def test_the_first_pod_is_bound_where_the_vm_asks_and_later_ones_are_not() -> None:
    world = World()
    obj = vm_object("web")
    obj["metadata"]["annotations"] = {INITIAL_NODE_ANNOTATION: "node-3"}
    world.kube.put(VIRTUAL_MACHINES, obj)
    world.act()
    assert world.status()["nodeName"] == "node-3"
    world.kube.delete(PODS, world.pod_names()[0], "default")
    world.act()
    assert world.status()["nodeName"] == "node-1"


def test_a_vm_made_anew_gets_its_node_while_a_pod_of_its_namesake_is_still_going() -> None:
    world = World()
    obj = vm_object("web")
    obj["metadata"]["annotations"] = {INITIAL_NODE_ANNOTATION: "node-3"}
    world.kube.put(VIRTUAL_MACHINES, obj)
    world.act()
    [old] = world.pod_names()
    world.kube.remove(VIRTUAL_MACHINES, "web")
    world.kube.change(PODS, old, {"metadata": {"deletionTimestamp": format_time(world.clock.now())}})
    anew = vm_object("web")
    anew["metadata"] |= {"uid": "anew", "annotations": {INITIAL_NODE_ANNOTATION: "node-3"}}
    world.kube.put(VIRTUAL_MACHINES, anew)
    world.act()
    assert world.status()["nodeName"] == "node-3"
    assert world.status()["podName"] != old


def test_an_initial_node_that_does_not_exist_leaves_the_choice_to_the_scheduler() -> None:
    world = World()
    obj = vm_object("web")
    obj["metadata"]["annotations"] = {INITIAL_NODE_ANNOTATION: "nowhere"}
    world.kube.put(VIRTUAL_MACHINES, obj)
    world.act()
    assert world.status()["nodeName"] == "node-1"


# --- stop, delete ------------------------------------------------------------------------------------


def test_a_stopped_vm_has_no_pod_and_its_status_names_none(world: World) -> None:
    world.kube.change(VIRTUAL_MACHINES, "web", {"spec": {"running": False}})
    world.act()
    assert world.pod_names() == []
    assert "podName" not in world.status()
    assert "nodeName" not in world.status()


def test_a_vm_that_starts_again_gets_a_pod_of_another_name(world: World) -> None:
    [first] = world.pod_names()
    world.kube.change(VIRTUAL_MACHINES, "web", {"spec": {"running": False}})
    world.act()
    world.kube.change(VIRTUAL_MACHINES, "web", {"spec": {"running": True}})
    world.act()
    [second] = world.pod_names()
    assert second != first


def test_deleting_a_vm_removes_its_pod(world: World) -> None:
    world.kube.remove(VIRTUAL_MACHINES, "web")
    world.act()
    assert world.pod_names() == []


def test_a_vm_made_anew_under_the_same_name_never_becomes_the_old_pod(world: World) -> None:
    [old] = world.pods_of()
    world.vms.hold()
    world.kube.remove(VIRTUAL_MACHINES, "web")
    world.add_vm()
    world.vms.catch_up()
    world.act()
    [new] = world.pods_of()
    assert new["metadata"]["name"] != old["metadata"]["name"]
    assert new["metadata"]["labels"][CREATED_BY_LABEL] == world.vm().uid


def test_a_pod_of_somebody_else_is_left_alone(world: World) -> None:
    foreign = copy.deepcopy(world.pods_of()[0])
    foreign["metadata"] = {
        "name": "mine",
        "namespace": "default",
        "labels": {"kubevirt.io": "virt-launcher", "kubevirt.io/domain": "nobody", CREATED_BY_LABEL: "me"},
    }
    world.kube.put(PODS, foreign)
    world.act()
    assert world.pod_names("nobody") == ["mine"]


def test_a_node_that_is_deleted_costs_its_vms_one_restart_elsewhere(world: World) -> None:
    [first] = world.pods_of()
    world.kube.remove(NODES, first["spec"]["nodeName"], "")
    world.act()
    [second] = world.pods_of()
    assert second["spec"]["nodeName"] != first["spec"]["nodeName"]
    assert world.status()["nodeName"] == second["spec"]["nodeName"]
    assert world.most_pods == 1


def test_a_node_that_only_the_mirror_misses_costs_nothing(world: World) -> None:
    [first] = world.pods_of()
    node = world.nodes.objects.pop(("", first["spec"]["nodeName"]))
    world.manager.node_changed(node, None)
    world.act()
    assert world.pod_names() == [first["metadata"]["name"]]


# --- migration ---------------------------------------------------------------------------------------


def test_migration_makes_the_target_first_then_hands_over_then_deletes_the_source(world: World) -> None:
    [source] = world.pods_of()
    world.kube.writes.clear()
    world.evict()
    world.pass_lab_seconds(30)
    [target] = world.pods_of()
    assert target["metadata"]["name"] != source["metadata"]["name"]
    assert target["spec"]["nodeName"] != source["spec"]["nodeName"]
    pod_writes = [(verb, name) for verb, plural, name in world.kube.writes if plural == "pods" and verb != "patch"]
    assert pod_writes == [("create", target["metadata"]["name"]), ("delete", source["metadata"]["name"])]
    status = world.status()
    assert (status["podName"], status["nodeName"]) == (target["metadata"]["name"], target["spec"]["nodeName"])
    assert "evacuationNodeName" not in status
    state = status["migrationState"]
    assert (state["phase"], state["completed"], state["failed"]) == ("Succeeded", True, False)
    assert (state["sourceNode"], state["targetNode"]) == ("node-1", target["spec"]["nodeName"])
    assert world.migration().uid == target["metadata"]["labels"][MIGRATION_JOB_UID_LABEL]
    assert world.migration().requested <= world.migration().created
    started, ended = world.migration().started, world.migration().handed_over
    assert started is not None
    assert ended is not None
    # 3.2 GiB at 1.25 GB/s are 2.75 lab seconds, and 0.11 more for what 50 MB/s dirtied meanwhile; looked at every 0.25.
    assert 2.85 / TEMPO <= ended - started < 3.2 / TEMPO
    assert world.migration().transferred_bytes == pytest.approx(3.2 * GIB * 1.04, rel=1e-3)
    assert "Migrated" in world.events()


def test_the_vm_is_the_source_until_the_copy_is_complete(world: World) -> None:
    [source] = world.pod_names()
    world.evict()
    world.act()
    assert world.migration().phase == "Running"
    assert len(world.pod_names()) == 2
    assert world.status()["podName"] == source
    assert world.status()["nodeName"] == "node-1"


def test_the_source_says_that_its_eviction_is_in_progress_exactly_while_the_vm_is_marked(world: World) -> None:
    def in_progress() -> dict[str, bool]:
        return {
            pod["metadata"]["name"]: EVICTION_IN_PROGRESS_ANNOTATION in pod["metadata"]["annotations"]
            for pod in world.pods_of()
        }

    [source] = world.pod_names()
    assert in_progress() == {source: False}
    world.evict()
    world.act()
    target = world.migration().target_pod
    assert in_progress() == {source: True, target: False}
    world.pass_lab_seconds(30)
    assert in_progress() == {target: False}


def test_the_target_asks_for_evictions_only_too(world: World) -> None:
    world.evict()
    world.act()
    for pod in world.pods_of():
        assert pod["metadata"]["annotations"][REQUEST_EVICT_ONLY_ANNOTATION] == "true"


def test_utilization_changed_during_a_migration_is_not_lost(world: World) -> None:
    world.evict()
    world.act()
    world.kube.change(VIRTUAL_MACHINES, "web", {"spec": {"utilization": {"cpu": "0.9"}}})
    world.act()
    assert [pod["metadata"]["annotations"][CPU] for pod in world.pods_of()] == ["0.9", "0.9"]
    world.pass_lab_seconds(30)
    assert [pod["metadata"]["annotations"][CPU] for pod in world.pods_of()] == ["0.9"]


def test_the_target_is_as_large_as_the_source_even_if_the_spec_has_changed(world: World) -> None:
    world.kube.change(VIRTUAL_MACHINES, "web", {"spec": {"resources": {"memory": "64Gi"}}})
    world.evict()
    world.pass_lab_seconds(30)
    [pod] = world.pods_of()
    assert pod["spec"]["containers"][0]["resources"]["requests"]["memory"] == str(4 * GIB)


def test_an_epoch_that_a_scenario_moves_does_not_disturb_a_copy(world: World) -> None:
    world.evict()
    world.act()
    world.manager.settings_changed(None, {"data": {"LAB_EPOCH": "99999999", "LAB_TEMPO": str(TEMPO)}})
    world.pass_lab_seconds(10)
    assert world.migration().phase == "Succeeded"


def test_a_target_without_a_node_fails_after_five_minutes_and_is_tried_again_with_back_off(world: World) -> None:
    [source] = world.pod_names()
    world.schedules = False
    world.evict()
    world.pass_lab_seconds(299)
    assert world.migration().phase == "Scheduling"
    world.pass_lab_seconds(2)
    first = world.migration()
    assert first.phase == "Failed"
    assert first.failure_reason == "the target pod found no node within 300 s"
    assert world.pod_names() == [source]
    assert world.status()["evacuationNodeName"] == "node-1"
    annotations = world.pods_of()[0]["metadata"]["annotations"]
    assert EVICTION_IN_PROGRESS_ANNOTATION in annotations, "kept through retries"
    world.pass_lab_seconds(17)
    assert world.migration().uid == first.uid, "20 s must pass before the second attempt"
    world.pass_lab_seconds(3)
    assert world.migration().attempt == 2
    world.pass_lab_seconds(301)
    second = world.migration()
    assert second.phase == "Failed"
    world.schedules = True
    world.pass_lab_seconds(37)
    assert world.migration().uid == second.uid, "40 s must pass before the third"
    world.pass_lab_seconds(10)
    assert (world.migration().phase, world.migration().attempt) == ("Succeeded", 3)
    assert world.events().count("FailedMigration") == 2


def test_a_copy_that_does_not_converge_fails_and_the_vm_stays(world: World) -> None:
    world.add_vm(
        "busy",
        resources={"cpu": "2", "memory": "64Gi"},
        migration={"dirtyRateMbps": 100_000},
        utilization={"cpu": "1", "memory": "1"},
    )
    world.act()
    [source] = world.pod_names("busy")
    world.evict("busy")
    # The first round takes 55 s; each later one is as long again, so there is no progress, and that for 150 s.
    world.pass_lab_seconds(204)
    assert world.migration("busy").phase == "Running"
    world.pass_lab_seconds(4)
    assert world.migration("busy").phase == "Failed"
    assert world.migration("busy").failure_reason == "no progress for 150 s"
    assert world.status("busy")["podName"] == source


def test_a_target_that_is_deleted_fails_the_migration_and_the_vm_stays(world: World) -> None:
    [source] = world.pod_names()
    world.evict()
    world.act()
    world.kube.delete(PODS, world.migration().target_pod, "default")
    world.act()
    assert world.migration().phase == "Failed"
    assert world.status()["podName"] == source
    assert world.pod_names() == [source]


def test_a_source_that_is_deleted_fails_the_migration_and_the_vm_starts_once_more(world: World) -> None:
    [source] = world.pod_names()
    world.evict()
    world.act()
    target = world.migration().target_pod
    world.kube.delete(PODS, source, "default")
    world.act()
    assert world.migration().phase == "Failed"
    [pod] = world.pod_names()
    assert pod not in (source, target)
    assert "evacuationNodeName" not in world.status()


@pytest.mark.parametrize("end", ["source", "target"])
def test_a_node_deleted_during_a_migration_leaves_one_pod(world: World, end: str) -> None:
    world.evict()
    world.act()
    migration = world.migration()
    node = migration.source_node if end == "source" else migration.target_node
    world.kube.remove(NODES, node, "")
    world.pass_lab_seconds(40)
    [pod] = world.pods_of()
    assert pod["spec"]["nodeName"] != node
    assert world.status()["podName"] == pod["metadata"]["name"]
    assert world.status()["nodeName"] == pod["spec"]["nodeName"]


def test_a_vm_deleted_during_a_migration_leaves_nothing_and_frees_its_place(world: World) -> None:
    world.evict()
    world.act()
    world.kube.remove(VIRTUAL_MACHINES, "web")
    world.act()
    assert world.pod_names() == []
    assert world.manager._admission.running == 0


def test_a_vm_stopped_during_a_migration_has_no_pod_and_a_failed_migration(world: World) -> None:
    world.evict()
    world.act()
    world.kube.change(VIRTUAL_MACHINES, "web", {"spec": {"running": False}})
    world.act()
    assert world.pod_names() == []
    assert world.migration().failure_reason == "the VirtualMachine was stopped"
    assert "evacuationNodeName" not in world.status()


def test_a_cancelled_evacuation_takes_the_annotation_back(world: World) -> None:
    world.schedules = False
    world.evict()
    world.act()
    world.kube.change(VIRTUAL_MACHINES, "web", {"status": {"evacuationNodeName": None}})
    world.act()
    annotations = world.pods_of()[0]["metadata"]["annotations"]
    assert EVICTION_IN_PROGRESS_ANNOTATION not in annotations


def test_a_vm_of_strategy_external_is_marked_and_not_migrated() -> None:
    world = World()
    world.add_vm(evictionStrategy="External")
    world.act()
    world.evict()
    world.pass_lab_seconds(60)
    assert "migrationState" not in world.status()
    [pod] = world.pods_of()
    assert pod["metadata"]["annotations"][EVICTION_IN_PROGRESS_ANNOTATION] == "true"


def test_a_mark_for_a_node_that_the_vm_is_not_on_is_removed(world: World) -> None:
    world.kube.change(VIRTUAL_MACHINES, "web", {"status": {"evacuationNodeName": "node-3"}})
    world.act()
    assert "evacuationNodeName" not in world.status()
    assert "migrationState" not in world.status()


def test_who_asked_is_forgotten_when_the_evacuation_is_over(world: World) -> None:
    world.evict(source="descheduler")
    world.pass_lab_seconds(30)
    assert world.vm().eviction_source == ""


# --- limits ------------------------------------------------------------------------------------------


def crowd(world: World, size: int) -> list[str]:
    """Add VMs on node-1 that take long to copy."""
    names = [f"vm-{number:02d}" for number in range(size)]
    for name in names:
        obj = vm_object(name, resources={"cpu": "1", "memory": "64Gi"})
        obj["metadata"]["annotations"] = {INITIAL_NODE_ANNOTATION: "node-1"}
        world.kube.put(VIRTUAL_MACHINES, obj)
    world.act()
    return names


def running(world: World) -> list[str]:
    return [vm.name for vm in map(VirtualMachine.read, world.kube.all(VIRTUAL_MACHINES)) if vm.active_migration]


def test_two_migrations_leave_one_node_and_the_others_follow_by_themselves() -> None:
    world = World()
    names = crowd(world, 4)
    for name in names:
        world.evict(name)
        world.clock.wait(0.001)
    world.act()
    assert running(world) == names[:2]
    assert all(
        pod["metadata"]["annotations"].get(EVICTION_IN_PROGRESS_ANNOTATION) == "true"
        for name in names
        for pod in world.pods_of(name)[:1]
    ), "those that wait are marked too"
    for _ in range(4000):
        world.pass_lab_seconds(0.25)
        assert len(running(world)) <= 2
        if all(world.vm(name).migration for name in names) and not running(world):
            break
    assert [world.migration(name).phase for name in names] == ["Succeeded"] * 4
    assert sorted(names, key=lambda name: world.migration(name).created) == names, "first come, first served"


def test_five_migrations_run_in_the_cluster() -> None:
    world = World(nodes=8)
    for number in range(1, 7):
        obj = vm_object(f"vm-{number}", resources={"cpu": "1", "memory": "64Gi"})
        obj["metadata"]["annotations"] = {INITIAL_NODE_ANNOTATION: f"node-{number}"}
        world.kube.put(VIRTUAL_MACHINES, obj)
    world.act()
    for number in range(1, 7):
        world.evict(f"vm-{number}")
    world.act()
    assert len(running(world)) == 5


def test_a_raised_limit_holds_at_once() -> None:
    world = World()
    names = crowd(world, 3)
    for name in names:
        world.evict(name)
    world.act()
    assert len(running(world)) == 2
    world.manager.policy_changed(None, {"data": {"parallelOutboundMigrationsPerNode": "3"}, "metadata": {}})
    world.act()
    assert len(running(world)) == 3


def test_evictions_by_people_go_before_the_deschedulers() -> None:
    world = World()
    names = crowd(world, 4)
    world.evict(names[0])
    world.pass_lab_seconds(5)  # the first two do not end together
    world.evict(names[1])
    world.act()
    world.evict(names[2], source="descheduler")
    world.clock.wait(0.001)
    world.evict(names[3])
    world.act()
    while not any(world.vm(name).migration for name in names[2:]):
        world.pass_lab_seconds(1)
    assert world.vm(names[3]).migration is not None
    assert world.vm(names[2]).migration is None


def test_copies_share_the_link_while_they_overlap() -> None:
    """Two copies out of one node take as long together as one after the other would, not half of it."""

    def seconds(count: int) -> float:
        world = World()
        names = crowd(world, count)
        for name in names:
            world.evict(name)
        world.act()
        while running(world):
            world.pass_lab_seconds(0.5)
        return max((world.migration(n).handed_over or 0) - (world.migration(n).started or 0) for n in names) * TEMPO

    alone, together = seconds(1), seconds(2)
    assert 1.9 * alone < together < 2.6 * alone


# --- restarts, conflicts, two of them ----------------------------------------------------------------


def migrate_with_crash(crash_after: int | None) -> World:
    world = World()
    world.add_vm()
    world.act()
    world.kube.writes.clear()
    world.kube.crash_after = crash_after
    world.evict()
    try:
        world.pass_lab_seconds(20)
    except Crash:
        world.kube.crash_after = None
        world.start_manager()
    world.pass_lab_seconds(20)
    return world


WRITES_OF_A_MIGRATION = len(migrate_with_crash(None).kube.writes)


@pytest.mark.parametrize("crash_after", range(1, WRITES_OF_A_MIGRATION + 1))
def test_a_crash_after_any_write_ends_in_the_same_state(crash_after: int) -> None:
    world = migrate_with_crash(crash_after)
    [pod] = world.pods_of()
    migration = world.migration()
    assert (migration.phase, migration.attempt) == ("Succeeded", 1)
    assert pod["metadata"]["name"] == migration.target_pod == world.status()["podName"]
    assert world.status()["nodeName"] == pod["spec"]["nodeName"] == migration.target_node
    assert "evacuationNodeName" not in world.status()
    creates = [name for verb, plural, name in world.kube.writes if (verb, plural) == ("create", "pods")]
    assert creates == [migration.target_pod]


def test_a_restart_in_the_middle_of_a_copy_does_not_begin_it_anew() -> None:
    world = World()
    [name] = crowd(world, 1)
    world.evict(name)
    world.pass_lab_seconds(30)
    began = world.migration(name).started
    world.start_manager()
    world.pass_lab_seconds(1)
    assert world.migration(name).started == began
    world.pass_lab_seconds(60)
    ended = world.migration(name).handed_over
    assert began is not None
    assert ended is not None
    # 51.2 GiB at 1.25 GB/s is 44 s of first round; with 50 MB/s dirtied the whole is about 46 s.
    assert 44 <= (ended - began) * TEMPO < 48


def test_a_restart_counts_the_migrations_that_run() -> None:
    world = World()
    names = crowd(world, 3)
    for name in names:
        world.evict(name)
    world.act()
    before = running(world)
    world.start_manager()
    world.act()
    assert running(world) == before
    assert len(before) == 2


def test_a_conflict_is_answered_by_looking_again_at_once(world: World) -> None:
    conflicts = iter([True, True])

    def refuse(verb: str, resource: Resource, name: str) -> KubeError | None:
        if verb == "patch" and resource is VIRTUAL_MACHINES and next(conflicts, False):
            return KubeError("the object has been modified", status=409, reason="Conflict")
        return None

    world.kube.refuses = refuse
    world.evict()
    world.pass_lab_seconds(5)
    assert world.migration().phase == "Succeeded"


def test_two_managers_make_neither_a_second_pod_nor_a_second_migration() -> None:
    world = World()
    first = world.manager
    stores = (world.pods, world.vms, world.nodes)
    second = world.start_manager()
    for store in stores:
        world.kube.subscribers.append(store._hear)
    world.add_vm()
    for _ in range(40):
        for manager in (first, second):
            world.manager = manager
            world.act()
        world.clock.wait(0.1)
        if world.status().get("nodeName") and "migrationState" not in world.status():
            world.evict()
    assert world.migration().phase == "Succeeded"
    assert len(world.pod_names()) == 1
    creates = [name for verb, plural, name in world.kube.writes if (verb, plural) == ("create", "pods")]
    assert len(creates) == 2, "the VM's first pod and one target"


def test_a_refused_pod_is_told_once_and_tried_again() -> None:
    world = World()
    world.kube.refuses = lambda verb, resource, name: (
        KubeError("exceeded quota", status=403) if verb == "create" and resource is PODS else None
    )
    world.add_vm()
    for _ in range(20):
        world.pass_lab_seconds(1)
    world.kube.refuses = lambda verb, resource, name: None
    world.pass_lab_seconds(110)
    assert len(world.pod_names()) == 1
    assert world.events().count("FailedSync") == 1


# --- the decision, the policy, the pages -------------------------------------------------------------


def test_the_same_state_gives_the_same_step(world: World) -> None:
    vm = world.vm()
    pods = world.manager.pods.of(("default", "web"))
    view = View(vm=vm, pods=pods, now=START, tempo=TEMPO, policy=DEFAULT_POLICY)
    assert next_step(view) == next_step(view) == Idle()


def test_pod_names_differ_by_occasion_and_by_vm(world: World) -> None:
    vm = world.vm()
    names = {launcher_name(vm, occasion) for occasion in ("start/0", "start/1", "migration")}
    assert len(names) == 3
    assert all(name.startswith("virt-launcher-web-") and len(name) == len("virt-launcher-web-") + 5 for name in names)


def test_a_migration_reads_back_as_it_was_written() -> None:
    migration = Migration(
        uid="m", source_node="a", source_pod="p", target_pod="q", requested=1.25, created=2.5, attempt=3
    ).copying(target_node="b", at=3.0)
    arrived = migration.arrived(at=4.0, transferred_bytes=7.0, downtime_seconds=0.5)
    for state in (migration, migration.given_up("why").concluded(at=4.5), arrived, arrived.concluded(at=5.0)):
        assert Migration.read({k: v for k, v in state.state().items() if v is not None}) == state


def test_the_policy_has_kubevirts_option_names_and_defaults() -> None:
    assert read_policy({}).migration == DEFAULT_POLICY
    policy = read_policy(
        {
            "parallelMigrationsPerCluster": "7",
            "parallelOutboundMigrationsPerNode": "3",
            "bandwidthPerMigration": "64Mi",
            "completionTimeoutPerGiB": "800",
            "progressTimeout": "2m",
            "networkBandwidthMbps": "1000",
        }
    )
    assert policy.migration == MigrationPolicy(7, 3, 64 * 2**20, 800.0, 120.0)
    assert policy.link_bytes_per_second == 125e6


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"parallelMigrationPerCluster": "5"}, "found parallelMigrationPerCluster"),
        ({"parallelMigrationsPerCluster": "many"}, "wanted a number, found 'many'"),
        ({"parallelMigrationsPerCluster": "0"}, "wanted 1 or more"),
        ({"progressTimeout": "soon"}, "progressTimeout: wanted a duration"),
        ({"networkBandwidthMbps": "nan"}, "wanted more than 0"),
    ],
)
def test_a_wrong_policy_says_what_is_wrong_and_changes_nothing(
    world: World, data: dict[str, str], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        read_policy(data)
    before = world.manager.policy
    world.manager.policy_changed(None, {"data": data, "metadata": {"name": "migration-policy"}})
    assert world.manager.policy == before


def test_the_pages_tell_of_running_and_finished_migrations(world: World) -> None:
    ready = threading.Event()
    client = Client(create_app(world.manager, ready=ready.is_set, healthy=lambda: True))
    assert client.get("/healthz").status_code == 503
    ready.set()
    assert client.get("/healthz").status_code == 200
    world.evict()
    world.act()
    text = client.get("/metrics").text
    assert "kubevirt_vmi_migrations_in_running_phase 1.0" in text
    assert 'kubevirt_vmi_migration_data_total_bytes{name="web",namespace="default"} 3.4359738368e+09' in text
    world.pass_lab_seconds(30)
    text = client.get("/metrics").text
    assert 'lab_migrations_total{outcome="succeeded"} 1.0' in text
    assert "kubevirt_vmi_migrations_in_running_phase 0.0" in text
    [entry] = client.get("/migrations").json["migrations"]
    assert (entry["vm"], entry["source"], entry["outcome"]) == ("web", "node-1", "succeeded")
    assert entry["requested"] <= entry["created"] <= entry["started"] < entry["ended"] <= entry["concluded"]


def test_the_record_survives_a_restart_with_the_last_six_migrations_of_each_vm(world: World) -> None:
    for _ in range(8):
        world.evict()
        world.pass_lab_seconds(5)
    before = world.manager.telemetry.record.entries()
    assert len(before) == 8
    world.start_manager()
    assert world.manager.telemetry.record.entries() == before[-6:]
