"""The scorer's HTTP pages."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest

from labkit.clock import WALL_CLOCK
from labkit.errors import PrometheusError
from labkit.scoring import SCORER_METRIC, Form
from labkit.service import HEALTH, METRICS, TEXT_FORMAT, Page, health, site
from services.scorer.logic import Scorer

if TYPE_CHECKING:
    from wsgiref.types import WSGIApplication

logger = logging.getLogger(__name__)


def create_app(scorer: Scorer) -> WSGIApplication:
    """Build the WSGI application over a scorer.

    Notes
    -----
    Scores are computed when ``/metrics`` is asked for, so they are never older than the scrape that carries them.
    Without an answer from Prometheus the page has no scores, and says so: old ones would keep a node's score alive.
    """
    own = CollectorRegistry()
    ProcessCollector(registry=own)

    def scores_page() -> Page:
        start = WALL_CLOCK.monotonic()
        try:
            scores, answered = scorer.scores(), True
        except PrometheusError as error:
            logger.warning("%s", error)
            scores, answered = {}, False
        lines = [*_scores(scores), *_about(scorer, answered=answered, seconds=WALL_CLOCK.monotonic() - start)]
        return Page("\n".join(lines).encode() + b"\n" + generate_latest(own), TEXT_FORMAT)

    return site({HEALTH: health(lambda: True), METRICS: scores_page})


def _scores(scores: Mapping[tuple[str, Form], Mapping[str, float]]) -> Iterator[str]:
    yield f"# HELP {SCORER_METRIC} Score of a node by an algorithm that no rule computes, 0 to 1."
    yield f"# TYPE {SCORER_METRIC} gauge"
    for (algorithm, form), values in scores.items():
        for node, value in values.items():
            yield f'{SCORER_METRIC}{{algorithm="{algorithm}",form="{form}",instance="{node}"}} {value!r}'


def _about(scorer: Scorer, *, answered: bool, seconds: float) -> Iterator[str]:
    yield "# HELP lab_scorer_prometheus_up Whether Prometheus answered this time."
    yield "# TYPE lab_scorer_prometheus_up gauge"
    yield f"lab_scorer_prometheus_up {int(answered)}"
    yield "# HELP lab_scorer_duration_seconds How long reading and scoring took this time."
    yield "# TYPE lab_scorer_duration_seconds gauge"
    yield f"lab_scorer_duration_seconds {seconds:.6f}"
    yield "# HELP lab_scorer_snapshot_timestamp_seconds Evaluation of the rules that was scored, seconds since 1970."
    yield "# TYPE lab_scorer_snapshot_timestamp_seconds gauge"
    for form, reading in scorer.readings.items():
        yield f'lab_scorer_snapshot_timestamp_seconds{{form="{form}"}} {reading.time_seconds:.3f}'
    yield "# HELP lab_scorer_failures_total Evaluations in which a user's algorithm failed or left [0, 1]."
    yield "# TYPE lab_scorer_failures_total counter"
    for algorithm, count in scorer.failures.items():
        yield f'lab_scorer_failures_total{{algorithm="{algorithm}"}} {count}'
