"""Every pinned version and every version of a file format, once.

``tools/go.mod`` repeats the component versions because Go must read them there; ``tests/test_versions.py``
holds the two together.
"""

from __future__ import annotations

from typing import Final

KUBERNETES: Final = "1.36.3"
ETCD: Final = "3.6.10"
KWOK: Final = "0.8.0"
DESCHEDULER: Final = "0.36.0"
PROMETHEUS: Final = "3.12.0"
KIND: Final = "0.33.0"
"""Of the ``kind`` backend only; built where there is none."""

PROMETHEUS_MODULE: Final = "0.312.0"
"""Prometheus' Go module counts 3.12.0 as v0.312.0."""

RESULTS_API_VERSION: Final = "labkit/v1"
"""Format of ``run.json`` and of the tables beside it."""

SIMULATION_API_VERSION: Final = "v1alpha1"
"""Version of our own custom resources."""
