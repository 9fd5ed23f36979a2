"""Fill ``docs/which-algorithm.md`` from the folders of two experiments: its tables, its excerpts and its figures.

    python -m tools.which_algorithm results/benchmark-19 --live results/live-19

Everything between ``<!-- table: NAME -->`` and ``<!-- end of table -->`` is written anew; the words around it are not.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import pandas as pd
import yaml
from matplotlib.figure import Figure

from labkit import plots, report, results
from labkit.analysis import metrics
from labkit.analysis.answer import interval, number
from labkit.analysis.choice import FLOOR_METRIC, GOALS, Choice, choose, is_choice
from labkit.report import Findings
from labkit.scoring import recipe
from tools.algorithm_tables import rendered, table

DOCUMENT: Final = Path(__file__).parent.parent / "docs" / "which-algorithm.md"
METRICS: Final = (FLOOR_METRIC, *(goal.metric for goal in GOALS if goal.metric != FLOOR_METRIC))
LIVE_COLUMNS: Final = ("migrations", "hotspot_seconds", "cpu_stddev_final", "time_to_settle_seconds",
                       "ping_pong_migrations")  # fmt: skip


def goals(choices: Sequence[Choice], reference: str) -> str:
    """Return the table from goal to choice."""
    rows = []
    for each in choices:
        same = _names(each.equivalent) or "no other"
        price = "; ".join(
            f"{metrics.get(name).title.lower()} {_signed(found.estimate)} [{_signed(found.low)}, {_signed(found.high)}]"
            for name, found in each.price.items()
            if name != each.goal.metric
        )
        change = f"{interval(each.found.difference)}, {each.found.verdict}" if each.name != reference else "it is it"
        first = f"`{each.leader}`" if each.leader != each.name else "it"
        rows.append(
            (f"**{each.goal.title}**", f"`{each.name}`", f"{interval(each.found.mean)} {each.metric.unit}".strip(),
             change, price, _names(each.worse_in) or "none", _names(each.hotter_in) or "none", first, same)
        )  # fmt: skip
    head = ("goal", "choose", "reaches, per run", f"difference to `{reference}`", "its other differences",
            "scenarios in which it is worse", "scenarios in which it is hotter", "best mean",
            "practically equivalent to it")  # fmt: skip
    return table(head, rows)


def scale(findings: Findings, choices: Sequence[Choice]) -> str:
    """Return every algorithm's mean by each goal's metric, the coolest at the top."""
    designs = findings.designs
    order = sorted(designs[FLOOR_METRIC].treatments, key=lambda name: designs[FLOOR_METRIC].column(name).mean())
    below = {name for each in choices for name in each.below_floor}
    rows = []
    for name in order:
        found = [next(e for e in findings.comparisons[metric] if e.treatment == name) for metric in METRICS]
        cells = [f"{interval(each.mean)}{_MARKS[each.verdict]}" for each in found]
        note = "missed" if name in below else "held" if is_choice(name) else "control" if "(again" in name else "-"
        rows.append((f"`{name}`", *cells, note))
    head = ("algorithm", *(_heading(metric) for metric in METRICS), "hot-spot floor")
    return table(head, rows)


_MARKS: Final = {"better": " ▼", "worse": " ▲", "equivalent": " =", "undecided": "", "baseline": " ·"}


def scenarios(findings: Findings, choices: Sequence[Choice]) -> str:
    """Return hot spots and migrations of the chosen algorithms in each scenario."""
    hot, moves = findings.designs[FLOOR_METRIC].by_stratum(), findings.designs["migrations"].by_stratum()
    chosen = [each.name for each in choices if each.name != findings.baseline]
    names = [name for name in dict.fromkeys(["none", findings.baseline, *chosen, "oracle"]) if name in hot.treatments]
    rows = [
        (f"`{scenario}`", *(f"{number(round(hot.column(name)[row]))} / {number(round(moves.column(name)[row]))}"
                            for name in names))
        for row, scenario in enumerate(hot.strata)
    ]  # fmt: skip
    return table(("scenario", *(f"`{name}`" for name in names)), rows)


def live(folder: Path | None) -> str:
    """Return the live runs, one line each."""
    if folder is None:
        return "No live runs were given."
    runs = results.collect([results.read_run(path) for path in results.run_folders(folder)])
    good = runs[runs["status"] == "succeeded"].sort_values(["hotspot_seconds", "migrations"], kind="stable")
    rows = [
        (f"`{row['label'] if 'label' in row else row['algorithm']}`", *(_cell(row.get(name)) for name in LIVE_COLUMNS))
        for row in good.to_dict("records")
    ]
    failed = len(runs) - len(good)
    told = f"\n\n{failed} of {len(runs)} runs failed." if failed else ""
    return table(("algorithm", *(_heading(name) for name in LIVE_COLUMNS)), rows) + told


def apply(choices: Sequence[Choice]) -> str:
    """Return the policy and the rule of each chosen algorithm, with the goals that it is for."""
    parts = []
    for name in dict.fromkeys(each.name for each in choices):
        wanted = " and ".join(each.goal.title for each in choices if each.name == name)
        policy = yaml.safe_load(recipe.policy(name))
        arguments = next(
            entry["args"] for entry in policy["profiles"][0]["pluginConfig"] if entry["name"] == "LowNodeUtilization"
        )
        kept = ("metricsUtilization", "useDeviationThresholds", "thresholds", "targetThresholds")
        excerpt = yaml.safe_dump({"args": {key: arguments[key] for key in kept}}, sort_keys=False).rstrip()
        parts.append(
            f"### `{name}`: {wanted}\n\n"
            f"In the DeschedulerPolicy, at `LowNodeUtilization`:\n\n```yaml\n{excerpt}\n```\n\n"
            f"In the PrometheusRule, after the rules that it reads:\n\n```yaml\n{recipe.own_rules(name).rstrip()}\n```"
            f"\n\nBoth in full: `labkit algorithms show {name}`; in a running lab: `labkit use {name}`."
        )
    return "\n\n".join(parts)


def controls(findings: Findings) -> str:
    """Return the controls of the experiment."""
    rows = [(name, "yes" if good else "**no**", found) for name, good, found in report.controls(findings)]
    return table(("must hold", "does it", "found"), rows)


def source(folder: Path, state: Mapping[str, Any], runs: pd.DataFrame, findings: Findings) -> str:
    """Say in a sentence what the numbers rest on."""
    design = findings.designs[FLOOR_METRIC]
    record = results.read_run(folder / str(runs["run_id"].iloc[0]))
    good = int((runs["status"] == "succeeded").sum())
    scenarios = ", ".join(sorted(set(design.strata)))
    return (
        f"{number(good)} of {number(state['runs'])} runs of the twin, each {state['duration_seconds'] / 60:g} lab "
        f"minutes, in {len(design.values)} blocks of equal scenario and seed; scenarios: {scenarios}; commit "
        f"`{(record.git_commit or 'unknown')[:10]}`."
    )


def draw(findings: Findings, folder: Path) -> None:
    """Draw the figures of the document."""
    folder.mkdir(exist_ok=True)
    moves, hot = findings.designs["migrations"], findings.designs[FLOOR_METRIC]
    costs = {
        name: (float(moves.column(name).mean()), float(hot.column(name).mean()))
        for name in hot.treatments
        if "(again" not in name
    }
    with plots.lab_style():
        figure = Figure(figsize=(8.4, 6.4), layout="constrained")
        plots.pareto(costs, figure.subplots(), metrics=(moves.metric, hot.metric))
        figure.savefig(folder / "which-algorithm-trade.png", dpi=120)
        figure = Figure(figsize=(8.4, 1.8 + 0.27 * len(hot.treatments)), layout="constrained")
        plots.ranking(findings.comparisons[FLOOR_METRIC], hot.metric, figure.subplots())
        figure.savefig(folder / "which-algorithm-hot-spots.png", dpi=120)


def main(argv: list[str] | None = None) -> int:
    """Fill the document."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("benchmark", type=Path, help="folder of benchmark-19")
    parser.add_argument("--live", type=Path, help="folder of live-19")
    args = parser.parse_args(argv)
    state, runs = results.read_experiment(args.benchmark)
    findings = Findings.of(runs, METRICS, state["baseline"])
    choices = choose(findings.designs, findings.baseline)
    tables = {
        "source": source(args.benchmark, state, runs, findings),
        "goals": goals(choices, findings.baseline),
        "scale": scale(findings, choices),
        "scenarios": scenarios(findings, choices),
        "controls": controls(findings),
        "live": live(args.live),
        "apply": apply(choices),
    }
    DOCUMENT.write_text(rendered(DOCUMENT.read_text(encoding="utf-8"), tables), encoding="utf-8")
    draw(findings, DOCUMENT.parent / "figures")
    return 0


def _heading(metric: str) -> str:
    found = metrics.get(metric)
    return f"{found.title} ({found.unit})" if found.unit else found.title


def _names(names: Iterable[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)


def _signed(value: float) -> str:
    return f"+{number(value)}" if value > 0 else number(value)


def _cell(value: Any) -> str:
    return "not within the run" if value is None or pd.isna(value) else number(float(value))


if __name__ == "__main__":
    sys.exit(main())
