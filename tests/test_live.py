"""The live view: what it shows, what it can be asked, and that a browser shows it."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import nbformat
import pytest
from example_run import example_tables
from nbformat.v4 import new_code_cell, new_notebook

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
        with pytest.raises(InputError, match="wanted a VM of the scenario's start, found 'nobody'"):
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


class Page:
    """A page of a headless browser, spoken to over its debugging protocol."""

    def __init__(self, url: str) -> None:
        import websocket

        self._socket = websocket.create_connection(url, timeout=60, suppress_origin=True)
        self._count = 0
        self.errors: list[str] = []
        self.call("Runtime.enable")

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        self._count += 1
        self._socket.send(json.dumps({"id": self._count, "method": method, "params": parameters}))
        while True:
            answer = json.loads(self._socket.recv())
            if answer.get("method") == "Runtime.exceptionThrown":
                self.errors.append(answer["params"]["exceptionDetails"].get("text", ""))
            if answer.get("id") == self._count:
                result: dict[str, Any] = answer.get("result", {})
                return result

    def value(self, script: str) -> Any:
        found = self.call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        return found.get("result", {}).get("value")

    def close(self) -> None:
        self._socket.close()


@pytest.fixture
def page(tmp_path: Path) -> Iterator[Page]:
    """A notebook with the view, in a real JupyterLab, in a real browser."""
    browser = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if browser is None:
        pytest.skip("not run: no Chromium on this machine")
    source = (
        "from labkit import live\nfrom labkit.lab import Lab\nfrom labkit.scenario import load_scenario\n"
        'lab = Lab(backend="sim")\n'
        'view = live.watch(lab, scenario=load_scenario("quickstart").with_duration(600.0), speed=20)\nview'
    )
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    nbformat.write(new_notebook(cells=[new_code_cell(source)], metadata=kernel), tmp_path / "view.ipynb")
    environment = os.environ | {"HOME": str(tmp_path), "JUPYTER_CONFIG_DIR": str(tmp_path / "config")}
    server = subprocess.Popen(
        [sys.executable, "-m", "jupyterlab", "--no-browser", "--ip=127.0.0.1", "--port=0", "--allow-root",
         "--IdentityProvider.token=secret", "--LabApp.expose_app_in_browser=True", f"--ServerApp.root_dir={tmp_path}"],
        env=environment, stdout=subprocess.DEVNULL, stderr=(tmp_path / "lab.log").open("wb"),
    )  # fmt: skip
    chrome = None
    opened: Page | None = None
    try:
        address = re.compile(r"http://127\.0\.0\.1:(\d+)/lab")
        port = wait_until(
            lambda: address.search((tmp_path / "lab.log").read_text()), timeout_seconds=90, what="JupyterLab"
        )
        chrome = subprocess.Popen(
            [browser, "--headless=new", "--no-sandbox", "--disable-gpu", "--remote-debugging-port=0",
             f"--user-data-dir={tmp_path / 'profile'}", "--window-size=1300,1000",
             f"http://127.0.0.1:{port[1]}/lab/tree/view.ipynb?token=secret"],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        told = tmp_path / "profile" / "DevToolsActivePort"
        wait_until(lambda: told.exists() and told.read_text().strip(), timeout_seconds=60, what="the browser")
        base = f"http://127.0.0.1:{told.read_text().split()[0]}/json"
        target = wait_until(
            lambda: [t for t in json.load(urlopen(base)) if t["type"] == "page"], timeout_seconds=60, what="a page"
        )  # fmt: skip
        opened = Page(target[0]["webSocketDebuggerUrl"])
        yield opened
    finally:
        if opened is not None:
            opened.close()
        for process in filter(None, (chrome, server)):
            process.terminate()
            process.wait(timeout=30)


@pytest.mark.slow
@pytest.mark.timeout(500)
@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::DeprecationWarning")
def test_jupyterlab_in_a_browser_shows_the_view_and_takes_wishes(page: Page, tmp_path: Path) -> None:
    import base64

    ready = "window.jupyterapp?.shell.currentWidget?.sessionContext?.session?.kernel?.status === 'idle'"
    wait_until(lambda: page.value(ready), timeout_seconds=120, poll_seconds=1, what="the notebook in JupyterLab")
    shown = "document.querySelectorAll('.labkit-view svg polyline').length"

    untouched = "document.querySelector('.jp-InputPrompt').textContent.includes('[ ]')"

    def run_until_shown() -> bool:
        # Without a kernel yet the command does nothing: it is given again while no cell has begun.
        if page.value(untouched):
            page.value("void window.jupyterapp.commands.execute('notebook:run-all-cells')")
        return bool(page.value(shown))

    notebook = "document.querySelector('.jp-Notebook').innerText"
    wait_until(
        run_until_shown, timeout_seconds=200, poll_seconds=4, what="the view", found=lambda: str(page.value(notebook))
    )
    assert page.value(shown) == 10  # five nodes in two charts
    clock = "document.querySelector('.labkit-clock').textContent"
    before = page.value(clock)
    wait_until(lambda: page.value(clock) != before, timeout_seconds=30, poll_seconds=0.5, what="time to go on")
    page.value(
        "(() => { const s = document.querySelector('.labkit-algorithm'); s.value = 'weighted_average';"
        " s.dispatchEvent(new Event('change')); s.blur(); })()"
    )
    switched = (
        "document.querySelector('.labkit-algorithm').value === 'weighted_average'"
        " && document.querySelector('.labkit-message').textContent === ''"
    )
    wait_until(lambda: page.value(switched), timeout_seconds=60, poll_seconds=0.5, what="the switch")
    last = (
        "(() => { const p = document.querySelectorAll('.labkit-view svg')[1].querySelectorAll('polyline')[2].points;"
        " return p[p.length - 1].y; })()"
    )
    idle = page.value(last)
    page.value(
        "(() => { const v = document.querySelector('.labkit-vm'); v.value = 'node:kwok-node-3';"
        " const l = document.querySelector('.labkit-load'); l.value = 1; l.dispatchEvent(new Event('change')); })()"
    )
    wait_until(lambda: page.value(last) < idle - 5, timeout_seconds=60, poll_seconds=0.5, what="the node's load")
    picture = page.call("Page.captureScreenshot", format="png")["data"]
    (tmp_path / "view.png").write_bytes(base64.b64decode(picture))
    assert not page.errors
