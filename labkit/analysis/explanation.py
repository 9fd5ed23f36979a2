"""Why a VM moved: what the descheduler saw, whom it could ask, and where the scheduler could put the VM."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from labkit import placement, scoring
from labkit.analysis.tables import OVERUTILIZED, Tables
from labkit.errors import InputError
from labkit.experiment import BASELINES
from labkit.model import Snapshot
from labkit.names import DIMENSIONS
from labkit.scenario import Scenario
from labkit.scoring.explain import contributions


@dataclass(frozen=True)
class Explanation:
    """What is known about one migration.

    Parameters
    ----------
    migration : dict
        Its row of the table ``migrations``.
    nodes : DataFrame
        One row per node at the deciding cycle: node, the four loads, score, ``usage_percent``, ``class``, and
        ``part_<dimension>``, what each dimension contributes to the score (missing where a score has no such parts).
    low, high : float or None
        Thresholds of that cycle, percent; None where no cycle came before.
    cycle_seconds : float or None
        When it was.
    candidates : list of str
        VMs that were on the source then, the moved one included; the descheduler chooses among equals by chance.
    options : DataFrame or None
        Where the scheduler could put the VM: node, ``fits``, ``scheduler_score`` (missing where it does not fit);
        None where the scenario does not know the VM from the start.
    """

    migration: dict[str, Any]
    nodes: pd.DataFrame
    low: float | None
    high: float | None
    cycle_seconds: float | None
    candidates: list[str]
    options: pd.DataFrame | None


def explain(
    tables: Tables, number: int, *, algorithm: str, scenario: Scenario | None = None, seed: int | None = None
) -> Explanation:
    """Explain a migration of a run.

    Parameters
    ----------
    tables : mapping of str to DataFrame
        Of the run.
    number : int
        Of the migration, from 1, in the order of requests.
    algorithm : str
        The run's.
    scenario : Scenario, optional
        What was played; without it nothing is said about the scheduler.
    seed : int, optional
        The run's.

    Raises
    ------
    InputError
        If the run has no such migration.

    Notes
    -----
    What the scheduler saw is rebuilt from the placement at the request, with the targets of migrations under way; a
    VM that was created or resized during the run is counted as the scenario has it at the start.
    """
    moves = tables["migrations"].sort_values(["requested_seconds", "vm"], kind="stable")
    if not 1 <= number <= len(moves):
        raise InputError(f"wanted --migration from 1 to {len(moves)}, the run's migrations; found {number}")
    row = {str(name): value for name, value in moves.iloc[number - 1].items()}
    requested, vm, source = float(row["requested_seconds"]), str(row["vm"]), str(row["source"])
    cycles = tables["cycles"][tables["cycles"]["time_seconds"] <= requested]
    cycle_at = float(cycles["time_seconds"].max()) if len(cycles) else None
    cycle = cycles[cycles["time_seconds"] == cycle_at].set_index("node")
    where = placement_at(tables["placement"], requested)
    return Explanation(
        migration=row,
        nodes=_nodes(tables["nodes"], cycle, requested if cycle_at is None else cycle_at, algorithm),
        low=float(cycle["low"].iloc[0]) if len(cycle) else None,
        high=float(cycle["high"].iloc[0]) if len(cycle) else None,
        cycle_seconds=cycle_at,
        candidates=sorted(name for name, node in where.items() if node == source),
        options=None if scenario is None else _options(scenario, seed, vm, source, where, moves, requested),
    )


def placement_at(changes: pd.DataFrame, time_seconds: float) -> dict[str, str]:
    """Return where each VM is at an instant; VMs that are gone or nowhere are left out."""
    past = changes[changes["time_seconds"] <= time_seconds].sort_values("time_seconds", kind="stable")
    latest = past.drop_duplicates("vm", keep="last")
    return {vm: node for vm, node in zip(latest["vm"], latest["node"], strict=True) if node}


def _nodes(nodes: pd.DataFrame, cycle: pd.DataFrame, time_seconds: float, algorithm: str) -> pd.DataFrame:
    past = nodes[nodes["time_seconds"] <= time_seconds].sort_values("time_seconds", kind="stable")
    latest = past.drop_duplicates("node", keep="last").sort_values("node")
    frame = latest[["node", *DIMENSIONS, "score"]].set_index("node")
    frame = frame.join(cycle[["usage_percent", "class"]]).reset_index()
    if algorithm in BASELINES or frame[list(DIMENSIONS)].isna().to_numpy().any() or frame.empty:
        return frame
    snapshot = Snapshot.of(frame["node"].tolist(), frame[list(DIMENSIONS)].to_numpy(np.float64).clip(0.0, 1.0))
    parts = contributions(scoring.get(algorithm).name, snapshot, frame["score"].fillna(0.0).to_numpy(np.float64))
    if parts is None:
        return frame
    return frame.assign(**{f"part_{name}": parts[:, index] for index, name in enumerate(DIMENSIONS)})


def _options(
    scenario: Scenario,
    seed: int | None,
    vm: str,
    source: str,
    where: dict[str, str],
    moves: pd.DataFrame,
    requested: float,
) -> pd.DataFrame | None:
    nodes = list(scenario.nodes())
    requests = {each.name: placement.PodRequest.of(each) for each in scenario.vms(seed)}
    if vm not in requests:
        return None
    place = {node.name: index for index, node in enumerate(nodes)}
    table = placement.NodeTable(nodes)
    for name, node in where.items():
        if name in requests and node in place:
            table.bind(place[node], requests[name])
    under_way = moves[(moves["requested_seconds"] < requested) & ~(moves["ended_seconds"] <= requested)]
    for name, target in zip(under_way["vm"], under_way["target"], strict=True):
        if name in requests and target in place:
            table.bind(place[target], requests[name])
    fits = placement.feasible(table, requests[vm], [place[source]] if source in place else [])
    chosen = np.flatnonzero(fits)
    score = pd.Series(placement.scores(table, requests[vm], chosen), index=chosen, dtype="Int64")
    everywhere = score.reindex(range(len(nodes)))
    return pd.DataFrame({"node": [node.name for node in nodes], "fits": fits, "scheduler_score": everywhere})


def sentences(found: Explanation) -> list[str]:
    """Say in a few sentences why the VM moved and why it went where it did."""
    row = found.migration
    vm, source, target = row["vm"], str(row["source"]), str(row["target"])
    ended = row["ended_seconds"]
    end = "did not end" if pd.isna(ended) else f"ended at {ended:.0f} s: {row['outcome']}"
    lines = [f"{vm} was asked to leave {source} at {row['requested_seconds']:.0f} s and {end}."]
    at_source = found.nodes[found.nodes["node"] == source]
    if found.cycle_seconds is None or at_source.empty or pd.isna(at_source["usage_percent"].iloc[0]):
        lines.append("No descheduling cycle came before: something else asked for it.")
    else:
        percent, kind = float(at_source["usage_percent"].iloc[0]), at_source["class"].iloc[0]
        lines.append(
            f"The cycle at {found.cycle_seconds:.0f} s saw {source} at {percent:.0f}, "
            + (f"above its threshold of {found.high:.1f}" if kind == OVERUTILIZED else f"which it called {kind}")
            + f"; below {found.low:.1f} a node counts as underutilized."
        )
        parts = {name: float(at_source[f"part_{name}"].iloc[0]) for name in DIMENSIONS if f"part_{name}" in at_source}
        total = sum(parts.values())
        if total > 0:
            shares = sorted(parts.items(), key=lambda item: -item[1])
            text = ", ".join(
                f"{name.replace('_', ' ')} {100 * part / total:.0f} %" for name, part in shares if part > 0
            )
            lines.append(f"Its score came from {text}.")
    others = len(found.candidates) - 1
    if others > 0:
        were = "other VM was" if others == 1 else "other VMs were"
        lines.append(f"{others} {were} on {source}; the descheduler takes the first it may evict among equals.")
    lines += _destination(found, target)
    return lines


def _destination(found: Explanation, target: str) -> list[str]:
    if found.options is None:
        return [f"It went to {target}; what the scheduler could choose from is not known for this VM."]
    fitting = found.options[found.options["fits"]].sort_values("scheduler_score", ascending=False)
    if fitting.empty:
        return ["No node had room for it."]
    best = fitting[fitting["scheduler_score"] == fitting["scheduler_score"].iloc[0]]["node"].tolist()
    if target in best:
        tie = f", equal with {', '.join(name for name in best if name != target)}" if len(best) > 1 else ""
        return [f"The scheduler could choose among {len(fitting)} nodes and gave {target} its highest score{tie}."]
    rank = int((fitting["node"] == target).to_numpy().argmax()) + 1 if target in set(fitting["node"]) else None
    text = f"place {rank}" if rank else "not among them as far as the tables tell"
    return [
        f"The scheduler could choose among {len(fitting)} nodes, best {', '.join(best)}; {target} was {text}: "
        "pods that came or went at that moment decide such cases."
    ]
