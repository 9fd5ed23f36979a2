from __future__ import annotations

import json
import socket
from pathlib import Path

import pytest

from labkit import cluster
from labkit.cli import main
from labkit.cluster import machine, toolbuild, tools
from labkit.errors import ToolError
from labkit.names import PROMETHEUS_PORT

ADDRESS = "127.0.0.97"


@pytest.fixture(autouse=True)
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LABKIT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("LABKIT_STATE", str(tmp_path / "state"))
    monkeypatch.delenv("LABKIT_TOOLS", raising=False)


def test_answer_has_a_line_for_every_subject(capsys: pytest.CaptureFixture[str]) -> None:
    code = main(["doctor", "--json", "--address", ADDRESS])
    answer = json.loads(capsys.readouterr().out)
    subjects = [check["subject"] for check in answer["checks"]]
    assert subjects == [
        "system", "python", "private mount", "ports", "processors", "memory", "disk for labs", "tools",
        "prometheus pages",
    ]  # fmt: skip
    assert answer["can_run"] is (code == 0)


def test_missing_tools_are_named_with_what_would_be_done(capsys: pytest.CaptureFixture[str]) -> None:
    main(["doctor", "--address", ADDRESS])
    text = capsys.readouterr().out
    assert "missing: etcd, kube-apiserver" in text
    assert "-> labkit tools" in text


def test_taken_port_is_a_problem_with_another_address_as_advice() -> None:
    with socket.create_server((ADDRESS, PROMETHEUS_PORT)):
        check = machine.check_ports(ADDRESS, lab_is_up=False)
        assert check.level == "problem"
        assert f"{PROMETHEUS_PORT} (for prometheus)" in check.found
        assert "--address 127.0.0.98" in check.advice
        assert machine.check_ports(ADDRESS, lab_is_up=True).level == "ok"


def test_lack_of_disk_is_a_problem_that_names_the_variable(tmp_path: Path) -> None:
    check = machine.check_disk(tmp_path / "not" / "there", 10.0**9, "disk for labs", "LABKIT_STATE")
    assert check.level == "problem"
    assert "LABKIT_STATE" in check.advice


def test_lack_of_room_for_the_build_is_a_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(toolbuild, "BUILD_GIB", 10**9)
    check = machine.check_tools(None)
    assert check.level == "problem"
    assert "LABKIT_CACHE" in check.advice


def test_lack_of_memory_is_a_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "MEMORY_GIB", 10.0**6)
    assert machine.check_memory().level == "problem"
    assert machine.check_memory(lab_is_up=True).level == "ok"


def test_refused_mount_is_a_problem_with_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused() -> None:
        raise ToolError("wanted a private mount, found: Operation not permitted")

    monkeypatch.setattr(machine, "find_bubblewrap", refused)
    check = machine.check_private_mount()
    assert check.level == "problem"
    assert "Operation not permitted" in check.found
    assert check.advice


def test_up_on_a_machine_that_refuses_mounts_is_one_line_with_the_command_that_helps(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refused() -> None:
        raise ToolError("wanted a private mount, found: Operation not permitted\nand more")

    monkeypatch.setattr(machine, "find_bubblewrap", refused)
    monkeypatch.setattr(machine, "_mount_advice", lambda: "sudo sysctl -w user.max_user_namespaces=15000")
    monkeypatch.setattr(tools, "require", lambda chosen: {})
    assert main(["up", "--address", ADDRESS]) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "Operation not permitted and more; what helps: sudo sysctl -w user.max_user_namespaces=15000" in error
    assert not cluster.lab_names()


def test_wrong_folder_of_tools_is_a_problem(tmp_path: Path) -> None:
    check = machine.check_tools(str(tmp_path / "nowhere"))
    assert (check.level, check.advice) == ("problem", "leave --tools out")


def test_wrong_address_is_bad_input(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--address", "10.0.0.1"]) == 2
    assert "loopback" in capsys.readouterr().err
