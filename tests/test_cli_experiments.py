"""The verbs run, experiment, results, report and explain, as a user calls them."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
from example_run import example_experiment

from labkit.cli import main
from labkit.cli.experiment import _Bar

EXPERIMENT = """\
question: Does it help?
backend: sim
matrix: {algorithm: [none, all], scenario: [quickstart], seed: 1..3}
duration: 30m
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("results") / "made"
    example_experiment(path, algorithms=("none", "linear_amplified_ippd_k3"), seeds=2)
    return path


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--backend", "cloud"], "wanted --backend as one of sim, local, kind, found 'cloud'"),
        (["--backend", "local", "--algorithm", "random"], "random runs on sim only"),
        (["--backend", "kind", "--algorithm", "oracle"], "oracle runs on sim only"),
        (["--algorithm", "weighted_averag"], "did you mean weighted_average"),
        (["--scenario", "no-such"], "found 'no-such'"),
        (["--tempo", "16"], "wanted --tempo from 1 to 15, found 16"),
        (["--duration", "soon"], "wanted a duration"),
        (["--duration", "0"], "wanted --duration above 0"),
        (["--seed", "-1"], "wanted --seed 0 or above"),
        (["--nodes", "0"], "wanted --nodes 1 or above"),
        (["--thresholds", "ten"], "wanted LOW:HIGH"),
        (["--policy", "limit=3"], "policy limit: wanted one of thresholds"),
        (["--policy", "limit"], "wanted --policy KEY=VALUE"),
    ],
)
def test_bad_input_of_a_run_is_one_line_and_exit_2(
    arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["run", *arguments, "--out", str(tmp_path / "run")]) == 2
    errors = capsys.readouterr().err
    assert message in errors
    assert len(errors.strip().splitlines()) == 1
    assert not (tmp_path / "run").exists()


def test_dry_run_shows_runs_and_time_and_does_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "made.yaml"
    path.write_text(EXPERIMENT)
    assert main(["experiment", str(path), "--out", str(tmp_path / "out"), "--dry-run"]) == 0
    shown = capsys.readouterr().out.splitlines()
    assert shown[0] == "Does it help?"
    assert shown[1].split() == ["to", "do", "none-quickstart-s1-sim"]
    count = len(shown) - 2
    assert shown[-1].startswith(f"{count} runs, {count} to do, about ")
    assert not (tmp_path / "out").exists()


def test_a_wrong_experiment_file_is_exit_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "made.yaml"
    path.write_text(EXPERIMENT.replace("duration: 30m", "duraton: 30m"))
    assert main(["experiment", str(path)]) == 2
    assert "made.yaml:4: duraton: wanted one of" in capsys.readouterr().err


def test_a_shipped_experiment_is_found_by_its_name(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["experiment", "benchmark-19", "--dry-run", "--json", "--out", str(tmp_path / "none")]) == 0
    answer = json.loads(capsys.readouterr().out)
    # 19 and production's two, three baselines, one entered again; 8 scenarios; 20 seeds
    assert answer["todo"] == len(answer["runs"]) == 25 * 8 * 20
    assert answer["estimate_seconds"] > 0


def test_results_lists_shows_and_compares(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["results", "ls", str(folder.parent)]) == 0
    assert "made" in capsys.readouterr().out
    assert main(["results", "ls", str(folder), "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["status"] for row in rows] == ["succeeded"] * 4
    first, second = (str(folder / row["run"]) for row in rows[::3])
    assert main(["results", "show", first]) == 0
    assert "summary.migrations" in capsys.readouterr().out
    assert main(["results", "diff", first, second, "--json"]) == 0
    differences = {row["what"]: row for row in json.loads(capsys.readouterr().out)}
    assert "algorithm" in differences
    assert "change" in differences["summary.migrations"]
    assert main(["results", "diff", first, first]) == 0
    assert capsys.readouterr().out == "the two runs are equal\n"


def test_results_of_nothing_is_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["results", "ls", str(tmp_path / "nowhere")]) == 2
    assert main(["results", "show", str(tmp_path)]) == 1
    assert "wanted a run folder with run.json" in capsys.readouterr().err


def test_a_run_of_another_format_is_listed_as_unreadable(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "run.json").write_text('{"api_version": "labkit/v0"}')
    assert main(["results", "ls", str(tmp_path)]) == 0
    assert "unreadable" in capsys.readouterr().out


def test_explain_lists_and_tells(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = str(folder / "linear_amplified_ippd_k3-hot-s1-sim")
    assert main(["explain", run]) == 0
    assert "migrations; --migration N tells why" in capsys.readouterr().out
    assert main(["explain", run, "--migration", "1"]) == 0
    assert "was asked to leave" in capsys.readouterr().out
    assert main(["explain", run, "--migration", "1", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["sentences"]
    assert main(["explain", run, "--migration", "99"]) == 2


def test_report_is_written_anew(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", str(folder)]) == 0
    assert Path(capsys.readouterr().out.strip()) == folder / "report.html"


def test_without_a_terminal_a_live_run_is_not_a_line_a_second(capsys: pytest.CaptureFixture[str]) -> None:
    bar = _Bar(SimpleNamespace(experiment=SimpleNamespace(name="made")))
    bar.begin(1, 0)
    for second in range(100):
        bar.running("a-run", 15.0 * second, 1500.0, second)
    bar.end()
    assert capsys.readouterr().err.count("a-run") <= 2
