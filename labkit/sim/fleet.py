"""The state of nodes and VMs at one instant of lab time, and its integrals.

Everything is an array over all nodes and all VMs that the scenario will ever have, so that a step is a handful of
array operations. The same functions as on the live backends turn load curves into usage and pressure; the counters are
their exact integrals.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from labkit.load import LoadTable, PressureModel, node_load
from labkit.model import BoolArray, FloatArray, IntArray
from labkit.names import LOAD_STEP_SECONDS
from labkit.placement import NodeTable, PodRequest
from labkit.scenario.expansion import Expansion

NOWHERE: Final = -1
_BLOCK_VALUES: Final = 160_000
"""Loads are evaluated for several steps at once, about this many values: more leaves the processor's cache."""
_BLOCK_STEPS: Final = 64


class Fleet:
    """Nodes in the order of their names, VMs in the order of their creation.

    Parameters
    ----------
    expansion : Expansion
        The scenario for one seed.
    start_seconds : float
        Lab time at which the state begins, not after 0.
    pressure_model : str
        See :func:`labkit.load.pressure`.
    """

    def __init__(self, expansion: Expansion, start_seconds: float, pressure_model: PressureModel) -> None:
        self.nodes = sorted(expansion.all_nodes, key=lambda node: node.name)
        self.vms = list(expansion.all_vms)
        self.node_names = [node.name for node in self.nodes]
        self.vm_names = [vm.name for vm in self.vms]
        self.node_number = {name: number for number, name in enumerate(self.node_names)}
        self.vm_number = {name: number for number, name in enumerate(self.vm_names)}
        self.table = NodeTable(self.nodes)
        self.requests = [PodRequest.of(vm) for vm in self.vms]
        self.ready: BoolArray = np.zeros(len(self.nodes), dtype=np.bool_)
        self.cordoned: BoolArray = np.array([node.unschedulable for node in self.nodes], dtype=np.bool_)
        self._admits = self.table.open | self.cordoned
        for name in (node.name for node in expansion.nodes):
            self.ready[self.node_number[name]] = True
        self.node_of: IntArray = np.full(len(self.vms), NOWHERE, dtype=np.int64)
        self.exists: BoolArray = np.zeros(len(self.vms), dtype=np.bool_)
        self.cores: FloatArray = np.array([vm.cores for vm in self.vms])
        self.memory_bytes: FloatArray = np.array([vm.memory_bytes for vm in self.vms])
        self.time = start_seconds
        self._node_cores: FloatArray = np.array([node.cores for node in self.nodes])
        self._node_memory: FloatArray = np.array([node.memory_bytes for node in self.nodes])
        self._pressure_model = pressure_model
        self._loads = LoadTable([vm.curve for vm in self.vms], [vm.load_seed for vm in self.vms])
        self._block_steps = int(np.clip(_BLOCK_VALUES // max(len(self.vms), 1), 1, _BLOCK_STEPS))
        self._block_start = 0
        self._block: tuple[FloatArray, FloatArray] | None = None
        self.busy_seconds: FloatArray = np.zeros(len(self.nodes))
        self.cpu_waiting_seconds: FloatArray = np.zeros(len(self.nodes))
        self.memory_waiting_seconds: FloatArray = np.zeros(len(self.nodes))
        self.up_seconds: FloatArray = np.zeros(len(self.nodes))
        self.update_table()
        self.set_load(start_seconds)

    @property
    def memory_capacity(self) -> FloatArray:
        """Memory of each node, bytes."""
        return self._node_memory

    @property
    def node_cores(self) -> FloatArray:
        """Cores of each node."""
        return self._node_cores

    @property
    def loads(self) -> LoadTable:
        """The VMs' curves."""
        return self._loads

    def update_table(self) -> None:
        """Tell the scheduler's view which nodes take pods."""
        self.table.open[:] = self._admits & self.ready & ~self.cordoned

    # --- time ----------------------------------------------------------------------------------------

    def advance(self, time: float) -> None:
        """Let lab time pass at the present load."""
        seconds = time - self.time
        if seconds > 0:
            self.busy_seconds += self.cpu_usage * seconds
            self.cpu_waiting_seconds += self.cpu_pressure * seconds
            self.memory_waiting_seconds += self.memory_pressure * seconds
            self.up_seconds += self.ready * seconds
            self.time = time

    def set_load(self, time: float) -> None:
        """Take the loads of the step that contains an instant; the counters must have been advanced to it."""
        step = max(int(time // LOAD_STEP_SECONDS), 0)
        if self._block is None or not self._block_start <= step < self._block_start + len(self._block[0]):
            times: FloatArray = np.arange(step, step + self._block_steps, dtype=np.float64) * LOAD_STEP_SECONDS
            self._block, self._block_start = self._loads.block(times), step
        row = step - self._block_start
        self.cpu_utilization, self.memory_utilization = self._block[0][row], self._block[1][row]
        self.update_load()

    def update_load(self) -> None:
        """Recompute usage and pressure after loads or places have changed."""
        load = node_load(
            self.cpu_utilization,
            self.memory_utilization,
            cores=self.cores,
            memory_bytes=self.memory_bytes,
            node_index=self.node_of,
            node_cores=self._node_cores,
            node_memory_bytes=self._node_memory,
            pressure_model=self._pressure_model,
        )
        self.cpu_usage, self.cpu_pressure = load.cpu_usage, load.cpu_pressure
        self.memory_usage, self.memory_pressure = load.memory_usage, load.memory_pressure

    def vms_per_node(self) -> IntArray:
        """Return how many VMs run on each node."""
        return np.bincount(self.node_of + 1, minlength=len(self.nodes) + 1)[1:]

    def vms_on(self, node: int) -> IntArray:
        """Return the numbers of the VMs that run on a node."""
        return np.flatnonzero(self.node_of == node)
