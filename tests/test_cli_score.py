from __future__ import annotations

import json
from pathlib import Path

import pytest

from labkit.cli import EXIT_BAD_INPUT, main
from labkit.scoring import NINETEEN

HEADER = "node,cpu_usage,cpu_pressure,memory_usage,memory_pressure\n"
SET_A = HEADER + "n1,0.9,0.3,0.6,0\nn2,0.5,0,0.4,0.1\nn3,0.1,0,0.2,0.2\n"


@pytest.fixture
def table(tmp_path: Path) -> Path:
    path = tmp_path / "nodes.csv"
    path.write_text(SET_A)
    return path


def shown(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> str:
    assert main(["score", *map(str, arguments)]) == 0
    return capsys.readouterr().out


@pytest.mark.parametrize("engine", ["reference", "promql"])
def test_scores_as_json(table: Path, engine: str, capsys: pytest.CaptureFixture[str]) -> None:
    out = shown(capsys, table, "--algorithm", "weighted_average", "--engine", engine, "--json")
    assert json.loads(out) == pytest.approx({"n1": 0.45, "n2": 0.25, "n3": 0.125})


def test_all_algorithms_as_json(table: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = json.loads(shown(capsys, table, "--algorithm", "all", "--engine", "promql", "--json"))
    assert list(found) == [each.name for each in NINETEEN]
    assert found["linear_amplified_ippd_k3"] == pytest.approx({"n1": 1.0, "n2": 0.0, "n3": 0.3})


def test_minute_form_counts_pressure_only_on_busy_nodes(table: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = shown(capsys, table, "--algorithm", "max_metric", "--form", "avg1m", "--json")
    # n3 uses 20 % of its memory: its pressure of 0.2 does not count, and its largest load is its memory use, 0.2.
    assert json.loads(out) == pytest.approx({"n1": 0.9, "n2": 0.5, "n3": 0.2})


def test_explanation_names_parts_and_classes(table: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = (table, "--algorithm", "linear_weighted_positive_deviation", "--explain", "--json")
    view = json.loads(shown(capsys, *arguments))
    # n1: .15 * .4 + .35 * .2 + .15 * .2
    assert view["nodes"]["n1"]["parts"] == pytest.approx(
        {"cpu_usage": 0.06, "cpu_pressure": 0.07, "memory_usage": 0.03, "memory_pressure": 0.0}
    )
    # About 16, 0 and 3 points: mean 6, so over-utilised above 16 only.
    assert view["nodes"]["n3"]["usage_percent"] == 3
    assert view["nodes"]["n1"]["class"] == "appropriate"
    assert view["stop_reason"].startswith("All nodes are under target utilization")


def test_explanation_with_other_thresholds(table: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = shown(capsys, table, "--algorithm", "linear_amplified_ippd_k3", "--explain", "--thresholds", "Low")
    # 100, 0 and 30 points: mean 43.33.
    assert "under-utilised up to 33.33 points, over-utilised above 53.33" in out
    assert "The descheduler evicts from the over-utilised nodes." in out


def test_explanation_of_the_front(table: Path, capsys: pytest.CaptureFixture[str]) -> None:
    view = json.loads(shown(capsys, table, "--algorithm", "pareto_front", "--explain", "--json"))
    assert view["nodes"]["n1"]["front"] == 0
    assert view["nodes"]["n1"]["crowding"] is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("node,cpu_usage\na,1\n", "cpu_pressure, memory_usage, memory_pressure missing"),
        ("", "found none"),
        (HEADER, "wanted at least one node"),
        (SET_A + "n4,1.2,0,0,0\n", ":5: wanted cpu_usage of n4 within [0, 1], found 1.2"),
        (SET_A + "n4,0,-0.1,0,0\n", ":5: wanted cpu_pressure of n4 within [0, 1], found -0.1"),
        (SET_A + "n4,0,0,NaN,0\n", ":5: wanted memory_usage of n4 within [0, 1], found NaN"),
        (SET_A + "n4,0,0,high,0\n", "found high"),
        (SET_A + "n4,0,0,0\n", ":5: wanted memory_pressure of n4 within [0, 1], found nothing"),
        (SET_A + "n1,0,0,0,0\n", ":5: wanted each node once, found n1 again after line 2"),
        (SET_A + ",0,0,0,0\n", ":5: wanted the node's name, found none"),
    ],
    ids=["columns", "empty", "no rows", "above 1", "negative", "NaN", "word", "short row", "duplicate", "no name"],
)  # fmt: skip
def test_bad_table_is_answered_with_one_line(
    tmp_path: Path, text: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "nodes.csv"
    path.write_text(text)
    assert main(["score", str(path), "--algorithm", "all"]) == EXIT_BAD_INPUT
    error = capsys.readouterr().err
    assert message in error
    assert len(error.splitlines()) == 1


def test_columns_may_stand_in_any_order(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "nodes.csv"
    path.write_text("memory_pressure, zone, memory_usage, cpu_pressure, cpu_usage, node\n0, a, 0.6, 0.3, 0.9, n1\n")
    assert json.loads(shown(capsys, path, "--algorithm", "cpu_focused", "--json")) == pytest.approx({"n1": 0.72})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--algorithm", "maxmetric"], "did you mean max_metric?"),
        (["--algorithm", "all", "--explain", "--thresholds", "ten"], "wanted LOW:HIGH"),
    ],
    ids=["algorithm", "thresholds"],
)
def test_bad_argument_is_answered_with_one_line(
    table: Path, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["score", str(table), *arguments]) == EXIT_BAD_INPUT
    error = capsys.readouterr().err
    assert message in error
    assert len(error.splitlines()) == 1
