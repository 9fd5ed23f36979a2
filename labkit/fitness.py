"""Whether an algorithm is fit for the descheduler, found out by trying it.

The descheduler refuses a cycle in which a node has no score, or one outside [0, 1]; it acts on whole points above the
mean. :func:`examine` tries an algorithm on clusters of every shape and raises what the descheduler would refuse; what
it would accept and a user should know comes back as notes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np

from labkit import engines
from labkit.clock import WALL_CLOCK
from labkit.errors import InputError, RuleError
from labkit.model import FloatArray, Snapshot
from labkit.scoring import Algorithm

LARGE_CLUSTER: Final = 1000
RANDOM_CLUSTERS: Final = 40
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


def examine(algorithm: Algorithm) -> Fitness:
    """Try an algorithm.

    Raises
    ------
    InputError
        What the descheduler would refuse, and in which cluster.
    """
    engine: engines.Engine = "reference" if algorithm.computed_by == "scorer" else "promql"
    tried: list[tuple[Snapshot, FloatArray]] = []
    for form in algorithm.records:
        for what, snapshot in clusters():
            try:
                found = engines.scores([algorithm], snapshot, engine=engine, form=form)[algorithm.name]
            except InputError as error:
                raise type(error)(f"{error} (tried on {what})") from error
            tried.append((snapshot, np.array([found[node] for node in snapshot.nodes])))
    _same_under_renaming(algorithm, engine)
    return Fitness(len(tried), _seconds(algorithm), tuple(_notes(tried)))


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


def _notes(tried: list[tuple[Snapshot, FloatArray]]) -> Iterator[str]:
    many = [(snapshot, score) for snapshot, score in tried if len(score) >= 3]
    uneven = [(snapshot, score) for snapshot, score in many if np.ptp(score) > 0.0]
    if not uneven:
        yield "every node of a cluster always has the same score: the descheduler will never act on it"
        return
    if all(score.max() == 1.0 for _, score in uneven):
        yield "the most loaded node always has 1, so a nearly balanced cluster looks like an uneven one"
    reached = sum(bool(np.any(score >= score.mean() + 0.1)) for _, score in uneven)
    if reached < len(uneven) / 2:
        yield (
            f"a node was ten points above the mean in only {reached} of {len(uneven)} uneven clusters: "
            "use smaller thresholds or amplify it"
        )
    idle_first = sum(
        bool(score[snapshot.load_ratio.sum(axis=1).argmin()] > score.mean() + POINT) for snapshot, score in uneven
    )
    if idle_first > len(uneven) / 4:
        yield (
            f"the least loaded node was above the mean score in {idle_first} of {len(uneven)} uneven clusters: "
            "the descheduler would evict from idle nodes"
        )
