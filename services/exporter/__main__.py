"""Run the exporter: watch nodes, launcher pods and VMs, serve their metrics."""

from __future__ import annotations

import argparse
import logging
import math
import os
import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NoReturn

import waitress

from labkit.clock import WALL_CLOCK, Clock
from labkit.errors import InputError
from labkit.kube import NODES, PODS, VIRTUAL_MACHINES, Kube, Object, Store
from labkit.names import APP_LABEL, EXPORTER_PORT, LAUNCHER_APP, LISTEN_ADDRESS_KEY
from labkit.service import begin
from labkit.settings import read_settings, settings_store
from services.exporter.app import create_app
from services.exporter.counters import CounterFile
from services.exporter.logic import Fleet, trimmed

logger = logging.getLogger(__name__)


def main() -> None:
    """Serve until SIGTERM; anything that fails for good ends the process, so that it is started anew."""
    begin()
    parser = argparse.ArgumentParser(prog="services.exporter", description=__doc__)
    parser.add_argument("--counters", type=Path, required=True, help="file in which the counters outlive the process")
    counter_file = CounterFile(parser.parse_args().counters)
    settings = read_settings(os.environ)
    fleet = Fleet(settings.time, pressure_model=settings.pressure_model)
    stores = mirror(fleet, Kube.in_cluster())
    server = waitress.create_server(
        create_app(fleet, counter_file=counter_file, is_current=lambda: all(store.current for store in stores)),
        host=os.environ[LISTEN_ADDRESS_KEY],
        port=EXPORTER_PORT,
        threads=4,
        ident="labkit-exporter",
    )
    threading.Thread(target=server.run, name="http", daemon=True).start()
    follow(fleet, stores, counter_file)


def follow(fleet: Fleet, stores: Iterable[Store], counter_file: CounterFile) -> NoReturn:
    """Wait until the cluster is mirrored, then wake at each load step, so that a scrape finds little to do."""
    for store in stores:
        store.wait_synced(math.inf)
    fleet.begin(WALL_CLOCK.now(), counter_file.read(WALL_CLOCK.now()))
    logger.info("following %s", fleet.counts())
    while True:
        now = WALL_CLOCK.now()
        WALL_CLOCK.wait(max(0.0, fleet.next_step(now) - now))
        fleet.advance(WALL_CLOCK.now())


def mirror(fleet: Fleet, kube: Kube, *, clock: Clock = WALL_CLOCK) -> list[Store]:
    """Let watches tell the fleet of every change of nodes, launcher pods, VMs and settings; returns them started."""

    def settings_changed(old: Object | None, new: Object | None, now: float) -> None:
        try:
            fleet.settings_changed(read_settings((new or {}).get("data") or {}), now)
        except InputError as error:
            logger.error("settings stay as they were: %s", error)

    followed: list[tuple[Store, Callable[[Object | None, Object | None, float], None]]] = [
        (settings_store(kube), settings_changed),
        (Store(kube, NODES, trim=trimmed), fleet.node_changed),
        (Store(kube, PODS, label_selector=f"{APP_LABEL}={LAUNCHER_APP}", trim=trimmed), fleet.pod_changed),
        (Store(kube, VIRTUAL_MACHINES, trim=trimmed), fleet.vm_changed),
    ]
    for store, changed in followed:
        store.subscribe(lambda old, new, changed=changed: changed(old, new, clock.now()))  # type: ignore[misc]
    return [store.start() for store, _ in followed]


if __name__ == "__main__":
    main()
