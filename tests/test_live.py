"""The live view: what it shows, what it can be asked, and that a browser shows it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from browser import check_view, opened_notebook
from example_run import example_tables

from labkit import live
from labkit.clock import VirtualClock, wait_until
from labkit.errors import InputError
from labkit.lab import Lab
from labkit.scenario import load_scenario

ALGORITHM = "linear_amplified_ippd_k3"


@pytest.fixture(scope="module")
def clock() -> VirtualClock:
    return VirtualClock()


@pytest.fixture(scope="module")
def played(clock: VirtualClock) -> live.TwinSource:
    """Four minutes of the quickstart, a lab minute per second."""
    with Lab(backend="sim") as lab:
        scenario = load_scenario("quickstart").with_duration(240.0)
        return live.TwinSource(lab, scenario, ALGORITHM, speed=60.0, clock=clock)


def test_a_frame_is_json_and_keeps_only_the_latest_migrations() -> None:
    tables = example_tables(moves=12, vms=40)
    nodes = tables["nodes"].drop_duplicates("node", keep="last").assign(score=[0.1, 0.2, 0.3, 0.4, float("nan")])
    frame = live.make_frame(900.0, "k3", nodes, {"vm-1": "kwok-node-1"}, tables["migrations"])
    assert json.loads(json.dumps(frame)) == frame
    assert [row["score"] for row in frame["nodes"]] == [0.1, 0.2, 0.3, 0.4, None]
    assert frame["migrations_total"] == len(tables["migrations"])
    assert len(frame["migrations"]) == live.SHOWN_MIGRATIONS


def test_the_twin_is_played_at_the_chosen_speed(clock: VirtualClock, played: live.TwinSource) -> None:
    before = played.frame()
    clock.wait(2.0)
    after = played.frame()
    assert after["lab_seconds"] - before["lab_seconds"] == pytest.approx(120.0)
    assert before["migrations_total"] < after["migrations_total"]
    assert len(after["vms"]) == 50
    clock.wait(60.0)
    assert played.frame()["lab_seconds"] == 240.0


def test_another_algorithm_and_another_load_change_what_follows() -> None:
    clock = VirtualClock()
    with Lab(backend="sim") as lab:
        source = live.TwinSource(lab, load_scenario("quickstart").with_duration(180.0), "none", speed=60.0, clock=clock)
        clock.wait(1.0)
        source.set_load(["quiet-1"], 1.0)
        loaded = {row["node"]: row["cpu"] for row in source.frame()["nodes"]}
        clock.wait(2.0)
        later = {row["node"]: row["cpu"] for row in source.frame()["nodes"]}
        host = source.frame()["vms"]["quiet-1"]
        # One core of 32, less what it used before.
        assert 0.6 / 32 < later[host] - loaded[host] < 1.0 / 32
        assert source.frame()["migrations_total"] == 0
        source.use(ALGORITHM)
        assert source.frame()["migrations_total"] > 0
        assert source.frame()["algorithm"] == ALGORITHM
        with pytest.raises(InputError, match="wanted a VM of the scenario, found 'nobody'"):
            source.set_load(["nobody"], 0.5)


def test_the_twin_needs_a_scenario_and_a_speed() -> None:
    with Lab(backend="sim") as lab:
        with pytest.raises(InputError, match="wanted a scenario for the twin to play"):
            live.watch(lab)
        with pytest.raises(InputError, match="wanted a speed above 0"):
            live.watch(lab, scenario=load_scenario("quickstart"), speed=0.0)


class Asked:
    """A source that remembers what it was asked."""

    def __init__(self) -> None:
        self.wishes: list[tuple[Any, ...]] = []

    def frame(self) -> live.Frame:
        return {
            "lab_seconds": float(len(self.wishes)),
            "nodes": [],
            "vms": {"b": "n1", "c": "n2", "a": "n1"},
            "migrations": [],
        }

    def use(self, algorithm: str) -> None:
        if algorithm == "wrong":
            raise InputError("wanted another algorithm")
        self.wishes.append(("use", algorithm))

    def set_load(self, vms: Sequence[str], cpu: float) -> None:
        self.wishes.append(("load", *vms, cpu))


def test_wishes_are_carried_out_in_order_without_blocking_and_errors_are_shown() -> None:
    source = Asked()
    view = live.View(source, algorithms=["a", "b"], every_seconds=0.05)
    view.ask({"type": "use", "algorithm": "b"})
    view.ask({"type": "load", "vm": "vm-1", "cpu": 0.5})
    view.ask({"type": "load", "node": "n1", "cpu": 0.9})
    view.ask({"type": "dance"})
    view.ask({"type": "use", "algorithm": "wrong"})
    wait_until(lambda: view.message == "wanted another algorithm", timeout_seconds=20, what="the error in the view")
    assert source.wishes == [("use", "b"), ("load", "vm-1", 0.5), ("load", "a", "b", 0.9)]
    assert view.frame["lab_seconds"] == 3.0
    view.stop()
    view.close()


def test_nodes_stand_as_people_count() -> None:
    nodes = example_tables(nodes=12)["nodes"].drop_duplicates("node", keep="last")
    frame = live.make_frame(0.0, "k3", nodes, {}, example_tables(moves=0)["migrations"])
    assert [row["node"] for row in frame["nodes"]] == [f"kwok-node-{number}" for number in range(1, 13)]


class Broken(Asked):
    """A source that breaks now and then."""

    trouble: Exception | None = None

    def frame(self) -> live.Frame:
        if self.trouble is not None:
            raise self.trouble
        return super().frame()


def test_a_view_outlives_what_goes_wrong_and_says_so_for_as_long_as_it_does() -> None:
    source = Broken()
    view = live.View(source, algorithms=["a"], every_seconds=0.05)
    for trouble, told in ((InputError("no answer"), "no answer"), (KeyError("instance"), "KeyError: 'instance'")):
        source.trouble = trouble
        wait_until(lambda told=told: view.message == told, timeout_seconds=20, what="the trouble in the view")
        source.trouble = None
        wait_until(lambda: view.message == "", timeout_seconds=20, what="the trouble to be over")
    view.ask({"type": "load", "node": "n9", "cpu": 0.5})
    wait_until(lambda: "none on n9" in view.message, timeout_seconds=20, what="an empty node to be told")
    view.close()
    wait_until(lambda: not view._thread.is_alive(), timeout_seconds=20, what="the thread to end with the view")


def test_a_vm_that_came_during_the_run_can_be_given_a_load() -> None:
    clock = VirtualClock()
    scenario = load_scenario("churn")
    born = next(event for event in scenario.events(1) if event.type == "create_vms")
    with Lab(backend="sim") as lab:
        source = live.TwinSource(lab, scenario, "none", seed=1, speed=60.0, clock=clock)
        clock.wait(born.at_seconds / 60 + 2)
        source.set_load([born.vms[0].name], 0.9)


@pytest.mark.slow
@pytest.mark.timeout(500)
@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::DeprecationWarning")
def test_jupyterlab_in_a_browser_shows_the_view_and_takes_wishes(tmp_path: Path) -> None:
    source = (
        "from labkit import live\nfrom labkit.lab import Lab\nfrom labkit.scenario import load_scenario\n"
        'lab = Lab(backend="sim")\n'
        'view = live.watch(lab, scenario=load_scenario("quickstart").with_duration(600.0), speed=20)\nview'
    )
    with opened_notebook(source, tmp_path) as page:
        check_view(page, tmp_path)
