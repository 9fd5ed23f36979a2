"""From tables to numbers: pure, without files, plots or clusters.

``tables`` reads a run's tables as arrays; ``imbalance``, ``convergence``, ``hotspots`` and ``movement`` hold the
metrics of one run; :func:`summarize` is the only place that computes a run's summary.
"""

from labkit.analysis.curves import imbalance_curves, migration_curves
from labkit.analysis.summary import Summary, summarize
from labkit.analysis.tables import COLUMNS, NodeSeries, Tables, conform, conform_all, empty, finished

__all__ = [
    "COLUMNS",
    "NodeSeries",
    "Summary",
    "Tables",
    "conform",
    "conform_all",
    "empty",
    "finished",
    "imbalance_curves",
    "migration_curves",
    "summarize",
]
