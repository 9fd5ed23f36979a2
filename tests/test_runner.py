"""The runner on the twin: bulk, resume, failures, interruptions, workers elsewhere."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import nullcontext, suppress
from dataclasses import replace
from pathlib import Path

import pytest
from distributed import CancelledError
from distributed.client import ClosedClientError
from distributed.comm.core import CommClosedError
from example_run import SCENARIO

from labkit import experiment as exp
from labkit import results, runner, scoring
from labkit.clock import wait_until
from labkit.errors import ClusterError, ExperimentError, InputError, LabError
from labkit.experiment import Experiment
from labkit.runner import twin
from labkit.runner.play import _MODEL_SOURCES, _algorithm_hash, context, failure

pytestmark = pytest.mark.filterwarnings(
    # Dask's own: event loops and sockets of processes that end while being closed.
    "ignore::ResourceWarning",
    "ignore::DeprecationWarning:distributed.*",
    "ignore::pytest.PytestUnraisableExceptionWarning",
)

FILE = """\
question: Does the runner run?
backend: sim
matrix:
  algorithm: [none, ideal_point_positive_distance, linear_amplified_ippd_k1]
  scenario: [quickstart]
  seed: [1, 2]
duration: 5m
"""


def load(folder: Path, text: str = FILE) -> Experiment:
    path = folder / "made.yaml"
    path.write_text(text)
    return exp.load(
        path, algorithms=("ideal_point_positive_distance", "linear_amplified_ippd_k1"), scenarios=("quickstart",)
    )


class Recorder(runner.Silent):
    """Remembers what it was told."""

    def __init__(self) -> None:
        self.begun: tuple[int, int] | None = None
        self.records: list[results.RunRecord] = []

    def begin(self, todo: int, done: int) -> None:
        self.begun = (todo, done)

    def finished(self, record: results.RunRecord) -> None:
        self.records.append(record)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an experiment that was carried out."""
    folder = tmp_path_factory.mktemp("runner")
    what = runner.plan(load(folder), folder / "out")
    outcome = runner.carry_out(what)
    assert outcome.status == "succeeded", results.collect(runner.matrix.current_records(what))["error"].tolist()
    return folder


@pytest.mark.slow
def test_every_run_is_there_with_its_tables(finished: Path) -> None:
    folders = results.run_folders(finished / "out")
    assert len(folders) == 6
    for folder in folders:
        record = results.read_run(folder)
        assert record.status == "succeeded"
        assert record.experiment == "made"
        assert results.read_tables(folder)["nodes"]["node"].nunique() == record.summary["nodes"]
    state, runs = results.read_experiment(finished / "out")
    assert (state["status"], state["counts"], len(runs)) == ("succeeded", {"succeeded": 6}, 6)


@pytest.mark.slow
def test_equal_algorithms_give_equal_runs(finished: Path) -> None:
    tables = [
        results.read_tables(finished / "out" / f"{name}-quickstart-s1-sim")["migrations"]
        for name in ("ideal_point_positive_distance", "linear_amplified_ippd_k1")
    ]
    assert tables[0].equals(tables[1])


@pytest.mark.slow
def test_a_second_call_has_nothing_to_do(finished: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in (finished / "out").glob("*/run.json")}
    what = runner.plan(load(finished), finished / "out")
    assert what.todo == []
    assert what.estimate_seconds == 0.0
    outcome = runner.carry_out(what)
    assert (outcome.new_runs, outcome.counts) == (0, {"succeeded": 6})
    assert {path: path.stat().st_mtime_ns for path in (finished / "out").glob("*/run.json")} == before


@pytest.mark.slow
def test_only_what_is_missing_changed_or_unreadable_is_to_do(finished: Path) -> None:
    folder = finished / "out"
    what = runner.plan(load(finished), folder)
    missing, changed, cut_off = sorted(path.name for path in results.run_folders(folder))[:3]
    kept = {name: (folder / name / "run.json").read_text() for name in (missing, changed, cut_off)}
    (folder / missing / "run.json").unlink()
    (folder / changed / "run.json").write_text(kept[changed].replace(what.keys[changed], "another"))
    (folder / cut_off / "run.json").write_text(kept[cut_off][:50])
    try:
        todo = {run.run_id for run in runner.plan(load(finished), folder).todo}
    finally:
        for name, text in kept.items():
            (folder / name / "run.json").write_text(text)
    assert todo == {missing, changed, cut_off}


@pytest.mark.slow
def test_a_failed_run_is_kept_and_repeated_on_request_only(finished: Path) -> None:
    folder = finished / "out"
    what = runner.plan(load(finished), folder)
    spec = what.runs[0]
    record = failure(spec, LabError("it broke"), experiment="made", key=what.keys[spec.run_id])
    kept = (folder / spec.run_id / "run.json").read_text()
    results.write_json(folder / spec.run_id / "run.json", vars(record))
    try:
        left = runner.plan(load(finished), folder)
        assert (left.todo, [each.error for each in left.failed]) == ([], ["it broke"])
        assert [run.run_id for run in runner.plan(load(finished), folder, retry_failed=True).todo] == [spec.run_id]
        assert runner.carry_out(left).status == "failed"
    finally:
        (folder / spec.run_id / "run.json").write_text(kept)


def played(what: runner.Plan, *statuses: str) -> runner.Outcome:
    """What becomes of a plan whose runs end so, without playing any."""

    def play_all(jobs: Sequence[twin.Job], _: object) -> Iterator[twin.Finished]:
        for job, status in zip(jobs, statuses, strict=True):
            record = failure(job.spec, LabError("it broke"), experiment=job.experiment, key=job.key)
            good = replace(record, status="succeeded", error=None, summary={"migrations": 1})
            yield twin.Finished(good if status == "succeeded" else record, {})

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(twin, "connect", lambda _: nullcontext())
        patch.setattr(twin, "play_all", play_all)
        return runner.carry_out(what)


ONE_RUN = FILE.replace("seed: [1, 2]", "seed: [1]").replace(
    "[none, ideal_point_positive_distance, linear_amplified_ippd_k1]", "[none]"
)


def test_a_repetition_that_fails_leaves_the_good_run_and_is_told(tmp_path: Path) -> None:
    experiment, out = load(tmp_path, ONE_RUN), tmp_path / "out"
    assert played(runner.plan(experiment, out), "succeeded").status == "succeeded"
    outcome = played(runner.plan(experiment, out, force=True), "failed")
    assert (outcome.status, outcome.counts, outcome.kept) == ("failed", {"succeeded": 1}, ("none-quickstart-s1-sim",))
    assert results.read_run(out / "none-quickstart-s1-sim").status == "succeeded"
    assert results.read_run(out / "failed" / "none-quickstart-s1-sim").error == "it broke"
    assert runner.plan(experiment, out).todo == []


def test_a_run_of_an_older_version_stays_beside_the_failed_one_of_this(tmp_path: Path) -> None:
    experiment, out = load(tmp_path, ONE_RUN), tmp_path / "out"
    played(runner.plan(experiment, out), "succeeded")
    changed = load(tmp_path, ONE_RUN.replace("5m", "6m"))
    outcome = played(runner.plan(changed, out), "failed")
    assert (outcome.status, outcome.counts) == ("failed", {"failed": 1})
    assert results.read_run(out / "none-quickstart-s1-sim").duration_seconds == 300.0
    left = runner.plan(changed, out)
    assert (left.todo, [each.error for each in left.failed]) == ([], ["it broke"])
    assert runner.plan(experiment, out).todo == []


def test_runs_of_another_version_are_no_longer_in_the_table(tmp_path: Path) -> None:
    out = tmp_path / "out"
    played(runner.plan(load(tmp_path, ONE_RUN), out), "succeeded")
    with pytest.raises(ValueError, match="zip"):
        played(runner.plan(load(tmp_path, ONE_RUN.replace("5m", "6m")), out))
    assert not (out / results.RUNS_FILE).exists()


def test_scenarios_of_one_name_cannot_be_told_apart(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(SCENARIO.replace("small", "quickstart"))
    experiment = load(tmp_path, FILE.replace("[quickstart]", "[quickstart, mine.yaml]"))
    with pytest.raises(ExperimentError, match="scenarios of different names, found 'quickstart' in quickstart and"):
        runner.plan(experiment, tmp_path / "out")


def test_a_size_that_a_scenario_cannot_have_is_refused_before_any_run(tmp_path: Path) -> None:
    pools = SCENARIO.replace("nodePools: [{name: node, count: 2,", "nodes: [{name: node-1,")
    (tmp_path / "mine.yaml").write_text(pools)
    experiment = load(tmp_path, FILE.replace("[quickstart]", "[mine.yaml]").replace("[1, 2]", "[1]\n  nodes: [3]"))
    with pytest.raises(InputError, match="wanted 1 node or more in a first node pool"):
        runner.plan(experiment, tmp_path / "out")


@pytest.mark.slow
def test_the_run_of_one_command_differs_only_in_wall_time(finished: Path, tmp_path: Path) -> None:
    arguments = (
        "run --backend sim --scenario quickstart --algorithm linear_amplified_ippd_k1 --seed 1 --duration 5m --json"
    )
    command = [sys.executable, "-m", "labkit", *arguments.split(), "--out", str(tmp_path / "run")]
    answer = subprocess.run(command, capture_output=True, text=True, check=True, timeout=200)
    summary = json.loads(answer.stdout)
    bulk = results.read_run(finished / "out" / "linear_amplified_ippd_k1-quickstart-s1-sim").summary
    assert {key for key in bulk if bulk[key] != summary[key]} <= {"wall_seconds"}
    assert results.read_run(tmp_path / "run").summary == summary


def test_one_runs_fault_does_not_cost_its_neighbours_theirs(tmp_path: Path) -> None:
    what = runner.plan(load(tmp_path), tmp_path / "out")
    good = what.runs[0]
    bad = replace(good, run_id="bad", scenario="no-such-scenario")
    answers = twin.play_batch([twin.Job(bad, "made", "k1"), twin.Job(good, "made", what.keys[good.run_id])])
    assert [each.record.status for each in answers] == ["failed", "succeeded"]
    assert "no-such-scenario" in (answers[0].record.error or "")
    assert answers[0].encoded == {}


def test_a_worker_with_another_labkit_plays_nothing(tmp_path: Path) -> None:
    spec = exp.expand(load(tmp_path))[0]
    (answer,) = twin.play_batch([twin.Job(spec, "made", "the key of another version")])
    assert answer.record.status == "failed"
    assert "this worker has another labkit" in (answer.record.error or "")


def test_a_failed_run_has_the_name_of_its_scenario(tmp_path: Path) -> None:
    path = tmp_path / "file-name.yaml"
    path.write_text(SCENARIO)
    spec = replace(exp.expand(load(tmp_path))[0], scenario=str(path))
    assert failure(spec, LabError("no")).scenario == "small"


def test_a_changed_algorithm_of_the_users_makes_its_runs_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "mine.yaml"
    rule = "groups: [{name: mine, rules: [{record: 'descheduler:node:mine:avg1m', expr: 'descheduler:node:%s:ratio'}]}]"
    spec = replace(exp.expand(load(tmp_path))[0], algorithm="mine")
    keys = []
    for usage in ("cpu_usage", "cpu_usage", "memory_usage"):
        path.write_text(rule % usage)
        monkeypatch.setattr("labkit.scoring.get", dict.fromkeys(["mine"], scoring.load(path)[0]).__getitem__)
        _algorithm_hash.cache_clear()
        keys.append(spec.key(context(spec)))
    _algorithm_hash.cache_clear()
    assert keys[0] == keys[1] != keys[2]


def test_all_code_that_decides_a_run_of_the_twin_is_in_its_key() -> None:
    command = "import sys, labkit.sim; print(*(name for name in sys.modules if name.startswith('labkit.')))"
    answer = subprocess.run([sys.executable, "-c", command], capture_output=True, text=True, check=True, timeout=60)
    decides = {Path(name).stem for name in _MODEL_SOURCES}
    others = {"analysis", "lab", "errors", "datafiles", "schema", "versions"}  # in other parts of the key, or words
    assert {name.split(".")[1] for name in answer.stdout.split()} <= decides | others


def test_a_batch_is_as_long_as_past_runs_suggest() -> None:
    assert twin.batch_size(0.0) == twin.MAX_BATCH
    assert twin.batch_size(1.0) == int(twin.BATCH_SECONDS)
    assert twin.batch_size(600.0) == 1


def test_no_scheduler_is_a_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(twin, "SCHEDULER_DEADLINE_SECONDS", 1.0)
    with (
        pytest.raises(ClusterError, match=r"wanted a Dask scheduler at tcp://127\.0\.0\.1:9, found none"),
        twin.connect("tcp://127.0.0.1:9"),
    ):
        pytest.fail("there is no scheduler there")


@pytest.fixture
def elsewhere(tmp_path: Path) -> Iterator[tuple[str, list[subprocess.Popen[bytes]]]]:
    """A scheduler and two workers as processes of their own."""
    address_file = tmp_path / "scheduler.json"
    environment = os.environ | {"DASK_DISTRIBUTED__LOGGING__DISTRIBUTED": "critical"}
    processes: list[subprocess.Popen[bytes]] = []

    def start(*words: str) -> None:
        command = [sys.executable, "-m", "dask", *words, "--host", "127.0.0.1", "--no-dashboard"]
        processes.append(
            subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        )

    def address() -> str | None:
        """Return the scheduler's address once it has written all of it."""
        with suppress(FileNotFoundError, ValueError):
            return str(json.loads(address_file.read_text())["address"])
        return None

    try:
        start("scheduler", "--port", "0", "--scheduler-file", str(address_file))
        found = wait_until(address, timeout_seconds=90, what="the scheduler's address")
        for name in ("w0", "w1"):
            start("worker", found, "--nthreads", "1", "--local-directory", str(tmp_path / name))
        yield found, processes
    finally:
        for process in reversed(processes):
            process.terminate()
        for process in processes:
            process.wait(timeout=60)


@pytest.mark.slow
def test_a_scheduler_with_workers_elsewhere_does_the_same(
    finished: Path, tmp_path: Path, elsewhere: tuple[str, list[subprocess.Popen[bytes]]]
) -> None:
    what = runner.plan(load(tmp_path), tmp_path / "out")
    outcome = runner.carry_out(what, scheduler=elsewhere[0])
    assert outcome.counts == {"succeeded": 6}
    for folder in results.run_folders(tmp_path / "out"):
        here = results.read_run(finished / "out" / folder.name).summary
        there = results.read_run(folder).summary
        assert {key for key in here if here[key] != there[key]} <= {"wall_seconds"}


@pytest.mark.slow
def test_a_killed_worker_costs_no_run(tmp_path: Path, elsewhere: tuple[str, list[subprocess.Popen[bytes]]]) -> None:
    address, processes = elsewhere

    class Killer(Recorder):
        def finished(self, record: results.RunRecord) -> None:
            super().finished(record)
            if len(self.records) == 1:
                os.kill(processes[1].pid, signal.SIGKILL)

    watcher = Killer()
    outcome = runner.carry_out(runner.plan(load(tmp_path), tmp_path / "out"), scheduler=address, progress=watcher)
    assert watcher.begun == (6, 0)
    assert outcome.counts == {"succeeded": 6}


@pytest.mark.slow
def test_workers_that_are_all_gone_end_the_matrix_and_a_second_call_goes_on(
    tmp_path: Path, elsewhere: tuple[str, list[subprocess.Popen[bytes]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    address, processes = elsewhere
    monkeypatch.setattr(twin, "NO_WORKERS_SECONDS", 3.0)

    class Killer(Recorder):
        def finished(self, record: results.RunRecord) -> None:
            super().finished(record)
            for process in processes[1:]:
                process.kill()

    experiment, out = load(tmp_path, FILE.replace("[1, 2]", "1..40")), tmp_path / "out"
    with pytest.raises(ClusterError, match="wanted workers at the Dask scheduler, found none for 3 s"):
        runner.carry_out(runner.plan(experiment, out), scheduler=address, progress=Killer())
    state, runs = results.read_experiment(out)
    assert (state["status"], set(runs["status"])) == ("interrupted", {"succeeded"})
    assert len(runner.plan(experiment, out).todo) == 120 - len(runs) > 0


@pytest.mark.parametrize("sign", [CancelledError("a future"), CommClosedError("reset by peer"), ClosedClientError()])
def test_a_lost_scheduler_is_told_whatever_dask_was_doing(sign: Exception) -> None:
    with pytest.raises(ClusterError, match="lost the Dask scheduler"), twin._told_when_lost():
        raise sign


@pytest.mark.slow
def test_a_scheduler_that_is_gone_fails_no_run(
    tmp_path: Path, elsewhere: tuple[str, list[subprocess.Popen[bytes]]]
) -> None:
    address, processes = elsewhere

    class Killer(Recorder):
        def finished(self, record: results.RunRecord) -> None:
            super().finished(record)
            processes[0].kill()

    watcher = Killer()
    experiment, out = load(tmp_path, FILE.replace("[1, 2]", "1..40")), tmp_path / "out"
    with pytest.raises(ClusterError, match="lost the Dask scheduler"):
        runner.carry_out(runner.plan(experiment, out), scheduler=address, progress=watcher)
    assert {record.status for record in watcher.records} == {"succeeded"}


@pytest.mark.slow
def test_ctrl_c_keeps_what_is_finished_and_the_next_call_goes_on(tmp_path: Path) -> None:
    path, out = tmp_path / "made.yaml", tmp_path / "out"
    path.write_text(FILE.replace("seed: [1, 2]", "seed: 1..60"))
    command = [sys.executable, "-m", "labkit", "experiment", str(path), "--out", str(out), "--no-report"]
    process = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    try:
        wait_until(lambda: len(results.run_folders(out)) >= 2, timeout_seconds=240, what="two runs")
        done = results.run_folders(out)
        os.killpg(process.pid, signal.SIGINT)
        _, errors = process.communicate(timeout=60)
    finally:
        if process.poll() is None:
            process.kill()
            process.communicate()
    assert process.returncode == 130, errors
    assert "interrupted; the same command goes on" in errors
    assert "Traceback" not in errors
    after = results.run_folders(out)
    assert len(done) <= len(after) < 180
    assert all(results.read_run(folder).status == "succeeded" for folder in after)
    state, runs = results.read_experiment(out)
    assert (state["status"], len(runs)) == ("interrupted", len(after))
    assert len(runner.plan(load(tmp_path, path.read_text()), out).todo) == 180 - len(after)
