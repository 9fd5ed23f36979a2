"""Run the soft-tainter until SIGTERM; its taints go with it."""

from __future__ import annotations

import argparse
import logging
import math
import os
import signal
import threading
from types import FrameType

from labkit.clock import WALL_CLOCK
from labkit.errors import KubeError
from labkit.kube import CONFIG_MAPS, NODES, Kube, Store
from labkit.names import (
    DESCHEDULER_NAMESPACE,
    DESCHEDULING_INTERVAL_KEY,
    MONITORING_NAMESPACE,
    NODE_TYPE_KWOK,
    NODE_TYPE_LABEL,
    POLICY_CONFIG_MAP,
    PROMETHEUS_PORT,
    SOFT_TAINTER_PORT,
)
from labkit.prometheus import Prometheus
from labkit.service import begin, serve
from labkit.units import parse_duration
from services.soft_tainter.app import SoftTainter, create_app

logger = logging.getLogger(__name__)

QUERY_TIMEOUT_SECONDS = 5.0
STUCK_INTERVALS = 10
"""Without a look for so many intervals, and at least a minute, the process should be started anew."""


def main() -> None:
    """Taint until SIGTERM."""
    parser = argparse.ArgumentParser(prog="services.soft_tainter", description=__doc__)
    parser.add_argument(
        "--prometheus",
        default=f"http://prometheus.{MONITORING_NAMESPACE}.svc:{PROMETHEUS_PORT}",
        help="where the scores are (default: %(default)s)",
    )
    args = parser.parse_args()
    begin()
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda number, frame: _stop(stop, number, frame))
    interval = parse_duration(os.environ[DESCHEDULING_INTERVAL_KEY])
    kube = Kube.in_cluster()
    nodes = Store(kube, NODES, label_selector=f"{NODE_TYPE_LABEL}={NODE_TYPE_KWOK}")
    policies = Store(
        kube, CONFIG_MAPS, namespace=DESCHEDULER_NAMESPACE, field_selector=f"metadata.name={POLICY_CONFIG_MAP}"
    )
    tainter = SoftTainter(
        kube, Prometheus(args.prometheus, timeout=QUERY_TIMEOUT_SECONDS), nodes=nodes, policies=policies
    )
    last_look = [WALL_CLOCK.monotonic()]
    stuck = max(60.0, STUCK_INTERVALS * interval)
    app = create_app(tainter, lambda: WALL_CLOCK.monotonic() - last_look[0] < stuck)
    serve(app, port=SOFT_TAINTER_PORT, name="soft-tainter", threads=1)
    for store in (nodes, policies):
        store.start()
    for store in (nodes, policies):
        store.wait_synced(math.inf)
    while not stop.is_set():
        try:
            tainter.look()
        except KubeError as error:
            logger.warning("will try again: %s", error)
        last_look[0] = WALL_CLOCK.monotonic()
        stop.wait(interval)
    tainter.clear()


def _stop(stop: threading.Event, number: int, frame: FrameType | None) -> None:
    stop.set()


if __name__ == "__main__":
    main()
