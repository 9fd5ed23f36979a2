from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from labkit.errors import InputError
from labkit.load import (
    LoadTable,
    constant_curve,
    curve_json,
    curve_mapping,
    node_load,
    parse_curve,
    parse_curve_json,
    pressure,
    step_start,
)

SHAPES: list[Any] = [
    0.25,
    {"kind": "step", "start": 0.1, "end": 0.9, "at": "10m"},
    {"kind": "ramp", "start": 0.1, "end": 0.7, "at": 60, "duration": "10m"},
    {"kind": "diurnal", "low": 0.1, "high": 0.9, "period": "1h"},
    {"kind": "flash_crowd", "base": 0.1, "peak": 0.9, "at": "5m"},
    {"kind": "random_walk", "mean": 0.5, "amplitude": 0.4},
    {"kind": "random_walk", "mean": 0.5, "amplitude": 0.4, "period": "77s"},
    {"kind": "tasks", "base": 0.1, "size": 0.2, "rate_per_hour": 20, "duration": "3m"},
    {"kind": "trace", "samples": [0.1, 0.5, 0.9], "interval": "1m", "repeat": True},
]


def one(shape: Any, seed: int = 7, **more: Any) -> LoadTable:
    return LoadTable([parse_curve({"cpu": shape, "memory": 0.5, **more})], [seed])


def cpu(table: LoadTable, lab_seconds: float) -> float:
    return float(table.at(lab_seconds)[0][0])


@pytest.mark.parametrize("shape", SHAPES)
def test_a_curve_survives_its_annotation(shape: Any) -> None:
    curve = parse_curve({"cpu": shape, "memory": shape, "surges": [{"at": 30, "duration": "1m", "cpu": 0.1}]})
    assert parse_curve_json(curve_json(curve, 42)) == (curve, 42)
    assert parse_curve(json.loads(json.dumps(curve_mapping(curve)))) == curve


def test_load_is_a_pure_function_of_vm_time_and_seed() -> None:
    curves = [parse_curve({"cpu": shape, "memory": shape}) for shape in SHAPES]
    together = LoadTable(curves, list(range(len(curves))))
    times = np.arange(0, 3600, 15.0)
    cpu_block, memory_block = together.block(times)
    shuffled = np.random.default_rng(1).permutation(len(times))
    assert (together.block(times[shuffled])[0] == cpu_block[shuffled]).all()
    for row, curve in enumerate(curves):
        alone = LoadTable([curve], [row])
        assert (np.array([alone.at(t)[0][0] for t in times]) == cpu_block[:, row]).all()
        assert (np.array([alone.at(t)[1][0] for t in times]) == memory_block[:, row]).all()


def test_load_is_constant_within_a_step_and_has_four_decimals() -> None:
    table = one({"kind": "random_walk", "mean": 0.5, "amplitude": 0.4})
    assert cpu(table, 30.0) == cpu(table, 44.999)
    assert cpu(table, 30.0) == round(cpu(table, 30.0), 4)
    assert (step_start(44.999), step_start(45.0)) == (30.0, 45.0)


def test_before_lab_time_0_load_is_as_at_lab_time_0() -> None:
    table = one({"kind": "random_walk", "mean": 0.5, "amplitude": 0.4})
    assert cpu(table, -1e9) == cpu(table, 0.0)
    assert step_start(-1e9) == 0.0


def test_values_of_the_deterministic_kinds() -> None:
    assert cpu(one(SHAPES[1]), 599) == 0.1
    assert cpu(one(SHAPES[1]), 600) == 0.9
    assert cpu(one(SHAPES[2]), 360) == 0.4
    assert cpu(one(SHAPES[2]), 5000) == 0.7
    assert cpu(one(SHAPES[3]), 1800) == 0.9
    assert cpu(one(SHAPES[3]), 0) == 0.1
    assert [cpu(one(SHAPES[4]), t) for t in (285, 330, 360, 660)] == [0.1, 0.5, 0.9, 0.9]
    assert cpu(one(SHAPES[4]), 960) == pytest.approx(0.1 + 0.8 * np.exp(-1), abs=1e-4)
    assert [cpu(one(SHAPES[8]), t) for t in (0, 60, 120, 180)] == [0.1, 0.5, 0.9, 0.1]
    held = one({"kind": "trace", "samples": [0.1, 0.5], "interval": 60})
    assert cpu(held, 6000) == 0.5


def test_surges_add_and_end() -> None:
    table = one(0.3, surges=[{"at": "1m", "duration": "1m", "cpu": 0.2, "memory": -0.1}])
    assert [cpu(table, t) for t in (45, 60, 105, 120)] == [0.3, 0.5, 0.5, 0.3]
    assert float(table.at(60)[1][0]) == 0.4


def test_task_arrivals_are_poisson_and_add_to_the_base() -> None:
    shape = {"kind": "tasks", "base": 0.0, "size": 0.001, "rate_per_hour": 240, "duration": 15}
    table = LoadTable([parse_curve({"cpu": shape, "memory": shape})] * 400, list(range(400)))
    cpu_values, memory_values = table.block(np.arange(0, 3600, 15.0))
    counts = np.rint(cpu_values * 1000)
    # Mean and variance of a Poisson variable with one arrival per step; 96,000 draws.
    assert counts.mean() == pytest.approx(1.0, abs=0.02)
    assert counts.var() == pytest.approx(1.0, abs=0.03)
    assert counts.max() > 4
    assert (cpu_values == memory_values).all(), "a task loads CPU and memory at once"


def test_noise_stays_in_its_band_and_differs_between_seeds() -> None:
    shape = {"kind": "random_walk", "mean": 0.5, "amplitude": 0.3}
    table = LoadTable([parse_curve({"cpu": shape, "memory": shape})] * 200, list(range(200)))
    cpu_values, memory_values = table.block(np.arange(0, 7200, 15.0))
    assert cpu_values.min() >= 0.2
    assert cpu_values.max() <= 0.8
    assert cpu_values.mean() == pytest.approx(0.5, abs=0.01)
    assert np.abs(np.corrcoef(cpu_values[:, :20].T) - np.eye(20)).max() < 0.9
    assert abs(np.corrcoef(cpu_values.ravel(), memory_values.ravel())[0, 1]) < 0.05


@pytest.mark.parametrize(
    ("load", "message"),
    [
        ({"cpu": 0.5}, r"load\.memory"),
        ({"cpu": 1.5, "memory": 0.5}, r"load\.cpu: wanted a number within \[0, 1\], found 1.5"),
        ({"cpu": float("nan"), "memory": 0.5}, r"load\.cpu"),
        ({"cpu": True, "memory": 0.5}, r"load\.cpu"),
        ({"cpu": {"kind": "sawtooth"}, "memory": 0.5}, r"load\.cpu\.kind: wanted one of constant, step"),
        ({"cpu": {"kind": "step", "start": 0, "end": 1}, "memory": 0.5}, r"load\.cpu\.at"),
        ({"cpu": {"kind": "constant", "valve": 1}, "memory": 0.5}, r"load\.cpu\.valve: unknown field"),
        ({"cpu": {"kind": "trace", "samples": []}, "memory": 0.5}, r"load\.cpu\.samples"),
        ({"cpu": {"kind": "trace", "samples": [0.1, 2]}, "memory": 0.5}, r"samples\[1\]"),
        ({"cpu": {"kind": "tasks", "size": 0.1, "rate_per_hour": 1e6}, "memory": 0.5}, r"at most 1920"),
        ({"cpu": 0.5, "memory": 0.5, "surges": [{"at": 1}]}, r"load\.surges\[0\]\.duration"),
        ({"cpu": {"kind": "ramp", "start": 0, "end": 1, "at": 0, "duration": 0}, "memory": 0}, "more than 0"),
    ],
)
def test_a_wrong_curve_names_the_field(load: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        parse_curve(load)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"curve":{"cpu":0,"memory":0},"seed":-1}', "{bad"])
def test_a_wrong_annotation_is_refused(text: str) -> None:
    with pytest.raises(InputError):
        parse_curve_json(text)


def test_node_load_sums_where_vms_run() -> None:
    load = node_load(
        np.array([0.5, 1.0, 1.0]),
        np.array([1.0, 0.5, 1.0]),
        cores=np.array([8.0, 4.0, 100.0]),
        memory_bytes=np.array([10.0, 20.0, 1000.0]),
        node_index=np.array([0, 0, -1]),
        node_cores=np.array([10.0, 10.0, 0.0]),
        node_memory_bytes=np.array([40.0, 40.0, 0.0]),
    )
    assert load.cpu_usage.tolist() == [0.8, 0.0, 0.0]
    assert load.memory_usage.tolist() == [0.5, 0.0, 0.0]
    assert load.load_ratio.shape == (3, 4)


def test_seed_pressure_has_the_values_of_the_original() -> None:
    demand = np.array([0, 0.3, 0.5, 0.69, 0.70, 0.72, 0.75, 0.8, 0.85, 0.9, 0.95, 1.0, 1.2, 1.4])
    wanted = [0, 0.021, 0.035, 0.0483, 0, 0.02, 0.05, 0.1, 0.15, 0.2, 0.35, 0.8, 0.9, 1.0]
    assert pressure(demand, model="seed") == pytest.approx(wanted, abs=1e-9)


@settings(max_examples=50)
@given(st.lists(st.floats(0, 3), min_size=2, max_size=50))
def test_monotone_pressure_never_falls_as_demand_rises(demand: list[float]) -> None:
    values = pressure(np.array(sorted(demand)))
    assert (np.diff(values) >= 0).all()
    assert ((values >= 0) & (values <= 1)).all()


def test_overload_is_visible_in_demand_not_in_usage() -> None:
    everything = np.ones(2)
    load = node_load(
        everything, everything,
        cores=np.array([30.0, 30.0]), memory_bytes=np.array([1.0, 1.0]), node_index=np.array([0, 0]),
        node_cores=np.array([32.0]), node_memory_bytes=np.array([4.0]),
    )  # fmt: skip
    assert load.cpu_demand[0] == 60 / 32
    assert load.cpu_usage[0] == 1.0
    assert load.cpu_pressure[0] == 1.0


def test_constant_curve_is_the_spec_utilization() -> None:
    table = LoadTable([constant_curve(0.15, 0.6)], [0])
    assert [float(values[0]) for values in table.at(12345.0)] == [0.15, 0.6]
