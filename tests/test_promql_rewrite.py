"""Rules moved to another tempo: only durations change, and the rewritten text means the same."""

from __future__ import annotations

import copy
import os
import re
import shutil
import subprocess
from pathlib import Path

import promql_parser
import pytest
import yaml

from labkit.clock import wall_seconds
from labkit.errors import RuleError
from labkit.names import SCRAPE_INTERVAL_SECONDS
from labkit.promql.rewrite import scale_group, scale_windows

RULES = Path(__file__).parent.parent / "rules" / "scores.yaml"

SCALED = {
    "window": ("rate(x[1m])", "rate(x[4s])"),
    "milliseconds": ("rate(x[1s])", "rate(x[67ms])"),
    "rounded to whole milliseconds": ("rate(x[100ms])", "rate(x[7ms])"),
    "seconds and milliseconds": ("rate(x[1m0s500ms])", "rate(x[4s33ms])"),
    "long window": ("rate(x[1d])", "rate(x[1h36m])"),
    "offset": ("x offset 5m", "x offset 20s"),
    "negative offset": ("x offset -5m", "x offset -20s"),
    "window and offset": ("rate(x[5m] offset 1m)", "rate(x[20s] offset 4s)"),
    "subquery": ("max_over_time(rate(x[1m])[5m:15s])", "max_over_time(rate(x[4s])[20s:1s])"),
    "subquery without step": ("max_over_time(x[5m:])", "max_over_time(x[20s:])"),
    "subquery moved": ("sum_over_time(x[5m:1m] offset 1m)", "sum_over_time(x[20s:4s] offset 4s)"),
    "fixed time stays": ("x @ 1234.500 offset 1m", "x @ 1234.500 offset 4s"),
    "start and end": ("x @ start() - x @ end()", "x @ start() - x @ end()"),
    "names and numbers stay": ("lab:x:avg1m * 60 + 1e-09", "lab:x:avg1m * 60 + 1e-09"),
    "text stays": (
        'label_replace(x, "window", "$1 [1m]", "le", "([1m]+)\\\\.\\"")',
        'label_replace(x, "window", "$1 [1m]", "le", "([1m]+)\\\\.\\"")',
    ),
    "comment goes": ("x # [1m]\n + y", "x + y"),
    "matching": (
        "x > bool on (a) group_left (b, c) y",
        "x > bool on (a) group_left (b, c) y",
    ),
    "precedence": ("-(a + b) ^ 2 * (c - (d - e))", "-(a + b) ^ 2 * (c - (d - e))"),
    "aggregation after its argument": ("sum(topk(3, x)) without (a)", "sum without (a) (topk(3, x))"),
    "set operators": ("a and on () b or ignoring (c) d unless e", "a and on () b or ignoring (c) d unless e"),
    "matchers": (
        'x{a!="b", c=~"d|e", f!~"g.*"}',
        'x{a!="b", c=~"d|e", f!~"g.*"}',
    ),
    "names that need quotes": ('{"a.b", "c.d"="e"}', '{__name__="a.b", "c.d"="e"}'),
    "special numbers": ("x * Inf + NaN - -Inf", "x * Inf + NaN - -Inf"),
    "fill": ("a + fill (0) b", "a + fill (0) b"),
}


@pytest.mark.parametrize(("expr", "wanted"), SCALED.values(), ids=SCALED)
def test_durations_are_divided_and_nothing_else_changes(expr: str, wanted: str) -> None:
    assert scale_windows(expr, 15) == wanted


def all_expressions() -> list[str]:
    rules = [rule["expr"] for group in yaml.safe_load(RULES.read_text())["spec"]["groups"] for rule in group["rules"]]
    return rules + [expr for expr, _ in SCALED.values()]


def test_tempo_1_keeps_the_meaning_of_every_shipped_rule() -> None:
    for expr in all_expressions():
        rewritten = scale_windows(expr, 1)
        assert promql_parser.parse(rewritten).prettify() == promql_parser.parse(expr).prettify()


@pytest.mark.parametrize("tempo", range(1, 16))
def test_windows_of_every_shipped_rule_are_whole_scrape_intervals(tempo: int) -> None:
    scrape_milliseconds = round(1000 * wall_seconds(SCRAPE_INTERVAL_SECONDS, tempo))
    windows = [
        window
        for expr in all_expressions()[: -len(SCALED)]
        for window in re.findall(r"\[(\w+)\]", scale_windows(expr, tempo))
    ]
    assert windows
    for window in windows:
        milliseconds = promql_parser.parse_duration(window).total_seconds() * 1000
        assert round(milliseconds) % scrape_milliseconds == 0


def test_promtool_reads_the_rewritten_text_as_it_reads_the_original() -> None:
    folders = os.pathsep.join((os.environ.get("LABKIT_TOOLS", ""), os.environ.get("PATH", "")))
    promtool = shutil.which("promtool", path=folders)
    if promtool is None:
        pytest.skip("promtool is neither in LABKIT_TOOLS nor on PATH")

    def formatted(expr: str) -> str:
        return subprocess.run(
            [promtool, "promql", "format", "--experimental", expr], capture_output=True, text=True, check=True
        ).stdout

    # fill and quoted names are newer than promtool's default parser; the longest rules say most.
    chosen = sorted(all_expressions(), key=len)[-8:]
    for expr in (expr for expr in chosen if "fill" not in expr):
        assert formatted(scale_windows(expr, 1)) == formatted(expr)


def test_group_is_scaled_in_a_copy() -> None:
    document = {
        "kind": "PrometheusRule",
        "spec": {
            "groups": [
                {
                    "name": "g",
                    "interval": "15s",
                    "query_offset": "30s",
                    "rules": [
                        {"record": "r:avg1m", "expr": "avg_over_time(x[1m])", "labels": {"window": "1m"}},
                        {"alert": "a", "expr": "x > 1", "for": "5m", "keep_firing_for": "1m30s"},
                    ],
                },
                {"name": "h", "rules": []},
            ]
        },
    }
    before = copy.deepcopy(document)
    scaled = scale_group(document, 15)
    assert document == before
    first, second = scaled["spec"]["groups"]
    assert (first["interval"], first["query_offset"]) == ("1s", "2s")
    assert first["rules"][0] == {
        "record": "r:avg1m",
        "expr": "avg_over_time(x[4s])",
        "labels": {"window": "1m"},
    }
    assert (first["rules"][1]["for"], first["rules"][1]["keep_firing_for"]) == ("20s", "6s")
    assert "interval" not in second
    assert scaled["kind"] == "PrometheusRule"


WRONG = {
    "not PromQL": ("x +", "wanted a PromQL expression; invalid promql query"),
    "too short": ("rate(x[1ms])", "a window of 0.001 s divided by tempo 15 is below 1 ms"),
}


@pytest.mark.parametrize(("expr", "message"), WRONG.values(), ids=WRONG)
def test_what_cannot_be_scaled_is_refused(expr: str, message: str) -> None:
    with pytest.raises(RuleError, match=message):
        scale_windows(expr, 15)
    with pytest.raises(RuleError, match=f"rule r: {message}"):
        scale_group({"groups": [{"name": "g", "rules": [{"record": "r", "expr": expr}]}]}, 15)


def test_tempo_below_1_is_refused() -> None:
    with pytest.raises(RuleError, match="wanted a tempo of 1 or more, found 0"):
        scale_windows("x", 0)


def test_document_without_groups_is_refused() -> None:
    with pytest.raises(RuleError, match="found no list named groups"):
        scale_group({"spec": {}}, 15)
