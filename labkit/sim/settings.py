"""What a run of the twin can be told: the policy, which experiments vary, and the timing of the machine it imitates."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, Final

from labkit.descheduling import DEFAULT_THRESHOLDS, EvictionLimits, Thresholds, parse_thresholds
from labkit.errors import InputError
from labkit.migration import DEFAULT_POLICY, MigrationPolicy
from labkit.names import DESCHEDULING_INTERVAL_SECONDS, EVALUATION_INTERVAL_SECONDS
from labkit.units import parse_duration


@dataclass(frozen=True)
class Policy:
    """How the loop is set; the defaults are the production profile at the quickstart's cadence.

    Parameters
    ----------
    thresholds : Thresholds
        Deviations from the mean score, in points.
    evictions_per_node, evictions_total : int
        Per descheduling cycle, migrations under way included.
    descheduling_interval_seconds, evaluation_interval_seconds : float
        Lab seconds.
    migrations_per_cluster, migrations_per_node : int
        Migrations that run at once, and those that leave one node.
    soft_taints : bool
        Whether the soft-tainter runs.
    migration_cooldown_seconds : float or None
        Least time between a VM's migrations, doubling with each recent one (KubevirtMigrationAware); None without.
    """

    thresholds: Thresholds = DEFAULT_THRESHOLDS
    evictions_per_node: int = 2
    evictions_total: int = 5
    descheduling_interval_seconds: float = DESCHEDULING_INTERVAL_SECONDS
    evaluation_interval_seconds: float = EVALUATION_INTERVAL_SECONDS
    migrations_per_cluster: int = DEFAULT_POLICY.parallel_per_cluster
    migrations_per_node: int = DEFAULT_POLICY.parallel_outbound_per_node
    soft_taints: bool = False
    migration_cooldown_seconds: float | None = None

    @property
    def eviction_limits(self) -> EvictionLimits:
        """The descheduler's limits: one number limits both the plugin and the evictor, as in production."""
        return EvictionLimits(self.evictions_per_node, self.evictions_per_node, self.evictions_total)

    @property
    def migration(self) -> MigrationPolicy:
        """KubeVirt's limits."""
        return replace(
            DEFAULT_POLICY,
            parallel_per_cluster=self.migrations_per_cluster,
            parallel_outbound_per_node=self.migrations_per_node,
        )


_COUNTS: Final = ("evictions_per_node", "evictions_total", "migrations_per_cluster", "migrations_per_node")
_DURATIONS: Final = {
    "descheduling_interval": "descheduling_interval_seconds",
    "evaluation_interval": "evaluation_interval_seconds",
    "migration_cooldown": "migration_cooldown_seconds",
}


def parse_policy(given: Mapping[str, Any] | Policy | None) -> Policy:
    """Read a policy as experiment files write it: only what differs from production.

    Raises
    ------
    InputError
        If a factor is unknown or its value is wrong.
    """
    if isinstance(given, Policy):
        return given
    values: dict[str, Any] = {}
    for name, value in (given or {}).items():
        if name == "thresholds":
            values[name] = value if isinstance(value, Thresholds) else parse_thresholds(str(value))
        elif name in _COUNTS:
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise InputError(f"policy.{name}: wanted a whole number, 1 or more, found {value!r}")
            values[name] = value
        elif name in _DURATIONS:
            seconds = _seconds(name, value)
            # No cooldown is what leaving it out means.
            values[_DURATIONS[name]] = seconds or None if name == "migration_cooldown" else seconds
        elif name == "soft_taints":
            if not isinstance(value, bool):
                raise InputError(f"policy.{name}: wanted true or false, found {value!r}")
            values[name] = value
        else:
            wanted = ", ".join(sorted(["thresholds", "soft_taints", *_COUNTS, *_DURATIONS]))
            raise InputError(f"policy.{name}: unknown factor, wanted one of {wanted}")
    return Policy(**values)


def _seconds(name: str, value: Any) -> float:
    try:
        seconds = parse_duration(value)
    except InputError as exc:
        raise InputError(f"policy.{name}: {exc}") from exc
    if seconds <= 0 and name != "migration_cooldown":
        raise InputError(f"policy.{name}: wanted more than 0, found {value!r}")
    return seconds


@dataclass(frozen=True)
class Timing:
    """What a machine adds to the loop; all in lab seconds.

    A live run measures its own (``Run.timing``), so that the twin can be given the same.

    Parameters
    ----------
    scrape_phase_seconds : float
        First scrape at or after lab time 0; Prometheus derives it from a hash of the host's name.
    rule_lag_seconds : float
        From a scrape to the next evaluation; from a hash of the rule file's path.
    score_lag_seconds : float
        How old an evaluation must be for a cycle to see its scores: Prometheus dates them by the evaluation's start and
        has them at its end, and a cycle asks a little before it is logged.
    first_cycle_seconds : float
        First descheduling cycle.
    cycle_seconds : float or None
        Distance of cycles as measured; None is the policy's interval.
    cycle_times_seconds : tuple of float
        Every cycle's instant as measured, for the imitation of a run whose machine skipped some; empty is the rhythm
        of the two above.
    request_seconds : float
        Between two eviction requests of one cycle: the descheduler waits for each answer.
    start_seconds : float
        From an accepted eviction to the start of the copy: software, which no tempo makes quicker.
    end_seconds : float
        From the end of a copy to the VM's running on its target.
    """

    scrape_phase_seconds: float = 1.0
    rule_lag_seconds: float = 4.0
    score_lag_seconds: float = 0.0
    first_cycle_seconds: float = 30.0
    cycle_seconds: float | None = None
    cycle_times_seconds: tuple[float, ...] = ()
    request_seconds: float = 0.0
    start_seconds: float = 0.0
    end_seconds: float = 0.0


def parse_timing(given: Mapping[str, Any] | Timing | None) -> Timing:
    """Read a timing as a live run's ``timing`` has it; what it does not say is as by default.

    Raises
    ------
    InputError
        If a value is negative or no number. Keys that the twin does not know are ignored: a later lab measures more.
    """
    if isinstance(given, Timing):
        return given
    known = {field.name for field in fields(Timing)}
    values = {name: value for name, value in (given or {}).items() if name in known and value is not None}
    if "cycle_times_seconds" in values:
        values["cycle_times_seconds"] = tuple(sorted(values["cycle_times_seconds"]))
    for name, value in values.items():
        for seconds in value if isinstance(value, tuple) else (value,):
            if isinstance(seconds, bool) or not isinstance(seconds, (int, float)) or not seconds >= 0:
                raise InputError(f"timing.{name}: wanted seconds, 0 or more, found {seconds!r}")
    return Timing(**values)
