"""Read the load of one evaluation from Prometheus and score it.

A snapshot is consistent: all its values were recorded by the same evaluation of the rules. The last load record that
an evaluation writes tells its time; at that instant the records before it are there, too, and a node that has gone
has its staleness marker.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Protocol

import numpy as np

from labkit import scoring
from labkit.errors import InputError
from labkit.model import Snapshot
from labkit.names import DIMENSIONS, NODE_LABEL
from labkit.prometheus import Sample
from labkit.scoring import FORM_RECORDS, FORMS, Algorithm, Form, user

logger = logging.getLogger(__name__)

BUILT_IN: Final = tuple(each for each in scoring.NINETEEN if each.computed_by == "scorer")


class Queries(Protocol):
    """What the scorer needs of Prometheus."""

    def query(self, promql: str, time: float | None = None) -> list[Sample]:
        """Evaluate an expression at one instant."""


@dataclass(frozen=True)
class Reading:
    """The load of the nodes as one evaluation recorded it.

    Parameters
    ----------
    time_seconds : float
        When the evaluation was, in seconds since 1970.
    snapshot : Snapshot
        The nodes that have all four records.
    """

    time_seconds: float
    snapshot: Snapshot


def read(prometheus: Queries, form: Form) -> Reading | None:
    """Read the newest complete evaluation.

    Returns
    -------
    Reading or None
        None while there are no records, or the newest have gone stale.
    """
    records = FORM_RECORDS[form]
    newest = prometheus.query(f"max(timestamp({records[DIMENSIONS[-1]]}))")
    if not newest:
        return None
    time_seconds = newest[0].value
    samples = prometheus.query(f'{{__name__=~"{"|".join(records.values())}"}}', time_seconds)
    dimension_of = {record: dimension for dimension, record in records.items()}
    loads: dict[str, dict[str, float]] = {}
    for sample in samples:
        node, dimension = sample.labels.get(NODE_LABEL), dimension_of[sample.labels["__name__"]]
        if node is not None:
            loads.setdefault(node, {})[dimension] = sample.value
    complete = {node: load for node, load in loads.items() if len(load) == len(DIMENSIONS)}
    values = np.array([[load[dimension] for dimension in DIMENSIONS] for load in complete.values()])
    return Reading(time_seconds, Snapshot.of(list(complete), values.reshape(len(complete), len(DIMENSIONS))))


@dataclass
class Scorer:
    """Scores of the newest readings, computed once per evaluation of the rules.

    Parameters
    ----------
    prometheus : Queries
        Where the load records are.
    """

    prometheus: Queries
    failures: dict[str, int] = field(default_factory=dict)
    """How often each user's algorithm has failed."""
    readings: dict[Form, Reading] = field(default_factory=dict)
    """What the newest scores were computed from."""
    _own: tuple[Algorithm, ...] = ()
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _known: dict[tuple[str, Form], tuple[Reading, Mapping[str, float]]] = field(default_factory=dict)

    def install(self, files: Mapping[str, str]) -> None:
        """Take users' Python files, by name, instead of those before; a broken one is logged and left out."""
        own: list[Algorithm] = []
        taken = {each.name for each in scoring.BUILT_IN}
        for name, text in sorted(files.items()):
            try:
                found = user.load_text(Path(name), text, taken=taken)
            except InputError as error:
                logger.warning("left out: %s", error)
                continue
            own.extend(found)
            taken |= {each.name for each in found}
        with self._lock:
            self._own = tuple(own)
            self._known.clear()
        logger.info("algorithms: %s", ", ".join(each.name for each in (*BUILT_IN, *own)))

    @property
    def algorithms(self) -> Sequence[Algorithm]:
        """What is computed."""
        return (*BUILT_IN, *self._own)

    def scores(self) -> dict[tuple[str, Form], Mapping[str, float]]:
        """Return score by node, for each algorithm and form.

        A user's algorithm that fails, or yields what the descheduler would refuse, is left out as a whole: half of its
        scores would look like nodes that had none.

        Raises
        ------
        PrometheusError
            If Prometheus does not answer.
        """
        readings = {form: reading for form in FORMS if (reading := read(self.prometheus, form)) is not None}
        answers: dict[tuple[str, Form], Mapping[str, float]] = {}
        with self._lock:
            self.readings = readings
            for algorithm in self.algorithms:
                for form, reading in readings.items():
                    if form in algorithm.records:
                        values = self._of(algorithm, form, reading)
                        if values is not None:
                            answers[algorithm.name, form] = values
        return answers

    def _of(self, algorithm: Algorithm, form: Form, reading: Reading) -> Mapping[str, float] | None:
        known = self._known.get((algorithm.name, form))
        if known is not None and known[0].time_seconds == reading.time_seconds:
            return known[1]
        try:
            values = algorithm.score(reading.snapshot)
            wrong = np.flatnonzero(~((values >= 0.0) & (values <= 1.0)))
            if len(wrong):
                node = reading.snapshot.nodes[wrong[0]]
                raise InputError(f"{algorithm.name}: wanted scores in [0, 1], found {values[wrong[0]]} for {node}")
        except InputError as error:
            count = self.failures.get(algorithm.name, 0)
            self.failures[algorithm.name] = count + 1
            if count == 0:
                logger.warning("%s", error)
            return None
        scores = dict(zip(reading.snapshot.nodes, values.tolist(), strict=True))
        self._known[algorithm.name, form] = (reading, scores)
        return scores
