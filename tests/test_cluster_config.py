from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

import pytest

from labkit import cluster
from labkit.cli import main
from labkit.cluster import change
from labkit.cluster.change import lack_of_room, state_errors
from labkit.cluster.config import LabConfig, LabFolder, LabRecord, lab_names, state_home, write_whole
from labkit.errors import ClusterError, InputError


@pytest.fixture
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LABKIT_STATE", str(tmp_path))
    monkeypatch.delenv("LABKIT_NAME", raising=False)
    return tmp_path


@pytest.mark.parametrize("name", ["", "Lab", "1lab", "lab-", "a/b", "../etc", "a" * 41, "läb"])
def test_name_that_is_no_folder_or_label_is_refused(name: str) -> None:
    with pytest.raises(InputError, match="lab name"):
        LabConfig(name=name)


@pytest.mark.parametrize("name", ["..", "../other", "/etc", "a/../../b"])
def test_name_never_leads_out_of_the_state_folder(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    for verb in ("down", "status", "env", "logs", "up"):
        assert main([verb, "--name", name]) == 2
    assert "lab name" in capsys.readouterr().err


def test_folder_that_is_no_lab_keeps_its_files(state: Path) -> None:
    (state / "documents").mkdir()
    (state / "documents" / "thesis.txt").write_text("years of work")
    assert cluster.down("documents") is False
    assert (state / "documents" / "thesis.txt").read_text() == "years of work"


@pytest.mark.parametrize("address", ["0.0.0.0", "10.0.0.1", "localhost", "::1", "127.0.0", ""])
def test_address_that_is_not_loopback_is_refused(address: str) -> None:
    with pytest.raises(InputError, match="loopback address"):
        LabConfig(address=address)


@pytest.mark.parametrize("tempo", [0, 16, -1])
def test_tempo_out_of_range_is_refused(tempo: int) -> None:
    with pytest.raises(InputError, match="from 1 to 15"):
        LabConfig(tempo=tempo)


def test_unknown_backend_is_refused() -> None:
    with pytest.raises(InputError, match="local, kind"):
        LabConfig(backend="docker")


def test_record_survives_its_file(state: Path) -> None:
    folder = LabFolder("a")
    folder.path.mkdir()
    record = LabRecord(LabConfig(name="a", address="127.0.0.9", tempo=5), 12.5, "/tools")
    folder.write_record(record)
    assert folder.read_record() == record
    assert lab_names() == ["a"]


def test_missing_lab_says_how_to_get_one(state: Path) -> None:
    with pytest.raises(ClusterError, match="labkit up --name gone"):
        LabFolder("gone").read_record()
    with pytest.raises(ClusterError, match="labkit up --name gone"):
        cluster.find("gone")
    assert cluster.running("gone") is None
    assert cluster.status("gone") == []
    assert cluster.down("gone") is False


def test_damaged_record_says_how_to_get_rid_of_it(state: Path) -> None:
    folder = LabFolder("broken")
    folder.path.mkdir()
    folder.record_file.write_text("{")
    with pytest.raises(ClusterError, match="labkit down --name broken"):
        folder.read_record()


def test_unsaid_wishes_come_from_the_lab_that_is_there(state: Path) -> None:
    folder = LabFolder("known")
    folder.path.mkdir()
    folder.write_record(LabRecord(LabConfig(name="known", address="127.0.0.9", tempo=5), 0.0, "/tools"))
    assert cluster.wanted_config("known") == LabConfig(name="known", address="127.0.0.9", tempo=5)
    assert cluster.wanted_config("known", tempo=7).tempo == 7
    assert cluster.wanted_config("other") == LabConfig(name="other")


def test_lab_of_another_backend_is_left_alone(state: Path) -> None:
    folder = LabFolder("known")
    folder.path.mkdir()
    folder.write_record(LabRecord(LabConfig(name="known"), 0.0, "/tools"))
    assert cluster.down("known", backend="kind") is False
    assert folder.exists


def test_environment_selects_the_lab(state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LABKIT_NAME", "chosen")
    assert cluster.default_name() == "chosen"
    assert cluster.wanted_config().name == "chosen"


def test_state_folder_follows_the_user_s_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LABKIT_STATE", raising=False)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    assert state_home() == tmp_path / "labkit"


def test_files_with_keys_are_for_their_owner_only(tmp_path: Path) -> None:
    file = tmp_path / "key"
    write_whole(file, "secret")
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert [path.name for path in tmp_path.iterdir()] == ["key"]


def test_state_that_cannot_be_written_is_one_clear_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("LABKIT_STATE", str(tmp_path / "file"))
    assert main(["up", "--name", "a"]) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "LABKIT_STATE" in error
    assert str(tmp_path / "file") in error


def test_unknown_backend_is_bad_input_everywhere(state: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for verb in ("up", "down", "status", "doctor"):
        assert main([verb, "--backend", "docker"]) == 2
        assert "wanted a backend out of local, kind, found 'docker'" in capsys.readouterr().err


def test_lab_of_another_backend_is_not_told_to_be_missing(state: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = LabFolder("known")
    folder.path.mkdir()
    folder.write_record(LabRecord(LabConfig(name="known"), 0.0, "/tools"))
    assert main(["down", "--name", "known", "--backend", "kind"]) == 0
    assert capsys.readouterr().out == "lab known is not on backend kind: it stays as it is\n"


def test_own_tools_are_found_again_from_another_folder(state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(state)
    assert cluster.wanted_config("a", tools="mine").tools == str(state / "mine")


def test_logs_of_no_lab_are_bad_input(state: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["logs", "--name", "none"]) == 2
    assert "wanted the logs of lab 'none', found none in" in capsys.readouterr().err


def test_error_of_the_machine_is_one_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def full(*_: object, **__: object) -> bool:
        raise OSError(errno.ENOSPC, "No space left on device", "/some/file")

    monkeypatch.setattr(cluster, "down", full)
    assert main(["down"]) == 1
    assert capsys.readouterr().err == "labkit: [Errno 28] No space left on device: '/some/file'\n"


def test_half_a_file_is_not_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    write_whole(tmp_path / "state", "old")
    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(OSError, match="No space left"):
        write_whole(tmp_path / "state", "new")
    assert [path.name for path in tmp_path.iterdir()] == ["state"]
    assert (tmp_path / "state").read_text() == "old"


def test_incomplete_state_is_named(state: Path) -> None:
    folder = LabFolder("a")
    with (
        pytest.raises(ClusterError, match=r"found no .*ca\.crt: begin anew with 'labkit down --name a'"),
        state_errors(folder),
    ):
        (folder.pki / "ca.crt").read_text()


def test_full_disk_is_told(state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = LabFolder("a")
    folder.path.mkdir()
    assert lack_of_room(folder) == ""
    monkeypatch.setattr(change, "FULL_MIB", 2.0**40)
    assert lack_of_room(folder).startswith("; the disk is full (")
    assert str(folder.path) in lack_of_room(folder)


@pytest.mark.parametrize(("tail", "lines"), [("20", "20"), ("-1", "+1")], ids=["last", "all"])
def test_log_of_a_process_is_shown_from_where_it_was_asked(
    state: Path, monkeypatch: pytest.MonkeyPatch, tail: str, lines: str
) -> None:
    class Became(Exception):  # noqa: N818
        pass

    def become(program: str, words: list[str]) -> None:
        raise Became(words)

    folder = LabFolder("a")
    folder.logs.mkdir(parents=True)
    (folder.logs / "etcd.log").touch()
    monkeypatch.setattr(os, "execvp", become)
    with pytest.raises(Became) as found:
        main(["logs", "etcd", "--name", "a", "--tail", tail])
    assert found.value.args[0] == ["tail", f"--lines={lines}", str(folder.logs / "etcd.log")]
