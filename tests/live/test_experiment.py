"""An experiment on the running lab ends in the same folder and report whatever the backend."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest
from labs import labkit

from labkit.analysis.tables import COLUMNS
from labkit.cluster import RunningLab

pytestmark = [pytest.mark.live, pytest.mark.timeout(900)]

EXPERIMENT = """
question: Does the loop relieve the hot nodes?
backend: local
duration: 4m
matrix:
  algorithm: [none, linear_amplified_ippd_k3]
  scenario: [quickstart]
  seed: [1]
"""


def test_matrix_ends_in_runs_and_a_report(lab: RunningLab, backend: str, tmp_path: Path) -> None:
    file, folder = tmp_path / "short.yaml", tmp_path / "out"
    file.write_text(EXPERIMENT)
    done = labkit(
        "experiment", str(file), "--backend", backend, "--tempo", "15", "--name", lab.name, "--out", str(folder),
        "--json",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert (answer["status"], answer["counts"]) == ("succeeded", {"succeeded": 2})
    assert "<img" in Path(answer["report"]).read_text()
    migrations = {}
    for run in sorted(path.parent for path in folder.glob("*/run.json")):
        record = json.loads((run / "run.json").read_text())
        assert (record["backend"], record["tempo"], record["status"]) == (backend, 15, "succeeded")
        migrations[record["algorithm"]] = record["summary"]["migrations"]
        for name, columns in COLUMNS.items():
            assert list(pd.read_parquet(run / f"{name}.parquet").columns) == list(columns)
        assert (run / "notebook.ipynb").is_file()
    assert migrations["none"] == 0 < migrations["linear_amplified_ippd_k3"]
