# ruff: noqa: E501 (a log has lines as long as they are)
"""From the live loop's own words to tables; the log lines are the descheduler's, release 0.36."""

from __future__ import annotations

import math

import pandas as pd
import pytest

from labkit.clock import LabTime
from labkit.lab import record

TIME = LabTime(epoch=record.wall_seconds("2026-11-23T21:23:10Z"), tempo=15)

LOG = """\
2026-11-23T21:23:13.952514Z I1123 21:23:13.952478 2 nodeutilization.go:503] "Assessed average usage" MetricResource="40.67%"
2026-11-23T21:23:14Z I1123 21:23:13.952484 2 nodeutilization.go:513] "Assessed thresholds for underutilized nodes" MetricResource="40.67%"
2026-11-23T21:23:14.1Z I1123 21:23:13.952497 2 nodeutilization.go:523] "Assessed thresholds for overutilized nodes" MetricResource="50.67%"
2026-11-23T21:23:14.2Z I1123 21:23:13.952512 2 lownodeutilization.go:231] "Node has been classified" plugin="LowNodeUtilization" ExtensionPoint="Balance" category="underutilized" node="n1" usage={"MetricResource":"5"} usagePercentage={"MetricResource":5}
2026-11-23T21:23:14.2Z I1123 21:23:13.952512 2 lownodeutilization.go:231] "Node has been classified" plugin="LowNodeUtilization" ExtensionPoint="Balance" category="overutilized" node="n2" usage={"MetricResource":"72"} usagePercentage={"MetricResource":72}
2026-11-23T21:23:14.3Z I1123 21:23:13.952600 2 lownodeutilization.go:257] "Node is appropriately utilized" plugin="LowNodeUtilization" ExtensionPoint="Balance" node="n3" usage={"MetricResource":"45"} usagePercentage={"MetricResource":45}
2026-11-23T21:23:14.4Z I1123 21:23:13.952700 2 evictions.go:641] "Eviction in background assumed" pod="default/virt-launcher-a-x"
2026-11-23T21:23:14.5Z E1123 21:23:13.952701 2 evictions.go:534] "Error evicting pod" err="maximum number of evicted pods per node reached" limit=2 node="n2"
2026-11-23T21:23:14.6Z E1123 21:23:13.952702 2 evictions.go:560] "Error evicting pod" err="error when evicting pod (ignoring) \\"virt-launcher-b-y\\"" pod="default/virt-launcher-b-y" reason=""
not a line of klog
""".splitlines()


def test_cycles_have_each_nodes_class_and_the_thresholds_of_that_cycle() -> None:
    cycles = record.descheduling_cycles(LOG, TIME)
    assert cycles["time_seconds"].tolist() == pytest.approx([60.0, 60.0, 60.0])  # 4 s at tempo 15
    assert cycles.set_index("node")["class"].to_dict() == {
        "n1": "underutilized",
        "n2": "overutilized",
        "n3": "appropriate",
    }
    assert set(zip(cycles["low"], cycles["high"], strict=True)) == {(40.67, 50.67)}
    assert cycles["usage_percent"].tolist() == [5.0, 72.0, 45.0]


def test_evictions_are_requests_that_reached_the_api_server() -> None:
    pods = {"default/virt-launcher-a-x": ("a", "n2"), "default/virt-launcher-b-y": ("b", "n2")}
    evictions = record.evictions(LOG, pods, TIME)
    assert evictions[["vm", "node", "result"]].to_numpy().tolist() == [["a", "n2", "background"], ["b", "n2", "error"]]
    assert evictions["time_seconds"].tolist() == pytest.approx([66.0, 69.0])


def test_an_empty_log_gives_empty_tables() -> None:
    assert record.descheduling_cycles([], TIME).empty
    assert record.evictions([], {}, TIME).empty


def test_migrations_keep_what_was_requested_within_the_run() -> None:
    def entry(vm: str, requested: float, ended: float | None, outcome: str | None) -> dict[str, object]:
        walls = {"requested": TIME.wall(requested), "started": TIME.wall(requested + 1)}
        end = None if ended is None else TIME.wall(ended)
        return {"vm": vm, "source": "n2", "target": "n1", "ended": end, "outcome": outcome, "bytes": 10, **walls}

    records = [
        entry("late", 700.0, None, None),
        entry("b", 90.0, 650.0, "succeeded"),
        entry("a", 60.0, 75.0, "succeeded"),
        entry("before", -30.0, -10.0, "succeeded"),
    ]
    migrations = record.migrations(records, TIME, end_seconds=600.0)
    assert migrations["vm"].tolist() == ["a", "b"]
    assert migrations["outcome"].tolist() == ["succeeded", ""]
    assert migrations["ended_seconds"].iloc[0] == pytest.approx(75.0)
    assert math.isnan(migrations["ended_seconds"].iloc[1])


def test_placement_begins_with_where_everything_was_at_lab_time_zero() -> None:
    at = TIME.wall
    changes = [(at(-40), "a", "n1"), (at(-20), "a", "n2"), (at(-20), "b", "n1"), (at(30), "a", "n1"), (at(31), "a", "n1"),
               (at(45), "b", ""), (at(700), "a", "n3")]  # fmt: skip
    placement = record.placement_table(changes, TIME, end_seconds=600.0)
    assert placement[["vm", "node"]].to_numpy().tolist() == [["a", "n2"], ["b", "n1"], ["a", "n1"], ["b", ""]]
    assert placement["time_seconds"].tolist() == pytest.approx([0.0, 0.0, 30.0, 45.0], abs=1e-5)


def test_nodes_without_a_score_are_there_and_nodes_without_load_are_not() -> None:
    def frame(values: dict[str, float]) -> pd.DataFrame:
        rows = [{"time": TIME.wall(15.0), "instance": node, "value": value} for node, value in values.items()]
        return pd.DataFrame(rows, columns=["time", "instance", "value"])

    load = frame({"n1": 0.5, "n2": 0.25})
    frames = dict.fromkeys(("cpu_usage", "cpu_pressure", "memory_usage"), load)
    frames |= {"memory_pressure": frame({"n1": 0.1}), "score": frame({}), "vms": frame({"n1": 3.0, "n2": 1.0})}
    nodes = record.node_table(frames, TIME)
    assert nodes["node"].tolist() == ["n1"]
    assert nodes["vms"].tolist() == [3]
    assert nodes["time_seconds"].tolist() == [15.0]
    assert nodes["score"].isna().all()


def test_timing_tells_phases_pauses_and_latencies() -> None:
    cycles = pd.DataFrame({"time_seconds": [10.0, 10.0, 70.0, 70.0, 131.0, 131.0]})
    migrations = pd.DataFrame(
        {
            "requested_seconds": [10.5, 11.5, 12.5, 70.5, 72.5],
            "started_seconds": [12.5, 13.5, 40.0, 72.5, float("nan")],
        }
    )
    assert record.timing(cycles, migrations) == {
        "first_cycle_seconds": 10.0,
        "cycle_seconds": 60.5,
        "request_seconds": 1.0,
        "start_seconds": 2.0,
    }
    assert record.timing(cycles[:0], migrations[:0]) == {}


def test_missed_cycles_are_a_note() -> None:
    cycles = pd.DataFrame({"time_seconds": [10.0, 10.0, 70.0, 190.0, 250.0]})
    assert record.notes(cycles, interval_seconds=60.0, duration_seconds=250.0) == ()
    (note,) = record.notes(cycles, interval_seconds=60.0, duration_seconds=300.0)
    assert note.startswith("1 of 5 descheduling cycles were missed")
