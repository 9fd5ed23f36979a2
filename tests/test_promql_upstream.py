"""Prometheus' own PromQL test scripts, read from the pinned module in Go's module cache.

The scripts are not part of this repository. Cases that use what :mod:`labkit.promql` does not support are
counted by reason; how many ran is asserted for each file, so that this test cannot become empty.
"""

from __future__ import annotations

import logging
import math
import os
import re
import shutil
import subprocess
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import promql_parser
import pytest

from labkit.errors import RuleError
from labkit.promql import Database, Expression, LabelTable
from labkit.promql.labels import NAME, Labels, label_set
from labkit.promql.rewrite import scale_windows
from labkit.promql.syntax import UnsupportedError
from labkit.units import parse_duration
from labkit.versions import PROMETHEUS_MODULE

MODULE = f"github.com/prometheus/prometheus@v{PROMETHEUS_MODULE}"
STALE = object()
RELATIVE_ERROR = 1e-6  # what Prometheus' own test engine allows

CASES_RUN = {
    "aggregators.test": 123,
    "collision.test": 2,
    "functions.test": 127,
    "literals.test": 20,
    "name_label_dropping.test": 20,
    "operators.test": 137,
    "range_queries.test": 8,
    "selectors.test": 28,
    "staleness.test": 17,
    "subquery.test": 2,
}
"""How many cases must have run, by file: as many as did when this was written."""

NOT_OURS = {
    ("functions.test", 523): "the parser reads \\xff as a letter",
    **{
        ("name_label_dropping.test", line): "needs the feature promql-delayed-name-removal, off by default"
        for line in (59, 64, 89, 115, 119, 123)
    },
}
"""Cases by file and line that test another thing than what a Prometheus without feature flags does."""


def scripts() -> Path:
    """Return the folder of Prometheus' scripts, or skip."""
    cache = os.environ.get("GOMODCACHE", "")
    if not cache and shutil.which("go"):
        answer = subprocess.run(["go", "env", "GOMODCACHE"], capture_output=True, text=True, check=False)
        cache = answer.stdout.strip()
    folder = Path(cache or Path.home() / "go/pkg/mod") / MODULE / "promql/promqltest/testdata"
    if not folder.is_dir():
        pytest.skip(f"{MODULE} is not in Go's module cache")
    return folder


@dataclass
class Case:
    """One ``eval`` of a script."""

    line: int
    expr: str
    start: float
    end: float
    step: float | None  # None: an instant
    fails: bool = False
    ordered: bool = False
    text: bool = False
    expected: list[tuple[Labels | None, list[object]]] = field(default_factory=list)


class BeyondFloatsError(Exception):
    """A line of a script that goes beyond floats and plain series."""


def points(text: str) -> list[object]:
    """Expand a series' notation to floats, STALE, and None for no sample."""
    found: list[object] = []
    for token in text.split():
        match = re.fullmatch(
            r"(?P<first>_|stale|[-+]?(?:Inf|inf|NaN|nan|0x[0-9a-fA-F]+|[\d.]+(?:[eE][-+]?\d+)?))"
            r"(?P<step>[-+](?:[\d.]+(?:[eE][-+]?\d+)?|Inf|NaN))?(?:x(?P<times>\d+))?",
            token,
        )
        if match is None:
            raise BeyondFloatsError(token)
        times = int(match["times"] or 0)
        if match["first"] == "_":
            found += [None] * (times or 1)
            continue
        if match["first"] == "stale":
            found += [STALE] * (times + 1)
            continue
        value = float(int(match["first"], 16)) if "0x" in match["first"] else float(match["first"])
        for _ in range(times + 1):
            found.append(value)
            value += float(match["step"] or 0)
    return found


def series(line: str) -> tuple[Labels | None, str]:
    """Split a line into a series and its points; without labels it is a scalar."""
    match = re.match(
        r'(?P<metric>[^\s{]*(?:\{(?:"(?:\\.|[^"\\])*"|\'[^\']*\'|`[^`]*`|[^}"\'`])*\})?)(?P<points>.*)$', line
    )
    assert match is not None, line
    metric, rest = match["metric"], match["points"]
    if not rest.strip() and "{" not in metric:
        return None, metric
    if metric in ("{}", ""):
        return (), rest
    selector = promql_parser.parse(metric)
    assert isinstance(selector, promql_parser.VectorSelector)
    labels = {matcher.name: matcher.value for matcher in selector.matchers.matchers}
    if selector.name:
        labels[NAME] = selector.name
    return label_set(labels), rest


def seconds(text: str) -> float:
    return -parse_duration(text[1:]) if text.startswith("-") else parse_duration(text)


def read(path: Path) -> Iterator[tuple[str, object]]:
    """Yield a script's commands: clear, load and eval."""
    lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
    lines = ["" if line.startswith("#") else line for line in lines]
    at = 0
    while at < len(lines):
        head, number = lines[at], at + 1
        at += 1
        body = []
        if head.startswith(("load", "eval")):
            while at < len(lines) and lines[at]:
                body.append(lines[at])
                at += 1
        if head == "clear":
            yield "clear", None
        elif head.startswith("load"):
            yield "load", (head, body)
        elif head.startswith("eval"):
            yield "eval", (number, head, body)


def case(number: int, head: str, body: list[str]) -> Case:
    """Read an ``eval`` with what it expects."""
    instant = re.match(r"eval(?:_(\w+))?\s+instant\s+(?:at\s+(\S+)\s+)?(.+)$", head)
    ranged = re.match(r"eval(?:_(\w+))?\s+range\s+from\s+(\S+)\s+to\s+(\S+)\s+step\s+(\S+)\s+(.+)$", head)
    if instant is not None:
        time = seconds(instant[2] or "0")
        found = Case(number, instant[3], time, time, None)
        kind = instant[1]
    else:
        assert ranged is not None, head
        found = Case(number, ranged[5], seconds(ranged[2]), seconds(ranged[3]), seconds(ranged[4]))
        kind = ranged[1]
    found.fails = kind == "fail"
    found.ordered = kind == "ordered"
    for line in body:
        if line.startswith("expect"):
            word = line.split()[1]
            found.fails |= word == "fail"
            found.ordered |= word == "ordered"
            found.text |= word in ("string", "range")
        elif not line.startswith("expected_fail"):
            if "{{" in line:
                raise BeyondFloatsError("histogram")
            labels, rest = series(line)
            found.expected.append((labels, points(rest)))
    return found


class Storage:
    """What a script has loaded."""

    def __init__(self) -> None:
        self.samples: dict[Labels, dict[float, object]] = {}
        self.beyond_floats: set[Labels] = set()
        self._database: Database | None = None

    def load(self, head: str, body: list[str]) -> None:
        self._database = None
        interval = seconds(head.split()[1])
        for line in body:
            labels, rest = series(line)
            assert labels is not None
            try:
                values = points(rest)
            except BeyondFloatsError:
                self.beyond_floats.add(labels)
                continue
            into = self.samples.setdefault(labels, {})
            into.update({step * interval: value for step, value in enumerate(values) if value is not None})
        if "with_nhcb" in head:
            # Classic buckets are loaded once more as native histograms under their base name.
            names = {line.partition("_bucket")[0] for line in body}
            self.beyond_floats.update(((NAME, name),) for name in names)

    def database(self) -> Database:
        """Return the samples as columns, appended instant by instant."""
        if self._database is not None:
            return self._database
        self._database = Database()
        families: dict[str, list[Labels]] = {}
        for labels in self.samples:
            families.setdefault(dict(labels).get(NAME, ""), []).append(labels)
        for name, rows in families.items():
            for time in sorted({time for row in rows for time in self.samples[row]}):
                here = [row for row in rows if time in self.samples[row]]
                stale = np.array([self.samples[row][time] is STALE for row in here])
                values = np.array(
                    [0.0 if gone else self.samples[row][time] for row, gone in zip(here, stale, strict=True)]
                )
                self._database.append(time, name, LabelTable.of(here), values, present=~stale, stale=stale)
        return self._database


def almost_equal(found: float, wanted: float) -> bool:
    if math.isnan(found) or math.isnan(wanted):
        return math.isnan(found) and math.isnan(wanted)
    if found == wanted:
        return True
    return abs(found - wanted) <= RELATIVE_ERROR * min(abs(found) + abs(wanted), 1.7976931348623157e308)


def check(case: Case, expression: Expression, database: Database) -> None:
    """Assert that an expression yields what the script expects."""
    step = case.step or 1.0
    over_time = expression.range(database, case.start, case.end, step)
    found = {
        row: [
            value if there else None
            for value, there in zip(over_time.values[:, n], over_time.present[:, n], strict=True)
        ]
        for n, row in enumerate(over_time.table.rows)
    }
    count = len(over_time.times_seconds)
    wanted = {labels or (): (values + [None] * count)[:count] for labels, values in case.expected}
    wanted = {labels: values for labels, values in wanted.items() if any(value is not None for value in values)}
    assert set(found) == set(wanted), f"line {case.line}: {case.expr}: {sorted(found)} != {sorted(wanted)}"
    for labels, values in wanted.items():
        for value, expected in zip(found[labels], values, strict=True):
            same = value is expected if None in (value, expected) else almost_equal(value, expected)
            assert same, f"line {case.line}: {case.expr}: {labels}: {found[labels]} != {values}"
    if case.step is None:
        samples = expression.instant(database, case.start).samples()
        assert set(samples) == set(wanted), f"line {case.line}: {case.expr}"
        if case.ordered:
            assert list(samples) == list(wanted), f"line {case.line}: {case.expr}"


def run(path: Path) -> tuple[int, Counter[str], list[str]]:
    """Run a script; return how many cases ran and why others did not."""
    storage, ran, skipped, wrong = Storage(), 0, Counter[str](), list[str]()
    for command, arguments in read(path):
        if command == "clear":
            storage = Storage()
        elif command == "load":
            storage.load(*arguments)
        else:
            try:
                one = case(*arguments)
            except BeyondFloatsError:
                skipped["result is no float"] += 1
                continue
            if one.text:
                skipped["result is a text or a range vector"] += 1
                continue
            try:
                expression = Expression.compile(one.expr)
            except UnsupportedError as exc:
                reason = exc.message if "supported" in exc.message else "not parsed or not well-typed"
                skipped[re.split(r"; |: ", reason)[0]] += 1
                continue
            if (path.name, one.line) in NOT_OURS:
                skipped[NOT_OURS[path.name, one.line]] += 1
                continue
            if any(
                selector.matches_name(dict(row).get(NAME, "")) and selector.matches(row)
                for selector in expression.selectors
                for row in storage.beyond_floats
            ):
                skipped["histogram"] += 1
                continue
            ran += 1
            try:
                check(one, expression, storage.database())
            except RuleError as exc:
                if not one.fails:
                    wrong.append(f"line {one.line}: {one.expr}: {exc}")
            except AssertionError as exc:
                wrong.append(str(exc))
            else:
                if one.fails:
                    wrong.append(f"line {one.line}: {one.expr}: no error")
    return ran, skipped, wrong


@pytest.mark.parametrize("name", CASES_RUN)
def test_prometheus_own_cases_pass(name: str, record_property: Callable[[str, object], None]) -> None:
    ran, skipped, wrong = run(scripts() / name)
    logging.getLogger(__name__).info("%s: %d cases ran; not run: %s", name, ran, dict(skipped.most_common()))
    record_property("cases_run", ran)
    assert not wrong, "\n".join(wrong)
    assert ran >= CASES_RUN[name]


def test_every_expression_survives_being_rewritten() -> None:
    """Rewriting for tempo 1 must not change what the parser understands."""
    survived = 0
    for path in sorted(scripts().glob("*.test")):
        for command, arguments in read(path):
            if command != "eval":
                continue
            try:
                expr = case(arguments[0], arguments[1], []).expr
                wanted = promql_parser.parse(expr).prettify()
            except (AssertionError, ValueError):
                continue  # newer syntax than the parser knows
            if re.search(r"@\s*-", expr):
                continue  # the parser prints negative times as 0
            assert promql_parser.parse(scale_windows(expr, 1)).prettify() == wanted, expr
            survived += 1
    assert survived >= 1000
