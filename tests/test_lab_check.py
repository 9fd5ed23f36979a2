"""What the live loop refuses of a lab before it touches anything."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from labkit import cluster
from labkit.cluster.component import Lock
from labkit.cluster.config import LabFolder
from labkit.errors import ClusterError, InputError
from labkit.lab import Lab
from labkit.lab.loop import Loop
from labkit.names import SCENARIO_LABEL
from labkit.scenario import load_scenario


@pytest.fixture(autouse=True)
def _state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LABKIT_STATE", str(tmp_path))
    (tmp_path / "lab").mkdir()


def running(backend: str = "local", **labels_of: dict[str, str]) -> Any:
    """A lab that runs at tempo 5, with VMs that have these labels."""
    items = [{"metadata": {"name": name, "labels": labels}} for name, labels in labels_of.items()]
    kube = SimpleNamespace(list=lambda *_, **__: {"items": items})
    return SimpleNamespace(name="lab", backend=backend, tempo=5, kube=kube)


def folder() -> LabFolder:
    return LabFolder("lab")


@pytest.mark.parametrize(
    ("found", "message"),
    [
        (running(), None),
        (running(web={SCENARIO_LABEL: "quickstart"}), None),
        (
            running(web={SCENARIO_LABEL: "quickstart"}, mine={}),
            r"VMs of your own, found 1 in namespace default \(mine\)",
        ),
        (running(a={}, b={}, c={}, d={}), r"found 4 in namespace default \(a, b, c …\): a run would remove them"),
        (running("kind"), "wanted lab 'lab' with backend local, found it with backend kind"),
    ],
)
def test_a_lab_that_cannot_take_runs_is_refused(
    found: Any, message: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    found.folder = folder()
    monkeypatch.setattr(cluster, "running", lambda _: found)
    if message is None:
        Lab(backend="local", tempo=5).check()
        return
    with pytest.raises(InputError, match=message):
        Lab(backend="local", tempo=5).check()


def test_another_tempo_is_refused_and_a_lab_that_does_not_run_is_fine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "running", lambda _: running())
    with pytest.raises(InputError, match="wanted lab 'lab' at tempo 15, found it at tempo 5"):
        Lab(backend="local", tempo=15).check()
    monkeypatch.setattr(cluster, "running", lambda _: None)
    Lab(backend="local", tempo=15).check()
    Lab(backend="sim").check()


def test_one_run_at_a_time_is_played_in_a_lab(monkeypatch: pytest.MonkeyPatch) -> None:
    found = running()
    found.folder = folder()
    monkeypatch.setattr(cluster, "running", lambda _: found)
    playing = Lock(found.folder.run_lock)
    assert playing.acquire()
    with pytest.raises(ClusterError, match="wanted lab 'lab' for a run, found another being played in it"):
        Lab(backend="local").check()
    loop = Loop(backend="local")
    loop._lab = found
    with pytest.raises(ClusterError, match="found another being played"):
        loop.run(load_scenario("quickstart"), seed=1, algorithm="none", policy={}, duration_seconds=60.0, progress=None)
    playing.release()
    Lab(backend="local").check()
