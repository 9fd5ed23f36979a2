import json
import math
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from flask.testing import FlaskClient

from labkit.clock import LabTime, VirtualClock
from labkit.datafiles import data_path
from labkit.errors import InputError
from labkit.load import curve_json, parse_curve
from labkit.settings import Settings
from labkit.units import GIB
from services.exporter.app import create_app
from services.exporter.counters import CounterFile, Counters
from services.exporter.logic import Fleet, Load, NodeView, Pod, active_pod, read_pod, trimmed
from services.exporter.metrics import METRICS, Exposition, NodeMetric, counter, gauge

EPOCH = 1_000_000.0
TEMPO = 15
"""One load step is one wall second."""


def node(name: str, *, cores: str = "32", memory: str = "512Gi", schedulable: str = "true") -> dict[str, Any]:
    return {
        "metadata": {"name": name, "labels": {"type": "kwok", "kubevirt.io/schedulable": schedulable}},
        "status": {"allocatable": {"cpu": cores, "memory": memory}},
    }


def vm(name: str, pod_name: str | None = None, *, uid: str = "") -> dict[str, Any]:
    return {
        "metadata": {"name": name, "namespace": "default", "uid": uid or f"uid-{name}"},
        "status": {} if pod_name is None else {"podName": pod_name},
    }


def pod(
    name: str,
    vm_name: str,
    where: str,
    *,
    cores: float = 16,
    memory_gib: float = 128,
    cpu: float = 0.5,
    memory: float = 0.5,
    load: str | None = None,
    target: bool = False,
    phase: str = "Running",
    uid: str = "",
) -> dict[str, Any]:
    labels = {"app": "virt-launcher", "kubevirt.io/domain": vm_name, "kubevirt.io/created-by": uid or f"uid-{vm_name}"}
    if target:
        labels["kubevirt.io/migrationJobUID"] = "job"
    prefix = "simulation.node-classifier.io/vm-"
    annotations = {
        f"{prefix}cpu-cores": str(cores),
        f"{prefix}memory-bytes": str(int(memory_gib * GIB)),
        f"{prefix}cpu-utilization": str(cpu),
        f"{prefix}memory-utilization": str(memory),
    }
    if load is not None:
        annotations[f"{prefix}load"] = load
    return {
        "metadata": {"name": name, "namespace": "default", "labels": labels, "annotations": annotations},
        "spec": {"nodeName": where},
        "status": {"phase": phase},
    }


def running_fleet(*nodes: str, model: str = "monotone") -> Fleet:
    fleet = Fleet(LabTime(EPOCH, TEMPO), pressure_model=model)  # type: ignore[arg-type]
    for name in nodes:
        fleet.node_changed(None, node(name), EPOCH)
    fleet.begin(EPOCH)
    return fleet


def with_vm(fleet: Fleet, name: str, where: str, now: float = EPOCH, **options: Any) -> None:
    fleet.vm_changed(None, vm(name, f"{name}-pod"), now)
    fleet.pod_changed(None, pod(f"{name}-pod", name, where, **options), now)


def of(view: NodeView, name: str, field: str) -> float:
    return float(getattr(view, field)[view.nodes.index(name)])


# --- which pod counts -------------------------------------------------------------------------------


def make_pod(name: str, *, target: bool = False, uid: str = "u") -> Pod:
    return Pod(name, uid, "n", True, target, 1.0, 1.0, Load(0.5, 0.5))


@pytest.mark.parametrize(
    ("pod_name", "pods", "expected"),
    [
        ("b", [make_pod("a"), make_pod("b", target=True)], "b"),
        ("gone", [make_pod("a")], None),
        ("", [make_pod("a"), make_pod("b", target=True)], "a"),
        ("", [make_pod("a"), make_pod("b")], None),
        ("", [make_pod("a", uid="earlier vm")], None),
        ("", [], None),
    ],
    ids=["named", "named but gone", "no status yet", "two sources", "of an earlier VM", "none"],
)
def test_active_pod(pod_name: str, pods: list[Pod], expected: str | None) -> None:
    found = active_pod("u", pod_name, pods)
    assert (found.name if found else None) == expected


def test_read_pod_names_the_annotation_that_is_wrong() -> None:
    broken = pod("p", "a", "n1")
    broken["metadata"]["annotations"]["simulation.node-classifier.io/vm-cpu-cores"] = "many"
    with pytest.raises(InputError, match=r"vm-cpu-cores: wanted a quantity .* 'many'"):
        read_pod(broken)


def test_migration_moves_the_load_when_the_vm_says_so_and_not_before() -> None:
    fleet = running_fleet("n1", "n2")
    with_vm(fleet, "a", "n1")
    fleet.pod_changed(None, pod("a-target", "a", "n2", target=True), EPOCH + 0.1)
    assert of(fleet.view(EPOCH + 0.2), "n1", "cpu_usage") == 0.25
    assert of(fleet.view(EPOCH + 0.2), "n2", "cpu_usage") == 0.0
    fleet.vm_changed(None, vm("a", "a-target"), EPOCH + 0.3)
    view = fleet.view(EPOCH + 0.4)
    assert view.cpu_usage.tolist() == [0.0, 0.25]
    assert view.vms.tolist() == [0.0, 1.0]


@pytest.mark.parametrize("phase", ["Pending", "Succeeded", "Failed", "Unknown"])
def test_a_pod_that_is_not_running_has_no_load(phase: str) -> None:
    fleet = running_fleet("n1")
    with_vm(fleet, "a", "n1", phase=phase)
    assert fleet.view(EPOCH + 1).cpu_usage.tolist() == [0.0]
    assert fleet.view(EPOCH + 1).vms.tolist() == [0.0]


def test_a_pod_without_its_vm_has_no_load() -> None:
    fleet = running_fleet("n1")
    with_vm(fleet, "a", "n1")
    fleet.vm_changed(vm("a"), None, EPOCH)
    assert fleet.view(EPOCH).vms.tolist() == [0.0]
    fleet.pod_changed(pod("a-pod", "a", "n1"), None, EPOCH)
    assert fleet.counts() == {"nodes": 1, "vms": 0, "running_vms": 0, "unreadable_pods": 0}


def test_order_of_events_does_not_matter() -> None:
    events = [
        lambda fleet: fleet.node_changed(None, node("n1"), EPOCH),
        lambda fleet: fleet.vm_changed(None, vm("a", "a-pod"), EPOCH),
        lambda fleet: fleet.pod_changed(None, pod("a-pod", "a", "n1"), EPOCH),
    ]
    for order in ((0, 1, 2), (0, 2, 1), (1, 0, 2), (1, 2, 0), (2, 0, 1), (2, 1, 0)):
        fleet = running_fleet()
        for index in order:
            events[index](fleet)
        assert fleet.view(EPOCH).cpu_usage.tolist() == [0.25], order
        assert fleet.view(EPOCH).memory_usage.tolist() == [0.125], order


def test_unreadable_pod_counts_as_none_and_is_reported_until_it_is_mended() -> None:
    fleet = running_fleet("n1")
    with_vm(fleet, "a", "n1", load='{"curve":{},"seed":1}')
    assert (fleet.unreadable_pods, fleet.view(EPOCH).vms.tolist()) == (1, [0.0])
    fleet.pod_changed(None, pod("a-pod", "a", "n1"), EPOCH)
    assert (fleet.unreadable_pods, fleet.view(EPOCH).vms.tolist()) == (0, [1.0])


# --- load -------------------------------------------------------------------------------------------


def test_capacity_is_the_nodes_own_and_may_change() -> None:
    fleet = running_fleet()
    fleet.node_changed(None, node("n1", cores="16", memory="256Gi"), EPOCH)
    with_vm(fleet, "a", "n1")
    assert fleet.view(EPOCH).cpu_usage.tolist() == [0.5]
    fleet.node_changed(None, node("n1", cores="8", memory="256Gi"), EPOCH + 1)
    view = fleet.view(EPOCH + 2)
    assert view.cpu_usage.tolist() == [1.0]
    assert view.cpu_busy_seconds.tolist() == [0.5 * 1 + 1.0 * 1]


def test_only_simulated_nodes_have_series_and_a_deleted_one_loses_them() -> None:
    fleet = running_fleet("n1", "n2", "n3")
    with_vm(fleet, "a", "n2")
    with_vm(fleet, "b", "n3")
    other = node("lab-host")
    del other["metadata"]["labels"]["type"]
    fleet.node_changed(None, other, EPOCH)
    fleet.node_changed(node("n2"), None, EPOCH + 1)
    view = fleet.view(EPOCH + 2)
    assert view.nodes == ("n1", "n3")
    assert view.vms.tolist() == [0.0, 1.0]
    assert view.cpu_usage.tolist() == [0.0, 0.25]
    assert view.cpu_busy_seconds.tolist() == [0.0, 0.5]
    fleet.node_changed(None, node("n2"), EPOCH + 3)
    assert of(fleet.view(EPOCH + 4), "n2", "cpu_busy_seconds") == 0.25  # the pod is still bound to that name


def test_a_curve_is_followed_on_the_grid_of_load_steps() -> None:
    # Lab seconds 30 to 60 at 1.0, before and after at 0.5; tempo 15: wall seconds 2 to 4.
    curve = parse_curve({"cpu": 0.5, "memory": 0.5, "surges": [{"at": 30, "duration": 30, "cpu": 0.5, "memory": 0.0}]})
    fleet = running_fleet("n1")
    with_vm(fleet, "a", "n1", load=curve_json(curve, 7))
    usage = [fleet.view(EPOCH + second).cpu_usage[0] for second in (0.0, 1.999, 2.0, 3.5, 4.0, 9.0)]
    assert usage == [0.25, 0.25, 0.5, 0.5, 0.25, 0.25]


def test_curves_start_when_lab_time_0_is_set() -> None:
    # A scenario places its VMs while lab time 0 is far away, then sets it: 0.5 before, 1.0 from 30 lab seconds on.
    curve = parse_curve({"cpu": {"kind": "step", "start": 0.5, "end": 1.0, "at": 30}, "memory": 0.5})
    fleet = Fleet(LabTime(EPOCH + 1e9, TEMPO))
    fleet.node_changed(None, node("n1"), EPOCH)
    with_vm(fleet, "a", "n1", load=curve_json(curve, 1))
    fleet.begin(EPOCH)
    assert fleet.view(EPOCH + 7.3).cpu_usage.tolist() == [0.25]
    fleet.settings_changed(Settings(LabTime(EPOCH + 10.5, TEMPO)), EPOCH + 10.5)
    usage = [fleet.view(EPOCH + 10.5 + second).cpu_usage[0] for second in (0.0, 1.9, 2.1, 5.0)]
    assert usage == [0.25, 0.25, 0.5, 0.5]
    assert fleet.view(EPOCH + 15.5).cpu_busy_seconds[0] == pytest.approx(0.25 * 12.5 + 0.5 * 3.0, abs=1e-9)
    assert fleet.view(EPOCH + 15.5).lab_seconds == 75.0


def test_pressure_model_is_a_switch() -> None:
    # 32 cores at 0.7: where the original's curve drops to 0 and the monotone one continues at 0.049.
    for model, expected in (("monotone", 0.049), ("seed", 0.0)):
        fleet = running_fleet("n1", model=model)
        with_vm(fleet, "a", "n1", cores=32, cpu=0.7)
        assert fleet.view(EPOCH).cpu_pressure[0] == pytest.approx(expected, abs=1e-12)
        fleet.settings_changed(Settings(LabTime(EPOCH, TEMPO), "monotone"), EPOCH + 1)
        assert fleet.view(EPOCH + 1).cpu_pressure[0] == pytest.approx(0.049, abs=1e-12)


# --- counters ---------------------------------------------------------------------------------------


def scripted(scrapes: list[float]) -> NodeView:
    """Play one fixed story, scraped at the given wall seconds, and look at the end (10 s)."""
    fleet = running_fleet("n1", "n2")
    curve = parse_curve({"cpu": {"kind": "random_walk", "mean": 0.5, "amplitude": 0.4, "period": "1m"}, "memory": 0.3})
    story = [
        (0.0, lambda now: with_vm(fleet, "a", "n1", now, load=curve_json(curve, 3))),
        (0.7, lambda now: with_vm(fleet, "b", "n1", now)),
        (3.3, lambda now: fleet.pod_changed(None, pod("b-pod", "b", "n1", cpu=0.9), now)),
        (6.1, lambda now: fleet.pod_changed(None, pod("a-t", "a", "n2", target=True, load=curve_json(curve, 3)), now)),
        (6.4, lambda now: fleet.vm_changed(None, vm("a", "a-t"), now)),
    ]
    events = sorted([(at, action) for at, action in story] + [(at, None) for at in scrapes], key=lambda e: e[0])
    for at, action in events:
        if action is None:
            fleet.view(EPOCH + at)
        else:
            action(EPOCH + at)
    return fleet.view(EPOCH + 10)


def test_counters_are_the_same_whoever_scrapes_and_however_often() -> None:
    never = scripted([])
    often = scripted([0.1, 0.15, 1.0, 1.0, 2.71, 3.3, 5.0, 6.2, 6.4, 7.77, 9.999])
    for field in ("cpu_busy_seconds", "cpu_waiting_seconds", "memory_waiting_seconds", "seconds"):
        np.testing.assert_allclose(getattr(often, field), getattr(never, field), rtol=0, atol=1e-9)
    np.testing.assert_allclose(never.seconds, 10.0, atol=1e-9)


def test_counters_are_exact_integrals() -> None:
    fleet = running_fleet("n1", "n2")
    with_vm(fleet, "a", "n1", cores=32, cpu=0.8)
    fleet.pod_changed(None, pod("a-t", "a", "n2", cores=32, cpu=0.8, target=True), EPOCH + 2.5)
    fleet.vm_changed(None, vm("a", "a-t"), EPOCH + 2.5)
    view = fleet.view(EPOCH + 6.25)
    np.testing.assert_allclose(view.cpu_busy_seconds, [0.8 * 2.5, 0.8 * 3.75], atol=1e-9)
    pressure = 0.049 + 0.1 * (0.2 - 0.049) / 0.2
    np.testing.assert_allclose(view.cpu_waiting_seconds, [pressure * 2.5, pressure * 3.75], atol=1e-9)


def test_counters_never_fall_when_the_wall_clock_goes_back() -> None:
    fleet = running_fleet("n1")
    with_vm(fleet, "a", "n1")
    before = fleet.view(EPOCH + 5).cpu_busy_seconds[0]
    assert fleet.view(EPOCH + 3).cpu_busy_seconds[0] == before
    assert fleet.view(EPOCH + 6).cpu_busy_seconds[0] == before + 0.25


def test_a_long_pause_is_caught_up_with_in_bounded_time() -> None:
    fleet = running_fleet("n1")
    curve = parse_curve({"cpu": {"kind": "step", "start": 0.0, "end": 0.5, "at": 15}, "memory": 0.1})
    with_vm(fleet, "a", "n1", load=curve_json(curve, 1))
    eight_hours = 8 * 3600.0
    view = fleet.view(EPOCH + eight_hours)
    assert view.seconds[0] == pytest.approx(eight_hours)
    assert view.cpu_usage[0] == 0.25


def test_counters_go_on_after_the_process_was_killed(tmp_path: Path) -> None:
    file = CounterFile(tmp_path / "counters.json")
    first = running_fleet("n1")
    with_vm(first, "a", "n1")
    clock = VirtualClock(EPOCH + 10.0)
    told = series(create_app(first, clock=clock, counter_file=file).test_client().get("/metrics").text)
    second = Fleet(LabTime(EPOCH, TEMPO))
    second.node_changed(None, node("n1"), EPOCH + 12)
    second.node_changed(None, node("n2"), EPOCH + 12)
    with_vm(second, "a", "n1", EPOCH + 12)
    second.begin(EPOCH + 12, file.read(EPOCH + 12))
    view = second.view(EPOCH + 14)
    assert told['node_cpu_seconds_total{instance="n1",node="n1",mode="idle"}'] == 7.5
    assert (of(view, "n1", "seconds"), of(view, "n1", "cpu_busy_seconds")) == (14.0, 3.5)
    assert (of(view, "n2", "seconds"), of(view, "n2", "cpu_busy_seconds")) == (2.0, 0.0)


def test_counters_that_are_too_old_or_unreadable_are_left_behind(tmp_path: Path) -> None:
    file = CounterFile(tmp_path / "counters.json")
    assert file.read(EPOCH) is None
    file.write(Counters(EPOCH, {"n1": [1.0, 2.0, 3.0, 4.0]}))
    assert file.read(EPOCH + 1) == Counters(EPOCH, {"n1": [1.0, 2.0, 3.0, 4.0]})
    assert file.read(EPOCH + 3600) is None
    assert file.read(EPOCH - 1) is None  # the clock was set back
    (tmp_path / "counters.json").write_text("{")
    assert file.read(EPOCH) is None


def test_scrapers_at_the_same_time_do_not_disturb_each_other(tmp_path: Path) -> None:
    file = CounterFile(tmp_path / "counters.json")
    instants = [EPOCH + number / 100 for number in range(200)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda instant: file.write(Counters(instant, {"n1": [instant] * 4})), instants))
    kept = file.read(EPOCH + 10)
    assert kept is not None
    assert (kept.time, kept.values["n1"][0]) == (instants[-1], instants[-1])


def test_a_file_that_cannot_be_written_is_not_left_behind_too_small(tmp_path: Path) -> None:
    file = CounterFile(tmp_path / "counters.json")
    file.write(Counters(EPOCH, {"n1": [1.0] * 4}))
    (tmp_path / ".counters.json.draft").mkdir()  # stands in the way of the next write
    file.write(Counters(EPOCH + 1, {"n1": [2.0] * 4}))
    assert file.read(EPOCH + 2) is None


# --- text and pages ---------------------------------------------------------------------------------


def client_of(fleet: Fleet, **options: Any) -> FlaskClient:
    return create_app(fleet, clock=VirtualClock(EPOCH + 2.0), **options).test_client()


def series(text: str) -> dict[str, float]:
    lines = [line.rsplit(" ", 1) for line in text.splitlines() if line and not line.startswith("#")]
    assert len({name for name, _ in lines}) == len(lines), "a series appears twice"
    return {name: float(value) for name, value in lines}


def test_every_node_series_of_the_original_is_there_with_both_labels() -> None:
    fleet = running_fleet("n1", "n2")
    with_vm(fleet, "a", "n1")
    found = series(client_of(fleet).get("/metrics").text)
    both = 'instance="n1",node="n1"'
    expected = {
        f"node_cpu_usage_ratio{{{both}}}": 0.25,
        f"node_cpu_pressure_psi{{{both}}}": 0.0175,
        f"node_memory_usage_ratio{{{both}}}": 0.125,
        f"node_memory_pressure_psi{{{both}}}": 0.00875,
        f"node_vm_count{{{both}}}": 1.0,
        f'node_cpu_seconds_total{{{both},mode="idle"}}': 1.5,
        f'node_cpu_seconds_total{{{both},mode="user"}}': 0.3,
        f'node_cpu_seconds_total{{{both},mode="system"}}': 0.2,
        f"node_pressure_cpu_waiting_seconds_total{{{both}}}": 0.035,
        f"node_pressure_memory_waiting_seconds_total{{{both}}}": 0.0175,
        f"node_memory_MemAvailable_bytes{{{both}}}": 448 * GIB,
        f'kube_node_status_allocatable{{{both},resource="memory",unit="byte"}}': 512 * GIB,
        f'kube_node_role{{{both},role="worker"}}': 1.0,
    }
    assert {name: found.get(name) for name in expected} == pytest.approx(expected, abs=1e-9)
    assert sum('node="n2"' in name for name in found) == len(expected)


def test_text_is_what_promtool_and_prometheus_parse() -> None:
    from prometheus_client.parser import text_string_to_metric_families

    fleet = running_fleet("n1", "n2")
    families = {family.name: family for family in text_string_to_metric_families(client_of(fleet).get("/metrics").text)}
    assert families["node_cpu_seconds"].type == "counter"
    assert families["node_cpu_usage_ratio"].type == "gauge"
    assert len(families["node_cpu_seconds"].samples) == 6


def test_no_nodes_is_no_error() -> None:
    response = client_of(running_fleet()).get("/metrics")
    assert response.status_code == 200
    assert not re.search(r"^node_", response.text, re.MULTILINE)


def test_pages_answer_503_until_the_first_lists_are_read() -> None:
    client = client_of(Fleet(LabTime(EPOCH, TEMPO)))
    assert [client.get(page).status_code for page in ("/metrics", "/healthz", "/health", "/scenario")] == [503] * 4


def test_scenario_is_the_cluster() -> None:
    fleet = running_fleet("n2", "n1")
    with_vm(fleet, "b", "n1", cpu=0.25)
    with_vm(fleet, "a", "n1")
    body = client_of(fleet).get("/scenario").get_json()
    assert [entry["name"] for entry in body["nodes"]] == ["n1", "n2"]
    first = body["nodes"][0]
    assert [entry["name"] for entry in first["vms"]] == ["a", "b"]
    assert first["cpu_usage"] == 0.375
    assert first["vms"][1] == {
        "namespace": "default",
        "name": "b",
        "pod": "b-pod",
        "cpu_cores": 16.0,
        "memory_bytes": 128.0 * GIB,
        "cpu_utilization": 0.25,
        "memory_utilization": 0.5,
    }
    assert body["lab_seconds"] == 30.0


def test_health_counts() -> None:
    fleet = running_fleet("n1")
    with_vm(fleet, "a", "n1")
    body = client_of(fleet).get("/health").get_json()
    assert body == {
        "status": "healthy",
        "k8s_client_ready": True,
        "failing_metrics": [],
        "nodes": 1,
        "vms": 1,
        "running_vms": 1,
        "unreadable_pods": 0,
    }


def test_health_tells_that_the_cluster_is_out_of_sight() -> None:
    body = client_of(running_fleet("n1"), is_current=lambda: False).get("/health").get_json()
    assert (body["status"], body["k8s_client_ready"], body["nodes"]) == ("degraded", False, 1)


@pytest.mark.parametrize("page", ["/scenario", "/metrics", "/feedback", "/refresh"])
def test_posts_are_refused_and_say_what_to_do(page: str) -> None:
    response = client_of(running_fleet()).post(page, data="{}")
    assert response.status_code == 405
    assert "kubectl patch vm" in json.loads(response.data)["error"]


def test_unknown_node_is_named() -> None:
    response = client_of(running_fleet("n1")).get("/nodes/n9")
    assert (response.status_code, response.get_json()["error"]) == (
        404,
        "wanted a simulated node, found none named 'n9'",
    )


# --- custom metrics ---------------------------------------------------------------------------------


def make_metric(name: str, compute: Any, **labels: Any) -> NodeMetric:
    return NodeMetric(name, "help", "gauge", labels, compute)


def test_a_custom_metric_is_one_function() -> None:
    before = list(METRICS)
    try:

        @gauge("node_vms_per_core_ratio", "Running VMs per core.")
        def vms_per_core(view: NodeView) -> Any:
            return view.vms / view.cores

        fleet = running_fleet("n1")
        with_vm(fleet, "a", "n1")
        found = series(client_of(fleet).get("/metrics").text)
        assert found['node_vms_per_core_ratio{instance="n1",node="n1"}'] == 1 / 32
        with pytest.raises(ValueError, match="wanted one metric named node_vms_per_core_ratio"):
            gauge("node_vms_per_core_ratio", "again")
    finally:
        METRICS[:] = before


def blocks(language: str) -> list[str]:
    """Return the examples of docs/metrics.md in that language."""
    text = (data_path("k8s").parent / "docs" / "metrics.md").read_text()
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)


def test_the_documents_example_works_as_it_stands() -> None:
    before = list(METRICS)
    try:
        (example,) = blocks("python")
        exec(compile(example, "docs/metrics.md", "exec"), {})
        (name,) = [metric.name for metric in METRICS[len(before) :]]
        fleet = running_fleet("n1")
        with_vm(fleet, "a", "n1")
        found = series(client_of(fleet).get("/metrics").text)
        assert found[f'{name}{{instance="n1",node="n1"}}'] == 0.5  # 16 virtual cores on 32
    finally:
        METRICS[:] = before
    (rule,) = [yaml.safe_load(block) for block in blocks("yaml")]
    assert rule["kind"] == "PrometheusRule"
    assert name in rule["spec"]["groups"][0]["rules"][0]["expr"]


def test_the_document_names_every_metric() -> None:
    text = (data_path("k8s").parent / "docs" / "metrics.md").read_text()
    assert [metric.name for metric in METRICS if f"`{metric.name}" not in text] == []


def test_a_counter_says_so_in_its_name() -> None:
    with pytest.raises(ValueError, match="end in _total"):
        counter("node_wrong", "help")


@pytest.mark.parametrize(
    ("compute", "reason"),
    [
        (lambda view: 1 / 0, "division by zero"),
        (lambda view: np.zeros(5), r"wanted values of shape"),
        (lambda view: np.full(len(view.nodes), math.nan), "wanted finite values"),
    ],
    ids=["raises", "shape", "NaN"],
)
def test_a_broken_metric_loses_only_itself(compute: Any, reason: str, caplog: pytest.LogCaptureFixture) -> None:
    metrics = [make_metric("broken", compute), make_metric("fine", lambda view: view.cpu_usage)]
    client = client_of(running_fleet("n1"), exposition=Exposition(metrics))
    for _ in range(2):
        found = series(client.get("/metrics").text)
    assert 'fine{instance="n1",node="n1"}' in found
    assert found["lab_exporter_failing_metrics"] == 1
    assert not any(name.startswith("broken") for name in found)
    assert len(re.findall(reason, "\n".join(record.getMessage() for record in caplog.records))) == 1
    assert client.get("/health").get_json()["failing_metrics"] == ["broken"]


def test_trimming_keeps_all_that_is_read() -> None:
    whole, kept = running_fleet(), running_fleet()
    curve = curve_json(parse_curve({"cpu": 0.5, "memory": 0.25}), 7)
    first, second = node("n1"), vm("a", "a-pod")
    third = pod("a-pod", "a", "n1", load=curve, target=True)
    for obj in (first, second, third):
        obj["metadata"] |= {"resourceVersion": "1", "managedFields": [{}], "finalizers": []}
        obj["spec"] = obj.get("spec", {}) | {"containers": [{}]}
    for fleet, cut in ((whole, lambda obj: obj), (kept, trimmed)):
        fleet.node_changed(None, cut(first), EPOCH)
        fleet.vm_changed(None, cut(second), EPOCH)
        fleet.pod_changed(None, cut(third), EPOCH)
    assert kept.scenario(EPOCH + 1) == whole.scenario(EPOCH + 1)
    assert kept.scenario(EPOCH + 1)["nodes"][0]["vms"][0]["memory_utilization"] == 0.25
    assert set(trimmed(third)["spec"]) == {"nodeName"}
