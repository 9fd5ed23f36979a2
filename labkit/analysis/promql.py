"""The metrics that PromQL can say too, for dashboards and for clusters that are no lab.

They need the base records of ``rules/scores.yaml``, node-exporter's pressure counters and KubeVirt's migration series.
``{window}`` is the time looked back over, ``{step}`` the scrape interval; both are wall time, so on a lab of tempo 15
seconds come out fifteen times too small. Placeholders are filled by :func:`expression`.
"""

from __future__ import annotations

from typing import Final

from labkit.errors import InputError
from labkit.names import BASE_RECORDS

_CPU, _MEMORY = BASE_RECORDS["cpu_usage"], BASE_RECORDS["memory_usage"]
_PRESSURE = BASE_RECORDS["cpu_pressure"]
_HOT: Final = f"clamp_max(({_CPU} > bool 0.8) + on (instance) ({_MEMORY} > bool 0.8), 1)"
_ARRIVED: Final = "max by (vmi, target) (max_over_time(kubevirt_vmi_migration_end_time_seconds[{window}]))"
_LEFT: Final = (
    'label_replace(max by (vmi, source) (max_over_time(kubevirt_vmi_migration_end_time_seconds[{window}])), "target", '
    '"$1", "source", "(.*)")'
)

EXPRESSIONS: Final = {
    "cpu_stddev": f"stddev({_CPU})",
    "memory_stddev": f"stddev({_MEMORY})",
    "pressure_stddev": f"stddev({_PRESSURE})",
    "cpu_cov": f"stddev({_CPU}) / avg({_CPU})",
    "memory_cov": f"stddev({_MEMORY}) / avg({_MEMORY})",
    "pressure_cov": f"stddev({_PRESSURE}) / (avg({_PRESSURE}) > 0) or stddev({_PRESSURE})",
    "cpu_range": f"max({_CPU}) - min({_CPU})",
    "memory_range": f"max({_MEMORY}) - min({_MEMORY})",
    "pressure_range": f"max({_PRESSURE}) - min({_PRESSURE})",
    "hot_nodes": f"sum({_HOT})",
    "hotspot_seconds": f"sum(sum_over_time({_HOT}[{{window}}:{{step}}])) * {{step_seconds}}",
    "psi_seconds": (
        "sum(increase(node_pressure_cpu_waiting_seconds_total[{window}]))"
        " + sum(increase(node_pressure_memory_waiting_seconds_total[{window}]))"
    ),
    "slatah": f"avg(avg_over_time(({_CPU} >= bool 1)[{{window}}:{{step}}]))",
    "migrations": "count(max_over_time(kubevirt_vmi_migration_succeeded[{window}])) or vector(0)",
    "migrations_failed": "count(max_over_time(kubevirt_vmi_migration_failed[{window}])) or vector(0)",
    # Its last arrival at a node is later than its last departure from there: the VM is back.
    "ping_pong": f"count({_ARRIVED} > on (vmi, target) {_LEFT}) or vector(0)",
}
"""Expression of each metric, by its name."""


def expression(name: str, *, window: str = "30m", step: str = "15s", step_seconds: str = "15") -> str:
    """Return a metric as PromQL.

    Parameters
    ----------
    name : str
        A key of :data:`EXPRESSIONS`.
    window, step : str
        As PromQL durations, or variables of a dashboard.
    step_seconds : str
        The step as a number.

    Raises
    ------
    InputError
        If PromQL has no such metric.
    """
    if name not in EXPRESSIONS:
        raise InputError(f"wanted one of {', '.join(EXPRESSIONS)}, found {name!r}")
    filled = EXPRESSIONS[name].replace("{window}", window).replace("{step}", step)
    return filled.replace("{step_seconds}", step_seconds)
