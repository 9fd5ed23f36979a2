"""VirtualMachines, evictions and migrations on the real components; the safety invariants are watched throughout."""

from __future__ import annotations

import json
import re
import statistics
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.request import urlopen

import pytest
import victims
from invariants import Invariants

from labkit.clock import WALL_CLOCK, wait_until
from labkit.cluster import RunningLab
from labkit.errors import KubeError
from labkit.kube import CONFIG_MAPS, EVENTS, NAMESPACES, NODES, PODS, VIRTUAL_MACHINES, Object
from labkit.names import (
    DESCHEDULER_REQUESTER,
    DOMAIN_LABEL,
    EVICTION_IN_PROGRESS_ANNOTATION,
    EVICTION_WEBHOOK,
    EXPORTER_HOST_PORT,
    MIGRATION_POLICY_CONFIG_MAP,
    MONITORING_NAMESPACE,
    POD_MANAGER_PORT,
)
from labkit.virtualmachine import Migration, VirtualMachine

pytestmark = [pytest.mark.live, pytest.mark.timeout(900)]

NAMESPACE = "domain-test"
KIND = {"apiVersion": "simulation.node-classifier.io/v1alpha1", "kind": "VirtualMachine"}
REFUSED = f'admission webhook "{EVICTION_WEBHOOK}" denied the request: '
SECONDS = 120.0
"""Longest wait for anything that takes well below a second on an idle machine."""


class Domain:
    """The VMs of these tests, in a namespace of their own."""

    def __init__(self, lab: RunningLab) -> None:
        self.lab = lab
        self.kube = lab.kube

    def add(self, name: str, *, cpu: str = "1", memory: str = "1Mi", node: str = "", **spec: Any) -> None:
        """Create a VM; by default so small that its copy takes no time."""
        annotations = {"simulation.node-classifier.io/initial-node": node} if node else {}
        body = {"resources": {"cpu": cpu, "memory": memory}, "utilization": {"cpu": "0", "memory": "1"}} | spec
        metadata = {"name": name, "namespace": NAMESPACE, "annotations": annotations}
        self.kube.create(VIRTUAL_MACHINES, KIND | {"metadata": metadata, "spec": body})

    def get(self, name: str) -> VirtualMachine:
        return VirtualMachine.read(self.kube.get(VIRTUAL_MACHINES, name, NAMESPACE))

    def status(self, name: str) -> dict[str, Any]:
        return dict(self.kube.get(VIRTUAL_MACHINES, name, NAMESPACE).get("status") or {})

    def patch(self, name: str, **patch: Any) -> None:
        self.kube.patch(VIRTUAL_MACHINES, name, patch, NAMESPACE)

    def pods(self, name: str) -> list[Object]:
        return list(self.kube.list(PODS, NAMESPACE, label_selector=f"{DOMAIN_LABEL}={name}")["items"])

    def until(
        self, name: str, holds: Callable[[VirtualMachine], Any], what: str, seconds: float = SECONDS
    ) -> VirtualMachine:
        def look() -> VirtualMachine | None:
            try:
                vm = self.get(name)
                return vm if holds(vm) else None
            except KubeError as error:
                if error.may_pass:
                    return None  # the API server is away for a moment
                raise

        return wait_until(look, timeout_seconds=seconds, what=f"{name} to {what}", found=lambda: self.told(name))

    def told(self, name: str) -> str:
        try:
            return str(self.status(name))
        except KubeError as error:
            return str(error)

    def until_runs(self, *names: str) -> None:
        for name in names:
            self.until(name, lambda vm: self.status(vm.name).get("phase") == "Running", "run")

    def evict(self, pod: str, *, requested_by: str = "", dry_run: bool = False) -> tuple[int, str]:
        """Ask for an eviction; return the answer's code and message."""
        body: Object = {
            "apiVersion": "policy/v1",
            "kind": "Eviction",
            "metadata": {
                "name": pod,
                "namespace": NAMESPACE,
                "annotations": {"requested-by": requested_by} if requested_by else {},
            },
        }
        if dry_run:
            body["deleteOptions"] = {"dryRun": ["All"]}
        try:
            self.kube.create(PODS, body, NAMESPACE, name=pod, subresource="eviction")
        except KubeError as error:
            return error.status, str(error)
        return 201, ""

    def evict_vm(self, name: str) -> VirtualMachine:
        """Have a VM marked; return it as it was."""
        vm = self.get(name)
        status, message = self.evict(vm.pod_name, requested_by=DESCHEDULER_REQUESTER)
        assert (status, message) == (429, f'{REFUSED}Eviction triggered evacuation of VMI "{NAMESPACE}/{name}"')
        return vm

    def until_migrated(self, before: VirtualMachine, seconds: float = SECONDS) -> Migration:
        """Wait until a VM has left the node where it was and nothing of the migration is left."""

        def done(vm: VirtualMachine) -> bool:
            migration = vm.migration
            return migration is not None and migration.phase == "Succeeded" and migration.source_pod == before.pod_name

        migration = self.until(before.name, done, f"leave {before.node_name}", seconds).migration
        assert migration is not None
        return migration

    def events(self, name: str) -> list[str]:
        found = self.kube.list(EVENTS, NAMESPACE, field_selector=f"involvedObject.name={name}")["items"]
        return [event["reason"] for event in sorted(found, key=lambda event: event["eventTime"])]

    def policy(self, **options: str | None) -> None:
        self.kube.patch(CONFIG_MAPS, MIGRATION_POLICY_CONFIG_MAP, {"data": options}, MONITORING_NAMESPACE)

    def migrations(self) -> list[dict[str, Any]]:
        with urlopen(f"{self.lab.url(POD_MANAGER_PORT)}/migrations", timeout=5) as answer:
            return list(json.load(answer)["migrations"])

    def restart_count(self, app: str) -> int:
        [pod] = self.kube.list(PODS, MONITORING_NAMESPACE, label_selector=f"app={app}")["items"]
        return int(pod["status"]["containerStatuses"][0]["restartCount"])


@pytest.fixture
def invariants(quiet_lab: RunningLab) -> Iterator[Invariants]:
    """Everything that must hold, watched while a test runs."""
    with Invariants(
        quiet_lab.kube,
        exporter_url=quiet_lab.url(EXPORTER_HOST_PORT),
        audit_log=quiet_lab.folder.audit_log if quiet_lab.backend == "local" else None,
        lasting_seconds=10.0,
    ) as invariants:
        yield invariants


@pytest.fixture
def domain(quiet_lab: RunningLab, invariants: Invariants) -> Iterator[Domain]:
    quiet_lab.kube.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}})
    domain = Domain(quiet_lab)
    yield domain
    for vm in quiet_lab.kube.list(VIRTUAL_MACHINES, NAMESPACE)["items"]:
        quiet_lab.kube.delete(VIRTUAL_MACHINES, vm["metadata"]["name"], NAMESPACE)
    wait_until(
        lambda: not quiet_lab.kube.list(PODS, NAMESPACE)["items"],
        timeout_seconds=SECONDS,
        what=f"namespace {NAMESPACE} to be without pods",
    )


# --- the resource ------------------------------------------------------------------------------------


def test_kubectl_shows_allocation_utilization_pod_and_node(domain: Domain) -> None:
    domain.add("web", cpu="0.5", memory="4Gi", utilization={"cpu": "0", "memory": "1"})
    domain.until_runs("web")
    vm = domain.get("web")
    table = domain.lab.kubectl("get", "vm", "-n", NAMESPACE, "-o", "wide").stdout.splitlines()
    header, row = (re.split(r"\s{2,}", line.strip()) for line in table)
    shown = dict(zip(header, row, strict=False))
    assert shown["PHASE"] == "Running"
    assert (shown["CPU"], shown["MEMORY"], shown["CPU-UTIL"], shown["MEM-UTIL"]) == ("0.5", "4Gi", "0", "1")
    assert vm.pod_name in table[1]
    assert vm.node_name in table[1]


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({}, "spec.resources: Required value"),
        ({"resources": {"cpu": "500m", "memory": "1Gi"}}, 'wanted cores from above 0 to 1024 such as "2" or "0.5"'),
        ({"resources": {"cpu": "0", "memory": "1Gi"}}, "wanted cores from above 0 to 1024"),
        ({"resources": {"cpu": "99999999", "memory": "1Gi"}}, "wanted cores from above 0 to 1024"),
        ({"resources": {"cpu": "1", "memory": "much"}}, 'wanted memory from 1Mi to 64Ti such as "8Gi" or "512M"'),
        ({"resources": {"cpu": "1", "memory": "0"}}, "wanted memory from 1Mi to 64Ti"),
        ({"resources": {"cpu": "1", "memory": "9999999Ti"}}, "wanted memory from 1Mi to 64Ti"),
        ({"utilization": {"cpu": "1.1"}}, 'wanted a share from 0 to 1 such as "0", "0.5" or "1"'),
        ({"utilization": {"cpu": "-0.1"}}, "wanted a share from 0 to 1"),
        ({"utilization": {"memory": "half"}}, "wanted a share from 0 to 1"),
        ({"utilization": {"memory": "½"}}, "wanted a share from 0 to 1"),
        ({"utilization": {"cpu": 0.5}}, "must be of type string"),
        ({"migration": {"dirtyRateMbps": -1}}, "should be greater than or equal to 0"),
        (
            {"evictionStrategy": "Teleport"},
            'supported values: "None", "LiveMigrate", "LiveMigrateIfPossible", "External"',
        ),
        ({"running": "yes"}, "must be of type boolean"),
    ],
)
def test_a_wrong_vm_is_refused_with_what_was_wanted(domain: Domain, spec: dict[str, Any], message: str) -> None:
    resources = {} if not spec else {"resources": {"cpu": "1", "memory": "1Gi"}}
    with pytest.raises(KubeError) as refusal:
        domain.kube.create(
            VIRTUAL_MACHINES, KIND | {"metadata": {"name": "wrong", "namespace": NAMESPACE}, "spec": resources | spec}
        )
    assert refusal.value.status == 422
    assert message in str(refusal.value)


def test_a_name_too_long_for_a_label_is_refused(domain: Domain) -> None:
    with pytest.raises(KubeError, match="wanted at most 63 characters"):
        domain.add("v" * 64)


@pytest.mark.parametrize("share", ["0", "0.0", "0.5", "0.123456", "1", "1.0"])
def test_every_share_from_0_to_1_is_accepted(domain: Domain, share: str) -> None:
    domain.add("shares", utilization={"cpu": share, "memory": share})
    assert domain.get("shares").cpu_utilization == share


def test_defaults_are_written_into_the_vm(domain: Domain) -> None:
    metadata = {"name": "plain", "namespace": NAMESPACE}
    spec = {"resources": {"cpu": "1", "memory": "1Gi"}}
    stored = domain.kube.create(VIRTUAL_MACHINES, KIND | {"metadata": metadata, "spec": spec})["spec"]
    assert stored == spec | {
        "utilization": {"cpu": "0.5", "memory": "0.8"},
        "migration": {"dirtyRateMbps": 800, "allowed": True},
        "running": True,
        "evictionStrategy": "LiveMigrate",
    }


def test_stopping_and_starting_a_vm_removes_and_makes_its_pod(domain: Domain) -> None:
    domain.add("web")
    domain.until_runs("web")
    first = domain.get("web").pod_name
    domain.patch("web", spec={"running": False})
    wait_until(lambda: not domain.pods("web"), timeout_seconds=SECONDS, what="the pod to go")
    wait_until(lambda: domain.status("web")["phase"] == "Stopped", timeout_seconds=SECONDS, what="phase Stopped")
    assert not {"podName", "nodeName", "allocatedCpu"} & set(domain.status("web"))
    domain.patch("web", spec={"running": True})
    domain.until_runs("web")
    assert domain.get("web").pod_name != first


def test_deleting_a_vm_removes_its_pod(domain: Domain) -> None:
    domain.add("web")
    domain.until_runs("web")
    assert domain.lab.kubectl("delete", "vm", "web", "-n", NAMESPACE).returncode == 0
    wait_until(lambda: not domain.pods("web"), timeout_seconds=SECONDS, what="the pod to go")


def test_a_deleted_pod_is_replaced_once(domain: Domain) -> None:
    domain.add("web")
    domain.until_runs("web")
    first = domain.get("web").pod_name
    domain.kube.delete(PODS, first, NAMESPACE)
    domain.until("web", lambda vm: vm.pod_name != first and vm.node_name, "have a new pod")
    assert [pod["metadata"]["name"] for pod in domain.pods("web")] == [domain.get("web").pod_name]


def test_changed_utilization_reaches_pod_and_status(domain: Domain) -> None:
    domain.add("web")
    domain.until_runs("web")
    patch = '{"spec":{"utilization":{"cpu":"0.9"}}}'
    assert domain.lab.kubectl("patch", "vm", "web", "-n", NAMESPACE, "--type=merge", "-p", patch).returncode == 0
    name = "simulation.node-classifier.io/vm-cpu-utilization"
    wait_until(
        lambda: [pod["metadata"]["annotations"][name] for pod in domain.pods("web")] == ["0.9"],
        timeout_seconds=SECONDS,
        what="the pod's annotation",
    )
    wait_until(lambda: domain.status("web")["cpuUtilization"] == "0.9", timeout_seconds=SECONDS, what="the status")


# --- eviction and migration --------------------------------------------------------------------------


def test_an_eviction_becomes_a_migration(domain: Domain) -> None:
    domain.add("web", memory="128Gi", utilization={"cpu": "0.5", "memory": "0.9"})
    domain.until_runs("web")
    before = domain.evict_vm("web")
    code, message = domain.evict(before.pod_name)
    assert (code, message) == (
        429,
        f'{REFUSED}Evacuation in progress: Eviction triggered evacuation of VMI "{NAMESPACE}/web"',
    )
    vm = domain.until("web", lambda vm: vm.migration and vm.migration.phase == "Running", "copy")
    assert vm.evacuation_node == before.node_name
    assert vm.pod_name == before.pod_name, "the VM is the source until the hand-over"
    pods = {pod["metadata"]["name"]: pod["metadata"] for pod in domain.pods("web")}
    assert vm.migration is not None
    assert set(pods) == {before.pod_name, vm.migration.target_pod}
    assert EVICTION_IN_PROGRESS_ANNOTATION in pods[before.pod_name]["annotations"]
    assert EVICTION_IN_PROGRESS_ANNOTATION not in pods[vm.migration.target_pod]["annotations"]
    assert pods[vm.migration.target_pod]["labels"]["kubevirt.io/migrationJobUID"] == vm.migration.uid
    code, message = domain.evict(vm.migration.target_pod)
    assert code == 429
    migration = domain.until_migrated(before)
    after = domain.get("web")
    assert (after.pod_name, after.node_name) == (migration.target_pod, migration.target_node)
    assert after.node_name != before.node_name
    assert not after.is_marked
    assert [pod["metadata"]["name"] for pod in domain.pods("web")] == [migration.target_pod]
    # 115.2 GiB at 1.25 GB/s take 99 lab seconds, and 4 more for what 50 MB/s dirtied meanwhile.
    assert migration.started is not None
    assert migration.handed_over is not None
    copied_seconds = (migration.handed_over - migration.started) * domain.lab.tempo
    assert 102.0 <= copied_seconds < 102.0 + 30.0 * domain.lab.tempo  # however late a busy machine notices the end
    wait_until(
        lambda: {"MigrationStarted", "Migrating", "Migrated"} <= set(domain.events("web")),
        timeout_seconds=SECONDS,
        what="the events of the migration",
        found=lambda: str(domain.events("web")),
    )
    [entry] = [entry for entry in domain.migrations() if entry["uid"] == migration.uid]
    assert (entry["vm"], entry["source"], entry["target"]) == ("web", before.node_name, after.node_name)
    assert entry["requested"] <= entry["created"] <= entry["started"] < entry["ended"] <= entry["concluded"]
    assert entry["bytes"] > 115 * 2**30


def test_a_dry_run_eviction_changes_nothing(domain: Domain) -> None:
    domain.add("web")
    domain.until_runs("web")
    before = domain.kube.get(VIRTUAL_MACHINES, "web", NAMESPACE)["status"].get("evacuationNodeName")
    code, message = domain.evict(domain.get("web").pod_name, dry_run=True)
    assert code == 429
    assert "Eviction triggered evacuation" in message
    assert before is None
    assert not domain.get("web").is_marked


def test_a_vm_of_strategy_none_is_evicted_and_starts_elsewhere_anew(domain: Domain) -> None:
    domain.add("web", evictionStrategy="None")
    domain.until_runs("web")
    first = domain.get("web")
    assert domain.evict(first.pod_name)[0] == 201
    domain.until("web", lambda vm: vm.pod_name != first.pod_name and vm.node_name, "have a new pod")
    assert domain.get("web").migration is None


def test_a_vm_that_cannot_migrate_stays(domain: Domain) -> None:
    domain.add("web", migration={"allowed": False})
    domain.until_runs("web")
    code, message = domain.evict(domain.get("web").pod_name)
    assert (code, message) == (
        429,
        f"{REFUSED}VMI web is configured with an eviction strategy but is not live-migratable",
    )
    assert not domain.get("web").is_marked


def test_many_evictions_at_once_migrate_one_vm_once(domain: Domain) -> None:
    domain.add("web")
    domain.until_runs("web")
    before = domain.get("web")
    with ThreadPoolExecutor(16) as executor:
        answers = list(executor.map(lambda _: domain.evict(before.pod_name), range(32)))
    assert {code for code, _ in answers} <= {404, 429}
    assert sum("denied the request: Eviction triggered" in message for _, message in answers) == 1
    migration = domain.until_migrated(before)
    assert [entry["uid"] for entry in domain.migrations() if entry["vm"] == "web" and entry["namespace"] == NAMESPACE][
        -1
    ] == migration.uid


def test_limits_hold_when_a_node_is_drained(domain: Domain) -> None:
    """kubectl drain evicts everything at once; the webhook refuses each, and the limits order the migrations."""
    names = [f"vm-{number}" for number in range(6)]
    for name in names:
        domain.add(name, memory="2Gi", node="kwok-node-1")
    domain.until_runs(*names)
    before = {name: domain.get(name) for name in names}
    assert {vm.node_name for vm in before.values()} == {"kwok-node-1"}
    try:
        drained = domain.lab.kubectl(
            "drain", "kwok-node-1", f"--pod-selector={DOMAIN_LABEL}", "--ignore-daemonsets", "--timeout=240s",
            timeout_seconds=300,
        )  # fmt: skip
        assert drained.returncode == 0, drained.stderr
        for name in names:
            migration = domain.until_migrated(before[name])
            assert migration.target_node != "kwok-node-1"
    finally:
        assert domain.lab.kubectl("uncordon", "kwok-node-1").returncode == 0


def test_a_migration_without_room_fails_and_is_tried_again(domain: Domain) -> None:
    domain.add("web")
    domain.until_runs("web")
    nodes = [node["metadata"]["name"] for node in domain.kube.list(NODES, label_selector="type=kwok")["items"]]
    source = domain.get("web").node_name
    domain.policy(pendingTimeout="30s", backoffBase="15s")
    try:
        for node in nodes:
            if node != source:
                domain.lab.kubectl("cordon", node)
        before = domain.evict_vm("web")
        failed = domain.until("web", lambda vm: vm.migration and vm.migration.phase == "Failed", "fail").migration
        assert failed is not None
        assert failed.failure_reason == "the target pod found no node within 30 s"
        vm = domain.get("web")
        assert (vm.pod_name, vm.evacuation_node) == (before.pod_name, source)
        domain.until("web", lambda vm: vm.migration and vm.migration.attempt >= 2, "try again")
    finally:
        for node in nodes:
            domain.lab.kubectl("uncordon", node)
        domain.policy(pendingTimeout="5m", backoffBase="20s")
    migration = domain.until_migrated(before)
    assert migration.attempt >= 2
    assert "FailedMigration" in domain.events("web")


def test_a_deleted_node_costs_its_vms_one_restart(domain: Domain) -> None:
    node = domain.kube.get(NODES, "kwok-node-5")
    domain.add("web", node="kwok-node-5")
    domain.until_runs("web")
    first = domain.get("web")
    try:
        assert domain.lab.kubectl("delete", "node", "kwok-node-5").returncode == 0
        domain.until("web", lambda vm: vm.node_name not in ("", "kwok-node-5"), "run elsewhere")
        assert len(domain.pods("web")) == 1
        assert domain.get("web").starts == first.starts + 1
    finally:
        restore_node(domain, node)


@pytest.mark.parametrize("end", ["source", "target"])
def test_a_node_deleted_during_a_migration_leaves_one_vm(domain: Domain, end: str) -> None:
    domain.add("web", memory="200Gi", node="kwok-node-4")  # a copy long enough to be broken off
    domain.until_runs("web")
    domain.evict_vm("web")
    vm = domain.until("web", lambda vm: vm.migration and vm.migration.phase == "Running", "copy")
    assert vm.migration is not None
    name = vm.migration.source_node if end == "source" else vm.migration.target_node
    node = domain.kube.get(NODES, name)
    try:
        domain.kube.delete(NODES, name)
        failed = domain.until("web", lambda vm: vm.migration and vm.migration.phase == "Failed", "give up").migration
        assert failed is not None
        assert vm.migration.uid == failed.uid
        domain.until("web", lambda vm: vm.node_name not in ("", name) and vm.pod_uid, "run")
        wait_until(
            lambda: len([pod for pod in domain.pods("web") if pod["spec"].get("nodeName") != name]) >= 1,
            timeout_seconds=SECONDS,
            what="a pod of the VM",
        )
    finally:
        restore_node(domain, node)


def test_a_vm_deleted_during_its_migration_leaves_no_pod(domain: Domain) -> None:
    domain.add("web", memory="200Gi")
    domain.until_runs("web")
    domain.evict_vm("web")
    domain.until("web", lambda vm: vm.migration and vm.migration.phase == "Running", "copy")
    domain.kube.delete(VIRTUAL_MACHINES, "web", NAMESPACE)
    wait_until(lambda: not domain.pods("web"), timeout_seconds=SECONDS, what="both pods to go")


@pytest.mark.parametrize("app", ["pod-manager", "vm-controller", "eviction-webhook"])
def test_a_service_killed_during_migrations_goes_on_where_it_was(domain: Domain, app: str) -> None:
    names = [f"vm-{number}" for number in range(4)]
    for name in names:
        domain.add(name, memory="32Gi", utilization={"cpu": "0.5", "memory": "1"})
    domain.until_runs(*names)
    before = {name: domain.evict_vm(name) for name in names}
    domain.until(names[0], lambda vm: vm.migration and vm.migration.phase == "Running", "copy")
    began = domain.get(names[0]).migration
    restarts = domain.restart_count(app)
    kill(domain, app)
    for name in names:
        domain.until_migrated(before[name], seconds=240.0)
    after = domain.get(names[0]).migration
    assert began is not None
    assert after is not None
    assert (after.uid, after.started) == (began.uid, began.started), "it was not begun anew"
    wait_until(lambda: domain.restart_count(app) > restarts, timeout_seconds=SECONDS, what=f"{app} to be restarted")
    domain.lab.kubectl(
        "rollout", "status", f"deployment/{app}", "-n", MONITORING_NAMESPACE, "--timeout=120s", timeout_seconds=150
    )


@pytest.mark.parametrize(
    "component", ["etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler", "kwok", "host-node-agent"]
)
def test_a_component_killed_during_migrations_costs_none_of_them(domain: Domain, component: str) -> None:
    if component not in victims.components(domain.lab):
        pytest.skip("there is no host node on kind")
    names = [f"vm-{number}" for number in range(3)]
    for name in names:
        domain.add(name, memory="16Gi")
    domain.until_runs(*names)
    # Timers are in lab time: five minutes are 20 s here, and on a busy machine a component may be away for longer.
    domain.policy(pendingTimeout="2h")
    try:
        before = {name: domain.evict_vm(name) for name in names}
        victims.kill_component(domain.lab, component)
        wait_until(lambda: answers(domain), timeout_seconds=SECONDS, what="the API server to answer")
        for name in names:
            migration = domain.until_migrated(before[name], seconds=240.0)
            assert migration.attempt == 1
    finally:
        domain.policy(pendingTimeout="5m")


def test_what_happened_while_kwok_was_away_is_made_up_for_by_its_successor(domain: Domain) -> None:
    """Pods that were bound meanwhile start, and those whose deletion was asked for go; each time, on every node."""
    for number in range(4):
        old, new = ([f"{age}-{number}-{node}" for node in range(1, 6)] for age in ("old", "new"))
        for name in old:
            domain.add(name, node=f"kwok-node-{name[-1]}")
        domain.until_runs(*old)
        victims.kill_component(domain.lab, "kwok")
        for name in new:
            domain.add(name, node=f"kwok-node-{name[-1]}")
        for name in old:
            domain.kube.delete(VIRTUAL_MACHINES, name, NAMESPACE)
        domain.until_runs(*new)
        for name in old:
            wait_until(lambda name=name: not domain.pods(name), timeout_seconds=SECONDS, what=f"{name}'s pod to go")


def test_while_the_webhook_is_down_evictions_are_refused(domain: Domain) -> None:
    domain.add("web")
    domain.until_runs("web")
    pod = domain.get("web").pod_name
    scale(domain, "eviction-webhook", 0)
    try:
        code, message = domain.evict(pod)
        assert code == 500
        assert "failed calling webhook" in message
        assert [p["metadata"]["name"] for p in domain.pods("web")] == [pod]
    finally:
        scale(domain, "eviction-webhook", 1)
    # On kind its Service leads there a moment after the pod is ready.
    wait_until(
        lambda: domain.evict(pod, dry_run=True)[0] == 429, timeout_seconds=SECONDS, what="the webhook to be reached"
    )
    domain.until_migrated(domain.evict_vm("web"))


def test_pods_marked_not_ready_cause_nothing(domain: Domain) -> None:
    domain.add("web")
    domain.until_runs("web")
    before = domain.get("web")
    condition = {"type": "Ready", "status": "False", "lastTransitionTime": "2026-01-01T00:00:00Z"}
    domain.kube.patch(
        PODS,
        before.pod_name,
        {"status": {"conditions": [condition]}},
        NAMESPACE,
        kind="strategic",
        subresource="status",
    )
    domain.patch("web", spec={"utilization": {"cpu": "0.3"}})  # once this has arrived, the other has too
    wait_until(lambda: domain.status("web")["cpuUtilization"] == "0.3", timeout_seconds=SECONDS, what="the status")
    after = domain.get("web")
    assert (after.pod_name, after.migration, domain.status("web")["phase"]) == (before.pod_name, None, "Running")


def test_an_eviction_takes_0_3_seconds_without_the_copy(domain: Domain) -> None:
    """From the answer to the eviction until the target is the VM and the source is gone; VMs of 1 MiB copy at once."""
    names = [f"vm-{number}" for number in range(10)]
    for name in names:
        domain.add(name)
    domain.until_runs(*names)
    seconds = []
    for name in names * 2:
        before = domain.evict_vm(name)
        began = WALL_CLOCK.monotonic()
        wait_until(
            lambda pod=before.pod_name: domain.kube.find(PODS, pod, NAMESPACE) is None,
            timeout_seconds=SECONDS,
            poll_seconds=0.01,
            what=f"{before.pod_name} to go",
        )
        seconds.append(WALL_CLOCK.monotonic() - began)
        domain.until_migrated(before)
    # On an idle machine a write takes 3 to 5 ms, and 0.3 s are at least 60 of them; a busy one is measured by its own.
    writes = []
    for number in range(20):
        began = WALL_CLOCK.monotonic()
        domain.patch(names[0], metadata={"annotations": {"domain-test/write": str(number)}})
        writes.append(WALL_CLOCK.monotonic() - began)
    allowed = max(0.3, 60 * statistics.median(writes))
    median = statistics.median(seconds)
    assert median <= allowed, f"median {median:.2f} s, allowed {allowed:.2f} s; all: {[round(s, 2) for s in seconds]}"


# --- helpers -----------------------------------------------------------------------------------------


def answers(domain: Domain) -> bool:
    try:
        domain.kube.list(VIRTUAL_MACHINES, NAMESPACE)
    except KubeError:
        return False
    return True


def scale(domain: Domain, app: str, replicas: int) -> None:
    domain.lab.kubectl("scale", f"deployment/{app}", "-n", MONITORING_NAMESPACE, f"--replicas={replicas}")
    wait_until(
        lambda: len(ready_pods(domain, app)) == replicas and len(app_pods(domain, app)) == replicas,
        timeout_seconds=SECONDS,
        what=f"{replicas} ready pods of {app}",
    )


def app_pods(domain: Domain, app: str) -> list[Object]:
    return list(domain.kube.list(PODS, MONITORING_NAMESPACE, label_selector=f"app={app}")["items"])


def ready_pods(domain: Domain, app: str) -> list[Object]:
    return [
        pod
        for pod in app_pods(domain, app)
        if any(c["type"] == "Ready" and c["status"] == "True" for c in pod["status"].get("conditions", ()))
    ]


def kill(domain: Domain, app: str) -> None:
    """SIGKILL a service's process."""
    assert victims.kill_addon(domain.lab, f"services.{app.replace('-', '_')}") > 0, app


def restore_node(domain: Domain, node: Object) -> None:
    metadata = {key: node["metadata"][key] for key in ("name", "labels", "annotations")}
    domain.kube.delete(NODES, metadata["name"])
    domain.kube.create(
        NODES,
        {
            "apiVersion": "v1",
            "kind": "Node",
            "metadata": metadata,
            "spec": {"taints": [taint for taint in node["spec"]["taints"] if taint["key"].startswith("kwok")]},
            "status": {"capacity": node["status"]["capacity"], "allocatable": node["status"]["allocatable"]},
        },
    )
    wait_until(
        lambda: any(
            condition["type"] == "Ready" and condition["status"] == "True"
            for condition in domain.kube.get(NODES, metadata["name"])["status"].get("conditions", ())
        ),
        timeout_seconds=SECONDS,
        what=f"node {metadata['name']} to be Ready",
    )


def test_namespaces_come_and_go_with_their_vms(domain: Domain) -> None:
    """A namespace that is deleted takes its VMs along: nothing makes their pods anew, nothing hangs."""
    domain.kube.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "domain-test-gone"}})
    metadata = {"name": "web", "namespace": "domain-test-gone"}
    spec = {"resources": {"cpu": "1", "memory": "1Mi"}}
    domain.kube.create(VIRTUAL_MACHINES, KIND | {"metadata": metadata, "spec": spec})
    wait_until(
        lambda: domain.kube.list(PODS, "domain-test-gone")["items"], timeout_seconds=SECONDS, what="the VM's pod"
    )
    domain.kube.delete(NAMESPACES, "domain-test-gone")
    wait_until(
        lambda: domain.kube.find(NAMESPACES, "domain-test-gone") is None,
        timeout_seconds=SECONDS,
        what="the namespace to go",
    )
