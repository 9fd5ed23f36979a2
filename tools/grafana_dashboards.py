"""Write the Grafana dashboards of ``k8s/dashboards``: the loop, the algorithms, a comparison of runs.

Import the JSON files in Grafana (Dashboards, New, Import) with the lab's Prometheus as data source. At tempo above 1
set the variable ``scrape`` to the lab's scrape interval (``1s`` at tempo 15). Every query is tried against a live run
by ``tests/live/test_dashboards.py``.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from grafana_foundation_sdk.builders import common, dashboard, prometheus, stat, timeseries
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.common import LegendDisplayMode, LegendPlacement
from grafana_foundation_sdk.models.dashboard import DataSourceRef

from labkit.analysis.promql import expression
from labkit.names import BASE_RECORDS
from labkit.scoring import NINETEEN
from tools.generated import write_or_check

FOLDER: Final = Path(__file__).parent.parent / "k8s" / "dashboards"
SOURCE: Final = DataSourceRef(type_val="prometheus", uid="${datasource}")
SCRAPE: Final = "$scrape"
WINDOW: Final = "$__range"
HALF_ROW: Final = 12
HEIGHT: Final = 8


def query(text: str, legend: str = "{{instance}}") -> prometheus.Dataquery:
    """Return a range query."""
    return prometheus.Dataquery().expr(text).legend_format(legend).datasource(SOURCE).range()


def lines(title: str, *queries: prometheus.Dataquery, about: str, unit: str = "short", top: float | None = None) -> Any:
    """Return a panel with one line per series."""
    panel = (
        timeseries.Panel().title(title).description(about).datasource(SOURCE).unit(unit).span(HALF_ROW).height(HEIGHT)
        .fill_opacity(0).line_width(2).min(0)
        .legend(common.VizLegendOptions().display_mode(LegendDisplayMode.LIST).placement(LegendPlacement.BOTTOM)
                .show_legend(True))
    )  # fmt: skip
    if top is not None:
        panel = panel.max(top)
    for each in queries:
        panel = panel.with_target(each)
    return panel


def number(title: str, text: str, *, about: str, unit: str = "short") -> Any:
    """Return a panel with one number."""
    target = prometheus.Dataquery().expr(text).datasource(SOURCE).instant()
    return (
        stat.Panel().title(title).description(about).datasource(SOURCE).unit(unit).span(4).height(4).with_target(target)
    )


def board(name: str, title: str, about: str) -> Any:
    """Return an empty dashboard with the variables that all have."""
    return (
        dashboard.Dashboard(title).uid(f"labkit-{name}").description(about).tags(["labkit"]).editable()
        .refresh("5s").time("now-15m", "now").timezone("browser")
        .with_variable(dashboard.DatasourceVariable("datasource").label("Prometheus").type("prometheus"))
        .with_variable(dashboard.CustomVariable("scrape").label("scrape interval").values("15s,5s,3s,1s"))
    )  # fmt: skip


def loop() -> Any:
    """Return the dashboard of the closed loop, from load to migration."""
    return (
        board("loop", "Lab: the loop", "From the load of the nodes to the migrations that it causes.")
        .with_panel(lines("CPU use", query(BASE_RECORDS["cpu_usage"]), unit="percentunit", top=1,
                          about="Share of each node's cores in use."))
        .with_panel(lines("Memory use", query(BASE_RECORDS["memory_usage"]), unit="percentunit", top=1,
                          about="Share of each node's memory in use."))
        .with_panel(lines("CPU pressure", query(BASE_RECORDS["cpu_pressure"]), unit="percentunit",
                          about="Share of time in which some task waited for a CPU (PSI)."))
        .with_panel(lines("Memory pressure", query(BASE_RECORDS["memory_pressure"]), unit="percentunit",
                          about="Share of time in which some task waited for memory (PSI)."))
        .with_panel(lines("Migrations under way",
                          query("kubevirt_vmi_migrations_in_pending_phase", "pending"),
                          query("kubevirt_vmi_migrations_in_scheduling_phase", "scheduling"),
                          query("kubevirt_vmi_migrations_in_running_phase", "running"),
                          about="By phase; KubeVirt runs five at once, two per source node."))
        .with_panel(lines("Migrations and evictions so far",
                          query("sum by (outcome) (lab_migrations_total)", "migrations {{outcome}}"),
                          query("sum by (result) (lab_evictions_total)", "evictions {{result}}"),
                          about="Evictions are what was asked for, migrations what came of it."))
        .with_panel(lines("Imbalance", query(expression("cpu_stddev"), "CPU"),
                          query(expression("memory_stddev"), "memory"),
                          query(expression("pressure_stddev"), "CPU pressure"),
                          about="Population standard deviation over nodes."))
        .with_panel(lines("Requests of the descheduler",
                          query("sum by (node, result) (descheduler_pods_evicted_total)", "{{node}} {{result}}"),
                          about="Evictions by node, as the descheduler counts them."))
    )  # fmt: skip


def algorithms() -> Any:
    """Return the dashboard of every algorithm's scores side by side."""
    found = board("algorithms", "Lab: the algorithms", "The score of each node by each algorithm, at the same moment.")
    for algorithm in NINETEEN:
        found = found.with_panel(
            lines(algorithm.name.replace("_", " "), query(algorithm.records["avg1m"]), top=1,
                  about=f"{algorithm.description[0].upper()}{algorithm.description[1:]}.")
        )  # fmt: skip
    return found


def run_comparison() -> Any:
    """Return the dashboard of the numbers of a run over the time range that is shown."""

    def over_range(name: str) -> str:
        return expression(name, window=WINDOW, step=SCRAPE, step_seconds="$scrape_seconds")

    return (
        board("run-comparison", "Lab: the numbers of a run",
              "Select the time range of one run; open a second tab on another to compare. Seconds are wall time.")
        .with_variable(dashboard.CustomVariable("scrape_seconds").label("the same in seconds").values("15,5,3,1"))
        .with_panel(number("Hot spots", over_range("hotspot_seconds"), unit="s",
                           about="Node-seconds with CPU or memory use above 80 %."))
        .with_panel(number("Stall", over_range("psi_seconds"), unit="s", about="Node-seconds of pressure."))
        .with_panel(number("Migrations", over_range("migrations"), about="That ended on their target."))
        .with_panel(number("Back and forth", over_range("ping_pong"), about="VMs that are back on a node they left."))
        .with_panel(number("Full", over_range("slatah"), unit="percentunit", about="Mean share of time at 100 % CPU."))
        .with_panel(number("Failed", over_range("migrations_failed"), about="Migrations that failed."))
        .with_panel(lines("CPU imbalance", query(expression("cpu_stddev"), "standard deviation"),
                          query(expression("cpu_range"), "largest - smallest"), about="Over nodes."))
        .with_panel(lines("Relative imbalance", query(expression("cpu_cov"), "coefficient of variation"),
                          about="Standard deviation over mean: comparable between levels of load."))
        .with_panel(lines("Hot nodes", query(expression("hot_nodes"), "nodes"), about="CPU or memory use above 80 %."))
        .with_panel(lines("Migrations so far", query("sum by (outcome) (lab_migrations_total)", "{{outcome}}"),
                          about="Since the pod manager started."))
    )  # fmt: skip


BOARDS: Final = {"loop": loop, "algorithms": algorithms, "run-comparison": run_comparison}


def rendered() -> dict[Path, str]:
    """Return every file and what it should hold."""
    return {
        FOLDER / f"{name}.json": json.dumps(json.loads(JSONEncoder(sort_keys=True, indent=1).encode(make().build())),
                                            indent=1, sort_keys=True) + "\n"
        for name, make in BOARDS.items()
    }  # fmt: skip


def queries(board_json: dict[str, Any]) -> list[str]:
    """Return every query of a dashboard."""
    return [target["expr"] for panel in board_json["panels"] for target in panel.get("targets", [])]


def main(argv: Sequence[str] | None = None) -> int:
    """Write the files, or tell which one is out of date."""
    return write_or_check(__doc__, rendered, argv)


if __name__ == "__main__":
    sys.exit(main())
