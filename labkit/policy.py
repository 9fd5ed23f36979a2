"""The descheduler's policy: read, checked and changed as text, so that its comments survive.

Pure. What is known of a policy is what the lab changes in it: the query, the thresholds, the limits. The descheduler
itself reads the top level leniently and ignores a misspelt limit without a word; :func:`read_policy` refuses it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import yaml

from labkit.errors import InputError

__all__ = ["Policy", "read_policy"]

PLUGIN: Final = "LowNodeUtilization"
RESOURCE: Final = "MetricResource"
"""The one resource that thresholds name where usage comes from Prometheus."""
API_VERSION: Final = "descheduler/v1alpha2"

TOP_LEVEL: Final = frozenset(
    {
        "apiVersion", "kind", "profiles", "nodeSelector", "maxNoOfPodsToEvictPerNode",
        "maxNoOfPodsToEvictPerNamespace", "maxNoOfPodsToEvictTotal", "evictionFailureEventNotification",
        "gracePeriodSeconds", "metricsCollector", "metricsProviders",
    }
)  # fmt: skip

Path = tuple[str | int, ...]


@dataclass(frozen=True)
class Policy:
    """A policy that the lab can work with; made by :func:`read_policy`.

    Parameters
    ----------
    text : str
        The file ``policy.yaml``.
    query : str
        PromQL that yields each node's usage.
    node_selector : str
        Label selector of the nodes that take part; empty for all.
    low, high : float
        Thresholds in percentage points; below and above the mean if ``deviation``.
    deviation : bool
        Whether the thresholds are relative to the mean.
    evictions_per_node : int or None
        Limit per node and cycle of the plugin; None lets it evict one.
    evictions_total : int or None
        Limit per cycle; None is no limit.
    """

    text: str
    query: str
    node_selector: str
    low: float
    high: float
    deviation: bool
    evictions_per_node: int | None
    evictions_total: int | None

    def with_query(self, query: str) -> Policy:
        """Return the policy with another query.

        Raises
        ------
        InputError
            If the query is empty.
        """
        if not query.strip():
            raise InputError("wanted a PromQL query for the policy, found an empty one")
        return self._changed({(*self._arguments, "metricsUtilization", "prometheus", "query"): query})

    def with_thresholds(self, low: float, high: float) -> Policy:
        """Return the policy with deviation thresholds, in percentage points below and above the mean."""
        return self._changed(
            {
                (*self._arguments, "useDeviationThresholds"): True,
                (*self._arguments, "thresholds", RESOURCE): _whole(low),
                (*self._arguments, "targetThresholds", RESOURCE): _whole(high),
            }
        )

    def with_limits(self, *, per_node: int | None = None, total: int | None = None) -> Policy:
        """Return the policy with other limits of evictions per cycle; what is None stays.

        Notes
        -----
        The limit per node stands in two places: the plugin's own (how many it asks for) and the evictor's (which
        counts evictions that are under way, too). Both get the same number, as in production's profile.
        """
        changes: dict[Path, Any] = {}
        for limit in (per_node, total):
            if limit is not None and limit < 1:
                raise InputError(f"wanted a limit of 1 eviction or more, found {limit}")
        if per_node is not None:
            changes[*self._arguments, "evictionLimits", "node"] = per_node
            changes["maxNoOfPodsToEvictPerNode",] = per_node
        if total is not None:
            changes["maxNoOfPodsToEvictTotal",] = total
        return self._changed(changes)

    @property
    def _arguments(self) -> Path:
        return _arguments_path(yaml.safe_load(self.text))

    def _changed(self, changes: Mapping[Path, Any]) -> Policy:
        text = self.text
        for path, value in changes.items():
            text = _with_value(text, path, value)
        return read_policy(text)


def read_policy(text: str) -> Policy:
    """Read and check a policy.

    Raises
    ------
    InputError
        If it is no policy that takes node usage from Prometheus; names what is wrong.
    """
    try:
        content = yaml.safe_load(text)
    except yaml.YAMLError as exc:
        raise InputError(f"wanted a descheduler policy, found no YAML: {exc}") from exc
    if not isinstance(content, dict) or content.get("apiVersion") != API_VERSION:
        found = content.get("apiVersion") if isinstance(content, dict) else type(content).__name__
        raise InputError(f"wanted a descheduler policy of {API_VERSION}, found {found}")
    unknown = sorted(set(content) - TOP_LEVEL)
    if unknown:
        raise InputError(
            f"policy: unknown field {unknown[0]!r}, which the descheduler would ignore; wanted one of "
            f"{', '.join(sorted(TOP_LEVEL))}"
        )
    arguments = _at(content, _arguments_path(content))
    source = _at(arguments, ("metricsUtilization", "source"))
    query = _at(arguments, ("metricsUtilization", "prometheus", "query"))
    if source != "Prometheus" or not isinstance(query, str) or not query.strip():
        raise InputError(
            f"policy: wanted metricsUtilization of {PLUGIN} with source Prometheus and a query, found "
            f"source {source!r} and query {query!r}"
        )
    providers = content.get("metricsProviders") or []
    if not any(_at(entry, ("prometheus", "url")) for entry in providers if isinstance(entry, dict)):
        raise InputError("policy: wanted metricsProviders with the URL of Prometheus, found none")
    deviation = bool(arguments.get("useDeviationThresholds"))
    low, high = (_threshold(arguments, name) for name in ("thresholds", "targetThresholds"))
    if not deviation and low > high:
        raise InputError(f"policy: wanted thresholds at most targetThresholds, found {low:g} and {high:g}")
    return Policy(
        text=text,
        query=query,
        node_selector=str(content.get("nodeSelector") or ""),
        low=low,
        high=high,
        deviation=deviation,
        evictions_per_node=_limit(arguments, ("evictionLimits", "node")),
        evictions_total=_limit(content, ("maxNoOfPodsToEvictTotal",)),
    )


def _arguments_path(content: Any) -> Path:
    """Return where the arguments of the one enabled LowNodeUtilization stand."""
    found: list[Path] = []
    for profile_index, profile in enumerate(_at(content, ("profiles",)) or []):
        if PLUGIN not in (_at(profile, ("plugins", "balance", "enabled")) or []):
            continue
        for index, entry in enumerate(_at(profile, ("pluginConfig",)) or []):
            if _at(entry, ("name",)) == PLUGIN and isinstance(_at(entry, ("args",)), dict):
                found.append(("profiles", profile_index, "pluginConfig", index, "args"))
    if len(found) != 1:
        raise InputError(
            f"policy: wanted one profile that enables {PLUGIN} under plugins.balance and configures it, "
            f"found {len(found)}"
        )
    return found[0]


def _threshold(arguments: Mapping[str, Any], name: str) -> float:
    value = arguments.get(name)
    if not isinstance(value, dict) or set(value) != {RESOURCE}:
        raise InputError(f"policy: wanted {name} with {RESOURCE} alone, found {value!r}")
    number = value[RESOURCE]
    if isinstance(number, bool) or not isinstance(number, int | float) or not 0 <= number <= 100:
        raise InputError(f"policy: wanted {name}.{RESOURCE} within 0 to 100, found {number!r}")
    return float(number)


def _limit(content: Mapping[str, Any], path: Path) -> int | None:
    value = _at(content, path)
    if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 0):
        raise InputError(f"policy: wanted {path[-1]} as a whole number, found {value!r}")
    return value


def _at(content: Any, path: Path) -> Any:
    for step in path:
        known = isinstance(content, list if isinstance(step, int) else dict)
        content = (content[step] if isinstance(step, int) else content.get(step)) if known else None
    return content


def _whole(number: float) -> float | int:
    return int(number) if number == int(number) else number


# --- changing text ----------------------------------------------------------------------------------


def _with_value(text: str, path: Path, value: Any) -> str:
    """Return a YAML text with one scalar set; everything else, comments included, stays where it is.

    A key that is not there yet cannot be put in by position; then, and only then, the text is written anew.
    """
    node: yaml.Node | None = yaml.compose(text, Loader=yaml.SafeLoader)
    for step in path:
        node = _child(node, step)
    if isinstance(node, yaml.ScalarNode):
        return text[: node.start_mark.index] + _scalar(value) + text[_end(text, node) :]
    content = yaml.safe_load(text)
    holder = content
    for step in path[:-1]:
        holder = holder.setdefault(step, {}) if isinstance(step, str) else holder[step]
    holder[path[-1]] = value
    written: str = yaml.safe_dump(content, sort_keys=False, width=10_000)
    return written


def _child(node: yaml.Node | None, step: str | int) -> yaml.Node | None:
    if isinstance(step, int):
        return node.value[step] if isinstance(node, yaml.SequenceNode) and step < len(node.value) else None
    if not isinstance(node, yaml.MappingNode):
        return None
    return next((value for key, value in node.value if key.value == step), None)


def _end(text: str, node: yaml.ScalarNode) -> int:
    """Return where a scalar ends; the mark of a block scalar lies after its last line break, which must stay."""
    end = node.end_mark.index
    if node.style in ("|", ">"):
        while end > node.start_mark.index and text[end - 1] in " \n":
            end -= 1
    return int(end)


def _scalar(value: Any) -> str:
    """Write a value on one line, quoted where it must be."""
    written: str = yaml.safe_dump(value, default_flow_style=True, width=float("inf"), default_style=None)
    line = written.removesuffix("...\n").strip()
    if "\n" in line:
        line = yaml.safe_dump(value, default_flow_style=True, width=float("inf"), default_style='"').strip()
    return line
