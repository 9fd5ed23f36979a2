"""What the numbers of a summary mean: words, unit, which way is better, and what difference matters."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Final, Literal

from labkit.errors import InputError


@dataclass(frozen=True)
class Metric:
    """One number of a run's summary.

    Parameters
    ----------
    name : str
        Key in the summary.
    title, unit : str
        For figures and sentences.
    better : {"lower", "higher"}
        Which way is better.
    rope : float
        Region of practical equivalence: a difference of at most this, either way, matters to nobody.
        In the metric's unit, per run.
    censored : bool
        A run may end before the event happens; its value is then None, and means are restricted to the run's
        length (the restricted mean survival time), never taken over a made-up value.
    needs : str
        Key of the summary without which the number is not defined: a run without descheduling cycles cannot converge,
        and its nodes are in no class. Empty where it is defined for every run.
    """

    name: str
    title: str
    unit: str
    better: Literal["lower", "higher"] = "lower"
    rope: float = 0.0
    censored: bool = False
    needs: str = ""

    @property
    def sign(self) -> int:
        """1 where lower is better, -1 where higher is."""
        return 1 if self.better == "lower" else -1


_ALL: Final = (
    Metric("hotspot_seconds", "Hot spots", "node-seconds above 80 %", rope=60.0),
    Metric("migrations", "Migrations", "", rope=1.0),
    Metric("time_to_converge_seconds", "Time to converge", "s", rope=60.0, censored=True, needs="cycles"),
    Metric("time_to_settle_seconds", "Time to settle", "s", rope=60.0, censored=True),
    Metric("cpu_stddev_mean", "CPU imbalance", "standard deviation, mean over time", rope=0.01),
    Metric("cpu_stddev_final", "CPU imbalance at the end", "standard deviation", rope=0.01),
    Metric("memory_stddev_mean", "Memory imbalance", "standard deviation, mean over time", rope=0.01),
    Metric("memory_stddev_final", "Memory imbalance at the end", "standard deviation", rope=0.01),
    Metric("pressure_stddev_mean", "Pressure imbalance", "standard deviation, mean over time", rope=0.01),
    Metric("cpu_range_final", "CPU spread at the end", "largest - smallest", rope=0.02),
    Metric("cpu_cov_final", "CPU coefficient of variation at the end", "", rope=0.02),
    Metric("memory_range_final", "Memory spread at the end", "largest - smallest", rope=0.02),
    Metric("memory_cov_final", "Memory coefficient of variation at the end", "", rope=0.02),
    Metric("pressure_range_final", "Pressure spread at the end", "largest - smallest", rope=0.02),
    Metric("pressure_cov_final", "Pressure coefficient of variation at the end", "", rope=0.02),
    Metric("psi_seconds", "Stall", "node-seconds of pressure", rope=30.0),
    Metric("ping_pong_migrations", "Ping-pong", "migrations back", rope=1.0),
    Metric("wasted_migrations", "Wasted migrations", "", rope=1.0),
    Metric("migrations_per_vm", "Migrations per VM", "", rope=0.02),
    Metric("migration_seconds", "Time in migration", "VM-seconds", rope=30.0),
    Metric("bytes_moved", "Bytes moved", "bytes", rope=2.0**30),
    Metric("downtime_seconds", "Downtime", "VM-seconds", rope=0.5),
    Metric("evictions_requested", "Evictions requested", "", rope=1.0),
    Metric("control_delay_seconds", "Control delay", "s", rope=15.0, censored=True, needs="cycles"),
    Metric("slatah", "SLATAH", "share of active time at 100 % CPU", rope=0.005),
    Metric("pdm", "PDM", "share of work lost to migrations", rope=0.0001),
    Metric("happiness_mean", "Happiness", "delivered over demanded CPU, mean over VMs", better="higher", rope=0.005),
    Metric("happiness_min", "Least happy VM", "delivered over demanded CPU", better="higher", rope=0.02),
    Metric("unhappy_vms_ratio", "Unhappy VMs", "share of VMs that got less than 95 % of their CPU", rope=0.02),
    Metric("regret", "Regret", "standard deviation of CPU above the best reachable", rope=0.01),
    Metric("overutilized_node_cycles", "Over-utilised", "node-cycles", rope=2.0, needs="cycles"),
    Metric("underutilized_node_cycles", "Under-utilised", "node-cycles", rope=2.0, needs="cycles"),
)

METRICS: Final = {metric.name: metric for metric in _ALL}
"""Every metric that experiments can be judged by."""


def get(name: str, *, known: Collection[str] = METRICS) -> Metric:
    """Return a metric by its name.

    Raises
    ------
    InputError
        If there is none.
    """
    if name not in METRICS:
        raise InputError(f"wanted a metric of {', '.join(sorted(known))}; found {name!r}")
    return METRICS[name]
