"""A real JupyterLab in a real browser, for tests of what people look at."""

from __future__ import annotations

import base64
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_notebook

from labkit.clock import wait_until
from labkit.cluster.config import cache_home, state_home


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


@contextmanager
def opened_notebook(source: str, folder: Path) -> Iterator[Page]:
    """Open a notebook of one cell, in a JupyterLab of its own with a home of its own."""
    browser = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if browser is None:
        pytest.skip("not run: no Chromium on this machine")
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    nbformat.write(new_notebook(cells=[new_code_cell(source)], metadata=kernel), folder / "view.ipynb")
    environment = os.environ | {
        "LABKIT_STATE": str(state_home()),
        "LABKIT_CACHE": str(cache_home()),
        "HOME": str(folder),
        "JUPYTER_CONFIG_DIR": str(folder / "config"),
    }
    server = subprocess.Popen(
        [sys.executable, "-m", "jupyterlab", "--no-browser", "--ip=127.0.0.1", "--port=0", "--allow-root",
         "--IdentityProvider.token=secret", "--LabApp.expose_app_in_browser=True", f"--ServerApp.root_dir={folder}"],
        env=environment, stdout=subprocess.DEVNULL, stderr=(folder / "lab.log").open("wb"),
    )  # fmt: skip
    chrome = None
    opened: Page | None = None
    try:
        address = re.compile(r"http://127\.0\.0\.1:(\d+)/lab")
        port = wait_until(
            lambda: address.search((folder / "lab.log").read_text()), timeout_seconds=90, what="JupyterLab"
        )
        chrome = subprocess.Popen(
            [browser, "--headless=new", "--no-sandbox", "--disable-gpu", "--remote-debugging-port=0",
             f"--user-data-dir={folder / 'profile'}", "--window-size=1300,1000",
             f"http://127.0.0.1:{port[1]}/lab/tree/view.ipynb?token=secret"],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        told = folder / "profile" / "DevToolsActivePort"
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


def check_view(page: Page, folder: Path) -> None:
    """Run the notebook's cell; use everything that the view offers, and see that it does what it says."""
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
    assert page.value("document.querySelector('.labkit-share').textContent") == "100 %"
    wait_until(lambda: page.value(last) < idle - 5, timeout_seconds=60, poll_seconds=0.5, what="the node's load")
    picture = page.call("Page.captureScreenshot", format="png")["data"]
    (folder / "view.png").write_bytes(base64.b64decode(picture))
    assert not page.errors
