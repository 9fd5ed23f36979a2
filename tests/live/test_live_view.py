"""The live view of a running lab, in a real JupyterLab, in a real browser."""

from __future__ import annotations

from pathlib import Path

import pytest
from browser import check_view, opened_notebook

from labkit.cluster import RunningLab
from labkit.lab import Lab

pytestmark = pytest.mark.live


@pytest.mark.timeout(500)
@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::DeprecationWarning")
def test_view_shows_a_running_lab_and_changes_it(lab: RunningLab, backend: str, tmp_path: Path) -> None:
    with Lab(backend=backend, name=lab.name) as running:
        running.apply("quickstart", seed=1)
        running.use("none")
        running.run("1m")
    source = (
        "from labkit import live\nfrom labkit.lab import Lab\n"
        f'lab = Lab(backend="{backend}", name="{lab.name}").up()\n'
        "view = live.watch(lab)\nview"
    )
    with opened_notebook(source, tmp_path) as page:
        check_view(page, tmp_path)
