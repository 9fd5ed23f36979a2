"""Whether an algorithm is fit for the descheduler, found out by trying it.

The descheduler refuses a cycle in which a node has no score, or one outside [0, 1]; it acts on whole points above the
mean. :func:`examine` tries an algorithm on clusters of every shape and raises what the descheduler would refuse; what
it would accept and a user should know comes back as notes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from labkit import engines
from labkit.clock import WALL_CLOCK
from labkit.errors import InputError, RuleError
from labkit.load import pressure
from labkit.model import FloatArray, Snapshot
from labkit.scoring import Algorithm

LARGE_CLUSTER: Final = 1000
RANDOM_CLUSTERS: Final = 40
ORDINARY_CLUSTERS: Final = 20
POINT: Final = 0.01
"""The descheduler's resolution."""


@dataclass(frozen=True)
class Fitness:
    """What was found out about an algorithm that is fit.

    Parameters
    ----------
    clusters : int
        How many clusters it was tried on.
    seconds : float
        Time of one evaluation at 1,000 nodes, in the engine that computes it here: the compiled rules, with those
        they depend on, or the Python function.
    notes : tuple of str
        What a user should know.
    """

    clusters: int
    seconds: float
    notes: tuple[str, ...]


def clusters() -> Iterator[tuple[str, Snapshot]]:
    """Yield clusters, with what they are: worked examples, corner cases, random ones with ties, zeros and ones."""
    yield "three uneven nodes", _cluster([(0.9, 0.3, 0.6, 0.0), (0.5, 0.0, 0.4, 0.1), (0.1, 0.0, 0.2, 0.2)])
    yield "one full and two idle nodes", _cluster([(1.0,) * 4, (0.0,) * 4, (0.0,) * 4])
    yield "one node", _cluster([(0.5, 0.1, 0.4, 0.0)])
    yield "equal nodes", _cluster([(0.3, 0.1, 0.7, 0.05)] * 7)
    yield "an idle cluster", _cluster([(0.0,) * 4] * 4)
    yield "a full cluster", _cluster([(1.0,) * 4] * 4)
    rng = np.random.default_rng(20)
    for number in range(RANDOM_CLUSTERS):
        load = np.round(rng.random((int(rng.integers(2, 40)), 4)), 4)
        load[rng.random(load.shape) < 0.1] = 0.0
        load[rng.random(load.shape) < 0.1] = 1.0
        load[rng.random(len(load)) < 0.2] = load[0]
        yield f"random cluster {number}", _cluster(load)


def ordinary_clusters(count: int) -> Iterator[Snapshot]:
    """Yield clusters of ten nodes as one meets them: use around one half, spread 0.12, and the pressure it causes."""
    rng = np.random.default_rng(7)
    for _ in range(count):
        usage = np.clip(rng.normal(0.5, 0.12, (10, 2)), 0.0, 1.0).round(4)
        cpu_pressure, memory_pressure = pressure(usage).round(4).T
        yield _cluster(np.stack([usage[:, 0], cpu_pressure, usage[:, 1], memory_pressure], axis=1))


def examine(algorithm: Algorithm) -> Fitness:
    """Try an algorithm.

    Raises
    ------
    InputError
        What the descheduler would refuse, and in which cluster.
    """
    engine: engines.Engine = "reference" if algorithm.computed_by == "scorer" else "promql"
    ordinary = [("an ordinary cluster", snapshot) for snapshot in ordinary_clusters(ORDINARY_CLUSTERS)]
    tried: list[tuple[Snapshot, FloatArray]] = []
    for form in algorithm.records:
        for what, snapshot in (*clusters(), *ordinary):
            try:
                found = engines.scores([algorithm], snapshot, engine=engine, form=form)[algorithm.name]
            except InputError as error:
                raise type(error)(f"{error} (tried on {what})") from error
            tried.append((snapshot, np.array([found[node] for node in snapshot.nodes])))
    _same_under_renaming(algorithm, engine)
    return Fitness(len(tried), _seconds(algorithm), tuple(_notes(tried[-len(ordinary) :])))


def _cluster(load: FloatArray | list[tuple[float, ...]]) -> Snapshot:
    return Snapshot.of([f"node-{index:04d}" for index in range(len(load))], np.asarray(load, dtype=np.float64))


def _same_under_renaming(algorithm: Algorithm, engine: engines.Engine) -> None:
    """Refuse scores that hang on the nodes' names rather than on their loads."""
    load = np.round(np.random.default_rng(5).random((9, 4)), 4)
    straight = engines.scores([algorithm], _cluster(load), engine=engine)[algorithm.name]
    turned = engines.scores([algorithm], _cluster(load[::-1].copy()), engine=engine)[algorithm.name]
    for (node, value), other in zip(straight.items(), reversed(turned.values()), strict=True):
        if abs(value - other) > 1e-9:
            raise RuleError(
                f"{algorithm.file or algorithm.name}: wanted the score of a node to follow from loads alone, found "
                f"{value:g} for {node} and {other:g} for a node of another name with the same loads"
            )


def _seconds(algorithm: Algorithm) -> float:
    snapshot = _cluster(np.random.default_rng(1).random((LARGE_CLUSTER, 4)))
    if algorithm.computed_by == "rule":
        return engines.evaluation_seconds(algorithm, snapshot)
    algorithm.score(snapshot)
    start = WALL_CLOCK.monotonic()
    algorithm.score(snapshot)
    return WALL_CLOCK.monotonic() - start


@dataclass(frozen=True)
class Behaviour:
    """What an algorithm's scores did on uneven clusters.

    Parameters
    ----------
    uneven : int
        Clusters of three or more nodes in which scores differed.
    ten_points : int
        Those in which a node was at least ten points above the mean score.
    idle_above : int
        Those in which the least loaded node was above the mean score.
    always_one : bool
        Whether some node had 1 in each of them.
    """

    uneven: int
    ten_points: int
    idle_above: int
    always_one: bool


def behaviour(tried: Sequence[tuple[Snapshot, FloatArray]]) -> Behaviour:
    """Count what scores did; ``tried`` are clusters and their scores."""
    uneven = [(snapshot, score) for snapshot, score in tried if len(score) >= 3 and np.ptp(score) > 0.0]
    return Behaviour(
        len(uneven),
        sum(bool(np.any(score >= score.mean() + 0.1)) for _, score in uneven),
        sum(bool(score[snapshot.load_ratio.sum(axis=1).argmin()] > score.mean() + POINT) for snapshot, score in uneven),
        all(score.max() == 1.0 for _, score in uneven),
    )


def _notes(tried: Sequence[tuple[Snapshot, FloatArray]]) -> Iterator[str]:
    seen = behaviour(tried)
    if not seen.uneven:
        yield "every node of a cluster always has the same score: the descheduler will never act on it"
        return
    if seen.always_one:
        yield "the most loaded node always has 1, so a nearly balanced cluster looks like an uneven one"
    if seen.ten_points < seen.uneven / 2:
        yield (
            f"a node was ten points above the mean in only {seen.ten_points} of {seen.uneven} uneven clusters: "
            "use smaller thresholds or amplify it"
        )
    if seen.idle_above > seen.uneven / 4:
        yield (
            f"the least loaded node was above the mean score in {seen.idle_above} of {seen.uneven} uneven clusters: "
            "the descheduler would evict from idle nodes"
        )
