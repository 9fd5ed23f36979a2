"""What the live loop refuses of a lab before it touches anything."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from labkit import cluster
from labkit.errors import InputError
from labkit.lab import Lab
from labkit.names import SCENARIO_LABEL


def running(backend: str = "local", **labels_of: dict[str, str]) -> Any:
    """A lab that runs at tempo 5, with VMs that have these labels."""
    items = [{"metadata": {"name": name, "labels": labels}} for name, labels in labels_of.items()]
    kube = SimpleNamespace(list=lambda *_, **__: {"items": items})
    return SimpleNamespace(name="lab", backend=backend, tempo=5, kube=kube)


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
