"""How close one backend's runs are to another's: the twin to the live loop, ``kind`` to ``local``.

Each live run is imitated by the twin: the same scenario, seed, algorithm, policy, duration and tempo, and the timing
that this very run has measured of its machine, down to the instants of its cycles. What Kubernetes leaves to chance is
drawn several times, since a single different victim makes another trajectory: only ensembles can be compared. The
measure is the live loop's own spread over repeats::

    runs = read([Path("results/fidelity")])
    found = Fidelity.of(outcomes(runs), imitations(runs))
    found.pairs, found.ranks, found.sentences(), markdown(found)

What happens between a scrape and a decision is compared too, part by part: :func:`check`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd
from scipy import stats

from labkit import results, sim
from labkit.analysis import summarize
from labkit.analysis.metrics import Metric, get
from labkit.analysis.rankcorrelation import RankCorrelation, correlate, interval_of
from labkit.analysis.tables import COLUMNS, Tables
from labkit.descheduling import classify
from labkit.errors import InputError, ResultError
from labkit.model import FloatArray
from labkit.names import SCRAPE_INTERVAL_SECONDS
from labkit.placement import NodeTable, PodRequest, top_scored
from labkit.results import RunRecord
from labkit.scenario import Scenario

METRICS: Final = (
    "migrations", "cpu_stddev_final", "memory_stddev_final", "time_to_converge_seconds", "hotspot_seconds",
)  # fmt: skip
NEAR: Final = 0.1
"""A mean this close to the live one, as a share of it, agrees whatever the spread."""
RANK_MARGIN: Final = 0.05
"""The goal: tau with the twin is at least tau between two halves of the live repeats less this."""
DRAWS: Final = 4
"""Imitations of each live run."""
TWIN: Final = "twin"
EVERYTHING: Final = "all"
"""Stands for the scenario and the metric in the row that sums the rank correlations up."""


@dataclass(frozen=True)
class LiveRun:
    """A finished run on a live backend.

    Parameters
    ----------
    record : RunRecord
        What ``run.json`` says.
    scenario : Scenario
        What was played, in the size it had.
    tables : Tables
        The five tables.
    """

    record: RunRecord
    scenario: Scenario
    tables: Tables

    @property
    def treatment(self) -> str:
        """The algorithm, with the policy where that differs from production's."""
        parameters = self.record.parameters
        policy = parameters.get("policy_name") or ""
        label = str(parameters.get("label") or self.record.algorithm)
        return f"{label} @ {policy}" if policy else label

    @property
    def repeat(self) -> int:
        """Which of the repeats it is, from 1."""
        return int(self.record.parameters.get("repeat", 1))

    @property
    def timing(self) -> dict[str, Any]:
        """What the machine added, as the twin takes it: as the run measured it, with the instants of its cycles."""
        return {**self.record.timing, "cycle_times_seconds": self.cycle_times_seconds}

    @property
    def policy(self) -> sim.Policy:
        """How the loop was set."""
        return sim.parse_policy(self.record.policy)

    @property
    def cycle_times_seconds(self) -> tuple[float, ...]:
        """When the descheduler's cycles were."""
        return tuple(np.unique(self.tables["cycles"]["time_seconds"].to_numpy(float)).tolist())

    @property
    def missed_cycles(self) -> int:
        """How many cycles the machine was too slow for."""
        if self.record.algorithm == "none":
            return 0
        due = int(self.record.duration_seconds // self.policy.descheduling_interval_seconds)
        return max(0, due - len(self.cycle_times_seconds))


def read(folders: Iterable[Path]) -> list[LiveRun]:
    """Read the finished runs of live experiments, from one folder or from parts of a matrix in several.

    Raises
    ------
    ResultError
        If a folder holds no finished run, or one of the twin, or one whose scenario was not kept; if the runs are of
        several backends.
    """
    runs = []
    for folder in folders:
        records = [(path, results.read_run(path)) for path in results.run_folders(folder)]
        finished = [(path, record) for path, record in records if record.status == "succeeded"]
        if not finished:
            raise ResultError(
                f"wanted an experiment's folder with finished live runs, found none in {folder}: "
                "'labkit experiment experiments/fidelity.yaml' makes one"
            )
        for path, record in finished:
            if record.backend == "sim":
                raise ResultError(f"wanted runs of a live backend, found backend sim in {path}")
            scenario = results.read_scenario(path)
            if scenario is None:
                raise ResultError(f"wanted the scenario {record.scenario} beside {path}, found none")
            runs.append(LiveRun(record, scenario, results.read_tables(path, only=COLUMNS)))
    backends = sorted({run.record.backend for run in runs})
    if len(backends) > 1:
        raise ResultError(
            f"wanted runs of one backend, found {' and '.join(backends)}: keep them in folders of their own"
        )
    return runs


# --- one row per run -----------------------------------------------------------------------------------


def outcomes(runs: Iterable[LiveRun]) -> pd.DataFrame:
    """Return one row per live run: ``side``, ``scenario``, ``algorithm``, ``repeat``, ``missed_cycles``, the metrics.

    A time that was not reached counts with the run's length, as everywhere in the statistics: means are restricted
    means. What a run does not define, as a time to converge without descheduling, is NaN and takes no part.
    """
    return pd.DataFrame([_row(run, run.record.backend, run.record.summary) for run in runs])


def imitations(
    runs: Sequence[LiveRun], *, draws: int = DRAWS, say: Callable[[str], None] = lambda _: None
) -> pd.DataFrame:
    """Let the twin imitate each run; returns ``draws`` rows per run, shaped as :func:`outcomes`.

    Parameters
    ----------
    runs : sequence of LiveRun
        What to imitate.
    draws : int
        How often chance is drawn for each; no two imitations of repeats share a draw.
    say : callable
        Is told what is done.
    """
    if draws < 1:
        raise InputError(f"draws: wanted 1 or more, found {draws}")
    lag, rows = score_lag_seconds(runs), []
    for place, run in enumerate(runs, start=1):
        say(f"{place} of {len(runs)}: {run.record.run_id}")
        for draw in range(draws):
            result = imitate(run, chance=run.repeat * draws + draw, score_lag_seconds=lag)
            tables = {name: getattr(result, name) for name in COLUMNS}
            rows.append(_row(run, TWIN, summarize(tables, lab_seconds=run.record.duration_seconds)))
    return pd.DataFrame(rows)


def imitate(run: LiveRun, *, chance: int = 0, score_lag_seconds: float = 0.0) -> sim.SimResult:
    """Play a live run's scenario on the twin, with what was measured of its machine."""
    record = run.record
    return sim.run(
        run.scenario, algorithm=record.algorithm, seed=record.seed, policy=record.policy,
        duration_seconds=record.duration_seconds, tempo=record.tempo, chance=chance,
        timing={"score_lag_seconds": score_lag_seconds, **run.timing},
    )  # fmt: skip


def _row(run: LiveRun, side: str, summary: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "side": side, "scenario": run.record.scenario, "algorithm": run.treatment, "repeat": run.repeat,
        "missed_cycles": run.missed_cycles,
        **{name: _value(get(name), summary, run.record.duration_seconds) for name in METRICS},
    }  # fmt: skip


def _value(metric: Metric, summary: Mapping[str, Any], duration_seconds: float) -> float:
    value = summary[metric.name]
    if value is not None:
        return float(value)
    defined = not metric.needs or bool(summary[metric.needs])
    return duration_seconds if metric.censored and defined else float("nan")


# --- comparison ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Fidelity:
    """Two sides compared, the first being the measure.

    Parameters
    ----------
    one, other : DataFrame
        By :func:`outcomes` or :func:`imitations`; only what both sides have is compared.
    """

    one: pd.DataFrame
    other: pd.DataFrame

    @classmethod
    def of(cls, one: pd.DataFrame, other: pd.DataFrame) -> Fidelity:
        """Compare what both sides have.

        Raises
        ------
        InputError
            If that is nothing.
        """
        shared = one[["scenario", "algorithm"]].merge(other[["scenario", "algorithm"]]).drop_duplicates()
        if shared.empty:
            raise InputError("wanted runs of the same scenarios and algorithms on both sides, found none")
        return cls(one.merge(shared), other.merge(shared))

    @property
    def sides(self) -> tuple[str, str]:
        """Names of the two sides."""
        return str(self.one["side"].iloc[0]), str(self.other["side"].iloc[0])

    @property
    def scenarios(self) -> tuple[str, ...]:
        """Scenarios, in order of name."""
        return tuple(sorted(self.one["scenario"].unique()))

    def values(self, frame: pd.DataFrame, scenario: str, metric: str) -> dict[str, FloatArray]:
        """Return the values of a side's runs by algorithm, the algorithms in order of the first side's mean.

        Algorithms for which one of the sides does not define the metric are left out.
        """
        means, other = (
            side[side["scenario"] == scenario].groupby("algorithm")[metric].mean().dropna()
            for side in (self.one, self.other)
        )
        part = frame[frame["scenario"] == scenario].dropna(subset=[metric])
        order = means.reset_index().sort_values([metric, "algorithm"], ascending=[False, True])["algorithm"]
        return {
            name: part.loc[part["algorithm"] == name, metric].to_numpy(np.float64) for name in order if name in other
        }

    @cached_property
    def pairs(self) -> pd.DataFrame:
        """One row per scenario, algorithm and metric.

        Columns: of the first side ``mean``, ``sd``, ``low``, ``high`` (its range), ``runs``; of the second
        ``other_mean``, ``other_sd``, ``other_runs``; ``difference`` of the means with its 95 % interval (Welch);
        ``agrees``: the other mean lies within the range, or within 10 % of the mean.
        """
        return pd.DataFrame(list(self._pairs()))

    def _pairs(self) -> Iterator[dict[str, Any]]:
        for scenario in self.scenarios:
            for metric in METRICS:
                others = self.values(self.other, scenario, metric)
                for algorithm, values in self.values(self.one, scenario, metric).items():
                    against = others[algorithm]
                    difference = float(against.mean() - values.mean())
                    reach = _welch_reach(values, against)
                    agrees = values.min() <= against.mean() <= values.max()
                    yield {
                        "scenario": scenario, "algorithm": algorithm, "metric": metric,
                        "mean": float(values.mean()), "sd": _sd(values), "low": float(values.min()),
                        "high": float(values.max()), "runs": len(values),
                        "other_mean": float(against.mean()), "other_sd": _sd(against), "other_runs": len(against),
                        "difference": difference, "difference_low": difference - reach,
                        "difference_high": difference + reach,
                        "agrees": bool(agrees or abs(difference) <= NEAR * abs(values.mean())),
                    }  # fmt: skip

    @cached_property
    def correlations(self) -> dict[tuple[str, str], RankCorrelation]:
        """Rank correlation over algorithms by scenario and metric; only where there are repeats and algorithms."""
        found = {}
        for scenario in self.scenarios:
            for metric in METRICS:
                one = self.values(self.one, scenario, metric)
                other = self.values(self.other, scenario, metric)
                if len(one) > 1 and min(map(len, one.values())) > 1:
                    found[scenario, metric] = correlate(list(one.values()), [other[name] for name in one])
        return found

    @cached_property
    def ranks(self) -> pd.DataFrame:
        """One row per scenario and metric, and one for the means of them all.

        Columns: ``tau``, ``halves``, ``stand_in`` and ``gap`` as in :class:`RankCorrelation`, its interval, and
        ``holds``: whether ``gap`` is at least -0.05.
        """
        found = self.correlations
        rows = [
            {"scenario": scenario, "metric": metric, "tau": each.tau, "halves": each.halves,
             "stand_in": each.stand_in, "gap": each.gap, "gap_low": each.gap_interval[0],
             "gap_high": each.gap_interval[1]}
            for (scenario, metric), each in found.items()
        ]  # fmt: skip
        frame = pd.DataFrame(rows, columns=["scenario", "metric", "tau", "halves", "stand_in", "gap", "gap_low",
                                            "gap_high"])  # fmt: skip
        known = frame.dropna(subset=["tau", "halves"])
        if len(known):
            gaps = np.vstack([found[s, m].gaps for s, m in zip(known["scenario"], known["metric"], strict=True)])
            low, high = interval_of(np.nanmean(gaps, axis=0))
            means = known[["tau", "halves", "stand_in", "gap"]].mean()
            frame.loc[len(frame)] = [EVERYTHING, EVERYTHING, *means.tolist(), low, high]
        return frame.assign(holds=frame["gap"] >= -RANK_MARGIN)

    def sentences(self) -> list[str]:
        """Say what came out."""
        one, other = self.sides
        said = []
        for metric in METRICS:
            rows = self.pairs[self.pairs["metric"] == metric]
            apart = rows[~rows["agrees"]]
            names = ", ".join(f"{row.algorithm} ({row.scenario})" for row in apart.itertuples())
            lacking = sorted(set(self.one["algorithm"]) - set(rows["algorithm"]))
            said.append(
                f"{get(metric).title}: the mean of {other} lies within the spread of {one} or 10 % in "
                f"{int(rows['agrees'].sum())} of {len(rows)} pairs" + (f"; not for {names}." if names else ".")
                + (f" It is not defined for {', '.join(lacking)}." if lacking else "")
            )  # fmt: skip
        known = self.pairs.dropna(subset=["difference_low"])
        without = known[(known["difference_low"] > 0) | (known["difference_high"] < 0)]
        said.append(f"Of {len(known)} differences of means {len(without)} have a 95 % interval without 0.")
        whole = self.ranks[self.ranks["scenario"] == EVERYTHING]
        for row in whole.itertuples():
            said.append(
                f"Order of the algorithms: tau-b is {row.tau:.2f} between {one} and {other}, {row.halves:.2f} between "
                f"two halves of {one}'s repeats; the difference is {row.gap:+.2f} "
                f"(95 % interval {row.gap_low:+.2f} to {row.gap_high:+.2f}), wanted {-RANK_MARGIN} or more: "
                + ("reached." if row.holds else "not reached.")
            )
        return said


def _sd(values: FloatArray) -> float:
    return float(values.std(ddof=1)) if len(values) > 1 else float("nan")


def _welch_reach(one: FloatArray, other: FloatArray) -> float:
    """Return half the length of the 95 % interval of a difference of means; NaN for a single run."""
    if len(one) < 2 or len(other) < 2:
        return float("nan")
    first, second = one.var(ddof=1) / len(one), other.var(ddof=1) / len(other)
    if first + second == 0:
        return 0.0
    freedom = (first + second) ** 2 / (first**2 / (len(one) - 1) + second**2 / (len(other) - 1))
    return float(stats.t.ppf(0.975, freedom) * np.sqrt(first + second))


# --- the machine --------------------------------------------------------------------------------------------


def score_lag_seconds(runs: Iterable[LiveRun]) -> float:
    """Measure how old an evaluation of the rules must be for a cycle to see its scores.

    Returns
    -------
    float
        Lab seconds: the age that best tells the cycles that saw the latest evaluation from those that saw the one
        before; 0 where no cycle tells.
    """
    seen = sorted(pair for run in runs for pair in _evaluations_seen(run))
    ages = np.array([age for age, _ in seen])
    latest = np.array([saw for _, saw in seen], dtype=bool)
    if latest.all():
        return 0.0
    wrong = np.concatenate([[0], np.cumsum(latest)]) + np.concatenate([np.cumsum(~latest[::-1])[::-1], [0]])
    place = int(wrong.argmin())
    return float(ages[max(place - 1, 0) : place + 1].mean())


def _evaluations_seen(run: LiveRun) -> Iterator[tuple[float, bool]]:
    """Yield, for each cycle where it can be told, the age of the latest evaluation and whether the cycle saw it."""
    timing = run.record.timing
    if run.policy.evaluation_interval_seconds != SCRAPE_INTERVAL_SECONDS or "scrape_phase_seconds" not in timing:
        return
    phase = timing["scrape_phase_seconds"] + timing.get("rule_lag_seconds", 0.0)
    scores = run.tables["nodes"].pivot(index="time_seconds", columns="node", values="score")
    percent = (scores * 100).apply(np.trunc)
    for time, cycle in _by_cycle(run):
        age = (time - phase) % SCRAPE_INTERVAL_SECONDS
        # The table's sample after an evaluation is that evaluation's.
        samples = np.ceil((time - age) / SCRAPE_INTERVAL_SECONDS - np.array([0, 1])) * SCRAPE_INTERVAL_SECONDS
        if not np.isin(samples, percent.index).all():
            continue
        used = cycle.set_index("node")["usage_percent"].sort_index()
        latest, before = (percent.loc[sample].reindex(used.index).equals(used) for sample in samples)
        if latest != before:
            yield age, bool(latest)


def _by_cycle(run: LiveRun) -> Iterator[tuple[float, pd.DataFrame]]:
    cycles = run.tables["cycles"]
    for time in run.cycle_times_seconds:
        yield time, cycles[cycles["time_seconds"] == time]


# --- part by part ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Checks:
    """Decisions of live runs against what the twin's parts would have decided in the same state.

    Parameters
    ----------
    classified, same_class : int
        Nodes in cycles, and those whose class and thresholds are the twin's for the scores that the cycle saw.
    placed, expected_target : int
        Migration targets that the real scheduler chose, and those among the twin's highest-scoring nodes at some
        instant between the request and the start of the copy.
    cycles, crowded : int
        Cycles, and those that asked for more VMs than the limit: what has ended in the meantime counts no more. The
        twin decides a cycle at one instant and never does so.
    under_way : int
        The largest number of VMs that were asked to leave and had not arrived, which the limit is about.
    """

    classified: int
    same_class: int
    placed: int
    expected_target: int
    cycles: int
    crowded: int
    under_way: int


def check(runs: Sequence[LiveRun]) -> Checks:
    """Compare live decisions with the twin's parts, run by run."""
    counts = np.sum([(*_same_classes(run), *_expected_targets(run), *_crowded_cycles(run)) for run in runs], axis=0)
    classified, same_class, placed, expected_target, cycles, crowded = counts.tolist()
    most = max(_most_under_way(run) for run in runs)
    return Checks(classified, same_class, placed, expected_target, cycles, crowded, most)


def _same_classes(run: LiveRun) -> tuple[int, int]:
    thresholds = run.policy.thresholds
    total, same = 0, 0
    for _, cycle in _by_cycle(run):
        # Half a point is added because the log has whole percent, and 29 / 100 * 100 is less than 29.
        found = classify(np.minimum((cycle["usage_percent"].to_numpy(float) + 0.5) / 100, 1.0), thresholds)
        low = np.isclose(cycle["low"].to_numpy(float), found.low)
        high = np.isclose(cycle["high"].to_numpy(float), found.high)
        total += len(cycle)
        same += int((low & high & (cycle["class"].to_numpy(str) == np.array(found.classes, dtype=str))).sum())
    return total, same


def _expected_targets(run: LiveRun) -> tuple[int, int]:
    """Count migrations, and those whose target was best at some instant between their request and their start."""
    expansion = run.scenario.expand(run.record.seed)
    if expansion.events:
        return 0, 0  # what a timeline did to nodes is not in the tables
    requests = {vm.name: PodRequest.of(vm) for vm in expansion.all_vms}
    number = {node.name: index for index, node in enumerate(expansion.nodes)}
    moves = run.tables["migrations"].dropna(subset=["started_seconds"])
    expected = 0
    for move in moves.itertuples():
        request, source, target = requests[str(move.vm)], number[str(move.source)], number[str(move.target)]
        expected += any(
            target in top_scored(table, request, (source,)) for table in _states(run, move, number, requests)
        )
    return len(moves), expected


def _crowded_cycles(run: LiveRun) -> tuple[int, int]:
    """Count cycles, and those with more requests than the limit."""
    asked = np.searchsorted(run.cycle_times_seconds, run.tables["migrations"]["requested_seconds"], side="right")
    crowded = np.bincount(asked, minlength=1) > run.policy.evictions_total
    return len(run.cycle_times_seconds), int(crowded.sum())


def _most_under_way(run: LiveRun) -> int:
    moves = run.tables["migrations"]
    asked, ended = moves["requested_seconds"].to_numpy(float), moves["ended_seconds"].fillna(np.inf).to_numpy(float)
    return max((int(((asked <= time) & (ended > time)).sum()) for time in asked), default=0)


def _states(
    run: LiveRun, move: Any, number: Mapping[str, int], requests: Mapping[str, PodRequest]
) -> Iterator[NodeTable]:
    """Yield what was bound to the nodes while a migration waited for its target.

    The target of another migration was bound between its request and its start; both ends are tried.
    """
    placed = run.tables["placement"]
    others = run.tables["migrations"].dropna(subset=["started_seconds"])
    others = others[others.index != move.Index]
    changes = np.concatenate([placed["time_seconds"], others["requested_seconds"], others["started_seconds"]])
    waited = changes[(changes > move.requested_seconds) & (changes < move.started_seconds)]
    for instant in (move.requested_seconds, *np.unique(waited).tolist(), move.started_seconds):
        home = placed[placed["time_seconds"] <= instant].groupby("vm")["node"].last()
        for bound in ("started_seconds", "requested_seconds"):
            table = NodeTable(run.scenario.expand(run.record.seed).nodes)
            under_way = others[(others[bound] <= instant) & ~(others["ended_seconds"] <= instant)]
            for vm, node in (*home.items(), *zip(under_way["vm"], under_way["target"], strict=True)):
                if node:
                    table.bind(number[str(node)], requests[str(vm)])
            yield table


# --- in words --------------------------------------------------------------------------------------------


def number(value: float, metric: Metric) -> str:
    """Write a value of a metric."""
    if np.isnan(value):
        return "–"
    return (
        f"{value:.3f}" if "stddev" in metric.name else f"{value:.1f}" if metric.name == "migrations" else f"{value:.0f}"
    )


def pair_rows(found: Fidelity, scenario: str, metric: str) -> list[tuple[str, ...]]:
    """Return one row per algorithm: name, live mean, SD, range, other mean, SD, difference, whether they agree."""
    what = get(metric)
    frame = found.pairs[(found.pairs["scenario"] == scenario) & (found.pairs["metric"] == metric)]
    return [
        (
            row["algorithm"], number(row["mean"], what), number(row["sd"], what),
            f"{number(row['low'], what)} to {number(row['high'], what)}", number(row["other_mean"], what),
            number(row["other_sd"], what), _signed(row["difference"], what), "yes" if row["agrees"] else "no",
        )
        for row in _records(frame)
    ]  # fmt: skip


def conditions(runs: Sequence[LiveRun]) -> list[str]:
    """Say what was compared, under which conditions, and what the parts decided in the same state."""
    records = [run.record for run in runs]
    tempos = sorted({record.tempo for record in records})
    minutes = sorted({round(record.duration_seconds / 60) for record in records})
    late = [run for run in runs if run.missed_cycles]
    walls = [float(record.summary["wall_seconds"]) for record in records if record.summary.get("wall_seconds")]
    starts = [record.timing["start_seconds"] for record in records if "start_seconds" in record.timing]
    said = [
        f"{len(runs)} runs on {', '.join(sorted({record.backend for record in records}))}: "
        f"{len({run.treatment for run in runs})} algorithms, {len({record.scenario for record in records})} scenarios, "
        f"{max(run.repeat for run in runs)} repeats, {' and '.join(map(str, minutes))} lab minutes at tempo "
        f"{' and '.join(map(str, tempos))}"
        + (f"; a run took {np.median(walls):.0f} s (median), {max(walls):.0f} s at most." if walls else "."),
        f"{len(late)} runs missed cycles of the descheduler, {sum(run.missed_cycles for run in late)} in all, because "
        "the machine was too slow"
        + (f"; from request to copy it took {np.median(starts):.1f} lab seconds (median of the runs), "
           f"{max(starts):.1f} in the slowest." if starts else "."),
        f"A cycle saw the scores of an evaluation that was at least {score_lag_seconds(runs):.2f} lab seconds old.",
    ]  # fmt: skip
    found = check(runs)
    said.append(
        f"Classes and thresholds of {found.same_class} of {found.classified} nodes in cycles were the twin's for the "
        f"same scores; {found.expected_target} of {found.placed} migration targets were among its best nodes."
    )
    said.append(
        f"{found.crowded} of {found.cycles} cycles asked for more VMs than the limit of a cycle, since some had "
        f"arrived before the last were asked; at most {found.under_way} were under way at once."
    )
    return said


def as_json(found: Fidelity) -> str:
    """Return pairs and rank correlations as JSON: ``{"sides": …, "pairs": […], "ranks": […]}``, null for no value."""
    parts = {name: json.loads(frame.to_json(orient="records")) for name, frame in
             (("pairs", found.pairs), ("ranks", found.ranks))}  # fmt: skip
    return json.dumps({"sides": found.sides, **parts}, indent=2)


def markdown(found: Fidelity) -> str:
    """Return the comparison as Markdown: sentences and tables."""
    return "\n".join([*(f"- {sentence}" for sentence in found.sentences()), "", tables(found)])


def tables(found: Fidelity) -> str:
    """Return one table per scenario and metric, and one of rank correlations, as Markdown."""
    one, other = found.sides
    lines: list[str] = []
    for scenario in found.scenarios:
        for metric in METRICS:
            unit = get(metric).unit
            lines += [f"**{scenario}: {get(metric).title.lower()}**" + (f" ({unit})" if unit else ""), ""]
            head = ("algorithm", one, "SD", "range", other, "SD", "difference", "agrees")
            lines += _table(head, pair_rows(found, scenario, metric))
    lines += ["**Rank correlation (tau-b) over algorithms**", ""]
    head = ("scenario", "metric", f"{one}, {other}", f"halves of {one}", f"half of {one}, {other}", "difference",
            "95 % interval", "reached")  # fmt: skip
    rows = [
        (
            row["scenario"], "all" if row["metric"] == EVERYTHING else get(row["metric"]).title.lower(),
            _tau(row["tau"]), _tau(row["halves"]), _tau(row["stand_in"]), _tau(row["gap"], "+"),
            f"{_tau(row['gap_low'], '+')} to {_tau(row['gap_high'], '+')}",
            "–" if np.isnan(row["gap"]) else "yes" if row["holds"] else "no",
        )
        for row in _records(found.ranks)
    ]  # fmt: skip
    return "\n".join([*lines, *_table(head, rows)])


def _records(frame: pd.DataFrame) -> list[dict[str, Any]]:
    return [{str(name): value for name, value in row.items()} for row in frame.to_dict("records")]


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    right = ["---" if place == 0 else "---:" for place in range(len(head))]
    return [f"| {' | '.join(cells)} |" for cells in (head, right, *rows)] + [""]


def _signed(value: float, metric: Metric) -> str:
    text = number(abs(value), metric)
    return text if float(text or 0) == 0 else ("+" if value > 0 else "-") + text


def _tau(value: float, sign: str = "") -> str:
    return "–" if np.isnan(value) else f"{value:{sign}.2f}"
