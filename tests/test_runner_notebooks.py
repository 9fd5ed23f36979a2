"""Notebooks as the runner executes them: interrupted, failing, dying, and refused before they begin."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import nbformat
import pytest

from labkit import experiment as exp
from labkit import results, runner
from labkit.clock import wait_until
from labkit.errors import ExperimentError, InputError, LabError
from labkit.lab import Lab, Progress
from labkit.runner import live, matrix
from labkit.runner.play import failure

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning"),
]

PARAMETERS = "\n".join(
    f"{name} = {value}"
    for name, value in {
        "backend": "''", "scenario": "''", "algorithm": "''", "seed": 0, "policy": "{}", "tempo": 0, "duration": 0,
        "out": "''",
    }.items()
)  # fmt: skip


@pytest.fixture(autouse=True)
def _no_lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing here is played in a lab, whatever runs on this machine."""

    def refuse(*_: object, **__: object) -> Lab:
        raise LabError("no lab is wanted here")

    monkeypatch.setenv("LABKIT_STATE", str(tmp_path / "state"))
    monkeypatch.setattr(Lab, "up", refuse)


def notebook(path: Path, *cells: str, parameters: str = PARAMETERS) -> Path:
    """Write a notebook: a cell of parameters, then these."""
    tagged = nbformat.v4.new_code_cell(parameters, metadata={"tags": ["parameters"]})
    made = nbformat.v4.new_notebook(cells=[tagged, *map(nbformat.v4.new_code_cell, cells)])
    made.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
    nbformat.write(made, path)
    return path


def load(folder: Path, *, algorithms: str = "[none]", notebook: str = "play.ipynb", more: str = "") -> exp.Experiment:
    path = folder / "made.yaml"
    path.write_text(
        f"question: Does it play?\nbackend: local\nduration: 1m\nnotebook: {notebook}\n"
        f"matrix: {{algorithm: {algorithms}, scenario: [quickstart], seed: [1]{more}}}\n"
    )
    return exp.load(path, algorithms=("weighted_average",), scenarios=("quickstart",))


def test_a_cell_that_fails_is_told_with_its_error_and_kept(tmp_path: Path) -> None:
    source = notebook(tmp_path / "fails.ipynb", "1 / 0")
    with pytest.raises(LabError, match=r"cell 3 of fails\.ipynb failed: ZeroDivisionError: division by zero"):
        live.execute(source, tmp_path / "out.ipynb", {"seed": 1})
    assert (tmp_path / "out.ipynb").exists()


def test_a_kernel_that_dies_fails_its_run_and_no_other(tmp_path: Path) -> None:
    notebook(
        tmp_path / "play.ipynb",
        "import os, sys\nif algorithm == 'weighted_average':\n    os.write(2, b'out of luck'), os.kill(os.getpid(), 9)",
        "from labkit import runner\nfrom labkit.lab import Lab\n"
        "with Lab(backend='sim') as lab:\n    lab.apply('quickstart', seed=1)\n    lab.choose(algorithm)\n"
        "    runner.save(lab.run('1m'), out)",
    )
    what = runner.plan(load(tmp_path, algorithms="[none, weighted_average]"), tmp_path / "out")
    made = live.play_all(
        what.runs, what.keys, folder=what.folder, experiment=what.experiment, progress=runner.Silent(), lab_name=None
    )
    found = {record.algorithm: record for record in made}
    assert found["none"].status == "succeeded"
    assert found["weighted_average"].status == "failed"
    assert (found["weighted_average"].error or "").startswith("the kernel of play.ipynb failed: Kernel died")
    assert (found["weighted_average"].error or "").endswith("said: out of luck")
    assert len(results.run_folders(what.folder)) == 2


INTERRUPTED = """
import sys
from pathlib import Path
from labkit.runner import live
try:
    live.execute(Path(sys.argv[1]), Path(sys.argv[2]), {})
except KeyboardInterrupt:
    sys.exit(130)
"""


def interrupt(folder: Path, *cells: str, when: tuple[str, ...]) -> tuple[int, str]:
    """Execute a notebook, send Ctrl-C as a terminal does whenever such a file appears; return code and errors."""
    source = notebook(folder / "long.ipynb", *cells)
    process = subprocess.Popen(
        [sys.executable, "-c", INTERRUPTED, str(source), str(folder / "out.ipynb")], cwd=folder,
        stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    try:
        for name in when:
            wait_until((folder / name).exists, timeout_seconds=120, what=f"the notebook to leave {name}")
            os.killpg(process.pid, signal.SIGINT)
        _, errors = process.communicate(timeout=120)
    finally:
        if process.poll() is None:
            process.kill()
            process.communicate()
    return process.returncode, errors


UNDO = """
import time
from pathlib import Path
try:
    Path("begun").touch()
    time.sleep(600)
finally:
    time.sleep(7)
    Path("undone").touch()
"""
"""Takes longer to undo than a kernel is given that is shut down."""


def test_ctrl_c_lets_the_notebook_undo_its_work_and_leaves_the_terminal_quiet(tmp_path: Path) -> None:
    code, errors = interrupt(tmp_path, UNDO, "Path('further').touch()", when=("begun",))
    assert code == 130
    assert (tmp_path / "undone").exists()
    assert not (tmp_path / "further").exists()
    assert errors.strip().splitlines() == [
        "labkit: stopping the notebook, which undoes what it has begun; Ctrl-C once more ends it at once"
    ]


def test_a_second_ctrl_c_does_not_wait_for_what_does_not_end(tmp_path: Path) -> None:
    endless = UNDO.replace("time.sleep(7)", "Path('undoing').touch()\n    time.sleep(600)")
    code, errors = interrupt(tmp_path, endless, when=("begun", "undoing"))
    assert code == 130
    assert "Traceback" not in errors


def test_what_a_run_waits_for_comes_out_of_its_notebook(tmp_path: Path) -> None:
    tell = live.watch(str(tmp_path))
    assert tell is not None
    told = []
    for state in (Progress(-1.0, 60.0, 0, "placing", "3 of 4 VMs run"), Progress(15.0, 60.0, 2, "running")):
        tell(state)
        told.append(json.loads((tmp_path / live.PROGRESS_FILE).read_text()))
    assert [each["message"] for each in told] == ["placing: 3 of 4 VMs run", ""]


def test_a_notebook_without_a_parameter_is_refused_before_any_run(tmp_path: Path) -> None:
    notebook(tmp_path / "play.ipynb")
    what = runner.plan(load(tmp_path, more=", nodes: [3]"), tmp_path / "out")
    with pytest.raises(ExperimentError, match=r"play\.ipynb to declare the parameters .* missing: nodes"):
        runner.carry_out(what)
    assert not what.folder.exists()


def test_a_lab_that_cannot_take_runs_is_told_once_and_nothing_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    notebook(tmp_path / "play.ipynb")

    def refuse(_: Lab) -> None:
        raise InputError("wanted a lab without VMs of your own")

    monkeypatch.setattr(Lab, "check", refuse)
    what = runner.plan(load(tmp_path), tmp_path / "out")
    with pytest.raises(InputError, match="wanted a lab without VMs of your own"):
        runner.carry_out(what)
    assert not what.folder.exists()


class Told(runner.Silent):
    """Remembers what was noted."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)


def test_a_failed_live_run_leaves_the_good_one_of_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    notebook(tmp_path / "play.ipynb", "raise RuntimeError('no')")
    what = runner.plan(load(tmp_path), tmp_path / "out")
    (run,) = what.runs
    record = replace(failure(run, LabError("x"), key=what.keys[run.run_id]), status="succeeded")
    results.write_run(what.folder / run.run_id, record)
    monkeypatch.setattr(Lab, "check", lambda _: None)
    monkeypatch.setattr(Lab, "up", lambda lab, *, say: say("starting etcd") or lab)
    monkeypatch.setattr(Lab, "down", lambda _: None)  # of the lab that was not brought up
    outcome = runner.carry_out(runner.plan(what.experiment, what.folder, force=True), progress=(told := Told()))
    assert told.notes[0] == "starting etcd"
    assert (outcome.status, outcome.kept) == ("failed", (run.run_id,))
    assert results.read_run(what.folder / run.run_id).status == "succeeded"
    beside = sorted(path.name for path in (what.folder / "failed" / run.run_id).iterdir())
    assert beside == ["notebook.ipynb", "run.json"]
    assert matrix.current_records(what)[0].status == "succeeded"
