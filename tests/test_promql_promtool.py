"""The compiler against real Prometheus: random histories through ``promtool test rules``.

The compiler evaluates a group of rules over a history; what it found goes into a promtool test as series of
its own, next to the same history and the same rules. promtool then asks for every record and every instant
whether anything differs: presence, NaN, infinity, or a value by more than 1e-9.
"""

from __future__ import annotations

import json
import math
import os
import re
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from labkit.promql import Database, LabelTable, parse_rules

TOLERANCE = 1e-9
INTERVAL_SECONDS = 15
STEPS = 24  # more than five minutes, so that the look-back ends within the history
NODES = ("a", "b", "c", "d")
MODES = ("idle", "user")
STALE = "stale"

EXPRESSIONS = (
    # windows
    "rate(counter[1m])",
    "increase(counter[1m])",
    "increase(counter[2m] offset 45s)",
    "delta(gauge[1m])",
    "rate(counter[20s])",
    *(f"{name}_over_time(gauge[75s])" for name in ("avg", "min", "max", "sum", "count", "stddev", "last")),
    "quantile_over_time(0.66, gauge[5m])",
    "quantile_over_time(scalar(count(gauge)) / 9, gauge[1m])",
    # aggregation
    *(
        f"{name} {group}(gauge)"
        for name in ("sum", "avg", "min", "max", "count", "stddev", "stdvar", "group")
        for group in ("", "by (instance) ", "without (mode) ")
    ),
    "quantile by (mode) (0.3, gauge)",
    "sum by (mode) (topk by (mode) (2, gauge))",
    "min(bottomk(3, gauge))",
    "avg by (instance) (1 - rate(counter[1m]))",
    # matching
    "gauge / on (instance, mode) counter",
    "gauge - on (mode) group_left () avg by (mode) (gauge)",
    "avg by (instance) (gauge) * on (instance) group_right () gauge",
    "gauge + ignoring (mode) group_left () count without (mode) (counter)",
    'gauge{mode="idle"} * on (instance) group_left (kind) info',
    # sets and comparisons
    "(gauge and counter > 40) or gauge * 0",
    "gauge unless on (instance) info",
    "(gauge and on () (avg(gauge) > 0.5)) or (-gauge and on () (avg(gauge) <= 0.5))",
    "gauge > bool 0.5",
    "gauge == gauge",
    "0.5 < gauge",
    "counter != bool on (instance, mode) gauge",
    'gauge{mode=~"id.*", instance!~"a|b"} or gauge{mode!="idle", instance="a"}',
    # functions
    "clamp(gauge, 0.2, 0.8)",
    "clamp_min(clamp_max(3 * gauge, 1.0), 0.5)",
    "sqrt(gauge ^ 2 + counter ^ 0.5) % 3",
    "round(gauge, 0.05) + ceil(gauge) - floor(gauge) + abs(gauge - 0.5)",
    "exp(gauge) + ln(gauge) + log2(gauge) + log10(gauge) + sgn(gauge - 0.5)",
    "vector(scalar(max(gauge))) + on () group_right () gauge / time()",
    'label_replace(gauge, "node", "${1}!$2", "instance", "([ab])()")',
    # rules on rules: their staleness, their history
    "gauge > 0.5",
    "avg_over_time(r{high}[2m])",
    "count(r{high}) / count(r{first})",
    "max_over_time(r{first}[1m])",
    "gauge - on () group_left () avg(gauge) and gauge - on () group_left () avg(gauge) >= 0 or gauge * 0",
)
PLACES = {"first": 0, "high": EXPRESSIONS.index("gauge > 0.5")}


def expressions() -> list[str]:
    names = {name: f"r{number}" for name, number in PLACES.items()}
    return [text.replace("r{high}", names["high"]).replace("r{first}", names["first"]) for text in EXPRESSIONS]


RULES = json.dumps(
    {
        "groups": [
            {
                "name": "g",
                "interval": f"{INTERVAL_SECONDS}s",
                "rules": [{"record": f"r{n}", "expr": text} for n, text in enumerate(expressions())],
            }
        ]
    }
)


@dataclass(frozen=True)
class History:
    """Samples by series: a number, STALE, or None for no sample, one per step."""

    series: dict[str, list[list[float | str | None]]]
    labels: dict[str, list[dict[str, str]]]


@st.composite
def histories(draw: st.DrawFn) -> History:
    """Draw nodes whose gauges and counters have gaps, staleness markers, resets, ties and late starts."""
    nodes = NODES[: draw(st.integers(1, len(NODES)))]
    missing = st.sampled_from([None, None, STALE])
    share = st.one_of(st.sampled_from([0.0, 1.0, 0.5, 0.3]), st.integers(0, 10_000).map(lambda n: n / 10_000))
    steadiness = draw(st.integers(1, 20))

    def samples(value: st.SearchStrategy[float]) -> list[float | str | None]:
        gaps = draw(st.lists(st.integers(0, steadiness), min_size=STEPS, max_size=STEPS))
        return [draw(missing) if gap == 0 else draw(value) for gap in gaps]

    rows = [{"instance": node, "mode": mode} for node in nodes for mode in MODES]
    counters = []
    for _ in rows:
        total = draw(st.sampled_from([0.0, 3.0, 1000.0]))
        grown: list[float | str | None] = []
        for step in samples(st.one_of(st.just(-1.0), *[st.integers(0, 150).map(lambda n: n / 10)] * 6)):
            if isinstance(step, float):
                total = 0.0 if step < 0 else total + step
                grown.append(total)
            else:
                grown.append(step)
        counters.append(grown)
    return History(
        {
            "gauge": [samples(share) for _ in rows],
            "counter": counters,
            "info": [samples(st.just(1.0)) for _ in nodes],
        },
        {
            "gauge": rows,
            "counter": rows,
            "info": [{"instance": node, "kind": f"k{n % 2}"} for n, node in enumerate(nodes)],
        },
    )


def evaluated(history: History) -> dict[str, dict[int, float]]:
    """Return what the compiler yields: values by step, for each record's series written as PromQL."""
    group = parse_rules(RULES)
    database = Database()
    found: dict[str, dict[int, float]] = {}
    for step in range(STEPS):
        time = float(step * INTERVAL_SECONDS)
        for name, rows in history.series.items():
            row = [samples[step] for samples in rows]
            database.append(
                time,
                name,
                LabelTable.of(history.labels[name]),
                np.array([value if isinstance(value, float) else 0.0 for value in row]),
                present=np.array([isinstance(value, float) for value in row]),
                stale=np.array([value == STALE for value in row]),
            )
        assert group.evaluate(database, time) == ()
        for record in group.records:
            values, present = database.families[record].latest(round(time * 1000), 1)
            for n, labels in enumerate(database.families[record].table.rows):
                if present is None or present[n]:
                    inside = ",".join(f"{name}={json.dumps(value)}" for name, value in labels)
                    series = f'expected{{record="{record}"{"," if inside else ""}{inside}}}'
                    found.setdefault(series, {})[step] = float(values[n])
    return found


def notation(value: float | str | None) -> str:
    if isinstance(value, float):
        return repr(value).replace("inf", "Inf").replace("nan", "NaN")
    return "_" if value is None else value


RECORDED = 'label_replace({__name__=~"r[0-9]+"}, "record", "$1", "__name__", "(.+)")'
DIFFERENCE = " or ".join(
    (
        f"(abs({RECORDED} - expected) > {TOLERANCE})",
        f"({RECORDED} unless expected)",
        f"(expected unless {RECORDED})",
        f"(({RECORDED} != {RECORDED}) unless (expected != expected))",
        f"((expected != expected) unless ({RECORDED} != {RECORDED}))",
        f"((abs({RECORDED}) == Inf) unless ({RECORDED} == expected))",
    )
)
"""A query that yields something exactly where a record differs from what was expected."""


def promtool() -> str:
    """Return the path of promtool, or skip."""
    folders = os.pathsep.join((os.environ.get("LABKIT_TOOLS", ""), os.environ.get("PATH", "")))
    found = shutil.which("promtool", path=folders)
    if found is None:
        pytest.skip("promtool is neither in LABKIT_TOOLS nor on PATH")
    return found


def judged(history: History, found: dict[str, dict[int, float]]) -> str:
    """Return promtool's complaints, empty where it agrees."""
    inputs = [
        {
            "series": f"{name}{{{','.join(f'{label}={json.dumps(value)}' for label, value in labels.items())}}}",
            "values": " ".join(notation(value) for value in samples),
        }
        for name, rows in history.series.items()
        for labels, samples in zip(history.labels[name], rows, strict=True)
    ]
    expected = [
        {"series": series, "values": " ".join(notation(by_step.get(step, STALE)) for step in range(STEPS))}
        for series, by_step in found.items()
    ]
    checks = [
        {"expr": DIFFERENCE, "eval_time": f"{step * INTERVAL_SECONDS}s", "exp_samples": []} for step in range(STEPS)
    ]
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "rules.yaml").write_text(RULES)
        test = {
            "rule_files": ["rules.yaml"],
            "evaluation_interval": f"{INTERVAL_SECONDS}s",
            "tests": [
                {
                    "interval": f"{INTERVAL_SECONDS}s",
                    "input_series": inputs + expected,
                    "promql_expr_test": checks,
                }
            ],
        }
        Path(folder, "test.yaml").write_text(json.dumps(test))
        answer = subprocess.run(
            [promtool(), "test", "rules", "test.yaml"], cwd=folder, capture_output=True, text=True, check=False
        )
    return "" if answer.returncode == 0 else answer.stdout + answer.stderr


@pytest.mark.slow
# Shrinking a history takes minutes and says little more than the first complaint.
@settings(
    max_examples=12,
    deadline=None,
    phases=(Phase.explicit, Phase.reuse, Phase.generate),
    suppress_health_check=list(HealthCheck),
)
@given(histories())
def test_prometheus_finds_the_same(history: History) -> None:
    complaints = judged(history, evaluated(history))
    assert not complaints, complaints


def steady() -> History:
    rows = [{"instance": node, "mode": mode} for node in NODES for mode in MODES]
    return History(
        {
            "gauge": [[((7 * n + 3 * step) % 11) / 11 for step in range(STEPS)] for n in range(len(rows))],
            "counter": [[float((n + 1) * step) for step in range(STEPS)] for n in range(len(rows))],
            # One node is without it, so that `unless` has something to yield.
            "info": [[1.0] * STEPS for _ in NODES[1:]],
        },
        {"gauge": rows, "counter": rows, "info": [{"instance": node, "kind": "k"} for node in NODES[1:]]},
    )


@pytest.mark.slow
@pytest.mark.parametrize("wrong", ["value", "missing", "added", "nan"])
def test_a_difference_is_found_in_every_record(wrong: str) -> None:
    """The comparison can fail: each record's first series is spoilt in one way and must be named."""
    history = steady()
    found = evaluated(history)
    spoilt = set()
    for series in list(found):
        record = series.split('"')[1]
        if record in spoilt:
            continue
        spoilt.add(record)
        step = max(found[series])
        if wrong == "value":
            found[series][step] += 1e-8 * max(1.0, abs(found[series][step]))
        elif wrong == "missing":
            del found[series][step]
        elif wrong == "added":
            found[f'expected{{record="{record}",instance="nowhere"}}'] = {step: 1.0}
        else:
            found[series][step] = math.nan
    assert len(spoilt) == len(EXPRESSIONS)
    complaints = judged(history, found)
    assert set(re.findall(r'record=\\*"(r[0-9]+)', complaints)) == spoilt
