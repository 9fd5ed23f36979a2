"""The loop on the real components: a real descheduler causes migrations, and the load spreads."""

from __future__ import annotations

import pytest

from labkit import Lab
from labkit.analysis.tables import COLUMNS
from labkit.clock import WALL_CLOCK, wait_until
from labkit.cluster import RunningLab
from labkit.lab import Run
from labkit.names import EXPORTER_PORT, PROMETHEUS_PORT
from labkit.prometheus import Prometheus

pytestmark = pytest.mark.live

DURATION = "8m"


@pytest.fixture(scope="module")
def runs(lab: RunningLab) -> dict[str, Run]:
    """Play the quickstart's scenario with production's algorithm, and without descheduling."""
    played = {}
    with Lab(backend=lab.backend, name=lab.name) as door:
        door.apply("quickstart", seed=7)
        for algorithm in ("linear_amplified_ippd_k3", "none"):
            door.use(algorithm)
            played[algorithm] = door.run(DURATION)
    return played


@pytest.fixture(scope="module")
def run(runs: dict[str, Run]) -> Run:
    return runs["linear_amplified_ippd_k3"]


def test_descheduler_evicts_and_vms_migrate(run: Run) -> None:
    assert run.summary["evictions_requested"] >= 4
    assert run.summary["migrations"] >= 4
    assert set(run.tables["evictions"]["result"]) == {"background"}


def test_spread_of_load_falls(run: Run) -> None:
    assert run.summary["cpu_stddev_final"] < 0.5 * run.summary["cpu_stddev_initial"]


def test_fewer_nodes_are_overutilized_at_the_end_than_at_the_start(run: Run) -> None:
    cycles = run.tables["cycles"]
    over = (cycles["class"] == "overutilized").groupby(cycles["time_seconds"]).sum()
    assert over.iloc[0] == 2
    assert over.iloc[-1] < 2


def test_without_descheduling_nothing_moves(runs: dict[str, Run]) -> None:
    idle = runs["none"]
    assert idle.summary["migrations"] == 0
    assert idle.summary["cpu_stddev_final"] == pytest.approx(idle.summary["cpu_stddev_initial"], abs=0.01)


def test_same_seed_starts_in_the_same_place(runs: dict[str, Run]) -> None:
    hot = {}
    for name, run in runs.items():
        placement = run.tables["placement"]
        start = placement[(placement["time_seconds"] == 0) & placement["vm"].str.startswith("busy")]
        hot[name] = start.sort_values("vm")["node"].tolist()
    assert hot["none"] == hot["linear_amplified_ippd_k3"]
    assert set(hot["none"]) == {"kwok-node-1", "kwok-node-2"}


def test_tables_have_the_shape_of_every_backend(run: Run) -> None:
    assert set(run.tables) == set(COLUMNS)
    for name, columns in COLUMNS.items():
        assert list(run.tables[name].columns) == list(columns)
        assert len(run.tables[name]) > 0, name


def test_every_migration_follows_an_eviction_of_that_vm(run: Run) -> None:
    evictions, migrations = run.tables["evictions"], run.tables["migrations"]
    for migration in migrations.itertuples():
        asked = evictions[(evictions["vm"] == migration.vm) & (evictions["node"] == migration.source)]
        assert (asked["time_seconds"] <= migration.requested_seconds + 60).any()


def test_migrations_and_placement_tell_the_same_story(run: Run) -> None:
    migrations, placement = run.tables["migrations"], run.tables["placement"]
    done = migrations[migrations["outcome"] == "succeeded"].sort_values("ended_seconds")
    where = placement[placement["time_seconds"] == 0].set_index("vm")["node"].to_dict()
    for migration in done.itertuples():
        assert where[migration.vm] == migration.source
        where[migration.vm] = migration.target
    assert where == placement.groupby("vm")["node"].last().to_dict()


def test_scores_are_one_per_node_within_bounds(run: Run) -> None:
    nodes = run.tables["nodes"]
    assert nodes["score"].between(0.0, 1.0).all()
    assert (nodes.groupby("time_seconds")["node"].nunique() == 5).all()


def test_exporter_tells_the_clusters_true_state(lab: RunningLab, runs: dict[str, Run]) -> None:
    import urllib3

    def shown() -> dict[str, int]:
        answer = urllib3.request("GET", f"{lab.url(EXPORTER_PORT)}/scenario", timeout=30).json()
        return {node["name"]: len(node["vms"]) for node in answer["nodes"] if node["vms"]}

    with Lab(backend=lab.backend, name=lab.name) as door:
        # The descheduler is at work again: a VM may move between the two questions.
        wait_until(
            lambda: shown() == door.vms().groupby("node").size().to_dict(),
            timeout_seconds=60,
            what="the exporter to show what the cluster says",
            found=lambda: f"{shown()} and {door.vms().groupby('node').size().to_dict()}",
        )


@pytest.mark.parametrize(
    "promql",
    [
        "descheduler:node:cpu_usage:ratio",
        "descheduler:cluster:cpu_usage:avg",
        "descheduler:node:ideal_point_positive_distance:score",
        "descheduler:node:linear_amplified_ippd_k3:score",
        "descheduler:node:cpu_pressure:psi > 0.1 or descheduler:node:memory_pressure:psi > 0.1",
    ],
)
def test_quickstart_queries_have_answers(lab: RunningLab, runs: dict[str, Run], promql: str) -> None:
    # By now the descheduler may have cooled the nodes: while the runs were played is when there is pressure.
    now = WALL_CLOCK.now()
    assert not Prometheus(lab.url(PROMETHEUS_PORT)).query_range(promql, now - 600.0, now, 5.0).empty
