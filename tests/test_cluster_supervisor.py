from __future__ import annotations

import fcntl
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from labkit import cluster
from labkit.clock import wait_until
from labkit.cluster.component import (
    Component,
    Gate,
    Lock,
    ProcessState,
    SupervisorState,
    read_components,
    read_state,
    write_components,
    write_state,
)
from labkit.cluster.config import LabConfig, LabFolder, LabRecord
from labkit.cluster.supervisor import CANNOT_START, is_open, rotate

ENVIRONMENT = {"PATH": os.environ["PATH"]}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> LabFolder:
    monkeypatch.setenv("LABKIT_STATE", str(tmp_path))
    folder = LabFolder("tiny")
    folder.logs.mkdir(parents=True)
    return folder


class _Running:
    """A supervisor in a process of its own."""

    def __init__(self, folder: LabFolder, components: list[Component]) -> None:
        self.folder = folder
        write_components(folder.components_file, components)
        self.process = subprocess.Popen(
            [sys.executable, "-m", "labkit.cluster.supervisor", folder.name],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    def state(self, name: str) -> ProcessState | None:
        state = read_state(self.folder.status_file)
        return state.components.get(name) if state else None

    def wait_running(self, name: str, *, other_than: int | None = None) -> int:
        def pid() -> int | None:
            state = self.state(name)
            there = state is not None and state.state == "running" and state.pid != other_than
            return state.pid if there and state else None

        return wait_until(pid, timeout_seconds=10, what=f"{name} to run")

    def end(self, number: signal.Signals = signal.SIGTERM) -> None:
        self.process.send_signal(number)
        self.process.wait(timeout=10)


@pytest.fixture
def start(folder: LabFolder) -> Iterator[object]:
    running: list[_Running] = []

    def run(*components: Component) -> _Running:
        running.append(_Running(folder, list(components)))
        return running[-1]

    yield run
    for supervisor in running:
        if supervisor.process.poll() is None:
            supervisor.end(signal.SIGKILL)


def _sleeper(name: str = "sleeper", **options: object) -> Component:
    return Component(name, ("sleep", "1000"), ENVIRONMENT, **options)  # type: ignore[arg-type]


def _is_alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


def test_killed_component_comes_back(start) -> None:
    supervisor = start(_sleeper())
    first = supervisor.wait_running("sleeper")
    os.kill(first, signal.SIGKILL)
    supervisor.wait_running("sleeper", other_than=first)
    state = supervisor.state("sleeper")
    assert (state.restarts, state.exit_code) == (1, -signal.SIGKILL)


def test_component_that_keeps_dying_is_started_with_growing_pauses(start) -> None:
    supervisor = start(Component("broken", ("false",), ENVIRONMENT))
    wait_until(
        lambda: (state := supervisor.state("broken")) is not None and state.restarts >= 3,
        timeout_seconds=10,
        what="three restarts",
    )
    # Pauses of 0.1, 0.2, 0.4, 0.8 s: within the next half second there is at most one more.
    restarts = supervisor.state("broken").restarts
    assert restarts <= 5
    assert supervisor.state("broken").exit_code == 1


def test_everything_dies_with_the_supervisor_however_it_dies(start) -> None:
    supervisor = start(_sleeper("one"), _sleeper("two"))
    pids = [supervisor.wait_running("one"), supervisor.wait_running("two")]
    supervisor.end(signal.SIGKILL)
    wait_until(lambda: not any(map(_is_alive, pids)), timeout_seconds=5, what="the components to die")


def test_what_a_component_leaves_behind_is_ended(start, tmp_path: Path) -> None:
    script = "sleep 1000 & echo $! > left; exec sleep 1000"
    supervisor = start(Component("parent", ("sh", "-c", f"cd {tmp_path}; {script}"), ENVIRONMENT))
    parent = supervisor.wait_running("parent")
    left = int(
        wait_until(
            lambda: (tmp_path / "left").exists() and (tmp_path / "left").read_text(), timeout_seconds=5, what="a child"
        )
    )
    os.kill(parent, signal.SIGKILL)
    wait_until(lambda: not _is_alive(left), timeout_seconds=5, what="the orphan to die")


def test_orderly_end_stops_components_in_reverse_and_gives_them_time(start, tmp_path: Path) -> None:
    def recorder(name: str) -> Component:
        script = f"trap 'echo {name} >> {tmp_path}/order; exit 0' TERM; while :; do sleep 0.02; done"
        return Component(name, ("sh", "-c", script), ENVIRONMENT, stop_seconds=5)

    supervisor = start(recorder("first"), recorder("second"))
    supervisor.wait_running("first")
    supervisor.wait_running("second")
    # A shell that has not reached its trap yet would just die.
    wait_until(lambda: _catches(supervisor.state("second").pid, signal.SIGTERM), timeout_seconds=5, what="the trap")
    wait_until(lambda: _catches(supervisor.state("first").pid, signal.SIGTERM), timeout_seconds=5, what="the trap")
    supervisor.end()
    assert (tmp_path / "order").read_text().split() == ["second", "first"]
    assert supervisor.state("first").state == "stopped"


def _catches(pid: int, number: signal.Signals) -> bool:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    caught = next(line for line in lines if line.startswith("SigCgt")).split()[1]
    return bool(int(caught, 16) >> (number - 1) & 1)


def test_component_waits_for_the_gate_of_another(start) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    supervisor = start(
        _sleeper("server", gate=Gate("127.0.0.1", port)),
        _sleeper("client", after=("server",)),
    )
    supervisor.wait_running("server")
    assert supervisor.state("client").state == "waiting"
    with socket.create_server(("127.0.0.1", port)):
        supervisor.wait_running("client")


def test_second_supervisor_of_a_lab_refuses(start, folder: LabFolder) -> None:
    supervisor = start(_sleeper())
    supervisor.wait_running("sleeper")
    second = subprocess.run(
        [sys.executable, "-m", "labkit.cluster.supervisor", folder.name], capture_output=True, text=True, check=False
    )
    assert second.returncode == 1
    assert "another supervisor" in second.stdout


def test_program_that_is_not_there_is_tried_again_with_growing_pauses(start, folder: LabFolder) -> None:
    supervisor = start(Component("absent", ("/no/such/program",), ENVIRONMENT))
    wait_until(
        lambda: (state := supervisor.state("absent")) is not None and state.restarts >= 3,
        timeout_seconds=10,
        what="three more tries",
    )
    state = supervisor.state("absent")
    assert (state.state, state.pid, state.exit_code) == ("backing-off", None, CANNOT_START)
    # Pauses of 0.1, 0.2, 0.4 s and longer: not ten tries in each second.
    assert state.restarts <= 5
    assert "cannot start /no/such/program" in (folder.logs / "absent.log").read_text()


def test_output_goes_to_the_log(start, folder: LabFolder) -> None:
    start(Component("talker", ("sh", "-c", "echo hello; exec sleep 1000"), ENVIRONMENT))
    log = folder.logs / "talker.log"
    wait_until(lambda: log.exists() and log.read_text() == "hello\n", timeout_seconds=5, what="the output")


def test_log_that_grew_too_large_is_moved_aside(tmp_path: Path) -> None:
    log = tmp_path / "a.log"
    log.write_bytes(b"x" * 11)
    with log.open("ab", buffering=0) as writer:
        assert rotate(log, max_bytes=10)
        writer.write(b"new")
    assert log.read_bytes() == b"new"
    assert (tmp_path / "a.log.1").read_bytes() == b"x" * 11
    assert not rotate(log, max_bytes=10)


def test_gate_of_a_closed_port_is_closed() -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
        assert is_open(Gate("127.0.0.1", port))
    assert not is_open(Gate("127.0.0.1", port))
    assert not is_open(Gate("127.0.0.1", port, path="/readyz"))


def test_components_and_state_survive_their_files(tmp_path: Path) -> None:
    components = [
        Component("a", ("run", "--fast"), {"A": "1"}, gate=Gate("127.0.0.1", 1, "/x", "ca.crt"), stop_seconds=2.0),
        Component("b", ("run",), after=("a",)),
    ]
    write_components(tmp_path / "components.json", components)
    assert read_components(tmp_path / "components.json") == components
    state = SupervisorState(7, {"a": ProcessState("running", 8, 1, -9, 1.5)})
    write_state(tmp_path / "state.json", state)
    assert read_state(tmp_path / "state.json") == state


@pytest.mark.parametrize("text", ["", "{", json.dumps({"pid": 1}), json.dumps({"pid": 1, "components": {"a": {}}})])
def test_damaged_state_counts_as_none(tmp_path: Path, text: str) -> None:
    (tmp_path / "state.json").write_text(text)
    assert read_state(tmp_path / "state.json") is None


def test_lock_is_free_again_when_its_holder_dies(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    assert not Lock(path).held_by_somebody
    lock = Lock(path)
    assert lock.acquire()
    assert Lock(path).held_by_somebody
    assert not Lock(path).acquire()
    lock.release()
    assert not Lock(path).held_by_somebody


def test_looking_at_a_lock_takes_it_from_nobody(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    path.touch()
    with path.open() as looking:
        fcntl.flock(looking, fcntl.LOCK_SH)  # as somebody does who only looks
        assert not Lock(path).held_by_somebody
        timer = threading.Timer(0.05, looking.close)
        timer.start()
        lock = Lock(path)
        assert lock.acquire()
        timer.join()
    lock.release()


def test_users_of_a_lock_are_known_without_any_state(start, folder: LabFolder) -> None:
    supervisor = start(_sleeper())
    supervisor.wait_running("sleeper")
    assert Lock(folder.supervisor_lock).users() == [supervisor.process.pid]


def test_lab_whose_supervisor_cannot_write_its_state_runs_and_can_be_taken_down(start, folder: LabFolder) -> None:
    supervisor = start(_sleeper())
    sleeper = supervisor.wait_running("sleeper")
    folder.write_record(LabRecord(LabConfig(name=folder.name, address="127.0.0.98"), 0.0, str(folder.bin)))
    folder.status_file.unlink()
    running = cluster.running(folder.name)
    assert running is not None
    assert [entry.component for entry in cluster.status(folder.name)] == ["supervisor"]
    assert not cluster.status(folder.name)[0].is_well
    assert cluster.down(folder.name)
    assert not _is_alive(sleeper)
    assert cluster.running(folder.name) is None
