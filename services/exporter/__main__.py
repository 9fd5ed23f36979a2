"""Run the exporter: watch nodes, launcher pods and VMs, serve their metrics."""

from __future__ import annotations

import argparse
import logging
import math
import os
import signal
import threading
from collections.abc import Callable
from types import FrameType
from typing import NoReturn

import waitress

from labkit.clock import WALL_CLOCK, LabTime
from labkit.kube import NODES, PODS, VIRTUAL_MACHINES, Kube, Object, Store
from labkit.names import (
    APP_LABEL,
    EPOCH_KEY,
    EXPORTER_PORT,
    LAUNCHER_APP,
    LISTEN_ADDRESS_KEY,
    TEMPO_KEY,
)
from services.exporter.app import create_app
from services.exporter.logic import Fleet

logger = logging.getLogger(__name__)


def main() -> None:
    """Serve until SIGTERM; anything that fails for good ends the process, so that it is started anew."""
    parser = argparse.ArgumentParser(prog="services.exporter", description=__doc__)
    parser.add_argument(
        "--pressure-model",
        choices=("monotone", "seed"),
        default="monotone",
        help="curve from demand to pressure; 'seed' has the original simulator's drop at 70 %%",
    )
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    signal.signal(signal.SIGTERM, _stop)
    lab_time = LabTime(epoch=float(os.environ[EPOCH_KEY]), tempo=int(os.environ[TEMPO_KEY]))
    fleet = Fleet(lab_time, pressure_model=args.pressure_model)
    server = waitress.create_server(
        create_app(fleet),
        host=os.environ[LISTEN_ADDRESS_KEY],
        port=EXPORTER_PORT,
        threads=4,
        ident="labkit-exporter",
    )
    threading.Thread(target=server.run, name="http", daemon=True).start()
    follow(fleet, Kube.in_cluster())


def follow(fleet: Fleet, kube: Kube) -> NoReturn:
    """Mirror the cluster into the fleet, then wake at each load step, so that a scrape finds little to do."""
    stores = (
        _mirror(Store(kube, NODES), fleet.node_changed),
        _mirror(Store(kube, PODS, label_selector=f"{APP_LABEL}={LAUNCHER_APP}"), fleet.pod_changed),
        _mirror(Store(kube, VIRTUAL_MACHINES), fleet.vm_changed),
    )
    for store in stores:
        store.wait_synced(math.inf)
    fleet.begin(WALL_CLOCK.now())
    logger.info("following %s", fleet.counts())
    while True:
        now = WALL_CLOCK.now()
        WALL_CLOCK.wait(max(0.0, fleet.next_step(now) - now))
        fleet.advance(WALL_CLOCK.now())


def _mirror(store: Store, changed: Callable[[Object | None, Object | None, float], None]) -> Store:
    store.subscribe(lambda old, new: changed(old, new, WALL_CLOCK.now()))
    return store.start()


def _stop(signal_number: int, frame: FrameType | None) -> None:
    raise SystemExit(0)


if __name__ == "__main__":
    main()
