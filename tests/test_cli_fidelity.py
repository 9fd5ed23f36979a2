from __future__ import annotations

import json
from pathlib import Path

import pytest
from example_fidelity import example_runs

from labkit.cli import main


def test_two_live_backends_are_compared(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    local = example_runs(tmp_path / "local", algorithms=("none", "max_metric"), repeats=2)
    kind = example_runs(tmp_path / "kind", algorithms=("none", "max_metric"), repeats=2, backend="kind")
    figure = tmp_path / "migrations.svg"
    assert main(["fidelity", str(local), "--against", str(kind), "--figure", str(figure)]) == 0
    text = capsys.readouterr().out
    assert text.startswith("- 4 runs on local: 2 algorithms, 1 scenarios, 2 repeats, 5 lab minutes at tempo 15")
    assert "Migrations: the mean of kind lies within the spread of local or 10 % in 2 of 2 pairs." in text
    assert figure.read_text().count("<svg") == 1

    assert main(["fidelity", str(local), "--against", str(kind), "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["sides"] == ["local", "kind"]
    assert len(answer["pairs"]) == 2 * 5 - 1  # without descheduling there is no time to converge
    assert all(pair["agrees"] for pair in answer["pairs"])


def test_the_twin_is_compared_where_no_other_side_is_given(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    local = example_runs(tmp_path / "local", algorithms=("none",), repeats=2)
    assert main(["fidelity", str(local), "--draws", "1", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["sides"] == ["local", "twin"]


def test_a_folder_without_live_runs_is_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fidelity", str(tmp_path)]) == 1
    assert "wanted an experiment's folder with finished live runs" in capsys.readouterr().err


def test_a_figure_that_could_not_be_written_is_refused_at_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, message in (("figure.doc", "with an ending out of"), ("no/figure.png", "in a folder that is there")):
        assert main(["fidelity", str(tmp_path), "--figure", str(tmp_path / name)]) == 2
        assert message in capsys.readouterr().err
