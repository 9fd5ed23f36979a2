"""From the text of a scenario to its nodes, VMs and events.

Events are walked in order of time with a list of what exists, so that "create three more of this pool" and "delete
two" become names before the run begins; a run only plays them.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from labkit.errors import InputError, ScenarioError
from labkit.load import KINDS, Curve, parse_curve
from labkit.migration import DEFAULT_DIRTY_RATE_MBPS
from labkit.scenario.distribution import draw, is_distribution, seed_of, uniform_number
from labkit.scenario.values import Event, Node, Taint, VirtualMachine
from labkit.units import GIB, parse_duration, parse_quantity

Spec = Mapping[str, Any]

MIB: Final = 2**20
DEFAULT_NODE: Final = {"cpu": 32, "memory": "512Gi", "pods": 110}
DEFAULT_VM: Final = {"cpu": 2, "memory": "8Gi"}
DEFAULT_LOAD: Final = {"cpu": 0.5, "memory": 0.8}
"""Utilisation of a VM that does not say: the VirtualMachine's own defaults."""
DEFAULT_HOT_SHARE: Final = 0.8

_NODE_EVENTS: Final = ("cordon_node", "uncordon_node", "drain_node", "fail_node")
_EVENT_FIELDS: Final[Mapping[str, tuple[frozenset[str], frozenset[str]]]] = {
    "add_nodes": (frozenset({"pool"}), frozenset({"count"})),
    **{kind: (frozenset({"node"}), frozenset()) for kind in _NODE_EVENTS},
    "create_vms": (frozenset({"pool"}), frozenset({"count"})),
    "delete_vms": (frozenset(), frozenset({"pool", "count", "vms"})),
    "resize_vms": (frozenset({"resources"}), frozenset({"pool", "vms"})),
    "surge": (frozenset({"duration"}), frozenset({"pool", "vms", "share", "cpu", "memory"})),
}
"""Fields that an event of each type needs, and those that it may have, beside ``at`` and ``type``."""


@dataclass(frozen=True)
class Expansion:
    """What a scenario is for one seed."""

    nodes: tuple[Node, ...]
    vms: tuple[VirtualMachine, ...]
    events: tuple[Event, ...]

    @property
    def all_nodes(self) -> tuple[Node, ...]:
        """The nodes of lab time 0 and those that events add."""
        return (*self.nodes, *(node for event in self.events for node in event.nodes))

    @property
    def all_vms(self) -> tuple[VirtualMachine, ...]:
        """The VMs of lab time 0 and those that events create."""
        return (*self.vms, *(vm for event in self.events for vm in event.vms))


def expand(spec: Spec, seed: int, source: str) -> Expansion:
    """Expand a checked ``spec``.

    Raises
    ------
    ScenarioError
        With source and field.
    """
    try:
        nodes = pool_nodes(spec, source)
        walk = _Walk(spec, seed, nodes)
        events = walk.events()
        builder = _VmBuilder(spec, seed, walk.surges)
        placed = _place([builder.build(name) for name in walk.initial_vms], spec, nodes)
        placed.sort(key=lambda vm: vm.initial_node == "")
        complete = tuple(
            Event(**{**vars(event), "vms": tuple(builder.build(name) for name in event.vm_names)})
            if event.type == "create_vms"
            else event
            for event in events
        )
        expansion = Expansion(nodes, tuple(placed), complete)
        _check_sizes(expansion)
    except ScenarioError:
        raise
    except InputError as exc:
        raise ScenarioError(f"{source}: {exc}") from exc
    return expansion


# --- nodes -------------------------------------------------------------------------------------------


def pool_nodes(spec: Spec, source: str) -> tuple[Node, ...]:
    """Return the nodes of lab time 0.

    Raises
    ------
    ScenarioError
        If there is none, or a name appears twice.
    """
    try:
        nodes = [
            _node(pool, f"{pool['name']}-{number}", pool["name"], f"spec.nodePools[{index}]")
            for index, pool in enumerate(spec.get("nodePools", []))
            for number in range(1, pool["count"] + 1)
        ]
        for index, single in enumerate(spec.get("nodes", [])):
            nodes.append(_node(single, single["name"], "", f"spec.nodes[{index}]"))
        _refuse_twice([node.name for node in nodes], "node")
        if not nodes:
            raise InputError("spec.nodePools: wanted at least one node, found none")
    except InputError as exc:
        raise ScenarioError(f"{source}: {exc}") from exc
    return tuple(nodes)


def _node(text: Mapping[str, Any], name: str, pool: str, where: str) -> Node:
    resources = {**DEFAULT_NODE, **text.get("resources", {})}
    return Node(
        name=name,
        pool=pool,
        cores=_positive(resources["cpu"], f"{where}.resources.cpu"),
        memory_bytes=_positive(resources["memory"], f"{where}.resources.memory"),
        max_pods=resources["pods"],
        labels=dict(text.get("labels", {})),
        taints=tuple(Taint(t["key"], t["effect"], t.get("value", "")) for t in text.get("taints", ())),
        unschedulable=text.get("unschedulable", False),
    )


def _positive(text: Any, where: str) -> float:
    try:
        value = _quantity(text)
    except InputError as exc:
        raise InputError(f"{where}: {exc}") from exc
    if not value > 0:
        raise InputError(f"{where}: wanted more than 0, found {text!r}")
    return value


@functools.lru_cache(maxsize=1024, typed=True)
def _quantity(text: str | int | float) -> float:
    return parse_quantity(text)


def _refuse_twice(names: Sequence[str], what: str) -> None:
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise InputError(f"spec: wanted each {what} once, found {name} twice")
        seen.add(name)


# --- what exists when --------------------------------------------------------------------------------


class _Walk:
    """Names of what exists, moved along the timeline."""

    def __init__(self, spec: Spec, seed: int, nodes: Sequence[Node]) -> None:
        self._seed = seed
        self._duration = seconds(spec["duration"], "spec.duration")
        self._timeline = spec.get("timeline", [])
        self._node_pools = {pool["name"]: pool for pool in spec.get("nodePools", [])}
        self._vm_pools = {pool["name"]: pool for pool in spec.get("vmPools", [])}
        _refuse_twice([pool["name"] for pool in spec.get("vmPools", [])], "VM pool")
        self._nodes = {node.name for node in nodes}
        self._node_counts = {name: pool["count"] for name, pool in self._node_pools.items()}
        self._vm_counts = dict.fromkeys(self._vm_pools, 0)
        self._pool_of: dict[str, str] = {}
        for name, pool in self._vm_pools.items():
            self._create(name, pool["count"])
        for vm in spec.get("vms", []):
            if vm["name"] in self._pool_of:
                raise InputError(f"spec: wanted each VM once, found {vm['name']} twice")
            self._pool_of[vm["name"]] = ""
        self.initial_vms = tuple(self._pool_of)
        self.surges: dict[str, list[dict[str, Any]]] = {}

    def events(self) -> list[Event]:
        """Resolve the timeline; fills ``surges`` on the way."""
        timed = [
            (seconds(text["at"], f"spec.timeline[{index}].at"), f"spec.timeline[{index}]", text)
            for index, text in enumerate(self._timeline)
        ]
        return [self._event(at, where, text) for at, where, text in sorted(timed, key=lambda item: item[0])]

    def _event(self, at: float, where: str, text: Mapping[str, Any]) -> Event:
        kind = text["type"]
        needed, possible = _EVENT_FIELDS[kind]
        missing = sorted(needed - set(text))
        if missing:
            raise InputError(f"{where}.{missing[0]}: wanted a value for {kind}, found nothing")
        extra = sorted(set(text) - needed - possible - {"at", "type"})
        if extra:
            raise InputError(f"{where}.{extra[0]}: {kind} has no such field")
        if at > self._duration:
            raise InputError(f"{where}.at: wanted an instant within {self._duration:g} s, found {text['at']!r}")
        if kind in _NODE_EVENTS:
            return self._node_event(at, where, text)
        if kind == "add_nodes":
            return self._add_nodes(at, where, text)
        if kind == "create_vms":
            names = self._create(self._known_pool(text["pool"], where), text.get("count", 1))
            return Event(at, kind, vm_names=names)
        names = self._chosen(where, text)
        if kind == "delete_vms":
            for name in names:
                del self._pool_of[name]
            return Event(at, kind, vm_names=names)
        if kind == "resize_vms":
            sizes = text["resources"]
            cores = _positive(sizes["cpu"], f"{where}.resources.cpu") if "cpu" in sizes else None
            memory = _positive(sizes["memory"], f"{where}.resources.memory") if "memory" in sizes else None
            return Event(at, kind, vm_names=names, cores=cores, memory_bytes=memory)
        surge = {
            "at": at,
            "duration": seconds(text["duration"], f"{where}.duration"),
            "cpu": text.get("cpu", 0.0),
            "memory": text.get("memory", 0.0),
        }
        for name in names:
            self.surges.setdefault(name, []).append(surge)
        return Event(at, "surge", vm_names=names)

    def _node_event(self, at: float, where: str, text: Mapping[str, Any]) -> Event:
        if text["node"] not in self._nodes:
            raise InputError(f"{where}.node: wanted a node that exists then, found {text['node']!r}")
        if text["type"] == "fail_node":
            self._nodes.discard(text["node"])
        return Event(at, text["type"], node=text["node"])

    def _add_nodes(self, at: float, where: str, text: Mapping[str, Any]) -> Event:
        pool = self._node_pools.get(text["pool"])
        if pool is None:
            raise InputError(f"{where}.pool: wanted a node pool, found {text['pool']!r}")
        first = self._node_counts[pool["name"]] + 1
        self._node_counts[pool["name"]] += text.get("count", 1)
        names = [f"{pool['name']}-{number}" for number in range(first, self._node_counts[pool["name"]] + 1)]
        self._nodes.update(names)
        return Event(at, "add_nodes", nodes=tuple(_node(pool, name, pool["name"], where) for name in names))

    def _known_pool(self, pool: str, where: str) -> str:
        if pool not in self._vm_pools:
            raise InputError(f"{where}.pool: wanted a VM pool, found {pool!r}")
        return pool

    def _create(self, pool: str, count: int) -> tuple[str, ...]:
        first = self._vm_counts[pool] + 1
        self._vm_counts[pool] += count
        names = tuple(f"{pool}-{number}" for number in range(first, first + count))
        for name in names:
            if name in self._pool_of:
                raise InputError(f"spec: wanted each VM once, found {name} twice")
            self._pool_of[name] = pool
        return names

    def _chosen(self, where: str, text: Mapping[str, Any]) -> tuple[str, ...]:
        """Return the VMs that an event is about: named ones, a pool's, or all."""
        if "vms" in text:
            lost = [name for name in text["vms"] if name not in self._pool_of]
            if lost:
                raise InputError(f"{where}.vms: wanted VMs that exist then, found {lost[0]!r}")
            names = list(text["vms"])
        elif "pool" in text:
            pool = self._known_pool(text["pool"], where)
            names = [name for name, of in self._pool_of.items() if of == pool]
        elif text["type"] == "surge":
            names = list(self._pool_of)
        else:
            raise InputError(f"{where}: wanted vms or pool, found neither")
        if "count" in text:
            if text["count"] > len(names):
                raise InputError(f"{where}.count: wanted at most {len(names)}, found {text['count']}")
            names = names[: text["count"]]
        if "share" in text:
            names.sort(key=lambda name: uniform_number(self._seed, where, name))
            names = sorted(names[: round(text["share"] * len(names))])
        return tuple(names)


def seconds(text: Any, where: str) -> float:
    """Read a duration; errors name the field."""
    try:
        return parse_duration(text)
    except InputError as exc:
        raise InputError(f"{where}: {exc}") from exc


# --- VMs ---------------------------------------------------------------------------------------------


@dataclass
class _VmBuilder:
    """Makes VMs from their pool's or their own text."""

    spec: Spec
    seed: int
    surges: Mapping[str, list[dict[str, Any]]]
    _curves: dict[str, Curve] = field(default_factory=dict)
    _texts: dict[str, tuple[str, str, Mapping[str, Any]]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for index, pool in enumerate(self.spec.get("vmPools", [])):
            self._texts[pool["name"] + "-"] = (pool["name"], f"spec.vmPools[{index}]", pool)
        for index, single in enumerate(self.spec.get("vms", [])):
            self._texts[single["name"]] = ("", f"spec.vms[{index}]", single)

    def build(self, name: str) -> VirtualMachine:
        """Return the VM of that name."""
        pool, where, text = self._texts.get(name) or self._texts[name.rpartition("-")[0] + "-"]
        size = {**DEFAULT_VM, **text.get("resources", {})}
        cores = self._drawn(name, size["cpu"], f"{where}.resources.cpu", _positive)
        memory = self._drawn(name, size["memory"], f"{where}.resources.memory", _positive)
        dirty = self._drawn(name, text.get("dirtyRateMbps", DEFAULT_DIRTY_RATE_MBPS), f"{where}.dirtyRateMbps", _amount)
        return VirtualMachine(
            name=name,
            pool=pool,
            cores=max(round(cores, 2), 0.01),
            memory_bytes=float(max(round(memory / MIB), 1) * MIB),
            dirty_rate_mbps=round(dirty, 3),
            eviction_strategy=text.get("evictionStrategy", "LiveMigrate"),
            curve=self._curve(name, text, where),
            load_seed=seed_of(self.seed, name, "load"),
            initial_node=text.get("node", "") if pool == "" else "",
        )

    def _drawn(self, name: str, value: Any, where: str, read: Any) -> float:
        share = uniform_number(self.seed, name, where.rpartition("]")[2]) if is_distribution(value) else 0.5
        return draw(value, share, lambda text: read(text, where), where)

    def _curve(self, name: str, text: Mapping[str, Any], where: str) -> Curve:
        load, place = self._load(name, text, where)
        surges = [*load.get("surges", []), *self.surges.get(name, [])]
        fixed = not any(_has_distribution(load[dimension]) for dimension in ("cpu", "memory"))
        if fixed and not surges:
            if place not in self._curves:
                self._curves[place] = parse_curve(load, where=place)
            return self._curves[place]
        drawn = {
            dimension: self._drawn_shape(name, load[dimension], f"{place}.{dimension}", dimension)
            for dimension in ("cpu", "memory")
        }
        return parse_curve({**drawn, "surges": surges}, where=place)

    def _load(self, name: str, text: Mapping[str, Any], where: str) -> tuple[Mapping[str, Any], str]:
        traces = text.get("traces")
        if traces is None:
            return text.get("load", DEFAULT_LOAD), f"{where}.load"
        number = int(name.rpartition("-")[2]) - 1
        order = sorted(range(len(traces)), key=lambda j: uniform_number(self.seed, text["name"], "trace", str(j)))
        chosen = order[number % len(order)]
        return traces[chosen], f"{where}.traces[{chosen}]"

    def _drawn_shape(self, name: str, value: Any, where: str, dimension: str) -> Any:
        if is_distribution(value):
            return round(self._drawn_number(name, value, where, dimension, True), 4)
        if not isinstance(value, Mapping):
            return value
        units = KINDS.get(value.get("kind", ""), {})
        shape = dict(value)
        for parameter, given in value.items():
            if is_distribution(given) and parameter in units:
                path = f"{dimension}.{parameter}"
                if units[parameter].unit == "seconds":
                    share = uniform_number(self.seed, name, path)
                    shape[parameter] = round(draw(given, share, lambda t: seconds(t, where), where), 3)
                else:
                    place, unit = f"{where}.{parameter}", units[parameter].unit
                    shape[parameter] = round(self._drawn_number(name, given, place, path, unit == "ratio"), 4)
        return shape

    def _drawn_number(self, name: str, value: Any, where: str, path: str, ratio: bool) -> float:
        """Draw a number; a ratio's bounds must be ratios, and the tail of a distribution ends at 1."""
        read = _ratio if ratio else _amount
        drawn = draw(value, uniform_number(self.seed, name, path), lambda text: read(text, where), where)
        return min(drawn, 1.0) if ratio else drawn


def _has_distribution(value: Any) -> bool:
    return is_distribution(value) or (
        isinstance(value, Mapping) and any(is_distribution(inner) for inner in value.values())
    )


def _amount(value: Any, where: str) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value) or value < 0:
        raise InputError(f"{where}: wanted a number, 0 or more, found {value!r}")
    return float(value)


def _ratio(value: Any, where: str) -> float:
    number = _amount(value, where)
    if number > 1:
        raise InputError(f"{where}: wanted a number within [0, 1], found {value!r}")
    return number


def _check_sizes(expansion: Expansion) -> None:
    nodes = expansion.all_nodes
    most_cores = max(node.cores for node in nodes)
    most_memory = max(node.memory_bytes for node in nodes)
    for vm in expansion.all_vms:
        if vm.cores > most_cores:
            raise InputError(f"VM {vm.name}: wanted at most {most_cores:g} cores (largest node), found {vm.cores:g}")
        if vm.memory_bytes > most_memory:
            raise InputError(
                f"VM {vm.name}: wanted at most {most_memory / GIB:g} GiB (largest node), "
                f"found {vm.memory_bytes / GIB:g} GiB"
            )


# --- initial placement -------------------------------------------------------------------------------


class _Room:
    """What the nodes have left for requests of pods that are bound before the scheduler is asked."""

    def __init__(self, nodes: Sequence[Node]) -> None:
        self._free = {node.name: [node.cores, node.memory_bytes, float(node.max_pods)] for node in nodes}

    def knows(self, node: str) -> bool:
        return node in self._free

    def take(self, node: str, vm: VirtualMachine) -> bool:
        """Bind the VM to the node if it fits."""
        free = self._free[node]
        wanted = (vm.cpu_request_cores, vm.memory_bytes, 1.0)
        if any(want > have for want, have in zip(wanted, free, strict=True)):
            return False
        for index, want in enumerate(wanted):
            free[index] -= want
        return True


def _place(vms: Sequence[VirtualMachine], spec: Spec, nodes: Sequence[Node]) -> list[VirtualMachine]:
    room = _Room(nodes)
    names = [node.name for node in nodes]
    by_pool: dict[str, list[VirtualMachine]] = {}
    for vm in vms:
        by_pool.setdefault(vm.pool, []).append(vm)
    placed: list[VirtualMachine] = []
    for vm in by_pool.get("", []):
        if vm.initial_node and not room.knows(vm.initial_node):
            raise InputError(f"VM {vm.name}: wanted a node of lab time 0, found {vm.initial_node!r}")
        if vm.initial_node and not room.take(vm.initial_node, vm):
            raise InputError(f"VM {vm.name}: does not fit on node {vm.initial_node} beside those before it")
        placed.append(vm)
    for index, pool in enumerate(spec.get("vmPools", [])):
        rule = pool.get("placement", {"strategy": "scheduler"})
        where = f"spec.vmPools[{index}].placement"
        listed = rule.get("nodes", names)
        unknown = [name for name in listed if not room.knows(name)]
        if unknown:
            raise InputError(f"{where}.nodes: wanted nodes of lab time 0, found {unknown[0]!r}")
        placed += _PLACE[rule["strategy"]](by_pool.get(pool["name"], []), listed, rule, room, where)
    return placed


def _scheduler(
    vms: list[VirtualMachine], listed: Sequence[str], rule: Spec, room: _Room, where: str
) -> list[VirtualMachine]:
    return vms


def _packed(
    vms: list[VirtualMachine], listed: Sequence[str], rule: Spec, room: _Room, where: str
) -> list[VirtualMachine]:
    placed, position = [], 0
    for vm in vms:
        while position < len(listed) and not room.take(listed[position], vm):
            position += 1
        if position == len(listed):
            raise InputError(f"{where}: no room for VM {vm.name} on {', '.join(listed[:5])}")
        placed.append(vm.starting_on(listed[position]))
    return placed


def _skewed(
    vms: list[VirtualMachine], listed: Sequence[str], rule: Spec, room: _Room, where: str
) -> list[VirtualMachine]:
    hot = listed if "nodes" in rule else listed[: max(1, len(listed) // 5)]
    count = round(rule.get("hotShare", DEFAULT_HOT_SHARE) * len(vms))
    placed = []
    for number, vm in enumerate(vms[:count]):
        node = hot[number % len(hot)]
        if not room.take(node, vm):
            raise InputError(f"{where}: no room for VM {vm.name} on {node}")
        placed.append(vm.starting_on(node))
    return placed + vms[count:]


_PLACE: Final = {"scheduler": _scheduler, "packed": _packed, "skewed": _skewed}
