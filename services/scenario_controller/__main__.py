"""Run the scenario controller."""

from __future__ import annotations

import logging
import math
import os

from labkit.clock import WALL_CLOCK
from labkit.errors import KubeError
from labkit.kube import NODES, PODS, SIMULATION_SCENARIOS, VIRTUAL_MACHINES, Kube, Store, only
from labkit.names import (
    LAUNCHER_LABEL,
    LAUNCHER_LABEL_VALUE,
    NODE_TYPE_KWOK,
    NODE_TYPE_LABEL,
    SCENARIO_CONTROLLER_PORT,
)
from labkit.service import begin, serve
from labkit.settings import read_settings
from services.scenario_controller.app import ScenarioController, create_app

logger = logging.getLogger(__name__)

RETRY_SECONDS = 1.0
GATHER_SECONDS = 0.1
"""Changes come in swarms: a look follows the first of them by this much."""
STUCK_SECONDS = 120.0
"""A look that takes longer than this means that the process should be started anew."""


def main() -> None:
    """Play scenarios until SIGTERM."""
    begin()
    kube = Kube.from_environment()
    scenarios = Store(kube, SIMULATION_SCENARIOS)
    vms = Store(kube, VIRTUAL_MACHINES, trim=only("status.phase", "status.podName", "status.evacuationNodeName"))
    nodes = Store(kube, NODES, label_selector=f"{NODE_TYPE_LABEL}={NODE_TYPE_KWOK}", trim=only())
    pods = Store(kube, PODS, label_selector=f"{LAUNCHER_LABEL}={LAUNCHER_LABEL_VALUE}", trim=only("spec.nodeName"))
    tempo = read_settings(os.environ).time.tempo
    controller = ScenarioController(kube, scenarios=scenarios, vms=vms, nodes=nodes, pods=pods, tempo=tempo)
    last_look = [WALL_CLOCK.monotonic()]
    app = create_app(lambda: WALL_CLOCK.monotonic() - last_look[0] < STUCK_SECONDS)
    serve(app, port=SCENARIO_CONTROLLER_PORT, name="scenario-controller", threads=1)
    stores = (scenarios, vms, nodes, pods)
    for store in stores:
        store.subscribe(controller.changed)
        store.start()
    for store in stores:
        store.wait_synced(math.inf)
    while True:
        controller.wake.clear()
        try:
            seconds = controller.look()
        except KubeError as error:
            logger.warning("will try again: %s", error)
            seconds = RETRY_SECONDS
        last_look[0] = WALL_CLOCK.monotonic()
        if controller.wake.wait(min(seconds, STUCK_SECONDS / 2)):
            WALL_CLOCK.wait(GATHER_SECONDS)


if __name__ == "__main__":
    main()
