"""Scenarios: which nodes and VMs there are, how the VMs' load goes, and what happens when.

One schema serves every backend: a file under ``experiments/scenarios`` is a SimulationScenario object that
``labkit run`` plays on the twin and that the scenario controller plays in a cluster::

    load_scenario(name_or_path) -> Scenario          parse_scenario(document, source) -> Scenario
    Scenario.nodes() -> tuple[Node, ...]             at lab time 0
    Scenario.vms(seed) -> tuple[VirtualMachine, …]   at lab time 0, those with an initial node first
    Scenario.events(seed) -> tuple[Event, …]         the timeline with all names resolved
    Scenario.with_nodes(count), .with_duration(s)    variants
    Scenario.document                                the object, traces resolved: what ``kubectl apply`` takes
    scenario_names() -> list[str]                    the scenarios that come with the lab

Nothing here reads a clock or a random generator: the same file and seed expand to the same values everywhere.
"""

from __future__ import annotations

from labkit.scenario.document import load_scenario, parse_scenario, scenario_names
from labkit.scenario.scenario import Scenario
from labkit.scenario.values import Event, EvictionStrategy, Node, Taint, VirtualMachine

__all__ = [
    "Event",
    "EvictionStrategy",
    "Node",
    "Scenario",
    "Taint",
    "VirtualMachine",
    "load_scenario",
    "parse_scenario",
    "scenario_names",
]
