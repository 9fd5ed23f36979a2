"""Run the VM controller."""

from __future__ import annotations

import logging
import math
import os
import threading

from labkit.clock import WALL_CLOCK
from labkit.kube import PODS, VIRTUAL_MACHINES, Kube, Store, only
from labkit.names import (
    LAUNCHER_LABEL,
    LAUNCHER_LABEL_VALUE,
    VM_CONTROLLER_PORT,
)
from labkit.service import begin, serve
from labkit.settings import read_settings, settings_store
from labkit.workqueue import Workers
from services.vm_controller.app import VmController, create_app
from services.vm_controller.logic import UTILIZATION_SECONDS

logger = logging.getLogger(__name__)

THREADS = 4


def main() -> None:
    """Keep statuses right until SIGTERM."""
    begin()
    kube = Kube.from_environment()
    vms = Store(kube, VIRTUAL_MACHINES)
    pods = Store(
        kube,
        PODS,
        label_selector=f"{LAUNCHER_LABEL}={LAUNCHER_LABEL_VALUE}",
        trim=only("spec.nodeName", "status.phase", "status.conditions"),
    )
    controller = VmController(kube, vms=vms, pods=pods, settings=read_settings(os.environ))
    workers = Workers(controller.queue, controller.reconcile, threads=THREADS, failed=controller.failed)
    ready = threading.Event()
    app = create_app(controller, ready=ready.is_set, healthy=lambda: workers.alive)
    serve(app, port=VM_CONTROLLER_PORT, name="vm-controller")
    settings = settings_store(kube)
    for store, subscriber in (
        (settings, controller.settings_changed),
        (pods, controller.pod_changed),
        (vms, controller.vm_changed),
    ):
        store.subscribe(subscriber)
        store.start()
    for store in (settings, pods, vms):
        store.wait_synced(math.inf)
    workers.start()
    ready.set()
    logger.info("following %d VMs and %d pods", len(vms), len(pods))
    while True:
        WALL_CLOCK.wait(UTILIZATION_SECONDS / controller.lab_time.tempo)
        controller.follow_curves()


if __name__ == "__main__":
    main()
