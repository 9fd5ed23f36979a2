"""The migration policy as the cluster states it: ConfigMap ``migration-policy``, KubeVirt's option names.

It is watched, so a changed limit holds for the next migration without a restart.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from labkit.errors import InputError
from labkit.migration import DEFAULT_LINK_BYTES_PER_SECOND, DEFAULT_POLICY, MigrationPolicy
from labkit.names import MIGRATION_POLICY_CONFIG_MAP as CONFIG_MAP
from labkit.units import parse_duration, parse_quantity

LINK_KEY: Final = "networkBandwidthMbps"
"""Capacity of each node's migration link, in each direction, in megabits (10^6 bit) per second."""


@dataclass(frozen=True)
class ClusterPolicy:
    """The limits and timers, and the nodes' links."""

    migration: MigrationPolicy = DEFAULT_POLICY
    link_bytes_per_second: float = DEFAULT_LINK_BYTES_PER_SECOND


def read_policy(data: Mapping[str, str]) -> ClusterPolicy:
    """Read the ConfigMap's data; an option that is not there has KubeVirt's default.

    Raises
    ------
    InputError
        If an option is unknown (a typing error must not be a default in silence) or its value is wrong.
    """
    values: dict[str, float] = {}
    for key, text in data.items():
        if key not in _OPTIONS and key != LINK_KEY:
            wanted = ", ".join(sorted([*_OPTIONS, LINK_KEY]))
            raise InputError(f"ConfigMap {CONFIG_MAP}: wanted options among {wanted}, found {key}")
        parse = float if key == LINK_KEY else _OPTIONS[key][1]
        try:
            values[key] = parse(str(text))
        except ValueError as exc:
            raise InputError(f"ConfigMap {CONFIG_MAP}: {key}: wanted a number, found {text!r}") from exc
        except InputError as error:
            raise InputError(f"ConfigMap {CONFIG_MAP}: {key}: {error}") from error
    link = values.pop(LINK_KEY, DEFAULT_LINK_BYTES_PER_SECOND * 8 / 1e6) * 1e6 / 8
    if not 0 < link < math.inf:
        raise InputError(f"ConfigMap {CONFIG_MAP}: {LINK_KEY}: wanted more than 0, found {data[LINK_KEY]!r}")
    options = {_OPTIONS[key][0]: value for key, value in values.items()}
    for name in ("parallel_per_cluster", "parallel_outbound_per_node"):
        if name in options:
            options[name] = int(options[name])
    return ClusterPolicy(MigrationPolicy(**options), link)  # type: ignore[arg-type]


_OPTIONS: Final[Mapping[str, tuple[str, Callable[[str], float]]]] = {
    "parallelMigrationsPerCluster": ("parallel_per_cluster", int),
    "parallelOutboundMigrationsPerNode": ("parallel_outbound_per_node", int),
    "bandwidthPerMigration": ("bandwidth_bytes_per_second", parse_quantity),
    "completionTimeoutPerGiB": ("completion_timeout_seconds_per_gb", parse_duration),
    "progressTimeout": ("progress_timeout_seconds", parse_duration),
    "maxDowntime": ("max_downtime_seconds", parse_duration),
    "pendingTimeout": ("pending_timeout_seconds", parse_duration),
    "backoffBase": ("backoff_base_seconds", parse_duration),
}
"""Option, the field of :class:`~labkit.migration.MigrationPolicy` that it sets, and how it is written."""
