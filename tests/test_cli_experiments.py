"""The verbs run, experiment, results, report and explain, as a user calls them."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from example_run import example_experiment

from labkit import results, runner
from labkit.cli import main
from labkit.cli.experiment import _Bar
from labkit.cli.run import _Line
from labkit.lab import Progress

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
        (["--policy", "evictions_total=²"], "policy evictions_total: wanted a whole number"),
        (["--policy", "evaluation_interval=0s"], "policy evaluation_interval: wanted an interval above 0"),
        (["--scenario", "drain", "--nodes", "1"], "drain.yaml: "),
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


def test_a_run_removes_nothing_but_a_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    kept = tmp_path / "results" / "something.txt"
    kept.parent.mkdir()
    kept.write_text("mine")
    assert main(["run", "--duration", "1m", "--out", str(kept.parent)]) == 2
    assert "with something else in it" in capsys.readouterr().err
    assert kept.read_text() == "mine"


def test_a_run_that_fails_leaves_the_good_one(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    shutil.copytree(results.run_folders(folder)[0], run)

    def fail(*_: object, **__: object) -> None:
        raise ZeroDivisionError("by accident")

    monkeypatch.setattr("labkit.runner.play", fail)
    with pytest.raises(ZeroDivisionError):
        main(["run", "--duration", "1m", "--out", str(run)])
    assert f"the run of before stays in {run}" in capsys.readouterr().err
    assert results.read_run(run).status == "succeeded"
    assert "Traceback" in (results.read_run(tmp_path / "failed" / "run").error or "")
    assert main(["results", "ls", str(tmp_path)]) == 0
    assert "failed/run" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--backend", "cloud"], "wanted --backend as one of sim, local, kind, found 'cloud'"),
        (["--tempo", "60"], "wanted --tempo from 1 to 15, found 60"),
        (["--backend", "local", "--scheduler", "tcp://127.0.0.1:9"], "--scheduler is for runs of the twin"),
    ],
)
def test_wrong_options_of_an_experiment_are_one_line_and_exit_2(
    arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "made.yaml"
    path.write_text(EXPERIMENT)
    assert main(["experiment", str(path), *arguments, "--out", str(tmp_path / "out")]) == 2
    errors = capsys.readouterr().err
    assert message in errors
    assert len(errors.strip().splitlines()) == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("counts", "kept", "said", "code"),
    [
        ({"failed": 2}, (), "no report: no run succeeded", 1),
        ({"succeeded": 2}, ("one",), "1 runs failed that had succeeded before: the good ones stay", 1),
        ({"succeeded": 2}, (), "2 runs (2 succeeded), 2 new", 0),
    ],
)
def test_what_became_of_an_experiment_is_told(
    counts: dict[str, int],
    kept: tuple[str, ...],
    said: str,
    code: int,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path = tmp_path / "made.yaml"
    path.write_text(EXPERIMENT.replace("[none, all]", "[none]").replace("1..3", "[1, 2]"))
    status = "failed" if code else "succeeded"
    outcome = runner.Outcome(tmp_path / "out", counts, 2, kept, status)  # type: ignore[arg-type]
    monkeypatch.setattr(runner, "carry_out", lambda *_, **__: outcome)
    monkeypatch.setattr(runner, "conclude", lambda *_, **__: tmp_path / "report.html")
    assert main(["experiment", str(path), "--out", str(tmp_path / "out")]) == code
    told = capsys.readouterr()
    assert said in told.out + told.err


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


def test_one_run_of_two_experiments_is_compared_under_two_names(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = results.run_folders(folder)[0]
    second = tmp_path / first.name
    results.write_run(second, replace(results.read_run(first), seed=77))
    assert main(["results", "diff", str(first), str(second), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == [
        {"what": "seed", str(first): 1, str(second): 77, "change": 76}
    ]  # fmt: skip


def test_choosing_wants_runs_enough_and_a_reference_that_took_part(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["results", "choose", str(folder)]) == 2
    assert "wanted 6 paired blocks" in capsys.readouterr().err
    assert main(["results", "choose", str(folder), "--reference", "weighted_average"]) == 2
    assert "wanted --reference as one of linear_amplified_ippd_k3, none" in capsys.readouterr().err


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
    tables = results.read_tables(Path(run))
    tables["migrations"]["ended_seconds"] = float("nan")
    unfinished = results.write_run(folder / "unfinished", results.read_run(Path(run)), results.encode_tables(tables))
    try:
        assert main(["explain", str(unfinished), "--migration", "1", "--json"]) == 0
        answer = json.loads(capsys.readouterr().out, parse_constant=pytest.fail)
        assert answer["migration"]["ended_seconds"] is None
    finally:
        shutil.rmtree(unfinished)
    assert main(["explain", run, "--migration", "99"]) == 2
    failed = results.write_run(folder / "broken", results.read_run(Path(run)).failed("it broke"))
    assert main(["explain", str(failed)]) == 2
    assert "wanted a run that succeeded, found one that failed" in capsys.readouterr().err
    shutil.rmtree(failed)


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


def test_a_live_run_that_waits_says_for_what(capsys: pytest.CaptureFixture[str]) -> None:
    bar = _Bar(SimpleNamespace(experiment=SimpleNamespace(name="made")))
    bar.begin(1, 0)
    bar.running("a-run", -1.0, 1500.0, 0, "placing: 12 of 50 VMs run")
    bar.end()
    shown = capsys.readouterr().err
    assert "a-run: placing: 12 of 50 VMs run" in shown
    assert "0 migrations" not in shown


def test_a_single_run_that_waits_says_for_what(capsys: pytest.CaptureFixture[str]) -> None:
    with _Line() as line:
        line.show(Progress(-1.0, 1500.0, 0, "placing", "12 of 50 VMs run"))
        line.show(Progress(60.0, 1500.0, 3, "running"))
    shown = capsys.readouterr().err
    assert shown.endswith("\n")
    first, second = shown.split("\r")[1:]
    assert first.strip() == "placing: 12 of 50 VMs run"
    assert second.strip() == "running: lab time 1.0 of 25 min, 3 migrations"


def test_notes_of_a_run_are_shown(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    record = results.read_run(results.run_folders(folder)[0])
    run = results.write_run(tmp_path / "run", replace(record, notes=["3 of 17 cycles were missed"]))
    assert main(["results", "show", str(run)]) == 0
    assert "note 1                      3 of 17 cycles were missed" in capsys.readouterr().out
    assert main(["results", "ls", str(tmp_path)]) == 0
    assert "3 of 17 cycles were missed" in capsys.readouterr().out
