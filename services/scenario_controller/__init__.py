"""The scenario controller: plays SimulationScenario objects in a cluster.

It creates a scenario's nodes and VMs, lets them settle, starts lab time, and plays the timeline. Load is not its
business: a VM carries its curve as an annotation, and the exporter evaluates it.
"""
