"""The value that a scenario is, and its variants."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final

from labkit.errors import ScenarioError
from labkit.load import PressureModel
from labkit.scenario.expansion import Expansion, expand, pool_nodes
from labkit.scenario.values import Event, Node, VirtualMachine
from labkit.units import parse_duration

_KEPT_EXPANSIONS: Final = 4


@dataclass(frozen=True)
class Scenario:
    """A scenario that has been checked.

    Parameters
    ----------
    name : str
        ``metadata.name``.
    source : str
        File or object that it came from, for error texts.
    document : Mapping
        The SimulationScenario object with its traces resolved.
    duration_seconds : float
        Lab time that a run takes.
    seed : int
        Seed where a run gives none.
    link_bytes_per_second : float
        Each node's migration link, in each direction.
    pressure_model : {"monotone", "seed"}
        See :func:`labkit.load.pressure`.
    question : str
        What the scenario asks; possibly empty.
    """

    name: str
    source: str
    document: Mapping[str, Any]
    duration_seconds: float
    seed: int
    link_bytes_per_second: float
    pressure_model: PressureModel
    question: str
    _expansions: dict[int, Expansion] = field(default_factory=dict, init=False, repr=False, compare=False)

    def __getstate__(self) -> dict[str, Any]:
        """Leave expansions behind when the scenario is sent to a worker: they are quicker made than sent."""
        return {**vars(self), "_expansions": {}}

    @property
    def timeline(self) -> tuple[Mapping[str, Any], ...]:
        """The events as the file has them; :meth:`events` resolves them."""
        return tuple(self.document["spec"].get("timeline", ()))

    def nodes(self) -> tuple[Node, ...]:
        """Return the nodes of lab time 0, pools first, in the order of the file."""
        return pool_nodes(self.document["spec"], self.source)

    def vms(self, seed: int | None = None) -> tuple[VirtualMachine, ...]:
        """Return the VMs of lab time 0; those with an initial node come first, as they are created first."""
        return self.expand(seed).vms

    def events(self, seed: int | None = None) -> tuple[Event, ...]:
        """Return the timeline in order of time, with every name resolved."""
        return self.expand(seed).events

    def expand(self, seed: int | None = None) -> Expansion:
        """Return nodes, VMs and events together; kept for the last few seeds, as runs of one seed share them.

        Raises
        ------
        ScenarioError
            If something does not fit together: a VM larger than any node, an event on a node that is not there.
        """
        used = self.seed if seed is None else seed
        if used not in self._expansions:
            if len(self._expansions) >= _KEPT_EXPANSIONS:
                del self._expansions[next(iter(self._expansions))]
            self._expansions[used] = expand(self.document["spec"], used, self.source)
        return self._expansions[used]

    def with_duration(self, duration_seconds: float) -> Scenario:
        """Return the scenario with another duration; events that a shorter one does not reach are left out.

        Raises
        ------
        ScenarioError
            If the duration is not more than 0.
        """
        if not duration_seconds > 0:
            raise ScenarioError(f"{self.source}: duration: wanted more than 0 s, found {duration_seconds:g} s")
        document = copy.deepcopy(dict(self.document))
        spec = document["spec"]
        spec["duration"] = f"{round(duration_seconds * 1000)}ms"
        if duration_seconds < self.duration_seconds and "timeline" in spec:
            spec["timeline"] = [event for event in spec["timeline"] if parse_duration(event["at"]) <= duration_seconds]
        return replace(self, document=document, duration_seconds=duration_seconds)

    def with_nodes(self, count: int) -> Scenario:
        """Return the scenario with that many nodes in its first pool, and its VM pools and hot spots in proportion.

        Raises
        ------
        ScenarioError
            If there is no node pool to change, or fewer than one node is wanted.
        """
        document = copy.deepcopy(dict(self.document))
        spec = document["spec"]
        pools = spec.get("nodePools", [])
        if count < 1 or not pools or pools[0]["count"] < 1:
            raise ScenarioError(f"{self.source}: wanted 1 node or more in a first node pool, found {count}")
        factor = count / pools[0]["count"]
        names = [f"{pools[0]['name']}-{number}" for number in range(1, count + 1)]
        own = {f"{pools[0]['name']}-{number}" for number in range(1, pools[0]["count"] + 1)}
        pools[0]["count"] = count
        for pool in spec.get("vmPools", []):
            pool["count"] = round(pool["count"] * factor)
            listed = pool.get("placement", {}).get("nodes")
            if listed and set(listed) <= own:
                pool["placement"]["nodes"] = names[: max(1, round(len(listed) * factor))]
        for event in spec.get("timeline", []):
            if "count" in event:
                event["count"] = max(1, round(event["count"] * factor))
        return replace(self, document=document)
