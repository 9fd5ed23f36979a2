"""Write the Grafana dashboards of ``k8s/dashboards``: the loop, the algorithms, a comparison of runs.

Import the JSON files in Grafana (Dashboards, New, Import) with the lab's Prometheus as data source. At tempo above 1
set the variable ``scrape`` of the comparison to the lab's scrape interval in seconds (1 at tempo 15). Every query is
tried against a live run by ``tests/live/test_dashboards.py``.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from string import ascii_uppercase
from typing import Any, Final

from grafana_foundation_sdk.builders import common, dashboard, prometheus, stat, timeseries
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.common import BigValueGraphMode, LegendDisplayMode, LegendPlacement
from grafana_foundation_sdk.models.dashboard import DataSourceRef

from labkit.analysis.promql import expression
from labkit.names import BASE_RECORDS
from labkit.scoring import NINETEEN
from tools.generated import write_or_check

FOLDER: Final = Path(__file__).parent.parent / "k8s" / "dashboards"
SOURCE: Final = DataSourceRef(type_val="prometheus", uid="${datasource}")
SCRAPE: Final = "${scrape}s"
SCRAPE_SECONDS: Final = "$scrape"
WINDOW: Final = "$__range"
EARLIER: Final = "$earlier"
VARIABLES: Final = {
    WINDOW: "15m", "${scrape}": "1", SCRAPE_SECONDS: "1", "${algorithm}": "linear_amplified_ippd_k3",
}  # fmt: skip
"""What Grafana fills into queries, and a value of each."""
HALF_ROW: Final = 12
HEIGHT: Final = 8
PRODUCTION: Final = "linear_amplified_ippd_k3"


NUMBERS: Final = (
    ("Hot spots", "hotspot_seconds", "s", "Node-seconds with CPU or memory use above 80 %."),
    ("Stall", "psi_seconds", "s", "Node-seconds of pressure."),
    ("Migrations", "migrations", "short", "That ended on their target."),
    ("Back and forth", "ping_pong", "short", "VMs that are back on a node they left."),
    ("Full", "slatah", "percentunit", "Mean share of time at 100 % CPU."),
    ("Failed", "migrations_failed", "short", "Migrations that failed."),
)
"""Title, metric, unit and meaning of each number of a run."""
CURVES: Final = (
    ("CPU imbalance", "cpu_stddev", "Population standard deviation over nodes."),
    ("CPU spread", "cpu_range", "Fullest less emptiest node."),
    ("Relative imbalance", "cpu_cov", "Standard deviation over mean: comparable between levels of load."),
    ("Hot nodes", "hot_nodes", "CPU or memory use above 80 %."),
)
"""Title, metric and meaning of what is drawn over time."""


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
    for letter, each in zip(ascii_uppercase, queries, strict=False):
        panel = panel.with_target(each.ref_id(letter))
    return panel


def number(title: str, text: str, *, about: str, unit: str = "short") -> Any:
    """Return a panel with one number."""
    target = prometheus.Dataquery().expr(text).datasource(SOURCE).instant().ref_id("A")
    return (
        stat.Panel().title(title).description(about).datasource(SOURCE).unit(unit).span(4).height(4).with_target(target)
        .graph_mode(BigValueGraphMode.NONE).reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]))
    )  # fmt: skip


def board(name: str, title: str, about: str) -> Any:
    """Return an empty dashboard with the variable that all have."""
    return (
        dashboard.Dashboard(title).uid(f"labkit-{name}").description(about).tags(["labkit"]).editable()
        .refresh("5s").time("now-15m", "now").timezone("browser")
        .with_variable(dashboard.DatasourceVariable("datasource").label("Prometheus").type("prometheus"))
    )  # fmt: skip


def filled(text: str) -> str:
    """Return a query with a value for each variable, as Grafana would send it."""
    for variable, value in VARIABLES.items():
        text = text.replace(variable, value)
    return text


def loop() -> Any:
    """Return the dashboard of the closed loop, from load to migration."""
    names = sorted((each.name for each in NINETEEN), key=lambda name: name != PRODUCTION)
    return (
        board("loop", "Lab: the loop", "From the load of the nodes to the migrations that it causes.")
        .with_variable(dashboard.CustomVariable("algorithm").label("score by").values(",".join(names)))
        .with_panel(lines("CPU use", query(BASE_RECORDS["cpu_usage"]), unit="percentunit", top=1,
                          about="Share of each node's cores in use."))
        .with_panel(lines("Memory use", query(BASE_RECORDS["memory_usage"]), unit="percentunit", top=1,
                          about="Share of each node's memory in use."))
        .with_panel(lines("CPU pressure", query(BASE_RECORDS["cpu_pressure"]), unit="percentunit",
                          about="Share of time in which some task waited for a CPU (PSI)."))
        .with_panel(lines("Memory pressure", query(BASE_RECORDS["memory_pressure"]), unit="percentunit",
                          about="Share of time in which some task waited for memory (PSI)."))
        .with_panel(lines("Score", query("descheduler:node:${algorithm}:avg1m"), top=1,
                          about="What the descheduler goes by if its policy names this algorithm."))
        .with_panel(lines("VMs", query("max by (instance) (node_vm_count)"), about="How many VMs run on each node."))
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
    """Return the dashboard that lays a run beside an earlier one of the same length."""
    found = (
        board("run-comparison", "Lab: two runs side by side",
              "Select the time range of the later run, and how much earlier the other began. Seconds are wall time.")
        .with_variable(dashboard.TextBoxVariable("earlier").label("the other began earlier by").default_value("30m"))
        .with_variable(dashboard.CustomVariable("scrape").label("scrape interval, seconds").values("15,5,3,1"))
    )  # fmt: skip
    for title, name, unit, about in NUMBERS:
        text = expression(name, window=WINDOW, step=SCRAPE, step_seconds=SCRAPE_SECONDS)
        found = found.with_panel(number(title, text, unit=unit, about=about))
    for title, name, unit, about in NUMBERS:
        text = expression(name, window=WINDOW, step=SCRAPE, step_seconds=SCRAPE_SECONDS)
        found = found.with_panel(number(f"{title}, earlier", text, unit=unit, about=about).time_shift(EARLIER))
    for title, name, about in CURVES:
        for panel in (lines(title, query(expression(name), title.lower()), about=about),
                      lines(f"{title}, earlier", query(expression(name), title.lower()), about=about)
                      .time_shift(EARLIER)):  # fmt: skip
            found = found.with_panel(panel)
    return found


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
