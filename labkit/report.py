"""The report of an experiment: one HTML file that needs nothing but a browser.

Everything in it is generated from the experiment's folder: question, answer, figures, tables, controls, versions, and
how to repeat it. Figures are embedded; links lead to run folders and executed notebooks beside the report.
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Final

import matplotlib as mpl
import numpy as np
import pandas as pd
from jinja2 import Environment
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from labkit import plots, results
from labkit.analysis import choice, curves, explanation, metrics, statistics
from labkit.analysis.answer import MIN_BLOCKS, answer, best_choice, interval, number
from labkit.analysis.imbalance import mean
from labkit.analysis.statistics import Blocks, Comparison, Ranking
from labkit.analysis.tables import Tables
from labkit.errors import InputError, ResultError
from labkit.experiment import BASELINES
from labkit.model import FloatArray

EXECUTED_ANALYSIS: Final = "analysis.ipynb"
_MAX_RUNS_SHOWN: Final = 4
"""With more runs than this one of each treatment is shown, and of more treatments the baseline and the best."""
_MAX_OVERLAY_RUNS: Final = 60
"""Of each treatment, at most so many runs are read for the curves over time."""
_MAX_CURVES: Final = 8
_EXPLAINED: Final = 3
"""Of each run that is shown, so many migrations are explained."""
_NOTHING_DONE_IS_BAD: Final = re.compile(r"hotspot_seconds|psi_seconds|regret|time_to_settle_seconds|(cpu|memory)_.*")
"""Metrics of the load itself: who moves nothing must do badly by them, who plans ahead well."""
_EQUAL_BY_DEFINITION: Final = [
    ("linear_amplified_ippd_k1", "ideal_point_positive_distance"),
    ("production_k3", "linear_amplified_ippd_k3"),
]


@dataclass(frozen=True)
class Picture:
    """A figure with the sentence under it."""

    title: str
    source: str
    reading: str


@dataclass(frozen=True)
class Example:
    """One run in detail."""

    run_id: str
    summary: str
    pictures: list[Picture]
    why: list[list[str]]


@dataclass(frozen=True)
class Findings:
    """What the runs of an experiment say, before it is written down."""

    designs: dict[str, Blocks]
    comparisons: dict[str, list[Comparison]]
    primary: metrics.Metric
    baseline: str
    missing: list[str] = field(default_factory=list)

    @classmethod
    def of(cls, runs: pd.DataFrame, names: Sequence[str], baseline: str) -> Findings:
        """Compare the treatments by each metric; metrics that no run has are named in ``missing``."""
        designs, comparisons, missing = {}, {}, []
        wanted = list(dict.fromkeys([*names, "migrations", "hotspot_seconds"]))
        for name in wanted:
            try:
                design = statistics.blocks(runs, metrics.get(name))
            except InputError as exc:
                missing.append(str(exc))
                continue
            designs[name] = design
            missing += [f"{absent} has no finished run" for absent in design.absent]
            missing += [f"{design.metric.title} is not defined for {other}" for other in design.undefined]
        if not designs:
            raise ResultError(f"wanted finished runs to report on, found none; {missing[0]}")
        for name, design in designs.items():
            reference = baseline_treatment(design.treatments, baseline)
            comparisons[name] = statistics.compare(design, reference)
        primary = next(name for name in wanted if name in designs)
        reference = baseline_treatment(designs[primary].treatments, baseline)
        return cls(designs, comparisons, metrics.get(primary), reference, list(dict.fromkeys(missing)))

    def answer(self) -> list[str]:
        """Say in three sentences what came out; see :func:`labkit.analysis.answer.answer`."""
        return answer(self.designs, self.comparisons, self.primary, self.baseline)


def baseline_treatment(treatments: Sequence[str], baseline: str) -> str:
    """Return the treatment that stands for the baseline: where policies vary, its first."""
    for name in treatments:
        if name == baseline or name.startswith(f"{baseline} @ "):
            return name
    return treatments[0]


def write(folder: Path) -> Path:
    """Write ``report.html`` of an experiment's folder; returns its path.

    Raises
    ------
    ResultError
        If the folder holds no experiment, or no finished run.
    """
    state, runs = results.read_experiment(folder)
    findings = Findings.of(runs, state["metrics"], state["baseline"])
    records = _records(folder, runs)
    mpl.use("Agg")
    with plots.lab_style():
        overall = list(_overall_pictures(findings, folder, runs))
        examples = [_example(folder, row) for row in _telling_runs(runs, findings)]
    checked = controls(findings)
    environment = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    text = environment.from_string(_TEMPLATE).render(
        state=state,
        digest=digest(state, runs),
        progress=_progress(state),
        sentences=findings.answer(),
        findings=findings,
        overall=overall,
        examples=examples,
        heading=_heading(examples, runs, findings),
        tables=[_comparison_table(findings, name) for name in findings.designs],
        controls=checked,
        choices=_choice_rows(findings),
        broken=[control for control, good, _ in checked if not good],
        runs=_run_rows(folder, runs),
        failed=runs[runs["status"] != "succeeded"].to_dict("records"),
        notes=[(record.run_id, note) for record in records for note in record.notes],
        versions=_versions(records),
        analysis=(folder / EXECUTED_ANALYSIS).exists(),
        command=_command(state),
        number=number,
    )
    path = folder / results.REPORT_FILE
    results.write_bytes(path, text.encode("utf-8"))
    return path


def digest(state: Mapping[str, Any], runs: pd.DataFrame) -> str:
    """Return a hash of what a report is about: the runs, and what was asked of them."""
    rows = runs[["run_id", "key", "status", "wall_seconds"]] if "wall_seconds" in runs else runs[["run_id", "key"]]
    asked = [state.get(name) for name in ("name", "question", "baseline", "metrics", "runs", "status", "text")]
    return hashlib.sha256((rows.to_csv(index=False) + json.dumps(asked)).encode()).hexdigest()[:16]


def is_current(folder: Path) -> bool:
    """Tell whether the folder's report is about the runs that the folder holds."""
    path = folder / results.REPORT_FILE
    if not path.exists():
        return False
    state, runs = results.read_experiment(folder)
    with path.open(encoding="utf-8") as file:
        return f'content="{digest(state, runs)}"' in file.read(2000)


def _draw(draw: Callable[[Axes], object], *, title: str, reading: str, size: tuple[float, float]) -> Picture:
    figure = Figure(figsize=size, layout="constrained")
    draw(figure.subplots())
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=125)
    data = base64.b64encode(buffer.getvalue()).decode("ascii")
    return Picture(title, f"data:image/png;base64,{data}", reading)


def _overall_pictures(findings: Findings, folder: Path, runs: pd.DataFrame) -> Iterator[Picture]:
    design = findings.designs[findings.primary.name]
    count = len(design.treatments)
    height = 1.6 + 0.32 * count
    comparisons = findings.comparisons[findings.primary.name]
    yield _draw(
        partial(plots.ranking, comparisons, findings.primary),
        title="Ranking", size=(8.4, height + 0.5),
        reading="Mean difference to the baseline within blocks"
        + (", with 95 % intervals" if len(design.values) > 1 else "")
        + "; in the grey band a difference is too small to matter.",
    )  # fmt: skip
    if {"migrations", "hotspot_seconds"} <= findings.designs.keys():
        pair = (findings.designs["migrations"], findings.designs["hotspot_seconds"])
        costs = {name: (float(pair[0].column(name).mean()), float(pair[1].column(name).mean())) for name in
                 design.treatments if name in pair[0].treatments and name in pair[1].treatments}  # fmt: skip
        yield _draw(
            partial(plots.pareto, costs, metrics=(pair[0].metric, pair[1].metric)),
            title="Migrations against hot spots", size=(8.4, 6.2 if count > _MAX_CURVES else 4.8),
            reading="No algorithm is better in both than the filled ones on the line; everything above and right of it "
            f"is beaten by one.{_ends(costs)}",
        )  # fmt: skip
    means = _curves(folder, runs)
    shown = _most_telling(findings, list(means))
    for place, title, y in ((0, "CPU imbalance over time", "standard deviation of CPU use"),
                            (1, "Migrations so far", "migrations")):  # fmt: skip
        series = {name: (means[name][0], means[name][1 + place]) for name in shown}
        if series:
            yield _draw(
                partial(plots.overlay, series, title=title, y=y),
                title=title, size=(8.4, 3.8), reading=f"Mean over the runs of each{_left_out(means, shown)}.",
            )  # fmt: skip
    for name in ("time_to_settle_seconds", "time_to_converge_seconds"):
        timed = findings.designs.get(name)
        if timed is None or len(timed.values) < 2:
            continue
        horizon = float(runs["lab_seconds"].max())
        events = {
            each: statistics.survival(timed.column(each), timed.censored[:, timed.treatments.index(each)], timed.strata)
            for each in _most_telling(findings, list(timed.treatments))
        }
        yield _draw(
            partial(plots.survival, events, timed.metric, horizon_seconds=horizon),
            title=timed.metric.title, size=(8.4, 3.8),
            reading="Runs that did not get there within their length stay in the picture as censored; no value is made "
            "up for them.",
        )  # fmt: skip
    if len(design.values) >= 2 and count > 2:
        ranking = statistics.rank(design)
        yield _draw(
            partial(plots.critical_difference, ranking),
            title="Mean ranks", size=(9.2, 1.6 + 0.2 * count),
            reading=f"Friedman's test, F form of Iman and Davenport: {_friedman(ranking)}. "
            "A picture only: mean ranks depend on who else takes part.",
        )  # fmt: skip
    if len(design.values) >= 2:
        yield _draw(
            partial(plots.ridges, design), title="Every run", size=(8.4, height),
            reading="Each mark is a run, the symbol their mean; where the marks spread wide, a single run says little."
            + (" Arrows are runs that ended before it happened." if design.censored.any() else ""),
        )  # fmt: skip


def _ends(names: Iterable[str]) -> str:
    """Say which of those that took part are ends of the scale."""
    known = list(dict.fromkeys(name.split(" ")[0] for name in names if name.split(" ")[0] in BASELINES))
    if not known:
        return ""
    if len(known) == 1:
        return f" {known[0].capitalize()} is an end of the scale, not a choice."
    return f" {', '.join(known[:-1]).capitalize()} and {known[-1]} are ends of the scale, not choices."


def _friedman(ranking: Ranking) -> str:
    if np.isnan(ranking.statistic):
        return "no two treatments differ"
    if np.isinf(ranking.statistic):
        return "every block ranks them the same"
    return f"F = {number(ranking.statistic)}, p {'< 0.0001' if ranking.p_value < 1e-4 else f'= {ranking.p_value:.2g}'}"


def _left_out(all_of_them: Mapping[str, object], shown: Sequence[str]) -> str:
    hidden = len(all_of_them) - len(shown)
    return f"; {hidden} more are left out, they are in the tables below" if hidden > 0 else ""


def _most_telling(findings: Findings, names: Sequence[str]) -> list[str]:
    """Choose what to draw where all would be too much: the ends, the baseline and the best."""
    if len(names) <= _MAX_CURVES:
        return list(names)
    order = sorted(findings.comparisons[findings.primary.name], key=lambda e: findings.primary.sign * e.mean.estimate)
    wanted = [findings.baseline, *(name for name in names if name.split(" ")[0] in BASELINES)][: len(BASELINES) + 1]
    wanted += [each.treatment for each in order if each.treatment not in wanted]
    return [name for name in names if name in wanted[:_MAX_CURVES]]


def _curves(folder: Path, runs: pd.DataFrame) -> dict[str, tuple[FloatArray, FloatArray, FloatArray]]:
    """Average imbalance and migrations so far over the runs of each treatment, on one grid of lab time."""
    good = runs[runs["status"] == "succeeded"].assign(treatment=statistics.treatments(runs))
    end = float(good["lab_seconds"].min())
    grid = np.arange(0.0, end + 1e-9, max(15.0, end / 240))
    found = {}
    for name, rows in good.groupby("treatment", sort=False):
        spread, moves = [], []
        step = max(1, -(-len(rows) // _MAX_OVERLAY_RUNS))
        for run_id in rows["run_id"].iloc[::step]:
            tables = results.read_tables(folder / run_id, only=("nodes", "migrations"))
            spread.append(curves.imbalance(tables, grid))
            moves.append(curves.migrations(tables, grid))
        if spread:
            found[str(name)] = (grid, mean(np.column_stack(spread)), np.mean(moves, axis=0))
    return found


def _telling_runs(runs: pd.DataFrame, findings: Findings) -> list[dict[str, Any]]:
    """Choose the runs that are shown one by one: all, else one of each treatment, else the baseline's and the best's.

    Those of several treatments are of one block, so that they met the same load: the block in which the difference
    between baseline and best is nearest to its mean.
    """
    good = runs[runs["status"] == "succeeded"].assign(treatment=statistics.treatments(runs))
    if len(good) > _MAX_RUNS_SHOWN:
        shown = list(findings.designs[findings.primary.name].treatments)
        pair = [findings.baseline, best_choice(findings.comparisons, findings.primary)]
        if len(shown) > _MAX_RUNS_SHOWN:
            shown = list(dict.fromkeys(pair))
        good = good[good["treatment"].isin(shown)]
        block = ["scenario", "seed", *(name for name in ("nodes", "repeat") if name in good)]
        primary = findings.primary.name
        values = good.assign(value=good[primary].astype("float64").fillna(good["lab_seconds"]))
        wide = values.pivot_table(index=block, columns="treatment", values="value", dropna=False).dropna()
        if len(wide):
            difference = wide[pair[1]] - wide[pair[0]]
            typical = int((difference - difference.mean()).abs().to_numpy().argmin())
            good = good[(good[block] == list(wide.index[typical])).all(axis=1)]
        good = good.drop_duplicates("treatment").set_index("treatment", drop=False).reindex(shown).dropna(how="all")
    return [{str(name): value for name, value in row.items()} for row in good.to_dict("records")]


def _heading(examples: Sequence[Example], runs: pd.DataFrame, findings: Findings) -> str:
    if len(examples) == len(runs):
        return "Each run" if len(runs) > 1 else "The run"
    if len(examples) == len(findings.designs[findings.primary.name].treatments):
        return "One run of each, with the same load"
    return "The baseline and the best, with the same load" if len(examples) > 1 else "One run"


def _example(folder: Path, row: Mapping[str, Any]) -> Example:
    """Draw one run, and say why its first VMs moved."""
    run_id, seconds = str(row["run_id"]), float(row["lab_seconds"])
    tables = results.read_tables(folder / run_id)
    settled = row.get("time_to_settle_seconds")
    quiet = "it did not settle" if settled is None or pd.isna(settled) else f"settled after {settled / 60:.1f} min"
    summary = (
        f"CPU standard deviation {number(row['cpu_stddev_initial'])} → {number(row['cpu_stddev_final'])}; "
        f"{int(row['migrations'])} migrations, {int(row['ping_pong_migrations'])} of them back and forth; {quiet}."
    )
    nodes = tables["nodes"]["node"].nunique()
    tall = min(max(3.2, 1.2 + 0.16 * nodes), 6.0)
    wide, low = 5.6, 3.2  # half of the page, so that its text is as large as the page's
    figures: list[tuple[str, str, Callable[[Axes], object], tuple[float, float]]] = [
        ("Scores", "What the descheduler goes by.", partial(plots.scores, tables), (wide, low)),
        ("CPU use", "What the nodes carry.", partial(plots.utilisation, tables), (wide, low)),
        ("CPU use, node by node", "Light is idle, dark is full.", partial(plots.heat_map, tables), (wide, tall)),
        ("Migrations", "From the dot to the arrow, in the colour of the node that was left.",
         partial(plots.migration_arcs, tables), (wide, tall)),
        ("Before and after", "Bars of one height are a balanced cluster.",
         partial(plots.before_and_after, tables, lab_seconds=seconds), (wide, low)),
        ("Evictions and migrations", "The gap between the lines is under way, refused or queued.",
         partial(plots.cumulative, tables, lab_seconds=seconds), (wide, low)),
        ("Placement", "A strip is a VM; a colour that comes back is a VM that went in a circle.",
         partial(plots.placement, tables, lab_seconds=seconds), (8.4, 4.8)),
    ]  # fmt: skip
    pictures = [_draw(draw, title=title, reading=reading, size=size) for title, reading, draw, size in figures]
    return Example(run_id, summary, pictures, _explanations(folder / run_id, tables))


def _explanations(folder: Path, tables: Tables) -> list[list[str]]:
    """Say of the first migrations of a run why the VMs moved."""
    record, scenario = results.read_run(folder), results.read_scenario(folder)
    return [
        explanation.sentences(
            explanation.explain(tables, number, algorithm=record.algorithm, scenario=scenario, seed=record.seed)
        )
        for number in range(1, min(_EXPLAINED, len(tables["migrations"])) + 1)
    ]


def _comparison_table(findings: Findings, name: str) -> dict[str, Any]:
    metric = metrics.get(name)
    rows = [
        {
            "treatment": each.treatment, "mean": interval(each.mean), "difference": interval(each.difference),
            "hodges_lehmann": number(each.hodges_lehmann),
            "p_holm": "" if each.verdict == "baseline" else f"{each.p_holm:.2g}",
            "superiority": "" if each.verdict == "baseline" else f"{100 * each.superiority:.0f} %",
            "equivalent": "" if each.verdict == "baseline" else f"{100 * each.equivalent:.0f} %",
            "verdict": each.verdict,
        }
        for each in sorted(findings.comparisons[name], key=lambda e: metric.sign * e.mean.estimate)
    ]  # fmt: skip
    design = findings.designs[name]
    censored = {t: int(design.censored[:, i].sum()) for i, t in enumerate(design.treatments)}
    return {
        "metric": metric, "rows": rows, "blocks": len(design.values), "dropped": design.dropped,
        "censored": {t: n for t, n in censored.items() if n},
        "baseline": next(each.treatment for each in findings.comparisons[name] if each.verdict == "baseline"),
    }  # fmt: skip


def _choice_rows(findings: Findings) -> list[dict[str, str]]:
    """Say which algorithm to choose for which goal, where enough runs and algorithms took part to say it."""
    hot = findings.designs.get(choice.FLOOR_METRIC)
    if hot is None or len(hot.values) < MIN_BLOCKS or findings.baseline not in hot.treatments:
        return []
    if sum(choice.is_choice(name) for name in hot.treatments) < 2 or not choice.is_choice(findings.baseline):
        return []
    return [
        {
            "goal": each.goal.title, "name": each.name, "reaches": f"{interval(each.found.mean)} {each.metric.unit}",
            "difference": interval(each.found.difference), "migrations": interval(each.price["migrations"]),
            "hot": interval(each.price[choice.FLOOR_METRIC]), "hotter_in": ", ".join(each.hotter_in) or "none",
        }
        for each in choice.choose(findings.designs, findings.baseline)
    ]  # fmt: skip


def controls(findings: Findings) -> list[tuple[str, bool, str]]:
    """Check what must come out in any sound experiment: (control, as it should be, what was found).

    An algorithm entered twice must not differ from itself; linear_amplified_ippd_k1 is
    ideal_point_positive_distance by definition, production_k3 is linear_amplified_ippd_k3 by another name; no
    descheduling and the planner that knows the future are the ends.
    """
    design = findings.designs[findings.primary.name]
    metric, found = findings.primary, []
    pairs = [(name, re.sub(r" \(again.*?\)", "", name)) for name in design.treatments if "(again" in name]
    pairs += _EQUAL_BY_DEFINITION
    for first, second in pairs:
        if {first, second} <= set(design.treatments):
            delta = design.column(first) - design.column(second)
            _, equal, _ = statistics.rope_probabilities(delta, metric.rope)
            good = equal >= statistics.EQUIVALENT_PROBABILITY
            found.append(
                (f"{first} equals {second}", good, f"largest difference {number(float(np.abs(delta).max()))}, "
                 f"equivalent with probability {equal:.2f}")
            )  # fmt: skip
    means = {name: metric.sign * float(design.column(name).mean()) for name in design.treatments}
    others = [value for name, value in means.items() if name not in BASELINES]
    ends = _NOTHING_DONE_IS_BAD.fullmatch(metric.name) is not None
    if others and "oracle" in means and ends:
        good = means["oracle"] <= min(others) + metric.rope
        found.append(("oracle is the good end", good, f"{number(abs(means['oracle']))}, the best algorithm "
                      f"{number(abs(min(others)))}"))  # fmt: skip
    if others and "none" in means and ends:
        good = means["none"] >= float(np.median(others)) - metric.rope
        found.append(("none is the bad end", good, f"{number(abs(means['none']))}, the median algorithm "
                      f"{number(abs(float(np.median(others))))}"))  # fmt: skip
    return found


def _run_rows(folder: Path, runs: pd.DataFrame) -> list[dict[str, Any]]:
    rows = []
    for row in runs.to_dict("records"):
        notebook = folder / str(row["run_id"]) / "notebook.ipynb"
        values = {
            name: "" if pd.isna(row.get(name)) else number(float(row[name]))
            for name in ("migrations", "hotspot_seconds", "cpu_stddev_initial", "cpu_stddev_final",
                         "time_to_settle_seconds", "ping_pong_migrations", "wall_seconds")
        }  # fmt: skip
        rows.append({"run_id": row["run_id"], "status": row["status"], "notebook": notebook.exists(), **values})
    return rows


def _records(folder: Path, runs: pd.DataFrame) -> list[results.RunRecord]:
    """Read what each run says of itself; runs whose folder is gone are left out."""
    return [
        results.read_run(folder / str(run_id))
        for run_id in runs["run_id"]
        if (folder / str(run_id) / results.RUN_FILE).is_file()
    ]


def _versions(records: Sequence[results.RunRecord]) -> dict[str, str]:
    """Say what took part; where runs differ in it, all that did."""

    def all_of(values: Iterable[str]) -> str:
        return ", ".join(dict.fromkeys(values))

    names = dict.fromkeys(name for record in records for name in record.versions)
    started = sorted(record.started_at for record in records)
    return {
        **{name: all_of(record.versions.get(name, "unknown") for record in records) for name in names},
        "git commit": all_of(record.git_commit or "outside a checkout" for record in records),
        "host": all_of(" · ".join(f"{name} {value}" for name, value in record.host.items()) for record in records),
        "runs started": " to ".join(dict.fromkeys([started[0], started[-1]])) if started else "unknown",
    }


def _progress(state: Mapping[str, Any]) -> str:
    """Say how many runs there are, and how many there should be where some are missing."""
    done = state["counts"].get("succeeded", 0)
    wanted = state["runs"]
    return f"{wanted} runs" if done == wanted else f"{done} of {wanted} runs have succeeded"


def _command(state: Mapping[str, Any]) -> str:
    """Return what repeats the experiment, whatever its file says of backend and tempo."""
    tempo = "" if state["backend"] == "sim" else f" --tempo {state['tempo']}"
    return f"labkit experiment {state['name']}.yaml --backend {state['backend']}{tempo}"


_TEMPLATE: Final = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="labkit-runs" content="{{ digest }}">
<link rel="icon" href="data:,">
<title>{{ state.name }}: {{ state.question }}</title>
<style>
:root { color-scheme: light; --ink: #222; --quiet: #666; --line: #ddd; --blue: #0072b2; --red: #b34700; }
body { font: 16px/1.5 system-ui, sans-serif; color: var(--ink); background: #fff; margin: 0 auto; max-width: 68rem;
  padding: 1.5rem; }
h1 { font-size: 1.6rem; line-height: 1.25; margin: 0 0 .3rem; } h2 { font-size: 1.2rem; margin: 2.4rem 0 .6rem; }
h3 { font-size: 1rem; margin: 1.4rem 0 .4rem; }
.quiet, figcaption, caption { color: var(--quiet); font-size: .9rem; }
.answer { border-left: 4px solid var(--blue); padding: .2rem 0 .2rem 1rem; margin: 1.2rem 0; }
.answer p { margin: .35rem 0; }
figure { margin: 1rem 0; } figure img { max-width: 100%; height: auto; display: block; }
.pair { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(24rem, 100%), 1fr)); gap: .2rem 1rem; }
.pair figure { margin: .4rem 0; } .pair figure:last-child:nth-child(odd) { grid-column: 1 / -1; max-width: 56rem; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: .86rem; font-variant-numeric: tabular-nums; width: 100%; }
th, td { text-align: left; padding: .25rem .6rem; border-bottom: 1px solid var(--line); white-space: nowrap; }
.wrap td, .wrap th { white-space: normal; vertical-align: top; }
th { font-weight: 600; } caption { text-align: left; padding: .4rem 0; white-space: normal; }
.alarm { border: 3px solid var(--red); padding: .6rem 1rem; font-weight: 600; }
.better { color: var(--blue); } .worse, .failed { color: var(--red); }
pre { background: #f6f6f6; padding: .8rem; overflow-x: auto; font-size: .85rem; }
details > summary { cursor: pointer; } a { color: var(--blue); }
@media print { details { display: block; } }
</style>
</head>
<body>
<p class="quiet">Experiment {{ state.name }} · backend {{ state.backend }} · {{ progress }} · {{ number(
state.duration_seconds / 60) }} lab minutes each</p>
<h1>{{ state.question }}</h1>
<section class="answer" id="answer">
{% for sentence in sentences %}
<p>{{ sentence }}</p>
{% endfor %}
</section>
{% if broken %}
<p class="alarm" role="alert">A control failed: {{ broken|join("; ") }}. Trust no comparison below until that is
explained; <a href="#controls">the controls</a> say what was found.</p>
{% endif %}
{% for problem in findings.missing %}
<p class="quiet">{{ problem }}.</p>
{% endfor %}
{% if failed %}
<section id="failed"><h2>Runs that failed</h2>
{% for run in failed %}
<p class="failed"><a href="{{ run.run_id }}/">{{ run.run_id }}</a> {{ run.status }}:
{{ (run.error or "").strip().splitlines()[-1] if run.error else "" }}</p>
{% endfor %}
</section>
{% endif %}
{% if notes %}
<section id="notes"><h2>What the numbers of some runs suffer from</h2>
<details{% if notes|length <= 12 %} open{% endif %}>
<summary>{{ notes|length }} note{{ "s" if notes|length > 1 }}</summary>
<ul>
{% for run_id, note in notes %}
<li><a href="{{ run_id }}/">{{ run_id }}</a>: {{ note }}</li>
{% endfor %}
</ul></details></section>
{% endif %}
{% if choices %}
<section id="choices"><h2>Which for which goal</h2>
<div class="scroll"><table class="wrap"><caption>Of what cannot be told from the best the algorithm with the fewest
migrations; only algorithms whose hot spots are not practically worse than those of {{ findings.baseline }}, to which
the differences are.</caption>
<thead><tr><th>goal</th><th>algorithm</th><th>reaches, per run</th><th>difference</th><th>migrations</th>
<th>hot spots</th><th>hotter in</th></tr></thead><tbody>
{% for row in choices %}
<tr><td>{{ row.goal }}</td><td>{{ row.name }}</td><td>{{ row.reaches }}</td><td>{{ row.difference }}</td>
<td>{{ row.migrations }}</td><td>{{ row.hot }}</td><td>{{ row.hotter_in }}</td></tr>
{% endfor %}
</tbody></table></div></section>
{% endif %}
<section id="figures"><h2>What was found</h2>
{% for picture in overall %}
<figure><img src="{{ picture.source }}" alt="{{ picture.title }}">
<figcaption>{{ picture.reading }}</figcaption></figure>
{% endfor %}
</section>
<section id="single"><h2>{{ heading }}</h2>
{% for example in examples %}
<h3 id="{{ example.run_id }}"><a href="{{ example.run_id }}/">{{ example.run_id }}</a></h3>
<p>{{ example.summary }}</p>
<div class="pair">
{% for picture in example.pictures %}
<figure><img src="{{ picture.source }}" alt="{{ picture.title }} of {{ example.run_id }}">
<figcaption>{{ picture.reading }}</figcaption></figure>
{% endfor %}
</div>
{% if example.why %}
<details open><summary>Why the first VMs moved</summary><ol>
{% for sentences in example.why %}
<li>{{ sentences|join(" ") }}</li>
{% endfor %}
</ol><p class="quiet">In this folder <code>labkit explain {{ example.run_id }} --migration N</code> tells it of any.</p>
</details>
{% endif %}
{% endfor %}
</section>
<section id="tables"><h2>In numbers</h2>
<p class="quiet">Differences are to {{ findings.baseline }} within blocks of equal scenario and seed; intervals hold
95 % (bootstrap, seeds resampled within scenarios); p is Wilcoxon's signed-rank test after Holm; "wins" is the share of
blocks in which it is better, ties half; "equal" is the probability that the difference is practically none.</p>
{% for table in tables %}
<div class="scroll"><table>
<caption>{{ table.metric.title }}{% if table.metric.unit %} ({{ table.metric.unit }}){% endif %},
{{ table.metric.better }} is better, differences within ±{{ number(table.metric.rope) }} do not matter;
{{ table.blocks }} blocks
{%- if table.dropped %}, {{ table.dropped }} incomplete ones left out{% endif %}
{%- if table.censored %}; did not get there:
{% for name, count in table.censored.items() %}{{ name }} {{ count }}{{ "" if loop.last else ", " }}{% endfor %}
{%- endif %}
{%- if table.baseline != findings.baseline %}; differences are to {{ table.baseline }} here{% endif %}</caption>
<thead><tr><th>algorithm</th><th>mean</th><th>difference</th><th>typical difference</th><th>p</th><th>wins</th>
<th>equal</th><th>verdict</th></tr></thead>
<tbody>
{% for row in table.rows %}
<tr><td>{{ row.treatment }}</td><td>{{ row.mean }}</td><td>{{ row.difference }}</td><td>{{ row.hodges_lehmann }}</td>
<td>{{ row.p_holm }}</td><td>{{ row.superiority }}</td><td>{{ row.equivalent }}</td>
<td class="{{ row.verdict }}">{{ row.verdict }}</td></tr>
{% endfor %}
</tbody></table></div>
{% endfor %}
</section>
{% if controls %}
<section id="controls"><h2>Controls</h2>
<div class="scroll"><table><thead><tr><th>must hold</th><th>does it</th><th>found</th></tr></thead><tbody>
{% for control, good, found in controls %}
<tr><td>{{ control }}</td><td class="{{ "better" if good else "worse" }}">{{ "yes" if good else "no" }}</td>
<td>{{ found }}</td></tr>
{% endfor %}
</tbody></table></div></section>
{% endif %}
<section id="runs"><h2>Runs</h2>
<details{% if runs|length <= 30 %} open{% endif %}><summary>{{ runs|length }} runs</summary>
<div class="scroll"><table>
<thead><tr><th>run</th><th>status</th><th>migrations</th><th>hot-spot s</th><th>CPU σ start</th><th>CPU σ end</th>
<th>settled s</th><th>ping-pong</th><th>wall s</th></tr></thead>
<tbody>
{% for run in runs %}
<tr><td><a href="{{ run.run_id }}/">{{ run.run_id }}</a>
{%- if run.notebook %} · <a href="{{ run.run_id }}/notebook.ipynb">notebook</a>{% endif %}</td>
<td class="{{ run.status }}">{{ run.status }}</td><td>{{ run.migrations }}</td><td>{{ run.hotspot_seconds }}</td>
<td>{{ run.cpu_stddev_initial }}</td><td>{{ run.cpu_stddev_final }}</td><td>{{ run.time_to_settle_seconds }}</td>
<td>{{ run.ping_pong_migrations }}</td><td>{{ run.wall_seconds }}</td></tr>
{% endfor %}
</tbody></table></div></details></section>
<section id="repeat"><h2>How to repeat this</h2>
<pre>{{ command }}</pre>
<details><summary>{{ state.name }}.yaml</summary><pre>{{ state.text.strip() }}</pre></details>
{% if analysis %}<p>Executed analysis: <a href="analysis.ipynb">analysis.ipynb</a>.</p>{% endif %}
<p>All runs as one table: <a href="runs.parquet">runs.parquet</a>.</p>
<div class="scroll"><table><caption>What took part</caption><tbody>
{% for name, value in versions.items() %}
<tr><td>{{ name }}</td><td>{{ value }}</td></tr>
{% endfor %}
</tbody></table></div></section>
</body>
</html>
"""
