"""The verb metrics, as a user calls it."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from labkit.analysis.metrics import METRICS
from labkit.analysis.promql import EXPRESSIONS
from labkit.cli import main


def test_metrics_of_experiments_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["metrics"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == list(METRICS)
    assert main(["metrics", "--json"]) == 0
    assert [each["name"] for each in json.loads(capsys.readouterr().out)] == list(METRICS)


def test_they_are_printed_as_promql(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["metrics", "promql", "hotspot_seconds", "migrations", "--window", "1h", "--step", "30s"]) == 0
    name, text, *others = capsys.readouterr().out.splitlines()
    assert name == "# hotspot_seconds"
    assert text.endswith("[1h:30s])) * 30")
    assert others[0] == "# migrations"
    assert main(["metrics", "promql", "--json"]) == 0
    assert list(json.loads(capsys.readouterr().out)) == list(EXPRESSIONS)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["speed"], "wanted one of cpu_stddev, "),
        (["--window", "soon"], "wanted a duration such as 30m"),
        (["--step", "0s"], "wanted --step above 0"),
        (["--step", "1h", "--window", "30m"], "--window of at least that"),
    ],
)
def test_what_cannot_be_printed_is_one_line_and_exit_2(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["metrics", "promql", *arguments]) == 2
    errors = capsys.readouterr().err
    assert message in errors
    assert len(errors.splitlines()) == 1


def test_the_document_has_them_all() -> None:
    text = (Path(__file__).parents[1] / "docs" / "metrics.md").read_text()
    table = text.split("## Numbers of a run")[1]
    assert re.findall(r"^\| `(\w+)` \|.*\| (?:lower|higher) \|$", table, re.MULTILINE) == list(METRICS)
