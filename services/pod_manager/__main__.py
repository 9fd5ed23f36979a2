"""Run the pod manager."""

from __future__ import annotations

import logging
import math
import os
import threading

from labkit.clock import WALL_CLOCK
from labkit.kube import CONFIG_MAPS, NODES, PODS, VIRTUAL_MACHINES, Kube, Store, only
from labkit.names import (
    LAUNCHER_LABEL,
    LAUNCHER_LABEL_VALUE,
    MIGRATION_POLICY_CONFIG_MAP,
    MONITORING_NAMESPACE,
    POD_MANAGER_PORT,
)
from labkit.service import begin, serve
from labkit.settings import read_settings, settings_store
from labkit.workqueue import Workers
from services.pod_manager.app import PodManager, create_app

logger = logging.getLogger(__name__)

THREADS = 8
LOOK_AT_ALL_SECONDS = 300.0
"""How often every VM is compared with its pods although nothing was reported: in memory, against lost events."""


def main() -> None:
    """Manage pods until SIGTERM."""
    begin()
    kube = Kube.from_environment()
    vms, nodes = Store(kube, VIRTUAL_MACHINES), Store(kube, NODES, trim=only())
    pods = Store(
        kube,
        PODS,
        label_selector=f"{LAUNCHER_LABEL}={LAUNCHER_LABEL_VALUE}",
        trim=only("spec.nodeName", "status.phase"),
    )
    policy = Store(
        kube, CONFIG_MAPS, namespace=MONITORING_NAMESPACE, field_selector=f"metadata.name={MIGRATION_POLICY_CONFIG_MAP}"
    )
    settings = settings_store(kube)
    manager = PodManager(kube, vms=vms, nodes=nodes, settings=read_settings(os.environ))
    workers = Workers(manager.queue, manager.reconcile, threads=THREADS, failed=manager.failed)
    ready = threading.Event()
    app = create_app(manager, ready=ready.is_set, healthy=lambda: workers.alive)
    serve(app, port=POD_MANAGER_PORT, name="pod-manager")
    for store, subscriber in (
        (nodes, manager.node_changed),
        (policy, manager.policy_changed),
        (settings, manager.settings_changed),
        (pods, manager.pod_changed),
        (vms, manager.vm_changed),
    ):
        store.subscribe(subscriber)
        store.start()
    for store in (nodes, policy, settings, pods, vms):
        store.wait_synced(math.inf)
    manager.resume()
    workers.start()
    ready.set()
    logger.info("managing %d VMs and %d pods", len(vms), len(pods))
    while True:
        WALL_CLOCK.wait(LOOK_AT_ALL_SECONDS)
        manager.look_at_all()


if __name__ == "__main__":
    main()
