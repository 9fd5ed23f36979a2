"""How near ``rate()`` of the exporter's counters comes to the load itself, in the lab that runs now.

Between scrape and rule stand the machine's delays: a counter's value is taken a moment after the instant that
Prometheus notes. ``LABKIT_NAME`` selects the lab; it should have run for five minutes of its time.
"""

from __future__ import annotations

from benchmarks._rows import Row
from labkit import cluster
from labkit.clock import WALL_CLOCK
from labkit.errors import NoSamplesError
from labkit.names import PROMETHEUS_PORT
from labkit.prometheus import Prometheus
from labkit.promql.rewrite import scale_windows

TITLE = "CPU use by rate() over one minute of lab time against the load itself, running lab"
ONLY_WHEN_NAMED = True  # it asks a lab that has run for a while
WALL_SECONDS = 240.0
ERROR = """
abs(
  1 - avg by (instance) (rate(node_cpu_seconds_total{mode="idle"}[1m]))
  - on (instance) avg by (instance) (avg_over_time(node_cpu_usage_ratio[1m]))
)
"""


def measure() -> list[Row]:
    """Compare over the last four minutes of wall time."""
    lab = cluster.find()
    prometheus = Prometheus(lab.url(PROMETHEUS_PORT), timeout=30.0)
    end = WALL_CLOCK.now() - 2.0
    query = scale_windows(ERROR, lab.tempo)
    errors = prometheus.query_range(query, end - WALL_SECONDS, end, 15.0 / lab.tempo)["value"]
    if errors.empty:
        raise NoSamplesError("wanted node metrics in Prometheus, found none: wait a little", query=query)
    return [
        Row(f"error of CPU use, tempo {lab.tempo}, {name} of {len(errors)} samples", (float(value),), unit="")
        for name, value in (("median", errors.median()), ("99 %", errors.quantile(0.99)), ("largest", errors.max()))
    ]
