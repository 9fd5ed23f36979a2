"""Write the table of ``docs/metrics.md``: the numbers of a run by which an experiment can be judged."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from labkit.analysis.metrics import METRICS, Metric
from tools.algorithm_tables import rendered, table
from tools.generated import ROOT, write_or_check

DOCUMENT: Final = ROOT / "docs" / "metrics.md"


def metrics() -> str:
    """Return the table of all metrics."""
    rows = ((f"`{each.name}`", _meaning(each), each.better) for each in METRICS.values())
    return table(("key", "meaning", "better"), rows)


def _meaning(metric: Metric) -> str:
    return f"{metric.title}: {metric.unit}" if metric.unit else metric.title


def document() -> dict[Path, str]:
    """Return the document and what it should hold."""
    return {DOCUMENT: rendered(DOCUMENT.read_text(encoding="utf-8"), {"metrics": metrics()})}


def main(argv: Sequence[str] | None = None) -> int:
    """Write the document, or tell whether it is as it would be written."""
    return write_or_check(__doc__, document, argv)


if __name__ == "__main__":
    sys.exit(main())
